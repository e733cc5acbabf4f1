"""Which graph is a ResNet of transformers: read off its wiring, never off its names.

    stem    Conv 7x7/2 ─ BN ─ act ─ MaxPool 3x3/2
    block   x ─┬─ Conv 3x3 ─ BN ─ Relu ─ Conv 3x3 ─ BN ───────────────────────┬─ Add ─ act
               │    or Conv 1x1 ─ BN ─ Relu ─ Conv 3x3 ─ BN ─ Relu ─ Conv 1x1 ─ BN
               └─ x itself, or Conv 1x1 ─ BN where channels or size change ───┘
    head    mean over the picture ─ flatten ─ dense

transformers builds its ResNet from a few numbers, so a graph either is what such numbers build or
does not fit; there is nothing between. The walk goes along the wires from the input to the output
and compares; `transformers_layers` reads the single layers, `transformers_stages` finds the
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hubtool.errors import UnsupportedError
from hubtool.formats.transformers_layers import MEANS, Stop, Unit, Walk, ints, pads
from hubtool.formats.transformers_stages import KERNELS, Block, named, stages
from hubtool.graph import Graph, Layer, Tensor
from hubtool.passes.drop_noops import drop_noops
from hubtool.passes.fold_constants import fold_constants
from hubtool.passes.prune import prune
from hubtool.passes.rewriting import constant

__all__ = ["ResNet", "resnet"]

Array = np.ndarray[Any, Any]

ADDITIONS = ("Add", "Sum")
RESHAPES = ("Flatten", "Reshape", "Squeeze")


@dataclass(frozen=True)
class ResNet:
    """What transformers needs to build the net again: the part of its `ResNetConfig` that says
    how, and the weights under its own names."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]


def resnet(graph: Graph) -> ResNet:
    """The graph as a ResNet of transformers. Raises UnsupportedError with every reason why not."""
    walk = Walk(prune(drop_noops(fold_constants(graph))))
    found = None
    try:
        found = _net(walk)
    except Stop:
        assert walk.problems
    if found is None or walk.problems:
        raise UnsupportedError(
            f"'{graph.meta.get('name', 'the model')}' is no ResNet that transformers can build:",
            problems=walk.problems,
            hint="Export it as ONNX or for Axon: those can say other topologies.",
        )
    return found


def _net(walk: Walk) -> ResNet:
    stem, x = _stem(walk)
    blocks: list[Block] = []
    while not _at_head(walk, x):
        block, x = _block(walk, x)
        blocks.append(block)
    if not blocks:
        raise walk.stop(walk.only(x), "no residual block stands before it")
    weight, bias = _head(walk, walk.only(x), blocks[-1].channels)
    config = {
        "num_channels": stem.channels[0],
        "embedding_size": stem.channels[1],
        **stages(blocks, stem.channels[1], walk.note),
        "hidden_act": walk.hidden_act,
    }
    units = {"resnet.embedder.embedder": stem, **named(blocks, config["depths"])}
    tensors = {
        f"{prefix}.{name}": tensor
        for prefix, unit in units.items()
        for name, tensor in unit.tensors.items()
    }
    tensors["classifier.1.weight"] = Tensor.of(weight.astype(np.float32))
    tensors["classifier.1.bias"] = Tensor.of(bias.astype(np.float32))
    return ResNet(config, tensors)


def _stem(walk: Walk) -> tuple[Unit, str]:
    """The first convolution, and the value that the pooling after it makes."""
    graph = walk.graph
    names = [*graph.free_inputs]
    if len(names) != 1 or len(graph.outputs) != 1:
        walk.problems.append(
            f"it has {len(names)} inputs and {len(graph.outputs)} outputs; transformers' ResNet "
            "takes pictures and gives logits"
        )
        raise Stop
    stem = walk.unit(walk.only(names[0]))
    if (stem.kernel, stem.stride) != (7, 2):
        walk.note(
            stem.conv,
            f"the stem is a convolution of {stem.kernel}x{stem.kernel} with stride {stem.stride}, "
            "and transformers' is 7x7 with stride 2",
        )
    pool = walk.only(walk.activated(walk.only(stem.output)))
    if pool.op != "MaxPool":
        raise walk.stop(pool, "stands where transformers' ResNet has the MaxPool of the stem")
    shape = {
        "kernel_shape": ints(pool, "kernel_shape", []),
        "strides": ints(pool, "strides", [1, 1]),
        "pads": pads(pool, 3),
        "dilations": ints(pool, "dilations", [1, 1]),
        "ceil_mode": pool.attrs["ceil_mode"],
    }
    if [*shape.values()] != [[3, 3], [2, 2], [1] * 4, [1, 1], 0]:
        shown = ", ".join(f"{key} {value!r}" for key, value in shape.items())
        walk.note(pool, f"has {shown}, and transformers' stem pools 3x3 with strides 2, pads 1")
    return stem, pool.outputs[0]


