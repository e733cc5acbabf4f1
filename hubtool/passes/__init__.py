"""Rewrites of the layer graph: one a file, each a pure function Graph -> Graph.

A pass never changes the graph that it is given: it copies the layers and shares the tensors. It
looks for its pattern, gives up early where anything is in doubt, and rewrites; subgraphs are
rewritten like the graph around them. Names of graph inputs and outputs stay. Every pass keeps
what the graph computes: exactly where it only moves or drops, up to rounding where it folds.

A backend runs `prepare` before it runs a graph. What is saved is never prepared, so that a file
stays portable and a BatchNormalization can still be trained.
"""

from __future__ import annotations

from collections.abc import Callable

from hubtool.graph import Graph
from hubtool.passes.drop_noops import drop_noops
from hubtool.passes.fold_batch_norm import fold_batch_norm
from hubtool.passes.fold_constants import fold_constants
from hubtool.passes.fuse_conv import fuse_conv
from hubtool.passes.prune import prune

__all__ = [
    "PREPARE",
    "drop_noops",
    "fold_batch_norm",
    "fold_constants",
    "fuse_conv",
    "prepare",
    "prune",
]

Pass = Callable[[Graph], Graph]

PREPARE: tuple[Pass, ...] = (fold_constants, drop_noops, fold_batch_norm, fuse_conv, prune)
"""The passes that make a graph ready to be run, in their order."""


def prepare(graph: Graph) -> Graph:
    """The graph as a backend runs it: constants folded, no-ops gone, convolutions fused."""
    for rewrite in PREPARE:
        graph = rewrite(graph)
    return graph
