from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hubtool.graph import Graph, Tensor, Value
from hubtool.passes import fold_batch_norm

from .builders import floats, layer, run, tensor

STATISTICS = ("scale", "B", "input_mean", "input_var")


def normed(
    op: str,
    w: tuple[int, ...],
    channels: int,
    x: tuple[int, ...],
    dtype: str = "float32",
    **more: Any,
) -> Graph:
    """The layer `op` with a weight of shape w, and a BatchNormalization after it.

    more: the layer's attributes, and `b`, the shape of its bias.
    """
    formals = {"Gemm": ("A", "B", "C")}.get(op, ("X", "W", "B"))
    tensors = {"w": tensor(w, 1, dtype)}
    if "b" in more:
        tensors["b"] = tensor(more.pop("b"), 2, dtype)
    inputs = dict(zip(formals, ("x", *tensors), strict=False))
    norm = {}
    for seed, formal in enumerate(STATISTICS):
        norm[formal] = f"norm_{formal}"
        array = np.random.default_rng(seed).uniform(0.5, 2, channels).astype(dtype)
        tensors[f"norm_{formal}"] = Tensor.of(array)
    return Graph(
        layers=[
            layer(op, inputs, "a", **more),
            layer("BatchNormalization", {"X": "a", **norm}, "y", epsilon=1e-3),
        ],
        inputs={"x": Value("tensor", dtype, x)},
        outputs={"y": Value("tensor", dtype, None)},
        tensors=tensors,
    )


FOLDED = {
    "conv": normed("Conv", (6, 4, 3, 3), 6, (2, 4, 8, 8)),
    "conv with bias": normed("Conv", (6, 4, 3, 3), 6, (2, 4, 8, 8), b=(6,)),
    "grouped 1-D conv": normed("Conv", (6, 2, 3), 6, (2, 4, 8), group=2, b=(6,)),
    "3-D conv": normed("Conv", (6, 4, 2, 2, 2), 6, (2, 4, 5, 5, 5)),
    "conv in float64": normed("Conv", (6, 4, 3, 3), 6, (2, 4, 8, 8), "float64", b=(6,)),
    "transposed conv": normed("ConvTranspose", (4, 6, 3, 3), 6, (2, 4, 5, 5), b=(6,)),
    "grouped transposed conv": normed("ConvTranspose", (4, 3, 3, 3), 6, (2, 4, 5, 5), group=2),
    "gemm": normed("Gemm", (4, 6), 6, (2, 4)),
    "gemm scaled": normed("Gemm", (6, 4), 6, (2, 4), b=(6,), transB=1, alpha=0.5, beta=2.0),
    "gemm with one number": normed("Gemm", (4, 6), 6, (2, 4), b=()),
    "gemm with a row": normed("Gemm", (4, 6), 6, (2, 4), b=(1, 6)),
}


@pytest.mark.parametrize("graph", FOLDED.values(), ids=FOLDED)
def test_the_normalization_is_folded_into_the_weights(graph):
    folded = fold_batch_norm(graph)
    assert [made.op for made in folded.layers] == [graph.layers[0].op]
    before, after = run(graph)["y"], run(folded)["y"]
    assert before.dtype == after.dtype
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()


def test_the_folded_weights_are_rounded_once():
    graph = normed("Conv", (6, 4, 3, 3), 6, (2, 4, 8, 8), "float16", b=(6,))
    folded = fold_batch_norm(graph)
    w, b, scale, beta, mean, var = (
        tensor.array.astype(np.float64) for tensor in graph.tensors.values()
    )
    s = scale / np.sqrt(var + 1e-3)
    W_folded = folded.tensors[folded.layers[0].inputs["W"]].array
    B_folded = folded.tensors[folded.layers[0].inputs["B"]].array
    np.testing.assert_array_equal(W_folded, (w * s[:, None, None, None]).astype(np.float16))
    np.testing.assert_array_equal(B_folded, ((b - mean) * s + beta).astype(np.float16))


def test_bfloat16_stays_bfloat16():
    graph = normed("Conv", (6, 4, 3, 3), 6, (2, 4, 8, 8), ml_dtypes.bfloat16)
    folded = fold_batch_norm(graph)
    assert {tensor.dtype for tensor in folded.tensors.values()} == {"bfloat16"}
    assert len(folded.layers) == 1


