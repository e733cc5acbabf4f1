"""From an ONNX file to a layer graph, safely: the order of the steps stands in the package.

Every tensor is checked before onnx's C++ sees the model, also those that the lifting would drop:
none may point to a file that is not the model's own, because who trusts a file that was read here
will let ONNX Runtime open it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubtool.errors import ReadError, UnsupportedError
from hubtool.formats import strict_json
from hubtool.formats.onnx.external import OPENING, ExternalData, Resolve, map_file
from hubtool.formats.onnx.wire import Skeleton, strip
from hubtool.formats.onnx.worker import Worker
from hubtool.graph import Graph
from hubtool.ops import OPSETS

if TYPE_CHECKING:
    import onnx

__all__ = ["METADATA", "read"]

METADATA = ("labels", "preprocessing", "untrained", "zoo", "licence")
"""What hubtool writes into an ONNX file's metadata, as `hubtool.NAME`, and reads back."""

AGAIN = "Compare its size and sha256 with the publisher's and download it again."

OTHERS = {
    b"version https://git-lfs.github.com/": (
        "is a Git LFS pointer, not the model",
        "`git lfs pull` in its repository fetches the model; or download the file itself.",
    ),
    b"<": ("is a web page, not a model", "Download the file itself, not the page about it."),
    b"{": ("is JSON text, not an ONNX model", "Look for the .onnx file beside it."),
    b"PK\x03\x04": (
        "is a zip archive, as PyTorch writes its models, not an ONNX model",
        "Export it from PyTorch with torch.onnx.export, or unpack it yourself.",
    ),
    b"\x80\x02": (
        "is a Python pickle, as PyTorch writes its models, not an ONNX model",
        "Export it from PyTorch with torch.onnx.export.",
    ),
    b"\x1f\x8b": ("is compressed with gzip", "Unpack it first."),
    b"GGUF": ("is a GGUF file, not an ONNX model", "hubtool does not read GGUF."),
    b"\x89HDF": ("is an HDF5 file, as Keras writes its models", "Export it with tf2onnx."),
}
"""How files that are often taken for ONNX begin; no ONNX model begins like that."""


def read(path: str | os.PathLike[str], *, isolated: bool = True) -> Graph:
    """The layer graph of an ONNX file, lifted to the pinned opset; weights stay mapped.

    isolated=False runs onnx's C++ in this process, without limits: for files that one trusts.
    Raises ReadError (missing, damaged, hostile) or UnsupportedError, with every problem.
    """
    path = Path(path)
    data = _map(path)
    label = f"'{path}'"
    _refuse_others(data, label)
    skeleton = strip(data, label)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(lambda: hashlib.sha256(data).hexdigest())
        resolve = _resolver(skeleton, ExternalData(path))
        model, facts = _lift(skeleton.data, label, resolve, isolated)
        graph = _bind(model, label, resolve)
        graph.meta = {
            "name": path.stem,
            "source": {
                "file": path.name,
                "sha256": digest.result(),
                "size": len(data),
                "opset": facts["opset"],
                "ir_version": facts["ir_version"],
                **_producer(model),
            },
            **_metadata(model),
        }
    if facts["notes"]:
        graph.meta["notes"] = facts["notes"]
    return graph


