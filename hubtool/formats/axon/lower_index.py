"""Operators that read or write elements at computed places.

ONNX counts negative places from the end, Nx does not: known ones are resolved here, others where
they may be negative by a select.
"""

from __future__ import annotations

import numpy as np

from hubtool.formats.axon.lower import Builder, lowers
from hubtool.formats.axon.lower_body import Body
from hubtool.formats.axon.lower_data import Unsayable
from hubtool.formats.axon.lower_facts import Array
from hubtool.formats.axon.names import brackets, tuple_
from hubtool.graph import Layer

__all__: list[str] = []


@lowers("Slice")
def slice_(b: Builder, layer: Layer) -> None:
    x, made = str(layer.inputs["data"]), layer.outputs[0]
    starts, ends = b.numbers(layer, "starts"), b.numbers(layer, "ends")
    rank = b.rank(x)
    axes = b.integers(layer, "axes") if "axes" in layer.inputs else list(range(len(starts)))
    steps = b.integers(layer, "steps") if "steps" in layer.inputs else [1] * len(starts)
    body = Body(b, layer)
    text = body.read("data")
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis %= rank
        size = b.dims(x)[axis]
        if size is not None and size == b.dims(made)[axis] and step == 1:
            continue
        if size is not None and None not in (size.number, start.number, end.number):
            assert size.number is not None and start.number is not None and end.number is not None
            text = _cut(text, axis, size.number, start.number, end.number, step)
            continue
        if step != 1:
            raise Unsayable("with a step it depends on the sizes of the inputs")
        first = body.size(start)
        if first.startswith("-"):
            first = f"{body.axis(x, axis)} - {first[1:]}"
        length = body.size(b.dims(made)[axis])
        text = f"Nx.slice_along_axis({text}, {first}, {length}, axis: {axis})"
    body.returns(text)


def _cut(text: str, axis: int, size: int, start: int, end: int, step: int) -> str:
    """A slice whose numbers are all known; cut forward, then turned round for negative steps."""
    first = max(start + (size if start < 0 else 0), 0)
    places = range(*slice(first, end, step).indices(size))
    if not places:
        raise Unsayable("it leaves no elements, and Nx has no such tensors")
    turned = places[::-1] if step < 0 else places
    length = turned[-1] - turned[0] + 1
    strides = f", strides: {abs(step)}" if abs(step) != 1 and len(places) > 1 else ""
    text = f"Nx.slice_along_axis({text}, {turned[0]}, {length}, axis: {axis}{strides})"
    return f"Nx.reverse({text}, axes: [{axis}])" if step < 0 else text


def _places(b: Builder, body: Body, layer: Layer, formal: str, size: str) -> str:
    """Indices counted from the front."""
    name = layer.inputs[formal]
    known = b.constant(name)
    if known is not None and (known.min() >= 0 or size.isdigit()):
        front = np.where(known < 0, known + int(size if size.isdigit() else 0), known)
        return body.inline(np.asarray(front))
    text = body.read(formal)
    if known is not None and not known.ndim:
        return f"{size} - {-int(known)}"
    if b.dtype(str(name)).startswith("uint") or _never_negative(b, name):
        return text
    return f"Nx.select(Nx.less({text}, 0), Nx.add({text}, {size}), {text})"


def _never_negative(b: Builder, name: object) -> bool:
    """Whether it is shape arithmetic that gives no negative number: a range of positions."""
    found = b.facts.host.get(name) if isinstance(name, str) else None
    return found is not None and all(array.min(initial=0) >= 0 for array in found)


@lowers("Gather")
def gather(b: Builder, layer: Layer) -> None:
    """Axon.embedding where rows of a weight are looked up."""
    data, indices, axis = str(layer.inputs["data"]), layer.inputs["indices"], layer.attrs["axis"]
    assert isinstance(axis, int)
    axis %= b.rank(data)
    known = b.constant(data) is not None
    if b.plain(data, rank=2) and not known and axis == 0 and b.made(indices):
        _embedding(b, layer, data, indices)
        return
    body = Body(b, layer)
    x = body.read("data", typed=True)
    size = body.axis(data, axis) if data in body.tensors else str(b.shape_known(data)[axis])
    body.returns(f"Nx.take({x}, {_places(b, body, layer, 'indices', size)}, axis: {axis})")


