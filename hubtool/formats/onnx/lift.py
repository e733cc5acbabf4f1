"""Brings a model to the pinned opset, with onnx's own C++: what the worker process runs.

In this order, for the reasons given in docs/architecture.md: sparse tensors are made dense (the
converter stops at them), functions are inlined (lifting first would drop them silently), what the
converter would get wrong is repaired (old.py, repair.py), the opset is lifted, what the converter
left wrong is settled (repair.py), shapes are inferred.
Everything here sees a skeleton: the large weights are not in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
from google.protobuf.message import DecodeError

from hubtool.errors import UnsupportedError
from hubtool.formats.onnx import lift_ml, old, repair
from hubtool.formats.onnx.walk import PINNED, graphs_in
from hubtool.ops import OPSETS

__all__ = ["Lifted", "attempt", "lift", "parse"]

OPSET = OPSETS[""]
DENSE_LIMIT = 2**24
"""So many items may the sparse tensors of a model have when they are made dense."""

Kind = onnx.AttributeProto


@dataclass
class Lifted:
    """A model at the pinned opset, with what it was before and what had to be repaired."""

    model: onnx.ModelProto
    opset: int
    ir_version: int
    notes: list[str] = field(default_factory=list)


def attempt(data: bytes) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """`lift`, and what became of it: {opset, ir_version, notes}, or {error}, or {problems}."""
    try:
        lifted = lift(data)
    except UnsupportedError as error:
        return onnx.ModelProto(), {"problems": error.problems}
    except MemoryError:
        return onnx.ModelProto(), {"error": "converting it takes more memory than there is"}
    except Exception as error:
        return onnx.ModelProto(), {"error": str(error).strip() or type(error).__name__}
    facts = {"opset": lifted.opset, "ir_version": lifted.ir_version, "notes": lifted.notes}
    return lifted.model, facts


def lift(data: bytes) -> Lifted:
    """Parse a skeleton and bring it to the pinned opset.

    Raises UnsupportedError with the layers that cannot be lifted, or, where onnx stumbles over
    one, with all that are no valid use of their operator; else ValueError, or what onnx raises.
    """
    model = parse(data)
    opset = _opset(model)
    lifted = Lifted(model, opset, model.ir_version)
    _densify(model)
    if model.functions:
        repair.functions(model, opset)
        repair.defaults(model)
        imports = [entry for function in model.functions for entry in function.opset_import]
        if any(_is_onnx(entry.domain) and entry.version != opset for entry in imports):
            # Converting a function while it is inlined takes the types of what it is given.
            model = onnx.shape_inference.infer_shapes(model)
        model = onnx.inliner.inline_local_functions(model, convert_version=True)
    _drop_weights_from_inputs(model)
    try:
        if opset < old.TARGET:
            old.rewrite(model, opset)
            opset = old.TARGET
        repair.repair(model, opset, lifted.notes)
        lifted.model = _converted(model, _opset(model), lifted.notes)
    except UnsupportedError:
        raise
    except Exception as error:
        problems = _problems(model)
        if problems:
            raise UnsupportedError("it cannot be converted", problems=problems) from error
        raise
    return lifted


def parse(data: bytes) -> onnx.ModelProto:
    """The model of a skeleton; ValueError where protobuf finds none."""
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise ValueError(
            "it is damaged or no ONNX model, or nested too deep: protobuf cannot parse it"
        ) from None
    if not model.HasField("graph"):
        raise ValueError("it holds no graph: this is no ONNX model")
    return model


def _converted(model: onnx.ModelProto, opset: int, notes: list[str]) -> onnx.ModelProto:
    if opset < OPSET:
        model.ir_version = onnx.IR_VERSION
        before = repair.made_names(model)
        model = onnx.version_converter.convert_version(model, OPSET)
        repair.settle(model, opset, before, notes)
    lift_ml.rewrite(model)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return inferred


def _problems(model: onnx.ModelProto) -> list[str]:
    """What the binder has to say of a model that could not be converted, at its own opsets."""
    from hubtool.formats.onnx.bind import Binder

    opsets = {("" if e.domain == "ai.onnx" else e.domain): e.version for e in model.opset_import}
    binder = Binder(lambda entry, size: memoryview(b""), opsets)
    binder.graph(model.graph)
    return [problem for problem in binder.problems if PINNED not in problem]


def _opset(model: onnx.ModelProto) -> int:
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise ValueError(
            f"it has IR version {model.ir_version}, and this hubtool knows IR versions up to "
            f"{onnx.IR_VERSION}; it is damaged, or too new"
        )
    versions = {entry.version for entry in model.opset_import if _is_onnx(entry.domain)}
    if len(versions) > 1:
        raise ValueError(f"it is written for more than one opset: {sorted(versions)}")
    if not versions:
        # Before IR 3 there was no opset_import, and opset 1 was meant; a model may also have
        # operators of other domains only.
        if model.ir_version >= 3 and any(_is_onnx(node.domain) for node in model.graph.node):
            raise ValueError("it does not say for which opset it is written; it may be cut off")
        versions = {1 if model.ir_version < 3 else OPSET}
        model.opset_import.add(domain="", version=min(versions))
    (opset,) = versions
    if opset > OPSET:
        raise ValueError(
            f"it is written for opset {opset}, and this hubtool knows opsets up to {OPSET}; "
            "upgrade hubtool"
        )
    if opset < 1:
        raise ValueError(f"it is written for opset {opset}, which there never was")
    return int(opset)


def _is_onnx(domain: str) -> bool:
    return domain in ("", "ai.onnx")


def _densify(model: onnx.ModelProto) -> None:
    """Sparse initializers and the sparse values of Constant nodes become ordinary tensors."""
    room = DENSE_LIMIT
    scopes: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    for scope in [*scopes]:
        scopes += graphs_in(scope.node)
    for scope in scopes:
        for node in scope.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.type == Kind.SPARSE_TENSOR:
                    room -= math.prod(attribute.sparse_tensor.dims)
                    dense = _dense(attribute.sparse_tensor, room)
                    attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
        if isinstance(scope, onnx.GraphProto):
            for sparse in scope.sparse_initializer:
                room -= math.prod(sparse.dims)
                scope.initializer.append(_dense(sparse, room))
            scope.ClearField("sparse_initializer")


def _dense(sparse: onnx.SparseTensorProto, room: int) -> onnx.TensorProto:
    """Both kinds of indices are known: [nnz], places in the flattened tensor, and [nnz, rank]."""
    name, shape = sparse.values.name, tuple(sparse.dims)
    if room < 0 or min(shape, default=0) < 0:
        raise ValueError(f"the shape {list(shape)} of sparse tensor '{name}' is too large")
    for part in (sparse.values, sparse.indices):
        if part.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"sparse tensor '{name}' has external data, which is not supported")
    values = onnx.numpy_helper.to_array(sparse.values).reshape(-1)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), shape)
    if indices.shape != values.shape or (indices < 0).any():
        raise ValueError(f"sparse tensor '{name}' has other indices than values")
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[indices] = values
    return onnx.numpy_helper.from_array(dense.reshape(shape), name)


def _drop_weights_from_inputs(model: onnx.ModelProto) -> None:
    """Below IR 4 every initializer had to be listed as an input and was a constant all the same;
    from IR 4 such an input may be overridden by the caller. Say it the new way."""
    if model.ir_version >= 4:
        return
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = 4
