"""The small operators of ai.onnx.ml against ONNX Runtime; what it refuses, against its meaning."""

from __future__ import annotations

import numpy as np
import pytest
from ops.classical import agree, agree_with, texts
from ops.conftest import alone

from hubtool.errors import RunError
from hubtool.meta import MetaSpace

RNG = np.random.default_rng(3)
ROWS = np.round(RNG.standard_normal((4, 3)), 1).astype(np.float32)
NUMBERS = ["float32", "float64", "int64", "int32"]
NAN = float("nan")


def rows(dtype):
    return (ROWS * 3).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "string"])
@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 4)], ids=str)
def test_array_feature_extractor_takes_columns(dtype, shape):
    X = np.arange(np.prod(shape)).reshape(shape)
    X = X.astype(str).astype(object) if dtype == "string" else X.astype(dtype)
    Y = np.array([[2, 0, 2]])
    agree("ai.onnx.ml.ArrayFeatureExtractor", {"X": X, "Y": Y}, {}, {"Z": dtype})


@pytest.mark.parametrize("place", [3, -1])
def test_array_feature_extractor_refuses_a_column_that_is_none(place):
    with pytest.raises(RunError, match=r"Y names a column that X \[4, 3\] has not"):
        alone("ai.onnx.ml.ArrayFeatureExtractor", {"X": ROWS, "Y": np.array([place])}, {})


def test_array_feature_extractor_refuses_no_columns():
    with pytest.raises(RunError, match="Y names no column"):
        alone("ai.onnx.ml.ArrayFeatureExtractor", {"X": ROWS, "Y": np.zeros(0, np.int64)}, {})


def test_binarizer_is_one_above_the_threshold():
    X = np.array([[0.1, 0.3, 7.0], [np.inf, -1, 0.2]], np.float32)
    agree("ai.onnx.ml.Binarizer", {"X": X}, {"threshold": 0.2}, {"Y": "float32"})
    wanted = [np.array([0, 1, 0], np.int32)]
    agree_with(wanted, "ai.onnx.ml.Binarizer", {"X": np.array([0, 1, -1], np.int32)}, {})


def test_an_attribute_is_a_float_of_32_bits_where_x_has_64():
    X = np.array([0.1, np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))])
    wanted = [np.array([0.0, 0.0, 1.0])]
    agree_with(wanted, "ai.onnx.ml.Binarizer", {"X": X}, {"threshold": 0.1})
    agree("ai.onnx.ml.Scaler", {"X": X}, {"offset": [0.1], "scale": [1e9]}, {"Y": "float32"})


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(3,), (2, 3)], ids=str)
@pytest.mark.parametrize(
    "attrs",
    [{"offset": [0.5, -1.0, 2.0], "scale": [2.0, 0.1, 3.0]}, {"offset": [0.3], "scale": [0.7]}],
    ids=["each", "all"],
)
def test_scaler_shifts_and_scales(dtype, shape, attrs):
    X = rows(dtype)[:2] if len(shape) == 2 else rows(dtype)[0]
    agree("ai.onnx.ml.Scaler", {"X": X}, attrs, {"Y": "float32"})


def test_scaler_may_lack_either():
    agree_with([ROWS - 1], "ai.onnx.ml.Scaler", {"X": ROWS}, {"offset": [1.0]})
    agree_with([ROWS * 2], "ai.onnx.ml.Scaler", {"X": ROWS}, {"scale": [2.0]})


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer_divides_rows_by_their_norm(dtype, norm):
    X = np.concatenate([rows(dtype), np.zeros((1, 3), dtype)])
    agree("ai.onnx.ml.Normalizer", {"X": X}, {"norm": norm}, {"Y": "float32"})
    agree("ai.onnx.ml.Normalizer", {"X": -abs(X[0])}, {"norm": norm}, {"Y": "float32"})


@pytest.mark.parametrize(
    ("X", "attrs"),
    [
        (
            np.array([[NAN, 1, NAN], [2, NAN, 0]], np.float32),
            {"imputed_value_floats": [7.0, 8.0, 9.1], "replaced_value_float": NAN},
        ),
        (
            np.array([[0.1, 1, NAN], [2, 0.1, 0]], np.float32),
            {"imputed_value_floats": [7.0], "replaced_value_float": 0.1},
        ),
        (np.array([[0, 1, 2], [3, 0, 0]]), {"imputed_value_int64s": [7, 8, 9]}),
        (np.array([4, 1, 4]), {"imputed_value_int64s": [7], "replaced_value_int64": 4}),
    ],
    ids=["nan", "number", "columns", "vector"],
)
def test_imputer_replaces_what_is_missing(X, attrs):
    agree("ai.onnx.ml.Imputer", {"X": X}, attrs, {"Y": X.dtype.name})


