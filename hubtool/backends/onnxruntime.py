"""ONNX Runtime as a backend, and as the judge of conversions.

As a backend it is given the graph as ONNX in memory, without the weights: those it takes from
where hubtool has mapped them, so nothing is copied or serialized. As a judge (`run_file`) it runs
the original file, untouched by anything of ours.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from hubtool.backends import unknown_device
from hubtool.backends.arrays import host
from hubtool.dtypes import BITS, DTYPES, NUMBERS, numpy_dtype
from hubtool.errors import UnsupportedError
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
    "precisions",
    "prepare",
    "put",
    "run_file",
    "version",
]

name = "onnxruntime"
library = "onnxruntime"
OPTIONS: Mapping[str, str] = {}

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}


def available() -> str | None:
    """None: hubtool depends on it."""
    return None


def version() -> str:
    return package_version("onnxruntime")


def devices() -> list[str]:
    """The devices whose execution providers this build of ONNX Runtime has."""
    built = onnxruntime.get_available_providers()
    return [device for device, provider in PROVIDERS.items() if provider in built]


def dtypes() -> list[str]:
    """What its own kernels take; of the smallest it only knows some operators."""
    return [dtype for dtype in NUMBERS if not dtype.startswith(("float6", "float8_e8", "complex"))]


def precisions(device: str) -> list[str]:
    """float32 is float32."""
    return ["float32"]


def put(array: Any, device: str = "cpu") -> Any:
    """The array as numpy's on the host, as an OrtValue on a GPU."""
    _provider(device)
    kind, _, index = device.partition(":")
    moved = host(array)
    if kind == "cpu":
        return moved
    return onnxruntime.OrtValue.ortvalue_from_numpy(moved, kind, int(index or 0))


class Runner:
    """A session over a graph; `weights` keeps alive what the session only points to."""

    def __init__(
        self, session: onnxruntime.InferenceSession, weights: list[Any], device: str = "cpu"
    ) -> None:
        self.session = session
        self.weights = weights
        self.device = device
        self.outputs = [output.name for output in session.get_outputs()]
        ends = [*session.get_inputs(), *session.get_outputs()]
        self.narrow = any(end.type.startswith(("tensor(bfloat", "tensor(float8")) for end in ends)

    def run(self, feeds: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
        """The outputs by name, in graph order, as numpy arrays; sequences as lists of them."""
        given = {key: _fed(value) for key, value in feeds.items()}
        if not self.narrow:
            return dict(zip(self.outputs, self.session.run(None, given), strict=True))
        values = {key: _ort_value(array) for key, array in given.items()}
        made = self.session.run_with_ort_values(None, values)
        return {key: _taken(value) for key, value in zip(self.outputs, made, strict=True)}


def prepare(
    graph: Graph,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """A session over the graph. Raises UnsupportedError where ONNX Runtime refuses it."""
    provider = _provider(device)
    model, large = to_model(graph)
    session_options = _options(threads)
    for key, tensor in large.items():
        add_external(model, key, tensor, "weights", 0)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(t.aligned) for t in large.values()]
    session_options.add_external_initializers(list(large), values)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), session_options, providers=[provider]
        )
    except Exception as error:
        raise UnsupportedError(
            f"ONNX Runtime cannot run this model: {error}",
            hint="Try another backend: `hubtool backends` lists them.",
        ) from error
    return Runner(session, values, device)


def run_file(path: str | os.PathLike[str], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of an ONNX file, run as it is. Raises whatever ONNX Runtime raises."""
    session = onnxruntime.InferenceSession(
        Path(path), _options(None), providers=["CPUExecutionProvider"]
    )
    return Runner(session, []).run(feeds)


def _fed(value: Any) -> Any:
    if isinstance(value, list):
        return [_fed(item) for item in value]
    return value if value is None or isinstance(value, dict) else np.asarray(value)


def _ort_value(array: np.ndarray[Any, Any]) -> onnxruntime.OrtValue:
    """The array as ONNX Runtime holds it; numpy's small floats by their bits and number."""
    name = array.dtype.name
    if not name.startswith(("bfloat16", "float8")):
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    bits = np.ascontiguousarray(array).view(f"uint{BITS[name]}")
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, NUMBERS[name])


def _taken(value: onnxruntime.OrtValue) -> Any:
    """The array of an output; that of small floats is read from where it lies."""
    name = DTYPES.get(value.element_type(), "") if value.is_tensor() else ""
    if not name.startswith(("bfloat16", "float8")):
        return value.numpy()
    shape = tuple(value.shape())
    size = math.prod(shape) * BITS[name] // 8
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(bytearray(data), numpy_dtype(name)).reshape(shape)


def _options(threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would say to a terminal, its exceptions say too
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _provider(device: str) -> str | tuple[str, dict[str, str]]:
    kind, _, index = device.partition(":")
    if kind not in devices():
        raise unknown_device(name, device, devices())
    return (PROVIDERS[kind], {"device_id": index}) if index else PROVIDERS[kind]
