"""Finding repositories: the tags that a card gives, and the search by tags, authors and words.

The tables are in `index_tables`. A search begins with what yields the fewest models, and tests the
rest on each: a label is read in the order that is asked for off its index; words that few models
have are sorted; where every word is a common one, the order itself is walked and soon has a page.

A page ends in a cursor that says where in the order the next one begins, so that none has a gap or
a repeat when repositories come and go, and the last costs no more than the first.
"""

from __future__ import annotations

import base64
import binascii
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

from hubtool.formats import strict_json
from hubtool.hub.server import errors
from hubtool.hub.server.index_tables import fold, milliseconds
from hubtool.hub.server.meta import REPO, REPOS, Meta, Repo, repo_of

__all__ = ["SORTS", "paths", "search", "tags_of"]

SORTS = {
    None: "id",
    "createdAt": "created",
    "lastModified": "modified",
    "downloads": "downloads",
    "likes": "likes",
    "trendingScore": "downloads",
}
"""The orders there are, each with the column that it goes by; no order is newest first."""

MOST = 1000
MOST_FILTERS = 50
MOST_WORDS = 20
MOST_LETTERS = 500
MOST_TAGS = 1000
LONGEST_TAG = 256
FEW = 200
"""So many models at least are sorted for one page rather than found by walking an order."""
WALK = 20_000
"""So many models of an order are looked at before what has the words is sorted after all;"""
FIRST_WALK = 2_000
"""and so many before one or two letters, which are mostly common, are looked up."""
MOST_GRAMS = 500
"""One or two letters that begin more trigrams than this are common."""

Value = int | str


@dataclass(frozen=True)
class _Order:
    """What a page is sorted by; but for the first, the (value, id) behind which it begins; how
    many models, and which columns of each."""

    column: str
    ascending: bool
    start: tuple[Value, int] | None
    limit: int
    shown: str

    @property
    def direction(self) -> str:
        return "ASC" if self.ascending else "DESC"

    def behind(self, key: str, number: str, value: str = "?") -> tuple[list[str], list[Value]]:
        """The condition that a row lies behind the start, and its values."""
        sign = ">" if self.ascending else "<"
        if self.start is None:
            return [], []
        if self.column == "id":
            return [f"{number} {sign} ?"], [self.start[1]]
        return [f"({key}, {number}) {sign} ({value}, ?)"], list(self.start)

    def to(self, key: str, number: str, last: tuple[Value, int]) -> tuple[list[str], list[Value]]:
        """The condition that a row lies no further than this (value, id), and its values."""
        sign = "<=" if self.ascending else ">="
        if self.column == "id":
            return [f"{number} {sign} ?"], [last[1]]
        return [f"({key}, {number}) {sign} (?, ?)"], [*last]

    def by(self, key: str, number: str) -> str:
        keys = [number] if self.column == "id" else [key, number]
        return "ORDER BY " + ", ".join(f"{key} {self.direction}" for key in keys)


@dataclass(frozen=True)
class _Wanted:
    """What a search asks for. labels: ids, the rarest first, with how many models bear each; the
    last is the one that all bear. match: the words as a query of trigrams, or None where they are
    too short and too common."""

    labels: list[tuple[int, int]]
    words: list[str]
    match: str | None
    private: bool

    @property
    def everything(self) -> tuple[int, int]:
        return self.labels[-1]

    def tests(self, number: str, skip: int | None = None) -> tuple[list[str], list[Value]]:
        """The conditions on the repository `number`, which `r` is the row of, and their values."""
        borne = f"EXISTS (SELECT 1 FROM tagged WHERE label = ? AND repo = {number})"
        has = f"instr((SELECT text FROM texts WHERE repo = {number}), ?) > 0"
        labels = [label for label, _ in self.labels[:-1] if label != skip]
        where = [borne] * len(labels) + [has] * len(self.words)
        if not self.private:
            where.append("r.private = 0")
        return where, [*labels, *self.words]


