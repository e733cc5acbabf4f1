"""Publish, find, fetch: what goes in comes out, on the embedded hub and on one that is served."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn

import hubtool
from hub.conftest import convolution
from hubtool.errors import HubError, HubtoolError, InputError, ReadError, WriteError
from hubtool.hub import push as push_room
from hubtool.hub.server.app import create_app
from hubtool.hub.server.run import Background

NAME = "axon/convolution-v1"
X = np.random.default_rng(1).standard_normal((2, 64, 8, 8), np.float32)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def blob(home: Path, digest: str) -> Path:
    """A content as the embedded hub stores it."""
    (found,) = (home / "hub" / "blobs").rglob(digest)
    return found


@contextmanager
def served(root: Path) -> Iterator[str]:
    with Background(root) as url:
        yield url


def test_what_is_pushed_is_found_by_its_tags_and_gives_the_same_answer(
    home: Path, folder: Path
) -> None:
    done = hubtool.push(folder, NAME, tags=["Axon", "Elixir"])
    assert done.changed and len(str(done.revision)) == 40
    model = {"README.md", "graph.json", "model.safetensors", "report.json"}
    assert set(done.files) == model | {"convolution-v1.livemd", "convolution_v1.ex"}
    assert [model.name for model in hubtool.search(tags=["Axon"])] == [NAME]
    assert [model.name for model in hubtool.search(tags=["Axon", "Elixir"])] == [NAME]
    assert hubtool.search(tags=["axon"]) == hubtool.search(tags=["Axon", "other"]) == []
    assert [model.name for model in hubtool.search("VOLUTION", author="axon")] == [NAME]
    about = hubtool.model_info(NAME)
    assert about.revision == done.revision
    assert {"Axon", "Elixir", "hubtool"} <= set(about.tags)
    hashes = {file["path"]: file["hash"] for file in about.files}
    assert hashes["model.safetensors"] == sha256(folder / "model.safetensors")
    assert np.array_equal(hubtool.load(NAME)(X), hubtool.load(folder)(X))


def test_a_pull_is_the_folder_that_was_pushed(home: Path, folder: Path, tmp_path: Path) -> None:
    hubtool.push(folder, NAME)
    pulled = hubtool.pull(NAME)
    for name in ("graph.json", "model.safetensors", "report.json"):
        assert (pulled / name).read_bytes() == (folder / name).read_bytes()
    assert "library_name: hubtool" in (pulled / "README.md").read_text()
    assert not (folder / "README.md").exists()
    copy = hubtool.pull(NAME, to=tmp_path / "copy")
    assert not any(path.is_symlink() for path in copy.rglob("*"))
    assert hubtool.check(copy) == []


def test_a_second_push_of_the_same_changes_and_sends_nothing(home: Path, folder: Path) -> None:
    first = hubtool.push(folder, NAME)
    sent: list[str] = []
    again = hubtool.push(folder, NAME, progress=lambda path, done, size: sent.append(path))
    assert (again.revision, again.changed) == (first.revision, False)
    # Each file was read for its hash and not once more to be sent.
    blobs = [path.name for path in (home / "hub" / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == len(set(blobs)) == 7


def test_what_changed_becomes_a_commit_on_top_and_the_old_one_stays(
    home: Path, folder: Path, tmp_path: Path
) -> None:
    first = hubtool.push(folder, NAME, tags=["old"])
    other = convolution(tmp_path / "other", seed=1)
    second = hubtool.push(other, NAME, tags=["new"], message="Better weights")
    assert second.changed and second.revision != first.revision
    assert hubtool.model_info(NAME).revision == second.revision
    assert [hubtool.search(tags=[tag]) != [] for tag in ("old", "new")] == [False, True]
    before = hubtool.load(NAME, revision=first.revision)(X)
    assert np.array_equal(before, hubtool.load(folder)(X))
    assert np.array_equal(hubtool.load(NAME)(X), hubtool.load(other)(X))


def test_a_branch_of_its_own_leaves_main_alone(home: Path, folder: Path, tmp_path: Path) -> None:
    first = hubtool.push(folder, NAME)
    other = convolution(tmp_path / "other", seed=1)
    second = hubtool.push(other, NAME, revision="next/one")
    assert hubtool.model_info(NAME).revision == first.revision
    assert hubtool.model_info(NAME, revision="next/one").revision == second.revision
    pulled = hubtool.pull(NAME, revision="next/one")
    assert sha256(pulled / "model.safetensors") == sha256(other / "model.safetensors")


def test_a_dry_run_sends_nothing(home: Path, folder: Path) -> None:
    plan = hubtool.push(folder, NAME, tags=["Axon"], dry_run=True)
    assert plan.revision is None and "model.safetensors" in plan.files
    assert any("Training data" in warning for warning in plan.warnings)
    assert not (home / "hub").exists()


def test_a_card_with_errors_is_refused_before_anything_is_sent(home: Path, folder: Path) -> None:
    (folder / "README.md").write_text(
        "---\nlicense: apache2.0\ntags:\n Axon\n Elixir\n---\n# A model\nIn /home/me/models.\n"
    )
    with pytest.raises(InputError) as refused:
        hubtool.push(folder, NAME)
    said = str(refused.value)
    assert "README.md:2" in said and "apache-2.0" in said
    assert "Axon Elixir" in said and "/home/me" in said
    assert not (home / "hub").exists()


def test_tags_that_are_no_list_get_none_added(home: Path, folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags:\n Axon\n Elixir\n---\n# A model\n")
    with pytest.raises(InputError, match="no list"):
        hubtool.push(folder, NAME, tags=["more"])


def test_only_a_whole_model_folder_is_published(home: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"holds no graph\.json"):
        hubtool.push(tmp_path, NAME)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(ReadError) as refused:
        hubtool.push(folder, NAME)
    assert "model.safetensors: its sha256 is" in str(refused.value)
    assert not (home / "hub").exists()


def test_a_public_model_does_not_become_private_by_a_push(home: Path, folder: Path) -> None:
    hubtool.push(folder, NAME)
    with pytest.raises(InputError, match="is public at"):
        hubtool.push(folder, NAME, private=True)
    hubtool.push(folder, "axon/hidden", private=True)
    assert hubtool.model_info("axon/hidden").private


def test_a_push_onto_a_full_disk_takes_back_the_repository_it_made(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubtool.hub.server import store

    honest, calls = store.files.temporary_file, iter(range(100))

    def full_after_the_first(place: Path) -> object:
        if next(calls) > 0:
            raise OSError(28, "No space left on device")
        return honest(place)

    monkeypatch.setattr(store.files, "temporary_file", full_after_the_first)
    with pytest.raises(HubError, match="disk is full") as refused:
        hubtool.push(folder, NAME)
    assert len(str(refused.value).splitlines()) == 2
    monkeypatch.setattr(store.files, "temporary_file", honest)
    assert hubtool.search() == []
    with pytest.raises(HubError, match="no such model"):
        hubtool.pull(NAME)


def test_a_pull_onto_a_full_disk_says_so_and_keeps_what_was_there(
    home: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubtool.push(folder, NAME)
    copy = hubtool.pull(NAME, to=tmp_path / "copy")
    hubtool.push(convolution(tmp_path / "other", seed=1), NAME)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hubtool.hub.download._keep_validator", full)
    with pytest.raises(WriteError, match="No space left on device"):
        hubtool.pull(NAME, to=copy, overwrite=True)
    assert sha256(copy / "model.safetensors") == sha256(folder / "model.safetensors")
    assert hubtool.check(copy) == []


def test_a_flipped_byte_in_the_store_is_named_and_not_kept(home: Path, folder: Path) -> None:
    hubtool.push(folder, NAME)
    stored = blob(home, sha256(folder / "model.safetensors"))
    stored.chmod(0o644)
    with stored.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    command = [sys.executable, "-m", "hubtool", "pull", NAME]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1
    assert f"model.safetensors of {NAME} came damaged" in failed.stderr
    assert "Traceback" not in failed.stderr
    with pytest.raises(HubError, match="came damaged"):
        hubtool.load(NAME)


def test_parts_may_be_fetched_and_unknown_ones_are_named(home: Path, folder: Path) -> None:
    hubtool.push(folder, NAME)
    part = hubtool.pull(NAME, files=["*.json"])
    assert sorted(path.name for path in part.iterdir()) == ["graph.json", "report.json"]
    with pytest.raises(HubError, match=r"'model\.bin'") as refused:
        hubtool.pull(NAME, files=["model.bin"])
    assert "model.safetensors" in str(refused.value)


def test_loading_fetches_no_more_than_it_needs(home: Path, folder: Path) -> None:
    hubtool.push(folder, NAME)
    hubtool.load(NAME)
    (kept,) = home.glob("pulled/embedded/models--*/snapshots/*")
    assert sorted(path.name for path in kept.iterdir()) == ["graph.json", "model.safetensors"]


def test_a_model_without_weights_is_loaded_without_fetching_the_rest(
    home: Path, tmp_path: Path
) -> None:
    from hubtool import Graph, Layer, Value

    value = Value("tensor", "float32", ("N", 4))
    graph = Graph([Layer("r", "Relu", {"X": "x"}, ["y"])], {"x": value}, {"y": value}, {})
    hubtool.save(graph, tmp_path / "relu")
    hubtool.push(tmp_path / "relu", "axon/relu")
    assert hubtool.load("axon/relu")(np.float32([[-1, 0, 1, 2]])).tolist() == [[0, 0, 1, 2]]
    (kept,) = home.glob("pulled/embedded/models--*/snapshots/*")
    assert {path.suffix for path in kept.iterdir()} <= {".json", ".safetensors"}
    assert not (kept / "README.md").exists()


def test_an_existing_folder_is_kept_unless_it_is_a_model_and_told_so(
    home: Path, folder: Path, tmp_path: Path
) -> None:
    hubtool.push(folder, NAME)
    with pytest.raises(WriteError, match="exists already"):
        hubtool.pull(NAME, to=folder)
    hubtool.pull(NAME, to=folder, overwrite=True)
    assert (folder / "README.md").is_file()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("…")
    with pytest.raises(WriteError, match="no model of hubtool"):
        hubtool.pull(NAME, to=other, overwrite=True)
    assert (other / "chapter.tex").read_text() == "…"


def test_two_pushes_at_once_both_land_and_are_not_mixed(home: Path, tmp_path: Path) -> None:
    folders = [convolution(tmp_path / f"m{seed}", seed, 64 + seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda folder: hubtool.push(folder, NAME), folders))
    assert len({each.revision for each in done}) == 4
    for each, folder in zip(done, folders, strict=True):
        pulled = hubtool.pull(NAME, revision=each.revision)
        assert hubtool.check(pulled) == []
        assert sha256(pulled / "model.safetensors") == sha256(folder / "model.safetensors")


def test_a_push_that_always_comes_second_gives_up_clearly(
    home: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubtool.push(folder, NAME)
    stale = hubtool.model_info(NAME).revision
    hubtool.push(convolution(tmp_path / "other", seed=1), NAME)
    third = convolution(tmp_path / "third", seed=2)
    commit = push_room._commit

    def behind(hub: object, *rest: object) -> object:
        class Api:
            def repo_info(self, *_: object, **__: object) -> object:
                return type("Info", (), {"sha": stale})()

            def __getattr__(self, name: str) -> object:
                return getattr(hub.api, name)  # type: ignore[attr-defined]

        return commit(type("Behind", (), {"api": Api(), "hub": hub.hub})(), *rest)  # type: ignore

    monkeypatch.setattr(push_room, "_commit", behind)
    with pytest.raises(HubError) as refused:
        hubtool.push(third, NAME)
    assert "push again" in str(refused.value)


@pytest.mark.parametrize("exists", [False, True])
def test_a_push_killed_at_any_moment_leaves_the_old_or_the_new(
    home: Path, folder: Path, tmp_path: Path, exists: bool
) -> None:
    if exists:
        hubtool.push(folder, NAME)
    other = convolution(tmp_path / "other", seed=1)
    command = [sys.executable, "-m", "hubtool", "push", str(other), NAME]
    started = time.monotonic()
    subprocess.run([*command, "--hub", str(trial(tmp_path))], check=True, capture_output=True)
    length = time.monotonic() - started
    allowed = {sha256(other / "model.safetensors")} | (
        {sha256(folder / "model.safetensors")} if exists else set()
    )
    for moment in range(6):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.wait(length * (0.4 + moment / 10))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        try:
            pulled = hubtool.pull(NAME)
        except HubError as error:
            assert not exists and "no such model" in str(error)
            continue
        if (pulled / "graph.json").exists() or exists:
            assert hubtool.check(pulled) == []
            assert sha256(pulled / "model.safetensors") in allowed
        else:
            assert [path.name for path in pulled.iterdir()] == [".gitattributes"]
    hubtool.push(other, NAME)
    assert sha256(hubtool.pull(NAME) / "model.safetensors") == sha256(other / "model.safetensors")


def trial(tmp_path: Path) -> Path:
    place = tmp_path / "trial"
    place.mkdir()
    return place


def test_an_unknown_model_is_told_in_one_message(home: Path) -> None:
    for act in (hubtool.pull, hubtool.model_info, hubtool.load):
        with pytest.raises(HubError, match=r"no such model.*private|private") as refused:
            act("axon/nothing")
        assert "`hubtool list`" in str(refused.value)


def test_an_unknown_revision_is_told(home: Path, folder: Path) -> None:
    hubtool.push(folder, NAME)
    with pytest.raises(HubError, match="v9"):
        hubtool.pull(NAME, revision="v9")


@contextmanager
def read_only(root: Path) -> Iterator[str]:
    """A hub as it is on an address that is not this machine's own: without users, nobody writes."""
    app = create_app(root, open_writes=False)
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        app.close()


