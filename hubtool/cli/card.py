"""`hubtool card`"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import hubtool
from hubtool.cli.output import json_option, print_json

__all__ = ["card"]


@click.group(epilog="Example: hubtool card create resnet34 && hubtool card lint resnet34")
def card() -> None:
    """Model cards: what a published model says of itself."""


@card.command(epilog="Example: hubtool card create resnet34 --prose my-card.md --tag Axon")
@click.argument("folder", metavar="DIR")
@click.option("--name", metavar="ID", help="The model's id on a hub, for the examples.")
@click.option("--prose", metavar="FILE", help="The author's card, whose words are kept.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Added to the card's tags.")
@click.option("--overwrite", is_flag=True, help="Let --prose replace DIR/README.md.")
def create(folder: str, **options: Any) -> None:
    """Write the card of the native folder DIR, its README.md.

    Source, shapes, layers, preprocessing and the measured difference come from the conversion; the
    author's words around them are kept, and may be run through this again.
    """
    hubtool.create_card(folder, **options)
    click.echo(Path(folder) / "README.md")


@card.command(epilog="Example: hubtool card lint resnet34 --strict")
@click.argument("path", metavar="FILE|DIR")
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@json_option
@click.pass_context
def lint(context: click.Context, path: str, strict: bool, as_json: bool) -> None:
    """Show what is wrong with a card: errors, which refuse a push, and warnings.

    With a folder, the card is also held against the model and the files beside it.
    """
    problems = hubtool.lint_card(path)
    if as_json:
        print_json([asdict(problem) for problem in problems])
    for problem in () if as_json else problems:
        click.echo(problem)
    errors = sum(problem.severity == "error" for problem in problems)
    click.echo(f"{errors} errors, {len(problems) - errors} warnings", err=True)
    if errors or (strict and problems):
        context.exit(1)
