"""What a language model carries from one token to the next, beside attention itself.

A cache of keys and values of fixed size, written in place of old entries (TensorScatter); the last
few inputs of a causal convolution (CausalConvWithState); and the matrix S that stands for the
whole past in linear attention, where a step costs the same however long that past is:

    S_t = e^g_t · S_{t-1} + k_t ⊗ w_t       o_t = scale · q_tᵀ S_t

w_t is v_t itself, or under the delta rule (https://arxiv.org/abs/2412.06464) what v_t adds to that
which the decayed S recalls for k_t: β_t · (v_t - (e^g_t · S_{t-1})ᵀ k_t).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hubtool.ops import REQUIRED, op
from hubtool.ops.activation import sigmoid
from hubtool.ops.attention import by_heads, joined
from hubtool.ops.shape import axis_of

__all__ = ["written"]

Array = Any

RULES = {
    "linear": (False, False),
    "gated": (True, False),
    "delta": (False, True),
    "gated_delta": (True, True),
}
"""For each update_rule, whether it wants `decay` and whether it wants `beta`."""


@op("TensorScatter", moves=True)
def tensor_scatter(
    ctx: Any,
    past_cache: Array,
    update: Array,
    write_indices: Array = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> Array:
    """The cache with the update written along the axis from write_indices [batch] on; round and
    round where mode is circular, else what would lie beyond the cache's end is not written."""
    if mode not in ("linear", "circular"):
        raise ValueError(f"mode is '{mode}', not linear or circular")
    xp, axis = ctx.xp, axis_of(axis, past_cache.ndim)
    if axis == 0:
        raise ValueError("axis is 0, which is the batch")
    size, length = past_cache.shape[axis], update.shape[axis]
    if length > size or _without(update.shape, axis) != _without(past_cache.shape, axis):
        given, cache = list(update.shape), list(past_cache.shape)
        raise ValueError(f"update {given} does not fit past_cache {cache} along axis {axis}")
    along = [1] * past_cache.ndim
    along[axis] = size
    source = ctx.put(np.arange(size).reshape(along))
    if write_indices is not None:
        source = source - xp.reshape(write_indices, (-1, *along[1:axis], 1, *along[axis + 1 :]))
    if mode == "circular":
        source = xp.remainder(source, size)
    return written(ctx, past_cache, update, source, axis)


def written(ctx: Any, cache: Array, update: Array, source: Array, axis: int) -> Array:
    """The cache, but at each place on the axis whose source is a place of the update, that."""
    xp, length = ctx.xp, update.shape[axis]
    if not length:
        return cache
    inside = (source >= 0) & (source < length)
    places = xp.broadcast_to(xp.clip(source, 0, length - 1), tuple(cache.shape))
    return xp.where(inside, xp.take_along_axis(update, places, axis=axis), cache)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


@op("CausalConvWithState")
def causal_conv_with_state(
    ctx: Any,
    input: Array,
    weight: Array,
    bias: Array = None,
    past_state: Array = None,
    *,
    activation: str = "none",
) -> tuple[Array, Array]:
    """Each channel of input [batch, channels, length] convolved with its own kernel, which sees
    the present and the k - 1 positions before; the last k - 1 are the state."""
    if activation not in ("none", "silu", "swish"):
        raise ValueError(f"activation is '{activation}', not none, silu or swish")
    xp, (B, C, L) = ctx.xp, input.shape
    k = weight.shape[2]
    if tuple(weight.shape) != (C, 1, k):
        raise ValueError(f"weight is {list(weight.shape)}, not [{C}, 1, k]: one kernel a channel")
    if past_state is None:
        past_state = xp.full((B, C, k - 1), 0.0, dtype=input.dtype, device=ctx.device(input))
    if tuple(past_state.shape) != (B, C, k - 1):
        raise ValueError(f"past_state is {list(past_state.shape)}, not {[B, C, k - 1]}")
    whole = xp.concat((past_state, input), axis=2)
    Y = sum(whole[:, :, i : i + L] * weight[:, :, i] for i in range(k))
    Y = Y if bias is None else Y + xp.reshape(bias, (-1, 1))
    return Y if activation == "none" else Y * sigmoid(ctx, Y), whole[:, :, L:]


@op("LinearAttention", returns=("query", "past_state"))
def linear_attention(
    ctx: Any,
    query: Array,
    key: Array,
    value: Array,
    past_state: Array = None,
    decay: Array = None,
    beta: Array = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int = REQUIRED,
    q_num_heads: int = REQUIRED,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Array, Array]:
    """query [B, T, heads · d_k] against the state [B, kv heads, d_k, d_v], one step after another;
    `chunk_size` is for engines that take many at once."""
    _check_rule(update_rule, decay, beta)
    if kv_num_heads < 1 or q_num_heads % kv_num_heads:
        raise ValueError(f"{q_num_heads} heads of query cannot share {kv_num_heads} of key")
    xp, group = ctx.xp, q_num_heads // kv_num_heads
    q = by_heads(ctx, query, q_num_heads, "query")
    k, v = (by_heads(ctx, x, kv_num_heads, n) for x, n in ((key, "key"), (value, "value")))
    (B, H, T, d_k), d_v = k.shape, v.shape[3]
    if q.shape[3] != d_k:
        raise ValueError(f"a head of query has {q.shape[3]} columns, one of key {d_k}")
    q = xp.reshape(q * (scale or 1 / math.sqrt(max(d_k, 1))), (B, H, group, T, d_k))
    factor = None if decay is None else xp.exp(by_heads(ctx, decay, kv_num_heads, "decay"))
    rate = None if beta is None else xp.expand_dims(xp.permute_dims(beta, (0, 2, 1)), axis=-1)
    if past_state is None:
        S = xp.full((B, H, d_k, d_v), 0.0, dtype=query.dtype, device=ctx.device(query))
    elif tuple(past_state.shape) != (B, H, d_k, d_v):
        raise ValueError(f"past_state is {list(past_state.shape)}, not {[B, H, d_k, d_v]}")
    else:
        S = ctx.cast(past_state, ctx.dtype(query))
    outputs = [xp.full((B, H, group, 0, d_v), 0.0, dtype=query.dtype, device=ctx.device(query))]
    for t in range(T):
        now = slice(t, t + 1)
        k_t, w = k[:, :, now, :], v[:, :, now, :]
        column = xp.permute_dims(k_t, (0, 1, 3, 2))
        S = S if factor is None else S * xp.permute_dims(factor[:, :, now, :], (0, 1, 3, 2))
        w = w if rate is None else rate[:, :, now, :] * (w - xp.matmul(k_t, S))
        S = S + column * w
        outputs.append(xp.matmul(q[:, :, :, t, :], S)[:, :, :, None, :])
    Y = xp.reshape(xp.concat(outputs, axis=3), (B, q_num_heads, T, d_v))
    return joined(ctx, Y), S if past_state is not None else ctx.cast(S, ctx.given["query"])


def _check_rule(update_rule: str, decay: Array, beta: Array) -> None:
    if update_rule not in RULES:
        raise ValueError(f"update_rule is '{update_rule}', not one of {', '.join(RULES)}")
    given = (decay is not None, beta is not None)
    for name, wanted, found in zip(("decay", "beta"), RULES[update_rule], given, strict=True):
        if wanted and not found:
            raise ValueError(f"update_rule '{update_rule}' needs {name}")
        if found and not wanted:
            raise ValueError(f"update_rule '{update_rule}' takes no {name}")
