"""The section that makes a model's input of a picture, as Pillow and `hubtool.vision` do it.

Livebook decodes the picture; the rest is a few lines of Nx. A line of points is resized by one
matrix product: each row of the matrix weighs the points that make one new point. Which weights,
says the filter; they are Pillow's, antialiased.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

from hubtool.formats.axon.lower_data import Input
from hubtool.formats.axon.names import brackets, floating, literal

__all__ = ["filled", "picture_section", "takes_pictures"]

Spec = Mapping[str, Any]

AWAY = ["reach = Nx.max(scale, 1)", "away = Nx.abs(Nx.divide(Nx.subtract(places, centres), reach))"]

KERNELS = {
    "nearest": ["weights = Nx.equal(Nx.floor(places), Nx.floor(centres))"],
    "box": [
        "reach = Nx.max(scale, 1)",
        "half = Nx.divide(reach, 2)",
        "first = Nx.floor(Nx.add(Nx.subtract(centres, half), 0.5))",
        "next = Nx.floor(Nx.add(Nx.add(centres, half), 0.5))",
        "window = Nx.logical_and(Nx.greater(places, first), Nx.less(places, next))",
        "away = Nx.multiply(Nx.subtract(places, centres), Nx.divide(1, reach))",
        "inside = Nx.logical_and(Nx.greater(away, -0.5), Nx.less_equal(away, 0.5))",
        "weights = Nx.logical_and(window, inside)",
    ],
    "bilinear": [*AWAY, "weights = Nx.max(Nx.subtract(1, away), 0)"],
    "bicubic": [
        *AWAY,
        "near = Nx.multiply(Nx.subtract(Nx.multiply(1.5, away), 2.5), Nx.pow(away, 2))",
        "far = Nx.multiply(Nx.subtract(2.5, Nx.multiply(0.5, away)), Nx.pow(away, 2))",
        "far = Nx.subtract(Nx.add(far, 2), Nx.multiply(4, away))",
        "far = Nx.select(Nx.less(away, 2), far, 0)",
        "weights = Nx.select(Nx.less(away, 1), Nx.add(near, 1), far)",
    ],
    "lanczos": [
        *AWAY,
        "x = Nx.multiply(Nx.max(away, 1.0e-6), 3.141592653589793)",
        "third = Nx.divide(x, 3)",
        "sinc = Nx.multiply(Nx.divide(Nx.sin(x), x), Nx.divide(Nx.sin(third), third))",
        "weights = Nx.select(Nx.less(away, 3), sinc, 0)",
    ],
}
"""Lines that make `weights` of `places` and `centres`, the middles of the points there are and of
those to be made: https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c"""

COLOURS = {
    "RGB": ["colours = picture"],
    "BGR": ["colours = Nx.reverse(picture, axes: [2])"],
    "L": [
        "grey = Nx.dot(picture, [2], Nx.tensor([0.299, 0.587, 0.114]), [0])",
        "colours = Nx.new_axis(to_bytes.(grey), 2)",
    ],
}


def filled(name: str, **values: str) -> str:
    """A template with its gaps filled."""
    path = resources.files("hubtool").joinpath("formats", "axon", "templates", name)
    return Template(path.read_text(encoding="utf-8")).substitute(values)


def takes_pictures(given: Input, spec: object) -> bool:
    """Whether the preprocessing is whole, and what it makes has the shape of this input."""
    if not isinstance(spec, dict) or not _is_whole(spec):
        return False
    colours, side = len(spec["mean"]), spec["crop"]
    first = spec["layout"] == "NCHW"
    wanted = (1, colours, side, side) if first else (1, side, side, colours)
    fits = (have in (None, want) for have, want in zip(given.dims, wanted, strict=False))
    return len(given.dims) == 4 and all(fits) and given.dtype == "float32"


def _is_whole(spec: dict[str, Any]) -> bool:
    """Whether every key is there, and of the kind that docs/format.md says."""
    sizes = [spec.get(key) for key in ("resize", "crop")]
    colours = 1 if spec.get("channels") == "L" else 3
    return (
        spec.get("channels") in (*COLOURS,)
        and spec.get("interpolation") in (*KERNELS,)
        and spec.get("layout") in ("NCHW", "NHWC")
        and all(type(size) is int and size > 0 for size in sizes)
        and spec["crop"] <= spec["resize"]
        and _are_numbers(spec.get("range"), 2)
        and _are_numbers(spec.get("mean"), colours)
        and _are_numbers(spec.get("std"), colours)
    )


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    )


def picture_section(given: Input, spec: Spec) -> str:
    """The section's text, for a preprocessing that is whole."""
    low, high = (float(value) for value in spec["range"])
    steps = [f"Nx.slice([0, top, left], [{len(spec['mean'])}, {spec['crop']}, {spec['crop']}])"]
    if high - low != 255.0:
        steps.append(f"Nx.multiply({floating((high - low) / 255)})")
    if low:
        steps.append(f"Nx.add({floating(low)})")
    steps.append(f"Nx.subtract(Nx.tensor({_by_channel(spec['mean'])}))")
    steps.append(f"Nx.divide(Nx.tensor({_by_channel(spec['std'])}))")
    if spec["layout"] == "NHWC":
        steps.append("Nx.transpose(axes: [1, 2, 0])")
    steps.append("Nx.new_axis(0)")
    return filled(
        "picture.livemd",
        resize=str(spec["resize"]),
        crop=str(spec["crop"]),
        interpolation=spec["interpolation"],
        low=f"{low:g}",
        high=f"{high:g}",
        kernel="\n".join(f"  {line}" for line in KERNELS[spec["interpolation"]]),
        colours="\n".join(COLOURS[spec["channels"]]),
        steps="\n".join(f"  |> {step}" for step in steps),
        input=literal(given.name),
    )


def _by_channel(numbers: list[float]) -> str:
    """Numbers of the shape [C, 1, 1]."""
    return brackets(brackets([brackets([floating(float(number))])]) for number in numbers)
