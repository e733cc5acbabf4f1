"""A running hub, raw requests to it, and the official client in a process of its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pytest

from hubtool.hub.server.run import Background

HF = Path(sysconfig.get_path("scripts")) / "hf"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)


def ask(
    url: str,
    method: str,
    path: str,
    body: bytes | BinaryIO | Iterable[bytes] | dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on one connection; a dict goes as JSON. The path is sent as it stands."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.putrequest(
            method,
            path,
            skip_host="Host" in (headers or {}),
            skip_accept_encoding=True,
        )
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if isinstance(body, bytes) and "Content-Length" not in (headers or {}):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if body is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.send(body)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def body_of(*lines: tuple[str, dict[str, Any]], summary: str = "a change", **header: Any) -> bytes:
    """A commit's body: `("file", {...})` and so on, after a header."""
    every = [("header", {"summary": summary, **header}), *lines]
    return b"".join(json.dumps({"key": k, "value": v}).encode() + b"\n" for k, v in every)


def file(path: str, content: bytes | str) -> tuple[str, dict[str, Any]]:
    content = content.encode() if isinstance(content, str) else content
    coded = base64.b64encode(content).decode()
    return "file", {"path": path, "content": coded, "encoding": "base64"}


def large(path: str, content: bytes) -> tuple[str, dict[str, Any]]:
    oid = hashlib.sha256(content).hexdigest()
    return "lfsFile", {"path": path, "algo": "sha256", "oid": oid, "size": len(content)}


class Repo:
    """A repository of a running hub, spoken to in plain HTTP."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        made = ask(url, "POST", "/api/repos/create", {"name": name})
        assert made.status == 200, made.body

    def ask(self, method: str, rest: str, *args: Any, **kwargs: Any) -> Answer:
        """A request below /api/models/{id}."""
        return ask(self.url, method, f"/api/models/{self.name}{rest}", *args, **kwargs)

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
        """A request for a file of main."""
        return ask(self.url, method, f"/{self.name}/resolve/main/{path}", headers=headers)

    def commit(self, *lines: tuple[str, dict[str, Any]], **header: Any) -> Answer:
        return self.ask("POST", "/commit/main", body_of(*lines, **header))

    def offer(self, content: bytes, operation: str = "upload") -> dict[str, Any]:
        """What the LFS batch API says of one object."""
        wanted = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
        path = f"/{self.name}.git/info/lfs/objects/batch"
        answer = ask(self.url, "POST", path, {"operation": operation, "objects": [wanted]})
        assert answer.status == 200, answer.body
        return answer.data["objects"][0]

    def upload(self, content: bytes) -> None:
        """Send an object by LFS, unless the store has it."""
        actions = self.offer(content).get("actions")
        if actions is not None:
            href = actions["upload"]["href"].removeprefix(self.url)
            assert ask(self.url, "PUT", href, content).status == 200


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A hub that a module's tests share; they use repositories of their own."""
    with Background(tmp_path_factory.mktemp("hub")) as url:
        yield url


@pytest.fixture
def repo(url: str, request: pytest.FixtureRequest) -> Repo:
    """A fresh repository, named after the test."""
    name = hashlib.sha1(request.node.name.encode()).hexdigest()[:12]
    return Repo(url, f"axon/{name}")


def hf_environment(url: str, home: Path, **more: str) -> dict[str, str]:
    """What a process of the official client finds: our hub, nothing of the user's, no proxy."""
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG", "TMPDIR")}
    return {
        **kept,
        "HOME": str(home),
        "HF_ENDPOINT": url,
        "HF_HOME": str(home / "hf"),
        **more,
    }


class ClientError(Exception):
    """What the official client raised: the names of its classes, and its message."""

    def __init__(self, names: list[str], message: str) -> None:
        super().__init__(f"{names[0]}: {message}")
        self.names = names


class Client:
    """The unmodified huggingface_hub in a process of its own: `client("whoami", token="t")`."""

    def __init__(
        self, url: str, home: Path, *, program: str = "official_client.py", **environment: str
    ) -> None:
        self.url, self.home = url, home
        self._log = (home / "stderr").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(program))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=hf_environment(url, home, **environment),
            text=True,
        )

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of HfApi or a function of huggingface_hub; {"!": "Class", ...} among the
        arguments is made into an object. What comes back is plain data. Raises ClientError."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([name, args, kwargs]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, (self.home / "stderr").read_text()
        kind, value = json.loads(line)
        if kind == "error":
            raise ClientError(*value)
        return value

    def close(self) -> None:
        self._process.communicate(timeout=30)
        self._log.close()


@pytest.fixture(scope="module")
def new_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Client]]:
    """Makes clients: `new_client(url, HF_HUB_DISABLE_XET="1")`; `program` is another to run."""
    clients: list[Client] = []

    def make(url: str, **environment: str) -> Client:
        clients.append(Client(url, tmp_path_factory.mktemp("home"), **environment))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
