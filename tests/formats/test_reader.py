"""docs/format.md is enough to write a reader: reader.mjs was written from that page alone.

It is JavaScript, shares nothing with hubtool but the page, and prints all that it has understood
of a folder as one JSON document (its header comment says how). Here the same document is made from
what hubtool reads, and the two must be equal. Where they differ, the page or a reader is wrong.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hubtool
from formats.test_native import JSON, graphs
from hubtool import Graph, Layer, Tensor, TensorRef, Value
from hubtool.dtypes import BITS, numpy_dtype
from hubtool.formats.native_structure import domains
from hubtool.ops import OPSETS

NODE = shutil.which("node")
READER = Path(__file__).parents[2] / "examples" / "reader.mjs"
DUMP = Path(__file__).with_name("dump.mjs")
V1 = Path(__file__).with_name("v1")

pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")


def run_node(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(NODE), *arguments], capture_output=True, encoding="utf-8")


def told_by_node(folder: Path) -> Any:
    done = run_node(DUMP, folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, parse_int=float)  # JavaScript writes 1e20 as an integer


def told_by_hubtool(folder: Path) -> Any:
    graph = hubtool.read(folder, verify=True)
    opsets = {name: OPSETS[name] for name in domains(graph)}
    return {"format": 1, "opsets": opsets, "meta": graph.meta, **canonical(graph)}


def canonical(graph: Graph) -> dict[str, Any]:
    return {
        "inputs": [{"name": name, **told_value(v)} for name, v in graph.inputs.items()],
        "outputs": [{"name": name, **told_value(v)} for name, v in graph.outputs.items()],
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "inputs": layer.inputs,
                "outputs": layer.outputs,
                "attrs": {key: told_attr(attr, graph) for key, attr in layer.attrs.items()},
            }
            for layer in graph.layers
        ],
        "tensors": {name: digest(tensor) for name, tensor in graph.tensors.items()},
        "values": {name: told_value(value) for name, value in graph.values.items()},
    }


def told_value(value: Value) -> dict[str, Any]:
    shape = None if value.shape is None else list(value.shape)
    return {"kind": value.kind, "dtype": value.dtype, "shape": shape}


def told_attr(attr: Any, graph: Graph) -> Any:
    match attr:
        case list():
            return [told_attr(item, graph) for item in attr]
        case int():
            return {"int": str(attr)}
        case float():
            bits = np.float32(attr).view(np.uint32)
            return {"float": "nan" if attr != attr else f"{bits:08x}"}
        case bytes():
            return {"bytes": attr.hex()}
        case TensorRef():
            return {"tensor": digest(graph.tensors[attr.name])}
        case Graph():
            return {"graph": canonical(attr)}
        case Value():
            return {"type": told_value(attr)}
        case _:
            return attr


def digest(tensor: Tensor) -> dict[str, Any]:
    sha256 = hashlib.sha256(packed(tensor)).hexdigest()
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "sha256": sha256}


def packed(tensor: Tensor) -> bytes:
    """The elements as the header comment of dump.mjs lays them out."""
    if tensor.dtype == "string":
        texts = list(tensor.array.flat)
        return json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode()
    array = tensor.array
    if tensor.dtype in ("int4", "int2"):
        array = array.astype(np.int8)
    return array.tobytes()


def branch(number: float) -> Graph:
    """A branch with weights of its own, one of which hides a name from around; 1 holds an If."""
    layers = [Layer("const", "Constant", {}, ["r"], {"value": TensorRef("k"), "list": [0.1] * 65})]
    if number == 1:
        attrs = {"then_branch": branch(2), "else_branch": branch(3), "all": [branch(4), branch(5)]}
        layers = [Layer("if", "If", {"cond": "c"}, ["r"], attrs)]
    return Graph(
        layers=layers,
        outputs={"r": Value("tensor", "float32", None)},
        tensors={
            "k": Tensor.of(np.array([number], np.float32)),
            "W": Tensor.of(np.array(["ü", "", "\ufeffx"], object)),
        },
    )


def odd() -> Graph:
    """What a reader in another language is likely to stumble on."""
    attrs: dict[str, Any] = {
        "int": 1,
        "float": 1.0,
        "zeros": [0, 0.0, -0.0],
        "big": [2**53, 2**53 + 1, -(2**63), 2**63 - 1],
        "floats": [1e-45, 16777216.0, 7.038531e-26, 3.4028235e38, float("-inf"), float("nan")],
        "looks like numbers": 'a "1.5" \\ 2.5e3, \\" 1.0',
        "bytes": b"\x00\xff\xfe",
        "long ints": [2**60 - n for n in range(65)],
        "long floats": [0.1, float("inf"), float("nan")] * 22,
        "long texts": ["", "naïve", "日本\0", "\ufeff"] * 17,
        "mixed": [1, 1.5] * 33,
        "type": Value("map(int64)(sequence)", "bfloat16", ("N", None)),
        "then_branch": branch(1),
        "else_branch": branch(2),
        "__proto__": "text",
    }
    every = {dtype: (np.arange(15).reshape(3, 5) % 4).astype(numpy_dtype(dtype)) for dtype in BITS}
    tensors = {
        **every,
        **{f"{dtype} one": array[2, 3] for dtype, array in every.items()},
        **{f"{dtype} none": array[:, :0] for dtype, array in every.items()},
        "int4 signs": np.arange(-8, 8).astype(numpy_dtype("int4")),
        "int2 signs": np.array([-2, -1, 0, 1, -2]).astype(numpy_dtype("int2")),
        "texts": np.array([["a", "né"], ["", '"\\\n\x01\x7f\u2028\0']], object),
        "texts/offsets": np.array([1], np.int8),
        "no texts": np.zeros((2, 0), object),
        "if/then_branch/k": np.array([9.0], np.float32),
        "W": np.array([[1 + 2j, -0.5j]], np.complex64),
        "__proto__": np.array([1], np.int64),
        "__metadata__": np.array([2], np.uint64),
        "toString": np.array([float("nan"), -0.0], np.float64),
        "10": np.array([True, False]),
    }
    return Graph(
        layers=[
            Layer("if", "If", {"cond": "c"}, ["", "__proto__ too"], attrs),
            Layer("cat", "Concat", {"inputs": ["x", "x"]}, ["y"], {"axis": -1}),
            Layer("scale", "ai.onnx.ml.Scaler", {"X": "y"}, ["constructor"]),
        ],
        inputs={
            "x": Value("tensor", "float32", ("N", 3, None)),
            "c": Value("tensor", "bool", ()),
            "W": Value("tensor", "", None),
            "1": Value("sequence(map(string))", "string", None),
        },
        outputs={"y": Value("tensor", "", None), "constructor": Value("optional", "int2", (0,))},
        tensors={name: Tensor.of(np.asarray(array)) for name, array in tensors.items()},
        values={"__proto__": Value("tensor", "int64", (1,))},
        meta={"name": "odd", "__proto__": 1, "n": [1, 1.0, 0.1, 1e300, -(2**53), None, True]},
    )


def test_version_1_is_read_alike() -> None:
    assert told_by_node(V1) == told_by_hubtool(V1)


def test_what_is_odd_is_read_alike(tmp_path: Path) -> None:
    hubtool.save(odd(), tmp_path / "odd")
    told = told_by_node(tmp_path / "odd")
    assert told == told_by_hubtool(tmp_path / "odd")
    assert told["tensors"] == {name: digest(t) for name, t in odd().tensors.items()}


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs(), meta=st.dictionaries(st.text(), JSON, max_size=3))
def test_any_graph_is_read_alike(graph: Graph, meta: dict[str, Any]) -> None:
    graph.meta = meta
    with tempfile.TemporaryDirectory() as place:
        hubtool.save(graph, Path(place, "any"))
        assert told_by_node(Path(place, "any")) == told_by_hubtool(Path(place, "any"))


def test_a_converted_resnet_is_read_alike(tmp_path: Path, sketch18: Path) -> None:
    hubtool.convert(sketch18, tmp_path / "resnet", verify=False)
    told = told_by_node(tmp_path / "resnet")
    assert told == told_by_hubtool(tmp_path / "resnet")
    assert any(layer["op"] == "Conv" for layer in told["layers"])


def test_a_light_model_is_read_alike(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("onnx")
    assert spec is not None and spec.origin is not None
    (path,) = Path(spec.origin).parent.rglob("light_inception_v2.onnx")
    hubtool.convert(path, tmp_path / "light", verify=False)
    assert told_by_node(tmp_path / "light") == told_by_hubtool(tmp_path / "light")


def test_the_library_gives_decoded_attributes_and_elements(tmp_path: Path) -> None:
    hubtool.save(odd(), tmp_path / "odd")
    script = f"""
        import {{ read }} from {json.dumps(READER.as_uri())};
        const {{ layers, tensors }} = read({json.dumps(str(tmp_path / "odd"))});
        const attrs = layers[0].attrs;
        console.log(JSON.stringify([
            typeof attrs.int, typeof attrs.float, String(attrs.big[3]),
            Object.is(attrs.zeros[2], -0), attrs.bytes instanceof Uint8Array,
            attrs["long texts"][1], attrs.type.type,
            Array.from(attrs.then_branch.graph.layers[0].attrs.all[1].graph.tensors.k.data),
            Array.from(tensors["int4 signs"].data), tensors.texts.data.slice(0, 3),
        ]));
    """
    done = run_node("--input-type=module", "--eval", script)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        *("bigint", "number", str(2**63 - 1), True, True, "naïve"),
        {"kind": "map(int64)(sequence)", "dtype": "bfloat16", "shape": ["N", None]},
        *([5], list(range(-8, 8)), ["a", "né", ""]),
    ]


def raised(document: dict[str, Any]) -> None:
    document["format"] = 2
    document["a key of format 2"] = {}


def unknown_key(document: dict[str, Any]) -> None:
    document["layers"][0]["color"] = "red"


def unknown_tag(document: dict[str, Any]) -> None:
    document["layers"][0]["attrs"]["alpha"] = {"complex": "1"}


def unnamed(document: dict[str, Any]) -> None:
    del document["tensors"]["every/int4"]


def other_type(document: dict[str, Any]) -> None:
    document["tensors"]["every/int4"].update(dtype="float32", stored="F32")


def outside(document: dict[str, Any]) -> None:
    document["weights"][0]["file"] = "../v1/model.safetensors"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (raised, "format 2 is unknown"),
        (unknown_key, "color"),
        (unknown_tag, "no attribute"),
        (unnamed, "every/int4 is named nowhere"),
        (other_type, "every/int4 is not in the weights as F32"),
        (outside, "no plain name"),
    ],
)
def test_a_document_out_of_order_is_refused(
    damage: Callable[[dict[str, Any]], None], word: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(V1, tmp_path / "v1")
    document = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    damage(document)
    (folder / "graph.json").write_text(json.dumps(document), encoding="utf-8")
    done = run_node(DUMP, folder)
    assert done.returncode != 0 and done.stdout == ""
    assert word in done.stderr
    with pytest.raises(hubtool.ReadError):
        hubtool.read(folder)


@pytest.mark.parametrize(("kept", "word"), [(-1, "bytes, not"), (None, "another sha256")])
def test_damaged_weights_are_refused(kept: int | None, word: str, tmp_path: Path) -> None:
    folder = shutil.copytree(V1, tmp_path / "v1")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data[:kept])
    done = run_node(DUMP, folder)
    assert done.returncode != 0 and done.stdout == ""
    assert word in done.stderr
