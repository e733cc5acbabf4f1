"""Pictures of another size and at computed places, with ONNX Runtime as the second opinion.

Where ONNX Runtime 1.32 departs from the specification or ONNX's own cases, and is left out here:
under align_corners and tf_crop_and_resize with scales it takes the length of the result for
size * scale; it ignores the roi on an axis whose size stays, and with antialias it hardly ever
gives the extrapolation value; keep_aspect_ratio_policy overlooks negative axes; it refuses
exclude_outside with plain linear weights; it rounds whole numbers only with antialias, and cuts
them otherwise.
"""

from __future__ import annotations

import io
import warnings
from itertools import product

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import torch
from ops.conftest import SPACES, runtime, single
from ops.judged import made_by, shapes
from PIL import Image

from hubtool.errors import RunError
from hubtool.ops.resize import COORDINATES, NEAREST

EACH_SPACE = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
SCALES = (0.3, 0.5, 0.6, 0.75, 1.5, 2, 2.6, 3)
F = np.float32


@pytest.fixture(autouse=True)
def _quiet():
    onnxruntime.set_default_logger_severity(4)


def judged(op, inputs, attrs, opset=20, domain="", dtype="float32"):
    """What ONNX Runtime makes of inputs in order."""
    model = single(op, inputs, {"Y": dtype}, attrs, domain)
    model.opset_import[0].version = opset
    return runtime(model, inputs)[0]


def close(made, wanted, tolerance=1e-5):
    assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(made, wanted, rtol=tolerance, atol=tolerance)


def resized(alone, X, **given):
    inputs = {name: given.pop(name, None) for name in ("roi", "scales", "sizes")}
    return alone("Resize", {"X": X, **inputs}, given)[0]


def sizes_of(*sizes):
    return np.asarray(sizes, np.int64)


