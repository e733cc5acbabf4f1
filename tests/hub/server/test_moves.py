"""A repository under another name: all of it is there, and the old name leads to it."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import hubtool
from hubtool.errors import HubError
from hubtool.hub.server import index, meta_likes, meta_moves, names
from hubtool.hub.server.app import ROUTES
from hubtool.hub.server.audit import Actor, entries
from hubtool.hub.server.check import check
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.meta import Repo
from hubtool.hub.server.redirects import moved
from hubtool.hub.server.reindex import rebuild
from hubtool.hub.server.run import Background

from .bodies import Hub, file, header
from .conftest import HF, Client, ClientError, ask, body_of, hf_environment, large
from .conftest import Repo as Served
from .conftest import file as sent
from .people import FILE, WEIGHTS, People

BY = Actor("ann")
BIG = 11_000_000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    repo = hub.meta.create("axon/resnet")
    hub.commit(repo, header("card"), file("README.md", b"---\ntags: [Axon]\n---\n"))
    return hub.meta.repo("axon/resnet")


def move(hub: Hub, old: str, new: str) -> Repo:
    meta_moves.move(hub.meta, hub.meta.repo(old), new, by=BY)
    return hub.meta.repo(new)


def leads(hub: Hub, name: str) -> str | None:
    found = meta_moves.former(hub.meta, name)
    return None if found is None else found.name


def test_all_that_a_repository_is_moves_along(hub: Hub, repo: Repo) -> None:
    hub.meta.create_ref(repo, "tag", "v1", repo.head)
    hub.meta.count_download(repo)
    meta_likes.set_like(hub.meta, repo, "ann", likes=True)
    before = hub.meta.repo(repo.name)
    after = move(hub, "axon/resnet", "nx/resnet-34")
    assert after.name == "nx/resnet-34"
    assert (after.id, after.head, after.created) == (before.id, before.head, before.created)
    assert (after.likes, after.downloads, after.tags) == (1, 1, ["Axon"])
    assert hub.meta.refs(after) == hub.meta.refs(before)
    assert len(hub.meta.log(after, after.head, limit=9)) == 2
    with pytest.raises(Refusal):
        hub.meta.repo("axon/resnet")
    with hub.meta.reading() as db:
        (event,) = entries(db, action="repo.move")
    assert (event.user, event.subject) == ("ann", "nx/resnet-34")
    assert event.detail == {"source": "axon/resnet"}


def test_searches_know_the_new_name_and_author_only(hub: Hub, repo: Repo) -> None:
    def found(**asked: Any) -> list[str]:
        return [one.name for one in index.search(hub.meta, **asked)[0]]

    move(hub, "axon/resnet", "nx/other")
    assert found(author="nx") == found(query="other") == found(filter=["Axon"]) == ["nx/other"]
    assert found(author="axon") == found(query="resnet") == []


def test_several_moves_make_no_chain_and_moving_back_ends_it(hub: Hub, repo: Repo) -> None:
    for old, new in [("axon/resnet", "a/b"), ("a/b", "c/d"), ("c/d", "e")]:
        move(hub, old, new)
    assert [leads(hub, name) for name in ("axon/resnet", "a/b", "c/d", "e")] == ["e"] * 3 + [None]
    move(hub, "e", "a/b")
    assert [leads(hub, name) for name in ("axon/resnet", "a/b", "c/d", "e")] == [
        *("a/b", None),
        *("a/b", "a/b"),
    ]
    with closing(sqlite3.connect(hub.root / "hub.db")) as db:
        assert db.execute("SELECT count(*) FROM moved").fetchone() == (3,)


def test_a_repository_made_or_moved_under_an_old_name_ends_its_way(hub: Hub, repo: Repo) -> None:
    move(hub, "axon/resnet", "axon/new")
    made = hub.meta.create("axon/resnet")
    assert leads(hub, "axon/resnet") is None and hub.meta.repo("axon/resnet").id == made.id
    move(hub, "axon/resnet", "axon/third")
    assert leads(hub, "axon/resnet") == "axon/third"
    hub.meta.delete("axon/third")
    assert leads(hub, "axon/resnet") is None, "it does not come back"


def test_a_deleted_repository_leaves_no_way_and_no_like(hub: Hub, repo: Repo) -> None:
    meta_likes.set_like(hub.meta, repo, "ann", likes=True)
    move(hub, "axon/resnet", "axon/new")
    hub.meta.delete("axon/new")
    with closing(sqlite3.connect(hub.root / "hub.db")) as db:
        assert db.execute("SELECT count(*) FROM moved").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM likes").fetchone() == (0,)


def test_moves_and_likes_come_back_from_the_journal(hub: Hub, repo: Repo) -> None:
    meta_likes.set_like(hub.meta, repo, "ann", likes=True)
    move(hub, "axon/resnet", "axon/new")
    move(hub, "axon/new", "axon/newer")
    hub.meta.close()
    assert check(hub.root).problems == []
    rebuild(hub.root)
    assert check(hub.root).problems == []
    again = Hub(hub.root)
    assert leads(again, "axon/resnet") == leads(again, "axon/new") == "axon/newer"
    assert again.meta.repo("axon/newer").likes == 1
    again.meta.close()


@pytest.mark.parametrize("name", ["axon/", "a/b/c", "a--b", "", "axon/a.git"])
def test_a_move_goes_only_where_a_repository_can_be(hub: Hub, repo: Repo, name: str) -> None:
    with pytest.raises(Refusal) as caught:
        move(hub, "axon/resnet", name)
    assert caught.value.status == 400
    assert hub.meta.repo("axon/resnet") == repo


def test_a_move_takes_nobodys_name_and_happens_once(hub: Hub, repo: Repo) -> None:
    hub.meta.create("axon/taken")
    with pytest.raises(Refusal, match="'axon/taken' already") as caught:
        move(hub, "axon/resnet", "axon/taken")
    assert caught.value.status == 409
    meta_moves.move(hub.meta, repo, "axon/new", by=BY)
    meta_moves.move(hub.meta, repo, "axon/new", by=BY)
    with pytest.raises(Refusal) as caught:
        meta_moves.move(hub.meta, repo, "axon/other", by=BY)
    assert caught.value.status == 404, "it was looked up before somebody else moved it"


@pytest.mark.parametrize(
    ("path", "query", "name", "location"),
    [
        ("/api/models/a/b", "", "a/b", "/api/models/new/name"),
        ("/a/b/tree/re%2Fv/x%20y", "a=%2F&b", "a/b", "/new/name/tree/re%2Fv/x%20y?a=%2F&b"),
        ("/api/models/%61/%62/refs", "", "a/b", "/api/models/new/name/refs"),
        ("/api/models/gpt2/refs", "", "gpt2", "/api/models/new/name/refs"),
        ("/a/b/resolve/main/a/b", "download=1", "a/b", "/new/name/resolve/main/a/b?download=1"),
        ("/a/b.git/info/lfs/objects/batch", "", "a/b", "/new/name.git/info/lfs/objects/batch"),
        ("/gpt2", "", "gpt2", "/new/name"),
        ("/a/b/raw/main/\xe9", "\xe9", "a/b", "/new/name/raw/main/%C3%A9?%C3%A9"),
    ],
)  # fmt: skip
def test_a_location_is_relative_and_only_the_name_in_it_is_new(
    path: str, query: str, name: str, location: str
) -> None:
    refusal = moved(path.encode(), query.encode(), name, "new/name")
    assert (refusal.status, refusal.headers) == (307, {"Location": location})


@pytest.fixture
def gone(repo_at: Callable[[str], Served], request: pytest.FixtureRequest) -> tuple[str, Served]:
    """The old name of a repository that was moved, and it."""
    repo = repo_at(hashlib.sha1(request.node.name.encode()).hexdigest()[:8])
    repo.commit(sent("README.md", "# It"), sent("a b/c", "content"))
    old, repo.name = repo.name, f"{repo.name}-new"
    answer = ask(repo.url, "POST", "/api/repos/move", {"fromRepo": old, "toRepo": repo.name})
    assert answer.status == 200, answer.body
    return old, repo


@pytest.fixture
def repo_at(url: str) -> Callable[[str], Served]:
    return lambda name: Served(url, f"axon/{name}")


def test_every_route_of_a_repository_leads_on_from_its_old_name(gone: tuple[str, Served]) -> None:
    old, repo = gone
    parts = {"rev": "main", "path": "a%20b/c", "status": "pending"}
    own = {"/{id}.git/info/lfs/objects/{oid}"}  # signed, and good whatever the repository is called
    asked = [route for route in ROUTES if "{id}" in route.path and route.path not in own]
    assert len(asked) > 30
    for route in asked:
        path = route.path
        for name, value in parts.items():
            path = path.replace(f"{{{name}}}", value)
        methods = ["GET", "HEAD"] if route.method == "GET" else [route.method]
        for method in methods:
            body = (
                None if method in ("GET", "HEAD") else b'{"operation": "download", "objects": []}'
            )
            found = ask(repo.url, method, f"{path.replace('{id}', old)}?x=1", body)
            assert found.status == 307, (method, path, found.body)
            assert found.headers["Location"] == f"{path.replace('{id}', repo.name)}?x=1"


def test_the_signed_address_of_an_upload_outlives_a_move(
    repo_at: Callable[[str], Served],
) -> None:
    repo = repo_at("on-its-way")
    content = b"weights that are on their way"
    action = repo.offer(content)["actions"]["upload"]
    old = repo.name
    move = {"fromRepo": old, "toRepo": f"{old}-moved"}
    assert ask(repo.url, "POST", "/api/repos/move", move).status == 200
    assert ask(repo.url, "PUT", action["href"].removeprefix(repo.url), content).status == 200
    repo.name = f"{old}-moved"
    assert repo.commit(large("w.bin", content)).status == 200


def test_a_move_that_is_sent_again_is_answered_again(gone: tuple[str, Served]) -> None:
    old, repo = gone
    body = {"fromRepo": old, "toRepo": repo.name, "type": "model"}
    for _ in range(2):
        answer = ask(repo.url, "POST", "/api/repos/move", body)
        assert (answer.status, answer.data["name"]) == (200, repo.name)
    further = {"fromRepo": old, "toRepo": f"{old}-last"}
    assert ask(repo.url, "POST", "/api/repos/move", further).status == 200
    assert repo.ask("GET", "").status == 307


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"fromRepo": "axon/none", "toRepo": "axon/x"}, 404),
        ({"toRepo": "axon/x"}, 404),
        ({"fromRepo": "{}", "toRepo": "api/x"}, 400),
        ({"fromRepo": "{}", "toRepo": "axon/refs"}, 400),
        ({"fromRepo": "{}", "toRepo": "models"}, 400),
        ({"fromRepo": "{}"}, 400),
        ({"fromRepo": "{}", "toRepo": 5}, 400),
        ({"fromRepo": "{}", "toRepo": "axon/x", "type": "dataset"}, 400),
    ],
)
def test_a_move_that_cannot_be_is_refused(
    url: str, repo_at: Callable[[str], Served], body: dict[str, object], status: int
) -> None:
    name = f"axon/{hashlib.sha1(repr(body).encode()).hexdigest()[:8]}"
    Served(url, name)
    sent_body = {key: name if value == "{}" else value for key, value in body.items()}
    assert ask(url, "POST", "/api/repos/move", sent_body).status == status
    assert ask(url, "GET", f"/api/models/{name}").status == 200


def test_a_client_follows_though_its_whole_body_is_on_the_way(gone: tuple[str, Served]) -> None:
    """The answer comes before the body was read; huggingface_hub's own HTTP client takes it."""
    import httpx2

    old, repo = gone
    content = os.urandom(BIG)
    with httpx2.Client(follow_redirects=True, timeout=60) as client:
        answer = client.post(
            f"{repo.url}/api/models/{old}/commit/main", content=body_of(sent("big", content))
        )
    assert answer.status_code == 200, answer.text
    assert repo.get("big").body == content


