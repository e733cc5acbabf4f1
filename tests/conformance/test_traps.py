"""The traps into which readers of ONNX fall, one test each: what operators mean, 1 to 12, 15 to 17.

Each was found in a model that some converter read wrongly or not at all. What has to do with files,
weights, names and scopes stands in test_traps_files.py; how they are judged, in traps.py.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest

from hubtool.errors import UnsupportedError

from .suite import read_model
from .test_round_trip import runtime
from .traps import assert_means, model, numbers

KERNEL = (3, 4)
FAR = 2**63 - 1
EMPTY = np.array([], np.float32)
BATCH_NORM = {
    **{name: numbers(3, seed=seed) for seed, name in enumerate(("scale", "B", "mean"))},
    "var": np.abs(numbers(3, seed=3)) + np.float32(0.5),
}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def windowed(op: str, opset: int, *settings: str, size: str = "7,8") -> onnx.ModelProto:
    """A model with one layer of the operator for each of the settings, all with the same kernel."""
    channels, weights = 3, {}
    if op.startswith("Conv"):
        weights = {"W": numbers(4, 3, *KERNEL, seed=9)}
        channels = 4 if op == "ConvTranspose" else 3
    inputs = "X, W" if weights else "X"
    lines = [f"{op} <kernel_shape={[*KERNEL]}, {setting}> ({inputs})" for setting in settings]
    return model(opset, f"float[1,{channels},{size}] X", *lines, weights=weights)


def same_pads(upper: bool, stride: int, dilation: int) -> list[int]:
    """The pads of SAME for an image of 7 x 8, by the words of the specification."""
    extents = [(k - 1) * dilation + 1 for k in KERNEL]
    totals = [
        max((-(-size // stride) - 1) * stride + extent - size, 0)
        for size, extent in zip((7, 8), extents, strict=True)
    ]
    less, more = [total // 2 for total in totals], [-(-total // 2) for total in totals]
    return [*less, *more] if upper else [*more, *less]


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool", "LpPool", "ConvTranspose"])
@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_trap_01_auto_pad(op: str, pad: str) -> None:
    """auto_pad puts an odd pad at the end (UPPER) or at the beginning (LOWER), and depends on
    size, stride and dilation."""
    strided = [f'auto_pad="{pad}", strides=[{s}, {s}]' for s in (1, 2, 3)]
    for opset in (11, 22):
        assert_means(windowed(op, opset, *strided))
        assert_means(windowed(op, opset, *strided[:2], size="8,9"))
    if (op, pad) == ("ConvTranspose", "SAME_UPPER"):
        # size · stride is more than the kernels reach; ONNX Runtime stops there: by hand.
        explicit = windowed(op, 11, "strides=[4, 4], output_padding=[1, 0]")
        wanted = runtime(explicit, {"X": numbers(1, 4, 7, 8)})
        proto = windowed(op, 11, f'auto_pad="{pad}", strides=[4, 4]')
        assert_means(proto, wanted=wanted, exported=False)
    dilated = [f"{setting}, dilations=[2, 2]" for setting in strided]
    if pad == "VALID" or op == "ConvTranspose":
        assert_means(windowed(op, 22, *dilated))
        return
    # ONNX Runtime refuses Conv with both, and forgets the dilation of pools: pads by hand.
    explicit = [
        f"pads={same_pads(pad == 'SAME_UPPER', s, 2)}, strides=[{s}, {s}], dilations=[2, 2]"
        for s in (1, 2, 3)
    ]
    proto = windowed(op, 22, *dilated)
    wanted = runtime(windowed(op, 22, *explicit), {"X": numbers(1, 3, 7, 8)})
    assert_means(proto, wanted=wanted, exported=False)


def test_trap_02_asymmetric_pads() -> None:
    """Pads differ from side to side; MaxPool pads with −inf, AveragePool with zeros that count or
    do not."""
    for op in ("Conv", "MaxPool", "AveragePool", "LpPool", "ConvTranspose"):
        assert_means(windowed(op, 11, "pads=[0, 1, 2, 3]", "pads=[2, 0, 0, 1], strides=[2, 1]"))
    for opset in (7, 11, 22):
        counted = [f"pads=[0, 1, 2, 3], count_include_pad={c}" for c in (0, 1)]
        assert_means(windowed("AveragePool", opset, *counted))
    below_zero = {"X": -1 - np.abs(numbers(1, 3, 7, 8))}
    assert_means(windowed("MaxPool", 12, "pads=[0, 1, 2, 3]"), below_zero)
    pool = "MaxPool <kernel_shape=[3], pads=[0, 2]> (X)"
    proto = model(12, "int8[1,1,4] X", pool, dtype="int8")
    assert_means(proto, {"X": np.array([[[-5, -7, -6, -8]]], np.int8)})


def test_trap_03_order_of_pads() -> None:
    """pads are [all begins…, all ends…], not pairs; the values wanted are numpy's."""
    image, cube = numbers(1, 1, 2, 3), numbers(1, 1, 2, 3, 4)
    flat = np.pad(image, [(0, 0), (0, 0), (1, 0), (0, 2)])
    deep = np.pad(cube, [(0, 0), (0, 0), (1, 0), (2, 3), (0, 4)])
    ones = {"W": np.ones((1, 1, 1, 1), np.float32), "V": np.ones((1, 1, 1, 1, 1), np.float32)}
    lines = ["Conv <pads=[1, 0, 0, 2]> (X, W)", "Conv <pads=[1, 2, 0, 0, 3, 4]> (Z, V)"]
    proto = model(10, "float[1,1,2,3] X, float[1,1,2,3,4] Z", *lines, weights=ones)
    assert_means(proto, {"X": image, "Z": cube}, [flat, deep])
    proto = model(10, "float[1,1,2,3] X", "Pad <pads=[0, 0, 1, 0, 0, 0, 0, 2]> (X)")
    assert_means(proto, {"X": image}, [flat])
    weights = {"pads": ints(0, 0, 1, 2, 0, 0, 0, 0, 3, 4)}
    assert_means(model(18, "float[1,1,2,3,4] Z", "Pad (Z, pads)", weights=weights), None, [deep])
    assert_means(model(10, "float[2,3] X", "Pad <pads=[-1, 2, 0, -1]> (X)"))


