"""Drop what no output needs: layers, tensors, and what was known of their values."""

from __future__ import annotations

from hubtool.graph import Graph
from hubtool.passes.rewriting import everywhere

__all__ = ["prune"]


@everywhere
def prune(graph: Graph) -> None:
    """Keep only the layers, tensors and values from which an output is computed."""
    graph.prune()
