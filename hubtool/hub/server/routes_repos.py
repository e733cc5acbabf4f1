"""Repositories as such: who asks, making and deleting one, its settings, branches and tags.

A repository made without a namespace goes to the one of whoever makes it, as on the Hub; one that
is to have none is asked for by an empty `organization`, by who runs the hub. This hub keeps models;
a data set or a space is refused by name, so that nobody looks for it later.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from hubtool.hub.server import errors, names
from hubtool.hub.server.routes import Call, answer

__all__ = [
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


def whoami(call: Call) -> Response:
    """GET /api/whoami-v2"""
    who, accounts = call.who, call.hub.accounts
    token: dict[str, Any] = {"displayName": who.token_name or who.name, "role": who.role}
    fullname, orgs = who.name, {}
    if who.token:
        token["createdAt"] = next(
            (one.created for one in accounts.tokens(who.name) if one.id == who.token), None
        )
        fullname = accounts.user(who.name).fullname or who.name
        orgs = {org.name: org.fullname for org in accounts.orgs() if org.name in who.orgs}
    return answer(
        {
            "type": "user",
            "id": who.name,
            "name": who.name,
            "fullname": fullname,
            "isPro": False,
            "orgs": [
                {
                    "type": "org",
                    "id": org,
                    "name": org,
                    "fullname": orgs.get(org) or org,
                    "roleInOrg": role,
                }
                for org, role in sorted(who.orgs.items())
            ],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def create(call: Call) -> Response:
    """POST /api/repos/create"""
    data = call.json()
    name = _name(call, data)
    names.check_address(name)
    call.require_name("write", name)
    url = call.url(name)
    try:
        call.hub.meta.create(name, private=_private(data) or False, by=call.actor)
    except errors.Refusal as refusal:
        if refusal.status == 409:
            refusal.body["url"] = url  # with exist_ok the client reads it from here
        raise
    return answer({"url": url, "name": name})


def delete(call: Call) -> Response:
    """DELETE /api/repos/delete: what holds nothing yet may be taken back by whoever may write"""
    repo = call.require("write", _name(call, call.json()))
    fresh = not call.who.may(repo.name, "admin")
    call.hub.meta.delete(repo.name, fresh=fresh, by=call.actor)
    return answer({"success": True})


def settings(call: Call) -> Response:
    """PUT /api/models/{id}/settings"""
    data = call.json()
    private, gated = _private(data), data.get("gated")
    if gated not in (None, False, "auto", "manual"):
        raise errors.bad_request("gated is 'auto', 'manual' or false.")
    if private is not None:
        call.hub.meta.set_private(call.repo.name, private, by=call.actor)
    if gated is not None:
        call.hub.meta.set_gated(call.repo.name, gated or "", by=call.actor)
    return answer(
        {
            "private": call.repo.private if private is None else private,
            "gated": (call.repo.gated if gated is None else gated) or False,
        }
    )


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
    call.hub.meta.create_ref(call.repo, "branch", call.part["rev"], commit.oid, by=call.actor)
    return answer({"name": call.part["rev"], "targetCommit": commit.oid})


def delete_branch(call: Call) -> Response:
    """DELETE /api/models/{id}/branch/{rev}"""
    call.hub.meta.delete_ref(call.repo, "branch", call.part["rev"], by=call.actor)
    return answer({"success": True})


def create_tag(call: Call) -> Response:
    """POST /api/models/{id}/tag/{rev}: `rev` is what gets the tag"""
    tag = _text(call.json(), "tag")
    call.hub.meta.create_ref(call.repo, "tag", tag, call.commit.oid, by=call.actor)
    return answer({"name": tag, "targetCommit": call.commit.oid})


def delete_tag(call: Call) -> Response:
    """DELETE /api/models/{id}/tag/{rev}: `rev` is the tag"""
    call.hub.meta.delete_ref(call.repo, "tag", call.part["rev"], by=call.actor)
    return answer({"success": True})


def _name(call: Call, data: dict[str, Any]) -> str:
    kind = data.get("type") or "model"
    if kind != "model":
        raise errors.bad_request(f"This hub keeps models only, no {kind}s.")
    name = _text(data, "name")
    if "/" in name or data.get("organization") == "":
        return name
    return f"{_text(data, 'organization') or call.who.name}/{name}"


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
