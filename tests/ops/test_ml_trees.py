"""TreeEnsemble against ONNX Runtime on forests drawn at random, and against its meaning."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from ops.classical import agree, agree_with, in_onnxruntime, model_of
from ops.conftest import alone

from hubtool.errors import RunError
from hubtool.ops import ml_trees

OP = "ai.onnx.ml.TreeEnsemble"
LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)


class Forest:
    """A forest in the making; `attrs` are TreeEnsemble's."""

    def __init__(self, seed: int, modes: list[int], targets: int, dtype: str) -> None:
        self.rng = np.random.default_rng(seed)
        self.modes, self.targets, self.dtype = modes, targets, dtype
        self.nodes: list[dict[str, Any]] = []
        self.leaves: list[tuple[int, float]] = []
        self.members: list[list[float]] = []
        self.roots: list[int] = []

    def grow(self, trees: int, depth: int, members: list[float]) -> dict[str, Any]:
        """So many trees; sets hold some of the members."""
        for _ in range(trees):
            is_leaf, place = self._branch(depth, members)
            if is_leaf:  # a tree of one leaf is a node that leads to it either way
                self.nodes.append(self._node(EQ, (1, place), (1, place)))
                place = len(self.nodes) - 1
            self.roots.append(place)
        sets = [self.members[i] for i, n in enumerate(self.nodes) if n["modes"] == MEMBER]
        attrs: dict[str, Any] = {
            f"nodes_{key}": [node[key] for node in self.nodes]
            for key in self.nodes[0]
            if key not in ("modes", "splits")
        }
        attrs |= {
            "nodes_modes": np.array([n["modes"] for n in self.nodes], np.uint8),
            "nodes_splits": np.array([n["splits"] for n in self.nodes], self.dtype),
            "leaf_targetids": [target for target, _ in self.leaves],
            "leaf_weights": np.array([weight for _, weight in self.leaves], self.dtype),
            "tree_roots": self.roots,
            "n_targets": self.targets,
        }
        if sets:
            ended = [value for each in sets for value in (*each, math.nan)]
            attrs["membership_values"] = np.array(ended, self.dtype)
        return attrs

    def _branch(self, depth: int, members: list[float]) -> tuple[int, int]:
        """(1, number of a leaf) or (0, number of a node)."""
        if depth == 0 or self.rng.random() < 0.15:
            self.leaves.append((int(self.rng.integers(self.targets)), float(self.rng.normal())))
            return 1, len(self.leaves) - 1
        yes, no = (self._branch(depth - 1, members) for _ in range(2))
        self.nodes.append(self._node(int(self.rng.choice(self.modes)), yes, no))
        self.members += [[]] * (len(self.nodes) - len(self.members))
        count = int(self.rng.integers(1, len(members)))
        self.members[-1] = sorted(self.rng.choice(members, count, replace=False).tolist())
        return 0, len(self.nodes) - 1

    def _node(self, mode: int, yes: tuple[int, int], no: tuple[int, int]) -> dict[str, Any]:
        return {
            "modes": mode,
            "splits": float(self.rng.integers(-2, 3)) / 2,
            "featureids": int(self.rng.integers(3)),
            "truenodeids": yes[1],
            "trueleafs": yes[0],
            "falsenodeids": no[1],
            "falseleafs": no[0],
            "missing_value_tracks_true": int(self.rng.integers(2)),
        }


def samples(dtype, missing=True):
    X = np.random.default_rng(11).integers(-3, 4, (60, 3)) / 2
    if missing:
        X[::7, 1] = np.nan
    return X.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", [ml_trees.AVERAGE, ml_trees.SUM, ml_trees.MIN, ml_trees.MAX])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("mode", [*range(7), "mixed"])
def test_a_forest_agrees_with_onnxruntime(mode, targets, function, dtype):
    modes = [*range(6)] if mode == "mixed" else [mode]
    attrs = Forest(targets + function, modes, targets, dtype).grow(5, 4, [0.0, 1.0, 3.0, 5.0])
    agree(OP, {"X": samples(dtype)}, {**attrs, "aggregate_function": function}, {"Y": dtype})


