"""Recurrent layers: RNN, GRU, LSTM, and ONNX Runtime's LSTM of quantised weights.

All of them are one walk over time. What X adds to the gates needs no state, so it is one matrix
product for all time steps before the walk. Both directions walk at once, the backward one over a
sequence that was turned round:

    X [T, N, I] ──W──▶ [D, T, N, gates·H]      T time steps, N sequences, I input_size,
    H [D, N, H] ──R──▶    + [D, N, gates·H]    D directions, H hidden_size

The letters of a step are those of the operators' pages (https://onnx.ai/onnx/operators/). Where the
pages leave it open, ONNX Runtime decides: `clip` bounds the gates, not the cell; a sequence that is
over keeps its state and its Y is 0. A sequence is turned round within its own length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hubtool.ops import REQUIRED, lookup, op
from hubtool.ops.quantize import accumulated, dynamically_quantized

__all__: list[str] = []

Array = Any
Floats = Sequence[float]
Function = Callable[[Array], Array]
Step = Callable[..., tuple[Array, ...]]

LSTM_DEFAULT = ("Sigmoid", "Tanh", "Tanh")

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}

OPERATORS = (
    "Elu",
    "HardSigmoid",
    "LeakyRelu",
    "Relu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Tanh",
    "ThresholdedRelu",
)
"""The activations that are operators: their definitions and defaults hold."""

OTHERS: dict[str, Callable[..., Array]] = {
    "Affine": lambda ctx, x, alpha, beta: alpha * x + beta,
    "ScaledTanh": lambda ctx, x, alpha, beta: alpha * ctx.xp.tanh(beta * x),
}
"""Those that are none, so that nothing gives their parameters a default."""

NO_DEFAULTS: dict[str, Any] = {"alpha": None, "beta": None}


@op("RNN")
def rnn(
    ctx: Any,
    X: Array,
    W: Array,
    R: Array,
    B: Array = None,
    sequence_lens: Array = None,
    initial_h: Array = None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Sequence[str] = ("Tanh", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Array, ...]:
    """H = f(X·Wᵀ + Wb + H·Rᵀ + Rb)."""
    inputs = (X, W, R, B, sequence_lens, initial_h)
    walk = _walk(ctx, 1, direction, hidden_size, layout, inputs)
    names = activations[: walk.D]  # the default is that of both directions
    (f,) = _activations(ctx, 1, walk.D, names, activation_alpha, activation_beta, clip)

    def step(x: Array, H: Array) -> tuple[Array, ...]:
        return (f(x + ctx.xp.matmul(H, walk.R)),)

    return walk.run(ctx.xp.matmul(walk.X, walk.W) + (walk.Wb + walk.Rb), step)


@op("GRU")
def gru(
    ctx: Any,
    X: Array,
    W: Array,
    R: Array,
    B: Array = None,
    sequence_lens: Array = None,
    initial_h: Array = None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Array, ...]:
    """H = (1 - z)·h + z·H, where z, r = f(X·Wᵀ + Wb + H·Rᵀ + Rb) and
    h = g(X·Whᵀ + Wbh + (r·H)·Rhᵀ + Rbh), or with linear_before_reset … + r·(H·Rhᵀ + Rbh)).
    """
    xp, inputs = ctx.xp, (X, W, R, B, sequence_lens, initial_h)
    walk = _walk(ctx, 3, direction, hidden_size, layout, inputs)
    names = activations or ("Sigmoid", "Tanh") * walk.D
    f, g = _activations(ctx, 2, walk.D, names, activation_alpha, activation_beta, clip)
    at = 2 * walk.H  # where the part of h begins
    Rzr, Rh, Rbzr, Rbh = walk.R[..., :at], walk.R[..., at:], walk.Rb[..., :at], walk.Rb[..., at:]

    def step(x: Array, H: Array) -> tuple[Array, ...]:
        zr = f(x[..., :at] + xp.matmul(H, Rzr) + Rbzr)
        z, r = zr[..., : walk.H], zr[..., walk.H :]
        if linear_before_reset:
            recurred = r * (xp.matmul(H, Rh) + Rbh)
        else:
            recurred = xp.matmul(r * H, Rh) + Rbh
        h = g(x[..., at:] + recurred)
        return ((1 - z) * h + z * H,)

    return walk.run(xp.matmul(walk.X, walk.W) + walk.Wb, step)


@op("LSTM")
def lstm(
    ctx: Any,
    X: Array,
    W: Array,
    R: Array,
    B: Array = None,
    sequence_lens: Array = None,
    initial_h: Array = None,
    initial_c: Array = None,
    P: Array = None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Array, ...]:
    """See `_lstm_step`."""
    inputs = (X, W, R, B, sequence_lens, initial_h, initial_c, P)
    walk = _walk(ctx, 4, direction, hidden_size, layout, inputs)
    names = activations or LSTM_DEFAULT * walk.D
    fgh = _activations(ctx, 3, walk.D, names, activation_alpha, activation_beta, clip)
    step = _lstm_step(walk, fgh, input_forget, lambda H: ctx.xp.matmul(H, walk.R))
    return walk.run(ctx.xp.matmul(walk.X, walk.W) + (walk.Wb + walk.Rb), step)


@op("com.microsoft.DynamicQuantizeLSTM")
def dynamic_quantize_lstm(
    ctx: Any,
    X: Array,
    W: Array,
    R: Array,
    B: Array = None,
    sequence_lens: Array = None,
    initial_h: Array = None,
    initial_c: Array = None,
    P: Array = None,
    W_scale: Array = REQUIRED,
    W_zero_point: Array = REQUIRED,
    R_scale: Array = REQUIRED,
    R_zero_point: Array = REQUIRED,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
) -> tuple[Array, ...]:
    """LSTM with W and R in 8 bits, stored transposed. X up to the end of the longest sequence,
    and the H of each step and direction, come to 8 bits as DynamicQuantizeLinear does it.
    """
    inputs = (X, W, R, B, sequence_lens, initial_h, initial_c, P)
    walk = _walk(ctx, 4, direction, hidden_size, 0, inputs, transposed=True)
    names = activations or LSTM_DEFAULT * walk.D
    fgh = _activations(ctx, 3, walk.D, names, activation_alpha, activation_beta, clip)
    project = _in_8_bits(ctx, walk.W, W_scale, W_zero_point)
    recur = _in_8_bits(ctx, walk.R, R_scale, R_zero_point)
    step = _lstm_step(walk, fgh, input_forget, recur)
    X = walk.X
    if walk.lens is not None:
        rows = ctx.put(np.arange(X.shape[0]).reshape(-1, 1))
        X = ctx.xp.where(rows < ctx.xp.max(walk.lens) * walk.N, X, 0.0)
    return walk.run(project(ctx.xp.expand_dims(X, axis=0)) + (walk.Wb + walk.Rb), step)


def _lstm_step(walk: Walk, fgh: Sequence[Function], input_forget: int, recur: Function) -> Step:
    """i, o, f = f(X·Wᵀ + H·Rᵀ + P·C + b), C = f·C + i·g(X·Wcᵀ + H·Rcᵀ + b), and H = o·h(C).

    o sees the new C, the others the one before. With input_forget, f is 1 - i.
    """
    (f, g, h), H3 = fgh, 3 * walk.H
    Pi, Po, Pf = (None,) * 3 if walk.P is None else walk.parts(walk.P)

    def step(x: Array, H: Array, C: Array) -> tuple[Array, ...]:
        gates = x + recur(H)
        if Pi is None:
            i, o, forget = walk.parts(f(gates[..., :H3]))
        else:
            i, o, forget = walk.parts(gates[..., :H3])
            i, forget = f(i + Pi * C), f(forget + Pf * C)
        forget = 1 - i if input_forget else forget
        C = forget * C + i * g(gates[..., H3:])
        return (o if Po is None else f(o + Po * C)) * h(C), C

    return step


def _in_8_bits(ctx: Any, W: Array, scale: Array, zero_point: Array) -> Function:
    """x [D, M, K] · W [D, K, J], where each direction's x is brought to 8 bits by its own range."""
    xp, exact = ctx.xp, accumulated(W.shape[1])

    def by_column(parameter: Array, dtype: str) -> Array:
        return xp.reshape(ctx.cast(parameter, dtype), (W.shape[0], 1, -1))

    whole, scale = ctx.cast(W, exact) - by_column(zero_point, exact), by_column(scale, "float32")

    def product(x: Array) -> Array:
        each = [dynamically_quantized(ctx, x[d, ...]) for d in range(x.shape[0])]
        numbers = xp.stack([ctx.cast(q, exact) - ctx.cast(zero, exact) for q, _, zero in each])
        steps = xp.reshape(xp.stack([step for _, step, _ in each]), (-1, 1, 1))
        return ctx.cast(xp.matmul(numbers, whole), "float32") * (steps * scale)

    return product


