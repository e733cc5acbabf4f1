"""Convolutions and products of matrices, as steps.

A matrix times a weight is a convolution of 1x1 over its rows. Where the matrix is a flattened
picture, it is one whose kernel is as large as the picture: the weights of the product are then
read in the order of the picture's own axes, and nothing is moved:

    Flatten(X [n, c, h, w]) · B [c·h·w, m]   =   Conv(X, W [m, c, h, w])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hubtool.backends.native.lower_build import (
    FEW,
    Builder,
    Draft,
    Facts,
    Key,
    Ref,
    Unlowerable,
    Weights,
    picture_key,
    rows_key,
)
from hubtool.graph import Layer, Tensor
from hubtool.ops.window import Window, resolve_window

__all__ = ["LOWER", "REASONS", "activation_of"]

Array = np.ndarray[Any, Any]
Fused = tuple[str, float, float]

FUSED: dict[str, Callable[..., Fused]] = {
    "Relu": lambda: ("relu", 0.0, 0.0),
    "Sigmoid": lambda: ("sigmoid", 0.0, 0.0),
    "Tanh": lambda: ("tanh", 0.0, 0.0),
    "Softplus": lambda: ("softplus", 0.0, 0.0),
    "Elu": lambda alpha: ("elu", alpha, 0.0),
    "LeakyRelu": lambda alpha: ("leaky_relu", alpha, 0.0),
    "Clip": lambda low, high: ("clip", low, high),
    "HardSigmoid": lambda alpha, beta: ("hard_sigmoid", alpha, beta),
}
"""What FusedConv may apply, as the engine's activation with its numbers."""


def activation_of(layer: Layer) -> Fused:
    """The activation that a fused layer applies; KeyError or TypeError where it is none of ours."""
    name: Any = layer.attrs.get("activation")
    if not name:
        return ("none", 0.0, 0.0)
    params: Any = layer.attrs.get("activation_params") or []
    return FUSED[str(name)](*map(float, params))


def _reason_conv(layer: Layer, facts: Facts) -> str:
    W = facts.constant(layer, "W")
    if W is None or ("B" in layer.inputs and facts.constant(layer, "B") is None):
        return "its weights are computed"
    if len(W.shape) not in (3, 4):
        return f"no kernel of rank {len(W.shape) - 2}"
    if facts.constant(layer, "X") or facts.constant(layer, "Z"):
        return "it works on weights alone"
    try:
        activation_of(layer)
    except (KeyError, TypeError):
        activation: Any = layer.attrs.get("activation")
        return f"no kernel applies {activation} at its end"
    return ""


def _plain(tensor: Tensor, how: str = "") -> Callable[[], Array]:
    return lambda: tensor.aligned


def _conv(b: Builder, layer: Layer) -> None:
    W, B = b.constant(layer, "W"), b.constant(layer, "B")
    assert W is not None
    source, pads = b.padded.get(str(layer.inputs["X"]), (layer.inputs["X"], (0, 0, 0, 0)))
    flat, shape = b.value(source)
    group, share, kernel = _whole(layer.attrs["group"]), W.shape[1], W.shape[2:]
    if len(shape) != len(W.shape) or shape[1] != share * group or W.shape[0] % group:
        raise Unlowerable(f"W {list(W.shape)} does not fit X {list(shape)}")
    if 0 in W.shape or (B is not None and B.shape != (W.shape[0],)):
        raise Unlowerable("its weights are empty, or its bias does not fit")
    window = _window(layer, shape, kernel, pads)
    key = picture_key((shape[0], W.shape[0], *window.output))
    fields = _geometry(window, pads)
    x_key = picture_key(shape)
    halo = _halo(fields, x_key, key)
    x = b.need(flat, x_key, halo)
    act, first, second = activation_of(layer)
    depthwise = group == share * group == W.shape[0] and group > 1
    z = _residual(b, layer, key)
    sources = tuple(str(layer.inputs[name]) for name in ("W", "B") if name in layer.inputs)
    draft = b.make(
        layer,
        "depthwise" if depthwise else "conv",
        x,
        key,
        (shape[0], W.shape[0], *window.output),
        z=z,
        fields={**fields, "groups": group},
        act=act,
        a=first,
        b=second,
        W=Weights((sources[0],), _plain(W)),
        bias=None if B is None else Weights((sources[1],), _plain(B)),
    )
    _mind_types(b, draft, group)


