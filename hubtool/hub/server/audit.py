"""The audit log: who changed what, when, and from where.

What is noted is noted within the transaction that makes the change, so neither is there without
the other, and the journal tells of both. An action is a word or two with a dot between ("commit",
"repo.delete", "token.new"), its subject the name of a repository or of an account. The log grows
with the changes, is never rewritten, and goes along into every backup. It holds names and
addresses, never a token's secret.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hubtool.hub.server import meta_history

__all__ = ["SCHEMA", "Actor", "Event", "entries", "note"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS audit(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    date TEXT NOT NULL,
    user TEXT NOT NULL COLLATE NOCASE,
    token TEXT NOT NULL,
    address TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL COLLATE NOCASE,
    detail TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS audit_user ON audit(user);
CREATE INDEX IF NOT EXISTS audit_subject ON audit(subject);
"""


@dataclass(frozen=True)
class Actor:
    """Who makes a change: a user, by which token (its public id), from which address; all of them
    "" where there is none. A person at the machine itself is `shell:NAME`."""

    user: str = ""
    token: str = ""
    address: str = ""


@dataclass(frozen=True)
class Event:
    """One line of the log; `detail` is what the action has to say of itself."""

    id: int
    date: str
    user: str
    token: str
    address: str
    action: str
    subject: str
    detail: dict[str, Any]


def note(db: sqlite3.Connection, actor: Actor, action: str, subject: str, **detail: Any) -> None:
    """Write a line into the log, in the transaction that makes the change. The values of `detail`
    are JSON."""
    db.execute(
        "INSERT INTO audit(date, user, token, address, action, subject, detail)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            meta_history.now(),
            actor.user,
            actor.token,
            actor.address,
            action,
            subject,
            json.dumps(detail),
        ),
    )


def entries(
    db: sqlite3.Connection,
    *,
    user: str | None = None,
    subject: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Event]:
    """Lines of the log, newest first; names are compared without case.

    action: with those below it: "repo" finds "repo.create" too. before: only lines older than the
    one of this id, for the next page.
    """
    wanted = {
        "user = ?": user,
        "subject = ?": subject,
        "(action = ?1 OR substr(action, 1, length(?1) + 1) = ?1 || '.')": action,
        "date >= ?": None if since is None else meta_history.moment(since),
        "id < ?": before,
    }
    conditions, values = [], []
    for condition, value in wanted.items():
        if value is not None:
            values.append(value)
            conditions.append(condition.replace("?1", "?").replace("?", f"?{len(values)}"))
    rows = db.execute(
        "SELECT id, date, user, token, address, action, subject, detail FROM audit"
        f" WHERE {' AND '.join(conditions) or 'TRUE'} ORDER BY id DESC LIMIT ?{len(values) + 1}",
        (*values, limit),
    )
    return [
        Event(number, date, by, token, address, done, about, json.loads(detail))
        for number, date, by, token, address, done, about, detail in rows
    ]
