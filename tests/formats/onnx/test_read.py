"""From an ONNX file to a layer graph: what comes out. (test_refusals.py: where nothing can.)"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hostile import PLACES, model, node, problems, reading, save, value
from onnx import NodeProto, SparseTensorProto, TensorProto, helper
from onnx.numpy_helper import from_array
from onnxruntime import InferenceSession

from hubtool.errors import ReadError
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import write
from hubtool.graph import Layer, Tensor, TensorRef, Value
from hubtool.model import Model

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_inputs_are_bound_by_name_and_defaults_written_out(tmp_path: Path) -> None:
    weight = from_array(np.ones((4, 3, 1, 1), np.float32), "W")
    proto = model(
        [node("Conv", ["X", "W"], ["Y"], name="c", kernel_shape=[1, 1])],
        inputs=[value("X", [1, 3, 5, 5])],
        weights=[weight],
    )
    (layer,) = reading(tmp_path, proto).layers
    assert layer == Layer(
        "c",
        "Conv",
        {"X": "X", "W": "W"},
        ["Y"],
        {"auto_pad": "NOTSET", "group": 1, "kernel_shape": [1, 1]},
    )


def test_layers_do_not_share_the_lists_of_their_defaults(tmp_path: Path) -> None:
    weights = [from_array(np.zeros(shape, np.float32), name) for name, shape in RNN_WEIGHTS]
    nodes = [node("RNN", ["S", "W", "R"], [name], hidden_size=2) for name in ("a", "Y")]
    first, second = reading(
        tmp_path, model(nodes, inputs=[value("S", [3, 1, 2])], weights=weights)
    ).layers
    assert first.attrs["activations"] == second.attrs["activations"] == ["Tanh", "Tanh"]
    assert first.attrs["activations"] is not second.attrs["activations"]


RNN_WEIGHTS = (("W", (1, 2, 2)), ("R", (1, 2, 2)))


@pytest.mark.parametrize("number", [1e-05, 0.1, 3.4028235e38, 1e-45, 16777216.0])
def test_floats_are_the_shortest_that_mean_the_same(tmp_path: Path, number: float) -> None:
    proto = model([node("LeakyRelu", ["X"], ["Y"], alpha=number)])
    assert reading(tmp_path, proto).layers[0].attrs == {"alpha": number}


def test_optional_inputs_left_out_in_the_middle_stay_out(tmp_path: Path) -> None:
    clip = node("Clip", ["X", "", "max"], ["Y"])
    proto = model([clip], weights=[from_array(np.float32(3), "max")])
    assert reading(tmp_path, proto).layers[0].inputs == {"input": "X", "max": "max"}


def test_outputs_that_are_not_wanted_are_empty(tmp_path: Path) -> None:
    weights = [from_array(np.zeros(shape, np.float32), name) for name, shape in RNN_WEIGHTS]
    proto = model(
        [node("RNN", ["S", "W", "R"], ["", "Y"], hidden_size=2)],
        inputs=[value("S", [3, 1, 2])],
        weights=weights,
    )
    assert reading(tmp_path, proto).layers[0].outputs == ["", "Y"]


def test_a_variadic_input_is_a_list(tmp_path: Path) -> None:
    proto = model([node("Concat", ["X", "X", "X"], ["Y"], axis=0)])
    assert reading(tmp_path, proto).layers[0].inputs == {"inputs": ["X", "X", "X"]}


def test_shapes_say_what_is_known_and_nothing_more(tmp_path: Path) -> None:
    inputs = [value("X", ["N", 3]), value("b", [-1, 3]), value("c", None), value("d", [None, 3])]
    proto = model([node("Sum", ["X", "b", "c", "d"], ["Y"])], inputs=inputs)
    assert reading(tmp_path, proto).inputs == {
        "X": Value("tensor", "float32", ("N", 3)),
        "b": Value("tensor", "float32", (None, 3)),
        "c": Value("tensor", "float32", None),
        "d": Value("tensor", "float32", (None, 3)),
    }


def test_values_in_between_are_inferred(tmp_path: Path) -> None:
    nodes = [node("Transpose", ["X"], ["t"]), node("Relu", ["t"], ["Y"])]
    assert reading(tmp_path, model(nodes)).values["t"] == Value("tensor", "float32", (3, 2))


@pytest.mark.parametrize("listed", [True, False])
def test_below_ir_4_initializers_are_constants(tmp_path: Path, listed: bool) -> None:
    inputs = [value("X"), value("W")] if listed else [value("X")]
    proto = model(
        [node("Add", ["X", "W"], ["Y"])],
        opset=8,
        ir=3,
        inputs=inputs,
        weights=[from_array(X, "W")],
    )
    graph = reading(tmp_path, proto)
    assert (list(graph.inputs), list(graph.tensors)) == (["X"], ["W"])
    assert graph.meta["source"]["ir_version"] == 3


def test_from_ir_4_on_such_an_input_has_a_default_that_may_be_overridden(tmp_path: Path) -> None:
    proto = model(
        [node("Add", ["X", "W"], ["Y"])],
        opset=9,
        ir=4,
        inputs=[value("X"), value("W")],
        weights=[from_array(X, "W")],
    )
    graph = reading(tmp_path, proto)
    assert (list(graph.inputs), list(graph.free_inputs)) == (["X", "W"], ["X"])
    runner = Model(graph, backend="numpy")
    assert np.array_equal(runner.run({"X": X})["Y"], X + X)
    assert np.array_equal(runner.run({"X": X, "W": 10 * X})["Y"], X + 10 * X)


SPARSE = SparseTensorProto(
    values=from_array(np.array([5, 7], np.float32), "v"),
    indices=from_array(np.array([1, 5])),
    dims=[2, 3],
)

CONSTANTS: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "value": ({"value": from_array(X)}, X),
    "value of float16": ({"value": from_array(X.astype(np.float16))}, X.astype(np.float16)),
    "value of no dimensions": ({"value": from_array(np.array(7))}, np.array(7)),
    "value of strings": (
        {"value": helper.make_tensor("", TensorProto.STRING, [2], [b"a", "ü".encode()])},
        np.array(["a", "ü"], object),
    ),
    "value_float": ({"value_float": 0.5}, np.array(0.5, np.float32)),
    "value_floats": ({"value_floats": [0.5, 1.5]}, np.array([0.5, 1.5], np.float32)),
    "value_int": ({"value_int": -3}, np.array(-3)),
    "value_ints": ({"value_ints": [1, 2**40]}, np.array([1, 2**40])),
    "value_string": ({"value_string": "ü"}, np.array("ü", object)),
    "value_strings": ({"value_strings": ["a", "ü"]}, np.array(["a", "ü"], object)),
    "sparse_value": ({"sparse_value": SPARSE}, np.array([[0, 5, 0], [0, 0, 7]], np.float32)),
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_every_kind_of_constant_becomes_a_tensor(tmp_path: Path, case: str) -> None:
    attributes, expected = CONSTANTS[case]
    nodes = [node("Constant", [], ["c"], **attributes), node("Identity", ["c"], ["Y"])]
    graph = reading(tmp_path, model(nodes))
    assert [layer.op for layer in graph.layers] == ["Identity"]
    assert graph.tensors == {"c": Tensor.of(expected)}


def test_a_constant_may_be_an_output(tmp_path: Path) -> None:
    graph = reading(tmp_path, model([node("Constant", [], ["Y"], value_float=0.5)]))
    assert (graph.layers, list(graph.tensors), list(graph.outputs)) == ([], ["Y"], ["Y"])


def test_strings_that_are_no_text_stay_bytes(tmp_path: Path) -> None:
    nodes = [node("Constant", [], ["c"], value_string=b"\xff"), node("Identity", ["c"], ["Y"])]
    assert reading(tmp_path, model(nodes)).tensors["c"].array.item() == b"\xff"


@pytest.mark.parametrize(
    "indices", [np.array([1, 5]), np.array([[0, 1], [1, 2]])], ids=["flat", "by axis"]
)
@pytest.mark.parametrize("opset", [13, 28])
def test_a_sparse_initializer_becomes_a_dense_one(
    tmp_path: Path, indices: np.ndarray, opset: int
) -> None:
    proto = model([node("Add", ["X", "v"], ["Y"])], opset=opset)
    proto.graph.sparse_initializer.append(SPARSE)
    proto.graph.sparse_initializer[0].indices.CopyFrom(from_array(indices))
    expected = np.array([[0, 5, 0], [0, 0, 7]], np.float32)
    assert np.array_equal(reading(tmp_path, proto).tensors["v"].array, expected)


def test_a_large_sparse_initializer_is_read(tmp_path: Path) -> None:
    proto = model([node("Add", ["X", "v"], ["Y"])], inputs=[value("X", [5000])])
    sparse = proto.graph.sparse_initializer.add(dims=[5000])
    sparse.values.CopyFrom(from_array(np.arange(1000, dtype=np.float32), "v"))
    sparse.indices.CopyFrom(from_array(np.arange(0, 5000, 5)))
    array = reading(tmp_path, proto).tensors["v"].array
    assert array.shape == (5000,)
    assert np.array_equal(array[::5], np.arange(1000))
    assert np.count_nonzero(array) == 999


@pytest.mark.parametrize(
    "indices", [[6], [-1], [0, 1], [[0]], [[2, 0]]], ids=["past", "-1", "two", "rank", "axis"]
)
def test_sparse_indices_outside_of_the_tensor_are_refused(tmp_path: Path, indices: Any) -> None:
    proto = model([node("Add", ["X", "v"], ["Y"])])
    proto.graph.sparse_initializer.append(SPARSE)
    sparse = proto.graph.sparse_initializer[0]
    sparse.values.CopyFrom(from_array(np.ones(1, np.float32), "v"))
    sparse.indices.CopyFrom(from_array(np.array(indices)))
    with pytest.raises(ReadError):
        reading(tmp_path, proto)


@pytest.mark.parametrize("elements", [3, 3000], ids=["small", "mapped"])
@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128", "bfloat16"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
        *("float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2"),
    ],
)
def test_every_element_type_is_read_as_itself(tmp_path: Path, dtype: str, elements: int) -> None:
    kind = np.dtype(dtype if hasattr(np, dtype) else getattr(ml_dtypes, dtype))
    array = (np.arange(elements) % 2).astype(kind)
    proto = model([node("Identity", ["W"], ["Y"])], weights=[from_array(array, "W")])
    assert reading(tmp_path, proto).tensors["W"] == Tensor.of(array)


def test_a_tensor_attribute_is_a_named_tensor(tmp_path: Path) -> None:
    graph = reading(tmp_path, PLACES["attribute"](from_array(np.ones(1, np.float32))))
    (layer,) = graph.layers
    assert layer.attrs == {"value": TensorRef("fill/value")}
    assert graph.tensors["fill/value"].array.tolist() == [1]


def test_the_name_of_a_tensor_attribute_is_no_other_values(tmp_path: Path) -> None:
    shape = from_array(np.array([2, 3]), "S")
    one = from_array(np.ones(1, np.float32))
    nodes = [
        node("ConstantOfShape", ["S"], ["a"], name="fill", value=one),
        node("Relu", ["a"], ["fill/value"]),
        node("Relu", ["fill/value"], ["Y"]),
    ]
    graph = reading(tmp_path, model(nodes, weights=[shape]))
    assert graph.layers[0].attrs == {"value": TensorRef("fill/value_")}


@pytest.mark.parametrize("name", ["a:0", "a/b", "a.b", "ü", "名前", "a b", "'", "-", "../x", "\0"])
def test_odd_names_are_kept(tmp_path: Path, name: str) -> None:
    nodes = [node("Relu", ["X"], [name], name=name), node("Relu", [name], ["Y"], name="last")]
    first, last = reading(tmp_path, model(nodes)).layers
    assert (first.name, first.outputs, last.inputs) == (name, [name], {"X": name})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["", "", ""], ["Relu_0", "Relu_1", "Relu_2"]),
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a", "a", "a_2"], ["a", "a_3", "a_2"]),
        (["", "Relu_0", ""], ["Relu_1", "Relu_0", "Relu_2"]),
        (["Relu_2", "", ""], ["Relu_2", "Relu_1", "Relu_3"]),
        (["a_2", "a", "a"], ["a_2", "a", "a_3"]),
    ],
)
def test_every_layer_has_a_name_of_its_own(
    tmp_path: Path, names: list[str], expected: list[str]
) -> None:
    edges = ["X", "b", "c", "Y"]
    nodes = [node("Relu", [edges[i]], [edges[i + 1]], name=name) for i, name in enumerate(names)]
    assert [layer.name for layer in reading(tmp_path, model(nodes)).layers] == expected


def test_facts_about_the_source_are_kept(tmp_path: Path) -> None:
    proto = model([node("Relu", ["X"], ["Y"])], opset=13, ir=7)
    proto.producer_name, proto.producer_version = "maker", "1.2"
    path = save(tmp_path / "net.v1.onnx", proto)
    assert read(path, isolated=False).meta == {
        "name": "net.v1",
        "source": {
            "file": "net.v1.onnx",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
            "opset": 13,
            "ir_version": 7,
            "producer": "maker 1.2",
        },
    }


def test_hubtools_own_metadata_is_read_back_and_others_kept(tmp_path: Path) -> None:
    proto = model([node("Relu", ["X"], ["Y"])])
    facts = {"hubtool.labels": '["cat", "dög"]', "hubtool.licence": '"MIT"', "author": "nobody"}
    helper.set_model_props(proto, facts)
    meta = reading(tmp_path, proto).meta
    assert (meta["labels"], meta["licence"]) == (["cat", "dög"], "MIT")
    assert meta["metadata"] == {"author": "nobody"}


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "NaN", "1e999", '"\\ud800"', "nonsense"])
def test_metadata_that_is_no_json_is_kept_as_text(tmp_path: Path, text: str) -> None:
    proto = model([node("Relu", ["X"], ["Y"])])
    helper.set_model_props(proto, {"hubtool.labels": text, "hubtool.unknown": "1"})
    meta = reading(tmp_path, proto).meta
    assert "labels" not in meta
    assert meta["metadata"] == {"hubtool.labels": text, "hubtool.unknown": "1"}


def test_reading_does_not_load_the_weights(tmp_path: Path) -> None:
    """They are mapped: the arrays are views of the file."""
    big = np.arange(10_000, dtype=np.float32)
    proto = model([node("Identity", ["W"], ["Y"])], weights=[from_array(big, "W")])
    array = reading(tmp_path, proto).tensors["W"].array
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert np.array_equal(array, big)


# Subgraphs and functions.


def branch(name: str, *nodes: NodeProto, output: str = "y") -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [value(output, None)])


def test_a_branch_reads_the_values_around_it(tmp_path: Path) -> None:
    branches = {
        "then_branch": branch("t", node("Add", ["X", "early"], ["y"])),
        "else_branch": branch("e", node("Identity", ["X"], ["y"])),
    }
    nodes = [node("Relu", ["X"], ["early"]), node("If", ["c"], ["Y"], **branches)]
    proto = model(nodes, inputs=[value("X"), value("c", (), TensorProto.BOOL)])
    graph = reading(tmp_path, proto)
    bodies = graph.layers[1].subgraphs()
    assert [str(bodies[f"{name}_branch"].layers[0]) for name in ("then", "else")] == [
        "y = Add(A=X, B=early)",
        "y = Identity(input=X)",
    ]


def test_a_branch_cannot_read_what_comes_later_or_from_its_twin(tmp_path: Path) -> None:
    branches = {
        "then_branch": branch("t", node("Add", ["X", "late"], ["y"], name="add")),
        "else_branch": branch(
            "e", node("Relu", ["X"], ["own"]), node("Add", ["own", "y"], ["z"]), output="z"
        ),
    }
    nodes = [node("If", ["c"], ["Y"], **branches), node("Relu", ["X"], ["late"])]
    proto = model(nodes, inputs=[value("X"), value("c", (), TensorProto.BOOL)])
    assert set(problems(tmp_path, proto)) == {
        "layer 'add' (Add) reads 'late' before anything has made it",
        "layer 'Add_1' (Add) reads 'y' before anything has made it",
    }


def test_names_that_lifting_gives_twice_mean_each_their_own(tmp_path: Path) -> None:
    """onnx's converter calls what it adds `_v_4` in the graph and in each branch."""
    branches = {
        "then_branch": branch("t", node("Softmax", ["X"], ["y"])),
        "else_branch": branch("e", node("LogSoftmax", ["X"], ["y"])),
    }
    nodes = [
        node("Softmax", ["X"], ["s"], axis=0),
        node("If", ["c"], ["p"], **branches),
        node("Add", ["s", "p"], ["Y"]),
    ]
    inputs = [value("X"), value("c", (), TensorProto.BOOL)]
    graph = reading(tmp_path, model(nodes, opset=11, inputs=inputs))
    write(graph, tmp_path / "out.onnx")
    session = InferenceSession(tmp_path / "out.onnx")
    e = np.exp(X)
    rows = e / e.sum(1, keepdims=True)
    for condition, expected in ((True, rows), (False, np.log(rows))):
        (result,) = session.run(None, {"X": X, "c": np.array(condition)})
        np.testing.assert_allclose(result, e / e.sum() + expected, rtol=1e-5)


