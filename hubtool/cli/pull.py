"""`hubtool pull`"""

from __future__ import annotations

from typing import Any

import click

import hubtool
from hubtool.cli.output import hub_option, json_option, print_json, progress

__all__ = ["pull"]


@click.command(epilog="Example: hubtool pull axon/resnet34-v1 --to resnet34")
@click.argument("name", metavar="ID")
@click.argument("files", nargs=-1)
@click.option("--revision", help="A branch, tag or commit, instead of main.")
@click.option("--to", metavar="DIR", help="Make this folder of it; else it stays in the cache.")
@click.option("--overwrite", is_flag=True, help="Replace DIR, once all is there.")
@hub_option
@json_option
def pull(name: str, as_json: bool, **options: Any) -> None:
    """Fetch the model ID from a hub; prints the folder that holds it.

    FILES are names or patterns ('*.json') of those that are wanted; all by default. Every file is
    checked against its hash; what was interrupted goes on where it stopped.
    """
    with progress() as tell:
        folder = hubtool.pull(name, progress=tell, **options)
    if as_json:
        print_json({"folder": str(folder)})
    else:
        click.echo(folder)
