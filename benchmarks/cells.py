"""A cell of a benchmark, its rows and its ratios, and the Markdown that is made of cells.

ratio = median over the rounds of (seconds of the peer / seconds of native)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hubtool.bench import Row
from hubtool.bench.machine import milliseconds

__all__ = ["NATIVE", "Cell", "geometric_mean", "line", "means", "table"]

NATIVE = "native"


@dataclass
class Cell:
    """What was measured in turn, a row a variant."""

    model: str
    batch: int
    threads: int
    rows: list[Row]

    def row(self, name: str) -> Row | None:
        """The row of that name, if it was measured."""
        return next((r for r in self.rows if r.name == name and r.median is not None), None)

    def fastest(self) -> Row | None:
        """The fastest of the peers."""
        known = [r for r in self.rows if r.name != NATIVE and r.median is not None]
        return min(known, key=lambda row: row.median or 0, default=None)

    def ratio(self) -> float | None:
        """How many times faster native is than the fastest peer."""
        ours, theirs = self.row(NATIVE), self.fastest()
        return None if ours is None or theirs is None else ratio(theirs, ours)


def ratio(theirs: Row, ours: Row) -> float:
    return statistics.median(t / o for t, o in zip(theirs.seconds, ours.seconds, strict=False))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def table(cells: Sequence[Cell], names: Sequence[str]) -> str:
    """Median milliseconds as Markdown, a line a cell; the fastest is bold; then geometric means."""
    head = ["model", "batch", "threads", *names, "fastest / native", "native's error"]
    lines = [line(head), line(["---", *["--:"] * (len(head) - 1)])]
    for cell in cells:
        best = min((row.median for row in cell.rows if row.median is not None), default=0.0)
        times = [_time(cell.row(name), best) for name in names]
        ours, found = cell.row(NATIVE), cell.ratio()
        error = "-" if ours is None or ours.difference is None else f"{ours.difference:.0e}"
        told = "-" if found is None else f"{found:.2f}"
        lines.append(line([cell.model, cell.batch, cell.threads, *times, told, error]))
    lines += ["", means(cells)]
    return "\n".join([*lines, *_notes(cells)])


def line(parts: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, parts))} |"


def _time(row: Row | None, best: float) -> str:
    if row is None or row.median is None:
        return "-"
    text = milliseconds(row.median, 3) + ("*" if row.reason else "")
    return f"**{text}**" if row.median == best else text


def means(cells: Sequence[Cell]) -> str:
    """Geometric means of `fastest / native`, of every model and of all."""
    ratios: dict[str, list[float]] = {cell.model: [] for cell in cells}
    for cell in cells:
        if (found := cell.ratio()) is not None:
            ratios[cell.model].append(found)
    every = [found for some in ratios.values() for found in some]
    if not every:
        return "fastest / native: native was not measured"
    told = [f"{name} {geometric_mean(some):.2f}" for name, some in ratios.items() if some]
    return (
        f"fastest / native, geometric means: {', '.join(told)}; all {geometric_mean(every):.2f};"
        f" lowest {min(every):.2f}"
    )


def _notes(cells: Sequence[Cell]) -> list[str]:
    """The largest errors of all, and once each what could not be measured."""
    errors: dict[str, float] = {}
    for row in (row for cell in cells for row in cell.rows):
        if row.difference is not None:
            errors[row.name] = max(errors.get(row.name, 0.0), row.difference)
    told = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
    lines = [f"largest errors against float64: {told}"] if errors else []
    reasons = {
        f"{row.name}: {row.status}: {row.reason}": None
        for cell in cells
        for row in cell.rows
        if row.status != "measured"
    }
    return [*lines, *reasons]
