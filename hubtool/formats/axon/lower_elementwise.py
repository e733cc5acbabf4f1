"""Elementwise operators as Nx functions: arithmetic, comparison, logic, casts.

Most are one expression over the formal inputs, so they stand in a table. Nx broadcasts as ONNX
does, and numbers take the type of the tensor beside them. Nx has no bool: comparisons give u8, 0
or 1, and bool tensors are u8 throughout.
"""

from __future__ import annotations

from hubtool.dtypes import DTYPES
from hubtool.formats.axon.lower import Builder, lowers
from hubtool.formats.axon.lower_body import Body
from hubtool.formats.axon.lower_data import TYPES, Unsayable
from hubtool.formats.axon.names import floating
from hubtool.graph import Layer

__all__: list[str] = []

EXPRESSIONS = {
    "Abs": "Nx.abs({X})",
    "Acos": "Nx.acos({input})",
    "Acosh": "Nx.acosh({input})",
    "And": "Nx.logical_and({A}, {B})",
    "Asin": "Nx.asin({input})",
    "Asinh": "Nx.asinh({input})",
    "Atan": "Nx.atan({input})",
    "Atanh": "Nx.atanh({input})",
    "BitwiseAnd": "Nx.bitwise_and({A}, {B})",
    "BitwiseNot": "Nx.bitwise_not({X})",
    "BitwiseOr": "Nx.bitwise_or({A}, {B})",
    "BitwiseXor": "Nx.bitwise_xor({A}, {B})",
    "Ceil": "Nx.ceil({X})",
    "Cos": "Nx.cos({input})",
    "Cosh": "Nx.cosh({input})",
    "Equal": "Nx.equal({A}, {B})",
    "Erf": "Nx.erf({input})",
    "Exp": "Nx.exp({input})",
    "Floor": "Nx.floor({X})",
    "Greater": "Nx.greater({A}, {B})",
    "GreaterOrEqual": "Nx.greater_equal({A}, {B})",
    "IsNaN": "Nx.is_nan({X})",
    "Less": "Nx.less({A}, {B})",
    "LessOrEqual": "Nx.less_equal({A}, {B})",
    "Log": "Nx.log({input})",
    "Neg": "Nx.negate({X})",
    "Not": "Nx.logical_not({X})",
    "Or": "Nx.logical_or({A}, {B})",
    "Reciprocal": "Nx.divide(1.0, {X})",
    "Sign": "Nx.sign({input})",
    "Sin": "Nx.sin({input})",
    "Sinh": "Nx.sinh({input})",
    "Sqrt": "Nx.sqrt({X})",
    "Tan": "Nx.tan({input})",
    "Xor": "Nx.logical_xor({A}, {B})",
}


