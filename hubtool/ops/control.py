"""Control flow: layers whose attributes are graphs, which arrive here as functions.

    If      outputs = then_branch() or else_branch()
    Loop    cond, *v, *scanned = body(i, cond, *v)      while cond and i < M
    Scan    *state, *scanned   = body(*state, *slices)  for each slice of the scanned inputs
    SequenceMap                = body(items, …)         for each item of the sequence

A body sees the names around it by itself. Its inputs stay where they are: a counter or a shape on
the host goes round a loop on the host, so that the shapes of what a loop makes are known without
data too, wherever they do not depend on any. (https://onnx.ai/onnx/operators/onnx__Loop.html)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from hubtool.errors import HubtoolError
from hubtool.graph import Value
from hubtool.ops import REQUIRED, op
from hubtool.ops.shape import axis_of

__all__: list[str] = []

Array = Any
Body = Any
Ints = Sequence[int]

MOST_TURNS = 10_000
"""So often does a loop go round at most where only shapes are asked for."""


def _stacked(ctx: Any, values: Sequence[Array], axis: int = 0) -> Array:
    """The values along a new axis; on the host where all are."""
    if all(isinstance(value, np.ndarray) for value in values):
        return np.stack(values, axis=axis)
    return ctx.xp.stack([ctx.here(value) for value in values], axis=axis)


def _gathered(ctx: Any, made: Sequence[Array], value: Value, axis: int = 0) -> Array:
    """A scanned output from the values of all turns; where there was none, from what is known of
    it. Sizes that are not known are 0 then."""
    if made:
        return _stacked(ctx, made, axis_of(axis, len(np.shape(made[0])) + 1))
    dims = [dim if isinstance(dim, int) else 0 for dim in value.shape or ()]
    dims.insert(axis_of(axis, len(dims) + 1), 0)
    return ctx.empty(dims, value.dtype or "float32")


def _described(value: Any) -> Any:
    """What must be the same for two values to be alike without their elements."""
    if isinstance(value, list):
        return [*map(_described, value)]
    return None if value is None else (str(value.dtype), tuple(value.shape))


def _if_shape(ctx: Any, cond: Array, *, else_branch: Body, then_branch: Body) -> Any:
    if isinstance(cond, np.ndarray):
        return if_(ctx, cond, else_branch=else_branch, then_branch=then_branch)
    made, problems = [], []
    for branch in (then_branch, else_branch):
        try:
            made.append(branch())
        except HubtoolError as error:
            problems.append(error)
    if not made:
        raise problems[0]
    # A branch that these shapes do not fit is not the one that is taken.
    taken, other = made[0], made[-1]
    if [*map(_described, taken)] != [*map(_described, other)]:
        raise ValueError("its branches give different shapes, and the data decide between them")
    return tuple(ctx.here(value) for value in taken)


@op("If", returns="", host=("cond",), moves=True, shape=_if_shape)
def if_(
    ctx: Any, cond: Array, *, else_branch: Body = REQUIRED, then_branch: Body = REQUIRED
) -> Any:
    if cond.size != 1:
        raise ValueError(f"cond has {cond.size} elements, not one")
    branch = then_branch if cond.reshape(())[()] else else_branch
    taken: tuple[Any, ...] = branch()
    return taken


def _loop_shape(
    ctx: Any, M: Array = None, cond: Array = None, *v_initial: Any, body: Body
) -> tuple[Any, ...]:
    """Turn by turn as long as the data that decide are at hand; else every turn must leave the
    shapes as they are."""
    if all(isinstance(value, np.ndarray | None) for value in (M, cond)):
        try:
            known: tuple[Any, ...] = loop(ctx, M, cond, *v_initial, body=_Shapes(ctx, body))
            return known
        except _Undecided:
            pass
    kept = len(v_initial)
    _, *made = body(
        ctx.empty((), "int64"), ctx.empty((), "bool"), *map(_without_data(ctx), v_initial)
    )
    if [*map(_described, made[:kept])] != [*map(_described, v_initial)]:
        raise ValueError("its variables change their shapes, and the data decide how often")
    if any(ctx.wanted[kept:]):
        raise ValueError("the data decide how often it goes round, and so how long its outputs are")
    return (*map(_without_data(ctx), v_initial), *(None for _ in made[kept:]))


class _Undecided(Exception):
    """Whether a loop goes on depends on data that are not there."""


class _Shapes:
    """The body of a Loop as it is run for its shapes."""

    def __init__(self, ctx: Any, body: Body) -> None:
        self.ctx = ctx
        self.body = body
        self.outputs = body.outputs

    def __call__(self, turn: Array, *inputs: Any) -> tuple[Any, ...]:
        cond, *made = self.body(turn, *inputs)
        if not isinstance(cond, np.ndarray):
            raise _Undecided
        if turn >= MOST_TURNS:
            raise ValueError(f"it goes round more than {MOST_TURNS:,} times")
        return (cond, *made)


def _without_data(ctx: Any) -> Any:
    def forget(value: Any) -> Any:
        if isinstance(value, list):
            return [*map(forget, value)]
        return ctx.here(value)

    return forget


@op("Loop", returns="", host=("M", "cond"), moves=True, shape=_loop_shape)
def loop(
    ctx: Any, M: Array = None, cond: Array = None, *v_initial: Any, body: Body = REQUIRED
) -> tuple[Any, ...]:
    """The variables after the last turn, and what the turns gave beside them along a new axis."""
    turns = count() if M is None else range(int(M.reshape(())))
    going: Any = np.asarray(True) if cond is None else cond.reshape(())
    variables: Sequence[Any] = v_initial
    scanned = [*body.outputs.values()][1 + len(v_initial) :]
    made: list[list[Array]] = [[] for _ in scanned]
    for turn in turns:
        if not ctx.host(going):
            break
        going, *results = body(np.asarray(turn, np.int64), going, *variables)
        variables = results[: len(v_initial)]
        for values, value in zip(made, results[len(v_initial) :], strict=True):
            values.append(value)
    ends = zip(made, scanned, strict=True)
    return (*variables, *(_gathered(ctx, values, value) for values, value in ends))


def _turns(
    ctx: Any,
    inputs: Sequence[Array],
    body: Body,
    most: int | None = None,
    *,
    num_scan_inputs: int,
    scan_input_axes: Ints | None = None,
    scan_input_directions: Ints | None = None,
    **of_outputs: Any,
) -> tuple[int, Sequence[Any], list[list[Array]]]:
    """How often a Scan goes round, the state after `most` turns, and what each gave beside it."""
    kept = len(inputs) - num_scan_inputs
    if kept < 0:
        raise ValueError(f"it has {len(inputs)} inputs; {num_scan_inputs} are to be scanned")
    state, scanned = inputs[:kept], inputs[kept:]
    given = scan_input_axes or [0] * num_scan_inputs
    axes = [axis_of(axis, len(x.shape)) for axis, x in zip(given, scanned, strict=True)]
    backwards = scan_input_directions or [0] * num_scan_inputs
    lengths = {x.shape[axis] for axis, x in zip(axes, scanned, strict=True)}
    if len(lengths) != 1:
        raise ValueError(f"its scanned inputs have different lengths: {sorted(lengths)}")
    (length,) = lengths
    made: list[list[Array]] = [[] for _ in [*body.outputs][kept:]]
    for turn in range(length if most is None else min(most, length)):
        places = (length - 1 - turn if back else turn for back in backwards)
        slices = (
            x[(*(slice(None),) * axis, place, ...)]
            for x, axis, place in zip(scanned, axes, places, strict=True)
        )
        results = body(*state, *slices)
        state = results[:kept]
        for values, value in zip(made, results[kept:], strict=True):
            values.append(value)
    return length, state, made


def _scan_shape(ctx: Any, *inputs: Array, body: Body, **attrs: Any) -> tuple[Any, ...]:
    """One turn tells the shapes of all."""
    length, state, made = _turns(ctx, inputs, body, 1, **attrs)
    axes = attrs.get("scan_output_axes") or [0] * len(made)
    known = [*body.outputs.values()][len(state) :]
    outputs = []
    for values, value, axis in zip(made, known, axes, strict=True):
        once = _gathered(ctx, values, value, axis)
        dims = [*once.shape]
        dims[axis_of(axis, len(dims))] = length
        outputs.append(ctx.empty(dims, ctx.dtype(ctx.here(once))))
    return (*map(_without_data(ctx), state), *outputs)


@op("Scan", returns="", moves=True, shape=_scan_shape)
def scan(
    ctx: Any,
    *initial_state_and_scan_inputs: Array,
    body: Body = REQUIRED,
    num_scan_inputs: int = REQUIRED,
    scan_input_axes: Ints | None = None,
    scan_input_directions: Ints | None = None,
    scan_output_axes: Ints | None = None,
    scan_output_directions: Ints | None = None,
) -> tuple[Any, ...]:
    """The state after the last slice, and what each turn gave beside it along an axis."""
    _, state, made = _turns(
        ctx,
        initial_state_and_scan_inputs,
        body,
        num_scan_inputs=num_scan_inputs,
        scan_input_axes=scan_input_axes,
        scan_input_directions=scan_input_directions,
    )
    known = [*body.outputs.values()][len(state) :]
    axes = scan_output_axes or [0] * len(made)
    backwards = scan_output_directions or [0] * len(made)
    return (
        *state,
        *(
            _gathered(ctx, values[::-1] if back else values, value, axis)
            for values, value, axis, back in zip(made, known, axes, backwards, strict=True)
        ),
    )


@op("SequenceMap", returns="", moves=True)
def sequence_map(
    ctx: Any, input_sequence: list[Array], *additional_inputs: Any, body: Body = REQUIRED
) -> tuple[Any, ...]:
    """Further sequences are gone through beside the first; a tensor is the same for every item."""
    made = [
        body(item, *(more[turn] if isinstance(more, list) else more for more in additional_inputs))
        for turn, item in enumerate(input_sequence)
    ]
    return tuple([results[number] for results in made] for number in range(len(body.outputs)))
