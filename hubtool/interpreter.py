"""Runs a graph on an array library: the one loop that all array backends share.

A `Space` is an array library as this loop sees it: its namespace, how arrays come and go, and the
operators that it does in its own way. Three rules live here and nowhere else:

* **Where.** Shape arithmetic stays on the host. `Shape` gives a numpy array on every backend; a
  layer that reads host values only runs in numpy; the inputs that an operator calls `host` are
  handed over as numpy, and all of them to an operator that is `on_host`, whose results go to the
  device. So no device is asked for the numbers of a shape, and the same graph can be traced, or
  run on shapes without data.
* **Dtype.** Floats under 32 bits and integers under 8 are widened, computed with and rounded once;
  each output is cast to the dtype that the operator's schema gives.
* **Life.** A value is dropped after its last reader.

An error is wrapped here, once: "while running Conv 'stage1_conv0' (X float32[1,64,56,56], …): …".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hubtool.dtypes import DTYPES, WIDER, numpy_dtype
from hubtool.errors import HubtoolError, RunError, UnsupportedError
from hubtool.graph import Graph, Layer, TensorRef, Value, captures, names_read
from hubtool.ops import Op, check, lookup

__all__ = ["HOST", "SMALL", "Both", "Context", "HostSpace", "Program", "Space"]

Array = Any

SMALL = 64
"""Integer weights up to this many elements are kept on the host too: they take part in shapes.
Where there are no data, other weights too, such as the scales of a Resize."""


class Space(Protocol):
    """An array library, as the interpreter needs it.

    holds_data: whether its arrays have elements; those of shapes alone have none.
    wider: the dtypes that it does not compute with, and the one to compute with instead.
    carriers: the dtypes that it has no arrays of, and the one that holds their elements, even where
        they are only moved.
    """

    name: str
    xp: Any
    overrides: Mapping[str, Callable[..., Any]]
    holds_data: bool
    wider: Mapping[str, str]
    carriers: Mapping[str, str]

    def put(self, array: np.ndarray[Any, Any]) -> Array:
        """The array on this space's device; shared with numpy where that is possible."""

    def get(self, value: Array) -> np.ndarray[Any, Any]:
        """The numpy array of a value."""

    def dtype_of(self, value: Array) -> str:
        """The name of the value's dtype."""

    def cast(self, value: Array, dtype: str) -> Array:
        """The value in another dtype, rounded to nearest even."""


@dataclass
class Context:
    """What an operator's function is given beside its inputs.

    xp: the array namespace to compute in. wanted: for each output, whether anyone reads it.
    given: formal input -> its dtype before it was widened; "" for what is no array or absent.
    generator: draws the run's random numbers.
    """

    space: Space
    wanted: tuple[bool, ...]
    given: Mapping[str, str] = field(default_factory=dict)
    generator: np.random.Generator = field(default_factory=np.random.default_rng)

    @property
    def xp(self) -> Any:
        return self.space.xp

    def cast(self, value: Array, dtype: str) -> Array:
        """The value in another dtype (any of hubtool's, where the namespace knows fewer)."""
        return self.space.cast(value, dtype)

    def dtype(self, value: Array) -> str:
        """The name of a value's dtype."""
        return self.space.dtype_of(value)

    def device(self, value: Array) -> Any:
        """Where a value is, for what is made beside it; None while it is only traced."""
        return getattr(value, "device", None)

    def put(self, array: np.ndarray[Any, Any]) -> Array:
        """A numpy array as an array of this namespace."""
        return self.space.put(array)

    def here(self, value: Array) -> Array:
        """The value as an array of this namespace: what a subgraph gives may be on the host."""
        return self.space.put(value) if isinstance(value, np.ndarray) else value

    def host(self, value: Array) -> np.ndarray[Any, Any]:
        """The value as a numpy array; ValueError where it is a shape without data."""
        return value if isinstance(value, np.ndarray) else self.space.get(value)

    def empty(self, shape: Sequence[int], dtype: str) -> Array:
        """An array of which only shape and dtype count."""
        return self.put(np.broadcast_to(np.zeros((), numpy_dtype(dtype)), tuple(shape)))

    def random(self, seed: float | None) -> np.random.Generator:
        """The generator of an operator's random numbers: the run's own where it has no seed."""
        if seed is None:
            return self.generator
        return np.random.default_rng(np.float32(seed).view(np.uint32))


