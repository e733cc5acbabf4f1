"""Axon -> graph: `axon.json` and its safetensors file, as `AxonHub.export/3` writes them.

    axon.json           nodes in running order: what layer, what it reads, its options
    axon.safetensors    the parameters

The file may come from a stranger, so it is read as a model folder is: the weights' size and hash
are compared, every node must have the keys that it should, and whatever is wrong is collected into
one ReadError. What each Axon layer is in ONNX stands in `read_layers`; a node `onnx` is an operator
already, which axon_hub.ex computed with Nx and hands back as it got it.
"""

from __future__ import annotations

import hashlib
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from hubtool import ops
from hubtool.dtypes import NUMBERS, numpy_dtype, shortest
from hubtool.errors import HubtoolError, ReadError
from hubtool.formats import safetensors
from hubtool.formats.axon.read_layers import LAYERS
from hubtool.formats.axon.read_node import Builder, Misfit, Node
from hubtool.formats.native_elements import STORED
from hubtool.formats.native_structure import faults
from hubtool.formats.safetensors import Stored
from hubtool.formats.strict_json import MAX_BYTES, loads
from hubtool.graph import Graph, Value
from hubtool.meta import MetaArray, infer_shapes

__all__ = ["read"]

FORMAT = 1
KEYS = {"format", "weights", "outputs", "nodes"}
NODE_KEYS = {"id", "op", "name", "inputs", "rank", "options", "parameters"}
READS = ("node", "parameter", "known", "empty")
TYPES = {form: name for name, form in STORED.items() if not name.startswith("complex")} | {
    "U8": "uint8"
}
BOOLS = {
    "And": ("A", "B"),
    "Or": ("A", "B"),
    "Xor": ("A", "B"),
    "Not": ("X",),
    "Where": ("condition",),
}
"""The inputs that are bool in ONNX; Nx knows u8 only."""

FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
HINT = "Write it again with AxonHub.export/3."


def read(path: Path) -> Graph:
    """The graph of an exported Axon model; its weights lie beside it.

    Raises ReadError with everything that is wrong.

    Example: `read(Path("axon.json"))`
    """
    document = _document(path)
    problems: list[str] = []
    weights = _weights(path.parent, document["weights"], problems)
    reader = _Reader(Builder(Graph(meta={"name": path.stem})), weights, problems)
    nodes, outputs = document["nodes"], document["outputs"]
    if not isinstance(nodes, list) or not isinstance(outputs, list):
        problems.append("nodes and outputs must be arrays")
    elif len({name for name, _ in _named(outputs)}) != len(outputs) or not outputs:
        problems.append("outputs must list name and node of each, no name twice")
    elif not problems:
        reader.builder.promise([name for name, _ in _named(outputs)])
        reader.nodes(nodes)
        if not problems:
            reader.outputs(outputs)
    graph = reader.builder.graph
    if not problems:
        problems += faults(graph) + ops.check(graph) + reader.unused()
    if problems:
        raise ReadError(f"cannot read the Axon model '{path}':", problems=problems, hint=HINT)
    _describe(graph)
    return graph


def _document(path: Path) -> dict[str, Any]:
    try:
        with safetensors.open_regular(path) as file:
            document = loads(file.read(MAX_BYTES + 1))
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ReadError(f"cannot read '{path}': {reason}", hint=HINT) from None
    number = document.get("format") if isinstance(document, dict) else None
    if type(number) is not int or number < 1 or "nodes" not in document:
        raise ReadError(f"'{path}' is no Axon model of AxonHub.export/3", hint=HINT)
    if number > FORMAT:
        raise ReadError(
            f"'{path}' is of format {number}; this hubtool reads {FORMAT}", hint="Upgrade hubtool."
        )
    if set(document) != KEYS:
        wrong = ", ".join(sorted(map(str, set(document) ^ KEYS)))
        raise ReadError(f"cannot read '{path}': missing or unknown keys: {wrong}", hint=HINT)
    return dict(document)