def walked(attrs, X):
    """The sums of the weights, sample by sample and tree by tree."""
    compare = [np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal]
    values = attrs["membership_values"]
    ends = iter(np.array_split(values, np.nonzero(np.isnan(values))[0] + 1))
    sets = [next(ends).tolist() if mode == MEMBER else [] for mode in attrs["nodes_modes"]]
    scores = np.zeros((len(X), attrs["n_targets"]))
    for row, x in zip(scores, X, strict=True):
        for place in attrs["tree_roots"]:
            is_leaf = 0
            while not is_leaf:
                value, mode = x[attrs["nodes_featureids"][place]], attrs["nodes_modes"][place]
                if np.isnan(value) and attrs["nodes_missing_value_tracks_true"][place]:
                    yes = True
                elif mode == MEMBER:
                    yes = value in sets[place]
                else:
                    yes = compare[mode](value, attrs["nodes_splits"][place])
                way = "true" if yes else "false"
                is_leaf = attrs[f"nodes_{way}leafs"][place]
                place = attrs[f"nodes_{way}nodeids"][place]
            row[attrs["leaf_targetids"][place]] += attrs["leaf_weights"][place]
    return scores


@pytest.mark.parametrize("members", [[0.0, 1.0, 3.0], [-1.0, 0.5, 1.0, 77.0]], ids=["small", "big"])
def test_sets_may_stand_beside_comparisons(members):
    """ONNX Runtime goes wrong on sets beyond 0 to 30, and has none of fractions."""
    attrs = Forest(3, [LEQ, MEMBER], 2, "float32").grow(6, 4, members)
    X = samples("float32")
    agree_with([walked(attrs, X).astype(np.float32)], OP, {"X": X}, attrs)


def test_without_tracks_nan_goes_the_way_of_no():
    attrs = Forest(4, [LEQ, GT], 1, "float32").grow(4, 4, [0.0, 1.0])
    del attrs["nodes_missing_value_tracks_true"]
    agree(OP, {"X": samples("float32")}, attrs, {"Y": "float32"})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(0, 0), (1, 2), (2, 1), (3, 3)],
    ids=["none", "softmax", "logistic", "zero"],
)
def test_post_transform_has_the_numbers_of_the_specification(ours, theirs):
    """ONNX Runtime has 1 and 2 the other way round."""
    attrs = Forest(5, [LEQ], 3, "float32").grow(6, 3, [0.0, 1.0])
    X = samples("float32", missing=False)
    model = model_of(OP, [X], {**attrs, "post_transform": theirs}, {"Y": "float32"})
    agree_with(in_onnxruntime(model, [X]), OP, {"X": X}, {**attrs, "post_transform": ours})


def test_a_float16_is_compared_as_float32():
    attrs = Forest(6, [LEQ], 2, "float16").grow(3, 3, [0.0, 1.0])
    X = samples("float16", missing=False)
    wide = {**attrs, "nodes_splits": attrs["nodes_splits"].astype(np.float32)}
    wide["leaf_weights"] = attrs["leaf_weights"].astype(np.float32)
    (wanted,) = alone(OP, {"X": X.astype(np.float32)}, wide)
    agree_with([wanted.astype(np.float16)], OP, {"X": X}, attrs)
    assert ml_dtypes.finfo(np.float16).bits == 16


