"""OpenVINO: strict unless told otherwise, no copy of the weights, and nothing computed silently
as something else."""

from __future__ import annotations

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from passes.builders import layer, random_net, residual_net

import hubtool
from hubtool.backends import prepare
from hubtool.errors import BackendError, InputError, RunError, UnsupportedError
from hubtool.graph import Graph, Tensor, Value

from .grids import alone, assert_close, defined, draw

backend = importlib.import_module("hubtool.backends.openvino")

FEEDS = {"data": draw(2, 4, 6, 6)}


def products(size: int = 64) -> tuple[Graph, dict[str, np.ndarray]]:
    """A product that loses much in 16 bits."""
    graph = alone("MatMul", {"A": draw(size, size), "B": draw(size, size, seed=1)})
    return graph, {"A": draw(size, size)}


def of(op: str, dtype: str = "float32", **attrs: object) -> Graph:
    """One layer from x to y."""
    return Graph(
        layers=[layer(op, {"input" if op in ("Identity", "Cast") else "X": "x"}, "y", **attrs)],
        inputs={"x": Value("tensor", dtype, ("n", 3))},
        outputs={"y": Value("tensor", "", ("n", 3))},
    )


def error(given: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    ((_, a),), ((_, b),) = given.items(), wanted.items()
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("graph", [residual_net(), *map(random_net, range(5))])
def test_a_prepared_net_computes_what_the_net_says(graph):
    assert_close(backend.prepare(graph).run(FEEDS), defined(graph, FEEDS), 1e-5)


def test_float32_is_strict_and_16_bits_are_only_taken_when_asked_for():
    graph, feeds = products()
    assert error(prepare("openvino", graph).run(feeds), defined(graph, feeds)) < 1e-6
    for precision in [*backend.precisions("cpu")][1:]:
        runner = prepare("openvino", graph, precision=precision)
        made = runner.run(feeds)
        assert made["y0"].dtype == np.float32
        assert 1e-5 < error(made, defined(graph, feeds)) < 2e-2, precision


def test_the_compiled_model_has_the_settings_that_were_asked_for(tmp_path):
    config = {"ENABLE_CPU_PINNING": False}
    options = {"performance_hint": "throughput", "cache_dir": tmp_path, "config": config}
    runner = prepare("openvino", residual_net(), threads=1, options=options)
    said = runner.compiled.get_property
    assert said("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert said("EXECUTION_MODE_HINT").name == "ACCURACY"
    assert said("PERFORMANCE_HINT") == "THROUGHPUT"
    assert said("INFERENCE_NUM_THREADS") == 1
    assert said("ENABLE_CPU_PINNING") is False
    assert [*tmp_path.glob("*.blob")]


def test_models_that_differ_only_in_weights_do_not_share_what_is_cached(tmp_path):
    for seed in (0, 1):
        weight = draw(64, 64, seed=seed)
        graph = alone("MatMul", {"A": draw(3, 64), "B": weight})
        runner = prepare("openvino", graph, options={"cache_dir": tmp_path})
        assert_close(runner.run({"A": draw(3, 64)}), defined(graph, {"A": draw(3, 64)}), 1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hint": 1}, "no option 'hint'\nIts options are: performance_hint: "),
        ({"performance_hint": "fast"}, "'latency' or 'throughput', not 'fast'"),
        (
            {"config": {"NUM_STREAM": 1}},
            "CPU has no property NUM_STREAM; did you mean NUM_STREAMS?",
        ),
        ({"config": {"INFERENCE_PRECISION_HINT": "bf16"}}, "_HINT is said by precision="),
    ],
)
def test_an_option_that_is_none_is_refused(options, said):
    with pytest.raises(BackendError, match=said):
        prepare("openvino", residual_net(), options=options)


def test_a_device_that_is_not_there_is_refused():
    assert backend.devices()[0] == "cpu"
    assert backend.prepare(residual_net(), "cpu").device == "cpu"
    with pytest.raises(BackendError, match=r"no device 'gpu:7' here\nDevices: cpu"):
        backend.prepare(residual_net(), "gpu:7")


class Core:
    """Devices as OpenVINO names them."""

    def __init__(self, *names: str) -> None:
        self.available_devices = [*names]

    def get_property(self, device: str, key: str) -> list[str]:
        assert key == "OPTIMIZATION_CAPABILITIES"
        return {"NPU": ["FP16", "INT8"]}.get(device, ["FP32", "FP16", "INT8"])


def test_devices_have_our_names_and_their_own_precisions(monkeypatch):
    monkeypatch.setattr(backend, "_core", lambda: Core("CPU", "GPU.0", "GPU.1", "NPU"))
    assert backend.devices() == ["cpu", "gpu:0", "gpu:1", "npu"]
    assert backend.precisions("gpu") == ["float32", "float16"]
    assert backend.precisions("npu") == ["float16"]
    assert (backend._device("gpu"), backend._device("gpu:1")) == ("GPU.0", "GPU.1")
    with pytest.raises(BackendError, match="no precision 'float32' on npu\nIt has float16"):
        prepare("openvino", residual_net(), device="npu")
    with pytest.raises(BackendError, match="holds none on gpu:1"):
        backend.put(draw(2), "gpu:1")
    monkeypatch.setattr(backend, "_core", lambda: Core("CPU", "GPU"))
    assert backend._device("gpu:0") == "GPU"


def test_weights_are_not_serialized(monkeypatch):
    given = {}

    class Reader(Core):
        def read_model(self, stream):
            given["bytes"] = stream.read()

    monkeypatch.setattr(backend, "_core", Reader)
    weight = draw(64, 64)
    _, weights = backend._read(alone("MatMul", {"A": draw(3, 64), "B": weight}))
    assert np.shares_memory(weights[0], weight)
    assert str(weight.ctypes.data).encode() in given["bytes"]
    assert len(given["bytes"]) < 1024


def test_sizes_may_change_from_run_to_run():
    runner = backend.prepare(of("Relu"))
    for n in (2, 0, 5, 2):
        x = draw(n, 3, seed=n)
        np.testing.assert_array_equal(runner.run({"x": x})["y"], np.maximum(x, 0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "uint16", "int64", "bool"])
def test_element_types_go_in_and_out(dtype):
    x = np.array([[0, 1, 1], [1, 0, 0]]).astype(np.dtype(dtype))
    made = backend.prepare(of("Identity", dtype)).run({"x": x})["y"]
    assert made.dtype == x.dtype
    np.testing.assert_array_equal(made.astype(float), x.astype(float))


def test_small_floats_go_in_by_their_bits():
    x = np.array([[0.5, 448, -2]]).astype(ml_dtypes.float8_e4m3fn)
    made = backend.prepare(of("Cast", "float8_e4m3fn", to=1)).run({"x": x})["y"]
    np.testing.assert_array_equal(made, x.astype(np.float32))


def test_feeds_may_be_read_only_or_strided_and_stay_as_they_are():
    x = draw(6, 3)[::-2]
    x.flags.writeable = False
    before = x.copy()
    made = backend.prepare(of("Identity")).run({"x": x})["y"]
    np.testing.assert_array_equal(made, before)
    made += 1
    np.testing.assert_array_equal(x, before)


def test_an_input_that_goes_straight_through_is_found_again():
    graph = of("Identity")
    graph.inputs = {"w": Value("tensor", "int64", (2,)), **graph.inputs}
    x = draw(2, 3)
    made = backend.prepare(graph).run({"w": np.array([1, 2]), "x": x})["y"]
    np.testing.assert_array_equal(made, x)


def test_one_model_runs_from_several_threads_at_once():
    graph, feeds = products()
    model = hubtool.load(graph, backend="openvino")
    factors = [*range(1, 33)]
    with ThreadPoolExecutor(8) as pool:
        made = [*pool.map(lambda k: model(feeds["A"] * np.float32(k)), factors)]
    once = model(feeds["A"])
    for k, product in zip(factors, made, strict=True):
        np.testing.assert_allclose(product, once * k, rtol=1e-4, atol=1e-4 * k)


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (of("Relu", "float64"), "input 'x' is float64: OpenVINO would compute it in float32"),
        (of("Cast", to=13), r"layer '\w+' \(Cast\) makes uint64: .* in 32 bits"),
        (of("Cast", to=17, saturate=1), r"\(Cast\): float8_e4m3fn is not saturated"),
        (of("Identity", "string"), "input 'x' is string: OpenVINO has no operators on text"),
        (of("Identity", "int4"), "input 'x' is int4; no array of it is taken"),
        (
            alone("Add", {"A": np.array([1]), "B": np.array([1 << 40])}),
            "'B' holds int64 numbers that do not fit in 32 bits",
        ),
        (alone("Det", {"X": draw(2, 2)}), r"layer '\w+' \(Det\): "),
    ],
    ids=str,
)
def test_what_it_would_compute_otherwise_is_refused_beforehand(graph, said):
    with pytest.raises(UnsupportedError, match=said):
        backend.prepare(graph)


