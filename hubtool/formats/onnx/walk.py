"""What the repairs of old models share: to go through a model's graphs, and what stands in them.

A name is looked up in all of a model's graphs at once: ONNX wants a name to be made once only, its
subgraphs included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference

__all__ = [
    "PINNED",
    "Names",
    "Shapes",
    "Steps",
    "attributes",
    "dtypes_of",
    "every_graph",
    "graphs_in",
    "is_onnx",
    "label",
    "names_read",
    "nodes_of",
    "numbers_of",
    "shapes_of",
]

Shapes = dict[str, tuple[int, ...]]
"""By name; 0 for a size that is unknown."""


PINNED = "hubtool.pinned"
"""The domain of layers that are written at once as the pinned opset has them: what is foreign the
converter leaves as it is."""


class Names:
    """The names of all values and layers of a model, to find one that is free."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.taken: set[str] = set()
        for graph in every_graph(model):
            self.taken.update(value.name for value in (*graph.input, *graph.output))
            self.taken.update(tensor.name for tensor in graph.initializer)
            for node in graph.node:
                self.taken.update([node.name, *node.input, *node.output])

    def fresh(self, name: str) -> str:
        """The name, or one like it where it is taken; taken from now on."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


class Steps:
    """Layers that stand for one, in the making: each gives one value, named after a `stem`."""

    def __init__(self, names: Names, stem: str) -> None:
        self.names = names
        self.stem = stem
        self.nodes: list[onnx.NodeProto] = []

    def add(self, op: str, inputs: list[str], part: str, **given: Any) -> str:
        """Add a layer; gives the name of what it makes."""
        name = self.names.fresh(f"{self.stem}_{part}")
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], name, **given))
        return name

    def constant(self, array: Any, part: str) -> str:
        """Add a constant: integers where nothing else is said."""
        array = array if isinstance(array, np.ndarray) else np.array(array, np.int64)
        return self.add("Constant", [], part, value=onnx.numpy_helper.from_array(array))


def every_graph(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph of a model and all below it."""
    yield model.graph
    yield from graphs_in(model.graph.node)


def graphs_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """All graphs that stand in the attributes of nodes."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
                yield from graphs_in(attribute.g.node)


def is_onnx(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")


def nodes_of(graph: onnx.GraphProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == op and is_onnx(node)]


def label(node: onnx.NodeProto) -> str:
    return f"layer '{node.name or ''.join(node.output[:1]):.200}' ({node.op_type:.80})"


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def names_read(model: onnx.ModelProto) -> set[str]:
    """The names that a layer reads or a graph gives."""
    read = {value.name for graph in every_graph(model) for value in graph.output}
    read.update(name for graph in every_graph(model) for node in graph.node for name in node.input)
    return read


def shapes_of(model: onnx.ModelProto, *, inferred: bool = False) -> Shapes:
    """The shapes that are told of inputs, initializers and constants; with `inferred` also those
    that follow."""
    shapes: Shapes = {}
    for graph in every_graph(_inferred(model) if inferred else model):
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                shapes[value.name] = tuple(max(dim.dim_value, 0) for dim in dims)
        shapes.update((name, tuple(tensor.dims)) for name, tensor in _tensors(graph))
    return shapes


def dtypes_of(model: onnx.ModelProto) -> dict[str, int]:
    """The element types of all values of which one is known, by ONNX's numbers."""
    dtypes: dict[str, int] = {}
    for graph in every_graph(_inferred(model)):
        for value in (*graph.input, *graph.value_info, *graph.output):
            dtypes[value.name] = value.type.tensor_type.elem_type
        dtypes.update((name, tensor.data_type) for name, tensor in _tensors(graph))
    return dtypes


def numbers_of(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    """The elements of initializers and constants, if they are numbers and at hand."""
    return {
        name: onnx.numpy_helper.to_array(tensor)
        for graph in every_graph(model)
        for name, tensor in _tensors(graph)
        if tensor.data_location != tensor.EXTERNAL and tensor.data_type != tensor.STRING
    }


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with what onnx infers; as it is where onnx stumbles over something invalid."""
    try:
        inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        return model
    return inferred


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in nodes_of(graph, "Constant"):
        if node.output and len(node.attribute) == 1 and node.attribute[0].HasField("t"):
            yield node.output[0], node.attribute[0].t
