"""Operators that do the work of several layers, as ONNX Runtime names them in com.microsoft.

Passes make them (`hubtool.passes.fuse_conv`), and files that ONNX Runtime has optimised hold them.
Here stands what they mean; a backend that has such a kernel overrides it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hubtool.ops import op
from hubtool.ops.activation import hard_sigmoid, leaky_relu, sigmoid
from hubtool.ops.elementwise import clip
from hubtool.ops.window import conv

__all__ = ["ACTIVATIONS", "activated"]

Array = Any
Ints = Sequence[int]

ACTIVATIONS: dict[str, tuple[int, Callable[..., Array]]] = {
    "Relu": (0, lambda ctx, x: ctx.xp.maximum(x, 0.0)),
    "Sigmoid": (0, lambda ctx, x: sigmoid(ctx, x)),
    "Tanh": (0, lambda ctx, x: ctx.xp.tanh(x)),
    "LeakyRelu": (1, lambda ctx, x, alpha: leaky_relu(ctx, x, alpha=alpha)),
    "Clip": (2, lambda ctx, x, low, high: clip(ctx, x, low, high)),
    "HardSigmoid": (2, lambda ctx, x, a, b: hard_sigmoid(ctx, x, alpha=a, beta=b)),
}
"""What may follow a convolution: how many parameters it takes, and what it does."""


def activated(
    ctx: Any, x: Array, activation: str | None, params: Sequence[float] | None = None
) -> Array:
    """The activation of that name on x; none at all where the name is absent or empty."""
    if not activation:
        return x
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is '{activation}', not one of {', '.join(ACTIVATIONS)}")
    count, function = ACTIVATIONS[activation]
    given = list(params or ())
    if len(given) != count:
        raise ValueError(f"{activation} takes {count} activation_params, not {given}")
    return function(ctx, x, *given)


@op("com.microsoft.FusedConv")
def fused_conv(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array = None,
    Z: Array = None,
    *,
    activation: str | None = None,
    activation_params: Sequence[float] | None = None,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """activation(Conv(X, W, B) + Z)."""
    Y = conv(
        ctx,
        X,
        W,
        B,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return activated(ctx, Y if Z is None else Y + Z, activation, activation_params)