@dataclass(frozen=True)
class Walk:
    """One layer's way through time, whatever its gates are.

    X [T·N, I], W [D, I, gates·H], R [D, H, gates·H], Wb and Rb [D, 1, gates·H], each state
    [D, N, H], P [D, 1, 3·H]; lens [1, N] is None where every sequence takes all the time.
    """

    ctx: Any
    direction: str
    layout: int
    T: int
    X: Array
    W: Array
    R: Array
    Wb: Array
    Rb: Array
    lens: Array | None
    states: tuple[Array, ...]
    P: Array | None

    @property
    def D(self) -> int:
        return DIRECTIONS[self.direction]

    @property
    def N(self) -> int:
        return int(self.states[0].shape[1])

    @property
    def H(self) -> int:
        return int(self.states[0].shape[2])

    @property
    def times(self) -> Array:
        """0, 1, … [T, 1]."""
        return self.ctx.put(np.arange(self.T).reshape(-1, 1))

    def parts(self, gates: Array) -> list[Array]:
        """The gates one by one."""
        return [gates[..., at : at + self.H] for at in range(0, gates.shape[-1], self.H)]

    def run(self, gates: Array, step: Step) -> tuple[Array, ...]:
        """Y, and each state after the last step; gates [D, T·N, gates·H] is what X adds to them."""
        xp, states, last, made = self.ctx.xp, self.states, self.states, []
        gates = xp.reshape(self.turned(gates), (self.D, self.T, self.N, gates.shape[-1]))
        going = None if self.lens is None else xp.expand_dims(self.times < self.lens, axis=-1)
        for t in range(self.T):
            states = step(gates[:, t, ...], *states)
            if going is None:
                last = states
            else:
                on, pairs = going[t, ...], zip(states, last, strict=True)
                last = tuple(xp.where(on, new, old) for new, old in pairs)
                states = tuple(xp.where(on, new, 0.0) for new in states)
            made.append(states[0])
        if self.layout:
            last = tuple(xp.permute_dims(state, (1, 0, 2)) for state in last)
        return self.outputs(made) if self.ctx.wanted[0] else None, *last

    def outputs(self, made: list[Array]) -> Array:
        """Y, of the H [D, N, H] of every step."""
        xp = self.ctx.xp
        joined = xp.concat(made, axis=1) if made else self.states[0][:, :0, :]
        Y = xp.reshape(self.turned(joined), (self.D, self.T, self.N, self.H))
        return xp.permute_dims(Y, (2, 1, 0, 3) if self.layout else (1, 0, 2, 3))

    def turned(self, x: Array) -> Array:
        """x [D, T·N, …] with each sequence of the backward direction turned round in itself."""
        if self.direction == "forward":
            return x
        xp, times, lens = self.ctx.xp, self.times, self.T if self.lens is None else self.lens
        mirrored = xp.where(times < lens, lens - 1 - times, times)
        places = mirrored * self.N + self.ctx.put(np.arange(self.N))
        backward = xp.take(x[-1:, ...], xp.reshape(places, (-1,)), axis=1)
        return backward if self.D == 1 else xp.concat([x[:1, ...], backward], axis=0)


