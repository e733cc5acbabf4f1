"""A layer graph as a list of Axon calls: plain data, from which notebook and module are printed.

    Conv 'conv0' (X=data, W=w)   ⟶   conv0 = Axon.conv(data, 64, …, name: "conv0")
                                     parameter "kernel" of "conv0" is the tensor "w"

An operator is one function here, registered under ONNX's name by `lowers`, in a file by family.
It says its layer with Axon's own layer where that has ONNX's exact meaning; otherwise with Nx
functions in a layer of our own (`Builder.function`). What Axon cannot say raises `Unsayable`, and
every such layer is reported, not the first one alone.

Shape arithmetic is not lowered: its numbers are known (`lower_facts`), or they are sizes of the
tensors at hand when the model runs. So no batch size is baked in.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

from hubtool import ops
from hubtool.formats.axon.lower_body import Body
from hubtool.formats.axon.lower_data import TYPES, Input, Lowered, Parameter, Step, Unsayable
from hubtool.formats.axon.lower_facts import Dim, Facts, gather
from hubtool.formats.axon.lower_source import Call, Items, Text
from hubtool.formats.axon.names import Variables, layer_name
from hubtool.graph import Graph, Layer

__all__ = [
    "LOWERED",
    "Builder",
    "load_lowered",
    "lower",
    "lowers",
]

Array = np.ndarray[Any, Any]

FAMILIES = ("elementwise", "activation", "window", "norm", "linear", "shape", "index", "reduce")

OURS = ("model", "tensors", "wanted", "params", "model_state", "input", "logits", "labels", "opts")
"""Variables of the notebook's own cells."""


