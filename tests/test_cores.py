"""How many cores there are for a process: where it may run, and what its control groups allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubtool import cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 cores, with control groups of its own, which set no quota yet."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(cores, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN", tmp_path / "own")
    return tmp_path


def say(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_without_control_groups_it_is_where_the_process_may_run(groups: Path) -> None:
    assert cores.usable() == 16


@pytest.mark.parametrize(
    ("quota", "wanted"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),  # one and a half keeps two busy most of the time
        ("5000 100000", 1),
        ("9900000 100000", 16),
        ("max 100000", 16),
        ("200000 0", 16),
        ("nonsense", 16),
    ],
)
def test_a_quota_of_version_2_is_the_limit(groups: Path, quota: str, wanted: int) -> None:
    say(groups / "own", "0::/")
    say(groups / "cgroup/cpu.max", quota)
    assert cores.usable() == wanted


def test_the_groups_around_a_group_limit_it_too(groups: Path) -> None:
    say(groups / "own", "0::/pod/container")
    say(groups / "cgroup/pod/cpu.max", "300000 100000")
    say(groups / "cgroup/pod/container/cpu.max", "800000 100000")
    say(groups / "cgroup/other/cpu.max", "100000 100000")
    assert cores.usable() == 3


def test_a_quota_of_version_1_is_the_limit(groups: Path) -> None:
    say(groups / "own", "3:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n0::/")
    base = groups / "cgroup/cpu,cpuacct"
    say(base / "cpu.cfs_quota_us", "400000")  # all that a container sees of its own path
    say(base / "cpu.cfs_period_us", "100000")
    assert cores.usable() == 4
    say(base / "cpu.cfs_quota_us", "-1")
    assert cores.usable() == 16


def test_nothing_is_read_outside_of_the_groups(groups: Path) -> None:
    say(groups / "own", "0::/../elsewhere")
    say(groups / "elsewhere/cpu.max", "100000 100000")
    assert cores.usable() == 16
    say(groups / "cgroup/cpu.max", "500000 100000")
    assert cores.usable() == 5
