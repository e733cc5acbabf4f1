"""Matrix products: transposed, scaled, of integers; Einsum against numpy's; diagonals."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from ops.conftest import SPACES
from ops.judged import made_by, shapes

from hubtool.dtypes import NUMBERS, numpy_dtype
from hubtool.errors import RunError

EACH_SPACE = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)

EQUATIONS = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    ("ij,jk", [(2, 3), (3, 4)]),
    ("bij,bjk->bik", [(5, 2, 3), (5, 3, 4)]),
    ("ij->ji", [(2, 3)]),
    ("ii->i", [(3, 3)]),
    ("ii", [(3, 3)]),
    ("iij,j->i", [(3, 3, 4), (4,)]),
    ("i,j->ij", [(2,), (3,)]),
    ("ij,k->ik", [(2, 3), (4,)]),
    ("...ij,...jk->...ik", [(5, 2, 3), (5, 3, 4)]),
    ("...ij,jk->...ik", [(6, 5, 2, 3), (3, 4)]),
    ("...ij,...jk", [(1, 2, 3), (5, 3, 4)]),
    ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ("a,a,a->", [(3,), (3,), (3,)]),
    (" b n f , n f -> b f ", [(2, 3, 4), (3, 4)]),
    ("Aa,aB->BA", [(2, 3), (3, 4)]),
    ("...,...->...", [(), ()]),
]


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS, ids=[e for e, _ in EQUATIONS])
def test_einsum_is_numpys(alone, equation, shapes):
    rng = np.random.default_rng(9)
    inputs = [rng.standard_normal(shape) for shape in shapes]
    (made,) = alone("Einsum", {"Inputs": inputs}, {"equation": equation})
    np.testing.assert_allclose(made, np.einsum(equation, *inputs), rtol=1e-10)


@pytest.mark.parametrize(
    ("equation", "message"),
    [
        ("ij,jk->ik", "2 terms for 1 operands"),
        ("ijk->i", "has not the rank 2"),
        ("ij->iz", "letters that no operand has"),
    ],
)
def test_an_equation_that_does_not_fit_says_so(alone, equation, message):
    with pytest.raises(RunError, match=message):
        alone("Einsum", {"Inputs": [np.zeros((2, 2))]}, {"equation": equation})


@pytest.mark.parametrize("transA", [0, 1])
@pytest.mark.parametrize("transB", [0, 1])
def test_gemm_is_its_formula(alone, transA, transB):
    rng = np.random.default_rng(5)
    A, B, C = rng.random((3, 4)), rng.random((4, 5)), rng.random((3, 1))
    given = {"A": A.T if transA else A, "B": B.T if transB else B, "C": C}
    attrs = {"alpha": 0.5, "beta": 2.0, "transA": transA, "transB": transB}
    np.testing.assert_allclose(alone("Gemm", given, attrs)[0], 0.5 * A @ B + 2 * C)


def test_gemm_with_beta_zero_never_looks_at_c(alone):
    given = {"A": np.ones((1, 2)), "B": np.ones((2, 1)), "C": np.full((1, 1), np.nan)}
    assert alone("Gemm", given, {"beta": 0.0})[0].tolist() == [[2]]


def test_gemm_takes_integers(alone):
    given = {"A": np.ones((1, 2), np.int32), "B": np.ones((2, 1), np.int32)}
    (Y,) = alone("Gemm", given, {"alpha": 3.0})
    assert (Y.dtype.name, Y.tolist()) == ("int32", [[6]])


def test_gemm_takes_matrices_only(alone):
    with pytest.raises(RunError, match="must be matrices"):
        alone("Gemm", {"A": np.ones((1, 2, 2)), "B": np.ones((2, 1))}, {})


@EACH_SPACE
@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -9, -2, -1, 0, 1, 3, 9])
def test_trilu_is_numpys_triangle(space, upper, k):
    x = np.arange(1, 25).reshape(2, 3, 4)
    inputs = {"input": x, "k": None if k is None else np.asarray(k)}
    (made,) = made_by(space, "Trilu", inputs, {"upper": upper}, 1)
    wanted = (np.triu if upper else np.tril)(x, k or 0)
    np.testing.assert_array_equal(made, wanted, strict=True)
    assert shapes("Trilu", inputs, {"upper": upper}, 1) == [("int64", x.shape)]


def test_trilu_keeps_every_type_and_what_is_not_finite(alone):
    for x in (
        np.asarray([[np.nan, np.inf], [np.nan, np.inf]], np.float16),
        np.ones((2, 2), ml_dtypes.bfloat16),
        np.ones((2, 2), bool),
        np.ones((2, 2), np.complex64),
    ):
        wanted = x.copy()
        wanted[1, 0] = 0
        np.testing.assert_array_equal(alone("Trilu", {"input": x}, {})[0], wanted, strict=True)
    words = np.asarray([["a", "b"], ["c", "d"]], object)
    assert alone("Trilu", {"input": words}, {})[0].tolist() == [["a", "b"], ["", "d"]]


@EACH_SPACE
@pytest.mark.parametrize("k", [-3, -1, 0, 2, 4])
@pytest.mark.parametrize("dtype", [None, "float32", "bool", "int64", "uint8", "float64"])
def test_eye_like_is_numpys_eye(space, k, dtype):
    attrs = {"k": k} | ({"dtype": NUMBERS[dtype]} if dtype else {})
    inputs = {"input": np.full((3, 4), 7, np.int32)}
    (made,) = made_by(space, "EyeLike", inputs, attrs, 1)
    wanted = np.eye(3, 4, k, dtype=dtype or "int32")
    np.testing.assert_array_equal(made, wanted, strict=True)
    assert shapes("EyeLike", inputs, attrs, 1) == [(wanted.dtype.name, (3, 4))]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "uint16"])
def test_eye_like_has_the_narrow_types_too(alone, dtype):
    given = {"input": np.zeros((2, 2), numpy_dtype(dtype))}
    (made,) = alone("EyeLike", given, {})
    assert (made.dtype.name, made.tolist()) == (dtype, [[1, 0], [0, 1]])


@EACH_SPACE
@pytest.mark.parametrize("dims", [(3, 3), (2, 3, 3), (2, 1, 4, 4), (2, 0, 0), (0, 2, 2), (1, 1)])
def test_det_agrees_with_onnxruntime(in_onnxruntime, space, dims):
    X = np.random.default_rng(4).standard_normal(dims).astype(np.float32)
    (wanted,) = in_onnxruntime("Det", [X], {}, {"Y": "float32"})
    (made,) = made_by(space, "Det", {"X": X}, {}, 1)
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6, strict=True)
    assert shapes("Det", {"X": X}, {}, 1) == [("float32", dims[:-2])]


@pytest.mark.parametrize(
    ("op", "dims", "message"),
    [
        ("Trilu", (3,), r"input must hold matrices, it is \[3\]"),
        ("EyeLike", (1, 2, 3), r"input must be a matrix, it is \[1, 2, 3\]"),
        ("Det", (2, 3), r"X must hold square matrices, it is \[2, 3\]"),
        ("Det", (), r"X must hold square matrices, it is \[\]"),
    ],
)
def test_what_is_no_matrix_is_refused(alone, op, dims, message):
    formal = "X" if op == "Det" else "input"
    with pytest.raises(RunError, match=message):
        alone(op, {formal: np.zeros(dims, np.float32)}, {})


def test_a_diagonal_that_no_memory_holds_is_refused(alone):
    wide = np.broadcast_to(np.float32(0), (1 << 25, 1 << 25))
    with pytest.raises(RunError, match="GiB; this machine has"):
        alone("EyeLike", {"input": wide}, {})
