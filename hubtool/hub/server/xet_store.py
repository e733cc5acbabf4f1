"""The xorbs that were sent, kept so that the next upload need not send the same chunks again.

    xorbs/<store>-<second>/ab/<hash>    the chunks as they came, and their index behind them

A client remembers, by the address that it sent chunks to, which ones are there, and takes that as
true ever after. So the address holds a name that means this store and this collection of it: none
but the xorbs of one folder were ever promised under it. A collection begins at a second that its
name tells, and ends when the next one begins, a month later or when someone collects; then uploads
under way have a day left, and it goes as a whole. A file is never rebuilt from a xorb again once it
is a blob, so nothing published depends on what lies here, and a backup is better without it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from hubtool import files
from hubtool.hub.server import errors, xet_xorb
from hubtool.hub.server.store import full_disk
from hubtool.hub.server.xet_xorb import Index

__all__ = ["Incoming", "Opened", "Xorbs"]

KEEP_S = 30 * 86_400
GRACE_S = 86_400
TRUSTED_S = 3_600
"""As long as a collection is young, a client that names what is not there is not believed."""
OPEN = 8
"""Xorbs that are held open at once while files are rebuilt."""

EPOCH = re.compile(r"[0-9a-f]{32}-(\d{1,12})", re.ASCII)
NAME = re.compile(r"[0-9a-f]{64}")


class Xorbs:
    """The collections of xorbs below a hub's folder."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "xorbs"
        self._tmp = root / "tmp"

    def epochs(self) -> list[str]:
        """The names of the collections, the latest last."""
        if not self._folder.is_dir():
            return []
        found = [match for path in self._folder.iterdir() if (match := EPOCH.fullmatch(path.name))]
        return [match[0] for match in sorted(found, key=lambda match: (int(match[1]), match[0]))]

    def current(self) -> str:
        """The collection that uploads which begin now belong to; old ones go on the way."""
        epochs = self.epochs()
        if not epochs or time.time() - _began(epochs[-1]) > KEEP_S:
            return self.collect()
        for epoch, following in pairwise(epochs):
            if time.time() - _began(following) > GRACE_S:
                shutil.rmtree(self._folder / epoch, ignore_errors=True)
        return epochs[-1]

    def collect(self) -> str:
        """Begin a new collection, so that what is kept now goes in a day; its name."""
        epochs = self.epochs()
        began = max([int(time.time()), *(_began(epoch) + 1 for epoch in epochs)])
        store = epochs[-1].partition("-")[0] if epochs else uuid.uuid4().hex
        epoch = f"{store}-{began}"
        with full_disk():
            (self._folder / epoch).mkdir(parents=True, exist_ok=True)
            files.sync(self._folder)
            files.sync(self._folder.parent)
        return self.epochs()[-1]

    def check_epoch(self, epoch: str) -> None:
        """Refusal 404 unless the collection is there."""
        if not EPOCH.fullmatch(epoch) or not (self._folder / epoch).is_dir():
            raise errors.Refusal(
                404, "This address is not good any more, or never was: begin the upload again."
            )

    def incoming(self) -> Incoming:
        """A xorb that is about to come, to be used as a context."""
        return Incoming(self._tmp)

    def keep(self, epoch: str, name: str, incoming: Incoming) -> bool:
        """Checks a xorb that came, and keeps it; False if it was there.
        Refusal 400 where it is not what its name says."""
        check_name(name)
        try:
            index = xet_xorb.read(incoming.rewound())
        except ValueError as error:
            raise errors.bad_request(f"The xorb {name} is damaged: {error}.") from None
        if index.name != name:
            raise errors.bad_request(f"The xorb {name} holds the chunks of {index.name}.")
        place = self.place(epoch, name)
        if place.exists():
            return False
        with full_disk():
            incoming.put(place, index)
        return True

    def place(self, epoch: str, name: str) -> Path:
        """Where a xorb lies, or would lie."""
        return self._folder / epoch / name[:2] / name

    def doubt(self, epoch: str) -> None:
        """A client takes a xorb for kept that is not: after an older state of this folder was put
        back, say. It would do so again and again, so a new collection begins."""
        if epoch == self.current() and time.time() - _began(epoch) > TRUSTED_S:
            self.collect()

    def discard(self, epoch: str, name: str) -> None:
        """A xorb is damaged: it goes, and nobody is promised any more what was kept with it."""
        self.place(epoch, name).unlink(missing_ok=True)
        self.collect()


