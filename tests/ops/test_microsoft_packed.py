"""Weights in 2, 4 and 8 bits against ONNX Runtime: blocks and their rests, zero points, types.

Left out is where ONNX Runtime departs from its own schemas: MatMulNBits with g_idx ignores the
zero points and reads 2 bits as 4, and MatMulBnb4 with transB=0 reads beyond its weights. These are
judged by their definition.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from ops.conftest import KNOWN, SPACES, alone
from ops.judged import made_by, shapes
from ops.narrow import in_runtime

from hubtool.dtypes import numpy_dtype
from hubtool.errors import RunError

NBITS, BNB4 = "com.microsoft.MatMulNBits", "com.microsoft.MatMulBnb4"
TABLE = "com.microsoft.GatherBlockQuantized"

rng = np.random.default_rng(16)


def f(*dims: int) -> np.ndarray:
    return rng.standard_normal(dims).astype(np.float32)


def scales(*dims: int) -> np.ndarray:
    return rng.uniform(0.1, 1, dims).astype(np.float32)


def codes(bits: int, *dims: int) -> np.ndarray:
    return rng.integers(0, 1 << bits, dims).astype(np.uint8)


def packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers along the last axis in bytes, the lowest bits first, the last byte filled up."""
    each = 8 // bits
    numbers = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, -numbers.shape[-1] % each)])
    parts = numbers.reshape(*numbers.shape[:-1], -1, each) << (np.arange(each) * bits)
    return parts.sum(axis=-1).astype(np.uint8)


def check(op: str, given: dict[str, Any], attrs: dict[str, Any], dtype: str = "float32") -> None:
    """Every library gives what ONNX Runtime gives; the shape needs no data."""
    theirs = in_runtime(op, given, attrs, dtype, weights=True)
    assert shapes(op, given, attrs, 1) == [(dtype, theirs.shape)]
    dtypes = {x.dtype.name for x in given.values() if x is not None}
    for name, space in SPACES.items():
        if dtypes <= KNOWN.get(name, dtypes):
            (ours,) = made_by(space, op, given, attrs, 1)
            assert ours.dtype == theirs.dtype
            digits = 1e-6 if dtype == "float32" else 1e-3
            atol = digits * np.abs(theirs).max()  # a sum may cancel out
            np.testing.assert_allclose(ours, theirs, rtol=digits, atol=atol)


