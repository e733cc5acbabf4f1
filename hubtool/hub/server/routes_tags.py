"""The tags that there are, by what kind of thing each names: what a search form offers.

The kinds with a beginning of their own (`license:mit`) are ranges of the index of labels. Of a
plain tag only the cards know whether it is a task, a library or a language, so a few of the models
that bear it are asked. Of each kind the most used are told, and none that only private models bear.
A tag of which a thousand models are private before a public one comes is left out, so that the
whole costs no more on a hub of millions.
"""

from __future__ import annotations

import json
import sqlite3

from starlette.responses import Response

from hubtool.hub.server.meta import Meta
from hubtool.hub.server.routes import Call, answer

__all__ = ["by_type", "tags_by_type"]

KINDS = {
    "arxiv": "arxiv:",
    "base_model": "base_model:",
    "dataset": "dataset:",
    "license": "license:",
}
PLAIN = ("pipeline_tag", "library", "language", "other")
MOST = 500
"""Tags of one kind that are told; and of all plain tags together twice as many."""
LOOKED_AT = 1000
"""Models that are looked at, for one that is public;"""
ASKED = 5
"""and of the public ones so many are asked what kind of tag it is."""

Label = tuple[int, str]
"""A label's id, and its name."""
Bearer = tuple[str | None, str | None, str | None]
"""A model's task and library, and its language: a text, or a list of them as JSON."""


def tags_by_type(call: Call) -> Response:
    """GET /api/models-tags-by-type"""
    return answer(by_type(call.hub.meta))


def by_type(meta: Meta) -> dict[str, list[dict[str, str]]]:
    """Of each kind its tags, the most used first."""
    found: dict[str, list[dict[str, str]]] = {kind: [] for kind in (*KINDS, *PLAIN)}
    with meta.reading() as db:
        for kind, beginning in KINDS.items():
            end = f"{beginning[:-1]};"  # what follows on a colon
            for label, name in _labels(db, "name >= ? AND name < ?", [beginning, end], MOST):
                if _bearers(db, label, 1):
                    found[kind].append(_told(kind, name, name.removeprefix(beginning)))
        outside = " AND ".join(["NOT (name >= ? AND name < ?)"] * len(KINDS))
        ranges = [end for begin in KINDS.values() for end in (begin, f"{begin[:-1]};")]
        for label, name in _labels(db, outside, ranges, 2 * MOST):
            plain = _kind(name, _bearers(db, label, ASKED))
            if plain is not None and len(found[plain]) < MOST:
                found[plain].append(_told(plain, name, name))
    return found


def _labels(db: sqlite3.Connection, condition: str, values: list[str], most: int) -> list[Label]:
    """The tags that most models bear."""
    return db.execute(
        f"SELECT id, name FROM labels WHERE kind = 'tag' AND {condition}"
        " ORDER BY models DESC, name LIMIT ?",
        (*values, most),
    ).fetchall()


def _bearers(db: sqlite3.Connection, label: int, most: int) -> list[Bearer]:
    """Some of the public models that bear a label."""
    return db.execute(
        "SELECT c.pipeline_tag, c.library,"
        " CASE WHEN json_valid(c.card) THEN json_extract(c.card, '$.language') END"
        " FROM (SELECT repo FROM tagged WHERE label = ? LIMIT ?) t"
        " CROSS JOIN repos r ON r.id = t.repo AND r.private = 0"
        " CROSS JOIN cards c ON c.repo = r.id LIMIT ?",
        (label, LOOKED_AT, most),
    ).fetchall()


def _kind(name: str, bearers: list[Bearer]) -> str | None:
    """What a plain tag names, by the models that bear it; None where there are none."""
    if not bearers:
        return None
    tasks, libraries, languages = zip(*bearers, strict=True)
    if name in tasks:
        return "pipeline_tag"
    if name in libraries:
        return "library"
    return "language" if any(name in _texts(language) for language in languages) else "other"


def _texts(value: str | None) -> list[str]:
    """A card's text, or list of texts, as SQLite gives it."""
    if value is None or not value.startswith("["):
        return [] if value is None else [value]
    return [text for text in json.loads(value) if isinstance(text, str)]


def _told(kind: str, name: str, label: str) -> dict[str, str]:
    return {"id": name, "label": label, "type": kind}
