"""torch's own kernels for pictures, sequences, attention and norms: what they compute is what the
definitions say, and what torch means otherwise goes to the definitions."""

import sys
from itertools import product
from typing import Any

import numpy as np
import pytest

from hubtool.backends import torch as backend
from hubtool.graph import Graph
from hubtool.interpreter import Program

from .grids import alone, assert_close, defined, draw


@pytest.fixture
def check(monkeypatch):
    """Whether a graph computes on torch what it does in numpy, and whether by torch's own."""
    seen: list[str] = []
    lookup = sys.modules["hubtool.backends"].lookup
    monkeypatch.setattr(
        sys.modules["hubtool.backends"], "lookup", lambda op: (seen.append(op), lookup(op))[1]
    )

    def checked(graph: Graph, feeds: dict[str, Any], own: bool, tolerance: float = 1e-5) -> None:
        seen.clear()
        runner = backend.Runner(Program(graph, backend.TorchSpace("cpu")), None)
        assert_close(runner.run(feeds), defined(graph, feeds), tolerance)
        assert (not seen) == own, seen

    return checked


# Resize and GridSample

SCALES = {3: [1, 1, 2], 4: [1, 1, 2, 3], 5: [1, 1, 2, 3, 1]}


@pytest.mark.parametrize("rank", SCALES)
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
@pytest.mark.parametrize("places", ["half_pixel", "align_corners", "pytorch_half_pixel"])
def test_a_whole_enlargement(rank, mode, places, check):
    X = draw(2, 3, 4, 5, 3)[(...,) + (0,) * (5 - rank)]
    scales = np.asarray(SCALES[rank], np.float32)
    graph = alone(
        *("Resize", {"X": X, "scales": scales}), mode=mode, coordinate_transformation_mode=places
    )
    own = mode == "linear" or (mode == "cubic" and rank == 4)
    check(graph, {"X": X}, own or (mode == "nearest" and places == "half_pixel"))


@pytest.mark.parametrize("size", [(4, 5), (7, 5), (2, 3), (9, 11), (1, 5), (8, 1)], ids=str)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("places", ["half_pixel", "align_corners", "pytorch_half_pixel"])
def test_any_size(size, mode, places, check):
    X = draw(2, 3, 4, 5, dtype="float64")
    inputs = {"X": X, "sizes": np.asarray([2, 3, *size])}
    graph = alone("Resize", inputs, mode=mode, coordinate_transformation_mode=places)
    # torch counts a single new element by half pixels too.
    check(graph, {"X": X}, places != "pytorch_half_pixel" or 1 not in size)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 7, 41, 49])
@pytest.mark.parametrize(
    ("places", "nearest"),
    [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")],
)
def test_the_nearest_of_a_whole_enlargement(factor, places, nearest, check):
    X = draw(1, 1, 23, 47)
    inputs = {"X": X, "scales": np.asarray([1, 1, factor, 1], np.float32)}
    graph = alone(*("Resize", inputs), coordinate_transformation_mode=places, nearest_mode=nearest)
    check(graph, {"X": X}, True, 0)


@pytest.mark.parametrize(
    "attrs",
    [
        {"antialias": 1, "mode": "linear"},
        {"mode": "cubic", "cubic_coeff_a": -0.5},
        {"mode": "cubic", "exclude_outside": 1},
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
        {"mode": "linear", "scales": [1, 1, 0.6, 0.6]},
        {"mode": "linear", "scales": [2, 1, 1, 1]},
        {"mode": "nearest", "scales": [1, 1, 1.5, 1]},
        {"mode": "nearest", "nearest_mode": "ceil"},
    ],
    ids=str,
)
def test_a_resize_that_torch_means_otherwise_falls_back(attrs, check):
    X, scales = draw(1, 2, 4, 4), attrs.pop("scales", [1, 1, 2, 2])
    graph = alone("Resize", {"X": X, "scales": np.asarray(scales, np.float32)}, **attrs)
    check(graph, {"X": X}, False)


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(("mode", "rank"), [*product(("linear", "nearest"), (2, 3)), ("cubic", 2)])
def test_a_grid_sample(mode, rank, padding_mode, align_corners, check):
    X, grid = draw(2, 3, *(5, 6, 4)[:rank]), draw(2, *(7, 3, 5)[:rank], rank, seed=1)
    inputs = {"X": X, "grid": grid}
    graph = alone(
        "GridSample", inputs, mode=mode, padding_mode=padding_mode, align_corners=align_corners
    )
    check(graph, {"X": X}, True)


def test_a_grid_sample_of_one_axis_or_a_cubic_one_of_three_falls_back(check):
    for rank, mode in ((1, "linear"), (3, "cubic")):
        X, grid = draw(1, 2, *(4,) * rank), draw(1, *(3,) * rank, rank)
        check(alone("GridSample", {"X": X, "grid": grid}, mode=mode), {"X": X}, False)


# Sequences

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, N, I, H = 5, 2, 3, 4  # noqa: E741


def recurrent(op: str, direction: str, **more: Any) -> tuple[Graph, dict[str, Any]]:
    """A recurrent layer; `without` names inputs that are absent."""
    D, rows = (2 if direction == "bidirectional" else 1), GATES[op] * H
    layout, without = more.get("layout", 0), more.pop("without", ())
    state = (N, D, H) if layout else (D, N, H)
    inputs = {
        "X": draw(N, T, I) if layout else draw(T, N, I),
        "W": draw(D, rows, I, seed=1),
        "R": draw(D, rows, H, seed=2),
        "B": draw(D, 2 * rows, seed=3),
        "sequence_lens": np.asarray([5, 3], np.int32),
        "initial_h": draw(*state, seed=4),
        "initial_c": draw(*state, seed=5),
    }
    absent = {*without} | (set() if op == "LSTM" else {"initial_c"})
    absent |= set() if more.pop("lens", False) else {"sequence_lens"}
    kept = {name: value for name, value in inputs.items() if name not in absent}
    if op == "GRU":
        more.setdefault("linear_before_reset", 1)
    outputs = 3 if op == "LSTM" else 2
    graph = alone(op, kept, outputs=outputs, direction=direction, hidden_size=H, **more)
    return graph, {"X": inputs["X"]}


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("without", [(), ("B",), ("initial_h", "initial_c"), ("initial_c",)])
def test_a_walk_over_time(op, direction, layout, without, check):
    graph, feeds = recurrent(op, direction, layout=layout, without=without)
    check(graph, feeds, True)


def test_an_rnn_of_relus(check):
    graph, feeds = recurrent("RNN", "bidirectional", activations=["Relu", "Relu"])
    check(graph, feeds, True)


@pytest.mark.parametrize(
    ("op", "more"),
    [
        ("GRU", {"linear_before_reset": 0}),
        ("LSTM", {"clip": 0.1}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"lens": True}),
        ("GRU", {"lens": True}),
        ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}),
        ("RNN", {"activations": ["Softsign"]}),
    ],
    ids=str,
)
def test_a_walk_that_torch_has_not_falls_back(op, more, check):
    graph, feeds = recurrent(op, "forward", **more)
    check(graph, feeds, False)


