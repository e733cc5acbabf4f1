"""Files go out: whole or from where a reader left off, never compressed, never guessed at.

A client learns from the headers which commit it got (X-Repo-Commit), by which name it knows the
content again (ETag: git's name, or the sha256 of a large file) and how long it is. Everything is
sent as bytes to be saved, so that no file of a stranger becomes a page of this hub.
https://www.rfc-editor.org/rfc/rfc9110 (13: preconditions, 14: ranges)
"""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hubtool.hub.server import errors
from hubtool.hub.server.meta import Entry
from hubtool.hub.server.meta_history import pointer
from hubtool.hub.server.routes import CHUNK, Call

__all__ = ["FileAnswer", "raw", "resolve"]

BYTES = "application/octet-stream"
PIECE = 1 << 19
"""Bytes that are sent at once of what need not be waited for; more would leave the cache."""
RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


class FileAnswer(Response):
    """A stored file, or the range of it that was asked for."""

    def __init__(
        self,
        call: Call,
        path: Path,
        size: int,
        *,
        etag: str,
        name: str,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self._hub, self._repo, self._path = call.hub, call.repo, path
        if not path.is_file() or path.stat().st_size != size:
            raise errors.Refusal(500, f"This hub is damaged: the content of '{name}' is not here.")
        self._in_a_page = call.request.headers.get("sec-fetch-dest") == "image"
        known = _known(call.request, etag)
        wanted = None if known else _range(call.request, size, etag)
        self._start, self._stop = wanted or (0, size)
        headers = {
            **{"ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Content-Type": BYTES},
            **{"Content-Disposition": _disposition(name), "X-Content-Type-Options": "nosniff"},
            **(more or {}),
        }
        status = 304 if known else 206 if wanted else 200
        if status != 304:
            headers["Content-Length"] = str(self._stop - self._start)
        if status == 206:
            headers["Content-Range"] = f"bytes {self._start}-{self._stop - 1}/{size}"
        super().__init__(None, status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        if scope["method"] == "HEAD" or self.status_code == 304:
            await send({"type": "http.response.body"})
            return
        gone = asyncio.create_task(_gone(receive))
        try:
            with self._path.open("rb", buffering=0) as stream:
                await self._send(stream, send, gone)
        finally:
            gone.cancel()
        if self._start == 0 and not self._in_a_page:
            await self._hub.run(self._hub.meta.count_download, self._repo)

    async def _send(self, stream: io.FileIO, send: Send, gone: asyncio.Task[None]) -> None:
        buffer = memoryview(bytearray(CHUNK))
        at = self._start
        while at < self._stop:
            wanted = buffer[: self._stop - at]
            length = _in_memory(stream, wanted[:PIECE], at)
            if length:
                await asyncio.sleep(0)  # the others' turn
            else:
                length = await self._hub.run(os.preadv, stream.fileno(), [wanted], at)
            if gone.done():
                raise ClientDisconnect
            if not length:
                raise OSError(f"'{self._path}' is shorter than it was")
            at += length
            body = bytes(wanted[:length])
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})


def _in_memory(stream: io.FileIO, buffer: memoryview, at: int) -> int:
    """Reads of a file what the system has in its memory, which takes less time than having a worker
    do it; 0 where that would mean to wait for the disk, or where the system cannot tell."""
    try:
        return os.preadv(stream.fileno(), [buffer], at, os.RWF_NOWAIT)
    except (AttributeError, OSError):
        return 0


async def _gone(receive: Receive) -> None:
    """Ends when the client has gone away; sending to it would not tell."""
    while (await receive())["type"] != "http.disconnect":
        pass


def resolve(call: Call) -> Response:
    """GET /{id}/resolve/{rev}/{path}"""
    entry = _entry(call)
    etag = entry.sha256 if entry.lfs else entry.oid
    linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(entry.size)} if entry.lfs else {}
    return FileAnswer(
        call,
        call.hub.store.path(entry.sha256),
        entry.size,
        etag=etag,
        name=PurePosixPath(entry.path).name,
        more=linked,
    )


def raw(call: Call) -> Response:
    """GET /{id}/raw/{rev}/{path}: what git would hold, for a large file the pointer to it"""
    entry = _entry(call)
    if not entry.lfs:
        return resolve(call)
    headers = {"ETag": f'"{entry.oid}"', "X-Content-Type-Options": "nosniff"}
    return Response(pointer(entry.sha256, entry.size), headers=headers, media_type=BYTES)


def _entry(call: Call) -> Entry:
    entry = call.hub.meta.entry(call.commit.oid, call.part["path"])
    if entry is None:
        raise errors.entry_not_found(call.repo.name, call.part["rev"], call.part["path"])
    return entry


def _range(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """The bytes that were asked for, from and up to; None for all of them.

    Several ranges at once, or one that makes no sense, or one of another content (If-Range) are
    answered with the whole, as the standard allows. Raises Refusal 416 behind the end.
    """
    match = RANGE.fullmatch(request.headers.get("range", ""))
    other = request.headers.get("if-range", f'"{etag}"').strip() != f'"{etag}"'
    if match is None or other or request.method != "GET" or not any(match.groups()):
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if first and last and int(last) < start:
        return None
    if start >= size:
        message = f"The file has {size} bytes, none of them in '{match[0].strip()}'."
        raise errors.Refusal(416, message, headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def _known(request: Request, etag: str) -> bool:
    """Whether the client says that it has this content."""
    names = [name.strip() for name in request.headers.get("if-none-match", "").split(",")]
    return "*" in names or f'"{etag}"' in (name.removeprefix("W/") for name in names)


def _disposition(name: str) -> str:
    plain = re.sub(r'[^ -~]|["\\\\]', "_", name)
    return f"inline; filename*=UTF-8''{quote(name, safe='')}; filename=\"{plain}\";"
