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
from hubtool.hub.server.accounts import ANYBODY, LOCAL, Identity
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.index_tables import fold
from hubtool.hub.server.meta import Meta, put_card

from .bodies import Hub, file, header, line


@dataclass(frozen=True)
class Model:
    """What a search may ask of a repository; its id is its place in the list, from 1 on."""

    author: str
    base: str
    title: str
    tags: list[str]
    private: bool
    created: str
    modified: str
    downloads: int
    likes: int

    def name(self, number: int) -> str:
        return f"{self.author}/{self.base}-{number}" if self.author else f"{self.base}-{number}"

    def texts(self, number: int) -> list[str]:
        """What the words of a query are looked for in."""
        shown = [tag for tag in self.tags if not tag.startswith("license:")]
        return [fold(text) for text in (self.name(number), self.title, *shown)]


TAGS = ["Axon", "axon", "Elixir", "license:mit", "a b", "é", "author", 'say "hi"']
AUTHORS = ["", "axon", "Axon", "b_c"]
BASES = ["resnet", "ResNet50", "a_c", "abc", "x.y"]
TITLES = ["", "A b", "Größe 🤗", "100%", "中文 ResNet", 'the "best"', "\u212b"]
QUERIES = ["", "r", "RES", "resnet", "Net5", "t50", "_", "a_c", "axon/", "/r", "abc-1", "zz", "zzz"]
QUERIES += ["é", "a b", '"', "'", "*", "%", "a%", "res OR abc", "net-", "K", "\0", "resnet*", "."]
QUERIES += [
    "axon res",
    "net AND x",
    "a OR",
    "NEAR(a b)",
    "-a",
    "^a",
    "text:a",
    "(",
    "🤗",
    "\N{ROCKET}",
]
QUERIES += [
    "中",
    "文 r",
    "grÖSSE",
    "Ö",
    "100%",
    "å",
    "t\n",
    "mit",
    "license",
    "zz resnet",
    '"best"',
]
DATES = ["2026-01-01T00:00:00.000Z", "2026-01-01T00:00:00.001Z", "2025-06-01T00:00:00.000Z"]
MODELS = st.builds(
    Model,
    author=st.sampled_from(AUTHORS),
    base=st.sampled_from(BASES),
    title=st.sampled_from(TITLES),
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
        "ascending": st.booleans(),
        "who": st.sampled_from([LOCAL, ANYBODY]),
    }
)


def plant(db: sqlite3.Connection, number: int, model: Model) -> None:
    """A repository straight into the tables, with what its history would otherwise give it."""
    db.execute(
        "INSERT INTO repos(id, name, author, private, created, modified, downloads, likes)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(number, model.name(number), model.author, model.private),
            *(model.created, model.modified, model.downloads, model.likes),
        ),
    )
    meta_history.put_ref(db, number, "branch", "main", "0" * 40)
    put_card(db, number, {"tags": model.tags, "title": model.title}, model.tags)


def expected(
    models: list[Model],
    *,
    filter: list[str],
    author: str | None,
    query: str | None,
    sort: str | None,
    ascending: bool,
    who: Identity,
) -> list[str]:
    """The names that a loop over everything finds."""
    words = fold(query or "").split()
    found = [
        (number if sort is None else getattr(model, index.SORTS[sort]), number, model.name(number))
        for number, model in enumerate(models, 1)
        if set(filter) <= set(model.tags)
        and (not author or author == model.author)
        and all(any(word in text for text in model.texts(number)) for word in words)
        and (who is LOCAL or not model.private)
    ]
    return [name for _, _, name in sorted(found, reverse=not ascending)]


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
        db.execute("DELETE FROM tagged")
        for table in ("repos", "cards", "refs"):
            db.execute(f"DELETE FROM {table}")
        for number, model in enumerate(models, 1):
            plant(db, number, model)


@pytest.mark.parametrize(
    ("haste", "patience", "grams"), [(0, 1, 3), (1, 10**6, 500), (1, 1, 500), (10**6, 1, 1)]
)
@given(models=st.lists(MODELS, max_size=12), search=SEARCHES, limit=st.integers(1, 5))
def test_a_search_finds_what_a_loop_would_find_page_by_page(
    shared: Meta,
    haste: int,
    patience: int,
    grams: int,
    models: list[Model],
    search: dict[str, Any],
    limit: int,
) -> None:
    """Whichever way it goes: whether an order is walked, and how far, is a matter of time."""
    fill(shared, models)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(index, "HASTE", haste)
        patched.setattr(index, "PATIENCE", patience)
        patched.setattr(index, "MOST_GRAMS", grams)
        found = list(pages(shared, limit, search))
    assert [name for page in found for name in page] == expected(models, **search)
    assert all(len(page) == limit for page in found[:-1])
    assert found[-1] or len(found) == 1


@given(
    models=st.lists(MODELS, min_size=1, max_size=10),
    more=st.lists(MODELS, min_size=1, max_size=4),
    going=st.lists(st.integers(1, 10), unique=True, max_size=4),
    search=SEARCHES,
)
def test_pages_have_no_gap_and_no_repeat_while_repositories_come_and_go(
    shared: Meta,
    models: list[Model],
    more: list[Model],
    going: list[int],
    search: dict[str, Any],
) -> None:
    fill(shared, models)
    coming = enumerate(more, len(models) + 1)
    gone = {model.name(number) for number, model in enumerate(models, 1) if number in going}
    leaving = iter(gone)
    found = []
    for page in pages(shared, 2, search):
        found += page
        with shared.writing() as db:
            for number, model in islice(coming, 1):
                plant(db, number, model)
        for name in islice(leaving, 1):
            shared.delete(name)
    stayed = [name for name in expected(models, **search) if name not in gone]
    assert [name for name in found if name in stayed] == stayed
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
    assert names(hub, filter=["Axon", "b"], who=LOCAL) == ["axon/other", "axon/one"]
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


