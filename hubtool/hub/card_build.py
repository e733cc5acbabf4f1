"""A card is made of the author's prose and of what the conversion knows.

The prose keeps every word. What is known is written between markers (`card_text`), and written
anew when the card is made again, so that making a card twice changes nothing. Where the author has
said nothing on a matter that readers look for, the card says just that.

The order where the author has set no markers: title, what it is, how to use it, the details, the
author's sections, and at the end what is missing.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hubtool.errors import InputError
from hubtool.export import elixir_files
from hubtool.hub.card_facts import Facts, code, words
from hubtool.hub.card_header import HeaderError, parse, with_front_matter
from hubtool.hub.card_text import (
    MARKED,
    PARTS,
    headings,
    marked,
    missing_sections,
    stray_markers,
    unclosed,
    without,
)

if TYPE_CHECKING:
    from hubtool.graph import Value

__all__ = ["build"]

CLAIMS = ("datasets", "metrics", "model-index")
"""What a header says of training and quality; it is not said of random weights."""


def build(facts: Facts, prose: str = "", *, tags: Sequence[str] = ()) -> str:
    """The whole README.md of a model: the author's prose, and around it what is known.

    prose: a card, with or without header, perhaps one that was built before. tags: added to those
    of its header. Raises InputError where the prose's header or markers cannot be understood.
    """
    prose = prose.replace("\r\n", "\n").replace("\r", "\n")
    try:
        header = parse(prose)
    except HeaderError as error:
        raise InputError(f"the card's header cannot be read: {error}") from None
    if not header.end and prose.lstrip().startswith("---\n"):
        raise InputError("the card's header is never closed: a second line `---` must end it")
    for line, what in unclosed(prose):
        raise InputError(f"{what} that begins in line {line} of the card is never closed")
    body = _filled(facts, prose[header.end :])
    return with_front_matter(
        f"{prose[: header.end]}\n{body}" if header.end else body, _header(facts, header.data, tags)
    )


def _header(facts: Facts, given: dict[str, Any], tags: Sequence[str]) -> dict[str, Any]:
    """What the author says, then what the conversion knows; tags are only the author's."""
    data = {k: v for k, v in given.items() if not (facts.untrained and k in CLAIMS)}
    if facts.licence:
        data.setdefault("license", facts.licence)
    data.setdefault("library_name", "hubtool")
    if facts.classifies_pictures:
        data.setdefault("pipeline_tag", "image-classification")
    if tags:
        own = data.get("tags") or []
        if not isinstance(own, list):
            raise InputError(
                f"the card's tags are {own!r}, no list, and more cannot be added",
                hint="Write each on a line of its own that begins with `- `.",
            )
        data["tags"] = [*dict.fromkeys([*own, *tags])]
    return data


def _filled(facts: Facts, body: str) -> str:
    """The author's body with every marked place filled, and the parts that it does not place."""
    texts = facts.texts()
    found = marked(body)
    problems = [f"'{match[0]}' opens or closes nothing" for match in stray_markers(body)]
    problems += [
        f"there is no fact named '{match['name']}'"
        for match in found
        if match["name"] not in (*texts, *PARTS)
    ]
    if problems:
        raise InputError(
            "the card's markers cannot be understood:",
            problems=problems,
            hint=f"Facts are {', '.join(texts)}; parts are {', '.join(PARTS)}. Each is written "
            "<!-- hubtool:NAME begin -->…<!-- hubtool:NAME end -->.",
        )
    parts = _parts(facts, without(body, found))
    placed = {match["name"] for match in found}
    for match in reversed(found):
        body = _replaced(body, match, texts, parts)
    body = body.strip("\n")
    for name in PARTS:
        if parts[name] and name not in placed:
            body = _inserted(body, name, _between(name, parts[name]))
    return f"{body}\n"


