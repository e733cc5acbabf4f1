"""Models as the beginning of other models: cut at a layer, given a new head.

Both are graphs in and graphs out, so what comes out is saved, exported and run like any other, and
`Model.module()` makes it trainable.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from hubtool.errors import InputError
from hubtool.graph import Attr, Graph, Layer, Tensor, Value, names_read

__all__ = ["cut", "with_head"]


def cut(graph: Graph, at: str) -> Graph:
    """The graph up to a layer, whose first output is the output (or up to a value, by its name).

    What no longer counts is dropped, labels too. Raises InputError where there is no such layer.
    """
    made = {layer.name: layer.outputs[0] for layer in graph.layers}
    values = {name for layer in graph.layers for name in layer.outputs if name}
    name = made.get(at) or (at if at in values else "")
    if not name:
        near = get_close_matches(at, [*made, *values], n=1)
        raise InputError(
            f"there is no layer '{at}'",
            hint=f"Did you mean '{near[0]}'?" if near else "`hubtool info` lists the layers.",
        )
    part = graph.copy()
    part.outputs = {name: graph.known(name) or Value("tensor", "", None)}
    part.prune()
    read = {name for layer in part.layers for name in names_read(layer)}
    part.inputs = {key: value for key, value in part.inputs.items() if key in read}
    part.meta.pop("labels", None)
    return part


def with_head(graph: Graph, labels: Sequence[str], *, seed: int = 0) -> Graph:
    """The graph with a new fully connected layer behind its only output: one score a label.

    A picture's features [N,C,H,W] are averaged over it first. The layer is "head", its weights
    [labels, C] are small normal numbers from the seed, its bias is zero; a Softmax has no place
    here, since losses take scores. Raises InputError unless there is one output of known width.
    """
    known = [*graph.outputs.items()]
    value = known[0][1] if len(known) == 1 else None
    shape = value.shape if value is not None else None
    width = shape[1] if shape is not None and len(shape) >= 2 else None
    if value is None or not isinstance(width, int) or value.dtype != "float32":
        listed = ", ".join(f"'{name}' {value}" for name, value in known)
        raise InputError(
            f"a head needs one float32 output of shape [N,C,…] with a known C, this has {listed}",
            hint="Cut the model at such a layer first: hubtool.features(model, layer).",
        )
    if len(labels) < 1:
        raise InputError("a head needs at least one label")
    assert shape is not None
    whole = graph.copy()
    last = known[0][0]
    if len(shape) > 2:
        if any(size != 1 for size in shape[2:]):
            pooled = _unused(whole, "head_pool")
            whole.layers.append(Layer(pooled, "GlobalAveragePool", {"X": last}, [pooled]))
            last = pooled
        flat = _unused(whole, "head_flat")
        whole.layers.append(Layer(flat, "Flatten", {"input": last}, [flat], {"axis": 1}))
        last = flat
    name, weight, bias = (_unused(whole, f"head{part}") for part in ("", "_weight", "_bias"))
    drawn = np.random.default_rng(seed).normal(0, 0.01, (len(labels), width))
    whole.tensors[weight] = Tensor.of(drawn.astype(np.float32))
    whole.tensors[bias] = Tensor.of(np.zeros(len(labels), np.float32))
    attrs: dict[str, Attr] = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    whole.layers.append(Layer(name, "Gemm", {"A": last, "B": weight, "C": bias}, [name], attrs))
    whole.outputs = {name: Value("tensor", "float32", (shape[0], len(labels)))}
    whole.meta["labels"] = [*labels]
    return whole


def _unused(graph: Graph, wish: str) -> str:
    """A name that neither a layer nor a value bears."""
    taken = {*graph.inputs, *graph.tensors, *(layer.name for layer in graph.layers)}
    taken.update(name for layer in graph.layers for name in layer.outputs)
    number = 2
    name = wish
    while name in taken:
        name, number = f"{wish}_{number}", number + 1
    return name