GEOMETRIES = ((3, 2, [0, 0]), (3, 2, [1, 1]), (2, 3, [1, 1]), (2, 3, [0, 1]), (3, 3, [1, 1]))


@pytest.mark.parametrize(
    ("op", "setting", "opsets"),
    [
        ("MaxPool", "", (10, 22)),
        ("AveragePool", "", (10, 22)),
        ("AveragePool", ", count_include_pad=1", (10, 22)),
        ("LpPool", "", (18, 22)),
    ],
)
def test_trap_04_ceil_mode(op: str, setting: str, opsets: tuple[int, ...]) -> None:
    """With ceil_mode a window hangs over the end, one that lies wholly in the pads is none, and an
    average is over what is there, not over the whole window."""
    for opset, size in product(opsets, (5, 6, 7, 8)):
        lines = [
            f"{op} <kernel_shape=[{k}], strides=[{s}], pads={p}, ceil_mode=1{setting}> (X)"
            for k, s, p in GEOMETRIES
        ]
        assert_means(model(opset, f"float[1,2,{size}] X", *lines))
    lines = [f"{op} <kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1{setting}> (X)"]
    assert_means(model(opsets[-1], "float[1,2,6,9] X", *lines))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_trap_04_ceil_mode_with_a_pad_in_front_only(backend: str) -> None:
    """What ceil_mode adds at the end is no pad, though with it both sides may look alike."""
    setting = "pads=[1, 0], ceil_mode=1, count_include_pad=1"
    pool = f"AveragePool <kernel_shape=[2], strides=[2], {setting}> (X)"
    assert_means(model(19, "float[1,1,6] X", pool), on=[backend])


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_trap_05_softmax_below_13(op: str) -> None:
    """Below opset 13 everything from `axis` on, which is 1 unless told, is one row; from 13 on it
    is one axis, the last unless told."""
    for opset in (7, 11, 12, 13):
        axes = (0, 1, 2, 3, *((-1, -2, -4) if opset > 7 else ()))
        lines = [f"{op} (X)", *(f"{op} <axis={axis}> (X)" for axis in axes)]
        assert_means(model(opset, "float[2,3,4,5] X", *lines))
    lines = [f"{op} (X)", f"{op} <axis=2> (X)"]
    assert_means(model(12, "float[N,3,C,5] X", *lines), {"X": numbers(2, 3, 4, 5)})


