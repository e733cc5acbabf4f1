"""Searching among millions of models, over HTTP: `python benchmarks/search.py`.

    python benchmarks/search.py [--models 2000000] [--folder DIR] [--requests 400] [--clients 16]
                                [--json FILE]

So many synthetic models are written straight into the index of a hub (a folder that has them
already is used again): few tags that very many bear, very many that few do, as on the public hub,
one library a model, names made of words. `hubtool serve` runs over it, in a process of its own. One
client asks for pages of 30 over a connection that it keeps, each kind of search with ever other
tags and words, drawn as the models draw them; the table shows the median and the 95th percentile.
Then so many clients at once, in processes of their own, ask for tags, for tags and a quarter of
free text, and for all kinds. Everything runs on one machine, so the clients take their share.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from hubtool.hub.server import index_tables
from hubtool.hub.server.index import tags_of
from hubtool.hub.server.meta import Meta

ONE_LIBRARY = {
    **{"transformers": 45, "diffusers": 12, "peft": 8, "gguf": 5, "sentence-transformers": 2},
    **{"timm": 2, "mlx": 2, "stable-baselines3": 2, "onnx": 1, "keras": 1, "hubtool": 1, "": 19},
}
PIPELINES = {
    **{"text-generation": 22, "text-to-image": 10, "text-classification": 8, "": 30},
    **{"image-classification": 3, "automatic-speech-recognition": 3, "token-classification": 2},
    **{"reinforcement-learning": 3, "feature-extraction": 2, "object-detection": 1},
}
LICENSES = {"apache-2.0": 25, "mit": 12, "other": 6, "openrail": 4, "cc-by-4.0": 2, "gpl-3.0": 1}
LICENSES |= {"": 50}
LANGUAGES = ["en", "zh", "fr", "de", "es", "ja", "ko", "ru", "pt", "it", "ar", "hi", "nl", "pl"]
FAMILIES = [
    "llama",
    "bert",
    "qwen",
    "mistral",
    "resnet",
    "whisper",
    "gemma",
    "roberta",
    "phi",
    "t5",
]
FAMILIES += [
    "vit",
    "gpt2",
    "falcon",
    "yolo",
    "clip",
    "deberta",
    "wav2vec2",
    "mamba",
    "flux",
    "sdxl",
]
SIZES = ["base", "large", "small", "7b", "13b", "70b", "0.5b", "1.5b", "tiny", "xl", "3b", "mini"]
ENDINGS = ["instruct", "finetuned", "chat", "lora", "v1", "v2", "gguf", "4bit", "awq", "uncased"]
SYLLABLES = [a + b + c for a in "bdfghjklmnprstvz" for b in "aeiou" for c in ("", *"nrsl")]
HEAD = "0" * 40
PAGE = 30
AT_ONCE = 20_000
PROGRAM = """
import sys
from pathlib import Path
from hubtool.hub.server.run import serve
serve(Path(sys.argv[1]), port=0, announce=lambda url: print(url, flush=True))
"""


class Draw:
    """Draws models that look like those of the public hub; the same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.weights = {
            size: list(accumulate(1 / (rank + 5) for rank in range(size)))
            for size in (len(LANGUAGES), len(FAMILIES), 5_000, 20_000, 50_000)
        }
        self.began = datetime(2022, 1, 1, tzinfo=UTC)

    def of(self, table: dict[str, int]) -> str:
        return self.random.choices(list(table), list(table.values()))[0]

    def rank(self, size: int) -> int:
        """A number below `size`, small ones oftener (Zipf's law)."""
        return self.random.choices(range(size), cum_weights=self.weights[size])[0]

    def word(self, number: int) -> str:
        """A name that belongs to a number, of two syllables or more."""
        made, left = "", number + len(SYLLABLES)
        while left:
            left, rest = divmod(left, len(SYLLABLES))
            made += SYLLABLES[rest]
        return made

    def card(self) -> dict[str, Any]:
        """The front matter of a model."""
        draw = self.random.random
        card: dict[str, Any] = {}
        tags = [FAMILIES[self.rank(len(FAMILIES))]] if draw() < 0.6 else []
        tags += [f"{self.word(self.rank(50_000))}" for _ in range(self.random.randrange(4))]
        tags += ["Axon"] if draw() < 0.02 else []
        single = {"library_name": ONE_LIBRARY, "pipeline_tag": PIPELINES, "license": LICENSES}
        card |= {key: found for key, table in single.items() if (found := self.of(table))}
        if draw() < 0.4:
            card["language"] = LANGUAGES[self.rank(len(LANGUAGES))]
        if draw() < 0.2:
            card["datasets"] = [f"sets/{self.word(self.rank(20_000))}"]
        if draw() < 0.35:
            card["base_model"] = f"team/{self.word(self.rank(20_000))}"
        return {**card, "tags": tags} if tags else card

    def name(self, number: int) -> tuple[str, str]:
        """An author, and a name of his that no other model has."""
        author = self.word(self.rank(50_000))
        parts = [FAMILIES[self.rank(len(FAMILIES))], self.random.choice(SIZES)]
        parts += [self.random.choice(ENDINGS)] if self.random.random() < 0.7 else []
        return author, "-".join([*parts, self.word(number)])

    def row(self, number: int, models: int) -> tuple[Any, ...]:
        """The row of `repos`, and the card."""
        author, name = self.name(number)
        created = self.began + timedelta(days=1400) * (number / models)
        modified = created + timedelta(days=self.random.expovariate(0.05))
        downloads = int(self.random.paretovariate(0.7)) - 1
        likes = int(self.random.paretovariate(1.2)) - 1
        dates = (_date(created), _date(modified))
        private = self.random.random() < 0.01
        row = (number, f"{author}/{name}", author, private, *dates, downloads, likes)
        return row, self.card()


