"""Operators of ONNX Runtime's own domain com.microsoft: what optimised and fused files hold.

Fifteen of them share a name with an operator of ONNX and have another contract, so they keep their
domain. Meanings are those of ONNX Runtime
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md), and of its CPU
kernels where it has one. Here stand activations with a bias, ONNX's operators under other
signatures, and small algorithms; products with an activation are in `fused`, norms in
`microsoft_norm`. Some gated activations say where they round: there T is the dtype of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from hubtool.ops import REQUIRED, op
from hubtool.ops.activation import BARE, gelu, sigmoid, softmax, swish
from hubtool.ops.elementwise import clip, rounded
from hubtool.ops.fused import nchw, nhwc
from hubtool.ops.index import gather, gather_nd
from hubtool.ops.linear import trilu
from hubtool.ops.shape import axes_of, axis_of, guard_size, pad, range_, unsqueeze
from hubtool.ops.window import conv_transpose, max_pool

__all__: list[str] = []

Array = Any
Ints = Sequence[int]

PLAIN: dict[str, Callable[..., Array]] = {
    "BiasAdd": lambda ctx, X, bias, skip: X + bias + skip,
    "BiasGelu": lambda ctx, A, B: gelu(ctx, A + B),
    "ComplexMul": lambda ctx, A, B: _complex_product(ctx, A, B, 1),
    "ComplexMulConj": lambda ctx, A, B: _complex_product(ctx, A, B, -1),
    "Gelu": lambda ctx, X: gelu(ctx, X),
    "SampleOp": lambda ctx, X: X,
}

for _name, _function in PLAIN.items():
    op(f"com.microsoft.{_name}")(_function)


def _complex_product(ctx: Any, A: Array, B: Array, sign: int) -> Array:
    """A · B, with B conjugated where the sign is -1; the last axis is [real, imaginary]."""
    if A.shape[-1] != 2 or B.shape[-1] != 2:
        raise ValueError("the last axes of A and B must hold the real and the imaginary part")
    (a, b), (c, d) = ((x[..., 0], x[..., 1]) for x in (A, B))
    return ctx.xp.stack([a * c - sign * (b * d), b * c + sign * (a * d)], axis=-1)


@op("com.microsoft.FastGelu")
def fast_gelu(ctx: Any, X: Array, bias: Array = None) -> Array:
    return gelu(ctx, X if bias is None else X + bias, approximate="tanh")


@op("com.microsoft.QuickGelu")
def quick_gelu(ctx: Any, X: Array, *, alpha: float = 1.702) -> Array:
    return swish(ctx, X, alpha=alpha)


@op("com.microsoft.BiasSplitGelu")
def bias_split_gelu(ctx: Any, X: Array, bias: Array) -> Array:
    """The left half of X + bias times the Gelu of the right half."""
    left, right = _halves(X + bias, "X")
    return left * gelu(ctx, right)


def _halves(x: Array, name: str) -> tuple[Array, Array]:
    half, odd = divmod(x.shape[-1], 2)
    if odd:
        raise ValueError(f"{name} {list(x.shape)} cannot be split into two halves")
    return x[..., :half], x[..., half:]


@op("com.microsoft.BiasSoftmax")
def bias_softmax(
    ctx: Any, data: Array, bias: Array, *, axis: int = 1, is_inner_broadcast: int = REQUIRED
) -> Array:
    """The softmax of data + bias over `axis` and all axes behind it. is_inner_broadcast says which
    axes the bias lacks, and its shape says so too."""
    total = data + bias
    lead = total.shape[: axis_of(axis, total.ndim)]
    return ctx.xp.reshape(softmax(ctx, ctx.xp.reshape(total, (*lead, -1))), total.shape)


@op("com.microsoft.SwiGLU")
def swi_glu(
    ctx: Any,
    gate: Array,
    up: Array = None,
    *,
    activation_alpha: float = 1.0,
    activation_beta: float = 0.0,
    limit: float = 0.0,
    round_activation: int = 0,
) -> Array:
    """Swish(gate) · (up + activation_beta), both clamped where there is a limit; without `up`,
    `gate` holds both halves."""
    G, L = _halves(gate, "gate") if up is None else (gate, up)
    if limit > 0:
        G, L = clip(ctx, G, None, limit), clip(ctx, L, -limit, limit)
    activated = swish(ctx, G, alpha=activation_alpha)
    if round_activation:
        activated = rounded(ctx, activated, ctx.given["gate"])
    return activated * (L + activation_beta)


@op("com.microsoft.ScaledSiLU")
def scaled_silu(ctx: Any, X: Array, scale: Array = None, *, alpha: float = 1.0) -> Array:
    T = ctx.given["X"]
    Z = rounded(ctx, X * (alpha if scale is None else ctx.xp.reshape(scale, ())), T)
    return Z * rounded(ctx, sigmoid(ctx, Z), T)


@op("com.microsoft.LinearAttentionGate")
def linear_attention_gate(
    ctx: Any, a: Array, dt_bias: Array, decay_scale: Array, b: Array = None
) -> tuple[Array, Array]:
    """decay_scale · Softplus(a + dt_bias), and sigmoid(b)."""
    decay = decay_scale * BARE["Softplus"](ctx, a + dt_bias)
    return decay, None if b is None else sigmoid(ctx, b)


@op("com.microsoft.GatedAdd")
def gated_add(ctx: Any, X: Array, Y: Array, gate: Array, gate_weight: Array = None) -> Array:
    """X + Y · gate, one gate a row; with a weight, the gate is sigmoid(gate · gate_weight)."""
    T = ctx.given["X"]
    if gate_weight is not None:
        gate = rounded(ctx, ctx.xp.matmul(gate, gate_weight), T)
        gate = rounded(ctx, sigmoid(ctx, gate), T)
    return X + rounded(ctx, Y * gate, T)


@op("com.microsoft.ExpandDims", host=("axis",), moves=True)
def expand_dims(ctx: Any, X: Array, axis: Array) -> Array:
    return unsqueeze(ctx, X, axis.reshape(-1))


@op("com.microsoft.Range", host=("start", "limit", "delta"))
def range_by_one(ctx: Any, start: Array, limit: Array, delta: Array = None) -> Array:
    """ONNX's Range, whose delta may be left out: it is 1."""
    return range_(ctx, start, limit, np.ones_like(start) if delta is None else delta)


