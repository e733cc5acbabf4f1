"""OpenVINO as a backend. The only door to `openvino`.

It is given the graph as ONNX in memory; the weights it reads from where hubtool has mapped them
(by their addresses, as ONNX Runtime's own OpenVINO provider hands them over), so nothing is
serialized. It copies them once when it reads, and again into the layout that a device wants.

Left alone, OpenVINO computes float32 in bfloat16 on a CPU that has it, 64-bit integers in 32 bits
and float64 in float32, and says nothing. Here it is told the precision always, float64 and uint64
are refused, and so is an int64 input with numbers that do not fit 32 bits. It is imported when it
is first used, without its telemetry, which would look up a host and send events.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import version as package_version
from importlib.util import find_spec
from typing import Any

import numpy as np

from hubtool.backends import unknown_device
from hubtool.backends.arrays import host
from hubtool.backends.openvino_limits import REFUSED, fits, missing
from hubtool.dtypes import BITS, numpy_dtype
from hubtool.errors import BackendError, InputError, RunError, UnsupportedError
from hubtool.formats.onnx.write import add_external, to_model
from hubtool.graph import Graph, TensorRef, Value, names_read

__all__ = [
    "OPTIONS",
    "Runner",
    "available",
    "devices",
    "dtypes",
    "library",
    "name",
    "open_file",
    "precisions",
    "prepare",
    "put",
    "version",
]

name = "openvino"
library = "numpy"
OPTIONS: Mapping[str, str] = {
    "performance_hint": "'latency' (the default) or 'throughput': runs from several threads at "
    "once go side by side",
    "cache_dir": "a folder where compiled models are kept for the next start",
    "config": "a dict of OpenVINO's own properties for the device, handed on as they are",
}

Array = np.ndarray[Any, Any]

MEMORY = "*/_ORT_MEM_ADDR_/*"
"""Where external data lies at an address of this process, in the words of OpenVINO's reader."""

CAPABILITIES = {"FP32": "float32", "FP16": "float16", "BF16": "bfloat16"}
HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

TYPES = {
    "bfloat16": "bf16",
    "float8_e4m3fn": "f8e4m3",
    "float8_e5m2": "f8e5m2",
    "float8_e8m0fnu": "f8e8m0",
}
"""The element types that numpy has not: OpenVINO takes and gives their bits."""

UNREAD: Mapping[str, tuple[str, ...]] = {
    "CastLike": ("target_type",),
    "Dropout": ("ratio", "training_mode"),
    "QuantizeLinear": ("y_zero_point",),
}
"""Inputs that need not be read: only their type counts, or nothing of them; the zero point that
OpenVINO leaves out is that of float8, which is 0."""

SETTINGS = {
    "INFERENCE_PRECISION_HINT": "precision=",
    "EXECUTION_MODE_HINT": "precision=",
    "INFERENCE_NUM_THREADS": "threads=",
    "PERFORMANCE_HINT": "the option performance_hint",
    "CACHE_DIR": "the option cache_dir",
}
"""OpenVINO's properties that are said in another way."""


def available() -> str | None:
    """None, or that openvino is not installed."""
    if find_spec("openvino") is None:
        return "openvino is not installed; `pip install 'hubtool[openvino]'` installs it"
    return None


def version() -> str:
    return package_version("openvino")


def devices() -> list[str]:
    """The CPU, and what else OpenVINO finds: "gpu", or "gpu:0" and "gpu:1"; "npu"."""
    return [device.lower().replace(".", ":") for device in _core().available_devices]


def dtypes() -> list[str]:
    """What it computes with; int64 in 32 bits."""
    small = ("float4", "float6", "float8", "complex", "int2", "int4", "uint2", "uint4")
    return [
        dtype
        for dtype in BITS
        if dtype not in REFUSED and (dtype in TYPES or not dtype.startswith(small))
    ]


