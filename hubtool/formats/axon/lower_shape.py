"""Operators that arrange elements. A size that follows from the inputs' is read off a tensor when
the model runs, so a batch of any size goes through."""

from __future__ import annotations

from hubtool.formats.axon.lower import Builder, lowers
from hubtool.formats.axon.lower_body import Body
from hubtool.formats.axon.lower_data import Unsayable
from hubtool.formats.axon.lower_facts import Dim
from hubtool.formats.axon.names import brackets, floating, tuple_
from hubtool.graph import Layer

__all__: list[str] = []


@lowers("Reshape")
def reshape(b: Builder, layer: Layer) -> None:
    _to_dims(b, layer, "data")


@lowers("Flatten")
def flatten(b: Builder, layer: Layer) -> None:
    _to_dims(b, layer, "input")


def _to_dims(b: Builder, layer: Layer, formal: str) -> None:
    """The same elements in the shape of the output: Axon's flatten or reshape, or Nx's."""
    x, before = layer.inputs[formal], b.dims(str(layer.inputs[formal]))
    dims = b.dims(layer.outputs[0])
    batch = bool(before) and bool(dims) and before[0] is not None and before[0] == dims[0]
    if batch and len(dims) == 2 and len(before) > 1:
        b.call(layer, "Axon.flatten", [b.variable(x)])
        return
    numbers = [dim.number if dim else None for dim in dims]
    if None not in numbers:
        b.call(layer, "Axon.reshape", [b.variable(x), tuple_(numbers)])
    elif batch and None not in numbers[1:]:
        b.call(layer, "Axon.reshape", [b.variable(x), tuple_([":batch", *numbers[1:]])])
    else:
        body = Body(b, layer)
        text = body.read(formal)
        body.returns(f"Nx.reshape({text}, {_sizes(body, dims)})")


def _sizes(body: Body, dims: tuple[Dim | None, ...]) -> str:
    """The shape in which one size, which follows no simple rule, is what is left."""
    if dims.count(None) > 1:
        raise Unsayable("two of its sizes follow no simple rule from the inputs' sizes")
    return tuple_(":auto" if dim is None else body.size(dim) for dim in dims)


@lowers("Transpose")
def transpose(b: Builder, layer: Layer) -> None:
    order = range(b.rank(str(layer.inputs["data"])))[::-1]
    perm = layer.attrs.get("perm", order)
    b.call(layer, "Axon.transpose", [b.variable(layer.inputs["data"]), brackets(list(perm))])  # type: ignore[arg-type]


@lowers("Squeeze")
def squeeze(b: Builder, layer: Layer) -> None:
    x = str(layer.inputs["data"])
    if "axes" in layer.inputs:
        axes = [axis % b.rank(x) for axis in b.integers(layer, "axes")]
    else:
        axes = [axis for axis, dim in enumerate(b.dims(x)) if dim and dim.number == 1]
    body = Body(b, layer)
    body.returns(f"Nx.squeeze({body.read('data')}, axes: {axes})")


@lowers("Unsqueeze")
def unsqueeze(b: Builder, layer: Layer) -> None:
    rank = b.rank(layer.outputs[0])
    body = Body(b, layer)
    text = body.read("data", typed=True)
    for axis in sorted(axis % rank for axis in b.integers(layer, "axes")):
        text = f"Nx.new_axis({text}, {axis})"
    body.returns(text)


@lowers("Concat")
def concat(b: Builder, layer: Layer) -> None:
    names, axis = layer.inputs["inputs"], layer.attrs["axis"]
    assert isinstance(axis, int)
    axis %= b.rank(layer.outputs[0])
    if len(names) == 1:
        b.variables[layer.outputs[0]] = b.variable(names[0])
    elif all(b.made(name) for name in names):
        inputs = b.items(b.variable(name) for name in names)
        b.call(layer, "Axon.concatenate", [inputs], [("axis", str(axis))])
    else:
        body = Body(b, layer)
        texts = [body.read(f"part_{i}", name, typed=True) for i, name in enumerate(names)]
        body.returns(f"Nx.concatenate({brackets(texts)}, axis: {axis})")


@lowers("Split")
def split(b: Builder, layer: Layer) -> None:
    axis, x = layer.attrs["axis"], str(layer.inputs["input"])
    assert isinstance(axis, int)
    axis %= b.rank(x)
    before: list[str] = []
    for output, name in enumerate(layer.outputs):
        dim = b.dims(name)[axis] if name else None
        body = Body(b, layer)
        text = body.read("input")
        size = body.size(dim) if name else ""
        if name:
            start = " + ".join(before) or "0"
            if all(part.isdigit() for part in before):
                start = str(sum(map(int, before)))
            cut = f"Nx.slice_along_axis({text}, {start}, {size}, axis: {axis})"
            body.returns(cut, output=output)
        elif output + 1 < len(layer.outputs):
            raise Unsayable("of its parts one in the middle is not read")
        before.append(size)


