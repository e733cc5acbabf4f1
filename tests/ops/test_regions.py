"""Regions of interest and the way back from windows, with ONNX Runtime as the second opinion.

Where ONNX Runtime 1.32 departs, and is left out here: RoiAlign overflows for a region turned round;
MaxUnpool counts the places in output_shape, ONNX's own case in the shape that the attributes tell;
Col2Im of three axes and more is wrong; MaxpoolWithMask takes the mask's planes at odd places where
it has more than one.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import onnxruntime
import pytest
import torch
from ops.conftest import SPACES, runtime, single
from ops.judged import made_by, shapes

from hubtool.errors import RunError
from hubtool.ops import regions

EACH_SPACE = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
F = np.float32


@pytest.fixture(autouse=True)
def _quiet():
    onnxruntime.set_default_logger_severity(4)


def judged(op, inputs, attrs, opset, domain=""):
    """What ONNX Runtime makes of inputs by name."""
    model = single(op, list(inputs.values()), {"Y": "float32"}, attrs, domain)
    model.opset_import[0].version = opset
    return runtime(model, list(inputs.values()))[0]


def agree(space, op, inputs, attrs, wanted, tolerance=1e-4):
    """The same on a library, and in shape without data."""
    (made,) = made_by(space, op, inputs, attrs, 1)
    assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(made, wanted, rtol=tolerance, atol=tolerance)
    assert shapes(op, inputs, attrs, 1) == [("float32", wanted.shape)]


def normal(rng, *dims):
    return rng.standard_normal([int(d) for d in dims]).astype(F)


def ints(numbers):
    return [int(n) for n in numbers]


# --- regions of interest ------------------------------------------------------------------------


def drawn_regions(rng, turned=False):
    count = int(rng.integers(1, 6))
    corners = np.sort(rng.uniform(-4, 12, (count, 2, 2)), axis=1).astype(F)
    return corners[:, ::-1].reshape(count, 4) if turned else corners.reshape(count, 4)


@EACH_SPACE
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roialign_agrees_with_onnxruntime(space, mode, coordinates):
    rng = np.random.default_rng(16)
    for ratio in (0, 1, 3) * 4:
        rois = drawn_regions(rng)
        inputs = {
            "X": normal(rng, 3, 2, *rng.integers(1, 9, 2)),
            "rois": rois,
            "batch_indices": rng.integers(0, 3, len(rois)),
        }
        attrs = {
            "mode": mode,
            "coordinate_transformation_mode": coordinates,
            "sampling_ratio": ratio,
            "output_height": int(rng.integers(1, 4)),
            "output_width": int(rng.integers(1, 4)),
            "spatial_scale": float(rng.choice([1.0, 0.5, 2.0])),
        }
        agree(space, "RoiAlign", inputs, attrs, judged("RoiAlign", inputs, attrs, 16))


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_a_region_turned_round_has_no_points(alone, mode):
    inputs = {
        "X": np.ones((1, 1, 4, 4), F),
        "rois": np.asarray([[3, 3, 1, 1]], F),
        "batch_indices": np.asarray([0]),
    }
    attrs = {"output_height": 2, "output_width": 2, "mode": mode}
    assert alone("RoiAlign", inputs, attrs)[0].tolist() == [[[[0, 0], [0, 0]]]]
    attrs |= {"coordinate_transformation_mode": "output_half_pixel"}
    assert alone("RoiAlign", inputs, attrs)[0].tolist() == [[[[1, 1], [1, 1]]]]


def test_regions_are_done_in_parts_and_come_back_in_order(alone, monkeypatch):
    rng = np.random.default_rng(1)
    inputs = {
        "X": normal(rng, 3, 2, 5, 6),
        "rois": np.concatenate([drawn_regions(rng) for _ in range(9)]),
    }
    inputs["batch_indices"] = rng.integers(0, 3, len(inputs["rois"]))
    attrs = {"output_height": 2, "output_width": 3, "sampling_ratio": 2}
    wanted = alone("RoiAlign", inputs, attrs)[0]
    monkeypatch.setattr(regions, "AT_ONCE", 60)
    assert np.allclose(alone("RoiAlign", inputs, attrs)[0], wanted, atol=1e-6)


@EACH_SPACE
def test_maxroipool_agrees_with_onnxruntime(space):
    rng = np.random.default_rng(2)
    for _ in range(25):
        count = int(rng.integers(1, 6))
        corners = rng.integers(-8, 24, (count, 4)) / 2
        inputs = {
            "X": normal(rng, 3, 2, *rng.integers(1, 9, 2)),
            "rois": np.concatenate([rng.integers(0, 3, (count, 1)), corners], 1).astype(F),
        }
        attrs = {"pooled_shape": ints(rng.integers(1, 5, 2)), "spatial_scale": 0.5}
        agree(space, "MaxRoiPool", inputs, attrs, judged("MaxRoiPool", inputs, attrs, 16))


@EACH_SPACE
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_cropandresize_agrees_with_onnxruntime(space, mode):
    rng = np.random.default_rng(3)
    for _ in range(20):
        count = int(rng.integers(1, 6))
        inputs = {
            "X": normal(rng, 3, 2, *rng.integers(1, 9, 2)),
            "rois": rng.uniform(-0.2, 1.2, (count, 4)).astype(F),
            "batch_indices": rng.integers(0, 3, count).astype(np.int32),
            "crop_size": rng.integers(1, 6, 2).astype(np.int32),
        }
        attrs = {"mode": mode, "extrapolation_value": 3.0}
        wanted = judged("CropAndResize", inputs, attrs, 16, "com.microsoft")
        agree(space, "com.microsoft.CropAndResize", inputs, attrs, wanted)


def test_no_regions_make_nothing(alone):
    X, none = np.zeros((1, 3, 4, 4), F), np.zeros((0, 4), F)
    given = {"X": X, "rois": none, "batch_indices": np.zeros(0, np.int64)}
    for mode in ("avg", "max"):
        assert alone("RoiAlign", given, {"mode": mode})[0].shape == (0, 3, 1, 1)
    given = {"X": X, "rois": np.zeros((0, 5), F)}
    assert alone("MaxRoiPool", given, {"pooled_shape": [2, 3]})[0].shape == (0, 3, 2, 3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch_indices": np.asarray([1])}, r"rois are in the images \[1\], of 1"),
        ({"batch_indices": np.asarray([-1])}, r"rois are in the images \[-1\], of 1"),
        ({"batch_indices": np.asarray([0, 0])}, r"rois \[1, 4\] should be \[2, 4\]"),
        ({"rois": np.zeros((1, 5), F)}, r"rois \[1, 5\] should be \[1, 4\]"),
        ({"rois": np.full((1, 4), np.nan, F)}, "rois are not all finite"),
        ({"X": np.zeros((1, 2, 3), F)}, r"X \[1, 2, 3\] should have 4 axes"),
        ({"mode": "sum"}, "mode is 'sum', not one of"),
    ],
)
def test_what_is_wrong_with_regions_is_said(alone, change, sentence):
    given = {"X": np.zeros((1, 1, 3, 3), F), "rois": np.zeros((1, 4), F)}
    given |= {"batch_indices": np.asarray([0])} | change
    attrs = {"mode": given.pop("mode")} if "mode" in given else {}
    with pytest.raises(RunError, match=sentence):
        alone("RoiAlign", given, attrs)
    given |= {"crop_size": np.asarray([1, 1])}
    with pytest.raises(RunError, match=sentence):
        alone("com.microsoft.CropAndResize", given, attrs)


def test_a_crop_has_two_sides(alone):
    given = {"X": np.zeros((1, 1, 3, 3), F), "rois": np.zeros((1, 4), F)}
    given |= {"batch_indices": np.asarray([0])}
    for sides in ([1], [2, 0]):
        with pytest.raises(RunError, match="not a height and a width greater than 0"):
            alone("com.microsoft.CropAndResize", given | {"crop_size": np.asarray(sides)}, {})


# --- MaxpoolWithMask ----------------------------------------------------------------------------


@EACH_SPACE
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_maxpoolwithmask_agrees_with_onnxruntime(space, rank):
    rng = np.random.default_rng(rank)
    for _ in range(15):
        dims, kernel = rng.integers(3, 7, rank), rng.integers(1, 4, rank)
        mask = (rng.random((1, 1, *dims)) < 0.7).astype(np.int32)
        inputs = {"X": normal(rng, 2, 2, *dims), "M": mask}
        attrs = {
            "kernel_shape": ints(kernel),
            "strides": ints(rng.integers(1, 3, rank)),
            "pads": ints(rng.integers(0, (*kernel, *kernel))),
        }
        wanted = judged("MaxpoolWithMask", inputs, attrs, 16, "com.microsoft")
        agree(space, "com.microsoft.MaxpoolWithMask", inputs, attrs, wanted)


def test_planes_of_the_mask_serve_in_turn(alone):
    X = np.ones((2, 2, 3), F)
    M = np.asarray([[[1, 1, 0], [0, 1, 1]]], np.int32)
    made = alone("com.microsoft.MaxpoolWithMask", {"X": X, "M": M}, {"kernel_shape": [1]})[0]
    assert (made == 1).tolist() == (np.broadcast_to(M, X.shape) == 1).tolist()
    with pytest.raises(RunError, match=r"M \[1, 2, 3\] does not fit X \[2, 2, 4\]"):
        given = {"X": np.ones((2, 2, 4), F), "M": M}
        alone("com.microsoft.MaxpoolWithMask", given, {"kernel_shape": [1]})
    with pytest.raises(RunError, match="kernel_shape is missing"):
        alone("com.microsoft.MaxpoolWithMask", {"X": X, "M": M}, {})


# --- MaxUnpool, Col2Im --------------------------------------------------------------------------


@EACH_SPACE
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_maxunpool_agrees_with_onnxruntime(space, rank):
    rng = np.random.default_rng(rank)
    for _ in range(10):
        dims, kernel, strides = (rng.integers(2, 4, rank) for _ in range(3))
        pads = rng.integers(0, 2, 2 * rank)
        least = (dims - 1) * strides + kernel - pads[:rank] - pads[rank:]
        count, total = 4 * int(np.prod(dims)), 4 * int(np.prod(least))
        places = rng.integers(0, total, (2, 2, *dims))
        if count <= total:
            places = rng.permutation(total)[:count].reshape(2, 2, *dims)
        inputs = {"X": normal(rng, 2, 2, *dims), "I": places}
        attrs = {"kernel_shape": ints(kernel), "strides": ints(strides), "pads": ints(pads)}
        agree(space, "MaxUnpool", inputs, attrs, judged("MaxUnpool", inputs, attrs, 13), 0)


def test_maxunpool_undoes_maxpool(alone):
    X = np.random.default_rng(1).random((2, 3, 6, 8)).astype(F)
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pooled, places = alone("MaxPool", {"X": X}, attrs, 2)
    made = alone("MaxUnpool", {"X": pooled, "I": places}, attrs)[0]
    assert made.shape == X.shape and ((made == X) | (made == 0)).all()
    assert (alone("MaxPool", {"X": made}, attrs)[0] == pooled).all()


def test_a_greater_output_adds_zeros_and_a_smaller_one_is_cut(alone):
    inputs = {"X": np.ones((1, 1, 2), F), "I": np.asarray([[[0, 3]]])}
    attrs = {"kernel_shape": [2], "strides": [2]}
    for size, wanted in ((6, [1, 0, 0, 1, 0, 0]), (3, [1, 0, 0])):
        inputs["output_shape"] = np.asarray([1, 1, size])
        assert alone("MaxUnpool", inputs, attrs)[0].reshape(-1).tolist() == wanted
        assert shapes("MaxUnpool", inputs, attrs, 1) == [("float32", (1, 1, size))]
    with pytest.raises(RunError, match=r"output_shape \[4\] is no shape for X \[1, 1, 2\]"):
        alone("MaxUnpool", inputs | {"output_shape": np.asarray([4])}, attrs)
    with pytest.raises(RunError, match="do not fit the 1 axes of a picture"):
        alone("MaxUnpool", inputs, {"kernel_shape": [2, 2]})


def drawn_blocks(rng, rank):
    """Attributes of im2col, the image, the block, and how many blocks there are."""
    block, dilations, strides = (rng.integers(1, high, rank) for high in (4, 3, 3))
    pads = rng.integers(0, 3, 2 * rank)
    image = rng.integers(0, 4, rank) + dilations * (block - 1) + 1
    room = image + pads[:rank] + pads[rank:] - dilations * (block - 1) - 1
    attrs = {"strides": ints(strides), "dilations": ints(dilations), "pads": ints(pads)}
    return attrs, image, block, room // strides + 1


@EACH_SPACE
def test_col2im_agrees_with_onnxruntime(space):
    rng = np.random.default_rng(18)
    for _ in range(15):
        attrs, image, block, count = drawn_blocks(rng, 2)
        columns = normal(rng, 2, 3 * block.prod(), count.prod())
        inputs = {"input": columns, "image_shape": image, "block_shape": block}
        agree(space, "Col2Im", inputs, attrs, judged("Col2Im", inputs, attrs, 18))


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_col2im_is_the_transpose_of_reading_blocks(alone, rank):
    rng = np.random.default_rng(rank)
    for _ in range(5):
        attrs, image, block, count = drawn_blocks(rng, rank)
        X = rng.standard_normal((1, 2, *image))
        columns = rng.standard_normal((1, 2 * int(block.prod()), int(count.prod())))
        inputs = {"input": columns, "image_shape": image, "block_shape": block}
        made = alone("Col2Im", inputs, attrs)[0]
        read = blocks_of(X, attrs, block, count)
        assert math.isclose((made * X).sum(), (columns * read).sum(), abs_tol=1e-9)


def blocks_of(X, attrs, block, count):
    """What im2col reads, one element after the other."""
    rank = len(block)
    begins, ends = attrs["pads"][:rank], attrs["pads"][rank:]
    padded = np.pad(X, [(0, 0), (0, 0), *zip(begins, ends, strict=True)])
    read = []
    for channel, tap, at in product(range(X.shape[1]), np.ndindex(*block), [*np.ndindex(*count)]):
        place = np.multiply(at, attrs["strides"]) + np.multiply(tap, attrs["dilations"])
        read.append(padded[(0, channel, *place)])
    return np.reshape(read, (1, X.shape[1] * int(block.prod()), int(count.prod())))


def test_columns_that_hold_no_blocks_are_refused(alone):
    given = {"image_shape": np.asarray([4, 4]), "block_shape": np.asarray([2, 2])}
    for dims in ((1, 3, 9), (1, 4, 8)):
        with pytest.raises(RunError, match=r"does not hold \[3, 3\] blocks \[2, 2\]"):
            alone("Col2Im", given | {"input": np.zeros(dims, F)}, {})


# --- DeformConv ---------------------------------------------------------------------------------


def drawn_deform(rng):
    attrs, image, kernel, out = drawn_blocks(rng, 2)
    attrs |= {"group": int(rng.integers(1, 3)), "offset_group": int(rng.integers(1, 3))}
    depth = attrs["offset_group"] * int(kernel.prod())
    inputs = {
        "X": normal(rng, 2, 4, *image),
        "W": normal(rng, 4, 4 // attrs["group"], *kernel),
        "offset": normal(rng, 2, 2 * depth, *out) * F(1.5),
        "B": normal(rng, 4),
        "mask": normal(rng, 2, depth, *out),
    }
    return inputs, attrs


@EACH_SPACE
def test_deformconv_agrees_with_onnxruntime(space):
    rng = np.random.default_rng(22)
    for _ in range(12):
        inputs, attrs = drawn_deform(rng)
        agree(space, "DeformConv", inputs, attrs, judged("DeformConv", inputs, attrs, 19))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_deformconv_without_offsets_is_conv(alone, rank):
    rng = np.random.default_rng(rank)
    attrs, image, kernel, out = drawn_blocks(rng, rank)
    inputs = {"X": normal(rng, 2, 3, *image), "W": normal(rng, 2, 3, *kernel)}
    wanted = alone("Conv", inputs, attrs)[0]
    still = {"offset": np.zeros((2, rank * int(kernel.prod()), *out), F)}
    np.testing.assert_allclose(alone("DeformConv", inputs | still, attrs)[0], wanted, atol=1e-5)


def test_offsets_move_each_axis_by_its_own(alone):
    X = np.arange(27, dtype=F).reshape(1, 1, 3, 3, 3)
    offset = np.zeros((1, 3, 3, 3, 3), F)
    offset[0, :, 1, 1, 1] = 1, -1, 0.5
    inputs = {"X": X, "W": np.ones((1, 1, 1, 1, 1), F), "offset": offset}
    made = alone("DeformConv", inputs, {})[0]
    assert made[0, 0, 1, 1, 1] == (X[0, 0, 2, 0, 1] + X[0, 0, 2, 0, 2]) / 2
    made[0, 0, 1, 1, 1] = X[0, 0, 1, 1, 1]
    assert (made == X).all()


def test_every_shape_that_does_not_fit_a_deformconv_is_named(alone):
    given = {
        "X": np.zeros((1, 4, 3, 3), F),
        "W": np.zeros((2, 4, 2, 2), F),
        "offset": np.zeros((1, 8, 2, 2), F),
    }
    assert alone("DeformConv", given, {})[0].shape == (1, 2, 2, 2)
    wrong = {"offset": np.zeros((1, 4, 2, 2), F), "mask": np.zeros((1, 8, 2, 2), F)}
    with pytest.raises(RunError, match=r"offset .* should be .*; mask .* should be"):
        alone("DeformConv", given | wrong, {})
    for attrs, sentence in (
        ({"group": 2}, r"X has 4 channels, W \[2, 4, 2, 2\] takes 8"),
        ({"offset_group": 3}, "cannot be split into 1 groups, 3 of the offset"),
        ({"kernel_shape": [3, 3]}, r"kernel_shape is \[3, 3\], that of W \[2, 2\]"),
    ):
        with pytest.raises(RunError, match=sentence):
            alone("DeformConv", given, attrs)


def test_torch_folds_the_same(alone):
    columns = np.random.default_rng(0).standard_normal((2, 12, 20)).astype(F)
    given = {"input": columns, "image_shape": np.asarray([5, 6]), "block_shape": np.asarray([2, 2])}
    wanted = torch.nn.functional.fold(torch.from_numpy(columns), (5, 6), (2, 2)).numpy()
    np.testing.assert_allclose(alone("Col2Im", given, {})[0], wanted, atol=1e-5)
