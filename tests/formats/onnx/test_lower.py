"""The lowest opset that can say a graph, and who needs more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hostile import model, node, save, value
from onnx import NodeProto, TensorProto, helper
from onnx.numpy_helper import from_array

from hubtool.dtypes import DTYPES
from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.lower import lowest_opset, needs, type_string
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import to_model, write
from hubtool.graph import Graph, Layer, Value

FLOAT, DOUBLE, INT32, BFLOAT16 = (
    *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.BFLOAT16),
)


def graph_of(
    folder: Path, nodes: list[NodeProto], shape: Any = (2, 3), dtype: int = FLOAT, **weights: Any
) -> Graph:
    proto = model(
        nodes,
        inputs=[value("X", shape, dtype)],
        outputs=[onnx.ValueInfoProto(name="Y")],
        weights=[from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return read(save(folder / "m.onnx", proto), isolated=False)


def lowest(folder: Path, layer: NodeProto, **options: Any) -> int:
    return lowest_opset(graph_of(folder, [layer], **options))


def one(op: str, *inputs: str, **attributes: Any) -> NodeProto:
    return node(op, inputs or ("X",), ["Y"], name="it", **attributes)


IMAGE = {"shape": (1, 2, 6, 6)}
WINDOW = {"kernel_shape": [2, 2]}
W = np.ones((2, 2, 3, 3), np.float32)

LOWEST: dict[str, tuple[NodeProto, dict[str, Any], int]] = {
    "Relu": (one("Relu"), {}, 7),
    "Relu of bfloat16": (one("Relu"), {"dtype": BFLOAT16}, 13),
    "Relu of double": (one("Relu"), {"dtype": DOUBLE}, 7),
    "Relu of int32": (one("Relu"), {"dtype": INT32}, 14),
    "Add of int32": (one("Add", "X", "X"), {"dtype": INT32}, 7),
    "Add of int8": (one("Add", "X", "X"), {"dtype": TensorProto.INT8}, 14),
    "Max broadcasts since 8": (one("Max", "X", "w"), {"w": np.float32([1])}, 8),
    "Sum broadcasts since 8": (one("Sum", "X", "w"), {"w": np.float32([1])}, 8),
    "Softmax": (one("Softmax"), {}, 13),
    "Hardmax": (one("Hardmax"), {}, 13),
    "LogSoftmax": (one("LogSoftmax", axis=0), {}, 13),
    "Clip": (one("Clip", "X", "", "w"), {"w": np.float32(1)}, 11),
    "Dropout": (one("Dropout"), {}, 7),
    "Dropout with a mask": (node("Dropout", ["X"], ["Y", "mask"], name="it"), {}, 12),
    "Concat": (one("Concat", "X", "X", axis=0), {}, 7),
    "Concat from behind": (one("Concat", "X", "X", axis=-1), {}, 11),
    "Flatten": (one("Flatten"), {}, 7),
    "Flatten from behind": (one("Flatten", axis=-1), {}, 11),
    "Gather": (one("Gather", "X", "i"), {"i": np.array([0])}, 11),
    "Slice": (one("Slice", "X", "i", "i"), {"i": np.array([0, 1])}, 11),
    "Squeeze": (one("Squeeze", "X", "i"), {"i": np.array([0]), "shape": (1, 3)}, 13),
    "Squeeze of all": (one("Squeeze"), {"shape": (1, 3)}, 7),
    "ReduceSum": (one("ReduceSum", "X", "i"), {"i": np.array([0])}, 13),
    "ReduceMean": (one("ReduceMean", "X", "i"), {"i": np.array([0])}, 18),
    "ReduceMean of all": (one("ReduceMean"), {}, 7),
    "Reshape": (one("Reshape", "X", "i"), {"i": np.array([-1])}, 7),
    "Reshape to nothing": (one("Reshape", "X", "i", allowzero=1), {"i": np.array([-1])}, 14),
    "Split": (node("Split", ["X"], ["Y", "Z"], name="it", num_outputs=2, axis=1), {}, 18),
    "Split into equal parts": (
        node("Split", ["X"], ["Y", "Z", "V"], name="it", num_outputs=3, axis=1),
        {},
        7,
    ),
    "Split into equal parts from behind": (
        node("Split", ["X"], ["Y", "Z", "V"], name="it", num_outputs=3, axis=-1),
        {},
        11,
    ),
    "Split of a size not known": (
        node("Split", ["X"], ["Y", "Z"], name="it", num_outputs=2, axis=1),
        {"shape": (2, "N")},
        18,
    ),
    "Pow": (one("Pow", "X", "w"), {"w": np.float32(2)}, 7),
    "Pow of two types": (one("Pow", "X", "w"), {"w": np.float64(2)}, 12),
    "Shape": (one("Shape"), {}, 7),
    "part of Shape": (one("Shape", start=1), {}, 15),
    "AveragePool": (one("AveragePool", **WINDOW), IMAGE, 7),
    "AveragePool, rounded up": (one("AveragePool", ceil_mode=1, **WINDOW), IMAGE, 19),
    "AveragePool, dilated": (one("AveragePool", dilations=[2, 2], **WINDOW), IMAGE, 19),
    "MaxPool": (one("MaxPool", **WINDOW), IMAGE, 7),
    "MaxPool, rounded up": (one("MaxPool", ceil_mode=1, **WINDOW), IMAGE, 10),
    "AveragePool, rounded up behind the input": (
        one("AveragePool", ceil_mode=1, pads=[1, 1, 1, 1], strides=[3, 3], **WINDOW),
        {"shape": (1, 2, 5, 5)},
        22,
    ),
    "MaxPool, rounded up behind the input": (
        one("MaxPool", ceil_mode=1, strides=[3, 3], pads=[0, 0, 1, 1], **WINDOW),
        IMAGE,
        22,
    ),
    "MaxPool, rounded up and dilated over the padding": (
        one("MaxPool", ceil_mode=1, pads=[0, 0, 1, 1], dilations=[2, 2], **WINDOW),
        IMAGE,
        10,
    ),
    "MaxPool with places": (node("MaxPool", ["X"], ["Y", "i"], name="it", **WINDOW), IMAGE, 8),
    "Conv": (one("Conv", "X", "W"), {"W": W, **IMAGE}, 7),
    "ConvTranspose": (one("ConvTranspose", "X", "W"), {"W": W, **IMAGE}, 7),
    "ConvTranspose, padded by itself": (
        one("ConvTranspose", "X", "W", auto_pad="SAME_UPPER"),
        {"W": W, **IMAGE},
        11,
    ),
    "ConvTranspose to a shape": (
        one("ConvTranspose", "X", "W", output_shape=[13, 13], strides=[2, 2]),
        {"W": W, **IMAGE},
        11,
    ),
    "Cast": (one("Cast", to=INT32), {}, 7),
    "Cast to bfloat16": (one("Cast", to=BFLOAT16), {}, 13),
    "Cast to float8": (one("Cast", to=TensorProto.FLOAT8E5M2), {}, 19),
    "Cast to float8 without negative zero": (one("Cast", to=TensorProto.FLOAT8E5M2FNUZ), {}, 24),
    "Mod of integers": (one("Mod", "X", "X"), {"dtype": INT32}, 10),
    "Mod of floats like C": (one("Mod", "X", "X", fmod=1), {}, 10),
    "Mod of floats like Python": (one("Mod", "X", "X"), {}, 28),
    "Pad": (one("Pad", "X", "i"), {"i": np.array([0, 0, 1, 1])}, 11),
    "Pad of some axes": (
        one("Pad", "X", "i", "", "a"),
        {"i": np.array([1, 1]), "a": np.array([0])},
        18,
    ),
    "Pad that wraps": (one("Pad", "X", "i", mode="wrap"), {"i": np.array([0, 0, 1, 1])}, 19),
    "Resize": (
        one("Resize", "X", "", "s"),
        {"s": np.float32([1, 1, 2, 2]), **IMAGE},
        13,
    ),
    "Resize that is smooth": (
        one("Resize", "X", "", "s", antialias=1, mode="linear"),
        {"s": np.float32([1, 1, 0.5, 0.5]), **IMAGE},
        18,
    ),
    "RoiAlign": (
        one("RoiAlign", "X", "r", "b"),
        {"r": np.float32([[0, 0, 1, 1]]), "b": np.array([0]), **IMAGE},
        16,
    ),
    "LayerNormalization": (one("LayerNormalization", "X", "s"), {"s": np.ones(3, np.float32)}, 17),
    "Gelu": (one("Gelu"), {}, 20),
    "BitShift of what is signed": (
        one("BitShift", "X", "X", direction="LEFT"),
        {"dtype": INT32},
        28,
    ),
}


@pytest.mark.parametrize("case", LOWEST)
def test_the_lowest_opset_that_means_the_same(tmp_path: Path, case: str) -> None:
    layer, options, expected = LOWEST[case]
    assert lowest(tmp_path, layer, **options) == expected


@pytest.mark.parametrize("case", [case for case in LOWEST if case != "Dropout"])
def test_onnx_accepts_it_there_and_hubtool_reads_the_same(tmp_path: Path, case: str) -> None:
    layer, options, expected = LOWEST[case]
    graph = graph_of(tmp_path, [layer], **options)
    assert write(graph, tmp_path / "low.onnx") == expected
    onnx.checker.check_model(tmp_path / "low.onnx", full_check=True)
    again = read(tmp_path / "low.onnx", isolated=False)
    assert (again.inputs, again.outputs, again.tensors) == (
        graph.inputs,
        graph.outputs,
        graph.tensors,
    )
    assert again.layers[-1] == graph.layers[-1]


def test_dropout_leaves_without_a_ratio_and_comes_back_with_one(tmp_path: Path) -> None:
    """The converter writes down the default of old opsets, which means nothing in inference."""
    graph = graph_of(tmp_path, [one("Dropout")])
    write(graph, tmp_path / "low.onnx")
    onnx.checker.check_model(tmp_path / "low.onnx", full_check=True)
    (layer,) = read(tmp_path / "low.onnx", isolated=False).layers
    assert (layer.op, layer.inputs["data"], layer.outputs) == ("Dropout", "X", ["Y"])
    assert "training_mode" not in layer.inputs


def test_needs_names_every_layer(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["X"], ["a"], name="old"),
        node("Gelu", ["a"], ["b"], name="young"),
        node("LayerNormalization", ["b", "s"], ["Y"], name="middle"),
    ]
    graph = graph_of(tmp_path, nodes, s=np.ones(3, np.float32))
    assert needs(graph) == {"old": 7, "young": 20, "middle": 17}


def test_an_opset_that_is_too_low_names_the_layers_that_need_more(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["X"], ["a"], name="old"),
        node("Gelu", ["a"], ["b"], name="young"),
        node("LayerNormalization", ["b", "s"], ["Y"], name="middle"),
    ]
    graph = graph_of(tmp_path, nodes, s=np.ones(3, np.float32))
    with pytest.raises(UnsupportedError) as refusal:
        to_model(graph, 13)
    assert refusal.value.problems == [
        "layer 'young' needs opset 20",
        "layer 'middle' needs opset 17",
    ]
    assert str(refusal.value).endswith("Leave --opset out to get the lowest that can: 20.")


@pytest.mark.parametrize("opset", [29, 6, 1, 0, -1, 10**9])
def test_an_opset_that_is_not_there_is_refused(tmp_path: Path, opset: int) -> None:
    graph = graph_of(tmp_path, [one("Relu")])
    with pytest.raises(UnsupportedError, match=f"opset {opset} cannot say this .* 7 to 28"):
        to_model(graph, opset)


def test_every_opset_from_the_lowest_on_can_be_asked_for(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, [one("Clip", "X", "", "w")], w=np.float32(1))
    for opset in range(11, 29):
        path = tmp_path / f"{opset}.onnx"
        assert write(graph, path, opset=opset) == opset
        onnx.checker.check_model(path, full_check=True)
        again = read(path, isolated=False)
        assert (again.layers, again.inputs, again.outputs) == (
            graph.layers,
            graph.inputs,
            graph.outputs,
        )
        assert again.meta["source"]["opset"] == opset


def test_what_stands_in_a_branch_counts_for_its_layer(tmp_path: Path) -> None:
    branches = {
        name: helper.make_graph([node(op, ["X"], [name])], name, [], [value(name)])
        for name, op in (("then_branch", "Relu"), ("else_branch", "Gelu"))
    }
    proto = model(
        [node("If", ["c"], ["Y"], name="if", **branches)],
        inputs=[value("X"), value("c", (), TensorProto.BOOL)],
    )
    assert needs(read(save(tmp_path / "m.onnx", proto), isolated=False)) == {"if": 20}


def test_a_branch_knows_the_types_of_the_values_around_it(tmp_path: Path) -> None:
    branches = {
        name: helper.make_graph([node("Relu", ["X"], [name])], name, [], [value(name)])
        for name in ("then_branch", "else_branch")
    }
    proto = model(
        [node("If", ["c"], ["Y"], name="if", **branches)],
        inputs=[value("X"), value("c", (), TensorProto.BOOL)],
    )
    assert needs(read(save(tmp_path / "m.onnx", proto), isolated=False)) == {"if": 11}


def test_where_nothing_is_known_of_a_value_the_newest_issue_is_taken() -> None:
    graph = Graph(
        layers=[Layer("r", "Relu", {"X": "X"}, ["Y"])],
        inputs={"X": Value("tensor", "", None)},
        outputs={"Y": Value("tensor", "", None)},
    )
    assert needs(graph) == {"r": 14}


@pytest.mark.parametrize(("state", "expected"), [("X", 7), ("", 11)])
def test_a_loop_of_old_opsets_has_a_state(tmp_path: Path, state: str, expected: int) -> None:
    nodes = [node("Identity", ["c"], ["d"]), node("Neg", [state or "X"], ["y"])]
    inputs = [value("i", (), TensorProto.INT64), value("c", (), TensorProto.BOOL)]
    outputs = [value("d", (), TensorProto.BOOL), value("y")]
    if state:
        inputs.append(value(state))
    body = helper.make_graph(nodes, "body", inputs, outputs)
    loop = node("Loop", ["n", "", *filter(None, [state])], ["Y"], name="it", body=body)
    proto = model(
        [loop],
        inputs=[value("X"), value("n", (), TensorProto.INT64)],
        outputs=[value("Y", (2, 3) if state else ("n", 2, 3))],
    )
    graph = read(save(tmp_path / "m.onnx", proto), isolated=False)
    assert write(graph, tmp_path / "low.onnx") == expected
    onnx.checker.check_model(tmp_path / "low.onnx", full_check=True)


def test_every_type_of_every_schema_is_that_of_some_value() -> None:
    held = ("", "(sequence)", "(map(int64))", "(map(string))")
    kinds = ["tensor", "map(int64)", "map(string)"]
    kinds += [f"{outer}{inner}" for outer in ("sequence", "optional") for inner in held]
    told = {type_string(Value(kind, name, None)) for kind in kinds for name in DTYPES.values()}
    schemas = onnx.defs.get_all_schemas_with_history()
    formals = [formal for schema in schemas for formal in (*schema.inputs, *schema.outputs)]
    assert {kind for formal in formals for kind in formal.types} - told == set()


def test_other_domains_do_not_raise_the_opset() -> None:
    graph = Graph(
        layers=[Layer("g", "com.microsoft.Gelu", {"X": "X"}, ["Y"])],
        inputs={"X": Value("tensor", "float32", (2,))},
        outputs={"Y": Value("tensor", "float32", (2,))},
    )
    assert needs(graph) == {"g": 7}


def test_small_element_types_have_the_names_that_schemas_give_them(tmp_path: Path) -> None:
    """A type whose name is not known would only ever be found in the newest issue."""
    for dtype, since in (
        (ml_dtypes.bfloat16, 13),
        (ml_dtypes.float8_e4m3fn, 19),
        (ml_dtypes.int4, 21),
        (ml_dtypes.float4_e2m1fn, 23),
        (ml_dtypes.float8_e8m0fnu, 24),
        (ml_dtypes.int2, 25),
        (np.float64, 7),
        (np.complex64, 7),
    ):
        array = np.zeros((2, 3), dtype)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        assert lowest(tmp_path, one("Reshape", "X", "i"), dtype=kind, i=np.array([6])) == since
