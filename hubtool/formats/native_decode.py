"""The content of graph.json, and the tensors found in the weights files -> Graph.

Nothing is believed: every object must have the keys that it should and no others, every tensor
must be in the files with the type and shape that it is said to have. Problems are collected, so
that a damaged file is described once and whole. docs/format.md is the contract; the other half is
`native_encode`.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np

from hubtool.dtypes import NUMBERS, shortest
from hubtool.errors import ReadError
from hubtool.formats.native_elements import STORED, offsets_key, stored_shape, texts, unpack
from hubtool.formats.native_structure import MAX_DEPTH, domains, faults, shape_fault
from hubtool.formats.safetensors import ITEMSIZE, Stored
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value
from hubtool.ops import OPSETS

__all__ = ["decode"]

FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
NOTHING = Stored("U8", (0,), np.zeros(0, np.uint8))
KINDS: dict[type, str] = {dict: "an object", list: "an array", str: "a string"}


def decode(
    document: Mapping[str, Any], found: Mapping[str, Stored] | None, source: str
) -> tuple[Graph, list[str]]:
    """The graph that graph.json tells of, and everything that is wrong with it.

    found: the tensors in the weights files; None where those could not be read, so that not every
    single weight is missed as well. source: what an error calls the whole when a weight turns out
    to be damaged later, as its elements are first asked for.
    """
    decoder = _Decoder(found, source)
    graph = Graph()
    opsets: dict[str, Any] = {}
    with decoder.collecting():
        opsets = decoder.expect(document["opsets"], dict, "opsets")
    with decoder.collecting():
        graph = decoder.graph(document, "", 0)
        graph.meta = decoder.expect(document["meta"], dict, "meta")
    problems = decoder.problems
    problems += _opset_faults(opsets)
    if not decoder.lost:
        problems += faults(graph)
        problems += [
            f"opsets lacks the domain '{name or 'ai.onnx'}', which the graph needs"
            for name in sorted(domains(graph) - set(opsets))
        ]
        problems += [
            f"the weights hold '{key}', which nothing in graph.json names"
            for key in sorted(set(found or ()) - decoder.used)
        ]
    return graph, problems


def _opset_faults(opsets: dict[str, Any]) -> Iterator[str]:
    for domain, version in opsets.items():
        name = domain or "ai.onnx"
        known = OPSETS.get(domain)
        if known is None:
            yield f"the domain '{name}' is unknown to this hubtool: upgrade hubtool"
        elif type(version) is not int or version < 1:
            yield f"opsets: the version of '{name}' must be a number from 1"
        elif version > known:
            yield f"it needs opset {version} of {name}, this hubtool knows {known}: upgrade hubtool"
        elif version < known:
            yield f"it is at opset {version} of {name}, this hubtool reads {known}: convert it anew"


class _Lost(Exception):
    """Something could not be understood at all."""


class _Decoder:
    """Collects the problems on the way, and which keys of the weights were asked for.

    lost: something is missing from the graph, so that what refers to it cannot be judged.
    """

    def __init__(self, found: Mapping[str, Stored] | None, source: str) -> None:
        self.found = found
        self.source = source
        self.used: set[str] = set()
        self.problems: list[str] = []
        self.lost = False

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """What the block could not understand is noted, and the next thing looked at."""
        try:
            yield
        except _Lost as error:
            self.problems.append(str(error))
            self.lost = True

    def expect(self, told: Any, kind: type, what: str) -> Any:
        if type(told) is not kind:
            raise _Lost(f"{what} must be {KINDS[kind]}, not {reprlib.repr(told)}")
        return told

    def fields(self, told: Any, needed: str, optional: str, what: str) -> dict[str, Any]:
        """The object `told`, which must have these keys and no others."""
        keys: dict[str, Any] = self.expect(told, dict, what)
        for key in sorted(set(keys) - {*needed.split(), *optional.split()}):
            self.problems.append(f"{what} has the unknown key '{key}'")
        missing = [f"'{key}'" for key in needed.split() if key not in keys]
        if missing:
            raise _Lost(f"{what} lacks {', '.join(missing)}")
        return keys

    def graph(self, told: Mapping[str, Any], where: str, depth: int) -> Graph:
        """A graph from its five sections. `where` stands before what is said of its parts."""
        if depth > MAX_DEPTH:
            raise _Lost(f"{where}subgraphs are nested more than {MAX_DEPTH} deep")
        graph = Graph()
        for name, item in self._section(told, "tensors", dict, where):
            with self.collecting():
                graph.tensors[name] = self._tensor(item, name, f"{where}tensor '{name}'")
        for name, item in self._section(told, "values", dict, where):
            with self.collecting():
                graph.values[name] = self._value(item, f"{where}value '{name}'")
        for what, table in (("input", graph.inputs), ("output", graph.outputs)):
            for index, item in self._section(told, f"{what}s", list, where):
                with self.collecting():
                    self._named(item, table, f"{where}{what} {index}")
        for index, item in self._section(told, "layers", list, where):
            with self.collecting():
                graph.layers.append(self._layer(item, f"{where}layer {index}", where, depth))
        return graph

    def _section(
        self, told: Mapping[str, Any], key: str, kind: type, where: str
    ) -> list[tuple[Any, Any]]:
        with self.collecting():
            section = self.expect(told[key], kind, f"{where}{key}")
            return list(section.items() if kind is dict else enumerate(section))
        return []

    def _named(self, told: Any, table: dict[str, Value], what: str) -> None:
        keys = self.fields(told, "name dtype shape", "kind", what)
        name = self.expect(keys["name"], str, f"{what}: its name")
        if name in table:
            self.problems.append(f"{what} is named '{name}', as one before it")
        table[name] = self._value_of(keys, f"{what} ('{name}')")

    def _value(self, told: Any, what: str) -> Value:
        return self._value_of(self.fields(told, "dtype shape", "kind", what), what)

    def _value_of(self, keys: dict[str, Any], what: str) -> Value:
        kind = self.expect(keys.get("kind", "tensor"), str, f"{what}: its kind")
        dtype = self.expect(keys["dtype"], str, f"{what}: its dtype")
        if keys["shape"] is None:
            return Value(kind, dtype, None)
        return Value(kind, dtype, tuple(self.expect(keys["shape"], list, f"{what}: its shape")))

    def _tensor(self, told: Any, name: str, what: str) -> Tensor:
        keys = self.fields(told, "dtype shape stored", "key", what)
        dtype = self.expect(keys["dtype"], str, f"{what}: its dtype")
        key = self.expect(keys.get("key", name), str, f"{what}: its key")
        sizes = self.expect(keys["shape"], list, f"{what}: its shape")
        if dtype not in NUMBERS:
            raise _Lost(f"{what}: unknown element type '{dtype}'")
        if fault := shape_fault(sizes):
            raise _Lost(f"{what}: {fault}")
        form, shape = STORED[dtype], tuple(sizes)
        if keys["stored"] != form:
            given = reprlib.repr(keys["stored"])
            self.problems.append(f"{what}: {dtype} is stored as {form}, not as {given}")
        if dtype == "string":
            count = math.prod(shape) + 1
            found = [
                self._row(key, "U8", what),
                self._stored(offsets_key(key), "I64", (count,), what),
            ]
        else:
            found = [self._stored(key, form, stored_shape(dtype, shape), what)]
        load = partial(unpack, dtype, shape, f"{self.source}: {what}", found)
        return Tensor(dtype, shape, load, " ".join(entry.place for entry in found))

    def _stored(self, key: str, form: str, shape: tuple[int, ...], what: str) -> Stored:
        """What the weights hold under this key; a problem if it is not of that form and shape."""
        self.used.add(key)
        if self.found is None:
            return NOTHING
        entry = self.found.get(key)
        if entry is None:
            self.problems.append(f"{what}: the weights hold no '{key}'")
            return NOTHING
        if (entry.dtype, entry.shape) != (form, shape):
            given, wanted = f"{entry.dtype}{list(entry.shape)}", f"{form}{list(shape)}"
            self.problems.append(f"{what}: '{key}' in the weights is {given}, not {wanted}")
        return entry

    def _row(self, key: str, form: str, what: str) -> Stored:
        """The same, of one axis and any length."""
        length = len((self.found or {}).get(key, NOTHING).data) // ITEMSIZE[form]
        return self._stored(key, form, (length,), what)

    def _layer(self, told: Any, place: str, where: str, depth: int) -> Layer:
        keys = self.fields(told, "name op inputs outputs", "attrs", place)
        name = self.expect(keys["name"], str, f"{place}: its name")
        op = self.expect(keys["op"], str, f"{place}: its op")
        label = f"{where}layer '{name}' ({op})"
        inputs = self.expect(keys["inputs"], dict, f"{label}: its inputs")
        for formal, names in inputs.items():
            for item in names if type(names) is list else [names]:
                self.expect(item, str, f"{label}: what input '{formal}' reads")
        outputs = self.expect(keys["outputs"], list, f"{label}: its outputs")
        for item in outputs:
            self.expect(item, str, f"{label}: an output")
        layer = Layer(name, op, inputs, outputs)
        for key, item in self.expect(keys.get("attrs", {}), dict, f"{label}: its attrs").items():
            with self.collecting():
                layer.attrs[key] = self._attr(item, label, key, depth)
        return layer

    def _attr(self, told: Any, label: str, key: str, depth: int) -> Any:
        what = f"{label}: attribute '{key}'"
        if type(told) is dict and set(told) == {"list"}:
            return self._long(self.expect(told["list"], str, what), what)
        if type(told) is list:
            return [self._item(item, what, f"{label} > {key}: ", depth) for item in told]
        return self._item(told, what, f"{label} > {key}: ", depth)

    def _item(self, told: Any, what: str, where: str, depth: int) -> Any:
        if type(told) in (int, str):
            return told
        if type(told) is float and math.isfinite(number := shortest(told)):
            return number
        if type(told) is dict and len(told) == 1:
            ((tag, content),) = told.items()
            if tag == "graph":
                keys = self.fields(content, "inputs outputs layers tensors values", "", what)
                return self.graph(keys, where, depth + 1)
            if tag == "type":
                return self._value(content, what)
            if tag == "tensor":
                return TensorRef(self.expect(content, str, what))
            if tag == "int" and INTEGER.fullmatch(self.expect(content, str, what)):
                return int(content)
            if tag == "float" and self.expect(content, str, what) in FLOATS:
                return FLOATS[content]
            if tag == "bytes":
                with suppress(binascii.Error):
                    return base64.b64decode(self.expect(content, str, what), validate=True)
        raise _Lost(f"{what} is {reprlib.repr(told)}, which is no attribute")

    def _long(self, key: str, what: str) -> list[Any]:
        """A long list: the type under which its items are stored tells what they are."""
        form = (self.found or {}).get(key, NOTHING).dtype
        entry = self._row(key, form, what)
        if form == "I64":
            return list(entry.data.view("<i8").tolist())
        if form == "F32":
            return [shortest(item) for item in entry.data.view("<f4")]
        if form != "U8":
            raise _Lost(f"{what}: '{key}' in the weights is {form}, no list of numbers or text")
        if self.found is None:
            return []
        try:
            return texts(what, [entry, self._row(offsets_key(key), "I64", what)])
        except ReadError as error:
            raise _Lost(error.message) from None