def _replaced(body: str, match: re.Match[str], texts: dict[str, str], parts: dict[str, str]) -> str:
    name = match["name"]
    before, after = body[: match.start()], body[match.end() :]
    if name in texts:
        return (
            f"{before}<!-- hubtool:{name} begin -->{texts[name]}<!-- hubtool:{name} end -->{after}"
        )
    if parts[name]:
        return f"{before}{_between(name, parts[name])}{after}"
    return "\n\n".join(side for side in (before.rstrip("\n"), after.lstrip("\n")) if side)


def _between(name: str, content: str) -> str:
    return f"<!-- hubtool:{name} begin -->\n{content}\n<!-- hubtool:{name} end -->"


def _inserted(body: str, name: str, part: str) -> str:
    """The body with a part in its place, a blank line on either side."""
    own = headings(without(body, marked(body)))
    place = len(body)
    if name == "title":
        place = 0
    elif name == "summary":
        title = next((one.end for one in own if one.level == 1), None)
        made = next((match.end() for match in MARKED.finditer(body) if match["name"] == "title"), 0)
        place = title if title is not None else made
    elif name in ("use", "details"):
        place = next((one.start for one in own if one.level == 2), len(body))
    sides = (body[:place].rstrip("\n"), part, body[place:].lstrip("\n"))
    return "\n\n".join(side for side in sides if side)


def _parts(facts: Facts, own: str) -> dict[str, str]:
    """What stands between the markers; "" where a part is not needed, as a second title."""
    titled = any(heading.level == 1 for heading in headings(own))
    gaps = [one for one in missing_sections(own) if one.name != "how-to-use"]
    return {
        "title": "" if titled else f"# {_title(facts)}",
        "summary": _summary(facts),
        "use": _use(facts),
        "details": _details(facts),
        "gaps": "\n\n".join(f"## {one.title}\n\n{one.gap}" for one in gaps),
    }


def _title(facts: Facts) -> str:
    return re.sub(r"([\\`*_\[\]<>#])", r"\\\1", words(facts.name))


def _summary(facts: Facts) -> str:
    made = f"converted from {code(facts.source.get('file') or 'an ONNX file')} by hubtool"
    if facts.training:
        made = f"trained from {facts.trained()[0][1]} with hubtool and torch"
    sentence = (
        f"A native layer graph of {facts.layers:,} layers and {facts.parameters:,} parameters, "
        f"{made}: "
        "`graph.json` says what is computed, `model.safetensors` holds the weights, and nothing "
        "in it is executed when it is loaded."
    )
    if not facts.untrained:
        return sentence
    like = f"the published {code(facts.zoo)}" if facts.zoo else "a trained model"
    return (
        "> **Warning: this model is untrained.** Its weights are random numbers. It has the\n"
        f"> structure of {like} and nothing else: its answers mean nothing. Whatever\n"
        "> this card says of weights, training or accuracy holds for the published model, not for "
        "this one.\n\n"
        f"{sentence}"
    )


def _use(facts: Facts) -> str:
    where = facts.repository or facts.folder
    name, shell = json.dumps(where, ensure_ascii=False), shlex.quote(where)
    given = "cat.jpg" if facts.classifies_pictures else _given(facts)
    imports = "import hubtool"
    if facts.classifies_pictures:
        python = (
            f"for label, probability in hubtool.classify({name}, {json.dumps(given)}):\n"
            '    print(f"{probability:.1%}  {label}")'
        )
    else:
        imports = "import numpy as np\n\nimport hubtool"
        feeds = ", ".join(
            f"{json.dumps(key)}: {_zeros(value)}" for key, value in facts.inputs.items()
        )
        python = f"model = hubtool.load({name})\noutputs = model.run({{{feeds}}})"
    pull = f"hubtool pull {shell}\n" if facts.repository else ""
    return (
        "## How to use\n\n"
        "In Python (`pip install hubtool`):\n\n"
        f"```python\n{imports}\n\n{python}\n```\n\n"
        "On the command line:\n\n"
        f"```sh\n{pull}hubtool run {shell} {given}\nhubtool info {shell}\n"
        f"hubtool export {shell} back.onnx\n```"
        f"{_elixir(facts)}{_transformers(facts)}"
    )


