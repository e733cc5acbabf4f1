"""Files and folders put in place whole: a crash at any moment leaves nothing, the old or the new.

A folder is made inside a temporary one beside its target, and renamed when it is complete:

    models/resnet34                              the target
    models/.resnet34.1f9c03d7.hubtool-tmp/lock   flock-ed for as long as the writer lives
                                         /new    what will be the target
                                         /old    the former target, only for a moment

The lock lies outside of what is put in place, so it guards the rename too. Whoever writes next
beside it sweeps what is temporary there and whose owner is gone, and brings back a former target
that a crash between two renames left without a successor. A single file needs no folder: it is
locked itself while it is written.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hubtool.errors import WriteError

__all__ = [
    "check_target",
    "interrupted",
    "new_file",
    "replacing",
    "sweep",
    "sync",
    "telling",
    "temporary_file",
]

SUFFIX = "hubtool-tmp"
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL
TEMPORARY = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{8}}\.{SUFFIX}", re.DOTALL)


@contextmanager
def replacing(
    target: Path, *, overwrite: bool, replaceable: Callable[[Path], str]
) -> Iterator[Path]:
    """A new folder to be filled; when the block ends well it becomes `target`, all at once.

    An existing target is refused without `overwrite`, before anything else happens, and also with
    it where `replaceable(target)` gives a reason why that folder must not be thrown away. If the
    block raises, nothing is left. Raises WriteError.
    """
    with telling(target):
        place = Path(os.path.realpath(target))
        if place.parent.is_dir():
            sweep(place.parent)
        check_target(target, overwrite=overwrite, replaceable=replaceable)
        temporary, lock = _temporary(place)
    try:
        new = temporary / "new"
        with telling(target):
            new.mkdir()
        yield new
        with telling(target):
            _sync(new)
            _refuse(target, place, overwrite, replaceable)
            _put(new, place, temporary / "old", overwrite)
            sync(place.parent)
    finally:
        _remove(temporary)
        os.close(lock)


@contextmanager
def new_file(target: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A new file to be written; when the block ends well it becomes `target`, all at once.

    An existing target is refused without `overwrite`. If the block raises, nothing is left.
    Raises WriteError.
    """
    if not overwrite and os.path.lexists(target):
        raise _exists(target)
    if target.is_dir():
        raise WriteError(f"'{target}' is a folder", hint="Name a file to write.")
    with telling(target):
        sweep(target.parent)
        temporary, lock = temporary_file(target)
        try:
            with os.fdopen(lock, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(lock)
                temporary.replace(target)
            sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def telling(target: Path) -> Iterator[None]:
    """Turns an OSError of the block into a WriteError that names the target."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"cannot write '{target}': {error.strerror or error}",
            hint="Nothing was left behind. Mend that, or choose another target.",
        ) from error


def interrupted(target: Path) -> Path | None:
    """Where a crash during an overwrite left the former `target`, if it did and none stands."""
    place = Path(os.path.realpath(target))
    if place.exists() or not place.parent.is_dir():
        return None
    for temporary in _temporaries(place.parent):
        if _owner(temporary) == place.name and (temporary / "old").is_dir():
            return temporary / "old"
    return None


def check_target(target: Path, *, overwrite: bool, replaceable: Callable[[Path], str]) -> None:
    """Raises the WriteError that `replacing` would raise before any work."""
    with telling(target):
        place = Path(os.path.realpath(target))
        if not place.parent.is_dir():
            raise WriteError(
                f"cannot write '{target}': there is no folder '{place.parent}'",
                hint="Make that folder first, or name another target.",
            )
        _refuse(target, place, overwrite, replaceable)


def _exists(target: Path) -> WriteError:
    return WriteError(
        f"'{target}' exists already", hint="Choose another target, or give --overwrite."
    )


def _refuse(target: Path, place: Path, overwrite: bool, replaceable: Callable[[Path], str]) -> None:
    if not os.path.lexists(place):
        return
    if not overwrite:
        raise _exists(target)
    reason = replaceable(place)
    if reason:
        raise WriteError(
            f"'{target}' will not be overwritten: {reason}",
            hint="Choose another target, or move that away yourself.",
        )


def _name(place: Path) -> Path:
    """A fresh name for something temporary beside `place`."""
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}.{SUFFIX}")


def _temporary(place: Path) -> tuple[Path, int]:
    """A fresh temporary folder beside `place`, and its lock, held.

    A sweep may come between any two of these steps and take the folder for an orphan; then the
    lock is not to be had, or is no longer the file of that name, and another folder is made.
    """
    while True:
        temporary = _name(place)
        temporary.mkdir()
        try:
            lock = _locked(temporary / "lock", CREATE)
        except OSError:
            temporary.rmdir()
            raise
        if lock is not None:
            return temporary, lock


def temporary_file(place: Path) -> tuple[Path, int]:
    """A fresh temporary file beside `place`, which is its own lock, and that lock, held."""
    while True:
        temporary = _name(place)
        lock = _locked(temporary, CREATE)
        if lock is not None:
            return temporary, lock


def _locked(path: Path, flags: int) -> int | None:
    """The lock file, opened and locked; None if it is gone or belongs to someone alive.

    A file system that knows no locks lets everyone write and nobody sweep.
    """
    import fcntl

    try:
        lock = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), path.lstat()):
            return lock
    except OSError as error:
        if flags == CREATE and error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            return lock
    os.close(lock)
    return None


def _sync(folder: Path) -> None:
    """Let all that is in the folder, then the folder itself, reach the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Let a file, or the names in a folder, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(new: Path, place: Path, old: Path, overwrite: bool) -> None:
    """Rename `new` to `place`. What stood there ends up in `new` or in `old`."""
    try:
        new.rename(place)  # fails where something stands, unless that is an empty folder
    except OSError as error:
        if not overwrite or error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    else:
        return
    if _exchange(new, place):
        return
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step, where the system and its file system can.

    https://man7.org/linux/man-pages/man2/rename.2.html (renameat2, RENAME_EXCHANGE)
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _temporaries(parent: Path) -> list[Path]:
    """What lies in `parent` under a temporary name, files and folders."""
    return [
        path
        for path in sorted(parent.iterdir())
        if TEMPORARY.fullmatch(path.name) and not path.is_symlink()
    ]


def _owner(temporary: Path) -> str:
    """The name of the target that something temporary was made for."""
    match = TEMPORARY.fullmatch(temporary.name)
    return match["name"] if match else ""


def sweep(parent: Path) -> None:
    """Remove what is temporary in `parent` and whose owner is gone; mend what was left undone."""
    for temporary in _temporaries(parent):
        folder = temporary.is_dir()
        with suppress(OSError):
            if folder:
                temporary.rmdir()  # empty: its owner came no further
                continue
        with suppress(OSError):
            lock = _locked(temporary / "lock" if folder else temporary, os.O_RDWR)
            if lock is None:
                continue
            try:
                if not folder:
                    temporary.unlink()
                elif _restored(temporary / "old", parent / _owner(temporary)):
                    _remove(temporary)
            finally:
                os.close(lock)


def _restored(old: Path, place: Path) -> bool:
    """Whether `place` stands again, if a crash had taken it away; else `old` must be kept."""
    if old.is_dir() and not os.path.lexists(place):
        try:
            old.rename(place)
            sync(place.parent)
        except OSError:
            return False
    return True


def _remove(temporary: Path) -> None:
    """Remove a temporary folder; the lock last, so that what is left can be swept another time."""
    shutil.rmtree(temporary / "new", ignore_errors=True)
    shutil.rmtree(temporary / "old", ignore_errors=True)
    with suppress(OSError):
        if [path.name for path in temporary.iterdir()] == ["lock"]:
            (temporary / "lock").unlink()
            temporary.rmdir()
