"""Linear models and support vector machines against ONNX Runtime, odd ends included."""

from __future__ import annotations

import numpy as np
import pytest
from ops.classical import agree, in_onnxruntime, model_of
from ops.conftest import alone

from hubtool.errors import RunError

RNG = np.random.default_rng(5)
X = RNG.standard_normal((7, 3)).astype(np.float32)
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]
DTYPES = ["float32", "float64", "int64", "int32"]


def numbers(*shape):
    """Reproducible floats of 32 bits, as a list."""
    drawn = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    return drawn.reshape(-1).tolist()


@pytest.mark.parametrize("post_transform", TRANSFORMS)
@pytest.mark.parametrize("targets", [1, 2, 4])
def test_linear_regressor_agrees_with_onnxruntime(targets, post_transform):
    attrs = {"targets": targets, "coefficients": numbers(targets, 3)}
    attrs |= {"post_transform": post_transform}
    agree("ai.onnx.ml.LinearRegressor", {"X": X}, attrs, {"Y": "float32"})
    agree(
        "ai.onnx.ml.LinearRegressor",
        {"X": X},
        {**attrs, "intercepts": numbers(targets)},
        {"Y": "float32"},
    )


@pytest.mark.parametrize("targets", [1, 2])
def test_probit_is_onnxruntimes_approximation(targets):
    chances = np.linspace(0.01, 0.99, 12, dtype=np.float32).reshape(-1, targets)
    identity = np.eye(targets).reshape(-1).tolist()
    attrs = {"targets": targets, "coefficients": identity, "post_transform": "PROBIT"}
    agree("ai.onnx.ml.LinearRegressor", {"X": chances}, attrs, {"Y": "float32"}, rtol=1e-4)


def test_softmax_zero_leaves_zeros_out():
    scores = np.array([[0, 1, -1], [2, 0, 0], [0.5, 3, 1e-8]], np.float32)
    identity = np.eye(3).reshape(-1).tolist()
    attrs = {"targets": 3, "coefficients": identity, "post_transform": "SOFTMAX_ZERO"}
    agree("ai.onnx.ml.LinearRegressor", {"X": scores}, attrs, {"Y": "float32"})


