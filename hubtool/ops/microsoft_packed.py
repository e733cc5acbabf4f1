"""ONNX Runtime's operators on weights that lie in 2, 4 or 8 bits, in the domain com.microsoft.

A row of such weights is cut into blocks, each with a scale and perhaps a zero point of its own:

    weight = (number - zero_point) · scale

The numbers are packed into bytes, the lowest bits first. They are spread out to floats and
multiplied as floats; of a table whose rows are gathered, only those rows are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hubtool.dtypes import is_float
from hubtool.ops import REQUIRED, op
from hubtool.ops.index import gather
from hubtool.ops.shape import axis_of, guard_size

__all__ = ["unpacked"]

Array = Any


def unpacked(ctx: Any, packed: Array, bits: int, size: int | None = None) -> Array:
    """The numbers of 2, 4 or 8 bits that lie in bytes along the last axis, the lowest bits first;
    `size` says how many there are, where the last byte is not full."""
    xp = ctx.xp
    if bits not in (2, 4, 8):
        raise ValueError(f"bits is {bits}, not 2, 4 or 8")
    if bits < 8:
        shifts = ctx.put(np.arange(0, 8, bits, dtype=np.uint8))
        parts = xp.bitwise_right_shift(xp.expand_dims(packed, axis=-1), shifts) & ((1 << bits) - 1)
        packed = xp.reshape(parts, (*packed.shape[:-1], packed.shape[-1] * (8 // bits)))
    return packed if size is None else packed[..., :size]


def _check_block(block_size: int) -> None:
    if block_size < 16 or block_size & (block_size - 1):
        raise ValueError(f"block_size is {block_size}, not a power of two from 16 on")


@op("com.microsoft.MatMulNBits")
def matmul_n_bits(
    ctx: Any,
    A: Array,
    B: Array,
    scales: Array,
    zero_points: Array = None,
    g_idx: Array = None,
    bias: Array = None,
    *,
    K: int = REQUIRED,
    N: int = REQUIRED,
    accuracy_level: int = 0,
    bits: int = 4,
    block_size: int = REQUIRED,
    weight_prepacked: int = 0,
) -> Array:
    """A · Wᵀ for weights W [N, K] in blocks along K; an empty B counts as zeros."""
    if weight_prepacked:
        raise ValueError(f"weight_prepacked is {weight_prepacked}, which is for one kind of GPU")
    _check_block(block_size)
    if math.prod(B.shape):
        W = _blockwise(ctx, B, scales, zero_points, g_idx, (N, K), bits, block_size)
        Y = ctx.xp.matmul(A, ctx.xp.permute_dims(W, (1, 0)))
    else:
        guard_size((*A.shape[:-1], N), ctx.dtype(A))
        Y = ctx.xp.full((*A.shape[:-1], N), 0, dtype=A.dtype, device=ctx.device(A))
    return Y if bias is None else Y + bias


def _blockwise(
    ctx: Any,
    B: Array,
    scales: Array,
    zero_points: Array,
    g_idx: Array,
    shape: tuple[int, int],
    bits: int,
    block_size: int,
) -> Array:
    """The weights [N, K] as floats: column k has the scale of block k // block_size of its row, or
    of the block that g_idx[k] names."""
    xp, (N, K) = ctx.xp, shape
    blocks = -(-K // block_size)
    W = xp.reshape(unpacked(ctx, B, bits), (N, blocks * block_size))[:, :K]
    zeros: Array = 1 << (bits - 1)
    if zero_points is not None:
        zeros = xp.reshape(zero_points, (N, -1))
        zeros = unpacked(ctx, zeros, bits, blocks) if ctx.given["zero_points"] == "uint8" else zeros
    block = ctx.put(np.arange(K) // block_size) if g_idx is None else g_idx[:K]
    scale = xp.take(xp.reshape(scales, (N, blocks)), block, axis=1)
    if zero_points is not None:
        zeros = xp.take(ctx.cast(zeros, ctx.dtype(scale)), block, axis=1)
    return (ctx.cast(W, ctx.dtype(scale)) - zeros) * scale


FOUR_BITS = (
    (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4),
    (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
)
"""What the 4 bits of bitsandbytes stand for: FP4, whose highest bit is the sign, and NF4, the
quantiles of a normal distribution (https://arxiv.org/abs/2305.14314, appendix E)."""


@op("com.microsoft.MatMulBnb4")
def matmul_bnb4(
    ctx: Any,
    A: Array,
    B: Array,
    absmax: Array,
    *,
    K: int = REQUIRED,
    N: int = REQUIRED,
    block_size: int = REQUIRED,
    quant_type: int = REQUIRED,
    training_mode: int = 0,
    transB: int = 1,
) -> Array:
    """A times weights [N, K] of FP4 (quant_type 0) or NF4 (1); here the high bits come first."""
    if quant_type not in (0, 1):
        raise ValueError(f"quant_type is {quant_type}, not 0 or 1")
    _check_block(block_size)
    xp, table = ctx.xp, np.asarray(FOUR_BITS[quant_type], np.float32)
    table = table if quant_type else np.concatenate([table, -table])
    pairs = xp.flip(xp.reshape(unpacked(ctx, B, 4), (-1, 2)), axis=1)
    codes = ctx.cast(xp.reshape(pairs, (-1,))[: N * K], "int64")
    scale = xp.take(absmax, ctx.put(np.arange(codes.shape[0]) // block_size), axis=0)
    W = xp.reshape(xp.take(ctx.put(table), codes, axis=0) * scale, (N, K))
    return xp.matmul(A, xp.permute_dims(W, (1, 0)) if transB else W)


@op("com.microsoft.GatherBlockQuantized", returns="scales")
def gather_block_quantized(
    ctx: Any,
    data: Array,
    indices: Array,
    scales: Array,
    zero_points: Array = None,
    *,
    bits: int = 4,
    block_size: int = 128,
    gather_axis: int = 0,
    quantize_axis: int = 1,
) -> Array:
    """Rows of a quantised table as floats; what an index outside it names is zeros."""
    axis, blocked = axis_of(gather_axis, data.ndim), axis_of(quantize_axis, data.ndim)
    if block_size or not is_float(ctx.given["data"]):
        _check_block(block_size)
    packed = ctx.given["data"] == "uint8"
    if packed and axis == data.ndim - 1:
        raise ValueError("gather_axis is the last one, along which a byte may hold several numbers")
    xp, size = ctx.xp, data.shape[axis]
    places = xp.where(indices < 0, indices + size, indices)
    inside = (places >= 0) & (places < size)
    places = xp.where(inside, places, 0)

    def rows(x: Array) -> Array:
        """The rows at the places; of one row for all, that one."""
        if x.shape[axis] not in (1, size):
            raise ValueError(f"{list(scales.shape)} scales or zero points do not fit {size} rows")
        return gather(ctx, x, places if x.shape[axis] == size else places * 0, axis=axis)

    parts = [data, scales] if zero_points is None else [data, scales, zero_points]
    blocks_of_rows = axis == blocked
    if not blocks_of_rows:
        parts = [rows(x) for x in parts]
        blocked += indices.ndim - 1 if blocked > axis else 0
    x, steps, *zeros = parts
    if packed:
        x = unpacked(ctx, x, bits)
        zeros = [unpacked(ctx, zero, bits, steps.shape[-1]) for zero in zeros]
    default = 1 << (bits - 1) if packed else 0
    output = _by_block(ctx, x, steps, zeros[0] if zeros else default, blocked, block_size)
    output = rows(output) if blocks_of_rows else output
    inside = xp.reshape(inside, (*indices.shape, *(1,) * (data.ndim - axis - 1)))
    return xp.where(inside, output, 0.0)


def _by_block(ctx: Any, x: Array, scales: Array, zeros: Array, axis: int, block_size: int) -> Array:
    """(x - zeros) · scales, which hold for each block of the axis; a block_size of 0 is all."""
    blocks = ctx.put(np.arange(x.shape[axis]) // (block_size or max(x.shape[axis], 1)))
    if not isinstance(zeros, int):
        zeros = ctx.xp.take(ctx.cast(zeros, "float32"), blocks, axis=axis)
    return (ctx.cast(x, "float32") - zeros) * ctx.xp.take(scales, blocks, axis=axis)
