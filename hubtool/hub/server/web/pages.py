"""The pages: a start, models by what they are, and of each its card, files, revisions and layers.

A handler looks up what the API would, in the same way and with the same refusals, and fills a
template. Of everything only so much is shown as a person reads; the rest is a page further, or in
the API. Nothing that a stranger wrote is served as anything but text, apart from the cleaned card.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.responses import Response

from hubtool.hub.server import errors, index
from hubtool.hub.server.meta import Entry, Repo
from hubtool.hub.server.routes import Call
from hubtool.hub.server.routes_models import TAGS
from hubtool.hub.server.web import card, render
from hubtool.hub.server.web.card import Place

__all__ = ["blob", "commit", "commits", "model", "models", "start", "style", "tree"]

NEWEST = 10
PAGE = 30
FILES = 1000
LOG = 50
CHANGES = 500
MOST = 20
README = "README.md"
MAX_README = 2 << 20
MAX_TEXT = 256 << 10
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")

FIELDS = {
    "search": "Search",
    "other": "Tags",
    "author": "Author",
    "pipeline_tag": "Task",
    "library": "Library",
}
"""The parameters of the list that its form has a field for; others that are set are kept."""
SORTS = {
    "": "Newest first",
    "lastModified": "Changed last",
    "downloads": "Most downloads",
    "likes": "Most likes",
}
HUGGING_FACES = {"created": "createdAt", "modified": "lastModified", "trending": "trendingScore"}
"""What huggingface.co calls some orders in the addresses of its pages."""


@dataclass(frozen=True)
class Item:
    """A file or folder of a listing; `files` are those below a folder, 0 for a file."""

    name: str
    url: str
    size: int
    files: int = 0


def start(call: Call) -> Response:
    """GET /"""
    newest, _ = _search(call, limit=NEWEST)
    return render.page("start.html", base=call.base, models=newest)


def style(call: Call) -> Response:
    """GET /-/style.css"""
    return render.style()


def models(call: Call) -> Response:
    """GET /models"""
    query = call.request.query_params
    known = {*TAGS, *FIELDS, "sort", "cursor"}
    unknown = sorted(set(query) - known)
    if unknown:
        raise errors.bad_request(
            f"This hub cannot list by {', '.join(unknown)}: it knows {', '.join(sorted(known))}."
        )
    given = [(key, value.strip()) for key, value in query.multi_items() if value.strip()]
    asked = dict(given)
    sort = HUGGING_FACES.get(asked.get("sort", ""), asked.get("sort", ""))
    found, cursor = _search(
        call,
        filter=list(_tags(given)),
        author=asked.get("author"),
        query=asked.get("search"),
        sort=sort or None,
        limit=PAGE,
        cursor=asked.get("cursor"),
    )
    kept = [(key, value) for key, value in given if key != "cursor"]
    asked["other"] = ", ".join(value for key, value in given if key == "other")
    return render.page(
        "models.html",
        fields=[(key, label, asked.get(key, "")) for key, label in FIELDS.items()],
        hidden=[pair for pair in kept if pair[0] not in (*FIELDS, "sort")],
        models=found,
        sorts=SORTS if sort in SORTS else {**SORTS, sort: sort},
        sort=sort,
        first=f"/models?{urlencode(kept)}" if "cursor" in asked else None,
        following=f"/models?{urlencode([*kept, ('cursor', cursor)])}" if cursor else None,
    )


def model(call: Call) -> Response:
    """GET /{id}"""
    from hubtool.hub.server.web.layers import GRAPH, ROWS, layer_table  # numpy comes with it

    files = call.hub.meta.files(call.commit.oid)
    graph = next((entry for entry in files if entry.path == GRAPH), None)
    table = None
    if graph is not None and call.reads_contents:
        with _undamaged(graph):
            table = layer_table(call.hub.store.path(graph.sha256))
    return render.page(
        "model.html",
        **_about(call),
        **_described(call, files),
        base=call.base,
        native=graph is not None,
        table=table,
        more_layers=max(0, table.layers - ROWS) if table else 0,
        at="card",
    )


def tree(call: Call) -> Response:
    """GET /{id}/tree/{rev} and /{id}/tree/{rev}/{path}: where a push leads to"""
    folder = call.part.get("path", "").strip("/")
    files = call.hub.meta.files(call.commit.oid)
    below = f"{folder}/" if folder else ""
    inside = [entry for entry in files if entry.path.startswith(below)]
    if folder and not inside:
        raise errors.entry_not_found(call.repo.name, call.part["rev"], folder)
    after = call.request.query_params.get("cursor", "")
    found = [item for item in _listing(inside, below) if item[0] > after]
    last = found[FILES - 1][0] if len(found) > FILES else None
    url = _place(call).url
    return render.page(
        "tree.html",
        **_about(call),
        **({} if folder else _described(call, files)),
        folder=folder,
        trail=_trail(call, folder),
        items=[
            Item(name, url("tree" if count else "blob", below + name), size, count)
            for name, size, count in found[:FILES]
        ],
        following=f"?{urlencode({'cursor': last})}" if last else None,
        at="files",
    )


def blob(call: Call) -> Response:
    """GET /{id}/blob/{rev}/{path}"""
    path = call.part["path"]
    entry = call.hub.meta.entry(call.commit.oid, path)
    if entry is None:
        raise errors.entry_not_found(call.repo.name, call.part["rev"], path)
    text = _text(_start(call, entry, MAX_TEXT), whole=entry.size <= MAX_TEXT)
    return render.page(
        "blob.html",
        **_about(call),
        entry=entry,
        trail=_trail(call, path),
        text=text,
        cut=text is not None and entry.size > MAX_TEXT,
        picture=path.lower().endswith(PICTURES),
        at="files",
    )


def commits(call: Call) -> Response:
    """GET /{id}/commits/{rev}"""
    before = call.request.query_params.get("cursor")
    found = call.hub.meta.log(call.repo, call.commit.oid, limit=LOG + 1, before=before)
    return render.page(
        "commits.html",
        **_about(call),
        commits=found[:LOG],
        refs=call.hub.meta.refs(call.repo),
        following=f"?{urlencode({'cursor': found[LOG - 1].oid})}" if len(found) > LOG else None,
        at="revisions",
    )


def commit(call: Call) -> Response:
    """GET /{id}/commit/{rev}: the address that the API gives for a commit that has landed"""
    now = {entry.path: entry for entry in call.hub.meta.files(call.commit.oid)}
    parent = call.commit.parent
    before = {entry.path: entry for entry in call.hub.meta.files(parent)} if parent else {}
    changes = [
        ("added" if path not in before else "changed" if path in now else "removed", path)
        for path in sorted({*now, *before})
        if now.get(path) != before.get(path)
    ]
    return render.page(
        "commit.html",
        **_about(call),
        changes=[
            (what, path, None if what == "removed" else _place(call).url("blob", path))
            for what, path in changes[:CHANGES]
        ],
        more_changes=max(0, len(changes) - CHANGES),
        at="revisions",
    )


def _search(call: Call, **wanted: Any) -> tuple[list[Repo], str | None]:
    """A page of the index, of what whoever asks may see."""
    return index.search(call.hub.meta, **wanted, who=call.who)


def _tags(given: list[tuple[str, str]]) -> Iterator[str]:
    """The tags that an address asks for. `other` may hold several, as on huggingface.co."""
    for key, text in given:
        for value in text.split(",") if key == "other" else [text] if key in TAGS else []:
            tag = value.strip()
            if tag:
                yield tag if tag.startswith(TAGS[key]) else TAGS[key] + tag


def _about(call: Call) -> dict[str, Any]:
    """What the head of every page of a model says."""
    return {
        "repo": call.repo,
        "commit": call.commit,
        "revision": _place(call).revision,
        "to": _place(call).url,
    }


def _described(call: Call, files: list[Entry]) -> dict[str, Any]:
    """A revision by its card: what the header says, and the prose as HTML."""
    place = _place(call)
    readme = next((entry for entry in files if entry.path == README), None)
    text = "" if readme is None else _start(call, readme, MAX_README).decode("utf-8", "replace")
    header = call.repo.card if call.commit.oid == call.repo.head else _header(text)
    prose = card.prose(text)
    return {
        "facts": list(_facts(header, place)),
        "tags": index.tags_of(header),
        "files": len(files),
        "size": sum(entry.size for entry in files),
        "prose": Markup(card.rendered(prose, place)),
        "cut": len(prose) > card.LONGEST,
    }


def _facts(
    header: dict[str, Any], place: Place
) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """What a card's header says of a model, by topic, each with the address of others like it."""
    named, linked = (" ".join(_texts(header, f"license_{key}")) for key in ("name", "link"))
    if named and linked:
        yield "Licence", [(named, card.link(linked, place))]
    for topic, key, prefix in (
        ("Licence", "license", "license:"),
        ("Task", "pipeline_tag", ""),
        ("Library", "library_name", ""),
        ("Language", "language", ""),
        ("Data sets", "datasets", "dataset:"),
        ("Made from", "base_model", "base_model:"),
    ):
        found = _texts(header, key)
        if found:
            yield topic, [(text, render.found_by(prefix + text)) for text in found]