def _date(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fill(root: Path, models: int, seed: int = 6) -> None:
    """A hub with so many models, none of which has a history of its own."""
    Meta(root).close()
    db = sqlite3.connect(root / "hub.db", isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -1000000")
    triggers = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    db.execute("BEGIN")
    for name, _ in triggers:
        db.execute(f"DROP TRIGGER {name}")
    draw = Draw(seed)
    rows = (draw.row(number, models) for number in range(1, models + 1))
    while some := list(islice(rows, AT_ONCE)):
        _put(db, some)
    for _, sql in triggers:
        db.execute(sql)
    index_tables.fill(db)
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def _put(db: sqlite3.Connection, rows: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
    """Models with their cards; what searches go by is made of them later."""
    cards = [
        (row[0], json.dumps(tags_of(card)), card.get("pipeline_tag"), card.get("library_name"),
         json.dumps(card))
        for row, card in rows
    ]  # fmt: skip
    for table, width, listed in (
        (f"repos({REPO_COLUMNS})", 8, [row for row, _ in rows]),
        ("cards(repo, tags, pipeline_tag, library, card)", 5, cards),
        ("refs(repo, kind, name, oid)", 4, [(row[0], "branch", "main", HEAD) for row, _ in rows]),
    ):
        marks = ", ".join("?" * width)
        db.executemany(f"INSERT INTO {table} VALUES ({marks})", listed)


REPO_COLUMNS = "id, name, author, private, created, modified, downloads, likes"


class Questions:
    """What clients ask: the tags and words of models drawn from the hub."""

    def __init__(self, root: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.db = sqlite3.connect(f"file:{root / 'hub.db'}?mode=ro", uri=True)
        (self.models,) = self.db.execute("SELECT max(id) FROM repos").fetchone()

    def model(self) -> tuple[str, list[str]]:
        """The name and the tags of some model that has two."""
        while True:
            number = self.random.randint(1, self.models)
            name, tags = self.db.execute(
                "SELECT name, tags FROM repos JOIN cards ON repo = id WHERE id = ?", (number,)
            ).fetchone()
            if len(json.loads(tags)) > 1:
                return name, json.loads(tags)

    def tags(self, count: int) -> list[tuple[str, str]]:
        return [("filter", tag) for tag in self.random.sample(self.model()[1], count)]

    def word(self) -> str:
        """A part of some model's name: a word of it, or some of its letters."""
        name = self.model()[0].partition("/")[2]
        if self.random.random() < 0.5:
            return self.random.choice([part for part in name.split("-") if len(part) > 2])
        start = self.random.randrange(len(name) - 4)
        return name[start : start + self.random.randint(4, 8)]

    def kinds(self) -> dict[str, Callable[[], list[tuple[str, str]]]]:
        """Every kind of search, as the query of a new one."""
        by = ("sort", "downloads")
        return {
            "one tag": lambda: self.tags(1),
            "two tags": lambda: self.tags(2),
            "a tag, by downloads": lambda: [*self.tags(1), by],
            "`Axon`, by downloads": lambda: [("filter", "Axon"), by],
            "two tags, by downloads": lambda: [*self.tags(2), by],
            "two popular tags that few models share": lambda: [
                ("filter", "stable-baselines3"),
                ("filter", "text-to-image"),
                ("filter", "license:mit"),
            ],
            "free text": lambda: [("search", self.word())],
            "free text, by downloads": lambda: [("search", self.word()), by],
            "two words, one of two letters": lambda: [
                ("search", f"{self.word()} {self.word()[:2]}")
            ],
            "two letters, by likes": lambda: [("search", self.word()[:2]), ("sort", "likes")],
            "a tag and a word": lambda: [*self.tags(1), ("search", self.word())],
            "an author, by date": lambda: [
                ("author", self.model()[0].partition("/")[0]),
                ("sort", "lastModified"),
            ],
            "everything, by downloads": lambda: [by],
        }


def addresses(root: Path, seed: int, each: int) -> dict[str, list[str]]:
    """So many addresses of each kind of search."""
    questions = Questions(root, seed)
    made = {
        kind: [f"/api/models?{urlencode([*make(), ('limit', PAGE)])}" for _ in range(each)]
        for kind, make in questions.kinds().items()
    }
    questions.db.close()
    return made


def asked(url: str, paths: list[str]) -> list[float]:
    """The milliseconds that each answer took, over one connection."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    times = []
    for path in paths:
        began = time.perf_counter()
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        times.append(1000 * (time.perf_counter() - began))
        if response.status != 200:
            sys.exit(f"{path}: {response.status} {body!r}")
    connection.close()
    return times


TAGS = ("one tag", "two tags", "a tag, by downloads")
MIXED = {"tags": TAGS, "tags, and one in four free text": (*TAGS, "free text"), "all kinds": ()}


def quantiles(times: list[float]) -> dict[str, float]:
    p95 = statistics.quantiles(times, n=20)[-1]
    return {"median_ms": statistics.median(times), "p95_ms": p95, "most_ms": max(times)}


def one_client(url: str, root: Path, requests: int) -> dict[str, dict[str, float]]:
    """Each kind of search, one after the other."""
    print(f"\n| one client, pages of {PAGE} | median | p95 | most |\n|---|--:|--:|--:|")
    found = {}
    for kind, paths in addresses(root, 1, requests).items():
        found[kind] = taken = quantiles(asked(url, paths))
        cells = " | ".join(f"{value:.1f} ms" for value in taken.values())
        print(f"| {kind} | {cells} |", flush=True)
    return found


def many_clients(url: str, root: Path, clients: int, requests: int) -> dict[str, dict[str, float]]:
    """Some kinds in turn, each client its own."""
    print(f"\n| {clients} clients | requests/s | median | p95 |\n|---|--:|--:|--:|")
    found = {}
    for name, wanted in MIXED.items():
        parts = []
        for client in range(clients):
            made = addresses(root, 100 + client, max(1, requests // 13))
            kinds = [made[kind] for kind in wanted or made]
            parts.append([path for some in zip(*kinds, strict=True) for path in some])
        with multiprocessing.get_context("fork").Pool(clients) as pool:
            pool.starmap(asked, [(url, paths[:2]) for paths in parts])
            began = time.perf_counter()
            times = list(chain(*pool.starmap(asked, [(url, part) for part in parts], 1)))
            spent = time.perf_counter() - began
        rate = len(times) / spent
        found[name] = taken = {"requests_per_s": rate, **quantiles(times)}
        median, p95 = taken["median_ms"], taken["p95_ms"]
        print(f"| {name} | {rate:.0f} | {median:.0f} ms | {p95:.0f} ms |", flush=True)
    return found


@contextmanager
def served(root: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
        status = Path(f"/proc/{process.pid}/status").read_text()
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
        print(f"\nthe server's peak memory: {int(peak) / 1024:.0f} MiB")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = given.folder or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        if not (root / "hub.db").exists():
            began = time.perf_counter()
            fill(root, given.models)
            print(f"filled in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        figures: dict[str, Any] = {"size": sizes(root)}
        with served(root) as url:
            figures["one client"] = one_client(url, root, given.requests)
            figures["many clients"] = many_clients(url, root, given.clients, given.requests)
        if given.json:
            given.json.write_text(json.dumps(figures, indent=2) + "\n")


def sizes(root: Path) -> dict[str, int]:
    db = sqlite3.connect(root / "hub.db")
    (models,) = db.execute("SELECT count(*) FROM repos").fetchone()
    (tags,) = db.execute("SELECT count(*) FROM labels WHERE kind = 'tag'").fetchone()
    (borne,) = db.execute("SELECT count(*) FROM tagged").fetchone()
    db.close()
    size = (root / "hub.db").stat().st_size
    print(f"{models:,} models, {tags:,} tags, {borne:,} labels on models: {size / 2**20:,.0f} MiB")
    return {"models": models, "tags": tags, "labels_on_models": borne, "bytes": size}


if __name__ == "__main__":
    main()
