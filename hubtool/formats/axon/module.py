"""The model as one Elixir module, for an application: `model/0`, `params/1` and `load/1`.

The same calls and the same checks as in the notebook, without its prose, pictures and
`Mix.install`: an application has its dependencies already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hubtool.errors import UnsupportedError
from hubtool.formats.axon.lower_data import TYPES, Input, Lowered
from hubtool.formats.axon.lower_source import WIDTH, Call
from hubtool.formats.axon.lower_stages import stages
from hubtool.formats.axon.names import literal, prose, tuple_
from hubtool.formats.axon.notebook import (
    SHOWN,
    about,
    comma_separated,
    example_shape,
    files_of,
    indented,
    input_lines,
    listing,
    lowered_or_refused,
    output_value,
    step_lines,
    unused_lines,
    wanted_lines,
)
from hubtool.formats.axon.notebook_picture import filled
from hubtool.graph import Graph

__all__ = ["module"]


def module(graph: Graph, *, name: str, title: str, weights: Sequence[Mapping[str, Any]]) -> str:
    """The text of a `.ex`.

    name: of the module, such as "Resnet34V1" or "MyApp.Resnet". weights: file, sha256 and size of
    each weights file. Raises UnsupportedError with everything that cannot be said in Axon, or where
    the name is none.

    Example: `module(graph, name="Resnet34V1", title="resnet34-v1", weights=files)`
    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9_]*(\.[A-Z][A-Za-z0-9_]*)*", name):
        raise UnsupportedError(
            f"'{name}' is no name of an Elixir module",
            hint='Words with a capital, joined by dots: "Resnet34V1", "MyApp.Resnet".',
        )
    lowered = lowered_or_refused(graph)
    inputs = ", ".join(f"{literal(given.name)} => tensor" for given in lowered.inputs)
    return filled(
        "module.ex",
        module=name,
        title=_in_heredoc(prose(title[:SHOWN])) or name,
        about=indented(_in_heredoc(about(graph, lowered)).splitlines(), 2),
        inputs=_in_heredoc(f"%{{{inputs}}}"),
        files=_attribute(listing("files", "[", files_of(weights), "]", 2)),
        wanted=_attribute(wanted_lines(lowered, 4)),
        unused=_attribute(unused_lines(lowered)),
        model=indented(_model(lowered), 4),
        template=indented(_template(lowered), 4),
        batch_size="batch_size" if any(map(_open_batch, lowered.inputs)) else "_batch_size",
        turned=indented(_turned(lowered), 2),
    )


def _in_heredoc(text: str) -> str:
    """Text inside a heredoc that is only text there."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"').replace("#{", "\\#{")


def _attribute(lines: list[str]) -> str:
    """`name = […]` as `@name […]`."""
    return indented([re.sub(r"^(\w+) = ", r"@\1 ", lines[0]), *lines[1:]], 2)


def _model(lowered: Lowered) -> list[str]:
    lines = input_lines(lowered.inputs)
    found = stages(lowered.steps)
    for stage in found:
        title = [f"# {stage.title}"] if len(found) > 1 else []
        lines += ["", *title, *step_lines(stage.steps, 4)]
    return [*lines, "", *output_value(lowered)]


def _open_batch(given: Input) -> bool:
    return bool(given.dims) and given.dims[0] is None


def _template(lowered: Lowered) -> list[str]:
    entries = []
    for given in lowered.inputs:
        shape = tuple_(example_shape(given, "batch_size"))
        entries.append(f"{literal(given.name)} => Nx.template({shape}, {TYPES[given.dtype]})")
    if len(entries) == 1:
        return [f"%{{{entries[0]}}}"]
    return ["%{", *comma_separated(entries, 2), "}"]


def _turned(lowered: Lowered) -> list[str]:
    lines = []
    for layer, parameter in lowered.parameters:
        if parameter.turn:
            called = str(Call(f"({parameter.turn}).", ("tensor",)))
            pattern = f"{{{literal(layer)}, {literal(parameter.name)}}}"
            head = f"defp turn({pattern}, tensor),"
            short = len(head) + len(called) + 7 <= WIDTH
            lines += [f"{head} do: {called}"] if short else [head, f"  do: {called}", ""]
    return lines
