"""A layer of our own: a function in Nx over what it reads, given to Axon.nx or Axon.layer.

    Axon.layer(fn x, b, _opts -> Nx.add(x, b) end, [relu1, Axon.param("b", {64, 1, 1}, …)], name: …)

What an operator reads is one of three things, and `Body.read` gives the text for each: another
layer's result (an argument), a tensor of the weights file (an argument too, and a parameter of the
layer), or numbers that are known (written in place). Sizes that follow from the inputs' are asked
of the arguments when the model runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hubtool.formats.axon.lower_data import TYPES, Parameter, Unsayable
from hubtool.formats.axon.lower_facts import Dim
from hubtool.formats.axon.lower_source import Call, Function, Items, Text
from hubtool.formats.axon.names import Variables, floating, layer_name, literal, tuple_
from hubtool.graph import Layer

if TYPE_CHECKING:
    from hubtool.formats.axon.lower import Builder

__all__ = ["Body"]

Array = np.ndarray[Any, Any]


class Body:
    """The function of a layer of our own, in the making: what it reads, and how that is called.

    `read` and `size` give Elixir text for the function's body; `returns` adds the step.
    """

    def __init__(self, builder: Builder, layer: Layer) -> None:
        self.builder, self.layer = builder, layer
        self.names = Variables(("opts",))
        self.tensors: dict[str, str] = {}  # value -> what the function calls it
        self.given: list[Text] = []
        self.parameters: list[Parameter] = []

    def read(self, formal: str, value: Any = None, *, typed: bool = False) -> str:
        """An input of the layer as the function sees it: a name, or the numbers themselves.

        typed: where no other operand says of what type a lone number is.
        """
        value = self.layer.inputs[formal] if value is None else value
        if value in self.tensors:
            return self.tensors[value]
        constant = self.builder.constant(value)
        if constant is not None and not self._is_parameter(value, constant):
            return self.inline(constant, typed)
        if value in self.builder.facts.host:
            return self._computed(value)
        name = self.names.of(formal)
        if self.builder.weight(value):
            self._weight(name, value)
        else:
            self.given.append(self.builder.variable(value))
        self.tensors[value] = name
        return name

    def _is_parameter(self, value: Any, constant: Array) -> bool:
        """Whether small numbers are weights to be trained, such as a bias, and not a constant."""
        is_float = constant.dtype.kind not in "iub"
        return self.builder.weight(value) and is_float and constant.size > 1

    def _weight(self, name: str, value: str) -> None:
        parameter = self.builder.parameter(name, value)
        kind = TYPES[parameter.dtype]
        typed = () if parameter.dtype == "float32" else (("type", kind),)
        shape = tuple_(parameter.shape)
        options = (*typed, ("initializer", ":zeros"))
        self.given.append(Call("Axon.param", (literal(name), shape), options))
        self.parameters.append(parameter)

    def inline(self, array: Array, typed: bool = False) -> str:
        """The numbers of a small constant as an Nx tensor, or one alone as a number."""
        dtype = array.dtype.name
        if dtype not in TYPES:
            raise Unsayable(f"Nx has no element type {dtype}")
        kind = TYPES[dtype]
        if array.size == 0:
            raise Unsayable("it reads a tensor of no elements, which Nx does not have")
        if array.ndim == 0 and not typed and np.isfinite(array):
            return _number(array[()])
        same = array.size > 1 and len({*map(_number, array.reshape(-1))}) == 1
        if same:
            one = f"Nx.tensor({_number(array.reshape(-1)[0])}, type: {kind})"
            return f"Nx.broadcast({one}, {tuple_(array.shape)})"
        return f"Nx.tensor({_nested(array)}, type: {kind})"

    def _computed(self, value: str) -> str:
        """Shape arithmetic that depends on the inputs' sizes, as numbers made when it runs."""
        facts = self.builder.facts
        found = facts.host[value]
        dims = facts.dims(value)
        kind = TYPES[facts.dtype(value)]
        if None in dims:
            raise Unsayable("it reads numbers whose count follows no simple rule")
        shape = tuple_(self.size(dim) for dim in dims if dim)
        numbers = {_number(n) for array in found for n in {*array.reshape(-1)[:1]}}
        if all(_is_uniform(array) for array in found) and len(numbers) == 1:
            return f"Nx.broadcast(Nx.tensor({numbers.pop()}, type: {kind}), {shape})"
        laws = {_progression(array) for array in found}
        if len(laws) == 1 and (law := laws.pop()):
            first, step = law
            text = f"Nx.iota({shape}, axis: {_long_axis(found[0])}, type: {kind})"
            text = text if step == 1 else f"Nx.multiply({text}, {step})"
            return text if first == 0 else f"Nx.add({text}, {first})"
        if len({array.shape for array in found}) == 1 and found[0].ndim <= 1:
            rules = [facts.rule(at) for at in zip(*(a.reshape(-1) for a in found), strict=True)]
            if None not in rules and all(array.dtype.kind in "iu" for array in found):
                texts = [self.size(rule) for rule in rules if rule]
                listed = f"[{', '.join(texts)}]" if found[0].ndim else texts[0]
                return f"Nx.tensor({listed}, type: {kind})"
        raise Unsayable("it reads numbers that follow no simple rule from the inputs' sizes")

    def size(self, dim: Dim | None) -> str:
        """A size as a number or a term in the sizes of what the function reads."""
        if dim is None:
            raise Unsayable("it needs a size that follows no simple rule from the inputs' sizes")
        if dim.symbol is None:
            return str(dim.offset)
        text = self._axis_size(dim)
        if not text:
            text = self._symbol(dim.symbol)
            text = text if dim.factor == 1 else f"{dim.factor} * {text}"
            if dim.offset:
                text = f"{text} {'+' if dim.offset > 0 else '-'} {abs(dim.offset)}"
        return text

    def axis(self, value: str, axis: int) -> str:
        """The size of an axis of something that was read: a number, or asked when it runs."""
        dim = self.builder.dims(value)[axis]
        if dim is not None and dim.number is not None:
            return str(dim.number)
        return f"Nx.axis_size({self.tensors[value]}, {axis})"

    def _axis_size(self, dim: Dim) -> str:
        """The axis of something at hand that has this very size, or ""."""
        for value, name in self.tensors.items():
            for axis, found in enumerate(self.builder.dims(value)):
                if found == dim:
                    return f"Nx.axis_size({name}, {axis})"
        return ""

    def _symbol(self, symbol: str) -> str:
        """The size that a symbol stands for, read off something at hand or a model input."""
        plain = Dim(1, symbol, 0)
        found = self._axis_size(plain)
        if not found:
            value, _ = self.builder.facts.symbols[symbol]
            self.read("like", value)
            found = self._axis_size(plain)
        return found

    def shape(self, name: str) -> str:
        """The shape of a value, as a tuple."""
        return tuple_(self.size(dim) for dim in self.builder.dims(name))

    def returns(self, *lines: str, output: int = 0) -> None:
        """Add the step: a function of everything read, whose last line is the result."""
        b, layer = self.builder, self.layer
        name = layer_name(b.name_of(layer, output))
        params = tuple(self.tensors.values())
        options = (("name", name),)
        if len(params) == 1 and not self.parameters:
            (given,) = self.given
            function: Text = Function(params, lines)
            function = _captured(params[0], lines) or function
            b.step(layer, Call("Axon.nx", (given, function), options), (), output)
            return
        function = Function((*params, "_opts"), lines)
        inputs = Items(tuple(self.given))
        call = Call("Axon.layer", (function, inputs), options)
        b.step(layer, call, self.parameters, output)


