"""Xet's hashes, held against values that hf_xet has made and against the plain definition."""

from __future__ import annotations

import hashlib
from pathlib import Path

import hf_xet
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from hubtool.hub.server import xet_hash
from hubtool.hub.server.xet_hash import Tree, chunk_hash, name_of

Nodes = list[tuple[bytes, int]]

hashes = st.integers(0, 2**32).map(lambda number: hashlib.sha256(b"%d" % number).digest())
nodes = st.lists(st.tuples(hashes, st.integers(0, 131_072)), min_size=1, max_size=200)


def plain_root(level: Nodes) -> bytes:
    """The definition: merge a whole level, until one is left."""
    while len(level) > 1:
        above: Nodes = []
        at = 0
        while at < len(level):
            ends = [at + n for n in range(3, 10) if level[at + n - 1 : at + n]]
            cut = next((end for end in ends if level[end - 1][0][24] % 4 == 0), None)
            group = level[at : cut or at + 9]
            text = "".join(f"{name_of(one)} : {size}\n" for one, size in group)
            node = blake3(text.encode(), key=xet_hash.NODE).digest()
            above.append((node, sum(size for _, size in group)))
            at += len(group)
        level = above
    return level[0][0]


@given(nodes)
def test_the_tree_that_grows_is_the_tree_made_level_by_level(level: Nodes) -> None:
    growing = Tree()
    for node in level:
        growing.add(*node)
    assert growing.xorb() == plain_root(level)


def test_a_tree_holds_a_few_nodes_of_each_level_only() -> None:
    growing = Tree()
    for number in range(20_000):
        growing.add(hashlib.sha256(b"%d" % number).digest(), 1)
    assert sum(map(len, growing._levels)) < 9 * len(growing._levels) < 9 * 14


@pytest.mark.parametrize("text", [b"x", b"weights" * 1000])
def test_what_hf_xet_says_of_a_file_of_one_chunk_is_said_here(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "file").write_bytes(text)
    (said,) = hf_xet.hash_files([str(tmp_path / "file")])
    one = Tree()
    one.add(chunk_hash(text), len(text))
    assert name_of(one.file()) == said.hash


def test_a_hash_is_written_as_four_little_endian_numbers() -> None:
    written = "07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918"
    assert name_of(bytes(range(32))) == written
