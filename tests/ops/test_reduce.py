"""Reductions over nothing, of integers and booleans; ties; running sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hubtool.errors import RunError
from hubtool.ops.reduce import REDUCTIONS

EMPTY = {
    "ReduceL1": 0,
    "ReduceL2": 0,
    "ReduceLogSum": -math.inf,
    "ReduceLogSumExp": -math.inf,
    "ReduceMax": -math.inf,
    "ReduceMin": math.inf,
    "ReduceProd": 1,
    "ReduceSum": 0,
    "ReduceSumSquare": 0,
}


@pytest.mark.parametrize("op", EMPTY)
def test_over_no_elements_the_neutral_one_is_left(alone, op):
    given = {"data": np.zeros((2, 0), np.float32), "axes": np.asarray([1])}
    assert alone(op, given, {"keepdims": 0})[0].tolist() == [EMPTY[op]] * 2


@pytest.mark.parametrize(("op", "wanted"), [("ReduceMax", -128), ("ReduceMin", 127)])
def test_over_no_integers_the_extreme_of_the_dtype_is_left(alone, op, wanted):
    given = {"data": np.zeros((2, 0), np.int8), "axes": np.asarray([1])}
    assert alone(op, given, {})[0].tolist() == [[wanted]] * 2


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axes", [None, [0], [-1], [1, 0], []])
def test_reductions_agree_with_onnxruntime(alone, in_onnxruntime, op, axes):
    data = np.random.default_rng(4).random((3, 4, 2)).astype(np.float32) + 0.5
    axes = None if axes is None else np.asarray(axes, np.int64)
    opset_18 = {"data": data, "axes": axes}
    for attrs in ({"keepdims": 0}, {"keepdims": 1}):
        (wanted,) = in_onnxruntime(op, [data, axes], attrs, {"reduced": "float32"})
        (made,) = alone(op, opset_18, attrs)
        assert made.shape == wanted.shape
        np.testing.assert_allclose(made, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        ("ReduceSum", [-2, 3]),
        ("ReduceSumSquare", [4, 9]),
        ("ReduceL2", [2, 3]),
        ("ReduceL1", [2, 3]),
    ],
)
def test_noop_reduces_nothing_and_still_does_the_rest(alone, op, wanted):
    given = {"data": np.asarray([-2, 3], np.float32), "axes": np.asarray([], np.int64)}
    assert alone(op, given, {"noop_with_empty_axes": 1})[0].tolist() == wanted


def test_the_mean_of_integers_is_rounded_toward_zero(alone):
    given = {"data": np.asarray([[-3, -4], [3, 4]], np.int32), "axes": np.asarray([1])}
    assert alone("ReduceMean", given, {"keepdims": 0})[0].tolist() == [-3, 3]


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, np.bool_, np.float32])
def test_extremes_of_every_kind_of_number(alone, op, dtype):
    data = np.asarray([[0, 1, 0], [1, 1, 1], [0, 0, 0]], dtype)
    (made,) = alone(op, {"data": data, "axes": np.asarray([1])}, {"keepdims": 0})
    assert made.dtype == dtype
    assert made.tolist() == getattr(data, op[-3:].lower())(axis=1).tolist()


def test_log_sum_exp_knows_no_overflow(alone):
    given = {"data": np.asarray([1e4, 1e4, -math.inf], np.float32)}
    (made,) = alone("ReduceLogSumExp", given, {"keepdims": 0})
    np.testing.assert_allclose(made, 1e4 + math.log(2), rtol=1e-6)


def test_all_of_minus_infinity_sums_to_minus_infinity(alone):
    given = {"data": np.asarray([-math.inf, -math.inf], np.float32)}
    assert alone("ReduceLogSumExp", given, {"keepdims": 0})[0] == -math.inf


@pytest.mark.parametrize(("last", "wanted"), [(0, [1, 0]), (1, [2, 2])])
def test_among_equals_the_first_index_or_the_last(alone, last, wanted):
    data = np.asarray([[1, 3, 3], [2, 2, 2]], np.float32)
    attrs = {"axis": -1, "keepdims": 0, "select_last_index": last}
    assert alone("ArgMax", {"data": data}, attrs)[0].tolist() == wanted


@pytest.mark.parametrize(
    ("attrs", "wanted"),
    [
        ({}, [1, 3, 6]),
        ({"exclusive": 1}, [0, 1, 3]),
        ({"reverse": 1}, [6, 5, 3]),
        ({"exclusive": 1, "reverse": 1}, [5, 3, 0]),
    ],
)
def test_running_sums_in_all_four_ways(alone, attrs, wanted):
    given = {"x": np.asarray([1, 2, 3], np.int32), "axis": np.asarray(0)}
    (made,) = alone("CumSum", given, attrs)
    assert (made.dtype.name, made.tolist()) == ("int32", wanted)


@pytest.mark.parametrize(("largest", "wanted"), [(1, [1, 3, 0]), (0, [2, 0, 4])])
def test_top_k_puts_the_lower_index_first_among_equals(alone, largest, wanted):
    given = {"X": np.asarray([5, 9, 1, 9, 5], np.float32), "K": np.asarray([3])}
    values, indices = alone("TopK", given, {"largest": largest}, outputs=2)
    assert indices.tolist() == wanted
    assert values.tolist() == given["X"][wanted].tolist()


@pytest.mark.parametrize(
    ("axes", "message"), [([3], "axis 3 is outside a rank of 2"), ([0, -2], "name one axis twice")]
)
def test_axes_that_are_none_are_refused(alone, axes, message):
    given = {"data": np.zeros((2, 2), np.float32), "axes": np.asarray(axes)}
    with pytest.raises(RunError, match=message):
        alone("ReduceSum", given, {})


@pytest.mark.parametrize("k", [3, -1])
def test_more_than_there_is_cannot_be_the_top(alone, k):
    with pytest.raises(RunError, match=f"K is {k}, not from 0 to 2, the size of axis 0"):
        alone("TopK", {"X": np.zeros(2, np.float32), "K": np.asarray([k])}, {}, outputs=2)
