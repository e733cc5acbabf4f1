"""What a converted folder says of itself, as far as a card tells it.

Everything here is read from graph.json and report.json, so that no figure in a card comes from a
keyboard. The weights are not touched. Names in a model come from strangers too: `code` puts them
into Markdown so that they stay words.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubtool.errors import InputError, ReadError

if TYPE_CHECKING:
    from hubtool.graph import Graph, Value

__all__ = ["Facts", "code", "facts", "words"]

LONGEST = 200
URL = re.compile(r"https?://[^\s<>|`]+")


@dataclass(frozen=True)
class Facts:
    """The facts of one conversion. A str | None is None where nothing is known.

    folder: its name, not where it lies. repository: the hub's id, where it has one. source: `file`,
    `sha256`, `size`, `opset` of the ONNX file. operators: layers by operator, most frequent first.
    weights: `file`, `sha256`, `size` of each weights file. verification: `status`, `judge`,
    `inputs`, `difference`, `tolerance`, `reason`, as the report holds them; {} where there is no
    report. training: what `Module.graph` told of a model that was trained on: `base`,
    `trained_parameters`, `frozen_parameters` and what its author added; {} where it was not.
    axon: what cannot be said in Axon, layer by layer. transformers: where the folder holds
    transformers' own form, what Bumblebee would do wrong with it, or ""; else None.
    """

    name: str
    folder: str
    repository: str | None
    source: dict[str, Any]
    source_url: str | None
    opset: int | None
    inputs: dict[str, Value]
    outputs: dict[str, Value]
    operators: dict[str, int]
    parameters: int
    weights: list[dict[str, Any]]
    preprocessing: dict[str, Any] | None
    labels: int
    verification: dict[str, Any]
    training: dict[str, Any]
    licence: str | None
    zoo: str | None
    untrained: bool
    hubtool: str | None
    axon: list[str]
    transformers: str | None

    @property
    def layers(self) -> int:
        return sum(self.operators.values())

    @property
    def classifies_pictures(self) -> bool:
        """Whether `hubtool run FOLDER cat.jpg` answers with labels."""
        return self.preprocessing is not None and self.labels > 0

    def texts(self) -> dict[str, str]:
        """The facts that a card's prose may name, each as a few words of Markdown."""
        source, verification = self.source, self.verification
        difference = verification.get("difference")
        known = isinstance(difference, int | float) and math.isfinite(difference)
        unknown = "not known"
        return {
            "axon": self.in_axon(),
            "difference": f"{difference:.1e}" if known else "not measured",
            "hubtool": words(self.hubtool or unknown),
            "inputs": _values(self.inputs),
            "judge": words(verification.get("judge") or "nobody"),
            "layers": f"{self.layers:,}",
            "opset": str(source.get("opset") or unknown),
            "outputs": _values(self.outputs),
            "parameters": f"{self.parameters:,}",
            "sha256": code(source["sha256"]) if source.get("sha256") else unknown,
            "size": f"{source['size']:,} bytes" if source.get("size") else unknown,
            "verification": self.verified(),
            "weights-sha256": ", ".join(code(file["sha256"]) for file in self.weights),
        }

    def trained(self) -> list[tuple[str, str]]:
        """What is told of a training behind the conversion, as rows of a table."""
        base = self.training.get("base")
        base = base if isinstance(base, dict) else {}
        source = _source(base)
        name = _text(base, "zoo") or _text(base, "name") or source.get("file") or "a model"
        sketch = ", an untrained sketch" if base.get("untrained") is True else ""
        sha256 = f" (ONNX file {code(source['sha256'])})" if source.get("sha256") else ""
        rows = [("Trained from", f"{words(name)}{sketch}{sha256}")]
        for key, value in self.training.items():
            if key != "base" and isinstance(value, str | int | float):
                shown = f"{value:,}" if isinstance(value, int) else words(str(value))
                rows.append((words(key.replace("_", " ").capitalize()), shown))
        return rows

    def in_axon(self) -> str:
        """Whether Elixir's Axon can say the model, in a few words."""
        if not self.axon:
            return "every layer can be said in Axon"
        first = words(self.axon[0])
        return f"{len(self.axon)} of its layers cannot be said in Axon, the first: {first}"

    def verified(self) -> str:
        """One sentence on whether the folder computes what its source does."""
        told = self.verification
        if self.training:
            return "It was trained after its conversion, so there is no source to compare it with."
        if not told:
            return "**Not verified**: the folder holds no report of its conversion."
        status, difference = words(told["status"]).capitalize(), told["difference"]
        if difference is None:
            return f"**{status}**: {words(told['reason'])}."
        sentence = (
            f"**{status}**: the largest difference between hubtool's numpy backend on this folder "
            f"and {words(told['judge'])} on the source file is {difference:.1e} of the largest "
            f"output value (tolerance {told['tolerance']:.0e}), on {words(told['inputs'])}"
        )
        return f"{sentence}; {words(told['reason'])}." if told["reason"] else f"{sentence}."