def _block(walk: Walk, x: str) -> tuple[Block, str]:
    """The residual block that begins at x, and the value that it makes."""
    readers = walk.readers(x)
    if len(readers) != 2:
        raise _unbranched(walk, x, readers)
    (first, end), (second, other) = (_branch(walk, layer) for layer in readers)
    if end is not other or len([*end.reads()]) != 2:
        raise walk.stop(end, "adds something other than the two branches of a block")
    shortcut, main = sorted((first, second), key=len)
    kernels = [unit.kernel for unit in main]
    if kernels not in KERNELS.values() or len(shortcut) > 1:
        shown = " and ".join(
            ", ".join(f"{unit.kernel}x{unit.kernel}" for unit in branch) or "nothing"
            for branch in (main, shortcut)
        )
        raise walk.stop(
            end,
            f"adds branches of {shown}; in transformers' ResNet one is 3x3, 3x3 or 1x1, 3x3, 1x1 "
            "and the other nothing or 1x1",
        )
    block = Block(main, shortcut[0] if shortcut else None)
    return block, walk.activated(walk.only(end.outputs[0]))


def _unbranched(walk: Walk, x: str, readers: Sequence[Layer]) -> Stop:
    """Not exactly two layers read the value at which a block should begin."""
    if len(readers) != 1:
        return walk.forked(x, readers)
    if readers[0].op in ("BatchNormalization", "Conv"):
        walk.unit(readers[0])
    return walk.stop(readers[0], "no shortcut goes around it, as it does in a residual block")


def _branch(walk: Walk, layer: Layer) -> tuple[list[Unit], Layer]:
    """The convolutions from this layer on, and the addition to which they lead."""
    units: list[Unit] = []
    while layer.op not in ADDITIONS:
        units.append(walk.unit(layer))
        following = walk.only(units[-1].output)
        if following.op in ADDITIONS:
            return units, following
        layer = walk.only(walk.activated(following, inside=True))
        if layer.op in ADDITIONS:
            walk.note(following, "activates before the addition, transformers' ResNet after it")
    return units, layer


def _at_head(walk: Walk, x: str) -> bool:
    readers = walk.readers(x)
    return len(readers) == 1 and readers[0].op in MEANS


def _head(walk: Walk, mean: Layer, channels: int) -> tuple[Array, Array]:
    """The weight [classes, channels] and the bias of the dense layer at the end.

    Any reshape before it is a flatten: of [N, C, 1, 1] only [N, C] can be multiplied by [C, K].
    """
    if mean.op == "ReduceMean" and not _over_picture(walk.graph, mean):
        raise walk.stop(mean, "does not take the mean over height and width")
    x = mean.outputs[0]
    layer = walk.only(x)
    while layer.op in RESHAPES:
        x = layer.outputs[0]
        layer = walk.only(x)
    dense = {"Gemm": _gemm, "MatMul": _matmul}.get(layer.op)
    if dense is None:
        raise walk.stop(layer, "stands where transformers' ResNet has its dense layer")
    weight, bias, y = dense(walk, layer, x, channels)
    for following in walk.readers(y):
        softmax = following.op in ("Softmax", "LogSoftmax")
        walk.note(
            following,
            "makes probabilities, and transformers' model gives logits: take it off first"
            if softmax
            else "stands behind the dense layer, with which transformers' ResNet ends",
        )
    return weight, bias


def _over_picture(graph: Graph, mean: Layer) -> bool:
    axes = constant(graph, mean.inputs.get("axes"))
    return axes is not None and {axis % 4 for axis in axes.array.reshape(-1).tolist()} == {2, 3}


def _gemm(walk: Walk, layer: Layer, x: str, channels: int) -> tuple[Array, Array, str]:
    W, transB = walk.weight(layer, "B"), bool(layer.attrs["transB"])
    plain = layer.inputs["A"] == x and layer.attrs["transA"] == 0
    if W is None or not plain or W.shape[int(transB)] != channels:
        raise walk.stop(layer, f"is no dense layer of plain weights on {channels} channels")
    alpha, beta = layer.attrs["alpha"], layer.attrs["beta"]
    assert isinstance(alpha, float) and isinstance(beta, float)
    weight = (W.array if transB else W.array.T) * np.float64(alpha)
    bias = walk.vector(layer, "C", len(weight)) if "C" in layer.inputs else np.zeros(len(weight))
    return weight, bias * beta, layer.outputs[0]


def _matmul(walk: Walk, layer: Layer, x: str, channels: int) -> tuple[Array, Array, str]:
    """A MatMul, and the bias that an Add may add to it."""
    W = walk.weight(layer, "B")
    (rows,) = (value.shape for value in walk.graph.outputs.values())
    if W is None or len(W.shape) != 2 or W.shape[0] != channels or rows is None or len(rows) != 2:
        raise walk.stop(layer, f"is no dense layer of plain weights on {channels} channels")
    weight, y = W.array.T, layer.outputs[0]
    readers = walk.readers(y)
    if len(readers) != 1 or readers[0].op != "Add":
        return weight, np.zeros(len(weight)), y
    formal = "B" if readers[0].inputs["A"] == y else "A"
    return weight, walk.vector(readers[0], formal, len(weight)), readers[0].outputs[0]
