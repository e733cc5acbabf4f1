"""How much one client may ask for: so many requests in five minutes, told in every answer.

A window is fixed and the same for all: counts begin anew when it ends, which needs no memory of
former ones. Who bears a token is counted by their name, everybody else by their address (of IPv6
by the network of one household, /64). The headers are those of huggingface.co, so that
huggingface_hub waits for the end of the window by itself after a 429.
https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/09/
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from hubtool.hub.server.errors import Refusal

__all__ = ["PER_WINDOW", "WINDOW_S", "Limiter", "kind", "network"]

WINDOW_S = 300
PER_WINDOW = 5_000
"""Requests of each kind that one client may make in a window, unless the hub is told otherwise."""
MOST_CLIENTS = 100_000
"""Clients that are counted apart in a window; those that come later are counted as one."""


class Limiter:
    """Counts requests by kind ("api", "resolvers", "pages") and client.

    quota: requests of one kind in a window; 0 for any number.
    """

    def __init__(self, quota: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._quota, self._clock = quota, clock
        self._ends = 0.0
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def take(self, kind: str, client: str) -> Mapping[str, str]:
        """One request more; the headers that say what is left. Raises Refusal 429."""
        if not self._quota:
            return {}
        with self._lock:
            now = self._clock()
            if now >= self._ends:
                self._counts.clear()
                self._ends = now + WINDOW_S
            key = (kind, client)
            if key not in self._counts and len(self._counts) >= MOST_CLIENTS:
                key = (kind, "")
            self._counts[key] += 1
            left, seconds = self._quota - self._counts[key], math.ceil(self._ends - now)
        headers = {
            "RateLimit": f'"{kind}";r={max(0, left)};t={seconds}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={self._quota};w={WINDOW_S}',
        }
        if left < 0:
            raise Refusal(
                429,
                f"More than {self._quota} requests in {WINDOW_S // 60} minutes are too many here:"
                f" try again in {seconds} seconds.",
                headers={**headers, "Retry-After": str(seconds)},
            )
        return headers


def kind(path: str) -> str:
    """Which of huggingface.co's three kinds of requests a path is of."""
    if path.startswith("/api/"):
        return "api"
    moving = path.startswith("/xet/") or any(
        part in path for part in ("/resolve/", "/raw/", ".git/info/lfs/")
    )
    return "resolvers" if moving else "pages"


def network(address: str) -> str:
    """What of an address stands for one client."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
