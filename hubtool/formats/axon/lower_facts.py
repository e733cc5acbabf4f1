"""What is known of every value before it exists: its dtype, its sizes, its numbers if it has any.

Elixir gets the graph with symbolic sizes open (a batch of any size), so a size is a number or
follows from a symbol:

    Dim(0, None, 224)    224            Dim(1, "N", 0)    N            Dim(2, "H", -1)    2 H - 1

The graph is run on shapes alone (`hubtool.meta`), once for each of several sizes of its symbols.
What is the same every time is a constant: so shape arithmetic is folded by the operators' own
meaning. What changes in step with one symbol is a Dim. The sizes are chosen apart from each
other, so that two agree in all runs only where they are one. What follows no such rule is not
known (None), and an operator that needs it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from hubtool.errors import HubtoolError
from hubtool.graph import Graph, Layer, Tensor, TensorRef
from hubtool.interpreter import HOST, SMALL, Program
from hubtool.meta import MetaArray, MetaSpace

__all__ = ["Array", "Dim", "Facts", "fold_small", "gather"]

Array = np.ndarray[Any, Any]

BATCHES = (2, 3, 5, 7)
EXTENTS = (
    (64, 96, 160, 224),
    (224, 256, 320, 416),
    (32, 48, 56, 80),
    (8, 12, 20, 28),
    (3, 4, 6, 9),
)
"""Sizes to try, for a first axis and for others; the nets that take any picture have strides of up
to 32, and those that take any text have a longest one, often of 512."""


@dataclass(frozen=True)
class Dim:
    """factor · symbol + offset; without a symbol the number alone."""

    factor: int
    symbol: str | None
    offset: int

    @property
    def number(self) -> int | None:
        return self.offset if self.symbol is None else None


@dataclass
class Facts:
    """What is known of each value, by name.

    symbols: for each, the graph input and the axis where it stands.
    runs: for each run over sizes, symbol -> size. shapes, dtypes: of every value.
    host: the numbers of those values that are shape arithmetic, one array a run.
    constants: numbers that are the same in every run.
    """

    symbols: dict[str, tuple[str, int]]
    runs: list[dict[str, int]]
    shapes: dict[str, list[tuple[int, ...]]]
    dtypes: dict[str, str]
    host: dict[str, list[Array]]
    constants: dict[str, Array]

    def dims(self, name: str) -> tuple[Dim | None, ...]:
        """The sizes of a value; None for one that follows no simple rule."""
        return tuple(self.rule(sizes) for sizes in zip(*self.shapes[name], strict=True))

    def rank(self, name: str) -> int:
        return len(self.shapes[name][0])

    def dtype(self, name: str) -> str:
        return self.dtypes[name]

    def rule(self, sizes: Sequence[int]) -> Dim | None:
        """The Dim that gives these sizes in the runs, or None."""
        if len(set(sizes)) == 1:
            return Dim(0, None, int(sizes[0]))
        for symbol in self.symbols:
            at = [run[symbol] for run in self.runs]
            factor = (int(sizes[1]) - int(sizes[0])) // (at[1] - at[0])
            offset = int(sizes[0]) - factor * at[0]
            if factor and all(
                factor * n + offset == size for n, size in zip(at, sizes, strict=True)
            ):
                return Dim(factor, symbol, offset)
        return None


def fold_small(graph: Graph) -> dict[str, Array]:
    """The values that follow from small weights alone, up to 64 elements, weights included."""
    known = {
        name: tensor
        for name, tensor in graph.tensors.items()
        if tensor.size <= SMALL and tensor.dtype != "string" and name not in graph.inputs
    }
    values: dict[str, Array] = {name: tensor.array for name, tensor in known.items()}
    for layer in graph.layers:
        if layer.op in ("Dropout", "Shape") or layer.subgraphs():
            continue
        refs = {attr.name for attr in layer.attrs.values() if isinstance(attr, TensorRef)}
        read = {*layer.reads()} | refs
        if not read <= {*values} or not _stays_small(layer, values):
            continue
        tensors = {name: Tensor.of(np.asarray(values[name])) for name in read}
        outputs = {name: graph.known(name) for name in layer.outputs if name}
        alone = Graph([layer], {}, dict.fromkeys(outputs), tensors)  # type: ignore[arg-type]
        try:
            made = Program(alone, HOST).run({})
        except HubtoolError:
            continue
        values.update({k: np.asarray(v) for k, v in made.items() if np.size(v) <= SMALL})
    return values


def _stays_small(layer: Layer, values: dict[str, Array]) -> bool:
    """Whether running it may take no more than a little memory; a few numbers can ask for much."""
    if layer.op in ("ConstantOfShape", "Expand", "Tile", "Pad", "Range"):
        numbers = [values[name] for name in layer.reads()]
        return all(abs(float(n)) <= SMALL for array in numbers for n in array.reshape(-1))
    return True


def gather(graph: Graph) -> Facts | str:
    """The facts of a graph, or the reason why there are none."""
    symbols: dict[str, tuple[str, int]] = {}
    named: dict[str, list[str | int]] = {}
    for name, value in graph.free_inputs.items():
        if value.kind != "tensor" or value.shape is None:
            return f"the input '{name}' is {value}; its number of axes must be known"
        dims: list[str | int] = []
        for axis, dim in enumerate(value.shape):
            symbol = dim if dim is not None else f"{name}[{axis}]"
            if isinstance(symbol, str):
                symbols.setdefault(symbol, (name, axis))
            dims.append(symbol)
        named[name] = dims
    constants = fold_small(graph)
    reason = ""
    for extents in EXTENTS:
        runs = _sizes(symbols, extents)
        if runs is None:
            return f"{len(symbols)} sizes of its inputs are open; say some of them"
        try:
            return _run_all(graph, symbols, named, runs, constants)
        except HubtoolError as error:
            reason = str(error)
    return f"its shapes do not follow from those of its inputs: {reason}"


def _sizes(
    symbols: dict[str, tuple[str, int]], extents: tuple[int, ...]
) -> list[dict[str, int]] | None:
    """The size of each symbol in each run, so that none follows from another; None if there are
    too many symbols for that."""
    chosen: dict[str, tuple[int, ...]] = {}
    for symbol, (_, axis) in symbols.items():
        orders = permutations(BATCHES if axis == 0 else extents)
        apart = (order for order in orders if not any(_in_step(order, o) for o in chosen.values()))
        order = next(apart, None)
        if order is None:
            return None
        chosen[symbol] = order
    count = len(BATCHES) if symbols else 1
    return [{symbol: order[run] for symbol, order in chosen.items()} for run in range(count)]


def _in_step(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether b is factor · a + offset."""
    pairs = [(x - a[0], y - b[0]) for x, y in zip(a[1:], b[1:], strict=True)]
    (dx, dy), *others = pairs
    return all(x * dy == y * dx for x, y in others)


