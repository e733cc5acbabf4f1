"""Fused operators against ONNX Runtime's own, and against the layers that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from ops.judged import assert_same, by_runtime, everywhere, kernels, made_by, once, shapes

from hubtool.errors import RunError
from hubtool.interpreter import HOST
from hubtool.ops.fused import ACTIVATIONS

PARAMS = {
    "Clip": [0.0, 1.0],
    "Elu": [0.7],
    "HardSigmoid": [0.3, 0.4],
    "LeakyRelu": [0.2],
    "Selu": [1.5, 1.1],
    "ThresholdedRelu": [0.4],
}
NAMED = {"HardSigmoid": ("alpha", "beta"), "Selu": ("alpha", "gamma")}
OF_CONV = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid")
OF_GEMM = tuple(name for name in ACTIVATIONS if name != "Clip")
rng = np.random.default_rng(22)


def f(*dims: int) -> np.ndarray:
    return rng.standard_normal(dims).astype(np.float32)


ATTRS = {"group": 2, "pads": [1, 0, 1, 1], "strides": [1, 2]}


@pytest.fixture
def given():
    rng = np.random.default_rng(12)
    dims = {"X": (2, 4, 6, 7), "W": (6, 2, 3, 3), "B": (6,), "Z": (2, 6, 6, 3)}
    return {name: rng.standard_normal(d).astype(np.float32) for name, d in dims.items()}


@pytest.mark.parametrize("absent", [(), ("B",), ("Z",), ("B", "Z")], ids=str)
@pytest.mark.parametrize("activation", ["", *OF_CONV])
def test_fused_conv_agrees_with_onnxruntime(alone, in_onnxruntime, given, activation, absent):
    given |= dict.fromkeys(absent)
    attrs = dict(ATTRS)
    if activation:
        attrs["activation"] = activation
    if activation in PARAMS:
        attrs["activation_params"] = PARAMS[activation]
    (made,) = alone("com.microsoft.FusedConv", given, attrs)
    (wanted,) = in_onnxruntime(
        "FusedConv", list(given.values()), attrs, {"Y": "float32"}, "com.microsoft"
    )
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5)


def test_fused_conv_is_the_sum_of_its_parts(alone, given):
    (fused,) = alone("com.microsoft.FusedConv", given, {**ATTRS, "activation": "Relu"})
    Z = given.pop("Z")
    (Y,) = alone("Conv", given, ATTRS)
    assert np.array_equal(fused, np.maximum(Y + Z, 0))


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"activation": "Swish"}, "activation is 'Swish', not one of Relu"),
        ({"activation": "Clip"}, r"Clip takes 2 activation_params, not \[\]"),
    ],
)
def test_an_activation_that_is_none_is_refused(alone, given, attrs, message):
    with pytest.raises(RunError, match=message):
        alone("com.microsoft.FusedConv", given, ATTRS | attrs)


def named(activation: str) -> dict[str, float]:
    """The parameters of an activation as attributes of their own."""
    names = NAMED.get(activation, ("alpha",))
    values = zip(names, PARAMS.get(activation, ()), strict=False)
    return {f"activation_{name}": value for name, value in values}


TRANSPOSED = [
    ({"A": f(2, 3, 4, 5), "B": f(2, 3, 5, 4)}, {"alpha": 0.5}),
    ({"A": f(2, 3, 5, 4), "B": f(2, 3, 6, 5)}, {"transA": 1, "transB": 1}),
    ({"A": f(5, 4), "B": f(2, 5, 3)}, {"transA": 1}),
    ({"A": f(4), "B": f(2, 4, 3)}, {}),
]
RUNS = {
    "FusedGemm": [
        (
            {"A": f(3, 4), "B": f(4, 5), "C": f(5)},
            {"activation": activation, **named(activation)},
            1,
        )
        for activation in OF_GEMM
    ]
    + [
        (
            {"A": f(4, 3), "B": f(5, 4), "C": None},
            {"transA": 1, "transB": 1, "alpha": 0.5, "activation": "Tanh"},
            1,
        ),
        ({"A": f(3, 4), "B": f(4, 5), "C": f(3, 1)}, {"beta": 2.0, "activation": "Relu"}, 1),
    ],
    "FusedMatMul": [
        *((*case, 1) for case in TRANSPOSED),
        ({"A": f(4, 2, 3, 5), "B": f(2, 3, 5, 6)}, {"transBatchA": 1}, 1),
        ({"A": f(4, 2, 3, 5), "B": f(5, 2, 3, 6)}, {"transBatchA": 1, "transBatchB": 1}, 1),
        (
            {"A": f(5, 2, 3, 4), "B": f(6, 2, 3, 5)},
            {"transBatchA": 1, "transA": 1, "transBatchB": 1, "transB": 1, "alpha": -2.0},
            1,
        ),
        ({"A": f(3, 2, 4), "B": f(2, 4, 5)}, {"transBatchA": 1}, 1),
    ],
    "TransposeMatMul": [(*case, 1) for case in TRANSPOSED],
}


@pytest.mark.parametrize(("space", "op", "inputs", "attrs", "outputs"), everywhere(RUNS))
def test_what_onnxruntime_runs_agrees_with_it(space, op, inputs, attrs, outputs):
    made = made_by(space, op, inputs, attrs, outputs)
    assert_same(made, by_runtime(op, inputs, attrs, [y.dtype.name for y in made]))


@pytest.mark.parametrize(("op", "inputs", "attrs", "outputs"), once(RUNS))
def test_shapes_without_data_are_those_of_the_data(op, inputs, attrs, outputs):
    made = made_by(HOST, op, inputs, attrs, outputs)
    assert shapes(op, inputs, attrs, outputs) == [(y.dtype.name, y.shape) for y in made]


@pytest.mark.parametrize(
    "op", ["FusedMatMulActivation", "GemmFastGelu", "NhwcConv", "NhwcFusedConv"]
)
def test_no_sum_of_parts_judges_what_onnxruntime_runs(op):
    assert op not in kernels()


@pytest.mark.parametrize("absent", [(), ("B",), ("Z",), ("B", "Z")], ids=str)
def test_channels_last_are_the_same_convolution(alone, given, absent):
    given |= dict.fromkeys(absent)
    attrs = {**ATTRS, "activation": "LeakyRelu", "activation_params": [0.25]}
    (wanted,) = alone("com.microsoft.FusedConv", given, attrs)
    last = {
        name: np.moveaxis(x, 1, -1) if name in "XZ" and x is not None else x
        for name, x in given.items()
    }
    (made,) = alone("com.microsoft.NhwcFusedConv", last, attrs)
    assert np.array_equal(np.moveaxis(made, -1, 1), wanted)
    assert shapes("com.microsoft.NhwcFusedConv", last, attrs, 1) == [("float32", made.shape)]


@pytest.mark.parametrize("absent", [(), ("B",)], ids=str)
def test_channels_last_of_the_kernel_too_are_the_same_convolution(alone, given, absent):
    given.pop("Z")
    given |= dict.fromkeys(absent)
    (wanted,) = alone("Conv", given, ATTRS)
    last = {**given, **{name: np.moveaxis(given[name], 1, -1) for name in "XW"}}
    (made,) = alone("com.microsoft.NhwcConv", last, ATTRS)
    assert np.array_equal(np.moveaxis(made, -1, 1), wanted)
    assert shapes("com.microsoft.NhwcConv", last, ATTRS, 1) == [("float32", made.shape)]


@pytest.mark.parametrize("activation", OF_GEMM)
def test_a_product_with_an_activation_is_both(alone, activation):
    given, attrs = {"A": f(2, 3, 4), "B": f(2, 5, 4)}, {"transB": 1, "alpha": 0.5}
    (product,) = alone("com.microsoft.FusedMatMul", given, attrs)
    own = {key.removeprefix("activation_"): value for key, value in named(activation).items()}
    formal = "input" if activation in ("Tanh", "Softsign") else "X"
    (wanted,) = alone(activation, {formal: product}, own)
    attrs = {**attrs, **named(activation), "activation": activation}
    (made,) = alone("com.microsoft.FusedMatMulActivation", given, attrs)
    np.testing.assert_allclose(made, wanted, rtol=1e-6)


def test_a_product_with_a_gelu_is_both(alone):
    X, W, bias = f(2, 3, 4), f(4, 5), f(5)
    for given in ({"X": X, "W": W}, {"X": X, "W": W, "bias": bias}):
        (product,) = alone("MatMul", {"A": X, "B": W}, {})
        parts = {"X": product, "bias": given.get("bias")}
        (wanted,) = alone("com.microsoft.FastGelu", parts, {})
        assert np.array_equal(alone("com.microsoft.GemmFastGelu", given, {})[0], wanted)


def test_an_activation_axis_is_refused(alone):
    given = {"A": f(2, 3), "B": f(3, 2)}
    attrs = {"activation": "Relu", "activation_axis": 1}
    with pytest.raises(RunError, match="Relu takes no activation_axis, not 1"):
        alone("com.microsoft.FusedMatMulActivation", given, attrs)
