"""Repositories and what is known of them: names, cards, counts, refs, commits, files.

One SQLite database (`hub.db`, see `meta_database`) that threads and processes share. Metadata says
which content a file has, by its sha256; the content itself lies in the store. Content is always
stored before the transaction that names it, so what a commit names is there.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubtool.hub.server import audit, errors, index_tables, meta_history
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.meta_database import Database
from hubtool.hub.server.meta_history import Commit, Entry
from hubtool.hub.server.store import Store

__all__ = ["Commit", "Entry", "Meta", "Repo"]

LFS = """
*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy
*.npz *.onnx *.onnx_data *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors
saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz *.zip *.zst *tfevents*
"""
ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS.split())
NAME = re.compile(r"([\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)
OID = re.compile(r"[0-9a-f]{7,40}")
NOBODY = Actor()
REPO = (
    "r.id, r.name, r.private, r.created, r.modified, m.oid, r.downloads, r.likes,"
    " r.gated, c.tags, c.card, c.pipeline_tag, c.library"
)
REPOS = (
    "repos r JOIN cards c ON c.repo = r.id"
    " JOIN refs m ON m.repo = r.id AND m.kind = 'branch' AND m.name = 'main'"
)


@dataclass(frozen=True)
class Repo:
    """A repository as it stands: `head` is where main points, `tags` are made from `card`; gated:
    "auto" or "manual" where its files are for those who were granted access, else ""."""

    id: int
    name: str
    private: bool
    created: str
    modified: str
    head: str
    downloads: int
    likes: int
    gated: str
    tags: list[str]
    card: dict[str, Any]
    pipeline_tag: str | None
    library: str | None


class Meta:
    """The metadata of the hub in a folder, which is made where it is missing."""

    def __init__(self, root: Path) -> None:
        self._database = Database(root / "hub.db")
        self._store = Store(root)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection that sees one state while the block lasts."""
        return self._database.reading()

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction: all of the block, or nothing of it."""
        return self._database.writing()

    def careless(self) -> AbstractContextManager[sqlite3.Connection]:
        """Single statements that a power cut may take back, and the journal does not tell."""
        return self._database.careless()

    def create(self, name: str, *, private: bool = False, by: Actor = NOBODY) -> Repo:
        """A new repository, whose first commit holds .gitattributes. Refusal 409 if it exists."""
        check_name(name)
        with self._store.writer() as writer:
            writer.write(ATTRIBUTES.encode())
            blob = writer.finish()
        date = meta_history.now()
        owner = name.partition("/")[0] if "/" in name else ""
        with self.writing() as db:
            if db.execute("SELECT 1 FROM repos WHERE name = ?", (name,)).fetchone():
                raise errors.conflict(f"There is a repository '{name}' already.")
            (number,) = db.execute(
                "INSERT INTO repos(name, author, private, created, modified)"
                " VALUES (?, ?, ?, ?, ?) RETURNING id",
                (name, owner, private, date, date),
            ).fetchone()
            put_card(db, number, {}, [])
            entry = Entry(".gitattributes", blob.oid, blob.size, blob.sha256, False)
            meta_history.put_commit(
                db,
                (number, name),
                parent=None,
                tree=meta_history.put_tree(db, [entry]),
                title="initial commit",
                message="",
                author=by.user,
                branch="main",
                digest=None,
            )
            audit.note(db, by, "repo.create", name, private=private)
            return _repo(db, name)

    def delete(self, name: str, *, fresh: bool = False, by: Actor = NOBODY) -> None:
        """Remove a repository and its history; contents stay in the store.

        fresh: only while it holds nothing but its first commit. Refusal 403 where it holds more.
        """
        with self.writing() as db:
            repo = _repo(db, name)
            number = db.execute(
                "SELECT count(*) + EXISTS (SELECT 1 FROM commits c JOIN entries e USING (tree)"
                " WHERE c.repo = ?1 AND e.path <> '.gitattributes') FROM commits WHERE repo = ?1",
                (repo.id,),
            )  # a history that was squashed is one commit too
            if fresh and number.fetchone()[0] > 1:
                raise errors.forbidden(
                    f"'{name}' holds more than its first commit, so to delete it needs the role"
                    " 'admin'."
                )
            index_tables.forget(db, repo.id, repo.tags)
            db.execute("DELETE FROM cards WHERE repo = ?", (repo.id,))
            meta_history.forget(db, repo.id)
            db.execute("DELETE FROM repos WHERE id = ?", (repo.id,))
            audit.note(db, by, "repo.delete", name)

    def repo(self, name: str) -> Repo:
        """A repository by its name. Refusal 404 if there is none."""
        with self.reading() as db:
            return _repo(db, name)

    def set_private(self, name: str, private: bool, *, by: Actor = NOBODY) -> None:
        """Hide a repository from all who have no right to it, or show it again."""
        with self.writing() as db:
            repo = _repo(db, name)
            db.execute("UPDATE repos SET private = ? WHERE id = ?", (private, repo.id))
            audit.note(db, by, "repo.visibility", name, private=private)

    def set_gated(self, name: str, gated: str, *, by: Actor = NOBODY) -> None:
        """Keep a repository's files for those who ask: whoever does ("auto"), or whom its admins
        let in ("manual"); or for nobody in particular ("")."""
        with self.writing() as db:
            repo = _repo(db, name)
            db.execute("UPDATE repos SET gated = ? WHERE id = ?", (gated, repo.id))
            audit.note(db, by, "repo.gated", name, gated=gated or False)

    def resolve(self, repo: Repo, revision: str) -> Commit:
        """What a branch, a tag, an oid or its beginning (7 digits or more) stands for.

        Refusal 404 where it stands for nothing, or for several commits.
        """
        with self.reading() as db:
            for kind in ("branch", "tag"):
                oid = meta_history.ref(db, repo.id, kind, revision)
                if oid is not None:
                    return self._commit(db, repo, oid, revision)
            if not OID.fullmatch(revision):
                raise errors.revision_not_found(repo.name, revision)
            found = db.execute(
                "SELECT oid FROM commits WHERE oid >= ? AND oid < ? AND repo = ? LIMIT 2",
                (revision, revision + "g", repo.id),
            ).fetchall()
            if len(found) != 1:
                raise errors.revision_not_found(repo.name, revision)
            return self._commit(db, repo, found[0][0], revision)

    def files(self, oid: str) -> list[Entry]:
        """All files of a commit, sorted by path; none if there is no such commit."""
        with self.reading() as db:
            row = db.execute("SELECT tree FROM commits WHERE oid = ?", (oid,)).fetchone()
            return meta_history.entries(db, row[0]) if row else []

    def entry(self, oid: str, path: str) -> Entry | None:
        """One file of a commit, if it has it."""
        with self.reading() as db:
            row = db.execute(
                "SELECT e.path, e.oid, e.size, e.sha256, e.lfs FROM commits c"
                " JOIN entries e ON e.tree = c.tree WHERE c.oid = ? AND e.path = ?",
                (oid, path),
            ).fetchone()
            return meta_history.entry_of(row) if row else None

    def refs(self, repo: Repo) -> dict[str, list[tuple[str, str]]]:
        """The repository's branches and tags, each with the commit it points to, by name."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT kind, name, oid FROM refs WHERE repo = ? ORDER BY name", (repo.id,)
            ).fetchall()
        return {
            "branches": [(name, oid) for kind, name, oid in rows if kind == "branch"],
            "tags": [(name, oid) for kind, name, oid in rows if kind == "tag"],
        }

    def log(self, repo: Repo, oid: str, *, limit: int, before: str | None = None) -> list[Commit]:
        """A commit and its ancestors, newest first; or the ancestors of `before`, for a page."""
        found: list[Commit] = []
        with self.reading() as db:
            start = meta_history.commit_of(db, repo.id, before or oid)
            following = start.parent if start and before else before or oid
            while following is not None and len(found) < limit:
                commit = meta_history.commit_of(db, repo.id, following)
                if commit is None:
                    raise errors.revision_not_found(repo.name, following)
                found.append(commit)
                following = commit.parent
        return found

    def count_download(self, repo: Repo) -> None:
        """One download more. A count that cannot be kept is lost, and no download for it."""
        with suppress(sqlite3.OperationalError), self._database.careless() as db:
            db.execute("UPDATE repos SET downloads = downloads + 1 WHERE id = ?", (repo.id,))

    def create_ref(self, repo: Repo, kind: str, name: str, oid: str, *, by: Actor = NOBODY) -> None:
        """A new branch or tag. Refusal 409 if it exists, 404 if there is no such commit."""
        check_ref(name)
        with self.writing() as db:
            check_repo(db, repo)
            if meta_history.ref(db, repo.id, kind, name) is not None:
                raise errors.conflict(f"There is a {kind} '{name}' in '{repo.name}' already.")
            self._commit(db, repo, oid, oid)
            meta_history.put_ref(db, repo.id, kind, name, oid)
            audit.note(db, by, f"{kind}.create", repo.name, name=name, commit=oid)

    def delete_ref(self, repo: Repo, kind: str, name: str, *, by: Actor = NOBODY) -> None:
        """Remove a branch or tag. Refusal 404 if there is none, 403 for main."""
        if (kind, name) == ("branch", "main"):
            raise errors.forbidden("The branch 'main' cannot be deleted.")
        with self.writing() as db:
            check_repo(db, repo)
            oid = meta_history.ref(db, repo.id, kind, name)
            if oid is None:
                raise errors.revision_not_found(repo.name, name)
            meta_history.delete_ref(db, repo.id, kind, name)
            audit.note(db, by, f"{kind}.delete", repo.name, name=name, commit=oid)

    def _commit(self, db: sqlite3.Connection, repo: Repo, oid: str, revision: str) -> Commit:
        commit = meta_history.commit_of(db, repo.id, oid)
        if commit is None:
            raise errors.revision_not_found(repo.name, revision)
        return commit


