"""What is chosen, in which order, and that its number is unknown before the elements are."""

from __future__ import annotations

import numpy as np
import pytest
from ops.conftest import SPACES
from ops.judged import made_by, shapes

from hubtool.errors import RunError
from hubtool.meta import MetaSpace

EACH_SPACE = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
UNIQUE = {"Y": "float32", "indices": "int64", "inverse_indices": "int64", "counts": "int64"}
KEPT = {"selected_indices": "int64"}


@EACH_SPACE
@pytest.mark.parametrize("dims", [(7,), (3, 4), (2, 3, 4), (2, 0, 3)])
def test_nonzero_agrees_with_onnxruntime(in_onnxruntime, space, dims):
    X = np.random.default_rng(3).integers(-1, 2, dims).astype(np.float32)
    (wanted,) = in_onnxruntime("NonZero", [X], {}, {"Y": "int64"})
    (made,) = made_by(space, "NonZero", {"X": X}, {}, 1)
    assert (made.dtype, made.shape, made.tolist()) == (wanted.dtype, wanted.shape, wanted.tolist())


@EACH_SPACE
@pytest.mark.parametrize(("value", "dims"), [(5, (0, 1)), (0, (0, 0))])
def test_the_indices_of_a_scalar_have_no_rows(space, value, dims):
    (made,) = made_by(space, "NonZero", {"X": np.asarray(value, np.float32)}, {}, 1)
    assert (made.dtype.name, made.shape) == ("int64", dims)


def test_words_booleans_and_narrow_floats_count_by_what_they_are(alone):
    import ml_dtypes

    for X, wanted in (
        (np.asarray(["a", "", "0"], object), [[0, 2]]),
        (np.asarray([True, False, True]), [[0, 2]]),
        (np.asarray([0, 0.5, -0.0], ml_dtypes.bfloat16), [[1]]),
        (np.asarray([np.nan, 0, 1j], np.complex64), [[0, 2]]),
    ):
        assert alone("NonZero", {"X": X}, {})[0].tolist() == wanted


@EACH_SPACE
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("length", [0, 1, 3, 9])
def test_compress_agrees_with_onnxruntime(in_onnxruntime, space, axis, length):
    rng = np.random.default_rng(length)
    data, condition = rng.random((3, 4, 5), np.float32), rng.random(length) < 0.5
    attrs = {} if axis is None else {"axis": axis}
    (wanted,) = in_onnxruntime("Compress", [data, condition], attrs, {"output": "float32"})
    inputs = {"input": data, "condition": condition}
    (made,) = made_by(space, "Compress", inputs, attrs, 1)
    assert made.shape == wanted.shape and np.array_equal(made, wanted)
    assert shapes("Compress", inputs, attrs, 1) == [("float32", wanted.shape)]


def test_compress_moves_words(alone):
    words = np.asarray([["a", "b"], ["c", "d"]], object)
    inputs = {"input": words, "condition": np.asarray([False, True])}
    assert alone("Compress", inputs, {"axis": 1})[0].tolist() == [["b"], ["d"]]
    assert alone("Compress", inputs, {})[0].tolist() == ["b"]


def test_a_condition_has_one_dimension(alone):
    inputs = {"input": np.zeros(2), "condition": np.ones((1, 2), bool)}
    with pytest.raises(RunError, match=r"condition \[1, 2\] must have one dimension"):
        alone("Compress", inputs, {})


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("in_order", [0, 1])
def test_unique_agrees_with_onnxruntime(alone, in_onnxruntime, axis, in_order):
    rng = np.random.default_rng(5)
    for dims in ((4, 2, 3), (1, 5, 1), (6, 1, 2)):
        X = rng.integers(-1, 2, dims).astype(np.float32)
        attrs = {"sorted": in_order} | ({} if axis is None else {"axis": axis})
        wanted = in_onnxruntime("Unique", [X], attrs, UNIQUE)
        for made, other in zip(alone("Unique", {"X": X}, attrs, 4), wanted, strict=True):
            assert (made.dtype, made.tolist()) == (other.dtype, other.tolist())


@pytest.mark.parametrize("dims", [(0,), (0, 3), ()])
def test_of_nothing_or_one_thing_there_are_as_many(alone, in_onnxruntime, dims):
    X, attrs = np.zeros(dims, np.float32), {"axis": 0} if dims else {}
    wanted = in_onnxruntime("Unique", [X], attrs, UNIQUE)
    for made, other in zip(alone("Unique", {"X": X}, attrs, 4), wanted, strict=True):
        assert (made.dtype, made.shape) == (other.dtype, other.shape)
        assert made.tolist() == other.tolist()


def test_empty_slices_are_all_the_same(alone):
    Y, indices, inverse, counts = alone("Unique", {"X": np.zeros((3, 0))}, {"axis": 0}, 4)
    assert Y.shape == (1, 0)
    assert (indices.tolist(), inverse.tolist(), counts.tolist()) == ([0], [0, 0, 0], [3])