@op("com.microsoft.Pad", host=("pads",), moves=True)
def pad_flat(
    ctx: Any, data: Array, pads: Array, value: Array = None, *, mode: str = "constant"
) -> Array:
    """ONNX's Pad of all axes; pads may stand in a row of their own."""
    return pad(ctx, data, pads.reshape(-1), value, mode=mode)


@op("com.microsoft.Trilu", host=("k",), moves=True)
def triangle(ctx: Any, X: Array, k: Array = None, *, upper: int = 1) -> Array:
    return trilu(ctx, X, k, upper=upper)


@op("com.microsoft.GatherND", moves=True)
def gather_nd_plain(ctx: Any, data: Array, indices: Array) -> Array:
    return gather_nd(ctx, data, indices)


@op("com.microsoft.TorchEmbedding", returns="weight", moves=True)
def torch_embedding(
    ctx: Any,
    weight: Array,
    indices: Array,
    padding_idx: Array = None,
    scale_grad_by_freq: Array = None,
) -> Array:
    """The rows of the weight; the other inputs only guide a training."""
    return gather(ctx, weight, indices)


@op("com.microsoft.UnfoldTensor", moves=True)
def unfold_tensor(
    ctx: Any, input: Array, *, dim: int = -1, size: int = REQUIRED, step: int = 1
) -> Array:
    """Slices of `size` elements along an axis, each `step` behind the last, on an axis at the
    end."""
    axis = axis_of(dim, input.ndim)
    room = input.shape[axis] - size
    if size < 1 or step < 1 or room < 0:
        raise ValueError(f"no slices of size {size}, {step} apart, in {input.shape[axis]} elements")
    guard_size((*input.shape, size), ctx.dtype(input))
    before, reach = (slice(None),) * axis, room // step * step + 1
    parts = [input[(*before, slice(k, k + reach, step), ...)] for k in range(size)]
    return ctx.xp.stack(parts, axis=-1)


