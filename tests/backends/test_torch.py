import subprocess
import sys
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from passes.builders import floats, layer, random_net, residual_net

from hubtool.backends import torch as backend
from hubtool.dtypes import CARRIERS, NUMBERS, numpy_dtype
from hubtool.errors import BackendError, RunError, UnsupportedError
from hubtool.graph import Graph, Tensor, Value
from hubtool.interpreter import Program

from .grids import ACTIVATIONS, CONVS, POOLS, alone, assert_close, defined, draw


def check(graph: Graph, feeds: dict[str, Any], tolerance: float = 1e-5) -> None:
    """The graph on torch, unprepared, computes what it does in plain numpy."""
    runner = backend.Runner(Program(graph, backend.TorchSpace("cpu")), None)
    assert_close(runner.run(feeds), defined(graph, feeds), tolerance)


@pytest.fixture
def own(monkeypatch):
    """No definition may be fallen back to."""

    def refuse(op: str) -> None:
        raise AssertionError(f"the definition of {op} was asked for")

    monkeypatch.setattr(sys.modules["hubtool.backends"], "lookup", refuse)


@pytest.fixture
def fallen_back(monkeypatch):
    """The operators whose definition was asked for, in order."""
    seen = []
    lookup = sys.modules["hubtool.backends"].lookup
    monkeypatch.setattr(
        sys.modules["hubtool.backends"], "lookup", lambda op: (seen.append(op), lookup(op))[1]
    )
    return seen


# Operators


@pytest.mark.parametrize("index", range(len(CONVS)))
def test_conv_is_what_its_definition_says(index, own):
    inputs, attrs = CONVS[index]
    check(alone("Conv", inputs, **attrs), {"X": inputs["X"]})


def test_a_conv_of_a_rank_that_torch_has_not_falls_back(fallen_back):
    X, W = draw(1, 2, 3, 3, 3, 3), draw(2, 2, 2, 2, 2, 2)
    check(alone("Conv", {"X": X, "W": W}), {"X": X})
    assert fallen_back == ["Conv"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [None, (2, 4, 5, 5), (4, 1, 1), (3, 2, 4, 5, 5)], ids=str)
def test_fused_conv_is_what_its_definition_says(activation, residual, own):
    inputs = {"X": draw(2, 3, 5, 5), "W": draw(4, 3, 3, 3), "B": draw(4)}
    if residual is not None:
        inputs["Z"] = draw(*residual, seed=1)
    attrs: dict[str, Any] = {"activation": activation} if activation else {}
    if ACTIVATIONS[activation]:
        attrs["activation_params"] = ACTIVATIONS[activation]
    graph = alone("com.microsoft.FusedConv", inputs, pads=[1, 1, 1, 1], **attrs)
    check(graph, {"X": inputs["X"]})


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"strides": [2, 3], "pads": [1, 1, 1, 1]},
        {"strides": [2, 2], "pads": [0, 1, 2, 0], "dilations": [2, 1]},
        {"strides": [3, 2], "output_padding": [2, 1]},
        {"strides": [2, 2], "output_shape": [10, 11]},
        {"strides": [2, 2], "output_shape": [12, 12]},
        {"strides": [2, 3], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 3], "auto_pad": "SAME_LOWER"},
        {"group": 2, "strides": [2, 1]},
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [False, True])
def test_conv_transpose_is_what_its_definition_says(attrs, bias, own):
    inputs = {"X": draw(2, 4, 5, 5), "W": draw(4, 3, 3, 3)}
    if bias:
        inputs["B"] = draw(3 * attrs.get("group", 1))
    check(alone("ConvTranspose", inputs, **attrs), {"X": inputs["X"]})


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("index", range(len(POOLS)))
def test_a_pool_is_what_its_definition_says(op, index):
    X = draw(2, 3, 8, 7)
    check(alone(op, {"X": X}, **POOLS[index]), {"X": X})


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("index", range(0, len(POOLS), 3))
def test_an_average_counts_the_padding_or_not(include, index):
    X = draw(2, 3, 8, 7)
    check(alone("AveragePool", {"X": X}, count_include_pad=include, **POOLS[index]), {"X": X})


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("index", range(len(POOLS)))
def test_the_indices_of_a_pool_count_in_the_whole_input(order, index):
    X = draw(2, 3, 8, 7)
    graph = alone("MaxPool", {"X": X}, outputs=2, storage_order=order, **POOLS[index])
    check(graph, {"X": X}, 0)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_usual_pools_are_torchs_own(rank, own):
    X = draw(2, 3, *(7,) * rank)
    attrs = {"kernel_shape": [3] * rank, "strides": [2] * rank, "pads": [1] * 2 * rank}
    check(alone("MaxPool", {"X": X}, outputs=2, **attrs), {"X": X})
    check(alone("AveragePool", {"X": X}, **attrs), {"X": X})


