"""Where a long list of calls is cut into parts that a reader can hold: the stages of a model.

A net on pictures changes its stage where the spatial size changes, and ends in a head without
one. Other nets are cut by what their layers' names begin with, up to the first number:

    /encoder/layer.0/attention/MatMul   ⟶   encoder.layer.0
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import groupby

from hubtool.formats.axon.lower_data import Step
from hubtool.formats.axon.names import prose

__all__ = ["Stage", "stages"]

FEWEST = 3
"""Parts shorter than this on average are no help to a reader; then there is one part."""


@dataclass(frozen=True)
class Stage:
    """A heading, as Markdown, and the calls below it."""

    title: str
    steps: tuple[Step, ...]


def stages(steps: list[Step]) -> list[Stage]:
    """The calls in order, cut into stages."""
    for key, title in ((_size, _size_title), (_prefix, _prefix_title)):
        found = _cut(steps, key, title)
        if len(found) > 1 and len(found) * FEWEST <= len(steps):
            return found
    return [Stage("Layers", tuple(steps))]


def _cut(
    steps: list[Step],
    key: Callable[[Step], Hashable],
    title: Callable[[int, Step, bool], str],
) -> list[Stage]:
    keys: list[Hashable] = []
    for step in steps:
        found = key(step)
        keys.append(found if found is not None else (keys[-1] if keys else ""))
    numbered = groupby(zip(keys, steps, strict=True), key=lambda pair: pair[0])
    parts = [tuple(step for _, step in group) for _, group in numbered]
    return [
        Stage(title(number, part[0], number == len(parts)), part)
        for number, part in enumerate(parts, start=1)
    ]


def _size(step: Step) -> Hashable:
    """The spatial size of a picture or volume, () after it has gone, None where it is open."""
    sizes = step.dims[2:]
    if len(step.dims) < 3 or all(size == 1 for size in sizes):
        return ()
    return None if None in sizes else sizes


def _size_title(number: int, first: Step, last: bool) -> str:
    sizes = " × ".join(str(size) for size in first.dims[2:])
    if not _size(first):
        return "The head" if last else f"Stage {number}"
    return f"Stage {number}: {sizes}"


def _prefix(step: Step) -> Hashable:
    parts = re.split(r"[/.]", step.name.strip("/"))
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return parts[0]


def _prefix_title(number: int, first: Step, last: bool) -> str:
    return prose(str(_prefix(first)))
