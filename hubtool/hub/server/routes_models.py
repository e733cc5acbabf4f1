"""Models, found and described: the list by tag, author and name, and one model in full.

The list never touches files or commits unless it is asked for them (`full`): a page is one query
over the index. A parameter that this hub cannot honour is refused, since a filter that is
silently ignored finds the wrong models.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from hubtool.hub.server import errors, index
from hubtool.hub.server.meta import Commit, Entry, Repo
from hubtool.hub.server.meta_history import pointer
from hubtool.hub.server.routes import Call, Hub, answer

__all__ = ["info", "lfs_of", "list_models", "page"]

KNOWN = {
    *("filter", "author", "search", "sort", "direction", "limit", "cursor", "pipeline_tag"),
    *("full", "cardData", "config", "expand"),
}
PAGE = 1000
MAX_README = 4 << 20


def list_models(call: Call) -> Response:
    """GET /api/models"""
    query = call.request.query_params
    unknown = sorted(set(query) - KNOWN)
    if unknown or query.get("direction", "-1") != "-1":
        raise errors.bad_request(
            f"This hub cannot list by {', '.join(unknown) or 'ascending direction'}: "
            "it knows filter, author, search, sort (descending), limit."
        )
    repos, cursor = index.search(
        call.hub.meta,
        filter=[*query.getlist("filter"), *query.getlist("pipeline_tag")],
        author=query.get("author"),
        query=query.get("search"),
        sort=query.get("sort"),
        limit=call.number("limit", PAGE, PAGE),
        cursor=query.get("cursor"),
        include_private=call.hub.guard.open_writes,
    )
    return answer([_listed(call, repo) for repo in repos], headers=call.next_page(cursor))


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


def _listed(call: Call, repo: Repo) -> dict[str, Any]:
    described = _described(repo)
    expand = call.request.query_params.getlist("expand")
    if call.flag("cardData") or "cardData" in expand:
        described["cardData"] = repo.card
    if call.flag("full") or "siblings" in expand:
        files = call.hub.meta.files(repo.head)
        described["siblings"] = [_sibling(entry, blobs=False) for entry in files]
    return _expanded(described, expand)


def _described(repo: Repo) -> dict[str, Any]:
    """A model in the Hub's words, as far as the index knows it."""
    described: dict[str, Any] = {
        "_id": f"{repo.id:024x}",
        "id": repo.name,
        "modelId": repo.name,
        "author": repo.name.rpartition("/")[0] or None,
        "sha": repo.head,
        "private": repo.private,
        "gated": False,
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


def page(call: Call) -> Response:
    """GET /{id}/tree/{rev}: the address that a push prints; there are no pages yet."""
    address = f"{call.base}/api/models/{quote(call.repo.name)}/revision/{call.commit.oid}"
    return Response(status_code=302, headers={"Location": address})
