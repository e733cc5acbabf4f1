"""A refusal: what the server answers instead of what was asked for.

The status, a message for a person and the Hub's own code for a program (X-Error-Code), which
huggingface_hub turns into its exception classes. The message travels in a header too, and a header
with anything but printable ASCII would end the connection, so it is made so here, once.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = [
    "Refusal",
    "bad_request",
    "busy",
    "conflict",
    "disk_full",
    "entry_not_found",
    "forbidden",
    "gated_repo",
    "precondition",
    "repo_not_found",
    "revision_not_found",
    "too_large",
    "unauthorized",
]

LONGEST = 1000
"""Characters of a message that are kept; servers and clients limit what a header may hold."""


class Refusal(Exception):
    """Why a request was not answered: an HTTP status, a message, a code, further JSON keys and
    headers."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "",
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status = status
        self.message = _printable(message)
        self.code = code
        self.body = {} if body is None else body
        self.headers = {} if headers is None else headers
        super().__init__(self.message)


def _printable(message: str) -> str:
    escaped = message.encode("ascii", "backslashreplace").decode("ascii")
    escaped = re.sub(r"[^ -~]", lambda match: f"\\x{ord(match[0]):02x}", escaped).strip()
    return escaped if len(escaped) <= LONGEST else f"{escaped[: LONGEST - 3]}..."


def bad_request(message: str) -> Refusal:
    """400: what was sent is not what the protocol says."""
    return Refusal(400, message)


def unauthorized(message: str) -> Refusal:
    """401: who asks must say who they are."""
    return Refusal(401, message)


def forbidden(message: str) -> Refusal:
    """403: who asks may not."""
    return Refusal(403, message)


def repo_not_found(name: str) -> Refusal:
    """404: there is no repository of that name, or none that may be seen."""
    return Refusal(404, f"There is no repository '{name}' here.", "RepoNotFound")


def gated_repo(name: str, *, known: bool) -> Refusal:
    """The repository's files are for those who were let in: 403, or 401 to who has no name."""
    if known:
        ask = f"ask for access (POST /{name}/ask-access), and who owns it decides."
    else:
        ask = "send a token of this hub, of somebody who was granted access."
    return Refusal(403 if known else 401, f"'{name}' is gated: {ask}", "GatedRepo")


def revision_not_found(name: str, revision: str) -> Refusal:
    """404: the repository has no such branch, tag or commit."""
    return Refusal(404, f"'{name}' has no revision '{revision}'.", "RevisionNotFound")


def entry_not_found(name: str, revision: str, path: str) -> Refusal:
    """404: the revision holds no such file."""
    message = f"'{path}' does not exist in '{name}' at revision '{revision}'."
    return Refusal(404, message, "EntryNotFound")


def conflict(message: str, **body: Any) -> Refusal:
    """409: it exists already, or stands in the way."""
    return Refusal(409, message, body=body)


def precondition(message: str) -> Refusal:
    """412: the branch is no longer where the request takes it to be."""
    return Refusal(412, message)


def too_large(message: str) -> Refusal:
    """413: more than was announced, or than is taken."""
    return Refusal(413, message)


def busy() -> Refusal:
    """503: another writer held the database for too long; a client may try again."""
    return Refusal(503, "The hub is busy with other writers: try again in a moment.")


def disk_full() -> Refusal:
    """507: no space left; what was being written has been removed."""
    return Refusal(507, "The hub's disk is full: nothing was changed.")