class Numpy:
    """numpy as an array-API namespace, which it is since 2.1, but for the order of argsort.

    array_api_compat has one too, but it imports all of numpy, tests and compilers included.
    """

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        setattr(self, name, value)
        return value

    @staticmethod
    def argsort(
        x: Array, *, axis: int = -1, descending: bool = False, stable: bool = True
    ) -> Array:
        if not descending:
            return np.argsort(x, axis=axis, stable=stable)
        order = np.argsort(np.flip(x, axis), axis=axis, stable=stable)
        return x.shape[axis] - 1 - np.flip(order, axis)


class HostSpace:
    """numpy, where the host's share of every backend runs; the numpy backend builds on it."""

    name = "numpy"
    xp: Any = Numpy()
    overrides: Mapping[str, Callable[..., Any]] = {}
    holds_data = True
    wider: Mapping[str, str] = WIDER
    carriers: Mapping[str, str] = {}

    def put(self, array: np.ndarray[Any, Any]) -> Array:
        return array

    def get(self, value: Array) -> np.ndarray[Any, Any]:
        return np.asarray(value)

    def dtype_of(self, value: Array) -> str:
        return "string" if value.dtype.kind == "O" else str(value.dtype.name)

    def cast(self, value: Array, dtype: str) -> Array:
        return np.asarray(value).astype(numpy_dtype(dtype), copy=False)


HOST = HostSpace()


@dataclass(frozen=True)
class Both:
    """A small integer weight, at hand on the host and on the device."""

    host: np.ndarray[Any, Any]
    device: Array


@dataclass(frozen=True)
class Step:
    """One layer, resolved once: what to call, with which names, and what may be dropped after."""

    layer: Layer
    op: Op
    formals: tuple[str, ...]  # one for each positional argument
    args: tuple[str | None, ...]
    attrs: dict[str, Any]
    wanted: tuple[bool, ...]
    drops: tuple[str, ...]


