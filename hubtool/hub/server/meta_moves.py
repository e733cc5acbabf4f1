"""Moving a repository to another name, and finding it by one that it had.

A repository is known by its number everywhere but in `repos`, so its history, refs, likes, counts
and grants go along by themselves, and its commits keep their oids. The name that it leaves stays
known until somebody else's repository takes it, or the repository is deleted (see `moves_tables`).
"""

from __future__ import annotations

from hubtool.hub.server import audit, errors
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.meta import REPO, REPOS, Meta, Repo, check_name, repo_of

__all__ = ["former", "move"]


def former(meta: Meta, name: str) -> Repo | None:
    """The repository that had this name, if nobody has it now."""
    with meta.reading() as db:
        row = db.execute(
            f"SELECT {REPO} FROM moved o CROSS JOIN {REPOS} WHERE o.name = ? AND r.id = o.repo"
            " AND NOT EXISTS (SELECT 1 FROM repos WHERE name = o.name)",
            (name,),
        ).fetchone()
    return None if row is None else repo_of(row)


def move(meta: Meta, repo: Repo, name: str, *, by: Actor) -> None:
    """Give a repository another name; nothing happens where it has that name already.

    Raises Refusal 400 for a name that none can have, 404 where it was deleted or moved since it was
    looked up, 409 where another one has the name.
    """
    check_name(name)
    owner = name.partition("/")[0] if "/" in name else ""
    with meta.writing() as db:
        row = db.execute("SELECT id FROM repos WHERE name = ?", (name,)).fetchone()
        if row is not None and row[0] == repo.id:
            return
        if row is not None:
            raise errors.conflict(f"There is a repository '{name}' already.")
        if not db.execute(
            "UPDATE repos SET name = ?, author = ? WHERE id = ? AND name = ?",
            (name, owner, repo.id, repo.name),
        ).rowcount:
            raise errors.repo_not_found(repo.name)
        audit.note(db, by, "repo.move", name, source=repo.name)
