"""The traps into which readers of ONNX fall, one test each: weights, scopes, names, files, dtypes.

13, 14 and 18 to 24; what operators mean stands in test_traps.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node
from onnx.numpy_helper import from_array

from hubtool.backends import get
from hubtool.backends.onnxruntime import run_file
from hubtool.errors import ReadError, UnsupportedError, WriteError
from hubtool.formats import native
from hubtool.formats.onnx import write as writing
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import write
from hubtool.graph import Graph, names_read

from .suite import read_model
from .test_round_trip import runtime
from .traps import ARRAYS, assert_means, model, numbers, written

BATCH_NORM = {
    **{name: numbers(4, seed=seed) for seed, name in enumerate(("scale", "B", "mean"))},
    "var": np.abs(numbers(4, seed=3)) + np.float32(0.5),
}


def stored(graph: Graph, folder: Path) -> Graph:
    """The graph as it comes back from the native folder: the same."""
    native.write(graph, folder)
    back = native.read(folder)
    assert back == graph
    return back


def test_trap_13_weights_that_are_no_initializers(tmp_path: Path) -> None:
    """A weight may come from ConstantOfShape, Constant, Identity, DequantizeLinear, or any other
    arithmetic on constants."""
    q = np.random.default_rng(1).integers(-9, 9, (4, 3, 2, 2)).astype(np.int8)
    weights: dict[str, Any] = {"shape": np.array([4, 3, 2, 2]), "V": numbers(4, 3, 2, 2), "q": q}
    weights |= {"s": np.abs(numbers(4)) + np.float32(0.01), "z": np.array([1, 0, -2, 3], np.int8)}
    weights |= {"half": numbers(4, 3, 2, 2).astype(np.float16), **BATCH_NORM}
    made = {
        "filled": "ConstantOfShape <value = float[1] {0.5}> (shape)",
        "told": "Constant <value = float[4,3,1,1] {1,2,3,4,5,6,7,8,9,10,11,12}> ()",
        "same": "Identity (V)",
        "whole": "DequantizeLinear <axis=0> (q, s, z)",
        "wide": "Cast <to=1> (half)",
        "turned": "Transpose <perm=[0,1,3,2]> (same)",
        "sum": "Add (turned, told)",
    }
    lines = [f"{name} = {expression}" for name, expression in made.items()]
    lines += [f"Conv (X, {name})" for name in made]
    lines += ["v2 = Identity (var)", "m2 = Mul (mean, s)", "c = Conv (X, whole, B)"]
    lines += ["BatchNormalization (c, scale, m2, mean, v2)"]
    graph = assert_means(model(13, "float[1,3,5,5] X", *lines, weights=weights))
    stored(graph, tmp_path / "folder")
    matrices = ["w = Reshape (V, flat)", "u = DequantizeLinear <axis=0> (q, s)", "MatMul (X, w)"]
    matrices += ["k = Reshape (u, flat)", "Gemm (X, k, b)", "b = Constant <value_float=2.0> ()"]
    matrices = sorted(matrices, key=lambda line: "Gemm" in line)
    weights |= {"flat": np.array([-1, 6])}
    assert_means(model(13, "float[2,8] X", *matrices, weights=weights))


def test_trap_14_initializers_as_inputs(tmp_path: Path) -> None:
    """An input that is an initializer too is a constant below IR 4, and from IR 4 on a default
    that a caller may override, so nothing may be folded into it."""
    inputs = "float[1,3,5,5] X, float[4,3,2,2] W, float[4] scale, int64[2] shape"
    weights = {"W": numbers(4, 3, 2, 2), "shape": np.array([4, -1]), **BATCH_NORM}
    lines = ["c = Conv (X, W)", "n = BatchNormalization (c, scale, B, mean, var)"]
    lines += ["Reshape (n, shape)"]
    old = assert_means(model(8, inputs, *lines, weights=weights, ir=3))
    assert list(old.inputs) == ["X"]
    for ir in (4, 8):
        proto = model(9, inputs, *lines, weights=weights, ir=ir)
        graph = assert_means(proto)
        assert list(graph.inputs) == ["X", "W", "scale", "shape"]
        assert list(graph.free_inputs) == ["X"]
        other = {"X": numbers(1, 3, 5, 5), "W": numbers(4, 3, 2, 2, seed=7)}
        assert_means(proto, other)
        other |= {"scale": numbers(4, seed=8), "shape": np.array([2, 32])}
        assert_means(proto, other)
    assert list(stored(graph, tmp_path / "folder").free_inputs) == ["X"]


def test_trap_18_subgraphs(tmp_path: Path) -> None:
    """A branch or a body reads names from around it, however deep, and branches may differ in
    rank; names in one mean nothing in another."""
    choice = (
        "If (c) <then_branch = t () => (float[] y) { y = ReduceSum <keepdims=0> (X) },"
        " else_branch = e () => (float[] y) { z = MatMul (X, W)  y = Relu (z) }>"
    )
    deep = (
        "If (c) <then_branch = t () => (float[] y) { y = Identity (X) },"
        " else_branch = e () => (float[] y) { z = Abs (X)  y = If (d) <"
        "then_branch = t () => (float[] z2) { z2 = Add (z, X) },"
        " else_branch = e () => (float[] z2) { k = Constant <value_float=2.0> ()"
        "  z2 = Mul (W, k) }> }>"
    )
    loop = (
        "last, all = Loop (n, yes, X) <body = b (int64 i, bool go, float[] s)"
        " => (bool more, float[] t, float[] o) { more = Identity (go)  a = Cast <to=1> (i)"
        "  p = Add (s, a)  t = Add (p, X)  o = MatMul (t, W) }>"
    )
    fixed = "If (yes) <then_branch = t () => (float[] y) { y = Neg (X) }, else_branch = e () => "
    fixed += "(float[] y) { y = ReduceMax <keepdims=0> (X) }>"
    weights = {"W": numbers(3, 2, seed=5), "n": np.array(3), "yes": np.array(True)}
    lines = [choice, deep, loop, "Identity (last)", "Identity (all)", fixed]
    proto = model(12, "float[2,3] X, bool c, bool d", *lines, weights=weights)
    for c, d in ((True, False), (False, True), (False, False)):
        feeds = {"X": numbers(2, 3), "c": np.array(c), "d": np.array(d)}
        graph = assert_means(proto, feeds)
    stored(graph, tmp_path / "folder")


NAMES = [
    *("a:0", "a/b", "a.b", "a b", "a_b", "a:b", "A/B", "a/value", "a", "ü", "u\u0308", "名前", "'"),
    *('"', "\\", "%2F", "..", "../a", "con", "0", "-1", "null", "__metadata__", " ", "\n", "X "),
]


@pytest.mark.parametrize("called", ["", "the same", None], ids=["no name", "one name", "its own"])
def test_trap_19_names(called: str | None, tmp_path: Path) -> None:
    """Names hold any sign, layers have none or share one, and two that look alike once the odd
    signs are replaced stay two; in the native folder too."""
    values = [*NAMES, "Y"]
    nodes = [make_node("ConstantOfShape", ["n"], ["zeros"], "a", value=from_array(np.float32([0])))]
    nodes += [make_node("Add", ["X", "zeros"], ["out of " + NAMES[0]], called or "")]
    for index, name in enumerate(NAMES):
        made = f"out of {values[index + 1]}" if index + 1 < len(NAMES) else "Y"
        label = name if called is None else called
        nodes.append(make_node(("Mul", "Add")[index % 2], [f"out of {name}", name], [made], label))
    proto = model(13, "float[2,40] X", "Relu (X)")
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.output[0].name = "Y"
    weights = {name: numbers(2, 40, seed=index + 1) for index, name in enumerate(NAMES)}
    weights["n"] = np.array([2, 40])
    proto.graph.initializer.extend(from_array(array, name) for name, array in weights.items())
    # ONNX Runtime refuses a name that two layers have: a twin without names says what is wanted.
    twin = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in twin.graph.node:
        node.ClearField("name")
    feeds = {"X": numbers(2, 40)}
    wanted = runtime(twin, feeds)
    graph = assert_means(proto, feeds, wanted)
    assert {*NAMES} <= {*graph.tensors}
    assert len({layer.name for layer in graph.layers}) == len(nodes)
    back = stored(graph, tmp_path / "folder")
    np.testing.assert_allclose(runtime(written(back), feeds), wanted, rtol=1e-5)
    assert {*NAMES} <= {name for layer in back.layers for name in names_read(layer)}


FUNCTION = '<domain: "f", opset_import: ["" : 17, "f" : 1]>'


def test_trap_20_functions() -> None:
    """Functions of the model itself call each other with attributes of their caller, may be given
    fewer inputs, hold branches, and use names that the caller uses too."""
    functions = f"""
        {FUNCTION} Scaled <factor> (x) => (y) {{
            c = Constant <value_float: float = @factor> ()  y = Mul (x, c) }}
        {FUNCTION} Twice <factor> (x) => (y) {{
            a = f.Scaled <factor: float = @factor> (x)  y = f.Scaled <factor = 2.0> (a) }}
        {FUNCTION} Chosen <axis> (x, c) => (y) {{
            a = f.Twice <factor = 3.0> (x)
            y = If (c) <then_branch = t () => (z) {{ z = Softmax <axis: int = @axis> (a) }},
                else_branch = e () => (z) {{ z = Add (a, x) }}> }}
        {FUNCTION} Bounded (x, low, high) => (y) {{ y = Clip (x, low, high) }}"""
    lines = ["a = f.Twice <factor = 0.5> (X)", "y = f.Scaled <factor = -1.0> (X)"]
    lines += ["f.Chosen <axis = 0> (y, c)", "f.Chosen <axis = 1> (y, c)", "f.Bounded (X,, one)"]
    lines += ["f.Bounded (X, one)", "Add (a, y)"]
    weights = {"one": np.float32(0.1)}
    proto = model(17, "float[2,3] X, bool c", *lines, weights=weights, functions=functions)
    for c in (True, False):
        graph = assert_means(proto, {"X": numbers(2, 3), "c": np.array(c)})
    assert not [layer.op for layer in graph.layers if layer.op.startswith("f.")]


def test_trap_20_functions_with_defaults() -> None:
    """An attribute of a function may have a default of its own, unlike that of the operator."""
    body = "(x) => (y) { y = LeakyRelu <alpha: float = @slope> (x) }"
    functions = f"{FUNCTION} Leaky <slope: float = 0.5> {body}"
    lines = ["f.Leaky <slope = 0.25> (X)", "f.Leaky (X)"]
    assert_means(model(17, "float[2,3] X", *lines, functions=functions))


def adding(**entry: Any) -> onnx.ModelProto:
    """X + W, where W [2, 3] is external data."""
    proto = model(13, "float[2,3] X", "Add (X, W)", weights={"W": numbers(2, 3, seed=4)})
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entry.items():
        weight.external_data.add(key=key, value=str(value))
    return proto


def assert_file_means(path: Path, wanted: Mapping[str, Any] | None = None) -> Graph:
    """AssertionError unless the file, on every backend, gives what ONNX Runtime makes of it."""
    feeds = {"X": numbers(2, 3)}
    wanted = run_file(path, feeds) if wanted is None else wanted
    graph = read(path, isolated=False)
    for backend in (*ARRAYS, "onnxruntime"):
        made = get(backend).prepare(graph).run(feeds)
        assert made.keys() == wanted.keys()
        for name, value in made.items():
            np.testing.assert_allclose(value, wanted[name], rtol=1e-6)
    return graph


def test_trap_21_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of more than 2 GB has its weights in other files, at offsets beyond 2 GB, and is
    written so again."""
    far = 2**31 + 4096
    with (tmp_path / "weights.bin").open("wb") as file:  # a hole of 2 GB takes no room
        file.seek(far)
        file.write(numbers(2, 3, seed=4).tobytes())
    path = tmp_path / "model.onnx"
    path.write_bytes(adding(location="weights.bin", offset=far, length=24).SerializeToString())
    graph = assert_file_means(path)
    assert np.array_equal(graph.tensors["W"].array, numbers(2, 3, seed=4))
    assert_file_means(
        path, get("numpy").prepare(stored(graph, tmp_path / "folder")).run({"X": numbers(2, 3)})
    )
    # More than 2 GB is more than MOST_BYTES, which is a few here.
    monkeypatch.setattr(writing, "MOST_BYTES", 4000)
    large = {"W": numbers(30, 50, seed=1), "V": numbers(30, 50, seed=2)}
    lines = ["w = MatMul (X, W)", "v = MatMul (X, V)", "Add (w, v)"]
    proto = model(13, "float[2,30] X", *lines, weights=large)
    graph = read_model(proto)
    with pytest.raises(WriteError, match="no more than 2 GB"):
        write(graph, tmp_path / "one.onnx", external=False)
    write(graph, tmp_path / "two.onnx")
    assert (tmp_path / "two.onnx").stat().st_size < 4000
    (data,) = tmp_path.glob("two-*.data")
    assert data.stat().st_size >= 2 * 30 * 50 * 4
    assert read(tmp_path / "two.onnx", isolated=False).tensors == graph.tensors
    feeds = {"X": numbers(2, 30)}
    (made,) = run_file(tmp_path / "two.onnx", feeds).values()
    np.testing.assert_allclose(made, runtime(proto, feeds)[0], rtol=1e-5, atol=1e-5)


