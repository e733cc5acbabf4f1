"""Where a hub may be killed: every step that touches the disk or the database, by its name.

    fsync blob, fsync folder, fsync journal …      before the disk is waited for
    replace blob, replace journal, …               before a file gets its name
    write journal, cut journal, mkdir, unlink …    before the file system is changed
    sql BEGIN, sql INSERT INTO commits, sql COMMIT before the statement is run

`watch` lets a function be told of each step before it happens; a function that kills the process
leaves on the disk what a crash there would have left.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["die", "watch"]

VERBS = {
    "fsync": "fsync",
    "fdatasync": "fsync",
    "pwrite": "write",
    "ftruncate": "cut",
    "replace": "replace",
    "mkdir": "mkdir",
    "unlink": "unlink",
    "utime": "claim",
}
TARGETS = {r"\.blob\.": "blob", r"hub\.journal": "journal", r"hub\.db": "database"}
SQL = re.compile(r"\s*(INSERT (?:OR \w+ )?INTO \w+|DELETE FROM \w+|UPDATE \w+|\w+)", re.ASCII)


def watch(tell: Callable[[str], object]) -> None:
    """From now on `tell` hears the name of every step of this process, before it is taken."""

    def before(function: Any, verb: str) -> Any:
        def stepping(*arguments: Any, **options: Any) -> Any:
            tell(f"{verb} {_target(arguments[0])}")
            return function(*arguments, **options)

        return stepping

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = plain(*arguments, **options)
        connection.set_trace_callback(lambda sql: tell(f"sql {_statement(sql)}"))
        return connection

    plain = sqlite3.connect
    sqlite3.connect = connect
    for name, verb in VERBS.items():
        setattr(os, name, before(getattr(os, name), verb))


def die() -> None:
    """As by a power cut, as far as a process can: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def _target(what: Any) -> str:
    path = Path(f"/proc/self/fd/{what}").readlink() if isinstance(what, int) else Path(what)
    for pattern, name in TARGETS.items():
        if re.search(pattern, path.name):
            return name
    return "folder" if path.is_dir() or not path.exists() else "file"


def _statement(sql: str) -> str:
    if sql.startswith("--"):
        return "trigger"
    found = SQL.match(sql)
    return found[1] if found else "?"
