"""Shapes without data: those of the suite's outputs, without an element being seen.

An input that an operator takes for its numbers (a shape, axes, how many) is given as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubtool.graph import Graph
from hubtool.interpreter import Program
from hubtool.meta import MetaSpace
from hubtool.ops import lookup

KNOWN_FAILURES = "shapes"


def test_shapes_without_data_are_those_of_the_data(case) -> None:
    for fed, expected in case.feeds():
        at_hand = read_as_numbers(case.graph)
        feeds = {k: value if k in at_hand else without_data(value) for k, value in fed.items()}
        made = Program(case.graph, MetaSpace()).run(feeds)
        found = [described(value) for value in made.values()]
        assert found[: len(expected)] == [described(value) for value in expected]


def read_as_numbers(graph: Graph) -> set[str]:
    """The values that make shapes: what operators take on the host."""
    return {
        name
        for layer in graph.layers
        for formal, name in layer.inputs.items()
        if isinstance(name, str) and (op := lookup(layer.op)) is not None and formal in op.host
    }


def without_data(value: Any) -> Any:
    if isinstance(value, list):
        return [*map(without_data, value)]
    return None if value is None else MetaSpace().put(value)


def described(value: Any) -> Any:
    if isinstance(value, list):
        return [*map(described, value)]
    if value is None:
        return None
    known = MetaSpace().put(value) if isinstance(value, np.ndarray) else value
    return known.dtype, known.shape
