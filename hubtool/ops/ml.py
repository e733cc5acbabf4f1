"""What stands before and behind a classical model: scaling, imputing, encoding, maps.

The operators of ai.onnx.ml that look at one feature at a time, as ONNX Runtime computes them; the
models themselves are in `ml_models` and `ml_trees`. A table from keys to values is a dict, built
once a call; what reads text or maps runs on the host. A map is a dict of plain numbers or text:
where only its values can tell a dtype, a Python float counts as float32 (ONNX has maps of both),
a number of numpy's as what it is.

Attributes are floats of 32 bits, also where X has more: 0.1 means float32(0.1).
(https://onnx.ai/onnx/operators/index.html#ai-onnx-ml)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hubtool.ops import op
from hubtool.ops.shape import guard_size, pad_axis

__all__ = ["singles"]

Array = Any
Labels = Sequence[int] | Sequence[str]


def singles(ctx: Any, values: Iterable[float], dtype: str = "float32") -> Array:
    """Attributes of 32 bits as an array of `dtype`."""
    return ctx.cast(ctx.put(np.asarray([*values], np.float32)), dtype)


def _dtype(ctx: Any, value: Array) -> str:
    """The dtype of a value that may be text on the host beside shapes without data."""
    return "string" if value.dtype == object else str(ctx.dtype(value))


def _floats(ctx: Any, X: Array) -> Array:
    """X itself where it is float64, else as float32."""
    return X if ctx.dtype(X) in ("float32", "float64") else ctx.cast(X, "float32")


def _extracted_shape(ctx: Any, X: Array, Y: Array) -> Array:
    count = math.prod(Y.shape)
    dims = (1, count) if len(X.shape) == 1 else (*X.shape[:-1], count)
    return ctx.empty(dims, _dtype(ctx, X))


@op("ai.onnx.ml.ArrayFeatureExtractor", moves=True, on_host=True, shape=_extracted_shape)
def array_feature_extractor(ctx: Any, X: Array, Y: Array) -> Array:
    """The named columns of X; a vector is one row."""
    if not X.ndim or not Y.size:
        raise ValueError("X has no columns" if not X.ndim else "Y names no column")
    if Y.min() < 0 or Y.max() >= X.shape[-1]:
        raise ValueError(f"Y names a column that X {list(X.shape)} has not")
    taken = np.take(X, Y.reshape(-1), axis=-1)
    return taken.reshape(1, -1) if X.ndim == 1 else taken


@op("ai.onnx.ml.Binarizer")
def binarizer(ctx: Any, X: Array, *, threshold: float = 0.0) -> Array:
    numbers = ctx.cast(X, "float64") if ctx.dtype(X).startswith("int") else X
    return ctx.cast(float(np.float32(threshold)) < numbers, ctx.dtype(X))


@op("ai.onnx.ml.Scaler", returns="float32")
def scaler(
    ctx: Any,
    X: Array,
    *,
    offset: list[float] | None = None,
    scale: list[float] | None = None,
) -> Array:
    """(X - offset) * scale, one of each for every column or for all."""
    X = _floats(ctx, X)
    shifts, factors = offset or [0.0], scale or [1.0]
    for name, values in (("offset", shifts), ("scale", factors)):
        _check_columns(X, name, values)
    dtype = ctx.dtype(X)
    return (X - singles(ctx, shifts, dtype)) * singles(ctx, factors, dtype)


def _check_columns(X: Array, name: str, values: Sequence[Any]) -> None:
    columns = X.shape[-1] if X.ndim else 0
    if len(values) not in (1, columns):
        raise ValueError(f"{name} has {len(values)} values; X has {columns} columns")


@op("ai.onnx.ml.Normalizer", returns="float32")
def normalizer(ctx: Any, X: Array, *, norm: str = "MAX") -> Array:
    """Each row over its largest element (not the largest magnitude), or its norm; a row where that
    is 0 stays."""
    xp, X = ctx.xp, ctx.cast(X, "float32")
    if norm == "MAX":
        size = xp.max(X, axis=-1, keepdims=True)
    elif norm == "L1":
        size = xp.sum(xp.abs(X), axis=-1, keepdims=True)
    elif norm == "L2":
        # The root of the quotient, not the quotient of the roots: so ONNX Runtime rounds it.
        total = xp.sum(X * X, axis=-1, keepdims=True)
        root = xp.sqrt(X * X / xp.where(total == 0, 1.0, total))
        return xp.where(total == 0, X, xp.where(X < 0, -root, root))
    else:
        raise ValueError(f"norm is '{norm}', not MAX, L1 or L2")
    return X / xp.where(size == 0, 1.0, size)


@op("ai.onnx.ml.Imputer")
def imputer(
    ctx: Any,
    X: Array,
    *,
    imputed_value_floats: list[float] | None = None,
    imputed_value_int64s: list[int] | None = None,
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Array:
    """Replace one value, or NaN, by another one for each column or one for all."""
    xp, dtype = ctx.xp, ctx.dtype(X)
    whole = dtype.startswith("int")
    values = imputed_value_int64s if whole else imputed_value_floats
    if not values:
        name = "imputed_value_int64s" if whole else "imputed_value_floats"
        raise ValueError(f"{name} is missing, and X is {dtype}")
    _check_columns(X, "imputed_value", values)
    if whole:
        new = ctx.cast(ctx.put(np.asarray(values, np.int64)), dtype)
        return xp.where(replaced_value_int64 == X, new, X)
    old = float(np.float32(replaced_value_float))
    missing = xp.isnan(X) if math.isnan(old) else old == X
    return xp.where(missing, singles(ctx, values, dtype), X)


@op("ai.onnx.ml.FeatureVectorizer", returns="float32")
def feature_vectorizer(ctx: Any, *X: Array, inputdimensions: list[int] | None = None) -> Array:
    """The inputs side by side, each cut or filled with zeros to its number of columns."""
    rows = [1 if x.ndim == 1 else x.shape[0] for x in X]
    flat = [
        ctx.xp.reshape(ctx.cast(x, "float32"), (n, math.prod(x.shape[min(x.ndim - 1, 1) :])))
        for x, n in zip(X, rows, strict=True)
    ]
    columns = [x.shape[1] for x in flat] if inputdimensions is None else inputdimensions
    if len(columns) != len(X):
        raise ValueError(f"inputdimensions has {len(columns)} sizes for {len(X)} inputs")
    widened = [
        pad_axis(ctx, x, 1, 0, max(size, 0) - x.shape[1])
        for x, size in zip(flat, columns, strict=True)
    ]
    return ctx.xp.concat(widened, axis=1)


def _encoded_shape(ctx: Any, X: Array, **attrs: Any) -> Array:
    return ctx.empty(X.shape, str(_values_and_default(attrs)[2]))


@op("ai.onnx.ml.LabelEncoder", returns="", on_host=True, shape=_encoded_shape)
def label_encoder(
    ctx: Any,
    X: Array,
    *,
    default_float: float = -0.0,
    default_int64: int = -1,
    default_string: str = "_Unused",
    default_tensor: Array = None,
    keys_floats: list[float] | None = None,
    keys_int64s: list[int] | None = None,
    keys_strings: list[str] | None = None,
    keys_tensor: Array = None,
    values_floats: list[float] | None = None,
    values_int64s: list[int] | None = None,
    values_strings: list[str] | None = None,
    values_tensor: Array = None,
) -> Array:
    """The value of each key; the first of equal keys counts, and NaN is a key like any other."""
    values, default, dtype = _values_and_default(
        {
            "default_float": default_float,
            "default_int64": default_int64,
            "default_string": default_string,
            "default_tensor": default_tensor,
            "values_floats": values_floats,
            "values_int64s": values_int64s,
            "values_strings": values_strings,
            "values_tensor": values_tensor,
        }
    )
    if keys_floats is not None:
        keys_floats = np.asarray(keys_floats, np.float32).tolist()
    keys: Any = _given(keys_strings, keys_int64s, keys_floats)
    if keys is None and keys_tensor is not None:
        keys = keys_tensor.reshape(-1).tolist()
    if keys is None or len(keys) != len(values):
        raise ValueError("there are not as many keys as values")
    table = {_key(key): value for key, value in zip(keys[::-1], values[::-1], strict=True)}
    return _looked_up(X, table, default, dtype)


def _values_and_default(attrs: Mapping[str, Any]) -> tuple[list[Any], Any, str]:
    """LabelEncoder's values, what stands for an unknown key, and the dtype of both."""
    values = _given(*(attrs.get(f"values_{kind}") for kind in ("strings", "int64s", "floats")))
    tensor, default = attrs.get("values_tensor"), attrs.get("default_tensor")
    if values is None:
        if tensor is None:
            raise ValueError("there are no values")
        dtype = "string" if tensor.dtype.kind in "OU" else tensor.dtype.name
        values = tensor.reshape(-1).tolist()
    else:
        kinds = {str: "string", int: "int64"}
        dtype = kinds.get(type(values[0]), "float32")
    if default is not None:
        return values, default.reshape(-1).tolist()[0], dtype
    kind = "string" if dtype == "string" else "int64" if "int" in dtype else "float"
    return values, attrs[f"default_{kind}"], dtype


