"""What may be done to a whole repository: another name, a history made anew.

All of it is for whoever has the role `admin` there; the list of large files, which looks at every
commit, for whoever may write. A move also needs the right to write where the repository goes. What
a client sends once more, because no answer came, is answered as before.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response

from hubtool.hub.server import errors, meta_moves, meta_rewrite, names
from hubtool.hub.server.meta_rewrite import Large
from hubtool.hub.server.routes import Call, answer

__all__ = ["lfs_files", "move", "remove_lfs_files", "squash"]

PAGE = 1000
LONGEST_MESSAGE = 10_000
SHA256 = re.compile(r"[0-9a-f]{64}")


def move(call: Call) -> Response:
    """POST /api/repos/move"""
    data = call.json()
    source, target, kind = (_text(data, key) for key in ("fromRepo", "toRepo", "type"))
    if kind not in ("", "model"):
        raise errors.bad_request(f"This hub keeps models only, no {kind}s.")
    names.check_address(target)
    former = call.former(source)
    done = former is not None and former.name == target
    repo = None if done else call.require("admin", former.name if former else source)
    call.require_name("write", target)
    if repo is not None:
        meta_moves.move(call.hub.meta, repo, target, by=call.actor)
    return answer({"success": True, "name": target, "url": call.url(target)})


def squash(call: Call) -> Response:
    """POST /api/models/{id}/super-squash/{rev}"""
    branch = call.part["rev"]
    message = _text(call.json(), "message").strip() or f"Super-squash branch '{branch}'"
    if len(message) > LONGEST_MESSAGE:
        raise errors.bad_request(f"A message of more than {LONGEST_MESSAGE} characters.")
    commit = meta_rewrite.squash(call.hub.meta, call.repo, branch, message, by=call.actor)
    return answer({"success": True, "commitOid": commit.oid})


def lfs_files(call: Call) -> Response:
    """GET /api/models/{id}/lfs-files"""
    size = call.number("limit", PAGE, PAGE)
    found = meta_rewrite.large_files(call.hub.meta, call.repo)
    date, _, sha256 = call.request.query_params.get("cursor", "").partition(" ")
    if date:
        found = [
            one for one in found if one.date < date or (one.date == date and one.sha256 > sha256)
        ]
    page = found[:size]
    cursor = f"{page[-1].date} {page[-1].sha256}" if len(found) > size else None
    return answer([_told(one) for one in page], headers=call.next_page(cursor))


def remove_lfs_files(call: Call) -> Response:
    """POST /api/models/{id}/lfs-files/batch"""
    deletions = call.json().get("deletions")
    deletions = deletions if isinstance(deletions, dict) else {}
    named = deletions.get("sha")
    if not isinstance(named, list) or not all(map(_is_sha256, named)):
        raise errors.bad_request('deletions must be {"sha": [64 hexadecimal digits, ...]}.')
    if len(named) > PAGE:
        raise errors.bad_request(f"More than {PAGE} files at once: send them in several requests.")
    if deletions.get("rewriteHistory", True) is not True:
        raise errors.bad_request(
            "This hub keeps every file that a commit names: files go with rewriteHistory only,"
            " which takes them out of all commits (rewrite_history=True, the default)."
        )
    count = meta_rewrite.remove_large(call.hub.meta, call.repo, named, by=call.actor)
    return answer({"success": True, "removed": count})


def _told(large: Large) -> dict[str, Any]:
    """A large file in the Hub's words."""
    return {
        "fileOid": large.sha256,
        "filename": large.path,
        "oid": large.oid,
        "size": large.size,
        "pushedAt": large.date,
        "ref": f"refs/heads/{large.branch}" if large.branch else None,
    }


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str | None):
        raise errors.bad_request(f"{key} must be a text.")
    return value or ""
