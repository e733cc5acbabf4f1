"""From an ONNX file to a layer graph, safely: the order of the steps stands in the package."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubtool.errors import ReadError, UnsupportedError
from hubtool.formats.onnx.external import ExternalData, map_file
from hubtool.formats.onnx.wire import Skeleton, strip
from hubtool.formats.onnx.worker import Worker
from hubtool.graph import Graph
from hubtool.ops import OPSETS

if TYPE_CHECKING:
    import onnx

__all__ = ["METADATA", "read"]

METADATA = ("labels", "preprocessing", "untrained", "zoo", "licence")
"""What hubtool writes into an ONNX file's metadata, as `hubtool.NAME`, and reads back."""


def read(path: str | os.PathLike[str], *, isolated: bool = True) -> Graph:
    """The layer graph of an ONNX file, lifted to the pinned opset; weights stay mapped.

    isolated=False runs onnx's C++ in this process, without limits: for files that one trusts.
    Raises ReadError (missing, damaged, hostile) or UnsupportedError, with every problem.
    """
    path = Path(path)
    data = _map(path)
    label = f"'{path}'"
    skeleton = strip(data, label)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(lambda: hashlib.sha256(data).hexdigest())
        model, facts = _lift(skeleton.data, label, isolated)
        graph = _bind(model, skeleton, path)
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
        data = map_file(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), str(path))
    except FileNotFoundError:
        raise ReadError(f"there is no file '{path}'") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ReadError(f"'{path}' cannot be read: {reason}") from None
    if not data:
        raise ReadError(f"'{path}' is empty", hint="Download it again.")
    return data


def _lift(data: bytes, label: str, isolated: bool) -> tuple[onnx.ModelProto, dict[str, Any]]:
    if isolated:
        worker = Worker()
        try:
            import onnx  # while the worker imports it too

            body, facts = worker.lift(data, label)
        finally:
            worker.close()
        return onnx.ModelProto.FromString(body), facts
    from hubtool.formats.onnx.lift import lift

    try:
        lifted = lift(data)
    except Exception as error:
        raise ReadError(f"{label} cannot be read: {error}") from error
    return lifted.model, {
        "opset": lifted.opset,
        "ir_version": lifted.ir_version,
        "notes": lifted.notes,
    }


def _bind(model: onnx.ModelProto, skeleton: Skeleton, path: Path) -> Graph:
    from hubtool.formats.onnx.bind import Binder

    opsets = {("" if e.domain == "ai.onnx" else e.domain): e.version for e in model.opset_import}
    binder = Binder(_resolver(skeleton, ExternalData(path)), opsets)
    graph = binder.graph(model.graph)
    problems = binder.problems + [
        f"it needs {domain} {version}, and this hubtool knows {OPSETS[domain]}: upgrade hubtool"
        for domain, version in opsets.items()
        if version > OPSETS.get(domain, version)
    ]
    if problems:
        raise UnsupportedError(
            f"'{path}' cannot be read:",
            problems=problems,
            hint="Nothing was written. The names above are those of the ONNX file's own nodes.",
        )
    return graph


def _resolver(
    skeleton: Skeleton, external: ExternalData
) -> Callable[[dict[str, str], int], memoryview]:
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
            try:
                meta[name] = json.loads(entry.value)
            except ValueError:
                meta[name] = entry.value
        else:
            others[entry.key] = entry.value
    return {**meta, "metadata": others} if others else meta
