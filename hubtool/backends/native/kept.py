"""What was prepared for the engine, on disk: a second start neither rewrites, lowers nor packs.

    $HUBTOOL_HOME/compiled/native/<key>.model      how a model falls into parts, and its notes
                                 /<key>.plan       one part for known shapes: its steps and choices
                                 /<hash>.weights   packed weights, mapped where they lie

The key of a model is a hash of its graph as it was read and of all that plans depend on: this
code, the engine, the processor, the settings. Weights enter it by the place that they have in a
file (`Tensor.place`), so that none is read; those in memory by a hash of their elements. Packed
weights are named by their content, so the plans of several batch sizes share them while their
layers make the same choices.

Models and plans are small: each begins with a hash over its name and all that follows, and one
changed byte makes it unusable. Packed weights are too large to be hashed at every start (0.3 s a
GB): a plan remembers the size and the time of their writing instead, and they are hashed before
another plan relies on them. What cannot be used is made anew. `kept_files` says who may write here
and what goes when it grows too large.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

import hubtool
from hubtool.backends import kept_files
from hubtool.backends.native import library
from hubtool.cache import compiled
from hubtool.graph import Graph, Layer, Tensor

__all__ = [
    "LIMIT",
    "Bytes",
    "Choices",
    "Outline",
    "Prepared",
    "folder",
    "hash_of",
    "key_of",
    "load_outline",
    "load_plan",
    "room",
    "save_outline",
    "save_plan",
    "shared",
]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Choices = dict[str, tuple[str, int]]

LIMIT = 2 << 30
"""The most bytes that all of it together may take."""

DIGEST = 32

_weights: WeakValueDictionary[str, Bytes] = WeakValueDictionary()
"""Packed weights that are in use, by their hash: several plans hold them once."""


@dataclass(frozen=True)
class Outline:
    """How a model falls into parts, without its graph.

    parts: for each its inputs, its outputs, what nobody reads after it, and whether the engine
    runs it. constants: outputs, and inputs with a default, that are weights of the prepared graph.
    notes: what `Runner.notes` says.
    """

    parts: list[tuple[list[str], list[str], list[str], bool]]
    constants: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Prepared:
    """A part for known shapes, ready to be run: see `lower.Lowered`. choices: layer -> algorithm
    and variant, where they were chosen by timing; by_rule: they still could be."""

    steps: Bytes
    arena: int
    weights: Bytes
    inputs: list[str]
    outputs: list[tuple[str, tuple[int, ...]]]
    choices: Choices
    by_rule: bool = False


def folder() -> Path:
    """Where all of it is kept."""
    return compiled() / "native"


def hash_of(*parts: Any) -> str:
    """A hash of what these things are when written down."""
    from blake3 import blake3

    return str(blake3(repr(parts).encode("utf-8", "surrogatepass")).hexdigest())


def key_of(graph: Graph, *settings: Any) -> str:
    """The key of a model with these settings, on this machine, by this code."""
    return hash_of(_described(graph), settings, _code(), kept_files.processor())


def _described(graph: Graph) -> list[Any]:
    """All of a graph that a prepared one depends on."""
    return [
        [_layer(layer) for layer in graph.layers],
        graph.inputs,
        graph.outputs,
        graph.values,
        [(name, t.dtype, t.shape, t.place or _content(t)) for name, t in graph.tensors.items()],
    ]


def _layer(layer: Layer) -> list[Any]:
    attrs = [(k, _described(a) if isinstance(a, Graph) else a) for k, a in layer.attrs.items()]
    return [layer.name, layer.op, layer.inputs, layer.outputs, attrs]


def _content(tensor: Tensor) -> str:
    if tensor.dtype == "string":
        return repr(tensor.array.tolist())
    return _hashed(np.ascontiguousarray(tensor.array).reshape(-1).view(np.uint8))


def _hashed(data: Bytes) -> str:
    from blake3 import blake3

    return str(blake3(data.data).hexdigest())


def _code() -> list[Any]:
    """What makes plans, as it is installed: the engine, its lowering, the passes before it."""
    here = Path(__file__).parent
    engine = library.path()
    files = [*here.glob("*.py"), here.parent / "parts.py", *([engine] if engine else [])]
    files += (here.parents[1] / "passes").glob("*.py")
    told = [(str(path), path.stat()) for path in sorted(files)]
    return [hubtool.__version__, [(name, s.st_size, s.st_mtime_ns) for name, s in told]]


def load_outline(key: str) -> Outline | None:
    """How the model of this key falls into parts, if that is kept."""
    found = _load(f"{key}.model")
    return None if found is None else Outline(**found[0])


def save_outline(key: str, outline: Outline) -> None:
    """Keep it, if the disk lets us."""
    _save(f"{key}.model", asdict(outline))


def load_plan(key: str) -> Prepared | None:
    """The part of this key with its weights mapped, if both are kept."""
    found = _load(f"{key}.plan")
    if found is None:
        return None
    header, steps = found
    name, *stamp = header.pop("weights")
    weights = _weights.get(name) if name else room(0)
    if weights is None:
        weights = _mapped(name, stamp)
    if weights is None:
        return None
    _weights[name] = weights
    header["outputs"] = [(each, tuple(shape)) for each, shape in header["outputs"]]
    header["choices"] = {layer: (how, which) for layer, (how, which) in header["choices"].items()}
    return Prepared(np.frombuffer(steps, np.uint8), weights=weights, **header)


def save_plan(key: str, prepared: Prepared) -> Prepared:
    """Keep it, if the disk lets us; then its weights are those on disk, mapped."""
    weights = _save_weights(prepared.weights)
    if weights is None:
        return prepared
    header = {
        "arena": prepared.arena,
        "weights": weights,
        "inputs": prepared.inputs,
        "outputs": prepared.outputs,
        "choices": prepared.choices,
        "by_rule": prepared.by_rule,
    }
    _save(f"{key}.plan", header, prepared.steps.tobytes())
    return load_plan(key) or prepared


def _save_weights(weights: Bytes) -> list[Any] | None:
    """Name, size and time of writing of the file that holds these; None if none does."""
    if not len(weights):
        return ["", 0, 0]
    name = _hashed(weights)
    path = folder() / f"{name}.weights"
    there = kept_files.is_ours(path) and _is_whole(path, name)
    if not (there or kept_files.keep(path, [weights.data], LIMIT)):
        return None
    try:
        return [name, len(weights), path.stat().st_mtime_ns]
    except OSError:
        return None


def shared(weights: Bytes) -> Bytes:
    """These packed weights, or the same that another plan in this process holds already."""
    return _weights.setdefault(_hashed(weights), weights)


def room(size: int) -> Bytes:
    """Zeroed memory for packed weights, at the start of a page; in huge pages where there are."""
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)[:size]


def _is_whole(path: Path, name: str) -> bool:
    try:
        with path.open("rb") as stream, _map(stream) as mapped:
            data = np.frombuffer(mapped, np.uint8)
            whole = _hashed(data) == name
            del data
            return whole
    except (OSError, ValueError):
        return False


def _map(stream: Any) -> mmap.mmap:
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _mapped(name: str, stamp: list[int]) -> Bytes | None:
    """The packed weights of that name, if they are as they were written."""
    path = folder() / f"{name}.weights"
    if not kept_files.is_ours(path):
        return None
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if [status.st_size, status.st_mtime_ns] != stamp:
                return None
            mapped = _map(stream)
    except (OSError, ValueError):
        return None
    kept_files.used(path)
    return np.frombuffer(mapped, np.uint8)


def _save(name: str, header: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    digest = _digest(name, content)
    kept_files.keep(folder() / name, [digest, content], LIMIT)


def _load(name: str) -> tuple[dict[str, Any], bytes] | None:
    """The header and the data of a file that `_save` wrote, if it is ours and as it was written."""
    path = folder() / name
    if not kept_files.is_ours(path):
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, content = content[:DIGEST], content[DIGEST:]
    if _digest(name, content) != digest:
        return None
    kept_files.used(path)
    start = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:start])
    return header, content[start:]


def _digest(name: str, content: bytes) -> bytes:
    from blake3 import blake3

    return bytes(blake3(name.encode() + b"\0" + content).digest())