def search(
    meta: Meta,
    *,
    filter: Sequence[str] = (),
    author: str | None = None,
    query: str | None = None,
    sort: str | None = None,
    ascending: bool = False,
    limit: int = 100,
    cursor: str | None = None,
    include_private: bool = False,
    cards: bool = True,
) -> tuple[list[Repo], str | None]:
    """A page of the repositories that meet every condition, and the cursor of the next page.

    `filter` are tags as they are written; `query` words, each a part of the name, a title or a
    tag, in any case. Without `cards` those of the found are left empty, which is faster. Raises
    Refusal 400 for an unknown order, a cursor from elsewhere, or more filters or words than make
    sense.
    """
    if sort not in SORTS:
        known = ", ".join(name for name in SORTS if name)
        raise errors.bad_request(f"There is no order '{sort}'; there are {known}.")
    if len(filter) > MOST_FILTERS:
        raise errors.bad_request(f"More than {MOST_FILTERS} filters.")
    words = _words(query or "")
    limit = max(1, min(limit, MOST))
    start = _decoded(cursor, sort, ascending) if cursor else None
    shown = REPO if cards else REPO.replace("c.card", "'{}'")
    order = _Order(SORTS[sort], ascending, start, limit + 1, shown)
    with meta.reading() as db:
        wanted = _wanted(db, filter, author, words, include_private)
        if wanted is None:
            return [], None
        rows = _page(db, wanted, order)
    repos = [repo_of(row) for _, row in rows[:limit]]
    if len(rows) <= limit:
        return repos, None
    return repos, _encoded(sort, ascending, rows[limit - 1][0], repos[-1].id)


def paths(meta: Meta, heads: Sequence[str]) -> dict[str, list[str]]:
    """The paths of the files of these commits, sorted; of an unknown commit none."""
    with meta.reading() as db:
        (text,) = db.execute(
            "SELECT json_group_array(json_array(c.oid, e.path)) FROM json_each(?) h"
            " CROSS JOIN commits c ON c.oid = h.value CROSS JOIN entries e ON e.tree = c.tree",
            (json.dumps(list(dict.fromkeys(heads))),),
        ).fetchone()
    found: dict[str, list[str]] = {head: [] for head in heads}
    for oid, path in json.loads(text):
        found[oid].append(path)
    return {oid: sorted(listed) for oid, listed in found.items()}


def _words(query: str) -> list[str]:
    """The words of a query, folded, each once. Raises Refusal 400 for too many."""
    words = list(dict.fromkeys(fold(query).split()))
    if len(words) > MOST_WORDS or len(query) > MOST_LETTERS:
        raise errors.bad_request(
            f"A search takes {MOST_WORDS} words and {MOST_LETTERS} letters at most."
        )
    return words


def _wanted(
    db: sqlite3.Connection,
    filter: Sequence[str],
    author: str | None,
    words: list[str],
    private: bool,
) -> _Wanted | None:
    """What is asked, looked up; None where nothing can meet it."""
    named = [("tag", name) for name in dict.fromkeys(filter)]
    named += [("author", author)] if author else []
    named.append(("all", ""))
    rows = ", ".join(["(?, ?)"] * len(named))
    (found,) = db.execute(
        "SELECT json_group_array(json_array(l.id, l.models, l.kind = 'all')) FROM (VALUES "
        f"{rows}) n CROSS JOIN labels l ON l.kind = n.column1 AND l.name = n.column2",
        [text for pair in named for text in pair],
    ).fetchone()
    known = sorted(json.loads(found), key=lambda label: (label[2], label[1]))
    if len(known) < len(named):
        return None
    labels = [(label, models) for label, models, _ in known]
    matches = [_grams(db, word) for word in words]
    if "" in matches:
        return None
    match = " AND ".join(part for part in matches if part is not None)
    return _Wanted(labels, words, match or None, private)


def _grams(db: sqlite3.Connection, word: str) -> str | None:
    """A word as a query of the trigrams' index, which finds all that have it and perhaps more.

    One letter or two are found by the trigrams that begin so: "" if none does, None if too many.
    """
    if len(word) >= 3:
        places = {*range(0, len(word) - 2, 3), len(word) - 3}  # each letter once, as that is faster
        return " AND ".join(_quoted(word[place : place + 3]) for place in sorted(places))
    rows = db.execute(
        "SELECT gram FROM grams WHERE gram >= ? AND gram < ? LIMIT ?",
        (word, f"{word}\U0010ffff", MOST_GRAMS + 1),
    ).fetchall()
    if len(rows) > MOST_GRAMS:
        return None
    return f"({' OR '.join(_quoted(gram) for (gram,) in rows)})" if rows else ""


def _quoted(text: str) -> str:
    """Text as the query language of FTS5 takes it for nothing but text."""
    return '"' + text.replace('"', '""') + '"'


Rows = list[tuple[Value, list[Any]]]
"""Of each model the value that it is sorted by, and its row."""


