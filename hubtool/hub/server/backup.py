"""A copy of a hub that runs, which is a hub itself: serve it, and it is restored.

The database is copied as it is at one moment (SQLite's backup of one snapshot), then the contents
that it names and its journal as far as it knew it, and last the database is put in its place; so
the copy is at every moment the former backup, whole, or the new one. Every content is hashed on its
way. A second backup into the same folder copies only what is new.

    backup.json     of which store this is the copy, and which state of it

A folder that is no backup of this hub, or that somebody has written to since, is refused. What is
left out is made anew by whoever serves the copy: the secret of signed addresses, and the store's
own name, so that nobody's memory of the one is taken for the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubtool import files
from hubtool.errors import HubError, WriteError
from hubtool.hub.server import errors
from hubtool.hub.server.check import Problem
from hubtool.hub.server.journal import JOURNAL
from hubtool.hub.server.meta_database import LOCK, Database
from hubtool.hub.server.meta_history import now
from hubtool.hub.server.store import Store, locked
from hubtool.hub.server.survey import NAMED, Progress, opened, users

__all__ = ["Copied", "backup"]

MARK = "backup.json"
READ = 1 << 20
PAGES = 1000
ELSEWHERE = "Name another folder, or an empty one."


@dataclass
class Copied:
    """What a backup holds, and what of it is new. problems: what could not be copied."""

    folder: str
    models: int = 0
    commits: int = 0
    contents: int = 0
    bytes: int = 0
    new: int = 0
    new_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


def backup(
    root: Path, target: Path, *, link: bool = False, progress: Progress | None = None
) -> Copied:
    """Bring the backup of a hub in `target` up to date, or make it. link: contents are hard links,
    which take no room, and no time, and are lost with the same disk.
    Raises HubError, WriteError; what is damaged in the hub is told in the result."""
    if (root / "hub.db").exists():
        Database(root / "hub.db").close()  # an older hub is brought up, and gets a journal
    if target.resolve().is_relative_to(root.resolve()):
        raise WriteError(f"'{target}' lies in the hub itself", hint=ELSEWHERE)
    with ExitStack() as stack:
        db = stack.enter_context(opened(root))
        stack.enter_context(files.telling(target))
        of = Store(root).uuid()
        marked = _marked(target, of)
        target.mkdir(parents=True, exist_ok=True)
        busy = f"somebody serves the backup '{target}'"
        stack.enter_context(locked(target / LOCK, alone=True, busy=busy))
        if marked is not None and _state(target / "hub.db") not in marked["states"]:
            raise WriteError(f"'{target}' was written to since it was a backup", hint=ELSEWHERE)
        _mark(target, of, marked["states"] if marked else [[]])
        store = Store(target)
        store.sweep()
        for stray in store.tmp.glob(".hub.db.*-*"):  # of a copy that was killed
            stray.unlink()
        found = Copied(str(target))
        fresh = stack.enter_context(_copied(db, target, progress))
        db.execute("COMMIT")  # copying all contents may take hours
        with closing(sqlite3.connect(fresh)) as copy:
            _copy_contents(Store(root), store, copy, found, progress, link=link)
            (found.models,) = copy.execute("SELECT count(*) FROM repos").fetchone()
            (found.commits,) = copy.execute("SELECT count(*) FROM commits").fetchone()
        state = _state(fresh)
        _copy_journal(root, target, state)
        _mark(target, of, [_state(target / "hub.db"), state])
        _put(fresh, target / "hub.db")
        _mark(target, of, [state])
    return found


def _marked(target: Path, of: str) -> dict[str, Any] | None:
    """What the mark of a backup says; None where there is nothing yet."""
    try:
        marked: dict[str, Any] = json.loads((target / MARK).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise WriteError(f"'{target}' is no backup of a hub", hint=ELSEWHERE) from None
        return None
    if marked["of"] != of:
        raise WriteError(f"'{target}' is the backup of another hub", hint=ELSEWHERE)
    return marked


def _mark(target: Path, of: str, states: list[Any]) -> None:
    """Let a backup be known, and the states that its database may be in: [generation, length]."""
    with files.new_file(target / MARK, overwrite=True) as stream:
        stream.write(json.dumps({"of": of, "date": now(), "states": states}).encode())


def _state(path: Path) -> list[Any]:
    """Which journal, and how much of it, a database knows; nothing where there is none."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as db:
        return list(db.execute("SELECT generation, length FROM journal").fetchone())


