"""The bytes of every file, named by their sha256, each stored once.

    blobs/ab/cd/abcd…       a file's content, whole and on the disk before it bears this name
    tmp/.blob.*.hubtool-tmp what is being written, flock-ed for as long as its writer lives
    store.json              the store's own name

A blob is hashed while it is written, fsynced, renamed, and its folders fsynced, so a crash leaves
nothing or the whole of it. Nothing here is ever changed, and several processes may share a store:
the same content written twice at once is the same file. What a dead writer left is swept.

A content that no commit names yet stays for a time: its file's mtime says when somebody last
wanted it (`claim`), and only what nobody wanted for long is collected (see `collect`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from hubtool import files
from hubtool.errors import HubError
from hubtool.hub.server import errors

__all__ = ["Blob", "Store", "Writer", "full_disk", "locked"]

FULL = {errno.ENOSPC, errno.EDQUOT}
CHUNK = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")


@contextmanager
def locked(path: Path, *, alone: bool, busy: str = "") -> Iterator[None]:
    """Holds a lock that many may share or one may have alone. Where somebody else stands in the
    way it waits; or raises HubError, if there is something to say of who is `busy`."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            fcntl.flock(handle, kind | fcntl.LOCK_NB if busy else kind)
        except BlockingIOError:
            raise HubError(busy, hint="Try again when that has ended.") from None
        yield
    finally:
        os.close(handle)


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
        self.root = root
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

    def claim(self, sha256: str) -> int | None:
        """How long a stored content is, which is wanted and will not be collected soon; None if it
        is not stored. To be asked before a client is told that a content need not be sent, and
        again in the transaction that names it."""
        place = self.path(sha256)
        with self.shared():
            try:
                os.utime(place)
                return place.stat().st_size
            except FileNotFoundError:
                return None

    def discard(self, unwanted: Iterable[str], before: float) -> list[str]:
        """Remove those of the contents that nobody wanted since then; which they were. While it
        lasts no content is claimed or put in place, so there should not be many."""
        gone = []
        with locked(self._lock, alone=True):
            for sha256 in unwanted:
                with suppress(FileNotFoundError):
                    if self.path(sha256).stat().st_mtime < before:
                        self.path(sha256).unlink()
                        gone.append(sha256)
        return gone

    def shared(self) -> AbstractContextManager[None]:
        """Nothing is collected while the block lasts, which should not be long."""
        return locked(self._lock, alone=False)

    def uuid(self) -> str:
        """The store's own name, made once by whoever comes first; a copy gets another."""
        place = self.root / "store.json"
        while True:
            with suppress(FileNotFoundError):
                return str(json.loads(place.read_bytes())["uuid"])
            temporary, handle = files.temporary_file(place)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(json.dumps({"uuid": uuid.uuid4().hex}).encode())
                    stream.flush()
                    os.fsync(handle)
                    with suppress(FileExistsError):
                        place.hardlink_to(temporary)  # a link appears whole
            finally:
                temporary.unlink(missing_ok=True)
            files.sync(self.root)

    def sweep(self) -> None:
        """Remove what writers left that are no longer alive."""
        files.sweep(self.tmp)
        files.sweep(self.root)

    @property
    def _lock(self) -> Path:
        return self.root / "store.lock"


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
            with self._store.shared():
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
