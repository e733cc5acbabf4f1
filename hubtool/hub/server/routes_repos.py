"""Repositories as such: who asks, making and deleting one, its settings, branches and tags.

A repository made without a namespace goes to the one of whoever makes it, as on the Hub. This hub
keeps models; a data set or a space is refused by name, so that nobody looks for it later.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from hubtool.hub.server import errors
from hubtool.hub.server.routes import Call, answer

__all__ = [
    "RESERVED",
    "create",
    "create_branch",
    "create_tag",
    "delete",
    "delete_branch",
    "delete_tag",
    "refs",
    "settings",
    "whoami",
]

RESERVED = {"refs"}
"""What no repository may be called: `/api/models/axon/refs` lists the refs of `axon`."""
NOT_NAMESPACES = {"api", "datasets", "spaces", "kernels", "buckets"}


def whoami(call: Call) -> Response:
    """GET /api/whoami-v2"""
    name = call.user
    token = {"displayName": name, "role": "write"}
    return answer(
        {
            "type": "user",
            "id": name,
            "name": name,
            "fullname": name,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def create(call: Call) -> Response:
    """POST /api/repos/create"""
    data = call.json()
    name = _name(call, data)
    namespace, _, last = name.rpartition("/")
    if last in RESERVED or namespace in NOT_NAMESPACES:
        raise errors.bad_request(
            f"'{name}' means something else in addresses: choose another name."
        )
    url = call.url(name)
    try:
        call.hub.meta.create(name, private=_private(data) or False, author=call.user)
    except errors.Refusal as refusal:
        if refusal.status == 409:
            refusal.body["url"] = url  # with exist_ok the client reads it from here
        raise
    return answer({"url": url, "name": name})


def delete(call: Call) -> Response:
    """DELETE /api/repos/delete"""
    call.hub.meta.delete(_name(call, call.json()))
    return answer({"success": True})


def settings(call: Call) -> Response:
    """PUT /api/models/{id}/settings"""
    data = call.json()
    if data.get("gated"):
        raise errors.bad_request("This hub has no gated repositories: make it private instead.")
    private = _private(data)
    if private is not None:
        call.hub.meta.set_private(call.repo.name, private)
    return answer({"private": call.repo.private if private is None else private})


def refs(call: Call) -> Response:
    """GET /api/models/{id}/refs"""
    found = call.hub.meta.refs(call.repo)

    def listed(kind: str, place: str) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{place}/{name}", "targetCommit": oid}
            for name, oid in found[kind]
        ]

    branches, tags = listed("branches", "heads"), listed("tags", "tags")
    return answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def create_branch(call: Call) -> Response:
    """POST /api/models/{id}/branch/{rev}"""
    start = _text(call.json(), "startingPoint") or "main"
    commit = call.hub.meta.resolve(call.repo, start)
    call.hub.meta.create_ref(call.repo, "branch", call.part["rev"], commit.oid)
    return answer({"name": call.part["rev"], "targetCommit": commit.oid})


def delete_branch(call: Call) -> Response:
    """DELETE /api/models/{id}/branch/{rev}"""
    call.hub.meta.delete_ref(call.repo, "branch", call.part["rev"])
    return answer({"success": True})


def create_tag(call: Call) -> Response:
    """POST /api/models/{id}/tag/{rev}: `rev` is what gets the tag"""
    tag = _text(call.json(), "tag")
    call.hub.meta.create_ref(call.repo, "tag", tag, call.commit.oid)
    return answer({"name": tag, "targetCommit": call.commit.oid})


def delete_tag(call: Call) -> Response:
    """DELETE /api/models/{id}/tag/{rev}: `rev` is the tag"""
    call.hub.meta.delete_ref(call.repo, "tag", call.part["rev"])
    return answer({"success": True})


def _name(call: Call, data: dict[str, Any]) -> str:
    kind = data.get("type") or "model"
    if kind != "model":
        raise errors.bad_request(f"This hub keeps models only, no {kind}s.")
    name = _text(data, "name")
    if "/" in name:
        return name
    return f"{_text(data, 'organization') or call.user}/{name}"


def _private(data: dict[str, Any]) -> bool | None:
    """What a request says about who may see the repository; None if nothing."""
    if data.get("visibility") is not None:
        if data["visibility"] not in ("public", "private"):
            raise errors.bad_request("visibility is 'public' or 'private' on this hub.")
        return bool(data["visibility"] == "private")
    private = data.get("private")
    if private is not None and not isinstance(private, bool):
        raise errors.bad_request("private is true or false.")
    return private


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise errors.bad_request(f"{key} must be a text.")
    return value
