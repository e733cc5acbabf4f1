"""Starting and stopping: nothing is left behind, and several servers may share a folder."""

from __future__ import annotations

import gc
import http.client
import socket
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from urllib.parse import urlsplit

import pytest

from hubtool.errors import HubError, WriteError
from hubtool.hub.server import run
from hubtool.hub.server.run import Background, serve

from .conftest import Repo, ask, file, large
from .servers import Served


def test_a_background_hub_answers_at_once_and_leaves_no_thread_and_no_socket(
    tmp_path: Path,
) -> None:
    before = set(threading.enumerate())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Background(tmp_path / "new" / "folder") as url:
            assert ask(url, "GET", "/api/models").data == []
            assert set(threading.enumerate()) > before
        gc.collect()
    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        ask(url, "GET", "/api/models")


def test_stop_closes_a_connection_that_a_client_keeps_alive(tmp_path: Path) -> None:
    hub = Background(tmp_path)
    address = urlsplit(hub.start()).netloc
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", "/api/models")
    connection.getresponse().read()
    assert connection.sock is not None, "it is still open"
    stopping = threading.Thread(target=hub.stop)
    stopping.start()
    stopping.join(3)
    assert not stopping.is_alive()
    assert connection.sock.recv(1) == b""
    connection.close()
    hub.stop()


def test_stop_gives_up_an_answer_that_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "GRACE_S", 1)
    content = b"x" * (64 << 20)
    before = set(threading.enumerate())
    hub = Background(tmp_path)
    one = Repo(hub.start(), "axon/m")
    one.upload(content)
    one.commit(large("w.bin", content))
    with socket.create_connection(urlsplit(one.url).netloc.split(":"), timeout=30) as reader:
        reader.sendall(b"GET /axon/m/resolve/main/w.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert reader.recv(5) == b"HTTP/"
        stopping = threading.Thread(target=hub.stop)
        stopping.start()
        stopping.join(20)
        assert not stopping.is_alive()
    assert set(threading.enumerate()) == before


def test_a_hub_may_be_started_again_and_again(tmp_path: Path) -> None:
    for number in range(3):
        with Background(tmp_path) as url:
            assert len(ask(url, "GET", "/api/models").data) == number
            Repo(url, f"axon/m{number}")


def test_a_background_hub_that_cannot_open_its_folder_says_so(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file"):
        Background(tmp_path / "file").start()
    (tmp_path / "hub.db").write_text("this is no database, and long enough to be looked at" * 9)
    with pytest.raises(HubError, match=r"hub\.db"):
        Background(tmp_path).start()
    assert set(threading.enumerate()) == before


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with Background(tmp_path) as url:
        port = urlsplit(url).port or 0
        with pytest.raises(HubError, match=f"port {port} of 127.0.0.1 is taken"):
            serve(tmp_path, port=port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_this_machines_is_told(tmp_path: Path, host: str) -> None:
    with pytest.raises(HubError, match="cannot listen on"):
        serve(tmp_path, host=host, port=0)


def test_a_port_that_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="70000 is no port"):
        serve(tmp_path, port=70000)


@pytest.mark.parametrize("how", [SIGTERM, SIGINT])
def test_serve_ends_well_by_a_signal_and_logs_to_stderr(tmp_path: Path, how: Signals) -> None:
    with Served(tmp_path) as served:
        connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=30)
        connection.request("GET", "/api/models")
        assert connection.getresponse().read() == b"[]"
        code, out, err = served.end(how)
        connection.close()
    assert (code, out) == (0, "")
    assert "GET /api/models 200" in err and "Traceback" not in err


def test_serve_listens_on_the_sixth_version_of_loopback_too(tmp_path: Path) -> None:
    with Served(tmp_path, host="::1") as served:
        assert served.url.startswith("http://[::1]:")
        Repo(served.url, "axon/m")


def test_several_servers_over_one_folder_agree(tmp_path: Path) -> None:
    with Served(tmp_path) as first, Background(tmp_path) as second, Served(tmp_path) as third:
        urls = [first.url, second, third.url]
        Repo(urls[0], "axon/m")
        repos = [object.__new__(Repo) for _ in urls]
        for one, url in zip(repos, urls, strict=True):
            one.url, one.name = url, "axon/m"

        def publish(number: int) -> int:
            one = repos[number % 3]
            one.upload(b"%d" % number)
            return one.commit(large(f"{number}.bin", b"%d" % number)).status

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(publish, range(24))) == {200}
        lists = [{item["path"] for item in one.ask("GET", "/tree/main").data} for one in repos]
        assert (
            lists[0] == lists[1] == lists[2] == {".gitattributes", *(f"{n}.bin" for n in range(24))}
        )
        assert len(repos[1].ask("GET", "/commits/main").data) == 25
        href = repos[0].offer(b"signed by the first")["actions"]["upload"]["href"]
        path = href.removeprefix(urls[0])
        assert ask(urls[2], "PUT", path, b"signed by the first").status == 200


def test_of_many_commits_on_one_parent_one_wins(tmp_path: Path) -> None:
    with Served(tmp_path) as other, Background(tmp_path) as url:
        one = Repo(url, "axon/m")
        two = object.__new__(Repo)
        two.url, two.name = other.url, one.name
        parent = one.ask("GET", "").data["sha"]

        def race(number: int) -> int:
            repo = (one, two)[number % 2]
            return repo.commit(file("a.txt", str(number)), parentCommit=parent).status

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(race, range(8))) == [200] + [412] * 7


def test_a_server_killed_during_an_upload_leaves_nothing_that_stays(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        one = Repo(served.url, "axon/m")
        href = one.offer(b"x" * 1000)["actions"]["upload"]["href"].removeprefix(served.url)
        connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=30)
        connection.putrequest("PUT", href)
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"x" * 10)
        while not list((tmp_path / "tmp").iterdir()):
            assert one.ask("GET", "").status == 200
        served.process.kill()
        served.process.communicate(timeout=30)
        connection.close()
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    with Background(tmp_path) as url:
        assert list((tmp_path / "tmp").iterdir()) == []
        assert ask(url, "GET", "/api/models/axon/m").status == 200
