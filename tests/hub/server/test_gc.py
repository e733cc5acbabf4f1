"""What nobody names and nobody wants goes; what somebody may be about to name stays."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.errors import HubError, InputError
from hubtool.hub.server import commits
from hubtool.hub.server.check import check
from hubtool.hub.server.collect import collect
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.meta import Repo
from hubtool.hub.server.run import Background
from hubtool.hub.server.survey import opened
from hubtool.hub.server.xet_epochs import Epochs

from .bodies import Hub, file, header, lfs
from .conftest import Repo as Served

DAY = 86_400


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.meta.create("axon/m")


def age(hub: Hub, content: bytes, days: float = 2) -> str:
    """A content that was last wanted so long ago; its name."""
    blob = hub.keep(content)
    when = time.time() - days * DAY
    os.utime(blob.place, (when, when))
    return blob.sha256


def test_what_no_commit_names_goes_after_the_grace(hub: Hub, repo: Repo) -> None:
    hub.commit(repo, header(), file("a", b"named"))
    named, old, young = age(hub, b"named"), age(hub, b"old"), age(hub, b"young", 0.9)
    done = collect(hub.root)
    assert (done.contents, done.bytes, done.young, done.young_bytes, done.kept) == (1, 3, 1, 5, 2)
    assert [hub.store.has(name) for name in (named, old, young)] == [True, False, True]
    assert check(hub.root).problems == []


def test_a_dry_run_removes_nothing(hub: Hub, repo: Repo) -> None:
    old = age(hub, b"old")
    done = collect(hub.root, dry_run=True)
    assert (done.contents, done.bytes, done.dry_run) == (1, 3, True)
    assert hub.store.has(old)


def test_what_a_deleted_model_alone_had_goes(hub: Hub, repo: Repo) -> None:
    hub.commit(repo, header(), file("a", b"named"))
    hub.meta.delete(repo.name)
    name = age(hub, b"named")
    assert collect(hub.root).bytes == 5
    assert not hub.store.has(name)


def xorb(hub: Hub, epoch: str) -> Path:
    """A file in place of a xorb of that collection."""
    place = Epochs(hub.root).place(epoch, "ab" * 32)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"chunks")
    return place


def test_chunks_go_when_no_upload_counts_on_them_any_more(hub: Hub) -> None:
    epochs, now = Epochs(hub.root), int(time.time())
    before, ended, present = (f"{hub.store.uuid()}-{now - days * DAY}" for days in (9, 5, 2))
    kept = [xorb(hub, epoch) for epoch in (before, ended, present)]
    assert collect(hub.root, dry_run=True).xorb_bytes == 12
    assert [place.exists() for place in kept] == [True, True, True]
    assert collect(hub.root).xorb_bytes == 12
    assert [place.exists() for place in kept] == [False, False, True]
    assert epochs.epochs()[0] == present and epochs.current() != present
    assert collect(hub.root).xorb_bytes == 0 and kept[2].exists(), "uploads may be under way"


def test_a_young_collection_of_chunks_goes_on(hub: Hub) -> None:
    epoch = Epochs(hub.root).current()
    place = xorb(hub, epoch)
    assert collect(hub.root).xorb_bytes == 0
    assert place.exists() and Epochs(hub.root).current() == epoch


def test_a_commit_that_claims_before_the_collection_keeps_its_content(
    hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = age(hub, b"old")
    look = commits._card

    def late(*rest: object) -> object:
        assert collect(hub.root).contents == 0
        return look(*rest)  # type: ignore[arg-type]

    monkeypatch.setattr(commits, "_card", late)
    commit = hub.commit(repo, header(), lfs("a", old))
    assert hub.content(commit.oid)["a"] == b"old"


def test_a_content_collected_under_a_commit_is_a_400_and_no_broken_commit(
    hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = age(hub, b"old")
    look = commits._card

    def late(*rest: object) -> object:
        os.utime(hub.store.path(old), (1, 1))  # days have passed
        assert collect(hub.root).contents == 1
        return look(*rest)  # type: ignore[arg-type]

    with (
        monkeypatch.context() as patched,
        pytest.raises(Refusal, match="upload it again") as caught,
    ):
        patched.setattr(commits, "_card", late)
        hub.commit(repo, header(), lfs("a", old))
    assert caught.value.status == 400
    assert hub.meta.repo(repo.name) == repo
    hub.keep(b"old")
    assert len(hub.content(hub.commit(repo, header(), lfs("a", old)).oid)) == 2


def test_an_upload_that_was_answered_and_one_that_was_spared_keep_their_content(
    tmp_path: Path,
) -> None:
    with Background(tmp_path) as url:
        one = Served(url, "axon/m")
        one.upload(b"sent")
        one.upload(b"there before")
        spared = hashlib.sha256(b"there before").hexdigest()
        place = tmp_path / "blobs" / spared[:2] / spared[2:4] / spared
        os.utime(place, (1, 1))
        assert "actions" not in one.offer(b"there before")
        done = collect(tmp_path, grace_s=3600)
        assert (done.contents, done.young) == (0, 2)


def test_less_than_an_hour_is_for_a_hub_that_nobody_has_open(hub: Hub, repo: Repo) -> None:
    name = hub.keep(b"fresh").sha256
    with pytest.raises(HubError, match="somebody has the hub open"):
        collect(hub.root, grace_s=0)
    assert collect(hub.root, grace_s=0, dry_run=True).contents == 1
    hub.meta.close()
    assert collect(hub.root, grace_s=0).contents == 1
    assert not hub.store.has(name)
    with pytest.raises(InputError, match="-1"):
        collect(hub.root, grace_s=-1)


def test_nothing_is_collected_while_somebody_copies_or_checks(hub: Hub, repo: Repo) -> None:
    with opened(hub.root), opened(hub.root), pytest.raises(HubError, match="somebody else"):
        collect(hub.root)


def test_a_store_says_its_name_to_all_processes_alike(hub: Hub) -> None:
    again = Hub(hub.root)
    assert again.store.uuid() == hub.store.uuid() and len(hub.store.uuid()) == 32
    again.meta.close()
