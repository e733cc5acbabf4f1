"""What somebody may see, as conditions on rows: for lists, for contents by their hash, for gates.

`Identity.right` says it of one name; here the same is said in SQL, so that a search of millions
finds what whoever asks may see, and nothing is looked up a model at a time. A test holds the two
against each other.

A gated repository is listed and described to everybody who may see it, but its files are for those
with a right to it and for those who were granted access (`access`). A content that is named by its
hash must not give away what one may not read: it counts as there for somebody only where they
could read it, or sent it themselves not long ago (`sent`).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from hubtool.hub.server.accounts import Identity
from hubtool.hub.server.audit import Actor, note
from hubtool.hub.server.collect import GRACE_S
from hubtool.hub.server.meta import Meta, Repo, check_repo
from hubtool.hub.server.meta_history import moment, now

__all__ = [
    "OPEN",
    "STATUSES",
    "Request",
    "Status",
    "decide",
    "granted",
    "held",
    "names_all",
    "note_sent",
    "requests",
    "seen",
]

Status = Literal["pending", "accepted", "rejected"]
STATUSES: tuple[Status, ...] = get_args(Status)
OPEN = {"README.md", ".gitattributes"}
"""The files of a gated repository that everybody may read who sees it."""

Condition = tuple[str, list[str]]
"""SQL about a row `r` of repos, and its values."""


@dataclass(frozen=True)
class Request:
    """Somebody's wish to read a gated repository, and what became of it."""

    id: str
    user: str
    fullname: str
    status: Status
    date: str
    reason: str


def seen(who: Identity) -> Condition:
    """The condition that somebody may see a repository at all."""
    sql, values = _right(who)
    if sql == "0":
        return "r.private = 0", []
    return ("1", []) if sql == "1" else (f"(r.private = 0 OR {sql})", values)


def granted(meta: Meta, repo: Repo, who: Identity) -> bool:
    """Whether somebody was granted access to a gated repository, by a token that is good for it."""
    if not who.name or replace(who, admin=True).right(repo.name) is None:
        return False
    with meta.reading() as db:
        return _status(db, repo, who.name) == "accepted"


def held(meta: Meta, who: Identity, contents: Iterable[str]) -> set[str]:
    """Which of the contents, by their sha256, somebody could read, or sent not long ago. Whether
    they are stored is another question."""
    wanted = set(contents)
    if names_all(who):
        return wanted
    readable, values = _readable(who)
    sql = (
        "SELECT EXISTS (SELECT 1 FROM sent WHERE user = ? AND sha256 = ?) OR EXISTS"
        " (SELECT 1 FROM entries e CROSS JOIN commits c ON c.tree = e.tree CROSS JOIN repos r"
        f" ON r.id = c.repo WHERE e.sha256 = ? AND {readable})"
    )
    with meta.reading() as db:
        return {
            sha256
            for sha256 in wanted
            if db.execute(sql, (who.name, sha256, sha256, *values)).fetchone()[0]
        }


def names_all(who: Identity) -> bool:
    """Whether somebody may name every stored content, since they could read every repository."""
    return _right(who)[0] == "1"


def note_sent(meta: Meta, user: str, contents: Iterable[str]) -> None:
    """Remember that a user sent these contents; and forget what is older than contents that
    nobody names are kept."""
    if not user:
        return
    until = moment(datetime.now(UTC) - timedelta(seconds=GRACE_S))
    with meta.writing() as db:
        db.execute("DELETE FROM sent WHERE date < ?", (until,))
        db.executemany(
            "INSERT OR REPLACE INTO sent(user, sha256, date) VALUES (?, ?, ?)",
            [(user, sha256, now()) for sha256 in contents],
        )


def requests(meta: Meta, repo: Repo, status: Status | None = None) -> list[Request]:
    """Who asked to read a gated repository, the latest first."""
    with meta.reading() as db:
        rows = db.execute(
            "SELECT x.user, coalesce(a.fullname, ''), x.status, x.date, x.reason FROM access x"
            " LEFT JOIN accounts a ON a.name = x.user"
            " WHERE x.repo = ?1 AND (?2 IS NULL OR x.status = ?2) ORDER BY x.date DESC, x.user",
            (repo.id, status),
        ).fetchall()
    return [Request(_id(repo, user), user, *rest) for user, *rest in rows]


def decide(
    meta: Meta, repo: Repo, user: str, status: Status, *, by: Actor, reason: str = ""
) -> None:
    """Let a user's request have this status, whether or not they asked."""
    with meta.writing() as db:
        check_repo(db, repo)
        if _status(db, repo, user) == status:
            return
        db.execute(
            "INSERT OR REPLACE INTO access(repo, user, status, date, reason)"
            " VALUES (?, ?, ?, ?, ?)",
            (repo.id, user, status, now(), reason),
        )
        detail: dict[str, Any] = {"user": user, "status": status}
        note(db, by, "repo.access", repo.name, **detail, **({"reason": reason} if reason else {}))


def _status(db: sqlite3.Connection, repo: Repo, user: str) -> str | None:
    row = db.execute(
        "SELECT status FROM access WHERE repo = ? AND user = ?", (repo.id, user)
    ).fetchone()
    return row[0] if row else None


def _id(repo: Repo, user: str) -> str:
    name = f"{repo.id} {user.lower()}".encode()
    return hashlib.sha1(name, usedforsecurity=False).hexdigest()[:24]


def _right(who: Identity) -> Condition:
    """The condition that somebody has any right to a repository; "0" for never, "1" for always."""
    if not who.name:
        return "0", []
    parts, values = [], []
    if not who.admin:
        namespaces = sorted({who.name.lower(), *(org.lower() for org in who.orgs)})
        parts.append(f"r.author COLLATE NOCASE IN ({_places(namespaces)})")
        values += namespaces
    if who.repos is not None:
        folders = [one.removesuffix("/*").lower() for one in who.repos if one.endswith("/*")]
        names = [one.lower() for one in who.repos if not one.endswith("/*")]
        parts.append(
            f"(r.author COLLATE NOCASE IN ({_places(folders)})"
            f" OR r.name COLLATE NOCASE IN ({_places(names)}))"
        )
        values += folders + names
    return (f"({' AND '.join(parts)})" if parts else "1"), values


def _readable(who: Identity) -> Condition:
    """The condition that somebody may read the files of a repository."""
    right, values = _right(who)
    public = "r.private = 0 AND r.gated = ''"
    if right == "0":
        return public, []
    granted, more = _granted(who)
    return f"({public} OR {right} OR r.private = 0 AND {granted})", [*values, *more]


def _granted(who: Identity) -> Condition:
    accepted = (
        "EXISTS (SELECT 1 FROM access x WHERE x.repo = r.id AND x.user = ?"
        " AND x.status = 'accepted')"
    )
    scope, values = _right(replace(who, admin=True))
    return f"({scope} AND {accepted})", [*values, who.name]


def _places(values: list[str]) -> str:
    return ", ".join("?" * len(values))
