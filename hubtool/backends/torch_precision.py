"""float16 and bfloat16 as precisions: a space whose float32 is narrower between layers.

    weight ──narrow──┐
    x ──narrow──▶ [ Conv ]──narrow──▶[ Softmax in float32 ]──narrow──▶ … ──float32──▶ y

What a layer makes in float32 is held in the narrow type, and so is every weight that a layer
computes with in it. Two kinds of layers work in the narrow type itself: those that only move
elements, and those in `DIRECT`, where torch adds up in float32 and rounds once. For all others
(normalisations, softmax, means and sums, Resize, losses, …) what is narrow is widened, the layer is
computed in float32 and its result is rounded once; their own weights stay float32. Integers,
shapes, float64 and what is on the host are as ever; inputs and outputs have their declared types.

A weight beyond the narrow range becomes its largest number, not infinity: masks are full of -3e38,
and 0 times infinity is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hubtool.backends.torch_functions import OVERRIDES, OWN
from hubtool.backends.torch_space import TorchSpace
from hubtool.graph import Graph, names_read
from hubtool.interpreter import Program
from hubtool.ops import dtypes_made, lookup

__all__ = ["DIRECT", "NarrowSpace", "declared", "in_narrow", "narrowed"]

Array = Any

DIRECT = frozenset(
    {
        *("Conv", "ConvTranspose", "com.microsoft.FusedConv", "Gemm", "MatMul", "Attention"),
        *("Add", "Sub", "Mul", "Max", "Min", "Neg", "Abs", "Clip"),
        *("MaxPool", "Relu", "LeakyRelu"),
    }
)
"""The operators that are computed in the narrow type itself: products, which torch adds up in
float32, and what takes one step or none that rounds."""

CASTS = frozenset({"Cast", "CastLike", "BitCast"})
"""What moves elements, but looks at their type."""


def in_narrow(op: str) -> bool:
    """Whether layers of this operator take and give the narrow type."""
    known = lookup(op)
    moves = known is not None and known.moves and op not in CASTS and not op.startswith("Random")
    return moves or op in DIRECT


class NarrowSpace(TorchSpace):
    """torch with float32 held in `narrow`: "float16" or "bfloat16"."""

    def __init__(self, device: str, narrow: str) -> None:
        super().__init__(device)
        self.narrow: Any = getattr(self.torch, narrow)
        self.strict = TorchSpace(device)
        self.overrides = _Functions(self)

    def dtype_of(self, value: Array) -> str:
        return "float32" if value.dtype == self.narrow else super().dtype_of(value)

    def get(self, value: Array) -> np.ndarray[Any, Any]:
        return super().get(self.widened(value))

    def narrowed(self, value: Any) -> Any:
        """What of a value is float32, in the narrow type."""
        if isinstance(value, list):
            return [self.narrowed(item) for item in value]
        if not self._is(value, self.torch.float32):
            return value
        bound = self.torch.finfo(self.narrow).max
        within = self.torch.where(value.isinf(), value, value.clamp(-bound, bound))
        return within.to(self.narrow)

    def rounded(self, value: Any) -> Any:
        """The result of a layer: what is float32 rounded, to infinity where it is too large."""
        if isinstance(value, list | tuple):
            return type(value)(self.rounded(item) for item in value)
        return value.to(self.narrow) if self._is(value, self.torch.float32) else value

    def widened(self, value: Any) -> Any:
        """What of a value is narrow, in float32."""
        if isinstance(value, list):
            return [self.widened(item) for item in value]
        return value.float() if self._is(value, self.narrow) else value

    def _is(self, value: Any, dtype: Any) -> bool:
        return isinstance(value, self.torch.Tensor) and value.dtype == dtype


class _Functions(Mapping[str, Callable[..., Any]]):
    """Every operator, in the narrow type or in float32."""

    def __init__(self, space: NarrowSpace) -> None:
        self.space = space
        self.made: dict[str, Callable[..., Any]] = {}

    def __getitem__(self, op: str) -> Callable[..., Any]:
        if op not in self.made:
            self.made[op] = self._made(op)
        return self.made[op]

    def _made(self, op: str) -> Callable[..., Any]:
        known = lookup(op)
        assert known is not None
        space, direct, wide = self.space, None, OVERRIDES.get(op, known.function)
        if in_narrow(op):
            direct = OWN.get(op, known.function)

        def call(ctx: Any, *inputs: Any, **attrs: Any) -> Any:
            if direct is not None:
                made = direct(ctx, *map(space.narrowed, inputs), **attrs)
                if made is not NotImplemented:
                    return space.rounded(made)
            strict = replace(ctx, space=space.strict)
            return space.rounded(wide(strict, *map(space.widened, inputs), **attrs))

        return call

    def __contains__(self, op: object) -> bool:
        return op in OVERRIDES

    def __iter__(self) -> Iterator[str]:
        return iter(OVERRIDES)

    def __len__(self) -> int:
        return len(OVERRIDES)


def narrowed(program: Program) -> Program:
    """The program with every weight narrow that a layer takes so; in its subgraphs too."""
    space = program.space
    assert isinstance(space, NarrowSpace)
    wanted = {
        name for layer in program.graph.layers if in_narrow(layer.op) for name in names_read(layer)
    }
    for name in wanted & program.weights.keys():
        program.weights[name] = space.narrowed(program.weights[name])
    for step in program.steps:
        for attr in step.attrs.values():
            if isinstance(attr, Program):
                narrowed(attr)
    return program


def declared(graph: Graph) -> dict[str, str]:
    """The dtype of every output; float32 where nothing tells it."""
    dtypes = {name: tensor.dtype for name, tensor in graph.tensors.items()}
    dtypes.update((name, value.dtype) for name, value in graph.inputs.items())
    for layer in graph.layers:
        made = dtypes_made(layer, dtypes, lambda name: getattr(graph.known(name), "dtype", ""))
        dtypes.update(made)
    return {
        name: value.dtype or dtypes.get(name, "") or "float32"
        for name, value in graph.outputs.items()
    }