def _walk(
    ctx: Any,
    gates: int,
    direction: str,
    hidden_size: int | None,
    layout: int,
    inputs: Sequence[Array],
    transposed: bool = False,
) -> Walk:
    """The inputs, in the order that LSTM has, made ready; transposed: W and R are that already."""
    xp, (X, W, R, B, lens, initial_h, initial_c, P) = ctx.xp, (*inputs, None, None)[:8]
    D, T, N, H = _sizes(gates, direction, hidden_size, layout, inputs, transposed)
    X = xp.permute_dims(X, (1, 0, 2)) if layout else X

    def zeros(*shape: int) -> Array:
        return xp.full(shape, 0.0, dtype=X.dtype, device=ctx.device(X))

    def state(initial: Array | None) -> Array:
        if initial is None:
            return zeros(D, N, H)
        return xp.permute_dims(initial, (1, 0, 2)) if layout else initial

    B = zeros(D, 1, 2 * gates * H) if B is None else xp.expand_dims(B, axis=1)
    if not transposed:
        W, R = xp.permute_dims(W, (0, 2, 1)), xp.permute_dims(R, (0, 2, 1))
    return Walk(
        ctx=ctx,
        direction=direction,
        layout=layout,
        T=T,
        X=xp.reshape(X, (T * N, X.shape[-1])),
        W=W,
        R=R,
        Wb=B[..., : gates * H],
        Rb=B[..., gates * H :],
        lens=None if lens is None else xp.expand_dims(xp.minimum(lens, T), axis=0),
        states=(state(initial_h), state(initial_c)) if gates == 4 else (state(initial_h),),
        P=None if P is None else xp.expand_dims(P, axis=1),
    )


