"""onnx's own node cases, through hubtool and out again: ONNX -> layer graph -> ONNX.

Each is read, written at the lowest opset that can say it, accepted by onnx's checker, read again to
the same graph, and run: what was written gives what the case itself gives, in ONNX Runtime, or in
onnx's reference where ONNX Runtime refuses the case. (Whether hubtool's own operators are right is
tested in tests/ops.)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hostile import save
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from hubtool.errors import HubtoolError
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import write
from hubtool.graph import Graph

SINCE_PREVIEW = "ai.onnx.preview is no domain of hubtool's yet"
SINCE_TRAINING = "training is none of hubtool's trades"

KNOWN: dict[str, str] = {
    **dict.fromkeys(
        [
            "test_flexattention",
            "test_flexattention_causal_mask",
            "test_flexattention_diff_head_sizes",
            "test_flexattention_double",
            "test_flexattention_fp16",
            "test_flexattention_gqa",
            "test_flexattention_prob_mod",
            "test_flexattention_relative_positional",
            "test_flexattention_scaled",
            "test_flexattention_score_mod",
            "test_flexattention_soft_cap",
        ],
        SINCE_PREVIEW,
    ),
    **dict.fromkeys(
        [
            "test_adagrad",
            "test_adagrad_multiple",
            "test_adam",
            "test_adam_multiple",
            "test_momentum",
            "test_momentum_multiple",
            "test_nesterov_momentum",
        ],
        SINCE_TRAINING,
    ),
    "test_scan_sum": "Scan of opset 8 runs for each sample of a batch, as no later opset can say",
}
"""Cases that are refused, and why. One that is refused without standing here fails the test, and
so does one that stands here and is read."""

Engine = Callable[[Path, dict[str, Any]], list[Any]]


def by_runtime(path: Path, feeds: dict[str, Any]) -> list[Any]:
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return InferenceSession(path, options).run(None, feeds)


def by_reference(path: Path, feeds: dict[str, Any]) -> list[Any]:
    return ReferenceEvaluator(str(path)).run(None, feeds)


def attempt(path: Path, feeds: dict[str, Any]) -> list[Any] | None:
    """The outputs by the first engine that takes the model."""
    engines: tuple[Engine, ...] = (by_runtime, by_reference)
    for engine in engines:
        try:
            return engine(path, feeds)
        except Exception:
            continue
    return None


def numbers(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def difference(one: Any, other: Any) -> str:
    """In what two values differ; empty where they are the same."""
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return f"{len(one)} values, not {len(other)}"
        return next(filter(None, map(difference, one, other)), "")
    if one is None or isinstance(one, dict):
        return "" if one == other else f"{one}, not {other}"
    one, other = np.asarray(one), np.asarray(other)
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"{one.dtype}{one.shape}, not {other.dtype}{other.shape}"
    if one.dtype.kind == "f":
        rtol = 1e-5 if one.dtype != np.float16 else 2e-3
        close = np.allclose(one, other, rtol=rtol, atol=1e-6, equal_nan=True)
    elif one.dtype.kind == "O":
        close = one.tolist() == other.tolist()
    else:
        close = one.tobytes() == other.tobytes()
    return "" if close else "other numbers"


def comparable(graph: Graph) -> Any:
    """A graph without what was known of the values in between, in its branches too."""
    layers = []
    for layer in graph.layers:
        bodies = {key: comparable(body) for key, body in layer.subgraphs().items()}
        layers.append(replace(layer, attrs={**layer.attrs, **bodies}))
    return layers, graph.inputs, graph.outputs, graph.tensors


def outcome(case: Any, folder: Path) -> str:
    """What goes wrong with a case; empty where nothing does."""
    source, written = folder / "source.onnx", folder / "written.onnx"
    save(source, case.model)
    try:
        graph = read(source, isolated=False)
    except HubtoolError as error:
        return f"refused: {error}"
    write(graph, written, overwrite=True)
    onnx.checker.check_model(written)
    if comparable(read(written, isolated=False)) != comparable(graph):
        return "it is read back as another graph"
    if "bernoulli" in case.name:  # random
        return ""
    inputs, outputs = case.data_sets[0]
    names = [value.name for value in case.model.graph.input]
    feeds = dict(zip(names, map(numbers, inputs), strict=True))
    expected = attempt(source, feeds) or [numbers(value) for value in outputs]
    actual = attempt(written, feeds)
    return "nobody runs what was written" if actual is None else difference(actual, expected)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("cases")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's cases and its reference overflow on purpose
        cases = load_model_tests(kind="node")
        plain = [case for case in cases if not case.name.endswith("_expanded")]
        expanded = [case for case in cases if case.name.endswith("_expanded")]
        # Function bodies of many small layers: they take long and hold little that is new.
        cases = plain + expanded[::5]
        return {case.name: outcome(case, folder) for case in cases}


def test_the_suite_is_all_there(outcomes: dict[str, str]) -> None:
    assert len(outcomes) >= 1468 + 84


def test_only_the_known_cases_are_refused(outcomes: dict[str, str]) -> None:
    refused = {name for name, text in outcomes.items() if text.startswith("refused")}
    assert refused == set(KNOWN)


def test_every_other_case_leaves_as_it_came(outcomes: dict[str, str]) -> None:
    assert {name: text for name, text in outcomes.items() if text and name not in KNOWN} == {}
