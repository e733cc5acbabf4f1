"""Runs that are recorded or compiled for their shapes: no GPU is needed to see that keys, buffers
and memory are right. `Fake` records by remembering the function, and replays it into the very
memory that its results had the first time, as a CUDA graph does; the device "meta", which has
shapes and no elements, stands for one that must not be waited for."""

import threading
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from passes.builders import floats, layer, residual_net

import hubtool
from hubtool import passes, zoo
from hubtool.backends import torch as backend
from hubtool.backends.torch_recorded import Compiler, Cuda, Graphs, PerShape
from hubtool.errors import BackendError, UnsupportedError
from hubtool.graph import Graph, Tensor, Value
from hubtool.interpreter import Program

from .grids import assert_close, defined, draw
from .test_torch_precision import transformer


class Fake:
    """A recorder whose recordings write where they wrote before; log is what it was asked for."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails = False
        self.busy = threading.Lock()

    @contextmanager
    def aside(self, feeds, made):
        assert self.busy.acquire(blocking=False), "two runs at once"
        try:
            yield
        finally:
            self.busy.release()

    def warm(self, function):
        self.log.append("warm")
        function()

    def record(self, function):
        self.log.append("record")
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        made = function()

        def again() -> None:
            self.log.append("replay")
            for name, value in function().items():
                if isinstance(value, torch.Tensor):
                    made[name].copy_(value)

        return made, again


def recorded(graph: Graph, limit: int = 8) -> tuple[backend.Runner, Fake]:
    """The graph's runner as it would be on a GPU, with a stand-in for it."""
    runner, fake = backend.prepare(graph), Fake()
    assert runner._unfit() == []
    runner.graphs = Graphs(runner._run, fake, runner.space.keeping)
    runner.repeated = PerShape(runner.graphs, runner.static, limit, alone=True)
    return runner, fake


def resizer() -> Graph:
    """A Resize to a size that is fed, with an Add of what the host made."""
    return Graph(
        layers=[
            layer("Resize", {"X": "x", "sizes": "size"}, "y", mode="linear", antialias=1),
            layer("Add", {"A": "y", "B": "b"}, "z"),
        ],
        inputs={"x": floats(1, 1, None, 4), "size": Value("tensor", "int64", (4,))},
        outputs={"z": floats(1, 1, None, None)},
        tensors={"b": Tensor.of(np.float32(1))},
    )


# CUDA graphs


def test_a_shape_is_recorded_once_and_replayed():
    graph = residual_net()
    runner, fake = recorded(graph)
    for seed in range(3):
        feeds = {"data": draw(2, 4, 6, 6, seed=seed)}
        assert_close(runner.run(feeds), defined(graph, feeds), 1e-5)
    assert fake.log == ["warm", "record", "replay", "replay", "replay"]
    feeds = {"data": draw(1, 4, 6, 6)}
    assert_close(runner.run(feeds), defined(graph, feeds), 1e-5)
    assert fake.log[5:] == ["warm", "record", "replay"]


def test_the_elements_of_what_makes_shapes_are_part_of_the_key():
    graph, x = resizer(), draw(1, 1, 4, 4)
    runner, fake = recorded(graph)
    for width in (8, 2, 8):
        feeds = {"x": x, "size": np.asarray([1, 1, 4, width])}
        assert_close(runner.run(feeds), defined(graph, feeds), 1e-5)
        on_device = {name: torch.from_numpy(feed) for name, feed in feeds.items()}
        assert_close(runner.run(on_device), defined(graph, feeds), 1e-5)
    assert fake.log.count("record") == 2 and fake.log.count("replay") == 6


def test_only_so_many_are_kept_and_the_one_longest_unused_goes_first():
    runner, fake = recorded(residual_net(), limit=2)

    def run(batch: int) -> int:
        """How many were recorded for it."""
        before = fake.log.count("record")
        runner.run({"data": draw(batch, 4, 6, 6)})
        return fake.log.count("record") - before

    assert [run(n) for n in (1, 2, 1, 3, 1, 2)] == [1, 1, 0, 1, 0, 1]
    assert len(runner.repeated.runs) == 2


@pytest.mark.parametrize("keep", [False, True])
def test_nobodys_memory_is_overwritten_by_the_next_run(keep):
    graph = residual_net()
    runner, _ = recorded(graph)
    feeds = [{"data": draw(2, 4, 6, 6, seed=seed)} for seed in range(2)]
    first = runner.run(feeds[0], keep)
    before = {name: torch.as_tensor(value).clone() for name, value in first.items()}
    second = runner.run(feeds[1], keep)
    for name, value in first.items():
        assert torch.equal(torch.as_tensor(value), before[name])
        assert not torch.equal(torch.as_tensor(second[name]), before[name])
    fed = torch.from_numpy(feeds[0]["data"].copy())
    runner.run({"data": fed}, keep)
    runner.run(feeds[1], keep)
    np.testing.assert_array_equal(fed, feeds[0]["data"])


