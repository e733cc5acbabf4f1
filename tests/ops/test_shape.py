"""Shapes: what 0 and -1 mean, padding of every mode, and sizes that no machine holds."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from hubtool.errors import RunError
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value
from hubtool.interpreter import HOST, Program

ANY = Value("tensor", "", None)


def ints(*values):
    return np.asarray(values, np.int64)


@pytest.mark.parametrize(
    ("dims", "asked", "allowzero", "wanted"),
    [
        ((2, 3, 4), [0, -1], 0, (2, 12)),
        ((2, 3, 4), [0, 0, -1, 2], 0, (2, 3, 2, 2)),
        ((0, 8, 1), [0, -1], 0, (0, 8)),
        ((0, 3), [3, 0], 1, (3, 0)),
        ((0, 3), [-1], 0, (0,)),
        ((1,), [], 0, ()),
        ((), [1, -1], 0, (1, 1)),
    ],
)
def test_reshape(alone, dims, asked, allowzero, wanted):
    given = {"data": np.zeros(dims, np.float32), "shape": ints(*asked)}
    assert alone("Reshape", given, {"allowzero": allowzero})[0].shape == wanted


@pytest.mark.parametrize("asked", [[5, -1], [-1, -1], [2, 2], [0, 0, 0], [-2, 3]])
def test_a_shape_that_does_not_fit_is_refused(alone, asked):
    with pytest.raises(RunError, match=r"shape \[.*\] (does not fit|copies a size that) \[2, 3\]"):
        alone("Reshape", {"data": np.zeros((2, 3), np.float32), "shape": ints(*asked)}, {})


@pytest.mark.parametrize(
    ("axis", "wanted"), [(0, (1, 24)), (1, (2, 12)), (3, (24, 1)), (-1, (6, 4)), (-3, (1, 24))]
)
def test_flatten(alone, axis, wanted):
    (output,) = alone("Flatten", {"input": np.zeros((2, 3, 4), np.int8)}, {"axis": axis})
    assert output.shape == wanted


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_padding_is_numpys(alone, mode):
    rng = np.random.default_rng(11)
    for _ in range(40):
        data = rng.integers(0, 100, rng.integers(2, 6, 3))
        begins, ends = rng.integers(0, 9, (2, 3))
        (made,) = alone("Pad", {"data": data, "pads": ints(*begins, *ends)}, {"mode": mode})
        wanted = np.pad(data, list(zip(begins, ends, strict=True)), mode=mode)
        assert np.array_equal(made, wanted), (data.shape, begins, ends)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_negative_pads_crop(alone, in_onnxruntime, mode):
    data, pads = np.arange(30, dtype=np.float32).reshape(5, 6), ints(-2, 1, 0, -3)
    (wanted,) = in_onnxruntime("Pad", [data, pads], {"mode": mode}, {"output": "float32"})
    (made,) = alone("Pad", {"data": data, "pads": pads}, {"mode": mode})
    assert np.array_equal(made, wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4"])
def test_the_small_types_are_padded_as_they_are(alone, dtype):
    data = np.asarray([1, 2]).astype(getattr(ml_dtypes, dtype))
    (made,) = alone("Pad", {"data": data, "pads": ints(1, 1)}, {})
    assert (made.dtype.name, made.astype(int).tolist()) == (dtype, [0, 1, 2, 0])


def test_text_is_padded_with_empty_text(alone):
    data = np.asarray(["a"], object)
    assert alone("Pad", {"data": data, "pads": ints(1, 0)}, {})[0].tolist() == ["", "a"]


@pytest.mark.parametrize(
    ("size", "attrs", "split", "wanted"),
    [
        (7, {"num_outputs": 3}, None, [3, 3, 1]),
        (4, {"num_outputs": 3}, None, [2, 2, 0]),
        (5, {}, ints(1, 0, 4), [1, 0, 4]),
    ],
)
def test_split(alone, size, attrs, split, wanted):
    given = {"input": np.arange(size), "split": split}
    parts = alone("Split", given, attrs, outputs=3)
    assert [len(part) for part in parts] == wanted
    assert np.concatenate(parts).tolist() == list(range(size))


def test_parts_that_do_not_add_up_are_refused(alone):
    with pytest.raises(RunError, match="does not add up to 5, the size of axis 0"):
        alone("Split", {"input": np.arange(5), "split": ints(1, 2)}, {}, outputs=2)


def test_only_an_axis_of_size_one_can_be_squeezed(alone):
    data = np.zeros((1, 2, 1), np.float32)
    assert alone("Squeeze", {"data": data}, {})[0].shape == (2,)
    assert alone("Squeeze", {"data": data, "axes": ints(-1)}, {})[0].shape == (1, 2)
    with pytest.raises(RunError, match="not all of size 1"):
        alone("Squeeze", {"data": data, "axes": ints(1)}, {})


def test_unsqueezed_axes_count_in_the_result(alone):
    data = np.zeros((3, 4), np.float32)
    assert alone("Unsqueeze", {"data": data, "axes": ints(-1, 0)}, {})[0].shape == (1, 3, 4, 1)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_undoes_space_to_depth(alone, mode):
    x = np.arange(96, dtype=np.float32).reshape(2, 3, 4, 4)
    attrs = {"blocksize": 2, "mode": mode}
    (deep,) = alone("SpaceToDepth", {"input": x}, attrs)
    assert deep.shape == (2, 12, 2, 2)
    assert np.array_equal(alone("DepthToSpace", {"input": deep}, attrs)[0], x)


@pytest.mark.parametrize(
    ("start", "limit", "delta", "count"),
    [(0, 1, 0.1, 10), (1, 0, -0.25, 4), (0, 0, 1, 0), (3, 0, 1, 0), (5, 6, 2, 1)],
)
def test_range_counts_as_onnxruntime_does(alone, in_onnxruntime, start, limit, delta, count):
    given = [np.float32(v).reshape(()) for v in (start, limit, delta)]
    (made,) = alone("Range", dict(zip(("start", "limit", "delta"), given, strict=True)), {})
    (wanted,) = in_onnxruntime("Range", [np.asarray(v) for v in given], {}, {"output": "float32"})
    assert made.shape == wanted.shape == (count,)
    np.testing.assert_allclose(made, wanted, rtol=1e-6)


def test_a_range_of_the_largest_integers_is_exact(alone):
    top = 2**63 - 4
    given = {"start": ints(top)[0], "limit": ints(top + 3)[0], "delta": ints(1)[0]}
    assert alone("Range", given, {})[0].tolist() == [top, top + 1, top + 2]


def test_a_huge_constant_takes_no_memory_until_it_is_needed(alone):
    graph = Graph(
        [
            Layer("c", "ConstantOfShape", {"input": "dims"}, ["c"], {"value": TensorRef("v")}),
            Layer("e", "Expand", {"input": "c", "shape": "wide"}, ["e"]),
            Layer("s", "Shape", {"data": "e"}, ["shape"], {"start": 0}),
        ],
        outputs={"shape": ANY},
        tensors={
            "dims": Tensor.of(ints(10**6, 1)),
            "v": Tensor.of(np.asarray([3], np.int64)),
            "wide": Tensor.of(ints(10**6, 10**6)),
        },
    )
    assert Program(graph, HOST).run({})["shape"].tolist() == [10**6, 10**6]


def test_a_constant_has_the_dtype_of_its_value(alone):
    assert alone("ConstantOfShape", {"input": ints(2)}, {})[0].dtype == np.float32
    value = np.asarray([7], ml_dtypes.bfloat16)
    (made,) = alone("ConstantOfShape", {"input": ints(2)}, {"value": value})
    assert (made.dtype, made.tolist()) == (value.dtype, [7, 7])


BOMBS = {
    "Tile": {"input": np.zeros((1, 1), np.float32), "repeats": ints(2**31, 2**31)},
    "Pad": {"data": np.zeros((1, 1), np.float32), "pads": ints(2**40, 0, 0, 0)},
    "Range": {"start": ints(0)[0], "limit": ints(2**62)[0], "delta": ints(1)[0]},
}


@pytest.mark.parametrize("op", BOMBS)
def test_a_size_that_no_machine_holds_is_refused(alone, op):
    with pytest.raises(RunError, match=f"while running {op} .* GiB; this machine has"):
        alone(op, BOMBS[op], {})


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_such_a_padding_is_refused_in_every_mode(alone, mode):
    with pytest.raises(RunError, match="GiB; this machine has"):
        alone("Pad", BOMBS["Pad"], {"mode": mode})
