"""torch on one device, as the interpreter needs it.

Arrays are shared with numpy where they can be, so nothing here writes into what it was given. What
layers make on the host while they run (the weights of a Resize, the places of a mask) has to cross
to the device; a run that is to be recorded once and replayed (`torch_recorded`) must not do that,
so inside `keeping()` every such constant crosses once and is then taken from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from hubtool.backends.torch_dtypes import Carried, Namespace, carried
from hubtool.backends.torch_functions import OVERRIDES
from hubtool.dtypes import BITS, CARRIERS, WIDER, numpy_dtype
from hubtool.errors import UnsupportedError

__all__ = ["HELD", "VIEWED", "Constants", "TorchSpace"]

Array = Any
Constants = dict[tuple[Any, ...], Array]
"""Tensors by dtype, shape and bytes of the arrays that they were made of."""

HELD = frozenset(dtype for dtype, bits in BITS.items() if bits >= 8)
"""The dtypes that torch has arrays of."""

VIEWED = {dtype: BITS[dtype] for dtype in HELD if dtype.startswith(("bfloat16", "float8"))}
"""The dtypes that numpy and torch each have in their own way, and the bits of the integers as
which they cross over."""


class TorchSpace:
    """torch on one device, as the interpreter needs it."""

    name = "torch"
    overrides: Mapping[str, Callable[..., Any]] = OVERRIDES
    holds_data = True
    wider: Mapping[str, str] = {**WIDER, "uint16": "int64", "uint32": "int64"}
    carriers: Mapping[str, str] = CARRIERS

    def __init__(self, device: str) -> None:
        import torch
        from array_api_compat import torch as xp

        self.torch: Any = torch
        self.xp: Any = Namespace(torch, xp)
        self.device: Any = torch.device(device)
        self.kept = threading.local()

    @contextmanager
    def keeping(self, constants: Constants) -> Iterator[None]:
        """Let every array that this thread puts inside the block be put once, into `constants`."""
        self.kept.constants = constants
        try:
            yield
        finally:
            self.kept.constants = None

    def put(self, array: np.ndarray[Any, Any]) -> Array:
        """The array as a tensor; on the CPU it is the same memory where strides allow it."""
        array = np.asarray(array)
        constants: Constants | None = getattr(self.kept, "constants", None)
        if constants is None:
            return self._moved(array)
        key = array.dtype.str, array.dtype.name, array.shape, array.tobytes()
        if key not in constants:
            constants[key] = self._moved(array)
        return constants[key]

    def _moved(self, array: np.ndarray[Any, Any]) -> Array:
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        dtype = array.dtype.name
        if dtype in CARRIERS:
            return Carried(dtype, self.put(array.astype(CARRIERS[dtype])))
        if dtype in VIEWED:
            array = array.view(f"int{VIEWED[dtype]}")
        if min(array.strides, default=0) < 0:
            array = array.copy()
        if not array.flags.writeable:
            array = np.asarray(_Unlocked(array))
        with self.torch.inference_mode(False):  # its results are told from weights by it
            tensor = self.torch.from_numpy(array)
            if dtype in VIEWED:
                tensor = tensor.view(getattr(self.torch, dtype))
            return tensor.to(self.device)

    def get(self, value: Array) -> np.ndarray[Any, Any]:
        if isinstance(value, Carried):
            return self.get(value.tensor).astype(numpy_dtype(value.dtype))
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        dtype = self.dtype_of(value)
        if dtype not in VIEWED:
            array: np.ndarray[Any, Any] = tensor.numpy()
            return array
        integer = getattr(self.torch, f"int{VIEWED[dtype]}")
        viewed: np.ndarray[Any, Any] = tensor.view(integer).numpy().view(numpy_dtype(dtype))
        return viewed

    def dtype_of(self, value: Array) -> str:
        return str(value.dtype).removeprefix("torch.")

    def cast(self, value: Array, dtype: str) -> Array:
        if isinstance(value, Carried):
            value = value.tensor
        if dtype in CARRIERS:
            return carried(self.torch, value, dtype)
        if dtype not in HELD:
            raise UnsupportedError(f"torch has no {dtype}")
        if dtype == "float8_e4m3fn":
            # It has no infinity: what rounds to more than 448 is NaN; torch would make it 448.
            wide = value if value.dtype == self.torch.float64 else value.float()
            value = self.torch.where(wide.abs() > 464, self.torch.nan, wide)
        if dtype == "float8_e8m0fnu":
            # It has powers of two only; torch would make one of 0 and of what is below it.
            value = self.torch.where(value > 0, value, self.torch.nan)
        return value.to(getattr(self.torch, dtype))


class _Unlocked:
    """A read-only array under the array interface, saying that it may be written to.

    torch warns of such arrays, and tensors cannot be read-only; this backend never writes.
    """

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        interface = array.__array_interface__
        self.array = array  # kept alive
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
