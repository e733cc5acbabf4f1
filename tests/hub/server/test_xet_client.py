"""The unmodified huggingface_hub with hf_xet: nothing is set but HF_ENDPOINT."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtool.hub.server.store import Store
from hubtool.hub.server.xet_store import Xorbs

from .conftest import Client, ClientError, Repo, ask
from .servers import Served

MB = 1_000_000
BIG = 100 * MB


class Place:
    """A hub in a process of its own, and a client that knows no other."""

    def __init__(self, root: Path, served: Served, client: Client) -> None:
        self.root, self.served, self.client = root, served, client

    def kept(self) -> int:
        """Bytes of all xorbs: what clients have sent of large files."""
        return sum(path.stat().st_size for path in xorbs(self.root))

    def file(self, name: str, path: str) -> bytes:
        return ask(self.served.url, "GET", f"/{name}/resolve/main/{path}").body

    def upload(self, name: str, path: Path, **more: Any) -> None:
        self.client(
            "upload_file", repo_id=name, path_in_repo=path.name, path_or_fileobj=str(path), **more
        )


def xorbs(root: Path) -> list[Path]:
    return [path for path in (root / "xorbs").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, new_client: Callable[..., Client]
) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("hub")
    with Served(root) as served:
        yield Place(root, served, new_client(served.url))


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_xet_is_on(place: Place) -> None:
    assert place.client("is_xet_available") is True


def test_a_folder_of_100_mb_goes_up_and_comes_back(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for name, size in (("a.safetensors", BIG), ("sub/b.bin", 3 * MB), ("sub/c.onnx", 10)):
        written(folder, name, os.urandom(size))
    written(folder, "README.md", b"---\nlicense: mit\n---\n# Model\n")
    written(folder, "empty.bin", b"")
    client = place.client
    client("create_repo", "axon/folder")
    before = place.served.peak_mb()
    client("upload_folder", repo_id="axon/folder", folder_path=str(folder))
    assert place.served.peak_mb() < before + 80
    assert BIG < place.kept() < 1.1 * BIG, "it went by Xet"
    target = Path(client("snapshot_download", "axon/folder", local_dir=str(tmp_path / "copy")))
    for path in ("a.safetensors", "sub/b.bin", "sub/c.onnx", "README.md", "empty.bin"):
        assert (target / path).read_bytes() == (folder / path).read_bytes()
    (info,) = client("get_paths_info", "axon/folder", ["a.safetensors"])
    content = (folder / "a.safetensors").read_bytes()
    assert info["lfs"]["sha256"] == hashlib.sha256(content).hexdigest()
    head = client("model_info", "axon/folder")["sha"]
    client("upload_folder", repo_id="axon/folder", folder_path=str(folder))
    assert client("model_info", "axon/folder")["sha"] == head, "the same again is no new commit"


def test_similar_data_is_sent_as_far_as_it_is_new(place: Place, tmp_path: Path) -> None:
    first = os.urandom(20 * MB)
    second = first[: 7 * MB] + os.urandom(MB // 10) + first[7 * MB :]
    place.client("create_repo", "axon/similar")
    place.upload("axon/similar", written(tmp_path, "one.bin", first))
    before = place.kept()
    place.upload("axon/similar", written(tmp_path, "two.bin", second))
    assert MB // 10 < place.kept() - before < MB
    assert place.file("axon/similar", "two.bin") == second
    before = place.kept()
    place.client("create_repo", "axon/elsewhere")
    place.upload("axon/elsewhere", tmp_path / "two.bin")
    assert place.kept() == before and place.file("axon/elsewhere", "two.bin") == second


def test_files_of_every_kind_are_rebuilt(place: Place, tmp_path: Path) -> None:
    kinds = {
        "zeros.bin": bytes(9 * MB),
        "text.bin": b"the same words over and over, " * 200_000,
        "floats.bin": b"".join(os.urandom(1) + b"\x12\x80\x3f" for _ in range(MB // 2)),
        "one.bin": b"x",
        "odd.bin": os.urandom(131_073),
    }
    add = {"!": "CommitOperationAdd"}
    operations = [
        {**add, "path_in_repo": name, "path_or_fileobj": str(written(tmp_path, name, content))}
        for name, content in kinds.items()
    ]
    place.client("create_repo", "axon/kinds")
    made = place.client("create_commit", "axon/kinds", operations, commit_message="all kinds")
    assert place.client("model_info", "axon/kinds")["sha"] == made["oid"]
    for name, content in kinds.items():
        assert place.file("axon/kinds", name) == content, name


def test_a_branch_is_written_to(place: Place, tmp_path: Path) -> None:
    place.client("create_repo", "axon/branched")
    place.client("create_branch", "axon/branched", branch="feature/one")
    content = os.urandom(MB)
    path = written(tmp_path, "w.bin", content)
    place.upload("axon/branched", path, revision="feature/one")
    answer = ask(place.served.url, "GET", "/axon/branched/resolve/feature%2Fone/w.bin")
    assert answer.body == content


def test_a_client_without_xet_sends_by_lfs_what_another_sent_by_xet(
    place: Place, new_client: Callable[..., Client], tmp_path: Path
) -> None:
    without = new_client(place.served.url, HF_HUB_DISABLE_XET="1")
    place.client("create_repo", "axon/lfs")
    content = os.urandom(2 * MB)
    other = Place(place.root, place.served, without)
    before = place.kept()
    other.upload("axon/lfs", written(tmp_path, "w.bin", content))
    assert place.kept() == before and place.file("axon/lfs", "w.bin") == content
    place.upload("axon/lfs", written(tmp_path, "again.bin", content))
    assert place.file("axon/lfs", "again.bin") == content


def test_what_was_collected_is_sent_again(place: Place, tmp_path: Path) -> None:
    content = os.urandom(4 * MB)
    place.client("create_repo", "axon/collected")
    place.upload("axon/collected", written(tmp_path, "one.bin", content))
    for path in xorbs(place.root):
        path.unlink()
    Xorbs(place.root).collect()
    place.client("create_repo", "axon/collected-2")
    place.upload("axon/collected-2", written(tmp_path, "two.bin", content + b"more"))
    assert place.file("axon/collected-2", "two.bin") == content + b"more"
    assert place.kept() > 4 * MB


def test_two_hubs_at_one_address_are_not_taken_for_one(
    tmp_path: Path, new_client: Callable[..., Client]
) -> None:
    path = written(tmp_path, "w.bin", os.urandom(3 * MB))
    port, client = 0, None
    for name in ("first", "second"):
        root = tmp_path / name
        with Served(root, port=port) as served:
            client = client or new_client(served.url)
            port = int(served.url.rpartition(":")[2])
            place = Place(root, served, client)
            client("create_repo", "axon/m")
            place.upload("axon/m", path)
            assert place.kept() > 3 * MB and place.file("axon/m", "w.bin") == path.read_bytes()


def test_a_damaged_hub_says_so_and_takes_the_upload_the_next_time(
    tmp_path: Path, new_client: Callable[..., Client]
) -> None:
    content = os.urandom(2 * MB)
    with Served(tmp_path / "hub") as served:
        place = Place(tmp_path / "hub", served, new_client(served.url))
        repo = Repo(served.url, "axon/m")
        place.upload(repo.name, written(tmp_path, "one.bin", content))
        (xorb,) = xorbs(place.root)
        data = bytearray(xorb.read_bytes())
        data[MB] ^= 1
        xorb.write_bytes(data)
        path = written(tmp_path, "two.bin", content + b"more")
        with pytest.raises(ClientError):
            place.upload(repo.name, path)
        store = Store(place.root)
        assert not store.has(hashlib.sha256(content + b"more").hexdigest())
        place.upload(repo.name, path)
        assert place.file(repo.name, "two.bin") == content + b"more"
