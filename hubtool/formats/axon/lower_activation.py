"""Activations as Axon's own layers, where those mean the same; the rest as formulas in Nx."""

from __future__ import annotations

from hubtool.formats.axon.lower import Builder, lowers
from hubtool.formats.axon.lower_body import Body
from hubtool.formats.axon.lower_data import Unsayable
from hubtool.formats.axon.names import floating
from hubtool.graph import Layer

__all__ = ["number"]

BARE = {
    "Mish": "Axon.mish",
    "Relu": "Axon.relu",
    "Sigmoid": "Axon.sigmoid",
    "Softplus": "Axon.softplus",
    "Softsign": "Axon.softsign",
    "Tanh": "Axon.tanh",
}

WITH_ATTRIBUTES = {
    "Celu": ("Axon.celu", ("alpha",)),
    "Elu": ("Axon.elu", ("alpha",)),
    "HardSigmoid": ("Axon.hard_sigmoid", ("alpha", "beta")),
    "LeakyRelu": ("Axon.leaky_relu", ("alpha",)),
    "LogSoftmax": ("Axon.log_softmax", ("axis",)),
    "Selu": ("Axon.selu", ("alpha", "gamma")),
    "Softmax": ("Axon.softmax", ("axis",)),
}


def number(layer: Layer, key: str) -> str:
    """A numeric attribute as Elixir writes it."""
    value = layer.attrs[key]
    assert isinstance(value, int | float)
    return floating(value) if isinstance(value, float) else str(value)


def _only(layer: Layer) -> object:
    (name,) = layer.inputs.values()
    return name


@lowers(*BARE)
def bare(b: Builder, layer: Layer) -> None:
    b.call(layer, BARE[layer.op], [b.variable(_only(layer))])


@lowers(*WITH_ATTRIBUTES)
def with_attributes(b: Builder, layer: Layer) -> None:
    function, keys = WITH_ATTRIBUTES[layer.op]
    options = [(key, number(layer, key)) for key in keys]
    b.call(layer, function, [b.variable(_only(layer))], options)


@lowers("HardSwish")
def hard_swish(b: Builder, layer: Layer) -> None:
    options = [("alpha", floating(1 / 6)), ("beta", "0.5")]
    b.call(layer, "Axon.hard_silu", [b.variable(layer.inputs["X"])], options)


@lowers("Swish")
def swish(b: Builder, layer: Layer) -> None:
    if layer.attrs["alpha"] == 1.0:
        b.call(layer, "Axon.silu", [b.variable(layer.inputs["X"])])
        return
    body = Body(b, layer)
    x = body.read("X")
    body.returns(f"Nx.multiply({x}, Nx.sigmoid(Nx.multiply({x}, {number(layer, 'alpha')})))")


@lowers("SwiGLU")
def swi_glu(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    A, B, alpha = body.read("A"), body.read("B"), number(layer, "alpha")
    body.returns(
        f"gate = Nx.multiply({A}, Nx.sigmoid(Nx.multiply({A}, {alpha})))",
        f"Nx.multiply(gate, {B})",
    )


@lowers("Gelu")
def gelu(b: Builder, layer: Layer) -> None:
    if layer.attrs["approximate"] == "none":
        b.call(layer, "Axon.gelu", [b.variable(layer.inputs["X"])])
        return
    body = Body(b, layer)
    x = body.read("X")
    body.returns(
        f"cube = Nx.multiply({x}, Nx.multiply({x}, {x}))",
        f"inner = Nx.multiply(0.7978845608, Nx.add({x}, Nx.multiply(0.044715, cube)))",
        f"Nx.multiply(Nx.multiply(0.5, {x}), Nx.add(1, Nx.tanh(inner)))",
    )


@lowers("PRelu")
def p_relu(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x, slope = body.read("X"), body.read("slope")
    body.returns(f"Nx.select(Nx.less({x}, 0), Nx.multiply({x}, {slope}), {x})")


@lowers("ThresholdedRelu")
def thresholded_relu(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x = body.read("X")
    body.returns(f"Nx.select(Nx.greater({x}, {number(layer, 'alpha')}), {x}, Nx.multiply({x}, 0))")


@lowers("Hardmax")
def hardmax(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x, axis = body.read("input"), number(layer, "axis")
    body.returns(
        f"best = Nx.argmax({x}, axis: {axis}, keep_axis: true)",
        f"Nx.as_type(Nx.equal(Nx.iota(Nx.shape({x}), axis: {axis}), best), Nx.type({x}))",
    )


@lowers("Dropout")
def dropout(b: Builder, layer: Layer) -> None:
    """Does nothing in inference, here as in Axon; Axon drops in training, as fine-tuning wants."""
    if any(layer.outputs[1:]):
        raise Unsayable("its mask is read, and Axon does not give it")
    training, ratio = (layer.inputs.get(key) for key in ("training_mode", "ratio"))
    mode = b.constant(training)
    if training is not None and (mode is None or mode.any()):
        raise Unsayable("it drops in inference too")
    rate = b.constant(ratio)
    if ratio is not None and rate is None:
        raise Unsayable("its ratio is known only when it runs")
    text = "0.5" if rate is None else floating(float(rate))
    if not 0 <= float(text) < 1:
        raise Unsayable(f"Axon drops with a rate from 0 to less than 1, not {text}")
    b.call(layer, "Axon.dropout", [b.variable(layer.inputs["data"])], [("rate", text)])
