"""Normalisations: Axon's own layers where their meaning is ONNX's, else the formula in Nx.

An InstanceNormalization is a GroupNormalization with as many groups as channels; Axon's own
instance_norm keeps running statistics and means something else.
"""

from __future__ import annotations

from hubtool.formats.axon.lower import Builder, lowers
from hubtool.formats.axon.lower_activation import number
from hubtool.formats.axon.lower_body import Body
from hubtool.formats.axon.lower_data import Unsayable
from hubtool.formats.axon.names import brackets
from hubtool.graph import Layer

__all__: list[str] = []


def _weights(b: Builder, layer: Layer, *formals: str) -> bool:
    """Whether these inputs are all there and vectors of the file."""
    return all(b.plain(layer.inputs.get(formal), rank=1) for formal in formals)


@lowers("BatchNormalization")
def batch_normalization(b: Builder, layer: Layer) -> None:
    if layer.attrs["training_mode"] or any(layer.outputs[1:]):
        raise Unsayable("in training_mode it takes the statistics of the batch")
    names = {"gamma": "scale", "beta": "B", "mean": "input_mean", "var": "input_var"}
    if b.rank(str(layer.inputs["X"])) < 2:
        raise Unsayable("its input has no axis of channels")
    if not _weights(b, layer, *names.values()):
        _computed_batch_norm(b, layer)
        return
    options = [("epsilon", number(layer, "epsilon")), ("momentum", number(layer, "momentum"))]
    parameters = [b.parameter(axon, layer.inputs[formal]) for axon, formal in names.items()]
    x = b.variable(layer.inputs["X"])
    b.call(layer, "Axon.batch_norm", [x], [*options, ("channel_index", "1")], parameters)


def _computed_batch_norm(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x = body.read("X")
    formals = ("scale", "B", "input_mean", "input_var")
    shape = _by_channel(b, layer, "X")
    scale, B, mean, var = (f"Nx.reshape({body.read(f)}, {shape})" for f in formals)
    body.returns(
        f"inverse = Nx.rsqrt(Nx.add({var}, {number(layer, 'epsilon')}))",
        f"normal = Nx.multiply(Nx.subtract({x}, {mean}), inverse)",
        f"Nx.add(Nx.multiply(normal, {scale}), {B})",
    )


def _by_channel(b: Builder, layer: Layer, formal: str) -> str:
    """The shape in which a vector of one number a channel meets [N, C, D1, …]."""
    ones = ", 1" * (b.rank(str(layer.inputs[formal])) - 2)
    return f"{{:auto{ones}}}"


@lowers("InstanceNormalization")
def instance_normalization(b: Builder, layer: Layer) -> None:
    channels = b.shape_known(str(layer.inputs["input"]))[1]
    _group_norm(b, layer, "input", "scale", "B", channels)


@lowers("GroupNormalization")
def group_normalization(b: Builder, layer: Layer) -> None:
    groups = layer.attrs["num_groups"]
    assert isinstance(groups, int)
    _group_norm(b, layer, "X", "scale", "bias", groups)


def _group_norm(
    b: Builder, layer: Layer, X: str, scale: str, bias: str, groups: int | None
) -> None:
    if groups is None:
        raise Unsayable("its channels are not known")
    if _weights(b, layer, scale, bias):
        options = [("epsilon", number(layer, "epsilon")), ("channel_index", "1")]
        named = {"gamma": scale, "beta": bias}
        parameters = [b.parameter(axon, layer.inputs[formal]) for axon, formal in named.items()]
        args = [b.variable(layer.inputs[X]), str(groups)]
        b.call(layer, "Axon.group_norm", args, options, parameters)
        return
    body = Body(b, layer)
    x, shape = body.read(X), _by_channel(b, layer, X)
    s, t = (f"Nx.reshape({body.read(f)}, {shape})" for f in (scale, bias))
    body.returns(
        f"grouped = Nx.reshape({x}, {{Nx.axis_size({x}, 0), {groups}, :auto}})",
        *_standardized("grouped", "[2]", number(layer, "epsilon")),
        f"Nx.add(Nx.multiply(Nx.reshape(normal, Nx.shape({x})), {s}), {t})",
    )


def _standardized(x: str, axes: str, epsilon: str) -> list[str]:
    """Lines that make `normal`, which is x with mean 0 and variance 1 over the axes."""
    return [
        f"centred = Nx.subtract({x}, Nx.mean({x}, axes: {axes}, keep_axes: true))",
        f"var = Nx.mean(Nx.multiply(centred, centred), axes: {axes}, keep_axes: true)",
        f"normal = Nx.multiply(centred, Nx.rsqrt(Nx.add(var, {epsilon})))",
    ]


def _last_axes(b: Builder, layer: Layer) -> list[int]:
    rank, axis = b.rank(str(layer.inputs["X"])), layer.attrs["axis"]
    assert isinstance(axis, int)
    return list(range(axis % rank, rank))


@lowers("LayerNormalization")
def layer_normalization(b: Builder, layer: Layer) -> None:
    if any(layer.outputs[1:]):
        raise Unsayable("its mean and deviation are read, and Axon does not give them")
    axes, epsilon = _last_axes(b, layer), number(layer, "epsilon")
    if len(axes) == 1 and _weights(b, layer, "Scale", "B"):
        named = {"gamma": "Scale", "beta": "B"}
        parameters = [b.parameter(axon, layer.inputs[formal]) for axon, formal in named.items()]
        options = [("epsilon", epsilon), ("channel_index", "-1")]
        b.call(layer, "Axon.layer_norm", [b.variable(layer.inputs["X"])], options, parameters)
        return
    body = Body(b, layer)
    x, scale = body.read("X"), body.read("Scale")
    y = f"Nx.multiply(normal, {scale})"
    y = f"Nx.add({y}, {body.read('B')})" if "B" in layer.inputs else y
    body.returns(*_standardized(x, brackets(axes), epsilon), y)


@lowers("RMSNormalization")
def rms_normalization(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x, axes = body.read("X"), brackets(_last_axes(b, layer))
    body.returns(
        f"square = Nx.mean(Nx.multiply({x}, {x}), axes: {axes}, keep_axes: true)",
        f"normal = Nx.multiply({x}, Nx.rsqrt(Nx.add(square, {number(layer, 'epsilon')})))",
        f"Nx.multiply(normal, {body.read('scale')})",
    )


@lowers("MeanVarianceNormalization")
def mean_variance_normalization(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x, axes = body.read("X"), layer.attrs["axes"]
    assert isinstance(axes, list | tuple)
    along = brackets(axes)
    body.returns(
        f"centred = Nx.subtract({x}, Nx.mean({x}, axes: {along}, keep_axes: true))",
        f"var = Nx.mean(Nx.multiply(centred, centred), axes: {along}, keep_axes: true)",
        "Nx.divide(centred, Nx.add(Nx.sqrt(var), 1.0e-9))",
    )


@lowers("LpNormalization")
def lp_normalization(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x, p, axis = body.read("input"), layer.attrs["p"], number(layer, "axis")
    sizes = f"Nx.abs({x})" if p == 1 else f"Nx.multiply({x}, {x})"
    total = f"Nx.sum({sizes}, axes: [{axis}], keep_axes: true)"
    body.returns(
        f"norm = {total if p == 1 else f'Nx.sqrt({total})'}",
        f"Nx.divide({x}, Nx.select(Nx.equal(norm, 0), Nx.add(norm, 1), norm))",
    )
