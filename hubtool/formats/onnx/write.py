"""From a layer graph to ONNX: `to_model` makes the skeleton, `write` streams weights around it.

The mirror of reading: a ModelProto is built that holds every layer and the small tensors; the
large ones are written into the file straight from where they are mapped, so that writing takes no
memory for them. A model past protobuf's 2 GB leaves with its weights beside it, as external data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx

import hubtool
from hubtool.dtypes import BITS, NUMBERS, numpy_dtype
from hubtool.errors import UnsupportedError, WriteError
from hubtool.files import new_file
from hubtool.formats.onnx import wire
from hubtool.formats.onnx.bind import known_signature
from hubtool.formats.onnx.lower import lowest_opset, needs
from hubtool.formats.onnx.read import METADATA
from hubtool.graph import Attr, Graph, Layer, Tensor, TensorRef, Value, names_read
from hubtool.ops import OPSETS

__all__ = ["to_model", "write"]

MOST_BYTES = 2**31 - 2**20
"""protobuf cannot hold 2 GiB in one message."""

ALIGNMENT = 4096
"""External data starts at whole pages, so that runtimes can map each tensor."""


def write(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    external: bool | None = None,
    overwrite: bool = False,
) -> int:
    """Write the graph as an ONNX file; gives the opset that it was written at.

    opset: the lowest that can say the graph when None; ops that need a higher one are all named.
    external: weights into a file beside it; when None, only past protobuf's 2 GB.
    Raises WriteError (the target exists, or cannot be so large), UnsupportedError (the opset
    cannot say the graph).
    """
    path = Path(path)
    model, large = to_model(graph, opset)
    size = model.ByteSize() + sum(nbytes(tensor) for tensor in large.values())
    external = size > MOST_BYTES if external is None else external
    if size > MOST_BYTES and not (external and large):
        raise WriteError(
            f"cannot write '{path}': protobuf holds no more than 2 GB in one file",
            hint="Let the weights go into a file beside it: external=True.",
        )
    with ExitStack() as stack:
        # The weights are put in place first, and neither file if anything goes wrong before.
        stream = stack.enter_context(new_file(path, overwrite=overwrite))
        if large and external:
            data = path.with_name(f"{path.stem}-{_digest(large)}.data")
            beside = stack.enter_context(new_file(data, overwrite=True))
            _write_external(model, large, beside, data.name)
            large = {}
        _write_model(model, large, stream)
    return int(model.opset_import[0].version)


def to_model(graph: Graph, opset: int | None = None) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """The ModelProto of a graph without its large weights, and those by name.

    The large ones are not mentioned in it: whoever calls adds them as he stores them.
    """
    lowest = lowest_opset(graph)
    opset = lowest if opset is None else opset
    if not lowest <= opset <= OPSETS[""]:
        late = {name: least for name, least in needs(graph).items() if least > opset}
        raise UnsupportedError(
            f"opset {opset} cannot say this model; it needs {lowest} to {OPSETS['']}",
            problems=[f"layer '{name}' needs opset {least}" for name, least in late.items()],
            hint=f"Leave --opset out to get the lowest that can: {lowest}.",
        )
    opsets = {"": opset, **{domain: OPSETS.get(domain, 0) for domain in _domains(graph)}}
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.ModelProto(
        ir_version=max(4, onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)),
        producer_name="hubtool",
        producer_version=hubtool.__version__,
        opset_import=imports,
    )
    attached = _attached(graph)
    large = {
        name: tensor
        for name, tensor in graph.tensors.items()
        if name not in attached and _is_large(tensor)
    }
    _fill(model.graph, graph, opset, set(large))
    model.graph.name = str(graph.meta.get("name") or "model")
    for key, text in _metadata(graph):
        model.metadata_props.add(key=key, value=text)
    return model, large


def _is_large(tensor: Tensor) -> bool:
    return tensor.dtype != "string" and nbytes(tensor) >= wire.LARGE and BITS[tensor.dtype] >= 8


def nbytes(tensor: Tensor) -> int:
    """The bytes that ONNX stores a tensor in."""
    return (tensor.size * BITS[tensor.dtype] + 7) // 8


def _domains(graph: Graph) -> list[str]:
    found = {layer.op.rpartition(".")[0] for layer in graph.layers}
    for layer in graph.layers:
        for body in layer.subgraphs().values():
            found.update(_domains(body))
    return sorted(found - {""})


def _metadata(graph: Graph) -> Iterable[tuple[str, str]]:
    for key in METADATA:
        if key in graph.meta:
            yield f"hubtool.{key}", json.dumps(graph.meta[key], ensure_ascii=False)
    others: dict[str, str] = graph.meta.get("metadata", {})
    yield from others.items()


def _fill(proto: onnx.GraphProto, graph: Graph, opset: int, large: set[str]) -> None:
    attached = _attached(graph)
    for name, value in graph.inputs.items():
        proto.input.append(_value_info(name, value))
    for name, value in graph.outputs.items():
        proto.output.append(_value_info(name, value))
    for name, tensor in graph.tensors.items():
        if name not in large and name not in attached:
            proto.initializer.append(tensor_proto(name, tensor))
    for layer in graph.layers:
        proto.node.append(_node(layer, graph, opset))


def _attached(graph: Graph) -> set[str]:
    """The tensors that are attributes and nothing else: they are written inside their node."""
    attributes = {
        attr.name
        for layer in graph.layers
        for attr in layer.attrs.values()
        if isinstance(attr, TensorRef)
    }
    read = {name for layer in graph.layers for name in names_read(layer)} if attributes else set()
    return attributes - read - set(graph.outputs)


def _node(layer: Layer, graph: Graph, opset: int) -> onnx.NodeProto:
    domain, _, op_type = layer.op.rpartition(".")
    formals = known_signature(layer.op, OPSETS.get(domain, 0)).inputs
    inputs: list[str] = []
    for formal in formals:
        names = layer.inputs.get(formal.name, "")
        inputs += names if isinstance(names, list) else [] if formal.variadic else [names]
    # In front of variadic inputs ("v_initial" of a Loop) none may be left out, even if none follow.
    least = next((index for index, formal in enumerate(formals) if formal.variadic), 0)
    while len(inputs) > least and not inputs[-1]:
        inputs.pop()
    node = onnx.NodeProto(
        name=layer.name, op_type=op_type, domain=domain, input=inputs, output=layer.outputs
    )
    known = known_signature(layer.op, OPSETS[domain] if domain else opset)
    for key, attr in layer.attrs.items():
        if key in known.attrs and attr != known.attrs[key]:
            node.attribute.append(_attribute(key, attr, known.kinds.get(key), graph, opset))
    return node


def _attribute(
    key: str, attr: Attr, kind: int | None, graph: Graph, opset: int
) -> onnx.AttributeProto:
    if isinstance(attr, TensorRef):
        attr = tensor_proto("", graph.tensors[attr.name])
    elif isinstance(attr, Graph):
        body = onnx.GraphProto(name=key)
        _fill(body, attr, opset, set())
        attr = body
    elif isinstance(attr, Value):
        attr = _type(attr)
    return onnx.helper.make_attribute(key, attr, attr_type=kind)


def tensor_proto(name: str, tensor: Tensor) -> onnx.TensorProto:
    """A TensorProto that holds its elements."""
    if tensor.dtype != "string":
        array = np.asarray(tensor.array, numpy_dtype(tensor.dtype), order="C")
        return onnx.numpy_helper.from_array(array, name)
    texts = [s if isinstance(s, bytes) else str(s).encode() for s in tensor.array.flat]
    return onnx.TensorProto(
        name=name, dims=tensor.shape, data_type=onnx.TensorProto.STRING, string_data=texts
    )


def _value_info(name: str, value: Value) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name, type=_type(value))


def _type(value: Value) -> onnx.TypeProto:
    outer, _, held = value.kind.partition("(")
    inner = Value(held.removesuffix(")") or "tensor", value.dtype, value.shape)
    match outer:
        case "sequence":
            return onnx.helper.make_sequence_type_proto(_type(inner))
        case "optional":
            return onnx.helper.make_optional_type_proto(_type(inner))
        case "map":
            inner = Value("tensor", value.dtype, value.shape)
            return onnx.helper.make_map_type_proto(NUMBERS[held.removesuffix(")")], _type(inner))
    proto = onnx.TypeProto()
    proto.tensor_type.elem_type = NUMBERS.get(value.dtype, 0)
    if value.shape is not None:
        proto.tensor_type.shape.SetInParent()
        for dim in value.shape:
            entry = proto.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                entry.dim_value = dim
            elif dim:
                entry.dim_param = dim
    return proto


def _write_model(model: onnx.ModelProto, large: dict[str, Tensor], stream: BinaryIO) -> None:
    """The model with the large weights as further initializers at the end of its graph."""
    heads = {name: _tensor_head(name, tensor) for name, tensor in large.items()}
    graph = model.graph.SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    length = len(graph)
    for name, head in heads.items():
        body = len(head) + nbytes(large[name])
        length += len(wire.tag(5, wire.BYTES) + wire.varint(body)) + body
    stream.write(rest.SerializeToString())
    stream.write(wire.tag(7, wire.BYTES) + wire.varint(length))
    stream.write(graph)
    for name, head in heads.items():
        stream.write(wire.tag(5, wire.BYTES) + wire.varint(len(head) + nbytes(large[name])))
        stream.write(head)
        stream.write(elements(large[name]))


def _tensor_head(name: str, tensor: Tensor) -> bytes:
    """All of a TensorProto but the elements, which follow as raw_data."""
    proto = onnx.TensorProto(name=name, dims=tensor.shape, data_type=NUMBERS[tensor.dtype])
    raw_data = wire.tag(9, wire.BYTES) + wire.varint(nbytes(tensor))
    return bytes(proto.SerializeToString()) + raw_data


def elements(tensor: Tensor) -> memoryview:
    """A tensor's elements as little-endian bytes, without a copy where they lie so."""
    array: np.ndarray[Any, Any] = np.ascontiguousarray(tensor.array).reshape(-1)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.view(np.uint8).data


def _write_external(
    model: onnx.ModelProto, large: dict[str, Tensor], stream: BinaryIO, location: str
) -> None:
    """The large weights into `stream`, each at a whole page, and where they are into the model."""
    for name, tensor in large.items():
        offset = -(-stream.tell() // ALIGNMENT) * ALIGNMENT
        stream.write(b"\0" * (offset - stream.tell()))
        stream.write(elements(tensor))
        add_external(model, name, tensor, location, offset)


def add_external(
    model: onnx.ModelProto, name: str, tensor: Tensor, location: str, offset: int
) -> None:
    """Add an initializer whose elements lie in another file."""
    proto = model.graph.initializer.add(
        name=name,
        dims=tensor.shape,
        data_type=NUMBERS[tensor.dtype],
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, text in (("location", location), ("offset", offset), ("length", nbytes(tensor))):
        proto.external_data.add(key=key, value=str(text))


def _digest(large: dict[str, Tensor]) -> str:
    """A short name for these weights: the data file of another version is never written over
    while a model still points to it."""
    digest = hashlib.sha256()
    for tensor in large.values():
        digest.update(elements(tensor))
    return digest.hexdigest()[:12]