def _elixir(facts: Facts) -> str:
    """How a model that Axon can say is opened there; in a published one the files lie beside it."""
    if facts.axon or not facts.repository:
        return ""
    notebook, module = elixir_files(facts.repository.rpartition("/")[2])
    return (
        f"\n\nIn Elixir: open `{notebook}` in Livebook, or put `{module}` into an application. "
        "Both build the model in plain Axon calls and check the weights."
    )


def _transformers(facts: Facts) -> str:
    """How transformers opens the folder, and what is known of Bumblebee."""
    if facts.transformers is None or not facts.repository:
        return ""
    name = json.dumps(facts.repository)
    bumblebee = f"Bumblebee 0.7 must not be used: {words(facts.transformers)}."
    if not facts.transformers:
        bumblebee = f'Bumblebee opens it with `{{:hf, {name}, subdir: "transformers"}}`.'
    return (
        "\n\nWith transformers:\n\n"
        "```python\nfrom transformers import AutoModelForImageClassification\n\n"
        f'model = AutoModelForImageClassification.from_pretrained({name}, subfolder="transformers")'
        f"\n```\n\n{bumblebee}"
    )


def _given(facts: Facts) -> str:
    return "x.npy" if len(facts.inputs) == 1 else "inputs.npz"


def _zeros(value: Value) -> str:
    """An array to try an input with, as Python; open sizes are 1."""
    if value.kind != "tensor" or value.shape is None:
        return "..."
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in value.shape)
    return f"np.zeros({shape}, {value.dtype or 'float32'!r})"


def _details(facts: Facts) -> str:
    texts, source = facts.texts(), facts.source
    operators = ", ".join(f"{count} {_op(name)}" for name, count in facts.operators.items())
    file = code(source.get("file") or "not known")
    lifted = "" if source.get("opset") == facts.opset else f", lifted to {facts.opset}"
    weights = [
        f"{code(w['file'])}, {w['size']:,} bytes, {code(w['sha256'])}" for w in facts.weights
    ]
    origin = (
        facts.trained()
        if facts.training
        else [
            ("Source file", f"{file}, {texts['size']}"),
            ("Source URL", f"<{facts.source_url}>" if facts.source_url else "not known"),
            ("SHA-256 of the source", texts["sha256"]),
            ("Opset", f"{texts['opset']}{lifted}"),
        ]
    )
    rows = [
        *origin,
        ("Inputs", texts["inputs"]),
        ("Outputs", texts["outputs"]),
        ("Layers", f"{facts.layers:,}: {operators}"),
        ("Parameters", texts["parameters"]),
        ("Weights, with SHA-256", "; ".join(weights)),
        ("Classes", f"{facts.labels:,}, named in `graph.json`" if facts.labels else "no labels"),
        ("Converted by", f"hubtool {texts['hubtool']}"),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    return (
        f"## Model details\n\n| | |\n|---|---|\n{table}\n\n"
        f"### Preprocessing\n\n{_preprocessing(facts)}\n\n"
        f"### Verification\n\n{facts.verified()}\n\n"
        f"Axon: {texts['axon']}."
    )


def _op(name: str) -> str:
    return name if re.fullmatch(r"[\w.]+", name) else code(name)


def _preprocessing(facts: Facts) -> str:
    spec = facts.preprocessing
    if spec is None:
        return "The model does not say how its inputs are prepared."
    low, high = spec["range"]
    mean, std = (", ".join(str(number) for number in spec[key]) for key in ("mean", "std"))
    return (
        f"The picture is read as {spec['channels']}, its shorter side resized to "
        f"{spec['resize']} pixels ({spec['interpolation']}), and the square of {spec['crop']} x "
        f"{spec['crop']} at its centre cut out. Black to white becomes {low} to {high}; then the "
        f"mean ({mean}) is subtracted and the result divided by the standard deviation ({std}), "
        f"channel by channel, and laid out as {spec['layout']}. hubtool does all this by itself."
    )
