"""How many processor cores there are for this process.

Those that it may be scheduled on, and no more than its control group's quota of processor time lets
it use: a container that may use two of 64 cores' time is told 64 by the system, and 64 threads
would spend most of theirs waiting.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["usable"]

GROUPS = Path("/sys/fs/cgroup")
"""Where control groups are mounted."""

OWN = Path("/proc/self/cgroup")
"""Which of them this process is in, a line for each hierarchy: number:controllers:path."""


def usable() -> int:
    """The cores for this process, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """The quotas of processor time that hold for this process, in cores.

    Control groups of version 2 say it in cpu.max ("200000 100000", or "max …"), of version 1 in two
    files of the hierarchy of `cpu`, where -1 is no quota.
    https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    for line in _read(OWN).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for group in _upwards(GROUPS, path):
                yield from _quota(_read(group / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for group in _upwards(GROUPS / controllers, path):
                told = (_read(group / f"cpu.cfs_{what}_us").strip() for what in ("quota", "period"))
                yield from _quota([*told])


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """A group and those that it is in, as far as they are seen from here: outside of what a
    container sees (..) its root stands for all."""
    group = root / path.strip("/")
    if ".." in group.parts:
        group = root
    yield group
    while group != root and root in group.parents:
        group = group.parent
        yield group


def _quota(told: list[str]) -> Iterator[float]:
    if len(told) == 2 and all(part.isdecimal() for part in told) and int(told[1]):
        yield int(told[0]) / int(told[1])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
