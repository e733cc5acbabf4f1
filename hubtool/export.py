"""A model in another form: an ONNX file, an Elixir notebook or module, a folder of transformers.

    onnx            model.onnx      the lowest opset that can say it
    livemd          model.livemd    a Livebook notebook of plain Axon calls
    axon            model.ex        the same as an Elixir module
    transformers    transformers/   what AutoModelForImageClassification opens, for ResNets that fit

Each form refuses what it cannot say, with every layer named, before anything is written. Notebook
and module read the weights of the native folder that they lie in, or fetch them from its hub.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubtool import files
from hubtool.errors import InputError, UnsupportedError, WriteError
from hubtool.graph import Graph

__all__ = [
    "FORMATS",
    "Exported",
    "Origin",
    "axon_texts",
    "elixir_files",
    "export",
    "format_of",
    "reasons_against",
]

FORMATS = ("onnx", "livemd", "axon", "transformers")
SUFFIXES = {".onnx": "onnx", ".livemd": "livemd", ".ex": "axon"}


@dataclass(frozen=True)
class Exported:
    """What was written: where, in which form, and a few words on it. opset: of an ONNX file."""

    target: str
    format: str
    note: str
    opset: int | None = None


@dataclass(frozen=True)
class Origin:
    """Where a graph's native folder is: on this disk, and on a hub if it was published there."""

    name: str
    folder: Path | None = None
    weights: tuple[dict[str, Any], ...] = ()
    repository: str | None = None
    revision: str | None = None
    hub: str | None = None


def format_of(target: str | os.PathLike[str] | None, wanted: str | None) -> str:
    """The form that is meant by a name, or by a target's suffix. Raises WriteError."""
    if wanted is not None and wanted not in FORMATS:
        raise WriteError(
            f"'{wanted}' is no form to export to", hint=f"There is {', '.join(FORMATS)}."
        )
    by_suffix = SUFFIXES.get(Path(target).suffix) if target is not None else None
    if wanted is None and by_suffix is None:
        raise WriteError(
            f"'{target}' does not say what to write" if target else "it is not said what to write",
            hint="Name a file that ends in .onnx, .livemd or .ex, or give a form: "
            f"{', '.join(FORMATS)}.",
        )
    if wanted in ("onnx", "livemd", "axon") and target is not None and by_suffix != wanted:
        suffix = next(key for key, value in SUFFIXES.items() if value == wanted)
        raise WriteError(f"'{target}' does not end in {suffix}", hint=f"Name it model{suffix}.")
    return wanted or str(by_suffix)


def export(
    graph: Graph,
    origin: Origin,
    target: Path | None,
    form: str,
    *,
    opset: int | None = None,
    external: bool | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a graph in one of FORMATS; without a target, in or beside its folder.

    Raises UnsupportedError with every layer that the form cannot say, InputError (an option of
    another form), WriteError.
    """
    if form != "onnx" and (opset is not None or external is not None):
        raise InputError("opset and external are for ONNX files only")
    place = target if target is not None else _target(origin, form)
    if form == "onnx":
        from hubtool.formats.onnx import write

        written = write.write(graph, place, opset=opset, external=external, overwrite=overwrite)
        return Exported(str(place), form, f"opset {written}", written)
    if form == "transformers":
        return _transformers(graph, place, overwrite=overwrite)
    if not origin.weights:
        raise InputError(
            "a notebook or module needs the weights of a native folder",
            hint="`hubtool convert` the model first, then export the folder.",
        )
    notebook, module = axon_texts(graph, origin)
    with files.new_file(place, overwrite=overwrite) as stream:
        stream.write((notebook if form == "livemd" else module).encode())
    return Exported(str(place), form, f"{len(graph.layers)} layers as Axon calls")


def axon_texts(graph: Graph, origin: Origin) -> tuple[str, str]:
    """The notebook and the module. Raises UnsupportedError."""
    from hubtool.formats import axon

    weights = list(origin.weights)
    notebook = axon.notebook(
        graph,
        title=origin.name,
        weights=weights,
        repository=origin.repository,
        revision=origin.revision,
        hub=origin.hub,
    )
    module = axon.module(graph, name=_module_name(origin.name), title=origin.name, weights=weights)
    return notebook, module


def reasons_against(graph: Graph, form: str) -> list[str]:
    """Everything that the form cannot say of a graph, each naming its layer; [] if it can say all.
    Raises InputError for a form that is none."""
    if form in ("axon", "livemd"):
        from hubtool.formats import axon

        return axon.coverage(graph)
    if form == "transformers":
        from hubtool.formats import transformers

        return transformers.fits(graph)
    raise InputError(f"'{form}' is no form to check for", hint="axon or transformers.")


def _target(origin: Origin, form: str) -> Path:
    if form == "transformers":
        return (origin.folder or Path()) / "transformers"
    if form == "onnx":
        return Path(f"{origin.name}.onnx")
    notebook, module = elixir_files(origin.name)
    return (origin.folder or Path()) / (notebook if form == "livemd" else module)


def elixir_files(name: str) -> tuple[str, str]:
    """What notebook and module of a model are called: "resnet34-v1.livemd", "resnet34_v1.ex"."""
    return f"{name}.livemd", f"{re.sub(r'[^A-Za-z0-9]+', '_', name).lower()}.ex"


def _module_name(name: str) -> str:
    """ "resnet34-v1" as "Resnet34V1"."""
    words = [word[:1].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", name)]
    made = "".join(words)
    return made if made[:1].isalpha() else f"Model{made}"


def _transformers(graph: Graph, place: Path, *, overwrite: bool) -> Exported:
    from hubtool.formats import transformers

    problems = transformers.fits(graph)
    if problems:
        raise UnsupportedError(
            "this model is no ResNet as transformers builds them:",
            problems=problems,
            hint="`hubtool export --to livemd` and .onnx say any model.",
        )
    with files.replacing(place, overwrite=overwrite, replaceable=_replaceable) as new:
        facts = transformers.write(graph, new)
    notes = [f"ResNetForImageClassification, {facts['layer_type']}"]
    notes += [f"Bumblebee 0.7 would be wrong: {facts['bumblebee']}"] if facts["bumblebee"] else []
    notes += [f"no {key}: {facts[key]}" for key in ("labels", "preprocessing") if facts[key]]
    return Exported(str(place), "transformers", "; ".join(notes))


def _replaceable(place: Path) -> str:
    if place.is_dir() and ((place / "config.json").is_file() or not any(place.iterdir())):
        return ""
    return "it is no folder of transformers"