def test_trap_22_links_of_a_hugging_face_cache(tmp_path: Path) -> None:
    """In a Hugging Face cache every file is a link into `blobs`, which is fine; a link to anywhere
    else is an attack."""
    plain, cache = tmp_path / "plain", tmp_path / "hub" / "models--some--model"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "0123abc"
    for folder in (plain, blobs, snapshot):
        folder.mkdir(parents=True)
    proto, data = adding(location="w.bin").SerializeToString(), numbers(2, 3, seed=4).tobytes()
    for target, name, content in (("aa", "model.onnx", proto), ("bb", "w.bin", data)):
        (plain / name).write_bytes(content)
        (blobs / target).write_bytes(content)
        (snapshot / name).symlink_to(Path("../../blobs") / target)
    wanted = run_file(plain / "model.onnx", {"X": numbers(2, 3)})
    graph = assert_file_means(snapshot / "model.onnx", wanted)
    # A native folder in a cache is read over its links too.
    native.write(graph, tmp_path / "native")
    for file in (tmp_path / "native").iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert native.read(snapshot) == graph
    (tmp_path / "secret").write_bytes(data)
    for folder in (plain, snapshot):
        (folder / "w.bin").unlink()
        (folder / "w.bin").symlink_to(tmp_path / "secret")
        with pytest.raises(ReadError, match="leads over a link"):
            read(folder / "model.onnx", isolated=False)
    (plain / "w.bin").unlink()
    (plain / "w.bin").symlink_to(blobs / "bb")
    with pytest.raises(ReadError, match="leads over a link"):
        read(plain / "model.onnx", isolated=False)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(ReadError, match="a link that leads out of the folder"):
        native.read(snapshot)


