"""A byte flips on the hub's disk: whoever fetches the file is told, and so is whoever runs the hub.

The server does not read a file twice to send it once: what has its length goes out as it is, under
the name (ETag) that it should have, by which a reader can tell. `hubtool pull` does, and fsck reads
everything. That a file of another length is refused by the server stands in test_downloads.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import hubtool
from hub.conftest import VARIABLES, convolution

from .conftest import Answer, ask
from .servers import Served

NAME = "axon/convolution-v1"


@dataclass(frozen=True)
class Place:
    """A served hub with a model. folder: of which it was made; home: of whoever fetches it."""

    root: Path
    url: str
    folder: Path
    home: Path

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The `hubtool` command, with a cache that is empty at first."""
        kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        return subprocess.run(
            [sys.executable, "-m", "hubtool", *map(str, arguments)],
            env={**kept, "HUBTOOL_HUB": self.url, "HUBTOOL_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def get(self, path: str) -> Answer:
        return ask(self.url, "GET", path, headers={"Accept": "text/html"})

    def blob(self, content: bytes) -> Path:
        """Where the hub keeps a content."""
        sha256 = hashlib.sha256(content).hexdigest()
        return self.root / "blobs" / sha256[:2] / sha256[2:4] / sha256

    def flip(self, path: str) -> tuple[bytes, bytes]:
        """Changes one bit of a file where it is stored; what it was and is."""
        was = self.get(f"/{NAME}/resolve/main/{path}").body
        now = bytearray(was)
        now[len(now) // 2] ^= 1
        self.blob(was).write_bytes(now)
        return was, bytes(now)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "owner"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = convolution(tmp_path / "convolution")
    hubtool.create_card(folder)
    with Served(tmp_path / "hub") as served:
        hubtool.push(folder, NAME, hub=served.url)
        (tmp_path / "reader").mkdir()
        yield Place(tmp_path / "hub", served.url, folder, tmp_path / "reader")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.mark.parametrize(("path", "name"), [("model.safetensors", sha256), ("graph.json", git)])
def test_pull_names_the_file_and_both_hashes_and_keeps_nothing(
    place: Place, path: str, name: Callable[[bytes], str]
) -> None:
    """A large file is known by its sha256, a small one by git's sha1."""
    was, now = (name(content) for content in place.flip(path))
    target = place.home / "target"
    failed = place.run("pull", NAME, "--to", target)
    assert failed.returncode == 1 and failed.stdout == ""
    for said in (f"{path} of {NAME}", place.url, f"is {now}, announced is {was}", "not kept"):
        assert said in failed.stderr
    assert not target.exists()
    cached = [file.name for file in (place.home / "pulled").rglob("*") if file.is_file()]
    assert not [file for file in cached if file.startswith((was, now))]


def test_fsck_names_model_file_and_revision_while_the_hub_is_served(place: Place) -> None:
    was, now = place.flip("model.safetensors")
    failed = place.run("hub", "fsck", "--hub", place.root)
    assert failed.returncode == 1 and "problems  1" in failed.stdout
    stored = str(place.blob(was).relative_to(place.root))
    for said in (stored, f"its sha256 is {sha256(now)}", "from a backup"):
        assert said in failed.stderr
    assert f"used by {NAME}: model.safetensors at main" in failed.stderr


def test_the_server_sends_it_as_it_is_under_the_name_that_it_should_have(place: Place) -> None:
    was, now = place.flip("model.safetensors")
    answer = place.get(f"/{NAME}/resolve/main/model.safetensors")
    assert (answer.status, answer.body) == (200, now)
    assert answer.headers["ETag"] == answer.headers["X-Linked-Etag"] == f'"{sha256(was)}"'


@pytest.mark.parametrize("path", ["graph.json", "README.md", "model.safetensors"])
def test_pages_show_what_is_there(place: Place, path: str) -> None:
    place.flip(path)
    for page in ("", "/tree/main", f"/blob/main/{path}", "/commits/main"):
        answer = place.get(f"/{NAME}{page}")
        assert answer.status == 200 and NAME in answer.body.decode(), page


@pytest.mark.parametrize("path", ["graph.json", "model.safetensors"])
@pytest.mark.parametrize("mended", ["from a backup", "by another push"])
def test_what_is_mended_is_sound_again(place: Place, path: str, mended: str) -> None:
    """In both ways that fsck names."""
    was, _ = place.flip(path)
    if mended == "by another push":
        place.blob(was).unlink()
        hubtool.push(place.folder, NAME, hub=place.url)
    else:
        place.blob(was).write_bytes(was)
    assert place.run("hub", "fsck", "--hub", place.root).returncode == 0
    target = place.home / "target"
    assert place.run("pull", NAME, "--to", target).returncode == 0
    assert (target / path).read_bytes() == was