def test_trap_06_axes() -> None:
    """axes are an attribute at first and an input later (13, for most reductions 18), and without
    any, or with none in the list, all axes are meant or none."""
    old = ["Squeeze (X)", "Squeeze <axes=[0]> (X)", "Squeeze <axes=[-2]> (X)"]
    old += ["Squeeze <axes=[2, 0]> (X)", "Unsqueeze <axes=[0]> (X)", "Unsqueeze <axes=[5, -6]> (X)"]
    assert_means(model(11, "float[1,2,1,3] X", *old))
    weights = {"a": ints(0), "b": ints(-2), "c": ints(2, 0), "d": ints(5, -6), "none": ints()}
    new = ["Squeeze (X)", *(f"Squeeze (X, {name})" for name in "abc")]
    assert_means(model(13, "float[1,2,1,3] X", *new, "Unsqueeze (X, d)", weights=weights))
    fed = model(13, "float[1,2,1,3] X, int64[1] a", "Squeeze (X, a)", "Unsqueeze (X, a)")
    assert_means(fed, {"X": numbers(1, 2, 1, 3), "a": ints(2)})


@pytest.mark.parametrize(
    "kind", ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare"]
)
def test_trap_06_axes_of_reductions(kind: str) -> None:
    """See above: the reductions, where an empty list means all axes or, if so told, none."""
    op, shape, new = f"Reduce{kind}", "float[2,3,4] X", 13 if kind == "Sum" else 18
    weights = {"a": ints(0, -1), "none": ints()}
    old, late = [], []
    for keep, noop in product((0, 1), (0, 1)):
        told = f"keepdims={keep}"
        old += [f"{op} <{told}> (X)", f"{op} <axes=[0, -1], {told}> (X)"]
        told += f", noop_with_empty_axes={noop}"
        late += [f"{op} <{told}> (X{axes})" for axes in ("", ", none", ", a")]
    assert_means(model(11, shape, *old), rtol=2e-5)
    assert_means(model(new, shape, *late, weights=weights), rtol=2e-5)
    fed = model(new, f"{shape}, int64[K] a", f"{op} <keepdims=0> (X, a)")
    assert_means(fed, {"X": numbers(2, 3, 4), "a": ints(1, 0)})


def test_trap_07_reshape() -> None:
    """In a shape 0 copies the size at its place, −1 is what remains, and with allowzero 0 is 0."""
    shapes = {"a": ints(0, -1), "b": ints(-1), "c": ints(0, 0, 2, 2), "d": ints(4, 0, -1)}
    lines = [f"Reshape (X, {name})" for name in shapes]
    assert_means(model(8, "float[2,3,4] X", *lines, weights=shapes))
    assert_means(model(14, "float[N,3,C] X", *lines, weights=shapes), {"X": numbers(2, 3, 4)})
    none = {"X": np.zeros((0, 3), np.float32)}
    shapes = {"a": ints(3, 0), "b": ints(5, 0, 2), "c": ints(0, 3, 1)}
    lines = ["Reshape <allowzero=1> (X, a)", "Reshape <allowzero=1> (X, b)", "Reshape (X, c)"]
    assert_means(model(14, "float[0,3] X", *lines, weights=shapes), none)
    fed = model(14, "float[2,3,4] X, int64[K] s", "Reshape (X, s)")
    assert_means(fed, {"X": numbers(2, 3, 4), "s": ints(-1, 0)})
    assert_means(model(14, "float[1,1] X", "Reshape (X, s)", weights={"s": ints()}))
    # ONNX Runtime knows no opset below 7, where the shape was an attribute: by hand.
    attribute = model(1, "float[2,3,4] X", "Reshape <shape=[0, -1]> (X)", ir=3)
    assert_means(attribute, None, [numbers(2, 3, 4).reshape(2, 12)])


COORDINATES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
MODES = (
    *('mode="linear"', 'mode="cubic"', 'mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5'),
    *(f'mode="nearest", nearest_mode="{rounding}"' for rounding in ROUNDING),
)