def _given(*lists: list[Any] | None) -> list[Any] | None:
    """The attribute that was given, of those of which only one may be."""
    return next((values for values in lists if values), None)


def _key(value: Any) -> Any:
    """A key for a dict, where NaN must equal itself."""
    return value if value == value else "nan"


def _looked_up(X: Array, table: Mapping[Any, Any], default: Any, dtype: str) -> Array:
    found = [table.get(_key(key), default) for key in X.reshape(-1).tolist()]
    return np.asarray(found, object if dtype == "string" else dtype).reshape(X.shape)


def _mapped_shape(ctx: Any, X: Array, **_: Any) -> Array:
    return ctx.empty(X.shape, "int64" if _dtype(ctx, X) == "string" else "string")


@op("ai.onnx.ml.CategoryMapper", returns="", on_host=True, shape=_mapped_shape)
def category_mapper(
    ctx: Any,
    X: Array,
    *,
    cats_int64s: list[int] | None = None,
    cats_strings: list[str] | None = None,
    default_int64: int = -1,
    default_string: str = "_Unused",
) -> Array:
    """Text to numbers, or numbers to text, by two lists of equal length."""
    numbers, texts = cats_int64s or [], cats_strings or []
    if len(numbers) != len(texts):
        raise ValueError(f"there are {len(numbers)} cats_int64s and {len(texts)} cats_strings")
    if X.dtype == object:
        return _looked_up(X, dict(zip(texts, numbers, strict=True)), default_int64, "int64")
    return _looked_up(X, dict(zip(numbers, texts, strict=True)), default_string, "string")


