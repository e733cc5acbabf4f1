"""What the lifting must not break, beyond the meaning of single operators (test_opsets.py): names,
branches, open shapes, loops made of a Scan. ONNX Runtime judges the source, and what is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hostile import save
from onnx.numpy_helper import from_array
from onnxruntime import InferenceSession, SessionOptions

from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import write
from hubtool.graph import Graph
from hubtool.interpreter import HOST, Program

RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


X = floats(2, 4)


def model(text: str, opset: int, ir: int = 7) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]> g {text}')


def run(path: Path, feeds: dict[str, Any]) -> list[np.ndarray]:
    options = SessionOptions()
    options.log_severity_level = 4
    return InferenceSession(path, options).run(None, feeds)


def lifted(folder: Path, proto: onnx.ModelProto) -> Graph:
    return read(save(folder / "source.onnx", proto), isolated=False)


def assert_same(folder: Path, proto: onnx.ModelProto, feeds: dict[str, Any]) -> Graph:
    """hubtool's numpy, and ONNX Runtime on what was written, give what ONNX Runtime gives for the
    source."""
    graph = lifted(folder, proto)
    write(graph, folder / "lifted.onnx", overwrite=True)
    onnx.checker.check_model(folder / "lifted.onnx", full_check=True)
    expected, written = run(folder / "source.onnx", feeds), run(folder / "lifted.onnx", feeds)
    made = Program(graph, HOST).run(feeds).values()
    for wanted, *given in zip(expected, written, made, strict=True):
        for array in given:
            assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
            np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-6)
    return graph


SHADOWS = {
    "of the graph around": """(float[2, 4] X, bool c) => (float[2, 4] Y)
    {
        u = Unsqueeze <axes = [0]> (X)
        _v_5 = Relu (u)
        Y = If (c) <
            then_branch = t () => (float[2, 4] a) { a = Squeeze <axes = [0]> (_v_5) },
            else_branch = e () => (float[2, 4] b)
            { z = Unsqueeze <axes = [0]> (X) b = Squeeze <axes = [0]> (z) }
        >
    }""",
    "of a branch, and of one in a branch": """(float[2, 4] X, bool c) => (float[2, 4] Y)
    {
        _v_7 = Relu (X)
        Y = If (c) <
            then_branch = t () => (float[2, 4] a)
            {
                z = Unsqueeze <axes = [0]> (X)
                w = Squeeze <axes = [0]> (z)
                a = If (c) <
                    then_branch = t2 () => (float[2, 4] p)
                    {
                        q = Unsqueeze <axes = [0]> (_v_7)
                        r = Squeeze <axes = [0]> (q)
                        _v_4 = Relu (r)
                        p = Add (_v_4, w)
                    },
                    else_branch = e2 () => (float[2, 4] s) { s = Neg (_v_7) }
                >
            },
            else_branch = e () => (float[2, 4] b)
            { _v_6 = Unsqueeze <axes = [0]> (X) b = Squeeze <axes = [0]> (_v_6) }
        >
    }""",
    "that are initializers": """(float[2, 4] X, bool c) => (float[2, 5] Y)
    {
        _v_4 = Relu (X)
        _v_5 = Neg (_v_4)
        _v_6 = Abs (_v_5)
        Y = If (c) <
            then_branch = t () => (float[2, 5] a) { a = Pad <pads = [0, 1, 0, 0]> (_v_6) },
            else_branch = e () => (float[2, 5] b)
            { _v_7 = Pad <pads = [0, 0, 0, 1], value = 2.0> (X) b = Neg (_v_7) }
        >
    }""",
}


@pytest.mark.parametrize("c", [True, False])
@pytest.mark.parametrize("names", SHADOWS)
def test_the_converter_makes_no_names_twice(tmp_path: Path, names: str, c: bool) -> None:
    """A model that was lifted once before has names like the converter's own."""
    assert_same(tmp_path, model(SHADOWS[names], 9), {"X": X, "c": np.array(c)})


SCAN = """(float[{n}, 3] H, float[{n}, {t}, 3] X) => (float[{n}, 3] Y, float[{n}, {t}, 3] Z)
{{
    Y, Z = Scan ("", H, X) <
        num_scan_inputs = 1,
        directions = [{backwards}],
        body = b (float[3] s, float[3] x) => (float[3] t, float[3] y)
        {{ t = Add (s, x) u = Clip <min = 0.1> (s) y = Mul (u, x) }}
    >
}}"""


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize(("n", "t"), [(2, 5), ("N", "T")])
def test_a_scan_for_each_sample_is_a_loop_in_a_loop(
    tmp_path: Path, n: Any, t: Any, backwards: int
) -> None:
    proto = model(SCAN.format(n=n, t=t, backwards=backwards), 8)
    proto.graph.node[0].name = "scan"
    graph = assert_same(tmp_path, proto, {"H": floats(2, 3), "X": floats(2, 5, 3)})
    (loop,) = (layer for layer in graph.layers if layer.op == "Loop")
    assert (loop.name, loop.outputs) == ("scan", ["Y", "Z"])


def test_a_scan_in_the_body_of_a_scan(tmp_path: Path) -> None:
    text = """(float[2, 3] H, float[2, 5, 4, 3] X) => (float[2, 3] Y)
    {
        Y = Scan ("", H, X) <
            num_scan_inputs = 1,
            body = b (float[3] s, float[4, 3] x) => (float[3] t)
        {
            h = Unsqueeze <axes = [0]> (s)
            i = Unsqueeze <axes = [0]> (x)
            q = Scan ("", h, i) <
                num_scan_inputs = 1,
                body = c (float[3] r, float[3] z) => (float[3] w) { w = Add (r, z) }
            >
            t = Squeeze <axes = [0]> (q)
        }>
    }"""
    assert_same(tmp_path, model(text, 8), {"H": floats(2, 3), "X": floats(2, 5, 4, 3)})


