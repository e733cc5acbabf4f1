"""The quantised operators of ONNX Runtime, in the domain com.microsoft.

Most do what an operator on floats does, between reading integers and writing them again:

    QLinearF(X) = quantise(F(dequantise(X)))

What they quantise has one scale and one zero point for the whole tensor. The products of matrices
are sums of integers first, as in `quantize`. ONNX Runtime's own page says what each takes:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from hubtool.ops import REQUIRED, op
from hubtool.ops.activation import leaky_relu, sigmoid, softmax
from hubtool.ops.fused import nchw, nhwc
from hubtool.ops.microsoft_norm import embed_layer_normalization
from hubtool.ops.quantize import (
    as_int32,
    dequantize_linear,
    dequantized,
    dynamically_quantized,
    integer_matmul,
    qlinear_conv,
    quantize_linear,
    quantized,
    stored,
)
from hubtool.ops.shape import axes_of, axis_of
from hubtool.ops.window import average_pool

__all__: list[str] = []

Array = Any
Ints = Sequence[int]


def _one(ctx: Any, parameter: Array) -> Array:
    """The scale or zero point of a whole tensor, as an array without dimensions."""
    if parameter is None:
        return None
    if math.prod(parameter.shape) != 1:
        shape = list(parameter.shape)
        raise ValueError(f"a scale or zero point of shape {shape} stands where one number should")
    return ctx.xp.reshape(parameter, ())


def _read(ctx: Any, X: Array, scale: Array, zero_point: Array) -> Array:
    return dequantized(ctx, X, _one(ctx, scale), _one(ctx, zero_point))


def _written(ctx: Any, Y: Array, scale: Array, zero_point: Array, dtype: str) -> Array:
    return quantized(ctx, Y, _one(ctx, scale), _one(ctx, zero_point), dtype)


@op("com.microsoft.QuantizeLinear", returns="y_zero_point")
def microsoft_quantize_linear(
    ctx: Any, x: Array, y_scale: Array, y_zero_point: Array = None, *, axis: int | None = None
) -> Array:
    if axis is None:
        axis, y_scale, y_zero_point = 0, _one(ctx, y_scale), _one(ctx, y_zero_point)
    return quantize_linear(ctx, x, y_scale, y_zero_point, axis=axis)


@op("com.microsoft.DequantizeLinear", returns="x_scale")
def microsoft_dequantize_linear(
    ctx: Any, x: Array, x_scale: Array, x_zero_point: Array = None, *, axis: int | None = None
) -> Array:
    if axis is None:
        axis, x_scale, x_zero_point = 0, _one(ctx, x_scale), _one(ctx, x_zero_point)
    return dequantize_linear(ctx, x, x_scale, x_zero_point, axis=axis)


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "QLinearAdd": lambda A, B: A + B,
    "QLinearMul": lambda A, B: A * B,
}


def _register_binary(name: str, function: Callable[[Array, Array], Array]) -> None:
    @op(f"com.microsoft.{name}")
    def binary(
        ctx: Any,
        A: Array,
        A_scale: Array,
        A_zero_point: Array = None,
        B: Array = REQUIRED,
        B_scale: Array = REQUIRED,
        B_zero_point: Array = None,
        C_scale: Array = REQUIRED,
        C_zero_point: Array = None,
    ) -> Array:
        C = function(_read(ctx, A, A_scale, A_zero_point), _read(ctx, B, B_scale, B_zero_point))
        return _written(ctx, C, C_scale, C_zero_point, ctx.given["A"])


for _name, _function in BINARY.items():
    _register_binary(_name, _function)


@op("com.microsoft.QLinearSigmoid")
def qlinear_sigmoid(
    ctx: Any,
    X: Array,
    X_scale: Array,
    X_zero_point: Array = None,
    Y_scale: Array = REQUIRED,
    Y_zero_point: Array = None,
) -> Array:
    Y = sigmoid(ctx, _read(ctx, X, X_scale, X_zero_point))
    return _written(ctx, Y, Y_scale, Y_zero_point, ctx.given["X"])


@op("com.microsoft.QLinearLeakyRelu")
def qlinear_leaky_relu(
    ctx: Any,
    X: Array,
    X_scale: Array,
    X_zero_point: Array = None,
    Y_scale: Array = REQUIRED,
    Y_zero_point: Array = None,
    *,
    alpha: float = 0.01,
) -> Array:
    Y = leaky_relu(ctx, _read(ctx, X, X_scale, X_zero_point), alpha=alpha)
    return _written(ctx, Y, Y_scale, Y_zero_point, ctx.given["X"])


@op("com.microsoft.QLinearSoftmax")
def qlinear_softmax(
    ctx: Any,
    X: Array,
    X_scale: Array,
    x_zero_point: Array = None,
    y_scale: Array = REQUIRED,
    y_zero_point: Array = REQUIRED,
    *,
    axis: int = -1,
    opset: int = REQUIRED,
) -> Array:
    """As Softmax was at that opset: below 13, all axes from `axis` on count as one."""
    x, axis = _read(ctx, X, X_scale, x_zero_point), axis_of(axis, X.ndim)
    if opset < 13:
        x = ctx.xp.reshape(x, (*X.shape[:axis], math.prod(X.shape[axis:])))
    Y = ctx.xp.reshape(softmax(ctx, x, axis=axis), tuple(X.shape))
    return _written(ctx, Y, y_scale, y_zero_point, ctx.given["X"])


@op("com.microsoft.QLinearReduceMean")
def qlinear_reduce_mean(
    ctx: Any,
    data: Array,
    data_scale: Array,
    data_zero_point: Array = None,
    reduced_scale: Array = REQUIRED,
    reduced_zero_point: Array = None,
    *,
    axes: Ints = REQUIRED,
    keepdims: int = REQUIRED,
) -> Array:
    """The mean over the axes, or over all of them where none is named."""
    x = _read(ctx, data, data_scale, data_zero_point)
    mean = ctx.xp.mean(x, axis=axes_of(axes or None, x.ndim), keepdims=bool(keepdims))
    return _written(ctx, mean, reduced_scale, reduced_zero_point, ctx.given["data"])


@op("com.microsoft.QLinearWhere", returns="X")
def qlinear_where(
    ctx: Any,
    condition: Array,
    X: Array,
    x_scale: Array,
    x_zero_point: Array,
    Y: Array,
    y_scale: Array,
    y_zero_point: Array,
    z_scale: Array,
    z_zero_point: Array,
) -> Array:
    x, y = _read(ctx, X, x_scale, x_zero_point), _read(ctx, Y, y_scale, y_zero_point)
    Z = ctx.xp.where(condition, x, y)
    return _written(ctx, Z, z_scale, z_zero_point, ctx.given["X"])


@op("com.microsoft.QLinearConcat", returns="Y_zero_point")
def qlinear_concat(
    ctx: Any, Y_scale: Array, Y_zero_point: Array, *inputs: Array, axis: int = REQUIRED
) -> Array:
    """The inputs are a tensor, its scale and its zero point, again and again."""
    if not inputs or len(inputs) % 3:
        raise ValueError(f"{len(inputs)} inputs are not tensors with a scale and a zero point each")
    read = [_read(ctx, *inputs[i : i + 3]) for i in range(0, len(inputs), 3)]
    Y = ctx.xp.concat(read, axis=axis_of(axis, read[0].ndim))
    return _written(ctx, Y, Y_scale, Y_zero_point, ctx.given["Y_zero_point"])


@op("com.microsoft.QLinearGlobalAveragePool")
def qlinear_global_average_pool(
    ctx: Any,
    X: Array,
    x_scale: Array,
    x_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    *,
    channels_last: int = 0,
) -> Array:
    axes = tuple(range(1, X.ndim - 1) if channels_last else range(2, X.ndim))
    mean = ctx.xp.mean(_read(ctx, X, x_scale, x_zero_point), axis=axes, keepdims=True)
    return _written(ctx, mean, y_scale, y_zero_point, ctx.given["X"])


@op("com.microsoft.QLinearAveragePool")
def qlinear_average_pool(
    ctx: Any,
    X: Array,
    x_scale: Array,
    x_zero_point: Array = None,
    y_scale: Array = REQUIRED,
    y_zero_point: Array = None,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    channels_last: int = 0,
    count_include_pad: int = 0,
    kernel_shape: Ints = REQUIRED,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    x = _read(ctx, X, x_scale, x_zero_point)
    Y = average_pool(
        ctx,
        nchw(ctx, x) if channels_last else x,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    Y = nhwc(ctx, Y) if channels_last else Y
    return _written(ctx, Y, y_scale, y_zero_point, ctx.given["X"])


@op("com.microsoft.QLinearConv", returns="y_zero_point")
def microsoft_qlinear_conv(
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
    channels_last: int = 0,
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """ONNX's QLinearConv, for images whose channels may come last; w is as ever."""
    y = qlinear_conv(
        ctx,
        nchw(ctx, x) if channels_last else x,
        x_scale,
        x_zero_point,
        w,
        w_scale,
        w_zero_point,
        y_scale,
        y_zero_point,
        B,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return nhwc(ctx, y) if channels_last else y


@op("com.microsoft.MatMulInteger16", returns="")
def matmul_integer_16(ctx: Any, A: Array, B: Array) -> Array:
    """A · B, wrapped around to 32 bits; without a sign where neither A nor B has one."""
    product = ctx.xp.matmul(ctx.cast(A, "float64"), ctx.cast(B, "float64"))
    unsigned = ctx.given["A"] == ctx.given["B"] == "uint16"
    return ctx.cast(ctx.cast(product, "int64"), "uint32") if unsigned else as_int32(ctx, product)


@op("com.microsoft.MatMulIntegerToFloat", returns="a_scale")
def matmul_integer_to_float(
    ctx: Any,
    A: Array,
    B: Array,
    a_scale: Array,
    b_scale: Array,
    a_zero_point: Array = None,
    b_zero_point: Array = None,
    bias: Array = None,
) -> Array:
    product = integer_matmul(ctx, A, B, _one(ctx, a_zero_point), b_zero_point)
    Y = ctx.cast(product, "float32") * (_one(ctx, a_scale) * b_scale)
    return Y if bias is None else Y + bias


@op("com.microsoft.DynamicQuantizeMatMul")
def dynamic_quantize_matmul(
    ctx: Any,
    A: Array,
    B: Array,
    b_scale: Array,
    b_zero_point: Array = None,
    bias: Array = None,
) -> Array:
    """A is quantised to uint8 by its own range, as DynamicQuantizeLinear does it."""
    a, a_scale, a_zero_point = dynamically_quantized(ctx, A)
    return matmul_integer_to_float(ctx, a, B, a_scale, b_scale, a_zero_point, b_zero_point, bias)


@op("com.microsoft.QGemm", returns="")
def q_gemm(
    ctx: Any,
    A: Array,
    a_scale: Array,
    a_zero_point: Array,
    B: Array,
    b_scale: Array,
    b_zero_point: Array,
    C: Array = None,
    y_scale: Array = None,
    y_zero_point: Array = None,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    """alpha · A · B + C, where C is an integer in steps of alpha · a_scale · b_scale; a float32
    where no y_scale is given."""
    A = ctx.xp.permute_dims(A, (1, 0)) if transA else A
    B = ctx.xp.permute_dims(B, (1, 0)) if transB else B
    Y = integer_matmul(ctx, A, B, _one(ctx, a_zero_point), b_zero_point)
    Y = Y if C is None else ctx.cast(Y, "float64") + ctx.cast(C, "float64")
    factor = alpha * _one(ctx, a_scale) * b_scale
    Y = ctx.cast(Y, "float32") * (factor if y_scale is None else factor / _one(ctx, y_scale))
    if y_scale is None:
        return Y
    return stored(ctx, Y, _one(ctx, y_zero_point), ctx.given["y_zero_point"] or "uint8")


@op("com.microsoft.QEmbedLayerNormalization", returns=("word_embedding_scale", "input_ids"))
def q_embed_layer_normalization(
    ctx: Any,
    input_ids: Array,
    segment_ids: Array = None,
    word_embedding_quant: Array = REQUIRED,
    position_embedding_quant: Array = REQUIRED,
    segment_embedding: Array = None,
    gamma_quant: Array = REQUIRED,
    beta_quant: Array = REQUIRED,
    mask: Array = None,
    word_embedding_scale: Array = REQUIRED,
    position_embedding_scale: Array = REQUIRED,
    segment_embedding_scale: Array = None,
    gamma_scale: Array = REQUIRED,
    beta_scale: Array = REQUIRED,
    word_embedding_zero_point: Array = REQUIRED,
    position_embedding_zero_point: Array = REQUIRED,
    segment_embedding_zero_point: Array = None,
    gamma_zero_point: Array = REQUIRED,
    beta_zero_point: Array = REQUIRED,
    *,
    epsilon: float = 1e-12,
) -> tuple[Array, Array]:
    """EmbedLayerNormalization of quantised tables, without the sum."""
    segments = None
    if segment_embedding is not None:
        scale, zero_point = segment_embedding_scale, segment_embedding_zero_point
        segments = _read(ctx, segment_embedding, scale, zero_point)
    output, kept, _ = embed_layer_normalization(
        ctx,
        input_ids,
        segment_ids,
        _read(ctx, word_embedding_quant, word_embedding_scale, word_embedding_zero_point),
        _read(
            ctx, position_embedding_quant, position_embedding_scale, position_embedding_zero_point
        ),
        segments,
        _read(ctx, gamma_quant, gamma_scale, gamma_zero_point),
        _read(ctx, beta_quant, beta_scale, beta_zero_point),
        mask,
        epsilon=epsilon,
    )
    return output, kept
