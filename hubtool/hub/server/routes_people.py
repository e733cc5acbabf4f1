"""People: whether they may, what they like, who they are, and which organisations they make up.

Who acts in public is seen in public: commits name their author, and a model its likers. The
accounts as such are shown to those who have one. What somebody likes is told as far as whoever asks
may see it, and models are counted that anybody may see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from starlette.responses import Response

from hubtool.errors import HubError
from hubtool.hub.server import errors, meta_likes
from hubtool.hub.server.accounts import LOCAL, User
from hubtool.hub.server.routes import Call, answer

__all__ = [
    "auth_check",
    "like",
    "likers",
    "likes",
    "members",
    "organization",
    "unlike",
    "user",
]

PAGE = 1000
MOST_COUNTED = 10_000

T = TypeVar("T")


def auth_check(call: Call) -> Response:
    """GET /api/models/{id}/auth-check and /api/models/{id}/auth-check/write"""
    return answer({"success": True})


def like(call: Call) -> Response:
    """POST /api/models/{id}/like"""
    return _liked(call, likes=True)


def unlike(call: Call) -> Response:
    """DELETE /api/models/{id}/like"""
    return _liked(call, likes=False)


def likers(call: Call) -> Response:
    """GET /api/models/{id}/likers"""
    size, before = call.number("limit", PAGE, PAGE), call.request.query_params.get("cursor")
    found = meta_likes.likers(call.hub.meta, call.repo, limit=size + 1, before=before)
    page = [{**_person(one.user, one.fullname), "likedAt": one.date} for one in found[:size]]
    return answer(page, headers=call.next_page(found[size - 1].cursor if found[size:] else None))


def likes(call: Call) -> Response:
    """GET /api/users/{name}/likes"""
    size, before = call.number("limit", PAGE, PAGE), call.request.query_params.get("cursor")
    name = _user(call).name
    found = meta_likes.liked(call.hub.meta, name, call.who, limit=size + 1, before=before)
    page = [
        {"createdAt": one.date, "repo": {"name": one.repo, "type": "model"}} for one in found[:size]
    ]
    return answer(page, headers=call.next_page(found[size - 1].cursor if found[size:] else None))


def user(call: Call) -> Response:
    """GET /api/users/{name}/overview"""
    found = _user(call)
    orgs = {org.name: org.fullname for org in call.hub.accounts.orgs() if org.name in found.orgs}
    return answer(
        {
            **_person(found.name, found.fullname),
            "createdAt": found.created,
            "numModels": meta_likes.models_of(call.hub.meta, found.name, most=MOST_COUNTED),
            "numDatasets": 0,
            "numSpaces": 0,
            "numLikes": meta_likes.likes_of(call.hub.meta, found.name),
            "orgs": [
                {"name": org, "fullname": fullname or org, "avatarUrl": ""}
                for org, fullname in orgs.items()
            ],
        }
    )


def organization(call: Call) -> Response:
    """GET /api/organizations/{name}/overview"""
    found = _known(call, call.hub.accounts.org)
    return answer(
        {
            "type": "org",
            "name": found.name,
            "fullname": found.fullname or found.name,
            "avatarUrl": "",
            "isVerified": False,
            "numUsers": len(found.members),
            "numModels": meta_likes.models_of(call.hub.meta, found.name, most=MOST_COUNTED),
            "numDatasets": 0,
            "numSpaces": 0,
        }
    )


def members(call: Call) -> Response:
    """GET /api/organizations/{name}/members"""
    found = _known(call, call.hub.accounts.org)
    size, after = call.number("limit", PAGE, PAGE), call.request.query_params.get("cursor", "")
    names = [name for name in sorted(found.members) if name > after]
    fullnames = {one.name: one.fullname for one in call.hub.accounts.users()}
    page = [
        {**_person(name, fullnames[name]), "role": found.members[name]} for name in names[:size]
    ]
    return answer(page, headers=call.next_page(names[size - 1] if names[size:] else None))


def _liked(call: Call, *, likes: bool) -> Response:
    if not replace(call.who, admin=True).may(call.repo.name, "write"):
        raise errors.forbidden(
            f"Your token '{call.who.token_name}' may not change anything about '{call.repo.name}':"
            " a like needs one with the role 'write' that is good for it."
        )
    count = meta_likes.set_like(call.hub.meta, call.repo, call.who.name, likes=likes)
    return answer({"success": True, "likes": count})


def _user(call: Call) -> User:
    """The user that the route names; whoever sits at the machine is one too. Refusal 404."""
    if call.part["name"] == LOCAL.name == call.who.name:
        return User(LOCAL.name, "", admin=True, disabled=False, created="", orgs={}, tokens=0)
    return _known(call, call.hub.accounts.user)


def _known(call: Call, look_up: Callable[[str], T]) -> T:
    try:
        return look_up(call.part["name"])
    except HubError:
        raise errors.Refusal(404, f"There is no '{call.part['name']}' here.") from None


def _person(name: str, fullname: str) -> dict[str, Any]:
    """A user in the Hub's words."""
    return {
        "type": "user",
        "user": name,
        "fullname": fullname or name,
        "avatarUrl": "",
        "isPro": False,
    }
