"""Files on their way out: whole, in part, not at all; by the letter of RFC 9110."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hubtool.hub.server import downloads
from hubtool.hub.server.run import Background

from .conftest import Repo, ask, file, large

TEXT = b"0123456789"


@pytest.fixture
def held(repo: Repo) -> Repo:
    """A repository with a small file, a large one and an empty one."""
    repo.upload(TEXT)
    assert repo.commit(file("t.txt", TEXT), large("w.bin", TEXT), file("empty", b"")).status == 200
    return repo


def test_the_headers_say_commit_name_and_length(held: Repo) -> None:
    git, sha256 = hashlib.sha1(b"blob 10\0" + TEXT).hexdigest(), hashlib.sha256(TEXT).hexdigest()
    small, big = held.get("t.txt"), held.get("w.bin")
    assert (small.body, big.body) == (TEXT, TEXT)
    assert (small.headers["ETag"], big.headers["ETag"]) == (f'"{git}"', f'"{sha256}"')
    assert "X-Linked-Etag" not in small.headers
    assert big.headers["X-Linked-Etag"] == f'"{sha256}"' and big.headers["X-Linked-Size"] == "10"
    for answer in (small, big):
        assert answer.headers["X-Repo-Commit"] == held.ask("GET", "").data["sha"]
        assert (answer.headers["Content-Length"], answer.headers["Accept-Ranges"]) == (
            "10",
            "bytes",
        )
        assert "Content-Encoding" not in answer.headers


def test_what_is_missing_says_at_which_commit(held: Repo) -> None:
    answer = held.get("none.txt")
    assert (answer.status, answer.headers["X-Error-Code"]) == (404, "EntryNotFound")
    assert answer.headers["X-Repo-Commit"] == held.ask("GET", "").data["sha"]
    assert held.get("t.txt/").headers["X-Error-Code"] == "EntryNotFound"


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-99", 206, TEXT, "bytes 0-9/10"),
        ("Bytes = 9-9", 206, b"9", "bytes 9-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=0-1,4-5", 200, TEXT, None),
        ("bytes=5-2", 200, TEXT, None),
        ("bytes=-", 200, TEXT, None),
        ("bytes=a-b", 200, TEXT, None),
        ("bytes=" + "9" * 5000 + "-", 200, TEXT, None),
        ("lines=1-2", 200, TEXT, None),
    ],
)
def test_a_range_is_honoured_refused_or_ignored(
    held: Repo, asked: str, status: int, body: bytes | None, content_range: str | None
) -> None:
    for name in ("t.txt", "w.bin"):
        answer = held.get(name, {"Range": asked})
        assert (answer.status, answer.headers["Content-Range"]) == (status, content_range)
        assert body is None or answer.body == body
    assert held.get("t.txt", {"Range": asked}, method="HEAD").status == 200


def test_a_range_of_an_empty_file_is_416(held: Repo) -> None:
    assert held.get("empty").body == b""
    assert held.get("empty", {"Range": "bytes=0-"}).headers["Content-Range"] == "bytes */0"


def test_a_range_of_another_content_is_answered_with_the_whole(held: Repo) -> None:
    etag = held.get("w.bin", method="HEAD").headers["ETag"]
    for condition, status in (
        (etag, 206),
        ('"other"', 200),
        (f"W/{etag}", 200),
        ("Sat, 1 Jan", 200),
    ):
        answer = held.get("w.bin", {"Range": "bytes=4-", "If-Range": condition})
        assert (answer.status, answer.body) == (status, TEXT[4:] if status == 206 else TEXT)


def test_what_the_client_has_is_not_sent(held: Repo) -> None:
    etag = held.get("t.txt", method="HEAD").headers["ETag"]
    for condition in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = held.get("t.txt", {"If-None-Match": condition})
        assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", etag)
    assert held.get("t.txt", {"If-None-Match": '"other"'}).status == 200
    assert held.get("t.txt", {"If-None-Match": "*", "Range": "bytes=99-"}).status == 304


def test_raw_gives_the_pointer_of_a_large_file(held: Repo) -> None:
    pointer = ask(held.url, "GET", f"/{held.name}/raw/main/w.bin")
    sha256 = hashlib.sha256(TEXT).hexdigest()
    lines = ["version https://git-lfs.github.com/spec/v1", f"oid sha256:{sha256}", "size 10", ""]
    assert pointer.body.decode() == "\n".join(lines)
    oid = hashlib.sha1(b"blob %d\0" % len(pointer.body) + pointer.body).hexdigest()
    assert pointer.headers["ETag"] == f'"{oid}"'
    assert ask(held.url, "GET", f"/{held.name}/raw/main/t.txt").body == TEXT


def test_no_file_becomes_a_page_of_the_hub(repo: Repo) -> None:
    name = 'a"b ü.html'
    assert repo.commit(file(name, "<script>")).status == 200
    answer = repo.get("a%22b%20%C3%BC.html")
    assert answer.body == b"<script>"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    said = answer.headers["Content-Disposition"]
    assert said == "inline; filename*=UTF-8''a%22b%20%C3%BC.html; filename=\"a_b _.html\";"


def test_a_download_is_counted_once_by_its_first_byte(tmp_path: Path) -> None:
    with Background(tmp_path) as url:
        one = Repo(url, "axon/m")
        one.commit(file("t.txt", TEXT))
        one.get("t.txt")
        one.get("t.txt", {"Range": "bytes=0-4"})
        one.get("t.txt", {"Range": "bytes=5-"})
        one.get("t.txt", method="HEAD")
        one.get("t.txt", {"If-None-Match": "*"})
    with Background(tmp_path) as url:
        assert ask(url, "GET", "/api/models/axon/m").data["downloads"] == 2


@pytest.mark.parametrize("cached", [True, False])
def test_a_file_of_many_chunks_arrives_as_it_was_sent(
    repo: Repo, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cached:  # as if all of it had to be waited for
        monkeypatch.setattr(downloads, "_in_memory", lambda stream, buffer, at: 0)
    content = os.urandom((5 << 20) + 7)
    repo.upload(content)
    repo.commit(large("w.bin", content))
    assert repo.get("w.bin").body == content
    assert repo.get("w.bin", {"Range": "bytes=1048575-3145729"}).body == content[1048575:3145730]


def test_a_reader_who_takes_all_at_once_leaves_others_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(10 * downloads.PIECE)
    (tmp_path / "w.bin").write_bytes(content)
    answer = object.__new__(downloads.FileAnswer)
    answer._path, answer._start, answer._stop = tmp_path / "w.bin", 0, len(content)
    monkeypatch.setattr(  # wherever the test's folder lies
        downloads, "_in_memory", lambda stream, buffer, at: os.preadv(stream.fileno(), [buffer], at)
    )
    events: list[Any] = []

    async def send(message: Any) -> None:
        events.append(message)

    async def other() -> None:
        while True:
            events.append(None)
            await asyncio.sleep(0)

    async def both() -> None:
        rest = asyncio.create_task(other())
        with (tmp_path / "w.bin").open("rb", buffering=0) as stream:
            await answer._send(stream, send, rest)
        rest.cancel()

    asyncio.run(both())
    assert b"".join(event.get("body", b"") for event in events if event) == content
    assert events.count(None) >= 10


def test_a_reader_that_goes_away_is_not_sent_the_rest_nor_counted(tmp_path: Path) -> None:
    content = os.urandom(32 << 20)
    with Background(tmp_path) as url:
        one = Repo(url, "axon/m")
        one.upload(content)
        one.commit(large("w.bin", content))
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request("GET", "/axon/m/resolve/main/w.bin")
        response = connection.getresponse()
        assert response.read(10) == content[:10]
        response.close()
        connection.close()
        assert one.get("w.bin").body == content
    with Background(tmp_path) as url:
        assert ask(url, "GET", "/api/models/axon/m").data["downloads"] == 1


def test_a_content_that_is_gone_or_cut_is_told_as_damage(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(TEXT).hexdigest()
    place = tmp_path / "blobs" / sha256[:2] / sha256[2:4] / sha256
    with Background(tmp_path) as url:
        one = Repo(url, "axon/m")
        one.commit(file("t.txt", TEXT))
        place.write_bytes(TEXT[:5])
        cut = one.get("t.txt")
        place.unlink()
        for answer in (cut, one.get("t.txt")):
            assert answer.status == 500 and "'t.txt' is not here" in answer.data["error"]
