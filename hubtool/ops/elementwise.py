"""Operators that work on each element by itself: arithmetic, comparison, logic, bits, casts.

Most are one expression, so they stand in tables: the lambda's parameters are the schema's formal
inputs, the rest of the line is the meaning. Broadcasting is the array API's own, which is ONNX's
multidirectional broadcasting. Integers wrap around where they overflow, as numpy's do; the
interpreter has already widened floats under 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, reduce
from typing import Any

import numpy as np

from hubtool.dtypes import BITS, DTYPES, WIDER, is_float, numpy_dtype
from hubtool.ops import REQUIRED, op

__all__ = [
    "as_float",
    "cast_to",
    "element_type",
    "erf",
    "is_integer",
    "lowest",
    "rounded",
    "truncated_quotient",
]

Array = Any


def is_integer(ctx: Any, x: Array) -> bool:
    """Whether the elements are integers, signed or not."""
    return bool(ctx.dtype(x).startswith(("int", "uint")))


def as_float(ctx: Any, x: Array) -> Array:
    """The array itself, or as float64 where it holds integers."""
    return ctx.cast(x, "float64") if is_integer(ctx, x) else x


def lowest(ctx: Any, x: Array) -> float | int | bool:
    """The value that no element of this dtype is below: what a maximum starts from."""
    dtype = ctx.dtype(x)
    if dtype == "bool":
        return False
    return int(np.iinfo(dtype).min) if is_integer(ctx, x) else -math.inf


def rounded(ctx: Any, x: Array, dtype: str) -> Array:
    """x in the precision of a dtype, held in one wide enough to compute with; x itself for ""."""
    return ctx.cast(ctx.cast(x, dtype), WIDER.get(dtype, dtype)) if dtype else x


def truncated_quotient(ctx: Any, A: Array, B: Array) -> Array:
    """A / B for integers, rounded toward zero."""
    xp = ctx.xp
    quotient = xp.floor_divide(A, B)
    if ctx.dtype(A).startswith("uint"):
        return quotient
    inexact = (xp.remainder(A, B) != 0) & ((A < 0) != (B < 0))
    return xp.where(inexact, quotient + 1, quotient)


SAME_DTYPE: dict[str, Callable[..., Array]] = {
    "Abs": lambda ctx, X: ctx.xp.abs(X),
    "Acos": lambda ctx, input: ctx.xp.acos(input),
    "Acosh": lambda ctx, input: ctx.xp.acosh(input),
    "Add": lambda ctx, A, B: A + B,
    "Asin": lambda ctx, input: ctx.xp.asin(input),
    "Asinh": lambda ctx, input: ctx.xp.asinh(input),
    "Atan": lambda ctx, input: ctx.xp.atan(input),
    "Atanh": lambda ctx, input: ctx.xp.atanh(input),
    "BitwiseAnd": lambda ctx, A, B: ctx.xp.bitwise_and(A, B),
    "BitwiseNot": lambda ctx, X: ctx.xp.bitwise_invert(X),
    "BitwiseOr": lambda ctx, A, B: ctx.xp.bitwise_or(A, B),
    "BitwiseXor": lambda ctx, A, B: ctx.xp.bitwise_xor(A, B),
    "Ceil": lambda ctx, X: ctx.xp.ceil(X),
    "Cos": lambda ctx, input: ctx.xp.cos(input),
    "Cosh": lambda ctx, input: ctx.xp.cosh(input),
    "Div": lambda ctx, A, B: truncated_quotient(ctx, A, B) if is_integer(ctx, A) else A / B,
    "Erf": lambda ctx, input: erf(ctx, input),
    "Exp": lambda ctx, input: ctx.xp.exp(input),
    "Floor": lambda ctx, X: ctx.xp.floor(X),
    "Log": lambda ctx, input: ctx.xp.log(input),
    "Max": lambda ctx, *data_0: reduce(ctx.xp.maximum, data_0),
    "Mean": lambda ctx, *data_0: sum(data_0[1:], data_0[0]) / len(data_0),
    "Min": lambda ctx, *data_0: reduce(ctx.xp.minimum, data_0),
    "Mul": lambda ctx, A, B: A * B,
    "Neg": lambda ctx, X: -X,
    "Reciprocal": lambda ctx, X: 1 / X,
    "Round": lambda ctx, X: ctx.xp.round(X),
    "Sign": lambda ctx, input: ctx.xp.sign(input),
    "Sin": lambda ctx, input: ctx.xp.sin(input),
    "Sinh": lambda ctx, input: ctx.xp.sinh(input),
    "Sqrt": lambda ctx, X: ctx.xp.sqrt(X),
    "Sub": lambda ctx, A, B: A - B,
    "Sum": lambda ctx, *data_0: sum(data_0[1:], data_0[0]),
    "Tan": lambda ctx, input: ctx.xp.tan(input),
}

BOOLEAN: dict[str, Callable[..., Array]] = {
    "And": lambda ctx, A, B: ctx.xp.logical_and(A, B),
    "Equal": lambda ctx, A, B: A == B,
    "Greater": lambda ctx, A, B: A > B,
    "GreaterOrEqual": lambda ctx, A, B: A >= B,
    "IsNaN": lambda ctx, X: ctx.xp.isnan(X),
    "Less": lambda ctx, A, B: A < B,
    "LessOrEqual": lambda ctx, A, B: A <= B,
    "Not": lambda ctx, X: ctx.xp.logical_not(X),
    "Or": lambda ctx, A, B: ctx.xp.logical_or(A, B),
    "Xor": lambda ctx, A, B: ctx.xp.logical_xor(A, B),
}

for _name, _function in SAME_DTYPE.items():
    op(_name)(_function)
for _name, _function in BOOLEAN.items():
    op(_name, returns="bool")(_function)


@op("IsInf", returns="bool")
def is_inf(ctx: Any, X: Array, *, detect_negative: int = 1, detect_positive: int = 1) -> Array:
    signed = (X < 0) & (detect_negative == 1) | (X > 0) & (detect_positive == 1)
    return ctx.xp.isinf(X) & signed


@op("Mod")
def mod(ctx: Any, A: Array, B: Array, *, fmod: int = 0) -> Array:
    """The remainder with the sign of B, or with fmod=1 that of A."""
    xp = ctx.xp
    if not fmod:
        return xp.remainder(A, B)
    if is_integer(ctx, A):
        return A - truncated_quotient(ctx, A, B) * B
    return xp.copysign(xp.remainder(xp.abs(A), xp.abs(B)), A)


@op("Pow")
def power(ctx: Any, X: Array, Y: Array) -> Array:
    """X to the power of Y, computed in the dtype of X unless Y alone is a float."""
    if is_integer(ctx, X) and not is_integer(ctx, Y):
        X = ctx.cast(X, "float64")
    return ctx.xp.pow(X, ctx.cast(Y, ctx.dtype(X)))


@op("BitShift")
def bit_shift(ctx: Any, X: Array, Y: Array, *, direction: str = REQUIRED) -> Array:
    """X shifted by Y bits; a shift by all bits or a negative one leaves only the sign's filling."""
    if direction not in ("LEFT", "RIGHT"):
        raise ValueError(f"direction is '{direction}', not LEFT or RIGHT")
    xp, bits = ctx.xp, BITS[ctx.dtype(X)]
    beyond = (Y < 0) | (bits - 1 < Y)
    if direction == "LEFT":
        shifted, filling = xp.bitwise_left_shift(X, xp.where(beyond, 0, Y)), X ^ X
    else:
        shifted = xp.bitwise_right_shift(X, xp.where(beyond, 0, Y))
        signed = not ctx.dtype(X).startswith("uint")
        filling = xp.where(X < 0, ~(X ^ X), X ^ X) if signed else X ^ X
    return xp.where(beyond, filling, shifted)