def test_sequences_are_refused():
    graph = of("Identity")
    graph.inputs["x"] = Value("sequence", "float32", None)
    with pytest.raises(UnsupportedError, match="input 'x' is of kind sequence"):
        backend.prepare(graph)


def test_every_layer_that_it_has_not_is_named_with_its_operator():
    graph = residual_net()
    graph.layers[1].op = "Det"
    graph.layers[1].inputs, graph.layers[1].attrs = {"X": "data"}, {}
    graph.layers[3].op = "Det"
    graph.layers[3].inputs, graph.layers[3].attrs = {"X": "data"}, {}
    names = [graph.layers[index].name for index in (1, 3)]
    with pytest.raises(UnsupportedError) as caught:
        backend.prepare(graph)
    assert [p.partition(":")[0] for p in caught.value.problems] == [
        f"layer '{name}' (Det)" for name in names
    ]


def test_an_input_that_is_left_out_is_refused():
    """LSTM's peepholes apart, OpenVINO leaves such an input out without a word."""
    graph = alone("Relu", {"X": draw(2, 3)})
    compiled = backend.prepare(graph).compiled
    graph.layers[0].inputs["P"] = "p"
    graph.inputs["p"] = Value("tensor", "float32", (4,))
    _, problems = backend._ports(compiled, graph)
    assert problems == [f"layer '{graph.layers[0].name}' (Relu): OpenVINO does not read its P 'p'"]


