"""The one door to the C++ engine: a shared library beside this package, called through ctypes.

The library tells its own layout (`hubtool_layout`): which fields a Step has, in which order, and
the numbers of its enums. So nothing of plan.h is written a second time here; what Python fills is
a numpy structured array of the very same bytes. ctypes releases the GIL while the engine works.

HUBTOOL_NATIVE_LIBRARY names another file than the one beside the package (a build with a
sanitizer, say); HUBTOOL_NATIVE_ISA forces an instruction set.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hubtool.errors import BackendError

__all__ = [
    "STEP",
    "VERSION",
    "Plan",
    "Pool",
    "code",
    "fits",
    "has_bf16",
    "isa",
    "isas",
    "layout",
    "pack",
    "packed",
    "path",
    "reason",
    "step_dtype",
]

Array = np.ndarray[Any, Any]

VERSION = 1
"""The version of the layout that lower.py writes."""

SUFFIXES = (".so", ".dylib", ".dll")

P, I64, INT, TEXT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_char_p
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "hubtool_layout": (TEXT, ()),
    "hubtool_isas": (TEXT, ()),
    "hubtool_bf16": (INT, (TEXT,)),
    "hubtool_packed": (I64, (TEXT, P)),
    "hubtool_pack": (None, (TEXT, P, P, P, INT)),
    "hubtool_fits": (INT, (TEXT, P)),
    "hubtool_pool": (P, (INT,)),
    "hubtool_pool_free": (None, (P,)),
    "hubtool_plan": (P, (TEXT, P, I64, I64, P, P)),
    "hubtool_plan_free": (None, (P,)),
    "hubtool_run": (INT, (P, P, P, P)),
}
"""The C functions: what they return and what they take."""


def path() -> Path | None:
    """The library's file: the one that HUBTOOL_NATIVE_LIBRARY names, or the one beside this."""
    named = os.environ.get("HUBTOOL_NATIVE_LIBRARY")
    if named:
        return Path(named)
    here = Path(__file__).parent
    found = [file for file in sorted(here.glob("_engine*")) if file.suffix in SUFFIXES]
    return found[0] if found else None


def reason() -> str | None:
    """Why the engine cannot be used, None if it can."""
    file = path()
    if file is None:
        return "the C++ engine is not built here; `pip install .` in the sources builds it"
    loaded = _load(str(file))
    return loaded if isinstance(loaded, str) else None


@cache
def _load(file: str) -> ctypes.CDLL | str:
    """The library with its functions declared, or why it cannot be used."""
    try:
        library = ctypes.CDLL(file)
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, list(arguments)
    except (OSError, AttributeError) as error:
        return f"the C++ engine cannot be loaded: {error}"
    version = json.loads(library.hubtool_layout())["version"]
    if version != VERSION:
        return f"{file} has layout {version}, this hubtool needs {VERSION}; build it anew"
    return library


def _engine() -> ctypes.CDLL:
    file = path()
    loaded = _load(str(file)) if file else None
    if not isinstance(loaded, ctypes.CDLL):
        raise BackendError(
            f"backend 'native' is not available: {reason()}",
            hint="Build the engine, or choose another backend.",
        )
    return loaded


@cache
def _layout_of(file: str) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(_engine().hubtool_layout())
    return described


def layout() -> dict[str, Any]:
    """The fields of a Step and of a View, and the names behind every number, as plan.h has them."""
    return _layout_of(str(path()))


@cache
def _step_dtype(view: tuple[str, ...], step: tuple[str, ...]) -> np.dtype[Any]:
    one = np.dtype([(field, "<i8") for field in view])
    return np.dtype(
        [
            *((field, "<i8") for field in step),
            *((operand, one) for operand in "xyz"),
            *((number, "<f8") for number in "abd"),
        ]
    )


def step_dtype() -> np.dtype[Any]:
    """A Step as numpy sees it."""
    fields = layout()
    return _step_dtype(tuple(fields["view"]), tuple(fields["step"]))


STEP = step_dtype
"""The numpy dtype of a Step, made when it is first asked for."""


def code(table: str, name: str) -> int:
    """The number behind a name of one of the layout's tables ("kinds", "activations", …)."""
    names: list[str] = layout()[table]
    return names.index(name)


def isas() -> list[str]:
    """The instruction sets that this machine can run, best first."""
    listed: bytes = _engine().hubtool_isas()
    return listed.decode().split(",")


def isa() -> str:
    """The best instruction set usable here, or the one that HUBTOOL_NATIVE_ISA asks for."""
    usable, asked = isas(), os.environ.get("HUBTOOL_NATIVE_ISA")
    if asked and asked not in usable:
        raise BackendError(
            f"HUBTOOL_NATIVE_ISA is '{asked}', which cannot be used here",
            hint=f"Usable on this machine: {', '.join(usable)}.",
        )
    return asked or usable[0]


