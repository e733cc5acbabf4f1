"""What OpenVINO takes from a graph and then computes as something else, without a word.

OpenVINO itself says which operators it lacks. This room knows what it does not say, as ONNX's
conformance suite has shown it (2026.4 on a CPU): element types that it narrows, attributes and
inputs that it leaves out. A graph that holds any of it is refused before the first run, all of it
at once. A layer that a later OpenVINO computes rightly loses its line here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hubtool.dtypes import BITS
from hubtool.graph import Graph, Layer, Tensor, Value, names_read
from hubtool.ops import dtypes_made

__all__ = ["REFUSED", "fits", "missing"]

REFUSED = {
    "string": "OpenVINO has no operators on text here",
    "float64": "OpenVINO would compute it in float32",
    "uint64": "OpenVINO would compute it in 32 bits",
}


def missing(graph: Graph, known: Mapping[str, str] | None = None) -> list[str]:
    """Every input, output, weight and layer that OpenVINO has not, or would compute otherwise;
    `known` holds the dtypes of the values around a subgraph."""
    problems: list[str] = []
    dtypes = dict(known or {})
    read = {*graph.outputs, *(value for layer in graph.layers for value in names_read(layer))}
    for kind, ends in (("input", graph.inputs), ("output", graph.outputs)):
        for key, end in ends.items():
            if end.kind != "tensor":
                problems.append(f"{kind} '{key}' is of kind {end.kind}; only tensors are taken")
            elif BITS.get(end.dtype, 8) < 8:
                problems.append(f"{kind} '{key}' is {end.dtype}; no array of it is taken")
    given: dict[str, Value | Tensor] = {**graph.tensors, **graph.inputs}
    for key, value in given.items():
        dtypes[key] = value.dtype
        if value.dtype in REFUSED and key in read:
            kind = "input" if key in graph.inputs else "weight"
            problems.append(f"{kind} '{key}' is {value.dtype}: {REFUSED[value.dtype]}")
    for layer in graph.layers:
        label = f"layer '{layer.name}' ({layer.op})"
        made = dtypes_made(layer, dtypes, lambda name: getattr(graph.known(name), "dtype", ""))
        dtypes.update(made)
        for dtype in sorted({*made.values()} & REFUSED.keys()):
            problems.append(f"{label} makes {dtype}: {REFUSED[dtype]}")
        problems += [f"{label}: {reason}" for reason in _otherwise(layer, graph, dtypes)]
        for body in layer.subgraphs().values():
            problems += [f"{label} > {problem}" for problem in missing(body, dtypes)]
    return problems


def _otherwise(layer: Layer, graph: Graph, dtypes: Mapping[str, str]) -> Iterator[str]:
    """Why OpenVINO would compute something else than this layer, without a word."""
    for key in layer.reads():
        tensor = graph.tensors.get(key)
        if tensor and tensor.dtype == "int64" and layer.op != "Slice" and not fits(tensor.array):
            yield f"'{key}' holds int64 numbers that do not fit in 32 bits"
    attrs, inputs = layer.attrs, layer.inputs
    made = dtypes.get(layer.outputs[0], "") if layer.outputs else ""
    match layer.op:
        case "Attention" if attrs["left_window_size"] != -1 or attrs["right_window_size"] != -1:
            yield "its windows are left out"
        case "Attention" if attrs["is_causal"] and {"past_key", "attn_mask"} <= inputs.keys():
            yield "is_causal with both a past and a mask is masked otherwise"
        case "BitShift" if made.startswith("int"):
            yield "signed numbers are shifted otherwise"
        case "Cast" | "CastLike" if made.startswith("float8") and attrs["saturate"]:
            yield f"{made} is not saturated"
        case "DFT":
            yield "its axis is left out"
        case "LSTM" if "P" in inputs:
            yield "its peepholes P are left out"
        case "RNN" | "GRU" | "LSTM" if attrs["layout"]:
            yield "layout=1 is computed otherwise"
        case "Resize":
            yield from _resized_otherwise(layer)
        case "RoiAlign" if attrs["mode"] == "max":
            yield "mode='max' is computed otherwise"
        case "SpaceToDepth" if attrs.get("mode") == "CRD":
            yield "mode='CRD' is computed as 'DCR'"
        case "Tile" if inputs["repeats"] not in graph.tensors:
            yield "computed repeats leave a part of the result unwritten"


def _resized_otherwise(layer: Layer) -> Iterator[str]:
    """The same for the attributes of Resize."""
    attrs = layer.attrs
    if attrs["antialias"]:
        yield "antialias is computed otherwise"
    if attrs["exclude_outside"]:
        yield "exclude_outside is left out"
    if attrs["keep_aspect_ratio_policy"] != "stretch":
        yield "keep_aspect_ratio_policy is left out"
    if attrs["coordinate_transformation_mode"] == "align_corners" and "scales" in layer.inputs:
        yield "align_corners with scales is computed otherwise"


def fits(array: np.ndarray[Any, Any]) -> bool:
    """Whether all numbers fit in 32 bits."""
    limits = np.iinfo(np.int32)
    return not array.size or bool(limits.min <= array.min() and array.max() <= limits.max)