def test_trap_23_shared_initializers(tmp_path: Path) -> None:
    """One initializer may serve several layers, also as an output, so that what a pass does for
    one of them the others must not see; it is stored once."""
    weights = {"W": numbers(4, 4, 3, 3), "M": numbers(100, 100, seed=2), **BATCH_NORM}
    weights["shift"] = numbers(4, seed=9)
    lines = ["a = Conv <pads=[1,1,1,1]> (X, W, B)", "c = Conv <pads=[1,1,1,1]> (X, W, B)"]
    lines += ["b = BatchNormalization (a, scale, B, mean, var)", "Relu (b)"]
    lines += ["d = BatchNormalization (c, B, scale, shift, var)", "Add (c, d)"]
    lines += ["BatchNormalization (X, scale, scale, mean, var)", "Identity (W)", "MatMul (M, M)"]
    lines += ["e = Conv (X, W)", "BatchNormalization (e, scale, B, mean, var)", "Mul (X, s)"]
    weights["s"] = np.float32(3)
    lines += ["Pow (X, s)", "ConvTranspose (X, W)"]
    proto = model(13, "float[1,4,5,5] X", *lines, weights=weights)
    graph = assert_means(proto, rtol=1e-4)
    assert {*weights} <= {*graph.tensors}
    stored(graph, tmp_path / "folder")
    assert (tmp_path / "folder" / "model.safetensors").stat().st_size < 1.5 * weights["M"].nbytes
    names = [tensor.name for tensor in written(graph).graph.initializer]
    assert sorted(names) == sorted({*names})


