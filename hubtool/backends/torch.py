"""PyTorch: the same graphs on the CPU or on CUDA.

torch itself is imported when a model is prepared, never to look whether it is there. Arrays and
how they come and go are in `torch_space`, torch's own functions for single operators in
`torch_functions`, float16 and bfloat16 in `torch_precision`, and runs that are recorded or compiled
for their shapes in `torch_recorded`. Nothing here writes into what it was given: only a fresh
result (a convolution's) is changed in place, and an output that is a view of a weight or a feed is
copied before it is handed out.

float32 means float32: TF32, which cuDNN uses unless told otherwise, is off during a run that did
not ask for it (`torch_settings`). torch has no arithmetic for uint16 and uint32, which are computed
with in int64; nor any types under 8 bits, which are carried in wider ones (`torch_dtypes`). There
is no wider one for uint64: `prepare` names every place where a graph computes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from importlib.metadata import version as package_version
from importlib.util import find_spec
from typing import Any

import numpy as np

from hubtool.backends import build, unknown_device
from hubtool.backends.arrays import device_of, host
from hubtool.backends.parts import plan, read_as_numbers
from hubtool.backends.torch_dtypes import Carried
from hubtool.backends.torch_functions import OVERRIDES
from hubtool.backends.torch_precision import NarrowSpace, declared, narrowed
from hubtool.backends.torch_recorded import LIMIT, Compiler, Cuda, Graphs, PerShape
from hubtool.backends.torch_settings import float32_products, thread_count
from hubtool.backends.torch_space import HELD, VIEWED, TorchSpace
from hubtool.dtypes import BITS, CARRIERS, numpy_dtype
from hubtool.errors import BackendError, UnsupportedError
from hubtool.graph import Graph, Tensor, Value, names_read
from hubtool.interpreter import SMALL, Both, Program
from hubtool.ops import dtypes_made, lookup

__all__ = [
    "OPTIONS",
    "VIEWED",
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
OPTIONS: Mapping[str, str] = {
    "channels_last": "whether convolutions keep their channels last (True on CUDA and in bfloat16,"
    " else False)",
    "cuda_graphs": "whether runs are recorded as CUDA graphs (True on CUDA where no layer needs the"
    " host), or how many of them, one for each combination of shapes, are kept (8)",
    "compile": "True compiles the model for each combination of shapes, 'max-autotune' tries out"
    " kernels for it (False)",
}

Array = Any

UNSIGNED = frozenset({"uint64"})
"""The dtypes that torch holds, moves and casts, but does not compute with in any other either."""

CONVS = frozenset({"Conv", "ConvTranspose", "com.microsoft.FusedConv"})


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
    """float32 is float32; 16-bit floats are computed in where the device does it well."""
    on_gpu = device.startswith("cuda")
    return ["float32", "tf32", "float16", "bfloat16"] if on_gpu else ["float32", "bfloat16"]


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

    Raises BackendError for an unknown device or an option's value, UnsupportedError with all that
    torch lacks, or that keeps the model from being recorded or compiled as the options ask.
    """
    at = _device(device)
    narrow = precision in ("float16", "bfloat16")
    chosen = _options(options or {}, at, narrow)
    space = NarrowSpace(at, precision) if narrow else TorchSpace(at)
    program = at_hand(build(graph, space, missing))
    program = narrowed(program) if narrow else program
    if chosen["channels_last"]:
        last_channels(program)
    return Runner(program, threads, tf32=precision == "tf32", **chosen)


def _options(options: Mapping[str, Any], device: str, narrow: bool) -> dict[str, Any]:
    """Every option with its value. Raises BackendError for one that it cannot have."""
    on_gpu = device.startswith("cuda")
    chosen: dict[str, Any] = {
        "channels_last": on_gpu or narrow,
        "cuda_graphs": None if on_gpu else False,
        "compile": False,
        **options,
    }
    kept = chosen["cuda_graphs"]
    problems = []
    if not isinstance(chosen["channels_last"], bool):
        problems.append(f"channels_last={chosen['channels_last']!r} is neither True nor False")
    if kept is not None and (not isinstance(kept, int) or kept < 0):
        problems.append(f"cuda_graphs={kept!r} is neither True, False nor a number")
    elif kept and not on_gpu:
        problems.append(f"cuda_graphs={kept!r}: there are none on {device}")
    if chosen["compile"] not in (False, True, "max-autotune"):
        problems.append(f"compile={chosen['compile']!r} is neither True, False nor 'max-autotune'")
    if problems:
        raise BackendError(
            "the torch backend cannot be prepared so:",
            problems=problems,
            hint="; ".join(f"{option}: {does}" for option, does in OPTIONS.items()) + ".",
        )
    return chosen


def at_hand(program: Program) -> Program:
    """The program with every weight that serves as a shape on the host too, so that no run has to
    fetch it; small integers are there already."""
    for key in read_as_numbers(program.graph) & program.weights.keys():
        weight = program.weights[key]
        if not isinstance(weight, np.ndarray | Both):
            program.weights[key] = Both(program.graph.tensors[key].aligned, weight)
    return program


def last_channels(program: Program) -> None:
    """Lay out the weights of convolutions with their channels last; what such a convolution makes
    has them last too, and so has all that is computed from it element by element."""
    space = program.space
    assert isinstance(space, TorchSpace)
    torch, formats = space.torch, {4: "channels_last", 5: "channels_last_3d"}
    read: dict[str, set[str]] = {}
    for layer in program.graph.layers:
        for value in names_read(layer):
            kernel = layer.op in CONVS and value == layer.inputs["W"]
            read.setdefault(value, set()).add("kernel" if kernel else "other")
    for key, readers in read.items():
        weight = program.weights.get(key)
        if readers == {"kernel"} and isinstance(weight, torch.Tensor) and weight.ndim in formats:
            layout = getattr(torch, formats[weight.ndim])
            with torch.inference_mode(False):
                program.weights[key] = weight.contiguous(memory_format=layout)


