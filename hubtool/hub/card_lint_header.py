"""What is wrong with the header of a card: the part that machines read.

A hub filters by these words, so a word that it does not know makes a model that nobody finds. Each
problem has a short rule name, its place and its mend. huggingface_hub, which knows how a
`model-index` is read, is imported only for a card that has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from hubtool.hub.card_header import Header, HeaderError, parse
from hubtool.hub.card_licenses import DATASETS, LICENSES, PIPELINE_TAGS, nearest

__all__ = ["Problem", "lint_front_matter", "lint_header"]

FULL_ID = re.compile(r"[\w.-]+/[\w.-]+")
LICENSE_LIST = "https://huggingface.co/docs/hub/repositories-licenses"
TASK_LIST = "https://huggingface.co/tasks"


@dataclass(frozen=True)
class Problem:
    """Something wrong with a card, where it stands, and what mends it."""

    severity: Literal["error", "warning"]
    rule: str
    message: str
    mend: str
    file: str = "README.md"
    line: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.severity}: {self.message}  →  {self.mend}"


def lint_header(text: str, *, file: str = "README.md") -> list[Problem]:
    """What is wrong with the header of a card: it is missing or broken, or its data is wrong."""
    try:
        header = parse(text)
    except HeaderError as error:
        mend = "write it as `key: value`, one a line, between two lines `---`"
        return [Problem("error", "header-broken", error.reason, mend, file, error.line)]
    if header.end:
        return lint_front_matter(header.data, header, file=file)
    message = "the card has no header, so no hub knows its licence and tags"
    if text.lstrip().startswith("---\n"):
        message = "the header is never closed"
    mend = "begin the file with a line `---`, then `license: …` and `tags:`, then a line `---`"
    return [Problem("error", "header-missing", message, mend, file)]


def lint_front_matter(
    data: dict[str, Any], header: Header | None = None, *, file: str = "README.md"
) -> list[Problem]:
    """What is wrong with a header's data, the first hundred problems of it. header: as parsed, for
    the lines; without it all is reported for line 1."""
    where = header or Header(data)
    found = (
        Problem(severity, rule, message, mend, file, where.line(*path))
        for check in (_licence, _lists, _language, _pipeline_tag, _datasets, _model_index)
        for severity, rule, path, message, mend in check(data)
    )
    return sorted(islice(found, 100), key=lambda problem: problem.line)


Found = Iterator[tuple[Literal["error", "warning"], str, tuple[str | int, ...], str, str]]


def _licence(data: dict[str, Any]) -> Found:
    if "license" not in data:
        said = ("licence",) if "licence" in data else ()
        message = "the key is spelt `license` on a hub" if said else "no licence is given"
        yield "warning", "licence-missing", said, message, "`license: apache-2.0`, if that is it"
        return
    given = data["license"]
    for one in given if isinstance(given, list) else [given]:
        if not isinstance(one, str) or one not in LICENSES:
            near = nearest(_short(one), LICENSES)
            mend = f"write `{near}`, if that is meant; " if near else ""
            mend += f"the identifiers are listed at {LICENSE_LIST}; `other` is for all else"
            message = f"the licence `{_short(one)}` is no identifier that the Hub knows"
            yield "error", "licence-unknown", ("license",), message, mend
        elif one == "other":
            for key, example in (("license_name", "my-license-1.0"), ("license_link", "LICENSE")):
                if not isinstance(data.get(key), str) or not data[key].strip():
                    message = f"`license: other` needs `{key}`"
                    mend = f"add `{key}: {example}`"
                    yield "error", "licence-unnamed", ("license",), message, mend


def _lists(data: dict[str, Any]) -> Found:
    for key in ("tags", "datasets", "metrics"):
        value = data.get(key, [])
        if isinstance(value, str):
            parts = [part for part in re.split(r"[\s,]+", value) if part]
            lines = " ".join(f"`- {part}`" for part in parts[:10])
            message = f"`{key}` is no list, but the one text `{_short(value)}`"
            if len(parts) > 1:
                message += ": without hyphens YAML joins the lines"
            mend = f"write each on a line of its own that begins with a hyphen: {lines}"
            yield "error", f"{key}-no-list", (key,), message, mend
        elif not isinstance(value, list):
            message = f"`{key}` is no list of texts"
            mend = f"write `{key}:` and below it `- word` for each, or leave the key out"
            yield "error", f"{key}-no-list", (key,), message, mend
        else:
            yield from _items(key, value)


def _items(key: str, items: list[Any]) -> Found:
    for index, item in enumerate(items):
        if not isinstance(item, str) or not item.strip():
            message = f"`{_short(item)}` in `{key}` is no text: YAML takes it for {_kind(item)}"
            mend = "put it in quotes, or leave it out"
            yield "error", f"{key}-no-text", (key, index), message, mend
        elif re.search(r"[,\n]", item):
            message = f"`{_short(item)}` in `{key}` is one word with a comma in it"
            mend = "one word a line: " + " ".join(f"`- {p.strip()}`" for p in item.split(",")[:10])
            yield "warning", f"{key}-comma", (key, index), message, mend


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _kind(item: Any) -> str:
    kinds = {bool: "yes or no", int: "a number", float: "a number", dict: "a mapping", str: "empty"}
    return kinds.get(type(item), "nothing" if item is None else "a list")


def _language(data: dict[str, Any]) -> Found:
    given = data.get("language", [])
    for index, item in enumerate(given if isinstance(given, list) else [given]):
        if not isinstance(item, str):
            message = f"the language `{_short(item)}` is no text: YAML takes it for {_kind(item)}"
            mend = "put it in quotes, as in `- 'no'`"
            yield "error", "language-no-text", ("language", index), message, mend


def _pipeline_tag(data: dict[str, Any]) -> Found:
    given = data.get("pipeline_tag")
    if given is not None and given not in sorted(PIPELINE_TAGS):
        near = nearest(_short(given), PIPELINE_TAGS)
        mend = f"write `{near}`, if that is meant; " if near else ""
        mend += f"the tasks are listed at {TASK_LIST}"
        message = f"the pipeline_tag `{_short(given)}` is no task that the Hub knows"
        yield "error", "pipeline-tag-unknown", ("pipeline_tag",), message, mend


def _datasets(data: dict[str, Any]) -> Found:
    given = data.get("datasets")
    for index, item in enumerate(given if isinstance(given, list) else []):
        if isinstance(item, str):
            yield from _dataset(item, ("datasets", index))


def _dataset(name: str, path: tuple[str | int, ...]) -> Found:
    if not FULL_ID.fullmatch(name):
        letters = "".join(character for character in name.lower() if character.isalnum())
        mend = f"write `{DATASETS.get(letters, 'namespace/name')}`, as in ILSVRC/imagenet-1k"
        message = f"the data set `{_short(name)}` is no full id of the Hub"
        yield "warning", "dataset-id", path, message, mend


def _model_index(data: dict[str, Any]) -> Found:
    """Read by huggingface_hub, as on the Hub; then whether one could check the results."""
    given = data.get("model-index")
    if given is None:
        return
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        model_index_to_eval_results(given)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        message = f"the model-index cannot be read: {_short(reason)}"
        mend = "each entry needs name and results; each result task.type, dataset.type, "
        mend += "dataset.name and metrics with type and value"
        yield "error", "model-index", ("model-index",), message, mend
        return
    for i, model in enumerate(given):
        for j, result in enumerate(model["results"]):
            yield from _result(result, ("model-index", i, "results", j))


def _result(result: dict[str, Any], path: tuple[str | int, ...]) -> Found:
    dataset, source = result["dataset"], result.get("source") or {}
    if not source.get("url"):
        message = "a result without its source: nobody can tell who measured it"
        yield "warning", "result-no-source", path, message, "add `source:` with `name` and `url`"
    if not dataset.get("split"):
        message = "a result without the split that it was measured on"
        mend = "add `split: validation`, or which it was, to its dataset"
        yield "warning", "result-no-split", (*path, "dataset"), message, mend
    if isinstance(dataset["type"], str):
        yield from _dataset(dataset["type"], (*path, "dataset", "type"))
