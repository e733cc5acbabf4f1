"""Files that cannot be read: all that is wrong is told at once, by name, with the next step."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hostile import model, node, problems, reading, save, tensor, value
from onnx import NodeProto, helper
from onnx.numpy_helper import from_array

from hubtool.errors import HubtoolError, ReadError, UnsupportedError
from hubtool.formats.onnx.read import read

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def branch(name: str, *nodes: NodeProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [value("y", None)])


def broken(opset: int) -> onnx.ModelProto:
    twice = node("LeakyRelu", ["h"], ["i"], name="twice")
    twice.attribute.extend([helper.make_attribute("alpha", alpha) for alpha in (0.1, 0.2)])
    branches = {
        "then_branch": branch("t", node("Odd", ["X"], ["y"], name="inner")),
        "else_branch": branch("e", node("Relu", ["X"], ["y"])),
    }
    nodes = [
        node("Invented", ["X"], ["a"], name="new"),
        node("Gelu", ["a"], ["b"], name="far", domain="com.example"),
        node("Relu", ["b"], ["c"], name="attr", zoom=2),
        node("Add", ["c"], ["d"], name="one"),
        node("Conv", ["d", ""], ["e"], name="weightless"),
        node("Relu", ["nowhere"], ["f"], name="lost"),
        node("Relu", ["later"], ["g"], name="early"),
        node("Relu", ["g"], ["later"], name="late"),
        node("Relu", ["later"], ["g"], name="again"),
        node("LeakyRelu", ["g"], ["h"], name="kind", alpha=3),
        twice,
        node("Relu", ["i"], ["j", "k"], name="two"),
        node("Relu", ["j"], ["l"], name="many", domain="ai.onnx"),
        node("Relu", ["l", "l"], ["m"], name="fed"),
        node("Concat", ["m"], ["n"], name="axisless"),
        node("Constant", [], ["o", "p"], name="pair", value_float=1.0),
        node("Constant", [], ["q"], name="none"),
        node("If", ["c"], ["r"], name="if", **branches),
        node("Sub.Relu", ["r"], ["s"], name="dotted"),
    ]
    return model(nodes, opset=opset)


@pytest.mark.parametrize("opset", [9, 13, 28])
@pytest.mark.parametrize("isolated", [True, False])
def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, opset: int, isolated: bool) -> None:
    with pytest.raises(UnsupportedError) as refusal:
        read(save(tmp_path / "m.onnx", broken(opset)), isolated=isolated)
    assert refusal.value.problems == [
        "layer 'new' (Invented): no operator 'Invented' is known",
        "layer 'far' (Gelu): no operator 'com.example.Gelu' is known",
        "layer 'attr' (Relu) has the unknown attribute 'zoom'",
        "layer 'one' (Add) lacks the input 'B'",
        "layer 'weightless' (Conv) lacks the input 'W'",
        "layer 'lost' (Relu) reads 'nowhere' before anything has made it",
        "layer 'early' (Relu) reads 'later' before anything has made it",
        "layer 'again' (Relu) makes 'g', which exists already",
        "layer 'kind' (LeakyRelu): attribute 'alpha' is of kind INT, not FLOAT",
        "layer 'twice' (LeakyRelu) has the attribute 'alpha' twice",
        "layer 'two' (Relu) makes 2 values; 1 to 1 are possible",
        "layer 'fed' (Relu) has 2 inputs, at most 1 are known",
        "layer 'axisless' (Concat) lacks the attribute 'axis'",
        "layer 'pair' (Constant) must have exactly one attribute and one output",
        "layer 'none' (Constant) must have exactly one attribute and one output",
        "layer 'inner' (Odd): no operator 'Odd' is known",
        "layer 'dotted' (Sub.Relu): no operator 'Sub.Relu' is known",
        "output 'Y' is made by no layer",
    ]
    assert str(refusal.value).endswith("The names above are those of the ONNX file's own nodes.")


def test_names_that_stand_twice_or_not_at_all_are_told(tmp_path: Path) -> None:
    weights = [from_array(X, "W"), from_array(X, "W"), from_array(X, "")]
    proto = model(
        [node("Add", ["X", "W"], ["Y"])],
        inputs=[value("X"), value("X"), value("")],
        outputs=[value("Y", None), value("Y", None)],
        weights=weights,
    )
    assert problems(tmp_path, proto) == [
        "initializer 'W' exists twice",
        "initializer '' lacks a name",
        "input 'X' is listed 2 times",
        "an input has no name",
        "output 'Y' is listed 2 times",
    ]


def test_a_model_without_outputs_is_refused(tmp_path: Path) -> None:
    proto = model([node("Relu", ["X"], ["Y"])])
    proto.graph.ClearField("output")
    assert problems(tmp_path, proto) == ["graph 'g' has no outputs"]


def test_an_operator_of_a_domain_that_is_not_imported_is_told(tmp_path: Path) -> None:
    proto = model([node("Normalizer", ["X"], ["Y"], name="n", domain="ai.onnx.ml")])
    assert problems(tmp_path, proto) == [
        "layer 'n' (Normalizer): the model does not import its domain 'ai.onnx.ml'"
    ]


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    data = model([node("Relu", ["X"], ["Y"], name="name")]).SerializeToString()
    for spot, kind in ((b"name", "name of a NodeProto"), (b"Relu", "op_type of a NodeProto")):
        path = save(tmp_path / "m.onnx", data.replace(spot, b"\xff\xfe\xff\xfe"))
        with pytest.raises(ReadError, match=f"the {kind} is not UTF-8 text"):
            read(path, isolated=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"opset": 29}, "opset 29, and this hubtool knows opsets up to 28; upgrade hubtool"),
        ({"opset": 10**12}, "knows opsets up to 28"),
        ({"opset": 0}, "opset 0, which there never was"),
        ({"opset": -1}, "opset -1, which there never was"),
        ({"ir": 99}, "IR version 99, and this hubtool knows IR versions up to 14"),
        ({"ir": 0}, "IR version 0"),
        ({"ir": -(2**40)}, "IR version"),
        ({"domains": {"ai.onnx": 12}}, r"more than one opset: \[12, 28\]"),
    ],
)
def test_a_version_that_cannot_be_is_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ReadError, match=reason):
        reading(tmp_path, model([node("Relu", ["X"], ["Y"])], **change))


def test_a_newer_domain_is_refused(tmp_path: Path) -> None:
    layer = node("Normalizer", ["X"], ["Y"], domain="ai.onnx.ml")
    found = problems(tmp_path, model([layer], domains={"ai.onnx.ml": 6}))
    assert found == ["it needs ai.onnx.ml 6, and this hubtool knows 5: upgrade hubtool"]


def test_a_model_that_names_no_opset_is_refused_from_ir_3_on(tmp_path: Path) -> None:
    proto = model([node("Relu", ["X"], ["Y"])])
    proto.ClearField("opset_import")
    with pytest.raises(ReadError, match="does not say for which opset it is written"):
        reading(tmp_path, proto)
    proto.ir_version = 2
    assert reading(tmp_path, proto).meta["source"]["opset"] == 1


def test_the_domain_ai_onnx_may_be_written_out(tmp_path: Path) -> None:
    proto = model([node("Relu", ["X"], ["Y"], domain="ai.onnx")])
    proto.opset_import[0].domain = "ai.onnx"
    assert [layer.op for layer in reading(tmp_path, proto).layers] == ["Relu"]


# What is no ONNX model at all.


def zip_file(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"x")


def safetensors_file(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"abcd")


POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 102442450
"""

