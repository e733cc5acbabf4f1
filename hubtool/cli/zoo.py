"""`hubtool zoo`"""

from __future__ import annotations

import click

from hubtool.cli.output import json_option, print_json, print_table, working

__all__ = ["zoo"]


@click.group(epilog="Example: hubtool zoo sketch resnet34-v1 resnet34.onnx")
def zoo() -> None:
    """The ResNets of the ONNX Model Zoo."""


@zoo.command("list", epilog="Example: hubtool zoo list --json")
@json_option
def list_(as_json: bool) -> None:
    """List the zoo's ResNets: size, and the accuracy that the zoo claims for them."""
    from dataclasses import asdict

    from hubtool.zoo import models

    if as_json:
        print_json([asdict(model) for model in models()])
        return
    rows = [(m.name, m.bytes, f"{m.top1:.2f}", f"{m.top5:.2f}", m.sha256[:12]) for m in models()]
    columns = ("name", "bytes", "top-1", "top-5", "sha256")
    print_table(columns, rows, right="bytes top-1 top-5")
    click.echo(
        "top-1 and top-5 are the zoo's claims, in percent; nothing here has measured them.",
        err=True,
    )


@zoo.command(epilog="Example: hubtool zoo sketch resnet34-v1 resnet34.onnx --seed 0")
@click.argument("name")
@click.argument("target")
@click.option("--seed", default=0, show_default=True, help="Of the random weights.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def sketch(name: str, target: str, seed: int, overwrite: bool) -> None:
    """Write an untrained look-alike of the zoo's NAME to the file TARGET.

    Structure, names and sizes are the zoo file's own; the weights are random and mean nothing.
    """
    from hubtool import zoo as room

    with working(f"sketching {name}"):
        room.sketch(name, target, seed=seed, overwrite=overwrite)
    click.echo(f"{target}  untrained look-alike of {name}, seed {seed}")
