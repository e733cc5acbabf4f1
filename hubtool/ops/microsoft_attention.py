"""Attention as ONNX Runtime names it in com.microsoft: whole layers, with what surrounds them.

All share the core of `attention`; they differ in what they do before it. Attention and QAttention
project their input by merged weights, MultiHeadAttention takes what is projected and only adds the
bias, and DecoderMaskedMultiHeadAttention is that for one new token. A mask here is a number that
is added, `mask_filter_value`, -10000 where none is given, so that a query that may look nowhere
looks everywhere. What no CPU build of ONNX Runtime runs is refused here too, and said in
a sentence. Query heads that share keys are in `microsoft_group_query`.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hubtool.ops import REQUIRED, op
from hubtool.ops.attention import (
    Attended,
    at_positions,
    attend,
    bias_of,
    by_heads,
    joined,
    rotated,
    visible,
)
from hubtool.ops.quantize import integer_matmul

__all__ = ["check_bias", "positions_of", "refuse"]

Array = Any

LOWEST = float(np.finfo(np.float32).min)
"""What closes the future to a query here: as good as -inf, but it shows in the output `qk`."""


def refuse(operator: str, **options: Any) -> None:
    """ValueError that names the options that are set."""
    named = [name for name, value in options.items() if value]
    if named:
        raise ValueError(
            f"hubtool does not support {' and '.join(named)} in {operator}, "
            "nor does ONNX Runtime on a CPU"
        )


@op("com.microsoft.Attention")
def microsoft_attention(
    ctx: Any,
    input: Array,
    weights: Array,
    bias: Array = None,
    mask_index: Array = None,
    past: Array = None,
    attention_bias: Array = None,
    past_sequence_length: Array = None,
    *,
    do_rotary: int | None = None,
    mask_filter_value: float | None = None,
    num_heads: int = REQUIRED,
    past_present_share_buffer: int | None = None,
    qkv_hidden_sizes: Sequence[int] | None = None,
    rotary_embedding_dim: int | None = None,
    scale: float | None = None,
    unidirectional: int = 0,
) -> tuple[Array, Array]:
    """Attention of input [B, S, D] to itself, by weights [D, hidden of Q + of K + of V]."""
    refuse(
        "Attention",
        do_rotary=do_rotary,
        past_present_share_buffer=past_present_share_buffer,
        attention_bias=past is not None and attention_bias is not None,
    )
    projected = ctx.xp.matmul(input, weights)
    projected = projected if bias is None else projected + bias
    return _self_attention(
        ctx,
        projected,
        mask_index,
        past,
        attention_bias,
        sizes=qkv_hidden_sizes or [projected.shape[2] // 3] * 3,
        num_heads=num_heads,
        scale=scale,
        mask_filter_value=mask_filter_value,
        unidirectional=unidirectional,
    )


@op("com.microsoft.QAttention", returns="bias")
def q_attention(
    ctx: Any,
    input: Array,
    weight: Array,
    bias: Array,
    input_scale: Array,
    weight_scale: Array,
    mask_index: Array = None,
    input_zero_point: Array = None,
    weight_zero_point: Array = None,
    past: Array = None,
    *,
    do_rotary: int | None = None,
    mask_filter_value: float | None = None,
    num_heads: int = REQUIRED,
    past_present_share_buffer: int | None = None,
    scale: float | None = None,
    unidirectional: int = 0,
) -> tuple[Array, Array]:
    """Attention whose projection is a product of integers; the weights' scale may be per column."""
    refuse("QAttention", do_rotary=do_rotary, past_present_share_buffer=past_present_share_buffer)
    product = integer_matmul(ctx, input, weight, input_zero_point, weight_zero_point)
    projected = ctx.cast(product, "float32") * (input_scale * weight_scale) + bias
    return _self_attention(
        ctx,
        projected,
        mask_index,
        past,
        None,
        sizes=[projected.shape[2] // 3] * 3,
        num_heads=num_heads,
        scale=scale,
        mask_filter_value=mask_filter_value,
        unidirectional=unidirectional,
    )


def _self_attention(
    ctx: Any,
    projected: Array,
    mask_index: Array,
    past: Array,
    attention_bias: Array,
    *,
    sizes: Sequence[int],
    num_heads: int,
    scale: float | None,
    mask_filter_value: float | None,
    unidirectional: int,
) -> tuple[Array, Array]:
    """What Attention and QAttention do once Q, K and V stand side by side in [B, S, …]."""
    if sum(sizes) != projected.shape[2] or sizes[0] != sizes[1]:
        raise ValueError(
            f"Q, K and V of {list(sizes)} columns are not the {projected.shape[2]} of the weights, "
            "or Q and K differ"
        )
    Q, K, V = (
        by_heads(ctx, part, num_heads, name)
        for part, name in zip(_split(projected, sizes), "QKV", strict=True)
    )
    if past is not None:
        K, V = (ctx.xp.concat([past[i, ...], new], axis=2) for i, new in enumerate((K, V)))
    bias = _bias(
        ctx,
        mask_index,
        attention_bias,
        (Q.shape[0], num_heads, Q.shape[2], K.shape[2]),
        kinds="B 2B 3B+2 BT BST",
        mask_filter_value=mask_filter_value,
        past=0 if past is None else past.shape[3],
        unidirectional=unidirectional,
        dtype=ctx.dtype(Q),
    )
    made = attend(ctx, Q, K, V, bias, scale=scale or None)
    present = ctx.xp.stack([K, V]) if any(ctx.wanted[1:]) else None
    return joined(ctx, made.Y), present


def _split(x: Array, sizes: Sequence[int]) -> list[Array]:
    """x cut along its last axis."""
    ends = np.cumsum(sizes).tolist()
    return [x[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _bias(
    ctx: Any,
    mask: Array,
    attention_bias: Array,
    dims: tuple[int, int, int, int],
    *,
    kinds: str,
    mask_filter_value: float | None,
    past: int,
    unidirectional: int,
    dtype: str,
) -> Array:
    """All that is added to the scores [B, N, S, T]; None where that is nothing."""
    _, _, S, T = dims
    check_bias(attention_bias, dims)
    total = attention_bias
    if mask is not None:
        closed = -10000.0 if mask_filter_value is None else mask_filter_value
        part = bias_of(ctx, _open(ctx, mask, dims, kinds.split()), dtype, closed)
        total = part if total is None else total + part
    if unidirectional:
        if past + S < T:
            raise ValueError(f"unidirectional has no meaning for {S} queries and {T - past} keys")
        part = bias_of(ctx, visible(ctx, S, T, past, None, 0), dtype, LOWEST)
        total = part if total is None else total + part
    return total


def check_bias(attention_bias: Array, dims: tuple[int, int, int, int]) -> None:
    """ValueError unless the attention_bias is [B or 1, N or 1, S, T]."""
    if attention_bias is None:
        return
    B, N, S, T = dims
    found = list(attention_bias.shape)
    if len(found) != 4 or found[0] not in (1, B) or found[1] not in (1, N) or found[2:] != [S, T]:
        raise ValueError(f"attention_bias is {found}, not [{B} or 1, {N} or 1, {S}, {T}]")


def _open(ctx: Any, mask: Array, dims: tuple[int, int, int, int], kinds: list[str]) -> Array:
    """Which keys a mask leaves open, in a shape that meets the scores [B, N, S, T].

    The kinds: B the number of keys; 2B their ends, then their starts; 3B+2 those numbers first,
    then sums that are not needed; BT and BST one entry a key, open above 0.
    """
    B, _, S, T = dims
    shapes = {"B": [B], "2B": [2 * B], "3B+2": [3 * B + 2], "BT": [B, T], "BST": [B, S, T]}
    found = [kind for kind in kinds if list(mask.shape) == shapes[kind]]
    if not found:
        known = ", ".join(str(shapes[kind]) for kind in kinds)
        raise ValueError(f"the mask is {list(mask.shape)}, not one of {known}")
    if found[0] == "BST":
        return mask[:, None, :, :] > 0
    if found[0] == "BT":
        return mask[:, None, None, :] > 0
    places = ctx.put(np.arange(T))
    inside = places < ctx.xp.reshape(mask[:B], (-1, 1, 1, 1))
    if found[0] == "2B":
        inside = inside & (places >= ctx.xp.reshape(mask[B:], (-1, 1, 1, 1)))
    return inside


@op(
    "com.microsoft.MultiHeadAttention",
    returns=("query", "query", "query", ""),
    host=("past_sequence_length",),
)
def multi_head_attention(
    ctx: Any,
    query: Array,
    key: Array = None,
    value: Array = None,
    bias: Array = None,
    key_padding_mask: Array = None,
    attention_bias: Array = None,
    past_key: Array = None,
    past_value: Array = None,
    past_sequence_length: Array = None,
    cache_indirection: Array = None,
    *,
    mask_filter_value: float | None = None,
    num_heads: int = REQUIRED,
    scale: float | None = None,
    unidirectional: int = 0,
) -> tuple[Array, Array, Array, Array]:
    """query [B, S, hidden]; key and value [B, T, …], or as past ones are, [B, heads, T, size]."""
    made, K, V = _multi_head(
        ctx,
        (query, key, value),
        bias,
        key_padding_mask,
        attention_bias,
        (past_key, past_value),
        past_sequence_length,
        cache_indirection,
        kinds="B 3B+2 BT BST",
        mask_filter_value=mask_filter_value,
        num_heads=num_heads,
        scale=scale,
        unidirectional=unidirectional,
    )
    return joined(ctx, made.Y), K, V, ctx.cast(made.biased, ctx.given["query"])


@op(
    "com.microsoft.DecoderMaskedMultiHeadAttention",
    returns=("query", "query", "query", ""),
    host=("past_sequence_length", "beam_width"),
)
def decoder_masked_multi_head_attention(
    ctx: Any,
    query: Array,
    key: Array = None,
    value: Array = None,
    mask_index: Array = None,
    attention_bias: Array = None,
    past_key: Array = None,
    past_value: Array = None,
    past_sequence_length: Array = None,
    beam_width: Array = None,
    cache_indirection: Array = None,
    bias: Array = None,
    *,
    mask_filter_value: float | None = None,
    num_heads: int = REQUIRED,
    output_qk: int | None = None,
    past_present_share_buffer: int | None = None,
    scale: float | None = None,
) -> tuple[Array, Array, Array, Array]:
    """MultiHeadAttention for one new token; its past keys stand in a buffer, or it has none."""
    if query.shape[1] != 1:
        raise ValueError(f"query has {query.shape[1]} tokens, not one")
    cached = past_key is not None or any(ctx.wanted[1:3])
    if cached and (past_key is None or past_sequence_length is None):
        raise ValueError("a present one needs past_key, past_value and past_sequence_length")
    if cached and not past_present_share_buffer:
        raise ValueError("past_key and its like need past_present_share_buffer to be 1")
    if key is not None and key.ndim == 4 and attention_bias is not None:
        raise ValueError("attention_bias is not supported for keys of [B, heads, T, size]")
    if beam_width is not None and cache_indirection is not None:
        width = int(np.reshape(beam_width, ()))
        if width != cache_indirection.shape[1]:
            raise ValueError(f"beam_width is {width}, not that of cache_indirection")
    made, K, V = _multi_head(
        ctx,
        (query, key, value),
        bias,
        mask_index,
        attention_bias,
        (past_key, past_value),
        past_sequence_length,
        cache_indirection,
        kinds="BT",
        mask_filter_value=mask_filter_value,
        num_heads=num_heads,
        scale=scale,
        unidirectional=0,
    )
    qk = ctx.cast(made.biased, ctx.given["query"]) if output_qk else None
    return joined(ctx, made.Y), K, V, qk


def _multi_head(
    ctx: Any,
    projected: tuple[Array, Array, Array],
    bias: Array,
    mask: Array,
    attention_bias: Array,
    past: tuple[Array, Array],
    past_sequence_length: Array,
    cache_indirection: Array,
    *,
    kinds: str,
    mask_filter_value: float | None,
    num_heads: int,
    scale: float | None,
    unidirectional: int,
) -> tuple[Attended, Array, Array]:
    """Attention, and the present keys and values."""
    Q, K, V = _projected_by_heads(ctx, projected, bias, num_heads)
    if (past[0] is None) != (past[1] is None):
        raise ValueError("past_key and past_value must be given together")
    if cache_indirection is not None and past_sequence_length is None:
        raise ValueError("cache_indirection needs past_key and past_sequence_length")
    if cache_indirection is not None and Q.shape[2] != 1:
        raise ValueError(f"cache_indirection is for one new token, not {Q.shape[2]}")
    before, new, present = 0, K.shape[2], (K, V)
    if past[0] is not None:
        before = past[0].shape[2]
        if past_sequence_length is not None:
            before = _places_before(past[0], past_sequence_length, new)
        present = (_extended(ctx, past[0], before, K), _extended(ctx, past[1], before, V))
        K, V = (x[:, :, : before + new, :] for x in present)
    if cache_indirection is not None:
        K, V = (_from_beams(ctx, x, before, cache_indirection) for x in (K, V))
    added = _bias(
        ctx,
        mask,
        attention_bias,
        (Q.shape[0], num_heads, Q.shape[2], K.shape[2]),
        kinds=kinds,
        mask_filter_value=mask_filter_value,
        past=before,
        unidirectional=unidirectional,
        dtype=ctx.dtype(Q),
    )
    return attend(ctx, Q, K, V, added, scale=scale or None), *present


def _projected_by_heads(
    ctx: Any, projected: tuple[Array, Array, Array], bias: Array, num_heads: int
) -> tuple[Array, Array, Array]:
    """Q, K and V with their share of the bias, [B, heads, length, size]; keys and values from
    elsewhere come as such, and have theirs already."""
    query, key, value = projected
    if query.ndim != 3 or key is None or value is None or key.ndim not in (3, 4):
        raise ValueError("query, key and value packed in one are not supported; give all three")
    if bias is not None:
        hidden, rest = query.shape[2], bias.shape[0] - 2 * query.shape[2]
        own, *others = _split(bias, [hidden, hidden, rest])
        query = query + own
        if key.ndim == 3:
            key, value = (x + part for x, part in zip((key, value), others, strict=True))
    Q = by_heads(ctx, query, num_heads, "query")
    if key.ndim == 4:
        return Q, key, value
    return Q, by_heads(ctx, key, num_heads, "key"), by_heads(ctx, value, num_heads, "value")


def _places_before(cache: Array, past_sequence_length: Array, new: int) -> int:
    """How many places of a buffer are taken, which must have room for the new ones."""
    before, size = int(np.reshape(past_sequence_length, ())), cache.shape[2]
    if not 0 <= before <= size - new:
        raise ValueError(
            f"past_sequence_length is {before}, and past_key has {size} places: "
            f"no room for {new} more"
        )
    return before


def _extended(ctx: Any, cache: Array, before: int, new: Array) -> Array:
    """The cache with new entries behind its first `before`; what lies further on stays."""
    after = before + new.shape[2]
    return ctx.xp.concat([cache[:, :, :before, :], new, cache[:, :, after:, :]], axis=2)


def _from_beams(ctx: Any, x: Array, before: int, cache_indirection: Array) -> Array:
    """The entries of a beam search: the first `before` of each beam are those of the beams that
    cache_indirection [batch, beams, max length] names."""
    xp, (B, N, _, E) = ctx.xp, x.shape
    beams = cache_indirection.shape[1]
    if B % beams:
        raise ValueError(f"{B} sequences are not divisible into {beams} beams")
    first = ctx.put((np.arange(B) // beams * beams).reshape(-1, 1))
    rows = xp.reshape(ctx.cast(cache_indirection, "int64"), (B, -1))[:, :before] + first
    places = xp.broadcast_to(rows[:, None, :, None], (B, N, before, E))
    chosen = xp.take_along_axis(x[:, :, :before, :], places, axis=0)
    return xp.concat([chosen, x[:, :, before:, :]], axis=2)


@op("com.microsoft.RotaryEmbedding")
def microsoft_rotary_embedding(
    ctx: Any,
    input: Array,
    position_ids: Array,
    cos_cache: Array,
    sin_cache: Array,
    *,
    interleaved: int | None = None,
    is_packed_batching: int | None = None,
    num_heads: int | None = None,
    rotary_embedding_dim: int | None = None,
    scale: float | None = None,
) -> Array:
    """ai.onnx's RotaryEmbedding; one position alone is that of the first token."""
    refuse(
        "RotaryEmbedding",
        is_packed_batching=is_packed_batching,
        scale=scale not in (None, 1.0),
    )
    if rotary_embedding_dim and not num_heads:
        raise ValueError("num_heads must be given with rotary_embedding_dim")
    x = input
    if input.ndim == 3:
        heads = num_heads or input.shape[2] // max(2 * cos_cache.shape[1], 1)
        x = by_heads(ctx, input, heads, "input")
    positions = positions_of(ctx, position_ids, (x.shape[0], x.shape[2]))
    cos, sin = (at_positions(ctx, cache, positions) for cache in (cos_cache, sin_cache))
    Y = rotated(ctx, x, cos, sin, interleaved=interleaved or 0, dim=rotary_embedding_dim or 0)
    return joined(ctx, Y) if input.ndim == 3 else Y


def positions_of(ctx: Any, position_ids: Array, dims: tuple[int, int]) -> Array:
    """The position of each token [B, S]: as given, or counted on from the only one given."""
    if position_ids.ndim == 2:
        if tuple(position_ids.shape) != dims:
            raise ValueError(f"position_ids is {list(position_ids.shape)}, not {list(dims)}")
        return position_ids
    first = ctx.xp.reshape(position_ids, (1, 1))
    return ctx.xp.broadcast_to(first + ctx.put(np.arange(dims[1])), dims)
