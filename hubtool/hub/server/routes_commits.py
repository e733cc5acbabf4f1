"""Writing: a card is checked, a client is told how to send each file, and a commit lands.

A commit's body may hold gigabytes. It goes to a nameless file below tmp/ while its sha256 is
taken, by which a repeated request is known again, and is read from there piece by piece.
"""

from __future__ import annotations

import hashlib
import tempfile
from fnmatch import fnmatchcase
from typing import Any, BinaryIO

from starlette.responses import Response

from hubtool.hub.server import commits, errors
from hubtool.hub.server.meta import Commit, Entry
from hubtool.hub.server.routes import Call, answer, pour
from hubtool.hub.server.routes_xet import speaks_xet
from hubtool.hub.server.store import Blob, full_disk

__all__ = ["commit", "ignored", "preupload", "validate_yaml"]

LARGE = 1_000_000
"""Bytes above which a file goes the way of large ones whatever it is called."""
MAX_RULES = 1 << 16
MOST_FILES = 256
"""As many as the official client asks about at once. Every file is held against every rule."""
OURS = "hubtool/"
"""Begins the User-Agent of clients that speak Git LFS also to a hub that does not speak Xet."""


def validate_yaml(call: Call) -> Response:
    """POST /api/validate-yaml"""
    from hubtool.hub.card import (
        front_matter,
        lint_front_matter,
    )  # as slow to import as all else here

    content = call.json().get("content")
    if not isinstance(content, str):
        raise errors.bad_request("content must be the text of a card.")
    try:
        problems = lint_front_matter(front_matter(content))
    except ValueError as error:
        return _verdict([str(error)], [])
    told: dict[bool, list[str]] = {True: [], False: []}
    for problem in problems:
        told[problem.severity == "error"].append(f"{problem.message}: {problem.mend}")
    return _verdict(told[True], told[False])


def _verdict(wrong: list[str], doubtful: list[str]) -> Response:
    body = {
        "errors": [{"message": message} for message in wrong],
        "warnings": [{"message": message} for message in doubtful],
    }
    if not wrong:
        return answer(body)
    raise errors.Refusal(400, f"The card's metadata is wrong: {wrong[0]}", body=body)


def preupload(call: Call) -> Response:
    """POST /api/models/{id}/preupload/{rev}"""
    data = call.json()
    stored = _stored_text(call, ".gitignore")
    rules = data.get("gitIgnore", stored)
    files = data.get("files")
    if not isinstance(rules, str) or not isinstance(files, list):
        raise errors.bad_request("files must be a list, and gitIgnore a text.")
    if len(files) > MOST_FILES or len(rules) > MAX_RULES:
        raise errors.bad_request(
            f"At most {MOST_FILES} files are asked about at once, with {MAX_RULES} letters of"
            " .gitignore: ask in parts."
        )
    large = [
        line.split()[0]
        for line in _stored_text(call, ".gitattributes").splitlines()
        if "filter=lfs" in line.split()
    ]
    ours = OURS in call.request.headers.get("user-agent", "")
    apart = call.hub.lfs or ours or speaks_xet()  # a client chooses between Git LFS and Xet itself
    there = {entry.path: entry for entry in call.hub.meta.files(call.commit.oid)}
    answers = []
    for path, size in map(_announced, files):
        big = size > LARGE or any(_matches(path, rule) for rule in large)
        lfs = apart and big and size > 0  # clients send an empty file with the commit anyway
        answers.append(
            {
                "path": path,
                "uploadMode": "lfs" if lfs else "regular",
                "shouldIgnore": ignored(path, rules),
                "oid": _oid(call, there.get(path), size, lfs=lfs),
            }
        )
    return answer({"files": answers, "commitOid": call.commit.oid})


def _announced(file: Any) -> tuple[str, int]:
    if not isinstance(file, dict):
        file = {}
    path, size = file.get("path"), file.get("size")
    if not isinstance(path, str) or type(size) is not int:
        raise errors.bad_request("A file needs a path, which is a text, and a size in bytes.")
    return path, size


def _oid(call: Call, entry: Entry | None, size: int, *, lfs: bool) -> str | None:
    """By which name a client knows what it has as the same, in the way it is to send it; None for
    what is to be sent, also because this hub lost it."""
    if entry is None or not entry.size == size == call.hub.store.size(entry.sha256):
        return None
    if lfs:
        return entry.sha256
    if not entry.lfs:
        return entry.oid
    return Blob(entry.sha256, entry.size, call.hub.store.path(entry.sha256)).oid


def _stored_text(call: Call, path: str) -> str:
    """A small text of the revision; empty where there is none."""
    entry = call.hub.meta.entry(call.commit.oid, path)
    if entry is None or entry.size > MAX_RULES:
        return ""
    return call.hub.store.path(entry.sha256).read_text(encoding="utf-8", errors="replace")


def ignored(path: str, rules: str) -> bool:
    """Whether .gitignore's text leaves a path out; the last rule that fits decides.

    Known are names and `*.ext` at any depth, `folder/`, paths from the top (`/a`, `a/b`) and
    `!` before any of them; `**` and escaped characters are not.
    """
    verdict = False
    for line in rules.splitlines():
        rule = line.strip()
        wanted = not rule.startswith("!")
        rule = rule.removeprefix("!")
        if rule and not rule.startswith("#") and _matches(path, rule):
            verdict = wanted
    return verdict


def _matches(path: str, rule: str) -> bool:
    """Whether a rule of .gitignore or .gitattributes fits a path or a folder it lies in."""
    parts = path.split("/")
    if rule.endswith("/"):
        rule, parts = rule.rstrip("/"), parts[:-1]
    if "/" not in rule:
        return any(fnmatchcase(part, rule) for part in parts)
    wanted = rule.removeprefix("/").split("/")
    return len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted))


async def commit(call: Call) -> Response:
    """POST /api/models/{id}/commit/{rev}"""
    if call.flag("create_pr"):
        raise errors.bad_request("This hub has no pull requests: commit to a branch.")
    await call.hub.run(_look_up, call)
    digest = hashlib.sha256()
    with full_disk(), tempfile.TemporaryFile(dir=call.hub.store.tmp) as body:

        def keep(piece: bytes) -> None:
            digest.update(piece)
            body.write(piece)

        await pour(call, keep)
        body.seek(0)
        landed = await call.hub.run(_land, call, body, digest.hexdigest())
    return answer(
        {
            "success": True,
            "commitUrl": call.url(call.repo.name, f"/commit/{landed.oid}"),
            "commitOid": landed.oid,
            "hookOutput": "",
            "pullRequestUrl": None,
        }
    )


def _look_up(call: Call) -> None:
    """Refuses a commit to what is not there before gigabytes are read."""
    call.hub.meta.resolve(call.repo, call.part["rev"])


def _land(call: Call, body: BinaryIO, digest: str) -> Commit:
    store, meta = call.hub.store, call.hub.meta
    request = commits.parse(body, store)
    return commits.apply(
        meta,
        store,
        call.repo,
        call.part["rev"],
        request,
        digest=digest,
        by=call.actor,
        held=call.held,
    )
