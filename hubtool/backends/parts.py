"""Which layers of a graph can be compiled or recorded, and the parts that follow from it.

A compiled program (XLA's), or a recorded one (a CUDA graph), is one for known shapes. The
interpreter keeps the arithmetic of shapes on the host, so that all shapes are known while a part is
traced; what stays eager, layer by layer between compiled parts, are the layers that want to see
elements which only the run makes:

    x ──▶ [ Conv Relu … TopK ] ──▶ NonZero ──▶ [ Gather Concat … ] ──▶ y
              compiled part         eager          compiled part

This is decided from what operators say of themselves (`host`, `on_host`), before any run and
without data. An input that serves as a shape is `static`: its elements are part of what is
compiled, and others mean compiling anew. Parts are made as long as the order of the layers allows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hubtool.graph import Graph, Layer, TensorRef, Value, captures, names_read
from hubtool.ops import Op, dtypes_made, lookup
from hubtool.passes.fold_constants import RANDOM

__all__ = ["Part", "Plan", "plan", "read_as_numbers", "split"]

HOST, DEVICE, TEXT = "host", "device", "text"
"""Where a value is while a part is traced: at hand in numpy; an array of which only shape and
dtype are known; or what no device can hold (text, maps)."""

SEEN = frozenset({"Shape", "Size", "SequenceLength", "OptionalHasElement"})
"""What tells something of a value without its elements, and so is known while tracing."""

TURNING = frozenset({"Loop", "Scan", "SequenceMap"})
"""What would be traced once for every turn: a program as long as the loop."""


@dataclass(frozen=True)
class Part:
    """Consecutive layers as a graph of their own: its inputs and outputs are what they read and
    what others read of them. compiled: made into one, rather than run layer by layer.
    drops: the values that no later part reads."""

    graph: Graph
    compiled: bool
    drops: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The parts in running order; static: the graph's inputs whose elements are compiled in;
    host: the values that are at hand while tracing; eager: a line for each layer that is not
    compiled, with the reason."""

    parts: list[Part]
    static: frozenset[str]
    host: frozenset[str]
    eager: list[str]


def plan(graph: Graph, overridden: Collection[str] = ()) -> Plan:
    """The graph in parts. overridden: operators that XLA does in its own way, not on the host."""
    static = frozenset(_static_inputs(graph))
    places = {name: _place_of_input(name, value, static) for name, value in graph.inputs.items()}
    view = _View(graph, places, overridden)
    reasons = [view.visit(layer) for layer in graph.layers]
    eager = [
        f"{layer.op} '{layer.name}': {reason}"
        for layer, reason in zip(graph.layers, reasons, strict=True)
        if reason
    ]
    host = frozenset(name for name, place in view.places.items() if place == HOST)
    return Plan(split(graph, [bool(reason) for reason in reasons]), static, host, eager)


def split(graph: Graph, eager: Sequence[bool]) -> list[Part]:
    """The graph in parts, as few as the order of the layers allows. eager: for each layer, whether
    it cannot be compiled."""
    return _parts(graph, _levels(graph, eager))


def _place_of_input(name: str, value: Value, static: Collection[str]) -> str:
    if value.dtype == "string" or "map(" in value.kind:
        return TEXT
    return HOST if name in static else DEVICE


def _static_inputs(graph: Graph) -> set[str]:
    """The inputs that make shapes: read as numbers by a layer, or vectors of integers from which
    such numbers are computed."""
    direct: set[str] = set()
    wanted = _wanted(graph, (), direct)
    return {
        name
        for name, value in graph.inputs.items()
        if value.kind == "tensor"
        and value.dtype != "string"
        and (
            name in direct
            or (
                name in wanted
                and value.dtype.startswith(("int", "uint", "bool"))
                and value.shape is not None
                and len(value.shape) <= 1
            )
        )
    }


def read_as_numbers(graph: Graph) -> set[str]:
    """The values whose elements a layer, or one in its subgraphs, wants at hand."""
    direct: set[str] = set()
    _wanted(graph, (), direct)
    return direct


def _wanted(graph: Graph, outputs: Collection[str], direct: set[str]) -> set[str]:
    """The names whose elements some layer wants at hand, `outputs` among them; into `direct` go
    those that are read so by a layer itself."""
    wanted = set(outputs)
    for layer in reversed(graph.layers):
        op = lookup(layer.op)
        if op is None:
            continue
        for formal in op.host:
            names = layer.inputs.get(formal, [])
            found = {names} if isinstance(names, str) else {*names}
            wanted |= found
            direct |= found
        for body in layer.subgraphs().values():
            inner = _wanted(body, (), direct)
            wanted |= inner & captures(body)
        if layer.op not in SEEN and not wanted.isdisjoint(layer.outputs):
            wanted.update(layer.reads())
    return wanted


