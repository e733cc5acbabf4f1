import numpy as np
import pytest
from passes.builders import layer, random_net, residual_net

from hubtool.backends import numpy as backend
from hubtool.errors import BackendError, RunError, UnsupportedError
from hubtool.graph import Graph, Tensor, Value
from hubtool.interpreter import Program

from .grids import ACTIVATIONS, CONVS, alone, assert_close, defined, draw


def overridden(graph, feeds):
    return Program(graph, backend.NumpySpace()).run(feeds)


@pytest.mark.parametrize("index", range(len(CONVS)))
def test_conv_is_what_its_definition_says(index):
    inputs, attrs = CONVS[index]
    graph, feeds = alone("Conv", inputs, **attrs), {"X": inputs["X"]}
    assert_close(overridden(graph, feeds), defined(graph, feeds), 1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [None, (2, 4, 5, 5), (4, 1, 1), (3, 2, 4, 5, 5)], ids=str)
def test_fused_conv_is_what_its_definition_says(activation, residual):
    inputs = {"X": draw(2, 3, 5, 5), "W": draw(4, 3, 3, 3), "B": draw(4)}
    if residual is not None:
        inputs["Z"] = draw(*residual, seed=1)
    attrs = {"activation": activation} if activation else {}
    if ACTIVATIONS[activation]:
        attrs["activation_params"] = ACTIVATIONS[activation]
    graph = alone("com.microsoft.FusedConv", inputs, pads=[1, 1, 1, 1], **attrs)
    feeds = {"X": inputs["X"]}
    assert_close(overridden(graph, feeds), defined(graph, feeds), 1e-5)


@pytest.mark.parametrize(
    ("inputs", "attrs", "reason"),
    [
        ({"X": draw(1, 5, 4, 4), "W": draw(4, 3, 3, 3)}, {}, "X has 5 channels"),
        ({"X": draw(1, 4, 4, 4), "W": draw(3, 2, 3, 3)}, {"group": 2}, "3 channels"),
        ({"X": draw(1, 3, 4, 4), "W": draw(4, 3, 3, 3)}, {"kernel_shape": [2, 2]}, "kernel_shape"),
        ({"X": draw(1, 3, 2, 2), "W": draw(4, 3, 3, 3)}, {}, "does not fit"),
    ],
)
def test_what_does_not_fit_is_said_in_the_words_of_the_definition(inputs, attrs, reason):
    with pytest.raises(RunError, match=reason):
        overridden(alone("Conv", inputs, **attrs), {"X": inputs["X"]})


@pytest.mark.parametrize("graph", [residual_net(), *map(random_net, range(5))])
def test_a_prepared_net_computes_what_the_net_says(graph):
    feeds = {"data": draw(2, 4, 6, 6)}
    assert_close(backend.prepare(graph).run(feeds), defined(graph, feeds), 1e-5)


def test_the_graph_that_is_prepared_stays_as_it_is():
    graph = residual_net()
    before = str(graph), [*graph.tensors]
    backend.prepare(graph)
    assert (str(graph), [*graph.tensors]) == before


def test_outputs_share_no_memory_with_feeds_and_weights():
    weight = draw(3)
    weight.flags.writeable = False
    graph = Graph(
        layers=[layer("Identity", {"input": "x"}, "y")],
        inputs={"x": Value("tensor", "float32", (3,))},
        outputs={name: Value("tensor", "float32", (3,)) for name in ("y", "w")},
        tensors={"w": Tensor.of(weight)},
    )
    x = draw(3, seed=1)
    results = backend.prepare(graph).run({"x": x})
    np.testing.assert_array_equal(results["y"], x)
    np.testing.assert_array_equal(results["w"], weight)
    assert not any(np.shares_memory(results["y"], array) for array in (x, weight))
    results["w"] += 1
    np.testing.assert_array_equal(weight, draw(3))


def test_threads_are_accepted_and_change_nothing():
    graph = residual_net()
    feeds = {"data": draw(2, 4, 6, 6)}
    one, two = (backend.prepare(graph, threads=count).run(feeds) for count in (1, 2))
    assert_close(one, two, 0)


def test_there_is_one_device():
    assert backend.devices() == ["cpu"]
    with pytest.raises(BackendError, match=r"no device 'cuda' here\nDevices: cpu\."):
        backend.prepare(residual_net(), "cuda")


def test_it_is_available_in_the_version_of_numpy():
    assert backend.available() is None
    assert backend.version() == np.__version__


def test_what_hubtool_has_not_is_named_with_its_layer():
    graph = residual_net()
    graph.layers[3].op = "Frobnicate"
    with pytest.raises(UnsupportedError, match="no operator Frobnicate"):
        backend.prepare(graph)
