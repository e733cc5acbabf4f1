"""`hubtool info`"""

from __future__ import annotations

from pathlib import Path

import click

import hubtool
from hubtool.cli.output import (
    hub_option,
    json_option,
    print_json,
    print_table,
    printable,
    shape_option,
)

__all__ = ["info"]


@click.command(epilog="Example: hubtool info resnet34 --shape data=8x3x224x224")
@click.argument("model")
@shape_option
@hub_option
@click.option("--revision", help="Of a model on a hub: a branch, tag or commit.")
@click.option("--backend", help="Tell which layers that backend runs apart, and why.")
@json_option
def info(
    model: str,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    hub: str | None,
    revision: str | None,
    backend: str | None,
    as_json: bool,
) -> None:
    """Show the layers of MODEL (a folder or an .onnx file) with their totals; or, where MODEL is
    an id such as axon/resnet34-v1, what a hub knows about it.

    Multiply-adds are those of convolutions and matrix products, one multiplication and one
    addition counted as one. No weight is read, and nothing is fetched but what a hub says.
    """
    from hubtool.hub.address import is_name

    on_hub = hub is not None or revision is not None
    if on_hub or (is_name(model) and not shapes and not backend and not Path(model).exists()):
        if shapes or backend:
            asked = "--shape" if shapes else "--backend"
            raise click.UsageError(
                f"{asked} is for a folder or an .onnx file: pull the model first"
            )
        _on_hub(model, hub, revision, as_json)
    else:
        _layers(model, dict(shapes), backend, as_json)


def _layers(
    model: str, shapes: dict[str, tuple[int, ...]], backend: str | None, as_json: bool
) -> None:
    table = hubtool.info(model, shapes, backend=backend)
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
    for note in table.notes or []:
        click.echo(f"{backend}: {note}")
    if table.notes == []:
        click.echo(f"{backend}: all layers run as one")


def _on_hub(name: str, hub: str | None, revision: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    about = hubtool.model_info(name, hub=hub, revision=revision)
    if as_json:
        print_json(asdict(about))
        return
    facts = {
        "model": about.name + ("  (private)" if about.private else ""),
        "url": about.url,
        "revision": about.revision,
        "modified": about.modified,
        "tags": ", ".join(about.tags),
        "downloads": str(about.downloads),
    }
    for fact, value in facts.items():
        click.echo(f"{fact:<9} {printable(value)}")
    rows = [(each["path"], each["size"], each["hash"]) for each in about.files]
    print_table(("file", "bytes", "sha256 or git oid"), rows, right="bytes")
