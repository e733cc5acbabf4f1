"""A batch that goes through some steps in turns computes what it does all at once."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native_nets import Net, random_net, resnet
from backends.test_native_plan import check, planned
from hubtool.backends.native import library, lower_turns

ISA = library.isas()[0]


def batch_of(net: Net, batch: int) -> Net:
    """The same net, fed so many images."""
    for name, array in net.arrays.items():
        if name in net.graph.inputs:
            net.arrays[name] = np.concatenate([array[:1] * (1 + i) for i in range(batch)])
    return net


@pytest.fixture
def one_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(lower_turns, "LARGE", 0)
    monkeypatch.setattr(lower_turns, "TIMES", 0)
    monkeypatch.setattr(lower_turns, "FEWEST", 1)
    monkeypatch.setattr(lower_turns, "TOGETHER", 0)


def groups(net: Net) -> dict[int, int]:
    """Group -> in how many turns."""
    lowered, _ = planned(net, ISA)
    return {int(s["group"]): int(s["turns"]) for s in lowered.steps if s["group"]}


@pytest.mark.parametrize("seed", range(24))
def test_random_nets_in_turns(one_at_a_time, seed: int) -> None:
    check(batch_of(random_net(seed), 3), ISA)


@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16"}])
def test_a_residual_net_in_turns(one_at_a_time, options) -> None:
    if options and not library.has_bf16(ISA):
        options = {}
    net = batch_of(resnet((1, 2, 1), 40, 16), 4)
    assert set(groups(net).values()) == {4}
    check(net, ISA, 0.05 if options else 3e-5, **options)


def test_turns_are_of_equal_size(monkeypatch) -> None:
    monkeypatch.setattr(lower_turns, "LARGE", 0)
    net = batch_of(resnet((1,), 64, 16), 6)
    one = max(lower_turns._alive(_drafts(net), 6))
    monkeypatch.setattr(lower_turns, "TOGETHER", 4 * one)
    assert set(groups(net).values()) == {2}  # of three images: four do not divide six


def test_a_small_batch_and_large_weights_take_no_turns(monkeypatch) -> None:
    net = batch_of(resnet((1, 1), 33, 16), 4)
    assert groups(net) == {}
    monkeypatch.setattr(lower_turns, "LARGE", 0)
    monkeypatch.setattr(lower_turns, "TOGETHER", 0)
    monkeypatch.setattr(lower_turns, "TIMES", 1 << 30)
    assert groups(net) == {}


def test_smaller_pictures_go_together_in_larger_turns(monkeypatch) -> None:
    net = batch_of(resnet((2, 2, 2), 64, 16), 8)
    monkeypatch.setattr(lower_turns, "LARGE", 0)
    monkeypatch.setattr(lower_turns, "TIMES", 0)
    monkeypatch.setattr(lower_turns, "SHRUNK", 2)
    monkeypatch.setattr(lower_turns, "TOGETHER", max(lower_turns._alive(_drafts(net), 8)))
    turns = [*groups(net).values()]
    assert turns[0] == 8 and sorted(turns, reverse=True) == turns and turns[-1] < 8


def test_what_lives_inside_a_group_holds_one_turn(one_at_a_time) -> None:
    """The arena of a batch in turns is far smaller than that of all at once."""
    net = batch_of(resnet((1, 1), 64, 32), 8)
    small = planned(net, ISA)[0].arena
    lower_turns.LARGE = 1 << 60
    assert small < 0.5 * planned(net, ISA)[0].arena


def _drafts(net: Net):
    """The drafts of a net, as `in_turns` finds them."""
    from hubtool.backends.native import lower

    seen = []
    before = lower.in_turns
    lower.in_turns = seen.extend
    try:
        planned(net, ISA)
    finally:
        lower.in_turns = before
    return seen
