"""Normalisations of com.microsoft: with the sum before them, or the activation behind them, fused.

    SkipLayerNormalization = LayerNormalization(input + skip + bias)
    EmbedLayerNormalization = LayerNormalization(word + position + segment)

and so for the other norms; the norms themselves are those of `norm`. The hyper-connections of
later language models stand here too: C streams of width H side by side, [..., C, H], also written
flat as [..., C · H], that are normalised, mixed and gated each by itself. Source as in `microsoft`.
"""

from __future__ import annotations

from typing import Any

from hubtool.ops import REQUIRED, op
from hubtool.ops.activation import sigmoid, swish
from hubtool.ops.fused import nchw, nhwc
from hubtool.ops.index import gather
from hubtool.ops.norm import group_normalization, layer_normalization, rms_normalization

__all__: list[str] = []

Array = Any


@op("com.microsoft.SkipLayerNormalization", returns=("input", "float32", "float32", "input"))
def skip_layer_normalization(
    ctx: Any,
    input: Array,
    skip: Array,
    gamma: Array,
    beta: Array = None,
    bias: Array = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Array, Array, Array, Array]:
    total = _total(input, skip, bias)
    return *layer_normalization(ctx, total, gamma, beta, epsilon=epsilon), total


@op(
    "com.microsoft.SkipSimplifiedLayerNormalization",
    returns=("input", "float32", "float32", "input"),
)
def skip_simplified_layer_normalization(
    ctx: Any, input: Array, skip: Array, gamma: Array, bias: Array = None, *, epsilon: float = 1e-12
) -> tuple[Array, Array, Array, Array]:
    """RMSNormalization of the sum; the mean that it takes away is 0."""
    xp, total = ctx.xp, _total(input, skip, bias)
    inverse = 1 / xp.sqrt(xp.mean(total * total, axis=-1, keepdims=True) + epsilon)
    mean = xp.full(inverse.shape, 0.0, dtype=inverse.dtype, device=ctx.device(inverse))
    return total * inverse * gamma, mean, inverse, total


def _total(input: Array, skip: Array, bias: Array | None) -> Array:
    return input + skip if bias is None else input + skip + bias


@op("com.microsoft.EmbedLayerNormalization", returns=("gamma", "int32", "gamma"))
def embed_layer_normalization(
    ctx: Any,
    input_ids: Array,
    segment_ids: Array = None,
    word_embedding: Array = REQUIRED,
    position_embedding: Array = REQUIRED,
    segment_embedding: Array = None,
    gamma: Array = REQUIRED,
    beta: Array = REQUIRED,
    mask: Array = None,
    position_ids: Array = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int | None = None,
) -> tuple[Array, Array, Array]:
    """The sum of a word's vectors, normalised; how many words the mask keeps of each text (0
    where there is no mask); and the sum."""
    xp, (batch, length) = ctx.xp, input_ids.shape
    total = gather(ctx, word_embedding, input_ids)
    if position_ids is None:
        if length > position_embedding.shape[0]:
            places = position_embedding.shape[0]
            raise ValueError(f"position_embedding has {places} places, a text {length} words")
        total = total + position_embedding[None, :length, :]
    else:
        total = total + gather(ctx, position_embedding, position_ids)
    if segment_embedding is not None and segment_ids is not None:
        total = total + gather(ctx, segment_embedding, segment_ids)
    output, _, _ = layer_normalization(ctx, total, gamma, beta, epsilon=epsilon)
    if mask is None:
        kept = xp.full((batch,), 0, dtype=input_ids.dtype, device=ctx.device(input_ids))
    else:
        kept = xp.sum(ctx.cast(mask == 1, "int32"), axis=1)
    return output, kept, total


@op("com.microsoft.GroupNorm")
def group_norm(
    ctx: Any,
    X: Array,
    gamma: Array,
    beta: Array,
    *,
    activation: int = REQUIRED,
    channels_last: int = 1,
    epsilon: float = 1e-05,
    groups: int = REQUIRED,
) -> Array:
    """GroupNormalization; then Swish, where `activation` is 1."""
    if activation not in (0, 1):
        raise ValueError(f"activation is {activation}, not 0 (none) or 1 (SiLU)")
    X = nchw(ctx, X) if channels_last else X
    Y = group_normalization(ctx, X, gamma, beta, num_groups=groups, epsilon=epsilon)
    Y = swish(ctx, Y) if activation else Y
    return nhwc(ctx, Y) if channels_last else Y


@op("com.microsoft.SkipGroupNorm")
def skip_group_norm(
    ctx: Any,
    X: Array,
    gamma: Array,
    beta: Array,
    skip: Array,
    bias: Array = None,
    *,
    activation: int = REQUIRED,
    channels_last: int = 1,
    epsilon: float = 1e-05,
    groups: int = REQUIRED,
) -> tuple[Array, Array]:
    """GroupNorm of X + skip + bias, and that sum; skip may be one vector [N, C] an image."""
    xp, C = ctx.xp, X.shape[-1 if channels_last else 1]
    spread = (1,) * (X.ndim - 2)
    around = (*spread, C) if channels_last else (C, *spread)
    S = X + (xp.reshape(skip, (skip.shape[0], *around)) if skip.ndim == 2 else skip)
    S = S if bias is None else S + xp.reshape(bias, (1, *around))
    Y = group_norm(
        ctx,
        S,
        gamma,
        beta,
        activation=activation,
        channels_last=channels_last,
        epsilon=epsilon,
        groups=groups,
    )
    return Y, S


