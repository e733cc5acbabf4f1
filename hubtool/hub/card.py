"""Model cards: the README of a published folder, read, made and checked.

The rooms behind this door, each above those before it: `card_header` reads and writes the YAML at
the top, `card_text` knows the prose, `card_facts` a folder, `card_build` joins the two, and
`card_lint_header` and `card_lint` say what is wrong.
"""

from __future__ import annotations

from hubtool.hub.card_build import build
from hubtool.hub.card_facts import Facts, facts
from hubtool.hub.card_header import front_matter, with_front_matter
from hubtool.hub.card_lint import lint
from hubtool.hub.card_lint_header import Problem, lint_front_matter, lint_header

__all__ = [
    "Facts",
    "Problem",
    "build",
    "facts",
    "front_matter",
    "lint",
    "lint_front_matter",
    "lint_header",
    "with_front_matter",
]
