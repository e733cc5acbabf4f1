"""Single operators on text, maps and classical models: in ONNX Runtime and on every library.

`agree` is the law that all of them keep: what hubtool makes on numpy, on torch and (where the
dtypes are known there) on array_api_strict is what ONNX Runtime makes, and the shapes without data
are those of the data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from ops.conftest import KNOWN, SPACES, alone

from hubtool.dtypes import NUMBERS
from hubtool.meta import MetaSpace

OPSETS = {"": 22, "ai.onnx.ml": 5, "com.microsoft": 1}


def texts(*words: Any) -> np.ndarray:
    """Words, or lists of words, as an array."""
    return np.array(words, object)


def dtype_of(value: Any) -> str:
    return "string" if value.dtype == object else value.dtype.name


def type_of(value: Any) -> onnx.TypeProto:
    """The ONNX type of an array or a map."""
    if not isinstance(value, dict):
        return helper.make_tensor_type_proto(NUMBERS[dtype_of(value)], value.shape)
    ((key, item), *_) = value.items()
    kinds = {str: "string", int: "int64", float: "float32", np.float64: "float64"}
    inner = helper.make_tensor_type_proto(NUMBERS[kinds[type(item)]], None)
    return helper.make_map_type_proto(NUMBERS[kinds[type(key)]], inner)


def model_of(
    op: str, inputs: list[Any], attrs: dict[str, Any], outputs: dict[str, str], **opsets: int
) -> onnx.ModelProto:
    """A model of one node. Attributes that are arrays become tensors; of an output without a
    dtype nothing is said."""
    domain, _, name = op.rpartition(".")
    given = {
        key: onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for key, value in attrs.items()
    }
    names = [f"in{i}" for i in range(len(inputs))]
    node = helper.make_node(name, names, list(outputs), name, domain=domain, **given)
    graph = helper.make_graph(
        [node],
        "single",
        [
            onnx.ValueInfoProto(name=name, type=type_of(value))
            for name, value in zip(names, inputs, strict=True)
        ],
        [
            helper.make_tensor_value_info(name, NUMBERS[dtype], None)
            if dtype
            else onnx.ValueInfoProto(name=name)
            for name, dtype in outputs.items()
        ],
    )
    imports = [helper.make_opsetid(k, v) for k, v in {**OPSETS, **opsets}.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def in_onnxruntime(model: onnx.ModelProto, inputs: list[Any]) -> list[Any]:
    """What ONNX Runtime makes of it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {f"in{i}": value for i, value in enumerate(inputs)})


def same(made: Any, wanted: Any, rtol: float = 1e-5, atol: float = 2e-6) -> None:
    """AssertionError unless two values are of one kind, dtype and shape, and agree."""
    if not isinstance(wanted, np.ndarray):
        assert made == wanted
        return
    assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
    if wanted.dtype.kind in "Oib":
        assert made.tolist() == wanted.tolist()
    else:
        np.testing.assert_allclose(made, wanted, rtol=rtol, atol=atol)


def on(space: Any, value: Any) -> Any:
    """A value on a space: what is text or a map stays on the host."""
    if isinstance(value, list):
        return [on(space, item) for item in value]
    at_hand = isinstance(value, dict) or value.dtype == object
    return value if at_hand and not isinstance(space, MetaSpace) else put(space, value)


def put(space: Any, value: Any) -> Any:
    return value if isinstance(value, dict) else space.put(value)


def agree(
    op: str,
    inputs: dict[str, Any],
    attrs: dict[str, Any],
    outputs: dict[str, str],
    *,
    shapes: bool = True,
    rtol: float = 1e-5,
) -> None:
    """ONNX Runtime and every library make the same of it."""
    flat = [y for x in inputs.values() for y in (x if isinstance(x, list) else [x])]
    wanted = in_onnxruntime(model_of(op, flat, attrs, outputs), flat)
    agree_with(wanted, op, inputs, attrs, shapes=shapes, rtol=rtol)


def agree_with(
    wanted: list[Any],
    op: str,
    inputs: dict[str, Any],
    attrs: dict[str, Any],
    *,
    shapes: bool = True,
    rtol: float = 1e-5,
) -> None:
    """Every library makes what is wanted, and the shapes without data are its shapes."""
    flat = [y for x in inputs.values() for y in (x if isinstance(x, list) else [x])]
    dtypes = {dtype_of(x) for x in flat if isinstance(x, np.ndarray)} - {"string"}
    for label, space in SPACES.items():
        if label == "numpy" or dtypes <= KNOWN[label]:
            made = alone(
                op, {k: on(space, x) for k, x in inputs.items()}, attrs, len(wanted), space
            )
            for value, expected in zip(made, wanted, strict=True):
                at_hand = isinstance(value, np.ndarray | dict | list)
                same(value if at_hand else space.get(value), expected, rtol)
    if shapes:
        space = MetaSpace()
        made = alone(op, {k: on(space, x) for k, x in inputs.items()}, attrs, len(wanted), space)
        assert [*map(described, made)] == [*map(described, wanted)]


def described(value: Any) -> Any:
    """What a value looks like: dtype and shape, or the keys of its maps."""
    if isinstance(value, list):
        return [{*item} for item in value]
    return (str(value.dtype) if value.dtype != object else "string", tuple(value.shape))
