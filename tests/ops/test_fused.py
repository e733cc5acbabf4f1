"""FusedConv against ONNX Runtime's own, and against the layers that it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from hubtool.errors import RunError
from hubtool.ops.fused import ACTIVATIONS

PARAMS = {"Clip": [0.0, 1.0], "LeakyRelu": [0.2], "HardSigmoid": [0.3, 0.4]}
ATTRS = {"group": 2, "pads": [1, 0, 1, 1], "strides": [1, 2]}


@pytest.fixture
def given():
    rng = np.random.default_rng(12)
    dims = {"X": (2, 4, 6, 7), "W": (6, 2, 3, 3), "B": (6,), "Z": (2, 6, 6, 3)}
    return {name: rng.standard_normal(d).astype(np.float32) for name, d in dims.items()}


@pytest.mark.parametrize("absent", [(), ("B",), ("Z",), ("B", "Z")], ids=str)
@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
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
        ({"activation": "Selu"}, "activation is 'Selu', not one of Relu"),
        ({"activation": "Clip"}, r"Clip takes 2 activation_params, not \[\]"),
    ],
)
def test_an_activation_that_is_none_is_refused(alone, given, attrs, message):
    with pytest.raises(RunError, match=message):
        alone("com.microsoft.FusedConv", given, ATTRS | attrs)
