"""The record on disk of every change to the database, from which it can be rebuilt.

    hub.journal     a line of JSON for every transaction, behind the CRC-32 of that line

Each transaction writes the rows that it changed to the end of the journal, and waits for the disk,
before it commits: what was acknowledged is told twice, and at the price of one fsync. The database
remembers how long the journal is, in the same transaction, so that both agree to the byte: what
lies behind that length was never committed, and the next writer cuts it off.

Rows are caught by temporary triggers on the connections that write, so that a table which somebody
adds to the schema is recorded without knowing of it. What can be made of other rows is left out
(`DERIVED`, full-text indexes), and so are download counts, which go round the journal. A database
that has no journal yet, or not this one, gets one that begins with all rows it holds: an older hub
when it is opened first, and `rewrite` whenever it is asked.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubtool import files
from hubtool.errors import HubError
from hubtool.hub.server.store import full_disk

__all__ = [
    "DERIVED",
    "JOURNAL",
    "UNTOLD",
    "Recorder",
    "Replayed",
    "Table",
    "check_lost",
    "replay",
    "tables",
]

JOURNAL = "hub.journal"
DERIVED = {"grams", "labels", "sent", "tagged", "texts"}
"""Tables that are made of others (see `index_tables`), as all virtual ones are; and `sent`, which
is soon forgotten anyway."""
UNTOLD = {"downloads", "used"}
"""Columns that change without the journal; it tells them when something else changes too."""

FORMAT = 1
HEADER = 200
PIECE = 1 << 20
"""Characters of one line; a larger transaction has several, and is done with the last."""

STATE = "CREATE TABLE IF NOT EXISTS journal(generation TEXT NOT NULL, length INTEGER NOT NULL)"
Change = tuple[str, str, dict[str, Any]]
"""+ or -, a table's name, and the row; of one that is gone only the key."""


@dataclass(frozen=True)
class Table:
    """A table that is recorded: its columns, and by which of them a row is known."""

    name: str
    columns: list[str]
    keys: list[str]


def tables(db: sqlite3.Connection) -> list[Table]:
    """The tables of a database that are recorded, by name."""
    found = []
    for schema, name, kind, *_ in db.execute("PRAGMA table_list").fetchall():
        skipped = name in DERIVED or name == "journal" or name.startswith("sqlite_")
        if schema != "main" or kind != "table" or skipped:
            continue
        rows = db.execute(f'PRAGMA table_info("{name}")').fetchall()
        columns = [row[1] for row in rows]
        found.append(Table(name, columns, [row[1] for row in rows if row[5]] or columns))
    return sorted(found, key=lambda table: table.name)


def check_lost(folder: Path) -> None:
    """Raises HubError where a journal tells of a database that is gone: a new one in its place
    would look like an empty hub."""
    database, journal = folder / "hub.db", folder / JOURNAL
    if database.exists() and database.stat().st_size:
        return
    if not journal.exists():
        return
    with journal.open("rb") as stream:
        several = stream.read(PIECE).count(b"\n") > 1 or bool(stream.read(1))
    if several:
        raise HubError(
            f"'{database}' is gone, but '{journal}' tells what it held",
            hint=f"Rebuild it: hubtool hub reindex --hub {folder}",
        )


