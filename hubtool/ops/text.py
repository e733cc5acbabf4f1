"""Text: joining, splitting, normalising, matching, and turning tokens into numbers.

Text is an array of Python strings and stays on the host, whatever the backend. How many pieces
there are depends on the text itself, so that of most results nothing is known without it.
Patterns are RE2's (`regex`); cases change as the C library does it, one character for another, so
that ß stays ß. (https://onnx.ai/onnx/operators/onnx__StringNormalizer.html and the pages beside it)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hubtool.ops import REQUIRED, op
from hubtool.ops.regex import Regex, compile_regex
from hubtool.ops.shape import guard_size

__all__: list[str] = []

Array = Any

START, END = "\x02", "\x03"
"""What marks the beginning and the end of a tokenized text."""


def _texts(rows: Sequence[Sequence[str]], shape: tuple[int, ...], pad: str) -> Array:
    """Lists of unequal length as an array [*shape, longest]."""
    width = max(map(len, rows), default=0)
    guard_size((*shape, width), "string")
    padded = np.full((len(rows), width), pad, object)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded.reshape(*shape, width)


def _joined_shape(ctx: Any, X: Array, Y: Array) -> Array:
    return ctx.empty(np.broadcast_shapes(tuple(X.shape), tuple(Y.shape)), "string")


@op("StringConcat", on_host=True, shape=_joined_shape)
def string_concat(ctx: Any, X: Array, Y: Array) -> Array:
    return np.asarray(X + Y, object)


@op("StringSplit", returns=("string", "int64"), on_host=True)
def string_split(
    ctx: Any, X: Array, *, delimiter: str | None = None, maxsplit: int | None = None
) -> tuple[Array, Array]:
    """The pieces of each text along a further axis, filled up with empty ones, and how many there
    are; without a delimiter any run of white space is one, and an empty text has no piece."""
    most = -1 if maxsplit is None else maxsplit
    if delimiter:
        rows = [text.split(delimiter, most) if text else [] for text in X.reshape(-1)]
    else:
        rows = [text.strip().split(None, most) for text in X.reshape(-1)]
    counts = np.asarray([len(row) for row in rows], np.int64)
    return _texts(rows, X.shape, ""), counts.reshape(X.shape)


def _matched_shape(ctx: Any, X: Array, **_: Any) -> Array:
    return ctx.empty(X.shape, "bool")


@op("RegexFullMatch", returns="bool", on_host=True, shape=_matched_shape)
def regex_full_match(ctx: Any, X: Array, *, pattern: str | None = None) -> Array:
    """Whether each whole text matches."""
    if pattern is None:
        raise ValueError("pattern is missing")
    regex = compile_regex(pattern)
    return np.asarray([regex.matches(text) for text in X.reshape(-1)], bool).reshape(X.shape)


def _normalized_shape(ctx: Any, X: Array, *, stopwords: list[str] | None = None, **_: Any) -> Array:
    if stopwords:
        raise ValueError("how many words are left depends on the text, and only its shape is known")
    return ctx.empty(X.shape, "string")


@op("StringNormalizer", on_host=True, shape=_normalized_shape)
def string_normalizer(
    ctx: Any,
    X: Array,
    *,
    case_change_action: str = "NONE",
    is_case_sensitive: int = 0,
    locale: str | None = None,
    stopwords: list[str] | None = None,
) -> Array:
    """The words of X [C] or [1, C] that are no stopwords, in one case; one empty word where none
    is left."""
    if X.ndim not in (1, 2) or (X.ndim == 2 and X.shape[0] != 1):
        raise ValueError(f"X is {list(X.shape)}, not [C] or [1, C]")
    change = _case(case_change_action, locale)
    same = _case("UPPER" if case_change_action == "UPPER" else "LOWER", locale)
    if is_case_sensitive:
        same = _case("NONE", locale)
    stops = {same(word) for word in stopwords or []}
    kept = [change(word) for word in X.reshape(-1) if same(word) not in stops] or [""]
    return np.asarray(kept, object).reshape((1,) * (X.ndim - 1) + (-1,))


CASES: dict[str, Callable[[str], str]] = {"LOWER": str.lower, "UPPER": str.upper}
TURKISH = {"LOWER": {"I": "ı", "İ": "i"}, "UPPER": {"i": "İ", "ı": "I"}}


def _case(action: str, locale: str | None) -> Callable[[str], str]:
    """How a text changes its case, character by character."""
    if action == "NONE":
        return lambda text: text
    if action not in CASES:
        raise ValueError(f"case_change_action is '{action}', not LOWER, UPPER or NONE")
    own = TURKISH[action] if (locale or "")[:2] in ("tr", "az") else {}

    def changed(char: str) -> str:
        forms = (own.get(char, ""), CASES[action](char), char.title())
        return next((form for form in forms if len(form) == 1), char)

    return lambda text: "".join(map(changed, text))


def _weighed_shape(ctx: Any, X: Array, *, ngram_indexes: Sequence[int], **_: Any) -> Array:
    return ctx.empty((*X.shape[:-1], max(ngram_indexes, default=-1) + 1), "float32")


@op("TfIdfVectorizer", returns="float32", on_host=True, shape=_weighed_shape)
def tf_idf_vectorizer(
    ctx: Any,
    X: Array,
    *,
    max_gram_length: int = REQUIRED,
    max_skip_count: int = REQUIRED,
    min_gram_length: int = REQUIRED,
    mode: str = REQUIRED,
    ngram_counts: list[int] = REQUIRED,
    ngram_indexes: list[int] = REQUIRED,
    pool_int64s: list[int] | None = None,
    pool_strings: list[str] | None = None,
    weights: list[float] | None = None,
) -> Array:
    """How often each n-gram of the pool occurs in X [C] or in each row of X [N, C]: the counts
    (TF), the weight of what occurs (IDF), or their product (TFIDF)."""
    if X.ndim > 2:
        raise ValueError(f"X is {list(X.shape)}, not [C] or [N, C]")
    if mode not in ("TF", "IDF", "TFIDF"):
        raise ValueError(f"mode is '{mode}', not TF, IDF or TFIDF")
    lengths = range(min_gram_length, max_gram_length + 1)
    if min_gram_length < 1 or max_gram_length > len(ngram_counts) or max_skip_count < 0:
        raise ValueError(
            f"n-grams of {min_gram_length} to {max_gram_length} with {max_skip_count} skips are "
            f"not possible with {len(ngram_counts)} ngram_counts"
        )
    pool: Sequence[Any] = pool_strings or pool_int64s or []
    places = _pool(pool, ngram_counts, lengths)
    if min(ngram_indexes, default=0) < 0 or len(weights or ngram_indexes) != len(ngram_indexes):
        raise ValueError("ngram_indexes are negative, or not as many as weights")
    if max(places.values(), default=-1) >= len(ngram_indexes):
        raise ValueError("the pool has more n-grams than ngram_indexes")
    rows = X.reshape(1, -1) if X.ndim < 2 else X
    width = max(ngram_indexes, default=-1) + 1
    guard_size((len(rows), width), "float32")
    Y = np.zeros((len(rows), width), np.float32)
    for row, tokens in zip(Y, rows.tolist(), strict=True):
        for gram in _grams(tokens, lengths, max_skip_count):
            if gram in places:
                row[ngram_indexes[places[gram]]] += 1
    Y = np.minimum(Y, 1) if mode == "IDF" else Y
    if weights and mode != "TF":
        scale = np.zeros(width, np.float32)
        scale[ngram_indexes] = weights
        Y = Y * scale
    return Y.reshape(-1) if X.ndim < 2 else Y


def _pool(
    pool: Sequence[Any], ngram_counts: Sequence[int], lengths: range
) -> dict[tuple[Any, ...], int]:
    """Each n-gram of the pool, of those lengths, and its place among all of them."""
    places: dict[tuple[Any, ...], int] = {}
    place = 0
    ends = [*ngram_counts[1:], len(pool)]
    for length, (start, end) in enumerate(zip(ngram_counts, ends, strict=True), start=1):
        if not 0 <= start <= end <= len(pool) or (end - start) % length:
            raise ValueError(f"ngram_counts {ngram_counts} do not fit a pool of {len(pool)}")
        for first in range(start, end, length):
            if length in lengths:
                places[tuple(pool[first : first + length])] = place
            place += 1
    return places


def _grams(tokens: list[Any], lengths: range, skips: int) -> Iterator[tuple[Any, ...]]:
    """All n-grams of these lengths whose tokens are up to `skips` others apart; single tokens
    once."""
    for length in lengths:
        for step in range(1, (skips if length > 1 else 0) + 2):
            span = step * (length - 1)
            for start in range(len(tokens) - span):
                yield tuple(tokens[start : start + span + 1 : step])


@op("com.microsoft.Tokenizer", on_host=True)
def tokenizer(
    ctx: Any,
    X: Array,
    *,
    mark: int = REQUIRED,
    mincharnum: int = REQUIRED,
    pad_value: str = REQUIRED,
    separators: list[str] | None = None,
    tokenexp: str | None = None,
) -> Array:
    """The tokens of each text along a further axis: what matches tokenexp, or what stands between
    separators, each of which cuts what those before it left; or all single characters."""
    if X.ndim not in (1, 2) or mincharnum < 1:
        raise ValueError(f"X is {list(X.shape)}, not [C] or [N, C], or mincharnum is {mincharnum}")
    if not X.size:
        return np.empty((*X.shape[:-1], 0), object)
    cut = _cutter(separators, tokenexp, mincharnum)
    rows = [cut(text) for text in X.reshape(-1)]
    if mark and any(rows):
        rows = [[START, *row, END] for row in rows]
    return _texts(rows, X.shape, pad_value)


def _cutter(
    separators: list[str] | None, tokenexp: str | None, least: int
) -> Callable[[str], list[str]]:
    """The function that gives a text's tokens of at least so many characters."""
    if separators == [""] or (not separators and tokenexp == "."):
        if least > 1:
            raise ValueError(f"mincharnum is {least}, and tokens are single characters")
        return list
    if separators:
        between = [compile_regex(pattern) for pattern in separators]
        return lambda text: _between(text, between, least)
    if not tokenexp:
        raise ValueError("either separators or tokenexp must be given")
    token = compile_regex(tokenexp)
    return lambda text: _found(text, token, least)


def _found(text: str, token: Regex, least: int) -> list[str]:
    """The matches one after the other; after one that is too short, the next character on."""
    tokens, start = [], 0
    while start <= len(text) and (match := token.search(text, start)):
        begin, end = match
        if end - begin >= least:
            tokens.append(text[begin:end])
            start = end
        else:
            start = begin + 1
    return tokens


def _between(text: str, separators: list[Regex], least: int) -> list[str]:
    """What is left between the matches. An empty match cuts too, and takes the character behind it
    away, as ONNX Runtime has it."""
    pieces = [text]
    for separator in separators:
        cut: list[str] = []
        for piece in pieces:
            start = 0
            while start <= len(piece) and (match := separator.search(piece, start)):
                cut.append(piece[start : match[0]])
                start = max(match[1], match[0] + 1)
            cut.append(piece[start:])
        pieces = [piece for piece in cut if len(piece) >= least]
    return pieces