@pytest.mark.parametrize("coordinates", [*COORDINATES, "half_pixel_symmetric"])
def test_trap_08_resize(coordinates: str) -> None:
    """A pixel has its place by one of many rules, ties go one way or the other, and the size is
    told by scales or by sizes, behind a roi that is empty."""
    opsets = (19,) if coordinates == "half_pixel_symmetric" else (11, 19)
    weights: dict[str, Any] = {"none": EMPTY}
    # The suite holds the case where align_corners and a part of a pixel meet, ONNX Runtime not.
    scales = [(2, 2)] if coordinates == "align_corners" else [(2, 2), (0.5, 0.5), (1.7, 0.6)]
    weights |= {f"f{n}": np.array([1, 1, *s], np.float32) for n, s in enumerate(scales)}
    weights |= {f"n{n}": ints(1, 2, *s) for n, s in enumerate([(10, 14), (4, 6), (2, 4), (8, 10)])}
    weights |= {f"c{n}": ints(1, 2, *s) for n, s in enumerate([(1, 1), (3, 3), (9, 5)])}
    told = [f"none, {name}" if name[0] == "f" else f"none, none, {name}" for name in weights]
    # From odd to odd the centre is a pixel, which ONNX Runtime's scales miss by a rounding.
    pairs = [(m, t) for m, t in product(MODES, told[1:]) if "nearest" not in m or ", c" not in t]
    for opset in opsets:
        lines = [
            f'Resize <{mode}, coordinate_transformation_mode="{coordinates}"> (X, {size})'
            for mode, size in pairs
        ]
        assert_means(model(opset, "float[1,2,5,7] X", *lines, weights=weights))


def test_trap_08_resize_otherwise() -> None:
    """See above: Upsample, the Resize of opset 10, cropping, antialiasing, and a kept aspect."""
    image = "float[1,2,5,7] X"
    for mode in ('"nearest"', '"linear"'):
        assert_means(model(7, image, f"Upsample <mode={mode}, scales=[1.0, 1.0, 2.0, 3.0]> (X)"))
        for scales in ((2, 3), (3, 1.5)):
            weights = {"s": np.array([1, 1, *scales], np.float32)}
            assert_means(model(9, image, f"Upsample <mode={mode}> (X, s)", weights=weights))
            assert_means(model(10, image, f"Resize <mode={mode}> (X, s)", weights=weights))
        crop = f'mode={mode}, coordinate_transformation_mode="tf_crop_and_resize"'
        roi = np.array([0, 0, 0.2, -0.1, 1, 1, 0.8, 1.3], np.float32)
        line = f"Resize <{crop}, extrapolation_value=7.0> (X, roi,, n)"
        assert_means(model(13, image, line, weights={"roi": roi, "n": ints(1, 2, 4, 6)}))
    policies = ("stretch", "not_larger", "not_smaller")
    lines = [f'mode="linear", axes=[3, 2], keep_aspect_ratio_policy="{p}"' for p in policies]
    lines = [f"Resize <{line}> (X,,, n)" for line in lines]
    lines += ['Resize <mode="linear", antialias=1> (X,, s)']
    weights = {"n": ints(4, 6), "s": np.array([1, 1, 0.5, 0.6], np.float32)}
    assert_means(model(18, image, *lines, weights=weights))


def test_trap_09_batch_normalization() -> None:
    """Statistics may be those of the batch (training_mode) or of every place (spatial=0), and the
    input may have no places at all."""
    line = "BatchNormalization <epsilon=0.01> (X, scale, B, mean, var)"
    for opset, shape in product((7, 9, 15), ("2,3", "2,3,4", "2,3,4,5")):
        assert_means(model(opset, f"float[{shape}] X", line, weights=BATCH_NORM))
    everywhere = {name: np.abs(numbers(3, 2, 2, seed=n)) + 1 for n, name in enumerate(BATCH_NORM)}
    line = "BatchNormalization <spatial=0> (X, scale, B, mean, var)"
    assert_means(model(7, "float[2,3,2,2] X", line, weights=everywhere))
    assert_means(model(7, "float[2,3] X", line, weights=BATCH_NORM))
    training = "BatchNormalization <training_mode=1, momentum=0.75> (X, scale, B, mean, var)"
    for opset in (14, 15):
        lines = [f"Y, m, v = {training}", "Identity (Y)", "Identity (m)", "Identity (v)"]
        assert_means(model(opset, "float[4,3,2] X", *lines, weights=BATCH_NORM))