def check_name(name: str) -> None:
    """Raises Refusal 400 unless the Hub would take it as a repository's name."""
    if (
        not NAME.fullmatch(name)
        or any(part[0] in "-." or part[-1] in "-." for part in name.split("/"))
        or "--" in name
        or ".." in name
        or name.endswith(".git")
    ):
        raise errors.bad_request(
            f"'{name}' cannot be a repository's name: 'name' or 'namespace/name', each of 1 to 96"
            " letters, digits, '-', '_', '.', without '--', '..', '.git' or an outer '-' or '.'."
        )


def check_ref(name: str) -> None:
    """Raises Refusal 400 unless git would take it as a branch's or tag's name.

    https://git-scm.com/docs/git-check-ref-format; what looks like an oid is refused too.
    """
    parts = name.split("/")
    if (
        not 1 <= len(name.encode(errors="replace")) <= 255
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
        or re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{", name)
        or name.endswith(".")
        or name == "@"
        or OID.fullmatch(name)
    ):
        raise errors.bad_request(f"'{name}' cannot be the name of a branch or tag.")


def check_repo(db: sqlite3.Connection, repo: Repo) -> None:
    """Raises Refusal 404 if the repository was deleted since it was looked up."""
    if not db.execute("SELECT 1 FROM repos WHERE id = ?", (repo.id,)).fetchone():
        raise errors.repo_not_found(repo.name)


def put_card(db: sqlite3.Connection, repo: int, card: dict[str, Any], tags: list[str]) -> None:
    """Let a repository have this card, and be found by these tags."""
    (name,) = db.execute("SELECT name FROM repos WHERE id = ?", (repo,)).fetchone()
    row = db.execute("SELECT tags FROM cards WHERE repo = ?", (repo,)).fetchone()
    index_tables.put_labels(db, repo, json.loads(row[0]) if row else [], tags)
    index_tables.put_text(db, repo, name, tags, card)
    task, library = (
        found if isinstance(found := card.get(key), str) else None
        for key in ("pipeline_tag", "library_name")
    )
    db.execute(
        "INSERT OR REPLACE INTO cards(repo, tags, pipeline_tag, library, card)"
        " VALUES (?, ?, ?, ?, ?)",
        (repo, json.dumps(tags), task, library, json.dumps(card)),
    )


def _repo(db: sqlite3.Connection, name: str) -> Repo:
    row = db.execute(f"SELECT {REPO} FROM {REPOS} WHERE r.name = ?", (name,)).fetchone()
    if row is None:
        raise errors.repo_not_found(name)
    return repo_of(row)


def repo_of(row: Sequence[Any]) -> Repo:
    """The repository that a row of REPO says; tags and card may be parsed already."""
    number, name, private, created, modified, head, downloads, likes, gated, *rest = row
    tags, card, pipeline_tag, library = rest
    return Repo(
        id=number,
        name=name,
        private=bool(private),
        created=created,
        modified=modified,
        head=head,
        downloads=downloads,
        likes=likes,
        gated=gated,
        tags=json.loads(tags) if isinstance(tags, str) else tags,
        card=json.loads(card) if isinstance(card, str) else card,
        pipeline_tag=pipeline_tag,
        library=library,
    )
