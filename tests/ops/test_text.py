"""The operators on text against ONNX Runtime, and against their meaning where it has another."""

from __future__ import annotations

import numpy as np
import pytest
from ops.classical import agree, agree_with, dtype_of, in_onnxruntime, model_of, same, texts
from ops.conftest import alone

from hubtool.errors import RunError
from hubtool.meta import MetaSpace


@pytest.mark.parametrize(
    "other", [texts(["x"], ["yz"]), np.array("ß", object), texts("1", "", "3")]
)
def test_string_concat_broadcasts(other):
    X = texts(["a", "b", ""], ["漢", "d", "e"])
    agree("StringConcat", {"X": X, "Y": other}, {}, {"Z": "string"})


def test_string_concat_of_two_texts_is_an_array():
    X = np.array("a", object)
    agree("StringConcat", {"X": X, "Y": np.array("b", object)}, {}, {"Z": "string"})


@pytest.mark.parametrize("maxsplit", [None, 0, 1, 2, -1], ids=str)
@pytest.mark.parametrize("delimiter", [None, "", "-", "--", "ab"], ids=repr)
def test_string_split_agrees_with_onnxruntime(delimiter, maxsplit):
    X = texts(["a-b--c", "", "  a  b c ", "-"], ["abcab", "--", "a b", "漢-字"])
    attrs = {"delimiter": delimiter, "maxsplit": maxsplit}
    attrs = {key: value for key, value in attrs.items() if value is not None}
    outputs = {"Y": "string", "Z": "int64"}
    agree("StringSplit", {"X": X}, attrs, outputs, shapes=False)


def test_string_split_takes_any_white_space():
    """The specification says white space; ONNX Runtime knows blanks only."""
    wanted = [texts(["a", "b"]), np.array([2])]
    agree_with(wanted, "StringSplit", {"X": texts("\ta\n b ")}, {}, shapes=False)


def test_how_many_pieces_there_are_is_not_known_without_the_text():
    with pytest.raises(RunError, match="only its shape is known"):
        alone("StringSplit", {"X": MetaSpace().put(texts("a"))}, {}, 2, MetaSpace())


def test_regex_full_match_wants_the_whole_text():
    X = texts(["ab", "abc"], ["xab", ""])
    agree("RegexFullMatch", {"X": X}, {"pattern": "a|ab"}, {"Y": "bool"})


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"pattern": "(a)\\1"}, r"'\(a\)\\1' is no RE2 expression: RE2 has no backreferences"),
        ({"pattern": "(?=a)"}, "neither lookaround nor conditions"),
        ({}, "pattern is missing"),
    ],
)
def test_regex_full_match_refuses_what_re2_has_not(attrs, message):
    with pytest.raises(RunError, match=message):
        alone("RegexFullMatch", {"X": texts("a")}, attrs)


WORDS = texts("Monday", "TUESDAY", "wednesday", "monday", "ÉTÉ", "été", "Σίσυφος")


@pytest.mark.parametrize("stopwords", [[], ["monday", "ÉTÉ"], ["MONDAY", "été", "x"]], ids=str)
@pytest.mark.parametrize("sensitive", [0, 1])
@pytest.mark.parametrize("action", ["NONE", "LOWER", "UPPER"])
@pytest.mark.parametrize("X", [WORDS, WORDS.reshape(1, -1)], ids=["C", "1C"])
def test_string_normalizer_agrees_with_onnxruntime(X, action, sensitive, stopwords):
    attrs = {"case_change_action": action, "is_case_sensitive": sensitive, "locale": "C.UTF-8"}
    attrs |= {"stopwords": stopwords} if stopwords else {}
    agree("StringNormalizer", {"X": X}, attrs, {"Y": "string"}, shapes=not stopwords)


@pytest.mark.parametrize("X", [texts("A", "a"), texts(["A", "a"])], ids=["C", "1C"])
def test_string_normalizer_leaves_one_empty_word_of_nothing(X):
    attrs = {"stopwords": ["a"], "locale": "C.UTF-8"}
    agree("StringNormalizer", {"X": X}, attrs, {"Y": "string"}, shapes=False)


@pytest.mark.parametrize("action", ["LOWER", "UPPER"])
def test_a_character_becomes_one_character(action):
    """As in the C library: Python makes SS of ß, and looks what stands beside Σ."""
    X = texts("Straße", "ŉ", "ΟΔΟΣ", "ﬁᾳ", "ǆ", "ǅ", "ÿ", "Ÿ", "I", "ı")
    attrs = {"case_change_action": action, "locale": "C.UTF-8"}
    agree("StringNormalizer", {"X": X}, attrs, {"Y": "string"})


def test_a_turkish_i_keeps_its_dot():
    attrs = {"case_change_action": "UPPER", "locale": "tr_TR.UTF-8"}
    agree_with([texts("İI")], "StringNormalizer", {"X": texts("iı")}, attrs)
    attrs["case_change_action"] = "LOWER"
    agree_with([texts("iı")], "StringNormalizer", {"X": texts("İI")}, attrs)


@pytest.mark.parametrize(
    ("X", "attrs", "message"),
    [
        (texts(["a"], ["b"]), {}, r"X is \[2, 1\], not \[C\] or \[1, C\]"),
        (texts("a"), {"case_change_action": "TITLE"}, "case_change_action is 'TITLE'"),
    ],
)
def test_string_normalizer_refuses(X, attrs, message):
    with pytest.raises(RunError, match=message):
        alone("StringNormalizer", {"X": X}, attrs)


