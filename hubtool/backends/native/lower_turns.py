"""A batch in turns: where it outgrows the cache, some images go through several layers at once.

    layer by layer            in turns, g images at a time
    conv1  ████████ N         conv1 ██  conv2 ██  conv3 ██     first g images
    conv2  ████████           conv1 ██  conv2 ██  conv3 ██     next g images
    conv3  ████████           …

What lies between the layers is then as small as for g images, and stays in the cache; the price is
that weights are read once a turn. So turns are for the first layers of a network, whose pictures
are large and whose weights are small. What comes into such a group of steps, or goes out, holds
the batch; what lives inside holds g images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hubtool.backends.native.lower_build import Buffer, Draft, Ref, Turns

__all__ = ["in_turns"]

LARGE = 4 << 20
"""The bytes of a batch, alive at one step, from which turns may be worth it: they outgrow the
second cache, and crowd the third."""

TIMES = 8
"""So many times its weights must be alive at a step: they are read at every turn."""

TOGETHER = 8 << 20
"""The bytes that may be alive in a turn."""

SHRUNK = 4
"""Where so many times less is alive than at the most, other turns of more images begin."""

FEWEST = 4
"""The steps that a group has at least."""

WINOGRAD = 4
"""So much larger a 3x3 kernel may become: 36 numbers for 9."""


def in_turns(drafts: Sequence[Draft]) -> None:
    """Let steps go through the batch in turns, where that pays."""
    batch = max((draft.y.n for draft in drafts), default=1)
    alive = _alive(drafts, batch)
    first, number = 0, 0
    while first < len(drafts):
        last, most = first, 0
        while last < len(drafts) and _may(drafts[last], batch, alive[last]):
            most = max(most, alive[last])
            if SHRUNK * alive[last] < most:
                break
            last += 1
        images = _images(batch, most)
        if last - first >= FEWEST and images < batch:
            number += 1
            _group(drafts, Turns(number, first, last - 1, images, batch // images))
        first = max(last, first + 1)


def _images(batch: int, alive: int) -> int:
    """The most images a turn whose values may be alive together; as many in every turn."""
    fitting = [g for g in range(1, batch) if batch % g == 0 and g * alive <= TOGETHER]
    return max(fitting, default=1)


def _may(draft: Draft, batch: int, alive: int) -> bool:
    """Whether a step does the same for every image, and its weights are small beside what is
    alive."""
    for ref in draft.operands():
        if ref.batch or ref.n != (1 if ref.buffer.where == "weights" else batch):
            return False
    f = draft.fields
    taps = f.get("kh", 1) * f.get("kw", 1) if draft.W is not None else 0
    growth = WINOGRAD if taps == 9 else 1
    weights = 4 * growth * taps * draft.x.c * draft.y.c // f.get("groups", 1)
    return alive * batch > max(LARGE, TIMES * weights)


def _bytes(ref: Ref) -> int:
    root, _ = ref.buffer.root()
    size = 2 if root.type == "bf16" and not root.single else 4
    return size * root.h * root.w * root.c


def _alive(drafts: Sequence[Draft], batch: int) -> list[int]:
    """The bytes of one image that are alive at each step, the caller's arrays not counted."""
    lives: dict[int, tuple[int, int, int]] = {}
    for index, draft in enumerate(drafts):
        for ref in draft.operands():
            root, _ = ref.buffer.root()
            if root.where == "arena" and root.n == batch:
                size, start, _ = lives.get(id(root), (_bytes(ref), index, index))
                lives[id(root)] = (size, start, index)
    alive = [0] * len(drafts)
    for size, start, end in lives.values():
        for index in range(start, end + 1):
            alive[index] += size
    return alive


def _group(drafts: Sequence[Draft], turns: Turns) -> None:
    """Mark the steps, and let what lives inside hold the images of one turn."""
    inside = {id(draft) for draft in drafts[turns.first : turns.last + 1]}
    users: dict[int, list[Draft]] = {}
    roots: dict[int, Buffer] = {}
    for draft in drafts:
        for ref in draft.operands():
            root, _ = ref.buffer.root()
            roots[id(root)] = root
            users.setdefault(id(root), []).append(draft)
    for key, root in roots.items():
        own = [id(draft) in inside for draft in users[key]]
        if root.where == "arena" and all(own):
            root.n = turns.images
        elif root.where != "weights" and any(own):
            root.whole = True
    for draft in drafts[turns.first : turns.last + 1]:
        draft.turns = turns
        draft.x, draft.y = _some(draft.x, turns), _some(draft.y, turns)
        draft.z = draft.z and _some(draft.z, turns)


def _some(ref: Ref, turns: Turns) -> Ref:
    return ref if ref.buffer.where == "weights" else replace(ref, n=turns.images)
