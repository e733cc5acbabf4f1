"""The numbers of transformers' `ResNetConfig`, found in a row of residual blocks.

A stage begins where a block halves the picture; its first block projects the shortcut where
channels or size change, and no other does. A bottleneck is a quarter as wide inside. transformers
builds from hidden_sizes, depths and layer_type, so a block that deviates cannot be said, and is
noted under the name of its own convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hubtool.formats.transformers_layers import Unit
from hubtool.graph import Layer

__all__ = ["KERNELS", "Block", "named", "stages"]

Note = Callable[[Layer, str], None]

KERNELS = {"basic": [3, 3], "bottleneck": [1, 3, 1]}
"""The kernels along the longer branch, for each layer_type."""

REDUCTION = 4


@dataclass(frozen=True)
class Block:
    """A residual block: the convolutions along its longer branch, and the one of its shortcut."""

    main: list[Unit]
    shortcut: Unit | None

    @property
    def stride(self) -> int:
        return math.prod(unit.stride for unit in self.main)

    @property
    def channels(self) -> int:
        return self.main[-1].channels[1]

    @property
    def layer_type(self) -> str:
        return "basic" if len(self.main) == len(KERNELS["basic"]) else "bottleneck"


def stages(blocks: Sequence[Block], embedding_size: int, note: Note) -> dict[str, Any]:
    """The part of the configuration that says how the blocks are built."""
    hidden_sizes: list[int] = []
    depths: list[int] = []
    layer_type, before = blocks[0].layer_type, embedding_size
    for block in blocks:
        begins = not depths or block.stride != 1
        if begins:
            hidden_sizes.append(block.channels)
            depths.append(0)
        depths[-1] += 1
        conv = block.main[0].conv
        if block.layer_type != layer_type:
            note(conv, f"begins a {block.layer_type} block among {layer_type} ones")
        if not begins and before != block.channels:
            note(
                conv,
                f"begins a block from {before} to {block.channels} channels without a stride, and "
                "every later stage of transformers' ResNet halves the picture",
            )
        _check(block, before, note)
        before = block.channels
    return {
        "hidden_sizes": hidden_sizes,
        "depths": depths,
        "layer_type": layer_type,
        "downsample_in_first_stage": blocks[0].stride != 1,
        "downsample_in_bottleneck": layer_type == "bottleneck" and _strided_first(blocks, note),
    }


def _check(block: Block, before: int, note: Note) -> None:
    """Note where a block is not what transformers would build from so many channels."""
    conv, after, stride = block.main[0].conv, block.channels, block.stride
    if stride not in (1, 2):
        note(conv, f"begins a block of stride {stride}, and transformers' have 1 or 2")
    if block.main[-1].stride != 1:
        note(block.main[-1].conv, "ends the longer branch of a block, and has a stride")
    inner = after if block.layer_type == "basic" else after // REDUCTION
    widths = pairwise([before, *[inner] * (len(block.main) - 1), after])
    for unit, channels in zip(block.main, widths, strict=True):
        _check_channels(unit, channels, block.layer_type, note)
    wanted = before != after or stride != 1
    if (block.shortcut is not None) != wanted:
        built = ("without", "with")
        note(
            conv,
            f"begins a block from {before} to {after} channels with stride {stride} and "
            f"{built[not wanted]} a projection in its shortcut; transformers builds it "
            f"{built[wanted]} one",
        )
    if block.shortcut is not None:
        _check_channels(block.shortcut, (before, after), "shortcut", note)
        if (block.shortcut.kernel, block.shortcut.stride) != (1, stride):
            kernel = block.shortcut.kernel
            note(
                block.shortcut.conv,
                f"the shortcut is {kernel}x{kernel} with stride {block.shortcut.stride}, and "
                f"transformers' is 1x1 with stride {stride}",
            )


def _check_channels(unit: Unit, wanted: tuple[int, int], what: str, note: Note) -> None:
    # A kernel in groups counts fewer channels, and has been noted for its groups.
    if unit.channels != wanted and unit.conv.attrs["group"] == 1:
        note(
            unit.conv,
            f"goes from {unit.channels[0]} to {unit.channels[1]} channels, and transformers' "
            f"{what} here from {wanted[0]} to {wanted[1]}",
        )


def _strided_first(blocks: Sequence[Block], note: Note) -> bool:
    """Whether the bottlenecks that halve the picture do so in their first convolution."""
    halving = [block.main[0] for block in blocks if block.stride != 1]
    later = [unit for unit in halving if unit.stride == 1]
    if later and len(later) != len(halving):
        note(
            later[0].conv,
            "begins a bottleneck that has its stride on the 3x3, others on the first 1x1; "
            "downsample_in_bottleneck is one for all",
        )
    return bool(halving) and not later


def named(blocks: Sequence[Block], depths: Sequence[int]) -> dict[str, Unit]:
    """Every convolution of the blocks under transformers' name for it."""
    units: dict[str, Unit] = {}
    remaining = iter(blocks)
    for s, depth in enumerate(depths):
        for m in range(depth):
            block, prefix = next(remaining), f"resnet.encoder.stages.{s}.layers.{m}"
            units |= {f"{prefix}.layer.{i}": unit for i, unit in enumerate(block.main)}
            if block.shortcut is not None:
                units[f"{prefix}.shortcut"] = block.shortcut
    return units