def test_how_many_words_are_left_is_not_known_without_the_text():
    X = MetaSpace().put(WORDS)
    with pytest.raises(RunError, match="how many words are left depends on the text"):
        alone("StringNormalizer", {"X": X}, {"stopwords": ["a"]}, space=MetaSpace())


GRAMS = {
    "ngram_counts": [0, 3, 9],
    "ngram_indexes": [6, 0, 2, 5, 1, 3, 8],
    "pool_int64s": [1, 2, 3, 1, 2, 2, 3, 3, 1, 1, 2, 3],
}
ROWS = np.array([[1, 2, 3, 1, 2], [3, 3, 1, 9, 2], [2, 2, 2, 2, 2]])


@pytest.mark.parametrize("skips", [0, 1, 5])
@pytest.mark.parametrize("lengths", [(1, 1), (1, 3), (2, 2), (2, 3), (3, 3)], ids=str)
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_tf_idf_vectorizer_agrees_with_onnxruntime(mode, lengths, skips):
    attrs = GRAMS | {"mode": mode, "max_skip_count": skips}
    attrs |= dict(zip(("min_gram_length", "max_gram_length"), lengths, strict=True))
    weighed = {**attrs, "weights": [0.5, 2.0, 3.0, 0.25, 5.0, 7.0, 0.1]}
    for given in (attrs, weighed):
        agree("TfIdfVectorizer", {"X": ROWS}, given, {"Y": "float32"})
        agree("TfIdfVectorizer", {"X": ROWS[0].astype(np.int32)}, given, {"Y": "float32"})


ONES = {"min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0, "mode": "TF"}


def test_tf_idf_vectorizer_counts_words():
    pool = {
        "ngram_counts": [0, 2],
        "ngram_indexes": [0, 1, 2],
        "pool_strings": ["a", "b", "a", "b"],
    }
    X = texts(["a", "b", "a", "b"], ["b", "c", "", "a"])
    agree("TfIdfVectorizer", {"X": X}, ONES | pool, {"Y": "float32"})
    agree("TfIdfVectorizer", {"X": np.empty((2, 0), object)}, ONES | pool, {"Y": "float32"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "BM25"}, "mode is 'BM25', not TF, IDF or TFIDF"),
        ({"max_gram_length": 4}, "n-grams of 1 to 4 with 0 skips are not possible with 3"),
        ({"min_gram_length": 0}, "n-grams of 0 to 2"),
        ({"ngram_counts": [0, 3, 8]}, r"ngram_counts \[0, 3, 8\] do not fit a pool of 12"),
        ({"ngram_counts": [0, 3, 15]}, "do not fit a pool of 12"),
        ({"ngram_indexes": [0, 1, 2, 3, 4, 5, -1]}, "ngram_indexes are negative"),
        ({"weights": [1.0]}, "not as many as weights"),
        ({"ngram_indexes": [0]}, "the pool has more n-grams than ngram_indexes"),
        ({"ngram_indexes": [2**60, *range(6)]}, "GiB"),
    ],
)
def test_a_damaged_pool_is_refused(changes, message):
    with pytest.raises(RunError, match=message):
        alone("TfIdfVectorizer", {"X": ROWS}, GRAMS | ONES | changes)


SENTENCES = texts(["Hello World", "I love  science !"], ["", " a-b c--d"])
TOKENS = {"mark": 0, "mincharnum": 1, "pad_value": "#"}


@pytest.mark.parametrize("mark", [0, 1])
@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize(
    "how",
    [
        {"separators": [" "]},
        {"separators": [" ", "-"]},
        {"separators": ["[ -]+", "o"]},
        {"separators": ["a|a-b", "l+"]},
        {"separators": ["."]},
        {"tokenexp": "[a-zA-Z]+"},
        {"tokenexp": "a|a-b|l|ll"},
        {"tokenexp": "\\b\\w"},
        {"tokenexp": "l*"},
    ],
    ids=str,
)
def test_tokenizer_agrees_with_onnxruntime(how, least, mark):
    attrs = TOKENS | how | {"mark": mark, "mincharnum": least}
    for X in (SENTENCES, SENTENCES[1]):
        agree("com.microsoft.Tokenizer", {"X": X}, attrs, {"Y": "string"}, shapes=False)


@pytest.mark.parametrize("how", [{"separators": [""]}, {"tokenexp": "."}], ids=str)
@pytest.mark.parametrize("mark", [0, 1])
def test_tokenizer_takes_single_characters(how, mark):
    attrs = TOKENS | how | {"mark": mark}
    for X in (texts("añ", "", "漢字🙂"), texts("", "")):
        agree("com.microsoft.Tokenizer", {"X": X}, attrs, {"Y": "string"}, shapes=False)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2)], ids=str)
def test_tokenizer_makes_nothing_of_nothing(shape):
    X = np.empty(shape, object)
    attrs = TOKENS | {"separators": [" "]}
    (made,) = alone("com.microsoft.Tokenizer", {"X": X}, attrs)
    model = model_of("com.microsoft.Tokenizer", [X], attrs, {"Y": "string"})
    same(made, in_onnxruntime(model, [X])[0])
    assert dtype_of(made) == "string"


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({}, "either separators or tokenexp must be given"),
        ({"separators": [" "], "mincharnum": 0}, "mincharnum is 0"),
        (
            {"separators": [""], "mincharnum": 2},
            "mincharnum is 2, and tokens are single characters",
        ),
        ({"separators": ["(?=a)"]}, "is no RE2 expression"),
    ],
)
def test_tokenizer_refuses(attrs, message):
    with pytest.raises(RunError, match=message):
        alone("com.microsoft.Tokenizer", {"X": texts("a")}, TOKENS | attrs)
