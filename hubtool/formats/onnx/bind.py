"""ModelProto -> Graph: every input bound by its formal name, every default written out.

What ONNX says by position and by leaving out, the layer graph says in full: `Conv`'s second input
is `W`, its `group` is 1 although nobody wrote it. Constant nodes become tensors. Every problem of
the whole model is collected before anything is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx.defs

from hubtool.dtypes import BITS, DTYPES, numpy_dtype
from hubtool.graph import Attr, Graph, Layer, Tensor, TensorRef, Value
from hubtool.ops import OPSETS, REQUIRED, Formal, lookup

__all__ = ["Binder", "value_of"]

Kind = onnx.AttributeProto
Resolve = Callable[[dict[str, str], int], memoryview]


class Binder:
    """Binds one model. `resolve` gives the bytes of a tensor that lie outside the protobuf, by its
    external_data entry and the size that its shape asks for, and raises ValueError."""

    def __init__(self, resolve: Resolve, opsets: dict[str, int]) -> None:
        self.resolve = resolve
        self.opsets = opsets
        self.problems: list[str] = []

    def graph(self, proto: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> Graph:
        """The graph of a GraphProto; `outer` holds the names that a subgraph may read."""
        graph = Graph(inputs={value.name: value_of(value.type) for value in proto.input})
        for tensor in proto.initializer:
            self._add_tensor(graph, tensor.name, tensor, f"initializer '{tensor.name}'")
        names = _unique_names(proto.node)
        known = set(outer) | set(graph.inputs) | set(graph.tensors)
        for node, name in zip(proto.node, names, strict=True):
            label = f"layer '{name}' ({node.op_type})"
            self._check_edges(node, known, label)
            known.update(filter(None, node.output))
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                self._constant(graph, node, label)
            else:
                self._layer(graph, node, name, label, frozenset(known))
        missing = [value.name for value in proto.output if value.name not in known]
        self.problems += [f"output '{name}' is made by no layer" for name in missing]
        graph.outputs = {value.name: value_of(value.type) for value in proto.output}
        made = {name for layer in graph.layers for name in layer.outputs} - set(graph.outputs)
        graph.values = {v.name: value_of(v.type) for v in proto.value_info if v.name in made}
        return graph

    def _check_edges(self, node: onnx.NodeProto, known: set[str], label: str) -> None:
        self.problems += [
            f"{label} reads '{name}' before anything has made it"
            for name in node.input
            if name and name not in known
        ]
        self.problems += [
            f"{label} makes '{name}', which exists already" for name in node.output if name in known
        ]

    def _layer(
        self, graph: Graph, node: onnx.NodeProto, name: str, label: str, known: frozenset[str]
    ) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        op = f"{domain}.{node.op_type}" if domain else node.op_type
        schema = _schema(op, node.op_type, domain, self.opsets.get(domain, 0))
        if schema is None:
            self.problems.append(f"{label}: no operator {op} is known")
            return
        formals, defaults = schema
        inputs = self._inputs(node, formals, label)
        attrs: dict[str, Attr] = {
            key: value
            for key, value in defaults.items()
            if value is not REQUIRED and value is not None
        }
        for attribute in node.attribute:
            if attribute.name not in defaults:
                self.problems.append(f"{label} has the unknown attribute '{attribute.name}'")
            else:
                scope = f"{name}/{attribute.name}"
                attrs[attribute.name] = self._attr(graph, attribute, scope, label, known)
        self.problems += [
            f"{label} lacks the attribute '{key}'"
            for key, value in defaults.items()
            if value is REQUIRED and key not in attrs
        ]
        graph.layers.append(Layer(name, op, inputs, list(node.output), attrs))

    def _inputs(
        self, node: onnx.NodeProto, formals: tuple[Formal, ...], label: str
    ) -> dict[str, str | list[str]]:
        inputs: dict[str, str | list[str]] = {}
        given = list(node.input)
        for index, formal in enumerate(formals):
            if formal.variadic:
                inputs[formal.name] = given[index:]
                return inputs
            if index < len(given) and given[index]:
                inputs[formal.name] = given[index]
            elif not formal.optional:
                self.problems.append(f"{label} lacks the input '{formal.name}'")
        if len(given) > len(formals):
            self.problems.append(
                f"{label} has {len(given)} inputs, at most {len(formals)} are known"
            )
        return inputs

    def _attr(
        self,
        graph: Graph,
        attribute: onnx.AttributeProto,
        scope: str,
        label: str,
        known: frozenset[str],
    ) -> Attr:
        match attribute.type:
            case Kind.FLOAT:
                return shortest(attribute.f)
            case Kind.INT:
                return int(attribute.i)
            case Kind.STRING:
                return _text(attribute.s)
            case Kind.FLOATS:
                return [shortest(item) for item in attribute.floats]
            case Kind.INTS:
                return [int(item) for item in attribute.ints]
            case Kind.STRINGS:
                return [_text(item) for item in attribute.strings]
            case Kind.TENSOR:
                while scope in graph.tensors or scope in known:
                    scope += "_"
                self._add_tensor(graph, scope, attribute.t, f"{label}: '{attribute.name}'")
                return TensorRef(scope)
            case Kind.GRAPH:
                return self.graph(attribute.g, known)
            case Kind.TYPE_PROTO:
                return value_of(attribute.tp)
        kind = Kind.AttributeType.Name(attribute.type)
        self.problems.append(f"{label}: attribute '{attribute.name}' is of the unknown kind {kind}")
        return 0

    def _constant(self, graph: Graph, node: onnx.NodeProto, label: str) -> None:
        """A Constant node becomes a tensor, whichever of its attributes holds the value."""
        (name,) = node.output
        if len(node.attribute) != 1:
            self.problems.append(f"{label} must have exactly one attribute")
            return
        (attribute,) = node.attribute
        if attribute.name == "value":
            self._add_tensor(graph, name, attribute.t, label)
        elif attribute.name in CONSTANTS:
            field, dtype = CONSTANTS[attribute.name]
            items: Any = getattr(attribute, field)
            if dtype == "string":
                items = items.decode() if field == "s" else [item.decode() for item in items]
            graph.tensors[name] = Tensor.of(np.array(items, numpy_dtype(dtype)))
        else:
            self.problems.append(f"{label}: '{attribute.name}' is no value that is known")

    def _add_tensor(self, graph: Graph, name: str, proto: onnx.TensorProto, label: str) -> None:
        if name in graph.tensors:
            self.problems.append(f"{label} exists twice")
            return
        try:
            graph.tensors[name] = self._tensor(proto)
        except ValueError as error:
            self.problems.append(f"{label}: {error}")

    def _tensor(self, proto: onnx.TensorProto) -> Tensor:
        dtype = DTYPES.get(proto.data_type)
        if dtype is None:
            raise ValueError(f"its element type {proto.data_type} is unknown")
        shape = tuple(proto.dims)
        if any(dim < 0 for dim in shape):
            raise ValueError(f"its shape {list(shape)} is negative")
        size = 1
        for dim in shape:
            size *= dim
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            return self._mapped(proto, dtype, shape, size)
        if proto.HasField("segment"):
            raise ValueError("it is stored in segments, which nobody ever wrote")
        _check_length(proto, dtype, size)
        return Tensor.of(_array(proto, dtype, shape))

    def _mapped(
        self, proto: onnx.TensorProto, dtype: str, shape: tuple[int, ...], size: int
    ) -> Tensor:
        if dtype == "string":
            raise ValueError("strings cannot be external data")
        entry = {item.key: item.value for item in proto.external_data}
        data = self.resolve(entry, (size * BITS[dtype] + 7) // 8)
        packed = BITS[dtype] < 8

        def load() -> np.ndarray[Any, Any]:
            if packed:
                copy = onnx.TensorProto(dims=shape, data_type=proto.data_type, raw_data=bytes(data))
                return _array(copy, dtype, shape)
            little = numpy_dtype(dtype).newbyteorder("<") if BITS[dtype] > 8 else numpy_dtype(dtype)
            return np.frombuffer(data, little).reshape(shape)

        return Tensor(dtype, shape, load)


CONSTANTS = {
    "value_float": ("f", "float32"),
    "value_floats": ("floats", "float32"),
    "value_int": ("i", "int64"),
    "value_ints": ("ints", "int64"),
    "value_string": ("s", "string"),
    "value_strings": ("strings", "string"),
}


def _check_length(proto: onnx.TensorProto, dtype: str, size: int) -> None:
    """Before anything is allocated: do the elements that are there fill the shape?"""
    if proto.HasField("raw_data"):
        given, wanted, unit = len(proto.raw_data), (size * BITS.get(dtype, 0) + 7) // 8, "bytes"
    else:
        fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
        given = sum(len(getattr(proto, field)) for field in fields) + len(proto.string_data)
        wanted, unit = size, "items"
        if dtype.startswith("complex"):
            wanted = 2 * size
        elif BITS.get(dtype, 8) < 8:
            wanted = (size * BITS[dtype] + 7) // 8
    if given != wanted:
        raise ValueError(f"it holds {given} {unit}, its shape and type ask for {wanted}")


def _array(proto: onnx.TensorProto, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = onnx.numpy_helper.to_array(proto)
    if dtype == "string":
        texts = [_text(item) if isinstance(item, bytes) else str(item) for item in array.flat]
        array = np.array(texts, dtype=object)
    return array.reshape(shape).astype(numpy_dtype(dtype), copy=False)


@cache
def _schema(
    op: str, op_type: str, domain: str, version: int
) -> tuple[tuple[Formal, ...], dict[str, Any]] | None:
    """The formal inputs, and the attributes with their defaults, of an operator: onnx's own
    schema where there is one, else hubtool's."""
    if domain not in OPSETS:
        return None
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        known = lookup(op)
        return None if known is None else (known.inputs, known.attrs)
    if schema.deprecated:
        return None
    option = onnx.defs.OpSchema.FormalParameterOption
    formals = tuple(
        Formal(i.name, i.option == option.Optional, i.option == option.Variadic)
        for i in schema.inputs
    )
    return formals, {key: _default(attribute) for key, attribute in schema.attributes.items()}