def test_a_pool_of_integers_falls_back(fallen_back):
    X = np.arange(16, dtype=np.int8).reshape(1, 1, 4, 4) - 8
    check(alone("MaxPool", {"X": X}, kernel_shape=[2, 2], pads=[1, 1, 1, 1]), {"X": X})
    assert fallen_back == ["MaxPool"]


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 5), (4, 3, 2, 2, 2)], ids=str)
def test_batch_normalization_is_what_its_definition_says(shape, own):
    inputs = {"X": draw(*shape)}
    for seed, formal in enumerate(("scale", "B", "input_mean", "input_var")):
        inputs[formal] = np.abs(draw(3, seed=seed)) + 0.1
    check(alone("BatchNormalization", inputs, epsilon=1e-3), {"X": inputs["X"]})


def test_batch_normalization_in_training_falls_back(fallen_back):
    inputs = {"X": draw(4, 3, 5)}
    for seed, formal in enumerate(("scale", "B", "input_mean", "input_var")):
        inputs[formal] = np.abs(draw(3, seed=seed)) + 0.1
    graph = alone("BatchNormalization", inputs, outputs=3, training_mode=1)
    check(graph, {"X": inputs["X"]})
    assert fallen_back == ["BatchNormalization"]


@pytest.mark.parametrize("axis", [-1, -2, 0, 1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalization_is_what_its_definition_says(axis, bias, own):
    X = draw(2, 3, 4)
    inputs = {"X": X, "Scale": draw(*X.shape[axis:], seed=1)}
    if bias:
        inputs["B"] = draw(*X.shape[axis:], seed=2)
    check(alone("LayerNormalization", inputs, axis=axis, epsilon=1e-2), {"X": X})


def test_layer_normalization_that_broadcasts_or_returns_its_mean_falls_back(fallen_back):
    X = draw(2, 3, 4)
    check(alone("LayerNormalization", {"X": X, "Scale": draw(4)}, axis=1), {"X": X})
    check(alone("LayerNormalization", {"X": X, "Scale": draw(4)}, outputs=3), {"X": X})
    assert fallen_back == ["LayerNormalization"] * 2


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_lrn_is_what_its_definition_says(size, fallen_back):
    X = draw(2, 6, 3, 3)
    check(alone("LRN", {"X": X}, size=size, alpha=0.5, beta=0.6, bias=2.0), {"X": X})
    assert fallen_back == ["LRN"] * (size % 2 == 0)


@pytest.mark.parametrize("transA", [0, 1])
@pytest.mark.parametrize("transB", [0, 1])
@pytest.mark.parametrize("C", [None, (), (5,), (1, 5), (3, 1), (3, 5)], ids=str)
def test_gemm_is_what_its_definition_says(transA, transB, C):
    inputs = {"A": draw(4, 3) if transA else draw(3, 4), "B": draw(5, 4) if transB else draw(4, 5)}
    if C is not None:
        inputs["C"] = draw(*C, seed=1)
    graph = alone("Gemm", inputs, transA=transA, transB=transB, alpha=0.5, beta=-2.0)
    check(graph, {"A": inputs["A"]})


def test_a_gemm_of_integers_falls_back(fallen_back):
    inputs = {name: np.arange(9, dtype=np.int32).reshape(3, 3) for name in "ABC"}
    check(alone("Gemm", inputs), {"A": inputs["A"]})
    assert fallen_back == ["Gemm"]


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Softmax"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_activations_are_what_their_definitions_say(op, dtype, own):
    formal = "input" if op == "Softmax" else "X"
    x = draw(3, 4).astype(numpy_dtype(dtype))
    check(alone(op, {formal: x}), {formal: x}, 1e-2 if dtype == "bfloat16" else 1e-3)


def test_relu_takes_integers():
    x = np.arange(-3, 3, dtype=np.int32)
    check(alone("Relu", {"X": x}), {"X": x}, 0)


# Numbers


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_are_computed_in_float32_and_rounded_once(dtype):
    X, W = (draw(*shape).astype(numpy_dtype(dtype)) for shape in ((1, 64, 5, 5), (4, 64, 3, 3)))
    wide = torch.nn.functional.conv2d(
        torch.from_numpy(X.astype(np.float32)), torch.from_numpy(W.astype(np.float32))
    )
    result = backend.prepare(alone("Conv", {"X": X, "W": W})).run({"X": X})["y0"]
    np.testing.assert_array_equal(result, wide.numpy().astype(X.dtype))


FLOATS8 = [dtype for dtype in backend.VIEWED if dtype.startswith("float8")]


@pytest.mark.parametrize("dtype", [*FLOATS8, "bfloat16", "float16"])
def test_every_value_of_a_small_float_comes_and_goes(dtype):
    space = backend.TorchSpace("cpu")
    bits = np.dtype(numpy_dtype(dtype)).itemsize * 8
    every = np.arange(2**bits, dtype=f"uint{bits}").view(numpy_dtype(dtype))
    tensor = space.put(every)
    assert space.dtype_of(tensor) == dtype
    assert space.get(tensor).dtype == every.dtype
    assert space.get(tensor).tobytes() == every.tobytes()
    wide = space.get(space.cast(tensor, "float32"))
    np.testing.assert_array_equal(wide, every.astype(np.float32))
    back = space.get(space.cast(space.put(wide), dtype))
    assert back.dtype == every.dtype
    np.testing.assert_array_equal(back.astype(np.float32), wide)


@pytest.mark.parametrize("dtype", [*FLOATS8, *CARRIERS])
def test_casts_to_few_bits_round_as_ml_dtypes_does(dtype):
    space = backend.TorchSpace("cpu")
    x = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    if "int" in dtype:  # beyond their range, and of a fraction, the operator decides
        x = np.arange(-128, 128, dtype=np.int8)
    with np.errstate(all="ignore"):
        wanted = x.astype(getattr(ml_dtypes, dtype))
    given = space.get(space.cast(space.put(x), dtype))
    assert given.dtype == wanted.dtype
    np.testing.assert_array_equal(given.astype(np.float32), wanted.astype(np.float32))


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int64", "uint16", "uint32", "uint64", "complex64"]
)
def test_every_dtype_that_torch_holds_comes_and_goes(dtype):
    space = backend.TorchSpace("cpu")
    array = np.arange(3).astype(dtype)
    tensor = space.put(array)
    assert space.dtype_of(tensor) == dtype
    np.testing.assert_array_equal(space.get(tensor), array)


@pytest.mark.parametrize("dtype", CARRIERS)
def test_what_torch_has_not_is_carried_from_layer_to_layer(dtype):
    x = np.arange(-4, 4, dtype=np.float32).reshape(2, 4)
    graph = Graph(
        layers=[
            layer("Cast", {"input": "x"}, "small", to=NUMBERS[dtype], saturate=1, round_mode="up"),
            layer("Transpose", {"data": "small"}, "turned", perm=[1, 0]),
            layer("Concat", {"inputs": ["turned", "w"]}, "y", axis=0),
            layer("Cast", {"input": "y"}, "z", to=1, saturate=1, round_mode="up"),
        ],
        inputs={"x": floats(2, 4)},
        outputs={name: Value("tensor", "", None) for name in ("small", "y", "z")},
        tensors={"w": Tensor.of(np.asarray([[0, 1]], numpy_dtype(dtype)))},
    )
    made = backend.prepare(graph).run({"x": x})
    small = x.astype(np.int8).astype(numpy_dtype(dtype))
    assert {name: value.dtype.name for name, value in made.items()} == {
        "small": dtype,
        "y": dtype,
        "z": "float32",
    }
    np.testing.assert_array_equal(made["small"], small)
    np.testing.assert_array_equal(made["z"][:4], small.T.astype(np.float32))
    np.testing.assert_array_equal(made["z"][4:], [[0, 1]])


def test_text_goes_past_torch():
    graph = Graph(
        layers=[layer("Reshape", {"data": "text", "shape": "dims"}, "y", allowzero=0)],
        inputs={"text": Value("tensor", "string", (4,))},
        outputs={"y": Value("tensor", "", None)},
        tensors={"dims": Tensor.of(np.asarray([2, 2]))},
    )
    text = np.asarray(["a", "b", "ö", ""], object)
    assert backend.prepare(graph).run({"text": text})["y"].tolist() == [["a", "b"], ["ö", ""]]


def test_odd_arrays_come_and_go():
    space = backend.TorchSpace("cpu")
    base = draw(3, 4)
    for array in (base[::-1], base.T, base[:, ::2], np.broadcast_to(base, (2, 3, 4)), base[0, 0]):
        np.testing.assert_array_equal(space.get(space.put(array)), array)
    np.testing.assert_array_equal(space.get(space.put(base.astype(">f4"))), base)
    conjugated = torch.tensor([1 + 2j]).conj()
    np.testing.assert_array_equal(space.get(conjugated), [1 - 2j])


def test_what_torch_has_not_is_named_all_of_it_with_its_layer():
    body = Graph(
        layers=[layer("Mul", {"A": "u", "B": "u"}, "v", name="inner")],
        outputs={"v": Value("tensor", "uint64", (4,))},
    )
    graph = Graph(
        layers=[
            layer("Cast", {"input": "x"}, "u", name="fine", to=NUMBERS["uint64"]),
            layer("Add", {"A": "u", "B": "u"}, "s", name="sum"),
            layer("Relu", {"X": "x"}, "r", name="outer", body=body),
        ],
        inputs={"x": floats(4)},
        outputs={name: Value("tensor", "", None) for name in ("s", "r")},
    )
    with pytest.raises(UnsupportedError) as caught:
        backend.prepare(graph)
    assert caught.value.problems == [
        "layer 'sum' (Add) computes with uint64",
        "layer 'outer' (Relu) > layer 'inner' (Mul) computes with uint64",
    ]


def test_weights_of_a_dtype_that_torch_has_not_may_be_folded_away():
    graph = Graph(
        layers=[
            layer("Cast", {"input": "w"}, "wide", to=NUMBERS["float32"]),
            layer("Add", {"A": "x", "B": "wide"}, "y"),
        ],
        inputs={"x": floats(4)},
        outputs={"y": floats(4)},
        tensors={"w": Tensor.of(np.arange(4).astype(ml_dtypes.int4))},
    )
    x = draw(4)
    wanted = x + np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(backend.prepare(graph).run({"x": x})["y"], wanted)


# Memory


def test_an_array_and_its_tensor_are_one_memory():
    space = backend.TorchSpace("cpu")
    locked = draw(3, 4)
    locked.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for array in (draw(3, 4), locked, draw(3).astype(ml_dtypes.bfloat16)):
            assert space.put(array).data_ptr() == array.ctypes.data


def test_a_weight_mapped_from_a_file_is_read_there_and_never_handed_out(tmp_path):
    path = tmp_path / "weight"
    draw(3).tofile(path)
    mapped = np.memmap(path, np.float32, "r")
    graph = Graph(
        layers=[layer("Identity", {"input": "x"}, "y"), layer("Add", {"A": "x", "B": "w"}, "z")],
        inputs={"x": floats(3)},
        outputs={name: floats(3) for name in ("w", "y", "z", "small")},
        tensors={"w": Tensor.of(mapped), "small": Tensor.of(np.arange(3))},
    )
    runner = backend.prepare(graph)
    assert runner.program.weights["w"].data_ptr() == mapped.ctypes.data
    x = draw(3, seed=1)
    results = runner.run({"x": x})
    np.testing.assert_array_equal(results["z"], x + draw(3))
    for name in ("w", "y", "small"):
        results[name] += 1  # into the mapping it would end the process
    np.testing.assert_array_equal(x, draw(3, seed=1))
    again = runner.run({"x": x})
    np.testing.assert_array_equal(again["w"], draw(3))
    np.testing.assert_array_equal(again["small"], np.arange(3))


def test_nor_is_a_fed_tensor_in_anybodys_inference_mode():
    graph = alone("Identity", {"input": draw(3)})
    x = draw(3)
    with torch.inference_mode():
        results = backend.prepare(graph).run({"input": x})
    results["y0"] += 1
    np.testing.assert_array_equal(x, draw(3))


def test_a_fed_tensor_is_taken_and_a_gradient_is_not_asked_for():
    graph = residual_net()
    x = draw(2, 4, 6, 6)
    runner = backend.prepare(graph)
    tensor = torch.from_numpy(x).requires_grad_()
    assert_close(runner.run({"data": tensor}), runner.run({"data": x}), 0)


# Runs


@pytest.mark.parametrize("graph", [residual_net(), *map(random_net, range(5))])
def test_a_prepared_net_computes_what_the_net_says(graph):
    feeds = {"data": draw(2, 4, 6, 6)}
    assert_close(backend.prepare(graph).run(feeds), defined(graph, feeds), 1e-5)


def test_a_shape_may_be_fed():
    graph = Graph(
        layers=[layer("Reshape", {"data": "x", "shape": "s"}, "y")],
        inputs={"x": floats(6), "s": Value("tensor", "int64", (2,))},
        outputs={"y": floats(None, None)},
    )
    x = draw(6)
    for shape in (np.array([2, 3]), torch.tensor([2, 3])):
        result = backend.prepare(graph).run({"x": x, "s": shape})["y"]
        np.testing.assert_array_equal(result, x.reshape(2, 3))


def test_a_fed_shape_is_not_fetched_back(monkeypatch):
    graph = Graph(
        layers=[layer("Reshape", {"data": "x", "shape": "s"}, "y")],
        inputs={"x": floats(6), "s": Value("tensor", "int64", (2,))},
        outputs={"y": floats(None, None)},
    )
    fetched = []
    get = backend.TorchSpace.get
    monkeypatch.setattr(
        backend.TorchSpace, "get", lambda self, value: (fetched.append(value), get(self, value))[1]
    )
    backend.prepare(graph).run({"x": draw(6), "s": np.array([2, 3])})
    assert [tuple(value.shape) for value in fetched] == [(2, 3)]


@pytest.fixture
def watched(monkeypatch):
    """What torch's settings are inside a run."""
    inside: dict[str, Any] = {}

    def spy(ctx, X):
        inside["threads"] = torch.get_num_threads()
        inside["inference"] = torch.is_inference_mode_enabled()
        inside["cudnn"] = torch.backends.cudnn.conv.fp32_precision
        inside["matmul"] = torch.backends.cuda.matmul.fp32_precision
        if (X < -100).any():
            raise ValueError("far too small")
        return X

    monkeypatch.setattr(backend.TorchSpace, "overrides", {"Relu": spy})
    return inside


@pytest.mark.parametrize("fails", [False, True])
def test_threads_and_precision_hold_during_the_run_and_are_put_back(watched, fails):
    graph = alone("Relu", {"X": draw(3)})
    x = draw(3) - (1000 if fails else 0)
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(2)
        torch.set_float32_matmul_precision("medium")
        runner = backend.prepare(graph, threads=1)
        if fails:
            with pytest.raises(RunError, match=r"while running Relu 'layer_y0' .*far too small"):
                runner.run({"X": x})
        else:
            runner.run({"X": x})
        assert watched == {"threads": 1, "inference": True, "cudnn": "none", "matmul": "ieee"}
        assert torch.get_num_threads() == 2
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])


