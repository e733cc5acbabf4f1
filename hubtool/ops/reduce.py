"""Operators that fold an axis: the Reduce family, ArgMax and ArgMin, running sums, TopK.

A reduction is three steps, and the table names them: what is done to each element, how the
elements under the axes are folded, what is done to the result:

    ReduceL2 = square | sum | sqrt

`noop_with_empty_axes` leaves out the step in the middle only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hubtool.ops import op
from hubtool.ops.elementwise import as_float, is_integer, lowest, truncated_quotient
from hubtool.ops.shape import axes_of, axis_of, pad_axis

__all__: list[str] = []

Array = Any
Axes = tuple[int, ...]


def _sum(ctx: Any, x: Array, axes: Axes, keepdims: bool) -> Array:
    return ctx.xp.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)


def _prod(ctx: Any, x: Array, axes: Axes, keepdims: bool) -> Array:
    for axis in sorted(axes, reverse=True):
        x = ctx.xp.prod(x, axis=axis, keepdims=keepdims, dtype=x.dtype)
    return x


def _mean(ctx: Any, x: Array, axes: Axes, keepdims: bool) -> Array:
    """The mean; that of integers is rounded toward zero."""
    if not is_integer(ctx, x):
        return ctx.xp.mean(x, axis=axes, keepdims=keepdims)
    count = math.prod(x.shape[axis] for axis in axes)
    return truncated_quotient(ctx, _sum(ctx, x, axes, keepdims), count)


def _max(ctx: Any, x: Array, axes: Axes, keepdims: bool) -> Array:
    """The maximum; over no element at all, the least value of the dtype."""
    if ctx.dtype(x) == "bool":
        return ctx.xp.any(x, axis=axes, keepdims=keepdims)
    for axis in axes:
        if x.shape[axis] == 0:
            x = pad_axis(ctx, x, axis, 0, 1, lowest(ctx, x))
    return ctx.xp.max(x, axis=axes, keepdims=keepdims)


def _min(ctx: Any, x: Array, axes: Axes, keepdims: bool) -> Array:
    """The minimum: the opposite of the maximum of the opposites, whatever the dtype."""
    if ctx.dtype(x) == "bool" or is_integer(ctx, x):
        return ~_max(ctx, ~x, axes, keepdims)
    return -_max(ctx, -x, axes, keepdims)


def _log_sum_exp(ctx: Any, x: Array, axes: Axes, keepdims: bool) -> Array:
    xp = ctx.xp
    top = _max(ctx, x, axes, True)
    top = xp.where(xp.isfinite(top), top, 0.0)
    total = xp.log(xp.sum(xp.exp(x - top), axis=axes, keepdims=True)) + top
    return total if keepdims else xp.squeeze(total, axis=axes)


def _same(ctx: Any, x: Array) -> Array:
    return x


def _square(ctx: Any, x: Array) -> Array:
    return x * x


def _abs(ctx: Any, x: Array) -> Array:
    return ctx.xp.abs(x)


def _log(ctx: Any, x: Array) -> Array:
    return ctx.xp.log(x)


def _sqrt(ctx: Any, x: Array) -> Array:
    return ctx.xp.sqrt(as_float(ctx, x))


Step = Callable[[Any, Array], Array]
Fold = Callable[[Any, Array, Axes, bool], Array]

REDUCTIONS: dict[str, tuple[Step, Fold, Step]] = {
    "ReduceL1": (_abs, _sum, _same),
    "ReduceL2": (_square, _sum, _sqrt),
    "ReduceLogSum": (_same, _sum, _log),
    "ReduceLogSumExp": (_same, _log_sum_exp, _same),
    "ReduceMax": (_same, _max, _same),
    "ReduceMean": (_same, _mean, _same),
    "ReduceMin": (_same, _min, _same),
    "ReduceProd": (_same, _prod, _same),
    "ReduceSum": (_same, _sum, _same),
    "ReduceSumSquare": (_square, _sum, _same),
}


def _register(name: str, before: Step, fold: Fold, after: Step) -> None:
    @op(name, host=("axes",))
    def reduction(
        ctx: Any,
        data: Array,
        axes: Array = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Array:
        named = axes is not None and len(axes) > 0
        data = before(ctx, data)
        if named or not noop_with_empty_axes:
            chosen = axes_of(axes if named else None, data.ndim)
            data = fold(ctx, data, chosen, bool(keepdims))
        return after(ctx, data)


for _name, _steps in REDUCTIONS.items():
    _register(_name, *_steps)


def _register_arg(name: str, function: str) -> None:
    @op(name, returns="int64")
    def arg(
        ctx: Any, data: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
    ) -> Array:
        xp, axis = ctx.xp, axis_of(axis, data.ndim)
        choose = getattr(xp, function)
        if not select_last_index:
            return choose(data, axis=axis, keepdims=bool(keepdims))
        reversed_ = choose(xp.flip(data, axis=axis), axis=axis, keepdims=bool(keepdims))
        return data.shape[axis] - 1 - reversed_


_register_arg("ArgMax", "argmax")
_register_arg("ArgMin", "argmin")


def _register_running(name: str, function: str) -> None:
    @op(name, host=("axis",))
    def running(ctx: Any, x: Array, axis: Array, *, exclusive: int = 0, reverse: int = 0) -> Array:
        xp, along = ctx.xp, axis_of(int(axis.item()), x.ndim)
        x = xp.flip(x, axis=along) if reverse else x
        y = getattr(xp, function)(x, axis=along, dtype=x.dtype, include_initial=bool(exclusive))
        y = pad_axis(ctx, y, along, 0, -1) if exclusive else y
        return xp.flip(y, axis=along) if reverse else y


_register_running("CumSum", "cumulative_sum")
_register_running("CumProd", "cumulative_prod")


@op("TopK", returns=("X", "int64"), host=("K",))
def top_k(
    ctx: Any, X: Array, K: Array, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Array, Array]:
    """The k greatest (or least) elements along the axis, the lower index first among equals."""
    xp, along, k = ctx.xp, axis_of(axis, X.ndim), int(K.item())
    if not 0 <= k <= X.shape[along]:
        raise ValueError(f"K is {k}, not from 0 to {X.shape[along]}, the size of axis {along}")
    order = xp.argsort(X, axis=along, descending=bool(largest), stable=True)
    indices = order[(*(slice(None),) * along, slice(0, k), ...)]
    return xp.take_along_axis(X, indices, axis=along), indices
