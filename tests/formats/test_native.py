"""The native folder: what is written comes back, byte for byte the same each time."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubtool.dtypes import BITS, DTYPES, numpy_dtype, shortest
from hubtool.errors import ReadError, WriteError
from hubtool.formats import native
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value, captures

LONG = 65

NAMES = st.sampled_from(
    ["a", "b", "a/b", "a/offsets", "a~2", "..", ".", "1", "__metadata__", "a/t/a", "ü\n\0\u2028"]
) | st.text(min_size=1, max_size=4)

DIMS = st.integers(0, 2**53) | st.none() | st.text(min_size=1, max_size=3)
KINDS = st.sampled_from(["tensor", "sequence", "optional", "map(string)", "map(int64)"]) | (
    st.sampled_from(["optional(sequence)", "sequence(map(string))", "map(int64)(sequence)"])
)
DTYPE_NAMES = st.sampled_from(sorted(DTYPES.values()))
SHAPES = st.none() | st.lists(DIMS, max_size=4).map(tuple)
VALUES = st.builds(Value, KINDS, DTYPE_NAMES | st.just(""), SHAPES)

INTS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53, 2**53 + 1, -(2**53), 0])
FLOATS = st.floats(width=32).map(shortest)
LISTS = st.one_of(
    *(st.lists(items, max_size=3) for items in (INTS, FLOATS, st.text(), st.binary(), VALUES)),
    *(st.lists(items, min_size=64, max_size=66) for items in (INTS, FLOATS, st.text(max_size=2))),
    st.lists(INTS | FLOATS, min_size=66, max_size=66),
)
ATTRS = st.one_of(INTS, FLOATS, st.text(), st.binary(), LISTS, VALUES)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Any elements of any dtype and small shape, contiguous or not."""
    dtype = draw(DTYPE_NAMES)
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = math.prod(shape)
    if dtype == "string":
        texts = draw(st.lists(st.text(max_size=4), min_size=size, max_size=size))
        array = np.fromiter(texts, object).reshape(shape)
    else:
        width = numpy_dtype(dtype).itemsize
        raw = np.frombuffer(draw(st.binary(min_size=size * width, max_size=size * width)), np.uint8)
        if dtype == "bool":
            raw = raw & 1
        elif BITS[dtype] < 8:
            raw = raw & (2 ** BITS[dtype] - 1)
        array = raw.view(numpy_dtype(dtype)).reshape(shape)
    layout = draw(st.sampled_from(["as it is", "transposed", "every second", "broadcast"]))
    if layout == "transposed":
        return array.T
    if layout == "every second":
        return array[..., ::2] if shape else array
    if layout == "broadcast":
        return np.broadcast_to(array, (3, *shape))
    return array


def values_of(graph: Graph) -> set[str]:
    made = {name for layer in graph.layers for name in layer.outputs if name}
    return {*graph.inputs, *graph.tensors, *made}


@st.composite
def graphs(draw: st.DrawFn, outer: tuple[str, ...] = (), depth: int = 0) -> Graph:
    """Any graph that can be stored: every dtype, attribute kind, and nested subgraphs."""
    graph = Graph()
    graph.inputs = draw(st.dictionaries(NAMES, VALUES, max_size=2))
    graph.tensors = draw(st.dictionaries(NAMES, arrays().map(Tensor.of), max_size=3))
    for name in draw(st.lists(NAMES, max_size=2 if depth else 3, unique=True)):
        made = values_of(graph)
        visible = sorted({*outer, *made})
        reads = st.sampled_from(visible) | st.lists(st.sampled_from(visible), max_size=2)
        inputs = draw(st.dictionaries(NAMES, reads, max_size=2)) if visible else {}
        attrs = draw(st.dictionaries(NAMES, ATTRS, max_size=3))
        if graph.tensors and draw(st.booleans()):
            attrs["ref"] = TensorRef(draw(st.sampled_from(sorted(graph.tensors))))
        if depth < 2 and draw(st.booleans()):
            attrs["t"] = draw(graphs(tuple(visible), depth + 1))
            attrs["u"] = [draw(graphs(tuple(visible), depth + 1))]
        outputs = draw(st.lists(NAMES | st.just(""), max_size=2, unique=True))
        outputs = [output for output in outputs if output not in made]
        op = draw(st.sampled_from(["Relu", "ai.onnx.ml.Scaler", "com.microsoft.Gelu"]))
        graph.layers.append(Layer(name, op, inputs, outputs, attrs))
    known = values_of(graph)
    if known:
        ends = draw(st.lists(st.sampled_from(sorted(known)), max_size=2, unique=True))
        graph.outputs = {name: draw(VALUES) for name in ends}
        graph.values = {name: draw(VALUES) for name in ends}
    return graph


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs(), meta=st.dictionaries(st.text(), JSON, max_size=3))
def test_what_is_written_comes_back(graph: Graph, meta: dict[str, object]) -> None:
    graph.meta = meta
    with tempfile.TemporaryDirectory() as place:
        first, second = Path(place, "first"), Path(place, "second")
        native.write(graph, first)
        back = native.read(first, verify=True)
        assert back == graph
        assert list(back.inputs) == list(graph.inputs)
        assert list(back.tensors) == list(graph.tensors)
        native.write(back, second)
        assert content(first) == content(second)


