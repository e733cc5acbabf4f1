from typing import Any

import numpy as np
import pytest

from hubtool.dtypes import NUMBERS
from hubtool.graph import Graph, Layer, Tensor, Value
from hubtool.passes import drop_noops

from .builders import floats, layer, run, tensor


def between(middle: Layer, **tensors: Any) -> Graph:
    """Neg, the layer (a -> b), Relu."""
    return Graph(
        layers=[layer("Neg", {"X": "x"}, "a"), middle, layer("Relu", {"X": "b"}, "y")],
        inputs={"x": floats("N", 3)},
        outputs={"y": floats("N", 3)},
        tensors={name: Tensor.of(np.array(value)) for name, value in tensors.items()},
        values={"a": floats("N", 3)},
    )


def stays(graph: Graph) -> bool:
    before = run(graph)
    dropped = drop_noops(graph)
    after = run(dropped)
    assert [*before] == [*after]
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    return len(dropped.layers) == len(graph.layers)


NOOPS = {
    "identity": between(layer("Identity", {"input": "a"}, "b")),
    "dropout": between(layer("Dropout", {"data": "a"}, "b")),
    "dropout told not to train": between(
        layer("Dropout", {"data": "a", "ratio": "r", "training_mode": "t"}, "b", ""),
        r=np.float32(0.5),
        t=False,
    ),
    "cast": between(layer("Cast", {"input": "a"}, "b", to=NUMBERS["float32"])),
    "cast like": between(
        layer("CastLike", {"input": "a", "target_type": "w"}, "b"), w=np.float32(0)
    ),
    "reshape that copies": between(layer("Reshape", {"data": "a", "shape": "s"}, "b"), s=[0, 3]),
    "reshape that infers": between(layer("Reshape", {"data": "a", "shape": "s"}, "b"), s=[-1, 3]),
    "flatten": between(layer("Flatten", {"input": "a"}, "b")),
    "transpose": between(layer("Transpose", {"data": "a"}, "b", perm=[0, 1])),
    "concat": between(layer("Concat", {"inputs": ["a"]}, "b", axis=0)),
    "sum": between(layer("Sum", {"data_0": ["a"]}, "b")),
    "mean": between(layer("Mean", {"data_0": ["a"]}, "b")),
    "max": between(layer("Max", {"data_0": ["a"]}, "b")),
    "min": between(layer("Min", {"data_0": ["a"]}, "b")),
}

OPERATIONS = {
    "cast": between(layer("Cast", {"input": "a"}, "b", to=NUMBERS["float64"])),
    "reshape": between(layer("Reshape", {"data": "a", "shape": "s"}, "b"), s=[-1]),
    "reshape that swaps": between(layer("Reshape", {"data": "a", "shape": "s"}, "b"), s=[3, -1]),
    "flatten": between(layer("Flatten", {"input": "a"}, "b", axis=0)),
    "transpose": between(layer("Transpose", {"data": "a"}, "b", perm=[1, 0])),
    "reversing transpose": between(layer("Transpose", {"data": "a"}, "b")),
    "concat": between(layer("Concat", {"inputs": ["a", "a"]}, "b", axis=0)),
}


@pytest.mark.parametrize("graph", NOOPS.values(), ids=NOOPS)
def test_a_layer_that_changes_nothing_goes(graph):
    assert not stays(graph)


@pytest.mark.parametrize("graph", OPERATIONS.values(), ids=OPERATIONS)
def test_a_layer_that_changes_something_stays(graph):
    assert stays(graph)


def test_a_reshape_whose_shape_a_caller_may_override_stays():
    graph = between(layer("Reshape", {"data": "a", "shape": "s"}, "b"), s=[0, 3])
    graph.inputs["s"] = Value("tensor", "int64", (2,))
    assert stays(graph)


def test_a_reshape_of_a_value_of_unknown_shape_stays():
    graph = between(layer("Reshape", {"data": "a", "shape": "s"}, "b"), s=[0, 3])
    del graph.values["a"]
    assert stays(graph)


def test_a_dropout_whose_mask_is_read_stays():
    graph = between(layer("Dropout", {"data": "a"}, "b", "mask"))
    graph.outputs["mask"] = Value("tensor", "bool", ("N", 3))
    assert stays(graph)


def test_a_dropout_in_training_stays():
    graph = between(
        layer("Dropout", {"data": "a", "ratio": "r", "training_mode": "t"}, "b"),
        r=np.float32(0),
        t=True,
    )
    assert str(drop_noops(graph)) == str(graph)


def test_a_dropout_that_a_caller_may_set_to_training_stays():
    graph = between(
        layer("Dropout", {"data": "a", "ratio": "r", "training_mode": "t"}, "b"),
        r=np.float32(0),
        t=False,
    )
    graph.inputs["t"] = Value("tensor", "bool", ())
    assert stays(graph)


def test_before_an_output_the_producer_takes_the_outputs_name():
    graph = Graph(
        layers=[
            layer("Neg", {"X": "x"}, "a"),
            layer("Identity", {"input": "a"}, "y"),
            layer("Relu", {"X": "a"}, "z"),
        ],
        inputs={"x": floats(3)},
        outputs={"y": floats(3), "z": floats(3)},
        values={"a": floats(3)},
    )
    assert not stays(graph)
    dropped = drop_noops(graph)
    assert [made.outputs for made in dropped.layers] == [["y"], ["z"]]
    assert dropped.layers[1].inputs == {"X": "y"}
    assert dropped.values == {}


@pytest.mark.parametrize("source", ["x", "w", "a"])
def test_between_two_names_that_must_both_stay_so_does_the_identity(source):
    graph = Graph(
        layers=[layer("Neg", {"X": "x"}, "a"), layer("Identity", {"input": source}, "y")],
        inputs={"x": floats(3)},
        outputs={"a": floats(3), "y": floats(3)},
        tensors={"w": tensor((3,), 0)},
    )
    assert stays(graph)


def capturing(body: Graph) -> Graph:
    """b = Identity(a), and a layer whose body captures b."""
    return Graph(
        layers=[
            layer("Neg", {"X": "x"}, "a"),
            layer("Identity", {"input": "a"}, "b"),
            layer("Relu", {"X": "x"}, "y", body=body),
        ],
        inputs={"x": floats(3)},
        outputs={"y": floats(3)},
    )


def test_a_subgraph_that_captures_the_value_reads_its_source():
    body = Graph(layers=[layer("Neg", {"X": "b"}, "c")], outputs={"c": floats(3)})
    dropped = drop_noops(capturing(body))
    assert [made.op for made in dropped.layers] == ["Neg", "Relu"]
    assert dropped.layers[1].subgraphs()["body"].layers[0].inputs == {"X": "a"}
    assert body.layers[0].inputs == {"X": "b"}


def test_what_a_subgraph_returns_as_it_is_stays():
    assert len(drop_noops(capturing(Graph(outputs={"b": floats(3)}))).layers) == 3


def test_what_a_subgraph_would_take_for_its_own_stays():
    body = Graph(
        layers=[layer("Neg", {"X": "x"}, "a"), layer("Add", {"A": "a", "B": "b"}, "c")],
        outputs={"c": floats(3)},
    )
    assert len(drop_noops(capturing(body)).layers) == 3


def test_a_no_op_inside_a_subgraph_goes():
    body = Graph(
        layers=[layer("Identity", {"input": "b"}, "c"), layer("Neg", {"X": "c"}, "d")],
        outputs={"d": floats(3)},
    )
    (inner,) = drop_noops(capturing(body)).layers[-1].subgraphs()["body"].layers
    assert inner.inputs == {"X": "a"}
