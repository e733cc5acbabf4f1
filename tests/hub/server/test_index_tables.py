"""What searches read is made for a new hub and for an older one, and says the same in both."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.hub.server import index, index_tables
from hubtool.hub.server.accounts import LOCAL
from hubtool.hub.server.index_tables import fold, text_of
from hubtool.hub.server.meta import Meta, put_card
from hubtool.hub.server.meta_database import VERSION

from .bodies import Hub, file, header

OLDER = Path(__file__).with_name("schema_1.sql")
"""A hub of schema 1 as hubtool made it: axon/resnet34-v1, axon/Hidden (private) and gpt2."""


@pytest.fixture
def older(tmp_path: Path) -> Path:
    db = sqlite3.connect(tmp_path / "hub.db")
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(OLDER.read_text(encoding="utf-8"))
    db.close()
    return tmp_path


@pytest.fixture
def meta(older: Path) -> Iterator[Meta]:
    meta = Meta(older)
    yield meta
    meta.close()


def names(meta: Meta, **search: object) -> list[str]:
    found, _ = index.search(meta, who=LOCAL, **search)  # type: ignore[arg-type]
    return [repo.name for repo in found]


def test_an_older_hub_is_searched_like_a_new_one(meta: Meta) -> None:
    assert names(meta) == ["gpt2", "axon/Hidden", "axon/resnet34-v1"]
    assert names(meta, filter=["Axon"]) == ["axon/Hidden", "axon/resnet34-v1"]
    assert names(meta, filter=["Axon", "license:apache-2.0"]) == ["axon/resnet34-v1"]
    assert names(meta, author="axon", sort="downloads") == ["axon/resnet34-v1", "axon/Hidden"]
    assert names(meta, sort="downloads") == ["gpt2", "axon/resnet34-v1", "axon/Hidden"]
    assert names(meta, query="GRÖSSE alle") == names(meta, query="ü") == ["axon/resnet34-v1"]
    assert names(meta, query="dd") == ["axon/Hidden"]


def test_what_an_older_hub_is_brought_up_to_is_what_a_new_one_has(
    older: Path, meta: Meta, tmp_path_factory: pytest.TempPathFactory
) -> None:
    new = Meta(tmp_path_factory.mktemp("new"))
    with meta.reading() as old_db, new.writing() as db:
        for table in ("repos", "cards"):
            rows = old_db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            if table == "repos":
                db.executemany(
                    f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows
                )
        for repo in index.search(meta, who=LOCAL)[0]:
            put_card(db, repo.id, repo.card, repo.tags)
        for query in (
            "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2",
            "SELECT kind, name, models FROM labels ORDER BY 1, 2",
            "SELECT kind, name, repo, created, modified, downloads, likes"
            " FROM tagged JOIN labels ON id = label ORDER BY 1, 2, 3",
            "SELECT * FROM texts ORDER BY 1",
            "SELECT * FROM grams ORDER BY 1",
            "PRAGMA user_version",
        ):
            made = old_db.execute(query).fetchall()
            assert made == db.execute(query).fetchall() and made
    new.close()


def test_an_older_hub_that_cannot_be_brought_up_is_left_as_it_was(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError("the power went")

    def schema() -> list[tuple[object, ...]]:
        db = sqlite3.connect(older / "hub.db")
        try:
            return [*db.execute("PRAGMA user_version"), *db.execute("SELECT * FROM sqlite_schema")]
        finally:
            db.close()

    before = schema()
    with monkeypatch.context() as patched, pytest.raises(Exception, match="the power went"):
        patched.setattr(index_tables, "text_of", failing)
        Meta(older)
    assert schema() == before
    Meta(older).close()
    assert schema()[0] == (VERSION,)


def test_an_older_hub_goes_on_where_it_was(older: Path) -> None:
    hub = Hub(older)
    repo = hub.meta.repo("axon/resnet34-v1")
    hub.commit(repo, header(), file("README.md", b"---\ntags: [new]\n---\n"))
    assert names(hub.meta, filter=["new"]) == ["axon/resnet34-v1"]
    assert names(hub.meta, filter=["Axon"]) == ["axon/Hidden"]
    hub.meta.delete("axon/resnet34-v1")
    assert names(hub.meta, author="axon") == ["axon/Hidden"]
    assert hub.meta.create("axon/other").id > repo.id
    hub.meta.close()


def test_text_is_compared_without_case_and_in_one_spelling() -> None:
    assert fold("ResNet") == fold("RESNET") == "resnet"
    assert fold("GRÖSSE") == fold("Größe") == fold("gro\u0308ße")
    assert fold("a\0b") == "a b"
    assert fold("Ångström") == fold("\u212bngström")


def test_the_text_of_a_model_is_its_name_titles_and_tags() -> None:
    card = {
        "title": "A Title",
        "model-index": [{"name": "Named"}, {"name": 1}, "x"],
        "model_name": 3,
    }
    assert text_of("axon/Net", ["Axon", "license:mit", "dataset:a/b"], card) == (
        "axon/net\na title\nnamed\naxon\ndataset:a/b\n\n"
    )
    assert len(text_of("a", ["x" * 256] * 1000, {"title": "y" * 10**6})) < 10_010


def sampled(meta: Meta) -> dict[str, int]:
    """How many of the models in the sample have each trigram, counted one by one."""
    counts: Counter[str] = Counter()
    with meta.reading() as db:
        condition = index_tables.COUNTED.format("repo")
        for (text,) in db.execute(f"SELECT text FROM texts WHERE {condition}"):
            counts.update({text[place : place + 3] for place in range(len(text) - 2)})
    return dict(counts)


def test_a_sixteenth_of_the_models_is_counted_by_trigrams_whatever_happens(tmp_path: Path) -> None:
    meta = Meta(tmp_path)

    def counted() -> dict[str, int]:
        with meta.reading() as db:
            return dict(db.execute("SELECT gram, models FROM grams WHERE models > 0").fetchall())

    for number in range(100):
        meta.create(f"axon/resnet{number}")
    assert counted() == sampled(meta)
    assert counted()["res"] == 100 // 16
    with meta.writing() as db:
        for number in range(1, 100, 3):
            put_card(db, number, {"title": f"A title {number}"}, ["Axon"])
        db.execute("UPDATE repos SET name = name || '-v2' WHERE id % 2")
    assert counted() == sampled(meta) and "-v2" in counted()
    for number in range(0, 100, 2):
        meta.delete(f"axon/resnet{number}-v2")
    assert counted() == sampled(meta) and counted()["res"] < 100 // 16
    meta.close()