def small(**meta: object) -> Graph:
    return Graph(
        layers=[Layer("dense", "Gemm", {"A": "x", "B": "W"}, ["y"], {"alpha": 1.0})],
        inputs={"x": Value("tensor", "float32", ("N", 3))},
        outputs={"y": Value("tensor", "float32", ("N", 2))},
        tensors={"W": Tensor.of(np.arange(6, dtype=np.float32).reshape(3, 2))},
        meta=dict(meta),
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e-5, "1e-05"),
        (float(np.float32(1e-5)), "1e-05"),
        (1.0, "1.0"),
        (16777216.0, "16777216.0"),
        (1e16, "1e+16"),
        (-0.0, "-0.0"),
        (float(np.float32(0.1)), "0.1"),
        (float(np.float32(3.4e38)), "3.4e+38"),
        (1.401298464324817e-45, "1e-45"),
    ],
)
def test_a_float_is_written_in_its_shortest_float32_form(
    tmp_path: Path, number: float, text: str
) -> None:
    graph = small()
    graph.layers[0].attrs["alpha"] = number
    native.write(graph, tmp_path / "m")
    assert f'"alpha": {text}}}' in (tmp_path / "m/graph.json").read_text()
    assert native.read(tmp_path / "m").layers[0].attrs["alpha"] == float(text)


def test_a_float_whose_shortest_decimal_misleads_float64_is_written_exactly(tmp_path: Path) -> None:
    treacherous = np.float32(float.fromhex("0x1.5c87fap-84"))
    assert str(treacherous) == "7.038531e-26"
    assert np.float32(7.038531e-26) != treacherous
    graph = small()
    graph.layers[0].attrs["alpha"] = float(treacherous)
    native.write(graph, tmp_path / "m")
    assert np.float32(native.read(tmp_path / "m").layers[0].attrs["alpha"]) == treacherous


@given(st.floats(width=32, allow_nan=False))
def test_the_shortest_form_is_the_same_float32(number: float) -> None:
    assert np.float32(shortest(number)) == np.float32(number)
    assert shortest(shortest(number)) == shortest(number)
    assert len(repr(shortest(number))) <= len(repr(number))


def test_every_dtype_comes_back_in_every_layout(tmp_path: Path) -> None:
    graph = Graph()
    for dtype in BITS:
        base = np.arange(3 * 5 * 7).reshape(3, 5, 7) % 2
        array = base.astype(numpy_dtype(dtype))
        graph.tensors[f"{dtype} whole"] = Tensor.of(array)
        graph.tensors[f"{dtype} turned"] = Tensor.of(array.transpose(2, 0, 1))
        graph.tensors[f"{dtype} thinned"] = Tensor.of(array[:, ::2, ::-3])
        graph.tensors[f"{dtype} one"] = Tensor.of(array[0, 0, 1])
        graph.tensors[f"{dtype} none"] = Tensor.of(array[:, :0])
        graph.tensors[f"{dtype} spread"] = Tensor.of(np.broadcast_to(array[0, 0, 1], (4, 4)))
    native.write(graph, tmp_path / "m")
    back = native.read(tmp_path / "m")
    for name, tensor in graph.tensors.items():
        assert back.tensors[name] == tensor, name
        assert back.tensors[name].array.dtype == tensor.array.dtype, name


def test_a_large_broadcast_weight_is_written_piece_by_piece(tmp_path: Path) -> None:
    shape = (3, 1 << 20)
    graph = Graph(tensors={"w": Tensor.of(np.broadcast_to(np.int8(7), shape))})
    native.write(graph, tmp_path / "m")
    back = native.read(tmp_path / "m").tensors["w"].array
    assert back.shape == shape
    assert (back == 7).all()


