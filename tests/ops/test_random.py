"""Draws: their distributions at fixed seeds, their dtypes, and which of them repeat themselves.

The bounds on moments are five standard errors of as many draws: with the seeds below they hold
for certain, and a wrong mean, scale or range would miss them by far.
"""

from __future__ import annotations

import inspect
import math

import ml_dtypes
import numpy as np
import pytest
from ops.conftest import SPACES
from ops.judged import made_by, shapes

from hubtool.dtypes import NUMBERS
from hubtool.errors import RunError
from hubtool.graph import Graph, Layer, Value
from hubtool.interpreter import HOST, Program
from hubtool.ops import load_ops
from hubtool.passes.fold_constants import RANDOM

COUNT = 40_000
HALF = np.full((2, 3), 0.5, np.float32)
SHARES = np.asarray([[0.1, 0.2, 0.3, 0.4], [0.5, 0, 0.5, 0]], np.float32)
with np.errstate(divide="ignore"):
    LOGARITHMS = np.log(SHARES)

DRAWS = {
    "RandomNormal": ({}, {"shape": [2, 3], "seed": 7.0}),
    "RandomUniform": ({}, {"shape": [2, 3], "seed": 7.0}),
    "RandomNormalLike": ({"input": HALF}, {"seed": 7.0}),
    "RandomUniformLike": ({"input": HALF}, {"seed": 7.0}),
    "Bernoulli": ({"input": np.full((5, 60), 0.5, np.float32)}, {"seed": 7.0}),
    "Multinomial": ({"input": LOGARITHMS}, {"seed": 7.0, "sample_size": 90}),
}
EACH = pytest.mark.parametrize(("op", "given"), DRAWS.items(), ids=DRAWS)


def moments_agree(sample, mean, variance):
    """Whether mean and variance of a sample are what they should be within five standard errors,
    that of the variance taken from the sample's own fourth moment."""
    sample = sample.astype(np.float64).reshape(-1)
    n, squares = sample.size, (sample - sample.mean()) ** 2
    assert abs(sample.mean() - mean) < 5 * math.sqrt(variance / n)
    assert abs(squares.mean() - variance) < 5 * squares.std() / math.sqrt(n)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (-3.0, 0.5), (100.0, 20.0)])
def test_normal_numbers_have_the_mean_and_the_deviation(alone, mean, scale):
    attrs = {"shape": [COUNT], "mean": mean, "scale": scale, "seed": 1.0}
    (made,) = alone("RandomNormal", {}, attrs)
    moments_agree(made, mean, scale**2)
    within = [(np.abs(made - mean) < k * scale).mean() for k in (1, 2)]
    np.testing.assert_allclose(within, [0.6827, 0.9545], atol=0.01)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.0, 6.0)])
def test_uniform_numbers_fill_the_range_evenly(alone, low, high):
    (made,) = alone("RandomUniform", {}, {"shape": [COUNT], "low": low, "high": high, "seed": 2.0})
    moments_agree(made, (low + high) / 2, (high - low) ** 2 / 12)
    assert low <= made.min() and made.max() <= high
    counts, _ = np.histogram(made, 16, (low, high))
    assert np.abs(counts - COUNT / 16).max() < 5 * math.sqrt(COUNT / 16)


def test_bernoulli_gives_one_as_often_as_the_input_says(alone):
    p = np.asarray([0, 0.125, 0.5, 0.875, 1], np.float32)[:, None]
    (made,) = alone("Bernoulli", {"input": np.broadcast_to(p, (5, COUNT))}, {"seed": 3.0})
    assert set(np.unique(made)) == {0, 1}
    assert made[0].max() == 0 and made[4].min() == 1
    bound = 5 * np.sqrt(p * (1 - p) / COUNT)[:, 0]
    assert (np.abs(made.mean(axis=1) - p[:, 0]) <= bound).all()


def test_multinomial_draws_classes_by_their_shares(alone):
    given = LOGARITHMS + np.asarray([[500], [-500]], np.float32)  # not normalised
    (made,) = alone("Multinomial", {"input": given}, {"seed": 4.0, "sample_size": COUNT})
    assert made.shape == (2, COUNT)
    for row, shares in zip(made, SHARES, strict=True):
        rates = np.bincount(row, minlength=4) / COUNT
        assert (np.abs(rates - shares) <= 5 * np.sqrt(shares * (1 - shares) / COUNT)).all()


@EACH
def test_a_seed_gives_the_same_numbers_on_every_library(op, given):
    made = {name: made_by(space, op, *given, 1)[0] for name, space in SPACES.items()}
    for other in made.values():
        np.testing.assert_array_equal(other, made["numpy"], strict=True)
    assert np.unique(made["numpy"]).size > 1


