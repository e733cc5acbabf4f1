"""`hubtool info`"""

from __future__ import annotations

import click

import hubtool
from hubtool.cli.output import json_option, print_json, print_table, shape_option

__all__ = ["info"]


@click.command(epilog="Example: hubtool info resnet34 --shape data=8x3x224x224")
@click.argument("model")
@shape_option
@json_option
def info(model: str, shapes: tuple[tuple[str, tuple[int, ...]], ...], as_json: bool) -> None:
    """Show the layers of MODEL (a folder or an .onnx file) with their totals.

    Multiply-adds are those of convolutions and matrix products, one multiplication and one
    addition counted as one. No weight is read.
    """
    table = hubtool.info(model, dict(shapes))
    if as_json:
        print_json(table.to_json())
        return
    columns = ("name", "operator", "output", "parameters", "multiply-adds")
    rows = [(r.name, r.op, r.shape, r.parameters, r.multiply_adds) for r in table.rows]
    total = ("total", f"{len(rows)} layers", "", table.parameters, table.multiply_adds)
    print_table(columns, [*rows, total], right="parameters multiply-adds")
    for kind, values in (("input", table.inputs), ("output", table.outputs)):
        for name, value in values.items():
            click.echo(f"{kind} {name}: {value}")
