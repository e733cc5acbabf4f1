"""The operators of com.microsoft against ONNX Runtime, or by their definition where it has none.

RUNS names what ONNX Runtime's CPU provider runs: inputs, attributes, and how many outputs to
compare. DEFINED names what only its schemas define, with the formula written out in numpy.
"""

from __future__ import annotations

from math import erf
from typing import Any

import ml_dtypes
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


CONV = {"X": f(2, 4, 5, 6), "W": f(4, 3, 3, 2)}
WORDS = np.asarray([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0], [1, 2, 3, 4, 5]], np.int32)
WORD_CONV = {"Sequence": WORDS, "W": f(7, 1, 2, 3), "B": f(7), "C": f(6, 3)}
TEXTS = np.asarray([["", "a", "ab"], ["abc", "abcd", "Grüße, Erde!"]], object)
BLOCKED = np.asarray([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4], [0, 1, 0, 2, 0]], np.int64)
TIES = ints(3, 6, 9).astype(np.float32)

RUNS: Table = {
    "BiasGelu": [({"A": f(2, 3, 8), "B": f(8)}, {}, 1)],
    "CDist": [
        ({"A": f(5, 3), "B": f(4, 3)}, {"metric": metric}, 1)
        for metric in ("sqeuclidean", "euclidean")
    ],
    "ConvTransposeWithDynamicPads": [
        ({**CONV, "Pads": np.asarray([1, 0, 0, 1]), "B": f(3)}, {"strides": [2, 1]}, 1),
        (
            {**CONV, "Pads": np.asarray([0, 0, 0, 0]), "B": None},
            {"dilations": [1, 2], "kernel_shape": [3, 2]},
            1,
        ),
        (
            {**CONV, "Pads": np.asarray([1, 1, 1, 1]), "B": f(6)},
            {"group": 2, "strides": [2, 2], "output_padding": [1, 0]},
            1,
        ),
    ],
    "DynamicTimeWarping": [
        ({"input": f(5, 7)}, {}, 1),
        ({"input": f(1, 7, 4)}, {}, 1),
        ({"input": TIES}, {}, 1),
        ({"input": np.zeros((4, 3), np.float32)}, {}, 1),
    ],
    "ExpandDims": [
        ({"X": f(2, 3), "axis": np.asarray(axis, np.int32)}, {}, 1) for axis in (0, 1, 2, -1, -3)
    ],
    "FastGelu": [({"X": f(2, 3, 8), "bias": f(8)}, {}, 1), ({"X": 4 * f(5), "bias": None}, {}, 1)],
    "GatedAdd": [({"X": f(2, 3, 8), "Y": f(2, 3, 8), "gate": f(2, 3, 1)}, {}, 1)],
    "GatherND": [
        ({"data": f(2, 3, 4), "indices": np.asarray([[[0, 1]], [[1, -1]]])}, {}, 1),
        ({"data": f(2, 3), "indices": np.asarray([[1, 2], [0, 0]], np.int32)}, {}, 1),
    ],
    "Gelu": [({"X": 4 * f(3, 9)}, {}, 1)],
    "Inverse": [({"X": f(2, 3, 3)}, {}, 1), ({"X": f(4, 4).astype(np.float64)}, {}, 1)],
    "LinearAttentionGate": [
        ({"a": 3 * f(2, 3, 4), "dt_bias": f(4), "decay_scale": -f(4), "b": f(2, 3, 4)}, {}, 2),
        ({"a": f(2, 3, 4), "dt_bias": f(4), "decay_scale": f(4), "b": None}, {}, 1),
        (
            {"a": f(2, 3, 4).astype(np.float16), "dt_bias": f(4), "decay_scale": f(4)},
            {},
            1,
        ),
    ],
    "MurmurHash3": [
        ({"X": array}, {"positive": positive, "seed": seed}, 1)
        for array in (
            TEXTS,
            f(3),
            f(2, 2).astype(np.float64),
            ints(99, 4) - 50,
            ints(99, 4, dtype=np.int64) - 50,
            ints(99, 2, dtype=np.uint32),
            ints(99, 2, dtype=np.uint64),
        )
        for positive, seed in ((1, 0), (0, 42))
    ],
    "NGramRepeatBlock": [
        ({"input_ids": BLOCKED, "scores": f(3, 5)}, {"ngram_size": n}, 1) for n in (1, 2, 3, 4, 6)
    ],
    "NhwcMaxPool": [
        ({"x": ints(256, 2, 6, 7, 3, dtype=np.uint8)}, {"kernel_shape": [3, 2], **attrs}, 1)
        for attrs in (
            {},
            {"strides": [2, 2], "pads": [1, 0, 1, 1]},
            {"strides": [2, 3], "ceil_mode": 1},
            {"dilations": [2, 1]},
            {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        )
    ],
    "Pad": [
        ({"data": f(3, 4), "pads": np.asarray(pads), "value": value}, {"mode": mode}, 1)
        for mode in ("constant", "reflect", "edge")
        for pads in ([1, 2, 0, 1], [[0, 1, 2, 0]])
        for value in (None, np.asarray([3.5], np.float32))
    ]
    + [({"data": f(3, 4), "pads": np.asarray([-1, 0, 2, -2])}, {}, 1)],
    "QuickGelu": [({"X": f(2, 9)}, attrs, 1) for attrs in ({}, {"alpha": 0.5})],
    "Range": [
        ({"start": start, "limit": limit, "delta": delta}, {}, 1)
        for start, limit, delta in (
            (np.asarray(2, np.int32), np.asarray(7, np.int32), None),
            (np.asarray([2], np.int64), np.asarray([-7]), np.asarray([-2])),
            (np.asarray(0.5, np.float32), np.asarray(2, np.float32), np.asarray(0.25, np.float32)),
            (np.asarray(3, np.int16), np.asarray(1, np.int16), None),
        )
    ],
    "SampleOp": [({"X": f(2, 3)}, {}, 1)],
    "ScaledSiLU": [
        ({"X": f(2, 9), "scale": None}, {"alpha": 2.5}, 1),
        ({"X": f(2, 9), "scale": np.asarray(0.25, np.float32)}, {"alpha": 2.5}, 1),
        ({"X": f(2, 9).astype(np.float16), "scale": None}, {"alpha": 0.7}, 1),
    ],
    "Trilu": [
        ({"X": x, "k": k}, {"upper": upper}, 1)
        for x in (f(3, 5), ints(9, 2, 4, 3, dtype=np.int64))
        for k in (None, np.asarray(1), np.asarray(-2), np.asarray(9))
        for upper in (0, 1)
    ],
    "UnfoldTensor": [
        ({"input": x}, attrs, 1)
        for x in (f(3, 7), ints(9, 6, 5, dtype=np.int64))
        for attrs in ({"size": 3}, {"size": 2, "step": 2, "dim": 0}, {"size": 3, "step": 5})
        if attrs.get("dim") == 0 or attrs["size"] <= x.shape[-1]
    ],
    "WordConvEmbedding": [
        (WORD_CONV, {}, 1),
        (
            {**WORD_CONV, "W": f(2, 1, 3, 3), "B": f(2)},
            {"embedding_size": 2, "conv_window_size": 3, "char_embedding_size": 3},
            1,
        ),
    ],
}


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x)
    return powers / powers.sum(axis=1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    return (x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))).astype(np.float32)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def as_complex(x: np.ndarray) -> np.ndarray:
    return x[..., 0] + 1j * x[..., 1]


