"""Models below opset 7, rewritten to opset 7 by hand.

onnx's converter goes there too, but some of its steps want every shape in numbers, and a model
with an open batch has none. What changed below 7 is little: `consumed_inputs` and `is_test` went,
broadcasting became numpy's, some attributes became inputs or got another form. A model all of
whose operators are known here is rewritten; any other is left to the converter as it is.
(https://github.com/onnx/onnx/blob/main/docs/Changelog.md)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference

__all__ = ["TARGET", "rewrite"]

TARGET = 7

Attributes = dict[str, Any]
Ranks = dict[str, int]


def rewrite(model: onnx.ModelProto, opset: int) -> bool:
    """Bring the model to opset 7, in place; False, and nothing done, where it holds an operator
    that is not known here. ValueError names a layer that means what no later opset can say."""
    changed = [node for node in model.graph.node if _changed(node, opset)]
    if any(node.op_type not in STEPS for node in changed) or _has_subgraphs(model):
        return False
    ranks = _ranks(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if _changed(node, opset):
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            attributes.pop("consumed_inputs", None)
            nodes += STEPS[node.op_type](node, attributes, ranks)
            del node.attribute[:]
            for name, value in attributes.items():
                node.attribute.append(onnx.helper.make_attribute(name, value))
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = TARGET
    return True


def _changed(node: onnx.NodeProto, opset: int) -> bool:
    """Whether the operator was issued anew between the opset and 7."""
    if node.domain not in ("", "ai.onnx"):
        return False
    try:
        then = onnx.defs.get_schema(node.op_type, opset, "").since_version
        return bool(then != onnx.defs.get_schema(node.op_type, TARGET, "").since_version)
    except onnx.defs.SchemaError:
        return False  # unknown then or now: the binder names it


def _has_subgraphs(model: onnx.ModelProto) -> bool:
    return any(a.type == a.GRAPH for node in model.graph.node for a in node.attribute)


def _ranks(model: onnx.ModelProto) -> Ranks:
    """The ranks of all values that are known before anything is rewritten."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            ranks.setdefault(value.name, len(value.type.tensor_type.shape.dim))
    return ranks


def _label(node: onnx.NodeProto) -> str:
    return f"layer '{node.name or node.output[0]}' ({node.op_type})"


def _same(node: onnx.NodeProto, attributes: Attributes, ranks: Ranks) -> list[onnx.NodeProto]:
    """Only consumed_inputs went, or nothing but what was allowed."""
    return []


def _inference(node: onnx.NodeProto, attributes: Attributes, ranks: Ranks) -> list[onnx.NodeProto]:
    """`is_test` went: one output means inference."""
    if not attributes.pop("is_test", 0) and len(node.output) > 2:
        raise ValueError(f"{_label(node)} is in training mode, which opset 7 cannot say")
    return []


def _broadcast(node: onnx.NodeProto, attributes: Attributes, ranks: Ranks) -> list[onnx.NodeProto]:
    """B's axes were matched with A's from `axis` on; without one, as numpy does it. Axes of size 1
    behind B's own say the same today."""
    axis = attributes.pop("axis", None)
    if not attributes.pop("broadcast", 0) or axis is None:
        return []
    A, B = node.input
    if ranks.get(B) == 0:
        return []
    if A not in ranks or B not in ranks:
        raise ValueError(f"{_label(node)} broadcasts along axis {axis} of a shape not known")
    rank, own = ranks[A], ranks[B]
    axes = list(range(own, rank - axis % rank))
    if not axes:
        return []
    name = f"{node.output[0]}_aligned"
    node.input[1] = name
    return [onnx.helper.make_node("Unsqueeze", [B], [name], name=name, axes=axes)]


def _gemm(node: onnx.NodeProto, attributes: Attributes, ranks: Ranks) -> list[onnx.NodeProto]:
    attributes.pop("broadcast", None)
    return []


def _reshape(node: onnx.NodeProto, attributes: Attributes, ranks: Ranks) -> list[onnx.NodeProto]:
    """The shape became an input."""
    name = f"{node.output[0]}_shape"
    shape = onnx.numpy_helper.from_array(np.array(attributes.pop("shape"), np.int64))
    node.input.append(name)
    return [onnx.helper.make_node("Constant", [], [name], name=name, value=shape)]


def _cast(node: onnx.NodeProto, attributes: Attributes, ranks: Ranks) -> list[onnx.NodeProto]:
    """The type was told by name."""
    attributes["to"] = onnx.TensorProto.DataType.Value(attributes["to"].decode().upper())
    return []


def _concat(node: onnx.NodeProto, attributes: Attributes, ranks: Ranks) -> list[onnx.NodeProto]:
    attributes.setdefault("axis", 1)
    return []


def _pad(node: onnx.NodeProto, attributes: Attributes, ranks: Ranks) -> list[onnx.NodeProto]:
    attributes["pads"] = attributes.pop("paddings")
    return []


def _lp(node: onnx.NodeProto, attributes: Attributes, ranks: Ranks) -> list[onnx.NodeProto]:
    """The power was a float."""
    attributes["p"] = int(attributes.get("p", 2))
    return []


def _prelu(node: onnx.NodeProto, attributes: Attributes, ranks: Ranks) -> list[onnx.NodeProto]:
    """A slope of one axis went along the channels."""
    attributes.update(broadcast=1, axis=1)
    return _broadcast(node, attributes, ranks)


Step = Callable[[onnx.NodeProto, Attributes, Ranks], list[onnx.NodeProto]]

SAME = (
    "Abs",
    "AveragePool",
    "Ceil",
    "Clip",
    "Elu",
    "Exp",
    "Floor",
    "HardSigmoid",
    "InstanceNormalization",
    "LeakyRelu",
    "Log",
    "Max",
    "Mean",
    "Min",
    "Neg",
    "Reciprocal",
    "Relu",
    "Selu",
    "Sigmoid",
    "Sqrt",
    "Sum",
    "Tanh",
)
BROADCASTING = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")

STEPS: dict[str, Step] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(BROADCASTING, _broadcast),
    "BatchNormalization": _inference,
    "Cast": _cast,
    "Concat": _concat,
    "Dropout": _inference,
    "Gemm": _gemm,
    "GlobalLpPool": _lp,
    "LpPool": _lp,
    "PRelu": _prelu,
    "Pad": _pad,
    "Reshape": _reshape,
}
"""What each operator needs that was issued anew up to opset 7. A step changes the attributes and
inputs of its node and gives the nodes to stand before it."""
