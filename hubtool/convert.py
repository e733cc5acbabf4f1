"""An ONNX file becomes a native folder, and proves that it still computes the same.

Verification never compares a runtime with itself: our numpy backend runs the new folder, ONNX
Runtime runs the *source* file, on the same seeded inputs. Where ONNX Runtime refuses the source,
onnx's reference judges; where neither can, the report says "not verified" and why.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import hubtool
from hubtool.dtypes import is_float, numpy_dtype
from hubtool.errors import HubtoolError, InputError, UnsupportedError, VerifyError
from hubtool.formats import native
from hubtool.graph import Graph, Value
from hubtool.model import Model, check_feeds
from hubtool.ops import OPSETS, check
from hubtool.passes.drop_noops import drop_idle, drop_noops
from hubtool.passes.fold_batch_norm import fold_batch_norm
from hubtool.passes.fold_constants import fold_constants
from hubtool.passes.prune import prune

__all__ = ["TOLERANCE", "Report", "Verification", "convert"]

TOLERANCE = 1e-4
"""The largest difference that passes, as a part of the largest value of that output."""


@dataclass
class Verification:
    """How the new folder was compared with its source.

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


@dataclass
class Report:
    """What a conversion did; kept in the folder as report.json."""

    target: str
    source: dict[str, Any]
    layers: int
    operators: dict[str, int]
    parameters: int
    changes: list[str]
    verification: Verification
    seconds: float = 0.0
    hubtool: str = field(default_factory=lambda: hubtool.__version__)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        operators = ", ".join(f"{count} {name}" for name, count in self.operators.items())
        source = self.source
        lines = [
            f"source      {source['file']}  {source['size']:,} bytes, opset {source['opset']}",
            f"sha256      {source['sha256']}",
            f"layers      {self.layers}: {operators}",
            f"parameters  {self.parameters:,}",
            *(f"changed     {change}" for change in self.changes),
            f"verified    {self.verification}",
            f"written     {self.target}  ({self.seconds:.1f} s)",
        ]
        return "\n".join(lines)


def convert(
    source: Path,
    graph: Graph,
    target: Path,
    *,
    overwrite: bool = False,
    verify: bool = True,
    sample: Mapping[str, Any] | None = None,
    tolerance: float = TOLERANCE,
    force: bool = False,
    optimize: bool = False,
) -> Report:
    """Write `graph`, as read from `source`, to the folder `target`, verified.

    sample: inputs to verify on, where seeded ones make no sense. force: keep the folder although
    it differs by more than `tolerance`. optimize: fold constants and BatchNormalization for good.
    Raises UnsupportedError (with every layer that cannot run), VerifyError, WriteError; then the
    target is as it was before.
    """
    started = time.perf_counter()
    problems = check(graph)
    if problems:
        raise UnsupportedError(
            f"'{source}' cannot be converted:",
            problems=problems,
            hint="`hubtool check` shows the same list without converting.",
        )
    graph, changes = _clean(graph, optimize=optimize)
    report = Report(
        target=str(target),
        source=graph.meta["source"],
        layers=len(graph.layers),
        operators=dict(Counter(layer.op for layer in graph.layers).most_common()),
        parameters=sum(t.size for t in graph.tensors.values() if is_float(t.dtype)),
        changes=changes,
        verification=Verification("not verified", reason="it was not asked for"),
    )

    def finish(folder: Path) -> None:
        if verify:
            report.verification = _verify(source, folder, sample, tolerance)
            _judge(report.verification, force=force)
        report.seconds = round(time.perf_counter() - started, 3)
        # The folder may be published, and where it lay is nobody's business.
        kept = report.to_json() | {"target": target.name}
        text = json.dumps(kept, indent=2, ensure_ascii=False) + "\n"
        (folder / native.REPORT).write_text(text, encoding="utf-8")

    native.write(graph, target, overwrite=overwrite, check=finish)
    return report


