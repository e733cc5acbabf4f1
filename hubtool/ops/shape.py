"""Operators that arrange elements and compute none, and the arithmetic of shapes.

Shapes, axes, pads and repeats arrive as numpy on every backend, and `Shape`, `Size` and `Range`
give numpy back, so that no device is asked for numbers. What another family needs too stands
first: axes counted from the front, padding one axis, the dtype that an attribute may ask for, and
the guard against a size that no machine holds: a few bytes in a file may ask for petabytes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hubtool.dtypes import BITS, DTYPES
from hubtool.ops import REQUIRED, op

__all__ = ["axes_of", "axis_of", "dtype_asked", "guard_size", "pad_axis"]

Array = Any

MEMORY = (
    os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if hasattr(os, "sysconf")
    else 1 << 36  # a system that does not tell
)
"""The bytes of memory that this machine has."""


def guard_size(shape: Iterable[int], dtype: str) -> None:
    """Refuse an array that this machine's memory cannot hold."""
    dims = [int(d) for d in shape]
    needed = math.prod(dims) * BITS.get(dtype, 64) // 8
    if needed > MEMORY:
        raise MemoryError(
            f"a {dtype}{dims} would take {needed / 2**30:,.0f} GiB; "
            f"this machine has {MEMORY / 2**30:,.0f} GiB"
        )


def axis_of(axis: int, rank: int) -> int:
    """The axis counted from the front; -1 is the last one."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is outside a rank of {rank}")
    return int(axis) % rank


def axes_of(axes: Array | None, rank: int) -> tuple[int, ...]:
    """The axes of an optional input, counted from the front; all of them where it is absent."""
    if axes is None:
        return tuple(range(rank))
    chosen = tuple(axis_of(int(axis), rank) for axis in np.reshape(axes, (-1,)))
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"axes {list(chosen)} name one axis twice")
    return chosen


def dtype_asked(ctx: Any, dtype: int | None) -> str:
    """The dtype whose number an attribute holds; where it is absent, that of the input."""
    return DTYPES[dtype] if dtype else str(ctx.given["input"])


def pad_axis(ctx: Any, x: Array, axis: int, begin: int, end: int, value: Any = 0) -> Array:
    """Add `begin` elements before and `end` after the axis; negative ones are taken away.

    `value` is a number or an array of one element.
    """
    xp, before = ctx.xp, (slice(None),) * axis
    if begin < 0 or end < 0:
        x = x[(*before, slice(max(-begin, 0), max(x.shape[axis] + min(end, 0), 0)), ...)]
        begin, end = max(begin, 0), max(end, 0)
    if not begin and not end:
        return x
    guard_size((*x.shape[:axis], x.shape[axis] + begin + end, *x.shape[axis + 1 :]), ctx.dtype(x))
    if isinstance(value, int | float | str):
        value = xp.full((1,) * x.ndim, value, dtype=x.dtype, device=ctx.device(x))
    value = xp.reshape(value, (1,) * x.ndim)
    borders = (
        xp.broadcast_to(value, (*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in (begin, end)
    )
    front, back = borders
    return xp.concat(
        [part for part in (front, x, back) if part.shape[axis] or part is x], axis=axis
    )


@op("Shape", returns="int64", moves=True)
def shape(ctx: Any, data: Array, *, start: int = 0, end: int | None = None) -> Array:
    return np.asarray(tuple(data.shape)[start:end], dtype=np.int64)


@op("Size", returns="int64", moves=True)
def size(ctx: Any, data: Array) -> Array:
    return np.asarray(math.prod(data.shape), dtype=np.int64)


@op("Reshape", host=("shape",), moves=True)
def reshape(ctx: Any, data: Array, shape: Array, *, allowzero: int = 0) -> Array:
    """0 copies the input's size (unless allowzero), and -1 stands for what is left."""
    asked = [int(d) for d in shape]
    if not allowzero and any(d == 0 for d in asked[data.ndim :]):
        raise ValueError(f"shape {asked} copies a size that {list(data.shape)} has not")
    dims = [data.shape[i] if d == 0 and not allowzero else d for i, d in enumerate(asked)]
    if dims.count(-1) == 1:
        # A copied size stands on both sides and cancels out, so that an empty batch works too.
        copied = [i for i, d in enumerate(asked) if d == 0 and not allowzero]
        total = math.prod(d for i, d in enumerate(data.shape) if i not in copied)
        rest = math.prod(d for i, d in enumerate(dims) if d != -1 and i not in copied)
        dims[dims.index(-1)] = total // rest if rest else 0
    if min(dims, default=0) < 0 or math.prod(dims) != math.prod(data.shape):
        raise ValueError(f"shape {asked} does not fit {list(data.shape)}")
    return ctx.xp.reshape(data, tuple(dims))


