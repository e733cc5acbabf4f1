"""Who may do what: the machine's own people everything, strangers nothing but reading.

A hub without users trusts whoever can reach 127.0.0.1, and that is less safe than it sounds: a web
page in the same person's browser can reach it too. So a hub that takes writes answers only to
this machine's own names (a page that lets its own name point here is refused), and a request
that another site's page makes may change nothing. Uploads by Git LFS carry no token: their
addresses are signed, with a secret that all processes over one folder share.
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
from dataclasses import dataclass
from pathlib import Path

from hubtool.hub.server import errors

__all__ = ["EXPIRES_IN", "Guard", "Signer", "is_loopback"]

LOCAL_USER = "local"
INVALID = "Invalid credentials in Authorization header"  # clients compare this text
NO_USERS = (
    "This hub has no users yet: writes are refused on an address other than this machine's own. "
    "Start it with --host 127.0.0.1 and publish from the machine itself."
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
    """open_writes: everybody who gets this far may write, and sees what is private.
    hosts: further names that the server may be called by; None lets a read-only server be called
    by any name."""

    open_writes: bool
    hosts: tuple[str, ...] | None = None

    def admit(self, method: str, scheme: str, headers: Mapping[str, str], *, writes: bool) -> None:
        """Lets a request pass that may be answered. Raises Refusal 401, 403."""
        self._called_by_its_name(headers.get("host", ""))
        origin = headers.get("origin")
        own = f"{scheme}://{headers.get('host', '')}"
        if method not in READING and origin is not None and origin.lower() != own.lower():
            raise errors.forbidden(
                f"A page of {origin} may not change anything here: send the request without Origin."
            )
        if writes and not self.open_writes:
            raise self._stranger(headers)

    def user(self, headers: Mapping[str, str]) -> str:
        """The name of who asks. Raises Refusal 401 where nobody has one."""
        if not self.open_writes:
            raise self._stranger(headers)
        return LOCAL_USER

    def _called_by_its_name(self, host: str) -> None:
        if self.hosts is None and not self.open_writes:
            return
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if is_loopback(name) or name.lower() in (self.hosts or ()):
            return
        raise errors.forbidden(
            f"This hub is not called '{host}': use http://127.0.0.1 with its port."
        )

    def _stranger(self, headers: Mapping[str, str]) -> errors.Refusal:
        if headers.get("authorization"):
            return errors.Refusal(401, INVALID, body={"error_description": NO_USERS})
        return errors.unauthorized(NO_USERS)


class Signer:
    """Signs what may be done with one object, for an hour: HMAC-SHA256 over method, oid, size and
    the second it ends."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, root: Path) -> Signer:
        """The signer of a folder: the secret is made once, whoever comes first."""
        return cls(_secret(root))

    def query(self, method: str, oid: str, size: int) -> str:
        """What to put behind the `?` of an address that allows `method` on the object."""
        expires = int(time.time()) + EXPIRES_IN
        return f"size={size}&expires={expires}&signature={self._sign(method, oid, size, expires)}"

    def check(self, method: str, oid: str, query: Mapping[str, str]) -> int:
        """The size that was signed for. Raises Refusal 403."""
        try:
            size, expires = int(query["size"]), int(query["expires"])
        except (KeyError, ValueError):
            raise errors.forbidden(
                "This address is not signed: ask the batch API for one."
            ) from None
        expected = self._sign(method, oid, size, expires)
        if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode()):
            raise errors.forbidden("The signature of this address is wrong: ask for a new one.")
        if time.time() > expires:
            raise errors.forbidden("This address has expired: ask the batch API for a new one.")
        return size

    def _sign(self, method: str, oid: str, size: int, expires: int) -> str:
        claim = f"{method} {oid} {size} {expires}".encode()
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
