"""Activation functions, and what stands at the end of a classifier: Softmax and its kin, Dropout.

Each is its formula from the ONNX specification in its numerically stable form. Those with
attributes are functions, the bare ones stand in a table as in `elementwise`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hubtool.ops import op
from hubtool.ops.elementwise import as_float, erf, rounded
from hubtool.ops.shape import axis_of

__all__ = ["log_softmax", "sigmoid", "softmax"]

Array = Any


def sigmoid(ctx: Any, X: Array) -> Array:
    """1 / (1 + e^-X)."""
    return 1 / (1 + ctx.xp.exp(-X))


def _softplus(ctx: Any, X: Array) -> Array:
    """log(1 + e^X), which is X itself where e^X would overflow."""
    xp = ctx.xp
    return xp.maximum(X, 0.0) + xp.log1p(xp.exp(-xp.abs(X)))


BARE: dict[str, Callable[..., Array]] = {
    "HardSwish": lambda ctx, X: X * ctx.xp.clip(X / 6 + 0.5, 0.0, 1.0),
    "Mish": lambda ctx, X: X * ctx.xp.tanh(_softplus(ctx, X)),
    "PRelu": lambda ctx, X, slope: ctx.xp.where(X < 0, X * slope, X),
    "Relu": lambda ctx, X: ctx.xp.maximum(X, 0),
    "Sigmoid": lambda ctx, X: sigmoid(ctx, X),
    "Softplus": lambda ctx, X: _softplus(ctx, X),
    "Softsign": lambda ctx, input: input / (1 + ctx.xp.abs(input)),
    "Tanh": lambda ctx, input: ctx.xp.tanh(input),
}

for _name, _function in BARE.items():
    op(_name)(_function)


@op("LeakyRelu")
def leaky_relu(ctx: Any, X: Array, *, alpha: float = 0.01) -> Array:
    return ctx.xp.where(X < 0, X * alpha, X)


@op("ThresholdedRelu")
def thresholded_relu(ctx: Any, X: Array, *, alpha: float = 1.0) -> Array:
    return ctx.xp.where(alpha < X, X, 0.0)


@op("Elu")
def elu(ctx: Any, X: Array, *, alpha: float = 1.0) -> Array:
    return ctx.xp.where(X < 0, alpha * ctx.xp.expm1(X), X)


@op("Celu")
def celu(ctx: Any, X: Array, *, alpha: float = 1.0) -> Array:
    xp = ctx.xp
    return xp.maximum(X, 0.0) + xp.minimum(alpha * xp.expm1(X / alpha), 0.0)


@op("Selu")
def selu(ctx: Any, X: Array, *, alpha: float = 1.6732632, gamma: float = 1.050701) -> Array:
    return gamma * ctx.xp.where(X > 0, X, alpha * ctx.xp.expm1(X))


@op("HardSigmoid")
def hard_sigmoid(ctx: Any, X: Array, *, alpha: float = 0.2, beta: float = 0.5) -> Array:
    return ctx.xp.clip(alpha * X + beta, 0.0, 1.0)


@op("Gelu")
def gelu(ctx: Any, X: Array, *, approximate: str = "none") -> Array:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is '{approximate}', not none or tanh")
    if approximate == "none":
        return 0.5 * X * (1 + erf(ctx, X * math.sqrt(0.5)))
    return 0.5 * X * (1 + ctx.xp.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X * X * X)))


@op("Swish")
def swish(ctx: Any, X: Array, *, alpha: float = 1.0) -> Array:
    return X * sigmoid(ctx, alpha * X)


@op("SwiGLU")
def swi_glu(ctx: Any, A: Array, B: Array, *, alpha: float = 1.0) -> Array:
    return A * sigmoid(ctx, alpha * A) * B


@op("Shrink")
def shrink(ctx: Any, input: Array, *, bias: float = 0.0, lambd: float = 0.5) -> Array:
    xp, x = ctx.xp, as_float(ctx, input)
    return xp.where(x < -lambd, x + bias, xp.where(x > lambd, x - bias, 0.0))


@op("Softmax")
def softmax(ctx: Any, input: Array, *, axis: int = -1) -> Array:
    """exp(x - max) / sum; of float16 each step is rounded, as the operator's function body does."""
    xp = ctx.xp
    half = "float16" if ctx.given.get("input") == "float16" else ""
    shifted = rounded(ctx, input - xp.max(input, axis=axis, keepdims=True), half)
    powers = rounded(ctx, xp.exp(shifted), half)
    return powers / rounded(ctx, xp.sum(powers, axis=axis, keepdims=True), half)


@op("LogSoftmax")
def log_softmax(ctx: Any, input: Array, *, axis: int = -1) -> Array:
    xp = ctx.xp
    shifted = input - xp.max(input, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


@op("Hardmax")
def hardmax(ctx: Any, input: Array, *, axis: int = -1) -> Array:
    """1 at the first maximum along the axis, 0 elsewhere."""
    axis = axis_of(axis, input.ndim)
    shape = [-1 if d == axis else 1 for d in range(input.ndim)]
    places = ctx.put(np.arange(input.shape[axis], dtype=np.int64).reshape(shape))
    return ctx.xp.argmax(input, axis=axis, keepdims=True) == places


@op("Dropout", returns=("data", "bool"), host=("ratio", "training_mode"))
def dropout(
    ctx: Any,
    data: Array,
    ratio: Array = None,
    training_mode: Array = None,
    *,
    seed: int | None = None,
) -> tuple[Array, Array]:
    """The data as it is, with a mask of ones; in training mode, what the draw leaves of it."""
    rate = 0.5 if ratio is None else float(ratio)
    if training_mode is None or not training_mode or rate == 0:
        mask = np.broadcast_to(np.True_, data.shape)
        return data, ctx.put(mask) if any(ctx.wanted[1:]) else None
    generator = ctx.random(None) if seed is None else np.random.RandomState(seed)
    mask = ctx.put(generator.uniform(0, 1, data.shape) >= rate)
    return ctx.xp.where(mask, data, 0.0) / (1 - rate), mask