def test_precision_holds_where_torchs_newer_settings_are_used(watched):
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        backend.prepare(alone("Relu", {"X": draw(3)})).run({"X": draw(3)})
        assert (watched["matmul"], watched["cudnn"]) == ("ieee", "ieee")
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


# Devices


def test_an_unknown_device_is_refused_with_those_there_are():
    assert backend.devices() == ["cpu"]
    with pytest.raises(BackendError, match=r"no device 'cuda:7' here\nDevices: cpu\."):
        backend.prepare(residual_net(), "cuda:7")


def test_looking_whether_torch_is_there_does_not_import_it(monkeypatch):
    code = (
        "import sys; from hubtool.backends import torch; "
        "assert torch.available() is None and torch.version(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert "pip install 'hubtool[torch]'" in str(backend.available())


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float8_e5m2", "float32"])
def test_what_torch_holds_it_moves_too(dtype):
    """torch itself takes no unsigned integers from a vector, and turns no 8-bit floats round."""
    space = backend.TorchSpace("cpu")
    array = np.asarray([1, 2, 3, 250], np.uint8).astype(numpy_dtype(dtype))
    tensor, places = space.put(array), space.put(np.asarray([3, 0]))
    for moved, wanted in (
        (space.xp.take(tensor, places, axis=0), array[[3, 0]]),
        (space.xp.take_along_axis(tensor, places, axis=0), array[[3, 0]]),
        (space.xp.flip(tensor, axis=0), array[::-1]),
    ):
        assert space.get(moved).tobytes() == wanted.tobytes()
