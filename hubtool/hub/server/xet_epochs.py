"""The collections of xorbs that a hub keeps: which there are, when they begin and end.

    xorbs/<store>-<second>/ab/<hash>

A client remembers, by the address that it sent chunks to, which ones are there, and takes that as
true ever after. So the address holds a name that means this store and this collection of it: none
but the xorbs of one folder were ever promised under it. A collection begins at a second that its
name tells, and ends when the next one begins: a month later, or by `hubtool hub gc`. Then uploads
under way have a day left, and it goes as a whole. A file is never rebuilt from a xorb again once it
is a blob, so nothing published depends on what lies here, and a backup is better without it.
"""

from __future__ import annotations

import re
import shutil
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from hubtool import files
from hubtool.hub.server import errors
from hubtool.hub.server.store import Store, full_disk

__all__ = ["Epochs"]

KEEP_S = 30 * 86_400
GRACE_S = 86_400
TRUSTED_S = 3_600
"""As long as a collection is young, a client that names what is not there is not believed."""

EPOCH = re.compile(r"[0-9a-f]{32}-(\d{1,12})", re.ASCII)


class Epochs:
    """The collections of xorbs below a hub's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "xorbs"

    def epochs(self) -> list[str]:
        """The names of the collections, the latest last."""
        if not self.folder.is_dir():
            return []
        found = [match for path in self.folder.iterdir() if (match := EPOCH.fullmatch(path.name))]
        return [match[0] for match in sorted(found, key=lambda match: (int(match[1]), match[0]))]

    def current(self) -> str:
        """The collection that uploads which begin now belong to; old ones go on the way."""
        epochs = self.epochs()
        if not epochs or time.time() - _began(epochs[-1]) > KEEP_S:
            return self.collect()
        self.remove(GRACE_S)
        return epochs[-1]

    def remove(self, grace_s: float, *, dry_run: bool = False) -> int:
        """Remove the collections that ended so many seconds ago; how many bytes they had."""
        size = 0
        for epoch, following in pairwise(self.epochs()):
            if time.time() - _began(following) > grace_s:
                size += _size(self.folder / epoch)
                if not dry_run:
                    shutil.rmtree(self.folder / epoch, ignore_errors=True)
        return size

    def retire(self, grace_s: float) -> None:
        """End the present collection, unless it is younger than that or holds nothing."""
        epochs = self.epochs()
        old = epochs and time.time() - _began(epochs[-1]) > grace_s
        if old and _size(self.folder / epochs[-1]):
            self.collect()

    def collect(self) -> str:
        """Begin a new collection, so that what is kept now goes in a day; its name."""
        epochs = self.epochs()
        began = max([int(time.time()), *(_began(epoch) + 1 for epoch in epochs)])
        epoch = f"{Store(self.root).uuid()}-{began}"
        with full_disk():
            (self.folder / epoch).mkdir(parents=True, exist_ok=True)
            files.sync(self.folder)
            files.sync(self.folder.parent)
        return self.epochs()[-1]

    def check_epoch(self, epoch: str) -> None:
        """Refusal 404 unless the collection is there."""
        if not EPOCH.fullmatch(epoch) or not (self.folder / epoch).is_dir():
            raise errors.Refusal(
                404, "This address is not good any more, or never was: begin the upload again."
            )

    def place(self, epoch: str, name: str) -> Path:
        """Where a xorb lies, or would lie."""
        return self.folder / epoch / name[:2] / name

    def doubt(self, epoch: str) -> None:
        """A client takes a xorb for kept that is not: after an older state of this folder was put
        back, say. It would do so again and again, so a new collection begins."""
        if epoch == self.current() and time.time() - _began(epoch) > TRUSTED_S:
            self.collect()


def _began(epoch: str) -> int:
    return int(epoch.rpartition("-")[2])


def _size(folder: Path) -> int:
    """Bytes of the files below a folder, which may be going at the same time."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size
