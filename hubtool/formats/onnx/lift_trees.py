"""The ensembles of ai.onnx.ml 1 and 3 as TreeEnsemble 5, and the layers that it takes behind it.

A leaf of TreeEnsemble gives one number to one target, and nothing is done with the sums. So:

    several weights      each tree gives the number of its leaf, and a Gather looks the weights up:
    in one leaf          TreeEnsemble [N, trees] -> Gather [N, trees, targets] -> ReduceSum
    base_values          Add
    post_transform       Sigmoid, Softmax; the odd ones a LinearRegressor with the identity matrix
    the label            ArgMax, or a comparison where there are two classes; then LabelEncoder

A target that no leaf on a sample's way mentions is *absent* there: its score is 0 whatever its
base value, and it is never the label. This and the scores of two classes are as ONNX Runtime has
them, odd ends included; the specification is silent there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from hubtool.formats.onnx.forest import FUNCTIONS, MAX, MIN, SUM, Forest, floats, forest_of, ints
from hubtool.formats.onnx.walk import Steps

__all__ = ["INT64", "STRING", "Layers", "classifier", "regressor"]

DOMAIN = "ai.onnx.ml"

FLOAT, DOUBLE, STRING, INT64 = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.STRING,
    onnx.TensorProto.INT64,
)
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMin", "ReduceMax")
"""By the numbers of FUNCTIONS."""

TRANSFORMS = {b"NONE", b"LOGISTIC", b"SOFTMAX", b"SOFTMAX_ZERO", b"PROBIT"}

MOST_LEAVES = {np.float32: 2**24, np.float64: 2**53}
"""So far does a floating-point number count without gaps."""

Array = np.ndarray[Any, Any]
Attributes = dict[str, Any]


class Layers(Steps):
    """The nodes that take the place of one. A value is known by its name."""

    def __call__(self, op: str, *inputs: str, **given: Any) -> str:
        """Append a node; gives the name of its value."""
        return self.add(op, [*inputs], op, **given)

    def number(self, values: Any, dtype: Any) -> str:
        """Append a constant."""
        return self.constant(np.asarray(values, dtype), "Constant")

    def named(self, outputs: dict[str, str]) -> list[onnx.NodeProto]:
        """The nodes that these values need, the values called by other names; "" is not wanted."""
        outputs = {value: name for value, name in outputs.items() if name}
        needed, kept = {*outputs}, []
        for node in reversed(self.nodes):
            if needed & {*node.output}:
                needed.update(node.input)
                kept.append(node)
                for names in (node.input, node.output):
                    names[:] = [outputs.get(name, name) for name in names]
        return kept[::-1]


def regressor(layers: Layers, X: str, attributes: Attributes, dtypes: dict[str, int]) -> list[str]:
    """The scores of a TreeEnsembleRegressor."""
    X, dtype = _numbers(layers, X, dtypes)
    forest = forest_of(attributes, "target", dtype)
    targets = int(attributes.get("n_targets", 0))
    function = attributes.get("aggregate_function", b"SUM")
    if function not in FUNCTIONS:
        raise ValueError(f"aggregate_function {function.decode(errors='replace')} is unknown")
    _check_targets(forest, targets)
    base = floats(attributes, "base_values", forest.dtype)
    if len(base) not in (0, targets):
        raise ValueError(f"there are {len(base)} base_values for {targets} targets")
    if len(base) and targets > 1:
        scores = _raised(layers, X, forest, base, FUNCTIONS[function])
    else:
        scores, _ = _scores(layers, X, forest, targets, FUNCTIONS[function])
        scores = _added(layers, scores, base, forest) if len(base) else scores
    return [_transformed(layers, _single(layers, scores, forest), targets, attributes)]


def _raised(layers: Layers, X: str, forest: Forest, base: Array, function: int) -> str:
    """The scores of several targets with base values where the targets are present."""
    has = forest.presence(len(base))
    scores, present = _scores(layers, X, forest, len(base), function, None in has)
    raised = _added(layers, scores, np.where([h is False for h in has], 0, base), forest)
    if not present:
        return raised
    return layers("Where", _is_there(layers, present, forest), raised, scores)


def _added(layers: Layers, scores: str, base: Any, forest: Forest) -> str:
    return layers("Add", scores, layers.number(base, forest.dtype))


def _check_targets(forest: Forest, targets: int) -> None:
    if forest.target.min() < 0 or forest.target.max() >= targets:
        raise ValueError(f"a leaf has a weight for a target outside of {targets}")


def _numbers(layers: Layers, X: str, dtypes: dict[str, int]) -> tuple[str, Any]:
    """X as float64 where it is, else as float32, as ONNX Runtime compares it."""
    if dtypes.get(X) == DOUBLE:
        return X, np.float64
    return X if dtypes.get(X) == FLOAT else layers("Cast", X, to=FLOAT), np.float32


def _single(layers: Layers, scores: str, forest: Forest) -> str:
    return layers("Cast", scores, to=FLOAT) if forest.dtype == np.float64 else scores


def _scores(
    layers: Layers, X: str, forest: Forest, targets: int, function: int, varies: bool = False
) -> tuple[str, str]:
    """The scores [N, targets], and where it `varies`, 1 for each target that is present."""
    if targets == 1:  # ONNX Runtime takes the first weight of a leaf
        leaf, first = np.unique(forest.leaf, return_index=True)
        forest = replace(
            forest, leaf=leaf, target=forest.target[first], weight=forest.weight[first]
        )
    if forest.single and not varies:
        weights = {"leaf_targetids": forest.target, "leaf_weights": forest.weight}
        return _trees(layers, X, forest, targets, weights, function), ""
    if forest.leaves > MOST_LEAVES[forest.dtype]:
        raise ValueError(f"{forest.leaves} leaves with several weights are too many")
    weights = {"leaf_targetids": forest.tree_of, "leaf_weights": np.arange(forest.leaves)}
    numbers = _trees(layers, X, forest, forest.trees, weights, SUM)
    places = layers("Cast", numbers, to=INT64)
    scores = _looked_up(layers, places, forest.table(targets, function), REDUCTIONS[function])
    if function in (MIN, MAX):  # infinite where no leaf has the target
        zero = layers.number(0, forest.dtype)
        scores = layers("Where", layers("IsInf", scores), zero, scores)
    if not varies:
        return scores, ""
    listed = np.isfinite(forest.table(targets, MIN)).astype(forest.dtype)
    return scores, _looked_up(layers, places, listed, "ReduceMax")


def _is_there(layers: Layers, present: str, forest: Forest) -> str:
    return layers("Greater", present, layers.number(0, forest.dtype))


def _trees(
    layers: Layers, X: str, forest: Forest, targets: int, weights: Attributes, function: int
) -> str:
    arrays = {**forest.attributes, **weights}
    arrays["leaf_weights"] = arrays["leaf_weights"].astype(forest.dtype)
    tensors = ("nodes_splits", "nodes_modes", "leaf_weights")
    attributes = {
        key: onnx.numpy_helper.from_array(array) if key in tensors else array.tolist()
        for key, array in arrays.items()
    }
    return layers(
        "TreeEnsemble",
        X,
        domain=DOMAIN,
        n_targets=targets,
        aggregate_function=function,
        **attributes,
    )


def _looked_up(layers: Layers, places: str, table: Array, reduction: str) -> str:
    rows = layers("Gather", layers.number(table, table.dtype), places, axis=0)
    return layers(reduction, rows, layers.number([1], np.int64), keepdims=0)


def _transformed(layers: Layers, scores: str, columns: int, attributes: Attributes) -> str:
    """What post_transform makes of scores [N, columns] in float32; one column knows PROBIT only."""
    name = _transform(attributes)
    if name == b"NONE" or (columns == 1 and name != b"PROBIT"):
        return scores
    if name == b"LOGISTIC":
        return layers("Sigmoid", scores)
    if name == b"SOFTMAX":
        return layers("Softmax", scores, axis=1)
    return layers(
        "LinearRegressor",
        scores,
        domain=DOMAIN,
        targets=columns,
        coefficients=np.eye(columns, dtype=np.float32).reshape(-1).tolist(),
        post_transform=name.decode(),
    )


def _transform(attributes: Attributes) -> bytes:
    name: bytes = attributes.get("post_transform", b"NONE")
    if name not in TRANSFORMS:
        raise ValueError(f"post_transform {name.decode(errors='replace')} is unknown")
    return name


def classifier(layers: Layers, X: str, attributes: Attributes, dtypes: dict[str, int]) -> list[str]:
    """The labels and the scores of a TreeEnsembleClassifier."""
    X, dtype = _numbers(layers, X, dtypes)
    forest = forest_of(attributes, "class", dtype)
    strings = [*attributes.get("classlabels_strings", ())]
    labels: Any = strings or ints(attributes, "classlabels_int64s").tolist()
    base = floats(attributes, "base_values", forest.dtype)
    _check_targets(forest, len(labels))
    if len(base) not in ((0, 1, 2) if len(labels) == 2 else (0, len(labels))):
        raise ValueError(f"there are {len(base)} base_values for {len(labels)} classes")
    if len(labels) == 1:
        place, scores = _one_class(layers, X, forest, base, attributes)
    elif len(labels) == 2:
        place, scores = _two_classes(layers, X, forest, base, attributes)
    else:
        place, scores = _classes(layers, X, forest, len(labels), base, attributes)
    if len(labels) <= 2 and not _is_binary(forest, len(labels)):
        labels = strings or [0, 1]  # ONNX Runtime gives the place itself
    if len(labels) < 2:
        raise ValueError("a single class that is text has no second one for scores above 0")
    if labels != [*range(len(labels))]:
        key = "values_strings" if strings else "values_int64s"
        keys = [*range(len(labels))]
        place = layers("LabelEncoder", place, domain=DOMAIN, keys_int64s=keys, **{key: labels})
    return [place, scores]


def _is_binary(forest: Forest, classes: int) -> bool:
    return classes == 2 and len(np.unique(forest.target)) == 1


def _classes(
    layers: Layers, X: str, forest: Forest, count: int, base: Array, attributes: Attributes
) -> tuple[str, str]:
    """The place of the highest score that is present, and the scores."""
    has: list[bool | None] = [True] if len(base) else forest.presence(count)
    scores, present = _scores(layers, X, forest, count, SUM, None in has)
    scores = _added(layers, scores, base, forest) if len(base) else scores
    judged = scores
    if not all(has):
        present = present or layers.number([has], forest.dtype)
        lowest = layers.number(-np.inf, forest.dtype)
        judged = layers("Where", _is_there(layers, present, forest), scores, lowest)
    place = layers("ArgMax", judged, axis=1, keepdims=0)
    return place, _transformed(layers, _single(layers, scores, forest), count, attributes)


def _one_class(
    layers: Layers, X: str, forest: Forest, base: Array, attributes: Attributes
) -> tuple[str, str]:
    """Place 1 where the score is above 0, else 0."""
    scores, _ = _scores(layers, X, forest, 1, SUM)
    scores = _added(layers, scores, base, forest) if len(base) else scores
    place = _above(layers, scores, 0, forest)
    return place, _transformed(layers, _single(layers, scores, forest), 1, attributes)


def _two_classes(
    layers: Layers, X: str, forest: Forest, base: Array, attributes: Attributes
) -> tuple[str, str]:
    """As ONNX Runtime has it. With s0 and s1 the sums, 0 where a class is absent:

    base_values     class 1 present                   class 1 absent
    none            s0, s1                            one score s0, of which a second is made
    [b]             s0 + b, s1                        one score s0 + b, of which a second is made
    [b0, b1]        -(b1 + s0), b1 + s0               s0 + b0, 0

    and what is absent stays 0. Where [b] stands with weights for both classes and class 1 is
    absent, ONNX Runtime leaves the second score unwritten; it is 0 here. The judge is class 1's
    number, or the other's where class 1 is absent: it decides by 0, or by 0.5 where only one class
    has weights and none is negative.
    """
    binary = _is_binary(forest, 2)
    has = forest.presence(2)
    sums, present = _scores(layers, X, forest, 2, SUM, None in has)
    pick = _Picker(layers, forest, present, has)
    s0, s1 = (pick.column(sums, target) for target in (0, 1))
    zero = layers("Mul", s0, layers.number(0, forest.dtype))
    positive = binary and bool((forest.weight >= 0).all())
    if len(base) == 2:
        one, two = (_added(layers, s0, number, forest) for number in base)
        first = pick.where(0, pick.where(1, layers("Neg", two), one), zero)
        scores = _pair(layers, first, pick.where(1, two, zero), forest, attributes)
        return _above(layers, pick.where(1, two, one), 0.5 if positive else 0, forest), scores
    one = _added(layers, s0, base[0], forest) if len(base) else s0
    if len(base) and not binary:
        made = _single(layers, layers("Concat", one, zero, axis=1), forest)
    else:
        made = "" if has[1] else _with_second(layers, one, forest, attributes, positive)
    pair = _pair(layers, pick.where(0, one, zero), s1, forest, attributes)
    judge = pick.where(1, s1, one)
    return _above(layers, judge, 0.5 if positive else 0, forest), pick.where(1, pair, made)


@dataclass(frozen=True)
class _Picker:
    """Chooses between two values by the presence of a class, where that is not settled."""

    layers: Layers
    forest: Forest
    present: str
    has: list[bool | None]

    def column(self, values: str, target: int) -> str:
        """One column [N, 1]."""
        return self.layers("Gather", values, self.layers.number([target], np.int64), axis=1)

    def where(self, target: int, there: str, absent: str) -> str:
        known = self.has[target]
        if known is not None:
            return there if known else absent
        column = self.column(self.present, target)
        return self.layers("Where", _is_there(self.layers, column, self.forest), there, absent)


def _above(layers: Layers, scores: str, threshold: float, forest: Forest) -> str:
    """1 where a score [N, 1] is above the threshold, else 0; [N]."""
    above = layers("Greater", scores, layers.number(threshold, forest.dtype))
    flat = layers("Reshape", above, layers.number([-1], np.int64))
    return layers("Cast", flat, to=INT64)


def _pair(layers: Layers, first: str, second: str, forest: Forest, attributes: Attributes) -> str:
    scores = _single(layers, layers("Concat", first, second, axis=1), forest)
    return _transformed(layers, scores, 2, attributes)


def _with_second(
    layers: Layers, score: str, forest: Forest, attributes: Attributes, positive: bool
) -> str:
    """The scores of both classes of one: what is left of 1, or its negative."""
    name = _transform(attributes)
    if name == b"PROBIT":
        raise ValueError("post_transform PROBIT has no meaning for one score of two classes")
    mirrored = layers("Neg", score)
    if name == b"LOGISTIC":
        both = layers("Concat", mirrored, score, axis=1)
        return layers("Sigmoid", _single(layers, both, forest))
    other = layers("Sub", layers.number(1, forest.dtype), score) if positive else mirrored
    return _single(layers, layers("Concat", other, score, axis=1), forest)
