"""The tables that searches read, and what keeps them true: labels, orders, words.

A *label* is a tag, an author, or the one that all models bear. `tagged` says which models bear it,
with the values that lists are sorted by beside them and an index for each order: a page of a label
that a million models bear is read off an index, and nothing is sorted. `texts` holds what free text
is looked for in: the name, the titles and the tags, folded. `words` is the index of its trigrams,
without positions; `grams` the trigrams that there ever were, by which one or two letters are found,
each with how many of a sixteenth of the models have it: enough to tell the rare from the common,
and what a commit writes for it is little.

What can follow from `repos` alone follows by trigger (counts, dates, another name or author), so
that no writer can forget it. Tags and titles come from the card: `put_labels` and `put_text`.
"""

from __future__ import annotations

import json
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = [
    "SAMPLE",
    "SCHEMA",
    "bring_up",
    "count_grams",
    "fill",
    "fold",
    "forget",
    "milliseconds",
    "put_labels",
    "put_text",
]

LONGEST_TEXT = 10_000
AT_ONCE = 1000
MOST_GRAMS = 1_000_000
"""Trigrams that are counted in memory while tables are filled, before the table takes them."""
TITLES = ("title", "model_name", "pretty_name")
UNSEARCHED = ("license:", "arxiv:")


def milliseconds(date: str) -> str:
    """SQL: a date as the Hub writes it, in milliseconds since 1970; six bytes instead of 24."""
    return (
        f"CAST(round((coalesce(julianday({date}), 2440587.5) - 2440587.5) * 86400000) AS INTEGER)"
    )


ORDERS = ("created", "modified", "downloads", "likes")
INDEXES = "\n".join(
    f"CREATE INDEX IF NOT EXISTS tagged_{order} ON tagged(label, {order});" for order in ORDERS
)
BORNE = "SELECT l.id, r.id, {}, {}, r.downloads, r.likes FROM repos r, labels l".format(
    milliseconds("r.created"), milliseconds("r.modified")
)
LABELS_OF_NEW = """(
    SELECT l.id FROM cards c, json_each(c.tags) e, labels l
    WHERE c.repo = new.id AND l.kind = 'tag' AND l.name = e.value
    UNION ALL SELECT id FROM labels
    WHERE kind = 'author' AND name = new.author OR kind = 'all' AND name = '')"""
ALL_OF_NEW = f"""
    INSERT INTO labels(kind, name) SELECT 'all', ''
    WHERE NOT EXISTS (SELECT 1 FROM labels WHERE kind = 'all' AND name = '');
    INSERT INTO tagged {BORNE} WHERE r.id = new.id AND l.kind = 'all' AND l.name = '';"""
AUTHOR_OF_NEW = f"""
    INSERT INTO labels(kind, name) SELECT 'author', new.author WHERE new.author <> ''
    AND NOT EXISTS (SELECT 1 FROM labels WHERE kind = 'author' AND name = new.author);
    INSERT INTO tagged {BORNE}
    WHERE r.id = new.id AND l.kind = 'author' AND l.name = new.author;"""
ALL_OF_OLD, AUTHOR_OF_OLD = (
    f"""
    DELETE FROM tagged WHERE repo = old.id
    AND label = (SELECT id FROM labels WHERE kind = '{kind}' AND name = {name});"""
    for kind, name in (("all", "''"), ("author", "old.author"))
)
SAMPLE = 16
COUNTED = f"{{}} * 2654435769 >> 28 & {SAMPLE - 1} = 0"
"""SQL: whether an id is one of those in `SAMPLE`, by the golden ratio, as ids may have a rhythm."""

GRAMS = """CREATE TABLE IF NOT EXISTS grams(
    gram TEXT PRIMARY KEY,
    models INTEGER NOT NULL) WITHOUT ROWID;
"""
PLACES = "FROM (SELECT place FROM places LIMIT length({0}.text) - 2)"
COUNT = f"""
    UPDATE grams SET models = models {{1}} 1 WHERE {COUNTED.format("{0}.repo")}
    AND gram IN (SELECT substr({{0}}.text, place, 3) {PLACES});"""
