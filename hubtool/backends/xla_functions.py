"""XLA's own convolutions and pools, for the operators of `hubtool.ops` that are slow without them.

XLA's kernels for the CPU want the channels last, so windows slide over [N, D1, …, C]: what goes in
is transposed and what comes out is transposed back. Inside a compiled program the compiler cancels
the pairs between one such layer and the next, and with bias, residual and activation added before
the way back none is left in a ResNet but the first and the last. Each function returns
NotImplemented where it does not know the dtype or the arguments are unsound: then the definition
in `hubtool.ops` runs, or says what is wrong. jax itself is at `ctx.space.jax`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from hubtool.backends import or_by_definition
from hubtool.dtypes import numpy_dtype
from hubtool.ops.fused import activated, nchw, nhwc
from hubtool.ops.window import Window, resolve_transposed, resolve_window

__all__ = ["OVERRIDES"]

Array = Any
Ints = Sequence[int]


def _is_float(*arrays: Array | None) -> bool:
    """Whether all are float32, or all float64."""
    dtypes = {str(array.dtype) for array in arrays if array is not None}
    return len(dtypes) == 1 and dtypes <= {"float32", "float64"}


def _fits(X: Array, W: Array, B: Array | None, C: int, kernel_shape: Any) -> bool:
    """Whether the arguments of a convolution are sound; C is the channels that X should have."""
    sound = X.ndim > 2 and X.ndim == W.ndim and X.shape[1] == C
    return sound and tuple(kernel_shape or W.shape[2:]) == W.shape[2:] and _is_float(X, W, B)


def _convolved(
    ctx: Any, X: Array, W: Array, window: Window, pads: Sequence[Any], group: int, **more: Any
) -> Array:
    """The convolution of X [N, C, …] with W [M, C/group, …], as [N, …, M]."""
    rank = len(window.kernel)
    taps = (*range(2, rank + 2), 1, 0)
    last = (0, rank + 1, *range(1, rank + 1))
    kernels = (rank + 1, rank, *range(rank))
    lax = ctx.space.jax.lax
    return lax.conv_general_dilated(
        nhwc(ctx, X),
        ctx.xp.permute_dims(W, taps),
        padding=pads,
        rhs_dilation=window.dilations,
        feature_group_count=group,
        dimension_numbers=lax.ConvDimensionNumbers(last, kernels, last),
        **more,
    )


def _conv_last(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array | None,
    group: int,
    kernel_shape: Ints | None,
    geometry: Mapping[str, Any],
) -> Array:
    """Conv with the channels of its result last."""
    if not _fits(X, W, B, W.shape[1] * group, kernel_shape) or W.shape[0] % group:
        return NotImplemented
    window = resolve_window(X.shape[2:], W.shape[2:], **geometry)
    pads = [*zip(window.begins, window.ends, strict=True)]
    Y = _convolved(ctx, X, W, window, pads, group, window_strides=window.strides)
    return Y if B is None else Y + B


def _conv(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array | None = None,
    *,
    group: int = 1,
    kernel_shape: Ints | None = None,
    **geometry: Any,
) -> Array:
    Y = _conv_last(ctx, X, W, B, group, kernel_shape, geometry)
    return Y if Y is NotImplemented else nchw(ctx, Y)


def _fused_conv(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array | None = None,
    Z: Array | None = None,
    *,
    activation: str | None = None,
    activation_params: Sequence[float] | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    **geometry: Any,
) -> Array:
    """activation(Conv(X, W, B) + Z); a Z that broadcasts is added after the way back."""
    Y = _conv_last(ctx, X, W, B, group, kernel_shape, geometry)
    if Y is NotImplemented:
        return Y
    if Z is not None and Z.ndim == Y.ndim:
        Y, Z = Y + nhwc(ctx, Z), None
    if Z is not None:
        return activated(ctx, nchw(ctx, Y) + Z, activation, activation_params)
    return nchw(ctx, activated(ctx, Y, activation, activation_params))


def _conv_transpose(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array | None = None,
    *,
    group: int = 1,
    kernel_shape: Ints | None = None,
    **geometry: Any,
) -> Array:
    """The plain convolution over an input spread out with zeros, the kernel turned round."""
    xp, (C, share, *kernel) = ctx.xp, W.shape
    if not _fits(X, W, B, C, kernel_shape) or C % group:
        return NotImplemented
    window = resolve_transposed(X.shape[2:], kernel, **geometry)
    pads = []
    for n, size, stride, begin, reach in zip(
        X.shape[2:], window.size, window.strides, window.begins, window.reach, strict=True
    ):
        front = reach - 1 - begin
        pads.append((front, size + reach - 1 - front - ((n - 1) * stride + 1)))
    turned = xp.reshape(W, (group, C // group, share, *kernel))
    turned = xp.permute_dims(turned, (0, 2, 1, *range(3, W.ndim + 1)))
    turned = xp.flip(xp.reshape(turned, (-1, C // group, *kernel)), axis=tuple(range(2, W.ndim)))
    plain = (1,) * len(kernel)
    Y = _convolved(
        *(ctx, X, turned, window, pads, group), window_strides=plain, lhs_dilation=window.strides
    )
    return nchw(ctx, Y if B is None else Y + B)


def _pooled(ctx: Any, X: Array, window: Window, initial: float, combine: Any) -> Array:
    """The elements under each window of X [N, C, …], combined."""
    ends = (end + over for end, over in zip(window.ends, window.overhang, strict=True))
    made = ctx.space.jax.lax.reduce_window(
        nhwc(ctx, X),
        np.asarray(initial, X.dtype),
        combine,
        (1, *window.kernel, 1),
        (1, *window.strides, 1),
        [(0, 0), *zip(window.begins, ends, strict=True), (0, 0)],
        window_dilation=(1, *window.dilations, 1),
    )
    return nchw(ctx, made)


def _max_pool(
    ctx: Any, X: Array, *, kernel_shape: Ints, storage_order: int = 0, **geometry: Any
) -> Any:
    if any(ctx.wanted[1:]) or not _is_float(X):
        return NotImplemented
    window = resolve_window(X.shape[2:], kernel_shape, **geometry)
    return _pooled(ctx, X, window, -np.inf, ctx.space.jax.lax.max), None


def _average_pool(
    ctx: Any, X: Array, *, kernel_shape: Ints, count_include_pad: int = 0, **geometry: Any
) -> Array:
    if not _is_float(X):
        return NotImplemented
    window = resolve_window(X.shape[2:], kernel_shape, **geometry)
    counts = [window.counts(i, bool(count_include_pad)) for i in range(len(window.kernel))]
    divisor = reduce(np.multiply.outer, counts).astype(numpy_dtype(ctx.dtype(X)))
    return _pooled(ctx, X, window, 0, ctx.space.jax.lax.add) / ctx.put(divisor)


OWN: Mapping[str, Callable[..., Any]] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "com.microsoft.FusedConv": _fused_conv,
}

OVERRIDES: Mapping[str, Callable[..., Any]] = {
    op: or_by_definition(op, function) for op, function in OWN.items()
}
"""Operator -> the function that the interpreter calls."""
