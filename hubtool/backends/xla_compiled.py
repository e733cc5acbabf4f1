"""The two kinds of parts of a graph on XLA: one compiled for what it meets, one run as it is.

A compiled part is traced with the interpreter, as any array library is run: what it reads are
tracers, what it makes is the program. Numpy arrays among its results (the shapes that were
computed on the way) are facts of the trace: they are kept beside the program, not in it.

    fed arrays' shapes and dtypes, static inputs' elements  ──▶  program + facts   (traced once)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hubtool.backends.parts import Part, read_as_numbers
from hubtool.backends.xla_cache import load_or_compile
from hubtool.backends.xla_dtypes import Carried
from hubtool.errors import RunError
from hubtool.graph import Graph
from hubtool.interpreter import Program

__all__ = ["Compiled", "Eager"]

Array = Any

PROGRAMS = 64
"""The programs of one part that are kept in memory; the oldest goes."""

COMPILER = {"xla_allow_excess_precision": False}
"""A value rounded to bfloat16 is rounded, even if it is widened again at once."""

CONVOLUTIONS = frozenset({"Conv", "com.microsoft.FusedConv"})


def _share(program: Program, weights: dict[str, Any], own: Collection[str] = ()) -> None:
    """Weights that several parts read are one array, but for a part's own."""
    for name, value in program.weights.items():
        if name not in own:
            program.weights[name] = weights.setdefault(name, value)


class Eager:
    """Layers that run one by one."""

    def __init__(self, part: Part, space: Any, weights: dict[str, Any]) -> None:
        self.program = Program(part.graph, space)
        self.inputs = [*part.graph.inputs]
        self.drops = part.drops
        _share(self.program, weights)

    def run(self, env: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """What the layers make of the values in `env`."""
        given = {name: env[name] for name in self.inputs if name in env}
        return self.program.run(given, generator=generator)


@dataclass
class Made:
    """A program, the structure of its results, and those of them that are known already: one
    entry a result, None where the program gives it."""

    call: Any
    tree: Any
    facts: list[Any]


class Compiled:
    """Layers that XLA compiles together."""

    def __init__(
        self,
        part: Part,
        space: Any,
        at_hand: frozenset[str],
        weights: dict[str, Any],
        keep: bool,
    ) -> None:
        self.space = space
        self.program = Program(part.graph, space)
        self.inputs = [*part.graph.inputs]
        self.drops = part.drops
        self.at_hand = at_hand
        self.keep = keep
        self.label = _label(part.graph)
        self.turned = _turn(part.graph, self.program, space, weights)
        _share(self.program, weights, self.turned)
        numbers = read_as_numbers(part.graph)
        self.weights = {
            name: value
            for name, value in self.program.weights.items()
            if name not in numbers and isinstance(value, space.jax.Array | Carried)
        }
        self.programs: OrderedDict[Any, Made] = OrderedDict()
        self.lock = threading.Lock()

    def run(self, env: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """What the layers make of the values in `env`."""
        jax = self.space.jax
        given = {name: env[name] for name in self.inputs if name in env}
        fixed = {name: given.pop(name) for name in [*given] if self._is_fixed(name, given[name])}
        given = {name: self._on_device(value) for name, value in given.items()}
        leaves, tree = jax.tree_util.tree_flatten(given)
        static = tuple((k, v.dtype.name, v.shape, v.tobytes()) for k, v in fixed.items())
        key = (tree, tuple(leaf.aval for leaf in leaves), static)
        weights = {name: value for name, value in self.weights.items() if name not in given}
        with self.lock:
            made = self.programs.get(key)
            if made is None:
                made = self.programs[key] = self._compiled(weights, given, fixed)
                if len(self.programs) > PROGRAMS:
                    self.programs.popitem(last=False)
        try:
            results = iter(made.call(weights, given))
        except jax.errors.JaxRuntimeError as error:
            raise RunError(f"while running {self.label}: {error}") from error
        values = [next(results) if fact is None else fact for fact in made.facts]
        return dict(jax.tree_util.tree_unflatten(made.tree, values))

    def _is_fixed(self, name: str, value: Any) -> bool:
        return name in self.at_hand and isinstance(value, np.ndarray)

    def _on_device(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._on_device(item) for item in value]
        return self.space.put(value) if isinstance(value, np.ndarray) else value

    def _compiled(
        self, weights: Mapping[str, Any], given: Mapping[str, Any], fixed: Mapping[str, Any]
    ) -> Made:
        jax, seen = self.space.jax, Made(None, None, [])

        def part(weights: Mapping[str, Any], given: Mapping[str, Any]) -> list[Any]:
            feeds = {**self._turned_back(weights), **fixed, **given}
            leaves, seen.tree = jax.tree_util.tree_flatten(self.program.run(feeds))
            seen.facts = [leaf if isinstance(leaf, np.ndarray) else None for leaf in leaves]
            return [leaf for leaf in leaves if not isinstance(leaf, np.ndarray)]

        lowered = jax.jit(part).lower(weights, given)
        if all(fact is not None for fact in seen.facts):
            seen.call = lambda weights, given: ()
        elif self.keep:
            seen.call = load_or_compile(jax, lowered, self.space.device, COMPILER)
        else:
            seen.call = lowered.compile(compiler_options=dict(COMPILER))
        return seen

    def _turned_back(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """The weights as the layers know them: [M, C, …] where they lie as […, C, M]."""
        jnp = self.space.jax.numpy
        return {
            name: jnp.permute_dims(W, (W.ndim - 1, W.ndim - 2, *range(W.ndim - 2)))
            if name in self.turned
            else W
            for name, W in weights.items()
        }


def _turn(graph: Graph, program: Program, space: Any, weights: dict[str, Any]) -> set[str]:
    """Lay the weights that only convolutions read as […, C, M], as XLA's kernels want them: else
    every run would do it. Gives their names."""
    kernels: set[str] = set()
    others = {*graph.outputs, *graph.inputs, *weights}
    for layer in graph.layers:
        for formal, names in layer.inputs.items():
            if formal == "W" and layer.op in CONVOLUTIONS and isinstance(names, str):
                kernels.add(names)
            else:
                others.update([names] if isinstance(names, str) else names)
        for body in layer.subgraphs().values():
            others.update(name for each in body.layers for name in each.reads())
            others.update(body.outputs)
    turned = (kernels & graph.tensors.keys()) - others
    for name in turned:
        W = graph.tensors[name].array
        if W.dtype.name in ("float32", "float64") and W.ndim > 2:
            taps = (*range(2, W.ndim), 1, 0)
            program.weights[name] = space.put(np.ascontiguousarray(W.transpose(taps)))
        else:
            turned = turned - {name}
    return turned


def _label(graph: Graph) -> str:
    """Which layers a program is of, for messages."""
    first, last = graph.layers[0], graph.layers[-1]
    if first is last:
        return f"{first.op} '{first.name}'"
    return (
        f"the compiled part of {len(graph.layers)} layers,"
        f" {first.op} '{first.name}' to {last.op} '{last.name}'"
    )
