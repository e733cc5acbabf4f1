"""Compute once what depends on weights alone.

    y = f(w₁, w₂, …)   with every w a weight   ⟶   y is a weight

The values come from the numpy interpreter, so a folded layer means what it meant. A layer stays
where it is random, where an input may be overridden by a caller, where the result is no tensor or
larger than `CAP`, and where computing it fails: then the run says so, if it ever gets there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hubtool.dtypes import BITS
from hubtool.errors import HubtoolError
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value, names_read
from hubtool.interpreter import HOST, Program
from hubtool.passes.rewriting import constant, everywhere

__all__ = ["CAP", "RANDOM", "fold_constants"]

Array = Any

CAP = 512 << 20
"""The most bytes that one folded value may take; a few numbers can ask for terabytes."""

RANDOM = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""The operators whose result is another one at every run; Dropout is, in training."""


@everywhere
def fold_constants(graph: Graph) -> None:
    """Replace every layer that reads only weights by the tensors that it makes."""
    kept: list[Layer] = []
    for layer in graph.layers:
        folded = _folded(graph, layer) if _foldable(graph, layer) else None
        if folded is None:
            kept.append(layer)
            continue
        graph.tensors.update(folded)
        for name in folded:
            graph.values.pop(name, None)
    graph.layers = kept


def _foldable(graph: Graph, layer: Layer) -> bool:
    if _is_random(layer) or any(constant(graph, name) is None for name in names_read(layer)):
        return False
    return not any(_too_large(graph.known(name)) for name in layer.outputs if name)


def _is_random(layer: Layer) -> bool:
    bodies = layer.subgraphs().values()
    return layer.op in RANDOM or any(_is_random(inner) for body in bodies for inner in body.layers)


def _too_large(value: Value | None) -> bool:
    if value is None or value.shape is None:
        return False
    dims = [dim for dim in value.shape if isinstance(dim, int)]
    return len(dims) == len(value.shape) and math.prod(dims) * BITS.get(value.dtype, 64) > CAP * 8


def _folded(graph: Graph, layer: Layer) -> dict[str, Tensor] | None:
    """The layer's outputs as tensors by name, or None where it has to stay."""
    outputs = [name for name in layer.outputs if name]
    read = {*names_read(layer)}
    read.update(attr.name for attr in layer.attrs.values() if isinstance(attr, TensorRef))
    alone = Graph(
        layers=[layer],
        outputs={name: Value("tensor", "", None) for name in outputs},
        tensors={name: graph.tensors[name] for name in read},
    )
    try:
        results = Program(alone, HOST).run({})
    except HubtoolError:
        return None
    if any(not isinstance(y, np.ndarray | np.generic) or y.nbytes > CAP for y in results.values()):
        return None
    return {name: Tensor.of(_frozen(y)) for name, y in results.items()}


def _frozen(y: Array) -> np.ndarray[Any, Any]:
    """The array in memory of its own layout (a broadcast is spelt out), safe from writing."""
    array = np.asarray(y, order="C").view()
    array.flags.writeable = False
    return array
