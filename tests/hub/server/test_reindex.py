"""The database comes back from its journal, row by row, and what searches go by with it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hubtool.errors import HubError, ReadError
from hubtool.hub.server import index, journal
from hubtool.hub.server.accounts import LOCAL
from hubtool.hub.server.check import check
from hubtool.hub.server.reindex import rebuild, renew_journal

from .bodies import Hub, file, header


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A hub with a past, closed."""
    hub = Hub(tmp_path / "hub")
    one, two = hub.meta.create("axon/one"), hub.meta.create("axon/two", private=True)
    card = b"---\ntags: [Axon, b]\npipeline_tag: image-classification\n---\n# One\n"
    hub.commit(one, header(), file("README.md", card), file("weights", b"w" * 9999))
    hub.commit(one, header(), file("README.md", card.replace(b"b]", b"c]")))
    hub.commit(two, header(), file("README.md", b"---\ntags: [Elixir]\n---\n"))
    hub.meta.create_ref(one, "tag", "v1", one.head)
    hub.meta.create_ref(one, "branch", "dev", one.head)
    hub.commit(one, header(), file("dev", b"dev"), branch="dev")
    hub.meta.create("axon/gone")
    hub.meta.delete("axon/gone")
    hub.meta.close()
    return hub.root


def rows(root: Path) -> dict[str, Any]:
    """Everything that the database of a hub holds, its indexes too."""
    with closing(sqlite3.connect(root / "hub.db")) as db:
        found = {
            table.name: sorted(db.execute(f"SELECT * FROM {table.name}").fetchall(), key=repr)
            for table in journal.tables(db)
        }
        found["state"] = db.execute("SELECT * FROM journal").fetchall()
        found["schema"] = db.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
    hub = Hub(root)
    for tags in (["Axon"], ["b"], ["c"], ["Elixir"], ["Axon", "c"], ["image-classification"]):
        found["|".join(tags)] = names(hub, filter=tags)
    found["author"] = names(hub, author="axon")
    found["words"] = names(hub, query="one")
    hub.meta.close()
    return found


def names(hub: Hub, **asked: Any) -> list[str]:
    return [repo.name for repo in index.search(hub.meta, who=LOCAL, **asked)[0]]


def test_a_lost_database_comes_back_as_it_was(root: Path) -> None:
    before = rows(root)
    assert before["Axon|c"] == ["axon/one"] and before["Elixir"] == ["axon/two"]
    (root / "hub.db").unlink()
    done = rebuild(root)
    assert (done.models, done.commits, done.lost, done.torn) == (2, 6, [], False)
    assert rows(root) == before
    assert check(root).problems == []
    assert not (root / "hub.db.old").exists()
    hub = Hub(root)
    hub.commit(hub.meta.repo("axon/one"), header(), file("more", b"more"))
    hub.meta.close()
    assert check(root).problems == []


def test_a_damaged_database_is_replaced_and_kept(root: Path) -> None:
    before = rows(root)
    (root / "hub.db").write_bytes(b"no database" * 999)
    (root / "hub.db-wal").write_bytes(b"stale")
    rebuild(root)
    assert rows(root) == before
    assert (root / "hub.db.old").read_bytes().startswith(b"no database")
    assert sorted(path.name for path in (root / "tmp").iterdir()) == []


def test_a_hub_whose_journal_began_late_comes_back_too(root: Path) -> None:
    renew_journal(root)
    before = rows(root)
    (root / "hub.db").unlink()
    assert rebuild(root).models == 2
    assert rows(root) == before


def test_what_was_never_acknowledged_is_left_out(root: Path) -> None:
    before = rows(root)
    with (root / "hub.journal").open("ab") as stream:
        stream.write(b'0badf00d {"part":0,"end":true,"rows":[["-","repos",{"id":1}]]')
    (root / "hub.db").unlink()
    done = rebuild(root)
    assert (done.torn, done.lost) == (True, [])
    assert rows(root) == before


def test_half_a_transaction_is_left_out(root: Path) -> None:
    before = rows(root)
    with (root / "hub.journal").open("ab") as stream:
        stream.write(journal._line(['["-","repos",{"id":1}]'], 0, end=False))
    (root / "hub.db").unlink()
    assert rebuild(root).torn
    assert rows(root) == before


def test_a_damaged_journal_is_refused_by_its_lines_or_gives_what_it_can(root: Path) -> None:
    path = root / "hub.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = next(number for number, text in enumerate(lines) if b"Elixir" in text)
    lines[damaged] = lines[damaged].replace(b"Elixir", b"elixir")
    path.write_bytes(b"".join(lines))
    database = (root / "hub.db").read_bytes()
    with pytest.raises(ReadError, match="is damaged") as caught:
        rebuild(root)
    assert caught.value.problems == [f"line {damaged + 1} cannot be read"]
    assert (root / "hub.db").read_bytes() == database
    assert rebuild(root, partial=True).lost == [damaged + 1]
    hub = Hub(root)
    assert names(hub, author="axon") == ["axon/two", "axon/one"]
    assert names(hub, filter=["Elixir"]) == []
    hub.meta.close()
    assert check(root).problems == []


def test_a_newer_hubs_journal_is_refused(root: Path) -> None:
    with (root / "hub.journal").open("ab") as stream:
        stream.write(journal._line(['["+","wonders",{"id":1}]'], 0, end=True))
    with pytest.raises(HubError, match="wonders") as caught:
        rebuild(root)
    assert "update hubtool" in caught.value.hint


def test_nobody_may_have_the_hub_open(root: Path) -> None:
    hub = Hub(root)
    with pytest.raises(HubError, match="somebody has the hub open"):
        rebuild(root)
    hub.meta.close()
    rebuild(root)


def test_without_a_journal_there_is_nothing_to_rebuild_from(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"no '.*hub.journal'"):
        rebuild(tmp_path)
    with pytest.raises(HubError, match="there is no hub"):
        renew_journal(tmp_path)
    assert list(tmp_path.iterdir()) == []
