"""Where a request goes on when its repository has another name now: 307, as on the Hub.

The status keeps the method and the body. The address is relative, so it holds behind whatever name
or proxy the server was reached, and only the name in it is another: the rest of the path and the
query stay as they were sent, byte by byte.
"""

from __future__ import annotations

import string
from urllib.parse import quote, unquote

from hubtool.hub.server.errors import Refusal

__all__ = ["moved"]


def moved(path: bytes, query: bytes, name: str, now: str) -> Refusal:
    """The answer to a request for the repository `name`, which is called `now`. path: raw, of a
    route with `{id}`; query: raw, without its `?`."""
    parts = _plain(path).split("/")
    start = 3 if parts[1] == "api" else 1
    whole = "/" in unquote(parts[start])  # namespace%2Fname is one part
    end = start + (1 if whole else name.count("/") + 1)
    ending = "/".join(map(unquote, parts[start:end])).removeprefix(name)  # ".git"
    location = "/".join([*parts[:start], f"{now}{ending}", *parts[end:]])
    if query:
        location += f"?{_plain(query)}"
    return Refusal(307, f"'{name}' is called '{now}' now.", headers={"Location": location})


def _plain(raw: bytes) -> str:
    """What was sent, with bytes encoded that no address may hold as they are."""
    return quote(raw, safe=string.punctuation)
