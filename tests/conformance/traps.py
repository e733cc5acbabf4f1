"""What the tests of the traps share: a small model from a line of ONNX text, and its judge.

`model` makes it; `assert_means` reads it through a file and runs it on numpy, on torch and, written
out again, in ONNX Runtime. What is wanted is what ONNX Runtime makes of the original, or what the
test says by hand where ONNX Runtime has no answer.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.numpy_helper import from_array

from hubtool.backends import get
from hubtool.formats.onnx.write import write
from hubtool.graph import Graph

from .suite import agree, read_model, value_of
from .test_round_trip import runtime

ARRAYS = ("numpy", "torch")
NAMED = re.compile(r"[^<(]* = ")


def model(
    opset: int,
    inputs: str,
    *lines: str,
    dtype: str = "float",
    weights: Mapping[str, Any] = {},
    ir: int = 8,
    functions: str = "",
) -> onnx.ModelProto:
    """The model of a text in ONNX's own syntax: `model(11, "float[2,3] X", "Softmax (X)")`.

    Each line that gives its result no name is an output: Y0, Y1, …, of the dtype and of any rank.
    functions: model-local functions, of the domain "f".
    """
    body, outputs = [], []
    for line in lines:
        if not NAMED.match(line):
            outputs.append(f"{dtype}[] Y{len(outputs)}")
            line = f"Y{len(outputs) - 1} = {line}"
        body.append(line)
    imports = f'"" : {opset}' + (', "f" : 1' if functions else "")
    proto = onnx.parser.parse_model(
        f"<ir_version: {ir}, opset_import: [{imports}]> g ({inputs}) => "
        f"({', '.join(outputs)}) {{ {' '.join(body)} }} {functions}"
    )
    proto.graph.initializer.extend(from_array(np.asarray(a), name) for name, a in weights.items())
    return proto


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Floats that are the same at every run, of both signs and without a tie."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def fed(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Numbers for every float input that is no weight; an open size is 2."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    infos = [info for info in proto.graph.input if info.name not in weights]
    shapes = {i.name: [d.dim_value or 2 for d in i.type.tensor_type.shape.dim] for i in infos}
    return {name: numbers(*shape, seed=n) for n, (name, shape) in enumerate(shapes.items())}


def assert_means(
    proto: onnx.ModelProto,
    feeds: Mapping[str, Any] | None = None,
    wanted: Sequence[Any] | None = None,
    *,
    on: Sequence[str] = ARRAYS,
    exported: bool = True,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Graph:
    """AssertionError unless hubtool reads what the model means; gives the graph that it read.

    wanted: the outputs by hand, where ONNX Runtime refuses the original. on: the array backends
    that have the dtypes. exported: whether ONNX Runtime has a kernel for what is written out.
    """
    feeds = fed(proto) if feeds is None else feeds
    wanted = [*map(value_of, runtime(proto, dict(feeds)))] if wanted is None else wanted
    graph = read_model(proto)
    made = {name: get(name).prepare(graph).run(feeds) for name in on}
    if exported:
        outputs = runtime(written(graph), dict(feeds))
        made["exported"] = dict(zip(graph.outputs, outputs, strict=True))
    for engine, outputs in made.items():
        assert len(outputs) == len(wanted)
        for (name, value), expected in zip(outputs.items(), wanted, strict=True):
            try:
                agree(value_of(value), expected, rtol, atol)
            except AssertionError as error:
                raise AssertionError(f"{name} by {engine}: {error}") from None
    return graph


def written(graph: Graph) -> onnx.ModelProto:
    """The graph as ONNX, by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write(graph, path)
        return onnx.load(path)
