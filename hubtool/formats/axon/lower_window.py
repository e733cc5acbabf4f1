"""Convolutions and pools: Axon's layers with channels first, the windows worked out beforehand.

auto_pad is resolved and ceil_mode becomes padding at the end, so that a window goes exactly where
ONNX has it: in each of the runs of `lower_facts` the geometry is asked of `hubtool.ops.window`, and
must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hubtool.formats.axon.lower import Builder, lowers
from hubtool.formats.axon.lower_activation import number
from hubtool.formats.axon.lower_body import Body
from hubtool.formats.axon.lower_data import Unsayable
from hubtool.formats.axon.names import brackets, floating, tuple_
from hubtool.graph import Layer
from hubtool.ops.window import Window, resolve_transposed, resolve_window

__all__: list[str] = []

Options = list[tuple[str, str]]
CHANNELS = ("channels", ":first")


def _geometry(
    b: Builder, layer: Layer, x: str, resolve: Callable[..., Window], kernel: Sequence[int]
) -> Window:
    """The window of a layer, as far as it does not change with the sizes of the inputs."""
    keys = ["strides", "dilations", "pads", "auto_pad", "ceil_mode"]
    keys += ["output_padding", "output_shape"]
    attrs: dict[str, Any] = {key: layer.attrs[key] for key in keys if key in layer.attrs}
    found = [resolve(shape[2:], kernel, **attrs) for shape in b.facts.shapes[x]]
    first = found[0]
    if any((w.begins, w.ends) != (first.begins, first.ends) for w in found):
        raise Unsayable("its padding depends on the sizes of the inputs")
    if len({w.overhang for w in found}) > 1:
        raise Unsayable("with ceil_mode its last window depends on the sizes of the inputs")
    return first


def _padding(window: Window, overhang: bool = False) -> str:
    more = window.overhang if overhang else (0,) * len(window.kernel)
    pairs = zip(window.begins, window.ends, more, strict=True)
    return brackets(tuple_((begin, end + extra)) for begin, end, extra in pairs)


def _places(window: Window, dilations: str, always_strides: bool = False) -> Options:
    """kernel_size, strides, padding, dilations, as far as they are not Axon's defaults."""
    options = [("kernel_size", tuple_(window.kernel))]
    if always_strides or set(window.strides) != {1}:
        options.append(("strides", brackets(window.strides)))
    padding = _padding(window, overhang=always_strides)
    if padding != brackets("{0, 0}" for _ in window.kernel):
        options.append(("padding", padding))
    if set(window.dilations) != {1}:
        options.append((dilations, brackets(window.dilations)))
    return options


@lowers("Conv")
def conv(b: Builder, layer: Layer) -> None:
    X, W, B = (layer.inputs.get(formal) for formal in "XWB")
    assert isinstance(X, str) and isinstance(W, str)
    kernel = b.facts.shapes[W][0][2:]
    window = _geometry(b, layer, X, resolve_window, kernel)
    group = layer.attrs["group"]
    if not b.plain(W) or (B is not None and not b.plain(B)):
        _computed_conv(b, layer, window)
        return
    options = _places(window, "kernel_dilation")
    if group != 1:
        options.append(("feature_group_size", str(group)))
    parameters = [b.parameter("kernel", W)]
    if B is None:
        options.append(("use_bias", "false"))
    else:
        parameters.append(b.parameter("bias", B))
    units = str(b.facts.shapes[W][0][0])
    b.call(layer, "Axon.conv", [b.variable(X), units], [*options, CHANNELS], parameters)


def _computed_conv(b: Builder, layer: Layer, window: Window) -> None:
    """A convolution whose kernel or bias another layer makes."""
    body = Body(b, layer)
    x, w = body.read("X"), body.read("W")
    options = [("strides", brackets(window.strides)), ("padding", _padding(window))]
    options.append(("kernel_dilation", brackets(window.dilations)))
    options.append(("feature_group_size", str(layer.attrs["group"])))
    made = f"Nx.conv({x}, {w}, {_written(options)})"
    body.returns(*_with_bias(body, layer, made, len(window.kernel)))


def _written(options: Options) -> str:
    return ", ".join(f"{key}: {value}" for key, value in options)


def _with_bias(body: Body, layer: Layer, made: str, axes: int) -> list[str]:
    if "B" not in layer.inputs:
        return [made]
    ones = ", ".join(["1"] * axes)
    return [f"y = {made}", f"Nx.add(y, Nx.reshape({body.read('B')}, {{:auto, {ones}}}))"]


