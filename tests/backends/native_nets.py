"""Nets for the engine's tests, computed as they grow, so that every shape is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from passes.builders import layer

from hubtool.graph import Graph, Tensor, Value
from hubtool.interpreter import HOST, Context
from hubtool.ops import lookup

Array = np.ndarray[Any, Any]
CTX = Context(HOST, (True,))


def ints(numbers: Any) -> Array:
    return np.asarray(numbers, np.int64)


def singles(numbers: Any) -> Array:
    return np.asarray(numbers, np.float32)


class Net:
    """A graph in the making, computed as it grows, so that all shapes are known."""

    def __init__(self, seed: int = 0, **inputs: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph()
        self.arrays: dict[str, Array] = {}
        for name, shape in inputs.items():
            self.arrays[name] = self.rng.normal(size=shape).astype(np.float32)
            self.graph.inputs[name] = Value("tensor", "float32", shape)
        self.last = next(iter(inputs))

    def weight(self, *shape: int, scale: float = 0.3) -> str:
        return self.constant(self.rng.normal(size=shape, scale=scale).astype(np.float32))

    def constant(self, array: Any) -> str:
        name = f"w{len(self.graph.tensors)}"
        self.arrays[name] = np.asarray(array)
        self.graph.tensors[name] = Tensor.of(self.arrays[name])
        return name

    def add(self, op: str, inputs: dict[str, Any], **attrs: Any) -> str:
        y = f"{op.rpartition('.')[2].lower()}{len(self.graph.layers)}"
        made = layer(op, inputs, y, **attrs)
        known = lookup(op)
        assert known is not None
        args: list[Any] = []
        for formal in known.inputs:
            given = inputs.get(formal.name)
            listed = given if isinstance(given, list) else [given]
            args += [None if name is None else self.arrays[name] for name in listed]
        with np.errstate(all="ignore"):
            result = known.function(CTX, *args, **made.attrs)
        array = np.asarray(result[0] if isinstance(result, tuple) else result, np.float32)
        self.arrays[y] = array
        self.graph.layers.append(made)
        self.graph.values[y] = Value("tensor", "float32", array.shape)
        self.last = y
        return y

    def conv(self, M: int, k: int = 3, x: str = "", bias: bool = True, **attrs: Any) -> str:
        x = x or self.last
        shape = self.arrays[x].shape
        rank, group = len(shape) - 2, attrs.get("group", 1)
        attrs.setdefault("pads", [k // 2] * (2 * rank) if "auto_pad" not in attrs else None)
        W = self.weight(M, shape[1] // group, *(k,) * rank)
        inputs = {"X": x, "W": W, **({"B": self.weight(M)} if bias else {})}
        return self.add("Conv", inputs, **{k: v for k, v in attrs.items() if v is not None})

    def norm(self) -> str:
        C = self.arrays[self.last].shape[1]
        names = {name: self.weight(C) for name in ("scale", "B", "input_mean")}
        var = self.constant(self.rng.uniform(0.5, 2, C).astype(np.float32))
        return self.add("BatchNormalization", {"X": self.last, **names, "input_var": var})

    def one(self, op: str, formal: str = "X", **attrs: Any) -> str:
        return self.add(op, {formal: self.last}, **attrs)

    def two(self, op: str, a: str, b: str) -> str:
        return self.add(op, {"A": a, "B": b})

    def concat(self, *names: str, axis: int = 1) -> str:
        return self.add("Concat", {"inputs": [*names]}, axis=axis)

    def returns(self, *names: str) -> Net:
        for name in names or (self.last,):
            self.graph.outputs[name] = Value("tensor", "float32", self.arrays[name].shape)
        return self


def resnet(blocks: tuple[int, ...] = (3, 4, 6, 3), size: int = 64, width: int = 64) -> Net:
    """ResNet with bottlenecks: 50 layers by default."""
    net = Net(0, data=(1, 3, size, size))
    net.conv(width, 7, strides=[2, 2])
    net.one("Relu")
    net.one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, count in enumerate(blocks):
        for block in range(count):
            x, M = net.last, width * 2**stage
            stride = 2 if stage and not block else 1
            net.conv(M, 1, strides=[stride, stride])
            net.one("Relu")
            net.conv(M, 3)
            net.one("Relu")
            y = net.conv(4 * M, 1)
            if not block:
                x = net.conv(4 * M, 1, x=x, strides=[stride, stride])
            net.two("Add", y, x)
            net.one("Relu")
    net.one("GlobalAveragePool")
    net.one("Flatten", "input")
    B, C = net.weight(net.arrays[net.last].shape[1], 10), net.weight(10)
    net.add("Gemm", {"A": net.last, "B": B, "C": C})
    return net.returns()


def random_net(seed: int) -> Net:
    """Convolutions of all kinds, pools, skips, concats, gates, one after another, drawn at random;
    three outputs. Every sixth is of lines."""
    rng = np.random.default_rng(1000 + seed)
    rank = 1 if seed % 6 == 5 else 2
    sizes = tuple(int(d) for d in rng.integers(5, 12, size=rank))
    first = (int(rng.integers(1, 3)), int(rng.choice([3, 4, 16, 20, 32])), *sizes)
    net = Net(seed, data=first, more=(1, 16, *sizes))
    seen = ["data", "more"]
    for _ in range(14):
        net.last = str(rng.choice(seen[-4:]))
        draw_layer(net, rng, seen)
        seen.append(net.last)
    net.returns(*dict.fromkeys([net.last, seen[-3], seen[6]]))
    read = {name for each in net.graph.layers for name in each.reads()}
    for name in {*net.graph.inputs} - read - {*net.graph.outputs}:
        del net.graph.inputs[name]
    return net


def draw_layer(net: Net, rng: np.random.Generator, seen: list[str]) -> None:
    """Add a layer, or a few, behind `net.last`."""
    x, shape = net.last, net.arrays[net.last].shape
    rank, M = len(shape) - 2, int(rng.choice([4, 16, 24, 32]))
    same = [y for y in seen if net.arrays[y].shape == shape]
    beside = [y for y in seen if net.arrays[y][:, 0].shape == net.arrays[x][:, 0].shape]
    forms = [(1,), (shape[1], *(1,) * rank), (1, 1, *shape[2:]), shape]
    three: dict[str, Any] = {
        "kernel_shape": [3] * rank,
        "strides": [1] * rank,
        "pads": [1] * (2 * rank),
    }
    acts = ["Relu", "Sigmoid", "HardSwish", "Softplus", "Mish", "Elu", "LeakyRelu", "Neg"]
    even = shape[1] + shape[1] % 2

    def gate() -> None:
        net.one("GlobalAveragePool")
        net.two("Mul", x, net.one("Sigmoid"))

    steps: dict[str, Callable[[], Any]] = {
        "conv": lambda: net.conv(M, int(rng.choice([1, 3])), bias=bool(rng.integers(2))),
        "down": lambda: net.conv(M, 3, strides=[2] * rank),
        "wide": lambda: net.conv(M, 3, dilations=[2] * rank, pads=[2] * (2 * rank)),
        "deep": lambda: net.conv(shape[1], 3, group=shape[1], auto_pad="SAME_LOWER"),
        "grouped": lambda: net.conv(even, 3, group=1 if shape[1] % 2 else 2),
        "act": lambda: net.one(str(rng.choice(acts))),
        "norm": net.norm,
        "skip": lambda: net.two(str(rng.choice(["Add", "Mul", "Sub"])), x, str(rng.choice(same))),
        "concat": lambda: net.concat(x, *(str(y) for y in rng.choice(beside, size=2))),
        "pool": lambda: net.one(str(rng.choice(["MaxPool", "AveragePool"])), **three),
        "scale": lambda: net.two("Add", x, net.weight(*forms[int(rng.integers(4))])),
        "gate": gate,
    }
    steps[str(rng.choice([*steps, "conv", "conv", "act"]))]()
