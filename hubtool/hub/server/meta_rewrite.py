"""History made anew: a branch becomes one commit, or large files go from all commits.

Both leave the branches and tags of a repository pointing to commits that hold what they should,
and remove the commits that none of them reaches any more; also those that a deleted branch had
left behind, whose parents may be gone now. All of it is one transaction. Contents stay in the store
until gc finds that nobody names them. A request that is sent again finds it done.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, replace

from hubtool.hub.server import audit, errors, meta_history
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.meta import Commit, Entry, Meta, Repo, check_repo, put_card

__all__ = ["Large", "large_files", "remove_large", "squash"]

REACHED = """
WITH RECURSIVE reached(oid) AS (
    SELECT oid FROM refs WHERE repo = ?1
    UNION SELECT c.parent FROM reached JOIN commits c ON c.oid = reached.oid
    WHERE c.parent IS NOT NULL)"""
"""SQL: the commits of a repository that a branch or a tag leads to."""


@dataclass(frozen=True)
class Large:
    """A large file that commits of a repository hold: the path that it came by first, git's name
    for its pointer, when it came, and to which branch ("" where that is gone)."""

    sha256: str
    path: str
    oid: str
    size: int
    date: str
    branch: str


def squash(meta: Meta, repo: Repo, branch: str, message: str, *, by: Actor) -> Commit:
    """Let a branch be a single commit with the files that it has, and no parent.

    Commits that other branches or tags reach stay theirs. The commit that is there where it is such
    a one with this message already. Raises Refusal 404 for an unknown branch, 400 for a tag.
    """
    title, _, rest = message.strip().partition("\n")
    with meta.writing() as db:
        check_repo(db, repo)
        head = _head(db, repo, branch)
        if head.parent is None and (head.title, head.message) == (title, rest.strip()):
            return head
        db.execute(
            "UPDATE commits SET branch = '' WHERE repo = ? AND branch = ?", (repo.id, branch)
        )
        commit = meta_history.put_commit(
            db,
            (repo.id, repo.name),
            parent=None,
            tree=meta_history.tree_of(db, head.oid),
            title=title,
            message=rest.strip(),
            author=by.user,
            branch=branch,
            digest=None,
        )
        if branch == "main":
            db.execute("UPDATE repos SET modified = ? WHERE id = ?", (commit.date, repo.id))
        gone = _forget_unreached(db, repo.id)
        audit.note(db, by, "repo.squash", repo.name, branch=branch, former=head.oid, gone=gone)
        return commit


def large_files(meta: Meta, repo: Repo) -> list[Large]:
    """The large files of all commits of a repository, each content once, newest first."""
    with meta.reading() as db:
        rows = db.execute(
            "SELECT e.sha256, e.path, e.oid, e.size, min(c.date), c.branch"
            " FROM (SELECT tree, min(date) AS date, branch FROM commits WHERE repo = ?"
            " GROUP BY tree) c CROSS JOIN entries e ON e.tree = c.tree"
            " WHERE e.lfs GROUP BY e.sha256 ORDER BY 5 DESC, 1",
            (repo.id,),
        ).fetchall()
    return [Large(*row) for row in rows]


def remove_large(meta: Meta, repo: Repo, sha256s: Collection[str], *, by: Actor) -> int:
    """Take these large files out of every commit of a repository; how many of them it had.

    Commits that held one, and all that follow on them, are made anew: with the same title, author
    and date, and another oid. Branches and tags move to the new ones.
    """
    with meta.writing() as db:
        check_repo(db, repo)
        _forget_unreached(db, repo.id)
        wanted = set(sha256s)
        anew: dict[str, str] = {}
        found: set[str] = set()
        trees = _Trees(db, wanted)
        for oid, parent in _parents_first(db, repo.id):
            tree = meta_history.tree_of(db, oid)
            kept = trees.without(tree)
            found |= trees.had(tree)
            if kept != tree or parent in anew:
                anew[oid] = _made_anew(db, repo, oid, kept, anew.get(parent or "", parent))
        if not found:
            return 0
        for old, new in anew.items():
            db.execute("UPDATE refs SET oid = ? WHERE repo = ? AND oid = ?", (new, repo.id, old))
        _forget_unreached(db, repo.id)
        head = _head(db, repo, "main")
        files = meta_history.entries(db, meta_history.tree_of(db, head.oid))
        if not any(entry.path == "README.md" for entry in files):
            put_card(db, repo.id, {}, [])
        audit.note(db, by, "repo.lfs.remove", repo.name, files=sorted(found), commits=len(anew))
        return len(found)


class _Trees:
    """The trees of a repository without some large files, each looked at once."""

    def __init__(self, db: sqlite3.Connection, unwanted: Collection[str]) -> None:
        self._db, self._unwanted = db, unwanted
        self._known: dict[int, tuple[int, set[str]]] = {}

    def without(self, tree: int) -> int:
        """The tree with the other files of this one; the same where it has none of them."""
        return self._look(tree)[0]

    def had(self, tree: int) -> set[str]:
        """Which of the files a tree has."""
        return self._look(tree)[1]

    def _look(self, tree: int) -> tuple[int, set[str]]:
        if tree not in self._known:
            files = meta_history.entries(self._db, tree)
            had = {entry.sha256 for entry in files if self._is_unwanted(entry)}
            kept = [entry for entry in files if not self._is_unwanted(entry)]
            self._known[tree] = (meta_history.put_tree(self._db, kept) if had else tree, had)
        return self._known[tree]

    def _is_unwanted(self, entry: Entry) -> bool:
        return entry.lfs and entry.sha256 in self._unwanted


def _head(db: sqlite3.Connection, repo: Repo, branch: str) -> Commit:
    """Where a branch is. Refusal 404 where there is none, 400 for a tag."""
    oid = meta_history.ref(db, repo.id, "branch", branch)
    head = None if oid is None else meta_history.commit_of(db, repo.id, oid)
    if head is not None:
        return head
    if meta_history.ref(db, repo.id, "tag", branch) is not None:
        raise errors.bad_request(f"'{branch}' of '{repo.name}' is a tag: name a branch.")
    raise errors.revision_not_found(repo.name, branch)


def _forget_unreached(db: sqlite3.Connection, repo: int) -> int:
    """Remove the commits of a repository that no branch or tag reaches, and the trees that nobody
    has then; how many commits."""
    rows = db.execute(
        f"{REACHED} SELECT oid, tree FROM commits WHERE repo = ?1 AND oid NOT IN reached", (repo,)
    ).fetchall()
    db.executemany("DELETE FROM commits WHERE oid = ?", [(oid,) for oid, _ in rows])
    meta_history.forget_trees(db, {tree for _, tree in rows})
    return len(rows)


def _parents_first(db: sqlite3.Connection, repo: int) -> list[tuple[str, str | None]]:
    """The commits of a repository with their parents, none before its parent."""
    parents = dict(db.execute("SELECT oid, parent FROM commits WHERE repo = ?", (repo,)).fetchall())
    ordered: dict[str, str | None] = {}
    for oid in parents:
        line: list[str] = []
        following: str | None = oid
        while following is not None and following not in ordered:
            line.append(following)
            following = parents[following]
        ordered |= {one: parents[one] for one in reversed(line)}
    return list(ordered.items())


def _made_anew(db: sqlite3.Connection, repo: Repo, oid: str, tree: int, parent: str | None) -> str:
    """A commit once more, with other files or another parent; its oid. A request that made it does
    not find it any more when it comes again."""
    (branch,) = db.execute("SELECT branch FROM commits WHERE oid = ?", (oid,)).fetchone()
    former = meta_history.commit_of(db, repo.id, oid)
    assert former is not None, "it has just been listed"
    made = replace(former, parent=parent)
    return meta_history.insert_commit(
        db, (repo.id, repo.name), made, tree=tree, branch=branch, digest=None
    ).oid
