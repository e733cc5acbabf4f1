"""What onnx's version converter gets wrong: put right, or refused, around the lifting.

The converter raises where it knows that it cannot convert, but some changes of meaning it does not
know; then the model would compute something else and nobody would be told. Each function below is
one such change, with the opset that made it; all but `asymmetric` work on the model as it was
written, after its functions have been inlined.

    BatchNormalization   9   spatial=0 cannot be said any more
    Dropout             12   the mask was undefined outside of training
    GroupNormalization  21   scale and bias were one value a group, not one a channel
    Hardmax             13   the input was coerced to two dimensions
    PRelu                7   one slope a channel, not numpy's broadcasting
    Resize              11   pixels began at their corner; Upsample's until 10 too
    Scan                 9   ran once for each sample of a batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import onnx
from onnx.helper import make_attribute, make_node

from hubtool.errors import UnsupportedError

__all__ = ["CHANGED", "asymmetric", "every_graph", "functions", "graphs_in", "repair"]

CHANGED = {
    "BatchNormalization": 9,
    "Dropout": 12,
    "GroupNormalization": 21,
    "Hardmax": 13,
    "PRelu": 7,
    "Resize": 11,
    "Scan": 9,
    "Upsample": 10,
}


def repair(model: onnx.ModelProto, opset: int, notes: list[str]) -> None:
    """Put right what can be; `notes` gets a sentence where the model itself was wrong. Raises
    UnsupportedError with every layer that cannot be lifted."""
    mends: dict[str, Callable[[onnx.ModelProto, int], list[str]]] = {
        "Dropout": _dropout,
        "GroupNormalization": _group_normalization,
        "Hardmax": _hardmax,
        "PRelu": _prelu,
        "Scan": _scan,
    }
    present = {node.op_type for graph in every_graph(model) for node in graph.node}
    problems = _spatial(model, notes) if "BatchNormalization" in present else []
    for op, mend in mends.items():
        if op in present and opset < CHANGED[op]:
            problems += mend(model, opset)
    _raise(problems)


def functions(model: onnx.ModelProto, opset: int) -> None:
    """A function of another opset than the model's is converted while it is inlined, where nothing
    can be repaired: UnsupportedError if it holds one of these operators as it was."""
    problems: list[str] = []
    for function in model.functions:
        versions = [e.version for e in function.opset_import if e.domain in ("", "ai.onnx")]
        version = versions[0] if versions else opset
        inner = [node for graph in graphs_in(function.node) for node in graph.node]
        problems += [
            f"{_label(node)} of function '{function.name:.80}' is of opset {version}, the model of "
            f"{opset}"
            for node in (*function.node, *inner)
            if version != opset and min(version, opset) < CHANGED.get(node.op_type, 0)
        ]
    _raise(problems)


def asymmetric(model: onnx.ModelProto, notes: list[str]) -> None:
    """Until opset 10, Upsample and Resize took a pixel's place for its corner; the converter leaves
    Resize with the default of later opsets, its centre. The nearest pixel was the one before when
    the picture grew and the one behind when it shrank. For the lifted model."""
    problems: list[str] = []
    scales: dict[str, list[float]] = {}
    for graph in every_graph(model):
        scales.update(_floats(graph))
        for node in _nodes(graph, "Resize"):
            known = scales.get(node.input[2]) if _is_nearest(node) else []
            shrinks = any(scale < 1 for scale in known or ())
            if shrinks and any(scale > 1 for scale in known or ()):
                problems.append(f"{_label(node)} shrinks and grows, as only opset 10 can say")
            if known is None:
                notes.append(f"{_label(node)} was read as one that makes pictures larger")
            for name in ("coordinate_transformation_mode", "nearest_mode"):
                for attribute in [a for a in node.attribute if a.name == name]:
                    node.attribute.remove(attribute)
            node.attribute.append(make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(make_attribute("nearest_mode", "ceil" if shrinks else "floor"))
    _raise(problems)


def _is_nearest(node: onnx.NodeProto) -> bool:
    return next((a.s for a in node.attribute if a.name == "mode"), b"nearest") == b"nearest"


def every_graph(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph of a model and all below it."""
    yield model.graph
    yield from graphs_in(model.graph.node)


