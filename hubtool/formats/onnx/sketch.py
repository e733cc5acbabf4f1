"""Writes the untrained look-alike of a ResNet of the ONNX Model Zoo.

The zoo's files cannot be had everywhere, and a reader of ONNX files wants the real thing to be
tried on. A sketch has the zoo's nodes, names and attributes, down to the file's size in bytes; only
the weights are drawn at random from a seed, and the metadata says so. Peculiar to the files:

* v1 normalizes after each Conv; stride 2 sits on the first 1x1 of a bottleneck, and its two 1x1s
  carry a bias. v2 normalizes before each Conv, `data` too, and flattens by Reshape.
* IR 3 wants every initializer to be a graph input too; weights lie in `float_data`.

The structure is that of Gluon's resnet.py as MXNet's exporter wrote it down; a test holds the
sizes of all ten against the published ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from hubtool.formats.onnx import wire

__all__ = ["packed_floats", "resnet"]

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Depth -> residual blocks in each of the four stages."""

UNTRAINED = "hubtool.untrained"
"""The metadata key whose JSON value is true on every sketch."""

ZOO = "hubtool.zoo"
"""The metadata key that names the zoo's model that is sketched."""

GRAPH_NAMES = {1: "mxnet_converted_model", 2: "main"}
"""v2's is inferred: with v1's name, all five sizes would be 17 bytes above the published ones."""


@dataclass(frozen=True)
class Weight:
    """A tensor yet to be drawn: normal, of this mean and standard deviation."""

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float


@dataclass(frozen=True)
class Conv:
    """A convolution from C to M channels, padded so that stride 1 keeps the size.

    gain: what scales its weights, or the BatchNormalization that follows it.
    """

    C: int
    M: int
    kernel: int
    stride: int = 1
    bias: bool = False
    gain: float = 1.0


@dataclass
class Sketch:
    """The network so far: its nodes, its weights, and how often each kind of name was used."""

    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def next(self, name: str) -> str:
        """The name with its number, which counts from 0: "resnetv15_stage1_conv3"."""
        number = self.counts.get(name, 0)
        self.counts[name] = number + 1
        return f"{name}{number}"

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attrs))
        return output

    def weight(self, name: str, shape: tuple[int, ...], mean: float = 0.0, std: float = 0.1) -> str:
        self.weights.append(Weight(name, shape, mean, std))
        return name

    def conv(self, X: str, name: str, conv: Conv, gain: float = 1.0) -> str:
        shape = (conv.M, conv.C, conv.kernel, conv.kernel)
        # Variance 2 / fan-in keeps the scale through Relu (He et al. 2015, arXiv:1502.01852).
        std = gain * math.sqrt(2 / math.prod(shape[1:]))
        inputs = [X, self.weight(f"{name}_weight", shape, std=std)]
        if conv.bias:
            inputs.append(self.weight(f"{name}_bias", (conv.M,)))
        return self.node(
            "Conv",
            inputs,
            f"{name}_fwd",
            dilations=[1, 1],
            group=1,
            kernel_shape=[conv.kernel] * 2,
            pads=[conv.kernel // 2] * 4,
            strides=[conv.stride] * 2,
        )

    def norm(self, X: str, name: str, C: int, gain: float = 1.0) -> str:
        inputs = [
            X,
            self.weight(f"{name}_gamma", (C,), gain, 0.1 * gain),
            self.weight(f"{name}_beta", (C,), 0.0, 0.1 * gain),
            self.weight(f"{name}_running_mean", (C,)),
            self.weight(f"{name}_running_var", (C,), 1.0),
        ]
        attrs = {"epsilon": 1e-5, "momentum": 0.9, "spatial": 1}
        return self.node("BatchNormalization", inputs, f"{name}_fwd", **attrs)


def resnet(version: int, depth: int, *, prefix: str, name: str, seed: int = 0) -> ModelProto:
    """The sketch of the zoo's ResNet of this version (1 or 2) and depth (one of BLOCKS).

    prefix: what the zoo's names begin with, "resnetv16" for ResNet-34 v1. name: the model's name
    in hubtool, kept in the metadata.
    """
    sketch = Sketch()
    top = f"{prefix}_"
    features, C = _features(sketch, top, version, depth)
    X = sketch.node("GlobalAveragePool", [features], f"{top}pool1_fwd")
    # MXNet numbers its entries, data, weights and operators alike, and puts a number in two names.
    entry = 1 + len(sketch.weights) + len(sketch.nodes)
    reshape = f"reshape_attr_tensor{entry}"
    if version == 1:
        X = sketch.node("Flatten", [X], f"flatten_{entry + 2}")
    else:
        X = sketch.node("Reshape", [X, reshape], f"{top}flatten0_reshape0")
    weights = [
        sketch.weight(f"{top}dense0_weight", (1000, C), std=math.sqrt(2 / C)),
        sketch.weight(f"{top}dense0_bias", (1000,)),
    ]
    gemm = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    logits = sketch.node("Gemm", [X, *weights], f"{top}dense0_fwd", **gemm)

    model = ModelProto(ir_version=3)
    model.opset_import.add().version = 7
    model.graph.name = GRAPH_NAMES[version]
    model.graph.node.extend(sketch.nodes)
    _draw(model.graph, sketch.weights, np.random.default_rng(seed))
    if version == 2:
        shape = helper.make_tensor(reshape, TensorProto.INT64, [2], [0, -1])
        model.graph.initializer.insert(len(sketch.weights) - 2, shape)
    _declare(model.graph, logits)
    _describe(model, name)
    return model


def _features(sketch: Sketch, top: str, version: int, depth: int) -> tuple[str, int]:
    """Everything before the pooling: the value that comes out, and its number of channels."""
    X = "data"
    if version == 2:
        X = sketch.norm(X, sketch.next(f"{top}batchnorm"), 3)
    X = sketch.conv(X, sketch.next(f"{top}conv"), Conv(3, 64, kernel=7, stride=2))
    X = sketch.norm(X, sketch.next(f"{top}batchnorm"), 64)
    X = sketch.node("Relu", [X], f"{top}relu0_fwd")
    window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]}
    X = sketch.node("MaxPool", [X], f"{top}pool0_fwd", **window)
    C = 64
    for stage, blocks in enumerate(BLOCKS[depth]):
        M = (64 if depth < 50 else 256) << stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            convs = _branch(version, depth, C, M, stride)
            shortcut = Conv(C, M, kernel=1, stride=stride) if C != M else None
            add_block = _block_v1 if version == 1 else _block_v2
            X = add_block(sketch, f"{top}stage{stage + 1}_", X, convs, shortcut)
            C = M
    if version == 2:
        X = sketch.norm(X, sketch.next(f"{top}batchnorm"), C)
        X = sketch.node("Relu", [X], f"{top}relu1_fwd")
    return X, C