def test_what_a_run_makes_on_the_host_crosses_once(monkeypatch):
    runner, _ = recorded(resizer())
    moved, move = [], backend.TorchSpace._moved
    monkeypatch.setattr(
        backend.TorchSpace, "_moved", lambda self, a: (moved.append(a), move(self, a))[1]
    )
    feeds = {"x": draw(1, 1, 4, 4), "size": np.asarray([1, 1, 2, 2])}
    warm, record = Fake.warm, Fake.record
    crossed = []

    def spy(self, function, of=None):
        before = len(moved)
        made = of(self, function)
        crossed.append(len(moved) - before)
        return made

    monkeypatch.setattr(Fake, "warm", lambda self, f: spy(self, f, warm))
    monkeypatch.setattr(Fake, "record", lambda self, f: spy(self, f, record))
    runner.run(feeds)
    assert crossed[0] > 0 and crossed[1] == 0


def test_threads_may_share_a_recorded_model():
    graph = residual_net()
    runner, _ = recorded(graph, limit=2)
    feeds = [{"data": draw(1 + n % 3, 4, 6, 6, seed=n)} for n in range(6)]
    wanted = [defined(graph, each) for each in feeds]
    problems: list[Any] = []

    def work(index: int) -> None:
        try:
            for _ in range(5):
                assert_close(runner.run(feeds[index]), wanted[index], 1e-5)
        except AssertionError as error:
            problems.append(error)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert problems == []


def test_what_cannot_be_recorded_after_all_runs_with_a_warning_and_a_note():
    graph, feeds = residual_net(), {"data": draw(2, 4, 6, 6)}
    runner, fake = recorded(graph)
    fake.fails = True
    with pytest.warns(UserWarning, match=r"data \[2, 4, 6, 6\] could not be recorded .*capturing"):
        made = runner.run(feeds)
    assert_close(made, defined(graph, feeds), 1e-5)
    assert_close(runner.run(feeds), defined(graph, feeds), 1e-5)
    assert len(runner.notes) == 1 and "not permitted" in runner.notes[0]


def test_layers_that_need_the_host_are_named_and_refused_where_it_was_asked_for():
    graph = Graph(
        layers=[layer("NonZero", {"X": "x"}, "places", name="find")],
        inputs={"x": floats(4)},
        outputs={"places": Value("tensor", "int64", (1, None))},
    )
    line = "NonZero 'find': how much it gives depends on the elements"
    assert backend.prepare(graph).host_layers == [line]
    with pytest.raises(UnsupportedError, match="cannot do compile for this model") as caught:
        backend.prepare(graph, options={"compile": True})
    assert caught.value.problems == [line]
    with pytest.raises(UnsupportedError, match="cannot do cuda_graphs"):
        backend.Runner(Program(graph, backend.TorchSpace("cpu")), None, cuda_graphs=True)
    quiet = backend.Runner(Program(graph, backend.TorchSpace("meta")), None, cuda_graphs=None)
    assert quiet.graphs is None and quiet.notes == [f"no CUDA graphs: {line}"]


def test_a_sequence_is_not_recorded():
    graph = Graph(
        layers=[layer("SequenceConstruct", {"inputs": ["x", "x"]}, "s")],
        inputs={"x": floats(4)},
        outputs={"s": Value("sequence", "float32", None)},
    )
    assert backend.prepare(graph)._unfit() == ["output 's' is a sequence"]


# No waiting for the device