Lowering = Callable[["Builder", Layer], None]
LOWERED: dict[str, Lowering] = {}
"""Every operator that can be said, by name. `load_lowered()` fills it."""


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Register the function as what says these operators."""

    def register(function: Lowering) -> Lowering:
        for name in names:
            if name in LOWERED:
                raise ValueError(f"operator {name} is lowered twice")
            LOWERED[name] = function
        return function

    return register


@cache
def load_lowered() -> dict[str, Lowering]:
    """Import every family and return LOWERED, filled."""
    for family in FAMILIES:
        importlib.import_module(f"{__name__}_{family}")
    return LOWERED


def lower(graph: Graph) -> Lowered:
    """The graph as Axon calls, with everything that could not be said in `problems`."""
    problems = _unknown(graph)
    facts = "" if problems else gather(graph)
    if isinstance(facts, str):
        return Lowered(problems=problems or [facts])
    builder = Builder(graph, facts)
    for layer in graph.layers:
        outputs = [name for name in layer.outputs if name]
        if all(name in facts.host or name in facts.constants for name in outputs):
            continue
        try:
            builder.check_sizes(layer)
            builder.lower_layer(layer)
        except Unsayable as reason:
            builder.result.problems.append(f"layer '{layer.name}' ({layer.op}): {reason}")
        for name in outputs:
            builder.variables.setdefault(name, "")
    return builder.finish()


def _unknown(graph: Graph) -> list[str]:
    """The layers whose operator the core or this table does not have, and odd element types."""
    problems = ops.check(graph)
    table = load_lowered()
    problems += [
        f"layer '{layer.name}' ({layer.op}): hubtool cannot say {layer.op} in Axon"
        for layer in graph.layers
        if ops.lookup(layer.op) and layer.op not in table
    ]
    read = {name for layer in graph.layers for name in layer.reads()}
    problems += [
        f"tensor '{name}': Nx has no element type {tensor.dtype}"
        for name, tensor in graph.tensors.items()
        if tensor.dtype not in TYPES and name in read
    ]
    problems += [
        f"tensor '{name}' has no elements: Elixir's safetensors cannot read a file that holds one"
        for name, tensor in graph.tensors.items()
        if tensor.size == 0
    ]
    problems += [
        f"input '{name}': Axon has no inputs of the kind {value}"
        for name, value in graph.inputs.items()
        if value.kind != "tensor" or value.dtype not in TYPES
    ]
    problems += [
        f"input '{name}': a default for an input cannot be said"
        for name in graph.inputs
        if name in graph.tensors
    ]
    return problems


class Builder:
    """A model in the making: what each value is called in Elixir, and the steps so far."""

    def __init__(self, graph: Graph, facts: Facts) -> None:
        self.graph, self.facts = graph, facts
        self.result = Lowered()
        self.names = Variables(OURS)
        self.common = _common_prefix([layer.name for layer in graph.layers])
        self.layer_names: set[str] = {layer.name for layer in graph.layers}
        self.variables: dict[str, str] = {}
        self.reading: set[str] = set()
        for name in graph.inputs:
            variable = self.names.of(name)
            self.variables[name] = variable
            self.result.inputs.append(
                Input(variable, name, facts.dtype(name), self.shape_known(name))
            )

    def shape_known(self, name: str) -> tuple[int | None, ...]:
        """The sizes of a value, None where one depends on the inputs'."""
        if name not in self.facts.shapes:
            return ()
        return tuple(dim.number if dim else None for dim in self.facts.dims(name))

    def check_sizes(self, layer: Layer) -> None:
        """Nx has no tensors without elements."""
        for name in (*layer.reads(), *layer.outputs):
            if any(0 in shape for shape in self.facts.shapes.get(name, ())):
                folded = name in self.facts.constants and name not in layer.outputs
                if name and not folded:
                    raise Unsayable(f"'{name}' has no elements, and Nx has no such tensors")

    def dims(self, name: str) -> tuple[Dim | None, ...]:
        return self.facts.dims(name)

    def rank(self, name: str) -> int:
        return self.facts.rank(name)

    def dtype(self, name: str) -> str:
        return self.facts.dtype(name)

    def constant(self, name: Any) -> Array | None:
        """The numbers of a value that is known and small, else None."""
        return self.facts.constants.get(name) if isinstance(name, str) else None

    def made(self, name: Any) -> bool:
        """Whether the value is an input or a layer's result, and not shape arithmetic."""
        return name in self.variables

    def weight(self, name: Any) -> bool:
        """Whether the value is a tensor of the file and no layer's result."""
        return isinstance(name, str) and name in self.graph.tensors

    def plain(self, name: Any, rank: int | None = None) -> bool:
        """Whether the value is a tensor of the file that may be a parameter of Axon's own layers:
        those are of 32-bit floats, whatever the weights are."""
        if not self.weight(name):
            return False
        found = self.graph.tensors[name]
        return found.dtype == "float32" and (rank is None or len(found.shape) == rank)

    def parameter(self, axon_name: str, tensor: Any, turn: str = "") -> Parameter:
        """A parameter of Axon's that is a tensor of the file."""
        found = self.graph.tensors[tensor]
        return Parameter(axon_name, tensor, found.shape, found.dtype, turn)

    def numbers(self, layer: Layer, formal: str) -> list[Dim]:
        """An input that holds sizes, axes or places: each number, or how it follows from sizes."""
        name = layer.inputs[formal]
        assert isinstance(name, str)
        known = self.constant(name)
        if known is not None:
            return [Dim(0, None, int(n)) for n in known.reshape(-1)]
        found = self.facts.host.get(name)
        if found is None or len({array.shape for array in found}) > 1:
            raise Unsayable(f"its '{formal}' is known only when it runs")
        rules = [self.facts.rule(at) for at in zip(*(a.reshape(-1) for a in found), strict=True)]
        if None in rules:
            raise Unsayable(f"its '{formal}' does not follow simply from the inputs' sizes")
        return [rule for rule in rules if rule is not None]

    def integers(self, layer: Layer, formal: str) -> list[int]:
        """An input that holds numbers which do not depend on the inputs' sizes."""
        numbers = [dim.number for dim in self.numbers(layer, formal)]
        if None in numbers:
            raise Unsayable(f"its '{formal}' depends on the sizes of the inputs")
        return [number for number in numbers if number is not None]

    def lower_layer(self, layer: Layer) -> None:
        """Say one layer. Raises Unsayable."""
        load_lowered()[layer.op](self, layer)

    def variable(self, name: Any) -> str:
        """The Elixir variable of a value that a step made, or an input; a value that is a weight
        or a constant becomes a step of its own."""
        if name not in self.variables:
            layer = self.derived(Layer(name, "Constant", {}, [name]), "", {"value": name})
            body = Body(self, layer)
            body.returns(body.read("value", typed=True))
            self.variables[name] = self.variables[layer.outputs[0]]
        self.reading.add(self.variables[name])
        return self.variables[name]

    def step(
        self, layer: Layer, value: Text, parameters: Iterable[Parameter] = (), output: int = 0
    ) -> None:
        """Add `variable = value` for an output of the layer."""
        made = layer.outputs[output]
        name = self.name_of(layer, output)
        self.variables[made] = self.names.of(name.removeprefix(self.common) or name)
        self.result.steps.append(
            Step(
                self.variables[made],
                value,
                name,
                tuple(parameters),
                layer,
                self.shape_known(made),
                frozenset(self.reading),
            )
        )
        self.reading.clear()

    def call(
        self,
        layer: Layer,
        function: str,
        args: Iterable[Text],
        options: Iterable[tuple[str, str]] = (),
        parameters: Iterable[Parameter] = (),
    ) -> None:
        """Add a call of an Axon function that has the layer's name."""
        named = (*options, ("name", layer_name(self.name_of(layer, 0))))
        self.step(layer, Call(function, tuple(args), named), parameters)

    @staticmethod
    def items(texts: Iterable[str]) -> Items:
        """A list of variables, for a layer that takes several."""
        return Items(tuple(texts))

    def name_of(self, layer: Layer, output: int) -> str:
        """The name in Axon: the layer's own, or for a further output that with its number."""
        if output == 0:
            return layer.name
        name = f"{layer.name}/{output}"
        while name in self.layer_names:
            name += "'"
        return name

    def derived(self, layer: Layer, suffix: str, reads: dict[str, Any]) -> Layer:
        """A layer of our own, to prepare what `layer` reads; its output is named like itself."""
        name = f"{layer.name}/{suffix}" if suffix else layer.name
        while name in self.layer_names or name in self.variables:
            name += "'"
        self.layer_names.add(name)
        return Layer(name, layer.op, reads, [name])

    def finish(self) -> Lowered:
        """The whole, its outputs named."""
        result = self.result
        for name in self.graph.outputs:
            try:
                result.outputs[name] = self.variable(name)
            except Unsayable as reason:
                result.problems.append(f"output '{name}': {reason}")
        live = {*result.outputs.values()}
        for step in reversed(result.steps):
            if step.variable in live:
                live |= step.reads
        result.steps = [step for step in result.steps if step.variable in live]
        result.inputs = [given for given in result.inputs if given.variable in live]
        read = {parameter.tensor for _, parameter in result.parameters}
        result.folded = [name for name in self.graph.tensors if name not in read]
        return result


def _common_prefix(names: list[str]) -> str:
    """What nine of ten layers' names begin with, as "resnetv15_" or "/model/"; variables leave it
    out."""
    prefix = ""
    for cut in range(1, 64):
        starts = Counter(name[:cut] for name in names if len(name) > cut)
        start, count = max(starts.items(), key=lambda found: found[1], default=("", 0))
        if count < 0.9 * len(names) or len(names) < 3:
            break
        prefix = start if start[-1] in "_./" else prefix
    return prefix
