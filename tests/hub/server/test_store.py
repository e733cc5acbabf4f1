"""A blob is whole, durable and there once, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool import files
from hubtool.hub.server.errors import LONGEST, Refusal
from hubtool.hub.server.store import Store

from .bodies import git_oid


def names(store: Store) -> list[str]:
    return sorted(path.name for path in store.tmp.iterdir())


def blobs(store: Store) -> list[Path]:
    return sorted(path for path in store.blobs.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_content_is_named_by_its_hash_and_knows_its_git_oid(store: Store) -> None:
    content = b"one" + bytes(range(256)) * 9000
    sha256 = hashlib.sha256(content).hexdigest()
    assert not store.has(sha256) and store.size(sha256) is None
    with store.writer() as writer:
        writer.write(content[:7])
        writer.write(b"")
        writer.write(content[7:])
        assert blobs(store) == []
        blob = writer.finish(sha256, len(content))
    assert (blob.sha256, blob.size, blob.oid) == (sha256, len(content), git_oid(content))
    assert store.path(sha256).read_bytes() == content
    assert store.path(sha256).relative_to(store.blobs).parts[:2] == (sha256[:2], sha256[2:4])
    assert store.has(sha256) and store.size(sha256) == len(content)
    assert names(store) == []


def test_an_empty_content_is_one_too(store: Store) -> None:
    with store.writer() as writer:
        blob = writer.finish(size=0)
    assert blob.oid == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert store.size(blob.sha256) == 0


def test_identical_content_is_stored_once(store: Store) -> None:
    with store.writer() as one, store.writer() as other:
        one.write(b"the same")
        other.write(b"the ")
        other.write(b"same")
        assert one.finish() == other.finish()
    assert len(blobs(store)) == 1


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_the_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        done.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    def noted_replace(old: Path, new: Path) -> None:
        done.append("replace")
        replace(old, new)

    with store.writer() as writer:
        writer.write(b"abc")
        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "replace", noted_replace)
        temporary = str(store.tmp / names(store)[0])
        place = store.path(writer.finish().sha256)
    folders = [str(folder) for folder in (place.parent, place.parent.parent, store.blobs)]
    assert done == [temporary, "replace", *folders]


@pytest.mark.parametrize(
    ("announced", "message"),
    [({"sha256": "0" * 64}, "sha256 is"), ({"size": 4}, "3 bytes came, but 4 were announced")],
)
def test_what_was_not_announced_is_refused(
    store: Store, announced: dict[str, object], message: str
) -> None:
    with pytest.raises(Refusal, match=message) as caught, store.writer() as writer:
        writer.write(b"abc")
        writer.finish(**announced)
    assert caught.value.status == 400
    assert (names(store), blobs(store)) == ([], [])


def test_a_block_without_finish_leaves_nothing(store: Store) -> None:
    with store.writer() as writer:
        writer.write(b"half")
    with pytest.raises(ArithmeticError), store.writer() as writer:
        writer.write(b"half")
        raise ArithmeticError
    assert (names(store), blobs(store)) == ([], [])


@pytest.mark.parametrize("name", ["", "ab", "../" * 21 + "x", "A" * 64, "g" * 64, "0" * 64 + "\n"])
def test_only_a_sha256_has_a_path(store: Store, name: str) -> None:
    with pytest.raises(Refusal, match="no sha256"):
        store.path(name)


def test_a_full_disk_while_writing_is_a_507(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_full_disk(place: Path) -> tuple[Path, int]:
        return place, os.open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(files, "temporary_file", on_full_disk)
    with pytest.raises(Refusal, match="disk is full") as caught, store.writer() as writer:
        writer.write(b"abc")
    assert caught.value.status == 507
    assert (names(store), blobs(store)) == ([], [])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "mkdir", "replace"])
def test_a_full_disk_while_finishing_is_a_507(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(Refusal) as caught, store.writer() as writer:
        writer.write(b"abc")
        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            writer.finish()
    assert caught.value.status == 507
    assert (names(store), blobs(store)) == ([], [])


def test_another_error_of_the_disk_is_no_refusal(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"), store.writer() as writer:
        monkeypatch.setattr(os, "fsync", broken)
        writer.finish()


WRITER = """
import sys
from pathlib import Path
from hubtool.hub.server.store import Store
with Store(Path(sys.argv[1])).writer() as writer:
    writer.write(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def living(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of writing a blob."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.tmp.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_sweep_spares_the_living_and_takes_what_the_dead_left(
    store: Store, living: subprocess.Popen[str]
) -> None:
    (store.tmp / "foreign").touch()
    held = [name for name in names(store) if name != "foreign"]
    assert len(held) == 1
    store.sweep()
    assert names(store) == sorted([*held, "foreign"])
    living.send_signal(signal.SIGKILL)
    living.wait()
    store.sweep()
    assert names(store) == ["foreign"]


def test_a_refusal_speaks_printable_ascii_of_bounded_length() -> None:
    message = Refusal(400, " é\r\nX-Evil: 1\x7f\x9b \ud800 ").message
    assert message == "\\xe9\\x0d\\x0aX-Evil: 1\\x7f\\x9b \\ud800"
    assert len(Refusal(400, "x" * 5000).message) == LONGEST