def function(
    name: str, nodes: list[NodeProto], opset: int, attributes: tuple[str, ...] = ()
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["x"], ["y"], nodes, opsets, attributes)


def calling(opset: int, *functions: onnx.FunctionProto) -> onnx.ModelProto:
    """A model that calls the last function on X and again on what it gives."""
    calls = [node(functions[-1].name, [a], [b], domain="f") for a, b in ("XA", "AY")]
    return model(calls, opset=opset, functions=functions, domains={"f": 1})


def test_functions_are_inlined_into_each_other(tmp_path: Path) -> None:
    inner = function("Inner", [node("Softmax", ["x"], ["y"], axis=-1)], 18)
    body = [node("Inner", ["x"], ["i"], domain="f"), node("Add", ["i", "x"], ["y"])]
    graph = reading(tmp_path, calling(18, inner, function("Outer", body, 18)))
    assert [layer.op for layer in graph.layers] == ["Softmax", "Add"] * 2
    assert len({layer.name for layer in graph.layers}) == 4


@pytest.mark.parametrize(("opset", "of_function"), [(18, 21), (21, 18), (28, 13), (17, 18)])
def test_a_function_of_another_opset_is_brought_to_the_models(
    tmp_path: Path, opset: int, of_function: int
) -> None:
    body = [node("Softmax", ["x"], ["s"], axis=-1), node("Add", ["s", "x"], ["y"])]
    graph = reading(tmp_path, calling(opset, function("F", body, of_function)))
    assert [layer.op for layer in graph.layers] == ["Softmax", "Add"] * 2


def test_a_function_of_an_opset_that_cannot_be_lifted_is_told(tmp_path: Path) -> None:
    body = [node("Hardmax", ["x"], ["y"], name="hard")]
    assert problems(tmp_path, calling(18, function("F", body, 11))) == [
        "layer 'hard' (Hardmax) of function 'F' is of opset 11, the model of 18"
    ]


def test_an_attribute_of_a_function_reaches_its_body(tmp_path: Path) -> None:
    leaky = node("LeakyRelu", ["x"], ["y"])
    leaky.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    proto = calling(20, function("F", [leaky], 20, ("slope",)))
    for call, slope in zip(proto.graph.node, (0.25, 0.5), strict=True):
        call.attribute.append(helper.make_attribute("slope", slope))
    assert [layer.attrs["alpha"] for layer in reading(tmp_path, proto).layers] == [0.25, 0.5]


def test_an_attribute_that_refers_to_a_function_outside_of_one_is_refused(tmp_path: Path) -> None:
    leaky = node("LeakyRelu", ["X"], ["Y"], name="l")
    leaky.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    (problem,) = problems(tmp_path, model([leaky]))
    assert problem == "layer 'l' (LeakyRelu): attribute 'alpha' stands for that of a function"
