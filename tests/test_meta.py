"""Shapes without data: what is inferred, what is refused in words, and that no weight is read."""

from __future__ import annotations

import numpy as np
import pytest

from hubtool.errors import InputError, RunError
from hubtool.graph import Graph, Layer, Tensor, Value
from hubtool.interpreter import Program
from hubtool.meta import MetaArray, MetaSpace, infer_shapes

ANY = Value("tensor", "", None)
FLATTEN = Layer("shape", "Reshape", {"data": "pooled", "shape": "dims"}, ["flat"], {"allowzero": 0})


class Unread(np.ndarray):
    """An array that may be passed on, but not be computed with."""

    def __array_ufunc__(self, *_, **__):
        raise AssertionError("a weight was read")

    __array_function__ = __array_ufunc__


def described(value):
    return value.dtype, value.shape


def classifier():
    """conv, relu, pool, flatten, dense, with weights that cannot be read."""

    def unread(*shape):
        return Tensor("float32", shape, lambda: np.zeros(shape, np.float32).view(Unread))

    layers = [
        Layer("conv", "Conv", {"X": "data", "W": "W", "B": "B"}, ["c"], {"pads": [1] * 4}),
        Layer("relu", "Relu", {"X": "c"}, ["r"]),
        Layer("pool", "GlobalAveragePool", {"X": "r"}, ["pooled"]),
        FLATTEN.copy(),
        Layer("dense", "Gemm", {"A": "flat", "B": "D"}, ["logits"], {"transB": 1}),
    ]
    weights = {"W": unread(8, 3, 3, 3), "B": unread(8), "D": unread(10, 8)}
    return Graph(
        layers,
        {"data": Value("tensor", "float32", ("N", 3, "H", "W"))},
        {"logits": ANY},
        {**weights, "dims": Tensor.of(np.asarray([0, -1], np.int64))},
    )


def one(op, inputs, attrs=None):
    """The error or the output of one layer on shapes."""
    names = {formal: formal for formal in inputs}
    graph = Graph(
        [Layer("one", op, names, ["y"], attrs or {})], dict.fromkeys(inputs, ANY), {"y": ANY}
    )
    return described(Program(graph, MetaSpace()).run(inputs)["y"])


def test_every_value_has_its_shape():
    values = infer_shapes(classifier(), {"data": ("float32", (4, 3, 20, 30))})
    assert {name: str(value) for name, value in values.items()} == {
        "c": "float32[4,8,20,30]",
        "r": "float32[4,8,20,30]",
        "pooled": "float32[4,8,1,1]",
        "flat": "float32[4,8]",
        "logits": "float32[4,10]",
    }


def test_an_array_without_data_feeds_as_well():
    feeds = {"data": MetaArray("float32", (0, 3, 20, 30))}
    assert infer_shapes(classifier(), feeds)["logits"] == Value("tensor", "float32", (0, 10))


def test_a_clash_of_shapes_names_the_layer():
    reason = r"while running Conv 'conv' \(X float32\[1,4,8,8\], .*: X has 4 channels"
    with pytest.raises(RunError, match=reason):
        infer_shapes(classifier(), {"data": ("float32", (1, 4, 8, 8))})


def test_every_input_without_a_shape_is_named():
    with pytest.raises(InputError, match=r"data: float32\[N,3,H,W\]"):
        infer_shapes(classifier(), {})


def test_shape_arithmetic_stays_exact():
    """reshape(x, concat(shape(x)[:1], [-1])), as exporters write it."""
    attrs = {"start": 0, "end": 1}
    graph = Graph(
        [
            Layer("s", "Shape", {"data": "x"}, ["n"], attrs),
            Layer("c", "Concat", {"inputs": ["n", "rest"]}, ["dims"], {"axis": 0}),
            Layer("r", "Reshape", {"data": "x", "shape": "dims"}, ["y"]),
        ],
        {"x": ANY},
        {"y": ANY},
        {"rest": Tensor.of(np.asarray([-1], np.int64))},
    )
    values = infer_shapes(graph, {"x": ("float16", (5, 2, 3))})
    assert str(values["y"]) == "float16[5,6]"
    assert str(values["dims"]) == "int64[2]"