@op("Flatten", moves=True)
def flatten(ctx: Any, input: Array, *, axis: int = 1) -> Array:
    cut = axis if axis == input.ndim else axis_of(axis, input.ndim)
    dims = tuple(input.shape)
    return ctx.xp.reshape(input, (math.prod(dims[:cut]), math.prod(dims[cut:])))


@op("Transpose", moves=True)
def transpose(ctx: Any, data: Array, *, perm: list[int] | None = None) -> Array:
    order = range(data.ndim)[::-1] if perm is None else perm
    return ctx.xp.permute_dims(data, tuple(order))


@op("Squeeze", host=("axes",), moves=True)
def squeeze(ctx: Any, data: Array, axes: Array = None) -> Array:
    """Drop the axes, which must have size 1; where none are named, all that have it."""
    if axes is None:
        dropped = tuple(i for i, d in enumerate(data.shape) if d == 1)
    else:
        dropped = axes_of(axes, data.ndim)
    if any(data.shape[i] != 1 for i in dropped):
        raise ValueError(f"axes {dropped} of {list(data.shape)} are not all of size 1")
    return ctx.xp.reshape(data, tuple(d for i, d in enumerate(data.shape) if i not in dropped))


@op("Unsqueeze", host=("axes",), moves=True)
def unsqueeze(ctx: Any, data: Array, axes: Array) -> Array:
    rank = data.ndim + axes.size
    added = axes_of(axes, rank)
    dims = iter(data.shape)
    return ctx.xp.reshape(data, tuple(1 if i in added else next(dims) for i in range(rank)))


@op("Concat", moves=True)
def concat(ctx: Any, *inputs: Array, axis: int = REQUIRED) -> Array:
    return ctx.xp.concat(inputs, axis=axis_of(axis, inputs[0].ndim))


