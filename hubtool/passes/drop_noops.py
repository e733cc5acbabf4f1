"""Drop the layers that hand a value on as it is.

    y = Identity(x)   ⟶   every reader of y reads x

No-ops are Identity, Dropout in inference, Cast to the dtype at hand, Reshape, Flatten and
Transpose that provably change nothing, and Concat, Sum, Mean, Max and Min of one input. A graph
output keeps its name: then x's producer makes y instead, and where there is no such layer (an
input handed straight to an output) the no-op stays. It also stays where a subgraph returns y
itself, or has an x of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from hubtool.dtypes import DTYPES
from hubtool.graph import Graph, Layer, captures
from hubtool.passes.rewriting import constant, everywhere

__all__ = ["drop_idle", "drop_noops"]


@everywhere
def drop_noops(graph: Graph) -> None:
    """Drop every layer whose output is one of its inputs, unchanged."""
    _drop_those_of(graph, {*NOOPS})


@everywhere
def drop_idle(graph: Graph) -> None:
    """Drop the no-ops that are none in training either: what is saved can be trained further."""
    _drop_those_of(graph, {*NOOPS} - {"Dropout"})


def _drop_those_of(graph: Graph, ops: set[str]) -> None:
    for layer in [*graph.layers]:
        source = NOOPS[layer.op](graph, layer) if layer.op in ops else None
        if isinstance(source, str):
            _drop(graph, layer, source)


def _drop(graph: Graph, layer: Layer, x: str) -> None:
    """Take the layer out, and let its readers read x, or x's producer make its output."""
    y = layer.outputs[0]
    if y not in graph.outputs:
        if _can_replace(graph, y, x):
            graph.layers.remove(layer)
            graph.replace(y, x)
            graph.values.pop(y, None)
        return
    producer = graph.producers().get(x)
    if producer is None or x in graph.outputs or not _can_replace(graph, x, y):
        return
    graph.layers.remove(layer)
    graph.replace(x, y)
    producer.outputs = [y if name == x else name for name in producer.outputs]
    graph.values.pop(x, None)


def _can_replace(graph: Graph, old: str, new: str) -> bool:
    """Whether no subgraph returns `old` itself or means something else by `new`."""
    for layer in graph.layers:
        for body in layer.subgraphs().values():
            if old not in captures(body):
                continue
            made = {*body.inputs, *body.tensors, *body.producers()}
            if old in body.outputs or new in made or not _can_replace(body, old, new):
                return False
    return True


Source = str | list[str] | None
"""The value that a layer hands on, or None where it does more than that, or may."""


def _identity(graph: Graph, layer: Layer) -> Source:
    return layer.inputs["input"]


def _dropout(graph: Graph, layer: Layer) -> Source:
    users = graph.users()
    if any(name in users or name in graph.outputs for name in layer.outputs[1:] if name):
        return None
    if "training_mode" in layer.inputs:
        training_mode = constant(graph, layer.inputs["training_mode"])
        if training_mode is None or training_mode.array.any():
            return None
    return layer.inputs["data"]


def _cast(graph: Graph, layer: Layer) -> Source:
    to = layer.attrs["to"]
    assert isinstance(to, int)
    x = layer.inputs["input"]
    return x if _dtype(graph, x) == DTYPES.get(to) else None


def _cast_like(graph: Graph, layer: Layer) -> Source:
    x, like = layer.inputs["input"], layer.inputs["target_type"]
    return x if _dtype(graph, x) and _dtype(graph, x) == _dtype(graph, like) else None


def _reshape(graph: Graph, layer: Layer) -> Source:
    x = layer.inputs["data"]
    dims, shape = _shape(graph, x), constant(graph, layer.inputs["shape"])
    if dims is None or shape is None or shape.shape != (len(dims),):
        return None
    asked = shape.array.tolist()
    copies = 0 if layer.attrs["allowzero"] == 0 else None
    changed = [a for d, a in zip(dims, asked, strict=True) if a != d and a != copies]
    inferred = changed == [-1] and (copies == 0 or 0 not in asked)
    return x if not changed or inferred else None


def _flatten(graph: Graph, layer: Layer) -> Source:
    x = layer.inputs["input"]
    dims = _shape(graph, x)
    return x if dims is not None and len(dims) == 2 and layer.attrs["axis"] in (1, -1) else None


def _transpose(graph: Graph, layer: Layer) -> Source:
    x = layer.inputs["data"]
    if "perm" not in layer.attrs:  # all axes reversed
        dims = _shape(graph, x)
        return x if dims is not None and len(dims) < 2 else None
    perm = layer.attrs["perm"]
    assert isinstance(perm, list)
    return x if perm == sorted(perm) else None


def _lone(graph: Graph, layer: Layer) -> Source:
    (names,) = layer.inputs.values()
    return names[0] if len(names) == 1 else None


def _dtype(graph: Graph, name: Source) -> str:
    value = graph.known(name) if isinstance(name, str) else None
    return value.dtype if value is not None and value.kind == "tensor" else ""


def _shape(graph: Graph, name: Source) -> tuple[int | str | None, ...] | None:
    value = graph.known(name) if isinstance(name, str) else None
    return None if value is None else value.shape


NOOPS: dict[str, Callable[[Graph, Layer], Source]] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Concat": _lone,
    "Sum": _lone,
    "Mean": _lone,
    "Max": _lone,
    "Min": _lone,
}
