"""Trees, commits and refs as rows: what a transaction reads and writes of a repository's history.

Every function takes the connection of the transaction that it is part of. Names follow from
content, as in git: a file's oid is git's own, a tree's hash covers its entries, a commit's oid
covers its tree and its parent, so that one name stands for one whole history. (They are not git's
tree and commit objects: nobody asks for those here.)
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime

__all__ = [
    "Commit",
    "Entry",
    "commit_of",
    "delete_ref",
    "entries",
    "entry_of",
    "forget",
    "forget_trees",
    "insert_commit",
    "moment",
    "name_of_tree",
    "now",
    "oid_of",
    "pointer",
    "put_commit",
    "put_ref",
    "put_tree",
    "ref",
    "tree_of",
]

COMMIT = "oid, parent, title, message, date, author"


@dataclass(frozen=True)
class Entry:
    """A file of a commit; `oid` is git's name for its content, or for the LFS pointer to it."""

    path: str
    oid: str
    size: int
    sha256: str
    lfs: bool


@dataclass(frozen=True)
class Commit:
    """One state of a repository, and how it came to be."""

    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    author: str


def oid_of(content: bytes) -> str:
    """Git's name for a content that is at hand."""
    framed = b"blob %d\0%s" % (len(content), content)
    return hashlib.sha1(framed, usedforsecurity=False).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """What git holds in place of a large file.

    https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
        sha256.encode(),
        size,
    )


def now() -> str:
    """This moment, as the Hub writes it: 2026-01-31T12:00:00.000Z."""
    return moment(datetime.now(UTC))


def moment(date: datetime) -> str:
    """A moment as the Hub writes it; one without a time zone is of UTC."""
    known = date if date.tzinfo else date.replace(tzinfo=UTC)
    text = known.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def entries(db: sqlite3.Connection, tree: int) -> list[Entry]:
    """The files of a tree, sorted by path."""
    rows = db.execute(
        "SELECT path, oid, size, sha256, lfs FROM entries WHERE tree = ? ORDER BY path", (tree,)
    )
    return [entry_of(row) for row in rows]


def entry_of(row: tuple[str, str, int, str, int]) -> Entry:
    """The file that a row of `entries` says."""
    path, oid, size, sha256, lfs = row
    return Entry(path, oid, size, sha256, bool(lfs))


def put_tree(db: sqlite3.Connection, found: Iterable[Entry]) -> int:
    """The tree that holds these files, new or known."""
    found = list(found)
    name = name_of_tree(found)
    known = db.execute("SELECT id FROM trees WHERE hash = ?", (name,)).fetchone()
    if known:
        return int(known[0])
    (tree,) = db.execute("INSERT INTO trees(hash) VALUES (?) RETURNING id", (name,)).fetchone()
    db.executemany(
        "INSERT INTO entries(tree, path, oid, size, sha256, lfs) VALUES (?, ?, ?, ?, ?, ?)",
        [(tree, *astuple(entry)) for entry in found],
    )
    return int(tree)


def name_of_tree(found: Iterable[Entry]) -> str:
    """The hash by which the tree of these files is known."""
    return _sha1(sorted(astuple(entry) for entry in found))


def tree_of(db: sqlite3.Connection, oid: str) -> int:
    """The tree of a commit."""
    (tree,) = db.execute("SELECT tree FROM commits WHERE oid = ?", (oid,)).fetchone()
    return int(tree)


def commit_of(db: sqlite3.Connection, repo: int, oid: str) -> Commit | None:
    """A repository's commit by its full oid."""
    row = db.execute(
        f"SELECT {COMMIT} FROM commits WHERE oid = ? AND repo = ?", (oid, repo)
    ).fetchone()
    return Commit(*row) if row else None


def put_commit(
    db: sqlite3.Connection,
    repo: tuple[int, str],
    *,
    parent: str | None,
    tree: int,
    title: str,
    message: str,
    author: str,
    branch: str,
    digest: str | None,
) -> Commit:
    """A new commit of the repository (id, name), dated now, and the branch moved to it."""
    made = Commit("", parent, title, message, now(), author)
    commit = insert_commit(db, repo, made, tree=tree, branch=branch, digest=digest)
    put_ref(db, repo[0], "branch", branch, commit.oid)
    return commit


def insert_commit(
    db: sqlite3.Connection,
    repo: tuple[int, str],
    commit: Commit,
    *,
    tree: int,
    branch: str,
    digest: str | None,
) -> Commit:
    """A commit of the repository (id, name), under the oid that follows from what it is."""
    number, name = repo
    (hashed,) = db.execute("SELECT hash FROM trees WHERE id = ?", (tree,)).fetchone()
    _, parent, title, message, date, author = astuple(commit)
    oid = _sha1([name, parent, hashed, title, message, author, date])
    db.execute(
        f"INSERT OR IGNORE INTO commits({COMMIT}, repo, tree, branch, digest)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (oid, parent, title, message, date, author, number, tree, branch, digest),
    )
    return replace(commit, oid=oid)


def ref(db: sqlite3.Connection, repo: int, kind: str, name: str) -> str | None:
    """Where a branch or tag points."""
    row = db.execute(
        "SELECT oid FROM refs WHERE repo = ? AND kind = ? AND name = ?", (repo, kind, name)
    ).fetchone()
    return row[0] if row else None


def put_ref(db: sqlite3.Connection, repo: int, kind: str, name: str, oid: str) -> None:
    """Let a branch or tag point to a commit."""
    db.execute("INSERT OR REPLACE INTO refs VALUES (?, ?, ?, ?)", (repo, kind, name, oid))


def delete_ref(db: sqlite3.Connection, repo: int, kind: str, name: str) -> None:
    """Remove a branch or tag; a request that made a commit on that branch may be sent again."""
    db.execute("DELETE FROM refs WHERE repo = ? AND kind = ? AND name = ?", (repo, kind, name))
    if kind == "branch":
        db.execute("UPDATE commits SET branch = '' WHERE repo = ? AND branch = ?", (repo, name))


def forget(db: sqlite3.Connection, repo: int) -> None:
    """Remove a repository's refs and commits, and the trees that nobody else has."""
    trees = db.execute("SELECT DISTINCT tree FROM commits WHERE repo = ?", (repo,)).fetchall()
    db.execute("DELETE FROM refs WHERE repo = ?", (repo,))
    db.execute("DELETE FROM commits WHERE repo = ?", (repo,))
    forget_trees(db, [tree for (tree,) in trees])


def forget_trees(db: sqlite3.Connection, trees: Iterable[int]) -> None:
    """Remove those of these trees that no commit has."""
    for tree in trees:
        if not db.execute("SELECT 1 FROM commits WHERE tree = ?", (tree,)).fetchone():
            db.execute("DELETE FROM entries WHERE tree = ?", (tree,))
            db.execute("DELETE FROM trees WHERE id = ?", (tree,))


def _sha1(content: object) -> str:
    text = json.dumps(content, separators=(",", ":"))
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