# --- Resize -------------------------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", [c for c in COORDINATES if c != "tf_crop_and_resize"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_agrees_with_onnxruntime(alone, mode, coordinates):
    rng = np.random.default_rng([19, len(mode), len(coordinates)])
    for antialias, exclude, by in product((0, 1), (0, 1), ("scales", "sizes")):
        attrs = {"mode": mode, "coordinate_transformation_mode": coordinates}
        if mode == "nearest":
            attrs["nearest_mode"] = str(rng.choice(list(NEAREST)))
        elif mode == "cubic" or antialias:
            attrs |= {"antialias": antialias, "exclude_outside": exclude}
        if mode == "cubic":
            attrs["cubic_coeff_a"] = float(rng.choice([-0.75, -0.5]))
        for _ in range(4):
            X = rng.standard_normal((1, 2, *rng.integers(1, 10, 2))).astype(F)
            sizes = sizes_of(1, 2, *rng.integers(1, 14, 2))
            scales = np.asarray([1, 1, *rng.choice(SCALES, 2)], F)
            if by == "sizes" or coordinates == "align_corners":
                given = {"roi": None, "scales": None, "sizes": sizes}
            else:
                given = {"roi": None, "scales": scales}
            wanted = judged("Resize", [X, *given.values()], attrs)
            close(resized(alone, X, **given, **attrs), wanted, 1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crops_agree_with_onnxruntime(alone, mode):
    rng = np.random.default_rng(5)
    attrs = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize"}
    for _ in range(20):
        X = rng.standard_normal((1, 1, *rng.integers(2, 10, 2))).astype(F)
        sizes = sizes_of(1, 1, *(d + int(rng.integers(1, 5)) for d in X.shape[2:]))
        begin, end = rng.uniform(-0.2, 0.5, 2), rng.uniform(0.5, 1.2, 2)
        roi = np.asarray([0, 0, *begin, 1, 1, *end], F)
        wanted = judged("Resize", [X, roi, None, sizes], attrs | {"extrapolation_value": 7.0})
        made = resized(alone, X, roi=roi, sizes=sizes, **attrs, extrapolation_value=7.0)
        close(made, wanted, 1e-4)


def test_a_crop_counts_where_the_size_stays(alone):
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear"}
    X, roi = np.arange(5, dtype=F), np.asarray([0.5, 1], F)
    assert resized(alone, X, roi=roi, sizes=sizes_of(5), **crop).tolist() == [2, 2.5, 3, 3.5, 4]
    wider = np.asarray([0, 2], F)
    made = resized(alone, X, roi=wider, scales=np.ones(1, F), **crop, extrapolation_value=-1.0)
    assert made.tolist() == [0, 2, 4, -1, -1]
    middle = resized(alone, X, roi=np.asarray([0.5, 1], F), sizes=sizes_of(1), **crop)
    assert middle.tolist() == [3]


def test_the_borders_of_a_crop_are_met_exactly(alone):
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear"}
    for begin, out in product((0.1, 0.3, 0.7), range(2, 30)):
        roi = np.asarray([begin, 1], F)
        made = resized(alone, np.arange(8, dtype=F), roi=roi, sizes=sizes_of(out), **crop)
        assert made[-1] == 7, f"{begin} to 1 in {out} steps"


def test_a_size_is_reckoned_in_float32_as_the_scale_is(alone):
    for n, scale in ((10, 0.7), (30, 0.1), (64, 1.1), (7, 0.3)):
        X, scales = np.zeros((1, 1, 1, n), F), np.asarray([1, 1, 1, scale], F)
        wanted = judged("Resize", [X, None, scales], {})
        assert resized(alone, X, scales=scales).shape == wanted.shape
    assert resized(alone, np.zeros(10, F), scales=np.asarray([0.7], F)).shape == (7,)


def test_a_rounded_scale_does_not_move_the_nearest_element(alone):
    X, scales = np.arange(30, dtype=F), np.asarray([1 / 3], F)
    attrs = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    assert resized(alone, X, scales=scales, **attrs).tolist() == list(range(0, 30, 3))


def test_sizes_give_exact_places(alone):
    attrs = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for n, times in product(range(1, 40), (2, 3, 7)):
        X = np.arange(n, dtype=F)
        assert (resized(alone, X, sizes=sizes_of(n * times), **attrs) == X.repeat(times)).all()


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_aspect_ratios_agree_with_onnxruntime(alone, policy):
    rng = np.random.default_rng(6)
    for _ in range(15):
        X = rng.standard_normal((1, 1, *rng.integers(1, 9, 2))).astype(F)
        sizes = sizes_of(*rng.integers(1, 14, 2))
        attrs = {"keep_aspect_ratio_policy": policy, "axes": [3, 2], "mode": "linear"}
        wanted = judged("Resize", [X, None, None, sizes], attrs)
        close(resized(alone, X, sizes=sizes, **attrs), wanted, 1e-4)


def test_half_an_element_makes_the_axis_larger(alone):
    made = resized(
        alone, np.zeros((4, 3), F), sizes=sizes_of(2, 9), keep_aspect_ratio_policy="not_larger"
    )
    assert made.shape == (2, 2)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_axes_are_treated_one_by_one(alone, mode, rank):
    rng = np.random.default_rng(rank)
    X = rng.standard_normal(rng.integers(2, 5, rank)).astype(F)
    sizes = sizes_of(*rng.integers(1, 8, rank))
    made = X
    for axis in rng.permutation(rank).tolist():
        made = resized(alone, made, sizes=sizes[[axis]], mode=mode, axes=[axis - rank])
    close(resized(alone, X, sizes=sizes, mode=mode), made, 1e-5)


@pytest.mark.parametrize("antialias", [0, 1])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_a_plain_picture_stays_plain(alone, mode, antialias):
    for dtype, n, out in product((F, np.uint8, np.int64), (1, 5, 50), (1, 3, 7, 90)):
        X = np.full(n, 200, dtype)
        made = resized(alone, X, sizes=sizes_of(out), mode=mode, antialias=antialias)
        np.testing.assert_allclose(made, np.full(out, 200, dtype), rtol=1e-6)


def test_whole_numbers_are_rounded_and_stay_in_their_range(alone):
    X = np.asarray([0, 0, 255, 255, 0, 0], np.uint8)
    made = resized(alone, X, sizes=sizes_of(12), mode="cubic")
    exact = resized(alone, X.astype(F), sizes=sizes_of(12), mode="cubic")
    assert exact.min() < 0 and exact.max() > 255
    assert made.tolist() == exact.clip(0, 255).round().astype(np.uint8).tolist()
    X = np.asarray([-(2**63), 2**63 - 1])
    made = resized(alone, X, sizes=sizes_of(4), mode="cubic", cubic_coeff_a=-2.0)
    assert made.tolist() == sorted(made.tolist()) and made[0] == -(2**63)


@EACH_SPACE
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64", "complex64"])
def test_every_library_weighs_every_kind_of_number(alone, space, dtype):
    inputs = {"X": np.asarray([0, 200, 100], dtype), "scales": None, "sizes": sizes_of(7)}
    (made,) = made_by(space, "Resize", inputs, {"mode": "cubic"}, 1)
    close(made, alone("Resize", inputs, {"mode": "cubic"})[0])
    assert made.dtype == dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_are_computed_in_float32(alone, dtype):
    X = np.random.default_rng(1).standard_normal(9).astype(ml_dtypes.bfloat16).astype(dtype)
    made = resized(alone, X, sizes=sizes_of(20), mode="cubic")
    wanted = resized(alone, X.astype(F), sizes=sizes_of(20), mode="cubic").astype(dtype)
    assert (made.dtype, made.tolist()) == (dtype, wanted.tolist())


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_antialiased_whole_numbers_agree_with_onnxruntime(alone, dtype):
    X = np.random.default_rng(8).integers(0, 100, (1, 1, 9, 13)).astype(dtype)
    attrs, sizes = {"antialias": 1, "mode": "linear"}, sizes_of(1, 1, 5, 6)
    wanted = judged("Resize", [X, None, None, sizes], attrs, dtype=dtype)
    made = resized(alone, X, sizes=sizes, **attrs)
    assert made.dtype == wanted.dtype
    assert abs(made.astype(int) - wanted).max() <= 1  # it rounds after every axis


def test_what_has_no_mean_can_be_nearest(alone):
    words, answers = np.asarray(["a", "b"], object), np.asarray([True, False])
    assert resized(alone, words, sizes=sizes_of(4)).tolist() == ["a", "a", "b", "b"]
    assert resized(alone, answers, sizes=sizes_of(4)).tolist() == [True, True, False, False]
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "roi": np.asarray([0, 2], F)}
    assert resized(alone, words, sizes=sizes_of(3), **crop).tolist() == ["a", "b", ""]
    with pytest.raises(RunError, match="only the mode nearest"):
        resized(alone, words, sizes=sizes_of(4), mode="linear")


