"""Slices at and past the edges, indices from the end, updates that name one place twice, and what
turns sequences round or spreads indices out."""

from __future__ import annotations

import numpy as np
import pytest
from ops.conftest import SPACES
from ops.judged import made_by, shapes

from hubtool.errors import RunError

EACH_SPACE = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
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


@EACH_SPACE
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_one_hot_agrees_with_onnxruntime(in_onnxruntime, space, axis):
    indices = np.random.default_rng(axis + 9).integers(-6, 6, (2, 3))
    inputs = {"indices": indices, "depth": ints(4), "values": np.asarray([2, 5], np.float32)}
    attrs, names = {"axis": axis}, {"output": "float32"}
    (wanted,) = in_onnxruntime("OneHot", [*inputs.values()], attrs, names)
    (made,) = made_by(space, "OneHot", inputs, attrs, 1)
    assert (made.dtype, made.shape, made.tolist()) == (wanted.dtype, wanted.shape, wanted.tolist())
    assert shapes("OneHot", inputs, attrs, 1) == [("float32", wanted.shape)]


def test_one_hot_drops_fractions_and_takes_the_dtype_of_the_values(alone):
    words = np.asarray(["off", "on"], object)
    given = {"indices": np.asarray([1.7, -1.5, -0.5]), "depth": np.asarray(2.0), "values": words}
    wanted = [["off", "on"], ["off", "on"], ["on", "off"]]
    assert alone("OneHot", given, {})[0].tolist() == wanted
    given = {"indices": np.asarray(3), "depth": ints(4), "values": np.asarray([1, 0], np.int8)}
    (made,) = alone("OneHot", given, {})
    assert (made.dtype.name, made.tolist()) == ("int8", [1, 1, 1, 0])


@pytest.mark.parametrize(
    ("depth", "values", "message"),
    [
        (-1, [0, 1], "depth is -1, a negative size"),
        (2, [0, 1, 2], r"values \[3\] should be two, \[off, on\]"),
        (1 << 50, [0, 1], "GiB; this machine has"),
    ],
)
def test_one_hot_refuses_in_words(alone, depth, values, message):
    given = {"indices": ints(0), "depth": ints(depth), "values": np.asarray(values, np.float32)}
    with pytest.raises(RunError, match=message):
        alone("OneHot", given, {})


@EACH_SPACE
@pytest.mark.parametrize(("batch_axis", "time_axis"), [(0, 1), (1, 0)])
def test_reverse_sequence_agrees_with_onnxruntime(in_onnxruntime, space, batch_axis, time_axis):
    data = np.arange(48, dtype=np.float32).reshape(4, 6, 2)
    lengths = [ints(0, 1, 5, 6), ints(0, 1, 2, 3, 4, 4)][batch_axis]
    inputs = {"input": data, "sequence_lens": lengths}
    attrs = {"batch_axis": batch_axis, "time_axis": time_axis}
    (wanted,) = in_onnxruntime("ReverseSequence", [*inputs.values()], attrs, {"Y": "float32"})
    (made,) = made_by(space, "ReverseSequence", inputs, attrs, 1)
    assert np.array_equal(made, wanted)
    assert shapes("ReverseSequence", inputs, attrs, 1) == [("float32", data.shape)]


def test_reverse_sequence_turns_any_axis_of_anything(alone):
    words = np.asarray([[["a", "b", "c"]], [["d", "e", "f"]]], object)
    given = {"input": words, "sequence_lens": ints(3, 2)}
    (made,) = alone("ReverseSequence", given, {"batch_axis": 0, "time_axis": -1})
    assert made.tolist() == [[["c", "b", "a"]], [["e", "d", "f"]]]


@pytest.mark.parametrize(("lengths", "time_axis"), [([1, 1], 0), ([1, 1, 1], 1)])
def test_sequences_and_steps_have_an_axis_each(alone, lengths, time_axis):
    given = {"input": np.zeros((2, 3)), "sequence_lens": ints(*lengths)}
    with pytest.raises(RunError, match="should be one for each sequence"):
        alone("ReverseSequence", given, {"batch_axis": 1, "time_axis": time_axis})
