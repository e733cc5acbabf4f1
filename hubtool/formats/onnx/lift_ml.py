"""Brings the operators of ai.onnx.ml to version 5, which onnx's version converter leaves alone.

Two things have changed. LabelEncoder 1 knew one list of classes; 4 has keys and values. And the
ensembles of trees of versions 1 and 3 are one TreeEnsemble at 5 (`lift_trees`). Both become layers
as hubtool's own opset has them, so all this comes after the rest of the model has been lifted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx.helper import get_attribute_value

from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.lift_trees import INT64, STRING, Layers, classifier, regressor
from hubtool.formats.onnx.walk import Names, dtypes_of, every_graph, label
from hubtool.ops import OPSETS

__all__ = ["rewrite"]

DOMAIN = "ai.onnx.ml"
VERSION = OPSETS[DOMAIN]

Attributes = dict[str, Any]


def rewrite(model: onnx.ModelProto) -> None:
    """Bring the model's ai.onnx.ml to version 5, in place; its ai.onnx stands at hubtool's opset.

    A model of a later version stays as it is, and is refused when it is bound. Raises
    UnsupportedError with every layer that cannot be lifted.
    """
    imports = [entry for entry in model.opset_import if entry.domain == DOMAIN]
    versions = {entry.version for entry in imports}
    if max(versions, default=VERSION) > VERSION:
        return
    old = {op for op in STEPS if min(versions, default=VERSION) < SINCE[op]}
    graphs = [g for g in every_graph(model) if any(_is_old(n, old) for n in g.node)]
    if graphs:
        dtypes, names = dtypes_of(model), Names(model)
        problems = [text for graph in graphs for text in _rewrite(graph, old, dtypes, names)]
        if problems:
            raise UnsupportedError("it cannot be converted", problems=problems)
    for entry in imports:
        entry.version = VERSION


def _is_old(node: onnx.NodeProto, old: set[str]) -> bool:
    return node.domain == DOMAIN and node.op_type in old


def _rewrite(
    graph: onnx.GraphProto, old: set[str], dtypes: dict[str, int], names: Names
) -> Iterator[str]:
    """Replace a graph's old nodes; what cannot be is told."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if not _is_old(node, old):
            nodes.append(node)
            continue
        attributes = {a.name: _value(a) for a in node.attribute}
        layers = Layers(names, node.name or node.output[0])
        try:
            made = STEPS[node.op_type](layers, node.input[0], attributes, dtypes)
        except ValueError as error:
            yield f"{label(node)}: {error}"
        else:
            nodes += layers.named(dict(zip(made, node.output, strict=False)))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _value(attribute: onnx.AttributeProto) -> Any:
    """An attribute's value; numbers as arrays."""
    value = get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value).reshape(-1)
    if attribute.type == attribute.INTS:
        return np.array(value, np.int64)
    return np.array(value, np.float32) if attribute.type == attribute.FLOATS else value


def _label_encoder(
    layers: Layers, X: str, attributes: Attributes, dtypes: dict[str, int]
) -> list[str]:
    """Version 1: from a class to its place, or back; of equal classes the last one counts."""
    classes = [*attributes.pop("classes_strings", ())]
    if dtypes.get(X) == STRING:
        places = {text: place for place, text in enumerate(classes)}
        attributes |= {"keys_strings": [*places], "values_int64s": [*places.values()]}
    elif dtypes.get(X) == INT64:
        attributes |= {"keys_int64s": [*range(len(classes))], "values_strings": classes}
    else:
        raise ValueError("whether it reads text or numbers is not known")
    return [layers("LabelEncoder", X, domain=DOMAIN, **attributes)]


STEPS: dict[str, Callable[[Layers, str, Attributes, dict[str, int]], list[str]]] = {
    "LabelEncoder": _label_encoder,
    "TreeEnsembleClassifier": classifier,
    "TreeEnsembleRegressor": regressor,
}
"""What an old node becomes: a step appends layers and gives the names of their results."""

SINCE = {
    "LabelEncoder": 2,
    "TreeEnsembleClassifier": VERSION + 1,
    "TreeEnsembleRegressor": VERSION + 1,
}
"""Below which version of ai.onnx.ml a node is old. The ensembles are at version 5 too, though ONNX
Runtime still runs them there."""