def _clean(graph: Graph, *, optimize: bool) -> tuple[Graph, list[str]]:
    """What is saved is portable and faithful: only no-ops and what nobody reads is dropped."""
    opset = graph.meta["source"]["opset"]
    changes = list(graph.meta.get("notes", []))
    if opset != OPSETS[""]:
        changes.insert(0, f"lifted from opset {opset} to {OPSETS['']}")
    passes: list[Callable[[Graph], Graph]] = [drop_idle, prune]
    if optimize:
        passes = [fold_constants, drop_noops, fold_batch_norm, prune]
    for rewrite in passes:
        before = Counter(layer.op for layer in graph.layers)
        graph = rewrite(graph)
        gone = before - Counter(layer.op for layer in graph.layers)
        if gone:
            dropped = ", ".join(f"{count} {name}" for name, count in gone.most_common())
            changes.append(f"dropped {dropped} ({rewrite.__name__})")
    return graph, changes


def _judge(verification: Verification, *, force: bool) -> None:
    if verification.status == "failed" and not force:
        raise VerifyError(
            f"the converted model does not compute what its source does: {verification}",
            hint="Nothing was written. --force keeps it all the same; --tolerance and --sample "
            "set what is allowed and on which inputs.",
        )


def _verify(
    source: Path, folder: Path, sample: Mapping[str, Any] | None, tolerance: float
) -> Verification:
    graph = native.read(folder)
    if sample is None:
        feeds, inputs = seeded_inputs(graph), "seeded inputs"
    else:
        feeds, inputs = check_feeds(graph, sample, "numpy"), "the given sample"
    shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in feeds.items())
    verification = Verification("passed", inputs=f"{inputs} ({shapes})", tolerance=tolerance)
    try:
        verification.judge, expected = _expected(source, feeds)
    except UnjudgedError as error:
        verification.status, verification.reason = "not verified", str(error)
        return verification
    try:
        actual = Model(graph, backend="numpy").run(feeds)
    except HubtoolError as error:
        verification.status, verification.reason = "failed", str(error)
        return verification
    verification.difference, verification.reason = compare(actual, expected)
    if verification.reason or not verification.difference <= tolerance:
        verification.status = "failed"
    return verification


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


def compare(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[float, str]:
    """The largest difference, as a part of each output's largest value, and what cannot be
    expressed so: another shape or dtype, other integers or strings, NaN where there was none."""
    largest = 0.0
    for name, theirs in expected.items():
        difference, reason = _difference(actual[name], theirs)
        if reason:
            return difference, f"output '{name}' {reason}"
        largest = max(largest, difference)
    return largest, ""


def _difference(ours: Any, theirs: Any) -> tuple[float, str]:
    if isinstance(theirs, list | tuple):
        if not isinstance(ours, list | tuple) or len(ours) != len(theirs):
            return float("inf"), "is a sequence of another length"
        found = [_difference(o, t) for o, t in zip(ours, theirs, strict=True)]
        return max(found, default=(0.0, ""))
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return float("inf"), f"has shape {list(ours.shape)}, not {list(theirs.shape)}"
    if not is_float(theirs.dtype.name):
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
    scale = float(np.max(np.abs(theirs)))
    return float(np.max(np.abs(ours - theirs))) / (scale or 1.0), ""


def seeded_inputs(graph: Graph, seed: int = 0) -> dict[str, Any]:
    """Inputs to try a model with: normal floats, small integers, fair bits; a batch of one, images
    of 64 x 64 and sequences of 8 where the model leaves the size open."""
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
            guess = 1 if axis == 0 else 64 if len(value.shape) == 4 and axis > 1 else 8
            size = sizes.setdefault(dim, guess) if isinstance(dim, str) else guess
            shape.append(dim if isinstance(dim, int) else size)
        feeds[name] = _random(generator, tuple(shape), value)
    return feeds


def _random(generator: np.random.Generator, shape: tuple[int, ...], value: Value) -> Any:
    if value.dtype == "bool":
        return generator.random(shape) < 0.5
    if value.dtype.startswith(("int", "uint")):
        return generator.integers(0, 2, shape).astype(numpy_dtype(value.dtype))
    return generator.standard_normal(shape).astype(numpy_dtype(value.dtype))