def facts(
    folder: Path,
    *,
    repository: str | None = None,
    source_url: str | None = None,
    licence: str | None = None,
) -> Facts:
    """The facts of a native folder. repository: its id on a hub. source_url: where the ONNX file
    can be had. licence: where the folder does not say, or says wrong.

    Raises ReadError (no such folder, damaged, a report of another model), InputError
    (preprocessing that is not whole, a source_url that is none).
    """
    from hubtool.formats import native
    from hubtool.formats.axon import coverage
    from hubtool.formats.strict_json import loads
    from hubtool.graph import parameters
    from hubtool.vision import preprocessing

    graph = native.read(folder)
    document = loads((folder / "graph.json").read_bytes())
    meta = graph.meta
    source = _source(meta)
    report = _report(folder / native.REPORT, source)
    url = source_url or source.get("url")
    if url and not URL.fullmatch(url):
        raise InputError(f"'{url}' is no http or https address of the source file")
    spec, labels = meta.get("preprocessing"), meta.get("labels")
    return Facts(
        name=_text(meta, "zoo") or _text(meta, "name") or folder.resolve().name,
        folder=folder.resolve().name,
        repository=repository,
        source=source,
        source_url=url,
        opset=document["opsets"].get(""),
        inputs=graph.free_inputs,
        outputs=graph.outputs,
        operators=dict(Counter(layer.op for layer in graph.layers).most_common()),
        parameters=parameters(graph),
        weights=document["weights"],
        preprocessing=None if spec is None else preprocessing(spec),
        labels=len(labels) if isinstance(labels, list) else 0,
        verification=report.get("verification", {}),
        training=trained if isinstance(trained := meta.get("training"), dict) else {},
        licence=licence or _text(meta, "licence"),
        zoo=_text(meta, "zoo"),
        untrained=meta.get("untrained") is True,
        hubtool=_text(report, "hubtool"),
        axon=coverage(graph),
        transformers=_transformers(folder, graph),
    )


def _transformers(folder: Path, graph: Graph) -> str | None:
    from hubtool.formats.transformers import bumblebee, fits

    if not (folder / "transformers" / "config.json").is_file() or fits(graph):
        return None
    return bumblebee(graph)


def _text(known: Mapping[str, Any], key: str) -> str | None:
    value = known.get(key)
    return value if isinstance(value, str) and value else None


def _source(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of the ONNX file, as far as it is of the type that it should be."""
    told = meta.get("source")
    kinds = {"file": str, "sha256": str, "url": str, "size": int, "opset": int}
    given = told if isinstance(told, dict) else {}
    return {key: given[key] for key, kind in kinds.items() if isinstance(given.get(key), kind)}


def _report(path: Path, source: Mapping[str, Any]) -> dict[str, Any]:
    """What the conversion reported; {} where the folder holds no report."""
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        told, theirs = report["verification"], report["source"].get("sha256")
        numbers = [told["tolerance"], told["difference"] or 0.0]
        texts = [told["status"], told["judge"], told["inputs"], told["reason"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        numbers, texts, theirs = [None], [], None
    if not all(isinstance(n, int | float) for n in numbers) or not all(
        isinstance(text, str) for text in texts
    ):
        raise ReadError(f"'{path}' is no report of hubtool's", hint="Convert the model again.")
    if theirs != source.get("sha256"):
        raise ReadError(
            f"'{path}' is the report of another model: its source has another sha256",
            hint="Convert the model again, or remove the report.",
        )
    return dict(report)


def code(text: str | Value) -> str:
    """A word from a model as a Markdown code span, in a table too."""
    word = words(str(text)).replace("|", "\\|")
    return f"`` {word} ``" if "`" in word else f"`{word}`"


def words(text: str) -> str:
    """One line of printable text that is not endless, opens no comment and makes no link."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line.replace("<", "‹").replace("](", "] (")[:LONGEST] or "?"


def _values(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{code(name)} {code(value)}" for name, value in values.items())
