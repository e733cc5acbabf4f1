"""ONNX's own node cases on every array library, and their shapes without data."""

from __future__ import annotations

import numpy as np

from hubtool.interpreter import Program
from hubtool.meta import MetaSpace
from hubtool.ops import OPS, lookup

WITHOUT_A_CASE = {
    "GlobalLpPool",  # test_window.py
    "com.microsoft.FusedConv",  # test_fused.py
}


def test_case_passes(space, case):
    case.check(case.run(space))


def test_shapes_without_data_are_those_of_the_data(case):
    feeds = {
        name: array if name in read_as_numbers(case.graph) else MetaSpace().put(array)
        for name, array in case.feeds.items()
    }
    made = Program(case.graph, MetaSpace()).run(feeds)
    found = {name: described(value) for name, value in made.items()}
    assert found == {name: described(value) for name, value in case.expected.items()}


def read_as_numbers(graph):
    """The values that make shapes: what operators take on the host."""
    return {
        name
        for layer in graph.layers
        for formal, name in layer.inputs.items()
        if isinstance(name, str) and formal in lookup(layer.op).host
    }


def described(value):
    known = MetaSpace().put(value) if isinstance(value, np.ndarray) else value
    return known.dtype, known.shape


def test_every_operator_has_a_case_here_or_a_test_of_its_own(suite):
    tested = {layer.op for case in suite.values() for layer in case.graph.layers}
    assert set(OPS) - tested == WITHOUT_A_CASE
