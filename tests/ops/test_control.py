"""Control flow as ONNX Runtime runs it: captures, zero turns, axes and directions, shapes alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conformance.suite import on, read_model

from hubtool.errors import RunError
from hubtool.interpreter import Program
from hubtool.meta import MetaArray, MetaSpace

IF = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (bool c, float[2, 3] x) => (y)
<float scale = {2.0}> {
  h = Mul(x, scale)
  y = If (c) <
    then_branch = g1 () => (float[2, 3] t) { t = Add(h, x) },
    else_branch = g2 () => (float e) { e = ReduceSum<keepdims = 0>(h) }
  >
}
"""

LOOP = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (int64 m, bool c, float[N] x) => (total, seen, turns)
<float limit = {20.0}> {
  total, seen, turns = Loop (m, c, x) <
    body = g (int64 i, bool go, float[N] a) => (bool more, float[N] b, float s, int64 turn) {
      b = Add(a, x)
      s = ReduceSum<keepdims = 0>(b)
      more = Less(s, limit)
      turn = Identity(i)
    }
  >
}
"""

NESTED = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (int64 m, float[2] x) => (y)
<bool yes = {1}, float one = {1.0}> {
  outer = Add(x, one)
  y = Loop (m, yes, x) <
    body = g (int64 i, bool go, float[2] a) => (bool go_on, float[2] b) {
      go_on = Identity(go)
      k = Cast<to = 1>(i)
      z = Mul(a, one)
      b = Loop (m, yes, z) <
        body = h (int64 j, bool g2, float[2] d) => (bool g3, float[2] e) {
          g3 = Identity(g2)
          f = Add(d, outer)
          e = Add(f, k)
        }
      >
    }
  >
}
"""

ENDLESS = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (float x) => (y, seen)
<bool yes = {1}, float limit = {50.0}> {
  y, seen = Loop ("", yes, x) <
    body = g (int64 i, bool go, float a) => (bool more, float b, float s) {
      b = Add(a, a)
      s = Identity(a)
      more = Less(b, limit)
    }
  >
}
"""

SCAN = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (float[2] s, float[3, 4, 2] x, float[2, 4] w) => (end, sums, steps)
{
  end, sums, steps = Scan <
    num_scan_inputs = 2, scan_input_axes = [1, -1], scan_input_directions = [0, 1],
    scan_output_axes = [-1, 0], scan_output_directions = [1, 0],
    body = g (float[2] a, float[3, 2] row, float[2] v) => (float[2] b, float[3, 2] r, float[2] t) {
      q = Mul(a, v)
      r = Add(row, q)
      b = Add(a, v)
      t = Identity(b)
    }
  > (s, x, w)
}
"""

