"""Attention over its options against ONNX Runtime, windows and modifiers against plain sums."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from ops.conftest import SPACES, alone, runtime, single

from hubtool.errors import RunError
from hubtool.graph import Graph, Layer, Tensor, Value
from hubtool.interpreter import HOST, Program
from hubtool.meta import MetaSpace
from hubtool.ops import lookup

B, L, S, P, E, F = 2, 3, 5, 3, 4, 6
OUTPUTS = dict.fromkeys(("Y", "present_key", "present_value", "qk"), "float32")


def draw(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return rng.standard_normal(shape).astype(np.float32)


def flat(x):
    """[batch, heads, length, size] as [batch, length, heads · size]."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def given(H, G, cache="", mask=""):
    """Inputs with H query heads over G others."""
    T = S + (P if cache == "past" else 0)
    masks = {
        "floats": draw(L, T),
        "floats a head": draw(H, L, T),
        "floats a batch": draw(B, 1, L, T),
        "booleans": draw(L, T) > -0.5,
        "booleans a batch": draw(B, 1, L, T) > 0,
    }
    inputs = {"Q": draw(B, H, L, E), "K": draw(B, G, S, E), "V": draw(B, G, S, F)}
    inputs |= {"attn_mask": masks[mask]} if mask else {}
    if cache == "past":
        inputs |= {"past_key": draw(B, G, P, E), "past_value": draw(B, G, P, F)}
    elif cache == "valid":
        inputs |= {"nonpad_kv_seqlen": np.asarray([5, 3])}
    return inputs


def packed(inputs, H, G):
    """The same inputs without an axis of heads, and the attributes that this needs."""
    three = {name: flat(inputs[name]) for name in "QKV"}
    return inputs | three, {"q_num_heads": H, "kv_num_heads": G}


def in_runtime(op, inputs, attrs, outputs):
    """ONNX Runtime at opset 24, the newest whose Attention it has."""
    order = [inputs.get(formal.name) for formal in lookup(op).inputs]
    while order[-1] is None:
        order.pop()
    model = single(op, order, outputs, attrs)
    model.opset_import[0].version = 24
    return runtime(model, order)