class Recorder:
    """Writes the journal of the database in a folder."""

    def __init__(self, db: sqlite3.Connection, folder: Path) -> None:
        """`db` is a connection outside of a transaction. A journal is made where none fits."""
        self._path = folder / JOURNAL
        self._tables = {table.name: table for table in tables(db)}
        (self._schema,) = db.execute("PRAGMA user_version").fetchone()
        known = db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'journal'").fetchone()
        if not known or not self._fits(db):
            with _written(db):
                db.execute(STATE)
                if not self._fits(db):  # another process may have been first
                    self.rewrite(db)

    def install(self, db: sqlite3.Connection) -> None:
        """From now on the rows that this connection changes are caught."""
        width = max(len(table.columns) for table in self._tables.values())
        db.execute("PRAGMA recursive_triggers = ON")  # what REPLACE takes away is told too
        cells = ", ".join(f"c{number}" for number in range(width))
        db.execute(
            "CREATE TEMP TABLE IF NOT EXISTS"
            f" recorded(number INTEGER PRIMARY KEY, name TEXT, gone INTEGER, {cells})"
        )
        for table in self._tables.values():
            into = ", ".join(f"c{number}" for number in range(len(table.columns)))
            new = ", ".join(f'NEW."{name}"' for name in table.columns)
            old = ", ".join(
                f'OLD."{name}"' if name in table.keys else "NULL" for name in table.columns
            )
            insert = f"INSERT INTO recorded(name, gone, {into}) VALUES ('{table.name}'"
            gone, come = f"{insert}, 1, {old});", f"{insert}, 0, {new});"
            for event, told in {"INSERT": come, "DELETE": gone, "UPDATE": gone + come}.items():
                db.execute(
                    f'CREATE TEMP TRIGGER IF NOT EXISTS "recorded_{table.name}_{event}"'
                    f' AFTER {event} ON main."{table.name}" BEGIN {told} END'
                )

    def append(self, db: sqlite3.Connection) -> None:
        """Put what the transaction changed behind the journal, on the disk for good; to be called
        at its end. Raises Refusal 507 where the disk is full."""
        rows = db.execute("SELECT * FROM temp.recorded ORDER BY number")
        lines = _lines(self._change(row) for row in rows)
        first = next(lines, None)
        if first is None:
            return
        if not self._fits(db):
            rows.close()
            self.rewrite(db)
        else:
            (length,) = db.execute("SELECT length FROM journal").fetchone()
            length = self._put(length, first, lines)
            db.execute("UPDATE journal SET length = ?", (length,))
        db.execute("DELETE FROM temp.recorded")

    def rewrite(self, db: sqlite3.Connection) -> None:
        """Begin the journal anew with all rows there are; within a transaction that writes."""
        generation = uuid.uuid4().hex
        with full_disk():
            files.sweep(self._path.parent)
            temporary, handle = files.temporary_file(self._path)
            try:
                with os.fdopen(handle, "wb") as stream:
                    head = {"format": FORMAT, "schema": self._schema, "generation": generation}
                    stream.write(_checked(json.dumps(head)))
                    for table in self._tables.values():
                        stream.writelines(_lines(_all(db, table), whole=False))
                    stream.flush()
                    os.fsync(handle)
                    length = stream.tell()
                    temporary.replace(self._path)
                files.sync(self._path.parent)
            finally:
                temporary.unlink(missing_ok=True)
        db.execute("DELETE FROM journal")
        db.execute("INSERT INTO journal VALUES (?, ?)", (generation, length))

    def _put(self, length: int, first: bytes, more: Iterable[bytes]) -> int:
        """Lines behind so many bytes; gives how many there are now."""
        with full_disk():
            handle = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.fstat(handle).st_size != length:
                    os.ftruncate(handle, length)
                for line in (first, *more):
                    rest = memoryview(line)
                    while rest:
                        written = os.pwrite(handle, rest, length)
                        rest, length = rest[written:], length + written
                os.fdatasync(handle)
            finally:
                os.close(handle)
        return length

    def _fits(self, db: sqlite3.Connection) -> bool:
        """Whether the file is the journal of this database, and holds all that it should."""
        state = db.execute("SELECT generation, length FROM journal").fetchone()
        try:
            with self._path.open("rb") as stream:
                head = _parsed(stream.readline(HEADER)) or {}
                size = os.fstat(stream.fileno()).st_size
        except FileNotFoundError:
            return False
        return bool(
            state
            and head.get("generation") == state[0]
            and head.get("schema") == self._schema
            and size >= state[1]
        )

    def _change(self, row: tuple[Any, ...]) -> Change:
        _, name, gone, *cells = row
        table = self._tables[name]
        named = zip(table.columns, cells, strict=False)  # other tables may be wider
        if not gone:
            return "+", name, dict(named)
        return "-", name, {column: cell for column, cell in named if column in table.keys}


