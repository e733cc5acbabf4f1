"""What language models carry along: a step at a time gives what all steps at once give."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from ops.conftest import SPACES, alone

from hubtool.errors import RunError
from hubtool.meta import MetaSpace

EACH_SPACE = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def draw(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return rng.standard_normal(shape).astype(np.float32)


def scattered(past, update, indices, axis, mode):
    """The specification's own loop."""
    present = past.copy()
    for prefix in np.ndindex(past.shape[:axis]):
        for i in range(update.shape[axis]):
            place = (0 if indices is None else indices[prefix[0]]) + i
            place %= past.shape[axis] if mode == "circular" else place + 1
            present[(*prefix, place)] = update[(*prefix, i)]
    return present


@EACH_SPACE
@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize(
    ("dims", "axis"), [((2, 6), 1), ((2, 6, 3), -2), ((2, 3, 6), 2), ((2, 3, 6, 2), 2)]
)
def test_tensor_scatter_writes_from_each_index_on(space, mode, dims, axis):
    places = [1, 5] if mode == "circular" else [0, 3]
    short = [3 if i == axis % len(dims) else d for i, d in enumerate(dims)]
    past, update = draw(*dims), draw(*short)
    for indices in (None, np.asarray(places)):
        inputs = {"past_cache": past, "update": update, "write_indices": indices}
        put = {k: None if v is None else space.put(v) for k, v in inputs.items()}
        (made,) = alone("TensorScatter", put, {"axis": axis, "mode": mode}, 1, space)
        wanted = scattered(past, update, indices, axis % len(dims), mode)
        np.testing.assert_array_equal(space.get(made), wanted)


@pytest.mark.parametrize("dtype", ["uint16", "bool", "float8_e4m3fn", "int4", "object"])
def test_tensor_scatter_moves_elements_of_any_kind(dtype):
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    past, update = (np.asarray(x).astype(kind) for x in ([[0, 1, 0]], [[1]]))
    inputs = {"past_cache": past, "update": update, "write_indices": np.asarray([2])}
    (made,) = alone("TensorScatter", inputs, {"axis": 1})
    assert made.dtype == kind
    assert made.tolist() == np.asarray([[0, 1, 1]]).astype(kind).tolist()


def test_an_empty_update_changes_nothing():
    past = draw(2, 4, 3)
    (made,) = alone("TensorScatter", {"past_cache": past, "update": draw(2, 0, 3)}, {})
    np.testing.assert_array_equal(made, past)


@pytest.mark.parametrize(
    ("update", "attrs", "sentence"),
    [
        ((2, 5, 3), {}, "does not fit"),
        ((2, 2, 4), {}, "does not fit"),
        ((2, 2, 3), {"mode": "round"}, "mode is 'round'"),
        ((2, 2, 3), {"axis": 0}, "which is the batch"),
    ],
)
def test_what_tensor_scatter_refuses(update, attrs, sentence):
    with pytest.raises(RunError, match=sentence):
        alone("TensorScatter", {"past_cache": draw(2, 4, 3), "update": draw(*update)}, attrs)


def in_steps(op, inputs, axes, attrs, cuts):
    """Run the operator over one piece after another along the axes, the state handed on."""
    pieces, before = [], {}
    for start, end in pairwise(cuts):
        cut = {k: x.take(range(start, end), axes[k]) if k in axes else x for k, x in inputs.items()}
        piece, state = alone(op, cut | before, attrs, 2)
        pieces.append(piece)
        before = {"past_state": state}
    return pieces, state


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("activation", ["none", "silu"])
def test_a_causal_convolution_may_be_cut_anywhere(k, activation):
    inputs = {"input": draw(2, 3, 9), "weight": draw(3, 1, k), "bias": draw(3)}
    attrs = {"activation": activation}
    whole, state = alone("CausalConvWithState", inputs, attrs, 2)
    for cuts in ([0, 4, 9], [0, 1, 2, 3, 9], [0, 0, 9]):
        pieces, carried = in_steps("CausalConvWithState", inputs, {"input": 2}, attrs, cuts)
        np.testing.assert_allclose(np.concatenate(pieces, axis=2), whole, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(carried, state)


def test_a_causal_convolution_is_the_convolution_of_conv():
    inputs = {"input": draw(2, 3, 9), "weight": draw(3, 1, 4), "bias": draw(3)}
    Y, _ = alone("CausalConvWithState", inputs, {}, 2)
    conv = {"X": inputs["input"], "W": inputs["weight"], "B": inputs["bias"]}
    (wanted,) = alone("Conv", conv, {"group": 3, "pads": [3, 0]})
    np.testing.assert_allclose(Y, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "attrs", "sentence"),
    [
        ({"weight": draw(3, 2, 4)}, {}, "weight is .3, 2, 4., not .3, 1, k."),
        ({"past_state": draw(2, 3, 4)}, {}, "past_state is"),
        ({}, {"activation": "relu"}, "activation is 'relu'"),
    ],
)
def test_what_a_causal_convolution_refuses(more, attrs, sentence):
    inputs = {"input": draw(2, 3, 9), "weight": draw(3, 1, 4), **more}
    with pytest.raises(RunError, match=sentence):
        alone("CausalConvWithState", inputs, attrs)


