"""Gated repositories: asking to be let in, and who decides on it.

A gated repository lets everybody see what it is, and gives its files to those who were granted
access. Whoever is logged in may ask; where it is gated "auto" they are let in at once, so that its
owners know who has it, and where it is "manual" an admin of the repository decides. The routes
below `user-access-request` are those that huggingface_hub knows.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from hubtool.errors import HubError
from hubtool.hub.server import access, errors
from hubtool.hub.server.access import STATUSES, Status
from hubtool.hub.server.routes import Call, answer

__all__ = ["ask", "grant", "handle", "listed"]

LONGEST = 1000


def ask(call: Call) -> Response:
    """POST /{id}/ask-access: who was rejected is not asked about again"""
    call.require_user()
    _check_gated(call)
    if call.reads_contents:
        return answer({"status": "accepted"})
    known = {one.user.lower(): one.status for one in access.requests(call.hub.meta, call.repo)}
    status = known.get(call.who.name.lower())
    if status != "rejected":
        status = "accepted" if call.repo.gated == "auto" else "pending"
        access.decide(call.hub.meta, call.repo, call.who.name, status, by=call.actor)
    return answer({"status": status})


def listed(call: Call) -> Response:
    """GET /api/models/{id}/user-access-request/{status}"""
    status = _status(call.part["status"])
    _check_gated(call)
    return answer(
        [
            {
                "requestId": one.id,
                "user": {"user": one.user, "fullname": one.fullname or one.user, "type": "user"},
                "status": one.status,
                "timestamp": one.date,
                **({"rejectionReason": one.reason} if one.reason else {}),
            }
            for one in access.requests(call.hub.meta, call.repo, status)
        ]
    )


def handle(call: Call) -> Response:
    """POST /api/models/{id}/user-access-request/handle"""
    data = call.json()
    _check_gated(call)
    status, reason = _status(data.get("status")), data.get("rejectionReason") or ""
    if not isinstance(reason, str) or len(reason) > LONGEST:
        raise errors.bad_request(f"rejectionReason is a text of {LONGEST} letters at most.")
    wanted = (data.get("user"), data.get("requestId"))
    for one in access.requests(call.hub.meta, call.repo):
        if (one.user, None) == wanted or (None, one.id) == wanted:
            break
    else:
        raise errors.Refusal(
            404, f"There is no such request for '{call.repo.name}': grant access without one."
        )
    if one.status == status:
        raise errors.Refusal(404, f"The request of '{one.user}' is {status} already.")
    access.decide(call.hub.meta, call.repo, one.user, status, by=call.actor, reason=reason)
    return answer({"status": status})


def grant(call: Call) -> Response:
    """POST /api/models/{id}/user-access-request/grant"""
    name = call.json().get("user")
    _check_gated(call)
    if not isinstance(name, str):
        raise errors.bad_request("user is the name of who is to be let in.")
    try:
        user = call.hub.accounts.user(name).name
    except HubError as error:
        raise errors.Refusal(404, f"{error}: an account is needed before access.") from None
    if any(one.user == user for one in access.requests(call.hub.meta, call.repo, "accepted")):
        raise errors.bad_request(f"'{user}' has access to '{call.repo.name}' already.")
    access.decide(call.hub.meta, call.repo, user, "accepted", by=call.actor)
    return answer({"status": "accepted"})


def _check_gated(call: Call) -> None:
    if not call.repo.gated:
        raise errors.bad_request(
            f"'{call.repo.name}' is not gated: whoever sees it may read its files."
        )


def _status(value: Any) -> Status:
    for status in STATUSES:
        if status == value:
            return status
    raise errors.bad_request(f"The status is {', '.join(STATUSES)}; '{value}' is none.")
