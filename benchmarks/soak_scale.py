"""A hub of very many models, held against slow plain computations: part of `make soak`.

    python benchmarks/soak_scale.py [--models 2000000] [--folder DIR] [--asked 4]

The models of benchmarks/search.py get what a real hub would have: a first commit each, with a file
in it, and a journal that tells of all. (A folder that has them already is used again.) Then

- searches of every kind are asked over HTTP, three pages of each, and the same is computed without
  any index, by looking at every model;
- the journal is written anew, the hub checked (`fsck --quick`), copied (`backup --link`), and its
  database thrown away and rebuilt from the journal (`reindex`), each in a process of its own, whose
  time and peak memory are told; no peak may be over PEAK_MB, whatever the number of models;
- the copy is checked too, and the rebuilt database must answer every search as before.

Exit 1 where anything differs, is damaged or needs too much memory.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import http.client
import json
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import search

from hubtool.hub.server import meta_history
from hubtool.hub.server.index_tables import fold, text_of
from hubtool.hub.server.meta import ATTRIBUTES
from hubtool.hub.server.meta_history import Entry
from hubtool.hub.server.store import Store

PEAK_MB = 600
"""What looking after a hub may take in memory, however many models it has. Rebuilding takes most:
50 MB of SQLite's pages, and a few times as much for sorting and for the index of words."""
PAGES = 3
NEXT = re.compile(r'<[^>]*(/api/models\?[^>]*)>; rel="next"')
CARE = """
import re, sys
from pathlib import Path
from hubtool.cli import main
try:
    main()
finally:
    (peak,) = re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(f"peak {peak}", file=sys.stderr)
"""


