"""The layer graph: what everything in hubtool reads, rewrites and writes.

Plain data. Names are the edges: a layer names the values it reads and the values it makes, and
`tensors` holds the values that are weights. This room knows no operator and does no input or
output; what an operator means stands in `hubtool.ops`, how a graph is stored in `hubtool.formats`.

    graph.inputs ──▶ layer ──▶ layer ──▶ graph.outputs
                       ▲
                 graph.tensors

A name that stands both in `inputs` and in `tensors` is an input with a default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hubtool.dtypes import is_weight

__all__ = [
    "Attr",
    "Graph",
    "Layer",
    "Tensor",
    "TensorRef",
    "Value",
    "captures",
    "names_read",
    "parameters",
]


@dataclass(frozen=True)
class Value:
    """What is known of a value before it exists.

    kind: "tensor", "sequence", "optional" or "map(KEY)", KEY being "int64" or "string"; a
        container of something other than tensors says so: "optional(sequence)",
        "sequence(map(string))".
    dtype: the innermost element type: "float32", "int64", "string", "bfloat16", "float8_e4m3fn",
        "int4"; "" where nothing is known.
    shape: one entry an axis (a number, the name of a symbolic size, or None), or None where not
        even the rank is known.
    """

    kind: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dims = (
            "…"
            if self.shape is None
            else ",".join("?" if d is None else str(d) for d in self.shape)
        )
        text = f"{self.dtype or '?'}[{dims}]"
        return text if self.kind == "tensor" else f"{self.kind} of {text}"


@dataclass(frozen=True, eq=False)
class Tensor:
    """A weight: its logical dtype, its shape, and its elements, which may be memory-mapped.

    Strings are kept as an object array of str; every other dtype as a numpy array of that very
    dtype, the small ones (bfloat16, float8_*, int4, …) as those of ml_dtypes. `load` makes the
    array; it is called when the elements are first wanted, and once.

    place: which bytes of which file the elements are, as that file is now; "" where they are in
    memory. Equal places are equal elements, so what was made of them need not be made again.
    """

    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray[Any, Any]]
    place: str = ""

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> Tensor:
        """The tensor of an array at hand; its dtype is named by the array ("string" for str)."""
        dtype = "string" if array.dtype.kind in "OUST" else array.dtype.name
        if dtype == "string" and array.dtype.kind != "O":
            array = array.astype(object)
        return cls(dtype, array.shape, lambda: array)

    @cached_property
    def array(self) -> np.ndarray[Any, Any]:
        """The elements, of this tensor's shape."""
        return self.load()

    @property
    def aligned(self) -> np.ndarray[Any, Any]:
        """The elements at addresses that suit their size, as a processor wants them to compute
        with: a copy where the file has them elsewhere, as ONNX files mostly do."""
        if self.array.flags.aligned:
            return self.array
        array = self.array.copy()
        array.flags.writeable = False
        return array

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensor):
            return NotImplemented
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        if self.dtype == "string":
            return bool(np.array_equal(self.array, other.array))
        # Bytes, not values: NaN equals itself here, and -0.0 differs from 0.0.
        return self.array.tobytes() == other.array.tobytes()

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}[{','.join(map(str, self.shape))}])"


@dataclass(frozen=True)
class TensorRef:
    """An attribute that is a tensor: the name under which `Graph.tensors` holds it."""

    name: str


@dataclass
class Layer:
    """One application of one operator.

    name: unique in its graph; the source's own name where it has one.
    op: "Conv"; "com.microsoft.Gelu" outside ai.onnx.
    inputs: formal name -> value name; a variadic input holds a list; an input left out is absent.
    outputs: in the operator's order; "" where an optional output is not wanted.
    attrs: every default filled in; absent where the operator has no default.
    """

    name: str
    op: str
    inputs: dict[str, str | list[str]]
    outputs: list[str]
    attrs: dict[str, Attr] = field(default_factory=dict)

    def reads(self) -> Iterator[str]:
        """The names of the values that feed this layer, captures of its subgraphs not counted."""
        for names in self.inputs.values():
            if isinstance(names, str):
                yield names
            else:
                yield from names

    def subgraphs(self) -> dict[str, Graph]:
        """The attributes that are graphs: If's branches, the body of a Loop or a Scan."""
        return {key: attr for key, attr in self.attrs.items() if isinstance(attr, Graph)}

    def copy(self) -> Layer:
        """A layer that may be rewritten; its subgraphs are copied too."""
        return Layer(
            self.name,
            self.op,
            {k: names if isinstance(names, str) else [*names] for k, names in self.inputs.items()},
            [*self.outputs],
            {k: attr.copy() if isinstance(attr, Graph) else attr for k, attr in self.attrs.items()},
        )

    def __str__(self) -> str:
        reads = ", ".join(
            f"{formal}={names if isinstance(names, str) else '[' + ', '.join(names) + ']'}"
            for formal, names in self.inputs.items()
        )
        attrs = "".join(
            f", {key}={'<graph>' if isinstance(attr, Graph) else repr(attr)}"
            for key, attr in self.attrs.items()
        )
        return f"{', '.join(name or '_' for name in self.outputs)} = {self.op}({reads}{attrs})"


