"""Weights in other files: no model reaches a file that is not its own, and good ones are read.

The file that a hostile model points to is watched: nobody may open it, neither hubtool nor onnx's
loaders in whatever process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile import PLACES, external, model, node, save, untouched
from onnx import TensorProto

from hubtool.errors import HubtoolError, ReadError
from hubtool.formats.onnx.external import ExternalData
from hubtool.formats.onnx.read import read
from hubtool.graph import Graph

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)
DATA = WEIGHTS.tobytes()
SIZE = len(DATA)

Entries = list[tuple[str, str]]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside of the model's folder, of just the right size."""
    path = tmp_path / "secret.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model's folder, with a good data file in it and one below it."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "good.bin").write_bytes(DATA)
    (folder / "sub" / "good.bin").write_bytes(DATA)
    return folder


def located(location: str) -> Callable[[Path, Path], Entries]:
    return lambda folder, secret: [("location", location)]


def entries(*others: tuple[str, str]) -> Callable[[Path, Path], Entries]:
    return lambda folder, secret: [("location", "good.bin"), *others]


def absolute(folder: Path, secret: Path) -> Entries:
    return [("location", str(secret))]


def symlink(folder: Path, secret: Path) -> Entries:
    (folder / "link.bin").symlink_to(secret)
    return [("location", "link.bin")]


def symlink_within(folder: Path, secret: Path) -> Entries:
    (folder / "link.bin").symlink_to("good.bin")
    return [("location", "link.bin")]


def symlink_folder(folder: Path, secret: Path) -> Entries:
    (folder / "way").symlink_to(secret.parent)
    return [("location", "way/secret.bin")]


def symlink_loop(folder: Path, secret: Path) -> Entries:
    (folder / "loop").symlink_to("loop")
    return [("location", "loop")]


def hard_link(folder: Path, secret: Path) -> Entries:
    other = folder.parent / "other.bin"
    other.write_bytes(DATA)
    os.link(other, folder / "hard.bin")
    return [("location", "hard.bin")]


def pipe(folder: Path, secret: Path) -> Entries:
    os.mkfifo(folder / "pipe")
    return [("location", "pipe")]


def under_a_file(folder: Path, secret: Path) -> Entries:
    return [("location", "good.bin/x")]


