"""From drafts to a plan: strides and offsets for every buffer, weights in one blob, steps as bytes.

Pixels lie at multiples of 16 elements, so that the kernels may write whole vectors; where that
distance would be a multiple of 2048 bytes, a tile's pixels would meet in one or two sets of the
first cache, and 16 elements more keep them apart. What a Concat has taken in lies in its buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hubtool.backends.native import library
from hubtool.backends.native.lower_build import (
    Buffer,
    Choice,
    Draft,
    Ref,
    Turns,
    Unlowerable,
)
from hubtool.backends.native.memory import place, rounded_up

__all__ = ["Packing", "choose", "default_choice", "laid", "packings", "steps_of"]

Array = np.ndarray[Any, Any]

SIZE = {"f32": 4, "bf16": 2}
CONFLICT = 2048
VARIANTS = {"direct": (0,), "winograd2": (1, 3), "winograd4": (1, 3)}
"""The variants of each algorithm that are worth trying; 0 is always there, and is one of them."""


@dataclass(frozen=True)
class Packing:
    """Weights in the blob: those of which step, which of its fields points at them ("weights" and
    "bias", or "z" for an operand), the tensors that they come from, their place, and the array."""

    step: int
    field: str
    sources: tuple[str, ...]
    offset: int
    size: int
    load: Callable[[], Array]
    packed: bool


def laid(drafts: Sequence[Draft]) -> int:
    """Give every buffer of the arena its strides and its offset; the bytes of the arena."""
    lives: dict[int, list[Any]] = {}
    for index, draft in enumerate(drafts):
        for ref in draft.operands():
            root, _ = ref.buffer.root()
            if id(root) not in lives:
                _stride(root)
                lives[id(root)] = [root, index, index]
            life = lives[id(root)]
            life[2] = max(life[2], index)
            if draft.turns is not None and root.whole:  # every turn comes back to it
                life[1] = min(life[1], draft.turns.first)
                life[2] = max(life[2], draft.turns.last)
    inside = [life for life in lives.values() if life[0].where == "arena"]
    offsets, arena = place([(_bytes(root), first, last) for root, first, last in inside])
    for (root, _, _), offset in zip(inside, offsets, strict=True):
        root.offset = offset
    return arena


def _stride(root: Buffer) -> None:
    top, left, bottom, right = root.halo
    if root.exact:
        root.pixel = root.c
    elif root.where == "weights":
        assert root.content is not None
        root.pixel = root.content.shape[-1]
    elif root.few and root.type == "bf16" and not root.single:
        root.pixel = rounded_up(root.c, 2)  # products take pairs of channels
    elif root.few:
        root.pixel, root.type = root.c, "f32"
    else:
        root.type = "f32" if root.single else root.type
        root.pixel = rounded_up(root.c, 16) + 16 * root.spilled
        if root.pixel * SIZE[root.type] % CONFLICT == 0:
            root.pixel += 16
    root.row = (left + root.w + right) * root.pixel
    root.image = (top + root.h + bottom) * root.row


def _bytes(root: Buffer) -> int:
    return root.n * root.image * SIZE[root.type]


def _view(ref: Ref | None, turns: Turns | None) -> dict[str, int]:
    """The fields of a View; all zeros where there is none."""
    if ref is None:
        return {}
    root, channel = ref.buffer.root()
    top, left, bottom, right = root.halo
    pixel, row, image = root.pixel, root.row, root.image
    if root.exact:
        pixel, row, image = ref.c, ref.w * ref.c, ref.h * ref.w * ref.c
    start = (top + ref.top) * row + (left + ref.left) * pixel
    n, w, whole = ref.n, ref.w, root.exact
    if ref.batch:
        n, w = ref.batch, ref.n // ref.batch
        pixel, row, image, whole = image, w * image, w * image, True
    return {
        "where": library.code("where", root.where),
        "index": root.index,
        "offset": root.offset + (start + channel + ref.channel) * SIZE[root.type],
        "type": library.code("types", root.type),
        "n": n,
        "h": ref.h,
        "w": w,
        "c": ref.c,
        "pixel": pixel,
        "row": row,
        "image": image,
        "top": top + ref.top,
        "left": left + ref.left,
        "bottom": bottom if whole else bottom + root.h - ref.top - ref.h,
        "right": right if whole else right + root.w - ref.left - ref.w,
        "next": turns.images * image * SIZE[root.type] if turns and root.whole else 0,
    }


UNIT = ("kh", "kw", "sh", "sw", "dh", "dw", "groups")
NOWHERE = ("weights", "bias")


def steps_of(drafts: Sequence[Draft]) -> Array:
    """The steps, all but where their weights lie."""
    layout = library.layout()
    step_fields, view_fields = layout["step"], layout["view"]
    defaults = {**dict.fromkeys(UNIT, 1), **dict.fromkeys(NOWHERE, -1)}
    kinds = {name: number for number, name in enumerate(layout["kinds"])}
    acts = {name: number for number, name in enumerate(layout["activations"])}
    rows, numbers = [], []
    for draft in drafts:
        own = {**defaults, "kind": kinds[draft.kind], "act": acts[draft.act], **draft.fields}
        if draft.turns is not None:
            own |= {"group": draft.turns.number, "turns": draft.turns.count}
        row = [own.get(field, 0) for field in step_fields]
        for ref in (draft.x, draft.y, draft.z):
            view = _view(ref, draft.turns)
            row += [view.get(field, 0) for field in view_fields]
        rows.append(row)
        numbers.append((draft.a, draft.b, draft.d))
    steps = np.zeros(len(drafts), library.step_dtype())
    if rows:
        steps.view("<i8").reshape(len(rows), -1)[:, :-3] = rows
        steps.view("<f8").reshape(len(rows), -1)[:, -3:] = numbers
    return steps


def default_choice(step: Any) -> str:
    """The algorithm of a convolution that nobody has timed: Winograd's where it pays.

    It needs 3x3 taps next to each other, and channels enough to feed the products; F(4x4) needs 16
    tiles of the result, F(2x2) at least 32 pixels of it.
    """
    x, y = step["x"], step["y"]
    n, h, w = int(y["n"]), int(y["h"]), int(y["w"])
    if not _is_winograd(step) or x["c"] < 16 or y["c"] < 16:
        return "direct"
    if n * -(-h // 4) * -(-w // 4) >= 16:
        return "winograd4"
    return "winograd2" if n * h * w >= 32 else "direct"


def _is_winograd(step: Any) -> bool:
    ones = all(step[field] == 1 for field in ("sh", "sw", "dh", "dw", "groups"))
    return bool(ones and step["kh"] == 3 and step["kw"] == 3)


def choose(
    steps: Array, drafts: Sequence[Draft], isa: str, exact: bool, given: Mapping[str, Choice]
) -> dict[str, list[Choice]]:
    """Set each convolution's algorithm; what else could be tried for it, by layer."""
    could: dict[str, list[Choice]] = {}
    codes = {name: library.code("algorithms", name) for name in VARIANTS}
    for step, draft in zip(steps, drafts, strict=True):
        if draft.kind not in ("conv", "depthwise", "matmul"):
            continue
        if not library.fits(isa, step):
            raise Unlowerable(f"no kernel does {draft.label}")
        if draft.kind != "conv":
            continue
        names = [*VARIANTS] if _is_winograd(step) and not exact else ["direct"]
        tried = [Choice(name, variant) for name in names for variant in VARIANTS[name]]
        could[draft.layer] = [choice for choice in tried if _set(step, choice, codes, isa)]
        asked = given.get(draft.layer) or Choice(default_choice(step))
        if asked.algorithm not in names or not _set(step, asked, codes, isa):
            _set(step, Choice(), codes, isa)
    return could


