"""`hubtool list`"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

import hubtool
from hubtool.cli.output import hub_option, json_option, print_json, print_table

__all__ = ["list_"]

SORTS = ("modified", "created", "downloads", "likes", "trending")


@click.command("list", epilog="Example: hubtool list --tag Axon --tag Elixir")
@click.argument("query", required=False)
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Must be there; repeatable.")
@click.option("--author", metavar="NAMESPACE", help="Only models of this user or organisation.")
@click.option("--pipeline", metavar="TASK", help="Only models for it: image-classification.")
@click.option("--library", metavar="NAME", help="Only models of this library: hubtool.")
@click.option("--licence", "--license", metavar="ID", help="Only under this one: apache-2.0.")
@click.option("--dataset", metavar="ID", help="Only models trained on it: ILSVRC/imagenet-1k.")
@click.option("--search", metavar="WORDS", help="The same as QUERY; both are joined.")
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default="modified",
    show_default=True,
    help="The latest, or the highest, first.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="So many at most."
)
@hub_option
@json_option
def list_(as_json: bool, limit: int, query: str | None, search: str | None, **options: Any) -> None:
    """List the models of a hub: those that bear every TAG, and have every word of QUERY in their
    name, titles or tags."""
    from hubtool.hub import address

    words = " ".join(filter(None, [query, search])) or None
    found = hubtool.search(words, limit=limit + 1, **options)
    if as_json:
        print_json([asdict(model) for model in found[:limit]])
    elif found:
        rows = [
            (model.name, ", ".join(model.tags), model.downloads, model.modified[:10])
            for model in found[:limit]
        ]
        print_table(("model", "tags", "downloads", "modified"), rows, right="downloads")
    if len(found) > limit:
        click.echo(f"There are more: --limit shows more than {limit}.", err=True)
    if not found:
        where = address.resolve(options["hub"])
        click.echo(f"No model found at {where}.", err=True)
        if where.folder is not None:
            click.echo(
                "`hubtool push DIR ID` publishes one there; --hub hf looks at huggingface.co.",
                err=True,
            )
