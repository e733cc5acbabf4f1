"""XLA, by way of jax: a graph traced once for the shapes that are fed, and compiled.

The definitions in `hubtool.ops` run on jax.numpy, windows on XLA's own kernels (`xla_functions`).
What XLA cannot compile runs layer by layer between compiled parts (`parts`), and
`Runner.notes` names it, with the reason, before any run. Each part is compiled anew for every
combination of shapes, dtypes and static inputs that it meets; compiled programs are kept on disk
too (`xla_cache`). Weights are arguments of a program, never constants in it, and stay on the
device; those of convolutions are laid out for XLA's kernels once.

Nothing of jax's is set for the process: int64, full float32 in products, the device, and whatever
else a user may have set otherwise hold inside a run only (`XlaSpace.settings`). A narrow float is
rounded where the graph says so: XLA's liberty to leave that out is taken from it. jax is imported
when a model is prepared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version as package_version
from importlib.util import find_spec
from typing import Any

import numpy as np

from hubtool import passes
from hubtool.backends import unknown_device
from hubtool.backends.arrays import device_of, host
from hubtool.backends.parts import Plan, plan
from hubtool.backends.xla_compiled import Compiled, Eager
from hubtool.backends.xla_dtypes import Carried, Namespace, carried, registered
from hubtool.backends.xla_functions import OVERRIDES
from hubtool.dtypes import BITS, CARRIERS, WIDER, numpy_dtype
from hubtool.errors import UnsupportedError
from hubtool.graph import Graph
from hubtool.ops import check

__all__ = [
    "OPTIONS",
    "Runner",
    "XlaSpace",
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

name = "xla"
library = "jax"
OPTIONS: Mapping[str, str] = {
    "disk_cache": "whether compiled programs are kept on disk for the next process (True)",
}

Array = Any

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""jax's platforms, by the names that hubtool's devices have."""

PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32"}
"""How float32 is multiplied, and what jax calls it."""


def available() -> str | None:
    """None, or that jax is not installed."""
    if find_spec("jax") is None or find_spec("jaxlib") is None:
        return "jax is not installed; `pip install 'hubtool[xla]'` installs it"
    return None


def version() -> str:
    return package_version("jax")


def devices() -> list[str]:
    """ "cpu" and what else jax can use: "cuda:0"; "cpu:1" where the host is shown as several."""
    return [*_devices()]


def dtypes() -> list[str]:
    """What XLA has, and what is carried in wider ones."""
    return [*BITS, "string"]


def precisions(device: str) -> list[str]:
    """float32 is float32; where products have it, tf32."""
    return ["float32", "tf32"] if device.startswith("cuda") else ["float32"]


def put(array: Any, device: str = "cpu") -> Array:
    """Any library's array as jax's on a device; the same memory where it is there already and lies
    as XLA wants it (on the host at a multiple of 64 bytes)."""
    space = XlaSpace(_device(device))
    jax = space.jax
    if isinstance(array, jax.Array):
        return jax.device_put(array, space.device)
    if not isinstance(array, np.ndarray) and not device_of(array).startswith("cpu"):
        return jax.device_put(jax.dlpack.from_dlpack(array), space.device)
    moved = host(array)
    if moved.dtype.kind == "O":
        raise TypeError("text has no place in jax")
    with space.settings():
        return space.put(moved)


