"""What each layer of Axon is in ONNX: a function makes the layers and gives the name of its value.

Axon is channels last by default, ONNX channels first: a Transpose before and after puts that right,
and the kernel is turned once, here. Options have Axon's own names and defaults; one that is not
asked for by the function is a misfit, and so is a parameter, since whatever is passed over silently
would make another model. Padding `same` is Nx's: it depends on the kernel alone.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hubtool import ops
from hubtool.formats.axon.read_node import Builder, Misfit, Node

__all__ = ["LAYERS"]

Array = np.ndarray[Any, Any]


def _one(node: Node, count: int = 1) -> str:
    if len(node.inputs) != count:
        raise Misfit(f"it reads {len(node.inputs)} values, not {count}")
    return node.inputs[0]


def _first(node: Node) -> bool:
    channels = node.take("channels", "last")
    if channels not in ("first", "last"):
        raise Misfit(f"option 'channels' is '{channels}'")
    return bool(channels == "first")


def _to_first(b: Builder, node: Node, first: bool, axis: int = -1) -> str:
    """The input, its channels brought from that axis to axis 1."""
    x, rank = _one(node), node.rank
    if rank < 2:
        raise Misfit(f"its input has {rank} axes")
    axis = 1 if first else axis % rank
    perm = [0, axis, *(i for i in range(1, rank) if i != axis)]
    return b.transpose(x, perm, f"{node.name}/first")


def _back(b: Builder, node: Node, value: str, first: bool, axis: int = -1) -> str:
    rank = node.rank
    axis = 1 if first else axis % rank
    order = [0, axis, *(i for i in range(1, rank) if i != axis)]
    return b.transpose(value, [order.index(i) for i in range(rank)], f"{node.name}/back")


def _padding(node: Node, reach: Sequence[int]) -> list[int]:
    """ONNX's pads for a padding of Nx, under windows that reach so far."""
    padding = node.options.pop("padding", "valid")
    if padding == "valid":
        return [0] * (2 * len(reach))
    if padding == "same":
        return [(r - 1) // 2 for r in reach] + [r // 2 for r in reach]
    good = (
        isinstance(padding, list)
        and len(padding) == len(reach)
        and all(
            isinstance(p, list) and len(p) == 2 and all(type(n) is int and n >= 0 for n in p)
            for p in padding
        )
    )
    if not good:
        raise Misfit(f"option 'padding' is {reprlib.repr(padding)}")
    return [low for low, _ in padding] + [high for _, high in padding]


def _kernel(node: Node, first: bool) -> Array:
    """The kernel as ONNX has it: outputs, inputs, then space."""
    kernel = node.parameter("kernel")
    if kernel.ndim != node.rank or kernel.ndim < 3:
        raise Misfit(f"its kernel is {list(kernel.shape)}, its input has {node.rank} axes")
    if first:
        return kernel
    order = (kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))
    return np.ascontiguousarray(kernel.transpose(order))


def _conv(b: Builder, node: Node) -> str:
    first = _first(node)
    W, space = _kernel(node, first), node.rank - 2
    if any(n != 1 for n in node.sizes("input_dilation", space)):
        raise Misfit("option 'input_dilation' spreads the input, which Conv cannot")
    depthwise = node.op == "depthwise_conv"
    group = node.take("groups" if depthwise else "feature_group_size", 1)
    dilations = node.sizes("kernel_dilation", space)
    attrs = {
        "strides": node.sizes("strides", space),
        "dilations": dilations,
        "group": group,
        "kernel_shape": list(W.shape[2:]),
        "pads": _padding(node, _reach(W.shape[2:], dilations)),
    }
    inputs = {"X": _to_first(b, node, first), "W": b.weight(f"{node.name}/kernel", W)}
    bias = node.optional("bias", 1)
    if bias is not None:
        inputs["B"] = b.weight(f"{node.name}/bias", bias)
    if group < 1 or W.shape[0] % group:
        raise Misfit(f"{W.shape[0]} outputs cannot be split into {group} groups")
    (value,) = b.operator("Conv", inputs, attrs, node.name)
    return _back(b, node, value, first)


