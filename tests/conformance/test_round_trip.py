"""ONNX → native folder → ONNX: what comes back is valid, and does the same in another engine.

Valid means: onnx's checker accepts it, strict shape inference finds nothing wrong that it does not
find in the original, and hubtool reads the same graph from it again.
ONNX Runtime and onnx's reference implementation are the judges. A case that neither of them can
run, or both get wrong in the original too, is judged by our numpy backend, and stands in
known_failures/round_trip_unjudged.txt with the reason.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from hubtool.formats import native
from hubtool.formats.onnx.write import write
from hubtool.graph import Graph

from .known import known_failures
from .suite import Case, agree, on, read_model, value_of

KNOWN_FAILURES = "round_trip"

UNJUDGED = known_failures("round_trip_unjudged")


def test_a_case_comes_back_from_the_folder_as_onnx(case: Case, tmp_path: Path) -> None:
    native.write(case.graph, tmp_path / "folder")
    back = native.read(tmp_path / "folder")
    assert back == case.graph
    model = exported(back, tmp_path / "back.onnx")
    assert not complaint(model) or complaint(case.model)
    assert comparable(read_model(model)) == comparable(case.graph)
    verdicts = {verdict(judge, model, case) for judge in (runtime, reference)}
    assert ("equal" not in verdicts) == (case.name in UNJUDGED), verdicts
    if "equal" not in verdicts:
        case.check(on("numpy"), read_model(model))


def exported(graph: Graph, path: Path) -> onnx.ModelProto:
    """The graph as an ONNX file that onnx.checker accepts."""
    write(graph, path)
    onnx.checker.check_model(path, full_check=False)
    return onnx.load(path)


def complaint(model: onnx.ModelProto) -> str:
    """What shape inference finds wrong with a model, if it is strict."""
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        return str(error)
    return ""


def comparable(graph: Graph) -> Any:
    """A graph without what was known of the values in between, in its branches too."""
    layers = []
    for layer in graph.layers:
        bodies = {key: comparable(body) for key, body in layer.subgraphs().items()}
        layers.append(replace(layer, attrs={**layer.attrs, **bodies}))
    return layers, graph.inputs, graph.outputs, graph.tensors


def verdict(judge: Any, model: onnx.ModelProto, case: Case) -> str:
    """ "equal", or why not: the judge refuses the model, or gives something else, which counts
    against the model only if it was right about the original."""
    try:
        agreed(judge, model, case)
    except AssertionError:
        try:
            agreed(judge, case.model, case)
        except Exception:
            return "wrong about the original too"
        raise
    except Exception as error:
        return f"refused: {error}"
    return "equal"


def agreed(judge: Any, model: onnx.ModelProto, case: Case) -> None:
    for feeds, expected in case.feeds():
        for made, wanted in zip(judge(model, feeds), expected, strict=False):
            agree(value_of(made), wanted, case.rtol, case.atol)


def runtime(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """What ONNX Runtime makes of a model; numpy's small types have no way into it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    made: list[Any] = session.run(None, feeds)
    return made


def reference(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    with np.errstate(all="ignore"):
        made: list[Any] = ReferenceEvaluator(model).run(None, feeds)
    return made


@pytest.mark.parametrize("name", UNJUDGED)
def test_an_unjudged_case_is_one_of_the_suite(name: str) -> None:
    from .suite import cases

    assert name in cases()