def _map(path: Path) -> memoryview:
    try:
        data = map_file(os.open(path, OPENING), f"'{path}'")
    except FileNotFoundError:
        raise ReadError(f"there is no file '{path}'", hint="Check the name.") from None
    except OSError as error:
        raise ReadError(f"'{path}' cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ReadError(f"{error}, not an ONNX model") from None
    if not data:
        raise ReadError(f"'{path}' is empty", hint="Download it again.")
    return data


def _refuse_others(data: memoryview, label: str) -> None:
    """Raises ReadError for what is often taken for an ONNX model, and says what it is."""
    start = bytes(data[:64])
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 8 + header <= len(data) and data[7 + header] in b"} ":
        raise ReadError(
            f"{label} is a safetensors file, not an ONNX model",
            hint="It holds weights without a model; look for the .onnx file beside it.",
        )
    for magic, (what, hint) in OTHERS.items():
        if start.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(magic):
            raise ReadError(f"{label} {what}", hint=hint)


def _lift(
    data: bytes, label: str, resolve: Resolve, isolated: bool
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The lifted skeleton, once its source has been checked, and what `lift.attempt` says."""
    worker = Worker() if isolated else None
    try:
        import onnx  # while the worker imports it too

        from hubtool.formats.onnx.lift import attempt, parse

        try:
            problems = _damage(parse(data), resolve)
        except ValueError as error:
            raise ReadError(f"{label} cannot be read: {error}", hint=AGAIN) from None
        if problems:
            raise ReadError(f"{label} cannot be read:", problems=problems, hint=AGAIN)
        if worker is None:
            model, facts = attempt(data)
        else:
            body, facts = worker.lift(data, label)
            model = onnx.ModelProto.FromString(body)
    finally:
        if worker is not None:
            worker.close()
    if "error" in facts:
        raise ReadError(f"{label} cannot be read: {facts['error']}")
    _refuse(label, facts.get("problems", []))
    return model, facts


def _damage(model: onnx.ModelProto, resolve: Resolve) -> list[str]:
    """What is wrong with a model's tensors, wherever in it they stand. ValueError where a name is
    no text."""
    from hubtool.formats.onnx.bind import Binder

    binder = Binder(resolve)
    problems = []
    for label, tensor in _tensors(model, ""):
        try:
            binder.check(tensor)
        except ValueError as error:
            problems.append(f"{label}: {error}")
    return problems


def _tensors(message: Any, label: str) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every tensor at or below a message, and how to call it."""
    kind = message.DESCRIPTOR.name
    if kind == "NodeProto":
        name = message.name or next(iter(message.output), "")
        label = f"layer {name!r:.200} ({message.op_type!s:.80})"
    elif kind == "TensorProto":
        yield f"{label}: tensor {message.name!r:.200}".removeprefix(": "), message
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            texts = [value] if isinstance(value, str | bytes) else value
            if not all(isinstance(text, str) for text in texts):
                raise ValueError(f"the {field.name} of a {kind} is not UTF-8 text")
        elif field.message_type is not None:
            for inner in value if isinstance(value, Sequence) else [value]:
                yield from _tensors(inner, label)


def _bind(model: onnx.ModelProto, label: str, resolve: Resolve) -> Graph:
    from hubtool.formats.onnx.bind import Binder

    opsets = {("" if e.domain == "ai.onnx" else e.domain): e.version for e in model.opset_import}
    binder = Binder(resolve)
    graph = binder.graph(model.graph)
    newer = [
        f"it needs {domain} {version}, and this hubtool knows {OPSETS[domain]}: upgrade hubtool"
        for domain, version in opsets.items()
        if version > OPSETS.get(domain, version)
    ]
    _refuse(label, binder.problems + newer)
    return graph


def _refuse(label: str, problems: list[str]) -> None:
    if problems:
        raise UnsupportedError(
            f"{label} cannot be read:",
            problems=problems,
            hint="Nothing was written. The names above are those of the ONNX file's own nodes.",
        )


def _resolver(skeleton: Skeleton, external: ExternalData) -> Resolve:
    def resolve(entry: dict[str, str], size: int) -> memoryview:
        payload = skeleton.payload(entry.get("location", ""))
        if payload is None:
            return external.view(entry, size)
        if len(payload) != size:
            raise ValueError(f"it holds {len(payload)} bytes, its shape and type ask for {size}")
        return payload

    return resolve


def _producer(model: onnx.ModelProto) -> dict[str, str]:
    name = f"{model.producer_name} {model.producer_version}".strip()
    return {"producer": name} if name else {}


def _metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """hubtool's own facts under their names, all others as they stand."""
    meta: dict[str, Any] = {}
    others: dict[str, str] = {}
    for entry in model.metadata_props:
        name = entry.key.removeprefix("hubtool.")
        if entry.key.startswith("hubtool.") and name in METADATA:
            with suppress(ValueError):
                meta[name] = strict_json.loads(entry.value.encode())
                continue
        others[entry.key] = entry.value
    return {**meta, "metadata": others} if others else meta
