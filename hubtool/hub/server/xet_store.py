"""The xorbs that were sent, kept so that the next upload need not send the same chunks again.

The chunks of a xorb lie as they came, with their index behind them (`xorbs/…/ab/<hash>`, see
`xet_epochs`).
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from hubtool import files
from hubtool.hub.server import errors, xet_xorb
from hubtool.hub.server.store import full_disk
from hubtool.hub.server.xet_epochs import Epochs
from hubtool.hub.server.xet_xorb import Index

__all__ = ["Incoming", "Opened", "Xorbs"]

OPEN = 8
"""Xorbs that are held open at once while files are rebuilt."""

NAME = re.compile(r"[0-9a-f]{64}")


class Xorbs(Epochs):
    """The xorbs below a hub's folder."""

    def incoming(self) -> Incoming:
        """A xorb that is about to come, to be used as a context."""
        return Incoming(self.root / "tmp")

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

    def discard(self, epoch: str, name: str) -> None:
        """A xorb is damaged: it goes, and nobody is promised any more what was kept with it."""
        self.place(epoch, name).unlink(missing_ok=True)
        self.collect()


def check_name(name: str) -> None:
    """Raises Refusal 400 unless this can be the name of a xorb."""
    if not NAME.fullmatch(name):
        raise errors.bad_request(f"'{name}' is no hash: 64 hexadecimal digits make one.")


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
