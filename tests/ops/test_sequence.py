"""Sequences and optionals: positions, pieces, what is empty, and what is said where it fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hubtool.errors import RunError
from hubtool.graph import Graph, Layer, Value
from hubtool.interpreter import HOST, Program
from hubtool.meta import MetaArray, MetaSpace

ANY = Value("tensor", "", None)
ITEMS = [np.full(n, n, np.float32) for n in (1, 2, 3)]


def run(op: str, feeds: dict[str, Any], attrs: dict[str, Any] | None = None, space: Any = HOST):
    layer = Layer("one", op, {name: name for name in feeds}, ["y"], attrs or {})
    graph = Graph([layer], dict.fromkeys(feeds, ANY), {"y": ANY})
    return Program(graph, space).run(feeds)["y"]


def at(position: int) -> np.ndarray:
    return np.asarray(position, np.int64)


def sizes(sequence: list[np.ndarray]) -> list[int]:
    return [len(item) for item in sequence]


@pytest.mark.parametrize(("position", "size"), [(0, 1), (2, 3), (-1, 3), (-3, 1)])
def test_positions_count_from_the_end_too(position: int, size: int) -> None:
    assert len(run("SequenceAt", {"input_sequence": ITEMS, "position": at(position)})) == size


@pytest.mark.parametrize(
    ("position", "wanted"),
    [
        (0, [9, 1, 2, 3]),
        (1, [1, 9, 2, 3]),
        (3, [1, 2, 3, 9]),
        (-1, [1, 2, 9, 3]),
        (None, [1, 2, 3, 9]),
    ],
)
def test_what_is_inserted_stands_at_its_position(position: int | None, wanted: list[int]) -> None:
    feeds = {"input_sequence": ITEMS, "tensor": np.zeros(9)}
    if position is not None:
        feeds["position"] = at(position)
    assert sizes(run("SequenceInsert", feeds)) == wanted


@pytest.mark.parametrize(("position", "wanted"), [(0, [2, 3]), (-2, [1, 3]), (None, [1, 2])])
def test_what_is_erased_is_gone(position: int | None, wanted: list[int]) -> None:
    feeds: dict[str, Any] = {"input_sequence": ITEMS}
    if position is not None:
        feeds["position"] = at(position)
    assert sizes(run("SequenceErase", feeds)) == wanted
    assert sizes(ITEMS) == [1, 2, 3]


@pytest.mark.parametrize("op", ["SequenceAt", "SequenceErase"])
@pytest.mark.parametrize("position", [3, -4])
def test_a_position_outside_is_named(op: str, position: int) -> None:
    with pytest.raises(RunError, match=f"position {position} is outside a sequence of 3"):
        run(op, {"input_sequence": ITEMS, "position": at(position)})


@pytest.mark.parametrize(
    ("split", "attrs", "wanted"),
    [
        (None, {}, [(1, 3), (1, 3), (1, 3), (1, 3), (1, 3)]),
        (None, {"keepdims": 0}, [(3,)] * 5),
        (np.asarray(2), {"keepdims": 0}, [(2, 3), (2, 3), (1, 3)]),
        (np.asarray([4, 0, 1]), {}, [(4, 3), (0, 3), (1, 3)]),
        (None, {"axis": -1, "keepdims": 0}, [(5,)] * 3),
        (np.asarray([1, 2]), {"axis": 1}, [(5, 1), (5, 2)]),
    ],
)
@pytest.mark.parametrize("data", [True, False])
def test_pieces(split: Any, attrs: dict[str, int], wanted: list[Any], data: bool) -> None:
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    feeds: dict[str, Any] = {"input": x if data else MetaArray("float32", (5, 3))}
    if split is not None:
        feeds["split"] = split
    pieces = run("SplitToSequence", feeds, attrs, HOST if data else MetaSpace())
    assert [piece.shape for piece in pieces] == wanted
    if data:
        joined = [p.reshape(-1) for p in pieces] if attrs.get("axis", 0) == 0 else []
        assert not joined or np.array_equal(np.concatenate(joined), x.reshape(-1))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (np.asarray(0), "split is 0, which is no size"),
        (np.asarray([2, 2]), r"split \[2, 2\] does not add up to 5"),
        (np.asarray([6, -1]), r"split \[6, -1\] does not add up to 5"),
    ],
)
def test_pieces_that_do_not_fit_are_named(split: np.ndarray, message: str) -> None:
    with pytest.raises(RunError, match=message):
        run("SplitToSequence", {"input": np.zeros((5, 3)), "split": split})


def test_joining_along_an_old_axis_and_a_new_one() -> None:
    two = [np.zeros((2, 3)), np.ones((2, 3))]
    joined = run("ConcatFromSequence", {"input_sequence": two}, {"axis": -1})
    assert joined.shape == (2, 6)
    stacked = run("ConcatFromSequence", {"input_sequence": two}, {"axis": -1, "new_axis": 1})
    assert stacked.shape == (2, 3, 2)
    with pytest.raises(RunError, match="an empty sequence cannot be joined"):
        run("ConcatFromSequence", {"input_sequence": []}, {"axis": 0})


def test_an_optional_is_a_value_or_none() -> None:
    x = np.ones(2)
    kind = {"type": Value("tensor", "float32", None)}
    assert run("Optional", {"input": x}) is x
    assert run("Optional", {}, kind) is None
    assert run("OptionalHasElement", {"input": x}).item() is True
    assert run("OptionalHasElement", {"input": None}).item() is False
    assert run("OptionalHasElement", {}).item() is False
    assert run("OptionalGetElement", {"input": ITEMS}) == ITEMS
    with pytest.raises(RunError, match="the optional holds no value"):
        run("OptionalGetElement", {"input": None})
    with pytest.raises(RunError, match="an optional without a value needs a type"):
        run("Optional", {})


def test_a_new_sequence_is_empty_and_its_length_known() -> None:
    assert run("SequenceEmpty", {}, {"dtype": 7}) == []
    assert run("SequenceLength", {"input_sequence": []}).item() == 0
    assert run("SequenceLength", {"input_sequence": ITEMS}).item() == 3
    with pytest.raises(RunError, match="99 is no element type"):
        run("SequenceEmpty", {}, {"dtype": 99})
