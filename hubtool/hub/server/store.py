"""The bytes of every file, named by their sha256, each stored once.

    blobs/ab/cd/abcd…       a file's content, whole and on the disk before it bears this name
    tmp/.blob.*.hubtool-tmp what is being written, flock-ed for as long as its writer lives

A blob is hashed while it is written, fsynced, renamed, and its folders fsynced, so a crash leaves
nothing or the whole of it. Nothing here is ever changed, and several processes may share a store:
the same content written twice at once is the same file. What a dead writer left is swept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from hubtool import files
from hubtool.hub.server import errors

__all__ = ["Blob", "Store", "Writer", "full_disk"]

FULL = {errno.ENOSPC, errno.EDQUOT}
CHUNK = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")


@contextmanager
def full_disk() -> Iterator[None]:
    """Turns the disk being full, or a quota being used up, into a refusal."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise errors.disk_full() from error
        raise


@dataclass(frozen=True)
class Blob:
    """A stored content."""

    sha256: str
    size: int
    place: Path = field(repr=False, compare=False)

    @cached_property
    def oid(self) -> str:
        """Git's name for the same content; read once more for it, only when somebody asks."""
        digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with self.place.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()


class Store:
    """The blobs below a folder, which is made where it is missing."""

    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs"
        self.tmp = root / "tmp"
        for folder in (self.blobs, self.tmp):
            folder.mkdir(parents=True, exist_ok=True)
        files.sync(root)

    def writer(self) -> Writer:
        """A new blob to be written, to be used as a context."""
        return Writer(self)

    def path(self, sha256: str) -> Path:
        """Where a content lies, or would lie."""
        if not SHA256.fullmatch(sha256):
            raise errors.bad_request(f"'{sha256}' is no sha256: 64 hexadecimal digits make one.")
        return self.blobs / sha256[:2] / sha256[2:4] / sha256

    def has(self, sha256: str) -> bool:
        """Whether a content is stored."""
        return self.size(sha256) is not None

    def size(self, sha256: str) -> int | None:
        """How long a stored content is; None if it is not stored."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def sweep(self) -> None:
        """Remove what writers left that are no longer alive."""
        files.sweep(self.tmp)


class Writer:
    """One content on its way into a store: `write` it, then `finish`; else nothing stays."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sha256 = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Writer:
        with full_disk():
            self._temporary, lock = files.temporary_file(self._store.tmp / "blob")
        self._stream: BinaryIO = os.fdopen(lock, "wb", buffering=0)
        return self

    def write(self, data: bytes) -> None:
        """The next piece of the content. Raises Refusal 507 where the disk is full."""
        with full_disk():
            rest = memoryview(data)
            while rest:
                rest = rest[self._stream.write(rest) :]
        self._sha256.update(data)
        self.size += len(data)

    def finish(self, sha256: str | None = None, size: int | None = None) -> Blob:
        """Puts the content in place, on the disk for good; it must be what was announced.

        Raises Refusal 400 where sha256 or size are others, 507 where the disk is full.
        """
        found = self._sha256.hexdigest()
        if size is not None and size != self.size:
            raise errors.bad_request(f"{self.size} bytes came, but {size} were announced.")
        if sha256 is not None and sha256 != found:
            raise errors.bad_request(f"The content's sha256 is {found}, not {sha256}.")
        place = self._store.path(found)
        with full_disk():
            os.fsync(self._stream.fileno())
            place.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.replace(place)
            for folder in (place.parent, place.parent.parent, self._store.blobs):
                files.sync(folder)
        return Blob(found, self.size, place)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._temporary.unlink(missing_ok=True)
        self._stream.close()
