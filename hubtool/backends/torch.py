"""PyTorch: the same graphs on the CPU or on CUDA.

torch itself is imported when a model is prepared, never to look whether it is there; the space
holds it, and torch's own functions for single operators stand in `torch_functions`. Arrays are
shared with numpy where they can be: a weight mapped from a file is read from there, a fed tensor
on the right device is taken as it is. So nothing here writes into what it was given; only a fresh
result (a convolution's) is changed in place, and an output that is a view of a weight or a feed
is copied before it is handed out.

float32 means float32: TF32, which cuDNN uses unless told otherwise, is off during a run. torch
has no arithmetic for uint16 and uint32, which are computed with in int64; nor any types under 8
bits, which are carried in wider ones (`torch_dtypes`). There is no wider one for uint64: `prepare`
names every place where a graph computes with it. `threads` is torch's own setting and holds for
the whole process; it is put back after each run, as is TF32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import version as package_version
from importlib.util import find_spec
from typing import Any

import numpy as np

from hubtool.backends import build, unknown_device
from hubtool.backends.arrays import device_of, host
from hubtool.backends.torch_dtypes import CARRIERS, Carried, Namespace, carried
from hubtool.backends.torch_functions import OVERRIDES
from hubtool.dtypes import BITS, WIDER, numpy_dtype
from hubtool.errors import UnsupportedError
from hubtool.graph import Graph, Tensor, Value, names_read
from hubtool.interpreter import SMALL, Both, Program
from hubtool.ops import dtypes_made, lookup

__all__ = [
    "OPTIONS",
    "Runner",
    "TorchSpace",
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

name = "torch"
library = "torch"
OPTIONS: Mapping[str, str] = {}

Array = Any

HELD = frozenset(dtype for dtype, bits in BITS.items() if bits >= 8)
"""The dtypes that torch has arrays of."""

UNSIGNED = frozenset({"uint64"})
"""The dtypes that torch holds, moves and casts, but does not compute with in any other either."""

VIEWED = {dtype: BITS[dtype] for dtype in HELD if dtype.startswith(("bfloat16", "float8"))}
"""The dtypes that numpy and torch each have in their own way, and the bits of the integers as
which they cross over."""


def available() -> str | None:
    """None, or that torch is not installed."""
    if find_spec("torch") is None:
        return "torch is not installed; `pip install 'hubtool[torch]'` installs it"
    return None


def version() -> str:
    return package_version("torch")


def devices() -> list[str]:
    """The CPU, and every GPU that torch can use."""
    import torch

    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


def dtypes() -> list[str]:
    """What it has arrays of, or carries in wider ones; uint64 is only moved."""
    return [dtype for dtype in [*BITS, "string"] if dtype not in UNSIGNED]


def precisions(device: str) -> list[str]:
    """float32 is float32."""
    return ["float32"]


def put(array: Any, device: str = "cpu") -> Array:
    """Any library's array as a tensor on a device; the same memory where it is there already."""
    space = TorchSpace(_device(device))
    if isinstance(array, space.torch.Tensor):
        return array.to(space.device)
    if not isinstance(array, np.ndarray) and not device_of(array).startswith("cpu"):
        return space.torch.from_dlpack(array).to(space.device)
    return space.put(host(array))


