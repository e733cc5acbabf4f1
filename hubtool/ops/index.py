"""Operators that read or write elements at computed places.

All of them count places in the flattened array: an index along an axis becomes one number, and
what is left is `take`. Writing is the same in reverse, without changing an array in place (no array
library but numpy and torch could): every element of the result asks which update, if any, names
it. Sorting the updates by place lets a binary search answer that for all elements at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hubtool.ops import op
from hubtool.ops.shape import axes_of, axis_of, guard_size

__all__ = ["scatter_elements"]

Array = Any


@op("Slice", host=("starts", "ends", "axes", "steps"), moves=True)
def slice_(
    ctx: Any, data: Array, starts: Array, ends: Array, axes: Array = None, steps: Array = None
) -> Array:
    """Python's slices, but a start before the first element is that element, whatever the step."""
    chosen = axes_of(range(len(starts)) if axes is None else axes, data.ndim)
    step_list = [1] * len(starts) if steps is None else steps
    cuts, turned = [slice(None)] * data.ndim, []
    for axis, start, end, step in zip(chosen, starts, ends, step_list, strict=True):
        size, step = data.shape[axis], int(step)
        if step == 0:
            raise ValueError("a step is 0")
        first = max(int(start) + (size if start < 0 else 0), 0)
        places = range(*slice(first, int(end), step).indices(size))
        if step < 0:  # cut forward, then turn round: torch has no negative steps
            turned.append(axis)
            places = places[::-1]
        cuts[axis] = slice(places[0], places[-1] + 1, places.step) if places else slice(0, 0)
    data = data[tuple(cuts)]
    return ctx.xp.flip(data, axis=tuple(turned)) if turned else data


def _from_front(ctx: Any, indices: Array, size: int) -> Array:
    """Indices counted from the front, where negative ones counted from the end."""
    return ctx.xp.where(indices < 0, indices + size, indices)


@op("Gather", moves=True)
def gather(ctx: Any, data: Array, indices: Array, *, axis: int = 0) -> Array:
    xp, axis = ctx.xp, axis_of(axis, data.ndim)
    places = xp.reshape(_from_front(ctx, indices, data.shape[axis]), (-1,))
    dims = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    return xp.reshape(xp.take(data, places, axis=axis), dims)


@op("GatherElements", moves=True)
def gather_elements(ctx: Any, data: Array, indices: Array, *, axis: int = 0) -> Array:
    places = _element_places(ctx, tuple(data.shape), indices, axis_of(axis, data.ndim))
    taken = ctx.xp.take(ctx.xp.reshape(data, (-1,)), places, axis=0)
    return ctx.xp.reshape(taken, tuple(indices.shape))


@op("GatherND", moves=True)
def gather_nd(ctx: Any, data: Array, indices: Array, *, batch_dims: int = 0) -> Array:
    places, rows, rest = _row_places(ctx, tuple(data.shape), indices, batch_dims)
    taken = ctx.xp.take(ctx.xp.reshape(data, (rows, math.prod(rest))), places, axis=0)
    return ctx.xp.reshape(taken, (*indices.shape[:-1], *rest))


@op("OneHot", returns="values", host=("depth",), moves=True)
def one_hot(ctx: Any, indices: Array, depth: Array, values: Array, *, axis: int = -1) -> Array:
    """values[1] where an index along the new axis is the given one, values[0] elsewhere; indices
    that are no integers lose their fraction, those outside [-depth, depth) name nothing."""
    size, along = int(depth.item()), axis_of(axis, indices.ndim + 1)
    if size < 0:
        raise ValueError(f"depth is {size}, a negative size")
    if tuple(values.shape) != (2,):
        raise ValueError(f"values {list(values.shape)} should be two, [off, on]")
    guard_size((*indices.shape, size), ctx.dtype(values))
    places = _from_front(ctx, ctx.cast(indices, "int64"), size)
    line = np.arange(size).reshape(-1, *(1,) * (indices.ndim - along))
    named = ctx.xp.expand_dims(places, axis=along) == ctx.put(line)
    return ctx.xp.where(named, values[1], values[0])


@op("ReverseSequence", moves=True)
def reverse_sequence(
    ctx: Any, input: Array, sequence_lens: Array, *, batch_axis: int = 1, time_axis: int = 0
) -> Array:
    """The first `sequence_lens[i]` steps of sequence i from the last to the first, then the rest
    as it is."""
    xp, batch, time = ctx.xp, axis_of(batch_axis, input.ndim), axis_of(time_axis, input.ndim)
    if batch == time or tuple(sequence_lens.shape) != (input.shape[batch],):
        raise ValueError(
            f"sequence_lens {list(sequence_lens.shape)} should be one for each sequence, and "
            f"batch_axis {batch_axis} another one than time_axis {time_axis}"
        )
    dims = [1] * input.ndim
    dims[batch] = input.shape[batch]
    lengths = xp.reshape(sequence_lens, tuple(dims))
    steps = ctx.put(np.arange(input.shape[time]).reshape(-1, *(1,) * (input.ndim - time - 1)))
    places = xp.where(steps < lengths, lengths - 1 - steps, steps)
    return gather_elements(ctx, input, xp.broadcast_to(places, tuple(input.shape)), axis=time)


