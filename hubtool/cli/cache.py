"""`hubtool cache`"""

from __future__ import annotations

from dataclasses import asdict

import click

from hubtool.cli.output import json_option, print_json, print_table

__all__ = ["cache"]


@click.group(epilog="Example: hubtool cache ls")
def cache() -> None:
    """The models that were pulled, kept under HUBTOOL_HOME."""


@cache.command(epilog="Example: hubtool cache ls --json")
@json_option
def ls(as_json: bool) -> None:
    """List what was pulled, from which hub, and how much room it takes."""
    from hubtool.cache import pulled

    found = pulled()
    if as_json:
        print_json([asdict(each) for each in found])
    elif found:
        rows = [(each.name, each.hub, each.size, len(each.revisions)) for each in found]
        print_table(("model", "hub", "bytes", "revisions"), rows, right="bytes revisions")
    else:
        click.echo("Nothing was pulled yet.", err=True)


@cache.command(epilog="Example: hubtool cache rm axon/resnet34-v1")
@click.argument("name", metavar="ID")
@click.option("--of", "hub", metavar="HUB", help="Only what came from this hub, as `ls` names it.")
def rm(name: str, hub: str | None) -> None:
    """Remove the pulled model ID from the cache. What is published on a hub stays."""
    from hubtool.cache import remove

    for each in remove(name, hub=hub):
        click.echo(f"{each.name}  of {each.hub}, {each.size:,} bytes")