def _default(attribute: onnx.defs.OpSchema.Attribute) -> Any:
    """The default of a schema's attribute: REQUIRED, None where there is none, else its value."""
    if attribute.required:
        return REQUIRED
    value = (
        onnx.helper.get_attribute_value(attribute.default_value)
        if (attribute.default_value.name)
        else None
    )
    if isinstance(value, float):
        return shortest(value)
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [shortest(v) if isinstance(v, float) else v for v in value]
    return value


def shortest(value: float) -> float:
    """The number that a float32 is written as: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _text(data: bytes) -> Any:
    """Text where it is UTF-8, else the bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _unique_names(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """A name for every node: its own where it has one that is free, else its operator and place."""
    taken: set[str] = {node.name for node in nodes}
    used: set[str] = set()
    names: list[str] = []
    for index, node in enumerate(nodes):
        name = node.name
        if not name or name in used:
            stem = name or node.op_type
            number = index if not name else 2
            while (name := f"{stem}_{number}") in taken or name in used:
                number += 1
        used.add(name)
        names.append(name)
    return names


def value_of(proto: onnx.TypeProto) -> Value:
    """What a TypeProto says of a value."""
    match proto.WhichOneof("value"):
        case "tensor_type":
            return _tensor_value(proto.tensor_type)
        case "sequence_type":
            return _container("sequence", value_of(proto.sequence_type.elem_type))
        case "optional_type":
            return _container("optional", value_of(proto.optional_type.elem_type))
        case "map_type":
            key = DTYPES.get(proto.map_type.key_type, "")
            return _container(f"map({key})", value_of(proto.map_type.value_type))
    return Value("tensor", "", None)


def _container(kind: str, inner: Value) -> Value:
    held = "" if inner.kind == "tensor" else f"({inner.kind})"
    return Value(f"{kind}{held}", inner.dtype, inner.shape)


def _tensor_value(proto: onnx.TypeProto.Tensor) -> Value:
    dtype = DTYPES.get(proto.elem_type, "")
    if not proto.HasField("shape"):
        return Value("tensor", dtype, None)
    return Value("tensor", dtype, tuple(_dim(dim) for dim in proto.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    match dim.WhichOneof("value"):
        case "dim_value":
            return int(dim.dim_value)
        case "dim_param":
            return dim.dim_param or None
    return None