def precisions(device: str) -> list[str]:
    """What the device says that it can do, the strict one first."""
    found = _core().get_property(_device(device), "OPTIMIZATION_CAPABILITIES")
    return [precision for word, precision in CAPABILITIES.items() if word in found]


def put(array: Any, device: str = "cpu") -> Array:
    """The array as numpy's on the host: OpenVINO is fed from there, whatever its device."""
    if _device(device) != "CPU":
        raise BackendError(
            f"OpenVINO takes arrays from the host, and holds none on {device}",
            hint="Feed the model numpy arrays; hubtool.transfer(array, 'numpy') makes one.",
        )
    moved: Array = host(array)
    return moved


@cache
def _openvino() -> Any:
    """The package, imported as if its telemetry was not installed."""
    modules: dict[str, Any] = sys.modules
    telemetry = "openvino_telemetry"
    if "openvino" in modules or telemetry in modules:
        import openvino

        return openvino
    modules[telemetry] = None
    try:
        import openvino
    finally:
        del modules[telemetry]
    return openvino


@cache
def _core() -> Any:
    return _openvino().Core()


def _device(device: str) -> str:
    """A device as OpenVINO calls it. Raises BackendError where there is none of it."""
    known = devices()
    for at in (device, f"{device}:0", device.removesuffix(":0")):
        if at in known:
            return at.upper().replace(":", ".")
    raise unknown_device(name, device, known)