def _whole(number: Any) -> int:
    return int(number)


def _window(layer: Layer, shape: tuple[int, ...], kernel: tuple[int, ...], pads: Any) -> Window:
    attrs: Any = layer.attrs
    rank = len(kernel)
    more = [pads[i] + pads[i + 2] for i in range(2)][2 - rank :]
    size = [d + extra for d, extra in zip(shape[2:], more, strict=True)]
    asked = attrs.get("kernel_shape")
    if asked is not None and tuple(asked) != tuple(kernel):
        raise Unlowerable("its kernel_shape is not that of W")
    try:
        return resolve_window(
            size,
            kernel,
            strides=attrs.get("strides"),
            dilations=attrs.get("dilations"),
            pads=attrs.get("pads"),
            auto_pad=attrs.get("auto_pad", "NOTSET"),
        )
    except ValueError as error:
        raise Unlowerable(str(error)) from error


def _geometry(window: Window, pads: tuple[int, int, int, int]) -> dict[str, int]:
    """The step's fields; one axis is the second of two."""
    two: tuple[int, ...] = (1,) * (2 - len(window.kernel))
    kh, kw = (*two, *window.kernel)
    sh, sw = (*two, *window.strides)
    dh, dw = (*two, *window.dilations)
    top, left = (*(0 for _ in two), *window.begins)
    names = ("kh", "kw", "sh", "sw", "dh", "dw", "top", "left")
    numbers = (kh, kw, sh, sw, dh, dw, top + pads[0], left + pads[1])
    return dict(zip(names, numbers, strict=True))


def _halo(fields: dict[str, int], x: Key, y: Key) -> tuple[int, int, int, int]:
    """How far the windows reach beyond the picture: top, left, bottom, right."""
    f = fields
    down = (y[1] - 1) * f["sh"] + (f["kh"] - 1) * f["dh"] - f["top"] - (x[1] - 1)
    across = (y[2] - 1) * f["sw"] + (f["kw"] - 1) * f["dw"] - f["left"] - (x[2] - 1)
    return (f["top"], f["left"], max(down, 0), max(across, 0))


def _residual(b: Builder, layer: Layer, key: Key) -> Ref | None:
    if "Z" not in layer.inputs:
        return None
    flat, shape = b.value(layer.inputs["Z"])
    if len(shape) not in (3, 4) or picture_key(shape) != key:
        raise Unlowerable(f"Z {list(shape)} has not the shape of the result")
    ref = b.need(flat, key)
    if b.type != "f32":
        if ref.buffer.exact:
            copy = b.whole(b.buffer(key))
            b.step("copy", f"arrange '{flat.name}'", ref, copy)
            ref = flat.forms[key] = copy
        ref.buffer.root()[0].imported = False
    return ref


def _mind_types(b: Builder, draft: Draft, group: int) -> None:
    """Pictures of few channels lie without gaps where a convolution reads them; and what cannot be
    done in bfloat16 (odd channels elsewhere, since products take pairs, and groups of odd sizes)
    stays float32."""
    root, _ = draft.x.buffer.root()
    if draft.kind == "conv" and group == 1 and root.imported and root.c < FEW:
        root.few = True
    if draft.kind == "conv" and b.type != "f32":
        in_pairs = root.few and root.c + 1 < FEW and draft.fields["dw"] == 1  # zeros complete them
        if draft.x.c // group % 2 and not in_pairs:
            root.single = True
        if group > 1 and draft.y.c // group % 16:
            for ref in filter(None, (draft.y, draft.z)):
                ref.buffer.root()[0].single = True


def _reason_gemm(layer: Layer, facts: Facts) -> str:
    if facts.constant(layer, "B") is None:
        return "its weights are computed"
    if "C" in layer.inputs and facts.constant(layer, "C") is None:
        return "its C is computed"
    if layer.attrs["transA"]:
        return "A is transposed"
    return "it works on weights alone" if facts.constant(layer, "A") else ""


def _gemm(b: Builder, layer: Layer) -> None:
    B, C = b.constant(layer, "B"), b.constant(layer, "C")
    alpha, beta = float(_real(layer.attrs["alpha"])), float(_real(layer.attrs["beta"]))
    turned = bool(layer.attrs["transB"])
    assert B is not None
    if len(B.shape) != 2:
        raise Unlowerable(f"B {list(B.shape)} is no matrix")
    M = B.shape[0 if turned else 1]
    draft = _product(b, layer, str(layer.inputs["A"]), B, turned, alpha)
    if C is None or beta == 0:
        return
    if C.size not in (1, M) or C.shape[-1:] not in ((), (1,), (M,)):
        raise Unlowerable(f"C {list(C.shape)} is not one row")
    key = (str(layer.inputs["C"]), beta, M)
    draft.bias = Weights(key, lambda: np.broadcast_to(C.aligned.reshape(-1) * beta, (M,)))


