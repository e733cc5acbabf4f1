"""What scikit-learn's pipelines become when skl2onnx exports them: read, kept, run, written back.

The judge is ONNX Runtime on the exported file. Labels are equal, numbers within 1e-5; so are those
of the file that hubtool writes again. The exporter's own warnings are not ours.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn import (
    cluster,
    compose,
    decomposition,
    discriminant_analysis,
    ensemble,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.feature_extraction import text
from sklearn.impute import SimpleImputer

import hubtool
from hubtool.formats.onnx.read import read

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4)).astype(np.float32)
GAPS = np.where(X > 1.2, np.nan, X).astype(np.float32)
TWO = (X[:, 0] * 2 + X[:, 1] > 0).astype(int)
THREE = TWO + (X[:, 2] > 0.5)
WORDS = {"two": np.array(["no", "yes"])[TWO], "three": np.array(["a", "b", "c"])[THREE]}
REAL = X @ [1, 2, -1, 0.5] + RNG.normal(size=80) * 0.1
COLOURS = RNG.choice(["red", "green", "blue"], (80, 2)).astype(object)
TEXTS = np.array([" ".join(RNG.choice([*"abcdefgh", "the", "Fox"], 6)) for _ in range(80)], object)

TEXT = {"initial_types": [("X", StringTensorType([None, 1]))]}
PLAIN = {"options": {"zipmap": False}}
SCALED = preprocessing.StandardScaler
MIXED = compose.ColumnTransformer(
    [
        ("number", pipeline.make_pipeline(SimpleImputer(), SCALED()), [0, 1, 2, 3]),
        ("colour", preprocessing.OneHotEncoder(handle_unknown="ignore"), [4, 5]),
        ("size", preprocessing.OrdinalEncoder(), [5]),
    ]
)

# name -> (estimator, what it is fitted to and run on, what it learns, options of the export)
MODELS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "logistic of two, maps": (linear_model.LogisticRegression(), X, TWO, {}),
    "logistic of three, maps": (linear_model.LogisticRegression(), X, WORDS["three"], {}),
    "scaled logistic": (
        pipeline.make_pipeline(SCALED(), linear_model.LogisticRegression()),
        X,
        WORDS["three"],
        PLAIN,
    ),
    "linear": (linear_model.LinearRegression(), X, REAL, {}),
    "ridge of two": (linear_model.Ridge(), X, np.stack([REAL, -REAL], 1), {}),
    "tree": (tree.DecisionTreeClassifier(max_depth=4), X, THREE, {}),
    "forest of two": (ensemble.RandomForestClassifier(9, random_state=0), X, WORDS["two"], {}),
    "forest of three": (ensemble.RandomForestClassifier(9, random_state=0), X, THREE + 5, PLAIN),
    "forest of numbers": (
        ensemble.RandomForestRegressor(9, random_state=0),
        X,
        np.stack([REAL, REAL**2], 1),
        {},
    ),
    "boosting of numbers": (ensemble.GradientBoostingRegressor(n_estimators=9), X, REAL, {}),
    "boosting of two": (ensemble.GradientBoostingClassifier(n_estimators=9), X, WORDS["two"], {}),
    "boosting of three": (ensemble.GradientBoostingClassifier(n_estimators=9), X, THREE, PLAIN),
    "ada boost": (ensemble.AdaBoostClassifier(n_estimators=4), X, THREE, {}),
    "isolation forest": (
        ensemble.IsolationForest(n_estimators=9, random_state=0),
        X,
        None,
        {"target_opset": {"": 20, "ai.onnx.ml": 3}},
    ),
    "vectors with chances": (svm.SVC(probability=True), X, WORDS["three"], {}),
    "vectors of two": (svm.SVC(probability=True, kernel="poly"), X, TWO, PLAIN),
    "vectors with votes": (svm.SVC(kernel="sigmoid"), X, THREE, PLAIN),
    "vectors of numbers": (svm.SVR(), X, REAL, {}),
    "one class": (svm.OneClassSVM(), X, None, {}),
    "neighbours": (neighbors.KNeighborsClassifier(3), X, WORDS["three"], {}),
    "neighbours of numbers": (neighbors.KNeighborsRegressor(3), X, REAL, {}),
    "network": (neural_network.MLPClassifier((8,), max_iter=9, random_state=0), X, THREE, {}),
    "bayes": (naive_bayes.GaussianNB(), X, WORDS["three"], {}),
    "bayes of counts": (naive_bayes.MultinomialNB(), abs(X), THREE, PLAIN),
    "discriminant": (discriminant_analysis.LinearDiscriminantAnalysis(), X, THREE, {}),
    "mixture": (mixture.GaussianMixture(2, random_state=0), X, None, {}),
    "means": (cluster.KMeans(3, n_init=1, random_state=0), X, None, {}),
    "components": (decomposition.PCA(2), X, None, {}),
    "bins": (preprocessing.KBinsDiscretizer(3, encode="onehot-dense"), X, None, {}),
    "norms": (preprocessing.Normalizer(), X, None, {}),
    "imputer": (SimpleImputer(), GAPS, None, {}),
    "colours one by one": (preprocessing.OneHotEncoder(sparse_output=False), COLOURS, None, {}),
    "colours as numbers": (preprocessing.OrdinalEncoder(), COLOURS, None, {}),
    "words": (text.TfidfVectorizer(), TEXTS, None, {**TEXT, "options": {"locale": "C.UTF-8"}}),
    "pairs of characters": (
        text.CountVectorizer(analyzer="char", ngram_range=(1, 2), lowercase=False),
        TEXTS,
        None,
        TEXT,
    ),
    "mixed columns": (
        pipeline.make_pipeline(MIXED, linear_model.LogisticRegression()),
        np.concatenate([GAPS, COLOURS], axis=1, dtype=object),
        WORDS["three"],
        {
            "initial_types": [
                ("numbers", FloatTensorType([None, 4])),
                ("colours", StringTensorType([None, 2])),
            ]
        },
    ),
}


@cache
def exported(name: str) -> bytes:
    """The ONNX file that skl2onnx makes of a fitted model."""
    estimator, given, wanted, options = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(given, wanted)
        sample = None if "initial_types" in options else given[:1]
        data: bytes = to_onnx(estimator, sample, **options).SerializeToString()
    return data


def feeds(name: str) -> dict[str, Any]:
    given = MODELS[name][1]
    if name == "mixed columns":
        return {"numbers": given[:, :4].astype(np.float32), "colours": given[:, 4:]}
    return {"X": given if given.ndim == 2 else given.reshape(-1, 1)}


def in_onnxruntime(data: bytes, given: dict[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, given)


def agree(made: Any, wanted: Any) -> None:
    if isinstance(wanted, list):
        assert len(made) == len(wanted)
        for one, other in zip(made, wanted, strict=True):
            assert one.keys() == other.keys()
            agree(np.array([one[key] for key in other]), np.array([*other.values()]))
        return
    assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape)
    if wanted.dtype.kind in "Oib":
        assert made.tolist() == wanted.tolist()
    else:
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_pipeline_is_read_kept_run_and_written_back(tmp_path, name):
    (tmp_path / "model.onnx").write_bytes(exported(name))
    wanted = in_onnxruntime(exported(name), feeds(name))
    graph = read(tmp_path / "model.onnx", isolated=False)
    hubtool.save(graph, tmp_path / "folder")
    for backend in ("numpy", "torch"):
        model = hubtool.load(tmp_path / "folder", backend=backend)
        made = [*model.run(feeds(name)).values()]
        for one, other in zip(made, wanted, strict=True):
            agree(one, other)
    hubtool.export(hubtool.read(tmp_path / "folder"), tmp_path / "again.onnx")
    back = in_onnxruntime((tmp_path / "again.onnx").read_bytes(), feeds(name))
    for one, other in zip(back, wanted, strict=True):
        agree(one, other)


@pytest.mark.parametrize("name", ["logistic of three, maps", "forest of two"])
def test_maps_come_out_of_a_file_that_was_read_in_a_process_of_its_own(tmp_path, name):
    (tmp_path / "model.onnx").write_bytes(exported(name))
    wanted = in_onnxruntime(exported(name), feeds(name))
    model = hubtool.load(tmp_path / "model.onnx", backend="numpy")
    for made, other in zip(model.run(feeds(name)).values(), wanted, strict=True):
        agree(made, other)
    value = [*model.outputs.values()][1]
    assert (value.kind, value.dtype) == ("sequence(map(string))", "float32")


def test_these_exports_hold_the_operators_of_classical_models(tmp_path):
    found = set()
    for name in MODELS:
        (tmp_path / "model.onnx").write_bytes(exported(name))
        graph = read(tmp_path / "model.onnx", isolated=False)
        found |= {layer.op.removeprefix("ai.onnx.ml.") for layer in graph.layers}
    assert found >= {
        "ArrayFeatureExtractor",
        "Imputer",
        "LabelEncoder",
        "LinearClassifier",
        "LinearRegressor",
        "Normalizer",
        "OneHotEncoder",
        "SVMClassifier",
        "SVMRegressor",
        "Scaler",
        "TreeEnsemble",
        "ZipMap",
        "TfIdfVectorizer",
        "com.microsoft.Tokenizer",
    }
    assert not found & {"TreeEnsembleClassifier", "TreeEnsembleRegressor"}
