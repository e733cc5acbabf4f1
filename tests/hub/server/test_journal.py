"""The journal tells what the database holds, no more and no less, whatever happened on the way."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hubtool.errors import HubError
from hubtool.hub.server import check, journal
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.meta import Repo

from .bodies import Hub, file, header, line


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.meta.create("axon/m")


def state(hub: Hub) -> tuple[str, int]:
    with hub.meta.reading() as db:
        return db.execute("SELECT generation, length FROM journal").fetchone()


def path(hub: Hub) -> Path:
    return hub.root / journal.JOURNAL


def agrees(hub: Hub) -> bool:
    return check.check(hub.root).problems == []


def test_every_kind_of_change_is_told(hub: Hub, repo: Repo) -> None:
    hub.commit(repo, header(), file("README.md", b"---\ntags: [Axon]\n---\n"), file("a/b", b"1"))
    hub.commit(repo, header("ünï\0\u2028 'quoted'"), line("deletedFile", path="a/b"))
    hub.meta.create_ref(repo, "branch", "dev", repo.head)
    hub.commit(repo, header(), file("c", b"2"), branch="dev")
    hub.meta.create_ref(repo, "tag", "v1", repo.head)
    hub.meta.delete_ref(repo, "branch", "dev")
    hub.meta.set_private(repo.name, True)
    hub.meta.create("gone")
    hub.meta.delete("gone")
    hub.meta.count_download(repo)
    assert agrees(hub)
    assert state(hub)[1] == path(hub).stat().st_size


def test_a_change_that_the_journal_does_not_know_is_noticed(hub: Hub, repo: Repo) -> None:
    with closing(sqlite3.connect(hub.root / "hub.db")) as db:
        db.execute("UPDATE refs SET name = 'other' WHERE name = 'main'")
        db.execute("INSERT INTO refs VALUES (1, 'branch', 'main', ?)", (repo.head,))
        db.execute("UPDATE repos SET private = 1")
        db.commit()
    found = [str(problem).partition(" is not")[0] for problem in check.check(hub.root).problems]
    assert found == [
        "hub.journal: row (1, 'branch', 'other') of 'refs'",
        "hub.journal: row (1,) of 'repos'",
    ]


def test_the_journal_reaches_the_disk_before_the_database(
    hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    synced = os.fdatasync

    def noted(handle: int) -> None:
        done.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        done.append(hub.meta.repo(repo.name).head)
        synced(handle)

    monkeypatch.setattr(os, "fdatasync", noted)
    commit = hub.commit(repo, header(), file("a", b"1"))
    assert done == [journal.JOURNAL, repo.head]
    assert hub.meta.repo(repo.name).head == commit.oid
    hub.commit(repo, header(), file("a", b"1"))
    assert len(done) == 2, "where nothing changes nobody waits for the disk"


def test_what_was_not_committed_is_cut_off(
    hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(hub)

    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(Refusal, match="disk is full"):
        patched.setattr(os, "fdatasync", broken)
        hub.commit(repo, header("long " * 99), file("a", b"1"))
    assert state(hub) == before and path(hub).stat().st_size > before[1]
    assert hub.meta.repo(repo.name) == repo
    assert agrees(hub)
    hub.commit(repo, header(), file("b", b"2"))
    assert state(hub)[1] == path(hub).stat().st_size
    assert agrees(hub)


def test_a_large_transaction_is_told_in_pieces(
    hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PIECE", 300)
    lines = path(hub).read_bytes().count(b"\n")
    hub.commit(repo, header(), *(file(f"{number}", b"%d" % number) for number in range(30)))
    assert path(hub).read_bytes().count(b"\n") > lines + 9
    assert agrees(hub)


@pytest.mark.parametrize("harm", ["gone", "short", "foreign"])
def test_a_journal_that_does_not_fit_is_told_and_made_anew_when_the_hub_is_opened(
    hub: Hub, repo: Repo, harm: str
) -> None:
    hub.commit(repo, header(), file("a", b"1"))
    generation = state(hub)[0]
    if harm == "gone":
        path(hub).unlink()
    elif harm == "short":
        os.truncate(path(hub), state(hub)[1] - 1)
    else:
        path(hub).write_bytes(path(hub).read_bytes().replace(generation.encode(), b"f" * 32, 1))
    found = check.check(hub.root).problems
    assert found and {problem.place for problem in found} == {journal.JOURNAL}
    Hub(hub.root).meta.close()
    assert agrees(hub) and state(hub)[0] != generation


def test_a_journal_that_goes_away_under_a_running_hub_comes_back(hub: Hub, repo: Repo) -> None:
    path(hub).unlink()
    hub.commit(repo, header(), file("a", b"1"))
    assert agrees(hub)


def test_an_older_hub_gets_a_journal_when_it_is_opened(hub: Hub, repo: Repo) -> None:
    hub.commit(repo, header(), file("a", b"1"))
    hub.meta.close()
    path(hub).unlink()
    with closing(sqlite3.connect(hub.root / "hub.db")) as db:
        db.execute("DROP TABLE journal")
    assert agrees(hub), "an older hub is no damaged one"
    hub = Hub(hub.root)
    assert agrees(hub) and path(hub).exists()
    hub.meta.close()


def test_a_database_that_is_gone_is_not_replaced_by_an_empty_one(hub: Hub, repo: Repo) -> None:
    hub.meta.close()
    (hub.root / "hub.db").unlink()
    for _ in range(2):
        with pytest.raises(HubError, match="is gone") as caught:
            Hub(hub.root)
        assert "reindex" in caught.value.hint
    with pytest.raises(HubError, match="is gone"):
        check.check(hub.root)


def test_a_table_that_somebody_adds_is_told_too(hub: Hub) -> None:
    with closing(sqlite3.connect(hub.root / "hub.db", isolation_level=None)) as db:
        db.execute("CREATE TABLE more(a, b BLOB, c REAL, PRIMARY KEY (a, b))")
    other = Hub(hub.root)
    rows: list[tuple[Any, ...]] = [("x", b"\0\xff", 0.1), (7, b"", None), ("y", None, 1e300)]
    with other.meta.writing() as db:
        db.executemany("INSERT INTO more VALUES (?, ?, ?)", rows)
    with other.meta.writing() as db:
        db.execute("INSERT OR REPLACE INTO more VALUES ('x', ?, 0.30000000000000004)", (b"\0\xff",))
        db.execute("DELETE FROM more WHERE a = 7")
        db.execute("UPDATE more SET a = 'z' WHERE a = 'y'")
    assert agrees(other)
    other.meta.close()
