"""A graph as a `torch.nn.Module`, to be trained: `Model.module()`.

The same interpreter runs it layer by layer, unfused and with gradients, so every layer and every
weight is still there under its own name when the graph is saved again. What is learned are the
floating-point weights that layers compute with; running statistics, bounds, scales and shapes are
buffers. `train()` and `eval()` mean what they mean in torch: in training a BatchNormalization
takes the statistics of the batch and moves its running ones, and a Dropout drops.

A layer that computes on the host has no gradient. Where one would be wanted the run says so,
rather than train as if it were zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from hubtool.backends.torch import TorchSpace
from hubtool.backends.torch_functions import OVERRIDES
from hubtool.dtypes import is_float
from hubtool.errors import InputError, RunError
from hubtool.graph import Graph, Tensor
from hubtool.interpreter import Both, Program
from hubtool.ops import lookup

__all__ = ["Module"]

FIXED = {
    "BatchNormalization": {"input_mean", "input_var"},
    "Clip": {"min", "max"},
    "Pad": {"constant_value"},
    "QuantizeLinear": {"y_scale", "y_zero_point"},
    "DequantizeLinear": {"x_scale", "x_zero_point"},
    "Pow": {"Y"},
    "Range": {"start", "limit", "delta"},
    "MelWeightMatrix": {"*"},
    "STFT": {"window"},
}
"""By operator, the inputs that are no weights though they are floats."""


KEPT = {"labels", "preprocessing", "licence"}
"""What stays true of a model that is trained on."""
BASE = {"name", "source", "zoo", "untrained", "training"}
"""What is told of the model that it was before."""


class TrainingSpace(TorchSpace):
    """torch with gradients. training and still are set for every run: `still` are the running
    statistics (by id) that must stay as they are."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.training = False
        self.still: set[int] = set()
        self.overrides = {
            **OVERRIDES,
            "BatchNormalization": _batch_normalization,
            "Dropout": _dropout,
        }

    def get(self, value: Any) -> np.ndarray[Any, Any]:
        if isinstance(value, torch.Tensor) and value.requires_grad:
            raise RunError(
                "this layer computes on the host, and no gradient passes through it",
                hint="Cut the graph behind it (hubtool.features), or freeze what comes before it.",
            )
        return super().get(value)


