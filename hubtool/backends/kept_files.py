"""What backends make ready and keep on disk for the next process: private, whole, and bounded.

    $HUBTOOL_HOME/compiled/<backend>/<name>      the name is a hash of all that the file depends on

Whoever may write into such a folder decides what this process runs. So it is made for its owner
only, and nothing is read from one that others can write to. A file is written whole or not at all;
one that cannot be written or read is no error, for all of it can be made again. When a file is
used, its time of access is set, and over the limit what was used least recently goes; the time of
modification stays that of its writing.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from hubtool.errors import HubtoolError
from hubtool.files import new_file

__all__ = ["is_ours", "keep", "processor", "tidy", "used"]


def is_ours(path: Path) -> bool:
    """Whether there is such a file, and nobody but this process's user (or root) can have written
    it or put it there."""
    try:
        return all(_private(each.stat()) for each in (path.parent, path))
    except OSError:
        return False


def _private(status: os.stat_result) -> bool:
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022


def used(path: Path) -> None:
    """Remember that the file was used now."""
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except OSError:
        return


def keep(path: Path, pieces: Iterable[bytes | memoryview[Any]], limit: int) -> bool:
    """Write the file, if the disk lets us, and remove what is too much beside it. Whether it did,
    and the folder is ours alone."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _private(path.parent.stat()):
            return False
        with new_file(path, overwrite=True) as stream:
            for piece in pieces:
                stream.write(piece)
        tidy(path.parent, limit)
    except (OSError, HubtoolError):
        return False
    return is_ours(path)


def tidy(place: Path, limit: int) -> None:
    """Remove what was used least recently, until the rest is within the limit, in bytes."""
    files = [(each.stat(), each) for each in place.iterdir() if each.is_file()]
    total = sum(status.st_size for status, _ in files)
    for status, each in sorted(files, key=lambda pair: (pair[0].st_atime_ns, pair[1].name)):
        if total <= limit:
            break
        each.unlink(missing_ok=True)
        total -= status.st_size


@cache
def processor() -> str:
    """The model of the processor and what it can: what was made for one may not do on another."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
            lines = [*iter(lambda: stream.readline().strip(), "")]  # of the first core
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.platform()}"
    told = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU"))}
    return f"{platform.machine()} {sorted(told)}"
