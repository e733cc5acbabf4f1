"""The same model, written down in another of the ways that ONNX allows, or once allowed.

Each function takes a ModelProto and returns a new one that must compute the same. Readers are
tested with them: where a weight lies, how its numbers are stored and which opset the file speaks
must not change what a model is.

    initializers     not_inputs  raw_data  float_data  external_data  as_constants  as_identities
    old exporters    spatial_0
    opsets           at_opset (3 to 28; below 7 for the ResNet sketches only)
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter
from onnx.external_data_helper import convert_model_to_external_data

from hubtool.formats.onnx.sketch import packed_floats

__all__ = [
    "as_constants",
    "as_identities",
    "at_opset",
    "external_data",
    "float_data",
    "not_inputs",
    "raw_data",
    "spatial_0",
]


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _only_free_inputs(model: ModelProto) -> None:
    """Take the initializers out of the graph's inputs; allowed from IR 4 on."""
    weights = {tensor.name for tensor in model.graph.initializer}
    free = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(free)
    model.ir_version = max(model.ir_version, 4)


def not_inputs(model: ModelProto) -> ModelProto:
    """Initializers that are no graph inputs, as exporters write them since IR 4."""
    copy = _copy(model)
    _only_free_inputs(copy)
    return copy


def raw_data(model: ModelProto) -> ModelProto:
    """Numbers as little-endian bytes in `raw_data`, as most exporters write them."""
    copy = _copy(model)
    for tensor in copy.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    return copy


def float_data(model: ModelProto) -> ModelProto:
    """Floats in `float_data`, one by one as the field has them."""
    copy = _copy(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.MergeFromString(packed_floats(values))
    return copy


def external_data(model: ModelProto, path: Path, weights: str = "weights.bin") -> ModelProto:
    """Numbers in a file beside the model; both are written, and the model is returned."""
    copy = raw_data(model)
    convert_model_to_external_data(copy, location=weights)
    onnx.save_model(copy, path)
    return copy


def as_constants(model: ModelProto) -> ModelProto:
    """Weights that are not initializers at all, but the outputs of Constant nodes."""
    copy = _copy(model)
    _only_free_inputs(copy)
    nodes = [
        helper.make_node(
            "Constant", [], [tensor.name], name=f"{tensor.name}_constant", value=tensor
        )
        for tensor in copy.graph.initializer
    ]
    del copy.graph.initializer[:]
    _put_first(copy, nodes)
    return copy


def as_identities(model: ModelProto) -> ModelProto:
    """Weights that reach their readers through an Identity node each."""
    copy = _copy(model)
    _only_free_inputs(copy)
    nodes = []
    for tensor in copy.graph.initializer:
        name, tensor.name = tensor.name, f"{tensor.name}_stored"
        nodes.append(helper.make_node("Identity", [tensor.name], [name], name=f"{name}_identity"))
    _put_first(copy, nodes)
    return copy


def _put_first(model: ModelProto, nodes: list[NodeProto]) -> None:
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def spatial_0(model: ModelProto) -> ModelProto:
    """BatchNormalization says spatial=0 with statistics of one axis, which contradicts itself.

    The zoo served such files until April 2020 (https://github.com/onnx/models/issues/146); what
    they mean is spatial=1.
    """
    copy = _copy(model)
    for node in copy.graph.node:
        for attribute in node.attribute:
            if node.op_type == "BatchNormalization" and attribute.name == "spatial":
                attribute.i = 0
    return copy


def at_opset(model: ModelProto, opset: int) -> ModelProto:
    """The model, which must stand at opset 7, at another one, from 3 to 28.

    Upwards by onnx's converter. It cannot go below 7 where a size is symbolic; there the ResNets'
    operators are rewritten by hand.
    """
    if opset >= 7:
        return version_converter.convert_version(model, opset)
    copy = _copy(model)
    copy.opset_import[0].version = opset
    for node in copy.graph.node:
        _lower(copy, node, opset)
    return copy


def _lower(model: ModelProto, node: NodeProto, opset: int) -> None:
    """What an operator's older definition asks for."""
    if node.op_type == "BatchNormalization":
        node.attribute.append(helper.make_attribute("is_test", 1))
        if opset < 6:
            node.attribute.append(helper.make_attribute("consumed_inputs", [0, 0, 0, 1, 1]))
    elif node.op_type == "Gemm":
        node.attribute.append(helper.make_attribute("broadcast", 1))
    elif node.op_type == "Reshape" and opset < 5:
        name = node.input.pop()
        listed = [tensor.name for tensor in model.graph.initializer].index(name)
        shape = numpy_helper.to_array(model.graph.initializer.pop(listed))
        node.attribute.append(helper.make_attribute("shape", shape.tolist()))
        listed = [value.name for value in model.graph.input].index(name)
        model.graph.input.pop(listed)
