"""Lowering: a graph of known shapes becomes a plan for the C++ engine, as plain data.

    graph + shapes ──▶ drafts of steps over buffers ──▶ Lowered: steps, arena, blob of weights
                       (lower_conv, _pool, …)            (lower_layout)

Each family of operators has a file with two tables: LOWER makes an operator's steps, REASONS says
before there are shapes why a layer cannot have any. What turns out impossible only when the shapes
are there raises Unlowerable; then the part is interpreted. Weights are placed, not packed: `fill`
does that, once, since it costs far more than all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hubtool.backends.native import (
    library,
    lower_conv,
    lower_elementwise,
    lower_pool,
    lower_shape,
)
from hubtool.backends.native.lower_build import (
    Buffer,
    Builder,
    Choice,
    Facts,
    Ref,
    Unlowerable,
)
from hubtool.backends.native.lower_layout import Packing, choose, laid, packings, steps_of
from hubtool.backends.native.lower_turns import in_turns
from hubtool.graph import Graph, Layer

__all__ = ["Choice", "Lowered", "Packing", "Unlowerable", "fill", "lower", "reason_against"]

Array = np.ndarray[Any, Any]

FAMILIES = (lower_conv, lower_pool, lower_elementwise, lower_shape)
LOWER: dict[str, Callable[[Builder, Layer], None]] = {}
REASONS: dict[str, Callable[[Layer, Facts], str]] = {}
for _family in FAMILIES:
    LOWER.update(_family.LOWER)
    REASONS.update(_family.REASONS)

HOSTED = frozenset({"shape", "axes", "pads", "sizes", "scales", "roi", "ratio", "training_mode"})
"""The inputs that are numbers at hand rather than operands."""

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


@dataclass
class Lowered:
    """A plan without its packed weights.

    steps, labels: what is done, and what each step is for. arena, blob: bytes. weights: what the
    blob holds. inputs: the names of the arrays that a run is given, outputs: the names and shapes
    of those that it fills, in order. choices: what could be tried for each convolution.
    """

    steps: Array
    labels: list[str]
    arena: int
    weights: list[Packing]
    blob: int
    inputs: list[str]
    outputs: list[tuple[str, tuple[int, ...]]]
    choices: dict[str, list[Choice]]


def reason_against(layer: Layer, graph: Graph, dtypes: Mapping[str, str] | None = None) -> str:
    """Why a layer cannot be lowered, "" where it can, as far as that is known without shapes.

    dtypes: value name -> its dtype, where more is known of them than the graph says.
    """
    reason = REASONS.get(layer.op)
    if reason is None:
        return "no kernel"
    for name in (*_operands(layer), *filter(None, layer.outputs[:1])):
        known = graph.known(name)
        dtype = (dtypes or {}).get(name) or (known.dtype if known else "")
        if dtype not in ("", "float32") or (known and known.kind != "tensor"):
            return dtype or "no tensor"
    return reason(layer, Facts(graph, dtypes or {}))


def _operands(layer: Layer) -> list[str]:
    return [
        name
        for formal, names in layer.inputs.items()
        if formal not in HOSTED
        for name in ([names] if isinstance(names, str) else names)
    ]


def lower(
    graph: Graph,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    isa: str,
    precision: str = "float32",
    exact: bool = False,
    choices: Mapping[str, Choice] | None = None,
) -> Lowered:
    """The plan of a prepared graph whose inputs have these shapes.

    exact: no algorithm that rounds otherwise than the plain sum. choices: how a layer's convolution
    is to be done, where that is not left to the rule. Raises Unlowerable.
    """
    builder = Builder(graph, shapes, PRECISIONS[precision])
    for layer in graph.layers:
        rule = LOWER.get(layer.op)
        if rule is None:
            raise Unlowerable(f"{layer.op} '{layer.name}': no kernel")
        try:
            rule(builder, layer)
        except Unlowerable as error:
            raise Unlowerable(f"{layer.op} '{layer.name}': {error}") from error
    outputs = _exported(builder)
    in_turns(builder.drafts)
    arena = laid(builder.drafts)
    steps = steps_of(builder.drafts)
    possible = choose(steps, builder.drafts, isa, exact, choices or {})
    weights, blob = packings(steps, builder.drafts, isa)
    labels = [draft.label for draft in builder.drafts]
    return Lowered(steps, labels, arena, weights, blob, builder.inputs, outputs, possible)


def fill(lowered: Lowered, graph: Graph, isa: str, into: Array, threads: int) -> None:
    """Pack all weights into the blob: uint8, as many as `lowered.blob`, at a multiple of 64."""
    into[...] = 0
    for packing in lowered.weights:
        array = packing.load()
        to = into[packing.offset : packing.offset + packing.size]
        if packing.packed:
            library.pack(isa, lowered.steps[packing.step], array, to, threads)
        else:
            given = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8)
            to[: given.size] = given


def _exported(b: Builder) -> list[tuple[str, tuple[int, ...]]]:
    """Let every output reach its array: a matrix is made there, where nobody else reads it."""
    outputs = []
    flats = [b.value(name)[0] for name in b.graph.outputs]
    for index, name in enumerate(b.graph.outputs):
        flat, shape = b.value(name)
        outputs.append((name, shape))
        key, ref = min(_forms(flat), key=lambda form: form[0][1] * form[0][2] > 1)
        own = ref.buffer
        if flats.count(flat) == 1 and _is_free(b, own) and _is_matrix(own):
            own.where, own.index, own.exact, own.type = "output", index, True, "f32"
            continue
        there = Buffer(*key, where="output", index=index, exact=True)
        kind = "copy" if key[1] * key[2] == 1 else "to_nchw"
        b.step(kind, f"export '{name}'", ref, Ref(there, *key))
    return outputs


def _forms(flat: Any) -> list[tuple[tuple[int, int, int, int], Ref]]:
    """The forms in which a value lies in memory, the plain one as a matrix among them."""
    forms = [*flat.forms.items()]
    if flat.plain is not None:
        plain = flat.plain
        total = plain.n * plain.h * plain.w * plain.c
        forms.insert(0, ((1, 1, 1, total), Ref(plain, 1, 1, 1, total)))
    return forms


def _is_matrix(buffer: Buffer) -> bool:
    """Whether a buffer in the arena may as well be the caller's array."""
    own = buffer.where == "arena" and not any(buffer.halo) and not buffer.spilled
    return own and (buffer.h * buffer.w == 1 or buffer.exact)


def _is_free(b: Builder, buffer: Buffer) -> bool:
    """Whether one step makes a buffer and none reads it."""
    if buffer.parent is not None or buffer.children:
        return False
    uses = [
        (operand, draft)
        for draft in b.drafts
        for operand, ref in (("x", draft.x), ("y", draft.y), ("z", draft.z))
        if ref is not None and ref.buffer is buffer
    ]
    # In bfloat16 a residual is of the result's own type, and an output is float32.
    return [operand == "y" and (b.type == "f32" or draft.z is None) for operand, draft in uses] == [
        True
    ]
