"""Networks of four families with generated weights, as ONNX files: what the engine is measured on
besides the ResNets.

The structures are the published ones; the weights are drawn from a seed, since none are at hand and
a time does not depend on them. They are scaled as He et al. scale them (variance 2 / fan-in,
arXiv:1502.01852) and each BatchNormalization has statistics near those of what it meets, so that
nothing grows without bound or dies out, and results can be compared.

    net("mobilenet-v2")      depthwise convolutions, Clip, residual sums   arXiv:1801.04381
    net("vgg16")             3x3 convolutions, large matrix products       arXiv:1409.1556
    net("densenet121")       normalized before each Conv, Concat           arXiv:1608.06993
    net("squeezenet1.1")     1x1 convolutions and 3x3 side by side         arXiv:1602.07360

VGG-16's two hidden layers after the convolutions have 512 units and not 4,096: those 400 MB are
all that it would be about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

__all__ = ["NETS", "net"]

OPSET, IR = 17, 8
HIDDEN = 512


class Net:
    """A network that grows node by node; `channels` remembers how many each value has."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.tensors: list[TensorProto] = []
        self.channels = {"data": 3}

    def tensor(self, shape: Sequence[int], mean: float = 0.0, std: float = 0.1) -> str:
        """A weight: normal, of this mean and standard deviation."""
        values = self.random.standard_normal(shape, np.float32) * np.float32(std)
        name = f"weight{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(values + np.float32(mean), name))
        return name

    def node(self, op: str, inputs: Sequence[str], channels: int = 0, **attrs: Any) -> str:
        """A node; its output has as many channels as its first input where none are said."""
        output = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attrs))
        self.channels[output] = channels or self.channels[inputs[0]]
        return output

    def conv(
        self,
        X: str,
        M: int,
        kernel: int,
        stride: int = 1,
        pad: int | None = None,
        group: int = 1,
        bias: bool = False,
        gain: float = 1.0,
    ) -> str:
        """A convolution to M channels, padded so that stride 1 keeps the size."""
        shape = (M, self.channels[X] // group, kernel, kernel)
        inputs = [X, self.tensor(shape, std=gain * math.sqrt(2 / math.prod(shape[1:])))]
        if bias:
            inputs.append(self.tensor((M,)))
        return self.node(
            "Conv",
            inputs,
            M,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2 if pad is None else pad] * 4,
            group=group,
        )

    def norm(self, X: str, gain: float = 1.0) -> str:
        C = (self.channels[X],)
        scale, shift = self.tensor(C, gain, 0.1 * gain), self.tensor(C)
        statistics = [self.tensor(C), self.constant(self.random.uniform(0.8, 1.2, C))]
        return self.node("BatchNormalization", [X, scale, shift, *statistics], epsilon=1e-5)

    def constant(self, value: Any) -> str:
        name = f"weight{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def relu(self, X: str) -> str:
        return self.node("Relu", [X])

    def pool(self, X: str, kind: str, kernel: int, stride: int) -> str:
        return self.node(f"{kind}Pool", [X], kernel_shape=[kernel] * 2, strides=[stride] * 2)

    def mean(self, X: str) -> str:
        """[N,C,H,W] to [N,C]."""
        return self.node("Flatten", [self.node("GlobalAveragePool", [X])])

    def dense(self, X: str, units: int) -> str:
        C = self.channels[X]
        weights = [self.tensor((units, C), std=math.sqrt(2 / C)), self.tensor((units,))]
        return self.node("Gemm", [X, *weights], units, transB=1)

    def model(self, name: str, logits: str) -> ModelProto:
        data = helper.make_tensor_value_info(
            "data", TensorProto.FLOAT, ["N", 3, self.size, self.size]
        )
        made = helper.make_tensor_value_info(
            logits, TensorProto.FLOAT, ["N", self.channels[logits]]
        )
        graph = helper.make_graph(self.nodes, name, [data], [made], self.tensors)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR)
        model.doc_string = f"UNTRAINED: the structure of {name} with random weights."
        return model


def mobilenet_v2(net: Net) -> str:
    """Blocks of 1x1 up, 3x3 depthwise, 1x1 down; a sum where the shape stays."""
    low, high = net.constant(0), net.constant(6)

    def block(X: str, M: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        return net.node("Clip", [net.norm(net.conv(X, M, kernel, stride, group=group)), low, high])

    X = block("data", 32, 3, 2)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
    for factor, M, times, first in (*table, (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for count in range(times):
            stride = first if count == 0 else 1
            C = net.channels[X]
            wide = block(X, factor * C, 1) if factor > 1 else X
            deep = block(wide, net.channels[wide], 3, stride, net.channels[wide])
            adds = stride == 1 and M == C
            down = net.norm(net.conv(deep, M, 1), 0.5 if adds else 1.0)
            X = net.node("Add", [X, down]) if adds else down
    return net.dense(net.mean(block(X, 1280, 1)), 1000)


def vgg16(net: Net) -> str:
    X = "data"
    for M, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(times):
            X = net.relu(net.conv(X, M, 3, bias=True))
        X = net.pool(X, "Max", 2, 2)
    X = net.node("Flatten", [X], 512 * (net.size // 32) ** 2)
    for _ in range(2):
        X = net.relu(net.dense(X, HIDDEN))
    return net.dense(X, 1000)


def densenet121(net: Net) -> str:
    """Every layer reads all that the layers of its block before it have made."""
    X = net.relu(net.norm(net.conv("data", 64, 7, 2)))
    X = net.node("MaxPool", [X], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for number, layers in enumerate((6, 12, 24, 16)):
        if number:
            X = net.conv(net.relu(net.norm(X)), net.channels[X] // 2, 1)
            X = net.pool(X, "Average", 2, 2)
        for _ in range(layers):
            Y = net.conv(net.relu(net.norm(X)), 128, 1)
            Y = net.conv(net.relu(net.norm(Y)), 32, 3)
            X = net.node("Concat", [X, Y], net.channels[X] + 32, axis=1)
    return net.dense(net.mean(net.relu(net.norm(X))), 1000)


def squeezenet(net: Net) -> str:
    """Fires: 1x1 down, then 1x1 and 3x3 up side by side."""

    def act(X: str, M: int, kernel: int, stride: int = 1, pad: int | None = None) -> str:
        return net.relu(net.conv(X, M, kernel, stride, pad, bias=True))

    X = act("data", 64, 3, 2, pad=0)
    for number, M in enumerate((64, 64, 128, 128, 192, 192, 256, 256)):
        if number in (0, 2, 4):
            X = net.pool(X, "Max", 3, 2)
        down = act(X, M // 4, 1)
        X = net.node("Concat", [act(down, M, 1), act(down, M, 3)], 2 * M, axis=1)
    return net.mean(act(X, 1000, 1))


NETS: dict[str, Callable[[Net], str]] = {
    "mobilenet-v2": mobilenet_v2,
    "vgg16": vgg16,
    "densenet121": densenet121,
    "squeezenet1.1": squeezenet,
}
"""Name -> what adds the network to a Net and returns the name of its logits."""


def net(name: str, size: int = 224, seed: int = 0) -> ModelProto:
    """The network of that name for pictures of this size, of which any number is taken at once."""
    drawn = Net(size, seed)
    return drawn.model(name, NETS[name](drawn))
