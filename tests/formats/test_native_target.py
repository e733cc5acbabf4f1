"""Where a folder is put: nothing foreign is overwritten, and no crash leaves half of anything.

The crash is real: a forked child kills itself with SIGKILL just before its n-th call of the file
system, for every n until it comes through alive.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubtool import files
from hubtool.errors import ReadError, WriteError
from hubtool.formats import native
from hubtool.graph import Graph, Tensor

CALLS = {
    os: ("mkdir", "open", "rename", "replace", "unlink", "rmdir", "fsync", "close", "scandir"),
    fcntl: ("flock",),
    files: ("_exchange",),
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def graph(number: int) -> Graph:
    return Graph(tensors={"w": Tensor.of(np.full(1000, number, np.int16))}, meta={"n": number})


OLD, NEW, OTHER = graph(1), graph(2), graph(3)


def die_before_call(number: int) -> None:
    """From now on this process kills itself before its n-th call that touches the disk."""
    calls = itertools.count(1)

    def tick() -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tick()
            return function(*args, **kwargs)

        return call

    class Counted:
        """An open file whose every write reaches the disk, and counts."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            tick()
            self.file = opened(*args, **kwargs)

        def write(self, data: Any) -> int:
            tick()
            written = self.file.write(data)
            self.file.flush()
            return int(written)

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    opened = io.open
    io.open = Counted
    for module, names in CALLS.items():
        for name in names:
            setattr(module, name, counted(getattr(module, name)))


