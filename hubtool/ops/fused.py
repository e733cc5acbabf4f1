"""Operators that do the work of several layers: a product or a convolution, and what followed it.

    Y = activation(scale · (A ∘ B) + C)

is what all of them are: `∘` is a convolution or a matrix product, and each part of the rest may be
missing. Passes make them (`hubtool.passes.fuse_conv`), and files that ONNX Runtime has optimised
hold them, in its domain com.microsoft
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). Here stands what
they mean; a backend that has such a kernel overrides it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hubtool.ops import REQUIRED, op
from hubtool.ops.activation import (
    BARE,
    elu,
    gelu,
    hard_sigmoid,
    leaky_relu,
    selu,
    sigmoid,
    thresholded_relu,
)
from hubtool.ops.elementwise import clip
from hubtool.ops.linear import gemm
from hubtool.ops.window import conv

__all__ = ["ACTIVATIONS", "activated", "nchw", "nhwc"]

Array = Any
Ints = Sequence[int]

ACTIVATIONS: dict[str, tuple[int, Callable[..., Array]]] = {
    "Relu": (0, lambda ctx, x: ctx.xp.maximum(x, 0.0)),
    "Sigmoid": (0, lambda ctx, x: sigmoid(ctx, x)),
    "Tanh": (0, lambda ctx, x: ctx.xp.tanh(x)),
    "Softplus": (0, BARE["Softplus"]),
    "Softsign": (0, BARE["Softsign"]),
    "Elu": (1, lambda ctx, x, alpha: elu(ctx, x, alpha=alpha)),
    "LeakyRelu": (1, lambda ctx, x, alpha: leaky_relu(ctx, x, alpha=alpha)),
    "ThresholdedRelu": (1, lambda ctx, x, alpha: thresholded_relu(ctx, x, alpha=alpha)),
    "Clip": (2, lambda ctx, x, low, high: clip(ctx, x, low, high)),
    "HardSigmoid": (2, lambda ctx, x, a, b: hard_sigmoid(ctx, x, alpha=a, beta=b)),
    "Selu": (2, lambda ctx, x, alpha, gamma: selu(ctx, x, alpha=alpha, gamma=gamma)),
}
"""What may follow: how many parameters it takes, and what it does."""


def activated(
    ctx: Any, x: Array, activation: str | None, params: Sequence[float] | None = None
) -> Array:
    """The activation of that name on x; none at all where the name is absent or empty."""
    if not activation:
        return x
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is '{activation}', not one of {', '.join(ACTIVATIONS)}")
    count, function = ACTIVATIONS[activation]
    given = list(params or ())
    if len(given) != count:
        raise ValueError(f"{activation} takes {count} activation_params, not {given}")
    return function(ctx, x, *given)


def nchw(ctx: Any, x: Array) -> Array:
    """[N, D1, …, C] as [N, C, D1, …]."""
    return ctx.xp.permute_dims(x, (0, x.ndim - 1, *range(1, x.ndim - 1)))


def nhwc(ctx: Any, x: Array) -> Array:
    """[N, C, D1, …] as [N, D1, …, C]."""
    return ctx.xp.permute_dims(x, (0, *range(2, x.ndim), 1))


@op("com.microsoft.FusedConv")
def fused_conv(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array = None,
    Z: Array = None,
    *,
    activation: str | None = None,
    activation_params: Sequence[float] | None = None,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """activation(Conv(X, W, B) + Z)."""
    Y = conv(
        ctx,
        X,
        W,
        B,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return activated(ctx, Y if Z is None else Y + Z, activation, activation_params)


@op("com.microsoft.NhwcConv")
def nhwc_conv(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Conv with the channels of X, W and the result last, as ONNX Runtime's tools make it; its
    schema still tells of channels in front."""
    Y = conv(
        ctx,
        nchw(ctx, X),
        nchw(ctx, W),
        B,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return nhwc(ctx, Y)


@op("com.microsoft.NhwcFusedConv")
def nhwc_fused_conv(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array = None,
    Z: Array = None,
    *,
    activation: str | None = None,
    activation_params: Sequence[float] | None = None,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """FusedConv with the channels of X, Z and the result last; W is that of Conv."""
    Y = fused_conv(
        ctx,
        nchw(ctx, X),
        W,
        B,
        None if Z is None else nchw(ctx, Z),
        activation=activation,
        activation_params=activation_params,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return nhwc(ctx, Y)


def _given(*params: float | None) -> list[float]:
    return [param for param in params if param is not None]


@op("com.microsoft.FusedGemm")
def fused_gemm(
    ctx: Any,
    A: Array,
    B: Array,
    C: Array = None,
    *,
    activation: str | None = None,
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    """activation(alpha · A · B + beta · C)."""
    Y = gemm(ctx, A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    params = _given(activation_alpha, activation_beta, activation_gamma)
    return activated(ctx, Y, activation, params)


@op("com.microsoft.FusedMatMul")
def fused_mat_mul(
    ctx: Any,
    A: Array,
    B: Array,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Array:
    """alpha · A · B, each with its last two axes swapped (trans), or its first axis put behind the
    other batch axes (transBatch)."""
    A, B = _turned(ctx, A, transA, transBatchA), _turned(ctx, B, transB, transBatchB)
    Y = ctx.xp.matmul(A, B)
    return Y if alpha == 1 else Y * alpha


def _turned(ctx: Any, x: Array, trans: int, batch: int) -> Array:
    if x.ndim < 2 or not (trans or batch):
        return x
    *batches, row, column = range(x.ndim)
    if batch and batches:
        *batches, row = (*batches[1:], row, 0)
    last = (column, row) if trans else (row, column)
    return ctx.xp.permute_dims(x, (*batches, *last))


@op("com.microsoft.TransposeMatMul")
def transpose_mat_mul(
    ctx: Any, A: Array, B: Array, *, alpha: float = 1.0, transA: int = 0, transB: int = 0
) -> Array:
    """FusedMatMul under its older name."""
    return fused_mat_mul(ctx, A, B, alpha=alpha, transA=transA, transB=transB)


@op("com.microsoft.FusedMatMulActivation")
def fused_mat_mul_activation(
    ctx: Any,
    A: Array,
    B: Array,
    *,
    activation: str = REQUIRED,
    activation_alpha: float | None = None,
    activation_axis: int | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Array:
    """activation(FusedMatMul(A, B)); no activation that hubtool knows has an axis."""
    if activation_axis is not None:
        raise ValueError(f"{activation} takes no activation_axis, not {activation_axis}")
    Y = fused_mat_mul(
        ctx,
        A,
        B,
        alpha=alpha,
        transA=transA,
        transB=transB,
        transBatchA=transBatchA,
        transBatchB=transBatchB,
    )
    params = _given(activation_alpha, activation_beta, activation_gamma)
    return activated(ctx, Y, activation, params)


@op("com.microsoft.GemmFastGelu")
def gemm_fast_gelu(ctx: Any, X: Array, W: Array, bias: Array = None) -> Array:
    """FastGelu(X · W + bias)."""
    Y = ctx.xp.matmul(X, W)
    return gelu(ctx, Y if bias is None else Y + bias, approximate="tanh")