def _real(number: Any) -> float:
    return float(number)


def _product(
    b: Builder, layer: Layer, name: str, B: Tensor, turned: bool, alpha: float = 1.0
) -> Draft:
    """The step of alpha · A · B, B a weight [K, M], or [M, K] where it is turned."""
    flat, shape = b.value(name)
    M, K = B.shape if turned else B.shape[::-1]
    if not shape or shape[-1] != K or 0 in B.shape:
        raise Unlowerable(f"B {list(B.shape)} does not fit A {list(shape)}")
    key = rows_key(shape)
    x_key = _picture_behind(b, name, key)
    x, (_, h, w, _) = b.need(flat, x_key), x_key

    def load() -> Array:
        W = B.aligned if turned else B.aligned.T
        return np.ascontiguousarray(W if alpha == 1 else W * np.float32(alpha))

    draft = b.make(
        layer,
        "conv",
        x,
        (key[0], 1, 1, M),
        (*shape[:-1], M),
        fields={"kh": h, "kw": w},
        W=Weights((str(layer.inputs["B"]), turned, alpha), load),
    )
    if K % 2:
        x.buffer.root()[0].single = True
    return draft


def _picture_behind(b: Builder, name: str, key: Key) -> Key:
    """The picture of which each row of a matrix holds one image whole; the matrix where none is."""
    flat, _ = b.value(name)
    if key in flat.forms or flat.plain is not None:
        return key
    for n, h, w, c in flat.forms:
        if n == key[0] and h * w * c == key[3] and h * w <= 1024:
            return (n, h, w, c)
    return key


def _reason_mat_mul(layer: Layer, facts: Facts) -> str:
    B = facts.constant(layer, "B")
    if facts.constant(layer, "A"):
        return "its first factor is a weight"
    if B is not None and len(B.shape) != 2:
        return "its second factor is a weight, but no matrix"
    ranks = [facts.rank(layer.inputs[name]) for name in "AB"]
    return "a factor is a vector" if any(rank is not None and rank < 2 for rank in ranks) else ""


def _mat_mul(b: Builder, layer: Layer) -> None:
    B = b.constant(layer, "B")
    if B is not None:
        if len(b.shape(layer.inputs["A"])) < 2:
            raise Unlowerable("A is a vector")
        _product(b, layer, str(layer.inputs["A"]), B, turned=False)
        return
    (left, a), (right, z) = b.value(layer.inputs["A"]), b.value(layer.inputs["B"])
    if len(a) < 2 or len(z) < 2 or a[-1] != z[-2]:
        raise Unlowerable(f"A {list(a)} and B {list(z)} have no product")
    batch = math.prod(z[:-2])
    if batch != 1 and a[:-2] != z[:-2]:
        raise Unlowerable(f"the batches of A {list(a)} and B {list(z)} differ")
    if len(z) > len(a):
        raise Unlowerable("the second factor has more axes")
    x, other = b.need(left, rows_key(a)), b.need(right, rows_key(z))
    shape = (*a[:-1], z[-1])
    draft = b.make(layer, "matmul", _batched(x, batch), rows_key(shape), shape)
    draft.z, draft.y = _batched(other, batch), _batched(draft.y, batch)
    for ref in (draft.x, draft.y, draft.z):
        ref.buffer.root()[0].single = True


def _batched(ref: Ref, batch: int) -> Ref:
    return Ref(ref.buffer, ref.n, ref.h, ref.w, ref.c, batch=batch)


LOWER: dict[str, Callable[[Builder, Layer], None]] = {
    "Conv": _conv,
    "com.microsoft.FusedConv": _conv,
    "Gemm": _gemm,
    "MatMul": _mat_mul,
}

REASONS: dict[str, Callable[[Layer, Facts], str]] = {
    "Conv": _reason_conv,
    "com.microsoft.FusedConv": _reason_conv,
    "Gemm": _reason_gemm,
    "MatMul": _reason_mat_mul,
}