GROWING = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (int64 m, float[1] x) => (y)
<bool yes = {1}> {
  y = Loop (m, yes, x) <
    body = g (int64 i, bool go, float[K] a) => (bool more, float[L] b) {
      more = Identity(go)
      b = Concat<axis = 0>(a, x)
    }
  >
}
"""

X = np.asarray([[1, 2, 3], [4, 5, 6]], np.float32)
TWO = np.asarray([1, 2], np.float32)


def count(number: int) -> np.ndarray:
    return np.asarray(number, np.int64)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "if": (IF, {"c": np.asarray(True), "x": X}),
    "else, of another rank": (IF, {"c": np.asarray(False), "x": X}),
    "loop to its count": (LOOP, {"m": count(3), "c": np.asarray(True), "x": TWO}),
    "loop until its condition": (LOOP, {"m": count(9), "c": np.asarray(True), "x": TWO}),
    "loop that never starts": (LOOP, {"m": count(5), "c": np.asarray(False), "x": TWO}),
    "loop of no turns": (LOOP, {"m": count(0), "c": np.asarray(True), "x": TWO}),
    "loop in a loop": (NESTED, {"m": count(3), "x": TWO}),
    "loop without a count": (ENDLESS, {"x": np.asarray(3, np.float32)}),
    "scan": (
        SCAN,
        {
            "s": TWO,
            "x": np.arange(24, dtype=np.float32).reshape(3, 4, 2),
            "w": X[:, :2].repeat(2, 1),
        },
    ),
    "growing": (GROWING, {"m": count(4), "x": TWO[:1]}),
}


def runtime(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


@pytest.mark.parametrize("backend", ["numpy", "torch", "strict"])
@pytest.mark.parametrize("name", CASES)
def test_control_flow_is_that_of_onnxruntime(name: str, backend: str) -> None:
    text, feeds = CASES[name]
    model = onnx.parser.parse_model(text)
    made = on(backend)(read_model(model), feeds)
    for given, wanted in zip(made.values(), runtime(model, feeds), strict=True):
        assert (given.dtype, given.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(given, wanted, rtol=1e-6)


def shapes(text: str, **feeds: Any) -> list[Any]:
    """The shapes of the outputs; what is fed as a tuple has no data."""
    graph = read_model(onnx.parser.parse_model(text))
    given = {k: MetaArray("float32", v) if isinstance(v, tuple) else v for k, v in feeds.items()}
    return [value.shape for value in Program(graph, MetaSpace()).run(given).values()]


def test_a_branch_that_is_known_tells_the_shape() -> None:
    assert shapes(IF, c=np.asarray(True), x=(2, 3)) == [(2, 3)]
    assert shapes(IF, c=np.asarray(False), x=(2, 3)) == [()]


def test_branches_of_different_shapes_need_the_condition() -> None:
    with pytest.raises(RunError, match="its branches give different shapes, and the data decide"):
        shapes(IF, c=MetaArray("bool", ()), x=(2, 3))


def test_branches_of_one_shape_do_not() -> None:
    alike = IF.replace("ReduceSum<keepdims = 0>(h)", "Sub(h, x)").replace(
        "float e", "float[2, 3] e"
    )
    assert shapes(alike, c=MetaArray("bool", ()), x=(2, 3)) == [(2, 3)]


def test_a_branch_that_the_shapes_do_not_fit_is_not_taken() -> None:
    unfit = IF.replace("ReduceSum<keepdims = 0>(h)", "MatMul(h, h)").replace(
        "float e", "float[2, 3] e"
    )
    assert shapes(unfit, c=MetaArray("bool", ()), x=(2, 3)) == [(2, 3)]
    with pytest.raises(RunError, match="while running Add"):
        both = unfit.replace("Add(h, x)", "Add(h, v)").replace(
            "float[2, 3] x)", "float[2, 3] x, float[5] v)"
        )
        shapes(both, c=MetaArray("bool", ()), x=(2, 3), v=(5,))


def test_a_loop_that_keeps_its_shapes_needs_no_count() -> None:
    assert shapes(NESTED, m=MetaArray("int64", ()), x=(2,)) == [(2,)]


def test_a_loop_that_grows_needs_its_count() -> None:
    assert shapes(GROWING, m=count(4), x=(1,)) == [(5,)]
    with pytest.raises(RunError, match="change their shapes, and the data decide how often"):
        shapes(GROWING, m=MetaArray("int64", ()), x=(1,))


def test_how_long_a_scanned_output_is_may_depend_on_data() -> None:
    with pytest.raises(RunError, match="the data decide how often it goes round"):
        shapes(LOOP, m=count(3), c=np.asarray(True), x=(2,))


def test_a_loop_of_shapes_alone_ends() -> None:
    with pytest.raises(RunError, match="it goes round more than 10,000 times"):
        shapes(GROWING.replace("Concat<axis = 0>(a, x)", "Identity(x)"), m=count(2**40), x=(1,))


def test_one_turn_tells_the_shapes_of_a_scan() -> None:
    assert shapes(SCAN, s=(2,), x=(3, 4000, 2), w=(2, 4000)) == [(2,), (3, 2, 4000), (4000, 2)]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"w": np.zeros((2, 5), np.float32)}, r"scanned inputs have different lengths: \[4, 5\]"),
        ({"s": np.zeros(3, np.float32)}, "while running Mul"),
    ],
)
def test_a_scan_that_does_not_fit_says_why(feeds: dict[str, Any], message: str) -> None:
    text, given = CASES["scan"]
    with pytest.raises(RunError, match=message):
        on("numpy")(read_model(onnx.parser.parse_model(text)), {**given, **feeds})


def test_a_condition_is_one_element() -> None:
    text, given = CASES["if"]
    with pytest.raises(RunError, match="cond has 2 elements, not one"):
        on("numpy")(
            read_model(onnx.parser.parse_model(text)), {**given, "c": np.asarray([True, False])}
        )
