"""Layers with all the attributes that make windows hard, and a graph around one of them."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from passes.builders import layer

from hubtool.graph import Graph, Tensor, Value
from hubtool.interpreter import HOST, Program

Array = np.ndarray[Any, Any]


def draw(*shape: int, seed: int = 0, dtype: str = "float32") -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def alone(op: str, inputs: dict[str, Array], *, outputs: int = 1, **attrs: Any) -> Graph:
    """The graph of one layer: its first input is fed under its own name, the others are weights."""
    names = [f"y{index}" for index in range(outputs)]
    (first, array), *weights = inputs.items()
    return Graph(
        layers=[layer(op, {formal: formal for formal in inputs}, *names, **attrs)],
        inputs={first: Value("tensor", array.dtype.name, array.shape)},
        outputs={name: Value("tensor", "", None) for name in names},
        tensors={formal: Tensor.of(weight) for formal, weight in weights},
    )


def defined(graph: Graph, feeds: dict[str, Array]) -> dict[str, Array]:
    """What hubtool.ops says, in plain numpy."""
    return Program(graph, HOST).run(feeds)


def assert_close(given: dict[str, Array], wanted: dict[str, Array], tolerance: float) -> None:
    """Within the tolerance of the largest value; infinite in the same places."""
    assert [*given] == [*wanted]
    for name, value in wanted.items():
        assert given[name].dtype == value.dtype
        assert given[name].shape == value.shape
        scale = np.abs(value[np.isfinite(value)]).max(initial=0)
        np.testing.assert_allclose(given[name], value, rtol=0, atol=tolerance * scale)


def _conv(rank: int, size: int, kernel: int, M: int, group: int, bias: bool, **attrs: Any) -> Any:
    C = 4
    inputs = {
        "X": draw(2, C, *range(size, size + rank)),
        "W": draw(M, C // group, *(kernel,) * rank),
    }
    if bias:
        inputs["B"] = draw(M)
    return inputs, {"group": group, **attrs}


CONVS = [
    *(
        _conv(2, 9, kernel, 8, group, bias, strides=[stride, 1], dilations=[1, dilation], pads=pads)
        for kernel, stride, dilation, group, bias, pads in product(
            (1, 3),
            (1, 2),
            (1, 2),
            (1, 2, 4),
            (False, True),
            ([0] * 4, [1, 1, 1, 1], [0, 1, 2, 3]),
        )
    ),
    *(
        _conv(rank, 6, kernel, 4, group, True, strides=[2] * rank, pads=[1, 0] * rank)
        for rank, kernel, group in product((1, 3), (1, 3), (1, 2, 4))
    ),
    *(
        _conv(2, 7, 3, 4, 1, False, strides=[stride, 2], auto_pad=auto_pad)
        for auto_pad, stride in product(("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"), (1, 2, 3))
    ),
    _conv(2, 7, 3, 4, 1, False, kernel_shape=[3, 3]),
    _conv(2, 7, 3, 4, 1, False, pads=[0, 0, 1, 2]),
    ({"X": draw(40, 3, 5, 5), "W": draw(4, 3, 3, 3)}, {}),
    ({"X": draw(0, 3, 5, 5), "W": draw(4, 3, 3, 3)}, {}),
    ({"X": draw(2, 3, 5, 5, dtype="float64"), "W": draw(4, 3, 3, 3, dtype="float64")}, {}),
    ({"X": draw(2, 3, 5, 5, dtype="float16"), "W": draw(4, 3, 3, 3, dtype="float16")}, {}),
]
"""Inputs and attributes of Conv: every rank, stride, dilation, group, padding and auto_pad."""

ACTIVATIONS: dict[str, list[float]] = {
    "": [],
    "Relu": [],
    "Sigmoid": [],
    "Tanh": [],
    "LeakyRelu": [0.3],
    "Clip": [-0.5, 0.5],
    "HardSigmoid": [0.3, 0.4],
}
"""FusedConv's activations with their activation_params."""

POOLS = [
    {
        "kernel_shape": [kernel, 2],
        "strides": [stride, 1],
        "pads": pads,
        "ceil_mode": ceil_mode,
        "dilations": [dilation, 1],
    }
    for kernel, stride, pads, ceil_mode, dilation in product(
        (2, 3), (1, 2, 3), ([0] * 4, [1, 1, 1, 1], [0, 1, 1, 0]), (0, 1), (1, 2)
    )
] + [
    {"kernel_shape": [3, 2], "strides": [2, 3], "auto_pad": auto_pad}
    for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
]
"""Attributes of the 2-D pools."""
