"""What lowering makes: plain data, with no knowledge of operators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hubtool.formats.axon.lower_source import Text
from hubtool.graph import Layer

__all__ = ["TYPES", "Input", "Lowered", "Parameter", "Step", "Unsayable"]

TYPES = {
    "float64": "{:f, 64}",
    "float32": "{:f, 32}",
    "float16": "{:f, 16}",
    "bfloat16": "{:bf, 16}",
    "int64": "{:s, 64}",
    "int32": "{:s, 32}",
    "int16": "{:s, 16}",
    "int8": "{:s, 8}",
    "uint64": "{:u, 64}",
    "uint32": "{:u, 32}",
    "uint16": "{:u, 16}",
    "uint8": "{:u, 8}",
    "bool": "{:u, 8}",
}
"""Nx's name of each element type that it has; comparisons give u8 there."""


class Unsayable(Exception):
    """Why a layer cannot be said in Axon."""


@dataclass(frozen=True)
class Parameter:
    """What a layer's parameter is made of: a tensor of the weights file, as it is or turned.

    name: Axon's. shape, dtype: the tensor's, as stored. turn: an Elixir function, or "".
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    dtype: str
    turn: str = ""


@dataclass(frozen=True)
class Input:
    """A model input: `variable = Axon.input(name, shape: …)`."""

    variable: str
    name: str
    dtype: str
    dims: tuple[int | None, ...]


@dataclass(frozen=True)
class Step:
    """One Axon call: `variable = value`, the layer's name in Axon, and what it is made from.

    reads: the variables that the call reads. dims: the sizes of what it makes, as far as known.
    """

    variable: str
    value: Text
    name: str
    parameters: tuple[Parameter, ...]
    source: Layer
    dims: tuple[int | None, ...]
    reads: frozenset[str]


@dataclass
class Lowered:
    """A whole model.

    outputs: name -> variable. folded: tensors of the file that stand as numbers in the calls, or
    that nothing reads. problems: what could not be said; where there are any, the rest is partial.
    """

    inputs: list[Input] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> Iterable[tuple[str, Parameter]]:
        """The layer's name and each of its parameters, in order."""
        return ((step.name, parameter) for step in self.steps for parameter in step.parameters)
