"""How the elements of a weight lie in the safetensors file: its stored form.

Most element types are stored as themselves. The rest are stored as something that safetensors and
a reader in any language know: bool as bytes 0 and 1, 4- and 2-bit types packed into bytes, complex
numbers as pairs, text as UTF-8 with offsets. Bytes go out piece by piece, so that a weight is
never copied whole; they come in as views of the mapped file, and what must be unpacked is unpacked
when it is first asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from hubtool.dtypes import BITS, NUMBERS, numpy_dtype
from hubtool.errors import ReadError, WriteError
from hubtool.formats.safetensors import Part, Stored
from hubtool.graph import Tensor

__all__ = ["STORED", "offsets_key", "parts", "stored_shape", "text_parts", "texts", "unpack"]

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_THEMSELVES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "complex64": "F32",
    "complex128": "F64",
}

STORED = {name: _THEMSELVES.get(name, "U8") for name in NUMBERS}
"""The element type in the safetensors file that stands for each of ours."""

LARGEST = {"bool": 1, "float6_e2m3fn": 63, "float6_e3m2fn": 63}
"""Where not every byte is an element: the largest one that is."""

PIECE = 1 << 20
"""Elements that are written at a time; a multiple of 4, so that packed pieces end on a byte."""


def offsets_key(key: str) -> str:
    """The key that holds where each text of the string tensor `key` begins and ends."""
    return f"{key}/offsets"


def stored_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a weight has in the file; "string" has none of its own."""
    if dtype.startswith("complex"):
        return (*shape, 2)
    if BITS[dtype] in (2, 4):
        each = 8 // BITS[dtype]
        return ((math.prod(shape) + each - 1) // each,)
    return shape


def parts(key: str, tensor: Tensor) -> list[Part]:
    """What to write into the safetensors file for this weight."""
    if tensor.dtype == "string":
        return text_parts(key, _elements(key, tensor).flat)
    shape = stored_shape(tensor.dtype, tensor.shape)
    return [Part(key, STORED[tensor.dtype], shape, lambda: _pieces(key, tensor))]


def text_parts(key: str, texts: Iterable[Any]) -> list[Part]:
    """What to write for these texts; WriteError names the first one that is none."""
    encoded = [_utf8(key, text) for text in texts]
    joined = np.frombuffer(b"".join(encoded), np.uint8)
    offsets = np.cumsum([0, *map(len, encoded)], dtype="<i8").view(np.uint8)
    return [
        Part(key, "U8", (len(joined),), lambda: [joined.data]),
        Part(offsets_key(key), "I64", (len(encoded) + 1,), lambda: [offsets.data]),
    ]


def _utf8(key: str, text: Any) -> bytes:
    try:
        return str.encode(text)
    except (TypeError, UnicodeEncodeError):
        raise WriteError(f"tensor '{key}' holds {text!r:.80}, which is no Unicode text") from None


def _elements(key: str, tensor: Tensor) -> Array:
    array = np.asarray(tensor.array)
    expected = numpy_dtype(tensor.dtype)
    if array.shape != tensor.shape or array.dtype.newbyteorder("=") != expected:
        raise WriteError(
            f"tensor '{key}' is said to be {tensor}, but is {array.dtype}{list(array.shape)}"
        )
    return array


def _pieces(key: str, tensor: Tensor) -> Iterator[memoryview]:
    array = _elements(key, tensor)
    flat: Any = array.reshape(-1) if array.flags.c_contiguous else array.flat
    for start in range(0, array.size, PIECE):
        yield _pack(flat[start : start + PIECE], tensor.dtype).data


def _pack(piece: Array, dtype: str) -> Bytes:
    """The bytes that stand for these elements."""
    if piece.dtype.kind in "iufc":
        piece = piece.astype(piece.dtype.newbyteorder("<"), copy=False)
    raw: Bytes = piece.view(np.uint8)
    bits = BITS[dtype]
    if dtype == "bool":
        raw = (raw != 0).view(np.uint8)
    elif bits < 8:
        raw = raw & np.uint8(2**bits - 1)
    if bits in (2, 4):
        each = 8 // bits
        grouped = np.pad(raw, (0, -len(raw) % each)).reshape(-1, each)
        raw = np.bitwise_or.reduce(grouped << _shifts(bits), axis=1)
    return raw


def _shifts(bits: int) -> Bytes:
    """By how much the elements of one byte are shifted: the first one lies lowest."""
    return np.arange(0, 8, bits, dtype=np.uint8)


def unpack(dtype: str, shape: tuple[int, ...], what: str, found: Sequence[Stored]) -> Array:
    """The elements of a weight, from what the file holds for it (its offsets second): a view
    where stored and logical form are the same. Read-only."""
    data = found[0].data
    if dtype == "string":
        array: Array = np.fromiter(texts(what, found), object).reshape(shape)
    elif BITS[dtype] in (2, 4):
        bits = BITS[dtype]
        raw = (data[:, None] >> _shifts(bits)) & np.uint8(2**bits - 1)
        array = raw.reshape(-1)[: math.prod(shape)].view(numpy_dtype(dtype)).reshape(shape)
    else:
        if dtype in LARGEST and data.max(initial=0) > LARGEST[dtype]:
            raise ReadError(f"{what}: a byte above {LARGEST[dtype]} is no {dtype}")
        expected = numpy_dtype(dtype)
        little = expected.newbyteorder("<") if expected.kind in "iufc" else expected
        array = data.view(little).reshape(shape)
    array.flags.writeable = False
    return array


def texts(what: str, found: Sequence[Stored]) -> list[str]:
    """The texts that a U8 tensor and its offsets stand for."""
    data = found[0].data.tobytes()
    offsets = found[1].data.view("<i8")
    ends = offsets.tolist()
    if ends[:1] != [0] or ends[-1] != len(data) or np.any(offsets[1:] < offsets[:-1]):
        raise ReadError(f"{what}: its offsets do not divide {len(data):,} bytes")
    try:
        return [data[a:b].decode() for a, b in itertools.pairwise(ends)]
    except UnicodeDecodeError:
        raise ReadError(f"{what}: a text in it is not UTF-8") from None
