"""Quantisation beyond the suite: every element type, granularity and precision, exact sums.

ONNX Runtime is the second opinion and agrees to the bit, with one departure, left out here: what
it makes of NaN, which the specification leaves open.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from ops.conftest import SPACES, alone
from ops.judged import made_by, shapes
from ops.narrow import apart, in_runtime

from hubtool.dtypes import BITS, NUMBERS, numpy_dtype
from hubtool.errors import RunError

INTEGERS = ["int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"]
FLOATS = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]
MINIFLOATS = ["float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"]

rng = np.random.default_rng(28)


def f(*values: float, dtype: str = "float32") -> np.ndarray:
    """Numbers as an array; one of them as an array without dimensions."""
    return np.asarray(values if len(values) > 1 else values[0]).astype(numpy_dtype(dtype))


def normal(*dims: int, scale: float = 10) -> np.ndarray:
    return (rng.standard_normal(dims) * scale).astype(np.float32)


def positive(*dims: int) -> np.ndarray:
    return rng.uniform(0.1, 2, dims).astype(np.float32)


def whole(dtype: str, *dims: int) -> np.ndarray:
    """Any of the values of an integer type."""
    low, high = limits(dtype)
    return rng.integers(low, high + 1, dims).astype(numpy_dtype(dtype))


def limits(dtype: str) -> tuple[int, int]:
    info = ml_dtypes.iinfo(numpy_dtype(dtype))
    return int(info.min), int(info.max)


def every(dtype: str) -> np.ndarray:
    """Every number of a type of at most 16 bits."""
    bits = np.arange(1 << BITS[dtype]).astype(f"uint{max(BITS[dtype], 8)}")
    values = bits.view(numpy_dtype(dtype))
    return values[np.isfinite(values.astype(np.float32))]


GRAINS = {
    "tensor": ((), {}),
    "one element": ((1,), {}),
    "axis 0": ((3,), {"axis": 0}),
    "axis 1": ((4,), {}),
    "last axis": ((5,), {"axis": -1}),
    "blocks": ((3, 2, 5), {"axis": 1, "block_size": 2}),
    "blocks and a rest": ((3, 4, 2), {"axis": -1, "block_size": 3}),
}


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_agree_with_onnxruntime(dtype, grain):
    dims, attrs = GRAINS[grain]
    x, scale, zero = normal(3, 4, 5, scale=30), positive(*dims), whole(dtype, *dims)
    given = {"x": x, "y_scale": scale, "y_zero_point": zero}
    (y,) = alone("QuantizeLinear", given, attrs)
    assert y.dtype == numpy_dtype(dtype)
    assert not apart(y, in_runtime("QuantizeLinear", given, attrs, dtype)).any()
    given = {"x": y, "x_scale": scale, "x_zero_point": zero}
    (back,) = alone("DequantizeLinear", given, attrs)
    assert not apart(back, in_runtime("DequantizeLinear", given, attrs, "float32")).any()


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("dtype", FLOATS)
def test_8_bit_floats_agree_with_onnxruntime(dtype, saturate):
    x = np.concatenate([normal(40), f(1e9, -1e9, 460, 470, 0.001, -0.0, np.inf, -np.inf)])
    given = {"x": x, "y_scale": f(1), "y_zero_point": f(0, dtype=dtype)}
    (y,) = alone("QuantizeLinear", given, {"saturate": saturate})
    theirs = in_runtime("QuantizeLinear", given, {"saturate": saturate}, dtype)
    np.testing.assert_array_equal(y.astype(np.float32), theirs)
    given = {"x": y, "x_scale": f(0.3)}
    theirs = in_runtime("DequantizeLinear", given, {}, "float32")
    np.testing.assert_array_equal(alone("DequantizeLinear", given, {})[0], theirs)


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, *MINIFLOATS])
def test_quantising_brings_back_what_was_dequantised(dtype):
    q, zero = every(dtype), f(1, dtype=dtype) if dtype in INTEGERS else None
    (x,) = alone("DequantizeLinear", {"x": q, "x_scale": f(0.37), "x_zero_point": zero}, {})
    assert x.dtype == np.float32
    attrs = {"output_dtype": NUMBERS[dtype]}
    given = {"x": x, "y_scale": f(0.37), "y_zero_point": zero}
    (back,) = alone("QuantizeLinear", given, attrs)
    assert back.dtype == q.dtype
    np.testing.assert_array_equal(back.astype(np.float32), q.astype(np.float32))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_stop_at_their_limits(dtype):
    given = {"x": f(-1e9, 1e9, -np.inf, np.inf), "y_scale": f(0.1)}
    (y,) = alone("QuantizeLinear", given, {"output_dtype": NUMBERS[dtype]})
    assert [int(v) for v in y] == [*limits(dtype)] * 2


@pytest.mark.parametrize(("dtype", "largest"), [*zip(MINIFLOATS, [6, 7.5, 28], strict=True)])
def test_floats_without_infinity_stop_at_the_largest_whatever_saturate_says(dtype, largest):
    for saturate in (0, 1):
        attrs = {"output_dtype": NUMBERS[dtype], "saturate": saturate}
        (y,) = alone("QuantizeLinear", {"x": f(-1e9, 1e9), "y_scale": f(0.5)}, attrs)
        assert y.astype(np.float32).tolist() == [-largest, largest]


def test_halves_round_to_even_before_the_zero_point_is_added():
    given = {"x": f(0.5, 1.5, 2.5, -0.5), "y_scale": f(1), "y_zero_point": f(1, dtype="uint8")}
    assert alone("QuantizeLinear", given, {})[0].tolist() == [1, 3, 3, 1]


def test_the_quotient_has_the_precision_asked_for_or_that_of_the_scale():
    def quantised(scale, **attrs):
        return int(alone("QuantizeLinear", {"x": f(2.5004), "y_scale": scale}, attrs)[0])

    assert quantised(f(1)) == 3
    assert quantised(f(1), precision=NUMBERS["float16"]) == 2  # 2.5004 is 2.5 there
    assert quantised(f(1, dtype="float16")) == 2
    assert quantised(f(1, dtype="bfloat16")) == 2
    assert quantised(f(1, dtype="float16"), precision=NUMBERS["float32"]) == 3


def test_a_scale_that_holds_no_quotients_divides_as_a_wider_type():
    x = f(10, -7, 2**24 + 1, dtype="int32")
    given = {"x": x, "y_scale": f(3, dtype="int32")}
    assert alone("QuantizeLinear", given, {"output_dtype": NUMBERS["int8"]})[0].tolist() == [
        3, -2, 127,
    ]  # fmt: skip
    given = {"x": f(10, -7), "y_scale": f(4, dtype="float8_e8m0fnu")}
    assert alone("QuantizeLinear", given, {"output_dtype": NUMBERS["int8"]})[0].tolist() == [2, -2]


def test_without_a_type_it_is_uint8():
    (y,) = alone("QuantizeLinear", {"x": f(-3, 300), "y_scale": f(1)}, {})
    assert (y.dtype.name, y.tolist()) == ("uint8", [0, 255])


@pytest.mark.parametrize("scale", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("output", ["", "float32", "float16", "bfloat16"])
def test_the_result_is_rounded_once_to_the_type_asked_for_or_that_of_the_scale(scale, output):
    q, step = every("int8"), f(0.3, dtype=scale)
    attrs = {"output_dtype": NUMBERS[output]} if output else {}
    (x,) = alone("DequantizeLinear", {"x": q, "x_scale": step}, attrs)
    wanted = (q.astype(np.float32) * step.astype(np.float32)).astype(numpy_dtype(output or scale))
    assert x.dtype == wanted.dtype
    assert x.tolist() == wanted.tolist()


def test_an_int32_is_multiplied_as_a_float():
    given = {"x": whole("int32", 50), "x_scale": f(0.1)}
    wanted = in_runtime("DequantizeLinear", given, {}, "float32")
    assert alone("DequantizeLinear", given, {})[0].tolist() == wanted.tolist()


def test_a_power_of_two_scales_where_an_output_type_is_given():
    given = {"x": f(1, -2, 6, dtype="float4_e2m1fn"), "x_scale": f(0.25, dtype="float8_e8m0fnu")}
    (x,) = alone("DequantizeLinear", given, {"output_dtype": NUMBERS["float16"]})
    assert (x.dtype.name, x.tolist()) == ("float16", [0.25, -0.5, 1.5])


@pytest.mark.parametrize(
    ("op", "given", "attrs", "message"),
    [
        ("QuantizeLinear", {"y_scale": np.ones(3, "f4")}, {}, r"\[3\] scales .* do not fit axis 1"),
        ("QuantizeLinear", {"y_scale": np.ones((2, 2), "f4")}, {}, "do not fit axis 1"),
        ("QuantizeLinear", {}, {"axis": 2}, "axis 2 is outside a rank of 2"),
        ("QuantizeLinear", {}, {"block_size": 3}, r"\[4\] scales .* do not fit blocks of 3"),
        ("QuantizeLinear", {}, {"block_size": -1}, "do not fit blocks of -1"),
        ("QuantizeLinear", {}, {"precision": 6}, "precision is int32, which is no floating point"),
        ("QuantizeLinear", {}, {"output_dtype": 99}, "output_dtype is 99, .* of no element type"),
        (
            "QuantizeLinear",
            {"y_zero_point": np.zeros(4, "i1")},
            {"output_dtype": 2},
            "output_dtype is uint8, and y_zero_point is int8",
        ),
        (
            "DequantizeLinear",
            {"x_scale": f(2, dtype="float8_e8m0fnu")},
            {},
            "output_dtype must be given, for float8_e8m0fnu holds powers of two only",
        ),
    ],
)
def test_what_does_not_fit_says_so(op, given, attrs, message):
    scale = "y_scale" if op == "QuantizeLinear" else "x_scale"
    x = np.ones((2, 4), np.float32 if op == "QuantizeLinear" else np.int8)
    with pytest.raises(RunError, match=message):
        alone(op, {"x": x, scale: np.ones(4, np.float32), **given}, attrs)


@pytest.mark.parametrize(
    "x",
    [
        normal(50),
        np.abs(normal(50)),
        -np.abs(normal(50)),
        np.zeros(3, "f4"),
        np.zeros((0, 3), "f4"),
    ],
    ids=["both signs", "positive", "negative", "zeros", "empty"],
)
def test_the_range_that_is_found_agrees_with_onnxruntime(x, in_onnxruntime):
    named = {"y": "uint8", "y_scale": "float32", "y_zero_point": "uint8"}
    theirs = in_onnxruntime("DynamicQuantizeLinear", [x], {}, named)
    for made, wanted in zip(
        alone("DynamicQuantizeLinear", {"x": x}, {}, outputs=3), theirs, strict=True
    ):
        assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
        assert made.tolist() == wanted.tolist()


@pytest.mark.parametrize("K", [257, 258, 259, 70_000])
def test_sums_of_products_are_exact_and_wrap_around_at_32_bits(K):
    A, B = np.full((1, K), 255, np.uint8), np.full((K, 1), -128, np.int8)
    A[0, 0] = 254
    zero = f(127, dtype="int8")
    (Y,) = alone("MatMulInteger", {"A": A, "B": B, "b_zero_point": zero}, {})
    wanted = A.astype(np.int64) @ (B.astype(np.int64) - 127)
    assert Y.tolist() == wanted.astype(np.int32).tolist()
    (Y,) = alone("ConvInteger", {"x": A[None], "w": B.T[None], "w_zero_point": zero}, {})
    assert Y.tolist() == wanted.astype(np.int32)[None].tolist()


PAIRS = [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")]
"""The types of a left and a right operand that ONNX Runtime multiplies."""


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_matrices_agree_with_onnxruntime(a, b):
    for dims in ([(7, 40), (40, 6)], [(2, 7, 40), (2, 40, 6)], [(2, 7, 40), (40, 6)]):
        A, B = whole(a, *dims[0]), whole(b, *dims[1])
        zeros = [whole(b), whole(b, *dims[1][:-2], 1, 6) if len(dims[1]) > 2 else whole(b, 6)]
        for zero in zeros:
            given = {"A": A, "B": B, "a_zero_point": whole(a), "b_zero_point": zero}
            theirs = in_runtime("MatMulInteger", given, {}, "int32")
            assert not apart(alone("MatMulInteger", given, {})[0], theirs).any()
    given = {"a": A, "a_scale": f(0.03), "a_zero_point": whole(a), "b": B, "y_scale": f(7.7)}
    given |= {"b_scale": positive(6) / 9, "b_zero_point": whole(b, 6), "y_zero_point": whole(a)}
    theirs = in_runtime("QLinearMatMul", given, {}, a)
    assert not apart(alone("QLinearMatMul", given, {})[0], theirs).any()


def test_a_vector_of_the_left_operand_holds_for_rows_and_of_the_right_for_columns():
    A, B = whole("uint8", 3, 4), whole("uint8", 4, 2)
    rows, columns = f(1, 2, 3, dtype="uint8"), f(4, 5, dtype="uint8")
    wide = [x.astype(np.int64) for x in (A, B, rows[:, None], columns)]
    product = (wide[0] - wide[2]) @ (wide[1] - wide[3])
    zeros = {"a_zero_point": rows, "b_zero_point": columns}
    for row in (rows, rows[:, None]):
        given = {"A": A, "B": B, **zeros, "a_zero_point": row}
        assert alone("MatMulInteger", given, {})[0].tolist() == product.tolist()
    scales = {"a_scale": f(0.5, 1, 2), "b_scale": f(0.25, 1), "y_scale": f(64)}
    given = {"a": A, "b": B, **zeros, **scales, "y_zero_point": f(3, dtype="int8")}
    factor = scales["a_scale"][:, None] * scales["b_scale"] / 64
    wanted = np.clip(np.round(product * factor) + 3, -128, 127)
    assert alone("QLinearMatMul", given, {})[0].tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", FLOATS)
def test_matrices_of_8_bit_floats_are_multiplied_as_floats(dtype):
    a, b = (normal(*dims, scale=1).astype(numpy_dtype(dtype)) for dims in ((3, 4), (4, 2)))
    zero = f(0, dtype=dtype)
    given = {"a": a, "a_scale": f(0.5), "a_zero_point": zero, "b": b, "b_scale": f(2)}
    given |= {"b_zero_point": zero, "y_scale": f(0.25), "y_zero_point": zero}
    (y,) = alone("QLinearMatMul", given, {})
    wanted = (a.astype(np.float32) @ b.astype(np.float32) * 4).astype(numpy_dtype(dtype))
    assert y.dtype == wanted.dtype
    assert y.astype(np.float32).tolist() == wanted.astype(np.float32).tolist()


GEOMETRIES = [
    {},
    {"pads": [1, 0, 2, 1], "strides": [1, 2]},
    {"dilations": [2, 1], "kernel_shape": [3, 3]},
    {"auto_pad": "SAME_LOWER"},
    {"group": 2, "pads": [1, 1, 1, 1]},
]


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("attrs", GEOMETRIES, ids=str)
def test_convolutions_agree_with_onnxruntime(a, b, attrs):
    group = attrs.get("group", 1)
    x, w = whole(a, 2, 4, 7, 6), whole(b, 6, 4 // group, 3, 3)
    given = {"x": x, "w": w, "x_zero_point": whole(a), "w_zero_point": whole(b)}
    theirs = in_runtime("ConvInteger", given, attrs, "int32") if a == "uint8" else None
    if theirs is not None:  # it has no kernel for a signed image
        assert not apart(alone("ConvInteger", given, attrs)[0], theirs).any()
    zeros = np.full(6, whole(b), numpy_dtype(b))  # it wants them equal
    bias = rng.integers(-999, 999, 6).astype(np.int32)
    for scale, zero, B in ((f(0.02), zeros[0:1], None), (positive(6), zeros, bias)):
        given |= {"w_scale": scale, "w_zero_point": zero.reshape(scale.shape), "B": B}
        given |= {"x_scale": f(0.03), "y_scale": f(0.9), "y_zero_point": whole(a)}
        theirs = in_runtime("QLinearConv", given, attrs, a)
        assert not apart(alone("QLinearConv", given, attrs)[0], theirs).any()


def test_a_channel_of_the_kernels_may_have_its_own_zero_point():
    x, w, zero = whole("uint8", 1, 2, 4, 4), whole("uint8", 3, 2, 2, 2), f(0, 9, 200, dtype="uint8")
    (y,) = alone("ConvInteger", {"x": x, "w": w, "w_zero_point": zero}, {})
    for m in range(3):
        one = {"x": x, "w": w[m : m + 1], "w_zero_point": zero[m]}
        assert alone("ConvInteger", one, {})[0].tolist() == y[:, m : m + 1].tolist()


def test_padding_stands_for_zero_not_for_the_number_0():
    x, w = np.full((1, 1, 2), 7, np.uint8), np.ones((1, 1, 3), np.uint8)
    (y,) = alone("ConvInteger", {"x": x, "w": w, "x_zero_point": f(5, dtype="uint8")}, PADDED)
    assert y.tolist() == [[[4, 4]]]


PADDED = {"pads": [1, 1]}

Q8 = {"x_scale": f(0.1), "x_zero_point": f(3, dtype="uint8")}
SMALL = {
    "QuantizeLinear": {"x": normal(2, 3), "y_scale": positive(3), "y_zero_point": whole("int8", 3)},
    "DequantizeLinear": {"x": whole("uint8", 2, 3), **Q8},
    "DynamicQuantizeLinear": {"x": normal(2, 3)},
    "MatMulInteger": {"A": whole("int8", 2, 3), "B": whole("uint8", 3, 4)},
    "ConvInteger": {"x": whole("uint8", 1, 2, 4, 4), "w": whole("int8", 3, 2, 2, 2)},
    "QLinearMatMul": {
        "a": whole("uint8", 2, 3), "a_scale": f(0.1), "a_zero_point": f(3, dtype="uint8"),
        "b": whole("int8", 3, 4), "b_scale": positive(4), "b_zero_point": whole("int8", 4),
        "y_scale": f(0.7), "y_zero_point": f(5, dtype="int8"),
    },
    "QLinearConv": {
        "x": whole("uint8", 1, 2, 4, 4), **Q8,
        "w": whole("int8", 3, 2, 2, 2), "w_scale": positive(3), "w_zero_point": whole("int8", 3),
        "y_scale": f(5.3), "y_zero_point": f(5, dtype="int8"), "B": whole("int8", 3),
    },
}  # fmt: skip


@pytest.mark.parametrize("op", SMALL)
def test_every_library_gives_the_same_and_shapes_need_no_data(op):
    count = 3 if op == "DynamicQuantizeLinear" else 1
    made = {key: made_by(space, op, SMALL[op], {}, count) for key, space in SPACES.items()}
    for arrays in made.values():
        for ours, numpys in zip(arrays, made["numpy"], strict=True):
            assert ours.dtype == numpys.dtype
            assert ours.tolist() == numpys.tolist()
    assert shapes(op, SMALL[op], {}, count) == [(y.dtype.name, y.shape) for y in made["numpy"]]


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, *MINIFLOATS])
def test_shapes_without_data_know_the_type(dtype):
    given = {"x": normal(2, 3), "y_scale": f(0.5)}
    attrs = {"output_dtype": NUMBERS[dtype]}
    assert shapes("QuantizeLinear", given, attrs, 1) == [(dtype, (2, 3))]
