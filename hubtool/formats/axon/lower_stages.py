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
from operator import itemgetter

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
    for keys, title in ((_sizes(steps), _size_title), (list(map(_prefix, steps)), _prefix_title)):
        found = _cut(steps, keys, title)
        if len(found) > 1 and len(found) * FEWEST <= len(steps):
            return found
    return [Stage("Layers", tuple(steps))]


def _cut(
    steps: list[Step], keys: list[Hashable], title: Callable[[int, Hashable], str]
) -> list[Stage]:
    groups = groupby(zip(keys, steps, strict=True), key=itemgetter(0))
    return [
        Stage(title(number, key), tuple(step for _, step in group))
        for number, (key, group) in enumerate(groups, start=1)
    ]


def _sizes(steps: list[Step]) -> list[Hashable]:
    """For each call the spatial size, () after that has gone for good, all () without convolutions.

    A size that is open, or gone for a moment, as in squeeze and excite, belongs to what is before.
    """
    if not any("Conv" in step.source.op for step in steps):
        return [()] * len(steps)
    sizes = [step.dims[2:] if len(step.dims) > 2 else () for step in steps]
    told = [None not in size and any(n != 1 for n in size if n) for size in sizes]
    last = max((i for i, tells in enumerate(told) if tells), default=-1)
    keys: list[Hashable] = []
    for i, (size, tells) in enumerate(zip(sizes, told, strict=True)):
        before = keys[-1] if keys else size
        keys.append(size if tells else before if i < last else ())
    return keys


def _size_title(number: int, key: Hashable) -> str:
    assert isinstance(key, tuple)
    return f"Stage {number}: {' × '.join(map(str, key))}" if key else "The head"


def _prefix(step: Step) -> Hashable:
    parts = re.split(r"[/.]", step.name.strip("/"))
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return parts[0]


def _prefix_title(number: int, key: Hashable) -> str:
    return prose(str(key))
