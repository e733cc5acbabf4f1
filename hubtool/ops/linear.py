"""Matrices: their products, triangles and determinants; Einsum is a chain of products.

Einsum takes its operands two at a time. The letters of such a pair are of four kinds, and put in
this order the pair is one batched matrix product:

    A [batch, rows, inner] · B [batch, inner, columns]

A letter is inner when nobody asks for it later. Letters that only one operand has and nobody asks
for are summed first; an ellipsis is spelt out in letters of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from hubtool.dtypes import numpy_dtype
from hubtool.ops import REQUIRED, op
from hubtool.ops.elementwise import is_integer
from hubtool.ops.shape import dtype_asked, guard_size

__all__: list[str] = []

Array = Any


@op("MatMul")
def mat_mul(ctx: Any, A: Array, B: Array) -> Array:
    return ctx.xp.matmul(A, B)


@op("Gemm")
def gemm(
    ctx: Any,
    A: Array,
    B: Array,
    C: Array = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    """alpha · A · B + beta · C."""
    if A.ndim != 2 or B.ndim != 2:
        raise ValueError(f"A and B must be matrices, they are {list(A.shape)} and {list(B.shape)}")
    A = ctx.xp.permute_dims(A, (1, 0)) if transA else A
    B = ctx.xp.permute_dims(B, (1, 0)) if transB else B
    Y = _scaled(ctx, ctx.xp.matmul(A, B), alpha)
    return Y if C is None or beta == 0 else Y + _scaled(ctx, C, beta)


def _scaled(ctx: Any, x: Array, factor: float) -> Array:
    return x if factor == 1 else x * (int(factor) if is_integer(ctx, x) else factor)


@op("EyeLike", returns="", moves=True)
def eye_like(ctx: Any, input: Array, *, dtype: int | None = None, k: int = 0) -> Array:
    """Ones on the diagonal, k places to its right (or left, where k is negative)."""
    if input.ndim != 2:
        raise ValueError(f"input must be a matrix, it is {list(input.shape)}")
    name = dtype_asked(ctx, dtype)
    guard_size(input.shape, name)
    rows, columns = input.shape
    return ctx.put(np.eye(rows, columns, k, dtype=np.bool_).astype(numpy_dtype(name)))


@op("Trilu", host=("k",), moves=True)
def trilu(ctx: Any, input: Array, k: Array = None, *, upper: int = 1) -> Array:
    """The elements on and above (upper=0: below) the k-th diagonal, zeros elsewhere."""
    if input.ndim < 2:
        raise ValueError(f"input must hold matrices, it is {list(input.shape)}")
    diagonal = 0 if k is None else int(k.item())
    rows, columns = (np.arange(d) for d in input.shape[-2:])
    right = columns - rows[:, None]
    kept = ctx.put(right >= diagonal if upper else right <= diagonal)
    zero = "" if ctx.dtype(input) == "string" else 0
    zeros = ctx.xp.full((1,) * input.ndim, zero, dtype=input.dtype, device=ctx.device(input))
    return ctx.xp.where(kept, input, zeros)


def _without_matrices(ctx: Any, X: Array) -> Array:
    if X.ndim < 2 or X.shape[-1] != X.shape[-2]:
        raise ValueError(f"X must hold square matrices, it is {list(X.shape)}")
    return ctx.empty(X.shape[:-2], ctx.dtype(X))


@op("Det", shape=_without_matrices)
def det(ctx: Any, X: Array) -> Array:
    _without_matrices(ctx, X)
    return ctx.xp.linalg.det(X)


@op("Einsum")
def einsum(ctx: Any, *Inputs: Array, equation: str = REQUIRED) -> Array:
    terms, wanted = _parse(equation, [x.ndim for x in Inputs])
    operands = [_without_repeats(ctx, x, t) for x, t in zip(Inputs, terms, strict=True)]
    (x, letters), *others = operands
    for i, (y, more) in enumerate(others, start=1):
        later = set(wanted).union(*(t for _, t in operands[i + 1 :]))
        x, letters = _contract(ctx, x, letters, y, more, later)
    x, letters = _summed(ctx, x, letters, set(wanted))
    if sorted(letters) != sorted(wanted):
        raise ValueError(f"equation '{equation}' asks for letters that no operand has, or twice")
    return ctx.xp.permute_dims(x, tuple(letters.index(c) for c in wanted))


def _parse(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, the ellipses written in digits."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"equation '{equation}' has {len(terms)} terms for {len(ranks)} operands")
    width = 0
    for i, (term, rank) in enumerate(zip(terms, ranks, strict=True)):
        if "..." in term:
            hidden = rank - (len(term) - 3)
            width = max(width, hidden)
            terms[i] = term.replace("...", "9876543210"[10 - hidden :] if hidden else "")
        if len(terms[i]) != rank:
            raise ValueError(f"term '{term}' of equation '{equation}' has not the rank {rank}")
    ellipsis = "9876543210"[10 - width :] if width else ""
    if arrow:
        return terms, right.replace("...", ellipsis)
    once = sorted(c for c, n in Counter("".join(terms)).items() if n == 1 and c.isalpha())
    return terms, ellipsis + "".join(once)


def _without_repeats(ctx: Any, x: Array, letters: str) -> tuple[Array, str]:
    """The diagonal over the axes that share a letter."""
    unique = "".join(dict.fromkeys(letters))
    if unique == letters:
        return x, letters
    sizes = dict(zip(letters, x.shape, strict=True))
    strides = np.cumprod([1, *x.shape[:0:-1]])[::-1].tolist()
    places: Any = np.zeros((), np.int64)
    for axis, letter in enumerate(unique):
        step = sum(s for s, c in zip(strides, letters, strict=True) if c == letter)
        after = (1,) * (len(unique) - axis - 1)
        places = places + np.arange(sizes[letter]).reshape(-1, *after) * step
    taken = ctx.xp.take(ctx.xp.reshape(x, (-1,)), ctx.put(places.reshape(-1)), axis=0)
    return ctx.xp.reshape(taken, tuple(sizes[c] for c in unique)), unique


def _summed(ctx: Any, x: Array, letters: str, kept: set[str]) -> tuple[Array, str]:
    """Sum over the letters that are not kept."""
    axes = tuple(i for i, c in enumerate(letters) if c not in kept)
    if not axes:
        return x, letters
    return ctx.xp.sum(x, axis=axes, dtype=x.dtype), "".join(c for c in letters if c in kept)


def _contract(ctx: Any, x: Array, a: str, y: Array, b: str, later: set[str]) -> tuple[Array, str]:
    """One pair of operands with the letters a and b as one matrix product."""
    xp = ctx.xp
    x, a = _summed(ctx, x, a, later | set(b))
    y, b = _summed(ctx, y, b, later | set(a))
    sizes = dict(zip(a, x.shape, strict=True))
    for letter, d in zip(b, y.shape, strict=True):
        sizes[letter] = d if sizes.get(letter, 1) == 1 else sizes[letter]
    batch = [c for c in a if c in b and c in later]
    inner = [c for c in a if c in b and c not in later]
    rows, columns = [c for c in a if c not in b], [c for c in b if c not in a]

    def arranged(array: Array, letters: str, order: list[str]) -> Array:
        array = xp.permute_dims(array, tuple(letters.index(c) for c in order))
        return xp.broadcast_to(array, tuple(sizes[c] for c in order))

    def size(group: list[str]) -> int:
        return math.prod(sizes[c] for c in group)

    left = xp.reshape(arranged(x, a, batch + rows + inner), (size(batch), size(rows), size(inner)))
    right = xp.reshape(
        arranged(y, b, batch + inner + columns), (size(batch), size(inner), size(columns))
    )
    result = batch + rows + columns
    return xp.reshape(xp.matmul(left, right), tuple(sizes[c] for c in result)), "".join(result)
