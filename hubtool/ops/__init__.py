"""What every operator means, once.

One operator is one function, and its signature is the schema: positional parameters are the
inputs under their formal names, `None` by default where the input is optional, `*data_0` where it
is variadic; keyword-only parameters are the attributes with their defaults. The body is written
once against the Python array API (https://data-apis.org/array-api/latest/), so numpy, torch, jax
and our own shapes-only arrays all run it:

    @op("LeakyRelu")
    def leaky_relu(ctx, X, *, alpha=0.01):
        return ctx.xp.where(X < 0, X * alpha, X)

Operators are ONNX's own at one pinned opset (`OPSETS`). A family is a file; importing this package
imports no array library beyond numpy, and no `onnx`: a test compares every signature with onnx's
schemas instead.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from hubtool.dtypes import DTYPES
from hubtool.graph import Graph, Layer

__all__ = [
    "OPS",
    "OPSETS",
    "REQUIRED",
    "Formal",
    "Op",
    "check",
    "dtypes_made",
    "load_ops",
    "lookup",
    "op",
]

OPSETS = {"": 28, "ai.onnx.ml": 5, "ai.onnx.preview": 1, "com.microsoft": 1}

FAMILIES = (
    "elementwise",
    "activation",
    "reduce",
    "shape",
    "index",
    "linear",
    "window",
    "norm",
    "fused",
    "selection",
    "regions",
    "resize",
    "recurrent",
    "attention",
    "attention_state",
    "quantize",
    "signal",
    "random",
    "loss",
    "control",
    "sequence",
    "text",
    "ml",
    "ml_models",
    "ml_trees",
    "microsoft",
    "microsoft_attention",
    "microsoft_group_query",
    "microsoft_norm",
    "microsoft_quantize",
    "microsoft_packed",
)

REQUIRED: Any = inspect.Parameter.empty
"""The default of an attribute that has none and must be given."""


@dataclass(frozen=True)
class Formal:
    """A formal input: its name, and whether it may be left out or stands for a list."""

    name: str
    optional: bool
    variadic: bool


@dataclass(frozen=True)
class Op:
    """What an operator is: its function, and what the function's signature and `@op` say.

    returns: the dtype of each output: the name of an input (its dtype), of an attribute (the
        element type whose number it holds), or of a dtype; "" where the function decides; the
        last one holds for all outputs that follow.
    host: the inputs that the function wants as numbers at hand (a shape, axes, pads): they stay
        in numpy, whatever the backend, so that reading them never waits for a device.
    moves: only moves elements and computes nothing, so that narrow types need not be widened and
        rounded back.
    on_host: runs in numpy on every backend: what works on text and maps, and what walks from
        element to element.
    shape: what the results look like where the inputs are shapes without data, as arrays made by
        `ctx.empty`; only for functions that must see elements although no shape depends on them.
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[Formal, ...]
    attrs: dict[str, Any]
    returns: tuple[str, ...]
    host: frozenset[str]
    moves: bool
    on_host: bool
    shape: Callable[..., Any] | None


OPS: dict[str, Op] = {}
"""The operators by name, as far as their families were imported. `load_ops()` imports them all."""


def op(
    name: str,
    *,
    returns: str | tuple[str, ...] = (),
    host: tuple[str, ...] = (),
    moves: bool = False,
    on_host: bool = False,
    shape: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the function as the meaning of operator `name`; see `Op` for the options.

    Without `returns`, every output has the dtype of the first input.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _, *parameters = inspect.signature(function).parameters.values()  # the first is ctx
        inputs = tuple(
            Formal(p.name, p.default is None, p.kind is p.VAR_POSITIONAL)
            for p in parameters
            if p.kind is not p.KEYWORD_ONLY
        )
        attrs = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        rules = (returns,) if isinstance(returns, str) else returns
        if name in OPS:
            raise ValueError(f"operator {name} is defined twice")
        returned = rules or (inputs[0].name,)
        OPS[name] = Op(
            name, function, inputs, attrs, returned, frozenset(host), moves, on_host, shape
        )
        return function

    return register


@cache
def load_ops() -> dict[str, Op]:
    """Import every family and return OPS, filled."""
    for family in FAMILIES:
        importlib.import_module(f"{__name__}.{family}")
    return OPS


@cache
def lookup(name: str) -> Op | None:
    """The operator of that name, or None. Families are imported one after the other, until it is
    found: those of the common operators come first."""
    for family in FAMILIES:
        if name in OPS:
            break
        importlib.import_module(f"{__name__}.{family}")
    return OPS.get(name)


def check(graph: Graph, where: str = "") -> list[str]:
    """Every reason why this graph cannot be run, each naming its layer; empty if there is none."""
    problems: list[str] = []
    for layer in graph.layers:
        label = f"{where}layer '{layer.name}' ({layer.op})"
        known = lookup(layer.op)
        if known is None:
            problems.append(f"{label}: hubtool has no operator {layer.op}")
        else:
            problems += [f"{label}: {text}" for text in _mismatches(layer, known)]
        for key, body in layer.subgraphs().items():
            problems += check(body, f"{label} > {key}: ")
    return problems


def _mismatches(layer: Layer, known: Op) -> list[str]:
    formals = {formal.name: formal for formal in known.inputs}
    problems = [f"unknown input '{name}'" for name in layer.inputs if name not in formals]
    for formal in known.inputs:
        given = layer.inputs.get(formal.name)
        if given is None:
            if not formal.optional and not formal.variadic:
                problems.append(f"input '{formal.name}' is missing")
        elif formal.variadic != isinstance(given, list):
            wanted = "a list of values" if formal.variadic else "one value"
            problems.append(f"input '{formal.name}' must be {wanted}")
    problems += [f"unknown attribute '{key}'" for key in layer.attrs if key not in known.attrs]
    problems += [
        f"attribute '{key}' is missing"
        for key, default in known.attrs.items()
        if default is REQUIRED and key not in layer.attrs
    ]
    return problems


def dtypes_made(
    layer: Layer, dtypes: Mapping[str, str], known: Callable[[str], str] = lambda name: ""
) -> dict[str, str]:
    """The dtype of each output: what is `known` of it already, else what follows from the dtypes
    of the inputs by the operator's schema; "" where neither tells."""
    op_known = lookup(layer.op)
    rules = op_known.returns if op_known else ("",)
    made = {}
    for index, output in enumerate(layer.outputs):
        rule = rules[min(index, len(rules) - 1)]
        if not output:
            continue
        if known(output):
            made[output] = known(output)
        elif op_known and rule in op_known.attrs:
            number = layer.attrs.get(rule)
            made[output] = DTYPES.get(number, "") if isinstance(number, int) else ""
        elif op_known and rule in {formal.name for formal in op_known.inputs}:
            names = layer.inputs.get(rule, [])
            first = names if isinstance(names, str) else next(iter(names), "")
            made[output] = dtypes.get(first, "")
        else:
            made[output] = rule
    return made
