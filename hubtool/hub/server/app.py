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
from functools import cached_property
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
    routes_access,
    routes_commits,
    routes_models,
    routes_moves,
    routes_people,
    routes_repos,
    routes_tags,
    routes_trees,
    routes_xet,
)
from hubtool.hub.server.accounts import Accounts
from hubtool.hub.server.audit_refusals import Refusals
from hubtool.hub.server.auth import INVALID, Guard, Needs, Signer
from hubtool.hub.server.limits import PER_WINDOW, Limiter
from hubtool.hub.server.meta import Meta
from hubtool.hub.server.routes import Call, Hub, answer, small_body
from hubtool.hub.server.store import Store
from hubtool.hub.server.web import pages, render

__all__ = ["ROUTES", "App", "Route", "create_app"]

logger = logging.getLogger("hubtool.hub")

THREADS = 32
FIELD = re.compile(r"\{(\w+)\}(.*)")
REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
BODY = {"content-length", "transfer-encoding"}
"""The headers that say that a body follows."""
OTHER_KINDS = re.compile(r"/(?:api/)?(datasets|spaces)(?:/([^/]+/[^/]+))?")

Handler = Callable[[Call], Any]
"""Gives a response; or is a coroutine function that does."""


@dataclass(frozen=True)
class Route:
    """needs: what whoever asks must be allowed before the handler runs (see `auth.Needs`)."""

    method: str
    path: str
    handler: Handler
    needs: Needs

    @cached_property
    def pattern(self) -> list[str]:
        return self.path.split("/")

    @cached_property
    def words(self) -> frozenset[str]:
        """The parts that stand for nothing but themselves: a path that lacks one does not fit."""
        return frozenset(part for part in self.pattern if not FIELD.fullmatch(part))


def openapi(call: Call) -> Response:
    """GET /openapi.json"""
    text = Path(__file__).with_name("openapi.json").read_bytes()
    return Response(text, media_type="application/json")


MODEL, OBJECTS = "/api/models/{id}", "/{id}.git/info/lfs/objects"

ROUTES: Sequence[Route] = (
    Route("GET", "/openapi.json", openapi, "nothing"),
    Route("GET", "/api/whoami-v2", routes_repos.whoami, "user"),
    Route("POST", "/api/repos/create", routes_repos.create, "user"),
    Route("DELETE", "/api/repos/delete", routes_repos.delete, "user"),
    Route("POST", "/api/validate-yaml", routes_commits.validate_yaml, "nothing"),
    Route("GET", "/api/models", routes_models.list_models, "nothing"),
    Route("POST", "/api/repos/move", routes_moves.move, "user"),
    Route("GET", "/api/models-tags-by-type", routes_tags.tags_by_type, "nothing"),
    Route("GET", "/api/users/{name}/overview", routes_people.user, "user"),
    Route("GET", "/api/users/{name}/likes", routes_people.likes, "user"),
    Route("GET", "/api/organizations/{name}/overview", routes_people.organization, "user"),
    Route("GET", "/api/organizations/{name}/members", routes_people.members, "user"),
    Route("GET", f"{MODEL}/refs", routes_repos.refs, "read"),
    Route("GET", f"{MODEL}/auth-check", routes_people.auth_check, "contents"),
    Route("GET", f"{MODEL}/auth-check/write", routes_people.auth_check, "write"),
    Route("GET", f"{MODEL}/likers", routes_people.likers, "read"),
    Route("POST", f"{MODEL}/like", routes_people.like, "user"),
    Route("DELETE", f"{MODEL}/like", routes_people.unlike, "user"),
    Route("GET", f"{MODEL}/lfs-files", routes_moves.lfs_files, "write"),
    Route("POST", f"{MODEL}/lfs-files/batch", routes_moves.remove_lfs_files, "admin"),
    Route("POST", f"{MODEL}/super-squash/{{rev}}", routes_moves.squash, "admin"),
    Route("GET", MODEL, routes_models.info, "read"),
    Route("GET", f"{MODEL}/revision/{{rev}}", routes_models.info, "read"),
    Route("GET", f"{MODEL}/tree/{{rev}}", routes_trees.tree, "read"),
    Route("GET", f"{MODEL}/tree/{{rev}}/{{path}}", routes_trees.tree, "read"),
    Route("POST", f"{MODEL}/paths-info/{{rev}}", routes_trees.paths_info, "read"),
    Route("GET", f"{MODEL}/commits/{{rev}}", routes_trees.commits, "read"),
    Route("PUT", f"{MODEL}/settings", routes_repos.settings, "admin"),
    Route("POST", f"{MODEL}/branch/{{rev}}", routes_repos.create_branch, "write"),
    Route("DELETE", f"{MODEL}/branch/{{rev}}", routes_repos.delete_branch, "write"),
    Route("POST", f"{MODEL}/tag/{{rev}}", routes_repos.create_tag, "write"),
    Route("DELETE", f"{MODEL}/tag/{{rev}}", routes_repos.delete_tag, "write"),
    Route("POST", f"{MODEL}/preupload/{{rev}}", routes_commits.preupload, "write"),
    Route("POST", f"{MODEL}/commit/{{rev}}", routes_commits.commit, "write"),
    Route("POST", f"{OBJECTS}/batch", lfs.batch, "read"),
    Route("POST", f"{OBJECTS}/verify", lfs.verify, "write"),
    Route("PUT", f"{OBJECTS}/{{oid}}", lfs.upload, "nothing"),
    Route("GET", f"{OBJECTS}/{{oid}}", lfs.download, "nothing"),
    Route("POST", "/{id}/ask-access", routes_access.ask, "read"),
    Route("GET", f"{MODEL}/user-access-request/{{status}}", routes_access.listed, "admin"),
    Route("POST", f"{MODEL}/user-access-request/handle", routes_access.handle, "admin"),
    Route("POST", f"{MODEL}/user-access-request/grant", routes_access.grant, "admin"),
    Route("GET", f"{MODEL}/xet-write-token/{{rev}}", routes_xet.write_token, "write"),
    Route("POST", "/xet/{epoch}/v1/xorbs/default/{hash}", routes_xet.xorb, "nothing"),
    Route("POST", "/xet/{epoch}/v1/shards", routes_xet.shard, "nothing"),
    Route("GET", "/{id}/resolve/{rev}/{path}", downloads.resolve, "contents"),
    Route("GET", "/{id}/raw/{rev}/{path}", downloads.raw, "contents"),
    Route("GET", "/", pages.start, "nothing"),
    Route("GET", "/-/style.css", pages.style, "nothing"),
    Route("GET", "/models", pages.models, "nothing"),
    Route("GET", "/{id}", pages.model, "read"),
    Route("GET", "/{id}/tree/{rev}", pages.tree, "read"),
    Route("GET", "/{id}/tree/{rev}/{path}", pages.tree, "read"),
    Route("GET", "/{id}/blob/{rev}/{path}", pages.blob, "contents"),
    Route("GET", "/{id}/commits/{rev}", pages.commits, "read"),
    Route("GET", "/{id}/commit/{rev}", pages.commit, "read"),
)


