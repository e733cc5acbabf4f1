"""Xorbs become files: what lands, what is refused and leaves nothing, and how long it is kept."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest

from hubtool.hub.server import xet, xet_epochs, xet_store, xet_xorb
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.store import Store
from hubtool.hub.server.xet_store import Xorbs

from .xets import Made, MadeShard, Xorb, content, turned, upload

DAY = 86_400


class Gate:
    """A store, its xorbs, and one collection of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.store, self.xorbs = root, Store(root), Xorbs(root)
        self.epoch = self.xorbs.current()

    def send(self, *xorbs: Xorb) -> list[bool]:
        return [self.keep(xorb.name, xorb.data) for xorb in xorbs]

    def keep(self, name: str, data: bytes) -> bool:
        with self.xorbs.incoming() as incoming:
            incoming.write(data)
            return self.xorbs.keep(self.epoch, name, incoming)

    def land(self, shard: MadeShard | bytes) -> int:
        data = shard if isinstance(shard, bytes) else shard.data
        return len(xet.land(data, self.store, self.xorbs, self.epoch))

    def stored(self, data: bytes) -> bool:
        place = self.store.path(hashlib.sha256(data).hexdigest())
        return place.exists() and place.read_bytes() == data

    def blobs(self) -> int:
        return sum(path.is_file() for path in self.store.blobs.rglob("*"))

    def place(self, xorb: Xorb) -> Path:
        return self.xorbs.place(self.epoch, xorb.name)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def refused(gate: Gate, shard: MadeShard | bytes, why: str, status: int = 400) -> None:
    """It is refused for that reason, and no file is stored."""
    before = gate.blobs()
    with pytest.raises(Refusal, match=why) as caught:
        gate.land(shard)
    assert caught.value.status == status
    assert gate.blobs() == before and list(gate.store.tmp.iterdir()) == []


def test_files_are_put_together_from_the_chunks_of_several_xorbs(gate: Gate) -> None:
    one, two = (Xorb([content(70_000, seed + n) for n in range(4)]) for seed in (0, 10))
    crossed = Made([(one, 1, 3), (two, 0, 4), (one, 1, 2), (one, 3, 4)])
    plain = Made([(two, 2, 3)])
    assert gate.send(one, two, one) == [True, True, False]
    assert gate.land(MadeShard([crossed, plain], [one, two])) == 2
    assert gate.stored(crossed.data) and gate.stored(plain.data)
    assert list(gate.store.tmp.iterdir()) == []
    assert gate.land(MadeShard([crossed, plain]).footed()) == 2, "once more, with a footer"


def test_more_xorbs_than_are_held_open_make_a_file(gate: Gate) -> None:
    xorbs = [Xorb([b"%d, " % n, b"%d; " % n]) for n in range(3 * xet_store.OPEN)]
    gate.send(*xorbs)
    file = Made([(xorb, at, at + 1) for at in (0, 1) for xorb in xorbs])
    gate.land(MadeShard([file], xorbs))
    assert gate.stored(file.data)


def test_a_file_that_is_there_is_not_made_again_but_wanted_again(gate: Gate) -> None:
    xorb, shard = upload()
    gate.send(xorb)
    gate.land(shard)
    place = gate.store.path(hashlib.sha256(shard.files[0].data).hexdigest())
    os.utime(place, (0, 0))
    gate.place(xorb).write_bytes(
        gate.place(xorb).read_bytes().replace(xorb.chunks[0][:50], bytes(50), 1)
    )
    gate.land(shard)
    assert time.time() - place.stat().st_mtime < 60


ONE = Xorb([b"one, ", b"two, ", b"three."])
TWO = Xorb([b"four, ", b"five."])
FILE = Made([(ONE, 0, 2), (TWO, 0, 2)])