OTHERS: dict[str, tuple[Any, str]] = {
    "Git LFS pointer": (POINTER, "is a Git LFS pointer, not the model\n`git lfs pull`"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "is a web page, not a model"),
    "web page after blanks": (b"\n\n  <html>", "is a web page, not a model"),
    "XML with a mark": (b"\xef\xbb\xbf<?xml version='1.0'?>", "is a web page, not a model"),
    "JSON": (b'{"error": "not found"}', "is JSON text, not an ONNX model"),
    "zip of PyTorch": (zip_file, "is a zip archive, as PyTorch writes"),
    "pickle": (pickle.dumps({"w": [1]}, protocol=2), "is a Python pickle"),
    "safetensors": (safetensors_file, "is a safetensors file, not an ONNX model"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "is compressed with gzip"),
    "GGUF": (b"GGUF\x03\x00\x00\x00", "is a GGUF file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "is an HDF5 file"),
    "text": (b"hello, this is no model at all\n", "is damaged or no ONNX model"),
    "picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "is damaged or no ONNX model"),
    "zeros": (b"\0" * 1000, "is damaged or no ONNX model"),
    "another message": (b"\x0a\x03abc", "it holds no graph: this is no ONNX model"),
}


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_onnx_model_is_told_as_what_it_is(
    tmp_path: Path, case: str, isolated: bool
) -> None:
    content, reason = OTHERS[case]
    path = tmp_path / "model.onnx"
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ReadError) as refusal:
        read(path, isolated=isolated)
    assert reason in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"m\.onnx' is empty"):
        read(save(tmp_path / "m.onnx", b""))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"there is no file '.*none\.onnx'"):
        read(tmp_path / "none.onnx")


def test_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="is a folder, not an ONNX model"):
        read(tmp_path)


@pytest.mark.parametrize("path", ["a/b.onnx", "\0", "x" * 5000])
def test_a_path_that_cannot_be_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").touch()
    with pytest.raises(ReadError):
        read(path)


def test_a_file_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a refusal made here, because the tests may run as root, whom nothing is refused."""
    from hubtool.formats.onnx import read as module

    def refuse(*arguments: Any) -> int:
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "m.onnx", model([node("Relu", ["X"], ["Y"])]))
    monkeypatch.setattr(module.os, "open", refuse)
    with pytest.raises(ReadError, match=r"m\.onnx' cannot be read: Permission denied"):
        read(path)


def test_damage_in_several_tensors_is_told_at_once_with_their_layers(tmp_path: Path) -> None:
    bad = tensor("", [2], b"abc")
    nodes = [node("Constant", [], ["c"], name="c", value=bad), node("Add", ["c", "W"], ["Y"])]
    proto = model(nodes, weights=[tensor("W", [3], b"a"), tensor("V", [3], b"a", 99)])
    with pytest.raises(ReadError) as refusal:
        reading(tmp_path, proto)
    assert refusal.value.problems == [
        "layer 'c' (Constant): tensor '': it holds 3 bytes, its shape and type ask for 8",
        "tensor 'W': it holds 1 bytes, its shape and type ask for 12",
        "tensor 'V': its element type 99 is unknown",
    ]


def test_a_refusal_is_one_of_ours_and_says_which_file(tmp_path: Path) -> None:
    path = save(tmp_path / "some name.onnx", broken(28))
    with pytest.raises(HubtoolError, match="some name"):
        read(path)
