"""ai.onnx.ml below version 5: what becomes of it computes what ONNX Runtime makes of the original.

The forests are drawn at random, so that every shape of tree, leaf and class occurs; numpy runs the
lifted graph, and ONNX Runtime the file that hubtool writes of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from ops.classical import in_onnxruntime, model_of, same, texts

import hubtool
from hubtool.backends import get
from hubtool.errors import InputError, UnsupportedError
from hubtool.formats.onnx.lift_ml import rewrite
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import to_model, write
from hubtool.graph import Graph
from hubtool.meta import infer_shapes

MODES = [f"BRANCH_{mode}" for mode in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")]
REGRESSOR, CLASSIFIER = "ai.onnx.ml.TreeEnsembleRegressor", "ai.onnx.ml.TreeEnsembleClassifier"


def forest(rng, targets, how, *, trees=4, depth=3, tracks=False) -> dict[str, Any]:
    """The attributes nodes_* of a random forest, and leaf_* of its leaves' weights.

    how: every leaf has weights for all targets, each tree for one, or each leaf for some.
    """
    keys = "treeids nodeids featureids modes values truenodeids falsenodeids"
    nodes: dict[str, list[Any]] = {key: [] for key in keys.split()}
    leaves: dict[str, list[Any]] = {key: [] for key in ["treeids", "nodeids", "ids", "weights"]}

    def grow(number: int, depth: int) -> int:
        own, place = nodes["treeids"].count(number), len(nodes["treeids"])
        is_leaf = depth == 0 or rng.random() < 0.2
        mode = "LEAF" if is_leaf else str(rng.choice(MODES))
        split, feature = float(rng.integers(-2, 3)) / 2, int(rng.integers(3))
        for key, value in zip(nodes, (number, own, feature, mode, split, 0, 0), strict=True):
            nodes[key].append(value)
        if is_leaf:
            some = rng.choice(targets, int(rng.integers(1, targets + 1)), replace=False)
            chosen = {"all": range(targets), "one": [number % targets], "some": sorted(some)}
            for target in chosen[how]:
                weight = float(np.float32(rng.normal()))
                for key, value in zip(leaves, (number, own, int(target), weight), strict=True):
                    leaves[key].append(value)
        else:
            nodes["truenodeids"][place] = grow(number, depth - 1)
            nodes["falsenodeids"][place] = grow(number, depth - 1)
        return own

    for number in range(trees):
        grow(number, depth)
    attrs = {f"nodes_{key}": values for key, values in nodes.items()}
    if tracks:
        attrs["nodes_missing_value_tracks_true"] = [int(rng.integers(2)) for _ in nodes["modes"]]
    return attrs | {f"leaf_{key}": values for key, values in leaves.items()}


def regressor(rng, targets, how, **kind) -> dict[str, Any]:
    attrs = forest(rng, targets, how, **kind)
    return {key.replace("leaf_", "target_"): v for key, v in attrs.items()} | {"n_targets": targets}


def classifier(rng, labels, how, **kind) -> dict[str, Any]:
    attrs = forest(rng, len(labels), how, **kind)
    name = "classlabels_strings" if isinstance(labels[0], str) else "classlabels_int64s"
    return {key.replace("leaf_", "class_"): v for key, v in attrs.items()} | {name: labels}


def samples(dtype: str = "float32", *, missing: bool = False) -> np.ndarray:
    X = np.random.default_rng(2).integers(-3, 4, (50, 3)) / 2
    if missing:
        X[::5, 2] = np.nan
    return X.astype(dtype)


def lifted(model: onnx.ModelProto, folder: Any) -> Graph:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return read(path, isolated=False)


def agrees(op: str, X: Any, attrs: dict[str, Any], folder: Any, version: int = 3) -> Graph:
    """What is lifted makes what ONNX Runtime makes of the original, and so does what is written."""
    outputs = {"Y": "float32"} if op == REGRESSOR else {"Y": "int64", "Z": "float32"}
    if "classlabels_strings" in attrs:
        outputs["Y"] = "string"
    model = model_of(op, [X], attrs, outputs, **{"ai.onnx.ml": version, "": 15})
    wanted = in_onnxruntime(model, [X])
    graph = lifted(model, folder)
    made = get("numpy").prepare(graph).run({"in0": X})
    write(graph, folder / "again.onnx", overwrite=True)
    back = in_onnxruntime(onnx.load(folder / "again.onnx"), [X])
    for one, two, expected in zip(made.values(), back, wanted, strict=True):
        same(one, expected)
        same(two, expected)
    shapes = infer_shapes(graph, {"in0": X})
    for name, expected in zip(graph.outputs, wanted, strict=True):
        assert shapes[name].shape == expected.shape
    return graph


@pytest.mark.parametrize("base", [False, True], ids=["", "base"])
@pytest.mark.parametrize("function", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("how", ["all", "one", "some"])
@pytest.mark.parametrize("targets", [1, 3])
def test_a_regressor_computes_the_same(tmp_path, targets, how, function, base):
    rng = np.random.default_rng(targets)
    attrs = regressor(rng, targets, how) | {"aggregate_function": function}
    attrs |= {"base_values": [0.5, -1.0, 2.0][:targets]} if base else {}
    graph = agrees(REGRESSOR, samples(), attrs, tmp_path)
    assert "ai.onnx.ml.TreeEnsemble" in {layer.op for layer in graph.layers}


@pytest.mark.parametrize("labels", [[7, 3, 5], ["b", "a", "c"]], ids=["ints", "strings"])
@pytest.mark.parametrize("base", [False, True], ids=["", "base"])
@pytest.mark.parametrize("how", ["all", "one", "some"])
def test_a_classifier_computes_the_same(tmp_path, how, base, labels):
    attrs = classifier(np.random.default_rng(4), labels, how)
    attrs |= {"base_values": [0.5, -1.0, 0.2]} if base else {}
    agrees(CLASSIFIER, samples(), attrs, tmp_path)


def of_two(seed: int, which: str, positive: bool) -> dict[str, Any]:
    """Two classes: weights for the first, the second, both in every leaf, or some in each."""
    how = {"both": "all", "some": "some"}.get(which, "one")
    attrs = classifier(np.random.default_rng(seed), [7, 3], how, trees=3)
    if which in ("first", "second"):
        attrs["class_ids"] = [int(which == "second")] * len(attrs["class_ids"])
    if positive:
        attrs["class_weights"] = [abs(weight) / 2 for weight in attrs["class_weights"]]
    return attrs


@pytest.mark.parametrize("post_transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("base", [[], [0.2], [0.3, -0.1]], ids=str)
@pytest.mark.parametrize("positive", [False, True], ids=["mixed", "positive"])
@pytest.mark.parametrize("which", ["first", "second", "both", "some"])
def test_two_classes_are_as_onnxruntime_has_them(tmp_path, which, positive, base, post_transform):
    attrs = of_two(len(which), which, positive) | {"post_transform": post_transform}
    attrs |= {"base_values": base} if base else {}
    if which == "some" and len(base) == 1:  # ONNX Runtime leaves a score unwritten
        attrs |= of_two(1, "both", positive)
    agrees(CLASSIFIER, samples(), attrs, tmp_path)


def test_where_onnxruntime_leaves_a_score_unwritten_it_is_0(tmp_path):
    attrs = classifier(np.random.default_rng(5), [7, 3], "some", trees=1) | {"base_values": [0.2]}
    X = samples()
    model = model_of(
        CLASSIFIER, [X], attrs, {"Y": "int64", "Z": "float32"}, **{"ai.onnx.ml": 3, "": 15}
    )
    graph = lifted(model, tmp_path)
    labels, scores = in_onnxruntime(model, [X])
    made = [*get("numpy").prepare(graph).run({"in0": X}).values()]
    same(made[0], labels)
    same(made[1][:, 0], scores[:, 0])
    assert (made[1][:, 1] == 0).any()


def test_one_class_is_above_or_below_0(tmp_path):
    attrs = classifier(np.random.default_rng(1), [5], "all")
    agrees(CLASSIFIER, samples(), attrs, tmp_path)
    agrees(CLASSIFIER, samples(), attrs | {"base_values": [0.4]}, tmp_path)


@pytest.mark.parametrize("post_transform", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
@pytest.mark.parametrize("targets", [1, 3])
def test_post_transforms_become_layers(tmp_path, targets, post_transform):
    attrs = regressor(np.random.default_rng(6), targets, "all")
    attrs["target_weights"] = [abs(weight) / 12 for weight in attrs["target_weights"]]
    agrees(REGRESSOR, samples(), attrs | {"post_transform": post_transform}, tmp_path)


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32"])
def test_every_type_is_compared_as_onnxruntime_compares_it(tmp_path, dtype, version):
    attrs = classifier(np.random.default_rng(8), ["a", "b", "c"], "all")
    attrs["nodes_values"] = [value + 0.1 for value in attrs["nodes_values"]]
    agrees(CLASSIFIER, samples(dtype), attrs, tmp_path, version)


def test_what_is_float64_may_be_tensors(tmp_path):
    attrs = regressor(np.random.default_rng(9), 2, "all", trees=30)
    for key in ("nodes_values", "target_weights"):
        attrs[f"{key}_as_tensor"] = np.array(attrs.pop(key)) + 1e-9
    attrs["base_values_as_tensor"] = np.array([0.1, 0.2])
    assert attrs["nodes_values_as_tensor"].nbytes > 1024  # so large ones stay in the skeleton
    agrees(REGRESSOR, samples("float64"), attrs, tmp_path)


@pytest.mark.parametrize("tracks", [False, True])
def test_nan_keeps_its_way(tmp_path, tracks):
    attrs = regressor(np.random.default_rng(10), 1, "all", trees=8, tracks=tracks)
    agrees(REGRESSOR, samples(missing=True), attrs, tmp_path)


def test_trees_that_are_one_leaf_stay(tmp_path):
    attrs = regressor(np.random.default_rng(12), 1, "all", trees=3, depth=0)
    agrees(REGRESSOR, samples(), attrs, tmp_path)


def test_ids_need_not_be_numbers_from_0(tmp_path):
    attrs = regressor(np.random.default_rng(13), 2, "some", trees=3)
    ids = {key: [i * 3 + 2 for i in attrs[key]] for key in attrs if key.endswith("treeids")}
    agrees(REGRESSOR, samples(), attrs | ids, tmp_path)


def test_weights_of_inner_nodes_count_for_nothing(tmp_path):
    attrs = regressor(np.random.default_rng(14), 1, "all", trees=1)
    assert attrs["nodes_modes"][0] != "LEAF"
    for key, value in (("treeids", 0), ("nodeids", 0), ("ids", 0), ("weights", 99.0)):
        attrs[f"target_{key}"] = [*attrs[f"target_{key}"], value]
    agrees(REGRESSOR, samples(), attrs, tmp_path)


def test_the_layers_of_a_simple_ensemble_are_few(tmp_path):
    attrs = regressor(np.random.default_rng(15), 1, "all")
    graph = agrees(REGRESSOR, samples(), attrs, tmp_path)
    assert [layer.op for layer in graph.layers] == ["ai.onnx.ml.TreeEnsemble"]
    assert graph.layers[0].outputs == ["Y"]


def ensemble(**changes: Any) -> dict[str, Any]:
    return regressor(np.random.default_rng(1), 2, "all", trees=2) | changes


NODES = len(ensemble()["nodes_modes"])
LEAVES = len(ensemble()["target_ids"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes_featureids": [0]}, r"the attributes nodes_\* are not of equal length"),
        ({"target_ids": [0]}, r"the attributes target_\* are not of equal length"),
        ({"nodes_modes": ["BRANCH_UP"] * NODES}, "the mode BRANCH_UP is unknown"),
        ({"nodes_truenodeids": [999] * NODES}, "a node is mentioned that does not exist"),
        ({"target_nodeids": [999] * LEAVES}, "a node is mentioned that does not exist"),
        ({"nodes_nodeids": [0] * NODES}, "a node exists twice"),
        ({"nodes_modes": ["LEAF"] * NODES}, "a leaf has no weight"),
        ({"target_ids": [2] * LEAVES}, "a weight for a target outside of 2"),
        ({"target_ids": [-1] * LEAVES}, "a weight for a target outside of 2"),
        ({"base_values": [1.0]}, "there are 1 base_values for 2 targets"),
        ({"aggregate_function": "MEDIAN"}, "aggregate_function MEDIAN is unknown"),
        ({"post_transform": "TANH"}, "post_transform TANH is unknown"),
        ({"nodes_missing_value_tracks_true": [1]}, "not as long as nodes_treeids"),
    ],
)
def test_a_damaged_ensemble_is_refused_by_name(tmp_path, changes, message):
    model = model_of(
        REGRESSOR, [samples()], ensemble(**changes), {"Y": "float32"}, **{"ai.onnx.ml": 3}
    )
    with pytest.raises(UnsupportedError, match=rf"'TreeEnsembleRegressor' .*: .*{message}"):
        lifted(model, tmp_path)


def test_trees_must_stand_together(tmp_path):
    attrs = ensemble()
    order = [*range(0, NODES, 2), *range(1, NODES, 2)]
    attrs |= {k: [v[i] for i in order] for k, v in attrs.items() if k.startswith("nodes_")}
    model = model_of(REGRESSOR, [samples()], attrs, {"Y": "float32"}, **{"ai.onnx.ml": 3})
    with pytest.raises(UnsupportedError, match="the nodes of a tree do not stand together"):
        lifted(model, tmp_path)


def test_a_circle_of_nodes_does_not_hang(tmp_path):
    attrs = ensemble(nodes_modes=["BRANCH_LEQ", "LEAF"] * (NODES // 2) + ["LEAF"] * (NODES % 2))
    two = {key: value[:2] for key, value in attrs.items() if key.startswith("nodes_")}
    two |= {"nodes_truenodeids": [0, 0], "nodes_falsenodeids": [1, 0], "nodes_nodeids": [0, 1]}
    two |= {"target_treeids": [0], "target_nodeids": [1], "target_ids": [0], "n_targets": 1}
    two |= {"nodes_treeids": [0, 0], "target_weights": [1.0], "nodes_values": [9.0, 0.0]}
    graph = lifted(
        model_of(REGRESSOR, [samples()], two, {"Y": "float32"}, **{"ai.onnx.ml": 3}), tmp_path
    )
    with pytest.raises(hubtool.HubtoolError, match="go round in a circle"):
        get("numpy").prepare(graph).run({"in0": samples()})


def test_every_ensemble_that_cannot_be_lifted_is_named(tmp_path):
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor", ["X"], [f"Y{i}"], f"trees{i}", domain="ai.onnx.ml"
        )
        for i in range(3)
    ]
    outputs = [helper.make_tensor_value_info(f"Y{i}", TensorProto.FLOAT, None) for i in range(3)]
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])]
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    with pytest.raises(UnsupportedError) as caught:
        lifted(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path)
    assert len(caught.value.problems) == 3


def test_an_ensemble_in_a_branch_is_lifted_there(tmp_path):
    attrs = regressor(np.random.default_rng(3), 1, "all")
    inner = model_of(REGRESSOR, [samples()], attrs, {"Y": "float32"}).graph
    inner.node[0].input[0] = "X"
    inner.ClearField("input")
    zero = helper.make_node("Constant", [], ["Y"], value_float=0.0)
    other = helper.make_graph([zero], "other", [], list(inner.output))
    choose = helper.make_node("If", ["c"], ["R"], then_branch=inner, else_branch=other)
    outer = helper.make_graph(
        [choose],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("X", TensorProto.FLOAT, [50, 3]),
        ],
        [helper.make_tensor_value_info("R", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = lifted(helper.make_model(outer, opset_imports=opsets, ir_version=8), tmp_path)
    (layer,) = graph.layers
    branch = layer.subgraphs()["then_branch"]
    assert [step.op for step in branch.layers] == ["ai.onnx.ml.TreeEnsemble"]
    made = get("numpy").prepare(graph).run({"c": np.array(True), "X": samples()})
    alone = agrees(REGRESSOR, samples(), attrs, tmp_path)
    wanted = get("numpy").prepare(alone).run({"in0": samples()})
    same(made["R"], wanted["Y"])


@pytest.mark.parametrize(
    ("X", "dtype"), [(texts("b", "a", "?"), "int64"), (np.array([1, 0, 9]), "string")], ids=str
)
def test_label_encoder_1_has_one_list_of_classes(tmp_path, X, dtype):
    attrs = {"classes_strings": ["a", "b", "a"], "default_int64": -5, "default_string": "none"}
    model = model_of("ai.onnx.ml.LabelEncoder", [X], attrs, {"Y": dtype}, **{"ai.onnx.ml": 1})
    graph = lifted(model, tmp_path)
    (made,) = get("numpy").prepare(graph).run({"in0": X}).values()
    (wanted,) = in_onnxruntime(model, [X])
    same(made, wanted)
    same(in_onnxruntime(to_model(graph)[0], [X])[0], wanted)


def test_label_encoder_2_is_one_of_today(tmp_path):
    attrs = {"keys_strings": ["a", "b"], "values_floats": [0.5, 2.0]}
    X = texts(["b", "?"])
    model = model_of("ai.onnx.ml.LabelEncoder", [X], attrs, {"Y": "float32"}, **{"ai.onnx.ml": 2})
    (made,) = get("numpy").prepare(lifted(model, tmp_path)).run({"in0": X}).values()
    same(made, in_onnxruntime(model, [X])[0])


def test_a_model_without_the_domain_is_left_alone():
    model = model_of("Relu", [samples()], {}, {"Y": "float32"})
    before = model.SerializeToString()
    del model.opset_import[1]
    rewrite(model)
    assert [entry.domain for entry in model.opset_import] == ["", "com.microsoft"]
    assert (
        model.graph.SerializeToString()
        == onnx.ModelProto.FromString(before).graph.SerializeToString()
    )


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnxruntime"])
def test_maps_may_be_fed(tmp_path, backend):
    given = {"b": 2.5, "a": 1}
    attrs = {"string_vocabulary": ["a", "c", "b"]}
    model = model_of("ai.onnx.ml.DictVectorizer", [{"b": 0.5}], attrs, {"Y": "float32"})
    hubtool.save(lifted(model, tmp_path), tmp_path / "folder")
    loaded = hubtool.load(tmp_path / "folder", backend=backend)
    same(loaded.run({"in0": given})["Y"], np.array([[1, 0, 2.5]], np.float32))
    same(loaded({"b": 2.5}), np.array([[0, 0, 2.5]], np.float32))


def test_a_map_of_doubles_makes_doubles(tmp_path):
    attrs = {"int64_vocabulary": [3, 4]}
    model = model_of("ai.onnx.ml.DictVectorizer", [{3: np.float64(1)}], attrs, {"Y": "float64"})
    hubtool.save(lifted(model, tmp_path), tmp_path / "folder")
    loaded = hubtool.load(tmp_path / "folder", backend="numpy")
    same(loaded({4: 0.1}), np.array([[0, 0.1]]))


@pytest.mark.parametrize("value", [np.zeros(3), {3: 0.5}, {"a": "b"}], ids=str)
def test_what_is_no_such_map_is_refused(tmp_path, value):
    attrs = {"string_vocabulary": ["a"]}
    model = model_of("ai.onnx.ml.DictVectorizer", [{"b": 0.5}], attrs, {"Y": "float32"})
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    loaded = hubtool.load(tmp_path / "model.onnx", backend="numpy")
    with pytest.raises(InputError, match="input 'in0' is no dict from str to float32"):
        loaded(value)


def test_maps_are_told_by_the_shapes(tmp_path):
    labels = {"classlabels_strings": ["a", "b", "c"]}
    graph = lifted(model_of("ai.onnx.ml.ZipMap", [samples()], labels, {"Z": ""}), tmp_path)
    value = infer_shapes(graph, {"in0": ("float32", (4, 3))})["Z"]
    assert (value.kind, value.dtype) == ("sequence(map(string))", "float32")