@op("Clip")
def clip(ctx: Any, input: Array, min: Array = None, max: Array = None) -> Array:
    """Min(max, Max(input, min)): where min is above max, everything becomes max."""
    if min is not None:
        input = ctx.xp.maximum(input, min)
    return input if max is None else ctx.xp.minimum(input, max)


@op("Where", returns="X", moves=True)
def where(ctx: Any, condition: Array, X: Array, Y: Array) -> Array:
    return ctx.xp.where(condition, X, Y)


@op("Identity", moves=True)
def identity(ctx: Any, input: Array) -> Array:
    return input


def _shape_of_cast(ctx: Any, input: Array, *, to: int, **_: Any) -> Array:
    return ctx.empty(input.shape, element_type(to, "to"))


@op("Cast", returns="to", moves=True, shape=_shape_of_cast)
def cast(
    ctx: Any, input: Array, *, to: int = REQUIRED, saturate: int = 1, round_mode: str = "up"
) -> Array:
    return cast_to(ctx, input, element_type(to, "to"), saturate=saturate, round_mode=round_mode)


def _shape_of_cast_like(ctx: Any, input: Array, target_type: Array, **_: Any) -> Array:
    return ctx.empty(input.shape, ctx.given["target_type"])


@op("CastLike", returns="target_type", moves=True, shape=_shape_of_cast_like)
def cast_like(
    ctx: Any, input: Array, target_type: Array, *, saturate: int = 1, round_mode: str = "up"
) -> Array:
    to = ctx.given["target_type"]
    return cast_to(ctx, input, to, saturate=saturate, round_mode=round_mode)


@op("BitCast", returns="to", moves=True, on_host=True, shape=_shape_of_cast)
def bit_cast(ctx: Any, input: Array, *, to: int = REQUIRED) -> Array:
    """The same bits read as another dtype; what is under 8 bits has a byte of its own in numpy."""
    source, dtype = ctx.given["input"], element_type(to, "to")
    if "string" in (source, dtype):
        raise ValueError("text has no bits to read as another dtype")
    if BITS[source] != BITS[dtype]:
        sizes = f"{source} takes {BITS[source]} bits, {dtype} takes {BITS[dtype]}"
        raise ValueError(f"{sizes}; BitCast keeps their number")
    if dtype == "bool":
        return input.view(np.uint8) != 0
    if BITS[dtype] < 8:
        input = input.view(np.uint8) & ((1 << BITS[dtype]) - 1)
    return input.view(numpy_dtype(dtype))