@pytest.mark.parametrize("strings", [False, True], ids=["ints", "strings"])
@pytest.mark.parametrize("post_transform", TRANSFORMS)
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_linear_classifier_agrees_with_onnxruntime(rows, post_transform, strings):
    """One row of coefficients is the second of two classes."""
    labels = [5, 7, 9, -1][: max(rows, 2)]
    attrs = {"coefficients": numbers(rows, 3), "intercepts": numbers(rows)}
    attrs |= {"post_transform": post_transform}
    attrs["classlabels_strings" if strings else "classlabels_ints"] = (
        [f"is {label}" for label in labels] if strings else labels
    )
    outputs = {"Y": "string" if strings else "int64", "Z": "float32"}
    agree("ai.onnx.ml.LinearClassifier", {"X": X}, attrs, outputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_classifiers_take_every_number(dtype):
    attrs = {"coefficients": numbers(3, 3), "intercepts": numbers(3), "classlabels_ints": [1, 2, 3]}
    given = {"X": (X * 5).astype(dtype)}
    agree("ai.onnx.ml.LinearClassifier", given, attrs, {"Y": "int64", "Z": "float32"})
    agree("ai.onnx.ml.SVMClassifier", given, svc(3), {"Y": "int64", "Z": "float32"})


def test_a_vector_is_one_row():
    attrs = {"coefficients": numbers(3, 3), "intercepts": numbers(3), "classlabels_ints": [1, 2, 3]}
    agree("ai.onnx.ml.LinearClassifier", {"X": X[0]}, attrs, {"Y": "int64", "Z": "float32"})


def svc(classes, kernel="RBF", proba=False, strings=False, post_transform="NONE"):
    """The attributes of a support vector machine with three vectors a class."""
    pairs, vectors = classes * (classes - 1) // 2, 3 * classes
    attrs = {
        "kernel_type": kernel,
        "kernel_params": [0.4, 0.3, 3.0],
        "vectors_per_class": [3] * classes,
        "support_vectors": numbers(vectors, 3),
        "coefficients": numbers(classes - 1, vectors),
        "rho": numbers(pairs),
        "post_transform": post_transform,
    }
    if proba:
        attrs |= {
            "prob_a": [-abs(a) for a in numbers(pairs, 1)],
            "prob_b": numbers(pairs, 2)[:pairs],
        }
    labels = [5, 7, 9, -1][:classes]
    if strings:
        return {**attrs, "classlabels_strings": [f"is {label}" for label in labels]}
    return {**attrs, "classlabels_ints": labels}


@pytest.mark.parametrize("proba", [False, True], ids=["scores", "probabilities"])
@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_svm_classifier_agrees_with_onnxruntime(classes, kernel, proba):
    attrs = svc(classes, kernel, proba)
    agree("ai.onnx.ml.SVMClassifier", {"X": X}, attrs, {"Y": "int64", "Z": "float32"})


@pytest.mark.parametrize("post_transform", TRANSFORMS)
@pytest.mark.parametrize("proba", [False, True], ids=["scores", "probabilities"])
@pytest.mark.parametrize("classes", [2, 3])
def test_svm_classifier_transforms_its_scores(classes, proba, post_transform):
    attrs = svc(classes, proba=proba, strings=True, post_transform=post_transform)
    agree("ai.onnx.ml.SVMClassifier", {"X": X}, attrs, {"Y": "string", "Z": "float32"})


@pytest.mark.parametrize("post_transform", TRANSFORMS)
@pytest.mark.parametrize("signs", ["mixed", "positive"])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_svm_classifier_without_vectors_is_linear(classes, signs, post_transform):
    coefficients = [abs(c) if signs == "positive" else c for c in numbers(classes, 3)]
    attrs = {
        "classlabels_ints": [5, 7, 9][:classes],
        "coefficients": coefficients,
        "rho": [0.2],
        "kernel_params": [0.0, 0.0, 0.0],
        "post_transform": post_transform,
    }
    agree("ai.onnx.ml.SVMClassifier", {"X": X}, attrs, {"Y": "int64", "Z": "float32"})


@pytest.mark.parametrize("one_class", [0, 1])
@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("vectors", [0, 4])
def test_svm_regressor_agrees_with_onnxruntime(vectors, kernel, one_class):
    attrs = {
        "kernel_type": kernel,
        "kernel_params": [0.4, 0.3, 2.0],
        "n_supports": vectors,
        "coefficients": numbers(vectors or 3),
        "rho": [-0.1],
        "one_class": one_class,
        "post_transform": "LOGISTIC",
    }
    if vectors:
        attrs["support_vectors"] = numbers(vectors, 3)
    agree("ai.onnx.ml.SVMRegressor", {"X": X}, attrs, {"Y": "float32"})


def test_rare_votes_tie_for_the_first_class():
    """Three classes that each win once: the first counts, in both."""
    attrs = svc(3) | {"coefficients": [0.0] * 18, "rho": [1.0, -1.0, 1.0]}
    given = np.zeros((2, 3), np.float32)
    labels, _ = in_onnxruntime(
        model_of("ai.onnx.ml.SVMClassifier", [given], attrs, {"Y": "int64", "Z": "float32"}),
        [given],
    )
    assert labels.tolist() == [5, 5]
    assert alone("ai.onnx.ml.SVMClassifier", {"X": given}, attrs, 2)[0].tolist() == [5, 5]


LINEAR = {"coefficients": numbers(2, 3), "classlabels_ints": [1, 2]}


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        (
            "LinearRegressor",
            {"coefficients": numbers(3), "targets": 2},
            "3 coefficients do not suit",
        ),
        ("LinearRegressor", {"coefficients": numbers(4)}, r"X \[7, 3\] has not 4 columns"),
        (
            "LinearClassifier",
            {**LINEAR, "classlabels_ints": [1, 2, 3]},
            "6 coefficients do not suit",
        ),
        ("LinearClassifier", {**LINEAR, "post_transform": "TANH"}, "post_transform is 'TANH'"),
        (
            "LinearClassifier",
            {"coefficients": numbers(3)},
            "classlabels_ints or classlabels_strings",
        ),
        (
            "LinearClassifier",
            {"coefficients": numbers(3), "classlabels_ints": [1, 2], "post_transform": "PROBIT"},
            "PROBIT has no meaning for one score of two classes",
        ),
        ("SVMClassifier", {**svc(3), "rho": [0.1]}, "3 classes do not suit 3 vectors_per_class"),
        ("SVMClassifier", {**svc(3), "kernel_type": "COSINE"}, "kernel_type is 'COSINE'"),
        (
            "SVMClassifier",
            {**svc(3), "support_vectors": [1.0]},
            "1 numbers are not 9 support vectors",
        ),
        ("SVMClassifier", {"classlabels_ints": [1]}, "coefficients and rho must be given"),
        ("SVMRegressor", {"coefficients": [1.0]}, "coefficients and rho must be given"),
        (
            "SVMRegressor",
            {
                "coefficients": [1.0],
                "rho": [0.0],
                "n_supports": 2,
                "support_vectors": numbers(2, 3),
            },
            "there are 1 coefficients for 2 vectors",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(op, attrs, message):
    outputs = 2 if op.endswith("Classifier") else 1
    with pytest.raises(RunError, match=message):
        alone(f"ai.onnx.ml.{op}", {"X": X}, attrs, outputs)
