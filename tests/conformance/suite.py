"""ONNX's own backend test suite: its cases, how one is run, and how its outputs are judged.

2,018 cases are deterministic inference: those of onnx's node tests, of PyTorch's exports, and the
light models. What is left out is named in `LEFT_OUT`. The rules are the suite's own: dtype and
shape are equal, text is equal, numbers are within rtol 1e-3 and atol 1e-7 unless the case says
otherwise, bfloat16 within two of its last places.

`python -m tests.conformance PATTERN [BACKEND]` runs the cases whose names match.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

from hubtool.backends import get
from hubtool.dtypes import DTYPES
from hubtool.formats.onnx.read import read
from hubtool.graph import Graph

from .strict import strict

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
LEFT_OUT = re.compile(r"test_bernoulli\w*|test_(adagrad|adam|momentum|nesterov|gradient)\w*")
"""Random draws, and training: operators of ai.onnx.preview.training."""

Run = Callable[[Graph, dict[str, Any]], dict[str, Any]]


@dataclass(eq=False)
class Case:
    """A model, and for each data set what is fed and what must come out, in the model's order."""

    name: str
    model: onnx.ModelProto
    data_sets: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float

    @property
    def operators(self) -> set[str]:
        """The operators of the model, as hubtool names them."""
        return set(_operators(self.model.graph))

    @cached_property
    def graph(self) -> Graph:
        """The case as a hubtool graph."""
        return read_model(self.model)

    @property
    def dtypes(self) -> set[str]:
        """The dtypes of all that is fed, made, or held as a weight."""
        fed = [value for values in self.data_sets for side in values for value in side]
        weights = {DTYPES[tensor.data_type] for tensor in self.model.graph.initializer}
        return {*weights, *(dtype for value in fed for dtype in _dtypes(value))}

    def feeds(self) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        """For each data set, what is fed by name, and what must come out."""
        names = [v.name for v in self.model.graph.input if v.name in self.graph.free_inputs]
        for given, expected in self.data_sets:
            yield dict(zip(names, given, strict=False)), expected

    def check(self, run: Run, graph: Graph | None = None) -> None:
        """Run the case, or another graph that should do the same; AssertionError where an output
        is not what the suite wants."""
        graph = self.graph if graph is None else graph
        for feeds, expected in self.feeds():
            made = run(graph, feeds)
            assert len(expected) <= len(made)
            for name, wanted in zip(graph.outputs, expected, strict=False):
                agree(made[name], wanted, self.rtol, self.atol)


def _dtypes(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _dtypes(item)
    elif value is not None:
        yield "string" if value.dtype == object else value.dtype.name


def agree(made: Any, wanted: Any, rtol: float, atol: float) -> None:
    """AssertionError unless a value is what the suite wants."""
    if isinstance(wanted, list):
        assert isinstance(made, list), f"{type(made).__name__} where a sequence is wanted"
        assert len(made) == len(wanted)
        for each, other in zip(made, wanted, strict=True):
            agree(each, other, rtol, atol)
        return
    if wanted is None:
        assert made is None
        return
    assert isinstance(made, np.ndarray), f"{type(made).__name__} where an array is wanted"
    assert made.shape == wanted.shape, f"shape {made.shape} where {wanted.shape} is wanted"
    assert made.dtype == wanted.dtype, f"dtype {made.dtype} where {wanted.dtype} is wanted"
    if wanted.dtype == object:
        assert made.tolist() == wanted.tolist()
        return
    if wanted.dtype.name == "bfloat16":
        rtol = max(rtol, 2**-6)
    if wanted.dtype.kind == "V" or wanted.dtype.name not in np.sctypeDict:
        # The small types know no tolerance of their own.
        made, wanted = made.astype(np.float32), wanted.astype(np.float32)
    np.testing.assert_allclose(made, wanted, rtol=rtol, atol=atol)


def read_model(model: onnx.ModelProto) -> Graph:
    """The graph of a model, by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return read(path, isolated=False)


def on(backend: str) -> Run:
    """How a backend runs a graph; "strict" is array_api_strict, by the definitions alone."""
    if backend == "strict":
        return strict
    module = get(backend)
    return lambda graph, feeds: module.prepare(graph).run(feeds)


@cache
def cases() -> dict[str, Case]:
    """The 2,018 cases by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the cases overflows on purpose
        tests = [test for kind in KINDS for test in load_model_tests(kind=kind)]
    return {test.name: _case(test) for test in tests if not LEFT_OUT.fullmatch(test.name)}


def _case(test: Any) -> Case:
    if test.model_dir is not None:
        model = onnx.load(Path(test.model_dir) / "model.onnx")
        sets = [_stored(folder, model) for folder in sorted(Path(test.model_dir).glob("test_d*"))]
    elif test.model is None:
        path = next(Path(str(f.locate())) for f in files("onnx") or () if str(f) == test.url)
        model = onnx.load(path)
        sets = [_light(path, model)]
    else:
        model = test.model
        sets = [([*map(value_of, i)], [*map(value_of, o)]) for i, o in test.data_sets]
    return Case(test.name, model, sets, test.rtol, test.atol)


def _stored(folder: Path, model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    def values(kind: str, infos: Any) -> list[Any]:
        count = len([*folder.glob(f"{kind}_*.pb")])
        paths = [folder / f"{kind}_{index}.pb" for index in range(count)]
        return [_parsed(path.read_bytes(), info) for path, info in zip(paths, infos, strict=False)]

    return values("input", model.graph.input), values("output", model.graph.output)


def _parsed(data: bytes, info: onnx.ValueInfoProto) -> Any:
    match info.type.WhichOneof("value"):
        case "sequence_type":
            return value_of(onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        case "optional_type":
            return value_of(onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
    return value_of(onnx.TensorProto.FromString(data))


def _light(path: Path, model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    """The light models are fed an even ramp; what comes out lies beside them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    feeds = []
    for info in model.graph.input:
        if info.name not in weights:
            shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            feeds.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    outputs = [
        _parsed(path.with_name(f"{path.stem}_output_{index}.pb").read_bytes(), info)
        for index, info in enumerate(model.graph.output)
    ]
    return feeds, outputs


def value_of(value: Any) -> Any:
    """What a judge or the suite gives, as hubtool gives it: text as objects, no protobuf."""
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    if isinstance(value, list | tuple):
        return [*map(value_of, value)]
    if value is None:
        return None
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "USOT" else array


def _operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        yield f"{domain}.{node.op_type}" if domain else node.op_type
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _operators(attribute.g)
