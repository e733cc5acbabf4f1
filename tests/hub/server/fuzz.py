"""What the fuzzing campaigns share: a hub that is attacked, and the law that holds for each answer.

No answer is a 5xx; each bears a request id; each refusal says why, in printable ASCII, in its body
and in X-Error-Message. Only what is no HTTP at all is refused before the hub hears of it, by
uvicorn, in its own words. After a campaign the server lives and has not grown beyond bounds, the
folder is in order, and nothing lies in tmp/.
"""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hubtool.hub.server.accounts import Accounts
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.check import check
from hubtool.hub.server.meta import Meta

from .conftest import Answer, file, large
from .conftest import body_of as ndjson
from .servers import Served

__all__ = ["Target", "guarded", "hold", "look_at"]

MOST_MB = 220
"""What the server may have in memory at the most, whatever comes. It begins with 35 MB, and with
all of this it had 80. A small body may have 8 MiB, of which JSON makes up to 100 MB of Python's
objects, and a card takes about 130 MB at the worst, one at a time."""
NOT_HTTP = b"Invalid HTTP request received."
PRINTABLE = re.compile(r"[!-~]([ -~]*[!-~])?")
REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
CARD = "---\ntags: [Axon, fuzz]\nlicense: mit\nlibrary_name: hubtool\n---\n# Fuzz\n"
LARGE = b"large" * 100


@dataclass
class Target:
    """A hub with a repository `fuzz/m` in it, and `fuzz/is`, once `fuzz/was`.

    headers: what every request bears, a token say."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    sent: int = 0

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def raw(self, request: bytes, method: str = "GET", *, whole: bool = True) -> Answer | None:
        """The answer to bytes; None where the server closes the connection without one, as it does
        where they are no whole request and nothing more comes."""
        host, _, port = self.host.rpartition(":")
        self.sent += 1
        with socket.create_connection((host, int(port)), timeout=120) as connection:
            try:
                connection.sendall(request)
                if not whole:
                    connection.shutdown(socket.SHUT_WR)
            except TimeoutError:
                raise
            except OSError:
                pass  # it may be refused, and the connection be gone, before all of it has come
            response = HTTPResponse(connection, method=method)
            try:
                response.begin()
                answer = Answer(response.status, response.headers, response.read())
            except (ConnectionError, HTTPException):
                return None
        hold(answer, method)
        return answer

    def ask(
        self,
        method: str,
        path: str | bytes,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """The answer to a request, whose path is sent as it stands."""
        path = path.encode("latin-1", "replace") if isinstance(path, str) else path
        told = {"Host": self.host, "Connection": "close", **self.headers, **(headers or {})}
        if body is not None:
            told.setdefault("Content-Length", str(len(body)))
        lines = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in told.items())
        start = method.encode() + b" " + path + b" HTTP/1.1\r\n" + lines + b"\r\n"
        answer = self.raw(start + (body or b""), method)
        assert answer is not None, f"no answer to {method} {path[:200]!r}"
        return answer

    def json(self, method: str, path: str, data: Any) -> Answer:
        return self.ask(method, path, json.dumps(data).encode())

    def commit(self, *lines: tuple[str, dict[str, Any]], repo: str = "fuzz/m") -> Answer:
        return self.ask("POST", f"/api/models/{repo}/commit/main", ndjson(*lines))

    def prepare(self) -> None:
        """Let there be what most requests are about; what is there stays."""
        if self.ask("GET", "/api/models/fuzz/m/revision/v1.0").status == 200:
            return
        batch, (_, pointer) = "/fuzz/m.git/info/lfs/objects/batch", large("", LARGE)
        wanted = [{"oid": pointer["oid"], "size": pointer["size"]}]
        made = self.json("POST", "/api/repos/create", {"name": "fuzz/m"})
        assert made.status in (200, 409), made.body
        offer = self.json("POST", batch, {"operation": "upload", "objects": wanted}).data
        actions = offer["objects"][0].get("actions")
        if actions is not None:
            self.ask("PUT", actions["upload"]["href"].removeprefix(self.url), LARGE)
        self.json("POST", "/api/repos/create", {"name": "fuzz/was"})
        self.json("POST", "/api/repos/move", {"fromRepo": "fuzz/was", "toRepo": "fuzz/is"})
        files = file("README.md", CARD), file("folder/b.txt", "b"), large("large.bin", LARGE)
        for answer in (
            self.commit(*files),
            self.json("POST", "/api/models/fuzz/m/branch/side", {}),
            self.json("POST", "/api/models/fuzz/m/tag/main", {"tag": "v1.0"}),
        ):
            assert answer.status in (200, 409), answer.body


def guarded(root: Path) -> dict[str, str]:
    """Let a new hub have a user `fuzz`; the headers of a token that may do everything there."""
    meta = Meta(root)
    accounts = Accounts(meta)
    accounts.add_user("fuzz", by=Actor())
    _, secret = accounts.new_token("fuzz", role="admin", by=Actor())
    meta.close()
    return {"Authorization": f"Bearer {secret}"}


def hold(answer: Answer, method: str = "GET") -> None:
    """The law of one answer."""
    assert answer.status < 500, (answer.status, answer.body[:500])
    if answer.status == 400 and "X-Request-Id" not in answer.headers:
        assert answer.body == (b"" if method == "HEAD" else NOT_HTTP), answer.body
        return
    assert REQUEST_ID.fullmatch(answer.headers.get("X-Request-Id", "")), answer.headers.items()
    if method == "HEAD" or answer.status == 304:
        assert answer.body == b""
    if answer.status >= 400:
        message = answer.headers.get("X-Error-Message", "")
        assert PRINTABLE.fullmatch(message), (answer.status, message)
        if method != "HEAD" and "json" in answer.headers.get("Content-Type", ""):
            assert answer.data["error"] == message


def look_at(root: Path, served: Served) -> None:
    """The law of what is left: the server lives and ends by itself, has stayed small and silent,
    the folder is in order, and no temporary file lies about."""
    peak = served.peak_mb()
    assert peak < MOST_MB, f"{peak:.0f} MB"
    code, _, log = served.end()
    assert code == 0, log[-4000:]
    assert "Traceback" not in log, log[log.index("Traceback") :][:4000]
    assert [path.name for path in (root / "tmp").iterdir()] == []
    checked = check(root)
    assert [str(problem) for problem in checked.problems] == []