@EACH
def test_another_seed_gives_other_numbers(op, given, alone):
    inputs, attrs = given
    first, second = (alone(op, inputs, {**attrs, "seed": seed})[0] for seed in (7.0, 8.0))
    assert first.shape == second.shape and not np.array_equal(first, second)


@EACH
def test_without_a_seed_each_run_draws_anew_unless_it_is_given_a_generator(op, given):
    inputs, attrs = given[0], {k: v for k, v in given[1].items() if k != "seed"}
    defaults = {k: v for k, v in load_ops()[op].attrs.items() if isinstance(v, int | float)}
    layers = [
        Layer(f"draw_{y}", op, {name: name for name in inputs}, [y], {**defaults, **attrs})
        for y in ("a", "b")
    ]
    unknown = Value("tensor", "", None)
    graph = Graph(layers, dict.fromkeys(inputs, unknown), dict.fromkeys("ab", unknown))
    program = Program(graph, HOST)
    runs = [program.run(inputs) for _ in range(2)]
    again = [program.run(inputs, generator=np.random.default_rng(5)) for _ in range(2)]
    assert not np.array_equal(runs[0]["a"], runs[1]["a"])
    assert not np.array_equal(again[0]["a"], again[0]["b"])
    for name in ("a", "b"):
        assert np.array_equal(again[0][name], again[1][name])


@EACH
def test_shapes_need_no_draw(op, given, monkeypatch):
    (made,) = made_by(HOST, op, *given, 1)
    monkeypatch.setattr(np.random, "Generator", None)
    monkeypatch.setattr("hubtool.ops.random._drawn", None)  # would fail if it were called
    assert shapes(op, *given, 1) == [(made.dtype.name, made.shape)]


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_dtype_is_the_inputs_or_the_one_asked_for(alone, op, dtype):
    given = {"input": np.full((4, 5), 0.5, dtype)}
    (own,) = alone(op, given, {"seed": 1.0})
    assert (own.dtype, own.shape) == (np.dtype(dtype), (4, 5))
    asked = ["float64", "bfloat16"] + (["bool", "uint8"] if op == "Bernoulli" else [])
    for name in asked:
        (made,) = alone(op, given, {"seed": 1.0, "dtype": NUMBERS[name]})
        assert made.dtype.name == name
        assert shapes(op, given, {"dtype": NUMBERS[name]}, 1) == [(name, (4, 5))]


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniform"])
@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
def test_narrow_floats_are_those_of_float32_rounded(alone, op, name):
    attrs = {"shape": [50], "seed": 9.0, "dtype": NUMBERS[name]}
    (made,), (single,) = alone(op, {}, attrs), alone(op, {}, {**attrs, "dtype": 1})
    assert made.dtype.name == name
    if name != "float64":
        assert np.array_equal(made, single.astype(made.dtype))
    else:
        assert not np.array_equal(made, made.astype(np.float32))


def test_multinomials_classes_are_int32_or_int64(alone):
    for name in ("int32", "int64"):
        attrs = {"seed": 1.0, "sample_size": 0, "dtype": NUMBERS[name]}
        (made,) = alone("Multinomial", {"input": LOGARITHMS}, attrs)
        assert (made.dtype.name, made.shape) == (name, (2, 0))


def test_a_scalar_and_nothing_can_be_drawn(alone):
    for shape in ([], [0, 3]):
        for op in ("RandomNormal", "RandomUniform"):
            assert alone(op, {}, {"shape": shape, "seed": 1.0})[0].shape == tuple(shape)


NO_ROW = "input has a row without a finite logarithmic probability to draw by"


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "message"),
    [
        ("RandomNormalLike", {"input": np.zeros(2, np.int32)}, {}, "int32 is no type for these"),
        ("RandomUniform", {}, {"shape": [2], "dtype": 7}, "dtype must name one of floats"),
        ("RandomNormal", {}, {"shape": [2, -1]}, r"shape \[2, -1\] has a negative size"),
        ("RandomNormal", {}, {"shape": [1 << 40]}, "would take 4,096 GiB"),
        ("Multinomial", {"input": np.full((2, 2), -np.inf, np.float32)}, {}, NO_ROW),
        ("Multinomial", {"input": np.zeros((2, 0), np.float32)}, {}, NO_ROW),
        ("Multinomial", {"input": HALF}, {"sample_size": 1 << 40}, "would take"),
        ("Multinomial", {"input": HALF[0]}, {}, r"input \[3\] should be \[batch, class\]"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(alone, op, inputs, attrs, message):
    with pytest.raises(RunError, match=message):
        alone(op, inputs, attrs)


def test_every_operator_that_draws_is_known_to_the_pass_that_folds_constants():
    known = load_ops()
    sources = {name: inspect.getsource(known[name].function) for name in known}
    drawing = {name for name, text in sources.items() if "ctx.random" in text or "_drawn(" in text}
    assert drawing == RANDOM
