"""Finding repositories: the tags that a card gives, and the search by tags, authors and words.

The tables are in `index_tables`. A search begins with what yields the fewest models, and tests the
rest on each: a label is read in the order that is asked for off its index; models that have words
which few have are sorted; where the words are common, the order itself is walked and soon has a
page. How common they are is known from their rarest trigrams, about and as a bound: so a walk looks
back at what it has found, and is given up where the words prove rarer.

A page ends in a cursor that says where in the order the next one begins, so that none has a gap or
a repeat when repositories come and go, and the last costs no more than the first.
"""

from __future__ import annotations

import base64
import binascii
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hubtool.formats import strict_json
from hubtool.hub.server import access, errors
from hubtool.hub.server.accounts import ANYBODY, Identity
from hubtool.hub.server.index_tables import SAMPLE, fold, milliseconds
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
MOST_GRAMS = 500
"""One or two letters that begin more trigrams than this are looked for in texts only."""
BALLAST = 64
"""A trigram that is so many times as common as the rarest is not worth the time."""
HASTE = 2
"""The words are looked up at once where that may take so many times as long as walking an order,
since how many models have them is known only as a bound."""
PATIENCE = 32
"""The bound is believed until one in so many of it was walked over; then what the walk found is."""

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

    def to(
        self, key: str, number: str, last: tuple[Value, int], value: str = "?"
    ) -> tuple[list[str], list[Value]]:
        """The condition that a row lies no further than this (value, id), and its values."""
        sign = "<=" if self.ascending else ">="
        if self.column == "id":
            return [f"{number} {sign} ?"], [last[1]]
        return [f"({key}, {number}) {sign} ({value}, ?)"], [*last]

    def by(self, key: str, number: str) -> str:
        keys = [number] if self.column == "id" else [key, number]
        return "ORDER BY " + ", ".join(f"{key} {self.direction}" for key in keys)


@dataclass(frozen=True)
class _Wanted:
    """What a search asks for. labels: ids, the rarest first, with how many models bear each; the
    last is the one that all bear. match: the words as a query of trigrams, or None where they are
    too short and too common; `matching`: about how many models it finds at most. seen: the
    condition on `r` that a model may be seen, and its values."""

    labels: list[tuple[int, int]]
    words: list[str]
    match: str | None
    matching: int
    seen: tuple[str, list[str]]

    @property
    def everything(self) -> tuple[int, int]:
        return self.labels[-1]

    def tested(self, number: str, skip: int | None = None) -> tuple[str, list[str], list[Value]]:
        """The tables to join, and the conditions with their values, that say whether the
        repository `number` is wanted."""
        borne = f"EXISTS (SELECT 1 FROM tagged WHERE label = ? AND repo = {number})"
        labels = [label for label, _ in self.labels[:-1] if label != skip]
        where = [borne] * len(labels) + ["instr(x.text, ?) > 0"] * len(self.words)
        tables = f" CROSS JOIN texts x ON x.repo = {number}" if self.words else ""
        condition, names = self.seen
        if condition != "1":
            tables += f" CROSS JOIN repos r ON r.id = {number}"
            where.append(condition)
        return tables, where, [*labels, *self.words, *names]


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
    who: Identity = ANYBODY,
    cards: bool = True,
) -> tuple[list[Repo], str | None]:
    """A page of the repositories that meet every condition, and that `who` may see; and the cursor
    of the next page.

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
    shown = REPO.replace("c.tags", "json(c.tags)")  # as a list: to parse each anew takes longer
    if not cards:
        shown = shown.replace("c.card", "json('{}')")
    order = _Order(SORTS[sort], ascending, start, limit + 1, shown)
    with meta.reading() as db:
        wanted = _wanted(db, filter, author, words, access.seen(who))
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
    seen: tuple[str, list[str]],
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
    looked = [_grams(db, word) for word in words]
    parts = [part for part in looked if part is not None]
    if len(parts) < len(words):
        return None
    match, matching = _match(parts)
    return _Wanted(labels, words, match, min(matching, labels[-1][1]), seen)


Part = tuple[int, int, str]
"""A query of the trigrams' index: how long it takes, about how many models it finds, its text."""


def _match(words: list[list[Part]]) -> tuple[str | None, int]:
    """The query that finds all that have these words and few more, and about how many: the first
    two parts of each word, and the rarest of the others."""
    first = sorted(part for parts in words for part in parts[:2])
    rest = sorted(part for parts in words for part in parts[2:3])
    if not first:
        return None, 0
    taken = [part for part in (*first, *rest[:1]) if part[0] <= BALLAST * first[0][0]]
    return " AND ".join(query for *_, query in taken), min(models for _, models, _ in taken)


def _grams(db: sqlite3.Connection, word: str) -> list[Part] | None:
    """The parts of a word that the index of trigrams can look up: none if it is short and too
    many begin so; None if no model has it."""
    if len(word) >= 3:
        return _long(db, word)
    found = db.execute(
        "SELECT models, gram FROM grams WHERE gram >= ? AND gram < ? LIMIT ?",
        (word, f"{word}\U0010ffff", MOST_GRAMS + 1),
    ).fetchall()
    if not found:
        return None
    if len(found) > MOST_GRAMS:
        return []
    models = SAMPLE * (1 + sum(count for count, _ in found))
    query = " OR ".join(_quoted(gram) for _, gram in found)
    return [(len(found) * models, models, f"({query})")]


