"""Normalisations of odd ranks, in training, and where they would divide by zero."""

from __future__ import annotations

import numpy as np
import pytest

from hubtool.errors import RunError

FORMALS = ("scale", "B", "input_mean", "input_var")


def statistics(C, rng):
    return {name: rng.random(C).astype(np.float32) + 0.5 for name in FORMALS}


@pytest.mark.parametrize("dims", [(4, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 2, 2), (0, 3, 4)])
def test_batch_normalization_of_any_rank(alone, dims):
    rng = np.random.default_rng(8)
    X, given = rng.standard_normal(dims).astype(np.float32), statistics(3, rng)
    s, b, m, v = (given[name].reshape(3, *(1,) * (len(dims) - 2)) for name in FORMALS)
    (Y,) = alone("BatchNormalization", {"X": X, **given}, {"epsilon": 0.25})
    np.testing.assert_allclose(Y, (X - m) / np.sqrt(v + 0.25) * s + b, rtol=1e-5, atol=1e-6)


def test_a_single_dimension_has_one_channel(alone):
    X = np.asarray([1, 2, 3], np.float32)
    given = {
        name: np.asarray([v], np.float32) for name, v in zip(FORMALS, (2, 1, 2, 1), strict=True)
    }
    (Y,) = alone("BatchNormalization", {"X": X, **given}, {"epsilon": 0.0})
    assert Y.tolist() == [-1, 1, 3]


def test_training_takes_the_batchs_own_statistics_and_moves_the_running_ones(alone):
    rng = np.random.default_rng(2)
    X, given = rng.standard_normal((6, 3, 4)).astype(np.float32), statistics(3, rng)
    attrs = {"training_mode": 1, "momentum": 0.75}
    Y, mean, var = alone("BatchNormalization", {"X": X, **given}, attrs, outputs=3)
    own = X.mean(axis=(0, 2)), X.var(axis=(0, 2))
    np.testing.assert_allclose(mean, given["input_mean"] * 0.75 + own[0] * 0.25, rtol=1e-5)
    np.testing.assert_allclose(var, given["input_var"] * 0.75 + own[1] * 0.25, rtol=1e-5)
    plain = (Y - given["B"][:, None]) / given["scale"][:, None]
    np.testing.assert_allclose(plain.mean(axis=(0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(plain.std(axis=(0, 2)), 1, rtol=1e-3)


def test_each_output_of_a_mixed_batch_normalization_has_its_own_dtype(alone):
    X, given = np.ones((2, 3), np.float16), statistics(3, np.random.default_rng(0))
    outputs = alone("BatchNormalization", {"X": X, **given}, {"training_mode": 1}, outputs=3)
    assert [y.dtype.name for y in outputs] == ["float16", "float32", "float32"]


@pytest.mark.parametrize("p", [1, 2])
def test_a_vector_of_zeros_stays_one(alone, p):
    x = np.asarray([[0, 0], [3, -4]], np.float32)
    (y,) = alone("LpNormalization", {"input": x}, {"p": p})
    size = {1: 7, 2: 5}[p]
    np.testing.assert_allclose(y, [[0, 0], [3 / size, -4 / size]], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_lrn_agrees_with_onnxruntime_for_odd_sizes(alone, in_onnxruntime, size):
    X = np.random.default_rng(size).standard_normal((2, 6, 3, 3)).astype(np.float32)
    attrs = {"size": size, "alpha": 0.5, "beta": 0.6, "bias": 2.0}
    (Y,) = alone("LRN", {"X": X}, attrs)
    squares = np.pad(X**2, [(0, 0), ((size - 1) // 2, size // 2), (0, 0), (0, 0)])
    total = sum(squares[:, i : i + 6] for i in range(size))
    np.testing.assert_allclose(Y, X / (2 + 0.5 / size * total) ** 0.6, rtol=1e-5)
    if size % 2:  # ONNX Runtime takes no others
        (wanted,) = in_onnxruntime("LRN", [X], attrs, {"Y": "float32"})
        np.testing.assert_allclose(Y, wanted, rtol=1e-5)


def test_groups_must_divide_the_channels(alone):
    given = {"X": np.ones((1, 4, 2), np.float32), **dict.fromkeys(("scale", "bias"), np.ones(4))}
    with pytest.raises(RunError, match="4 channels cannot be split into 3 groups"):
        alone("GroupNormalization", given, {"num_groups": 3})
