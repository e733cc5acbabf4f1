"""A hub with people in it: an organisation with members, strangers, tokens of every kind; and the
application asked directly, without a socket between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hubtool.hub.server import commits
from hubtool.hub.server.accounts import Accounts, Role
from hubtool.hub.server.app import App, create_app
from hubtool.hub.server.audit import Actor
from hubtool.hub.server.commits import CommitRequest

SHELL = Actor("shell:test")
FILE = "model.safetensors"
WEIGHTS = b"weights of "


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.headers.get("x-error-code", "")

    @property
    def message(self) -> str:
        return self.headers.get("x-error-message", "")


@dataclass
class People:
    """The hub in a folder, where everybody may ask as often as they like. `tokens` are secrets by a
    name of our own; "" is for nobody."""

    root: Path
    app: App = field(init=False)
    tokens: dict[str, str] = field(default_factory=lambda: {"": ""})
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.app = create_app(self.root, **{"open_writes": True, "limit": 0, **self.settings})

    @property
    def accounts(self) -> Accounts:
        return self.app.hub.accounts

    def user(self, name: str, *, admin: bool = False, **orgs: Role) -> None:
        """A user with a token of their own name that may do all that they may."""
        self.accounts.add_user(name, admin=admin, by=SHELL)
        for org, role in orgs.items():
            self.accounts.set_member(org, name, role, by=SHELL)
        self.token(name, name, "admin")

    def token(
        self, known: str, user: str, role: Role, repos: list[str] | None = None, hours: float = 1
    ) -> None:
        """A token; one that expired was made when it had not yet."""
        _, self.tokens[known] = self.accounts.new_token(
            user, name=known, role=role, repos=repos, by=SHELL
        )
        expires = datetime.now(UTC) + timedelta(hours=hours)
        with self.app.hub.meta.writing() as db:
            db.execute(
                "UPDATE tokens SET expires = ? WHERE user = ? AND name = ?",
                (expires.isoformat().replace("+00:00", "Z"), user, known),
            )

    def plant(self, name: str, *, private: bool = False, gated: str = "") -> None:
        """A repository with a card and a large file."""
        meta, store = self.app.hub.meta, self.app.hub.store
        repo = meta.create(name, private=private)
        operations: list[commits.Operation] = []
        for path, content in {"README.md": b"# It", FILE: WEIGHTS + name.encode()}.items():
            with store.writer() as writer:
                writer.write(content)
                blob = writer.finish()
            if path == FILE:
                operations.append(commits.Pointer(2, path, blob.sha256, blob.size))
            else:
                operations.append(commits.Add(3, path, blob))
        request = CommitRequest("weights", "", None, operations)
        commits.apply(meta, store, repo, "main", request, digest=name, by=SHELL)
        if gated:
            meta.set_gated(name, gated)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, Any] | None = None,
        *,
        by: str = "",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request by the bearer of a token."""
        return asyncio.run(self.asked(method, path, body, by, headers))

    async def asked(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, Any] | None = None,
        by: str = "",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        raw, _, query = path.partition("?")
        given = {"host": "127.0.0.1", **(headers or {})}
        if by:
            given["authorization"] = f"Bearer {self.tokens.get(by, by)}"
        if content is not None:
            given["content-length"] = str(len(content))
        scope = {
            **{"type": "http", "http_version": "1.1", "scheme": "http", "method": method},
            **{"path": raw, "raw_path": raw.encode(), "query_string": query.encode()},
            **{"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": ""},
            "headers": [(name.lower().encode(), text.encode()) for name, text in given.items()],
        }
        told: list[Any] = []
        waiting = [{"type": "http.request", "body": content or b"", "more_body": False}]

        async def receive() -> Any:
            return waiting.pop() if waiting else await asyncio.sleep(3600)

        async def send(message: Any) -> None:
            told.append(message)

        await asyncio.wait_for(self.app(scope, receive, send), 60)
        start, pieces = told[0], told[1:]
        return Answer(
            start["status"],
            {name.decode(): text.decode() for name, text in start["headers"]},
            b"".join(piece.get("body", b"") for piece in pieces),
        )

    def close(self) -> None:
        self.app.close()


def names(answer: Answer) -> list[str]:
    """The names of a list of models, sorted."""
    assert answer.status == 200, answer.message
    models: Iterable[dict[str, Any]] = answer.data
    return sorted(model["id"] for model in models)
