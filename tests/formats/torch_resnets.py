"""ResNets drawn in torch, small, untrained, and exported with names that say nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hubtool
from hubtool.graph import Graph, Layer


def draw(
    *,
    layer_type: str = "basic",
    last_type: str = "",
    widths: tuple[int, ...] = (8, 12),
    depths: tuple[int, ...] = (1, 2),
    embedding: int = 8,
    channels: int = 3,
    stem: tuple[int, int] = (7, 2),
    first_stride: int = 1,
    stage_stride: int = 2,
    stride_at: int = 0,
    groups: int = 1,
    bias: bool = False,
    act: str = "ReLU",
    inner_act: str = "ReLU",
    excite: bool = False,
    preact: bool = False,
    widen: int = 4,
    surplus: bool = False,
    shortcut: int = 1,
    head: Callable[[Any], list[Any]] | None = None,
) -> Any:
    """A ResNet in eval mode with weights and statistics drawn at random; 5 classes."""
    import torch
    from torch import nn

    class Excite(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(n, n, 1), nn.Sigmoid())

        def forward(self, x: Any) -> Any:
            return x * self.weigh(x)

    class Residual(nn.Module):
        def __init__(self, before: int, after: int, stride: int, kind: str) -> None:
            super().__init__()
            kernels = [3, 3] if kind == "basic" else [1, 3, 1]
            inner = after if kind == "basic" else after // widen
            sizes = [before, *[inner] * (len(kernels) - 1), after]
            units = []
            for i, kernel in enumerate(kernels):
                group = groups if kernel == 3 else 1
                s = stride if i == stride_at else 1
                units += [*unit(sizes[i], sizes[i + 1], kernel, s, group), getattr(nn, inner_act)()]
            self.main = nn.Sequential(*units[: None if preact else -1])
            if excite:
                self.main.append(Excite(after))
            projects = before != after or stride != 1 or surplus
            self.shortcut = nn.Sequential(
                *(unit(before, after, shortcut, stride) if projects else [])
            )
            self.act = nn.Identity() if preact else nonlinear()

        def forward(self, x: Any) -> Any:
            return self.act(self.main(x) + self.shortcut(x))

    def nonlinear() -> Any:
        return getattr(nn, act)()

    def unit(before: int, after: int, kernel: int, stride: int = 1, group: int = 1) -> list[Any]:
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=group, bias=bias)
        return [nn.BatchNorm2d(before), conv] if preact else [conv, nn.BatchNorm2d(after)]

    torch.manual_seed(0)
    layers = [*unit(channels, embedding, *stem), nonlinear(), nn.MaxPool2d(3, 2, 1)]
    before = embedding
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        kind = last_type if last_type and stage == len(widths) - 1 else layer_type
        for block in range(depth):
            stride = 1 if block else stage_stride if stage else first_stride
            layers.append(Residual(before, width, stride, kind))
            before = width
    dense = nn.Linear(before, 5)
    ends = head(dense) if head else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense]
    net = nn.Sequential(*layers, *ends).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for vector in (module.weight, module.running_var):
                nn.init.uniform_(vector, 0.5, 1.5)
            for vector in (module.bias, module.running_mean):
                nn.init.uniform_(vector, -0.5, 0.5)
    return net


def export(net: Any, path: Path, *, channels: int = 3, folded: bool = False) -> Path:
    """The net as an ONNX file, its normalizations kept or folded into the convolutions."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net,
            (torch.zeros(2, channels, 32, 32),),
            str(path),
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N", 2: "H", 3: "W"}, "y": {0: "N"}},
            do_constant_folding=folded,
            training=torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE,
        )
    return path


def drawn(path: Path, *, folded: bool = False, **options: Any) -> Graph:
    """The graph of a net drawn in torch; its ONNX file is `path`."""
    channels = options.get("channels", 3)
    return hubtool.read(export(draw(**options), path, channels=channels, folded=folded))


def layers_of(graph: Graph, op: str) -> list[Layer]:
    return [layer for layer in graph.layers if layer.op == op]
