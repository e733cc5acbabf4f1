"""The audit log tells what was done, in the transaction that did it, and finds it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hubtool.hub.server import audit
from hubtool.hub.server.audit import Actor, entries, note
from hubtool.hub.server.check import check
from hubtool.hub.server.meta import Meta
from hubtool.hub.server.reindex import rebuild

ANN = Actor("Ann", "0123456789ab", "127.0.0.1")
BOB = Actor("bob")


@pytest.fixture
def meta(tmp_path: Path) -> Iterator[Meta]:
    with closing(Meta(tmp_path)) as meta:
        yield meta


def write(meta: Meta, *lines: tuple[Actor, str, str]) -> None:
    with meta.writing() as db:
        for actor, action, subject in lines:
            note(db, actor, action, subject)


def found(meta: Meta, **asked: Any) -> list[str]:
    """Action and subject of each line that is found."""
    with meta.reading() as db:
        return [f"{event.action} {event.subject}" for event in entries(db, **asked)]


def test_a_line_says_who_what_when_and_from_where(meta: Meta) -> None:
    before = datetime.now(UTC)
    with meta.writing() as db:
        note(db, ANN, "repo.move", "axon/x", to="axon/ü", private=False, size=None, paths=["a"])
    with meta.reading() as db:
        (event,) = entries(db)
    assert (event.user, event.token, event.address) == ("Ann", "0123456789ab", "127.0.0.1")
    assert (event.action, event.subject) == ("repo.move", "axon/x")
    assert event.detail == {"to": "axon/ü", "private": False, "size": None, "paths": ["a"]}
    date = datetime.fromisoformat(event.date)
    assert before - timedelta(milliseconds=1) <= date <= datetime.now(UTC)


def test_what_was_rolled_back_was_never_noted(meta: Meta) -> None:
    with pytest.raises(RuntimeError, match="the change"), meta.writing() as db:
        note(db, ANN, "repo.delete", "axon/x")
        raise RuntimeError("the change failed")
    assert found(meta) == []


def test_the_newest_come_first_and_pages_follow_one_another(meta: Meta) -> None:
    write(meta, *((ANN, "commit", f"axon/{number}") for number in range(7)))
    with meta.reading() as db:
        pages, before = [], None
        while page := entries(db, limit=3, before=before):
            pages.append([event.subject[-1] for event in page])
            before = page[-1].id
    assert pages == [["6", "5", "4"], ["3", "2", "1"], ["0"]]


def test_lines_are_found_by_user_subject_action_and_all_of_them(meta: Meta) -> None:
    write(
        meta,
        (ANN, "repo.create", "axon/x"),
        (BOB, "repo.delete", "axon/x"),
        (ANN, "repository", "axon/xy"),
        (ANN, "repo", "Axon/X"),
        (BOB, "commit", "axon/y"),
    )
    assert found(meta, user="ann") == ["repo Axon/X", "repository axon/xy", "repo.create axon/x"]
    assert found(meta, subject="AXON/x", user="bob") == ["repo.delete axon/x"]
    assert found(meta, action="repo") == [
        "repo Axon/X",
        "repo.delete axon/x",
        "repo.create axon/x",
    ]
    assert found(meta, action="repo.delete") == ["repo.delete axon/x"]
    assert found(meta, action="repo", user="ann", subject="axon/x", limit=1) == ["repo Axon/X"]
    assert found(meta, action="re") == found(meta, action="repo%") == found(meta, user="") == []


def test_lines_are_found_by_the_time_since(meta: Meta, monkeypatch: pytest.MonkeyPatch) -> None:
    for hour in (1, 2, 3):
        with monkeypatch.context() as patched:
            date = f"2026-01-31T0{hour}:00:00.000Z"
            patched.setattr(audit.meta_history, "now", lambda date=date: date)
            write(meta, (ANN, "commit", str(hour)))
    assert found(meta, since=datetime(2026, 1, 31, 2)) == ["commit 3", "commit 2"]
    east = datetime.fromisoformat("2026-01-31T04:30:00+02:00")
    assert found(meta, since=east) == ["commit 3"]
    assert found(meta, since=datetime(2027, 1, 1)) == []


def test_lines_of_a_user_or_subject_are_read_off_an_index(meta: Meta) -> None:
    asked: list[str] = []
    with meta.reading() as db:
        db.set_trace_callback(asked.append)
        entries(db, user="ann")
        entries(db, subject="axon/x")
        db.set_trace_callback(None)
        plans = [row[3] for query in asked for row in db.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert plans == [
        "SEARCH audit USING INDEX audit_user (user=?)",
        "SEARCH audit USING INDEX audit_subject (subject=?)",
    ]


def test_the_log_comes_back_from_the_journal(meta: Meta, tmp_path: Path) -> None:
    with meta.writing() as db:
        note(db, ANN, "commit", "axon/x", title="caf\u00e9\u2028")
    with meta.reading() as db:
        before = entries(db)
    meta.close()
    assert check(tmp_path).problems == []
    (tmp_path / "hub.db").unlink()
    rebuild(tmp_path)
    with closing(Meta(tmp_path)) as again, again.reading() as db:
        assert entries(db) == before and len(before) == 1
