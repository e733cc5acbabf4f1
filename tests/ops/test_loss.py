"""Losses against PyTorch's and ONNX Runtime's, over every rank, reduction and weighting."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from ops.conftest import SPACES
from ops.judged import made_by, shapes

from hubtool.errors import RunError
from hubtool.ops import load_ops

REDUCTIONS = ("none", "sum", "mean")
EACH_SPACE = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
EACH_REDUCTION = pytest.mark.parametrize("reduction", REDUCTIONS)
OPERATORS = {
    "NegativeLogLikelihoodLoss": torch.nn.functional.nll_loss,
    "SoftmaxCrossEntropyLoss": torch.nn.functional.cross_entropy,
}
EACH_OPERATOR = pytest.mark.parametrize("op", OPERATORS)


def given(op, dims, weighted, ignore_index=None, dtype=np.float32):
    """The operator's inputs: scores [N, C, …], labels that name every class, weights."""
    rng = np.random.default_rng(31)
    scores = rng.standard_normal(dims).astype(dtype)
    labels = rng.integers(0, dims[1], (dims[0], *dims[2:]))
    if ignore_index is not None:
        labels[rng.random(labels.shape) < 0.4] = ignore_index
    weights = (rng.random(dims[1]) + 0.5).astype(dtype) if weighted else None
    names = [formal.name for formal in load_ops()[op].inputs]
    return dict(zip(names, (scores, labels, weights), strict=True))


def attributes(reduction, ignore_index):
    return {"reduction": reduction} | (
        {} if ignore_index is None else {"ignore_index": ignore_index}
    )


def by_torch(op, inputs, reduction, ignore_index):
    scores, labels, weights = (None if x is None else torch.tensor(x) for x in inputs.values())
    ignored = -100 if ignore_index is None else ignore_index
    loss = OPERATORS[op](scores, labels, weights, ignore_index=ignored, reduction=reduction)
    return loss.numpy()


@EACH_SPACE
@EACH_OPERATOR
@EACH_REDUCTION
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [None, 0, 2, -1, 10])
def test_losses_are_pytorchs(space, op, reduction, weighted, ignore_index):
    for dims in ((7, 3), (4, 3, 5), (2, 3, 4, 2), (2, 3, 2, 2, 3)):
        inputs = given(op, dims, weighted, ignore_index)
        attrs = attributes(reduction, ignore_index)
        (made,) = made_by(space, op, inputs, attrs, 1)
        wanted = by_torch(op, inputs, reduction, ignore_index)
        assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(made, wanted, rtol=2e-6, atol=1e-6)
        assert shapes(op, inputs, attrs, 1) == [("float32", made.shape)]


@EACH_OPERATOR
@EACH_REDUCTION
@pytest.mark.parametrize("ignore_index", [None, 1])
def test_losses_are_onnxruntimes(alone, in_onnxruntime, op, reduction, ignore_index):
    inputs = given(op, (4, 3, 5), True, ignore_index)
    attrs, count = attributes(reduction, ignore_index), 1 + (op == "SoftmaxCrossEntropyLoss")
    names = {"loss": "float32", "log_prob": "float32"} if count == 2 else {"loss": "float32"}
    wanted = in_onnxruntime(op, [*inputs.values()], attrs, names)
    for made, other in zip(alone(op, inputs, attrs, count), wanted, strict=True):
        np.testing.assert_allclose(made, other, rtol=2e-6, atol=1e-6, strict=True)


@EACH_OPERATOR
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_narrow_floats_are_rounded_once(alone, op, dtype):
    inputs = given(op, (40, 3, 6), True, 1, dtype)
    wide = {name: x if x.dtype == np.int64 else x.astype(np.float64) for name, x in inputs.items()}
    (made,), (wanted,) = (alone(op, x, {"ignore_index": 1}) for x in (inputs, wide))
    assert (made.dtype, wanted.dtype) == (np.dtype(dtype), np.float64)
    np.testing.assert_allclose(
        made.astype(np.float64), wanted, rtol=float(ml_dtypes.finfo(dtype).eps) / 2 + 1e-12
    )


@EACH_OPERATOR
def test_labels_may_be_int32(alone, op):
    inputs = given(op, (4, 3, 5), True)
    labels = [*inputs][1]
    narrow = {**inputs, labels: inputs[labels].astype(np.int32)}
    assert np.array_equal(*(alone(op, x, {"reduction": "none"})[0] for x in (inputs, narrow)))


@EACH_REDUCTION
def test_what_stands_where_a_label_is_ignored_does_not_count(alone, reduction):
    scores = np.asarray([[-1, -2], [-np.inf, np.nan], [-3, -4]], np.float32)
    inputs = {"input": scores, "target": np.asarray([1, -1, 0])}
    attrs = {"ignore_index": -1, "reduction": reduction}
    (made,) = alone("NegativeLogLikelihoodLoss", inputs, attrs)
    assert made.tolist() == {"none": [2, 0, 3], "sum": 5, "mean": 2.5}[reduction]


@EACH_OPERATOR
def test_the_mean_over_nothing_but_ignored_labels_is_no_number(alone, op):
    inputs = given(op, (4, 3), False)
    inputs[[*inputs][1]][:] = 2
    assert np.isnan(alone(op, inputs, {"ignore_index": 2})[0])
    assert alone(op, inputs, {"ignore_index": 2, "reduction": "sum"})[0] == 0


@EACH_SPACE
def test_log_prob_is_the_logarithm_of_softmax_over_the_classes(space):
    inputs = given("SoftmaxCrossEntropyLoss", (2, 3, 4), False)
    inputs["scores"] *= 100
    loss, log_prob = made_by(space, "SoftmaxCrossEntropyLoss", inputs, {"reduction": "none"}, 2)
    wanted = torch.log_softmax(torch.tensor(inputs["scores"]), 1).numpy()
    np.testing.assert_allclose(log_prob, wanted, rtol=1e-6)
    picked = np.take_along_axis(log_prob, inputs["labels"][:, None], 1)[:, 0]
    np.testing.assert_array_equal(loss, -picked)
    assert shapes("SoftmaxCrossEntropyLoss", inputs, {"reduction": "none"}, 2) == [
        ("float32", (2, 4)),
        ("float32", (2, 3, 4)),
    ]


@pytest.mark.parametrize(
    ("changed", "attrs", "message"),
    [
        (
            {"labels": np.zeros((2, 3), np.int64)},
            {},
            r"labels \[2, 3\] do not fit scores \[2, 3, 4\]",
        ),
        ({"scores": np.zeros(2, np.float32)}, {}, r"do not fit scores \[2\]"),
        (
            {"weights": np.zeros(4, np.float32)},
            {},
            r"weights \[4\] are not one for each of 3 class",
        ),
        ({}, {"reduction": "max"}, "reduction is 'max', not one of none, sum, mean"),
    ],
)
def test_what_does_not_fit_together_is_refused(alone, changed, attrs, message):
    inputs = {**given("SoftmaxCrossEntropyLoss", (2, 3, 4), True), **changed}
    with pytest.raises(RunError, match=message):
        alone("SoftmaxCrossEntropyLoss", inputs, attrs)
