"""Finding repositories: the tags that a card gives, and the search over tags, authors and names.

Every condition can be had in two ways: as a *source*, an index that yields the repositories that
meet it, and as a *test* of one repository. A search begins with the source that yields the fewest
and tests the rest; where all yield many it walks the order instead, and soon has a page.

A page ends in a cursor that says where in the order the next one begins, so that none has a gap or
a repeat when repositories come, and the last costs no more than the first.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hubtool.formats import strict_json
from hubtool.hub.server import errors
from hubtool.hub.server.meta import Meta, Repo, repos_by_id

__all__ = ["SORTS", "search", "tags_of"]

SORTS = {
    None: "id",
    "createdAt": "created",
    "lastModified": "modified",
    "downloads": "downloads",
    "likes": "likes",
    "trendingScore": "downloads",
}
"""The orders there are, each with the column that it goes down by; no order is newest first."""

MOST = 1000
MOST_FILTERS = 50
MOST_TAGS = 1000
LONGEST_TAG = 256
FEW = 10_000
"""So many repositories are sorted for one page; a larger source is met by walking the order."""


@dataclass(frozen=True)
class _Condition:
    """One thing asked of a repository `r`; a source that scans has no index to help it."""

    source: str
    test: str
    value: str
    scans: bool = False


def search(
    meta: Meta,
    *,
    filter: Sequence[str] = (),
    author: str | None = None,
    query: str | None = None,
    sort: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
    include_private: bool = False,
) -> tuple[list[Repo], str | None]:
    """A page of the repositories that meet every condition, and the cursor of the next page.

    `filter` are tags as they are written, `query` a part of the name in any case. Raises
    Refusal 400 for an unknown order, a cursor from elsewhere, or more filters than make sense.
    """
    if sort not in SORTS:
        known = ", ".join(name for name in SORTS if name)
        raise errors.bad_request(f"There is no order '{sort}'; there are {known}.")
    if len(filter) > MOST_FILTERS:
        raise errors.bad_request(f"More than {MOST_FILTERS} filters.")
    conditions = _conditions(filter, author, query)
    start = _decoded(cursor, sort) if cursor else None
    limit = max(1, min(limit, MOST))
    with meta.reading() as db:
        if conditions is None:
            return [], None
        rows = _page(db, conditions, SORTS[sort], limit + 1, start, include_private)
        repos = repos_by_id(db, [number for number, _ in rows[:limit]])
    return repos, _encoded(sort, *rows[limit - 1]) if len(rows) > limit else None


def _conditions(
    filter: Sequence[str], author: str | None, query: str | None
) -> list[_Condition] | None:
    """What is asked; None where nothing can meet it."""
    found = [
        _Condition(
            "SELECT repo FROM tags WHERE tag = ?",
            "EXISTS (SELECT 1 FROM tags WHERE tag = ? AND repo = r.id)",
            tag,
        )
        for tag in dict.fromkeys(filter)
    ]
    if author:
        source = "SELECT id AS repo FROM repos WHERE author = ?"
        found.append(_Condition(source, "+r.author = ?", author))  # + keeps it off its index
    if query:
        part = query.lower()
        if re.search(r"[^a-z0-9_./-]", part):
            return None
        test = "instr(lower(r.name), ?) > 0"
        if len(part) < 3:
            source = f"SELECT r.id AS repo FROM repos r WHERE {test}"
        else:
            source = "SELECT rowid AS repo FROM names WHERE names MATCH '\"' || ? || '\"'"
        found.append(_Condition(source, test, part, scans=len(part) < 3))
    return found


def _page(
    db: sqlite3.Connection,
    conditions: list[_Condition],
    column: str,
    limit: int,
    start: tuple[int | str, int] | None,
    include_private: bool,
) -> list[tuple[int, int | str]]:
    """(id, value that it is sorted by) of so many repositories, from behind `start` on."""
    driver = _driver(db, conditions, column)
    tests = [condition for condition in conditions if condition is not driver]
    where = [condition.test for condition in tests]
    values: list[int | str] = [condition.value for condition in tests]
    number = "d.repo" if driver else "r.id"
    key = number if column == "id" else f"r.{column}"
    if not include_private:
        where.append("r.private = 0")
    if start is not None:
        where.append(f"({key}, {number}) < (?, ?)" if column != "id" else f"{number} < ?")
        values += start if column != "id" else start[1:]
    source = f"({driver.source}) d CROSS JOIN repos r ON r.id = d.repo" if driver else "repos r"
    sql = (
        f"SELECT {number}, {key} FROM {source}"
        f" WHERE {' AND '.join(where) or 'true'}"
        f" ORDER BY {key} DESC{'' if column == 'id' else f', {number} DESC'} LIMIT ?"
    )
    first = [driver.value] if driver else []
    return db.execute(sql, [*first, *values, limit]).fetchall()


def _driver(db: sqlite3.Connection, conditions: list[_Condition], column: str) -> _Condition | None:
    """The condition to begin with: the rarest, unless so many meet it that sorting would last.

    What scans is begun with only for an order that would lead all over the table.
    """
    sources = [one for one in conditions if not one.scans]
    if column != "id":
        sources = sources or conditions
    if not sources or (len(sources) == 1 and column == "id"):
        return sources[0] if sources else None
    counts = [
        db.execute(f"SELECT count(*) FROM ({one.source} LIMIT {FEW})", (one.value,)).fetchone()[0]
        for one in sources
    ]
    least = min(counts)
    return sources[counts.index(least)] if column == "id" or least < FEW else None


def _encoded(sort: str | None, number: int, value: int | str) -> str:
    text = json.dumps([sort, value, number], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decoded(cursor: str, sort: str | None) -> tuple[int | str, int]:
    kind = str if SORTS[sort] in ("created", "modified") else int
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        found = strict_json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        order, value, number = found
        if order == sort and type(value) is kind and type(number) is int:
            return value, number
    except (ValueError, TypeError, binascii.Error):
        pass
    raise errors.bad_request("The cursor is not one of this search: begin at the first page.")


def tags_of(card: dict[str, Any]) -> list[str]:
    """The tags by which the Hub would find a model with this card, each once, in this order."""
    found = [
        *_texts(card, "tags"),
        *_texts(card, "library_name"),
        *_texts(card, "pipeline_tag"),
        *_texts(card, "language"),
        *(f"dataset:{name}" for name in _texts(card, "datasets")),
        *(f"base_model:{name}" for name in _texts(card, "base_model")),
        *(f"arxiv:{name}" for name in _texts(card, "arxiv")),
        *(f"license:{name}" for name in _texts(card, "license")),
    ]
    return list(dict.fromkeys(found))[:MOST_TAGS]


def _texts(card: dict[str, Any], key: str) -> list[str]:
    """The text, or the texts of the list, that a card holds there; what is none is passed over."""
    value = card.get(key)
    listed = value if isinstance(value, list) else [value]
    return [
        text.strip()
        for text in listed
        if isinstance(text, str) and 0 < len(text.strip()) <= LONGEST_TAG
    ]
