"""Attention, as transformers use it, and the rotation that tells it where a token stands.

One function is the core of every operator here and in `microsoft_attention`; a backend with a
kernel of its own for it needs to replace nothing else:

    Y = softmax(cap(scale · Q · Kᵀ) + bias) · V         cap(s) = softcap · tanh(s / softcap)

Q is [batch, heads, length, size]. K and V may have fewer heads, of which each serves a group of
neighbours among Q's (https://arxiv.org/abs/2305.13245). Every mask is a bias, -inf where a query
must not look, and a query that may look nowhere gets zeros. What a model carries from one step to
the next beside attention's keys and values is in `attention_state`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from hubtool.dtypes import DTYPES, WIDER
from hubtool.ops import op
from hubtool.ops.elementwise import rounded
from hubtool.ops.shape import pad_axis

__all__ = [
    "Attended",
    "at_positions",
    "attend",
    "bias_of",
    "by_heads",
    "joined",
    "rotated",
    "visible",
]

Array = Any
Modifier = Callable[[Array], Array]

FAR = 1 << 62
"""Farther than any key: the open side of a window."""


@dataclass(frozen=True)
class Attended:
    """What attention gives, and the stages on the way to it, [batch, heads, length, keys] each."""

    Y: Array
    scores: Array
    capped: Array
    biased: Array
    weights: Array


def attend(
    ctx: Any,
    Q: Array,
    K: Array,
    V: Array,
    bias: Array = None,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    precision: str = "",
    sink: Array = None,
    score_mod: Modifier | None = None,
    prob_mod: Modifier | None = None,
) -> Attended:
    """Attention of Q [B, H, L, E] to K [B, G, S, E] and V [B, G, S, F]: Y is [B, H, L, F].

    scale: 1/√E where it is None. precision: the element type that the softmax takes and gives,
    and both modifiers with it. sink: a score [H] beside those of the keys, to nothing.
    """
    xp, dtype = ctx.xp, ctx.dtype(Q)
    B, H, L, E = Q.shape
    G, S, F = K.shape[1], K.shape[2], V.shape[3]
    _check_heads(Q, K, V)
    scale = 1 / math.sqrt(max(E, 1)) if scale is None else scale
    grouped = xp.reshape(Q * scale, (B, G, H // G * L, E))
    scores = xp.reshape(xp.matmul(grouped, _transposed(ctx, K)), (B, H, L, S))
    capped = xp.tanh(scores / softcap) * softcap if softcap else scores
    biased = capped if bias is None else capped + bias
    taken = rounded(ctx, biased, precision)
    taken = taken if score_mod is None else score_mod(taken)
    weights = rounded(ctx, _softmax(ctx, taken, bias, sink), precision)
    weights = ctx.cast(weights if prob_mod is None else prob_mod(weights), dtype)
    rows = xp.reshape(weights, (B, G, H // G * L, S))
    Y = xp.reshape(xp.matmul(rows, ctx.cast(V, dtype)), (B, H, L, F))
    return Attended(Y, scores, capped, biased, weights)


def _check_heads(Q: Array, K: Array, V: Array) -> None:
    H, G = Q.shape[1], K.shape[1]
    if tuple(K.shape[:3]) != tuple(V.shape[:3]):
        raise ValueError(f"K {list(K.shape)} and V {list(V.shape)} differ before the last axis")
    if Q.shape[0] != K.shape[0] or Q.shape[3] != K.shape[3]:
        raise ValueError(f"Q {list(Q.shape)} and K {list(K.shape)} differ in batch or head size")
    if G < 1 or H % G:
        raise ValueError(f"{H} heads of Q cannot share {G} heads of K and V")


def _transposed(ctx: Any, x: Array) -> Array:
    return ctx.xp.permute_dims(x, (0, 1, 3, 2))


def _softmax(ctx: Any, scores: Array, bias: Array, sink: Array) -> Array:
    """Softmax over the keys; zeros for a query whose bias closes every key to it."""
    xp = ctx.xp
    if not scores.shape[-1]:
        return scores
    top = xp.max(scores, axis=-1, keepdims=True)
    if sink is not None:
        sink = xp.reshape(ctx.cast(sink, ctx.dtype(scores)), (-1, 1, 1))
        top = xp.maximum(top, sink)
    top = xp.where(top == -math.inf, 0.0, top)
    powers = xp.exp(scores - top)
    total = xp.sum(powers, axis=-1, keepdims=True)
    total = total if sink is None else total + xp.exp(sink - top)
    weights = powers / xp.where(total == 0, 1.0, total)
    if bias is None:
        return weights
    closed = xp.max(bias, axis=-1, keepdims=True) == -math.inf
    return xp.where(closed, 0.0, weights)


def by_heads(ctx: Any, x: Array, heads: int, name: str) -> Array:
    """[batch, length, heads · size] as [batch, heads, length, size]."""
    if heads < 1 or x.shape[2] % heads:
        raise ValueError(f"the {x.shape[2]} columns of {name} cannot be split into {heads} heads")
    split = ctx.xp.reshape(x, (*x.shape[:2], heads, x.shape[2] // heads))
    return ctx.xp.permute_dims(split, (0, 2, 1, 3))


def joined(ctx: Any, x: Array) -> Array:
    """The reverse of `by_heads`."""
    B, H, L, E = x.shape
    return ctx.xp.reshape(ctx.xp.permute_dims(x, (0, 2, 1, 3)), (B, L, H * E))


def visible(
    ctx: Any, L: int, S: int, offset: Array | int, left: int | None, right: int | None
) -> Array:
    """Which of S keys each of L queries may look at: at p = offset + i, those from p - left to
    p + right; None leaves a side open. Offsets of their own for the batch are [B, 1, 1, 1]."""
    ahead = ctx.put(np.arange(S) - np.arange(L)[:, None]) - offset
    left, right = (FAR if side is None else side for side in (left, right))
    return (-left <= ahead) & (ahead <= right)


def bias_of(ctx: Any, allowed: Array, dtype: str, closed: float = -math.inf) -> Array:
    """0 where a boolean mask is true, `closed` elsewhere."""
    shut = ctx.cast(ctx.xp.logical_not(allowed), dtype)
    return ctx.xp.where(allowed, shut, closed)


@op("Attention", returns=("Q", "Q", "V", "Q"))
def attention(
    ctx: Any,
    Q: Array,
    K: Array,
    V: Array,
    attn_mask: Array = None,
    past_key: Array = None,
    past_value: Array = None,
    nonpad_kv_seqlen: Array = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Q, K, V are [batch, heads, length, size], or [batch, length, heads · size] all three."""
    if not 0 <= qk_matmul_output_mode <= 3:
        raise ValueError(f"qk_matmul_output_mode is {qk_matmul_output_mode}, not 0, 1, 2 or 3")
    if min(left_window_size, right_window_size) < -1:
        sizes = f"{left_window_size} and {right_window_size}"
        raise ValueError(f"left_window_size and right_window_size are {sizes}; the least is -1")
    packed = Q.ndim == 3
    Q, K, V = _with_heads(ctx, (Q, K, V), (q_num_heads, kv_num_heads, kv_num_heads))
    past = _past_length(past_key, past_value, nonpad_kv_seqlen)
    if past_key is not None:
        K, V = (ctx.xp.concat(pair, axis=2) for pair in ((past_key, K), (past_value, V)))
    L, S = Q.shape[2], K.shape[2]
    offset: Any = past
    if nonpad_kv_seqlen is not None:
        valid = ctx.xp.reshape(nonpad_kv_seqlen, (-1, 1, 1, 1))
        offset = valid - L
    biases = [] if attn_mask is None else [_mask_bias(ctx, attn_mask, S, ctx.dtype(Q))]
    left = left_window_size if left_window_size >= 0 else None
    right = 0 if is_causal else right_window_size if right_window_size >= 0 else None
    if (left, right) != (None, None):
        allowed = visible(ctx, L, S, offset, left, right)
        biases.append(bias_of(ctx, allowed, ctx.dtype(Q)))
    if nonpad_kv_seqlen is not None:
        biases.append(bias_of(ctx, ctx.put(np.arange(S)) < valid, ctx.dtype(Q)))
    made = attend(
        ctx,
        Q,
        K,
        V,
        reduce(add, biases) if biases else None,
        scale=scale,
        softcap=softcap,
        precision=DTYPES[softmax_precision] if softmax_precision else "",
    )
    stages = (made.scores, made.capped, made.biased, made.weights)
    return joined(ctx, made.Y) if packed else made.Y, K, V, stages[qk_matmul_output_mode]