def test_complex_and_wide_numbers_are_weighted(alone):
    X = np.asarray([0, 1 + 2j], np.complex64)
    assert resized(alone, X, sizes=sizes_of(3), mode="linear").tolist() == [0, 0.5 + 1j, 1 + 2j]
    X = np.asarray([1e300, 3e300])
    assert resized(alone, X, sizes=sizes_of(3), mode="linear").tolist() == [1e300, 2e300, 3e300]


def test_an_empty_input_is_none(alone):
    nothing, X = np.zeros(0, F), np.arange(2, dtype=F)
    made = resized(alone, X, roi=nothing, scales=nothing, sizes=sizes_of(4))
    assert made.tolist() == [0, 0, 1, 1]
    assert resized(alone, X, scales=np.ones(0, F), sizes=sizes_of(0)).tolist() == []
    empty = resized(alone, np.zeros((0, 4), F), scales=np.asarray([2, 0.5], F), mode="cubic")
    assert empty.shape == (0, 2)


@EACH_SPACE
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_is_one_on_every_library(alone, space, mode):
    X = np.random.default_rng(2).standard_normal((2, 3, 6, 5)).astype(F)
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "axes": [2, 3]}
    for attrs in ({"antialias": 1, "exclude_outside": 1, "axes": [2, 3]}, crop):
        roi = np.asarray([0.1, 0.2, 0.8, 1.4], F) if attrs is crop else None
        inputs = {"X": X, "roi": roi, "scales": None, "sizes": sizes_of(4, 9)}
        attrs = {**attrs, "mode": mode}
        wanted = alone("Resize", inputs, attrs)[0]
        close(made_by(space, "Resize", inputs, attrs, 1)[0], wanted)
        assert shapes("Resize", inputs, attrs, 1) == [("float32", (2, 3, 4, 9))]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "either scales or sizes must be given, not none"),
        ({"scales": np.ones(2, F), "sizes": sizes_of(1, 1)}, "not both"),
        ({"scales": np.ones(3, F)}, r"scales \[1.0, 1.0, 1.0\] should be 2 numbers of more than 0"),
        ({"scales": np.asarray([1, 0], F)}, "numbers of more than 0"),
        ({"scales": np.asarray([1, np.inf], F)}, "numbers of more than 0"),
        ({"sizes": sizes_of(1, -1)}, r"sizes \[1, -1\] should be 2 numbers of 0 or more"),
        ({"sizes": sizes_of(1), "axes": [2]}, "axis 2 is outside a rank of 2"),
        ({"sizes": sizes_of(1, 1), "axes": [0, -2]}, "name one axis twice"),
        ({"sizes": sizes_of(1, 1), "mode": "area"}, "mode is 'area', not one of nearest, linear"),
        ({"sizes": sizes_of(1, 1), "nearest_mode": "up"}, "nearest_mode is 'up', not one of"),
        ({"sizes": sizes_of(1, 1), "coordinate_transformation_mode": "x"}, "is 'x', not one of"),
        ({"sizes": sizes_of(1, 1), "keep_aspect_ratio_policy": "x"}, "is 'x', not one of stretch"),
        ({"scales": np.full(2, 1e9, F)}, "this machine has"),
    ],
)
def test_what_is_wrong_with_a_resize_is_said(alone, given, sentence):
    with pytest.raises((RunError, MemoryError), match=sentence):
        resized(alone, np.zeros((2, 2), F), **given)


