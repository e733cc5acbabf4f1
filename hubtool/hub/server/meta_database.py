"""The database file: its schema, its connections, its transactions.

SQLite in WAL mode: one writer at a time and any number of readers beside it, in any number of
processes. A transaction that was committed is on the disk (synchronous=FULL), whatever happens to
the process afterwards. A connection is used by one thread at a time and then lent to the next, so
there are as many as were ever needed at once.

The wide things stand apart from the narrow ones: `repos` is what every search walks over, `cards`
is read only for what is shown. `tags` and `names` are indexes of `cards.tags` and `repos.name`.
A tree is a list of files, stored once however many commits and repositories have it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hubtool.errors import HubError
from hubtool.hub.server import errors

__all__ = ["SCHEMA", "VERSION", "Database"]

VERSION = 1
WAIT_MS = 30_000
COUNT_WAIT_MS = 1_000

SCHEMA = """
CREATE TABLE repos(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    author TEXT NOT NULL,
    private INTEGER NOT NULL,
    created TEXT NOT NULL,
    modified TEXT NOT NULL,
    downloads INTEGER NOT NULL DEFAULT 0,
    likes INTEGER NOT NULL DEFAULT 0);
CREATE INDEX repos_author ON repos(author);
CREATE INDEX repos_created ON repos(created);
CREATE INDEX repos_modified ON repos(modified);
CREATE INDEX repos_downloads ON repos(downloads);
CREATE INDEX repos_likes ON repos(likes);

CREATE TABLE cards(
    repo INTEGER PRIMARY KEY,
    tags TEXT NOT NULL,
    pipeline_tag TEXT,
    library TEXT,
    card TEXT NOT NULL);
CREATE TABLE tags(
    tag TEXT NOT NULL,
    repo INTEGER NOT NULL,
    PRIMARY KEY (tag, repo)) WITHOUT ROWID;
CREATE VIRTUAL TABLE names USING fts5(name, tokenize='trigram');

CREATE TABLE trees(
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE);
CREATE TABLE entries(
    tree INTEGER NOT NULL,
    path TEXT NOT NULL,
    oid TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    lfs INTEGER NOT NULL,
    PRIMARY KEY (tree, path)) WITHOUT ROWID;
CREATE TABLE commits(
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
CREATE INDEX commits_digest ON commits(repo, digest);
CREATE INDEX commits_tree ON commits(tree);
CREATE TABLE refs(
    repo INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    oid TEXT NOT NULL,
    PRIMARY KEY (repo, kind, name)) WITHOUT ROWID;
"""


class Database:
    """Connections to one database file, which is made where it is missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._free: list[sqlite3.Connection] = []
        self._closed = False
        try:
            with _alone(path.parent):
                self._free.append(self._open())
                _prepare(self._free[0], path)
        except (OSError, sqlite3.DatabaseError) as error:
            self.close()
            raise HubError(
                f"'{path}' cannot be used: {error}",
                hint="Name another folder for the hub, or put a backup of the file there.",
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
        """The only writer while the block lasts; all of it becomes true at its end, or nothing."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

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
            while self._free:
                self._free.pop().close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with _refusing(), self._lent() as connection:
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()
                raise

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            connection = self._free.pop() if self._free else None
        connection = connection or self._open()
        try:
            yield connection
        finally:
            with self._lock:
                if self._closed or connection.in_transaction:
                    connection.close()
                else:
                    self._free.append(connection)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        _settle(connection)
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
    """A new file gets the schema; one that holds another schema is refused."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version == 0 and tables == 0:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version > VERSION:
        raise HubError(
            f"'{path}' has schema {version}; this hubtool knows schema {VERSION}",
            hint="A newer hubtool made it: update hubtool.",
        )
    elif version != VERSION:
        raise HubError(f"'{path}' is a database, but not one of a hub", hint="Name another folder.")


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
