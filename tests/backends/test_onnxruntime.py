"""ONNX Runtime: devices are providers, options are passed on, and nothing falls back silently.

There is no GPU here. What a session is given for one is looked at through a stand-in that records
it; how results stay on a device is run on the CPU, under a device that is made of its provider.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from passes.builders import layer, residual_net

import hubtool
from hubtool.backends import prepare
from hubtool.errors import BackendError, RunError, UnsupportedError
from hubtool.graph import Graph, Tensor, Value

from .grids import assert_close, defined, draw

backend = importlib.import_module("hubtool.backends.onnxruntime")

FEEDS = {"data": draw(2, 4, 6, 6)}
CPU = "CPUExecutionProvider"


class Recorder:
    """An InferenceSession that keeps what it was given, and says what it is told to say."""

    def __init__(self) -> None:
        self.loaded: list[str] | None = None  # None: all that was asked for
        self.parts: list[SimpleNamespace] = []
        self.options = onnxruntime.SessionOptions()
        self.providers: list[tuple[str, dict[str, str]]] = []
        self.kwargs: dict[str, object] = {}

    def __call__(self, model, options, providers, **kwargs):
        self.options, self.providers, self.kwargs = options, providers, kwargs
        return self

    def get_providers(self):
        asked = [name for name, _ in self.providers]
        return [*(asked if self.loaded is None else self.loaded), CPU]

    def get_provider_graph_assignment_info(self):
        return self.parts

    def get_inputs(self):
        return []

    def get_outputs(self):
        return [SimpleNamespace(name="y", type="tensor(float)")]


@pytest.fixture
def recorder(monkeypatch):
    """A build of ONNX Runtime that has all providers, and whose sessions are recorded."""
    made = Recorder()
    built = [provider.name for provider in backend.PROVIDERS.values()]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built)
    monkeypatch.setattr(onnxruntime, "InferenceSession", made)
    return made


@pytest.fixture
def gpu(monkeypatch):
    """A device "cuda" that is the CPU's provider with the CPU's memory."""
    provider = replace(
        backend.PROVIDERS["cuda"], name=CPU, precisions={"float32": {}}, memory="cpu"
    )
    monkeypatch.setitem(backend.PROVIDERS, "cuda", provider)
    given = onnxruntime.InferenceSession

    def session(model, options, providers, **kwargs):
        return given(model, options, providers=[CPU], **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)


def test_devices_are_the_providers_of_this_build(monkeypatch):
    assert backend.devices() == ["cpu"]
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU, "Another"]
    )
    assert backend.devices() == ["cpu", "cuda"]


@pytest.mark.parametrize("device", ["cuda", "cpu:1", "cuda:first", "toaster"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(BackendError, match=rf"no device '{device}' here\nDevices: cpu\."):
        backend.prepare(residual_net(), device)


@pytest.mark.parametrize(
    ("device", "precision", "wanted"),
    [
        ("cuda", None, [("CUDAExecutionProvider", {"use_tf32": "0", "device_id": "0"})]),
        ("cuda:1", "tf32", [("CUDAExecutionProvider", {"use_tf32": "1", "device_id": "1"})]),
        (
            "tensorrt:1",
            "fp16",
            [
                ("TensorrtExecutionProvider", {"trt_fp16_enable": "1", "device_id": "1"}),
                ("CUDAExecutionProvider", {"use_tf32": "1", "device_id": "1"}),
            ],
        ),
        (
            "migraphx",
            "fp16",
            [("MIGraphXExecutionProvider", {"migraphx_fp16_enable": "1", "device_id": "0"})],
        ),
        ("openvino", None, [("OpenVINOExecutionProvider", {"precision": "FP32"})]),
        ("xnnpack", None, [("XnnpackExecutionProvider", {})]),
    ],
)
def test_a_session_is_given_the_provider_and_its_precision(recorder, device, precision, wanted):
    runner = prepare("onnxruntime", residual_net(), device=device, precision=precision)
    assert recorder.providers == wanted
    assert recorder.kwargs == {"enable_fallback": 0}
    gpus = {"cuda": "cuda:0", "cuda:1": "cuda:1", "tensorrt:1": "cuda:1"}
    assert runner.device == gpus.get(device, device)


def test_strict_float32_is_not_claimed_where_it_cannot_be_had(recorder, monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with pytest.raises(BackendError, match="no precision 'float32' on tensorrt\nIt has tf32, "):
        prepare("onnxruntime", residual_net(), device="tensorrt")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    prepare("onnxruntime", residual_net(), device="tensorrt")
    assert recorder.providers[1] == ("CUDAExecutionProvider", {"use_tf32": "0", "device_id": "0"})
    assert backend.precisions("cpu") == ["float32"]


def test_a_provider_that_is_not_loaded_is_an_error_that_says_why(recorder, monkeypatch, tmp_path):
    recorder.loaded = []
    (tmp_path / "capi").mkdir()
    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    library.write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(BackendError) as caught:
        backend.prepare(residual_net(), "cuda")
    said = str(caught.value)
    assert "could not load CUDAExecutionProvider, and would run the model on" in said
    assert f"{library}: " in said
    assert "device='cpu'" in said


def test_layers_that_a_device_leaves_to_the_cpu_are_refused_by_name(recorder):
    graph = residual_net()
    first, second = graph.layers[0], graph.layers[1]
    second.outputs, graph.values["n"] = ["n"], Value("tensor", "int64", (4,))
    nodes = [SimpleNamespace(name=each.name, op_type=each.op) for each in (first, second)]
    recorder.parts = [SimpleNamespace(ep_name=CPU, get_nodes=lambda: nodes)]
    with pytest.raises(UnsupportedError) as caught:
        backend.prepare(graph, "cuda")
    assert caught.value.problems == [f"layer '{first.name}' ({first.op}) would run on the CPU"]
    assert "host_layers=True" in str(caught.value)
    backend.prepare(graph, "cuda", options={"host_layers": True})
    recorder.parts = [SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=lambda: nodes)]
    backend.prepare(graph, "cuda")


def test_what_a_real_session_says_of_its_layers_can_be_read():
    graph = residual_net()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(backend.ASSIGNMENT, "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model, _ = backend.to_model(graph)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    left = backend._left_to_the_host(session, graph)
    named = [f"layer '{each.name}' ({each.op}) would run on the CPU" for each in graph.layers]
    assert sorted(left) == sorted(named)


def test_options_reach_the_session(recorder):
    options = {
        "graph_optimization_level": "basic",
        "execution_mode": "parallel",
        "inter_op_threads": 3,
        "session_config": {"session.set_denormal_as_zero": 1},
        "provider_options": {"gpu_mem_limit": 1 << 30},
    }
    prepare("onnxruntime", residual_net(), device="cuda", threads=2, options=options)
    made = recorder.options
    assert made.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert made.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (made.intra_op_num_threads, made.inter_op_num_threads) == (2, 3)
    assert made.get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert recorder.providers[0][1]["gpu_mem_limit"] == str(1 << 30)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimise": 1}, "no option 'optimise'\nIts options are: graph_optimization_level: "),
        ({"graph_optimization_level": "most"}, "is one of disable, basic, extended, layout, all"),
        ({"execution_mode": 1}, "execution_mode is one of sequential, parallel, not 1"),
        ({"session_config": "x=1"}, "session_config is a dict, not 'x=1'"),
        ({"provider_options": {"arena": 1}}, "CPU provider has no option 'arena'"),
    ],
)
def test_an_option_that_is_none_is_refused(options, said):
    with pytest.raises(BackendError, match=said):
        prepare("onnxruntime", residual_net(), options=options)


def test_a_provider_option_that_is_said_otherwise_is_refused(recorder):
    options = {"provider_options": {"use_tf32": 1}}
    with pytest.raises(BackendError, match=r"'use_tf32' follows from .*\nSay device= and prec"):
        backend.prepare(residual_net(), "cuda", options=options)


@pytest.mark.parametrize("level", ["disable", "basic", "extended", "layout", "all"])
def test_every_level_computes_the_same(level):
    graph = residual_net()
    runner = backend.prepare(graph, options={"graph_optimization_level": level})
    assert_close(runner.run(FEEDS), defined(graph, FEEDS), 1e-5)


@pytest.mark.usefixtures("gpu")
def test_what_is_kept_stays_and_is_taken_as_it_is():
    """A device made of the CPU: results are OrtValues, and the next run reads their memory."""
    graph = Graph(
        layers=[layer("Relu", {"X": "x"}, "y")],
        inputs={"x": Value("tensor", "float32", ("n", 3))},
        outputs={"y": Value("tensor", "float32", ("n", 3))},
    )
    assert backend.devices() == ["cpu", "cuda"]
    runner = backend.prepare(graph, "cuda", options={"host_layers": True})
    x = draw(2, 3)
    first = runner.run({"x": x}, keep=True)["y"]
    assert isinstance(first, onnxruntime.OrtValue)
    second = runner.run({"x": first}, keep=True)["y"]
    assert isinstance(second, onnxruntime.OrtValue)
    np.testing.assert_array_equal(second.numpy(), np.maximum(x, 0))
    assert isinstance(runner.run({"x": first})["y"], np.ndarray)
    assert backend.put(first, "cpu").ctypes.data == first.data_ptr()


def test_a_tensor_of_another_library_is_taken_without_a_copy():
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    value = onnxruntime.OrtValue.from_dlpack(tensor)
    assert value.data_ptr() == tensor.data_ptr()
    graph = Graph(
        layers=[layer("Relu", {"X": "x"}, "y")],
        inputs={"x": Value("tensor", "float32", (2, 3))},
        outputs={"y": Value("tensor", "float32", (2, 3))},
    )
    model = hubtool.load(graph, backend="onnxruntime")
    np.testing.assert_array_equal(model(value), tensor.numpy())
    with pytest.raises(hubtool.InputError, match=r"'x' is float32\[1,2,3\]"):
        model(onnxruntime.OrtValue.from_dlpack(tensor[None]))


def test_results_cannot_stay_where_a_provider_has_no_memory(recorder):
    runner = backend.prepare(residual_net(), "xnnpack")
    with pytest.raises(BackendError, match="stay on xnnpack"):
        runner.run(FEEDS, keep=True)
    with pytest.raises(BackendError, match="xnnpack takes arrays from the host"):
        backend.put(draw(2), "xnnpack")


def test_a_run_that_fails_is_a_run_error_with_the_layer():
    graph = Graph(
        layers=[layer("Reshape", {"data": "x", "shape": "s"}, "y")],
        inputs={"x": Value("tensor", "float32", ("n",))},
        outputs={"y": Value("tensor", "float32", (2, 3))},
        tensors={"s": Tensor.of(np.array([2, 3]))},
    )
    runner = backend.prepare(graph)
    with pytest.raises(RunError, match=f"ONNX Runtime failed: .*{graph.layers[0].name}"):
        runner.run({"x": draw(5)})
