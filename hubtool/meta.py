"""Shapes without data: an array library whose arrays hold no elements.

The operators are written on the array API, so running a graph on this namespace gives the shape
and dtype of every value, and every clash of shapes, in milliseconds and without touching a weight:

    Program(graph, MetaSpace()).run({"data": MetaArray("float32", (8, 3, 224, 224))})

Shape arithmetic stays exact, for the interpreter does it in numpy on the host. Where a shape
depends on elements that are not there, the error says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from hubtool.dtypes import WIDER, numpy_dtype
from hubtool.errors import InputError
from hubtool.graph import Graph, Layer, Value
from hubtool.interpreter import Program
from hubtool.ops import load_ops, lookup

__all__ = ["MetaArray", "MetaSpace", "infer_shapes"]

Array = Any
Dims = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class MetaArray:
    """A dtype and a shape."""

    dtype: str
    shape: Dims

    device = "meta"
    __array_ufunc__ = None  # numpy leaves `array + meta` to us

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, key: Any) -> MetaArray:
        # One byte, seen as an array of this shape: numpy indexes it without taking memory.
        return MetaArray(self.dtype, np.broadcast_to(np.False_, self.shape)[key].shape)

    def _unknown(self, *_: Any) -> Any:
        raise ValueError(f"this depends on the elements of {self}, and only its shape is known")

    __array__ = __bool__ = __float__ = __index__ = __int__ = __iter__ = _unknown

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def _dims(value: Any) -> Dims:
    return value.shape if isinstance(value, MetaArray) else ()


def _broadcast(*shapes: Sequence[int]) -> Dims:
    dims: list[int] = []
    for sizes in zip_longest(*(tuple(shape)[::-1] for shape in shapes), fillvalue=1):
        others = {size for size in sizes if size != 1}
        if len(others) > 1:
            shown = " and ".join(str(list(shape)) for shape in shapes)
            raise ValueError(f"shapes {shown} do not broadcast")
        dims.append(others.pop() if others else 1)
    return tuple(dims[::-1])


def _promoted(*values: Any) -> str:
    """The dtype of a result; a Python number counts only where the arrays cannot hold its kind."""
    names = {value.dtype for value in values if isinstance(value, MetaArray)}
    dtype = names.pop() if len(names) == 1 else np.result_type(*map(numpy_dtype, names)).name
    if any(isinstance(v, float) for v in values) and dtype.startswith(("int", "uint", "bool")):
        return "float64"
    whole = any(isinstance(v, int) and not isinstance(v, bool) for v in values)
    return "int64" if whole and dtype == "bool" else dtype


def _elementwise(dtype: str | None = None) -> Callable[..., MetaArray]:
    """A function whose result has the operands' broadcast shape, and their dtype or the given."""

    def function(*values: Any, **_: Any) -> MetaArray:
        return MetaArray(dtype or _promoted(*values), _broadcast(*map(_dims, values)))

    return function


def _fold(dtype: str | None = None) -> Callable[..., MetaArray]:
    """A reduction."""

    def function(x: MetaArray, *, axis: Any = None, keepdims: bool = False, **_: Any) -> MetaArray:
        axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
        folded = {_axis(a, x.ndim) for a in axes}
        kept = (1 if i in folded else d for i, d in enumerate(x.shape))
        left = (d for i, d in enumerate(x.shape) if i not in folded)
        return MetaArray(dtype or x.dtype, tuple(kept if keepdims else left))

    return function


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is outside a rank of {rank}")
    return axis % rank


def _where(condition: Array, x: Array, y: Array) -> MetaArray:
    if not isinstance(x, MetaArray) and not isinstance(y, MetaArray):
        raise TypeError("where wants an array")
    return MetaArray(_promoted(x, y), _broadcast(*map(_dims, (condition, x, y))))


def _reshape(x: MetaArray, shape: Dims) -> MetaArray:
    known = math.prod(d for d in shape if d != -1)
    dims = tuple(x.size // max(known, 1) if d == -1 else d for d in shape)
    if math.prod(dims) != x.size:
        raise ValueError(f"shape {list(shape)} does not fit {list(x.shape)}")
    return MetaArray(x.dtype, dims)


def _concat(arrays: Sequence[MetaArray], *, axis: int = 0) -> MetaArray:
    first, *others = arrays
    axis = _axis(axis, first.ndim)
    for other in others:
        ranks = other.ndim == first.ndim
        if not ranks or any(
            a != b
            for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True))
            if i != axis
        ):
            shown = " and ".join(str(list(a.shape)) for a in (first, other))
            raise ValueError(f"shapes {shown} cannot be joined along axis {axis}")
    total = sum(a.shape[axis] for a in arrays)
    dims = (*first.shape[:axis], total, *first.shape[axis + 1 :])
    return MetaArray(_promoted(*arrays), dims)


