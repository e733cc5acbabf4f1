"""ONNX's own node test cases as hubtool graphs, and the spaces that they run on.

A case belongs here when hubtool has all its operators and its model was written for what they mean
at the pinned opset. `lifted` binds each node by onnx's own schemas; it is small on purpose, and
knows neither subgraphs nor older opsets: reading files is `hubtool.formats.onnx`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import array_api_compat.torch
import array_api_strict
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.backend.test.loader import load_model_tests

from hubtool.dtypes import DTYPES, NUMBERS
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value
from hubtool.interpreter import HOST, HostSpace, Program
from hubtool.ops import OPS, OPSETS, REQUIRED, load_ops

VERSION = OPSETS[""]

INTEGERS = "int8 int16 int32 int64 uint8"
KNOWN = {
    "strict": {*f"bool float32 float64 uint16 uint32 uint64 {INTEGERS}".split()},
    "torch": {*f"bool bfloat16 float16 float32 float64 {INTEGERS}".split()},
}
"""The dtypes that a library computes with: torch stores the wider unsigned integers only."""

KNOWN_FAILURES: dict[tuple[str, str], str] = {}
"""(space, case) -> why it fails. Strict: a case that passes must leave."""


@dataclass(frozen=True)
class Case:
    """One case of onnx's suite: the graph, what is fed, what must come out."""

    name: str
    graph: Graph
    feeds: dict[str, Any]
    expected: dict[str, Any]
    rtol: float
    atol: float

    @property
    def dtypes(self) -> set[str]:
        arrays = [*self.feeds.values(), *self.expected.values()]
        return {a.dtype.name for a in arrays} | {t.dtype for t in self.graph.tensors.values()}

    def run(self, space: Any) -> dict[str, np.ndarray]:
        """The outputs on a space, as numpy."""
        feeds = {k: v if v.dtype == object else space.put(v) for k, v in self.feeds.items()}
        made = Program(self.graph, space).run(feeds)
        return {k: v if isinstance(v, np.ndarray) else space.get(v) for k, v in made.items()}

    def check(self, outputs: dict[str, np.ndarray]) -> None:
        """The suite's own rules: dtype and shape equal, values within the tolerance."""
        for name, wanted in self.expected.items():
            made = outputs[name]
            assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
            if wanted.dtype == object:
                assert made.tolist() == wanted.tolist()
                continue
            rtol = max(self.rtol, 2**-6) if wanted.dtype == ml_dtypes.bfloat16 else self.rtol
            if wanted.dtype.kind == "V":  # the small types know no tolerance
                made, wanted = made.astype(np.float32), wanted.astype(np.float32)
            np.testing.assert_allclose(made, wanted, rtol=rtol, atol=self.atol)


@cache
def cases() -> dict[str, Case]:
    """Every case of onnx's suite for the operators that hubtool has, by name."""
    load_ops()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the cases overflows on purpose
        models = load_model_tests(kind="node")
    return {test.name: _case(test) for test in models if _belongs(test.model)}


def _belongs(model: onnx.ModelProto) -> bool:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    return set(versions) == {""} and all(
        node.op_type in {*OPS, "Constant"} and _same_meaning(node.op_type, versions[""])
        for node in model.graph.node
    )


def _same_meaning(op: str, version: int) -> bool:
    pinned = onnx.defs.get_schema(op, VERSION, "").since_version
    return op == "Constant" or onnx.defs.get_schema(op, version, "").since_version == pinned


def _case(test: Any) -> Case:
    graph = lifted(test.model)
    (inputs, outputs), *_ = test.data_sets
    feeds = dict(zip(graph.inputs, map(_array, inputs), strict=True))
    expected = dict(zip(graph.outputs, map(_array, outputs), strict=True))
    return Case(test.name, graph, feeds, expected, test.rtol, test.atol)


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "USO" else array


def lifted(model: onnx.ModelProto) -> Graph:
    """The graph of a model whose nodes are at the pinned opset already."""
    graph = Graph(
        inputs={entry.name: _value(entry) for entry in model.graph.input},
        outputs={entry.name: _value(entry) for entry in model.graph.output},
        tensors={t.name: Tensor.of(_array(t)) for t in model.graph.initializer},
    )
    for number, node in enumerate(model.graph.node):
        if node.op_type == "Constant":
            graph.tensors[node.output[0]] = Tensor.of(_constant(node))
        else:
            graph.layers.append(_layer(graph, node, f"{node.op_type}_{number}"))
    return graph


def _value(entry: onnx.ValueInfoProto) -> Value:
    tensor = entry.type.tensor_type
    shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
    return Value("tensor", DTYPES.get(tensor.elem_type, ""), shape)


def _constant(node: onnx.NodeProto) -> np.ndarray:
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name.startswith("value_float"):
        return np.asarray(value, np.float32)
    return np.asarray(value, np.int64) if attribute.name.startswith("value_int") else _array(value)


def _layer(graph: Graph, node: onnx.NodeProto, name: str) -> Layer:
    schema = onnx.defs.get_schema(node.op_type, VERSION, "")
    inputs: dict[str, Any] = {}
    for place, formal in enumerate(schema.inputs):
        if formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
            inputs[formal.name] = list(node.input[place:])
        elif place < len(node.input) and node.input[place]:
            inputs[formal.name] = node.input[place]
    defaults = {key: entry.default_value for key, entry in schema.attributes.items()}
    attrs = {key: plain(entry) for key, entry in defaults.items() if entry.type}
    for entry in node.attribute:
        attrs[entry.name] = plain(entry)
        if isinstance(attrs[entry.name], onnx.TensorProto):
            key = f"{name}/{entry.name}"
            graph.tensors[key] = Tensor.of(_array(attrs[entry.name]))
            attrs[entry.name] = TensorRef(key)
    return Layer(name, node.op_type, inputs, list(node.output), attrs)


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


class StrictSpace(HostSpace):
    """array_api_strict: it refuses whatever the array API standard does not promise."""

    name = "strict"

    def __init__(self) -> None:
        self.xp: Any = array_api_strict

    def put(self, array: np.ndarray) -> Any:
        return array_api_strict.asarray(array)

    def get(self, value: Any) -> np.ndarray:
        return np.from_dlpack(value)

    def dtype_of(self, value: Any) -> str:
        return str(value.dtype).rpartition(".")[2]

    def cast(self, value: Any, dtype: str) -> Any:
        return array_api_strict.astype(value, getattr(array_api_strict, dtype))


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


@pytest.fixture
def suite() -> dict[str, Case]:
    return cases()


SPACES = {"numpy": HOST, "strict": StrictSpace(), "torch": TorchSpace()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `case` runs on the suite; one that takes `space` too, on every library."""
    if "case" not in metafunc.fixturenames:
        return
    if "space" not in metafunc.fixturenames:
        metafunc.parametrize("case", cases().values(), ids=cases())
        return
    metafunc.parametrize(
        ("space", "case"),
        [
            pytest.param(SPACES[space], case, id=f"{space}-{name}", marks=_marks(space, name))
            for space in SPACES
            for name, case in cases().items()
            if case.dtypes <= KNOWN.get(space, case.dtypes)
        ],
    )


def _marks(space: str, name: str) -> list[pytest.MarkDecorator]:
    reason = KNOWN_FAILURES.get((space, name))
    return [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