OLD_TEXT = f"""
    INSERT INTO words(words, rowid, text) VALUES ('delete', old.repo, old.text);
    {COUNT.format("old", "-")}"""
NEW_TEXT = f"""
    INSERT INTO words(rowid, text) VALUES (new.repo, new.text);
    INSERT INTO grams SELECT DISTINCT substr(new.text, place, 3) AS found, 0
    {PLACES.format("new")} WHERE NOT EXISTS (SELECT 1 FROM grams WHERE gram = found);
    {COUNT.format("new", "+")}"""
"""(Not INSERT OR IGNORE: what a writer says of conflicts would hold in here too.)"""
TEXT_TRIGGERS = f"""
CREATE TRIGGER IF NOT EXISTS texts_come AFTER INSERT ON texts BEGIN {NEW_TEXT}
END;
CREATE TRIGGER IF NOT EXISTS texts_go AFTER DELETE ON texts BEGIN {OLD_TEXT}
END;
CREATE TRIGGER IF NOT EXISTS texts_change AFTER UPDATE ON texts WHEN new.text <> old.text
BEGIN {OLD_TEXT} {NEW_TEXT}
END;
"""

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS labels(
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    models INTEGER NOT NULL DEFAULT 0,
    UNIQUE (kind, name));
CREATE INDEX IF NOT EXISTS labels_models ON labels(kind, name, models);
CREATE TABLE IF NOT EXISTS tagged(
    label INTEGER NOT NULL,
    repo INTEGER NOT NULL,
    created INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    downloads INTEGER NOT NULL,
    likes INTEGER NOT NULL,
    PRIMARY KEY (label, repo)) WITHOUT ROWID;
{INDEXES}
CREATE TRIGGER IF NOT EXISTS tagged_more AFTER INSERT ON tagged BEGIN
    UPDATE labels SET models = models + 1 WHERE id = new.label;
END;
CREATE TRIGGER IF NOT EXISTS tagged_fewer AFTER DELETE ON tagged BEGIN
    UPDATE labels SET models = models - 1 WHERE id = old.label;
    DELETE FROM labels WHERE id = old.label AND models = 0;
END;
CREATE TRIGGER IF NOT EXISTS repos_come AFTER INSERT ON repos BEGIN {ALL_OF_NEW} {AUTHOR_OF_NEW}
END;
CREATE TRIGGER IF NOT EXISTS repos_go AFTER DELETE ON repos BEGIN {ALL_OF_OLD} {AUTHOR_OF_OLD}
    DELETE FROM texts WHERE repo = old.id;
END;
CREATE TRIGGER IF NOT EXISTS repos_move AFTER UPDATE OF author ON repos
WHEN new.author <> old.author BEGIN {AUTHOR_OF_OLD} {AUTHOR_OF_NEW}
END;
CREATE TRIGGER IF NOT EXISTS repos_rename AFTER UPDATE OF name ON repos BEGIN
    UPDATE texts SET text = lower(new.name) || substr(text, instr(text, char(10)))
    WHERE repo = new.id;
END;
CREATE TRIGGER IF NOT EXISTS repos_change AFTER UPDATE OF modified ON repos BEGIN
    UPDATE tagged SET modified = {milliseconds("new.modified")}
    WHERE repo = new.id AND label IN {LABELS_OF_NEW};
END;
CREATE TRIGGER IF NOT EXISTS repos_download AFTER UPDATE OF downloads ON repos BEGIN
    UPDATE tagged SET downloads = new.downloads WHERE repo = new.id AND label IN {LABELS_OF_NEW};
END;
CREATE TRIGGER IF NOT EXISTS repos_like AFTER UPDATE OF likes ON repos BEGIN
    UPDATE tagged SET likes = new.likes WHERE repo = new.id AND label IN {LABELS_OF_NEW};
