"""An ONNX file becomes a native folder, and proves that it still computes the same (`verify`)."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import hubtool
from hubtool.errors import UnsupportedError, VerifyError
from hubtool.formats import native
from hubtool.graph import Graph, parameters
from hubtool.ops import OPSETS, check
from hubtool.passes.drop_noops import drop_idle, drop_noops
from hubtool.passes.fold_batch_norm import fold_batch_norm
from hubtool.passes.fold_constants import fold_constants
from hubtool.passes.prune import prune
from hubtool.verify import Verification, verify

__all__ = ["Report", "convert"]


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
    verified: bool = True,
    sample: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    force: bool = False,
    optimize: bool = False,
) -> Report:
    """Write `graph`, as read from `source`, to the folder `target`, verified.

    verified: whether to compare it with its source; sample, tolerance: see `verify`. force: keep
    the folder although it differs by more. optimize: fold constants and BatchNormalization.
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
        parameters=parameters(graph),
        changes=changes,
        verification=Verification("not verified", reason="it was not asked for"),
    )

    def finish(folder: Path) -> None:
        if verified:
            report.verification = verify(source, native.read(folder), sample, tolerance)
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
