"""One layer after another, read for what transformers' ResNet would hold in its place.

    Conv ─ BatchNormalization      one unit: kernel, and gamma, beta, mean, var
    Conv with a bias b ─ BN        mean - b
    Conv with a bias b alone       gamma 1, beta b, mean 0, var 1 - 1e-5
    BN with another epsilon e      var + e - 1e-5

A unit never changes what it computes: all is done in float64 and rounded once. What has no such
form is noted with the layer's name; where the wiring itself is another one, there is no way on,
and `Stop` is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hubtool.graph import Graph, Layer, Tensor
from hubtool.passes.rewriting import constant

__all__ = ["EPSILON", "MEANS", "Stop", "Unit", "Walk", "ints", "pads"]

Array = np.ndarray[Any, Any]

EPSILON = 1e-5
"""What transformers' ResNet adds to every variance; its configuration cannot say another."""

MEANS = ("GlobalAveragePool", "ReduceMean")


class Stop(Exception):
    """The wiring is another one, so there is no way on."""


@dataclass(frozen=True)
class Unit:
    """A convolution and its normalization.

    output: the value that both together make. channels: how many come in and go out. tensors:
    what they hold, under transformers' names.
    """

    conv: Layer
    output: str
    kernel: int
    stride: int
    channels: tuple[int, int]
    tensors: dict[str, Tensor]


