"""`hubtool hub users`, `orgs`, `tokens` and `audit`: who may use a hub, and who changed what.

Whoever may write the hub's folder may do all of this; nothing here asks for a token, and a server
that runs over the folder knows at once. A token's secret is all that its command prints on stdout,
so that it can go straight into a variable: no other command ever shows it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from hubtool.cli.output import folder_option, json_option, print_json, print_table, printable

__all__ = ["audit", "orgs", "tokens", "users"]

ROLES = ("read", "write", "admin")
UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class Moment(click.ParamType[datetime]):
    """`12h`, `30d` and `4w` from now, or ago; `2027-01-01` and `2027-01-01T12:00`, in UTC."""

    name = "time"

    def __init__(self, *, ago: bool = False) -> None:
        self._sign = -1 if ago else 1

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        text = str(value)
        span = re.fullmatch(r"([0-9]{1,6})([hdw])", text)
        try:
            if span is not None:
                return datetime.now(UTC) + self._sign * int(span[1]) * UNITS[span[2]]
            given = datetime.fromisoformat(text)
            return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"'{text}' is no time such as 12h, 30d, 4w or 2027-01-01", param, ctx)


def _say(text: str) -> None:
    click.echo(printable(text), err=True)


def _roles(roles: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {role}" for name, role in roles.items())


@click.group(epilog="Example: hubtool hub users add ann --fullname 'Ann Smith'")
def users() -> None:
    """Who has an account on the hub.

    As soon as there is one, writing needs a token, on this machine too; what is public may still
    be read by anybody who reaches the hub.
    """


@users.command("ls", epilog="Example: hubtool hub users ls --hub models --json")
@folder_option
@json_option
def users_ls(folder: str | None, as_json: bool) -> None:
    """List the users: full name, organisations, how many tokens."""
    from hubtool.hub import care

    with care.accounts(folder) as known:
        found = known.users()
    if as_json:
        print_json([asdict(user) for user in found])
    elif found:
        columns = ("user", "full name", "state", "organisations", "tokens", "since")
        rows = [(u.name, u.fullname, _state(u), _roles(u.orgs), u.tokens, u.created) for u in found]
        print_table(columns, rows, right="tokens")
    else:
        _say("There are no users: on this machine's own address everybody may write.")


def _state(user: Any) -> str:
    return "disabled" if user.disabled else "admin" if user.admin else ""


@users.command("add", epilog="Example: hubtool hub users add ann --fullname 'Ann Smith'")
@click.argument("name")
@click.option("--fullname", default="", help="The name to show beside it.")
@click.option("--admin", is_flag=True, help="Let them do everything on the whole hub.")
@folder_option
def users_add(name: str, fullname: str, admin: bool, folder: str | None) -> None:
    """Add the user NAME, who owns all repositories below that name."""
    from hubtool.hub import care

    with care.accounts(folder, make=True) as known:
        first = not known.exist()
        known.add_user(name, fullname=fullname, admin=admin, by=care.shell())
    if first:
        _say("The hub has users now: writing needs a token, on this machine too.")
    _say(f"Next: hubtool hub tokens new {name} --name laptop")


@users.command("set", epilog="Example: hubtool hub users set ann --disable")
@click.argument("name")
@click.option("--fullname", help="The name to show beside it.")
@click.option("--admin/--no-admin", default=None, help="Whether they may do everything.")
@click.option("--disable/--enable", "disabled", default=None, help="Refuse their tokens, or not.")
@folder_option
def users_set(
    name: str,
    fullname: str | None,
    admin: bool | None,
    disabled: bool | None,
    folder: str | None,
) -> None:
    """Change what is known of the user NAME."""
    from hubtool.hub import care

    if fullname is None and admin is None and disabled is None:
        raise click.UsageError("Say what to change: --fullname, --admin, --disable ...")
    with care.accounts(folder) as known:
        known.set_user(name, fullname=fullname, admin=admin, disabled=disabled, by=care.shell())


@users.command("rm", epilog="Example: hubtool hub users rm ann")
@click.argument("name")
@folder_option
def users_rm(name: str, folder: str | None) -> None:
    """Remove the user NAME, their tokens and memberships; refused while they own repositories."""
    from hubtool.hub import care

    with care.accounts(folder) as known:
        known.remove_user(name, by=care.shell())
        if not known.exist():
            _say("No users are left: on this machine's own address everybody may write again.")


@click.group(epilog="Example: hubtool hub orgs member axon ann --role write")
def orgs() -> None:
    """Organisations: namespaces that several users share, each with a role."""


@orgs.command("ls", epilog="Example: hubtool hub orgs ls --json")
@folder_option
@json_option
def orgs_ls(folder: str | None, as_json: bool) -> None:
    """List the organisations and their members."""
    from hubtool.hub import care

    with care.accounts(folder) as known:
        found = known.orgs()
    if as_json:
        print_json([asdict(org) for org in found])
    elif found:
        rows = [(org.name, org.fullname, _roles(org.members), org.created) for org in found]
        print_table(("organisation", "full name", "members", "since"), rows)
    else:
        _say("There are no organisations.")


@orgs.command("add", epilog="Example: hubtool hub orgs add axon --fullname 'Axon models'")
@click.argument("name")
@click.option("--fullname", default="", help="The name to show beside it.")
@folder_option
def orgs_add(name: str, fullname: str, folder: str | None) -> None:
    """Add the organisation NAME, which owns all repositories below that name."""
    from hubtool.hub import care

    with care.accounts(folder, make=True) as known:
        known.add_org(name, fullname=fullname, by=care.shell())
    _say(f"Next: hubtool hub orgs member {name} USER --role write")


@orgs.command("rm", epilog="Example: hubtool hub orgs rm axon")
@click.argument("name")
@folder_option
def orgs_rm(name: str, folder: str | None) -> None:
    """Remove the organisation NAME; refused while it owns repositories."""
    from hubtool.hub import care

    with care.accounts(folder) as known:
        known.remove_org(name, by=care.shell())


@orgs.command("member", epilog="Example: hubtool hub orgs member axon ann --role write")
@click.argument("org")
@click.argument("user")
@click.option("--role", type=click.Choice(ROLES), help="What they may do; each includes the last.")
@click.option("--remove", is_flag=True, help="Let them be no member any more.")
@folder_option
def orgs_member(org: str, user: str, role: Any, remove: bool, folder: str | None) -> None:
    """Let USER be a member of ORG, with a role.

    read: see and load what is private. write: create repositories, commit, branches, tags. admin:
    delete, move, hide or show, and decide who may read gated files.
    """
    from hubtool.hub import care

    if remove == bool(role):
        raise click.UsageError("Say either --role or --remove.")
    with care.accounts(folder) as known:
        known.set_member(org, user, role, by=care.shell())


@click.group(epilog="Example: hubtool hub tokens new ann --name laptop --expires 30d")
def tokens() -> None:
    """What users show to the hub, in place of a password."""


@tokens.command("ls", epilog="Example: hubtool hub tokens ls ann --json")
@click.argument("user", required=False)
@folder_option
@json_option
def tokens_ls(user: str | None, folder: str | None, as_json: bool) -> None:
    """List all tokens, or those of USER: what each may do, how long, and when it was last used."""
    from hubtool.hub import care

    with care.accounts(folder) as known:
        found = known.tokens(user)
    if as_json:
        print_json([{**asdict(token), "expired": token.expired} for token in found])
    elif found:
        columns = ("id", "user", "name", "role", "repositories", "created", "expires", "used")
        print_table(columns, [_row(token) for token in found])
    else:
        _say("There are no tokens.")


def _row(token: Any) -> tuple[str, ...]:
    scope = "all" if token.repos is None else ", ".join(token.repos)
    until = f"{token.expires or 'never'}{' (is over)' if token.expired else ''}"
    return (
        token.id,
        token.user,
        token.name,
        token.role,
        scope,
        token.created,
        until,
        token.used or "never",
    )


@tokens.command(
    "new", epilog="Example: hubtool hub tokens new ann --name ci --repo 'axon/*' --expires 30d"
)
@click.argument("user")
@click.option("--name", default="", help="What it is for, such as laptop; else its id.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="write",
    show_default=True,
    help="The most that it lets do, of what USER may do.",
)
@click.option(
    "--repo",
    "repos",
    multiple=True,
    metavar="ID",
    help="Only for this repository, or 'axon/*' for a namespace; may be repeated.",
)
@click.option(
    "--expires", type=Moment(), metavar="TIME", help="When it ends, in UTC: 12h, 30d, 2027-01-01."
)
@folder_option
@json_option
def tokens_new(
    user: str,
    name: str,
    role: Any,
    repos: tuple[str, ...],
    expires: datetime | None,
    folder: str | None,
    as_json: bool,
) -> None:
    """Make a token for USER and print its secret, this once: only its hash is kept."""
    from hubtool.hub import care

    with care.accounts(folder) as known:
        token, secret = known.new_token(
            user, name=name, role=role, repos=repos or None, expires=expires, by=care.shell()
        )
    if as_json:
        print_json({**asdict(token), "secret": secret})
        return
    _say(f"{token.id}  {token.user}'s {token.name}, {role} on {', '.join(repos) or 'everything'}")
    _say(f"until {token.expires or 'it is revoked'}; it is shown this once")
    click.echo(secret)


@tokens.command("revoke", epilog="Example: hubtool hub tokens revoke 5f0e2c9b71aa")
@click.argument("number", metavar="ID")
@folder_option
def tokens_revoke(number: str, folder: str | None) -> None:
    """End the token ID, at once and for good; `ls` tells the ids."""
    from hubtool.hub import care

    with care.accounts(folder) as known:
        token = known.revoke(number, by=care.shell())
    _say(f"{token.user}'s {token.name} is revoked.")


@click.command(epilog="Example: hubtool hub audit --repo axon/resnet34-v1 --since 7d")
@click.option("--user", help="Only what this user did; people at this machine are shell:NAME.")
@click.option("--repo", "subject", metavar="NAME", help="Only about this repository or account.")
@click.option("--action", help="Only this, such as repo.delete, or repo for all of its kind.")
@click.option(
    "--since", type=Moment(ago=True), metavar="TIME", help="In UTC: 12h, 30d, 2027-01-01."
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Of lines.")
@folder_option
@json_option
def audit(
    user: str | None,
    subject: str | None,
    action: str | None,
    since: datetime | None,
    limit: int,
    folder: str | None,
    as_json: bool,
) -> None:
    """Tell who changed what, when and from where, the newest first."""
    from hubtool.hub import care

    found = care.audit(folder, user=user, subject=subject, action=action, since=since, limit=limit)
    if as_json:
        print_json([asdict(event) for event in found])
    elif found:
        columns = ("date", "user", "token", "address", "action", "subject", "detail")
        rows = [
            (e.date, e.user, e.token, e.address, e.action, e.subject, _told(e.detail))
            for e in found
        ]
        print_table(columns, rows)
    else:
        _say("Nothing of that kind was noted.")


def _told(detail: Mapping[str, Any]) -> str:
    told = {key: value for key, value in detail.items() if value not in (None, "", [])}
    return ", ".join(
        f"{key}: {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in told.items()
    )
