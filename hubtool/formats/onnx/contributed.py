"""What ONNX Runtime has put into ONNX's own domain: operators that ONNX has later, or elsewhere.

Files that ONNX Runtime or its transformers tools have optimised hold them at any opset; onnx's
converter knows none of them and stops. They pass it as `PINNED` layers, as the pinned opset has
them, so that what is read holds ONNX's operators and no others.

    LayerNormalization            below 17: what ONNX took over with opset 17
    MemcpyFromHost, MemcpyToHost  Identity: copies between devices
    SimplifiedLayerNormalization  RMSNormalization of opset 23, with an output for training

What is in its domain com.microsoft stays there, and is in `hubtool.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx

from hubtool.formats.onnx.walk import PINNED, every_graph, label, names_read, nodes_of
from hubtool.ops import OPSETS

__all__ = ["CONTRIBUTED"]

SINCE = {
    "LayerNormalization": (17, "LayerNormalization"),
    "MemcpyFromHost": (math.inf, "Identity"),
    "MemcpyToHost": (math.inf, "Identity"),
    "SimplifiedLayerNormalization": (math.inf, "RMSNormalization"),
}
"""The opset that has it in ONNX, and what it is called there."""


def _mend(op: str) -> Callable[[onnx.ModelProto, list[str]], list[str]]:
    def mend(model: onnx.ModelProto, notes: list[str]) -> list[str]:
        problems, read = [], names_read(model)
        versions = [e.version for e in model.opset_import if e.domain in ("", "ai.onnx")]
        domain = PINNED if min(versions) < OPSETS[""] else ""
        for node in [node for graph in every_graph(model) for node in nodes_of(graph, op)]:
            if op == "SimplifiedLayerNormalization":
                problems += [
                    f"{label(node)} gives inv_std_var, which only a training wants"
                    for name in node.output[1:]
                    if name in read
                ]
                del node.output[1:]
            node.op_type, node.domain = SINCE[op][1], domain
        return problems

    return mend


CONTRIBUTED = tuple((op, since, _mend(op)) for op, (since, _) in SINCE.items())
"""Operator, the opset from which on it needs no repair, and the repair: lines of `MENDS`."""
