"""A shard: of which chunks in which xorbs the files of an upload consist. Its bytes are hostile.

    header   files, each: head, terms, hashes of the terms, sha256   the end of files
             xorbs, each: head, chunks                               the end of xorbs    footer

All is made of records of 48 bytes: a hash, and four numbers. A count is compared with what is left
of the shard before it is believed, and records are read where they lie, one at a time, so a shard
costs no memory whatever it says. Reserved fields are passed over.
https://huggingface.co/docs/xet/shard
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

from hubtool.hub.server.xet_hash import name_of

__all__ = ["LONGEST", "Block", "File", "Shard", "Term"]

LONGEST = 64 << 20
"""Bytes of a shard, by the protocol."""

TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
VERSION, FOOTER_VERSION = 2, 1
HEADER = struct.Struct("<32sQQ")
RECORD = struct.Struct("<32s4I")
SIZE = RECORD.size
FOOTER = 200
END = b"\xff" * 32
HASHES_OF_TERMS, SHA256 = 1 << 31, 1 << 30


@dataclass(frozen=True)
class File:
    """A file: `count` terms, whose records begin `at`."""

    hash: bytes
    sha256: str
    count: int
    at: int


@dataclass(frozen=True)
class Term:
    """A piece of a file: the chunks of a xorb from `start` up to `end`, together `size` bytes;
    `proof` is the hash of their hashes."""

    xorb: str
    start: int
    end: int
    size: int
    proof: bytes


@dataclass(frozen=True)
class Block:
    """What is said of a xorb: `count` chunks, whose records begin `at`, together `size` bytes."""

    xorb: str
    count: int
    size: int
    at: int


class Shard:
    """A shard's bytes, read where they lie. Every method raises ValueError where they are wrong."""

    def __init__(self, data: bytes | mmap) -> None:
        self._data = data
        if len(data) < HEADER.size:
            raise ValueError("no shard: it is too short for a header")
        tag, version, footer = HEADER.unpack_from(data)
        if tag != TAG:
            raise ValueError("no shard: it does not begin like one")
        if version != VERSION:
            raise ValueError(f"of version {version}; {VERSION} is known")
        if footer not in (0, FOOTER):
            raise ValueError(f"a footer of {footer} bytes; 0 and {FOOTER} are known")
        self._footer: int = footer

    def files(self) -> Iterator[File]:
        """The files, in their order."""
        return (file for file, _ in self._files() if file is not None)

    def terms(self, file: File) -> Iterator[Term]:
        """The terms of a file, in their order."""
        for number in range(file.count):
            at = file.at + number * SIZE
            xorb, _, size, start, end = RECORD.unpack_from(self._data, at)
            proof = RECORD.unpack_from(self._data, at + file.count * SIZE)[0]
            yield Term(name_of(xorb), start, end, size, proof)

    def blocks(self) -> Iterator[Block]:
        """The xorbs that something is said of; the end of the shard is checked too."""
        at = next(at for file, at in self._files() if file is None)
        while True:
            found, _, count, size, _ = self._record(at, "xorbs")
            at += SIZE
            if found == END:
                return self._end(at)
            self._room(at, count)
            yield Block(name_of(found), count, size, at)
            at += count * SIZE

    def chunks(self, block: Block) -> Iterator[tuple[bytes, int, int]]:
        """Of each chunk of a xorb its hash, what content comes before it, and its length."""
        for number in range(block.count):
            found, before, size, _, _ = RECORD.unpack_from(self._data, block.at + number * SIZE)
            yield found, before, size

    def _files(self) -> Iterator[tuple[File | None, int]]:
        """Every file and where what follows on it begins; None after the last one."""
        at = HEADER.size
        while True:
            found, flags, count, _, _ = self._record(at, "files")
            at += SIZE
            if found == END:
                yield None, at
                return
            if not flags & HASHES_OF_TERMS or not flags & SHA256:
                raise ValueError("a file without the hashes of its terms, or without its sha256")
            self._room(at, 2 * count + 1)
            begin, at = at, at + 2 * count * SIZE
            sha256 = name_of(RECORD.unpack_from(self._data, at)[0])
            at += SIZE
            yield File(found, sha256, count, begin), at

    def _record(self, at: int, what: str) -> tuple[bytes, int, int, int, int]:
        if at + SIZE > len(self._data) - self._footer:
            raise ValueError(f"it breaks off among its {what}")
        record: tuple[bytes, int, int, int, int] = RECORD.unpack_from(self._data, at)
        return record

    def _room(self, at: int, count: int) -> None:
        room = (len(self._data) - self._footer - at) // SIZE
        if count > room:
            raise ValueError(f"{count} records are announced, and there is room for {room}")

    def _end(self, at: int) -> None:
        if at + self._footer != len(self._data):
            raise ValueError(f"{len(self._data) - self._footer - at} bytes behind its end")
        if self._footer:
            version, files = struct.unpack_from("<2Q", self._data, at)
            (footer,) = struct.unpack_from("<Q", self._data, at + FOOTER - 8)
            if (version, files, footer) != (FOOTER_VERSION, HEADER.size, at):
                raise ValueError("a footer that does not fit")
