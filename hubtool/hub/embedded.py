"""The embedded hub: our own server on 127.0.0.1 for as long as a call lasts, over a folder.

Publishing needs no account and no network then, and yet goes the way that it goes to
huggingface.co, so that what works here works there. Several processes may have the same folder
open at once. `hubtool serve` is the same server, kept running.

Whoever may read and write the folder is its owner, whatever users the hub has: the server is told
a key made for this run, and takes it for a token that may do everything. Others who find the port
need a token of their own as soon as there are users.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ADDRESSES", "running"]

ADDRESSES: set[str] = set()
"""host:port of every embedded hub that runs in this process: proxies and HF_HUB_OFFLINE are not
meant for these."""


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, str]]:
    """The URL of a server over `folder`, which is made if need be, and the token for it; it stops
    with the block. Raises WriteError, HubError."""
    from hubtool.hub.server.run import Background

    key = secrets.token_urlsafe(32)
    with Background(folder, key=key) as url:
        address = url.partition("://")[2]
        ADDRESSES.add(address)
        try:
            yield url, key
        finally:
            ADDRESSES.discard(address)
