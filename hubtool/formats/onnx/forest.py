"""Reads an ensemble of trees as ai.onnx.ml wrote it before version 5.

There nodes and leaves stood in one list, told apart by their mode, and named each other by the ids
of tree and node; a leaf's weights were a second list, any number of them for any targets. Here
inner nodes and leaves are numbered apart, as TreeEnsemble 5 wants them, and ids become numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["AVERAGE", "FUNCTIONS", "MAX", "MIN", "SUM", "Forest", "floats", "forest_of", "ints"]

MODES = {
    b"BRANCH_LEQ": 0,
    b"BRANCH_LT": 1,
    b"BRANCH_GTE": 2,
    b"BRANCH_GT": 3,
    b"BRANCH_EQ": 4,
    b"BRANCH_NEQ": 5,
}
FUNCTIONS = {b"AVERAGE": 0, b"SUM": 1, b"MIN": 2, b"MAX": 3}
"""How the trees' weights are combined, and TreeEnsemble 5's numbers for it."""

AVERAGE, SUM, MIN, MAX = FUNCTIONS.values()
COMBINED = ((np.add, 0.0), (np.add, 0.0), (np.minimum, np.inf), (np.maximum, -np.inf))

Array = np.ndarray[Any, Any]
Attributes = dict[str, Any]


@dataclass(frozen=True)
class Forest:
    """An old ensemble, its inner nodes and its leaves numbered apart.

    dtype: that of X, of the splits and of the weights. leaf, target, weight: the entries, by leaf
    and then in the file's order. tree_of: the tree of each leaf.
    """

    dtype: Any
    attributes: Attributes
    leaves: int
    trees: int
    tree_of: Array
    leaf: Array
    target: Array
    weight: Array

    @property
    def single(self) -> bool:
        """Whether every leaf has one weight."""
        return len(self.leaf) == self.leaves

    def presence(self, targets: int) -> list[bool | None]:
        """For each target, whether it has a score for every sample (True: all leaves of a tree
        have it), for none (False), or for some."""
        pairs = np.unique(np.stack([self.leaf, self.target]), axis=1)
        listed = np.zeros((self.trees, targets), np.int64)
        np.add.at(listed, (self.tree_of[pairs[0]], pairs[1]), 1)
        leaves = np.bincount(self.tree_of, minlength=self.trees)
        always, ever = (listed == leaves[:, None]).any(axis=0), listed.any(axis=0)
        return [True if a else None if e else False for a, e in np.stack([always, ever], axis=1)]

    def table(self, targets: int, function: int) -> Array:
        """The weights [leaves, targets]; where there is none, what changes no sum, least or
        greatest."""
        combine, nothing = COMBINED[function]
        table = np.full((self.leaves, targets), nothing, self.dtype)
        combine.at(table, (self.leaf, self.target), self.weight)
        return table


def forest_of(attributes: Attributes, prefix: str, dtype: Any) -> Forest:
    """Read an old ensemble; ValueError where it is none."""
    trees, ids, features, yes, no = (
        ints(attributes, f"nodes_{key}")
        for key in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")
    )
    modes = np.array([*attributes.get("nodes_modes", ())], object)
    splits = floats(attributes, "nodes_values", dtype)
    if not len(trees) or {len(a) for a in (ids, features, yes, no, modes, splits)} != {len(trees)}:
        raise ValueError("the attributes nodes_* are not of equal length")
    is_leaf = modes == b"LEAF"
    unknown = sorted({*modes[~is_leaf]} - MODES.keys())
    if unknown:
        raise ValueError(f"the mode {unknown[0].decode(errors='replace'):.80} is unknown")
    find = _finder(trees, ids)
    inner = np.nonzero(~is_leaf)[0]
    number = np.where(is_leaf, np.cumsum(is_leaf), np.cumsum(~is_leaf)) - 1
    children = [find(trees[inner], child[inner]) for child in (yes, no)]
    roots = np.nonzero(np.diff(trees, prepend=trees[0] - 1))[0]
    if len(roots) != len(np.unique(trees)):
        raise ValueError("the nodes of a tree do not stand together")
    lone = roots[is_leaf[roots]]  # a tree of one leaf gets a node that leads to it either way
    tracks = ints(attributes, "nodes_missing_value_tracks_true")
    if len(tracks) not in (0, len(trees)):
        raise ValueError("nodes_missing_value_tracks_true is not as long as nodes_treeids")
    filler = np.zeros(len(lone), np.int64)
    first = len(inner) + np.cumsum(is_leaf[roots]) - 1
    made: Attributes = {
        "tree_roots": np.where(is_leaf[roots], first, number[roots]),
        "nodes_featureids": np.concatenate([features[inner], filler]),
        "nodes_splits": np.concatenate([splits[inner], filler.astype(dtype)]),
        "nodes_modes": np.concatenate([[MODES[m] for m in modes[inner]], filler]).astype(np.uint8),
    }
    for key, child in zip(("true", "false"), children, strict=True):
        made[f"nodes_{key}nodeids"] = np.concatenate([number[child], number[lone]])
        made[f"nodes_{key}leafs"] = np.concatenate([is_leaf[child], filler + 1])
    if len(tracks) and tracks[inner].any():
        made["nodes_missing_value_tracks_true"] = np.concatenate([tracks[inner] == 1, filler])
    tree_of = (np.cumsum(np.isin(np.arange(len(trees)), roots)) - 1)[is_leaf]
    entries = _entries(attributes, prefix, dtype, find, is_leaf, number)
    return Forest(dtype, made, int(is_leaf.sum()), len(roots), tree_of, *entries)


def _entries(
    attributes: Attributes,
    prefix: str,
    dtype: Any,
    find: Callable[[Array, Array], Array],
    is_leaf: Array,
    number: Array,
) -> tuple[Array, Array, Array]:
    """Leaf, target and weight of each entry, sorted by leaf. Weights of inner nodes, as some old
    exporters wrote them, count for nothing."""
    trees, ids, targets = (
        ints(attributes, f"{prefix}_{key}") for key in ("treeids", "nodeids", "ids")
    )
    weights = floats(attributes, f"{prefix}_weights", dtype)
    if {len(a) for a in (ids, targets, weights)} != {len(trees)}:
        raise ValueError(f"the attributes {prefix}_* are not of equal length")
    places = find(trees, ids)
    kept = is_leaf[places]
    leaf = number[places[kept]]
    order = np.argsort(leaf, kind="stable")
    leaf = leaf[order]
    if len(np.unique(leaf)) != is_leaf.sum():
        raise ValueError("a leaf has no weight")
    return leaf, targets[kept][order], weights[kept][order]


def _finder(trees: Array, ids: Array) -> Callable[[Array, Array], Array]:
    """A function that gives the places of nodes by the ids of their trees and their own."""
    known_trees, known_ids = np.unique(trees), np.unique(ids)

    def keys(trees: Array, ids: Array) -> Array:
        parts = []
        for known, wanted in ((known_trees, trees), (known_ids, ids)):
            place = np.searchsorted(known, wanted).clip(0, len(known) - 1)
            if (known[place] != wanted).any():
                raise ValueError("a node is mentioned that does not exist")
            parts.append(place)
        combined: Array = parts[0] * len(known_ids) + parts[1]
        return combined

    own = keys(trees, ids)
    order = np.argsort(own)
    ranked = own[order]
    if (ranked[1:] == ranked[:-1]).any():
        raise ValueError("a node exists twice")

    def find(trees: Array, ids: Array) -> Array:
        wanted = keys(trees, ids)
        place = np.searchsorted(ranked, wanted).clip(0, len(ranked) - 1)
        if (ranked[place] != wanted).any():
            raise ValueError("a node is mentioned that does not exist")
        found: Array = order[place]
        return found

    return find


def ints(attributes: Attributes, key: str) -> Array:
    """A list of integers, empty where there is none."""
    values: Array = attributes.get(key, np.zeros(0, np.int64))
    return values


def floats(attributes: Attributes, key: str, dtype: Any) -> Array:
    """A list of floats, which since version 3 may be a tensor."""
    values: Any = attributes.get(f"{key}_as_tensor", attributes.get(key, np.zeros(0)))
    cast: Array = values.astype(dtype)
    return cast
