"""The layer table of a model, out of a graph.json that a stranger has published.

Nothing but that one text is read, never the weights, and only so much of it: a longer one has no
table. What is not as it should be gives no row and no number, instead of an error: the page tells
what it can, and `hubtool check` on the pulled folder tells what is wrong.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hubtool.dtypes import is_weight
from hubtool.formats import strict_json

__all__ = ["GRAPH", "LONGEST", "ROWS", "LayerTable", "Row", "layer_table"]

GRAPH = "graph.json"
LONGEST = 4 << 20
"""Bytes of graph.json that are read, enough for some 8,000 layers; JSON of two characters an
object takes thirty times its length in memory."""

ROWS = 500
"""Layers that are shown; all are counted."""

CUT = 120
"""Characters of a name or a shape that are shown."""

ONE_AT_A_TIME = threading.Lock()
"""What one graph.json takes in memory, many at once do not take many times."""


@dataclass(frozen=True)
class Row:
    """One layer: parameters are the weights that it is the first to read."""

    name: str
    op: str
    shape: str
    parameters: int


@dataclass(frozen=True)
class LayerTable:
    """The first layers in running order, and what all of them come to."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rows: tuple[Row, ...]
    layers: int
    parameters: int


def layer_table(path: Path) -> LayerTable | None:
    """The table of the graph.json at a path that always holds the same; None where it is none."""
    with ONE_AT_A_TIME:
        return _read(path)


@lru_cache(maxsize=16)
def _read(path: Path) -> LayerTable | None:
    with path.open("rb") as stream:
        data = stream.read(LONGEST + 1)
    if len(data) > LONGEST:
        return None
    try:
        document = strict_json.loads(data)
    except ValueError:
        return None
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        return None
    layers = [item for item in _list(document.get("layers")) if isinstance(item, dict)]
    if not layers:
        return None
    values = _values(document)
    sizes = {name: _size(item) for name, item in _dict(document.get("tensors")).items()}
    used = {name for layer in layers for name in _reads(layer)}
    total = sum(size for name, size in sizes.items() if name in used)
    return LayerTable(
        inputs=tuple(_told(document.get("inputs"), values)),
        outputs=tuple(_told(document.get("outputs"), values)),
        rows=tuple(_row(layer, values, sizes) for layer in layers[:ROWS]),
        layers=len(layers),
        parameters=total,
    )


def _row(layer: dict[str, Any], values: dict[str, Any], sizes: dict[str, int]) -> Row:
    """A layer's row. The weights that it counts are taken out of `sizes`."""
    made = [name for name in _list(layer.get("outputs")) if isinstance(name, str) and name]
    return Row(
        _text(layer.get("name")),
        _text(layer.get("op")),
        _cut(", ".join(_shape(values.get(name)) for name in made[:8])),
        sum(sizes.pop(name, 0) for name in _reads(layer)),
    )


def _reads(layer: dict[str, Any]) -> Iterator[str]:
    for value in _dict(layer.get("inputs")).values():
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str):
                yield name


def _values(document: dict[str, Any]) -> dict[str, Any]:
    """What is known of every value, by its name."""
    found = dict(_dict(document.get("values")))
    for key in ("inputs", "outputs"):
        for item in _list(document.get(key)):
            if isinstance(item, dict) and isinstance(item.get("name"), str):
                found[item["name"]] = item
    return found


def _told(section: Any, values: dict[str, Any]) -> Iterator[str]:
    """The first inputs or outputs, as `data float32[N,3,224,224]`."""
    for item in _list(section)[:16]:
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            yield f"{_cut(item['name'])} {_shape(values.get(item['name']))}"


def _shape(value: Any) -> str:
    """A value as graph.Value tells it: `float32[N,3,224,224]`; "?" where nothing is known."""
    if not isinstance(value, dict):
        return "?"
    dims = value.get("shape")
    listed = "…" if not isinstance(dims, list) else ",".join(_dim(dim) for dim in dims[:32])
    text = f"{_text(value.get('dtype')) or '?'}[{listed}]"
    kind = _text(value.get("kind"))
    return _cut(text if kind in ("", "tensor") else f"{kind} of {text}")


def _dim(dim: Any) -> str:
    return _cut(str(dim)) if type(dim) in (int, str) and dim != "" else "?"


def _size(tensor: Any) -> int:
    """How many parameters a tensor has: none if it is no weight, or its shape is no shape."""
    shape, dtype = (_dict(tensor).get(key) for key in ("shape", "dtype"))
    if not isinstance(shape, list) or not isinstance(dtype, str) or not is_weight(dtype):
        return 0
    if len(shape) > 32 or not all(type(dim) is int and dim >= 0 for dim in shape):
        return 0
    size = math.prod(shape)
    return size if size <= strict_json.EXACT else 0


def _text(value: Any) -> str:
    return _cut(value) if isinstance(value, str) else ""


def _cut(text: str) -> str:
    return text if len(text) <= CUT else f"{text[: CUT - 1]}…"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
