"""Opsets 1 to 6: each operator that was issued anew up to 7 means what it meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import hubtool
from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.read import read
from hubtool.graph import Graph

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 3, 4, 5)).astype(np.float32)


def outputs(
    tmp_path: Path,
    opset: int,
    node: onnx.NodeProto,
    weights: dict[str, Any] | None = None,
    batch: int | str = "N",
) -> np.ndarray:
    """What hubtool makes of a model of one node at an old opset, with x of an open batch."""
    weights = {name: np.asarray(value) for name, value in (weights or {}).items()}
    graph = helper.make_graph(
        [node],
        "old",
        [
            helper.make_tensor_value_info("x", 1, [batch, *X.shape[1:]]),
            *(
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
                )
                for name, value in weights.items()
            ),
        ],
        [helper.make_tensor_value_info("y", 0, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=3), tmp_path / "m.onnx")
    graph_read = read(tmp_path / "m.onnx", isolated=False)
    return hubtool.load(graph_read, backend="numpy").run({"x": X})["y"]


def make(op: str, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, ["y"], name="odd", **attributes)


B3 = np.float32([10, 20, 30])
B34 = RANDOM.standard_normal((3, 4)).astype(np.float32)
B5 = RANDOM.standard_normal(5).astype(np.float32)


@pytest.mark.parametrize("opset", [1, 3, 6])
@pytest.mark.parametrize(
    ("op", "function"),
    [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide)],
)
@pytest.mark.parametrize(
    ("b", "attributes", "shape"),
    [
        (B3, {"broadcast": 1, "axis": 1}, (3, 1, 1)),
        (B34, {"broadcast": 1, "axis": 1}, (3, 4, 1)),
        (B5, {"broadcast": 1, "axis": 3}, (5,)),
        (B5, {"broadcast": 1, "axis": -1}, (5,)),
        (B5, {"broadcast": 1}, (5,)),
        (np.float32(3), {"broadcast": 1}, ()),
        (X, {}, X.shape),
    ],
)
def test_broadcasting_along_an_axis(
    tmp_path: Path, opset: int, op: str, function: Any, b: Any, attributes: Any, shape: Any
) -> None:
    y = outputs(tmp_path, opset, make(op, ["x", "b"], **attributes), {"b": b})
    np.testing.assert_allclose(y, function(X, np.reshape(b, shape)), rtol=1e-6)


def test_consumed_inputs_go(tmp_path: Path) -> None:
    y = outputs(tmp_path, 1, make("Relu", ["x"], consumed_inputs=[0]))
    np.testing.assert_array_equal(y, np.maximum(X, 0))


@pytest.mark.parametrize("opset", [1, 5, 6])
def test_batch_normalization_in_test_mode(tmp_path: Path, opset: int) -> None:
    attributes: dict[str, Any] = {"is_test": 1, "epsilon": 1e-3}
    if opset < 6:
        attributes["consumed_inputs"] = [0, 0, 0, 1, 1]
    node = make("BatchNormalization", ["x", "s", "b", "m", "v"], **attributes)
    s, b, m, v = (RANDOM.uniform(0.5, 1, 3).astype(np.float32) for _ in range(4))
    y = outputs(tmp_path, opset, node, {"s": s, "b": b, "m": m, "v": v})
    s, b, m, v = (value.reshape(3, 1, 1) for value in (s, b, m, v))
    np.testing.assert_allclose(y, (X - m) / np.sqrt(v + 1e-3) * s + b, rtol=1e-5, atol=1e-6)


def normalizing(**attributes: Any) -> onnx.NodeProto:
    outputs = ["y", "m2", "v2", "sm", "sv"]
    return helper.make_node(
        "BatchNormalization", ["x", "s", "b", "m", "v"], outputs, name="odd", **attributes
    )


def test_batch_normalization_of_five_outputs_trains(tmp_path: Path) -> None:
    weights = {name: np.ones(3, np.float32) for name in "sbmv"}
    y = outputs(tmp_path, 6, normalizing(), weights)
    mean, var = (f(X, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    np.testing.assert_allclose(y, (X - mean) / np.sqrt(var + 1e-5) + 1, rtol=1e-4, atol=1e-5)


def test_in_test_mode_it_has_one_output(tmp_path: Path) -> None:
    weights = {name: np.ones(3, np.float32) for name in "sbmv"}
    y = outputs(tmp_path, 6, normalizing(is_test=1), weights)
    np.testing.assert_allclose(y, (X - 1) / np.sqrt(1 + 1e-5) + 1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [1, 6])
def test_dropout_is_nothing(tmp_path: Path, opset: int) -> None:
    y = outputs(tmp_path, opset, make("Dropout", ["x"], is_test=1, ratio=0.3))
    np.testing.assert_array_equal(y, X)


@pytest.mark.parametrize("opset", [1, 4])
def test_the_shape_of_reshape_was_an_attribute(tmp_path: Path, opset: int) -> None:
    y = outputs(tmp_path, opset, make("Reshape", ["x"], shape=[0, -1]))
    np.testing.assert_array_equal(y, X.reshape(2, -1))


def test_the_type_of_cast_was_a_name(tmp_path: Path) -> None:
    y = outputs(tmp_path, 1, make("Cast", ["x"], to="INT32"))
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, X.astype(np.int32))


def test_concat_joined_channels_unless_told(tmp_path: Path) -> None:
    y = outputs(tmp_path, 1, make("Concat", ["x", "x"]))
    np.testing.assert_array_equal(y, np.concatenate([X, X], axis=1))


def test_pads_were_called_paddings(tmp_path: Path) -> None:
    paddings = [0, 0, 1, 2, 0, 0, 0, 1]
    y = outputs(tmp_path, 1, make("Pad", ["x"], paddings=paddings, mode="constant", value=7.0))
    expected = np.pad(X, [(0, 0), (0, 0), (1, 0), (2, 1)], constant_values=7)
    np.testing.assert_array_equal(y, expected)


def test_the_power_of_a_pool_was_a_float(tmp_path: Path) -> None:
    y = outputs(tmp_path, 1, make("GlobalLpPool", ["x"], p=2.0))
    np.testing.assert_allclose(y, np.sqrt((X**2).sum((2, 3), keepdims=True)), rtol=1e-6)


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("slope", [np.float32([0.1, 0.2, 0.3]), np.float32([0.5])])
def test_a_slope_went_along_the_channels(tmp_path: Path, opset: int, slope: np.ndarray) -> None:
    y = outputs(tmp_path, opset, make("PRelu", ["x", "s"]), {"s": slope})
    np.testing.assert_allclose(y, np.where(X < 0, X * slope.reshape(-1, 1, 1), X), rtol=1e-6)


@pytest.mark.parametrize("opset", [1, 3, 6])
def test_gemm_broadcast_its_bias(tmp_path: Path, opset: int) -> None:
    w, b = RANDOM.standard_normal((60, 4)).astype(np.float32), np.float32([1, 2, 3, 4])
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"], name="dense", broadcast=1),
    ]
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info("x", 1, ["N", 3, 4, 5])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=4), tmp_path / "m.onnx")
    y = hubtool.load(read(tmp_path / "m.onnx", isolated=False), backend="numpy")(X)
    np.testing.assert_allclose(y, X.reshape(2, -1) @ w + b, rtol=1e-4, atol=1e-5)


def read_text(folder: Path, text: str, opset: int) -> Graph:
    """The graph of a model in onnx's text form."""
    head = f'<ir_version: 4, opset_import: ["": {opset}]> old'
    onnx.save(onnx.parser.parse_model(f"{head} {text}"), folder / "m.onnx")
    return read(folder / "m.onnx", isolated=False)


