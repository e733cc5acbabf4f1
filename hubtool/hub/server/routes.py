"""What every handler is given, a Call, and what it gives back, a response.

A handler is a plain function that runs in a worker thread: the database and the disk may take
their time there, and a request's small body has been read for it. Only the few that take a body
of any size are coroutines and `pour` it. Whatever goes wrong is raised as a Refusal; `app` turns
that into an answer once, for all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hubtool.hub.server import access, errors, limits, meta_moves, redirects
from hubtool.hub.server.accounts import ANYBODY, LOCAL, Accounts, Identity, Role
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.audit_refusals import Refusals
from hubtool.hub.server.auth import Guard, Needs, Signer, insufficient, is_loopback, nobody
from hubtool.hub.server.limits import Limiter, network
from hubtool.hub.server.meta import Commit, Meta, Repo
from hubtool.hub.server.store import Store

__all__ = ["CHUNK", "Call", "Hub", "answer", "pour", "small_body"]

CHUNK = 1 << 20  # 64 KiB pieces move at a fifth of the speed
MAX_JSON = 8 << 20
LONGEST_ADDRESS = 45

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Hub:
    """What all calls share. lfs: every client is asked to send large files by Git LFS. url: the
    address that a proxy in front is called by; "" where there is none."""

    root: Path
    store: Store
    meta: Meta
    accounts: Accounts
    refusals: Refusals
    guard: Guard
    signer: Signer
    limiter: Limiter
    pool: ThreadPoolExecutor
    lfs: bool
    url: str

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in a worker thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, lambda: work(*args, **kwargs))


@dataclass
class Call:
    """One request. part: what the route's `{names}` stand for, decoded; who: asks; limits: the
    headers that say how much more may be asked for."""

    hub: Hub
    request: Request
    part: dict[str, str]
    body: bytes = b""
    who: Identity = ANYBODY
    limits: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where the request comes from: behind a proxy of this machine, what that says."""
        client = self.request.client
        address = client.host if client else ""
        forwarded = self.request.headers.get("x-forwarded-for", "")
        if self.hub.url and forwarded and is_loopback(address):
            return forwarded.rpartition(",")[2].strip()[:LONGEST_ADDRESS]
        return address

    @property
    def actor(self) -> Actor:
        """Who asks, for the audit log."""
        return Actor(self.who.name, self.who.token, self.address)

    @cached_property
    def repo(self) -> Repo:
        """The repository that `{id}` names, if it may be seen. Raises Refusal 401, 404; 307 where
        it has another name now."""
        name = self.part["id"]
        try:
            return self.seen(name)
        except errors.Refusal:
            former = self.former(name)
            if former is None:
                raise
        scope = self.request.scope
        raise redirects.moved(scope["raw_path"], scope["query_string"], name, former.name)

    @cached_property
    def commit(self) -> Commit:
        """The commit that `{rev}` names, of main where the route has none. Raises Refusal 404."""
        return self.hub.meta.resolve(self.repo, self.part.get("rev", "main"))

    def admit(self, needs: Needs) -> None:
        """Learns who asks, and lets the call pass if they are allowed what its route needs: before
        a handler runs. Raises Refusal 401, also for a token that is none, 403, 404, 429."""
        try:
            if not self.request.url.path.startswith("/xet/"):  # these have tokens of their own
                self.who = self.hub.guard.identify(self.request.headers, self.hub.accounts)
        finally:  # a token that is none counts too
            if self.who is not LOCAL:
                client = f"user {self.who.name}" if self.who.name else network(self.address)
                self.limits = self.hub.limiter.take(limits.kind(self.request.url.path), client)
        if needs == "user":
            self.require_user()
        elif needs in ("write", "admin"):
            self.require(needs, self.repo)
        elif needs in ("read", "contents"):
            closed = self.repo.gated and needs == "contents"
            if closed and self.part.get("path") not in access.OPEN:
                self.require_contents()

    def seen(self, name: str) -> Repo:
        """A repository by its name. One that may not be seen is as one that does not exist: a
        Refusal 404, or 401 where a token might help."""
        try:
            repo = self.hub.meta.repo(name)
        except errors.Refusal:
            repo = None
        if repo is None or (repo.private and self.who.right(name) is None):
            raise self._absent(name)
        return repo

    def former(self, name: str) -> Repo | None:
        """The repository that had this name, if nobody has it now and it may be seen."""
        found = meta_moves.former(self.hub.meta, name)
        hidden = found is not None and found.private and self.who.right(found.name) is None
        return None if hidden else found

    def require_user(self) -> None:
        """Refuses whoever has no name. Raises Refusal 401."""
        if not self.who.name:
            raise nobody(self.request.headers, users=self.hub.accounts.exist())

    def require(self, role: Role, repo: Repo | str) -> Repo:
        """The repository, with which this may be done. Raises Refusal 401, 403, 404."""
        found = self.seen(repo) if isinstance(repo, str) else repo
        self.require_name(role, found.name)
        return found

    def require_name(self, role: Role, name: str) -> None:
        """Refuses whoever may not do this with a repository of that name, which need not exist:
        it is to be made, say. Raises Refusal 401, 403."""
        self.require_user()
        if not self.who.may(name, role):
            raise insufficient(self.who, role, name)

    @cached_property
    def reads_contents(self) -> bool:
        """Whether whoever asks may read the repository's files, though it be gated."""
        name = self.repo.name
        if not self.repo.gated or self.who.right(name) is not None:
            return True
        return access.granted(self.hub.meta, self.repo, self.who)

    def require_contents(self) -> None:
        """Refuses whoever may not read the files of a gated repository. Raises Refusal 401, 403."""
        if not self.reads_contents:
            raise errors.gated_repo(self.repo.name, known=bool(self.who.name))

    @property
    def sender(self) -> str:
        """For whom an upload's address is signed; "" where all may name every content anyhow."""
        return "" if access.names_all(self.who) else self.who.name

    def held(self, contents: Iterable[str]) -> set[str]:
        """Which contents, by their sha256, whoever asks may take for granted if they are stored."""
        return access.held(self.hub.meta, self.who, contents)

    def note_refused(self, refusal: errors.Refusal) -> None:
        """Let the audit log tell that somebody was not allowed something."""
        if self.hub.accounts.exist():
            self.hub.refusals.note(self.actor, refusal, self.part.get("id", ""))

    def _absent(self, name: str) -> errors.Refusal:
        refusal = errors.repo_not_found(name)
        if not self.who.name and self.hub.accounts.exist():
            refusal = errors.Refusal(
                401,
                f"There is no repository '{name}' here that anybody may see; if it is private,"
                " send a token of this hub that may: set HF_TOKEN, or HUBTOOL_TOKEN for hubtool.",
                refusal.code,
            )
        return refusal

    @property
    def base(self) -> str:
        """The address that this server was called by."""
        return (
            self.hub.url
            or f"{self.request.url.scheme}://{self.request.headers.get('host', 'localhost')}"
        )

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
