"""Pools, means over a whole picture, what normalizes along the channels, and what resizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hubtool.backends.native.lower_build import (
    Builder,
    Facts,
    Unlowerable,
    picture_key,
    rows_key,
)
from hubtool.graph import Layer
from hubtool.interpreter import HOST, Context
from hubtool.ops import lookup
from hubtool.ops.window import resolve_window

__all__ = ["LOWER", "REASONS"]

Array = np.ndarray[Any, Any]

POOLS = {"MaxPool": "max_pool", "AveragePool": "average_pool"}
GLOBAL = {"GlobalAveragePool": "global_average", "GlobalMaxPool": "global_max"}


def _reason_picture(layer: Layer, facts: Facts) -> str:
    """Only pictures of one or two axes have kernels; only the first output is made."""
    if any(layer.outputs[1:]):
        return f"'{layer.outputs[1]}' is wanted too"
    rank = facts.rank(next(iter(layer.reads())))
    return "" if rank in (3, 4) else "its input is no picture, as far as is known"


def _pool(b: Builder, layer: Layer) -> None:
    flat, shape = b.value(layer.inputs["X"])
    attrs: Any = layer.attrs
    if len(shape) not in (3, 4) or len(attrs["kernel_shape"]) != len(shape) - 2:
        raise Unlowerable(f"X {list(shape)} is no picture")
    try:
        window = resolve_window(
            shape[2:],
            attrs["kernel_shape"],
            strides=attrs.get("strides"),
            dilations=attrs.get("dilations"),
            pads=attrs.get("pads"),
            auto_pad=attrs.get("auto_pad", "NOTSET"),
            ceil_mode=attrs.get("ceil_mode", 0),
        )
    except ValueError as error:
        raise Unlowerable(str(error)) from error
    if min(int(window.counts(i, False).min()) for i in range(len(window.kernel))) == 0:
        raise Unlowerable("a window lies in the padding alone")
    two = (1,) * (2 - len(window.kernel))
    none = (0,) * len(two)
    sides = {
        "k": (*two, *window.kernel),
        "s": (*two, *window.strides),
        "d": (*two, *window.dilations),
    }
    fields = {f"{side}{axis}": sides[side][i] for side in sides for i, axis in enumerate("hw")}
    fields["top"], fields["left"] = (*none, *window.begins)
    fields["bottom"], fields["right"] = (*none, *window.ends)
    fields["count_pads"] = int(attrs.get("count_include_pad", 0))
    made = (*shape[:2], *window.output)
    x = b.need(flat, picture_key(shape))
    b.make(layer, POOLS[layer.op], x, picture_key(made), made, fields=fields)


def _global(b: Builder, layer: Layer) -> None:
    _folded(b, layer, layer.inputs["X"], GLOBAL[layer.op], keepdims=True)


def _folded(b: Builder, layer: Layer, name: Any, kind: str, keepdims: bool) -> None:
    flat, shape = b.value(name)
    if len(shape) not in (3, 4):
        raise Unlowerable(f"{list(shape)} is no picture")
    made = (*shape[:2], *(1 for _ in shape[2:])) if keepdims else shape[:2]
    x = b.need(flat, picture_key(shape))
    b.make(layer, kind, x, (shape[0], 1, 1, shape[1]), made)


def _reason_mean(layer: Layer, facts: Facts) -> str:
    axes, rank = facts.constant(layer, "axes"), facts.rank(layer.inputs["data"])
    if axes is None or rank not in (3, 4):
        return "its axes are not all spatial ones, as far as is known"
    spatial = [*range(2, rank)]
    is_spatial = sorted(int(axis) % rank for axis in axes.array.reshape(-1)) == spatial
    return "" if is_spatial else "no kernel for these axes"


def _mean(b: Builder, layer: Layer) -> None:
    rank = len(b.shape(layer.inputs["data"]))
    axes = b.numbers(layer, "axes") or []
    if sorted(axis % rank for axis in axes) != [*range(2, rank)]:
        raise Unlowerable("its axes are not the spatial ones")
    _folded(b, layer, layer.inputs["data"], "global_average", bool(layer.attrs["keepdims"]))


def _reason_softmax(layer: Layer, facts: Facts) -> str:
    axis, rank = layer.attrs["axis"], facts.rank(layer.inputs["input"])
    if axis == -1 or (axis == 1 and rank in (2, 3, 4)):
        return ""
    return "" if rank is not None and axis == rank - 1 else "no kernel for this axis"


def _softmax(b: Builder, layer: Layer) -> None:
    flat, shape = b.value(layer.inputs["input"])
    axis: Any = layer.attrs["axis"]
    if not shape:
        raise Unlowerable("it has no axis")
    if axis % len(shape) == len(shape) - 1:
        key = rows_key(shape)
    elif axis % len(shape) == 1:
        key = picture_key(shape)
    else:
        raise Unlowerable("no kernel for this axis")
    op = int(layer.op == "LogSoftmax")
    b.make(layer, "softmax", b.need(flat, key), key, shape, fields={"op": op})


def _lrn(b: Builder, layer: Layer) -> None:
    flat, shape = b.value(layer.inputs["X"])
    key, attrs = picture_key(shape), layer.attrs
    numbers: list[Any] = [attrs[name] for name in ("alpha", "beta", "bias", "size")]
    alpha, beta, bias, size = numbers
    draft = b.make(layer, "lrn", b.need(flat, key), key, shape, fields={"kh": int(size)})
    draft.a, draft.b, draft.d = float(alpha), float(beta), float(bias)


def _reason_resize(layer: Layer, facts: Facts) -> str:
    mode: Any = layer.attrs["mode"]
    if mode != "nearest":
        return f"no kernel for mode {mode}"
    for formal in ("scales", "sizes", "roi"):
        if formal in layer.inputs and facts.constant(layer, formal) is None:
            return f"its {formal} are computed"
    return _reason_picture(layer, facts)


def _resize(b: Builder, layer: Layer) -> None:
    """Where the definition itself, asked where each pixel comes from, repeats every one."""
    flat, shape = b.value(layer.inputs["X"])
    if len(shape) not in (3, 4):
        raise Unlowerable(f"X {list(shape)} is no picture")
    known = lookup("Resize")
    assert known is not None
    places = np.arange(np.prod(shape[2:]), dtype=np.float32).reshape(1, 1, *shape[2:])
    given = {name: b.constant(layer, name) for name in ("roi", "scales", "sizes")}
    hosted = {name: tensor.array for name, tensor in given.items() if tensor is not None}
    if len(hosted.get("sizes", ())) == len(shape):
        hosted["sizes"] = np.concatenate([[1, 1], hosted["sizes"][2:]])
    try:
        found = known.function(Context(HOST, (True,)), places, **hosted, **layer.attrs)
    except ValueError as error:
        raise Unlowerable(str(error)) from error
    made = (*shape[:2], *found.shape[2:])
    times = [out // d for out, d in zip(found.shape[2:], shape[2:], strict=True)]
    repeated = places
    for axis, count in enumerate(times):
        repeated = np.repeat(repeated, count, axis=axis + 2)
    if found.shape[:2] != (1, 1) or not np.array_equal(found, repeated):
        raise Unlowerable("it does not repeat every pixel a whole number of times")
    kh, kw = (1, *times)[-2:]
    x = b.need(flat, picture_key(shape))
    b.make(layer, "upsample", x, picture_key(made), made, fields={"kh": kh, "kw": kw})


LOWER: dict[str, Callable[[Builder, Layer], None]] = {
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(GLOBAL, _global),
    "ReduceMean": _mean,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "LRN": _lrn,
    "Resize": _resize,
}

REASONS: dict[str, Callable[[Layer, Facts], str]] = {
    **dict.fromkeys((*POOLS, *GLOBAL, "LRN"), _reason_picture),
    "ReduceMean": _reason_mean,
    "Softmax": _reason_softmax,
    "LogSoftmax": _reason_softmax,
    "Resize": _reason_resize,
}