def has_bf16(isa: str) -> bool:
    """Whether that instruction set multiplies bfloat16 numbers."""
    return bool(_engine().hubtool_bf16(isa.encode()))


def _one(step: Any) -> Array:
    """A single step in memory of its own, for a call."""
    return np.ascontiguousarray(step, dtype=step_dtype()).reshape(1)


def packed(isa: str, step: Any) -> int:
    """The bytes that the packed weights of a convolution's step take."""
    one = _one(step)
    return int(_engine().hubtool_packed(isa.encode(), one.ctypes.data))


def fits(isa: str, step: Any) -> bool:
    """Whether the step's algorithm and variant can do it."""
    one = _one(step)
    return bool(_engine().hubtool_fits(isa.encode(), one.ctypes.data))


def pack(isa: str, step: Any, W: Array, to: Array, threads: int) -> None:
    """Pack W [M, C/groups, kh, kw] for the step into `to`, which has `packed(isa, step)` bytes."""
    one, W = _one(step), np.ascontiguousarray(W, np.float32)
    if to.nbytes < packed(isa, one) or not to.flags.c_contiguous:
        raise ValueError(f"{to.nbytes} bytes are too few for the packed weights")
    _engine().hubtool_pack(isa.encode(), one.ctypes.data, W.ctypes.data, to.ctypes.data, threads)


class Pool:
    """Threads that plans share."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._engine = _engine()
        self._handle = self._engine.hubtool_pool(threads)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._engine.hubtool_pool_free(self._handle)


class Plan:
    """Steps with what they need: ready to run, by several threads at once if need be.

    weights: the packed ones, uint8 at a multiple of 64; they and the pool are kept alive.
    """

    def __init__(self, isa: str, steps: Array, arena: int, weights: Array, pool: Pool) -> None:
        if weights.size and weights.ctypes.data % 64:
            raise ValueError("the packed weights do not lie at a multiple of 64 bytes")
        self._engine, self._kept = _engine(), (weights, pool)
        steps = np.ascontiguousarray(steps, dtype=step_dtype())
        self.steps = len(steps)
        self._wanted = {where: _reached(steps, where) for where in ("input", "output")}
        self._handle = self._engine.hubtool_plan(
            isa.encode(),
            steps.ctypes.data,
            len(steps),
            arena,
            weights.ctypes.data if weights.size else None,
            pool._handle,
        )
        if not self._handle:
            raise BackendError("the C++ engine does not take this plan")

    def run(
        self, inputs: Sequence[Array], outputs: Sequence[Array], seconds: Array | None = None
    ) -> None:
        """Compute the outputs, arrays of float32 that are filled; `seconds` gets the time of each
        step. Raises MemoryError where the arena cannot be had."""
        given = [np.ascontiguousarray(array) for array in inputs]
        result = self._engine.hubtool_run(
            self._handle,
            self._pointers(given, "input"),
            self._pointers(outputs, "output"),
            None if seconds is None else self._times(seconds),
        )
        if result:
            raise MemoryError("there is no memory for the engine's arena")

    def _times(self, seconds: Array) -> int:
        if seconds.dtype != np.float64 or seconds.size < self.steps:
            raise ValueError(f"seconds must be {self.steps} float64 numbers")
        return int(seconds.ctypes.data)

    def _pointers(self, arrays: Sequence[Array], where: str) -> Any:
        wanted = self._wanted[where]
        if len(arrays) < len(wanted):
            raise ValueError(f"{len(wanted)} arrays are wanted as {where}, not {len(arrays)}")
        for array, size in zip(arrays, wanted, strict=False):
            sound = array.dtype == np.float32 and array.flags.c_contiguous and array.nbytes >= size
            if not sound:
                raise ValueError(f"an {where} must be {size} bytes of float32 in C order")
        return (ctypes.c_void_p * max(len(arrays), 1))(*(array.ctypes.data for array in arrays))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._engine.hubtool_plan_free(self._handle)


def _reached(steps: Array, where: str) -> list[int]:
    """For each of the caller's arrays, the bytes up to the last one that the steps touch."""
    number, ends = code("where", where), dict[int, int]()
    for operand in "xyz":
        for step in steps[steps[operand]["where"] == number]:
            view = step[operand]
            n, h, w, c = (int(view[size]) for size in "nhwc")
            last = (n - 1) * view["image"] + (h - 1) * view["row"] + (w - 1) * view["pixel"] + c
            end = int(view["offset"]) + 4 * max(int(last), n * h * w * c)
            end += int(view["next"]) * (int(step["turns"]) - 1 if step["group"] else 0)
            ends[int(view["index"])] = max(end, ends.get(int(view["index"]), 0))
    return [ends.get(index, 0) for index in range(max(ends, default=-1) + 1)]
