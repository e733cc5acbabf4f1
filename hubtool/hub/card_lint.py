"""What is wrong with a card, and with the folder that it stands in.

An error refuses the push: the card says something false or dangerous, or a hub would not find the
model by it. A warning is what a reader would miss. A card file alone, as those in `model_cards/`,
is checked for all that needs no folder; only there may a figure wait for the conversion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hubtool.errors import HubtoolError, ReadError
from hubtool.hub.card_facts import Facts, facts
from hubtool.hub.card_header import Header, HeaderError, parse
from hubtool.hub.card_leaks import Leak, local_paths, placeholders, secrets, tokens
from hubtool.hub.card_lint_header import Problem, lint_header
from hubtool.hub.card_text import (
    FACTS,
    GAPS,
    PARTS,
    UNFILLED,
    headings,
    marked,
    missing_sections,
    stray_markers,
    unclosed,
    without,
    without_code,
    without_comments,
)

__all__ = ["lint"]

CARD = "README.md"
LARGEST = 1_000_000
LONGEST_TEXT = 1 << 24
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)|\b(?:src|href)=[\"']([^\"']+)[\"']")
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
MODEL_FILE = re.compile(
    r"[\w.-]+(?:/[\w.-]+)*\.(?:onnx|safetensors|json|md|livemd|exs?|bin|pth?|h5|gguf|ya?ml)"
)


def lint(
    path: Path, *, card: str | None = None, published_files: Sequence[str] | None = None
) -> list[Problem]:
    """Every problem of a card file, or of a folder with its README.md, in the order of lines.

    card: the text to judge instead of the folder's README.md. published_files: what a push would
    send, as paths in the folder; all its files unless given. Raises ReadError (no such file).

    Example: `for problem in lint(Path("resnet34")): print(problem)`
    """
    folder = path if path.is_dir() else None
    file = CARD if folder else str(path)
    try:
        text = _read(path / CARD if folder else path) if card is None else card
    except UnicodeDecodeError as error:
        mend = "save it as UTF-8"
        return [Problem("error", "no-utf8", f"no UTF-8 at byte {error.start}", mend, file)]
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = [*lint_header(text, file=file), *_prose(text, file, alone=folder is None)]
    if folder is not None:
        files = [*(published_files if published_files is not None else _files(folder))]
        found += [*_folder(folder, text, files), *_tokens(folder, files)]
    return sorted(found, key=lambda problem: (problem.file != file, problem.line, problem.severity))


def _read(path: Path) -> str:
    if not path.is_file():
        raise ReadError(
            f"there is no card '{path}'",
            hint="`hubtool card create` writes one from the conversion's own facts.",
        )
    if path.stat().st_size > LARGEST:
        raise ReadError(f"'{path}' is longer than {LARGEST:,} bytes, and no card")
    return path.read_text(encoding="utf-8")


def _files(folder: Path) -> list[str]:
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(p.as_posix() for p in inside if not any(part[0] == "." for part in p.parts))


def _prose(text: str, file: str, *, alone: bool) -> Iterator[Problem]:
    """What can be said of any card's text, its header included."""
    for leak in secrets(text):
        yield _secret(leak, file)
    for leak in local_paths(text):
        mend = "name a file of the repository, or a web address"
        message = f"{leak.what}: {leak.text}"
        yield Problem("error", "local-path", message, mend, file, leak.line)
    for leak in placeholders(text):
        message = f"{leak.what} is left: {leak.text[:60]}"
        mend = "say it, or take the line out"
        yield Problem("warning", "placeholder", message, mend, file, leak.line)
    for line, what in unclosed(text):
        message = f"{what} that begins here is never closed, and hides the rest of the card"
        yield Problem("error", "unclosed", message, "close it", file, line)
    yield from _markers(text, file, alone=alone)
    own = without(text, [match for match in marked(text) if match["name"] == GAPS])
    there = {heading.title: heading.line for heading in headings(text)}
    for section in missing_sections(own):
        message = f"nothing is said under a heading such as '{section.title}'"
        mend = f"write `## {section.title}` and what you know, be it that nobody knows"
        line = there.get(section.title, 1 + text.rstrip().count("\n"))
        yield Problem("warning", f"section-{section.name}", message, mend, file, line)


