"""The database from its journal, or the journal from its database: each can be had from the other.

The new database is made beside the old one and takes its place when it is whole; the old one stays
as `hub.db.old`. Nobody may have the hub open meanwhile. What searches go by is made anew from the
cards. Download counts are those of each model's last change, since no journal tells of downloads.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from hubtool import files
from hubtool.errors import HubError, ReadError
from hubtool.hub.server import index_tables, journal
from hubtool.hub.server.journal import JOURNAL, Replayed
from hubtool.hub.server.meta_database import LOCK, Database
from hubtool.hub.server.store import locked
from hubtool.hub.server.survey import caring

__all__ = ["Rebuilt", "rebuild", "renew_journal"]

BUSY = "somebody has the hub open"


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuilt database holds. lost: lines of the journal that could not be read; torn:
    whether its end was left out, a transaction that was never acknowledged."""

    models: int
    commits: int
    transactions: int
    lost: list[int]
    torn: bool


def rebuild(root: Path, *, partial: bool = False) -> Rebuilt:
    """Make the database of the hub in a folder anew from its journal. partial: also where lines of
    that are damaged, without what they told. Raises HubError, ReadError, WriteError."""
    if not (root / JOURNAL).exists():
        raise HubError(
            f"there is no '{root / JOURNAL}' to rebuild from",
            hint="An older hub gets one when it is opened; else put a backup in its place.",
        )
    with locked(root / LOCK, alone=True, busy=BUSY), files.telling(root):
        made = root / "tmp" / "rebuilt"
        made.parent.mkdir(exist_ok=True)
        with files.replacing(made, overwrite=True, replaceable=lambda _: "") as new:
            Database(new / "hub.db").close()
            rebuilt = _filled(root / JOURNAL, new / "hub.db", partial=partial)
        _put(made, root)
    return rebuilt


def renew_journal(root: Path) -> None:
    """Write the journal of the hub in a folder anew from its database. Raises HubError."""
    if not (root / "hub.db").exists():
        raise HubError(f"there is no hub in '{root}'", hint="Name the folder of one with --hub.")
    with caring(root, alone=True), closing(Database(root / "hub.db")) as database:
        database.renew_journal()


def _filled(path: Path, place: Path, *, partial: bool) -> Rebuilt:
    """A new database filled from a journal."""
    with closing(sqlite3.connect(place, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")  # it is synced as a whole
        db.execute("PRAGMA cache_size = -50000")  # KiB: rows come in another order than trees
        triggers = db.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            db.execute(f'DROP TRIGGER "{name}"')
        told = journal.replay(path, db)
        _check(path, told, partial=partial)
        for _, sql in triggers:
            db.execute(sql)
        db.execute("BEGIN")
        index_tables.fill(db)
        if not told.damaged:  # else the journal that is there will not do, and one is made
            db.execute("DELETE FROM journal")
            db.execute("INSERT INTO journal VALUES (?, ?)", (told.generation, told.length))
        db.execute("COMMIT")
        for (wrong,) in db.execute("PRAGMA integrity_check").fetchall():
            if wrong != "ok":
                raise HubError(f"the rebuilt database is damaged: {wrong}", hint="Try again.")
        (models,) = db.execute("SELECT count(*) FROM repos").fetchone()
        (commits,) = db.execute("SELECT count(*) FROM commits").fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Rebuilt(models, commits, told.transactions, told.damaged, told.torn)


def _check(path: Path, told: Replayed, *, partial: bool) -> None:
    if told.damaged and not partial:
        raise ReadError(
            f"'{path}' is damaged",
            problems=[f"line {line} cannot be read" for line in told.damaged],
            hint="Put a backup in its place; or rebuild what can be read with --partial.",
        )


def _put(made: Path, root: Path) -> None:
    """The database in a folder takes the place of another, which is kept.

    That one goes before its write-ahead log does: a database without its log would look whole.
    """
    for ending in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            (root / f"hub.db{ending}").replace(root / f"hub.db.old{ending}")
    (made / "hub.db").replace(root / "hub.db")
    files.sync(root)
    shutil.rmtree(made)
