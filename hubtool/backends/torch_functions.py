"""torch's own functions for the operators of `hubtool.ops`, where they are faster.

Each takes what the operator takes, and returns NotImplemented where torch's function means
something else or does not know the dtype: then the definition in `hubtool.ops` is run instead, on
the same device. torch itself is at `ctx.space.torch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hubtool.backends import or_by_definition, torch_recurrent, torch_sampling
from hubtool.ops.fused import activated
from hubtool.ops.window import Window, resolve_transposed, resolve_window

__all__ = ["OVERRIDES"]

Array = Any
Ints = Sequence[int]

FLOATS = ("float32", "float64", "float16", "bfloat16")


def _is_float(ctx: Any, *arrays: Array | None) -> bool:
    """Whether all are of one dtype that torch's own functions take. 16-bit floats come here only
    where they are the precision that was asked for."""
    dtypes = {array.dtype for array in arrays if array is not None}
    return len(dtypes) == 1 and dtypes <= {getattr(ctx.xp, dtype) for dtype in FLOATS}


def _is_spatial(ctx: Any, X: Array, *others: Array | None) -> bool:
    """Whether X has one to three spatial axes, as torch's windows do."""
    return 3 <= X.ndim <= 5 and _is_float(ctx, X, *others)


def _padded(ctx: Any, X: Array, begins: Ints, ends: Ints, value: float = 0.0) -> Array:
    """X with its spatial axes padded (or cut, where negative)."""
    sides = [n for pair in zip(begins[::-1], ends[::-1], strict=True) for n in pair]
    return ctx.space.torch.nn.functional.pad(X, sides, value=value) if any(sides) else X


def _fits(ctx: Any, X: Array, W: Array, B: Array | None, C: int, kernel_shape: Any) -> bool:
    """Whether torch has this convolution and its arguments are sound; C is what X should have."""
    sound = X.shape[1] == C and tuple(kernel_shape or W.shape[2:]) == tuple(W.shape[2:])
    return sound and _is_spatial(ctx, X, W, B)


def _function(ctx: Any, prefix: str, X: Array) -> Callable[..., Any]:
    """conv1d, conv2d or conv3d, by the spatial axes of X."""
    function: Callable[..., Any] = getattr(ctx.space.torch.nn.functional, f"{prefix}{X.ndim - 2}d")
    return function


def _conv(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array | None = None,
    *,
    group: int = 1,
    kernel_shape: Ints | None = None,
    **geometry: Any,
) -> Array:
    if not _fits(ctx, X, W, B, W.shape[1] * group, kernel_shape) or W.shape[0] % group:
        return NotImplemented
    window = resolve_window(X.shape[2:], W.shape[2:], **geometry)
    padding: Ints = window.begins
    if window.begins != window.ends:
        X, padding = _padded(ctx, X, window.begins, window.ends), [0] * len(window.size)
    conv = _function(ctx, "conv", X)
    return conv(X, W, B, window.strides, padding, window.dilations, group)


def _fused_conv(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array | None = None,
    Z: Array | None = None,
    *,
    activation: str | None = None,
    activation_params: Sequence[float] | None = None,
    **attrs: Any,
) -> Array:
    """activation(Conv(X, W, B) + Z), in place on the Conv's own result."""
    Y = OVERRIDES["Conv"](ctx, X, W, B, **attrs)
    if Z is not None:
        Y = Y.add_(Z) if Z.shape == Y.shape else Y + Z
    if activation in ("Relu", "Sigmoid", "Tanh"):
        return getattr(Y, f"{activation.lower()}_")()
    return activated(ctx, Y, activation, activation_params)


def _conv_transpose(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array | None = None,
    *,
    group: int = 1,
    kernel_shape: Ints | None = None,
    **geometry: Any,
) -> Array:
    """The full result, cut (or padded) to what the geometry asks for."""
    if not _fits(ctx, X, W, B, W.shape[0], kernel_shape) or W.shape[0] % group:
        return NotImplemented
    window = resolve_transposed(X.shape[2:], W.shape[2:], **geometry)
    conv_transpose = _function(ctx, "conv_transpose", X)
    full = conv_transpose(X, W, None, window.strides, 0, 0, group, window.dilations)
    begins = [-begin for begin in window.begins]
    ends = [
        wanted - begin - made
        for wanted, begin, made in zip(window.size, begins, full.shape[2:], strict=True)
    ]
    Y = _padded(ctx, full, begins, ends)
    return Y if B is None else Y + B.reshape(-1, *(1,) * (X.ndim - 2))


