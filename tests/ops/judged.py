"""Single operators of com.microsoft on every array library, and in ONNX Runtime.

A table maps an operator to its cases. Each is (inputs, attributes, wanted), and `wanted` is a
tuple of what must come out, or, where ONNX Runtime is the judge, how many outputs to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def
from ops.conftest import KNOWN, SPACES, alone, runtime, single

from hubtool.meta import MetaSpace
from hubtool.ops import load_ops

Inputs = dict[str, Any]
Attrs = dict[str, Any]
Table = dict[str, list[tuple[Inputs, Attrs, Any]]]

SHAPED_BY_DATA = {"com.microsoft.DynamicTimeWarping"}

TOLERANCES = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-4, "float64": 1e-9}


def everywhere(table: Table) -> list[Any]:
    """(space, op, inputs, attrs, wanted) for each case, on each library that knows its dtypes."""
    return [
        pytest.param(space, f"com.microsoft.{name}", *case, id=f"{label}-{name}-{number}")
        for label, space in SPACES.items()
        for name, cases in table.items()
        for number, case in enumerate(cases)
        if label == "numpy" or _dtypes(case[0]) <= KNOWN[label]
    ]


def once(table: Table) -> list[Any]:
    """(op, inputs, attrs, how many outputs) for each case whose shapes follow from its inputs'."""
    return [
        pytest.param(op, inputs, attrs, count, id=f"{name}-{number}")
        for name, cases in table.items()
        for number, (inputs, attrs, wanted) in enumerate(cases)
        if (op := f"com.microsoft.{name}") not in SHAPED_BY_DATA
        for count in [wanted if isinstance(wanted, int) else len(wanted)]
    ]


def kernels() -> set[str]:
    """The operators that ONNX Runtime's CPU provider has."""
    return {
        kernel.op_name
        for kernel in get_all_opkernel_def()
        if (kernel.provider, kernel.domain) == ("CPUExecutionProvider", "com.microsoft")
    }


def _dtypes(inputs: Inputs) -> set[str]:
    flat = [y for x in inputs.values() for y in (x if isinstance(x, list) else [x])]
    return {x.dtype.name for x in flat if x is not None}


def made_by(space: Any, op: str, inputs: Inputs, attrs: Attrs, outputs: int) -> list[np.ndarray]:
    """What hubtool makes on a space, as numpy."""
    made = alone(op, _on(space, op, inputs), attrs, outputs, space)
    return [y if isinstance(y, np.ndarray) else space.get(y) for y in made]


def shapes(op: str, inputs: Inputs, attrs: Attrs, outputs: int) -> list[tuple[str, Any]]:
    """The outputs' dtypes and shapes as they follow from those of the inputs."""
    space = MetaSpace()
    made = alone(op, _on(space, op, inputs), attrs, outputs, space)
    made = [space.put(y) if isinstance(y, np.ndarray) else y for y in made]
    return [(y.dtype, tuple(y.shape)) for y in made]


def _on(space: Any, op: str, inputs: Inputs) -> Inputs:
    """The inputs as the space's arrays, but what makes shapes, and texts."""
    known = load_ops()[op]

    def put(name: str, x: Any) -> Any:
        if isinstance(x, list):
            return [put(name, item) for item in x]
        at_hand = x is None or name in known.host or (_is_text(x) and space.name != "meta")
        return x if at_hand else space.put(x)

    return {name: put(name, x) for name, x in inputs.items()}


def by_runtime(op: str, inputs: Inputs, attrs: Attrs, dtypes: list[str]) -> list[np.ndarray]:
    """What ONNX Runtime makes of it; `dtypes` are those of the outputs."""
    order = [inputs.get(formal.name) for formal in load_ops()[op].inputs]
    while order[-1] is None:
        order.pop()
    named = {f"out{i}": dtype for i, dtype in enumerate(dtypes)}
    domain, _, name = op.rpartition(".")
    shown = [np.zeros(x.shape, bool) if _is_text(x) else x for x in order]
    model = single(name, shown, named, attrs, domain)
    for entry in model.graph.input:
        if _is_text(order[int(entry.name.removeprefix("in"))]):
            entry.type.tensor_type.elem_type = onnx.TensorProto.STRING
    return runtime(model, order)


def _is_text(x: np.ndarray | None) -> bool:
    return x is not None and x.dtype == object


def assert_same(made: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    """Dtypes and shapes equal, floats close."""
    for ours, theirs in zip(made, wanted, strict=True):
        assert (ours.dtype.name, ours.shape) == (theirs.dtype.name, theirs.shape)
        tolerance = TOLERANCES.get(ours.dtype.name, 0)
        np.testing.assert_allclose(
            ours.astype(np.float64), theirs.astype(np.float64), rtol=tolerance, atol=tolerance / 10
        )