END;

CREATE TABLE IF NOT EXISTS texts(
    repo INTEGER PRIMARY KEY,
    text TEXT NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    text, content='texts', content_rowid='repo', detail='none', columnsize=0,
    tokenize='trigram case_sensitive 1');
{GRAMS}CREATE VIEW IF NOT EXISTS places AS
    WITH RECURSIVE p(place) AS (SELECT 1 UNION ALL SELECT place + 1 FROM p)
    SELECT place FROM p LIMIT {LONGEST_TEXT + 200};
{TEXT_TRIGGERS}"""


def fold(text: str) -> str:
    """Text as it is compared: without case, in one spelling of each letter, without NUL."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", plain).replace("\0", " ")


def put_labels(db: sqlite3.Connection, repo: int, former: list[str], tags: list[str]) -> None:
    """Let a repository that bore the former tags bear these; the rest keeps its place."""
    db.execute(
        "DELETE FROM tagged WHERE repo = ? AND label IN (SELECT l.id FROM json_each(?) e, labels l"
        " WHERE l.kind = 'tag' AND l.name = e.value)",
        (repo, json.dumps([tag for tag in former if tag not in tags])),
    )
    new = [tag for tag in tags if tag not in former]
    db.executemany(
        "INSERT OR IGNORE INTO labels(kind, name) VALUES ('tag', ?)", [(tag,) for tag in new]
    )
    db.executemany(
        f"INSERT INTO tagged {BORNE} WHERE r.id = ? AND l.kind = 'tag' AND l.name = ?",
        [(repo, tag) for tag in new],
    )


def put_text(
    db: sqlite3.Connection, repo: int, name: str, tags: list[str], card: dict[str, Any]
) -> None:
    """Let a repository be found by the words of its name, titles and tags."""
    text = text_of(name, tags, card)
    if not db.execute("UPDATE texts SET text = ? WHERE repo = ?", (text, repo)).rowcount:
        db.execute("INSERT INTO texts VALUES (?, ?)", (repo, text))


def text_of(name: str, tags: list[str], card: dict[str, Any]) -> str:
    """What words are looked for in: the name in the first line, then title and tags.

    It ends in two line breaks, so that its last letter too begins a trigram.
    """
    shown = [tag for tag in tags if not tag.startswith(UNSEARCHED)]
    rest = "\n".join([*_titles(card), *shown])[:LONGEST_TEXT]
    return f"{name.lower()}\n{fold(rest)[:LONGEST_TEXT]}\n\n"


def _titles(card: dict[str, Any]) -> Iterator[str]:
    """The names that a card gives to its model."""
    indexed = card.get("model-index")
    models = indexed if isinstance(indexed, list) else []
    named = [model.get("name") for model in models if isinstance(model, dict)]
    for title in (*map(card.get, TITLES), *named):
        if isinstance(title, str):
            yield title


def forget(db: sqlite3.Connection, repo: int, tags: Iterable[str]) -> None:
    """Remove a repository's labels; its text and its author go with its row."""
    put_labels(db, repo, [*tags], [])


def bring_up(db: sqlite3.Connection) -> None:
    """Fill the tables of a hub of schema 1, which had `tags` and `names` instead."""
    fill(db)
    for former in ("TABLE tags", "TABLE names"):
        db.execute(f"DROP {former}")
    for former in ("author", *ORDERS):
        db.execute(f"DROP INDEX repos_{former}")


def fill(db: sqlite3.Connection) -> None:
    """Make what searches go by from repositories and cards; the tables are empty before.

    Millions of rows are sorted and written in their order, without triggers and with the indexes
    made at the end: one by one they would take a day.
    """
    later = db.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND"
        " (type = 'trigger' AND tbl_name IN ('tagged', 'texts') OR type = 'index'"
        " AND tbl_name = 'tagged')"
    ).fetchall()
    for kind, name, _ in later:
        db.execute(f"DROP {kind} {name}")
    _fill_labels(db)
    _fill_texts(db)
    for _, _, sql in later:
        db.execute(sql)