def _one_hot_shape(
    ctx: Any, X: Array, *, cats_int64s: Any = None, cats_strings: Any = None, zeros: int = 1
) -> Array:
    return ctx.empty((*X.shape, len(cats_int64s or cats_strings or [])), "float32")


@op("ai.onnx.ml.OneHotEncoder", returns="float32", on_host=True, shape=_one_hot_shape)
def one_hot_encoder(
    ctx: Any,
    X: Array,
    *,
    cats_int64s: list[int] | None = None,
    cats_strings: list[str] | None = None,
    zeros: int = 1,
) -> Array:
    """A further axis of zeros, with a 1 at X's category; numbers are cut to whole ones."""
    cats: Any = cats_int64s or cats_strings
    if not cats or bool(cats_strings) != (X.dtype == object):
        wanted = "cats_strings" if X.dtype == object else "cats_int64s"
        raise ValueError(f"{wanted} are missing, which X {ctx.dtype(X)} asks for")
    guard_size((*X.shape, len(cats)), "float32")
    keys = X if cats_strings else X.astype(np.int64)
    places = _looked_up(keys, {cat: place for place, cat in enumerate(cats)}, -1, "int64")
    if not zeros and (places < 0).any():
        raise ValueError("X holds a category that is unknown, and zeros is 0")
    return (places[..., None] == np.arange(len(cats))).astype(np.float32)


def _zipped_shape(ctx: Any, X: Array, **labels: Any) -> list[dict[Any, float]]:
    rows = X.shape[0] if len(X.shape) > 1 else 1
    return [dict.fromkeys(_keys_of(X, **labels), 0.0)] * rows


