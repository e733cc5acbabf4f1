"""Sequences and optionals: a Python list, and a value that may be None.

They hold arrays and compute none. Positions count from the end where they are negative.
(https://onnx.ai/onnx/operators/onnx__SequenceAt.html and its neighbours)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hubtool.dtypes import DTYPES
from hubtool.graph import Value
from hubtool.ops import REQUIRED, op
from hubtool.ops.shape import axis_of

__all__: list[str] = []

Array = Any


def _place(position: Array, size: int) -> int:
    """The position counted from the front, among so many."""
    place = int(position.reshape(()))
    if not -size <= place < size:
        raise ValueError(f"position {place} is outside a sequence of {size}")
    return place % size


@op("SequenceConstruct", returns="", moves=True)
def sequence_construct(ctx: Any, *inputs: Array) -> list[Array]:
    return [*inputs]


@op("SequenceEmpty", returns="", moves=True)
def sequence_empty(ctx: Any, *, dtype: int | None = None) -> list[Array]:
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"{dtype} is no element type")
    return []


@op("SequenceAt", returns="", host=("position",), moves=True)
def sequence_at(ctx: Any, input_sequence: list[Array], position: Array) -> Array:
    return input_sequence[_place(position, len(input_sequence))]


@op("SequenceInsert", returns="input_sequence", host=("position",), moves=True)
def sequence_insert(
    ctx: Any, input_sequence: list[Array], tensor: Array, position: Array = None
) -> list[Array]:
    """The tensor stands at the position afterwards; at the end where none is given."""
    size = len(input_sequence)
    # One place more than there are items: behind the last one.
    place = (
        size if position is None or int(position.reshape(())) == size else _place(position, size)
    )
    return [*input_sequence[:place], tensor, *input_sequence[place:]]


@op("SequenceErase", returns="input_sequence", host=("position",), moves=True)
def sequence_erase(ctx: Any, input_sequence: list[Array], position: Array = None) -> list[Array]:
    place = _place(np.asarray(-1) if position is None else position, len(input_sequence))
    return [*input_sequence[:place], *input_sequence[place + 1 :]]


@op("SequenceLength", returns="int64", moves=True)
def sequence_length(ctx: Any, input_sequence: list[Array]) -> Array:
    return np.asarray(len(input_sequence), np.int64)


@op("SplitToSequence", returns="", host=("split",), moves=True)
def split_to_sequence(
    ctx: Any, input: Array, split: Array = None, *, axis: int = 0, keepdims: int = 1
) -> list[Array]:
    """Pieces of the sizes given, or of one size, the last one smaller; single slices without
    `split`, and then keepdims=0 takes their axis away."""
    axis = axis_of(axis, input.ndim)
    size = input.shape[axis]
    if split is None:
        sizes = [1] * size
    elif split.ndim == 0:
        each = int(split)
        if each < 1:
            raise ValueError(f"split is {each}, which is no size")
        sizes = [min(each, size - start) for start in range(0, size, each)]
    else:
        sizes = [int(part) for part in split]
        if min(sizes, default=0) < 0 or sum(sizes) != size:
            raise ValueError(f"split {sizes} does not add up to {size}")
    pieces, before = [], (slice(None),) * axis
    for end, length in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        piece: Any = slice(end - length, end) if split is not None or keepdims else end - 1
        pieces.append(input[(*before, piece, ...)])
    return pieces


@op("ConcatFromSequence", returns="", moves=True)
def concat_from_sequence(
    ctx: Any, input_sequence: Sequence[Array], *, axis: int = REQUIRED, new_axis: int = 0
) -> Array:
    if not input_sequence:
        raise ValueError("an empty sequence cannot be joined")
    axis = axis_of(axis, input_sequence[0].ndim + (1 if new_axis else 0))
    if new_axis:
        return ctx.xp.stack(input_sequence, axis=axis)
    return ctx.xp.concat(input_sequence, axis=axis)


@op("Optional", returns="", moves=True)
def optional(ctx: Any, input: Any = None, *, type: Value | None = None) -> Any:
    if input is None and type is None:
        raise ValueError("an optional without a value needs a type")
    return input


@op("OptionalHasElement", returns="bool", moves=True)
def optional_has_element(ctx: Any, input: Any = None) -> Array:
    return np.asarray(input is not None)


@op("OptionalGetElement", returns="", moves=True)
def optional_get_element(ctx: Any, input: Any) -> Any:
    if input is None:
        raise ValueError("the optional holds no value")
    return input
