"""The zoo fetched and published, against a hub that holds sketches under the zoo's paths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi

import hubtool
from hubtool import zoo
from hubtool.errors import HubError, InputError, WriteError
from hubtool.hub.server.run import Background

NAMES = ("resnet18-v1", "resnet34-v1")


@pytest.fixture(scope="module")
def sketches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sketches")
    for name in NAMES:
        zoo.sketch(name, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in NAMES}


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory, sketches: dict[str, Path]) -> Iterator[str]:
    """A hub with the zoo's repository, in which the sketches lie where the real files do."""
    with Background(tmp_path_factory.mktemp("legacy")) as url:
        api = HfApi(endpoint=url, token=False)
        api.create_repo(zoo.NAME)
        for name, file in sketches.items():
            api.upload_file(
                path_or_fileobj=file, path_in_repo=zoo.find(name).path, repo_id=zoo.NAME
            )
        yield url


@pytest.fixture(autouse=True)
def published(
    home: Path, legacy: str, sketches: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zoo as it would be if it had published the sketches, at the hub of HF_ENDPOINT."""
    monkeypatch.setenv("HF_ENDPOINT", legacy)
    for name, file in sketches.items():
        facts = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        monkeypatch.setitem(zoo.ZOO, name, replace(zoo.ZOO[name], **facts))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_fetched_file_is_the_published_one(tmp_path: Path) -> None:
    zoo.fetch("resnet18-v1", tmp_path / "r.onnx")
    assert sha256(tmp_path / "r.onnx") == zoo.find("resnet18-v1").sha256
    with pytest.raises(WriteError, match="exists already"):
        zoo.fetch("resnet18-v1", tmp_path / "r.onnx")


def test_a_file_that_is_not_the_published_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(zoo.ZOO, NAMES[0], replace(zoo.ZOO[NAMES[0]], sha256="0" * 64))
    with pytest.raises(HubError, match=r"resnet18-v1-7\.onnx .* came damaged"):
        zoo.fetch(NAMES[0], tmp_path / "r.onnx")
    assert list(tmp_path.glob("*.onnx")) == []


def test_the_zoo_is_published_one_repository_a_model_and_no_step_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = hubtool.publish_zoo(NAMES, to="axon", hub="embedded")
    assert [row.name for row in rows] == [f"axon/{name}" for name in NAMES]
    assert all(row.changed and not row.error for row in rows)
    assert all(row.difference is not None and row.difference < 1e-5 for row in rows)
    found = hubtool.search(tags=["Axon", "Elixir"], hub="embedded")
    assert {model.name for model in found} == {row.name for row in rows}

    card = (hubtool.pull("axon/resnet18-v1", hub="embedded") / "README.md").read_text()
    assert "measured at conversion" not in card
    assert zoo.find("resnet18-v1").sha256 in card and zoo.find("resnet18-v1").url in card
    assert f"{rows[0].difference:.1e}" in card
    assert "untrained" in card and "model-index" not in card
    assert "69.93" in card  # upstream's claim, in the author's words only

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing is fetched again
    again = hubtool.publish_zoo(NAMES, to="axon", hub="embedded")
    assert [row.revision for row in again] == [row.revision for row in rows]
    assert not any(row.changed or row.error for row in again)


def test_files_at_hand_are_known_by_their_hash_and_not_fetched(
    tmp_path: Path, sketches: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    files = [sketches["resnet18-v1"]]
    rows = hubtool.publish_zoo(NAMES, to="axon", hub="embedded", files=files)
    assert [bool(row.error) for row in rows] == [False, True]
    assert "cannot be reached" in rows[1].error
    assert [model.name for model in hubtool.search(hub="embedded")] == ["axon/resnet18-v1"]
    (tmp_path / "other.onnx").write_bytes(b"something else")
    with pytest.raises(InputError, match="no file of the zoo"):
        hubtool.publish_zoo(NAMES, to="axon", hub="embedded", files=[tmp_path / "other.onnx"])
    with pytest.raises(InputError, match=r"is resnet18-v1, which was not asked for"):
        hubtool.publish_zoo(["resnet34-v1"], to="axon", hub="embedded", files=files)


def test_an_unknown_model_is_named_before_anything_happens(home: Path) -> None:
    with pytest.raises(InputError, match="no model 'resnet19-v1'"):
        hubtool.publish_zoo(["resnet18-v1", "resnet19-v1"], to="axon", hub="embedded")
    assert not (home / "hub").exists()
