"""float16, bfloat16 and tf32 on torch: what is computed how, and how far the results may differ."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from passes.builders import floats, layer, residual_net

import hubtool
from hubtool import zoo
from hubtool.backends import build
from hubtool.backends import torch as backend
from hubtool.backends.torch_precision import NarrowSpace, declared, in_narrow, narrowed
from hubtool.backends.torch_settings import float32_products
from hubtool.errors import BackendError
from hubtool.graph import Graph, Tensor, Value
from hubtool.interpreter import Program

from .grids import alone, defined, draw

BOUNDS = {"float16": 2e-3, "bfloat16": 2e-2}
"""How far results may be from those of float32, as a part of the largest."""


def narrow_runner(graph: Graph, precision: str) -> backend.Runner:
    """What prepare makes; float16 too, which the CPU computes, though slowly."""
    return backend.Runner(narrowed(build(graph, NarrowSpace("cpu", precision))), None)


def difference(graph: Graph, feeds: dict[str, Any], precision: str) -> float:
    given, wanted = narrow_runner(graph, precision).run(feeds), defined(graph, feeds)
    assert {name: y.dtype for name, y in given.items()} == {n: y.dtype for n, y in wanted.items()}
    return max(float(np.abs(given[name] - y).max() / np.abs(y).max()) for name, y in wanted.items())


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    path = tmp_path_factory.mktemp("sketch") / "sketch.onnx"
    zoo.sketch("resnet18-v1", path)
    return hubtool.read(path)


@pytest.fixture
def seen(monkeypatch):
    """The dtypes that torch's convolutions were given."""
    dtypes = set()
    conv = torch.nn.functional.conv2d

    def spy(X, W, *rest):
        dtypes.update((X.dtype, W.dtype))
        return conv(X, W, *rest)

    monkeypatch.setattr(torch.nn.functional, "conv2d", spy)
    return dtypes


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_resnet_is_computed_so_and_stays_within_the_bound(precision, resnet, seen):
    x = draw(2, 3, 64, 64)
    runner = narrow_runner(resnet, precision)
    weights = [w for w in runner.program.weights.values() if isinstance(w, torch.Tensor)]
    assert {w.dtype for w in weights} == {getattr(torch, precision)}
    (given,) = runner.run({"data": x}).values()
    assert seen == {getattr(torch, precision)}
    (wanted,) = backend.prepare(resnet).run({"data": x}).values()
    assert given.dtype == np.float32
    error = np.abs(given - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < error < BOUNDS[precision]
    np.testing.assert_array_equal(given.argmax(1), wanted.argmax(1))


def transformer() -> Graph:
    """One layer of attention by hand, with a mask of -3.4e38, and its normalisation."""
    size, bound = 16, float(np.finfo(np.float32).min)
    return Graph(
        layers=[
            layer("MatMul", {"A": "x", "B": "q"}, "Q"),
            layer("MatMul", {"A": "x", "B": "k"}, "K"),
            layer("Transpose", {"data": "K"}, "Kt", perm=[0, 2, 1]),
            layer("MatMul", {"A": "Q", "B": "Kt"}, "scores"),
            layer("Sub", {"A": "one", "B": "mask"}, "closed"),
            layer("Mul", {"A": "closed", "B": "far"}, "bias"),
            layer("Add", {"A": "scores", "B": "bias"}, "biased"),
            layer("Softmax", {"input": "biased"}, "weights", axis=-1),
            layer("MatMul", {"A": "weights", "B": "x"}, "read"),
            layer("Add", {"A": "x", "B": "read"}, "sum"),
            layer("LayerNormalization", {"X": "sum", "Scale": "s"}, "y", axis=-1),
        ],
        inputs={"x": floats(2, 5, size), "mask": floats(2, 1, 5)},
        outputs={"y": floats(2, 5, size)},
        tensors={
            "q": Tensor.of(draw(size, size, seed=1) / 8),
            "k": Tensor.of(draw(size, size, seed=2) / 8),
            "one": Tensor.of(np.float32(1)),
            "far": Tensor.of(np.float32(bound)),
            "s": Tensor.of(np.ones(size, np.float32)),
        },
    )


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_transformer_with_a_mask_stays_within_the_bound(precision):
    mask = np.ones((2, 1, 5), np.float32)
    mask[:, :, 3:] = 0
    feeds = {"x": draw(2, 5, 16), "mask": mask}
    assert difference(transformer(), feeds, precision) < BOUNDS[precision]


def test_weights_of_fragile_layers_are_float32_and_what_goes_between_layers_is_not():
    runner = narrow_runner(transformer(), "bfloat16")
    weights = runner.program.weights
    assert weights["q"].dtype == weights["far"].dtype == torch.bfloat16
    assert weights["s"].dtype == torch.float32
    values = {}

    def watch(step, results):
        values[step.op] = results[0].dtype

    with torch.inference_mode():
        feeds = {"x": torch.from_numpy(draw(2, 5, 16)), "mask": torch.ones(2, 1, 5)}
        runner.program.run(feeds, watch=watch)
    assert {*values.values()} == {torch.bfloat16}


FRAGILE = {
    "Softmax": {"input": draw(3, 4)},
    "ReduceMean": {"data": draw(3, 4)},
    "LayerNormalization": {"X": draw(3, 4), "Scale": draw(4)},
    "GlobalAveragePool": {"X": draw(1, 2, 3, 3)},
    "Exp": {"input": draw(3)},
    "Cast": {"input": draw(3)},
    "BatchNormalization": {
        "X": draw(2, 3, 4),
        **{name: np.abs(draw(3)) + 1 for name in ("scale", "B", "input_mean", "input_var")},
    },
}


@pytest.mark.parametrize("op", FRAGILE)
def test_a_fragile_layer_is_given_float32(op):
    assert not in_narrow(op)
    attrs = {"to": 1} if op == "Cast" else {}
    graph = alone(op, FRAGILE[op], **attrs)
    program = narrowed(Program(graph, NarrowSpace("cpu", "bfloat16")))
    first, x = next(iter(FRAGILE[op].items()))
    fed = torch.from_numpy(x).bfloat16()
    (y,) = program.run({first: fed}).values()
    (exact,) = defined(graph, {first: fed.float().numpy()}).values()
    np.testing.assert_array_equal(y.float(), torch.from_numpy(exact).bfloat16().float())


def test_integers_shapes_and_declared_types_stay():
    graph = Graph(
        layers=[
            layer("Shape", {"data": "x"}, "dims"),
            layer("Reshape", {"data": "x", "shape": "flat"}, "row", allowzero=0),
            layer("Cast", {"input": "row"}, "wide", to=11),
            layer("Cast", {"input": "row"}, "half", to=10),
            layer("Cast", {"input": "row"}, "brain", to=16),
            layer("Unique", {"X": "brain"}, "sorted", sorted=1),
            layer("Cast", {"input": "n"}, "real", to=1),
            layer("Add", {"A": "n", "B": "n"}, "twice"),
        ],
        inputs={"x": floats(2, 3), "n": Value("tensor", "int32", (3,))},
        outputs={
            name: Value("tensor", "", None)
            for name in ("dims", "row", "wide", "half", "brain", "sorted", "real", "twice")
        },
        tensors={"flat": Tensor.of(np.asarray([-1]))},
    )
    assert declared(graph)["row"] == "float32"
    feeds = {"x": draw(2, 3), "n": np.asarray([1, 2, 40000], np.int32)}
    for precision in BOUNDS:
        made = narrow_runner(graph, precision).run(feeds)
        wanted = defined(graph, feeds)
        assert {k: v.dtype for k, v in made.items()} == {k: v.dtype for k, v in wanted.items()}
        np.testing.assert_array_equal(made["twice"], [2, 4, 80000])
        np.testing.assert_array_equal(made["dims"], [2, 3])
        np.testing.assert_allclose(made["row"], wanted["row"], rtol=8e-3)


def test_a_weight_beyond_the_range_is_the_largest_and_infinity_stays():
    space = NarrowSpace("cpu", "float16")
    x = torch.tensor([1e9, -1e9, np.inf, -np.inf, 1.0])
    assert space.narrowed(x).tolist() == [65504, -65504, np.inf, -np.inf, 1]
    assert space.rounded(x).tolist() == [np.inf, -np.inf, np.inf, -np.inf, 1]


def test_a_branch_holds_narrow_weights_too():
    def branch(scale: float) -> Graph:
        return Graph(
            layers=[layer("Mul", {"A": "h", "B": "w"}, "z")],
            outputs={"z": floats(3)},
            tensors={"w": Tensor.of(np.full(3, scale, np.float32))},
        )

    graph = Graph(
        layers=[
            layer("Add", {"A": "x", "B": "x"}, "h"),
            layer("If", {"cond": "c"}, "y", then_branch=branch(2), else_branch=branch(3)),
        ],
        inputs={"x": floats(3), "c": Value("tensor", "bool", ())},
        outputs={"y": floats(3)},
    )
    runner = narrow_runner(graph, "bfloat16")
    body = runner.program.steps[1].attrs["then_branch"]
    assert body.weights["w"].dtype == torch.bfloat16
    x = np.asarray([1, 2, 3], np.float32)
    for c, factor in ((True, 4), (False, 6)):
        made = runner.run({"x": x, "c": np.asarray(c)})["y"]
        assert made.dtype == np.float32
        np.testing.assert_array_equal(made, x * factor)


def test_the_cpu_has_what_it_does_well_and_a_gpu_all():
    assert backend.precisions("cpu") == ["float32", "bfloat16"]
    assert backend.precisions("cuda:0") == ["float32", "tf32", "float16", "bfloat16"]
    graph = residual_net()
    with pytest.raises(BackendError, match="no precision 'float16' on cpu"):
        hubtool.load(graph, backend="torch", precision="fp16")
    model = hubtool.load(graph, backend="torch", precision="bf16")
    x = draw(2, 4, 6, 6)
    (wanted,) = defined(graph, {"data": x}).values()
    error = np.abs(model(x) - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < error < BOUNDS["bfloat16"]


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_on_for_the_run_that_asks_for_it_and_put_back(tf32, newer, monkeypatch):
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    inside = []

    def spy(ctx, X):
        sums = matmul.allow_fp16_reduced_precision_reduction
        precision = matmul.fp32_precision, conv.fp32_precision if newer else None
        inside.append((*precision, sums))
        return X

    monkeypatch.setattr(backend.TorchSpace, "overrides", {"Relu": spy})
    graph = alone("Relu", {"X": draw(3)})
    before = matmul.fp32_precision
    try:
        if newer:
            matmul.fp32_precision = "tf32"
        runner = backend.Runner(Program(graph, backend.TorchSpace("cpu")), None, tf32=tf32)
        runner.run({"X": draw(3)})
        word = "tf32" if tf32 else "ieee"
        assert inside == [(word, word if newer else None, False)]
        assert matmul.fp32_precision == ("tf32" if newer else before)
        assert matmul.allow_fp16_reduced_precision_reduction
    finally:
        matmul.fp32_precision = before


# Layout


def test_channels_last_is_the_layout_of_every_convolution_and_of_no_result(monkeypatch):
    graph, x, layouts = residual_net(), draw(2, 4, 6, 6), []
    conv = torch.nn.functional.conv2d

    def spy(X, W, *rest):
        Y = conv(X, W, *rest)
        layouts.append(Y.is_contiguous(memory_format=torch.channels_last))
        return Y

    monkeypatch.setattr(torch.nn.functional, "conv2d", spy)
    runner = backend.prepare(graph, options={"channels_last": True})
    made = runner.run({"data": x}, keep=True)
    assert layouts and all(layouts)
    assert all(y.is_contiguous() for y in made.values())
    for name, wanted in defined(graph, {"data": x}).items():
        np.testing.assert_allclose(made[name].numpy(), wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_kernel_that_others_read_keeps_its_layout():
    graph = Graph(
        layers=[
            layer("Conv", {"X": "x", "W": "w"}, "y"),
            layer("Relu", {"X": "w"}, "z"),
        ],
        inputs={"x": floats(1, 2, 5, 5)},
        outputs={"y": floats(1, 3, 3, 3), "z": floats(3, 2, 3, 3)},
        tensors={"w": Tensor.of(draw(3, 2, 3, 3))},
    )
    program = Program(graph, backend.TorchSpace("cpu"))
    backend.last_channels(program)
    assert program.weights["w"].is_contiguous()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels_last": "yes"}, "channels_last='yes' is neither True nor False"),
        ({"cuda_graphs": True}, "cuda_graphs=True: there are none on cpu"),
        ({"cuda_graphs": -1}, "cuda_graphs=-1 is neither True, False nor a number"),
        ({"compile": "fast"}, "compile='fast' is neither True, False nor 'max-autotune'"),
    ],
)
def test_an_option_has_values_that_it_can_have(options, message):
    with pytest.raises(BackendError) as caught:
        backend.prepare(residual_net(), options=options)
    assert caught.value.problems == [message]


def test_runs_at_the_same_moment_share_the_setting_or_wait_and_the_last_puts_it_back():
    def state() -> str:
        return torch.get_float32_matmul_precision()

    before, entered, log = state(), threading.Event(), []

    def other() -> None:
        with float32_products(torch, tf32=True):
            log.append(state())
        entered.set()

    waiting = threading.Thread(target=other)
    first = float32_products(torch)
    with float32_products(torch):
        first.__enter__()
        waiting.start()
    assert state() == "highest" and not entered.is_set() and log == []
    first.__exit__(None, None, None)
    waiting.join()
    assert log == ["high"] and state() == before
