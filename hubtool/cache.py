"""Where hubtool keeps what outlives a command, and what of it may be thrown away.

    $HUBTOOL_HOME (~/.hubtool)
        hub/                    the embedded hub: published models, not a cache
        pulled/<hub>/           models fetched from a hub, apart for each hub
        compiled/<backend>/     programs that a backend compiled, each for one kind of input

One folder of `pulled` is laid out as Hugging Face's own cache is, so that what reads that can read
this:

    models--axon--resnet34-v1/refs/main              the commit that the branch stood at
                             /snapshots/<commit>/…   links, under the files' own names
                             /blobs/<hash>           each content once, checked, read-only
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hubtool.errors import InputError
from hubtool.files import telling

__all__ = ["Pulled", "compiled", "home", "pulled", "remove"]

PREFIX = "models--"


def home() -> Path:
    """The folder of everything that hubtool keeps: $HUBTOOL_HOME, or ~/.hubtool."""
    return Path(os.environ.get("HUBTOOL_HOME") or "~/.hubtool").expanduser().absolute()


def compiled() -> Path:
    """The folder of what backends compiled; all of it can be made again."""
    return home() / "compiled"


@dataclass(frozen=True)
class Pulled:
    """A model in the cache. hub: the key of the hub it came from; size: bytes on disk, each
    content counted once; revisions: the commits of which files are there."""

    hub: str
    name: str
    size: int
    revisions: list[str]
    path: str


def folder_of(hub: str, name: str) -> Path:
    """Where the model `name` ("axon/resnet34-v1") of a hub is kept."""
    return home() / "pulled" / hub / f"{PREFIX}{name.replace('/', '--')}"


def pulled() -> list[Pulled]:
    """Every model in the cache, by hub and name."""
    return [_look(folder) for folder in _folders()]


def remove(name: str, *, hub: str | None = None) -> list[Pulled]:
    """Remove a pulled model from the cache (of every hub, or of the hub with that key); gives what
    was removed. Raises InputError where there is none, WriteError."""
    found = [each for each in pulled() if each.name == name and hub in (None, each.hub)]
    if not found:
        raise InputError(
            f"the cache holds no model '{name}'" + (f" of {hub}" if hub else ""),
            hint="`hubtool cache ls` lists what it holds.",
        )
    for each in found:
        with telling(Path(each.path)):
            shutil.rmtree(each.path)
    return found


def _folders() -> Iterator[Path]:
    yield from sorted((home() / "pulled").glob(f"*/{PREFIX}*"))


def _look(folder: Path) -> Pulled:
    blobs = [path for path in (folder / "blobs").glob("*") if path.is_file()]
    return Pulled(
        hub=folder.parent.name,
        name=folder.name.removeprefix(PREFIX).replace("--", "/"),
        size=sum(path.stat().st_size for path in blobs),
        revisions=sorted(path.name for path in (folder / "snapshots").glob("*")),
        path=str(folder),
    )