def _set(step: Any, choice: Choice, codes: Mapping[str, int], isa: str) -> bool:
    """Let a step be done so; whether it can be."""
    step["algorithm"], step["variant"] = codes[choice.algorithm], choice.variant
    return library.fits(isa, step)


def packings(steps: Array, drafts: Sequence[Draft], isa: str) -> tuple[list[Packing], int]:
    """Give all weights their place in the blob and tell the steps; the bytes of the blob."""
    found: dict[tuple[Any, ...], int] = {}
    listed: list[Packing] = []
    total = 0

    def add(index: int, field: str, weights: Any, key: tuple[Any, ...], size: int) -> int:
        nonlocal total
        if key not in found:
            found[key] = total
            sources = tuple(part for part in weights.key if isinstance(part, str))
            is_packed = field == "weights" and drafts[index].kind in ("conv", "depthwise")
            listed.append(Packing(index, field, sources, total, size, weights.load, is_packed))
            total += rounded_up(size, 64)
        return found[key]

    for index, (step, draft) in enumerate(zip(steps, drafts, strict=True)):
        if draft.W is not None and draft.kind in ("conv", "depthwise"):
            key = ("packed", *draft.W.key, *_way(step))
            step["weights"] = add(index, "weights", draft.W, key, library.packed(isa, step))
        elif draft.W is not None:
            size = 4 * rounded_up(int(step["y"]["c"]), 32)
            step["weights"] = add(index, "weights", draft.W, ("plain", *draft.W.key), size)
        if draft.bias is not None:
            size = 4 * rounded_up(int(step["y"]["c"]), 32)
            step["bias"] = add(index, "bias", draft.bias, ("plain", *draft.bias.key), size)
        if draft.z is not None and draft.z.buffer.content is not None:
            content = draft.z.buffer.content
            step["z"]["offset"] = total
            listed.append(_operand(index, content, total))
            total += rounded_up(max(content.nbytes, 128), 64)
        if draft.x.buffer.content is not None:
            content = draft.x.buffer.content
            step["x"]["offset"] = total
            listed.append(_operand(index, content, total, "x"))
            total += rounded_up(max(content.nbytes, 128), 64)
    return listed, total


def _operand(index: int, content: Array, offset: int, field: str = "z") -> Packing:
    return Packing(index, field, (), offset, content.nbytes, lambda: content, False)


WAY = ("kind", "algorithm", "variant", "kh", "kw", "sh", "sw", "dh", "dw", "groups")


def _way(step: Any) -> tuple[int, ...]:
    """What decides how weights are packed: steps in which it is equal share them."""
    x, y = step["x"], step["y"]
    fields = [step[field] for field in WAY]
    return tuple(int(n) for n in (*fields, x["c"], x["pixel"], x["type"], y["c"], y["type"]))
