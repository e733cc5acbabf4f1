"""JSON from strangers: UTF-8, one meaning for every text, and a plain ValueError for the rest.

Python's parser is kinder than the standard (https://www.rfc-editor.org/rfc/rfc8259): it takes NaN,
lets the last of two equal keys win, turns 1e999 into infinity, knows integers of any length, lets
half a surrogate pair through and answers a bomb of brackets with a RecursionError. A reader in
another language would see something else in each of these, so here they are refused.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

__all__ = ["EXACT", "MAX_BYTES", "loads"]

MAX_BYTES = 100_000_000
"""The longest JSON text that is read or written: the limit that safetensors sets its header."""

EXACT = 2**53
"""Integers up to here, and down to its negative, are exact in every reader's JSON numbers."""

LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


def loads(data: bytes) -> Any:
    """The value that a JSON text stands for; ValueError says what is wrong with the text."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES:,} bytes")
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_distinct,
            parse_float=_finite,
            parse_int=_exact,
            parse_constant=_no_constant,
        )
        if b"\\u" in data and LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
            raise ValueError("not Unicode: half of a surrogate pair")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _exact(text: str) -> int:
    if len(text) > len(str(-EXACT)) or abs(number := int(text)) > EXACT:
        raise ValueError(f"the integer {text[:40]} is beyond 2^53, where readers differ")
    return number


def _no_constant(text: str) -> float:
    raise ValueError(f"not JSON: {text} is no number")
