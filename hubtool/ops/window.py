"""Windows that slide over the spatial axes: convolutions and pools of any rank.

`Window` is the geometry alone, worked out once by `resolve_window` for every backend: where the
windows start, how the input must be padded, how many windows there are. The operators follow from
it. A pool folds one axis after the other, since a box is the product of its sides (3 + 3 steps for
3x3, not 9). A convolution lays the elements under every tap of the kernel side by side as columns,
so that one matrix product does the work, for all images and groups at once:

    X [N, C, D1, …]  ──taps──▶  [N, group, C/group · taps, windows]
    W [M, C/group, k1, …]  ──▶  [group, M/group, C/group · taps]

A transposed convolution is the plain one over an input spread out with zeros, the kernel turned
round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

from hubtool.dtypes import numpy_dtype
from hubtool.ops import REQUIRED, op
from hubtool.ops.elementwise import lowest
from hubtool.ops.shape import guard_size, pad_axis

__all__ = ["Window", "conv", "max_pool", "resolve_transposed", "resolve_window", "sum_under"]

Array = Any
Ints = Sequence[int]

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True)
class Window:
    """A window and where it goes; every field holds one number a spatial axis.

    size: of the input. begins, ends: the padding. output: how many windows there are.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """The elements from the first to the last under the window, dilation counted."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def overhang(self) -> tuple[int, ...]:
        """How far the last window reaches past the padded end, as it may under ceil_mode."""
        return tuple(
            max((n - 1) * s + reach - (begin + size + end), 0)
            for n, s, reach, begin, size, end in zip(
                self.output,
                self.strides,
                self.reach,
                self.begins,
                self.size,
                self.ends,
                strict=True,
            )
        )

    def taps(self, axis: int) -> list[slice]:
        """For each place along one axis of the kernel, what it sees of the padded input."""
        s, d, last = self.strides[axis], self.dilations[axis], self.output[axis] - 1
        return [slice(k * d, k * d + last * s + 1, s) for k in range(self.kernel[axis])]

    def counts(self, axis: int, include_pad: bool) -> np.ndarray[Any, Any]:
        """How many elements each window holds along one axis; past the padding nothing counts."""
        low = -self.begins[axis] if include_pad else 0
        high = self.size[axis] + (self.ends[axis] if include_pad else 0)
        starts = np.arange(self.output[axis])[:, None] * self.strides[axis] - self.begins[axis]
        places = starts + np.arange(self.kernel[axis]) * self.dilations[axis]
        counts: np.ndarray[Any, Any] = ((places >= low) & (places < high)).sum(axis=1)
        return counts


def resolve_window(
    size: Ints,
    kernel: Ints,
    *,
    strides: Ints | None = None,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
) -> Window:
    """The geometry of Conv and the pools, from their attributes as ONNX defines them.

    Under ceil_mode a last window that hangs over the end counts, if it starts inside the input or
    the padding before it. Raises ValueError where the attributes do not fit the spatial rank, or
    the window is greater than what it should slide over.
    """
    strides, dilations, pads = _checked(len(size), kernel, strides, dilations, pads, auto_pad)
    begins, ends, output = [], [], []
    for n, k, s, d, begin, end in zip(
        size, kernel, strides, dilations, *_halves(pads), strict=True
    ):
        reach = d * (k - 1) + 1
        if auto_pad.startswith("SAME"):
            needed = max((-(-n // s) - 1) * s + reach - n, 0)
            begin, end = _shared(needed, auto_pad == "SAME_LOWER")
        room = n + begin + end - reach
        count = room // s + 1
        if ceil_mode and not auto_pad.startswith("SAME"):
            count = -(-room // s) + 1
            count -= (count - 1) * s >= n + begin
        if room < 0:
            raise ValueError(f"a window of {reach} does not fit into {n} padded by {begin}+{end}")
        begins.append(begin)
        ends.append(end)
        output.append(count)
    return Window(
        tuple(size), tuple(kernel), strides, dilations, tuple(begins), tuple(ends), tuple(output)
    )


def resolve_transposed(
    size: Ints,
    kernel: Ints,
    *,
    strides: Ints | None = None,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    auto_pad: str = "NOTSET",
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
) -> Window:
    """The geometry of ConvTranspose: the window that slides over its *output*.

    So `size` of the result is the operator's output, `output` its input, and begins and ends are
    what is cut off the full result (negative: what is added to it).
    """
    rank = len(size)
    strides, dilations, pads = _checked(rank, kernel, strides, dilations, pads, auto_pad)
    extra = output_padding or (0,) * rank
    asked: Sequence[int | None] = output_shape or (None,) * rank
    begins, ends, output = [], [], []
    for n, k, s, d, begin, end, more, wanted in zip(
        size, kernel, strides, dilations, *_halves(pads), extra, asked, strict=True
    ):
        full = s * (n - 1) + more + d * (k - 1) + 1
        if wanted is None and auto_pad.startswith("SAME"):
            wanted = n * s
        if wanted is not None:
            begin, end = _shared(full - wanted, auto_pad != "SAME_UPPER")
        begins.append(begin)
        ends.append(end)
        output.append(full - begin - end)
    if min(output) < 1:
        raise ValueError(f"pads {list(pads)} leave nothing of the output")
    return Window(
        tuple(output), tuple(kernel), strides, dilations, tuple(begins), tuple(ends), tuple(size)
    )


def _checked(
    rank: int,
    kernel: Ints,
    strides: Ints | None,
    dilations: Ints | None,
    pads: Ints | None,
    auto_pad: str,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """strides, dilations and pads with their defaults, or every reason why they cannot be."""
    strides, dilations = tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank)
    pads = tuple(pads or (0,) * (2 * rank)) if auto_pad == "NOTSET" else (0,) * (2 * rank)
    problems = [
        f"{name} {list(given)} should be {wanted} numbers of at least {least}"
        for name, given, wanted, least in (
            ("kernel_shape", kernel, rank, 1),
            ("strides", strides, rank, 1),
            ("dilations", dilations, rank, 1),
            ("pads", pads, 2 * rank, 0),
        )
        if len(given) != wanted or min(given, default=least) < least
    ]
    if auto_pad not in AUTO_PADS:
        problems.append(f"auto_pad is '{auto_pad}', not one of {', '.join(AUTO_PADS)}")
    if problems:
        raise ValueError("; ".join(problems))
    return strides, dilations, pads


def _halves(pads: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """ONNX's order: all begins, then all ends."""
    return pads[: len(pads) // 2], pads[len(pads) // 2 :]


def _shared(total: int, greater_first: bool) -> tuple[int, int]:
    """Padding shared between both ends; an odd one makes one end greater, a negative one the last
    (what an output_shape asks beyond the full result stands at the end, as in ONNX Runtime)."""
    small = max(total, 0) // 2
    return (total - small, small) if greater_first and total > 0 else (small, total - small)


def _cut(axis: int, tap: slice) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, tap, ...)


