"""The unmodified huggingface_hub and its `hf` command take this hub for the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtool.hub.server import routes_commits
from hubtool.hub.server.meta_history import pointer
from hubtool.hub.server.run import Background

from .conftest import HF, Client, ClientError, Repo, ask, hf_environment
from .servers import Served

BIG = 11_000_000
CARD = "---\nlicense: apache-2.0\npipeline_tag: image-classification\ntags:\n- {}\n---\n# Model\n"


@pytest.fixture(scope="module")
def client(url: str, new_client: Callable[..., Client]) -> Client:
    """As it is installed, with Xet."""
    return new_client(url, HF_TOKEN="hf_any")


@pytest.fixture(scope="module")
def without_xet(url: str, new_client: Callable[..., Client]) -> Client:
    return new_client(url, HF_HUB_DISABLE_XET="1")


@pytest.fixture(scope="module")
def over_lfs(
    tmp_path_factory: pytest.TempPathFactory, new_client: Callable[..., Client]
) -> Iterator[Client]:
    """Without Xet, at a server that asks everybody for Git LFS."""
    with Background(tmp_path_factory.mktemp("lfs"), lfs=True) as url:
        yield new_client(url, HF_HUB_DISABLE_XET="1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder: a card, a small file, one above 10 MB, an empty one."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "README.md").write_text(CARD.format("Axon"))
    (folder / "sub").mkdir()
    (folder / "sub" / "graph.json").write_text("{}")
    (folder / "empty").write_bytes(b"")
    (folder / "model.safetensors").write_bytes(os.urandom(BIG))
    return folder


def published(client: Client, name: str, folder: Path) -> str:
    """A new repository with the folder in it; its name."""
    client("create_repo", name)
    client("upload_folder", repo_id=name, folder_path=str(folder))
    return name


@pytest.fixture(scope="module")
def model(client: Client, folder: Path) -> str:
    return published(client, "axon/model", folder)


def test_xet_is_on_where_it_is_meant_to_be(client: Client, without_xet: Client) -> None:
    assert client("is_xet_available") is True
    assert without_xet("is_xet_available") is False


def test_whoami_takes_any_token(client: Client) -> None:
    assert client("whoami", token="hf_whatever")["name"] == "local"


def test_a_repository_is_created_once(client: Client) -> None:
    made = client("create_repo", "axon/once")
    assert made["repo_id"] == "axon/once" and made["endpoint"] == client.url
    assert client("create_repo", "axon/once", exist_ok=True)["repo_id"] == "axon/once"
    with pytest.raises(ClientError, match="axon/once' already") as caught:
        client("create_repo", "axon/once")
    assert "HfHubHTTPError" in caught.value.names and "409" in str(caught.value)
    assert client("create_repo", "mine")["repo_id"] == "local/mine"


@pytest.mark.parametrize("way", ["client", "without_xet", "over_lfs", "regular"])
def test_small_and_large_files_go_up_and_come_back(
    way: str,
    folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if way == "regular":
        monkeypatch.setattr(routes_commits, "speaks_xet", lambda: False)
    client: Client = request.getfixturevalue("client" if way == "regular" else way)
    name = published(client, f"axon/{way.replace('_', '-')}", folder)
    client(
        "upload_file",
        repo_id=name,
        path_in_repo="notes.txt",
        path_or_fileobj=str(folder / "README.md"),
    )
    weights = {"!": "CommitOperationAdd", "path_in_repo": "again.bin"}
    operations = [
        {**weights, "path_or_fileobj": str(folder / "model.safetensors")},
        {"!": "CommitOperationDelete", "path_in_repo": "empty"},
        {
            "!": "CommitOperationCopy",
            "src_path_in_repo": "model.safetensors",
            "path_in_repo": "copy.safetensors",
        },
    ]
    commit = client(
        "create_commit", name, operations, commit_message="more", commit_description="why"
    )
    files = client("list_repo_files", name)
    assert sorted(files) == [
        *(".gitattributes", "README.md", "again.bin", "copy.safetensors", "model.safetensors"),
        *("notes.txt", "sub/graph.json"),
    ]
    target = client("snapshot_download", name, local_dir=str(tmp_path / "copy"))
    for path in ("model.safetensors", "again.bin", "copy.safetensors"):
        assert (Path(target) / path).read_bytes() == (folder / "model.safetensors").read_bytes()
    newest = client("list_repo_commits", name)[0]
    assert (newest["commit_id"], newest["title"], newest["message"]) == (
        commit["oid"],
        "more",
        "why",
    )
    lfs = ask(client.url, "GET", f"/{name}/resolve/main/again.bin").headers["X-Linked-Size"]
    assert lfs == (None if way == "regular" else str(BIG))


def test_the_same_folder_again_is_no_new_commit(client: Client, model: str, folder: Path) -> None:
    before = client("model_info", model)["sha"]
    client("upload_folder", repo_id=model, folder_path=str(folder))
    assert client("model_info", model)["sha"] == before


def test_a_model_is_described(client: Client, model: str, folder: Path) -> None:
    info = client("model_info", model)
    assert (info["id"], info["author"], info["private"]) == (model, "axon", False)
    assert {"Axon", "image-classification", "license:apache-2.0"} <= set(info["tags"])
    assert info["card_data"]["license"] == "apache-2.0"
    assert "model.safetensors" in [file["rfilename"] for file in info["siblings"]]
    sizes = client("model_info", model, files_metadata=True)["siblings"]
    (weights,) = [file for file in sizes if file["rfilename"] == "model.safetensors"]
    content = (folder / "model.safetensors").read_bytes()
    told = pointer(hashlib.sha256(content).hexdigest(), BIG)
    git = hashlib.sha1(b"blob %d\0" % len(told) + told).hexdigest()
    assert (weights["size"], weights["blob_id"]) == (BIG, git)
    assert client("model_info", model, expand=["downloads", "tags"])["tags"] == info["tags"]


def test_a_large_file_over_lfs_says_its_sha256(over_lfs: Client, folder: Path) -> None:
    name = published(over_lfs, "axon/said", folder)
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (info,) = over_lfs("get_paths_info", name, ["model.safetensors"])
    assert info["lfs"]["sha256"] == sha256 and info["lfs"]["pointer_size"] > 100
    siblings = over_lfs("model_info", name, files_metadata=True)["siblings"]
    assert sha256 in [(file["lfs"] or {}).get("sha256") for file in siblings]
    before = over_lfs("model_info", name)["sha"]
    over_lfs("upload_folder", repo_id=name, folder_path=str(folder))
    assert over_lfs("model_info", name)["sha"] == before


def test_trees_and_paths_are_listed(client: Client, model: str) -> None:
    tree = client("list_repo_tree", model, recursive=True, expand=True)
    assert {item["path"] for item in tree} >= {"sub", "sub/graph.json", "README.md"}
    assert all(item["last_commit"]["title"] for item in tree)
    assert [item["path"] for item in client("list_repo_tree", model, "sub")] == ["sub/graph.json"]
    found = client("get_paths_info", model, ["sub", "README.md", "none"])
    assert [item["path"] for item in found] == ["sub", "README.md"]


def test_models_are_found_by_tags_author_and_name_over_pages(
    tmp_path: Path, new_client: Callable[..., Client]
) -> None:
    with Background(tmp_path) as url:
        client = new_client(url)
        for number in range(5):
            name = f"axon/net-{number}"
            client("create_repo", name)
            card = CARD.format("Axon\n- " + ("even" if number % 2 == 0 else "odd"))
            add = {"!": "CommitOperationAdd", "path_in_repo": "README.md"}
            path = tmp_path / "card.md"
            path.write_text(card)
            client(
                "create_commit", name, [{**add, "path_or_fileobj": str(path)}], commit_message="x"
            )
        client("create_repo", "other/net-9")

        def found(**wanted: Any) -> list[str]:
            return [model["id"] for model in client("list_models", **wanted)]

        newest = ["axon/net-4", "axon/net-3", "axon/net-2", "axon/net-1", "axon/net-0"]
        assert found(filter="Axon", sort="created_at") == newest
        assert found(filter=["Axon", "even"], sort="created_at") == newest[::2]
        assert found(author="other") == ["other/net-9"] == found(search="NET-9")
        assert found(filter="Axon", sort="last_modified", limit=2) == newest[:2]
        assert found(filter="axon") == []
        assert len(found(pipeline_tag="image-classification")) == 5
        first = ask(url, "GET", "/api/models?filter=Axon&sort=createdAt&limit=2")
        assert 'rel="next"' in first.headers["Link"]
        cards = client("list_models", filter="odd", cardData=True, full=True)
        assert cards[0]["card_data"]["tags"] == ["Axon", "odd"] and len(cards[0]["siblings"]) == 2


def test_the_client_follows_the_pages_of_a_list(client: Client, model: str) -> None:
    pages = client("paginate", f"{client.url}/api/models", {"limit": 1}, {})
    everything = client("list_models")
    assert [one["id"] for one in pages] == [one["id"] for one in everything]
    assert len(pages) > 1


def test_branches_and_tags_come_and_go(client: Client, model: str) -> None:
    client("create_branch", model, branch="feature/one")
    client("create_tag", model, tag="v1.0", tag_message="first")
    with pytest.raises(ClientError, match="409"):
        client("create_branch", model, branch="feature/one")
    client("create_branch", model, branch="feature/one", exist_ok=True)
    refs = client("list_repo_refs", model)
    assert [ref["name"] for ref in refs["branches"]] == ["feature/one", "main"]
    assert [ref["ref"] for ref in refs["tags"]] == ["refs/tags/v1.0"]
    assert client("model_info", model, revision="feature/one")["sha"]
    path = client("hf_hub_download", model, "sub/graph.json", revision="feature/one")
    assert Path(path).read_text() == "{}"
    client("delete_branch", model, branch="feature/one")
    client("delete_tag", model, tag="v1.0")
    refs = client("list_repo_refs", model)
    assert len(refs["branches"]) == 1 and refs["tags"] == []


def test_files_are_downloaded_once_and_kept(client: Client, model: str, folder: Path) -> None:
    first = client("hf_hub_download", model, "model.safetensors")
    assert Path(first).read_bytes() == (folder / "model.safetensors").read_bytes()
    assert client("hf_hub_download", model, "model.safetensors") == first
    assert client("file_exists", model, "README.md") is True
    assert client("file_exists", model, "none") is False
    assert client("repo_exists", model) is True
    assert client("repo_exists", "axon/none") is False
    assert client("revision_exists", model, "none") is False


def test_errors_come_out_as_the_clients_own(client: Client, model: str) -> None:
    for kind, call in (
        ("RepositoryNotFoundError", ("model_info", "axon/none")),
        ("RepositoryNotFoundError", ("dataset_info", "axon/none")),
        ("RepositoryNotFoundError", ("hf_hub_download", "axon/none", "a")),
        ("RevisionNotFoundError", ("hf_hub_download", model, "README.md", {"revision": "none"})),
        ("RevisionNotFoundError", ("list_repo_commits", model, {"revision": "none"})),
        ("RemoteEntryNotFoundError", ("hf_hub_download", model, "none.txt")),
        ("RemoteEntryNotFoundError", ("list_repo_tree", model, "none")),
    ):
        name, *args = call
        kwargs = args.pop() if isinstance(args[-1], dict) else {}
        with pytest.raises(ClientError) as caught:
            client(name, *args, **kwargs)
        assert kind in caught.value.names, call
        assert "none" in str(caught.value)


def test_a_commit_on_an_old_parent_says_where_the_branch_is(client: Client, tmp_path: Path) -> None:
    client("create_repo", "axon/race")
    parent = client("model_info", "axon/race")["sha"]
    for text in ("one", "two"):
        path = tmp_path / text
        path.write_text(text)
        add = {"!": "CommitOperationAdd", "path_in_repo": "a.txt", "path_or_fileobj": str(path)}
        wanted = {"commit_message": text, "parent_commit": parent}
        if text == "one":
            head = client("create_commit", "axon/race", [add], **wanted)["oid"]
            continue
        with pytest.raises(ClientError, match=head):
            client("create_commit", "axon/race", [add], **wanted)


def test_a_private_repository_is_said_to_be_private(client: Client) -> None:
    client("create_repo", "axon/hidden", private=True)
    assert client("model_info", "axon/hidden")["private"] is True
    client("update_repo_settings", "axon/hidden", private=False)
    assert client("model_info", "axon/hidden")["private"] is False


def test_a_card_is_validated(client: Client) -> None:
    client("validate_card", CARD.format("Axon"))
    with pytest.raises(ClientError, match="apache2"):
        client("validate_card", CARD.format("Axon").replace("apache-2.0", "apache2.0"))


def test_a_deleted_repository_is_gone(client: Client) -> None:
    client("create_repo", "axon/short-lived")
    client("delete_repo", "axon/short-lived")
    assert client("repo_exists", "axon/short-lived") is False
    with pytest.raises(ClientError) as caught:
        client("delete_repo", "axon/short-lived")
    assert "RepositoryNotFoundError" in caught.value.names
    client("delete_repo", "axon/short-lived", missing_ok=True)


def test_where_writes_are_refused_the_client_is_told_why(
    tmp_path: Path, new_client: Callable[..., Client]
) -> None:
    with Served(tmp_path, host="0.0.0.0") as served:
        client = new_client(served.url.replace("0.0.0.0", "127.0.0.1"), HF_TOKEN="hf_any")
        with pytest.raises(ClientError, match="has no users yet"):
            client("create_repo", "axon/m")
        assert client("list_models") == []


def hf(url: str, home: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    """What the `hf` command prints."""
    done = subprocess.run(
        [HF, *arguments],
        env=hf_environment(url, home, **environment),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr if code else done.stdout


def test_the_hf_command_publishes_finds_fetches_and_deletes(
    url: str, folder: Path, tmp_path: Path
) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        return hf(url, tmp_path, *arguments, code=code)

    assert "local" in hf(url, tmp_path, "auth", "whoami", "--json", HF_TOKEN="hf_any")
    run("repos", "create", "axon/by-hf")
    run("upload", "axon/by-hf", str(folder), ".", "--commit-message", "all of it")
    run("repos", "tag", "create", "axon/by-hf", "v1")
    listed = json.loads(run("models", "ls", "--filter", "Axon", "--search", "by-hf", "--json"))
    assert [model["id"] for model in listed] == ["axon/by-hf"]
    assert json.loads(run("models", "info", "axon/by-hf", "--json"))["id"] == "axon/by-hf"
    run("download", "axon/by-hf", "--revision", "v1", "--local-dir", str(tmp_path / "got"))
    for path in ("model.safetensors", "sub/graph.json", "empty"):
        assert (tmp_path / "got" / path).read_bytes() == (folder / path).read_bytes()
    run("repos", "delete", "axon/by-hf", "--yes")
    assert "not found" in run("models", "info", "axon/by-hf", code=1).lower()


def test_the_hf_command_sends_large_files_over_lfs_when_xet_is_off(
    over_lfs: Client, folder: Path, tmp_path: Path
) -> None:
    Repo(over_lfs.url, "axon/one-file")
    weights = str(folder / "model.safetensors")
    target = ("axon/one-file", weights, "w.safetensors")
    hf(over_lfs.url, tmp_path, "upload", *target, HF_HUB_DISABLE_XET="1")
    answer = ask(over_lfs.url, "GET", "/axon/one-file/resolve/main/w.safetensors")
    assert answer.headers["X-Linked-Size"] == str(BIG)
    assert answer.body == Path(weights).read_bytes()
