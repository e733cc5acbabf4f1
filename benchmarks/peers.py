"""The peers of our engine at their best settings, each as a worker's opener.

A function here gets a job and its feeds and returns what is timed: from the caller's arrays on the
host to outputs on the host (`hubtool/bench/worker.py`). What can be done once is done before:
reading, compiling, binding memory, fixing the batch.

    onnxruntime      the ONNX file; "tuned": bound arrays, a fixed batch, denormals as zero, tasks
                     handed out in smaller and smaller blocks; it spins by default
    openvino         the ONNX file, LATENCY, one stream, the batch fixed, shared memory; f32 if told
                     so, else what it does by itself: bf16 where the processor has it
    torch_compiled   torch.compile with freezing
    torch_traced     torch.jit, frozen, with the oneDNN graph
    *_product        {M, K} x {K, N}: the operands lie in the library's own arrays beforehand

torch reads no ONNX: it gets a plain module of our prepared graph, with BatchNormalization folded
and weights channels last. Its threads spin between layers by default, as ONNX Runtime's do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hubtool.bench.worker import Job

__all__ = [
    "jax_product",
    "numpy_product",
    "onnxruntime",
    "openvino",
    "torch_compiled",
    "torch_linear",
    "torch_product",
    "torch_traced",
]

Feeds = dict[str, Any]
Call = Callable[[], dict[str, Any]]

TUNED = {"session.set_denormal_as_zero": "1", "session.dynamic_block_base": "4"}


def onnxruntime(job: Job, feeds: Feeds) -> Call:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if job.threads is not None:
        options.intra_op_num_threads = job.threads
    if not job.options.get("tuned"):
        session = ort.InferenceSession(job.source, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda: dict(zip(names, session.run(None, feeds), strict=True))
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    for key, value in TUNED.items():
        options.add_session_config_entry(key, value)
    options.add_free_dimension_override_by_name("N", len(next(iter(feeds.values()))))
    session = ort.InferenceSession(job.source, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    given = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    for name, value in given.items():
        binding.bind_ortvalue_input(name, value)
    # Where it is to put the output it is shown by a first run.
    names = [output.name for output in session.get_outputs()]
    made = {
        name: ort.OrtValue.ortvalue_from_numpy(array)
        for name, array in zip(names, session.run(None, feeds), strict=True)
    }
    for name, value in made.items():
        binding.bind_ortvalue_output(name, value)

    def run() -> dict[str, Any]:
        session.run_with_iobinding(binding)
        return {name: value.numpy() for name, value in made.items()}

    return run


def openvino(job: Job, feeds: Feeds) -> Call:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(job.source)
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if job.threads is not None:
        config["INFERENCE_NUM_THREADS"] = job.threads
    if job.precision == "fp32":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    request = core.compile_model(model, "CPU", config).create_infer_request()
    tensors = {name: ov.Tensor(array, shared_memory=True) for name, array in feeds.items()}
    for name, tensor in tensors.items():
        request.set_tensor(name, tensor)
    names = [port.any_name for port in request.model_outputs]

    def run() -> dict[str, Any]:
        request.infer({}, share_outputs=True)
        return {
            name: tensor.data for name, tensor in zip(names, request.output_tensors, strict=True)
        }

    return run


def _torch(job: Job) -> Any:
    import torch

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    return torch


def _network(job: Job) -> tuple[Any, str]:
    """A torch module of the prepared graph in the job's folder, and the name of what it makes:
    the operators of a ResNet."""
    import torch
    from torch.nn import functional as F

    from hubtool import passes
    from hubtool.formats import native

    graph = passes.prepare(native.read(Path(job.source)))
    (given,), (made,) = graph.free_inputs, graph.outputs
    module = torch.nn.Module()
    names: dict[str, str] = {}
    for number, (name, tensor) in enumerate(graph.tensors.items()):
        weight = torch.from_numpy(np.array(tensor.array))
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        names[name] = f"weight{number}"
        module.register_parameter(names[name], torch.nn.Parameter(weight, requires_grad=False))

    def forward(data: Any) -> Any:
        values = {given: data.contiguous(memory_format=torch.channels_last)}

        def get(name: Any) -> Any:
            return values[name] if name in values else getattr(module, names[name])

        for layer in graph.layers:
            x = {formal: get(name) for formal, name in layer.inputs.items()}
            a: Any = layer.attrs
            if layer.op in ("Conv", "com.microsoft.FusedConv"):
                pads, steps = a["pads"][:2], a["dilations"]
                y = F.conv2d(x["X"], x["W"], x.get("B"), a["strides"], pads, steps, a["group"])
                y = y + x["Z"] if "Z" in x else y
                y = F.relu(y) if a.get("activation") == "Relu" else y
            elif layer.op == "Relu":
                y = F.relu(x["X"])
            elif layer.op == "MaxPool":
                y = F.max_pool2d(x["X"], a["kernel_shape"], a["strides"], a["pads"][:2])
            elif layer.op == "GlobalAveragePool":
                y = F.adaptive_avg_pool2d(x["X"], 1)
            elif layer.op == "Flatten":
                y = x["input"].flatten(1)
            elif layer.op == "Gemm" and a["transB"]:
                y = F.linear(x["A"], x["B"], x["C"])
            else:
                raise NotImplementedError(str(layer))
            values[layer.outputs[0]] = y
        return values[made]

    module.forward = forward
    return module.eval(), made


def torch_compiled(job: Job, feeds: Feeds) -> Call:
    torch = _torch(job)
    from torch._inductor import config

    config.freezing = True
    module, made = _network(job)
    return _called(torch, torch.compile(module), made, feeds)


def torch_traced(job: Job, feeds: Feeds) -> Call:
    torch = _torch(job)
    module, made = _network(job)
    torch.jit.enable_onednn_fusion(True)
    with torch.no_grad():
        (x,) = (torch.from_numpy(array) for array in feeds.values())
        traced = torch.jit.freeze(torch.jit.trace(module, x))
        for _ in range(2):  # it is compiled for the shapes that it sees first
            traced(x)
    return _called(torch, traced, made, feeds)


def _called(torch: Any, module: Any, made: str, feeds: Feeds) -> Call:
    (x,) = (torch.from_numpy(array) for array in feeds.values())

    def run() -> dict[str, Any]:
        with torch.no_grad():
            return {made: module(x).numpy()}

    return run


def numpy_product(job: Job, feeds: Feeds) -> Call:
    return lambda: {"Y": feeds["A"] @ feeds["B"]}


def torch_product(job: Job, feeds: Feeds) -> Call:
    torch = _torch(job)
    A, B = (torch.from_numpy(feeds[name]) for name in "AB")
    return lambda: {"Y": (A @ B).numpy()}


def torch_linear(job: Job, feeds: Feeds) -> Call:
    """As a layer has it, with B transposed beforehand."""
    torch = _torch(job)
    A, B = torch.from_numpy(feeds["A"]), torch.from_numpy(feeds["B"]).T.contiguous()
    return lambda: {"Y": torch.nn.functional.linear(A, B).numpy()}


def jax_product(job: Job, feeds: Feeds) -> Call:
    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda A, B: jnp.matmul(A, B, precision="highest"))
    A, B = (jax.device_put(feeds[name]) for name in "AB")
    return lambda: {"Y": np.asarray(product(A, B))}