def _weights(folder: Path, listed: Any, problems: list[str]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for entry in listed if isinstance(listed, list) else [listed]:
        match entry:
            case {"file": str(name), "sha256": str(sha256), "size": int(size)} if len(entry) == 3:
                try:
                    found |= _file(folder, name, sha256, size)
                except ReadError as error:
                    problems += [f"{name}: {text}" for text in error.problems or [error.message]]
                except (OSError, ValueError) as error:
                    problems.append(f"{name}: {error}")
            case _:
                problems.append("weights must list file, sha256 and size, and no more")
    return found


def _file(folder: Path, name: str, sha256: str, size: int) -> dict[str, Stored]:
    plain = PurePosixPath(name).name == PureWindowsPath(name).name == name
    if not plain or name == ".." or "\0" in name or (folder / name).is_symlink():
        raise ValueError("no name for a file beside it")
    with safetensors.open_regular(folder / name) as file:
        if file.seek(0, 2) != size:
            raise ValueError(f"it has {file.tell():,} bytes, {size:,} are recorded")
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ValueError("its sha256 is not the one that is recorded")
        file.seek(0)
        return safetensors.read(file)


class _Reader:
    """Turns nodes into layers one after the other; `made` maps a node to the values it makes."""

    def __init__(
        self, builder: Builder, weights: Mapping[str, Stored], problems: list[str]
    ) -> None:
        self.builder = builder
        self.weights = weights
        self.problems = problems
        self.used: set[str] = set()
        self.made: list[list[str]] = []
        self.ranks: list[int | None] = []

    def nodes(self, told: list[Any]) -> None:
        """Every node; one that is wrong leaves a problem, and later ones are judged as well."""
        integers = _indices(told)
        for number, item in enumerate(told):
            self.made.append([f"?{number}"])
            self.ranks.append(None)
            try:
                self.made[number] = self._node(number, item, integers)
            except Misfit as error:
                self.problems.append(f"{_label(number, item)}: {error}")

    def _node(self, number: int, told: Any, integers: set[int]) -> list[str]:
        if not isinstance(told, dict) or set(told) != NODE_KEYS or told["id"] != number:
            raise Misfit(f"must have exactly {', '.join(sorted(NODE_KEYS))}, id being its place")
        op, name, rank, options = told["op"], told["name"], told["rank"], told["options"]
        if not (isinstance(op, str) and isinstance(name, str) and isinstance(options, dict)):
            raise Misfit("op and name must be text, options an object")
        if rank is not None and (type(rank) is not int or not 0 <= rank <= safetensors.MAX_RANK):
            raise Misfit(f"its rank is {reprlib.repr(rank)}")
        self.ranks[number] = rank
        places = self._places(told["inputs"], number)
        parameters = self._parameters(told["parameters"])
        node = Node(
            op,
            name,
            [self.made[i][0] for i in places],
            [self.ranks[i] for i in places],
            dict(options),
            parameters,
        )
        if op == "onnx":
            return self._operator(node, number)
        if op == "input":
            return [self._input(node, "int64" if number in integers else "float32")]
        if op not in LAYERS:
            raise Misfit(f"'{op}' is no layer that hubtool knows")
        return [self.builder.layer(node, LAYERS[op])]

    def _places(self, told: Any, number: int) -> list[int]:
        if not isinstance(told, list) or not all(self._place(i, number) for i in told):
            raise Misfit("its inputs must be nodes before it")
        return told

    def _place(self, told: Any, number: int) -> bool:
        return type(told) is int and 0 <= told < number

    def _parameters(self, told: Any) -> dict[str, np.ndarray[Any, Any]]:
        if not isinstance(told, dict):
            raise Misfit("its parameters must be an object")
        return {name: self._tensor(key) for name, key in told.items()}

    def _tensor(self, key: Any) -> np.ndarray[Any, Any]:
        stored = self.weights.get(key) if isinstance(key, str) else None
        if stored is None:
            raise Misfit(f"the weights hold no {reprlib.repr(key)}")
        self.used.add(key)
        name = TYPES[stored.dtype]
        return stored.data.view(numpy_dtype(name)).reshape(stored.shape)

    def _input(self, node: Node, dtype: str) -> str:
        dtype = node.options.pop("dtype", dtype)
        shape = node.options.pop("shape", None)
        node.finished()
        good = isinstance(shape, list) and all(
            d is None or (type(d) is int and d >= 0) for d in shape
        )
        if dtype not in NUMBERS or not good:
            raise Misfit("an input must have a shape, and a dtype of ONNX where it is not float32")
        sizes = ["N" if i == 0 and d is None else d for i, d in enumerate(shape)]
        return self.builder.input(node.name, Value("tensor", dtype, tuple(sizes)))

    def _operator(self, node: Node, number: int) -> list[str]:
        """An operator of ONNX, which tells by itself what each of its inputs is."""
        op, attrs, count, reads = (
            node.options.pop(key, None) for key in ("op", "attrs", "outputs", "reads")
        )
        node.finished()
        if not (isinstance(attrs, dict) and type(count) is int and isinstance(reads, list)):
            raise Misfit("it must tell op, attrs, outputs and reads")
        if not 1 <= count <= 1000:
            raise Misfit(f"it makes {count} outputs")
        if op == "elem":
            return [self._element(reads, attrs, number)]
        known = ops.lookup(op) if isinstance(op, str) else None
        if known is None:
            raise Misfit(f"hubtool has no operator {reprlib.repr(op)}")
        inputs: dict[str, Any] = {}
        for item in reads:
            formal, value = self._read(item, op, node, number)
            if any(f.name == formal and f.variadic for f in known.inputs):
                inputs.setdefault(formal, []).append(value)
            else:
                inputs[formal] = value
        found = {key: self._attr(item, node) for key, item in attrs.items()}
        return self.builder.operator(op, inputs, found, node.name, count)

    def _element(self, reads: list[Any], attrs: dict[str, Any], number: int) -> str:
        match reads, attrs:
            case [[_, _, "node", int(place)]], {"index": int(index)} if self._place(place, number):
                values = self.made[place]
                if 0 <= index < len(values):
                    return values[index]
        raise Misfit("it takes an output that is not there")

    def _read(self, told: Any, op: str, node: Node, number: int) -> tuple[str, str]:
        if not (isinstance(told, list) and len(told) == 4 and told[2] in READS):
            raise Misfit(f"it reads {reprlib.repr(told)}")
        formal, _, how, what = told
        if not isinstance(formal, str):
            raise Misfit(f"it reads {reprlib.repr(told)}")
        if how == "node":
            place, index = what if isinstance(what, list) and len(what) == 2 else (what, 0)
            if not self._place(place, number) or type(index) is not int:
                raise Misfit("its inputs must be nodes before it")
            if not 0 <= index < len(self.made[place]):
                raise Misfit("it takes an output that is not there")
            return formal, self.made[place][index]
        if how == "empty":
            return formal, self.builder.weight(f"{node.name}/{formal}", np.zeros(0, np.int64))
        if how == "parameter" and what not in node.parameters:
            raise Misfit(f"it has no parameter {reprlib.repr(what)}")
        array = node.parameters[what] if how == "parameter" else self._tensor(what)
        if formal in BOOLS.get(op, ()):
            array = array.astype(bool)
        return formal, self.builder.weight(f"{node.name}/{formal}", array)

    def _attr(self, told: Any, node: Node) -> Any:
        match told:
            case {"tensor": key} if len(told) == 1:
                return self.builder.reference(f"{node.name}/value", self._tensor(key))
            case {"float": str(text)} if text in FLOATS and len(told) == 1:
                return FLOATS[text]
            case float():
                return shortest(told)
            case int() | str() if not isinstance(told, bool):
                return told
            case list():
                return [self._attr(item, node) for item in told]
        raise Misfit(f"an attribute is {reprlib.repr(told)}")

    def outputs(self, told: list[Any]) -> None:
        """The graph's outputs, under the names that the model gives them."""
        for name, place in _named(told):
            try:
                if not self._place(place, len(self.made)):
                    raise Misfit("it is no node")
                self.builder.output(name, self.made[place][0])
            except Misfit as error:
                self.problems.append(f"output '{name}': {error}")

    def unused(self) -> list[str]:
        """The keys of the weights that nothing names."""
        return [
            f"the weights hold '{key}', which nothing names"
            for key in sorted(set(self.weights) - self.used)
        ]


def _label(number: int, told: Any) -> str:
    match told:
        case {"name": str(name), "op": str(op)}:
            return f"layer '{name}' ({op})"
    return f"node {number}"


def _named(told: list[Any]) -> list[tuple[str, int]]:
    """The outputs' names and nodes; those that are none are left out."""
    found: list[tuple[str, int]] = []
    for item in told:
        match item:
            case {"name": str(name), "node": int(place)} if len(item) == 2 and name:
                found.append((name, place))
    return found


def _indices(told: list[Any]) -> set[int]:
    """The inputs that an embedding reads: integers, though nothing says so."""
    found: set[int] = set()
    for item in told:
        match item:
            case {"op": "embedding", "inputs": [int(place)]}:
                found.add(place)
    return found


def _describe(graph: Graph) -> None:
    """Note dtype and shape of outputs and values as far as they can be worked out: once for two
    batches, so that what differs between them is known to be the batch."""
    found = []
    for batch in (2, 3):
        feeds = {}
        for name, value in graph.free_inputs.items():
            dims = [batch if d == "N" else 64 if d is None else int(d) for d in value.shape or ()]
            feeds[name] = MetaArray(value.dtype, tuple(dims))
        if any(None in (value.shape or (None,)) for value in graph.free_inputs.values()):
            return
        try:
            found.append(infer_shapes(graph, feeds))
        except HubtoolError:
            return
    first, second = found
    for name, value in first.items():
        shape = _common(value.shape, second[name].shape if name in second else None)
        told = Value(value.kind, value.dtype, shape)
        if name in graph.outputs:
            graph.outputs[name] = told
        elif name not in graph.tensors and name not in graph.inputs:
            graph.values[name] = told


def _common(a: Any, b: Any) -> tuple[int | str | None, ...] | None:
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(
        x if x == y else "N" if (x, y) == (2, 3) else None for x, y in zip(a, b, strict=True)
    )