@pytest.fixture(scope="module")
def client(url: str, new_client: Callable[..., Client]) -> Client:
    return new_client(url, HF_TOKEN="hf_any")


def test_the_official_client_goes_on_under_the_old_name(
    client: Client, gone: tuple[str, Served], tmp_path: Path
) -> None:
    old, repo = gone
    client("move_repo", repo.name, f"{old}-moved")
    assert client("model_info", old)["id"] == f"{old}-moved"
    path = client("hf_hub_download", old, "a b/c", local_dir=str(tmp_path))
    assert Path(path).read_text() == "content"
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(os.urandom(BIG))
    client("upload_file", repo_id=old, path_or_fileobj=str(weights), path_in_repo="w.safetensors")
    add = {"!": "CommitOperationAdd", "path_in_repo": "d", "path_or_fileobj": str(tmp_path / "d")}
    (tmp_path / "d").write_text("d")
    client("create_commit", old, [add], commit_message="more")
    client("create_branch", old, branch="dev")
    client("create_tag", old, tag="v1")
    assert {one["name"] for one in client("list_repo_refs", old)["branches"]} == {"main", "dev"}
    snapshot = client("snapshot_download", old, local_dir=str(tmp_path / "all"))
    assert (Path(snapshot) / "w.safetensors").read_bytes() == weights.read_bytes()
    assert client("list_repo_commits", old)[0]["title"] == "more"
    with pytest.raises(ClientError) as caught:
        client("delete_repo", old)
    assert "RepositoryNotFoundError" in caught.value.names, "a name that is gone deletes nothing"
    client("create_repo", old)
    assert client("model_info", old)["id"] == old


