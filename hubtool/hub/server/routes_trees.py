"""What a revision holds: folders, paths, and the commits that led to it.

A commit is a flat, sorted list of files here; folders are made from the paths, and a folder's name
is a hash over everything below it, so that it changes exactly when something in it does. That is
also how the commit is found that changed a path last.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import Response

from hubtool.hub.server import errors
from hubtool.hub.server.meta import Commit, Entry
from hubtool.hub.server.routes import Call, answer
from hubtool.hub.server.routes_models import lfs_of

__all__ = ["commits", "paths_info", "tree"]

PAGE, EXPANDED_PAGE, LOG_PAGE = 1000, 50, 100

Item = dict[str, Any]


def tree(call: Call) -> Response:
    """GET /api/models/{id}/tree/{rev} and /api/models/{id}/tree/{rev}/{path}"""
    folder = call.part.get("path", "")
    items = _items(call.hub.meta.files(call.commit.oid))
    if folder and items.get(folder, {}).get("type") != "directory":
        raise errors.entry_not_found(call.repo.name, call.part["rev"], folder)
    below = f"{folder}/" if folder else ""
    after = call.request.query_params.get("cursor", "")
    found = [
        items[path]
        for path in sorted(items)
        if path > after
        and path.startswith(below)
        and (call.flag("recursive") or "/" not in path[len(below) :])
    ]
    most = EXPANDED_PAGE if call.flag("expand") else PAGE
    size = call.number("limit", most, most)
    page = found[:size]
    if call.flag("expand"):
        page = _expanded(call, page)
    return answer(page, headers=call.next_page(page[-1]["path"] if len(found) > size else None))


def paths_info(call: Call) -> Response:
    """POST /api/models/{id}/paths-info/{rev}"""
    if "json" in call.request.headers.get("content-type", ""):
        data = call.json()
        paths, expand = data.get("paths"), data.get("expand") is True
    else:
        form = parse_qs(call.body.decode("utf-8", "replace"))
        paths, expand = form.get("paths", []), form.get("expand", [""])[-1].lower() in ("1", "true")
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise errors.bad_request("paths must be a list of texts.")
    items = _items(call.hub.meta.files(call.commit.oid))
    found = [
        items[path] for path in dict.fromkeys(path.strip("/") for path in paths) if path in items
    ]
    return answer(_expanded(call, found) if expand else found)


def commits(call: Call) -> Response:
    """GET /api/models/{id}/commits/{rev}"""
    size = call.number("limit", LOG_PAGE, PAGE)
    before = call.request.query_params.get("cursor")
    found = call.hub.meta.log(call.repo, call.commit.oid, limit=size + 1, before=before)
    page = [_told(commit) for commit in found[:size]]
    if "formatted" in call.request.query_params.getlist("expand[]"):
        for told in page:
            told["formatted"] = {key: html.escape(told[key]) for key in ("title", "message")}
    return answer(page, headers=call.next_page(page[-1]["id"] if len(found) > size else None))


def _items(files: Iterable[Entry]) -> dict[str, Item]:
    """Every file and folder of a commit by its path, in the Hub's words."""
    items: dict[str, Item] = {}
    folders: dict[str, Any] = {}
    for entry in files:
        item: Item = {"type": "file", "oid": entry.oid, "size": entry.size, "path": entry.path}
        items[entry.path] = {**item, "lfs": lfs_of(entry)} if entry.lfs else item
        for folder in PurePosixPath(entry.path).parents[:-1]:
            digest = folders.setdefault(str(folder), hashlib.sha1(usedforsecurity=False))
            digest.update(f"{entry.path}\0{entry.oid}\n".encode())
    for path, digest in folders.items():
        items[path] = {"type": "directory", "oid": digest.hexdigest(), "size": 0, "path": path}
    return items


def _expanded(call: Call, items: list[Item]) -> list[Item]:
    """The items with the commit that changed each of them last."""
    waiting = {item["path"]: item["oid"] for item in items}
    last: dict[str, Item] = {}
    newer = call.commit
    for commit in _history(call):
        then = _items(call.hub.meta.files(commit.oid))
        for path in [path for path, oid in waiting.items() if then.get(path, {}).get("oid") != oid]:
            del waiting[path]
            last[path] = _short(newer)
        newer = commit
        if not waiting:
            break
    return [{**item, "lastCommit": last.get(item["path"], _short(newer))} for item in items]


def _history(call: Call) -> Iterator[Commit]:
    """The call's commit and everything before it."""
    page = call.hub.meta.log(call.repo, call.commit.oid, limit=LOG_PAGE)
    while page:
        yield from page
        page = call.hub.meta.log(call.repo, call.commit.oid, limit=LOG_PAGE, before=page[-1].oid)


def _short(commit: Commit) -> Item:
    return {"id": commit.oid, "title": commit.title, "date": commit.date}


def _told(commit: Commit) -> Item:
    authors = [{"user": commit.author}] if commit.author else []
    return {**_short(commit), "message": commit.message, "authors": authors}
