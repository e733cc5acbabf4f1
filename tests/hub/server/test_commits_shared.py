"""Many processes on one repository, and processes that are killed: see crowd.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtool.hub.server import index
from hubtool.hub.server.check import check
from hubtool.hub.server.meta import Repo

from . import crowd
from .bodies import Hub

TESTS = Path(__file__).parents[2]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.meta.create("axon/m")


def run(task: str, root: Path) -> Any:
    arguments = [sys.executable, "-m", "hub.server.crowd", task, str(root)]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=TESTS).stdout
    return json.loads(output)


def test_commits_of_many_processes_all_land(hub: Hub, repo: Repo) -> None:
    assert run("crowd", hub.root) == [0] * crowd.PROCESSES
    head = hub.meta.repo(repo.name).head
    content = hub.content(head)
    expected = {
        f"{number}/{turn}": b"%d" % turn
        for number in range(crowd.PROCESSES)
        for turn in range(crowd.COMMITS)
    }
    assert {path: content[path] for path in content if path != ".gitattributes"} == expected
    log = hub.meta.log(repo, head, limit=999)
    assert len(log) == len(expected) + 1
    assert {commit.title for commit in log[:-1]} == {path.replace("/", " ") for path in expected}
    assert len(list(hub.store.blobs.rglob("?" * 64))) == crowd.COMMITS + 1


def test_of_many_commits_on_one_parent_one_lands(hub: Hub, repo: Repo) -> None:
    found = run("race", hub.root)
    assert found["codes"] == [0] * crowd.PROCESSES
    assert sorted(map(str, found["told"])) == ["412"] * (crowd.PROCESSES - 1) + ["landed"]
    assert len(hub.meta.log(repo, hub.meta.repo(repo.name).head, limit=99)) == 2


def test_many_processes_may_make_the_same_hub_at_once(tmp_path: Path) -> None:
    assert run("openers", tmp_path / "hub") == [0] * crowd.PROCESSES
    hub = Hub(tmp_path / "hub")
    for number in range(crowd.PROCESSES):
        assert len(hub.content(hub.meta.repo(f"axon/m{number}").head)) == 1
    hub.meta.close()


def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    found = run("kills", tmp_path)
    assert len(found) > 40
    assert [one["killed"] for one in found] == [True] * (len(found) - 1) + [False]
    assert found[-1]["code"] == 0
    landed = 0
    for one in found:
        assert check(Path(one["place"])).problems == []
        hub = Hub(Path(one["place"]))
        made = {repo.name: repo for repo in index.search(hub.meta)[0]}
        assert set(made) - {"axon/new"} == {"axon/m"}
        assert "axon/new" in made or one["said"] == []
        repo = made["axon/m"]
        content = hub.content(repo.head)
        assert len(content) in (1, 3)
        assert repo.tags == (["Axon"] if len(content) == 3 else [])
        landed += len(content) == 3
        if len(one["said"]) > 1:
            assert repo.head == one["said"][1]
            assert content["weights"] == b"w" * 70_000
        hub.store.sweep()
        assert hub.temporaries() == []
        again = hub.commit(repo, *crowd.LINES)
        assert len(hub.content(again.oid)) == 3
        assert len(hub.meta.log(repo, again.oid, limit=9)) == 2
        hub.meta.close()
        sound = check(hub.root)
        assert (sound.problems, sound.strays) == ([], [])
    assert 1 <= landed < len(found) / 2


def test_no_acknowledged_commit_is_lost_by_a_kill(hub: Hub, repo: Repo) -> None:
    arguments = [sys.executable, "-m", "hub.server.crowd", "endless", str(hub.root)]
    for _ in range(3):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=TESTS) as process:
            assert process.stdout
            said = [process.stdout.readline() for _ in range(7)]
            process.kill()
            said += process.stdout.readlines()
        acknowledged = {oid.strip() for oid in said if oid.endswith("\n")}
        assert len(acknowledged) >= 7
        log = [
            commit.oid for commit in hub.meta.log(repo, hub.meta.repo(repo.name).head, limit=999)
        ]
        assert acknowledged <= set(log)
        assert len(hub.content(log[0])) == len(log)
