"""Opsets 1 to 6: each operator that was issued anew up to 7 means what it meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import hubtool
from hubtool.errors import ReadError, UnsupportedError
from hubtool.formats.onnx.read import read

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


def test_batch_normalization_in_training_is_refused(tmp_path: Path) -> None:
    node = helper.make_node(
        "BatchNormalization",
        ["x", "s", "b", "m", "v"],
        ["y", "m2", "v2", "sm", "sv"],
        name="odd",
    )
    weights = {name: np.ones(3, np.float32) for name in "sbmv"}
    with pytest.raises((ReadError, UnsupportedError), match=r"'odd'.*training mode"):
        outputs(tmp_path, 6, node, weights)


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
