"""Weights out of a file's bytes: what is left is the same model, and no bytes break the walk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import PLACES, model, nested, node, save, tensor, value
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array, to_array

from hubtool.errors import HubtoolError, ReadError, UnsupportedError
from hubtool.formats.onnx import wire
from hubtool.formats.onnx.read import read

RANDOM = np.random.default_rng(0)
BIG = RANDOM.standard_normal((20, 30)).astype(np.float32)
FIELDS = {"raw_data", "float_data", "double_data"}


def tensors(message: Any) -> Iterator[TensorProto]:
    """All tensors at or below a message, in the order of their fields."""
    if isinstance(message, TensorProto):
        yield message
    for field, inner in message.ListFields():
        if field.message_type is not None:
            for item in inner if isinstance(inner, Sequence) else [inner]:
                yield from tensors(item)


def taken_out(original: ModelProto) -> list[bytes]:
    """Asserts that `strip` leaves the original without its payloads, and gives those."""
    skeleton = wire.strip(memoryview(original.SerializeToString()), "it")
    left = ModelProto.FromString(skeleton.data)
    seen: list[bytes] = []
    for whole, part in zip(tensors(original), tensors(left), strict=True):
        if part.data_location == TensorProto.EXTERNAL:
            (entry,) = part.external_data
            payload = skeleton.payload(entry.value)
            assert payload is not None
            assert bytes(payload) == to_array(whole).tobytes()
            seen.append(bytes(payload))
            for field in FIELDS:
                whole.ClearField(field)
            part.ClearField("external_data")
            part.ClearField("data_location")
    assert left == original
    assert len(seen) == len(skeleton.payloads)
    return seen


def as_floats(array: np.ndarray, field: str, dtype: int, name: str = "W") -> TensorProto:
    proto = TensorProto(name=name, dims=array.shape, data_type=dtype)
    getattr(proto, field).extend(array.view(array.real.dtype).reshape(-1).tolist())
    return proto


@pytest.mark.parametrize(
    "weight",
    [
        from_array(BIG, "W"),
        from_array(BIG.astype(np.float16), "W"),
        from_array(np.arange(300), "W"),
        from_array(np.arange(2000) % 3 == 0, "W"),
        as_floats(BIG, "float_data", TensorProto.FLOAT),
        as_floats(BIG.astype(np.complex64), "float_data", TensorProto.COMPLEX64),
        as_floats(BIG.astype(np.float64), "double_data", TensorProto.DOUBLE),
        as_floats(BIG.astype(np.complex128), "double_data", TensorProto.COMPLEX128),
    ],
    ids=lambda weight: f"{TensorProto.DataType.Name(weight.data_type)}",
)
def test_a_large_payload_is_taken_out_and_nothing_else_changes(weight: TensorProto) -> None:
    assert len(taken_out(model([node("Identity", ["W"], ["Y"])], weights=[weight]))) == 1


@pytest.mark.parametrize("place", [p for p in PLACES if "sparse" not in p and "info" not in p])
def test_payloads_are_found_wherever_a_tensor_may_stand(place: str) -> None:
    assert set(taken_out(PLACES[place](from_array(BIG, "W")))) == {BIG.tobytes()}


@pytest.mark.parametrize("place", ["values of a sparse initializer", "values of a sparse Constant"])
def test_sparse_tensors_are_left_to_the_lifting(place: str) -> None:
    assert taken_out(PLACES[place](from_array(BIG.reshape(-1), "W"))) == []


@pytest.mark.parametrize(
    "weight",
    [
        from_array(BIG.reshape(-1)[:255], "W"),
        as_floats(np.arange(600), "int64_data", TensorProto.INT64),
        as_floats(np.arange(600, dtype=np.int32), "int32_data", TensorProto.INT32),
        helper.make_tensor("W", TensorProto.STRING, [2], [b"x" * 2000, b"y"]),
    ],
    ids=["small", "int64_data", "int32_data", "strings"],
)
def test_what_is_small_or_no_run_of_elements_stays_in(weight: TensorProto) -> None:
    assert taken_out(model([node("Identity", ["W"], ["Y"])], weights=[weight])) == []


def test_float_data_of_a_tensor_of_integers_is_not_taken_for_integers(tmp_path: Path) -> None:
    weight = as_floats(BIG, "float_data", TensorProto.FLOAT)
    weight.data_type = TensorProto.INT32
    proto = model([node("Identity", ["W"], ["Y"])], weights=[weight])
    assert taken_out(proto) == []
    with pytest.raises(ReadError, match="it holds 0 items, its shape and type ask for 600"):
        read(save(tmp_path / "m.onnx", proto), isolated=False)


def test_a_tensor_written_in_two_pieces_stays_whole() -> None:
    """protobuf joins the two; a reader that took one of them out would change the model."""
    first, second = tensor("W", [600], b"\1" * 2400), tensor("", [], b"\2" * 2400)
    attribute = message_of(first) + message_of(second)
    joined = ModelProto.FromString(in_constant(attribute)).graph.node[0].attribute[0].t
    assert joined.raw_data == b"\2" * 2400
    left = ModelProto.FromString(wire.strip(memoryview(in_constant(attribute)), "it").data)
    assert len(left.graph.node[0].attribute[0].t.external_data) == 2, "the binder refuses two"


def test_a_tensor_in_two_pieces_is_refused_not_misread(tmp_path: Path) -> None:
    first, second = tensor("W", [600], b"\1" * 2400), tensor("", [], b"\2" * 2400)
    first.data_type = second.data_type = TensorProto.FLOAT
    path = save(tmp_path / "m.onnx", in_constant(message_of(first) + message_of(second)))
    with pytest.raises(ReadError, match="a key twice"):
        read(path, isolated=False)


def message_of(proto: TensorProto) -> bytes:
    return wire.message(5, proto.SerializeToString())


def in_constant(value_of_t: bytes) -> bytes:
    """A model whose one Constant holds the given occurrences of the attribute's field t."""
    attribute = wire.message(1, b"value") + value_of_t + wire.tag(20, 0) + wire.varint(4)
    constant = wire.message(2, b"Y") + wire.message(4, b"Constant") + wire.message(5, attribute)
    output = wire.message(12, value("Y", None).SerializeToString())
    graph = wire.message(1, constant) + wire.message(2, b"g") + output
    opset = wire.message(8, wire.tag(2, 0) + wire.varint(28))
    return wire.tag(1, 0) + wire.varint(10) + wire.message(7, graph) + opset


