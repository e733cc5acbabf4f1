"""Regular expressions as RE2 has them: what ONNX's text operators are written for.

Python's own are of another kind: they know backreferences and lookaround, prefer the first
alternative where RE2 is asked for the longest match, and take exponential time on some patterns,
which a model's author could use to hang whoever runs it. RE2's are automata: a pattern becomes a
small program of characters, forks and assertions, and a text is read once, with all places of the
program at which one may stand at the same time (Thompson's construction,
https://swtch.com/~rsc/regexp/regexp1.html). The sets of places that occur are remembered.

The syntax is https://github.com/google/re2/wiki/Syntax, without \\C and the scripts of \\p.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

__all__ = ["Regex", "compile_regex"]

MOST_STEPS = 100_000
"""So long may a pattern's program be; x{1000} is x a thousand times."""

MOST_REPEATS = 1000
DEEPEST = 100
REMEMBERED = 10_000

PERL = {"d": "09", "s": "\t\n\f\r  ", "w": "09AZaz__"}
POSIX = {
    "alnum": "09AZaz",
    "alpha": "AZaz",
    "ascii": "\x00\x7f",
    "blank": "\t\t  ",
    "cntrl": "\x00\x1f\x7f\x7f",
    "digit": "09",
    "graph": "!~",
    "lower": "az",
    "print": " ~",
    "punct": "!/:@[`{~",
    "space": "\t\r  ",
    "upper": "AZ",
    "word": "09AZaz__",
    "xdigit": "09AFaf",
}
"""Classes as their ranges: the first and the last character of each."""

ESCAPES = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
ASSERTIONS: dict[str, Callable[[str, str], bool]] = {
    "\\A": lambda before, after: not before,
    "\\z": lambda before, after: not after,
    "^": lambda before, after: before in ("", "\n"),
    "$": lambda before, after: after in ("", "\n"),
    "\\b": lambda before, after: _is_word(before) != _is_word(after),
    "\\B": lambda before, after: _is_word(before) == _is_word(after),
}
"""What must hold of the characters before and after a place; at a text's ends one is empty."""


def _is_word(char: str) -> bool:
    return bool(char) and (char == "_" or (char.isascii() and char.isalnum()))


@dataclass(frozen=True)
class Chars:
    """A class of characters: ranges, other classes, or all that are in neither."""

    ranges: tuple[str, ...] = ()
    parts: tuple[Any, ...] = ()
    negated: bool = False
    folded: bool = False

    def __contains__(self, char: str) -> bool:
        forms = {char, char.lower(), char.upper()} if self.folded else {char}
        held = any(r[0] <= form <= r[1] for form in forms for r in self.ranges)
        return (held or any(char in part for part in self.parts)) != self.negated


@dataclass(frozen=True)
class Category:
    """The characters of a Unicode category: L, Lu, …"""

    name: str

    def __contains__(self, char: str) -> bool:
        return unicodedata.category(char).startswith(self.name)


def _pairs(text: str) -> tuple[str, ...]:
    return tuple(text[i : i + 2] for i in range(0, len(text), 2))


