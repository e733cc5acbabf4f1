"""How far the engine's convolutions may be from the truth, which is numpy's in float64.

Winograd's algorithm sums other terms than the definition does, some of them larger than the result,
so its rounding error is larger too; how much, is stated in engine/winograd.h, and held here.
"""

from __future__ import annotations

import numpy as np
import pytest

import hubtool
from hubtool import Graph, Layer, Tensor, Value
from hubtool.backends.native import library
from hubtool.backends.native.lower import Choice, fill, lower
from hubtool.backends.numpy import NumpySpace
from hubtool.errors import BackendError
from hubtool.interpreter import Program

BOUNDS = {"direct": 4e-6, "winograd2": 2e-6, "winograd4": 2e-5}
"""Algorithm -> the largest error, as a part of the largest output. The definition's own sum has up
to 4,608 terms here, one after the other."""

CHANNELS = (16, 64, 256, 512)


def _conv(C: int, M: int, dtype: type) -> Graph:
    rng = np.random.default_rng(C)
    W, B = rng.standard_normal((M, C, 3, 3)), rng.standard_normal(M)
    pads = {"pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "group": 1}
    attrs = {**pads, "auto_pad": "NOTSET", "kernel_shape": [3, 3]}
    name = np.dtype(dtype).name
    return Graph(
        layers=[Layer("conv", "Conv", {"X": "x", "W": "W", "B": "B"}, ["y"], attrs)],
        inputs={"x": Value("tensor", name, (1, C, None, None))},
        outputs={"y": Value("tensor", name, (1, M, None, None))},
        tensors={
            key: Tensor.of(array.astype(np.float32).astype(dtype))
            for key, array in {"W": W, "B": B}.items()
        },
    )


def _on_engine(
    graph: Graph, x: np.ndarray, algorithm: str, precision: str = "float32"
) -> np.ndarray:
    isa = library.isa()
    choices = {"conv": Choice(algorithm)}
    lowered = lower(graph, {"x": x.shape}, isa=isa, choices=choices, precision=precision)
    (step,) = lowered.steps[lowered.steps["kind"] == library.code("kinds", "conv")]
    assert step["algorithm"] == library.code("algorithms", algorithm)
    weights = np.zeros(lowered.blob + 64, np.uint8)
    weights = weights[-weights.ctypes.data % 64 :][: lowered.blob]
    fill(lowered, graph, isa, weights, 1)
    plan = library.Plan(isa, lowered.steps, lowered.arena, weights, library.Pool(1))
    y = np.empty(lowered.outputs[0][1], np.float32)
    plan.run([x], [y])
    return y


def _error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(found - truth).max() / np.abs(truth).max())


@pytest.mark.parametrize("algorithm", BOUNDS)
@pytest.mark.parametrize("C", CHANNELS)
def test_a_convolution_is_as_near_as_its_algorithm_promises(C: int, algorithm: str) -> None:
    x = np.random.default_rng(1).standard_normal((1, C, 15, 14), np.float32)
    truth = Program(_conv(C, 48, np.float64), NumpySpace()).run({"x": x.astype(np.float64)})["y"]
    found = _on_engine(_conv(C, 48, np.float32), x, algorithm)
    assert _error(found, truth) < BOUNDS[algorithm]


def test_more_products_saved_is_more_error() -> None:
    """The bounds are no idle ones: F(4) errs by more than the definition does."""
    x = np.random.default_rng(1).standard_normal((1, 256, 14, 14), np.float32)
    truth = Program(_conv(256, 48, np.float64), NumpySpace()).run({"x": x.astype(np.float64)})["y"]
    graph = _conv(256, 48, np.float32)
    assert _error(_on_engine(graph, x, "winograd4"), truth) > 1.5 * _error(
        _on_engine(graph, x, "direct"), truth
    )


@pytest.mark.parametrize("algorithm", BOUNDS)
@pytest.mark.parametrize("C", CHANNELS)
def test_bfloat16_rounds_factors_and_not_sums(C: int, algorithm: str) -> None:
    """Where bfloat16 has all factors exactly, nothing is rounded but the result, by half a unit in
    its last place (2**-8 of it at most)."""
    if not _has_bf16():
        return
    x = np.random.default_rng(1).integers(-8, 9, (1, C, 15, 14)).astype(np.float32)
    graph, wide = _conv(C, 48, np.float32), _conv(C, 48, np.float64)
    for each in (graph, wide):
        for name, tensor in each.tensors.items():
            few = np.round(tensor.array * 4) / 4
            each.tensors[name] = Tensor.of(few.astype(tensor.array.dtype))
    truth = Program(wide, NumpySpace()).run({"x": x.astype(np.float64)})["y"]
    assert _error(_on_engine(graph, x, algorithm, "bfloat16"), truth) < 2**-8