def test_an_output_of_another_shape_is_refused():
    graph = alone("Relu", {"X": draw(2, 3)})
    compiled = backend.prepare(graph).compiled
    graph.outputs = {"y0": Value("tensor", "float32", (2, 4))}
    _, problems = backend._ports(compiled, graph)
    assert problems == ["output 'y0' is float32[2,4], and OpenVINO makes float32[2,3] of it"]


def test_int64_that_does_not_fit_is_no_input():
    runner = backend.prepare(of("Identity", "int64"))
    with pytest.raises(InputError, match="'x' holds int64 numbers that do not fit in 32 bits"):
        runner.run({"x": np.array([[1 << 31, 0, 0]])})


def test_a_default_that_is_built_in_cannot_be_fed():
    graph = alone("Add", {"A": draw(3), "B": draw(3)})
    graph.inputs["B"] = Value("tensor", "float32", (3,))
    runner = backend.prepare(graph)
    assert_close(runner.run({"A": draw(3)}), {"y0": draw(3) * 2}, 1e-6)
    with pytest.raises(InputError, match="'B' has a default, which OpenVINO has built in"):
        runner.run({"A": draw(3), "B": draw(3)})


def test_a_run_that_fails_is_a_run_error_and_the_next_one_runs():
    graph = Graph(
        layers=[layer("Reshape", {"data": "x", "shape": "s"}, "y")],
        inputs={"x": Value("tensor", "float32", ("n",))},
        outputs={"y": Value("tensor", "float32", None)},
        tensors={"s": Tensor.of(np.array([2, 3]))},
    )
    runner = backend.prepare(graph)
    with pytest.raises(RunError, match=r"OpenVINO failed: .*Reshape"):
        runner.run({"x": draw(5)})
    np.testing.assert_array_equal(runner.run({"x": draw(6)})["y"], draw(6).reshape(2, 3))


def test_it_is_not_imported_to_see_whether_it_is_there():
    code = (
        "import importlib, sys; b = importlib.import_module('hubtool.backends.openvino');"
        "assert b.available() is None and b.version(); print('openvino' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_absent_openvino_is_said_with_its_command(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert backend.available() == (
        "openvino is not installed; `pip install 'hubtool[openvino]'` installs it"
    )


def test_nothing_is_looked_up_sent_or_started():
    """Its telemetry is installed with it, and would do all three when it is imported."""
    code = """
import importlib, sys
def hook(event, args):
    if event.startswith(("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn")):
        print(event, args)
sys.addaudithook(hook)
b = importlib.import_module("hubtool.backends.openvino")
b.devices()
print("openvino" in sys.modules, "openvino_telemetry" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
