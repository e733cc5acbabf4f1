"""The quantised operators of com.microsoft against ONNX Runtime, on every array library.

STEPS names those that may be one step of the output apart from ONNX Runtime, and why; all others
are equal. QLinearReduceMean, which it has no kernel for, is judged by its definition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ops.conftest import KNOWN, SPACES, alone
from ops.judged import kernels, made_by, shapes
from ops.narrow import apart, in_runtime

from hubtool.errors import RunError
from hubtool.ops import load_ops

Inputs = dict[str, Any]

rng = np.random.default_rng(32)


def f(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


def some(dtype: str, *dims: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, dims).astype(dtype)


def zero(dtype: str, value: int) -> np.ndarray:
    return np.asarray(value, dtype)


def scales(*dims: int) -> np.ndarray:
    return rng.uniform(0.01, 0.1, dims).astype(np.float32)


STEPS = {
    # It multiplies by the quotient of two scales; the sum or product is rounded at other places.
    "QLinearAdd": 1,
    "QLinearMul": 1,
    # It divides the sum under a window by the scale in another order.
    "QLinearAveragePool": 1,
    # It looks e^x up in a table of whole numbers.
    "QLinearSoftmax": 1,
    # On torch, e^x may be another in its last place than in numpy or ONNX Runtime.
    "QLinearSigmoid": 1,
}


def through(x: str, y: str, T: str, *dims: int) -> Inputs:
    """An operator that reads X and writes Y."""
    return {
        "X": some(T, *dims),
        x + "_scale": f(0.0313),
        x + "_zero_point": zero(T, 5),
        y + "_scale": f(0.0117),
        y + "_zero_point": zero(T, 3),
    }


def binary(T: str, *dims: tuple[int, ...]) -> Inputs:
    return {
        "A": some(T, *dims[0]), "A_scale": f(0.0313), "A_zero_point": zero(T, 5),
        "B": some(T, *dims[1]), "B_scale": f(0.0207), "B_zero_point": zero(T, 99),
        "C_scale": f(0.0419), "C_zero_point": zero(T, 9),
    }  # fmt: skip


def softmax(T: str) -> Inputs:
    return {
        "X": some(T, 3, 4, 5), "X_scale": f(0.0313), "x_zero_point": zero(T, 5),
        "y_scale": f(1 / 256), "y_zero_point": zero(T, 0),
    }  # fmt: skip


def convolved(T: str, W: str, share: int, *dims: int, per_channel: bool) -> Inputs:
    each = (6,) if per_channel else ()
    return {
        "x": some(T, *dims), "x_scale": f(0.0313), "x_zero_point": zero(T, 5),
        "w": some(W, 6, share, 3, 3), "w_scale": scales(*each),
        "w_zero_point": np.full(each, 7, W),
        "y_scale": f(1.17), "y_zero_point": zero(T, 3),
        "B": rng.integers(-999, 999, 6).astype(np.int32) if per_channel else None,
    }  # fmt: skip


def gemm(A: str, B: str, dims: tuple[int, ...], *, per_column: bool, written: bool) -> Inputs:
    each = (6,) if per_column else ()
    return {
        "A": some(A, *dims[:2]), "a_scale": f(0.0313), "a_zero_point": zero(A, 5),
        "B": some(B, *dims[2:]), "b_scale": scales(*each), "b_zero_point": some(B, *each),
        "C": rng.integers(-999, 999, 6).astype(np.int32) if per_column else None,
        "y_scale": f(7.7) if written else None, "y_zero_point": zero(A, 3) if written else None,
    }  # fmt: skip


POOLS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2]},
    {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1, "channels_last": 1},
    {"kernel_shape": [3, 3], "ceil_mode": 1, "strides": [2, 3]},
    {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER", "channels_last": 1},
]


def cases_of(T: str) -> dict[str, list[tuple[Inputs, dict[str, Any]]]]:
    """The cases where what is quantised is of type T."""
    x = (rng.standard_normal((3, 4, 5)) * 5).astype(np.float32)
    quantizing = {"y_scale": scales(4), "y_zero_point": some(T, 4)}
    dequantizing = {"x": some(T, 3, 4, 5), "x_scale": scales(4), "x_zero_point": some(T, 4)}
    where = {
        "condition": rng.random((4, 1)) < 0.5,
        "X": some(T, 4, 5), "x_scale": f(0.0313), "x_zero_point": zero(T, 5),
        "Y": some(T, 5), "y_scale": f(0.0207), "y_zero_point": zero(T, 99),
        "z_scale": f(0.0419), "z_zero_point": zero(T, 9),
    }  # fmt: skip
    joined = [some(T, 2, 3), f(0.0313), zero(T, 5), some(T, 2, 4), f(0.02), zero(T, 7)]
    return {
        "QuantizeLinear": [
            ({"x": x, "y_scale": f(0.05), "y_zero_point": zero(T, 5)}, {}),
            ({"x": x, **quantizing}, {"axis": 1}),
        ],
        "DequantizeLinear": [
            ({**dequantizing, "x_scale": f(0.05), "x_zero_point": None}, {}),
            (dequantizing, {"axis": -2}),
        ],
        "QLinearAdd": [(binary(T, (30, 40), (30, 40)), {}), (binary(T, (3, 1, 5), (4, 5)), {})],
        "QLinearMul": [(binary(T, (30, 40), (30, 40)), {}), (binary(T, (3, 1, 5), (4, 5)), {})],
        "QLinearSigmoid": [(through("X", "Y", T, 30, 40), {})],
        "QLinearLeakyRelu": [
            (through("X", "Y", T, 30, 40), {}),
            (through("X", "Y", T, 30, 40), {"alpha": 0.3}),
        ],
        "QLinearSoftmax": [
            (softmax(T), {"axis": axis, "opset": opset}) for axis in (-1, 1) for opset in (12, 13)
        ],
        "QLinearWhere": [(where, {})],
        "QLinearConcat": [
            ({"Y_scale": f(0.0419), "Y_zero_point": zero(T, 9), "inputs": joined}, {"axis": -1})
        ],
        "QLinearGlobalAveragePool": [
            (through("x", "y", T, 2, 3, 7, 5), {}),
            (through("x", "y", T, 2, 7, 5, 3), {"channels_last": 1}),
        ],
        "QLinearAveragePool": [(through("x", "y", T, 2, 9, 8, 7), attrs) for attrs in POOLS],
        "QLinearConv": [
            (convolved(T, "int8", 4, 2, 4, 7, 6, per_channel=False), {"strides": [1, 2]}),
            (convolved(T, T, 2, 2, 4, 7, 6, per_channel=True), {"group": 2, "pads": [1, 0, 2, 1]}),
            (convolved(T, T, 4, 2, 7, 6, 4, per_channel=True), {"channels_last": 1}),
            (convolved(T, T, 1, 2, 7, 6, 6, per_channel=True), {"channels_last": 1, "group": 6}),
        ],
        "QGemm": [
            (gemm(T, "int8", (7, 40, 40, 6), per_column=False, written=True), {"alpha": 1.5}),
            (gemm(T, T, (40, 7, 40, 6), per_column=True, written=True), {"transA": 1}),
            (gemm(T, T, (7, 40, 6, 40), per_column=True, written=False), {"transB": 1}),
        ],
        "MatMulIntegerToFloat": [
            ({"A": some(T, 7, 40), "B": some("int8", 40, 6), "a_scale": f(0.03), "b_scale": f(0.02),
              "a_zero_point": zero(T, 5), "b_zero_point": zero("int8", 3)}, {}),
            ({"A": some(T, 2, 7, 40), "B": some(T, 40, 6), "a_scale": f(0.03), "b_scale": scales(6),
              "b_zero_point": some(T, 6), "bias": scales(6)}, {}),
        ],
        "DynamicQuantizeMatMul": [
            ({"A": x, "B": some(T, 5, 6), "b_scale": scales(6), "b_zero_point": some(T, 6)}, {}),
            ({"A": x, "B": some(T, 5, 6), "b_scale": f(0.03), "bias": scales(6)}, {}),
        ],
    }  # fmt: skip


EMBEDDED: Inputs = {
    "input_ids": rng.integers(0, 9, (2, 4)).astype(np.int32),
    "segment_ids": rng.integers(0, 2, (2, 4)).astype(np.int32),
    "word_embedding_quant": some("uint8", 9, 6),
    "position_embedding_quant": some("uint8", 5, 6),
    "segment_embedding": some("uint8", 2, 6),
    "gamma_quant": some("uint8", 6),
    "beta_quant": some("uint8", 6),
    "mask": np.asarray([[1, 1, 0, 0], [1, 1, 1, 1]], np.int32),
} | {
    f"{name}_{kind}": value
    for name in ("word_embedding", "position_embedding", "segment_embedding", "gamma", "beta")
    for kind, value in (("scale", f(0.0313)), ("zero_point", zero("uint8", 120)))
}
WITHOUT_SEGMENTS = {key: x for key, x in EMBEDDED.items() if not key.startswith("segment")}

CASES = [
    *[
        (f"com.microsoft.{name}", *case)
        for T in ("uint8", "int8")
        for name, cases in cases_of(T).items()
        for case in cases
    ],
    ("com.microsoft.QEmbedLayerNormalization", EMBEDDED, {}),
    ("com.microsoft.QEmbedLayerNormalization", WITHOUT_SEGMENTS | {"mask": None}, {}),
    (
        "com.microsoft.MatMulInteger16",
        {"A": some("int16", 5, 40), "B": some("int16", 40, 3)},
        {},
    ),
]


def spaces(inputs: Inputs) -> list[Any]:
    arrays = [y for x in inputs.values() for y in (x if isinstance(x, list) else [x])]
    dtypes = {x.dtype.name for x in arrays if x is not None}
    return [space for name, space in SPACES.items() if dtypes <= KNOWN.get(name, dtypes)]


@pytest.mark.parametrize(
    ("op", "inputs", "attrs"), CASES, ids=[f"{i}-{case[0][14:]}" for i, case in enumerate(CASES)]
)
def test_it_agrees_with_onnxruntime_and_its_shape_needs_no_data(op, inputs, attrs):
    (numpys,) = made_by(SPACES["numpy"], op, inputs, attrs, 1)
    assert shapes(op, inputs, attrs, 1) == [(numpys.dtype.name, numpys.shape)]
    more = ("int32",) if "Embed" in op else ()
    theirs = in_runtime(op, inputs, attrs, numpys.dtype.name, more=more)
    for space in spaces(inputs):
        (ours,) = made_by(space, op, inputs, attrs, 1)
        if ours.dtype == np.float32:
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
            continue
        steps = apart(ours, theirs)
        assert steps.max() <= STEPS.get(op.removeprefix("com.microsoft."), 0)
        assert (steps > 0).mean() < 0.02


def test_every_operator_that_onnxruntime_has_a_kernel_for_is_compared():
    ours = {name for name in load_ops() if name.startswith("com.microsoft.")}
    here = {name for name in ours if load_ops()[name].function.__module__.endswith("_quantize")}
    unjudged = {f"com.microsoft.{name}" for name in ("QLinearReduceMean",)}
    assert here - {op for op, *_ in CASES} == unjudged
    assert not {name.removeprefix("com.microsoft.") for name in unjudged} & kernels()


@pytest.mark.parametrize("axes", [[1], [0, -1], []])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_the_mean_of_a_quantised_tensor_is_quantised_again(axes, keepdims):
    data = some("uint8", 3, 4, 5)
    given = {"data": data, "data_scale": f(0.031), "data_zero_point": zero("uint8", 5)}
    given |= {"reduced_scale": f(0.017), "reduced_zero_point": zero("uint8", 9)}
    op, attrs = "com.microsoft.QLinearReduceMean", {"axes": axes, "keepdims": keepdims}
    (made,) = alone(op, given, attrs)
    real = (data.astype(np.float64) - 5) * 0.031
    mean = real.mean(axis=tuple(axes) or None, keepdims=bool(keepdims))
    wanted = np.clip(np.round(mean / 0.017) + 9, 0, 255).astype(np.uint8)
    assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
    assert made.tolist() == wanted.tolist()
    assert shapes(op, given, attrs, 1) == [("uint8", made.shape)]


def test_the_words_that_the_mask_leaves_are_counted():
    op = "com.microsoft.QEmbedLayerNormalization"
    assert alone(op, EMBEDDED, {}, 2)[1].tolist() == [2, 4]
    assert alone(op, EMBEDDED | {"mask": None}, {}, 2)[1].tolist() == [0, 0]
    assert shapes(op, EMBEDDED, {}, 2)[1] == ("int32", (2,))


def test_products_of_16_bits_wrap_around_at_32_and_keep_their_sign_or_have_none():
    op, most = "com.microsoft.MatMulInteger16", np.full((1, 3), 2**15 - 1, np.int16)
    (Y,) = alone(op, {"A": most, "B": most.T}, {})
    assert (Y.dtype.name, Y.item()) == ("int32", 3 * (2**15 - 1) ** 2 - 2**32)
    unsigned = np.full((1, 1), 2**16 - 1, np.uint16)
    (Y,) = alone(op, {"A": unsigned, "B": unsigned}, {})
    assert (Y.dtype.name, Y.item()) == ("uint32", (2**16 - 1) ** 2)


@pytest.mark.parametrize(
    ("op", "given", "message"),
    [
        ("QLinearConcat", {"inputs": [some("int8", 2), f(1)]}, "2 inputs are not tensors with"),
        ("QuantizeLinear", {"y_scale": scales(2)}, r"of shape \[2\] stands where one number"),
        ("QLinearSigmoid", {"X_scale": scales(2)}, r"of shape \[2\] stands where one number"),
    ],
)
def test_what_does_not_fit_says_so(op, given, message):
    first: dict[str, Inputs] = {
        "QLinearConcat": {"Y_scale": f(1), "Y_zero_point": zero("int8", 0)},
        "QuantizeLinear": {"x": scales(2)},
        "QLinearSigmoid": through("X", "Y", "int8", 2),
    }
    attrs = {"axis": 0} if op == "QLinearConcat" else {}
    with pytest.raises(RunError, match=message):
        alone(f"com.microsoft.{op}", {**first[op], **given}, attrs)
