"""Text of ours and of strangers as Elixir source and Markdown: never more than text.

Names, labels and titles come from whoever made the model. In Elixir `"#{…}"` runs code, a variable
must not be a reserved word, and `a.b` and `a_b` must not become one variable; in a notebook three
backticks at the beginning of a line open a cell. So every foreign word passes through here:

    literal("a#{b}\\n")      "a\\#{b}\\n"       an Elixir string on one line
    Variables().of("a.b")    a_b             then a_b_2 for "a-b"
    prose("*a*\\n```elixir") \\*a\\* \\`\\`\\`elixir  one line of Markdown
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from hubtool.dtypes import shortest

__all__ = ["Variables", "alias", "brackets", "floating", "layer_name", "literal", "prose", "tuple_"]

WORDS = """true false nil when and or not in fn do end catch rescue after else if unless case cond
for with receive try quote unquote import require alias use def defp defmodule super self"""
RESERVED = frozenset(WORDS.split())
"""What cannot be a variable, or would read as something else."""

LONGEST = 48
"""The characters of a variable's name; layers of nested modules bear names of hundreds."""

ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "#": "\\#"}


def literal(text: str) -> str:
    """An Elixir string on one line that holds exactly this text."""
    parts = []
    for i, char in enumerate(text):
        if char == "#" and text[i + 1 : i + 2] != "{":
            parts.append(char)
        elif char in ESCAPES:
            parts.append(ESCAPES[char])
        elif unicodedata.category(char)[0] in "CZ" and char != " ":
            # Controls, and marks that turn the direction of what follows them.
            parts.append(f"\\u{{{ord(char):X}}}")
        else:
            parts.append(char)
    return f'"{"".join(parts)}"'


def layer_name(name: str) -> str:
    """The value of `name:` for a layer: Axon counts on where a string holds "{n}", so such a
    name is given by a function."""
    return f"fn _, _ -> {literal(name)} end" if "{n}" in name else literal(name)


def prose(text: str) -> str:
    """One line of Markdown that shows this text and does nothing."""
    kept = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    escaped = re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$&:@/])", r"\\\1", " ".join(kept.split()))
    # Between word characters these mean nothing in Markdown, and names are full of them.
    return re.sub(r"(?<=\w)\\([-._/])(?=\w)", r"\1", escaped)


def alias(name: str) -> str:
    """A module's name: "resnet34-v1" becomes Resnet34V1."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    joined = "".join(word[0].upper() + word[1:] for word in words)
    return joined if joined[:1].isalpha() else f"Model{joined}"


class Variables:
    """Variable names that are safe and given once each."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = {*taken}

    def of(self, name: str) -> str:
        """The variable for a name, numbered where another name has it."""
        plain = unicodedata.normalize("NFKD", name)
        plain = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[-LONGEST:].strip("_")
        if not plain or plain[0].isdigit() or plain in RESERVED:
            plain = f"x_{plain}" if plain else "x"
        variable, count = plain, 1
        while variable in self.taken:
            count += 1
            variable = f"{plain}_{count}"
        self.taken.add(variable)
        return variable


def floating(number: float) -> str:
    """A finite float in the shortest form of its float32, as Elixir writes it: 1.0e-5."""
    short = shortest(number)
    mantissa, exponent, power = repr(short).partition("e")
    if not exponent:
        return mantissa
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(power)}"


def tuple_(items: Iterable[object]) -> str:
    """{1, 2, 3}"""
    return f"{{{', '.join(map(str, items))}}}"


def brackets(items: Iterable[object]) -> str:
    """[1, 2, 3]"""
    return f"[{', '.join(map(str, items))}]"