def _with_heads(
    ctx: Any, arrays: tuple[Array, ...], heads: tuple[int | None, ...]
) -> tuple[Array, ...]:
    """Q, K and V with an axis of heads."""
    ranks = [x.ndim for x in arrays]
    if ranks not in ([3] * 3, [4] * 3):
        raise ValueError(f"Q, K and V have {ranks} axes, not 3 each or 4 each")
    named = list(zip(arrays, heads, "QKV", strict=True))
    for x, count, name in named:
        key = "q_num_heads" if name == "Q" else "kv_num_heads"
        if x.ndim == 3 and count is None:
            raise ValueError(f"{name} has 3 axes, so {key} must say its heads")
        if x.ndim == 4 and count not in (None, x.shape[1]):
            raise ValueError(f"{key} is {count}, and {name} has {x.shape[1]} heads")
    return tuple(x if x.ndim == 4 else by_heads(ctx, x, int(n or 0), name) for x, n, name in named)


def _past_length(past_key: Array, past_value: Array, nonpad_kv_seqlen: Array) -> int:
    if (past_key is None) != (past_value is None):
        raise ValueError("past_key and past_value must be given together")
    if past_key is not None and nonpad_kv_seqlen is not None:
        raise ValueError("nonpad_kv_seqlen is for a cache outside, so past_key must be absent")
    return 0 if past_key is None else int(past_key.shape[2])


