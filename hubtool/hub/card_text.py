"""The prose of a card: its headings, the parts that hubtool writes, the sections one looks for.

What hubtool writes stands between comments that a reader of the page does not see, so that it can
be written anew without touching a word of the author's:

    <!-- hubtool:details begin -->          a whole part, with its heading
    ## Model details
    …
    <!-- hubtool:details end -->

    Its hash: <!-- hubtool:sha256 begin -->measured at conversion<!-- hubtool:sha256 end -->

The second kind stands within a line, after other words: a line that begins with a comment is HTML
to Markdown, to its end. Lines are counted and offsets kept: whatever is hidden from a search is
replaced by blanks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = [
    "FACTS",
    "GAPS",
    "MARKED",
    "PARTS",
    "SECTIONS",
    "UNFILLED",
    "Heading",
    "Section",
    "headings",
    "marked",
    "missing_sections",
    "stray_markers",
    "unclosed",
    "without",
    "without_code",
    "without_comments",
]

PARTS = ("title", "summary", "use", "details", "gaps")
"""The parts that hubtool writes, in the order in which they stand where the author set none."""

FACTS = (
    "axon",
    "difference",
    "hubtool",
    "inputs",
    "judge",
    "layers",
    "opset",
    "outputs",
    "parameters",
    "sha256",
    "size",
    "verification",
    "weights-sha256",
)
"""The facts that an author may name within a sentence; `Facts.texts` has the words for each."""

GAPS = "gaps"
UNFILLED = "measured at conversion"
"""What stands where a figure comes from the conversion, until it has run."""

MARKED = re.compile(
    r"<!-- hubtool:(?P<name>[a-z0-9-]+) begin -->(?P<content>.*?)<!-- hubtool:(?P=name) end -->",
    re.DOTALL,
)
MARKER = re.compile(r"<!--\s*hubtool:[^>]*-->")
LINE = re.compile(r"[^\n]*\n|[^\n]+")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*")
BLOCK_START = re.compile(r"[ \t]*(?:[#>|<`~]|[-*+] |\d+[.)] |---)")


@dataclass(frozen=True)
class Heading:
    """A heading: its line, where it begins and ends in the text, and what stands below it."""

    level: int
    title: str
    line: int
    start: int
    end: int
    body: str = ""


@dataclass(frozen=True)
class Section:
    """What a reader looks for in a card. pattern: how its heading may read, in lower case.
    gap: the sentence that stands there while the author has said nothing."""

    name: str
    title: str
    pattern: str
    gap: str


SECTIONS = (
    Section(
        "uses",
        "Intended uses",
        r"\b(?:intended|direct|primary|recommended|model) uses?\b|^uses\b|\buse cases?\b"
        r"|\bapplications?\b|\bwhat it is for\b",
        "The author has not said what this model is meant for.",
    ),
    Section(
        "out-of-scope",
        "Out of scope",
        r"\bout of scope\b|\bmisuse\b|\bprohibited\b|\bunintended\b|\bnot (?:meant|intended) for\b",
        "The author has not said what this model must not be used for.",
    ),
    Section(
        "limitations",
        "Limitations and biases",
        r"\blimitations?\b|\bbias(?:es)?\b|\brisks?\b|\bcaveats?\b",
        "The author has not said where this model fails, or whom it treats worse than others.",
    ),
    Section(
        "training-data",
        "Training data",
        r"\btraining (?:and evaluation )?(?:data|set|details)\b|^training\b|\bdata ?sets?\b"
        r"|\btrained on\b",
        "The author has not said what data it was trained on.",
    ),
    Section(
        "evaluation",
        "Evaluation",
        r"\bevaluat(?:ion|ed)\b|\bresults?\b|\bperformance\b|\baccuracy\b|\bbenchmarks?\b",
        "The author has given no figures. What stands under Verification says how faithful the "
        "conversion is, not how good the model is.",
    ),
    Section(
        "how-to-use",
        "How to use",
        r"\bhow to (?:use|run|load|get started)\b|\bgett?(?:ing)? started\b|\busage\b"
        r"|\bquick ?start\b",
        "The author has not said how to run this model.",
    ),
    Section(
        "citation",
        "Citation",
        r"\bcit(?:e|ing|ation|ations)\b|\bbibtex\b|\breferences?\b",
        "The author has not said how to cite this model.",
    ),
    Section(
        "environmental-impact",
        "Environmental impact",
        r"\benvironment(?:al)?\b|\bcarbon\b|\bco2\b|\bemissions?\b|\benergy\b",
        "Nothing is known of the energy that its training took.",
    ),
)


def headings(text: str) -> list[Heading]:
    """Every heading outside of code, with the text down to the next of its level or above."""
    found = [*_headings(without_comments(without_code(text)))]
    with_bodies = []
    for index, one in enumerate(found):
        after = (other.start for other in found[index + 1 :] if other.level <= one.level)
        body = text[one.end : next(after, len(text))]
        with_bodies.append(Heading(one.level, one.title, one.line, one.start, one.end, body))
    return with_bodies


def _headings(text: str) -> Iterator[Heading]:
    start, before, paragraph = 0, "", False
    for number, whole in enumerate(LINE.findall(text), 1):
        line, end = whole.rstrip("\r\n"), start + len(whole)
        if atx := ATX.fullmatch(line):
            yield Heading(len(atx[1]), atx[2] or "", number, start, end)
        elif paragraph and (under := SETEXT.fullmatch(line)):
            level = 1 if under[1][0] == "=" else 2
            yield Heading(level, before.strip(), number - 1, start - len(before), end)
        alone = not before.strip()
        paragraph = alone and bool(line.strip()) and not BLOCK_START.match(line)
        start, before = end, whole


def missing_sections(text: str) -> list[Section]:
    """The sections of which the text has no heading, or nothing below it."""
    titles = [
        re.sub(r"[\W_]+", " ", heading.title).strip().lower()
        for heading in headings(text)
        if without_comments(heading.body).strip()
    ]
    return [one for one in SECTIONS if not any(re.search(one.pattern, title) for title in titles)]


def marked(text: str) -> list[re.Match[str]]:
    """What stands between markers, code left out."""
    return [*MARKED.finditer(without_code(text))]


def stray_markers(text: str) -> list[re.Match[str]]:
    """Markers of hubtool's that open or close nothing."""
    return [*MARKER.finditer(without(without_code(text), marked(text)))]


