"""torch's own Resize and GridSample, where they mean the same.

torch knows a picture's new size, not ONNX's scales: they are the same where size · scale is a whole
number. Of the nearest elements only those of whole enlargements are taken from torch: there no
place is halfway between two, and no rounding of torch's can choose another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hubtool.ops.shape import axes_of

__all__ = ["FUNCTIONS"]

Array = Any

LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}

NEAREST = {
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("asymmetric", "floor"),
}
"""What makes each new element of a whole enlargement that of the old one which it lies in."""


def _resize(
    ctx: Any,
    X: Array,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    keep_aspect_ratio_policy: str = "stretch",
    **attrs: Any,
) -> Array:
    places = coordinate_transformation_mode
    floats = X.dtype in (ctx.xp.float32, ctx.xp.float64)
    if not floats or not 3 <= X.ndim <= 5 or antialias or keep_aspect_ratio_policy != "stretch":
        return NotImplemented
    size = _size(X, axes, scales, sizes)
    if size is None:
        return NotImplemented
    interpolate = ctx.space.torch.nn.functional.interpolate
    if mode == "nearest":
        whole = all(new % old == 0 for old, new in zip(X.shape[2:], size, strict=True))
        if not whole or (places, nearest_mode) not in NEAREST:
            return NotImplemented
        return interpolate(X, size, mode="nearest-exact")
    aligned = places == "align_corners"
    if not aligned and places != "half_pixel" and (places != "pytorch_half_pixel" or 1 in size):
        return NotImplemented
    if mode == "cubic":
        if X.ndim != 4 or cubic_coeff_a != -0.75 or exclude_outside:
            return NotImplemented
        return interpolate(X, size, mode="bicubic", align_corners=aligned)
    if mode != "linear":
        return NotImplemented
    return interpolate(X, size, mode=LINEAR[X.ndim], align_corners=aligned)


def _size(
    X: Array, axes: Sequence[int] | None, scales: Array | None, sizes: Array | None
) -> list[int] | None:
    """The new spatial size, where torch's way to it is ONNX's and nothing else changes."""
    chosen = axes_of(axes, X.ndim)
    given = [each for each in (scales, sizes) if each is not None and np.size(each)]
    if len(given) != 1 or np.size(given[0]) != len(chosen) or not X.numel():
        return None
    numbers = [float(number) for number in np.reshape(given[0], (-1,))]
    by_scale = given[0] is scales
    size = [*X.shape]
    for axis, number in zip(chosen, numbers, strict=True):
        new = X.shape[axis] * number if by_scale else number
        if not math.isfinite(new) or new != int(new) or new < 1:
            return None
        size[axis] = int(new)
    return size[2:] if size[:2] == [*X.shape[:2]] else None


def _grid_sample(
    ctx: Any,
    X: Array,
    grid: Array,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Array:
    known = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}
    fits = X.ndim in (4, 5) and X.ndim == grid.ndim and grid.shape[-1] == X.ndim - 2
    floats = X.dtype == grid.dtype and X.dtype in (ctx.xp.float32, ctx.xp.float64)
    if not fits or not floats or mode not in known or (mode == "cubic" and X.ndim == 5):
        return NotImplemented
    if padding_mode not in ("zeros", "border", "reflection") or X.shape[0] != grid.shape[0]:
        return NotImplemented
    if not X.numel() or not grid.numel():
        return NotImplemented
    sample = ctx.space.torch.nn.functional.grid_sample
    return sample(X, grid, known[mode], padding_mode, bool(align_corners))


FUNCTIONS: Mapping[str, Callable[..., Any]] = {"GridSample": _grid_sample, "Resize": _resize}