def _secret(leak: Leak, file: str) -> Problem:
    mend = "remove it and revoke it: whoever has seen the file has it"
    return Problem("error", "secret", f"{leak.what} ({leak.text})", mend, file, leak.line)


def _tokens(folder: Path, files: list[str]) -> Iterator[Problem]:
    """Tokens in what would go along with the card; what is longer than a text is none."""
    for name in files:
        path = folder / name
        if name != CARD and path.is_file() and path.stat().st_size <= LONGEST_TEXT:
            yield from (_secret(leak, name) for leak in tokens(path.read_bytes()))


def _markers(text: str, file: str, *, alone: bool) -> Iterator[Problem]:
    """Marked places that are broken, and figures that nobody has filled in."""
    filled = "make the card with `hubtool card create`, which fills it in"
    for stray in stray_markers(text):
        message = f"the marker {stray[0]} opens or closes nothing"
        mend = "write <!-- hubtool:NAME begin -->…<!-- hubtool:NAME end -->"
        yield Problem("error", "marker", message, mend, file, _line(text, stray.start()))
    found = marked(text)
    for match in found:
        if match["name"] not in (*FACTS, *PARTS):
            message = f"there is no fact or part named '{match['name']}'"
            mend = f"facts are {', '.join(FACTS)}; parts are {', '.join(PARTS)}"
            yield Problem("error", "marker", message, mend, file, _line(text, match.start()))
    for match in re.finditer(re.escape(UNFILLED), text, re.IGNORECASE):
        line = _line(text, match.start())
        if not alone:
            message = f"'{UNFILLED}' stands where a figure must"
            yield Problem("error", "unfilled", message, filled, file, line)
        elif not any(m.start() < match.start() < m.end() for m in found):
            message = f"'{UNFILLED}' outside of markers can never be filled in"
            mend = f"<!-- hubtool:difference begin -->{UNFILLED}<!-- hubtool:difference end -->"
            yield Problem("error", "unfilled", message, mend, file, line)


def _folder(folder: Path, text: str, files: list[str]) -> Iterator[Problem]:
    try:
        known = facts(folder)
    except HubtoolError as error:
        message = " ".join(str(error).split())
        yield Problem("error", "folder", message, "convert the model again", "graph.json")
        return
    try:
        header = parse(text)
    except HeaderError:
        header = Header()
    yield from _one_model(known, files)
    yield from _named_files(known, text, files)
    yield from _conversion(known, text)
    yield from _claims(known, header, text)


def _one_model(known: Facts, files: list[str]) -> Iterator[Problem]:
    """A repository is one model: one graph, its own weights, at most one ONNX file of it."""
    listed = {file["file"] for file in known.weights}
    kinds = {
        "graph.json": [f for f in files if f.rsplit("/", 1)[-1] == "graph.json"],
        "ONNX file": [f for f in files if f.endswith(".onnx")],
    }
    for kind, found in kinds.items():
        if len(found) > 1:
            message = f"more than one {kind}: {', '.join(found)}"
            mend = "one model a repository: move the others to repositories of their own"
            yield Problem("error", "many-models", message, mend, found[1])
    for name in files:
        if name.endswith(".safetensors") and name not in listed and "/" not in name:
            message = f"{name} holds weights that graph.json does not name"
            mend = "remove it, or publish it in a repository of its own"
            yield Problem("error", "many-models", message, mend, name)


