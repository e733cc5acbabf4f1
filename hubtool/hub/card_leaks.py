"""What must not stand in a published text: secrets, paths of one's own machine, blanks to fill.

Each is looked for by its shape. A hash or a web address has another, and an example that says it
is one is let through. A secret that was found is never shown whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hubtool.hub.card_text import without_code, without_comments

__all__ = ["Leak", "local_paths", "placeholders", "secrets", "tokens"]


@dataclass(frozen=True)
class Leak:
    """What was found, in words and as it stands there, and on which line."""

    what: str
    text: str
    line: int


SECRETS = {
    "a hubtool token": r"\bhubtool_[A-Za-z0-9]{30,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "an AWS secret": r"(?i:aws_?secret\w*)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9/+]{40}\b",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "a GitLab token": r"\bglpat-[\w-]{20,}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a Google key": r"\bAIza[\w-]{35}",
    "a PyPI token": r"\bpypi-[\w-]{50,}",
    "an npm token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "an API key": r"\bsk-[A-Za-z0-9_-]{32,}",
    "a JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "a bearer token": r"\b[Bb]earer\s+(?P<value>[\w.~+/-]{20,}=*)",
    "a password in an address": r"\b[a-z][a-z0-9+]*://[^\s/:@]+:(?P<value>[^\s/@]{6,})@",
    "a secret": r"(?i:\b(?:api_?key|access_?token|auth_?token|token|secret|passw(?:or)?d))[\"']?"
    r"\s*[:=]\s*[\"']?(?P<value>[\w+/.-]{16,}=*)",
}
HUBS = ("a hubtool token", "a Hugging Face token")
EXAMPLE = re.compile(r"example|\bx{4,}|x{8,}|\.{3}|your|placeholder|dummy|environ|getenv", re.I)
HASH = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})", re.I)

REST = r"[^\s`\"'<>)\]|,;]*"
LOCAL = re.compile(
    rf"""(?<![\w/.:~$%@&=-])(?:
        /(?:home|Users|mnt|media|private|scratch|workspace|content|kaggle|nfs)/[\w.@~-]{REST}
      | /(?:root|tmp|var/tmp|var/folders)(?:/{REST}|(?![\w/-]))
      | [A-Za-z]:\\{{1,2}}\w[\w.\- ]+\\{REST}
      | [A-Za-z]:[\\/](?:Users|Documents\ and\ Settings)[\\/]{REST}
      | \\\\[\w.-]+\\[\w$]{REST}
    )
    | (?<!\w)file://{REST}""",
    re.VERBOSE,
)

MARKERS = {
    "a placeholder": r"\[\s*more information needed\s*\]|<your\b[^>\n]*>"
    r"|\[(?:your|insert)\b[^\]\n]*\](?!\()",
}
OUTSIDE_CODE = {
    "a placeholder": r"\{\{.{0,200}?\}\}|\{%.{0,200}?%\}|\blorem ipsum\b",
    "an open end": r"(?-i:\b(?:TODO|FIXME|TBD|XXX)\b)",
}


def secrets(text: str) -> Iterator[Leak]:
    """Keys, tokens and passwords, each shown by its first letters only."""
    seen: set[int] = set()
    for what, pattern in SECRETS.items():
        for match in re.finditer(pattern, text):
            value = match.groupdict().get("value") or match[0]
            if match.start() in seen or EXAMPLE.search(match[0]):
                continue
            if "value" in match.groupdict() and not _is_random(value):
                continue
            seen.add(match.start())
            yield Leak(what, f"{match[0][:6]}…", _line(text, match.start()))


def tokens(content: bytes) -> Iterator[Leak]:
    """Tokens of hubs in any file, which have a shape that nothing else has."""
    for what in HUBS:
        for match in re.finditer(SECRETS[what].encode(), content):
            text = match[0].decode()
            if not EXAMPLE.search(text):
                yield Leak(what, f"{text[:6]}…", 1 + content.count(b"\n", 0, match.start()))


def _is_random(value: str) -> bool:
    """Whether this looks drawn by lot: letters and digits, no hash, no dotted name."""
    plain = value.strip("=")
    mixed = re.search(r"\d", plain) and re.search(r"[A-Za-z]", plain)
    return bool(mixed) and not HASH.fullmatch(plain) and len(set(plain)) > 7


def local_paths(text: str) -> Iterator[Leak]:
    """Absolute paths of a machine, which no reader has."""
    for match in LOCAL.finditer(text):
        yield Leak("a path of one machine", match[0].rstrip("."), _line(text, match.start()))


def placeholders(text: str) -> Iterator[Leak]:
    """Blanks of a template that nobody has filled in; braces count outside of code only."""
    visible = without_comments(text)
    for hidden, patterns in ((visible, MARKERS), (without_code(visible), OUTSIDE_CODE)):
        for what, pattern in patterns.items():
            for match in re.finditer(pattern, hidden, re.IGNORECASE):
                yield Leak(what, match[0], _line(text, match.start()))


def _line(text: str, position: int) -> int:
    return 1 + text.count("\n", 0, position)
