"""The safetensors file: written in one pass with its hash, and read where it lies.

    8 bytes   length of the header, little-endian
    header    JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}
    data      the elements, little-endian, in C order; offsets count from here

The format's own library (https://huggingface.co/docs/safetensors) copies what it reads, and gives
numpy neither BF16 nor F8; so this room reads the header itself and maps the data. What it writes,
that library opens. Data begins at a multiple of 64 bytes and larger elements come first, so every
tensor is aligned to its elements.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import reprlib
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hubtool.errors import ReadError, WriteError
from hubtool.formats.strict_json import MAX_BYTES, loads

__all__ = ["ITEMSIZE", "MAX_RANK", "Part", "Stored", "open_regular", "read", "write"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

ITEMSIZE = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
"""The element types that hubtool stores, and the bytes that one element takes."""

MAX_RANK = 64
METADATA = "__metadata__"
ALIGNMENT = 64


@dataclass(frozen=True)
class Part:
    """A tensor to be written: what the header says of it, and its bytes, piece by piece (the
    `data` of uint8 arrays of one axis)."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[memoryview]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class Stored:
    """A tensor found in a file: what the header says of it, and its bytes, mapped read-only.

    place: which file as it is now, and where in it."""

    dtype: str
    shape: tuple[int, ...]
    data: Bytes
    place: str = ""


def write(path: Path, parts: Iterable[Part], metadata: Mapping[str, str]) -> tuple[str, int]:
    """Write a new file of these tensors; the sha256 of it and its size in bytes.

    Raises WriteError where a part's pieces do not fill its shape, or the header grows too long.
    """
    ordered = sorted(parts, key=lambda part: (-ITEMSIZE[part.dtype], part.key))
    digest = hashlib.sha256()
    size = 0
    with path.open("xb") as file:
        for piece in _file(ordered, metadata):
            digest.update(piece)
            file.write(piece)
            size += len(piece)
    return digest.hexdigest(), size


def _file(parts: list[Part], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    header: dict[str, Any] = {METADATA: dict(metadata)}
    end = 0
    for part in parts:
        start, end = end, end + part.nbytes
        header[part.key] = {
            "dtype": part.dtype,
            "shape": list(part.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_BYTES:
        raise WriteError(
            f"the weights' header would take {len(text):,} bytes; {MAX_BYTES:,} are allowed",
            hint="Store fewer tensors, or give them shorter names.",
        )
    yield len(text).to_bytes(8, "little") + text
    for part in parts:
        written = 0
        for piece in part.pieces():
            written += len(piece)
            yield piece
        if written != part.nbytes:
            raise WriteError(
                f"tensor '{part.key}' gave {written:,} bytes, its shape asks for {part.nbytes:,}"
            )


def open_regular(path: Path) -> io.BufferedReader:
    """The file, opened for reading; OSError where it is no regular file (a pipe would hang)."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(None, "not a regular file")
    return os.fdopen(handle, "rb")


def read(file: io.BufferedReader) -> dict[str, Stored]:
    """The tensors of an open file, mapped: nothing is copied, and `file` may be closed after.

    Every fact in the header is checked against the file before any of it is believed. Raises
    ReadError with everything that is wrong.
    """
    status = os.fstat(file.fileno())
    size = status.st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ReadError(
            "no safetensors file", problems=["the header goes past the end of the file"]
        )
    if length > MAX_BYTES:
        raise ReadError(
            "no safetensors file",
            problems=[f"the header takes {length:,} bytes; {MAX_BYTES:,} are allowed"],
        )
    text = file.read(length)
    try:
        header = loads(text)
    except ValueError as error:
        raise ReadError("no safetensors file", problems=[f"the header is {error}"]) from None
    if not text.startswith(b"{"):
        raise ReadError("no safetensors file", problems=["the header is no JSON object"])
    metadata = header.pop(METADATA, {})
    problems = [f"tensor '{key}': {text}" for key, e in header.items() for text in _entry_faults(e)]
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        problems.append(f"{METADATA} must map text to text")
    if not problems:
        problems = _layout_faults(header, size - 8 - length)
    if problems:
        raise ReadError("no safetensors file", problems=problems)
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = np.frombuffer(mapped, np.uint8)[8 + length :]
    stamp = (status.st_dev, status.st_ino, size, status.st_mtime_ns, status.st_ctime_ns)
    known = ":".join(map(str, stamp))
    return {
        key: Stored(
            entry["dtype"],
            tuple(entry["shape"]),
            data[slice(*entry["data_offsets"])],
            f"{known}:{entry['data_offsets'][0]}",
        )
        for key, entry in header.items()
    }


def _entry_faults(entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        yield "must have exactly dtype, shape and data_offsets"
        return
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (
        isinstance(shape, list)
        and len(shape) <= MAX_RANK
        and all(type(dim) is int and dim >= 0 for dim in shape)
    ):
        yield f"its shape must be a list of at most {MAX_RANK} numbers, none below 0"
    elif not (
        isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(offset) is int for offset in offsets)
        and 0 <= offsets[0] <= offsets[1]
    ):
        yield "its data_offsets must be a start and an end"
    elif not (isinstance(entry["dtype"], str) and entry["dtype"] in ITEMSIZE):
        yield f"its dtype {reprlib.repr(entry['dtype'])} is none that hubtool stores"
    else:
        given = offsets[1] - offsets[0]
        wanted = math.prod(shape) * ITEMSIZE[entry["dtype"]]
        if given != wanted:
            yield f"it takes {given:,} bytes, its shape and dtype ask for {wanted:,}"


def _layout_faults(header: dict[str, Any], size: int) -> list[str]:
    """Where the tensors do not fill the data from the first byte to the last, once each."""
    faults = []
    place = 0
    for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        if end > size:
            faults.append(f"tensor '{key}' ends at byte {end:,} of {size:,}")
        elif start < place:
            faults.append(f"tensor '{key}' overlaps the tensor before it")
        elif start > place:
            faults.append(f"{start - place:,} bytes before tensor '{key}' belong to no tensor")
        place = max(place, end)
    if place < size:
        faults.append(f"the last {size - place:,} bytes belong to no tensor")
    return faults
