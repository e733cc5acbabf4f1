"""The hub as an ASGI application: one table of routes, one way in, one way out.

A path is split at its slashes first and decoded after, since a revision may hold an encoded one.
`{id}` stands for one part or two, `{path}` for all that are left, any other name for one part;
the paths are those of openapi.json, and HEAD is answered wherever GET is. Every answer bears the
request's id, and every refusal its message and code in headers too, where huggingface_hub looks.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from hubtool.hub.server import (
    downloads,
    errors,
    lfs,
    routes_commits,
    routes_models,
    routes_repos,
    routes_trees,
    routes_xet,
)
from hubtool.hub.server.auth import Guard, Signer
from hubtool.hub.server.meta import Meta
from hubtool.hub.server.routes import Call, Hub, RefusalWithHeaders, answer, small_body
from hubtool.hub.server.store import Store
from hubtool.hub.server.web import pages, render

__all__ = ["ROUTES", "App", "Route", "create_app"]

logger = logging.getLogger("hubtool.hub")

THREADS = 32
FIELD = re.compile(r"\{(\w+)\}(.*)")
REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
OTHER_KINDS = re.compile(r"/(?:api/)?(datasets|spaces)(?:/([^/]+/[^/]+))?")

Handler = Callable[[Call], Any]
"""Gives a response; or is a coroutine function that does."""


@dataclass(frozen=True)
class Route:
    """writes: whether it changes something, which a stranger may not."""

    method: str
    path: str
    handler: Handler
    writes: bool = False


def openapi(call: Call) -> Response:
    """GET /openapi.json"""
    text = Path(__file__).with_name("openapi.json").read_bytes()
    return Response(text, media_type="application/json")


MODEL, OBJECTS = "/api/models/{id}", "/{id}.git/info/lfs/objects"

ROUTES: Sequence[Route] = (
    Route("GET", "/openapi.json", openapi),
    Route("GET", "/api/whoami-v2", routes_repos.whoami),
    Route("POST", "/api/repos/create", routes_repos.create, writes=True),
    Route("DELETE", "/api/repos/delete", routes_repos.delete, writes=True),
    Route("POST", "/api/validate-yaml", routes_commits.validate_yaml),
    Route("GET", "/api/models", routes_models.list_models),
    Route("GET", f"{MODEL}/refs", routes_repos.refs),
    Route("GET", MODEL, routes_models.info),
    Route("GET", f"{MODEL}/revision/{{rev}}", routes_models.info),
    Route("GET", f"{MODEL}/tree/{{rev}}", routes_trees.tree),
    Route("GET", f"{MODEL}/tree/{{rev}}/{{path}}", routes_trees.tree),
    Route("POST", f"{MODEL}/paths-info/{{rev}}", routes_trees.paths_info),
    Route("GET", f"{MODEL}/commits/{{rev}}", routes_trees.commits),
    Route("PUT", f"{MODEL}/settings", routes_repos.settings, writes=True),
    Route("POST", f"{MODEL}/branch/{{rev}}", routes_repos.create_branch, writes=True),
    Route("DELETE", f"{MODEL}/branch/{{rev}}", routes_repos.delete_branch, writes=True),
    Route("POST", f"{MODEL}/tag/{{rev}}", routes_repos.create_tag, writes=True),
    Route("DELETE", f"{MODEL}/tag/{{rev}}", routes_repos.delete_tag, writes=True),
    Route("POST", f"{MODEL}/preupload/{{rev}}", routes_commits.preupload, writes=True),
    Route("POST", f"{MODEL}/commit/{{rev}}", routes_commits.commit, writes=True),
    Route("POST", f"{OBJECTS}/batch", lfs.batch),
    Route("POST", f"{OBJECTS}/verify", lfs.verify, writes=True),
    Route("PUT", f"{OBJECTS}/{{oid}}", lfs.upload),
    Route("GET", f"{OBJECTS}/{{oid}}", lfs.download),
    Route("GET", f"{MODEL}/xet-write-token/{{rev}}", routes_xet.write_token),
    Route("POST", "/xet/{epoch}/v1/xorbs/default/{hash}", routes_xet.xorb),
    Route("POST", "/xet/{epoch}/v1/shards", routes_xet.shard),
    Route("GET", "/{id}/resolve/{rev}/{path}", downloads.resolve),
    Route("GET", "/{id}/raw/{rev}/{path}", downloads.raw),
    Route("GET", "/", pages.start),
    Route("GET", "/-/style.css", pages.style),
    Route("GET", "/models", pages.models),
    Route("GET", "/{id}", pages.model),
    Route("GET", "/{id}/tree/{rev}", pages.tree),
    Route("GET", "/{id}/tree/{rev}/{path}", pages.tree),
    Route("GET", "/{id}/blob/{rev}/{path}", pages.blob),
    Route("GET", "/{id}/commits/{rev}", pages.commits),
    Route("GET", "/{id}/commit/{rev}", pages.commit),
)


def create_app(
    root: Path, *, open_writes: bool, lfs: bool = False, hosts: Sequence[str] | None = None
) -> App:
    """The hub in a folder, which is made if need be. What it holds open ends with `close()`.

    open_writes: whoever reaches it by this machine's own names, or by one of `hosts`, may write.
    lfs: every client is asked to send large files by Git LFS. Raises HubError.
    """
    store = Store(root)
    store.sweep()
    names = None if hosts is None else tuple(host.lower() for host in hosts)
    return App(
        Hub(
            root=root,
            store=store,
            meta=Meta(root),
            guard=Guard(open_writes, names),
            signer=Signer.of(root),
            pool=ThreadPoolExecutor(THREADS, thread_name_prefix="hubtool-hub"),
            lfs=lfs,
        )
    )


class App:
    """What uvicorn calls for every request."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def close(self) -> None:
        """Let the workers finish, and close the database."""
        self.hub.pool.shutdown()
        self.hub.meta.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.perf_counter(), 499  # 499: who asked has gone away
        call = Call(self.hub, Request(scope, receive), {})

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        given = call.request.headers.get("x-request-id", "")
        name = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        try:
            response = await self._answer(call, name)
            response.headers["X-Request-Id"] = name
            if "commit" in vars(call):
                response.headers["X-Repo-Commit"] = call.commit.oid
            await response(scope, receive, sending)
        except (ClientDisconnect, asyncio.CancelledError):
            pass  # who asked has gone away, or the server is to end
        finally:
            path = scope.get("raw_path", b"").decode("ascii", "replace")
            spent = 1000 * (time.perf_counter() - began)
            logger.info("%s %s %d %.1f ms", scope["method"], path, status, spent)

    async def _answer(self, call: Call, name: str) -> Response:
        try:
            route = self._route(call)
            call.admit(writes=route.writes)
            if inspect.iscoroutinefunction(route.handler):
                response: Response = await route.handler(call)
            else:
                call.body = await small_body(call)
                response = await self.hub.run(route.handler, call)
            return response
        except errors.Refusal as refusal:
            return _refused(refusal, page=render.wants_page(call.request))
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("request %s failed", name)
            return _refused(
                errors.Refusal(500, f"The hub failed; its log tells of request {name}.")
            )

    def _route(self, call: Call) -> Route:
        """The route of a call, whose parts it is given. Raises Refusal 400, 404, 405."""
        raw = call.request.scope["raw_path"].decode("ascii", "replace")
        try:
            parts = [unquote(part, errors="strict") for part in raw.split("/")]
        except UnicodeDecodeError:
            raise errors.bad_request("The path is not UTF-8.") from None
        of_api = [r for r in ROUTES if (r.path.split("/")[1] == "api") == (parts[1:2] == ["api"])]
        found = [(route, _match(route.path.split("/"), parts)) for route in of_api]
        fitting = [(route, part) for route, part in found if part is not None]
        method = "GET" if call.request.method == "HEAD" else call.request.method
        for route, part in fitting:
            if route.method == method:
                call.part = part
                return route
        other = OTHER_KINDS.match(raw)
        if other is not None:
            raise errors.repo_not_found(f"{other[1]}/{other[2] or ''}")
        if not fitting:
            raise errors.Refusal(404, f"This hub has no {raw}: /openapi.json lists what it has.")
        allowed = ", ".join(dict.fromkeys(route.method for route, _ in fitting))
        raise RefusalWithHeaders(405, f"{raw} knows {allowed} only.", {"Allow": allowed})


def _match(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    """What a pattern's `{names}` stand for in a path; None where it does not fit."""
    if not pattern or not parts:
        return None if pattern or parts else {}
    field = FIELD.fullmatch(pattern[0])
    if field is None:
        return _match(pattern[1:], parts[1:]) if pattern[0] == parts[0] else None
    name, ending = field.groups()
    for width in {"id": (2, 1), "path": (len(parts),)}.get(name, (1,)):
        value = "/".join(parts[:width])
        rest = _match(pattern[1:], parts[width:])
        if rest is not None and value.endswith(ending):
            return {name: value.removesuffix(ending), **rest}
    return None


def _refused(refusal: errors.Refusal, *, page: bool = False) -> Response:
    headers = {"X-Error-Message": refusal.message}
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    if isinstance(refusal, RefusalWithHeaders):
        headers |= refusal.headers
    if page:
        return render.refused(refusal, headers)
    return answer({"error": refusal.message, **refusal.body}, refusal.status, headers)