@pytest.mark.parametrize(("K", "block_size"), [(64, 32), (70, 16)], ids=["whole", "a rest"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_weights_multiply_as_in_onnxruntime(bits, K, block_size):
    N, blocks = 5, -(-K // block_size)
    attrs = {"K": K, "N": N, "bits": bits, "block_size": block_size}
    given = {
        "A": f(2, 3, K),
        "B": codes(8, N, blocks, block_size * bits // 8),
        "scales": scales(N, blocks),
    }
    zeros = packed(codes(bits, N, blocks), bits)
    check(NBITS, given, attrs)
    check(NBITS, given | {"zero_points": zeros}, attrs)
    check(NBITS, given | {"zero_points": zeros, "bias": f(N)}, {**attrs, "accuracy_level": 1})
    flat = {"scales": given["scales"].reshape(-1), "zero_points": zeros.reshape(-1)}
    check(NBITS, given | flat, attrs)
    half = {key: x.astype(np.float16) for key, x in given.items() if key != "B"}
    check(NBITS, given | half | {"zero_points": zeros}, attrs, "float16")
    if bits < 8:  # it knows zero points that are floats, and g_idx, for fewer bits only
        check(NBITS, given | {"zero_points": scales(N, blocks) * 3}, attrs)
    if bits == 4:
        named = rng.integers(0, blocks, K).astype(np.int32)
        check(NBITS, given | {"g_idx": named}, attrs)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_g_idx_names_the_block_whose_scale_and_zero_point_a_column_has(bits):
    q, zeros, step = codes(bits, 3, 64), codes(bits, 3, 4), scales(3, 4)
    named = rng.integers(0, 4, 64).astype(np.int32)
    given = {
        "A": np.eye(64, dtype=np.float32),
        "B": packed(q.reshape(3, 4, 16), bits),
        "scales": step,
        "zero_points": packed(zeros, bits),
        "g_idx": named,
    }
    (Y,) = alone(NBITS, given, {"K": 64, "N": 3, "bits": bits, "block_size": 16})
    wanted = (q.astype(np.float32) - zeros[:, named]) * step[:, named]
    assert Y.T.tolist() == wanted.tolist()


def test_weights_that_are_left_out_count_as_zeros():
    given = {"A": f(2, 32), "B": codes(8, 0, 2, 8), "scales": scales(0, 2), "bias": f(3)}
    check(NBITS, given, {"K": 32, "N": 3, "block_size": 16})


@pytest.mark.parametrize("quant_type", [0, 1], ids=["FP4", "NF4"])
def test_the_4_bits_of_bitsandbytes_multiply_as_in_onnxruntime(quant_type):
    K, N, block_size = 48, 7, 16
    attrs = {"K": K, "N": N, "block_size": block_size, "quant_type": quant_type}
    given = {"B": codes(8, N * K // 2), "absmax": scales(N * K // block_size)}
    check(BNB4, {"A": f(3, K), **given}, attrs)
    (W,) = alone(BNB4, {"A": np.eye(K, dtype=np.float32), **given}, attrs)
    (back,) = alone(BNB4, {"A": np.eye(N, dtype=np.float32), **given}, {**attrs, "transB": 0})
    assert back.tolist() == W.T.tolist()


INDICES = np.asarray([[0, -1, 2], [5, 1, -6]])
PLACES = {
    "gather 0, blocks 1": (0, 1, (6, 40)),
    "gather 0, blocks 2": (0, 2, (6, 3, 40)),
    "gather 1, blocks 2": (1, -1, (2, 6, 40)),
    "gather 1, blocks 0": (1, 0, (40, 6, 3)),
    "one axis": (0, 0, (40, 3)),
}


def table(dims: tuple[int, ...], axis: int) -> list[int]:
    """The shape of the scales of a table in blocks of 16 along the axis."""
    blocks = list(dims)
    blocks[axis] = -(-dims[axis] // 16)
    return blocks


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_rows_of_4_bits_are_gathered_as_in_onnxruntime(dtype, place):
    gathered, blocked, dims = PLACES[place]
    attrs = {"block_size": 16, "gather_axis": gathered, "quantize_axis": blocked}
    shape = table(dims, blocked)
    given = {
        "data": rng.integers(-7, 8, dims).astype(numpy_dtype(dtype)),
        "indices": INDICES,
        "scales": scales(*shape),
    }
    check(TABLE, given, attrs)
    zeros = codes(3, *shape).astype(numpy_dtype(dtype))
    given |= {"zero_points": zeros, "indices": INDICES.astype(np.int32)}
    check(TABLE, given, attrs)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows_in_bytes_are_gathered_as_in_onnxruntime(bits):
    for dims in ((6, 48), (6, 3, 40)):
        shape = table(dims, -1)
        given = {
            "data": packed(codes(bits, *dims), bits),
            "indices": INDICES,
            "scales": scales(*shape),
        }
        attrs = {"bits": bits, "block_size": 16, "quantize_axis": -1}
        check(TABLE, given, attrs)
        check(TABLE, given | {"zero_points": packed(codes(bits, *shape), bits)}, attrs)


@pytest.mark.parametrize(
    "dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn"]
)
def test_rows_of_small_floats_are_gathered_as_in_onnxruntime(dtype):
    data = f(6, 40).astype(numpy_dtype(dtype))
    for block_size, shape in ((16, (6, 3)), (0, (6, 1)), (16, (1, 3)), (0, (1, 1))):
        given = {"data": data, "indices": INDICES, "scales": scales(*shape)}
        check(TABLE, given, {"block_size": block_size})


def test_an_index_outside_the_table_gives_zeros():
    given = {"data": codes(8, 6, 32), "indices": np.asarray([6, -7, 1, -1]), "scales": scales(6, 2)}
    attrs = {"bits": 8, "block_size": 16}
    check(TABLE, given, attrs)
    (rows,) = alone(TABLE, given, attrs)
    assert (rows[:2] == 0).all()
    assert (rows[2:] != 0).any(axis=1).all()


def test_the_rows_have_the_type_of_the_scales():
    given = {"data": codes(8, 6, 32), "indices": INDICES}
    for dtype in (np.float16, ml_dtypes.bfloat16):
        (rows,) = alone(TABLE, given | {"scales": scales(6, 1).astype(dtype)}, {"block_size": 64})
        assert (rows.dtype, rows.shape) == (dtype, (2, 3, 64))


@pytest.mark.parametrize(
    ("op", "changed", "attrs", "message"),
    [
        (NBITS, {}, {"bits": 3}, "bits is 3, not 2, 4 or 8"),
        (NBITS, {}, {"weight_prepacked": 1}, "weight_prepacked is 1, which is for one kind of GPU"),
        (NBITS, {}, {"block_size": 0}, "block_size is 0, not a power of two from 16 on"),
        (BNB4, {}, {"block_size": 24, "quant_type": 0}, "block_size is 24, not a power of two"),
        (TABLE, {"scales": scales(6, 1)}, {"block_size": 0}, "block_size is 0, not a power of two"),
        (TABLE, {"scales": scales(6, 1)}, {"gather_axis": 1}, "gather_axis is the last one"),
        (NBITS, {"B": codes(8, 0, 2, 8)}, {"N": 10**13}, "GiB; this machine has"),
        (BNB4, {}, {"quant_type": 2}, "quant_type is 2, not 0 or 1"),
        (TABLE, {"scales": scales(5, 2)}, {}, "scales or zero points do not fit 6 rows"),
    ],
)
def test_what_does_not_fit_says_so(op, changed, attrs, message):
    inputs, usual = {
        NBITS: (
            {"A": f(2, 32), "B": codes(8, 3, 2, 8), "scales": scales(3, 2)},
            {"K": 32, "N": 3, "block_size": 16},
        ),
        BNB4: (
            {"A": f(2, 32), "B": codes(8, 48), "absmax": scales(6)},
            {"K": 32, "N": 3, "block_size": 16},
        ),
        TABLE: ({"data": codes(8, 6, 16), "indices": INDICES}, {"block_size": 16}),
    }[op]
    with pytest.raises(RunError, match=message):
        alone(op, {**inputs, **changed}, {**usual, **attrs})