def give_history(root: Path) -> None:
    """Let every model have a first commit, as if it had been made by the hub."""
    with Store(root).writer() as writer:
        writer.write(ATTRIBUTES.encode())
        blob = writer.finish()
    entry = Entry(".gitattributes", blob.oid, blob.size, blob.sha256, False)
    name = meta_history.name_of_tree([entry])

    def oid(repo: str, date: str) -> str:
        told = [repo, None, name, "initial commit", "", "soak", date]
        return hashlib.sha1(json.dumps(told, separators=(",", ":")).encode()).hexdigest()

    db = sqlite3.connect(root / "hub.db", isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -500000")
    db.create_function("oid_of", 2, oid, deterministic=True)
    db.execute("BEGIN")
    tree = meta_history.put_tree(db, [entry])
    db.execute(
        "INSERT INTO commits(oid, repo, parent, tree, title, message, author, date, branch)"
        " SELECT oid_of(name, created), id, NULL, ?, 'initial commit', '', 'soak', created, 'main'"
        " FROM repos ORDER BY 1",
        (tree,),
    )
    db.execute("DELETE FROM refs")
    db.execute(
        "INSERT INTO refs(repo, kind, name, oid)"
        " SELECT id, 'branch', 'main', oid_of(name, created) FROM repos ORDER BY 1"
    )
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def numbers(root: Path) -> tuple[int, int]:
    """How many models and commits there are."""
    db = sqlite3.connect(f"file:{root / 'hub.db'}?mode=ro", uri=True)
    (models,) = db.execute("SELECT count(*) FROM repos").fetchone()
    (commits,) = db.execute("SELECT count(*) FROM commits").fetchone()
    db.close()
    return models, commits


@dataclass
class Plain:
    """One question, answered by looking at every model: the first pages of what has all the tags,
    the author and the words, largest value first, the newer first among equals."""

    path: str
    tags: set[str] = field(default_factory=set)
    author: str | None = None
    words: list[str] = field(default_factory=list)
    sort: str | None = None
    found: list[tuple[Any, int]] = field(default_factory=list)

    @classmethod
    def of(cls, path: str) -> Plain:
        asked = parse_qs(urlsplit(path).query)
        (author,) = asked.get("author", [None])
        (sort,) = asked.get("sort", [None])
        words = [fold(word) for text in asked.get("search", []) for word in text.split()]
        return cls(path, set(asked.get("filter", [])), author, words, sort)

    def look(self, model: Model) -> None:
        if not self.tags <= model.tags or self.author not in (None, model.author):
            return
        if all(word in model.text for word in self.words):
            key = (model.values[self.sort], model.number)
            if len(self.found) < PAGES * search.PAGE:
                heapq.heappush(self.found, key)
            else:
                heapq.heappushpop(self.found, key)

    @property
    def answer(self) -> list[int]:
        return [number for _, number in sorted(self.found, reverse=True)]


@dataclass
class Model:
    """A model as its row and its card tell it."""

    number: int
    author: str
    tags: set[str]
    text: str
    values: dict[str | None, Any]


def every(root: Path) -> Iterator[Model]:
    db = sqlite3.connect(f"file:{root / 'hub.db'}?mode=ro", uri=True)
    rows = db.execute(
        "SELECT id, name, author, modified, downloads, likes, tags, card"
        " FROM repos JOIN cards ON repo = id ORDER BY id"
    )
    for number, name, author, modified, downloads, likes, listed, card in rows:
        tags = json.loads(listed)
        values = {None: 0, "lastModified": modified, "downloads": downloads, "likes": likes}
        text = text_of(name, tags, json.loads(card))
        yield Model(number, author, set(tags), text, values)
    db.close()


def told(url: str, path: str) -> list[int]:
    """The models that the hub finds on the first pages."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    found: list[int] = []
    following: str | None = path
    for _ in range(PAGES):
        if following is None:
            break
        connection.request("GET", following)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (path, body)
        found += [int(model["_id"], 16) for model in json.loads(body)]
        link = NEXT.search(answer.headers.get("Link", ""))
        following = link[1] if link else None
    connection.close()
    return found


def ask(root: Path, paths: list[str]) -> list[list[int]]:
    """What a served hub answers to each."""
    with search.served(root) as url:
        return [told(url, path) for path in paths]


def compare(root: Path, paths: list[str], wrong: list[str]) -> list[list[int]]:
    """The answers, held against a look at every model."""
    answers = ask(root, paths)
    began = time.perf_counter()
    questions = [Plain.of(path) for path in paths]
    for model in every(root):
        for question in questions:
            question.look(model)
    for question, found in zip(questions, answers, strict=True):
        if question.answer != found:
            wrong.append(f"{question.path}: {found} in place of {question.answer}")
    some = sum(bool(found) for found in answers)
    print(
        f"searches: {len(paths)}, {some} of them found"
        f" something, {sum(map(len, answers)):,} models in all; a look at every model took"
        f" {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return answers


def care(*words: str, wrong: list[str]) -> dict[str, Any]:
    """A command of `hubtool hub`, in a process of its own; what it tells as JSON."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CARE, "hub", *words], capture_output=True, text=True
    )
    spent = time.perf_counter() - began
    (peak,) = re.findall(r"^peak (\d+)$", done.stderr, re.MULTILINE)
    print(f"| {' '.join(words[:2])} | {spent:.0f} s | {int(peak) / 1000:.0f} MB |", flush=True)
    if done.returncode:
        wrong.append(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    if int(peak) > 1000 * PEAK_MB:
        wrong.append(f"{' '.join(words)} took {int(peak) / 1000:.0f} MB")
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return found


def look_after(root: Path, wrong: list[str]) -> None:
    """The journal anew, a check, a copy and a check of that, and the database from its journal."""
    models, commits = numbers(root)
    print("\n| | time | peak memory |\n|---|--:|--:|")
    hub, copy = ("--hub", str(root), "--json"), root.with_name(f"{root.name}-copy")
    care("reindex", "--journal", *hub, wrong=wrong)
    care("fsck", "--quick", *hub, wrong=wrong)
    care("backup", "--link", str(copy), *hub, wrong=wrong)
    care("fsck", "--quick", "--hub", str(copy), "--json", wrong=wrong)
    rebuilt = care("reindex", *hub, wrong=wrong)
    if (rebuilt.get("models"), rebuilt.get("commits")) != (models, commits):
        wrong.append(f"rebuilt: {rebuilt} of {models} models, {commits} commits")
    (root / "hub.db.old").unlink(missing_ok=True)
    care("fsck", "--quick", *hub, wrong=wrong)
    print()


def campaign(root: Path, models: int, asked: int, wrong: list[str]) -> None:
    """All of it, over a folder."""
    began = time.perf_counter()
    if not (root / "hub.db").exists():
        root.mkdir(parents=True, exist_ok=True)
        search.fill(root, models)
    if numbers(root)[1] == 0:
        give_history(root)
    print(f"\n{numbers(root)[0]:,} models made in {time.perf_counter() - began:.0f} s", flush=True)
    made = search.addresses(root, 7, asked)
    paths = [path for some in made.values() for path in some]
    answers = compare(root, paths, wrong)
    look_after(root, wrong)
    again = ask(root, paths)
    changed = [
        path for path, *both in zip(paths, answers, again, strict=True) if both[0] != both[1]
    ]
    wrong += [f"after rebuilding, {path} is answered otherwise" for path in changed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--asked", type=int, default=4)
    given = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        campaign(given.folder or Path(temporary) / "hub", given.models, given.asked, wrong)
    for told in wrong:
        print(f"WRONG: {told}", file=sys.stderr)
    print(f"wrong: {len(wrong)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