def _fill_labels(db: sqlite3.Connection) -> None:
    db.execute(
        "INSERT INTO labels(kind, name) SELECT 'all', '' FROM repos"
        " UNION SELECT 'author', author FROM repos WHERE author <> ''"
        " UNION SELECT 'tag', e.value FROM cards c, json_each(c.tags) e"
    )
    db.execute(
        "INSERT INTO tagged WITH borne(label, repo) AS ("
        " SELECT l.id, r.id FROM repos r CROSS JOIN labels l ON l.kind = 'all' AND l.name = ''"
        " UNION ALL SELECT l.id, r.id FROM repos r"
        " CROSS JOIN labels l ON l.kind = 'author' AND l.name = r.author"
        " UNION ALL SELECT l.id, c.repo FROM cards c CROSS JOIN json_each(c.tags) e"
        " CROSS JOIN labels l ON l.kind = 'tag' AND l.name = e.value)"
        f" SELECT b.label, r.id, {milliseconds('r.created')}, {milliseconds('r.modified')},"
        " r.downloads, r.likes FROM borne b CROSS JOIN repos r ON r.id = b.repo"
        " ORDER BY b.label, r.id"
    )
    db.execute("UPDATE labels SET models = (SELECT count(*) FROM tagged WHERE label = id)")


def _fill_texts(db: sqlite3.Connection) -> None:
    counts: Counter[str] = Counter()
    last = 0
    while rows := db.execute(
        "SELECT r.id, r.name, c.tags, c.card FROM repos r JOIN cards c ON c.repo = r.id"
        f" WHERE r.id > ? ORDER BY r.id LIMIT {AT_ONCE}",
        (last,),
    ).fetchall():
        texts = [
            (number, text_of(name, json.loads(tags), json.loads(card)))
            for number, name, tags, card in rows
        ]
        db.executemany("INSERT INTO texts VALUES (?, ?)", texts)
        _count(db, counts, texts)
        last = texts[-1][0]
    _put_grams(db, counts)
    db.execute("INSERT INTO words(words) VALUES ('rebuild')")


def _count(db: sqlite3.Connection, counts: Counter[str], texts: list[tuple[int, str]]) -> None:
    """Add the trigrams of texts; where they are too many, the table takes them."""
    found: set[str] = set()
    for number, text in texts:
        grams = {text[place : place + 3] for place in range(len(text) - 2)}
        found |= grams
        if number * 2654435769 >> 28 & SAMPLE - 1 == 0:  # as COUNTED
            counts.update(grams)
    counts.update(dict.fromkeys(found - counts.keys(), 0))
    if len(counts) > MOST_GRAMS:
        _put_grams(db, counts)


def _put_grams(db: sqlite3.Connection, counts: Counter[str]) -> None:
    db.executemany(
        "INSERT INTO grams VALUES (?, ?)"
        " ON CONFLICT (gram) DO UPDATE SET models = models + excluded.models",
        sorted(counts.items()),
    )
    counts.clear()


def count_grams(db: sqlite3.Connection) -> None:
    """Count what a hub of schema 2 had not counted."""
    counts = Counter({gram: 0 for (gram,) in db.execute("SELECT gram FROM grams")})
    for (text,) in db.execute(f"SELECT text FROM texts WHERE {COUNTED.format('repo')}"):
        counts.update({text[place : place + 3] for place in range(len(text) - 2)})
    for former in ("TRIGGER texts_come", "TRIGGER texts_go", "TRIGGER texts_change", "TABLE grams"):
        db.execute(f"DROP {former}")
    db.execute(GRAMS)
    for trigger in TEXT_TRIGGERS.split("END;")[:-1]:
        db.execute(f"{trigger}END")
    _put_grams(db, counts)
