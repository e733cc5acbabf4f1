"""What no repository may be called, since it means something else in addresses.

`meta.check_name` says which names the Hub would take; here is what this hub's own routes take away.
A repository has one part or two to its name. One without a namespace (`gpt2`) belongs to the hub
itself: only who runs it makes one, or moves one there.
"""

from __future__ import annotations

from hubtool.hub.server import errors
from hubtool.hub.server.accounts import NOT_NAMESPACES

__all__ = ["BELOW", "NOT_BARE", "check_address"]

BELOW = {"auth-check", "lfs-files", "likers", "refs"}
"""No last part: `/api/models/axon/refs` lists the refs of `axon`."""
NOT_BARE = NOT_NAMESPACES | {"-", "models", "openapi.json", "xet"}
"""No name without a namespace: `/models` lists models."""


def check_address(name: str) -> None:
    """Raises Refusal 400 where a repository of this name could not be reached."""
    namespace, slash, last = name.rpartition("/")
    if last in BELOW or (namespace in NOT_NAMESPACES if slash else last in NOT_BARE):
        raise errors.bad_request(
            f"'{name}' means something else in addresses: choose another name."
        )