@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_imputer_knows_the_types_that_onnxruntime_lacks(dtype):
    X = np.array([[0, 1], [2, 0]], dtype)
    name = "imputed_value_int64s" if dtype == "int32" else "imputed_value_floats"
    agree_with([np.array([[5, 1], [2, 6]], dtype)], "ai.onnx.ml.Imputer", {"X": X}, {name: [5, 6]})


def test_feature_vectorizer_cuts_and_fills():
    given = {"X": [ROWS, ROWS[:, :2], ROWS[:, 0].reshape(4, 1, 1)]}
    attrs = {"inputdimensions": [2, 4, 1]}
    agree("ai.onnx.ml.FeatureVectorizer", given, attrs, {"Y": "float32"})


def test_feature_vectorizer_joins_whole_inputs_where_no_sizes_are_given():
    made = alone("ai.onnx.ml.FeatureVectorizer", {"X": [ROWS[0], np.arange(2)]}, {})[0]
    assert np.array_equal(made, [[*ROWS[0], 0, 1]])


KEYS = {
    "keys_strings": ["b", "a", "b"],
    "keys_int64s": [3, 1, 3],
    "keys_floats": [0.1, NAN, 2.0],
}
VALUES = {
    "values_strings": ["x", "y", "z"],
    "values_int64s": [5, 6, 7],
    "values_floats": [0.5, 0.7, 0.9],
}
GIVEN = {
    "keys_strings": texts(["a", "b"], ["c", ""]),
    "keys_int64s": np.array([[1, 3], [4, 0]]),
    "keys_floats": np.array([[0.1, NAN], [2, 3]], np.float32),
}
DTYPES = {"values_strings": "string", "values_int64s": "int64", "values_floats": "float32"}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("keys", KEYS)
def test_label_encoder_maps_keys_to_values(keys, values):
    attrs = {keys: KEYS[keys], values: VALUES[values]}
    attrs |= {"default_string": "none", "default_int64": -9, "default_float": 0.25}
    agree("ai.onnx.ml.LabelEncoder", {"X": GIVEN[keys]}, attrs, {"Y": DTYPES[values]})


@pytest.mark.parametrize("dtype", ["int16", "float64"])
def test_label_encoder_takes_tensors(dtype):
    attrs = {
        "keys_tensor": texts("a", "b"),
        "values_tensor": np.array([3, 4], dtype),
        "default_tensor": np.array([9], dtype),
    }
    wanted = np.array([4, 3, 9], dtype)
    agree_with([wanted], "ai.onnx.ml.LabelEncoder", {"X": texts("b", "a", "c")}, attrs)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"keys_int64s": [1]}, "there are no values"),
        ({"keys_int64s": [1], "values_int64s": [1, 2]}, "not as many keys as values"),
        ({"values_int64s": [1, 2]}, "not as many keys as values"),
    ],
)
def test_label_encoder_refuses_lists_that_do_not_pair(attrs, message):
    with pytest.raises(RunError, match=message):
        alone("ai.onnx.ml.LabelEncoder", {"X": np.array([1])}, attrs)


def test_category_mapper_goes_both_ways():
    attrs = {"cats_int64s": [3, 4, 4], "cats_strings": ["a", "b", "a"], "default_int64": -7}
    agree("ai.onnx.ml.CategoryMapper", {"X": texts(["a", "b", "?"])}, attrs, {"Y": "int64"})
    agree("ai.onnx.ml.CategoryMapper", {"X": np.array([4, 3, 9])}, attrs, {"Y": "string"})


@pytest.mark.parametrize("X", [np.array([[1, 5], [7, 1]]), np.array([1.9, 7.2, -1.5])], ids=str)
def test_one_hot_encoder_marks_the_category(X):
    attrs = {"cats_int64s": [5, 1, 7]}
    agree("ai.onnx.ml.OneHotEncoder", {"X": X}, attrs, {"Y": "float32"})


def test_one_hot_encoder_knows_text():
    attrs = {"cats_strings": ["a", "b", "c"]}
    given = {"X": texts(["a", "c"], ["?", "b"])}
    agree("ai.onnx.ml.OneHotEncoder", given, attrs, {"Y": "float32"})


@pytest.mark.parametrize(
    ("X", "attrs", "message"),
    [
        (np.array([9]), {"cats_int64s": [1], "zeros": 0}, "a category that is unknown"),
        (np.array([9]), {"cats_strings": ["a"]}, "cats_int64s are missing"),
        (texts("a"), {"cats_int64s": [1]}, "cats_strings are missing"),
    ],
)
def test_one_hot_encoder_refuses(X, attrs, message):
    with pytest.raises(RunError, match=message):
        alone("ai.onnx.ml.OneHotEncoder", {"X": X}, attrs)


@pytest.mark.parametrize(
    "labels", [{"classlabels_int64s": [7, 3, 5]}, {"classlabels_strings": ["b", "a", "c"]}]
)
def test_zip_map_makes_a_map_of_every_row(labels):
    agree("ai.onnx.ml.ZipMap", {"X": ROWS}, labels, {"Z": ""})