def test_a_big_endian_weight_is_stored_little_endian(tmp_path: Path) -> None:
    numbers = np.array([1.5, -2, 3e10], ">f4")
    native.write(Graph(tensors={"w": Tensor.of(numbers)}), tmp_path / "m")
    np.testing.assert_array_equal(native.read(tmp_path / "m").tensors["w"].array, numbers)


def test_weights_are_views_of_the_mapped_file_and_cannot_be_written(tmp_path: Path) -> None:
    native.write(small(), tmp_path / "m")
    array = native.read(tmp_path / "m").tensors["W"].array
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert array.ctypes.data % 4 == 0
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def test_a_packed_weight_is_not_unpacked_before_it_is_asked_for(tmp_path: Path) -> None:
    array = np.array([1, -2, 3]).astype(numpy_dtype("int4"))
    native.write(Graph(tensors={"w": Tensor.of(array)}), tmp_path / "m")
    tensor = native.read(tmp_path / "m").tensors["w"]
    assert "array" not in vars(tensor)
    assert tensor.array.tolist() == array.tolist()
    assert not tensor.array.flags.writeable


def test_the_safetensors_library_opens_what_is_written(tmp_path: Path) -> None:
    weights = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(7, np.int64),
        "c": np.zeros((0, 4), np.float16),
        "d": np.arange(5, dtype=np.uint8),
    }
    native.write(Graph(tensors={k: Tensor.of(v) for k, v in weights.items()}), tmp_path / "m")
    file = tmp_path / "m/model.safetensors"
    back = safetensors.numpy.load_file(file)
    assert set(back) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype
    with safetensors.safe_open(file, "np") as opened:
        assert opened.metadata() == {"format": "hubtool"}


