"""Compiled programs on disk, so that a second process need not compile again.

    $HUBTOOL_HOME/compiled/xla/<sha256>      one program; the name is the hash of all it depends on

That is: the program's own text (shapes, dtypes and constants are in it), jax and jaxlib, the
device, the flags, and for a CPU its model and features. jax's own cache on disk is one setting for
the whole process, which is the user's to make; so programs are written and read here, by
`jax.experimental.serialize_executable`, as `kept_files` has it. A file that cannot be used is no
error: it is compiled anew and replaced.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubtool.backends.kept_files import is_ours, keep, processor, used
from hubtool.cache import compiled

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
        processor() if device.platform == "cpu" else "",
        str(sorted(options.items())),
        os.environ.get("XLA_FLAGS", ""),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _load(jax: Any, path: Path, lowered: Any, device: Any) -> Any:
    from jax.experimental.serialize_executable import deserialize_and_load

    if not is_ours(path):
        return None
    try:
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
    used(path)
    return made


def _save(path: Path, made: Any) -> None:
    """Keep the program, if the disk lets us and jax can write it down."""
    from jax.experimental.serialize_executable import serialize

    try:
        payload, _, _ = serialize(made)
    except ValueError:
        return
    keep(path, [hashlib.sha256(payload).digest(), payload], LIMIT)