def _stack(arrays: Sequence[MetaArray], *, axis: int = 0) -> MetaArray:
    return _concat([_expand_dims(a, axis=axis) for a in arrays], axis=axis)


def _expand_dims(x: MetaArray, *, axis: int) -> MetaArray:
    axis = _axis(axis, x.ndim + 1)
    return MetaArray(x.dtype, (*x.shape[:axis], 1, *x.shape[axis:]))


def _squeeze(x: MetaArray, axis: int | Dims) -> MetaArray:
    axes = {_axis(a, x.ndim) for a in ([axis] if isinstance(axis, int) else axis)}
    if any(x.shape[a] != 1 for a in axes):
        raise ValueError(f"axes {sorted(axes)} of {list(x.shape)} are not all of size 1")
    return MetaArray(x.dtype, tuple(d for i, d in enumerate(x.shape) if i not in axes))


def _permute_dims(x: MetaArray, axes: Dims) -> MetaArray:
    if sorted(axes) != list(range(x.ndim)):
        raise ValueError(f"{list(axes)} is no order of the axes of {list(x.shape)}")
    return MetaArray(x.dtype, tuple(x.shape[a] for a in axes))


def _broadcast_to(x: MetaArray, shape: Dims) -> MetaArray:
    if _broadcast(x.shape, shape) != tuple(shape):
        raise ValueError(f"{list(x.shape)} does not broadcast to {list(shape)}")
    return MetaArray(x.dtype, tuple(shape))


