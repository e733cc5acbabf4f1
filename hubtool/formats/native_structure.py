"""What a graph must be so that it can be stored and read back: checked on the way out and in.

Names, running order, and values that the format can say. Whether the layers are proper operators
is `hubtool.ops.check`'s question, not asked here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from hubtool.dtypes import NUMBERS, shortest
from hubtool.formats.safetensors import MAX_RANK
from hubtool.formats.strict_json import EXACT
from hubtool.graph import Graph, Layer, TensorRef, Value

__all__ = ["MAX_DEPTH", "domains", "faults", "shape_fault"]

MAX_DEPTH = 64
"""How deep subgraphs may be nested, and metadata too."""

CONTAINER = r"(?:sequence|optional|map\((?:u?int(?:8|16|32|64)|string)\))"
KIND = re.compile(rf"tensor|(?:{CONTAINER}\()*{CONTAINER}\)*")


def domains(graph: Graph) -> set[str]:
    """The operator domains that a graph and its subgraphs use; "" (ONNX itself) always."""
    used = {""}
    for layer in graph.layers:
        used.add(layer.op.rpartition(".")[0])
        for _, body in _bodies(layer):
            used |= domains(body)
    return used


def _bodies(layer: Layer) -> Iterator[tuple[str, Graph]]:
    for key, attr in layer.attrs.items():
        for item in attr if isinstance(attr, list) else [attr]:
            if isinstance(item, Graph):
                yield key, item


def faults(graph: Graph) -> list[str]:
    """Every reason why this graph cannot be stored, each naming its layer or value."""
    return list(_graph_faults(graph, "", (), 0))


def _graph_faults(
    graph: Graph, where: str, outer: tuple[set[str], ...], depth: int
) -> Iterator[str]:
    for told, table in (
        ("input", graph.inputs),
        ("output", graph.outputs),
        ("value", graph.values),
    ):
        for name, value in table.items():
            yield from (f"{where}{told} '{name}': {text}" for text in _value_faults(value))
    for name, tensor in graph.tensors.items():
        if tensor.dtype not in NUMBERS:
            yield f"{where}tensor '{name}': unknown element type '{tensor.dtype}'"
        if fault := shape_fault(list(tensor.shape)):
            yield f"{where}tensor '{name}': {fault}"
    names = [*graph.inputs, *graph.outputs, *graph.values, *graph.tensors]
    if "" in names:
        yield f"{where}a value without a name"
    made = set(graph.inputs) | set(graph.tensors)
    visible = (*outer, made)
    layers: set[str] = set()
    for layer in graph.layers:
        label = f"{where}layer '{layer.name}' ({layer.op})"
        if not layer.name or layer.name in layers:
            yield f"{label}: its name must be its own, and not empty"
        layers.add(layer.name)
        for name in layer.reads():
            if not any(name in known for known in visible):
                yield f"{label} reads '{name}' before anything has made it"
        for key, attr in layer.attrs.items():
            yield from (f"{label}: attribute '{key}' {t}" for t in _attr_faults(attr, graph))
        for key, body in _bodies(layer):
            yield from _body_faults(body, f"{label} > {key}: ", visible, depth + 1)
        for name in filter(None, layer.outputs):
            if name in made:
                yield f"{label} makes '{name}', which exists already"
            made.add(name)
    for name in graph.outputs:
        if not any(name in known for known in visible):
            yield f"{where}output '{name}' is made by no layer"


def _body_faults(body: Graph, where: str, outer: tuple[set[str], ...], depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        yield f"{where}subgraphs are nested more than {MAX_DEPTH} deep"
        return
    if body.meta:
        yield f"{where}a subgraph has no metadata of its own"
    yield from _graph_faults(body, where, outer, depth)


def _value_faults(value: Value) -> Iterator[str]:
    if not KIND.fullmatch(value.kind) or value.kind.count("(") != value.kind.count(")"):
        yield f"unknown kind '{value.kind}'"
    if value.dtype not in NUMBERS and value.dtype:
        yield f"unknown element type '{value.dtype}'"
    for dim in value.shape or ():
        if dim is None or (type(dim) is str and dim) or (type(dim) is int and 0 <= dim <= EXACT):
            continue
        yield f"its shape holds {dim!r}: a size, the name of one, or None is meant"


def shape_fault(shape: list[Any]) -> str:
    """Why this cannot be the shape of a weight; "" if it can."""
    if len(shape) > MAX_RANK or not all(type(dim) is int and dim >= 0 for dim in shape):
        return f"its shape must be at most {MAX_RANK} numbers, none below 0"
    if math.prod(dim for dim in shape if dim) > EXACT:
        return "its shape is too large"
    return ""


def _attr_faults(attr: Any, graph: Graph) -> Iterator[str]:
    for item in attr if type(attr) is list else [attr]:
        if type(item) is int:
            if not -(2**63) <= item < 2**63:
                yield f"is {item}, beyond 64 bits"
        elif type(item) is float:
            if math.isfinite(item) and not math.isfinite(shortest(item)):
                yield f"is {item}, beyond float32"
        elif isinstance(item, TensorRef):
            if item.name not in graph.tensors:
                yield f"is the tensor '{item.name}', which is not there"
        elif isinstance(item, Value):
            yield from _value_faults(item)
        elif not (type(item) in (str, bytes) or isinstance(item, Graph)):
            yield f"is a {type(item).__name__}, which is no attribute"
