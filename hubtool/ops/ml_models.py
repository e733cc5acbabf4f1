"""Linear models and support vector machines, and what makes probabilities of their scores.

    linear    scores = X · coefficientsᵀ + intercepts
    SVM       K[n, v] = kernel(X[n], support_vectors[v]), scores = K · coefficientsᵀ + rho
    kernel    LINEAR x·v    POLY (gamma x·v + coef0)^degree
              RBF exp(-gamma |x - v|²)    SIGMOID tanh(gamma x·v + coef0)

They do what ONNX Runtime does where the specification is silent: a single score knows neither
LOGISTIC nor SOFTMAX unless a second class is made of it, SVMRegressor has no post_transform, and
a classifier of two classes decides by the sign of its score. Probabilities of more than two classes
are coupled from those of the pairs (Wu, Lin, Weng 2004:
https://www.csie.ntu.edu.tw/~cjlin/papers/svmprob/svmprob.pdf, their second approach).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hubtool.ops import REQUIRED, op
from hubtool.ops.activation import sigmoid, softmax
from hubtool.ops.ml import singles

__all__ = ["transformed"]

Array = Any
Host = np.ndarray[Any, Any]


def _softmax_zero(ctx: Any, scores: Array) -> Array:
    """Softmax over the scores that are not 0; those stay 0, and all others share the whole."""
    xp, top = ctx.xp, ctx.xp.max(scores, axis=-1, keepdims=True)
    counted = xp.abs(scores) > float(np.float32(1e-7))
    powers = xp.where(counted, xp.exp(scores - top), 0.0)
    total = xp.sum(powers, axis=-1, keepdims=True)
    return xp.where(counted, powers, scores * xp.exp(-top)) / total


def _probit(ctx: Any, scores: Array) -> Array:
    """√2 erf⁻¹(2s - 1), by Winitzki's approximation with a = 0.147."""
    xp, x = ctx.xp, 2 * scores - 1
    log = xp.log((1 - x) * (1 + x))
    v = 2 / (math.pi * 0.147) + 0.5 * log
    root = xp.sqrt(xp.sqrt(v * v - log / 0.147) - v)
    return math.sqrt(2) * xp.where(x < 0, -root, root)


TRANSFORMS = {
    "LOGISTIC": sigmoid,
    "NONE": lambda ctx, scores: scores,
    "PROBIT": _probit,
    "SOFTMAX": softmax,
    "SOFTMAX_ZERO": _softmax_zero,
}


def transformed(ctx: Any, scores: Array, post_transform: str) -> Array:
    """Scores [N, C] by the name of a post_transform; a single column only by PROBIT."""
    if post_transform not in TRANSFORMS:
        raise ValueError(
            f"post_transform is '{post_transform}', not one of {', '.join(TRANSFORMS)}"
        )
    if scores.shape[1] == 1 and post_transform != "PROBIT":
        return scores
    return TRANSFORMS[post_transform](ctx, scores)


def _rows(ctx: Any, X: Array, columns: int) -> Array:
    """X as float32 rows of so many columns; a vector is one row."""
    X = ctx.cast(X, "float32")
    X = ctx.xp.reshape(X, (1, -1)) if X.ndim == 1 else X
    if X.ndim != 2 or X.shape[1] != columns:
        raise ValueError(f"X {list(X.shape)} has not {columns} columns")
    return X


def _inner(ctx: Any, X: Array, W: Array) -> Array:
    """The products [N, M] of all rows of X and all rows of W."""
    return ctx.xp.matmul(X, ctx.xp.permute_dims(W, (1, 0)))


def _width(X: Array) -> int:
    """The columns of X, of which a scalar has one."""
    return int(X.shape[-1]) if X.ndim else 1


@op("ai.onnx.ml.LinearRegressor", returns="float32")
def linear_regressor(
    ctx: Any,
    X: Array,
    *,
    coefficients: list[float] | None = None,
    intercepts: list[float] | None = None,
    post_transform: str = "NONE",
    targets: int = 1,
) -> Array:
    """Intercepts count where there is one for each target."""
    weights = coefficients or []
    if targets < 1 or not weights or len(weights) % targets:
        raise ValueError(f"{len(weights)} coefficients do not suit {targets} targets")
    columns = len(weights) // targets
    W = ctx.xp.reshape(singles(ctx, weights), (targets, columns))
    scores = _inner(ctx, _rows(ctx, X, columns), W)
    if intercepts and len(intercepts) == targets:
        scores = scores + singles(ctx, intercepts)
    return transformed(ctx, scores, post_transform)