def _take(x: MetaArray, indices: MetaArray, *, axis: int) -> MetaArray:
    axis = _axis(axis, x.ndim)
    return MetaArray(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _take_along_axis(x: MetaArray, indices: MetaArray, *, axis: int) -> MetaArray:
    axis = _axis(axis, x.ndim)
    others = [d for i, d in enumerate(x.shape) if i != axis]
    dims = list(_broadcast(others, [d for i, d in enumerate(indices.shape) if i != axis]))
    dims.insert(axis, indices.shape[axis])
    return MetaArray(x.dtype, tuple(dims))


def _matmul(a: MetaArray, b: MetaArray) -> MetaArray:
    left = (1, *a.shape) if a.ndim == 1 else a.shape
    right = (*b.shape, 1) if b.ndim == 1 else b.shape
    if not a.ndim or not b.ndim or left[-1] != right[-2]:
        raise ValueError(f"{list(a.shape)} cannot be multiplied by {list(b.shape)}")
    rows = left[-2:-1] if a.ndim > 1 else ()
    columns = right[-1:] if b.ndim > 1 else ()
    dims = (*_broadcast(left[:-2], right[:-2]), *rows, *columns)
    return MetaArray(_promoted(a, b), dims)


def _running(
    x: MetaArray, *, axis: int, dtype: str | None = None, include_initial: bool = False
) -> MetaArray:
    axis = _axis(axis, x.ndim)
    dims = (*x.shape[:axis], x.shape[axis] + include_initial, *x.shape[axis + 1 :])
    return MetaArray(dtype or x.dtype, dims)


SAME = """abs acos acosh add asin asinh atan atanh bitwise_and bitwise_invert bitwise_left_shift
bitwise_or bitwise_right_shift bitwise_xor ceil clip copysign cos cosh erf exp expm1 flip floor
floor_divide log log1p log2 maximum minimum pow remainder round sign sin sinh sqrt tan tanh"""
BOOLEAN = "isfinite isinf isnan logical_and logical_not logical_or logical_xor"
BINARY = "add sub mul truediv floordiv mod pow and or xor lshift rshift"

FUNCTIONS: dict[str, Any] = {
    **dict.fromkeys(SAME.split(), _elementwise()),
    **dict.fromkeys(BOOLEAN.split(), _elementwise("bool")),
    **dict.fromkeys(("max", "mean", "min", "prod", "sum", "var"), _fold()),
    **dict.fromkeys(("argmax", "argmin"), _fold("int64")),
    **dict.fromkeys(("all", "any"), _fold("bool")),
    **dict.fromkeys(("cumulative_prod", "cumulative_sum"), _running),
    "argsort": lambda x, **_: MetaArray("int64", x.shape),
    "broadcast_to": _broadcast_to,
    "concat": _concat,
    "expand_dims": _expand_dims,
    "full": lambda shape, value, *, dtype, device: MetaArray(dtype, tuple(shape)),
    "matmul": _matmul,
    "nan": math.nan,
    "nonzero": lambda x: x._unknown(),
    "permute_dims": _permute_dims,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "stack": _stack,
    "take": _take,
    "take_along_axis": _take_along_axis,
    "tile": lambda x, times: MetaArray(
        x.dtype, tuple(d * n for d, n in zip(x.shape, times, strict=True))
    ),
    "where": _where,
}


class Namespace:
    """The array API, as far as the operators use it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return FUNCTIONS[name]
        except KeyError:
            raise AttributeError(f"there is no '{name}' on shapes without data yet") from None


for _name in BINARY.split():
    for _method in (f"__{_name}__", f"__r{_name}__"):
        setattr(MetaArray, _method, _elementwise())
for _name in ("neg", "invert", "abs", "pos"):
    setattr(MetaArray, f"__{_name}__", _elementwise())
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(MetaArray, f"__{_name}__", _elementwise("bool"))


class Told(Mapping[str, Callable[..., Any]]):
    """What operators themselves say of shapes, where they must see elements."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        op = lookup(name)
        if op is None or op.shape is None:
            raise KeyError(name)
        return op.shape

    def __iter__(self) -> Iterator[str]:
        return (name for name, op in load_ops().items() if op.shape is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class MetaSpace:
    """Shapes without data, as the interpreter sees an array library."""

    name = "meta"
    xp: Any = Namespace()
    holds_data = False
    wider: Mapping[str, str] = WIDER
    carriers: Mapping[str, str] = {}
    overrides: Mapping[str, Callable[..., Any]] = Told()

    def put(self, array: np.ndarray[Any, Any]) -> MetaArray:
        name = "string" if array.dtype.kind == "O" else array.dtype.name
        return MetaArray(name, tuple(array.shape))

    def get(self, value: Array) -> np.ndarray[Any, Any]:
        """Refused: there are no elements."""
        array: np.ndarray[Any, Any] = np.asarray(value)
        return array

    def dtype_of(self, value: Array) -> str:
        return str(value.dtype)

    def cast(self, value: Array, dtype: str) -> MetaArray:
        return MetaArray(dtype, tuple(value.shape))


def infer_shapes(graph: Graph, feeds: Mapping[str, Any]) -> dict[str, Value]:
    """What is known of every value that the layers make, for inputs of the given shapes.

    A feed is a MetaArray or a pair (dtype, shape); an array is taken as it is, for inputs whose
    elements make shapes. Raises InputError where an input is missing, RunError where shapes clash.

    Example: `infer_shapes(graph, {"data": ("float32", (8, 3, 224, 224))})["dense0_fwd"]`
    """
    missing = [name for name in graph.free_inputs if name not in feeds]
    if missing:
        raise InputError(
            "these inputs have no shape:",
            problems=[f"{name}: {graph.inputs[name]}" for name in missing],
            hint="Give each a dtype and a shape.",
        )
    values: dict[str, Value] = {}

    def watch(layer: Layer, results: Sequence[Any]) -> None:
        made = zip(layer.outputs, results, strict=False)
        values.update((name, _described(result)) for name, result in made if name)

    given = {k: MetaArray(*feed) if isinstance(feed, tuple) else feed for k, feed in feeds.items()}
    Program(graph, MetaSpace()).run(given, watch=watch)
    return values


def _described(result: Any) -> Value:
    if isinstance(result, list):
        inner = _described(result[0]) if result else Value("tensor", "", None)
        kind = "sequence" if inner.kind == "tensor" else f"sequence({inner.kind})"
        return Value(kind, inner.dtype, None)
    if isinstance(result, dict):
        key = "string" if isinstance(next(iter(result), ""), str) else "int64"
        return Value(f"map({key})", "float32", None)
    if result is None:
        return Value("optional", "", None)
    known = MetaSpace().put(result) if isinstance(result, np.ndarray) else result
    return Value("tensor", known.dtype, known.shape)
