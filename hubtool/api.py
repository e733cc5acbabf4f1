"""The public functions: each resolves what it is given and calls the rooms below.

A source is a native folder, an .onnx file, the id of a model on a hub ("axon/resnet34-v1", where no
file or folder has that name), or a Graph at hand. The command of the same name in
`hubtool.cli` is the shell of the function here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from hubtool.errors import BackendError, HubError, ReadError, UnsupportedError
from hubtool.feeds import read_arrays
from hubtool.graph import Graph

if TYPE_CHECKING:
    from hubtool.backends import Backend
    from hubtool.bench import Bench
    from hubtool.convert import Report
    from hubtool.export import Exported, Origin
    from hubtool.inspect import Table
    from hubtool.model import Model

__all__ = [
    "backends",
    "bench",
    "check",
    "classify",
    "convert",
    "export",
    "features",
    "import_axon",
    "info",
    "load",
    "read",
    "run",
    "save",
    "with_head",
    "write_axon_hub",
]

Source = str | os.PathLike[str]


def read(
    source: Source,
    *,
    verify: bool = False,
    hub: str | None = None,
    revision: str | None = None,
) -> Graph:
    """The layer graph of a native folder, an .onnx file or a model on a hub; weights are mapped,
    not copied.

    verify: also compare a folder's files with their recorded sha256. hub, revision: for an id.
    Raises ReadError (missing, damaged, hostile), UnsupportedError (what ONNX says and we do not),
    HubError.

    Example: `print(hubtool.read("resnet34.onnx"))`
    """
    path = _resolved(source, hub, revision)
    if path.is_dir():
        from hubtool.formats import native

        return native.read(path, verify=verify)
    from hubtool.formats.onnx import read as onnx_read

    return onnx_read.read(path)


def _resolved(source: Source, hub: str | None, revision: str | None) -> Path:
    """The folder or file that a source is, fetched if it is on a hub."""
    path = Path(source)
    if path.exists() and hub is None and revision is None:
        return path
    return _pulled(str(source), hub, revision)


def _pulled(source: str, hub: str | None, revision: str | None) -> Path:
    """The folder in the cache of a model that is named by its id on a hub."""
    from hubtool.hub import address

    missing = f"there is no file or folder '{source}'"
    if not address.is_name(source) or source.endswith(".onnx"):
        raise ReadError(
            missing,
            hint="Give a folder that `hubtool convert` wrote, an .onnx file, or the id of a model "
            "on a hub, such as axon/resnet34-v1.",
        )
    from hubtool.hub.pull import model

    try:
        return model(address.resolve(hub), source, revision=revision)
    except HubError as error:
        if hub is not None or revision is not None:
            raise
        raise HubError(f"{missing}, and {error.message}", hint=error.hint) from error


def convert(
    source: Source,
    target: Source | None = None,
    *,
    overwrite: bool = False,
    verify: bool = True,
    sample: Source | Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    force: bool = False,
    optimize: bool = False,
    labels: Source | list[str] | None = None,
    preprocess: str | Mapping[str, Any] | None = None,
) -> Report:
    """Turn an .onnx file into a native folder (./<stem>/ by default), verified.

    The folder computes what the file does: our numpy backend is compared with ONNX Runtime on the
    source, and more than `tolerance` (1e-4 of the largest value; 0.05 where the model is
    quantized) is refused unless `force`.
    sample: an .npz file, or a dict of arrays, to verify on instead of seeded inputs.
    optimize: fold constants and BatchNormalization for good; the model is then for inference only.
    labels: a file (one a line, or JSON) or a list; "imagenet" for the 1,000 names of ILSVRC2012.
    preprocess: "imagenet", or a dict (docs/format.md). Both are known for the zoo's own files.
    Raises ReadError, UnsupportedError, VerifyError, WriteError; nothing is left behind then.

    Example: `print(hubtool.convert("resnet34.onnx", "resnet34"))`
    """
    from hubtool.convert import convert as write_verified
    from hubtool.formats import native
    from hubtool.formats.onnx import read as onnx_read

    path = Path(source)
    place = Path(target) if target is not None else Path(path.stem)
    native.check_target(place, overwrite=overwrite)
    if path.is_dir():
        raise ReadError(
            f"'{source}' is a folder, and convert reads .onnx files",
            hint="`hubtool info` looks at a folder, `hubtool export` writes it as ONNX.",
        )
    graph = onnx_read.read(path)
    graph.meta.update(_facts(graph, labels, preprocess))
    given = read_arrays(sample, graph) if isinstance(sample, str | os.PathLike) else sample
    return write_verified(
        path,
        graph,
        place,
        overwrite=overwrite,
        verified=verify,
        sample=given,
        tolerance=tolerance,
        force=force,
        optimize=optimize,
    )


def _facts(
    graph: Graph, labels: Source | list[str] | None, preprocess: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    """Labels, preprocessing and origin: what the caller gives, else what the zoo knows."""
    from hubtool import vision, zoo

    facts: dict[str, Any] = {}
    known = zoo.find_by_sha256(graph.meta["source"]["sha256"])
    if known is None and graph.meta.get("untrained") and graph.meta.get("zoo") in zoo.ZOO:
        known = zoo.find(graph.meta["zoo"])
    if known is not None:
        facts = {"zoo": known.name, "licence": known.licence}
        labels, preprocess = labels or "imagenet", preprocess or "imagenet"
    if labels is not None:
        facts["labels"] = labels if isinstance(labels, list) else vision.read_labels(labels)
    if preprocess is not None:
        facts["preprocessing"] = vision.preprocessing(preprocess)
    return facts


def load(
    source: Source | Graph,
    *,
    backend: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    options: Mapping[str, Any] | None = None,
    verify: bool = False,
    hub: str | None = None,
    revision: str | None = None,
) -> Model:
    """A model that can be called, from a native folder, an .onnx file, a hub or a Graph.

    backend: `hubtool.backends()` lists them; the fastest that is there by default, native before
    onnxruntime. threads: for one run.
    precision: "fp32" (strict, the default), "exact", "tf32", "fp16", "bf16", where the backend has
    it.
    options: the backend's own, by name.
    hub, revision: where a model that is named by its id is fetched from, and which one.
    Raises what `read` raises, BackendError, and UnsupportedError with every layer that the backend
    cannot run.

    Example: `logits = hubtool.load("resnet34", backend="torch")(x)`
    """
    from hubtool.model import Model

    graph = (
        source
        if isinstance(source, Graph)
        else read(source, verify=verify, hub=hub, revision=revision)
    )
    return Model(
        graph,
        backend=backend,
        device=device,
        threads=threads,
        precision=precision,
        options=options,
    )


@overload
def features(source: Model, layer: str) -> Model: ...
@overload
def features(source: Source | Graph, layer: str) -> Graph: ...
def features(source: Source | Graph | Model, layer: str) -> Graph | Model:
    """A model cut behind one of its layers: what comes out there is its only output.

    A Model gives a Model on the same backend and device, everything else a Graph. `layer` may also
    be the name of a value. Raises InputError where there is none of that name.

    Example: `backbone = hubtool.features("resnet34", "resnetv18_flatten0_reshape0")`
    """
    from hubtool.model import Model
    from hubtool.training import cut

    if isinstance(source, Model):
        return Model(
            cut(source.graph, layer),
            backend=source.backend,
            device=source.device,
            threads=source.threads,
            precision=source.precision,
            options=source.options,
        )
    return cut(source if isinstance(source, Graph) else read(source), layer)


def with_head(source: Source | Graph, labels: Sequence[str], *, seed: int = 0) -> Graph:
    """A model with a new classifier behind its only output [N,C] or [N,C,H,W]: one score a label,
    from a fully connected layer "head" whose weights come from the seed. Raises InputError.

    Example: `graph = hubtool.with_head(hubtool.features("resnet34", "pool"), ["cat", "dog"])`
    """
    from hubtool.training import with_head as attach

    return attach(source if isinstance(source, Graph) else read(source), labels, seed=seed)


def save(graph: Graph, folder: Source, *, overwrite: bool = False) -> None:
    """Write a graph as a native folder. Raises WriteError if it exists, unless `overwrite`."""
    from hubtool.formats import native

    native.write(graph, Path(folder), overwrite=overwrite)


def export(
    source: Source | Graph,
    target: Source | None = None,
    *,
    to: str | None = None,
    opset: int | None = None,
    external: bool | None = None,
    overwrite: bool = False,
    hub: str | None = None,
    revision: str | None = None,
) -> Exported:
    """Write a model as an ONNX file, a Livebook notebook, an Elixir module, or for transformers.

    to: "onnx", "livemd", "axon" or "transformers"; by the target's suffix otherwise. target: by
    default a file or folder named after the model, inside of its own folder but for ONNX.
    opset: the lowest that can say the model unless given. external: weights beside the ONNX file;
    by default only past protobuf's 2 GB. hub, revision: for the id of a model on a hub.
    Raises what `read` raises, WriteError, and UnsupportedError naming every layer that the form
    cannot say.

    Example: `hubtool.export("resnet34", "resnet34.onnx", opset=13).opset`
    """
    from hubtool.export import Origin, format_of
    from hubtool.export import export as write

    form = format_of(target, to)
    if isinstance(source, Graph):
        graph, origin = source, Origin(str(source.meta.get("name") or "model"))
    else:
        path = _resolved(source, hub, revision)
        graph = read(path)
        origin = _origin(str(source), path, hub)
    place = Path(target) if target is not None else None
    return write(graph, origin, place, form, opset=opset, external=external, overwrite=overwrite)


def _origin(source: str, path: Path, hub: str | None) -> Origin:
    from hubtool.export import Origin
    from hubtool.formats import native

    if not path.is_dir():
        return Origin(path.stem)
    weights = tuple(native.weights_files(path))
    if str(path) == source or Path(source).exists():
        return Origin(path.resolve().name, path, weights)
    from hubtool.hub import address

    where = address.resolve(hub)
    url = where.url or address.SERVED
    return Origin(source.rpartition("/")[2], None, weights, source, path.name, url)


def import_axon(path: Source, target: Source | None = None, *, overwrite: bool = False) -> Path:
    """Make a native folder (./<stem>/ by default) of a model that `AxonHub.export/3` wrote in
    Elixir: axon.json with its safetensors file beside it. Gives the folder.

    Raises ReadError with everything that is wrong, UnsupportedError, WriteError.

    Example: `hubtool.export(hubtool.import_axon("axon.json"), "model.onnx")`
    """
    from hubtool.formats import native
    from hubtool.formats.axon import read as axon_read
    from hubtool.ops import check as check_layers

    place = Path(target) if target is not None else Path(Path(path).stem)
    native.check_target(place, overwrite=overwrite)
    graph = axon_read.read(Path(path))
    problems = check_layers(graph)
    if problems:
        raise UnsupportedError(f"'{path}' cannot be imported:", problems=problems)
    native.write(graph, place, overwrite=overwrite)
    return place


def write_axon_hub(target: Source = "axon_hub.ex", *, overwrite: bool = False) -> Path:
    """Write axon_hub.ex, the one file with which Elixir finds, fetches and opens models of hubtool.
    Gives where it is. Raises WriteError.

    Example: `hubtool.write_axon_hub("lib/axon_hub.ex")`
    """
    from hubtool.files import new_file

    source = Path(__file__).parent / "formats" / "axon" / "axon_hub.ex"
    with new_file(Path(target), overwrite=overwrite) as stream:
        stream.write(source.read_bytes())
    return Path(target)


def run(
    source: Source | Graph,
    feeds: Mapping[str, Any] | Source,
    *,
    backend: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """The outputs of a model by name, run once.

    feeds: arrays by input name, or an .npz file of them, or an .npy file for the only input.
    Raises what `load` raises, InputError (what is fed does not fit) and RunError.

    Example: `hubtool.run("resnet34", {"data": x})`
    """
    model = load(source, backend=backend, device=device, threads=threads)
    given = read_arrays(feeds, model.graph) if isinstance(feeds, str | os.PathLike) else feeds
    return model.run(given)


def classify(
    model: Model | Source, image: Any, *, top: int = 5, backend: str | None = None
) -> list[tuple[str, float]]:
    """The `top` most probable classes of a picture, as (label, probability).

    image: a file's name, a PIL image, or an array that the model takes as it is. How a picture
    becomes an input, and the labels, stand in the model's own metadata.
    Raises InputError where they do not, or where the picture cannot be read.

    Example: `hubtool.classify("resnet34", "cat.jpg")[0]`
    """
    from hubtool import vision

    if isinstance(model, str | os.PathLike):
        model = load(model, backend=backend)
    return vision.classify(model, image, top=top)


def info(
    source: Source | Graph,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    backend: str | None = None,
) -> Table:
    """The layer table with its totals, for the model's own shapes or for those given.

    backend: also prepare the model for that one, and give what it has to say: the layers that it
    does not run as it does the others, each with the reason.
    Without it nothing is computed and no weight is touched. Raises InputError where the shapes do
    not fit, and with a backend what `load` raises.

    Example: `hubtool.info("resnet34", {"data": (8, 3, 224, 224)}).multiply_adds`
    """
    from dataclasses import replace

    from hubtool.inspect import layer_table

    graph = source if isinstance(source, Graph) else read(source)
    table = layer_table(graph, shapes)
    if backend is None:
        return table
    return replace(table, notes=load(graph, backend=backend).notes)


def check(source: Source, *, target: str | None = None) -> list[str]:
    """Everything that stops a model from being converted or run, each problem naming its layer;
    an empty list where there is nothing. A folder's hashes are compared too.

    target: "axon" or "transformers", to be told what stops it from being exported there instead.

    Example: `hubtool.check("resnet34", target="axon")`
    """
    from hubtool.ops import check as check_layers

    try:
        graph = read(source, verify=True)
    except (ReadError, UnsupportedError) as error:
        return error.problems or [str(error)]
    if target is not None:
        from hubtool.export import reasons_against

        return reasons_against(graph, target)
    return check_layers(graph)


def backends() -> list[dict[str, Any]]:
    """Every backend: name, version, devices, precisions, dtypes and options where it is available,
    else the reason and what would make it so."""
    from hubtool.backends import BACKENDS, default, module

    rows: list[dict[str, Any]] = []
    for name in BACKENDS:
        backend = module(name)
        reason = backend.available()
        row: dict[str, Any] = {"name": name, "available": reason is None}
        try:
            row |= {"reason": reason} if reason is not None else _described(backend)
        except BackendError as error:  # what the environment asks of it, it has not
            row |= {"available": False, "reason": f"{error.message}. {error.hint}"}
        rows.append(row | {"default": name == default()})
    return rows


def _described(backend: Backend) -> dict[str, Any]:
    devices = backend.devices()
    return {
        "version": backend.version(),
        "devices": devices,
        "precisions": {device: backend.precisions(device) for device in devices},
        "dtypes": backend.dtypes(),
        "options": dict(backend.OPTIONS),
    }


def bench(
    source: Source | Graph,
    *,
    backends: Sequence[str] = (),
    batch: Sequence[int] = (),
    threads: Sequence[int] = (),
    device: Sequence[str] = ("cpu",),
    precision: Sequence[str] = ("fp32",),
    rounds: int = 9,
    peers: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    tell: Callable[[str], None] | None = None,
) -> Bench:
    """How fast each backend runs a model here, and whether their outputs agree.

    Every combination of backend (all of them where none is named), batch, threads (each library's
    own number where none is given), device and precision is measured in a process of its own, in
    turn. peers: ONNX Runtime and OpenVINO reading the ONNX file themselves, too. shapes: sizes
    of inputs for axes that the model leaves open. tell: called with what is being done.
    Raises what `read` raises, BackendError (a name that nobody has), InputError (the sizes). What
    cannot be measured is a row with the reason.

    Example: `hubtool.bench("resnet34", backends=["torch", "onnxruntime"]).plot("bench.svg")`
    """
    from hubtool.bench import bench as measure
    from hubtool.formats import native

    graph, folder, file = source, None, None
    if not isinstance(graph, Graph):
        path = _resolved(graph, None, None)
        graph = read(path)
        folder, file = (path, None) if native.is_folder(path) else (None, path)
    return measure(
        graph,
        folder,
        file,
        backends=backends,
        batch=batch,
        threads=threads,
        device=device,
        precision=precision,
        rounds=rounds,
        peers=peers,
        shapes=shapes,
        seed=seed,
        tell=tell,
    )
