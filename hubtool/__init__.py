"""hubtool: ONNX models as native layer graphs: convert, run on any backend, publish, find.

    report = hubtool.convert("resnet34.onnx", "resnet34")
    model = hubtool.load("resnet34")
    logits = model(x)

Every name here is imported when it is first used, so that `import hubtool` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubtool.api import (
        backends,
        check,
        classify,
        convert,
        export,
        info,
        load,
        read,
        run,
        save,
    )
    from hubtool.errors import (
        BackendError,
        HubtoolError,
        InputError,
        ReadError,
        RunError,
        UnsupportedError,
        VerifyError,
        WriteError,
    )
    from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value
    from hubtool.model import Model, default_backend, set_default_backend

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Graph",
    "HubtoolError",
    "InputError",
    "Layer",
    "Model",
    "ReadError",
    "RunError",
    "Tensor",
    "TensorRef",
    "UnsupportedError",
    "Value",
    "VerifyError",
    "WriteError",
    "backends",
    "check",
    "classify",
    "convert",
    "default_backend",
    "export",
    "info",
    "load",
    "read",
    "run",
    "save",
    "set_default_backend",
]

_HOMES = {
    "hubtool.api": (
        "backends",
        "check",
        "classify",
        "convert",
        "export",
        "info",
        "load",
        "read",
        "run",
        "save",
    ),
    "hubtool.errors": (
        "BackendError",
        "HubtoolError",
        "InputError",
        "ReadError",
        "RunError",
        "UnsupportedError",
        "VerifyError",
        "WriteError",
    ),
    "hubtool.graph": ("Graph", "Layer", "Tensor", "TensorRef", "Value"),
    "hubtool.model": ("Model", "default_backend", "set_default_backend"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hubtool' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`hubtool.convert` is the function, although its module bears that name too: what the import
    of a submodule would set here is not set where a public name stands."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOME):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
