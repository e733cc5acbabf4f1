"""ONNX Runtime as a backend, and as the judge of conversions.

As a backend it is given the graph as ONNX in memory, without the weights: those it takes from
where hubtool has mapped them, so nothing is copied or serialized. A device names the execution
provider that is to run the model. ONNX Runtime by itself goes to the CPU where a provider cannot
be loaded, where it lacks a layer, and where a run fails; here each of the three is an error. As a
judge (`run_file`) it runs the original file, untouched by anything of ours.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from hubtool.backends import unknown_device
from hubtool.backends.arrays import device_of, host
from hubtool.dtypes import BITS, DTYPES, NUMBERS, numpy_dtype
from hubtool.errors import BackendError, RunError, UnsupportedError
from hubtool.formats.onnx.write import add_external, to_model
from hubtool.graph import Graph

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
    "run_file",
    "version",
]

name = "onnxruntime"
library = "onnxruntime"
OPTIONS: Mapping[str, str] = {
    "graph_optimization_level": "'disable', 'basic', 'extended', 'layout' or 'all' (the default)",
    "execution_mode": "'sequential' (the default) or 'parallel': layers side by side",
    "inter_op_threads": "the threads that run layers side by side, where execution_mode says so",
    "session_config": "a dict of ONNX Runtime's session configuration entries, as they are",
    "provider_options": "a dict of the execution provider's own options, as they are",
    "host_layers": "True lets layers that the device's provider has not run on the CPU",
}


@dataclass(frozen=True)
class Provider:
    """An execution provider: its name, the options that make each precision that it has, and the
    name of its memory, where arrays may stay in it."""

    name: str
    precisions: Mapping[str, Mapping[str, str]]
    memory: str = ""
    indexed: bool = False


STRICT: Mapping[str, Mapping[str, str]] = {"float32": {}}
PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", STRICT),
    "cuda": Provider(
        "CUDAExecutionProvider",
        {"float32": {"use_tf32": "0"}, "tf32": {"use_tf32": "1"}},
        memory="cuda",
        indexed=True,
    ),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        {"tf32": {}, "float16": {"trt_fp16_enable": "1"}, "bfloat16": {"trt_bf16_enable": "1"}},
        memory="cuda",
        indexed=True,
    ),
    "migraphx": Provider(
        "MIGraphXExecutionProvider",
        {"float32": {}, "float16": {"migraphx_fp16_enable": "1"}},
        indexed=True,
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        {"float32": {"precision": "FP32"}, "float16": {"precision": "FP16"}},
    ),
    "directml": Provider("DmlExecutionProvider", STRICT, indexed=True),
    "coreml": Provider("CoreMLExecutionProvider", {"float32": {"ModelFormat": "MLProgram"}}),
    "qnn": Provider("QNNExecutionProvider", {"float16": {"enable_htp_fp16_precision": "1"}}),
    "webgpu": Provider("WebGpuExecutionProvider", STRICT),
    "xnnpack": Provider("XnnpackExecutionProvider", STRICT),
}
"""Device -> its provider; the strict precision first. TensorRT computes float32 in TF32 unless the
environment forbids it (`precisions`); it leaves what it has not to CUDA, on the same device."""

CHOICES: Mapping[str, Mapping[str, Any]] = {
    "graph_optimization_level": {
        key: getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{word}")
        for key, word in {
            "disable": "DISABLE_ALL",
            "basic": "ENABLE_BASIC",
            "extended": "ENABLE_EXTENDED",
            "layout": "ENABLE_LAYOUT",
            "all": "ENABLE_ALL",
        }.items()
    },
    "execution_mode": {
        "sequential": onnxruntime.ExecutionMode.ORT_SEQUENTIAL,
        "parallel": onnxruntime.ExecutionMode.ORT_PARALLEL,
    },
}

ASSIGNMENT = "session.record_ep_graph_assignment_info"


def available() -> str | None:
    """None: hubtool depends on it."""
    return None


def version() -> str:
    return package_version("onnxruntime")


def devices() -> list[str]:
    """The devices whose execution providers this build of ONNX Runtime has."""
    built = onnxruntime.get_available_providers()
    return [device for device, provider in PROVIDERS.items() if provider.name in built]


def dtypes() -> list[str]:
    """What its own kernels take; of the smallest it only knows some operators."""
    return [dtype for dtype in NUMBERS if not dtype.startswith(("float6", "float8_e8", "complex"))]


def precisions(device: str) -> list[str]:
    """What the device's provider can be told. TensorRT has no option against TF32; where
    NVIDIA_TF32_OVERRIDE=0 is in the environment, its float32 is strict."""
    kind, _ = _device(device)
    known = [*PROVIDERS[kind].precisions]
    if kind == "tensorrt" and os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return ["float32", *known[1:]]
    return known


def put(array: Any, device: str = "cpu") -> Any:
    """The array as numpy's on the host; on a GPU as an OrtValue, the same memory where it is there
    already. BackendError where the device has no memory that arrays can stay in."""
    kind, index = _device(device)
    memory = PROVIDERS[kind].memory
    if kind == "cpu":
        return host(array)
    if not memory:
        raise BackendError(
            f"ONNX Runtime's {kind} takes arrays from the host, and holds none of its own",
            hint="Feed the model numpy arrays; hubtool.transfer(array, 'numpy') makes one.",
        )
    if device_of(array) == f"{memory}:{index}":
        if isinstance(array, onnxruntime.OrtValue):
            return array
        return onnxruntime.OrtValue.from_dlpack(_settled(array))
    return _ort_value(host(array), memory, index)


class Runner:
    """A session over a graph; `weights` keeps alive what the session only points to.

    `device` is the provider's, and for those that compute in a GPU's memory that GPU: "cuda:0".
    """

    notes: Sequence[str] = ()

    def __init__(
        self, session: onnxruntime.InferenceSession, weights: list[Any], device: str = "cpu"
    ) -> None:
        kind, index = _device(device)
        memory = PROVIDERS[kind].memory
        self.session = session
        self.weights = weights
        self.memory = (memory, index)
        self.device = f"{memory}:{index}" if memory else device
        self.outputs = [output.name for output in session.get_outputs()]
        ends = [*session.get_inputs(), *session.get_outputs()]
        self.narrow = any(end.type.startswith(("tensor(bfloat", "tensor(float8")) for end in ends)
        self.kept = {
            output.name
            for output in session.get_outputs()
            if memory and output.type.startswith("tensor(") and "string" not in output.type
        }

    def run(self, feeds: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
        """The outputs by name, in graph order, as numpy arrays; sequences as lists of them. With
        `keep`, those on a GPU as OrtValues there. Raises RunError where ONNX Runtime fails."""
        if keep and not self.kept and self.device != "cpu":
            raise BackendError(
                f"no results of this model stay on {self.device}: they come to the host",
                hint="Leave returns='device' out.",
            )
        there = any(isinstance(value, onnxruntime.OrtValue) for value in feeds.values())
        try:
            return self.bound(feeds, keep) if self.kept and (keep or there) else self.fed(feeds)
        except Exception as error:
            raise RunError(
                f"ONNX Runtime failed: {error}",
                hint="The numpy backend says which layer it is, and with which shapes.",
            ) from error

    def fed(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs for feeds that go from the host to where they are needed."""
        given = {key: _fed(value) for key, value in feeds.items()}
        if not self.narrow:
            return dict(zip(self.outputs, self.session.run(None, given), strict=True))
        values = {key: _ort_value(array) for key, array in given.items()}
        made = self.session.run_with_ort_values(None, values)
        return {key: _taken(value) for key, value in zip(self.outputs, made, strict=True)}

    def bound(self, feeds: Mapping[str, Any], keep: bool) -> dict[str, Any]:
        """The outputs for feeds that are bound where they lie."""
        binding = self.session.io_binding()
        memory, index = self.memory
        for key, value in feeds.items():
            if isinstance(value, onnxruntime.OrtValue):
                binding.bind_ortvalue_input(key, value)
            else:
                binding.bind_ortvalue_input(key, _ort_value(np.asarray(value), memory, index))
        for key in self.outputs:
            at = self.memory if keep and key in self.kept else ("cpu", 0)
            binding.bind_output(key, *at)
        self.session.run_with_iobinding(binding)
        made = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        return {
            key: value if keep and key in self.kept else _taken(value)
            for key, value in made.items()
        }


