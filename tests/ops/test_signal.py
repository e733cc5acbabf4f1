"""Fourier transforms and windows against ONNX Runtime, and the laws of both.

ONNX Runtime crashes on a DFT whose axis is left out, so it is always named there. Its one-sided
inverse halves the last coefficient where dft_length asks for another number of them; numpy judges.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from ops.conftest import SPACES
from ops.judged import assert_same, by_runtime, made_by, shapes

from hubtool.dtypes import NUMBERS
from hubtool.errors import RunError
from hubtool.ops.signal import MEL_INPUTS, WINDOWS

EACH_SPACE = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
EACH_WINDOW = pytest.mark.parametrize("op", WINDOWS)


def i64(*values):
    return np.asarray(values[0] if len(values) == 1 else values, np.int64)


def assert_same_spectrum(made, wanted):
    """Equal up to what a float32 transform loses: digits of the greatest coefficient."""
    assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def some_transform(seed, inverse, onesided):
    """Inputs of DFT: any rank, axis and length, real or complex where that may be chosen."""
    rng = np.random.default_rng(seed)
    dims = rng.integers(1, 9, rng.integers(1, 4))
    pair = (2 if inverse else 1) if onesided else rng.integers(1, 3)
    axis = int(rng.integers(len(dims)))
    length = int(rng.integers(1, 12)) if rng.integers(2) or (inverse and onesided) else None
    return {
        "input": rng.standard_normal((*dims, pair)).astype(np.float32),
        "dft_length": None if length is None else i64(length),
        "axis": i64(axis - len(dims) - 1 if rng.integers(2) else axis),
    }


@pytest.mark.parametrize(("inverse", "onesided"), [(0, 0), (0, 1), (1, 0)])
def test_transforms_agree_with_onnxruntime(inverse, onesided):
    attrs = {"inverse": inverse, "onesided": onesided}
    for seed in range(40):
        inputs = some_transform(seed, inverse, onesided)
        (made,) = made_by(SPACES["numpy"], "DFT", inputs, attrs, 1)
        assert_same_spectrum(made, *by_runtime("DFT", inputs, attrs, ["float32"]))


@pytest.mark.parametrize("length", [None, *range(1, 12)])
def test_a_one_sided_inverse_takes_the_coefficients_it_needs(alone, length):
    x = np.random.default_rng(5).standard_normal((2, 5, 3, 2)).astype(np.float32)
    given = {"input": x, "dft_length": None if length is None else i64(length), "axis": i64(1)}
    (made,) = alone("DFT", given, {"inverse": 1, "onesided": 1})
    wanted = np.fft.irfft(x[..., 0] + 1j * x[..., 1], n=length, axis=1)
    assert made.shape == (2, length or 8, 3, 1)
    np.testing.assert_allclose(made[..., 0], wanted, rtol=1e-4, atol=1e-5)
    if length in (None, 8, 9):
        given["dft_length"] = i64(length or 8)
        attrs = {"inverse": 1, "onesided": 1}
        assert_same_spectrum(made, *by_runtime("DFT", given, attrs, ["float32"]))


@EACH_SPACE
@pytest.mark.parametrize("attrs", [{}, {"onesided": 1}])
@pytest.mark.parametrize("size", [7, 8])
def test_the_inverse_gives_back_what_went_in(space, attrs, size):
    x = np.random.default_rng(size).standard_normal((3, size, 1))
    given = {"input": x, "dft_length": i64(size)}
    (y,) = made_by(space, "DFT", given, attrs, 1)
    (back,) = made_by(space, "DFT", {**given, "input": y}, {**attrs, "inverse": 1}, 1)
    wanted = x if attrs else np.concatenate([x, np.zeros_like(x)], axis=-1)
    np.testing.assert_allclose(back, wanted, atol=1e-12)


@EACH_SPACE
@pytest.mark.parametrize(("inverse", "onesided"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_transforms_are_the_same_everywhere_and_their_shapes_need_no_data(space, inverse, onesided):
    attrs = {"inverse": inverse, "onesided": onesided}
    for seed in range(8):
        inputs = some_transform(seed, inverse, onesided)
        (made,) = made_by(space, "DFT", inputs, attrs, 1)
        assert_same_spectrum(made, *made_by(SPACES["numpy"], "DFT", inputs, attrs, 1))
        assert shapes("DFT", inputs, attrs, 1) == [("float32", made.shape)]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_a_transform_keeps_its_dtype_and_rounds_once(alone, dtype):
    x = np.random.default_rng(3).standard_normal((6, 1)).astype(dtype)
    wide = x.astype(np.float64 if dtype is np.float64 else np.float32)
    (made,) = alone("DFT", {"input": x}, {})
    (exact,) = alone("DFT", {"input": wide}, {})
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, exact.astype(dtype))
    if dtype is np.float64:
        y = np.fft.fft(x[:, 0])
        np.testing.assert_allclose(made, np.stack([y.real, y.imag], -1), atol=1e-14)


def some_signal(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(4, 30))
    length, windowed = int(rng.integers(1, size + 1)), bool(rng.integers(2))
    return {
        "signal": rng.standard_normal((2, size, rng.integers(1, 3))).astype(np.float32),
        "frame_step": i64(rng.integers(1, 6)),
        "window": rng.random(length).astype(np.float32) if windowed else None,
        "frame_length": None if windowed and rng.integers(2) else i64(length),
    }


@pytest.mark.parametrize("onesided", [0, 1])
def test_short_time_transforms_agree_with_onnxruntime(onesided):
    for seed in range(40):
        inputs, attrs = some_signal(seed), {"onesided": onesided}
        (made,) = made_by(SPACES["numpy"], "STFT", inputs, attrs, 1)
        assert_same_spectrum(made, *by_runtime("STFT", inputs, attrs, ["float32"]))


@EACH_SPACE
@pytest.mark.parametrize("onesided", [0, 1])
def test_short_time_transforms_are_the_same_everywhere_and_their_shapes_need_no_data(
    space, onesided
):
    for seed in range(8):
        inputs, attrs = some_signal(seed), {"onesided": onesided}
        (made,) = made_by(space, "STFT", inputs, attrs, 1)
        assert_same_spectrum(made, *made_by(SPACES["numpy"], "STFT", inputs, attrs, 1))
        assert shapes("STFT", inputs, attrs, 1) == [("float32", made.shape)]


def test_a_short_time_transform_is_that_of_each_frame_under_the_window(alone):
    rng = np.random.default_rng(8)
    signal, window = rng.standard_normal((2, 11, 1)), rng.random(4)
    (made,) = alone("STFT", {"signal": signal, "frame_step": i64(3), "window": window}, {})
    assert made.shape == (2, 3, 3, 2)
    for n in range(3):
        frame = signal[:, 3 * n : 3 * n + 4] * window[:, None]
        (wanted,) = alone("DFT", {"input": frame}, {"onesided": 1})
        np.testing.assert_allclose(made[:, n], wanted, atol=1e-12)


def test_without_window_and_length_the_signal_is_one_frame(alone):
    signal = np.random.default_rng(8).standard_normal((2, 9, 1))
    (made,) = alone("STFT", {"signal": signal, "frame_step": i64(3)}, {})
    (wanted,) = alone("DFT", {"input": signal}, {"onesided": 1})
    np.testing.assert_allclose(made[:, 0], wanted, atol=1e-12)


def test_a_signal_of_two_dimensions_is_real():
    inputs = some_signal(1)
    inputs["signal"] = inputs["signal"][..., 0]
    (made,) = made_by(SPACES["numpy"], "STFT", inputs, {}, 1)
    assert_same_spectrum(made, *by_runtime("STFT", inputs, {}, ["float32"]))
    assert shapes("STFT", inputs, {}, 1) == [("float32", made.shape)]


@EACH_WINDOW
@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
def test_windows_agree_with_onnxruntime(op, periodic, dtype):
    attrs = {"periodic": periodic, "output_datatype": NUMBERS[dtype]}
    for size in (0, 2, 3, 4, 5, 7, 8, 16, 400, 511):
        inputs = {"size": i64(size)}
        (made,) = made_by(SPACES["numpy"], op, inputs, attrs, 1)
        (wanted,) = by_runtime(op, inputs, attrs, [dtype])
        assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(made, wanted, atol=1e-6)  # float32 on its side
        assert shapes(op, inputs, attrs, 1) == [(dtype, (size,))]


@EACH_WINDOW
@EACH_SPACE
def test_a_window_of_every_dtype_is_rounded_once(op, space):
    (exact,) = made_by(space, op, {"size": i64(6)}, {"output_datatype": NUMBERS["float64"]}, 1)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.int8):
        number = NUMBERS[np.dtype(dtype).name]
        (made,) = made_by(space, op, {"size": i64(6)}, {"output_datatype": number}, 1)
        np.testing.assert_array_equal(made, exact.astype(dtype))
    assert exact[3] == 1


@EACH_WINDOW
def test_a_symmetric_window_is_a_periodic_one_and_its_first_element(alone, op):
    number = {"output_datatype": NUMBERS["float64"]}
    (symmetric,) = alone(op, {"size": i64(9)}, {"periodic": 0, **number})
    (periodic,) = alone(op, {"size": i64(8)}, number)
    np.testing.assert_allclose(symmetric, [*periodic, periodic[0]], atol=1e-15)
    numpys = {"HannWindow": np.hanning, "BlackmanWindow": np.blackman}
    if op in numpys:
        np.testing.assert_allclose(symmetric, numpys[op](9), atol=1e-15)


def some_mel(seed):
    rng = np.random.default_rng(seed)
    low = rng.random() * 300
    edges = np.asarray([low, low + rng.random() * 3000], np.float32)
    counts = rng.integers(1, 40), rng.integers(8, 600), rng.choice([8000, 16000, 44100])
    return dict(zip(MEL_INPUTS, [*map(i64, counts), *(np.asarray(e) for e in edges)], strict=True))


def test_mel_weights_agree_with_onnxruntime():
    for seed in range(60):
        inputs = some_mel(seed)
        made = made_by(SPACES["numpy"], "MelWeightMatrix", inputs, {}, 1)
        assert_same(made, by_runtime("MelWeightMatrix", inputs, {}, ["float32"]))
        bins, mels = int(inputs["dft_length"]) // 2 + 1, int(inputs["num_mel_bins"])
        assert shapes("MelWeightMatrix", inputs, {}, 1) == [("float32", (bins, mels))]
        assert made[0].max() == 1


def test_an_edge_beyond_the_spectrum_is_cut_off(alone):
    inputs = dict(zip(MEL_INPUTS, map(i64, (6, 32, 8000, 100)), strict=False))
    edges = {
        hertz: {**inputs, "upper_edge_hertz": np.asarray(hertz, np.float32)}
        for hertz in (4000.0, 9000.0)
    }
    (within,), (beyond,) = (alone("MelWeightMatrix", given, {}) for given in edges.values())
    assert within.shape == beyond.shape == (17, 6)
    assert (within.max(axis=0) == 1).all()
    assert (beyond.max(axis=0) == 1).tolist() == [True] * 5 + [False]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32"])
def test_mel_weights_come_in_every_dtype(alone, dtype):
    inputs = some_mel(4)
    (exact,) = alone("MelWeightMatrix", inputs, {"output_datatype": NUMBERS["float64"]})
    (made,) = alone("MelWeightMatrix", inputs, {"output_datatype": NUMBERS[dtype]})
    assert made.dtype.name == dtype
    np.testing.assert_array_equal(made, exact.astype(made.dtype))


REAL, PAIRS = np.zeros((2, 8, 1), np.float32), np.zeros((2, 8, 2), np.float32)
ONE = i64(1)


@pytest.mark.parametrize(
    ("op", "given", "attrs", "message"),
    [
        ("DFT", {"input": REAL, "axis": i64(-1)}, {}, "axis 2 is the last one, where the pairs"),
        ("DFT", {"input": REAL, "axis": i64(3)}, {}, "axis 3 is outside a rank of 3"),
        ("DFT", {"input": np.zeros((8, 3))}, {}, r"last axis of input is 3, not 1 \(real\) or 2"),
        ("DFT", {"input": PAIRS}, {"onesided": 1}, "a one-sided transform takes real input"),
        (
            "DFT",
            {"input": REAL},
            {"onesided": 1, "inverse": 1},
            "a one-sided inverse takes complex",
        ),
        ("DFT", {"input": REAL, "dft_length": i64(0)}, {}, "dft_length is 0, below 1"),
        ("DFT", {"input": REAL, "dft_length": i64(1, 2)}, {}, r"dft_length is not one number"),
        ("DFT", {"input": REAL[:, :0]}, {}, "axis 1 of input is 0, too short without dft_length"),
        ("DFT", {"input": REAL, "dft_length": i64(1 << 50)}, {}, "GiB"),
        ("STFT", {"signal": PAIRS[..., None], "frame_step": ONE}, {}, r"signal is .*, not \[N, L,"),
        ("STFT", {"signal": REAL, "frame_step": i64(0)}, {}, "frame_step is 0, below 1"),
        (
            "STFT",
            {"signal": REAL, "frame_step": ONE, "frame_length": i64(9)},
            {},
            "frames of 9 do not fit into a signal of 8",
        ),
        (
            "STFT",
            {
                "signal": REAL,
                "frame_step": ONE,
                "frame_length": i64(4),
                "window": np.ones(5, np.float32),
            },
            {},
            r"window is \[5\] for frames of 4",
        ),
        ("HannWindow", {"size": i64(-1)}, {}, "size is -1, below 0"),
        ("HannWindow", {"size": i64(1 << 50)}, {}, "GiB"),
        ("MelWeightMatrix", some_mel(0) | {"sample_rate": i64(0)}, {}, "sample_rate is 0, below"),
        ("MelWeightMatrix", some_mel(0) | {"num_mel_bins": i64(1 << 50)}, {}, "GiB"),
    ],
)
def test_what_cannot_be_is_refused(alone, op, given, attrs, message):
    with pytest.raises(RunError, match=message):
        alone(op, given, attrs)
