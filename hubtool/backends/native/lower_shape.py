"""What moves elements: reshapes, which move none; Concat along the channels; Pad with zeros.

Concat makes one buffer, and lets what was made for it lie in its range of channels from the start.
That asks for channels in sixteens, since kernels write whole vectors; from the first operand that
is none on, all are copied, in order, so that what is written past one's end is written over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hubtool.backends.native.lower_build import (
    Buffer,
    Builder,
    Facts,
    Key,
    Ref,
    Unlowerable,
    picture_key,
    rows_key,
)
from hubtool.graph import Layer

__all__ = ["LOWER", "REASONS"]


def _reason_reshape(layer: Layer, facts: Facts) -> str:
    if any(layer.outputs[1:]):
        return f"'{layer.outputs[1]}' is wanted too"
    training = facts.constant(layer, "training_mode")
    if "training_mode" in layer.inputs and (training is None or training.array.any()):
        return "it may be training"
    for formal in ("shape", "axes"):
        if formal in layer.inputs and facts.constant(layer, formal) is None:
            return f"its {formal} is computed"
    return ""


def _same(b: Builder, layer: Layer) -> None:
    flat, shape = b.value(layer.inputs["data" if layer.op == "Dropout" else "input"])
    b.alias(layer, flat, shape)


def _flatten(b: Builder, layer: Layer) -> None:
    flat, shape = b.value(layer.inputs["input"])
    axis: Any = layer.attrs["axis"]
    cut = axis if axis >= 0 else axis + len(shape)
    b.alias(layer, flat, (math.prod(shape[:cut]), math.prod(shape[cut:])))


def _reshape(b: Builder, layer: Layer) -> None:
    """0 copies a size, -1 stands for what is left; nothing here is empty."""
    flat, shape = b.value(layer.inputs["data"])
    asked = b.numbers(layer, "shape") or []
    if 0 in asked and (layer.attrs["allowzero"] or 0 in asked[len(shape) :]):
        raise Unlowerable(f"shape {asked} does not fit {list(shape)}")
    dims = [shape[i] if d == 0 else d for i, d in enumerate(asked)]
    if dims.count(-1) == 1:
        dims[dims.index(-1)] = math.prod(shape) // -math.prod(dims)
    if min(dims, default=1) < 1 or math.prod(dims) != math.prod(shape):
        raise Unlowerable(f"shape {asked} does not fit {list(shape)}")
    b.alias(layer, flat, tuple(dims))


def _squeeze(b: Builder, layer: Layer) -> None:
    flat, shape = b.value(layer.inputs["data"])
    axes = b.numbers(layer, "axes")
    rank = len(shape)
    dropped = {i for i, d in enumerate(shape) if d == 1} if axes is None else {*axes}
    dropped = {axis % rank for axis in dropped} if rank else set()
    if any(shape[axis] != 1 for axis in dropped):
        raise Unlowerable(f"axes {sorted(dropped)} of {list(shape)} are not all of size 1")
    b.alias(layer, flat, tuple(d for i, d in enumerate(shape) if i not in dropped))


def _unsqueeze(b: Builder, layer: Layer) -> None:
    flat, shape = b.value(layer.inputs["data"])
    axes = b.numbers(layer, "axes") or []
    rank = len(shape) + len(axes)
    added, dims = {axis % rank for axis in axes}, iter(shape)
    if len(added) != len(axes):
        raise Unlowerable(f"axes {axes} name one twice")
    b.alias(layer, flat, tuple(1 if i in added else next(dims) for i in range(rank)))


def _reason_concat(layer: Layer, facts: Facts) -> str:
    axis: Any = layer.attrs["axis"]
    ranks = {facts.rank(name) for name in layer.reads()} - {None}
    rank = next(iter(ranks), None)
    if axis == -1 or (axis == 1 and rank in (None, 2, 3, 4)):
        return ""
    if rank is not None and (axis % rank == rank - 1 or (axis % rank == 1 and rank <= 4)):
        return ""
    return "no kernel for this axis"


def _concat(b: Builder, layer: Layer) -> None:
    names = [*layer.reads()]
    shapes = [b.shape(name) for name in names]
    rank, given = len(shapes[0]), layer.attrs["axis"]
    assert isinstance(given, int)
    axis = given % rank
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) != 1:
        raise Unlowerable(f"the shapes {shapes} do not go together")
    total = sum(shape[axis] for shape in shapes)
    made = (*shapes[0][:axis], total, *shapes[0][axis + 1 :])
    if axis != 1 and axis != rank - 1:
        raise Unlowerable("no kernel for this axis")
    key_of = picture_key if axis == 1 and rank <= 4 else rows_key
    n, h, w, _ = key_of(made)
    big = b.buffer((n, h, w, total))
    copies: list[tuple[Ref, int]] = []
    at, aligned = 0, True
    for name, shape in zip(names, shapes, strict=True):
        ref = _operand(b, name, key_of(shape))
        if aligned and _moves_in(ref, big):
            ref.buffer.parent, ref.buffer.channel = big, at
            big.widen(ref.buffer.halo)
            big.children += 1
        else:
            copies.append((ref, at))
        aligned = aligned and ref.c % 16 == 0
        at += ref.c
    big.spilled = any(start % 16 for _, start in copies)
    for ref, start in copies:
        slice_ = Ref(big, n, h, w, ref.c, channel=start)
        b.step("copy", f"{layer.op} '{layer.name}'", ref, slice_)
    b.add(layer, big, made)


def _operand(b: Builder, name: str, key: Key) -> Ref:
    if 0 in key:
        raise Unlowerable("an operand is empty")
    tensor = b.graph.tensors.get(name)
    if name not in b.values and tensor is not None:
        return b.weights(tensor.aligned, key)
    return b.need(b.value(name)[0], key)


def _moves_in(ref: Ref, big: Buffer) -> bool:
    """Whether what an operand lies in can become a range of channels of the greater buffer."""
    own = ref.buffer
    free = own.where == "arena" and own.parent is None and not (own.exact or own.few or own.spilled)
    whole = (own.n, own.h, own.w, own.c) == (ref.n, ref.h, ref.w, ref.c)
    return free and whole and own.c % 16 == 0 and own.single == big.single


def _reason_pad(layer: Layer, facts: Facts) -> str:
    pads, rank = facts.constant(layer, "pads"), facts.rank(layer.inputs["data"])
    value = facts.constant(layer, "constant_value")
    if layer.attrs["mode"] != "constant" or pads is None or rank not in (3, 4):
        return "it does more than put zeros around a picture, as far as is known"
    if "constant_value" in layer.inputs and (value is None or value.array.any()):
        return "it puts something else than zeros"
    try:
        _four(layer, facts, rank)
    except Unlowerable as error:
        return str(error)
    return ""


def _four(layer: Layer, facts: Facts, rank: int) -> tuple[int, int, int, int]:
    """Zeros at the top, left, bottom and right."""
    pads, axes = facts.constant(layer, "pads"), facts.constant(layer, "axes")
    if pads is None or ("axes" in layer.inputs and axes is None):
        raise Unlowerable("its pads are computed")
    numbers = [int(p) for p in pads.array.reshape(-1)]
    chosen = [*range(rank)] if axes is None else [int(a) % rank for a in axes.array.reshape(-1)]
    if len(numbers) != 2 * len(chosen):
        raise Unlowerable(f"pads {numbers} do not fit")
    begins, ends = [0] * (rank + 4), [0] * (rank + 4)
    for i, axis in enumerate(chosen):
        begins[axis], ends[axis] = numbers[i], numbers[i + len(chosen)]
    if min(numbers) < 0 or any([*begins[:2], *ends[:2]]):
        raise Unlowerable("it crops, or pads what is no spatial axis")
    if rank == 3:
        return (0, begins[2], 0, ends[2])
    return (begins[2], begins[3], ends[2], ends[3])


def _pad(b: Builder, layer: Layer) -> None:
    """Left to the convolutions that read it, where none but they do; else a copy with a halo that
    becomes part of the picture."""
    name = str(layer.inputs["data"])
    flat, shape = b.value(name)
    top, left, bottom, right = pads = _four(layer, b.facts, len(shape))
    n, h, w, c = key = picture_key(shape)
    made = (*shape[:2], *(h + top + bottom, w + left + right)[4 - len(shape) :])
    y = layer.outputs[0]
    readers = b.users.get(y, [])
    convs = ("Conv", "com.microsoft.FusedConv")
    alone = all(each.op in convs and _reads_as_x(each, y) for each in readers)
    if alone and y not in b.graph.outputs and name not in b.padded:
        b.padded[y] = (name, pads)
        b.alias(layer, flat, made)
        return
    big = b.buffer((n, h + top + bottom, w + left + right, c))
    inside = Ref(big, n, h, w, c, top=top, left=left)
    b.step("copy", f"{layer.op} '{layer.name}'", b.need(flat, key), inside)
    b.add(layer, big, made)


def _reads_as_x(layer: Layer, name: str) -> bool:
    return all((formal == "X") == (given == name) for formal, given in layer.inputs.items())


LOWER: dict[str, Callable[[Builder, Layer], None]] = {
    "Identity": _same,
    "Dropout": _same,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Pad": _pad,
}

REASONS: dict[str, Callable[[Layer, Facts], str]] = {
    **dict.fromkeys(
        ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reason_reshape
    ),
    "Concat": _reason_concat,
    "Pad": _reason_pad,
}
