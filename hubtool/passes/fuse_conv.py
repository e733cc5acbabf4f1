"""Let a Conv add the residual and apply the activation itself.

    Y = activation(Conv(X, W, B) + Z)   ⟶   Y = FusedConv(X, W, B, Z; activation)

Both steps are optional, but one of them there must be. FusedConv is ONNX Runtime's
(com.microsoft), with its `activation_params`: alpha for LeakyRelu, minimum and maximum for Clip,
alpha and beta for HardSigmoid. The addition is an Add, or a Sum of two. Z must have the Conv's
own shape, provably: an Add that broadcasts stays an Add. The fused layer stands where the last
layer that it replaces stood, for there Z is ready. Of two Convs that meet in one Add the later
one is fused, so that the other is computed where it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hubtool.graph import Attr, Graph, Layer
from hubtool.passes.rewriting import constant, everywhere, only_reader

__all__ = ["fuse_conv"]

PARAMS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}
"""Activation -> the attributes that become activation_params; Clip's are inputs."""


@dataclass
class Match:
    """A Conv and what follows it."""

    layers: list[Layer]
    Z: str | None = None
    activation: dict[str, Attr] = field(default_factory=dict)


@everywhere
def fuse_conv(graph: Graph) -> None:
    """Fuse every Conv with the Add and the activation that are the only readers of its result."""
    users = graph.users()
    for conv in reversed([*graph.layers]):
        if conv.op != "Conv":
            continue
        match = _match(graph, users, conv)
        if len(match.layers) == 1:
            continue
        fused = _fused(match)
        for layer in match.layers[:-1]:
            graph.values.pop(layer.outputs[0], None)
            graph.layers.remove(layer)
        graph.layers[graph.layers.index(match.layers[-1])] = fused
        users = graph.users()


def _match(graph: Graph, users: dict[str, list[Layer]], conv: Layer) -> Match:
    match = Match([conv])
    add = only_reader(graph, users, conv.outputs[0])
    if add is not None and add.op in ("Add", "Sum"):
        others = [name for name in add.reads() if name != conv.outputs[0]]
        if len(others) != 1 or not _same_shape(graph, conv.outputs[0], others[0]):
            return match
        match.Z = others[0]
        match.layers.append(add)
    last = match.layers[-1]
    activation = only_reader(graph, users, last.outputs[0])
    params = None if activation is None else _params(graph, activation)
    if activation is not None and params is not None:
        match.activation["activation"] = activation.op
        if params:
            match.activation["activation_params"] = [*params]
        match.layers.append(activation)
    return match


def _same_shape(graph: Graph, a: str, b: str) -> bool:
    """Whether two values provably have one shape; equal symbols are equal sizes."""
    known_a, known_b = graph.known(a), graph.known(b)
    if known_a is None or known_b is None or known_a.shape is None:
        return False
    return None not in known_a.shape and known_a.shape == known_b.shape


def _params(graph: Graph, activation: Layer) -> list[float] | None:
    """The activation_params, or None where this layer is no activation that can be fused."""
    if activation.op == "Clip":
        return _bounds(graph, activation)
    if activation.op not in PARAMS:
        return None
    params = [activation.attrs[key] for key in PARAMS[activation.op]]
    return [float(param) for param in params if isinstance(param, int | float)]


def _bounds(graph: Graph, clip: Layer) -> list[float] | None:
    """Clip's minimum and maximum, if they are weights."""
    bounds = []
    for formal, absent in (("min", -math.inf), ("max", math.inf)):
        if formal not in clip.inputs:
            bounds.append(absent)
            continue
        tensor = constant(graph, clip.inputs[formal])
        if tensor is None or tensor.size != 1:
            return None
        bounds.append(float(tensor.array.reshape(()).astype("float64")))
    return bounds


def _fused(match: Match) -> Layer:
    conv = match.layers[0]
    inputs = dict(conv.inputs)
    if match.Z is not None:
        inputs["Z"] = match.Z
    return Layer(
        conv.name,
        "com.microsoft.FusedConv",
        inputs,
        match.layers[-1].outputs[:],
        {**conv.attrs, **match.activation},
    )
