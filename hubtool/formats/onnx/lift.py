"""Brings a model to the pinned opset, with onnx's own C++: what the worker process runs.

In this order, for the reasons given in docs/architecture.md: sparse initializers are made dense
(the converter stops at them), functions are inlined (lifting first would drop them silently), old
forms that the converter does not know are repaired, the opset is lifted, shapes are inferred.
Everything here sees a skeleton: the large weights are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter

from hubtool.ops import OPSETS

__all__ = ["Lifted", "lift"]

OPSET = OPSETS[""]


@dataclass
class Lifted:
    """A model at the pinned opset, with what it was before and what had to be repaired."""

    model: onnx.ModelProto
    opset: int
    ir_version: int
    notes: list[str] = field(default_factory=list)


def lift(data: bytes) -> Lifted:
    """Parse a skeleton and bring it to the pinned opset. ValueError says what is wrong."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    opset = _opset(model)
    lifted = Lifted(model, opset, model.ir_version)
    for graph in _graphs(model.graph):
        _densify(graph)
    if model.functions:
        lifted.model = model = onnx.inliner.inline_local_functions(model, convert_version=True)
    _drop_weights_from_inputs(model)
    _repair_spatial(model, lifted.notes)
    opset = _opset(model)
    if opset < OPSET:
        model.ir_version = onnx.IR_VERSION
        lifted.model = onnx.version_converter.convert_version(model, OPSET)
    lifted.model = onnx.shape_inference.infer_shapes(lifted.model, data_prop=True)
    return lifted


def _opset(model: onnx.ModelProto) -> int:
    if not model.HasField("graph") or not model.opset_import and model.ir_version < 1:
        raise ValueError("it holds no graph: this is no ONNX model")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx"))
    if opset is None:
        # Before IR 3 there was no opset_import, and opset 1 was meant; a model may also have
        # operators of other domains only.
        opset = 1 if model.ir_version < 3 else OPSET
        model.opset_import.add(domain="", version=opset)
    if opset > OPSET:
        raise ValueError(
            f"it is written for opset {opset}, and this hubtool knows opsets up to {OPSET}; "
            "upgrade hubtool"
        )
    return int(opset)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all its subgraphs."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _densify(graph: onnx.GraphProto) -> None:
    """Sparse initializers become ordinary ones. Both kinds of indices are known: [nnz], places in
    the flattened tensor, and [nnz, rank]."""
    for sparse in graph.sparse_initializer:
        shape = tuple(sparse.dims)
        name = sparse.values.name
        if int(np.prod(shape, dtype=object)) > DENSE_LIMIT:
            raise ValueError(
                f"sparse initializer '{name}' would have more than {DENSE_LIMIT} items"
            )
        values = onnx.numpy_helper.to_array(sparse.values)
        indices = onnx.numpy_helper.to_array(sparse.indices)
        dense = np.zeros(shape, values.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        graph.initializer.append(onnx.numpy_helper.from_array(dense, name))
    graph.ClearField("sparse_initializer")


DENSE_LIMIT = 2**28


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


def _repair_spatial(model: onnx.ModelProto, notes: list[str]) -> None:
    """BatchNormalization with spatial=0 and statistics of one axis is invalid, and was meant as
    spatial=1: the zoo's ResNets before April 2020 (onnx/models#146). Real spatial=0, with
    statistics of every position, is refused."""
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    repaired = 0
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
            continue
        spatial = [attribute for attribute in node.attribute if attribute.name == "spatial"]
        if not spatial or spatial[0].i == 1:
            continue
        if any(ranks.get(name, 1) != 1 for name in node.input[1:5]):
            raise ValueError(
                f"layer '{node.name or node.output[0]}' (BatchNormalization) has spatial=0 with "
                "statistics of every position, which no opset from 9 on can say"
            )
        node.attribute.remove(spatial[0])
        repaired += 1
    if repaired:
        notes.append(
            f"{repaired} BatchNormalization layers said spatial=0 with statistics of one axis, "
            "which is invalid; they were read as spatial=1 (onnx/models#146)"
        )
