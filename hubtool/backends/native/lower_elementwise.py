"""What works on each element: sums and products of two, activations, BatchNormalization.

An operand that broadcasts has a kernel where it is spread in one of these ways over x, seen as a
picture [n, c, h, w] or as a matrix [n, c]:

    same      its shape is x's
    channels  [1, c, 1, 1]    one row for all pixels      image   [n, c, 1, 1]   one an image
    pixels    [n, 1, h, w]    one number a pixel          number  one for all

An activation is done by the step that makes its input, where nobody else reads that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hubtool.backends.native import library
from hubtool.backends.native.lower_build import (
    Builder,
    Facts,
    Key,
    Ref,
    Unlowerable,
    Weights,
    picture_key,
    rows_key,
)
from hubtool.graph import Layer

__all__ = ["LOWER", "REASONS", "spread"]

Array = np.ndarray[Any, Any]
Shape = Sequence[Any]
Fused = tuple[str, float, float]

BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}
VARIADIC = {"Sum": "add", "Max": "max", "Min": "min"}

UNARY = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "HardSwish": "hard_swish",
    "Exp": "exp",
    "Sqrt": "sqrt",
    "Neg": "neg",
    "Abs": "abs",
    "Reciprocal": "reciprocal",
    "Softplus": "softplus",
    "Mish": "mish",
    "Erf": "erf",
    "com.microsoft.Gelu": "gelu",
}
WITH_NUMBERS = ("LeakyRelu", "Elu", "HardSigmoid", "Gelu", "Swish", "PRelu", "Clip")
LARGEST = 1 << 24
"""The most elements of a weight that is written out to the shape of what it meets."""


def spread(z: Shape, x: Shape, as_picture: bool) -> str | None:
    """How an operand of shape z is spread over x; None where no kernel does. Sizes may be symbols,
    which are equal where they have one name."""
    if len(z) > len(x) or None in (*z, *x):
        return None
    z = (*(1,) * (len(x) - len(z)), *z)
    if all(d == 1 for d in z):
        return "same" if all(d == 1 for d in x) else "number"
    if tuple(z) == tuple(x):
        return "same"
    if len(x) < 2:
        return None
    channel = 1 if as_picture else len(x) - 1
    others = [i for i in range(len(x)) if i != channel]
    has_channels = z[channel] == x[channel]
    if has_channels and all(z[i] == 1 for i in others):
        return "channels"
    if has_channels and as_picture and z[0] == x[0] and all(z[i] == 1 for i in others[1:]):
        return "image"
    if z[channel] == 1 and all(z[i] == x[i] for i in others):
        return "pixels"
    return None


def _operands(layer: Layer) -> list[str]:
    return [*layer.reads()]


def _reason_binary(layer: Layer, facts: Facts) -> str:
    names = _operands(layer)
    weights = [name for name in names if name in facts.graph.tensors]
    if len(weights) == len(names):
        return "it works on weights alone"
    if weights and len(names) > 2:
        return "a weight among more than two operands"
    shapes = [facts.shape(name) for name in names]
    known = [shape for shape in shapes if shape is not None and None not in shape]
    if len(known) < 2:
        return ""
    largest = max(known, key=lambda shape: (len(shape), _bulk(shape)))
    fitting = [
        any(spread(shape, largest, as_picture) for as_picture in (True, False))
        or (name in weights and _fits_into(shape, largest))
        for name, shape in zip(names, shapes, strict=True)
        if shape is not None and None not in shape
    ]
    return "" if all(fitting) else "no kernel for this broadcasting"


def _bulk(shape: Shape) -> tuple[int, int]:
    numbers = [d for d in shape if isinstance(d, int)]
    return (len(shape) - len(numbers) + sum(d > 1 for d in numbers), math.prod(numbers))


def _fits_into(z: Shape, x: Shape) -> bool:
    if len(z) > len(x):
        return False
    behind = x[len(x) - len(z) :]
    return all(d in (1, other) for d, other in zip(z, behind, strict=True))


def _binary(b: Builder, layer: Layer) -> None:
    op = {**BINARY, **VARIADIC}[layer.op]
    names = _operands(layer)
    if _is_silu(b, layer, names):
        return _unary(b, layer, _silu_source(b, names), ("silu", 0.0, 0.0), readers=2)
    if len(names) == 1:
        return b.alias(layer, *b.value(names[0]))
    first, *others = names
    for index, other in enumerate(others):
        if index < len(others) - 1:
            between = Layer(
                layer.name, layer.op, {"A": first, "B": other}, [f"{layer.name}:{index}"]
            )
            _two(b, between, op, first, other)
            first = between.outputs[0]
        else:
            _two(b, layer, op, first, other)
    return None


def _two(b: Builder, layer: Layer, op: str, left: str, right: str) -> None:
    """y = x op z, x being the operand of the result's shape."""
    a, z_shape = b.shape(left), b.shape(right)
    try:
        shape = np.broadcast_shapes(a, z_shape)
    except ValueError as error:
        raise Unlowerable(str(error)) from error
    if left in b.values and a == shape:
        x, z, flip = left, right, 0
    elif right in b.values and z_shape == shape:
        x, z, flip = right, left, 1
    else:
        raise Unlowerable("both operands broadcast")
    if op == "add" and _as_bias(b, layer, x, z):
        return
    first, how, second = _placed(b, x, z, shape)
    key = (first.n, first.h, first.w, first.c)
    fields = {
        "op": library.code("binaries", op),
        "spread": library.code("spreads", how),
        "flip": flip,
    }
    b.make(layer, "binary", first, key, shape, z=second, fields=fields)