OPTIONS = [
    {},
    {"is_causal": 1},
    {"softcap": 0.5, "scale": 0.3},
    {"is_causal": 1, "softcap": 0.5},
]


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("cache", ["", "past", "valid"])
def test_attention_agrees_with_onnxruntime(heads, cache, mode):
    masks = ["", "floats", "floats a head", "floats a batch", "booleans", "booleans a batch"]
    for (number, mask), attrs in itertools.product(enumerate(masks), OPTIONS):
        inputs, attrs = given(*heads, cache, mask), {"qk_matmul_output_mode": mode, **attrs}
        if (number + mode) % 2:
            inputs, more = packed(inputs, *heads)
            attrs |= more
        made = alone("Attention", inputs, attrs, 4)
        wanted = in_runtime("Attention", inputs, attrs, OUTPUTS)
        if mode == 2:  # what is closed is the lowest float there, not -inf
            wanted[3] = np.where(wanted[3] < -1e30, -np.inf, wanted[3])
        for ours, theirs in zip(made, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def weights_over(allowed, Q, K):
    """Softmax by the book, over the keys that are allowed; zeros where none is."""
    weights = np.zeros((*Q.shape[:3], K.shape[2]))
    for b, h, i in np.ndindex(*Q.shape[:3]):
        keys = np.flatnonzero(np.broadcast_to(allowed, weights.shape)[b, h, i])
        powers = np.exp(K[b, h, keys] @ Q[b, h, i] / math.sqrt(Q.shape[3]))
        weights[b, h, i, keys] = powers / powers.sum() if keys.size else powers
    return weights


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("cache", ["", "past", "valid"])
@pytest.mark.parametrize(("left", "right"), [(-1, 0), (1, -1), (0, 0), (2, 1), (9, 9)])
def test_windows_move_with_the_position(left, right, cache, causal):
    inputs = given(2, 2, cache, "booleans a batch")
    sides = {"left_window_size": left, "right_window_size": right}
    attrs = {"is_causal": causal, "qk_matmul_output_mode": 3, **sides}
    Y, K, V, weights = alone("Attention", inputs, attrs, 4)
    offset = {"": 0, "past": P, "valid": np.asarray([5, 3]).reshape(-1, 1, 1, 1) - L}[cache]
    j, p = np.arange(K.shape[2]), np.arange(L)[:, None] + offset
    allowed = inputs["attn_mask"] & (j < offset + L if cache == "valid" else True)
    allowed = allowed & (j >= p - left if left >= 0 else True)
    allowed = allowed & (j <= p + right if right >= 0 else True)
    allowed = allowed & (j <= p if causal else True)
    wanted = weights_over(allowed, inputs["Q"], K)
    np.testing.assert_allclose(weights, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(Y, wanted @ V, rtol=1e-4, atol=1e-5)


def test_a_query_without_keys_gives_zeros_whatever_its_scores():
    inputs = given(1, 1) | {"attn_mask": np.zeros((L, S), bool)}
    inputs["Q"] = np.full_like(inputs["Q"], np.inf)
    Y, _, _, weights = alone("Attention", inputs, {"qk_matmul_output_mode": 3}, 4)
    assert not Y.any()
    assert not weights.any()


def test_a_mask_that_ends_early_closes_the_rest():
    inputs = given(2, 2)
    for mask in (draw(L, 3), draw(L, 3) > 0, draw(L, 1)):
        (short,) = alone("Attention", inputs | {"attn_mask": mask}, {})
        cut = inputs | {name: inputs[name][:, :, : mask.shape[1]] for name in "KV"}
        (wanted,) = alone("Attention", cut | {"attn_mask": mask}, {})
        np.testing.assert_allclose(short, wanted, rtol=1e-5, atol=1e-6)


def test_the_softmax_has_a_precision_of_its_own():
    inputs = given(1, 1)
    attrs = {"qk_matmul_output_mode": 3}
    exact = alone("Attention", inputs, attrs, 4)[3]
    rough = alone("Attention", inputs, attrs | {"softmax_precision": 10}, 4)[3]
    fine = alone("Attention", inputs, attrs | {"softmax_precision": 11}, 4)[3]
    np.testing.assert_array_equal(rough, rough.astype(np.float16).astype(np.float32))
    assert np.abs(rough - exact).max() > 1e-6
    np.testing.assert_allclose(fine, exact, rtol=1e-6)


def test_keys_and_values_may_differ_in_dtype():
    inputs = given(2, 1, "past")
    half = inputs | {name: inputs[name].astype(np.float16) for name in ("V", "past_value")}
    made = alone("Attention", half, {}, 4)
    assert [x.dtype.name for x in made] == ["float32", "float32", "float16", "float32"]
    np.testing.assert_allclose(made[0], alone("Attention", inputs, {})[0], atol=5e-3)


def test_no_keys_and_no_queries():
    empty = {"Q": draw(1, 2, L, E), "K": draw(1, 2, 0, E), "V": draw(1, 2, 0, F)}
    assert not alone("Attention", empty, {})[0].any()
    none = given(2, 2) | {"Q": draw(B, 2, 0, E)}
    assert alone("Attention", none, {"is_causal": 1})[0].shape == (B, 2, 0, F)


@pytest.mark.parametrize(
    ("more", "attrs", "sentence"),
    [
        ({"past_key": draw(B, 2, P, E)}, {}, "given together"),
        (given(2, 2, "past") | given(2, 2, "valid"), {}, "past_key must be absent"),
        ({"K": draw(B, 3, S, E), "V": draw(B, 3, S, F)}, {}, "2 heads of Q cannot share 3"),
        ({"V": draw(B, 2, 4, F)}, {}, "differ before the last axis"),
        ({"K": draw(B, 2, S, 3)}, {}, "differ in batch or head size"),
        ({"attn_mask": draw(L, S + 1)}, {}, "is longer than the 5 keys"),
        ({"Q": draw(B, L, 8)}, {}, "not 3 each or 4 each"),
        ({}, {"q_num_heads": 4}, "q_num_heads is 4, and Q has 2 heads"),
        ({}, {"qk_matmul_output_mode": 4}, "qk_matmul_output_mode is 4"),
        ({}, {"left_window_size": -2}, "the least is -1"),
    ],
)
def test_what_attention_refuses(more, attrs, sentence):
    with pytest.raises(RunError, match=sentence):
        alone("Attention", given(2, 2) | more, attrs)


def test_heads_must_be_said_and_must_divide():
    inputs, attrs = packed(given(2, 2), 2, 2)
    with pytest.raises(RunError, match="K has 3 axes, so kv_num_heads must say its heads"):
        alone("Attention", inputs, {"q_num_heads": 2})
    with pytest.raises(RunError, match="8 columns of Q cannot be split into 3 heads"):
        alone("Attention", inputs, attrs | {"q_num_heads": 3})


def flexible(inputs, bodies, space=HOST, **attrs):
    """One FlexAttention layer whose modifiers each are one layer that reads x."""

    def graph(layer, tensors):
        y = {"y": Value("tensor", "", None)}
        return Graph([layer], {"x": Value("tensor", "", None)}, y, tensors)

    subgraphs = {name: graph(*body) for name, body in bodies.items()}
    names = {name: name for name in inputs}
    op = "ai.onnx.preview.FlexAttention"
    layer = Layer("flex", op, names, ["Y"], {**attrs, **subgraphs})
    known = Value("tensor", "", None)
    model = Graph([layer], dict.fromkeys(inputs, known), {"Y": known})
    feeds = {name: space.put(array) for name, array in inputs.items()}
    return Program(model, space).run(feeds)["Y"]


def doubled(dtype="float32"):
    two = Tensor.of(np.asarray(2, dtype))
    return Layer("double", "Mul", {"A": "x", "B": "two"}, ["y"]), {"two": two}


@pytest.mark.parametrize("label", SPACES)
def test_modifiers_see_the_scores_and_the_weights(label):
    inputs, space = given(4, 2), SPACES[label]
    plain = flexible(inputs, {}, space)
    scaled = flexible(inputs, {}, space, scale=2 / math.sqrt(E))
    np.testing.assert_allclose(
        space.get(flexible(inputs, {"score_mod": doubled()}, space)), space.get(scaled), rtol=1e-5
    )
    np.testing.assert_allclose(
        space.get(flexible(inputs, {"prob_mod": doubled()}, space)), 2 * space.get(plain), rtol=1e-5
    )


def test_modifiers_are_given_the_precision_of_the_softmax():
    half = {name: array.astype(np.float16) for name, array in given(2, 2).items()}
    for number, dtype in ((None, "float32"), (1, "float32"), (10, "float16"), (11, "float64")):
        attrs = {} if number is None else {"softmax_precision": number}
        made = flexible(half, {"score_mod": doubled(dtype)}, **attrs)
        assert made.dtype == np.float16
        wanted = flexible(half, {}, scale=2 / math.sqrt(E))
        np.testing.assert_allclose(made, wanted, rtol=4e-3, atol=2e-3)
    double = {name: array.astype(np.float64) for name, array in given(2, 2).items()}
    assert flexible(double, {"score_mod": doubled("float64")}).dtype == np.float64


def test_a_modifier_keeps_the_shape():
    fold = Layer("fold", "ReduceMax", {"data": "x"}, ["y"], {"keepdims": 1})
    with pytest.raises(RunError, match=r"score_mod made \[1, 1, 1, 1\] of \[2, 2, 3, 5\]"):
        flexible(given(2, 2), {"score_mod": (fold, {})})
    with pytest.raises(RunError, match="not 4 each"):
        flexible(packed(given(2, 2), 2, 2)[0], {})


def test_flex_attention_has_a_shape_without_data():
    made = flexible(given(4, 2), {"score_mod": doubled()}, MetaSpace())
    assert (made.dtype, made.shape) == ("float32", (B, 4, L, F))


ANGLES = {"cos_cache": draw(10, 2), "sin_cache": draw(10, 2, seed=1)}
POSITIONS = np.asarray([[0, 3, 9], [4, 4, 1]])
TURNED = [
    ((B, 2, L, 4), {}),
    ((B, 2, L, 6), {"rotary_embedding_dim": 4}),
    ((B, L, 12), {"num_heads": 3}),
    ((B, L, 18), {"num_heads": 3, "rotary_embedding_dim": 4}),
]


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(("shape", "attrs"), TURNED)
def test_rotary_embedding_agrees_with_onnxruntime(shape, attrs, interleaved):
    attrs = {"interleaved": interleaved, **attrs}
    for inputs in (
        {"X": draw(*shape), **ANGLES, "position_ids": POSITIONS},
        {"X": draw(*shape), **{name: cache[POSITIONS] for name, cache in ANGLES.items()}},
    ):
        (made,) = alone("RotaryEmbedding", inputs, attrs)
        (wanted,) = in_runtime("RotaryEmbedding", inputs, attrs, {"Y": "float32"})
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6)


def test_a_rotation_keeps_every_length():
    turns = {"cos_cache": np.cos(draw(10, 2)), "sin_cache": np.sin(draw(10, 2))}
    X = draw(B, 2, L, 4)
    for interleaved in (0, 1):
        inputs = {"X": X, **turns, "position_ids": POSITIONS}
        (Y,) = alone("RotaryEmbedding", inputs, {"interleaved": interleaved})
        np.testing.assert_allclose(np.linalg.norm(Y, axis=-1), np.linalg.norm(X, axis=-1), 1e-5)


@pytest.mark.parametrize(
    ("shape", "attrs", "sentence"),
    [
        ((B, L, 12), {}, "num_heads must say its heads"),
        ((B, 2, L, 6), {}, "cos_cache has 2 columns for 3 pairs"),
        ((B, 2, L, 5), {}, "5 columns of 5 cannot be turned in pairs"),
        ((B, 12), {}, "X has 2 axes"),
    ],
)
def test_what_rotary_embedding_refuses(shape, attrs, sentence):
    inputs = {"X": draw(*shape), **ANGLES, "position_ids": POSITIONS}
    with pytest.raises(RunError, match=sentence):
        alone("RotaryEmbedding", inputs, attrs)


def test_rounding_happens_once_in_half_precision():
    inputs = {name: array.astype(np.float16) for name, array in given(4, 2).items()}
    wide = {name: array.astype(np.float32) for name, array in inputs.items()}
    (made,) = alone("Attention", inputs, {"is_causal": 1})
    (wanted,) = alone("Attention", wide, {"is_causal": 1})
    np.testing.assert_array_equal(made, wanted.astype(np.float16))
