"""Windows whose places or values are computed: regions of interest, and the way back from windows.

Regions are few numbers, so the host works out where they read. Averages of linearly interpolated
points are a product of two small matrices, one for each side of the picture, and all regions of
one picture are two products of greater ones:

    Y [oh, C, ow] = rows [oh, H] · X [H, C, W] · columns [W, ow]

A maximum takes the rows and columns that its bins name, region by region. DeformConv has its
places on the device and reads them by `sample`; what it reads are the columns of Conv's matrix
product. Col2Im adds up such columns, one axis after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hubtool.dtypes import numpy_dtype
from hubtool.ops import REQUIRED, op
from hubtool.ops.index import scatter_elements
from hubtool.ops.resize import between, check_choice, sample, taps_at
from hubtool.ops.shape import guard_size, pad_axis
from hubtool.ops.window import Window, max_pool, resolve_window

__all__: list[str] = []

Array = Any
Host = np.ndarray[Any, Any]
Ints = Sequence[int]

AT_ONCE = 1 << 24
"""How many elements may stand between the two products of the regions that are done together."""


def _check_regions(X: Array, rois: Host, columns: int, images: Host) -> None:
    """Refuse regions that are no finite numbers, or in no image."""
    problems = []
    if X.ndim != 4:
        problems.append(f"X {list(X.shape)} should have 4 axes")
    if rois.shape != (len(images), columns):
        problems.append(f"rois {list(rois.shape)} should be [{len(images)}, {columns}]")
    if not np.isfinite(rois).all():
        problems.append("rois are not all finite")
    wrong = [int(image) for image in images if not 0 <= image < X.shape[0]]
    if wrong:
        problems.append(f"rois are in the images {wrong[:9]}, of {X.shape[0]}")
    if problems:
        raise ValueError("; ".join(problems))


def _products(ctx: Any, X: Array, images: Host, rows: Host, columns: Host) -> Array:
    """Each region's rows [R, oh, H] times its image times its columns [R, ow, W]."""
    xp, (C, H, W) = ctx.xp, X.shape[1:]
    R, oh, ow = len(images), rows.shape[1], columns.shape[1]
    guard_size((R, C, oh, ow), ctx.dtype(X))
    dtype, step = numpy_dtype(ctx.dtype(X)), max(AT_ONCE // max(oh * C * W, 1), 1)
    made = [ctx.put(np.zeros((0, oh * C, ow), dtype))]
    for image in np.unique(images):
        plane = xp.reshape(xp.permute_dims(X[int(image), ...], (1, 0, 2)), (H, C * W))
        members = np.flatnonzero(images == image)
        for some in (members[i : i + step] for i in range(0, len(members), step)):
            left = xp.matmul(ctx.put(rows[some].reshape(-1, H).astype(dtype)), plane)
            right = columns[some].transpose(0, 2, 1).astype(dtype)
            made.append(xp.matmul(xp.reshape(left, (len(some), oh * C, W)), ctx.put(right)))
    place = np.argsort(np.argsort(images, kind="stable"))
    Y = xp.take(xp.concat(made, axis=0), ctx.put(place), axis=0)
    return xp.permute_dims(xp.reshape(Y, (R, oh, C, ow)), (0, 2, 1, 3))


def _around(places: Host, size: int) -> tuple[Host, Host]:
    """For places [bins, points] the two elements around each, and their weights: both
    [bins, 2 points]. Up to one element beyond the border it is the border's; then it is zero."""
    inside = (places >= -1) & (places <= size)
    places = places.clip(0, size - 1)
    low = np.floor(places).astype(np.int64)
    share = places - low
    at = np.concatenate([low, np.minimum(low + 1, size - 1)], axis=1)
    return at, np.concatenate([(1 - share) * inside, share * inside], axis=1)


def _means(side: Iterable[Host], bins: int, size: int) -> Host:
    """For each region the weights [bins, size] that average the points [bins, points]."""
    matrices = [np.zeros((0, bins, size))]
    for places in side:
        at, weights = _around(places, size)
        flat = (np.arange(bins)[:, None] * size + at).reshape(-1)
        total = np.bincount(flat, weights.reshape(-1), bins * size)
        matrices.append(total.reshape(1, bins, size) / max(places.shape[1], 1))
    return np.concatenate(matrices)


def _shape_of_roi_align(ctx: Any, X: Array, rois: Array, *_: Any, **attrs: Any) -> Array:
    size = attrs["output_height"], attrs["output_width"]
    return ctx.empty((rois.shape[0], X.shape[1], *size), ctx.dtype(X))


@op("RoiAlign", host=("rois", "batch_indices"), shape=_shape_of_roi_align)
def roi_align(
    ctx: Any,
    X: Array,
    rois: Array,
    batch_indices: Array,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Array:
    """The average or maximum of the points of each bin. For the maximum a point is not one number:
    each of the four elements around it counts by itself, times its weight, as ONNX has it."""
    check_choice("mode", mode, ("avg", "max"))
    choices = ("half_pixel", "output_half_pixel")
    check_choice("coordinate_transformation_mode", coordinate_transformation_mode, choices)
    images, bins = batch_indices.astype(np.int64), (output_height, output_width)
    _check_regions(X, rois, 4, images)
    half = coordinate_transformation_mode == "half_pixel"
    sides: tuple[list[Host], list[Host]] = ([], [])
    for x1, y1, x2, y2 in (rois.astype(np.float64) * spatial_scale).tolist():
        for side, begin, end, count in zip(sides, (y1, x1), (y2, x2), bins, strict=True):
            extent = end - begin if half else max(end - begin, 1.0)
            side.append(_points(begin - half / 2, extent, count, sampling_ratio))
    if mode == "avg":
        rows, columns = map(_means, sides, bins, X.shape[2:])
        return _products(ctx, X, images, rows, columns)
    made = [ctx.put(np.zeros((0, X.shape[1], *bins), numpy_dtype(ctx.dtype(X))))]
    for image, ys, xs in zip(images.tolist(), *sides, strict=True):
        made.append(_greatest_point(ctx, X[image, ...], ys, xs))
    return ctx.xp.concat(made, axis=0)


def _points(begin: float, extent: float, bins: int, ratio: int) -> Host:
    """The places [bins, points] along one side; no points where a region is turned round."""
    count = ratio if ratio > 0 else max(math.ceil(extent / bins), 0)
    guard_size((8, bins, count), "float64")
    within = np.arange(bins)[:, None] + (np.arange(count) + 0.5) / max(count, 1)
    return begin + within * (extent / bins)


def _greatest_point(ctx: Any, plane: Array, ys: Host, xs: Host) -> Array:
    """The maximum of each bin in one picture [C, H, W]: [1, C, oh, ow]."""
    xp, (C, H, W), (oh, ow) = ctx.xp, plane.shape, (len(ys), len(xs))
    dtype = numpy_dtype(ctx.dtype(plane))
    if not ys.size or not xs.size:
        return ctx.put(np.zeros((1, C, oh, ow), dtype))
    (rows, down), (columns, across) = _around(ys, H), _around(xs, W)
    guard_size((C, rows.size, columns.size), ctx.dtype(plane))
    seen = _crossed(ctx, plane, rows, columns)
    weights = (down[:, :, None, None] * across).astype(dtype)
    return xp.max(seen * ctx.put(weights), axis=(3, 5))


def _crossed(ctx: Any, plane: Array, rows: Host, columns: Host) -> Array:
    """The elements of [C, H, W] where rows [oh, m] meet columns [ow, n]: [1, C, oh, m, ow, n]."""
    taken = ctx.xp.take(plane, ctx.put(rows.reshape(-1)), axis=1)
    taken = ctx.xp.take(taken, ctx.put(columns.reshape(-1)), axis=2)
    return ctx.xp.reshape(taken, (1, plane.shape[0], *rows.shape, *columns.shape))


def _shape_of_max_roi_pool(ctx: Any, X: Array, rois: Array, **attrs: Any) -> Array:
    return ctx.empty((rois.shape[0], X.shape[1], *attrs["pooled_shape"]), ctx.dtype(X))


@op("MaxRoiPool", host=("rois",), shape=_shape_of_max_roi_pool)
def max_roi_pool(
    ctx: Any, X: Array, rois: Array, *, pooled_shape: Ints = REQUIRED, spatial_scale: float = 1.0
) -> Array:
    """The maximum of each bin of whole elements; bins may overlap, and an empty one is 0."""
    images, dims = rois[:, 0].astype(np.int64), X.shape[2:]
    _check_regions(X, rois, 5, images)
    made = [ctx.put(np.zeros((0, X.shape[1], *pooled_shape), numpy_dtype(ctx.dtype(X))))]
    scaled = rois[:, 1:].astype(np.float64) * spatial_scale
    corners = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)  # halves go away from zero
    for image, (x1, y1, x2, y2) in zip(images.tolist(), corners.tolist(), strict=True):
        lines = ((y1, y2), (x1, x2))
        (rows, high), (columns, wide) = map(_bins, lines, pooled_shape, dims)
        seen = ctx.xp.max(_crossed(ctx, X[image, ...], rows, columns), axis=(3, 5))
        made.append(ctx.xp.where(ctx.put(high[:, None] & wide), seen, 0.0))
    return ctx.xp.concat(made, axis=0)


def _bins(line: tuple[float, float], bins: int, size: int) -> tuple[Host, Host]:
    """What each bin from the first to the last element holds, [bins, the most that one holds] with
    its last element repeated, and whether it holds any."""
    first, last = int(line[0]), int(line[1])
    extent = max(last - first + 1, 1)
    begins = [min(max(first + b * extent // bins, 0), size) for b in range(bins)]
    ends = [min(max(first - -(b + 1) * extent // bins, 0), size) for b in range(bins)]
    begin, end = np.asarray(begins)[:, None], np.asarray(ends)[:, None]
    steps = np.arange(max(int((end - begin).max(initial=1)), 1))
    return np.minimum(begin + steps, end - 1).clip(0, size - 1), (begin < end)[:, 0]


def _shape_of_crops(
    ctx: Any, X: Array, rois: Array, batch_indices: Array, crop_size: Array, **_: Any
) -> Array:
    size = (int(side) for side in ctx.host(crop_size))
    return ctx.empty((rois.shape[0], X.shape[1], *size), ctx.dtype(X))


@op(
    "com.microsoft.CropAndResize",
    host=("rois", "batch_indices", "crop_size"),
    shape=_shape_of_crops,
)
def crop_and_resize(
    ctx: Any,
    X: Array,
    rois: Array,
    batch_indices: Array,
    crop_size: Array,
    *,
    extrapolation_value: float = 0.0,
    mode: str = "bilinear",
) -> Array:
    """Resize of regions [y1, x1, y2, x2], from 0 to 1 between the middles of the corners."""
    check_choice("mode", mode, ("bilinear", "nearest"))
    images, sides = batch_indices.astype(np.int64), [int(side) for side in crop_size]
    _check_regions(X, rois, 4, images)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"crop_size is {sides}, not a height and a width greater than 0")
    weights, beyond = [], []
    for axis, (count, size) in enumerate(zip(sides, X.shape[2:], strict=True)):
        line = between(rois[:, axis], rois[:, axis + 2], count)
        places = np.stack(line, axis=1) * (size - 1)
        beyond.append((places < 0) | (places > size - 1))
        places = np.floor(places + 0.5) if mode == "nearest" else places
        weights.append(_means(places[:, :, None].astype(np.float64), count, size))
    outside = beyond[0][:, None, :, None] | beyond[1][:, None, None, :]
    Y = _products(ctx, X, images, *weights)
    return ctx.xp.where(ctx.put(outside), extrapolation_value, Y)


@op("com.microsoft.MaxpoolWithMask")
def maxpool_with_mask(
    ctx: Any,
    X: Array,
    M: Array,
    *,
    auto_pad: str = "NOTSET",
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
) -> Array:
    """MaxPool whose window ends, along the last axis, at the first zero of the mask; the first
    element of a plane never ends one. The planes of M, if fewer, serve those of X in turn."""
    if kernel_shape is None:
        raise ValueError("kernel_shape is missing")
    xp, dims, rank = ctx.xp, tuple(X.shape), X.ndim - 2
    window = resolve_window(dims[2:], kernel_shape, strides=strides, pads=pads, auto_pad=auto_pad)
    planes = math.prod(M.shape[:2])
    if tuple(M.shape[2:]) != dims[2:] or not planes:
        raise ValueError(f"M {list(M.shape)} does not fit X {list(dims)}")
    turn = ctx.put(np.arange(dims[0] * dims[1]) % planes)
    masks = xp.take(xp.reshape(M, (planes, *dims[2:])), turn, axis=0)
    goes_on = (xp.reshape(masks, dims) != 0) | ctx.put(_first_of(dims[2:]))
    lines = _maximum_until(ctx, X, goes_on, window)
    outer = {"kernel_shape": window.kernel, "strides": window.strides}
    outer = {name: (*numbers[:-1], 1) for name, numbers in outer.items()}
    pads = (*window.begins[:-1], 0, *window.ends[:-1], 0)
    return max_pool(ctx, lines, pads=pads, **outer)[0] if rank > 1 else lines


def _first_of(dims: Ints) -> Host:
    """True for the first element, which ends no window but in a plane of one axis."""
    first = np.zeros(dims, bool)
    first[(0,) * len(dims)] = len(dims) > 1
    return first


def _maximum_until(ctx: Any, X: Array, goes_on: Array, window: Window) -> Array:
    """The maximum along the last axis under each window, which ends where it does not go on."""
    xp, axis, lowest = ctx.xp, X.ndim - 1, float(np.finfo(np.float32).min)
    X = pad_axis(ctx, X, axis, window.begins[-1], window.ends[-1], lowest)
    goes_on = pad_axis(ctx, goes_on, axis, window.begins[-1], window.ends[-1], True)
    first, *others = ((..., tap) for tap in window.taps(axis - 2))
    open_, best = goes_on[first], xp.where(goes_on[first] & (X[first] > lowest), X[first], lowest)
    for tap in others:
        open_ = open_ & goes_on[tap]
        best = xp.where(open_ & (X[tap] > best), X[tap], best)
    return best


def _unpooled(X: Array, kernel_shape: Ints, pads: Ints | None, strides: Ints | None) -> list[int]:
    """The least shape of which a pool would make the shape of X."""
    rank = X.ndim - 2
    pads, strides = pads or [0] * (2 * rank), strides or [1] * rank
    if not len(kernel_shape) == len(strides) == len(pads) // 2 == rank:
        raise ValueError(f"kernel_shape, strides and pads do not fit the {rank} axes of a picture")
    return [*X.shape[:2]] + [
        (d - 1) * s + k - begin - end
        for d, s, k, begin, end in zip(
            X.shape[2:], strides, kernel_shape, pads[:rank], pads[rank:], strict=True
        )
    ]


def _shape_of_max_unpool(
    ctx: Any, X: Array, places: Array, output_shape: Array = None, **attrs: Any
) -> Array:
    least = _unpooled(X, attrs["kernel_shape"], attrs.get("pads"), attrs.get("strides"))
    shape = least if output_shape is None else [int(d) for d in ctx.host(output_shape)]
    return ctx.empty(shape, ctx.dtype(X))


@op("MaxUnpool", host=("output_shape",), shape=_shape_of_max_unpool)
def max_unpool(
    ctx: Any,
    X: Array,
    I: Array,  # noqa: E741
    output_shape: Array = None,
    *,
    kernel_shape: Ints = REQUIRED,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Each element back at its place I in the shape that MaxPool's attributes tell; a greater
    output_shape adds zeros at the ends and does not move the places, as ONNX's case has it."""
    xp, least = ctx.xp, _unpooled(X, kernel_shape, pads, strides)
    guard_size(least, ctx.dtype(X))
    nothing = ctx.put(np.zeros(math.prod(least), numpy_dtype(ctx.dtype(X))))
    flat = (xp.reshape(I, (-1,)), xp.reshape(X, (-1,)))
    output = xp.reshape(scatter_elements(ctx, nothing, *flat), tuple(least))
    wanted = least if output_shape is None else [int(d) for d in output_shape]
    if len(wanted) != X.ndim or min(wanted) < 0:
        raise ValueError(f"output_shape {wanted} is no shape for X {list(X.shape)}")
    for axis, (have, want) in enumerate(zip(least, wanted, strict=True)):
        output = pad_axis(ctx, output, axis, 0, want - have)
    return output


@op("Col2Im", host=("image_shape", "block_shape"))
def col2im(
    ctx: Any,
    input: Array,
    image_shape: Array,
    block_shape: Array,
    *,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """The sum of all blocks, each where it was taken from: what im2col made, taken back."""
    image, block = [int(d) for d in image_shape], [int(d) for d in block_shape]
    window = resolve_window(image, block, strides=strides, dilations=dilations, pads=pads)
    N, depth, L = input.shape
    if depth % math.prod(block) or math.prod(window.output) != L:
        raise ValueError(
            f"input {list(input.shape)} does not hold {list(window.output)} blocks {block}"
        )
    xp, C, rank = ctx.xp, depth // math.prod(block), len(image)
    Y = xp.reshape(input, (N, C, *block, *window.output))
    for i in reversed(range(rank)):
        Y = _folded(ctx, Y, 2 + i, 2 + 2 * i, window, i)
    return Y


def _folded(ctx: Any, Y: Array, tap_axis: int, axis: int, window: Window, i: int) -> Array:
    """The taps, an axis of their own, added up along the axis of the windows, which becomes that
    of the picture: an element takes from each tap the window that has it there, or a zero."""
    steps = np.arange(window.size[i]) + window.begins[i]
    count, total = window.output[i], None
    for tap in range(window.kernel[i]):
        at, rest = np.divmod(steps - tap * window.dilations[i], window.strides[i])
        at = np.where((rest == 0) & (at >= 0) & (at < count), at, count)
        part = pad_axis(ctx, Y[(*(slice(None),) * tap_axis, tap, ...)], axis, 0, 1)
        part = ctx.xp.take(part, ctx.put(at), axis=axis)
        total = part if total is None else total + part
    return total


@op("DeformConv")
def deform_conv(
    ctx: Any,
    X: Array,
    W: Array,
    offset: Array,
    B: Array = None,
    mask: Array = None,
    *,
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    offset_group: int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Conv whose every tap is moved by an offset and, with a mask, weighted (Dai et al. 2017;
    Zhu et al. 2019). The offsets of a tap are one for each axis, the first axis first."""
    xp, (N, C, *dims), (M, share, *kernel) = ctx.xp, X.shape, W.shape
    window = resolve_window(dims, kernel, strides=strides, dilations=dilations, pads=pads)
    taps, points = math.prod(kernel), math.prod(window.output)
    _check_deform(X, W, offset, mask, group, offset_group, kernel_shape, window)
    moved = xp.reshape(offset, (N * offset_group, taps, len(dims), points))
    axes = []
    for i, (size, k, o) in enumerate(
        zip(dims, np.indices(kernel), np.indices(window.output), strict=True)
    ):
        starts = o.reshape(-1) * window.strides[i] - window.begins[i]
        places = k.reshape(-1, 1) * window.dilations[i] + starts
        still = ctx.put(places.astype(numpy_dtype(ctx.dtype(offset))))
        axes.append(taps_at(ctx, moved[:, :, i, :] + still, size))
    image = ctx.put(np.arange(N * offset_group).reshape(-1, 1, 1))
    split = xp.reshape(X, (N * offset_group, C // offset_group, *dims))
    seen = sample(ctx, split, image, axes)
    if mask is not None:
        seen = seen * xp.reshape(mask, (N * offset_group, taps, points, 1))
    columns = xp.reshape(xp.permute_dims(seen, (0, 3, 1, 2)), (N, group, share * taps, points))
    Y = xp.matmul(xp.reshape(W, (group, M // group, share * taps)), columns)
    Y = xp.reshape(Y, (N, M, *window.output))
    return Y if B is None else Y + xp.reshape(B, (-1, *(1,) * len(dims)))


def _check_deform(
    X: Array,
    W: Array,
    offset: Array,
    mask: Array,
    group: int,
    offset_group: int,
    kernel_shape: Ints | None,
    window: Window,
) -> None:
    N, C, rank = X.shape[0], X.shape[1], X.ndim - 2
    depth = max(offset_group, 0) * math.prod(window.kernel)
    problems = []
    if group < 1 or offset_group < 1 or C % offset_group or W.shape[0] % group:
        problems.append(
            f"{C} and {W.shape[0]} channels cannot be split into {group} groups, {offset_group} "
            "of the offset"
        )
    if W.shape[1] * group != C:
        problems.append(f"X has {C} channels, W {list(W.shape)} takes {W.shape[1] * group}")
    if kernel_shape is not None and tuple(kernel_shape) != window.kernel:
        problems.append(f"kernel_shape is {list(kernel_shape)}, that of W {list(W.shape[2:])}")
    for name, given, wanted in (("offset", offset, depth * rank), ("mask", mask, depth)):
        if given is not None and tuple(given.shape) != (N, wanted, *window.output):
            shape = [N, wanted, *window.output]
            problems.append(f"{name} {list(given.shape)} should be {shape}")
    if problems:
        raise ValueError("; ".join(problems))
