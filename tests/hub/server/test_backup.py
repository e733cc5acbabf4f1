"""A backup is a hub: consistent whatever is written meanwhile, verified, and brought up to date."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.errors import HubError, WriteError
from hubtool.hub.server import backup as room
from hubtool.hub.server.backup import backup
from hubtool.hub.server.check import check
from hubtool.hub.server.meta import Repo
from hubtool.hub.server.run import Background

from .bodies import Hub, file, header
from .conftest import ask


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    repo = hub.meta.create("axon/m")
    hub.commit(repo, header(), file("README.md", b"---\ntags: [Axon]\n---\n"), file("a", b"one"))
    return repo


def files_of(place: Path) -> dict[str, bytes]:
    """What the newest commit of axon/m holds in the hub of a folder."""
    hub = Hub(place)
    try:
        return hub.content(hub.meta.repo("axon/m").head)
    finally:
        hub.meta.close()


@pytest.mark.parametrize("link", [False, True])
def test_a_backup_is_served_like_the_hub(hub: Hub, repo: Repo, tmp_path: Path, link: bool) -> None:
    hub.keep(b"unnamed")
    done = backup(hub.root, tmp_path / "copy", link=link)
    assert (done.models, done.commits, done.contents, done.new, done.problems) == (1, 2, 3, 3, [])
    assert check(tmp_path / "copy").problems == []
    shutil.rmtree(hub.root / "blobs")
    with Background(tmp_path / "copy") as url:
        assert ask(url, "GET", "/axon/m/resolve/main/a").body == b"one"
        assert [model["id"] for model in ask(url, "GET", "/api/models?filter=Axon").data] == [
            "axon/m"
        ]


def test_a_second_backup_copies_only_what_is_new(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    backup(hub.root, copy)
    before = {path: path.stat().st_ino for path in copy.rglob("blobs/*/*/*")}
    for turn in range(3):
        hub.commit(repo, header(), file("a", b"turn %d" % turn))
        done = backup(hub.root, copy)
        assert (done.new, done.new_bytes, done.contents) == (1, 6, 4 + turn)
        assert files_of(copy)["a"] == b"turn %d" % turn
        assert check(copy).problems == []
    assert before.items() <= {path: path.stat().st_ino for path in before}.items()
    assert backup(hub.root, copy).new == 0


def test_a_backup_of_a_hub_that_is_written_to_is_one_state_of_it(
    hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    done = threading.Event()

    def write() -> None:
        other = Hub(hub.root)
        number = 0
        while not done.is_set():
            number += 1
            text = b"%d" % number
            other.commit(repo, header(), file("a", text), file(f"n/{number}", text))
        other.meta.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            backup(hub.root, tmp_path / "copy")
            assert check(tmp_path / "copy").problems == []
            found = files_of(tmp_path / "copy")
            if found["a"] != b"one":
                assert found[f"n/{found['a'].decode()}"] == found["a"]
                assert len(found) == int(found["a"]) + 3
    finally:
        done.set()
        writer.join()


def test_what_is_damaged_is_not_copied_and_told_with_its_users(
    hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    flipped, missing = hub.keep(b"one").place, hub.keep(b"---\ntags: [Axon]\n---\n").place
    flipped.write_bytes(b"onE")
    missing.unlink()
    for link in (False, True):
        done = backup(hub.root, tmp_path / f"copy{link}", link=link)
        assert {problem.place: problem.models for problem in done.problems} == {
            str(flipped.relative_to(hub.root)): ["axon/m: a at main"],
            str(missing.relative_to(hub.root)): ["axon/m: README.md at main"],
        }
        assert done.contents == 1


def test_a_backup_that_was_cut_off_is_the_former_one_and_goes_on(
    hub: Hub, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    steps = ("_copied", "_copy_contents", "_copy_journal", "_mark", "_put")
    for whole in (False, True):
        for step in steps:
            plain = getattr(room, step)

            def broken(*rest: object, plain: object = plain, **more: object) -> object:
                raise KeyboardInterrupt

            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(room, step, broken)
                backup(hub.root, copy)
            if whole:
                assert files_of(copy)["a"] == b"one"
                assert check(copy).problems == []
            elif copy.exists():
                assert not (copy / "hub.db").exists()
                if step == "_mark":
                    shutil.rmtree(copy)
        if not whole:
            backup(hub.root, copy)
            hub.commit(repo, header(), file("a", b"two"))
    assert backup(hub.root, copy).new == 0
    assert files_of(copy)["a"] == b"two"


def test_a_journal_that_is_begun_anew_is_copied_anew(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    backup(hub.root, tmp_path / "copy")
    (hub.root / "hub.journal").unlink()
    hub.commit(repo, header(), file("a", b"two"))
    backup(hub.root, tmp_path / "copy")
    assert check(tmp_path / "copy").problems == []
    assert files_of(tmp_path / "copy")["a"] == b"two"


def test_what_is_no_backup_of_this_hub_is_not_touched(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    other = Hub(tmp_path / "other")
    backup(other.root, tmp_path / "others")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("dear")
    backup(hub.root, tmp_path / "mine")
    used = Hub(tmp_path / "mine")
    used.meta.create("axon/new")
    used.meta.close()
    for name, message in [
        ("full", "is no backup"),
        ("full/thesis", "is no backup"),
        ("other", "is no backup"),
        ("others", "of another hub"),
        ("hub/below", "lies in the hub"),
        ("mine", "was written to"),
    ]:
        with pytest.raises(WriteError, match=message) as caught:
            backup(hub.root, tmp_path / name)
        assert "another folder" in caught.value.hint
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis"]
    other.meta.close()


def test_a_backup_that_is_served_is_not_overwritten(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    backup(hub.root, tmp_path / "copy")
    with Background(tmp_path / "copy"), pytest.raises(HubError, match="somebody serves"):
        backup(hub.root, tmp_path / "copy")


def test_the_copy_of_a_store_has_a_name_of_its_own(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    backup(hub.root, tmp_path / "copy")
    copy = Hub(tmp_path / "copy")
    assert copy.store.uuid() != hub.store.uuid()
    copy.meta.close()


def test_where_there_is_no_hub_there_is_nothing_to_copy(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with pytest.raises(HubError, match="there is no hub"):
        backup(tmp_path / "hub", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
