"""`hubtool zoo`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import hubtool
from hubtool.cli.output import (
    hub_option,
    json_option,
    print_json,
    print_table,
    progress,
    working,
)

if TYPE_CHECKING:
    from hubtool.publish import Published

__all__ = ["zoo"]


@click.group(epilog="Example: hubtool zoo fetch resnet34-v1")
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


@zoo.command(epilog="Example: hubtool zoo fetch resnet34-v1 resnet34.onnx")
@click.argument("name")
@click.argument("target", required=False)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--hub", metavar="HUB", help="Where the zoo is: HF_ENDPOINT or hf by default.")
def fetch(name: str, target: str | None, hub: str | None, overwrite: bool) -> None:
    """Download the zoo's NAME to the file TARGET (./NAME.onnx), checked against its sha256."""
    from hubtool import zoo as room

    target = target or f"{name}.onnx"
    with progress() as tell:
        model = room.fetch(name, target, hub=hub, overwrite=overwrite, progress=tell)
    click.echo(f"{target}  {model.bytes:,} bytes, sha256 {model.sha256}")


@zoo.command(epilog="Example: hubtool zoo publish resnet18-v1 resnet34-v1 --to axon --hub hf")
@click.argument("names", nargs=-1, required=True)
@click.option("--to", metavar="NAMESPACE", required=True, help="Whose models they become.")
@click.option("--from", "files", metavar="FILE", multiple=True, help="An ONNX file at hand.")
@hub_option
@json_option
@click.pass_context
def publish(
    context: click.Context,
    names: tuple[str, ...],
    to: str,
    files: tuple[str, ...],
    hub: str | None,
    as_json: bool,
) -> None:
    """Publish the zoo's NAMES: fetch, convert, card and push, one repository a model.

    Files given with --from are known by their sha256 and not fetched. What an interrupted run had
    done is not done again.
    """
    from dataclasses import asdict

    with progress() as tell:
        rows = hubtool.publish_zoo(names, to=to, hub=hub, files=files, progress=tell)
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        columns = ("model", "status", "difference", "seconds", "revision", "url")
        print_table(columns, [_line(row) for row in rows], right="difference seconds")
    for row in rows:
        if row.error:
            click.echo(f"{row.name}: {row.error}", err=True)
    if any(row.error for row in rows):
        context.exit(1)


def _line(row: Published) -> tuple[str, ...]:
    if row.error:
        return row.name, "failed", "", "", "", ""
    difference = "not verified" if row.difference is None else f"{row.difference:.1e}"
    status = "published" if row.changed else "was there"
    return row.name, status, difference, f"{row.seconds:.1f}", str(row.revision), str(row.url)