class Parser:
    """Turns a pattern into a tree: ("chars", Chars) | ("assert", name) | ("all", [trees]) |
    ("any", [trees]) | ("repeat", tree, least, most or None)."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.flags = frozenset[str]()
        self.depth = 0

    def parse(self) -> Any:
        tree = self._alternatives()
        if self.at < len(self.pattern):
            raise self._error("it has a ) too much")
        return tree

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"the pattern '{self.pattern:.200}' is no RE2 expression: {reason}")

    def _eat(self, text: str) -> bool:
        """Whether the text comes next; if so it is read."""
        if not text or not self.pattern.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def _next(self) -> str:
        if self.at >= len(self.pattern):
            raise self._error("it ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def _until(self, end: str) -> str:
        stop = self.pattern.find(end, self.at)
        if stop < 0:
            raise self._error(f"a {end} is missing")
        text, self.at = self.pattern[self.at : stop], stop + len(end)
        return text

    def _alternatives(self) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._error(f"it is nested deeper than {DEEPEST}")
        outer = self.flags
        branches = [self._sequence()]
        while self._eat("|"):
            branches.append(self._sequence())
        self.flags = outer
        self.depth -= 1
        return branches[0] if len(branches) == 1 else ("any", branches)

    def _sequence(self) -> Any:
        trees: list[Any] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            if self._eat("\\Q"):
                stop = self.pattern.find("\\E", self.at)
                literal = self.pattern[self.at : stop if stop >= 0 else len(self.pattern)]
                self.at += len(literal) + (2 if stop >= 0 else 0)
                trees += [self._literal(char) for char in literal]
                continue
            trees.append(self._repeated(self._atom()))
        return ("all", trees)

    def _repeated(self, tree: Any) -> Any:
        """The tree with the repetition that follows it; whether that is greedy makes no difference
        to the longest match."""
        bounds = self._bounds()
        if bounds is None:
            return tree
        self._eat("?")
        if self._bounds() is not None:
            raise self._error("a repetition is repeated")
        return ("repeat", tree, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._eat(sign):
                return bounds
        start = self.at
        if self._eat("{"):
            stop = self.pattern.find("}", self.at)
            low, comma, high = self.pattern[self.at : max(stop, self.at)].partition(",")
            if low.isdecimal() and low.isascii() and (not high or high.isdecimal()):
                self.at = stop + 1
                least, most = int(low), int(high) if high else None if comma else int(low)
                if max(least, most or 0) > MOST_REPEATS or least > (
                    least if most is None else most
                ):
                    raise self._error(f"{{{low}{comma}{high}}} is no repetition")
                return least, most
            self.at = start
        return None

    def _atom(self) -> Any:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return ("chars", self._class())
        if char == ".":
            return ("chars", Chars(() if "s" in self.flags else ("\n\n",), negated=True))
        if char in "^$":
            whole = {"^": "\\A", "$": "\\z"}[char]
            return ("assert", char if "m" in self.flags else whole)
        if char in "*+?":
            raise self._error(f"nothing stands before {char}")
        if char != "\\":
            return self._literal(char)
        if self.pattern[self.at : self.at + 1] in tuple("AzbB"):
            return ("assert", "\\" + self._next())
        return ("chars", self._escape())

    def _literal(self, char: str) -> Any:
        return ("chars", Chars((char + char,), folded="i" in self.flags))

    def _group(self) -> Any:
        """A group, or flags for the rest of the group that they stand in."""
        outer = self.flags
        if self._eat("?"):
            if self._eat("P<") or self._named():
                name = self._until(">")
                if not name.isidentifier():
                    raise self._error(f"'{name:.50}' is no name of a group")
            elif not self._set_flags():
                return ("all", [])
        tree = self._alternatives()
        self.flags = outer
        if not self._eat(")"):
            raise self._error("a ) is missing")
        return tree

    def _named(self) -> bool:
        ahead = self.pattern[self.at : self.at + 2]
        return ahead[:1] == "<" and ahead not in ("<=", "<!") and self._eat("<")

    def _set_flags(self) -> bool:
        """Read `flags:` or `flags)`; whether a group follows."""
        added, dropped, negative = set[str](), set[str](), False
        while True:
            char = self._next()
            if char in ":)":
                self.flags = self.flags - dropped | added
                return char == ":"
            if char == "-" and not negative:
                negative = True
            elif char in "imsU":
                (dropped if negative else added).add(char)
            else:
                raise self._error(f"RE2 has no (?{char}: neither lookaround nor conditions")

    def _class(self) -> Chars:
        negated = self._eat("^")
        ranges: list[str] = []
        parts: list[Any] = []
        first = True
        while first or not self._eat("]"):
            first = False
            low = self._member()
            if isinstance(low, Chars):
                parts.append(low)
                continue
            high = low
            ahead = self.pattern[self.at : self.at + 2]
            if ahead[:1] == "-" and ahead != "-]":
                self.at += 1
                member = self._member()
                if isinstance(member, Chars) or member < low:
                    raise self._error("a range of characters is no range")
                high = member
            ranges.append(low + high)
        return Chars(tuple(ranges), tuple(parts), negated, "i" in self.flags)

    def _member(self) -> str | Chars:
        """A character of a class, or a class within it."""
        if self._eat("[:"):
            name = self._until(":]")
            known = POSIX.get(name.removeprefix("^"))
            if known is None:
                raise self._error(f"there is no class [:{name:.50}:]")
            return Chars(_pairs(known), negated=name.startswith("^"))
        char = self._next()
        if char != "\\":
            return char
        chars = self._escape()
        single = chars.ranges[0] if len(chars.ranges) == 1 and not chars.negated else "ab"
        return single[0] if single[0] == single[1] else chars

    def _escape(self) -> Chars:
        """What follows a backslash, be it one character or a class."""
        char = self._next()
        if char.lower() in PERL:
            return Chars(_pairs(PERL[char.lower()]), negated=char.isupper())
        if char in "pP":
            name = self._until("}") if self._eat("{") else self._next()
            return self._category(name.removeprefix("^"), (char == "P") != name.startswith("^"))
        if char in ESCAPES:
            char = ESCAPES[char]
        elif char == "x":
            digits = self._until("}") if self._eat("{") else self._next() + self._next()
            char = self._code(digits, 16)
        elif char in "01234567":
            digits = char
            while len(digits) < 3 and self.pattern[self.at : self.at + 1] in tuple("01234567"):
                digits += self._next()
            if char != "0" and len(digits) == 1:
                raise self._error("RE2 has no backreferences")
            char = self._code(digits, 8)
        elif char.isalnum() or not char.isascii():
            raise self._error(f"\\{char} is unknown")
        return Chars((char + char,), folded="i" in self.flags)

    def _category(self, name: str, negated: bool) -> Chars:
        if name == "Any":
            return Chars(negated=not negated)
        major, minor = name[:1], name[1:]
        if len(name) > 2 or major not in tuple("CLMNPSZ") or (minor and not minor.islower()):
            raise self._error(f"\\p{{{name:.50}}} is no Unicode category")
        return Chars(parts=(Category(name),), negated=negated)

    def _code(self, digits: str, base: int) -> str:
        try:
            return chr(int(digits, base))
        except (ValueError, OverflowError):
            raise self._error(f"'{digits:.20}' is no character") from None


@dataclass
class Regex:
    """A pattern's program: (chars, next) reads a character, (None, a, b) forks, (name, next)
    asserts; place 0 is the end."""

    steps: list[tuple[Any, ...]] = field(default_factory=list)
    start: int = 0
    built: int = 0
    known: dict[Any, frozenset[int]] = field(default_factory=dict)

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        return self._longest(text, 0) == len(text)

    def search(self, text: str, start: int) -> tuple[int, int] | None:
        """The first match from `start` on, the longest where there are several."""
        for begin in range(start, len(text) + 1):
            end = self._longest(text, begin)
            if end is not None:
                return begin, end
        return None

    def _longest(self, text: str, begin: int) -> int | None:
        places, end = frozenset([self.start]), None
        before = text[begin - 1 : begin] if begin else ""
        for at in range(begin, len(text) + 1):
            after = text[at : at + 1]
            places = self._spread(places, before, after)
            if 0 in places:
                end = at
            if len(places) <= (0 in places) or not after:
                return end
            places = self._read(places, after)
            before = after
        return end

    def _spread(self, places: frozenset[int], before: str, after: str) -> frozenset[int]:
        """All places that are reached without reading a character; forks are left behind."""
        key = (places, before, after)
        if key not in self.known:
            seen, waiting = set[int](), [*places]
            while waiting:
                place = waiting.pop()
                if place in seen:
                    continue
                seen.add(place)
                kind, *following = self.steps[place]
                if kind is None or (isinstance(kind, str) and ASSERTIONS[kind](before, after)):
                    waiting += following
            self._remember(key, (p for p in seen if isinstance(self.steps[p][0], Chars) or not p))
        return self.known[key]

    def _read(self, places: frozenset[int], char: str) -> frozenset[int]:
        """The places behind those that may read this character."""
        key = (places, char)
        if key not in self.known:
            steps = (self.steps[place] for place in places if place)
            self._remember(key, (following for chars, following in steps if char in chars))
        return self.known[key]

    def _remember(self, key: Any, places: Iterable[int]) -> None:
        if len(self.known) >= REMEMBERED:
            self.known.clear()
        self.known[key] = frozenset(places)

    def add(self, *step: Any) -> int:
        """Append a step; gives its place."""
        self.steps.append(step)
        return len(self.steps) - 1

    def build(self, tree: Any, following: int) -> int:
        """Append the steps of a tree, behind which `following` comes; gives where they begin."""
        kind, *rest = tree
        self.built += 1
        if self.built > MOST_STEPS:
            raise ValueError("a pattern repeats too much: its automaton is too large")
        if kind in ("chars", "assert"):
            return self.add(rest[0], following)
        if kind == "all":
            for part in reversed(rest[0]):
                following = self.build(part, following)
            return following
        if kind == "any":
            places = [self.build(part, following) for part in rest[0]]
            return self.add(None, *places)
        part, least, most = rest
        end = following
        if most is None:
            fork = self.add(None)
            self.steps[fork] = (None, self.build(part, fork), following)
            following = fork
        else:
            for _ in range(most - least):
                following = self.add(None, self.build(part, following), end)
        for _ in range(least):
            following = self.build(part, following)
        return following


@lru_cache(64)
def compile_regex(pattern: str) -> Regex:
    """The automaton of an RE2 pattern; ValueError where it is none, or too large.

    Example: `compile_regex("a+").matches("aaa")`
    """
    tree = Parser(pattern).parse()
    regex = Regex()
    end = regex.add(Chars())
    regex.start = regex.build(tree, end)
    return regex