def test_trap_10_dropout() -> None:
    """The ratio is an attribute, later an input, and does nothing outside of training; the mask
    is all true from opset 12 on, and before it was not defined."""
    for opset in (7, 10):
        assert_means(model(opset, "float[2,3] X", "Dropout <ratio=0.9> (X)"))
    ratio = {"ratio": np.float32(0.9), "zero": np.float32(0), "yes": np.array(True)}
    lines = ["Dropout (X)", "Dropout (X, ratio)", "Dropout (X, zero, yes)"]
    for opset in (12, 13, 22):
        assert_means(model(opset, "float[2,3] X", *lines, weights=ratio))
        masked = ["Y, mask = Dropout (X, ratio)", "Identity (mask)"]
        assert_means(model(opset, "float[2,3] X", *masked, dtype="bool", weights=ratio))
    undefined = model(10, "float[2,3] X", "Y, mask = Dropout (X)", "Identity (mask)", dtype="bool")
    with pytest.raises(UnsupportedError, match="Dropout"):
        read_model(undefined)


def test_trap_11_optional_inputs_left_out() -> None:
    """An input or output that is left out in the middle is "", and those behind it keep theirs."""
    bounds = {"low": np.float32(-0.3), "high": np.float32(0.3)}
    lines = ["Clip (X,, high)", "Clip (X, low)", "Clip (X, low,)", "Clip (X,,)", "Clip (X)"]
    assert_means(model(11, "float[2,3] X", *lines, weights=bounds))
    shapes = {"W": (12, 2), "R": (12, 3), "B": (24,), "h": (2, 3), "c": (2, 3), "P": (9,)}
    weights = {name: numbers(1, *s, seed=n) for n, (name, s) in enumerate(shapes.items())}
    ends = (",,,,, P", ",,, h, c", ", B,,, c", ", B,, h, c, P", "")
    lines = [f"LSTM <hidden_size=3> (X, W, R{end})" for end in ends]
    for opset, last in product((7, 14), (", , last", '"", last')):
        some = f"{last} = LSTM <hidden_size=3> (X, W, R,,, h, c)"
        assert_means(model(opset, "float[4,2,2] X", *lines, some, "Relu (last)", weights=weights))
    weights = {"p": ints(1, 2), "one": ints(1), "s": ints(1, 0), "e": ints(3, 6), "st": ints(1, 2)}
    lines = ["Pad (X, p,, one)", "Slice (X, s, e,, st)"]
    assert_means(model(18, "float[4,6] X", *lines, weights=weights))


def test_trap_12_gemm() -> None:
    """Gemm transposes, scales, broadcasts C, may lack C, may take a computed B, and below opset 7
    flattened an image."""
    C = {"whole": (2, 4), "row": (4,), "column": (2, 1), "one": (1,), "none": ()}
    weights = {name: numbers(*shape, seed=n) for n, (name, shape) in enumerate(C.items())}
    lines = [f"Gemm <alpha=0.5, beta=2.0> (A, B, {name})" for name in C]
    lines += ["At = Transpose <perm=[1, 0]> (A)", "Bt = Transpose <perm=[1, 0]> (B)"]
    lines += ["Gemm <transA=1, transB=1> (At, Bt, row)", "made = Sigmoid (Bt)"]
    lines += ["Gemm <transB=1> (A, made, row)", "Gemm <beta=0.0> (A, B, row)"]
    for opset in (7, 9, 11, 13):
        later = ["Gemm <alpha=3.0> (A, B)", "Gemm <transA=1> (At, B,)"] if opset >= 11 else []
        inputs = "float[2,3] A, float[3,4] B"
        assert_means(model(opset, inputs, *lines, *later, weights=weights))
    # ONNX Runtime knows no opset below 7: by hand.
    weights = {"B": numbers(12, 5, seed=1), "C": numbers(5, seed=2)}
    proto = model(3, "float[2,3,2,2] A", "Gemm <broadcast=1> (A, B, C)", weights=weights, ir=3)
    wanted = numbers(2, 3, 2, 2).reshape(2, 12) @ weights["B"] + weights["C"]
    assert_means(proto, None, [wanted])