def test_a_location_that_imitates_a_payload_is_a_file_name(tmp_path: Path) -> None:
    """The mark of a payload holds a secret of this one read."""
    hostile = TensorProto(name="V", dims=[2, 3], data_type=1, data_location=TensorProto.EXTERNAL)
    hostile.external_data.add(key="location", value="hubtool-0123456789abcdef/0")
    weights = [from_array(BIG, "W"), hostile]
    proto = model([node("Add", ["W", "V"], ["Y"])], weights=weights)
    with pytest.raises(ReadError, match="'hubtool-0123456789abcdef/0' is missing"):
        read(save(tmp_path / "m.onnx", proto), isolated=False)


def test_each_read_has_its_own_mark() -> None:
    assert wire.Skeleton().token != wire.Skeleton().token


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16383, 16384, 2**31, 2**63, 2**64 - 1])
def test_a_varint_is_read_as_it_was_written(number: int) -> None:
    field = wire.tag(3, wire.VARINT) + wire.varint(number)
    ((got, kind, start, body),) = wire.fields(memoryview(field))
    assert (got, kind, start) == (3, wire.VARINT, 0)
    assert wire.varint(number) == bytes(body)


def test_a_varint_may_be_longer_than_it_need_be() -> None:
    """0x80 0x80 … 0x00 says nothing more, but protobuf takes it."""
    padded = b"\x0a\x82\x80\x80\x00hi"
    ((number, kind, _, body),) = wire.fields(memoryview(padded))
    assert (number, kind, bytes(body)) == (1, wire.BYTES, b"hi")


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",
        b"\x08\x80",
        b"\x08" + b"\xff" * 10 + b"\x01",
        b"\x0a\x05hi",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01hi",
        b"\x0d\0\0\0",
        b"\x09\0\0\0\0\0\0\0",
        b"\x02\x00",
        b"\x00\x00",
        b"\x0b",
        b"\x0c",
        b"\x0e\x00",
        b"\x0f\x00",
    ],
    ids=[
        *("no value", "half a varint", "varint past 64 bits", "bytes cut off", "length of 2^64"),
        *("fixed32 cut off", "fixed64 cut off", "field 0 of bytes", "field 0"),
        *("group", "end of group", "wire type 6", "wire type 7"),
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(ReadError, match="damaged or no ONNX model"):
        wire.strip(memoryview(data), "'x.onnx'")


@pytest.mark.parametrize("padding", [0, 2000], ids=["small", "large"])
@pytest.mark.parametrize("depth", [34, 50, 1000])
def test_graphs_nested_too_deep_are_refused(tmp_path: Path, depth: int, padding: int) -> None:
    with pytest.raises(ReadError, match="nested"):
        read(save(tmp_path / "m.onnx", nested(depth, padding)), isolated=False)


@pytest.mark.parametrize("padding", [0, 2000], ids=["small", "large"])
def test_the_walk_goes_as_deep_as_protobuf_does(padding: int) -> None:
    data = nested(33, padding)
    skeleton = wire.strip(memoryview(data), "it")
    assert ModelProto.FromString(skeleton.data) == ModelProto.FromString(data)


def small() -> bytes:
    weights = [from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "W")]
    proto = model(
        [node("Add", ["X", "W"], ["a"], name="add"), node("LeakyRelu", ["a"], ["Y"], alpha=0.5)],
        weights=weights,
    )
    helper.set_model_props(proto, {"author": "nobody"})
    return proto.SerializeToString()


def test_a_file_cut_off_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    data = small()
    whole = read(save(tmp_path / "whole.onnx", data), isolated=False)
    needed = data.index(b"nobody") - len(b"\n\x06author\x12\x06") - 2  # metadata may be cut off
    for length in range(len(data)):
        path = save(tmp_path / "cut.onnx", data[:length])
        if length == needed or length == len(data):
            assert read(path, isolated=False).layers == whole.layers
        else:
            with pytest.raises((ReadError, UnsupportedError)):
                read(path, isolated=False)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_random_bytes_are_no_model(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises(ReadError):
        read(save(Path(folder, "m.onnx"), data), isolated=False)


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from(["initializer", "Constant", "initializer of a subgraph", "attribute"]),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_flipped_bits_never_give_anything_but_our_errors(
    flips: list[tuple[int, int]], place: str
) -> None:
    weight = tensor("W", [2, 3], BIG.tobytes()[:24])
    data = bytearray(PLACES[place](weight).SerializeToString())
    for position, bits in flips:
        data[position % len(data)] ^= bits
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder, "m.onnx"), bytes(data))
        try:
            graph = read(path, isolated=False)
        except HubtoolError as error:
            assert str(path) in str(error)
        else:
            assert graph.outputs
