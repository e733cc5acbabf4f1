"""Fold a BatchNormalization into the weights of the layer before it.

    y  = (f(x; W) + b - mean) * s + beta      s = scale / sqrt(var + epsilon)
       = f(x; W') + b'                        W' = W * s,  b' = (b - mean) * s + beta

f is Conv, ConvTranspose or Gemm; s runs along the axis of W that makes output channels. Computed
in float64 and rounded once. The normalization must be in inference mode and the only reader of
f's output, and all weights must be plain: neither computed nor open to callers. W' and b' are new
tensors, for W may be shared. A normalization *before* a Conv is left alone: the Conv's zero
padding would no longer be zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubtool.graph import Graph, Layer, Tensor
from hubtool.passes.rewriting import constant, everywhere, fresh, names_in, only_reader

__all__ = ["fold_batch_norm"]

Array = np.ndarray[Any, Any]

WEIGHTS = {"Conv": ("W", "B"), "ConvTranspose": ("W", "B"), "Gemm": ("B", "C")}
"""The formal names of W and b in each operator that is folded into."""


@everywhere
def fold_batch_norm(graph: Graph) -> None:
    """Fold every BatchNormalization that directly follows a Conv, ConvTranspose or Gemm."""
    taken = names_in(graph)
    producers, users = graph.producers(), graph.users()
    for norm in [*graph.layers]:
        if norm.op != "BatchNormalization":
            continue
        layer = producers.get(str(norm.inputs["X"]))
        if layer is None or layer.op not in WEIGHTS:
            continue
        if only_reader(graph, users, layer.outputs[0]) is not norm:
            continue
        folded = _folded(graph, layer, norm)
        if folded is None:
            continue
        for formal, tensor in folded.items():
            name = fresh(taken, f"{layer.name}.{formal}")
            graph.tensors[name] = tensor
            layer.inputs[formal] = name
        if layer.op == "Gemm":
            layer.attrs["beta"] = 1.0  # b' holds it already
        graph.values.pop(layer.outputs[0], None)
        layer.outputs = norm.outputs[:1]
        producers[layer.outputs[0]] = layer
        graph.layers.remove(norm)


def _folded(graph: Graph, layer: Layer, norm: Layer) -> dict[str, Tensor] | None:
    """W' and b' under their formal names, or None where they cannot be computed."""
    if norm.attrs["training_mode"] != 0 or any(norm.outputs[1:]):
        return None
    statistics = _plain(graph, norm, ("scale", "B", "input_mean", "input_var"))
    formal_W, formal_b = WEIGHTS[layer.op]
    W_given = constant(graph, layer.inputs[formal_W])
    if statistics is None or W_given is None:
        return None
    scale, beta, mean, var = statistics
    W, b = W_given.array.astype(np.float64), np.zeros(())
    if formal_b in layer.inputs:
        given = _plain(graph, layer, (formal_b,))
        if given is None:
            return None
        (b,) = given
    with np.errstate(all="ignore"):
        s = scale / np.sqrt(var + float(_number(norm, "epsilon")))
        W_folded = _times(layer, W, b, s)
        if W_folded is None:
            return None
        if layer.op == "Gemm":
            b = b.reshape(-1) * float(_number(layer, "beta"))
        b_folded = (b - mean) * s + beta
        folded = {formal_W: W_folded, formal_b: b_folded}
        rounded = {name: value.astype(W_given.array.dtype) for name, value in folded.items()}
    if not all(np.isfinite(value.astype(np.float64)).all() for value in rounded.values()):
        return None
    return {name: Tensor.of(value) for name, value in rounded.items()}


def _times(layer: Layer, W: Array, b: Array, s: Array) -> Array | None:
    """W * s along the output channels; None where there are not as many of them as in s."""
    (channels,) = s.shape
    if layer.op == "Gemm":
        one_row = b.size in (1, channels) and b.shape[-1:] in ((), (1,), (channels,))
        along = s[:, None] if layer.attrs["transB"] else s
        fits = W.shape[0 if layer.attrs["transB"] else 1] == channels
        return W * along if one_row and fits else None
    spatial = (1,) * (W.ndim - 2)
    if layer.op == "Conv":
        return W * s.reshape(-1, 1, *spatial) if W.shape[0] == channels else None
    group = int(_number(layer, "group"))
    if W.shape[1] * group != channels:
        return None
    by_group = W.reshape(group, -1, *W.shape[1:]) * s.reshape(group, 1, -1, *spatial)
    return by_group.reshape(W.shape)


def _plain(graph: Graph, layer: Layer, formals: tuple[str, ...]) -> list[Array] | None:
    """The weights under these formal names in float64, or None where one is no plain weight."""
    tensors = [constant(graph, layer.inputs[formal]) for formal in formals]
    arrays = [tensor.array.astype(np.float64) for tensor in tensors if tensor is not None]
    return arrays if len(arrays) == len(formals) else None


def _number(layer: Layer, key: str) -> int | float:
    number = layer.attrs[key]
    assert isinstance(number, int | float)
    return number