ATTACKS: dict[str, tuple[Callable[[Path, Path], Entries], str]] = {
    "parent": (located("../secret.bin"), "leaves the model's folder"),
    "parent from below": (located("sub/../../secret.bin"), "leaves the model's folder"),
    "parent of here": (located("./../secret.bin"), "leaves the model's folder"),
    "parent and back": (located("../model/good.bin"), "leaves the model's folder"),
    "parent at the end": (located("sub/.."), "leaves the model's folder"),
    "slashes": (located("sub//good.bin"), "leaves the model's folder"),
    "slash at the end": (located("good.bin/"), "leaves the model's folder"),
    "backslash": (located("..\\secret.bin"), "unusable location"),
    "backslash within": (located("sub\\good.bin"), "unusable location"),
    "percent": (located("%2e%2e/secret.bin"), "'%2e%2e/secret.bin' is missing"),
    "fullwidth dots": (located("．．/secret.bin"), "is missing"),
    "absolute": (absolute, "absolute location"),
    "two slashes": (located("//secret.bin"), "absolute location"),
    "home": (located("~/secret.bin"), "absolute location"),
    "drive": (located("C:/secret.bin"), "absolute location"),
    "drive, relative": (located("C:secret.bin"), "absolute location"),
    "share": (located("\\\\server\\secret.bin"), "unusable location"),
    "URL": (located("file:///secret.bin"), "leaves the model's folder"),
    "NUL": (located("good.bin\0.txt"), "unusable location"),
    "empty": (located(""), "unusable location"),
    "here": (located("."), "unusable location"),
    "here and here": (located("./."), "unusable location"),
    "long": (located("a" * 100_000), "a location of 100000 characters"),
    "long step": (located("a" * 1000), "cannot be opened: File name too long"),
    "no location": (lambda folder, secret: [("offset", "0")], "unusable location"),
    "no entry": (lambda folder, secret: [], "unusable location"),
    "symlink": (symlink, "leads over a link"),
    "symlink within": (symlink_within, "leads over a link"),
    "symlink in the middle": (symlink_folder, "leads over a link"),
    "symlink to itself": (symlink_loop, "leads over a link"),
    "hard link": (hard_link, "is a hard link"),
    "pipe": (pipe, "'pipe' is a pipe"),
    "folder": (located("sub"), "'sub' is a folder"),
    "folder that is a file": (under_a_file, "leads over a link or something else"),
    "missing": (located("missing.bin"), "'missing.bin' is missing"),
    "past the end": (entries(("offset", "4")), "ends at byte 28, but 'good.bin' has only 24"),
    "far past the end": (entries(("offset", "9" * 19)), "has only 24 bytes"),
    "huge": (entries(("offset", "9" * 20)), "which is no size"),
    "negative": (entries(("offset", "-4")), "'-4', which is no size"),
    "signed": (entries(("offset", "+0")), "which is no size"),
    "hexadecimal": (entries(("offset", "0x0")), "which is no size"),
    "float": (entries(("offset", "1e0")), "which is no size"),
    "blank": (entries(("offset", " 0")), "which is no size"),
    "empty offset": (entries(("offset", "")), "which is no size"),
    "other digits": (entries(("offset", "\u0663")), "which is no size"),
    "length of words": (entries(("length", "all")), "which is no size"),
    "too short": (entries(("length", "20")), "20 bytes long, its shape and type ask for 24"),
    "too long": (entries(("length", "28")), "28 bytes long, its shape and type ask for 24"),
    "of no length": (entries(("length", "0")), "0 bytes long, its shape and type ask for 24"),
    "unknown key": (entries(("path", "/etc/passwd")), "unknown keys: path"),
    "two locations": (entries(("location", "../secret.bin")), "a key twice"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_entry_reaches_beyond_the_models_own_files(
    folder: Path, secret: Path, attack: str, place: str
) -> None:
    make, reason = ATTACKS[attack]
    path = save(folder / "m.onnx", PLACES[place](external([2, 3], *make(folder, secret))))
    with untouched(secret), pytest.raises(ReadError) as refusal:
        read(path, isolated=False)
    assert reason in str(refusal.value)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can watch files")
def test_the_watch_notices_another_process(secret: Path) -> None:
    with pytest.raises(AssertionError, match="was opened"), untouched(secret):
        subprocess.run(["cat", secret], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("place", PLACES)
def test_the_worker_opens_nothing_either(folder: Path, secret: Path, place: str) -> None:
    entry = ("location", "../secret.bin")
    path = save(folder / "m.onnx", PLACES[place](external([2, 3], entry)))
    with untouched(secret), pytest.raises(ReadError, match="leaves the model's folder"):
        read(path)


@pytest.mark.parametrize("place", [place for place in PLACES if "sparse" not in place])
def test_lifting_never_opens_even_the_models_own_data(folder: Path, place: str) -> None:
    """Only hubtool opens it, once, when the source is checked; onnx's loaders never do."""
    from hubtool.formats.onnx.lift import lift

    proto = PLACES[place](external([2, 3], ("location", "good.bin")))
    proto.opset_import[0].version = 21
    with untouched(folder / "good.bin"):
        lift(proto.SerializeToString())


@pytest.mark.parametrize("place", [place for place in PLACES if "sparse" in place])
def test_sparse_tensors_in_other_files_are_refused_unopened_by_onnx(
    folder: Path, place: str
) -> None:
    proto = PLACES[place](external([6], ("location", "good.bin")))
    if "indices" in place:
        proto.graph.sparse_initializer[0].indices.data_type = TensorProto.INT64
        (folder / "good.bin").write_bytes(np.arange(6).tobytes())
    with pytest.raises(ReadError, match="has external data, which is not supported"):
        read(save(folder / "m.onnx", proto), isolated=False)


def test_a_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'null' is a device"):
        ExternalData(Path("/dev/model.onnx")).view({"location": "null"}, 0)


def test_every_hostile_tensor_is_named(folder: Path, secret: Path) -> None:
    one, two = external([2, 3], ("location", "../a")), external([2, 3], ("location", "/b"))
    two.name = "V"
    path = save(folder / "m.onnx", model([node("Add", ["V", "W"], ["Y"])], weights=[one, two]))
    with pytest.raises(ReadError) as refusal:
        read(path, isolated=False)
    assert len(refusal.value.problems) == 2
    assert "tensor 'W'" in refusal.value.problems[0]
    assert "tensor 'V'" in refusal.value.problems[1]


def weight(graph: Graph) -> np.ndarray:
    """The one float tensor of 2 x 3, wherever in the graph it ended up."""
    tensors = [*graph.tensors.values()]
    for layer in graph.layers:
        for body in layer.subgraphs().values():
            tensors += body.tensors.values()
    (array, *others) = [t.array for t in tensors if (t.dtype, t.shape) == ("float32", (2, 3))]
    assert all(np.array_equal(array, other) for other in others)
    return array


GOOD: dict[str, Entries] = {
    "beside the model": [("location", "good.bin")],
    "below it": [("location", "sub/good.bin")],
    "with a dot": [("location", "./sub/./good.bin")],
    "with offset and length": [("location", "two.bin"), ("offset", "24"), ("length", "24")],
    "with an offset only": [("location", "two.bin"), ("offset", "24")],
    "with a checksum": [("location", "good.bin"), ("checksum", "of some kind")],
    "named with dots": [("location", "..weights..bin")],
    "named with percent": [("location", "%2e%2e.bin")],
    "with a key that begins late": [("length", "24"), ("location", "good.bin")],
}


@pytest.mark.parametrize("case", GOOD)
def test_good_external_data_is_read(folder: Path, case: str) -> None:
    (folder / "two.bin").write_bytes(b"\xff" * SIZE + DATA)
    (folder / "..weights..bin").write_bytes(DATA)
    (folder / "%2e%2e.bin").write_bytes(DATA)
    path = save(folder / "m.onnx", PLACES["initializer"](external([2, 3], *GOOD[case])))
    assert np.array_equal(weight(read(path, isolated=False)), WEIGHTS)


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(
    "place",
    [
        *("initializer", "Constant", "initializer of a subgraph", "Constant in a subgraph"),
        "Constant in a function",
    ],
)
def test_good_external_data_is_read_wherever_the_tensor_stands(
    folder: Path, place: str, isolated: bool
) -> None:
    proto = PLACES[place](external([2, 3], ("location", "good.bin")))
    graph = read(save(folder / "m.onnx", proto), isolated=isolated)
    assert np.array_equal(weight(graph), WEIGHTS)


def test_one_file_serves_several_tensors(folder: Path) -> None:
    (folder / "all.bin").write_bytes(DATA + (WEIGHTS * 2).tobytes())
    one = external([2, 3], ("location", "all.bin"), ("offset", "0"))
    two = external([2, 3], ("location", "all.bin"), ("offset", "24"), ("length", "24"))
    two.name = "V"
    path = save(folder / "m.onnx", model([node("Add", ["V", "W"], ["Y"])], weights=[one, two]))
    tensors = read(path, isolated=False).tensors
    assert np.array_equal(tensors["W"].array, WEIGHTS)
    assert np.array_equal(tensors["V"].array, WEIGHTS * 2)


def test_a_tensor_of_no_elements_needs_no_bytes(folder: Path) -> None:
    (folder / "empty.bin").touch()
    proto = PLACES["initializer"](external([0, 3], ("location", "empty.bin")))
    assert read(save(folder / "m.onnx", proto), isolated=False).tensors["W"].array.shape == (0, 3)


def test_four_bit_elements_are_unpacked(folder: Path) -> None:
    (folder / "packed.bin").write_bytes(bytes([0x21, 0x43, 0x05]))
    proto = external([5], ("location", "packed.bin"))
    proto.data_type = TensorProto.INT4
    path = save(folder / "m.onnx", model([node("Identity", ["W"], ["Y"])], weights=[proto]))
    tensor = read(path, isolated=False).tensors["W"]
    assert (tensor.dtype, tensor.array.tolist()) == ("int4", [1, 2, 3, 4, 5])


def test_the_model_may_be_named_from_another_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder / "m.onnx", PLACES["initializer"](external([2, 3], ("location", "good.bin"))))
    monkeypatch.chdir(folder / "sub")
    assert np.array_equal(weight(read("../m.onnx", isolated=False)), WEIGHTS)
    monkeypatch.chdir(folder)
    assert np.array_equal(weight(read("m.onnx", isolated=False)), WEIGHTS)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A repository in Hugging Face's cache: files are links from snapshots/ into blobs/."""
    repository = tmp_path / "hub" / "models--some--model"
    snapshot = repository / "snapshots" / "0123abc" / "onnx"
    blobs = repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "aaaa").write_bytes(DATA)
    (snapshot / "w.bin").symlink_to("../../../blobs/aaaa")
    save(blobs / "bbbb", PLACES["initializer"](external([2, 3], ("location", "w.bin"))))
    (snapshot / "m.onnx").symlink_to("../../../blobs/bbbb")
    return snapshot


def test_a_hugging_face_cache_is_read_over_its_links(cache: Path) -> None:
    assert np.array_equal(weight(read(cache / "m.onnx", isolated=False)), WEIGHTS)


def test_a_hugging_face_cache_of_plain_files_is_read(cache: Path) -> None:
    (cache / "w.bin").unlink()
    (cache / "w.bin").write_bytes(DATA)
    assert np.array_equal(weight(read(cache / "m.onnx", isolated=False)), WEIGHTS)


def test_a_hugging_face_cache_that_is_itself_behind_a_link_is_read(
    cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "way").symlink_to(tmp_path / "hub")
    path = tmp_path / "way" / (cache / "m.onnx").relative_to(tmp_path / "hub")
    assert np.array_equal(weight(read(path, isolated=False)), WEIGHTS)


def leave_blobs(cache: Path, secret: Path) -> None:
    (cache / "w.bin").symlink_to(secret)


def into_a_folder_of_blobs(cache: Path, secret: Path) -> None:
    below = cache.parents[2] / "blobs" / "sub"
    below.mkdir()
    (below / "x").symlink_to(secret)
    (cache / "w.bin").symlink_to("../../../blobs/sub/x")


def by_a_blob_that_is_a_link(cache: Path, secret: Path) -> None:
    (cache.parents[2] / "blobs" / "cccc").symlink_to(secret)
    (cache / "w.bin").symlink_to("../../../blobs/cccc")


def by_blobs_that_are_a_link(cache: Path, secret: Path) -> None:
    """An unpacked archive that looks like a cache may bring such a link."""
    blobs = cache.parents[2] / "blobs"
    blobs.rename(blobs.with_name("real"))
    blobs.symlink_to(secret.parent)
    (cache / "m.onnx").unlink()
    (cache / "m.onnx").symlink_to("../../../real/bbbb")
    (cache / "w.bin").symlink_to("../../../blobs/secret.bin")


def of_another_repository(cache: Path, secret: Path) -> None:
    other = cache.parents[3] / "models--other--model" / "blobs"
    other.mkdir(parents=True)
    (other / "aaaa").write_bytes(DATA)
    (cache / "w.bin").symlink_to("../../../../models--other--model/blobs/aaaa")


@pytest.mark.parametrize(
    "attack",
    [
        *(leave_blobs, into_a_folder_of_blobs, by_a_blob_that_is_a_link),
        *(by_blobs_that_are_a_link, of_another_repository),
    ],
    ids=lambda attack: attack.__name__,
)
def test_a_link_in_a_cache_leads_only_to_its_own_blobs(
    cache: Path, secret: Path, attack: Callable[[Path, Path], None]
) -> None:
    (cache / "w.bin").unlink()
    attack(cache, secret)
    with untouched(secret), pytest.raises(HubtoolError, match="leads over a link"):
        read(cache / "m.onnx", isolated=False)


def test_a_pipe_among_the_blobs_does_not_hang(cache: Path) -> None:
    os.mkfifo(cache.parents[2] / "blobs" / "pipe")
    (cache / "w.bin").unlink()
    (cache / "w.bin").symlink_to("../../../blobs/pipe")
    with pytest.raises(ReadError, match=r"'w\.bin' is a pipe"):
        read(cache / "m.onnx", isolated=False)


def test_a_blob_that_is_missing_is_told(cache: Path) -> None:
    (cache.parents[2] / "blobs" / "aaaa").unlink()
    with pytest.raises(ReadError, match=r"'w\.bin' is missing"):
        read(cache / "m.onnx", isolated=False)