@pytest.mark.parametrize("place", [np.asarray(0), np.asarray([0])], ids=["scalar", "vector"])
def test_a_single_size_stays_exact_too(place):
    """expand(1, shape(x)[0]): numpy makes numbers of arrays without dimensions on the way."""
    graph = Graph(
        [
            Layer("s", "Shape", {"data": "x"}, ["s"], {"start": 0}),
            Layer("g", "Gather", {"data": "s", "indices": "place"}, ["n"], {"axis": 0}),
            Layer("m", "Mul", {"A": "n", "B": "n"}, ["nn"]),
            Layer("d", "Reshape", {"data": "nn", "shape": "vector"}, ["dims"], {"allowzero": 0}),
            Layer("e", "Expand", {"input": "one", "shape": "dims"}, ["y"]),
        ],
        {"x": ANY},
        {"y": ANY},
        {
            "place": Tensor.of(place),
            "vector": Tensor.of(np.asarray([-1])),
            "one": Tensor.of(np.ones(1, np.float32)),
        },
    )
    values = infer_shapes(graph, {"x": ("float32", (5, 2))})
    assert str(values["y"]) == "float32[25]"


def test_a_shape_that_depends_on_elements_says_so():
    graph = Graph([FLATTEN.copy()], {"pooled": ANY, "dims": ANY}, {"flat": ANY})
    feeds = {"pooled": ("float32", (2, 3)), "dims": ("int64", (2,))}
    with pytest.raises(RunError, match=r"depends on the elements of int64\[2\]"):
        infer_shapes(graph, feeds)
    known = infer_shapes(graph, {**feeds, "dims": np.asarray([3, 2])})
    assert known["flat"].shape == (3, 2)


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "message"),
    [
        ("Add", {"A": (2, 3), "B": (4, 3)}, {}, r"shapes \[2, 3\] and \[4, 3\] do not broadcast"),
        ("MatMul", {"A": (2, 3), "B": (4, 5)}, {}, r"\[2, 3\] cannot be multiplied by \[4, 5\]"),
        ("MatMul", {"A": (), "B": (4, 5)}, {}, r"\[\] cannot be multiplied by \[4, 5\]"),
        ("Transpose", {"data": (2, 3)}, {"perm": [0, 0]}, r"no order of the axes of \[2, 3\]"),
        ("Softmax", {"input": (2, 3)}, {"axis": 2}, "axis 2 is outside a rank of 2"),
    ],
)
def test_what_does_not_fit_says_so(op, inputs, attrs, message):
    with pytest.raises(RunError, match=message):
        one(op, {k: MetaArray("float32", dims) for k, dims in inputs.items()}, attrs)


def test_shapes_that_cannot_be_joined_say_so():
    graph = Graph(
        [Layer("c", "Concat", {"inputs": ["a", "b"]}, ["y"], {"axis": 1})],
        {"a": ANY, "b": ANY},
        {"y": ANY},
    )
    feeds = {"a": ("float32", (2, 3)), "b": ("float32", (4, 3))}
    with pytest.raises(RunError, match=r"\[2, 3\] and \[4, 3\] cannot be joined along axis 1"):
        infer_shapes(graph, feeds)


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ((3,), (3,), ()),
        ((3,), (5, 3, 4), (5, 4)),
        ((5, 2, 3), (3,), (5, 2)),
        ((7, 1, 2, 3), (5, 3, 4), (7, 5, 2, 4)),
    ],
)
def test_products_have_numpys_shapes(a, b, wanted):
    inputs = {"A": MetaArray("float64", a), "B": MetaArray("float64", b)}
    assert one("MatMul", inputs) == ("float64", wanted)
    assert np.matmul(np.ones(a), np.ones(b)).shape == wanted


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4", "string", "bool"])
def test_every_dtype_goes_through(dtype):
    assert one("Identity", {"input": MetaArray(dtype, (2,))}) == (dtype, (2,))
    assert one("Transpose", {"data": MetaArray(dtype, (2, 3))}) == (dtype, (3, 2))


def test_a_comparison_is_boolean_and_a_cast_what_it_says():
    a = MetaArray("float32", (2, 1))
    assert one("Less", {"A": a, "B": MetaArray("float32", (3,))}) == ("bool", (2, 3))
    assert one("Cast", {"input": a}, {"to": 16}) == ("bfloat16", (2, 1))


def test_updates_that_loop_over_elements_change_no_shape():
    inputs = {
        "data": MetaArray("float32", (4, 5)),
        "indices": MetaArray("int64", (3, 1)),
        "updates": MetaArray("float32", (3, 5)),
    }
    assert one("ScatterND", inputs, {"reduction": "add"}) == ("float32", (4, 5))


@pytest.mark.parametrize("ask", [bool, int, float, list, np.asarray])
def test_an_array_without_data_never_pretends_to_have_any(ask):
    with pytest.raises(ValueError, match=r"depends on the elements of float32\[2,3\]"):
        ask(MetaArray("float32", (2, 3)))


def test_a_terabyte_takes_no_memory():
    x = MetaArray("float32", (10**6, 10**6))
    assert one("Relu", {"X": x}) == ("float32", (10**6, 10**6))
    assert x[..., 5:9].shape == (10**6, 4)