def _batch_normalization(
    ctx: Any,
    X: Any,
    scale: Any,
    B: Any,
    input_mean: Any,
    input_var: Any,
    *,
    epsilon: float = 1e-05,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Any:
    """torch's own, whose running variance is the unbiased one; ONNX's momentum is what stays."""
    space = ctx.space
    learns = bool(training_mode) or (space.training and id(input_mean) not in space.still)
    Y = F.batch_norm(
        X, input_mean, input_var, scale, B, training=learns, momentum=1 - momentum, eps=epsilon
    )
    return (Y, input_mean, input_var) if training_mode else Y


def _dropout(
    ctx: Any, data: Any, ratio: Any = None, training_mode: Any = None, *, seed: int | None = None
) -> Any:
    """torch's own, drawn by torch's generator."""
    known = lookup("Dropout")
    assert known is not None
    if not ctx.space.training or any(ctx.wanted[1:]):
        return known.function(ctx, data, ratio, training_mode, seed=seed)
    return F.dropout(data, 0.5 if ratio is None else float(ratio), training=True), None


class Module(nn.Module):
    """A graph with parameters named as in its folder: tensors in, a tensor out (a dict of them by
    name where the graph has several outputs).

    `fixed` are the names that were frozen. One call at a time: not to be shared by threads.
    Raises UnsupportedError for what hubtool cannot run.

    Example: `module = hubtool.load("resnet34").module()`
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._held = _Held(graph)
        self.fixed: set[str] = set()
        learned = _learned(graph)
        for name, value in self._held.program.weights.items():
            tensor = value.device if isinstance(value, Both) else value
            if not isinstance(tensor, torch.Tensor):
                continue  # numpy: shapes and texts, which stay on the host
            *path, last = name.split(".")
            owner = _below(self, path)
            if name in learned:
                owner._parameters[last] = nn.Parameter(tensor.detach().clone())
            else:
                owner._buffers[last] = tensor.detach().clone()
                if isinstance(value, Both):
                    owner._non_persistent_buffers_set.add(last)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run it; inputs in the graph's order, or by name. Raises InputError, RunError."""
        graph, program = self._held.graph, self._held.program
        given = {**dict(zip(graph.inputs, inputs, strict=False)), **named}
        strange = [name for name in given if name not in graph.inputs]
        lacking = [name for name in graph.free_inputs if name not in given]
        if strange or lacking or len(inputs) > len(graph.inputs):
            raise InputError(
                f"{len(inputs) + len(named)} inputs were given",
                problems=[f"'{name}' is missing" for name in lacking]
                + [f"'{name}' is no input" for name in strange],
                hint=f"The inputs are {', '.join(graph.free_inputs)}.",
            )
        state = self._state()
        space = self._held.space
        self._held.move(next(iter(state.values())).device if state else torch.device("cpu"))
        space.training = self.training
        space.still = {id(state[name]) for name in self.fixed}
        weights = program.weights
        program.weights = {
            name: Both(value.host, state[name])
            if isinstance(value, Both)
            else state.get(name, value)
            for name, value in weights.items()
        }
        try:
            feeds = {
                name: space.put(value) if isinstance(value, np.ndarray) else value
                for name, value in given.items()
            }
            outputs = program.run(feeds)
        finally:
            program.weights = weights
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def freeze(self, *patterns: str) -> list[str]:
        """Let the weights that these patterns name ("stage1_*", "*") stay as they are, running
        statistics among them; their names. Raises InputError for a pattern that fits nothing."""
        return self._set(patterns, frozen=True)

    def unfreeze(self, *patterns: str) -> list[str]:
        """Let the weights that these patterns name be trained again; their names."""
        return self._set(patterns, frozen=False)

    def graph(self, name: str | None = None, **training: Any) -> Graph:
        """The graph with the weights as they are now, to be saved, exported, run anywhere.

        name: of the new model. training: what its card shall tell of how it was made: data="…",
        epochs=3, accuracy=0.97; texts and numbers. Where it came from is told by itself.
        """
        before = self._held.graph
        graph = before.copy()
        for key, tensor in self._state().items():
            old = before.tensors[key]
            new = self._held.space.get(tensor.detach()).astype(old.array.dtype, copy=False)
            if new.tobytes() != old.array.tobytes():
                graph.tensors[key] = Tensor.of(new.copy())
        learned = dict(self.named_parameters())
        free = [p.numel() for key, p in learned.items() if key not in self.fixed]
        meta, base = (
            {key: value for key, value in before.meta.items() if key in kept}
            for kept in (KEPT, BASE)
        )
        if name is not None:
            meta["name"] = name
        graph.meta = {
            **meta,
            "training": {
                "base": base,
                "trained_parameters": sum(free),
                "frozen_parameters": sum(p.numel() for p in learned.values()) - sum(free),
                **training,
            },
        }
        return graph

    def _state(self) -> dict[str, torch.Tensor]:
        """Every parameter and buffer by its name in the folder."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def _set(self, patterns: tuple[str, ...], *, frozen: bool) -> list[str]:
        state = self._state()
        found = [name for name in state if any(fnmatchcase(name, pattern) for pattern in patterns)]
        useless = [p for p in patterns if not any(fnmatchcase(name, p) for name in state)]
        if useless:
            raise InputError(
                f"no weight is called {', '.join(map(repr, useless))}",
                hint="`dict(module.named_parameters())` has their names; * stands for anything.",
            )
        for name in found:
            tensor = state[name]
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(not frozen)
        self.fixed = self.fixed | {*found} if frozen else self.fixed - {*found}
        return found

    def extra_repr(self) -> str:
        graph = self._held.graph
        return f"{graph.meta.get('name', 'graph')}: {len(graph.layers)} layers"


class _Held:
    """A graph and its program, which torch need not see; a copied module gets its own."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.space = TrainingSpace()
        self.program = Program(graph, self.space)

    def move(self, device: torch.device) -> None:
        """Let constants of subgraphs be where the module is."""
        if self.space.device == device:
            return
        self.space.device = device
        for inner in _inside(self.program):
            for name, value in inner.weights.items():
                if isinstance(value, Both):
                    inner.weights[name] = Both(value.host, value.device.to(device))
                elif isinstance(value, torch.Tensor):
                    inner.weights[name] = value.to(device)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> _Held:
        return _Held(self.graph)


def _inside(program: Program) -> Iterator[Program]:
    """The programs of all subgraphs."""
    for step in program.steps:
        for attr in step.attrs.values():
            if isinstance(attr, Program):
                yield attr
                yield from _inside(attr)


def _below(module: nn.Module, path: list[str]) -> nn.Module:
    """The submodule at a path, which is made where it is missing. A name may be that of a weight
    and the beginning of another's: torch keeps them apart, as long as nobody asks by attribute."""
    for part in path:
        inner = module._modules.get(part)
        if inner is None:
            inner = module._modules[part] = nn.Module()
        module = inner
    return module


def _learned(graph: Graph) -> set[str]:
    """The tensors that are learned: floats with an axis that some layer computes with."""
    learned: set[str] = set()
    fixed: set[str] = set()
    for layer in graph.layers:
        known = lookup(layer.op)
        assert known is not None
        own = FIXED.get(layer.op, set())
        for formal, names in layer.inputs.items():
            among = fixed if formal in own or "*" in own or formal in known.host else learned
            among.update([names] if isinstance(names, str) else names)
    return {
        name
        for name, tensor in graph.tensors.items()
        if name in learned - fixed
        and tensor.shape
        and is_float(tensor.dtype)
        and not tensor.dtype.startswith("float8")
    }