GATES = {"silu": swish, "swish": swish, "sigmoid": sigmoid}


@op("com.microsoft.GatedRMSNorm")
def gated_rms_norm(
    ctx: Any,
    X: Array,
    scale: Array,
    gate: Array,
    *,
    activation: str = "silu",
    epsilon: float = 1e-05,
) -> Array:
    """RMSNormalization of each run of C = len(scale) elements, times the activated gate."""
    if activation not in GATES:
        raise ValueError(f"activation is '{activation}', not one of {', '.join(GATES)}")
    C = scale.shape[0]
    if X.shape[-1] % C:
        raise ValueError(f"{X.shape[-1]} elements cannot be split into runs of {C}")
    runs = ctx.xp.reshape(X, (*X.shape[:-1], X.shape[-1] // C, C))
    normal = ctx.xp.reshape(rms_normalization(ctx, runs, scale, epsilon=epsilon), X.shape)
    return normal * GATES[activation](ctx, gate)


def _streams(ctx: Any, x: Array, name: str, num_branches: int) -> Array:
    """Streams [..., C, H], where they are flat too."""
    if not num_branches:
        return x
    if num_branches < 0 or x.shape[-1] % num_branches:
        raise ValueError(f"{name} {list(x.shape)} is not {num_branches} branches side by side")
    return ctx.xp.reshape(x, (*x.shape[:-1], num_branches, x.shape[-1] // num_branches))


@op("com.microsoft.BranchwiseRMSNorm")
def branchwise_rms_norm(
    ctx: Any, X: Array, scale: Array = None, *, epsilon: float = 1e-05, num_branches: int = 0
) -> Array:
    """RMSNormalization of each branch; the scale is one for all [H], or one for each."""
    streams = _streams(ctx, X, "X", num_branches)
    C, H = streams.shape[-2:]
    if scale is None:
        normal = rms_normalization(ctx, streams, 1.0, epsilon=epsilon)
    else:
        each = ctx.xp.reshape(scale, (C, H) if scale.shape != (H,) else (1, H))
        normal = rms_normalization(ctx, streams, each, epsilon=epsilon)
    return ctx.xp.reshape(normal, X.shape)


@op("com.microsoft.HyperConnectionPreMix")
def hyper_connection_pre_mix(
    ctx: Any, streams: Array, pre_mix: Array, *, num_branches: int = 0, reduction_scale: float = 1.0
) -> Array:
    """reduction_scale · the sum of the streams, each times its gate or its gates."""
    each = _streams(ctx, streams, "streams", num_branches)
    return reduction_scale * ctx.xp.sum(each * _gates(ctx, pre_mix, each), axis=-2)


@op("com.microsoft.HyperConnectionPostMix")
def hyper_connection_post_mix(
    ctx: Any,
    streams: Array,
    block_output: Array,
    post_mix: Array,
    stream_mix: Array = None,
    *,
    num_branches: int = 0,
) -> Array:
    """The streams, mixed by a matrix [..., from, to], plus the block's output times each gate."""
    xp, each = ctx.xp, _streams(ctx, streams, "streams", num_branches)
    mixed = each
    if stream_mix is not None:
        axes = (*range(stream_mix.ndim - 2), stream_mix.ndim - 1, stream_mix.ndim - 2)
        mixed = xp.matmul(xp.permute_dims(stream_mix, axes), each)
    added = _gates(ctx, post_mix, each) * xp.expand_dims(block_output, axis=-2)
    return xp.reshape(mixed + added, streams.shape)


def _gates(ctx: Any, gates: Array, streams: Array) -> Array:
    """Gates [..., C], [..., C, 1], [..., C, H] or [..., C · H] as they meet the streams."""
    *lead, C, H = streams.shape
    if tuple(gates.shape) in ((*lead, C, 1), (*lead, C, H)):
        return gates
    if tuple(gates.shape) in ((*lead, C), (*lead, C * H)):
        return ctx.xp.reshape(gates, (*lead, C, gates.shape[-1] // C))
    raise ValueError(f"gates {list(gates.shape)} do not fit streams {list(streams.shape)}")


@op("com.microsoft.EngramGate")
def engram_gate(
    ctx: Any,
    key: Array,
    query: Array,
    value: Array,
    key_norm_scale: Array,
    query_norm_scale: Array,
    conv_norm_scale: Array = None,
    *,
    epsilon: float = 1e-05,
) -> tuple[Array, Array]:
    """value · sigmoid(± √|d|), with d the product of the normalised key and query over √H; and
    that again normalised, where conv_norm_scale is given."""
    xp = ctx.xp
    k = rms_normalization(ctx, key, key_norm_scale, epsilon=epsilon)
    q = rms_normalization(ctx, query, query_norm_scale, epsilon=epsilon)
    dot = xp.sum(k * q, axis=-1, keepdims=True) / key.shape[-1] ** 0.5
    root = xp.sqrt(xp.maximum(xp.abs(dot), 1e-6))
    gated = sigmoid(ctx, xp.sign(dot) * root) * xp.expand_dims(value, axis=-2)
    if conv_norm_scale is None:
        return gated, None
    return gated, rms_normalization(ctx, gated, conv_norm_scale, epsilon=epsilon)
