import math
from typing import Any

import numpy as np
import pytest

from hubtool.graph import Graph, Layer, Tensor
from hubtool.passes import fuse_conv

from .builders import C, H, N, W, floats, layer, run, tensor

SHAPE = (N, C, H, W)


def conv(x: str, y: str, **attrs: Any) -> Layer:
    return layer("Conv", {"X": x, "W": "w", "B": "b"}, y, pads=[1, 1, 1, 1], **attrs)


def graph_of(*layers: Layer, output: str = "y", **known: Any) -> Graph:
    return Graph(
        layers=[*layers],
        inputs={"x": floats(*SHAPE), "r": floats(*SHAPE)},
        outputs={output: floats(*SHAPE)},
        tensors={
            "w": tensor((C, C, 3, 3), 1),
            "b": tensor((C,), 2),
            "low": Tensor.of(np.array(-0.5, np.float32)),
            "high": Tensor.of(np.array(0.5, np.float32)),
            "alpha": tensor((C, 1, 1), 3),
        },
        values={"c": floats(*SHAPE), "s": floats(*SHAPE), **known},
    )


def ops(graph: Graph) -> list[str]:
    return [made.op.removeprefix("com.microsoft.") for made in graph.layers]


def fused(graph: Graph) -> Graph:
    """The graph after the pass, which must not have changed what it computes."""
    after = fuse_conv(graph)
    before, now = run(graph), run(after)
    assert [*before] == [*now]
    for name, value in before.items():
        assert value.dtype == now[name].dtype
        assert np.abs(value - now[name]).max() <= 1e-5 * np.abs(value).max()
    return after