def _embedding(b: Builder, layer: Layer, data: str, indices: object) -> None:
    rows, width = b.graph.tensors[data].shape
    if not b.dtype(str(indices)).startswith("uint"):
        before = b.derived(layer, "indices", {"indices": indices})
        body = Body(b, before)
        body.returns(_places(b, body, before, "indices", str(rows)))
        indices = before.outputs[0]
    parameters = [b.parameter("kernel", data)]
    args = [b.variable(indices), str(rows), str(width)]
    b.call(layer, "Axon.embedding", args, (), parameters)


@lowers("GatherElements")
def gather_elements(b: Builder, layer: Layer) -> None:
    data, indices, axis = (
        str(layer.inputs["data"]),
        str(layer.inputs["indices"]),
        layer.attrs["axis"],
    )
    assert isinstance(axis, int)
    axis %= b.rank(data)
    others = [[d for i, d in enumerate(b.dims(n)) if i != axis] for n in (data, indices)]
    if others[0] != others[1]:
        raise Unsayable("its indices are smaller than its data along another axis")
    body = Body(b, layer)
    x = body.read("data", typed=True)
    places = _places(b, body, layer, "indices", body.axis(data, axis))
    body.returns(f"Nx.take_along_axis({x}, {places}, axis: {axis})")


@lowers("GatherND")
def gather_nd(b: Builder, layer: Layer) -> None:
    if layer.attrs["batch_dims"]:
        raise Unsayable("Nx gathers without batch_dims only")
    body = Body(b, layer)
    x = body.read("data", typed=True)
    body.returns(f"Nx.gather({x}, {_tuples(b, body, layer)})")


def _tuples(b: Builder, body: Body, layer: Layer) -> str:
    """Tuples of indices, each counted from the front along its own axis."""
    data, indices = str(layer.inputs["data"]), str(layer.inputs["indices"])
    depth = b.shape_known(indices)[-1]
    if depth is None:
        raise Unsayable("how deep its indices go depends on the sizes of the inputs")
    known: Array | None = b.constant(indices)
    text = body.read("indices", typed=True)
    if known is not None and known.min() >= 0:
        return text
    sizes = brackets(body.axis(data, axis) for axis in range(depth))
    return f"Nx.select(Nx.less({text}, 0), Nx.add({text}, Nx.tensor({sizes})), {text})"


SCATTERS = {"none": "Nx.indexed_put", "add": "Nx.indexed_add"}


def _scatter_function(layer: Layer) -> str:
    reduction = str(layer.attrs["reduction"])
    if reduction not in SCATTERS:
        raise Unsayable(f"Nx scatters with 'none' or 'add', not with '{reduction}'")
    return SCATTERS[reduction]


@lowers("ScatterND")
def scatter_nd(b: Builder, layer: Layer) -> None:
    function = _scatter_function(layer)
    body = Body(b, layer)
    x = body.read("data", typed=True)
    places, updates = _tuples(b, body, layer), body.read("updates", typed=True)
    depth = b.shape_known(str(layer.inputs["indices"]))[-1] or 0
    data = str(layer.inputs["data"])
    rest = [body.axis(data, axis) for axis in range(depth, b.rank(data))]
    body.returns(
        f"places = Nx.reshape({places}, {{:auto, {depth}}})",
        f"updates = Nx.reshape({updates}, {tuple_([':auto', *rest])})",
        f"{function}({x}, places, updates)",
    )


@lowers("ScatterElements")
def scatter_elements(b: Builder, layer: Layer) -> None:
    function = _scatter_function(layer)
    data, axis = str(layer.inputs["data"]), layer.attrs["axis"]
    assert isinstance(axis, int)
    rank = b.rank(data)
    axis %= rank
    body = Body(b, layer)
    x, updates = body.read("data", typed=True), body.read("updates", typed=True)
    places = _places(b, body, layer, "indices", body.axis(data, axis))
    along = [
        "along" if i == axis else f"Nx.iota(Nx.shape(along), axis: {i}, type: {{:s, 64}})"
        for i in range(rank)
    ]
    body.returns(
        f"along = {places}",
        f"places = Nx.stack({brackets(along)}, axis: -1)",
        f"places = Nx.reshape(places, {{:auto, {rank}}})",
        f"{function}({x}, places, Nx.flatten({updates}))",
    )
