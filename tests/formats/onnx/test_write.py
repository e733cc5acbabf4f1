"""From a layer graph to an ONNX file: what was read is written, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hostile import PLACES, model, node, save, value
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array
from onnxruntime import InferenceSession

from hubtool.errors import UnsupportedError, WriteError
from hubtool.formats.onnx import write as module
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import ALIGNMENT, to_model, write
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value

BIG = np.arange(3000, dtype=np.float32).reshape(30, 100)
FLOATS = Value("tensor", "float32", (30, 100))


def adding(**weights: np.ndarray) -> Graph:
    """Y = X + W + V + …"""
    return Graph(
        layers=[Layer("sum", "Sum", {"data_0": ["X", *weights]}, ["Y"])],
        inputs={"X": FLOATS},
        outputs={"Y": FLOATS},
        tensors={name: Tensor.of(array) for name, array in weights.items()},
        meta={"name": "adding"},
    )


def same(one: Graph, other: Graph) -> bool:
    return (one.layers, one.inputs, one.outputs, one.tensors) == (
        other.layers,
        other.inputs,
        other.outputs,
        other.tensors,
    )


def run(path: Path, x: np.ndarray) -> np.ndarray:
    (result,) = InferenceSession(path).run(None, {"X": x})
    return result


def test_what_is_written_is_read_back_and_runs(tmp_path: Path) -> None:
    graph = adding(W=BIG, small=np.float32([1]))
    assert write(graph, tmp_path / "m.onnx") == 8
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    assert same(read(tmp_path / "m.onnx"), graph)
    assert np.array_equal(run(tmp_path / "m.onnx", BIG), BIG + BIG + 1)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        write(adding(W=BIG, V=BIG * 2), tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("elements", [(), (3,), (0,), (5000,), (0, 3), (1, 1)])
@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128", "bfloat16"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
        *("float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2"),
    ],
)
def test_every_element_type_and_shape_survives(
    tmp_path: Path, dtype: str, elements: tuple[int, ...]
) -> None:
    kind = np.dtype(dtype if hasattr(np, dtype) else getattr(ml_dtypes, dtype))
    array = (np.arange(np.prod(elements, dtype=int)) % 2).astype(kind).reshape(elements)
    graph = identity(Tensor.of(array))
    write(graph, tmp_path / "m.onnx")
    assert read(tmp_path / "m.onnx", isolated=False).tensors == graph.tensors


def identity(tensor: Tensor) -> Graph:
    known = Value("tensor", tensor.dtype, tensor.shape)
    layers = [Layer("it", "Identity", {"input": "W"}, ["Y"])]
    return Graph(layers, {}, {"Y": known}, {"W": tensor})


@pytest.mark.parametrize(
    "texts", [["a", "", "ü", "a\0"], ["x" * 5000], [], [b"\xff\xfe", "mixed"]], ids=repr
)
def test_strings_survive(tmp_path: Path, texts: list[Any]) -> None:
    array = np.array(texts, dtype=object)
    write(identity(Tensor.of(array)), tmp_path / "m.onnx")
    back = read(tmp_path / "m.onnx", isolated=False).tensors["W"].array
    assert back.tolist() == texts


@pytest.mark.parametrize(
    "array",
    [
        BIG.T,
        BIG[::2, ::-1],
        BIG.astype(">f4"),
        np.broadcast_to(np.float32(7), (30, 100)),
        np.asfortranarray(BIG),
        BIG.T[:3, :5],
        np.float32([[1, 2]]).astype(">f4"),
    ],
    ids=["transposed", "strided", "big-endian", "broadcast", "fortran", "small", "small big"],
)
def test_arrays_that_lie_oddly_in_memory_are_written_in_order(
    tmp_path: Path, array: np.ndarray
) -> None:
    tensor = Tensor("float32", array.shape, lambda: array)
    for external in (False, True):
        write(identity(tensor), tmp_path / "m.onnx", external=external, overwrite=True)
        back = read(tmp_path / "m.onnx", isolated=False).tensors["W"].array
        assert np.array_equal(back, array)


ATTRIBUTES: dict[str, Layer] = {
    "floats, ints, text": Layer(
        "rnn",
        "RNN",
        {"X": "X", "W": "W", "R": "R"},
        ["", "Y"],
        {
            "activations": ["Affine"],
            "activation_alpha": [1e-05],
            "activation_beta": [0.1],
            "clip": 3.5,
            "direction": "forward",
            "hidden_size": 2,
            "layout": 0,
        },
    ),
    "lists of nothing": Layer(
        "rnn",
        "RNN",
        {"X": "X", "W": "W", "R": "R"},
        ["", "Y"],
        {
            "activations": ["Tanh"],
            "activation_alpha": [],
            "direction": "forward",
            "hidden_size": 2,
            "layout": 0,
        },
    ),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_attributes_keep_their_kinds(tmp_path: Path, case: str) -> None:
    graph = Graph(
        [ATTRIBUTES[case]],
        {"X": Value("tensor", "float32", (3, 1, 2))},
        {"Y": Value("tensor", "float32", (1, 1, 2))},
        {name: Tensor.of(np.zeros((1, 2, 2), np.float32)) for name in "WR"},
    )
    write(graph, tmp_path / "m.onnx")
    onnx.checker.check_model(tmp_path / "m.onnx")
    assert read(tmp_path / "m.onnx", isolated=False).layers == graph.layers


@pytest.mark.parametrize("size", [1, 2000], ids=["small", "large"])
def test_a_tensor_attribute_is_written_once_inside_its_layer(tmp_path: Path, size: int) -> None:
    graph = Graph(
        [
            Layer(
                "label",
                "ai.onnx.ml.LabelEncoder",
                {"X": "X"},
                ["Y"],
                {
                    "default_float": -0.0,
                    "default_int64": -1,
                    "default_string": "_Unused",
                    "keys_tensor": TensorRef("label/keys_tensor"),
                    "values_tensor": TensorRef("label/values_tensor"),
                },
            )
        ],
        {"X": Value("tensor", "int64", (3,))},
        {"Y": Value("tensor", "float32", (3,))},
        {
            "label/keys_tensor": Tensor.of(np.arange(size)),
            "label/values_tensor": Tensor.of(np.arange(size, dtype=np.float32)),
        },
    )
    write(graph, tmp_path / "m.onnx")
    assert not onnx.load(tmp_path / "m.onnx").graph.initializer
    assert same(read(tmp_path / "m.onnx", isolated=False), graph)


def test_a_tensor_that_is_an_attribute_and_a_weight_is_both(tmp_path: Path) -> None:
    graph = Graph(
        [
            Layer("fill", "ConstantOfShape", {"input": "S"}, ["a"], {"value": TensorRef("one")}),
            Layer("add", "Add", {"A": "a", "B": "one"}, ["Y"]),
        ],
        {},
        {"Y": Value("tensor", "float32", (2,))},
        {"S": Tensor.of(np.array([2])), "one": Tensor.of(np.ones(1, np.float32))},
    )
    write(graph, tmp_path / "m.onnx")
    (result,) = InferenceSession(tmp_path / "m.onnx").run(None, {})
    assert result.tolist() == [2, 2]


def test_inputs_with_defaults_and_inputs_without_stay_what_they_are(tmp_path: Path) -> None:
    graph = adding(W=BIG)
    graph.inputs["W"] = FLOATS
    write(graph, tmp_path / "m.onnx")
    assert same(read(tmp_path / "m.onnx", isolated=False), graph)
    session = InferenceSession(tmp_path / "m.onnx")
    assert np.array_equal(session.run(None, {"X": BIG})[0], 2 * BIG)
    assert np.array_equal(session.run(None, {"X": BIG, "W": -BIG})[0], 0 * BIG)


@pytest.mark.parametrize("place", ["initializer of a subgraph", "Constant in a subgraph"])
def test_the_weights_of_a_branch_stay_in_it(tmp_path: Path, place: str) -> None:
    weight = from_array(BIG[:, :3].copy(), "W")
    proto = PLACES[place](weight)
    proto.graph.input[0].CopyFrom(value("X", [30, 3]))
    graph = read(save(tmp_path / "m.onnx", proto), isolated=False)
    write(graph, tmp_path / "out.onnx")
    assert same(read(tmp_path / "out.onnx", isolated=False), graph)


KINDS = [
    Value("tensor", "float32", ()),
    Value("tensor", "float32", (2, "N", None)),
    Value("sequence", "int64", ("N",)),
    Value("optional", "float32", (2,)),
    Value("optional(sequence)", "string", (None,)),
    Value("sequence(map(int64))", "float32", ()),
    Value("map(string)", "float32", ()),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_known_of_an_input_survives(tmp_path: Path, kind: Value) -> None:
    graph = identity(Tensor.of(np.float32([1])))
    graph.inputs["odd"] = kind
    write(graph, tmp_path / "m.onnx")
    assert read(tmp_path / "m.onnx", isolated=False).inputs == {"odd": kind}


def test_metadata_survives(tmp_path: Path) -> None:
    graph = adding(W=BIG)
    graph.meta |= {
        "labels": ["cat", "dög"],
        "preprocessing": {"mean": [0.485, 0.456]},
        "licence": "Apache-2.0",
        "metadata": {"author": "nobody"},
        "notes": ["a note of the conversion, which is not the model's"],
    }
    write(graph, tmp_path / "adding.onnx")
    meta = read(tmp_path / "adding.onnx", isolated=False).meta
    source = meta.pop("source")
    assert meta == {key: value for key, value in graph.meta.items() if key != "notes"}
    assert source["producer"].startswith("hubtool ")


# Files.


def test_external_data_is_aligned_and_read_back(tmp_path: Path) -> None:
    graph = adding(W=BIG, V=BIG + 1, small=np.float32([1]))
    write(graph, tmp_path / "m.onnx", external=True)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    entries = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in proto.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    (data,) = {entry["location"] for entry in entries}
    assert data.startswith("m-")
    assert [int(entry["offset"]) % ALIGNMENT for entry in entries] == [0, 0]
    assert [int(entry["length"]) for entry in entries] == [BIG.nbytes] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [data, "m.onnx"]
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    assert same(read(tmp_path / "m.onnx"), graph)
    assert np.array_equal(run(tmp_path / "m.onnx", BIG), 3 * BIG + 2)


def test_external_data_of_no_large_weights_is_no_file(tmp_path: Path) -> None:
    write(adding(small=np.float32([1])), tmp_path / "m.onnx", external=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_external_data_of_other_weights_has_another_name(tmp_path: Path) -> None:
    """So that whoever has the old model open, or copied it, still finds its weights."""
    write(adding(W=BIG), tmp_path / "m.onnx", external=True)
    (tmp_path / "m.onnx").rename(tmp_path / "old.onnx")
    write(adding(W=BIG + 1), tmp_path / "m.onnx", external=True)
    assert np.array_equal(run(tmp_path / "old.onnx", BIG), 2 * BIG)
    assert np.array_equal(run(tmp_path / "m.onnx", BIG), 2 * BIG + 1)


def test_past_the_limit_of_protobuf_weights_leave_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", BIG.nbytes)
    write(adding(W=BIG), tmp_path / "m.onnx")
    assert len([*tmp_path.iterdir()]) == 2
    assert np.array_equal(run(tmp_path / "m.onnx", BIG), 2 * BIG)
    with pytest.raises(WriteError, match="no more than 2 GB in one file"):
        write(adding(V=BIG), tmp_path / "whole.onnx", external=False)
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("external", [False, True])
def test_an_existing_file_is_refused_and_untouched(tmp_path: Path, external: bool) -> None:
    (tmp_path / "m.onnx").write_bytes(b"mine")
    with pytest.raises(WriteError, match="exists already"):
        write(adding(W=BIG), tmp_path / "m.onnx", external=external)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"mine"
    write(adding(W=BIG), tmp_path / "m.onnx", external=external, overwrite=True)
    assert np.array_equal(run(tmp_path / "m.onnx", BIG), 2 * BIG)


@pytest.mark.parametrize("step", ["_write_external", "_write_model"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_between_leaves_nothing_and_the_old_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"mine")
    original = getattr(module, step)

    def fail(*arguments: Any) -> None:
        original(*arguments)
        raise error

    monkeypatch.setattr(module, step, fail)
    with pytest.raises((WriteError, KeyboardInterrupt)):
        write(adding(W=BIG), tmp_path / "m.onnx", external=True, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"mine"


@pytest.mark.parametrize("path", ["none/m.onnx", "file/m.onnx", "."])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        write(adding(W=BIG), tmp_path / path, external=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_operator_without_a_schema_is_refused_and_nothing_written(tmp_path: Path) -> None:
    graph = adding(W=BIG)
    graph.layers[0].op = "com.example.Odd"
    with pytest.raises(UnsupportedError, match=r"com\.example\.Odd"):
        write(graph, tmp_path / "m.onnx")
    assert not [*tmp_path.iterdir()]


def test_a_model_without_its_large_weights_does_not_mention_them() -> None:
    proto, large = to_model(adding(W=BIG, small=np.float32([1])))
    assert [tensor.name for tensor in proto.graph.initializer] == ["small"]
    assert list(large) == ["W"]


def test_writing_reads_each_large_weight_as_it_writes_it(tmp_path: Path) -> None:
    """Weights are made one after the other, not all before the first is written."""
    order: list[str] = []

    def load(name: str) -> np.ndarray:
        order.append(name)
        return BIG

    tensors = {name: Tensor("float32", BIG.shape, lambda name=name: load(name)) for name in "VW"}
    graph = adding(V=BIG, W=BIG)
    graph.tensors = tensors
    to_model(graph)
    assert order == []
    write(graph, tmp_path / "m.onnx")
    assert order == ["V", "W"]


def test_names_that_need_escaping_elsewhere_need_none_here(tmp_path: Path) -> None:
    nodes = [node("Relu", ["X"], ["a/b:0"], name='"><x'), node("Relu", ["a/b:0"], ["Y"], name="ü")]
    graph = read(save(tmp_path / "m.onnx", model(nodes)), isolated=False)
    write(graph, tmp_path / "out.onnx")
    assert same(read(tmp_path / "out.onnx", isolated=False), graph)


def test_what_comes_from_functions_and_sparse_weights_leaves_as_plain_layers(
    tmp_path: Path,
) -> None:
    body = [node("Relu", ["x"], ["y"])]
    function = helper.make_function("f", "F", ["x"], ["y"], body, [helper.make_opsetid("", 20)])
    caller = node("F", ["X"], ["Y"], domain="f")
    proto = model([caller], opset=20, functions=[function], domains={"f": 1})
    graph = read(save(tmp_path / "m.onnx", proto), isolated=False)
    write(graph, tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert (len(written.functions), [entry.domain for entry in written.opset_import]) == (0, [""])
    assert same(read(tmp_path / "out.onnx", isolated=False), graph)
