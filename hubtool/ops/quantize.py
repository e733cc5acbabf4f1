"""Quantisation: real numbers as small integers or small floats, with a scale and a zero point.

    quantise     y = saturate(round(x / scale) + zero_point)
    dequantise   x = (y - zero_point) · scale

A scale and its zero point hold for the whole tensor, for one place on an axis, or for one block of
it. Products of quantised tensors are sums of integers and exact: they are computed in the floating
point that holds every such sum, because that is what array libraries multiply fast, and scaled in
float32 at the end. `microsoft_quantize` builds its operators from the functions named here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hubtool.dtypes import BITS, is_float
from hubtool.ops import op
from hubtool.ops.elementwise import cast_to, element_type, rounded
from hubtool.ops.shape import axis_of, pad_axis
from hubtool.ops.window import conv

__all__ = [
    "accumulated",
    "as_int32",
    "dequantized",
    "dynamically_quantized",
    "integer_matmul",
    "quantized",
    "stored",
]

Array = Any
Ints = Sequence[int]

DIVIDED = {"int32": "float64", "float8_e8m0fnu": "float32"}
"""The precision of a division by a scale of a type that holds no quotients."""


def along(ctx: Any, parameter: Array, x: Array, axis: int = 0, block_size: int = 0) -> Array:
    """A scale or zero point in a shape that meets x: one number, one for each place on the axis,
    or one for each block of it; None stays None."""
    if parameter is None or math.prod(parameter.shape) == 1:
        return None if parameter is None else ctx.xp.reshape(parameter, ())
    axis, given = axis_of(axis, x.ndim), list(parameter.shape)
    if not block_size:
        if given != [x.shape[axis]]:
            raise ValueError(f"{given} scales or zero points do not fit axis {axis} of x")
        return ctx.xp.reshape(parameter, (-1, *(1,) * (x.ndim - axis - 1)))
    blocks = -(-x.shape[axis] // block_size)
    if block_size < 0 or given != [*x.shape[:axis], blocks, *x.shape[axis + 1 :]]:
        raise ValueError(
            f"{given} scales or zero points do not fit blocks of {block_size} on axis {axis} of x"
        )
    places = np.arange(x.shape[axis]) // block_size
    return ctx.xp.take(parameter, ctx.put(places), axis=axis)


def stored(ctx: Any, x: Array, zero_point: Array, dtype: str, *, saturate: int = 1) -> Array:
    """x + zero_point as an element type: x rounded to whole numbers, and the sum to its limits."""
    xp = ctx.xp
    if is_float(dtype):
        shifted = x if zero_point is None else x + ctx.cast(zero_point, ctx.dtype(x))
        return cast_to(ctx, shifted, dtype, saturate=saturate)
    x = xp.round(x)
    if zero_point is not None:
        x = x + ctx.cast(zero_point, ctx.dtype(x))
    low = 0 if dtype.startswith("uint") else -(1 << (BITS[dtype] - 1))
    return ctx.cast(xp.clip(x, float(low), float(low + (1 << BITS[dtype]) - 1)), dtype)


def quantized(ctx: Any, x: Array, scale: Array, zero_point: Array, dtype: str) -> Array:
    """x in steps of the scale from the zero point, divided in float32."""
    return stored(ctx, ctx.cast(x, "float32") / scale, zero_point, dtype)


def dequantized(ctx: Any, x: Array, scale: Array, zero_point: Array) -> Array:
    """The float32 that x stands for; the difference from the zero point is exact."""
    if zero_point is not None:
        wide = ctx.dtype(x) if is_float(ctx.dtype(x)) else "int32"
        x = ctx.cast(x, wide) - ctx.cast(zero_point, wide)
    return ctx.cast(x, "float32") * ctx.cast(scale, "float32")


@op("QuantizeLinear", returns="y_zero_point")
def quantize_linear(
    ctx: Any,
    x: Array,
    y_scale: Array,
    y_zero_point: Array = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Array:
    """The quotient is rounded to `precision`, or to the dtype of y_scale, before anything else."""
    dtype = ctx.given["y_zero_point"]
    if output_dtype:
        asked = element_type(output_dtype, "output_dtype")
        if dtype not in ("", asked):
            raise ValueError(f"output_dtype is {asked}, and y_zero_point is {dtype}")
        dtype = asked
    scale = along(ctx, y_scale, x, axis, block_size)
    zero_point = along(ctx, y_zero_point, x, axis, block_size)
    divided = DIVIDED.get(ctx.given["y_scale"], ctx.given["y_scale"])
    divided = element_type(precision, "precision") if precision else divided
    quotient = _quotient(ctx, x, scale, divided)
    return stored(ctx, quotient, zero_point, dtype or "uint8", saturate=saturate)


def _quotient(ctx: Any, x: Array, scale: Array, precision: str) -> Array:
    """x / scale as arithmetic in that precision gives it, in a dtype wide enough to go on with."""
    if not is_float(precision):
        raise ValueError(f"precision is {precision}, which is no floating point")
    x, scale = (rounded(ctx, value, precision) for value in (x, scale))
    return rounded(ctx, x / scale, precision)


@op("DequantizeLinear", returns="")
def dequantize_linear(
    ctx: Any,
    x: Array,
    x_scale: Array,
    x_zero_point: Array = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Array:
    dtype = element_type(output_dtype, "output_dtype") if output_dtype else ctx.given["x_scale"]
    if dtype == "float8_e8m0fnu":
        raise ValueError(f"output_dtype must be given, for {dtype} holds powers of two only")
    scale = along(ctx, x_scale, x, axis, block_size)
    zero_point = along(ctx, x_zero_point, x, axis, block_size)
    return ctx.cast(dequantized(ctx, x, scale, zero_point), dtype)


@op("DynamicQuantizeLinear", returns=("uint8", "float32", "uint8"))
def dynamic_quantize_linear(ctx: Any, x: Array) -> tuple[Array, Array, Array]:
    return dynamically_quantized(ctx, x)


def dynamically_quantized(ctx: Any, x: Array) -> tuple[Array, Array, Array]:
    """x as uint8, with the scale and zero point that its own range asks for; 0 is always in it.

    An x of zeros only has the scale 1.
    """
    xp, flat = ctx.xp, ctx.xp.reshape(x, (-1,))
    flat = flat if flat.shape[0] else pad_axis(ctx, flat, 0, 0, 1)
    low = xp.minimum(xp.min(flat), 0.0)
    scale = (xp.maximum(xp.max(flat), 0.0) - low) / 255
    scale = xp.where(scale == 0, 1.0, scale)
    zero_point = xp.round(xp.clip(-low / scale, 0.0, 255.0))
    return stored(ctx, x / scale, zero_point, "uint8"), scale, ctx.cast(zero_point, "uint8")


def accumulated(depth: int) -> str:
    """The float that holds every sum of `depth` products of 8-bit integers and zero points."""
    return "float32" if depth * 255 * 255 <= 1 << 24 else "float64"


def as_int32(ctx: Any, x: Array) -> Array:
    """Whole numbers as int32, wrapped around where they are beyond it."""
    return ctx.cast(ctx.cast(x, "int64"), "int32")


def by_row(ctx: Any, parameter: Array) -> Array:
    """A scale or zero point of a left operand: a vector holds one for each row."""
    if parameter is None or parameter.ndim != 1:
        return parameter
    return ctx.xp.reshape(parameter, (-1, 1))


def _shifted(ctx: Any, x: Array, zero_point: Array, dtype: str) -> Array:
    x = ctx.cast(x, dtype)
    return x if zero_point is None else x - ctx.cast(zero_point, dtype)


def integer_matmul(ctx: Any, A: Array, B: Array, a_zero: Array, b_zero: Array) -> Array:
    """(A - a_zero) · (B - b_zero), exact, as floats."""
    dtype = accumulated(math.prod(A.shape[-1:]))
    return ctx.xp.matmul(_shifted(ctx, A, a_zero, dtype), _shifted(ctx, B, b_zero, dtype))


@op("MatMulInteger", returns="int32")
def matmul_integer(
    ctx: Any, A: Array, B: Array, a_zero_point: Array = None, b_zero_point: Array = None
) -> Array:
    return as_int32(ctx, integer_matmul(ctx, A, B, by_row(ctx, a_zero_point), b_zero_point))


@op("QLinearMatMul", returns="y_zero_point")
def qlinear_matmul(
    ctx: Any,
    a: Array,
    a_scale: Array,
    a_zero_point: Array,
    b: Array,
    b_scale: Array,
    b_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    product = integer_matmul(ctx, a, b, by_row(ctx, a_zero_point), b_zero_point)
    factor = by_row(ctx, a_scale) * b_scale / y_scale
    y = ctx.cast(product, "float32") * factor
    return stored(ctx, y, y_zero_point, ctx.given["y_zero_point"])


def integer_conv(
    ctx: Any, x: Array, w: Array, x_zero: Array, w_zero: Array, **geometry: Any
) -> Array:
    """Conv(x - x_zero, w - w_zero), exact, as floats; padding is what stands for 0."""
    dtype = accumulated(math.prod(w.shape[1:]))
    w_zero = along(ctx, w_zero, w)
    return conv(ctx, _shifted(ctx, x, x_zero, dtype), _shifted(ctx, w, w_zero, dtype), **geometry)


@op("ConvInteger", returns="int32")
def conv_integer(
    ctx: Any,
    x: Array,
    w: Array,
    x_zero_point: Array = None,
    w_zero_point: Array = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    y = integer_conv(
        ctx,
        x,
        w,
        x_zero_point,
        w_zero_point,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return as_int32(ctx, y)


@op("QLinearConv", returns="y_zero_point")
def qlinear_conv(
    ctx: Any,
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    w: Array,
    w_scale: Array,
    w_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    B: Array = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """The bias is an integer in steps of x_scale · w_scale; w_scale may differ by channel."""
    y = integer_conv(
        ctx,
        x,
        w,
        x_zero_point,
        w_zero_point,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    if B is not None:
        y = ctx.cast(y, "float64") + along(ctx, ctx.cast(B, "float64"), y, axis=1)
    factor = along(ctx, x_scale * w_scale / y_scale, y, axis=1)
    return stored(ctx, ctx.cast(y, "float32") * factor, y_zero_point, ctx.given["y_zero_point"])
