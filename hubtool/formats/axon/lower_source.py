"""Elixir source laid out as `mix format` lays it out, 98 columns wide.

The calls that lowering makes are kept as small trees, since where a line breaks depends on how
deep it stands: in a notebook's cell, or inside a function of a module.

    conv0 = Axon.conv(data, 64, kernel_size: {7, 7}, name: "conv0")

    conv0 =
      Axon.conv(data, 64,
        kernel_size: {7, 7},
        …
      )
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["WIDTH", "Call", "Function", "Items", "Text", "assignment", "spaced"]

WIDTH = 98


@dataclass(frozen=True)
class Function:
    """fn a, b -> … end, with one or more lines of body."""

    params: tuple[str, ...]
    body: tuple[str, ...]

    def __str__(self) -> str:
        return f"fn {', '.join(self.params)} -> {'; '.join(self.body)} end"

    def lines(self, room: int) -> list[str]:
        if len(self.body) == 1 and len(str(self)) <= room:
            return [str(self)]
        body = spaced(_broken(line, room - 2) for line in self.body)
        return [f"fn {', '.join(self.params)} ->", *_set_in(body), "end"]


@dataclass(frozen=True)
class Items:
    """[a, b, c]"""

    items: tuple[Text, ...]

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.items))}]"

    def lines(self, room: int) -> list[str]:
        if len(str(self)) <= room:
            return [str(self)]
        return ["[", *_listed([_lines(item, room - 2) for item in self.items]), "]"]


@dataclass(frozen=True)
class Call:
    """f(a, b, key: value)"""

    head: str
    args: tuple[Text, ...]
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        given = [*map(str, self.args), *(f"{key}: {value}" for key, value in self.options)]
        return f"{self.head}({', '.join(given)})"

    @property
    def flat(self) -> bool:
        """Whether nothing in it must stand on several lines."""
        return not any(isinstance(arg, Function) and len(arg.body) > 1 for arg in self.args)

    def lines(self, room: int) -> list[str]:
        if self.flat and len(str(self)) <= room:
            return [str(self)]
        options = [[f"{key}: {value}"] for key, value in self.options]
        first = f"{self.head}({', '.join(map(str, self.args))},"
        if self.flat and options and len(first) <= room:
            return [first, *_listed(options), ")"]
        args = [_lines(arg, room - 3) for arg in self.args]
        return [f"{self.head}(", *_listed(args + options), ")"]


Text = str | Function | Items | Call


def _lines(text: Text, room: int) -> list[str]:
    return [text] if isinstance(text, str) else text.lines(room)


def _listed(parts: list[list[str]]) -> list[str]:
    """The parts one below the other, indented, a comma after each but the last."""
    ended = [[*part[:-1], f"{part[-1]},"] for part in parts[:-1]] + parts[-1:]
    return _set_in(line for part in ended for line in part)


def _set_in(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" if line else "" for line in lines]


def spaced(statements: Iterable[list[str]]) -> list[str]:
    """Statements one below the other, an empty line around those that take several."""
    lines: list[str] = []
    long_before = False
    for statement in statements:
        if lines and (long_before or len(statement) > 1):
            lines.append("")
        lines += statement
        long_before = len(statement) > 1
    return lines


PAIRS = {"(": ")", "[": "]", "{": "}"}


def _broken(text: str, room: int) -> list[str]:
    """The lines of one statement of a function's body: an assignment, a call, or a list."""
    if len(text) <= room:
        return [text]
    bound = re.match(r"(\w+) = ", text)
    if bound:
        value = text[bound.end() :]
        if value[0] == "[":
            first, *rest = _broken(value, room)
            return [f"{bound.group()}{first}", *rest]
        return [bound.group().rstrip(), *_set_in(_broken(value, room - 2))]
    opening = re.search(r"[(\[]", text)
    if opening is None or text[-1] != PAIRS[opening.group()]:
        return [text]
    head, parts = text[: opening.end()], _parts(text[opening.end() : -1])
    plain = [part for part in parts if not re.match(r"\w+: ", part)]
    options = [[part] for part in parts[len(plain) :]]
    first = f"{head}{', '.join(plain)},"
    if plain and options and len(first) <= room:
        return [first, *_listed(options), text[-1]]
    return [head, *_listed([_broken(part, room - 3) for part in plain] + options), text[-1]]


def _parts(text: str) -> list[str]:
    """What stands between the commas that are inside no bracket; nothing here holds a string."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def assignment(variable: str, value: Text, indent: int = 0) -> list[str]:
    """The lines of `variable = value`, not yet indented; `indent` is how deep they will stand."""
    room = WIDTH - indent
    flat = not isinstance(value, Call) or value.flat
    if flat and len(f"{variable} = {value}") <= room:
        return [f"{variable} = {value}"]
    return [f"{variable} =", *_set_in(_lines(value, room - 2))]
