"""Normalisations: values are shifted and scaled by statistics, given ones or their own.

They differ only in the axes over which mean and variance are taken, so one helper does the work:

    Y = (X - mean) / sqrt(variance + epsilon)

`stash_type` names the precision of that first stage; hubtool computes it in float32, or in float64
where X is, and rounds the statistics to the type asked for.
"""

from __future__ import annotations

import math
from typing import Any

from hubtool.ops import REQUIRED, op
from hubtool.ops.shape import axes_of, axis_of, pad_axis

__all__: list[str] = []

Array = Any


def _standardize(
    ctx: Any, X: Array, axes: tuple[int, ...], epsilon: float
) -> tuple[Array, Array, Array]:
    """X with mean 0 and variance 1 over the axes, and the mean and 1/deviation that it took."""
    xp = ctx.xp
    mean = xp.mean(X, axis=axes, keepdims=True)
    centred = X - mean
    variance = xp.mean(centred * centred, axis=axes, keepdims=True)
    inverse = 1 / xp.sqrt(variance + epsilon)
    return centred * inverse, mean, inverse


def _by_channel(ctx: Any, parameter: Array, X: Array) -> Array:
    """A parameter [C] in the shape that meets X [N, C, D1, …]; a 1-D X has one channel."""
    return ctx.xp.reshape(parameter, (-1, *(1,) * max(X.ndim - 2, 0)))


@op("BatchNormalization", returns=("X", "input_mean", "input_var"))
def batch_normalization(
    ctx: Any,
    X: Array,
    scale: Array,
    B: Array,
    input_mean: Array,
    input_var: Array,
    *,
    epsilon: float = 1e-05,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Array | tuple[Array, Array, Array]:
    """In training_mode the statistics of X itself count, and the running ones approach them."""
    xp, mean, variance = ctx.xp, input_mean, input_var
    if training_mode:
        others = tuple(axis for axis in range(X.ndim) if axis != 1)
        mean, variance = (xp.reshape(f(X, axis=others), (-1,)) for f in (xp.mean, xp.var))
    factor = _by_channel(ctx, scale / xp.sqrt(variance + epsilon), X)
    Y = (X - _by_channel(ctx, mean, X)) * factor + _by_channel(ctx, B, X)
    if not training_mode:
        return Y
    running = (
        before * momentum + now * (1 - momentum)
        for before, now in ((input_mean, mean), (input_var, variance))
    )
    return (Y, *running)


@op("InstanceNormalization")
def instance_normalization(
    ctx: Any, input: Array, scale: Array, B: Array, *, epsilon: float = 1e-05
) -> Array:
    normal, _, _ = _standardize(ctx, input, tuple(range(2, input.ndim)), epsilon)
    return normal * _by_channel(ctx, scale, input) + _by_channel(ctx, B, input)


@op("GroupNormalization")
def group_normalization(
    ctx: Any,
    X: Array,
    scale: Array,
    bias: Array,
    *,
    epsilon: float = 1e-05,
    num_groups: int = REQUIRED,
    stash_type: int = 1,
) -> Array:
    if num_groups < 1 or X.shape[1] % num_groups:
        raise ValueError(f"{X.shape[1]} channels cannot be split into {num_groups} groups")
    size = math.prod(X.shape[1:]) // num_groups
    grouped = ctx.xp.reshape(X, (X.shape[0], num_groups, size))
    normal = ctx.xp.reshape(_standardize(ctx, grouped, (2,), epsilon)[0], X.shape)
    return normal * _by_channel(ctx, scale, X) + _by_channel(ctx, bias, X)


@op("LayerNormalization", returns=("X", "stash_type", "stash_type"))
def layer_normalization(
    ctx: Any,
    X: Array,
    Scale: Array,
    B: Array = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-05,
    stash_type: int = 1,
) -> tuple[Array, Array, Array]:
    axes = tuple(range(axis_of(axis, X.ndim), X.ndim))
    normal, mean, inverse = _standardize(ctx, X, axes, epsilon)
    Y = normal * Scale
    return Y if B is None else Y + B, mean, inverse


@op("RMSNormalization", returns="scale")
def rms_normalization(
    ctx: Any,
    X: Array,
    scale: Array,
    *,
    axis: int = -1,
    epsilon: float = 1e-05,
    stash_type: int = 1,
) -> Array:
    axes = tuple(range(axis_of(axis, X.ndim), X.ndim))
    square = ctx.xp.mean(X * X, axis=axes, keepdims=True)
    return X / ctx.xp.sqrt(square + epsilon) * scale


@op("MeanVarianceNormalization")
def mean_variance_normalization(
    ctx: Any, X: Array, *, axes: tuple[int, ...] | list[int] = (0, 2, 3)
) -> Array:
    """(X - mean) / deviation; the specification's function adds 1e-9 to the deviation."""
    xp, chosen = ctx.xp, axes_of(axes, X.ndim)
    centred = X - xp.mean(X, axis=chosen, keepdims=True)
    deviation = xp.sqrt(xp.mean(centred * centred, axis=chosen, keepdims=True))
    return centred / (deviation + 1e-9)


@op("LpNormalization")
def lp_normalization(ctx: Any, input: Array, *, axis: int = -1, p: int = 2) -> Array:
    """Each vector along the axis divided by its norm; a vector of zeros stays one."""
    xp = ctx.xp
    if p not in (1, 2):
        raise ValueError(f"p is {p}, not 1 or 2")
    sizes = xp.abs(input) if p == 1 else input * input
    norm = xp.sum(sizes, axis=axis_of(axis, input.ndim), keepdims=True)
    norm = norm if p == 1 else xp.sqrt(norm)
    return xp.where(norm == 0, 0.0, input / norm)


@op("LRN")
def lrn(
    ctx: Any,
    X: Array,
    *,
    alpha: float = 0.0001,
    beta: float = 0.75,
    bias: float = 1.0,
    size: int = REQUIRED,
) -> Array:
    """Each element over a power of the squares of its `size` neighbours in channel."""
    C, before = X.shape[1], (size - 1) // 2
    squares = pad_axis(ctx, X * X, 1, before, size - 1 - before)
    total = sum((squares[:, i : i + C, ...] for i in range(1, size)), squares[:, :C, ...])
    return X / ctx.xp.pow(bias + alpha / size * total, beta)
