"""Fetching a model: the list of a commit's files, each fetched and checked, a folder of links.

The cache is kept apart for each hub and laid out as Hugging Face's own (`hubtool.cache`). A file
that it holds is not fetched again, whatever revision wants it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

from hubtool import files as put
from hubtool.cache import folder_of
from hubtool.errors import HubError, ReadError
from hubtool.formats import native
from hubtool.hub.address import Hub, check_name
from hubtool.hub.download import Progress, Remote, fetch
from hubtool.hub.session import Connection, UnreachableError, connect

__all__ = ["copy_to", "model", "pull", "replaceable"]

WORKERS = 4
"""Files that are fetched at once."""

LOG = logging.getLogger("hubtool")


def pull(
    hub: Hub,
    name: str,
    *,
    files: Sequence[str] = (),
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a model in the cache, every file fetched and checked.

    files: names or patterns ("*.json") of those that are wanted; all by default. revision: a
    branch, tag or commit; the main branch by default. Raises HubError, InputError, WriteError.
    """
    check_name(name)
    with connect(hub, f"fetch {name}") as connection:
        commit, remotes = _listing(connection, name, revision)
        snapshot = _fetch_all(connection, _chosen(remotes, files), progress)
        _remember(snapshot, revision, commit)
        return snapshot


def model(hub: Hub, name: str, *, revision: str | None = None) -> Path:
    """The folder of a model in the cache with what it takes to run it: graph.json and weights.

    Where the hub cannot be reached, what was pulled before is used, and the log says so.
    Raises HubError, ReadError (it holds no model of hubtool), WriteError.
    """
    check_name(name)
    try:
        with connect(hub, f"fetch {name}") as connection:
            commit, remotes = _listing(connection, name, revision)
            if native.GRAPH not in {remote.path for remote in remotes}:
                raise ReadError(
                    f"{name} at {hub} is no model of hubtool: it holds no {native.GRAPH}",
                    hint=f"`hubtool pull {name}` fetches what it holds.",
                )
            snapshot = _fetch_all(connection, _chosen(remotes, [native.GRAPH]))
            wanted = [entry["file"] for entry in native.weights_files(snapshot)]
            if wanted:  # a model without weights needs no more; no pattern would mean all files
                _fetch_all(connection, _chosen(remotes, wanted))
            _remember(snapshot, revision, commit)
            return snapshot
    except UnreachableError as error:
        kept = _kept(hub, name, revision)
        if kept is None:
            raise
        LOG.warning("%s; using what was pulled before", error.message)
        return kept


def _listing(hub: Connection, name: str, revision: str | None) -> tuple[str, list[Remote]]:
    """The commit that a revision means, and its files."""
    about = hub.api.repo_info(name, revision=revision, files_metadata=True)
    remotes = []
    for each in about.siblings or []:
        hash = each.lfs.sha256 if each.lfs else each.blob_id
        if not _is_safe(each.rfilename) or each.size is None or not _is_hash(hash):
            raise HubError(
                f"cannot fetch {name}: the hub's list of its files is damaged "
                f"({each.rfilename!r}, {each.size!r}, {hash!r})",
                hint="Nothing was fetched. Tell whoever runs the hub.",
            )
        remotes.append(Remote(name, str(about.sha), each.rfilename, each.size, hash))
    if not remotes:
        raise HubError(
            f"cannot fetch {name}: it holds no files", hint="Whoever owns it has to publish some."
        )
    return str(about.sha), remotes


def _chosen(remotes: list[Remote], files: Sequence[str]) -> list[Remote]:
    """The files that fit one of the names or patterns; all where none is given."""
    unmatched = [
        pattern for pattern in files if not any(fnmatchcase(r.path, pattern) for r in remotes)
    ]
    if unmatched:
        raise HubError(
            f"there is no file {', '.join(map(repr, unmatched))}",
            hint=f"There is {', '.join(r.path for r in remotes)}.",
        )
    return [
        r for r in remotes if not files or any(fnmatchcase(r.path, pattern) for pattern in files)
    ]


def _fetch_all(hub: Connection, remotes: list[Remote], progress: Progress | None = None) -> Path:
    """Fetch files of one commit into the cache, several at once; gives the commit's folder."""
    place = folder_of(hub.hub.key, remotes[0].name)
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting = [pool.submit(fetch, hub, remote, place / "blobs", progress) for remote in remotes]
        try:
            blobs = [each.result() for each in waiting]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    snapshot = place / "snapshots" / remotes[0].commit
    with put.telling(snapshot):
        for remote, blob in zip(remotes, blobs, strict=True):
            _link(snapshot / remote.path, blob)
    return snapshot


def _remember(snapshot: Path, revision: str | None, commit: str) -> None:
    """Which commit the branch or tag stood at, for when the hub cannot be asked."""
    ref = snapshot.parents[1] / "refs" / quote(revision or "main", safe="")
    with put.telling(ref):
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f".{ref.name}.{os.getpid()}")
        new.write_text(commit, encoding="ascii")
        new.replace(ref)


def _kept(hub: Hub, name: str, revision: str | None) -> Path | None:
    """The folder of a model that was pulled before, as it was then, if the cache has it whole."""
    place = folder_of(hub.key, name)
    with suppress(OSError):
        commit = (place / "refs" / quote(revision or "main", safe="")).read_text(encoding="ascii")
        snapshot = place / "snapshots" / commit
        if all((snapshot / entry["file"]).is_file() for entry in native.weights_files(snapshot)):
            return snapshot
    return None


def copy_to(snapshot: Path, target: Path, *, overwrite: bool) -> None:
    """Copy a pulled folder to `target`, which appears whole or not at all. Raises WriteError."""
    with put.replacing(target, overwrite=overwrite, replaceable=replaceable) as new:
        shutil.copytree(snapshot, new, dirs_exist_ok=True, copy_function=shutil.copyfile)


def replaceable(target: Path) -> str:
    """Why a folder must not be replaced by what is pulled; "" if it may be."""
    if target.is_dir() and (native.is_folder(target) or not any(target.iterdir())):
        return ""
    return "it is not empty, and no model of hubtool" if target.is_dir() else "it is a file"


def _is_safe(path: str) -> bool:
    """Whether a path from a hub stays inside of the folder that it is written to."""
    parts = PurePosixPath(path).parts
    return (
        path != ""
        and path.isprintable()
        and "/".join(parts) == path
        and parts[0] != "/"
        and not {"..", "."} & set(parts)
        and PureWindowsPath(path).as_posix() == path
        and not PureWindowsPath(path).drive
    )


def _is_hash(text: Any) -> bool:
    return isinstance(text, str) and len(text) in (40, 64) and not set(text) - set(HEX)


HEX = "0123456789abcdef"


def _link(path: Path, blob: Path) -> None:
    """Let `path` be a link to the blob, as relative as the cache may be moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to = Path(os.path.relpath(blob, path.parent))
    if not (path.is_symlink() and path.readlink() == to):
        new = path.with_name(f".{path.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            new.unlink()
        new.symlink_to(to)
        new.replace(path)
