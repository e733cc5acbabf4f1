"""Matrix products: transposed, scaled, of integers; Einsum against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from hubtool.errors import RunError

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