def prepare(
    graph: Graph,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """The graph made ready for torch; "cuda" is the first GPU.

    Raises BackendError for an unknown device, UnsupportedError with all that torch lacks.
    """
    return Runner(build(graph, TorchSpace(_device(device)), missing), threads)


def _device(device: str) -> str:
    """A device by its full name. Raises BackendError where torch has none of it."""
    at = "cuda:0" if device == "cuda" else device
    if at not in devices():
        raise unknown_device(name, device, devices())
    return at


class TorchSpace:
    """torch on one device, as the interpreter needs it."""

    name = name
    overrides = OVERRIDES
    holds_data = True
    wider: Mapping[str, str] = {**WIDER, "uint16": "int64", "uint32": "int64"}
    carriers: Mapping[str, str] = CARRIERS

    def __init__(self, device: str) -> None:
        import torch
        from array_api_compat import torch as xp

        self.torch: Any = torch
        self.xp: Any = Namespace(torch, xp)
        self.device: Any = torch.device(device)

    def put(self, array: np.ndarray[Any, Any]) -> Array:
        """The array as a tensor; on the CPU it is the same memory where strides allow it."""
        array = np.asarray(array)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        dtype = array.dtype.name
        if dtype in CARRIERS:
            return Carried(dtype, self.put(array.astype(CARRIERS[dtype])))
        if dtype in VIEWED:
            array = array.view(f"int{VIEWED[dtype]}")
        if min(array.strides, default=0) < 0:
            array = array.copy()
        if not array.flags.writeable:
            array = np.asarray(_Unlocked(array))
        with self.torch.inference_mode(False):  # see Runner._returned
            tensor = self.torch.from_numpy(array)
            if dtype in VIEWED:
                tensor = tensor.view(getattr(self.torch, dtype))
            return tensor.to(self.device)

    def get(self, value: Array) -> np.ndarray[Any, Any]:
        if isinstance(value, Carried):
            return self.get(value.tensor).astype(numpy_dtype(value.dtype))
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        dtype = self.dtype_of(value)
        if dtype not in VIEWED:
            array: np.ndarray[Any, Any] = tensor.numpy()
            return array
        integer = getattr(self.torch, f"int{VIEWED[dtype]}")
        viewed: np.ndarray[Any, Any] = tensor.view(integer).numpy().view(numpy_dtype(dtype))
        return viewed

    def dtype_of(self, value: Array) -> str:
        return str(value.dtype).removeprefix("torch.")

    def cast(self, value: Array, dtype: str) -> Array:
        if isinstance(value, Carried):
            value = value.tensor
        if dtype in CARRIERS:
            return carried(self.torch, value, dtype)
        if dtype not in HELD:
            raise UnsupportedError(f"torch has no {dtype}")
        if dtype == "float8_e4m3fn":
            # It has no infinity: what rounds to more than 448 is NaN; torch would make it 448.
            wide = value if value.dtype == self.torch.float64 else value.float()
            value = self.torch.where(wide.abs() > 464, self.torch.nan, wide)
        if dtype == "float8_e8m0fnu":
            # It has powers of two only; torch would make one of 0 and of what is below it.
            value = self.torch.where(value > 0, value, self.torch.nan)
        return value.to(getattr(self.torch, dtype))


class _Unlocked:
    """A read-only array under the array interface, saying that it may be written to.

    torch warns of such arrays, and tensors cannot be read-only; this backend never writes.
    """

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        interface = array.__array_interface__
        self.array = array  # kept alive
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


class Runner:
    """A program on torch."""

    def __init__(self, program: Program, threads: int | None) -> None:
        self.program = program
        self.threads = threads
        space = program.space
        assert isinstance(space, TorchSpace)
        self.space = space
        self.device = str(space.device)

    def run(self, feeds: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
        """The outputs by name, in graph order; none shares memory with a feed or a weight.

        Feeds may be numpy arrays, or torch tensors on the device of the model.
        """
        torch, device = self.space.torch, self.space.device
        given = {key: self._fed(feed) for key, feed in feeds.items()}
        # Factory functions that are given no device take this one.
        on_device = nullcontext() if device.type == "cpu" else device
        with _threads(torch, self.threads), _full_float32(torch), on_device, torch.inference_mode():
            results = self.program.run(given)
        return {key: self._returned(value, keep) for key, value in results.items()}

    def _fed(self, feed: Any) -> Any:
        if isinstance(feed, list):
            return [self._fed(item) for item in feed]
        if not isinstance(feed, np.ndarray) or feed.dtype.kind == "O":
            return feed
        if feed.dtype.kind in "iub" and feed.size <= SMALL:  # it may be a shape
            return Both(feed, self.space.put(feed))
        return self.space.put(feed)

    def _returned(self, value: Any, keep: bool) -> Any:
        if isinstance(value, list):
            return [self._returned(item, keep) for item in value]
        if isinstance(value, np.ndarray):
            held = value.dtype.name in HELD  # text has no tensor
            return self.space.put(value.copy()) if keep and held else value.copy()
        if isinstance(value, Carried):
            return self.space.get(value)
        if not isinstance(value, self.space.torch.Tensor):
            return value
        # What the run made itself is an "inference tensor"; a view of what was put is not.
        own = value.contiguous() if value.is_inference() else value.clone()
        return own if keep else self.space.get(own)


@contextmanager
def _threads(torch: Any, count: int | None) -> Iterator[None]:
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _full_float32(torch: Any) -> Iterator[None]:
    """No TF32 and no bfloat16 inside float32 products and convolutions."""
    cuda, cudnn, mkldnn = (getattr(torch.backends, key) for key in ("cuda", "cudnn", "mkldnn"))
    try:
        before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:  # somebody uses torch's newer settings; the older cannot be read then
        owners = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv]
        settings = [owner.fp32_precision for owner in owners]
        try:
            for owner in owners:
                owner.fp32_precision = "ieee"
            yield
        finally:
            for owner, setting in zip(owners, settings, strict=True):
                owner.fp32_precision = setting
        return
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


def missing(graph: Graph, known: Mapping[str, str] | None = None) -> list[str]:
    """Every input, weight and layer of a dtype that torch has not; `known` holds the dtypes of
    the values around a subgraph."""
    problems: list[str] = []
    dtypes = dict(known or {})
    read = {*graph.outputs, *(value for layer in graph.layers for value in names_read(layer))}
    given: dict[str, Value | Tensor] = {**graph.tensors, **graph.inputs}
    for key, value in given.items():
        dtypes[key] = value.dtype
        if value.dtype not in {*HELD, *CARRIERS, "string", ""} and key in read:
            kind = "input" if key in graph.inputs else "weight"
            problems.append(f"{kind} '{key}' is {value.dtype}")
    for layer in graph.layers:
        op = lookup(layer.op)
        if op is None:
            continue  # the interpreter names it
        made = dtypes_made(layer, dtypes, lambda name: getattr(graph.known(name), "dtype", ""))
        dtypes.update(made)
        label = f"layer '{layer.name}' ({layer.op})"
        lacking = sorted({*made.values()} - HELD - CARRIERS.keys() - {"string", ""})
        problems += [f"{label} makes {dtype}" for dtype in lacking]
        if not op.moves:
            touched = {*made.values(), *(dtypes.get(value, "") for value in layer.reads())}
            problems += [f"{label} computes with {dtype}" for dtype in sorted(touched & UNSIGNED)]
        for body in layer.subgraphs().values():
            problems += [f"{label} > {problem}" for problem in missing(body, dtypes)]
    return problems
