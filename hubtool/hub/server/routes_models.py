"""Models, found and described: the list by tag, author and name, and one model in full.

The list never touches files or commits unless it is asked for them (`full`): a page is one query
over the index. A parameter that this hub cannot honour is refused, since a filter that is
silently ignored finds the wrong models.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from hubtool.hub.server import errors, index
from hubtool.hub.server.meta import Commit, Entry, Repo
from hubtool.hub.server.meta_history import pointer
from hubtool.hub.server.routes import Call, Hub, answer

__all__ = ["info", "lfs_of", "list_models"]

TAGS = {
    **{"filter": "", "other": "", "pipeline_tag": "", "library": "", "language": ""},
    **{"license": "license:", "dataset": "dataset:"},
}
"""The parameters that name a tag, each with what it leaves out of the tag's beginning."""
DIRECTIONS = {"-1": False, "1": True}
KNOWN = {
    *TAGS,
    *("author", "search", "sort", "direction", "limit", "cursor"),
    *("full", "cardData", "config", "expand"),
}
PAGE = 1000
MAX_README = 4 << 20


def list_models(call: Call) -> Response:
    """GET /api/models"""
    query = call.request.query_params
    unknown = sorted(set(query) - KNOWN)
    direction = query.get("direction", "-1")
    if unknown or direction not in DIRECTIONS:
        raise errors.bad_request(
            f"This hub cannot list by {', '.join(unknown) or f'direction={direction}'}: "
            f"it knows {', '.join(sorted(KNOWN))}; direction is 1 or -1."
        )
    expand = query.getlist("expand")
    with_card = call.flag("cardData") or "cardData" in expand
    repos, cursor = index.search(
        call.hub.meta,
        filter=[
            value if value.startswith(kind) else kind + value
            for name, kind in TAGS.items()
            for value in query.getlist(name)
        ],
        author=query.get("author"),
        query=query.get("search"),
        sort=query.get("sort"),
        ascending=DIRECTIONS[direction],
        limit=call.number("limit", PAGE, PAGE),
        cursor=query.get("cursor"),
        who=call.who,
        cards=with_card,
    )
    listed = [_described(repo) for repo in repos]
    if with_card:
        for model, repo in zip(listed, repos, strict=True):
            model["cardData"] = repo.card
    if call.flag("full") or "siblings" in expand:
        paths = index.paths(call.hub.meta, [repo.head for repo in repos])
        for model, repo in zip(listed, repos, strict=True):
            model["siblings"] = [{"rfilename": path} for path in paths[repo.head]]
    return answer([_expanded(model, expand) for model in listed], headers=call.next_page(cursor))


def info(call: Call) -> Response:
    """GET /api/models/{id} and /api/models/{id}/revision/{rev}"""
    repo, commit = call.repo, call.commit
    files = call.hub.meta.files(commit.oid)
    card = repo.card if commit.oid == repo.head else _card(call.hub, commit)
    described = {
        **_described(repo),
        "sha": commit.oid,
        "tags": index.tags_of(card),
        "cardData": card,
        "siblings": [_sibling(entry, blobs=call.flag("blobs")) for entry in files],
        "usedStorage": sum(entry.size for entry in files),
    }
    return answer(_expanded(described, call.request.query_params.getlist("expand")))


def lfs_of(entry: Entry) -> dict[str, Any]:
    """What the Hub says of a large file: `oid` is the sha256."""
    length = len(pointer(entry.sha256, entry.size))
    return {"oid": entry.sha256, "size": entry.size, "pointerSize": length}


def _described(repo: Repo) -> dict[str, Any]:
    """A model in the Hub's words, as far as the index knows it."""
    described: dict[str, Any] = {
        "_id": f"{repo.id:024x}",
        "id": repo.name,
        "modelId": repo.name,
        "author": repo.name.rpartition("/")[0] or None,
        "sha": repo.head,
        "private": repo.private,
        "gated": repo.gated or False,
        "disabled": False,
        "downloads": repo.downloads,
        "downloadsAllTime": repo.downloads,
        "likes": repo.likes,
        "trendingScore": repo.downloads,
        "tags": repo.tags,
        "createdAt": repo.created,
        "lastModified": repo.modified,
    }
    if repo.pipeline_tag is not None:
        described["pipeline_tag"] = repo.pipeline_tag
    if repo.library is not None:
        described["library_name"] = repo.library
    return described


def _expanded(described: dict[str, Any], expand: list[str]) -> dict[str, Any]:
    """Only what was asked for by name, if anything was."""
    if not expand:
        return described
    wanted = {"_id", "id", "modelId", *expand}
    return {key: value for key, value in described.items() if key in wanted}


def _sibling(entry: Entry, *, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        sibling |= {"size": entry.size, "blobId": entry.oid}
        if entry.lfs:
            sibling["lfs"] = {**lfs_of(entry), "sha256": entry.sha256}
    return sibling


def _card(hub: Hub, commit: Commit) -> dict[str, Any]:
    """The front matter of another commit than main's head, which the index does not hold."""
    from hubtool.hub.card import front_matter  # takes as long to import as the whole server

    entry = hub.meta.entry(commit.oid, "README.md")
    if entry is None or entry.size > MAX_README:
        return {}
    try:
        return front_matter(hub.store.path(entry.sha256).read_text(encoding="utf-8-sig"))
    except ValueError:
        return {}
