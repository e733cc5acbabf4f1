"""A Livebook notebook that builds the model in plain Axon calls, loads its weights and tries it.

A notebook is Markdown whose fenced `elixir` blocks are cells. The prose and the cells that are the
same for every model stand in `templates/`; here they are filled in. Every foreign word goes
through `names`: into Markdown as `prose`, into Elixir as `literal`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hubtool.errors import UnsupportedError
from hubtool.formats.axon.lower import lower
from hubtool.formats.axon.lower_data import TYPES, Input, Lowered, Step
from hubtool.formats.axon.lower_source import WIDTH, Call, assignment, spaced
from hubtool.formats.axon.lower_stages import stages
from hubtool.formats.axon.names import layer_name, literal, prose, tuple_
from hubtool.formats.axon.notebook_picture import filled, picture_section, takes_pictures
from hubtool.formats.native_encode import encode
from hubtool.graph import Graph

__all__ = [
    "SHOWN",
    "about",
    "comma_separated",
    "example_shape",
    "files_of",
    "indented",
    "input_lines",
    "listing",
    "lowered_or_refused",
    "notebook",
    "output_value",
    "step_lines",
    "unused_lines",
    "wanted_lines",
]

Weights = Sequence[Mapping[str, Any]]

SIDE, LENGTH = 224, 16
"""What an open size is in examples: the side of a picture, and the length of anything else."""

SHOWN = 100
"""Longest title and other words of strangers, in characters."""


def notebook(
    graph: Graph,
    *,
    title: str,
    weights: Weights,
    repository: str | None,
    revision: str | None,
    hub: str | None,
) -> str:
    """The text of a `.livemd`.

    weights: file, sha256 and size of each weights file. repository, revision, hub: where they can
    be fetched, `hub` being its base address; None where they lie beside the notebook only. Raises
    UnsupportedError with everything that cannot be said in Axon.

    Example: `notebook(graph, title="resnet34-v1", weights=files, repository=None, …)`
    """
    lowered = lowered_or_refused(graph)
    url = None
    if repository and hub:
        url = f"{hub.rstrip('/')}/{repository}/resolve/{revision or 'main'}/"
    return filled(
        "notebook.livemd",
        title=prose(title[:SHOWN]) or "A model",
        about=about(graph, lowered),
        where="\n".join(_where(weights, url)),
        weights_module=filled("weights.exs").rstrip(),
        model=_model(lowered),
        wanted="\n".join(
            [
                *wanted_lines(lowered),
                "",
                "# What is turned round, since Axon keeps it in another order.",
                *turned_lines(lowered),
                "",
                "# Tensors of the file that stand as plain numbers in the calls above.",
                *unused_lines(lowered),
            ]
        ),
        template="\n".join(template_shapes(lowered)),
        **{"try": _try(graph, lowered), "tune": _tune(lowered)},
    )


def lowered_or_refused(graph: Graph) -> Lowered:
    """The graph as Axon calls, its tensors called by their keys in the weights file.

    Raises UnsupportedError where something cannot be said, WriteError where it cannot be stored.
    """
    lowered = lower(graph)
    if lowered.problems:
        raise UnsupportedError(
            "this model cannot be said in Axon:",
            problems=lowered.problems,
            hint="ONNX is understood by other runtimes: export it as .onnx instead.",
        )
    encoded = encode(graph)
    told = json.loads(encoded.sections["tensors"])
    keys = {name: entry.get("key", name) for name, entry in told.items()}
    for i, step in enumerate(lowered.steps):
        parameters = tuple(replace(p, tensor=keys[p.tensor]) for p in step.parameters)
        lowered.steps[i] = replace(step, parameters=parameters)
    used = {parameter.tensor for _, parameter in lowered.parameters}
    lowered.folded = [part.key for part in encoded.parts if part.key not in used]
    return lowered


def about(graph: Graph, lowered: Lowered) -> str:
    """Two or three sentences on the model, in Markdown."""
    meta = graph.meta
    count = sum(tensor.size for tensor in graph.tensors.values())
    name = prose(str(meta.get("name", ""))[:SHOWN])
    said = [f"The model {name}" if name else "This model"]
    said[0] += f" as hubtool converted it from ONNX: {len(lowered.steps):,} layers with"
    said[0] += f" {count:,} parameters."
    if meta.get("untrained"):
        said.append("**Its weights are random**: a sketch, to try things on.")
    if isinstance(meta.get("licence"), str):
        said.append(f"Licence: {prose(meta['licence'][:SHOWN])}.")
    return _wrapped(" ".join(said))


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False))


def indented(lines: Iterable[str], by: int) -> str:
    """Lines set in by some columns; empty ones stay empty."""
    return "\n".join(" " * by + line if line else "" for line in lines)


def _where(weights: Weights, url: str | None) -> list[str]:
    return [
        'folder = __DIR__ || "."',
        f"url = {literal(url) if url else 'nil'}",
        "",
        *listing("files", "[", files_of(weights), "]"),
    ]


def files_of(weights: Weights) -> list[str]:
    """{file, its SHA-256} for each weights file."""
    return [
        filled_tuple([literal(str(entry["file"])), literal(str(entry["sha256"]))])
        for entry in weights
    ]


def filled_tuple(items: Sequence[str], indent: int = 2) -> str:
    """A tuple in a list, its lines filled as `mix format` fills them; the first one not set in.

    A comma follows each item, and `},` the last.
    """
    lines = [f"{{{items[0]}"]
    for item in items[1:]:
        joined = f"{lines[-1]}, {item}"
        ending = 2 if item is items[-1] else 1
        if len(joined) + ending <= WIDTH - indent:
            lines[-1] = joined
        else:
            lines[-1] += ","
            lines.append(f" {item}")
    return "\n".join(lines) + "}"


def _cell(lines: Iterable[str]) -> str:
    return "\n".join(["```elixir", *lines, "```"])


def input_lines(inputs: Iterable[Input]) -> list[str]:
    """The inputs as Axon calls."""
    lines = []
    for given in inputs:
        shape = tuple_("nil" if size is None else size for size in given.dims)
        call = Call("Axon.input", (layer_name(given.name),), (("shape", shape),))
        lines += assignment(given.variable, call)
    return lines


def step_lines(steps: Iterable[Step], indent: int = 0) -> list[str]:
    """Calls one below the other; `indent` is how deep they will stand."""
    return spaced(assignment(step.variable, step.value, indent) for step in steps)


def output_value(lowered: Lowered) -> list[str]:
    """The one output, or all of them by name."""
    if len(lowered.outputs) == 1:
        (variable,) = lowered.outputs.values()
        return [variable]
    entries = [f"{literal(name)} => {variable}" for name, variable in lowered.outputs.items()]
    return ["Axon.container(%{", *comma_separated(entries, 2), "})"]


def _bound(lines: list[str]) -> list[str]:
    if len(lines) == 1:
        return [f"model = {lines[0]}"]
    return ["model =", *(f"  {line}" for line in lines)]


def comma_separated(entries: Sequence[str], indent: int) -> list[str]:
    """Entries one below the other, a comma after each but the last."""
    ended = [f"{entry}," for entry in entries[:-1]] + [*entries[-1:]]
    return [" " * indent + line for entry in ended for line in entry.split("\n")]


def _model(lowered: Lowered) -> str:
    parts = [_cell(input_lines(lowered.inputs))]
    found = stages(lowered.steps)
    for stage in found:
        if len(found) > 1:
            parts.append(f"### {stage.title}")
        parts.append(_cell(step_lines(stage.steps)))
    parts += ["What the last layer gives is the model:", _cell(_bound(output_value(lowered)))]
    return "\n\n".join(parts)


def listing(
    variable: str, opening: str, entries: Sequence[str], closing: str, indent: int = 0
) -> list[str]:
    """`variable = [entries]`, on one line or one entry a line; `indent` is how deep it stands."""
    if not entries:
        return [f"{variable} = {opening}{closing}"]
    one = f"{variable} = {opening}{', '.join(entries)}{closing}"
    if len(one) <= WIDTH - indent and "\n" not in one:
        return [one]
    return [f"{variable} = {opening}", *comma_separated(entries, 2), closing]


def wanted_lines(lowered: Lowered, indent: int = 2) -> list[str]:
    """`wanted = […]`: layer, parameter, tensor, shape, type."""
    entries = []
    for layer, p in lowered.parameters:
        names = [literal(layer), literal(p.name), literal(p.tensor)]
        entries.append(filled_tuple([*names, tuple_(p.shape), TYPES[p.dtype]], indent))
    return listing("wanted", "[", entries, "]")


def turned_lines(lowered: Lowered) -> list[str]:
    """`turned = %{…}`: the parameters that are the tensor turned round, and how."""
    entries = []
    for layer, p in lowered.parameters:
        if p.turn:
            key = f"{{{literal(layer)}, {literal(p.name)}}}"
            short = len(key) + len(p.turn) + 7 <= WIDTH
            entries.append(f"{key} =>{' ' if short else chr(10) + '  '}{p.turn}")
    return listing("turned", "%{", entries, "}")


def unused_lines(lowered: Lowered) -> list[str]:
    """`unused = […]`: the tensors of the file that are no parameter."""
    return listing("unused", "[", [literal(name) for name in lowered.folded], "]")


def example_shape(given: Input, batch: str = "1") -> list[str]:
    """The sizes of an input as an example has them."""
    side = str(SIDE if len(given.dims) == 4 else LENGTH)
    return [
        (batch if axis == 0 else side) if size is None else str(size)
        for axis, size in enumerate(given.dims)
    ]


def template_shapes(lowered: Lowered, batch: str = "1") -> list[str]:
    """A map of inputs that have a shape and a type and no elements."""
    entries = [
        f"{literal(given.name)} => Nx.template({tuple_(example_shape(given, batch))}, "
        f"{TYPES[given.dtype]})"
        for given in lowered.inputs
    ]
    if len(entries) == 1:
        return [f"%{{{entries[0]}}}"]
    return ["%{", *comma_separated(entries, 2), "}"]


def _example(given: Input, batch: str = "1") -> str:
    """An expression that makes an input of plain numbers."""
    shape = tuple_(example_shape(given, batch))
    if given.dtype.startswith(("float", "bfloat")):
        return f"Nx.sin(Nx.iota({shape}, type: {TYPES[given.dtype]}))"
    return f"Nx.remainder(Nx.iota({shape}, type: {TYPES[given.dtype]}), 2)"


def _examples(lowered: Lowered, batch: str = "1", indent: int = 0) -> str:
    entries = [f"{literal(given.name)} => {_example(given, batch)}" for given in lowered.inputs]
    if len(entries) == 1 and len(entries[0]) + indent + 12 <= WIDTH:
        return f"%{{{entries[0]}}}"
    return f"%{{\n{indented(comma_separated(entries, 2), indent)}\n{' ' * indent}}}"


def _try(graph: Graph, lowered: Lowered) -> str:
    spec = graph.meta.get("preprocessing", {})
    parts = []
    if len(lowered.inputs) == 1 and takes_pictures(lowered.inputs[0], spec):
        parts.append(picture_section(lowered.inputs[0], spec))
    else:
        parts.append(filled("numbers.livemd", example=_examples(lowered)))
    classes = _classes(graph, lowered)
    if classes:
        parts.append(_top(graph, lowered, classes))
    return "\n".join(parts).rstrip()


def _classes(graph: Graph, lowered: Lowered) -> int | None:
    """How many classes the one output gives, if it is a row of them; 0 for any other model."""
    if len(lowered.outputs) != 1:
        return None
    value = next(iter(graph.outputs.values()))
    shape = value.shape or ()
    last = shape[-1] if len(shape) == 2 else None
    return last if isinstance(last, int) and last > 1 else None


def _top(graph: Graph, lowered: Lowered, classes: int) -> str:
    labels = graph.meta.get("labels")
    fits = (
        isinstance(labels, list)
        and len(labels) == classes
        and all(isinstance(label, str) for label in labels)
    )
    texts = [literal(label) for label in labels] if fits and isinstance(labels, list) else []
    last = lowered.steps[-1].source.op if lowered.steps else ""
    probabilities = "probabilities = output"
    if last not in ("Softmax", "Sigmoid"):
        probabilities = "probabilities = Axon.Activations.softmax(output, axis: -1)"
    return filled(
        "top.livemd",
        labels="\n".join(_labels(texts)),
        probabilities=probabilities,
        k=str(min(5, classes)),
    )


def _labels(texts: list[str]) -> list[str]:
    """`labels`, a map from place to label, as many a line as there is room for."""
    if not texts:
        return ["labels = %{}"]
    lines = [""]
    for i, text in enumerate(texts):
        entry = f"{text}," if i + 1 < len(texts) else text
        if lines[-1] and len(lines[-1]) + 1 + len(entry) > WIDTH - 2:
            lines.append("")
        lines[-1] = f"{lines[-1]} {entry}".lstrip()
    names = ["names = [", *(f"  {line}" for line in lines), "]"]
    return [
        *names,
        "",
        "labels = Map.new(Enum.with_index(names), fn {name, place} -> {place, name} end)",
    ]


def _tune(lowered: Lowered) -> str:
    """The section on fine-tuning, where the model ends in a dense layer on rows."""
    head = next((s for s in reversed(lowered.steps) if s.parameters), None)
    if head is None or not isinstance(head.value, Call) or head.value.head != "Axon.dense":
        return ""
    if len(head.dims) != 2 or not isinstance(head.value.args[0], str):
        return ""
    return filled(
        "tune.livemd",
        head=prose(head.name),
        features=head.value.args[0],
        head_name=literal(head.name),
        new_head=literal(f"new {head.name}"),
        batch=_examples(lowered, "4", indent=4),
        size="4",
    )
