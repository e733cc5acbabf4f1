"""Xorbs: what clients make is read, all else is refused, and no byte of it costs much memory."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubtool.hub.server import xet_xorb
from hubtool.hub.server.xet_xorb import GROUPED, LZ4, NONE

from .xets import Xorb, chunk, content, packed, read

TEXT = b"so many words, so little said " * 40
lists = st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=12)


def stored(data: bytes) -> io.BytesIO:
    index = read(data)
    return io.BytesIO(data[: index.ends[-1]] + index.stored())


@given(lists, st.permutations([NONE, LZ4, GROUPED]))
def test_the_chunks_come_out_that_went_in_by_every_scheme(
    chunks: list[bytes], schemes: list[int]
) -> None:
    xorb = Xorb(chunks, schemes)
    stream = stored(xorb.data)
    index = xet_xorb.index_of(stream)
    assert index == read(xorb.data) and index.name == xorb.name
    assert list(xet_xorb.chunks(stream, index, 0, len(index))) == chunks
    assert list(xet_xorb.chunks(stream, index, len(index) - 1, len(index))) == chunks[-1:]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 131_071, 131_072])
def test_grouped_bytes_of_any_length_are_put_in_order(size: int) -> None:
    data = content(size)
    index = read(chunk(data, GROUPED))
    assert index.chunk(0) == read(chunk(data)).chunk(0)


def test_a_footer_is_passed_over_and_must_be_as_long_as_it_says() -> None:
    xorb = Xorb([b"one", b"two"])
    info = b"XETBLOB\x01" + b"whatever"
    footer = info + len(info).to_bytes(4, "little")
    assert read(xorb.data + footer) == read(xorb.data)
    for wrong in (footer[:-1], footer + b"\0", footer[:8], footer[8:], footer[:-4] + bytes(4)):
        with pytest.raises(ValueError):
            read(xorb.data + wrong)


BOMB = lz4.frame.compress(bytes(64 << 20), store_size=True)
LIAR = lz4.frame.compress(b"x", store_size=True)[:6] + (1 << 60).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("data", "why"),
    {
        "nothing": (b"", "no chunk"),
        "half a header": (chunk(b"abc")[:5], "breaks off in its header"),
        "half a chunk": (chunk(b"abc")[:-1], "breaks off after 2 of 3 bytes"),
        "another version": (chunk(b"abc", version=1), "version 1"),
        "an unknown scheme": (chunk(b"abc", 3, body=b"abc"), "scheme 3"),
        "no content": (chunk(b"", body=b"x"), "0 bytes long"),
        "no body": (chunk(b"abc", body=b""), "0 bytes packed"),
        "too much content": (chunk(bytes(131_073)), "131073 bytes long"),
        "16 MB of content": (chunk(b"abc", LZ4, size=0xFFFFFF), "16777215 bytes long"),
        "16 MB packed": (chunk(b"abc", LZ4, length=0xFFFFFF), "16777215 bytes packed"),
        "shorter than said": (chunk(b"abc", size=4), "3 bytes come out of it, not 4"),
        "longer than said": (chunk(TEXT, LZ4, size=9), "not one LZ4 frame of that length"),
        "no frame": (chunk(b"abc", LZ4, body=b"abcdefgh" * 4), "no LZ4 frame"),
        "an open frame": (chunk(TEXT, LZ4, body=packed(TEXT, LZ4)[:-4]), "not one LZ4 frame"),
        "two frames": (chunk(TEXT, LZ4, body=2 * packed(TEXT, LZ4)), "not one LZ4 frame"),
        "a bomb": (chunk(b"\0", LZ4, body=BOMB[:200_000]), "not one LZ4 frame"),
        "a frame that lies": (chunk(b"x", LZ4, body=LIAR + bytes(64)), "no LZ4 frame"),
    }.values(),
)
def test_a_chunk_that_is_not_what_it_says_is_refused_before_it_costs(data: bytes, why: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=why):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_the_number_of_chunks_and_the_content_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xet_xorb, "MOST_CHUNKS", 3)
    assert len(read(3 * chunk(b"abc"))) == 3
    with pytest.raises(ValueError, match="more than 3 chunks"):
        read(4 * chunk(b"abc"))
    monkeypatch.setattr(xet_xorb, "MOST_BYTES", 8)
    with pytest.raises(ValueError, match="more than 8 bytes of content"):
        read(3 * chunk(b"abc"))


def test_a_xorb_that_breaks_off_anywhere_is_refused_or_has_another_name() -> None:
    xorb = Xorb([b"one", b"twotwotwotwo" * 9, b"three"])
    for length in range(len(xorb.data)):
        try:
            assert read(xorb.data[:length]).name != xorb.name
        except ValueError:
            continue


def test_a_flipped_bit_anywhere_is_refused_or_gives_another_name() -> None:
    xorb = Xorb([b"one", b"twotwotwotwo" * 9, b"three, four"])
    same = []
    for at in range(8 * len(xorb.data)):
        broken = bytearray(xorb.data)
        broken[at // 8] ^= 1 << at % 8
        try:
            index = read(bytes(broken))
        except ValueError:
            continue
        if index.name == xorb.name:
            same.append(list(xet_xorb.chunks(stored(bytes(broken)), index, 0, len(index))))
    assert all(chunks == xorb.chunks for chunks in same), "the same name is the same content"
    assert len(same) < 10, "what an LZ4 frame leaves open"


@settings(max_examples=300)
@given(st.binary(max_size=400), st.integers(0, 300), st.integers(0, 60))
def test_any_bytes_are_a_xorb_or_a_value_error(noise: bytes, at: int, gone: int) -> None:
    good = Xorb([b"one", b"twotwotwotwo" * 9, b"three, four"]).data
    for data in (noise, good[:at] + noise + good[at + gone :]):
        try:
            index = read(data)
        except ValueError:
            continue
        assert len(list(xet_xorb.chunks(stored(data), index, 0, len(index)))) == len(index)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data[:-60] + b"\xff" + data[-59:],
        lambda data: data[:-12] + b"\xff\xff\xff\xff" + data[-8:],
        lambda data: data[:-12] + bytes(4) + data[-8:],
    ],
)
def test_a_damaged_index_is_told(damage: Callable[[bytes], bytes]) -> None:
    whole = stored(Xorb([b"one", b"two"]).data).getvalue()
    with pytest.raises(ValueError, match="its index is damaged"):
        xet_xorb.index_of(io.BytesIO(damage(whole)))


def test_a_stored_chunk_that_has_changed_is_told() -> None:
    stream = stored(Xorb([b"one", b"two"]).data)
    index = xet_xorb.index_of(stream)
    stream.getbuffer()[9] ^= 1
    with pytest.raises(ValueError, match="chunk 0: it has another hash"):
        list(xet_xorb.chunks(stream, index, 0, 2))
    assert list(xet_xorb.chunks(stream, index, 1, 2)) == [b"two"]