class Program:
    """A graph made ready for a space: weights moved once, layers resolved once."""

    def __init__(self, graph: Graph, space: Space) -> None:
        problems = check(graph)
        if problems:
            raise UnsupportedError(
                "this model cannot be run by hubtool:",
                problems=problems,
                hint="`hubtool check` lists what is missing; the onnxruntime backend may run it.",
            )
        self.graph = graph
        self.space = space
        self.captured = captures(graph)
        host_only = self._read_on_host_only()
        self.weights: dict[str, Any] = {}
        for name, tensor in graph.tensors.items():
            array = tensor.aligned
            if space.name == "numpy" or tensor.dtype == "string" or name in host_only:
                self.weights[name] = array
            elif array.size <= SMALL and (array.dtype.kind in "iub" or not space.holds_data):
                self.weights[name] = Both(array, space.put(array))
            else:
                self.weights[name] = space.put(array)
        self.steps = self._resolve()

    def _read_on_host_only(self) -> set[str]:
        """The weights that only ever serve as shapes, axes or pads."""
        hosted: set[str] = set()
        elsewhere: set[str] = set(self.graph.outputs)
        for layer in self.graph.layers:
            known = lookup(layer.op)
            assert known is not None
            for formal, names in layer.inputs.items():
                if isinstance(names, str) and formal in known.host:
                    hosted.add(names)
                else:
                    elsewhere.update([names] if isinstance(names, str) else names)
            for body in layer.subgraphs().values():
                elsewhere.update(captures(body))
        return hosted - elsewhere

    def _resolve(self) -> list[Step]:
        last_reader: dict[str, int] = {}
        for index, layer in enumerate(self.graph.layers):
            for name in (*names_read(layer), *filter(None, layer.outputs)):
                last_reader[name] = index
        kept = set(self.graph.outputs) | set(self.weights) | self.captured
        drops: dict[int, list[str]] = {}
        for name, index in last_reader.items():
            if name not in kept:
                drops.setdefault(index, []).append(name)
        return [
            self._step(layer, tuple(drops.get(index, ())))
            for index, layer in enumerate(self.graph.layers)
        ]

    def _step(self, layer: Layer, drops: tuple[str, ...]) -> Step:
        known = lookup(layer.op)
        assert known is not None
        formals: list[str] = []
        args: list[str | None] = []
        for formal in known.inputs:
            names = layer.inputs.get(formal.name)
            listed = names if isinstance(names, list) else [] if formal.variadic else [names]
            formals += [formal.name] * len(listed)
            args += [name or None for name in listed]
        attrs: dict[str, Any] = {}
        for key, attr in layer.attrs.items():
            if isinstance(attr, TensorRef):
                attrs[key] = self.graph.tensors[attr.name].array
            else:
                attrs[key] = Program(attr, self.space) if isinstance(attr, Graph) else attr
        wanted = tuple(bool(name) for name in layer.outputs)
        return Step(layer, known, tuple(formals), tuple(args), attrs, wanted, drops)

    def run(
        self,
        feeds: Mapping[str, Any],
        outer: Mapping[str, Any] | None = None,
        watch: Callable[[Layer, Sequence[Any]], None] | None = None,
        generator: np.random.Generator | None = None,
    ) -> dict[str, Any]:
        """The outputs by name, in graph order. Feeds are this space's arrays; `outer` holds what
        a subgraph captures; `watch` is shown every layer with the values that it made;
        `generator` draws the random numbers, others at every run where it is not given."""
        generator = np.random.default_rng() if generator is None else generator
        env: dict[str, Any] = {name: outer[name] for name in self.captured} if outer else {}
        env.update(self.weights)
        env.update(feeds)
        with np.errstate(all="ignore"):
            for step in self.steps:
                results = self._run_step(step, env, generator)
                if watch is not None:
                    watch(step.layer, results)
        return {name: _plain(env[name]) for name in self.graph.outputs}

    def _run_step(
        self, step: Step, env: dict[str, Any], generator: np.random.Generator
    ) -> Sequence[Any]:
        given = [None if name is None else env[name] for name in step.args]
        values: list[Any] = []
        try:
            space, values = self._place(step, given)
            results = self._call(step, space, values, env, generator)
            if step.op.on_host and any(_place_of(value) == "device" for value in given):
                results = tuple(self._to_device(value) for value in results)
        except HubtoolError:
            raise
        except Exception as error:
            raise RunError(_describe(step, values or given, self.space, error)) from error
        produced = zip(step.layer.outputs, results, strict=False)
        env.update((name, value) for name, value in produced if name)
        for name in step.drops:
            env.pop(name, None)
        return results

    def _place(self, step: Step, given: list[Any]) -> tuple[Space, list[Any]]:
        """Where a layer runs, and its inputs there."""
        if self.space.name == "numpy":
            return self.space, given
        places = {_place_of(value) for value in given}
        control = step.op.moves and bool(step.layer.subgraphs())
        # Where there are no data, what is at hand is computed with rather than forgotten.
        known = {"host"} if self.space.holds_data else {"host", "both"}
        if known & places and "device" not in places and not control:
            return HOST, [_plain(value) for value in given]
        if step.op.on_host and step.op.name not in self.space.overrides:
            return HOST, [self._to_host(value) for value in given]
        # The shape of an operator may not depend on what it wants at hand, where there are no data.
        at_hand = step.op.host if self.space.holds_data or step.op.shape is None else frozenset()
        device = _plain if control else self._to_device
        return self.space, [
            self._to_host(value)
            if formal in at_hand
            else _plain(value)
            if formal in step.op.host and _place_of(value) != "device"
            else device(value)
            for formal, value in zip(step.formals, given, strict=True)
        ]

    def _to_host(self, value: Any) -> Any:
        value = _plain(value)
        if isinstance(value, list):
            return [self._to_host(item) for item in value]
        at_hand = value is None or isinstance(value, np.ndarray | dict)
        return value if at_hand else self.space.get(value)

    def _to_device(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._to_device(item) for item in value]
        if isinstance(value, Both):
            return value.device
        is_host = isinstance(value, np.ndarray) and value.dtype.kind != "O"
        return self.space.put(value) if is_host else value

    def _call(
        self,
        step: Step,
        space: Space,
        values: list[Any],
        env: dict[str, Any],
        generator: np.random.Generator,
    ) -> tuple[Any, ...]:
        dtypes = dict(zip(step.formals, (_dtype(value, space) for value in values), strict=True))
        function = space.overrides.get(step.op.name)
        wider = space.carriers if step.op.moves else space.wider
        if not wider.keys().isdisjoint(dtypes.values()):
            values = [_widened(value, space, wider) for value in values]
        attrs = {
            key: Body(attr, env, generator) if isinstance(attr, Program) else attr
            for key, attr in step.attrs.items()
        }
        context = Context(space, step.wanted, dtypes, generator)
        results = (function or step.op.function)(context, *values, **attrs)
        if not isinstance(results, tuple):
            results = (results,)
        rules = step.op.returns
        return tuple(
            _as_declared(value, rules[min(index, len(rules) - 1)], dtypes, step, space)
            for index, value in enumerate(results)
        )


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.host if isinstance(value, Both) else value


