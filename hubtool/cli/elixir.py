"""`hubtool import` and `hubtool axon-hub`: the way from Elixir, and the file for the way there."""

from __future__ import annotations

import click

import hubtool
from hubtool.cli.output import working

__all__ = ["axon_hub", "import_"]


@click.command("import", epilog="Example: hubtool import axon.json my-model")
@click.argument("source")
@click.argument("target", required=False)
@click.option("--overwrite", is_flag=True, help="Replace a folder that exists, once all is done.")
def import_(source: str, target: str | None, overwrite: bool) -> None:
    """Turn a model from Elixir's Axon into the native folder TARGET (./<name>/ by default).

    SOURCE is the axon.json that AxonHub.export/3 wrote; its safetensors file lies beside it.
    """
    with working(f"importing {source}"):
        folder = hubtool.import_axon(source, target, overwrite=overwrite)
    click.echo(folder)


@click.command("axon-hub", epilog="Example: hubtool axon-hub lib/axon_hub.ex")
@click.argument("target", default="axon_hub.ex")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def axon_hub(target: str, overwrite: bool) -> None:
    """Write axon_hub.ex: one file with which Elixir finds, fetches and opens these models.

    It needs nothing outside OTP, Nx and Axon. TARGET is ./axon_hub.ex unless given.
    """
    click.echo(hubtool.write_axon_hub(target, overwrite=overwrite))
