"""Models for an engine that a sanitizer watches: their sizes end where no vector and no tile does.

`python -m backends.watched` runs them all on the backend `native`, in one process, and compares
them with their definitions; HUBTOOL_NATIVE_LIBRARY and HUBTOOL_NATIVE_ISA say on which engine.
`overrun` does on purpose what no plan of ours does: it writes behind the caller's array.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from passes.builders import layer, random_net, residual_net

from hubtool import Model
from hubtool.backends.native import library
from hubtool.graph import Graph, Tensor, Value

from .grids import alone, assert_close, defined, draw

Array = np.ndarray[Any, Any]
Case = tuple[str, Graph, dict[str, Array]]


def _one(op: str, inputs: dict[str, Array], **attrs: Any) -> Case:
    first, array = next(iter(inputs.items()))
    return f"{op} {array.shape} {attrs}", alone(op, inputs, **attrs), {first: array}


def _behind_a_pool(op: str, formal: str, weights: dict[str, Array], **attrs: Any) -> Case:
    """A layer that alone would not be worth a plan."""
    X = draw(2, 21, 9, 11)
    graph = alone("MaxPool", {"X": X}, kernel_shape=[2, 3])
    graph.layers.append(layer(op, {formal: "y0", **{key: key for key in weights}}, "z", **attrs))
    graph.tensors.update({key: Tensor.of(weight) for key, weight in weights.items()})
    graph.outputs = {"z": Value("tensor", "", None)}
    return f"MaxPool, {op} {attrs}", graph, {"X": X}


def convolutions() -> Iterator[Case]:
    """One by one, Winograd's, the first of a net, strided, dilated, grouped, depthwise."""
    for n, size, inside, outside, kernel, group, attrs in [
        (1, 7, 33, 17, 1, 1, {}),
        (2, 9, 16, 48, 1, 1, {"strides": [2, 2]}),
        (2, 13, 19, 35, 3, 1, {"pads": [1, 1, 1, 1]}),
        (1, 6, 64, 70, 3, 1, {"pads": [0, 1, 1, 0]}),
        (1, 23, 3, 20, 7, 1, {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
        (3, 11, 1, 5, 3, 1, {"strides": [2, 2]}),
        (1, 12, 24, 10, 3, 1, {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
        (1, 8, 12, 18, 3, 3, {"pads": [1, 1, 1, 1]}),
        (2, 10, 21, 21, 3, 21, {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
        (1, 9, 37, 37, 5, 37, {"pads": [2, 2, 2, 2]}),
    ]:
        W = draw(outside, inside // group, kernel, kernel, seed=1)
        inputs = {"X": draw(n, inside, size, size + 2), "W": W, "B": draw(outside, seed=2)}
        yield _one("Conv", inputs, group=group, **attrs)


def others() -> Iterator[Case]:
    """Windows, elementwise layers, products, what goes over channels."""
    X = draw(2, 21, 9, 11)
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    yield _one("MaxPool", {"X": X}, **window)
    yield _one("AveragePool", {"X": X}, **window)
    yield _one("AveragePool", {"X": X}, **window, count_include_pad=1)
    yield _one("GlobalAveragePool", {"X": X})
    yield _one("GlobalMaxPool", {"X": X})
    yield _behind_a_pool("Add", "A", {"B": draw(21, 1, 1, seed=1)})
    yield _behind_a_pool("Mul", "B", {"A": draw(1, seed=1)})
    yield _behind_a_pool("Sub", "A", {"B": draw(8, 9, seed=1)})
    for op in ("Relu", "Sigmoid", "HardSwish", "Gelu"):
        yield _behind_a_pool(op, "X", {})
    yield _behind_a_pool("Exp", "input", {})
    yield _behind_a_pool("Softmax", "input", {}, axis=-1)
    yield _one("LRN", {"X": X}, size=5)
    for rows, inner, columns in ((1, 70, 37), (13, 7, 1), (33, 65, 10), (15, 100, 50)):
        yield _one("MatMul", {"A": draw(rows, inner), "B": draw(inner, columns, seed=1)})


def nets() -> Iterator[Case]:
    """Layers that hand each other pictures with halos, and share memory."""
    for name, graph in [
        ("residual net", residual_net()),
        *((f"random net {seed}", random_net(seed)) for seed in (0, 2, 3, 4, 5, 7)),
    ]:
        _, *shape = graph.inputs["data"].shape or ()
        yield name, graph, {"data": draw(3, *map(int, shape), seed=3)}


def main() -> None:
    """Exit 1 at the first model that differs; a sanitizer ends the process before."""
    cases = [*convolutions(), *others(), *nets()]
    compiled = 0
    for name, graph, feeds in cases:
        model = Model(graph, backend="native", threads=2, options={"tune": False})
        given = model.run(feeds)
        try:
            assert_close(given, defined(graph, feeds), 1e-4)
            assert_close(model.run(feeds), given, 0)
        except AssertionError as error:
            sys.exit(f"{name}: {error}")
        compiled += not model.notes
        if model.notes:
            sys.stderr.write(f"{name}: {model.notes}\n")
    sys.stdout.write(f"{compiled} of {len(cases)} models ran compiled on {library.isa()}\n")


def overrun() -> None:
    """Write one row more than the caller's array has."""
    n, c = 9, 16
    step = np.zeros(1, library.step_dtype())
    step["kind"], step["weights"], step["bias"] = library.code("kinds", "unary"), -1, -1
    for operand, where in (("x", "input"), ("y", "output")):
        for field, value in {"where": library.code("where", where), "n": n, "h": 1, "w": 1}.items():
            step[operand][field] = value
        for field in ("c", "pixel", "row", "image"):
            step[operand][field] = c
    plan = library.Plan(library.isa(), step, 0, np.empty(0, np.uint8), library.Pool(1))
    plan._wanted["output"] = [0]
    plan.run([np.ones((n, c), np.float32)], [np.empty((n - 1, c), np.float32)])


if __name__ == "__main__":
    overrun() if sys.argv[1:] == ["overrun"] else main()
