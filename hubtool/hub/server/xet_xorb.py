"""A xorb: chunks of files, each compressed by itself, one behind the other. Its bytes are hostile.

    version 0 | packed length, 3 bytes | scheme | length, 3 bytes | packed content      a chunk

A length is compared with what a chunk may have before anything is made of it, and a decompressor
is told where to stop, so what a few bytes promise costs nothing. A footer, which some clients
send, says what the chunks say too, and is not kept. What is known of the chunks once they were
read, their hashes and where they end, is the xorb's index; it is stored behind them.
https://huggingface.co/docs/xet/xorb
"""

from __future__ import annotations

import importlib
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, BinaryIO

from hubtool.hub.server import xet_hash
from hubtool.hub.server.xet_hash import HASH

__all__ = ["LONGEST", "MOST_CHUNKS", "Index", "chunks", "read"]

LONGEST = 72 << 20
"""Bytes of a xorb with its footer; clients fill it with 64 MiB of content."""
MOST_CHUNKS = 1 << 16
MOST_BYTES = 1 << 30
CHUNK = 128 << 10
HEADER = 8
FOOTER = b"XETBLOB"
MAGIC = b"hubtool1"
TRAILER = HASH + 4 + len(MAGIC)

NONE, LZ4, GROUPED = range(3)
"""The schemes: as it is; an LZ4 frame; one of the first bytes of every four, then the second."""


@dataclass(frozen=True)
class Index:
    """hashes: those of the chunks, joined. ends: where each ends in the xorb, and sums: how much
    content there is up to its end; both begin with 0 for what comes before the first."""

    hashes: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("I", [0]))
    sums: array[int] = field(default_factory=lambda: array("I", [0]))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def range(self, start: int, end: int) -> bytes:
        """The hashes of some chunks, joined."""
        return bytes(self.hashes[start * HASH : end * HASH])

    def chunk(self, number: int) -> tuple[bytes, int]:
        """The hash and the length of a chunk."""
        return self.range(number, number + 1), self.sums[number + 1] - self.sums[number]

    @cached_property
    def name(self) -> str:
        """The xorb's own hash, as it is written."""
        tree = xet_hash.Tree()
        for number in range(len(self)):
            tree.add(*self.chunk(number))
        return xet_hash.name_of(tree.xorb())

    def stored(self) -> bytes:
        """What lies behind the chunks of a stored xorb."""
        body = bytes(self.hashes) + _little(self.ends) + _little(self.sums)
        count = len(self).to_bytes(4, "little")
        return body + xet_hash.digest(body) + count + MAGIC


def _little(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _numbers(data: bytes) -> array[int]:
    numbers = array("I", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def index_of(stream: BinaryIO) -> Index:
    """The index of a stored xorb. ValueError where it is not what was written."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - TRAILER))
    trailer = stream.read(TRAILER)
    count = int.from_bytes(trailer[HASH : HASH + 4], "little")
    length = count * HASH + 2 * 4 * (count + 1)
    if not trailer.endswith(MAGIC) or count > MOST_CHUNKS or length + TRAILER > size:
        raise ValueError("its index is damaged")
    stream.seek(size - TRAILER - length)
    body = stream.read(length)
    if xet_hash.digest(body) != trailer[:HASH]:
        raise ValueError("its index is damaged")
    middle = (length + count * HASH) // 2
    return Index(
        bytearray(body[: count * HASH]),
        _numbers(body[count * HASH : middle]),
        _numbers(body[middle:]),
    )


def read(stream: BinaryIO) -> Index:
    """Reads a xorb to its end, every chunk of it. ValueError says what is wrong with which."""
    index = Index()
    while header := stream.read(HEADER):
        if header.startswith(FOOTER):
            _footer(header + stream.read(LONGEST))
            break
        if len(index) == MOST_CHUNKS:
            raise ValueError(f"more than {MOST_CHUNKS} chunks")
        try:
            content = _chunk(header, stream)
        except ValueError as error:
            raise ValueError(f"chunk {len(index)}: {error}") from None
        index.hashes.extend(xet_hash.chunk_hash(content))
        index.ends.append(index.ends[-1] + HEADER + int.from_bytes(header[1:4], "little"))
        index.sums.append(index.sums[-1] + len(content))
        if index.sums[-1] > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes of content")
    if not len(index):
        raise ValueError("no chunk in it")
    return index


def chunks(stream: BinaryIO, index: Index, start: int, end: int) -> Iterator[bytes]:
    """The contents of some chunks of a stored xorb. ValueError where one is not what it was."""
    stream.seek(index.ends[start])
    for number in range(start, end):
        content = _chunk(stream.read(HEADER), stream)
        if xet_hash.chunk_hash(content) != index.chunk(number)[0]:
            raise ValueError(f"chunk {number}: it has another hash")
        yield content


def _chunk(header: bytes, stream: BinaryIO) -> bytes:
    """The content of the chunk that begins with this header."""
    if len(header) < HEADER:
        raise ValueError("it breaks off in its header")
    packed, size = (int.from_bytes(header[at : at + 3], "little") for at in (1, 5))
    if header[0] != 0:
        raise ValueError(f"of version {header[0]}; 0 is known")
    if not 0 < size <= CHUNK:
        raise ValueError(f"{size} bytes long; 1 to {CHUNK} are allowed")
    if not 0 < packed <= 2 * CHUNK:
        raise ValueError(f"{packed} bytes packed; 1 to {2 * CHUNK} are allowed")
    data = stream.read(packed)
    if len(data) < packed:
        raise ValueError(f"it breaks off after {len(data)} of {packed} bytes")
    content = _unpacked(header[4], data, size)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes come out of it, not {size}")
    return content


def _unpacked(scheme: int, data: bytes, size: int) -> bytes:
    if scheme == NONE:
        return data
    if scheme == LZ4:
        return _lz4(data, size)
    if scheme == GROUPED:
        return _ungrouped(_lz4(data, size))
    raise ValueError(f"packed by scheme {scheme}; 0, 1 and 2 are known")


def _lz4(data: bytes, size: int) -> bytes:
    """One whole LZ4 frame, of which no more than one byte too many is unpacked."""
    frame: Any = importlib.import_module("lz4.frame")  # it comes without types
    unpacker = frame.LZ4FrameDecompressor()
    try:
        content: bytes = unpacker.decompress(data, max_length=size + 1)
    except RuntimeError as error:
        raise ValueError(f"no LZ4 frame: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("not one LZ4 frame of that length")
    return content


def _ungrouped(data: bytes) -> bytes:
    """The bytes in their order again; the first groups have one more where four do not fit."""
    quarter, more = divmod(len(data), 4)
    starts = [number * quarter + min(number, more) for number in range(5)]
    content = bytearray(len(data))
    for number, (start, end) in enumerate(pairwise(starts)):
        content[number::4] = data[start:end]
    return bytes(content)


def _footer(footer: bytes) -> None:
    """ValueError unless its last four bytes say how long the rest of it is."""
    length = len(footer) - 4
    if length < HEADER or int.from_bytes(footer[-4:], "little") != length:
        raise ValueError("a footer of another length than it says, or no chunk")
