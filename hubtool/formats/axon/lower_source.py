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

from dataclasses import dataclass

__all__ = ["WIDTH", "Call", "Function", "Items", "Text", "assignment"]

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
        return [f"fn {', '.join(self.params)} ->", *(f"  {line}" for line in self.body), "end"]


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
    return [f"  {line}" for part in ended for line in part]


def assignment(variable: str, value: Text, indent: int = 0) -> list[str]:
    """The lines of `variable = value`, not yet indented; `indent` is how deep they will stand."""
    room = WIDTH - indent
    flat = not isinstance(value, Call) or value.flat
    if flat and len(f"{variable} = {value}") <= room:
        return [f"{variable} = {value}"]
    return [f"{variable} =", *(f"  {line}" for line in _lines(value, room - 2))]