def test_ranks_are_known_behind_layers_of_which_onnx_infers_none(tmp_path: Path) -> None:
    """Relu, Mul, Clip, Add, PRelu: of opset 1 onnx infers nothing for any of them."""
    text = """(float[N, 3, 4, 5] x) => (float[N, 3, 4, 5] y, bool[N, 3, 4, 5] z)
    <float[3] b = {10, 20, 30}>
    {
        r = Relu <consumed_inputs = [0]> (x)
        d = Dropout (r)
        m = Mul <broadcast = 1, axis = 1> (d, b)
        c = Clip <max = 9.0> (m)
        a = Add <broadcast = 1, axis = 1> (c, b)
        y = PRelu (a, b)
        z = Greater <broadcast = 1, axis = 1> (y, b)
    }"""
    made = hubtool.load(read_text(tmp_path, text, 1), backend="numpy").run({"x": X})
    b = B3.reshape(3, 1, 1)
    y = np.minimum(np.maximum(X, 0) * b, 9) + b
    np.testing.assert_allclose(made["y"], y, rtol=1e-6)
    np.testing.assert_array_equal(made["z"], y > b)


@pytest.mark.parametrize("c", [True, False])
def test_a_branch_is_rewritten_too(tmp_path: Path, c: bool) -> None:
    text = """(float[N, 3, 4, 5] x, bool c) => (float[N, 3, 4, 5] y) <float[3] b = {10, 20, 30}>
    {
        y = If (c) <
            then_branch = t () => (float[N, 3, 4, 5] one)
            { n = Neg (x) one = Add <broadcast = 1, axis = 1> (n, b) },
            else_branch = e () => (float[N, 3, 4, 5] two)
            { d = Dropout <is_test = 1> (x) two = PRelu (d, b) }
        >
    }"""
    graph = read_text(tmp_path, text, 6)
    y = hubtool.load(graph, backend="numpy").run({"x": X, "c": np.array(c)})["y"]
    b = B3.reshape(3, 1, 1)
    np.testing.assert_allclose(y, -X + b if c else np.where(X < 0, X * b, X), rtol=1e-6)


