"""Whether a converted model still computes what its source does.

Never a runtime against itself: our numpy backend runs the new graph, ONNX Runtime runs the *source*
file, on the same inputs. Where ONNX Runtime refuses the source, onnx's reference judges; where
neither can, the answer is "not verified" and why.

Differences are told as a part of the largest value of an output, and that as at least `LEAST`: of
what is smaller than that, the judges' own exp and tanh keep no digits. A model that rounds to 8
bits on its way may round an element to the other side, which is a step of all that follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hubtool.dtypes import is_float, numpy_dtype
from hubtool.errors import HubtoolError, InputError
from hubtool.graph import Graph, Value
from hubtool.model import Model, check_feeds

__all__ = ["LEAST", "STEP", "TOLERANCE", "Verification", "compare", "seeded_inputs", "verify"]

TOLERANCE = 1e-4
"""The largest difference that passes, as a part of the largest value of that output."""

STEP = 0.05
"""The same for a model that is quantized."""

LEAST = 1e-2
"""The largest value of an output counts as no less than this."""

OPEN = (8, 64, 512, 16384)
"""The sizes that are tried for open axes, one after the other, until a judge takes the inputs."""

MOST_ELEMENTS = 1 << 20
"""No larger inputs than this are tried."""


@dataclass
class Verification:
    """How a new graph was compared with its source.

    status: "passed", "failed" or "not verified"; reason says why where it is not "passed".
    difference: the largest |numpy - judge| over all outputs, as a part of that output's largest
    value; None where nothing could be compared.
    """

    status: str
    judge: str = ""
    inputs: str = ""
    difference: float | None = None
    tolerance: float = TOLERANCE
    reason: str = ""

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.status}: {self.reason}"
        text = f"{self.status}: largest difference {self.difference:.1e} of the largest value"
        text += f" (tolerance {self.tolerance:.0e}), numpy against {self.judge} on {self.inputs}"
        return f"{text}; {self.reason}" if self.reason else text


def verify(
    source: Path,
    graph: Graph,
    sample: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
) -> Verification:
    """Compare a graph with the ONNX file that it was read from.

    sample: inputs by name, where seeded ones make no sense. tolerance: TOLERANCE, or STEP where the
    model is quantized, when None. Raises InputError where no inputs can be guessed.
    """
    if tolerance is None:
        tolerance = STEP if _is_quantized(graph) else TOLERANCE
    verification = Verification("not verified", tolerance=tolerance)
    feeds: dict[str, Any] = {}
    if sample is None:
        candidates, kind = _guesses(graph), "seeded inputs"
    else:
        candidates, kind = iter([check_feeds(graph, sample, "numpy")]), "the given sample"
    for feeds in candidates:
        try:
            verification.judge, expected = _expected(source, feeds)
            break
        except UnjudgedError as error:
            verification.reason = verification.reason or str(error)
    else:
        return verification
    shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in feeds.items())
    verification.inputs, verification.reason = f"{kind} ({shapes})", ""
    try:
        actual = Model(graph, backend="numpy").run(feeds)
    except HubtoolError as error:
        verification.status, verification.reason = "failed", str(error)
        return verification
    verification.difference, verification.reason = compare(
        actual, expected, steps=tolerance == STEP
    )
    within = not verification.reason and verification.difference <= tolerance
    verification.status = "passed" if within else "failed"
    return verification


def _is_quantized(graph: Graph) -> bool:
    """Whether the model rounds to few bits what it computes."""
    return any(
        "Quantize" in layer.op.replace("Dequantize", "")
        or "QLinear" in layer.op
        or any(map(_is_quantized, layer.subgraphs().values()))
        for layer in graph.layers
    )


class UnjudgedError(InputError):
    """Neither ONNX Runtime nor the reference could run the source on these inputs."""


def _expected(source: Path, feeds: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Who ran the source file, and what came out."""
    from hubtool.backends.onnxruntime import run_file, version

    try:
        return f"ONNX Runtime {version()}", run_file(source, feeds)
    except Exception as refusal:
        first = f"ONNX Runtime: {_first_line(refusal)}"
    from hubtool.formats.onnx import reference

    try:
        return f"onnx's reference {reference.version}", reference.run_file(source, feeds)
    except Exception as refusal:
        second = f"onnx's reference: {_first_line(refusal)}"
    raise UnjudgedError(
        f"neither judge could run the source on these inputs ({first}; {second}); "
        "--sample inputs.npz gives others"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def compare(
    actual: Mapping[str, Any], expected: Mapping[str, Any], *, steps: bool = False
) -> tuple[float, str]:
    """The largest difference, as a part of each output's largest value, and what cannot be
    expressed so: another shape or dtype, other integers or strings, NaN where there was none.
    With `steps` small integers may differ by a step and count as numbers."""
    largest = 0.0
    for name, theirs in expected.items():
        difference, reason = _difference(actual[name], theirs, steps)
        if reason:
            return difference, f"output '{name}' {reason}"
        largest = max(largest, difference)
    return largest, ""


def _difference(ours: Any, theirs: Any, steps: bool) -> tuple[float, str]:
    if isinstance(theirs, list | tuple):
        if not isinstance(ours, list | tuple) or len(ours) != len(theirs):
            return float("inf"), "is a sequence of another length"
        found = [_difference(o, t, steps) for o, t in zip(ours, theirs, strict=True)]
        return max(found, default=(0.0, ""))
    if isinstance(theirs, dict):
        if not isinstance(ours, dict) or ours.keys() != theirs.keys():
            return float("inf"), "is a map with other keys"
        return max((_difference(ours[k], theirs[k], steps) for k in theirs), default=(0.0, ""))
    if theirs is None or ours is None:
        return (0.0, "") if ours is theirs else (float("inf"), "is there in one only")
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return float("inf"), f"has shape {list(ours.shape)}, not {list(theirs.shape)}"
    small = steps and theirs.dtype.name in ("int8", "uint8")
    if not is_float(theirs.dtype.name) and not small:
        wrong = int(np.sum(ours != theirs))
        return float(wrong > 0), f"differs in {wrong} of {theirs.size} elements" if wrong else ""
    wide = np.complex128 if theirs.dtype.kind == "c" else np.float64
    ours, theirs = ours.astype(wide), theirs.astype(wide)
    odd = ~np.isfinite(ours) | ~np.isfinite(theirs)
    if not np.array_equal(ours[odd], theirs[odd], equal_nan=True):
        return float("inf"), "has NaN or infinity in other places"
    ours, theirs = ours[~odd], theirs[~odd]
    if not theirs.size:
        return 0.0, ""
    scale = max(float(np.max(np.abs(theirs))), LEAST)
    return float(np.max(np.abs(ours - theirs))) / scale, ""


def _guesses(graph: Graph) -> Iterator[dict[str, Any]]:
    """Seeded inputs, with larger and larger sizes where the model leaves them open."""
    made: dict[str, Any] = {}
    for size in OPEN:
        feeds = seeded_inputs(graph, size=size)
        shapes = {name: np.shape(value) for name, value in feeds.items()}
        elements = sum(map(math.prod, shapes.values()))
        if shapes != made and (not made or elements <= MOST_ELEMENTS):
            yield feeds
        made = shapes


def seeded_inputs(graph: Graph, seed: int = 0, size: int = OPEN[0]) -> dict[str, Any]:
    """Inputs to try a model with: normal floats, small integers, fair bits; a batch of one, images
    of at least 64 x 64 and sequences of `size` where the model leaves the size open."""
    generator = np.random.default_rng(seed)
    sizes: dict[str, int] = {}
    feeds = {}
    for name, value in graph.free_inputs.items():
        if value.kind != "tensor" or value.shape is None or value.dtype in ("", "string"):
            raise InputError(
                f"input '{name}' is {value}: no values for it can be guessed",
                hint="Give some with --sample inputs.npz, or convert with --no-verify.",
            )
        shape = []
        for axis, dim in enumerate(value.shape):
            guess = (
                1 if axis == 0 else max(size, 64) if len(value.shape) == 4 and axis > 1 else size
            )
            known = sizes.setdefault(dim, guess) if isinstance(dim, str) else guess
            shape.append(dim if isinstance(dim, int) else known)
        feeds[name] = _random(generator, tuple(shape), value)
    return feeds


def _random(generator: np.random.Generator, shape: tuple[int, ...], value: Value) -> Any:
    if value.dtype == "bool":
        return generator.random(shape) < 0.5
    if value.dtype.startswith(("int", "uint")):
        return generator.integers(0, 2, shape).astype(numpy_dtype(value.dtype))
    return generator.standard_normal(shape).astype(numpy_dtype(value.dtype))