@lowers(*EXPRESSIONS)
def expression(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    body.returns(EXPRESSIONS[layer.op].format(**{f: body.read(f) for f in layer.inputs}))


def is_integer(dtype: str) -> bool:
    """Whether elements of this type are integers."""
    return dtype.startswith(("int", "uint"))


AXON = {"Add": "Axon.add", "Sub": "Axon.subtract", "Mul": "Axon.multiply"}
NX = {"Add": "Nx.add", "Sub": "Nx.subtract", "Mul": "Nx.multiply"}


@lowers("Add", "Sub", "Mul")
def arithmetic(b: Builder, layer: Layer) -> None:
    """Axon's own layer between two results; with a weight or a number, Nx's function."""
    operands = [layer.inputs["A"], layer.inputs["B"]]
    if all(b.constant(name) is None and not b.weight(name) and b.made(name) for name in operands):
        b.call(layer, AXON[layer.op], [b.variable(name) for name in operands])
        return
    body = Body(b, layer)
    body.returns(f"{NX[layer.op]}({body.read('A')}, {body.read('B')})")


@lowers("Div")
def divide(b: Builder, layer: Layer) -> None:
    """Integers are rounded toward zero, as Nx.quotient does."""
    body = Body(b, layer)
    function = "Nx.quotient" if is_integer(b.dtype(layer.outputs[0])) else "Nx.divide"
    body.returns(f"{function}({body.read('A')}, {body.read('B')})")


@lowers("Mod")
def mod(b: Builder, layer: Layer) -> None:
    """Nx.remainder has the sign of the dividend, as fmod; Mod without it that of the divisor."""
    body = Body(b, layer)
    A, B = body.read("A"), body.read("B")
    if layer.attrs["fmod"]:
        body.returns(f"Nx.remainder({A}, {B})")
    elif not is_integer(b.dtype(layer.outputs[0])):
        body.returns(f"Nx.subtract({A}, Nx.multiply({B}, Nx.floor(Nx.divide({A}, {B}))))")
    else:
        body.returns(f"Nx.remainder(Nx.add(Nx.remainder({A}, {B}), {B}), {B})")


@lowers("Pow")
def power(b: Builder, layer: Layer) -> None:
    """In the type of X, whatever that of Y."""
    body = Body(b, layer)
    X, Y = body.read("X", typed=True), body.read("Y")
    x, y = b.dtype(layer.outputs[0]), b.dtype(str(layer.inputs["Y"]))
    if x != y and is_integer(x) and not is_integer(y):
        raise Unsayable("an integer to the power of a float would be rounded otherwise")
    body.returns(f"Nx.pow({X}, {Y})" if x == y else f"Nx.as_type(Nx.pow({X}, {Y}), {TYPES[x]})")


@lowers("Round")
def round_(b: Builder, layer: Layer) -> None:
    """To the nearest, halves to the even one; Nx.round takes halves away from zero."""
    body = Body(b, layer)
    x = body.read("X")
    body.returns(
        f"down = Nx.floor({x})",
        f"rest = Nx.subtract({x}, down)",
        "odd = Nx.greater(Nx.abs(Nx.remainder(down, 2)), 0.5)",
        "up = Nx.logical_or(Nx.greater(rest, 0.5), Nx.logical_and(Nx.equal(rest, 0.5), odd))",
        "Nx.add(down, up)",
    )


FOLDS = {
    "Max": "Nx.max({}, {})",
    "Min": "Nx.min({}, {})",
    "Sum": "Nx.add({}, {})",
    "Mean": "Nx.add({}, {})",
}


@lowers(*FOLDS)
def fold(b: Builder, layer: Layer) -> None:
    names = layer.inputs["data_0"]
    body = Body(b, layer)
    first, *others = [body.read(f"data_{i}", name) for i, name in enumerate(names)]
    lines = []
    for other in others[:-1]:
        lines.append(f"all = {FOLDS[layer.op].format(first, other)}")
        first = "all"
    result = FOLDS[layer.op].format(first, others[-1]) if others else first
    if layer.op == "Mean" and len(names) > 1:
        result = f"Nx.divide({result}, {len(names)})"
    body.returns(*lines, result)


@lowers("Clip")
def clip(b: Builder, layer: Layer) -> None:
    """Axon's relu6 where it is that; the greater bound last, so that it wins as in ONNX."""
    low, high = (layer.inputs.get(formal) for formal in ("min", "max"))
    bounds = [b.constant(name) for name in (low, high)]
    if [None if bound is None else float(bound) for bound in bounds] == [0.0, 6.0]:
        b.call(layer, "Axon.relu6", [b.variable(layer.inputs["input"])])
        return
    body = Body(b, layer)
    text = body.read("input")
    if low is not None:
        text = f"Nx.max({text}, {body.read('min')})"
    if high is not None:
        text = f"Nx.min({text}, {body.read('max')})"
    body.returns(text)


@lowers("Where")
def where(b: Builder, layer: Layer) -> None:
    """Nx.select has the shape of its condition, so that is broadcast where it is smaller."""
    body = Body(b, layer)
    made = layer.outputs[0]
    typed = b.constant(layer.inputs["X"]) is not None and b.constant(layer.inputs["Y"]) is not None
    X, Y = body.read("X", typed=typed), body.read("Y", typed=typed)
    condition = body.read("condition", typed=True)
    if b.dims(str(layer.inputs["condition"])) != b.dims(made):
        condition = f"Nx.broadcast({condition}, {body.shape(made)})"
    body.returns(f"Nx.select({condition}, {X}, {Y})")


@lowers("Identity")
def identity(b: Builder, layer: Layer) -> None:
    b.variables[layer.outputs[0]] = b.variable(layer.inputs["input"])


@lowers("Cast")
def cast(b: Builder, layer: Layer) -> None:
    to = layer.attrs["to"]
    assert isinstance(to, int)
    _cast_to(b, layer, "input", DTYPES[to])


@lowers("CastLike")
def cast_like(b: Builder, layer: Layer) -> None:
    _cast_to(b, layer, "input", b.dtype(str(layer.inputs["target_type"])))


def _cast_to(b: Builder, layer: Layer, formal: str, to: str) -> None:
    source = b.dtype(str(layer.inputs[formal]))
    if to not in TYPES or source not in TYPES:
        raise Unsayable(f"Nx has no element type {source if to in TYPES else to}")
    if source == to:
        b.variables[layer.outputs[0]] = b.variable(layer.inputs[formal])
        return
    body = Body(b, layer)
    x = body.read(formal)
    body.returns(f"Nx.not_equal({x}, 0)" if to == "bool" else f"Nx.as_type({x}, {TYPES[to]})")


@lowers("IsInf")
def is_inf(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x = body.read("X")
    signs = (layer.attrs["detect_negative"], layer.attrs["detect_positive"])
    if signs == (1, 1):
        body.returns(f"Nx.is_infinity({x})")
    elif signs == (0, 0):
        body.returns(f"Nx.broadcast(Nx.tensor(0, type: {{:u, 8}}), {body.shape(layer.outputs[0])})")
    else:
        side = "Nx.greater" if signs[1] else "Nx.less"
        body.returns(f"Nx.logical_and(Nx.is_infinity({x}), {side}({x}, 0))")


@lowers("BitShift")
def bit_shift(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    shift = b.constant(layer.inputs["Y"])
    if shift is None or shift.min(initial=0) < 0:
        raise Unsayable("Nx says nothing of a shift by all bits, and Y is known only when it runs")
    function = "Nx.left_shift" if layer.attrs["direction"] == "LEFT" else "Nx.right_shift"
    body.returns(f"{function}({body.read('X')}, {body.read('Y')})")


@lowers("Shrink")
def shrink(b: Builder, layer: Layer) -> None:
    body = Body(b, layer)
    x = body.read("input")
    if is_integer(b.dtype(layer.outputs[0])):
        raise Unsayable("of integers it would be rounded otherwise")
    bias, lambd = (_number(layer, key) for key in ("bias", "lambd"))
    body.returns(
        f"above = Nx.multiply(Nx.greater({x}, {lambd}), Nx.subtract({x}, {bias}))",
        f"Nx.select(Nx.less({x}, Nx.negate({lambd})), Nx.add({x}, {bias}), above)",
    )


def _number(layer: Layer, key: str) -> str:
    value = layer.attrs[key]
    assert isinstance(value, float)
    return floating(value)
