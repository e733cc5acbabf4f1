"""`hubtool bench`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import hubtool
from hubtool.cli.output import (
    json_option,
    print_json,
    print_table,
    printable,
    shape_option,
    telling,
)

__all__ = ["bench"]


class Listed(click.ParamType[tuple[Any, ...]]):
    """`one,two,three`: words, or numbers of at least 1."""

    def __init__(self, numbers: bool = False) -> None:
        self.name = "N,N" if numbers else "name,name"
        self.numbers = numbers

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and int(part) > 0 if self.numbers else part for part in parts):
            self.fail(f"'{value}' is not of the form {self.name}", param, ctx)
        return tuple(dict.fromkeys(int(part) if self.numbers else part for part in parts))


@click.command(epilog="Example: hubtool bench resnet34 --batch 1,8 --peers --plot bench.svg")
@click.argument("model")
@click.option("--backends", type=Listed(), default=("all",), help="Which; all by default.")
@click.option("--batch", type=Listed(True), default=(), help="Sizes of an open first axis (1).")
@click.option("--threads", type=Listed(True), default=(), help="Each library's own by default.")
@click.option("--device", type=Listed(), default=("cpu",), help="Where: cpu, cuda, cuda:1 …")
@click.option("--precision", type=Listed(), default=("fp32",), help="fp32, tf32, fp16, bf16.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, help="So many rounds (9).")
@click.option("--peers", is_flag=True, help="ONNX Runtime and OpenVINO on the ONNX file, too.")
@shape_option
@click.option("--seed", type=int, default=0, help="Of the numbers that are fed (0).")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw to this .png, .svg or .pdf.")
@json_option
def bench(model: str, plot: Path | None, as_json: bool, shapes: Any, **wanted: Any) -> None:
    """Measure MODEL on every backend: medians of interleaved runs, memory, and whether the outputs
    agree.

    Each combination has a process of its own. A time is that of a whole run, from arrays on the
    host to arrays on the host; ratios are to the first and the fastest of the same batch, threads
    and precision. Exits with 1 if nothing could be measured.
    """
    if plot is not None:
        from hubtool.bench.picture import check

        check(plot)
    if "all" in wanted["backends"]:
        wanted["backends"] = ()
    with telling() as tell:
        found = hubtool.bench(model, shapes=dict(shapes), tell=tell, **wanted)
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
    if plot is not None and found.measured:
        found.plot(plot)
        click.echo(f"drawn: {plot}", err=True)
    if not found.measured:
        raise click.exceptions.Exit(1)


def _show(found: Any) -> None:
    """The table, and below it what could not be measured, and on what machine the rest was."""
    from hubtool.bench.machine import milliseconds, sentence

    columns = ("batch", "threads", "precision", "backend", "device", "ms", "half of them")
    numbers = ("/ first", "/ best", "peak, MiB", "difference")
    rows = [
        (
            "-" if row.batch is None else row.batch,
            row.threads or "own",
            row.precision,
            row.name,
            row.device,
            milliseconds(row.median),
            " … ".join(map(milliseconds, row.quartiles)),
            f"{row.to_first:.2f}",
            f"{row.to_best:.2f}",
            f"{row.peak / 2**20:.0f}",
            "reference" if row.reference else f"{row.difference:.1e}",
        )
        for row in found.measured
    ]
    if rows:
        print_table((*columns, *numbers), rows, right=("batch", "threads", "ms", *numbers))
    reasons = {
        (row.name, row.device, row.precision, row.status, row.reason): None
        for row in found.rows
        if row.reason
    }
    for name, device, precision, status, reason in reasons:
        what = "" if status == "measured" else f"{status}: "
        click.echo(printable(f"{name} ({device}, {precision}): {what}{reason}"))
    rounds = f"{found.rounds} round{'s' if found.rounds > 1 else ''}, interleaved"
    click.echo(f"{rounds}; seed {found.seed}; {sentence(found.machine)}")
