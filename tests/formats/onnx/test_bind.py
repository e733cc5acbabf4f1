"""Signatures of operators that onnx has no schema of: hubtool's functions say what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.bind import known_signature, signature_of
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import write
from hubtool.graph import Graph, Layer, Value
from hubtool.ops import load_ops

Kind = onnx.AttributeProto.AttributeType
RUNTIME = {s.name: s for s in get_all_operator_schema() if s.domain == "com.microsoft"}
MICROSOFT = [name for name in load_ops() if name.startswith("com.microsoft.")]


@pytest.mark.parametrize("op", MICROSOFT)
def test_the_kinds_of_attributes_are_those_of_onnxruntimes_schemas(op):
    attributes = RUNTIME[op.removeprefix("com.microsoft.")].attributes
    wanted = {
        key: Kind.Value(str(entry.type).rpartition(".")[2]) for key, entry in attributes.items()
    }
    assert known_signature(op, 1).kinds == wanted


@pytest.mark.parametrize(
    ("op", "before", "since"), [("Gelu", 19, 20), ("ai.onnx.ml.TreeEnsemble", 3, 5)]
)
def test_an_operator_of_onnx_is_not_known_before_onnx_had_it(op, before, since):
    assert signature_of(op, before) is None
    assert signature_of(op, since) is not None


def info(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 4, 4])


def saved(path: Path, op: str, inputs: list[str], **attrs: Any) -> Path:
    node = onnx.helper.make_node(op, inputs, ["y"], "one", domain="com.microsoft", **attrs)
    graph = onnx.helper.make_graph([node], "one", [info(name) for name in inputs], [info("y")])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), path)
    return path


def test_an_attribute_of_another_kind_is_refused(tmp_path):
    path = saved(tmp_path / "wrong.onnx", "QuickGelu", ["x"], alpha=2)
    with pytest.raises(UnsupportedError) as caught:
        read(path, isolated=False)
    assert caught.value.problems == [
        "layer 'one' (QuickGelu): attribute 'alpha' is of kind INT, not FLOAT"
    ]


def test_an_empty_list_is_written_as_a_list_of_its_kind(tmp_path):
    attrs = {"activation_params": [], "group": 1, "strides": [1, 1], "auto_pad": "VALID"}
    value = Value("tensor", "float32", (1, 1, 4, 4))
    layers = [Layer("conv", "com.microsoft.FusedConv", {"X": "x", "W": "w"}, ["y"], attrs)]
    write(Graph(layers, {"x": value, "w": value}, {"y": value}), tmp_path / "out.onnx")
    (conv,) = onnx.load(tmp_path / "out.onnx").graph.node
    assert {a.name: a.type for a in conv.attribute} == {
        "activation_params": Kind.FLOATS,
        "auto_pad": Kind.STRING,
        "strides": Kind.INTS,
    }
    again = read(tmp_path / "out.onnx", isolated=False)
    assert again.layers[0].attrs == attrs
