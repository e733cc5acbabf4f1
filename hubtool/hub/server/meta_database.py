"""The database file: its schema, its connections, its transactions.

SQLite in WAL mode: one writer at a time and any number of readers beside it, in any number of
processes. A transaction that was committed is on the disk (synchronous=FULL), whatever happens to
the process afterwards. A connection is used by one thread at a time and then lent to the next, so
there are as many as were ever needed at once.

The wide things stand apart from the narrow ones: `repos` is what every search walks over, `cards`
is read only for what is shown. What searches go by stands in `index_tables`. A tree is a list of
files, stored once however many commits and repositories have it.

The file of an older hub is brought up when it is opened: every statement of the schema makes only
what is missing, and UPS holds what else a step needs, all of it in one transaction.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hubtool.errors import HubError
from hubtool.hub.server import accounts_tables, audit, errors, index_tables, moves_tables
from hubtool.hub.server.journal import Recorder, check_lost
from hubtool.hub.server.store import locked

__all__ = ["LOCK", "SCHEMA", "VERSION", "Database"]

VERSION = 3
WAIT_MS = 30_000
COUNT_WAIT_MS = 1_000
LOCK = "hub.lock"
"""Shared by all who have the database open; who replaces it has it alone."""
REBUILT = "the hub's database is being rebuilt"

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS repos(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    author TEXT NOT NULL,
    private INTEGER NOT NULL,
    created TEXT NOT NULL,
    modified TEXT NOT NULL,
    downloads INTEGER NOT NULL DEFAULT 0,
    likes INTEGER NOT NULL DEFAULT 0, gated TEXT NOT NULL DEFAULT '');

CREATE TABLE IF NOT EXISTS cards(
    repo INTEGER PRIMARY KEY,
    tags TEXT NOT NULL,
    pipeline_tag TEXT,
    library TEXT,
    card TEXT NOT NULL);

CREATE TABLE IF NOT EXISTS trees(
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS entries(
    tree INTEGER NOT NULL,
    path TEXT NOT NULL,
    oid TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    lfs INTEGER NOT NULL,
    PRIMARY KEY (tree, path)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_sha256 ON entries(sha256);
CREATE TABLE IF NOT EXISTS commits(
    oid TEXT PRIMARY KEY,
    repo INTEGER NOT NULL,
    parent TEXT,
    tree INTEGER NOT NULL,
    title TEXT NOT NULL,
    message TEXT NOT NULL,
    author TEXT NOT NULL,
    date TEXT NOT NULL,
    branch TEXT NOT NULL,
    digest TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS commits_digest ON commits(repo, digest);
CREATE INDEX IF NOT EXISTS commits_tree ON commits(tree);
CREATE TABLE IF NOT EXISTS refs(
    repo INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    oid TEXT NOT NULL,
    PRIMARY KEY (repo, kind, name)) WITHOUT ROWID;
{index_tables.SCHEMA}
{accounts_tables.SCHEMA}
{audit.SCHEMA}
{moves_tables.SCHEMA}
"""


def _from_2(db: sqlite3.Connection) -> None:
    """Schema 2 knew nothing of accounts and gates, nor how common a trigram is."""
    db.execute("ALTER TABLE repos ADD COLUMN gated TEXT NOT NULL DEFAULT ''")
    index_tables.count_grams(db)


UPS: dict[int, Callable[[sqlite3.Connection], None]] = {1: index_tables.bring_up, 2: _from_2}
"""From a version to the next, behind the schema: what tables that are only made would lack."""


class Database:
    """Connections to one database file, which is made where it is missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._free: dict[bool, list[sqlite3.Connection]] = {False: [], True: []}  # True: that write
        self._closed = False
        self._held = ExitStack()
        try:
            with _alone(path.parent):
                self._held.enter_context(locked(path.parent / LOCK, alone=False, busy=REBUILT))
                check_lost(path.parent)
                self._free[False].append(self._open())
                _prepare(self._free[False][0], path)
                self._recorder = Recorder(self._free[False][0], path.parent)
        except (OSError, sqlite3.DatabaseError) as error:
            self.close()
            raise HubError(
                f"'{path}' cannot be used: {error}",
                hint="Name another folder; or rebuild it from hub.journal: hubtool hub reindex",
            ) from error
        except HubError:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the database for as long as the block lasts."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The only writer while the block lasts; all of it becomes true at its end, or nothing.
        The journal tells of it first."""
        with self._transaction("BEGIN IMMEDIATE", writes=True) as connection:
            yield connection
            self._recorder.append(connection)

    def renew_journal(self) -> None:
        """Begin the journal anew, with all that the database holds."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            self._recorder.rewrite(connection)

    @contextmanager
    def careless(self) -> Iterator[sqlite3.Connection]:
        """Single statements that a power cut may take back: they wait neither for the disk nor
        long for other writers."""
        with self._lent() as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA busy_timeout = {COUNT_WAIT_MS}")
            try:
                yield connection
            finally:
                _settle(connection)

    def close(self) -> None:
        """Close what is not in use now, and the rest when it is given back."""
        with self._lock:
            self._closed = True
            for free in self._free.values():
                while free:
                    free.pop().close()
            self._held.close()

    @contextmanager
    def _transaction(self, begin: str, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        with _refusing(), self._lent(writes=writes) as connection:
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()
                raise

    @contextmanager
    def _lent(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        free = self._free[writes]
        with self._lock:
            connection = free.pop() if free else None
        connection = connection or self._open(writes=writes)
        try:
            yield connection
        finally:
            with self._lock:
                if self._closed or connection.in_transaction:
                    connection.close()
                else:
                    free.append(connection)

    def _open(self, *, writes: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        _settle(connection)
        if writes:
            self._recorder.install(connection)
        return connection


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: the change to WAL mode does not wait for others by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _settle(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA busy_timeout = {WAIT_MS}")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """A new file gets the schema, an older one what is new; what is no hub's is refused."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version > VERSION:
        raise HubError(
            f"'{path}' has schema {version}; this hubtool knows schema {VERSION}",
            hint="A newer hubtool made it: update hubtool.",
        )
    if version == 0 and tables:
        raise HubError(f"'{path}' is a database, but not one of a hub", hint="Name another folder.")
    if version < VERSION:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(SCHEMA):
                connection.execute(statement)
            for step in range(version or VERSION, VERSION):
                UPS[step](connection)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, for a transaction, which `executescript` would end."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _refusing() -> Iterator[None]:
    """Turns a full disk, too many writers and text that is no Unicode into refusals."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = error.sqlite_errorcode & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise errors.disk_full() from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise errors.busy() from error
        raise
    except UnicodeEncodeError as error:
        raise errors.bad_request("What was asked for is not Unicode.") from error