def _placed(b: Builder, x: str, z: str, shape: tuple[int, ...]) -> tuple[Ref, str, Ref]:
    """The views of x and z in a form in which they meet, and how z is spread."""
    (flat, _), z_shape, computed = b.value(x), b.shape(z), z in b.values
    wished = b.wishes_picture(x) or (computed and z_shape == shape and b.wishes_picture(z))
    forms = [wished, not wished] if len(shape) in (3, 4) else [len(shape) == 2]
    for as_picture in forms:
        how = spread(z_shape, shape, as_picture)
        if how is not None:
            key = picture_key(shape) if as_picture else rows_key(shape)
            z_key = _spread_key(key, how)
            first = b.need(flat, key)
            if computed:
                return first, how, b.need(b.value(z)[0], z_key)
            return first, how, b.weights(b.graph.tensors[z].aligned, z_key)
    if computed or math.prod(shape) > LARGEST:
        raise Unlowerable(f"no kernel for broadcasting {list(z_shape)} over {list(shape)}")
    key = picture_key(shape) if forms[0] else rows_key(shape)
    array = np.broadcast_to(b.graph.tensors[z].aligned, shape)
    return b.need(flat, key), "same", b.weights(array, key)


def _spread_key(key: Key, how: str) -> Key:
    n, h, w, c = key
    keys = {
        "same": key,
        "channels": (1, 1, 1, c),
        "image": (n, 1, 1, c),
        "pixels": (n, h, w, 1),
        "number": (1, 1, 1, 1),
    }
    return keys[how]


def _as_bias(b: Builder, layer: Layer, x: str, z: str) -> bool:
    """Let a product of matrices add a row itself, where nobody else reads it and it can."""
    tensor = b.graph.tensors.get(z)
    draft = b.carrier(x)
    if tensor is None or z in b.values or draft is None or draft.bias is not None:
        return False
    _, shape = b.value(x)
    is_row = tensor.shape[-1:] == shape[-1:] and tensor.size == shape[-1]
    if draft.kind not in ("conv", "matmul") or not is_row:
        return False
    if rows_key(shape) != (draft.y.n, draft.y.h, draft.y.w, draft.y.c):
        return False
    draft.bias = Weights((z,), lambda: tensor.aligned.reshape(-1))
    b.rename(layer, x)
    return True


def _is_silu(b: Builder, layer: Layer, names: list[str]) -> bool:
    return layer.op == "Mul" and any(b.silu.get(name) in names for name in names)


def _silu_source(b: Builder, names: list[str]) -> str:
    return next(b.silu[name] for name in names if b.silu.get(name) in names)


def _unary(b: Builder, layer: Layer, name: str, fused: Fused, readers: int = 1) -> None:
    draft = b.carrier(name, readers)
    if draft is not None:
        draft.act, draft.a, draft.b = fused
        return b.rename(layer, name)
    flat, shape = b.value(name)
    key = picture_key(shape) if b.wishes_picture(name) else rows_key(shape)
    act, first, second = fused
    b.make(layer, "unary", b.need(flat, key), key, shape, act=act, a=first, b=second)
    return None


