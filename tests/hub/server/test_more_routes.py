"""Likes, accounts, tags by their kind, large files and squashing: as the official client asks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hubtool.hub.server import meta_likes, routes_tags
from hubtool.hub.server.accounts import LOCAL
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.index import tags_of
from hubtool.hub.server.meta import put_card
from hubtool.hub.server.run import Background

from .bodies import Hub
from .conftest import Client, ClientError, Repo, ask, file, large
from .people import People, names

BY = Actor("shell:test")


@pytest.fixture(scope="module")
def client(url: str, new_client: Callable[..., Client]) -> Client:
    return new_client(url, HF_TOKEN="hf_any")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """ann and bob in axon, eve outside; a public and a private model."""
    people = People(tmp_path_factory.mktemp("people"))
    people.accounts.add_org("axon", fullname="Axon models", by=BY)
    people.accounts.add_user("ann", fullname="Ann Axon", by=BY)
    people.accounts.set_member("axon", "ann", "write", by=BY)
    people.token("ann", "ann", "write")
    people.token("ann-reads", "ann", "read")
    people.token("ann-there", "ann", "write", ["axon/other"])
    people.user("bob", axon="read")
    people.user("eve")
    people.plant("axon/public")
    people.plant("axon/hidden", private=True)
    yield people
    people.close()


def test_a_user_likes_a_model_once_and_its_count_follows(people: People) -> None:
    def likes() -> int:
        return int(people.ask("GET", "/api/models/axon/public").data["likes"])

    path = "/api/models/axon/public/like"
    assert people.ask("POST", path).status == 401
    for who, count in (("ann", 1), ("ann", 1), ("eve", 2)):
        assert people.ask("POST", path, by=who).data == {"success": True, "likes": count}
    assert likes() == 2
    people.plant("axon/unliked")
    listed = people.ask("GET", "/api/models?sort=likes&limit=1")
    assert names(listed) == ["axon/public"]
    for who, count in (("eve", 1), ("eve", 1), ("ann", 0), ("bob", 0)):
        assert people.ask("DELETE", path, by=who).data["likes"] == count == likes()


def test_a_token_that_only_reads_or_is_for_others_likes_nothing(people: People) -> None:
    for who in ("ann-reads", "ann-there"):
        answer = people.ask("POST", "/api/models/axon/public/like", by=who)
        assert (answer.status, f"'{who}'" in answer.message) == (403, True)
    assert people.ask("POST", "/api/models/axon/hidden/like", by="eve").status == 404


def test_a_removed_user_likes_nothing_any_more(people: People) -> None:
    people.user("gone")
    people.ask("POST", "/api/models/axon/public/like", by="gone")
    assert people.ask("GET", "/api/models/axon/public").data["likes"] == 1
    people.accounts.remove_user("gone", by=BY)
    assert people.ask("GET", "/api/models/axon/public").data["likes"] == 0


def test_likes_are_told_as_far_as_whoever_asks_may_see(people: People) -> None:
    for model in ("public", "hidden"):
        assert people.ask("POST", f"/api/models/axon/{model}/like", by="bob").status == 200
    liked = {
        who: [one["repo"]["name"] for one in people.ask("GET", "/api/users/bob/likes", by=who).data]
        for who in ("ann", "eve")
    }
    assert liked == {"ann": ["axon/hidden", "axon/public"], "eve": ["axon/public"]}


def test_pages_of_likes_have_neither_gap_nor_repeat(hub: Hub) -> None:
    repos = [hub.meta.create(f"axon/m{number}") for number in range(7)]
    for repo in repos:
        for user in ("ann", "Bob"):
            meta_likes.set_like(hub.meta, repo, user, likes=True)
    with hub.meta.writing() as db:
        db.execute("UPDATE likes SET date = '2026-01-01T00:00:00.000Z' WHERE repo > 3")

    def walked(page: Callable[[str | None], list[meta_likes.Like]]) -> list[tuple[str, str]]:
        found: list[meta_likes.Like] = []
        while some := page(found[-1].cursor if found else None):
            found += some
        return [(one.repo, one.user) for one in found]

    liked = walked(lambda at: meta_likes.liked(hub.meta, "bob", LOCAL, limit=2, before=at))
    assert sorted(liked) == [(repo.name, "Bob") for repo in repos]
    assert liked[0][0] in {repo.name for repo in repos if repo.id <= 3}, "the newest first"
    likers = walked(lambda at: meta_likes.likers(hub.meta, repos[0], limit=1, before=at))
    assert sorted(likers) == [(repos[0].name, "Bob"), (repos[0].name, "ann")]


@pytest.mark.parametrize("cursor", ["x", "x+y", "%00", "2026+a+b+c", "%F0%9F%98%80"])
def test_a_cursor_from_elsewhere_finds_no_more_than_a_page(repo: Repo, cursor: str) -> None:
    for rest in ("/likers", "/lfs-files"):
        answer = repo.ask("GET", f"{rest}?cursor={cursor}")
        assert (answer.status, answer.data) == (200, [])


def test_the_official_client_likes_and_lists(url: str, client: Client, repo: Repo) -> None:
    assert repo.ask("POST", "/like").status == 200
    (liker,) = client("list_repo_likers", repo.name)
    assert (liker["username"], liker["fullname"]) == ("local", "local")
    liked = client("list_liked_repos")
    assert (liked["user"], repo.name in liked["models"]) == ("local", True)
    client("unlike", repo.name)
    assert repo.name not in client("list_liked_repos")["models"]
    assert client("list_repo_likers", repo.name) == []
    with pytest.raises(ClientError) as caught:
        client("unlike", "axon/none")
    assert "RepositoryNotFoundError" in caught.value.names


def test_accounts_are_described_to_those_who_have_one(people: People) -> None:
    user = people.ask("GET", "/api/users/ANN/overview", by="eve").data
    assert (user["user"], user["fullname"], user["type"]) == ("ann", "Ann Axon", "user")
    assert user["orgs"] == [{"name": "axon", "fullname": "Axon models", "avatarUrl": ""}]
    org = people.ask("GET", "/api/organizations/axon/overview", by="eve").data
    assert (org["fullname"], org["numUsers"]) == ("Axon models", 2)
    assert org["numModels"] == len(people.ask("GET", "/api/models?author=axon").data)
    members = people.ask("GET", "/api/organizations/axon/members?limit=1", by="eve")
    assert [one["user"] for one in members.data] == ["ann"]
    following = members.headers["link"].partition(">")[0].partition("127.0.0.1")[2]
    assert [one["user"] for one in people.ask("GET", following, by="eve").data] == ["bob"]
    for path in ("users/axon/overview", "organizations/ann/overview", "users/none/likes"):
        assert people.ask("GET", f"/api/{path}", by="eve").status == 404
        assert people.ask("GET", f"/api/{path}").status == 401


def test_the_official_client_reads_who_there_is(
    tmp_path: Path, new_client: Callable[..., Client]
) -> None:
    people = People(tmp_path)
    people.accounts.add_org("axon", fullname="Axon models", by=BY)
    people.accounts.add_user("ann", fullname="Ann Axon", by=BY)
    people.accounts.set_member("axon", "ann", "write", by=BY)
    people.token("ann", "ann", "read")
    people.plant("axon/gated", gated="manual")
    people.user("eve")
    people.close()
    with Background(tmp_path) as url:
        client = new_client(url, HF_TOKEN=people.tokens["ann"])
        user = client("get_user_overview", "ann")
        assert (user["username"], user["fullname"]) == ("ann", "Ann Axon")
        assert [org["name"] for org in user["orgs"]] == ["axon"]
        org = client("get_organization_overview", "axon")
        assert (org["fullname"], org["num_users"], org["num_models"]) == ("Axon models", 1, 1)
        (member,) = client("list_organization_members", "axon")
        assert member["username"] == "ann"
        assert client("auth_check", "axon/gated") is None
        for call, kind in {
            (("axon/gated",), "GatedRepoError"),
            (("axon/none",), "RepositoryNotFoundError"),
        }:
            with pytest.raises(ClientError) as caught:
                client("auth_check", *call, token=people.tokens["eve"])
            assert kind in caught.value.names
        with pytest.raises(ClientError, match="403"):
            client("auth_check", "axon/gated", write=True)


def test_whoever_may_read_and_write_is_told_so(client: Client, repo: Repo) -> None:
    assert client("auth_check", repo.name) is None
    assert client("auth_check", repo.name, write=True) is None


def model(hub: Hub, name: str, private: bool = False, **card: Any) -> None:
    repo = hub.meta.create(name, private=private)
    with hub.meta.writing() as db:
        put_card(db, repo.id, card, tags_of(card))


def test_tags_are_told_by_what_the_cards_use_them_for(hub: Hub) -> None:
    model(
        hub,
        "a/one",
        tags=["Axon", "vision"],
        pipeline_tag="image-classification",
        library_name="hubtool",
        language=["en", "de"],
        license="mit",
        datasets=["ILSVRC/imagenet-1k"],
        base_model="a/base",
        arxiv="1512.03385",
    )
    model(hub, "a/two", tags=["vision"], language="fr", odd=float("nan"))
    model(hub, "a/secret", private=True, tags=["project-x"], license="license-x", language="x")
    found = routes_tags.by_type(hub.meta)
    told = {kind: [one["id"] for one in tags] for kind, tags in found.items()}
    assert told == {
        "arxiv": ["arxiv:1512.03385"],
        "base_model": ["base_model:a/base"],
        "dataset": ["dataset:ILSVRC/imagenet-1k"],
        "license": ["license:mit"],
        "pipeline_tag": ["image-classification"],
        "library": ["hubtool"],
        "language": ["de", "en"],
        "other": ["vision", "Axon", "fr"],
    }
    assert found["license"] == [{"id": "license:mit", "label": "mit", "type": "license"}]


def test_a_tag_is_told_where_one_of_many_is_public(hub: Hub, monkeypatch: Any) -> None:
    monkeypatch.setattr(routes_tags, "MOST", 2)
    for number in range(4):
        model(hub, f"a/{number}", private=number < 3, license=f"l{number % 2}", tags=["t"])
    told = routes_tags.by_type(hub.meta)
    assert [one["label"] for one in told["license"]] == ["l1"]
    assert [one["id"] for one in told["other"]] == ["t"]
    monkeypatch.setattr(routes_tags, "LOOKED_AT", 3)
    assert routes_tags.by_type(hub.meta)["other"] == []


def test_the_official_client_asks_for_the_tags_that_there_are(client: Client, repo: Repo) -> None:
    repo.commit(file("README.md", "---\nlicense: bsd-3-clause\n---\n"))
    tags = client("get_model_tags")
    assert {"id": "license:bsd-3-clause", "label": "bsd-3-clause", "type": "license"} in tags[
        "license"
    ]


def test_the_official_client_squashes(client: Client, repo: Repo) -> None:
    for number in range(3):
        repo.commit(file("a", str(number)))
    client("create_branch", repo.name, branch="feature/a")
    client("super_squash_history", repo.name, commit_message="all of it")
    assert [one["title"] for one in client("list_repo_commits", repo.name)] == ["all of it"]
    assert repo.get("a").body == b"2"
    client("super_squash_history", repo.name, branch="feature/a")
    commits = client("list_repo_commits", repo.name, revision="feature/a")
    assert [one["title"] for one in commits] == [
        "Super-squash branch 'feature/a' using huggingface_hub"
    ]
    for revision, kind in {"none": "RevisionNotFoundError", "v1": "BadRequestError"}.items():
        if revision == "v1":
            client("create_tag", repo.name, tag="v1")
        with pytest.raises(ClientError) as caught:
            client("super_squash_history", repo.name, branch=revision)
        assert kind in caught.value.names


def test_a_squash_without_a_body_has_a_message_of_its_own(repo: Repo) -> None:
    repo.commit(file("a", "a"))
    assert repo.ask("POST", "/super-squash/main").status == 200
    (commit,) = repo.ask("GET", "/commits/main").data
    assert commit["title"] == "Super-squash branch 'main'"
    assert repo.ask("POST", "/super-squash/main", {"message": "x" * 10_001}).status == 400


def test_a_squashed_history_is_not_taken_back_by_a_token_that_only_writes(
    people: People,
) -> None:
    people.user("boss", axon="admin")
    people.plant("axon/squashed")
    path = "/api/models/axon/squashed/super-squash/main"
    assert people.ask("POST", path, {}, by="ann").status == 403
    assert people.ask("POST", path, {}, by="boss").status == 200
    body = {"name": "axon/squashed"}
    assert people.ask("DELETE", "/api/repos/delete", body, by="ann").status == 403
    assert people.ask("DELETE", "/api/repos/delete", body, by="boss").status == 200


def test_the_official_client_lists_large_files_and_removes_them(client: Client, repo: Repo) -> None:
    for content in (b"one", b"two", b"three"):
        repo.upload(content)
        repo.commit(large("w.bin", content))
    found = client("list_lfs_files", repo.name)
    assert {(one["filename"], one["size"], one["ref"]) for one in found} == {
        ("w.bin", size, "refs/heads/main") for size in (3, 5)
    }
    dates = [datetime.fromisoformat(one["pushed_at"]) for one in found]
    assert dates == sorted(dates, reverse=True) and dates[0].tzinfo == UTC
    removed = [one["file_oid"] for one in found[:2]]
    with pytest.raises(ClientError, match="rewrite_history=True"):
        client("remove_lfs_files", repo.name, removed, rewrite_history=False)
    client("remove_lfs_files", repo.name, removed)
    (left,) = client("list_lfs_files", repo.name)
    assert left["file_oid"] == found[2]["file_oid"]
    assert repo.get("w.bin").status == 404, "it was the third, which is gone"
    assert len(repo.ask("GET", "/commits/main").data) == 4


def test_pages_of_large_files_have_neither_gap_nor_repeat(url: str, repo: Repo) -> None:
    contents = [f"weights {number}".encode() for number in range(5)]
    for content in contents:
        repo.upload(content)
    repo.commit(*(large(f"w{number}.bin", content) for number, content in enumerate(contents)))
    path, found = f"/api/models/{repo.name}/lfs-files?limit=2", []
    while path:
        answer = ask(url, "GET", path)
        found += [one["filename"] for one in answer.data]
        assert len(answer.data) in (1, 2)
        link = answer.headers.get("Link", "")
        path = link.partition(">")[0].removeprefix(f"<{url}")
    assert sorted(found) == [f"w{number}.bin" for number in range(5)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"deletions": []},
        {"deletions": {}},
        {"deletions": {"sha": "a"}},
        {"deletions": {"sha": ["a"]}},
        {"deletions": {"sha": [None]}},
        {"deletions": {"sha": ["0" * 64] * 1001}},
        {"deletions": {"sha": [], "rewriteHistory": 1}},
    ],
)
def test_what_names_no_large_files_is_refused(repo: Repo, body: dict[str, Any]) -> None:
    answer = repo.ask("POST", "/lfs-files/batch", body)
    assert answer.status == 400 and json.loads(answer.body)["error"]
