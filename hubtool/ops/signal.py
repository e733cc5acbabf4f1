"""Signals: Fourier transforms, the windows that are laid over them, and the mel scale.

A complex number is a pair on the last axis, as ONNX has it; in between it is the namespace's own
complex dtype, so that the transform is `fft` of the array API, fast and the same everywhere:

    forward   y[k] = Σ e^(-2πi·kn/N) x[n]        one-sided (real x): k up to N/2 only
    inverse   x[n] = Σ e^(+2πi·kn/N) y[k] / N    one-sided: y mirrored first, x real

How long a transform is comes as numbers on the host, so shapes need no `fft`. The windows and the
mel weights are made of such numbers alone: they are computed in float64 numpy and rounded once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hubtool.ops import op
from hubtool.ops.shape import axis_of, guard_size

__all__: list[str] = []

Array = Any

COMPLEX = {"float32": "complex64", "float64": "complex128"}

WINDOWS = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}
"""a, b, c of a + c·cos(2t) - b·cos(t), where t goes once round."""


def _register_window(name: str, a: float, b: float, c: float) -> None:
    @op(name, returns="output_datatype", host=("size",))
    def window(ctx: Any, size: Array, *, output_datatype: int = 1, periodic: int = 1) -> Array:
        """Without `periodic` the last element is the first one again."""
        length = _number("size", size, 0)
        guard_size((length,), "float64")
        t = np.arange(length) * (2 * math.pi) / np.float64(length if periodic else length - 1)
        return a + c * np.cos(2 * t) - b * np.cos(t)


for _name, _terms in WINDOWS.items():
    _register_window(_name, *_terms)


def _number(name: str, value: Array, least: int | None = None) -> int:
    """The one whole number of an input."""
    if value.size != 1:
        raise ValueError(f"{name} is not one number but {list(value.shape)}")
    if least is not None and value.item() < least:
        raise ValueError(f"{name} is {value.item()}, below {least}")
    return int(value.item())


def _dft_shape(
    ctx: Any,
    input: Array,
    dft_length: Array = None,
    axis: Array = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Array:
    at, N = _geometry(input, dft_length, axis, inverse, onesided)
    size = N // 2 + 1 if onesided and not inverse else N
    pair = 1 if onesided and inverse else 2
    return ctx.empty((*input.shape[:at], size, *input.shape[at + 1 : -1], pair), ctx.dtype(input))


@op("DFT", returns="input", host=("dft_length", "axis"), shape=_dft_shape)
def dft(
    ctx: Any,
    input: Array,
    dft_length: Array = None,
    axis: Array = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Array:
    """The transform along one axis, of as many elements as dft_length says."""
    at, N = _geometry(input, dft_length, axis, inverse, onesided)
    guard_size((*input.shape[:at], N, *input.shape[at + 1 : -1]), "complex64")
    fft = ctx.xp.fft
    if not onesided:
        return _pairs(ctx, (fft.ifft if inverse else fft.fft)(_complex(ctx, input), n=N, axis=at))
    if inverse:
        return ctx.xp.expand_dims(fft.irfft(_complex(ctx, input), n=N, axis=at), axis=-1)
    return _pairs(ctx, fft.rfft(input[..., 0], n=N, axis=at))


def _geometry(
    input: Array, dft_length: Array, axis: Array, inverse: int, onesided: int
) -> tuple[int, int]:
    """The axis counted from the front, and how many elements are transformed."""
    at = axis_of(-2 if axis is None else _number("axis", axis), input.ndim)
    if at == input.ndim - 1:
        raise ValueError(f"axis {at} is the last one, where the pairs are")
    if input.shape[-1] not in (1, 2):
        raise ValueError(
            f"the last axis of input is {input.shape[-1]}, not 1 (real) or 2 (complex)"
        )
    if onesided and input.shape[-1] != (2 if inverse else 1):
        kind = "inverse takes complex" if inverse else "transform takes real"
        raise ValueError(f"a one-sided {kind} input; the last axis of this is {input.shape[-1]}")
    if dft_length is not None:
        return at, _number("dft_length", dft_length, 1)
    N = 2 * (input.shape[at] - 1) if onesided and inverse else input.shape[at]
    if N < 1:
        raise ValueError(f"axis {at} of input is {input.shape[at]}, too short without dft_length")
    return at, N


def _complex(ctx: Any, x: Array) -> Array:
    """x [..., 1] or [..., 2] as complex numbers [...]."""
    dtype = COMPLEX[ctx.dtype(x)]
    real = ctx.cast(x[..., 0], dtype)
    return real if x.shape[-1] == 1 else real + ctx.cast(x[..., 1], dtype) * 1j


def _pairs(ctx: Any, y: Array) -> Array:
    return ctx.xp.stack([ctx.xp.real(y), ctx.xp.imag(y)], axis=-1)


def _stft_shape(
    ctx: Any,
    signal: Array,
    frame_step: Array,
    window: Array = None,
    frame_length: Array = None,
    *,
    onesided: int = 1,
) -> Array:
    _, length, frames = _frames(signal, frame_step, window, frame_length)
    bins = length // 2 + 1 if onesided else length
    return ctx.empty((signal.shape[0], frames, bins, 2), ctx.dtype(signal))


@op("STFT", returns="signal", host=("frame_step", "frame_length"), shape=_stft_shape)
def stft(
    ctx: Any,
    signal: Array,
    frame_step: Array,
    window: Array = None,
    frame_length: Array = None,
    *,
    onesided: int = 1,
) -> Array:
    """The transform of each frame of the signal under the window."""
    xp = ctx.xp
    step, length, frames = _frames(signal, frame_step, window, frame_length)
    guard_size((signal.shape[0], frames, length), "complex64")
    x = xp.expand_dims(signal, axis=-1) if signal.ndim == 2 else signal
    starts = np.arange(frames) * step
    places = ctx.put((starts[:, None] + np.arange(length)).reshape(-1))
    x = xp.reshape(xp.take(x, places, axis=1), (x.shape[0], frames, length, x.shape[-1]))
    if window is not None:
        x = x * xp.reshape(window, (length, 1))
    if onesided and x.shape[-1] == 1:
        return _pairs(ctx, xp.fft.rfft(x[..., 0], axis=2))
    y = _pairs(ctx, xp.fft.fft(_complex(ctx, x), axis=2))
    return y[:, :, : length // 2 + 1, :] if onesided else y


def _frames(
    signal: Array, frame_step: Array, window: Array, frame_length: Array
) -> tuple[int, int, int]:
    """From frame to frame, how long one is, and how many there are; a signal [N, L] is real."""
    if signal.ndim not in (2, 3) or (signal.ndim == 3 and signal.shape[2] not in (1, 2)):
        raise ValueError(f"signal is {list(signal.shape)}, not [N, L, 1] or [N, L, 2]")
    step, size = _number("frame_step", frame_step, 1), signal.shape[1]
    given = size if window is None else window.shape[0]
    length = given if frame_length is None else _number("frame_length", frame_length, 1)
    if window is not None and tuple(window.shape) != (length,):
        raise ValueError(f"window is {list(window.shape)} for frames of {length}")
    if not 0 < length <= size:
        raise ValueError(f"frames of {length} do not fit into a signal of {size}")
    return step, length, (size - length) // step + 1


MEL_INPUTS = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")


@op("MelWeightMatrix", returns="output_datatype", host=MEL_INPUTS)
def mel_weight_matrix(
    ctx: Any,
    num_mel_bins: Array,
    dft_length: Array,
    sample_rate: Array,
    lower_edge_hertz: Array,
    upper_edge_hertz: Array,
    *,
    output_datatype: int = 1,
) -> Array:
    """One triangle [dft_length/2 + 1] a column, between the bins at which its neighbours peak.

    The edges lie evenly on the mel scale 2595·log10(1 + f/700), in num_mel_bins + 2 steps, so that
    upper_edge_hertz itself is one step beyond the last: so say ONNX's test case and ONNX Runtime.
    """
    mels, length = _number("num_mel_bins", num_mel_bins, 0), _number("dft_length", dft_length, 1)
    bins = length // 2 + 1
    guard_size((bins, mels), "float64")
    low, high = (
        2595 * math.log10(1 + float(edge.item()) / 700)
        for edge in (lower_edge_hertz, upper_edge_hertz)
    )
    scale = low + np.arange(mels + 2) * (high - low) / (mels + 2)
    hertz = 700 * (10 ** (scale / 2595) - 1)
    edges = np.floor((length + 1) * hertz / _number("sample_rate", sample_rate, 1))
    left, peak, right = edges[:-2], edges[1:-1], edges[2:]
    at = np.arange(bins)[:, None]
    rising, falling = (at - left) / (peak - left), (right - at) / (right - peak)
    sides = np.where(at < peak, rising, np.where(at > peak, falling, 1.0))
    return np.where((at < left) | (at > right), 0.0, sides)
