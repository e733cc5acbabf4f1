"""Repositories, refs and histories: what is there, what is refused, and who may share them."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.errors import HubError
from hubtool.hub.server import index
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.meta import Meta, Repo
from hubtool.hub.server.meta_database import VERSION, Database

from .bodies import Hub, file, git_oid, header, lfs

BAD_NAMES = r"/ a/ /a a/b/c a//b -a a- .a a. a--b a..b a.git a/b.git .. ../a a/.. a\b a%b a:b é"
BAD_REFS = r"/a a/ a//b .a a/.b a.lock a.lock/b a..b a~b a^b a:b a?b a*b a[b a\b a@{b a. @ abcdef0"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.meta.create("axon/resnet", by=Actor("ann"))


def test_a_new_repository_holds_the_lfs_patterns(hub: Hub, repo: Repo) -> None:
    commit = hub.meta.resolve(repo, "main")
    assert (repo.name, repo.private, repo.head) == ("axon/resnet", False, commit.oid)
    assert (commit.parent, commit.title, commit.author) == (None, "initial commit", "ann")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", repo.created)
    assert repo.created == repo.modified
    assert (repo.tags, repo.card, repo.pipeline_tag, repo.library) == ([], {}, None, None)
    content = hub.content(commit.oid)
    assert list(content) == [".gitattributes"]
    for pattern in (b"*.safetensors", b"*.onnx", b"*.bin"):
        assert pattern + b" filter=lfs diff=lfs merge=lfs -text\n" in content[".gitattributes"]
    assert hub.meta.repo("axon/resnet") == repo


def test_a_name_is_given_once_and_free_again_after_its_deletion(hub: Hub, repo: Repo) -> None:
    with pytest.raises(Refusal, match="'axon/resnet' already") as caught:
        hub.meta.create("axon/resnet")
    assert caught.value.status == 409
    hub.meta.delete("axon/resnet")
    assert hub.meta.create("axon/resnet").id != repo.id
    assert hub.meta.create("gpt2", private=True).private


@pytest.mark.parametrize("name", ["a", "gpt2", "axon/resnet34-v1", "A_b.c/d-e", "a" * 96])
def test_a_name_that_the_hub_would_take(hub: Hub, name: str) -> None:
    assert hub.meta.create(name).name == name


@pytest.mark.parametrize(
    "name",
    [*BAD_NAMES.split(), "", "a b", "a\n", "a\0", "a" * 97, "a/" + "b" * 97],
)
def test_a_name_that_the_hub_would_refuse(hub: Hub, name: str) -> None:
    with pytest.raises(Refusal, match="cannot be a repository's name") as caught:
        hub.meta.create(name)
    assert caught.value.status == 400


@pytest.mark.parametrize("call", ["repo", "delete", "set_private"])
def test_an_unknown_repository_is_a_404(hub: Hub, call: str) -> None:
    arguments = ["axon/none", True] if call == "set_private" else ["axon/none"]
    with pytest.raises(Refusal) as caught:
        getattr(hub.meta, call)(*arguments)
    assert (caught.value.status, caught.value.code) == (404, "RepoNotFound")


def test_hidden_and_shown_again(hub: Hub, repo: Repo) -> None:
    hub.meta.set_private(repo.name, True)
    assert hub.meta.repo(repo.name).private
    hub.meta.set_private(repo.name, False)
    assert not hub.meta.repo(repo.name).private


def test_a_download_is_counted(hub: Hub, repo: Repo) -> None:
    hub.meta.count_download(repo)
    hub.meta.count_download(repo)
    assert hub.meta.repo(repo.name).downloads == 2


def test_a_count_that_cannot_be_kept_is_lost_without_an_error(
    hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubtool.hub.server.meta_database.COUNT_WAIT_MS", 10)
    with hub.meta.writing():  # everybody else must wait now
        hub.meta.count_download(repo)
    assert hub.meta.repo(repo.name).downloads == 0


def test_what_waits_too_long_for_another_writer_is_a_503(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubtool.hub.server.meta_database.WAIT_MS", 10)
    with (
        hub.meta.writing(),
        pytest.raises(Refusal, match="try again") as caught,
        hub.meta.writing(),
    ):
        pass
    assert caught.value.status == 503


def test_a_revision_is_a_branch_a_tag_an_oid_or_its_beginning(hub: Hub, repo: Repo) -> None:
    first = hub.meta.resolve(repo, "main")
    second = hub.commit(repo, header(), file("a", b"1"))
    hub.meta.create_ref(repo, "branch", "next/step", first.oid)
    hub.meta.create_ref(repo, "tag", "v1.0", first.oid)
    for revision in ("next/step", "v1.0", first.oid, first.oid[:7]):
        assert hub.meta.resolve(repo, revision) == first
    for revision in ("main", second.oid, second.oid[:12]):
        assert hub.meta.resolve(repo, revision) == second


@pytest.mark.parametrize(
    "revision", ["", "none", "f" * 40, "f" * 7, "MAIN", "main\0", "main/", "%"]
)
def test_an_unknown_revision_is_a_404(hub: Hub, repo: Repo, revision: str) -> None:
    with pytest.raises(Refusal) as caught:
        hub.meta.resolve(repo, revision)
    assert (caught.value.status, caught.value.code) == (404, "RevisionNotFound")


def test_half_a_letter_is_a_400(hub: Hub, repo: Repo) -> None:
    with pytest.raises(Refusal, match="not Unicode") as caught:
        hub.meta.resolve(repo, "\ud800")
    assert caught.value.status == 400


def test_six_digits_and_what_several_commits_begin_with_are_no_revision(
    hub: Hub, repo: Repo
) -> None:
    with pytest.raises(Refusal):
        hub.meta.resolve(repo, repo.head[:6])
    with hub.meta.writing() as db:
        db.execute(
            "INSERT INTO commits SELECT substr(oid, 1, 39) || 'z', repo, parent, tree, title,"
            " message, author, date, branch, digest FROM commits"
        )
    assert hub.meta.resolve(repo, repo.head).oid == repo.head
    with pytest.raises(Refusal):
        hub.meta.resolve(repo, repo.head[:20])


def test_a_commit_belongs_to_its_repository(hub: Hub, repo: Repo) -> None:
    other = hub.meta.create("axon/other")
    with pytest.raises(Refusal):
        hub.meta.resolve(other, repo.head)
    with pytest.raises(Refusal):
        hub.meta.create_ref(other, "tag", "v1", repo.head)
    with pytest.raises(Refusal):
        hub.meta.log(other, repo.head, limit=1)


def test_files_are_sorted_and_name_their_content(hub: Hub, repo: Repo) -> None:
    blob = hub.keep(b"weights")
    commit = hub.commit(
        repo, header(), file("b/é", b"1"), file("B", b""), lfs("a.bin", blob.sha256, size=7)
    )
    entries = hub.meta.files(commit.oid)
    assert [entry.path for entry in entries] == [".gitattributes", "B", "a.bin", "b/é"]
    assert [entry.lfs for entry in entries] == [False, False, True, False]
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 7\n"
    assert entries[2].oid == git_oid(pointer % blob.sha256.encode())
    assert (entries[2].sha256, entries[2].size) == (blob.sha256, 7)
    assert entries[3].oid == git_oid(b"1")
    assert hub.meta.entry(commit.oid, "b/é") == entries[3]
    for path in ("b", "b/", "", "none", "a.bin\0"):
        assert hub.meta.entry(commit.oid, path) is None
    assert hub.meta.files("f" * 40) == []
    assert hub.meta.entry("f" * 40, "B") is None


def test_the_log_comes_in_pages_without_a_gap(hub: Hub, repo: Repo) -> None:
    oids = [repo.head]
    for number in range(5):
        oids.insert(0, hub.commit(repo, header(str(number)), file("a", b"%d" % number)).oid)
    assert [commit.oid for commit in hub.meta.log(repo, oids[0], limit=99)] == oids
    pages, before = [], None
    while page := hub.meta.log(repo, oids[0], limit=2, before=before):
        pages += [commit.oid for commit in page]
        before = page[-1].oid
    assert pages == oids
    assert [commit.oid for commit in hub.meta.log(repo, oids[3], limit=2)] == oids[3:5]


def test_refs_come_and_go(hub: Hub, repo: Repo) -> None:
    hub.meta.create_ref(repo, "tag", "v1", repo.head)
    hub.meta.create_ref(repo, "branch", "v1", repo.head)
    with pytest.raises(Refusal) as caught:
        hub.meta.create_ref(repo, "branch", "v1", repo.head)
    assert caught.value.status == 409
    both = {"branches": [("main", repo.head), ("v1", repo.head)], "tags": [("v1", repo.head)]}
    assert hub.meta.refs(repo) == both
    hub.meta.delete_ref(repo, "branch", "v1")
    assert hub.meta.refs(repo) == {"branches": [("main", repo.head)], "tags": [("v1", repo.head)]}
    with pytest.raises(Refusal) as caught:
        hub.meta.delete_ref(repo, "branch", "v1")
    assert (caught.value.status, caught.value.code) == (404, "RevisionNotFound")
    with pytest.raises(Refusal, match="'main' cannot be deleted"):
        hub.meta.delete_ref(repo, "branch", "main")


@pytest.mark.parametrize(
    "name",
    [*BAD_REFS.split(), "", "a b", "a\n", "a\0b", "a\x7f", "a" * 256, "é" * 128, "0" * 40],
)
def test_a_ref_that_git_would_refuse(hub: Hub, repo: Repo, name: str) -> None:
    with pytest.raises(Refusal, match="cannot be the name") as caught:
        hub.meta.create_ref(repo, "branch", name, repo.head)
    assert caught.value.status == 400


def test_a_deleted_repository_leaves_no_row_and_takes_no_other_with_it(
    hub: Hub, repo: Repo
) -> None:
    other = hub.meta.create("axon/other")
    readme = file("README.md", b"---\ntags: [Axon, b]\n---\n")
    for one in (repo, other):
        hub.commit(one, header(), readme, file("same", b"same"))
    hub.commit(repo, header(), file("own", b"own"))
    hub.meta.create_ref(repo, "tag", "v1", repo.head)
    hub.meta.delete(repo.name)
    for call in (
        lambda: hub.meta.create_ref(repo, "tag", "v2", repo.head),
        lambda: hub.meta.delete_ref(repo, "tag", "v1"),
        lambda: hub.commit(repo, header(), file("late", b"late")),
    ):
        with pytest.raises(Refusal) as caught:
            call()
        assert caught.value.code == "RepoNotFound"
    assert set(hub.content(hub.meta.repo(other.name).head)) == {
        ".gitattributes",
        "README.md",
        "same",
    }
    hub.meta.delete(other.name)
    with hub.meta.reading() as db:
        tables = [
            name
            for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            if not name.startswith(("sqlite_", "words_"))
            and name not in ("audit", "journal", "grams")
        ]
        history = {"trees", "entries", "commits", "refs"}
        assert {"repos", "cards", "labels", "tagged", "texts", "words"} | history <= set(tables)
        for table in tables:
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_many_threads_share_one_meta(hub: Hub) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            repo = hub.meta.create(f"axon/m{number}")
            for turn in range(3):
                hub.commit(repo, header(), file("f", b"%d %d" % (number, turn)))
                hub.meta.count_download(repo)
            assert hub.content(hub.meta.repo(repo.name).head)["f"] == b"%d 2" % number
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found, _ = index.search(hub.meta, query="axon/m")
    assert sorted(repo.name for repo in found) == [f"axon/m{number}" for number in range(8)]
    assert all(repo.downloads == 3 for repo in found)


def test_a_reader_sees_one_state_while_others_write(hub: Hub, repo: Repo) -> None:
    with hub.meta.reading() as db:
        count = "SELECT count(*) FROM commits"
        before = db.execute(count).fetchone()
        hub.commit(repo, header(), file("a", b"1"))
        assert db.execute(count).fetchone() == before
    with hub.meta.reading() as db:
        assert db.execute(count).fetchone() == (before[0] + 1,)


def test_a_failed_transaction_changes_nothing_and_the_connection_is_good(hub: Hub) -> None:
    with pytest.raises(ArithmeticError), hub.meta.writing() as db:
        db.execute("INSERT INTO trees(hash) VALUES ('x')")
        raise ArithmeticError
    with hub.meta.writing() as db:
        assert db.execute("SELECT count(*) FROM trees").fetchone() == (0,)


def test_a_full_database_is_a_507_and_changes_nothing(hub: Hub, repo: Repo) -> None:
    with hub.meta.writing() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Refusal, match="disk is full") as caught:
        hub.commit(repo, header("big" * 9999), file("a", b"1"))
    assert caught.value.status == 507
    assert hub.meta.repo(repo.name) == repo
    with hub.meta.writing() as db:
        db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert hub.commit(repo, header("big" * 9999), file("a", b"1")).parent == repo.head


def test_what_was_written_is_there_for_the_next_process(hub: Hub, repo: Repo) -> None:
    hub.meta.close()
    again = Meta(hub.root)
    assert again.repo(repo.name) == repo
    again.close()


def test_the_database_waits_for_the_disk_and_lets_readers_beside_the_writer(hub: Hub) -> None:
    hub.meta.count_download(hub.meta.create("a"))  # leaves no connection that is careless
    with hub.meta.reading() as db:
        found = [
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "busy_timeout", "user_version")
        ]
    assert found == ["wal", 2, 30_000, VERSION]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Database(tmp_path / "hub.db").close()
    with sqlite3.connect(tmp_path / "hub.db") as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(HubError, match=f"schema {VERSION + 1}") as caught:
        Meta(tmp_path)
    assert "update hubtool" in caught.value.hint


def test_a_foreign_database_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "hub.db") as connection:
        connection.execute("CREATE TABLE other(x)")
    connection.close()
    with pytest.raises(HubError, match="not one of a hub"):
        Meta(tmp_path)
    (tmp_path / "hub.db").write_bytes(hashlib.sha512(b"noise").digest() * 100)
    with pytest.raises(HubError, match="cannot be used"):
        Meta(tmp_path)


def test_a_place_that_cannot_hold_a_hub_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "hub.db").mkdir()
    (tmp_path / "file").touch()
    for root in (tmp_path, tmp_path / "file"):
        with pytest.raises(HubError, match="cannot be used") as caught:
            Meta(root)
        assert "Name another folder" in caught.value.hint


def test_a_connection_left_in_a_transaction_is_not_lent_again(tmp_path: Path) -> None:
    database = Database(tmp_path / "hub.db")
    with pytest.raises(sqlite3.OperationalError), database.careless() as db:
        db.execute("BEGIN IMMEDIATE")
    with database.writing() as db:
        db.execute("INSERT INTO trees(hash) VALUES ('x')")
    database.close()
