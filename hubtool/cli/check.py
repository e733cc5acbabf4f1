"""`hubtool check`"""

from __future__ import annotations

import click

import hubtool
from hubtool.cli.output import json_option, print_json, working

__all__ = ["check"]


@click.command(epilog="Example: hubtool check resnet34 --for axon")
@click.argument("model")
@click.option(
    "--for",
    "target",
    type=click.Choice(("axon", "transformers")),
    help="List what cannot be exported there instead.",
)
@json_option
@click.pass_context
def check(ctx: click.Context, model: str, target: str | None, as_json: bool) -> None:
    """List all that stops MODEL (an .onnx file or a folder) from being converted or run.

    Every problem is named with its layer; a folder's files are compared with their sha256 too.
    Exit code 1 where there is any.
    """
    with working(f"checking {model}"):
        problems = hubtool.check(model, target=target)
    if as_json:
        print_json({"model": model, "problems": problems})
    else:
        click.echo("\n".join(problems) or f"{model}: no problem found")
    ctx.exit(1 if problems else 0)
