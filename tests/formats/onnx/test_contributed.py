"""Operators that ONNX Runtime has put into ONNX's own domain, at opsets that know none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import write
from hubtool.interpreter import HOST, Program

make_node = onnx.helper.make_node
rng = np.random.default_rng(5)
X = rng.standard_normal((2, 3, 4)).astype(np.float32)
FEEDS = {"x": X, "scale": rng.standard_normal((3, 4)).astype(np.float32)}


def saved(path: Path, opset: int, nodes: list[Any]) -> Path:
    """A model x, scale -> y of these nodes."""

    def info(name: str, dims: Any) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)

    inputs = [info(name, x.shape) for name, x in FEEDS.items()]
    graph = onnx.helper.make_graph(nodes, "contributed", inputs, [info("y", None)])
    opsets = [onnx.helper.make_opsetid("", opset)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def in_runtime(path: Path) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {entry.name: FEEDS[entry.name] for entry in session.get_inputs()}
    (y,) = session.run(["y"], feeds)
    return y


CASES = [
    ("SimplifiedLayerNormalization", "RMSNormalization", 9, {"axis": 1, "epsilon": 0.01}),
    ("SimplifiedLayerNormalization", "RMSNormalization", 17, {"axis": -2}),
    ("SimplifiedLayerNormalization", "RMSNormalization", 22, {"axis": -2, "stash_type": 1}),
    ("LayerNormalization", "LayerNormalization", 9, {"axis": 1, "epsilon": 0.01}),
    ("LayerNormalization", "LayerNormalization", 16, {"axis": -2}),
    ("LayerNormalization", "LayerNormalization", 17, {"axis": -2}),
]


@pytest.mark.parametrize(("op", "called", "opset", "attrs"), CASES)
def test_a_norm_is_read_as_onnx_has_it_and_written_back(tmp_path, op, called, opset, attrs):
    nodes = [
        make_node(op, ["x", "scale"], ["n"], "norm", **attrs),
        make_node("Softmax", ["n"], ["y"], "end", axis=2),
    ]
    path = saved(tmp_path / "in.onnx", opset, nodes)
    wanted, graph = in_runtime(path), read(path, isolated=False)
    assert (graph.layers[0].name, graph.layers[0].op) == ("norm", called)
    (made,) = Program(graph, HOST).run(FEEDS).values()
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6)
    write(graph, tmp_path / "back.onnx")
    np.testing.assert_allclose(in_runtime(tmp_path / "back.onnx"), wanted, rtol=1e-5, atol=1e-6)


def test_the_newest_opset_knows_no_simplified_norm_either(tmp_path):
    nodes = [make_node("SimplifiedLayerNormalization", ["x", "scale"], ["y"], axis=1)]
    graph = read(saved(tmp_path / "in.onnx", 28, nodes), isolated=False)
    (made,) = Program(graph, HOST).run(FEEDS).values()
    size = np.sqrt((X**2).mean(axis=(1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(made, X / size * FEEDS["scale"], rtol=1e-5)


@pytest.mark.parametrize("opset", [7, 28])
def test_copies_between_devices_are_copies(tmp_path, opset):
    nodes = [
        make_node("MemcpyFromHost", ["x"], ["a"]),
        make_node("MemcpyToHost", ["a"], ["b"]),
        make_node("Add", ["b", "scale"], ["y"]),
    ]
    graph = read(saved(tmp_path / "in.onnx", opset, nodes), isolated=False)
    assert [layer.op for layer in graph.layers] == ["Identity", "Identity", "Add"]
    (made,) = Program(graph, HOST).run(FEEDS).values()
    assert np.array_equal(made, X + FEEDS["scale"])


def test_an_output_for_training_is_refused_where_it_is_read(tmp_path):
    def norm(second: str) -> Any:
        outputs = ["n", second]
        return make_node("SimplifiedLayerNormalization", ["x", "scale"], outputs, "norm", axis=1)

    unread = [norm("inverse"), make_node("Identity", ["n"], ["y"])]
    read(saved(tmp_path / "unread.onnx", 17, unread), isolated=False)
    with pytest.raises(UnsupportedError) as caught:
        path = saved(tmp_path / "read.onnx", 17, [norm("i"), make_node("Add", ["n", "i"], ["y"])])
        read(path, isolated=False)
    assert caught.value.problems == [
        "layer 'norm' (SimplifiedLayerNormalization) gives inv_std_var, which only a training wants"
    ]
