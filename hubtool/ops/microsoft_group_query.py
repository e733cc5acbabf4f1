"""GroupQueryAttention: what ONNX Runtime's language models are made of, with its cache of keys.

Each sequence of the batch has its own length. With T = seqlens_k + 1 tokens after this step, of
which Q are new, P = T - Q stood in the cache before, and query row s is at position P + s. The keys
that a step reads are laid out in one array for all cases, from the position `first` on:

    position    first …………………… P - 1 | P …………………… T - 1 | …
    row         0 ………………… held - 1 | held …………………… | zeros
                from the cache       | the new ones      |

`first` is 0, unless sliding_window_cache lets the cache forget; the present cache is cut out of the
same array. Where it holds integers (k_quant_type), new keys too are rounded before they are read.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hubtool.ops import REQUIRED, op
from hubtool.ops.attention import at_positions, attend, bias_of, by_heads, joined, rotated, visible
from hubtool.ops.attention_state import written
from hubtool.ops.microsoft_attention import check_bias, positions_of, refuse
from hubtool.ops.quantize import stored
from hubtool.ops.shape import pad_axis

__all__: list[str] = []

Array = Any


QUANTIZATIONS = ("NONE", "PER_TENSOR", "PER_CHANNEL")

CACHES = {8: "int8", 4: "uint8"}
"""For each kv_cache_bit_width, the element type of the cache; two of 4 bits share one of 8."""


@dataclass(frozen=True)
class Layout:
    """Where the keys of a step stand; the arrays are [batch, 1, 1, 1].

    total: T. new: Q. first: the position in row 0. held: the rows that come from the cache.
    rows: how many rows there are. capacity: how many of them the present cache has. window: its
    local_window_size where the cache forgets, else None.
    """

    total: Array
    new: Array
    first: Array
    held: Array
    rows: int
    capacity: int
    window: int | None

    @property
    def past(self) -> Array:
        return self.total - self.new


@op(
    "com.microsoft.GroupQueryAttention",
    returns=("query", "past_key", "past_key", "query"),
    host=("total_sequence_length",),
)
def group_query_attention(
    ctx: Any,
    query: Array,
    key: Array = None,
    value: Array = None,
    past_key: Array = None,
    past_value: Array = None,
    seqlens_k: Array = REQUIRED,
    total_sequence_length: Array = REQUIRED,
    cos_cache: Array = None,
    sin_cache: Array = None,
    position_ids: Array = None,
    attention_bias: Array = None,
    head_sink: Array = None,
    k_scale: Array = None,
    v_scale: Array = None,
    q_norm_weight: Array = None,
    k_norm_weight: Array = None,
    query_seqlens: Array = None,
    *,
    causal: int = 1,
    do_rotary: int | None = None,
    k_norm_epsilon: float | None = None,
    k_quant_type: str = "NONE",
    kv_cache_bit_width: int | None = None,
    kv_num_heads: int = REQUIRED,
    local_window_size: int = -1,
    num_heads: int = REQUIRED,
    q_norm_epsilon: float | None = None,
    qk_norm_epsilon: float = 1e-06,
    qk_output: int = 0,
    rotary_interleaved: int | None = None,
    scale: float | None = None,
    sliding_window_cache: int = 0,
    smooth_softmax: int = -1,
    softcap: float | None = None,
    v_quant_type: str = "NONE",
) -> tuple[Array, Array, Array, Array]:
    """query [B, S, heads · size], or with the columns of key and value behind its own."""
    refuse("GroupQueryAttention", q_norm_weight=q_norm_weight is not None)
    refuse("GroupQueryAttention", k_norm_weight=k_norm_weight is not None)
    _check_options(ctx, causal, local_window_size, sliding_window_cache, qk_output)
    Q, K, V = _by_heads(ctx, (query, key, value), num_heads, kv_num_heads)
    most = int(np.reshape(total_sequence_length, ()))
    _check_cache(Q, K, (past_key, past_value), query_seqlens, most, causal, sliding_window_cache)
    window = local_window_size if sliding_window_cache else None
    at = _layout(ctx, Q, K, past_key, seqlens_k, query_seqlens, most, window)
    if do_rotary:
        prompt = most == Q.shape[2] and query_seqlens is None
        cos, sin = _angles(ctx, (cos_cache, sin_cache), position_ids, Q, at, prompt=prompt)
        turn = rotary_interleaved or 0
        Q = rotated(ctx, Q, cos, sin, interleaved=turn, dim=2 * cos.shape[-1])
        K = rotated(ctx, K, cos, sin, interleaved=turn, dim=2 * cos.shape[-1]) if K.shape[2] else K
    bits = _bits(ctx, k_quant_type, v_quant_type, kv_cache_bit_width)
    scales = _scales(ctx, (k_scale, v_scale), k_quant_type, (kv_num_heads, Q.shape[3]))
    caches = [
        _laid_out(ctx, cache, _packed(ctx, x, by, bits), at)
        for cache, x, by in zip((past_key, past_value), (K, V), scales, strict=True)
    ]
    seen = at.rows if window else most
    keys, values = (
        _unpacked(ctx, x[:, :, :seen, :], by, bits, ctx.dtype(Q))
        for x, by in zip(caches, scales, strict=True)
    )
    allowed = _allowed(ctx, at, Q.shape[2], seen, local_window_size, causal)
    bias = bias_of(ctx, allowed, ctx.dtype(Q))
    if attention_bias is not None:
        check_bias(attention_bias, (*Q.shape[:3], most))
        bias = bias + _columns(ctx, attention_bias, at, seen)
    made = attend(
        ctx,
        Q,
        keys,
        values,
        bias,
        scale=scale or None,
        softcap=softcap or 0.0,
        sink=_sink(ctx, head_sink, smooth_softmax, Q),
    )
    qk = ctx.xp.where(allowed, made.biased, 0.0) if qk_output == 1 else made.weights
    own = ctx.given["past_key"] or ctx.given["query"]
    present = (ctx.cast(_kept(ctx, x, at), own) for x in caches)
    return joined(ctx, made.Y), *present, qk


def _check_options(
    ctx: Any, causal: int, local_window_size: int, sliding_window_cache: int, qk_output: int
) -> None:
    if causal not in (0, 1):
        raise ValueError(f"causal is {causal}, not 0 or 1")
    if not causal and local_window_size != -1:
        raise ValueError("local_window_size must be -1 where causal is 0")
    if sliding_window_cache and local_window_size < 1:
        raise ValueError("sliding_window_cache needs a local_window_size above 0")
    if qk_output not in (0, 1, 2):
        raise ValueError(f"qk_output is {qk_output}, not 0, 1 or 2")
    if any(ctx.wanted[3:]) and not qk_output:
        raise ValueError("output_qk is read, and qk_output does not say which one it is")
    if sliding_window_cache and qk_output:
        refuse("GroupQueryAttention", qk_output=True)


def _by_heads(
    ctx: Any, projected: tuple[Array, Array, Array], heads: int, kv_heads: int
) -> tuple[Array, Array, Array]:
    query, key, value = projected
    if (key is None) != (value is None):
        raise ValueError("key and value must be given together, or both packed into query")
    if key is None:
        columns = query.shape[2]
        if columns % (heads + 2 * kv_heads):
            raise ValueError(f"{columns} columns hold no {heads} + 2 · {kv_heads} equal heads")
        size = columns // (heads + 2 * kv_heads)
        ends = (heads * size, (heads + kv_heads) * size)
        query, key, value = (
            query[..., : ends[0]],
            query[..., ends[0] : ends[1]],
            query[..., ends[1] :],
        )
    return (
        by_heads(ctx, query, heads, "query"),
        by_heads(ctx, key, kv_heads, "key"),
        by_heads(ctx, value, kv_heads, "value"),
    )


def _check_cache(
    Q: Array,
    K: Array,
    past: tuple[Array, Array],
    query_seqlens: Array,
    most: int,
    causal: int,
    sliding_window_cache: int,
) -> None:
    B, S, empty = Q.shape[0], Q.shape[2], not K.shape[2]
    if (past[0] is None) != (past[1] is None):
        raise ValueError("past_key and past_value must be given together")
    if K.shape[2] != S and (past[0] is None or not empty or sliding_window_cache):
        raise ValueError(f"key has {K.shape[2]} tokens, query {S}; only a full cache needs none")
    if past[0] is None and (query_seqlens is not None or sliding_window_cache):
        raise ValueError("query_seqlens and sliding_window_cache need past_key and past_value")
    if query_seqlens is not None and (not causal or empty):
        raise ValueError("query_seqlens needs causal to be 1, and new keys")
    if most < S and not sliding_window_cache:
        raise ValueError(f"total_sequence_length is {most}, and query has {S} tokens")
    if past[0] is not None and query_seqlens is None and B > 1 and 1 < S != most:
        raise ValueError(f"{S} tokens after past ones in a batch of {B} need query_seqlens")


def _layout(
    ctx: Any,
    Q: Array,
    K: Array,
    past_key: Array,
    seqlens_k: Array,
    query_seqlens: Array,
    most: int,
    window: int | None,
) -> Layout:
    xp, S = ctx.xp, Q.shape[2]
    total = xp.reshape(ctx.cast(seqlens_k, "int64"), (-1, 1, 1, 1)) + 1
    if total.shape[0] != Q.shape[0]:
        raise ValueError(f"seqlens_k is {list(seqlens_k.shape)} for a batch of {Q.shape[0]}")
    new = xp.clip(total, 0, S)
    if query_seqlens is not None:
        new = xp.reshape(ctx.cast(query_seqlens, "int64"), (-1, 1, 1, 1))
    places = 0 if past_key is None else past_key.shape[2]
    past = total - new
    if window is None:
        held = past if K.shape[2] else total
        rows = max(most, places)
        return Layout(total, new, total - total, held, rows, rows, None)
    if places < window:
        raise ValueError(f"past_key has {places} places for a local_window_size of {window}")
    held = _resident(ctx, past, places, window)
    return Layout(total, new, past - held, held, places + S, places, window)


def _resident(ctx: Any, total: Array, capacity: int, window: int) -> Array:
    """How many of the last tokens a cache still holds that makes room for several at once."""
    spare = capacity - window + 1
    beyond = ctx.xp.clip(total - capacity, 0, None)
    return total - (beyond + spare - 1) // spare * spare


def _angles(
    ctx: Any,
    caches: tuple[Array, Array],
    position_ids: Array,
    Q: Array,
    at: Layout,
    *,
    prompt: bool,
) -> tuple[Array, Array]:
    """Cosines and sines for each token. Of a first prompt the first position alone counts."""
    cos, sin = caches
    if cos is None or sin is None:
        raise ValueError("do_rotary needs cos_cache and sin_cache")
    xp, dims = ctx.xp, (Q.shape[0], Q.shape[2])
    if position_ids is None:
        positions = xp.reshape(at.past, (-1, 1)) + ctx.put(np.arange(dims[1]))
        positions = xp.clip(positions, 0, cos.shape[0] - 1)  # where rows are padding
    elif prompt:
        positions = positions_of(ctx, xp.reshape(position_ids, (-1,))[:1], dims)
    else:
        positions = positions_of(ctx, position_ids, dims)
    return at_positions(ctx, cos, positions), at_positions(ctx, sin, positions)


def _bits(ctx: Any, k_type: str, v_type: str, width: int | None) -> int:
    """The bits of an integer in the cache; 0 where it holds floats."""
    for kind in (k_type, v_type):
        if kind not in QUANTIZATIONS:
            raise ValueError(f"a quant_type is '{kind}', not one of {', '.join(QUANTIZATIONS)}")
    if k_type != v_type:
        raise ValueError(f"k_quant_type {k_type} and v_quant_type {v_type} must be equal")
    given = ctx.given["past_key"]
    if k_type == "NONE":
        if given.startswith(("int", "uint", "float8")):
            raise ValueError(f"past_key holds {given}, and k_quant_type is NONE")
        return 0
    if width not in CACHES:
        raise ValueError(f"kv_cache_bit_width is {width}, not 4 or 8")
    if given != CACHES[width]:
        raise ValueError(f"a cache of {width} bits is {CACHES[width]}, not {given or 'absent'}")
    return width


def _scales(ctx: Any, scales: tuple[Array, Array], kind: str, dims: tuple[int, int]) -> list[Array]:
    """The scales of keys and of values, in a shape that meets them; None where there are none."""
    if kind == "NONE":
        return [None, None]
    wanted = (1, 1, 1, 1) if kind == "PER_TENSOR" else (1, dims[0], 1, dims[1])
    for name, scale in zip(("k_scale", "v_scale"), scales, strict=True):
        count = 0 if scale is None else math.prod(scale.shape)
        if count != math.prod(wanted):
            raise ValueError(f"{name} has {count} numbers; {kind} needs {math.prod(wanted)}")
    return [ctx.xp.reshape(scale, wanted) for scale in scales]


def _packed(ctx: Any, x: Array, scale: Array, bits: int) -> Array:
    """Floats as the cache keeps them; of two with 4 bits the first is the low half."""
    if not bits:
        return x
    if bits == 8:
        return stored(ctx, x / scale, None, "int8")
    small = ctx.xp.clip(ctx.xp.round(x / scale), -8.0, 7.0) + 8
    return ctx.cast(small[..., 0::2] + small[..., 1::2] * 16, "uint8")


def _unpacked(ctx: Any, x: Array, scale: Array, bits: int, dtype: str) -> Array:
    """What the cache keeps, as floats."""
    if not bits:
        return ctx.cast(x, dtype)
    if bits == 4:
        x = ctx.cast(x, "int32")
        halves = ctx.xp.stack([x % 16, x // 16], axis=-1)
        x = ctx.xp.reshape(halves, (*x.shape[:3], 2 * x.shape[3])) - 8
    return ctx.cast(x, dtype) * ctx.cast(scale, dtype)


def _laid_out(ctx: Any, cache: Array, new: Array, at: Layout) -> Array:
    """Keys or values in rows, as the picture above has them."""
    B, G, _, E = new.shape
    if cache is None:
        cache = ctx.xp.full((B, G, 0, E), 0, dtype=new.dtype, device=ctx.device(new))
    if tuple(cache.shape) != (B, G, cache.shape[2], E):
        raise ValueError(f"a past of {list(cache.shape)} does not go with {list(new.shape)}")
    cache = pad_axis(ctx, cache, 2, 0, at.rows - cache.shape[2])
    source = ctx.put(np.arange(at.rows).reshape(-1, 1)) - at.held
    rows = written(ctx, cache, new, source, 2)
    count = at.new if new.shape[2] else 0
    return ctx.xp.where(source < count, rows, 0)


def _kept(ctx: Any, rows: Array, at: Layout) -> Array:
    """The present cache: the rows from the first position on that it still holds."""
    if at.window is None:
        return rows
    xp, (B, G, _, E) = ctx.xp, rows.shape
    left = _resident(ctx, at.total, at.capacity, at.window)
    places = ctx.put(np.arange(at.capacity).reshape(-1, 1))
    source = xp.clip(places + (at.total - left - at.first), 0, at.rows - 1)
    taken = xp.take_along_axis(rows, xp.broadcast_to(source, (B, G, at.capacity, E)), axis=2)
    return xp.where(places < left, taken, 0)


def _allowed(ctx: Any, at: Layout, S: int, seen: int, local_window_size: int, causal: int) -> Array:
    """Which of the rows each of S queries may look at; a window counts the query's own place."""
    left = local_window_size - 1 if local_window_size >= 0 else None
    ordered = visible(ctx, S, seen, at.past - at.first, left, 0 if causal else None)
    return ordered & (ctx.put(np.arange(seen)) < at.total - at.first)


def _columns(ctx: Any, attention_bias: Array, at: Layout, seen: int) -> Array:
    """The bias of the keys that stand in the rows; its columns are positions."""
    if at.window is None:
        return attention_bias
    xp, (_, N, S, most) = ctx.xp, attention_bias.shape
    B = at.total.shape[0]
    columns = xp.clip(at.first + ctx.put(np.arange(seen)), 0, most - 1)
    whole = xp.broadcast_to(attention_bias, (B, N, S, most))
    return xp.take_along_axis(whole, xp.broadcast_to(columns, (B, N, S, seen)), axis=3)


def _sink(ctx: Any, head_sink: Array, smooth_softmax: int, Q: Array) -> Array:
    """The score [heads] that takes a share of the softmax away from the keys, if there is one."""
    if head_sink is not None or smooth_softmax != 1:
        return head_sink
    return ctx.xp.full((Q.shape[1],), 0.0, dtype=Q.dtype, device=ctx.device(Q))
