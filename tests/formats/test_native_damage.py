"""A folder from a stranger: whatever is wrong with it is a ReadError that says all of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubtool.dtypes import numpy_dtype
from hubtool.errors import ReadError
from hubtool.formats import native
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value

Document = dict[str, Any]


def healthy() -> Graph:
    body = Graph(
        layers=[Layer("inner", "Relu", {"X": "h"}, ["r"], {"list": [0.5] * 65})],
        outputs={"r": Value("tensor", "float32", None)},
    )
    return Graph(
        layers=[
            Layer(
                "dense", "Gemm", {"A": "x", "B": "W"}, ["h"], {"alpha": 1.0, "t": TensorRef("t")}
            ),
            Layer("if", "If", {"cond": "c"}, ["y"], {"then_branch": body, "else_branch": body}),
        ],
        inputs={"x": Value("tensor", "float32", ("N", 3)), "c": Value("tensor", "bool", ())},
        outputs={"y": Value("tensor", "float32", None)},
        tensors={
            "W": Tensor.of(np.arange(6, dtype=np.float32).reshape(3, 2)),
            "t": Tensor.of(np.array(["a", "bc"], object)),
            "b": Tensor.of(np.array([True, False])),
            "i": Tensor.of(np.array([1, 2, 3]).astype(numpy_dtype("int4"))),
        },
        values={"h": Value("tensor", "float32", ("N", 2))},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    native.write(healthy(), tmp_path / "m")
    return tmp_path / "m"


def document_of(folder: Path) -> Document:
    document: Document = json.loads((folder / "graph.json").read_text())
    return document


def put(folder: Path, document: Document) -> None:
    (folder / "graph.json").write_text(json.dumps(document))


def error_of(folder: Path) -> ReadError:
    with pytest.raises(ReadError) as caught:
        native.read(folder)
    assert str(folder) in caught.value.message
    return caught.value


def setting(path: str, value: Any) -> Callable[[Document], None]:
    """Sets what lies at "layers/0/name"."""

    def change(document: Document) -> None:
        *way, last = [int(step) if step.isdigit() else step for step in path.split("/")]
        place: Any = document
        for step in way:
            place = place[step]
        place[last] = value

    return change


def dropping(path: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        *way, last = [int(step) if step.isdigit() else step for step in path.split("/")]
        place: Any = document
        for step in way:
            place = place[step]
        del place[last]

    return change


BODY = "layers/1/attrs/then_branch/graph"
DENSE = "layer 'dense' (Gemm)"
INNER = "layer 'if' (If) > then_branch: layer 'inner' (Relu)"

DAMAGE = [
    (setting("surprise", 1), "unknown key 'surprise'"),
    (dropping("values"), "'values' is missing"),
    (setting("format", 2), "is of format 2; this hubtool reads up to 1"),
    (setting("format", 0), "it has no format number"),
    (setting("format", "1"), "it has no format number"),
    (setting("format", True), "it has no format number"),
    (setting("opsets", []), "opsets must be an object"),
    (setting("opsets", {"": 29}), "it needs opset 29 of ai.onnx, this hubtool knows 28: upgrade"),
    (setting("opsets", {"": 17}), "it is at opset 17 of ai.onnx, this hubtool reads 28"),
    (setting("opsets", {"": 28.0}), "the version of 'ai.onnx' must be a number from 1"),
    (setting("opsets", {"": 28, "x": 1}), "the domain 'x' is unknown to this hubtool"),
    (setting("opsets", {}), "opsets lacks the domain 'ai.onnx'"),
    (setting("layers/0/op", "ai.onnx.ml.X"), "opsets lacks the domain 'ai.onnx.ml'"),
    (setting("meta", []), "meta must be an object"),
    (setting("weights", {}), "weights must list file, sha256 and size"),
    (setting("weights/0/x", 1), "weights must list file, sha256 and size, and no more"),
    (setting("weights/0/size", "1"), "weights must list file, sha256 and size"),
    (setting("weights/0/size", 7), "bytes, 7 are recorded"),
    (setting("weights/0/file", "no"), "no: No such file or directory"),
    (setting("weights/0/file", "../m/model.safetensors"), "is no name for a weights file"),
    (setting("weights/0/file", "/etc/passwd"), "is no name for a weights file"),
    (setting("weights/0/file", "C:model"), "is no name for a weights file"),
    (setting("weights/0/file", "graph.json"), "is no name for a weights file"),
    (setting("weights/0/file", ".."), "is no name for a weights file"),
    (setting("weights/0/file", "a\0b"), "is no name for a weights file"),
    (setting("weights", []), "tensor 'W': the weights hold no 'W'"),
    (setting("inputs", {}), "inputs must be an array"),
    (setting("inputs/0", "x"), "input 0 must be an object, not 'x'"),
    (setting("inputs/0/name", 1), "input 0: its name must be a string, not 1"),
    (setting("inputs/0/name", ""), "a value without a name"),
    (setting("inputs/1/name", "x"), "input 1 is named 'x', as one before it"),
    (setting("inputs/0/kind", "set"), "input 'x': unknown kind 'set'"),
    (setting("inputs/0/kind", "optional(" * 9), "unknown kind"),
    (setting("inputs/0/dtype", "float"), "input 'x': unknown element type 'float'"),
    (setting("inputs/0/shape", 3), "input 0 ('x'): its shape must be an array"),
    (setting("inputs/0/shape", [-1]), "input 'x': its shape holds -1"),
    (setting("inputs/0/shape", [1.5]), "input 'x': its shape holds 1.5"),
    (setting("inputs/0/shape", [True]), "input 'x': its shape holds True"),
    (setting("inputs/0/shape", [""]), "input 'x': its shape holds ''"),
    (setting("inputs/0/shape", [[1]]), "input 'x': its shape holds [1]"),
    (dropping("inputs/0/dtype"), "input 0 lacks 'dtype'"),
    (setting("inputs/0/layout", "NCHW"), "input 0 has the unknown key 'layout'"),
    (setting("outputs/0/name", "z"), "output 'z' is made by no layer"),
    (setting("values/h", []), "value 'h' must be an object"),
    (setting("values/h/kind", None), "value 'h': its kind must be a string, not None"),
    (setting("tensors/W", None), "tensor 'W' must be an object"),
    (dropping("tensors/W/stored"), "tensor 'W' lacks 'stored'"),
    (setting("tensors/W/x", 1), "tensor 'W' has the unknown key 'x'"),
    (setting("tensors/W/dtype", "float"), "tensor 'W': unknown element type 'float'"),
    (setting("tensors/W/dtype", []), "tensor 'W': its dtype must be a string"),
    (setting("tensors/W/dtype", "int32"), "'W' in the weights is F32[3, 2], not I32[3, 2]"),
    (setting("tensors/W/stored", "F16"), "float32 is stored as F32, not as 'F16'"),
    (setting("tensors/W/shape", [2, 3]), "'W' in the weights is F32[3, 2], not F32[2, 3]"),
    (setting("tensors/W/shape", [-3, 2]), "tensor 'W': its shape must be"),
    (setting("tensors/W/shape", [3.0, 2]), "tensor 'W': its shape must be"),
    (setting("tensors/W/shape", [1] * 65), "tensor 'W': its shape must be"),
    (setting("tensors/W/shape", [2**53, 2**53, 0]), "tensor 'W': its shape is too large"),
    (setting("tensors/W/key", "V"), "tensor 'W': the weights hold no 'V'"),
    (setting("tensors/W/key", 1), "tensor 'W': its key must be a string"),
    (dropping("tensors/b"), "the weights hold 'b', which nothing in graph.json names"),
    (setting("tensors/i/shape", [5]), "'i' in the weights is U8[2], not U8[3]"),
    (setting("tensors/t/shape", [3]), "'t/offsets' in the weights is I64[3], not I64[4]"),
    (setting("tensors/t/key", "W"), "tensor 't': 'W' in the weights is F32[3, 2], not U8[24]"),
    (setting("layers", {}), "layers must be an array"),
    (setting("layers/0", 1), "layer 0 must be an object, not 1"),
    (dropping("layers/0/op"), "layer 0 lacks 'op'"),
    (setting("layers/0/momenutm", 1), "layer 0 has the unknown key 'momenutm'"),
    (setting("layers/0/name", "if"), "layer 'if' (If): its name must be its own"),
    (setting("layers/0/name", ""), "layer '' (Gemm): its name must be its own, and not empty"),
    (setting("layers/0/inputs/A", 1), f"{DENSE}: what input 'A' reads must be a string"),
    (setting("layers/0/inputs/A", ["x", 1]), f"{DENSE}: what input 'A' reads must be a string"),
    (setting("layers/0/inputs/A", ""), f"{DENSE} reads '' before anything has made it"),
    (setting("layers/0/inputs/A", "y"), f"{DENSE} reads 'y' before anything has made it"),
    (setting("layers/0/outputs", "h"), f"{DENSE}: its outputs must be an array"),
    (setting("layers/0/outputs", [1]), f"{DENSE}: an output must be a string"),
    (setting("layers/0/outputs", ["x", "h"]), f"{DENSE} makes 'x', which exists already"),
    (setting("layers/0/outputs", ["W", "h"]), f"{DENSE} makes 'W', which exists already"),
    (setting("layers/0/attrs", []), f"{DENSE}: its attrs must be an object"),
    (setting("layers/0/attrs/alpha", None), f"{DENSE}: attribute 'alpha' is None, which is no"),
    (setting("layers/0/attrs/alpha", True), "attribute 'alpha' is True, which is no attribute"),
    (setting("layers/0/attrs/alpha", {}), "attribute 'alpha' is {}, which is no attribute"),
    (setting("layers/0/attrs/alpha", 1e39), "attribute 'alpha' is 1e+39, which is no attribute"),
    (setting("layers/0/attrs/alpha", [[1]]), "attribute 'alpha' is [1], which is no attribute"),
    (setting("layers/0/attrs/alpha", {"int": 1}), "attribute 'alpha' must be a string"),
    (setting("layers/0/attrs/alpha", {"int": "1e3"}), "which is no attribute"),
    (setting("layers/0/attrs/alpha", {"int": "٣"}), "which is no attribute"),
    (setting("layers/0/attrs/alpha", {"int": "9" * 19}), "beyond 64 bits"),
    (setting("layers/0/attrs/alpha", {"float": "Infinity"}), "which is no attribute"),
    (setting("layers/0/attrs/alpha", {"bytes": "?"}), "which is no attribute"),
    (setting("layers/0/attrs/alpha", {"tensor": "U"}), "is the tensor 'U', which is not there"),
    (setting("layers/0/attrs/alpha", {"type": {}}), "lacks 'dtype', 'shape'"),
    (setting("layers/0/attrs/alpha", {"graph": {}}), "'alpha' lacks 'inputs', 'outputs'"),
    (setting("layers/0/attrs/alpha", {"list": "none"}), "the weights hold no 'none'"),
    (setting("layers/0/attrs/alpha", {"list": 1}), "attribute 'alpha' must be a string"),
    (setting("layers/0/attrs/alpha", [{"list": "W"}]), "which is no attribute"),
    (setting("layers/0/attrs/alpha", {"list": "W"}), "'W' in the weights is F32[3, 2], not F32[6]"),
    (setting("layers/0/attrs/alpha", {"list": "b"}), "the weights hold no 'b/offsets'"),
    (setting(f"{BODY}/meta", {}), "layer 'if' (If): attribute 'then_branch' has the unknown key"),
    (setting(f"{BODY}/layers/0/inputs/X", "z"), f"{INNER} reads 'z' before anything has made it"),
    (setting(f"{BODY}/layers/0/inputs/X", "y"), f"{INNER} reads 'y' before anything has made it"),
    (setting(f"{BODY}/outputs/0/name", "q"), "> then_branch: output 'q' is made by no layer"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGE, ids=[text for _, text in DAMAGE])
def test_damage_is_named(folder: Path, damage: Callable[[Document], None], problem: str) -> None:
    document = document_of(folder)
    damage(document)
    put(folder, document)
    error = error_of(folder)
    assert any(problem in text for text in [error.message, *error.problems]), error.problems


def test_healthy_is_read(folder: Path) -> None:
    assert native.read(folder) == healthy()


def test_all_damage_is_named_at_once(folder: Path) -> None:
    document = document_of(folder)
    for damage in (
        setting("layers/0/inputs/A", "nowhere"),
        setting("layers/1/extra", 1),
        setting("tensors/W/shape", [6]),
        setting("inputs/1/dtype", "boolean"),
        setting("opsets", {"": 27}),
    ):
        damage(document)
    put(folder, document)
    problems = error_of(folder).problems
    assert len(problems) == 5
    assert all(problem.startswith("graph.json: ") for problem in problems)


def test_missing_weights_do_not_hide_what_else_is_wrong(folder: Path) -> None:
    document = document_of(folder)
    document["layers"][0]["inputs"]["A"] = "nowhere"
    put(folder, document)
    (folder / "model.safetensors").unlink()
    problems = error_of(folder).problems
    assert problems == [
        "model.safetensors: No such file or directory",
        f"graph.json: {DENSE} reads 'nowhere' before anything has made it",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "not JSON"),
        (b"\x00", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8 at byte 0"),
        (b'{"format": 1, "format": 1}', "the key 'format' stands twice"),
        (b'{"format": 1, "meta": {"a": NaN}}', "NaN is no number"),
        (b'{"format": 1, "meta": {"a": 9007199254740993}}', "is beyond 2^53"),
        (b'{"format": 1, "meta": ' + b"[" * 10**6, "nested too deeply"),
        (b"[1]", "it has no format number"),
        (b'"format"', "it has no format number"),
    ],
)
def test_what_is_no_json_is_said_to_be_none(folder: Path, text: bytes, problem: str) -> None:
    (folder / "graph.json").write_bytes(text)
    assert problem in error_of(folder).message


def test_a_graph_json_beyond_100_megabytes_is_not_parsed(folder: Path) -> None:
    os.truncate(folder / "graph.json", 100_000_001)  # a sparse file
    assert "longer than 100,000,000 bytes" in error_of(folder).message


def test_a_bomb_of_subgraphs_is_a_clean_error(folder: Path) -> None:
    document = document_of(folder)
    bomb: Any = {"inputs": [], "outputs": [], "layers": [], "tensors": {}, "values": {}}
    for _ in range(100):
        layer = {
            "name": "l",
            "op": "If",
            "inputs": {},
            "outputs": [],
            "attrs": {"b": {"graph": bomb}},
        }
        bomb = {**bomb, "layers": [layer]}
    document["layers"] = bomb["layers"]
    put(folder, document)
    assert any("nested more than 64 deep" in text for text in error_of(folder).problems)


@pytest.mark.parametrize("name", ["graph.json", "model.safetensors"])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "outside")
    (folder / name).symlink_to("../outside")
    error = error_of(folder)
    assert "a link that leads out of the folder" in str(error)


def test_blobs_of_another_cache_are_not_our_own(tmp_path: Path) -> None:
    for cache in ("models--a--a", "models--b--b"):
        (tmp_path / cache / "snapshots").mkdir(parents=True)
        (tmp_path / cache / "blobs").mkdir()
    native.write(healthy(), tmp_path / "models--a--a/snapshots/1")
    weights = tmp_path / "models--a--a/snapshots/1/model.safetensors"
    weights.rename(tmp_path / "models--b--b/blobs/0")
    weights.symlink_to(tmp_path / "models--b--b/blobs/0")
    assert "a link that leads out of the folder" in str(error_of(weights.parent))


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "w")
    (folder / "model.safetensors").symlink_to("w")
    assert native.read(folder) == healthy()


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_weights_must_be_a_regular_file(folder: Path, kind: str) -> None:
    file = folder / "model.safetensors"
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    assert error_of(folder).problems == ["model.safetensors: not a regular file"]
    assert native.verify_files(folder) == ["model.safetensors: not a regular file"]


def test_a_folder_that_is_not_there_and_one_that_is_no_model(tmp_path: Path) -> None:
    assert "there is no folder" in error_of(tmp_path / "no").message
    assert "it holds no graph.json" in error_of(tmp_path).message
    assert not native.is_folder(tmp_path)
    assert not native.is_folder(tmp_path / "no")


def test_a_key_in_two_weights_files_is_refused(folder: Path) -> None:
    (folder / "copy.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    document = document_of(folder)
    document["weights"].append({**document["weights"][0], "file": "copy.safetensors"})
    put(folder, document)
    assert "copy.safetensors: 'W' is in another file too" in error_of(folder).problems


@pytest.mark.parametrize(
    ("name", "byte", "problem"),
    [
        ("b", 2, "tensor 'b': a byte above 1 is no bool"),
        ("t", 0xFF, "tensor 't': a text in it is not UTF-8"),
    ],
)
def test_a_damaged_element_is_found_when_it_is_asked_for(
    folder: Path, name: str, byte: int, problem: str
) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start = json.loads(data[8 : 8 + length])[name]["data_offsets"][0]
    data[8 + length + start] = byte
    file.write_bytes(data)
    graph = native.read(folder)
    with pytest.raises(ReadError, match=problem) as caught:
        _ = graph.tensors[name].array
    assert str(folder) in caught.value.message


@pytest.mark.parametrize("offsets", [[0, 4, 3], [1, 1, 3], [0, 1, 2], [0, -1, 3]])
def test_offsets_that_do_not_divide_the_text_are_refused(folder: Path, offsets: list[int]) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start = 8 + length + json.loads(data[8 : 8 + length])["t/offsets"]["data_offsets"][0]
    data[start : start + 24] = np.array(offsets, "<i8").tobytes()
    file.write_bytes(data)
    with pytest.raises(ReadError, match="its offsets do not divide 3 bytes"):
        _ = native.read(folder).tensors["t"].array


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_is_a_clean_error_or_harmless(folder: Path, data: st.DataObject) -> None:
    """Bytes changed, cut out or put in anywhere: read fails with a ReadError or not at all."""
    name = data.draw(st.sampled_from(["graph.json", "model.safetensors"]))
    whole = (folder / name).read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 4)))
    put_in = data.draw(st.binary(max_size=4) | st.sampled_from([b"9", b"-", b"[", b'"', b"null"]))
    (folder / name).write_bytes(whole[:start] + put_in + whole[end:])
    try:
        for tensor in native.read(folder).tensors.values():
            assert tensor.array.shape == tensor.shape
    except ReadError as error:
        assert str(folder) in str(error)
    finally:
        (folder / name).write_bytes(whole)
