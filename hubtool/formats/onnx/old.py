"""Models below opset 7, rewritten to opset 7 by hand, whatever they hold.

onnx's converter goes there too, but it lacks some of the steps, others want every shape in numbers,
and a model with an open batch has none. What changed below 7 is little:

    Add, And, Div, Equal, …       7   B was matched with A along `axis`; today as numpy does it
    BatchNormalization, Dropout   7   `is_test` went: the outputs tell
    Cast                          6   the type was told by name
    Concat                        4   `axis` was 1 unless told
    Gemm                          7   the bias was broadcast if asked; A may have had more axes
    GRU, LSTM, RNN                7   `output_sequence` went: the outputs tell
    LpPool, GlobalLpPool          2   the power was a float
    Pad                           2   `pads` were called `paddings`
    PRelu                         7   a slope of one axis went along the channels
    Reshape                       5   the shape became an input
    Selu                          6   its constants had fewer digits
    Split                         2   the parts could be told by an input, and the axis left out
    Tile                          6   repeated along one axis
    Upsample                      7   had a scale for height and one for width
    others                        6   `consumed_inputs` went

(https://github.com/onnx/onnx/blob/main/docs/Changelog.md)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx.helper import make_attribute, make_node

from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.walk import (
    Names,
    Shapes,
    attributes,
    every_graph,
    is_onnx,
    label,
    names_read,
    numbers_of,
    shapes_of,
)

__all__ = ["TARGET", "rewrite"]

TARGET = 7

Attributes = dict[str, Any]


@dataclass
class Facts:
    """What is known of a model before anything in it is rewritten."""

    shapes: Shapes
    numbers: dict[str, np.ndarray[Any, Any]]
    read: set[str]
    names: Names

    def constant(self, name: str, array: Any) -> onnx.NodeProto:
        """A Constant node of a name like this one."""
        free = self.names.fresh(name)
        value = onnx.numpy_helper.from_array(np.asarray(array))
        return make_node("Constant", [], [free], name=free, value=value)


Step = Callable[[onnx.NodeProto, Attributes, Facts], list[onnx.NodeProto]]


def rewrite(model: onnx.ModelProto, opset: int) -> None:
    """Bring the model to opset 7, in place. UnsupportedError names the layers that mean what no
    later opset can say, or what cannot be known."""
    told, numbers, read = shapes_of(model), numbers_of(model), names_read(model)
    # onnx infers no shapes for most operators of opset 1, and so none for what follows them.
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    _apply(TRIAL, trial, opset, Facts(told, numbers, read, Names(model)))
    shapes = shapes_of(trial, inferred=True) | told
    problems = _apply(STEPS, model, opset, Facts(shapes, numbers, read, Names(model)))
    if problems:
        raise UnsupportedError("it cannot be converted", problems=problems)


def _apply(
    steps: Mapping[str, Step], model: onnx.ModelProto, opset: int, facts: Facts
) -> list[str]:
    """Rewrite what changed; gives what cannot be."""
    problems: list[str] = []
    for graph in every_graph(model):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if _is_changed(node, opset):
                try:
                    nodes += _rewritten(node, steps.get(node.op_type), facts)
                except ValueError as error:
                    problems.append(f"{label(node)} {error}")
            nodes.append(node)
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = TARGET
    return problems


def _is_changed(node: onnx.NodeProto, opset: int) -> bool:
    """Whether the operator was issued anew between the opset and 7. What is no operator, or lacks
    inputs, is named by the binder."""
    if not is_onnx(node):
        return False
    try:
        then = onnx.defs.get_schema(node.op_type, opset, "")
        now = onnx.defs.get_schema(node.op_type, TARGET, "")
    except onnx.defs.SchemaError:
        return False
    return bool(then.since_version != now.since_version and len(node.input) >= then.min_input)


def _rewritten(node: onnx.NodeProto, step: Step | None, facts: Facts) -> list[onnx.NodeProto]:
    """The node in its new form, in place; gives the nodes to stand before it."""
    before = attributes(node)
    after = dict(before)
    after.pop("consumed_inputs", None)
    nodes = step(node, after, facts) if step else []
    kept = [a for a in node.attribute if a.name in after and after[a.name] is before[a.name]]
    made = {name: value for name, value in after.items() if value is not before.get(name)}
    kept += [make_attribute(name, value) for name, value in made.items()]
    del node.attribute[:]
    node.attribute.extend(kept)
    return nodes


def _broadcast(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    """B's axes were matched with A's from `axis` on; without one, as numpy does it. Axes of size 1
    behind B's own say the same today."""
    axis = attributes.pop("axis", None)
    if not attributes.pop("broadcast", 0) or axis is None:
        return []
    A, B = (facts.shapes.get(name) for name in node.input)
    if B is not None and (B == () or set(B) == {1}):
        return []
    if B is None or (A is None and axis >= 0):
        raise ValueError(f"broadcasts along axis {axis} of a shape not known")
    behind = -axis if axis < 0 else len(A or ()) - axis
    axes = list(range(len(B), behind))
    if not axes:
        return []
    name = facts.names.fresh(f"{node.output[0]}_aligned")
    aligned = make_node("Unsqueeze", [node.input[1]], [name], name=name, axes=axes)
    node.input[1] = name
    return [aligned]