def _reach(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    return [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]


def _conv_transpose(b: Builder, node: Node) -> str:
    """Axon pads the spread input, ONNX cuts the full result: a pad p cuts reach - 1 - p."""
    first = _first(node)
    W, space = _kernel(node, first), node.rank - 2
    strides, dilations = node.sizes("strides", space), node.sizes("kernel_dilation", space)
    reach = _reach(W.shape[2:], dilations)
    if node.options.get("padding", "valid") in ("valid", "same"):
        same = node.options.pop("padding", "valid") == "same"
        sides = [_transposed(r, s, same) for r, s in zip(reach, strides, strict=True)]
    else:
        pads = _padding(node, reach)
        sides = list(zip(pads[:space], pads[space:], strict=True))
    begins = [r - 1 - low for r, (low, _) in zip(reach, sides, strict=True)]
    ends = [r - 1 - high for r, (_, high) in zip(reach, sides, strict=True)]
    if min(begins) < 0:
        raise Misfit("its padding goes beyond what ConvTranspose can begin with")
    turned = np.flip(W.swapaxes(0, 1), axis=tuple(range(2, W.ndim)))
    inputs = {
        "X": _to_first(b, node, first),
        "W": b.weight(f"{node.name}/kernel", np.ascontiguousarray(turned)),
    }
    bias = node.optional("bias", 1)
    if bias is not None:
        inputs["B"] = b.weight(f"{node.name}/bias", bias)
    attrs = {
        "strides": strides,
        "dilations": dilations,
        "kernel_shape": list(W.shape[2:]),
        "pads": begins + [max(e, 0) for e in ends],
        "output_padding": [max(-e, 0) for e in ends],
    }
    (value,) = b.operator("ConvTranspose", inputs, attrs, node.name)
    return _back(b, node, value, first)


def _transposed(reach: int, stride: int, same: bool) -> tuple[int, int]:
    """What Axon pads around the spread input for `same` and `valid`."""
    if same:
        total = reach + stride - 2
        low = reach - 1 if stride > reach - 1 else -(-total // 2)
        return low, total - low
    return reach - 1, max(reach, stride) - 1


def _dense(b: Builder, node: Node) -> str:
    x, kernel, bias = _one(node), node.parameter("kernel", 2), node.optional("bias", 1)
    weight = b.weight(f"{node.name}/kernel", kernel)
    if node.rank == 2:
        inputs = {"A": x, "B": weight}
        if bias is not None:
            inputs["C"] = b.weight(f"{node.name}/bias", bias)
        return b.operator("Gemm", inputs, {}, node.name)[0]
    (value,) = b.operator("MatMul", {"A": x, "B": weight}, {}, node.name)
    if bias is None:
        return value
    added = {"A": value, "B": b.weight(f"{node.name}/bias", bias)}
    return b.operator("Add", added, {}, f"{node.name}/add")[0]


def _embedding(b: Builder, node: Node) -> str:
    inputs = {
        "data": b.weight(f"{node.name}/kernel", node.parameter("kernel", 2)),
        "indices": _one(node),
    }
    return b.operator("Gather", inputs, {"axis": 0}, node.name)[0]


def _bias(b: Builder, node: Node) -> str:
    inputs = {"A": _one(node), "B": b.weight(f"{node.name}/bias", node.parameter("bias"))}
    return b.operator("Add", inputs, {}, node.name)[0]


def _constant(b: Builder, node: Node) -> str:
    _one(node, 0) if node.inputs else None
    return b.weight(f"{node.name}/value", node.parameter("value"))


def _activation(
    op: str, options: Mapping[str, float] = {}, fixed: Mapping[str, Any] = {}
) -> Callable[[Builder, Node], str]:
    """An activation whose options are the operator's attributes, by the same names."""

    def make(b: Builder, node: Node) -> str:
        formal = known.inputs[0].name if (known := ops.lookup(op)) else ""
        attrs = {key: node.take(key, default) for key, default in options.items()}
        return b.operator(op, {formal: _one(node)}, {**fixed, **attrs}, node.name)[0]

    return make


def _linear(b: Builder, node: Node) -> str:
    return _one(node)


def _clipped(low: float, high: float) -> Callable[[Builder, Node], str]:
    def make(b: Builder, node: Node) -> str:
        bounds = {
            key: b.weight(f"{node.name}/{key}", np.asarray(value, np.float32))
            for key, value in (("min", low), ("max", high))
        }
        return b.operator("Clip", {"input": _one(node), **bounds}, {}, node.name)[0]

    return make


def _hard_silu(b: Builder, node: Node) -> str:
    attrs = {"alpha": node.take("alpha", 0.2), "beta": node.take("beta", 0.2)}
    (gate,) = b.operator("HardSigmoid", {"X": _one(node)}, attrs, f"{node.name}/gate")
    return b.operator("Mul", {"A": gate, "B": _one(node)}, {}, node.name)[0]


def _log_sigmoid(b: Builder, node: Node) -> str:
    (turned,) = b.operator("Neg", {"X": _one(node)}, {}, f"{node.name}/turned")
    (soft,) = b.operator("Softplus", {"X": turned}, {}, f"{node.name}/softplus")
    return b.operator("Neg", {"X": soft}, {}, node.name)[0]


def _axes(b: Builder, node: Node, axes: Sequence[int]) -> str:
    return b.weight(f"{node.name}/axes", np.asarray(axes, np.int64))


def _log_sum_exp(b: Builder, node: Node) -> str:
    inputs = {"data": _one(node), "axes": _axes(b, node, [node.take("axis", -1)])}
    return b.operator("ReduceLogSumExp", inputs, {}, node.name)[0]


def _pool(op: str) -> Callable[[Builder, Node], str]:
    def make(b: Builder, node: Node) -> str:
        first, space = _first(node), node.rank - 2
        kernel = node.sizes("kernel_size", space)
        strides = kernel if node.options.get("strides") is None else node.sizes("strides", space)
        if node.options.get("strides", 0) is None:
            node.options.pop("strides")
        dilations = node.sizes("window_dilations", space)
        attrs: dict[str, Any] = {
            "kernel_shape": kernel,
            "strides": strides,
            "dilations": dilations,
            "pads": _padding(node, _reach(kernel, dilations)),
        }
        if op == "AveragePool":
            attrs["count_include_pad"] = 1
        if op == "LpPool":
            attrs["p"] = _even(node)
        (value,) = b.operator(op, {"X": _to_first(b, node, first)}, attrs, node.name)
        return _back(b, node, value, first)

    return make


def _even(node: Node) -> int:
    """Axon does not take the absolute value, so an odd norm is another function than ONNX's."""
    norm = node.take("norm", 2)
    if norm < 2 or norm % 2:
        raise Misfit(f"a norm of {norm} means another thing in ONNX")
    return int(norm)


def _global_pool(op: str) -> Callable[[Builder, Node], str]:
    def make(b: Builder, node: Node) -> str:
        first, keep, rank = _first(node), node.take("keep_axes", False), node.rank
        attrs = {"p": _even(node)} if op == "GlobalLpPool" else {}
        if rank < 3:
            raise Misfit(f"its input has {rank} axes")
        (value,) = b.operator(op, {"X": _to_first(b, node, first)}, attrs, node.name)
        if keep:
            return _back(b, node, value, first)
        inputs = {"data": value, "axes": _axes(b, node, range(2, rank))}
        return b.operator("Squeeze", inputs, {}, f"{node.name}/squeeze")[0]

    return make


def _channel_axis(node: Node) -> int:
    axis, rank = node.take("channel_index", -1), node.rank
    if not -rank <= axis < rank:
        raise Misfit(f"channel_index {axis} is outside a rank of {rank}")
    return int(axis % rank)


def _statistics_norm(b: Builder, node: Node) -> str:
    """batch_norm, and instance_norm too: at inference Axon takes the running statistics in both."""
    axis = _channel_axis(node)
    if axis == 0:
        raise Misfit("channel_index 0 is the batch")
    formals = {"scale": "gamma", "B": "beta", "input_mean": "mean", "input_var": "var"}
    attrs = {"epsilon": node.take("epsilon", 1e-05), "momentum": node.take("momentum", 0.1)}
    inputs = {"X": _to_first(b, node, axis == 1, axis)}
    for formal, name in formals.items():
        inputs[formal] = b.weight(f"{node.name}/{name}", node.parameter(name, 1))
    (value,) = b.operator("BatchNormalization", inputs, attrs, node.name)
    return _back(b, node, value, axis == 1, axis)


def _last(b: Builder, node: Node, axis: int) -> tuple[str, list[int]]:
    """The input with that axis as the last one, and the order that undoes it."""
    rank = node.rank
    order = [*(i for i in range(rank) if i != axis), axis]
    value = b.transpose(_one(node), order, f"{node.name}/last")
    return value, [order.index(i) for i in range(rank)]


def _layer_norm(b: Builder, node: Node) -> str:
    x, undo = _last(b, node, _channel_axis(node))
    inputs = {
        "X": x,
        "Scale": b.weight(f"{node.name}/gamma", node.parameter("gamma", 1)),
        "B": b.weight(f"{node.name}/beta", node.parameter("beta", 1)),
    }
    attrs = {"epsilon": node.take("epsilon", 1e-05)}
    (value,) = b.operator("LayerNormalization", inputs, attrs, node.name)
    return b.transpose(value, undo, f"{node.name}/back")


def _rms_norm(b: Builder, node: Node) -> str:
    x, undo = _last(b, node, _channel_axis(node))
    shift, gamma = node.take("shift", 0.0), node.parameter("gamma", 1)
    if node.take("upcast", "normalization") not in ("normalization", "all"):
        raise Misfit("option 'upcast' is unknown")
    scale = gamma if shift == 0 else (gamma + np.asarray(shift, gamma.dtype))
    inputs = {"X": x, "scale": b.weight(f"{node.name}/gamma", scale)}
    attrs = {"epsilon": node.take("epsilon", 1e-06)}
    (value,) = b.operator("RMSNormalization", inputs, attrs, node.name)
    return b.transpose(value, undo, f"{node.name}/back")


def _group_norm(b: Builder, node: Node) -> str:
    axis = _channel_axis(node)
    if axis == 0:
        raise Misfit("channel_index 0 is the batch")
    inputs = {
        "X": _to_first(b, node, axis == 1, axis),
        "scale": b.weight(f"{node.name}/gamma", node.parameter("gamma", 1)),
        "bias": b.weight(f"{node.name}/beta", node.parameter("beta", 1)),
    }
    groups = node.take("num_groups", 0)
    if groups < 1:
        raise Misfit("option 'num_groups' is missing")
    attrs = {"epsilon": node.take("epsilon", 1e-05), "num_groups": groups}
    (value,) = b.operator("GroupNormalization", inputs, attrs, node.name)
    return _back(b, node, value, axis == 1, axis)


def _flatten(b: Builder, node: Node) -> str:
    return b.operator("Flatten", {"input": _one(node)}, {"axis": 1}, node.name)[0]


def _reshape(b: Builder, node: Node) -> str:
    told = node.options.pop("shape", None)
    sizes: list[int] = []
    for i, size in enumerate(told if isinstance(told, list) else []):
        if size == "batch" and i == 0:
            sizes.append(0)
        elif size == "auto" and -1 not in sizes:
            sizes.append(-1)
        elif type(size) is int and size >= 1:
            sizes.append(size)
        else:
            raise Misfit(f"option 'shape' is {reprlib.repr(told)}")
    if not isinstance(told, list):
        raise Misfit(f"option 'shape' is {reprlib.repr(told)}")
    inputs = {
        "data": _one(node),
        "shape": b.weight(f"{node.name}/shape", np.asarray(sizes, np.int64)),
    }
    return b.operator("Reshape", inputs, {}, node.name)[0]


def _transpose(b: Builder, node: Node) -> str:
    axes, rank = node.options.pop("axes", None), node.rank
    axes = list(range(rank))[::-1] if axes is None else axes
    if not isinstance(axes, list) or sorted(a for a in axes if type(a) is int) != list(range(rank)):
        raise Misfit(f"option 'axes' is {reprlib.repr(axes)}")
    return b.operator("Transpose", {"data": _one(node)}, {"perm": axes}, node.name)[0]


def _pad(b: Builder, node: Node) -> str:
    first, rank = _first(node), node.rank
    sides, value = node.options.pop("padding_config", None), node.take("value", 0.0)
    good = (
        isinstance(sides, list)
        and len(sides) == rank - 2
        and all(
            isinstance(p, list)
            and len(p) == 2
            and all(type(n) is int and abs(n) < 2**31 for n in p)
            for p in sides
        )
    )
    if not good or not isinstance(sides, list):
        raise Misfit(f"option 'padding_config' is {reprlib.repr(sides)}")
    full = [[0, 0], [0, 0], *sides] if first else [[0, 0], *sides, [0, 0]]
    pads = [low for low, _ in full] + [high for _, high in full]
    inputs = {
        "data": _one(node),
        "pads": b.weight(f"{node.name}/pads", np.asarray(pads, np.int64)),
        "constant_value": b.weight(f"{node.name}/value", np.asarray(value, np.float32)),
    }
    return b.operator("Pad", inputs, {}, node.name)[0]


def _concatenate(b: Builder, node: Node) -> str:
    if not node.inputs:
        raise Misfit("it reads nothing")
    attrs = {"axis": node.take("axis", -1)}
    return b.operator("Concat", {"inputs": list(node.inputs)}, attrs, node.name)[0]


def _combined(op: str) -> Callable[[Builder, Node], str]:
    def make(b: Builder, node: Node) -> str:
        if len(node.inputs) < 2:
            raise Misfit(f"it reads {len(node.inputs)} values")
        value, *others = node.inputs
        for i, other in enumerate(others, start=2):
            name = node.name if i == len(node.inputs) else f"{node.name}/{i}"
            (value,) = b.operator(op, {"A": value, "B": other}, {}, name)
        return value

    return make


LAYERS: dict[str, Callable[[Builder, Node], str]] = {
    "add": _combined("Add"),
    "avg_pool": _pool("AveragePool"),
    "batch_norm": _statistics_norm,
    "bias": _bias,
    "celu": _activation("Celu", {"alpha": 1.0}),
    "concatenate": _concatenate,
    "constant": _constant,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "dense": _dense,
    "depthwise_conv": _conv,
    "elu": _activation("Elu", {"alpha": 1.0}),
    "embedding": _embedding,
    "exp": _activation("Exp"),
    "flatten": _flatten,
    "gelu": _activation("Gelu"),
    "global_avg_pool": _global_pool("GlobalAveragePool"),
    "global_lp_pool": _global_pool("GlobalLpPool"),
    "global_max_pool": _global_pool("GlobalMaxPool"),
    "group_norm": _group_norm,
    "hard_sigmoid": _activation("HardSigmoid", {"alpha": 0.2, "beta": 0.2}),
    "hard_silu": _hard_silu,
    "hard_tanh": _clipped(-1.0, 1.0),
    "instance_norm": _statistics_norm,
    "layer_norm": _layer_norm,
    "leaky_relu": _activation("LeakyRelu", {"alpha": 0.01}),
    "linear": _linear,
    "log_sigmoid": _log_sigmoid,
    "log_softmax": _activation("LogSoftmax", {"axis": -1}),
    "log_sumexp": _log_sum_exp,
    "lp_pool": _pool("LpPool"),
    "max_pool": _pool("MaxPool"),
    "mish": _activation("Mish"),
    "multiply": _combined("Mul"),
    "pad": _pad,
    "relu": _activation("Relu"),
    "relu6": _clipped(0.0, 6.0),
    "reshape": _reshape,
    "rms_norm": _rms_norm,
    "selu": _activation("Selu", {"alpha": 1.6732632, "gamma": 1.050701}),
    "sigmoid": _activation("Sigmoid"),
    "silu": _activation("Swish"),
    "softmax": _activation("Softmax", {"axis": -1}),
    "softplus": _activation("Softplus"),
    "softsign": _activation("Softsign"),
    "subtract": _combined("Sub"),
    "tanh": _activation("Tanh"),
    "transpose": _transpose,
}
"""Axon's layers by their own names."""
