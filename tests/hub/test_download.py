"""Files come whole and checked or not at all, and what was interrupted goes on."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hubtool.errors import HubError
from hubtool.hub import download
from hubtool.hub.address import Hub
from hubtool.hub.download import Remote, digest, fetch
from hubtool.hub.session import UnreachableError, connect

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Wire:
    """A hub that answers one file, as well or as badly as it is told."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag = '"one"'
        self.stop_after: int | None = None
        self.stall = threading.Event()
        self.statuses: list[int] = []
        self.asked: list[tuple[str | None, str | None]] = []
        self.sent = 0
        wire = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wire.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        wanted, condition = to.headers["Range"], to.headers["If-Range"]
        self.asked.append((wanted, condition))
        if self.statuses:
            to.send_response(self.statuses.pop(0))
            to.send_header("Content-Length", "0")
            to.end_headers()
            return
        start = 0
        if wanted and condition == self.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            to.send_response(206)
            whole = len(self.content)
            to.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        else:
            to.send_response(200)
        body = self.content[start:]
        to.send_header("Content-Length", str(len(body)))
        to.send_header("ETag", self.etag)
        to.end_headers()
        if self.stop_after is not None:
            body, self.stop_after = body[: self.stop_after], None
            to.close_connection = True
        to.wfile.write(body)
        self.sent += len(body)
        if len(body) < len(self.content) - start and not self.stall.is_set():
            to.wfile.flush()
            self.stall.wait(30)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    made = Wire()
    made.stall.set()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.stall.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def remote(**other: object) -> Remote:
    facts = {"name": "a/b", "commit": "c0ffee", "path": "x/model.bin", "size": len(CONTENT)}
    return Remote(**{**facts, "hash": SHA256, **other})  # type: ignore[arg-type]


def get(wire: Wire, blobs: Path, file: Remote | None = None) -> Path:
    with connect(Hub(url=wire.url, folder=None, key="k"), "fetch a/b") as connection:
        return fetch(connection, file or remote(), blobs)


def left(blobs: Path) -> list[str]:
    return sorted(path.name for path in blobs.iterdir())


def test_a_file_comes_whole_and_is_kept_under_its_hash(wire: Wire, tmp_path: Path) -> None:
    blob = get(wire, tmp_path / "blobs")
    assert blob.read_bytes() == CONTENT
    assert blob.stat().st_mode & 0o777 == 0o444
    assert left(tmp_path / "blobs") == [SHA256]


def test_what_is_there_is_not_fetched_again(wire: Wire, tmp_path: Path) -> None:
    get(wire, tmp_path)
    get(wire, tmp_path)
    assert len(wire.asked) == 1


def test_a_connection_that_breaks_is_taken_up_where_it_stopped(wire: Wire, tmp_path: Path) -> None:
    wire.stop_after = 400_000
    assert get(wire, tmp_path).read_bytes() == CONTENT
    assert wire.asked == [(None, None), ("bytes=400000-", '"one"')]
    assert wire.sent == len(CONTENT)


def test_a_process_that_is_killed_leaves_what_another_goes_on_with(
    wire: Wire, tmp_path: Path
) -> None:
    wire.stop_after = 600_000
    wire.stall.clear()
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from hubtool.hub.address import Hub\n"
        "from hubtool.hub.download import Remote, fetch\n"
        "from hubtool.hub.session import connect\n"
        "url, blobs, size, sha256 = sys.argv[1:]\n"
        "file = Remote('a/b', 'c0ffee', 'x/model.bin', int(size), sha256)\n"
        "with connect(Hub(url=url, folder=None, key='k'), 'fetch') as connection:\n"
        "    fetch(connection, file, Path(blobs),\n"
        "          lambda path, done, total: print(done, flush=True))\n"
    )
    arguments = [wire.url, str(tmp_path), str(len(CONTENT)), SHA256]
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 600_000:
                break
        process.kill()
    wire.stall.set()
    assert left(tmp_path) == [f"{SHA256}.etag", f"{SHA256}.part"]
    there = (tmp_path / f"{SHA256}.part").stat().st_size
    assert 0 < there <= 600_000
    assert get(wire, tmp_path).read_bytes() == CONTENT
    assert wire.asked == [(None, None), (f"bytes={there}-", '"one"')]
    assert left(tmp_path) == [SHA256]