def _long(db: sqlite3.Connection, word: str) -> list[Part] | None:
    """The trigrams of a word: the rarest first; then the rarest of those that share no letter with
    it, which say something else; then those that share one at most with either; then the others."""
    grams = [word[place : place + 3] for place in range(len(word) - 2)]
    found = dict(
        db.execute(
            "SELECT gram, models FROM json_each(?) CROSS JOIN grams ON gram = value",
            (json.dumps(grams),),
        ).fetchall()
    )
    if not found.keys() >= {*grams}:
        return None
    taken: list[int] = []
    for apart in (0, 3, 2):
        taken += sorted(
            (at for at in range(len(grams)) if all(abs(at - one) >= apart for one in taken)),
            key=lambda at: found[grams[at]],
        )[:1]
    others = sorted(range(len(grams)), key=lambda at: found[grams[at]])
    places = [*dict.fromkeys([*taken, *others])]
    about = {grams[place]: SAMPLE * (1 + found[grams[place]]) for place in places}
    return [(models, models, _quoted(gram)) for gram, models in about.items()]


def _quoted(text: str) -> str:
    """Text as the query language of FTS5 takes it for nothing but text."""
    return '"' + text.replace('"', '""') + '"'


Rows = list[tuple[Value, list[Any]]]
"""Of each model the value that it is sorted by, and its row."""


def _page(db: sqlite3.Connection, wanted: _Wanted, order: _Order) -> Rows:
    """So many models from behind the order's start on, by the way that seems the shortest.

    If those that have the words are spread evenly, a page is full when so many of the rarest
    label's models were walked over; or when so many that have the words were found and sorted.
    """
    label, models = wanted.labels[0]
    if wanted.match is None:
        return _by_label(db, wanted, order, label, None)[0]
    _, everything = wanted.everything
    walked = min(models, order.limit * everything // max(1, wanted.matching))
    found = wanted.matching
    if order.column == "id":
        found = min(found, order.limit * everything // models)
    if found <= HASTE * walked:
        return _by_words(db, wanted, order)
    return _walk(db, wanted, order, walked)


def _walk(db: sqlite3.Connection, wanted: _Wanted, order: _Order, most: int) -> Rows:
    """Read off the rarest label's index as long as that seems shorter than looking up the words."""
    (label, models), (_, everything) = wanted.labels[0], wanted.everything
    rows, end = _by_label(db, wanted, order, label, most)
    looked = most
    while end is not None and len(rows) < order.limit:
        rest = replace(order, start=end, limit=order.limit - len(rows))
        left = min(models - looked, rest.limit * looked // max(1, len(rows))) + 1
        found = wanted.matching
        if looked > found // PATIENCE:
            found = min(found, HASTE * everything * (len(rows) + 1) // looked)
        if left > found:
            return rows + _by_words(db, wanted, rest)
        most = min(left, 2 * looked)
        more, end = _by_label(db, wanted, rest, label, most)
        rows, looked = rows + more, looked + most
    return rows


def _by_label(
    db: sqlite3.Connection, wanted: _Wanted, order: _Order, label: int, most: int | None
) -> tuple[Rows, tuple[Value, int] | None]:
    """Read off the label's index of that order, testing the rest on each; nothing is sorted.

    All of it, or the next so many; and the last that was looked at if there are more.
    """
    key, stored, last = f"t.{order.column}", _stored(order.column), None
    after, start = order.behind(key, "t.repo", stored)
    by = order.by(key, "t.repo")
    if most is not None:
        last = db.execute(
            f"SELECT r.{order.column}, r.id FROM (SELECT t.repo FROM tagged t"
            f" WHERE {_all(['t.label = ?', *after])} {by} LIMIT 1 OFFSET ?) p"
            " CROSS JOIN repos r ON r.id = p.repo",
            [label, *start, most],
        ).fetchone()
    if last is not None:
        until, end = order.to(key, "t.repo", last, stored)
        after, start = [*after, *until], [*start, *end]
    tables, where, values = wanted.tested("t.repo", skip=label)
    sql = f"SELECT t.repo FROM tagged t{tables} WHERE {_all(['t.label = ?', *after, *where])} {by}"
    return _rows(db, sql, [label, *start, *values], order), last


def _by_words(db: sqlite3.Connection, wanted: _Wanted, order: _Order) -> Rows:
    """What the index of words finds, sorted unless newest first is wanted; tested are only so many
    as the page takes."""
    key = "w.rowid" if order.column == "id" else f"r.{order.column}"
    after, start = order.behind(key, "w.rowid")
    tables, where, values = wanted.tested("f.repo")
    source = "words w" if order.column == "id" else "words w CROSS JOIN repos r ON r.id = w.rowid"
    found = (
        f"SELECT w.rowid AS repo FROM {source} WHERE {_all(['words MATCH ?', *after])}"
        f" {order.by(key, 'w.rowid')} LIMIT -1"  # without a limit the order would be lost
    )
    sql = f"SELECT f.repo FROM ({found}) f{tables} WHERE {_all(where)}"
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
