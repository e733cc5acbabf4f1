"""Builds ONNX files that an attacker would send, and watches the files that they should not reach.

model          a small ModelProto, wrong in whatever way the caller wants
PLACES         the places of a model where a tensor may stand; each builds a model around it
nested         If in If in If, as bytes, deeper than any protobuf library would write
untouched      fails if anybody, in whatever process or language, opens a file
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto, helper
from onnx.numpy_helper import from_array

from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.wire import message, tag, varint
from hubtool.graph import Graph

__all__ = [
    "PLACES",
    "external",
    "model",
    "nested",
    "problems",
    "reading",
    "save",
    "tensor",
    "untouched",
    "value",
]

node = helper.make_node


def value(name: str, shape: Sequence[Any] | None = (2, 3), dtype: int = 1) -> ValueInfoProto:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[NodeProto],
    *,
    opset: int = 28,
    ir: int = 10,
    inputs: Sequence[ValueInfoProto] | None = None,
    outputs: Sequence[ValueInfoProto] | None = None,
    weights: Sequence[TensorProto] = (),
    functions: Sequence[Any] = (),
    domains: dict[str, int] | None = None,
) -> ModelProto:
    """A model from X [2, 3] to Y of a shape not told, unless inputs and outputs are given."""
    graph = helper.make_graph(
        nodes,
        "g",
        [value("X")] if inputs is None else inputs,
        [value("Y", None)] if outputs is None else outputs,
        weights,
    )
    opsets = {"": opset, **(domains or {})}
    return helper.make_model(
        graph,
        ir_version=ir,
        functions=functions,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
    )


def save(path: Path, proto: ModelProto | bytes) -> Path:
    """Write a model without any check, and give its path."""
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def reading(folder: Path, proto: ModelProto) -> Graph:
    """The graph of a model, read from a file in the folder."""
    return read(save(folder / "m.onnx", proto), isolated=False)


def problems(folder: Path, proto: ModelProto) -> list[str]:
    """Everything for which a model is refused."""
    with pytest.raises(UnsupportedError) as refusal:
        reading(folder, proto)
    return refusal.value.problems


def tensor(
    name: str, dims: Sequence[int], data: bytes = b"", dtype: int = TensorProto.FLOAT
) -> TensorProto:
    """A tensor that says what it likes of its size."""
    return TensorProto(name=name, dims=dims, data_type=dtype, raw_data=data)


def external(dims: Sequence[int], *entries: tuple[str, str]) -> TensorProto:
    """The float tensor "W" in another file, with the given external_data entries."""
    proto = TensorProto(name="W", dims=dims, data_type=TensorProto.FLOAT)
    proto.data_location = TensorProto.EXTERNAL
    for key, text in entries:
        proto.external_data.add(key=key, value=text)
    return proto


def _initializer(W: TensorProto) -> ModelProto:
    return model([node("Add", ["X", "W"], ["Y"], name="add")], weights=[W])


def _constant(W: TensorProto) -> ModelProto:
    return model(
        [node("Constant", [], ["W"], name="c", value=W), node("Add", ["X", "W"], ["Y"], name="add")]
    )


def _attribute(W: TensorProto) -> ModelProto:
    shape = from_array(np.array([2, 3]), "S")
    one = TensorProto()
    one.CopyFrom(W)
    return model([node("ConstantOfShape", ["S"], ["Y"], name="fill", value=one)], weights=[shape])


def _branches(nodes: Sequence[NodeProto], weights: Sequence[TensorProto]) -> ModelProto:
    def branch(name: str) -> Any:
        return helper.make_graph(nodes, name, [], [value("y", None)], weights)

    return model(
        [node("If", ["c"], ["Y"], name="if", then_branch=branch("t"), else_branch=branch("e"))],
        inputs=[value("X"), value("c", (), TensorProto.BOOL)],
    )


def _subgraph_initializer(W: TensorProto) -> ModelProto:
    return _branches([node("Add", ["X", "W"], ["y"])], [W])


def _subgraph_constant(W: TensorProto) -> ModelProto:
    return _branches([node("Constant", [], ["W"], value=W), node("Add", ["X", "W"], ["y"])], [])


def _function(W: TensorProto, called: bool = True) -> ModelProto:
    body = [node("Constant", [], ["W"], value=W), node("Add", ["x", "W"], ["y"])]
    function = helper.make_function("f", "F", ["x"], ["y"], body, [helper.make_opsetid("", 28)])
    caller = node("F", ["X"], ["Y"], domain="f") if called else node("Relu", ["X"], ["Y"])
    return model([caller], functions=[function], domains={"f": 1})


def _unused_function(W: TensorProto) -> ModelProto:
    return _function(W, called=False)


def _training(W: TensorProto) -> ModelProto:
    proto = model([node("Relu", ["X"], ["Y"])])
    proto.training_info.add().initialization.initializer.append(W)
    return proto


def _sparse(values: TensorProto, indices: TensorProto) -> ModelProto:
    proto = model([node("Add", ["X", "W"], ["Y"])])
    proto.graph.sparse_initializer.append(
        SparseTensorProto(values=values, indices=indices, dims=[2, 3])
    )
    return proto


def _sparse_values(W: TensorProto) -> ModelProto:
    return _sparse(W, from_array(np.arange(6)))


def _sparse_indices(W: TensorProto) -> ModelProto:
    indices = TensorProto()
    indices.CopyFrom(W)
    indices.ClearField("name")
    return _sparse(from_array(np.ones(6, np.float32), "W"), indices)


def _sparse_constant(W: TensorProto) -> ModelProto:
    sparse = SparseTensorProto(values=W, indices=from_array(np.arange(6)), dims=[2, 3])
    return model([node("Constant", [], ["W"], sparse_value=sparse), node("Add", ["X", "W"], ["Y"])])


PLACES: dict[str, Callable[[TensorProto], ModelProto]] = {
    "initializer": _initializer,
    "Constant": _constant,
    "attribute": _attribute,
    "initializer of a subgraph": _subgraph_initializer,
    "Constant in a subgraph": _subgraph_constant,
    "Constant in a function": _function,
    "Constant in a function that is not called": _unused_function,
    "training info": _training,
    "values of a sparse initializer": _sparse_values,
    "indices of a sparse initializer": _sparse_indices,
    "values of a sparse Constant": _sparse_constant,
}


def nested(depth: int, padding: int = 0) -> bytes:
    """If in If in If …; `padding` bytes of text in the innermost graph."""
    body = message(2, b"innermost") + message(10, b"x" * padding)
    for _ in range(depth):
        attribute = message(1, b"then_branch") + message(6, body) + tag(20, 0) + varint(5)
        body = message(1, message(4, b"If") + message(5, attribute)) + message(2, b"g")
    opset = message(8, tag(2, 0) + varint(28))
    return tag(1, 0) + varint(10) + message(7, body) + opset


@contextmanager
def untouched(*paths: Path) -> Iterator[None]:
    """Fails if any of the files is opened while the block runs.

    By inotify, which sees every process and every language; where a system has none, the block
    merely runs. https://man7.org/linux/man-pages/man7/inotify.7.html
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init1(os.O_NONBLOCK)
    assert watcher >= 0, os.strerror(ctypes.get_errno())
    in_open = 0x20
    try:
        for path in paths:
            assert libc.inotify_add_watch(watcher, os.fsencode(path), in_open) >= 0, path
        yield
        opened = b""
        with suppress(BlockingIOError):
            opened = os.read(watcher, 4096)
        assert not opened, "a file was opened that should not have been"
    finally:
        os.close(watcher)
