"""Activations where their formula would overflow, and Dropout's draw."""

from __future__ import annotations

import numpy as np
import pytest

from hubtool.errors import RunError
from hubtool.graph import Graph, Layer, Value
from hubtool.interpreter import HOST, Program

EXTREME = np.asarray([-1e4, -100, -20, 0, 20, 100, 1e4], np.float32)


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        ("Softplus", [0, 0, 2.0611537e-09, 0.6931472, 20, 100, 1e4]),
        ("Sigmoid", [0, 3.783506e-44, 2.0611537e-09, 0.5, 1, 1, 1]),
        ("Mish", [0, 0, -4.1223073e-08, 0, 20, 100, 1e4]),
        ("Elu", [-1, -1, -1, 0, 20, 100, 1e4]),
        ("Celu", [-1, -1, -1, 0, 20, 100, 1e4]),
        ("Gelu", [0, 0, 0, 0, 20, 100, 1e4]),
        ("Swish", [0, 0, -4.1223074e-08, 0, 20, 100, 1e4]),
    ],
)
def test_extremes_stay_finite(alone, op, wanted):
    (Y,) = alone(op, {"X": EXTREME}, {})
    np.testing.assert_allclose(Y, wanted, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_knows_no_overflow(alone, op):
    x = np.asarray([[1e4, 1e4 - 1, -1e4]], np.float32)
    (y,) = alone(op, {"input": x}, {})
    probabilities = y if op == "Softmax" else np.exp(y)
    np.testing.assert_allclose(probabilities, [[0.7310586, 0.2689414, 0]], rtol=1e-6)


def test_hardmax_takes_the_first_of_equals(alone):
    x = np.asarray([[3, 1], [3, 1]], np.float32)
    assert alone("Hardmax", {"input": x}, {"axis": 0})[0].tolist() == [[1, 1], [0, 0]]


def test_gelu_agrees_with_onnxruntime(alone, in_onnxruntime):
    X = np.linspace(-6, 6, 500, dtype=np.float32)
    for approximate in ("none", "tanh"):
        attrs = {"approximate": approximate}
        (wanted,) = in_onnxruntime("Gelu", [X], attrs, {"Y": "float32"})
        np.testing.assert_allclose(alone("Gelu", {"X": X}, attrs)[0], wanted, atol=1e-6)


def test_an_unknown_approximation_is_refused(alone):
    with pytest.raises(RunError, match="approximate is 'fast', not none or tanh"):
        alone("Gelu", {"X": EXTREME}, {"approximate": "fast"})


def test_shrink_takes_integers(alone):
    given = {"input": np.asarray([-3, -1, 0, 1, 3], np.int8)}
    (y,) = alone("Shrink", given, {"lambd": 1.5, "bias": 1.0})
    assert (y.dtype.name, y.tolist()) == ("int8", [-2, 0, 0, 0, 2])


def test_dropout_leaves_the_data_alone_unless_it_trains(alone):
    data = np.arange(6, dtype=np.float32)
    off = {"data": data, "ratio": np.float32(0.9), "training_mode": np.asarray(False)}
    output, mask = alone("Dropout", off, {}, outputs=2)
    assert output.tolist() == data.tolist()
    assert mask.tolist() == [True] * 6


def test_a_dropout_in_training_scales_what_is_left_and_repeats_with_its_seed(alone):
    data = np.ones(1000, np.float32)
    on = {"data": data, "ratio": np.float32(0.75), "training_mode": np.asarray(True)}
    output, mask = alone("Dropout", on, {"seed": 5}, outputs=2)
    again, _ = alone("Dropout", on, {"seed": 5}, outputs=2)
    assert np.array_equal(output, np.where(mask, 4, 0))
    assert 200 < mask.sum() < 300
    assert np.array_equal(output, again)


def test_without_a_seed_the_runs_own_generator_draws():
    unknown, inputs = Value("tensor", "", None), ("data", "ratio", "training_mode")
    layer = Layer("drop", "Dropout", {name: name for name in inputs}, ["output"], {})
    graph = Graph([layer], dict.fromkeys(inputs, unknown), {"output": unknown})
    feeds = {"data": np.ones(100), "ratio": np.float32(0.5), "training_mode": np.asarray(True)}
    first, second, third = (
        Program(graph, HOST).run(feeds, generator=np.random.default_rng(seed))["output"]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second) and not np.array_equal(first, third)
