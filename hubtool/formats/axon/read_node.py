"""A node of axon.json, and the graph that grows from such nodes.

`Node` hands out its options and parameters one by one and knows at the end what nobody asked for;
`Builder` adds layers and keeps every name unique. Neither knows a layer of Axon: those stand in
`read_layers`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hubtool import ops
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value

__all__ = ["Builder", "Misfit", "Node"]

Array = np.ndarray[Any, Any]


class Misfit(Exception):
    """Why a node cannot be understood; its reader says which one it was."""


@dataclass
class Node:
    """A node of axon.json: inputs are names of values, `ranks` how many axes they have."""

    op: str
    name: str
    inputs: list[str]
    ranks: list[int | None]
    options: dict[str, Any]
    parameters: dict[str, Array]
    asked: set[str] = field(default_factory=set)

    def finished(self) -> None:
        """Raises Misfit where an option or parameter was not asked for."""
        left = [f"option '{key}'" for key in self.options]
        if self.op != "onnx":
            left += [f"parameter '{key}'" for key in self.parameters if key not in self.asked]
        if left:
            raise Misfit(f"unknown {', '.join(left)}")

    @property
    def rank(self) -> int:
        """How many axes the first input has."""
        if not self.ranks or self.ranks[0] is None:
            raise Misfit("how many axes its input has is not told")
        return self.ranks[0]

    def take(self, key: str, default: Any = None) -> Any:
        """The option, which must be of the default's kind where there is one."""
        value = self.options.pop(key, default)
        kind = type(default)
        if kind is float and type(value) is int:
            value = float(value)
        if default is not None and type(value) is not kind:
            raise Misfit(f"option '{key}' is {reprlib.repr(value)}")
        return value

    def sizes(self, key: str, count: int, default: int = 1) -> list[int]:
        """An option with a number for each spatial axis, or one number for all of them."""
        value = self.options.pop(key, default)
        listed = value if isinstance(value, list) else [value] * count
        if len(listed) != count or not all(type(n) is int and 1 <= n < 2**31 for n in listed):
            raise Misfit(f"option '{key}' is {reprlib.repr(value)}, not {count} sizes")
        return listed

    def parameter(self, name: str, rank: int | None = None) -> Array:
        """A parameter of that many axes."""
        self.asked.add(name)
        if name not in self.parameters:
            raise Misfit(f"parameter '{name}' is missing")
        array = self.parameters[name]
        if rank is not None and array.ndim != rank:
            raise Misfit(f"parameter '{name}' is {list(array.shape)}, not of {rank} axes")
        return array

    def optional(self, name: str, rank: int) -> Array | None:
        """The same, or None where the layer has none."""
        return self.parameter(name, rank) if name in self.parameters else None


class Builder:
    """A graph in the making: layers are added in running order, every name is made unique."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values: set[str] = set()
        self.promised: set[str] = set()
        self.layers: set[str] = set()

    def promise(self, names: Sequence[str]) -> None:
        """Keep these names for outputs."""
        self.promised.update(names)

    def _unique(self, name: str, taken: set[str]) -> str:
        name = name or "_"
        chosen, i = name, 1
        while chosen in taken or (taken is self.values and chosen in self.promised):
            i += 1
            chosen = f"{name}~{i}"
        taken.add(chosen)
        return chosen

    def input(self, name: str, value: Value) -> str:
        if not name or name in self.values:
            raise Misfit(f"'{name}' is no name for an input")
        self.values.add(name)
        self.graph.inputs[name] = value
        return name

    def weight(self, name: str, array: Array) -> str:
        name = self._unique(name, self.values)
        self.graph.tensors[name] = Tensor.of(array)
        return name

    def reference(self, name: str, array: Array) -> TensorRef:
        return TensorRef(self.weight(name, array))

    def operator(
        self,
        op: str,
        inputs: Mapping[str, Any],
        attrs: Mapping[str, Any],
        name: str,
        count: int = 1,
    ) -> list[str]:
        """One layer; the names of its outputs. Defaults of the operator are written out."""
        known = ops.lookup(op)
        assert known is not None, op
        filled = {
            key: list(default) if isinstance(default, tuple) else default
            for key, default in known.attrs.items()
            if default is not None and default is not ops.REQUIRED
        }
        outputs = [
            self._unique(name if count == 1 else f"{name}/{i}", self.values) for i in range(count)
        ]
        label = self._unique(name, self.layers)
        self.graph.layers.append(Layer(label, op, dict(inputs), outputs, filled | dict(attrs)))
        return outputs

    def layer(self, node: Node, function: Callable[[Builder, Node], str]) -> str:
        """What the function makes of a node, which must have asked for all that the node tells."""
        value = function(self, node)
        node.finished()
        return value

    def output(self, name: str, value: str) -> None:
        """Let the value be an output of that name, which was promised."""
        graph = self.graph
        maker = next((layer for layer in graph.layers if value in layer.outputs), None)
        if name in self.values:
            if name != value:
                raise Misfit("an input has the same name, and is another value")
        elif maker is not None and value not in graph.outputs:
            maker.outputs = [name if made == value else made for made in maker.outputs]
            graph.replace(value, name)
            self.values.add(name)
        else:
            self.promised.discard(name)
            self.operator("Identity", {"input": value}, {}, name)
        graph.outputs[name] = Value("tensor", "", None)

    def transpose(self, value: str, perm: Sequence[int], name: str) -> str:
        if list(perm) == sorted(perm):
            return value
        return self.operator("Transpose", {"data": value}, {"perm": list(perm)}, name)[0]