def test_trap_15_slice_to_the_end() -> None:
    """The end of a slice may be the greatest number there is, and the least one backwards."""
    lines = [f"Slice <starts=[1], ends=[{FAR}], axes=[1]> (X)"]
    lines += [f"Slice <starts=[-2], ends=[{FAR}]> (X)", f"Slice <starts=[-{FAR}], ends=[2]> (X)"]
    assert_means(model(9, "float[4,6] X", *lines))
    weights = {"far": ints(FAR), "back": ints(-FAR - 1), "one": ints(1), "minus": ints(-1)}
    weights |= {"two": ints(2).astype(np.int32), "zero": ints(0).astype(np.int32)}
    weights |= {"far32": ints(2**31 - 1).astype(np.int32)}
    lines = ["Slice (X, one, far, one)", "Slice (X, far, back, one, minus)"]
    lines += ["Slice (X, minus, back, one, minus)", "Slice (X, two, far32, zero)"]
    lines += ["Slice (X, back, far, one, far)", "Slice (X, far, far, one)"]
    assert_means(model(13, "float[4,6] X", *lines, weights=weights))
    fed = model(13, "float[4,6] X, int64[1] end", "Slice (X, one, end, one)", weights=weights)
    assert_means(fed, {"X": numbers(4, 6), "end": ints(FAR)})


@pytest.mark.parametrize("shape", ["[N,3]", "[?,3]", "[N,C]", "[]"])
def test_trap_16_open_shapes(shape: str) -> None:
    """A size may be a name, unknown, or -1, the rank unknown too, and the batch of any size, none
    included."""
    lines = ["MatMul (X, W)", "s = Shape (X)", "Reshape (X, column)", "Expand (W, wide)"]
    lines += ["f = Flatten (X)", "r = Reshape (X, s)", "Concat <axis=0> (X, r, f)"]
    weights = {"W": numbers(3, 5), "column": ints(-1, 1), "wide": ints(2, 1, 1)}
    for batch in (1, 4, 0):
        proto = model(13, f"float{shape} X", *lines, weights=weights)
        assert_means(proto, {"X": numbers(batch, 3)})
    lines = ['Conv <auto_pad="SAME_UPPER", strides=[2, 2]> (X, W)', "GlobalAveragePool (X)"]
    weights = {"W": numbers(3, 3, 3, 3), **BATCH_NORM}
    lines += ["InstanceNormalization (X, scale, B)", "Flatten (X)", "Softmax (X)"]
    proto = model(12, "float[N,3,H,W] X", *lines, weights=weights)
    assert_means(proto, {"X": numbers(2, 3, 5, 6)})
    told = model(13, "float[2,3] X", "Relu (X)")
    told.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    told.graph.output[0].ClearField("type")
    assert_means(told, {"X": numbers(4, 3)})


def test_trap_17_shapes_known_only_at_run_time() -> None:
    """A shape, a count, a scale or an axis is computed by the model, also from its data."""
    lines = ["s = Shape (X)", "Expand (two, s)", "n = Gather (s, zero)", "filled = Add (n, one)"]
    lines += ["rows = Concat <axis=0> (n, minus)", "Reshape (X, rows)", "z = ConstantOfShape (s)"]
    lines += ["Add (z, X)", "d = Slice (s, zero, one)", "Tile (X, s)", "Expand (X, grown)"]
    weights = {"two": np.float32(2), "zero": ints(0), "one": ints(1), "minus": ints(-1)}
    proto = model(13, "float[2,3] X", *lines, weights=weights | {"grown": ints(4, 1, 1)})
    assert_means(proto)
    lines = ["z = Relu (X)", "k = NonZero (z)", "t = Transpose <perm=[1, 0]> (k)"]
    lines += ["GatherND (X, t)", "q = Shape (t)", "c = Gather (q, i)", "kk = Reshape (c, one)"]
    lines += ["v, w = TopK (X, kk)", "Identity (v)", "r = Range (i, c, j)", "Gather (X, r)"]
    lines += ["Compress (X, few)", "u = Unique (X)", "Identity (u)"]
    weights = {"i": np.array(0), "j": np.array(1), "one": ints(1)}
    weights |= {"few": np.array([True, False, True])}
    assert_means(model(13, "float[5] X", *lines, weights=weights))
    split = ["a, b = Split (X, p)", "Relu (a)", "Relu (b)", "Pad (X, q)"]
    fed = {"X": numbers(6, 2), "p": ints(2, 4), "q": ints(1, 0, 0, 2)}
    assert_means(model(13, "float[6,2] X, int64[2] p, int64[4] q", *split), fed)
    lines = ["s = Shape (X)", "n = Mul (s, k)", "Resize (X,,, n)", "f = Cast <to=1> (k)"]
    lines += ['Resize <mode="linear"> (X,, f)']
    assert_means(model(13, "float[1,1,3,4] X", *lines, weights={"k": ints(1, 1, 2, 3)}))
