"""The safetensors file: what it must be, and that nothing else is believed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from hubtool.errors import ReadError, WriteError
from hubtool.formats.safetensors import ITEMSIZE, Part, Stored, open_regular, read, write


def made(tmp_path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "made.safetensors"
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def problems_of(path: Path) -> list[str]:
    with pytest.raises(ReadError) as caught, open_regular(path) as file:
        read(file)
    return caught.value.problems


def entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def part(key: str, dtype: str, shape: tuple[int, ...], data: bytes) -> Part:
    return Part(key, dtype, shape, lambda: [memoryview(data)] if data else [])


def test_hash_and_size_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w"
    told = write(path, [part("a", "F32", (2,), bytes(8)), part("b", "U8", (3,), b"xyz")], {})
    data = path.read_bytes()
    assert told == (hashlib.sha256(data).hexdigest(), len(data))


def test_larger_elements_come_first_then_names(tmp_path: Path) -> None:
    parts = [
        part(k, d, (1,), bytes(ITEMSIZE[d]))
        for k, d in zip("dcba", ["U8", "F64", "U8", "I64"], strict=True)
    ]
    write(tmp_path / "w", parts, {"format": "x"})
    data = (tmp_path / "w").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert list(json.loads(data[8 : 8 + length])) == ["__metadata__", "a", "c", "b", "d"]
    assert (8 + length) % 64 == 0


@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda key: key != "__metadata__"),
        st.tuples(st.sampled_from(sorted(ITEMSIZE)), st.lists(st.integers(0, 3), max_size=3)),
        max_size=5,
    )
)
def test_what_is_written_is_read_and_is_what_the_library_reads(
    tmp_path_factory: pytest.TempPathFactory, specs: dict[str, tuple[str, list[int]]]
) -> None:
    path = tmp_path_factory.mktemp("st") / "w"
    parts = []
    for number, (key, (dtype, shape)) in enumerate(specs.items()):
        size = int(np.prod(shape, dtype=int)) * ITEMSIZE[dtype]
        parts.append(part(key, dtype, tuple(shape), bytes([number + 1]) * size))
    write(path, parts, {})
    with open_regular(path) as file:
        found = read(file)
    assert {k: (s.dtype, list(s.shape)) for k, s in found.items()} == specs
    library = dict(safetensors.deserialize(path.read_bytes()))
    for key, stored in found.items():
        assert isinstance(stored, Stored)
        assert stored.data.tobytes() == bytes(library[key]["data"])
        assert (library[key]["dtype"], tuple(library[key]["shape"])) == (stored.dtype, stored.shape)


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((), np.int64)}
    safetensors.numpy.save_file(arrays, tmp_path / "w", metadata={"any": "text"})
    with open_regular(tmp_path / "w") as file:
        found = read(file)
    assert {k: s.data.tobytes() for k, s in found.items()} == {
        k: a.tobytes() for k, a in arrays.items()
    }


def test_a_part_must_fill_its_shape(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="tensor 'a' gave 3 bytes, its shape asks for 4"):
        write(tmp_path / "w", [part("a", "U8", (4,), b"abc")], {})


@pytest.mark.parametrize(
    ("header", "data", "problem"),
    [
        ([], b"", "the header is no JSON object"),
        (b" {}", b"", "the header is no JSON object"),
        (b"\xff{}", b"", "the header is not UTF-8 at byte 0"),
        (b'{"a":', b"", "the header is not JSON"),
        (b'{"a":1,"a":1}', b"", "the key 'a' stands twice in one object"),
        (b'{"a":NaN}', b"", "NaN is no number"),
        (b'{"a":1e999}', b"", "the number 1e999 is too large"),
        (b'{"a":%s}' % (b"9" * 5000), b"", "is beyond 2^53"),
        (b'{"\\ud800":1}', b"", "half of a surrogate pair"),
        (b'{"a":' + b"[" * 100_000, b"", "nested too deeply"),
        ({"a": 1}, b"", "tensor 'a': must have exactly dtype, shape and data_offsets"),
        ({"a": {**entry(), "x": 1}}, b"abcd", "tensor 'a': must have exactly"),
        ({"a": entry(shape=[-1])}, b"abcd", "tensor 'a': its shape must be"),
        ({"a": entry(shape=[True])}, b"abcd", "tensor 'a': its shape must be"),
        ({"a": entry(shape=[1] * 65)}, b"abcd", "tensor 'a': its shape must be"),
        ({"a": entry(shape=4)}, b"abcd", "tensor 'a': its shape must be"),
        ({"a": entry(offsets=[0])}, b"abcd", "tensor 'a': its data_offsets must be"),
        ({"a": entry(offsets=[4, 0])}, b"abcd", "tensor 'a': its data_offsets must be"),
        ({"a": entry(offsets=[-4, 0])}, b"abcd", "tensor 'a': its data_offsets must be"),
        ({"a": entry(offsets=[0.0, 4])}, b"abcd", "tensor 'a': its data_offsets must be"),
        ({"a": entry(dtype="F4")}, b"abcd", "tensor 'a': its dtype 'F4' is none"),
        ({"a": entry(dtype=["U8"])}, b"abcd", "tensor 'a': its dtype ['U8'] is none"),
        ({"a": entry(shape=[5])}, b"abcd", "it takes 4 bytes, its shape and dtype ask for 5"),
        ({"a": entry(shape=[2**53, 2**53, 4])}, b"abcd", "it takes 4 bytes, its shape"),
        ({"a": entry()}, b"abc", "tensor 'a' ends at byte 4 of 3"),
        ({"a": entry()}, b"abcde", "the last 1 bytes belong to no tensor"),
        ({}, b"a", "the last 1 bytes belong to no tensor"),
        ({"a": entry(), "b": entry(offsets=[5, 9])}, b"abcdefghi", "1 bytes before tensor 'b'"),
        ({"a": entry(), "b": entry(offsets=[3, 7])}, b"abcdefg", "tensor 'b' overlaps"),
        ({"a": entry(), "b": entry()}, b"abcd", "tensor 'b' overlaps"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__ must map text to text"),
        ({"__metadata__": []}, b"", "__metadata__ must map text to text"),
    ],
)
def test_a_header_that_is_not_true_is_refused(
    tmp_path: Path, header: Any, data: bytes, problem: str
) -> None:
    assert any(problem in text for text in problems_of(made(tmp_path, header, data)))


def test_all_problems_of_a_header_are_said(tmp_path: Path) -> None:
    header = {"a": entry(dtype="?"), "b": entry(shape=[3]), "c": {}}
    assert len(problems_of(made(tmp_path, header, b"abcd"))) == 3


@pytest.mark.parametrize("length", [3, 2**32, 2**64 - 1])
def test_a_header_past_the_end_is_refused(tmp_path: Path, length: int) -> None:
    path = made(tmp_path, b"{}", length=length)
    assert problems_of(path) == ["the header goes past the end of the file"]


def test_a_header_beyond_100_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = made(tmp_path, b"{}", length=100_000_001)
    os.truncate(path, 100_000_009)  # a sparse file
    assert problems_of(path) == ["the header takes 100,000,001 bytes; 100,000,000 are allowed"]


@pytest.mark.parametrize("data", [b"", b"abc", bytes(7)])
def test_a_file_without_a_header_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w").write_bytes(data)
    assert problems_of(tmp_path / "w") == ["the header goes past the end of the file"]


def test_a_pipe_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "w")