def test_what_a_scan_passes_on_stays_what_it_was(tmp_path: Path) -> None:
    """ONNX Runtime gives zeros here, so the array itself is the judge."""
    text = """(float[2, 3] H, float[2, 5, 3] X) => (float[2, 3] Y, float[2, 5, 3] Z)
    {
        Y, Z = Scan ("", H, X) <
            num_scan_inputs = 1,
            body = b (float[3] s, float[3] x) => (float[3] t, float[3] x) { t = Neg (s) }
        >
    }"""
    feeds = {"H": floats(2, 3), "X": floats(2, 5, 3)}
    made = Program(lifted(tmp_path, model(text, 8)), HOST).run(feeds)
    np.testing.assert_array_equal(made["Y"], -feeds["H"])
    np.testing.assert_array_equal(made["Z"], feeds["X"])


@pytest.mark.parametrize("inputs", ["H", "H, X, X"])
def test_a_scan_that_does_not_fit_its_body_is_refused(tmp_path: Path, inputs: str) -> None:
    proto = model(SCAN.format(n=2, t=5, backwards=0), 8)
    proto.graph.node[0].input[:] = ["", *inputs.split(", ")]
    with pytest.raises(UnsupportedError, match="has other inputs than its body"):
        lifted(tmp_path, proto)


@pytest.mark.parametrize("stored", ["weights", "inputs"])
def test_group_normalization_of_open_shapes(tmp_path: Path, stored: str) -> None:
    text = """(float[N, C, H, W] X, float[2] s, float[2] b) => (float[N, C, H, W] Y)
    { Y = GroupNormalization <num_groups = 2, epsilon = 0.1> (X, s, b) }"""
    proto = model(text, 18, ir=8)
    feeds = {"X": floats(2, 6, 3, 3), "s": floats(2), "b": floats(2)}
    if stored == "weights":
        del proto.graph.input[1:]
        proto.graph.initializer.extend(from_array(feeds.pop(name), name) for name in "sb")
    assert_same(tmp_path, proto, feeds)


def test_an_imagescaler_stands_as_arithmetic(tmp_path: Path) -> None:
    text = """(float[N, 3, H, W] X) => (float[N, 3, H, W] Y)
    { Y = ImageScaler <scale = 0.5, bias = [1.0, 2.0, 3.0]> (X) }"""
    proto = model(text, 7, ir=3)
    proto.graph.node[0].name = "scaler"
    graph = assert_same(tmp_path, proto, {"X": floats(2, 3, 4, 4)})
    assert [(layer.op, layer.name) for layer in graph.layers] == [
        ("Mul", "Y_scaled"),
        ("Add", "scaler"),
    ]


def test_a_model_of_other_domains_alone_is_read_and_written(tmp_path: Path) -> None:
    head = '<ir_version: 7, opset_import: ["ai.onnx.ml": 3, "com.microsoft": 1]> g'
    text = """(float[2, 4] X) => (float[2, 4] Y)
    {
        s = ai.onnx.ml.Scaler <offset = [1.0], scale = [2.0]> (X)
        Y = com.microsoft.Gelu (s)
    }"""
    assert_same(tmp_path, onnx.parser.parse_model(f"{head} {text}"), {"X": X})


def test_a_loop_without_state_is_written_with_all_that_the_schema_wants(tmp_path: Path) -> None:
    text = """(int64 n, float[2, 4] X) => (float[K, 2, 4] Y)
    {
        Y = Loop (n, "") <body = b (int64 i, bool c) => (bool d, float[2, 4] y)
        { d = Identity (c) y = Neg (X) }>
    }"""
    assert_same(tmp_path, model(text, 11), {"n": np.array(3), "X": X})


FUNCTION = """
<ir_version: 8, opset_import: ["": {outer}, "own": 1]>
g (float[2, 4] X) => (float[2, 4] Y) {{ Y = own.f (X) }}
<domain: "own", opset_import: ["": {inner}]>
f (x) => (y) {{ {body} }}
"""


@pytest.mark.parametrize(("inner", "outer"), [(12, 13), (12, 17), (9, 12)])
def test_a_function_of_another_opset_means_what_it_meant(
    tmp_path: Path, inner: int, outer: int
) -> None:
    body = "u = Unsqueeze <axes = [0]> (x) s = Softmax <axis = 2> (u) y = Squeeze <axes = [0]> (s)"
    text = FUNCTION.format(inner=inner, outer=outer, body=body)
    graph = lifted(tmp_path, onnx.parser.parse_model(text))
    made = Program(graph, HOST).run({"X": X})["Y"]
    np.testing.assert_allclose(made, np.exp(X) / np.exp(X).sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    "body",
    ["y = Hardmax (x)", "y, m, v, a, b = BatchNormalization (x, x, x, x, x)"],
)
def test_a_function_of_another_opset_that_nothing_can_repair_is_refused(
    tmp_path: Path, body: str
) -> None:
    text = FUNCTION.format(inner=12, outer=17, body=body)
    with pytest.raises(UnsupportedError, match=r"of function 'f' is of opset 12, the model of 17"):
        lifted(tmp_path, onnx.parser.parse_model(text))
