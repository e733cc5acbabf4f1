"""GroupQueryAttention against ONNX Runtime: lengths, caches, windows, rotation, integers.

Rows of padding and cache rows behind the last token are unspecified, and not compared.
"""

from __future__ import annotations

import numpy as np
import pytest
from ops.conftest import SPACES, alone
from ops.judged import assert_same, by_runtime, made_by, shapes

from hubtool.errors import RunError

OP = "com.microsoft.GroupQueryAttention"
N, G, E = 4, 2, 16
HEADS = {"num_heads": N, "kv_num_heads": G}
ANGLES = {
    name: np.random.default_rng(i).standard_normal((30, E // 2)).astype(np.float32)
    for i, name in enumerate(("cos_cache", "sin_cache"))
}


def draw(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return rng.standard_normal(shape).astype(np.float32)


def whole(*shape, low, high, dtype):
    return np.random.default_rng(list(shape)).integers(low, high, shape).astype(dtype)


def step(totals, S, *, cache=0, most=0):
    """The inputs of a step: new tokens, how many there are then, and a cache of so many places."""
    B = len(totals)
    given = {
        "query": draw(B, S, N * E),
        "key": draw(B, S, G * E, seed=1),
        "value": draw(B, S, G * E, seed=2),
        "seqlens_k": np.asarray(totals, np.int32) - 1,
        "total_sequence_length": np.asarray(most or max(totals), np.int32),
    }
    if cache:
        given["past_key"] = draw(B, G, cache, E, seed=3)
        given["past_value"] = draw(B, G, cache, E, seed=4)
    return given


def valid(outputs, given, kept=None):
    """What is specified of the outputs: for each of the batch its new tokens, and its cache."""
    totals = given["seqlens_k"] + 1
    S = given["query"].shape[1]
    counts = given.get("query_seqlens", np.minimum(totals, S))
    kept = totals if kept is None else kept
    Y, K, V, *qk = outputs
    for b, (count, rows) in enumerate(zip(counts, kept, strict=True)):
        yield from (Y[b, :count], K[b, :, :rows], V[b, :, :rows])
        yield from (x[b, :, :count, : totals[b]] for x in qk)


def agree(given, attrs, outputs=3, kept=None, cache="float32"):
    """hubtool's results, which must be ONNX Runtime's where they are specified."""
    attrs = HEADS | attrs
    made = alone(OP, given, attrs, outputs)
    dtypes = ["float32", cache, cache, "float32"][:outputs]
    wanted = by_runtime(OP, given, attrs, dtypes)
    assert [m.shape for m in made] == [w.shape for w in wanted]
    assert_same([*valid(made, given, kept)], [*valid(wanted, given, kept)])
    return made


STEPS = {
    "prompt": step([5, 5], 5),
    "ragged prompt": step([3, 5], 5),
    "prompt into a buffer": step([3, 5], 5, cache=8),
    "growing cache": step([7, 7], 1, cache=6),
    "ragged growing cache": step([4, 7], 1, cache=6),
    "buffer": step([4, 5], 1, cache=6),
    "chunk": step([9], 3, cache=6),
    "chunk into a buffer": step([5], 3, cache=6),
    "padded chunks": step([7, 9], 3, cache=12) | {"query_seqlens": np.asarray([2, 3], np.int32)},
    "padded and idle": step([7, 9], 3, cache=12, most=12)
    | {"query_seqlens": np.asarray([0, 3], np.int32)},
    "shared keys": step([4, 5], 1, cache=6)
    | {"key": draw(2, 0, G * E), "value": draw(2, 0, G * E)},
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(
    "attrs", [{}, {"scale": 0.7, "softcap": 0.6}, {"local_window_size": 2}, {"smooth_softmax": 1}]
)
def test_every_kind_of_step(name, attrs):
    agree(STEPS[name], attrs)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotation_counts_from_the_tokens_in_the_cache(name, interleaved):
    agree(STEPS[name] | ANGLES, {"do_rotary": 1, "rotary_interleaved": interleaved})


@pytest.mark.parametrize("name", STEPS)
def test_rotation_by_positions_of_which_a_prompt_reads_the_first(name):
    dims = STEPS[name]["query"].shape[:2]
    given = STEPS[name] | ANGLES
    given["position_ids"] = whole(*dims, low=0, high=25, dtype=np.int64)
    agree(given, {"do_rotary": 1})


def test_angles_without_do_rotary_mean_nothing():
    with_angles = alone(OP, STEPS["prompt"] | ANGLES, HEADS, 3)
    assert_same(with_angles, alone(OP, STEPS["prompt"], HEADS, 3))
    agree(STEPS["prompt"] | ANGLES, {})


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("mode", [1, 2])
def test_the_scores_or_the_weights_come_out(name, mode):
    agree(STEPS[name], {"qk_output": mode, "local_window_size": 3}, outputs=4)


@pytest.mark.parametrize("name", ["prompt", "ragged prompt", "growing cache", "buffer"])
def test_without_causal_order(name):
    agree(STEPS[name], {"causal": 0, "qk_output": 1}, outputs=4)


@pytest.mark.parametrize("window", [0, 1, 3, 9, -2])
def test_windows_of_any_size(window):
    agree(STEPS["prompt"], {"local_window_size": window})


@pytest.mark.parametrize("dims", [(2, N), (1, N), (2, 1), (1, 1)])
@pytest.mark.parametrize(("name", "most"), [("prompt", 5), ("growing cache", 7), ("buffer", 5)])
def test_attention_bias_broadcasts(dims, name, most):
    S = STEPS[name]["query"].shape[1]
    agree(STEPS[name] | {"attention_bias": draw(*dims, S, most)}, {"softcap": 0.7})


@pytest.mark.parametrize("attrs", [{}, {"smooth_softmax": 1}, {"local_window_size": 2}])
def test_a_sink_takes_its_share_and_replaces_the_smooth_one(attrs):
    agree(STEPS["ragged prompt"] | {"head_sink": draw(N)}, attrs)
    agree(STEPS["buffer"] | {"head_sink": draw(N)}, attrs)


@pytest.mark.parametrize("name", ["prompt", "ragged prompt", "growing cache"])
def test_query_may_hold_key_and_value_too(name):
    given = STEPS[name] | ANGLES
    packed = np.concatenate([given.pop(k) for k in ("query", "key", "value")], axis=-1)
    (Y, *caches) = agree(given | {"query": packed}, {"do_rotary": 1})
    apart = alone(OP, STEPS[name] | ANGLES, HEADS | {"do_rotary": 1}, 3)
    assert_same([Y, *caches], apart)


def resident(total, capacity, window):
    spare = capacity - window + 1
    return total if total <= capacity else total - spare * -(-(total - capacity) // spare)


@pytest.mark.parametrize(("capacity", "window"), [(6, 4), (4, 4), (8, 3), (5, 1)])
def test_a_cache_that_forgets_answers_as_a_whole_one(capacity, window):
    total, attrs = 0, {"local_window_size": window, "do_rotary": 1}
    small = {name: np.zeros((1, G, capacity, E), np.float32) for name in ("past_key", "past_value")}
    large = {name: np.zeros((1, G, 24, E), np.float32) for name in small}
    for S in (3, 1, 1, 2, 1, 7, 1, 1, 2):
        total += S
        kept = [resident(total, capacity, window)]
        given = step([total], S) | ANGLES
        Y, *caches = agree(given | small, attrs | {"sliding_window_cache": 1}, kept=kept)
        wanted, *wholes = alone(OP, given | large, HEADS | attrs, 3)
        np.testing.assert_allclose(Y, wanted, rtol=1e-4, atol=1e-5)
        small, large = (dict(zip(small, pair, strict=True)) for pair in (caches, wholes))


FORGETTING = step([11], 2, cache=6)
SLIDING = {"sliding_window_cache": 1, "local_window_size": 4}


@pytest.mark.parametrize(
    ("more", "attrs"),
    [
        ({"attention_bias": draw(1, N, 2, 11)}, {}),
        ({"attention_bias": draw(1, 1, 2, 11), "head_sink": draw(N)}, {"softcap": 0.6}),
        ({"position_ids": np.asarray([[3, 8]])}, {"do_rotary": 1}),
        ({}, {"smooth_softmax": 1}),
    ],
)
def test_a_cache_that_forgets_with_every_option(more, attrs):
    agree(FORGETTING | ANGLES | more, SLIDING | attrs, kept=[resident(11, 6, 4)])


def test_a_cache_that_forgets_with_lengths_of_their_own():
    given = step([11, 7], 3, cache=6) | {"query_seqlens": np.asarray([2, 3], np.int32)}
    agree(given, SLIDING, kept=[resident(11, 6, 4), resident(7, 6, 4)])


SCALES = {"PER_TENSOR": np.asarray([0.02], np.float32), "PER_CHANNEL": np.abs(draw(G * E)) / 50}


def quantized(name, kind, bits):
    """A step whose cache holds integers, and the attributes that say so."""
    given, (B, _, places, _) = dict(STEPS[name]), STEPS[name]["past_key"].shape
    dtype, width = (np.int8, E) if bits == 8 else (np.uint8, E // 2)
    low, high = (-100, 100) if bits == 8 else (0, 256)
    for i, key in enumerate(("past_key", "past_value")):
        given[key] = whole(B, G, places, width, low=low, high=high - i, dtype=dtype)
    factor = 1 if bits == 8 else 10
    given |= {"k_scale": SCALES[kind] * factor, "v_scale": SCALES[kind] * factor * 1.5}
    return given, {"k_quant_type": kind, "v_quant_type": kind, "kv_cache_bit_width": bits}


@pytest.mark.parametrize("name", ["growing cache", "prompt into a buffer", "padded chunks"])
@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_cache_of_integers(name, kind, bits):
    given, attrs = quantized(name, kind, bits)
    agree(given, attrs | {"softcap": 0.5}, cache="int8" if bits == 8 else "uint8")


def test_new_keys_are_rounded_to_even_and_saturate():
    given, attrs = quantized("growing cache", "PER_TENSOR", 8)
    given["key"] = np.tile(np.arange(-16, 16, dtype=np.float32) * 0.25, (2, 1, 1))
    given["k_scale"] = np.asarray([0.5], np.float32)
    given["value"] = given["key"] * 1000
    _, K, V = agree(given, attrs, cache="int8")
    assert K[0, :, -1].tolist() == np.rint(np.arange(-16, 16) / 2).reshape(G, E).tolist()
    assert (V[0, :, -1].min(), V[0, :, -1].max()) == (-128, 127)


@pytest.mark.parametrize(
    ("given", "attrs", "sentence"),
    [
        (STEPS["prompt"] | {"q_norm_weight": draw(E), "k_norm_weight": draw(E)}, {}, "q_norm_"),
        (STEPS["prompt"], {"causal": 0, "local_window_size": 2}, "must be -1"),
        (STEPS["prompt"], {"causal": 2}, "causal is 2"),
        (STEPS["prompt"], {"qk_output": 3}, "qk_output is 3"),
        (STEPS["prompt"], {"do_rotary": 1}, "cos_cache and sin_cache"),
        (STEPS["prompt"], SLIDING, "need past_key"),
        (FORGETTING, {"sliding_window_cache": 1}, "local_window_size above 0"),
        (FORGETTING, SLIDING | {"local_window_size": 9}, "6 places for a local_window_size of 9"),
        (step([9, 9], 3, cache=6), {}, "3 tokens after past ones in a batch of 2"),
        (STEPS["prompt"] | {"query_seqlens": np.asarray([2, 3], np.int32)}, {}, "need past_key"),
        (STEPS["padded chunks"], {"causal": 0}, "query_seqlens needs causal"),
        (step([5, 5], 5) | {"key": draw(2, 3, G * E), "value": draw(2, 3, G * E)}, {}, "key has 3"),
        (step([3, 3], 5), {}, "total_sequence_length is 3, and query has 5"),
    ],
)
def test_what_onnxruntime_refuses(given, attrs, sentence):
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        by_runtime(OP, given, HEADS | attrs, ["float32"] * (4 if "qk_output" in attrs else 3))
    with pytest.raises(RunError, match=sentence):
        alone(OP, given, HEADS | attrs, 3)


@pytest.mark.parametrize(
    ("attrs", "sentence"),
    [
        ({"v_quant_type": "NONE"}, "must be equal"),
        ({"kv_cache_bit_width": 2}, "kv_cache_bit_width is 2"),
        ({"kv_cache_bit_width": 4}, "a cache of 4 bits is uint8, not int8"),
        ({"k_quant_type": "NONE", "v_quant_type": "NONE"}, "past_key holds int8"),
        ({"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}, "k_scale has 1 numbers"),
        ({"k_quant_type": "ROWS", "v_quant_type": "ROWS"}, "a quant_type is 'ROWS'"),
    ],
)
def test_what_a_cache_of_integers_must_say(attrs, sentence):
    given, right = quantized("growing cache", "PER_TENSOR", 8)
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        by_runtime(OP, given, HEADS | right | attrs, ["float32", "int8", "int8"])
    with pytest.raises(RunError, match=sentence):
        alone(OP, given, HEADS | right | attrs, 3)


def test_scores_that_nobody_asked_for_are_refused():
    with pytest.raises(RunError, match="output_qk is read"):
        alone(OP, STEPS["prompt"], HEADS, 4)


EVERYWHERE = {
    "ragged prompt": (STEPS["ragged prompt"] | ANGLES, {"do_rotary": 1, "qk_output": 1}, 4),
    "padded chunks": (STEPS["padded chunks"] | {"head_sink": draw(N)}, {"softcap": 0.5}, 3),
    "forgetting": (FORGETTING | {"attention_bias": draw(1, N, 2, 11)}, SLIDING, 3),
    "integers": (*quantized("growing cache", "PER_CHANNEL", 4), 3),
}


@pytest.mark.parametrize("name", EVERYWHERE)
@pytest.mark.parametrize("space", ["strict", "torch"])
def test_other_array_libraries_agree(name, space):
    given, attrs, outputs = EVERYWHERE[name]
    wanted = alone(OP, given, HEADS | attrs, outputs)
    assert_same(made_by(SPACES[space], OP, given, HEADS | attrs, outputs), wanted)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_shapes_without_data(name):
    given, attrs, outputs = EVERYWHERE[name]
    wanted = alone(OP, given, HEADS | attrs, outputs)
    known = shapes(OP, given, HEADS | attrs, outputs)
    assert known == [(value.dtype.name, value.shape) for value in wanted]


def test_half_precision_keeps_its_dtype_without_a_past():
    given = {
        k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in STEPS["prompt"].items()
    }
    assert [y.dtype.name for y in alone(OP, given, HEADS, 3)] == ["float16"] * 3
