"""tests/formats/v1 is a folder of format version 1, kept for good: it must be read for ever.

It holds every kind of content that the format knows. `python tests/formats/test_native_v1.py`
wrote it once; it is written anew only if a fault in the format itself has to be mended before
anyone else has used it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from hubtool.dtypes import BITS, DTYPES, numpy_dtype
from hubtool.formats import native
from hubtool.formats.safetensors import ITEMSIZE
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value

V1 = Path(__file__).with_name("v1")


def tensors() -> dict[str, Tensor]:
    """One of every element type, and the odd shapes."""
    arrays = {}
    for number, dtype in sorted(DTYPES.items()):
        if dtype == "string":
            arrays["every/string"] = np.array([["", "a"], ["naïve", "日本\0"]], object)
        elif dtype == "bool":
            arrays["every/bool"] = np.array([True, False, True])
        elif dtype.startswith("complex"):
            arrays[f"every/{dtype}"] = np.array([1 + 2j, -0.5j], dtype)
        else:
            width = numpy_dtype(dtype).itemsize
            raw = (np.arange(5 * width) * 37 + number).astype(np.uint8)
            if BITS[dtype] < 8:
                raw &= 2 ** BITS[dtype] - 1
            arrays[f"every/{dtype}"] = raw.view(numpy_dtype(dtype))
    arrays["special"] = np.array([math.inf, -math.inf, math.nan, -0.0, 1e-45], np.float32)
    arrays["scalar"] = np.array(7, np.int64)
    arrays["empty"] = np.zeros((0, 3), np.float32)
    arrays["no text"] = np.zeros((0,), object)
    arrays["W"] = np.arange(6, dtype=np.float32).reshape(3, 2)
    arrays["every/string/offsets"] = np.array([1], np.int8)  # the wish of another tensor
    arrays["__metadata__"] = np.array([2], np.int8)
    arrays["const/value"] = np.array([1, 2], np.int64)
    arrays["if/then_branch/k"] = np.array([3], np.float32)
    return {name: Tensor.of(array) for name, array in arrays.items()}


def branch(number: float, *, deeper: bool) -> Graph:
    """A branch of an If; both use the same names, and one holds another If."""
    layers = [Layer("add", "Add", {"A": "h", "B": "k"}, ["r"])]
    if deeper:
        attrs = {
            "then_branch": branch(number * 10, deeper=False),
            "else_branch": branch(number * 20, deeper=False),
        }
        layers = [Layer("if", "If", {"cond": "c"}, ["r"], attrs)]
    return Graph(
        layers=layers,
        outputs={"r": Value("tensor", "float32", None)},
        tensors={"k": Tensor.of(np.array([number], np.float32))},
        values={"k": Value("tensor", "float32", (1,))},
    )


def layers() -> list[Layer]:
    kinds = {
        "int": 1,
        "last exact int": 2**53,
        "big int": 2**63 - 1,
        "small int": -(2**63),
        "float": 1e-05,
        "whole float": 1.0,
        "minus zero": -0.0,
        "huge float": 3.4028235e38,
        "inf": math.inf,
        "-inf": -math.inf,
        "nan": math.nan,
        "text": 'quote " backslash \\ newline \n ü 日本 \u2028',
        "bytes": b"\xff\x00\xfe",
        "no bytes": b"",
        "no items": [],
        "ints": [0, -1, 2**60],
        "floats": [0.1, 1.0, math.nan],
        "texts": ["", "a"],
        "blobs": [b"a", b"\x80"],
        "tensor": TensorRef("const/value"),
        "type": Value("optional(sequence)", "float32", ("N", None, 3)),
        "64 ints": list(range(64)),
        "65 ints": [2**62 - n for n in range(65)],
        "65 floats": [0.1] * 62 + [math.inf, -math.inf, math.nan],
        "65 texts": ["", "naïve", "c", "d", "e"] * 13,
        "65 blobs": [b"\x00"] * 65,
    }
    return [
        Layer("dense", "Gemm", {"A": "x", "B": "W"}, ["h"], {"alpha": 1.0, "transA": 0}),
        Layer("every kind/of attribute", "Constant", {}, ["unused", "", "last"], kinds),
        Layer(
            "const",
            "ConstantOfShape",
            {"input": "scalar"},
            ["f"],
            {"value": TensorRef("const/value")},
        ),
        Layer(
            "if",
            "If",
            {"cond": "c"},
            ["i"],
            {"then_branch": branch(1, deeper=True), "else_branch": branch(2, deeper=False)},
        ),
        Layer("cat", "Concat", {"inputs": ["h", "i", "h"]}, ["y"], {"axis": -1}),
        Layer("scale", "ai.onnx.ml.Scaler", {"X": "y"}, ["s"], {"scale": [0.5], "offset": [0.0]}),
        Layer("gelu", "com.microsoft.Gelu", {"X": "s"}, ["1"]),
    ]


def everything() -> Graph:
    return Graph(
        layers=layers(),
        inputs={
            "x": Value("tensor", "float32", ("batch", 3)),
            "10": Value("tensor", "float32", None),
            "9": Value("tensor", "", (None, 1, "N")),
            "c": Value("tensor", "bool", ()),
            "list": Value("sequence", "int64", (2, None)),
            "maybe": Value("optional", "float16", None),
            "table": Value("map(int64)", "float32", ()),
            "tables": Value("sequence(map(string))", "int64", None),
            "W": Value("tensor", "float32", (3, 2)),  # an input with a default
        },
        outputs={"1": Value("tensor", "float32", ("batch", 2)), "h": Value("tensor", "", None)},
        tensors=tensors(),
        values={"i": Value("tensor", "float32", (None, 2)), "s": Value("tensor", "float32", None)},
        meta={
            "name": "everything",
            "source": {"file": "everything.onnx", "sha256": "0" * 64, "size": 1, "opset": 17},
            "labels": [f"class {number}" for number in range(100)],
            "preprocessing": {
                "channels": "RGB",
                "resize": 256,
                "interpolation": "bilinear",
                "crop": 224,
                "range": [0, 1],
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
                "layout": "NCHW",
            },
            "notes": [],
            "licence": None,
            "other": {"deep": [True, False, 1e300, -1, {"": ""}]},
        },
    )


def test_version_1_is_read() -> None:
    graph = native.read(V1, verify=True)
    expected = everything()
    for name, tensor in expected.tensors.items():
        assert graph.tensors[name] == tensor, name
    for layer, wanted in zip(graph.layers, expected.layers, strict=True):
        assert layer == wanted
    assert graph == expected
    assert list(graph.inputs) == list(expected.inputs)


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    native.write(everything(), tmp_path / "v1")
    for name in ("graph.json", "model.safetensors"):
        assert (tmp_path / "v1" / name).read_bytes() == (V1 / name).read_bytes(), name


def test_version_1_holds_every_kind_of_content() -> None:
    text = (V1 / "graph.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert document["format"] == 1
    assert {t["dtype"] for t in document["tensors"].values()} == set(DTYPES.values())
    assert {t["stored"] for t in document["tensors"].values()} == set(ITEMSIZE)
    for tag in ("int", "float", "bytes", "list", "tensor", "graph", "type"):
        assert f'{{"{tag}": ' in text, tag


if __name__ == "__main__":
    native.write(everything(), V1)