def test_a_crop_needs_its_roi_and_an_empty_axis_stays_so(alone):
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "sizes": sizes_of(3)}
    for roi in (None, np.zeros(0, F), np.zeros(1, F), np.asarray([0, np.nan], F)):
        with pytest.raises(RunError, match="1 begins, then 1 ends"):
            resized(alone, np.zeros(2, F), roi=roi, **crop)
    with pytest.raises(RunError, match="an axis without elements cannot become larger"):
        resized(alone, np.zeros(0, F), sizes=sizes_of(3))


# --- GridSample, AffineGrid ---------------------------------------------------------------------


def drawn_grid(rng, rank, modes):
    dims, out = rng.integers(1, 6, rank), rng.integers(1, 5, rank)
    X = rng.standard_normal((2, 3, *dims)).astype(F)
    grid = rng.uniform(-2.5, 2.5, (2, *out, rank)).astype(F)
    paddings = ("zeros", "border", "reflection")
    attrs = {"mode": str(rng.choice(modes)), "padding_mode": str(rng.choice(paddings))}
    return X, grid, attrs | {"align_corners": int(rng.integers(2))}


@pytest.mark.parametrize("rank", [2, 3])
def test_gridsample_agrees_with_onnxruntime(alone, rank):
    rng = np.random.default_rng(rank)
    for _ in range(60):
        X, grid, attrs = drawn_grid(rng, rank, ("nearest", "linear", "cubic")[: 5 - rank])
        wanted = judged("GridSample", [X, grid], attrs)
        close(alone("GridSample", {"X": X, "grid": grid}, attrs)[0], wanted, 1e-4)


def test_microsofts_gridsample_agrees_with_onnxruntime(alone):
    rng = np.random.default_rng(4)
    for _ in range(40):
        X, grid, attrs = drawn_grid(rng, 2, ("nearest", "bilinear", "bicubic"))
        wanted = judged("GridSample", [X, grid], attrs, domain="com.microsoft")
        made = alone("com.microsoft.GridSample", {"X": X, "Grid": grid}, attrs)[0]
        close(made, wanted, 1e-4)
        assert shapes("com.microsoft.GridSample", {"X": X, "Grid": grid}, attrs, 1) == [
            ("float32", wanted.shape)
        ]


def test_microsofts_gridsample_makes_floats(alone):
    X, grid = np.asarray([[[[1, 2]]]], np.uint8), np.zeros((1, 1, 1, 2), F)
    made = alone("com.microsoft.GridSample", {"X": X, "Grid": grid}, {})[0]
    assert (made.dtype, made.item()) == (np.float32, 1.5)


@EACH_SPACE
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_gridsample_is_one_on_every_library(alone, space, padding):
    X, grid, _ = drawn_grid(np.random.default_rng(9), 2, ("linear",))
    inputs = {"X": X, "grid": grid}
    for mode, align in product(("nearest", "linear", "cubic"), (0, 1)):
        attrs = {"mode": mode, "padding_mode": padding, "align_corners": align}
        wanted = alone("GridSample", inputs, attrs)[0]
        close(made_by(space, "GridSample", inputs, attrs, 1)[0], wanted)
        assert shapes("GridSample", inputs, attrs, 1) == [("float32", wanted.shape)]


def test_gridsample_knows_one_axis_and_four(alone):
    X = np.asarray([[[10, 20, 30]]], F)
    grid = np.asarray([[[-1], [0], [0.5]]], F)
    made = alone("GridSample", {"X": X, "grid": grid}, {"align_corners": 1})[0]
    assert made.tolist() == [[[10, 20, 25]]]
    X = np.arange(81, dtype=F).reshape(1, 1, 3, 3, 3, 3)
    corners = np.asarray([[[[[[1, -1, -1, -1]]]], [[[[-1, -1, -1, 0.5]]]]]], F)
    made = alone("GridSample", {"X": X, "grid": corners}, {"align_corners": 1})[0]
    assert made.reshape(-1).tolist() == [2, 40.5]