ACTIVATIONS = {
    "Relu": (layer("Relu", {"X": "s"}, "y"), None),
    "Sigmoid": (layer("Sigmoid", {"X": "s"}, "y"), None),
    "Tanh": (layer("Tanh", {"input": "s"}, "y"), None),
    "LeakyRelu": (layer("LeakyRelu", {"X": "s"}, "y", alpha=0.25), [0.25]),
    "HardSigmoid": (layer("HardSigmoid", {"X": "s"}, "y", alpha=0.3, beta=0.4), [0.3, 0.4]),
    "Clip": (layer("Clip", {"input": "s", "min": "low", "max": "high"}, "y"), [-0.5, 0.5]),
    "Clip ": (layer("Clip", {"input": "s", "max": "high"}, "y"), [-math.inf, 0.5]),
    "Clip  ": (layer("Clip", {"input": "s", "min": "low"}, "y"), [-0.5, math.inf]),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_joins_the_conv(name):
    activation, params = ACTIVATIONS[name]
    graph = fused(graph_of(conv("x", "s", strides=[2, 2]), activation))
    assert ops(graph) == ["FusedConv"]
    (made,) = graph.layers
    assert made.name == "layer_s"
    assert made.inputs == {"X": "x", "W": "w", "B": "b"}
    assert made.attrs["activation"] == name.strip()
    assert made.attrs.get("activation_params") == params
    assert made.attrs["strides"] == [2, 2]
    assert "s" not in graph.values


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("operands", [("c", "r"), ("r", "c")])
def test_a_residual_and_an_activation_join_the_conv(name, operands):
    add = layer("Add", {"A": operands[0], "B": operands[1]}, "s")
    graph = fused(graph_of(conv("x", "c"), add, ACTIVATIONS[name][0]))
    assert ops(graph) == ["FusedConv"]
    assert graph.layers[0].inputs == {"X": "x", "W": "w", "B": "b", "Z": "r"}


def test_a_residual_alone_joins_the_conv():
    graph = fused(graph_of(conv("x", "c"), layer("Add", {"A": "c", "B": "r"}, "y")))
    assert ops(graph) == ["FusedConv"]
    assert "activation" not in graph.layers[0].attrs


def test_a_sum_of_two_is_an_add_and_a_sum_of_three_is_not():
    for others, wanted in ((["r"], ["FusedConv"]), (["r", "x"], ["Conv", "Sum"])):
        total = layer("Sum", {"data_0": ["c", *others]}, "y")
        assert ops(fused(graph_of(conv("x", "c"), total))) == wanted


def test_the_fused_layer_stands_where_its_residual_is_ready():
    graph = fused(
        graph_of(
            conv("x", "c"),
            layer("Neg", {"X": "r"}, "z"),
            layer("Add", {"A": "c", "B": "z"}, "y"),
            z=floats(*SHAPE),
        )
    )
    assert ops(graph) == ["Neg", "FusedConv"]


def test_of_two_convs_that_meet_the_later_one_is_fused():
    graph = fused(
        graph_of(
            conv("r", "z"),
            conv("x", "c"),
            layer("Add", {"A": "z", "B": "c"}, "y"),
            z=floats(*SHAPE),
        )
    )
    assert ops(graph) == ["Conv", "FusedConv"]
    assert graph.layers[1].inputs["Z"] == "z"


def test_symbols_of_one_name_are_one_size():
    shape = floats("N", C, H, W)
    graph = graph_of(conv("x", "c"), layer("Add", {"A": "c", "B": "r"}, "y"), c=shape)
    assert ops(fuse_conv(graph)) == ["Conv", "Add"]
    graph.inputs["r"] = shape
    assert ops(fused(graph)) == ["FusedConv"]


@pytest.mark.parametrize("shape", [None, (None, C, H, W)])
def test_where_the_shape_is_not_known_the_add_stays(shape):
    known = floats() if shape is None else floats(*shape)
    if shape is None:
        known = type(known)("tensor", "float32", None)
    graph = graph_of(conv("x", "c"), layer("Add", {"A": "c", "B": "r"}, "y"), c=known)
    assert ops(fused(graph)) == ["Conv", "Add"]


def test_an_add_that_broadcasts_stays():
    graph = graph_of(conv("x", "c"), layer("Add", {"A": "c", "B": "alpha"}, "y"))
    assert ops(fused(graph)) == ["Conv", "Add"]


def test_a_conv_added_to_itself_stays():
    graph = graph_of(conv("x", "c"), layer("Add", {"A": "c", "B": "c"}, "y"))
    assert ops(fused(graph)) == ["Conv", "Add"]


def test_what_others_read_stays():
    graph = graph_of(
        conv("x", "c"), layer("Relu", {"X": "c"}, "s"), layer("Add", {"A": "c", "B": "s"}, "y")
    )
    assert ops(fused(graph)) == ["Conv", "Relu", "Add"]


def test_an_output_stays():
    graph = graph_of(conv("x", "c"), layer("Relu", {"X": "c"}, "y"))
    graph.outputs["c"] = floats(*SHAPE)
    assert ops(fused(graph)) == ["Conv", "Relu"]


def test_a_sum_that_others_read_takes_no_activation():
    graph = graph_of(
        conv("x", "c"),
        layer("Add", {"A": "c", "B": "r"}, "s"),
        layer("Relu", {"X": "s"}, "t"),
        layer("Add", {"A": "t", "B": "s"}, "y"),
    )
    assert ops(fused(graph)) == ["FusedConv", "Relu", "Add"]


def test_a_clip_whose_bounds_are_computed_or_open_stays():
    clip = layer("Clip", {"input": "s", "min": "low", "max": "bound"}, "y")
    graph = graph_of(conv("x", "s"), layer("Neg", {"X": "low"}, "bound"), clip)
    assert ops(fused(graph)) == ["Conv", "Neg", "Clip"]
    graph = graph_of(conv("x", "s"), layer("Clip", {"input": "s", "max": "high"}, "y"))
    graph.inputs["high"] = floats()
    assert ops(fused(graph)) == ["Conv", "Clip"]


def test_the_bound_of_a_clip_is_not_its_input():
    clip = layer("Clip", {"input": "r", "min": "s"}, "y")
    graph = graph_of(conv("x", "s"), clip)
    assert ops(fuse_conv(graph)) == ["Conv", "Clip"]