def test_git_lfs_and_the_hf_command_go_on_under_the_old_name(
    gone: tuple[str, Served], tmp_path: Path
) -> None:
    old, repo = gone
    environment = hf_environment(repo.url, tmp_path, HF_HUB_DISABLE_XET="1")
    done = subprocess.run(
        [str(HF), "download", old, "README.md", "--local-dir", str(tmp_path / "it")],
        env=environment,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "it" / "README.md").read_text() == "# It"
    content = b"large enough"
    upload = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 3}]}
    found = ask(repo.url, "POST", f"/{old}.git/info/lfs/objects/batch", upload)
    assert found.status == 307
    again = ask(repo.url, "POST", found.headers["Location"], upload)
    assert f"/{repo.name}.git/" in again.data["objects"][0]["actions"]["upload"]["href"]
    repo.upload(content)


def test_hubtool_pulls_pushes_and_loads_by_an_old_name(
    home: Path,
    folder: Path,
    tmp_path: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HUBTOOL_HUB", url)
    old, new = "axon/hubtools-own", "axon/hubtools-new"
    first = hubtool.push(folder, old)
    assert ask(url, "POST", "/api/repos/move", {"fromRepo": old, "toRepo": new}).status == 200
    pulled = hubtool.pull(old, to=tmp_path / "pulled")
    assert (pulled / "graph.json").read_bytes() == (folder / "graph.json").read_bytes()
    assert hubtool.load(old).graph.meta["name"]
    (folder / "more.txt").write_text("more")
    second = hubtool.push(folder, old)
    assert second.changed and second.revision != first.revision
    assert ask(url, "GET", f"/api/models/{new}").data["sha"] == second.revision
    assert ask(url, "GET", f"/api/models/{old}").status == 307


def test_hubtools_token_goes_along_to_the_new_name(
    home: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = People(tmp_path / "hub")
    people.user("ann")
    people.close()
    with Background(tmp_path / "hub") as url:
        monkeypatch.setenv("HUBTOOL_HUB", url)
        monkeypatch.setenv("HUBTOOL_TOKEN", people.tokens["ann"])
        hubtool.push(folder, "ann/old", private=True)
        bearer = {"Authorization": f"Bearer {people.tokens['ann']}"}
        body = {"fromRepo": "ann/old", "toRepo": "ann/new"}
        assert ask(url, "POST", "/api/repos/move", body, bearer).status == 200
        pulled = hubtool.pull("ann/old", to=tmp_path / "pulled")
        assert (pulled / "model.safetensors").read_bytes()
        assert hubtool.push(folder, "ann/old", message="again").revision
        assert ask(url, "GET", "/api/models/ann/old").status == 401
        monkeypatch.delenv("HUBTOOL_TOKEN")
        with pytest.raises(HubError, match="no such model, or it is private"):
            hubtool.pull("ann/old", to=tmp_path / "stranger")


def test_a_browser_is_led_on_too(gone: tuple[str, Served]) -> None:
    old, repo = gone
    page = ask(repo.url, "GET", f"/{old}/tree/main?x=1", headers={"Accept": "text/html"})
    assert (page.status, page.headers["Location"]) == (307, f"/{repo.name}/tree/main?x=1")
    assert page.headers["Content-Type"].startswith("text/html")


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    """ann writes in axon, boss runs it, root runs the hub, eve is a stranger."""
    people = People(tmp_path / "hub")
    for name in ("ann", "eve"):
        people.user(name)
    people.accounts.add_org("axon", by=BY)
    people.accounts.add_org("nx", by=BY)
    people.accounts.set_member("axon", "ann", "write", by=BY)
    people.user("boss", axon="admin", nx="write")
    people.user("root", admin=True)
    people.plant("axon/model", private=True)
    yield people
    people.close()


def test_a_move_needs_admin_where_it_begins_and_write_where_it_ends(people: People) -> None:
    def asked(who: str, source: str, target: str) -> int:
        body = {"fromRepo": source, "toRepo": target}
        return people.ask("POST", "/api/repos/move", body, by=who).status

    assert asked("", "axon/model", "axon/new") == 401
    assert asked("eve", "axon/model", "eve/new") == 404, "it is absent for eve"
    assert asked("ann", "axon/model", "axon/new") == 403
    assert asked("boss", "axon/model", "ann/new") == 403
    assert asked("boss", "axon/model", "model") == 403, "without a namespace it is the hub's own"
    assert asked("boss", "axon/model", "nx/new") == 200
    assert asked("boss", "axon/model", "nx/new") == 200, "sent again"
    assert asked("boss", "nx/new", "axon/model") == 403, "boss is no admin there"
    assert asked("root", "nx/new", "model") == 200
    assert people.ask("GET", "/api/models/model", by="root").status == 200


def test_the_old_name_of_what_one_may_not_see_is_as_absent_as_any(people: People) -> None:
    body = {"fromRepo": "axon/model", "toRepo": "nx/secret"}
    assert people.ask("POST", "/api/repos/move", body, by="boss").status == 200
    paths = ["/api/models/{}", "/{}/resolve/main/README.md", "/{}", "/api/models/{}/auth-check"]
    for who in ("", "eve", "ann"):
        for path in paths:
            old, none = (
                people.ask("GET", path.format(name), by=who, headers={"X-Request-Id": "x"})
                for name in ("axon/model", "axon/nodel")
            )
            assert old.status == (404 if who else 401)
            assert old.body.replace(b"model", b"nodel") == none.body
            assert "nx" not in str(old.headers) and set(old.headers) == set(none.headers)
    for path in paths:
        found = people.ask("GET", path.format("axon/model"), by="boss")
        assert (found.status, "nx/secret" in found.headers["location"]) == (307, True)
    again = {"fromRepo": "axon/model", "toRepo": "eve/mine"}
    refused = people.ask("POST", "/api/repos/move", again, by="eve")
    assert refused.status == 404 and b"nx" not in refused.body


def test_grants_to_a_gated_repository_move_along(people: People) -> None:
    people.plant("axon/gated", gated="manual")
    grant = {"user": "eve"}
    path = "/api/models/axon/gated/user-access-request/grant"
    assert people.ask("POST", path, grant, by="boss").status == 200
    body = {"fromRepo": "axon/gated", "toRepo": "nx/gated"}
    assert people.ask("POST", "/api/repos/move", body, by="boss").status == 200
    found = people.ask("GET", f"/nx/gated/resolve/main/{FILE}", by="eve")
    assert (found.status, found.body) == (200, WEIGHTS + b"axon/gated")
    assert people.ask("GET", f"/nx/gated/resolve/main/{FILE}", by="ann").status == 403
    assert people.ask("GET", f"/axon/gated/resolve/main/{FILE}", by="ann").status == 307


def test_only_who_runs_the_hub_makes_a_repository_without_a_namespace(people: People) -> None:
    def made(who: str, **body: object) -> tuple[int, str]:
        answer = people.ask("POST", "/api/repos/create", {"name": "gpt2", **body}, by=who)
        return answer.status, answer.data.get("name", "")

    assert made("ann") == (200, "ann/gpt2"), "as on the Hub"
    assert made("ann", organization="") == (403, "")
    assert made("root", organization="") == (200, "gpt2")
    assert people.ask("GET", "/api/models/gpt2").data["id"] == "gpt2"
    assert people.ask("GET", "/gpt2/resolve/main/.gitattributes").status == 200
    commit = body_of(sent("a", "a"))
    assert people.ask("POST", "/api/models/gpt2/commit/main", commit, by="ann").status == 403
    assert people.ask("POST", "/api/models/gpt2/commit/main", commit, by="root").status == 200
    delete = {"name": "gpt2", "organization": ""}
    assert people.ask("DELETE", "/api/repos/delete", delete, by="ann").status == 403
    assert people.ask("DELETE", "/api/repos/delete", delete, by="root").status == 200


def test_a_bare_name_leads_to_where_its_model_went_as_gpt2_does_on_the_hub(
    url: str, client: Client, tmp_path: Path
) -> None:
    made = ask(url, "POST", "/api/repos/create", {"name": "gpt2", "organization": ""})
    assert made.data["name"] == "gpt2"
    commit = body_of(sent("t.py", Path(__file__).read_text()))
    assert ask(url, "POST", "/api/models/gpt2/commit/main", commit).status == 200
    assert client("model_info", "gpt2")["id"] == "gpt2"
    body = {"fromRepo": "gpt2", "toRepo": "openai-community/gpt2"}
    assert ask(url, "POST", "/api/repos/move", body).status == 200
    assert client("model_info", "gpt2")["id"] == "openai-community/gpt2"
    path = client("hf_hub_download", "gpt2", "t.py", local_dir=str(tmp_path))
    assert Path(path).read_text() == Path(__file__).read_text()


@pytest.mark.parametrize("name", sorted(names.NOT_BARE))
def test_no_bare_name_hides_a_route(url: str, name: str) -> None:
    answer = ask(url, "POST", "/api/repos/create", {"name": name, "organization": ""})
    assert answer.status == 400
    first = {part for route in ROUTES if (part := route.path.split("/")[1]) and "{" not in part}
    assert first <= names.NOT_BARE
