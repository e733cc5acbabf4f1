"""Slices at and past the edges, indices from the end, updates that name one place twice."""

from __future__ import annotations

import numpy as np
import pytest

INT64 = np.iinfo(np.int64)


def ints(*values):
    return np.asarray(values, np.int64)


def test_slices_agree_with_onnxruntime(alone, in_onnxruntime):
    rng = np.random.default_rng(21)
    edges = [INT64.min, -9, -6, -5, -1, 0, 1, 4, 5, 6, 9, INT64.max]
    data = np.arange(30, dtype=np.float32).reshape(5, 6)
    for _ in range(200):
        starts, ends = ints(*rng.choice(edges, 2)), ints(*rng.choice(edges, 2))
        axes, steps = ints(*rng.permutation([0, -1])), ints(*rng.choice([-7, -2, -1, 1, 2, 7], 2))
        # Backward "up to the greatest number" is "down to the first" in ONNX Runtime alone.
        ends[(steps < 0) & (ends == INT64.max)] = 9
        inputs = {"data": data, "starts": starts, "ends": ends, "axes": axes, "steps": steps}
        (made,) = alone("Slice", inputs, {})
        (wanted,) = in_onnxruntime("Slice", list(inputs.values()), {}, {"output": "float32"})
        assert np.array_equal(made, wanted), (starts, ends, axes, steps)


def test_a_slice_keeps_the_small_types(alone):
    data = np.arange(4).astype("int8")
    inputs = {"data": data, "starts": ints(INT64.max), "ends": ints(INT64.min), "steps": ints(-1)}
    (made,) = alone("Slice", inputs, {})
    assert (made.dtype.name, made.tolist()) == ("int8", [3, 2, 1, 0])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_counts_negative_indices_from_the_end(alone, axis):
    data, indices = np.arange(12).reshape(3, 4), ints(-1, 0, -3).reshape(1, 3)
    (made,) = alone("Gather", {"data": data, "indices": indices}, {"axis": axis})
    assert np.array_equal(made, np.take(data, indices, axis=axis))


def test_a_scalar_index_drops_the_axis(alone):
    words = np.asarray([["a", "b"], ["c", "d"]], object)
    (row,) = alone("Gather", {"data": words, "indices": np.asarray(-1)}, {})
    assert row.tolist() == ["c", "d"]
    (word,) = alone("Gather", {"data": row, "indices": np.asarray(0)}, {})
    assert (word.shape, word.dtype, word.item()) == ((), object, "c")


def test_gather_elements_may_ask_for_less_than_there_is(alone, in_onnxruntime):
    data, indices = np.random.default_rng(1).random((4, 5, 6), np.float32), None
    for axis in (0, 1, 2, -1):
        indices = np.random.default_rng(2).integers(-data.shape[axis], data.shape[axis], (2, 3, 4))
        (wanted,) = in_onnxruntime(
            "GatherElements", [data, indices], {"axis": axis}, {"output": "float32"}
        )
        (made,) = alone("GatherElements", {"data": data, "indices": indices}, {"axis": axis})
        assert np.array_equal(made, wanted)


@pytest.mark.parametrize("batch_dims", [0, 1, 2])
def test_gather_nd_agrees_with_onnxruntime(alone, in_onnxruntime, batch_dims):
    rng = np.random.default_rng(batch_dims)
    data = rng.random((2, 3, 4, 5), np.float32)
    indices = rng.integers(-4, 4, (2, 3, 7, 2))
    indices[..., 0] = rng.integers(-2, 2, (2, 3, 7))
    indices[..., 1] = rng.integers(-3, 3, (2, 3, 7))
    attrs = {"batch_dims": batch_dims}
    (wanted,) = in_onnxruntime("GatherND", [data, indices], attrs, {"output": "float32"})
    (made,) = alone("GatherND", {"data": data, "indices": indices}, attrs)
    assert np.array_equal(made, wanted)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_updates_to_one_place_come_in_order(alone, in_onnxruntime, reduction):
    rng = np.random.default_rng(6)
    data, updates = rng.random((3, 5), np.float32), rng.random((3, 8), np.float32)
    indices = rng.integers(-5, 5, (3, 8))
    if reduction == "none":  # the last one wins here; ONNX leaves it open
        indices = np.stack([rng.permutation(5) for _ in range(3)])
        updates = updates[:, :5]
    inputs = {"data": data, "indices": indices, "updates": updates}
    attrs = {"axis": 1, "reduction": reduction}
    (made,) = alone("ScatterElements", inputs, attrs)
    (wanted,) = in_onnxruntime("ScatterElements", list(inputs.values()), attrs, {"y": "float32"})
    np.testing.assert_allclose(made, wanted, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_scatter_nd_agrees_with_onnxruntime(alone, in_onnxruntime, reduction):
    rng = np.random.default_rng(7)
    data, updates = rng.random((3, 4, 2), np.float32), rng.random((9, 2), np.float32)
    indices = np.stack([rng.integers(-3, 3, 9), rng.integers(-4, 4, 9)], axis=1)
    inputs, attrs = {"data": data, "indices": indices, "updates": updates}, {"reduction": reduction}
    (made,) = alone("ScatterND", inputs, attrs)
    (wanted,) = in_onnxruntime("ScatterND", list(inputs.values()), attrs, {"y": "float32"})
    np.testing.assert_allclose(made, wanted, rtol=1e-6)


def test_no_updates_change_nothing(alone):
    data = np.arange(4, dtype=np.float32)
    none = {"indices": np.zeros((0, 1), np.int64), "updates": np.zeros((0,), np.float32)}
    assert alone("ScatterND", {"data": data, **none}, {})[0].tolist() == data.tolist()
