"""A hub without HTTP for the tests: a store, its metadata, and commits made of lines."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from hubtool.hub.server import commits
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.commits import CommitRequest
from hubtool.hub.server.meta import Commit, Meta, Repo
from hubtool.hub.server.store import Blob, Store


class Hub:
    """What the HTTP rooms build on, over one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.meta = Meta(root)
        self.store = Store(root)

    def keep(self, content: bytes) -> Blob:
        with self.store.writer() as writer:
            writer.write(content)
            return writer.finish()

    def parse(self, *lines: bytes) -> CommitRequest:
        return commits.parse(io.BytesIO(b"".join(lines)), self.store)

    def commit(self, repo: Repo, *lines: bytes, branch: str = "main") -> Commit:
        digest = hashlib.sha256(b"".join(lines)).hexdigest()
        request = self.parse(*lines)
        return commits.apply(
            self.meta, self.store, repo, branch, request, digest=digest, by=Actor("ann")
        )

    def content(self, oid: str) -> dict[str, bytes]:
        """Every file of a commit, read from the store and held against what is said of it."""
        found = {}
        for entry in self.meta.files(oid):
            data = self.store.path(entry.sha256).read_bytes()
            assert hashlib.sha256(data).hexdigest() == entry.sha256
            assert len(data) == entry.size
            found[entry.path] = data
        return found

    def temporaries(self) -> list[str]:
        return sorted(path.name for path in (self.root / "tmp").iterdir())


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def line(key: str, **value: Any) -> bytes:
    return json.dumps({"key": key, "value": value}).encode() + b"\n"


def header(summary: str = "a change", **value: Any) -> bytes:
    return line("header", summary=summary, **value)


def file(path: str, content: bytes) -> bytes:
    text = base64.b64encode(content).decode()
    return line("file", content=text, path=path, encoding="base64")


def lfs(path: str, oid: str, **value: Any) -> bytes:
    return line("lfsFile", path=path, algo="sha256", oid=oid, **value)
