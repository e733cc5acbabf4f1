"""Git LFS: large files go to the store by themselves, before the commit that names them.

https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md. What is in the store already needs
no upload, so a second push of the same weights sends nothing. The address of an upload is signed
and holds the announced size: longer or shorter, or with another sha256, it is refused and leaves
nothing. Files are sent whole (`basic`); multipart is not offered.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response

from hubtool.hub.server import access, errors
from hubtool.hub.server.auth import EXPIRES_IN
from hubtool.hub.server.downloads import FileAnswer
from hubtool.hub.server.routes import Call, answer, pour

__all__ = ["batch", "download", "upload", "verify"]

MEDIA = {"Content-Type": "application/vnd.git-lfs+json"}
LONGEST = 1 << 50
OID = re.compile(r"[0-9a-f]{64}")


def batch(call: Call) -> Response:
    """POST /{id}.git/info/lfs/objects/batch"""
    data = call.json()
    operation, objects = data.get("operation"), data.get("objects")
    if data.get("hash_algo", "sha256") != "sha256":
        raise errors.bad_request("This hub knows objects by sha256 only.")
    if operation not in ("upload", "download") or not isinstance(objects, list):
        raise errors.bad_request("operation is upload or download, and objects a list.")
    if operation == "upload":
        call.require("write", call.repo)
    else:
        call.require_contents()
    announced = [_announced(item) for item in objects]
    offers = _uploads(call, announced) if operation == "upload" else _downloads(call, announced)
    return answer({"transfer": "basic", "hash_algo": "sha256", "objects": offers}, headers=MEDIA)


def verify(call: Call) -> Response:
    """POST /{id}.git/info/lfs/objects/verify"""
    oid, size = _announced(call.json())
    found = call.hub.store.size(oid) if call.held([oid]) else None
    if found is None:
        raise errors.Refusal(404, f"'{call.repo.name}' was not sent the object {oid}.")
    if found != size:
        raise errors.Refusal(422, f"The object {oid} has {found} bytes, not {size}.")
    return answer({"oid": oid, "size": size}, headers=MEDIA)


async def upload(call: Call) -> Response:
    """PUT /{id}.git/info/lfs/objects/{oid}"""
    oid, query = call.part["oid"], call.request.query_params
    size, user = call.hub.signer.check("PUT", oid, query)
    length = call.request.headers.get("content-length", "")
    if length.isdigit() and int(length) > size:
        raise errors.too_large(f"{length} bytes are too many: {size} were announced for {oid}.")
    with call.hub.store.writer() as writer:
        await pour(call, writer.write, size)
        await call.hub.run(writer.finish, oid, size)
    await call.hub.run(access.note_sent, call.hub.meta, user, [oid])
    return answer({"oid": oid, "size": size}, headers=MEDIA)


def download(call: Call) -> Response:
    """GET /{id}.git/info/lfs/objects/{oid}"""
    oid = call.part["oid"]
    size, _ = call.hub.signer.check("GET", oid, call.request.query_params)
    return FileAnswer(call, call.hub.store.path(oid), size, etag=oid, name=oid)


def _announced(item: Any) -> tuple[str, int]:
    if not isinstance(item, dict):
        item = {}
    oid, size = item.get("oid"), item.get("size")
    if not isinstance(oid, str) or not OID.fullmatch(oid):
        raise errors.bad_request(f"'{oid}' is no object id: 64 hexadecimal digits of a sha256.")
    if type(size) is not int or not 0 <= size <= LONGEST:
        raise errors.bad_request(f"The object {oid} needs a size in bytes.")
    return oid, size


def _uploads(call: Call, announced: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """What must be sent. What whoever asks could not read, they are to send as if it was new."""
    offers: list[dict[str, Any]] = []
    held = call.held(oid for oid, _ in announced)
    for oid, size in announced:
        offer: dict[str, Any] = {"oid": oid, "size": size}
        found = call.hub.store.claim(oid) if oid in held else None
        if found is None:
            verify = {"href": call.url(call.repo.name, ".git/info/lfs/objects/verify")}
            offer["actions"] = {"upload": _action(call, "PUT", oid, size), "verify": verify}
        elif found != size:
            offer["error"] = {"code": 422, "message": f"It has {found} bytes, not {size}."}
        offers.append(offer)
    return offers


def _downloads(call: Call, announced: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """Only what one of the repository's branches or tags holds, lest a private file be had by
    its hash from elsewhere."""
    refs = call.hub.meta.refs(call.repo)
    tips = {oid for _, oid in refs["branches"] + refs["tags"]}
    held = {(entry.sha256, entry.size) for tip in tips for entry in call.hub.meta.files(tip)}
    offers: list[dict[str, Any]] = []
    for oid, size in announced:
        offer: dict[str, Any] = {"oid": oid, "size": size}
        if (oid, size) in held:
            offer["actions"] = {"download": _action(call, "GET", oid, size)}
        else:
            offer["error"] = {"code": 404, "message": f"'{call.repo.name}' has no object {oid}."}
        offers.append(offer)
    return offers


def _action(call: Call, method: str, oid: str, size: int) -> dict[str, Any]:
    signed = call.hub.signer.query(method, oid, size, call.sender)
    href = call.url(call.repo.name, f".git/info/lfs/objects/{oid}?{signed}")
    return {"href": href, "expires_in": EXPIRES_IN}