@pytest.mark.parametrize("C", CHANNELS)
def test_winograd_in_bfloat16_is_near_the_direct_product(C: int) -> None:
    """F(2) rounds what it transforms, too; F(4) multiplies in float32."""
    if not _has_bf16():
        return
    x = np.random.default_rng(1).standard_normal((1, C, 15, 14), np.float32)
    truth = Program(_conv(C, 48, np.float64), NumpySpace()).run({"x": x.astype(np.float64)})["y"]
    graph = _conv(C, 48, np.float32)
    direct, second, fourth = (
        _error(_on_engine(graph, x, algorithm, "bfloat16"), truth) for algorithm in BOUNDS
    )
    assert second < 2 * direct
    assert fourth < 1.2 * direct


@pytest.mark.parametrize("C", [1, 2, 3, 5, 15])
@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": [2, 2], "pads": [3, 3, 3, 3]},
        {"dilations": [1, 2], "pads": [0, 1, 2, 0]},
        {"group": 1},
    ],
    ids=["strided", "dilated", "plain"],
)
def test_pictures_of_few_channels_in_bfloat16(C: int, attrs: dict) -> None:
    """Products take channels in pairs; what completes the last pair counts for nothing."""
    if not _has_bf16():
        return
    rng = np.random.default_rng(C)
    x = rng.integers(-8, 9, (2, C, 19, 23)).astype(np.float32)
    W = rng.integers(-8, 9, (20, C, 7, 5)).astype(np.float32)
    made = {}
    for dtype in (np.float32, np.float64):
        name = np.dtype(dtype).name
        graph = Graph(
            layers=[Layer("conv", "Conv", {"X": "x", "W": "W"}, ["y"], _attrs(**attrs))],
            inputs={"x": Value("tensor", name, x.shape)},
            outputs={"y": Value("tensor", name, (2, 20, None, None))},
            tensors={"W": Tensor.of(W.astype(dtype))},
        )
        made[name] = graph
    truth = Program(made["float64"], NumpySpace()).run({"x": x.astype(np.float64)})["y"]
    found = _on_engine(made["float32"], x, "direct", "bfloat16")
    assert _error(found, truth) < 2**-8


def _attrs(**given: object) -> dict:
    plain = {"pads": [0, 0, 0, 0], "strides": [1, 1], "dilations": [1, 1], "group": 1}
    return {**plain, "auto_pad": "NOTSET", "kernel_shape": [7, 5], **given}


def _has_bf16() -> bool:
    """Whether there is such a product; where there is none, asking for it is refused."""
    if library.has_bf16(library.isa()):
        return True
    with pytest.raises(BackendError, match="bfloat16"):
        hubtool.load(_conv(16, 48, np.float32), backend="native", precision="bf16")
    return False


@pytest.mark.parametrize("name", ["resnet18-v1", "resnet50-v1"])
@pytest.mark.parametrize("precision", ["float32", "exact"])
def test_a_whole_resnet_is_within_2e_5_of_float64(tmp_path, name: str, precision: str) -> None:
    hubtool.zoo.sketch(name, tmp_path / "net.onnx")
    graph = hubtool.read(tmp_path / "net.onnx")
    x = np.random.default_rng(2).standard_normal((1, 3, 224, 224), np.float32)
    model = hubtool.load(graph, backend="native", precision=precision, options={"tune": False})
    assert _error(model(x), _in_float64(graph, x)) < 2e-5


def _in_float64(graph: Graph, x: np.ndarray) -> np.ndarray:
    wide = graph.copy()
    wide.values.clear()
    for known in (wide.inputs, wide.outputs):
        known.update({k: Value("tensor", "float64", v.shape) for k, v in known.items()})
    for name, tensor in wide.tensors.items():
        if tensor.dtype == "float32":
            wide.tensors[name] = Tensor.of(tensor.array.astype(np.float64))
    return hubtool.load(wide, backend="numpy")(x.astype(np.float64))
