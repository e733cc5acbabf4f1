"""What runs a graph: one module a backend, imported on demand.

A backend is a module with these names:

    name                              "torch"
    library                           the package whose arrays it computes with: "torch", "numpy"
    OPTIONS                           option of its own -> what it does; {} if there are none
    available() -> str | None         None, or the reason why not, with what would make it so
    version() -> str
    devices() -> list[str]            "cpu", "cuda:0", …
    dtypes() -> list[str]             the element types that it computes with
    precisions(device) -> list[str]   how float32 may be computed there, the strict one first
    prepare(graph, device, threads, precision, options) -> Runner
    put(array, device) -> array       any library's array as one of its own on that device
    suits(graph) -> bool              whether it has kernels for what takes time in the graph; may
                                      be absent where it has for all

`prepare` does once what need not be done at every run: passes, moving weights, choosing kernels.
It raises, with the whole list, where the graph holds what the backend cannot do; nothing falls
back to another backend silently. The array backends (numpy, torch) share the interpreter: they
are a `Space` and the operators that it does in its own way. To add a backend, write its module
and add its line to BACKENDS.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from typing import Any, Protocol, cast

from hubtool import passes
from hubtool.errors import BackendError, UnsupportedError
from hubtool.graph import Graph
from hubtool.interpreter import Program, Space
from hubtool.ops import lookup

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Backend",
    "Runner",
    "build",
    "default",
    "get",
    "module",
    "or_by_definition",
    "prepare",
    "unknown_device",
]

BACKENDS = {
    "native": "hubtool.backends.native.backend",
    "onnxruntime": "hubtool.backends.onnxruntime",
    "openvino": "hubtool.backends.openvino",
    "torch": "hubtool.backends.torch",
    "xla": "hubtool.backends.xla",
    "numpy": "hubtool.backends.numpy",
}
"""Backend name -> its module, in order of display."""

PREFERRED = ("native", "onnxruntime", "numpy")
"""What runs a model where nobody chose: the first of these that is there and has kernels for it."""


PRECISIONS = {"fp32": "float32", "tf32": "tf32", "fp16": "float16", "bf16": "bfloat16"}
"""How a model's float32 is computed, by the short name that may be said instead. float32 is
strict; tf32 rounds the factors of products to 10 bits of mantissa; float16 and bfloat16 hold
weights and values between layers so too. "exact", which is the native backend's, is float32 that
only sums products, without Winograd's algorithm. Inputs and outputs keep their types."""


class Runner(Protocol):
    """A graph made ready on a device, which it names in full: "cuda:0".

    notes: what `prepare` has to say: layers that run on the host, or apart, each with the reason.
    """

    device: str
    notes: Sequence[str]

    def run(self, feeds: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
        """The outputs by name, in graph order, as numpy arrays (lists of them for sequences); with
        `keep` as arrays of the backend's own, where they are.

        Feeds are checked already; they are numpy arrays or the backend's own, on its device.
        """


class Backend(Protocol):
    """A module under hubtool.backends; see above."""

    @property
    def name(self) -> str: ...

    @property
    def library(self) -> str: ...

    @property
    def OPTIONS(self) -> Mapping[str, str]: ...

    def available(self) -> str | None: ...

    def version(self) -> str: ...

    def devices(self) -> list[str]: ...

    def dtypes(self) -> list[str]: ...

    def precisions(self, device: str) -> list[str]: ...

    def prepare(
        self,
        graph: Graph,
        device: str = "cpu",
        threads: int | None = None,
        precision: str = "float32",
        options: Mapping[str, Any] | None = None,
    ) -> Runner: ...

    def put(self, array: Any, device: str = "cpu") -> Any: ...


def module(name: str) -> Backend:
    """The module of a backend in BACKENDS, whether it can be used here or not."""
    return cast(Backend, importlib.import_module(BACKENDS[name]))


def get(name: str) -> Backend:
    """The backend of that name. Raises BackendError if there is none, or it is not available."""
    if name not in BACKENDS:
        near = get_close_matches(name, BACKENDS, n=1)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        raise BackendError(
            f"there is no backend '{name}'", hint=f"Backends: {', '.join(BACKENDS)}.{guess}"
        )
    backend = module(name)
    reason = backend.available()
    if reason is not None:
        raise BackendError(
            f"the {name} backend is not available: {reason}",
            hint="`hubtool backends` lists what there is.",
        )
    return backend


def default(graph: Graph | None = None) -> str:
    """The backend that is used where none is chosen: the fastest that is there; for a graph whose
    heavy layers are none of native's, the next."""
    for name in PREFERRED:
        if name not in BACKENDS or module(name).available() is not None:
            continue
        suits = getattr(module(name), "suits", None)
        if graph is None or suits is None or suits(graph):
            return name
    return "numpy"


def prepare(
    name: str,
    graph: Graph,
    *,
    device: str = "cpu",
    threads: int | None = None,
    precision: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """The graph made ready on a backend, in one of its precisions and with its own options.

    Raises BackendError for what it has not, UnsupportedError for what it cannot run.
    """
    backend = get(name)
    exact = PRECISIONS.get(precision or "fp32", precision or "")
    known = backend.precisions(device)
    if exact not in known:
        raise BackendError(
            f"the {name} backend has no precision '{exact}' on {device}",
            hint=f"It has {', '.join(known)}.",
        )
    unknown = sorted({*(options or {})} - {*backend.OPTIONS})
    if unknown:
        own = [f"{option}: {does}" for option, does in backend.OPTIONS.items()]
        raise BackendError(
            f"the {name} backend has no option '{', '.join(unknown)}'",
            hint=f"Its options are: {'; '.join(own)}." if own else "It has none.",
        )
    return backend.prepare(graph, device, threads, exact, options or {})


def build(
    graph: Graph, space: Space, missing: Callable[[Graph], list[str]] | None = None
) -> Program:
    """The graph after the passes of `hubtool.passes.prepare`, as a program for this space.

    `missing` names what the array library has not; anything at all is an UnsupportedError.
    """
    ready = passes.prepare(graph)
    problems = missing(ready) if missing is not None else []
    if problems:
        raise UnsupportedError(
            f"the {space.name} backend cannot run this model:",
            problems=problems,
            hint="The numpy backend runs it.",
        )
    return Program(ready, space)


def or_by_definition(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, and what hubtool.ops says where it returns NotImplemented."""

    @wraps(function)
    def call(ctx: Any, *inputs: Any, **attrs: Any) -> Any:
        result = function(ctx, *inputs, **attrs)
        if result is not NotImplemented:
            return result
        known = lookup(op)
        assert known is not None
        return known.function(ctx, *inputs, **attrs)

    return call


def unknown_device(name: str, device: str, devices: Sequence[str]) -> BackendError:
    """The error for a device that this backend has not."""
    return BackendError(
        f"the {name} backend has no device '{device}' here",
        hint=f"Devices: {', '.join(devices)}.",
    )
