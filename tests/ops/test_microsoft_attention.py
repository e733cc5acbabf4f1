"""com.microsoft's attention against ONNX Runtime, option by option, and what both refuse."""

from __future__ import annotations

import numpy as np
import pytest
from ops.conftest import SPACES, alone
from ops.judged import assert_same, by_runtime, made_by, shapes

from hubtool.errors import RunError

B, S, D, N, H, P = 2, 4, 6, 2, 3, 3
CLOSED = -2.0  # a mask_filter_value that leaves what it closes visible in the result
CAUSAL = {"unidirectional": 1}
MASKED = {"mask_filter_value": CLOSED}
LENGTHS = np.asarray([3, 1], np.int32)


def draw(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return rng.standard_normal(shape).astype(np.float32)


def whole(*shape, low=0, high=2, dtype=np.int32):
    return np.random.default_rng(list(shape)).integers(low, high, shape).astype(dtype)


def agree(op, given, attrs, outputs=1):
    """hubtool's results, which must be ONNX Runtime's."""
    name = f"com.microsoft.{op}"
    made = alone(name, given, attrs, outputs)
    assert_same(made, by_runtime(name, given, attrs, ["float32"] * outputs))
    return made


def both_refuse(op, given, attrs, sentence, outputs=1):
    """ONNX Runtime refuses it, and hubtool does with a sentence that matches."""
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        by_runtime(f"com.microsoft.{op}", given, attrs, ["float32"] * outputs)
    with pytest.raises(RunError, match=sentence):
        alone(f"com.microsoft.{op}", given, attrs, outputs)


PLAIN = {"input": draw(B, S, D), "weights": draw(D, 3 * N * H), "bias": draw(3 * N * H)}
PAST = {"past": draw(2, B, N, P, H)}
MASKS = {
    "B": LENGTHS,
    "2B": np.asarray([4, 3, 1, 2], np.int32),
    "3B+2": np.asarray([4, 3, 0, 4, 8, 0, 4, 8], np.int32),
    "BT": np.asarray([[2, 1, 0, -1], [0, 0, 0, 1]], np.int32),
    "BST": whole(B, S, S),
}


@pytest.mark.parametrize("attrs", [{}, CAUSAL, {"scale": -0.7}, {"scale": 0.0}, MASKED | CAUSAL])
@pytest.mark.parametrize("mask", [None, *MASKS])
def test_attention_under_every_mask(attrs, mask):
    given = PLAIN | ({} if mask is None else {"mask_index": MASKS[mask]})
    agree("Attention", given, {"num_heads": N, **MASKED, **attrs})


def test_a_query_that_may_look_nowhere_looks_everywhere():
    given = PLAIN | {"mask_index": np.zeros((B, S), np.int32)}
    (Y,) = agree("Attention", given, {"num_heads": N, "mask_filter_value": -100.0})
    (everywhere,) = alone("com.microsoft.Attention", PLAIN, {"num_heads": N})
    np.testing.assert_allclose(Y, everywhere, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("attrs", [{}, CAUSAL, MASKED])
@pytest.mark.parametrize("mask", [None, np.asarray([6, 2], np.int32), whole(B, S + P)])
def test_attention_goes_on_from_its_past(attrs, mask):
    given = PLAIN | PAST | ({} if mask is None else {"mask_index": mask})
    _, present = agree("Attention", given, {"num_heads": N, **MASKED, **attrs}, outputs=2)
    assert present.shape == (2, B, N, P + S, H)
    np.testing.assert_array_equal(present[:, :, :, :P], PAST["past"])


@pytest.mark.parametrize("dims", [(B, N), (1, N), (B, 1), (1, 1)])
def test_attention_bias_broadcasts_over_batch_and_heads(dims):
    given = PLAIN | {"attention_bias": draw(*dims, S, S), "mask_index": MASKS["BT"]}
    agree("Attention", given, {"num_heads": N, **MASKED, **CAUSAL})


def test_attention_without_bias_and_with_other_sizes_for_v():
    agree("Attention", {k: PLAIN[k] for k in ("input", "weights")}, {"num_heads": N})
    given = {"input": PLAIN["input"], "weights": draw(D, 22), "bias": draw(22)}
    agree("Attention", given, {"num_heads": N, "qkv_hidden_sizes": [6, 6, 10]})


@pytest.mark.parametrize(
    ("given", "attrs", "sentence"),
    [
        ({}, {"do_rotary": 1}, "do_rotary"),
        (PAST, {"past_present_share_buffer": 1}, "past_present_share_buffer"),
        (PAST | {"attention_bias": draw(B, N, S, S + P)}, {}, "attention_bias"),
        ({"mask_index": np.ones((B, 1, 7, 7), np.int32)}, {}, "the mask is .2, 1, 7, 7."),
        ({"mask_index": np.ones((1, S), np.int32)}, {}, "not one of"),
        ({"attention_bias": draw(B, N, 1, S)}, {}, "attention_bias is"),
        ({}, {"num_heads": 4}, "cannot be split into 4 heads"),
        ({}, {"qkv_hidden_sizes": [6, 4, 8]}, "Q and K differ"),
    ],
)
def test_what_attention_refuses(given, attrs, sentence):
    both_refuse("Attention", PLAIN | given, {"num_heads": N, **attrs}, sentence, outputs=2)


QUANTIZED = {
    "input": whole(B, S, D, low=0, high=255, dtype=np.uint8),
    "weight": whole(D, 3 * N * H, low=-60, high=60, dtype=np.int8),
    "bias": PLAIN["bias"],
    "input_scale": np.asarray(0.02, np.float32),
    "weight_scale": np.asarray(0.01, np.float32),
}
COLUMNS = {
    "weight_scale": np.abs(draw(3 * N * H)) / 50,
    "weight_zero_point": whole(3 * N * H, low=-5, high=5, dtype=np.int8),
}
POINTS = {
    "input_zero_point": np.asarray(7, np.uint8),
    "weight_zero_point": np.asarray(3, np.int8),
}


@pytest.mark.parametrize(
    "more",
    [
        {},
        POINTS,
        COLUMNS,
        POINTS | COLUMNS,
        POINTS | {"weight_scale": COLUMNS["weight_scale"]},
        *({"mask_index": mask} for mask in MASKS.values()),
    ],
)
def test_q_attention_projects_integers(more):
    agree("QAttention", QUANTIZED | more, {"num_heads": N, **MASKED})


def test_q_attention_with_a_past_and_unsigned_weights():
    given = QUANTIZED | PAST | {"weight": whole(D, 18, low=0, high=255, dtype=np.uint8)}
    agree("QAttention", given, {"num_heads": N, "scale": 0.3, **CAUSAL}, outputs=2)


def test_q_attention_refuses_what_onnxruntime_ignores():
    with pytest.raises(RunError, match="do_rotary"):
        alone("com.microsoft.QAttention", QUANTIZED, {"num_heads": N, "do_rotary": 1})


T = 5
APART = {"query": draw(B, S, N * H), "key": draw(B, T, N * H), "value": draw(B, T, N * 4)}
SAME = {"query": draw(B, S, N * H), "key": draw(B, T, N * H, seed=1), "value": draw(B, T, N * H)}
CACHE = {"past_key": draw(B, N, P, H), "past_value": draw(B, N, P, H, seed=1)}
KEY_MASKS = {
    "B": LENGTHS,
    "3B+2": np.asarray([4, 3, 0, 4, 8, 0, 5, 10], np.int32),
    "BT": whole(B, T, low=-1, high=3),
    "BST": whole(B, S, T),
}


@pytest.mark.parametrize("more", [{}, {"bias": draw(2 * N * H + N * 4)}])
@pytest.mark.parametrize("mask", [None, *KEY_MASKS])
@pytest.mark.parametrize("dims", [None, (B, N), (1, N), (B, 1), (1, 1)])
def test_multi_head_attention(more, mask, dims):
    given = APART | more
    given |= {} if mask is None else {"key_padding_mask": KEY_MASKS[mask]}
    given |= {} if dims is None else {"attention_bias": draw(*dims, S, T)}
    agree("MultiHeadAttention", given, {"num_heads": N, **MASKED}, outputs=4)


@pytest.mark.parametrize("more", [{}, {"bias": draw(3 * N * H)}])
@pytest.mark.parametrize("mask", [None, whole(B, T + P), np.asarray([6, 2], np.int32)])
def test_multi_head_attention_goes_on_from_its_past(more, mask):
    given = SAME | CACHE | more | ({} if mask is None else {"key_padding_mask": mask})
    agree("MultiHeadAttention", given, {"num_heads": N, **MASKED}, outputs=4)


@pytest.mark.parametrize("keys", [1, 3, 4])
@pytest.mark.parametrize("past", [{}, CACHE])
def test_a_causal_query_sees_the_past_and_what_stands_before_it(keys, past):
    given = SAME | {k: SAME[k][:, :keys] for k in ("key", "value")} | past
    agree("MultiHeadAttention", given, {"num_heads": N, **CAUSAL}, outputs=4)


@pytest.mark.parametrize("more", [{}, {"bias": draw(3 * N * H)}, CACHE])
def test_keys_from_elsewhere_keep_the_bias_they_have(more):
    elsewhere = {"key": draw(B, N, T, H), "value": draw(B, N, T, H, seed=1)}
    given = {"query": SAME["query"], **elsewhere, **more}
    agree("MultiHeadAttention", given, {"num_heads": N, "scale": 0.2}, outputs=3)


BUFFER = {
    "past_key": draw(4, N, 9, H),
    "past_value": draw(4, N, 9, H, seed=1),
    "past_sequence_length": np.asarray([3], np.int32),
}
BEAMS = {"cache_indirection": whole(2, 2, 9)}


def tokens(count):
    return {name: draw(4, count, N * H, seed=i) for i, name in enumerate(("query", "key", "value"))}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("more", [{}, {"bias": draw(3 * N * H)}])
def test_a_buffer_takes_new_keys_behind_the_past_ones(count, more):
    given = tokens(count) | BUFFER | more
    _, K, V = agree("MultiHeadAttention", given, {"num_heads": N}, outputs=3)
    np.testing.assert_array_equal(K[:, :, 3 + count :], BUFFER["past_key"][:, :, 3 + count :])
    np.testing.assert_array_equal(V[:, :, :3], BUFFER["past_value"][:, :, :3])


def test_cache_indirection_names_the_beams_that_past_tokens_came_from():
    Y, K, _ = agree("MultiHeadAttention", tokens(1) | BUFFER | BEAMS, {"num_heads": N}, outputs=3)
    straight, same, _ = alone(
        "com.microsoft.MultiHeadAttention", tokens(1) | BUFFER, {"num_heads": N}, 3
    )
    assert np.abs(Y - straight).max() > 0.1
    np.testing.assert_array_equal(K, same)


@pytest.mark.parametrize(
    ("given", "attrs", "sentence"),
    [
        (SAME | CACHE | {"cache_indirection": whole(1, 2, 9)}, {}, "needs past_key and past_seq"),
        (tokens(2) | BUFFER | BEAMS, {}, "for one new token, not 2"),
        (SAME, CAUSAL, "no meaning for 4 queries and 5 keys"),
    ],
)
def test_what_onnxruntime_ignores_is_refused(given, attrs, sentence):
    with pytest.raises(RunError, match=sentence):
        alone("com.microsoft.MultiHeadAttention", given, {"num_heads": N, **attrs})


@pytest.mark.parametrize(
    ("given", "attrs", "sentence"),
    [
        ({"query": draw(B, S, N, 3, H)}, {}, "packed in one"),
        ({"query": draw(B, S, N * H), "key": draw(B, T, N, 2, H)}, {}, "packed in one"),
        (APART | {"key_padding_mask": MASKS["2B"]}, {}, "the mask is"),
        (
            tokens(1) | BUFFER | {"past_sequence_length": np.asarray([9], np.int32)},
            {},
            "no room for 1 more",
        ),
        (SAME | {"past_key": CACHE["past_key"]}, {}, "given together"),
    ],
)
def test_what_multi_head_attention_refuses(given, attrs, sentence):
    both_refuse("MultiHeadAttention", given, {"num_heads": N, **attrs}, sentence, outputs=3)


DECODER = tokens(1) | BUFFER
SHARED = {"num_heads": N, "past_present_share_buffer": 1, **MASKED}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"bias": draw(3 * N * H)},
        {"mask_index": whole(4, 4, low=-1, high=2)},
        {"attention_bias": draw(1, N, 1, 4), "mask_index": whole(4, 4)},
        BEAMS,
        BEAMS | {"beam_width": np.asarray([2], np.int32)},
    ],
)
def test_decoder_masked_attention_for_one_token(more):
    attrs = SHARED | {"output_qk": 1}
    agree("DecoderMaskedMultiHeadAttention", DECODER | more, attrs, outputs=4)


