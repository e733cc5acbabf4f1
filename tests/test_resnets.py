"""The ten ResNets of the zoo, as sketches: every backend agrees with ONNX Runtime on the original.

The measure is the largest difference as a part of the largest logit; 1e-5 is allowed. The original
runs untouched in ONNX Runtime; what is compared with it has gone through a native folder, lifted
from opset 7 to 28, and is the same folder for every backend and batch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hubtool
from hubtool import zoo
from hubtool.backends.onnxruntime import run_file
from hubtool.graph import Graph

TOLERANCE = 1e-5
BACKENDS = ["numpy", "native", "torch", "xla", "onnxruntime", "openvino"]
NAMES = [model.name for model in zoo.models() if not model.quantized]


def pictures(batch: int) -> np.ndarray:
    shape = (batch, 3, 224, 224)
    return np.random.default_rng(batch).standard_normal(shape).astype(np.float32)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


@pytest.fixture(scope="module", params=NAMES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Graph]:
    """The sketch as an ONNX file, and the graph of the folder that it was converted to."""
    folder = tmp_path_factory.mktemp(request.param)
    source = folder / "sketch.onnx"
    zoo.sketch(request.param, source)
    report = hubtool.convert(source, folder / "native")
    assert report.verification.status == "passed", report.verification
    assert report.verification.difference <= TOLERANCE
    return source, hubtool.read(folder / "native")


@pytest.mark.parametrize("batch", [1, 4])
def test_every_backend_agrees_with_onnx_runtime_on_the_original(
    model: tuple[Path, Graph], batch: int, record_property: pytest.FixtureRequest
) -> None:
    source, graph = model
    x = pictures(batch)
    (expected,) = run_file(source, {"data": x}).values()
    for backend in BACKENDS:
        logits = hubtool.load(graph, backend=backend)(x)
        found = difference(logits, expected)
        record_property(backend, found)
        assert found <= TOLERANCE, f"{backend}: {found:.1e}"


def test_the_round_trip_gives_the_same_logits_at_opset_13_or_lower(
    model: tuple[Path, Graph], tmp_path: Path
) -> None:
    import onnx

    source, graph = model
    back = tmp_path / "back.onnx"
    assert (hubtool.export(graph, back).opset or 99) <= 13
    onnx.checker.check_model(back, full_check=True)
    x = pictures(1)
    (expected,) = run_file(source, {"data": x}).values()
    (logits,) = run_file(back, {"data": x}).values()
    assert difference(logits, expected) <= TOLERANCE
    assert back.stat().st_size < source.stat().st_size * 1.01
