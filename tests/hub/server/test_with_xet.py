"""Nothing is set but HF_ENDPOINT: the client, `hf` and transformers live with this hub, Xet on.

HF_HOME is a folder of the test's own. Each program has a process of its own, and so has the hub.
They stand behind a proxy that lets nobody out: what they want of others is noted. A folder of
100 MB goes up in test_xet_client, other corners of the client in test_official_client.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import HF, Client, ClientError, ask, hf_environment
from .outside import Outside
from .servers import Served

MB = 1_000_000
CARD = "---\nlicense: apache-2.0\npipeline_tag: image-classification\ntags:\n- Axon\n---\n# M\n"
SET = {"HF_ENDPOINT", "HF_HOME", "HF_TOKEN"}
"""What a program may find set of all that begins with HF_."""


@dataclass(frozen=True)
class Place:
    """A hub, and what programs have in their environment besides."""

    root: Path
    served: Served
    outside: Outside
    home: Path

    @property
    def url(self) -> str:
        return self.served.url

    def hf(self, *arguments: str, code: int = 0, **more: str) -> str:
        """What the `hf` command prints."""
        environment = hf_environment(self.url, self.home, **self.outside.environment, **more)
        assert {name for name in environment if name.startswith("HF_")} <= SET
        command = [str(HF), *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, cwd=self.home
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr if code else done.stdout

    def by_xet(self) -> int:
        """How many bytes of large files came as xorbs."""
        kept = [path for path in (self.root / "xorbs").rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in kept)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root, home = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("hf-home")
    with Served(root) as served, Outside() as outside:
        yield Place(root, served, outside, home)


@pytest.fixture(scope="module")
def client(place: Place, new_client: Callable[..., Client]) -> Client:
    return new_client(place.url, **place.outside.environment)


@pytest.fixture(scope="module")
def tiny(place: Place, new_client: Callable[..., Client]) -> Client:
    """A client in whose process transformers is at hand."""
    return new_client(place.url, program="official_transformers.py", **place.outside.environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder: a card, weights, small files, an empty one, one that bears odd letters."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "sub" / "deeper").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "model.safetensors").write_bytes(os.urandom(20 * MB))
    (folder / "sub" / "graph.json").write_text("{}")
    (folder / "sub" / "deeper" / "größe 100%.txt").write_text("ü")
    (folder / "empty").write_bytes(b"")
    return folder


def same(left: Path, right: Path) -> None:
    """Both folders hold the same files; what clients keep beside them does not count."""
    names = {str(path.relative_to(left)) for path in left.rglob("*") if path.is_file()}
    found = {str(path.relative_to(right)) for path in right.rglob("*") if path.is_file()}
    kept = {name for name in found if not name.startswith((".cache", ".gitattributes"))}
    assert kept == names
    for name in names:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name


@pytest.fixture(scope="module")
def model(client: Client, folder: Path) -> str:
    client("create_repo", "axon/model")
    client("upload_folder", repo_id="axon/model", folder_path=str(folder))
    return "axon/model"


def test_xet_is_on_and_nothing_else_is_set(client: Client, place: Place) -> None:
    assert client("is_xet_available") is True
    environment = hf_environment(place.url, place.home)
    assert {name for name in environment if name.startswith("HF_")} <= SET


def test_a_repository_is_made_once(client: Client) -> None:
    client("create_repo", "axon/once")
    client("create_repo", "axon/once", exist_ok=True)
    with pytest.raises(ClientError, match="409"):
        client("create_repo", "axon/once")


def test_a_folder_comes_back_as_it_went(
    client: Client, place: Place, model: str, folder: Path, tmp_path: Path
) -> None:
    assert place.by_xet() > 20 * MB, "it went by Xet"
    same(folder, Path(client("snapshot_download", model)))
    same(folder, Path(client("snapshot_download", model, local_dir=str(tmp_path / "copy"))))


def test_files_are_added_changed_copied_and_deleted(client: Client, tmp_path: Path) -> None:
    client("create_repo", "axon/changed")
    one, two = os.urandom(12 * MB), os.urandom(11 * MB)
    for name, content in (("one", one), ("two", two)):
        (tmp_path / name).write_bytes(content)
    client(
        "upload_file",
        repo_id="axon/changed",
        path_in_repo="a/w.bin",
        path_or_fileobj=str(tmp_path / "one"),
    )
    add = {"!": "CommitOperationAdd", "path_or_fileobj": str(tmp_path / "two")}
    copy = {"!": "CommitOperationCopy", "src_path_in_repo": "a/w.bin", "path_in_repo": "b.bin"}
    first = client("create_commit", "axon/changed", [copy], commit_message="copy")["oid"]
    delete = {"!": "CommitOperationDelete", "path_in_repo": "a/", "is_folder": True}
    operations = [{**add, "path_in_repo": "c.bin"}, delete]
    client("create_commit", "axon/changed", operations, commit_message="more")
    got = Path(client("snapshot_download", "axon/changed", local_dir=str(tmp_path / "now")))
    assert (got / "b.bin").read_bytes() == one and (got / "c.bin").read_bytes() == two
    assert not (got / "a").exists()
    then = client("hf_hub_download", "axon/changed", "a/w.bin", revision=first)
    assert Path(then).read_bytes() == one


def test_models_are_listed_by_filters_and_described(client: Client, model: str) -> None:
    def found(**wanted: Any) -> list[str]:
        return [one["id"] for one in client("list_models", **wanted)]

    assert model in found(filter=["Axon", "license:apache-2.0"], author="axon")
    assert found(filter=["Axon", "nobody-has-this"]) == []
    assert model in found(pipeline_tag="image-classification", search="mod", sort="downloads")
    info = client("model_info", model, files_metadata=True)
    assert {"Axon", "license:apache-2.0"} <= set(info["tags"])
    assert 20 * MB in [file["size"] for file in info["siblings"]]


def test_branches_and_tags(client: Client, model: str, tmp_path: Path) -> None:
    client("create_branch", model, branch="dev")
    client("create_tag", model, tag="v1", tag_message="first")
    (tmp_path / "w.bin").write_bytes(os.urandom(11 * MB))
    at = {"repo_id": model, "path_in_repo": "w.bin", "path_or_fileobj": str(tmp_path / "w.bin")}
    client("upload_file", **at, revision="dev")
    assert "w.bin" in client("list_repo_files", model, revision="dev")
    assert "w.bin" not in client("list_repo_files", model, revision="v1")
    client("delete_branch", model, branch="dev")
    client("delete_tag", model, tag="v1")
    refs = client("list_repo_refs", model)
    assert [ref["name"] for ref in refs["branches"]] == ["main"] and refs["tags"] == []


def test_a_card_is_pushed_and_loaded(client: Client) -> None:
    client("create_repo", "axon/carded")
    client("push_card", CARD, "axon/carded", commit_message="card")
    assert client("load_card", "axon/carded").strip() == CARD.strip()
    assert client("model_info", "axon/carded")["card_data"]["license"] == "apache-2.0"


def test_a_repository_moves_and_answers_by_its_former_name(
    client: Client, place: Place, folder: Path
) -> None:
    client("create_repo", "axon/former")
    client("upload_folder", repo_id="axon/former", folder_path=str(folder))
    client("move_repo", "axon/former", "axon/present")
    for name in ("axon/former", "axon/present"):
        assert client("model_info", name)["id"] == "axon/present"
        same(folder, Path(client("snapshot_download", name)))
    place.hf("repos", "move", "axon/present", "axon/last")
    weights = {"path_in_repo": "w.bin", "path_or_fileobj": str(folder / "model.safetensors")}
    client("upload_file", repo_id="axon/former", **weights)
    assert "w.bin" in client("list_repo_files", "axon/last")


def test_a_repository_is_deleted(client: Client) -> None:
    client("create_repo", "axon/short-lived")
    client("delete_repo", "axon/short-lived")
    assert client("repo_exists", "axon/short-lived") is False


def test_hf_says_who_one_is(place: Place) -> None:
    assert "local" in place.hf("auth", "whoami", "--json", HF_TOKEN="hf_any")


def test_hf_makes_fills_finds_and_fetches_a_repository(
    place: Place, folder: Path, tmp_path: Path
) -> None:
    name = "axon/by-hf"
    place.hf("repos", "create", name)
    place.hf("upload", name, str(folder), ".", "--commit-message", "a folder")
    place.hf("upload", name, str(folder / "model.safetensors"), "again/w.bin")
    (listed,) = json.loads(place.hf("models", "ls", "--filter", "Axon", "--search", "hf", "--json"))
    assert listed["id"] == name
    place.hf("repos", "branch", "create", name, "dev")
    place.hf("repos", "tag", "create", name, "v1")
    place.hf("download", name, "--revision", "v1", "--local-dir", str(tmp_path / "got"))
    again = tmp_path / "got" / "again" / "w.bin"
    assert again.read_bytes() == (folder / "model.safetensors").read_bytes()
    again.unlink()
    same(folder, tmp_path / "got")
    assert "dev" in json.dumps([ref["name"] for ref in refs_of(place, name)["branches"]])
    place.hf("repos", "tag", "delete", name, "v1", "--yes")
    place.hf("repos", "branch", "delete", name, "dev")
    assert len(refs_of(place, name)["branches"]) == 1 and refs_of(place, name)["tags"] == []
    place.hf("repos", "delete", name, "--yes")
    assert name in place.hf("models", "info", name, code=1)


def refs_of(place: Place, name: str) -> Any:
    return ask(place.url, "GET", f"/api/models/{name}/refs").data


@pytest.mark.parametrize(
    ("kind", "name", "auto"),
    [
        ("bert", "BertForSequenceClassification", "AutoModelForSequenceClassification"),
        ("resnet", "ResNetForImageClassification", "AutoModelForImageClassification"),
    ],
)
def test_transformers_publishes_and_fetches(
    tiny: Client, place: Place, kind: str, name: str, auto: str
) -> None:
    repo = f"axon/tiny-{kind}"
    before = place.by_xet()
    first = tiny("push", kind, 1, repo, tags=["tiny"], commit_message="first")
    assert tiny("pull", name, repo) == tiny("pull", auto, repo) == first["digest"]
    assert place.by_xet() > before, "the weights went by Xet"
    second = tiny("push", kind, 2, repo)
    assert second["digest"] != first["digest"] == tiny("pull", auto, repo, revision=first["oid"])
    assert tiny("pull", name, repo) == second["digest"]
    third = tiny("push", kind, 3, repo, revision="next")
    assert tiny("pull", auto, repo, revision="next") == third["digest"]
    assert tiny("pull", auto, repo) == second["digest"]
    assert "tiny" in tiny("model_info", repo)["tags"]
    (found,) = tiny("list_models", filter=["transformers", "tiny"], search=kind)
    assert found["id"] == repo


def test_a_pipeline_finds_model_and_tokenizer(tiny: Client) -> None:
    tiny("push", "bert", 4, "axon/tiny-words")
    tiny("push_tokenizer", "axon/tiny-words")
    labels, ids = tiny("classify", "axon/tiny-words", "models are found")
    assert labels == ["LABEL_0", "LABEL_1", "LABEL_2"] and ids == [2, 5, 6, 7, 3]


def test_weights_of_former_years_are_not_converted_by_strangers(tiny: Client, place: Place) -> None:
    """transformers would have them converted by a service of huggingface.co, to which it gives
    the token; it asks the hub for discussions first, and goes no further where there are none."""
    digest = tiny("push_without_safetensors", 5, "axon/tiny-bin")
    before = list(place.outside.asked)
    assert tiny("pull", "BertForSequenceClassification", "axon/tiny-bin") == digest
    assert "GET /api/models/axon/tiny-bin/discussions 404" in place.served.log()
    assert place.outside.asked == before


def test_nobody_went_elsewhere(place: Place, client: Client, tiny: Client) -> None:
    """But `hf`, which asks whether there is a newer one of itself."""
    place.hf("models", "ls")
    assert set(place.outside.asked) == {"pypi.org:443"}


def owner(root: Path, *arguments: str) -> str:
    """What `hubtool hub …` prints, typed by whoever owns the hub's folder while it is served."""
    command = [sys.executable, "-m", "hubtool", "hub", *arguments, "--hub", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Closed:
    """A hub that has users: ann, bob. ann, bob, reading: tokens; the last is ann's, to read only.
    client: ann's."""

    place: Place
    client: Client
    ann: str
    bob: str
    reading: str


@pytest.fixture(scope="module")
def closed(
    tmp_path_factory: pytest.TempPathFactory, new_client: Callable[..., Client]
) -> Iterator[Closed]:
    root, home = tmp_path_factory.mktemp("closed"), tmp_path_factory.mktemp("closed-home")
    with Served(root) as served, Outside() as outside:
        place = Place(root, served, outside, home)
        for name in ("ann", "bob"):
            owner(root, "users", "add", name)
        ann, bob = (owner(root, "tokens", "new", name, "--name", "all") for name in ("ann", "bob"))
        reading = owner(root, "tokens", "new", "ann", "--name", "reader", "--role", "read")
        client = new_client(place.url, HF_TOKEN=ann, **outside.environment)
        yield Closed(place, client, ann, bob, reading)


@pytest.fixture(scope="module")
def hidden(closed: Closed, folder: Path) -> str:
    """A private repository of ann's."""
    closed.client("create_repo", "ann/hidden", private=True)
    closed.client("upload_folder", repo_id="ann/hidden", folder_path=str(folder))
    return "ann/hidden"


def test_a_token_says_who_one_is(closed: Closed) -> None:
    assert closed.client("whoami")["name"] == "ann"
    assert closed.client("whoami", token=closed.bob)["name"] == "bob"
    with pytest.raises(ClientError, match="Invalid"):
        closed.client("whoami", token="hubtool_" + "x" * 32)


def test_a_private_repository_goes_up_by_xet_and_comes_down(
    closed: Closed, hidden: str, folder: Path
) -> None:
    assert closed.place.by_xet() > 20 * MB
    assert closed.client("model_info", hidden)["private"] is True
    same(folder, Path(closed.client("snapshot_download", hidden)))
    assert [one["id"] for one in closed.client("list_models")] == [hidden]
    again = Path(closed.client("snapshot_download", hidden, token=closed.reading))
    same(folder, again)


def test_a_private_repository_is_not_there_for_others(
    closed: Closed, hidden: str, tmp_path: Path
) -> None:
    fetch = {"filename": "README.md", "cache_dir": str(tmp_path)}
    calls: dict[str, dict[str, str]] = {"model_info": {}, "list_repo_files": {}}
    for token in (closed.bob, False):
        for call, how in {**calls, "hf_hub_download": fetch}.items():
            with pytest.raises(ClientError, match="ann/hidden") as caught:
                closed.client(call, hidden, **how, token=token)
            assert "RepositoryNotFoundError" in caught.value.names, (call, token)
        assert closed.client("list_models", token=token) == []


def test_who_may_not_write_is_told_why(closed: Closed, hidden: str, folder: Path) -> None:
    at = {"path_in_repo": "w.bin", "path_or_fileobj": str(folder / "model.safetensors")}
    for token, status in ((closed.reading, "403"), (closed.bob, "404"), (False, "401")):
        with pytest.raises(ClientError, match=status):
            closed.client("upload_file", repo_id=hidden, **at, token=token)
    for token, said in ((closed.reading, "read"), (closed.bob, "ann"), (False, "token")):
        with pytest.raises(ClientError, match=said):
            closed.client("create_repo", "ann/more", token=token)
    assert closed.client("list_repo_files", hidden).count("w.bin") == 0


def test_hf_logs_in_and_works_with_what_is_private(
    closed: Closed, hidden: str, folder: Path, tmp_path: Path
) -> None:
    weights = str(folder / "model.safetensors")
    told = closed.place.hf("download", hidden, "README.md", code=1)
    assert f"'{hidden}' not found" in told and "Traceback (most" not in told
    told = closed.place.hf("upload", "ann/by-hf", weights, "w.bin", code=1)
    assert "401" in told and "token of this hub" in told and "Traceback (most" not in told
    closed.place.hf("auth", "login", "--token", closed.ann)
    assert "ann" in closed.place.hf("auth", "whoami", "--json")
    closed.place.hf("repos", "create", "ann/by-hf", "--private")
    closed.place.hf("upload", "ann/by-hf", weights, "w.bin")
    closed.place.hf("download", "ann/by-hf", "w.bin", "--local-dir", str(tmp_path))
    assert (tmp_path / "w.bin").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert closed.client("repo_exists", "ann/by-hf", token=closed.bob) is False
