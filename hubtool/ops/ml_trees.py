"""TreeEnsemble: all samples walk all trees at once, one level a step.

Inner nodes and leaves are numbered in one row, the leaves behind the nodes, so that a child is one
number. `at` holds where each sample stands in each tree; the pairs that stand at inner nodes go on:

    at[n, t]  --X[n, feature] < split?-->  true[at] or false[at]  …  until all are leaves

A leaf adds its weight to one target. The numbers of post_transform are the specification's
(1 SOFTMAX, 2 LOGISTIC); ONNX Runtime 1.32 has the two the other way round.
(https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hubtool.ops import REQUIRED, op
from hubtool.ops.ml_models import transformed
from hubtool.ops.shape import guard_size

__all__: list[str] = []

Array = Any
Host = np.ndarray[Any, Any]

PAIRS = 1 << 18
"""So many pairs of sample and tree walk together: their numbers stay in the processor's cache."""

MEMBER = 6
COMPARISONS: tuple[Callable[[Host, Host], Host], ...] = (
    np.less_equal,
    np.less,
    np.greater_equal,
    np.greater,
    np.equal,
    np.not_equal,
)
"""By the number of a node's mode; 6, BRANCH_MEMBER, compares with a set."""

AVERAGE, SUM, MIN, MAX = range(4)
POST_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@dataclass(frozen=True)
class Trees:
    """The inner nodes of an ensemble: column n of everything belongs to node n.

    yes, no: the child where the comparison holds, and where not; leaves count from len(modes) on.
    missing: where NaN goes the way of yes. members: the sets of the BRANCH_MEMBER nodes.
    """

    roots: Host
    modes: Host
    features: Host
    splits: Host
    yes: Host
    no: Host
    missing: Host | None
    members: Sequence[Host]

    def leaves(self, X: Host) -> Host:
        """The leaf that each row of X reaches in each tree, [N, trees]."""
        count = len(self.modes)
        at = np.tile(self.roots, (len(X), 1)).reshape(-1)
        rows = np.repeat(np.arange(len(X)), len(self.roots))
        walking = np.arange(at.size)
        for _ in range(count + 1):
            if not walking.size:
                return (at - count).reshape(len(X), -1)
            node = at[walking]
            value = X[rows[walking], self.features[node]]
            there = np.where(self._holds(node, value), self.yes[node], self.no[node])
            at[walking] = there
            walking = walking[there < count]
        raise ValueError("the nodes of a tree go round in a circle")

    def _holds(self, node: Host, value: Host) -> Host:
        """Whether the comparison of each node holds for the value beside it."""
        holds = np.zeros(node.shape, bool)
        for mode in self._modes_used:
            if mode == MEMBER:
                result = self._is_member(node, value)
            else:
                result = COMPARISONS[mode](value, self.splits[node])
            if len(self._modes_used) == 1:
                holds = result
            else:
                holds |= result & (self.modes[node] == mode)
        if self.missing is not None:
            holds = holds | self.missing[node] & np.isnan(value)
        return holds

    @cached_property
    def _modes_used(self) -> list[int]:
        return [int(mode) for mode in np.unique(self.modes)]

    def _is_member(self, node: Host, value: Host) -> Host:
        known, keys = self._pairs
        place = np.searchsorted(known, value).clip(0, max(len(known) - 1, 0))
        if not known.size:
            return np.zeros(node.shape, bool)
        found = np.isin(node * len(known) + place, keys)
        result: Host = found & (known[place] == value)
        return result

    @cached_property
    def _pairs(self) -> tuple[Host, Host]:
        """All members of all sets, sorted, and each pair of node and member as one number."""
        (nodes,) = np.nonzero(self.modes == MEMBER)
        if len(nodes) != len(self.members):
            raise ValueError(
                f"there are {len(self.members)} sets of membership_values for {len(nodes)} nodes"
            )
        known = np.unique(np.concatenate([*self.members, self.splits[:0]]))
        keys = [
            node * len(known) + np.searchsorted(known, values)
            for node, values in zip(nodes, self.members, strict=True)
        ]
        return known, np.concatenate([*keys, nodes[:0]])


def _targets(n_targets: int | None, leaf_targetids: Sequence[int]) -> int:
    return n_targets or max(leaf_targetids, default=-1) + 1


def _shape(
    ctx: Any,
    X: Array,
    *,
    leaf_targetids: Sequence[int],
    n_targets: int | None = None,
    **_: Any,
) -> Array:
    rows = X.shape[0] if len(X.shape) > 1 else 1
    return ctx.empty((rows, _targets(n_targets, leaf_targetids)), ctx.dtype(X))


