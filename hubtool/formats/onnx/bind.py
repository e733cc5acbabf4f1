"""ModelProto -> Graph: every input bound by its formal name, every default written out.

What ONNX says by position and by leaving out, the layer graph says in full: `Conv`'s second input
is `W`, its `group` is 1 although nobody wrote it. Constant nodes become tensors. Every problem of
the whole model is collected before anything is raised.
"""

from __future__ import annotations

import math
from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Any, get_args, get_type_hints

import numpy as np
import onnx
import onnx.defs

from hubtool.dtypes import BITS, DTYPES, NUMBERS, numpy_dtype, shortest
from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.external import Resolve
from hubtool.graph import Attr, Graph, Layer, Tensor, TensorRef, Value
from hubtool.ops import OPSETS, REQUIRED, Formal, Op, lookup

__all__ = ["Binder", "Signature", "known_signature", "value_of"]

Kind = onnx.AttributeProto

MOST_DIMS = 64
"""numpy has no arrays of more dimensions."""

LAYOUTS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")
"""Domains that stand in files which ONNX Runtime has optimized for the machine at hand."""

MOST_OUTPUTS = 2**31 - 1
LONGEST = 200
UNNAMED = ("", "?", "-1", "None", "unk")


@dataclass(frozen=True)
class Signature:
    """What an operator takes and gives at one opset of its domain.

    attrs: the default of each attribute: REQUIRED, None where there is none, else its value.
    kinds: of which kind (AttributeProto.AttributeType) each attribute is, as far as it is known.
    outputs: the fewest and the most.
    """

    inputs: tuple[Formal, ...]
    attrs: dict[str, Any]
    kinds: dict[str, int]
    outputs: tuple[int, int]


@dataclass
class Scope:
    """A graph while it is bound.

    known: the names that exist so far, those of the graphs around it in the maps that follow.
    taken: every name of this graph, also those that are made later.
    """

    graph: Graph
    known: ChainMap[str, None]
    taken: set[str]