def _sizes(
    gates: int,
    direction: str,
    hidden_size: int | None,
    layout: int,
    inputs: Sequence[Array],
    transposed: bool,
) -> tuple[int, int, int, int]:
    """D, T, N and H; ValueError with all that does not fit together."""
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is '{direction}', not one of {', '.join(DIRECTIONS)}")
    for name, given in zip("XW", inputs, strict=False):
        if given.ndim != 3:
            raise ValueError(f"{name} is {list(given.shape)}, not of three dimensions")
    D, (T, N, width), across = DIRECTIONS[direction], inputs[0].shape, inputs[1].shape
    T, N = (N, T) if layout else (T, N)
    H = across[2 if transposed else 1] // gates
    state = (N, D, H) if layout else (D, N, H)
    wanted = {
        "X": tuple(inputs[0].shape),
        "W": (D, width, gates * H) if transposed else (D, gates * H, width),
        "R": (D, H, gates * H) if transposed else (D, gates * H, H),
        "B": (D, 2 * gates * H),
        "sequence_lens": (N,),
        "initial_h": state,
        "initial_c": state,
        "P": (D, 3 * H),
    }
    problems = [
        f"{name} is {list(given.shape)}, not {list(dims)}"
        for (name, dims), given in zip(wanted.items(), inputs, strict=False)
        if given is not None and tuple(given.shape) != dims
    ]
    if hidden_size not in (None, H):
        problems.append(f"hidden_size is {hidden_size}, that of W is {H}")
    if problems:
        raise ValueError("; ".join(problems))
    return D, T, N, H


def _activations(
    ctx: Any,
    count: int,
    D: int,
    names: Sequence[str],
    activation_alpha: Floats | None,
    activation_beta: Floats | None,
    clip: float | None,
) -> list[Function]:
    """The functions of one direction, in order; each may differ in the other one.

    The values of activation_alpha and activation_beta are taken in order by the functions that
    have such a parameter, until none is left.
    """
    if len(names) != count * D:
        raise ValueError(f"activations are {list(names)}, not {count} for each of {D} directions")
    if clip is not None and clip < 0:
        raise ValueError(f"clip is {clip}, below 0")
    left = {"alpha": list(activation_alpha or ()), "beta": list(activation_beta or ())}
    chosen = [_activation(ctx, name, left) for name in names]
    clips = (clip, clip, None)  # what LSTM's h sees is a state and no gate
    return [_together(ctx, chosen[k::count], clips[k]) for k in range(count)]


def _activation(
    ctx: Any, name: str, left: dict[str, list[float]]
) -> tuple[Callable[..., Array], dict[str, float]]:
    """The function of that name, written in any case, and the parameters that it takes."""
    known = {known.lower(): known for known in (*OPERATORS, *OTHERS)}.get(name.lower())
    if known is None:
        shown = ", ".join((*OPERATORS, *OTHERS))
        raise ValueError(f"an activation is '{name}', not one of {shown}")
    found = lookup(known)
    function, defaults = (found.function, found.attrs) if found else (OTHERS[known], NO_DEFAULTS)
    taken = {key: left[key].pop(0) if left[key] else value for key, value in defaults.items()}
    for key, value in taken.items():
        if value is None:
            raise ValueError(f"activation {known} has no value in activation_{key}")
    return function, taken


def _together(
    ctx: Any, chosen: Sequence[tuple[Callable[..., Array], dict[str, float]]], clip: float | None
) -> Function:
    """One function for all directions [D, …], after clipping."""
    (function, parameters), alike = chosen[0], chosen[0] == chosen[-1]

    def activated(x: Array) -> Array:
        x = x if clip is None else ctx.xp.clip(x, -clip, clip)
        if alike:
            return function(ctx, x, **parameters)
        each = [f(ctx, x[d : d + 1, ...], **given) for d, (f, given) in enumerate(chosen)]
        return ctx.xp.concat(each, axis=0)

    return activated
