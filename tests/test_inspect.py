"""The layer table: shapes and counts for any input, without a weight being read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hubtool
from hubtool import Graph, InputError, Layer, RunError, Tensor, Value, zoo


def test_resnet50_has_the_parameters_and_multiply_adds_that_are_published(tmp_path: Path) -> None:
    zoo.sketch("resnet50-v1", tmp_path / "r50.onnx")
    graph = hubtool.read(tmp_path / "r50.onnx")
    table = hubtool.info(graph)
    assert table.multiply_adds == 3_857_973_248
    assert len(table.rows) == 175
    # The last row is the classifier: 2048 x 1000 weights and 1000 biases.
    assert table.rows[-1].parameters == 2_049_000
    assert table.rows[-1].shape == "float32[N,1000]"
    batch = hubtool.info(graph, {"data": (8, 3, 224, 224)})
    assert batch.multiply_adds == 8 * table.multiply_adds
    assert batch.inputs == {"data": "float32[8,3,224,224]"}
    assert batch.rows[0].shape == "float32[8,64,112,112]"
    large = hubtool.info(graph, {"data": (1, 3, 448, 448)})
    assert large.rows[0].shape == "float32[1,64,224,224]"
    assert batch.parameters == table.parameters


def untouchable(shape: tuple[int, ...]) -> Tensor:
    """A weight that takes no memory and whose elements may be looked at by nobody's arithmetic."""
    return Tensor("float32", shape, lambda: np.broadcast_to(np.float32(np.nan), shape))


def test_a_table_for_a_model_larger_than_memory_costs_nothing() -> None:
    graph = Graph(
        layers=[Layer("big", "MatMul", {"A": "x", "B": "w"}, ["y"])],
        inputs={"x": Value("tensor", "float32", ("N", 10**6))},
        outputs={"y": Value("tensor", "float32", ("N", 10**6))},
        tensors={"w": untouchable((10**6, 10**6))},
    )
    table = hubtool.info(graph, {"x": (5, 10**6)})
    assert table.parameters == 10**12
    assert table.multiply_adds == 5 * 10**12


def test_grouped_transposed_and_matrix_products_are_counted() -> None:
    graph = Graph(
        layers=[
            Layer("conv", "Conv", {"X": "x", "W": "w"}, ["a"], {"group": 2}),
            Layer("up", "ConvTranspose", {"X": "a", "W": "t"}, ["b"], {"strides": [2, 2]}),
            Layer("gemm", "Gemm", {"A": "p", "B": "q"}, ["c"], {"transA": 1}),
        ],
        inputs={
            "x": Value("tensor", "float32", (1, 4, 5, 5)),
            "p": Value("tensor", "float32", (7, 3)),
        },
        outputs={n: Value("tensor", "float32", None) for n in ("b", "c")},
        tensors={
            "w": untouchable((6, 2, 3, 3)),
            "t": untouchable((6, 2, 2, 2)),
            "q": untouchable((7, 11)),
        },
    )
    counts = {row.name: row.multiply_adds for row in hubtool.info(graph).rows}
    assert counts["conv"] == (6 * 3 * 3) * (2 * 3 * 3)
    assert counts["up"] == (6 * 3 * 3) * (2 * 2 * 2)
    assert counts["gemm"] == 3 * 11 * 7


def test_a_shared_weight_counts_once() -> None:
    graph = Graph(
        layers=[
            Layer("one", "Add", {"A": "x", "B": "w"}, ["a"]),
            Layer("two", "Add", {"A": "a", "B": "w"}, ["y"]),
        ],
        inputs={"x": Value("tensor", "float32", (2,))},
        outputs={"y": Value("tensor", "float32", (2,))},
        tensors={"w": untouchable((2,))},
    )
    assert [row.parameters for row in hubtool.info(graph).rows] == [2, 0]


def test_a_name_that_is_no_input_is_refused_with_those_there_are(sketch18: Path) -> None:
    with pytest.raises(InputError) as caught:
        hubtool.info(sketch18, {"dta": (1, 3, 224, 224)})
    assert "'dta' is no input" in str(caught.value)
    assert "input 'data' needs a shape: its own is open" in str(caught.value)
    assert "Its inputs are 'data' float32[N,3,224,224]." in str(caught.value)


def test_a_shape_that_a_layer_cannot_take_names_the_layer(sketch18: Path) -> None:
    with pytest.raises(RunError, match="while running Conv 'resnetv15_conv0_fwd'"):
        hubtool.info(sketch18, {"data": (1, 4, 224, 224)})


def test_a_clash_of_shapes_names_the_layer() -> None:
    graph = Graph(
        layers=[Layer("add", "Add", {"A": "x", "B": "w"}, ["y"])],
        inputs={"x": Value("tensor", "float32", (None,))},
        outputs={"y": Value("tensor", "float32", (None,))},
        tensors={"w": untouchable((3,))},
    )
    with pytest.raises(RunError, match="while running Add 'add'"):
        hubtool.info(graph, {"x": (2,)})


def test_an_open_size_is_said_and_not_guessed() -> None:
    graph = Graph(
        layers=[Layer("dot", "MatMul", {"A": "x", "B": "w"}, ["y"])],
        inputs={"x": Value("tensor", "float32", ("N", "L", 4))},
        outputs={"y": Value("tensor", "float32", ("N", "L", 2))},
        tensors={"w": untouchable((4, 2))},
    )
    assert hubtool.info(graph).multiply_adds is None
    assert hubtool.info(graph, {"x": (2, 3, 4)}).multiply_adds == 2 * 3 * 4 * 2
