"""Publishing a model folder: one commit on top of what was looked at, or nothing.

    card  →  lint  →  repository  →  the files as one commit

The parent commit is named, because the client leaves out what stands there already: on another
parent that could mix two models. If someone else publishes in between, the commit is made again.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hubtool.errors import InputError, ReadError
from hubtool.formats import native
from hubtool.hub.address import Hub
from hubtool.hub.download import Progress
from hubtool.hub.session import Connection, connect

__all__ = ["CARD", "Pushed", "publishable", "push", "size_of"]

CARD = "README.md"
ATTEMPTS = 5
"""Pushes to one model at the same time are tried again so often before one gives up."""


@dataclass
class Pushed:
    """A push: what it will publish, and then what it did.

    files: what is published, by path, with its size. made_card: the card, where nobody had
    written one. warnings: what its lint has to say.
    revision: the commit that holds the folder, at `url`; None before. changed: whether that is a
    new one.
    """

    hub: str
    name: str
    files: dict[str, int]
    made_card: str = ""
    warnings: list[str] = field(default_factory=list)
    revision: str | None = None
    url: str | None = None
    changed: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def publishable(folder: Path) -> dict[str, Path]:
    """The files of a model folder that are published, by path: all but hidden ones.
    Raises ReadError where the folder is no model or its weights are not those recorded."""
    if not native.is_folder(folder):
        raise ReadError(
            f"'{folder}' is no model folder: it holds no {native.GRAPH}",
            hint="`hubtool convert model.onnx` makes one.",
        )
    problems = native.verify_files(folder)
    if problems:
        raise ReadError(
            f"'{folder}' is damaged, and was not published:",
            problems=problems,
            hint="Convert or fetch it again.",
        )
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            found[inside.as_posix()] = path
    return found


def push(
    hub: Hub,
    name: str,
    files: Mapping[str, Path | bytes],
    card: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Publish files and the card as one commit; what the hub has already is not sent.

    Raises HubError, InputError.
    """
    contents: dict[str, Path | bytes] = {**files, CARD: card.encode()}
    with connect(hub, f"publish {name}") as connection, _quiet():
        created = _ensure(connection, name, private=private, revision=revision)
        try:
            head, oid = _commit(connection, name, contents, revision, message, progress)
        except BaseException:
            if created:
                _withdraw(connection, name, created)
            raise
    sizes = {path: size_of(content) for path, content in contents.items()}
    return Pushed(
        str(hub), name, sizes, revision=oid, url=connection.web(name, oid), changed=oid != head
    )


def size_of(content: Path | bytes) -> int:
    """Bytes of a file, or of a text at hand."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _ensure(hub: Connection, name: str, *, private: bool, revision: str | None) -> str | None:
    """Let the model's repository and the branch be there; the first commit of a new repository."""
    from huggingface_hub.errors import RepositoryNotFoundError

    created = None
    try:
        there = hub.api.repo_info(name)
        if private and not there.private:
            raise InputError(
                f"{name} is public at {hub.hub} already",
                hint="Publish under another name, or make that one private there first.",
            )
    except RepositoryNotFoundError:
        hub.api.create_repo(name, private=private, exist_ok=True)
        created = str(hub.api.repo_info(name).sha)
    if revision not in (None, "main"):
        hub.api.create_branch(name, branch=revision, exist_ok=True)
    return created


def _withdraw(hub: Connection, name: str, first: str) -> None:
    """Remove the repository that this push created and could not fill, if nobody else has."""
    with suppress(Exception):
        if hub.api.repo_info(name).sha == first:
            hub.api.delete_repo(name)


def _commit(
    hub: Connection,
    name: str,
    contents: dict[str, Path | bytes],
    revision: str | None,
    message: str | None,
    progress: Progress | None,
) -> tuple[str, str]:
    """The commit before and the one that holds the contents."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(ATTEMPTS):
        head = str(hub.api.repo_info(name, revision=revision).sha)
        with ExitStack() as opened:
            operations = [
                CommitOperationAdd(path, opened.enter_context(_opened(path, content, progress)))
                for path, content in contents.items()
            ]
            try:
                done = hub.api.create_commit(
                    name,
                    operations,
                    commit_message=message or f"Publish {name.rpartition('/')[2]} with hubtool",
                    revision=revision,
                    parent_commit=head,
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 412 or attempt == ATTEMPTS - 1:
                    raise
            else:
                return head, str(done.oid)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def _opened(path: str, content: Path | bytes, progress: Progress | None) -> Iterator[Any]:
    """Open files: huggingface_hub sends these over LFS, in one commit, to every hub."""
    if isinstance(content, bytes):
        with io.BytesIO(content) as stream:
            yield stream
        return
    with io.BufferedReader(_Watched(path, content, progress), 1 << 20) as stream:
        yield stream


class _Watched(io.FileIO):
    """A file that tells how far it has been read."""

    def __init__(self, path: str, content: Path, progress: Progress | None) -> None:
        super().__init__(content)
        self.path, self.size, self.progress = path, content.stat().st_size, progress

    def readinto(self, buffer: Any) -> Any:
        count = super().readinto(buffer)
        if self.progress is not None:
            self.progress(self.path, self.tell(), self.size)
        return count


@contextmanager
def _quiet() -> Iterator[None]:
    """Progress is told by us; and huggingface_hub need not warn that open files do not go over Xet,
    or that nothing had changed, since both are meant."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    def is_news(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "binary IO buffer" not in text and "No files have been modified" not in text

    loggers = [logging.getLogger(f"huggingface_hub.{name}") for name in ("_commit_api", "hf_api")]
    bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    for logger in loggers:
        logger.addFilter(is_news)
    if bars:
        disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            enable_progress_bars()
        for logger in loggers:
            logger.removeFilter(is_news)
