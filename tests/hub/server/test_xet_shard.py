"""Shards: what is said is read, and what cannot be so is refused before it is believed."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubtool.hub.server.xet_shard import END, HEADER, RECORD, SIZE, Shard

from .xets import Made, MadeShard, Xorb

ONE = Xorb([b"one", b"two", b"three"])
TWO = Xorb([b"four", b"five"])
FILE = Made([(ONE, 0, 2), (TWO, 1, 2)])
OTHER = Made([(ONE, 2, 3)])
GOOD = MadeShard([FILE, OTHER], [ONE, TWO])


def walk(data: bytes) -> list[object]:
    """All that a shard says."""
    shard = Shard(data)
    found: list[object] = []
    for block in shard.blocks():
        found += [block, *shard.chunks(block)]
    for file in shard.files():
        found += [file, *shard.terms(file)]
    return found


@pytest.mark.parametrize("shard", [GOOD, GOOD.footed()], ids=["bare", "with a footer"])
def test_files_and_xorbs_are_read_in_their_order(shard: MadeShard) -> None:
    read = Shard(shard.data)
    first, second = read.files()
    terms = [(term.xorb, term.start, term.end, term.size) for term in read.terms(first)]
    assert terms == [(ONE.name, 0, 2, 6), (TWO.name, 1, 2, 4)]
    assert [term.size for term in read.terms(second)] == [5]
    blocks = list(read.blocks())
    assert [(block.xorb, block.count, block.size) for block in blocks] == [
        (ONE.name, 3, 11),
        (TWO.name, 2, 8),
    ]
    assert [(before, size) for _, before, size in read.chunks(blocks[0])] == [
        (0, 3),
        (3, 3),
        (6, 5),
    ]


def test_a_shard_without_files_or_xorbs_is_one() -> None:
    assert walk(MadeShard([]).data) == []


def test_a_shard_that_breaks_off_anywhere_is_refused() -> None:
    for good in (GOOD.data, GOOD.footed().data):
        for length in range(len(good)):
            with pytest.raises(ValueError):
                walk(good[:length])


def test_nothing_may_follow_on_the_end() -> None:
    with pytest.raises(ValueError, match="1 bytes behind its end"):
        walk(GOOD.data + b"\0")


@pytest.mark.parametrize("count", [2**32 - 1, 2**31, 1_000_000, 40])
@pytest.mark.parametrize("where", ["file", "xorb"])
def test_an_absurd_count_is_refused_before_it_costs(count: int, where: str) -> None:
    if where == "file":
        data = MadeShard([Made([(ONE, 0, 1)], count=count)]).data
    else:
        data = MadeShard([], [ONE], counts={0: count}).data
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="records are announced, and there is room for"):
            walk(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def header(**wrong: int | bytes) -> bytes:
    found = {"tag": GOOD.data[:32], "version": 2, "footer": 0, **wrong}
    return HEADER.pack(*found.values()) + GOOD.data[HEADER.size :]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short for a header"),
        (header(tag=b"HFRepoMetaData"), "does not begin like one"),
        (header(version=3), "of version 3"),
        (header(footer=1 << 63), "a footer of"),
        (header(footer=200), "there is room for 2"),
        (MadeShard([Made([(ONE, 0, 1)], flags=1 << 31)]).data, "without its sha256"),
        (MadeShard([Made([(ONE, 0, 1)], flags=1 << 30)]).data, "without the hashes of its terms"),
        (GOOD.data.replace(END, bytes(32)), "records are announced|breaks off|without"),
        (GOOD.footed().data[:-8] + struct.pack("<Q", 7), "a footer that does not fit"),
    ],
)
def test_what_cannot_be_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        walk(data)


@settings(max_examples=300)
@given(st.binary(max_size=300), st.integers(0, 700), st.integers(0, 200))
def test_any_bytes_are_a_shard_or_a_value_error(noise: bytes, at: int, gone: int) -> None:
    for data in (noise, GOOD.data[:at] + noise + GOOD.data[at + gone :], GOOD.data[:48] + noise):
        try:
            found = walk(data)
        except ValueError:
            continue
        assert len(found) <= len(data) // SIZE


def test_records_are_as_long_as_the_protocol_says() -> None:
    assert (HEADER.size, RECORD.size) == (48, 48)
