"""The ONNX Model Zoo's ResNets as data: what was published about each file, and its sketch.

The zoo's own download ended in July 2025; its files moved to the Hugging Face organisation
`onnxmodelzoo`. Sizes and hashes are those of the published files, so a file at hand can be told
apart from a damaged one, and known for what it is without being asked. The accuracies are the
zoo's own claims on ILSVRC2012's validation pictures (224 x 224, centre crop), not measured here:
https://huggingface.co/onnxmodelzoo/legacy_models

    hubtool.zoo.fetch("resnet34-v1", "resnet34.onnx")     # the real file, checked
    hubtool.zoo.sketch("resnet34-v1", "resnet34.onnx")    # the same file, with random weights
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from hubtool.errors import InputError, UnsupportedError, WriteError
from hubtool.files import new_file

if TYPE_CHECKING:
    from hubtool.hub.download import Progress

__all__ = ["ZOO", "ZooModel", "card", "fetch", "find", "find_by_sha256", "models", "sketch"]

NAME = "onnxmodelzoo/legacy_models"
REPOSITORY = f"https://huggingface.co/{NAME}"
FOLDER = "validated/vision/classification/resnet/model"


@dataclass(frozen=True)
class ZooModel:
    """One published file.

    version: of the architecture: 1 normalizes after each convolution, 2 before.
    top1, top5: the zoo's claims, in percent. output: the graph's one output, the logits.
    file: its name there. quantized: 8-bit integers; such a one has no sketch.
    """

    name: str
    version: int
    depth: int
    bytes: int
    sha256: str
    top1: float
    top5: float
    output: str
    file: str
    quantized: bool = False
    licence: str = "apache-2.0"

    @property
    def path(self) -> str:
        """Where the file lies in the repository `onnxmodelzoo/legacy_models`."""
        return f"{FOLDER}/{self.file}"

    @property
    def url(self) -> str:
        """Where the file can be had."""
        return f"{REPOSITORY}/resolve/main/{self.path}"


# version, depth, bytes, top-1, top-5, what the names in the graph begin with, sha256
_PUBLISHED = (
    (1, 18, 46_820_737, 69.93, 89.29, "resnetv15",
     "4e8f8653e7a2222b3904cc3fe8e304cd8b339ce1d05fd24688162f86fb6df52c"),
    (1, 34, 87_302_588, 73.73, 91.40, "resnetv16",
     "883a41b2e30ddc2e422c108b091b5e70b92d37dc5c345a2c563dcae27971e2cc"),
    (1, 50, 102_583_340, 74.93, 92.38, "resnetv17",
     "af16a04a6ec48ac494065d4439fe9dea590d337b9ca6dc328160ccf04a217b9c"),
    (1, 101, 178_914_043, 76.48, 93.20, "resnetv18",
     "760702f6ec0138f71ebac66f4e95d1c72dc9267a8544f4d4667a53075fd0497c"),
    (1, 152, 241_816_206, 77.11, 93.61, "resnetv19",
     "b0ec92437bf8c9d0739bf9bafdea9638e13f9e3c1e2fb766ad546cc182fd3f6d"),
    (2, 18, 46_806_737, 69.70, 89.49, "resnetv22",
     "3b4d048057854022232aa20bf68262e31718ab7119a17f920b8a2dc1433f824b"),
    (2, 34, 87_288_587, 73.36, 91.43, "resnetv23",
     "3d3815e25f4b1ea967e2a526a3b27ef2a03af1725bdc199a63a271c26862d914"),
    (2, 50, 102_442_452, 75.81, 92.82, "resnetv24",
     "79102261eb6e5fd7af5d27f41316293e388c5cb691e5d25bfb035c4f64fefe31"),
    (2, 101, 178_682_301, 77.42, 93.61, "resnetv25",
     "3a0a819ea0953fb4700b0d98e43540aeee253e5b4c503c552b0c7979fc67767d"),
    (2, 152, 241_503_848, 78.20, 94.21, "resnetv27",
     "40fb3f6dd313ba786a2c8077a0ef7d7b4afeda5d037365400d3a7fbc2b1bee64"),
)  # fmt: skip

_QUANTIZED = ZooModel(
    name="resnet50-v1-int8",
    version=1,
    depth=50,
    bytes=25_816_052,
    sha256="c234f30975989788b4405f25253275aae247ab6dbdd34aaa69ab0a59ff76f6d0",
    top1=74.77,
    top5=92.32,
    output="resnetv17_dense0_fwd",
    file="resnet50-v1-12-int8.onnx",
    quantized=True,
)


def _table() -> dict[str, ZooModel]:
    rows = [
        ZooModel(
            name=f"resnet{depth}-v{version}",
            version=version,
            depth=depth,
            bytes=size,
            sha256=sha256,
            top1=top1,
            top5=top5,
            output=f"{prefix}_dense0_fwd",
            file=f"resnet{depth}-v{version}-7.onnx",
        )
        for version, depth, size, top1, top5, prefix, sha256 in _PUBLISHED
    ]
    return {model.name: model for model in [*rows, _QUANTIZED]}


ZOO: dict[str, ZooModel] = _table()
"""Every model by its name in hubtool."""


def models() -> list[ZooModel]:
    """Every model, by version and depth."""
    return list(ZOO.values())


def find(name: str) -> ZooModel:
    """The model of that name. Raises InputError with the nearest names for one that is not there.

    Example: `hubtool.zoo.find("resnet34-v1").bytes`
    """
    if name in ZOO:
        return ZOO[name]
    near = get_close_matches(name.lower(), ZOO, n=3)
    raise InputError(
        f"the zoo has no model '{name}'",
        hint=f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(ZOO)}.",
    )


def find_by_sha256(sha256: str) -> ZooModel | None:
    """The model whose published file has this hash, or None."""
    return next((model for model in models() if model.sha256 == sha256.lower()), None)


def sketch(
    name: str, path: str | os.PathLike[str], *, seed: int = 0, overwrite: bool = False
) -> ZooModel:
    """Write the untrained look-alike of a model: the zoo's file, but with random weights.

    The file appears under `path` when it is whole. Raises InputError (no such model),
    UnsupportedError (the quantized one), WriteError.

    Example: `hubtool.zoo.sketch("resnet34-v1", "resnet34.onnx")`
    """
    model = find(name)
    if model.quantized:
        raise UnsupportedError(
            f"there is no sketch of '{name}': its scales and zero points come from calibration "
            "with real pictures, and random ones would be no likeness",
            hint=f"`resnet{model.depth}-v{model.version}` is the same network in float32; "
            f"the real file is at {model.url}",
        )
    from hubtool.formats.onnx.sketch import resnet

    prefix = model.output.removesuffix("_dense0_fwd")
    with new_file(Path(path), overwrite=overwrite) as stream:
        drawn = resnet(model.version, model.depth, prefix=prefix, name=name, seed=seed)
        stream.write(drawn.SerializeToString())
    return model


def fetch(
    name: str,
    path: str | os.PathLike[str],
    *,
    hub: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ZooModel:
    """Download the real file of a model to `path`, checked against its published sha256.

    hub: where to look for the zoo's repository; HF_ENDPOINT or huggingface.co by default. What was
    interrupted goes on where it stopped. Raises InputError (no such model), HubError, WriteError.

    Example: `hubtool.zoo.fetch("resnet34-v1", "resnet34.onnx")`
    """
    model = find(name)
    target = Path(path)
    if not overwrite and os.path.lexists(target):
        raise WriteError(
            f"'{path}' exists already", hint="Choose another target, or give --overwrite."
        )
    from hubtool.cache import folder_of
    from hubtool.hub import address, download
    from hubtool.hub.session import connect

    where = address.resolve(hub or os.environ.get("HF_ENDPOINT") or "hf")
    remote = download.Remote(NAME, "main", model.path, model.bytes, model.sha256)
    with connect(where, f"fetch {name} of the zoo") as connection:
        blob = download.fetch(connection, remote, folder_of(where.key, NAME) / "blobs", progress)
    with new_file(target, overwrite=overwrite) as stream, blob.open("rb") as source:
        shutil.copyfileobj(source, stream, 1 << 20)
    return model


def card(name: str) -> str:
    """The author's words for a model's card, from `model_cards`; "" where nobody wrote any."""
    package = Path(__file__).parent
    for folder in (package / "model_cards", package.parent / "model_cards"):
        if (folder / f"{name}.md").is_file():
            return (folder / f"{name}.md").read_text(encoding="utf-8")
    return ""