def _mask_bias(ctx: Any, attn_mask: Array, S: int, dtype: str) -> Array:
    """The mask as a bias over S keys; those beyond the mask's end are closed."""
    given = attn_mask.shape[-1]
    if given > S:
        raise ValueError(f"attn_mask {list(attn_mask.shape)} is longer than the {S} keys")
    is_bool = ctx.dtype(attn_mask) == "bool"
    bias = bias_of(ctx, attn_mask, dtype) if is_bool else ctx.cast(attn_mask, dtype)
    return pad_axis(ctx, bias, bias.ndim - 1, 0, S - given, -math.inf)


@op("ai.onnx.preview.FlexAttention")
def flex_attention(
    ctx: Any,
    Q: Array,
    K: Array,
    V: Array,
    *,
    prob_mod: Callable[..., tuple[Array, ...]] | None = None,
    scale: float | None = None,
    score_mod: Callable[..., tuple[Array, ...]] | None = None,
    softmax_precision: int | None = None,
) -> Array:
    """Attention whose scores and weights pass through subgraphs, in the softmax's precision."""
    if not Q.ndim == K.ndim == V.ndim == 4:
        raise ValueError(f"Q, K and V have {Q.ndim}, {K.ndim} and {V.ndim} axes, not 4 each")
    own = "float64" if ctx.dtype(Q) == "float64" else "float32"
    precision = DTYPES[softmax_precision] if softmax_precision else own
    made = attend(
        ctx,
        Q,
        K,
        V,
        scale=scale,
        precision=precision,
        score_mod=_modifier(ctx, "score_mod", score_mod, precision),
        prob_mod=_modifier(ctx, "prob_mod", prob_mod, precision),
    )
    return made.Y


def _modifier(
    ctx: Any, name: str, body: Callable[..., tuple[Array, ...]] | None, precision: str
) -> Modifier | None:
    """A subgraph that takes and gives an array of the precision's dtype, as a function of arrays
    wide enough to compute with."""
    if body is None:
        return None

    def modify(x: Array) -> Array:
        (made,) = body(ctx.cast(x, precision))
        if tuple(made.shape) != tuple(x.shape):
            raise ValueError(f"{name} made {list(made.shape)} of {list(x.shape)}")
        return ctx.cast(ctx.here(made), WIDER.get(precision, precision))

    return modify


@op("RotaryEmbedding")
def rotary_embedding(
    ctx: Any,
    X: Array,
    cos_cache: Array,
    sin_cache: Array,
    position_ids: Array = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Array:
    """X [batch, heads, length, size] or [batch, length, heads · size] turned by the angles whose
    cosines and sines stand in the caches: for each position, or for each token of X."""
    if X.ndim not in (3, 4):
        raise ValueError(f"X has {X.ndim} axes, not 3 or 4")
    if X.ndim == 3 and not num_heads:
        raise ValueError("X has 3 axes, so num_heads must say its heads")
    x = X if X.ndim == 4 else by_heads(ctx, X, int(num_heads or 0), "X")
    cos, sin = cos_cache, sin_cache
    if position_ids is not None:
        cos, sin = (at_positions(ctx, cache, position_ids) for cache in (cos, sin))
    Y = rotated(ctx, x, cos, sin, interleaved=interleaved, dim=rotary_embedding_dim)
    return Y if X.ndim == 4 else joined(ctx, Y)


def at_positions(ctx: Any, cache: Array, positions: Array) -> Array:
    """The rows of a cache [positions, R/2] for each token: [batch, length, R/2]."""
    if cache.ndim != 2:
        raise ValueError(f"a cache for position_ids has 2 axes, not {cache.ndim}")
    rows = ctx.xp.take(cache, ctx.xp.reshape(positions, (-1,)), axis=0)
    return ctx.xp.reshape(rows, (*positions.shape, cache.shape[1]))


def rotated(
    ctx: Any, x: Array, cos: Array, sin: Array, *, interleaved: int = 0, dim: int = 0
) -> Array:
    """The first `dim` columns of x [B, H, L, E] (all of them for 0), pair by pair, turned in their
    plane by the angle of cos and sin [B, L, dim/2]. A pair is two neighbours where `interleaved`,
    else the same place in the first half and in the second."""
    xp, dim = ctx.xp, dim or x.shape[3]
    if dim % 2 or dim > x.shape[3]:
        raise ValueError(f"{dim} columns of {x.shape[3]} cannot be turned in pairs")
    for name, cache in (("cos_cache", cos), ("sin_cache", sin)):
        if cache.shape[-1] != dim // 2:
            raise ValueError(f"{name} has {cache.shape[-1]} columns for {dim // 2} pairs")
    cos, sin = (xp.expand_dims(ctx.cast(c, ctx.dtype(x)), axis=1) for c in (cos, sin))
    if interleaved:
        a, b = x[..., 0:dim:2], x[..., 1:dim:2]
    else:
        a, b = x[..., : dim // 2], x[..., dim // 2 : dim]
    turned = [cos * a - sin * b, sin * a + cos * b]
    if interleaved:
        turned = [xp.reshape(xp.stack(turned, axis=-1), (*x.shape[:3], dim))]
    return xp.concat([*turned, x[..., dim:]], axis=-1)