def _batch_norm(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    """Outside of training only the first output was filled."""
    if attributes.pop("is_test", 0):
        if facts.read.intersection(filter(None, node.output[1:])):
            raise ValueError("gives statistics outside of training, which were undefined")
        del node.output[1:]
    return []


def _dropout(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    attributes.pop("is_test", None)
    return []


def _gemm(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    """An A of more axes was flattened, as Caffe2 did it."""
    attributes.pop("broadcast", None)
    if len(facts.shapes.get(node.input[0], ())) <= 2:
        return []
    name = facts.names.fresh(f"{node.output[0]}_flat")
    flat = make_node("Flatten", [node.input[0]], [name], name=name, axis=1)
    node.input[0] = name
    return [flat]


def _reshape(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    if "shape" not in attributes:
        raise ValueError("does not say a shape")
    shape = np.array(attributes.pop("shape"), np.int64)
    constant = facts.constant(f"{node.output[0]}_shape", shape)
    node.input.append(constant.output[0])
    return [constant]


def _cast(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    name = attributes.get("to", b"").decode(errors="replace").upper()
    if name not in onnx.TensorProto.DataType.keys():  # noqa: SIM118 - an enumeration of protobuf
        raise ValueError(f"casts to '{name:.80}', which is no type")
    attributes["to"] = onnx.TensorProto.DataType.Value(name)
    return []


def _concat(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    attributes.setdefault("axis", 1)
    return []


def _pad(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    if "paddings" in attributes:
        attributes["pads"] = attributes.pop("paddings")
    return []


def _lp(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    attributes["p"] = int(attributes.get("p", 2))
    return []


def _prelu(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    attributes.update(broadcast=1, axis=1)
    return _broadcast(node, attributes, facts)


def _recurrent(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    attributes.pop("output_sequence", None)
    return []


def _selu(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    attributes.setdefault("alpha", 1.6732)
    attributes.setdefault("gamma", 1.0507)
    return []


def _split(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    if len(node.input) > 1:
        parts = facts.numbers.get(node.input[1])
        if parts is None:
            raise ValueError("splits into parts that are computed, as only opset 1 and 13 can say")
        attributes["split"] = [int(part) for part in parts.flat]
        del node.input[1:]
    return []


def _tile(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    tiles, axis = (facts.numbers.get(name) for name in node.input[1:3])
    rank = len(facts.shapes.get(node.input[0], ()))
    if tiles is None or axis is None or not rank:
        raise ValueError("repeats a shape not known, or as is computed only later")
    repeats = np.ones(rank, np.int64)
    repeats[int(axis.item())] = int(tiles.item())
    constant = facts.constant(f"{node.output[0]}_repeats", repeats)
    node.input[1] = constant.output[0]
    del node.input[2:]
    return [constant]


def _upsample(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    sides = [attributes.pop(f"{side}_scale", 1.0) for side in ("height", "width")]
    attributes["scales"] = [1.0, 1.0, *sides]
    if attributes.get("mode") == b"bilinear":
        attributes["mode"] = b"linear"
    return []


def _like_first(node: onnx.NodeProto, attributes: Attributes, facts: Facts) -> list[onnx.NodeProto]:
    """What has the shape of such a layer, which was that of its first input."""
    attributes.clear()
    compares = node.op_type in ("Equal", "Greater", "Less")
    if compares:
        attributes["to"] = onnx.TensorProto.BOOL
    node.op_type = "Cast" if compares else "Identity"
    del node.input[1:]
    return []


BROADCASTING = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")

STEPS: dict[str, Step] = {
    **dict.fromkeys(BROADCASTING, _broadcast),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Dropout": _dropout,
    "Gemm": _gemm,
    "GlobalLpPool": _lp,
    "LpPool": _lp,
    "PRelu": _prelu,
    "Pad": _pad,
    "Reshape": _reshape,
    "Selu": _selu,
    "Split": _split,
    "Tile": _tile,
    "Upsample": _upsample,
}
"""What each operator needs that was issued anew up to opset 7, where more changed than
`consumed_inputs` and types. A step changes the attributes and inputs of its node and gives the
nodes to stand before it; its ValueError says what is wrong with the layer."""

TRIAL: dict[str, Step] = {**STEPS, **dict.fromkeys((*BROADCASTING, "PRelu"), _like_first)}
"""What gives a model of the same shapes, without a need to know them."""
