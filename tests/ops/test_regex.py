"""RE2's expressions: against Python's where both mean the same, and against ONNX Runtime's RE2."""

from __future__ import annotations

import random
import re
import time

import numpy as np
import pytest
from ops.classical import in_onnxruntime, model_of, texts

from hubtool.ops.regex import compile_regex


def drawn(rng, depth):
    """A random pattern of what Python and RE2 have in common, which \\B in an empty text is not."""
    if depth == 0:
        return rng.choice(["a", "b", "c", ".", "[ab]", "[^a]", "\\w", "\\d", "^", "$", "\\b"])
    first, second = drawn(rng, depth - 1), drawn(rng, depth - 1)
    shape = rng.choice(["{}{}", "{}{}", "{}|{}", "(?:{})*{}", "(?:{})+{}", "(?:{})?{}"])
    return f"({shape.format(first, second)})" + rng.choice(["", "", "{2}", "{1,3}", "{0,}", "*?"])


@pytest.mark.filterwarnings("ignore:Possible nested set")
def test_whole_matches_are_those_of_python():
    rng = random.Random(7)
    words = ["", *("".join(rng.choices("abc1 ", k=rng.randint(1, 7))) for _ in range(40))]
    found = 0
    for _ in range(150):
        pattern = drawn(rng, rng.randint(0, 3))
        ours, theirs = compile_regex(pattern), re.compile(pattern, re.ASCII)
        for word in words:
            matches = theirs.fullmatch(word) is not None
            assert ours.matches(word) == matches, (pattern, word)
            found += matches
    assert found > 500


WORDS = ["", "a", "ab", "A", "_", "é", "É", "ß", "7", "٣", " ", "\t", "\v", "\n", "a\nb", "-", "]"]
WORDS += ["^", "aa", "aaa", "ä́", "漢", "a.b", "\\", "x{2}", "xx", "{,2}", "K", "\x7f", "🙂"]


@pytest.mark.parametrize(
    "pattern",
    [
        r"\w+",
        r"\W",
        r"\d",
        r"\D*",
        r"\s",
        r"\S+",
        r".",
        r"(?s).",
        r"(?s:.)..",
        r"\pL",
        r"\p{Lu}|\p{Nd}",
        r"\PL+",
        r"\p{^L}",
        r"[\pL\d]+",
        r"[^\pL]",
        r"[[:alpha:]]+",
        r"[[:^alpha:]]",
        r"[[:word:][:space:]]",
        r"[[:punct:]]",
        r"[]]",
        r"[^]]",
        r"[a-]+",
        r"[\^\-\]]",
        r"\Qa.b\E",
        r"\Qa.\Eb",
        r"\Q\\E",
        r"a{2}",
        r"a{2,}",
        r"a{1,2}",
        r"x\{2\}",
        r"{,2}",
        r"x{2}",
        r"(?i)k",
        r"(?i)É",
        r"(?i:a)b",
        r"(?i)[^a]",
        r"(?P<name>a)b?",
        r"(?<name>a)b?",
        r"^a$",
        r"(?m)a$\n^b",
        r"a$\nb",
        r"\Aa\z",
        r"a\b",
        r"\B",
        r"\ba\B.*",
        r"\x41",
        r"\x{6F22}",
        r"\061|\7F|\177",
        r"(a|ab)(c|bcd)?",
        r"(|a)+",
        r"()",
        r"(?:)*",
        r"(?U)a+",
        r"(?i-s)A.?",
        r"\C",
        r"a**",
        r"*a",
        r"a{2}{3}",
        r"a|*",
        r"(a",
        r"a)",
        r"[a",
        r"[z-a]",
        r"[[:nothing:]]",
        r"\p{Nothing}",
        r"\8",
        r"\1",
        r"(a)\1",
        r"(?=a)",
        r"(?!a)",
        r"(?<=a)b",
        r"(?<!a)b",
        r"(?>a)",
        r"(?P=name)",
        r"a++",
        r"a{1001}",
        r"a{3,2}",
        r"\x{110000}",
        r"\y",
        r"\Z",
        "a\\",
        r"(?i",
        r"(?z)a",
        r"[\w-z]",
    ],
)
def test_a_pattern_means_what_it_means_to_re2(pattern):
    X = texts(*WORDS)
    try:
        model = model_of("RegexFullMatch", [X], {"pattern": pattern}, {"Y": "bool"})
        wanted = in_onnxruntime(model, [X])[0].tolist()
    except Exception:
        wanted = None
    if pattern == r"\C" or wanted is None:
        with pytest.raises(ValueError, match="is no RE2 expression"):
            compile_regex(pattern)
    else:
        assert [compile_regex(pattern).matches(word) for word in WORDS] == wanted


@pytest.mark.parametrize(
    ("pattern", "text", "match"),
    [
        ("a|ab|abc", "xabcd", (1, 4)),
        ("a?(ab)?", "ab", (0, 2)),
        ("b*?", "abb", (0, 0)),
        ("b+?", "abbc", (1, 3)),
        (r"\bb", "ab b", (3, 4)),
        ("^b", "ab", None),
        ("", "", (0, 0)),
    ],
)
def test_search_finds_the_first_and_there_the_longest(pattern, text, match):
    assert compile_regex(pattern).search(text, 0) == match


def test_search_sees_what_stands_before_its_start():
    assert compile_regex(r"\bb").search("ab", 1) is None
    assert compile_regex("^b").search("ab", 1) is None
    assert compile_regex("b").search("ab", 1) == (1, 2)


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|aa)+$b", "(a|a?)+b", "(.*)(.*)(.*)(.*)(.*)c"])
def test_time_is_linear_where_pythons_is_exponential(pattern):
    start = time.perf_counter()
    assert not compile_regex(pattern).matches("a" * 20_000)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("pattern", ["((a{1000}){1000}){1000}", "(((){1000}){1000}){1000}"])
def test_a_pattern_that_explodes_is_refused(pattern):
    with pytest.raises(ValueError, match="its automaton is too large"):
        compile_regex(pattern)


def test_a_pattern_that_is_nested_too_deep_is_refused():
    with pytest.raises(ValueError, match="nested deeper than 100"):
        compile_regex("(" * 5000 + ")" * 5000)


def test_what_is_remembered_has_a_limit(monkeypatch):
    monkeypatch.setattr("hubtool.ops.regex.REMEMBERED", 5)
    regex = compile_regex.__wrapped__("[a-z]*9|[b-z]*")
    assert regex.matches("the quick brown fox".replace(" ", "").replace("a", ""))
    assert len(regex.known) <= 5
    assert not regex.matches("a" * 9)
    assert np.array_equal(
        [regex.matches(w) for w in ("a9", "9", "b", "")], [True, True, True, True]
    )