def killed(number: int, action: Callable[[], None]) -> bool:
    """Whether a child that does `action` died before its n-th call; else it came to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of threads
        child = os.fork()
    if child == 0:
        try:
            die_before_call(number)
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def every_crash(
    tmp_path: Path, action: Callable[[Path], None], start: Callable[[Path], None]
) -> Any:
    """A folder for each n: made by `start`, then `action` killed before its n-th call in it."""
    for number in itertools.count(1):
        place = tmp_path / str(number)
        place.mkdir()
        start(place)
        dead = killed(number, lambda place=place: action(place))
        yield place
        shutil.rmtree(place)
        if not dead:
            assert number > 20  # so many calls there are at the least: the patches did work
            return


def test_a_crash_while_writing_leaves_nothing_or_the_whole(tmp_path: Path) -> None:
    outcomes = set()
    for place in every_crash(
        tmp_path, lambda place: native.write(NEW, place / "m"), lambda place: None
    ):
        there = (place / "m").exists()
        outcomes.add(there)
        assert not there or native.read(place / "m", verify=True) == NEW
        native.write(OTHER, place / "other")
        assert names(place) == ["m"] * there + ["other"]
    assert outcomes == {True, False}


def test_a_crash_while_overwriting_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    outcomes = set()
    for place in every_crash(
        tmp_path,
        lambda place: native.write(NEW, place / "m", overwrite=True),
        lambda place: native.write(OLD, place / "m"),
    ):
        back = native.read(place / "m", verify=True)
        assert back in (OLD, NEW)
        outcomes.add(back.meta["n"])
        native.write(OTHER, place / "other")
        assert names(place) == ["m", "other"]
        assert native.read(place / "m", verify=True) == back
    assert outcomes == {1, 2}


def test_without_exchange_a_crash_leaves_the_old_or_the_new_or_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    outcomes = set()
    for place in every_crash(
        tmp_path,
        lambda place: native.write(NEW, place / "m", overwrite=True),
        lambda place: native.write(OLD, place / "m"),
    ):
        if (place / "m").exists():
            before = native.read(place / "m", verify=True)
            assert before in (OLD, NEW)
            outcomes.add(before.meta["n"])
        else:
            with pytest.raises(ReadError, match="a crash interrupted its replacement") as caught:
                native.read(place / "m")
            assert native.read(Path(caught.value.hint.split("'")[1]), verify=True) == OLD
            before = OLD
            outcomes.add("between")
        native.write(OTHER, place / "other")
        assert names(place) == ["m", "other"]
        assert native.read(place / "m", verify=True) == before
    assert outcomes == {1, 2, "between"}


def test_a_crash_while_sweeping_leaves_no_more_to_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(place: Path) -> None:
        """What a crash between the two renames of an overwrite leaves behind."""
        native.write(OLD, place / "m")
        orphan = place / ".m.01234567.hubtool-tmp"
        orphan.mkdir()
        (orphan / "lock").touch()
        (place / "m").rename(orphan / "old")
        native.write(NEW, orphan / "new")

    for place in every_crash(tmp_path, lambda place: native.write(OTHER, place / "o"), start):
        native.write(OTHER, place / "other")
        assert set(names(place)) - {"o"} == {"m", "other"}
        assert native.read(place / "m", verify=True) == OLD


def test_what_another_writer_is_at_work_on_is_not_swept(tmp_path: Path) -> None:
    def write_another(folder: Path) -> None:
        native.write(OTHER, tmp_path / "other")
        assert folder.exists()
        assert native.read(folder) == NEW

    native.write(NEW, tmp_path / "m", check=write_another)
    assert names(tmp_path) == ["m", "other"]
    assert native.read(tmp_path / "m") == NEW


def test_many_writers_of_one_target_leave_one_whole_folder(tmp_path: Path) -> None:
    children = []
    for number in range(6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                for _ in range(10):
                    native.write(graph(number), tmp_path / "m", overwrite=True)
                os._exit(0)
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert names(tmp_path) == ["m"]
    assert native.read(tmp_path / "m", verify=True).meta["n"] in range(6)


def test_an_existing_target_is_refused_before_any_work(tmp_path: Path) -> None:
    native.write(OLD, tmp_path / "m")

    def forbidden() -> np.ndarray:
        raise AssertionError("a weight was loaded")

    lazy = Graph(tensors={"w": Tensor("int8", (1,), forbidden)})
    with pytest.raises(WriteError, match="exists already") as caught:
        native.write(lazy, tmp_path / "m")
    assert "--overwrite" in caught.value.hint
    with pytest.raises(WriteError, match="exists already"):
        native.check_target(tmp_path / "m")
    assert native.read(tmp_path / "m") == OLD


def test_overwriting_replaces_the_model_and_keeps_what_was_put_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "m"
    native.write(OLD, target, extra={"report.json": b"{}", "README.md": b"A card, by hand."})
    (target / "more.safetensors").write_bytes(b"a shard of the former model")
    mapped = native.read(target)
    native.check_target(target, overwrite=True)
    native.write(NEW, target, overwrite=True)
    assert mapped == OLD  # what is mapped stays readable
    assert names(target) == ["README.md", "graph.json", "model.safetensors"]
    assert (target / "README.md").read_bytes() == b"A card, by hand."
    assert native.read(target) == NEW
    native.write(OLD, target, overwrite=True, extra={"README.md": b"Another card."})
    assert (target / "README.md").read_bytes() == b"Another card."


def test_a_graph_may_overwrite_the_folder_that_it_was_read_from(tmp_path: Path) -> None:
    native.write(OLD, tmp_path / "m")
    native.write(native.read(tmp_path / "m"), tmp_path / "m", overwrite=True)
    assert native.read(tmp_path / "m", verify=True) == OLD


def test_a_failed_overwrite_leaves_the_old(tmp_path: Path) -> None:
    native.write(OLD, tmp_path / "m")

    def check(folder: Path) -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        native.write(NEW, tmp_path / "m", overwrite=True, check=check)
    assert names(tmp_path) == ["m"]
    assert native.read(tmp_path / "m") == OLD


def plain_file(target: Path) -> None:
    target.write_text("precious")


def foreign_folder(target: Path) -> None:
    target.mkdir()
    (target / "thesis.tex").write_text("precious")


def foreign_graph_json(target: Path) -> None:
    target.mkdir()
    (target / "graph.json").write_text('{"nodes": []}')


def working_copy(target: Path) -> None:
    native.write(OLD, target)
    (target / ".git").mkdir()


@pytest.mark.parametrize("make", [plain_file, foreign_folder, foreign_graph_json, working_copy])
def test_what_is_no_model_folder_is_never_overwritten(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    target = tmp_path / "m"
    make(target)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for attempt in (native.check_target, lambda *a, **k: native.write(NEW, *a, **k)):
        with pytest.raises(WriteError, match="will not be overwritten"):
            attempt(target, overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_what_appeared_in_the_meantime_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="exists already"):
        native.write(NEW, tmp_path / "m", check=lambda folder: plain_file(tmp_path / "m"))
    with pytest.raises(WriteError, match="it is a file"):
        native.write(
            NEW, tmp_path / "n", overwrite=True, check=lambda _: plain_file(tmp_path / "n")
        )
    assert (tmp_path / "m").read_text() == (tmp_path / "n").read_text() == "precious"
    assert names(tmp_path) == ["m", "n"]


def test_an_empty_folder_may_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(WriteError, match="exists already"):
        native.write(NEW, tmp_path / "m")
    native.write(NEW, tmp_path / "m", overwrite=True)
    assert native.read(tmp_path / "m") == NEW


def test_a_link_is_followed(tmp_path: Path) -> None:
    native.write(OLD, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    native.write(NEW, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert native.read(tmp_path / "real") == NEW


def test_a_target_without_a_folder_around_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="there is no folder"):
        native.write(NEW, tmp_path / "no/m")


def test_a_failure_of_the_system_names_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"cannot write '.*/m': No space left on device"):
        native.write(NEW, tmp_path / "m")
    assert names(tmp_path) == []


def test_the_folder_has_the_permissions_of_any_new_folder(tmp_path: Path) -> None:
    native.write(NEW, tmp_path / "m")
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").touch()
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "plain").stat().st_mode
    modes = {path.stat().st_mode for path in (tmp_path / "m").iterdir()}
    assert modes == {(tmp_path / "file").stat().st_mode}
