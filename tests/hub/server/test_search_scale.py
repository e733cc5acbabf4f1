"""Among 20,000 models no search reads a whole table, or sorts what an index has sorted already.

`benchmarks/search.py` makes the models, and measures with two million of them; here it is only
held to be honest, and every plan of SQLite's to be one that grows no faster than it must.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hubtool.hub.server import index
from hubtool.hub.server.accounts import LOCAL
from hubtool.hub.server.meta import Meta, put_card

MODELS = 20_000
HARMLESS = re.compile(
    r"SCAN ((\d+ )?CONSTANT ROWS?|n|p|f|\(subquery-\d\)|json_each VIRTUAL TABLE INDEX 1:"
    r"|w VIRTUAL TABLE INDEX .*M1.*)"
)
"""What is scanned may be the question itself, what was found, or matches of words."""


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    place = Path(__file__).parents[3] / "benchmarks" / "search.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_search", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def root(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    benchmark.fill(root, MODELS)
    return root


@pytest.fixture(scope="module")
def meta(root: Path) -> Iterator[Meta]:
    meta = Meta(root)
    yield meta
    meta.close()


def plans(meta: Meta, **search: Any) -> dict[str, list[str]]:
    """Every query that two pages of a search ask, with SQLite's plan for it."""
    asked: list[str] = []
    with meta.reading() as db:
        db.set_trace_callback(asked.append)
    try:
        _, following = index.search(meta, **search, limit=10)
        if following is not None:
            index.search(meta, **search, limit=10, cursor=following)
    finally:
        with meta.reading() as db:
            db.set_trace_callback(None)
    with meta.reading() as db:
        return {
            sql: [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {sql}")]
            for sql in asked
            if sql.startswith("SELECT")
        }


SEARCHES: dict[str, dict[str, Any]] = {
    "everything": {},
    "a popular tag": {"filter": ["transformers"]},
    "a rare tag": {"filter": ["Axon"]},
    "two tags": {"filter": ["transformers", "en"]},
    "tags that exclude each other": {"filter": ["timm", "diffusers"]},
    "an author": {"author": "baban"},
    "an author and a tag": {"author": "baban", "filter": ["en"]},
    "a common word": {"query": "llama"},
    "a rare word": {"query": "sdxl-mini-lora"},
    "a common word and a tag": {"query": "llama", "filter": ["transformers"]},
    "a rare word and a tag": {"query": "sdxl-mini-lora", "filter": ["transformers"]},
    "two letters": {"query": "ll"},
    "one letter": {"query": "a"},
    "two letters and a tag": {"query": "qu", "filter": ["Axon"]},
    "words": {"query": "bert base ba"},
    "nothing": {"query": "🚀"},
}


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("sort", list(index.SORTS))
@pytest.mark.parametrize("kind", list(SEARCHES))
def test_no_search_reads_a_whole_table_or_sorts_in_vain(
    meta: Meta, kind: str, sort: str | None, ascending: bool
) -> None:
    found = plans(meta, **SEARCHES[kind], sort=sort, ascending=ascending)
    assert any("FROM labels" in sql or "labels l" in sql for sql in found)
    for sql, steps in found.items():
        scans = [step for step in steps if step.startswith("SCAN")]
        assert all(HARMLESS.fullmatch(step) for step in scans), (sql, steps)
        if any("TEMP B-TREE" in step for step in steps):
            assert sort is not None and "words MATCH" in sql, (sql, steps)
        if "FROM tagged t" in sql:
            column = index.SORTS[sort]
            by = "PRIMARY KEY" if column == "id" else f"COVERING INDEX tagged_{column}"
            assert any(f"SEARCH t USING {by} (label=?" in step for step in steps), (sql, steps)


@pytest.mark.parametrize("sort", list(index.SORTS))
def test_a_popular_tag_is_read_off_the_index_of_the_order_from_any_page_on(
    meta: Meta, sort: str | None
) -> None:
    """Also among the many that have the same value: nobody likes most models."""
    sql, steps = list(plans(meta, filter=["transformers"], sort=sort).items())[-1]
    column = {"id": "repo"}.get(index.SORTS[sort], f"{index.SORTS[sort]},repo")
    assert "MATCH" not in sql
    assert any(
        re.search(rf"SEARCH t USING .* \(label=\? AND \(?{column}\)?<\(?\?", step) for step in steps
    ), steps
    assert not any("TEMP B-TREE" in step for step in steps)


@pytest.mark.parametrize("kind", list(SEARCHES))
@pytest.mark.parametrize("sort", [None, "likes"])
def test_every_way_finds_the_same(
    meta: Meta, monkeypatch: pytest.MonkeyPatch, kind: str, sort: str | None
) -> None:
    wanted, _ = index.search(meta, **SEARCHES[kind], sort=sort, limit=20)
    for haste, patience, grams in ((0, 1, 500), (1, 10**6, 500), (10**6, 1, 500), (0, 10**6, 1)):
        monkeypatch.setattr(index, "HASTE", haste)
        monkeypatch.setattr(index, "PATIENCE", patience)
        monkeypatch.setattr(index, "MOST_GRAMS", grams)
        found, _ = index.search(meta, **SEARCHES[kind], sort=sort, limit=20)
        assert [repo.name for repo in found] == [repo.name for repo in wanted]


def test_what_the_benchmark_fills_in_is_what_cards_would_give(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    benchmark.fill(tmp_path / "filled", 300)
    filled, made = Meta(tmp_path / "filled"), Meta(tmp_path / "made")
    with filled.reading() as one, made.writing() as other:
        rows = one.execute(f"SELECT {benchmark.REPO_COLUMNS} FROM repos ORDER BY id").fetchall()
        marks = ", ".join("?" * len(rows[0]))
        other.executemany(f"INSERT INTO repos({benchmark.REPO_COLUMNS}) VALUES ({marks})", rows)
    repos, _ = index.search(filled, limit=300, who=LOCAL)
    assert len(repos) == 300
    with made.writing() as other:
        for repo in repos:
            put_card(other, repo.id, repo.card, repo.tags)
    for query in (
        "SELECT kind, name, models FROM labels ORDER BY 1, 2",
        "SELECT kind, name, repo, created, modified, downloads, likes"
        " FROM tagged JOIN labels ON id = label ORDER BY 1, 2, 3",
        "SELECT * FROM texts ORDER BY 1",
        "SELECT * FROM grams ORDER BY 1",
        "SELECT name FROM sqlite_schema ORDER BY 1",
        'SELECT rowid FROM words WHERE words MATCH \'"lla" AND "lam"\' ORDER BY 1',
    ):
        with filled.reading() as one, made.reading() as other:
            rows = one.execute(query).fetchall()
            assert rows == other.execute(query).fetchall() and rows
    filled.close()
    made.close()


def test_the_benchmark_runs(
    benchmark: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with benchmark.served(root) as url:
        one = benchmark.one_client(url, root, 3)
        many = benchmark.many_clients(url, root, 2, 26)
    said = capsys.readouterr().out
    assert re.search(r"\| one tag \| \d+\.\d ms \| \d+\.\d ms \|", said)
    assert re.search(r"\| all kinds \| \d+ \| \d+ ms \|", said)
    assert one["free text"]["p95_ms"] > 0 and many["tags"]["requests_per_s"] > 0
