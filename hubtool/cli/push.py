"""`hubtool push`"""

from __future__ import annotations

from typing import Any

import click

import hubtool
from hubtool.cli.output import hub_option, json_option, print_json, print_table, progress

__all__ = ["push"]


@click.command(epilog="Example: hubtool push resnet34 axon/resnet34-v1 --tag Axon")
@click.argument("folder", metavar="DIR")
@click.argument("name", metavar="ID")
@click.option("--card", metavar="FILE", help="The card; else DIR/README.md, else made of facts.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Added to the card's tags.")
@click.option("--private", is_flag=True, help="Let a new model be seen by its owners only.")
@click.option("--revision", metavar="BRANCH", help="The branch to publish on, instead of main.")
@click.option("-m", "--message", help="What the commit says.")
@click.option("--dry-run", is_flag=True, help="Check everything, and send nothing.")
@hub_option
@json_option
def push(folder: str, name: str, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Publish the native folder DIR as the model ID (namespace/name), in one commit.

    The card is checked first (`hubtool card lint`): its errors refuse, its warnings do not.
    What the hub has already is not sent again. Without --hub nothing leaves this machine.
    """
    with progress() as tell:
        done = hubtool.push(folder, name, dry_run=dry_run, progress=tell, **options)
    if as_json:
        print_json(done.to_json())
        return
    if dry_run:
        for text in (done.made_card, *done.warnings):
            click.echo(text, err=True)
        print_table(("file", "bytes"), list(done.files.items()), right="bytes")
        click.echo(f"Nothing was sent. It would go to {done.hub} as {done.name}.", err=True)
        return
    click.echo(
        f"hub       {done.hub}\n"
        f"model     {done.name}  {len(done.files)} files, {sum(done.files.values()):,} bytes\n"
        f"revision  {done.revision}{'' if done.changed else '  (nothing had changed)'}\n"
        f"url       {done.url}"
    )
    made = "made of the conversion's facts, " if done.made_card else ""
    if made or done.warnings:
        click.echo(f"card      {made}{len(done.warnings)} warnings; --dry-run shows all", err=True)
    if done.hub.startswith("the embedded hub"):
        click.echo("Nothing left this machine; `hubtool serve` opens that address.", err=True)
