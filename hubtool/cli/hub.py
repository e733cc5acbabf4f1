"""`hubtool hub`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from hubtool.cli.hub_access import audit, orgs, tokens, users
from hubtool.cli.output import (
    folder_option,
    json_option,
    print_json,
    printable,
    progress,
    working,
)

__all__ = ["hub"]


@click.group(epilog="Example: hubtool hub fsck --hub models")
def hub() -> None:
    """Look after a hub on this machine: check it, back it up, give room back, say who may use it.

    The hub may be served meanwhile, except for reindex.
    """


@hub.command(epilog="Example: hubtool hub fsck --hub models --json")
@folder_option
@click.option("--quick", is_flag=True, help="Compare sizes only, without reading every content.")
@json_option
def fsck(folder: str | None, quick: bool, as_json: bool) -> None:
    """Check every content, commit and ref; exit 1 where something is wrong, and name each file."""
    from hubtool.hub import care

    with progress() as tell:
        found = care.fsck(folder, quick=quick, progress=tell)
    if as_json:
        print_json(asdict(found))
    else:
        _tell_problems(found.problems)
        click.echo(
            f"models    {found.models:,}\n"
            f"commits   {found.commits:,}\n"
            f"contents  {found.contents:,}, {found.bytes:,} bytes\n"
            f"unnamed   {found.unnamed:,}, {found.unnamed_bytes:,} bytes\n"
            f"problems  {len(found.problems):,}"
        )
        for stray in found.strays:
            click.echo(f"{printable(stray)}: a dead writer left it; it goes by itself", err=True)
    _fail_on(found.problems)


@hub.command(epilog="Example: hubtool hub gc --hub models --dry-run")
@folder_option
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=24,
    show_default=True,
    metavar="HOURS",
    help="How long a content stays that no commit names. Less than 1 only if nobody has the hub "
    "open.",
)
@json_option
def gc(folder: str | None, dry_run: bool, grace: float, as_json: bool) -> None:
    """Remove the contents that no commit names; uploads under way are safe."""
    from hubtool.hub import care

    with progress() as tell:
        found = care.gc(folder, grace_hours=grace, dry_run=dry_run, progress=tell)
    if as_json:
        print_json(asdict(found))
        return
    would = "would go" if dry_run else "removed "
    click.echo(
        f"{would}  {found.contents:,} contents, {found.bytes:,} bytes\n"
        f"young     {found.young:,} contents, {found.young_bytes:,} bytes\n"
        f"kept      {found.kept:,} contents, {found.kept_bytes:,} bytes\n"
        f"chunks    {found.xorb_bytes:,} bytes {would}"
    )


@hub.command(epilog="Example: hubtool hub backup /mnt/backup --hub models")
@click.argument("target", metavar="DIR")
@folder_option
@click.option("--link", is_flag=True, help="Hard links instead of copies, on the same disk.")
@json_option
def backup(target: str, folder: str | None, link: bool, as_json: bool) -> None:
    """Copy the hub to DIR, or bring the copy there up to date; `hubtool serve DIR` restores it."""
    from hubtool.hub import care

    with progress() as tell:
        found = care.backup(target, folder, link=link, progress=tell)
    if as_json:
        print_json(asdict(found))
    else:
        _tell_problems(found.problems)
        click.echo(
            f"backup    {printable(found.folder)}\n"
            f"models    {found.models:,}, {found.commits:,} commits\n"
            f"contents  {found.contents:,}, {found.bytes:,} bytes\n"
            f"new       {found.new:,}, {found.new_bytes:,} bytes"
        )
    _fail_on(found.problems)


@hub.command(epilog="Example: hubtool hub reindex --hub models")
@folder_option
@click.option("--partial", is_flag=True, help="Leave out what a damaged journal does not tell.")
@click.option("--journal", is_flag=True, help="The other way: the journal from the database.")
@json_option
def reindex(folder: str | None, partial: bool, journal: bool, as_json: bool) -> None:
    """Rebuild the database from hub.journal; the former one stays as hub.db.old.

    Nobody may have the hub open. Exit 1 where a part of the journal could not be read.
    """
    from hubtool.hub import care

    if journal and partial:
        raise click.UsageError("--partial is about a journal that is read, --journal writes one.")
    with working("Rebuilding"):
        if journal:
            care.renew_journal(folder)
            return
        found = care.reindex(folder, partial=partial)
    if as_json:
        print_json(asdict(found))
    else:
        click.echo(f"models    {found.models:,}\ncommits   {found.commits:,}")
        for line in found.lost:
            click.echo(f"hub.journal: line {line} cannot be read, what it told is lost", err=True)
        if found.torn:
            click.echo("The journal's end was torn; nobody was told of that.", err=True)
    _fail_on(found.lost)


for access in (users, orgs, tokens, audit):
    hub.add_command(access)


def _tell_problems(problems: Sequence[object]) -> None:
    for problem in problems:
        click.echo(printable(str(problem)), err=True)


def _fail_on(problems: Sequence[object]) -> None:
    if problems:
        click.get_current_context().exit(1)