def test_zip_map_refuses_another_number_of_columns():
    with pytest.raises(RunError, match=r"X \[4, 3\] has not 2 columns"):
        alone("ai.onnx.ml.ZipMap", {"X": ROWS}, {"classlabels_int64s": [1, 2]})
    with pytest.raises(RunError, match="either classlabels_int64s or classlabels_strings"):
        alone("ai.onnx.ml.ZipMap", {"X": ROWS}, {})


@pytest.mark.parametrize(
    ("X", "attrs"),
    [
        ({"b": 2.5, "a": 1.0}, {"string_vocabulary": ["a", "c", "b", "a"]}),
        ({3: 2.5, 4: 0.5}, {"int64_vocabulary": [4, 5]}),
    ],
    ids=["text", "numbers"],
)
def test_dict_vectorizer_asks_for_every_word(X, attrs):
    agree("ai.onnx.ml.DictVectorizer", {"X": X}, attrs, {"Y": "float32"})


@pytest.mark.parametrize(
    ("X", "wanted"),
    [
        ({"b": 2, "a": 1}, np.array([[1, 0, 2]])),
        ({"b": "x"}, np.array([["", "", "x"]], object)),
        ({"b": np.float64(0.1)}, np.array([[0, 0, 0.1]])),
        ({}, np.zeros((1, 3), np.float32)),
    ],
    ids=["int64", "string", "float64", "empty"],
)
def test_dict_vectorizer_gives_the_type_that_it_finds(X, wanted):
    attrs = {"string_vocabulary": ["a", "c", "b"]}
    agree_with([wanted], "ai.onnx.ml.DictVectorizer", {"X": X}, attrs)


@pytest.mark.parametrize(
    "form", [{}, {"map_form": "SPARSE", "max_map": 6}], ids=["dense", "sparse"]
)
@pytest.mark.parametrize("to", ["float32", "int64", "string"])
def test_cast_map_lays_out_numbers(to, form):
    attrs = {"cast_to": {"float32": "TO_FLOAT", "int64": "TO_INT64", "string": "TO_STRING"}[to]}
    given = {"X": {4: 2.75, 1: -1.5, 8: 0.0}}
    agree("ai.onnx.ml.CastMap", given, {**attrs, **form}, {"Y": to})


@pytest.mark.parametrize(
    ("cast_to", "wanted"),
    [
        ("TO_FLOAT", np.array([[0, 2.5, 0, -1]], np.float32)),
        ("TO_STRING", np.array([["0.f", "2.5", "0.f", "-1"]], object)),
    ],
)
def test_cast_map_reads_text(cast_to, wanted):
    attrs = {"cast_to": cast_to, "map_form": "SPARSE", "max_map": 4}
    agree_with([wanted], "ai.onnx.ml.CastMap", {"X": {3: "-1", 1: "2.5", 9: "7"}}, attrs)


@pytest.mark.parametrize(
    ("op", "given", "attrs", "message"),
    [
        ("CastMap", {-1: 0.5}, {"map_form": "SPARSE"}, "keys must not be negative"),
        ("CastMap", {1: 0.5}, {"cast_to": "TO_BOOL"}, "cast_to TO_BOOL with map_form DENSE"),
        ("DictVectorizer", {1: 0.5}, {}, "either int64_vocabulary or string_vocabulary"),
        ("CategoryMapper", texts("a"), {"cats_int64s": [1]}, "1 cats_int64s and 0 cats_strings"),
        ("Normalizer", ROWS, {"norm": "L3"}, "norm is 'L3', not MAX, L1 or L2"),
        ("Scaler", ROWS, {"scale": [1.0, 2.0]}, "scale has 2 values; X has 3 columns"),
        ("Imputer", ROWS, {}, "imputed_value_floats is missing, and X is float32"),
        ("FeatureVectorizer", [ROWS], {"inputdimensions": [1, 2]}, "has 2 sizes for 1 inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(op, given, attrs, message):
    with pytest.raises(RunError, match=message):
        alone(f"ai.onnx.ml.{op}", {"X": given}, attrs)


def test_a_size_from_a_file_is_guarded():
    with pytest.raises(RunError, match="GiB"):
        alone("ai.onnx.ml.CastMap", {"X": {1: 0.5}}, {"map_form": "SPARSE", "max_map": 2**60})


def test_the_shape_of_columns_is_known_where_the_text_is_and_the_indices_are_not():
    given = {"X": texts("a", "b", "c"), "Y": MetaSpace().put(np.zeros(5, np.int64))}
    (made,) = alone("ai.onnx.ml.ArrayFeatureExtractor", given, {}, space=MetaSpace())
    assert (made.dtype, made.shape) == ("string", (1, 5))