def graphs_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """All graphs that stand in the attributes of nodes."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
                yield from graphs_in(attribute.g.node)


def _spatial(model: onnx.ModelProto, notes: list[str]) -> list[str]:
    """spatial=0 with statistics of one axis is invalid, and was meant as spatial=1: the zoo's
    ResNets before April 2020 (onnx/models#146). Real spatial=0, with statistics of every position,
    is refused."""
    ranks: dict[str, int] = {}
    repaired = 0
    problems: list[str] = []
    for graph in every_graph(model):
        ranks.update((name, len(shape)) for name, shape in _shapes(graph))
        for node in _nodes(graph, "BatchNormalization"):
            spatial = [attribute for attribute in node.attribute if attribute.name == "spatial"]
            if not spatial or spatial[0].i == 1:
                continue
            if any(ranks.get(name, 1) != 1 for name in node.input[1:5]):
                problems.append(
                    f"{_label(node)} has spatial=0 with statistics of every position, which no "
                    "opset from 9 on can say"
                )
            node.attribute.remove(spatial[0])
            repaired += 1
    if repaired:
        notes.append(
            f"{repaired} BatchNormalization layers said spatial=0 with statistics of one axis, "
            "which is invalid; they were read as spatial=1 (onnx/models#146)"
        )
    return problems


def _dropout(model: onnx.ModelProto, opset: int) -> list[str]:
    """A mask that nobody reads is left out; one that is read has no meaning."""
    read = {value.name for graph in every_graph(model) for value in graph.output}
    read.update(name for graph in every_graph(model) for node in graph.node for name in node.input)
    problems: list[str] = []
    for graph in every_graph(model):
        for node in _nodes(graph, "Dropout"):
            if any(name in read for name in node.output[1:] if name):
                problems.append(f"{_label(node)} gives its mask, undefined until opset 12")
            del node.output[1:]
    return problems


def _group_normalization(model: onnx.ModelProto, opset: int) -> list[str]:
    return [
        f"{_label(node)} has scale and bias by group, as only opsets 18 to 20 can say"
        for graph in every_graph(model)
        for node in _nodes(graph, "GroupNormalization")
    ]


def _hardmax(model: onnx.ModelProto, opset: int) -> list[str]:
    """Hardmax(input, axis) = Reshape(Hardmax(Flatten(input, axis), 1), Shape(input))"""
    problems: list[str] = []
    for graph in every_graph(model):
        taken = {name for n in graph.node for name in (n.name, *n.input, *n.output)}
        for place, node in reversed([*enumerate(graph.node)]):
            if node.op_type != "Hardmax" or node.domain not in ("", "ai.onnx"):
                continue
            if opset < 5 or len(node.input) != 1 or len(node.output) != 1:
                problems.append(f"{_label(node)} is of opset {opset}, where it cannot be repaired")
                continue
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            (x,), (y,) = node.input, node.output
            shape, flat, hot = (_fresh(f"{y}_{part}", taken) for part in ("shape", "flat", "hot"))
            steps = [
                make_node("Shape", [x], [shape], _fresh(f"{node.name}_shape", taken)),
                make_node("Flatten", [x], [flat], _fresh(f"{node.name}_flat", taken), axis=axis),
                make_node("Hardmax", [flat], [hot], node.name, axis=1),
                make_node("Reshape", [hot, shape], [y], _fresh(f"{node.name}_reshape", taken)),
            ]
            rest = [*graph.node[place + 1 :]]
            del graph.node[place:]
            graph.node.extend([*steps, *rest])
    return problems


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _prelu(model: onnx.ModelProto, opset: int) -> list[str]:
    shapes: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []
    for graph in every_graph(model):
        shapes.update(_shapes(graph))
        for node in _nodes(graph, "PRelu"):
            shape = shapes.get(node.input[1] if len(node.input) > 1 else "", (0,))
            if len(shape) == 1 and shape != (1,):
                problems.append(f"{_label(node)} has a slope by channel, as only opsets 1 to 6 do")
    return problems


def _scan(model: onnx.ModelProto, opset: int) -> list[str]:
    """The converter takes the batch away, also from the inputs and outputs of the model."""
    return [
        f"{_label(node)} runs for each sample of a batch, as only opset 8 can say"
        for graph in every_graph(model)
        for node in _nodes(graph, "Scan")
    ]


def _nodes(graph: onnx.GraphProto, op: str) -> list[onnx.NodeProto]:
    return [n for n in graph.node if n.op_type == op and n.domain in ("", "ai.onnx")]


def _label(node: onnx.NodeProto) -> str:
    return f"layer '{node.name or ''.join(node.output[:1]):.200}' ({node.op_type})"


def _shapes(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The shapes of a graph's inputs, initializers and constants; 0 for a size that is unknown."""
    for value in graph.input:
        if value.type.tensor_type.HasField("shape"):
            yield value.name, tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    for tensor in graph.initializer:
        yield tensor.name, tuple(tensor.dims)
    for node in _nodes(graph, "Constant"):
        if node.output and len(node.attribute) == 1:
            yield node.output[0], tuple(node.attribute[0].t.dims)


def _floats(graph: onnx.GraphProto) -> Iterator[tuple[str, list[float]]]:
    """The numbers of a graph's initializers and constants of type float, if they are at hand."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in _nodes(graph, "Constant"):
        if len(node.attribute) == 1:
            tensors[node.output[0]] = node.attribute[0].t
    for name, tensor in tensors.items():
        if tensor.data_type == tensor.FLOAT and tensor.data_location != tensor.EXTERNAL:
            yield name, onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()


def _raise(problems: list[str]) -> None:
    if problems:
        raise UnsupportedError("it cannot be converted", problems=problems)