def test_a_sum_is_that_of_float32_tree_by_tree():
    """2^24 takes no 1 any more, however many there are."""
    weights = np.array([2.0**24, *[1.0] * 30], np.float32)
    count = len(weights)
    attrs: dict[str, Any] = {
        "nodes_truenodeids": [*range(count)],
        "nodes_falsenodeids": [*range(count)],
        "tree_roots": [*range(count)],
        "nodes_trueleafs": [1] * count,
        "nodes_falseleafs": [1] * count,
        "nodes_featureids": [0] * count,
        "leaf_targetids": [0] * count,
        "nodes_modes": np.zeros(count, np.uint8),
        "nodes_splits": np.zeros(count, np.float32),
        "leaf_weights": weights,
    }
    agree_with(
        [np.full((2, 1), 2.0**24, np.float32)], OP, {"X": np.ones((2, 1), np.float32)}, attrs
    )


def test_many_samples_walk_in_blocks(monkeypatch):
    attrs = Forest(7, [LEQ, MEMBER], 2, "float32").grow(5, 4, [0.0, 1.0, 2.0])
    X = samples("float32")
    (whole,) = alone(OP, {"X": X}, attrs)
    monkeypatch.setattr(ml_trees, "PAIRS", 12)
    (blocks,) = alone(OP, {"X": X}, attrs)
    assert np.array_equal(whole, blocks)


def test_no_samples_give_no_scores():
    attrs = Forest(8, [LEQ], 2, "float32").grow(2, 3, [0.0, 1.0])
    agree_with([np.zeros((0, 2), np.float32)], OP, {"X": np.zeros((0, 3), np.float32)}, attrs)


STUMP: dict[str, Any] = {
    "leaf_targetids": [0, 1],
    "leaf_weights": np.array([1, 2], np.float32),
    "nodes_falseleafs": [1],
    "nodes_falsenodeids": [1],
    "nodes_featureids": [0],
    "nodes_modes": np.array([0], np.uint8),
    "nodes_splits": np.array([0.5], np.float32),
    "nodes_trueleafs": [1],
    "nodes_truenodeids": [0],
    "tree_roots": [0],
}


def test_the_number_of_targets_follows_from_the_leaves():
    X = np.array([[0], [1]], np.float32)
    agree_with([np.array([[1, 0], [0, 2]], np.float32)], OP, {"X": X}, STUMP)


def test_an_empty_set_holds_nothing():
    changes = {
        "nodes_modes": np.array([MEMBER], np.uint8),
        "membership_values": np.array([math.nan], np.float32),
    }
    wanted = [np.array([[0, 2]], np.float32)]
    agree_with(wanted, OP, {"X": np.zeros((1, 1), np.float32)}, {**STUMP, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes_featureids": [3]}, r"X \[2, 1\] lacks a feature that a node compares"),
        ({"nodes_featureids": [-1]}, "lacks a feature"),
        ({"nodes_featureids": [0, 0]}, "not of equal length"),
        ({"nodes_trueleafs": [1, 1]}, r"nodes_\* are not all of 1 nodes"),
        ({"nodes_truenodeids": [2]}, "a child is neither one of 1 nodes nor one of 2 leaves"),
        ({"nodes_truenodeids": [-1]}, "a child is neither"),
        ({"nodes_modes": np.array([9], np.uint8)}, "a node has an unknown mode"),
        ({"tree_roots": [1]}, "a root is no node"),
        ({"leaf_targetids": [0]}, "a child is neither one of 1 nodes nor one of 1 leaves"),
        ({"leaf_targetids": [0, 1, 1]}, "not as many leaf_targetids as leaf_weights"),
        ({"n_targets": 1}, "a leaf has a target outside of 1"),
        ({"nodes_trueleafs": [0]}, "the nodes of a tree go round in a circle"),
        ({"nodes_modes": np.array([6], np.uint8)}, "there are 0 sets of membership_values for 1"),
        ({"aggregate_function": 4}, "aggregate_function is 4, not 0 to 3"),
        ({"post_transform": 5}, "post_transform is 5, not 0 to 4"),
        ({"n_targets": 2**60}, "GiB"),
    ],
)
def test_a_damaged_forest_is_refused(changes, message):
    with pytest.raises(RunError, match=message):
        alone(OP, {"X": np.zeros((2, 1), np.float32)}, {**STUMP, **changes})