def on_meta(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    """Run on a device without elements: whoever wants to see one fails."""
    program = Program(passes.prepare(graph), backend.TorchSpace("meta"))
    runner = backend.Runner(backend.at_hand(program), None)
    assert runner.host_layers == []
    with torch.inference_mode():
        return runner._run({name: runner._fed(name, feed) for name, feed in feeds.items()})


def test_a_resnet_and_a_transformer_never_ask_the_device_for_an_element(tmp_path):
    zoo.sketch("resnet18-v1", tmp_path / "sketch.onnx")
    graph = hubtool.read(tmp_path / "sketch.onnx")
    (logits,) = on_meta(graph, {"data": draw(2, 3, 224, 224)}).values()
    assert logits.device.type == "meta" and tuple(logits.shape) == (2, 1000)
    feeds = {"x": draw(2, 5, 16), "mask": np.ones((2, 1, 5), np.float32)}
    assert tuple(on_meta(transformer(), feeds)["y"].shape) == (2, 5, 16)
    size = np.asarray([1, 1, 6, 7])
    assert on_meta(resizer(), {"x": draw(1, 1, 4, 4), "size": size})["z"].shape[-2:] == (6, 7)


def test_who_does_ask_is_found_out():
    graph = Graph(
        layers=[layer("NonZero", {"X": "x"}, "places")],
        inputs={"x": floats(4)},
        outputs={"places": Value("tensor", "int64", (1, None))},
    )
    with pytest.raises(AssertionError):
        on_meta(graph, {"x": draw(4)})


def test_a_weight_that_is_a_number_and_more_is_at_hand():
    graph = Graph(
        layers=[
            layer("Range", {"start": "zero", "limit": "n", "delta": "one"}, "r"),
            layer("Add", {"A": "x", "B": "one"}, "y"),
        ],
        inputs={"x": floats(4), "n": floats()},
        outputs={"r": floats(None), "y": floats(4)},
        tensors={"zero": Tensor.of(np.float32(0)), "one": Tensor.of(np.float32(1))},
    )
    feeds = {"x": draw(4), "n": np.asarray(3, np.float32)}
    assert [*on_meta(graph, feeds)] == ["r", "y"]
    assert_close(backend.prepare(graph).run(feeds), defined(graph, feeds), 0)


# Compiled


def compiled(graph: Graph, **options: Any) -> backend.Runner:
    runner = backend.prepare(graph, options={"compile": True})
    make = Compiler(runner._run, torch, **options)
    runner.repeated = PerShape(make, runner.static, 8, alone=False)
    return runner


def test_a_compiled_model_computes_what_the_net_says_for_every_shape():
    graph = residual_net()
    runner = compiled(graph, backend="eager")
    for batch, seed in ((2, 0), (2, 1), (1, 2)):
        feeds = {"data": draw(batch, 4, 6, 6, seed=seed)}
        assert_close(runner.run(feeds), defined(graph, feeds), 1e-5)
    assert len(runner.repeated.runs) == 2
    sized = compiled(resizer(), backend="eager")
    for width in (8, 2):
        feeds = {"x": draw(1, 1, 4, 4), "size": np.asarray([1, 1, 4, width])}
        assert_close(sized.run(feeds), defined(resizer(), feeds), 1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # inductor's own imports
def test_inductor_compiles_a_small_net():
    graph = Graph(
        layers=[layer("Mul", {"A": "x", "B": "x"}, "s"), layer("Relu", {"X": "s"}, "y")],
        inputs={"x": floats(3)},
        outputs={"y": floats(3)},
    )
    x = draw(3)
    runner = backend.prepare(graph, options={"compile": True})
    np.testing.assert_allclose(runner.run({"x": x})["y"], x * x)
    y = runner.run({"x": x}, keep=True)["y"]
    y += 1
    np.testing.assert_allclose(runner.run({"x": x})["y"], x * x)


def test_what_torch_cannot_compile_is_said_with_the_way_out():
    def broken(module, inputs):
        raise RuntimeError("no compiler found")

    runner = compiled(residual_net(), backend=broken)
    with pytest.raises(
        BackendError, match=r"torch cannot compile this model: .*\nLeave the option"
    ):
        runner.run({"data": draw(2, 4, 6, 6)})


# What touches torch.cuda, by the order of its calls


class Device:
    """torch as `Cuda` sees it, writing down what it is asked for."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.cuda = self
        self.Tensor = Lent

    def Stream(self, device):
        return Stream("side", self.log)

    def current_stream(self, device):
        return Stream("current", self.log)

    @contextmanager
    def stream(self, stream):
        self.log.append(f"in {stream.name}")
        yield
        self.log.append(f"out {stream.name}")

    def CUDAGraph(self):
        return self

    @contextmanager
    def graph(self, graph, *, stream, capture_error_mode):
        self.log.append(f"capture on {stream.name}, {capture_error_mode}")
        yield
        self.log.append("captured")

    def replay(self) -> None:
        self.log.append("replay")


class Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


class Lent:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def record_stream(self, stream) -> None:
        self.log.append(f"{self.name} is used on {stream.name}")


def test_a_recorded_run_waits_for_its_caller_and_he_for_it():
    device = Device()
    cuda, made = Cuda(device, "cuda:0"), {}
    with cuda.aside({"x": Lent("x", device.log), "size": np.zeros(1)}, made):
        made["y"] = Lent("y", device.log)
    assert device.log == [
        *("side waits for current", "x is used on side", "in side", "out side"),
        *("current waits for side", "y is used on current"),
    ]


def test_a_recording_is_warmed_up_and_made_on_the_side():
    device = Device()
    cuda, runs = Cuda(device, "cuda:0"), []
    cuda.warm(lambda: runs.append(1))
    assert len(runs) == 3
    made, again = cuda.record(lambda: {"y": len(device.log)})
    again()
    assert made == {"y": 1}
    assert device.log == ["capture on side, thread_local", "captured", "replay"]