@pytest.mark.parametrize("more", [{}, {"bias": draw(3 * N * H)}, {"mask_index": whole(4, T)}])
def test_decoder_masked_attention_to_keys_from_elsewhere(more):
    keys = {"key": draw(4, N, T, H), "value": draw(4, N, T, H, seed=1)}
    given = {"query": DECODER["query"], **keys, **more}
    agree("DecoderMaskedMultiHeadAttention", given, {"num_heads": N, **MASKED})


@pytest.mark.parametrize(
    ("given", "attrs", "sentence"),
    [
        ({}, {"past_present_share_buffer": 0}, "past_present_share_buffer to be 1"),
        ({"past_sequence_length": None}, {}, "past_sequence_length"),
        ({"mask_index": np.asarray([3, 2, 1, 1], np.int32)}, {}, "the mask is"),
        (BEAMS | {"beam_width": np.asarray([1], np.int32)}, {}, "beam_width is 1"),
        ({"query": draw(4, 2, N * H)}, {}, "2 tokens, not one"),
    ],
)
def test_what_decoder_masked_attention_refuses(given, attrs, sentence):
    given = DECODER | given
    both_refuse("DecoderMaskedMultiHeadAttention", given, SHARED | attrs, sentence, outputs=3)


ANGLES = {"cos_cache": draw(20, 4), "sin_cache": draw(20, 4, seed=1)}
POSITIONS = {
    "each": whole(B, S, low=0, high=20, dtype=np.int64),
    "first": np.asarray([5], np.int64),
}


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(
    ("shape", "attrs"),
    [
        ((B, S, 24), {}),
        ((B, S, 24), {"num_heads": 3}),
        ((B, 3, S, 8), {}),
        ((B, S, 36), {"num_heads": 3, "rotary_embedding_dim": 8}),
        ((B, 3, S, 12), {"num_heads": 3, "rotary_embedding_dim": 8}),
    ],
)
def test_rotary_embedding(interleaved, positions, shape, attrs):
    given = {"input": draw(*shape), "position_ids": POSITIONS[positions], **ANGLES}
    agree("RotaryEmbedding", given, {"interleaved": interleaved, **attrs})


