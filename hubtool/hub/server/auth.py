"""Who asks, and what they may not do: the first that every request meets.

A hub without users trusts whoever can reach 127.0.0.1, and that is less safe than it sounds: a web
page in the same person's browser can reach it too. So a hub that takes writes answers only to
this machine's own names (a page that lets its own name point here is refused), and a request
that another site's page makes may change nothing. As soon as there are users, writing needs a
token everywhere, and a token that is none is refused even where nobody needs one: clients go by
that. Uploads by Git LFS carry no token: their addresses are signed, with a secret that all
processes over one folder share, and say for whom.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hubtool.hub.server import errors
from hubtool.hub.server.accounts import ANYBODY, LOCAL, Accounts, Identity, Role

__all__ = [
    "EXPIRES_IN",
    "INVALID",
    "Guard",
    "Needs",
    "Signer",
    "insufficient",
    "is_loopback",
    "nobody",
]

Needs = Literal["nothing", "read", "contents", "write", "admin", "user"]
"""What a route asks of whoever calls it: nothing (the handler checks for itself: signed addresses,
tokens of its own, lists); that the repository of `{id}` may be seen, and its files be read too
where it is gated (contents); the role write or admin on it; or that it is somebody (user), where
the handler looks up the repository that the body names."""

INVALID = "Invalid credentials in Authorization header"  # clients compare this text
NO_USERS = (
    "This hub has no users yet: writes are refused on an address other than this machine's own."
    " Add a user there (hubtool hub users add NAME) and send their token; or start it with"
    " --host 127.0.0.1 and publish from the machine itself."
)
NO_TOKEN = (
    "This needs a token of this hub, and none came: set HF_TOKEN, or HUBTOOL_TOKEN for hubtool, or"
    " run hf auth login. Who runs the hub makes one: hubtool hub tokens new USER --name NAME."
)
BAD_TOKEN = (
    "The token is unknown here, has expired or was revoked, or its user is disabled: ask who runs"
    " the hub for another (hubtool hub tokens new), or send none to read what is public."
)
EXPIRES_IN = 3600
"""Seconds that a signed address stays good for."""

READING = ("GET", "HEAD", "OPTIONS")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own and nobody else's."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """open_writes: as long as there are no users, everybody who gets this far may do everything.
    hosts: further names that the server may be called by; None lets a read-only server be called
    by any name. key: what whoever started the server bears as their token; "" for none. url: the
    address of a proxy in front, whose pages are our own."""

    open_writes: bool
    hosts: tuple[str, ...] | None = None
    key: str = ""
    url: str = ""

    def admit(self, method: str, scheme: str, headers: Mapping[str, str]) -> None:
        """Lets a request pass that no other site's page makes. Raises Refusal 403."""
        self._called_by_its_name(headers.get("host", ""))
        origin = headers.get("origin")
        own = {f"{scheme}://{headers.get('host', '')}".lower(), self.url.lower()}
        if method not in READING and origin is not None and origin.lower() not in own:
            raise errors.forbidden(
                f"A page of {origin} may not change anything here: send the request without Origin."
            )

    def identify(self, headers: Mapping[str, str], accounts: Accounts) -> Identity:
        """Who asks. Raises Refusal 401 for a token that is none."""
        given = headers.get("authorization", "")
        kind, _, token = given.partition(" ")
        token = token.strip() if kind.lower() == "bearer" else ""
        if self.key and hmac.compare_digest(token.encode(), self.key.encode()):
            return LOCAL
        if not accounts.exist():
            return LOCAL if self.open_writes else ANYBODY
        if not given:
            return ANYBODY
        found = accounts.identify(token)
        if found is None:
            raise errors.Refusal(401, INVALID, body={"error_description": BAD_TOKEN})
        return found

    def _called_by_its_name(self, host: str) -> None:
        if self.hosts is None and not self.open_writes:
            return
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if is_loopback(name) or name.lower() in (self.hosts or ()):
            return
        raise errors.forbidden(
            f"This hub is not called '{host}': use http://127.0.0.1 with its port."
        )


