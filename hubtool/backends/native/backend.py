"""The native backend as every backend is asked (`hubtool.backends`): what it has, and `prepare`.

A module of its own, because the name `library`, which a backend has, is in this package that of
the door to the engine. Everything heavy is imported when a model is prepared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hubtool import cores
from hubtool.backends import unknown_device
from hubtool.backends.arrays import host
from hubtool.backends.native import library as engine
from hubtool.dtypes import BITS
from hubtool.errors import BackendError
from hubtool.graph import Graph

if TYPE_CHECKING:
    from hubtool.backends.native.runner import Runner

__all__ = [
    "OPTIONS",
    "available",
    "devices",
    "dtypes",
    "library",
    "name",
    "precisions",
    "prepare",
    "put",
    "suits",
    "version",
]

name = "native"
library = "numpy"
OPTIONS: Mapping[str, str] = {
    "tune": "whether each convolution's algorithm is chosen by timing: when shapes are fed a second"
    " time (True), 'first': before the first answer, or never (False): then a rule chooses",
    "disk_cache": "whether plans and packed weights are kept on disk for the next process (True)",
}

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul", "com.microsoft.FusedConv"})
"""The operators that take a model's time, where the engine has kernels for them."""

OWN = PRODUCTS | {"com.microsoft.Gelu"}
"""With those of other domains for which it has one too."""

ELSEWHERE = frozenset(
    {
        "Attention",
        "ConvInteger",
        "ConvTranspose",
        "DeformConv",
        "Einsum",
        "GRU",
        "LSTM",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "RNN",
    }
)
"""Those for which it has none; so it is with all of other domains."""


def available() -> str | None:
    """None, or why there is no engine."""
    return engine.reason()


def version() -> str:
    """hubtool's own, and the instruction set that is used here."""
    from hubtool import __version__

    return f"{__version__} {engine.isa()}"


def devices() -> list[str]:
    return ["cpu"]


def dtypes() -> list[str]:
    """All that there are: what is no float32 runs in numpy."""
    return [*BITS, "string"]


def precisions(device: str) -> list[str]:
    """float32; "exact", which is float32 without Winograd's algorithm; bfloat16 where products of
    it are the processor's own."""
    known = ["float32", "exact"]
    return [*known, "bfloat16"] if engine.has_bf16(engine.isa()) else known


def put(array: Any, device: str = "cpu") -> Any:
    """The array as numpy's; the same memory where it is on the host already."""
    _check(device)
    return host(array)


def suits(graph: Graph) -> bool:
    """Whether the engine has kernels for what takes time in a graph: no heavy layer would stay with
    numpy, because of its operator, its element type (float32 is ours) or its rank."""
    for layer in graph.layers:
        if layer.op in ELSEWHERE or ("." in layer.op and layer.op not in OWN):
            return False
        if layer.op in PRODUCTS:
            for name in (*layer.reads(), layer.outputs[0]):
                known = graph.known(name)
                if known and (known.dtype not in ("", "float32") or len(known.shape or ()) > 4):
                    return False
        if not all(map(suits, layer.subgraphs().values())):
            return False
    return True


def prepare(
    graph: Graph,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """The graph made ready for the engine. threads: $HUBTOOL_NATIVE_THREADS where it is not given,
    else as many as there are cores for this process (`hubtool.cores`). HUBTOOL_NATIVE_TUNE=0 turns
    tuning off.

    Raises BackendError for an unknown device, UnsupportedError with all that hubtool lacks.
    """
    from hubtool.backends.native.runner import Runner, Settings

    _check(device)
    chosen = dict(options or {})
    tune = chosen.get("tune", os.environ.get("HUBTOOL_NATIVE_TUNE") != "0")
    if tune not in (True, False, "first"):
        raise BackendError(
            f"tune={tune!r} says nothing", hint="It is True, False, or 'first': before any answer."
        )
    settings = Settings(
        isa=engine.isa(),
        threads=_threads(threads),
        precision="float32" if precision == "exact" else precision,
        exact=precision == "exact",
        tune=bool(tune),
        at_once=tune == "first",
        disk_cache=bool(chosen.get("disk_cache", True)),
    )
    return Runner(graph, settings)


def _threads(given: int | None) -> int:
    told = os.environ.get("HUBTOOL_NATIVE_THREADS")
    if given is None and told:
        if not told.isdecimal() or int(told) < 1:
            raise BackendError(
                f"HUBTOOL_NATIVE_THREADS is '{told}', which is no number of threads",
                hint="It is a number from 1, or unset for all cores.",
            )
        return int(told)
    if given is not None:
        return max(1, given)
    return cores.usable()


def _check(device: str) -> None:
    if device not in devices():
        raise unknown_device(name, device, devices())
