import importlib

import numpy as np
import pytest

from hubtool.dtypes import NUMBERS
from hubtool.graph import Graph, Tensor, TensorRef, Value
from hubtool.passes import fold_constants

from .builders import floats, layer, run, tensor

module = importlib.import_module("hubtool.passes.fold_constants")


def shape(*dims: int) -> Tensor:
    return Tensor.of(np.array(dims, np.int64))


def filled(dims: tuple[int, ...], value: float = 0.5) -> Graph:
    """A weight that ConstantOfShape and Identity make, as in the light models of onnx's wheel."""
    return Graph(
        layers=[
            layer("ConstantOfShape", {"input": "dims"}, "made", value=TensorRef("value")),
            layer("Identity", {"input": "made"}, "w"),
            layer("Add", {"A": "x", "B": "w"}, "y"),
        ],
        inputs={"x": floats(*dims)},
        outputs={"y": floats(*dims)},
        tensors={"dims": shape(*dims), "value": Tensor.of(np.array([value], np.float32))},
    )


def test_a_chain_of_constants_becomes_one_weight_in_memory():
    graph = filled((2, 3))
    folded = fold_constants(graph)
    assert [made.op for made in folded.layers] == ["Add"]
    array = folded.tensors["w"].array
    np.testing.assert_array_equal(array, np.full((2, 3), 0.5, np.float32))
    assert array.flags.c_contiguous and not array.flags.writeable
    np.testing.assert_array_equal(run(folded)["y"], run(graph)["y"])


def test_a_result_over_the_cap_stays_a_layer(monkeypatch):
    monkeypatch.setattr(module, "CAP", 23)
    assert [made.op for made in fold_constants(filled((2, 3))).layers][:1] == ["ConstantOfShape"]
    monkeypatch.setattr(module, "CAP", 24)
    assert len(fold_constants(filled((2, 3))).layers) == 1


def test_what_is_known_to_be_over_the_cap_is_not_even_computed(monkeypatch):
    graph = filled((1 << 40, 1 << 20))
    graph.values["made"] = floats(1 << 40, 1 << 20)
    monkeypatch.setattr(module, "Program", None)  # would fail if it were called
    assert len(fold_constants(graph).layers) == 3


def test_a_bomb_of_unknown_shape_stays_a_layer():
    graph = Graph(
        layers=[layer("Tile", {"input": "w", "repeats": "n"}, "y")],
        outputs={"y": floats(None)},
        tensors={"w": tensor((1 << 10,), 0), "n": shape(1 << 50)},
    )
    assert len(fold_constants(graph).layers) == 1


def test_an_input_with_a_default_is_not_constant():
    graph = Graph(
        layers=[layer("Neg", {"X": "w"}, "y")],
        inputs={"w": floats(3)},
        outputs={"y": floats(3)},
        tensors={"w": tensor((3,), 0)},
    )
    assert len(fold_constants(graph).layers) == 1
    del graph.inputs["w"]
    folded = fold_constants(graph)
    assert folded.layers == []
    np.testing.assert_array_equal(run(folded)["y"], -graph.tensors["w"].array)


@pytest.mark.parametrize("op", sorted(module.RANDOM))
def test_a_random_layer_stays(op, monkeypatch):
    monkeypatch.setattr(module, "Program", None)
    graph = Graph(
        layers=[layer("Neg", {"X": "w"}, "y")],
        outputs={"y": floats(3)},
        tensors={"w": tensor((3,), 0)},
    )
    graph.layers[0].op = op
    assert len(fold_constants(graph).layers) == 1


def test_a_layer_that_fails_stays_for_the_run_to_say_so():
    graph = Graph(
        layers=[layer("Reshape", {"data": "w", "shape": "s"}, "y")],
        outputs={"y": floats(None)},
        tensors={"w": tensor((3,), 0), "s": shape(2, 2)},
    )
    assert len(fold_constants(graph).layers) == 1


def test_inside_a_subgraph_its_own_weights_are_folded_and_captured_names_are_not():
    body = Graph(
        layers=[
            layer("Neg", {"X": "own"}, "a"),
            layer("Neg", {"X": "outer"}, "b"),
            layer("Add", {"A": "a", "B": "b"}, "c"),
        ],
        outputs={"c": floats(3)},
        tensors={"own": tensor((3,), 0)},
    )
    graph = Graph(
        layers=[layer("Relu", {"X": "x"}, "y", body=body)],
        inputs={"x": floats(3)},
        outputs={"y": floats(3)},
        tensors={"outer": tensor((3,), 1)},
    )
    folded = fold_constants(graph).layers[0].subgraphs()["body"]
    assert [made.outputs for made in folded.layers] == [["b"], ["c"]]
    np.testing.assert_array_equal(folded.tensors["a"].array, -body.tensors["own"].array)


def test_the_dtype_is_the_operators():
    graph = Graph(
        layers=[layer("Cast", {"input": "w"}, "y", to=NUMBERS["bfloat16"])],
        outputs={"y": Value("tensor", "bfloat16", (3,))},
        tensors={"w": tensor((3,), 0)},
    )
    assert fold_constants(graph).tensors["y"].dtype == "bfloat16"
