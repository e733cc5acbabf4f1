"""Losses: how far scores are from the labels that they should have named.

Scores are [N, C, d1, …], labels [N, d1, …], weights [C]; w is 0 where a label is ignore_index:

    l = -y · w          y = log-probability of the label, w = weight of the label (else 1)
    mean                Σ l / Σ w: without weights and ignored labels the plain mean

as in PyTorch's NLLLoss, which ONNX's definition follows
(https://onnx.ai/onnx/operators/onnx__NegativeLogLikelihoodLoss.html).
"""

from __future__ import annotations

from typing import Any

from hubtool.ops import op
from hubtool.ops.activation import log_softmax

__all__: list[str] = []

Array = Any

REDUCTIONS = ("none", "sum", "mean")


@op("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(
    ctx: Any,
    input: Array,
    target: Array,
    weight: Array = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Array:
    """The loss of log-probabilities; see the module for the formula."""
    _check(input, target, weight, reduction)
    xp, labels = ctx.xp, ctx.cast(target, "int64")
    ignored = None if ignore_index is None else labels == ignore_index
    if ignored is not None:
        labels = xp.where(ignored, 0, labels)
    y = xp.take_along_axis(input, xp.expand_dims(labels, axis=1), axis=1)
    y = xp.squeeze(y, axis=1)
    if weight is None:
        w = xp.full(tuple(y.shape), 1, dtype=y.dtype, device=ctx.device(y))
    else:
        w = xp.reshape(xp.take(weight, xp.reshape(labels, (-1,)), axis=0), tuple(y.shape))
    loss = -y * w
    if ignored is not None:  # whatever stands there, even if it is not finite
        loss, w = xp.where(ignored, 0.0, loss), xp.where(ignored, 0.0, w)
    if reduction == "none":
        return loss
    return xp.sum(loss) if reduction == "sum" else xp.sum(loss) / xp.sum(w)


def _check(scores: Array, labels: Array, weights: Array | None, reduction: str) -> None:
    problems = []
    if scores.ndim < 2 or tuple(labels.shape) != (scores.shape[0], *scores.shape[2:]):
        problems.append(
            f"labels {list(labels.shape)} do not fit scores {list(scores.shape)}, "
            "which should be [N, C, d1, …] for labels [N, d1, …]"
        )
    elif weights is not None and tuple(weights.shape) != (scores.shape[1],):
        shown = f"{list(weights.shape)} are not one for each of {scores.shape[1]} classes"
        problems.append(f"weights {shown}")
    if reduction not in REDUCTIONS:
        problems.append(f"reduction is '{reduction}', not one of {', '.join(REDUCTIONS)}")
    if problems:
        raise ValueError("; ".join(problems))


@op("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_loss(
    ctx: Any,
    scores: Array,
    labels: Array,
    weights: Array = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """The loss of scores whose softmax are the probabilities, and their logarithms."""
    _check(scores, labels, weights, reduction)
    log_prob = log_softmax(ctx, scores, axis=1)
    loss = negative_log_likelihood_loss(
        ctx, log_prob, labels, weights, ignore_index=ignore_index, reduction=reduction
    )
    return loss, log_prob
