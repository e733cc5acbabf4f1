"""Xet's hashes: of a chunk, of a xorb, of a file, and of a range of chunks. All are keyed blake3.

    chunk   blake3(data)                                    DATA
    xorb    the root of a tree over its chunks              NODE
    file    blake3(the root of a tree over its chunks)      a key of zeros
    range   blake3(the hashes of its chunks, one behind the other)   RANGE

The tree merges neighbours, level by level, until one is left; where a group ends is decided by the
hashes themselves, so that the trees of similar files are similar. Here it grows while chunks come,
and holds a few nodes of each level only. A hash is written as four little-endian numbers.
https://huggingface.co/docs/xet/hashing
"""

from __future__ import annotations

import struct

from blake3 import blake3

__all__ = ["HASH", "Tree", "chunk_hash", "digest", "name_of", "range_hash"]

HASH = 32
"""Bytes of every hash."""

DATA = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
NODE = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
RANGE = bytes.fromhex("7f1857d6ce56ed66127ff913e7a5c3f3a4cd26d5b5db49e64124987f28fb94c3")
FILE = bytes(HASH)

FEWEST, MOST = 3, 9
"""Children that a node has, but for the last one of a level."""


def digest(data: bytes) -> bytes:
    """The plain blake3 of something of ours."""
    return blake3(data).digest()


def chunk_hash(data: bytes) -> bytes:
    """The hash of a chunk's content."""
    return blake3(data, key=DATA).digest()


def range_hash(hashes: bytes) -> bytes:
    """The hash that shows that one knows the chunks of a range, of their joined hashes."""
    return blake3(hashes, key=RANGE).digest()


def name_of(found: bytes) -> str:
    """A hash as it is written in addresses, 64 hexadecimal digits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", found))


class Tree:
    """The tree over chunks that are added in their order."""

    def __init__(self) -> None:
        self._levels: list[list[tuple[bytes, int]]] = []
        self._seen: list[int] = []

    def add(self, found: bytes, size: int, level: int = 0) -> None:
        """The next chunk: its hash, and the length of its content."""
        if level == len(self._levels):
            self._levels.append([])
            self._seen.append(0)
        group = self._levels[level]
        group.append((found, size))
        self._seen[level] += 1
        if len(group) == MOST or (len(group) >= FEWEST and found[24] % 4 == 0):
            self._merge(level)

    def xorb(self) -> bytes:
        """The hash of a xorb that holds these chunks, of which there must be one at least.
        Nothing can be added afterwards."""
        level = 0
        while self._seen[level] > 1:
            if self._levels[level]:
                self._merge(level)
            level += 1
        return self._levels[level][0][0]

    def file(self) -> bytes:
        """The hash of a file that consists of these chunks, of which there must be one at least.
        Nothing can be added afterwards."""
        return blake3(self.xorb(), key=FILE).digest()

    def _merge(self, level: int) -> None:
        group = self._levels[level]
        lines = "".join(f"{name_of(found)} : {size}\n" for found, size in group)
        node, total = blake3(lines.encode(), key=NODE).digest(), sum(size for _, size in group)
        group.clear()
        self.add(node, total, level + 1)