B, T, G, DK, DV = 2, 6, 2, 3, 4
RULES = {
    "linear": (),
    "gated": ("decay",),
    "delta": ("beta",),
    "gated_delta": ("decay", "beta"),
}
GATES = {
    "decay": {"a head": -np.abs(draw(B, T, G)), "each": -np.abs(draw(B, T, G * DK))},
    "beta": {"a head": np.abs(draw(B, T, G)) / 3, "each": np.abs(draw(B, T, 1)) / 3},
}


def remembered(rule, gates, group=1):
    inputs = {
        "query": draw(B, T, G * group * DK),
        "key": draw(B, T, G * DK, seed=1) / 2,
        "value": draw(B, T, G * DV, seed=2),
    }
    inputs |= {name: GATES[name][gates] for name in RULES[rule]}
    attrs = {"update_rule": rule, "q_num_heads": G * group, "kv_num_heads": G}
    return inputs, attrs


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("gates", ["a head", "each"])
@pytest.mark.parametrize("group", [1, 2])
def test_linear_attention_follows_its_formula(rule, gates, group):
    inputs, attrs = remembered(rule, gates, group)
    start = draw(B, G, DK, DV)
    made, state = alone("LinearAttention", inputs | {"past_state": start}, attrs, 2)
    wanted = np.zeros((B, T, G * group, DV))
    for b, h in np.ndindex(B, G):
        M = start[b, h].astype(np.float64)
        for t in range(T):
            k, v = inputs["key"][b, t].reshape(G, DK)[h], inputs["value"][b, t].reshape(G, DV)[h]
            if "decay" in inputs:
                M = M * np.exp(inputs["decay"][b, t].reshape(G, -1)[h])[:, None]
            if "beta" in inputs:
                v = inputs["beta"][b, t][h if gates == "a head" else 0] * (v - M.T @ k)
            M = M + np.outer(k, v)
            for g in range(h * group, (h + 1) * group):
                q = inputs["query"][b, t].reshape(-1, DK)[g]
                wanted[b, t, g] = M.T @ q / np.sqrt(DK)
        np.testing.assert_allclose(state[b, h], M, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made, wanted.reshape(B, T, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_linear_attention_may_be_cut_anywhere(rule):
    inputs, attrs = remembered(rule, "each")
    whole, state = alone("LinearAttention", inputs, attrs, 2)
    axes = dict.fromkeys(inputs, 1)
    pieces, carried = in_steps("LinearAttention", inputs, axes, attrs, [0, 1, 2, 2, T])
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(carried, state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kept", [None, "float32", "float16"])
def test_the_state_has_the_dtype_of_the_past_one_else_of_the_query(kept):
    inputs, attrs = remembered("gated_delta", "each")
    half = {name: array.astype(np.float16) for name, array in inputs.items()}
    if kept:
        half["past_state"] = np.zeros((B, G, DK, DV), kept)
    Y, state = alone("LinearAttention", half, attrs, 2)
    assert (Y.dtype.name, state.dtype.name) == ("float16", kept or "float16")


@pytest.mark.parametrize(
    ("rule", "more", "attrs", "sentence"),
    [
        ("linear", {"beta": GATES["beta"]["each"]}, {}, "takes no beta"),
        ("gated", {"decay": None}, {}, "needs decay"),
        ("linear", {}, {"update_rule": "nonlinear"}, "update_rule is 'nonlinear'"),
        ("linear", {}, {"q_num_heads": 3}, "3 heads of query cannot share 2 of key"),
        ("linear", {"query": draw(B, T, G * 5)}, {}, "a head of query has 5 columns"),
        ("linear", {"past_state": draw(B, G, DV, DK)}, {}, "past_state is"),
    ],
)
def test_what_linear_attention_refuses(rule, more, attrs, sentence):
    inputs, right = remembered(rule, "each")
    with pytest.raises(RunError, match=sentence):
        alone("LinearAttention", inputs | more, right | attrs)


EVERYWHERE = {
    "LinearAttention": remembered("gated_delta", "each", 2),
    "CausalConvWithState": ({"input": draw(2, 3, 9), "weight": draw(3, 1, 4)}, {}),
}


@pytest.mark.parametrize("op", EVERYWHERE)
def test_other_array_libraries_agree_and_shapes_need_no_data(op):
    inputs, attrs = EVERYWHERE[op]
    wanted = alone(op, inputs, attrs, 2)
    for space in SPACES.values():
        put = {name: space.put(array) for name, array in inputs.items()}
        for ours, theirs in zip(alone(op, put, attrs, 2, space), wanted, strict=True):
            np.testing.assert_allclose(space.get(ours), theirs, rtol=1e-4, atol=1e-5)
    meta = MetaSpace()
    made = alone(op, {name: meta.put(array) for name, array in inputs.items()}, attrs, 2, meta)
    assert [(m.dtype, m.shape) for m in made] == [(w.dtype.name, w.shape) for w in wanted]