def dump(meta: Meta) -> list[Any]:
    """All that searches read, ids of labels apart."""
    with meta.reading() as db:
        return [
            db.execute(
                "SELECT kind, name, models FROM labels WHERE models > 0 ORDER BY 1, 2"
            ).fetchall(),
            db.execute(
                "SELECT kind, name, repo, created, modified, downloads, likes"
                " FROM tagged JOIN labels ON id = label ORDER BY 1, 2, 3"
            ).fetchall(),
            db.execute("SELECT * FROM texts ORDER BY 1").fetchall(),
            db.execute("SELECT * FROM grams WHERE models > 0 ORDER BY 1").fetchall(),
        ]


@given(models=st.lists(MODELS, min_size=1, max_size=6), others=st.lists(MODELS, max_size=6))
def test_the_index_follows_every_change_of_a_repository(
    shared: Meta, models: list[Model], others: list[Model]
) -> None:
    """Name, author, counts, date, card: after the changes it is as if it had always been so."""
    others = [*others, *models][: len(models)]
    fill(shared, others)
    wanted = dump(shared)
    fill(shared, models)
    with shared.writing() as db:
        for number, other in enumerate(others, 1):
            db.execute(
                "UPDATE repos SET name = ?, author = ?, modified = ? WHERE id = ?",
                (other.name(number), other.author, other.modified, number),
            )
            db.execute(
                "UPDATE repos SET downloads = ?, likes = ? WHERE id = ?",
                (other.downloads, other.likes, number),
            )
            put_card(db, number, {"tags": other.tags, "title": other.title}, other.tags)
    labels, tagged, texts, grams = dump(shared)
    created = [tuple(v for i, v in enumerate(row) if i != 3) for row in wanted[1]]
    assert labels == wanted[0] and texts == wanted[2] and grams == wanted[3]
    assert [tuple(v for i, v in enumerate(row) if i != 3) for row in tagged] == created
    with shared.writing() as db:
        db.execute("INSERT INTO words(words) VALUES ('integrity-check')")


def test_the_page_is_at_least_one_and_at_most_a_thousand(shared: Meta) -> None:
    model = Model("a", "m", "", [], False, DATES[0], DATES[0], 0, 0)
    fill(shared, [model] * (index.MOST + 1))
    for limit, length in [(-1, 1), (0, 1), (7, 7), (10**9, index.MOST)]:
        repos, cursor = index.search(shared, limit=limit)
        assert (len(repos), cursor is None) == (length, False)


def cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "bad",
    [
        *["x", "!", "é", "====", "W10", cursor(), cursor(None, False, 1), cursor(None, 1, 2)],
        *[cursor("likes", False, 1, 2), cursor(None, False, "1", 2), cursor(None, False, 1, 2.5)],
        *[cursor(None, False, True, 2), cursor(None, False, 1, 10**30), cursor(None, False, {}, 1)],
        *[cursor(None, False, 10**30, 1), cursor({}, False, 1, 1), cursor(*"[" * 4)],
        *[cursor(None, 0, 1, 1), cursor(None, True, 1, 1), cursor(None, False, 1, 1, 1)],
        base64.urlsafe_b64encode(b"[" * 5000).decode(),
    ],
)
def test_a_cursor_from_elsewhere_is_a_400(shared: Meta, bad: str) -> None:
    with pytest.raises(Refusal, match="begin at the first page") as caught:
        index.search(shared, cursor=bad)
    assert caught.value.status == 400


def test_a_cursor_belongs_to_its_order(shared: Meta) -> None:
    model = Model("a", "m", "", [], False, DATES[0], DATES[0], 0, 0)
    fill(shared, [model] * 3)
    for sort in index.SORTS:
        _, made = index.search(shared, sort=sort, limit=1)
        assert made is not None and re.fullmatch(r"[\w-]+", made)
        for other in set(index.SORTS) - {sort}:
            with pytest.raises(Refusal):
                index.search(shared, sort=other, cursor=made)
        with pytest.raises(Refusal):
            index.search(shared, sort=sort, cursor=made, ascending=True)


def test_an_unknown_order_and_too_many_filters_are_a_400(shared: Meta) -> None:
    with pytest.raises(Refusal, match=r"no order 'name'; there are .*downloads"):
        index.search(shared, sort="name")
    with pytest.raises(Refusal, match="More than 50 filters"):
        index.search(shared, filter=[str(number) for number in range(51)])
    assert index.search(shared, filter=["x" * 9] * 50) == ([], None)
    with pytest.raises(Refusal, match="20 words and 500 letters"):
        index.search(shared, query=" ".join(map(str, range(21))))
    with pytest.raises(Refusal, match="20 words and 500 letters"):
        index.search(shared, query="x" * 501)
    with pytest.raises(Refusal, match="not Unicode"):
        index.search(shared, filter=["\ud800"])


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