def _shape_of_data(ctx: Any, data: Array, *_: Any, **__: Any) -> Array:
    return ctx.empty(data.shape, ctx.dtype(data))


@op("ScatterElements", shape=_shape_of_data)
def scatter_elements(
    ctx: Any,
    data: Array,
    indices: Array,
    updates: Array,
    *,
    axis: int = 0,
    reduction: str = "none",
) -> Array:
    places = _element_places(ctx, tuple(data.shape), indices, axis_of(axis, data.ndim))
    return _scatter(ctx, data, math.prod(data.shape), places, updates, reduction)


@op("ScatterND", shape=_shape_of_data)
def scatter_nd(
    ctx: Any, data: Array, indices: Array, updates: Array, *, reduction: str = "none"
) -> Array:
    places, rows, _ = _row_places(ctx, tuple(data.shape), indices, 0)
    return _scatter(ctx, data, rows, places, updates, reduction)


def _element_places(ctx: Any, dims: tuple[int, ...], indices: Array, axis: int) -> Array:
    """Where in the flattened data each index points: the index on its axis, itself elsewhere."""
    stride = math.prod(dims[axis + 1 :])
    elsewhere: Any = np.zeros((), np.int64)
    for d in range(len(dims)):
        if d != axis:
            after = (1,) * (len(dims) - d - 1)
            places = np.arange(indices.shape[d]).reshape(-1, *after)
            elsewhere = elsewhere + places * math.prod(dims[d + 1 :])
    along = _from_front(ctx, ctx.cast(indices, "int64"), dims[axis]) * stride
    return ctx.xp.reshape(along + ctx.put(np.asarray(elsewhere)), (-1,))


def _row_places(
    ctx: Any, dims: tuple[int, ...], indices: Array, batch: int
) -> tuple[Array, int, tuple[int, ...]]:
    """Which row each tuple of indices names, how many rows there are, and what a row's shape is."""
    depth = batch + indices.shape[-1]
    if depth > len(dims):
        raise ValueError(f"indices {list(indices.shape)} go deeper than data {list(dims)}")
    sizes = dims[batch:depth]
    flat = ctx.cast(ctx.xp.reshape(indices, (-1, len(sizes))), "int64")
    count, batches = flat.shape[0], math.prod(dims[:batch])
    own_batch = np.repeat(np.arange(batches), count // max(batches, 1)) * math.prod(sizes)
    places = ctx.put(own_batch if batch else np.zeros(count, np.int64))
    for i, size in enumerate(sizes):
        places = places + _from_front(ctx, flat[:, i], size) * math.prod(sizes[i + 1 :])
    return places, batches * math.prod(sizes), dims[depth:]


REDUCTIONS: dict[str, Callable[[Any, Array, Array], Array]] = {
    "none": lambda xp, old, new: new,
    "add": lambda xp, old, new: old + new,
    "mul": lambda xp, old, new: old * new,
    "max": lambda xp, old, new: xp.maximum(old, new),
    "min": lambda xp, old, new: xp.minimum(old, new),
}


def _scatter(
    ctx: Any, data: Array, rows: int, places: Array, updates: Array, reduction: str
) -> Array:
    """The data with row `places[i]` replaced by, or combined with, row i of the updates, in order.

    Each round applies one update to every row; without a reduction the last one alone counts.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is '{reduction}', not one of {', '.join(REDUCTIONS)}")
    if not math.prod(updates.shape):
        return data
    xp, dims = ctx.xp, tuple(data.shape)
    data, updates = xp.reshape(data, (rows, -1)), xp.reshape(updates, (places.shape[0], -1))
    order = xp.argsort(places, stable=True)
    ranked, all_rows = xp.take(places, order, axis=0), ctx.put(np.arange(rows))
    begin = xp.searchsorted(ranked, all_rows, side="left")
    end = xp.searchsorted(ranked, all_rows, side="right")
    rounds = 1 if reduction == "none" else int(xp.max(end - begin))
    for i in range(rounds):
        at = end - 1 if reduction == "none" else begin + i
        named = (at >= begin) & (at < end)
        new = xp.take(updates, xp.take(order, xp.where(named, at, 0), axis=0), axis=0)
        data = xp.where(named[:, None], REDUCTIONS[reduction](xp, data, new), data)
    return xp.reshape(data, dims)
