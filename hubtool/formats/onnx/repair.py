"""What onnx's version converter gets wrong: put right, or refused, around the lifting.

The converter raises where it knows that it cannot convert, but some changes of meaning it does not
know; then the model would compute something else and nobody would be told. Each function below is
one such change, with the opset that made it. `repair` works on the model as it was written, after
its functions have been inlined and it has come to opset 7 at least; `settle` on the lifted one.

    BatchNormalization   9   spatial=0: statistics of every position
    BatchNormalization  14   training was told by the outputs; today by `training_mode`
    Clip, Pad           11   a bound or a filling becomes an input, and the converter makes it float
    Dropout             12   the mask was undefined outside of training
    GroupNormalization  21   scale and bias were one value a group, not one a channel
    Hardmax             13   the input was coerced to two dimensions
    Resize              11   pixels began at their corner; Upsample's until 10 too
    Resize              13   tf_half_pixel_for_nn cannot be said any more
    Scan                 9   ran once for each sample of a batch (scan.py)
    all                      names that the converter makes must not be those of the model

A layer that is written at once as the pinned opset has it goes through the converter in a domain of
ours (`PINNED`), for what is foreign the converter leaves as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx.helper import make_attribute, make_node

from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.contributed import CONTRIBUTED
from hubtool.formats.onnx.scan import unroll
from hubtool.formats.onnx.walk import (
    PINNED,
    Names,
    Steps,
    attributes,
    dtypes_of,
    every_graph,
    graphs_in,
    is_onnx,
    label,
    names_read,
    nodes_of,
    numbers_of,
    shapes_of,
)
from hubtool.formats.onnx.withdrawn import WITHDRAWN, restate

__all__ = ["CHANGED", "defaults", "functions", "made_names", "repair", "settle"]

CHANGED = {
    "BatchNormalization": 9,
    "Dropout": 12,
    "GroupNormalization": 21,
    "Hardmax": 13,
    "PRelu": 7,
    "Resize": 11,
    "Scan": 9,
    "Upsample": 10,
}

Mend = Callable[[onnx.ModelProto, list[str]], list[str]]


def repair(model: onnx.ModelProto, opset: int, notes: list[str]) -> None:
    """Put right what can be; `notes` gets a sentence where the model itself was wrong. Raises
    UnsupportedError with every layer that cannot be lifted."""
    present = {node.op_type for graph in every_graph(model) for node in graph.node}
    wanted = {mend: None for op, until, mend in MENDS if op in present and opset < until}
    problems = [problem for mend in wanted for problem in mend(model, notes)]
    if any(node.domain == PINNED for graph in every_graph(model) for node in graph.node):
        model.opset_import.add(domain=PINNED, version=1)
    _raise(problems)


def settle(model: onnx.ModelProto, opset: int, before: list[set[str]], notes: list[str]) -> None:
    """Put right what the converter left wrong. `before`: `made_names` before the lifting."""
    _rename(model, before)
    for graph in every_graph(model):
        for node in graph.node:
            if node.domain == PINNED:
                node.domain = ""
    kept = [entry for entry in model.opset_import if entry.domain != PINNED]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    if opset < CHANGED["Resize"]:
        _raise(_asymmetric(model, notes))


def defaults(model: onnx.ModelProto) -> None:
    """Write out the defaults of functions' attributes in every call that leaves them out: inlining
    forgets them."""
    known = {(f.domain, f.name, f.overload): f.attribute_proto for f in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for nodes in bodies:
        inner = (node for graph in graphs_in(nodes) for node in graph.node)
        for node in (*nodes, *inner):
            given = {attribute.name for attribute in node.attribute}
            listed = known.get((node.domain, node.op_type, node.overload), ())
            node.attribute.extend(default for default in listed if default.name not in given)


def functions(model: onnx.ModelProto, opset: int) -> None:
    """A function of another opset than the model's is converted while it is inlined, where nothing
    can be repaired: UnsupportedError if it holds one of these operators as it was."""
    problems: list[str] = []
    for function in model.functions:
        versions = [e.version for e in function.opset_import if e.domain in ("", "ai.onnx")]
        version = versions[0] if versions else opset
        inner = [node for graph in graphs_in(function.node) for node in graph.node]
        problems += [
            f"{label(node)} of function '{function.name:.80}' is of opset {version}, the model of "
            f"{opset}"
            for node in (*function.node, *inner)
            if version != opset and min(version, opset) < _changed(node)
        ]
    _raise(problems)


def _changed(node: onnx.NodeProto) -> int:
    """Since when a layer means what it means today."""
    is_training = node.op_type == "BatchNormalization" and len(node.output) > 1
    return 14 if is_training else CHANGED.get(node.op_type, 0)


def made_names(model: onnx.ModelProto) -> list[set[str]]:
    """For each graph of a model, the names that are made in it."""
    return [
        {value.name for value in graph.input}
        | {tensor.name for tensor in graph.initializer}
        | {name for node in graph.node for name in node.output}
        for graph in every_graph(model)
    ]


def _rename(model: onnx.ModelProto, before: list[set[str]]) -> None:
    """The converter looks only at one graph for names that are free, and ONNX Runtime refuses a
    name that a graph around has too."""
    names = Names(model)
    seen = set().union(*before)
    graphs = zip(every_graph(model), made_names(model), before, strict=True)
    for graph, made, known in graphs:
        new = {name: names.fresh(name) for name in sorted((made - known) & seen)}
        seen |= made
        if not new:
            continue
        for held in (*graph.initializer, *graph.value_info):
            held.name = new.get(held.name, held.name)
        for node in graph.node:
            for edges in (node.input, node.output):
                edges[:] = [new.get(name, name) for name in edges]


def _asymmetric(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """Until opset 10, Upsample and Resize took a pixel's place for its corner; the converter leaves
    Resize with the default of later opsets, its centre. The nearest pixel was the one before when
    the picture grew and the one behind when it shrank. For the lifted model."""
    problems: list[str] = []
    numbers = numbers_of(model)
    for node in (node for graph in every_graph(model) for node in nodes_of(graph, "Resize")):
        known = numbers.get(node.input[2]) if _is_nearest(node) else np.ones(1)
        scales = [] if known is None else known.reshape(-1).tolist()
        shrinks = any(scale < 1 for scale in scales)
        if shrinks and any(scale > 1 for scale in scales):
            problems.append(f"{label(node)} shrinks and grows, as only opset 10 can say")
        if known is None:
            notes.append(f"{label(node)} was read as one that makes pictures larger")
        _set(node, coordinate_transformation_mode="asymmetric")
        _set(node, nearest_mode="ceil" if shrinks else "floor")
    return problems


def _is_nearest(node: onnx.NodeProto) -> bool:
    return bool(attributes(node).get("mode", b"nearest") == b"nearest")


def _for_nearest(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """tf_half_pixel_for_nn: x_original = (x_resized + 0.5) / scale, half a pixel more than
    half_pixel says. So its floor is that of half_pixel rounded up from .5 on."""
    modes = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}
    problems: list[str] = []
    for node in (node for graph in every_graph(model) for node in nodes_of(graph, "Resize")):
        given = attributes(node)
        if given.get("coordinate_transformation_mode") != b"tf_half_pixel_for_nn":
            continue
        mode = modes.get(given.get("nearest_mode", b"round_prefer_floor").decode())
        if mode is None or not _is_nearest(node):
            problems.append(f"{label(node)} has tf_half_pixel_for_nn, as opsets 11 and 12 can say")
            continue
        _set(node, coordinate_transformation_mode="half_pixel")
        _set(node, nearest_mode=mode)
    return problems


def _spatial(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """spatial=0 with statistics of one axis is invalid, and was meant as spatial=1: the zoo's
    ResNets before April 2020 (onnx/models#146). Real spatial=0 has statistics of every position:
    BatchNormalization(X, s, …) = Reshape(BatchNormalization(Flatten(X), s', …), Shape(X))
    with s' = Reshape(s, [-1])."""
    shapes, names = shapes_of(model), Names(model)
    repaired = 0
    for graph in every_graph(model):
        for place, node in _backwards(graph, "BatchNormalization"):
            if attributes(node).get("spatial", 1) == 1:
                continue
            _remove(node, "spatial")
            if all(len(shapes.get(name, (1,))) == 1 for name in node.input[1:5]):
                repaired += 1
                continue
            y = node.output[0]
            steps = Steps(names, y)
            shape = steps.add("Shape", [node.input[0]], "shape")
            line = steps.constant([-1], "line")
            flat = [steps.add("Flatten", [node.input[0]], "flat", axis=1)]
            flat += [steps.add("Reshape", [name, line], "each") for name in node.input[1:]]
            node.input[:] = flat
            node.output[0] = names.fresh(f"{y}_normalized")
            back = make_node("Reshape", [node.output[0], shape], [y], names.fresh(f"{y}_back"))
            _insert(graph, place, [*steps.nodes, node, back])
    if repaired:
        notes.append(
            f"{repaired} BatchNormalization layers said spatial=0 with statistics of one axis, "
            "which is invalid; they were read as spatial=1 (onnx/models#146)"
        )
    return []


def _training(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """Five outputs meant training, one meant inference."""
    read = names_read(model)
    problems: list[str] = []
    for graph in every_graph(model):
        for node in nodes_of(graph, "BatchNormalization"):
            if not any(node.output[1:]):
                del node.output[1:]
                continue
            if read.intersection(filter(None, node.output[3:])):
                problems.append(f"{label(node)} gives the saved statistics of opsets 1 to 13")
            del node.output[3:]
            _set(node, training_mode=1)
            node.domain = PINNED
    return problems


def _dropout(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """A mask that nobody reads is left out; one that is read has no meaning."""
    read = names_read(model)
    problems: list[str] = []
    for graph in every_graph(model):
        for node in nodes_of(graph, "Dropout"):
            if any(name in read for name in node.output[1:] if name):
                problems.append(f"{label(node)} gives its mask, undefined until opset 12")
            del node.output[1:]
    return problems


def _clip(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """Clip of anything but float: Clip(input, min, max), the bounds in the input's own type."""
    return _with_inputs(
        model, "Clip", lambda given: [given.pop("min", None), given.pop("max", None)]
    )


def _pad(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """Pad of anything but float: Pad(data, pads, constant_value), the value in data's own type."""

    def inputs(given: dict[str, Any]) -> list[Any]:
        return [np.array(given.pop("pads", ()), np.int64), given.pop("value", 0.0)]

    return _with_inputs(model, "Pad", inputs)


def _with_inputs(
    model: onnx.ModelProto, op: str, inputs: Callable[[dict[str, Any]], list[Any]]
) -> list[str]:
    dtypes, names = dtypes_of(model), Names(model)
    for graph in every_graph(model):
        for place, node in _backwards(graph, op):
            dtype = dtypes.get(node.input[0] if node.input else "", 0)
            if dtype in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.FLOAT):
                continue
            given = attributes(node)
            steps = Steps(names, node.output[0])
            for value in inputs(given):
                if isinstance(value, float):
                    value = _held(value, dtype)
                node.input.append("" if value is None else steps.constant(value, "given"))
            for attribute in [a for a in node.attribute if a.name not in given]:
                node.attribute.remove(attribute)
            node.domain = PINNED
            _insert(graph, place, [*steps.nodes, node])
    return []


def _held(value: float, dtype: int) -> np.ndarray[Any, Any]:
    """The number as a tensor of this type, the nearest that it holds."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    if kind.kind == "f":
        value = float(np.clip(value, np.finfo(kind).min, np.finfo(kind).max))
    return np.array(value).astype(kind)


def _group_normalization(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """s by group -> s by channel = Reshape(Expand(Reshape(s, [-1, 1]), [G, C / G]), [-1])"""
    names = Names(model)
    for graph in every_graph(model):
        for place, node in _backwards(graph, "GroupNormalization"):
            if len(node.input) != 3:
                continue
            steps = Steps(names, node.output[0])
            groups = steps.constant([attributes(node).get("num_groups", 1)], "groups")
            column, flat = steps.constant([-1, 1], "column"), steps.constant([-1], "flat")
            channels = steps.add("Shape", [node.input[0]], "channels", start=1, end=2)
            each = steps.add("Div", [channels, groups], "each")
            shape = steps.add("Concat", [groups, each], "shape", axis=0)
            for index, part in ((1, "scale"), (2, "bias")):
                upright = steps.add("Reshape", [node.input[index], column], f"{part}_column")
                wide = steps.add("Expand", [upright, shape], f"{part}_wide")
                node.input[index] = steps.add("Reshape", [wide, flat], part)
            _insert(graph, place, [*steps.nodes, node])
    return []


def _hardmax(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """Hardmax(input, axis) = Reshape(Hardmax(Flatten(input, axis), 1), Shape(input))"""
    names = Names(model)
    for graph in every_graph(model):
        for place, node in _backwards(graph, "Hardmax"):
            if len(node.input) != 1 or len(node.output) != 1:
                continue
            axis = attributes(node).get("axis", 1)
            (x,), (y,) = node.input, node.output
            shape, flat, hot = (names.fresh(f"{y}_{part}") for part in ("shape", "flat", "hot"))
            steps = [
                make_node("Shape", [x], [shape], names.fresh(f"{node.name}_shape")),
                make_node("Flatten", [x], [flat], names.fresh(f"{node.name}_flat"), axis=axis),
                make_node("Hardmax", [flat], [hot], node.name, axis=1),
                make_node("Reshape", [hot, shape], [y], names.fresh(f"{node.name}_reshape")),
            ]
            _insert(graph, place, steps)
    return []


def _scan(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """The converter takes the batch away, also from the inputs and outputs of the model."""
    names = Names(model)
    dtypes = dtypes_of(model)
    problems: list[str] = []
    for graph in [*every_graph(model)][::-1]:
        for place, node in _backwards(graph, "Scan"):
            try:
                _insert(graph, place, unroll(node, names, dtypes))
            except ValueError as error:
                problems.append(f"{label(node)} {error}")
    return problems


def _withdrawn(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """Operators that were experimental: withdrawn.py says what they meant."""
    names = Names(model)
    problems: list[str] = []
    for graph in every_graph(model):
        for op in WITHDRAWN:
            for place, node in _backwards(graph, op):
                try:
                    _insert(graph, place, restate(node, names))
                except ValueError as error:
                    problems.append(f"{label(node)} {error}")
    return problems


MENDS: tuple[tuple[str, float, Mend], ...] = (
    *CONTRIBUTED,
    *((op, 9 if op == "MeanVarianceNormalization" else 10, _withdrawn) for op in WITHDRAWN),
    ("BatchNormalization", math.inf, _spatial),
    ("BatchNormalization", 14, _training),
    ("Clip", 11, _clip),
    ("Dropout", 12, _dropout),
    ("GroupNormalization", 21, _group_normalization),
    ("Hardmax", 13, _hardmax),
    ("Pad", 11, _pad),
    ("Resize", math.inf, _for_nearest),
    ("Scan", 9, _scan),
)
"""Operator, the opset from which on it needs no repair, and the repair of all its layers."""


def _backwards(graph: onnx.GraphProto, op: str) -> list[tuple[int, onnx.NodeProto]]:
    """The layers of an operator with their places, the last one first."""
    return [(i, n) for i, n in enumerate(graph.node) if n.op_type == op and is_onnx(n)][::-1]


def _insert(graph: onnx.GraphProto, place: int, nodes: list[onnx.NodeProto]) -> None:
    """These layers in the place of one."""
    behind = [*graph.node[place + 1 :]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*nodes, *behind)]
    del graph.node[place:]
    graph.node.extend(copies)


def _set(node: onnx.NodeProto, **given: Any) -> None:
    for name, value in given.items():
        _remove(node, name)
        node.attribute.append(make_attribute(name, value))


def _remove(node: onnx.NodeProto, name: str) -> None:
    for attribute in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(attribute)


def _raise(problems: list[str]) -> None:
    if problems:
        raise UnsupportedError("it cannot be converted", problems=problems)
