"""Pictures of another size, and pictures read at computed places.

Resize treats one axis after the other. What becomes of an axis is worked out on the host: for each
new element the place x among the old ones, the old elements around it, and their weights, which
fall with the distance t from x (a is `cubic_coeff_a`):

    linear  1 - t                          up to t = 1
    cubic   (a+2)t^3 - (a+3)t^2 + 1        up to t = 1    (Keys 1981, equation 4)
            at^3 - 5at^2 + 8at - 4a        up to t = 2

Against aliasing, the curve is stretched by as much as the picture shrinks. The device then adds up
one `take` for each weight. GridSample has its places on the device: `sample` reads pictures there,
and serves the family `regions` too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

from hubtool.dtypes import is_float, numpy_dtype
from hubtool.ops import op
from hubtool.ops.shape import axes_of, guard_size, pad_axis

__all__ = ["Tap", "between", "check_choice", "sample", "taps_at"]

Array = Any
Host = np.ndarray[Any, Any]
Ints = Sequence[int]


def check_choice(name: str, given: str, choices: Collection[str]) -> None:
    """Refuse an attribute that is none of its choices."""
    if given not in choices:
        raise ValueError(f"{name} is '{given}', not one of {', '.join(choices)}")


def between(begin: Array, end: Array, count: int) -> list[Array]:
    """`count` places from begin to end, both of them exact; a single one is in the middle."""
    shares = [i / (count - 1) for i in range(count)] if count > 1 else [0.5] * count
    return [begin * (1 - share) + end * share for share in shares]


@dataclass(frozen=True)
class Line:
    """One axis of a Resize: `n` elements become `out`.

    scale: as it was asked for; n * scale need not be `out`. exact: whether it is a quotient of
    sizes, and no float32 that was rounded. roi: begin and end of what is cropped, from 0 to 1.
    """

    n: int
    out: int
    scale: Fraction
    exact: bool
    roi: tuple[float, float]

    @property
    def width(self) -> float:
        return float(self.n * self.scale)

    @property
    def squeeze(self) -> float:
        """How much closer the old elements are than the new ones, where the picture shrinks."""
        return min(float(self.scale), 1.0)

    def divided(self, x: Host) -> Host:
        """x / scale; in float32 where the scale is one: 3 / 0.33333334 is to be 9 again."""
        if self.exact:
            return x * self.scale.denominator / self.scale.numerator
        return _single(x.astype(np.float32) / np.float32(float(self.scale)))

    def cropped(self) -> Host:
        """The places of all new elements in the roi, which is float32 too."""
        return _single(np.asarray(between(*self.roi, self.out)) * (self.n - 1))


def _single(x: Host) -> Host:
    return x.astype(np.float32).astype(np.float64)


COORDINATES: dict[str, Callable[[Host, Line], Host]] = {
    "half_pixel": lambda x, line: line.divided(x + 0.5) - 0.5,
    "half_pixel_symmetric": lambda x, line: (line.n - 1) / 2 + line.divided(x + 0.5 - line.out / 2),
    "pytorch_half_pixel": lambda x, line: line.divided(x + 0.5) - 0.5 if line.out > 1 else x * 0,
    "align_corners": lambda x, line: x * (line.n - 1) / (line.width - 1 or 1),
    "asymmetric": lambda x, line: line.divided(x),
    "tf_crop_and_resize": lambda x, line: line.cropped(),
}
"""coordinate_transformation_mode: the places among the old elements of the new ones x."""

NEAREST: dict[str, Callable[[Host], Host]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _cubic(xp: Any, t: Array, a: float) -> Array:
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return xp.where(t < 1, near, xp.where(t < 2, far, 0.0))


CURVES: dict[str, tuple[int, Callable[[Any, Array, float], Array]]] = {
    "linear": (1, lambda xp, t, a: xp.clip(1 - t, 0, 1)),
    "cubic": (2, _cubic),
}
"""mode: how far its weights reach, and the weight at the distance t."""


@op("Resize", host=("roi", "scales", "sizes"))
def resize(
    ctx: Any,
    X: Array,
    roi: Array = None,
    scales: Array = None,
    sizes: Array = None,
    *,
    antialias: int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Array:
    """A size is floor(size * scale) in float32, as ONNX Runtime has it, whatever the roi."""
    check_choice("mode", mode, ("nearest", *CURVES))
    check_choice("coordinate_transformation_mode", coordinate_transformation_mode, COORDINATES)
    check_choice("nearest_mode", nearest_mode, NEAREST)
    crops = coordinate_transformation_mode == "tf_crop_and_resize"
    chosen = axes_of(axes, X.ndim)
    rois = _rois(roi, len(chosen)) if crops else [(0.0, 1.0)] * len(chosen)
    before = [X.shape[axis] for axis in chosen]
    after = _sizes(before, scales, sizes, keep_aspect_ratio_policy)
    lines = {
        axis: Line(n, out, scale, exact, rois[i])
        for i, (axis, n, (out, scale, exact)) in enumerate(zip(chosen, before, after, strict=True))
        if n != out or scale != 1 or rois[i] != (0.0, 1.0)
    }
    guard_size((lines[i].out if i in lines else d for i, d in enumerate(X.shape)), ctx.dtype(X))
    places = {
        axis: COORDINATES[coordinate_transformation_mode](np.arange(float(line.out)), line)
        for axis, line in lines.items()
    }
    # What shrinks most goes first, so that less is left to do.
    order = sorted(lines, key=lambda axis: lines[axis].out / max(lines[axis].n, 1))
    Y = X if mode == "nearest" else _as_float(ctx, X)
    for axis in order:
        x, line = places[axis], lines[axis]
        if mode == "nearest":
            at = np.clip(NEAREST[nearest_mode](x), 0, line.n - 1).astype(np.int64)
            Y = ctx.xp.take(Y, ctx.put(at), axis=axis)
        else:
            squeeze = line.squeeze if antialias else 1.0
            at, weights = _weights(x, line.n, mode, squeeze, cubic_coeff_a, bool(exclude_outside))
            Y = _weighted(ctx, Y, axis, at, weights)
    for axis in order if crops else ():
        beyond = (places[axis] < 0) | (places[axis] > lines[axis].n - 1)
        Y = _replaced(ctx, Y, axis, beyond, extrapolation_value)
    return Y if mode == "nearest" else _as_given(ctx, Y, ctx.dtype(X))


def _rois(roi: Array, count: int) -> list[tuple[float, float]]:
    """Begin and end for each axis."""
    given = [] if roi is None else [float(number) for number in np.reshape(roi, (-1,))]
    if len(given) != 2 * count or not all(map(math.isfinite, given)):
        raise ValueError(f"roi {given} should be {count} begins, then {count} ends")
    return list(zip(given[:count], given[count:], strict=True))


def _sizes(
    before: Ints, scales: Array, sizes: Array, policy: str
) -> list[tuple[int, Fraction, bool]]:
    """For each axis the new size, the scale, and whether that is exact; an empty input is none."""
    check_choice("keep_aspect_ratio_policy", policy, ("stretch", "not_larger", "not_smaller"))
    given = {
        name: np.reshape(numbers, (-1,))
        for name, numbers in (("scales", scales), ("sizes", sizes))
        if numbers is not None and (np.size(numbers) or not before)
    }
    if len(given) != 1:
        raise ValueError(f"either scales or sizes must be given, not {'both' if given else 'none'}")
    ((name, numbers),) = given.items()
    least = "more than 0" if name == "scales" else "0 or more"
    is_sound = np.isfinite(numbers) & ((numbers > 0) | ((numbers == 0) & (name == "sizes")))
    if len(numbers) != len(before) or not is_sound.all():
        raise ValueError(f"{name} {numbers.tolist()} should be {len(before)} numbers of {least}")
    if name == "scales":
        made = [
            (math.floor(np.float32(n) * np.float32(scale)), Fraction(float(scale)), False)
            for n, scale in zip(before, numbers, strict=True)
        ]
    else:
        ratios = [Fraction(int(size), n or 1) for n, size in zip(before, numbers, strict=True)]
        if policy != "stretch":
            ratios = [min(ratios) if policy == "not_larger" else max(ratios)] * len(ratios)
        # Halves go up. An axis without elements can only stay so.
        made = [
            (math.floor(n * ratio + Fraction(1, 2)) if n else ratio.numerator, ratio, True)
            for n, ratio in zip(before, ratios, strict=True)
        ]
    if any(out and not n for n, (out, *_) in zip(before, made, strict=True)):
        raise ValueError(f"an axis without elements cannot become larger ({name})")
    return made


def _weights(
    x: Host, n: int, mode: str, squeeze: float, a: float, exclude_outside: bool
) -> tuple[Host, Host]:
    """Of which old elements each new one is made, and their weights: both [taps, new elements]."""
    reach, curve = CURVES[mode]
    reach = math.ceil(reach / squeeze)
    guard_size((2 * reach, len(x)), "float64")
    at = np.floor(x) + np.arange(1 - reach, reach + 1)[:, None]
    weights = curve(np, np.abs(at - x) * squeeze, a)
    if exclude_outside:
        weights = np.where((at < 0) | (at >= n), 0, weights)
    total = weights.sum(axis=0)
    weights = weights / np.where(total == 0, 1, total)
    used = weights.any(axis=1)
    used[reach - 1] = True  # at least one, though there may be nothing to make
    return np.clip(at[used], 0, n - 1).astype(np.int64), weights[used]


def _weighted(ctx: Any, X: Array, axis: int, at: Host, weights: Host) -> Array:
    """Sums of the elements of X along the axis, each times its weight."""
    shape = (-1, *(1,) * (X.ndim - axis - 1))
    weights = weights.astype(numpy_dtype(ctx.dtype(X)))
    parts = (
        ctx.xp.take(X, ctx.put(places), axis=axis) * ctx.put(weight.reshape(shape))
        for places, weight in zip(at, weights, strict=True)
    )
    return reduce(lambda total, part: total + part, parts)


def _replaced(ctx: Any, Y: Array, axis: int, beyond: Host, value: float) -> Array:
    """The value where a place was beyond the picture."""
    if not beyond.any():
        return Y
    dtype = ctx.dtype(Y)
    filler = np.asarray("" if dtype == "string" else value).astype(numpy_dtype(dtype))
    mask = ctx.put(beyond.reshape((-1, *(1,) * (Y.ndim - axis - 1))))
    return ctx.xp.where(mask, ctx.put(filler), Y)


def _as_float(ctx: Any, X: Array) -> Array:
    """X as numbers that can be weighted."""
    dtype = ctx.dtype(X)
    if dtype == "string":
        raise ValueError("text has no mean: only the mode nearest knows it")
    return X if is_float(dtype) else ctx.cast(X, "float64")


def _as_given(ctx: Any, Y: Array, dtype: str, parts: int = 1) -> Array:
    """Y in the dtype of what was given. Whole numbers stay in its range, are rounded to the nearest
    of so many parts of one, and then cut towards zero."""
    if dtype.startswith(("int", "uint")):
        info = np.iinfo(dtype)
        Y = ctx.xp.round(Y * parts) / parts
        Y = ctx.xp.clip(Y, float(info.min), math.nextafter(info.max + 1.0, 0))
    return ctx.cast(Y, dtype)


@dataclass(frozen=True)
class Tap:
    """What an element read at a computed place takes from one axis: the element at `index`, times
    `weight` (1 where it is None), and zero where it is not `inside` (None: it always is)."""

    index: Array
    weight: Array = None
    inside: Array = None


def sample(ctx: Any, X: Array, image: Array, axes: Sequence[Sequence[Tap]]) -> Array:
    """The pictures X [N, C, D1, ...] at places of any shape: [*places, C].

    image: which of the N each place is in. axes: for each D the taps, the sum of which is read;
    like `image` they only need to broadcast to the places.
    """
    xp, (N, C, *dims) = ctx.xp, X.shape
    rows = xp.reshape(xp.permute_dims(X, (0, *range(2, X.ndim), 1)), (-1, C))
    nothing = N * math.prod(dims)
    if any(tap.inside is not None for taps in axes for tap in taps):
        rows = pad_axis(ctx, rows, 0, 0, 1, "" if ctx.dtype(X) == "string" else 0)
    read = []
    for taps in product(*axes):
        at = image
        for size, tap in zip(dims, taps, strict=True):
            at = at * size + tap.index
        inside = [tap.inside for tap in taps if tap.inside is not None]
        if inside:
            at = xp.where(reduce(xp.logical_and, inside), at, nothing)
        weights = [tap.weight for tap in taps if tap.weight is not None]
        guard_size((*at.shape, C), ctx.dtype(X))
        values = xp.reshape(xp.take(rows, xp.reshape(at, (-1,)), axis=0), (*at.shape, C))
        if weights:
            weight = xp.expand_dims(reduce(lambda a, b: a * b, weights), axis=-1)
            values = values * ctx.cast(weight, ctx.dtype(X))
        read.append(values)
    return reduce(lambda total, values: total + values, read)


def taps_at(
    ctx: Any,
    place: Array,
    size: int,
    mode: str = "linear",
    padding_mode: str = "zeros",
    align_corners: int = 1,
) -> list[Tap]:
    """What is taken from an axis to read it at a place. It is reflected at the middles of the
    outermost elements, or without align_corners at their ends."""
    xp = ctx.xp
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    if mode == "nearest":
        place = xp.round(place)
    if padding_mode == "zeros":
        place = xp.where(xp.isfinite(place), place, -9.0)
    elif padding_mode == "border":
        place = xp.clip(place, -2.0, size + 1.0)  # further out nothing changes
    else:
        place = _reflected(xp, place, low, high)
    if mode == "nearest":
        return [_tap(ctx, place, None, size, padding_mode, low, high)]
    reach, curve = CURVES[mode]
    first = xp.floor(place)
    taps = []
    for step in range(1 - reach, reach + 1):
        weight = curve(xp, xp.abs(first + step - place), -0.75)
        taps.append(_tap(ctx, first + step, weight, size, padding_mode, low, high))
    return taps


def _tap(
    ctx: Any, at: Array, weight: Array, size: int, padding_mode: str, low: float, high: float
) -> Tap:
    """The tap of a whole place, which may be outside."""
    inside = (at >= 0) & (at <= size - 1) if padding_mode == "zeros" else None
    if padding_mode == "reflection":
        at = _reflected(ctx.xp, at, low, high)
    return Tap(ctx.xp.clip(ctx.cast(at, "int64"), 0, size - 1), weight, inside)


def _reflected(xp: Any, place: Array, low: float, high: float) -> Array:
    """A place thrown back at both borders, as often as it takes."""
    span = high - low
    if span <= 0:
        return place * 0 + low
    return high - xp.abs(xp.remainder(place - low, 2 * span) - span)


MICROSOFT_MODES = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}


@op("GridSample")
def grid_sample(
    ctx: Any,
    X: Array,
    grid: Array,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Array:
    """X read at the places of a grid, which counts from -1 to 1, the last axis first."""
    check_choice("mode", mode, ("nearest", *CURVES))
    check_choice("padding_mode", padding_mode, ("zeros", "border", "reflection"))
    xp, (N, _, *dims), (*outer, rank) = ctx.xp, X.shape, grid.shape
    if outer[0] != N or not rank == len(dims) == len(outer) - 1:
        raise ValueError(f"grid {list(grid.shape)} does not fit X {list(X.shape)}")
    axes = []
    for axis, size in enumerate(dims):
        ratio = grid[..., rank - 1 - axis] + 1
        place = ratio * (size - 1) / 2 if align_corners else (ratio * size - 1) / 2
        axes.append(taps_at(ctx, place, size, mode, padding_mode, align_corners))
    image = ctx.put(np.arange(N).reshape(N, *(1,) * len(dims)))
    read = sample(ctx, X if mode == "nearest" else _as_float(ctx, X), image, axes)
    Y = xp.permute_dims(read, (0, read.ndim - 1, *range(1, read.ndim - 1)))
    # ONNX casts to whole numbers here; what misses one by rounding alone is that one.
    return Y if mode == "nearest" else _as_given(ctx, Y, ctx.dtype(X), parts=4096)


@op("com.microsoft.GridSample", returns="")
def microsoft_grid_sample(
    ctx: Any,
    X: Array,
    Grid: Array,
    *,
    align_corners: int = 0,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> Array:
    """GridSample under its names before opset 20; numbers that are no floats become float32."""
    check_choice("mode", mode, MICROSOFT_MODES)
    dtype = ctx.given["X"] if is_float(ctx.given["X"]) else "float32"
    Y = grid_sample(
        ctx,
        ctx.cast(X, "float32") if dtype == "float32" else X,
        Grid,
        align_corners=align_corners,
        mode=MICROSOFT_MODES[mode],
        padding_mode=padding_mode,
    )
    return ctx.cast(Y, dtype)


@op("AffineGrid", host=("size",))
def affine_grid(ctx: Any, theta: Array, size: Array, *, align_corners: int = 0) -> Array:
    """The places of a grid from -1 to 1, the last axis first, each times the matrix theta. One
    element alone is in the middle, as in PyTorch, whose function ONNX names."""
    xp, dims = ctx.xp, [int(d) for d in size[2:]]
    rank = len(dims)
    if tuple(theta.shape) != (int(size[0]), rank, rank + 1) or min(size) < 0:
        raise ValueError(f"theta {list(theta.shape)} does not fit the size {list(map(int, size))}")
    guard_size((*dims, rank + 1), "float64")
    inner = [1.0 if align_corners else 1 - 1 / max(d, 1) for d in dims]
    lines = [between(-end, end, d) for end, d in zip(inner, dims, strict=True)]
    grid = np.meshgrid(*lines, indexing="ij")[::-1]
    places = np.stack([*grid, np.ones(dims)], axis=-1).astype(numpy_dtype(ctx.dtype(theta)))
    flat = ctx.put(places.reshape(-1, rank + 1))
    moved = xp.matmul(flat, xp.permute_dims(theta, (0, 2, 1)))
    return xp.reshape(moved, (theta.shape[0], *dims, rank))


@op("CenterCropPad", host=("shape",), moves=True)
def center_crop_pad(
    ctx: Any, input_data: Array, shape: Array, *, axes: Ints | None = None
) -> Array:
    """Half of what is too much or missing stands before, the odd element after."""
    chosen = axes_of(axes, input_data.ndim)
    sizes = [int(size) for size in shape]
    if len(sizes) != len(chosen) or min(sizes, default=0) < 0:
        raise ValueError(f"shape {sizes} should be a size for each of {len(chosen)} axes")
    value = "" if ctx.dtype(input_data) == "string" else 0
    for axis, size in zip(chosen, sizes, strict=True):
        missing = size - input_data.shape[axis]
        begin = int(missing / 2)
        input_data = pad_axis(ctx, input_data, axis, begin, missing - begin, value)
    return input_data


FORMATS = ("BMP", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


@op("ImageDecoder", returns="uint8", on_host=True)
def image_decoder(ctx: Any, encoded_stream: Array, *, pixel_format: str = "RGB") -> Array:
    """A picture file as [height, width, channels]. ONNX gives an empty matrix for a damaged one;
    here that is an error, for nothing good can come of it."""
    from PIL import Image

    check_choice("pixel_format", pixel_format, ("RGB", "BGR", "Grayscale"))
    data = np.asarray(encoded_stream, np.uint8).tobytes()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            guard_size((*opened.size, 4), "uint8")
            picture = _eight_bits(opened).convert("L" if pixel_format == "Grayscale" else "RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them meet
        raise ValueError(
            f"encoded_stream, {len(data)} bytes, is no whole picture of the kinds "
            f"{', '.join(FORMATS)}: {error}"
        ) from error
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1)
    return pixels[:, :, ::-1] if pixel_format == "BGR" else pixels


def _eight_bits(picture: Any) -> Any:
    """The upper 8 bits of grey with 16: Pillow's own conversion would clip it."""
    from PIL import Image

    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