@contextmanager
def _copied(db: sqlite3.Connection, target: Path, progress: Progress | None) -> Iterator[Path]:
    """The state of a database that its transaction sees, as a file that is gone after the block."""
    temporary, lock = files.temporary_file(target / "tmp" / "hub.db")

    def tell(_: int, left: int, pages: int) -> None:
        if progress is not None:
            progress("database", (pages - left) * size, pages * size)

    try:
        (size,) = db.execute("PRAGMA page_size").fetchone()
        db.execute("SELECT count(*) FROM repos").fetchone()  # a transaction begins by reading
        with closing(sqlite3.connect(temporary, isolation_level=None)) as copy:
            db.backup(copy, pages=PAGES, progress=tell, sleep=0)
            (told,) = copy.execute("PRAGMA quick_check(1)").fetchone()
            if told != "ok":
                raise HubError(
                    f"the hub's database is damaged: {told}", hint="Look closer: hubtool hub fsck"
                )
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


def _copy_contents(
    source: Store,
    store: Store,
    db: sqlite3.Connection,
    found: Copied,
    progress: Progress | None,
    *,
    link: bool,
) -> None:
    """Let a store have every content that a database names."""
    named = db.execute(NAMED).fetchall()
    total = sum(size for _, size in named)
    wrong: dict[str, str] = {}
    done = 0
    for sha256, size in named:
        if store.size(sha256) != size:
            try:
                (_linked if link else _written)(source, store, sha256, size)
                found.new, found.new_bytes = found.new + 1, found.new_bytes + size
            except FileNotFoundError:
                wrong[sha256] = "is missing"
            except errors.Refusal as refusal:
                if refusal.status == 507:
                    raise WriteError(refusal.message, hint="Make room, and go on.") from None
                wrong[sha256] = f"is damaged: {refusal.message}"
        if sha256 not in wrong:
            found.contents, found.bytes = found.contents + 1, found.bytes + size
        done += size
        if progress is not None:
            progress("contents", done, total)
    using = users(db, wrong) if wrong else {}
    for sha256, told in wrong.items():
        place = str(source.path(sha256).relative_to(source.root))
        found.problems.append(Problem(place, told, using.get(sha256, [])))


def _written(source: Store, store: Store, sha256: str, size: int) -> None:
    with source.path(sha256).open("rb") as stream, store.writer() as writer:
        while piece := stream.read(READ):
            writer.write(piece)
        writer.finish(sha256, size)


def _linked(source: Store, store: Store, sha256: str, size: int) -> None:
    old, new = source.path(sha256), store.path(sha256)
    with old.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != sha256:
        raise errors.bad_request(f"its sha256 is {actual}.")
    new.parent.mkdir(parents=True, exist_ok=True)
    new.unlink(missing_ok=True)  # of another length
    new.hardlink_to(old)
    for folder in (new.parent, new.parent.parent, store.blobs):
        files.sync(folder)


def _copy_journal(root: Path, target: Path, state: list[Any]) -> None:
    """The journal as long as the copied database knows it. Where it has been begun anew since, the
    copy gets none, and whoever opens it makes one."""
    generation, length = state
    temporary, lock = files.temporary_file(target / "tmp" / JOURNAL)
    try:
        with os.fdopen(lock, "wb") as copy, (root / JOURNAL).open("rb") as stream:
            if generation.encode() not in stream.readline():
                return
            stream.seek(0)
            while length > 0 and (piece := stream.read(min(READ, length))):
                copy.write(piece)
                length -= len(piece)
            copy.flush()
            os.fsync(copy.fileno())
            temporary.replace(target / JOURNAL)
        files.sync(target)
    finally:
        temporary.unlink(missing_ok=True)


def _put(fresh: Path, place: Path) -> None:
    """Let a database take the place of another, which nobody has open."""
    if place.exists():
        with closing(sqlite3.connect(place)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if place.with_name("hub.db-wal").exists():
            raise WriteError(f"somebody has '{place}' open", hint="Try again when that has ended.")
    for ending in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            fresh.with_name(fresh.name + ending).unlink()
    files.sync(fresh)
    fresh.replace(place)
    files.sync(place.parent)
