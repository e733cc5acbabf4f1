"""The native backend as a whole: parts, notes, runs from many threads, forks, precisions."""

import os
import threading
from typing import Any

import numpy as np
import pytest
from passes.builders import floats, layer, random_net, residual_net, tensor

import hubtool
from hubtool import Model, cores
from hubtool.backends import BACKENDS, default, native, prepare
from hubtool.backends.native import backend, library, runner, split
from hubtool.backends.native.runner import ByLayer, Planned
from hubtool.backends.native.tune import tuned
from hubtool.errors import BackendError, InputError, RunError
from hubtool.graph import Graph, Layer, Tensor, Value

from .grids import alone, draw

OFF = {"tune": False, "disk_cache": False}


def made(graph: Graph, **options: Any) -> runner.Runner:
    return backend.prepare(graph, options={**OFF, **options})


def expected(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    return prepare("numpy", graph).run(feeds)


def check(graph: Graph, feeds: dict[str, Any], **options: Any) -> runner.Runner:
    """The graph computes what it does in numpy."""
    prepared = made(graph, **options)
    found, wanted = prepared.run(feeds), expected(graph, feeds)
    assert [*found] == [*wanted]
    for name, value in wanted.items():
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(found[name] / scale, value / scale, atol=2e-5)
    return prepared


def kinds(prepared: runner.Runner) -> list[type]:
    return [type(part) for part in prepared.parts]


def net() -> Graph:
    """A convolution with 3x3 taps, for which there are several algorithms, and a Gemm."""
    return Graph(
        layers=[
            layer("Conv", {"X": "x", "W": "w"}, "c", pads=[1, 1, 1, 1]),
            layer("Relu", {"X": "c"}, "r"),
            layer("GlobalAveragePool", {"X": "r"}, "g"),
            layer("Flatten", {"input": "g"}, "f"),
            layer("Gemm", {"A": "f", "B": "m"}, "y"),
        ],
        inputs={"x": floats("N", 16, "H", "W")},
        outputs={"y": floats("N", 5)},
        tensors={"w": tensor((32, 16, 3, 3), 0), "m": tensor((32, 5), 1)},
        values={
            "c": floats("N", 32, "H", "W"),
            "r": floats("N", 32, "H", "W"),
            "g": floats("N", 32, 1, 1),
            "f": floats("N", 32),
        },
    )


def apart() -> Graph:
    """Two convolutions with a layer between them that no engine runs."""
    return Graph(
        layers=[
            layer("Conv", {"X": "x", "W": "w"}, "a"),
            layer("CumSum", {"x": "a", "axis": "axis"}, "b", name="sums"),
            layer("Conv", {"X": "b", "W": "v"}, "y"),
        ],
        inputs={"x": floats("N", 4, 6, 6)},
        outputs={"y": floats("N", 4, 6, 6)},
        tensors={
            "w": tensor((4, 4, 1, 1), 0),
            "v": tensor((4, 4, 1, 1), 1),
            "axis": Tensor.of(np.array(2)),
        },
        values={"a": floats("N", 4, 6, 6), "b": floats("N", 4, 6, 6)},
    )


# What runs where


@pytest.mark.parametrize("graph", [residual_net(), net(), *map(random_net, range(8))])
def test_a_net_computes_what_it_does_in_numpy(graph: Graph) -> None:
    (name, value), *_ = graph.free_inputs.items()
    sizes = {"N": 2, "H": 9, "W": 7}
    shape = [sizes.get(str(dim), dim) for dim in value.shape or ()]
    check(graph, {name: draw(*shape)})


def test_a_net_of_known_layers_is_one_plan_and_has_no_notes() -> None:
    prepared = check(net(), {"x": draw(2, 16, 9, 7)})
    assert kinds(prepared) == [Planned]
    assert prepared.notes == []


def test_what_has_no_kernel_runs_in_numpy_between_plans_and_is_named() -> None:
    prepared = check(apart(), {"x": draw(2, 4, 6, 6)})
    assert kinds(prepared) == [Planned, ByLayer, Planned]
    assert prepared.notes == ["CumSum 'sums': no kernel"]
    table = hubtool.info(apart(), backend="native")
    assert table.notes == prepared.notes == table.to_json()["notes"]
    assert hubtool.info(apart()).notes is None


def test_light_layers_alone_are_not_worth_a_plan() -> None:
    graph = apart()
    graph.layers[0] = layer("Relu", {"X": "x"}, "a", name="light")
    prepared = check(graph, {"x": draw(2, 4, 6, 6)})
    assert kinds(prepared) == [ByLayer, Planned]
    assert prepared.notes == [f"Relu 'light': {split.LIGHT}", "CumSum 'sums': no kernel"]


def test_other_element_types_are_numpys_to_the_bit() -> None:
    X, W = draw(1, 3, 5, 5).astype(np.float64), draw(2, 3, 3, 3).astype(np.float64)
    graph = alone("Conv", {"X": X, "W": W})
    prepared = made(graph)
    assert kinds(prepared) == [ByLayer]
    np.testing.assert_array_equal(prepared.run({"X": X})["y0"], expected(graph, {"X": X})["y0"])


def test_empty_arrays_run_in_numpy() -> None:
    prepared = made(net())
    assert prepared.run({"x": np.zeros((0, 16, 4, 4), np.float32)})["y"].shape == (0, 5)


def test_shapes_that_do_not_fit_are_refused_in_numpys_words() -> None:
    graph = net()
    graph.inputs["x"] = floats(None, None, None, None)
    with pytest.raises(RunError, match=r"while running .*Conv .* X has 3 channels"):
        made(graph).run({"x": draw(1, 3, 5, 5)})


def test_an_input_with_a_default_may_be_fed_although_it_is_a_weight() -> None:
    graph = net()
    graph.inputs["w"] = floats(32, 16, 3, 3)
    x, w = draw(1, 16, 5, 5), draw(32, 16, 3, 3, seed=5)
    check(graph, {"x": x})
    check(graph, {"x": x, "w": w})


def test_an_output_that_is_an_input_or_a_weight_is_a_copy() -> None:
    graph = net()
    graph.outputs = {"x": graph.inputs["x"], "w": floats(32, 16, 3, 3), **graph.outputs}
    x = draw(1, 16, 5, 5)
    found = made(graph).run({"x": x})
    for name, source in (("x", x), ("w", graph.tensors["w"].array)):
        np.testing.assert_array_equal(found[name], source)
        assert not np.shares_memory(found[name], source)


def test_a_graph_that_is_changed_later_changes_nothing() -> None:
    graph, x = net(), draw(1, 16, 5, 5)
    prepared, wanted = made(graph), expected(net(), {"x": x})["y"]
    graph.layers[1].op = "Neg"
    np.testing.assert_allclose(prepared.run({"x": x})["y"], wanted, atol=1e-4)


# Feeds and results


@pytest.mark.parametrize(
    "feed",
    [
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=3)[..., ::2],
        lambda x: (
            np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
        ),
        lambda x: x.astype(">f4"),
    ],
    ids=["fortran", "strided", "misaligned", "big-endian"],
)
def test_a_feed_may_lie_in_memory_as_it_likes(feed: Any) -> None:
    x = draw(2, 16, 5, 6)
    y = expected(net(), {"x": x})["y"]
    np.testing.assert_allclose(made(net()).run({"x": feed(x)})["y"], y, atol=2e-5 * abs(y).max())