def _device(device: str) -> str:
    """A device by its full name. Raises BackendError where torch has none of it."""
    at = "cuda:0" if device == "cuda" else device
    if at not in devices():
        raise unknown_device(name, device, devices())
    return at


class Runner:
    """A program on torch.

    host_layers: a line for each layer that needs the host while it runs, with the reason; a GPU is
    waited for there. notes: what is not done as it might be, and why.
    """

    def __init__(
        self,
        program: Program,
        threads: int | None,
        *,
        tf32: bool = False,
        channels_last: bool = False,
        cuda_graphs: bool | int | None = False,
        compile: bool | str = False,
    ) -> None:
        self.program = program
        self.threads = threads
        self.tf32 = tf32
        self.channels_last = channels_last
        space = program.space
        assert isinstance(space, TorchSpace)
        self.space = space
        self.device = str(space.device)
        narrow = isinstance(space, NarrowSpace)
        self.strict = space.strict if isinstance(space, NarrowSpace) else space
        self.declared = declared(program.graph) if narrow else {}
        ways = plan(program.graph, OVERRIDES)
        self.host_layers = ways.eager
        self.static = ways.static
        self.compiles = compile
        self.records = cuda_graphs is not False
        self.graphs: Graphs | None = None
        self.repeated = self._repeated(cuda_graphs)

    @property
    def notes(self) -> list[str]:
        if self.graphs is not None:
            return self.graphs.notes
        return [f"no CUDA graphs: {reason}" for reason in self._unfit()] if self.records else []

    def _repeated(self, cuda_graphs: bool | int | None) -> Any:
        """What runs the program on feeds that are on the device."""
        run: Any = self._run
        wishes = {"cuda_graphs": cuda_graphs, "compile": self.compiles}
        asked = [key for key, wish in wishes.items() if wish]
        unfit = self._unfit()
        if asked and unfit:
            raise UnsupportedError(
                f"the torch backend cannot do {' and '.join(asked)} for this model:",
                problems=unfit,
                hint=f"Without {' and '.join(asked)} it runs, layer by layer.",
            )
        torch, limit = self.space.torch, LIMIT if cuda_graphs in (None, True) else int(cuda_graphs)
        if self.compiles:
            mode = "max-autotune-no-cudagraphs" if self.compiles == "max-autotune" else None
            run = PerShape(Compiler(run, torch, mode=mode), self.static, LIMIT, alone=False)
        if cuda_graphs is not False and limit and not unfit:
            recorder = Cuda(torch, self.space.device)
            self.graphs = Graphs(run, recorder, self.space.keeping)
            run = PerShape(self.graphs, self.static, limit, alone=True)
        return run

    def _unfit(self) -> list[str]:
        """What cannot be repeated without looking at it anew."""
        values = {"input": self.program.graph.inputs, "output": self.program.graph.outputs}
        return self.host_layers + [
            f"{kind} '{key}' is a {value.kind}"
            for kind, each in values.items()
            for key, value in each.items()
            if value.kind != "tensor"
        ]

    def run(self, feeds: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
        """The outputs by name, in graph order; none shares memory with a feed or a weight.

        Feeds may be numpy arrays, or torch tensors on the device of the model.
        """
        torch = self.space.torch
        given = {key: self._fed(key, feed) for key, feed in feeds.items()}
        with (
            thread_count(torch, self.threads),
            float32_products(torch, self.tf32),
            torch.no_grad() if self.compiles else torch.inference_mode(),
        ):
            results = self.repeated(given)
            return {key: self._returned(key, results[key], keep) for key in results}

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The program, layer by layer."""
        device = self.space.device
        # Factory functions that are given no device take this one.
        with nullcontext() if device.type == "cpu" else device:
            return self.program.run(feeds)

    def _fed(self, key: str, feed: Any) -> Any:
        if isinstance(feed, list):
            return [self._fed(key, item) for item in feed]
        if key in self.static:  # shapes are computed on the host
            return feed if isinstance(feed, np.ndarray) else self.space.get(feed)
        if not isinstance(feed, np.ndarray) or feed.dtype.kind == "O":
            return feed
        if feed.dtype.kind in "iub" and feed.size <= SMALL:
            return Both(feed, self.space.put(feed))  # it may be a shape
        return self.space.put(feed)

    def _returned(self, key: str, value: Any, keep: bool) -> Any:
        if isinstance(value, list):
            return [self._returned(key, item, keep) for item in value]
        narrow = isinstance(self.space, NarrowSpace)
        if isinstance(value, np.ndarray):
            if narrow and value.dtype == np.float32:
                value = value.astype(numpy_dtype(self.declared[key]), copy=False)
            held = value.dtype.name in HELD  # text has no tensor
            return self.strict.put(value.copy()) if keep and held else value.copy()
        if isinstance(value, Carried):
            return self.space.get(value)
        if not isinstance(value, self.space.torch.Tensor):
            return value
        if narrow and self.strict.dtype_of(value) in ("float32", "float16", "bfloat16"):
            value = self.strict.cast(value, self.declared[key])
        # What the run made itself is an "inference tensor"; a view of what was put is not.
        own = value.contiguous() if value.is_inference() else value.clone()
        return own if keep else self.strict.get(own)


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