def create_app(
    root: Path,
    *,
    open_writes: bool,
    lfs: bool = False,
    hosts: Sequence[str] | None = None,
    key: str = "",
    url: str = "",
    limit: int = PER_WINDOW,
) -> App:
    """The hub in a folder, which is made if need be. What it holds open ends with `close()`.

    open_writes: as long as it has no users, whoever reaches it by this machine's own names, or by
    one of `hosts`, may write. lfs: every client is asked to send large files by Git LFS. key: the
    token that is good for everything, of whoever started it. url: the address of a proxy in front,
    https://hub.example.org. limit: requests of one kind that one client may make in five minutes,
    0 for any number; who needs no token has none. Raises HubError.
    """
    store = Store(root)
    store.sweep()
    names = None if hosts is None else tuple(host.lower() for host in hosts)
    meta = Meta(root)
    return App(
        Hub(
            root=root,
            store=store,
            meta=meta,
            accounts=Accounts(meta),
            refusals=Refusals(meta),
            guard=Guard(open_writes, names, key, url),
            signer=Signer.of(root),
            limiter=Limiter(limit),
            pool=ThreadPoolExecutor(THREADS, thread_name_prefix="hubtool-hub"),
            lfs=lfs,
            url=url,
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
            response.headers.update(call.limits)
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
            request = call.request
            self.hub.guard.admit(request.method, request.url.scheme, request.headers)
            if inspect.iscoroutinefunction(route.handler):
                await self.hub.run(call.admit, route.needs)
                response: Response = await route.handler(call)
            elif BODY.intersection(request.headers):
                await self.hub.run(call.admit, route.needs)
                call.body = await small_body(call)
                response = await self.hub.run(route.handler, call)
            else:
                response = await self.hub.run(_admitted, route, call)
            return response
        except errors.Refusal as refusal:
            if refusal.status == 403 or refusal.message == INVALID:
                await self.hub.run(call.note_refused, refusal)
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
        api, has = parts[1:2] == ["api"], frozenset(parts)
        likely = [r for r in ROUTES if r.words <= has and (r.pattern[1] == "api") == api]
        found = [(route, _match(route.pattern, parts)) for route in likely]
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
        message = f"{raw} knows {allowed} only."
        raise errors.Refusal(405, message, headers={"Allow": allowed})


def _admitted(route: Route, call: Call) -> Any:
    call.admit(route.needs)
    return route.handler(call)


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
    headers |= refusal.headers
    if page:
        return render.refused(refusal, headers)
    return answer({"error": refusal.message, **refusal.body}, refusal.status, headers)