def nobody(headers: Mapping[str, str], *, users: bool) -> errors.Refusal:
    """Why somebody without a name may not; `users`: whether the hub has any."""
    if users:
        return errors.unauthorized(NO_TOKEN)
    if headers.get("authorization"):
        return errors.Refusal(401, INVALID, body={"error_description": NO_USERS})
    return errors.unauthorized(NO_USERS)


def insufficient(who: Identity, role: Role, repo: str) -> errors.Refusal:
    """Why somebody who sees a repository, or a namespace to make one in, may not do this there."""
    namespace, slash, _ = repo.partition("/")
    if not slash and not who.admin:
        return errors.forbidden(
            f"'{repo}' has no namespace, so only who runs the hub may do this: name it"
            f" '{who.name}/{repo}'."
        )
    token = f"Your token '{who.token_name}'"
    again = f"make one that may: hubtool hub tokens new {who.name} --name NAME --role {role}"
    if replace(who, repos=None, role="admin").may(repo, role):
        if who.right(repo) is None:
            scope = ", ".join(who.repos or ())
            return errors.forbidden(f"{token} is good for {scope} only, not for '{repo}': {again}.")
        return errors.forbidden(f"{token} has the role '{who.role}'; this needs '{role}': {again}.")
    held = replace(who, repos=None, role="admin").right(repo)
    if held is not None:
        return errors.forbidden(
            f"Your role in '{namespace}' is '{held}', and this needs '{role}': ask an admin of"
            f" '{namespace}', or who runs the hub."
        )
    return errors.forbidden(
        f"'{repo}' is not yours, '{who.name}': this needs the role '{role}' in '{namespace}', which"
        f" who runs the hub can give: hubtool hub orgs member {namespace} {who.name} --role"
        f" {role}."
    )


class Signer:
    """Signs what may be done with one object, for an hour: HMAC-SHA256 over method, oid, size, for
    whom, and the second it ends."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, root: Path) -> Signer:
        """The signer of a folder: the secret is made once, whoever comes first."""
        return cls(_secret(root))

    def query(self, method: str, oid: str, size: int, user: str = "") -> str:
        """What to put behind the `?` of an address that allows `method` on the object."""
        expires = int(time.time()) + EXPIRES_IN
        signature = self._sign(method, oid, size, user, expires)
        return f"size={size}&user={user}&expires={expires}&signature={signature}"

    def check(self, method: str, oid: str, query: Mapping[str, str]) -> tuple[int, str]:
        """The size that was signed for, and the user. Raises Refusal 403."""
        try:
            size, expires = int(query["size"]), int(query["expires"])
        except (KeyError, ValueError):
            raise errors.forbidden(
                "This address is not signed: ask the batch API for one."
            ) from None
        user = query.get("user", "")
        expected = self._sign(method, oid, size, user, expires)
        if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode()):
            raise errors.forbidden("The signature of this address is wrong: ask for a new one.")
        if time.time() > expires:
            raise errors.forbidden("This address has expired: ask the batch API for a new one.")
        return size, user

    def _sign(self, method: str, oid: str, size: int, user: str, expires: int) -> str:
        claim = f"{method} {oid} {size} {expires} {user}".encode()
        return hmac.new(self._secret, claim, hashlib.sha256).hexdigest()


def _secret(root: Path) -> bytes:
    """The folder's secret. A link appears whole or not at all, and only for the first."""
    path = root / "secret"
    while True:
        with suppress(FileNotFoundError):
            return path.read_bytes()
        handle, name = tempfile.mkstemp(dir=root, prefix=".secret.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(32))
                stream.flush()
                os.fsync(handle)
            with suppress(FileExistsError):
                path.hardlink_to(name)
        finally:
            Path(name).unlink(missing_ok=True)