@op("Split", host=("split",), moves=True)
def split(
    ctx: Any,
    input: Array,
    split: Array = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
) -> tuple[Array, ...]:
    """Parts of the given sizes, or equal ones of which the last may be smaller."""
    axis = axis_of(axis, input.ndim)
    total = input.shape[axis]
    if split is None:
        count = num_outputs or len(ctx.wanted)
        chunk = -(-total // count)
        sizes = [max(min(chunk, total - i * chunk), 0) for i in range(count)]
    else:
        sizes = [int(s) for s in split]
    if sum(sizes) != total or min(sizes) < 0:
        raise ValueError(f"split {sizes} does not add up to {total}, the size of axis {axis}")
    ends = np.cumsum(sizes).tolist()
    before = (slice(None),) * axis
    return tuple(
        input[(*before, slice(end - size, end), ...)] for size, end in zip(sizes, ends, strict=True)
    )


@op("Expand", host=("shape",), moves=True)
def expand(ctx: Any, input: Array, shape: Array) -> Array:
    dims = np.broadcast_shapes(tuple(input.shape), tuple(int(d) for d in shape))
    return ctx.xp.broadcast_to(input, dims)


@op("Tile", host=("repeats",), moves=True)
def tile(ctx: Any, input: Array, repeats: Array) -> Array:
    times = tuple(int(r) for r in repeats)
    if len(times) != input.ndim:
        raise ValueError(f"repeats {list(times)} are not one for each axis of {list(input.shape)}")
    guard_size((d * r for d, r in zip(input.shape, times, strict=True)), ctx.dtype(input))
    return ctx.xp.tile(input, times)


@op("Pad", host=("pads", "axes"), moves=True)
def pad(
    ctx: Any,
    data: Array,
    pads: Array,
    constant_value: Array = None,
    axes: Array = None,
    *,
    mode: str = "constant",
) -> Array:
    """Widen (or, with negative pads, crop) the axes; `pads` holds all begins, then all ends."""
    chosen = axes_of(axes, data.ndim)
    begins, ends = _begins_and_ends(pads, len(chosen))
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise ValueError(f"mode is '{mode}', not constant, edge, reflect or wrap")
    value = constant_value
    if value is None:
        value = "" if ctx.dtype(data) == "string" else 0
    for axis, begin, end in zip(chosen, begins, ends, strict=True):
        if mode == "constant":
            data = pad_axis(ctx, data, axis, begin, end, value)
        elif begin or end:
            sources = _sources(mode, data.shape[axis], begin, end)
            guard_size((*data.shape[:axis], *data.shape[axis + 1 :], len(sources)), ctx.dtype(data))
            data = ctx.xp.take(data, ctx.put(sources), axis=axis)
    return data


def _begins_and_ends(pads: Sequence[int], rank: int) -> tuple[list[int], list[int]]:
    numbers = [int(p) for p in pads]
    if len(numbers) != 2 * rank:
        raise ValueError(f"pads {numbers} are not a begin and an end for each of {rank} axes")
    return numbers[:rank], numbers[rank:]


def _sources(mode: str, size: int, begin: int, end: int) -> np.ndarray[Any, Any]:
    """Where each element along a padded axis comes from."""
    guard_size((size + begin + end,), "int64")
    places = np.arange(-begin, size + end)
    if mode == "edge":
        return places.clip(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    places = places % period
    return np.minimum(places, period - places) if size > 1 else places


@op("DepthToSpace", moves=True)
def depth_to_space(
    ctx: Any, input: Array, *, blocksize: int = REQUIRED, mode: str = "DCR"
) -> Array:
    N, C, H, W = input.shape
    b, depth = blocksize, C // blocksize**2
    split, order = {
        "DCR": ((N, b, b, depth, H, W), (0, 3, 4, 1, 5, 2)),
        "CRD": ((N, depth, b, b, H, W), (0, 1, 4, 2, 5, 3)),
    }[mode]
    blocks = ctx.xp.permute_dims(ctx.xp.reshape(input, split), order)
    return ctx.xp.reshape(blocks, (N, depth, H * b, W * b))


@op("SpaceToDepth", moves=True)
def space_to_depth(
    ctx: Any, input: Array, *, blocksize: int = REQUIRED, mode: str = "DCR"
) -> Array:
    N, C, H, W = input.shape
    b = blocksize
    order = {"DCR": (0, 3, 5, 1, 2, 4), "CRD": (0, 1, 3, 5, 2, 4)}[mode]
    blocks = ctx.xp.reshape(input, (N, C, H // b, b, W // b, b))
    return ctx.xp.reshape(ctx.xp.permute_dims(blocks, order), (N, C * b * b, H // b, W // b))


@op("ConstantOfShape", returns=("",), host=("input",))
def constant_of_shape(ctx: Any, input: Array, *, value: Array = None) -> Array:
    """One element seen many times: no memory is taken. The dtype is that of `value`."""
    one = np.zeros((), np.float32) if value is None else value.reshape(())
    return ctx.put(np.broadcast_to(one, tuple(int(d) for d in input)))


@op("Range", host=("start", "limit", "delta"))
def range_(ctx: Any, start: Array, limit: Array, delta: Array, *, stash_type: int = 1) -> Array:
    """start, start + delta, start + 2 delta, … below limit."""
    first, last, step = (value.reshape(()) for value in (start, limit, delta))
    if step == 0:
        raise ValueError("delta is 0")
    if first.dtype.kind in "iu":
        count = -((int(first) - int(last)) // int(step))
    else:
        count = math.ceil(float(last - first) / float(step))
    guard_size((max(count, 0),), ctx.dtype(first))
    return first + np.arange(max(count, 0)).astype(first.dtype) * step