def _fold_under(
    ctx: Any, X: Array, window: Window, border: float, combine: Callable[[Array, Array], Array]
) -> Array:
    """The elements under each window, combined one spatial axis after the other."""
    overhang = window.overhang
    for i in reversed(range(len(window.kernel))):
        axis = i + 2
        padded = pad_axis(ctx, X, axis, window.begins[i], window.ends[i] + overhang[i], border)
        X = reduce(combine, [padded[_cut(axis, tap)] for tap in window.taps(i)])
    return X


def sum_under(ctx: Any, X: Array, window: Window) -> Array:
    """The sum under each window."""
    return _fold_under(ctx, X, window, 0, lambda a, b: a + b)


@op("AveragePool")
def average_pool(
    ctx: Any,
    X: Array,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints = REQUIRED,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    window = resolve_window(
        X.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    counts = [window.counts(i, bool(count_include_pad)) for i in range(len(window.kernel))]
    divisor = reduce(np.multiply.outer, counts).astype(numpy_dtype(ctx.dtype(X)))
    return sum_under(ctx, X, window) / ctx.put(divisor)


@op("LpPool")
def lp_pool(
    ctx: Any,
    X: Array,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints = REQUIRED,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    window = resolve_window(
        X.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    total = sum_under(ctx, ctx.xp.pow(ctx.xp.abs(X), p), window)
    return ctx.xp.pow(total, 1 / p)


@op("MaxPool", returns=("X", "int64"))
def max_pool(
    ctx: Any,
    X: Array,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints = REQUIRED,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
) -> tuple[Array, Array]:
    window = resolve_window(
        X.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    if any(ctx.wanted[1:]):
        return _max_with_indices(ctx, X, window, bool(storage_order))
    return _fold_under(ctx, X, window, lowest(ctx, X), ctx.xp.maximum), None


def _max_with_indices(
    ctx: Any, X: Array, window: Window, column_major: bool
) -> tuple[Array, Array]:
    """The maxima, and where in the flattened X the first of each stands; padding is never it."""
    xp, dims, overhang = ctx.xp, tuple(X.shape), window.overhang
    places = np.arange(math.prod(dims[2:])).reshape(dims[2:], order="F" if column_major else "C")
    at = ctx.put(np.ascontiguousarray(places.reshape(1, 1, *dims[2:])))
    for i in reversed(range(len(window.kernel))):
        axis, begin, end = i + 2, window.begins[i], window.ends[i] + overhang[i]
        values = pad_axis(ctx, X, axis, begin, end, lowest(ctx, X))
        origins = pad_axis(ctx, at, axis, begin, end, -1)
        first, *others = (_cut(axis, tap) for tap in window.taps(i))
        X, at = values[first], origins[first]
        for tap in others:
            better = (values[tap] > X) | (at < 0)
            X, at = xp.where(better, values[tap], X), xp.where(better, origins[tap], at)
    planes = np.arange(dims[0] * dims[1]) * math.prod(dims[2:])
    return X, at + ctx.put(planes.reshape(*dims[:2], *(1,) * (len(dims) - 2)))


GLOBAL: dict[str, Callable[[Any, Array, tuple[int, ...]], Array]] = {
    "GlobalAveragePool": lambda ctx, X, axes: ctx.xp.mean(X, axis=axes, keepdims=True),
    "GlobalMaxPool": lambda ctx, X, axes: ctx.xp.max(X, axis=axes, keepdims=True),
}


def _register_global(name: str, fold: Callable[[Any, Array, tuple[int, ...]], Array]) -> None:
    @op(name)
    def global_pool(ctx: Any, X: Array) -> Array:
        return fold(ctx, X, tuple(range(2, X.ndim)))


for _name, _fold in GLOBAL.items():
    _register_global(_name, _fold)


@op("GlobalLpPool")
def global_lp_pool(ctx: Any, X: Array, *, p: int = 2) -> Array:
    powers = ctx.xp.pow(ctx.xp.abs(X), p)
    return ctx.xp.pow(ctx.xp.sum(powers, axis=tuple(range(2, X.ndim)), keepdims=True), 1 / p)


@op("Conv")
def conv(
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
    _check_channels(X, W.shape[1] * group, W.shape[0], W, group, kernel_shape)
    window = resolve_window(
        X.shape[2:],
        W.shape[2:],
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
    )
    for i, (begin, end) in enumerate(zip(window.begins, window.ends, strict=True)):
        X = pad_axis(ctx, X, i + 2, begin, end)
    return _with_bias(ctx, _correlate(ctx, X, W, group, window), B)


@op("ConvTranspose")
def conv_transpose(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    xp, (C, share, *kernel) = ctx.xp, W.shape
    _check_channels(X, C, C, W, group, kernel_shape)
    window = resolve_transposed(
        X.shape[2:],
        kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        output_padding=output_padding,
        output_shape=output_shape,
    )
    for i, reach in enumerate(window.reach):
        X = _spread(ctx, X, i + 2, window.strides[i])
        front = reach - 1 - window.begins[i]
        back = window.size[i] + reach - 1 - front - X.shape[i + 2]
        X = pad_axis(ctx, X, i + 2, front, back)
    turned = xp.reshape(W, (group, C // group, share, *kernel))
    turned = xp.permute_dims(turned, (0, 2, 1, *range(3, W.ndim + 1)))
    turned = xp.flip(turned, axis=tuple(range(3, W.ndim + 1)))
    turned = xp.reshape(turned, (group * share, C // group, *kernel))
    plain = resolve_window(X.shape[2:], kernel, dilations=dilations)
    return _with_bias(ctx, _correlate(ctx, X, turned, group, plain), B)


def _check_channels(
    X: Array, C: int, split: int, W: Array, group: int, kernel_shape: Ints | None
) -> None:
    problems = []
    if X.shape[1] != C:
        problems.append(f"X has {X.shape[1]} channels, W {list(W.shape)} takes {C}")
    if group < 1 or split % group:
        problems.append(f"{split} channels cannot be split into {group} groups")
    if kernel_shape is not None and tuple(kernel_shape) != tuple(W.shape[2:]):
        problems.append(f"kernel_shape is {list(kernel_shape)}, that of W {list(W.shape[2:])}")
    if problems:
        raise ValueError("; ".join(problems))


def _all_taps(window: Window) -> Iterator[tuple[slice, ...]]:
    """What each place of the kernel sees of the padded input, last axis fastest."""
    for taps in product(*(window.taps(i) for i in range(len(window.kernel)))):
        yield (slice(None), slice(None), *taps)


def _correlate(ctx: Any, X: Array, W: Array, group: int, window: Window) -> Array:
    """Every window over a padded X times the kernels W, as one matrix product."""
    xp, (N, C), M = ctx.xp, X.shape[:2], W.shape[0]
    depth, count = C // group * math.prod(window.kernel), math.prod(window.output)
    guard_size((N, group, depth, count), ctx.dtype(X))
    seen = [X[tap] for tap in _all_taps(window)]
    columns = seen[0] if len(seen) == 1 else xp.stack(seen, axis=2)
    columns = xp.reshape(columns, (N, group, depth, count))
    kernels = xp.reshape(W, (group, M // group, depth))
    return xp.reshape(xp.matmul(kernels, columns), (N, M, *window.output))


def _with_bias(ctx: Any, Y: Array, B: Array) -> Array:
    return Y if B is None else Y + ctx.xp.reshape(B, (-1, *(1,) * (Y.ndim - 2)))


def _spread(ctx: Any, X: Array, axis: int, stride: int) -> Array:
    """X with stride - 1 zeros between its elements along the axis."""
    if stride == 1:
        return X
    shape = tuple(X.shape)
    apart = pad_axis(ctx, ctx.xp.expand_dims(X, axis=axis + 1), axis + 1, 0, stride - 1)
    apart = ctx.xp.reshape(apart, (*shape[:axis], shape[axis] * stride, *shape[axis + 1 :]))
    return pad_axis(ctx, apart, axis, 0, 1 - stride)
