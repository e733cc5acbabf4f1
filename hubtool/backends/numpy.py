"""The reference: every operator by its definition, in numpy. What is verified is verified by it.

Only convolutions are done in another way than `hubtool.ops` says, for they are most of a model's
time. The definition lays the columns of all images side by side; here it is a few images at a
time, so that the columns stay in the cache, and what may be left out is:

    any kernel     columns [group, C/group · taps, windows] by one strided copy, then the product
    1x1            the input is its own columns

Residual and activation go into the result in place: it belongs to nobody else yet. `threads` is
accepted and has no effect: numpy has no say in it. The BLAS library below it reads environment
variables (OPENBLAS_NUM_THREADS, MKL_NUM_THREADS) when numpy is first imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from hubtool.backends import build, unknown_device
from hubtool.backends.arrays import host, owned
from hubtool.dtypes import BITS
from hubtool.graph import Graph
from hubtool.interpreter import HostSpace, Program
from hubtool.ops.fused import activated
from hubtool.ops.window import Window, conv, resolve_window

__all__ = [
    "OPTIONS",
    "NumpySpace",
    "Runner",
    "available",
    "devices",
    "dtypes",
    "library",
    "name",
    "precisions",
    "prepare",
    "put",
    "version",
]

name = "numpy"
library = "numpy"
OPTIONS: Mapping[str, str] = {}

Array = np.ndarray[Any, Any]

WIDTH = 256
"""The columns that one matrix product should have at least: small images are put together."""


def available() -> str | None:
    """None: hubtool depends on it."""
    return None


def version() -> str:
    return np.__version__


def devices() -> list[str]:
    return ["cpu"]


def dtypes() -> list[str]:
    """All that there are."""
    return [*BITS, "string"]


def precisions(device: str) -> list[str]:
    """float32 is float32."""
    return ["float32"]


def put(array: Any, device: str = "cpu") -> Array:
    """The array as numpy's; the same memory where it is on the host already."""
    _check(device)
    moved: Array = host(array)
    return moved


class Runner:
    """A program in numpy."""

    device = "cpu"
    notes: Sequence[str] = ()

    def __init__(self, program: Program) -> None:
        self.program = program

    def run(self, feeds: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
        """The outputs by name, in graph order; none shares memory with a feed or a weight."""
        given = [feed for feed in feeds.values() if isinstance(feed, np.ndarray)]
        return {key: owned(value, given) for key, value in self.program.run(feeds).items()}


def prepare(
    graph: Graph,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """The graph made ready for numpy. Raises UnsupportedError with all that hubtool lacks."""
    _check(device)
    return Runner(build(graph, NumpySpace()))


def _check(device: str) -> None:
    if device not in devices():
        raise unknown_device(name, device, devices())


def _conv(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array | None = None,
    *,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    **geometry: Any,
) -> Array:
    """Conv; where the channels do not fit, the definition says what is wrong."""
    kernel, (M, share) = W.shape[2:], W.shape[:2]
    if X.shape[1] != share * group or M % group or tuple(kernel_shape or kernel) != kernel:
        attrs = {"group": group, "kernel_shape": kernel_shape, **geometry}
        refused: Array = conv(ctx, X, W, B, **attrs)
        return refused
    window = resolve_window(X.shape[2:], kernel, **geometry)
    X = _padded(X, window)
    if math.prod(kernel) == 1:
        Y = _pointwise(X, W, group, window)
    else:
        Y = _by_columns(X, W, group, window)
    if B is not None:
        Y += B.reshape(-1, *(1,) * (Y.ndim - 2))
    return Y


def _fused_conv(
    ctx: Any,
    X: Array,
    W: Array,
    B: Array | None = None,
    Z: Array | None = None,
    *,
    activation: str | None = None,
    activation_params: Sequence[float] | None = None,
    **attrs: Any,
) -> Array:
    """activation(Conv(X, W, B) + Z)."""
    Y = _conv(ctx, X, W, B, **attrs)
    if Z is not None:
        Y = np.add(Y, Z, out=Y if Y.shape == np.broadcast_shapes(Y.shape, Z.shape) else None)
    if activation == "Relu":
        return np.maximum(Y, 0, out=Y)
    result: Array = activated(ctx, Y, activation, activation_params)
    return result


def _padded(X: Array, window: Window) -> Array:
    """X with zeros around it; X itself where there are none."""
    if not any(window.begins) and not any(window.ends):
        return X
    sides = [(0, 0), (0, 0), *zip(window.begins, window.ends, strict=True)]
    padded = np.zeros([b + n + e for n, (b, e) in zip(X.shape, sides, strict=True)], X.dtype)
    inside: Any = tuple(slice(b, b + n) for n, (b, _) in zip(X.shape, sides, strict=True))
    padded[inside] = X
    return padded


def _pointwise(X: Array, W: Array, group: int, window: Window) -> Array:
    """A 1x1 kernel: every place of X, as far as the strides touch it, is a column."""
    N, C = X.shape[:2]
    steps: Any = (..., *(slice(None, None, s) for s in window.strides))
    columns = X[steps].reshape(N, group, C // group, -1)
    Y: Array = np.matmul(W.reshape(group, -1, C // group), columns)
    return Y.reshape(N, -1, *window.output)


def _by_columns(X: Array, W: Array, group: int, window: Window) -> Array:
    """What is under each window as a column, of as many images at a time as make WIDTH columns."""
    N, M, count = X.shape[0], W.shape[0], math.prod(window.output)
    kernels = W.reshape(group, M // group, -1)
    Y = np.empty((N, group, M // group, count), X.dtype)
    step = max(1, WIDTH // max(count, 1))
    for start in range(0, N, step):
        images = X[start : start + step]
        columns = _windows(images, window).reshape(group, -1, len(images) * count)
        if len(images) == 1:
            np.matmul(kernels, columns, out=Y[start])
        else:
            products = np.matmul(kernels, columns).reshape(group, M // group, -1, count)
            Y[start : start + step] = np.moveaxis(products, 2, 0)
    return Y.reshape(N, M, *window.output)


def _windows(X: Array, window: Window) -> Array:
    """The view [C, *kernel, N, *output] of a padded X: each window's elements, nothing copied."""
    n, c, *spatial = X.strides
    along_kernel = (d * b for d, b in zip(window.dilations, spatial, strict=True))
    along_output = (s * b for s, b in zip(window.strides, spatial, strict=True))
    return as_strided(
        X,
        (X.shape[1], *window.kernel, X.shape[0], *window.output),
        (c, *along_kernel, n, *along_output),
        writeable=False,
    )


class NumpySpace(HostSpace):
    """numpy with its own convolutions."""

    overrides: Mapping[str, Callable[..., Any]] = {
        "Conv": _conv,
        "com.microsoft.FusedConv": _fused_conv,
    }
