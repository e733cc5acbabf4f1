"""The header of a card: plain data out of hostile YAML, and back."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from hubtool.hub.card import front_matter, with_front_matter
from hubtool.hub.card_header import parse

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text()
plain |= st.floats(allow_nan=False, allow_infinity=False)
data = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
headers = st.dictionaries(st.text(), data, max_size=5)
prose = st.text() | st.text(st.sampled_from("-\n\r #a: "), max_size=30)


@given(prose, headers)
def test_what_is_written_is_read_again(text, header) -> None:
    card = with_front_matter(text, header)
    assert front_matter(card) == header
    assert with_front_matter(card, header) == card


@given(st.text(st.characters(exclude_categories=("Cs",))), headers)
def test_the_prose_stays_what_it_was(text, header) -> None:
    end = parse(text).end if "---" in text else 0
    card = with_front_matter(text, header)
    assert card.endswith(text[end:])


@given(headers)
def test_the_hubs_own_client_reads_the_same(header) -> None:
    card = with_front_matter("# A title\n", {"title": header})
    assert ModelCard(card).data.to_dict() == front_matter(card)


@given(st.text() | st.text(st.sampled_from("-\n: [{]}&*!|>'\"#?,%@`a1.~<=\t"), max_size=60))
def test_any_text_gives_json_or_a_line(text) -> None:
    for card in (text, f"---\n{text}\n---\n"):
        try:
            json.dumps(front_matter(card), allow_nan=False)
        except ValueError as error:
            assert str(error).startswith("line "), error


@pytest.mark.parametrize(
    "text", ["", "# Title\n", "--- \na: 1\n---\n", "---\na: 1\n", "x\n---\na: 1\n---\n"]
)
def test_no_header_is_an_empty_one(text) -> None:
    assert front_matter(text) == {}


@pytest.mark.parametrize(
    "text", ["---\n---\n", "---\n\n---", "---\n# nothing yet\n---\n", "---\n{}\n---\n"]
)
def test_an_empty_header_is_one(text) -> None:
    assert front_matter(text) == {}
    assert parse(text).end == len(text)


@pytest.mark.parametrize(
    ("block", "value"),
    [
        ("day: 2024-02-29", "2024-02-29"),
        ("day: 2024-02-29 10:00:00Z", "2024-02-29T10:00:00+00:00"),
        ("x: 1.5", 1.5),
        ("x: 1.0e+300", 1e300),
        ("x: =", "="),
        ("1: y", "y"),
        ("x: '!!str'", "!!str"),
        ("x: a&b *c", "a&b *c"),
        ("tags:\n Axon\n Elixir", "Axon Elixir"),
    ],
)
def test_values_are_plain(block, value) -> None:
    (found,) = front_matter(f"---\n{block}\n---\n").values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("block", "line", "reason"),
    [
        ("a: 1\nb: &x 1", 3, "anchors"),
        ("a: 1\nb: *x", 3, "anchors"),
        ("a: !!python/object/apply:os.system [true]", 2, "tag"),
        ("a: !!binary aGk=", 2, "tag"),
        ("a: 1\n\na: 2", 4, "'a' stands twice"),
        ("a:\n  b: 1\n  b: 2", 4, "'b' stands twice"),
        ("a: .nan", 2, "no number that JSON has"),
        ("a: -.inf", 2, "no number that JSON has"),
        ("a: 9223372036854775808", 2, "too large"),
        ("a: " + "9" * 5000, 2, "quotes"),
        ("a: 2024-13-45", 2, "quotes"),
        ("<<: {a: 1}", 2, "<<"),
        ("? [a]\n: 1", 2, "a key is a word"),
        ("- a\n- b", 2, "no mapping"),
        ("just words", 2, "no mapping"),
        ("a: 1\nb: [1", 4, "not YAML"),
        ("a: 1\nb: c: d", 3, "not YAML"),
        ("a: 1\nb: x\x07y", 3, "not YAML"),
        ("a: x\ud800y", 2, "not Unicode"),
        ("a: 1\n...\nb: 2", 4, "not YAML"),
        ("a: " + "[" * 32 + "]" * 32, 2, "32 deep"),
        ("a: " + "[" * 100_000, 2, "32 deep"),
        ("a: " + "x" * 1_000_000, 2, "1,000,000 bytes"),
    ],
)
def test_what_is_refused_names_its_line(block, line, reason) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        front_matter(f"---\n{block}\n---\n")
    assert caught.value.line == line
    assert str(caught.value).startswith(f"line {line}: ")


def test_as_deep_and_as_long_as_is_allowed() -> None:
    deep = "a: " + "[" * 31 + "]" * 31
    assert front_matter(f"---\n{deep}\n---\n")
    long = "a: " + "x" * 999_996
    assert len(front_matter(f"---\n{long}\n---\n")["a"]) == 999_996


def test_a_billion_laughs_are_refused_at_the_first() -> None:
    lines = ['a0: &a0 ["lol", "lol"]']
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    with pytest.raises(ValueError, match="line 2: anchors"):
        front_matter("---\n" + "\n".join(lines) + "\n---\n")


def test_every_key_and_item_has_its_line() -> None:
    header = parse("\n---\nlicense: mit\n# why\ntags:\n- Axon\n- Elixir\nm: [{name: x}]\n---\nText")
    assert header.line("license") == 3
    assert [header.line("tags"), header.line("tags", 0), header.line("tags", 1)] == [5, 6, 7]
    assert header.line("m", 0, "name") == 8
    assert header.line("m", 0, "absent") == 8
    assert header.line("absent") == 2


def test_a_header_that_says_it_already_keeps_its_comments() -> None:
    text = "---\nlicense: mit # because\n---\nText\n"
    assert with_front_matter(text, {"license": "mit"}) == text
    assert with_front_matter(text, {"license": "isc"}) == "---\nlicense: isc\n---\nText\n"


def test_windows_lines_stay() -> None:
    text = "---\r\nlicense: mit\r\n---\r\nText\r\n"
    assert front_matter(text) == {"license": "mit"}
    changed = with_front_matter(text, {"license": "isc", "tags": ["a"]})
    assert changed == "---\r\nlicense: isc\r\ntags:\r\n- a\r\n---\r\nText\r\n"


def test_a_broken_header_is_replaced_whole() -> None:
    assert with_front_matter("---\na: [\n---\nText", {"b": 1}) == "---\nb: 1\n---\nText"
