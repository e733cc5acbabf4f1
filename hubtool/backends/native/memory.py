"""Where the buffers of a plan lie in its arena: a static plan, made once, with memory used again.

A buffer lives from the step that first writes it to the step that last reads it. The greatest
buffers are placed first; each goes into the tightest gap that is left between those which live at
the same time, or behind them all:

    bytes │ ┌───── a ─────┐┌──── c ────┐
          │ └─────────────┘└───────────┘
          │      ┌──── b ────┐
          └──────┴───────────┴──────────▶ steps
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ALIGNED", "SLACK", "place", "rounded_up"]

ALIGNED = 64
"""Every buffer starts at a multiple of this many bytes."""

SLACK = 64
"""The bytes behind a buffer that belong to nobody else."""

Life = tuple[int, int, int]
"""Bytes, the step that first writes, the step that last reads."""


def rounded_up(number: int, multiple: int) -> int:
    """The least multiple that is not below the number."""
    return -(-number // multiple) * multiple


def place(lives: Sequence[Life]) -> tuple[list[int], int]:
    """The offset of each buffer in bytes, and the bytes of the arena."""
    offsets = [0] * len(lives)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last; by offset
    total = 0
    for index in sorted(range(len(lives)), key=lambda i: (-lives[i][0], i)):
        size, first, last = lives[index]
        size = rounded_up(size + SLACK, ALIGNED)
        at = _tightest(placed, size, first, last)
        offsets[index] = at
        placed.append((at, at + size, first, last))
        placed.sort()
        total = max(total, at + size)
    return offsets, total


def _tightest(placed: list[tuple[int, int, int, int]], size: int, first: int, last: int) -> int:
    """The start of the smallest gap that holds `size` bytes among what lives at the same time."""
    best, best_room, end = -1, 0, 0
    for start, stop, since, until in placed:
        if since > last or until < first:
            continue
        room = start - end
        if room >= size and (best < 0 or room < best_room):
            best, best_room = end, room
        end = max(end, stop)
    return end if best < 0 else best
