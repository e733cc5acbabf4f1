"""What may be fed to a model, what comes out, and how backends are chosen."""

from __future__ import annotations

import asyncio
import threading

import jax
import numpy as np
import pytest
import torch

import hubtool
from hubtool import Graph, InputError, Layer, Model, Tensor, Value
from hubtool.errors import BackendError, RunError, UnsupportedError

BACKENDS = ["numpy", "native", "torch", "xla", "onnxruntime"]


def affine() -> Graph:
    """y = x @ w + b, over a batch of open size."""
    w, b = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones(2, np.float32)
    return Graph(
        layers=[
            Layer("dot", "MatMul", {"A": "x", "B": "w"}, ["xw"]),
            Layer("add", "Add", {"A": "xw", "B": "b"}, ["y"]),
        ],
        inputs={"x": Value("tensor", "float32", ("N", 3))},
        outputs={"y": Value("tensor", "float32", ("N", 2))},
        tensors={"w": Tensor.of(w), "b": Tensor.of(b)},
        meta={"name": "affine"},
    )


def pair() -> Graph:
    """y = a + b; a and b share the size N, and b has a default."""
    return Graph(
        layers=[Layer("add", "Add", {"A": "a", "B": "b"}, ["y"])],
        inputs={
            "a": Value("tensor", "float32", ("N", 2)),
            "b": Value("tensor", "float32", ("N", 2)),
        },
        outputs={"y": Value("tensor", "float32", ("N", 2))},
        tensors={"b": Tensor.of(np.full((1, 2), 10, np.float32))},
    )


