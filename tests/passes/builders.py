"""Small graphs built by hand, layer after layer, with the shapes that an import would know."""

from __future__ import annotations

from typing import Any

import numpy as np

from hubtool.graph import Graph, Layer, Tensor, Value
from hubtool.interpreter import HOST, Program
from hubtool.ops import REQUIRED, lookup

N, C, H, W = 2, 4, 6, 6


def layer(op: str, inputs: dict[str, Any], *outputs: str, name: str = "", **attrs: Any) -> Layer:
    """A layer with every default of its operator written out, as a reader makes it."""
    known = lookup(op)
    assert known is not None, op
    defaults = {k: v for k, v in known.attrs.items() if v is not None and v is not REQUIRED}
    return Layer(name or f"layer_{outputs[0]}", op, inputs, [*outputs], {**defaults, **attrs})


def tensor(shape: tuple[int, ...], seed: int, dtype: str = "float32") -> Tensor:
    """Normal random numbers, the same for the same seed."""
    return Tensor.of(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def floats(*shape: int | str | None) -> Value:
    return Value("tensor", "float32", shape)


def run(graph: Graph, seed: int = 0) -> dict[str, Any]:
    """The graph's outputs on the generic numpy interpreter, for random inputs."""
    rng = np.random.default_rng(seed)
    sizes = {"N": N}
    feeds = {}
    for name, value in graph.free_inputs.items():
        assert value.shape is not None
        shape = [dim if isinstance(dim, int) else sizes[str(dim)] for dim in value.shape]
        feeds[name] = rng.normal(size=shape).astype(value.dtype)
    return Program(graph, HOST).run(feeds)


class Net:
    """A graph in the making; every value is [N, C, H, W]."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph(inputs={"data": floats("N", C, H, W)})
        self.last = "data"

    def weight(self, wish: str, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        name = f"{wish}{len(self.graph.tensors)}"
        array = self.rng.uniform(low, high, shape).astype(np.float32)
        self.graph.tensors[name] = Tensor.of(array)
        return name

    def add(self, op: str, inputs: dict[str, Any], *more: str, **attrs: Any) -> str:
        y = f"{op.lower()}{len(self.graph.layers)}"
        self.graph.layers.append(layer(op, inputs, y, *more, name=f"{y}_layer", **attrs))
        self.graph.values[y] = floats("N", C, H, W)
        self.last = y
        return y

    def conv(self, *, bias: bool = False, kernel: str = "", group: int = 1) -> str:
        kernel = kernel or self.weight("kernel", C, C // group, 3, 3)
        inputs = {"X": self.last, "W": kernel}
        if bias:
            inputs["B"] = self.weight("bias", C)
        return self.add("Conv", inputs, pads=[1, 1, 1, 1], group=group)

    def batch_norm(self) -> str:
        return self.add(
            "BatchNormalization",
            {
                "X": self.last,
                "scale": self.weight("gamma", C),
                "B": self.weight("beta", C),
                "input_mean": self.weight("mean", C),
                "input_var": self.weight("var", C, low=0.2, high=2.0),
            },
        )

    def relu(self) -> str:
        return self.add("Relu", {"X": self.last})

    def plus(self, other: str) -> str:
        return self.add("Add", {"A": other, "B": self.last})

    def returns(self, *names: str) -> Graph:
        self.graph.outputs = {name: floats("N", C, H, W) for name in names or (self.last,)}
        return self.graph


def residual_net() -> Graph:
    """Two residual blocks: batch norms, biases, a dropout, an identity, a shared kernel."""
    net = Net()
    net.add("Identity", {"input": "data"})
    net.conv(bias=True)
    net.batch_norm()
    stem = net.relu()
    shared = net.weight("shared", C, C, 3, 3)
    net.conv(kernel=shared)
    net.batch_norm()
    net.relu()
    net.add("Dropout", {"data": net.last})
    net.conv(kernel=shared, bias=True)
    net.batch_norm()
    net.plus(stem)
    block = net.relu()
    net.conv(group=2)
    net.batch_norm()
    net.add("LeakyRelu", {"X": net.last}, alpha=0.3)
    net.plus(block)
    net.add("Identity", {"input": net.last})
    return net.returns()


def random_net(seed: int) -> Graph:
    """A chain of layers drawn at random, with skips, shared kernels and layers that do nothing."""
    net = Net(seed)
    seen = ["data"]
    kernels = [net.weight("kernel", C, C, 3, 3)]
    steps = {
        "conv": lambda: net.conv(bias=bool(net.rng.integers(2))),
        "shared": lambda: net.conv(kernel=kernels[0]),
        "norm": net.batch_norm,
        "relu": net.relu,
        "skip": lambda: net.plus(seen[net.rng.integers(len(seen))]),
        "identity": lambda: net.add("Identity", {"input": net.last}),
        "dropout": lambda: net.add("Dropout", {"data": net.last}),
        "cast": lambda: net.add("Cast", {"input": net.last}, to=1),
        "constant": lambda: _constant(net),
    }
    likely = [*steps, *["conv", "norm", "relu"] * 2]
    for name in net.rng.choice(likely, size=12):
        seen.append(steps[name]())
    return net.returns(seen[-1], *(name for name in {seen[3]} if name not in ("data", seen[-1])))


def _constant(net: Net) -> str:
    """Add something that is computed from a weight."""
    x = net.last
    shift = net.add("Neg", {"X": net.weight("shift", C, 1, 1)})
    net.graph.values[shift] = floats(C, 1, 1)
    return net.add("Add", {"A": x, "B": shift})
