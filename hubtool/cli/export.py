"""`hubtool export`"""

from __future__ import annotations

import click

import hubtool
from hubtool.cli.output import working

__all__ = ["export"]


@click.command(epilog="Example: hubtool export resnet34 resnet34.onnx --opset 13")
@click.argument("model")
@click.argument("target")
@click.option("--opset", type=int, help="The lowest that can say the model, unless given.")
@click.option(
    "--external/--inline",
    default=None,
    help="Weights beside the file or in it; by default beside it only past 2 GB.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def export(
    model: str, target: str, opset: int | None, external: bool | None, overwrite: bool
) -> None:
    """Write MODEL (a folder or an .onnx file) as the ONNX file TARGET."""
    with working(f"writing {target}"):
        written = hubtool.export(model, target, opset=opset, external=external, overwrite=overwrite)
    click.echo(f"{target}  opset {written}")