def _activation(b: Builder, layer: Layer) -> None:
    name, y = next(iter(layer.reads())), layer.outputs[0]
    if layer.op == "Sigmoid" and _feeds_its_product(b, name, y):
        b.silu[y] = name
        return
    _unary(b, layer, name, _fused(layer, b.facts))


def _feeds_its_product(b: Builder, x: str, y: str) -> bool:
    """Whether the one reader of y is x * y."""
    readers = b.users.get(y, [])
    alone = len(readers) == 1 and y not in b.graph.outputs and readers[0].op == "Mul"
    return alone and {*readers[0].reads()} == {x, y}


def _fused(layer: Layer, facts: Facts) -> Fused:
    """The engine's activation with its numbers; Unlowerable where there is none."""
    attrs: Any = layer.attrs
    if layer.op in UNARY:
        return (UNARY[layer.op], 0.0, 0.0)
    if layer.op == "LeakyRelu":
        return ("leaky_relu", float(attrs["alpha"]), 0.0)
    if layer.op == "Elu":
        return ("elu", float(attrs["alpha"]), 0.0)
    if layer.op == "HardSigmoid":
        return ("hard_sigmoid", float(attrs["alpha"]), float(attrs["beta"]))
    if layer.op == "Gelu" and attrs["approximate"] in ("none", "tanh"):
        return ("gelu" if attrs["approximate"] == "none" else "gelu_tanh", 0.0, 0.0)
    if layer.op == "Swish" and attrs["alpha"] == 1:
        return ("silu", 0.0, 0.0)
    if layer.op == "PRelu":
        return ("leaky_relu", _number(layer, facts, "slope", 0.0), 0.0)
    if layer.op == "Clip":
        low = _number(layer, facts, "min", -math.inf)
        return ("clip", low, _number(layer, facts, "max", math.inf))
    raise Unlowerable("no kernel for its attributes")


def _number(layer: Layer, facts: Facts, formal: str, absent: float) -> float:
    if formal not in layer.inputs:
        return absent
    tensor = facts.constant(layer, formal)
    if tensor is None or tensor.size != 1:
        raise Unlowerable(f"its {formal} is not one number")
    return float(tensor.array.reshape(()))


def _reason_unary(layer: Layer, facts: Facts) -> str:
    try:
        _fused(layer, facts)
    except Unlowerable as error:
        return str(error)
    return ""


NORM = ("scale", "B", "input_mean", "input_var")


def _reason_norm(layer: Layer, facts: Facts) -> str:
    if layer.attrs["training_mode"] or any(layer.outputs[1:]):
        return "it is training"
    if any(facts.constant(layer, formal) is None for formal in NORM):
        return "its weights are computed"
    rank = facts.rank(layer.inputs["X"])
    return "" if rank in (2, 3, 4) else "its input is no picture, as far as is known"


def _norm(b: Builder, layer: Layer) -> None:
    flat, shape = b.value(layer.inputs["X"])
    key = picture_key(shape)
    tensors = [b.constant(layer, formal) for formal in NORM]
    epsilon: Any = layer.attrs["epsilon"]
    scale, B, mean, variance = (tensor.aligned for tensor in tensors if tensor is not None)
    if any(each.shape != (shape[1],) for each in (scale, B, mean, variance)):
        raise Unlowerable(f"its weights do not fit X {list(shape)}")
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    shift = B - mean * factor
    names = (*(str(layer.inputs[formal]) for formal in NORM), float(epsilon))
    b.make(
        layer,
        "affine",
        b.need(flat, key),
        key,
        shape,
        W=Weights(("factor", *names), lambda: factor.astype(np.float32)),
        bias=Weights(("shift", *names), lambda: shift.astype(np.float32)),
    )


LOWER: dict[str, Callable[[Builder, Layer], None]] = {
    **dict.fromkeys((*BINARY, *VARIADIC), _binary),
    **dict.fromkeys((*UNARY, *WITH_NUMBERS), _activation),
    "BatchNormalization": _norm,
}

REASONS: dict[str, Callable[[Layer, Facts], str]] = {
    **dict.fromkeys((*BINARY, *VARIADIC), _reason_binary),
    **dict.fromkeys((*UNARY, *WITH_NUMBERS), _reason_unary),
    "BatchNormalization": _reason_norm,
}