def _header(text: str) -> dict[str, Any]:
    """The front matter of a card that the index does not hold; {} where it cannot be read."""
    from hubtool.hub.card_header import front_matter

    try:
        return front_matter(text)
    except ValueError:
        return {}


def _texts(header: dict[str, Any], key: str) -> list[str]:
    value = header.get(key)
    listed = value if isinstance(value, list) else [value]
    return [text.strip() for text in listed if isinstance(text, str) and text.strip()][:MOST]


def _place(call: Call) -> Place:
    return Place(call.repo.name, call.part.get("rev", "main"))


def _trail(call: Call, path: str) -> list[tuple[str, str]]:
    """Every folder on the way to a path, and it itself, each with its address."""
    steps = [PurePosixPath(path), *PurePosixPath(path).parents][:-1] if path else []
    return [(step.name, _place(call).url("tree", str(step))) for step in reversed(steps)]


def _listing(files: list[Entry], below: str) -> list[tuple[str, int, int]]:
    """What lies right in a folder, by name: (name, size, files below it or 0 for a file)."""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for entry in files:
        name, deeper, _ = entry.path[len(below) :].partition("/")
        sizes[name] += entry.size
        counts[name] += bool(deeper)
    return [(name, sizes[name], counts[name]) for name in sorted(sizes)]


def _start(call: Call, entry: Entry, most: int) -> bytes:
    """The beginning of a file's content."""
    with _undamaged(entry), call.hub.store.path(entry.sha256).open("rb") as stream:
        return stream.read(most)


@contextmanager
def _undamaged(entry: Entry) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        message = f"This hub is damaged: the content of '{entry.path}' is not here."
        raise errors.Refusal(500, message) from None


def _text(content: bytes, *, whole: bool) -> str | None:
    """A content as text, if it is text; where it is only the beginning its end may be half a
    character."""
    if b"\0" in content:
        return None
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(content, final=whole)
    except UnicodeDecodeError:
        return None
