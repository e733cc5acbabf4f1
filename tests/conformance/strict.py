"""array_api_strict as a space: it refuses whatever the array API standard does not promise."""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np

from hubtool.graph import Graph
from hubtool.interpreter import HostSpace, Program

__all__ = ["DTYPES", "StrictSpace", "strict"]

DTYPES = frozenset(
    f"{kind}{bits}"
    for kind, sizes in (("int", (8, 16, 32, 64)), ("uint", (8, 16, 32, 64)), ("float", (32, 64)))
    for bits in sizes
) | {"bool", "complex64", "complex128", "string"}
"""The dtypes that the standard has, and text, which never leaves the host."""


class StrictSpace(HostSpace):
    """array_api_strict, as the interpreter sees it."""

    name = "strict"

    def __init__(self) -> None:
        self.xp: Any = array_api_strict

    def put(self, array: np.ndarray) -> Any:
        return array_api_strict.asarray(array)

    def get(self, value: Any) -> np.ndarray:
        return np.from_dlpack(value)

    def dtype_of(self, value: Any) -> str:
        return str(value.dtype).rpartition(".")[2]

    def cast(self, value: Any, dtype: str) -> Any:
        return array_api_strict.astype(value, getattr(array_api_strict, dtype))


def strict(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    """Run the definitions as they are written, without passes and overrides."""
    space = StrictSpace()

    def put(value: Any) -> Any:
        if isinstance(value, list):
            return [*map(put, value)]
        return value if value is None or value.dtype == object else space.put(value)

    def get(value: Any) -> Any:
        if isinstance(value, list):
            return [*map(get, value)]
        return value if value is None or isinstance(value, np.ndarray | dict) else space.get(value)

    made = Program(graph, space).run({name: put(value) for name, value in feeds.items()})
    return {name: get(value) for name, value in made.items()}
