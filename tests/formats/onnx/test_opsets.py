"""Opsets 1 to 28: every operator means after the lifting what it meant in every issue of it.

The models are those of opset_cases.txt. ONNX Runtime says what a line means, at the lowest of its
opsets that it reads, from 7 on, or by the words of today that stand beside it; hubtool reads the
line at every opset that issued the operator anew, and runs it on numpy. What hubtool writes at the
lowest opset is given to ONNX Runtime again.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hostile import save
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel
from opset_cases import Line, built, issued, lines, missing

from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import write
from hubtool.graph import Graph
from hubtool.interpreter import HOST, Program

RANDOM = "draws at random"

UNTOLD = {
    "ImageDecoder": "issued once, and ONNX Runtime has none to judge by",
    "Bernoulli": RANDOM,
    "Multinomial": RANDOM,
    "RandomNormal": RANDOM,
    "RandomNormalLike": RANDOM,
    "RandomUniform": RANDOM,
    "RandomUniformLike": RANDOM,
}
"""Operators of which no line tells, and why."""

OPERATORS = sorted({line.op for line in lines()})


def by_runtime(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


@cache
def meant(line: Line) -> dict[str, Any]:
    """What a line gives, by ONNX Runtime."""
    words_of_today = line.today != line.text or line.first < 7
    return by_runtime(*built(line.today, 17 if words_of_today else line.first))


def lifted(folder: Path, model: onnx.ModelProto) -> Graph:
    return read(save(folder / "m.onnx", model), isolated=False)


def assert_means(line: Line, graph: Graph, feeds: dict[str, Any], told: str) -> None:
    assert_equal(line, Program(graph, HOST).run(feeds), told)


def assert_equal(line: Line, made: dict[str, Any], told: str) -> None:
    expected = meant(line)
    assert made.keys() == expected.keys()
    for name, wanted in expected.items():
        given = np.asarray(made[name])
        assert (given.dtype, given.shape) == (wanted.dtype, wanted.shape), told
        if wanted.dtype == object:
            assert given.tolist() == wanted.tolist(), told
        else:
            rtol = 2e-3 if wanted.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(given, wanted, rtol=rtol, atol=1e-5, err_msg=told)


@pytest.mark.parametrize("op", OPERATORS)
def test_an_operator_means_what_it_meant(tmp_path: Path, op: str) -> None:
    for line in (line for line in lines() if line.op == op):
        for opset in line.opsets:
            model, feeds = built(line.text, opset, outputs=meant(line))
            assert_means(line, lifted(tmp_path, model), feeds, f"{line.text} at opset {opset}")


NEEDS_RANK = {
    *("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "PRelu", "Pow", "Sub", "Xor"),
    *("Gemm", "If", "Tile"),
}
"""Below opset 7 these cannot be read where not even a rank is known."""


@pytest.mark.parametrize("op", OPERATORS)
def test_it_means_the_same_where_no_shape_is_known(tmp_path: Path, op: str) -> None:
    for line in (line for line in lines() if line.op == op):
        shapes = False if line.first < 7 and op in NEEDS_RANK else None
        model, feeds = built(line.text, line.first, shapes=shapes)
        assert_means(line, lifted(tmp_path, model), feeds, f"{line.text} at opset {line.first}")


NO_KERNEL = {
    "Clip(11)": {"Clip", "If"},  # of double it has Clip from 12 on
    "Swish(24)": {"SwiGLU"},  # it takes SwiGLU for the function that it is, and not Swish in it
}
"""What ONNX Runtime refuses for want of a kernel, and the operators whose lines end there."""


@pytest.mark.parametrize("op", OPERATORS)
def test_what_is_written_at_the_lowest_opset_means_the_same(tmp_path: Path, op: str) -> None:
    refused: set[str] = set()
    for line in (line for line in lines() if line.op == op):
        model, feeds = built(line.text, line.first, outputs=meant(line))
        opset = write(lifted(tmp_path, model), tmp_path / "low.onnx", overwrite=True)
        try:
            made = by_runtime(onnx.load(tmp_path / "low.onnx"), feeds)
        except NoKernel as error:
            refused.update(name for name in NO_KERNEL if name in str(error))
            assert refused, f"{line.text} written at opset {opset}: {error}"
            continue
        assert_equal(line, made, f"{line.text} written at opset {opset}")
    assert refused == {name for name, ops in NO_KERNEL.items() if op in ops}


def test_every_issue_of_every_operator_is_tested() -> None:
    assert {op for op, _ in missing()} == set(UNTOLD)
    assert missing() == {(op, opset) for op in UNTOLD for opset in issued()[op]}


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniform"])
def test_what_draws_at_random_keeps_its_attributes(tmp_path: Path, op: str) -> None:
    bounds = "mean=3.0, scale=2.0" if op == "RandomNormal" else "low=3.0, high=5.0"
    text = f"Y1 = {op} <shape=[2], seed=1.0, {bounds}> () Y = {op}Like <seed=2.0, {bounds}> (A)"
    graphs = [lifted(tmp_path, built(text, opset)[0]) for opset in issued()[op]]
    assert graphs[0].layers == graphs[1].layers
    assert graphs[0].layers[0].attrs["seed"] == 1.0