@dataclass
class Walk:
    """The way along the wires of a graph, pruned and of one output, and what did not fit on it."""

    graph: Graph
    problems: list[str] = field(default_factory=list)
    hidden_act: str = ""

    def __post_init__(self) -> None:
        self.users = self.graph.users()
        self.producers = self.graph.producers()

    def note(self, layer: Layer, reason: str) -> None:
        """Something does not fit; the walk goes on."""
        self.problems.append(f"layer '{layer.name}' ({layer.op}): {reason}")

    def stop(self, layer: Layer, reason: str) -> Stop:
        """Something does not fit, and nobody can say what comes after it."""
        self.note(layer, reason)
        return Stop()

    def readers(self, value: str) -> list[Layer]:
        """Who reads the elements; to ask only for the shape is free."""
        return [layer for layer in self.users.get(value, []) if layer.op != "Shape"]

    def only(self, value: str) -> Layer:
        """The one layer that reads the value."""
        readers = self.readers(value)
        if len(readers) == 1:
            return readers[0]
        raise self.forked(value, readers)

    def forked(self, value: str, readers: Sequence[Layer]) -> Stop:
        """Not exactly one layer reads the value."""
        ops = {layer.op for layer in readers}
        if "Mul" in ops and ops & {*MEANS}:
            return self.stop(
                readers[0],
                "the channels are weighted by their means (squeeze and excitation), which "
                "transformers' ResNet does not do",
            )
        told = [f"'{layer.name}' ({layer.op})" for layer in readers]
        told += ["the caller"] if value in self.graph.outputs else []
        reason = (
            f"is read by {' and '.join(told) or 'nobody'}, where transformers' ResNet goes on "
            "with one layer"
        )
        maker = self.producers.get(value)
        if maker is not None:
            return self.stop(maker, f"its output {reason}")
        self.problems.append(f"input '{value}' {reason}")
        return Stop()

    def unit(self, conv: Layer) -> Unit:
        """The convolution, which must be this layer, with the normalization after it."""
        if conv.op == "BatchNormalization":
            raise self.stop(
                conv,
                "normalizes before the convolution (pre-activation, as in ResNet v2), "
                "transformers' ResNet after it",
            )
        if conv.op != "Conv":
            raise self.stop(conv, "stands where transformers' ResNet has a convolution")
        W = self.weight(conv, "W")
        if W is None or len(W.shape) != 4:
            raise self.stop(conv, "its W is no plain weight of four axes")
        self._geometry(conv, W)
        readers = self.readers(conv.outputs[0])
        norm = readers[0] if readers and readers[0].op == "BatchNormalization" else None
        if norm is not None:
            self.only(conv.outputs[0])
        return Unit(
            conv=conv,
            output=(norm or conv).outputs[0],
            kernel=W.shape[2],
            stride=ints(conv, "strides", [1, 1])[0],
            channels=(W.shape[1], W.shape[0]),
            tensors={"convolution.weight": W, **self._normalization(conv, norm, W.shape[0])},
        )

    def _geometry(self, conv: Layer, W: Tensor) -> None:
        """Note where a convolution is none of the kind that transformers' ResNet has."""
        strides, size, group = ints(conv, "strides", [1, 1]), W.shape[2], conv.attrs["group"]
        if W.shape[3] != size or strides[0] != strides[1]:
            self.note(conv, f"kernel {[*W.shape[2:]]} and strides {strides} are not square")
        elif pads(conv, size) != [size // 2] * 4:
            shown = conv.attrs.get("pads", conv.attrs["auto_pad"])
            self.note(conv, f"has pads {shown!r}, and transformers' ResNet {[size // 2] * 4}")
        if group != 1:
            self.note(conv, f"has {group!r} groups, and transformers' ResNet convolves in one")
        if {*ints(conv, "dilations", [1, 1])} != {1}:
            self.note(conv, f"has dilations {conv.attrs['dilations']!r}, transformers' ResNet none")

    def _normalization(self, conv: Layer, norm: Layer | None, channels: int) -> dict[str, Tensor]:
        """The four vectors, and the count of batches seen that PyTorch keeps beside them."""
        b = self.vector(conv, "B", channels) if "B" in conv.inputs else np.zeros(channels)
        gamma, beta, mean = np.ones(channels), b, np.zeros(channels)
        var: Array = np.full(channels, 1 - EPSILON)
        if norm is not None:
            if norm.attrs["training_mode"] != 0 or any(norm.outputs[1:]):
                self.note(norm, "is in training mode")
            gamma, beta, mean, var = (
                self.vector(norm, formal, channels)
                for formal in ("scale", "B", "input_mean", "input_var")
            )
            mean, var = mean - b, self._variance(norm, var)
        vectors = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
        tensors = {name: Tensor.of(v.astype(np.float32)) for name, v in vectors.items()}
        tensors["num_batches_tracked"] = Tensor.of(np.zeros((), np.int64))
        return {f"normalization.{name}": tensor for name, tensor in tensors.items()}

    def _variance(self, norm: Layer, var: Array) -> Array:
        """The variances to which transformers' epsilon is added for the same sum."""
        epsilon = norm.attrs["epsilon"]
        assert isinstance(epsilon, float)
        if np.float32(epsilon) == np.float32(EPSILON):
            return var
        shifted: Array = var + (epsilon - EPSILON)
        if shifted.min(initial=0) < 0:
            self.note(
                norm,
                f"its epsilon is {epsilon:g}, transformers' is {EPSILON:g}, and its smallest "
                f"variance, {var.min():g}, is too small to make up for it",
            )
        return shifted

    def activated(self, layer: Layer, *, inside: bool = False) -> str:
        """The output of the activation, which must be this layer.

        hidden_act is that of the stem and behind each addition; between the convolutions inside a
        block transformers has a relu, whatever hidden_act says.
        """
        name = _activation(self.graph, layer)
        if not name:
            raise self.stop(
                layer, "stands where transformers' ResNet has an activation known to hidden_act"
            )
        if inside and name != "relu":
            self.note(layer, f"is {name} inside a block, where transformers' ResNet has a relu")
        elif not inside:
            self.hidden_act = self.hidden_act or name
            if name != self.hidden_act:
                self.note(
                    layer, f"is {name} after {self.hidden_act}, and hidden_act is one for all"
                )
        return layer.outputs[0]

    def weight(self, layer: Layer, formal: str) -> Tensor | None:
        """The weight under this formal name; None where it is computed or a caller's."""
        tensor = constant(self.graph, layer.inputs.get(formal))
        if tensor is not None and tensor.dtype != "float32":
            self.note(layer, f"its {formal} is {tensor.dtype}, not float32")
        return tensor

    def vector(self, layer: Layer, formal: str, size: int) -> Array:
        """The weight of `size` elements under this formal name, in float64."""
        tensor = self.weight(layer, formal)
        if tensor is None or tensor.shape not in ((), (1,), (1, 1), (size,), (1, size)):
            raise self.stop(layer, f"its {formal} is no plain weight of {size} elements")
        return np.broadcast_to(tensor.array.astype(np.float64).reshape(-1), size)


def _activation(graph: Graph, layer: Layer) -> str:
    """What `hidden_act` calls the layer; "" where it has no word for it."""
    attrs = layer.attrs
    match layer.op:
        case "Relu" | "Sigmoid" | "Tanh" | "Mish" | "HardSwish":
            return layer.op.lower()
        case "LeakyRelu":
            alpha: Any = attrs["alpha"]
            return "leaky_relu" if np.float32(alpha) == np.float32(0.01) else ""
        case "Swish":
            return "silu" if attrs["alpha"] == 1 else ""
        case "Gelu":
            return "gelu_pytorch_tanh" if attrs["approximate"] == "tanh" else "gelu"
        case "Clip":
            limits = [constant(graph, layer.inputs.get(key)) for key in ("min", "max")]
            found = [tensor.array.reshape(-1).tolist() for tensor in limits if tensor is not None]
            return "relu6" if found == [[0], [6]] else ""
    return ""


def ints(layer: Layer, key: str, default: list[int]) -> list[int]:
    """The list under this key; `default` where ONNX lets it be absent."""
    value = layer.attrs.get(key, default)
    assert isinstance(value, list)
    return value


def pads(layer: Layer, kernel: int) -> list[int] | None:
    """The pads on all four sides; None where they depend on the size of the picture."""
    auto_pad = layer.attrs["auto_pad"]
    if auto_pad == "NOTSET":
        return ints(layer, "pads", [0] * 4)
    if auto_pad == "VALID":
        return [0] * 4
    whole = {*ints(layer, "strides", [1, 1])} == {1} and kernel % 2 == 1
    return [kernel // 2] * 4 if whole else None
