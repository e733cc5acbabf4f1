"""Looking after a hub, as its owner meets it: the commands below `hubtool hub`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import hubtool
from hubtool.cli import cli
from hubtool.errors import HubError, InputError
from hubtool.hub import care
from hubtool.hub.server.store import Store

NAME = "axon/convolution-v1"


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["hub", *map(str, arguments)], prog_name="hubtool")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def weights(root: Path) -> Path:
    """The largest content of a hub."""
    return max((root / "blobs").rglob("?" * 64), key=lambda path: path.stat().st_size)


def test_a_flipped_byte_is_named_by_pull_and_by_fsck(home: Path, folder: Path) -> None:
    hubtool.push(folder, NAME)
    assert "problems  0" in run("fsck").stdout
    place = weights(home / "hub")
    with place.open("r+b") as stream:
        stream.seek(1000)
        byte = stream.read(1)[0]
        stream.seek(1000)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(HubError) as caught:
        hubtool.pull(NAME)
    assert "model.safetensors" in str(caught.value)
    found = run("fsck", code=1)
    assert f"{place.relative_to(home / 'hub')}: is damaged" in found.stderr
    assert f"used by {NAME}: model.safetensors at main" in found.stderr
    assert "problems  1" in found.stdout
    (problem,) = json.loads(run("fsck", "--json", code=1).stdout)["problems"]
    assert problem["models"] == [f"{NAME}: model.safetensors at main"]
    assert json.loads(run("fsck", "--quick", "--json").stdout)["problems"] == []


def test_a_hub_is_backed_up_and_restored_by_serving_the_copy(
    home: Path, folder: Path, tmp_path: Path
) -> None:
    hubtool.push(folder, NAME)
    told = json.loads(run("backup", tmp_path / "copy", "--json").stdout)
    assert told["models"] == 1 and told["new"] == told["contents"] > 3
    assert "new       0, 0 bytes" in run("backup", tmp_path / "copy").stdout
    assert "problems  0" in run("fsck", "--hub", tmp_path / "copy").stdout
    pulled = hubtool.pull(NAME, hub=str(tmp_path / "copy"), to=tmp_path / "pulled")
    assert hubtool.check(pulled) == []
    weights(home / "hub").unlink()
    assert "is missing" in run("backup", tmp_path / "again", code=1).stderr


def test_a_database_that_is_gone_is_told_and_rebuilt(home: Path, folder: Path) -> None:
    revision = hubtool.push(folder, NAME, tags=["Axon"]).revision
    for path in (home / "hub").glob("hub.db*"):
        path.unlink()
    with pytest.raises(HubError, match="reindex"):
        hubtool.pull(NAME)
    assert "is gone" in run("fsck", code=1).stderr
    assert "models    1" in run("reindex").stdout
    assert [found.name for found in hubtool.search(tags=["Axon"])] == [NAME]
    assert hubtool.model_info(NAME).revision == revision
    run("reindex", "--journal")
    assert "problems  0" in run("fsck").stdout
    assert json.loads(run("reindex", "--json").stdout)["lost"] == []
    run("reindex", "--journal", "--partial", code=2)


def test_what_nobody_names_goes_and_gives_its_room_back(home: Path, folder: Path) -> None:
    hubtool.push(folder, NAME)
    with Store(home / "hub").writer() as writer:
        writer.write(b"nobody's")
        place = writer.finish().place
    assert "young     1 contents, 8 bytes" in run("gc").stdout
    os.utime(place, (1, 1))
    assert "would go  1 contents, 8 bytes" in run("gc", "--dry-run").stdout
    assert place.exists()
    assert json.loads(run("gc", "--grace", "0", "--json").stdout)["bytes"] == 8
    assert not place.exists()
    assert "problems  0" in run("fsck").stdout


def test_a_hub_is_looked_after_where_it_lies(home: Path, tmp_path: Path) -> None:
    for hub, message in [("https://hub.example.org", "no folder"), ("nowhere", "there is no fold")]:
        with pytest.raises(InputError, match=message):
            care.fsck(hub)
        assert message in run("gc", "--hub", hub, code=1).stderr
    assert "there is no hub" in run("fsck", "--hub", tmp_path, code=1).stderr
    assert "there is no hub" in run("fsck", code=1).stderr
