"""A search finds what a plain loop over all repositories would find, in pages, from its indexes."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtool.hub.server import index, meta_history
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.meta import Meta, put_card

from .bodies import Hub, file, header, line


@dataclass(frozen=True)
class Model:
    """What a search may ask of a repository; its id is its place in the list, from 1 on."""

    author: str
    base: str
    tags: list[str]
    private: bool
    created: str
    modified: str
    downloads: int
    likes: int

    def name(self, number: int) -> str:
        return f"{self.author}/{self.base}-{number}" if self.author else f"{self.base}-{number}"


TAGS = ["Axon", "axon", "Elixir", "license:mit", "a b", "é"]
AUTHORS = ["", "axon", "Axon", "b_c"]
BASES = ["resnet", "ResNet50", "a_c", "abc", "x.y"]
QUERIES = ["", "r", "RES", "resnet", "Net5", "t50", "_", "a_c", "axon/", "/r", "abc-1", "zz", "zzz"]
QUERIES += ["é", "a b", '"', "'", "*", "%", "a%", "res OR abc", "net-", "K", "\0", "resnet*", "."]
DATES = ["2026-01-01T00:00:00.000Z", "2026-01-01T00:00:00.001Z", "2025-06-01T00:00:00.000Z"]
MODELS = st.builds(
    Model,
    author=st.sampled_from(AUTHORS),
    base=st.sampled_from(BASES),
    tags=st.lists(st.sampled_from(TAGS), unique=True),
    private=st.sampled_from([False, False, False, True]),
    created=st.sampled_from(DATES),
    modified=st.sampled_from(DATES),
    downloads=st.integers(0, 3),
    likes=st.integers(0, 2),
)
SEARCHES = st.fixed_dictionaries(
    {
        "filter": st.lists(st.sampled_from([*TAGS, "none"]), max_size=3),
        "author": st.sampled_from([None, *AUTHORS, "none"]),
        "query": st.sampled_from([None, *QUERIES]),
        "sort": st.sampled_from(list(index.SORTS)),
        "include_private": st.booleans(),
    }
)


def plant(db: sqlite3.Connection, number: int, model: Model) -> None:
    """A repository straight into the tables, with what its history would otherwise give it."""
    db.execute(
        "INSERT INTO repos VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(number, model.name(number), model.author, model.private),
            *(model.created, model.modified, model.downloads, model.likes),
        ),
    )
    db.execute("INSERT INTO names(rowid, name) VALUES (?, ?)", (number, model.name(number)))
    meta_history.put_ref(db, number, "branch", "main", "0" * 40)
    put_card(db, number, {"tags": model.tags}, model.tags)


def expected(
    models: list[Model],
    *,
    filter: list[str],
    author: str | None,
    query: str | None,
    sort: str | None,
    include_private: bool,
) -> list[str]:
    """The names that a loop over everything finds."""
    found = [
        (number if sort is None else getattr(model, index.SORTS[sort]), number, model.name(number))
        for number, model in enumerate(models, 1)
        if set(filter) <= set(model.tags)
        and (not author or author == model.author)
        and (query or "").lower() in model.name(number).lower()
        and (include_private or not model.private)
    ]
    return [name for _, _, name in sorted(found, reverse=True)]


def pages(meta: Meta, limit: int, search: dict[str, Any]) -> Iterator[list[str]]:
    cursor = None
    while True:
        repos, cursor = index.search(meta, **search, limit=limit, cursor=cursor)
        yield [repo.name for repo in repos]
        if cursor is None:
            return


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meta]:
    """One database for all examples, which begin by emptying it."""
    meta = Meta(tmp_path_factory.mktemp("index"))
    yield meta
    meta.close()


def fill(meta: Meta, models: list[Model]) -> None:
    with meta.writing() as db:
        for table in ("repos", "cards", "tags", "names", "refs"):
            db.execute(f"DELETE FROM {table}")
        for number, model in enumerate(models, 1):
            plant(db, number, model)


@pytest.mark.parametrize("few", [1, 3, index.FEW])
@given(models=st.lists(MODELS, max_size=12), search=SEARCHES, limit=st.integers(1, 5))
def test_a_search_finds_what_a_loop_would_find_page_by_page(
    shared: Meta, few: int, models: list[Model], search: dict[str, Any], limit: int
) -> None:
    fill(shared, models)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(index, "FEW", few)
        found = list(pages(shared, limit, search))
    assert [name for page in found for name in page] == expected(models, **search)
    assert all(len(page) == limit for page in found[:-1])
    assert found[-1] or len(found) == 1


@given(
    models=st.lists(MODELS, min_size=1, max_size=10),
    more=st.lists(MODELS, min_size=1, max_size=4),
    search=SEARCHES,
)
def test_pages_have_no_gap_and_no_repeat_while_repositories_come(
    shared: Meta, models: list[Model], more: list[Model], search: dict[str, Any]
) -> None:
    fill(shared, models)
    coming = enumerate(more, len(models) + 1)
    found = []
    for page in pages(shared, 2, search):
        found += page
        with shared.writing() as db:
            for number, model in islice(coming, 1):
                plant(db, number, model)
    old = expected(models, **search)
    assert [name for name in found if name in old] == old
    assert len(set(found)) == len(found)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


def names(hub: Hub, **search: Any) -> list[str]:
    return [repo.name for repo in index.search(hub.meta, **search)[0]]


def test_a_repository_is_found_from_its_card_and_no_longer_when_the_tag_goes(hub: Hub) -> None:
    one, other = hub.meta.create("axon/one"), hub.meta.create("axon/other", private=True)
    for repo in (one, other):
        hub.commit(repo, header(), file("README.md", b"---\ntags: [Axon, b]\n---\n"))
    assert names(hub, filter=["Axon", "b"]) == ["axon/one"]
    assert names(hub, filter=["Axon", "b"], include_private=True) == ["axon/other", "axon/one"]
    assert names(hub, filter=["axon"]) == []
    hub.meta.set_private("axon/other", False)
    hub.meta.count_download(one)
    assert names(hub, filter=["Axon"], sort="trendingScore") == ["axon/one", "axon/other"]
    hub.commit(one, header(), file("README.md", b"---\ntags: [b, c]\n---\n"))
    assert names(hub, filter=["Axon"]) == ["axon/other"]
    assert names(hub, filter=["b"], sort="lastModified") == ["axon/one", "axon/other"]
    hub.commit(one, header(), line("deletedFile", path="README.md"))
    assert names(hub, filter=["c"]) == []
    hub.meta.delete("axon/other")
    assert names(hub, filter=["b"]) == names(hub, query="other") == names(hub, query="ot") == []
    found, cursor = index.search(hub.meta, author="axon")
    assert (found, cursor) == ([hub.meta.repo("axon/one")], None)


def test_the_page_is_at_least_one_and_at_most_a_thousand(shared: Meta) -> None:
    model = Model("a", "m", [], False, DATES[0], DATES[0], 0, 0)
    fill(shared, [model] * (index.MOST + 1))
    for limit, length in [(-1, 1), (0, 1), (7, 7), (10**9, index.MOST)]:
        repos, cursor = index.search(shared, limit=limit)
        assert (len(repos), cursor is None) == (length, False)


def cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "bad",
    [
        *["x", "!", "é", "====", "W10", cursor(), cursor(None, 1), cursor(None, 1, 2, 3)],
        *[cursor("likes", 1, 2), cursor(None, "1", 2), cursor(None, 1, 2.5), cursor(None, True, 2)],
        *[cursor(None, 1, 10**30), cursor(None, {}, 1), cursor({}, 1, 1), cursor(*"[" * 3)],
        base64.urlsafe_b64encode(b"[" * 5000).decode(),
    ],
)
def test_a_cursor_from_elsewhere_is_a_400(shared: Meta, bad: str) -> None:
    with pytest.raises(Refusal, match="begin at the first page") as caught:
        index.search(shared, cursor=bad)
    assert caught.value.status == 400


def test_a_cursor_belongs_to_its_order(shared: Meta) -> None:
    model = Model("a", "m", [], False, DATES[0], DATES[0], 0, 0)
    fill(shared, [model] * 3)
    for sort in index.SORTS:
        _, made = index.search(shared, sort=sort, limit=1)
        assert made is not None and re.fullmatch(r"[\w-]+", made)
        for other in set(index.SORTS) - {sort}:
            with pytest.raises(Refusal):
                index.search(shared, sort=other, cursor=made)


def test_an_unknown_order_and_too_many_filters_are_a_400(shared: Meta) -> None:
    with pytest.raises(Refusal, match=r"no order 'name'; there are .*downloads"):
        index.search(shared, sort="name")
    with pytest.raises(Refusal, match="More than 50 filters"):
        index.search(shared, filter=[str(number) for number in range(51)])
    assert index.search(shared, filter=["x" * 9] * 50) == ([], None)
    with pytest.raises(Refusal, match="not Unicode"):
        index.search(shared, filter=["\ud800"])


PLANNED: list[dict[str, Any]] = [
    {},
    {"filter": ["Axon"]},
    {"filter": ["Axon", "b"]},
    {"query": "resnet"},
    {"author": "axon"},
    {"author": "axon", "query": "resnet", "filter": ["Axon"]},
]


@pytest.mark.parametrize("few", [1, index.FEW])
@pytest.mark.parametrize("sort", list(index.SORTS))
@pytest.mark.parametrize("search", PLANNED)
def test_no_search_reads_a_whole_table(
    shared: Meta,
    monkeypatch: pytest.MonkeyPatch,
    search: dict[str, Any],
    sort: str | None,
    few: int,
) -> None:
    """What is sorted comes from a source that is small; what is walked, from the order's index."""
    monkeypatch.setattr(index, "FEW", few)
    model = Model("axon", "resnet", ["Axon", "b"], False, DATES[0], DATES[0], 0, 0)
    fill(shared, [model] * 9)
    asked: list[str] = []
    with shared.reading() as db:
        db.set_trace_callback(asked.append)
    _, following = index.search(shared, **search, sort=sort, limit=3)
    index.search(shared, **search, sort=sort, limit=3, cursor=following)
    with shared.reading() as db:
        db.set_trace_callback(None)
        plans = {
            sql: [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {sql}")]
            for sql in asked
            if sql.startswith("SELECT")
        }
    assert len(plans) >= 2
    for sql, steps in plans.items():
        walked = [step for step in steps if step.startswith("SCAN")]
        assert all(
            re.match(r"SCAN (names|n) VIRTUAL TABLE|SCAN \(sub|SCAN r\b", step) for step in walked
        )
        assert "SCAN r" not in steps or "ORDER BY r.id DESC" in sql
        assert not any(
            step.startswith("SCAN r USING") and "INDEX repos_" not in step for step in steps
        )
        if few > 1 and search and "ORDER BY" in sql and "json_each" not in sql:
            assert "d CROSS JOIN repos r" in sql
        if few == 1 and sort and "ORDER BY r." in sql:
            assert not any("TEMP B-TREE" in step for step in steps), (sql, steps)


def test_the_tags_of_a_card_are_the_hubs() -> None:
    card = {
        "tags": ["Axon", " vision ", "", "Axon", 3, None, ["x"], "x" * 257],
        "library_name": "hubtool",
        "pipeline_tag": "image-classification",
        "language": ["en", "de"],
        "license": "apache-2.0",
        "datasets": ["ILSVRC/imagenet-1k"],
        "base_model": "a/b",
        "arxiv": "1512.03385",
        "metrics": ["accuracy"],
    }
    assert index.tags_of(card) == [
        *["Axon", "vision", "hubtool", "image-classification", "en", "de"],
        *["dataset:ILSVRC/imagenet-1k", "base_model:a/b", "arxiv:1512.03385", "license:apache-2.0"],
    ]
    assert index.tags_of({"tags": "Axon Elixir", "license": ["mit"]}) == [
        "Axon Elixir",
        "license:mit",
    ]
    assert index.tags_of({"tags": {"a": 1}, "license": None, "language": False}) == []
    assert index.tags_of({}) == []
    many = index.tags_of({"tags": [str(number) for number in range(5000)]})
    assert many == [str(number) for number in range(index.MOST_TAGS)]