@op("ai.onnx.ml.ZipMap", returns="", on_host=True, shape=_zipped_shape)
def zip_map(
    ctx: Any,
    X: Array,
    *,
    classlabels_int64s: list[int] | None = None,
    classlabels_strings: list[str] | None = None,
) -> list[dict[Any, float]]:
    """Each row as a map from class to number."""
    keys = _keys_of(X, classlabels_int64s, classlabels_strings)
    return [dict(zip(keys, row, strict=True)) for row in X.reshape(-1, len(keys)).tolist()]


def _keys_of(
    X: Array,
    classlabels_int64s: list[int] | None = None,
    classlabels_strings: list[str] | None = None,
) -> Labels:
    if bool(classlabels_int64s) == bool(classlabels_strings):
        raise ValueError("either classlabels_int64s or classlabels_strings must be given")
    keys: Labels = classlabels_int64s or classlabels_strings or []
    if not 1 <= len(X.shape) <= 2 or X.shape[-1] != len(keys):
        raise ValueError(f"X {list(X.shape)} has not {len(keys)} columns, one for each class")
    return keys


def _vectorized_shape(ctx: Any, X: Mapping[Any, Any], **vocabularies: Any) -> Array:
    vocabulary = _given(*vocabularies.values()) or []
    return ctx.empty((1, len(vocabulary)), _dtype_in(X))


@op("ai.onnx.ml.DictVectorizer", returns="", on_host=True, shape=_vectorized_shape)
def dict_vectorizer(
    ctx: Any,
    X: Mapping[Any, Any],
    *,
    int64_vocabulary: list[int] | None = None,
    string_vocabulary: list[str] | None = None,
) -> Array:
    """What the map holds for each word of the vocabulary, in its order; 0 where it has none."""
    if bool(int64_vocabulary) == bool(string_vocabulary):
        raise ValueError("either int64_vocabulary or string_vocabulary must be given")
    dtype = _dtype_in(X)
    nothing: Any = "" if dtype == "string" else 0
    found = [X.get(key, nothing) for key in int64_vocabulary or string_vocabulary or []]
    return np.asarray([found], object if dtype == "string" else dtype)


def _dtype_in(X: Mapping[Any, Any]) -> str:
    """The dtype of a map's values; float32 where it is empty."""
    value: Any = next(iter(X.values()), 0.0)
    if isinstance(value, np.generic):
        return str(value.dtype.name)
    return {str: "string", int: "int64"}.get(type(value), "float32")


CASTS: dict[str, tuple[str, Any]] = {
    "TO_FLOAT": ("float32", 0.0),
    "TO_INT64": ("int64", 0),
    "TO_STRING": ("string", "0.f"),
}
"""The dtype that CastMap makes, and what stands for an absent key."""


def _cast_shape(
    ctx: Any, X: Mapping[int, Any], *, cast_to: str, map_form: str, max_map: int
) -> Array:
    return ctx.empty((1, len(X) if map_form == "DENSE" else max_map), CASTS[cast_to][0])


@op("ai.onnx.ml.CastMap", returns="", on_host=True, shape=_cast_shape)
def cast_map(
    ctx: Any,
    X: Mapping[int, Any],
    *,
    cast_to: str = "TO_FLOAT",
    map_form: str = "DENSE",
    max_map: int = 1,
) -> Array:
    """The map's values in the order of their keys (DENSE), or each at the place that its key names
    (SPARSE), where keys beyond max_map are left out."""
    if cast_to not in CASTS or map_form not in ("DENSE", "SPARSE"):
        raise ValueError(f"cast_to {cast_to} with map_form {map_form} is unknown")
    if map_form == "SPARSE" and (max_map < 1 or min(X, default=0) < 0):
        raise ValueError(f"max_map is {max_map}, and keys must not be negative")
    dtype, absent = CASTS[cast_to]
    guard_size((max_map,), dtype)
    values = {key: _cast(value, cast_to) for key, value in X.items()}
    keys: Iterable[int] = sorted(values) if map_form == "DENSE" else range(max_map)
    row = [values.get(key, absent) for key in keys]
    return np.asarray([row], object if dtype == "string" else dtype)


def _cast(value: Any, cast_to: str) -> Any:
    if cast_to == "TO_FLOAT":
        return float(value)
    if cast_to == "TO_INT64":
        return int(value)
    return value if isinstance(value, str) else f"{np.float32(value):f}"
