"""`hubtool export`"""

from __future__ import annotations

from typing import Any

import click

import hubtool
from hubtool.cli.output import hub_option, working

__all__ = ["export"]

FORMATS = ("onnx", "livemd", "axon", "transformers")


@click.command(epilog="Example: hubtool export resnet34 --to livemd")
@click.argument("model")
@click.argument("target", required=False)
@click.option("--to", type=click.Choice(FORMATS), help="The form; else by TARGET's suffix.")
@click.option("--opset", type=int, help="ONNX: the lowest that can say the model, unless given.")
@click.option(
    "--external/--inline",
    default=None,
    help="ONNX: weights beside the file or in it; by default beside it only past 2 GB.",
)
@click.option("--overwrite", is_flag=True, help="Replace the target if it exists.")
@click.option("--revision", help="Of a model on a hub: a branch, tag or commit.")
@hub_option
def export(model: str, target: str | None, **options: Any) -> None:
    """Write MODEL (a folder, an .onnx file, or an id on a hub) in another form.

    onnx: an ONNX file (.onnx). livemd: a Livebook notebook that builds it in plain Axon calls
    (.livemd). axon: the same as an Elixir module (.ex). transformers: a folder that
    AutoModelForImageClassification opens, for ResNets that fit. `hubtool check --for axon` says
    beforehand what cannot be said. Without TARGET, it is named after the model.
    """
    with working(f"exporting {model}"):
        done = hubtool.export(model, target, **options)
    click.echo(f"{done.target}  {done.note}")