@lowers("Expand")
def expand(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    text = body.read("input", typed=True)
    body.returns(f"Nx.broadcast({text}, {body.shape(layer.outputs[0])})")


@lowers("Tile")
def tile(b: Builder, layer: Layer) -> None:
    repeats = b.numbers(layer, "repeats")
    body = Body(b, layer)
    text = body.read("input", typed=True)
    body.returns(f"Nx.tile({text}, {brackets(body.size(dim) for dim in repeats)})")


@lowers("Pad")
def pad(b: Builder, layer: Layer) -> None:
    x = str(layer.inputs["data"])
    rank, numbers = b.rank(x), b.integers(layer, "pads")
    axes = b.integers(layer, "axes") if "axes" in layer.inputs else list(range(rank))
    sides = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        sides[axis % rank] = (numbers[i], numbers[i + len(axes)])
    mode = str(layer.attrs["mode"])
    if mode == "constant":
        _pad_constant(b, layer, sides)
        return
    if min(min(pair) for pair in sides) < 0:
        raise Unsayable(f"mode '{mode}' with negative pads")
    body = Body(b, layer)
    text = body.read("data")
    lines = []
    for axis, (begin, end) in enumerate(sides):
        if begin or end:
            lines += _sources(mode, body.axis(x, axis), begin, end)
            lines.append(f"{text} = Nx.take({text}, places, axis: {axis})")
    last = lines.pop().removeprefix(f"{text} = ") if lines else text
    body.returns(*lines, last)


def _sources(mode: str, size: str, begin: int, end: int) -> list[str]:
    """Lines that make `places`: where each element along a padded axis comes from."""
    lines, last = [], str(int(size) - 1) if size.isdigit() else "last"
    if last == "last" and mode != "wrap":
        lines.append(f"last = {size} - 1")
    count = str(int(size) + begin + end) if size.isdigit() else f"{size} + {begin + end}"
    lines.append(f"places = Nx.subtract(Nx.iota({{{count}}}), {begin})")
    if mode == "edge":
        return [*lines, f"places = Nx.min(Nx.max(places, 0), {last})"]
    if mode == "wrap":
        lines.append(f"places = Nx.add(Nx.remainder(places, {size}), {size})")
        return [*lines, f"places = Nx.remainder(places, {size})"]
    lines.append(f"places = Nx.remainder(Nx.abs(places), max(2 * {last}, 1))")
    return [*lines, f"places = Nx.subtract({last}, Nx.abs(Nx.subtract({last}, places)))"]


def _pad_constant(b: Builder, layer: Layer, sides: list[tuple[int, int]]) -> None:
    value = layer.inputs.get("constant_value")
    number = b.constant(value)
    plain = value is None or (number is not None and number.dtype == "float32")
    outer_free = len(sides) > 2 and sides[:2] == [(0, 0), (0, 0)]
    if plain and outer_free and b.dtype(layer.outputs[0]) == "float32":
        text = "0.0" if number is None else floating(float(number.reshape(())))
        if text.lstrip("-")[0].isdigit():
            config = brackets(map(tuple_, sides[2:]))
            args = [b.variable(layer.inputs["data"]), config, text]
            b.call(layer, "Axon.pad", args, [("channels", ":first")])
            return
    body = Body(b, layer)
    x = body.read("data")
    filling = "0" if value is None else body.read("constant_value")
    config = brackets(tuple_((begin, end, 0)) for begin, end in sides)
    body.returns(f"Nx.pad({x}, {filling}, {config})")


@lowers("DepthToSpace")
def depth_to_space(b: Builder, layer: Layer) -> None:
    body, name = Body(b, layer), str(layer.inputs["input"])
    x, k = body.read("input"), layer.attrs["blocksize"]
    assert isinstance(k, int)
    N, C, H, W = (body.axis(name, axis) for axis in range(4))
    depth = _divided(C, k * k)
    split: tuple[object, ...]
    if layer.attrs["mode"] == "DCR":
        split, order = (N, k, k, depth, H, W), [0, 3, 4, 1, 5, 2]
    else:
        split, order = (N, depth, k, k, H, W), [0, 1, 4, 2, 5, 3]
    body.returns(
        f"blocks = Nx.transpose(Nx.reshape({x}, {tuple_(split)}), axes: {order})",
        f"Nx.reshape(blocks, {tuple_((N, depth, _multiplied(H, k), _multiplied(W, k)))})",
    )


@lowers("SpaceToDepth")
def space_to_depth(b: Builder, layer: Layer) -> None:
    body, name = Body(b, layer), str(layer.inputs["input"])
    x, k = body.read("input"), layer.attrs["blocksize"]
    assert isinstance(k, int)
    N, C, H, W = (body.axis(name, axis) for axis in range(4))
    h, w = _divided(H, k), _divided(W, k)
    order = [0, 3, 5, 1, 2, 4] if layer.attrs["mode"] == "DCR" else [0, 1, 3, 5, 2, 4]
    made = tuple_((N, _multiplied(C, k * k), h, w))
    body.returns(
        f"blocks = Nx.reshape({x}, {tuple_((N, C, h, k, w, k))})",
        f"Nx.reshape(Nx.transpose(blocks, axes: {order}), {made})",
    )


def _divided(size: str, by: int) -> str:
    return str(int(size) // by) if size.isdigit() else f"div({size}, {by})"


def _multiplied(size: str, by: int) -> str:
    return str(int(size) * by) if size.isdigit() else f"{by} * {size}"


@lowers("Shape", "Size", "Range", "ConstantOfShape")
def arithmetic_of_shapes(b: Builder, layer: Layer) -> None:
    """Known beforehand wherever it is shape arithmetic, and then it never comes here."""
    raise Unsayable("what it makes is known only when it runs")