UNSIGNED = ["uint16", "uint32", "uint64"]


@pytest.mark.parametrize(
    "dtype", ["uint8", *UNSIGNED, "int8", "int16", "int32", "int64", "float16"]
)
def test_trap_24_odd_dtypes(dtype: str, tmp_path: Path) -> None:
    """Unsigned and small integers keep their dtype, wrap around, and divide towards zero."""
    kind = np.dtype(dtype)
    least, most = (0, 9) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    X = np.array([least, 1, 2, 7, 100, most], kind)
    weights = {"two": kind.type(2), "first": np.array([2, 0, 0])}
    moved = [
        "Identity (X)",
        "Gather <axis=1> (M, first)",
        "Concat <axis=0> (X, X)",
        "Reshape (X, s)",
    ]
    moved += ["Slice (X, zero, one)", "t = Cast <to=1> (X)", f"Cast <to={onnx_number(dtype)}> (t)"]
    weights |= {"zero": np.array([0]), "one": np.array([1]), "s": np.array([2, 3])}
    weights["M"] = X.reshape(2, 3)
    small = {"X": np.array([1, 2, 3, 5, 7, 9], kind)}
    proto = model(13, f"{dtype}[6] X", *moved, dtype=dtype, weights=weights)
    graph = assert_means(proto, small)
    stored(graph, tmp_path / "folder")
    # By hand: ONNX Runtime has arithmetic for 32 and 64 bits, hubtool for all but uint64 on torch.
    counted = ["Add (X, two)", "Mul (X, two)", "Sub (X, two)", "Div (X, two)", "Max (X, two)"]
    two = weights["two"]
    with np.errstate(over="ignore"):
        divided = X / two if kind.kind == "f" else np.trunc(X / two.astype(np.longdouble))
        wanted = [X + two, X * two, X - two, divided.astype(kind), np.maximum(X, two)]
    proto = model(14, f"{dtype}[6] X", *counted, dtype=dtype, weights={"two": two})
    on = ["numpy"] if dtype == "uint64" else ARRAYS
    graph = assert_means(proto, {"X": X}, wanted, on=on, exported=kind.itemsize > 2)
    if dtype == "uint64":
        with pytest.raises(UnsupportedError, match="uint64"):
            get("torch").prepare(graph)


