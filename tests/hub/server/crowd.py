"""Processes that share a hub, and processes that are killed: what the tests run beside themselves.

Run as `python -m hub.server.crowd TASK ROOT` from the folder of the tests. A task begins in a small
process without threads, so it may fork; it prints its findings as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hubtool.hub.server.errors import Refusal

from . import faults
from .bodies import Hub, file, header

PROCESSES = 8
COMMITS = 12
LINES = [
    header("the second"),
    file("README.md", b"---\ntags: [Axon]\n---\n"),
    file("weights", b"w" * 70_000),
]
FORK = get_context("fork")


def crowd(root: Path) -> Any:
    """Many processes commit to one repository at once, each its own files."""

    def work(number: int) -> None:
        hub = Hub(root)
        barrier.wait()
        repo = hub.meta.repo("axon/m")
        for turn in range(COMMITS):
            hub.commit(repo, header(f"{number} {turn}"), file(f"{number}/{turn}", b"%d" % turn))
        hub.meta.close()

    barrier = FORK.Barrier(PROCESSES)
    return _together(work)


def race(root: Path) -> Any:
    """Many processes commit at once on the same parent: what each was told."""

    def work(number: int) -> None:
        hub = Hub(root)
        repo = hub.meta.repo("axon/m")
        barrier.wait()
        try:
            hub.commit(repo, header(parentCommit=repo.head), file(f"{number}", b"%d" % number))
            told.put("landed")
        except Refusal as refusal:
            told.put(refusal.status)
        hub.meta.close()

    barrier = FORK.Barrier(PROCESSES)
    told: Any = FORK.Queue()
    codes = _together(work)
    return {"codes": codes, "told": [told.get() for _ in range(PROCESSES)]}


def openers(root: Path) -> Any:
    """Many processes make the same hub at once."""

    def work(number: int) -> None:
        barrier.wait()
        hub = Hub(root)
        hub.meta.create(f"axon/m{number}")
        hub.meta.close()

    barrier = FORK.Barrier(PROCESSES)
    return _together(work)


def kills(root: Path) -> Any:
    """A create and a commit, killed before every step on the disk or in the database in turn."""
    prepared = root / "prepared"
    hub = Hub(prepared)
    hub.meta.create("axon/m")
    hub.meta.close()
    found: list[dict[str, Any]] = []
    while not found or found[-1]["killed"]:
        place = root / f"{len(found) + 1}"
        shutil.copytree(prepared, place)
        found.append(_killed_at(len(found) + 1, place))
    return found


def endless(root: Path) -> None:
    """Commits for ever, and says which commits were made; somebody else will end it."""
    hub = Hub(root)
    repo = hub.meta.repo("axon/m")
    for number in count():
        path = f"{os.getpid()}/{number}"
        commit = hub.commit(repo, header(), file(path, os.urandom(20_000)))
        sys.stdout.write(f"{commit.oid}\n")
        sys.stdout.flush()


def _together(work: Callable[[int], None]) -> list[int | None]:
    processes = [FORK.Process(target=work, args=(number,)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _killed_at(step: int, place: Path) -> dict[str, Any]:
    """What a process acknowledged and left that was killed at its so manieth step."""
    end, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        _count_steps(step)
        hub = Hub(place)
        made = hub.meta.create("axon/new")
        os.write(begin, b"create\n")
        commit = hub.commit(hub.meta.repo("axon/m"), *LINES)
        os.write(begin, f"{commit.oid} {made.head}\n".encode())
        os._exit(0)
    os.close(begin)
    with os.fdopen(end) as stream:
        said = stream.read().split()
    _, status = os.waitpid(child, 0)
    return {"killed": os.WIFSIGNALED(status), "code": status, "said": said, "place": str(place)}


def _count_steps(last: int) -> None:
    """Kill this process before its last step."""
    steps = 0

    def step(name: str) -> None:
        nonlocal steps
        if name == "sql trigger":
            return  # part of another statement
        steps += 1
        if steps == last:
            faults.die()

    faults.watch(step)


if __name__ == "__main__":
    task = {"crowd": crowd, "race": race, "openers": openers, "kills": kills, "endless": endless}
    sys.stdout.write(json.dumps(task[sys.argv[1]](Path(sys.argv[2]))))