def without(text: str, found: Iterable[re.Match[str]]) -> str:
    """The text with blanks where these were found."""
    for match in found:
        start, end = match.span()
        text = text[:start] + _blank(text[start:end]) + text[end:]
    return text


def without_code(text: str) -> str:
    """The text with blanks for its fenced code."""
    return "".join(_blank(line) if code else line for line, code, _ in _fenced(text))


def unclosed(text: str) -> list[tuple[int, str]]:
    """What is opened and never closed, with its line: all that follows would be hidden."""
    *_, (_, _, opened) = [("", False, 0), *_fenced(text)]
    found = [(opened, "the code")] if opened else []
    visible = without_comments(without(without_code(text), marked(text)))
    if "<!--" in visible:
        found.append((1 + visible.count("\n", 0, visible.index("<!--")), "the comment"))
    return found


def _fenced(text: str) -> Iterator[tuple[str, bool, int]]:
    """Every line, whether it is of a fenced code, and where the fence was opened that is open."""
    fence, opened = "", 0
    for number, line in enumerate(LINE.findall(text), 1):
        mark, inside = FENCE.match(line), bool(fence)
        if mark and not inside:
            fence, opened = mark[1], number
        elif mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence, opened = "", 0
        yield line, inside or mark is not None, opened


def without_comments(text: str) -> str:
    """The text with blanks for what HTML hides."""
    return without(text, COMMENT.finditer(text))


def _blank(text: str) -> str:
    return re.sub(r"[^\r\n]", " ", text)
