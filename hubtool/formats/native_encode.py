"""Graph -> the text of graph.json, and the list of what goes into the safetensors file.

The text is made for three readers: a program in any language, a person with an editor, and a line
diff. So the order is fixed, one layer is one line, and the same graph always gives the same bytes.
What JSON cannot say without loss is said with a tag: {"float": "nan"}, {"int": "…"}, {"bytes": …}.
docs/format.md is the contract; the other half is `native_decode`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hubtool.dtypes import shortest
from hubtool.errors import WriteError
from hubtool.formats.native_elements import STORED, offsets_key, parts, text_parts
from hubtool.formats.native_structure import MAX_DEPTH, domains, faults
from hubtool.formats.safetensors import Part
from hubtool.formats.strict_json import EXACT, MAX_BYTES
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value
from hubtool.ops import OPSETS

__all__ = ["FORMAT", "LONG", "SECTIONS", "Encoded", "encode"]

SECTIONS = (
    "format",
    "opsets",
    "weights",
    "meta",
    "inputs",
    "outputs",
    "layers",
    "tensors",
    "values",
)
"""The keys of graph.json, in their order."""

FORMAT = 1
"""The number of the format that is written."""

LONG = 64
"""A list attribute with more items than this lies in the safetensors file."""


@dataclass(frozen=True)
class Encoded:
    """A graph made ready: the text of each section of graph.json but `weights`, and the tensors
    that go into the safetensors file."""

    sections: dict[str, str]
    parts: list[Part]

    def text(self, weights: list[dict[str, Any]]) -> bytes:
        """The bytes of graph.json; `weights` say which files there are."""
        sections = {**self.sections, "weights": _section("weights", weights)}
        lines = ",\n".join(f'  "{key}": {sections[key]}' for key in SECTIONS)
        data = f"{{\n{lines}\n}}\n".encode()
        if len(data) > MAX_BYTES:
            raise WriteError(f"graph.json would take {len(data):,} bytes; {MAX_BYTES:,} may be")
        return data


def encode(graph: Graph) -> Encoded:
    """Everything that a graph's folder holds. Raises WriteError with all that could not be read
    back."""
    problems = faults(graph) + [f"meta: {text}" for text in _meta_faults(graph.meta)]
    used = domains(graph)
    problems += [f"no opset is known for the domain '{name}'" for name in sorted(used - {*OPSETS})]
    if not problems:
        encoder = _Encoder(problems)
        sections: dict[str, Any] = {
            "format": FORMAT,
            "opsets": {name: version for name, version in OPSETS.items() if name in used},
            "meta": graph.meta,
            **encoder.graph(graph, ""),
        }
        told = {key: _section(key, section) for key, section in sections.items()}
        problems += [f"{key}: {text}" for key, t in told.items() for text in _unicode_faults(t)]
    if problems:
        raise WriteError("this graph cannot be stored:", problems=problems)
    return Encoded(told, encoder.parts)


def _section(key: str, value: Any) -> str:
    if key in ("format", "opsets") or not value:
        return _json(value)
    if isinstance(value, dict):
        lines = (f"    {_json(name)}: {_json(item)}" for name, item in value.items())
        return "{\n" + ",\n".join(lines) + "\n  }"
    return "[\n" + ",\n".join(f"    {_json(item)}" for item in value) + "\n  ]"


def _unicode_faults(text: str) -> Iterator[str]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 20) : error.end + 20]
        yield f"half of a surrogate pair is no Unicode text: {near!r}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _value(value: Value) -> dict[str, Any]:
    kind = {} if value.kind == "tensor" else {"kind": value.kind}
    shape = None if value.shape is None else list(value.shape)
    return {**kind, "dtype": value.dtype, "shape": shape}


@dataclass
class _Encoder:
    """Collects what goes into the safetensors file, each thing under a key of its own."""

    problems: list[str]
    parts: list[Part] = field(default_factory=list)
    keys: set[str] = field(default_factory=lambda: {"__metadata__"})

    def graph(self, graph: Graph, scope: str) -> dict[str, Any]:
        """The sections of a graph. `scope` stands before the names of what it stores:
        "" at the top, "layer/attribute/" for a subgraph of the top."""
        tensors = {name: self._tensor(name, t, scope) for name, t in graph.tensors.items()}
        return {
            "inputs": [{"name": name, **_value(v)} for name, v in graph.inputs.items()],
            "outputs": [{"name": name, **_value(v)} for name, v in graph.outputs.items()],
            "layers": [self._layer(layer, scope) for layer in graph.layers],
            "tensors": tensors,
            "values": {name: _value(v) for name, v in graph.values.items()},
        }

    def _tensor(self, name: str, tensor: Tensor, scope: str) -> dict[str, Any]:
        key = self._claim(scope + name, text=tensor.dtype == "string")
        try:
            self.parts += parts(key, tensor)
        except WriteError as error:
            self.problems.append(error.message)
        told: dict[str, Any] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "stored": STORED[tensor.dtype],
        }
        return told if key == name else {**told, "key": key}

    def _claim(self, wanted: str, *, text: bool = False) -> str:
        """A key that nothing else has: the wanted one, or that with ~2, ~3, … behind it."""
        key, number = wanted, 1
        while not self.keys.isdisjoint({key, offsets_key(key)} if text else {key}):
            number += 1
            key = f"{wanted}~{number}"
        self.keys.update({key, offsets_key(key)} if text else {key})
        return key

    def _layer(self, layer: Layer, scope: str) -> dict[str, Any]:
        place = f"{scope}{layer.name}"
        attrs = {key: self._attr(attr, f"{place}/{key}") for key, attr in layer.attrs.items()}
        told = {
            "name": layer.name,
            "op": layer.op,
            "inputs": layer.inputs,
            "outputs": layer.outputs,
        }
        return {**told, "attrs": attrs} if attrs else told

    def _attr(self, attr: Any, place: str) -> Any:
        if type(attr) is list:
            if len(attr) > LONG and (stored := self._long(attr, place)):
                return stored
            return [self._item(item, place) for item in attr]
        return self._item(attr, place)

    def _long(self, items: list[Any], place: str) -> dict[str, str] | None:
        """A long list of numbers or of text goes to the safetensors file; None for another."""
        kinds = set(map(type, items))
        if kinds == {str}:
            key = self._claim(place, text=True)
            self.parts += self._texts(key, items)
        elif kinds == {int}:
            key = self._claim(place)
            self.parts.append(_numbers(key, "I64", np.array(items, "<i8")))
        elif kinds == {float}:
            key = self._claim(place)
            self.parts.append(_numbers(key, "F32", np.array(items, "<f4")))
        else:
            return None
        return {"list": key}

    def _texts(self, key: str, items: Iterable[str]) -> list[Part]:
        try:
            return text_parts(key, items)
        except WriteError as error:
            self.problems.append(error.message)
            return []

    def _item(self, item: Any, place: str) -> Any:
        if type(item) is int:
            return item if abs(item) <= EXACT else {"int": str(item)}
        if type(item) is float:
            return shortest(item) if math.isfinite(item) else {"float": str(item)}
        if isinstance(item, bytes):
            return {"bytes": base64.b64encode(item).decode()}
        if isinstance(item, TensorRef):
            return {"tensor": item.name}
        if isinstance(item, Value):
            return {"type": _value(item)}
        if isinstance(item, Graph):
            return {"graph": self.graph(item, f"{place}/")}
        return item


def _numbers(key: str, dtype: str, array: np.ndarray[Any, Any]) -> Part:
    return Part(key, dtype, array.shape, lambda: [array.view(np.uint8).data])


def _meta_faults(value: Any, depth: int = 0) -> Iterator[str]:
    """What in the metadata is no plain JSON, or would come back as something else."""
    if depth > MAX_DEPTH:
        yield "nested too deeply"
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                yield f"the key {key!r} is no text"
            yield from _meta_faults(item, depth + 1)
    elif type(value) is list:
        for item in value:
            yield from _meta_faults(item, depth + 1)
    elif type(value) is float and not math.isfinite(value):
        yield f"JSON has no number {value}"
    elif type(value) is int and abs(value) > EXACT:
        yield f"the integer {value} is beyond 2^53"
    elif value is not None and type(value) not in (str, int, float, bool):
        yield f"{value!r:.80} is a {type(value).__name__}, no JSON"