def test_places_that_are_no_numbers_read_zeros_or_the_border(alone):
    X, grid = np.ones((1, 1, 2, 2), F), np.full((1, 1, 4, 2), 0, F)
    grid[0, 0, :, 0] = np.nan, np.inf, -np.inf, 1e30
    made = alone("GridSample", {"X": X, "grid": grid}, {})[0]
    assert made.reshape(-1).tolist() == [0, 0, 0, 0]
    made = alone("GridSample", {"X": X * 3, "grid": grid}, {"padding_mode": "border"})[0]
    assert np.isnan(made[..., 0]) and made.reshape(-1)[1:].tolist() == [3, 3, 3]


def test_what_is_outside_does_not_count_even_if_it_is_infinite(alone):
    X = np.asarray([[[[np.inf, 1, 2]]]], F)
    grid = np.asarray([[[[4, 0], [-4, 0]]]], F)
    assert alone("GridSample", {"X": X, "grid": grid}, {})[0].tolist() == [[[[0, 0]]]]


def test_gridsample_cuts_whole_numbers_towards_zero(alone):
    grid = np.asarray([[[[-1, 0], [0.4, 0], [0.9, 0]]]], F)
    for X, wanted in (([10, 17], [10, 14, 16]), ([-10, -17], [-10, -14, -16])):
        X = np.asarray([[[X]]], np.int16)
        made = alone("GridSample", {"X": X, "grid": grid}, {"align_corners": 1})[0]
        assert (made.dtype, made.reshape(-1).tolist()) == (X.dtype, wanted)


def test_gridsample_moves_words_when_nearest(alone):
    X, grid = np.asarray([[[["a", "b"]]]], object), np.asarray([[[[-1, 0], [1, 0], [3, 0]]]], F)
    attrs = {"mode": "nearest", "align_corners": 1}
    assert alone("GridSample", {"X": X, "grid": grid}, attrs)[0].tolist() == [[[["a", "b", ""]]]]


def test_what_is_wrong_with_a_grid_is_said(alone):
    X = np.zeros((1, 1, 2, 2), F)
    for dims in ((2, 1, 1, 2), (1, 1, 1, 3), (1, 1, 2)):
        with pytest.raises(RunError, match=r"grid \[.*\] does not fit X \[1, 1, 2, 2\]"):
            alone("GridSample", {"X": X, "grid": np.zeros(dims, F)}, {})
    grid = np.zeros((1, 1, 1, 2), F)
    with pytest.raises(RunError, match="mode is 'bilinear', not one of nearest, linear, cubic"):
        alone("GridSample", {"X": X, "grid": grid}, {"mode": "bilinear"})
    with pytest.raises(RunError, match="mode is 'linear', not one of bilinear"):
        alone("com.microsoft.GridSample", {"X": X, "Grid": grid}, {"mode": "linear"})
    with pytest.raises(RunError, match="padding_mode is 'wrap', not one of"):
        alone("GridSample", {"X": X, "grid": grid}, {"padding_mode": "wrap"})


@EACH_SPACE
@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("dims", [(3, 5), (1, 4), (2, 3, 4), (1, 1, 1)])
def test_affine_grid_agrees_with_torch(space, dims, align_corners):
    rank = len(dims)
    theta = np.random.default_rng(rank).standard_normal((2, rank, rank + 1)).astype(F)
    inputs, attrs = (
        {"theta": theta, "size": sizes_of(2, 3, *dims)},
        {"align_corners": align_corners},
    )
    function = torch.nn.functional.affine_grid
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the change that gave 1 its middle
        wanted = function(torch.from_numpy(theta), [2, 3, *dims], align_corners=bool(align_corners))
    close(made_by(space, "AffineGrid", inputs, attrs, 1)[0], wanted.numpy())
    assert shapes("AffineGrid", inputs, attrs, 1) == [("float32", (2, *dims, rank))]
    if 1 not in dims or not align_corners:  # there ONNX Runtime takes the end for the middle
        close(judged("AffineGrid", [theta, inputs["size"]], attrs), wanted.numpy())