class Runner:
    """A compiled model; `weights` keeps alive what it was given the addresses of.

    A request is one run at a time: as many are made as runs were ever under way at once.
    """

    notes: Sequence[str] = ()

    def __init__(
        self,
        compiled: Any,
        ports: Mapping[str, Any],
        graph: Graph,
        weights: list[Array],
        device: str,
    ) -> None:
        self.compiled = compiled
        self.ports = ports
        self.weights = weights
        self.device = device
        self.outputs = [*graph.outputs]
        self.defaults = {key for key in graph.inputs if key in graph.tensors}
        self.idle: list[Any] = []

    def run(self, feeds: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
        """The outputs by name, in graph order, as numpy arrays of the caller's own.

        Raises InputError where an int64 does not fit in 32 bits, RunError where OpenVINO fails.
        """
        if keep and self.device != "cpu":
            raise BackendError(
                f"OpenVINO's results come to the host, none stays on {self.device}",
                hint="Leave returns='device' out.",
            )
        self._check(feeds)
        given = {key: _tensor(array) for key, array in feeds.items() if key in self.ports}
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        try:
            for key, tensor in given.items():
                request.set_tensor(self.ports[key], tensor)
            request.infer({}, share_outputs=True)
            made = [_array(tensor) for tensor in request.output_tensors]
        except RuntimeError as error:
            raise RunError(
                f"OpenVINO failed: {_plain(error)}",
                hint="The numpy backend says which layer it is, and with which shapes.",
            ) from error
        finally:
            self.idle.append(request)
        return dict(zip(self.outputs, made, strict=True))

    def _check(self, feeds: Mapping[str, Any]) -> None:
        problems = [
            f"input '{key}' has a default, which OpenVINO has built in"
            for key in feeds
            if key in self.defaults
        ]
        problems += [
            f"input '{key}' holds int64 numbers that do not fit in 32 bits"
            for key, array in feeds.items()
            if array.dtype == np.int64 and array.size and not fits(array)
        ]
        if problems:
            raise InputError(
                "OpenVINO cannot be fed this:", problems=problems, hint="Another backend can."
            )


def prepare(
    graph: Graph,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """The graph compiled for a device.

    Raises BackendError for an unknown device or setting, UnsupportedError with every layer that
    OpenVINO refuses, or would compute as something else.
    """
    at = _device(device)
    config = _config(at, threads, precision, options or {})
    problems = missing(graph)
    if problems:
        raise _unsupported(problems)
    try:
        read, weights = _read(graph)
    except RuntimeError as error:
        raise _unsupported([*_refused(graph, _read)] or [_plain(error)]) from error
    try:
        compiled = _core().compile_model(read, at, config)
    except RuntimeError as error:
        named = [layer for layer in graph.layers if layer.name in re.split(r"[\s'\"]+", str(error))]
        alone = replace(graph, layers=named or graph.layers)
        found = _refused(alone, lambda g: _core().compile_model(_read(g)[0], at, config))
        raise _unsupported([*found] or [_plain(error)]) from error
    ports, problems = _ports(compiled, graph)
    if problems:
        raise _unsupported(problems)
    return Runner(compiled, ports, graph, weights, at.lower().replace(".", ":"))


def open_file(
    path: str, threads: int | None = None, precision: str = "float32"
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """An ONNX file as OpenVINO itself reads and compiles it, on the CPU, but for the precision,
    which it is told: feeds in, outputs by name out. Raises whatever OpenVINO raises."""
    if precision not in precisions("cpu"):
        raise BackendError(f"OpenVINO has no precision '{precision}' on the cpu")
    own: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
    if threads is not None:
        own["INFERENCE_NUM_THREADS"] = threads
    compiled = _core().compile_model(_core().read_model(path), "CPU", own)
    names = [port.any_name for port in compiled.outputs]
    return lambda feeds: dict(zip(names, compiled(dict(feeds)).values(), strict=True))


def _read(graph: Graph) -> tuple[Any, list[Array]]:
    """The graph as OpenVINO's, and the arrays that hold its weights."""
    model, large = to_model(graph)
    weights = [tensor.aligned for tensor in large.values()]
    for (key, tensor), array in zip(large.items(), weights, strict=True):
        add_external(model, key, tensor, MEMORY, array.ctypes.data)
    return _core().read_model(io.BytesIO(model.SerializeToString())), weights


def _ports(compiled: Any, graph: Graph) -> tuple[dict[str, Any], list[str]]:
    """Where each input is fed, and what OpenVINO has made otherwise of the inputs and outputs.

    It leaves out an input that it has no use for, and forgets the name of one that goes straight
    to an output: that is known by its type and shape.
    """
    free, problems = graph.free_inputs, []
    ports = {
        key: port
        for port in compiled.inputs
        for key in {*port.names, port.node.friendly_name} & free.keys()
    }
    known = {port.index for port in ports.values()}
    for port in compiled.inputs:
        if port.index in known:
            continue
        fitting = [key for key in free if key not in ports and _is(port, free[key])]
        if len(fitting) == 1:
            ports[fitting[0]] = port
        else:
            problems.append(f"OpenVINO does not say which input is the one of {port.partial_shape}")
    for key in free.keys() - ports.keys():
        problems += [
            f"layer '{layer.name}' ({layer.op}): OpenVINO does not read its {formal} '{key}'"
            for layer in graph.layers
            for formal, names in layer.inputs.items()
            if (key == names or key in names)
            and formal not in UNREAD.get(layer.op, ())
            and 0 not in (free[key].shape or ())
        ]
    for (key, value), port in zip(graph.outputs.items(), compiled.outputs, strict=True):
        if not _is(port, value):
            problems.append(
                f"output '{key}' is {value}, and OpenVINO makes"
                f" {_dtype(port.element_type)}{port.partial_shape} of it"
            )
    return ports, problems


def _config(
    device: str, threads: int | None, precision: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """OpenVINO's properties. Raises BackendError for all that it has not."""
    own = options.get("config") or {}
    known = _core().get_property(device, "SUPPORTED_PROPERTIES")
    hint = options.get("performance_hint", "latency")
    problems = [f"{key} is said by {SETTINGS[key]}" for key in own if key in SETTINGS]
    for key in own:
        if key not in known and key not in SETTINGS:
            near = get_close_matches(key, known, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{device} has no property {key}{guess}")
    if hint not in ("latency", "throughput"):
        problems.append(f"performance_hint is 'latency' or 'throughput', not {hint!r}")
    if problems:
        raise BackendError(
            "these options are not OpenVINO's:",
            problems=problems,
            hint=f"The properties of {device} are {', '.join(sorted(known))}.",
        )
    config = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "float32" else "PERFORMANCE",
        "PERFORMANCE_HINT": hint.upper(),
    }
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    if options.get("cache_dir"):
        config["CACHE_DIR"] = str(options["cache_dir"])
    return {**config, **own}


def _unsupported(problems: list[str]) -> UnsupportedError:
    return UnsupportedError(
        "the openvino backend cannot run this model:",
        problems=problems,
        hint="The numpy backend runs it.",
    )


def _refused(graph: Graph, attempt: Callable[[Graph], Any]) -> Iterator[str]:
    """The layers that OpenVINO refuses when it is given each of them alone, and why."""
    nothing = Value("tensor", "", None)
    for layer in graph.layers:
        read = {key for key in names_read(layer) if key}
        inputs = {key: graph.known(key) or nothing for key in read - graph.tensors.keys()}
        outputs = {key: graph.known(key) or nothing for key in layer.outputs if key}
        tensors = {
            key: tensor
            for key, tensor in graph.tensors.items()
            if key in read
            or any(isinstance(a, TensorRef) and a.name == key for a in layer.attrs.values())
        }
        try:
            attempt(Graph([layer], inputs, outputs, tensors, meta={}))
        except RuntimeError as error:
            yield f"layer '{layer.name}' ({layer.op}): {_plain(error)}"


def _plain(error: Exception) -> str:
    """What OpenVINO says, without the lines of its source that it is said from."""
    lines = [line.strip() for line in str(error).splitlines()]
    noise = re.compile(r"(Exception from|Check '.*' failed at|Converting input model$)")
    said = [line for line in lines if line and not noise.match(line)]
    return " ".join(said)[:400] or str(error)[:400]


def _is(port: Any, value: Value) -> bool:
    """Whether a port may be of this type and shape, as far as either is known."""
    if value.dtype not in ("", _dtype(port.element_type)) or value.shape is None:
        return value.dtype in ("", _dtype(port.element_type))
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        return True
    return len(shape) == len(value.shape) and all(
        not isinstance(wanted, int) or size.is_dynamic or size.get_length() == wanted
        for size, wanted in zip(shape, value.shape, strict=True)
    )


def _dtype(element: Any) -> str:
    """The name of one of OpenVINO's element types; "" where numpy and we have no such."""
    word = element.to_string()
    for dtype, other in TYPES.items():
        if word == other:
            return dtype
    try:
        return str(np.dtype(element.to_dtype()).name)
    except RuntimeError:
        return ""


class _Unlocked:
    """A read-only array under the array interface, saying that it may be written to: OpenVINO
    takes no other, and does not write into what it is fed."""

    def __init__(self, array: Array) -> None:
        self.array = array
        pointer = (array.ctypes.data, False)
        self.__array_interface__ = {**array.__array_interface__, "data": pointer}


def _tensor(array: Array) -> Any:
    """The array as OpenVINO's tensor, in the same memory where that is contiguous."""
    ov = _openvino()
    array = np.ascontiguousarray(array).reshape(array.shape)
    dtype = array.dtype.name
    if dtype in TYPES:
        array = array.view(f"uint{BITS[dtype]}")
    if not array.flags.writeable:
        array = np.asarray(_Unlocked(array))
    if dtype in TYPES:
        return ov.Tensor(array, array.shape, getattr(ov.Type, TYPES[dtype]))
    return ov.Tensor(array, shared_memory=True)


def _array(tensor: Any) -> Array:
    """A copy of a tensor that belongs to the request."""
    array: Array = tensor.data
    dtype = _dtype(tensor.element_type)
    if dtype in TYPES:
        array = array.view(f"uint{BITS[dtype]}").view(numpy_dtype(dtype))
    return array.copy()
