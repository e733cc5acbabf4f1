"""torch's own LSTM, GRU and RNN: the whole walk over time as one call.

    ONNX    W [D, gates·H, I]   R [D, gates·H, H]   B [D, 2·gates·H]   gates: LSTM iofc, GRU zrh
    torch   a list w, r, wb, rb for each direction                             ifco,     rzh

So the gates are put in torch's order and the directions taken apart; what torch gives has the
directions beside each other, and they are taken apart again. torch has the usual activations only,
no bound for gates, no peepholes, and of GRU the form that is linear before the reset; sequences of
different lengths would have to be known on the host. For all of that the definitions stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["FUNCTIONS"]

Array = Any
Floats = Sequence[float]

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
USUAL = {
    "LSTM": ("sigmoid", "tanh", "tanh"),
    "GRU": ("sigmoid", "tanh"),
    "RNN_TANH": ("tanh",),
    "RNN_RELU": ("relu",),
}
ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN_TANH": (0,), "RNN_RELU": (0,)}
"""torch's gates, by their places among ONNX's."""

CUDNN_MODES = {"RNN_RELU": 0, "RNN_TANH": 1, "LSTM": 2, "GRU": 3}


def lstm(
    ctx: Any,
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    initial_c: Array | None = None,
    P: Array | None = None,
    *,
    activations: Sequence[str] | None = None,
    input_forget: int = 0,
    **attrs: Any,
) -> Any:
    if P is not None or input_forget:
        return NotImplemented
    inputs = (X, W, R, B, sequence_lens, initial_h, initial_c)
    return _walked(ctx, "LSTM", inputs, activations, **attrs)


def gru(
    ctx: Any,
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    *,
    activations: Sequence[str] | None = None,
    linear_before_reset: int = 0,
    **attrs: Any,
) -> Any:
    if not linear_before_reset:
        return NotImplemented
    inputs = (X, W, R, B, sequence_lens, initial_h)
    return _walked(ctx, "GRU", inputs, activations, **attrs)


def rnn(
    ctx: Any,
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    *,
    activations: Sequence[str] = ("Tanh", "Tanh"),
    **attrs: Any,
) -> Any:
    kind = "RNN_RELU" if activations and activations[0].lower() == "relu" else "RNN_TANH"
    inputs = (X, W, R, B, sequence_lens, initial_h)
    D = DIRECTIONS.get(attrs.get("direction", "forward"), 0)
    return _walked(ctx, kind, inputs, activations[:D], **attrs)


def _walked(
    ctx: Any,
    kind: str,
    inputs: Sequence[Array],
    activations: Sequence[str] | None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> Any:
    X, W, R, B, lens, *states = inputs
    D = DIRECTIONS.get(direction, 0)
    names = [name.lower() for name in activations or ()]
    usual = not activations or names == [*USUAL[kind]] * D
    given = [array for array in (X, W, R, B, *states) if array is not None]
    if not usual or clip or lens is not None or not D or activation_alpha or activation_beta:
        return NotImplemented
    if not _fit(ctx, kind, given, inputs, D, hidden_size, layout):
        return NotImplemented
    torch, H = ctx.space.torch, R.shape[2]
    X = X.transpose(0, 1) if layout else X
    X = X.flip(0) if direction == "reverse" else X
    first = [_state(ctx, X, state, D, H, layout) for state in states]
    weights = _weights(ctx, kind, inputs, D)
    training = torch.is_grad_enabled()  # cuDNN goes back through no other run
    walk = getattr(torch, kind.lower())
    state = tuple(first) if len(first) > 1 else first[0]
    has_bias, both_ways, batch_first = B is not None, D == 2, False
    Y, *last = walk(X, state, weights, has_bias, 1, 0.0, training, both_ways, batch_first)
    Y = Y.flip(0) if direction == "reverse" else Y
    Y = Y.reshape(*Y.shape[:2], D, H)
    if layout:
        return Y.transpose(0, 1), *(each.transpose(0, 1) for each in last)
    return Y.transpose(1, 2), *last


def _fit(
    ctx: Any,
    kind: str,
    given: Sequence[Array],
    inputs: Sequence[Array],
    D: int,
    hidden_size: int | None,
    layout: int,
) -> bool:
    """Whether torch knows the dtype and all shapes are as they should be, none of them empty."""
    X, W, R, B, _, *states = inputs
    if len({array.dtype for array in given}) > 1 or given[0].dtype not in (
        ctx.xp.float32,
        ctx.xp.float64,
    ):
        return False
    if X.ndim != 3 or R.ndim != 3 or not X.numel():
        return False
    N, H, rows = X.shape[0 if layout else 1], R.shape[2], len(ORDER[kind]) * R.shape[2]
    state = (N, D, H) if layout else (D, N, H)
    return (
        tuple(W.shape) == (D, rows, X.shape[2])
        and tuple(R.shape) == (D, rows, H)
        and (B is None or tuple(B.shape) == (D, 2 * rows))
        and all(each is None or tuple(each.shape) == state for each in states)
        and hidden_size in (None, H)
    )


def _state(ctx: Any, X: Array, state: Array | None, D: int, H: int, layout: int) -> Array:
    if state is None:
        return X.new_zeros(D, X.shape[1], H)
    return state.transpose(0, 1).contiguous() if layout else state


def _weights(ctx: Any, kind: str, inputs: Sequence[Array], D: int) -> list[Array]:
    """The weights as torch's list of them."""
    torch, (X, W, R, B) = ctx.space.torch, inputs[:4]
    H = R.shape[2]
    biases = [] if B is None else [B[:, : B.shape[1] // 2], B[:, B.shape[1] // 2 :]]

    def ordered(rows: Array) -> Array:
        return torch.cat([rows[gate * H : (gate + 1) * H] for gate in ORDER[kind]])

    weights = [ordered(part[d]) for d in range(D) for part in (W, R, *biases)]
    if X.device.type == "cuda" and not torch.is_grad_enabled():
        # cuDNN wants them in one piece, and warns of every call where they are not.
        torch._cudnn_rnn_flatten_weight(
            weights, 4 if biases else 2, X.shape[2], CUDNN_MODES[kind], H, 0, 1, False, D == 2
        )
    return weights


FUNCTIONS: Mapping[str, Any] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