def _count_of(classlabels_ints: Any, classlabels_strings: Any) -> int:
    return len(classlabels_strings or classlabels_ints or [])


def _classified_shape(ctx: Any, X: Array, scores: int, strings: Any) -> tuple[Array, Array]:
    rows = X.shape[0] if len(X.shape) > 1 else 1
    Y = ctx.empty((rows,), "string" if strings else "int64")
    return Y, ctx.empty((rows, scores), "float32")


def _linear_shape(ctx: Any, X: Array, **attrs: Any) -> tuple[Array, Array]:
    strings = attrs.get("classlabels_strings")
    labels = _count_of(attrs.get("classlabels_ints"), strings)
    return _classified_shape(ctx, X, labels, strings)


@op("ai.onnx.ml.LinearClassifier", returns=("", "float32"), on_host=True, shape=_linear_shape)
def linear_classifier(
    ctx: Any,
    X: Array,
    *,
    classlabels_ints: list[int] | None = None,
    classlabels_strings: list[str] | None = None,
    coefficients: list[float] = REQUIRED,
    intercepts: list[float] | None = None,
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> tuple[Array, Array]:
    """The class of the highest score, and the scores; one score for two classes is the second's.

    multi_class tells how the model was trained, which its numbers say already.
    """
    labels = _labels(classlabels_ints, classlabels_strings)
    columns = _width(X)
    count = len(coefficients) // max(columns, 1)
    if count * columns != len(coefficients) or (
        count != len(labels) and (count, len(labels)) != (1, 2)
    ):
        raise ValueError(
            f"{len(coefficients)} coefficients do not suit {len(labels)} classes and "
            f"X {list(X.shape)}"
        )
    W = np.reshape(singles(ctx, coefficients), (count, columns))
    scores = _inner(ctx, _rows(ctx, X, columns), W) + singles(ctx, intercepts or [0.0] * count)
    if count < len(labels):
        places = (scores[:, 0] > 0).astype(np.int64)
        return labels[places], _with_second(ctx, scores, post_transform, mirrored=False)
    return labels[scores.argmax(axis=1)], transformed(ctx, scores, post_transform)


def _labels(classlabels_ints: list[int] | None, classlabels_strings: list[str] | None) -> Host:
    if classlabels_strings:
        return np.asarray(classlabels_strings, object)
    if not classlabels_ints:
        raise ValueError("classlabels_ints or classlabels_strings must be given")
    return np.asarray(classlabels_ints, np.int64)


def _with_second(ctx: Any, score: Host, post_transform: str, *, mirrored: bool) -> Host:
    """One score [N, 1] as those of two classes: the first gets what is left of 1, or -score."""
    if post_transform == "LOGISTIC":
        return np.concatenate([sigmoid(ctx, -score), sigmoid(ctx, score)], axis=1)
    if post_transform not in TRANSFORMS or post_transform == "PROBIT":
        raise ValueError(
            f"post_transform {post_transform} has no meaning for one score of two classes"
        )
    return np.concatenate([-score if mirrored else 1 - score, score], axis=1)


@dataclass(frozen=True)
class Kernel:
    """A kernel by its name, with gamma, coef0 and degree."""

    name: str
    params: Sequence[float]

    def __call__(self, ctx: Any, X: Array, V: Array) -> Array:
        """K [N, len(V)] of rows and vectors."""
        xp = ctx.xp
        if self.name == "LINEAR":
            return _inner(ctx, X, V)
        gamma, coef0, degree = (float(np.float32(p)) for p in (*self.params, 0.0, 0.0, 0.0)[:3])
        if self.name == "RBF":
            squares = X[:, :1] * 0.0 + V[None, :, 0] * 0.0
            for column in range(V.shape[1]):  # |x|² - 2x·v + |v|² would lose what is small
                step = X[:, column : column + 1] - V[None, :, column]
                squares = squares + step * step
            return xp.exp(-gamma * squares)
        inner = gamma * _inner(ctx, X, V) + coef0
        if self.name == "POLY":
            return xp.pow(inner, degree)
        if self.name == "SIGMOID":
            return xp.tanh(inner)
        raise ValueError(f"kernel_type is '{self.name}', not LINEAR, POLY, RBF or SIGMOID")


@op("ai.onnx.ml.SVMRegressor", returns="float32")
def svm_regressor(
    ctx: Any,
    X: Array,
    *,
    coefficients: list[float] | None = None,
    kernel_params: list[float] | None = None,
    kernel_type: str = "LINEAR",
    n_supports: int = 0,
    one_class: int = 0,
    post_transform: str = "NONE",
    rho: list[float] | None = None,
    support_vectors: list[float] | None = None,
) -> Array:
    """One value a row, [N, 1]; with one_class 1 inside and -1 outside. Without support vectors it
    is linear."""
    weights = coefficients or []
    if not weights or not rho:
        raise ValueError("coefficients and rho must be given")
    if n_supports > 0:
        V = _support_vectors(ctx, support_vectors, n_supports)
        K = Kernel(kernel_type, kernel_params or [])(ctx, _rows(ctx, X, V.shape[1]), V)
    else:
        K = _rows(ctx, X, len(weights))
    if len(weights) != K.shape[1]:
        raise ValueError(f"there are {len(weights)} coefficients for {K.shape[1]} vectors")
    W = ctx.xp.reshape(singles(ctx, weights), (1, -1))
    Y = _inner(ctx, K, W) + float(np.float32(rho[0]))
    return ctx.cast(Y > 0, "float32") * 2 - 1 if one_class else Y


def _support_vectors(ctx: Any, values: list[float] | None, count: int) -> Array:
    if not values or len(values) % count:
        raise ValueError(f"{len(values or [])} numbers are not {count} support vectors")
    return ctx.xp.reshape(singles(ctx, values), (count, len(values) // count))


def _svm_shape(ctx: Any, X: Array, **attrs: Any) -> tuple[Array, Array]:
    strings = attrs.get("classlabels_strings")
    count = _count_of(attrs.get("classlabels_ints"), strings)
    pairs = count > 2 and attrs.get("vectors_per_class") and not attrs.get("prob_a")
    return _classified_shape(ctx, X, count * (count - 1) // 2 if pairs else count, strings)


@op("ai.onnx.ml.SVMClassifier", returns=("", "float32"), on_host=True, shape=_svm_shape)
def svm_classifier(
    ctx: Any,
    X: Array,
    *,
    classlabels_ints: list[int] | None = None,
    classlabels_strings: list[str] | None = None,
    coefficients: list[float] | None = None,
    kernel_params: list[float] | None = None,
    kernel_type: str = "LINEAR",
    post_transform: str = "NONE",
    prob_a: list[float] | None = None,
    prob_b: list[float] | None = None,
    rho: list[float] | None = None,
    support_vectors: list[float] | None = None,
    vectors_per_class: list[int] | None = None,
) -> tuple[Array, Array]:
    """With support vectors every pair of classes has one vote; what comes out are the scores of
    the pairs, or with prob_a and prob_b the probabilities of the classes. Without, it is linear."""
    labels = _labels(classlabels_ints, classlabels_strings)
    if not coefficients or not rho:
        raise ValueError("coefficients and rho must be given")
    sizes = vectors_per_class or []
    if not sum(sizes):
        return _linear_svm(ctx, X, labels, singles(ctx, coefficients), rho[0], post_transform)
    pairs = len(labels) * (len(labels) - 1) // 2
    W = singles(ctx, coefficients)
    V = _support_vectors(ctx, support_vectors, sum(sizes))
    sums = (len(sizes), (len(labels) - 1) * len(V), len(prob_a or []))
    if sums != (len(labels), len(W), len(prob_b or [])) or min(len(rho), sums[2] or pairs) < pairs:
        raise ValueError(
            f"{len(labels)} classes do not suit {len(sizes)} vectors_per_class, {len(W)} "
            f"coefficients, {len(rho)} rho, {len(prob_a or [])} prob_a, {len(prob_b or [])} prob_b"
        )
    K = Kernel(kernel_type, kernel_params or [])(ctx, _rows(ctx, X, V.shape[1]), V)
    scores, places = _votes(K, W.reshape(len(labels) - 1, -1), sizes, rho)
    if prob_a and prob_b:
        chances = _coupled(_pairwise(ctx, scores, prob_a, prob_b, len(labels)))
        return labels[places], transformed(ctx, chances, post_transform)
    if len(labels) > 2:
        return labels[places], transformed(ctx, scores, post_transform)
    mirrored = post_transform == "NONE"
    return labels[places], _with_second(ctx, scores, post_transform, mirrored=mirrored)


def _linear_svm(
    ctx: Any, X: Array, labels: Host, W: Host, rho: float, post_transform: str
) -> tuple[Host, Host]:
    """One row of coefficients a class, and one rho for all."""
    if len(W) % len(labels):
        raise ValueError(f"{len(W)} coefficients do not suit {len(labels)} classes")
    W = W.reshape(len(labels), -1)
    scores = _inner(ctx, _rows(ctx, X, W.shape[1]), W) + np.float32(rho)
    places, best = scores.argmax(axis=1), scores.max(axis=1)
    if len(labels) == 2:
        places = np.where(best >= 0.5 if (W >= 0).all() else best > 0, 1, places)
    return labels[places], transformed(ctx, scores, post_transform)


def _votes(K: Host, W: Host, sizes: Sequence[int], rho: Sequence[float]) -> tuple[Host, Host]:
    """The scores of all pairs [N, pairs], and the class with most votes, the first one of equals.

    W has a row less than there are classes: class i meets class j > i in row j - 1 with its own
    vectors, and class j meets it in row i with its.
    """
    ends = np.cumsum(sizes)
    own = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    votes = np.zeros((len(K), len(sizes)), np.int64)
    scores: list[Host] = []
    for i in range(len(sizes)):
        for j in range(i + 1, len(sizes)):
            total = _dot(K[:, own[i]], W[j - 1, own[i]]) + _dot(K[:, own[j]], W[i, own[j]])
            total = total + float(np.float32(rho[len(scores)]))
            votes[:, i] += total > 0
            votes[:, j] += total <= 0
            scores.append(total.astype(np.float32))
    return np.stack(scores, axis=1), votes.argmax(axis=1)


def _dot(K: Host, weights: Host) -> Host:
    """Summed in float64: a vote is decided by a sign."""
    return K.astype(np.float64) @ weights.astype(np.float64)


def _pairwise(
    ctx: Any, scores: Host, prob_a: Sequence[float], prob_b: Sequence[float], count: int
) -> Host:
    """r [N, i, j]: the chance of class i where only i and j are possible (Platt's sigmoid)."""
    pairs = scores.shape[1]
    a, b = (singles(ctx, p[:pairs]) for p in (prob_a, prob_b))
    chance = np.clip(sigmoid(ctx, -(scores * a + b)), np.float32(1e-7), np.float32(1 - 1e-7))
    r = np.zeros((len(scores), count, count), np.float32)
    first, second = np.triu_indices(count, 1)
    r[:, first, second] = chance
    r[:, second, first] = 1 - chance
    return r


def _coupled(r: Host) -> Host:
    """p [N, classes] that fits the chances of the pairs best, found by iteration: at most 100
    rounds, each row until its error is below 0.005 / classes."""
    rows, count, _ = r.shape
    Q = -r.transpose(0, 2, 1) * r
    squares = np.where(np.eye(count, dtype=bool), 0, r * r).sum(axis=1)
    Q[:, np.arange(count), np.arange(count)] = squares
    p = np.full((rows, count), np.float32(1 / count))
    for _ in range(100):
        Qp = np.einsum("nij,nj->ni", Q, p)
        pQp = (p * Qp).sum(axis=1)
        (left,) = np.nonzero(np.abs(Qp - pQp[:, None]).max(axis=1) >= np.float32(0.005 / count))
        if not left.size:
            break
        p[left] = _round(Q[left], p[left], Qp[left], pQp[left])
    return p


def _round(Q: Host, p: Host, Qp: Host, pQp: Host) -> Host:
    """Each class in turn takes the share that minimises pQp, and all are scaled to sum to 1."""
    for i in range(p.shape[1]):
        own = Q[:, i, i]
        step = (pQp - Qp[:, i]) / own
        p[:, i] += step
        pQp = (pQp + step * (step * own + 2 * Qp[:, i])) / (1 + step) ** 2
        Qp = (Qp + step[:, None] * Q[:, i]) / (1 + step)[:, None]
        p /= (1 + step)[:, None]
    return p