@op("ai.onnx.ml.TreeEnsemble", on_host=True, shape=_shape)
def tree_ensemble(
    ctx: Any,
    X: Array,
    *,
    aggregate_function: int = 1,
    leaf_targetids: list[int] = REQUIRED,
    leaf_weights: Array = REQUIRED,
    membership_values: Array = None,
    n_targets: int | None = None,
    nodes_falseleafs: list[int] = REQUIRED,
    nodes_falsenodeids: list[int] = REQUIRED,
    nodes_featureids: list[int] = REQUIRED,
    nodes_hitrates: Array = None,
    nodes_missing_value_tracks_true: list[int] | None = None,
    nodes_modes: Array = REQUIRED,
    nodes_splits: Array = REQUIRED,
    nodes_trueleafs: list[int] = REQUIRED,
    nodes_truenodeids: list[int] = REQUIRED,
    post_transform: int = 0,
    tree_roots: list[int] = REQUIRED,
) -> Array:
    """Scores [N, n_targets]; a target that no leaf reached has 0."""
    X = X.reshape(1, -1) if X.ndim == 1 else X
    count = len(nodes_modes)
    leaves = len(leaf_targetids)
    tracks = nodes_missing_value_tracks_true
    trees = Trees(
        roots=np.asarray(tree_roots, np.int64),
        modes=nodes_modes.astype(np.int64),
        features=np.asarray(nodes_featureids, np.int64),
        splits=nodes_splits.astype(X.dtype),
        yes=_children(nodes_truenodeids, nodes_trueleafs, count, leaves),
        no=_children(nodes_falsenodeids, nodes_falseleafs, count, leaves),
        missing=np.asarray(tracks, bool) if tracks and any(tracks) else None,
        members=_sets(membership_values, X.dtype),
    )
    targets = np.asarray(leaf_targetids, np.int64)
    _check(trees, X, targets, _targets(n_targets, leaf_targetids), len(leaf_weights))
    weights = leaf_weights.astype(X.dtype)
    guard_size((len(X), _targets(n_targets, leaf_targetids)), ctx.dtype(X))
    scores = np.zeros((len(X), _targets(n_targets, leaf_targetids)), X.dtype)
    step = max(1, PAIRS // max(len(tree_roots), 1))
    for start in range(0, len(X), step):
        leaf = trees.leaves(X[start : start + step])
        _add_up(scores[start : start + step], weights[leaf], targets[leaf], aggregate_function)
    if not 0 <= post_transform < len(POST_TRANSFORMS):
        raise ValueError(f"post_transform is {post_transform}, not 0 to 4")
    return transformed(ctx, scores, POST_TRANSFORMS[post_transform])


def _children(ids: list[int], leafs: list[int], nodes: int, leaves: int) -> Host:
    """A child as one number: a node's own, or a leaf's behind all nodes."""
    numbers, is_leaf = np.asarray(ids, np.int64), np.asarray(leafs, bool)
    if len(ids) != nodes or len(leafs) != nodes:
        raise ValueError(f"the attributes nodes_* are not all of {nodes} nodes")
    if ((numbers < 0) | (numbers >= np.where(is_leaf, leaves, nodes))).any():
        raise ValueError(f"a child is neither one of {nodes} nodes nor one of {leaves} leaves")
    return numbers + np.where(is_leaf, nodes, 0)


def _sets(membership_values: Array, dtype: Any) -> list[Host]:
    """The sets, each of which ends with NaN."""
    if membership_values is None:
        return []
    values = membership_values.astype(dtype)
    (ends,) = np.nonzero(np.isnan(values))
    starts = [0, *(ends + 1)]
    sets = [values[start:end] for start, end in zip(starts, [*ends, len(values)], strict=True)]
    return sets if len(sets[-1]) else sets[:-1]


def _check(trees: Trees, X: Host, targets: Host, n_targets: int, weights: int) -> None:
    count, columns = len(trees.modes), X.shape[1] if X.ndim == 2 else 0
    lengths = {len(trees.features), len(trees.splits), count}
    if trees.missing is not None:
        lengths.add(len(trees.missing))
    problems = {
        "the attributes nodes_* are not of equal length": len(lengths) > 1,
        "there are not as many leaf_targetids as leaf_weights": len(targets) != weights,
        "a root is no node": ((trees.roots < 0) | (trees.roots >= count)).any(),
        "a node has an unknown mode": ((trees.modes < 0) | (trees.modes > MEMBER)).any(),
        f"X {list(X.shape)} lacks a feature that a node compares": X.ndim != 2
        or ((trees.features < 0) | (trees.features >= columns)).any(),
        f"a leaf has a target outside of {n_targets}": (
            (targets < 0) | (targets >= n_targets)
        ).any(),
    }
    found = [problem for problem, is_so in problems.items() if is_so]
    if found:
        raise ValueError("; ".join(found))


def _add_up(scores: Host, weights: Host, targets: Host, function: int) -> None:
    """The trees' weights [N, trees] into the scores of their targets, tree by tree in float32."""
    if function not in (AVERAGE, SUM, MIN, MAX):
        raise ValueError(f"aggregate_function is {function}, not 0 to 3")
    rows = np.arange(len(scores))
    reached = np.zeros(scores.shape, bool)
    for tree in range(weights.shape[1]):
        place = (rows, targets[:, tree])
        new, old = weights[:, tree], scores[place]
        if function in (MIN, MAX):
            closer = new < old if function == MIN else new > old
            scores[place] = np.where(closer | ~reached[place], new, old)
            reached[place] = True
        else:
            scores[place] = old + new
    if function == AVERAGE:
        scores /= weights.shape[1]