def test_unique_takes_words_by_slices_too(alone):
    X = np.asarray([["b", "a"], ["a", "z"], ["b", "a"]], object)
    made = alone("Unique", {"X": X}, {"axis": 0}, 4)
    assert [y.tolist() for y in made] == [[["a", "z"], ["b", "a"]], [1, 0], [1, 0, 1], [1, 2]]
    made = alone("Unique", {"X": X}, {"sorted": 0}, 4)
    assert [y.tolist() for y in made] == [["b", "a", "z"], [0, 1, 3], [0, 1, 1, 2, 0, 1], [2, 3, 1]]


def test_nan_is_one_value_greater_than_all(alone):
    X = np.asarray([[np.nan, 1], [2, 1], [np.nan, 1]], np.float16)
    Y, indices, inverse, counts = alone("Unique", {"X": X}, {"axis": 0}, 4)
    np.testing.assert_array_equal(Y, np.asarray([[2, 1], [np.nan, 1]], np.float16), strict=True)
    assert (indices.tolist(), inverse.tolist(), counts.tolist()) == ([1, 0], [1, 0, 1], [1, 2])


def test_microsofts_unique_keeps_the_order_in_which_values_come(alone, in_onnxruntime):
    x = np.random.default_rng(0).integers(0, 6, 20).astype(np.float32)
    names = {"y": "float32", "idx": "int64", "counts": "int64"}
    wanted = in_onnxruntime("Unique", [x], {}, names, "com.microsoft")
    for made, other in zip(alone("com.microsoft.Unique", {"x": x}, {}, 3), wanted, strict=True):
        assert (made.dtype, made.tolist()) == (other.dtype, other.tolist())


def boxes_and_scores(rng, batches=2, classes=3, count=25):
    """Overlapping boxes of any two corners (some without area), and many equal scores."""
    boxes = rng.integers(0, 8, (batches, count, 4)).astype(np.float32)
    scores = rng.integers(0, 6, (batches, classes, count)).astype(np.float32) / 8
    return {"boxes": boxes, "scores": scores}


@pytest.mark.parametrize("center_point_box", [0, 1])
def test_non_max_suppression_agrees_with_onnxruntime(alone, in_onnxruntime, center_point_box):
    rng, attrs = np.random.default_rng(11), {"center_point_box": center_point_box}
    for iou in (0, 0.125, 0.25, 0.5, 1):
        for score in (None, 0.25):
            for most in (0, 3, np.iinfo(np.int64).max):
                inputs = {
                    **boxes_and_scores(rng),
                    "max_output_boxes_per_class": np.asarray([most]),
                    "iou_threshold": np.asarray([iou], np.float32),
                    "score_threshold": None if score is None else np.asarray([score], np.float32),
                }
                (made,) = alone("NonMaxSuppression", inputs, attrs)
                (wanted,) = in_onnxruntime("NonMaxSuppression", [*inputs.values()], attrs, KEPT)
                assert made.shape == wanted.shape, inputs
                assert made.tolist() == wanted.tolist()


def test_without_a_number_of_boxes_none_is_kept(alone):
    (made,) = alone("NonMaxSuppression", boxes_and_scores(np.random.default_rng(0)), {})
    assert (made.shape, made.dtype.name) == ((0, 3), "int64")


def test_boxes_that_only_touch_or_have_no_area_suppress_nothing(alone):
    boxes = np.asarray([[[0, 0, 1, 1], [0, 1, 1, 2], [0, 0, 0, 1], [0, 0, 0, 1]]], np.float32)
    inputs = {
        "boxes": boxes,
        "scores": np.asarray([[[4, 3, 2, 1]]], np.float32),
        "max_output_boxes_per_class": np.asarray(9),
    }
    assert alone("NonMaxSuppression", inputs, {})[0][:, 2].tolist() == [0, 1, 2, 3]


def test_what_does_not_fit_together_is_refused_all_at_once(alone):
    inputs = {
        "boxes": np.zeros((1, 5, 3), np.float32),
        "scores": np.zeros((1, 2, 6), np.float32),
        "iou_threshold": np.asarray([1.5], np.float32),
    }
    with pytest.raises(RunError) as caught:
        alone("NonMaxSuppression", inputs, {})
    for part in (
        "boxes [1, 5, 3] should be [batches, boxes, 4]",
        "scores [1, 2, 6] should be [batches, classes, boxes]",
        "iou_threshold is 1.5, not from 0 to 1",
    ):
        assert part in str(caught.value)


@EACH_SPACE
def test_what_runs_on_the_host_comes_back_to_the_device(alone, space):
    made = alone("Unique", {"X": space.put(np.asarray([2, 1, 2], np.float32))}, {}, 4, space)
    assert [type(y) for y in made] == [type(space.put(np.zeros(1)))] * 4
    assert [space.get(y).tolist() for y in made] == [[1, 2], [1, 0], [1, 0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("NonZero", {"X": (3, 4)}),
        ("Unique", {"X": (3, 4)}),
        ("NonMaxSuppression", {"boxes": (1, 5, 4), "scores": (1, 2, 5)}),
    ],
)
def test_shapes_alone_do_not_tell_how_many(alone, op, inputs):
    space = MetaSpace()
    given = {name: space.put(np.zeros(dims, np.float32)) for name, dims in inputs.items()}
    with pytest.raises(RunError, match="depends on the elements of float32"):
        alone(op, given, {}, 1, space)
