"""hubtool's own folder: graph.json says what is computed, model.safetensors holds the weights.

    resnet34/graph.json           layers, inputs, outputs, the table of weights, metadata
            /model.safetensors    the elements, mapped when read

A folder is written whole or not at all, and read with suspicion: a ReadError lists everything that
is wrong with it. docs/format.md describes it for a reader in any language; `native_encode` and
`native_decode` are the two directions, `safetensors` is the weights file.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hubtool import files
from hubtool.errors import ReadError, WriteError
from hubtool.formats import safetensors
from hubtool.formats.native_decode import decode
from hubtool.formats.native_encode import FORMAT, SECTIONS, encode
from hubtool.formats.safetensors import Stored, open_regular
from hubtool.formats.strict_json import MAX_BYTES, loads
from hubtool.graph import Graph

__all__ = [
    "GRAPH",
    "REPORT",
    "check_target",
    "is_folder",
    "read",
    "verify_files",
    "weights_files",
    "write",
]

GRAPH = "graph.json"
WEIGHTS = "model.safetensors"
REPORT = "report.json"
OURS = re.compile(rb'\s*\{\s*"format"\s*:\s*[1-9]')
"""How a graph.json of hubtool begins: told from any other file of that name."""


def write(
    graph: Graph,
    folder: Path,
    *,
    overwrite: bool = False,
    extra: Mapping[str, bytes] = {},
    check: Callable[[Path], None] | None = None,
) -> None:
    """Store a graph as a folder, which appears whole or not at all.

    extra: further small files to lie in it, by name. check: called with the finished folder
    before that is put in place; if it raises, nothing is left. Raises WriteError where the target
    exists (with `overwrite`: where it is something other than a folder of this kind), or the
    graph cannot be stored.

    Example: `native.write(graph, Path("resnet34"))`
    """
    wrong = [name for name in extra if not _is_plain(name) or name in (GRAPH, WEIGHTS)]
    if wrong:
        raise WriteError(f"no names for further files: {', '.join(wrong)}")
    with files.replacing(folder, overwrite=overwrite, replaceable=_replaceable) as new:
        encoded = encode(graph)
        with files.telling(folder):
            sha256, size = safetensors.write(new / WEIGHTS, encoded.parts, {"format": "hubtool"})
            weights = [{"file": WEIGHTS, "sha256": sha256, "size": size}]
            (new / GRAPH).write_bytes(encoded.text(weights))
            for name, data in extra.items():
                (new / name).write_bytes(data)
            _carry_over(folder, new)
        if check is not None:
            check(new)


def _carry_over(former: Path, new: Path) -> None:
    """What lies beside a model that is replaced, such as a card written by hand, stays."""
    for path in former.iterdir() if former.is_dir() else ():
        ours = path.name in (GRAPH, REPORT) or path.suffix == ".safetensors"
        if not ours and not (new / path.name).exists():
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def check_target(folder: Path, *, overwrite: bool = False) -> None:
    """Raises the WriteError that `write` would raise for this target, before there is a graph."""
    files.check_target(folder, overwrite=overwrite, replaceable=_replaceable)


def read(folder: Path, *, verify: bool = False) -> Graph:
    """The graph that a folder stores, its weights mapped, not copied.

    verify: also compare the hashes, which reads every byte. Raises ReadError with everything that
    is wrong.
    """
    document = _document(folder)
    problems: list[str] = []
    found = _weights(folder, document, problems, verify=verify)
    graph, more = decode(document, found, f"'{folder}'")
    problems += [f"{GRAPH}: {text}" for text in more]
    if problems:
        raise ReadError(
            f"cannot read the model in '{folder}':",
            problems=problems,
            hint="Fetch or convert it again.",
        )
    return graph


def is_folder(path: Path) -> bool:
    """Whether this is a folder of the native format (whole or damaged)."""
    return (path / GRAPH).is_file()


def verify_files(folder: Path) -> list[str]:
    """Where the weights files differ from what graph.json records: size and sha256."""
    problems: list[str] = []
    for name, sha256, size in _listed(_document(folder), problems):
        try:
            with _open(folder, name) as file:
                problems += _differences(file, name, sha256, size, verify=True)
        except (OSError, ValueError) as error:
            problems.append(f"{name}: {_reason(error)}")
    return problems


def weights_files(folder: Path) -> list[dict[str, Any]]:
    """What graph.json wants beside it: file, sha256 and size of each. Raises ReadError."""
    problems: list[str] = []
    listed = _listed(_document(folder), problems)
    if problems:
        raise ReadError(f"cannot read the model in '{folder}':", problems=problems)
    return [{"file": name, "sha256": sha256, "size": size} for name, sha256, size in listed]


def _replaceable(place: Path) -> str:
    """Why an existing target must be kept even when told to overwrite; "" if it need not be."""
    if not place.is_dir():
        return "it is a file"
    inside = list(place.iterdir())
    folders = [path.name for path in inside if path.is_dir() and not path.is_symlink()]
    if folders:
        return f"it holds the folder '{folders[0]}', and a model is no folder of folders"
    if inside and not (is_folder(place) and _begins_as_ours(place / GRAPH)):
        return "it is not empty, and no model of hubtool"
    return ""


def _begins_as_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return OURS.match(file.read(4096)) is not None


def _document(folder: Path) -> dict[str, Any]:
    """What graph.json says, as far as this hubtool can judge it at all."""
    try:
        if not is_folder(folder):
            raise _no_folder(folder)
        with _open(folder, GRAPH) as file:
            document = loads(file.read(MAX_BYTES + 1))
    except (OSError, ValueError) as error:
        raise ReadError(
            f"cannot read '{folder / GRAPH}': it is {_reason(error)}",
            hint="Fetch or convert the model again.",
        ) from None
    number = document.get("format") if isinstance(document, dict) else None
    if type(number) is not int or number < 1:
        raise ReadError(f"'{folder / GRAPH}' is no graph of hubtool: it has no format number")
    if number > FORMAT:
        raise ReadError(
            f"'{folder}' is of format {number}; this hubtool reads up to {FORMAT}",
            hint="Upgrade hubtool.",
        )
    unknown = [f"unknown key '{key}'" for key in sorted(set(document) - set(SECTIONS))]
    missing = [f"'{key}' is missing" for key in SECTIONS if key not in document]
    if unknown or missing:
        raise ReadError(f"cannot read '{folder / GRAPH}':", problems=unknown + missing)
    return dict(document)


def _no_folder(folder: Path) -> ReadError:
    kept = files.interrupted(folder)
    if kept is not None:
        return ReadError(
            f"'{folder}' is missing: a crash interrupted its replacement",
            hint=f"It is whole in '{kept}'; the next write beside it puts it back, or you may.",
        )
    if not folder.exists():
        return ReadError(f"there is no folder '{folder}'")
    return ReadError(
        f"'{folder}' is no model folder: it holds no {GRAPH}",
        hint="hubtool convert makes one from an ONNX file.",
    )


def _weights(
    folder: Path, document: dict[str, Any], problems: list[str], *, verify: bool
) -> dict[str, Stored] | None:
    """The tensors of all weights files; None, and problems, where not all could be read."""
    before = len(problems)
    found: dict[str, Stored] = {}
    for name, sha256, size in _listed(document, problems):
        try:
            with _open(folder, name) as file:
                faults = _differences(file, name, sha256, size, verify=verify)
                problems += faults
                tensors = {} if faults else safetensors.read(file)
        except ReadError as error:
            problems += [f"{name}: {text}" for text in error.problems]
        except (OSError, ValueError) as error:
            problems.append(f"{name}: {_reason(error)}")
        else:
            problems += [
                f"{name}: '{key}' is in another file too" for key in tensors if key in found
            ]
            found |= tensors
    return None if len(problems) > before else found


def _listed(document: dict[str, Any], problems: list[str]) -> list[tuple[str, str, int]]:
    """The weights section: file, sha256 and size of each."""
    listed: dict[str, tuple[str, str, int]] = {}
    section = document["weights"]
    for entry in section if isinstance(section, list) else [section]:
        match entry:
            case {"file": str(name), "sha256": str(sha256), "size": int(size)} if len(entry) == 3:
                if not _is_plain(name) or name == GRAPH or name in listed:
                    problems.append(f"{GRAPH}: weights: '{name}' is no name for a weights file")
                else:
                    listed[name] = (name, sha256, size)
            case _:
                problems.append(f"{GRAPH}: weights must list file, sha256 and size, and no more")
    return list(listed.values())


def _is_plain(name: str) -> bool:
    """Whether this is the name of a file, on every system, and not a way to one."""
    plain = PurePosixPath(name).name == PureWindowsPath(name).name == name
    return plain and name not in ("", "..") and "\0" not in name


def _open(folder: Path, name: str) -> io.BufferedReader:
    """A file of the folder. ValueError where a link leads out of it, except to the blobs of the
    Hugging Face cache that the folder is part of; OSError where it is no regular file."""
    home = folder.resolve()
    real = (home / name).resolve()
    allowed = [home, *(p / "blobs" for p in home.parents if p.name.startswith("models--"))]
    if real.parent not in allowed:
        raise ValueError("a link that leads out of the folder")
    return open_regular(real)


def _differences(
    file: io.BufferedReader, name: str, sha256: str, size: int, *, verify: bool
) -> list[str]:
    """How an open file differs from what is recorded of it. Leaves it at its beginning."""
    given = file.seek(0, 2)
    file.seek(0)
    if given != size:
        return [f"{name}: it has {given:,} bytes, {size:,} are recorded"]
    if verify:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        if digest != sha256:
            return [f"{name}: its sha256 is {digest}, {sha256} is recorded"]
    return []


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