# Attention


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float", "closed", "past"], ids=str)
def test_attention(heads, mask, check):
    L, S = 3, 5
    inputs = {"Q": draw(2, 4, L, 8), "K": draw(2, heads, S, 8, seed=1)}
    inputs["V"] = draw(2, heads, S, 6, seed=2)
    attrs = {"scale": 0.2} if mask == "none" else {"is_causal": int(mask == "causal")}
    opened = np.tril(np.ones((L, S), bool), 1)
    if mask in ("bool", "closed"):
        opened[1] &= mask == "bool"
        inputs["attn_mask"] = opened
    if mask == "float":
        inputs["attn_mask"] = np.where(opened, draw(2, 4, L, S), -np.inf).astype(np.float32)
        inputs["attn_mask"][0, 0, 0] = -np.inf
    if mask == "past":
        inputs["past_key"] = draw(2, heads, 2, 8, seed=3)
        inputs["past_value"] = draw(2, heads, 2, 6, seed=4)
    check(alone("Attention", inputs, outputs=3, **attrs), {"Q": inputs["Q"]}, True)


def test_attention_of_packed_heads(check):
    inputs = {name: draw(2, 5, 4 * 8, seed=seed) for seed, name in enumerate("QKV")}
    graph = alone("Attention", inputs, q_num_heads=4, kv_num_heads=4)
    check(graph, {"Q": inputs["Q"]}, True)


@pytest.mark.parametrize(
    ("outputs", "attrs"),
    [
        (1, {"softcap": 2.0}),
        (1, {"left_window_size": 1}),
        (4, {}),
        (1, {"softmax_precision": 11}),
    ],
    ids=str,
)
def test_attention_that_torch_has_not_falls_back(outputs, attrs, check):
    inputs = {name: draw(2, 4, 5, 8, seed=seed) for seed, name in enumerate("QKV")}
    graph = alone("Attention", inputs, outputs=outputs, **attrs)
    check(graph, {"Q": inputs["Q"]}, False)


# Norms and activations

C = 4
NORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GroupNormalization": (
        {"X": draw(2, C, 3, 5), "scale": draw(C, seed=1), "bias": draw(C, seed=2)},
        {"epsilon": 1e-2, "num_groups": 2},
    ),
    "LogSoftmax": ({"input": draw(3, C)}, {"axis": 0}),
    "Gelu": ({"X": draw(3, C)}, {"approximate": "tanh"}),
    "com.microsoft.Gelu": ({"X": draw(3, C)}, {}),
    "com.microsoft.FastGelu": ({"X": draw(3, C), "bias": draw(C, seed=1)}, {}),
}


@pytest.mark.parametrize("op", NORMS)
def test_a_norm_or_an_activation(op, check):
    inputs, attrs = NORMS[op]
    first = next(iter(inputs))
    check(alone(op, inputs, **attrs), {first: inputs[first]}, True)
