"""Files as ONNX Runtime optimizes them: read, run on numpy, and written back.

Small networks leave torch as plain ONNX, and ONNX Runtime saves what it makes of them at each of
its levels; its transformers tools fuse more of the encoder. FUSED says which operators must be in
such a file, so that nobody tests a file that was not optimized.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime import GraphOptimizationLevel as Level

from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import write
from hubtool.interpreter import HOST, Program
from hubtool.meta import infer_shapes
from hubtool.ops import check

nn = torch.nn

LEVELS = {
    "basic": Level.ORT_ENABLE_BASIC,
    "extended": Level.ORT_ENABLE_EXTENDED,
    "all": Level.ORT_ENABLE_ALL,
}
FUSED = {
    "perceptron": {"com.microsoft.BiasGelu", "com.microsoft.QuickGelu", "com.microsoft.FusedGemm"},
    "encoder": {"com.microsoft.FastGelu", "com.microsoft.FusedMatMul", "LayerNormalization"},
    "normed": {"SimplifiedLayerNormalization", "com.microsoft.SkipLayerNormalization"},
    "convolutions": {"com.microsoft.FusedConv"},
}
LAID_OUT = ("convolutions", "all")
BY_TOOLS = {
    "com.microsoft.Attention",
    "com.microsoft.EmbedLayerNormalization",
    "com.microsoft.FastGelu",
    "com.microsoft.SkipLayerNormalization",
}


def fast_gelu(x: torch.Tensor) -> torch.Tensor:
    cubic = x + 0.044715 * torch.pow(x, 3)
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * cubic))


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x = x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
        x = self.b(x)
        x = x * torch.sigmoid(1.702 * x)
        return torch.tanh(self.d(torch.relu(self.c(x))[:, 0]))


class Block(nn.Module):
    """Attention and two layers, each with its residual and its norm, as BERT has them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).permute(0, 2, 1, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (self.split(linear(x)) for linear in (self.q, self.k, self.v))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(width // self.heads) + mask
        seen = torch.matmul(torch.softmax(scores, -1), v).permute(0, 2, 1, 3).contiguous()
        x = self.first(self.o(seen.view(batch, length, width)) + x)
        return self.second(self.narrow(fast_gelu(self.wide(x))) + x)


class Encoder(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30, width), nn.Embedding(12, width)
        self.segments, self.norm = nn.Embedding(2, width), nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(Block(width, 2) for _ in range(2))
        self.pool = nn.Linear(width, width)
        self.register_buffer("counted", torch.arange(12)[None])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor) -> Any:
        places = self.places(self.counted[:, : ids.shape[1]])
        x = self.norm(self.words(ids) + self.segments(segments) + places)
        hidden = (1.0 - mask[:, None, None, :].to(x.dtype)) * -10000.0
        for block in self.blocks:
            x = block(x, hidden)
        return x, torch.tanh(self.pool(x[:, 0]))


class Normed(nn.Module):
    """Norms over the last axis, with and without the mean, behind a residual and alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8) + 0.5)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x / torch.sqrt(torch.pow(x, 2).mean(-1, keepdim=True) + 1e-6) * self.weight
        return self.second(self.norm(self.first(x) + x))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.norm(self.second(x)) + x)
        return nn.functional.max_pool2d(x, 2).mean((2, 3))


NETS = {
    "perceptron": Perceptron,
    "encoder": Encoder,
    "normed": Normed,
    "convolutions": Convolutions,
}
DIMS = {"perceptron": (2, 5, 6), "normed": (2, 5, 8), "convolutions": (2, 3, 8, 8)}
OPSETS = {"perceptron": 14, "encoder": 11, "normed": 14, "convolutions": 13}


def examples(net: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    if net != "encoder":
        return (rng.standard_normal(DIMS[net]).astype(np.float32),)
    mask, segments = np.ones((2, 7), np.int64), np.zeros((2, 7), np.int64)
    mask[1, 4:] = 0
    segments[:, 5:] = 1
    return rng.integers(0, 30, (2, 7)), mask, segments


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Path]:
    """Each network as torch writes it."""
    folder, paths = tmp_path_factory.mktemp("nets"), {}
    for net, make in NETS.items():
        torch.manual_seed(1)
        inputs, paths[net] = examples(net), folder / f"{net}.onnx"
        names = [f"in{i}" for i in range(len(inputs))]
        batch = {0: "batch", 1: "length"} if net == "encoder" else {0: "batch"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would rather export in another way
            torch.onnx.export(
                make().eval(),
                tuple(map(torch.from_numpy, inputs)),
                paths[net],
                dynamo=False,
                opset_version=OPSETS[net],
                input_names=names,
                dynamic_axes=dict.fromkeys(names, batch),
            )
    return paths


def optimized(source: Path, level: str, target: Path) -> Path:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return target


def ops_in(path: Path) -> set[str]:
    nodes = onnx.load(path).graph.node
    return {f"{node.domain}.{node.op_type}".removeprefix(".") for node in nodes}


def in_runtime(path: Path, feeds: dict[str, Any]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_it_reads_runs_and_goes_back(path: Path, feeds: dict[str, Any], back: Path) -> None:
    wanted = in_runtime(path, feeds)
    graph = read(path, isolated=False)
    assert check(graph) == []
    made = list(Program(graph, HOST).run(feeds).values())
    shapes = infer_shapes(graph, {name: (x.dtype.name, x.shape) for name, x in feeds.items()})
    write(graph, back)
    again = in_runtime(back, feeds)
    for name, ours, theirs, written in zip(graph.outputs, made, wanted, again, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(written, theirs, rtol=1e-4, atol=1e-5)
        assert (shapes[name].dtype, shapes[name].shape) == (ours.dtype.name, ours.shape)


def fed(net: str) -> dict[str, np.ndarray]:
    return {f"in{i}": array for i, array in enumerate(examples(net))}


RUNNABLE = [(net, level) for net in NETS for level in LEVELS if (net, level) != LAID_OUT]


@pytest.mark.parametrize(("net", "level"), RUNNABLE)
def test_an_optimized_file_reads_runs_and_goes_back(exported, tmp_path, net, level):
    path = optimized(exported[net], level, tmp_path / "optimized.onnx")
    assert (ops_in(path) >= FUSED[net]) == (level != "basic")
    assert_it_reads_runs_and_goes_back(path, fed(net), tmp_path / "back.onnx")


def test_an_encoder_fused_by_the_transformers_tools_reads_runs_and_goes_back(exported, tmp_path):
    from onnxruntime.transformers.optimizer import optimize_model

    model = optimize_model(
        str(exported["encoder"]), "bert", num_heads=2, hidden_size=16, opt_level=0
    )
    path = tmp_path / "fused.onnx"
    model.save_model_to_file(str(path))
    assert ops_in(path) >= BY_TOOLS
    assert_it_reads_runs_and_goes_back(path, fed("encoder"), tmp_path / "back.onnx")


def test_convolutions_with_channels_last_by_the_tools_are_those_of_the_source(exported, tmp_path):
    from onnxruntime.transformers.fusion_nhwc_conv import FusionNhwcConv
    from onnxruntime.transformers.onnx_model import OnnxModel

    model, feeds = OnnxModel(onnx.load(exported["convolutions"])), fed("convolutions")
    FusionNhwcConv(model, update_weight=True).apply()
    path = tmp_path / "last.onnx"
    model.save_model_to_file(str(path))
    assert "com.microsoft.NhwcConv" in ops_in(path)
    (made,) = Program(read(path, isolated=False), HOST).run(feeds).values()
    (wanted,) = in_runtime(exported["convolutions"], feeds)
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5)


def test_only_the_layout_of_one_machine_is_refused(exported, tmp_path):
    path = optimized(exported[LAID_OUT[0]], LAID_OUT[1], tmp_path / "optimized.onnx")
    is_laid_out = any(op.startswith("com.microsoft.nchwc.") for op in ops_in(path))
    problems: list[str] = []
    try:
        read(path, isolated=False)
    except UnsupportedError as error:
        problems = error.problems
    assert len(problems) == is_laid_out
    assert all("and others of domain 'com.microsoft.nchwc' compute in a" in p for p in problems)


def test_a_layout_of_one_machine_is_told_once_and_with_a_way_out(tmp_path):
    layout, x = "com.microsoft.nchwc", onnx.helper.make_tensor_value_info("x", 1, [1, 8, 4, 4])
    nodes = [
        onnx.helper.make_node("ReorderInput", ["x"], ["a"], "in", domain=layout),
        onnx.helper.make_node("MaxPool", ["a"], ["b"], "pool", domain=layout, kernel_shape=[2, 2]),
        onnx.helper.make_node("ReorderOutput", ["b"], ["y"], "out", domain=layout, channels=8),
    ]
    y = onnx.helper.make_tensor_value_info("y", 1, None)
    graph = onnx.helper.make_graph(nodes, "laid_out", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(layout, 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "laid_out.onnx")
    with pytest.raises(UnsupportedError) as caught:
        read(tmp_path / "laid_out.onnx", isolated=False)
    assert caught.value.problems == [
        "layer 'in' (ReorderInput) and others of domain 'com.microsoft.nchwc' compute in a memory "
        "layout that ONNX Runtime chose for one machine; save the model at its optimization level "
        "'extended' at most, or take the model from before"
    ]
