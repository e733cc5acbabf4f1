"""The embedded hub: our own server on 127.0.0.1 for as long as a call lasts, over a folder.

Publishing needs no account and no network then, and yet goes the way that it goes to
huggingface.co, so that what works here works there. Several processes may have the same folder
open at once. `hubtool serve` is the same server, kept running.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ADDRESSES", "running"]

ADDRESSES: set[str] = set()
"""host:port of every embedded hub that runs in this process: proxies and HF_HUB_OFFLINE are not
meant for these."""


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The URL of a server over `folder`, which is made if need be; it stops with the block.
    Raises WriteError, HubError."""
    from hubtool.hub.server.run import Background

    with Background(folder) as url:
        address = url.partition("://")[2]
        ADDRESSES.add(address)
        try:
            yield url
        finally:
            ADDRESSES.discard(address)
