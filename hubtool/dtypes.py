"""Element types: their names, ONNX's numbers for them, numpy's types, and how many bits they take.

The names are numpy's and ml_dtypes' own ("float32", "bfloat16", "float8_e4m3fn", "int4"); "string"
stands for text. Everything in hubtool that needs a fact about an element type takes it from here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = [
    "BITS",
    "CARRIERS",
    "DTYPES",
    "NUMBERS",
    "TINY_FLOATS",
    "WIDER",
    "is_float",
    "is_weight",
    "numpy_dtype",
    "shortest",
]

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
    27: "float6_e2m3fn",
    28: "float6_e3m2fn",
}
"""ONNX's numbers for element types (TensorProto.DataType), as attributes such as Cast's `to` hold
them: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto"""

NUMBERS = {name: number for number, name in DTYPES.items()}

WIDER = {
    **{
        name: "float32"
        for name in DTYPES.values()
        if name.startswith(("float16", "bfloat", "float8_", "float6_", "float4_"))
    },
    **dict.fromkeys(("int2", "int4"), "int8"),
    **dict.fromkeys(("uint2", "uint4"), "uint8"),
}
"""The element types too narrow to compute with, and the one that each is widened to for it."""

CARRIERS = {
    "int2": "int8",
    "int4": "int8",
    "uint2": "uint8",
    "uint4": "uint8",
    "float4_e2m1fn": "float32",
    "float6_e2m3fn": "float32",
    "float6_e3m2fn": "float32",
}
"""The element types that array libraries have no arrays of, or none that can be relied on, and the
one that carries each between layers."""

TINY_FLOATS = {
    "float4_e2m1fn": (0, 1, 6.0),
    "float6_e2m3fn": (0, 3, 7.5),
    "float6_e3m2fn": (-2, 2, 28.0),
}
"""The floats among them: the lowest exponent of a normal number, the bits of the mantissa, and the
largest number."""

_WIDE = {"bool": 8, "complex64": 64, "complex128": 128, "bfloat16": 16}


def _bits(name: str) -> int:
    if name in _WIDE:
        return _WIDE[name]
    return int("".join(c if c.isdigit() else " " for c in name).split()[0])


BITS = {name: _bits(name) for name in NUMBERS if name != "string"}
"""The bits that one element takes where elements are packed as tightly as ONNX packs them."""


def is_float(name: str) -> bool:
    """Whether an element type is one of floating-point or complex numbers, as weights are."""
    return name.startswith(("float", "bfloat", "complex"))


def is_weight(name: str) -> bool:
    """Whether tensors of this element type count as parameters: floats, and the integers of few
    bits of a quantized model; shapes and axes are wider."""
    return is_float(name) or (name != "bool" and BITS.get(name, 64) <= 8)


def shortest(number: float) -> float:
    """The float of the shortest decimal that gives the same float32: 1e-05, not
    9.999999747378752e-06. A number beyond float32 becomes infinite."""
    with np.errstate(over="ignore"):
        single = np.float32(number)
    short = float(str(single))
    if math.isnan(short):
        return math.nan  # one object, so that lists and graphs that hold it are equal
    # 7.038531e-26 is a float32's shortest decimal, but rounds to its neighbour by way of float64.
    return short if np.float32(short) == single else float(single)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a name; ml_dtypes' for the small ones, object for strings.

    Raises ValueError for a name that is none of DTYPES.
    """
    if name not in NUMBERS:
        raise ValueError(f"unknown element type '{name}'")
    if name == "string":
        return np.dtype(object)
    if hasattr(np, name):
        return np.dtype(name)
    import ml_dtypes

    small: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return small
