"""A commit lands whole or not at all, and once; test_commits_body.py knows its lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.hub.server import commits
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.meta import Repo

from .bodies import Hub, file, header, lfs, line


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.meta.create("axon/m")


def paths(hub: Hub, oid: str) -> list[str]:
    return [entry.path for entry in hub.meta.files(oid)]


def test_a_commit_adds_replaces_and_deletes(hub: Hub, repo: Repo) -> None:
    first = hub.commit(
        repo, header("first", description="why"), file("a", b"1"), file("d/e/f", b"2")
    )
    assert (first.title, first.message, first.parent) == ("first", "why", repo.head)
    assert (first.author, len(first.oid)) == ("ann", 40)
    second = hub.commit(
        repo,
        header("second", parentCommit=first.oid),
        file("a", b"3"),
        line("deletedFolder", path="d/"),
        file("d", b"now a file"),
        line("deletedFile", path=".gitattributes"),
    )
    assert hub.content(second.oid) == {"a": b"3", "d": b"now a file"}
    content = hub.content(first.oid)
    assert (content["a"], content["d/e/f"]) == (b"1", b"2")
    assert hub.meta.resolve(repo, "main") == second
    assert hub.meta.repo(repo.name).modified == second.date


def test_a_file_may_become_a_folder_when_it_is_deleted(hub: Hub, repo: Repo) -> None:
    hub.commit(repo, header(), file("a", b"1"))
    commit = hub.commit(repo, header(), line("deletedFile", path="a"), file("a/b", b"2"))
    assert paths(hub, commit.oid) == [".gitattributes", "a/b"]


def test_no_change_is_the_head_itself(hub: Hub, repo: Repo) -> None:
    first = hub.commit(repo, header(), file("a", b"1"))
    assert hub.commit(repo, header("again"), file("a", b"1")) == first
    assert hub.commit(repo, header("nothing")) == first
    assert len(hub.meta.log(repo, first.oid, limit=9)) == 2


def test_an_lfs_file_needs_its_content_and_its_size(hub: Hub, repo: Repo) -> None:
    blob = hub.keep(b"weights")
    for oid, size, message in [
        ("0" * 64, 7, "is not here"),
        (blob.sha256, 8, "has 7 bytes, not 8"),
    ]:
        with pytest.raises(Refusal, match=message) as caught:
            hub.commit(repo, header(), file("a", b"1"), lfs("b.bin", oid, size=size))
        assert caught.value.status == 400
        assert "line 3, 'b.bin'" in caught.value.message
    assert hub.meta.repo(repo.name).head == repo.head
    copied = hub.commit(
        repo, header(), lfs("b.bin", blob.sha256), lfs("c.bin", blob.sha256, size=7)
    )
    assert hub.content(copied.oid)["b.bin"] == b"weights"


def test_what_is_to_be_deleted_must_be_there(hub: Hub, repo: Repo) -> None:
    hub.commit(repo, header(), file("d/f", b"1"))
    for key, path in [("deletedFile", "d"), ("deletedFolder", "d/f"), ("deletedFile", "none")]:
        with pytest.raises(Refusal, match=f"'{path}' does not exist") as caught:
            hub.commit(repo, header(), line(key, path=path))
        assert (caught.value.status, caught.value.code) == (404, "EntryNotFound")


def test_a_folder_is_deleted_with_all_in_it_and_nothing_beside_it(hub: Hub, repo: Repo) -> None:
    inside = ["d/a", "d/e/b", "d/e/f/c"]
    beside = ["d-x", "d.txt", "dd/a", "e/d/a"]
    hub.commit(repo, header(), *(file(path, b"1") for path in [*inside, *beside]))
    commit = hub.commit(
        repo,
        header(),
        line("deletedFolder", path="d/e/"),
        line("deletedFolder", path="d"),
        line("deletedFile", path="d/a"),
        file("d/new", b"2"),
    )
    assert paths(hub, commit.oid) == sorted([".gitattributes", *beside, "d/new"])


def test_a_commit_goes_to_its_branch_only(hub: Hub, repo: Repo) -> None:
    hub.meta.create_ref(repo, "branch", "next", repo.head)
    readme = file("README.md", b"---\ntags: [Axon]\n---\n")
    there = hub.commit(repo, header(), readme, branch="next")
    assert hub.meta.repo(repo.name) == repo
    assert hub.meta.resolve(repo, "next") == there
    here = hub.commit(repo, header(), readme)
    assert (here.parent, there.parent) == (repo.head, repo.head)
    assert hub.meta.repo(repo.name).tags == ["Axon"]
    for branch in ("none", repo.head, "main/"):
        with pytest.raises(Refusal) as caught:
            hub.commit(repo, header(), file("a", b"1"), branch=branch)
        assert (caught.value.status, caught.value.code) == (404, "RevisionNotFound")


def test_a_parent_that_is_no_longer_the_head_is_a_412(hub: Hub, repo: Repo) -> None:
    first = hub.commit(repo, header(parentCommit=repo.head), file("a", b"1"))
    with pytest.raises(Refusal, match=f"is at {first.oid}") as caught:
        hub.commit(repo, header("late", parentCommit=repo.head), file("b", b"2"))
    assert caught.value.status == 412
    second = hub.commit(repo, header(parentCommit=first.oid[:7]), file("b", b"2"))
    assert second.parent == first.oid


def test_the_same_body_again_is_the_same_commit(hub: Hub, repo: Repo) -> None:
    body = [header(parentCommit=repo.head), file("a", b"1")]
    first = hub.commit(repo, *body)
    assert hub.commit(repo, *body) == first
    hub.commit(repo, header("other"), file("b", b"2"))
    assert hub.commit(repo, *body) == first
    hub.commit(repo, header("back"), file("a", b"0"))
    assert hub.commit(repo, *body) == first
    assert len(hub.meta.log(repo, hub.meta.repo(repo.name).head, limit=9)) == 4


def test_a_deletion_that_is_sent_again_has_happened_already(hub: Hub, repo: Repo) -> None:
    body = [header(), line("deletedFile", path=".gitattributes")]
    assert hub.commit(repo, *body) == hub.commit(repo, *body)
    hub.commit(repo, header(), file("a", b"1"))
    with pytest.raises(Refusal, match="does not exist"):
        hub.commit(repo, *body)


def test_a_body_without_a_parent_may_come_back_later_in_earnest(hub: Hub, repo: Repo) -> None:
    one, zero = [header(), file("a", b"1")], [header(), file("a", b"0")]
    first = hub.commit(repo, *one)
    assert hub.commit(repo, *one) == first
    hub.commit(repo, *zero)
    third = hub.commit(repo, *one)
    assert third != first and hub.content(third.oid)["a"] == b"1"
    assert hub.meta.resolve(repo, "main") == third


def test_a_branch_made_anew_takes_the_same_body_anew(hub: Hub, repo: Repo) -> None:
    body = [header(parentCommit=repo.head), file("a", b"1")]
    hub.meta.create_ref(repo, "branch", "next", repo.head)
    hub.commit(repo, *body, branch="next")
    hub.meta.delete_ref(repo, "branch", "next")
    hub.meta.create_ref(repo, "branch", "next", repo.head)
    hub.commit(repo, *body, branch="next")
    assert hub.content(hub.meta.resolve(repo, "next").oid)["a"] == b"1"


README = """---
language: [en, de]
license: apache-2.0
library_name: hubtool
pipeline_tag: image-classification
tags: [Axon, vision, Axon]
datasets: ILSVRC/imagenet-1k
base_model: [a/b]
---
# ResNet
"""


def test_the_readme_of_main_is_the_card_and_gives_the_tags(hub: Hub, repo: Repo) -> None:
    hub.commit(repo, header(), file("README.md", README.encode()))
    found = hub.meta.repo(repo.name)
    assert found.card["license"] == "apache-2.0"
    assert (found.pipeline_tag, found.library) == ("image-classification", "hubtool")
    assert found.tags == [
        *["Axon", "vision", "hubtool", "image-classification", "en", "de"],
        *["dataset:ILSVRC/imagenet-1k", "base_model:a/b", "license:apache-2.0"],
    ]
    hub.commit(repo, header(), file("other", b"1"))
    assert hub.meta.repo(repo.name).card == found.card
    blob = hub.keep(b"---\ntags: [Elixir]\n---\n")
    hub.commit(repo, header(), lfs("README.md", blob.sha256, size=blob.size))
    assert hub.meta.repo(repo.name).tags == ["Elixir"]
    hub.commit(repo, header(), line("deletedFile", path="README.md"))
    gone = hub.meta.repo(repo.name)
    assert (gone.card, gone.tags, gone.library) == ({}, [], None)


@pytest.mark.parametrize(
    "readme",
    [
        b"",
        b"# no header",
        b"---\ntags: [a\n---\n",
        b"---\n- a\n---\n",
        b"\xff\xfe",
        b"---\na: &x [1]\nb: *x\n---\n",
        b"---\na: " + b"[" * 100_000,
        b"---\na: " + b"[" * 100_000 + b"]" * 100_000 + b"\n---\n",
        b"---\na: " + b"x" * 3_000_000 + b"\n---\n",
        b'---\na: "\\ud800"\n---\n',
        b"---\na: 1\x00\n---\n",
    ],
    ids=range(11),
)
def test_a_readme_with_a_broken_header_is_stored_and_gives_no_card(
    hub: Hub, repo: Repo, readme: bytes
) -> None:
    hub.commit(repo, header(), file("README.md", b"---\ntags: [Axon]\n---\n"))
    commit = hub.commit(repo, header(), file("README.md", readme))
    assert hub.content(commit.oid)["README.md"] == readme
    found = hub.meta.repo(repo.name)
    assert (found.card, found.tags) == ({}, [])


def test_a_long_readme_is_cut_between_its_letters(hub: Hub, repo: Repo) -> None:
    text = "---\ntags: [Axon]\n---\n" + "é" * commits.README_BYTES
    for readme in (text, "x" + text, "\ufeff" + text):
        hub.commit(repo, header(), file("README.md", readme.encode()))
        assert hub.meta.repo(repo.name).tags == ([] if readme[0] == "x" else ["Axon"])


def test_a_file_against_a_folder_that_stands_is_a_400(hub: Hub, repo: Repo) -> None:
    head = hub.commit(repo, header(), file("a/b", b"1"), file("a/c", b"1"))
    for path, clash in [("a", "'a/b': 'a' is a file"), ("a/b/c", "'a/b/c': 'a/b' is a file")]:
        with pytest.raises(Refusal, match=f"line 2, {clash}") as caught:
            hub.commit(repo, header(), file(path, b"2"))
        assert caught.value.status == 400
    assert hub.meta.resolve(repo, "main") == head


def test_a_full_disk_is_a_507_and_nothing_of_the_commit_is_seen(
    hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(Refusal) as caught:
        patched.setattr(os, "fsync", full)
        hub.commit(repo, header(), file("a", b"1"), file("b", b"x" * 100_000))
    assert caught.value.status == 507
    assert hub.meta.repo(repo.name) == repo
    assert hub.temporaries() == []
