"""What holds for every pass, on drawn graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubtool import passes
from hubtool.graph import Graph

from .builders import random_net, residual_net, run

EXACT = (passes.drop_noops, passes.prune)
ROUNDING = (passes.fold_constants, passes.fold_batch_norm, passes.fuse_conv, passes.prepare)


def assert_close(a: dict[str, Any], b: dict[str, Any], tolerance: float) -> None:
    assert [*a] == [*b]
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert np.abs(a[name] - b[name]).max() <= tolerance * np.abs(a[name]).max()


def described(graph: Graph) -> str:
    return f"{graph}\n{sorted(graph.values)}\n{sorted(graph.tensors)}"


@pytest.mark.parametrize("rewrite", [*EXACT, *ROUNDING], ids=lambda rewrite: rewrite.__name__)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_a_pass_keeps_the_outputs_and_is_pure_and_idempotent(rewrite, seed):
    graph = random_net(seed)
    before = described(graph)
    once = rewrite(graph)
    assert described(graph) == before
    assert [*once.inputs] == [*graph.inputs]
    assert set(once.values) <= {name for layer in once.layers for name in layer.outputs}
    assert_close(run(graph), run(once), 0 if rewrite in EXACT else 1e-5)
    assert described(rewrite(once)) == described(once)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_values_and_tensors_of_a_prepared_graph_are_all_in_use(seed):
    graph = passes.prepare(random_net(seed))
    made = {name for layer in graph.layers for name in layer.outputs}
    read = {name for layer in graph.layers for name in layer.reads()}
    assert set(graph.values) <= made
    assert set(graph.tensors) <= read


def test_a_residual_net_is_prepared_into_its_convolutions():
    graph = residual_net()
    ready = passes.prepare(graph)
    assert [layer.op for layer in ready.layers] == [
        "com.microsoft.FusedConv",  # + Relu
        "com.microsoft.FusedConv",  # + Relu
        "com.microsoft.FusedConv",  # + stem, Relu
        "com.microsoft.FusedConv",  # + LeakyRelu; the Add comes after it and stays
        "Add",
    ]
    assert_close(run(graph), run(ready), 1e-5)