def test_results_belong_to_the_caller() -> None:
    prepared, x = made(net()), draw(1, 16, 5, 5)
    first = prepared.run({"x": x})["y"]
    kept = first.copy()
    second = prepared.run({"x": x})["y"]
    second[:] = 0
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(prepared.run({"x": x})["y"], kept)


def test_plans_are_not_kept_in_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PLANS", 2)
    prepared = made(net())
    (part,) = prepared.parts
    for size in (4, 5, 4, 6, 4):
        prepared.run({"x": draw(1, 16, size, size)})
    assert [shape[0][2] for shape in part.plans] == [4, 6]  # 5 was not used for longest
    monkeypatch.setattr(runner, "ARENAS", 0)
    prepared.run({"x": draw(1, 16, 7, 7)})
    assert [shape[0][2] for shape in part.plans] == [7]


def test_one_model_runs_in_many_threads_at_once() -> None:
    prepared = made(net())
    feeds = [{"x": draw(1 + index % 3, 16, 8, 8, seed=index)} for index in range(12)]
    found: list[Any] = [None] * len(feeds)
    start = threading.Barrier(len(feeds))

    def run(index: int) -> None:
        start.wait()
        for _ in range(5):
            found[index] = prepared.run(feeds[index])["y"]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(feeds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, feed in enumerate(feeds):
        wanted = expected(net(), feed)["y"]
        np.testing.assert_allclose(found[index], wanted, atol=2e-5 * abs(wanted).max())
    assert len(prepared.parts[0].plans) == 3


def test_a_child_of_a_fork_runs_and_prepares_even_while_the_parent_prepares() -> None:
    prepared, x = made(net()), draw(1, 16, 8, 8)
    wanted = prepared.run({"x": x})["y"]
    with runner._making:  # as if another thread were just making a plan
        child = os.fork()
        if child == 0:
            same = np.array_equal(prepared.run({"x": x})["y"], wanted)
            anew = prepared.run({"x": draw(1, 16, 6, 6)})["y"].shape == (1, 5)
            os._exit(0 if same and anew else 1)
    assert os.waitpid(child, 0)[1] == 0


# Settings


def test_exact_tries_no_winograd_and_float32_does() -> None:
    ways = {}
    for precision in ("float32", "exact"):
        prepared = backend.prepare(net(), precision=precision, options=OFF)
        (part,) = prepared.parts
        lowered = part._lowered(((1, 16, 28, 28),), {})
        ways[precision] = {way.algorithm for known in lowered.choices.values() for way in known}
    assert ways["exact"] == {"direct"} < ways["float32"]


def test_exact_is_nearer_to_the_sum_of_products_than_winograd() -> None:
    x = draw(1, 16, 28, 28)
    W = net().tensors["w"].array
    graph = alone("Conv", {"X": x, "W": W}, pads=[1, 1, 1, 1])
    wide = alone("Conv", {"X": x.astype(float), "W": W.astype(float)}, pads=[1, 1, 1, 1])
    true = expected(wide, {"X": x.astype(float)})["y0"]
    exact = backend.prepare(graph, precision="exact", options=OFF).run({"X": x})["y0"]
    assert abs(exact - true).max() <= 2e-6 * abs(true).max()


def test_bfloat16_is_offered_where_the_engine_has_it() -> None:
    known = backend.precisions("cpu")
    assert ("bfloat16" in known) == library.has_bf16(library.isa())
    if "bfloat16" in known:
        x = draw(2, 16, 9, 9)
        wanted = expected(net(), {"x": x})["y"]
        found = backend.prepare(net(), precision="bfloat16", options=OFF).run({"x": x})["y"]
        error = abs(found - wanted).max() / abs(wanted).max()
        assert 0 < error <= 2e-2


def test_threads_come_from_the_call_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBTOOL_NATIVE_THREADS", "3")
    assert made(net()).settings.threads == 3
    assert backend.prepare(net(), threads=1, options=OFF).settings.threads == 1
    monkeypatch.setenv("HUBTOOL_NATIVE_THREADS", "many")
    with pytest.raises(BackendError, match="HUBTOOL_NATIVE_THREADS is 'many'"):
        made(net())
    monkeypatch.delenv("HUBTOOL_NATIVE_THREADS")
    assert made(net()).settings.threads == cores.usable()
    assert runner.pool(2) is runner.pool(2)


def listed_alone(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What `hubtool backends` lists where there are none but native and numpy."""
    for name in {*BACKENDS} - {"native", "numpy"}:
        monkeypatch.delitem(BACKENDS, name)
    return {row["name"]: row for row in hubtool.backends()}


def test_every_instruction_set_gives_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(2, 16, 12, 12)
    wanted = expected(net(), {"x": x})["y"]
    for isa in library.isas():
        monkeypatch.setenv("HUBTOOL_NATIVE_ISA", isa)
        assert backend.version().endswith(f" {isa}")
        found = made(net()).run({"x": x})["y"]
        np.testing.assert_allclose(found, wanted, atol=2e-5 * abs(wanted).max())
    monkeypatch.setenv("HUBTOOL_NATIVE_ISA", "abacus")
    with pytest.raises(BackendError, match="abacus"):
        made(net())
    listed = listed_alone(monkeypatch)
    assert not listed["native"]["available"] and "abacus" in listed["native"]["reason"]
    assert listed["numpy"]["available"]


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(BackendError, match="no device 'cuda'"):
        Model(net(), backend="native", device="cuda")
    with pytest.raises(InputError):
        Model(net(), backend="native").run({"x": draw(1, 3, 4, 4)})


# Tuning


def test_a_layer_is_done_in_the_way_that_is_fastest_and_the_first_of_equals() -> None:
    seconds = {"a": {"p": 2.0, "q": 1.0, "r": 3.0}, "b": {"p": 1.01, "q": 1.0}}

    class Part:
        def __init__(self, picked: dict[str, str]) -> None:
            self.layers = ["", "a", "b", "a"]
            self.picked = picked

        def run(self) -> Any:
            a, b = (seconds[name][self.picked[name]] for name in "ab")
            return np.array([9.0, a / 2, b, a / 2])

    choices = {name: [*ways] for name, ways in seconds.items()}
    assert tuned(choices, Part) == {"a": "q", "b": "p"}
    assert tuned({}, Part) == {}


def test_tuning_happens_once_for_a_shape_and_not_at_every_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[tuple[int, ...]] = []
    timed = Planned._timed

    def count(self: Planned, shapes: Any, *more: Any) -> Any:
        counted.append(shapes[0])
        return timed(self, shapes, *more)

    monkeypatch.setattr(Planned, "_timed", count)
    monkeypatch.setattr(runner, "TUNINGS", 2)
    monkeypatch.delenv("HUBTOOL_NATIVE_TUNE", raising=False)
    prepared = made(net(), tune=True)
    for size in (16, 16, 16, 18, 20, 18, 20):
        feeds = {"x": draw(1, 16, size, size)}
        wanted = expected(net(), feeds)["y"]
        np.testing.assert_allclose(prepared.run(feeds)["y"], wanted, atol=2e-5 * abs(wanted).max())
    assert {*counted} == {(1, 16, 16, 16), (1, 16, 18, 18)}
    monkeypatch.setenv("HUBTOOL_NATIVE_TUNE", "0")
    assert not backend.prepare(net()).settings.tune


def test_the_first_answer_is_by_rule_and_the_second_run_tunes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HUBTOOL_NATIVE_TUNE", raising=False)
    feeds = {"x": draw(1, 16, 16, 16)}
    for tune, before, after in ((True, 0, 1), ("first", 1, 1), (False, 0, 0)):
        prepared = made(net(), tune=tune)
        (part,) = prepared.parts
        first = prepared.run(feeds)["y"]
        assert part.tunings == before and bool(part.choices) == bool(before)
        second = prepared.run(feeds)["y"]
        assert part.tunings == after
        np.testing.assert_allclose(first, second, atol=2e-5 * abs(first).max())
    with pytest.raises(BackendError, match="tune='later'"):
        made(net(), tune="later")


# Where there is no engine


def test_without_an_engine_the_next_backend_is_the_default_and_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HUBTOOL_NATIVE_LIBRARY", str(tmp_path / "none.so"))
    assert "engine cannot be loaded" in (backend.available() or "")
    assert default() == "onnxruntime"
    with pytest.raises(BackendError, match="the native backend is not available: the C\\+\\+"):
        Model(net(), backend="native")
    assert Model(net()).run({"x": draw(1, 16, 4, 4)})["y"].shape == (1, 5)
    rows = listed_alone(monkeypatch)
    assert not rows["native"]["available"] and "engine" in rows["native"]["reason"]
    assert rows["numpy"]["default"] and not rows["native"]["default"]


def test_the_backend_is_in_a_module_of_its_own() -> None:
    assert BACKENDS["native"] == backend.__name__
    assert native.library is library  # the door, not the backend's `library`, which is "numpy"


def test_sequences_and_text_pass_through() -> None:
    graph = Graph(
        layers=[
            layer("SequenceConstruct", {"inputs": ["x", "x"]}, "s"),
            layer("StringConcat", {"X": "t", "Y": "t"}, "u"),
        ],
        inputs={"x": floats(2), "t": Value("tensor", "string", (1,))},
        outputs={"s": Value("sequence", "float32", None), "u": Value("tensor", "string", (1,))},
    )
    x, t = draw(2), np.array(["ab"], object)
    found = made(graph).run({"x": x, "t": t})
    assert found["u"].tolist() == ["abab"]
    assert [item.tolist() for item in found["s"]] == [x.tolist()] * 2
    assert not np.shares_memory(found["s"][0], x)


def _weighed(op: str, dtype: str, shape: tuple[int, ...]) -> Graph:
    """A graph of one layer with a weight of that type and shape."""
    return Graph(
        layers=[Layer("it", op, {"X": "x", "W": "w"}, ["y"])],
        inputs={"x": Value("tensor", dtype, (1, *shape[1:]))},
        outputs={"y": Value("tensor", dtype, None)},
        tensors={"w": Tensor.of(np.zeros(shape, dtype))},
    )


@pytest.mark.parametrize(
    ("graph", "chosen"),
    [
        (_weighed("Conv", "float32", (2, 2, 3, 3)), "native"),
        (_weighed("Conv", "float16", (2, 2, 3, 3)), "onnxruntime"),
        (_weighed("Conv", "float32", (2, 2, 3, 3, 3)), "onnxruntime"),
        (_weighed("ConvTranspose", "float32", (2, 2, 3, 3)), "onnxruntime"),
        (_weighed("com.microsoft.MatMulNBits", "float32", (2, 2)), "onnxruntime"),
        (_weighed("Relu", "float16", (2, 2)), "native"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.layers[0].op,
)
def test_a_model_whose_heavy_layers_have_no_kernel_goes_to_the_next_backend(graph, chosen):
    assert default(graph) == chosen


def test_a_heavy_layer_in_a_branch_counts():
    inner = _weighed("Conv", "float16", (2, 2, 3, 3))
    branch = Layer("if", "If", {"cond": "c"}, ["y"], {"then_branch": inner})
    outer = Graph(layers=[branch], inputs={"c": Value("tensor", "bool", ())})
    assert default(outer) == "onnxruntime"
