"""The bytes of an ONNX file, without a protobuf parser: weights out, weights in.

Nearly all of a model's bytes are weights, and they lie in the file just as numpy wants them. So
`strip` walks over the file (memory-mapped), leaves each large payload where it is, and gives back
the rest: a small, valid ModelProto, the *skeleton*, whose tensors point to the payloads as if they
were external data. Everything that parses, checks or converts sees the skeleton only.

    TensorProto{dims, data_type, name, raw_data: 400 MB}
        ──▶ TensorProto{dims, data_type, name, external_data: [location: "<token>/17"]}, payload 17

A message is a run of fields, each a tag (number << 3 | wire type) and a value; wire type 0 is a
varint, 1 and 5 are 8 and 4 bytes, 2 is a length and so many bytes, and the only one that nests
(https://protobuf.dev/programming-guides/encoding/). Field numbers are those of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from hubtool.errors import ReadError

__all__ = ["LARGE", "Skeleton", "message", "strip", "tag", "varint"]

LARGE = 1024
"""Payloads of so many bytes or more are taken out. Smaller ones may be shapes, which the lifting
and the shape inference want to see."""

DEEPEST = 100
"""Messages nested deeper than this are refused: protobuf's own parser stops there too."""

MOST_FIELDS = 10_000
"""A tensor of more fields holds its elements one by one, and protobuf reads those faster."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# Which fields of a message may hold a TensorProto further down, and what message they are. Sparse
# tensors are not among them: the lifting makes them dense and needs their elements for it.
NESTED = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
# NodeProto's field, and the domain whose nodes are left whole: tensors are what tells the shape of
# their trees, and the lifting needs to see them.
DOMAIN, WHOLE = 7, b"ai.onnx.ml"
# TensorProto's fields.
DATA_TYPE, SEGMENT, EXTERNAL_DATA, DATA_LOCATION = 2, 3, 13, 14
FLOAT_DATA, RAW_DATA, DOUBLE_DATA = 4, 9, 10
DATA_FIELDS = {FLOAT_DATA, 5, 6, 7, RAW_DATA, DOUBLE_DATA, 11}
# The fields that are little-endian elements one after the other, and the element types that may
# use them: float and complex64, double and complex128, any.
PAYLOADS = {FLOAT_DATA: {1, 14}, DOUBLE_DATA: {11, 15}, RAW_DATA: set(range(1, 64))}


@dataclass
class Skeleton:
    """A model without its large payloads.

    data: a serialized ModelProto. payloads: what was taken out, views of the file. token: the
    secret of this one read that marks a location as a payload's number, so that no file can
    pretend to hold such a mark.
    """

    data: bytes = b""
    payloads: list[memoryview] = field(default_factory=list)
    token: str = field(default_factory=lambda: f"hubtool-{secrets.token_hex(8)}")

    def payload(self, location: str) -> memoryview | None:
        """The payload that a location marks, or None where it is a real file's name."""
        token, _, number = location.partition("/")
        return self.payloads[int(number)] if token == self.token else None


def strip(data: memoryview, label: str) -> Skeleton:
    """Take the large payloads out of a serialized ModelProto; `label` names it in errors.

    Raises ReadError where the bytes are no protobuf message or end too early.
    """
    skeleton = Skeleton()
    try:
        chunks = _strip_message(data, "model", skeleton, 0)
    except ValueError as error:
        raise ReadError(
            f"{label} is damaged or no ONNX model: {error}",
            hint="Compare its size and sha256 with the publisher's and download it again.",
        ) from None
    skeleton.data = b"".join(chunks)
    return skeleton


def _strip_message(data: memoryview, kind: str, skeleton: Skeleton, depth: int) -> list[memoryview]:
    """The message's bytes, as chunks, without its large payloads."""
    if depth > DEEPEST:
        raise ValueError(f"its graphs are nested more than {DEEPEST} messages deep")
    if kind == "tensor":
        return _strip_tensor(data, skeleton)
    if kind == "node" and any(n == DOMAIN and body == WHOLE for n, _, _, body in fields(data)):
        return [data]
    nested = NESTED[kind]
    chunks: list[memoryview] = []
    kept_from = 0
    for number, wire, start, body in fields(data):
        if wire != BYTES or number not in nested or len(body) < LARGE:
            continue
        inner = _strip_message(body, nested[number], skeleton, depth + 1)
        end = start + _header_size(data, start) + len(body)
        if sum(map(len, inner)) != len(body):
            length = sum(map(len, inner))
            header = memoryview(tag(number, BYTES) + varint(length))
            chunks += [data[kept_from:start], header, *inner]
            kept_from = end
    return [*chunks, data[kept_from:]]


def _strip_tensor(data: memoryview, skeleton: Skeleton) -> list[memoryview]:
    found = list(islice(fields(data), MOST_FIELDS))
    payloads = [(start, body) for number, _, start, body in found if number in DATA_FIELDS]
    data_type = 0
    for number, wire, _, body in found:
        if number == DATA_TYPE and wire == VARINT:
            data_type, _ = _read_varint(body, 0)
    large = [
        (start, body)
        for number, wire, start, body in found
        if wire == BYTES and len(body) >= LARGE and data_type in PAYLOADS.get(number, ())
    ]
    plain = not any(number in (EXTERNAL_DATA, DATA_LOCATION, SEGMENT) for number, *_ in found)
    if len(large) != 1 or len(payloads) != 1 or not plain or len(found) == MOST_FIELDS:
        return [data]
    ((start, body),) = large
    location = f"{skeleton.token}/{len(skeleton.payloads)}".encode()
    skeleton.payloads.append(body)
    entry = message(1, b"location") + message(2, location)
    mark = message(EXTERNAL_DATA, entry) + tag(DATA_LOCATION, VARINT) + varint(1)
    end = start + _header_size(data, start) + len(body)
    return [data[:start], data[end:], memoryview(mark)]


def fields(data: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """Each field as (number, wire type, where it starts, its bytes). ValueError where it ends
    too early or is no field at all."""
    position, size = 0, len(data)
    while position < size:
        start = position
        key, position = _read_varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            _, after = _read_varint(data, position)
        elif wire == BYTES:
            length, position = _read_varint(data, position)
            after = position + length
        elif wire in (FIXED32, FIXED64):
            after = position + (4 if wire == FIXED32 else 8)
        else:
            raise ValueError(f"byte {start} of a message is no field")
        if number == 0 or after > size:
            raise ValueError("it is cut off" if after > size else f"byte {start} is no field")
        yield number, wire, start, data[position:after]
        position = after


def _header_size(data: memoryview, start: int) -> int:
    """The bytes that tag and length of a length-delimited field take."""
    _, position = _read_varint(data, start)
    _, position = _read_varint(data, position)
    return position - start


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while shift < 70:
        if position >= len(data):
            raise ValueError("it is cut off")
        byte = data[position]
        position += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, position
        shift += 7
    raise ValueError("a number is longer than 64 bits")


def varint(value: int) -> bytes:
    """A number, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire: int) -> bytes:
    """What stands before a field's value."""
    return varint(number << 3 | wire)


def message(number: int, body: bytes) -> bytes:
    """A length-delimited field."""
    return tag(number, BYTES) + varint(len(body)) + body
