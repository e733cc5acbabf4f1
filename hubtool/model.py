"""A graph made ready on a backend: what a user holds and calls.

What is fed is checked here, before anything runs, and the same for every backend: by name, shape
and dtype, all problems at once, with what was wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from hubtool.backends import PRECISIONS, default, get, module, prepare
from hubtool.backends.arrays import described, device_of, library, shared
from hubtool.errors import InputError, RunError
from hubtool.graph import Graph, Value

if TYPE_CHECKING:
    from hubtool.backends.torch_module import Module

__all__ = ["Model", "default_backend", "set_default_backend", "transfer"]

Choice = tuple[str | None, str | None]

_everywhere: Choice = (None, None)
_here: ContextVar[Choice | None] = ContextVar("hubtool_default_backend", default=None)


class Model:
    """A graph on a backend: `logits = model(x)`, or `model.run({"data": x})`.

    graph: the layer graph as it was read; what a backend makes of it stays inside.
    backend, device: where it runs; "cuda" is the first GPU. threads: for one run.
    precision: how float32 is computed: "float32" (strict, the default), "tf32", "float16",
    "bfloat16", or as they are called for short: "fp32", "fp16", "bf16".
    options: what is the backend's own; `hubtool.backends()` lists them.

    Raises BackendError (unknown or not available), UnsupportedError (the backend cannot run it).
    """

    def __init__(
        self,
        graph: Graph,
        *,
        backend: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        precision: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        chosen_backend, chosen_device = _here.get() or _everywhere
        if backend is None:
            backend, device = chosen_backend or default(graph), device or chosen_device
        self.graph = graph
        self.backend = backend
        self.threads = threads
        self.options = dict(options or {})
        self.precision = PRECISIONS.get(precision or "fp32", precision or "")
        self._runner = prepare(
            backend,
            graph,
            device=device or "cpu",
            threads=threads,
            precision=precision,
            options=options,
        )
        self.device = self._runner.device

    @property
    def inputs(self) -> dict[str, Value]:
        """What must be fed: the graph's inputs that have no default."""
        return self.graph.free_inputs

    @property
    def outputs(self) -> dict[str, Value]:
        """What comes out, in this order."""
        return self.graph.outputs

    @property
    def notes(self) -> list[str]:
        """What the backend has to say of how it runs this model: layers that run on the host, or
        one by one between compiled parts, each with the reason. Empty where all runs as one."""
        return [*self._runner.notes]

    def __call__(self, x: Any, *, returns: str = "numpy") -> Any:
        """Run a model of one input and one output: array in, numpy array out."""
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            raise InputError(
                f"this model has {len(self.inputs)} inputs and {len(self.outputs)} outputs",
                hint=f"Use model.run({{name: array}}); its inputs are {_listed(self.inputs)}.",
            )
        (outputs,) = self.run({next(iter(self.inputs)): x}, returns=returns).values()
        return outputs

    def run(self, feeds: Mapping[str, Any], *, returns: str = "numpy") -> dict[str, Any]:
        """Run the model: arrays by input name in, numpy arrays by output name out.

        Arrays may be numpy's, torch's, jax's, or anything with `__array__` (DLPack where it has
        not); lists and numbers take the input's own dtype. Nothing is copied where the backend can
        take the memory as it is. What is on the host goes to the model's device; what is on
        another device is refused, and `hubtool.transfer` moves it.
        returns: "numpy"; or "device", and the outputs stay where they are, as arrays of the
        backend's own (torch tensors, jax arrays), which the next model there takes as they are.
        Raises InputError with every name, shape, dtype and device that is wrong, and RunError with
        the layer that failed.

        Example: `model.run({"data": np.zeros((1, 3, 224, 224), np.float32)})`
        """
        if returns not in ("numpy", "device"):
            raise InputError(f"returns='{returns}'", hint="It is 'numpy' or 'device'.")
        arrays = check_feeds(self.graph, feeds, self.backend, self.device)
        try:
            return self._runner.run(arrays, returns == "device")
        except MemoryError as error:
            raise RunError(
                f"the outputs take more memory than there is: {error}",
                hint="Feed less at a time; `hubtool info --shape` tells the shapes beforehand.",
            ) from error

    def to(
        self,
        backend: str,
        device: str | None = None,
        threads: int | None = None,
        precision: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Model:
        """The same graph on another backend or device; this model stays as it is."""
        return Model(
            self.graph,
            backend=backend,
            device=device,
            threads=threads,
            precision=precision,
            options=options,
        )

    def module(self) -> Module:
        """The graph as a torch.nn.Module to be trained, on the CPU: parameters are named as in the
        folder, `freeze("stage1_*")` keeps some as they are, `graph(name=…)` gives the graph with
        what was learned, for `hubtool.save`. Raises BackendError where torch is not installed.

        Example: `module = hubtool.load("resnet34").module()`
        """
        get("torch")
        from hubtool.backends.torch_module import Module

        return Module(self.graph)

    def __repr__(self) -> str:
        name = self.graph.meta.get("name", "model")
        where = self.backend if self.device == "cpu" else f"{self.backend} ({self.device})"
        return f"<Model {name}: {_listed(self.inputs)} -> {_listed(self.outputs)} on {where}>"


def set_default_backend(backend: str, device: str | None = None) -> None:
    """What `load` uses, everywhere in this process, where nothing else is asked for."""
    global _everywhere
    get(backend)
    _everywhere = (backend, device)


@contextmanager
def default_backend(backend: str, device: str | None = None) -> Iterator[None]:
    """What `load` uses inside this block, in this thread or task only."""
    get(backend)
    token = _here.set((backend, device))
    try:
        yield
    finally:
        _here.reset(token)


def transfer(array: Any, backend: str, device: str = "cpu") -> Any:
    """An array of any library (or a nested list of numbers) as one of a backend's own on a device:
    numpy's, a torch tensor, a jax array.

    The one way in which data moves between devices without being asked for by a run; the memory is
    the same where the array is there already. Raises BackendError where there is no such backend
    or device, InputError where it is no array.

    Example: `x = hubtool.transfer(x, "torch", "cuda")`
    """
    owner = get(backend)
    array = np.asarray(array) if isinstance(array, list | tuple | int | float) else array
    try:
        return owner.put(array, device)
    except TypeError as error:
        raise InputError(
            f"this cannot be moved to {backend}: {error}",
            hint="Give an array of numpy, torch, jax, or of any library that has __dlpack__.",
        ) from error


def check_feeds(
    graph: Graph, feeds: Mapping[str, Any], backend: str, device: str = "cpu"
) -> dict[str, Any]:
    """The feeds as arrays that the backend takes, or one InputError with all that is wrong."""
    problems = [f"'{name}' is no input" for name in feeds if name not in graph.inputs]
    problems += [
        f"input '{name}' is missing: {value} is wanted"
        for name, value in graph.free_inputs.items()
        if name not in feeds
    ]
    arrays: dict[str, Any] = {}
    sizes: dict[str, tuple[int, str]] = {}
    for name, wanted in graph.inputs.items():
        if name not in feeds:
            continue
        if wanted.kind.startswith("map("):
            arrays[name], found = _as_map(name, feeds[name], wanted)
            problems += found
            continue
        if wanted.kind != "tensor":
            arrays[name] = feeds[name]
            continue
        at = device_of(feeds[name])
        own = library(feeds[name]) == module(backend).library != "numpy"
        if at != device and (own or not at.startswith("cpu")):
            problems.append(
                f"input '{name}' is on {at}, the model on {device};"
                f" hubtool.transfer({name}, '{backend}', '{device}') moves it"
            )
            continue
        try:
            if own:
                array = feeds[name]
            elif at.startswith("cpu"):
                array = shared(feeds[name], wanted.dtype)
            else:
                array = module(backend).put(feeds[name], device)  # the same memory
            arrays[name] = array
        except (TypeError, ValueError) as error:
            problems.append(f"input '{name}' is no array: {error}")
            continue
        problems += _mismatches(name, array, wanted, sizes)
    if problems:
        raise InputError(
            "this cannot be fed to the model:",
            problems=problems,
            hint=f"Its inputs are {_listed(graph.free_inputs)}.",
        )
    return arrays


def _as_map(name: str, value: Any, wanted: Value) -> tuple[Any, list[str]]:
    """A map with numbers of the type that is wanted, and what is wrong with it."""
    key = str if wanted.kind == "map(string)" else int
    item = {"string": (str,), "int64": (int,)}.get(wanted.dtype, (float, int))
    if (
        not isinstance(value, dict)
        or not all(isinstance(k, key) for k in value)
        or not all(isinstance(v, item) for v in value.values())
    ):
        return value, [f"input '{name}' is no dict from {key.__name__} to {wanted.dtype}"]
    number: Any = {"float32": float, "float64": np.float64}.get(wanted.dtype)
    return {k: number(v) for k, v in value.items()} if number else value, []


def _mismatches(
    name: str, array: Any, wanted: Value, sizes: dict[str, tuple[int, str]]
) -> list[str]:
    """What is wrong with one array; `sizes` holds the symbolic sizes met so far, and where."""
    dtype, shape = described(array)
    given = f"{dtype}[{','.join(map(str, shape))}]"
    fits = wanted.shape is None or (
        len(shape) == len(wanted.shape)
        and all(not isinstance(w, int) or w == s for s, w in zip(shape, wanted.shape, strict=True))
    )
    if not fits or wanted.dtype not in ("", dtype):
        cast = "" if wanted.dtype in ("", dtype) else f"; x.astype('{wanted.dtype}') casts"
        return [f"input '{name}' is {given}, {wanted} is wanted{cast}"]
    problems = []
    for size, dim in zip(shape, wanted.shape or (), strict=False):
        if isinstance(dim, str):
            first, where = sizes.setdefault(dim, (size, name))
            if first != size:
                problems.append(
                    f"input '{name}' has size {size} for '{dim}', which is {first} in '{where}'"
                )
    return problems


def _listed(values: Mapping[str, Value]) -> str:
    return ", ".join(f"'{name}' {value}" for name, value in values.items())