@dataclass
class Graph:
    """A model, or the body of a control-flow layer.

    layers: always in running order.
    inputs, outputs: in the source's order.
    tensors: the weights; attribute tensors too, under the name that their TensorRef gives.
    values: what was known at import of the values in between; may be partial.
    meta: name, source, source_sha256, source_opset, labels, preprocessing, notes, licence.
    """

    layers: list[Layer] = field(default_factory=list)
    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def free_inputs(self) -> dict[str, Value]:
        """The inputs that a caller must give: those without a default."""
        return {name: value for name, value in self.inputs.items() if name not in self.tensors}

    def copy(self) -> Graph:
        """A graph that may be rewritten: new layers and tables, the same tensors."""
        return Graph(
            [layer.copy() for layer in self.layers],
            dict(self.inputs),
            dict(self.outputs),
            dict(self.tensors),
            dict(self.values),
            dict(self.meta),
        )

    def producers(self) -> dict[str, Layer]:
        """Value name -> the layer that makes it."""
        return {name: layer for layer in self.layers for name in layer.outputs if name}

    def users(self) -> dict[str, list[Layer]]:
        """Value name -> the layers that read it, once for each time; subgraphs' captures count."""
        users: dict[str, list[Layer]] = {}
        for layer in self.layers:
            for name in names_read(layer):
                users.setdefault(name, []).append(layer)
        return users

    def known(self, name: str) -> Value | None:
        """What is known of a value, wherever that is written."""
        if name in self.tensors:
            tensor = self.tensors[name]
            return Value("tensor", tensor.dtype, tensor.shape)
        return self.inputs.get(name) or self.values.get(name) or self.outputs.get(name)

    def replace(self, old: str, new: str) -> None:
        """Let every reader of `old`, inside subgraphs too, read `new`. Output names stay."""
        for layer in self.layers:
            for formal, names in layer.inputs.items():
                if isinstance(names, str):
                    layer.inputs[formal] = new if names == old else names
                else:
                    layer.inputs[formal] = [new if name == old else name for name in names]
            for body in layer.subgraphs().values():
                if old in captures(body):
                    body.replace(old, new)

    def prune(self) -> None:
        """Drop the layers, tensors and values that no output needs."""
        needed = set(self.outputs)
        kept: list[Layer] = []
        for layer in reversed(self.layers):
            if needed.isdisjoint(layer.outputs):
                continue
            needed.update(names_read(layer))
            needed.update(ref.name for ref in layer.attrs.values() if isinstance(ref, TensorRef))
            kept.append(layer)
        self.layers = kept[::-1]
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in needed}
        made = {name for layer in self.layers for name in layer.outputs}
        self.values = {name: value for name, value in self.values.items() if name in made}

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.inputs.items()]
        lines += [f"  {layer}" for layer in self.layers]
        lines += [f"return {name}: {value}" for name, value in self.outputs.items()]
        return "\n".join(lines)


Attr = int | float | str | bytes | list[Any] | TensorRef | Graph | Value


def parameters(graph: Graph) -> int:
    """How many weights a model has, those of its subgraphs too; not the shapes and axes among its
    tensors."""
    own = sum(tensor.size for tensor in graph.tensors.values() if is_weight(tensor.dtype))
    bodies = (body for layer in graph.layers for body in layer.subgraphs().values())
    return own + sum(map(parameters, bodies))


def captures(graph: Graph) -> set[str]:
    """The names that a subgraph reads from around it."""
    made = set(graph.inputs) | set(graph.tensors)
    captured: set[str] = set()
    for layer in graph.layers:
        captured.update(name for name in names_read(layer) if name not in made)
        made.update(layer.outputs)
    captured.update(name for name in graph.outputs if name not in made)
    return captured


def names_read(layer: Layer) -> Iterable[str]:
    """Every name that a layer needs: its inputs, and what its subgraphs capture."""
    yield from layer.reads()
    for body in layer.subgraphs().values():
        yield from captures(body)
