"""Files and folders are put in place whole; tests/formats/test_native_target.py kills writers."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from hubtool import files
from hubtool.errors import WriteError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def none_is_kept(place: Path) -> str:
    return ""


def test_a_new_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "f"
    with files.new_file(target, overwrite=False) as stream:
        stream.write(b"half")
        assert not target.exists()
        stream.write(b" and half")
    assert target.read_bytes() == b"half and half"
    assert names(tmp_path) == ["f"]


def test_an_overwritten_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"old")
    with files.new_file(target, overwrite=True) as stream:
        stream.write(b"new")
        stream.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_a_file_whose_writer_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError), files.new_file(tmp_path / "f", overwrite=False) as stream:
        stream.write(b"half")
        raise ArithmeticError
    assert names(tmp_path) == []


def test_an_existing_file_is_refused_and_a_folder_always(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with (
        pytest.raises(WriteError, match="exists already") as caught,
        files.new_file(tmp_path / "f", overwrite=False),
    ):
        pass
    assert "--overwrite" in caught.value.hint
    with pytest.raises(WriteError, match="is a folder"), files.new_file(tmp_path, overwrite=True):
        pass
    assert (tmp_path / "f").read_bytes() == b"old"


def test_what_a_dead_writer_left_is_swept_and_what_a_living_one_holds_is_not(
    tmp_path: Path,
) -> None:
    dead = tmp_path / ".a.00000000.hubtool-tmp"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "new").mkdir()
    (dead / "new/half").touch()
    (tmp_path / ".b.00000000.hubtool-tmp").mkdir()
    (tmp_path / ".c.00000000.hubtool-tmp").touch()
    living = tmp_path / ".d.00000000.hubtool-tmp"
    living.touch()
    foreign = tmp_path / ".hubtool-tmp"
    foreign.mkdir()
    with living.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with files.new_file(tmp_path / "f", overwrite=False):
            pass
    assert names(tmp_path) == sorted([living.name, foreign.name, "f"])


def test_an_orphan_without_a_lock_is_left_alone_unless_empty(tmp_path: Path) -> None:
    orphan = tmp_path / ".a.00000000.hubtool-tmp"
    orphan.mkdir()
    (orphan / "old").mkdir()
    with files.replacing(tmp_path / "m", overwrite=False, replaceable=none_is_kept):
        pass
    assert names(tmp_path) == [orphan.name, "m"]


def test_an_orphan_of_another_name_is_never_taken_for_ours(tmp_path: Path) -> None:
    orphan = tmp_path / ".m.v2.00000000.hubtool-tmp"
    (orphan / "old").mkdir(parents=True)
    assert files.interrupted(tmp_path / "m") is None
    assert files.interrupted(tmp_path / "m.v2") == orphan / "old"


def test_a_former_target_that_cannot_be_put_back_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = tmp_path / ".a.00000000.hubtool-tmp"
    (orphan / "old").mkdir(parents=True)
    (orphan / "lock").touch()

    def refused(old: Path, new: Path) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        with files.new_file(tmp_path / "f", overwrite=False):
            pass
    assert (orphan / "old").is_dir()
    with files.new_file(tmp_path / "g", overwrite=False):
        pass
    assert names(tmp_path) == ["a", "f", "g"]


def test_two_folders_change_places_in_one_step(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/x").touch()
    assert files._exchange(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path / "b") == ["x"]
    assert not files._exchange(tmp_path / "a", tmp_path / "none")
