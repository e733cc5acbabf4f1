"""Small models built layer by layer, like the families that people have; and a hostile one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hubtool.formats import native
from hubtool.graph import Graph, Layer, Tensor, Value
from hubtool.ops import REQUIRED, lookup

FLOAT, INT64 = 1, 7


class Net:
    """A graph in the making; `last` is the value made last."""

    def __init__(self, seed: int = 0, **inputs: tuple[str, tuple[Any, ...]]) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph(inputs={k: Value("tensor", *given) for k, given in inputs.items()})
        self.last = next(iter(inputs))

    def add(
        self, op: str, inputs: dict[str, Any], name: str = "", outs: int = 1, **attrs: Any
    ) -> str:
        known = lookup(op)
        assert known is not None, op
        defaults = {k: v for k, v in known.attrs.items() if v is not None and v is not REQUIRED}
        name = name or f"{op.lower()}{len(self.graph.layers)}"
        made = [f"{name}_out" if i == 0 else f"{name}_out{i}" for i in range(outs)]
        self.graph.layers.append(Layer(name, op, inputs, made, {**defaults, **attrs}))
        self.last = made[0]
        return self.last

    def weight(self, name: str, *shape: int, low: float = -0.5, high: float = 0.5) -> str:
        return self.tensor(name, self.rng.uniform(low, high, shape).astype(np.float32))

    def tensor(self, name: str, values: Any) -> str:
        self.graph.tensors[name] = Tensor.of(np.asarray(values))
        return name

    def ints(self, *values: int) -> str:
        name = f"ints{len(self.graph.tensors)}"
        return self.tensor(name, np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        return self.tensor(f"scalar{len(self.graph.tensors)}", np.float32(value))

    def conv(self, name: str, shape: tuple[int, ...], bias: bool = False, **attrs: Any) -> str:
        inputs = {"X": self.last, "W": self.weight(f"{name}.weight", *shape)}
        if bias:
            inputs["B"] = self.weight(f"{name}.bias", shape[0])
        return self.add("Conv", inputs, name, **attrs)

    def norm(self, name: str, channels: int) -> str:
        inputs = {
            "X": self.last,
            "scale": self.weight(f"{name}.weight", channels, low=0.5, high=1.5),
            "B": self.weight(f"{name}.bias", channels),
            "input_mean": self.weight(f"{name}.running_mean", channels),
            "input_var": self.weight(f"{name}.running_var", channels, low=0.5, high=2.0),
        }
        return self.add("BatchNormalization", inputs, name)

    def relu(self, name: str = "") -> str:
        return self.add("Relu", {"X": self.last}, name)

    def gemm(self, name: str, inner: int, outer: int) -> str:
        weight, bias = (
            self.weight(f"{name}.weight", outer, inner),
            self.weight(f"{name}.bias", outer),
        )
        return self.add("Gemm", {"A": self.last, "B": weight, "C": bias}, name, transB=1)

    def returns(self, *names: str, shape: tuple[Any, ...] | None = None, **meta: Any) -> Graph:
        for name in names or (self.last,):
            self.graph.outputs[name] = Value("tensor", "float32", shape)
        self.graph.meta = meta
        return self.graph


def residual() -> Graph:
    """Six layers, the smallest residual net."""
    net = Net(data=("float32", ("N", 3, 8, 8)))
    net.conv("stem.conv", (4, 3, 3, 3), pads=[1, 1, 1, 1])
    net.norm("stem.bn", 4)
    stem = net.relu("stem.relu")
    net.conv("block.conv", (4, 4, 3, 3), bias=True, pads=[1, 1, 1, 1])
    net.add("Add", {"A": net.last, "B": stem}, "block.add")
    net.add("GlobalAveragePool", {"X": net.last}, "pool")
    return net.returns(shape=("N", 4, 1, 1), name="tiny")


PREPROCESSING = {
    "channels": "RGB",
    "resize": 10,
    "interpolation": "bilinear",
    "crop": 8,
    "range": [0, 1],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25, 0.2, 0.3],
    "layout": "NCHW",
}


def classifier(**meta: Any) -> Graph:
    """The residual net with a head, its labels and its preprocessing."""
    graph = residual()
    net = Net(data=("float32", ("N", 3, 8, 8)))
    net.graph, net.last = graph, "pool_out"
    graph.outputs = {}
    net.add("Flatten", {"input": net.last}, "flatten")
    net.gemm("fc", 4, 3)
    labels = ["cat", 'the "dog"', "été"]
    return net.returns(
        shape=("N", 3), name="tiny", **{"labels": labels, "preprocessing": PREPROCESSING, **meta}
    )


def digits() -> Graph:
    """What examples/digits.py trains: three residual blocks on 8x8 grey pictures."""
    net = Net(input=("float32", ("N", 1, 8, 8)))
    net.conv("conv", (16, 1, 3, 3), pads=[1, 1, 1, 1])
    net.norm("bn", 16)
    net.relu()
    for i, (before, after, stride) in enumerate([(16, 16, 1), (16, 32, 2), (32, 64, 2)]):
        x = net.last
        net.conv(f"{i}.conv1", (after, before, 3, 3), pads=[1] * 4, strides=[stride] * 2)
        net.norm(f"{i}.bn1", after)
        net.relu()
        net.conv(f"{i}.conv2", (after, after, 3, 3), pads=[1] * 4)
        y = net.norm(f"{i}.bn2", after)
        net.last = x
        if before != after:
            net.conv(f"{i}.short", (after, before, 1, 1), strides=[stride] * 2)
            net.norm(f"{i}.bn3", after)
        net.add("Add", {"A": y, "B": net.last}, f"{i}.add")
        net.relu()
    net.add("GlobalAveragePool", {"X": net.last})
    net.add("Flatten", {"input": net.last})
    net.gemm("fc", 64, 10)
    return net.returns(shape=("N", 10), name="digits")


def mobile() -> Graph:
    """Inverted residuals: depthwise convolutions, relu6, hard swish, squeeze and excite."""
    net = Net(image=("float32", ("batch", 3, 32, 32)))
    net.conv("stem", (8, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER")
    net.norm("stem.bn", 8)
    net.add("HardSwish", {"X": net.last})
    for i in range(2):
        x = net.last
        net.conv(f"{i}/expand", (16, 8, 1, 1), bias=True)
        net.add("Clip", {"input": net.last, "min": net.scalar(0), "max": net.scalar(6)})
        net.conv(f"{i}/depthwise", (16, 1, 3, 3), group=16, pads=[1] * 4)
        y = net.norm(f"{i}/bn", 16)
        net.add("GlobalAveragePool", {"X": y})
        net.conv(f"{i}/squeeze", (4, 16, 1, 1), bias=True)
        net.relu()
        net.conv(f"{i}/excite", (16, 4, 1, 1), bias=True)
        net.add("HardSigmoid", {"X": net.last}, alpha=1 / 6, beta=0.5)
        net.add("Mul", {"A": y, "B": net.last})
        net.conv(f"{i}/project", (8, 16, 1, 1))
        net.norm(f"{i}/bn2", 8)
        net.add("Add", {"A": x, "B": net.last})
    net.add("AveragePool", {"X": net.last}, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    net.add("ReduceMean", {"data": net.last, "axes": net.ints(2, 3)}, keepdims=0)
    net.add("Dropout", {"data": net.last, "ratio": net.scalar(0.2)})
    net.gemm("classifier", 8, 5)
    net.add("Softmax", {"input": net.last}, axis=1)
    return net.returns(shape=("batch", 5), name="mobile")


def dense() -> Graph:
    """Dense blocks: everything before is concatenated; pools with and without padding."""
    net = Net(data=("float32", ("N", 3, 32, 32)))
    net.conv("conv0", (8, 3, 7, 7), strides=[2, 2], pads=[3] * 4)
    net.add("LRN", {"X": net.last}, size=5, alpha=0.1)
    net.add("MaxPool", {"X": net.last}, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    width = 8
    for block in range(2):
        for i in range(2):
            x = net.last
            net.norm(f"b{block}.{i}.bn", width)
            net.relu()
            net.conv(f"b{block}.{i}.conv", (4, width, 3, 3), pads=[1] * 4)
            net.add("Concat", {"inputs": [x, net.last]}, axis=1)
            width += 4
        net.add("LeakyRelu", {"X": net.last}, alpha=0.1)
        net.conv(f"t{block}", (width // 2, width, 1, 1))
        width //= 2
        pool = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 0, 0]}
        net.add("AveragePool", {"X": net.last}, count_include_pad=block, **pool)
    net.norm("last.bn", width)
    net.add("PRelu", {"X": net.last, "slope": net.weight("slope", width, 1, 1)})
    net.add("GlobalMaxPool", {"X": net.last})
    net.add("Squeeze", {"data": net.last, "axes": net.ints(2, 3)})
    net.add("MatMul", {"A": net.last, "B": net.weight("fc.weight", width, 6)})
    net.add("Add", {"A": net.last, "B": net.weight("fc.bias", 6)})
    return net.returns(shape=("N", 6), name="dense")


def style() -> Graph:
    """Style transfer on pictures of any size, with the tail of a super-resolution net."""
    net = Net(x=("float32", ("N", 3, "H", "W")))
    net.add("Pad", {"data": "x", "pads": net.ints(0, 0, 2, 2, 0, 0, 2, 2)}, mode="reflect")
    net.conv("down", (4, 3, 5, 5), bias=True)
    scale, bias = net.weight("in.weight", 4, low=0.5, high=1.5), net.weight("in.bias", 4)
    net.add("InstanceNormalization", {"input": net.last, "scale": scale, "B": bias})
    net.relu()
    kernel = net.weight("up.weight", 4, 4, 3, 3)
    up = {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}
    net.add("ConvTranspose", {"X": net.last, "W": kernel, "B": net.weight("up.bias", 4)}, **up)
    net.add("Tanh", {"input": net.last})
    net.conv("last", (12, 4, 3, 3), pads=[1] * 4)
    net.add("DepthToSpace", {"input": net.last}, blocksize=2, mode="CRD")
    return net.returns(shape=("N", 3, None, None), name="style")


def transformer() -> Graph:
    """One block of an encoder as exporters write it: shapes computed, a mask, two outputs."""
    net = Net(ids=("int64", ("batch", "seq")), mask=("int64", ("batch", "seq")))
    heads, size, width = 2, 4, 8
    net.add("Shape", {"data": "ids"}, "shape")
    seq = net.add("Gather", {"data": "shape_out", "indices": net.tensor("one", np.int64(1))})
    ends = net.add("Unsqueeze", {"data": seq, "axes": net.ints(0)})
    table = net.weight("positions", 64, width)
    slices = {"starts": net.ints(0), "ends": ends, "axes": net.ints(0)}
    places = net.add("Slice", {"data": table, **slices}, "positions/Slice")
    words = net.weight("words", 30, width)
    net.add("Gather", {"data": words, "indices": "ids"}, "embeddings/words")
    net.add("Add", {"A": net.last, "B": places}, "embeddings/add")
    bounds = {"start": net.tensor("zero", np.int64(0)), "limit": seq, "delta": "one"}
    counted = net.add("Range", bounds)
    kinds = net.weight("kinds", 80, width)
    kinds = net.add("Gather", {"data": kinds, "indices": counted}, "embeddings/kinds")
    net.add("Add", {"A": "embeddings/add_out", "B": kinds}, "embeddings/sum")

    def layer_norm(name: str) -> str:
        scale = net.weight(f"{name}.gamma", width, low=0.5, high=1.5)
        inputs = {"X": net.last, "Scale": scale, "B": net.weight(f"{name}.beta", width)}
        return net.add("LayerNormalization", inputs, name)

    def linear(name: str, x: str, inner: int, outer: int) -> str:
        net.add("MatMul", {"A": x, "B": net.weight(f"{name}.weight", inner, outer)}, name)
        return net.add(
            "Add", {"A": net.weight(f"{name}.bias", outer), "B": net.last}, f"{name}/bias"
        )

    x = layer_norm("embeddings/norm")
    batch = net.add("Gather", {"data": "shape_out", "indices": "zero"})
    parts = [net.add("Unsqueeze", {"data": d, "axes": net.ints(0)}) for d in (batch, seq)]
    apart = net.add("Concat", {"inputs": [*parts, net.ints(heads), net.ints(size)]}, axis=0)
    turned = []
    for name, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        y = linear(f"layer.0/{name}", x, width, width)
        y = net.add("Reshape", {"data": y, "shape": apart})
        turned.append(net.add("Transpose", {"data": y}, perm=perm))
    scores = net.add("MatMul", {"A": turned[0], "B": turned[1]}, "layer.0/scores")
    scores = net.add("Div", {"A": scores, "B": net.scalar(2.0)})
    mask = net.add("Unsqueeze", {"data": "mask", "axes": net.ints(1, 2)})
    mask = net.add("Cast", {"input": mask}, to=FLOAT)
    mask = net.add("Sub", {"A": net.scalar(1.0), "B": mask})
    mask = net.add("Mul", {"A": mask, "B": net.scalar(-10000.0)})
    zeros = net.add("ConstantOfShape", {"input": "shape_out"})
    zeros = net.add("Unsqueeze", {"data": zeros, "axes": net.ints(1, 2)})
    mask = net.add("Add", {"A": mask, "B": zeros})
    net.add("Add", {"A": scores, "B": mask})
    net.add("Softmax", {"input": net.last})
    net.add("MatMul", {"A": net.last, "B": turned[2]}, "layer.0/context")
    net.add("Transpose", {"data": net.last}, perm=[0, 2, 1, 3])
    net.add("Reshape", {"data": net.last, "shape": net.ints(0, -1, width)})
    y = linear("layer.0/out", net.last, width, width)
    net.add("Add", {"A": x, "B": y}, "layer.0/residual")
    x = layer_norm("layer.0/norm")
    y = linear("layer.0/up", x, width, 16)
    erf = net.add("Div", {"A": y, "B": net.scalar(1.4142135)})
    erf = net.add("Erf", {"input": erf})
    erf = net.add("Add", {"A": erf, "B": net.scalar(1.0)})
    net.add("Mul", {"A": y, "B": erf})
    net.add("Mul", {"A": net.last, "B": net.scalar(0.5)})
    y = linear("layer.0/down", net.last, 16, width)
    hidden = net.add("Add", {"A": x, "B": y}, "layer.0/add")
    net.add("Gather", {"data": hidden, "indices": "zero"}, "pooler/first", axis=1)
    net.gemm("pooler/dense", width, width)
    pooled = net.add("Tanh", {"input": net.last}, "pooler/tanh")
    return net.returns(hidden, pooled, name="transformer")


def fused() -> Graph:
    """What ONNX Runtime's optimiser leaves in a file, and what onnx's own cases do not show."""
    net = Net(x=("float32", ("N", 3, 8, 8)))
    first = net.conv("first", (4, 3, 1, 1))
    wide = {"pads": [1] * 4}
    for name, activation, params in (
        ("one", "Relu", []),
        ("two", "LeakyRelu", [0.2]),
        ("three", "Clip", [-0.5, 0.75]),
        ("four", "HardSigmoid", [0.3, 0.4]),
    ):
        inputs = {"X": net.last, "W": net.weight(f"{name}.weight", 4, 4, 3, 3)}
        inputs |= {"Z": first} if name in ("one", "three") else {}
        given = {"activation": activation, "activation_params": params, **wide}
        net.add("com.microsoft.FusedConv", inputs, name, **given)
    net.add("CastLike", {"input": net.last, "target_type": "x"})
    net.add("GlobalLpPool", {"X": net.last}, p=3)
    return net.returns(shape=("N", 4, 1, 1), name="fused")


FAMILIES = {
    "classifier": classifier,
    "dense": dense,
    "digits": digits,
    "fused": fused,
    "mobile": mobile,
    "residual": residual,
    "style": style,
    "transformer": transformer,
}


def saved(graph: Graph, folder: Path) -> list[dict[str, Any]]:
    """Store the graph as a folder, and what its weights files are."""
    native.write(graph, folder)
    weights: list[dict[str, Any]] = json.loads((folder / "graph.json").read_text())["weights"]
    return weights