class Binder:
    """Binds one model, whose operators are those of `opsets`."""

    def __init__(self, resolve: Resolve, opsets: Mapping[str, int] = OPSETS) -> None:
        self.resolve = resolve
        self.opsets = opsets
        self.problems: list[str] = []

    def graph(self, proto: onnx.GraphProto, outer: Scope | None = None) -> Graph:
        """The graph of a GraphProto; a subgraph may read the names that `outer` knows."""
        graph = Graph(inputs={value.name: value_of(value.type) for value in proto.input})
        for tensor in proto.initializer:
            self._add_tensor(graph, tensor.name, tensor, f"initializer {_quoted(tensor.name)}")
        ends = {*graph.inputs, *(tensor.name for tensor in proto.initializer)}
        known = ChainMap(dict.fromkeys(ends), *(outer.known.maps if outer else ()))
        scope = Scope(graph, known, ends.union(*(node.output for node in proto.node)))
        for node, name in zip(proto.node, _unique_names(proto.node), strict=True):
            label = f"layer {_quoted(name)} ({node.op_type:.80})"
            self._check_edges(node, known, label)
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                self._constant(graph, node, label)
            else:
                self._layer(scope, node, name, label)
            known.update(dict.fromkeys(filter(None, node.output)))
        self._check_ends(proto, known)
        graph.outputs = {value.name: value_of(value.type) for value in proto.output}
        made = {name for layer in graph.layers for name in layer.outputs} - set(graph.outputs)
        graph.values = {v.name: value_of(v.type) for v in proto.value_info if v.name in made}
        return graph

    def _check_edges(self, node: onnx.NodeProto, known: ChainMap[str, None], label: str) -> None:
        self.problems += [
            f"{label} reads {_quoted(name)} before anything has made it"
            for name in node.input
            if name and name not in known
        ]
        self.problems += [
            f"{label} makes {_quoted(name)}, which exists already"
            for name, count in Counter(filter(None, node.output)).items()
            if name in known.maps[0] or count > 1
        ]

    def _check_ends(self, proto: onnx.GraphProto, known: ChainMap[str, None]) -> None:
        self.problems += [
            f"output {_quoted(value.name)} is made by no layer"
            for value in proto.output
            if value.name not in known
        ]
        if not proto.output:
            self.problems.append(f"graph {_quoted(proto.name)} has no outputs")
        for kind, values in (("input", proto.input), ("output", proto.output)):
            counts = Counter(value.name for value in values)
            self.problems += [
                f"{kind} {_quoted(name)} is listed {count} times"
                if name
                else f"an {kind} has no name"
                for name, count in counts.items()
                if count > 1 or not name
            ]

    def _layer(self, scope: Scope, node: onnx.NodeProto, name: str, label: str) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        op = f"{domain}.{node.op_type}" if domain else node.op_type
        if domain in OPSETS and domain not in self.opsets:
            self.problems.append(f"{label}: the model does not import its domain '{domain}'")
            return
        signature = None if "." in node.op_type else signature_of(op, self.opsets.get(domain, 0))
        if signature is None:
            self._unknown(op, domain, label)
            return
        least, most = signature.outputs
        if not least <= len(node.output) <= most:
            count = len(node.output)
            self.problems.append(f"{label} makes {count} values; {least} to {most} are possible")
        inputs = self._inputs(node, signature.inputs, label)
        attrs = self._attrs(scope, node, signature, name, label)
        scope.graph.layers.append(Layer(name, op, inputs, list(node.output), attrs))

    def _unknown(self, op: str, domain: str, label: str) -> None:
        """An operator that nobody knows; those of one machine's layout are told of only once."""
        if domain not in LAYOUTS:
            self.problems.append(f"{label}: no operator {_quoted(op)} is known")
        elif not any(f"'{domain}'" in problem for problem in self.problems):
            self.problems.append(
                f"{label} and others of domain '{domain}' compute in a memory layout that ONNX "
                "Runtime chose for one machine; save the model at its optimization level "
                "'extended' at most, or take the model from before"
            )

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
            most = len(formals)
            self.problems.append(f"{label} has {len(given)} inputs, at most {most} are known")
        return inputs

    def _attrs(
        self, scope: Scope, node: onnx.NodeProto, signature: Signature, name: str, label: str
    ) -> dict[str, Attr]:
        attrs: dict[str, Attr] = {
            key: [*value] if isinstance(value, list) else value
            for key, value in signature.attrs.items()
            if value not in (REQUIRED, None)
        }
        given: set[str] = set()
        for attribute in node.attribute:
            key = attribute.name
            wanted = signature.kinds.get(key, attribute.type)
            if key not in signature.attrs:
                self.problems.append(f"{label} has the unknown attribute {_quoted(key)}")
            elif key in given:
                self.problems.append(f"{label} has the attribute '{key}' twice")
            elif attribute.type != wanted:
                kind, other = map(Kind.AttributeType.Name, (attribute.type, wanted))
                self.problems.append(f"{label}: attribute '{key}' is of kind {kind}, not {other}")
            elif attribute.ref_attr_name:
                self.problems.append(f"{label}: attribute '{key}' stands for that of a function")
            else:
                attrs[key] = self._attr(scope, attribute, f"{name}/{key}", label)
            given.add(key)
        self.problems += [
            f"{label} lacks the attribute '{key}'"
            for key, value in signature.attrs.items()
            if value is REQUIRED and key not in given
        ]
        return attrs

    def _attr(self, scope: Scope, attribute: onnx.AttributeProto, name: str, label: str) -> Attr:
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
                while name in scope.taken or name in scope.known:
                    name += "_"
                scope.taken.add(name)
                self._add_tensor(scope.graph, name, attribute.t, f"{label}: '{attribute.name}'")
                return TensorRef(name)
            case Kind.GRAPH:
                return self.graph(attribute.g, scope)
            case Kind.TYPE_PROTO:
                return value_of(attribute.tp)
        kind = Kind.AttributeType.Name(attribute.type)
        self.problems.append(f"{label}: attribute '{attribute.name}' is of the unknown kind {kind}")
        return 0

    def _constant(self, graph: Graph, node: onnx.NodeProto, label: str) -> None:
        """A Constant node becomes a tensor, whichever of its attributes holds the value."""
        if len(node.attribute) != 1 or len(node.output) != 1:
            self.problems.append(f"{label} must have exactly one attribute and one output")
            return
        (attribute,) = node.attribute
        field, dtype, kind = CONSTANTS.get(attribute.name, ("", "", Kind.UNDEFINED))
        if not field or attribute.type != kind or attribute.ref_attr_name:
            self.problems.append(f"{label}: {_quoted(attribute.name)} is no value that is known")
        elif field == "t":
            self._add_tensor(graph, node.output[0], attribute.t, label)
        else:
            value: Any = getattr(attribute, field)
            if dtype == "string":
                value = _text(value) if field == "s" else [_text(item) for item in value]
            graph.tensors[node.output[0]] = Tensor.of(np.array(value, numpy_dtype(dtype)))

    def _add_tensor(self, graph: Graph, name: str, proto: onnx.TensorProto, label: str) -> None:
        if name in graph.tensors or not name:
            self.problems.append(f"{label} exists twice" if name else f"{label} lacks a name")
            return
        try:
            graph.tensors[name] = self.tensor(proto)
        except ValueError as error:
            self.problems.append(f"{label}: {error}")

    def tensor(self, proto: onnx.TensorProto) -> Tensor:
        """The tensor of a TensorProto; ValueError where its elements are not what its shape and
        type ask for."""
        data = self.check(proto)
        dtype, shape = DTYPES[proto.data_type], tuple(proto.dims)
        if data is None:
            return Tensor.of(_array(proto, dtype, shape))

        def load() -> np.ndarray[Any, Any]:
            if BITS[dtype] < 8:
                copy = onnx.TensorProto(dims=shape, data_type=proto.data_type, raw_data=bytes(data))
                return _array(copy, dtype, shape)
            little = numpy_dtype(dtype).newbyteorder("<") if BITS[dtype] > 8 else numpy_dtype(dtype)
            return np.frombuffer(data, little).reshape(shape)

        return Tensor(dtype, shape, load)

    def check(self, proto: onnx.TensorProto) -> memoryview | None:
        """Nothing is allocated before it is certain that there are as many elements as the shape
        asks for. Gives them where they lie outside the protobuf; ValueError says what is wrong."""
        dtype = DTYPES.get(proto.data_type)
        if dtype is None:
            raise ValueError(f"its element type {proto.data_type} is unknown")
        if len(proto.dims) > MOST_DIMS:
            raise ValueError(
                f"it has {len(proto.dims)} dimensions, at most {MOST_DIMS} are possible"
            )
        # A dimension of 0 makes the others meaningless, but numpy multiplies them all the same.
        if min(proto.dims, default=0) < 0 or math.prod(dim or 1 for dim in proto.dims) >= 2**56:
            raise ValueError(f"its shape {list(proto.dims)} is negative or too large")
        size = math.prod(proto.dims)
        if proto.data_location != onnx.TensorProto.EXTERNAL:
            _check_length(proto, dtype, size)
            return None
        if dtype == "string":
            raise ValueError("strings cannot be external data")
        entry = {item.key: item.value for item in proto.external_data}
        if len(entry) != len(proto.external_data):
            raise ValueError("its external data has a key twice")
        return self.resolve(entry, (size * BITS[dtype] + 7) // 8)


# Constant's attributes: the field of AttributeProto that holds the value, its element type, and the
# attribute's kind. `sparse_value` has become `value` in the lifting.
CONSTANTS = {
    "value": ("t", "", Kind.TENSOR),
    "value_float": ("f", "float32", Kind.FLOAT),
    "value_floats": ("floats", "float32", Kind.FLOATS),
    "value_int": ("i", "int64", Kind.INT),
    "value_ints": ("ints", "int64", Kind.INTS),
    "value_string": ("s", "string", Kind.STRING),
    "value_strings": ("strings", "string", Kind.STRINGS),
}


def _check_length(proto: onnx.TensorProto, dtype: str, size: int) -> None:
    """Whether the elements that are in the protobuf fill the shape."""
    if proto.HasField("segment"):
        raise ValueError("it is stored in segments, which nobody ever wrote")
    if proto.HasField("raw_data"):
        given, wanted, unit = len(proto.raw_data), (size * BITS.get(dtype, 0) + 7) // 8, "bytes"
    else:
        given, wanted, unit = len(getattr(proto, _data_field(dtype))), size, "items"
        if dtype.startswith("complex"):
            wanted = 2 * size
        elif BITS.get(dtype, 8) < 8:
            wanted = (size * BITS[dtype] + 7) // 8
    if given != wanted:
        raise ValueError(f"it holds {given} {unit}, its shape and type ask for {wanted}")


@cache
def _data_field(dtype: str) -> str:
    """The field of TensorProto for a dtype's elements, where they are not in raw_data."""
    return str(onnx.helper.tensor_dtype_to_field(NUMBERS[dtype]))


def _array(proto: onnx.TensorProto, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if dtype == "string":
        # Not by onnx's way over numpy's strings, which take the room of the longest for each.
        texts = np.array([_text(item) for item in proto.string_data], dtype=object)
        return texts.reshape(shape)
    array: np.ndarray[Any, Any] = onnx.numpy_helper.to_array(proto)
    return array.reshape(shape).astype(numpy_dtype(dtype), copy=False)


@cache
def signature_of(op: str, version: int) -> Signature | None:
    """The signature of an operator at an opset of its domain: by onnx's own schema where it knows
    the operator, else by hubtool's; None if there is none."""
    domain, _, name = op.rpartition(".")
    try:
        schema = onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        known = None if onnx.defs.has(name, domain) else lookup(op)
        return None if known is None else _own_signature(known)
    if schema.deprecated:
        return None
    option = onnx.defs.OpSchema.FormalParameterOption
    return Signature(
        tuple(
            Formal(i.name, i.option == option.Optional, i.option == option.Variadic)
            for i in schema.inputs
        ),
        {key: _default(attribute) for key, attribute in schema.attributes.items()},
        {key: _kind(attribute) for key, attribute in schema.attributes.items()},
        (schema.min_output, schema.max_output),
    )


ONE = {int: Kind.INT, float: Kind.FLOAT, str: Kind.STRING}
MANY = {int: Kind.INTS, float: Kind.FLOATS, str: Kind.STRINGS}


def _own_signature(known: Op) -> Signature:
    """What hubtool's function says of an operator of which onnx has no schema, as com.microsoft's;
    how many outputs there may be it does not say."""
    hints = get_type_hints(known.function)
    kinds = {key: kind for key in known.attrs if (kind := _kind_of_hint(hints[key]))}
    return Signature(known.inputs, known.attrs, kinds, (0, MOST_OUTPUTS))


def _kind_of_hint(hint: Any) -> int | None:
    """The kind of attribute that a parameter of that type stands for."""
    for option in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        items = get_args(option)
        kind = MANY.get(items[0]) if items else ONE.get(option)
        if kind:
            return int(kind)
    return None


def known_signature(op: str, version: int) -> Signature:
    """`signature_of` an operator that a graph holds already; UnsupportedError if it has none."""
    found = signature_of(op, version)
    if found is None:
        raise UnsupportedError(f"operator {op} has no schema, so it cannot be written as ONNX")
    return found


def _kind(attribute: Any) -> int:
    return int(attribute.type.value)


def _default(attribute: onnx.defs.OpSchema.Attribute) -> Any:
    """The default of a schema's attribute: REQUIRED, None where there is none, else its value."""
    if attribute.required:
        return REQUIRED
    if not attribute.default_value.name:
        return None
    value = onnx.helper.get_attribute_value(attribute.default_value)
    if isinstance(value, float):
        return shortest(value)
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_item(item) for item in value]
    return value


def _item(value: Any) -> Any:
    if isinstance(value, bytes):
        return _text(value)
    return shortest(value) if isinstance(value, float) else value


def _text(data: bytes) -> str | bytes:
    """Text where it is UTF-8, else the bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _quoted(name: str) -> str:
    """A name as it stands in messages: hostile ones are megabytes long."""
    return f"'{name}'" if len(name) <= LONGEST else f"'{name[:LONGEST]}…'"


def _unique_names(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """A name for every node: its own where it has one that is free, else its operator and place."""
    taken = {node.name for node in nodes}
    used: set[str] = set()
    numbers: dict[str, int] = {}
    names: list[str] = []
    for index, node in enumerate(nodes):
        name = node.name
        if not name or name in used:
            stem = name or node.op_type
            number = max(numbers.get(stem, 0), 2 if name else index)
            while (name := f"{stem}_{number}") in taken:
                number += 1
            numbers[stem] = number + 1
            taken.add(name)
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
        case "dim_value":  # some exporters write -1 for what is not known
            return int(dim.dim_value) if dim.dim_value >= 0 else None
        case "dim_param":  # and some "?", the same one for sizes that differ
            return dim.dim_param if dim.dim_param not in UNNAMED else None
    return None
