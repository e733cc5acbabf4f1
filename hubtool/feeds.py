"""Files of arrays: what is fed to a model from .npy and .npz, and what it gives written there.

numpy's formats, without pickle in either direction, so that a file from a stranger is only data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from hubtool.errors import InputError, WriteError
from hubtool.files import new_file
from hubtool.graph import Graph

__all__ = ["read_arrays", "write_arrays"]

Source = str | os.PathLike[str]


def read_arrays(path: Source, graph: Graph) -> dict[str, Any]:
    """The arrays of an .npz file by name, or that of an .npy file for the graph's only input.
    Pickled objects in them are refused. Raises InputError."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            names = list(graph.free_inputs)
            if len(names) != 1:
                raise ValueError(f"the model has {len(names)} inputs: an .npz file must name them")
            return {names[0]: loaded}
        with loaded:
            return dict(loaded)
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"'{path}' cannot be read as inputs: {reason}",
            hint="Write them with numpy.save('x.npy', x) or numpy.savez('x.npz', name=x).",
        ) from None


def write_arrays(path: Source, outputs: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write outputs as .npz by name (the items of a sequence as NAME.0, NAME.1, …), or the only one
    as .npy. Raises WriteError."""
    suffix = Path(path).suffix
    if suffix not in (".npy", ".npz") or (suffix == ".npy" and len(outputs) != 1):
        raise WriteError(
            f"{len(outputs)} outputs cannot be written to '{path}'",
            hint="Name a file that ends in .npz, or in .npy for a single output.",
        )
    arrays, problems = _as_arrays(outputs)
    if problems or (suffix == ".npy" and len(arrays) != 1):
        raise WriteError(
            f"not all outputs can be written to '{path}':",
            problems=problems or ["a sequence is several arrays, which only .npz holds"],
            hint="Without --output they are shown; in Python, model.run gives them as they are.",
        )
    with new_file(Path(path), overwrite=overwrite) as stream:
        if suffix == ".npy":
            np.save(stream, next(iter(arrays.values())), allow_pickle=False)
        else:
            np.savez(stream, **arrays)


def _as_arrays(outputs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Outputs as arrays that files can hold, text as numpy's own and a sequence item by item; and
    what cannot be one."""
    arrays: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in outputs.items():
        if isinstance(value, list):
            found, inner = _as_arrays({f"{name}.{i}": item for i, item in enumerate(value)})
            arrays.update(found)
            problems += inner[:1]
        elif value is None or isinstance(value, dict):
            kind = "no value" if value is None else "a map"
            problems.append(f"output '{name}' is {kind}, and no array")
        else:
            arrays[name] = value.astype(str) if value.dtype.hasobject else value
    return arrays, problems