def check_name(name: str) -> None:
    """Raises Refusal 400 unless this can be the name of a xorb."""
    if not NAME.fullmatch(name):
        raise errors.bad_request(f"'{name}' is no hash: 64 hexadecimal digits make one.")


def _began(epoch: str) -> int:
    return int(epoch.rpartition("-")[2])


class Incoming:
    """A xorb on its way in: `write` it, then hand it to `Xorbs.keep`; else nothing stays."""

    def __init__(self, tmp: Path) -> None:
        self._tmp = tmp
        self._stack = ExitStack()

    def __enter__(self) -> Incoming:
        with full_disk():
            self._temporary, lock = files.temporary_file(self._tmp / "xorb")
        self._stream: BinaryIO = self._stack.enter_context(os.fdopen(lock, "w+b"))
        self._stack.callback(self._temporary.unlink, missing_ok=True)
        return self

    def write(self, data: bytes) -> None:
        """The next piece of it. Raises Refusal 507 where the disk is full."""
        with full_disk():
            self._stream.write(data)

    def rewound(self) -> BinaryIO:
        """What came, from its beginning. Raises Refusal 507 where the disk is full."""
        with full_disk():
            self._stream.seek(0)
        return self._stream

    def put(self, place: Path, index: Index) -> None:
        """Puts it in place, with its index behind its chunks, on the disk for good."""
        self._stream.truncate(index.ends[-1])
        self._stream.seek(index.ends[-1])
        self._stream.write(index.stored())
        self._stream.flush()
        files.sync(self._temporary)
        place.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.replace(place)
        for folder in (place.parent, place.parent.parent):
            files.sync(folder)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


class Opened:
    """The xorbs of a collection, of which a few are held open; a context."""

    def __init__(self, xorbs: Xorbs, epoch: str) -> None:
        self._xorbs, self._epoch = xorbs, epoch
        self._open: OrderedDict[str, tuple[BinaryIO, Index]] = OrderedDict()

    def index(self, name: str) -> Index:
        """What is known of a xorb. Refusal 400 if it was never sent."""
        return self._opened(name)[1]

    def chunks(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """The contents of some of its chunks. Refusal 500 where they are not what they were."""
        stream, index = self._opened(name)
        try:
            yield from xet_xorb.chunks(stream, index, start, end)
        except ValueError as error:
            raise self._damaged(name, error) from None

    def _opened(self, name: str) -> tuple[BinaryIO, Index]:
        if name not in self._open:
            try:
                stream = self._xorbs.place(self._epoch, name).open("rb")
            except FileNotFoundError:
                self._xorbs.doubt(self._epoch)
                raise errors.bad_request(
                    f"The xorb {name} is not here: begin the upload again, and send it first."
                ) from None
            try:
                self._open[name] = stream, xet_xorb.index_of(stream)
            except ValueError as error:
                stream.close()
                raise self._damaged(name, error) from None
            if len(self._open) > OPEN:
                self._open.popitem(last=False)[1][0].close()
        self._open.move_to_end(name)
        return self._open[name]

    def _damaged(self, name: str, error: ValueError) -> errors.Refusal:
        self._xorbs.discard(self._epoch, name)
        return errors.Refusal(
            500,
            f"This hub is damaged: the xorb {name} is not what it was ({error})."
            " It was thrown away: begin the upload again.",
        )

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for stream, _ in self._open.values():
            stream.close()