def test_a_file_that_changed_in_between_begins_anew(wire: Wire, tmp_path: Path) -> None:
    wire.stop_after = 400_000
    wire.statuses = []
    with pytest.MonkeyPatch.context() as once:
        once.setattr(download, "ATTEMPTS", 1)
        with pytest.raises(HubError):
            get(wire, tmp_path)
    wire.etag = '"two"'
    assert get(wire, tmp_path).read_bytes() == CONTENT
    assert wire.asked[-1] == ("bytes=400000-", '"one"')


def test_a_flipped_byte_is_named_and_nothing_of_it_is_kept(wire: Wire, tmp_path: Path) -> None:
    wire.content = CONTENT[:-1] + b"?"
    with pytest.raises(HubError, match=r"x/model\.bin of a/b came damaged.*sha256") as refused:
        get(wire, tmp_path)
    assert SHA256 in str(refused.value)
    assert left(tmp_path) == []


def test_more_bytes_than_announced_are_refused(wire: Wire, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="more than the 1,000 bytes"):
        get(wire, tmp_path, remote(size=1000))
    assert SHA256 not in left(tmp_path)


def test_small_files_are_checked_by_the_hash_that_git_gives_them(
    wire: Wire, tmp_path: Path
) -> None:
    wire.content = b"hello\n"
    known = "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    (tmp_path / "file").write_bytes(b"hello\n")
    assert digest(tmp_path / "file", like=known) == known
    small = remote(size=6, hash=known)
    assert get(wire, tmp_path / "blobs", small).read_bytes() == b"hello\n"
    wire.content = b"hellO\n"
    with pytest.raises(HubError, match="git's sha1"):
        get(wire, tmp_path / "others", small)


def test_an_empty_file_is_a_file(wire: Wire, tmp_path: Path) -> None:
    empty = remote(size=0, hash=hashlib.sha256(b"").hexdigest())
    assert get(wire, tmp_path, empty).read_bytes() == b""


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_busy_is_asked_again(wire: Wire, tmp_path: Path, status: int) -> None:
    wire.statuses = [status, status]
    assert get(wire, tmp_path).read_bytes() == CONTENT
    assert len(wire.asked) == 3


def test_a_hub_that_stays_broken_is_given_up_with_its_status(wire: Wire, tmp_path: Path) -> None:
    wire.statuses = [500] * download.ATTEMPTS
    with pytest.raises(HubError, match=r"cannot fetch a/b at .*status 500"):
        get(wire, tmp_path)


def test_a_hub_that_is_not_there_is_named(wire: Wire, tmp_path: Path) -> None:
    wire.server.shutdown()
    wire.server.server_close()
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:\d+ cannot be reached"):
        get(wire, tmp_path)


def test_two_at_once_fetch_it_once(wire: Wire, tmp_path: Path) -> None:
    with connect(Hub(url=wire.url, folder=None, key="k"), "fetch a/b") as connection:
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(fetch, connection, remote(), tmp_path) for _ in range(8)]
        assert {each.result() for each in waiting} == {tmp_path / SHA256}
    assert len(wire.asked) == 1


def test_progress_ends_with_the_whole(wire: Wire, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with connect(Hub(url=wire.url, folder=None, key="k"), "fetch a/b") as connection:
        fetch(connection, remote(), tmp_path, lambda *now: told.append(now))
    assert told[-1] == ("x/model.bin", len(CONTENT), len(CONTENT))
    assert [now[1] for now in told] == sorted(now[1] for now in told)
