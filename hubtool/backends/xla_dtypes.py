"""Element types of fewer than 8 bits on XLA: carried in a wider one, with their name.

    int4, int2        in int8       (of the lowest bits, as they wrap around)
    uint4, uint2      in uint8
    float4, float6    in float32    (rounded to nearest even, and to the largest where beyond)

jax has arrays of most of them, but XLA's compiler for the CPU ends the process over some (a
concatenation of int2), so none is ever shown to it. The interpreter hands an operator the wider
array, and casts what comes out: a value of such a type exists between layers only. `Namespace` is
jax.numpy with what the operators ask for beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from hubtool.dtypes import BITS, CARRIERS, TINY_FLOATS

__all__ = ["Carried", "Namespace", "carried", "registered"]

Array = Any


@dataclass(frozen=True, eq=False)
class Carried:
    """An array that stands for one of another dtype."""

    dtype: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)


@cache
def registered(jax: Any) -> type[Carried]:
    """Carried, which jax.jit then takes and returns like an array."""
    jax.tree_util.register_dataclass(Carried, data_fields=["array"], meta_fields=["dtype"])
    return Carried


def carried(jnp: Any, array: Array, dtype: str) -> Carried:
    """The array cast to a dtype of CARRIERS."""
    if dtype in TINY_FLOATS:
        return Carried(dtype, _rounded(jnp, array.astype(jnp.float32), *TINY_FLOATS[dtype]))
    bits = BITS[dtype]
    low = 0 if dtype.startswith("u") else 1 << (bits - 1)
    wrapped = ((array.astype(jnp.int64) + low) & ((1 << bits) - 1)) - low
    return Carried(dtype, wrapped.astype(CARRIERS[dtype]))


def _rounded(jnp: Any, x: Array, lowest: int, mantissa: int, largest: float) -> Array:
    """The nearest number of so few bits; the even one of two as near."""
    _, exponent = jnp.frexp(x)  # x = m · 2^exponent with m in [1/2, 1)
    step = jnp.ldexp(jnp.ones_like(x), jnp.maximum(exponent - 1, lowest) - mantissa)
    whole = jnp.nan_to_num(jnp.round(x / step) * step, nan=-0.0, posinf=jnp.inf, neginf=-jnp.inf)
    return jnp.clip(whole, -largest, largest)


class Namespace:
    """jax.numpy as an array-API namespace, and the error function."""

    def __init__(self, jax: Any) -> None:
        self.jnp = jax.numpy
        self.erf = jax.lax.erf

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.jnp, name)
        setattr(self, name, value)
        return value
