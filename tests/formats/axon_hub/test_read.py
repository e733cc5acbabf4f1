"""Axon models as AxonHub.export/3 wrote them become graphs that compute the same.

`exported.json` holds small models of every layer of the vocabulary, exported from Axon 0.8.1 with
Nx 0.13.1, one a line: the document, the weights, an input, and what Axon itself made of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import hubtool
from hubtool.errors import ReadError
from hubtool.formats import native
from hubtool.formats.axon.read import read

EXPORTED = {
    told["name"]: told
    for told in json.loads((Path(__file__).parent / "exported.json").read_text(encoding="utf-8"))
}
TOLERANCE = 1e-6


def array(told: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.array(told["values"], told["dtype"]).reshape(told["shape"])


def written(
    folder: Path,
    name: str,
    change: Callable[[dict[str, Any]], object] = lambda document: None,
    more: dict[str, np.ndarray[Any, Any]] | None = None,
) -> Path:
    """The two files of an exported model, its document changed."""
    told = json.loads(json.dumps(EXPORTED[name]))
    weights = folder / "axon.safetensors"
    save_file({key: array(w) for key, w in told["weights"].items()} | (more or {}), weights)
    data = weights.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    entry = {"file": weights.name, "sha256": sha256, "size": len(data)}
    document = told["document"] | {"weights": [entry]}
    change(document)
    path = folder / "axon.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_layer_computes_what_axon_computes(name: str, tmp_path: Path) -> None:
    graph = read(written(tmp_path, name))
    told = EXPORTED[name]
    native.write(graph, tmp_path / "native")
    assert native.read(tmp_path / "native", verify=True) == graph
    feeds = {key: array(item) for key, item in told["inputs"].items()}
    found = hubtool.load(graph, backend="numpy").run(feeds)
    assert found.keys() == told["outputs"].keys()
    for key, item in told["outputs"].items():
        wanted = array(item)
        assert found[key].shape == wanted.shape
        assert found[key].dtype == wanted.dtype
        assert np.max(np.abs(found[key] - wanted)) <= TOLERANCE * np.max(np.abs(wanted))


def conv(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["nodes"][1]
    assert found["op"] == "conv"
    return found


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer": (lambda d: d.update(format=2), "Upgrade hubtool"),
    "more keys": (lambda d: d.update(extra=1), "extra"),
    "other size": (lambda d: d["weights"][0].update(size=3), "are recorded"),
    "other hash": (lambda d: d["weights"][0].update(sha256="0" * 64), "sha256"),
    "way out": (lambda d: d["weights"][0].update(file="../axon.safetensors"), "no name"),
    "no weights": (lambda d: d.update(weights=[]), "hold no 'c/"),
    "unknown layer": (lambda d: conv(d).update(op="teleport"), "'teleport' is no layer"),
    "unknown option": (lambda d: conv(d)["options"].update(magic=1), "unknown option 'magic'"),
    "odd option": (lambda d: conv(d)["options"].update(strides="x"), "'strides' is 'x'"),
    "spread input": (lambda d: conv(d)["options"].update(input_dilation=2), "input_dilation"),
    "groups": (lambda d: conv(d)["options"].update(feature_group_size=3), "into 3 groups"),
    "no kernel": (lambda d: conv(d).update(parameters={}), "'kernel' is missing"),
    "later input": (lambda d: conv(d).update(inputs=[1]), "nodes before it"),
    "negative input": (lambda d: conv(d).update(inputs=[-1]), "nodes before it"),
    "no rank": (lambda d: d["nodes"][0].update(rank=None), "is not told"),
    "wrong rank": (lambda d: d["nodes"][0].update(rank=3), "has 3 axes"),
    "no id": (lambda d: conv(d).pop("id"), "must have exactly"),
    "nodes": (lambda d: d.update(nodes={}), "must be arrays"),
    "no outputs": (lambda d: d.update(outputs=[]), "outputs must list"),
    "twice": (lambda d: d.update(outputs=d["outputs"] * 2), "no name twice"),
    "no node": (lambda d: d["outputs"][0].update(node=99), "it is no node"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_document_that_is_wrong_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    change, reason = REFUSED[name]
    with pytest.raises(ReadError) as caught:
        read(written(tmp_path, "conv_last", change))
    assert reason in str(caught.value)


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        conv(document)["op"] = "teleport"
        document["nodes"][2]["options"]["magic"] = 1
        document["nodes"][-1]["parameters"]["kernel"] = "nowhere"

    with pytest.raises(ReadError) as caught:
        read(written(tmp_path, "conv_last", change))
    assert len(caught.value.problems) == 3


def test_a_weight_that_nothing_names_is_refused(tmp_path: Path) -> None:
    more = {"surplus": np.ones(2, np.float32)}
    with pytest.raises(ReadError) as caught:
        read(written(tmp_path, "conv_last", more=more))
    assert caught.value.problems == ["the weights hold 'surplus', which nothing names"]