def element_type(number: int, attribute: str) -> str:
    """The dtype whose ONNX number an attribute holds."""
    if number not in DTYPES:
        raise ValueError(f"{attribute} is {number}, which is the number of no element type")
    return DTYPES[number]


def cast_to(ctx: Any, x: Array, dtype: str, *, saturate: int = 1, round_mode: str = "up") -> Array:
    """Cast as the operator Cast does it: 8-bit floats alone heed `saturate` and `round_mode`."""
    is_text = isinstance(x, np.ndarray) and x.dtype.kind == "O"  # so on every backend
    source = "string" if is_text else ctx.dtype(x)
    if source == dtype:
        return x
    if is_text:
        return cast_to(ctx, ctx.put(_numbers(x, dtype)), dtype, saturate=saturate)
    if dtype == "string":
        return _texts(ctx.host(x))
    if source in WIDER and dtype in WIDER:  # ml_dtypes knows no way between two small types
        x = ctx.cast(x, WIDER[source])
    if dtype == "float8_e8m0fnu":
        return ctx.cast(_power_of_two(ctx, x, saturate, round_mode), dtype)
    if dtype.startswith("float8") and saturate:
        import ml_dtypes

        finfo: Any = ml_dtypes.finfo
        largest = float(finfo(numpy_dtype(dtype)).max)
        x = ctx.xp.clip(ctx.cast(x, "float64"), -largest, largest)
    return ctx.cast(x, dtype)


def _texts(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Numbers as text: floats in the fewest digits that tell them apart, whole ones without a
    point, and NaN, INF and -INF; booleans as 1 and 0."""
    texts = [_text(number) for number in x.reshape(-1)]
    return np.asarray(texts, object).reshape(x.shape)


def _text(number: Any) -> str:
    if is_float(number.dtype.name):
        special = {"nan": "NaN", "inf": "INF", "-inf": "-INF"}
        return special.get(str(number), str(number).removesuffix(".0"))
    return str(int(number))


def _numbers(x: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """Text as numbers of the widest dtype of the kind; an integer drops what is after the point."""
    whole = dtype.startswith(("int", "uint"))
    read: Callable[[str], float] = _whole if whole else float
    wide = ("uint64" if dtype == "uint64" else "int64") if whole else "float64"
    numbers: np.ndarray[Any, Any] = np.empty(x.shape, wide)
    for place, text in np.ndenumerate(x):
        try:
            numbers[place] = read(text)
        except (ValueError, OverflowError):
            raise ValueError(f"input holds the text '{text:.80}', which is no {dtype}") from None
    return numbers


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(float(text))


def _power_of_two(ctx: Any, x: Array, saturate: int, round_mode: str) -> Array:
    """The power of two for x in float8_e8m0fnu, whose exponents run from -127 to 127."""
    xp = ctx.xp
    thresholds = {"up": 1.0, "down": 2.0, "nearest": 1.5}
    if round_mode not in thresholds:
        raise ValueError(f"round_mode is '{round_mode}', not up, down or nearest")
    x = ctx.cast(x, "float64")
    exponent = xp.floor(xp.log2(x))
    exponent = xp.where(xp.pow(2.0, exponent) > x, exponent - 1, exponent)  # log2 rounds up too
    share = x / xp.pow(2.0, exponent)
    threshold = thresholds[round_mode]
    higher = share > threshold if round_mode == "up" else share >= threshold
    exponent = xp.where(higher, exponent + 1, exponent)
    inside = xp.clip(exponent, -127.0, 127.0)
    if not saturate:
        inside = xp.where(inside == exponent, inside, xp.nan)
    return xp.pow(2.0, inside)


def erf(ctx: Any, x: Array) -> Array:
    """The error function: the namespace's own, or the series below where it has none.

    erf(x)/x is smooth in s = x², so a Chebyshev series in s on [0, R²] gives it to the last digits
    (3e-7 of the value in float32, 4e-14 in float64); beyond R it is 1 to the precision at hand.
    """
    xp = ctx.xp
    if hasattr(xp, "erf"):
        return xp.erf(x)
    R, terms = (6.0, 40) if ctx.dtype(x) == "float64" else (4.0, 16)
    x = xp.clip(x, -R, R)
    t = x * x * (2 / R**2) - 1
    after, sum_ = 0.0, 0.0  # Clenshaw's recurrence
    for coefficient in _erf_series(R, terms)[:0:-1]:
        after, sum_ = sum_, 2 * t * sum_ - after + coefficient
    return x * (t * sum_ - after + _erf_series(R, terms)[0])


@cache
def _erf_series(R: float, terms: int) -> tuple[float, ...]:
    """Chebyshev coefficients of erf(√s)/√s on [0, R²], by interpolation at 200 nodes."""
    t = np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    roots = np.sqrt((t + 1) / 2) * R
    values = [math.erf(root) / root for root in roots]
    return tuple(np.polynomial.chebyshev.chebfit(t, values, terms).tolist())