@pytest.mark.parametrize(
    ("positions", "attrs", "sentence"),
    [
        (POSITIONS["each"], {"rotary_embedding_dim": 8}, "num_heads must be given"),
        (POSITIONS["each"][:1], {}, "position_ids is"),
        (POSITIONS["each"], {"num_heads": 2}, "cos_cache has 4 columns for 6 pairs"),
    ],
)
def test_what_rotary_embedding_refuses(positions, attrs, sentence):
    given = {"input": draw(B, S, 24), "position_ids": positions, **ANGLES}
    both_refuse("RotaryEmbedding", given, attrs, sentence)


def test_rotary_embedding_refuses_a_scale_that_onnxruntime_ignores():
    given = {"input": draw(B, S, 24), "position_ids": POSITIONS["each"], **ANGLES}
    with pytest.raises(RunError, match="scale"):
        alone("com.microsoft.RotaryEmbedding", given, {"scale": 2.0})


CASES = {
    "Attention": (PLAIN | PAST | {"mask_index": whole(B, S + P)}, {"num_heads": N, **CAUSAL}, 2),
    "QAttention": (QUANTIZED | POINTS | PAST, {"num_heads": N}, 2),
    "MultiHeadAttention": (tokens(1) | BUFFER | BEAMS, {"num_heads": N}, 4),
    "DecoderMaskedMultiHeadAttention": (DECODER | BEAMS, SHARED | {"output_qk": 1}, 4),
    "RotaryEmbedding": (
        {"input": draw(B, S, 24), "position_ids": POSITIONS["first"], **ANGLES},
        {"interleaved": 1},
        1,
    ),
}


@pytest.mark.parametrize("op", CASES)
@pytest.mark.parametrize("space", ["strict", "torch"])
def test_other_array_libraries_agree(op, space):
    given, attrs, outputs = CASES[op]
    wanted = alone(f"com.microsoft.{op}", given, attrs, outputs)
    assert_same(made_by(SPACES[space], f"com.microsoft.{op}", given, attrs, outputs), wanted)


@pytest.mark.parametrize("op", CASES)
def test_shapes_without_data(op):
    given, attrs, outputs = CASES[op]
    wanted = alone(f"com.microsoft.{op}", given, attrs, outputs)
    known = shapes(f"com.microsoft.{op}", given, attrs, outputs)
    assert known == [(value.dtype.name, value.shape) for value in wanted]


def test_half_precision_is_computed_wide_and_rounded_once():
    given = {name: array.astype(np.float16) for name, array in PLAIN.items()}
    Y, present = alone("com.microsoft.Attention", given, {"num_heads": N}, 2)
    wide = {name: array.astype(np.float32) for name, array in given.items()}
    exact, _ = alone("com.microsoft.Attention", wide, {"num_heads": N}, 2)
    assert Y.dtype == present.dtype == np.float16
    np.testing.assert_array_equal(Y, exact.astype(np.float16))
