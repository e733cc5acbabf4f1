"""gc: contents that no commit names go, and give their room back.

A content comes before the commit that names it, and a client that is told that a content is here
does not send it; so what nobody names may be wanted in a moment. Whoever is going to name a content
*claims* it, which sets its file's mtime (`store.claim`, and every upload). Collected is what no
commit names and nobody has claimed for the grace time, a day by default. A commit claims what it
names once more in its transaction, and is refused if that is gone, so that no commit ever names
what is not there.

Claiming and collecting exclude each other by a lock that is held for a few files at a time, so
servers and clients notice nothing.

The chunks of Xet uploads (`xet_epochs`) are kept only to save sending them again. A collection of
them ends here, and goes the next time, once uploads that counted on it are over.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hubtool import files
from hubtool.errors import InputError
from hubtool.hub.server.meta_database import LOCK
from hubtool.hub.server.store import SHA256, Store, locked
from hubtool.hub.server.survey import NAMED, Progress, contents, opened
from hubtool.hub.server.xet_epochs import Epochs

__all__ = ["GRACE_S", "Collected", "collect"]

GRACE_S = 86_400
SAFE_S = 3_600
"""As long as an upload's address is good. With less, nobody may have the hub open."""
AT_ONCE = 100


@dataclass(frozen=True)
class Collected:
    """What went, or would go. young: what no commit names, but somebody wanted not long ago;
    xorb_bytes: of chunks that no upload can refer to any more."""

    contents: int
    bytes: int
    young: int
    young_bytes: int
    kept: int
    kept_bytes: int
    xorb_bytes: int
    dry_run: bool


def collect(
    root: Path,
    *,
    grace_s: float = GRACE_S,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Collected:
    """Remove the contents that no commit names and that nobody wanted for so many seconds.
    Raises HubError where there is no hub, or somebody else is looking after it."""
    if grace_s < 0:
        raise InputError(f"a grace of {grace_s} seconds", hint="Give 0 or more.")
    before = time.time() - grace_s
    old: dict[str, int] = {}
    young: list[int] = []
    kept: list[int] = []
    if grace_s < SAFE_S and not dry_run and (root / "hub.db").exists():
        busy = "somebody has the hub open, and may be uploading: less than an hour is no grace then"
        with locked(root / LOCK, alone=True, busy=busy):
            pass
    with opened(root, alone=True) as db:
        named = {sha256 for sha256, _ in db.execute(NAMED)}
        db.execute("COMMIT")  # who names another content from now on claims it
        for file in contents(root):
            if file.path.name in named:
                kept.append(file.size)
            elif file.modified >= before:
                young.append(file.size)
            elif SHA256.fullmatch(file.path.name):
                old[file.path.name] = file.size
        store = Store(root)
        epochs = Epochs(root)
        xorb_bytes = epochs.remove(grace_s, dry_run=dry_run)
        if not dry_run:
            epochs.retire(grace_s)
            old = _discarded(store, old, before, progress)
        return Collected(
            contents=len(old),
            bytes=sum(old.values()),
            young=len(young),
            young_bytes=sum(young),
            kept=len(kept),
            kept_bytes=sum(kept),
            xorb_bytes=xorb_bytes,
            dry_run=dry_run,
        )


def _discarded(
    store: Store, old: dict[str, int], before: float, progress: Progress | None
) -> dict[str, int]:
    """Of these contents, the ones that went."""
    gone: dict[str, int] = {}
    waiting, done, total = iter(old), 0, sum(old.values())
    with files.telling(store.root):
        store.sweep()
        while some := list(islice(waiting, AT_ONCE)):
            gone |= {sha256: old[sha256] for sha256 in store.discard(some, before)}
            done += sum(old[sha256] for sha256 in some)
            if progress is not None:
                progress("collecting", done, total)
    return gone
