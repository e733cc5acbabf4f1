"""What commands print with: tables and JSON on stdout, a spinner and progress bars on stderr.

A table is for people and is drawn only as wide as it must be; a program takes --json, which every
listing has.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

__all__ = [
    "folder_option",
    "hub_option",
    "json_option",
    "print_json",
    "print_table",
    "printable",
    "progress",
    "shape_option",
    "telling",
    "working",
]


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The --json option, under the parameter's name `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def hub_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The --hub option."""
    return click.option(
        "--hub",
        metavar="HUB",
        help="hf (huggingface.co), a URL, embedded, or a folder. Else HUBTOOL_HUB, else "
        "HF_ENDPOINT, else embedded.",
    )(command)


def folder_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The --hub option of commands that look after a folder, under the name `folder`."""
    return click.option(
        "--hub", "folder", metavar="FOLDER", help="The hub's folder; else the embedded hub's."
    )(command)


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: str | Sequence[str] = ""
) -> None:
    """Print rows under their column names; `right` names the columns of numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numbers = right.split() if isinstance(right, str) else right
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    for row in rows:
        table.add_row(*(Text(_text(cell)) for cell in row))
    # A pipe has no width, and a table that is cut or wrapped there is of no use.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, highlight=False)
    with console.capture() as drawn:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def _text(cell: Any) -> str:
    if cell is None:
        return "?"
    return printable(f"{cell:,}" if isinstance(cell, int) else str(cell))


def printable(text: str) -> str:
    """The text, with no character that could move the cursor or colour the terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr while the block runs, on a terminal only."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def telling() -> Iterator[Callable[[str], None] | None]:
    """Like `working`, for a block that itself says what it does: gives what is to be called."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("") as status:
        yield lambda text: status.update(escape(printable(text)))


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on stderr for each file, on a terminal only; gives what is to be called with a file's
    name, the bytes done and the bytes there are. HF_HUB_DISABLE_PROGRESS_BARS=1 turns it off."""
    off = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() in ("1", "ON", "YES", "TRUE")
    if off or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:

        def tell(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = drawn.add_task(printable(name), total=total)
            drawn.update(bars[name], completed=done)

        yield tell


class Shape(click.ParamType[tuple[str, tuple[int, ...]]]):
    """`name=8x3x224x224`."""

    name = "name=AxBxC"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, tuple[int, ...]]:
        name, equals, dims = str(value).rpartition("=")
        parts = dims.split("x") if dims else []
        if not equals or not name or not all(part.isdigit() for part in parts):
            self.fail(f"'{value}' is not of the form data=8x3x224x224", param, ctx)
        return name, tuple(int(part) for part in parts)


def shape_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The --shape option, which may be repeated, under the parameter's name `shapes`."""
    return click.option(
        "--shape",
        "shapes",
        type=Shape(),
        multiple=True,
        help="Shape of an input, such as data=8x3x224x224; may be repeated.",
    )(command)
