"""The traps of windows: auto_pad, asymmetric pads, their order, ceil_mode and the divisor.

ONNX Runtime is the second opinion, on parameters drawn with a fixed seed. Left out of the draw is
where it departs from the specification: under auto_pad SAME it refuses or ignores dilations, and
where the stride is greater than the kernel it crops (pools) or gives less than input times stride
(ConvTranspose). An output_padding of the stride or more, which it refuses, is left out too.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from hubtool.errors import RunError
from hubtool.ops.window import resolve_transposed, resolve_window

FORMALS = {"Conv": ("X", "W", "B"), "ConvTranspose": ("X", "W", "B")}
DRAWS = 150


def drawn(op, auto_pad, rng):
    """Inputs and attributes that both engines take."""
    rank = int(rng.integers(1, 4))
    kernel = rng.integers(1, 4, rank)
    same = auto_pad.startswith("SAME")
    strides = rng.integers(1, 4, rank)
    strides = np.minimum(strides, kernel) if same else strides
    dilations = np.ones(rank, int) if same else rng.integers(1, 3, rank)
    size = rng.integers(0, 5, rank) + dilations * (kernel - 1) + 1
    attrs = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    if auto_pad == "NOTSET":
        attrs["pads"] = [int(rng.integers(0, k)) for k in (*kernel, *kernel)]
    attrs = {key: [int(n) for n in numbers] for key, numbers in attrs.items()}
    return attrs | {"auto_pad": auto_pad}, rng.standard_normal((2, 1, *size)).astype(np.float32)


def convolution(op, X, attrs, rng):
    """X with channels, the kernels and perhaps a bias for a number of groups."""
    group, share, made = (int(n) for n in rng.integers(1, 4, 3))
    X = rng.standard_normal((2, group * share, *X.shape[2:])).astype(np.float32)
    channels = (group * made, share) if op == "Conv" else (group * share, made)
    W = rng.standard_normal((*channels, *attrs["kernel_shape"])).astype(np.float32)
    B = rng.standard_normal(group * made).astype(np.float32) if rng.random() < 0.5 else None
    return attrs | {"group": group}, [X, W, B]


def extras(op, attrs, size, rng):
    """The attributes of one operator alone."""
    if op == "ConvTranspose" and attrs["auto_pad"] == "NOTSET":
        attrs["output_padding"] = [int(rng.integers(0, s)) for s in attrs["strides"]]
        if rng.random() < 0.3:
            full = resolve_transposed(
                size,
                attrs["kernel_shape"],
                strides=attrs["strides"],
                dilations=attrs["dilations"],
                output_padding=attrs["output_padding"],
            ).size
            attrs["output_shape"] = [max(n - int(rng.integers(0, 3)), 1) for n in full]
    drawn_flags = {
        "AveragePool": ("ceil_mode", "count_include_pad"),
        "MaxPool": ("ceil_mode", "storage_order"),
        "LpPool": ("ceil_mode",),
    }
    flags = {key: int(rng.integers(0, 2)) for key in drawn_flags.get(op, ())}
    return attrs | flags | ({"p": int(rng.integers(1, 4))} if op == "LpPool" else {})


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"])
def test_windows_agree_with_onnxruntime(op, auto_pad, alone, in_onnxruntime):
    rng = np.random.default_rng([28, len(op), len(auto_pad)])
    outputs = {"Y": "float32", "Indices": "int64"} if op == "MaxPool" else {"Y": "float32"}
    for _ in range(DRAWS):
        attrs, X = drawn(op, auto_pad, rng)
        inputs = [X]
        if op in FORMALS:
            attrs, inputs = convolution(op, X, attrs, rng)
        attrs = extras(op, attrs, X.shape[2:], rng)
        formals = dict(zip(FORMALS.get(op, ("X",)), inputs, strict=True))
        ours = alone(op, formals, attrs, outputs=len(outputs))
        theirs = in_onnxruntime(op, inputs, attrs, outputs)
        for made, wanted in zip(ours, theirs, strict=True):
            assert made.shape == wanted.shape, attrs
            np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5, err_msg=str(attrs))


def test_pads_are_all_begins_then_all_ends():
    window = resolve_window((10, 20), (3, 3), pads=[1, 2, 3, 4])
    assert (window.begins, window.ends, window.output) == ((1, 2), (3, 4), (12, 24))


def test_an_odd_padding_goes_to_the_end_for_same_upper_and_to_the_begin_for_same_lower():
    upper = resolve_window((5,), (2,), auto_pad="SAME_UPPER")
    lower = resolve_window((5,), (2,), auto_pad="SAME_LOWER")
    assert (upper.begins, upper.ends, upper.output) == ((0,), (1,), (5,))
    assert (lower.begins, lower.ends, lower.output) == ((1,), (0,), (5,))


def test_auto_pad_valid_pads_nothing_whatever_pads_says():
    window = resolve_window((5,), (2,), auto_pad="VALID", pads=[7, 7])
    assert (window.begins, window.ends, window.output) == ((0,), (0,), (4,))


def test_same_counts_the_reach_of_a_dilated_kernel():
    window = resolve_window((8,), (3,), dilations=[2], auto_pad="SAME_UPPER")
    assert (window.begins, window.ends, window.output) == ((2,), (2,), (8,))


def test_a_last_window_must_start_inside_the_input_or_the_padding_before_it():
    inside = resolve_window((4,), (3,), strides=[2], ceil_mode=1)
    assert (inside.output, inside.overhang) == ((2,), (1,))
    beyond = resolve_window((2,), (1,), strides=[2], ceil_mode=1)
    assert (beyond.output, beyond.overhang) == ((1,), (0,))


def test_max_pool_pads_with_less_than_any_number(alone):
    X = np.full((1, 1, 2), -7, np.float32)
    (Y,) = alone("MaxPool", {"X": X}, {"kernel_shape": [3], "pads": [2, 0]})
    assert Y.tolist() == [[[-7, -7]]]


def test_max_pool_never_points_into_the_padding(alone):
    X = np.zeros((1, 2, 2), np.uint8)  # as small as the padding itself
    Y, Indices = alone("MaxPool", {"X": X}, {"kernel_shape": [3], "pads": [2, 2]}, outputs=2)
    assert Y.dtype == np.uint8
    assert Indices.tolist() == [[[0, 0, 0, 1], [2, 2, 2, 3]]]


@pytest.mark.parametrize(
    ("include", "wanted"),
    [(0, [1.5, 3, 4]), (1, [1, 3, 2])],
    ids=["elements alone", "with the padding"],
)
def test_average_pool_divides_by_what_the_window_holds(alone, include, wanted):
    X = np.asarray([[[1, 2, 3, 4]]], np.float32)
    attrs = {"kernel_shape": [3], "strides": [2], "pads": [1, 1], "ceil_mode": 1}
    (Y,) = alone("AveragePool", {"X": X}, {**attrs, "count_include_pad": include})
    np.testing.assert_allclose(Y[0, 0], wanted, rtol=1e-6)


def test_an_overhanging_window_never_counts_what_is_past_the_padding(alone):
    X = np.ones((1, 1, 4), np.float32)
    attrs = {"kernel_shape": [3], "strides": [2], "ceil_mode": 1, "count_include_pad": 1}
    (Y,) = alone("AveragePool", {"X": X}, attrs)
    assert Y.tolist() == [[[1, 1]]]


@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_lp_pool_is_the_norm_of_each_channel(alone, p):
    X = np.random.default_rng(p).standard_normal((2, 3, 4, 5)).astype(np.float32)
    (Y,) = alone("GlobalLpPool", {"X": X}, {"p": p})
    assert Y.shape == (2, 3, 1, 1)
    wanted = np.linalg.norm(X.reshape(2, 3, 20), ord=p, axis=2)
    np.testing.assert_allclose(Y[:, :, 0, 0], wanted, rtol=1e-5)


def test_a_depthwise_convolution_sees_one_channel_each(alone):
    X = np.ones((1, 3, 4, 4), np.float32)
    W = np.arange(1, 4, dtype=np.float32).reshape(3, 1, 1, 1) * np.ones((1, 1, 2, 2), np.float32)
    (Y,) = alone("Conv", {"X": X, "W": W}, {"group": 3})
    assert Y[0, :, 0, 0].tolist() == [4, 8, 12]
    assert Y.shape == (1, 3, 3, 3)


def test_an_empty_batch_stays_one(alone):
    X, W = np.zeros((0, 2, 5, 5), np.float32), np.zeros((4, 2, 3, 3), np.float32)
    (Y,) = alone("Conv", {"X": X, "W": W}, {})
    assert Y.shape == (0, 4, 3, 3)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"strides": [1]}, r"strides \[1\] should be 2 numbers of at least 1"),
        ({"pads": [1, 1]}, r"pads \[1, 1\] should be 4 numbers of at least 0"),
        ({"dilations": [0, 1]}, "dilations"),
        ({"auto_pad": "SAME"}, "auto_pad is 'SAME', not one of NOTSET"),
        ({"dilations": [3, 3]}, r"a window of 7 does not fit into 5 padded by 0\+0"),
        ({"group": 2}, r"X has 2 channels, W \[4, 2, 3, 3\] takes 4"),
        ({"kernel_shape": [3, 2]}, r"kernel_shape is \[3, 2\], that of W \[3, 3\]"),
    ],
)
def test_what_does_not_fit_says_so(alone, attrs, message):
    X, W = np.zeros((1, 2, 5, 5), np.float32), np.zeros((4, 2, 3, 3), np.float32)
    with pytest.raises(RunError, match=message):
        alone("Conv", {"X": X, "W": W}, attrs)


def test_a_convolution_that_no_memory_holds_is_refused(alone):
    X, W = np.zeros((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    with pytest.raises(RunError, match="GiB; this machine has"):
        alone("Conv", {"X": X, "W": W}, {"pads": [10**7] * 4})


def test_output_shape_beyond_the_full_result_adds_to_its_end():
    window = resolve_transposed((3,), (3,), strides=[2], output_shape=[9])
    assert (window.size, window.begins, window.ends) == ((9,), (0,), (-2,))


def test_transposed_geometry_is_the_plain_one_seen_from_the_output():
    rng = np.random.default_rng(3)
    for _ in range(50):
        n, k, s, d = (int(v) for v in rng.integers(1, 6, 4))
        plain = resolve_window((n + d * (k - 1),), (k,), strides=[s], dilations=[d])
        back = resolve_transposed(plain.output, (k,), strides=[s], dilations=[d])
        lost = plain.size[0] - back.size[0]  # what the last stride does not reach
        assert 0 <= lost < s
        assert math.prod(back.output) == math.prod(plain.output)
