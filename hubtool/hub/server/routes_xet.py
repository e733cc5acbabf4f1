"""Xet over HTTP: where to send chunks to, and their arrival. https://huggingface.co/docs/xet/api

Whoever may write to a repository is given an address and a token for an hour; with that token, and
no other, xorbs and shards are taken. Nothing is given out here: asked for chunks, this hub knows
nothing (404), and the official client then sends what it has not sent to the same address before.
lz4 and blake3 are imported when the first client comes.
"""

from __future__ import annotations

import base64
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import parse_qsl

from starlette.responses import Response

from hubtool.hub.server import access, errors
from hubtool.hub.server.auth import EXPIRES_IN
from hubtool.hub.server.routes import Call, answer, pour
from hubtool.hub.server.store import full_disk

if TYPE_CHECKING:
    from hubtool.hub.server.xet_store import Xorbs

__all__ = ["PREFIX", "shard", "speaks_xet", "write_token", "xorb"]

PREFIX = "xet_"
"""Begins every token of this kind."""
SIGNED = "XET-WRITE"
"""Stands for the method in what is signed."""


@cache
def speaks_xet() -> bool:
    """Whether the packages are here that decode what clients send."""
    return all(find_spec(name) is not None for name in ("blake3", "lz4"))


def write_token(call: Call) -> Response:
    """GET /api/models/{id}/xet-write-token/{rev}"""
    _check_packages()
    from hubtool.hub.server.xet_store import Xorbs

    call.hub.meta.resolve(call.repo, call.part["rev"])
    expires = int(time.time()) + EXPIRES_IN
    cas = f"{call.base}/xet/{Xorbs(call.hub.root).current()}"
    claim = f"{call.repo.name}?{call.hub.signer.query(SIGNED, str(call.repo.id), 0, call.sender)}"
    token = PREFIX + base64.urlsafe_b64encode(claim.encode()).decode()
    headers = {
        "X-Xet-Cas-Url": cas,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
        "Cache-Control": "no-store",
    }
    return answer({"casUrl": cas, "accessToken": token, "exp": expires}, headers=headers)


async def xorb(call: Call) -> Response:
    """POST /xet/{epoch}/v1/xorbs/default/{hash}: only those who may name every content are told
    whether somebody sent the same before"""
    user = await call.hub.run(_check_token, call)
    from hubtool.hub.server import xet_store, xet_xorb

    xorbs, epoch, name = xet_store.Xorbs(call.hub.root), call.part["epoch"], call.part["hash"]
    xorbs.check_epoch(epoch)
    xet_store.check_name(name)
    _check_length(call, xet_xorb.LONGEST)
    with xorbs.incoming() as incoming:
        await pour(call, incoming.write, xet_xorb.LONGEST)
        inserted = await call.hub.run(xorbs.keep, epoch, name, incoming)
    return answer({"was_inserted": inserted or bool(user)})


async def shard(call: Call) -> Response:
    """POST /xet/{epoch}/v1/shards"""
    user = await call.hub.run(_check_token, call)
    from hubtool.hub.server import xet_shard, xet_store

    xorbs, epoch = xet_store.Xorbs(call.hub.root), call.part["epoch"]
    xorbs.check_epoch(epoch)
    _check_length(call, xet_shard.LONGEST)
    with full_disk(), tempfile.TemporaryFile(dir=call.hub.store.tmp) as body:
        await pour(call, body.write, xet_shard.LONGEST)
        body.flush()
        await call.hub.run(_land, call, body, xorbs, epoch, user)
    return answer({"result": 1})


def _land(call: Call, body: BinaryIO, xorbs: Xorbs, epoch: str, user: str) -> None:
    from hubtool.hub.server import xet

    if not body.seek(0, 2):
        raise errors.bad_request("The shard is empty.")
    with mmap(body.fileno(), 0, access=ACCESS_READ) as data:
        landed = xet.land(data, call.hub.store, xorbs, epoch)
    access.note_sent(call.hub.meta, user, landed)


def _check_token(call: Call) -> str:
    """The user whom the call's token was given to, for a repository that is there. Refusal 401
    where there is none."""
    _check_packages()
    kind, _, token = call.request.headers.get("authorization", "").partition(" ")
    try:
        if kind.lower() != "bearer" or not token.startswith(PREFIX):
            raise ValueError
        name, _, query = (
            base64.urlsafe_b64decode(token.removeprefix(PREFIX)).decode().partition("?")
        )
        repo = call.hub.meta.repo(name)
        _, user = call.hub.signer.check(SIGNED, str(repo.id), dict(parse_qsl(query)))
        return user
    except (ValueError, errors.Refusal):
        raise errors.unauthorized(
            "The token is no token for Xet uploads, or has expired: ask xet-write-token for one."
        ) from None


def _check_length(call: Call, most: int) -> None:
    length = call.request.headers.get("content-length", "")
    if length.isdigit() and int(length[:18]) > most:
        raise errors.too_large(f"{length} bytes are too many: {most} are taken at once.")


def _check_packages() -> None:
    if not speaks_xet():
        raise errors.Refusal(
            404,
            "This hub takes no Xet uploads, since lz4 or blake3 is not installed there:"
            " set HF_HUB_DISABLE_XET=1 and send again.",
        )