def _captured(param: str, lines: tuple[str, ...]) -> str:
    """&Nx.exp/1 for a function that is one call of one argument, else ""."""
    if len(lines) == 1 and lines[0].startswith("Nx.") and lines[0].endswith(f"({param})"):
        head = lines[0].removesuffix(f"({param})")
        return f"&{head}/1" if head.replace(".", "").replace("_", "").isalnum() else ""
    return ""


def _number(value: Any) -> str:
    """A number as Elixir writes it; Nx takes :infinity, :neg_infinity and :nan too."""
    if value.dtype.kind in "iub":
        return str(int(value))
    number = float(value)
    if np.isnan(number):
        return ":nan"
    if np.isinf(number):
        return ":infinity" if number > 0 else ":neg_infinity"
    return repr(number) if value.dtype == np.float64 else floating(number)


def _nested(array: Array) -> str:
    if array.ndim == 0:
        return _number(array[()])
    return f"[{', '.join(_nested(np.asarray(part)) for part in array)}]"


def _is_uniform(array: Array) -> bool:
    return array.size > 0 and bool((array == array.reshape(-1)[0]).all())


def _progression(array: Array) -> tuple[int, int] | None:
    """The first number and the step, where integers go in even steps along one long axis."""
    flat = array.reshape(-1)
    if array.dtype.kind not in "iu" or flat.size < 2 or flat.size != max(array.shape):
        return None
    first, step = int(flat[0]), int(flat[1]) - int(flat[0])
    even = np.array_equal(flat, first + step * np.arange(flat.size))
    return (first, step) if even else None


def _long_axis(array: Array) -> int:
    return int(np.argmax(array.shape)) if array.ndim else 0
