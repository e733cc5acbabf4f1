"""A graph on the engine: parts that it runs by a plan, and between them layers in numpy.

A plan is for known shapes. It is made when they are first fed: taken from disk (`kept`), or
lowered and packed, with each layer done as a rule says; where they are fed a second time, it is
tuned. In memory, what was not used for longest goes.
What a plan cannot be made for (shapes that do not fit, nothing to compute, another dtype) runs
layer by layer in numpy, whose word it is then what is wrong.

    feeds ──▶ part ──▶ part ──▶ … ──▶ outputs
               │
               └─ shapes ──▶ plan in memory ─or▶ plan on disk ─or▶ lower, pack, keep; later tune

The passes and the lowering run when something needs them: of a model that was prepared before, only
the outline is read. Plans are made one at a time in a process, so that timing is not disturbed;
whoever has a plan runs at once, in any number of threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from hubtool import passes
from hubtool.backends.native import kept, library
from hubtool.backends.native.kept import Outline, Prepared
from hubtool.errors import UnsupportedError
from hubtool.graph import Graph
from hubtool.ops import check

__all__ = ["Runner", "Settings", "pool"]

Array = np.ndarray[Any, Any]
Shapes = tuple[tuple[int, ...], ...]

ARENAS = 1 << 30
"""The bytes that the arenas of one part's plans may take in memory; the last one is kept anyway."""

PLANS = 64
"""The plans of one part that are kept in memory."""

TUNINGS = 4
"""How many combinations of shapes are tuned for one part in one process: a model whose shapes are
others at every run is not tuned at every run. What follows takes over the last one's choices."""

WORTH = 0.05
"""The seconds that making a plan has to take for it to be kept on disk."""

_making = threading.Lock()
_pools: dict[int, library.Pool] = {}


def _after_fork() -> None:
    """The thread that held the lock has stayed behind."""
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def pool(threads: int) -> library.Pool:
    """The one pool of this process with so many threads."""
    return _pools.get(threads) or _pools.setdefault(threads, library.Pool(threads))


@dataclass(frozen=True)
class Settings:
    """How plans are made: for which instruction set and how many threads, in which precision
    ("float32", "bfloat16"), exact or with Winograd, tuned or not (at_once: before the first run
    rather than the second), and whether they are kept."""

    isa: str
    threads: int
    precision: str
    exact: bool
    tune: bool
    at_once: bool
    disk_cache: bool


class Source:
    """What the parts of a model are made from: its graph as it was read, and how it falls into
    parts, which is known beforehand where it is kept on disk under `key` ("" where it is not)."""

    def __init__(self, graph: Graph, settings: Settings) -> None:
        self.read = graph.copy()
        self.settings = settings
        told = [settings.isa, settings.precision, settings.exact]
        self.key = kept.key_of(self.read, *told) if settings.disk_cache else ""
        outline = kept.load_outline(self.key) if self.key else None
        self.is_kept = outline is not None
        self.outline = outline or self.made[1]

    @cached_property
    def made(self) -> tuple[list[Graph], Outline, Mapping[str, Array]]:
        """The graphs of the parts, their outline, and the constants that it names.

        Raises UnsupportedError with all that hubtool lacks.
        """
        from hubtool.backends.native.split import parts_of

        problems = check(self.read)
        if problems:
            raise UnsupportedError(
                "this model cannot be run by hubtool:",
                problems=problems,
                hint="`hubtool check` lists what is missing; the onnxruntime backend may run it.",
            )
        ready = passes.prepare(self.read)
        constants = {
            name: tensor.aligned
            for name, tensor in ready.tensors.items()
            if name in ready.inputs or name in ready.outputs
        }
        # What a caller may feed is no weight that a plan could hold.
        open_ = {k: t for k, t in ready.tensors.items() if k not in ready.inputs}
        parts, notes = parts_of(replace(ready, tensors=open_))
        crossing = {name for part in parts for name in (*part.graph.inputs, *part.graph.outputs)}
        outline = Outline(
            [
                (
                    [*part.graph.inputs],
                    [*part.graph.outputs],
                    [name for name in part.drops if name in crossing],
                    part.compiled,
                )
                for part in parts
            ],
            [*constants],
            notes,
        )
        return [part.graph for part in parts], outline, constants

    def graph(self, index: int) -> Graph:
        """The graph of a part."""
        return self.made[0][index]

    def constants(self) -> Mapping[str, Array]:
        """The outputs, and defaults of inputs, that are weights."""
        return self.made[2] if self.outline.constants else {}

    def kept(self) -> None:
        """Keep the outline too, if it is not: a plan of it is kept."""
        if not self.is_kept:
            kept.save_outline(self.key, self.outline)
            self.is_kept = True


