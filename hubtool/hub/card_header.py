"""The header of a card: the YAML mapping between two `---` lines at the top of a README.

    ---
    license: apache-2.0
    tags:
    - Axon
    ---
    # The prose begins here

Cards come from strangers, and what is read here is indexed by a server and shown to others. So
only plain data comes out, such as JSON could hold: no aliases (a few lines of them unfold to
gigabytes), no tags that name types, no key twice, no NaN, a limit on size and depth. A date comes
out as text. Every refusal names its line, and every key's line is kept for whoever checks the
card further. This is the one door to `yaml`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Header", "HeaderError", "Path", "front_matter", "parse", "with_front_matter"]

Path = tuple[str | int, ...]
"""Where something stands in the data: ("tags", 0) is the first tag."""

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
LARGEST = 2**63

BLOCK = re.compile(
    r"\A\ufeff?\s*---(?P<newline>\r\n|\r|\n)(?P<yaml>|.*?(?:\r\n|\r|\n))---[ \t]*(?:\r\n|\n|\Z)",
    re.DOTALL,
)
"""As the Hub finds it: https://github.com/huggingface/huggingface_hub, repocard.py."""

ODD = re.compile(
    r"[^\x20-\x7e\xa0-\u2027\u2030-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
YAML = "tag:yaml.org,2002:"
PLAIN = tuple(YAML + kind for kind in ("str", "null", "bool", "int", "float", "timestamp"))


class HeaderError(ValueError):
    """The header cannot be read: `line` of the file says where, `reason` why."""

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        self.reason = reason
        super().__init__(f"line {line}: {reason}")


@dataclass(frozen=True)
class Header:
    """What a header says. lines: where each key and item stands, counted from 1 in the file.
    end: where the prose begins, in characters; 0 where there is no header at all."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    end: int = 0

    def line(self, *path: str | int) -> int:
        """The line of a key or item, or of the nearest that holds it; 1 for the header itself."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def front_matter(text: str) -> dict[str, Any]:
    """The mapping at the top of a card; {} where there is none. Raises ValueError with the line.

    Example: `front_matter("---\\ntags:\\n- Axon\\n---\\n")["tags"]`
    """
    return parse(text).data


def parse(text: str) -> Header:
    """The header of a card with the line of every key. Raises HeaderError."""
    found = BLOCK.match(text)
    if found is None:
        return Header()
    block = found["yaml"]
    first = 1 + text.count("\n", 0, found.start("yaml"))
    if len(block.encode(errors="replace")) > MAX_BYTES:
        raise HeaderError(first, f"the header is longer than {MAX_BYTES:,} bytes")
    lines: dict[Path, int] = {(): first - 1}
    data = _load(block, first, lines)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise HeaderError(first, "the header is no mapping of keys to values: write `key: value`")
    return Header(data, lines, found.end())


def with_front_matter(text: str, data: dict[str, Any]) -> str:
    """The card with this header, its keys in the order given, and the prose untouched.

    A header that says just this already stays as it is written, comments and all.
    """
    try:
        header = parse(text)
        if header.data == data and list(header.data) == list(data):
            return text
    except HeaderError:
        pass
    found = BLOCK.match(text)
    newline = found["newline"] if found else "\n"
    prose = text[found.end() :] if found else text
    if not found and prose and not prose.startswith(("\n", "\r")):
        prose = f"\n{prose}"
    return f"---\n{_dump(data)}---\n".replace("\n", newline) + prose


def _load(block: str, first: int, lines: dict[Path, int]) -> Any:
    """The data of a YAML text whose first line is line `first` of its file."""
    import yaml  # type: ignore[import-untyped]

    def refuse(mark: Any, reason: str) -> HeaderError:
        return HeaderError(first + (mark.line if mark is not None else 0), reason)

    try:
        _check_events(yaml, block, refuse)
        loader = yaml.CSafeLoader(block)
        try:
            node = loader.get_single_node()
            return None if node is None else _value(yaml, loader, node, (), lines, first)
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        before = block.encode(errors="replace")[: error.position]
        raise HeaderError(first + before.count(b"\n"), f"not YAML: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise refuse(mark, f"not YAML: {error.problem or error.context}") from None
    except UnicodeEncodeError:
        raise HeaderError(first, "not Unicode: half of a surrogate pair") from None


def _check_events(yaml: Any, block: str, refuse: Any) -> None:
    """What must not be unfolded or nested is refused before anything is built from it."""
    depth = 0
    for event in yaml.parse(block, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise refuse(
                event.start_mark, "anchors and aliases (& and *) are refused: write it out"
            )
        if getattr(event, "tag", None) is not None:
            raise refuse(event.start_mark, f"the tag {event.tag} is refused: plain values only")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise refuse(event.start_mark, f"nested more than {MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _value(
    yaml: Any, loader: Any, node: Any, path: Path, lines: dict[Path, int], first: int
) -> Any:
    line = first + node.start_mark.line
    lines.setdefault(path, line)
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_value(yaml, loader, item, (*path, i), lines, first) for i, item in items]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(loader, node, line)
    data: dict[str, Any] = {}
    for key, item in node.value:
        line = first + key.start_mark.line
        if not isinstance(key, yaml.ScalarNode) or key.tag == f"{YAML}merge":
            raise HeaderError(line, "a key is a word, not a list, a mapping or `<<`")
        if key.value in data:
            raise HeaderError(line, f"the key '{key.value}' stands twice: keep one")
        lines[(*path, key.value)] = line
        data[key.value] = _value(yaml, loader, item, (*path, key.value), lines, first)
    return data


def _scalar(loader: Any, node: Any, line: int) -> Any:
    if node.tag not in PLAIN:
        return node.value
    try:
        value = loader.construct_object(node)
    except (ValueError, OverflowError):
        raise HeaderError(line, f"'{node.value[:40]}' is no value: put it in quotes") from None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, float) and not -LARGEST < value < LARGEST and "e" not in repr(value):
        raise HeaderError(line, f"'{node.value}' is no number that JSON has: put it in quotes")
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        raise HeaderError(line, f"'{node.value[:40]}' is too large a number: put it in quotes")
    return value


def _dump(data: dict[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        """Escapes for what a YAML reader would take for the end of a line, or not at all."""
        return dumper.represent_scalar(
            f"{YAML}str", value, style='"' if ODD.search(value) else None
        )

    Dumper.add_representer(str, text)
    return str(yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**31))