X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
Y = X @ np.arange(6, dtype=np.float32).reshape(3, 2) + 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "x",
    [X, torch.from_numpy(X.copy()), X.tolist(), np.asfortranarray(X), X[::1, ::1]],
    ids=["numpy", "torch", "list", "fortran", "view"],
)
def test_any_array_goes_in_and_numpy_comes_out(backend: str, x: object) -> None:
    y = Model(affine(), backend=backend)(x)
    assert type(y) is np.ndarray
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, Y, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_model_takes_every_batch(backend: str) -> None:
    model = Model(affine(), backend=backend)
    for batch in (1, 7, 0):
        assert model(np.ones((batch, 3), np.float32)).shape == (batch, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_fed_is_never_written_to(backend: str) -> None:
    x = X.copy()
    y = Model(affine(), backend=backend)(x)
    y[:] = 0  # the result is the caller's own
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_input_with_a_default_may_be_left_out_or_given(backend: str) -> None:
    model = Model(pair(), backend=backend)
    a = np.ones((1, 2), np.float32)
    assert list(model.inputs) == ["a"]
    np.testing.assert_array_equal(model.run({"a": a})["y"], a + 10)
    np.testing.assert_array_equal(model.run({"a": a, "b": a})["y"], a + 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({"z": X}, ["'z' is no input", "input 'x' is missing: float32[N,3] is wanted"]),
        ({"x": X[:, :2]}, ["input 'x' is float32[2,2], float32[N,3] is wanted"]),
        ({"x": X[0]}, ["input 'x' is float32[3], float32[N,3] is wanted"]),
        (
            {"x": X.astype(np.float64)},
            ["input 'x' is float64[2,3], float32[N,3] is wanted; x.astype('float32') casts"],
        ),
        ({"x": object()}, ["input 'x' is no array: object has neither __array__ nor __dlpack__"]),
        ({"x": None}, ["input 'x' is no array"]),
        ({}, ["input 'x' is missing"]),
    ],
)
def test_wrong_feeds_are_refused_before_the_run(
    backend: str, feeds: dict[str, object], said: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        Model(affine(), backend=backend).run(feeds)
    for text in said:
        assert text in str(caught.value)
    assert "Its inputs are 'x' float32[N,3]." in str(caught.value)


def test_sizes_of_one_name_must_be_equal() -> None:
    model = Model(pair(), backend="numpy")
    with pytest.raises(InputError, match="size 3 for 'N', which is 2 in 'a'"):
        model.run({"a": np.ones((2, 2), np.float32), "b": np.ones((3, 2), np.float32)})


def test_calling_wants_one_input_and_one_output() -> None:
    graph = pair()
    graph.tensors.clear()
    with pytest.raises(InputError, match="2 inputs and 1 outputs"):
        Model(graph, backend="numpy")(X)


def test_a_layer_that_fails_is_named_with_its_shapes() -> None:
    graph = affine()
    graph.inputs["x"] = Value("tensor", "float32", None)
    with pytest.raises(RunError, match=r"while running MatMul 'dot' \(A float32\[1,5\], B float32"):
        Model(graph, backend="numpy")(np.ones((1, 5), np.float32))


def test_an_output_that_no_memory_holds_is_an_error() -> None:
    graph = Graph(
        layers=[Layer("grow", "Expand", {"input": "x", "shape": "s"}, ["y"])],
        inputs={"x": Value("tensor", "float32", (1,))},
        outputs={"y": Value("tensor", "float32", None)},
        tensors={"s": Tensor.of(np.array([10**15]))},
    )
    with pytest.raises(RunError, match="more memory than there is"):
        Model(graph, backend="numpy")(np.ones(1, np.float32))


def test_weights_that_lie_askew_in_a_file_are_computed_with_aligned() -> None:
    graph = affine()
    w = graph.tensors["w"].array
    askew = np.frombuffer(b"\0" + w.tobytes(), np.uint8)[1:].view(np.float32).reshape(w.shape)
    assert not askew.flags.aligned
    graph.tensors["w"] = Tensor.of(askew)
    assert graph.tensors["w"].aligned.flags.aligned
    for backend in BACKENDS:
        np.testing.assert_allclose(Model(graph, backend=backend)(X), Y, rtol=1e-6)


def test_what_no_operator_is_known_for_is_listed_whole() -> None:
    graph = affine()
    graph.layers[0].op, graph.layers[1].op = "Frobnicate", "com.example.Twist"
    with pytest.raises(UnsupportedError) as caught:
        Model(graph, backend="numpy")
    assert len(caught.value.problems) == 2
    assert "layer 'dot' (Frobnicate)" in str(caught.value)


def test_an_unknown_backend_or_device_names_those_there_are() -> None:
    with pytest.raises(BackendError, match="there is no backend 'numpi'"):
        Model(affine(), backend="numpi")
    for backend in BACKENDS:
        with pytest.raises(BackendError, match="cpu"):
            Model(affine(), backend=backend, device="quantum")


def test_to_makes_another_model_and_leaves_this_one() -> None:
    first = Model(affine(), backend="numpy")
    second = first.to("torch")
    assert (first.backend, second.backend) == ("numpy", "torch")
    assert second.graph is first.graph
    np.testing.assert_allclose(first(X), second(X), rtol=1e-6)


def test_the_default_backend_is_chosen_by_block_thread_and_task() -> None:
    graph = affine()
    assert Model(graph).backend == "native"
    seen: dict[str, str] = {}

    def elsewhere() -> None:
        seen["thread"] = Model(graph).backend

    async def task(name: str) -> str:
        with hubtool.default_backend(name):
            await asyncio.sleep(0)
            return Model(graph).backend

    async def both() -> list[str]:
        return await asyncio.gather(task("numpy"), task("torch"))

    with hubtool.default_backend("numpy"):
        assert Model(graph).backend == "numpy"
        assert Model(graph, backend="torch").backend == "torch"
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert seen["thread"] == "native"
    assert asyncio.run(both()) == ["numpy", "torch"]
    assert Model(graph).backend == "native"


def test_set_default_backend_holds_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubtool.model._everywhere", (None, None))
    hubtool.set_default_backend("numpy")
    assert Model(affine()).backend == "numpy"
    with pytest.raises(BackendError):
        hubtool.set_default_backend("numpi")
    with hubtool.default_backend("torch"):
        assert Model(affine()).backend == "torch"


def test_one_model_runs_in_many_threads() -> None:
    for backend in BACKENDS:
        model = Model(affine(), backend=backend)
        results: list[np.ndarray] = [np.empty(0)] * 8

        def work(index: int) -> None:
            for _ in range(20):
                results[index] = model(X + index)  # noqa: B023

        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for index, result in enumerate(results):
            np.testing.assert_allclose(
                result, (X + index) @ affine().tensors["w"].array + 1, rtol=1e-5
            )


def test_what_is_on_another_device_is_refused_with_the_call_that_moves_it() -> None:
    far = torch.zeros(2, 3, device="meta")
    for backend in BACKENDS:
        with pytest.raises(InputError) as caught:
            Model(affine(), backend=backend).run({"x": far})
        moves = f"hubtool.transfer(x, '{backend}', 'cpu') moves it"
        assert f"input 'x' is on meta, the model on cpu; {moves}" in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_stays_on_the_device_goes_into_the_next_model_there(backend: str) -> None:
    graph = affine()
    graph.tensors["w"] = Tensor.of(np.eye(3, dtype=np.float32))
    graph.tensors["b"] = Tensor.of(np.ones(3, np.float32))
    graph.outputs["y"] = Value("tensor", "float32", ("N", 3))
    model = Model(graph, backend=backend)
    y = model(X, returns="device")
    own = {"torch": torch.Tensor, "xla": jax.Array}
    assert isinstance(y, own.get(backend, np.ndarray))
    np.testing.assert_array_equal(model(y), X + 2)
    np.testing.assert_array_equal(model(y), X + 2)  # what was fed is still what it was


def test_an_unknown_way_to_return_is_refused() -> None:
    with pytest.raises(InputError, match="'numpy' or 'device'"):
        Model(affine(), backend="numpy").run({"x": X}, returns="cuda")


def test_transfer_moves_any_array_and_shares_what_is_there_already() -> None:
    tensor = hubtool.transfer(X, "torch")
    assert isinstance(tensor, torch.Tensor) and tensor.data_ptr() == X.ctypes.data
    assert hubtool.transfer(tensor, "torch") is tensor
    assert np.shares_memory(hubtool.transfer(tensor, "numpy"), X)
    assert hubtool.transfer(tensor.requires_grad_(), "numpy").tolist() == X.tolist()
    assert hubtool.transfer([[1, 2]], "torch").tolist() == [[1, 2]]
    assert np.shares_memory(hubtool.transfer(X, "onnxruntime"), X)
    with pytest.raises(BackendError, match=r"no device 'cuda:9' here\nDevices: cpu"):
        hubtool.transfer(X, "torch", "cuda:9")
    with pytest.raises(InputError, match="object has neither"):
        hubtool.transfer(object(), "numpy")


def test_a_model_tells_what_runs_apart_and_why() -> None:
    graph = Graph(
        layers=[Layer("find", "NonZero", {"X": "x"}, ["y"])],
        inputs={"x": Value("tensor", "float32", (2, 3))},
        outputs={"y": Value("tensor", "int64", (2, None))},
    )
    assert Model(graph, backend="xla").notes == [
        "NonZero 'find': how much it gives depends on the elements"
    ]
    assert Model(graph, backend="numpy").notes == []
    assert Model(affine(), backend="xla").notes == []
