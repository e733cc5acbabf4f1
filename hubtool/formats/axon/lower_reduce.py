"""Operators that fold an axis: the Reduce family, ArgMax and ArgMin, running sums, TopK."""

from __future__ import annotations

from hubtool.formats.axon.lower import Builder, lowers
from hubtool.formats.axon.lower_body import Body
from hubtool.formats.axon.lower_data import TYPES, Unsayable
from hubtool.formats.axon.lower_elementwise import is_integer
from hubtool.graph import Layer

__all__: list[str] = []

REDUCTIONS = {
    "ReduceL1": "Nx.sum(Nx.abs({x}){options})",
    "ReduceL2": "Nx.sqrt(Nx.sum(Nx.multiply({x}, {x}){options}))",
    "ReduceLogSum": "Nx.log(Nx.sum({x}{options}))",
    "ReduceLogSumExp": "Nx.logsumexp({x}{options})",
    "ReduceMax": "Nx.reduce_max({x}{options})",
    "ReduceMean": "Nx.mean({x}{options})",
    "ReduceMin": "Nx.reduce_min({x}{options})",
    "ReduceProd": "Nx.product({x}{options})",
    "ReduceSum": "Nx.sum({x}{options})",
    "ReduceSumSquare": "Nx.sum(Nx.multiply({x}, {x}){options})",
}

ALONE = {
    "ReduceL1": "Nx.abs({x})",
    "ReduceL2": "Nx.abs({x})",
    "ReduceLogSum": "Nx.log({x})",
    "ReduceLogSumExp": "{x}",
    "ReduceMax": "{x}",
    "ReduceMean": "{x}",
    "ReduceMin": "{x}",
    "ReduceProd": "{x}",
    "ReduceSum": "{x}",
    "ReduceSumSquare": "Nx.multiply({x}, {x})",
}
"""What is left where `noop_with_empty_axes` takes the fold away."""


@lowers(*REDUCTIONS)
def reduction(b: Builder, layer: Layer) -> None:
    axes = b.integers(layer, "axes") if "axes" in layer.inputs else []
    rank, dtype = b.rank(str(layer.inputs["data"])), b.dtype(layer.outputs[0])
    if is_integer(dtype) and layer.op in ("ReduceMean", "ReduceL2", "ReduceLogSum"):
        raise Unsayable("of integers it would be rounded otherwise")
    body = Body(b, layer)
    x = body.read("data")
    if not axes and layer.attrs["noop_with_empty_axes"]:
        body.returns(ALONE[layer.op].format(x=x))
        return
    options = f", axes: {sorted(axis % rank for axis in axes)}" if axes else ""
    options += ", keep_axes: true" if layer.attrs["keepdims"] else ""
    text = REDUCTIONS[layer.op].format(x=x, options=options)
    widened = is_integer(dtype) and layer.op not in ("ReduceMax", "ReduceMin")
    body.returns(f"Nx.as_type({text}, {TYPES[dtype]})" if widened else text)


@lowers("ArgMax", "ArgMin")
def arg(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    function = {"ArgMax": "Nx.argmax", "ArgMin": "Nx.argmin"}[layer.op]
    keep = "true" if layer.attrs["keepdims"] else "false"
    tie = ":high" if layer.attrs["select_last_index"] else ":low"
    axis = layer.attrs["axis"]
    assert isinstance(axis, int)
    options = f"axis: {axis}, keep_axis: {keep}, tie_break: {tie}"
    body.returns(f"Nx.as_type({function}({body.read('data')}, {options}), {TYPES['int64']})")


RUNNING = {"CumSum": ("Nx.cumulative_sum", "0"), "CumProd": ("Nx.cumulative_product", "1")}


@lowers(*RUNNING)
def running(b: Builder, layer: Layer) -> None:
    """An exclusive one runs over elements moved on by one."""
    function, first = RUNNING[layer.op]
    rank, (axis,) = b.rank(str(layer.inputs["x"])), b.integers(layer, "axis")
    axis %= rank
    reverse = bool(layer.attrs["reverse"])
    body = Body(b, layer)
    x = body.read("x")
    if layer.attrs["exclusive"]:
        shift = "{-1, 1, 0}" if reverse else "{1, -1, 0}"
        config = ", ".join(shift if i == axis else "{0, 0, 0}" for i in range(rank))
        x = f"Nx.pad({x}, {first}, [{config}])"
    options = f"axis: {axis}" + (", reverse: true" if reverse else "")
    text = f"{function}({x}, {options})"
    dtype = b.dtype(layer.outputs[0])
    body.returns(f"Nx.as_type({text}, {TYPES[dtype]})" if is_integer(dtype) else text)


@lowers("TopK")
def top_k(b: Builder, layer: Layer) -> None:
    """By a stable sort, so that the lower index comes first among equals."""
    data, axis, (k,) = str(layer.inputs["X"]), layer.attrs["axis"], b.integers(layer, "K")
    assert isinstance(axis, int)
    axis %= b.rank(data)
    direction = ":desc" if layer.attrs["largest"] else ":asc"
    for output, name in enumerate(layer.outputs):
        if not name:
            continue
        body = Body(b, layer)
        x = body.read("X")
        lines = [
            f"order = Nx.argsort({x}, axis: {axis}, direction: {direction}, stable: true)",
            f"order = Nx.slice_along_axis(order, 0, {k}, axis: {axis})",
        ]
        if output == 0:
            lines.append(f"Nx.take_along_axis({x}, order, axis: {axis})")
        else:
            lines.append(f"Nx.as_type(order, {TYPES['int64']})")
        body.returns(*lines, output=output)