@dataclass
class Replayed:
    """What a journal said. length: of what could be read; damaged: the lines that could not;
    torn: the last transaction is not whole, because it was never committed."""

    generation: str = ""
    length: int = 0
    transactions: int = 0
    damaged: list[int] = field(default_factory=list)
    torn: bool = False


def replay(path: Path, db: sqlite3.Connection, length: int | None = None) -> Replayed:
    """Apply a journal, or so many bytes of it, to a database that has the tables and no rows.

    What is made of other rows is not made here. A transaction of which a line is damaged is left
    out whole. Raises OSError, and HubError where the rows are not those of this schema.
    """
    found = Replayed()
    known = {table.name: table for table in tables(db)}
    number, part, position = 0, 0, 0
    with path.open("rb") as stream:
        while line := stream.readline(-1 if length is None else length - position):
            number, position = number + 1, position + len(line)
            content = _parsed(line)
            if number == 1 and content is not None:
                found.generation, found.length = content["generation"], position
                continue
            if content is None or content["part"] not in (0, part):
                if content is None:
                    found.damaged.append(number)
                _back(db)
                part = -1
                continue
            if content["part"] == 0:
                _back(db)
                db.execute("BEGIN")
            _apply(db, known, content["rows"])
            part = content["part"] + 1
            if content["end"]:
                db.execute("COMMIT")
                part = 0
                found.transactions += 1
                found.length = position
    found.torn = db.in_transaction
    _back(db)
    if found.damaged[-1:] == [number] and number > 1 and length is None:
        found.damaged.pop()
        found.torn = True
    return found


def _back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


def _apply(db: sqlite3.Connection, known: dict[str, Table], rows: list[Change]) -> None:
    """Do to a database what was done to another."""
    for sign, name, row in rows:
        table = known.get(name)
        if table is None or not set(row) <= set(table.columns):
            raise HubError(
                f"the journal tells of '{name}' what this hubtool does not know",
                hint="A newer hubtool wrote it: update hubtool.",
            )
        values = [_value(cell) for cell in row.values()]
        columns = [f'"{column}"' for column in row]
        if sign == "+":
            cells = ", ".join("?" * len(values))
            names = ", ".join(columns)
            db.execute(f'INSERT OR REPLACE INTO "{name}"({names}) VALUES ({cells})', values)
        else:
            key = " AND ".join(f"{column} IS ?" for column in columns)
            db.execute(f'DELETE FROM "{name}" WHERE {key}', values)


def _value(cell: Any) -> Any:
    return bytes.fromhex(cell["hex"]) if isinstance(cell, dict) else cell


def _all(db: sqlite3.Connection, table: Table) -> Iterator[Change]:
    columns = ", ".join(f'"{column}"' for column in table.columns)
    for row in db.execute(f'SELECT {columns} FROM main."{table.name}"'):
        yield "+", table.name, dict(zip(table.columns, row, strict=True))


def _lines(changes: Iterable[Change], *, whole: bool = True) -> Iterator[bytes]:
    """The lines of one transaction; unless it is to be `whole`, each line is one by itself."""
    pieces: list[str] = []
    room, part = PIECE, 0
    for change in changes:
        if room <= 0:
            yield _line(pieces, part, end=not whole)
            pieces, room, part = [], PIECE, part + 1 if whole else 0
        pieces.append(json.dumps(change, ensure_ascii=False, separators=(",", ":"), default=_hex))
        room -= len(pieces[-1])
    if pieces:
        yield _line(pieces, part, end=True)


def _line(rows: list[str], part: int, *, end: bool) -> bytes:
    return _checked(
        f'{{"part":{part},"end":{"true" if end else "false"},"rows":[{",".join(rows)}]}}'
    )


def _hex(value: bytes) -> dict[str, str]:
    return {"hex": value.hex()}


def _checked(text: str) -> bytes:
    content = text.encode()
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is damaged."""
    check, _, content = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or check != b"%08x" % zlib.crc32(content):
        return None
    found: dict[str, Any] = json.loads(content)
    return found


@contextmanager
def _written(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        db.rollback()
        raise
