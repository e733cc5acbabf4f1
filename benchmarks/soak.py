"""The hub's long campaigns: `make soak`. What was acknowledged is there, whatever happened.

    python benchmarks/soak.py [kills] [committers] [scale] [fuzz] [--kills 200] [--committers 64]
                              [--models 2000000] [--minutes 10] [--seed 0]

All four unless some are named.

**Kills.** Three clients push to a server, each to a model of its own: an upload by LFS, then a
commit that names it and brings two more files. The server kills itself (SIGKILL) at a named point:
before an fsync, a rename, a write to the journal, an SQL statement, or between the commit and its
answer. Each time the folder is checked as it lies (fsck), swept, and every acknowledged commit is
looked up; then another server starts over it, and each client sends again what it got no answer to,
which must make one commit. At the end the database is thrown away and rebuilt from its journal.

**Committers.** So many clients commit at once to one model, each its own file, on no parent (all
must land), and then on the same parent (one lands, the others get 412).

**Scale** is soak_scale.py, over so many models; **fuzz** soak_fuzz.py, for so many minutes.

The points come from tests/hub/server/faults.py. Exit 1 where anything is lost, damaged or left.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import soak_fuzz
import soak_scale
from hub.server import faults

from hubtool.hub.server import commits
from hubtool.hub.server.check import check
from hubtool.hub.server.meta import Meta
from hubtool.hub.server.reindex import rebuild
from hubtool.hub.server.run import serve
from hubtool.hub.server.store import Store, Writer

POINTS = {
    "write blob": 12,
    "fsync blob": 12,
    "replace blob": 12,
    "fsync folder": 30,
    "mkdir folder": 6,
    "blob is stored": 12,
    "claim file": 6,
    "sql BEGIN": 20,
    "sql INSERT INTO trees": 4,
    "sql INSERT INTO entries": 12,
    "sql INSERT OR IGNORE INTO commits": 4,
    "sql INSERT OR REPLACE INTO refs": 4,
    "sql UPDATE repos": 4,
    "write journal": 4,
    "fsync journal": 4,
    "sql UPDATE journal": 4,
    "sql COMMIT": 20,
    "commit is made": 4,
}
"""Where a server dies, and about how many times it passes there with every round of pushes."""
PUSHED = 3
"""Rounds that it lives at most."""

CAMPAIGNS = ("kills", "committers", "scale", "fuzz")
CLIENTS = 3
PUSHES = 60
LARGE = 100_000
DEAD = (ConnectionError, http.client.HTTPException, TimeoutError, OSError)
"""What a client sees of a server that is gone."""


def serve_until(root: Path, point: str, turn: int) -> None:
    """Serve a folder, and die when that point comes for the so manieth time."""
    left = turn
    lock = threading.Lock()

    def tell(name: str) -> None:
        nonlocal left
        if name == point:
            with lock:
                left -= 1
                if left == 0:
                    faults.die()

    def after(owner: Any, name: str, said: str, *, first: bool = False) -> None:
        plain = getattr(owner, name)

        def telling(*arguments: Any, **options: Any) -> Any:
            if first:
                tell(said)
            done = plain(*arguments, **options)
            if not first:
                tell(said)
            return done

        setattr(owner, name, telling)

    after(commits, "apply", "commit is made")
    after(Writer, "finish", "blob is stored")
    after(Writer, "write", "write blob", first=True)
    faults.watch(tell)
    serve(root, port=0, announce=lambda url: print(url, flush=True))


class Server:
    """A server in a process of its own, which is going to die."""

    def __init__(self, root: Path, point: str, turn: int) -> None:
        command = [sys.executable, __file__, "--serve", str(root), point, str(turn)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()  # empty: it died before it answered

    def end(self) -> int:
        """Its exit status; it is killed where it has not done so itself."""
        self.process.kill()
        assert self.process.stdout
        self.process.stdout.close()
        return self.process.wait(30)


def ask(url: str, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ndjson(title: str, lines: list[tuple[str, dict[str, Any]]], **header: str) -> bytes:
    every = [("header", {"summary": title, **header}), *lines]
    return b"".join(
        json.dumps({"key": key, "value": value}).encode() + b"\n" for key, value in every
    )


def small(path: str, content: bytes) -> tuple[str, dict[str, Any]]:
    coded = base64.b64encode(content).decode()
    return "file", {"path": path, "content": coded, "encoding": "base64"}


@dataclass
class Push:
    """What a client wants to be there; oid: the answer that it got."""

    model: str
    title: str
    large: bytes
    oid: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.large).hexdigest()

    @property
    def body(self) -> bytes:
        oid = {"path": "large.bin", "algo": "sha256", "oid": self.sha256, "size": len(self.large)}
        card = f"---\ntags: [soak]\n---\n# {self.title}\n".encode()
        lines = [("lfsFile", oid), small("README.md", card), small("title", self.title.encode())]
        return ndjson(self.title, lines)

    def send(self, url: str) -> None:
        """All of it, from the beginning. Raises DEAD."""
        wanted = {"operation": "upload", "objects": [{"oid": self.sha256, "size": len(self.large)}]}
        path = f"/{self.model}.git/info/lfs/objects/batch"
        status, said = ask(url, "POST", path, json.dumps(wanted).encode())
        assert status == 200, said
        actions = json.loads(said)["objects"][0].get("actions")
        if actions is not None:
            parts = urlsplit(actions["upload"]["href"])
            status, said = ask(url, "PUT", f"{parts.path}?{parts.query}", self.large)
            assert status == 200, said
        status, said = ask(url, "POST", f"/api/models/{self.model}/commit/main", self.body)
        assert status == 200, said
        self.oid = json.loads(said)["commitOid"]


@dataclass
class Client:
    """Pushes to one model, one after another, and remembers what it was told."""

    model: str
    made: bool = False
    waiting: Push | None = None
    pushed: list[Push] = field(default_factory=list)
    retried: int = 0
    refused: list[str] = field(default_factory=list)

    def work(self, url: str, pushes: int) -> None:
        """Push until that many are done or the server is gone; first what got no answer."""
        try:
            if not self.made:
                name = json.dumps({"name": self.model}).encode()
                status, said = ask(url, "POST", "/api/repos/create", name)
                assert status in (200, 409), said
                self.made = True
            for _ in range(pushes):
                self.retried += self.waiting is not None
                self.waiting = self.waiting or Push(
                    self.model, f"{self.model} {len(self.pushed)}", os.urandom(LARGE)
                )
                self.waiting.send(url)
                self.pushed.append(self.waiting)
                self.waiting = None
        except DEAD:
            pass
        except AssertionError as error:
            self.refused.append(f"{self.model}: {error}")


@dataclass
class Found:
    """What went wrong, in words."""

    wrong: list[str] = field(default_factory=list)

    def expect(self, good: bool, told: str) -> None:
        if not good:
            self.wrong.append(told)
            print(f"WRONG: {told}", file=sys.stderr)


def look(root: Path, clients: list[Client], found: Found, after: str) -> int:
    """Check a folder that no server has open: its commits."""
    checked = check(root)
    for problem in checked.problems:
        found.expect(False, f"{after}: {problem}")
    Store(root).sweep()
    left = sorted(path.name for path in (root / "tmp").iterdir())
    found.expect(not left, f"{after}: tmp/ holds {left}")
    meta = Meta(root)
    try:
        for client in clients:
            if not client.pushed:
                continue
            repo = meta.repo(client.model)
            log = meta.log(repo, repo.head, limit=1_000_000)
            titles = Counter(commit.title for commit in log)
            twice = [title for title, count in titles.items() if count > 1]
            found.expect(not twice, f"{after}: more than one commit of {twice}")
            there = {commit.oid for commit in log}
            for push in client.pushed:
                found.expect(push.oid in there, f"{after}: {push.title}, {push.oid}, is lost")
            last = client.pushed[-1]
            entries = {entry.path: entry for entry in meta.files(last.oid)}
            same = "large.bin" in entries and entries["large.bin"].sha256 == last.sha256
            found.expect(same, f"{after}: {last.title} holds other files")
    finally:
        meta.close()
    return checked.commits


def kills(root: Path, number: int, seed: int, found: Found) -> None:
    """So many servers die, at each point in turn."""
    chance = random.Random(seed)
    clients = [Client(f"soak/m{each}") for each in range(CLIENTS)]
    died: Counter[str] = Counter()
    early = 0
    began = time.perf_counter()
    points = list(POINTS)
    for turn in range(number):
        point = points[turn % len(points)]
        server = Server(root, point, chance.randint(1, PUSHED * POINTS[point]))
        if server.url:
            threads = [
                threading.Thread(target=client.work, args=(server.url, PUSHES))
                for client in clients
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            early += 1
        try:
            status = server.process.wait(10)
            found.expect(status == -9, f"kill {turn + 1}: '{point}' ended with {status}")
        except subprocess.TimeoutExpired:
            found.expect(False, f"kill {turn + 1}: '{point}' never came")
        server.end()
        for told in (told for client in clients for told in client.refused):
            found.expect(False, f"kill {turn + 1}: {told}")
        died[point] += 1
        look(root, clients, found, f"kill {turn + 1}, {point}")
        if sys.stderr.isatty():
            print(f"\r{turn + 1} of {number} kills", end="", file=sys.stderr)
    database = root / "hub.db"
    for path in root.glob("hub.db*"):
        path.unlink()
    rebuild(root)
    total = look(root, clients, found, "rebuilt from the journal")
    assert database.exists()
    pushed = sum(len(client.pushed) for client in clients)
    retried = sum(client.retried for client in clients)
    print(
        f"kills: {sum(died.values())} at {len(died)} points ({early} before the server answered), "
        f"{pushed} commits acknowledged, {retried} sent again, {total} found after rebuilding, "
        f"{time.perf_counter() - began:.0f} s"
    )


def committers(root: Path, number: int, found: Found) -> None:
    """So many clients at once on one model."""
    server = Server(root, "never", 1)
    url, model = server.url, "soak/crowd"
    ask(url, "POST", "/api/repos/create", json.dumps({"name": model}).encode())

    def commit(path: str, **header: str) -> int:
        body = ndjson(path, [small(path, path.encode())], **header)
        return ask(url, "POST", f"/api/models/{model}/commit/main", body)[0]

    def head() -> str:
        return str(json.loads(ask(url, "GET", f"/api/models/{model}")[1])["sha"])

    def together(work: Any, *rest: Any) -> float:
        began = time.perf_counter()
        threads = [threading.Thread(target=work, args=(each, *rest)) for each in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    answers: list[int] = []
    free = together(lambda each: answers.append(commit(f"free/{each}")))
    found.expect(answers == [200] * number, f"on no parent: {Counter(answers)}")
    answers = []
    parent = head()
    raced = together(lambda each: answers.append(commit(f"raced/{each}", parentCommit=parent)))
    told = Counter(answers)
    found.expect(told == {200: 1, 412: number - 1}, f"on one parent: {told}")
    status = server.end()
    found.expect(status == -9, f"the server ended with {status}")
    for problem in check(root).problems:
        found.expect(False, f"committers: {problem}")
    meta = Meta(root)
    files = {entry.path for entry in meta.files(meta.repo(model).head)}
    meta.close()
    found.expect(len(files) == number + 2, f"{len(files)} files instead of {number + 2}")
    print(
        f"committers: {number} on no parent all landed in {free:.1f} s; on one parent "
        f"{told[200]} landed and {told[412]} got 412 in {raced:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=", ".join(CAMPAIGNS))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--committers", type=int, default=64)
    parser.add_argument("--models", type=int, default=2_000_000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", nargs=3, metavar=("DIR", "POINT", "TURN"))
    given = parser.parse_args()
    if given.serve:
        serve_until(Path(given.serve[0]), given.serve[1], int(given.serve[2]))
        return
    if unknown := set(given.campaigns) - set(CAMPAIGNS):
        parser.error(f"no campaign: {', '.join(sorted(unknown))}")
    wanted = given.campaigns or CAMPAIGNS
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        if "kills" in wanted:
            kills(Path(folder) / "kills", given.kills, given.seed, found)
        if "committers" in wanted:
            committers(Path(folder) / "crowd", given.committers, found)
        others: list[str] = []
        if "scale" in wanted:
            soak_scale.campaign(Path(folder) / "scale", given.models, 4, others)
        if "fuzz" in wanted:
            soak_fuzz.campaign(given.minutes, given.seed, others)
        for told in others:
            found.expect(False, told)
    print(f"wrong: {len(found.wrong)}")
    sys.exit(bool(found.wrong))


if __name__ == "__main__":
    main()