def _page(db: sqlite3.Connection, wanted: _Wanted, order: _Order) -> Rows:
    """So many models from behind the order's start on, by the way that is the shortest."""
    label = wanted.labels[0]
    if wanted.match is None or label == wanted.everything:
        most = FIRST_WALK if wanted.match is not None else None
        short = any(len(word) < 3 for word in wanted.words)
        if short or wanted.match is None:
            rows, whole = _by_label(db, wanted, order, label[0], most)
            if whole:
                return rows
    if _has_few(db, wanted, order):
        return _by_words(db, wanted, order)
    most = WALK if label == wanted.everything else None
    rows, whole = _by_label(db, wanted, order, label[0], most)
    return rows if whole else _by_words(db, wanted, order)


def _has_few(db: sqlite3.Connection, wanted: _Wanted, order: _Order) -> bool:
    """Whether to begin with the words: fewer models have them than bear the rarest label, and so
    few that sorting them takes no longer than walking an order that they are spread over."""
    label, most = wanted.labels[0]
    everything, models = wanted.everything
    if label == everything and order.column == "id":
        return True
    few = max(FEW, isqrt(order.limit * models))
    if label != everything and most <= few:
        return False
    (count,) = db.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT {few})",
        (wanted.match,),
    ).fetchone()
    return int(count) < few


def _by_label(
    db: sqlite3.Connection, wanted: _Wanted, order: _Order, label: int, most: int | None
) -> tuple[Rows, bool]:
    """Read off the label's index of that order, testing the rest on each; nothing is sorted.

    The whole of it, or the next so many; and whether that gave all there is for the page.
    """
    key, last = f"t.{order.column}", None
    after, start = order.behind(key, "t.repo", _stored(order.column))
    by = order.by(key, "t.repo")
    if order.column == "id":
        key = "t.repo"
    where, values = wanted.tests("t.repo", skip=label)
    if most is not None:
        last = db.execute(
            f"SELECT {key}, t.repo FROM tagged t WHERE {_all(['t.label = ?', *after])} {by}"
            " LIMIT 1 OFFSET ?",
            [label, *start, most],
        ).fetchone()
    if last is not None:
        until, end = order.to(key, "t.repo", last)
        after, start = [*after, *until], [*start, *end]
    source = "tagged t CROSS JOIN repos r ON r.id = t.repo"
    sql = f"SELECT t.repo FROM {source} WHERE {_all(['t.label = ?', *after, *where])} {by}"
    rows = _rows(db, sql, [label, *start, *values], order)
    return rows, last is None or len(rows) == order.limit


def _by_words(db: sqlite3.Connection, wanted: _Wanted, order: _Order) -> Rows:
    """What the index of words finds, tested and, unless newest first is wanted, sorted."""
    after, start = order.behind(f"r.{order.column}", "w.rowid")
    where, values = wanted.tests("w.rowid")
    source = "words w CROSS JOIN repos r ON r.id = w.rowid"
    by = order.by(f"r.{order.column}", "w.rowid")
    sql = (
        f"SELECT w.rowid AS repo FROM {source} WHERE {_all(['words MATCH ?', *after, *where])} {by}"
    )
    return _rows(db, sql, [wanted.match or "", *start, *values], order)


def _all(conditions: list[str]) -> str:
    return " AND ".join(conditions)


def _stored(column: str) -> str:
    """The parameter of a date as `tagged` stores it."""
    return milliseconds("?") if column in ("created", "modified") else "?"


def _rows(db: sqlite3.Connection, found: str, values: list[Value], order: _Order) -> Rows:
    """The rows of the first repositories that a query finds, in the same order.

    They come as one value: a thread that fetched row by row would wait for its turn as often.
    """
    (text,) = db.execute(
        f"SELECT json_group_array(json_array(r.{order.column}, json_array({order.shown})))"
        f" FROM ({found} LIMIT ?) p CROSS JOIN {REPOS} WHERE r.id = p.repo",
        [*values, order.limit],
    ).fetchone()
    return [(value, row) for value, row in json.loads(text)]


def _encoded(sort: str | None, ascending: bool, value: Value, number: int) -> str:
    text = json.dumps([sort, ascending, value, number], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decoded(cursor: str, sort: str | None, ascending: bool) -> tuple[Value, int]:
    kind = str if SORTS[sort] in ("created", "modified") else int
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        found = strict_json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        order, way, value, number = found
        numbers = [number] if kind is str else [number, value]
        fitting = all(type(one) is int and abs(one) < 1 << 63 for one in numbers)
        if order == sort and way is ascending and type(value) is kind and fitting:
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
        if isinstance(text, str) and 0 < len(text.strip()) <= LONGEST_TAG and "\0" not in text
    ]
