"""The medians as bars: a panel for each batch and number of threads. The only door to matplotlib.

matplotlib and not a writer of our own: it measures text, and writes .png, .svg and .pdf. It is an
extra, and its global state is not touched: a Figure of its own, no pyplot.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from hubtool.bench.machine import milliseconds, sentence
from hubtool.errors import BackendError, InputError
from hubtool.files import new_file

if TYPE_CHECKING:
    from hubtool.bench import Bench, Row

__all__ = ["check", "draw"]

FORMATS = ("png", "svg", "pdf")
OURS, PEER = "#4c78a8", "#b8b8b8"
LEGEND = (
    "Blue: hubtool's backends; grey: the library on the ONNX file itself; a line: half of the"
    " rounds; ×: the time over the fastest's."
)


def check(path: Path) -> None:
    """Whether a picture can be drawn to this path. Raises BackendError, InputError."""
    if find_spec("matplotlib") is None:
        raise BackendError(
            "a picture needs matplotlib, which is not installed",
            hint="`pip install 'hubtool[plot]'` installs it; --json gives the numbers.",
        )
    if path.suffix[1:] not in FORMATS:
        raise InputError(
            f"'{path}' does not say which kind of picture",
            hint=f"Name a file that ends in .{', .'.join(FORMATS)}.",
        )


def draw(bench: Bench, path: Path) -> None:
    """Write the picture; see Bench.plot."""
    check(path)
    if not bench.measured:
        raise InputError("nothing was measured, so there is nothing to draw")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = [
        list(rows)
        for _, rows in groupby(bench.measured, lambda r: (r.batch, r.threads, r.precision))
    ]
    columns = 1 if len(panels) <= 3 else 2
    panels += [[]] * (-len(panels) % columns)
    lines = [panels[at : at + columns] for at in range(0, len(panels), columns)]
    heights = [0.27 * max(map(len, line)) + 0.5 for line in lines]
    note = fill(f"{LEGEND} {bench.rounds} rounds. {sentence(bench.machine)}", 100 * columns)
    around = 0.5 + 0.16 * (1 + note.count("\n"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "hubtool", "font.size": 8.5}):
        figure = Figure(figsize=(7 * columns, sum(heights) + around), layout="constrained")
        figure.suptitle(f"{bench.model}: median time of a run, ms", fontsize=11)
        figure.supxlabel(note, fontsize=7, color="#555555", x=0.01, ha="left")
        axes = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights)
        for axis, rows in zip(axes.flat, panels, strict=True):
            _panel(axis, rows)
        with new_file(path, overwrite=True) as stream:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(stream, format=path.suffix[1:], dpi=160, metadata=metadata)


def _panel(axis: Any, rows: list[Row]) -> None:
    """Bars from the fastest to the slowest; a line tells where half of the rounds lie."""
    if not rows:
        axis.set_axis_off()
        return
    rows = sorted(rows, key=lambda row: row.median or 0)
    times = [1e3 * (row.median or 0) for row in rows]
    colors = [PEER if row.peer else OURS for row in rows]
    places = range(len(rows))
    spread = [1e3 * abs(q - (row.median or 0)) for row in rows for q in row.quartiles or (0, 0)]
    axis.barh(
        places,
        times,
        height=0.7,
        color=colors,
        xerr=(spread[::2], spread[1::2]),
        error_kw={"ecolor": "#222222", "elinewidth": 1},
    )
    axis.set_yticks(places, [_label(row) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    reach = max(time + up for time, up in zip(times, spread[1::2], strict=True))
    for place, (row, time) in enumerate(zip(rows, times, strict=True)):
        wrong = "  (its outputs differ)" if row.reason else ""
        axis.text(
            time + spread[2 * place + 1] + 0.01 * reach,
            place,
            f"{milliseconds(time / 1e3, 3)}  ×{row.to_best:.2f}{wrong}",
            va="center",
        )
    axis.set_xlim(0, 1.3 * reach)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(left=False)
    threads = f"threads {rows[0].threads}" if rows[0].threads else "each library's own threads"
    axis.set_title(f"batch {rows[0].batch}, {threads}, {rows[0].precision}", loc="left", fontsize=9)


def _label(row: Row) -> str:
    where = "" if row.device == "cpu" else f", {row.device}"
    return f"{row.name}{where}"
