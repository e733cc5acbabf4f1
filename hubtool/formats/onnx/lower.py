"""The lowest opset that can say a graph: so that what we write opens in old runtimes too.

A layer stands at the pinned opset. Older versions of its operator are tried one after the other,
the newest first, as long as they can say the same: they have room for the inputs, outputs and
attributes that are used, allow their dtypes, and mean the same. That they have room is read from
onnx's schemas; that they mean the same cannot be, and `meaning_since` holds what the changelog
(https://onnx.ai/onnx/operators/) tells. Re-issues that only add types do not count, so a ResNet
leaves at opset 7.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import onnx
import onnx.defs

from hubtool.dtypes import NUMBERS, is_float
from hubtool.formats.onnx.bind import known_signature
from hubtool.graph import Graph, Layer, Value
from hubtool.ops import OPSETS, REQUIRED, dtypes_made

__all__ = ["FLOOR", "lowest_opset", "needs", "type_string"]

FLOOR = 7
"""Below opset 7 elementwise operators broadcast otherwise, and ONNX Runtime reads nothing."""

TYPE_NAMES = {
    "float32": "float",
    "float64": "double",
    "float4_e2m1fn": "float4e2m1",
    "float6_e2m3fn": "float6e2m3",
    "float6_e3m2fn": "float6e3m2",
    "float8_e8m0fnu": "float8e8m0",
}

# Since when an operator means what it means today, where its signature does not show the change.
MEANING_SINCE = {
    "DFT": 20,
    "DequantizeLinear": 13,
    "Gather": 11,
    "GatherElements": 11,
    "GridSample": 20,
    "GroupNormalization": 21,
    "Hardmax": 13,
    "If": 11,
    "LogSoftmax": 13,
    "Max": 8,
    "Mean": 8,
    "Min": 8,
    "OneHot": 11,
    "QuantizeLinear": 13,
    "Resize": 11,
    "RoiAlign": 16,
    "Scan": 9,
    "Slice": 11,
    "Softmax": 13,
    "Sum": 8,
}

# Since when an attribute may have a value, or means by it what it means today, where the signature
# does not show it.
VALUE_SINCE: dict[tuple[str, str, int | float | str], int] = {
    ("AveragePool", "ceil_mode", 1): 19,
    ("Cast", "to", NUMBERS["float8_e4m3fnuz"]): 24,
    ("Cast", "to", NUMBERS["float8_e5m2fnuz"]): 24,
    ("ConvTranspose", "auto_pad", "SAME_LOWER"): 11,
    ("ConvTranspose", "auto_pad", "SAME_UPPER"): 11,
    ("Pad", "mode", "wrap"): 19,
    ("Resize", "coordinate_transformation_mode", "half_pixel_symmetric"): 19,
    ("ScatterElements", "reduction", "max"): 18,
    ("ScatterElements", "reduction", "min"): 18,
    ("ScatterND", "reduction", "max"): 18,
    ("ScatterND", "reduction", "min"): 18,
}

# Since when an attribute means what it means today, whatever its value.
ATTRIBUTE_SINCE = {("ConvTranspose", "output_shape"): 11}

# Since when a pool whose size is rounded up leaves out the windows that begin behind the input.
WINDOWS_SINCE = {"AveragePool": 22, "MaxPool": 22}

# Since when an attribute's value may stand with floats as the first input.
FLOATS_SINCE: dict[tuple[str, str, int | float | str], int] = {("Mod", "fmod", 0): 28}

# Since when an operator's further outputs mean what they mean today.
OUTPUTS_SINCE = {"Dropout": 12}


def lowest_opset(graph: Graph) -> int:
    """The lowest opset of ai.onnx, 7 at least, that can say every layer of the graph."""
    return max([FLOOR, *needs(graph).values()])


def needs(graph: Graph, *outer: Graph) -> dict[str, int]:
    """Layer name -> the opset it needs at least; what stands in subgraphs counts for its layer.
    `outer` are the graphs around, whose values a subgraph may read."""
    graph = _typed(graph, outer)
    lowest: dict[str, int] = {}
    for layer in graph.layers:
        inner = [
            opset
            for body in layer.subgraphs().values()
            for opset in needs(body, graph, *outer).values()
        ]
        lowest[layer.name] = max([_lowest_of(layer, (graph, *outer)), *inner])
    return lowest


def _typed(graph: Graph, outer: tuple[Graph, ...]) -> Graph:
    """The graph with the dtypes that follow from its inputs, where nothing else tells them."""
    typed = Graph(
        graph.layers, graph.inputs, graph.outputs, graph.tensors, dict(graph.values), graph.meta
    )
    scopes = (typed, *outer)
    for layer in graph.layers:
        reads = {name: known.dtype for name in layer.reads() if (known := _known(name, scopes))}
        for name, dtype in dtypes_made(layer, reads).items():
            if dtype and _known(name, scopes) is None:
                typed.values[name] = Value("tensor", dtype, None)
    return typed


def _lowest_of(layer: Layer, scopes: tuple[Graph, ...]) -> int:
    versions = _history().get(layer.op)
    if versions is None:  # another domain, whose opset is pinned
        return FLOOR
    lowest = versions[-1]
    floor = max(FLOOR, _meaning_since(layer, scopes))
    for version in reversed(versions[:-1]):
        if lowest <= floor or not _says(version, layer, scopes):
            break
        lowest = version
    return max(FLOOR, lowest)


def _meaning_since(layer: Layer, scopes: tuple[Graph, ...]) -> int:
    since = MEANING_SINCE.get(layer.op, 1)
    if any(layer.outputs[1:]):
        since = max(since, OUTPUTS_SINCE.get(layer.op, 1))
    if layer.op in WINDOWS_SINCE and _may_begin_behind(layer):
        since = max(since, WINDOWS_SINCE[layer.op])
    first = _known(next(layer.reads(), ""), scopes)
    of_floats = first is None or is_float(first.dtype)
    for key, value in layer.attrs.items():
        if isinstance(value, int | float | str):
            since = max(since, VALUE_SINCE.get((layer.op, key, value), 1))
            since = max(since, FLOATS_SINCE.get((layer.op, key, value), 1) if of_floats else 1)
        since = max(since, ATTRIBUTE_SINCE.get((layer.op, key), 1))
        if key in ("axis", "axes") and any(item < 0 for item in _items(value)):
            since = max(since, 11)
    return since


def _may_begin_behind(layer: Layer) -> bool:
    """Whether a window of a pool may lie in the padding at the end only: where the size is rounded
    up, and a stride is longer than what of the window the padding leaves."""
    if not layer.attrs.get("ceil_mode"):
        return False
    sizes = _items(layer.attrs.get("kernel_shape"))
    ones = [1] * len(sizes)
    strides = _items(layer.attrs.get("strides")) or ones
    dilations = _items(layer.attrs.get("dilations")) or ones
    ends = _items(layer.attrs.get("pads"))[len(sizes) :] or [0] * len(sizes)
    windows = zip(sizes, strides, dilations, ends, strict=False)
    return any(stride + end > (size - 1) * gap + 1 for size, stride, gap, end in windows)


def _items(value: Any) -> list[int]:
    return [item for item in (value if isinstance(value, list) else [value]) if type(item) is int]


def _says(version: int, layer: Layer, scopes: tuple[Graph, ...]) -> bool:
    """Whether the operator as of `version` has room for the layer."""
    schema = onnx.defs.get_schema(layer.op, version, "")
    newest, older = known_signature(layer.op, OPSETS[""]), known_signature(layer.op, version)
    formals = older.inputs
    used = [formal.name in layer.inputs for formal in newest.inputs]
    count = max((index + 1 for index, is_used in enumerate(used) if is_used), default=0)
    variadic = bool(formals) and formals[-1].variadic
    if schema.deprecated or (count > len(formals) and not variadic):
        return False
    if any(
        not f.optional and not f.variadic and not u for f, u in zip(formals, used, strict=False)
    ):
        return False
    if len(layer.outputs) > schema.max_output:
        return False
    if any(len(layer.inputs.get(f.name, ())) < f.min_arity for f in schema.inputs if _is_list(f)):
        return False
    for key, value in layer.attrs.items():
        is_implied = layer.op == "Split" and _splits_evenly(layer, scopes)
        if key not in older.attrs and value != newest.attrs.get(key) and not is_implied:
            return False
    if any(value is REQUIRED and key not in layer.attrs for key, value in older.attrs.items()):
        return False
    return _allows(schema, layer, scopes)


def _is_list(formal: Any) -> bool:
    return bool(formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic)


def _splits_evenly(layer: Layer, scopes: tuple[Graph, ...]) -> bool:
    """Whether the parts of a Split are equal, which older issues take for granted."""
    value, axis = _known(str(layer.inputs["input"]), scopes), layer.attrs["axis"]
    shape = value.shape if value is not None and value.shape is not None else ()
    size = shape[axis] if isinstance(axis, int) and -len(shape) <= axis < len(shape) else None
    return isinstance(size, int) and size % len(layer.outputs) == 0


def _allows(schema: onnx.defs.OpSchema, layer: Layer, scopes: tuple[Graph, ...]) -> bool:
    """Whether the schema's type constraints hold for what is known of inputs and outputs, and all
    of one type variable agree; where nothing is known of a value, the answer is no."""
    types = {i.type_str: set(i.types) for i in (*schema.inputs, *schema.outputs)}
    bound: dict[str, str] = {}
    names: list[str] = []
    formals: list[Any] = []
    for given, formal in zip(_positional(layer), schema.inputs, strict=False):
        listed = given if isinstance(given, list) else [given]
        names += listed
        formals += [formal] * len(listed)
    names += layer.outputs
    last = len(schema.outputs) - 1
    formals += [schema.outputs[min(index, last)] for index in range(len(layer.outputs))]
    for name, formal in zip(names, formals, strict=True):
        if not name:
            continue
        value = _known(name, scopes)
        kind = "" if value is None else type_string(value)
        if kind not in types[formal.type_str]:
            return False
        if formal.is_homogeneous and bound.setdefault(formal.type_str, kind) != kind:
            return False
    return True


def _known(name: str, scopes: tuple[Graph, ...]) -> Value | None:
    return next(filter(None, (graph.known(name) for graph in scopes)), None)


def _positional(layer: Layer) -> list[str | list[str]]:
    formals = known_signature(layer.op, OPSETS[""]).inputs
    return [layer.inputs.get(formal.name, "") for formal in formals]


def type_string(value: Value) -> str:
    """The name that schemas have for a type: "tensor(float)", "seq(map(string,tensor(float)))"."""
    outer, _, held = value.kind.partition("(")
    tensor = f"tensor({TYPE_NAMES.get(value.dtype) or value.dtype.replace('_', '')})"
    if outer == "map":
        return f"map({held.removesuffix(')')},{tensor})"
    inner = Value(held.removesuffix(")") or "tensor", value.dtype, value.shape)
    match outer:
        case "sequence":
            return f"seq({type_string(inner)})"
        case "optional":
            return f"optional({type_string(inner)})"
    return tensor


@cache
def _history() -> dict[str, list[int]]:
    """Operator of ai.onnx -> the opsets at which it was issued, up to the pinned one."""
    versions: dict[str, list[int]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= OPSETS[""]:
            versions[schema.name].append(schema.since_version)
    return {name: sorted(since) for name, since in versions.items()}
