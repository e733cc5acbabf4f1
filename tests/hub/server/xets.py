"""Xorbs and shards as a client makes them, for the tests to send, bend and break."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import lz4.frame
import numpy as np

from hubtool.hub.server import xet_hash, xet_xorb
from hubtool.hub.server.xet_shard import END, HASHES_OF_TERMS, HEADER, RECORD, SHA256, TAG

SCHEMES = (xet_xorb.NONE, xet_xorb.LZ4, xet_xorb.GROUPED)


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that look like weights."""
    values = np.random.default_rng(seed).standard_normal(size // 4 + 1, np.float32)
    return values.tobytes()[:size]


def grouped(data: bytes) -> bytes:
    return b"".join(data[number::4] for number in range(4))


def packed(data: bytes, scheme: int) -> bytes:
    """A chunk's content by a scheme."""
    if scheme == xet_xorb.NONE:
        return data
    return lz4.frame.compress(grouped(data) if scheme == xet_xorb.GROUPED else data)


def chunk(
    data: bytes,
    scheme: int = 0,
    *,
    body: bytes | None = None,
    size: int | None = None,
    length: int | None = None,
    version: int = 0,
) -> bytes:
    """A chunk with its header; `length` and `size` are what the header says of body and content."""
    body = packed(data, scheme) if body is None else body
    length = len(body) if length is None else length
    size = len(data) if size is None else size
    numbers = length.to_bytes(3, "little"), size.to_bytes(3, "little")
    return bytes([version]) + numbers[0] + bytes([scheme]) + numbers[1] + body


@dataclass(frozen=True)
class Xorb:
    """Chunks, and the schemes by which they are packed, in turn."""

    chunks: Sequence[bytes]
    schemes: Sequence[int] = SCHEMES

    @cached_property
    def data(self) -> bytes:
        return b"".join(
            chunk(one, self.schemes[number % len(self.schemes)])
            for number, one in enumerate(self.chunks)
        )

    @cached_property
    def hash(self) -> bytes:
        return tree(self.chunks).xorb()

    @property
    def name(self) -> str:
        return xet_hash.name_of(self.hash)


def tree(chunks: Sequence[bytes]) -> xet_hash.Tree:
    made = xet_hash.Tree()
    for one in chunks:
        made.add(xet_hash.chunk_hash(one), len(one))
    return made


Piece = tuple[Xorb, int, int]


@dataclass(frozen=True)
class Made:
    """A file of a shard: its pieces, and what is to be said wrongly of it."""

    pieces: Sequence[Piece]
    sha256: str | None = None
    hash: bytes | None = None
    flags: int = HASHES_OF_TERMS | SHA256
    count: int | None = None

    @property
    def chunks(self) -> list[bytes]:
        return [one for xorb, start, end in self.pieces for one in xorb.chunks[start:end]]

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def record(self) -> bytes:
        count = len(self.pieces) if self.count is None else self.count
        found = tree(self.chunks).file() if self.hash is None else self.hash
        out = RECORD.pack(found, self.flags, count, 0, 0)
        for xorb, start, end in self.pieces:
            size = sum(map(len, xorb.chunks[start:end]))
            out += RECORD.pack(xorb.hash, 0, size, start, end)
        for xorb, start, end in self.pieces:
            hashes = b"".join(map(xet_hash.chunk_hash, xorb.chunks[start:end]))
            out += xet_hash.range_hash(hashes) + bytes(16)
        return out + turned(self.sha256 or hashlib.sha256(self.data).hexdigest()) + bytes(16)


def turned(name: str) -> bytes:
    """A hash as it lies in a shard, of what is written."""
    return struct.pack("<4Q", *(int(name[at : at + 16], 16) for at in range(0, 64, 16)))


@dataclass(frozen=True)
class MadeShard:
    """files: what it is about. xorbs: of which it says what is in them."""

    files: Sequence[Made]
    xorbs: Sequence[Xorb] = ()
    footer: bytes = b""
    counts: dict[int, int] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        out = HEADER.pack(TAG, 2, len(self.footer))
        out += b"".join(file.record for file in self.files) + END + bytes(16)
        for number, xorb in enumerate(self.xorbs):
            total = sum(map(len, xorb.chunks))
            count = self.counts.get(number, len(xorb.chunks))
            out += RECORD.pack(xorb.hash, 0, count, total, len(xorb.data))
            before = 0
            for one in xorb.chunks:
                out += RECORD.pack(xet_hash.chunk_hash(one), before, len(one), 0, 0)
                before += len(one)
        return out + END + bytes(16) + self.footer

    def footed(self) -> MadeShard:
        """With the footer that some clients send."""
        at = len(self.data) - len(self.footer)
        footer = struct.pack("<2Q", 1, HEADER.size) + bytes(176) + struct.pack("<Q", at)
        return replace(self, footer=footer)


def upload(size: int = 300_000, seed: int = 0) -> tuple[Xorb, MadeShard]:
    """A file of some chunks, its xorb and its shard."""
    data = content(size, seed)
    xorb = Xorb([data[at : at + 50_000] for at in range(0, size, 50_000)])
    return xorb, MadeShard([Made([(xorb, 0, len(xorb.chunks))])], [xorb])


def read(data: bytes) -> xet_xorb.Index:
    return xet_xorb.read(io.BytesIO(data))