@op("com.microsoft.NhwcMaxPool")
def nhwc_max_pool(
    ctx: Any,
    x: Array,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints = REQUIRED,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    y, _ = max_pool(
        ctx,
        nchw(ctx, x),
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
        dilations=dilations,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return nhwc(ctx, y)


@op("com.microsoft.ConvTransposeWithDynamicPads", host=("Pads",))
def conv_transpose_with_dynamic_pads(
    ctx: Any,
    X: Array,
    W: Array,
    Pads: Array = None,
    B: Array = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    return conv_transpose(
        ctx,
        X,
        W,
        B,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        output_padding=output_padding,
        pads=None if Pads is None else [int(p) for p in Pads],
        strides=strides,
    )


def _like_x(ctx: Any, X: Array) -> Array:
    return ctx.empty(X.shape, ctx.dtype(X))


@op("com.microsoft.Inverse", shape=_like_x)
def inverse(ctx: Any, X: Array) -> Array:
    """The inverse of each matrix of the batch."""
    return ctx.xp.linalg.inv(X)


DISTANCES = ("sqeuclidean", "euclidean")


@op("com.microsoft.CDist")
def c_dist(ctx: Any, A: Array, B: Array, *, metric: str = "sqeuclidean") -> Array:
    """The distance of each row of A to each of B, by |a - b|² = |a|² + |b|² - 2 a·b."""
    xp = ctx.xp
    if metric not in DISTANCES:
        raise ValueError(f"metric is '{metric}', not one of {', '.join(DISTANCES)}")
    a, b = (xp.sum(x * x, axis=1) for x in (A, B))
    product = xp.matmul(A, xp.permute_dims(B, (1, 0)))
    squares = xp.maximum(a[:, None] + b[None, :] - 2 * product, 0.0)
    return squares if metric == "sqeuclidean" else xp.sqrt(squares)


@op("com.microsoft.IsAllFinite", returns="bool")
def is_all_finite(ctx: Any, *input: Array, isinf_only: int = 0, isnan_only: int = 0) -> Array:
    xp = ctx.xp
    if isinf_only and isnan_only:
        raise ValueError("isinf_only and isnan_only are both set")
    wrong = xp.isinf if isinf_only else xp.isnan
    both = not isinf_only and not isnan_only
    sound = [xp.all(xp.isfinite(x) if both else ~wrong(x)) for x in input]
    return reduce(xp.logical_and, sound)


@op("com.microsoft.MulInteger", returns="int32")
def mul_integer(
    ctx: Any,
    A: Array,
    A_zero_point: Array = None,
    B: Array = REQUIRED,
    B_zero_point: Array = None,
) -> Array:
    """(A - A_zero_point) · (B - B_zero_point)."""

    def shifted(x: Array, zero_point: Array) -> Array:
        x = ctx.cast(x, "int32")
        return x if zero_point is None else x - ctx.cast(zero_point, "int32")

    return shifted(A, A_zero_point) * shifted(B, B_zero_point)


@op("com.microsoft.ReduceSumInteger", returns="")
def reduce_sum_integer(
    ctx: Any, data: Array, *, axes: Ints = REQUIRED, keepdims: int = REQUIRED
) -> Array:
    """The sum in 32 bits, with a sign where the data has one."""
    chosen = axes_of(axes or None, data.ndim)
    total = ctx.xp.sum(ctx.cast(data, "int64"), axis=chosen, keepdims=bool(keepdims))
    return ctx.cast(total, "uint32" if ctx.dtype(data) == "uint8" else "int32")


def _like_scores(ctx: Any, input_ids: Array, scores: Array, *, ngram_size: int) -> Array:
    return ctx.empty(scores.shape, ctx.dtype(scores))


@op("com.microsoft.NGramRepeatBlock", returns="scores", on_host=True, shape=_like_scores)
def n_gram_repeat_block(
    ctx: Any, input_ids: Array, scores: Array, *, ngram_size: int = REQUIRED
) -> Array:
    """The scores with -inf for each token that would make the row end with an n-gram that stands
    in it already."""
    if ngram_size < 1:
        raise ValueError(f"ngram_size is {ngram_size}, not 1 or more")
    blocked = np.array(scores)
    if input_ids.shape[1] < ngram_size:
        return blocked
    grams = np.lib.stride_tricks.sliding_window_view(input_ids, ngram_size, axis=1)
    ending = input_ids[:, None, input_ids.shape[1] - ngram_size + 1 :]
    rows, places = np.nonzero((grams[..., :-1] == ending).all(axis=-1))
    tokens = grams[rows, places, -1]
    if ((tokens < 0) | (tokens >= scores.shape[1])).any():
        raise ValueError(f"input_ids hold tokens outside the {scores.shape[1]} of scores")
    blocked[rows, tokens] = -np.inf
    return blocked


@op("com.microsoft.DynamicTimeWarping", returns="int32", on_host=True)
def dynamic_time_warping(ctx: Any, input: Array) -> Array:
    """The cheapest way from the first to the last element of a cost matrix, as its two rows of
    indices. One diagonal after the other: all of one depends only on the two before."""
    costs = input[0] if input.ndim == 3 else input
    M, N = costs.shape
    total = np.full((M + 1, N + 1), np.inf, np.float32)
    total[0, 0] = 0
    steps = np.zeros((M + 1, N + 1), np.int8)
    for diagonal in range(2, M + N + 1):
        i = np.arange(max(1, diagonal - N), min(M, diagonal - 1) + 1)
        j = diagonal - i
        both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        step = np.where(
            (both < down) & (both < right), 0, np.where((down < both) & (down < right), 1, 2)
        )
        total[i, j] = costs[i - 1, j - 1] + np.choose(step, (both, down, right))
        steps[i, j] = step
    return _way_back(steps)


def _way_back(steps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The way that the steps (0 both, 1 down, 2 right) took to the last element."""
    i, j = (size - 1 for size in steps.shape)
    steps[0, :], steps[:, 0] = 2, 1
    way = []
    while i > 0 or j > 0:
        way.append((i - 1, j - 1))
        step = steps[i, j]
        i, j = i - (step != 2), j - (step != 1)
    return np.asarray(way[::-1], np.int32).T


def _hash_of_x(ctx: Any, X: Array, *, positive: int, seed: int) -> Array:
    return ctx.empty(X.shape, "uint32" if positive else "int32")


@op("com.microsoft.MurmurHash3", returns="", on_host=True, shape=_hash_of_x)
def murmur_hash3(ctx: Any, X: Array, *, positive: int = 1, seed: int = 0) -> Array:
    """The 32-bit MurmurHash3 of each element's bytes, a text's being UTF-8
    (https://en.wikipedia.org/wiki/MurmurHash)."""
    if X.dtype.kind == "O":
        hashes = _hashes_of_texts([_encoded(text) for text in X.flat], seed)
    else:
        hashes = _murmur(np.ascontiguousarray(X).view(np.uint8).reshape(X.size, -1), seed)
    return hashes.reshape(X.shape).view(np.uint32 if positive else np.int32)


def _encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _hashes_of_texts(texts: list[bytes], seed: int) -> np.ndarray[Any, Any]:
    """All texts of one length at once."""
    hashes, lengths = np.zeros(len(texts), np.uint32), np.array([*map(len, texts)], np.int64)
    for length in set(lengths.tolist()):
        places = np.flatnonzero(lengths == length)
        together = b"".join(texts[place] for place in places)
        rows = np.frombuffer(together, np.uint8).reshape(places.size, length)
        hashes[places] = _murmur(rows, seed)
    return hashes


def _murmur(rows: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """The hash of each row of bytes, four bytes after four, then what is left, then the length."""
    count, length = rows.shape
    whole = length // 4 * 4
    hashes = np.full(count, seed % 2**32, np.uint32)
    for block in np.ascontiguousarray(rows[:, :whole]).view("<u4").T:
        hashes = _rotated(hashes ^ _mixed(block), 13) * np.uint32(5) + np.uint32(0xE6546B64)
    rest = np.zeros((count, 4), np.uint8)
    rest[:, : length - whole] = rows[:, whole:]
    hashes = hashes ^ _mixed(rest.view("<u4")[:, 0]) ^ np.uint32(length)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashes = (hashes ^ (hashes >> np.uint32(shift))) * np.uint32(factor)
    mixed: np.ndarray[Any, Any] = hashes ^ (hashes >> np.uint32(16))
    return mixed


def _mixed(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return _rotated(block * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)


def _rotated(x: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    return (x << np.uint32(bits)) | (x >> np.uint32(32 - bits))


@op("com.microsoft.WordConvEmbedding", returns="W")
def word_conv_embedding(
    ctx: Any,
    Sequence: Array,
    W: Array,
    B: Array,
    C: Array,
    *,
    char_embedding_size: int | None = None,
    conv_window_size: int | None = None,
    embedding_size: int | None = None,
) -> Array:
    """max(tanh(Conv(the vectors of a word's characters))), for each word of a sequence [S, L].

    W is [M, 1, window, width], C [characters, width]. Character 0 is padding, and only windows
    that begin before it count, one at least; a word that begins with it gives zeros.
    """
    xp, (M, _, window, width), length = ctx.xp, W.shape, Sequence.shape[1]
    for name, given, actual in (
        ("embedding_size", embedding_size, M),
        ("conv_window_size", conv_window_size, window),
        ("char_embedding_size", char_embedding_size, width),
    ):
        if given not in (None, actual):
            raise ValueError(f"{name} is {given}, but W is {list(W.shape)}")
    letters = gather(ctx, C, Sequence)
    count = length - window + 1
    if count < 1 or letters.shape[-1] != width:
        raise ValueError(f"W {list(W.shape)} does not fit words of {list(letters.shape[1:])}")
    seen = xp.concat([letters[:, k : k + count, :] for k in range(window)], axis=2)
    kernels = xp.permute_dims(xp.reshape(W, (M, window * width)), (1, 0))
    values = xp.tanh(xp.matmul(seen, kernels) + B)
    size = xp.sum(ctx.cast(Sequence > 0, "int32"), axis=1, keepdims=True)
    begins = ctx.put(np.arange(count, dtype=np.int32)[None, :])
    counts = (begins == 0) | (begins + window <= size)
    best = xp.max(xp.where(counts[..., None], values, -1.0), axis=1)
    return xp.where(Sequence[:, :1] > 0, best, 0.0)
