"""Which layers the engine runs, and which stay with numpy, each with its reason.

    x ──▶ [ Conv Relu MaxPool … ] ──▶ NonMaxSuppression ──▶ [ Gemm … ] ──▶ y
                 a plan                     numpy              a plan

What can be lowered is the lowering's to say. A plan is worth it where it holds a layer that takes
time: to hand a few numbers over for an addition or an activation alone costs more than it saves,
so such layers stay with numpy where nothing heavier stands beside them.
"""

from __future__ import annotations

from hubtool.backends.native.lower import reason_against
from hubtool.backends.parts import Part, split
from hubtool.graph import Graph

__all__ = ["HEAVY", "parts_of"]

HEAVY = frozenset(
    {
        "AveragePool",
        "Conv",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "LRN",
        "MatMul",
        "MaxPool",
        "com.microsoft.FusedConv",
    }
)
"""The operators for which alone a plan is made."""

LIGHT = "it alone is not worth a plan"


def parts_of(graph: Graph) -> tuple[list[Part], list[str]]:
    """A prepared graph in parts, and a line for each layer that stays with numpy."""
    reasons = [reason_against(layer, graph) for layer in graph.layers]
    while True:
        parts = split(graph, [bool(reason) for reason in reasons])
        light = {
            id(layer)
            for part in parts
            if part.compiled and not any(layer.op in HEAVY for layer in part.graph.layers)
            for layer in part.graph.layers
        }
        if not light:
            break
        reasons = [
            LIGHT if id(layer) in light else reason
            for layer, reason in zip(graph.layers, reasons, strict=True)
        ]
    told = zip(graph.layers, reasons, strict=True)
    return parts, [f"{layer.op} '{layer.name}': {reason}" for layer, reason in told if reason]