@lowers("ConvTranspose")
def conv_transpose(b: Builder, layer: Layer) -> None:
    """A convolution over the input spread out, its kernel turned round when it is loaded.

    Axon.conv_transpose takes padding as that of the spread input, and has no groups.
    """
    X, W, B = (layer.inputs.get(formal) for formal in "XWB")
    assert isinstance(X, str) and isinstance(W, str)
    C, share, *kernel = b.facts.shapes[W][0]
    group = layer.attrs["group"]
    assert isinstance(group, int)
    windows = _geometry(b, layer, X, resolve_transposed, kernel)
    pads = []
    for size, reach, begin, stride, n in zip(
        windows.size, windows.reach, windows.begins, windows.strides, windows.output, strict=True
    ):
        front = reach - 1 - begin
        pads.append(tuple_((front, size + reach - 1 - front - (stride * (n - 1) + 1))))
    axes = list(range(2, 2 + len(kernel)))
    if group == 1 and b.plain(W) and (B is None or b.plain(B)):
        turn = f"&(&1 |> Nx.transpose(axes: {[1, 0, *axes]}) |> Nx.reverse(axes: {axes}))"
        options = [("kernel_size", tuple_(kernel)), ("strides", brackets(windows.strides))]
        options.append(("padding", brackets(pads)))
        if set(windows.dilations) != {1}:
            options.append(("kernel_dilation", brackets(windows.dilations)))
        parameters = [b.parameter("kernel", W, turn)]
        if B is None:
            options.append(("use_bias", "false"))
        else:
            parameters.append(b.parameter("bias", B))
        args = [b.variable(X), str(share)]
        b.call(layer, "Axon.conv_transpose", args, [*options, CHANNELS], parameters)
        return
    body = Body(b, layer)
    x, w = body.read("X"), body.read("W")
    split = tuple_((group, C // group, share, *kernel))
    swapped = [0, 2, 1, *(axis + 1 for axis in axes)]
    whole = tuple_((group * share, C // group, *kernel))
    options = [("padding", brackets(pads)), ("input_dilation", brackets(windows.strides))]
    options.append(("kernel_dilation", brackets(windows.dilations)))
    options.append(("feature_group_size", str(group)))
    made = f"Nx.conv({x}, kernel, {_written(options)})"
    body.returns(
        f"kernel = Nx.transpose(Nx.reshape({w}, {split}), axes: {swapped})",
        f"kernel = Nx.reverse(Nx.reshape(kernel, {whole}), axes: {axes})",
        *_with_bias(body, layer, made, len(kernel)),
    )


def _pool_window(b: Builder, layer: Layer) -> Window:
    kernel = layer.attrs["kernel_shape"]
    assert isinstance(kernel, list | tuple)
    return _geometry(b, layer, str(layer.inputs["X"]), resolve_window, list(kernel))


@lowers("MaxPool")
def max_pool(b: Builder, layer: Layer) -> None:
    if any(layer.outputs[1:]):
        raise Unsayable("its indices are read, and Nx does not give them")
    window = _pool_window(b, layer)
    options = _places(window, "dilations", always_strides=True)
    b.call(layer, "Axon.max_pool", [b.variable(layer.inputs["X"])], [*options, CHANNELS])


@lowers("AveragePool")
def average_pool(b: Builder, layer: Layer) -> None:
    """Axon.avg_pool divides by the whole window; where some of it does not count, Nx divides by
    the sum under a window of ones."""
    window = _pool_window(b, layer)
    included = bool(layer.attrs["count_include_pad"])
    padded = any(window.begins) or any(window.ends)
    if not any(window.overhang) and (included or not padded):
        options = _places(window, "dilations", always_strides=True)
        b.call(layer, "Axon.avg_pool", [b.variable(layer.inputs["X"])], [*options, CHANNELS])
        return
    body = Body(b, layer)
    x = body.read("X")
    size, options = _nx_window(window, window.overhang)
    lines = [f"opts = [{_written(options)}]", f"ones = Nx.broadcast(Nx.tensor(1.0), Nx.shape({x}))"]
    total = f"Nx.window_sum({x}, {size}, opts)"
    if included:
        sides = zip(window.begins, window.ends, strict=True)
        around = brackets(["{0, 0, 0}"] * 2 + [tuple_((lo, hi, 0)) for lo, hi in sides])
        inner = Window(**{**vars(window), "begins": (0,) * len(window.kernel)})
        _, rest = _nx_window(inner, window.overhang, ends=False)
        lines.append(f"ones = Nx.pad(ones, 1.0, {around})")
        lines.append(f"counts = Nx.window_sum(ones, {size}, {_written(rest)})")
    else:
        lines.append(f"counts = Nx.window_sum(ones, {size}, opts)")
    body.returns(*lines, f"Nx.divide({total}, counts)")


def _nx_window(window: Window, more: Sequence[int], ends: bool = True) -> tuple[str, Options]:
    """A window over all axes, for Nx's own functions."""
    last = [end if ends else 0 for end in window.ends]
    pairs = [(lo, hi + m) for lo, hi, m in zip(window.begins, last, more, strict=True)]
    options = [
        ("strides", brackets((1, 1, *window.strides))),
        ("padding", brackets(map(tuple_, [(0, 0), (0, 0), *pairs]))),
    ]
    if set(window.dilations) != {1}:
        options.append(("window_dilations", brackets((1, 1, *window.dilations))))
    return tuple_((1, 1, *window.kernel)), options


@lowers("LpPool")
def lp_pool(b: Builder, layer: Layer) -> None:
    window = _pool_window(b, layer)
    body = Body(b, layer)
    x, p = body.read("X"), layer.attrs["p"]
    assert isinstance(p, int)
    size, options = _nx_window(window, window.overhang)
    body.returns(
        f"powers = Nx.pow(Nx.abs({x}), {p})",
        f"total = Nx.window_sum(powers, {size}, {_written(options)})",
        f"Nx.pow(total, {floating(1 / p)})",
    )


GLOBAL = {"GlobalAveragePool": "Axon.global_avg_pool", "GlobalMaxPool": "Axon.global_max_pool"}


@lowers(*GLOBAL)
def global_pool(b: Builder, layer: Layer) -> None:
    options = [("keep_axes", "true"), CHANNELS]
    b.call(layer, GLOBAL[layer.op], [b.variable(layer.inputs["X"])], options)


@lowers("GlobalLpPool")
def global_lp_pool(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x, p = body.read("X"), layer.attrs["p"]
    assert isinstance(p, int)
    axes = list(range(2, b.rank(str(layer.inputs["X"]))))
    body.returns(
        f"total = Nx.sum(Nx.pow(Nx.abs({x}), {p}), axes: {axes}, keep_axes: true)",
        f"Nx.pow(total, {floating(1 / p)})",
    )


@lowers("LRN")
def lrn(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x, size = body.read("X"), layer.attrs["size"]
    assert isinstance(size, int)
    rank = b.rank(str(layer.inputs["X"]))
    before = (size - 1) // 2
    window = tuple_([1, size, *[1] * (rank - 2)])
    pads = brackets([tuple_((0, 0)), tuple_((before, size - 1 - before)), *["{0, 0}"] * (rank - 2)])
    alpha, bias, beta = (number(layer, key) for key in ("alpha", "bias", "beta"))
    body.returns(
        f"total = Nx.window_sum(Nx.multiply({x}, {x}), {window}, padding: {pads})",
        f"scale = Nx.add({bias}, Nx.divide(Nx.multiply({alpha}, total), {size}))",
        f"Nx.divide({x}, Nx.pow(scale, {beta}))",
    )


@lowers("com.microsoft.FusedConv")
def fused_conv(b: Builder, layer: Layer) -> None:
    """Taken apart again: the convolution, what is added, the activation."""
    conv_keys = {key: a for key, a in layer.attrs.items() if not key.startswith("activation")}
    parts = [("Conv", {f: v for f, v in layer.inputs.items() if f != "Z"}, conv_keys, "X")]
    if "Z" in layer.inputs:
        parts.append(("Add", {"B": layer.inputs["Z"]}, {}, "A"))
    activation, params = layer.attrs.get("activation"), layer.attrs.get("activation_params")
    if activation:
        assert isinstance(activation, str) and isinstance(params or [], list)
        parts.append(_activation(b, layer, activation, list(params or [])))  # type: ignore[arg-type]
    made = layer.outputs[0]
    before: str | list[str] = layer.inputs["X"]
    for place, (op, inputs, attrs, formal) in enumerate(parts, start=1):
        last = place == len(parts)
        part = Layer(layer.name, op, {}, [made]) if last else b.derived(layer, op, {})
        (result,) = part.outputs
        b.facts.shapes[result], b.facts.dtypes[result] = b.facts.shapes[made], b.facts.dtypes[made]
        both = {formal: before, **inputs}
        b.lower_layer(Layer(part.name, op, both, part.outputs, attrs))
        before = result


def _activation(
    b: Builder, layer: Layer, name: str, params: list[float]
) -> tuple[str, dict[str, str | list[str]], dict[str, Any], str]:
    """What follows a fused convolution, as an operator of its own."""
    if name == "Clip":
        bounds = {}
        for formal, value in zip(("min", "max"), params, strict=True):
            bounds[formal] = f"{layer.name}/{formal}"
            b.facts.constants[bounds[formal]] = np.asarray(value, np.float32)
        return name, {**bounds}, {}, "input"
    keys = {"LeakyRelu": ["alpha"], "HardSigmoid": ["alpha", "beta"]}.get(name, [])
    return name, {}, dict(zip(keys, params, strict=True)), "input" if name == "Tanh" else "X"