def test_gemm_flattened_an_image(tmp_path: Path) -> None:
    w, c = RANDOM.standard_normal((60, 4)).astype(np.float32), np.float32([1, 2, 3, 4])
    y = outputs(tmp_path, 3, make("Gemm", ["x", "w", "c"], broadcast=1), {"w": w, "c": c})
    np.testing.assert_allclose(y, X.reshape(2, -1) @ w + c, rtol=1e-4, atol=1e-5)


def test_a_name_that_is_taken_is_not_made_again(tmp_path: Path) -> None:
    text = """(float[N, 3, 4, 5] x) => (float[N, 3, 4, 5] y) <float[3] b = {10, 20, 30}>
    {
        y_aligned = Neg (x)
        y = Add <broadcast = 1, axis = 1> (y_aligned, b)
    }"""
    y = hubtool.load(read_text(tmp_path, text, 6), backend="numpy")(X)
    np.testing.assert_allclose(y, -X + B3.reshape(3, 1, 1), rtol=1e-6)


def test_what_cannot_be_known_is_refused_all_at_once(tmp_path: Path) -> None:
    text = """(float x, float[3] b, float[1] n) => (float[N] y)
    {
        s = Reshape (x)
        c = Cast <to = "FLOTE"> (s)
        d = Split (c, n)
        t = Tile (d, n, n)
        y = Add <broadcast = 1, axis = 1> (t, b)
    }"""
    with pytest.raises(UnsupportedError) as refusal:
        read_text(tmp_path, text.replace("float x", "float[] x"), 1)
    assert refusal.value.problems == [
        "layer 's' (Reshape) does not say a shape",
        "layer 'c' (Cast) casts to 'FLOTE', which is no type",
        "layer 'd' (Split) splits into parts that are computed, as only opset 1 and 13 can say",
        "layer 't' (Tile) repeats a shape not known, or as is computed only later",
        "layer 'y' (Add) broadcasts along axis 1 of a shape not known",
    ]


def test_statistics_of_test_mode_that_are_read_are_refused(tmp_path: Path) -> None:
    text = """(float[2, 3] x, float[3] s) => (float[2, 3] y, float[3] m)
    { y, m, v, a, b = BatchNormalization <is_test = 1> (x, s, s, s, s) }"""
    with pytest.raises(UnsupportedError, match=r"'y' .* gives statistics outside of training"):
        read_text(tmp_path, text, 6)


def test_a_layer_without_its_inputs_is_named(tmp_path: Path) -> None:
    text = "(float[2, 3] x) => (float[2, 3] y) { y = Add (x) }"
    with pytest.raises(UnsupportedError, match="lacks the input 'B'"):
        read_text(tmp_path, text, 6)
