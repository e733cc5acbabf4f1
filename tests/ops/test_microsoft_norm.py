"""The norms of com.microsoft against ONNX Runtime, or by their definition where it has none.

RUNS names what ONNX Runtime's CPU provider runs: inputs, attributes, and how many outputs to
compare. DEFINED names what only its schemas define, with the formula written out in numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ops.conftest import alone
from ops.judged import (
    Table,
    assert_same,
    by_runtime,
    everywhere,
    kernels,
    made_by,
    once,
    shapes,
)

from hubtool.errors import RunError
from hubtool.interpreter import HOST

rng = np.random.default_rng(21)


def f(*dims: int) -> np.ndarray:
    return rng.standard_normal(dims).astype(np.float32)


def ints(high: int, *dims: int, dtype: Any = np.int32) -> np.ndarray:
    return rng.integers(0, high, dims).astype(dtype)


EMBED = {
    "input_ids": ints(9, 2, 4),
    "segment_ids": ints(2, 2, 4),
    "word_embedding": f(9, 6),
    "position_embedding": f(5, 6),
    "segment_embedding": f(2, 6),
    "gamma": f(6),
    "beta": f(6),
}
MASK = np.asarray([[1, 1, 0, 1], [1, 1, 1, 1]], np.int32)
SKIP = {"input": f(2, 3, 8), "skip": f(2, 3, 8), "gamma": f(8)}

RUNS: Table = {
    "BranchwiseRMSNorm": [
        ({"X": f(2, 3, 4), "scale": f(3, 4)}, {}, 1),
        ({"X": f(2, 12), "scale": f(4)}, {"num_branches": 3, "epsilon": 0.1}, 1),
        ({"X": f(2, 12), "scale": f(12)}, {"num_branches": 3}, 1),
        ({"X": f(2, 3, 4), "scale": None}, {}, 1),
    ],
    "EmbedLayerNormalization": [
        ({**EMBED, "mask": MASK}, {"epsilon": 1e-5}, 3),
        ({**EMBED, "mask": None}, {}, 3),
        ({**EMBED, "mask": MASK, "position_ids": ints(5, 2, 4)}, {}, 3),
        ({**EMBED, "mask": None, "position_ids": ints(5, 1, 4)}, {"mask_index_type": 0}, 1),
        ({**EMBED, "segment_ids": None, "segment_embedding": None}, {}, 3),
    ],
    "EngramGate": [
        (
            {
                "key": f(2, 3, 4, 5),
                "query": f(2, 3, 4, 5),
                "value": f(2, 3, 5),
                "key_norm_scale": f(4, 5),
                "query_norm_scale": f(4, 5),
                "conv_norm_scale": f(4, 5),
            },
            {"epsilon": 0.01},
            2,
        )
    ],
    "GatedRMSNorm": [
        ({"X": f(2, 3, 8), "scale": f(size), "gate": f(2, 3, 8)}, {"activation": activation}, 1)
        for size, activation in ((8, "silu"), (4, "swish"), (2, "sigmoid"))
    ],
    "HyperConnectionPostMix": [
        (
            {
                "streams": f(2, 3, 4),
                "block_output": f(2, 4),
                "post_mix": f(2, 3),
                "stream_mix": f(2, 3, 3),
            },
            {},
            1,
        ),
        (
            {"streams": f(2, 12), "block_output": f(2, 4), "post_mix": f(2, 3, 4)},
            {"num_branches": 3},
            1,
        ),
    ],
    "HyperConnectionPreMix": [
        ({"streams": f(2, 3, 4), "pre_mix": f(2, 3)}, {"reduction_scale": 0.5}, 1),
        ({"streams": f(2, 3, 4), "pre_mix": f(2, 3, 1)}, {}, 1),
        ({"streams": f(2, 12), "pre_mix": f(2, 12)}, {"num_branches": 3}, 1),
    ],
    "SkipLayerNormalization": [
        ({**SKIP, "beta": f(8), "bias": f(8)}, {"epsilon": 1e-3}, 4),
        ({**SKIP, "beta": f(8), "bias": None}, {}, 1),
        ({**SKIP, "beta": None, "bias": f(8)}, {}, 1),
        ({**SKIP, "skip": f(1, 3, 8), "beta": f(8)}, {}, 1),
        ({**SKIP, "skip": f(3, 8), "beta": None, "bias": None}, {}, 1),
        ({k: x.astype(np.float16) for k, x in SKIP.items()}, {}, 1),
    ],
    "SkipSimplifiedLayerNormalization": [
        ({**SKIP, "bias": f(8)}, {"epsilon": 1e-3}, 4),
        ({"input": f(3, 8), "skip": f(3, 8), "gamma": f(8), "bias": None}, {}, 1),
    ],
}


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def grouped(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int) -> np.ndarray:
    """Group normalisation of [N, H, W, C], one group after the other."""
    y = np.empty_like(x)
    size = x.shape[-1] // groups
    for n in range(x.shape[0]):
        for channels in (slice(g * size, (g + 1) * size) for g in range(groups)):
            part = x[n, ..., channels]
            y[n, ..., channels] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return y * gamma + beta


def first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


IMAGE, SCALE, SHIFT, ONE_EACH = f(2, 3, 5, 4), f(4), f(4), f(2, 4)
GROUPS = {"X": IMAGE, "gamma": SCALE, "beta": SHIFT}
TWO_GROUPS = {"groups": 2, "activation": 0}

DEFINED: Table = {
    "GroupNorm": [
        (GROUPS, TWO_GROUPS, (grouped(IMAGE, SCALE, SHIFT, 2),)),
        (GROUPS, {"groups": 4, "activation": 1}, (silu(grouped(IMAGE, SCALE, SHIFT, 4)),)),
        (
            {**GROUPS, "X": first(IMAGE)},
            {**TWO_GROUPS, "channels_last": 0},
            (first(grouped(IMAGE, SCALE, SHIFT, 2)),),
        ),
    ],
    "SkipGroupNorm": [
        (
            {**GROUPS, "skip": skip, "bias": bias},
            TWO_GROUPS,
            (grouped(total, SCALE, SHIFT, 2), total),
        )
        for skip, bias, total in (
            (IMAGE[::-1], SHIFT, IMAGE + IMAGE[::-1] + SHIFT),
            (ONE_EACH, None, IMAGE + ONE_EACH[:, None, None]),
            (ONE_EACH[:, None, None], None, IMAGE + ONE_EACH[:, None, None]),
        )
    ]
    + [
        (
            {**GROUPS, "X": first(IMAGE), "skip": ONE_EACH, "bias": SCALE},
            {**TWO_GROUPS, "channels_last": 0},
            (
                first(grouped(IMAGE + ONE_EACH[:, None, None] + SCALE, SCALE, SHIFT, 2)),
                first(IMAGE + ONE_EACH[:, None, None] + SCALE),
            ),
        )
    ],
}


@pytest.mark.parametrize(("space", "op", "inputs", "attrs", "outputs"), everywhere(RUNS))
def test_what_onnxruntime_runs_agrees_with_it(space, op, inputs, attrs, outputs):
    made = made_by(space, op, inputs, attrs, outputs)
    assert_same(made, by_runtime(op, inputs, attrs, [y.dtype.name for y in made]))


@pytest.mark.parametrize(("space", "op", "inputs", "attrs", "wanted"), everywhere(DEFINED))
def test_what_only_its_schema_defines_follows_the_formula(space, op, inputs, attrs, wanted):
    assert_same(made_by(space, op, inputs, attrs, len(wanted)), wanted)


@pytest.mark.parametrize("name", DEFINED)
def test_no_formula_judges_what_onnxruntime_runs(name):
    assert name not in kernels()


@pytest.mark.parametrize(("op", "inputs", "attrs", "outputs"), once(RUNS | DEFINED))
def test_shapes_without_data_are_those_of_the_data(op, inputs, attrs, outputs):
    made = made_by(HOST, op, inputs, attrs, outputs)
    assert shapes(op, inputs, attrs, outputs) == [(y.dtype.name, y.shape) for y in made]


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "message"),
    [
        ("GroupNorm", GROUPS, {"groups": 2, "activation": 2}, "activation is 2, not 0"),
        ("GroupNorm", GROUPS, {"groups": 3, "activation": 0}, "4 channels cannot be split into 3"),
        (
            "GatedRMSNorm",
            {"X": f(2, 9), "scale": f(4), "gate": f(2, 9)},
            {},
            "9 elements cannot be split into runs of 4",
        ),
        (
            "GatedRMSNorm",
            {"X": f(2, 8), "scale": f(4), "gate": f(2, 8)},
            {"activation": "relu"},
            "activation is 'relu', not one of silu, swish, sigmoid",
        ),
        (
            "BranchwiseRMSNorm",
            {"X": f(2, 9)},
            {"num_branches": 2},
            r"X \[2, 9\] is not 2 branches side by side",
        ),
        (
            "HyperConnectionPreMix",
            {"streams": f(2, 3, 4), "pre_mix": f(2, 5)},
            {},
            r"gates \[2, 5\] do not fit streams \[2, 3, 4\]",
        ),
        (
            "EmbedLayerNormalization",
            EMBED | {"position_embedding": f(3, 6)},
            {},
            "position_embedding has 3 places, a text 4 words",
        ),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(op, inputs, attrs, message):
    with pytest.raises(RunError, match=message):
        alone(f"com.microsoft.{op}", inputs, attrs)


def test_a_fused_norm_is_the_norm_of_the_sum():
    given = {**SKIP, "beta": f(8), "bias": f(8)}
    output, mean, inverse, total = alone("com.microsoft.SkipLayerNormalization", given, {}, 4)
    parts = {"X": total, "Scale": SKIP["gamma"], "B": given["beta"]}
    wanted = alone("LayerNormalization", parts, {"epsilon": 1e-12}, 3)
    assert np.array_equal(total, SKIP["input"] + SKIP["skip"] + given["bias"])
    for made, other in zip((output, mean, inverse), wanted, strict=True):
        np.testing.assert_allclose(made, other, rtol=1e-6)


def test_the_statistics_of_a_narrow_norm_are_in_float32():
    given = {name: x.astype(np.float16) for name, x in SKIP.items()}
    for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        made = alone(f"com.microsoft.{op}", given, {}, 4)
        assert [y.dtype.name for y in made] == ["float16", "float32", "float32", "float16"]


def test_a_gate_without_a_second_norm_gives_one_output():
    given = dict(RUNS["EngramGate"][0][0])
    (gated, _) = alone("com.microsoft.EngramGate", given, {}, 2)
    given.pop("conv_norm_scale")
    (alone_,) = alone("com.microsoft.EngramGate", given, {})
    assert np.array_equal(gated, alone_)