def _run_all(
    graph: Graph,
    symbols: dict[str, tuple[str, int]],
    named: dict[str, list[str | int]],
    runs: list[dict[str, int]],
    constants: dict[str, Array],
) -> Facts:
    facts = Facts(symbols, runs, {}, {}, {}, dict(constants))
    for name, tensor in graph.tensors.items():
        facts.shapes[name], facts.dtypes[name] = [tensor.shape] * len(runs), tensor.dtype
    program = Program(_light(graph), MetaSpace())

    def note(name: str, value: Any) -> None:
        if isinstance(value, np.ndarray | np.generic):
            facts.host.setdefault(name, []).append(np.asarray(value))
        if hasattr(value, "shape"):
            facts.shapes.setdefault(name, []).append(tuple(value.shape))
            facts.dtypes[name] = MetaSpace().dtype_of(value)

    def watch(layer: Layer, results: Iterable[Any]) -> None:
        for name, value in zip(layer.outputs, results, strict=False):
            if name:
                note(name, value)

    for run in runs:
        feeds = {}
        for name, dims in named.items():
            shape = tuple(run[d] if isinstance(d, str) else d for d in dims)
            feeds[name] = MetaArray(graph.inputs[name].dtype, shape)
            note(name, feeds[name])
        program.run(feeds, watch=watch)
    facts.host = {name: found for name, found in facts.host.items() if len(found) == len(runs)}
    for name, found in facts.host.items():
        first, *others = found
        if first.size <= SMALL and all(np.array_equal(first, other) for other in others):
            facts.constants.setdefault(name, first)
    return facts


def _light(graph: Graph) -> Graph:
    """The graph with weights that need not be read: only small ones take part in shapes."""
    light = graph.copy()
    for name, tensor in graph.tensors.items():
        if tensor.size > SMALL and tensor.dtype != "string":
            light.tensors[name] = Tensor.of(_hollow(tensor))
    return light


def _hollow(tensor: Tensor) -> Array:
    from hubtool.dtypes import numpy_dtype

    return np.broadcast_to(np.zeros((), numpy_dtype(tensor.dtype)), tensor.shape)
