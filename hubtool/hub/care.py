"""Looking after a hub of one's own: check it, collect what nobody needs, copy it, rebuild it, and
say who may use it.

Each is about a folder on this machine: the embedded hub's, or one that `hubtool serve` serves, and
which may go on being served meanwhile; only `reindex` wants it for itself. A hub elsewhere is
looked after where it lies.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hubtool import files
from hubtool.cache import home
from hubtool.errors import HubError, InputError

if TYPE_CHECKING:
    from hubtool.hub.server.accounts import Accounts
    from hubtool.hub.server.audit import Actor, Event
    from hubtool.hub.server.backup import Copied
    from hubtool.hub.server.check import Checked
    from hubtool.hub.server.collect import Collected
    from hubtool.hub.server.meta import Meta
    from hubtool.hub.server.reindex import Rebuilt
    from hubtool.hub.server.survey import Progress

__all__ = [
    "accounts",
    "audit",
    "backup",
    "folder_of",
    "fsck",
    "gc",
    "reindex",
    "renew_journal",
    "shell",
]

Source = str | os.PathLike[str]


def folder_of(hub: Source | None = None) -> Path:
    """The folder of a hub on this machine, the embedded one's if none is named.
    Raises InputError for an address, or where there is no such folder."""
    if hub is None or hub == "embedded":
        return home() / "hub"
    if "://" in str(hub) or hub == "hf":
        raise InputError(
            f"'{hub}' is no folder", hint="A hub is looked after on the machine that it lies on."
        )
    folder = Path(hub).expanduser()
    if not folder.is_dir():
        raise InputError(f"there is no folder '{hub}'", hint="Name the folder of a hub with --hub.")
    return folder


def fsck(
    hub: Source | None = None, *, quick: bool = False, progress: Progress | None = None
) -> Checked:
    """Check every content, commit and ref of a hub; what is wrong stands in `problems`.

    quick: contents by their sizes only. Raises HubError, InputError.

    Example: `care.fsck("models").problems`
    """
    from hubtool.hub.server.check import check

    return check(folder_of(hub), quick=quick, progress=progress)


def gc(
    hub: Source | None = None,
    *,
    grace_hours: float = 24,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Collected:
    """Remove the contents that no commit names and that nobody wanted for so many hours.

    Less than one hour only where nobody has the hub open. Raises HubError, InputError.

    Example: `care.gc("models", dry_run=True).bytes`
    """
    from hubtool.hub.server.collect import collect

    folder = folder_of(hub)
    return collect(folder, grace_s=grace_hours * 3600, dry_run=dry_run, progress=progress)


def backup(
    target: Source,
    hub: Source | None = None,
    *,
    link: bool = False,
    progress: Progress | None = None,
) -> Copied:
    """Copy a hub, which may be running, to `target`, or bring the copy there up to date.

    Serve the copy, and it is the hub. link: hard links instead of copies. What is damaged, and so
    was not copied, stands in `problems`. Raises HubError, InputError, WriteError.

    Example: `care.backup("/mnt/backup", "models")`
    """
    from hubtool.hub.server.backup import backup as copy

    return copy(folder_of(hub), Path(target).expanduser(), link=link, progress=progress)


def reindex(hub: Source | None = None, *, partial: bool = False) -> Rebuilt:
    """Rebuild a hub's database from its journal; the former one stays as `hub.db.old`.

    partial: also from a damaged journal, without what cannot be read. Raises HubError, InputError,
    ReadError, WriteError.

    Example: `care.reindex("models").commits`
    """
    from hubtool.hub.server.reindex import rebuild

    return rebuild(folder_of(hub), partial=partial)


def renew_journal(hub: Source | None = None) -> None:
    """Write a hub's journal anew from its database. Raises HubError, InputError."""
    from hubtool.hub.server.reindex import renew_journal as renew

    renew(folder_of(hub))


@contextmanager
def accounts(hub: Source | None = None, *, make: bool = False) -> Iterator[Accounts]:
    """The users, organisations and tokens of a hub; a server that runs over it knows of every
    change at once. make: in an empty folder a hub is made. Raises HubError, InputError.

    Example: `with care.accounts("models") as known: known.add_user("ann", by=care.shell())`
    """
    from hubtool.hub.server.accounts import Accounts

    with _meta(folder_of(hub), make=make) as meta:
        yield Accounts(meta)


def shell() -> Actor:
    """Who sits at this machine, as the audit log names them."""
    from hubtool.hub.server.audit import Actor

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container there may be no name for the number
        name = str(os.getuid())
    return Actor(f"shell:{name}")


def audit(
    hub: Source | None = None,
    *,
    user: str | None = None,
    subject: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> list[Event]:
    """Who changed what in a hub, newest first. subject: a repository or account; action: such as
    "repo.delete", or "repo" for all of them. Raises HubError, InputError.

    Example: `care.audit("models", action="token")`
    """
    from hubtool.hub.server.audit import entries

    with _meta(folder_of(hub)) as meta, meta.reading() as db:
        return entries(db, user=user, subject=subject, action=action, since=since, limit=limit)


@contextmanager
def _meta(folder: Path, *, make: bool = False) -> Iterator[Meta]:
    """The database of a hub that is there, or may be made here."""
    from hubtool.hub.server.meta import Meta

    if make and not (folder.exists() and any(folder.iterdir())):
        with files.telling(folder):
            folder.mkdir(parents=True, exist_ok=True)
    elif not (folder / "hub.db").exists() and not (folder / "hub.journal").exists():
        raise HubError(f"there is no hub in '{folder}'", hint="Name the folder of one with --hub.")
    with closing(Meta(folder)) as meta:
        yield meta
