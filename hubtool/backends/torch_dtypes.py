"""Element types that torch has no arrays of: carried in a wider one, with their name.

    int4, int2        in int8       (of the lowest bits, as they wrap around)
    uint4, uint2      in uint8
    float4, float6    in float32    (rounded to nearest even, and to the largest where beyond)

The interpreter hands an operator the wider array, and casts what comes out: so a value of such a
type exists between layers only. And some types torch has arrays of, but cannot take from or turn
round: `Namespace` shows it integers of the same bits instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hubtool.dtypes import BITS, CARRIERS, TINY_FLOATS

__all__ = ["Carried", "Namespace", "carried"]

Array = Any


VIEWED = ("uint16", "uint32", "uint64", "float8")
"""What torch moves as integers only, by the beginnings of their names."""


class Namespace:
    """array-api-compat's torch, which moves every type that torch has arrays of."""

    def __init__(self, torch: Any, xp: Any) -> None:
        self.torch = torch
        self.xp = xp

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.xp, name)
        setattr(self, name, value)
        return value

    def take(self, x: Array, indices: Array, *, axis: int) -> Array:
        return self._moved(x, lambda bits: self.xp.take(bits, indices, axis=axis))

    def take_along_axis(self, x: Array, indices: Array, *, axis: int) -> Array:
        return self._moved(x, lambda bits: self.xp.take_along_axis(bits, indices, axis=axis))

    def flip(self, x: Array, *, axis: Any = None) -> Array:
        return self._moved(x, lambda bits: self.xp.flip(bits, axis=axis))

    def _moved(self, x: Array, move: Callable[[Array], Array]) -> Array:
        dtype = x.dtype
        if not str(dtype).removeprefix("torch.").startswith(VIEWED):
            return move(x)
        return move(x.view(getattr(self.torch, f"int{8 * x.element_size()}"))).view(dtype)


@dataclass(frozen=True, eq=False)
class Carried:
    """A tensor that stands for one of another dtype."""

    dtype: str
    tensor: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)


def carried(torch: Any, tensor: Array, dtype: str) -> Carried:
    """The tensor cast to a dtype of CARRIERS."""
    if dtype in TINY_FLOATS:
        return Carried(dtype, _rounded(torch, tensor.float(), *TINY_FLOATS[dtype]))
    bits = BITS[dtype]
    low = 0 if dtype.startswith("u") else 1 << (bits - 1)
    wrapped = ((tensor.to(torch.int64) + low) & ((1 << bits) - 1)) - low
    return Carried(dtype, wrapped.to(getattr(torch, CARRIERS[dtype])))


def _rounded(torch: Any, x: Array, lowest: int, mantissa: int, largest: float) -> Array:
    """The nearest number of so few bits; the even one of two as near."""
    _, exponent = torch.frexp(x)  # x = m · 2^exponent with m in [1/2, 1)
    step = torch.ldexp(torch.ones_like(x), (exponent - 1).clamp(min=lowest) - mantissa)
    return torch.nan_to_num((x / step).round() * step, nan=-0.0).clamp(-largest, largest)