def _named_files(known: Facts, text: str, files: list[str]) -> Iterator[Problem]:
    """Links into the repository, and files named in code spans, must be there."""
    visible = without_comments(without_code(text))
    there = {*files, CARD, known.source.get("file")}
    folders = {part for f in files for part in _parents(f)}
    named = [(m, m[1] or m[2]) for m in LINK.finditer(visible)]
    named += [(m, m[1]) for m in CODE_SPAN.finditer(visible) if MODEL_FILE.fullmatch(m[1])]
    for match, target in named:
        parts = urlsplit(target)
        name = unquote(parts.path).removeprefix("./").rstrip("/")
        if parts.scheme or parts.netloc or name in ("", ".") or name.startswith("/"):
            continue
        if not known.axon and name.endswith((".livemd", ".ex")):
            continue  # a push writes these
        if name not in there and name not in folders:
            message = f"the card names {name}, which is not in the folder"
            mend = "add the file, or name it by its web address"
            line = _line(text, match.start())
            yield Problem("error", "file-missing", message, mend, CARD, line)


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _conversion(known: Facts, text: str) -> Iterator[Problem]:
    """The facts of the conversion that a reader needs, as they are in the folder now."""
    create = "`hubtool card create` writes it from the folder"
    sha256 = known.source.get("sha256", "")
    details = [match for match in marked(text) if match["name"] == "details"]
    if sha256 and details and sha256 not in details[0]["content"]:
        message = "the card's details are those of another model: its source has another sha256"
        mend = "make the card again: `hubtool card create`"
        yield Problem("error", "stale", message, mend, CARD, _line(text, details[0].start()))
    shapes = [_numbers(str(value.shape)) for value in known.inputs.values() if value.shape]
    in_text = _numbers(text)
    verified = known.verification.get("status") == "passed"
    missing = {
        "source-url": not re.search(r"(?i)\bsource\b[^\n]*https?://", text),
        "sha256": not sha256 or sha256 not in text,
        "opset": not re.search(rf"(?i)\bopset\D{{0,12}}{known.source.get('opset', '#')}\b", text),
        "shapes": any(shape not in in_text for shape in shapes),
        "preprocessing": not _says_preprocessing(known, text),
        "difference": not verified or known.texts()["difference"] not in text,
    }
    told = {
        "source-url": ("where the ONNX file can be had", "give its address to `card create`"),
        "sha256": ("the sha256 of the ONNX file", create),
        "opset": ("the opset of the ONNX file", create),
        "shapes": ("the shapes of the inputs", create),
        "preprocessing": ("how an input is prepared", "convert with --preprocess, or write it"),
        "difference": (
            "a verified difference from the source in ONNX Runtime",
            create if verified else "convert without --no-verify, or with --sample",
        ),
    }
    for name, absent in missing.items():
        if absent:
            what, mend = told[name]
            yield Problem("warning", f"fact-{name}", f"the card lacks {what}", mend, CARD)


def _says_preprocessing(known: Facts, text: str) -> bool:
    """In hubtool's words where the folder knows, else in the author's own."""
    own = text if known.preprocessing else without(text, marked(text))
    return "preprocess" in own.lower()


def _numbers(text: str) -> str:
    """Only the sizes of a shape, so that `[N, 3, 224, 224]` is found as `Nx3x224x224` too."""
    return f" {' '.join(re.findall(r'[0-9]+', text))} "


def _claims(known: Facts, header: Header, text: str) -> Iterator[Problem]:
    """What the header claims against what the folder is."""
    data = header.data
    licence = data.get("license")
    if isinstance(licence, str) and known.licence and licence != known.licence:
        message = f"the card says `{licence}`, the folder's own metadata `{known.licence}`"
        mend = "find out which it is, and say so in both"
        yield Problem("warning", "licence-differs", message, mend, CARD, header.line("license"))
    tags = data.get("tags")
    for index, tag in enumerate(tags if isinstance(tags, list) else []):
        if isinstance(tag, str) and tag.lower() in ("axon", "elixir") and known.axon:
            message = f"the tag `{tag}`, and {known.in_axon()}"
            mend = "take the tag out; `hubtool check --for axon` lists every reason"
            yield Problem("error", "tag-axon", message, mend, CARD, header.line("tags", index))
    if not known.untrained:
        return
    if not re.search(r"\buntrained\b", without_comments(text), re.IGNORECASE):
        message = "the weights are random numbers, and the card does not say `untrained`"
        yield Problem("error", "untrained", message, "`hubtool card create` says it", CARD)
    if "model-index" in data:
        message = "results in the header of a model whose weights are random numbers"
        mend = "take `model-index` out"
        line = header.line("model-index")
        yield Problem("error", "untrained-results", message, mend, CARD, line)


def _line(text: str, position: int) -> int:
    return 1 + text.count("\n", 0, position)
