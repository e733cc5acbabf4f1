"""axon_hub.ex reads JSON, safetensors and the native folder as strictly as hubtool does."""

from __future__ import annotations

import base64
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hubtool.errors import ReadError
from hubtool.formats import native, safetensors
from hubtool.formats.strict_json import loads
from hubtool.graph import Graph, Layer, Tensor, Value
from hubtool.ops import load_ops

from .conftest import Run

TEXTS = [
    b'{"a": [1, -2, 3.5, 1e-05, -0.0, 1E+2], "b": {"c": null, "d": true, "e": false}}',
    b'"\\u00e9 \\ud83d\\ude00 \\n\\t\\\\ \\/ \\" \xc3\xa9"',
    b" [ ] ",
    b"9007199254740992",
    b'{"": {}}',
    b"0.1",
    b"[" * 400 + b"]" * 400,
    b"",
    b"nul",
    b"NaN",
    b"[1,]",
    b'{"a":1,}',
    b'{"a" 1}',
    b"{1: 2}",
    b'{"a": 1, "a": 2}',
    b'{"a": 1, "\\u0061": 2}',
    b"1e999",
    b"9007199254740993",
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"--1",
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\x"',
    b'"\\u12g4"',
    b'"line\nbreak"',
    b'"open',
    b"\xff",
    b"\xef\xbb\xbf1",
    b"[1] 2",
    b"[1 2]",
    b"'a'",
    b"// 1",
    b"[" * 100_000 + b"]" * 100_000,
]

DECODE = """
for line <- File.stream!(hd(System.argv())) do
  case line |> String.trim() |> Base.decode64!() |> AxonHub.JSON.decode() do
    {:ok, value} -> IO.puts(AxonHub.JSON.encode(value))
    {:error, reason} when is_binary(reason) -> IO.puts("refused")
  end
end
"""


def test_its_json_is_that_of_hubtool(elixir: Run, tmp_path: Path) -> None:
    listed = tmp_path / "texts"
    listed.write_text("".join(base64.b64encode(text).decode() + "\n" for text in TEXTS))
    answers = elixir(DECODE, listed).splitlines()
    assert len(answers) == len(TEXTS)
    for text, answer in zip(TEXTS, answers, strict=True):
        try:
            value = loads(text)
        except ValueError:
            assert answer == "refused", text[:40]
        else:
            assert json.loads(answer) == value, text[:40]


INDEX = """
for path <- System.argv() do
  case AxonHub.SafeTensors.index(path) do
    {:ok, found} ->
      told = for {key, {_, dtype, shape, _, _} = entry} <- found do
        {key, [dtype, shape, Base.encode64(AxonHub.SafeTensors.read!(entry))]}
      end
      IO.puts(AxonHub.JSON.encode({:object, told}))
    {:error, problems} -> IO.puts("refused: " <> Enum.join(problems, "; "))
  end
end
"""


def raw(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(start: int, end: int, **more: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]} | more


def test_it_reads_what_safetensors_own_library_wrote(elixir: Run, tmp_path: Path) -> None:
    arrays = {
        "a.b/c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "é": np.array([-1, 2], np.int64),
        "scalar": np.array(3, np.uint8),
        "empty": np.zeros((0, 2), np.float16),
    }
    save_file(arrays, tmp_path / "x.safetensors", {"format": "np"})
    told = json.loads(elixir(INDEX, tmp_path / "x.safetensors"))
    assert told.keys() == arrays.keys()
    for name, array in arrays.items():
        _, shape, data = told[name]
        assert shape == list(array.shape)
        assert base64.b64decode(data) == array.tobytes()