def _padding(window: Window) -> tuple[list[int], bool]:
    """What stands after each axis, and whether torch's own padding can say it."""
    ends = [end + over for end, over in zip(window.ends, window.overhang, strict=True)]
    small = all(b <= k // 2 for b, k in zip(window.begins, window.kernel, strict=True))
    return ends, small and [*window.begins] == ends


def _max_pool(
    ctx: Any, X: Array, *, kernel_shape: Ints, storage_order: int = 0, **geometry: Any
) -> Any:
    """Indices count in the whole of X in ONNX, in one plane in torch."""
    window = resolve_window(X.shape[2:], kernel_shape, **geometry)
    ends, own = _padding(window)
    indices = any(ctx.wanted[1:])
    if not _is_spatial(ctx, X) or (indices and (storage_order or not own)):
        return NotImplemented
    padding: Ints = window.begins
    if not own:
        X, padding = _padded(ctx, X, window.begins, ends, -math.inf), [0] * len(window.size)
    pool = _function(ctx, "max_pool", X)
    arguments = X, window.kernel, window.strides, padding, window.dilations
    if not indices:
        return pool(*arguments), None
    Y, places = pool(*arguments, return_indices=True)
    planes = ctx.space.torch.arange(X.shape[0] * X.shape[1], device=X.device)
    planes = planes.reshape(*X.shape[:2], *(1,) * len(window.size))
    return Y, places + planes * math.prod(window.size)


def _average_pool(
    ctx: Any, X: Array, *, kernel_shape: Ints, count_include_pad: int = 0, **geometry: Any
) -> Array:
    """torch pads alike on both sides, and has no dilations; its ceil_mode has another divisor."""
    window = resolve_window(X.shape[2:], kernel_shape, **geometry)
    _, own = _padding(window)
    include = bool(count_include_pad)
    # What hangs over the end is no padding, and would be counted as such.
    own = own and not (include and any(window.overhang))
    if not own or {*window.dilations} != {1} or not _is_spatial(ctx, X):
        return NotImplemented
    pool = _function(ctx, "avg_pool", X)
    return pool(X, window.kernel, window.strides, window.begins, False, include)


def _batch_normalization(
    ctx: Any,
    X: Array,
    *statistics: Array,
    epsilon: float = 1e-5,
    training_mode: int = 0,
    **attrs: Any,
) -> Any:
    scale, B, input_mean, input_var = statistics
    if training_mode or X.ndim < 2 or not _is_float(ctx, X, *statistics):
        return NotImplemented
    batch_norm = ctx.space.torch.nn.functional.batch_norm
    return batch_norm(X, input_mean, input_var, scale, B, eps=epsilon)


def _layer_normalization(
    ctx: Any,
    X: Array,
    Scale: Array,
    B: Array | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    **attrs: Any,
) -> Any:
    shape = X.shape[axis:]
    alike = Scale.shape == shape and (B is None or B.shape == shape)
    if any(ctx.wanted[1:]) or not alike or not _is_float(ctx, X, Scale, B):
        return NotImplemented
    return ctx.space.torch.nn.functional.layer_norm(X, shape, Scale, B, epsilon)


def _group_normalization(
    ctx: Any,
    X: Array,
    scale: Array,
    bias: Array,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    **attrs: Any,
) -> Array:
    sound = X.ndim > 1 and scale.shape == bias.shape == X.shape[1:2] and num_groups > 0
    if not sound or X.shape[1] % num_groups or not X.numel():
        return NotImplemented
    if X.numel() == X.shape[0] * num_groups or not _is_float(ctx, X, scale, bias):
        return NotImplemented
    return ctx.space.torch.nn.functional.group_norm(X, num_groups, scale, bias, epsilon)


def _gelu(ctx: Any, X: Array, *, approximate: str = "none") -> Array:
    if approximate not in ("none", "tanh") or not _is_float(ctx, X):
        return NotImplemented
    return ctx.space.torch.nn.functional.gelu(X, approximate=approximate)


def _fast_gelu(ctx: Any, X: Array, bias: Array | None = None) -> Array:
    return _gelu(ctx, X if bias is None else X + bias, approximate="tanh")


def _log_softmax(ctx: Any, input: Array, *, axis: int = -1) -> Array:
    return ctx.space.torch.log_softmax(input, dim=axis)


def _attention(
    ctx: Any,
    Q: Array,
    K: Array,
    V: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    **attrs: Any,
) -> Any:
    """torch's, for one mask or causal attention without a past; a query whose mask closes every
    key to it gets zeros."""
    from hubtool.ops.attention import by_heads, joined  # a family that few models want

    masks = [attn_mask is not None, bool(is_causal)]
    special = softcap or softmax_precision or max(left_window_size, right_window_size) >= 0
    if special or all(masks) or any(ctx.wanted[3:]) or nonpad_kv_seqlen is not None:
        return NotImplemented
    if (past_key is None) != (past_value is None) or (past_key is not None and is_causal):
        return NotImplemented
    arrays, heads = (Q, K, V), (q_num_heads, kv_num_heads, kv_num_heads)
    ranks = {x.ndim for x in arrays}
    if not _is_float(ctx, *arrays) or ranks not in ({3}, {4}):
        return NotImplemented
    if ranks == {3}:
        if not all(heads) or any(x.shape[2] % (n or 1) for x, n in zip(arrays, heads, strict=True)):
            return NotImplemented
        named = zip(arrays, heads, "QKV", strict=True)
        Q, K, V = (by_heads(ctx, x, n or 1, name) for x, n, name in named)
    if past_key is not None:
        K, V = ctx.xp.concat((past_key, K), axis=2), ctx.xp.concat((past_value, V), axis=2)
    if not _meet(ctx, Q, K, V, attn_mask):
        return NotImplemented
    Y = ctx.space.torch.nn.functional.scaled_dot_product_attention(
        *(Q, K, V, attn_mask),
        is_causal=bool(is_causal),
        scale=scale,
        enable_gqa=Q.shape[1] != K.shape[1],
    )
    if attn_mask is not None:
        open_ = attn_mask if attn_mask.dtype == ctx.xp.bool else attn_mask > -math.inf
        Y = ctx.xp.where(open_.any(dim=-1, keepdim=True), Y, 0.0)
    return joined(ctx, Y) if ranks == {3} else Y, K, V


def _meet(ctx: Any, Q: Array, K: Array, V: Array, mask: Array | None) -> bool:
    """Whether queries, keys, values and mask fit together, and none of them is empty."""
    (B, H, L, E), (G, S) = Q.shape, K.shape[1:3]
    alike = K.shape[:3] == V.shape[:3] and K.shape[0] == B and K.shape[3] == E
    if not alike or not G or H % G or not min(B, H, L, E, S):
        return False
    if mask is None:
        return True
    known = mask.dtype in (ctx.xp.bool, Q.dtype)
    return bool(known and 2 <= mask.ndim <= 4 and mask.shape[-2:] == (L, S))


def _lrn(
    ctx: Any, X: Array, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int
) -> Array:
    """An even window stands one channel further back in torch."""
    if size % 2 == 0 or X.ndim < 3 or not _is_float(ctx, X):
        return NotImplemented
    return ctx.space.torch.nn.functional.local_response_norm(X, size, alpha, beta, bias)


def _gemm(
    ctx: Any,
    A: Array,
    B: Array,
    C: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    if C is None or A.ndim != 2 or B.ndim != 2 or not _is_float(ctx, A, B, C):
        return NotImplemented
    A, B = A.T if transA else A, B.T if transB else B
    return ctx.space.torch.addmm(C, A, B, alpha=alpha, beta=beta)


OWN: Mapping[str, Callable[..., Any]] = {
    **torch_recurrent.FUNCTIONS,
    **torch_sampling.FUNCTIONS,
    "Attention": _attention,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GroupNormalization": _group_normalization,
    "LRN": _lrn,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _log_softmax,
    "MaxPool": _max_pool,
    "Relu": lambda ctx, X: ctx.space.torch.relu(X),
    "Sigmoid": lambda ctx, X: ctx.space.torch.sigmoid(X),
    "Softmax": lambda ctx, input, *, axis=-1: ctx.space.torch.softmax(input, dim=axis),
    "com.microsoft.FastGelu": _fast_gelu,
    "com.microsoft.FusedConv": _fused_conv,
    "com.microsoft.Gelu": lambda ctx, X: _gelu(ctx, X),
}

OVERRIDES: Mapping[str, Callable[..., Any]] = {
    op: or_by_definition(op, function) for op, function in OWN.items()
}
"""Operator -> the function that the interpreter calls."""
