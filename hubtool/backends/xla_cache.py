"""Compiled programs on disk, so that a second process need not compile again.

    $HUBTOOL_HOME/compiled/xla/<sha256>      one program; the name is the hash of all it depends on

That is: the program's own text (shapes, dtypes and constants are in it), jax and jaxlib, the
device, the flags, and for a CPU its model and features. jax's own cache on disk is one setting for
the whole process, which is the user's to make; so programs are written and read here, by
`jax.experimental.serialize_executable`. Whoever may write into that folder decides what this
process runs: so it is made for its owner only, and nothing is read from one that others can write
to. A file that cannot be used is no error: it is compiled anew and replaced. Over LIMIT, what was
used least recently goes.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hubtool.cache import compiled
from hubtool.errors import HubtoolError
from hubtool.files import new_file

__all__ = ["LIMIT", "folder", "load_or_compile"]

LIMIT = 1 << 30
"""The most bytes that all programs together may take."""

DIGEST = hashlib.sha256().digest_size


def folder() -> Path:
    """Where programs are kept."""
    return compiled() / "xla"


def load_or_compile(jax: Any, lowered: Any, device: Any, options: Mapping[str, Any]) -> Any:
    """The program of what jax lowered for a device, ready to be called."""
    path = folder() / _key(jax, lowered, device, options)
    found = _load(jax, path, lowered, device)
    if found is not None:
        return found
    made = lowered.compile(compiler_options=dict(options))
    _save(path, made)
    return made


def _key(jax: Any, lowered: Any, device: Any, options: Mapping[str, Any]) -> str:
    parts = [
        lowered.as_text(),
        str(lowered.in_tree),
        str(lowered.out_tree),
        jax.__version__,
        jax.lib.__version__,
        f"{device.platform}:{device.id} {device.device_kind} {device.client.platform_version}",
        _machine() if device.platform == "cpu" else "",
        str(sorted(options.items())),
        os.environ.get("XLA_FLAGS", ""),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@cache
def _machine() -> str:
    """The processor: its programs run on no other."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.platform()}"
    told = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU"))}
    return f"{platform.machine()} {sorted(told)}"


def _load(jax: Any, path: Path, lowered: Any, device: Any) -> Any:
    from jax.experimental.serialize_executable import deserialize_and_load

    try:
        if not (_is_ours(path.parent) and _is_ours(path)):
            return None
        content = path.read_bytes()
    except OSError:
        return None
    digest, payload = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    try:
        made = deserialize_and_load(
            payload, lowered.in_tree, lowered.out_tree, execution_devices=[device]
        )
    except Exception:  # of another build, whatever it raises
        return None
    path.touch()
    return made


def _is_ours(path: Path) -> bool:
    """Whether nobody but this process's user (or root) can have written it."""
    status = path.stat()
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022


def _save(path: Path, made: Any) -> None:
    """Keep the program, if the disk lets us and jax can write it down."""
    from jax.experimental.serialize_executable import serialize

    try:
        payload, _, _ = serialize(made)
    except ValueError:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with new_file(path, overwrite=True) as stream:
            stream.write(hashlib.sha256(payload).digest())
            stream.write(payload)
        _tidy(path.parent)
    except (OSError, HubtoolError):
        return


def _tidy(place: Path) -> None:
    """Remove what was used least recently, until the rest is within LIMIT."""
    files = [(each.stat(), each) for each in place.iterdir() if each.is_file()]
    total = sum(status.st_size for status, _ in files)
    for status, each in sorted(files, key=lambda pair: pair[0].st_mtime):
        if total <= LIMIT:
            break
        each.unlink(missing_ok=True)
        total -= status.st_size
