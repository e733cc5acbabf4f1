"""What the suite leaves open: integers, mixed dtypes, saturation, the error function."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from ops.conftest import SPACES

from hubtool.dtypes import NUMBERS, numpy_dtype
from hubtool.errors import RunError
from hubtool.meta import MetaArray, MetaSpace


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


NARROW = ["int2", "uint2", "int4", "uint4", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"]
WIDE = ["bool", "int8", "uint16", "int32", "uint64", "float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("other", [*WIDE, *NARROW, "float8_e4m3fnuz"])
@pytest.mark.parametrize("narrow", [*NARROW, "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_a_number_that_both_types_hold_survives_every_cast(alone, narrow, other):
    x = array([1, 1, 1] if narrow == "float8_e8m0fnu" else [0, 1, 1], narrow)
    (y,) = alone("Cast", {"input": x}, {"to": NUMBERS[other]})
    assert (y.dtype.name, y.astype(int).tolist()) == (other, x.astype(int).tolist())
    (back,) = alone("CastLike", {"input": y, "target_type": x}, {})
    assert back.dtype == x.dtype
    assert back.astype(np.float32).tolist() == x.astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [("int4", [-4, 7, -8]), ("uint4", [12, 7, 8]), ("int2", [0, -1, 0]), ("uint2", [0, 3, 0])],
)
def test_an_integer_keeps_as_many_low_bits_as_there_are(alone, dtype, wanted):
    (y,) = alone("Cast", {"input": array([300, -9, 200], "int16")}, {"to": NUMBERS[dtype]})
    assert y.astype(int).tolist() == wanted


@pytest.mark.parametrize("to", ["int8", "int64", "bool", "float16", "float32", "float64"])
def test_text_is_read_as_onnxruntime_reads_it(alone, to):
    texts = np.asarray(["1.5", "-7", "+0100.25", " 2 ", "0", "300"], object)
    read = onnxruntime_cast(texts, to)
    (y,) = alone("Cast", {"input": texts}, {"to": NUMBERS[to]})
    assert (y.dtype, y.tolist()) == (read.dtype, read.tolist())


def test_text_is_read_for_the_special_numbers_in_any_case(alone):
    texts = np.asarray([["INF", "+inf"], ["-Inf", "1E8"], ["1e-5", "nan"]], object)
    (y,) = alone("Cast", {"input": texts}, {"to": NUMBERS["float64"]})
    np.testing.assert_array_equal(y, [[np.inf, np.inf], [-np.inf, 1e8], [1e-5, np.nan]])


def test_text_is_read_to_the_last_digit_and_saturates_where_the_type_does(alone):
    def read(texts, to):
        given = {"input": np.asarray(texts, object)}
        return alone("Cast", given, {"to": NUMBERS[to]})[0]

    assert read(["9007199254740993"], "int64").tolist() == [9007199254740993]
    assert read([str(2**64 - 1)], "uint64").tolist() == [2**64 - 1]
    assert read(["1e9"], "float8_e4m3fn").astype(np.float32).tolist() == [448]
    assert read("-3", "int4").astype(int) == -3
    assert read([], "int32").tolist() == []


@pytest.mark.parametrize("source", ["bool", "int8", "uint64", "float32"])
def test_numbers_are_spelt_as_onnxruntime_spells_them(alone, source):
    x = array([1, 0, 7, 100], source)
    if source == "float32":
        x = np.concatenate([x, array([314.25, 1e-7, math.nan, math.inf, -math.inf, -0.5], source)])
    (texts,) = alone("Cast", {"input": x}, {"to": NUMBERS["string"]})
    assert texts.dtype == object
    assert texts.tolist() == onnxruntime_cast(x, "string").tolist()


@pytest.mark.parametrize("source", ["float16", "float32", "float64"])
def test_a_float_is_spelt_so_that_it_can_be_read_again(alone, source):
    x = np.random.default_rng(7).standard_normal(200).astype(source)
    (texts,) = alone("Cast", {"input": x}, {"to": NUMBERS["string"]})
    (back,) = alone("Cast", {"input": texts}, {"to": NUMBERS[source]})
    assert back.tolist() == x.tolist()


def onnxruntime_cast(x, to):
    helper = onnx.helper
    source = NUMBERS["string" if x.dtype == object else x.dtype.name]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=NUMBERS[to])],
        "cast",
        [helper.make_tensor_value_info("x", source, x.shape)],
        [helper.make_tensor_value_info("y", NUMBERS[to], x.shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def test_text_is_read_on_the_host_for_a_type_that_is_on_a_device(alone):
    space = SPACES["torch"]
    given = {"input": np.asarray(["1.5", "2"], object), "target_type": space.put(np.zeros(1))}
    (y,) = alone("CastLike", given, {}, space=space)
    assert space.dtype_of(y) == "float64"
    assert space.get(y).tolist() == [1.5, 2]


@pytest.mark.parametrize(
    ("text", "to", "message"),
    [
        ("Hello", "float32", "input holds the text 'Hello', which is no float32"),
        ("", "int8", "input holds the text '', which is no int8"),
        ("inf", "int64", "input holds the text 'inf', which is no int64"),
        (str(2**63), "int64", f"input holds the text '{2**63}', which is no int64"),
    ],
)
def test_text_that_is_no_such_number_is_shown(alone, text, to, message):
    with pytest.raises(RunError, match=message):
        alone("Cast", {"input": np.asarray([text], object)}, {"to": NUMBERS[to]})


def test_a_type_that_there_is_none_of_is_refused(alone):
    with pytest.raises(RunError, match="to is 77, which is the number of no element type"):
        alone("Cast", {"input": array([1], "int8")}, {"to": 77})


@pytest.mark.parametrize("round_mode", ["up", "down", "nearest"])
def test_every_power_of_two_is_itself_and_its_neighbours_are_rounded(alone, round_mode):
    attrs = {"to": NUMBERS["float8_e8m0fnu"], "round_mode": round_mode}
    powers = 2.0 ** np.arange(-127, 128)
    (same,) = alone("Cast", {"input": powers}, attrs)
    assert same.astype(np.float64).tolist() == powers.tolist()
    inner = powers[1:-1]  # the outer ones have a neighbour beyond the range
    above, below = np.nextafter(inner, np.inf), np.nextafter(inner, 0)
    (made,) = alone("Cast", {"input": np.stack([above, below])}, attrs)
    wanted = {"up": [2, 1], "down": [1, 0.5], "nearest": [1, 1]}[round_mode]
    assert made.astype(np.float64).tolist() == [(inner * w).tolist() for w in wanted]


def test_what_a_power_of_two_cannot_be_is_the_nearest_or_not_a_number(alone):
    attrs, x = {"to": NUMBERS["float8_e8m0fnu"]}, array([0, math.inf, math.nan, 1e-45], "float64")
    ends = alone("Cast", {"input": x}, attrs)[0].astype(np.float64)
    np.testing.assert_array_equal(ends, [2.0**-127, 2.0**127, np.nan, 2.0**-127])
    attrs |= {"saturate": 0, "round_mode": "nearest"}
    assert np.isnan(alone("Cast", {"input": x}, attrs)[0].astype(np.float64)).all()
    with pytest.raises(RunError, match="round_mode is 'even', not up, down or nearest"):
        alone("Cast", {"input": x}, {**attrs, "round_mode": "even"})


@pytest.mark.parametrize(
    ("source", "to", "bits"),
    [
        ("int4", "uint4", 4),
        ("uint4", "float4_e2m1fn", 4),
        ("float4_e2m1fn", "int4", 4),
        ("int2", "uint2", 2),
        ("uint8", "float8_e5m2", 8),
        ("float8_e4m3fn", "float8_e8m0fnu", 8),
        ("int16", "bfloat16", 16),
    ],
)
def test_bits_read_as_another_type_and_back_are_the_same(alone, source, to, bits):
    unsigned = np.arange(1 << bits).astype(f"uint{max(bits, 8)}")
    x = unsigned.view(numpy_dtype(source))
    (y,) = alone("BitCast", {"input": x}, {"to": NUMBERS[to]})
    assert y.dtype == numpy_dtype(to)
    (back,) = alone("BitCast", {"input": y}, {"to": NUMBERS[source]})
    assert back.dtype == x.dtype
    assert back.view(unsigned.dtype).tolist() == unsigned.tolist()


def test_the_bits_of_a_negative_4_bit_number_are_read_with_its_sign(alone):
    x = array([-1, -8, 7, 0], "int4")
    assert alone("BitCast", {"input": x}, {"to": NUMBERS["uint4"]})[0].astype(int).tolist() == [
        15, 8, 7, 0,
    ]  # fmt: skip
    x = array([15, 8, 7, 0], "uint4")
    assert alone("BitCast", {"input": x}, {"to": NUMBERS["int4"]})[0].astype(int).tolist() == [
        -1, -8, 7, 0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "to", "message"),
    [
        ("float32", "int64", "float32 takes 32 bits, int64 takes 64; BitCast keeps their number"),
        ("uint4", "int8", "uint4 takes 4 bits, int8 takes 8"),
        ("uint8", "string", "text has no bits"),
    ],
)
def test_bits_are_never_added_or_lost(alone, source, to, message):
    with pytest.raises(RunError, match=message):
        alone("BitCast", {"input": array([1], source)}, {"to": NUMBERS[to]})


@pytest.mark.parametrize("op", ["Cast", "BitCast"])
def test_a_byte_that_is_not_zero_is_true(alone, op):
    (y,) = alone(op, {"input": array([0, 1, 2], "uint8")}, {"to": NUMBERS["bool"]})
    assert y.tolist() == [False, True, True]
    assert y.view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize("to", ["float32", "int4", "string", "float8_e8m0fnu"])
def test_the_shape_of_a_cast_needs_no_data(alone, to):
    space, attrs = MetaSpace(), {"to": NUMBERS[to]}
    source, target = (MetaArray(dtype, (2, 3)) for dtype in ("uint4", to))
    (y,) = alone("Cast", {"input": source}, attrs, space=space)
    (z,) = alone("CastLike", {"input": source, "target_type": target}, {}, space=space)
    assert [(v.dtype, v.shape) for v in (y, z)] == [(to, (2, 3))] * 2


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
