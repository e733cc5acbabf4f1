"""What lies in a hub's folder, and what its database says of it: for those who look after both.

`check`, `collect` and `backup` work beside servers that run. Each reads one state of the database,
and holds a lock that keeps contents from being collected under its hands; who collects holds it
alone. They open the database without making or changing anything, since what they look at may be
damaged.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hubtool.errors import HubError
from hubtool.hub.server.journal import JOURNAL
from hubtool.hub.server.meta_database import LOCK, REBUILT
from hubtool.hub.server.store import locked

__all__ = ["NAMED", "File", "Progress", "caring", "contents", "opened", "users"]

Progress = Callable[[str, int, int], None]
"""Is called with what is being done, how many bytes of it are done, and how many there are."""

NAMED = (
    "SELECT sha256, max(size) FROM entries WHERE tree IN (SELECT tree FROM commits) GROUP BY sha256"
)
"""SQL: the contents that commits name, each with its size."""


@dataclass(frozen=True)
class File:
    """A file below blobs/."""

    path: Path
    size: int
    modified: float


@contextmanager
def opened(root: Path, *, alone: bool = False) -> Iterator[sqlite3.Connection]:
    """One state of the database in a folder. alone: the only one of those who look after it.
    Raises HubError where there is no hub, or where somebody else is at work."""
    if not (root / "hub.db").exists():
        if (root / JOURNAL).exists():
            raise HubError(
                f"'{root / 'hub.db'}' is gone, but '{root / JOURNAL}' tells what it held",
                hint=f"Rebuild it: hubtool hub reindex --hub {root}",
            )
        raise HubError(f"there is no hub in '{root}'", hint="Name the folder of one with --hub.")
    with (
        locked(root / LOCK, alone=False, busy=REBUILT),
        caring(root, alone=alone),
        closing(sqlite3.connect(root / "hub.db", isolation_level=None)) as db,
    ):
        db.execute("PRAGMA query_only = ON")
        db.execute("BEGIN")
        yield db


def caring(root: Path, *, alone: bool) -> AbstractContextManager[None]:
    """Looking after a hub beside others who do, or alone. Raises HubError."""
    busy = "the hub is being checked, backed up or collected by somebody else"
    return locked(root / "care.lock", alone=alone, busy=busy)


def contents(root: Path) -> Iterator[File]:
    """Every file below blobs/, whatever it is called, by its path."""
    folders = [path for path in (root / "blobs",) if path.is_dir()]
    while folders:
        with os.scandir(folders.pop()) as listed:
            below = sorted(listed, key=lambda entry: entry.name, reverse=True)
        for entry in below:
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            else:
                about = entry.stat(follow_symlinks=False)
                yield File(Path(entry.path), about.st_size, about.st_mtime)


def users(db: sqlite3.Connection, wanted: Iterable[str]) -> dict[str, list[str]]:
    """For each of these contents the files that are it, as `namespace/name: path at revision`: the
    branches and tags where it is so today, or else the newest commit where it was."""
    rows = db.execute(
        "SELECT sha256, user || ' at ' || coalesce(refs, newest) FROM ("
        " SELECT e.sha256, r.name || ': ' || e.path AS user, c.oid AS newest, max(c.date),"
        " group_concat(DISTINCT f.name) AS refs FROM entries e"
        " JOIN commits c ON c.tree = e.tree JOIN repos r ON r.id = c.repo"
        " LEFT JOIN refs f ON f.repo = c.repo AND f.oid = c.oid"
        " WHERE e.sha256 IN (SELECT value FROM json_each(?))"
        " GROUP BY e.sha256, r.name, e.path) ORDER BY 2",
        (json.dumps(list(wanted)),),
    )
    found: dict[str, list[str]] = {}
    for sha256, user in rows:
        found.setdefault(sha256, []).append(user)
    return found
