"""fsck: whether a hub still holds what it acknowledged, file by file.

Contents are held against their names, what commits name against what is there, refs and histories
against commits, and the database against its journal. It may run beside a server: it looks at one
state of the database, and what is written meanwhile does not disturb it. Nothing is changed.

What a dead writer left in tmp/ is no fault: it is listed, and goes when the hub is opened next.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from hubtool.hub.server import journal, meta_history
from hubtool.hub.server.journal import JOURNAL, UNTOLD, Table
from hubtool.hub.server.store import SHA256
from hubtool.hub.server.survey import NAMED, File, Progress, contents, opened, users

__all__ = ["Checked", "Problem", "check"]

AT_ONCE = 256
SHOWN = 20
REBUILD = "`hubtool hub reindex` rebuilds it from hub.journal"
RESTORE = "put the file back from a backup, or remove it and push a model that has it again"
RENEW = "`hubtool hub reindex --journal` writes it anew from hub.db"

HISTORY = {
    "SELECT f.kind || ' ' || f.name, r.name FROM refs f LEFT JOIN repos r ON r.id = f.repo"
    " WHERE NOT EXISTS (SELECT 1 FROM commits c WHERE c.oid = f.oid AND c.repo = f.repo)": (
        "points to a commit that is not there"
    ),
    "SELECT 'commit ' || c.oid, r.name FROM commits c LEFT JOIN repos r ON r.id = c.repo"
    " WHERE c.parent IS NOT NULL AND NOT EXISTS (SELECT 1 FROM commits p WHERE p.oid = c.parent)": (
        "has a parent that is not there"
    ),
    "SELECT 'commit ' || c.oid, r.name FROM commits c LEFT JOIN repos r ON r.id = c.repo"
    " WHERE NOT EXISTS (SELECT 1 FROM trees t WHERE t.id = c.tree)": "has no list of files",
    "SELECT 'branch main', r.name FROM repos r WHERE NOT EXISTS"
    " (SELECT 1 FROM refs WHERE repo = r.id AND kind = 'branch' AND name = 'main')": "is missing",
    "SELECT 'the card', r.name FROM repos r WHERE NOT EXISTS"
    " (SELECT 1 FROM cards WHERE repo = r.id)": "is missing",
    "SELECT 'commit ' || oid, '?' FROM commits WHERE repo NOT IN (SELECT id FROM repos)": (
        "belongs to no model"
    ),
}
"""SQL: what is wrong with the history, and of which model; and how that is said."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. place: the file, below the hub's folder; models: who uses it, each
    as `namespace/name: path at revision`."""

    place: str
    told: str
    models: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = ", ".join(self.models[:SHOWN])
        more = f" and {len(self.models) - SHOWN} more" if len(self.models) > SHOWN else ""
        return f"{self.place}: {self.told}" + (f"; used by {shown}{more}" if shown else "")


@dataclass
class Checked:
    """What was looked at, and every problem. unnamed: contents that no commit names; strays: what
    dead writers left."""

    models: int = 0
    commits: int = 0
    contents: int = 0
    bytes: int = 0
    unnamed: int = 0
    unnamed_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)


def check(root: Path, *, quick: bool = False, progress: Progress | None = None) -> Checked:
    """Look at the hub in a folder. quick: contents are not read, only their sizes are compared.
    Raises HubError where there is no hub, or where it is being rebuilt or collected."""
    found = Checked(strays=list(_strays(root)))
    named: dict[str, int] = {}
    using: dict[str, list[str]] = {}
    with opened(root) as db:
        try:
            _check_history(db, found)
            named = dict(db.execute(NAMED).fetchall())
            _check_journal(root, db, found)
        except sqlite3.DatabaseError as error:
            found.problems.append(Problem("hub.db", f"{error}; {REBUILD}"))
        with suppress(sqlite3.DatabaseError):
            db.execute("ROLLBACK")  # reading all contents may take hours
        wrong = _check_contents(root, named, found, progress, quick=quick)
        with suppress(sqlite3.DatabaseError):
            using = users(db, wrong) if wrong else {}
    for sha256, problem in wrong.items():
        found.problems.append(Problem(problem.place, problem.told, using.get(sha256, [])))
    return found


def _check_history(db: sqlite3.Connection, found: Checked) -> None:
    """The database by itself."""
    for (told,) in db.execute("PRAGMA integrity_check").fetchall():
        if told != "ok":
            found.problems.append(Problem("hub.db", f"{told}; {REBUILD}"))
    (found.models,) = db.execute("SELECT count(*) FROM repos").fetchone()
    (found.commits,) = db.execute("SELECT count(*) FROM commits").fetchone()
    for sql, told in HISTORY.items():
        for what, model in db.execute(sql):
            found.problems.append(Problem("hub.db", f"{what} of '{model}' {told}; {REBUILD}"))
    rows = db.execute(
        "SELECT t.hash, e.path, e.oid, e.size, e.sha256, e.lfs FROM trees t"
        " LEFT JOIN entries e ON e.tree = t.id ORDER BY t.id, e.path"
    )
    for name, listed in groupby(rows, key=lambda row: row[0]):
        entries = [meta_history.entry_of(row[1:]) for row in listed if row[1] is not None]
        if meta_history.name_of_tree(entries) != name:
            told = f"the list of files {name} is not what it was; {REBUILD}"
            found.problems.append(Problem("hub.db", told))


def _check_contents(
    root: Path, named: dict[str, int], found: Checked, progress: Progress | None, *, quick: bool
) -> dict[str, Problem]:
    """What lies below blobs/, and what should: what is wrong with contents, by their names."""
    wrong: dict[str, Problem] = {}
    missing = dict(named)
    files = list(contents(root))
    total = sum(file.size for file in files)
    for file, actual in _hashed(files, quick=quick):
        place = str(file.path.relative_to(root))
        sha256 = file.path.name
        found.contents, found.bytes = found.contents + 1, found.bytes + file.size
        if progress is not None:
            progress("contents", found.bytes, total)
        if not SHA256.fullmatch(sha256) or file.path != _place(root, sha256):
            found.problems.append(Problem(place, "is no content of this hub; move it away"))
            continue
        size = missing.pop(sha256, None)
        if sha256 not in named:
            found.unnamed, found.unnamed_bytes = found.unnamed + 1, found.unnamed_bytes + file.size
        if actual is not None and actual != sha256:
            told = f"is damaged: its sha256 is {actual or 'not to be read'}"
            wrong[sha256] = Problem(place, f"{told}; {RESTORE}")
        elif size is not None and size != file.size:
            told = f"is damaged: it has {file.size} bytes, not {size}"
            wrong[sha256] = Problem(place, f"{told}; {RESTORE}")
    for sha256 in missing:
        place = str(_place(root, sha256).relative_to(root))
        wrong[sha256] = Problem(place, f"is missing; {RESTORE}")
    return wrong


def _place(root: Path, sha256: str) -> Path:
    return root / "blobs" / sha256[:2] / sha256[2:4] / sha256


def _hashed(files: list[File], *, quick: bool) -> Iterator[tuple[File, str | None]]:
    """Each file with its sha256: "" where it cannot be read, None where it was not tried."""
    if quick:
        yield from ((file, None) for file in files)
        return
    waiting = iter(files)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while some := list(islice(waiting, AT_ONCE)):
            yield from zip(some, pool.map(_sha256, some), strict=True)


def _sha256(file: File) -> str:
    try:
        with file.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _check_journal(root: Path, db: sqlite3.Connection, found: Checked) -> None:
    """The database and its journal, which tell the same."""
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'journal'").fetchone():
        return  # an older hub, which gets one when it is opened
    state = db.execute("SELECT generation, length FROM journal").fetchone() or (None, 0)
    path = root / JOURNAL
    if not path.exists():
        found.problems.append(Problem(JOURNAL, f"is missing; {RENEW}"))
        return
    with closing(sqlite3.connect("", isolation_level=None)) as other:
        known = journal.tables(db)
        for table in known:
            sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?"
            ((made,),) = db.execute(sql, (table.name,)).fetchall()
            other.execute(made)
        told = journal.replay(path, other, state[1])
        for line in told.damaged:
            found.problems.append(Problem(JOURNAL, f"line {line} is damaged; {RENEW}"))
        if told.generation != state[0]:
            found.problems.append(Problem(JOURNAL, f"belongs to another database; {RENEW}"))
        elif not told.damaged and told.length != state[1]:
            short = f"ends after {told.length} bytes of {state[1]}"
            found.problems.append(Problem(JOURNAL, f"{short}; {RENEW}"))
        elif not told.damaged:
            for table in known:
                for row in _different(db, other, table):
                    where = f"row {row} of '{table.name}' is not that of hub.db"
                    found.problems.append(Problem(JOURNAL, f"{where}; {RENEW}"))


def _different(
    one: sqlite3.Connection, other: sqlite3.Connection, table: Table
) -> Iterator[tuple[Any, ...]]:
    """The keys of rows that only one of the databases has, or that are not the same in both."""
    told = [column for column in table.columns if column not in UNTOLD]
    columns = [*table.keys, *(column for column in told if column not in table.keys)]
    quoted = ", ".join(f'"{column}"' for column in columns)
    order = ", ".join(f'"{column}"' for column in table.keys)
    sql = f'SELECT {quoted} FROM "{table.name}" ORDER BY {order}'
    width = len(table.keys)
    streams = [iter(db.execute(sql)) for db in (one, other)]
    rows = [next(stream, None) for stream in streams]
    while rows[0] is not None or rows[1] is not None:
        keys = [None if row is None else _ordered(row[:width]) for row in rows]
        first = min(key for key in keys if key is not None)
        if keys[0] != keys[1] or rows[0] != rows[1]:
            yield next(row[:width] for row in rows if row and _ordered(row[:width]) == first)
        for number, key in enumerate(keys):
            if key == first:
                rows[number] = next(streams[number], None)


def _ordered(key: tuple[Any, ...]) -> list[tuple[int, Any]]:
    """A key that sorts as SQLite sorts: nothing, numbers, texts, bytes."""
    ranks = {type(None): 0, int: 1, float: 1, str: 2, bytes: 3}
    return [
        (ranks[type(cell)], cell.encode() if isinstance(cell, str) else cell or 0) for cell in key
    ]


def _strays(root: Path) -> Iterator[str]:
    """What dead writers left, whose lock is free."""
    for path in sorted((root / "tmp").iterdir()) if (root / "tmp").is_dir() else ():
        held = path / "lock" if path.is_dir() else path
        try:
            handle = os.open(held, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # it is gone, or was none
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield str(path.relative_to(root))
        except BlockingIOError:
            pass  # somebody is writing it
        finally:
            os.close(handle)
