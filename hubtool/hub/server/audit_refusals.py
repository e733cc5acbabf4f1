"""Refusals in the audit log: tokens that are none, and what somebody was not allowed to do.

They are what to look at after an attack, and an attacker can make as many as they like. So only so
many a minute are written down, of one address and in all; each says how many went before it
unwritten. Nothing is noted while the hub has no users: there is nobody to be taken for, then.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from hubtool.hub.server import errors
from hubtool.hub.server.audit import Actor, note
from hubtool.hub.server.meta import Meta

__all__ = ["MOST", "MOST_OF_ONE", "Refusals"]

WINDOW_S = 60
MOST, MOST_OF_ONE = 60, 10
"""Refusals that are written down in a minute: of all addresses, and of one."""


class Refusals:
    """Writes refusals into the log of a hub."""

    def __init__(self, meta: Meta, clock: Callable[[], float] = time.monotonic) -> None:
        self._meta, self._clock = meta, clock
        self._lock = threading.Lock()
        self._ends, self._left_out = 0.0, 0
        self._counts: Counter[str] = Counter()

    def note(self, actor: Actor, refusal: errors.Refusal, subject: str) -> None:
        """Write one down, unless there were too many. The answer does not depend on it."""
        with self._lock:
            if self._clock() >= self._ends:
                self._counts.clear()
                self._ends = self._clock() + WINDOW_S
            full = self._counts.total() >= MOST or self._counts[actor.address] >= MOST_OF_ONE
            if full:
                self._left_out += 1
                return
            self._counts[actor.address] += 1
            left_out, self._left_out = self._left_out, 0
        action = "refused.token" if refusal.status == 401 else "refused"
        detail = {"reason": refusal.message, **({"left_out": left_out} if left_out else {})}
        with suppress(errors.Refusal, sqlite3.Error), self._meta.writing() as db:
            note(db, actor, action, subject, **detail)