def test_a_theta_that_does_not_fit_is_refused(alone):
    with pytest.raises(RunError, match=r"theta \[2, 2, 3\] does not fit the size \[1, 1, 2, 2\]"):
        alone("AffineGrid", {"theta": np.zeros((2, 2, 3), F), "size": sizes_of(1, 1, 2, 2)}, {})


# --- CenterCropPad, ImageDecoder ----------------------------------------------------------------


@EACH_SPACE
def test_centercroppad_agrees_with_onnxruntime(space):
    rng = np.random.default_rng(1)
    for _ in range(20):
        X, shape = rng.standard_normal(rng.integers(1, 9, 3)).astype(F), rng.integers(1, 9, 2)
        inputs, attrs = {"input_data": X, "shape": shape}, {"axes": [-1, 0]}
        wanted = judged("CenterCropPad", [X, shape], attrs)
        made = made_by(space, "CenterCropPad", inputs, attrs, 1)[0]
        assert made.tolist() == wanted.tolist()
        assert shapes("CenterCropPad", inputs, attrs, 1) == [("float32", wanted.shape)]


def test_words_are_cropped_and_padded_with_empty_ones(alone):
    for size, wanted in ((1, ["b"]), (2, ["a", "b"]), (6, ["", "a", "b", "c", "", ""])):
        inputs = {"input_data": np.asarray(["a", "b", "c"], object), "shape": sizes_of(size)}
        assert alone("CenterCropPad", inputs, {})[0].tolist() == wanted
    with pytest.raises(RunError, match="should be a size for each of 1 axes"):
        alone("CenterCropPad", {"input_data": np.zeros(3, F), "shape": sizes_of(1, 1)}, {})


def encoded(picture, format, **options):
    file = io.BytesIO()
    picture.save(file, format, **options)
    return np.frombuffer(file.getvalue(), np.uint8)


def decoded(alone, stream, pixel_format="RGB"):
    return alone("ImageDecoder", {"encoded_stream": stream}, {"pixel_format": pixel_format})[0]


@pytest.fixture
def pixels():
    return np.random.default_rng(3).integers(0, 256, (5, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize("format", ["BMP", "PNG", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_pictures_of_every_lossless_kind_are_decoded(alone, pixels, format):
    options = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}
    stream = encoded(Image.fromarray(pixels), format, **options.get(format, {}))
    assert (decoded(alone, stream) == pixels).all()
    assert (decoded(alone, stream, "BGR") == pixels[:, :, ::-1]).all()
    grey = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    assert (decoded(alone, stream, "Grayscale") == grey).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_kind_of_pixel_becomes_what_is_asked(alone, pixels, mode):
    picture = Image.fromarray(pixels).convert(mode)
    stream = encoded(picture, "TIFF")
    assert (decoded(alone, stream) == np.asarray(picture.convert("RGB"))).all()
    assert decoded(alone, stream, "Grayscale").shape == (5, 4, 1)


def test_of_sixteen_bits_the_upper_eight_are_kept(alone):
    values = np.asarray([[0, 255, 256, 65535]], np.uint16)
    for format in ("PNG", "TIFF"):
        stream = encoded(Image.fromarray(values), format)
        assert decoded(alone, stream, "Grayscale").reshape(-1).tolist() == [0, 0, 1, 255]
        assert decoded(alone, stream).shape == (1, 4, 3)


def test_a_damaged_picture_is_a_clear_error(alone, pixels):
    whole = encoded(Image.fromarray(pixels.repeat(9, 0).repeat(9, 1)), "PNG")
    for stream in (whole[:-200], whole[:10], whole[:0], np.zeros(99, np.uint8)):
        sentence = rf"encoded_stream, {len(stream)} bytes, is no whole picture of the kinds BMP, J"
        with pytest.raises(RunError, match=sentence):
            decoded(alone, stream)


def test_other_kinds_and_pixel_formats_are_refused(alone, pixels):
    with pytest.raises(RunError, match="is no whole picture of the kinds"):
        decoded(alone, encoded(Image.fromarray(pixels), "GIF"))
    with pytest.raises(RunError, match="pixel_format is 'HSV', not one of RGB, BGR, Grayscale"):
        decoded(alone, encoded(Image.fromarray(pixels), "PNG"), "HSV")


def test_a_picture_with_too_many_pixels_is_refused(alone, pixels, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    with pytest.raises(RunError, match=r"is no whole picture .* decompression bomb"):
        decoded(alone, encoded(Image.fromarray(pixels), "PNG"))
