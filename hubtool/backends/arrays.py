"""Arrays of any library: whose they are, where they sit, and how they come to numpy.

DLPack (https://dmlc.github.io/dlpack/latest/python_spec.html) tells the device of an array without
importing its library, and shares its memory. What sits on the host is shared; what sits elsewhere
is moved only where somebody asked for it by name (`hubtool.transfer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hubtool.dtypes import DTYPES, numpy_dtype

__all__ = ["described", "device_of", "host", "library", "owned", "shared"]

DEVICES = {
    1: "cpu",
    2: "cuda",
    3: "cpu",
    7: "vulkan",
    8: "metal",
    10: "rocm",
    13: "cuda",
    14: "xpu",
}
"""DLPack's numbers of devices; pinned memory is the host's."""


def library(value: Any) -> str:
    """The package that an array is of: "numpy", "torch", "jax", "onnxruntime", …"""
    name = type(value).__module__.partition(".")[0]
    return "jax" if name == "jaxlib" else name


def device_of(value: Any) -> str:
    """Where an array sits: "cpu", "cuda:0"; the host's first memory is "cpu", a second "cpu:1".
    What does not say is taken to be on the host."""
    if library(value) == "jax":  # by DLPack, every memory of the host is its first
        name = str(value.device)
        return "cpu" if name == "cpu:0" else name
    if hasattr(value, "__dlpack_device__"):
        try:
            kind, index = value.__dlpack_device__()
        except (RuntimeError, ValueError, BufferError, TypeError):
            return str(getattr(value, "device", "cpu"))
        name = DEVICES.get(int(kind), f"dlpack:{int(kind)}")
        return name if name == "cpu" and index == 0 else f"{name}:{index}"
    return "cpu"


def described(value: Any) -> tuple[str, tuple[int, ...]]:
    """An array's element type, by hubtool's name, and its shape."""
    if library(value) == "onnxruntime":
        return DTYPES[value.element_type()], tuple(value.shape())
    dtype = "string" if str(value.dtype) == "object" else str(value.dtype).rpartition(".")[2]
    return dtype, tuple(value.shape)


def shared(value: Any, dtype: str = "") -> Any:
    """An array on the host as numpy's, in the same memory; lists and numbers in that dtype.

    Raises TypeError where it is no array.
    """
    if isinstance(value, np.ndarray):
        return value.astype(object) if value.dtype.kind in "UT" else value
    if isinstance(value, list | tuple | int | float | bool | str):
        return np.asarray(value, numpy_dtype(dtype) if dtype else None)
    return host(value)


def host(value: Any) -> Any:
    """An array as numpy's, moved to the host where it sits elsewhere. TypeError if it is none."""
    if library(value) == "torch":
        return value.detach().cpu().resolve_conj().resolve_neg().numpy()
    if library(value) == "onnxruntime":
        return value.numpy()
    if hasattr(value, "__array__"):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value, device="cpu")
    raise TypeError(f"{type(value).__name__} has neither __array__ nor __dlpack__")


def owned(value: Any, given: Sequence[np.ndarray[Any, Any]]) -> Any:
    """A value of numpy's in memory of its own: neither a feed's nor a weight's, which is known by
    being read-only."""
    if isinstance(value, list):
        return [owned(item, given) for item in value]
    if not isinstance(value, np.ndarray):
        return value
    shared = not value.flags.writeable or any(np.may_share_memory(value, feed) for feed in given)
    return value.copy() if shared else value