def as_pairs(x: np.ndarray) -> np.ndarray:
    return np.stack([x.real, x.imag], axis=-1).astype(np.float32)


A, B, C = f(2, 3, 8), f(2, 3, 8), f(8)
PAIRS = f(3, 2, 2), f(2, 2)
BYTES = ints(256, 3, 4, dtype=np.uint8), (ints(256, 1, 4) - 128).astype(np.int8)
ATTENDED, MASKED = f(2, 3, 4, 5), f(2, 1, 1, 5)

DEFINED: Table = {
    "BiasAdd": [({"X": A, "bias": C, "skip": B}, {}, (A + C + B,))],
    "BiasSoftmax": [
        (
            {"data": ATTENDED, "bias": MASKED},
            {"axis": axis, "is_inner_broadcast": 1},
            (softmax((ATTENDED + MASKED).reshape(rows, -1)).reshape(ATTENDED.shape),),
        )
        for axis, rows in ((3, 24), (-2, 6), (1, 2))
    ],
    "BiasSplitGelu": [({"X": A, "bias": C}, {}, ((A + C)[..., :4] * gelu((A + C)[..., 4:]),))],
    "ComplexMul": [
        (
            {"A": PAIRS[0], "B": PAIRS[1]},
            {},
            (as_pairs(as_complex(PAIRS[0]) * as_complex(PAIRS[1])),),
        )
    ],
    "ComplexMulConj": [
        (
            {"A": PAIRS[0], "B": PAIRS[1]},
            {},
            (as_pairs(as_complex(PAIRS[0]) * as_complex(PAIRS[1]).conj()),),
        )
    ],
    "IsAllFinite": [
        ({"input": [np.asarray(x, np.float32) for x in arrays]}, attrs, (np.asarray(wanted),))
        for arrays, attrs, wanted in (
            (([1, 2], [[3]]), {}, True),
            (([1, 2], [[np.inf]]), {}, False),
            (([1, np.nan],), {}, False),
            (([1, np.nan],), {"isinf_only": 1}, True),
            (([-np.inf, 0], [1]), {"isinf_only": 1}, False),
            (([-np.inf, 0],), {"isnan_only": 1}, True),
            (([0], [np.nan]), {"isnan_only": 1}, False),
        )
    ],
    "MulInteger": [
        (
            {
                "A": BYTES[0],
                "A_zero_point": np.uint8(7),
                "B": BYTES[0][:1],
                "B_zero_point": np.uint8(200),
            },
            {},
            ((BYTES[0].astype(np.int32) - 7) * (BYTES[0][:1].astype(np.int32) - 200),),
        ),
        ({"A": BYTES[1], "B": BYTES[1]}, {}, (BYTES[1].astype(np.int32) ** 2,)),
    ],
    "ReduceSumInteger": [
        (
            {"data": BYTES[0]},
            {"axes": [0], "keepdims": 0},
            (BYTES[0].sum(axis=0, dtype=np.uint32),),
        ),
        (
            {"data": BYTES[1]},
            {"axes": [-1, 0], "keepdims": 1},
            (BYTES[1].sum(keepdims=True, dtype=np.int32),),
        ),
    ],
    "SwiGLU": [
        ({"gate": A, "up": B}, {}, (silu(A) * B,)),
        ({"gate": A}, {"activation_alpha": 2.0}, (silu(2 * A[..., :4]) / 2 * A[..., 4:],)),
        (
            {"gate": A, "up": B},
            {"limit": 0.5, "activation_beta": 1.0},
            (silu(np.minimum(A, 0.5)) * (B.clip(-0.5, 0.5) + 1),),
        ),
    ],
    "TorchEmbedding": [
        (
            {"weight": A[0], "indices": np.asarray([[2, 0], [1, 1]]), "padding_idx": np.asarray(1)},
            {},
            (A[0][np.asarray([[2, 0], [1, 1]])],),
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
        ("BiasSplitGelu", {"X": f(1, 2, 3), "bias": f(3)}, {}, "cannot be split into two halves"),
        ("SwiGLU", {"gate": f(2, 5)}, {}, r"gate \[2, 5\] cannot be split into two halves"),
        ("ComplexMul", {"A": f(2, 3), "B": f(2, 2)}, {}, "the real and the imaginary part"),
        ("CDist", {"A": f(2, 3), "B": f(2, 3)}, {"metric": "cosine"}, "not one of sqeuclidean, eu"),
        ("IsAllFinite", {"input": [f(2)]}, {"isinf_only": 1, "isnan_only": 1}, "are both set"),
        ("UnfoldTensor", {"input": f(2, 3)}, {"size": 4}, "no slices of size 4, 1 apart, in 3"),
        (
            "UnfoldTensor",
            {"input": f(2, 3)},
            {"size": 2, "step": 0},
            "no slices of size 2, 0 apart",
        ),
        ("WordConvEmbedding", WORD_CONV, {"embedding_size": 6}, "embedding_size is 6, but W is"),
        ("WordConvEmbedding", WORD_CONV | {"C": f(6, 4)}, {}, "does not fit words of"),
        (
            "NGramRepeatBlock",
            {"input_ids": BLOCKED, "scores": f(3, 4)},
            {"ngram_size": 1},
            "tokens outside the 4 of scores",
        ),
        (
            "NGramRepeatBlock",
            {"input_ids": BLOCKED, "scores": f(3, 5)},
            {"ngram_size": 0},
            "ngram_size is 0, not 1 or more",
        ),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(op, inputs, attrs, message):
    with pytest.raises(RunError, match=message):
        alone(f"com.microsoft.{op}", inputs, attrs)


def test_murmur_hash_is_the_published_one():
    X = np.asarray(["", "hello, world", b"\xff\xfe"], object)
    (signed,) = alone("com.microsoft.MurmurHash3", {"X": X}, {"positive": 0, "seed": 1})
    (unsigned,) = alone("com.microsoft.MurmurHash3", {"X": X}, {"seed": 1})
    assert unsigned[0] == 0x514E28B7
    assert signed.view(np.uint32).tolist() == unsigned.tolist()
    assert len(set(unsigned.tolist())) == 3


def test_a_bfloat16_gate_is_rounded_where_its_schema_says_so():
    X, Y, gate = (f(2, 8).astype(ml_dtypes.bfloat16) for _ in range(3))
    weight = f(8, 1).astype(ml_dtypes.bfloat16)
    given = {"X": X, "Y": Y, "gate": gate, "gate_weight": weight}
    (made,) = alone("com.microsoft.GatedAdd", given, {})

    def rounded(x: np.ndarray) -> np.ndarray:
        return x.astype(ml_dtypes.bfloat16).astype(np.float32)

    projected = rounded(gate.astype(np.float32) @ weight.astype(np.float32))
    s = rounded(1 / (1 + np.exp(-projected)))
    wanted = X.astype(np.float32) + rounded(Y.astype(np.float32) * s)
    assert made.dtype == ml_dtypes.bfloat16
    assert made.tolist() == wanted.astype(ml_dtypes.bfloat16).tolist()


def test_a_rounded_swiglu_is_a_rounded_quick_gelu_and_a_product():
    gate, up = f(64).astype(np.float16), f(64).astype(np.float16)
    attrs = {"round_activation": 1, "activation_alpha": 1.5}
    (made,) = alone("com.microsoft.SwiGLU", {"gate": gate, "up": up}, attrs)
    (left,) = alone("com.microsoft.QuickGelu", {"X": gate}, {"alpha": 1.5})
    (wanted,) = alone("Mul", {"A": left, "B": up}, {})
    assert np.array_equal(made, wanted)


def test_the_cheapest_way_is_as_cheap_as_any():
    costs = f(5, 6)
    (way,) = alone("com.microsoft.DynamicTimeWarping", {"input": costs}, {})
    steps = np.diff(way, axis=1)
    assert (way[:, 0].tolist(), way[:, -1].tolist()) == ([0, 0], [4, 5])
    assert {tuple(step) for step in steps.T} <= {(1, 0), (0, 1), (1, 1)}
    best = np.full((6, 7), np.inf)
    best[0, 0] = 0
    for i in range(5):
        for j in range(6):
            before = min(best[i, j], best[i, j + 1], best[i + 1, j])
            best[i + 1, j + 1] = costs[i, j] + before
    assert costs[tuple(way)].sum() == pytest.approx(best[5, 6], abs=1e-5)


def test_a_word_that_begins_with_padding_is_no_word():
    given = WORD_CONV | {"Sequence": np.asarray([[0, 1, 2], [1, 2, 3]], np.int32)}
    (Y,) = alone("com.microsoft.WordConvEmbedding", given, {})
    assert not Y[0].any()
    assert Y[1].any()