@pytest.mark.parametrize(
    ("token", "said"),
    [(None, "writes are refused"), ("wrong", "Invalid credentials in Authorization header")],
)
def test_a_missing_or_wrong_token_is_one_message(
    home: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    said: str,
) -> None:
    with read_only(tmp_path / "hub") as url:
        monkeypatch.setenv("HUBTOOL_HUB", url)
        if token:
            monkeypatch.setenv("HUBTOOL_TOKEN", token)
        command = [sys.executable, "-m", "hubtool", "push", str(folder), NAME]
        failed = subprocess.run(command, capture_output=True, text=True)
        assert failed.returncode == 1
        assert failed.stderr.startswith(f"hubtool: cannot publish {NAME} at ")
        assert said in failed.stderr and "HUBTOOL_TOKEN" in failed.stderr
        assert len(failed.stderr.splitlines()) == 2 and "Traceback" not in failed.stderr
        assert hubtool.search() == []


def test_what_was_pulled_serves_when_the_hub_is_away(
    home: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(tmp_path / "hub") as url:
        hubtool.push(folder, NAME, hub=url)
        expected = hubtool.load(NAME, hub=url)(X)
    assert np.array_equal(hubtool.load(NAME, hub=url)(X), expected)
    assert "using what was pulled before" in caplog.text
    with pytest.raises(HubError, match="cannot be reached"):
        hubtool.load("axon/other", hub=url)


def test_two_hubs_do_not_mix_in_the_cache(home: Path, folder: Path, tmp_path: Path) -> None:
    other = convolution(tmp_path / "other", seed=1)
    with served(tmp_path / "one") as one, served(tmp_path / "two") as two:
        hubtool.push(folder, NAME, hub=one)
        hubtool.push(other, NAME, hub=two)
        for url, pushed in ((one, folder), (two, other)):
            pulled = hubtool.pull(NAME, hub=url)
            assert sha256(pulled / "model.safetensors") == sha256(pushed / "model.safetensors")


def test_a_hub_may_be_a_folder_given_by_name(home: Path, folder: Path, tmp_path: Path) -> None:
    place = trial(tmp_path)
    hubtool.push(folder, NAME, hub=str(place))
    assert [model.name for model in hubtool.search(hub=str(place))] == [NAME]
    assert hubtool.search() == []


def test_the_embedded_hub_minds_no_proxy_and_no_offline_mode(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for arguments in (["push", str(folder), NAME], ["list", "--json"], ["pull", NAME]):
        command = [sys.executable, "-m", "hubtool", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if arguments[0] == "list":
            assert [model["name"] for model in json.loads(done.stdout)] == [NAME]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HTTPS_PROXY": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)
def test_no_network_is_one_message(
    home: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    said: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for arguments in (["push", str(folder), NAME], ["list"], ["pull", NAME], ["info", NAME]):
        command = [sys.executable, "-m", "hubtool", *arguments, "--hub", "hf"]
        failed = subprocess.run(command, capture_output=True, text=True)
        assert failed.returncode == 1, arguments
        assert failed.stderr.startswith("hubtool: cannot ") and said in failed.stderr
        assert "huggingface.co" in failed.stderr and "Traceback" not in failed.stderr
        assert len(failed.stderr.splitlines()) == 2 and failed.stdout == ""


@pytest.mark.parametrize(
    "path",
    ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:evil", "a//b", "./a", "\x1b[2J", ""],
)
def test_a_hostile_list_of_files_writes_nothing(
    home: Path, folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubtool.push(folder, NAME)
    from huggingface_hub import HfApi

    honest = HfApi.repo_info

    def hostile(self: HfApi, *arguments: object, **more: object) -> object:
        about = honest(self, *arguments, **more)  # type: ignore[arg-type]
        about.siblings[0].rfilename = path
        return about

    monkeypatch.setattr(HfApi, "repo_info", hostile)
    with pytest.raises(HubError, match="list of its files is damaged"):
        hubtool.pull(NAME)
    assert not (home / "pulled").exists()


def test_the_cache_is_listed_and_emptied(home: Path, folder: Path) -> None:
    from hubtool import cache

    hubtool.push(folder, NAME)
    hubtool.pull(NAME)
    (kept,) = cache.pulled()
    assert (kept.hub, kept.name, len(kept.revisions)) == ("embedded", NAME, 1)
    assert kept.size >= (folder / "model.safetensors").stat().st_size
    with pytest.raises(InputError, match="holds no model"):
        cache.remove("axon/other")
    cache.remove(NAME)
    assert cache.pulled() == []
    assert [model.name for model in hubtool.search()] == [NAME]


def test_a_local_folder_comes_before_a_hub(
    home: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "axon").mkdir()
    shutil.move(folder, tmp_path / "axon" / "here")
    monkeypatch.chdir(tmp_path)
    assert len(hubtool.read("axon/here").layers) == 2
    with pytest.raises(HubtoolError, match="there is no file or folder 'axon/there'"):
        hubtool.read("axon/there")