BROKEN = {
    "short": b"123",
    "long header": (1000).to_bytes(8, "little") + b"{}",
    "huge header": (2**63).to_bytes(8, "little") + b"{}",
    "no object": raw(b"[]", b""),
    "no json": raw(b"{,}", b""),
    "space first": raw(b' {"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"),
    "twice": raw(b'{"a":{"dtype":"U8"},"a":{"dtype":"U8"}}', b""),
    "overlap": raw({"a": entry(0, 2), "b": entry(1, 3)}, b"123"),
    "hole": raw({"a": entry(0, 1), "b": entry(2, 3)}, b"123"),
    "left over": raw({"a": entry(0, 2)}, b"123"),
    "past the end": raw({"a": entry(0, 4)}, b"123"),
    "backwards": raw({"a": entry(2, 0, shape=[0])}, b"12"),
    "other shape": raw({"a": entry(0, 2, shape=[3])}, b"12"),
    "overflow": raw({"a": entry(0, 0, shape=[2**32, 2**32])}, b""),
    "unknown type": raw({"a": entry(0, 1, dtype="Q9")}, b"1"),
    "more keys": raw({"a": entry(0, 1, more=1)}, b"1"),
    "numbers as notes": raw({"__metadata__": {"a": 1}}, b""),
}


def test_it_refuses_the_safetensors_files_that_hubtool_refuses(elixir: Run, tmp_path: Path) -> None:
    paths = []
    for name, data in BROKEN.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
        with pytest.raises(ReadError), paths[-1].open("rb") as file:
            safetensors.read(file)
    answers = elixir(INDEX, *paths).splitlines()
    assert len(answers) == len(BROKEN)
    assert all(answer.startswith("refused: ") for answer in answers), answers


FOLDER = """
alias AxonHub.{Error, Folder, JSON}
for folder <- System.argv() do
  try do
    graph = Folder.read!(folder, true)
    layers = for l <- graph.layers, do: [l.name, l.op, Enum.sort(Map.keys(l.attrs))]
    IO.puts(JSON.encode(%{"layers" => layers, "tensors" => Enum.sort(Map.keys(graph.tensors))}))
  rescue
    error in Error -> IO.puts("refused: " <> Enum.join(error.problems, "; "))
  end
end
"""


def every_type() -> Graph:
    """A graph whose weights are stored in every form, with a long list and a subgraph."""
    dtypes = ("float32", "bool", "int8", "float16", "complex64", "float64")
    tensors = {d: Tensor.of(np.ones((2, 3), d)) for d in dtypes}
    tensors["text"] = Tensor.of(np.array(["a", "né"], object))
    branch = Graph(
        [Layer("l", "Identity", {"input": "k"}, ["o"])],
        outputs={"o": Value("tensor", "float32", (1,))},
        tensors={"k": Tensor.of(np.ones(1, np.float32))},
    )
    return Graph(
        [
            Layer(
                "if #{1}",
                "If",
                {"cond": "bool"},
                ["y"],
                {
                    "then_branch": branch,
                    "else_branch": branch.copy(),
                    "odd": [math.inf, 1e-05],
                    "long": list(range(100)),
                },
            )
        ],
        outputs={"y": Value("tensor", "float32", (1,))},
        tensors=tensors,
    )


def test_it_reads_every_kind_of_folder(elixir: Run, tmp_path: Path) -> None:
    native.write(every_type(), tmp_path / "types")
    v1 = Path(__file__).parent.parent / "v1"
    for folder, answer in zip(
        (tmp_path / "types", v1), elixir(FOLDER, tmp_path / "types", v1).splitlines(), strict=True
    ):
        graph = native.read(folder)
        told = json.loads(answer)
        assert told["tensors"] == sorted(graph.tensors)
        assert told["layers"] == [[x.name, x.op, sorted(x.attrs)] for x in graph.layers]


def small() -> Graph:
    return Graph(
        [Layer("add", "Add", {"A": "x", "B": "b"}, ["y"])],
        {"x": Value("tensor", "float32", ("N", 2))},
        {"y": Value("tensor", "float32", ("N", 2))},
        {"b": Tensor.of(np.array([1.5, 2.5], np.float32))},
    )


DAMAGE = {
    "newer format": lambda d: d | {"format": 2},
    "no format": lambda d: d | {"format": "1"},
    "unknown key": lambda d: d | {"extra": 1},
    "no values": lambda d: {k: v for k, v in d.items() if k != "values"},
    "older opset": lambda d: d | {"opsets": {"": 27}},
    "unknown domain": lambda d: d | {"opsets": {"": 28, "com.example": 1}},
    "other size": lambda d: d | {"weights": [d["weights"][0] | {"size": 1}]},
    "other hash": lambda d: d | {"weights": [d["weights"][0] | {"sha256": "0" * 64}]},
    "way out": lambda d: d | {"weights": [d["weights"][0] | {"file": "../model.safetensors"}]},
    "no weights": lambda d: d | {"weights": []},
    "surplus weight": lambda d: d | {"layers": [], "tensors": {}, "outputs": []},
    "missing weight": lambda d: d | {"tensors": d["tensors"] | {"c": d["tensors"]["b"]}},
    "misshapen weight": lambda d: d | {"tensors": {"b": d["tensors"]["b"] | {"shape": [3]}}},
    "other stored form": lambda d: d | {"tensors": {"b": d["tensors"]["b"] | {"stored": "F64"}}},
    "other type": lambda d: d | {"tensors": {"b": d["tensors"]["b"] | {"dtype": "int64"}}},
    "negative size": lambda d: d | {"tensors": {"b": d["tensors"]["b"] | {"shape": [-2]}}},
    "made twice": lambda d: d | {"layers": [d["layers"][0] | {"outputs": ["x"]}]},
    "read too early": lambda d: d | {"layers": [d["layers"][0] | {"inputs": {"A": "y", "B": "b"}}]},
    "two of a name": lambda d: d | {"layers": d["layers"] * 2},
    "no output": lambda d: d | {"outputs": [d["outputs"][0] | {"name": "z"}]},
    "key in a layer": lambda d: d | {"layers": [d["layers"][0] | {"extra": 1}]},
    "no attribute": lambda d: d | {"layers": [d["layers"][0] | {"attrs": {"a": None}}]},
    "unknown tag": lambda d: d | {"layers": [d["layers"][0] | {"attrs": {"a": {"b": 1}}}]},
}


def test_it_refuses_the_folders_that_hubtool_refuses(elixir: Run, tmp_path: Path) -> None:
    native.write(small(), tmp_path / "good")
    document = json.loads((tmp_path / "good" / "graph.json").read_text())
    folders = [tmp_path / "good"]
    for name, damage in DAMAGE.items():
        folders.append(tmp_path / name)
        shutil.copytree(tmp_path / "good", folders[-1])
        (folders[-1] / "graph.json").write_text(json.dumps(damage(document)))
        with pytest.raises(ReadError):
            native.read(folders[-1], verify=True)
    folders.append(tmp_path / "flipped")
    shutil.copytree(tmp_path / "good", folders[-1])
    weights = folders[-1] / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    good, *bad = elixir(FOLDER, *folders).splitlines()
    assert not good.startswith("refused")
    assert len(bad) == len(DAMAGE) + 1
    assert all(answer.startswith("refused: ") for answer in bad), bad


def test_it_lists_every_problem_of_a_folder_at_once(elixir: Run, tmp_path: Path) -> None:
    native.write(small(), tmp_path / "m")
    path = tmp_path / "m" / "graph.json"
    document = json.loads(path.read_text())
    document["opsets"] = {"": 29}
    document["layers"][0]["inputs"]["A"] = "nowhere"
    document["tensors"]["b"]["shape"] = [7]
    path.write_text(json.dumps(document))
    answer = elixir(FOLDER, tmp_path / "m")
    assert all(word in answer for word in ("opset 29", "nowhere", "[2], not F32[7]"))


SCHEMAS = """
told = for name <- AxonHub.operators() do
  schema = AxonHub.Operators.schema(name)
  formals = for {formal, m} <- schema.formals, do: [formal, m.many, m.known, m.optional]
  {name, [formals, Enum.sort(schema.attrs)]}
end
IO.puts(AxonHub.JSON.encode({:object, told}))
"""


def test_its_table_of_operators_is_that_of_hubtool(elixir: Run) -> None:
    told = json.loads(elixir(SCHEMAS))
    assert len(told) > 100
    for name, (formals, attrs) in told.items():
        op = load_ops()[name]
        assert attrs == sorted(op.attrs), name
        ours = [[f.name, f.variadic, f.name in op.host, f.optional] for f in op.inputs]
        assert formals == ours, name


def test_layers_that_break_a_schema_are_described(elixir: Run) -> None:
    script = """
    layer = %{name: "l", op: "Conv", inputs: %{"X" => "x", "Q" => "q"}, outputs: ["y"],
      attrs: %{"stride" => 1}}
    concat = %{layer | op: "Concat", inputs: %{"inputs" => "a"}}
    for layer <- [layer, %{layer | op: "Zonk"}, concat],
      do: IO.puts(Enum.join(AxonHub.Operators.faults(layer), "; "))
    """
    conv, zonk, concat = elixir(script).splitlines()
    assert "unknown input 'Q'" in conv
    assert "input 'W' is missing" in conv
    assert "unknown attribute 'stride'" in conv
    assert zonk == "AxonHub knows no operator Zonk"
    assert "input 'inputs' must be a list" in concat
    assert "attribute 'axis' is missing" in concat
