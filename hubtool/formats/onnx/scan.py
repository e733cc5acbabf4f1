"""Scan of opset 8, which ran once for each sample of a batch, as a loop in a loop.

    for b in range(B):                      Loop, whose scan outputs are stacked over the batch
        state = [init[b], …]
        for t in range(T):                  Loop, whose scan outputs are stacked over time
            state, y = body(state, x[b][t])

Loop means today what it meant then, and Scan does not: the converter would change it, and what
stands in its body is lifted only where the converter knows the operator around it.
"""

from __future__ import annotations

import onnx
from onnx.helper import make_graph, make_node, make_tensor_value_info

from hubtool.formats.onnx.walk import Names, Steps, attributes

__all__ = ["unroll"]

BOOL, INT64 = onnx.TensorProto.BOOL, onnx.TensorProto.INT64


def unroll(node: onnx.NodeProto, names: Names, dtypes: dict[str, int]) -> list[onnx.NodeProto]:
    """The layers that stand for a Scan of opset 8. ValueError says what cannot be said."""
    given = attributes(node)
    body: onnx.GraphProto = given["body"]
    count = given["num_scan_inputs"]
    directions = given.get("directions") or [0] * count
    lengths, *inputs = node.input
    states = len(inputs) - count
    if lengths:
        raise ValueError("has sequences of several lengths, as only opset 8 can say")
    if states < 0 or count < 1 or len(inputs) != len(body.input) or len(directions) != count:
        raise ValueError("has other inputs than its body")
    steps = Steps(names, node.output[0] or node.name)
    zero, one = steps.constant(0, "0"), steps.constant(1, "1")
    shape = steps.add("Shape", [inputs[states]], "shape")
    batch = steps.add("Gather", [shape, zero], "batch")
    time = steps.add("Gather", [shape, one], "time")

    inner = Steps(names, steps.stem)
    t, c = names.fresh(f"{steps.stem}_t"), names.fresh(f"{steps.stem}_c")
    sequences = [names.fresh(f"{steps.stem}_x") for _ in range(count)]
    if any(directions):
        last = inner.add("Sub", [time, one], "last")
        back = inner.add("Sub", [last, t], "back")
    for x, sequence, backwards in zip(body.input[states:], sequences, directions, strict=True):
        place = back if backwards else t
        inner.nodes.append(make_node("Gather", [sequence, place], [x.name], x.name))
    going = inner.add("Identity", [c], "going")
    inner_graph = make_graph(
        [*inner.nodes, *body.node],
        "time",
        [_number(t, INT64), _number(c, BOOL), *body.input[:states]],
        [_number(going, BOOL), *body.output],
        body.initializer,
    )

    outer = Steps(names, steps.stem)
    b, d = names.fresh(f"{steps.stem}_b"), names.fresh(f"{steps.stem}_d")
    first = [outer.add("Gather", [state, b], "first") for state in inputs[:states]]
    for scanned, sequence in zip(inputs[states:], sequences, strict=True):
        outer.nodes.append(make_node("Gather", [scanned, b], [sequence], sequence))
    made = [names.fresh(f"{value.name}_made") for value in body.output]
    name = names.fresh(f"{steps.stem}_time_loop")
    outer.nodes.append(make_node("Loop", [time, "", *first], made, name, body=inner_graph))
    going = outer.add("Identity", [d], "going")
    kinds = [value.type.tensor_type.elem_type for value in body.output]
    outer_graph = make_graph(
        outer.nodes,
        "batch",
        [_number(b, INT64), _number(d, BOOL)],
        [_number(going, BOOL), *map(_any_shape, made, kinds)],
    )
    loop = make_node("Loop", [batch, ""], node.output, node.name, body=outer_graph)
    return [*steps.nodes, loop]


def _number(name: str, kind: int) -> onnx.ValueInfoProto:
    return make_tensor_value_info(name, kind, ())


def _any_shape(name: str, kind: int) -> onnx.ValueInfoProto:
    return make_tensor_value_info(name, kind, None)
