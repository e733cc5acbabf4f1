"""Looking at a model without running it: the layer table with its totals, and what stops it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hubtool.errors import HubtoolError, InputError
from hubtool.graph import Graph, Layer, Value, parameters
from hubtool.meta import MetaArray, infer_shapes

__all__ = ["Row", "Table", "layer_table"]


@dataclass(frozen=True)
class Row:
    """One layer: parameters are the weights that it reads first, multiply_adds what it computes
    (None where a shape is not known)."""

    name: str
    op: str
    shape: str
    parameters: int
    multiply_adds: int | None


@dataclass(frozen=True)
class Table:
    """Every layer in running order, with what goes in and comes out. notes: what the backend that
    was asked for has to say of it; None where none was."""

    inputs: dict[str, str]
    outputs: dict[str, str]
    rows: list[Row]
    notes: list[str] | None = None

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int | None:
        """The sum over all layers, or None where one of them is not known."""
        known = [row.multiply_adds for row in self.rows if row.multiply_adds is not None]
        return sum(known) if len(known) == len(self.rows) else None

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "layers": [asdict(row) for row in self.rows],
            "totals": {
                "layers": len(self.rows),
                "parameters": self.parameters,
                "multiply_adds": self.multiply_adds,
            },
        } | ({} if self.notes is None else {"notes": self.notes})


def layer_table(graph: Graph, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Table:
    """The layer table; with `shapes` (input name -> shape) for these, computed on values that have
    a shape and no data, else with the shapes that were known when the model was read.

    Where a model leaves its batch open, multiply-adds are those of a batch of one.
    Raises InputError (a shape that does not fit) and RunError (the layer where shapes clash).

    Example: `layer_table(graph, {"data": (8, 3, 224, 224)}).multiply_adds`
    """
    values = {**graph.values, **graph.inputs, **graph.outputs}
    if shapes:
        values.update(_computed(graph, _feeds(graph, shapes)))
    counted = values if shapes else {**values, **_batch_of_one(graph)}
    seen: set[str] = set()
    rows = []
    for layer in graph.layers:
        weights = [n for n in layer.reads() if n in graph.tensors and n not in seen]
        seen.update(weights)
        tensors = [graph.tensors[name] for name in weights]
        held = dict(zip(weights, tensors, strict=True))
        size = parameters(Graph(tensors=held)) + sum(map(parameters, layer.subgraphs().values()))
        outputs = ", ".join(str(values.get(name, "?")) for name in layer.outputs if name)
        count = _multiply_adds(layer, graph, counted)
        rows.append(Row(layer.name, layer.op, outputs, size, count))
    return Table(
        {name: str(values[name]) for name in graph.free_inputs},
        {name: str(values[name]) for name in graph.outputs},
        rows,
    )


def _computed(graph: Graph, feeds: Mapping[str, MetaArray]) -> dict[str, Value]:
    """Every value, the inputs too, for inputs of these shapes."""
    inputs = {name: Value("tensor", feed.dtype, feed.shape) for name, feed in feeds.items()}
    return {**inputs, **infer_shapes(graph, feeds)}


def _batch_of_one(graph: Graph) -> dict[str, Value]:
    """Every value with 1 for an open first axis of the inputs; nothing where another axis is open,
    or where the layers need more than shapes."""
    feeds = {}
    for name, value in graph.free_inputs.items():
        dims = list(value.shape or ())
        if dims and not isinstance(dims[0], int):
            dims[0] = 1
        sizes = tuple(dim for dim in dims if isinstance(dim, int))
        if value.kind != "tensor" or value.shape is None or len(sizes) < len(dims):
            return {}
        feeds[name] = MetaArray(value.dtype, sizes)
    try:
        return _computed(graph, feeds)
    except HubtoolError:
        return {}


def _feeds(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, MetaArray]:
    """Values without data of the given shapes, which need not be the model's own; an input that is
    not named keeps its own shape where that is fixed."""
    wrong = [name for name in shapes if name not in graph.inputs]
    feeds = {}
    for name, value in graph.free_inputs.items():
        own = tuple(dim for dim in value.shape or () if isinstance(dim, int))
        if name in shapes:
            feeds[name] = MetaArray(value.dtype, shapes[name])
        elif value.shape is not None and len(own) == len(value.shape):
            feeds[name] = MetaArray(value.dtype, own)
    open_ = [name for name in graph.free_inputs if name not in feeds]
    if wrong or open_:
        listed = ", ".join(f"'{name}' {value}" for name, value in graph.free_inputs.items())
        raise InputError(
            "these shapes do not tell those of the model's inputs:",
            problems=[
                *(f"'{name}' is no input" for name in wrong),
                *(f"input '{name}' needs a shape: its own is open" for name in open_),
            ],
            hint=f"Its inputs are {listed}.",
        )
    return feeds


def _multiply_adds(layer: Layer, graph: Graph, values: Mapping[str, Value]) -> int | None:
    """What a layer multiplies and adds, one of each counted as one; 0 for all but convolutions and
    matrix products, as is the custom."""
    count = COUNTS.get(layer.op)
    if count is None:
        return 0

    def shape(name: str) -> tuple[int, ...] | None:
        known = graph.known(name) if name in graph.tensors else values.get(name)
        if known is None or known.shape is None:
            return None
        sizes = tuple(dim for dim in known.shape if isinstance(dim, int))
        return sizes if len(sizes) == len(known.shape) else None

    reads = [shape(name) for name in layer.reads()][:2]
    made = shape(layer.outputs[0])
    if made is None or len(reads) < 2 or reads[0] is None or reads[1] is None:
        return None
    return count(layer, reads[0], reads[1], made)


Shape = tuple[int, ...]


def _conv(layer: Layer, X: Shape, W: Shape, Y: Shape) -> int:
    """Each output element is a sum over C / group channels and the kernel: W is [M, C/group, …]."""
    return math.prod(Y) * math.prod(W[1:])


def _conv_transpose(layer: Layer, X: Shape, W: Shape, Y: Shape) -> int:
    """Each input element goes into M / group channels and the kernel: W is [C, M/group, …]."""
    return math.prod(X) * math.prod(W[1:])


def _matmul(layer: Layer, A: Shape, B: Shape, Y: Shape) -> int:
    return math.prod(Y) * A[-1]


def _gemm(layer: Layer, A: Shape, B: Shape, Y: Shape) -> int:
    return math.prod(Y) * A[0 if layer.attrs.get("transA") else 1]


COUNTS: dict[str, Callable[[Layer, Shape, Shape, Shape], int]] = {
    "Conv": _conv,
    "com.microsoft.FusedConv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
}
