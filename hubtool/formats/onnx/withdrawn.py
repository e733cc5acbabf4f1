"""Operators that were experimental and left ONNX with opset 10, in words of those that stayed.

Converters of the time wrote them all the same: ImageScaler stands before many a network that came
from Core ML, ConstantFill in those of MXNet. Their text is in ONNX's changelog of opset 1.

    Affine               alpha X + beta
    ConstantFill         ConstantOfShape, or a constant
    Crop                 Slice of height and width
    DynamicSlice         Slice
    ImageScaler          scale X + bias[c]
    MeanVariance-        (X - E X) / sqrt(E (X - E X)^2), over the axes that are not told by
      Normalization      `across_channels`
    ParametricSoftplus   alpha log(exp(beta X) + 1)
    Scale                scale X
    ScaledTanh           alpha tanh(beta X)
    ThresholdedRelu      stayed, but what it was before 10 the converter does not know

ATen, GivenTensorFill, GRUUnit and the like stay unknown operators.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx.helper import make_attribute, make_node

from hubtool.formats.onnx.walk import PINNED, Names, Steps, attributes

__all__ = ["WITHDRAWN", "restate"]

FLOAT = onnx.TensorProto.FLOAT


def restate(node: onnx.NodeProto, names: Names) -> list[onnx.NodeProto]:
    """The layers that stand for one of WITHDRAWN; those of PINNED are as the pinned opset has them.
    ValueError says what is missing, or cannot be said."""
    given = attributes(node)
    steps = Steps(names, node.output[0] if node.output else node.name)
    last = WITHDRAWN[node.op_type](node, given, steps)
    if given:
        raise ValueError(f"has attributes that are not known: {', '.join(sorted(given))[:200]}")
    last.name = node.name
    return [*steps.nodes, last]


def _tensor(value: Any) -> np.ndarray[Any, Any]:
    return np.array(value, np.float32)


def _affine(node: onnx.NodeProto, given: dict[str, Any], steps: Steps) -> onnx.NodeProto:
    alpha = steps.constant(_tensor(given.pop("alpha", 1.0)), "alpha")
    beta = steps.constant(_tensor(given.pop("beta", 0.0)), "beta")
    return make_node("Add", [steps.add("Mul", [node.input[0], alpha], "scaled"), beta], node.output)


def _scale(node: onnx.NodeProto, given: dict[str, Any], steps: Steps) -> onnx.NodeProto:
    factor = steps.constant(_tensor(given.pop("scale", 1.0)), "scale")
    return make_node("Mul", [node.input[0], factor], node.output)


def _image_scaler(node: onnx.NodeProto, given: dict[str, Any], steps: Steps) -> onnx.NodeProto:
    bias = _tensor(given.pop("bias", [0.0])).reshape(-1, 1, 1)
    factor = steps.constant(_tensor(given.pop("scale", 1.0)), "scale")
    scaled = steps.add("Mul", [node.input[0], factor], "scaled")
    return make_node("Add", [scaled, steps.constant(bias, "bias")], node.output)


def _scaled(node: onnx.NodeProto, given: dict[str, Any], steps: Steps, op: str) -> onnx.NodeProto:
    """alpha op(beta X)"""
    if not given.keys() >= {"alpha", "beta"}:
        raise ValueError("lacks alpha or beta")
    beta = steps.constant(_tensor(given.pop("beta")), "beta")
    curved = steps.add(op, [steps.add("Mul", [node.input[0], beta], "inner")], "curved")
    alpha = steps.constant(_tensor(given.pop("alpha")), "alpha")
    return make_node("Mul", [curved, alpha], node.output)


def _parametric_softplus(
    node: onnx.NodeProto, given: dict[str, Any], steps: Steps
) -> onnx.NodeProto:
    return _scaled(node, given, steps, "Softplus")


def _scaled_tanh(node: onnx.NodeProto, given: dict[str, Any], steps: Steps) -> onnx.NodeProto:
    return _scaled(node, given, steps, "Tanh")


def _thresholded(node: onnx.NodeProto, given: dict[str, Any], steps: Steps) -> onnx.NodeProto:
    return make_node(
        node.op_type, node.input, node.output, domain=PINNED, alpha=given.pop("alpha", 1.0)
    )


def _normalized(node: onnx.NodeProto, given: dict[str, Any], steps: Steps) -> onnx.NodeProto:
    axes = [0, 1, 2, 3] if given.pop("across_channels", 0) else [0, 2, 3]
    if given.pop("normalize_variance", 1):
        return make_node(node.op_type, node.input, node.output, domain=PINNED, axes=axes)
    mean = steps.add("ReduceMean", [node.input[0]], "mean", axes=axes)
    return make_node("Sub", [node.input[0], mean], node.output)


def _crop(node: onnx.NodeProto, given: dict[str, Any], steps: Steps) -> onnx.NodeProto:
    """border is left, top, right, bottom; with `scale`, the height and width that stay, only where
    it begins counts."""
    left, top, right, bottom = given.pop("border", (0, 0, 0, 0))
    height, width = given.pop("scale", (None, None))
    most = 2**31 - 1
    ends = [-bottom or most, -right or most] if height is None else [top + height, left + width]
    return make_node("Slice", node.input, node.output, axes=[2, 3], starts=[top, left], ends=ends)


def _dynamic_slice(node: onnx.NodeProto, given: dict[str, Any], steps: Steps) -> onnx.NodeProto:
    return make_node("Slice", node.input, node.output, domain=PINNED)


def _constant_fill(node: onnx.NodeProto, given: dict[str, Any], steps: Steps) -> onnx.NodeProto:
    """The shape is an attribute, the input's elements, or the input's own shape."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(given.pop("dtype", FLOAT))
    value = onnx.numpy_helper.from_array(np.array([given.pop("value", 0.0)]).astype(kind))
    is_shape, shape = given.pop("input_as_shape", 0), given.pop("shape", [])
    if given.pop("extra_shape", []):
        raise ValueError("appends to the shape of its input, as only opset 1 can say")
    if not node.input:
        source = steps.constant(shape, "shape")
    elif is_shape:
        source = node.input[0]
    else:
        source = steps.add("Shape", [node.input[0]], "shape")
    filled = make_node("ConstantOfShape", [source], node.output, domain=PINNED)
    filled.attribute.append(make_attribute("value", value))
    return filled


WITHDRAWN = {
    "Affine": _affine,
    "ConstantFill": _constant_fill,
    "Crop": _crop,
    "DynamicSlice": _dynamic_slice,
    "ImageScaler": _image_scaler,
    "MeanVarianceNormalization": _normalized,
    "ParametricSoftplus": _parametric_softplus,
    "Scale": _scale,
    "ScaledTanh": _scaled_tanh,
    "ThresholdedRelu": _thresholded,
}
"""What each of them means: a function that takes from the attributes what it understands."""
