"""A commit: its body read as a stream, and applied to a branch in one transaction.

The body is newline-delimited JSON, one operation a line, after a header. Contents go to the store
while the body is read; what names them becomes true all at once, or not at all. A client that got
no answer sends the same body again, so a commit remembers the body that made it, and the same body
on the same parent is the same commit.
"""

from __future__ import annotations

import codecs
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

from hubtool.hub.server import audit, commits_body, errors, index, meta_history
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.commits_body import LINE, Base64
from hubtool.hub.server.meta import Commit, Entry, Meta, Repo, check_repo, put_card
from hubtool.hub.server.store import Blob, Store

__all__ = ["Add", "CommitRequest", "Delete", "Pointer", "apply", "parse"]

MOST_LINES = 10_000
README_BYTES = 2 << 20
SHOWN = 200
PARENT = re.compile(r"[0-9a-f]{7,40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
FIELDS = {
    "header": ({"summary"}, {"description", "parentCommit"}),
    "file": ({"path", "content", "encoding"}, set()),
    "lfsFile": ({"path", "algo", "oid"}, {"size"}),
    "deletedFile": ({"path"}, set()),
    "deletedFolder": ({"path"}, set()),
}
"""The lines there are: the fields that each must have, and those that it may have."""


@dataclass(frozen=True)
class Add:
    """A file whose content came with the commit."""

    line: int
    path: str
    blob: Blob


@dataclass(frozen=True)
class Pointer:
    """A file whose content was sent before; without a size, the one that the store knows."""

    line: int
    path: str
    sha256: str
    size: int | None


@dataclass(frozen=True)
class Delete:
    """A file or a folder that is to go."""

    line: int
    path: str
    folder: bool


Operation = Add | Pointer | Delete


@dataclass(frozen=True)
class CommitRequest:
    """What a commit's body asks for; `parent` may be the beginning of an oid."""

    title: str
    message: str
    parent: str | None
    operations: list[Operation]


def parse(body: BinaryIO, store: Store) -> CommitRequest:
    """Reads a commit's body; the contents in it are in the store afterwards.

    Raises Refusal 400 that names the line and the path, 507 where the disk is full.
    """
    header: dict[str, Any] = {}
    operations: list[Operation] = []
    lines: dict[str, int] = {}
    number = 0
    while start := body.readline(LINE):
        number += 1
        with _naming(number) as place:
            if number > MOST_LINES:
                raise ValueError(f"more than {MOST_LINES} lines in one commit")
            if number == 1:
                header = _header(start)
                continue
            operation = _operation(number, start, body, store, place)
            name = operation.path
            if isinstance(operation, Delete) and operation.folder:
                name += "/"  # a file may take a folder's place
            if name in lines:
                raise ValueError(f"line {lines[name]} has the same path")
            lines[name] = number
            operations.append(operation)
    if not header:
        raise errors.bad_request("line 1: the header is missing")
    _check_clash([one.path for one in operations if not isinstance(one, Delete)], lines)
    return CommitRequest(
        title=header["summary"],
        message=header.get("description", ""),
        parent=header.get("parentCommit"),
        operations=operations,
    )


def apply(
    meta: Meta,
    store: Store,
    repo: Repo,
    branch: str,
    request: CommitRequest,
    *,
    digest: str,
    by: Actor,
    held: Callable[[Iterable[str]], set[str]] = set,
) -> Commit:
    """Makes the commit that the request asks for, on that branch; `digest` names its body, and
    `held` says which contents whoever asks may name by their sha256: all, unless told otherwise.

    The head itself where nothing changes, and the former commit where the body came before.
    Raises Refusal 404 for an unknown branch or a file to delete that is not there, 412 where the
    branch has left the request's parent, 400 for what cannot be.
    """
    known = held(one.sha256 for one in request.operations if isinstance(one, Pointer))
    added = [_entry(one, store, known) for one in request.operations if not isinstance(one, Delete)]
    card = _card(store, request, added) if branch == "main" else None
    tags = index.tags_of(card or {})
    with meta.writing() as db:
        check_repo(db, repo)
        head = meta_history.ref(db, repo.id, "branch", branch)
        if head is None:
            raise errors.revision_not_found(repo.name, branch)
        former = _former(db, repo, branch, head, request, digest)
        if former is not None:
            return former
        if request.parent is not None and not head.startswith(request.parent):
            raise errors.precondition(
                f"'{branch}' of '{repo.name}' is at {head}, no longer at {request.parent}:"
                " look at what came in between, and commit again."
            )
        _check_kept(store, request, added)
        before = meta_history.tree_of(db, head)
        after = meta_history.put_tree(db, _changed(db, repo, branch, before, request, added))
        if after == before:
            return _known(db, repo, head)
        commit = meta_history.put_commit(
            db,
            (repo.id, repo.name),
            parent=head,
            tree=after,
            title=request.title,
            message=request.message,
            author=by.user,
            branch=branch,
            digest=digest,
        )
        if branch == "main":
            db.execute("UPDATE repos SET modified = ? WHERE id = ?", (commit.date, repo.id))
        if card is not None:
            put_card(db, repo.id, card, tags)
        audit.note(db, by, "commit", repo.name, branch=branch, commit=commit.oid)
        return commit


class _Place:
    """Where in the body the reader is, for the message of a refusal."""

    def __init__(self) -> None:
        self.path = ""


@contextmanager
def _naming(number: int) -> Iterator[_Place]:
    """Turns a ValueError into a refusal that names the line, and the path once it is known."""
    place = _Place()
    try:
        yield place
    except ValueError as error:
        path = f", '{place.path[:SHOWN]}'" if place.path else ""
        raise errors.bad_request(f"line {number}{path}: {error}") from None


def _complete(start: bytes) -> bool:
    return start.endswith(b"\n") or len(start) < LINE


def _header(start: bytes) -> dict[str, Any]:
    if not _complete(start):
        raise ValueError(f"a header of more than {LINE} bytes")
    key, value = _record(commits_body.whole(start))
    if key != "header":
        raise ValueError(f"the header is missing; here is a {key}")
    for name in value:
        _text(value, name)
    parent = value.get("parentCommit")
    if parent is not None and not PARENT.fullmatch(parent):
        raise ValueError(f"parentCommit '{parent}' is no commit: 7 to 40 hexadecimal digits")
    if not value["summary"].strip():
        raise ValueError("the summary is empty")
    return value


def _operation(number: int, start: bytes, body: BinaryIO, store: Store, place: _Place) -> Operation:
    """The operation of a line that begins with `start`; its content is stored."""
    if _complete(start):
        key, value = _record(commits_body.whole(start), place)
        if key != "file":
            return _small(number, key, value)
        content = _text(value, "content").encode()
        with store.writer() as writer:
            base64 = Base64(writer)
            base64.feed(content)
            base64.end()
            return Add(number, value["path"], writer.finish())
    with store.writer() as writer:
        _, value = _record(commits_body.streamed(start, body, writer), place)
        return Add(number, value["path"], writer.finish())


def _record(line: dict[str, Any], place: _Place | None = None) -> tuple[str, dict[str, Any]]:
    """The key and the value of a line, with the fields that they must have and no others."""
    if set(line) != {"key", "value"}:
        raise ValueError('a line is {"key": ..., "value": {...}}')
    key, value = line["key"], line["value"]
    if not isinstance(key, str) or key not in FIELDS:
        raise ValueError(f"the key must be one of {', '.join(FIELDS)}")
    if not isinstance(value, dict):
        raise ValueError(f"the value of a {key} must be an object")
    required, optional = FIELDS[key]
    missing, unknown = required - set(value), set(value) - required - optional
    if missing or unknown:
        wrong = [f"no {name}" for name in sorted(missing)]
        wrong += [f"an unknown field {name!r}" for name in sorted(unknown)]
        raise ValueError(f"a {key} with {', '.join(wrong)}")
    if place is not None and key != "header":
        place.path = _text(value, "path")
        if key == "deletedFolder":
            value["path"] = value["path"].removesuffix("/")
        commits_body.check_path(value["path"])
    if value.get("encoding", "base64") != "base64":
        raise ValueError("the encoding must be base64")
    return key, value


def _small(number: int, key: str, value: dict[str, Any]) -> Operation:
    """The operation of a line without a content."""
    if key == "header":
        raise ValueError("a second header")
    if key != "lfsFile":
        return Delete(number, value["path"], key == "deletedFolder")
    sha256, size = _text(value, "oid"), value.get("size")
    if value["algo"] != "sha256" or not SHA256.fullmatch(sha256):
        raise ValueError("the algo must be sha256, and the oid 64 hexadecimal digits")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError("the size must be a number of bytes")
    return Pointer(number, value["path"], sha256, size)


def _text(value: dict[str, Any], name: str) -> str:
    text = value[name]
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text")
    return text


def _entry(operation: Add | Pointer, store: Store, known: set[str]) -> Entry:
    """The file that an operation adds. Refusal 400 where its content was never sent; or, which
    must look the same, not by whoever commits, who cannot read it either."""
    if isinstance(operation, Add):
        blob = operation.blob
        return Entry(operation.path, blob.oid, blob.size, blob.sha256, False)
    size = store.claim(operation.sha256) if operation.sha256 in known else None
    if size is None or operation.size not in (None, size):
        stored = "is not here" if size is None else f"has {size} bytes, not {operation.size}"
        raise errors.bad_request(
            f"line {operation.line}, '{operation.path}': the content {operation.sha256} {stored};"
            " upload it first."
        )
    oid = meta_history.oid_of(meta_history.pointer(operation.sha256, size))
    return Entry(operation.path, oid, size, operation.sha256, True)


def _check_kept(store: Store, request: CommitRequest, added: list[Entry]) -> None:
    """Refusal 400 where a content was collected while the body was read, which took days then."""
    for entry in added:
        if store.claim(entry.sha256) is None:
            line = next(one.line for one in request.operations if one.path == entry.path)
            raise errors.bad_request(
                f"line {line}, '{entry.path}': the content {entry.sha256} is not here any more;"
                " upload it again."
            )


def _card(store: Store, request: CommitRequest, added: list[Entry]) -> dict[str, Any] | None:
    """The card that the request brings, empty where it is broken or goes; None if it stays."""
    from hubtool.hub.card_header import front_matter

    readme = next((entry for entry in added if entry.path == "README.md"), None)
    if readme is None:
        gone = any(one.path == "README.md" for one in request.operations)
        return {} if gone else None
    with store.path(readme.sha256).open("rb") as stream:
        start = stream.read(README_BYTES)
    try:  # an incremental decoder lets a letter be cut in two at the end
        return front_matter(codecs.getincrementaldecoder("utf-8-sig")().decode(start))
    except ValueError:
        return {}


def _former(
    db: sqlite3.Connection,
    repo: Repo,
    branch: str,
    head: str,
    request: CommitRequest,
    digest: str,
) -> Commit | None:
    """The commit that the same body made before.

    That is the head; or, where the body names its parent, whatever commit has that parent: there
    can be only one on a branch, wherever the branch has gone since.
    """
    rows = db.execute(
        "SELECT oid, parent FROM commits WHERE repo = ? AND digest = ? AND branch = ?",
        (repo.id, digest, branch),
    )
    for oid, parent in rows:
        if oid == head or (request.parent is not None and parent.startswith(request.parent)):
            return _known(db, repo, oid)
    return None


def _known(db: sqlite3.Connection, repo: Repo, oid: str) -> Commit:
    commit = meta_history.commit_of(db, repo.id, oid)
    if commit is None:
        raise errors.revision_not_found(repo.name, oid)
    return commit


def _changed(
    db: sqlite3.Connection,
    repo: Repo,
    branch: str,
    tree: int,
    request: CommitRequest,
    added: list[Entry],
) -> Iterable[Entry]:
    """The files of a tree after the request: deleted first, then added."""
    files = {entry.path: entry for entry in meta_history.entries(db, tree)}
    deleted = [one for one in request.operations if isinstance(one, Delete)]
    folders = {one.path for one in deleted if one.folder}
    gone = {one.path for one in deleted if not one.folder}
    met: set[str] = set()
    for path in files if folders else ():
        above = folders.intersection(_above(path))
        if above:
            met |= above
            gone.add(path)
    for one in deleted:
        if one.path not in (met if one.folder else files):
            raise errors.entry_not_found(repo.name, branch, one.path)
    kept = {path: entry for path, entry in files.items() if path not in gone}
    kept |= {entry.path: entry for entry in added}
    _check_clash(list(kept), {one.path: one.line for one in request.operations})
    return kept.values()


def _above(path: str) -> Iterator[str]:
    """The folders that a file lies in."""
    parts = path.split("/")
    return ("/".join(parts[:length]) for length in range(1, len(parts)))


def _check_clash(paths: list[str], lines: dict[str, int]) -> None:
    """Refusal 400 where one path is a file and a folder.

    In the order of their parts, what lies in a folder follows at once on a file of its name.
    """
    ordered = sorted(paths, key=lambda path: path.replace("/", "\0"))
    for file, inner in pairwise(ordered):
        if inner.startswith(f"{file}/"):
            line = max(lines.get(file, 0), lines.get(inner, 0))
            raise errors.bad_request(
                f"line {line}, '{inner}': '{file}' is a file, so nothing can lie in it"
            )