@pytest.mark.parametrize(
    ("shard", "why"),
    {
        "a xorb that is not here": (MadeShard([Made([(Xorb([b"?"]), 0, 1)])]), "is not here"),
        "another xorb that is not here": (MadeShard([], [Xorb([b"?"])]), "is not here"),
        "a chunk too many": (MadeShard([Made([(Xorb([*ONE.chunks, b"?"]), 0, 4)])]), "not here"),
        "no term": (MadeShard([Made([], hash=bytes(32))]), "is empty"),
        "another hash of the file": (
            MadeShard([Made([(ONE, 0, 1)], hash=bytes(32))]),
            "its chunks",
        ),
        "another sha256": (MadeShard([Made([(ONE, 0, 1)], sha256="0" * 64)]), "sha256 is"),
        "noise": (b"x" * 1000, "does not begin like one"),
    }.values(),
)
def test_what_the_xorbs_do_not_say_is_refused_and_leaves_nothing(
    gate: Gate, shard: MadeShard | bytes, why: str
) -> None:
    gate.send(ONE, TWO)
    refused(gate, shard, why)


def test_a_term_beyond_its_xorb_is_refused(gate: Gate) -> None:
    gate.send(ONE)
    good = MadeShard([Made([(ONE, 0, 3)])]).data
    term = good.index(ONE.hash) + 40
    for start, end in ((0, 4), (3, 3), (2, 1), (0, 2**32 - 1), (2**32 - 1, 2**32 - 1), (4, 5)):
        numbers = start.to_bytes(4, "little") + end.to_bytes(4, "little")
        refused(gate, good[:term] + numbers + good[term + 8 :], "of a xorb that has 3|more than")


