"""Xet: files come as chunks, and become ordinary blobs that the later commit names.

The official client sends large files no other way once hf_xet is installed. It cuts a file into
chunks, sends those that it has not sent before as xorbs, and then a shard, which says how the file
is made of them. Here the shard is held against what is known of the xorbs, without touching their
contents; then each file is put together and goes into the store, if its sha256 is the one that was
announced. Downloads know nothing of this. https://huggingface.co/docs/xet/upload-protocol
"""

from __future__ import annotations

import shutil
import threading
from mmap import mmap

from hubtool.hub.server import errors, xet_hash
from hubtool.hub.server.store import Store
from hubtool.hub.server.xet_shard import Block, File, Shard, Term
from hubtool.hub.server.xet_store import Opened, Xorbs

__all__ = ["land"]

SHOWN = 16
MOST_CHUNKS = 1 << 24
"""Chunks that the files of one shard may have together: about a terabyte."""
LOCKS = [threading.Lock() for _ in range(64)]
"""By sha256: a client that has waited too long for an answer asks again, and then waits for the
work that goes on, instead of having it done twice."""


def land(data: bytes | mmap, store: Store, xorbs: Xorbs, epoch: str) -> list[str]:
    """Stores every file of a shard; the sha256 of each.

    Refusal 400 where the shard, or what it makes of the xorbs, is wrong; 507 where the disk is too
    small. What is wrong with the shard itself is found before the first file is stored.
    """
    try:
        shard = Shard(data)
        with Opened(xorbs, epoch) as opened:
            for block in shard.blocks():
                _check_block(shard, block, opened)
            if _checked_files(shard, opened) > shutil.disk_usage(store.tmp).free:
                raise errors.disk_full()
            landed = []
            for file in shard.files():
                with LOCKS[int(file.sha256[:2], 16) % len(LOCKS)]:
                    _store(shard, file, opened, store)
                landed.append(file.sha256)
            return landed
    except ValueError as error:
        raise errors.bad_request(f"The shard is damaged: {error}.") from None


def _check_block(shard: Shard, block: Block, opened: Opened) -> None:
    """ValueError unless the shard says of a xorb what the xorb says."""
    index = opened.index(block.xorb)
    if (block.count, block.size) != (len(index), index.sums[-1]):
        raise ValueError(f"the xorb {block.xorb} is said to hold other chunks than it does")
    for number, (found, before, size) in enumerate(shard.chunks(block)):
        if (found, size) != index.chunk(number) or before != index.sums[number]:
            raise ValueError(f"chunk {number} of the xorb {block.xorb} is another one")


def _checked_files(shard: Shard, opened: Opened) -> int:
    """The length of all files together; ValueError where a term or a file's hash is wrong."""
    size, left = 0, MOST_CHUNKS
    for file in shard.files():
        what, tree = f"the file {file.sha256[:SHOWN]}", xet_hash.Tree()
        for number, term in enumerate(shard.terms(file)):
            left -= max(0, term.end - term.start)
            if left < 0:
                raise ValueError(f"more than {MOST_CHUNKS} chunks in its files")
            try:
                _check_term(term, opened, tree)
            except ValueError as error:
                raise ValueError(f"term {number} of {what}: {error}") from None
            size += term.size
        if not file.count:
            raise ValueError(f"{what} is empty")
        if tree.file() != file.hash:
            raise ValueError(f"{what} has another hash than its chunks")
    return size


def _check_term(term: Term, opened: Opened, tree: xet_hash.Tree) -> None:
    index = opened.index(term.xorb)
    if not 0 <= term.start < term.end <= len(index):
        raise ValueError(f"chunks {term.start} to {term.end} of a xorb that has {len(index)}")
    if index.sums[term.end] - index.sums[term.start] != term.size:
        raise ValueError(f"its chunks do not make {term.size} bytes")
    if xet_hash.range_hash(index.range(term.start, term.end)) != term.proof:
        raise ValueError("the hash of its chunks' hashes is another one")
    for number in range(term.start, term.end):
        tree.add(*index.chunk(number))


def _store(shard: Shard, file: File, opened: Opened, store: Store) -> None:
    """Puts a file together in the store, unless it is there; then it is wanted once more."""
    if store.claim(file.sha256) is not None:
        return
    with store.writer() as writer:
        for term in shard.terms(file):
            for content in opened.chunks(term.xorb, term.start, term.end):
                writer.write(content)
        writer.finish(file.sha256)