def prepare(
    graph: Graph,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """The graph made ready for XLA; "cuda" is the first GPU. XLA's threads are one number for the
    process, of which hubtool has no say: `threads` has no effect.

    Raises BackendError for an unknown device, UnsupportedError with all that hubtool lacks.
    """
    at = _device(device)
    problems = check(graph)
    if problems:
        raise UnsupportedError(
            "this model cannot be run by hubtool:",
            problems=problems,
            hint="`hubtool check` lists what is missing; the onnxruntime backend may run it.",
        )
    space = XlaSpace(at, PRECISIONS[precision])
    ready = passes.prepare(graph)
    return Runner(ready, plan(ready, OVERRIDES), space, **(options or {}))


def _devices() -> dict[str, Any]:
    """Every device by its name."""
    import jax

    found: dict[str, Any] = {}
    for kind in PLATFORMS:
        try:
            present = jax.devices(kind)
        except RuntimeError:  # jax has no such platform here
            continue
        found.update((f"{kind}:{each.id}", each) for each in present)
    return {"cpu" if key == "cpu:0" else key: each for key, each in found.items()}


def _device(device: str) -> str:
    """A device by its full name. Raises BackendError where jax has none of it."""
    known = devices()
    at = {"cpu:0": "cpu"}.get(device, device)
    if at in known:
        return at
    first = [key for key in known if key.partition(":")[0] == at]
    if not first:
        raise unknown_device(name, device, known)
    return first[0]


class XlaSpace:
    """jax on one device, as the interpreter needs it."""

    name = name
    overrides: Mapping[str, Callable[..., Any]] = OVERRIDES
    holds_data = True
    wider: Mapping[str, str] = WIDER
    carriers: Mapping[str, str] = CARRIERS

    def __init__(self, device: str, precision: str = "highest") -> None:
        import jax

        registered(jax)
        self.jax: Any = jax
        self.xp: Any = Namespace(jax)
        self.place = device
        self.device: Any = _devices()[device]
        self.precision = precision

    @contextmanager
    def settings(self) -> Iterator[None]:
        """jax as the definitions need it, in this thread and inside this block only."""
        jax = self.jax
        with ExitStack() as held:
            for setting in (
                jax.enable_x64(True),
                jax.default_matmul_precision(self.precision),
                jax.default_device(self.device),
                jax.numpy_dtype_promotion("standard"),
                jax.numpy_rank_promotion("allow"),
                jax.transfer_guard("allow"),
                jax.debug_nans(False),
                jax.debug_infs(False),
            ):
                held.enter_context(setting)
            yield

    def put(self, array: np.ndarray[Any, Any]) -> Array:
        """The array on the device; while a part is traced, a constant in it."""
        array = np.asarray(array)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        dtype = array.dtype.name
        if dtype in CARRIERS:
            return Carried(dtype, self.put(array.astype(CARRIERS[dtype])))
        return self.jax.device_put(array, self.device)

    def get(self, value: Array) -> np.ndarray[Any, Any]:
        if isinstance(value, Carried):
            return self.get(value.array).astype(numpy_dtype(value.dtype))
        array: np.ndarray[Any, Any] = np.asarray(value)
        return array

    def dtype_of(self, value: Array) -> str:
        return str(value.dtype)

    def cast(self, value: Array, dtype: str) -> Array:
        if isinstance(value, Carried):
            value = value.array
        return carried(self.jax.numpy, value, dtype) if dtype in CARRIERS else value.astype(dtype)


class Runner:
    """A graph in parts, on XLA.

    notes: a line for each layer that is not compiled, with the reason.
    """

    def __init__(self, graph: Graph, parts: Plan, space: XlaSpace, disk_cache: bool = True) -> None:
        self.graph = graph
        self.space = space
        self.device = space.place
        self.notes = parts.eager
        self.static = parts.static
        weights: dict[str, Any] = {}
        with space.settings():
            self.parts: list[Compiled | Eager] = [
                Compiled(part, space, parts.host, weights, disk_cache)
                if part.compiled
                else Eager(part, space, weights)
                for part in parts.parts
            ]
        self.lock = threading.Lock()

    def run(self, feeds: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
        """The outputs by name, in graph order; none shares memory with a feed or a weight.

        Feeds may be numpy arrays, or jax arrays on the device of the model.
        """
        with self.space.settings():
            env = {key: self._fed(key, feed) for key, feed in feeds.items()}
            given = self._lent(feeds, env)
            for key in self.graph.outputs:
                if key in self.graph.tensors and key not in env:
                    env[key] = self.graph.tensors[key].array
            generator = np.random.default_rng()
            for part in self.parts:
                env.update(part.run(env, generator))
                for key in part.drops:
                    env.pop(key, None)
            made = {key: self._returned(env[key], keep, given) for key in self.graph.outputs}
            # What is fed may be written to again once this returns.
            return self.space.jax.block_until_ready(made) if keep else made

    def _fed(self, key: str, feed: Any) -> Any:
        if key in self.static:
            return feed if isinstance(feed, np.ndarray) else self.space.get(feed)
        return self._put(feed)

    def _put(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._put(item) for item in value]
        held = isinstance(value, np.ndarray) and value.dtype.kind != "O"
        return self.space.put(value) if held else value

    def _lent(self, feeds: Mapping[str, Any], env: Mapping[str, Any]) -> set[int]:
        """Where the memory lies that numpy lent: of feeds that came from there."""
        lent = [
            env[key] for key, feed in feeds.items() if not isinstance(feed, self.space.jax.Array)
        ]
        leaves = self.space.jax.tree_util.tree_leaves(lent)
        arrays = (leaf for leaf in leaves if isinstance(leaf, self.space.jax.Array))
        on_host = self.space.device.platform == "cpu"
        return {array.unsafe_buffer_pointer() for array in arrays if on_host}

    def _returned(self, value: Any, keep: bool, lent: set[int]) -> Any:
        if isinstance(value, list):
            return [self._returned(item, keep, lent) for item in value]
        if isinstance(value, Carried):
            return self.space.get(value)
        if isinstance(value, np.ndarray):
            held = value.dtype.kind != "O" and value.dtype.name not in CARRIERS
            return self.space.put(value.copy()) if keep and held else value.copy()
        if not isinstance(value, self.space.jax.Array):
            return value
        if not keep:
            return np.array(value)
        if lent and value.unsafe_buffer_pointer() in lent:
            return self.space.jax.numpy.array(value, copy=True)
        return value