def _branch(version: int, depth: int, C: int, M: int, stride: int) -> list[Conv]:
    """The convolutions of a block: two 3x3 up to depth 34, a bottleneck of 1x1, 3x3, 1x1 above."""
    # Every block adds this share of variance, so that the last one sees about e times the first.
    gain = 1 / math.sqrt(sum(BLOCKS[depth]))
    if depth < 50:
        return [Conv(C, M, 3, stride), Conv(M, M, 3, gain=gain)]
    bias = version == 1
    first, second = (stride, 1) if version == 1 else (1, stride)
    return [
        Conv(C, M // 4, 1, first, bias),
        Conv(M // 4, M // 4, 3, second),
        Conv(M // 4, M, 1, 1, bias, gain),
    ]


def _block_v1(sketch: Sketch, scope: str, X: str, convs: list[Conv], shortcut: Conv | None) -> str:
    """Relu(X + norm(conv(… Relu(norm(conv(X)))))), X projected where the channels change."""
    wanted = [*convs, shortcut] if shortcut else convs
    named = [(sketch.next(f"{scope}conv"), sketch.next(f"{scope}batchnorm")) for _ in wanted]

    def add(X: str, index: int) -> str:
        conv_name, norm_name = named[index]
        conv = wanted[index]
        Y = sketch.conv(X, conv_name, conv)
        return sketch.norm(Y, norm_name, conv.M, conv.gain)

    def project() -> str:
        return add(X, len(convs)) if shortcut else X

    # Gluon sums `residual + x` in a basic block and `x + residual` in a bottleneck; MXNet orders
    # the nodes accordingly.
    basic = len(convs) == 2
    residual = project() if basic else ""
    Y = X
    for index in range(len(convs)):
        if index > 0:
            Y = sketch.node("Relu", [Y], sketch.next(f"{scope}relu") + "_fwd")
        Y = add(Y, index)
    terms = [residual, Y] if basic else [Y, project()]
    total = sketch.node("Add", terms, sketch.next(f"{scope}_plus"))
    return sketch.node("Relu", [total], sketch.next(f"{scope}activation"))


def _block_v2(sketch: Sketch, scope: str, X: str, convs: list[Conv], shortcut: Conv | None) -> str:
    """X + conv(Relu(norm(… X))); a projection starts from the first Relu."""
    Y, residual = X, X
    for index, conv in enumerate(convs):
        Y = sketch.norm(Y, sketch.next(f"{scope}batchnorm"), conv.C)
        Y = sketch.node("Relu", [Y], sketch.next(f"{scope}activation"))
        if index == 0 and shortcut:
            residual = Y
        Y = sketch.conv(Y, sketch.next(f"{scope}conv"), conv, conv.gain)
    if shortcut:
        residual = sketch.conv(residual, sketch.next(f"{scope}conv"), shortcut)
    return sketch.node("Add", [Y, residual], sketch.next(f"{scope}_plus"))


def packed_floats(values: np.ndarray[Any, Any]) -> bytes:
    """Numbers as the field `float_data` of a serialized TensorProto.

    To be merged into a tensor by `MergeFromString`, which copies the bytes; `extend` would take one
    Python float after the other.
    """
    data = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)
    return b"".join([wire.tag(4, wire.BYTES), wire.varint(data.size), data.data])


def _draw(graph: GraphProto, weights: list[Weight], random: np.random.Generator) -> None:
    for weight in weights:
        values = random.standard_normal(weight.shape, np.float32)
        values *= np.float32(weight.std)
        values += np.float32(weight.mean)
        tensor = graph.initializer.add()
        tensor.name, tensor.data_type = weight.name, TensorProto.FLOAT
        tensor.dims.extend(weight.shape)
        tensor.MergeFromString(packed_floats(values))


def _declare(graph: GraphProto, logits: str) -> None:
    """List what goes in, the weights too, and what comes out."""
    images: list[str | int | None] = ["N", 3, 224, 224]
    graph.input.append(helper.make_tensor_value_info("data", TensorProto.FLOAT, images))
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
    )
    graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["N", 1000]))


def _describe(model: ModelProto, name: str) -> None:
    model.doc_string = (
        f"UNTRAINED: a sketch of the ONNX Model Zoo's {name}, made by hubtool. The structure is "
        "the real one, the weights are random numbers: what it predicts means nothing."
    )
    helper.set_model_props(model, {UNTRAINED: "true", ZOO: json.dumps(name)})