def _place_of(value: Any) -> str:
    """Where a value is: "host", "device", "both", or "" where it is nothing at all."""
    if isinstance(value, list):
        places = {_place_of(item) for item in value}
        return next((place for place in ("device", "host", "both") if place in places), "")
    if value is None or isinstance(value, Both):
        return "both" if value is not None else ""
    return "host" if isinstance(value, np.ndarray | dict) else "device"


@dataclass(frozen=True)
class Body:
    """A subgraph as the function of its inputs; what it captures is taken from `env`."""

    program: Program
    env: Mapping[str, Any]
    generator: np.random.Generator

    @property
    def outputs(self) -> dict[str, Value]:
        """What is known of its results, by name."""
        return self.program.graph.outputs

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        names = self.program.graph.inputs
        if len(names) != len(inputs):
            raise ValueError(f"its subgraph has {len(names)} inputs, and is given {len(inputs)}")
        feeds = dict(zip(names, inputs, strict=True))
        return tuple(self.program.run(feeds, self.env, generator=self.generator).values())


def _dtype(value: Any, space: Space) -> str:
    if value is None or isinstance(value, list | dict):
        return ""
    return (HOST if isinstance(value, np.ndarray) else space).dtype_of(value)


def _widened(value: Any, space: Space, wider: Mapping[str, str]) -> Any:
    dtype = wider.get(_dtype(value, space))
    if dtype is None:
        return value
    return (HOST if isinstance(value, np.ndarray) else space).cast(value, dtype)


def _as_declared(value: Any, rule: str, dtypes: dict[str, str], step: Step, space: Space) -> Any:
    """Cast a result to the dtype that the operator's schema gives it."""
    if isinstance(value, np.generic):  # what numpy makes of arrays without dimensions
        value = np.asarray(value)
    if value is None or isinstance(value, list | dict) or not rule:
        return value
    dtype = rule
    if rule in dtypes:
        dtype = dtypes[rule]
    elif rule in step.op.attrs:
        dtype = DTYPES[step.attrs[rule]]
    owner = HOST if isinstance(value, np.ndarray) else space
    if not dtype or owner.dtype_of(value) == dtype:  # none: of an input that is absent
        return value
    return owner.cast(value, dtype)


def _describe(step: Step, values: list[Any], space: Space, error: Exception) -> str:
    shown = []
    for formal, value in zip(step.formals, values, strict=True):
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            dims = ",".join(map(str, value.shape))
            shown.append(f"{formal} {_dtype(value, space)}[{dims}]")
    reason = str(error) or type(error).__name__
    return f"while running {step.op.name} '{step.layer.name}' ({', '.join(shown)}): {reason}"