def test_a_shared_weight_stays_as_it_is_for_the_others():
    graph = normed("Conv", (6, 4, 3, 3), 6, (2, 4, 8, 8))
    graph.layers.append(layer("Conv", {"X": "x", "W": "w"}, "z"))
    graph.outputs["z"] = floats(None)
    folded = fold_batch_norm(graph)
    assert len(folded.layers) == 2
    np.testing.assert_array_equal(run(folded)["z"], run(graph)["z"])
    assert folded.tensors["w"] is graph.tensors["w"]


def test_a_new_name_gives_way_to_one_that_is_taken():
    graph = normed("Conv", (6, 4, 3, 3), 6, (2, 4, 8, 8))
    graph.tensors["layer_a.W"] = tensor((6,), 0)
    graph.layers.append(layer("Add", {"A": "layer_a.W", "B": "layer_a.W"}, "z"))
    graph.outputs["z"] = floats(6)
    folded = fold_batch_norm(graph)
    np.testing.assert_array_equal(run(folded)["z"], run(graph)["z"])
    assert folded.layers[0].inputs["W"] == "layer_a.W_2"


def test_two_normalizations_in_a_row_are_both_folded():
    graph = normed("Conv", (6, 4, 3, 3), 6, (2, 4, 8, 8))
    first = graph.layers[1]
    first.outputs = ["between"]
    graph.layers.append(layer("BatchNormalization", {**first.inputs, "X": "between"}, "y"))
    folded = fold_batch_norm(graph)
    assert [made.op for made in folded.layers] == ["Conv"]
    before, after = run(graph)["y"], run(folded)["y"]
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()


def _another_reader(graph: Graph) -> None:
    graph.layers.append(layer("Neg", {"X": "a"}, "z"))
    graph.outputs["z"] = floats(None)


def _an_output(graph: Graph) -> None:
    graph.outputs["a"] = floats(None)


def _captured(graph: Graph) -> None:
    body = Graph(layers=[layer("Neg", {"X": "a"}, "c")], outputs={"c": floats(None)})
    graph.layers.append(layer("Relu", {"X": "x"}, "z", body=body))
    graph.outputs["z"] = floats(None)


def _training(graph: Graph) -> None:
    graph.layers[1].attrs["training_mode"] = 1


def _weight_open_to_callers(graph: Graph) -> None:
    graph.inputs["w"] = floats(6, 4, 3, 3)


def _computed_weight(graph: Graph) -> None:
    graph.layers.insert(0, layer("Neg", {"X": "w"}, "minus_w"))
    graph.layers[1].inputs["W"] = "minus_w"


def _computed_bias(graph: Graph) -> None:
    graph.layers.insert(0, layer("Neg", {"X": "norm_B"}, "b"))
    graph.layers[1].inputs["B"] = "b"


def _open_variance(graph: Graph) -> None:
    graph.inputs["norm_input_var"] = floats(6)


def _no_variance_at_all(graph: Graph) -> None:
    graph.tensors["norm_input_var"] = Tensor.of(np.full(6, -1e-3, np.float32))


@pytest.mark.parametrize(
    "spoil",
    [
        _another_reader,
        _an_output,
        _captured,
        _training,
        _weight_open_to_callers,
        _computed_weight,
        _computed_bias,
        _open_variance,
        _no_variance_at_all,
    ],
)
def test_in_any_doubt_the_normalization_stays(spoil):
    graph = normed("Conv", (6, 4, 3, 3), 6, (2, 4, 8, 8))
    spoil(graph)
    assert str(fold_batch_norm(graph)) == str(graph)


def test_a_gemm_that_adds_a_matrix_is_left_alone():
    graph = normed("Gemm", (4, 6), 6, (2, 4), b=(2, 1))
    assert str(fold_batch_norm(graph)) == str(graph)


def test_a_normalization_before_a_conv_is_left_alone():
    graph = normed("Conv", (6, 6, 3, 3), 6, (2, 6, 8, 8), pads=[1, 1, 1, 1])
    conv, norm = graph.layers
    norm.inputs["X"], norm.outputs = "x", ["a"]
    conv.inputs["X"], conv.outputs = "a", ["y"]
    graph.layers = [norm, conv]
    assert str(fold_batch_norm(graph)) == str(graph)
