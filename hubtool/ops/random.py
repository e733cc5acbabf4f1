"""Operators that draw random numbers.

numpy draws on the host and the numbers are moved, so that a seed gives the same numbers on every
backend. Without a seed the run's own generator draws: other numbers at every run, unless the run
was given a generator. ONNX leaves the algorithm open: the numbers are not those of another
runtime, only their distribution is.

    Normal        mean + scale · z             z standard normal
    Uniform       low + (high - low) · u       u in [0, 1)
    Bernoulli     u < p
    Multinomial   the class in whose share of the line [0, Σ e^x) the point u · Σ e^x lies

float64 is drawn as such; what is narrower is drawn in float32 and rounded once. Shapes need no
draw: where there is no data, each operator says what its result looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hubtool.dtypes import DTYPES, is_float, numpy_dtype
from hubtool.ops import REQUIRED, op
from hubtool.ops.shape import dtype_asked, guard_size

__all__: list[str] = []

Array = Any
Draw = Callable[[np.random.Generator, tuple[int, ...], Any], Array]


def _drawn(ctx: Any, seed: float | None, shape: Sequence[int], dtype: str, draw: Draw) -> Array:
    """What `draw` makes of the generator, the shape and a dtype to draw in."""
    _check(shape, dtype)
    wide = np.float64 if dtype == "float64" else np.float32
    numbers = np.asarray(draw(ctx.random(seed), tuple(shape), wide))
    return ctx.put(numbers.astype(numpy_dtype(dtype), copy=False))


def _check(shape: Sequence[int], dtype: str) -> None:
    if not is_float(dtype):
        raise ValueError(f"{dtype} is no type for these numbers; dtype must name one of floats")
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {list(shape)} has a negative size")
    guard_size(shape, dtype)


def _normal(mean: float, scale: float) -> Draw:
    return lambda generator, shape, wide: mean + scale * generator.standard_normal(shape, wide)


def _uniform(low: float, high: float) -> Draw:
    return lambda generator, shape, wide: low + (high - low) * generator.random(shape, wide)


def _empty(ctx: Any, *, dtype: int = 1, shape: Sequence[int], **_: Any) -> Array:
    _check(shape, DTYPES[dtype])
    return ctx.empty(shape, DTYPES[dtype])


def _empty_like(ctx: Any, input: Array, *, dtype: int | None = None, **_: Any) -> Array:
    _check(input.shape, dtype_asked(ctx, dtype))
    return ctx.empty(input.shape, dtype_asked(ctx, dtype))


@op("RandomNormal", returns="dtype", shape=_empty)
def random_normal(
    ctx: Any,
    *,
    dtype: int = 1,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    shape: Sequence[int] = REQUIRED,
) -> Array:
    return _drawn(ctx, seed, shape, DTYPES[dtype], _normal(mean, scale))


@op("RandomNormalLike", returns="", moves=True, shape=_empty_like)
def random_normal_like(
    ctx: Any,
    input: Array,
    *,
    dtype: int | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
) -> Array:
    return _drawn(ctx, seed, input.shape, dtype_asked(ctx, dtype), _normal(mean, scale))


@op("RandomUniform", returns="dtype", shape=_empty)
def random_uniform(
    ctx: Any,
    *,
    dtype: int = 1,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
    shape: Sequence[int] = REQUIRED,
) -> Array:
    return _drawn(ctx, seed, shape, DTYPES[dtype], _uniform(low, high))


@op("RandomUniformLike", returns="", moves=True, shape=_empty_like)
def random_uniform_like(
    ctx: Any,
    input: Array,
    *,
    dtype: int | None = None,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
) -> Array:
    return _drawn(ctx, seed, input.shape, dtype_asked(ctx, dtype), _uniform(low, high))


def _empty_draws(ctx: Any, input: Array, *, dtype: int | None = None, **_: Any) -> Array:
    return ctx.empty(input.shape, dtype_asked(ctx, dtype))


@op("Bernoulli", returns="", shape=_empty_draws)
def bernoulli(
    ctx: Any, input: Array, *, dtype: int | None = None, seed: float | None = None
) -> Array:
    """1 with the probability that the input gives, else 0."""
    u = _drawn(ctx, seed, input.shape, ctx.dtype(input), _uniform(0.0, 1.0))
    return ctx.cast(u < input, dtype_asked(ctx, dtype))


def _empty_samples(ctx: Any, input: Array, *, dtype: int, sample_size: int, **_: Any) -> Array:
    return ctx.empty((input.shape[0], sample_size), DTYPES[dtype])


@op("Multinomial", returns="dtype", on_host=True, shape=_empty_samples)
def multinomial(
    ctx: Any, input: Array, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None
) -> Array:
    """Classes [batch, sample_size], drawn by their logarithmic probabilities [batch, class], which
    need not be normalised: a class at -inf is never drawn."""
    if input.ndim != 2 or sample_size < 0:
        raise ValueError(
            f"input {list(input.shape)} should be [batch, class], and sample_size {sample_size} "
            "not be negative"
        )
    guard_size((len(input), sample_size), "int64")
    top = input.max(axis=1, keepdims=True, initial=-np.inf)
    if not np.isfinite(top).all():
        raise ValueError("input has a row without a finite logarithmic probability to draw by")
    shares = np.cumsum(np.exp(input.astype(np.float64) - top), axis=1)
    points = ctx.random(seed).random((len(input), sample_size)) * shares[:, -1:]
    rows = zip(shares, points, strict=True)
    drawn = [np.searchsorted(edges, row, side="right") for edges, row in rows]
    return np.asarray(drawn, np.int64).reshape(points.shape)
