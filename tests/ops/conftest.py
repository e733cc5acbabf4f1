"""One operator alone: as hubtool runs it on an array library, and as ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat.torch
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conformance.strict import DTYPES, StrictSpace

from hubtool.dtypes import NUMBERS
from hubtool.graph import Graph, Layer, Value
from hubtool.interpreter import HOST, HostSpace, Program
from hubtool.ops import OPSETS, REQUIRED, load_ops

VERSION = OPSETS[""]


def single(
    op: str, inputs: list[Any], outputs: dict[str, str], attrs: dict[str, Any], domain: str = ""
) -> onnx.ModelProto:
    """A model of one node; an input that is None is left out, outputs are name -> dtype."""
    helper, names = onnx.helper, [f"in{i}" for i in range(len(inputs))]

    def info(name: str, dtype: str, shape: Any = None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, NUMBERS[dtype], shape)

    given = [(name, array) for name, array in zip(names, inputs, strict=True) if array is not None]
    read = [name if array is not None else "" for name, array in zip(names, inputs, strict=True)]
    node = helper.make_node(op, read, list(outputs), domain=domain, **attrs)
    graph = helper.make_graph(
        [node],
        "single",
        [info(name, array.dtype.name, array.shape) for name, array in given],
        [info(name, dtype) for name, dtype in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def runtime(model: onnx.ModelProto, inputs: list[Any]) -> list[np.ndarray]:
    """What ONNX Runtime makes of a single model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {f"in{i}": a for i, a in enumerate(inputs) if a is not None})


def alone(
    op: str,
    inputs: dict[str, Any],
    attrs: dict[str, Any],
    outputs: int = 1,
    space: Any = HOST,
) -> list[Any]:
    """The outputs of one layer run by hubtool; a list stands for a variadic input."""
    names: dict[str, Any] = {}
    feeds: dict[str, Any] = {}
    for formal, given in inputs.items():
        if isinstance(given, list):
            names[formal] = [f"{formal}{i}" for i in range(len(given))]
            feeds.update(zip(names[formal], given, strict=True))
        elif given is not None:
            names[formal] = formal
            feeds[formal] = given
    made = [f"out{i}" for i in range(outputs)]
    defaults = {
        k: v for k, v in load_ops()[op].attrs.items() if v is not None and v is not REQUIRED
    }
    layer = Layer("alone", op, names, made, {**defaults, **attrs})
    unknown = dict.fromkeys(feeds, Value("tensor", "", None))
    graph = Graph([layer], unknown, dict.fromkeys(made, Value("tensor", "", None)))
    return list(Program(graph, space).run(feeds).values())


def plain(entry: onnx.AttributeProto) -> Any:
    """An attribute's value as hubtool keeps it."""
    value = onnx.helper.get_attribute_value(entry)
    return value.decode() if isinstance(value, bytes) else value


class TorchSpace(HostSpace):
    """torch on the CPU, as array-api-compat shows it."""

    name = "torch"

    def __init__(self) -> None:
        self.xp: Any = array_api_compat.torch

    def put(self, array: np.ndarray) -> Any:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
        return torch.from_numpy(np.array(array))

    def get(self, value: Any) -> np.ndarray:
        if value.dtype == torch.bfloat16:
            return value.to(torch.float32).numpy().astype(ml_dtypes.bfloat16)
        return value.numpy()

    def dtype_of(self, value: Any) -> str:
        return str(value.dtype).rpartition(".")[2]

    def cast(self, value: Any, dtype: str) -> Any:
        return value.to(getattr(torch, dtype))


@pytest.fixture(name="alone")
def _alone() -> Callable[..., list[Any]]:
    return alone


@pytest.fixture
def in_onnxruntime() -> Callable[..., list[np.ndarray]]:
    """One operator in ONNX Runtime: (op, inputs in order, attrs, outputs, domain) -> outputs."""

    def run(
        op: str, inputs: list[Any], attrs: dict[str, Any], outputs: dict[str, str], domain: str = ""
    ) -> list[np.ndarray]:
        return runtime(single(op, inputs, outputs, attrs, domain), inputs)

    return run


SPACES = {"numpy": HOST, "strict": StrictSpace(), "torch": TorchSpace()}

KNOWN = {
    "strict": DTYPES,
    "torch": DTYPES - {"uint16", "uint32", "uint64"} | {"bfloat16", "float16"},
}
"""The dtypes that a library computes with: torch stores the wider unsigned integers only."""
