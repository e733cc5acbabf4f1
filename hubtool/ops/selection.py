"""Operators that choose: how many elements come out depends on what the elements are.

So their results have no shape before they have run. Where the choice is an input of its own
(Compress's condition) it is read on the host, as all that makes shapes. Unique and
NonMaxSuppression walk in an order that no array library gives, and run in numpy on every backend:

    Unique              elements become ranks first, so that text, numbers and whole rows sort alike
    NonMaxSuppression   take the best box left, drop what overlaps it, and so on: per class the
                        loop runs over the boxes that are kept, not over pairs
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hubtool.ops import op
from hubtool.ops.shape import axis_of

__all__: list[str] = []

Array = Any


@op("NonZero", returns="int64")
def non_zero(ctx: Any, X: Array) -> Array:
    """The indices [rank, N] of what is not zero, row by row; those of a scalar have no rows."""
    xp = ctx.xp
    if X.ndim == 0:
        (found,) = xp.nonzero(xp.reshape(X, (1,)))
        return xp.reshape(found, (1, -1))[:0, :]
    return xp.stack(xp.nonzero(X))


@op("Compress", host=("condition",), moves=True)
def compress(ctx: Any, input: Array, condition: Array, *, axis: int | None = None) -> Array:
    """What the condition names along the axis, or in the flattened input. A condition shorter
    than that leaves the rest out, and what hangs over the end counts for nothing."""
    if condition.ndim != 1:
        raise ValueError(f"condition {list(condition.shape)} must have one dimension")
    if axis is None:
        input, along = ctx.xp.reshape(input, (-1,)), 0
    else:
        along = axis_of(axis, input.ndim)
    places = np.flatnonzero(condition[: input.shape[along]])
    return ctx.xp.take(input, ctx.put(places), axis=along)


@op("Unique", returns=("X", "int64"), on_host=True)
def unique(
    ctx: Any, X: Array, *, axis: int | None = None, sorted: int = 1
) -> tuple[Array, Array, Array, Array]:
    """The different elements, or slices along the axis, in ascending order or as they come.

    With them: where each stands first, which of them each element is, and how often it occurs.
    NaN equals NaN and is greater than all numbers, as in numpy.unique.
    """
    X, along = (X.reshape(-1), 0) if axis is None else (X, axis_of(axis, X.ndim))
    indices, inverse, counts = _distinct(_ranks(X, along))
    if not sorted:
        order = np.argsort(indices)
        indices, inverse, counts = indices[order], np.argsort(order)[inverse], counts[order]
    return np.take(X, indices, axis=along), indices, inverse, counts


def _ranks(X: Array, axis: int) -> Array:
    """The slices along the axis as rows of integers that sort as the elements do."""
    _, ranks = np.unique(X.reshape(-1), return_inverse=True)
    rows = np.moveaxis(ranks.reshape(X.shape), axis, 0)
    return rows.reshape(len(rows), int(np.prod(rows.shape[1:])))


def _distinct(rows: Array) -> tuple[Array, Array, Array]:
    """For the different rows in ascending order: the first of each, the number of each row's own,
    and how many are like it."""
    count, width = rows.shape
    order = np.lexsort(rows.T[::-1]) if width else np.arange(count)
    ranked = rows[order]
    starts = np.ones(count, bool)
    starts[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    inverse = np.empty(count, np.int64)
    inverse[order] = np.cumsum(starts) - 1
    return order[starts], inverse, np.bincount(inverse)


@op("com.microsoft.Unique", returns=("x", "int64"), on_host=True)
def microsoft_unique(ctx: Any, x: Array) -> tuple[Array, Array, Array]:
    """The different elements in the order in which they come, which of them each is, how often."""
    y, _, idx, counts = unique(ctx, x, sorted=0)
    return y, idx, counts


@op("NonMaxSuppression", returns="int64", on_host=True)
def non_max_suppression(
    ctx: Any,
    boxes: Array,
    scores: Array,
    max_output_boxes_per_class: Array = None,
    iou_threshold: Array = None,
    score_threshold: Array = None,
    *,
    center_point_box: int = 0,
) -> Array:
    """(batch, class, box) of the boxes that are kept, by class and there by falling score.

    The lower index comes first among equal scores. Without a number of boxes none is kept.
    """
    limit = _scalar(max_output_boxes_per_class, 0)
    most = float(_scalar(iou_threshold, 0.0))
    _check_boxes(boxes, scores, most)
    corners = _corners(boxes, bool(center_point_box))
    kept = [
        (batch, each, box)
        for batch, of_batch in enumerate(scores)
        for each, of_class in enumerate(of_batch)
        for box in _kept(corners[batch], _candidates(of_class, score_threshold), most, limit)
    ]
    return np.asarray(kept, np.int64).reshape(-1, 3)


def _scalar(value: Array | None, default: float) -> Any:
    return default if value is None else value.reshape(-1)[0]


def _check_boxes(boxes: Array, scores: Array, iou_threshold: float) -> None:
    problems = []
    if boxes.ndim != 3 or boxes.shape[-1:] != (4,):
        problems.append(f"boxes {list(boxes.shape)} should be [batches, boxes, 4]")
    if scores.ndim != 3 or scores.shape[::2] != boxes.shape[:2]:
        problems.append(f"scores {list(scores.shape)} should be [batches, classes, boxes]")
    if not 0 <= iou_threshold <= 1:
        problems.append(f"iou_threshold is {iou_threshold:g}, not from 0 to 1")
    if problems:
        raise ValueError("; ".join(problems))


def _corners(boxes: Array, center_point_box: bool) -> Array:
    """Boxes of any two opposite corners, or of centre and size, as [low, low, high, high]."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if center_point_box:
        first, second = first - second / 2, first + second / 2
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)


def _candidates(scores: Array, threshold: Array | None) -> Array:
    """The boxes whose score is above the threshold, the best one first."""
    order = np.argsort(-scores, stable=True)
    return order if threshold is None else order[scores[order] > _scalar(threshold, 0.0)]


def _kept(corners: Array, candidates: Array, threshold: float, limit: int) -> Iterator[int]:
    """The best candidate, then the best of those that do not overlap it too much, and so on."""
    for _ in range(min(limit, len(candidates))):
        if not len(candidates):
            return
        best, candidates = candidates[0], candidates[1:]
        yield best
        overlap = _intersection_over_union(corners[best], corners[candidates])
        candidates = candidates[~(overlap > np.float32(threshold))]


def _intersection_over_union(box: Array, others: Array) -> Array:
    """How much of their union a box and each other one share; 0 where one of them has no area."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.where((high > low).all(axis=1), (high - low).prod(axis=1), 0)
    area, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(axis=1)
    union = area + areas - shared
    solid = (area > 0) & (areas > 0) & (union > 0)
    return np.divide(shared, union, out=np.zeros_like(shared), where=solid)
