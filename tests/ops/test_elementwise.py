"""What the suite leaves open: integers, mixed dtypes, saturation, the error function."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from hubtool.dtypes import NUMBERS, numpy_dtype
from hubtool.errors import RunError


def array(values, dtype):
    return np.asarray(values).astype(numpy_dtype(dtype))


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
def test_integers_divide_toward_zero(alone, dtype):
    A, B = array([7, -7, 7, -7, 6, 0], dtype), array([2, 2, -2, -2, -3, 5], dtype)
    (C,) = alone("Div", {"A": A, "B": B}, {})
    assert (C.dtype.name, C.tolist()) == (dtype, [3, -3, -3, 3, -2, 0])


@pytest.mark.parametrize(("fmod", "wanted"), [(0, [1, 1, -1, -1]), (1, [1, -1, 1, -1])])
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_mod_takes_the_sign_of_the_divisor_and_fmod_that_of_the_dividend(
    alone, dtype, fmod, wanted
):
    A, B = array([7, -7, 7, -7], dtype), array([2, 2, -2, -2], dtype)
    (C,) = alone("Mod", {"A": A, "B": B}, {"fmod": fmod})
    assert C.tolist() == wanted


@pytest.mark.parametrize(
    ("op", "A", "B", "wanted"),
    [("Add", 127, 1, -128), ("Sub", -128, 1, 127), ("Mul", 100, 3, 44), ("Div", -128, -1, -128)],
)
def test_integers_wrap_around(alone, op, A, B, wanted):
    (C,) = alone(op, {"A": array([A], "int8"), "B": array([B], "int8")}, {})
    assert C.tolist() == [wanted]


@pytest.mark.parametrize(
    ("X", "Y"),
    [("float32", "int64"), ("int32", "float32"), ("int64", "int32"), ("float16", "uint8")],
)
def test_a_power_has_the_dtype_of_its_base(alone, X, Y):
    (Z,) = alone("Pow", {"X": array([2, 3, 4], X), "Y": array([3, 2, 1], Y)}, {})
    assert (Z.dtype.name, Z.tolist()) == (X, [8, 9, 4])


def test_a_large_integer_power_is_exact(alone):
    (Z,) = alone("Pow", {"X": array([3], "int64"), "Y": array([39], "int64")}, {})
    assert Z.tolist() == [3**39]


def test_where_min_is_above_max_everything_becomes_max(alone):
    given = {"input": array([-5, 0, 5], "float32"), "min": np.float32(3), "max": np.float32(1)}
    assert alone("Clip", given, {})[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [({}, [-5, 0, 5]), ({"min": -1}, [-1, 0, 5]), ({"max": 1}, [-5, 0, 1])],
)
def test_a_bound_that_is_absent_does_not_bind(alone, bounds, wanted):
    given = {key: np.asarray(value, np.int32) for key, value in bounds.items()}
    (output,) = alone("Clip", {"input": array([-5, 0, 5], "int32"), **given}, {})
    assert output.tolist() == wanted


def test_halves_round_to_even(alone):
    (Y,) = alone("Round", {"X": array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], "float32")}, {})
    assert Y.tolist() == [-2, -2, 0, 0, 2, 2]


def test_not_a_number_survives_min_max_and_clip(alone):
    nan = array([math.nan], "float32")
    one = array([1], "float32")
    assert math.isnan(alone("Max", {"data_0": [nan, one]}, {})[0][0])
    assert math.isnan(alone("Min", {"data_0": [one, nan]}, {})[0][0])
    assert math.isnan(alone("Clip", {"input": nan, "min": one[0]}, {})[0][0])


def test_a_shift_by_all_bits_leaves_the_sign(alone):
    X, Y = array([-4, -4, 5, 5, -4], "int8"), array([8, -1, 8, 2, 1], "int8")
    assert alone("BitShift", {"X": X, "Y": Y}, {"direction": "RIGHT"})[0].tolist() == [
        -1, -1, 0, 1, -2,
    ]  # fmt: skip
    assert alone("BitShift", {"X": X, "Y": Y}, {"direction": "LEFT"})[0].tolist() == [
        0, 0, 0, 20, -8,
    ]  # fmt: skip


def test_one_input_is_its_own_sum_mean_and_maximum(alone):
    x = array([1, 2], "float32")
    for op in ("Sum", "Mean", "Max", "Min"):
        assert alone(op, {"data_0": [x]}, {})[0].tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"])
def test_saturation_stops_at_the_largest_number(alone, dtype):
    x = array([1e9, -1e9, math.inf, math.nan, 1.0], "float32")
    largest = float(ml_dtypes.finfo(numpy_dtype(dtype)).max)
    (y,) = alone("Cast", {"input": x}, {"to": NUMBERS[dtype]})
    assert y.astype(np.float32)[[0, 1, 2, 4]].tolist() == [largest, -largest, largest, 1]
    assert math.isnan(y[3])
    (free,) = alone("Cast", {"input": x}, {"to": NUMBERS[dtype], "saturate": 0})
    assert not np.isfinite(free.astype(np.float32)[:4]).any()


@pytest.mark.parametrize("source", ["bool", "int64", "float16", "bfloat16", "float64"])
def test_everything_saturates(alone, source):
    attrs = {"to": NUMBERS["float8_e4m3fn"]}
    (y,) = alone("Cast", {"input": array([0, 1, 1000], source)}, attrs)
    assert y.astype(np.float32).tolist() == ([0, 1, 1] if source == "bool" else [0, 1, 448])


@pytest.mark.parametrize(
    ("round_mode", "wanted"),
    [("up", [2, 4, 4, 8]), ("down", [2, 2, 2, 4]), ("nearest", [2, 2, 4, 8])],
)
def test_a_power_of_two_is_rounded_as_asked(alone, round_mode, wanted):
    x = array([2, 2.5, 3, 6.5], "float32")
    attrs = {"to": NUMBERS["float8_e8m0fnu"], "round_mode": round_mode}
    assert alone("Cast", {"input": x}, attrs)[0].astype(np.float32).tolist() == wanted


def test_out_of_range_integers_keep_their_low_bits(alone):
    x = array([200, -129, 300], "int16")
    assert alone("Cast", {"input": x}, {"to": NUMBERS["int8"]})[0].tolist() == [-56, 127, 44]


@pytest.mark.parametrize(("source", "to"), [(["1.5"], "float32"), ([1.5], "string")])
def test_a_cast_from_or_to_text_is_refused_in_words(alone, source, to):
    x = np.asarray(source, object if isinstance(source[0], str) else np.float32)
    with pytest.raises(RunError, match="cannot cast"):
        alone("Cast", {"input": x}, {"to": NUMBERS[to]})


@pytest.mark.parametrize(("dtype", "digits"), [("float32", 5e-7), ("float64", 1e-13)])
def test_the_error_function_is_exact_to_its_dtype(alone, dtype, digits):
    x = np.concatenate([np.linspace(-7, 7, 4001), [1e-30, 1e-6, 30]]).astype(dtype)
    (y,) = alone("Erf", {"input": x}, {})
    np.testing.assert_allclose(y, [math.erf(v) for v in x], rtol=digits, atol=0)


def test_infinity_is_told_by_its_sign(alone):
    X = array([-math.inf, math.inf, 0, math.nan], "float32")
    (Y,) = alone("IsInf", {"X": X}, {"detect_negative": 0})
    assert Y.tolist() == [False, True, False, False]


@pytest.mark.parametrize("op", ["Equal", "Where", "Identity"])
def test_text_goes_through(alone, op):
    a, b = np.asarray(["x", "y"], object), np.asarray(["x", "z"], object)
    given = {
        "Equal": {"A": a, "B": b},
        "Where": {"condition": np.asarray([True, False]), "X": a, "Y": b},
        "Identity": {"input": a},
    }[op]
    wanted = {"Equal": [True, False], "Where": ["x", "z"], "Identity": ["x", "y"]}[op]
    assert alone(op, given, {})[0].tolist() == wanted
