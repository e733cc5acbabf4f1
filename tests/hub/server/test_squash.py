"""A branch made one commit, large files taken out of all of them; and what stays whole by that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.hub.server import meta_rewrite
from hubtool.hub.server.audit import Actor, entries
from hubtool.hub.server.check import check
from hubtool.hub.server.collect import collect
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.meta import Repo
from hubtool.hub.server.reindex import rebuild

from .bodies import Hub, file, header, lfs

BY = Actor("ann")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    """A repository with three commits on main, and `dev` at the second."""
    repo = hub.meta.create("axon/resnet")
    second = hub.commit(repo, header("second"), file("a", b"a"))
    hub.meta.create_ref(repo, "branch", "dev", second.oid)
    hub.commit(repo, header("third"), file("b", b"b"))
    return repo


def titles(hub: Hub, repo: Repo, revision: str = "main") -> list[str]:
    head = hub.meta.resolve(repo, revision).oid
    return [commit.title for commit in hub.meta.log(repo, head, limit=100)]


def sound(hub: Hub) -> bool:
    """Whether fsck finds nothing, and the same database can be made from the journal."""
    assert check(hub.root).problems == []
    hub.meta.close()
    rebuild(hub.root)
    assert check(hub.root).problems == []
    return True


def test_a_branch_becomes_one_commit_with_the_files_that_it_had(hub: Hub, repo: Repo) -> None:
    before = hub.content(hub.meta.resolve(repo, "main").oid)
    commit = meta_rewrite.squash(hub.meta, repo, "main", "all of it\n\nin one", by=BY)
    assert (commit.title, commit.message, commit.parent) == ("all of it", "in one", None)
    assert commit.author == "ann"
    assert hub.meta.resolve(repo, "main") == commit
    assert titles(hub, repo) == ["all of it"]
    assert hub.content(commit.oid) == before
    assert hub.meta.repo(repo.name).modified == commit.date


def test_commits_that_another_ref_reaches_stay_and_the_rest_goes(hub: Hub, repo: Repo) -> None:
    third, second = hub.meta.log(repo, repo_head(hub, repo), limit=2)
    meta_rewrite.squash(hub.meta, repo, "main", "one", by=BY)
    assert titles(hub, repo, "dev") == ["second", "initial commit"]
    assert hub.meta.resolve(repo, second.oid[:10]) == second
    with pytest.raises(Refusal) as caught:
        hub.meta.resolve(repo, third.oid)
    assert (caught.value.status, caught.value.code) == (404, "RevisionNotFound")
    assert sound(hub)


def repo_head(hub: Hub, repo: Repo) -> str:
    return hub.meta.resolve(repo, "main").oid


def test_what_a_deleted_branch_left_goes_too_since_its_parents_do(hub: Hub, repo: Repo) -> None:
    left = hub.commit(repo, header("left"), file("c", b"c"), branch="dev")
    hub.meta.delete_ref(repo, "branch", "dev")
    assert hub.meta.resolve(repo, left.oid) == left
    meta_rewrite.squash(hub.meta, repo, "main", "one", by=BY)
    with pytest.raises(Refusal):
        hub.meta.resolve(repo, left.oid)
    with hub.meta.reading() as db:
        trees = "SELECT id FROM trees EXCEPT SELECT tree FROM commits"
        assert db.execute(trees).fetchall() == [], "lists of files go with them"
    assert sound(hub)


def test_squashing_again_is_the_same_commit_and_another_message_a_new_one(
    hub: Hub, repo: Repo
) -> None:
    once = meta_rewrite.squash(hub.meta, repo, "main", "one", by=BY)
    assert meta_rewrite.squash(hub.meta, repo, "main", "one", by=BY) == once
    other = meta_rewrite.squash(hub.meta, repo, "main", "two", by=BY)
    assert titles(hub, repo) == ["two"] and other.oid != once.oid
    with hub.meta.reading() as db:
        noted = [event.detail["former"] for event in entries(db, action="repo.squash")]
    assert noted[0] == once.oid and len(noted) == 2


def test_a_commit_that_comes_again_after_the_squash_is_not_taken_for_done(
    hub: Hub, repo: Repo
) -> None:
    parent = hub.meta.resolve(repo, "main").oid
    lines = (header("late", parentCommit=parent), file("late", b"late"))
    late = hub.commit(repo, *lines)
    hub.meta.create_ref(repo, "tag", "v1", late.oid)
    assert hub.commit(repo, *lines) == late
    meta_rewrite.squash(hub.meta, repo, "main", "one", by=BY)
    with pytest.raises(Refusal) as caught:
        hub.commit(repo, *lines)
    assert caught.value.status == 412
    following = hub.commit(repo, header("next"), file("d", b"d"))
    assert titles(hub, repo) == ["next", "one"]
    assert hub.meta.resolve(repo, "main") == following


@pytest.mark.parametrize(("name", "status"), [("none", 404), ("v1", 400)])
def test_only_a_branch_can_be_squashed(hub: Hub, repo: Repo, name: str, status: int) -> None:
    hub.meta.create_ref(repo, "tag", "v1", repo_head(hub, repo))
    with pytest.raises(Refusal) as caught:
        meta_rewrite.squash(hub.meta, repo, name, "one", by=BY)
    assert caught.value.status == status
    assert titles(hub, repo) == ["third", "second", "initial commit"]


def weights(hub: Hub, repo: Repo, content: bytes, path: str, branch: str = "main") -> str:
    """A large file is committed; its sha256."""
    blob = hub.keep(content)
    hub.commit(repo, header(f"add {path}"), lfs(path, blob.sha256), branch=branch)
    return blob.sha256


def test_large_files_are_listed_once_with_where_they_came_first(hub: Hub, repo: Repo) -> None:
    first = weights(hub, repo, b"first", "w.bin")
    second = weights(hub, repo, b"second", "w.bin")
    weights(hub, repo, b"first", "again.bin", branch="dev")
    found = {one.sha256: one for one in meta_rewrite.large_files(hub.meta, repo)}
    assert set(found) == {first, second}
    assert (found[first].path, found[first].branch, found[first].size) == ("w.bin", "main", 5)
    assert hub.meta.create("axon/other") and not meta_rewrite.large_files(
        hub.meta, hub.meta.repo("axon/other")
    )


def test_a_large_file_is_taken_out_of_every_commit_of_every_ref(hub: Hub, repo: Repo) -> None:
    before = hub.meta.resolve(repo, "main")
    gone = weights(hub, repo, b"gone", "w.bin")
    hub.meta.create_ref(repo, "tag", "v1", repo_head(hub, repo))
    kept = weights(hub, repo, b"kept", "w.bin")
    last = hub.meta.resolve(repo, "main")
    assert meta_rewrite.remove_large(hub.meta, repo, [gone, "0" * 64], by=BY) == 1
    now = hub.meta.resolve(repo, "main")
    assert (now.title, now.date, now.oid == last.oid) == (last.title, last.date, False)
    assert titles(hub, repo) == ["add w.bin", "add w.bin", "third", "second", "initial commit"]
    assert hub.content(now.oid)["w.bin"] == b"kept"
    assert sorted(hub.content(hub.meta.resolve(repo, "v1").oid)) == [".gitattributes", "a", "b"]
    assert hub.meta.resolve(repo, before.oid) == before, "what held none of it stays as it is"
    with pytest.raises(Refusal):
        hub.meta.resolve(repo, last.oid)
    assert [one.sha256 for one in meta_rewrite.large_files(hub.meta, repo)] == [kept]
    assert meta_rewrite.remove_large(hub.meta, repo, [gone], by=BY) == 0
    assert sound(hub)
    assert collect(hub.root, grace_s=0).contents == 1 and not hub.store.has(gone)


def test_other_models_keep_a_large_file_that_goes_from_one(hub: Hub, repo: Repo) -> None:
    name = weights(hub, repo, b"shared", "w.bin")
    other = hub.meta.create("axon/other")
    hub.commit(other, header(), lfs("w.bin", name))
    meta_rewrite.remove_large(hub.meta, repo, [name], by=BY)
    assert hub.content(hub.meta.resolve(other, "main").oid)["w.bin"] == b"shared"
    assert sound(hub)


def test_a_card_that_goes_as_a_large_file_is_forgotten(hub: Hub, repo: Repo) -> None:
    card = b"---\ntags: [Axon]\n---\n"
    name = weights(hub, repo, card, "README.md")
    assert hub.meta.repo(repo.name).tags == ["Axon"]
    meta_rewrite.remove_large(hub.meta, repo, [name], by=BY)
    assert (hub.meta.repo(repo.name).tags, hub.meta.repo(repo.name).card) == ([], {})
