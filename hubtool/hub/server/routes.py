"""What every handler is given, a Call, and what it gives back, a response.

A handler is a plain function that runs in a worker thread: the database and the disk may take
their time there, and a request's small body has been read for it. Only the few that take a body
of any size are coroutines and `pour` it. Whatever goes wrong is raised as a Refusal; `app` turns
that into an answer once, for all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hubtool.hub.server import errors
from hubtool.hub.server.auth import Guard, Signer
from hubtool.hub.server.meta import Commit, Meta, Repo
from hubtool.hub.server.store import Store

__all__ = ["CHUNK", "Call", "Hub", "RefusalWithHeaders", "answer", "pour", "small_body"]

CHUNK = 1 << 20  # 64 KiB pieces move at a fifth of the speed
MAX_JSON = 8 << 20

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Hub:
    """What all calls share. lfs: every client is asked to send large files by Git LFS."""

    root: Path
    store: Store
    meta: Meta
    guard: Guard
    signer: Signer
    pool: ThreadPoolExecutor
    lfs: bool

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in a worker thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, lambda: work(*args, **kwargs))


@dataclass
class Call:
    """One request. part: what the route's `{names}` stand for, decoded."""

    hub: Hub
    request: Request
    part: dict[str, str]
    body: bytes = b""

    @cached_property
    def repo(self) -> Repo:
        """The repository that `{id}` names. Raises Refusal 404."""
        repo = self.hub.meta.repo(self.part["id"])
        if repo.private and not self.hub.guard.open_writes:
            raise errors.repo_not_found(repo.name)
        return repo

    @cached_property
    def commit(self) -> Commit:
        """The commit that `{rev}` names, of main where the route has none. Raises Refusal 404."""
        return self.hub.meta.resolve(self.repo, self.part.get("rev", "main"))

    def admit(self, *, writes: bool) -> None:
        """Lets the call pass if it may be answered. Raises Refusal 401, 403."""
        request = self.request
        self.hub.guard.admit(request.method, request.url.scheme, request.headers, writes=writes)

    @property
    def user(self) -> str:
        return self.hub.guard.user(self.request.headers)

    @property
    def base(self) -> str:
        """The address that this server was called by."""
        return f"{self.request.url.scheme}://{self.request.headers.get('host', 'localhost')}"

    def url(self, repo: str, rest: str = "") -> str:
        """The address of a repository, or of something below it."""
        return f"{self.base}/{quote(repo)}{rest}"

    def json(self) -> dict[str, Any]:
        """The body as a JSON object of well-formed text. Raises Refusal 400."""
        try:
            data = json.loads(self.body or b"{}")
            json.dumps(data, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise errors.bad_request(f"The body is not JSON: {error}.") from None
        if not isinstance(data, dict):
            raise errors.bad_request("The body must be a JSON object.")
        return data

    def flag(self, name: str) -> bool:
        """Whether a parameter of the query is set: `?full=true`, `?create_pr=1`."""
        return self.request.query_params.get(name, "").lower() in ("1", "true")

    def number(self, name: str, default: int, most: int) -> int:
        """A parameter of the query between 1 and `most`; more is cut. Raises Refusal 400."""
        value = self.request.query_params.get(name, str(default))
        if not value.isascii() or not value.isdigit() or int(value[:18]) < 1:
            raise errors.bad_request(f"{name}={value} is not a number from 1 to {most}.")
        return min(int(value[:18]), most)

    def next_page(self, cursor: str | None) -> dict[str, str]:
        """The header that says where the next page is, if there is one."""
        if cursor is None:
            return {}
        kept = [item for item in self.request.query_params.multi_items() if item[0] != "cursor"]
        path = self.request.scope["raw_path"].decode("ascii")
        address = f"{self.base}{path}?{urlencode([*kept, ('cursor', cursor)])}"
        return {"Link": f'<{address}>; rel="next"'}


class RefusalWithHeaders(errors.Refusal):
    """A refusal whose status asks for a header of its own."""

    def __init__(self, status: int, message: str, headers: dict[str, str]) -> None:
        super().__init__(status, message)
        self.headers = headers


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Data as JSON."""
    return JSONResponse(data, status, dict(headers or {}))


async def pour(call: Call, write: Callable[[bytes], object], most: int | None = None) -> None:
    """Hand the request's body to `write`, in a worker thread, about 1 MiB at a time.
    Raises Refusal 413 as soon as it is longer than `most` bytes."""
    waiting, length = bytearray(), 0
    async for piece in call.request.stream():
        waiting += piece
        length += len(piece)
        if most is not None and length > most:
            raise errors.too_large(f"The body is longer than the {most} bytes it may have.")
        if len(waiting) >= CHUNK:
            await call.hub.run(write, bytes(waiting))
            waiting.clear()
    if waiting:
        await call.hub.run(write, bytes(waiting))


async def small_body(call: Call) -> bytes:
    """The whole body of a request that takes a small one. Raises Refusal 413."""
    pieces: list[bytes] = []
    await pour(call, pieces.append, MAX_JSON)
    return b"".join(pieces)
