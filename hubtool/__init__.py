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
        bench,
        check,
        classify,
        convert,
        export,
        features,
        import_axon,
        info,
        load,
        read,
        run,
        save,
        with_head,
        write_axon_hub,
    )
    from hubtool.errors import (
        BackendError,
        HubError,
        HubtoolError,
        InputError,
        ReadError,
        RunError,
        UnsupportedError,
        VerifyError,
        WriteError,
    )
    from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value
    from hubtool.model import Model, default_backend, set_default_backend, transfer
    from hubtool.publish import (
        create_card,
        lint_card,
        model_info,
        publish_zoo,
        pull,
        push,
        search,
        serve,
    )

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Graph",
    "HubError",
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
    "bench",
    "check",
    "classify",
    "convert",
    "create_card",
    "default_backend",
    "export",
    "features",
    "import_axon",
    "info",
    "lint_card",
    "load",
    "model_info",
    "publish_zoo",
    "pull",
    "push",
    "read",
    "run",
    "save",
    "search",
    "serve",
    "set_default_backend",
    "transfer",
    "with_head",
    "write_axon_hub",
]

_ROOMS = ("hubtool.errors", "hubtool.publish", "hubtool.graph", "hubtool.api", "hubtool.model")
"""Where the public names live; the cheapest to import first."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for room in map(import_module, _ROOMS):
            if name in room.__all__:
                value = globals()[name] = getattr(room, name)
                return value
    raise AttributeError(f"module 'hubtool' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`hubtool.convert` is the function, although its module bears that name too: what the import
    of a submodule would set here is not set where a public name stands."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
