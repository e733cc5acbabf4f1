"""Files come from a hub whole and checked, or not at all; what was interrupted goes on later.

The official client checks only the size of what it fetched, and after a crash begins again. Here
each content is kept under its hash as the hub announced it, and becomes visible under that name
only when it has been read again and has this hash:

    blobs/<hash>                 whole, checked, read-only
    blobs/<hash>.part            what has arrived so far; locked by the process that fetches it
    blobs/<hash>.etag            the validator that the hub gave with it, for If-Range (RFC 9110)

Whoever comes second waits for the lock, and finds the first one's result.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hubtool.errors import HubError
from hubtool.files import telling
from hubtool.hub.session import Connection, answered

__all__ = ["Progress", "Remote", "digest", "fetch"]

Progress = Callable[[str, int, int], None]
"""Called with a file's path, the bytes that are there and the bytes that there will be."""

ATTEMPTS = 5
AGAIN = (429, 500, 502, 503, 504)
"""Answers after which it is worth to try again."""
CHUNK = 1 << 20
BUFFER = 1 << 18
"""So much of what has arrived may be lost to a kill."""


@dataclass(frozen=True)
class Remote:
    """A file of a model at one commit. hash: sha256 of its bytes (64 digits) where the hub keeps
    it as a large file, else git's sha1 of it as a blob (40)."""

    name: str
    commit: str
    path: str
    size: int
    hash: str

    def url(self, hub: str) -> str:
        return f"{hub}/{self.name}/resolve/{quote(self.commit, safe='')}/{quote(self.path)}"


def digest(path: Path, like: str) -> str:
    """The hash of a file, of the kind that `like` is. sha1 is git's, over "blob <size>\\0" too:
    https://git-scm.com/book/en/v2/Git-Internals-Git-Objects"""
    with path.open("rb") as file:
        if len(like) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        made = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while chunk := file.read(CHUNK):
            made.update(chunk)
        return made.hexdigest()


def fetch(hub: Connection, file: Remote, blobs: Path, progress: Progress | None = None) -> Path:
    """The file's content as `blobs/<hash>`, fetched if it is not there, or the rest of it.

    Raises HubError (what came is not what was announced; the hub cannot be reached), WriteError.
    """
    blob = blobs / file.hash
    tell = progress or (lambda path, done, total: None)
    with telling(blob):
        if not _is_whole(blob, file):
            blobs.mkdir(parents=True, exist_ok=True)
            with _locked(blob.with_suffix(".part")) as part:
                if not _is_whole(blob, file):
                    _receive(hub, file, part, lambda done: tell(file.path, done, file.size))
                    _admit(hub, file, part, blob)
    tell(file.path, file.size, file.size)
    return blob


def _is_whole(blob: Path, file: Remote) -> bool:
    return blob.is_file() and blob.stat().st_size == file.size


@contextmanager
def _locked(part: Path) -> Iterator[Path]:
    """The part file, which is nobody else's for the length of the block."""
    import fcntl

    while True:
        with part.open("ab") as lock:
            with suppress(OSError):  # a file system that knows no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if part.exists() and os.path.samestat(os.fstat(lock.fileno()), part.stat()):
                yield part
                return


def _receive(hub: Connection, file: Remote, part: Path, tell: Callable[[int], None]) -> None:
    """Let the part grow to its full size; what is interrupted is taken up again."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        try:
            if _receive_some(hub, file, part, tell):
                return
        except httpx2.TransportError:
            if last:
                raise
        except HfHubHTTPError as error:
            if last or error.response.status_code not in AGAIN:
                # An OSError, which must not be taken for one of the disk.
                raise answered(error, hub.hub, f"fetch {file.name}") from error
        time.sleep(0.5 * 2**attempt)
    raise HubError(
        f"cannot fetch {file.path} of {file.name}: {hub.hub} ends it before it is whole",
        hint="Run the command again; it goes on where it stopped.",
    )


def _receive_some(hub: Connection, file: Remote, part: Path, tell: Callable[[int], None]) -> bool:
    """One request; whether the part is complete after it."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status

    etag = part.with_suffix(".etag")
    there = part.stat().st_size if etag.is_file() else 0
    if there == file.size:
        return True
    headers = hub.headers | {"Accept-Encoding": "identity"}
    if 0 < there < file.size:
        headers |= {"Range": f"bytes={there}-", "If-Range": etag.read_text(encoding="ascii")}
    with get_session().stream("GET", file.url(hub.url), headers=headers) as response:
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        _keep_validator(response, etag)
        with part.open("r+b", BUFFER) as out:
            there = out.seek(there if response.status_code == 206 else 0)
            out.truncate()
            for chunk in response.iter_raw():
                there += len(chunk)
                if there > file.size:
                    raise _damaged(hub, file, f"it has more than the {file.size:,} bytes announced")
                out.write(chunk)
                tell(there)
    return there == file.size


def _keep_validator(response: Any, etag: Path) -> None:
    """Keep a strong ETag for If-Range; without one the next attempt begins anew."""
    value = response.headers.get("ETag", "")
    if value.startswith('"') and value.isascii():
        etag.write_text(value, encoding="ascii")
    else:
        etag.unlink(missing_ok=True)


def _admit(hub: Connection, file: Remote, part: Path, blob: Path) -> None:
    """The complete part becomes the blob if its hash is the announced one; else it is dropped."""
    found = digest(part, file.hash)
    etag = part.with_suffix(".etag")
    if found != file.hash:
        part.unlink()
        etag.unlink(missing_ok=True)
        kind = "sha256" if len(found) == 64 else "git's sha1"
        raise _damaged(hub, file, f"{kind} is {found}, announced is {file.hash}")
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.chmod(0o444)
    part.replace(blob)
    etag.unlink(missing_ok=True)


def _damaged(hub: Connection, file: Remote, how: str) -> HubError:
    return HubError(
        f"{file.path} of {file.name} came damaged from {hub.hub}: {how}",
        hint="It was not kept. Try again; if that does not help, the hub's copy is damaged, and "
        "whoever runs the hub or owns the model has to publish that file again.",
    )