def test_every_tensor_is_aligned_to_its_elements(tmp_path: Path) -> None:
    graph = Graph(
        tensors={dtype: Tensor.of(np.ones(3).astype(numpy_dtype(dtype))) for dtype in sorted(BITS)}
    )
    native.write(graph, tmp_path / "m")
    data = (tmp_path / "m/model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 64 == 0
    back = native.read(tmp_path / "m")
    assert all(t.array.flags.aligned for t in back.tensors.values())


def test_branches_may_use_the_same_names_and_keys_never_collide(tmp_path: Path) -> None:
    def branch(number: float) -> Graph:
        return Graph(
            outputs={"k": Value("tensor", "float32", ())},
            tensors={"k": Tensor.of(np.array(number, np.float32))},
        )

    attrs = {"then_branch": branch(1), "else_branch": branch(2)}
    graph = Graph(
        layers=[Layer("if", "If", {"cond": "c"}, ["y"], attrs)],
        inputs={"c": Value("tensor", "bool", ())},
        outputs={"y": Value("tensor", "float32", ())},
        tensors={"if/then_branch/k": Tensor.of(np.array(3, np.float32))},
    )
    native.write(graph, tmp_path / "m")
    assert native.read(tmp_path / "m") == graph
    keys = set(safetensors.numpy.load_file(tmp_path / "m/model.safetensors"))
    assert keys == {"if/then_branch/k", "if/then_branch/k~2", "if/else_branch/k"}


def test_a_string_tensor_leaves_room_for_its_offsets(tmp_path: Path) -> None:
    graph = Graph(
        tensors={
            "t": Tensor.of(np.array(["a", "bc"], object)),
            "t/offsets": Tensor.of(np.array([5], np.int8)),
        }
    )
    native.write(graph, tmp_path / "m")
    assert native.read(tmp_path / "m") == graph


def test_a_list_over_64_items_lies_with_the_weights_and_a_shorter_one_does_not(
    tmp_path: Path,
) -> None:
    graph = small()
    lists = {
        "ints": [2**62] * LONG,
        "floats": [0.1, math.inf, math.nan] * LONG,
        "texts": ["", "ü"] * LONG,
        "short": [1] * 64,
        "bytes": [b"\xff"] * LONG,
    }
    graph.layers[0].attrs = lists
    native.write(graph, tmp_path / "m")
    attrs = json.loads((tmp_path / "m/graph.json").read_text())["layers"][0]["attrs"]
    assert attrs["ints"] == {"list": "dense/ints"}
    assert attrs["floats"] == {"list": "dense/floats"}
    assert attrs["texts"] == {"list": "dense/texts"}
    assert attrs["short"] == [1] * 64
    assert attrs["bytes"] == [{"bytes": "/w=="}] * LONG
    assert native.read(tmp_path / "m") == graph


def test_metadata_stay_in_graph_json_however_long(tmp_path: Path) -> None:
    labels = [f"class {n}" for n in range(1000)]
    native.write(small(labels=labels), tmp_path / "m")
    assert json.loads((tmp_path / "m/graph.json").read_text())["meta"] == {"labels": labels}
    assert native.read(tmp_path / "m").meta == {"labels": labels}


def test_one_layer_is_one_line(tmp_path: Path) -> None:
    native.write(small(name="s"), tmp_path / "m")
    lines = (tmp_path / "m/graph.json").read_text().splitlines()
    assert sum('"op": "Gemm"' in line for line in lines) == 1
    assert lines[1:3] == ['  "format": 1,', '  "opsets": {"": 28},']
    keys = json.loads("\n".join(lines))
    order = ["format", "opsets", "weights", "meta", "inputs", "outputs", "layers", "tensors"]
    assert list(keys) == [*order, "values"]


def test_opsets_name_the_domains_that_are_used_in_subgraphs_too(tmp_path: Path) -> None:
    body = Graph(layers=[Layer("s", "ai.onnx.ml.Scaler", {"X": "x"}, ["z"])])
    graph = small()
    graph.layers[0].attrs["body"] = body
    native.write(graph, tmp_path / "m")
    opsets = json.loads((tmp_path / "m/graph.json").read_text())["opsets"]
    assert opsets == {"": 28, "ai.onnx.ml": 5}
    assert captures(body) == {"x"}


def test_verify_finds_a_single_flipped_bit(tmp_path: Path) -> None:
    native.write(small(), tmp_path / "m")
    assert native.verify_files(tmp_path / "m") == []
    file = tmp_path / "m/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert native.read(tmp_path / "m").tensors["W"] != small().tensors["W"]
    (problem,) = native.verify_files(tmp_path / "m")
    assert "model.safetensors: its sha256 is" in problem
    with pytest.raises(ReadError, match="its sha256 is"):
        native.read(tmp_path / "m", verify=True)


def test_weights_may_lie_in_several_files(tmp_path: Path) -> None:
    first, second = Graph(), small()
    first.tensors["t"] = Tensor.of(np.array(["a", "bc"], object))
    native.write(first, tmp_path / "a")
    native.write(second, tmp_path / "b")
    one = json.loads((tmp_path / "a/graph.json").read_text())
    both = json.loads((tmp_path / "b/graph.json").read_text())
    (tmp_path / "a/model.safetensors").rename(tmp_path / "b/other.safetensors")
    both["weights"].append({**one["weights"][0], "file": "other.safetensors"})
    both["tensors"] |= one["tensors"]
    (tmp_path / "b/graph.json").write_text(json.dumps(both))
    second.tensors |= first.tensors
    assert native.read(tmp_path / "b", verify=True) == second
    assert native.verify_files(tmp_path / "b") == []


def test_a_folder_of_a_hugging_face_cache_is_read_through_its_links(tmp_path: Path) -> None:
    cache = tmp_path / "models--axon--small"
    snapshot = cache / "snapshots/0123"
    snapshot.parent.mkdir(parents=True)
    native.write(small(), snapshot)
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(cache / "blobs" / str(number))
        path.symlink_to(Path("../../blobs", str(number)))
    assert native.read(snapshot, verify=True) == small()
    linked = tmp_path / "link"
    linked.symlink_to(snapshot)
    assert native.read(linked, verify=True) == small()


def test_further_files_and_the_check_come_before_the_folder_is_in_place(tmp_path: Path) -> None:
    target = tmp_path / "m"
    seen = []

    def check(folder: Path) -> None:
        assert not target.exists()
        assert native.read(folder, verify=True) == small()
        seen.append((folder / "report.json").read_bytes())

    native.write(small(), target, extra={"report.json": b"{}"}, check=check)
    assert seen == [b"{}"]
    assert names(target) == ["graph.json", "model.safetensors", "report.json"]
    assert names(tmp_path) == ["m"]


def test_a_check_that_raises_leaves_nothing(tmp_path: Path) -> None:
    def check(folder: Path) -> None:
        raise ArithmeticError(folder.name)

    with pytest.raises(ArithmeticError):
        native.write(small(), tmp_path / "m", check=check)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["graph.json", "model.safetensors", "a/b", "..", "", "C:x", "a\\b"]
)
def test_a_further_file_must_have_a_plain_name_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(WriteError, match="no names for further files"):
        native.write(small(), tmp_path / "m", extra={name: b""})
    assert names(tmp_path) == []
