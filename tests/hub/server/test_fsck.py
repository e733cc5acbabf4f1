"""fsck finds what is wrong, names the file and who uses it, and finds nothing where nothing is."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hubtool.errors import HubError
from hubtool.hub.server.check import Checked, Problem, check
from hubtool.hub.server.meta import Repo

from .bodies import Hub, file, header

WEIGHTS = b"w" * 3_000_000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    """A model whose weights were others once; nothing but a commit tells of those."""
    repo = hub.meta.create("axon/m")
    hub.commit(repo, header(), file("weights", WEIGHTS), file("b", b"2"))
    hub.commit(repo, header(), file("weights", b"other"))
    return repo


def former(hub: Hub, repo: Repo) -> str:
    """The commit before the newest."""
    parent = hub.meta.resolve(repo, "main").parent
    assert parent is not None
    return parent


def place_of(hub: Hub, content: bytes) -> Path:
    return hub.keep(content).place


def told(found: Checked) -> list[str]:
    return [str(problem) for problem in found.problems]


def test_a_sound_hub_has_no_problems_and_is_counted(hub: Hub, repo: Repo) -> None:
    hub.keep(b"unnamed")
    seen: list[tuple[str, int, int]] = []
    found = check(hub.root, progress=lambda *told: seen.append(told))
    sizes = [path.stat().st_size for path in hub.store.blobs.rglob("?" * 64)]
    assert found == Checked(1, 3, 5, sum(sizes), 1, len(b"unnamed"))
    assert seen[-1] == ("contents", sum(sizes), sum(sizes)) and len(seen) == 5


def test_a_flipped_byte_is_told_with_its_file_and_every_user(hub: Hub, repo: Repo) -> None:
    other = hub.meta.create("axon/other")
    hub.commit(other, header(), file("copy", WEIGHTS))
    place = place_of(hub, WEIGHTS)
    with place.open("r+b") as stream:
        stream.seek(1_234_567)
        stream.write(b"W")
    (problem,) = check(hub.root).problems
    assert problem.place == str(place.relative_to(hub.root))
    assert "is damaged" in problem.told and "from a backup" in problem.told
    then = former(hub, repo)
    assert problem.models == [f"axon/m: weights at {then}", "axon/other: copy at main"]
    assert check(hub.root, quick=True).problems == []


def test_a_content_that_is_cut_or_missing_is_told_without_reading(hub: Hub, repo: Repo) -> None:
    cut, missing = place_of(hub, WEIGHTS), place_of(hub, b"2")
    os.truncate(cut, 17)
    missing.unlink()
    weights = f"axon/m: weights at {former(hub, repo)}"
    for quick in (True, False):
        found = {problem.place: problem for problem in check(hub.root, quick=quick).problems}
        assert set(found) == {str(path.relative_to(hub.root)) for path in (cut, missing)}
        assert found[str(cut.relative_to(hub.root))].models == [weights]
        assert "is missing" in found[str(missing.relative_to(hub.root))].told


def test_a_damaged_content_that_nobody_names_is_told_too(hub: Hub) -> None:
    place = place_of(hub, b"unnamed")
    place.write_bytes(b"unNamed")
    (problem,) = check(hub.root).problems
    assert problem.models == [] and problem.place == str(place.relative_to(hub.root))


def test_what_does_not_belong_below_blobs_is_told(hub: Hub, repo: Repo) -> None:
    good = place_of(hub, b"2")
    (hub.store.blobs / "note").write_text("hello")
    (good.parent / ("0" * 64)).write_bytes(b"2")
    assert sorted(problem.place for problem in check(hub.root).problems) == [
        str((good.parent / ("0" * 64)).relative_to(hub.root)),
        "blobs/note",
    ]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE refs SET oid = 'beef' WHERE name = 'main'", "branch main of 'axon/m' points to"),
        ("DELETE FROM refs", "branch main of 'axon/m' is missing"),
        ("DELETE FROM cards", "the card of 'axon/m' is missing"),
        ("DELETE FROM commits WHERE parent IS NULL", "has a parent that is not there"),
        ("DELETE FROM trees WHERE id = 1", "has no list of files"),
        ("UPDATE entries SET size = 3 WHERE path = 'b'", "is not what it was"),
        ("DELETE FROM entries WHERE path = 'b'", "is not what it was"),
        ("DELETE FROM repos", "belongs to no model"),
    ],
)
def test_a_history_that_does_not_hold_together_is_told(
    hub: Hub, repo: Repo, sql: str, said: str
) -> None:
    with closing(sqlite3.connect(hub.root / "hub.db")) as db:
        db.execute(sql)
        db.commit()
    assert any(said in text and "hub.db" in text for text in told(check(hub.root)))


def test_a_damaged_database_is_told(hub: Hub, repo: Repo) -> None:
    hub.meta.close()
    with closing(sqlite3.connect(hub.root / "hub.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray((hub.root / "hub.db").read_bytes())
    data[4096 * 2 :] = bytes(len(data) - 4096 * 2)
    (hub.root / "hub.db").write_bytes(data)
    found = told(check(hub.root))
    assert found and all(text.startswith("hub.db: ") and "reindex" in text for text in found[:1])


def test_a_damaged_line_of_the_journal_is_told(hub: Hub, repo: Repo) -> None:
    path = hub.root / "hub.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"axon", b"axom")
    path.write_bytes(b"".join(lines))
    assert told(check(hub.root))[0].startswith("hub.journal: line 3 is damaged")


WRITER = """
import sys
from pathlib import Path
from hubtool.hub.server.store import Store
with Store(Path(sys.argv[1])).writer() as writer:
    writer.write(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_dead_writer_left_is_listed_and_what_a_living_one_writes_is_not(
    hub: Hub, repo: Repo
) -> None:
    arguments = [sys.executable, "-c", WRITER, str(hub.root)]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        (held,) = hub.temporaries()
        assert check(hub.root) == check(hub.root) and check(hub.root).strays == []
        process.kill()
    found = check(hub.root)
    assert (found.strays, found.problems) == ([f"tmp/{held}"], [])


def test_where_there_is_no_hub_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="there is no hub"):
        check(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_problem_says_at_most_so_many_users() -> None:
    problem = Problem("blobs/x", "is missing", [f"a/{number}: f" for number in range(25)])
    assert str(problem).endswith("a/19: f and 5 more")