def prepare(
    graph: Graph,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """A session over the graph on a device.

    Raises BackendError for what this build has not or cannot load, UnsupportedError where ONNX
    Runtime refuses the graph, or the device would leave layers of it to the CPU.
    """
    kind, index = _device(device)
    own = dict(options or {})
    session_options = _options(threads, own)
    providers = _providers(kind, index, precision, own)
    model, large = to_model(graph)
    for key, tensor in large.items():
        add_external(model, key, tensor, "weights", 0)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(t.aligned) for t in large.values()]
    session_options.add_external_initializers(list(large), values)
    if kind != "cpu":
        session_options.add_session_config_entry(ASSIGNMENT, "1")
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), session_options, providers=providers, enable_fallback=0
        )
    except Exception as error:
        raise UnsupportedError(
            f"ONNX Runtime cannot run this model on {device}: {error}",
            hint="Try another backend: `hubtool backends` lists them.",
        ) from error
    _check(session, kind, own, graph)
    return Runner(session, values, device)


def run_file(path: str | os.PathLike[str], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of an ONNX file, run as it is. Raises whatever ONNX Runtime raises."""
    return open_file(path)(feeds)


def open_file(
    path: str | os.PathLike[str], threads: int | None = None, precision: str = "float32"
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """An ONNX file as ONNX Runtime itself opens it, on the CPU: feeds in, outputs by name out.
    Raises whatever ONNX Runtime raises."""
    if precision not in PROVIDERS["cpu"].precisions:
        raise BackendError(f"ONNX Runtime has no precision '{precision}' on the cpu")
    session = onnxruntime.InferenceSession(
        Path(path), _options(threads, {}), providers=["CPUExecutionProvider"]
    )
    return Runner(session, []).fed


def _device(device: str) -> tuple[str, int]:
    """A device's kind and number. Raises BackendError where this build has none of it."""
    kind, _, index = device.partition(":")
    known = devices()
    if kind not in known or (index and not (PROVIDERS[kind].indexed and index.isdigit())):
        raise unknown_device(name, device, known)
    return kind, int(index or 0)


def _options(threads: int | None, own: Mapping[str, Any]) -> onnxruntime.SessionOptions:
    """The session's options. Raises BackendError for values that ONNX Runtime has not."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would say to a terminal, its exceptions say too
    problems = []
    for key, choices in CHOICES.items():
        if key in own and own[key] not in choices:
            problems.append(f"{key} is one of {', '.join(choices)}, not {own[key]!r}")
        elif key in own:
            setattr(options, key, choices[own[key]])
    for key in ("session_config", "provider_options"):
        if not isinstance(own.get(key, {}), Mapping):
            problems.append(f"{key} is a dict, not {own[key]!r}")
    if problems:
        raise BackendError(
            "these options are not ONNX Runtime's:",
            problems=problems,
            hint="`hubtool backends --json` tells what there is.",
        )
    if threads is not None:
        options.intra_op_num_threads = threads
    if "inter_op_threads" in own:
        options.inter_op_num_threads = own["inter_op_threads"]
    for key, value in own.get("session_config", {}).items():
        options.add_session_config_entry(key, str(value))
    return options


def _providers(
    kind: str, index: int, precision: str, own: Mapping[str, Any]
) -> list[tuple[str, dict[str, str]]]:
    """The providers that may run layers, the CPU's apart, each with its options."""
    provider = PROVIDERS[kind]
    chosen = {key: str(value) for key, value in own.get("provider_options", {}).items()}
    if chosen and kind == "cpu":
        raise BackendError(
            f"ONNX Runtime's CPU provider has no option '{', '.join(chosen)}'",
            hint="What is said to the session goes into session_config.",
        )
    fixed = dict(provider.precisions.get(precision, {}))
    if provider.indexed:
        fixed["device_id"] = str(index)
    said = sorted(fixed.keys() & chosen.keys())
    if said:
        raise BackendError(
            f"the provider option '{', '.join(said)}' follows from the device and the precision",
            hint="Say device= and precision= instead.",
        )
    providers = [(provider.name, {**fixed, **chosen})]
    if kind == "tensorrt":
        cuda = PROVIDERS["cuda"]
        how = cuda.precisions["float32" if precision == "float32" else "tf32"]
        providers.append((cuda.name, {**how, "device_id": str(index)}))
    return providers


def _check(
    session: onnxruntime.InferenceSession, kind: str, own: Mapping[str, Any], graph: Graph
) -> None:
    """Whether the provider that was asked for is the one that runs the model, and all of it."""
    wanted = PROVIDERS[kind].name
    if wanted not in session.get_providers():
        raise BackendError(
            f"ONNX Runtime could not load {wanted}, and would run the model on"
            f" {', '.join(session.get_providers())}",
            problems=_why_not_loaded(kind),
            hint="Install what is missing; device='cpu' runs the model on the CPU.",
        )
    if kind == "cpu" or own.get("host_layers"):
        return
    left = _left_to_the_host(session, graph)
    if left:
        raise UnsupportedError(
            f"ONNX Runtime's {kind} has not every layer of this model:",
            problems=left,
            hint="The option host_layers=True lets the CPU run these.",
        )


def _left_to_the_host(session: onnxruntime.InferenceSession, graph: Graph) -> list[str]:
    """The layers that the CPU is to run, but for those that make integers or booleans only: ONNX
    Runtime computes shapes on the CPU because that is faster."""
    whole = {
        layer.name
        for layer in graph.layers
        if all(
            (value := graph.known(output)) and value.dtype.startswith(("int", "uint", "bool"))
            for output in layer.outputs
            if output
        )
    }
    return [
        f"layer '{node.name}' ({node.op_type}) would run on the CPU"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == PROVIDERS["cpu"].name
        for node in part.get_nodes()
        if node.name not in whole
    ]


def _why_not_loaded(kind: str) -> list[str]:
    """What the system's loader says of a provider's library."""
    folder = Path(onnxruntime.__file__).with_name("capi")
    problems = []
    for path in sorted(folder.glob(f"*onnxruntime_providers_{kind}.*")):
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            problems.append(str(error))
    return problems


def _settled(array: Any) -> Any:
    """An array on a GPU whose values are there: ONNX Runtime computes in a queue of its own, which
    does not wait for that of another library."""
    if hasattr(array, "block_until_ready"):  # jax
        return array.block_until_ready()
    if hasattr(array, "is_cuda"):  # torch
        sys.modules["torch"].cuda.current_stream(array.device).synchronize()
        return array.detach().contiguous()
    if hasattr(getattr(array, "device", None), "synchronize"):  # cupy
        array.device.synchronize()
    return array


def _fed(value: Any) -> Any:
    if isinstance(value, onnxruntime.OrtValue):
        return _taken(value)
    if isinstance(value, list):
        return [_fed(item) for item in value]
    return value if value is None or isinstance(value, dict) else np.asarray(value)


def _ort_value(
    array: np.ndarray[Any, Any], memory: str = "cpu", index: int = 0
) -> onnxruntime.OrtValue:
    """The array as ONNX Runtime holds it; numpy's small floats by their bits and number."""
    name = array.dtype.name
    if not name.startswith(("bfloat16", "float8")):
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, memory, index)
    bits = np.ascontiguousarray(array).view(f"uint{BITS[name]}")
    here = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, NUMBERS[name])
    if memory == "cpu":
        return here
    there = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
        array.shape, NUMBERS[name], memory, index
    )
    onnxruntime.copy_tensors([here], [there])
    return there


def _taken(value: onnxruntime.OrtValue) -> Any:
    """The array of an output; that of small floats is read from where it lies."""
    name = DTYPES.get(value.element_type(), "") if value.is_tensor() else ""
    if not name.startswith(("bfloat16", "float8")):
        return value.numpy()
    shape = tuple(value.shape())
    size = math.prod(shape) * BITS[name] // 8
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(bytearray(data), numpy_dtype(name)).reshape(shape)
