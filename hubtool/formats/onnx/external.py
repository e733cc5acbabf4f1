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

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ExternalData", "map_file"]

KEYS = {"location", "offset", "length", "checksum"}
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
DIRECTORY = getattr(os, "O_DIRECTORY", 0)


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
            self.maps[location] = self._open(location)
        data = self.maps[location]
        if offset + size > len(data):
            raise ValueError(
                f"its external data ends at byte {offset + size}, but '{location}' has only "
                f"{len(data)} bytes"
            )
        return data[offset : offset + size]

    def _open(self, location: str) -> memoryview:
        parts = _parts(location)
        if self.blobs is not None:
            target = Path(os.path.realpath(self.folder.joinpath(*parts)))
            if target.parent == self.blobs:
                return map_file(os.open(target, os.O_RDONLY | NOFOLLOW), location)
        descriptor = _descend(self.folder, parts, location)
        if os.fstat(descriptor).st_nlink > 1:
            os.close(descriptor)
            raise ValueError(f"its external data '{location}' is a hard link to another file")
        return map_file(descriptor, location)


def _parts(location: str) -> list[str]:
    """The steps of a relative path, or ValueError for anything that could lead elsewhere."""
    parts = location.split("/")
    if not location or "\0" in location or "\\" in location:
        raise ValueError(f"its external data has the unusable location {location!r}")
    if location.startswith(("/", "~")) or (len(parts[0]) > 1 and parts[0][1] == ":"):
        raise ValueError(f"its external data has the absolute location {location!r}")
    if any(part in ("", "..") for part in parts):
        raise ValueError(f"its external data at {location!r} leaves the model's folder")
    return [part for part in parts if part != "."]


def _descend(folder: Path, parts: list[str], location: str) -> int:
    """A descriptor of the file, opened step by step so that no step can be a link."""
    here = os.open(folder, os.O_RDONLY | DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | DIRECTORY | NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        # O_NONBLOCK: opening a pipe must not wait for somebody to write to it.
        flags = os.O_RDONLY | NOFOLLOW | getattr(os, "O_NONBLOCK", 0)
        return os.open(parts[-1], flags, dir_fd=here)
    except FileNotFoundError:
        raise ValueError(f"its external data file '{location}' is missing") from None
    except OSError as error:
        reason = "leads over a link or something else that is no file" if _is_link(error) else error
        raise ValueError(f"its external data '{location}' cannot be opened: {reason}") from None
    finally:
        os.close(here)


def _is_link(error: OSError) -> bool:
    import errno

    return error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO)


def map_file(descriptor: int, label: str) -> memoryview:
    """The whole of a regular file as memory that is read when it is touched; closes the
    descriptor. ValueError where it is no regular file."""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"'{label}' is not a regular file")
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
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
    for parent in Path(os.path.abspath(model)).parents:
        if parent.name == "snapshots" and "--" in parent.parent.name:
            blobs = parent.parent / "blobs"
            return Path(os.path.realpath(blobs)) if blobs.is_dir() else None
    return None