class _View:
    """What is known of values while a graph is traced, layer after layer."""

    def __init__(
        self,
        graph: Graph,
        places: Mapping[str, str],
        overridden: Collection[str],
        dtypes: Mapping[str, str] | None = None,
    ) -> None:
        self.graph = graph
        self.places = dict(places)
        self.overridden = overridden
        self.dtypes = {**(dtypes or {}), **{k: v.dtype for k, v in graph.inputs.items()}}
        for name, tensor in graph.tensors.items():
            self.dtypes[name] = tensor.dtype
            if name not in graph.inputs:
                self.places[name] = TEXT if tensor.dtype == "string" else ""

    def visit(self, layer: Layer) -> str:
        """Why the layer cannot be compiled, "" where it can; and where its outputs will be."""
        op = lookup(layer.op)
        assert op is not None
        known = {name: self.graph.known(name) for name in layer.outputs if name}
        made = dtypes_made(layer, self.dtypes, lambda name: getattr(known[name], "dtype", ""))
        self.dtypes.update(made)
        given = [self.places.get(name, DEVICE) for name in layer.reads() if name]
        hosted = HOST in given and not {DEVICE, TEXT} & {*given} and not layer.subgraphs()
        reason, bodies = self._reason(layer, op, given, made, hosted), HOST
        if layer.op == "If" and not reason:
            reason, bodies = self._branches(layer)
        for name in filter(None, layer.outputs):
            kind = getattr(known[name], "kind", "tensor")
            if made[name] == "string" or "map(" in kind or (op.on_host and not made[name]):
                self.places[name] = TEXT
            elif layer.op in SEEN or hosted or (layer.op == "If" and bodies == HOST):
                self.places[name] = HOST
            else:
                self.places[name] = DEVICE
        return reason

    def _reason(
        self, layer: Layer, op: Op, given: list[str], made: Mapping[str, str], hosted: bool
    ) -> str:
        if TEXT in given or "string" in made.values():
            return "it works on text or maps"
        if layer.op in RANDOM and not (
            layer.op == "Dropout" and "training_mode" not in layer.inputs
        ):
            return "random numbers are drawn on the host"
        if layer.op in TURNING:
            return "it goes round, turn by turn"
        if hosted:
            return ""
        if op.on_host and op.name not in self.overridden:
            return "it runs in numpy, as on every backend"
        if layer.op == "NonZero":
            return "how much it gives depends on the elements"
        if layer.op.startswith("Scatter") and layer.attrs.get("reduction", "none") != "none":
            return "how often an element is written to depends on the indices"
        unseen = [
            name
            for formal in sorted(op.host)
            for name in _listed(layer.inputs.get(formal))
            if self.places.get(name, DEVICE) == DEVICE
        ]
        return f"it wants the elements of '{unseen[0]}'" if unseen else ""

    def _branches(self, layer: Layer) -> tuple[str, str]:
        """Why the branches of an If cannot be traced, and where their results are."""
        places: set[str] = set()
        for body in layer.subgraphs().values():
            inner = _View(body, self.places, self.overridden, self.dtypes)
            for each in body.layers:
                reason = inner.visit(each)
                if reason:
                    return f"{each.op} '{each.name}' in a branch: {reason}", DEVICE
            places.update(inner.places.get(name, DEVICE) for name in body.outputs)
        return "", HOST if places == {HOST} else DEVICE


def _listed(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else [name for name in names or [] if name]


def _levels(graph: Graph, eager: Sequence[bool]) -> list[int]:
    """For each layer the number of its part: even ones are compiled, odd ones eager."""
    level_of: dict[str, int] = {}
    levels = []
    for layer, stays in zip(graph.layers, eager, strict=True):
        level = max((level_of.get(name, 0) for name in names_read(layer)), default=0)
        level += (level % 2 == 0) == stays
        levels.append(level)
        level_of.update((name, level) for name in layer.outputs if name)
    return levels


def _parts(graph: Graph, levels: list[int]) -> list[Part]:
    grouped: dict[int, list[Layer]] = {}
    for layer, level in zip(graph.layers, levels, strict=True):
        grouped.setdefault(level, []).append(layer)
    last: dict[str, int] = {}
    for level, layers in sorted(grouped.items()):
        last.update((name, level) for layer in layers for name in names_read(layer))
    kept = {*graph.outputs}
    return [
        Part(
            _alone(graph, layers, {name for name in last if last[name] > level} | kept),
            level % 2 == 0,
            tuple(name for name in last if last[name] == level and name not in kept),
        )
        for level, layers in sorted(grouped.items())
    ]


def _alone(graph: Graph, layers: list[Layer], wanted: Collection[str]) -> Graph:
    """The layers as a graph of their own, whose outputs are those of its values that are wanted."""
    made = [name for layer in layers for name in layer.outputs if name]
    read = dict.fromkeys(name for layer in layers for name in names_read(layer) if name)
    refs = [a.name for layer in layers for a in layer.attrs.values() if isinstance(a, TensorRef)]
    unknown = Value("tensor", "", None)
    weights = [name for name in [*read, *refs] if name in graph.tensors]
    fed = [name for name in read if name not in made and name not in {*weights} - {*graph.inputs}]
    return Graph(
        layers=layers,
        inputs={name: graph.known(name) or unknown for name in fed},
        outputs={name: graph.known(name) or unknown for name in made if name in wanted},
        tensors={name: graph.tensors[name] for name in weights},
        values=graph.values,
    )