def onnx_number(dtype: str) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def test_trap_24_odd_shapes_and_dtypes(tmp_path: Path) -> None:
    """A tensor may have no axes or no elements, and booleans are no numbers."""
    weights: dict[str, Any] = {"k": np.float32(3), "i": np.array(1), "v": numbers(4)}
    weights |= {"none": np.zeros((0, 3), np.float32), "never": np.zeros((3, 0), np.float32)}
    lines = ["Add (S, k)", "Mul (S, v)", "Gather (v, i)", "ReduceSum <keepdims=0> (v)"]
    lines += ["Identity (S)", "Sqrt (k)", "Unsqueeze (S, axes)", "Softmax (v)", "MatMul (v, v)"]
    lines += ["Concat <axis=0> (none, E)", "MatMul (never, E)", "MatMul (E, never)", "Relu (E)"]
    lines += ["ReduceSum <keepdims=0> (E)", "Transpose (E)", "Flatten <axis=0> (E)"]
    lines += ["ReduceSum (E, axes)", "Slice (v, axes, axes)", "Expand (S, axes)", "Add (E, v3)"]
    lines += ["Pad (E, pads)", "Sum (S, k)", "Reshape (never, flat)", "Max (S, k)"]
    weights |= {
        "axes": np.array([0]),
        "v3": numbers(3),
        "pads": np.array([1, 0, 0, 0]),
        "flat": np.array([-1]),
    }
    feeds = {"S": np.array(0.5, np.float32), "E": np.zeros((0, 3), np.float32)}
    graph = assert_means(model(13, "float S, float[N,3] E", *lines, weights=weights), feeds)
    stored(graph, tmp_path / "folder")
    bits = {"T": np.array([[True, False], [True, True]]), "U": np.array([True, False])}
    lines = [
        "And (T, U)",
        "Or (T, U)",
        "Xor (T, yes)",
        "Not (T)",
        "Equal (T, U)",
    ]
    lines += ["c = Cast <to=1> (T)", "Cast <to=9> (c)", "Concat <axis=0> (T, T)", "Gather (U, i)"]
    lines += ["Transpose (T)", "Reshape (T, flat)", "Greater (c, k)", "u = Cast <to=2> (T)"]
    lines += ["d = Cast <to=1> (u)", "Less (d, k)"]
    weights = {"yes": np.array(True), "i": np.array(1), "flat": np.array([4]), "k": np.float32(0.5)}
    proto = model(13, "bool[2,2] T, bool[2] U", *lines, dtype="bool", weights=weights)
    stored(assert_means(proto, bits), tmp_path / "bits")
    # ONNX Runtime has no Where of booleans: by hand.
    proto = model(13, "bool[2,2] T, bool[2] U", "Where (T, U, T)", dtype="bool")
    assert_means(proto, bits, [np.where(bits["T"], bits["U"], bits["T"])], exported=False)


@pytest.mark.parametrize("dtype", UNSIGNED)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_trap_24_gather_of_unsigned(backend: str, dtype: str) -> None:
    """What moves elements moves those of any dtype."""
    proto = model(13, f"{dtype}[4] X, int64[3] i", "Gather (X, i)", dtype=dtype)
    feeds = {"X": np.array([7, 1, 2, 9], dtype), "i": np.array([3, 0, 0])}
    assert_means(proto, feeds, on=[backend])
