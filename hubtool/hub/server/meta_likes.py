"""Likes: who likes which repository, each at most once, and what they are asked for.

`repos.likes` follows by trigger (see `moves_tables`), and with it the order of lists by likes. A
like is told in pages: of a repository its likers, of a user what they like, newest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hubtool.hub.server import access
from hubtool.hub.server.accounts import Identity
from hubtool.hub.server.meta import Meta, Repo, check_repo
from hubtool.hub.server.meta_history import now

__all__ = ["Like", "liked", "likers", "likes_of", "models_of", "set_like"]


@dataclass(frozen=True)
class Like:
    """One like: what of, by whom and since when."""

    repo: str
    user: str
    fullname: str
    date: str

    @property
    def cursor(self) -> str:
        """Where in a list by date this like stands."""
        return f"{self.date} {self.user} {self.repo}"


LIKES = (
    "SELECT r.name, k.user, coalesce(a.fullname, ''), k.date FROM likes k"
    " JOIN repos r ON r.id = k.repo LEFT JOIN accounts a ON a.name = k.user"
)


def set_like(meta: Meta, repo: Repo, user: str, *, likes: bool) -> int:
    """Let a user like a repository, or not any more; how many like it then. Refusal 404 where it
    was deleted since it was looked up."""
    with meta.writing() as db:
        check_repo(db, repo)
        if not likes:
            db.execute("DELETE FROM likes WHERE repo = ? AND user = ?", (repo.id, user))
        elif not db.execute(
            "SELECT 1 FROM likes WHERE repo = ? AND user = ?", (repo.id, user)
        ).fetchone():
            db.execute("INSERT INTO likes VALUES (?, ?, ?)", (repo.id, user, now()))
        (count,) = db.execute("SELECT likes FROM repos WHERE id = ?", (repo.id,)).fetchone()
        return int(count)


def likers(meta: Meta, repo: Repo, *, limit: int, before: str | None = None) -> list[Like]:
    """Who likes a repository, newest first; those behind a cursor, for a page."""
    return _page(meta, "k.repo = ?", [repo.id], limit, before)


def liked(
    meta: Meta, user: str, who: Identity, *, limit: int, before: str | None = None
) -> list[Like]:
    """What a user likes of that which `who` may see, newest first; those behind a cursor."""
    seen, values = access.seen(who)
    return _page(meta, f"k.user = ? AND {seen}", [user, *values], limit, before)


def likes_of(meta: Meta, user: str) -> int:
    """How many public repositories a user likes."""
    with meta.reading() as db:
        (count,) = db.execute(
            "SELECT count(*) FROM likes k JOIN repos r ON r.id = k.repo"
            " WHERE k.user = ? AND r.private = 0",
            (user,),
        ).fetchone()
    return int(count)


def models_of(meta: Meta, namespace: str, *, most: int) -> int:
    """How many public repositories a namespace has; more than `most` are not counted."""
    with meta.reading() as db:
        (count,) = db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM labels l JOIN tagged t ON t.label = l.id"
            " JOIN repos r ON r.id = t.repo"
            " WHERE l.kind = 'author' AND l.name = ? AND r.private = 0 LIMIT ?)",
            (namespace, most),
        ).fetchone()
    return int(count)


def _page(
    meta: Meta, condition: str, values: Sequence[int | str], limit: int, before: str | None
) -> list[Like]:
    date, user, repo = (f"{before}  " if before else "\U0010ffff  ").split(" ")[:3]
    with meta.reading() as db:
        rows = db.execute(
            f"{LIKES} WHERE {condition} AND k.date <= ? AND (k.date, k.user, r.name) < (?, ?, ?)"
            " ORDER BY k.date DESC, k.user DESC, r.name DESC LIMIT ?",
            (*values, date, date, user, repo, limit),
        ).fetchall()
    return [Like(name, who, fullname, since) for name, who, fullname, since in rows]
