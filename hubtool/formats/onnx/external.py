"""Opens a model's external data under rules that no file can bend.

A model names other files that hold its weights; a hostile one names /etc/passwd, a link, a device,
or more bytes than there are (CVE-2022-25882, CVE-2024-27318, CVE-2025-51480, CVE-2026-27489,
CVE-2026-34445, CVE-2026-34446). So onnx's own loader is never asked. Here a location is a relative
path below the model's folder, every step of it a real folder and its end a regular file with one
name only, opened without following links; the entry has no keys but those of the specification,
and its length is what dims and element type ask for, checked against the file's size before
anything is mapped. The one exception: in a Hugging Face cache files are links into the `blobs`
folder of the same repository, and there only that folder is allowed.
https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["OPENING", "ExternalData", "Resolve", "map_file"]

Resolve = Callable[[dict[str, str], int], memoryview]
"""Gives the bytes of a tensor that lie outside the protobuf, by its external_data entry and the
size that its shape and type ask for; ValueError where that cannot be."""

KEYS = {"location", "offset", "length", "checksum"}
LONGEST = 4096
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
DIRECTORY = getattr(os, "O_DIRECTORY", 0)
OPENING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
"""How a file is opened: without waiting for somebody to write to it, should it be a pipe."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class ExternalData:
    """The files beside one model; each is opened and mapped once.

    Every refusal is a ValueError that says which rule was broken.
    """

    def __init__(self, model: Path) -> None:
        self.folder = model.parent
        self.blobs = _cache_blobs(model)
        self.maps: dict[str, memoryview] = {}

    def view(self, entry: Mapping[str, str], size: int) -> memoryview:
        """The `size` bytes that an external_data entry points to."""
        unknown = sorted(set(entry) - KEYS)
        if unknown:
            raise ValueError(f"its external data has unknown keys: {', '.join(unknown)}")
        location = entry.get("location", "")
        offset = _number(entry, "offset", 0)
        length = _number(entry, "length", size)
        if length != size:
            raise ValueError(
                f"its external data is {length} bytes long, its shape and type ask for {size}"
            )
        if location not in self.maps:
            label = f"its external data {location!r}"
            self.maps[location] = map_file(self._open(location), label)
        data = self.maps[location]
        if offset + size > len(data):
            raise ValueError(
                f"its external data ends at byte {offset + size}, but {location!r} has only "
                f"{len(data)} bytes"
            )
        return data[offset : offset + size]

    def _open(self, location: str) -> int:
        parts = _parts(location)
        try:
            if self.blobs is not None:
                target = Path(os.path.realpath(self.folder.joinpath(*parts)))
                if target.parent == self.blobs:
                    return os.open(target, OPENING | NOFOLLOW)
            descriptor = _descend(self.folder, parts)
        except FileNotFoundError:
            raise ValueError(f"its external data file {location!r} is missing") from None
        except OSError as error:
            leads_away = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO)
            reason = "it leads over a link or something else that is no file"
            raise ValueError(
                f"its external data {location!r} cannot be opened: "
                f"{reason if leads_away else error.strerror}"
            ) from None
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            os.close(descriptor)
            raise ValueError(f"its external data {location!r} is a hard link to another file")
        return descriptor


def _parts(location: str) -> list[str]:
    """The steps of a relative path, or ValueError for anything that could lead elsewhere."""
    if len(location) > LONGEST:
        raise ValueError(f"its external data has a location of {len(location)} characters")
    steps = location.split("/")
    parts = [step for step in steps if step != "."]
    if not location or not parts or "\0" in location or "\\" in location:
        raise ValueError(f"its external data has the unusable location {location!r}")
    if location.startswith(("/", "~")) or steps[0][1:2] == ":":
        raise ValueError(f"its external data has the absolute location {location!r}")
    if any(part in ("", "..") for part in parts):
        raise ValueError(f"its external data at {location!r} leaves the model's folder")
    return parts


def _descend(folder: Path, parts: list[str]) -> int:
    """A descriptor of the file, opened step by step so that no step can be a link."""
    here = os.open(folder, os.O_RDONLY | DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | DIRECTORY | NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(parts[-1], OPENING | NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


def map_file(descriptor: int, label: str) -> memoryview:
    """The whole of a regular file as memory that is read when it is touched; closes the
    descriptor. ValueError where it is no regular file or cannot be mapped."""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{label} is {KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}")
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ValueError(f"{label} cannot be mapped: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _number(entry: Mapping[str, str], key: str, default: int) -> int:
    text = entry.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"its external data has the {key} {text!r}, which is no size")
    return int(text)


def _cache_blobs(model: Path) -> Path | None:
    """The blobs folder of the Hugging Face cache that the model lies in:
    models--NAMESPACE--NAME/snapshots/REVISION/… beside models--NAMESPACE--NAME/blobs."""
    for parent in Path.cwd().joinpath(model).parents:
        if parent.name == "snapshots" and "--" in parent.parent.name:
            blobs = parent.parent / "blobs"
            is_folder = blobs.is_dir() and not blobs.is_symlink()
            return Path(os.path.realpath(blobs)) if is_folder else None
    return None