def test_a_flipped_byte_anywhere_is_refused_or_stores_the_very_same_file(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    gate.send(ONE, TWO)
    good = MadeShard([FILE], [ONE, TWO]).data
    passed = []
    for at in range(len(good)):
        broken = bytearray(good)
        broken[at] ^= 0x55
        try:
            gate.land(bytes(broken))
        except Refusal as refusal:
            assert refusal.status == 400 and gate.blobs() == 0, at
        else:
            assert gate.blobs() == 1 and gate.stored(FILE.data), at
            shutil.rmtree(gate.store.blobs)
            gate.store.blobs.mkdir()
            passed.append(at % 48)
    assert min(passed) >= 32, "reserved fields, never a hash"


def test_a_shard_that_breaks_off_anywhere_leaves_nothing(gate: Gate) -> None:
    gate.send(ONE, TWO)
    good = MadeShard([FILE], [ONE, TWO]).data
    for length in range(0, len(good), 7):
        refused(gate, good[:length], "The shard is damaged")


def test_a_shard_may_not_name_more_chunks_than_a_terabyte_has(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xet, "MOST_CHUNKS", 7)
    gate.send(ONE)
    assert gate.land(MadeShard([Made([(ONE, 0, 3), (ONE, 0, 3)])])) == 1
    refused(gate, MadeShard([Made([(ONE, 0, 3)] * 3)]), "more than 7 chunks in its files")


def test_files_that_the_disk_has_no_room_for_are_refused_before_they_are_made(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.send(ONE)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(xet.shutil, "disk_usage", lambda path: usage(31))
    refused(gate, MadeShard([Made([(ONE, 0, 3)] * 2)]), "disk is full", status=507)


def test_a_xorb_that_is_not_what_its_name_says_is_not_kept(gate: Gate) -> None:
    for name, data, why in (
        (TWO.name, ONE.data, "holds the chunks of"),
        (ONE.name, ONE.data[:-1], "is damaged: chunk 2: it breaks off"),
        (ONE.name, b"", "no chunk in it"),
        ("../../etc", ONE.data, "is no hash"),
    ):
        with pytest.raises(Refusal, match=why) as caught:
            gate.keep(name, data)
        assert caught.value.status == 400
    assert not [path for path in (gate.root / "xorbs").rglob("*") if path.is_file()]
    assert list(gate.store.tmp.iterdir()) == []


def test_a_full_disk_is_507_and_leaves_no_xorb(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xet_store.files, "sync", full)
    with pytest.raises(Refusal) as caught:
        gate.send(ONE)
    assert caught.value.status == 507 and not gate.place(ONE).exists()
    assert list(gate.store.tmp.iterdir()) == []


@pytest.mark.parametrize("at", [9, -20], ids=["a chunk", "the index"])
def test_a_xorb_that_has_changed_on_the_disk_is_thrown_away_and_a_new_collection_begins(
    gate: Gate, at: int
) -> None:
    gate.send(ONE, TWO)
    data = bytearray(gate.place(ONE).read_bytes())
    data[at] ^= 1
    gate.place(ONE).write_bytes(data)
    refused(gate, MadeShard([Made([(ONE, 0, 3)])]), "This hub is damaged: the xorb", status=500)
    assert not gate.place(ONE).exists()
    assert gate.xorbs.current() != gate.epoch
    gate.epoch = gate.xorbs.current()
    gate.send(ONE)
    assert gate.land(MadeShard([Made([(ONE, 0, 3)])])) == 1


def test_a_collection_is_named_after_its_store_and_stays_the_same(tmp_path: Path) -> None:
    first, second = Xorbs(tmp_path / "a"), Xorbs(tmp_path / "b")
    assert first.current() == first.current() == Xorbs(tmp_path / "a").current()
    assert first.current().partition("-")[0] != second.current().partition("-")[0]
    with pytest.raises(Refusal) as caught:
        first.check_epoch(second.current())
    assert caught.value.status == 404
    for wrong in ("..", "", "x" * 32 + "-1", "../b/xorbs"):
        with pytest.raises(Refusal, match="begin the upload again"):
            first.check_epoch(wrong)


def test_a_collection_ends_after_a_month_or_when_told_and_goes_a_day_later(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    gate.send(ONE)

    def after(seconds: float) -> str:
        monkeypatch.setattr(xet_epochs.time, "time", lambda: now + seconds)
        return gate.xorbs.current()

    assert after(29 * DAY) == gate.epoch
    second = after(31 * DAY)
    assert second != gate.epoch and second.partition("-")[0] == gate.epoch.partition("-")[0]
    assert gate.land(MadeShard([Made([(ONE, 0, 3)])])) == 1, "uploads under way go on"
    third = gate.xorbs.collect()
    fourth = gate.xorbs.collect()
    assert len({gate.epoch, second, third, fourth}) == 4
    assert gate.xorbs.epochs() == [gate.epoch, second, third, fourth]
    assert after(33 * DAY) == fourth
    assert gate.xorbs.epochs() == [fourth]
    refused(gate, MadeShard([Made([(TWO, 0, 1)])]), "is not here")


def test_a_client_that_remembers_what_is_gone_is_told_to_forget_it(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, now = MadeShard([Made([(ONE, 0, 1)])]), time.time()
    refused(gate, shard, "is not here: begin the upload again")
    assert gate.xorbs.current() == gate.epoch, "so young, nothing can have been forgotten"
    monkeypatch.setattr(xet_epochs.time, "time", lambda: now + xet_epochs.TRUSTED_S + 2)
    refused(gate, shard, "is not here: begin the upload again")
    assert gate.xorbs.current() != gate.epoch
    refused(gate, shard, "is not here: begin the upload again")
    assert len(gate.xorbs.epochs()) == 2, "what is old is no reason for another one"


def test_a_xorb_may_come_while_its_collection_goes(gate: Gate) -> None:
    shutil.rmtree(gate.root / "xorbs")
    assert gate.send(ONE) == [True]


def test_constants_hold_what_clients_send() -> None:
    assert xet_xorb.LONGEST > (64 << 20) + 8192 * 8
    assert turned("07060504030201000f0e0d0c0b0a09081716151413121110" + "0" * 16)[:3] == b"\0\1\2"
