"""The hub of an older hubtool is brought up when it is opened, from its database or its journal."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hubtool.hub.server import index, journal
from hubtool.hub.server.accounts import Accounts
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.check import check
from hubtool.hub.server.meta import Meta
from hubtool.hub.server.meta_database import VERSION
from hubtool.hub.server.reindex import rebuild

HERE = Path(__file__).parent


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A hub of schema 2 as hubtool made it, which knew no accounts: database and journal."""
    root = tmp_path / "older"
    root.mkdir()
    with closing(sqlite3.connect(root / "hub.db")) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript((HERE / "schema_2.sql").read_text(encoding="utf-8"))
    (root / "hub.journal").write_bytes((HERE / "schema_2.journal").read_bytes())
    return root


def rows(root: Path) -> dict[str, Any]:
    """What the tables hold that the journal tells of, and how they are made."""
    with closing(sqlite3.connect(root / "hub.db")) as db:
        found: dict[str, Any] = {
            table.name: sorted(db.execute(f"SELECT * FROM {table.name}").fetchall(), key=repr)
            for table in journal.tables(db)
        }
        found["schema"] = sorted(db.execute("SELECT type, name, sql FROM sqlite_schema"), key=repr)
        found["version"] = db.execute("PRAGMA user_version").fetchone()
    return found


def wrong(root: Path) -> list[str]:
    """What fsck says, but for the contents, which the fixture does not have."""
    return [str(problem) for problem in check(root).problems if "blobs/" not in str(problem)]


def test_a_hub_of_schema_2_becomes_what_a_new_one_is(older: Path, tmp_path: Path) -> None:
    before = rows(older)
    Meta(older).close()
    after = rows(older)
    (tmp_path / "new").mkdir()
    Meta(tmp_path / "new").close()
    assert after["schema"] == rows(tmp_path / "new")["schema"]
    assert after["version"] == (VERSION,)
    assert [row[:8] for row in after["repos"]] == before["repos"] and len(before["repos"]) == 2
    assert [row[8] for row in after["repos"]] == ["", ""]
    assert all(after[name] == before[name] for name in ("cards", "commits", "entries", "refs"))


def test_fsck_finds_nothing_wrong_before_and_after(older: Path) -> None:
    assert wrong(older) == []
    Meta(older).close()
    assert wrong(older) == []
    assert b'"gated"' in (older / "hub.journal").read_bytes()


def test_the_journal_of_schema_2_gives_a_hub_of_today(older: Path, tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / "hub.journal").write_bytes((older / "hub.journal").read_bytes())
    told = rebuild(lost)
    assert (told.models, told.commits, told.lost, told.torn) == (2, 4, [], False)
    for root in (older, lost):
        Meta(root).close()
    first, second = rows(older), rows(lost)
    assert [row[:6] for row in first.pop("repos")] == [row[:6] for row in second.pop("repos")]
    assert first == second  # download counts aside, which no journal tells
    assert wrong(lost) == []


def test_a_hub_of_schema_2_goes_on_with_accounts(older: Path) -> None:
    with closing(Meta(older)) as meta:
        accounts = Accounts(meta)
        assert not accounts.exist()
        accounts.add_user("ann", by=Actor("shell:me"))
        _, secret = accounts.new_token("ann", name="laptop", by=Actor("shell:me"))
        assert meta.create("ann/new").id == 4
        assert [repo.name for repo in index.search(meta, filter=["Axon"])[0]] == [
            "axon/resnet34-v1"
        ]
    before = rows(older)
    (older / "hub.db").unlink()
    rebuild(older)
    after = rows(older)
    assert after["accounts"] == before["accounts"] and after["tokens"] == before["tokens"]
    assert after["audit"] == before["audit"] and len(after["audit"]) >= 2
    with closing(Meta(older)) as meta:
        identity = Accounts(meta).identify(secret)
        assert identity is not None and identity.right("ann/new") == "write"