class Runner:
    """A graph on the engine.

    notes: a line for each layer that stays with numpy, with the reason.
    """

    device = "cpu"

    def __init__(self, graph: Graph, settings: Settings) -> None:
        self.source = Source(graph, settings)
        self.settings = settings
        self.outputs = [*graph.outputs]
        self.notes: Sequence[str] = self.source.outline.notes
        self.parts: list[Planned | ByLayer] = [
            (Planned if by_engine else ByLayer)(self.source, index)
            for index, (_, _, _, by_engine) in enumerate(self.source.outline.parts)
        ]

    def run(self, feeds: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
        """The outputs by name, in graph order; none shares memory with a feed or a weight."""
        from hubtool.backends.arrays import owned

        constants = self.source.constants()
        env: dict[str, Any] = {**constants, **feeds}
        generator: list[np.random.Generator] = []
        for part in self.parts:
            env.update(part.run(env, generator))
            for name in part.drops:
                env.pop(name, None)
        lent = (*feeds.values(), *constants.values())
        given = [value for value in lent if isinstance(value, np.ndarray)]
        return {name: owned(env[name], given) for name in self.outputs}


class ByLayer:
    """A part whose layers numpy runs, one by one."""

    def __init__(self, source: Source, index: int) -> None:
        self.source, self.index = source, index
        self.inputs, self.outputs, self.drops, _ = source.outline.parts[index]

    @cached_property
    def program(self) -> Any:
        from hubtool.backends.numpy import NumpySpace
        from hubtool.interpreter import Program

        return Program(self.source.graph(self.index), NumpySpace())

    def run(self, env: Mapping[str, Any], generator: list[np.random.Generator]) -> dict[str, Any]:
        """What the layers make of the values in `env`. generator: the run's, if it has one yet."""
        if not generator:
            generator.append(np.random.default_rng())
        given = {name: env[name] for name in self.inputs if name in env}
        made: dict[str, Any] = self.program.run(given, generator=generator[0])
        return made


@dataclass
class Plan:
    """A plan in memory. by_rule: its choices could still be tuned. used: when it last was, and
    0 before it has run."""

    plan: library.Plan
    inputs: list[str]
    outputs: list[tuple[str, tuple[int, ...]]]
    arena: int
    by_rule: bool = False
    used: float = 0.0


class Planned:
    """A part that the engine runs, by a plan for each combination of shapes that it meets."""

    def __init__(self, source: Source, index: int) -> None:
        self.source, self.index = source, index
        self.settings = source.settings
        self.by_layer = ByLayer(source, index)
        self.inputs, self.outputs, self.drops, _ = source.outline.parts[index]
        self.plans: dict[Shapes, Plan | None] = {}
        self.choices: kept.Choices = {}
        self.tunings = 0

    def run(self, env: Mapping[str, Any], generator: list[np.random.Generator]) -> dict[str, Any]:
        """What the layers make of the values in `env`."""
        plan = self._plan([env[name] for name in self.inputs])
        if plan is None:
            return self.by_layer.run(env, generator)
        made = {name: np.empty(shape, np.float32) for name, shape in plan.outputs}
        plan.plan.run([_aligned(env[name]) for name in plan.inputs], [*made.values()])
        plan.used = time.monotonic()
        return made

    def _plan(self, given: list[Any]) -> Plan | None:
        """The plan for these inputs, None where there can be none."""
        if not all(
            isinstance(each, np.ndarray) and each.dtype == np.float32 and each.size
            for each in given
        ):
            return None
        shapes = tuple(each.shape for each in given)
        known = self.plans.get(shapes, ())
        if known == () or _is_due(known):
            with _making:
                known = self.plans.get(shapes, ())
                if known == ():
                    known = self._from_disk(shapes) or self._made(shapes, self.settings.at_once)
                    self._forget(known.arena if known else 0)
                    self.plans[shapes] = known
                elif _is_due(known):
                    known = self.plans[shapes] = self._made(shapes, True)
        return known if isinstance(known, Plan) else None

    def _forget(self, more: int) -> None:
        """Let go what was used least recently, until there is room for this arena."""
        held = sorted(self.plans.items(), key=lambda item: item[1].used if item[1] else 0.0)
        total = more + sum(plan.arena for _, plan in held if plan)
        count = len(held)
        for shapes, plan in held:
            if total <= ARENAS and count < PLANS:
                break
            total -= plan.arena if plan else 0
            count -= 1
            del self.plans[shapes]

    def _key(self, shapes: Shapes) -> str:
        settings = self.settings
        return kept.hash_of(self.source.key, self.index, shapes, settings.threads, settings.tune)

    def _from_disk(self, shapes: Shapes) -> Plan | None:
        if not self.source.key:
            return None
        found = kept.load_plan(self._key(shapes))
        if found is None or (found.by_rule and self.settings.at_once):
            return None
        self.source.kept()
        self.choices = found.choices or self.choices
        return self._ready(found)

    def _ready(self, prepared: Prepared) -> Plan:
        steps = prepared.steps.view(library.step_dtype())
        threads = pool(self.settings.threads)
        plan = library.Plan(self.settings.isa, steps, prepared.arena, prepared.weights, threads)
        ends = (prepared.inputs, prepared.outputs)
        return Plan(plan, *ends, prepared.arena, prepared.by_rule)

    def _made(self, shapes: Shapes, tune: bool) -> Plan | None:
        """A new plan, kept on disk where it was worth the time."""
        from hubtool.backends.native.lower import Unlowerable

        start = time.perf_counter()
        try:
            prepared, final = self._prepared(shapes, tune)
        except Unlowerable:
            return None
        if self.source.key and final and time.perf_counter() - start > WORTH:
            prepared = kept.save_plan(self._key(shapes), prepared)
            self.source.kept()
        elif len(prepared.weights):
            prepared = replace(prepared, weights=kept.shared(prepared.weights))
        return self._ready(prepared)

    def _prepared(self, shapes: Shapes, tune: bool) -> tuple[Prepared, bool]:
        """The part for these shapes, and whether it is to be kept: not with the choices of other
        shapes. tune: now; else by those, or by rule."""
        from hubtool.backends.native.tune import tuned

        lowered, memory = self._lowered(shapes, {}), [kept.room(0)]
        several = any(len(known) > 1 for known in lowered.choices.values())
        if not (self.settings.tune and several):
            return self._packed(lowered, memory), True
        more = self.tunings < TUNINGS
        if tune and more:
            ways = {
                layer: [(each.algorithm, each.variant) for each in known]
                for layer, known in lowered.choices.items()
            }
            self.choices = tuned(ways, lambda picked: self._timed(shapes, picked, memory))
            self.tunings += 1
        final = bool(tune and more) or not self.choices
        packed = self._packed(self._lowered(shapes, self.choices), memory)
        return replace(packed, choices=self.choices, by_rule=more and not tune), final

    def _lowered(self, shapes: Shapes, choices: kept.Choices) -> Any:
        from hubtool.backends.native.lower import Choice, lower

        return lower(
            self._graph,
            dict(zip(self.inputs, shapes, strict=True)),
            isa=self.settings.isa,
            precision=self.settings.precision,
            exact=self.settings.exact,
            choices={layer: Choice(*choice) for layer, choice in choices.items()},
        )

    def _packed(self, lowered: Any, memory: list[kept.Bytes]) -> Prepared:
        """memory: where the weights go, if there is room; else what is made becomes it."""
        from hubtool.backends.native.lower import fill

        if len(memory[0]) < lowered.blob:
            memory[0] = kept.room(lowered.blob)
        weights = memory[0][: lowered.blob]
        fill(lowered, self._graph, self.settings.isa, weights, self.settings.threads)
        steps = np.ascontiguousarray(lowered.steps).view(np.uint8)
        return Prepared(steps, lowered.arena, weights, lowered.inputs, lowered.outputs, {})

    def _timed(self, shapes: Shapes, choices: kept.Choices, memory: list[kept.Bytes]) -> Timed:
        lowered = self._lowered(shapes, choices)
        layers = {f"{each.op} '{each.name}'": each.name for each in self._graph.layers}
        fed = dict(zip(self.inputs, shapes, strict=True))
        plan = self._ready(self._packed(lowered, memory))
        return Timed(
            plan,
            [layers.get(label, "") for label in lowered.labels],
            [fed[name] for name in plan.inputs],
        )

    @property
    def _graph(self) -> Graph:
        return self.source.graph(self.index)


def _is_due(plan: Any) -> bool:
    """Whether this is a plan to be tuned: it has run, so it will again."""
    return isinstance(plan, Plan) and plan.by_rule and plan.used > 0


def _aligned(array: Array) -> Array:
    return array if array.flags.aligned else array.copy()


class Timed:
    """A part with certain choices, run for its time."""

    def __init__(self, plan: Plan, layers: list[str], shapes: list[tuple[int, ...]]) -> None:
        """layers: the one of each step. shapes: those of the plan's inputs."""
        self.plan, self.layers = plan, layers
        draw = np.random.default_rng(0)
        self.given = [draw.standard_normal(shape, np.float32) for shape in shapes]
        self.made = [np.empty(shape, np.float32) for _, shape in plan.outputs]

    def run(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The seconds of each step in one run, by numbers drawn at random."""
        seconds = np.zeros(len(self.layers))
        self.plan.plan.run(self.given, self.made, seconds)
        return seconds
