"""What the passes have in common: how a rewrite becomes a pass, and the questions they all ask.

A rewrite changes one graph in place; `everywhere` makes it a pure pass over a graph and its
subgraphs. Inside a subgraph only its own tensors count as weights: a name captured from around it
may be anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from hubtool.graph import Graph, Layer, Tensor, names_read

__all__ = ["constant", "everywhere", "fresh", "names_in", "only_reader"]


def everywhere(rewrite: Callable[[Graph], None]) -> Callable[[Graph], Graph]:
    """The pass that applies `rewrite` to a copy of the graph, its subgraphs first."""

    @wraps(rewrite)
    def apply(graph: Graph) -> Graph:
        copy = graph.copy()
        _walk(copy, rewrite)
        return copy

    return apply


def _walk(graph: Graph, rewrite: Callable[[Graph], None]) -> None:
    for layer in graph.layers:
        for body in layer.subgraphs().values():
            _walk(body, rewrite)
    rewrite(graph)


def constant(graph: Graph, name: str | list[str] | None) -> Tensor | None:
    """The weight of that name, or None where it is none or a caller may override it."""
    if not isinstance(name, str) or name in graph.inputs:
        return None
    return graph.tensors.get(name)


def only_reader(graph: Graph, users: dict[str, list[Layer]], name: str) -> Layer | None:
    """The one layer that reads the value, once; None where others do, or a graph output is it."""
    readers = users.get(name, [])
    return readers[0] if len(readers) == 1 and name not in graph.outputs else None


def names_in(graph: Graph) -> set[str]:
    """Every name that means something in this graph, or is captured in its subgraphs."""
    names = {*graph.inputs, *graph.outputs, *graph.tensors}
    for layer in graph.layers:
        names.update(layer.outputs)
        names.update(names_read(layer))
    return names


def fresh(taken: set[str], wish: str) -> str:
    """The wished name, numbered where it is taken; from now on it is taken."""
    name, count = wish, 1
    while name in taken:
        count += 1
        name = f"{wish}_{count}"
    taken.add(name)
    return name
