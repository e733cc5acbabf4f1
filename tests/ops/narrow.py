"""Quantised operators in ONNX Runtime, whose Python interface cannot pass the narrow types.

So what it cannot be fed goes into the model as a weight, and what it cannot return is cast to
float32 there. `apart` counts the steps between two quantised arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from ops.conftest import runtime, single

from hubtool.dtypes import NUMBERS
from hubtool.ops import load_ops

OPSET = 25
"""The first at which ONNX Runtime quantises to 2 bits."""


def in_runtime(
    op: str,
    inputs: dict[str, Any],
    attrs: dict[str, Any],
    dtype: str,
    *,
    more: tuple[str, ...] = (),
    weights: bool = False,
) -> np.ndarray:
    """The first output, of that dtype, or float32 where numpy has none of it; `more` are the dtypes
    of the others. With `weights`, all inputs but the first belong to the model; a list stands for
    a variadic input."""
    order: list[Any] = []
    for formal in load_ops()[op].inputs:
        given = inputs.get(formal.name)
        order += given if isinstance(given, list) else [given]
    while order[-1] is None:
        order.pop()
    domain, _, name = op.rpartition(".")
    model = single(
        name, order, {f"out{i}": made for i, made in enumerate((dtype, *more))}, attrs, domain
    )
    model.opset_import[0].version, model.ir_version = OPSET, 11
    graph, fed = model.graph, list(order)
    for i, x in enumerate(order):
        if x is not None and (not _is_held(x) or (weights and i)):
            graph.initializer.append(onnx.numpy_helper.from_array(x, f"in{i}"))
            fed[i] = None
    left = [entry for entry in graph.input if fed[int(entry.name.removeprefix("in"))] is not None]
    del graph.input[:]
    graph.input.extend(left)
    if not hasattr(np, dtype):
        graph.node.append(onnx.helper.make_node("Cast", ["out0"], ["wide"], to=NUMBERS["float32"]))
        graph.output[0].name = "wide"
        graph.output[0].type.tensor_type.elem_type = NUMBERS["float32"]
    return runtime(model, fed)[0]


def _is_held(x: np.ndarray) -> bool:
    return hasattr(np, x.dtype.name)


def apart(made: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """By how many steps each element differs; shapes must be equal, dtypes where numpy has them."""
    assert made.shape == wanted.shape
    assert made.dtype == wanted.dtype or not _is_held(made)
    return np.abs(made.astype(np.float64) - wanted.astype(np.float64))
