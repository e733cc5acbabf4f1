"""Xet over HTTP: who may send what, what is answered, and that no bytes make the hub fail."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubtool.hub.server import auth, routes_commits, routes_xet, xet_shard, xet_xorb
from hubtool.hub.server.run import Background

from .conftest import Answer, Repo, ask, large
from .servers import Served
from .xets import Made, MadeShard, Xorb, upload


class Sender:
    """What a client has that asked for a token: an address, and the token."""

    def __init__(self, repo: Repo, revision: str = "main") -> None:
        self.repo = repo
        self.answer = repo.ask("GET", f"/xet-write-token/{revision}")
        assert self.answer.status == 200, self.answer.body
        self.path = self.answer.data["casUrl"].removeprefix(repo.url)
        self.headers = {"Authorization": f"Bearer {self.answer.data['accessToken']}"}

    def post(self, rest: str, data: bytes, headers: dict[str, str] | None = None) -> Answer:
        headers = self.headers if headers is None else headers
        return ask(self.repo.url, "POST", f"{self.path}{rest}", data, headers)

    def xorb(self, xorb: Xorb, data: bytes | None = None) -> Answer:
        return self.post(f"/v1/xorbs/default/{xorb.name}", xorb.data if data is None else data)

    def shard(self, shard: MadeShard | bytes) -> Answer:
        return self.post("/v1/shards", shard if isinstance(shard, bytes) else shard.data)


@pytest.fixture
def sender(repo: Repo) -> Sender:
    return Sender(repo)


def test_chunks_and_a_shard_make_a_file_that_a_commit_names(repo: Repo, sender: Sender) -> None:
    xorb, shard = upload(seed=1)
    assert sender.xorb(xorb).data == {"was_inserted": True}
    assert sender.xorb(xorb).data == {"was_inserted": False}
    assert sender.shard(shard).data == {"result": 1}
    content = shard.files[0].data
    assert repo.offer(content) == {"oid": large("", content)[1]["oid"], "size": len(content)}
    assert repo.commit(large("w.bin", content)).status == 200
    got = repo.get("w.bin")
    assert got.body == content and "X-Xet-Hash" not in got.headers


def test_the_address_and_the_token_are_told_twice_and_for_an_hour(sender: Sender) -> None:
    told, headers = sender.answer.data, sender.answer.headers
    assert told["casUrl"] == headers["X-Xet-Cas-Url"]
    assert told["accessToken"] == headers["X-Xet-Access-Token"]
    assert str(told["exp"]) == headers["X-Xet-Token-Expiration"]
    assert abs(told["exp"] - auth.time.time() - auth.EXPIRES_IN) < 10
    assert headers["Cache-Control"] == "no-store"
    assert sender.path == Sender(sender.repo).path and sender.path.startswith("/xet/")


def test_a_token_is_given_for_what_is_there_only(repo: Repo) -> None:
    assert repo.ask("GET", "/xet-write-token/none").status == 404
    gone = ask(repo.url, "GET", "/api/models/axon/no-such/xet-write-token/main")
    assert gone.headers["X-Error-Code"] == "RepoNotFound"
    assert repo.ask("POST", "/branch/a%2Fb", {}).status == 200
    Sender(repo, "a%2Fb")


def test_a_stranger_gets_no_token(tmp_path: Path) -> None:
    with Background(tmp_path) as url:
        Repo(url, "axon/m")
    with Served(tmp_path, host="0.0.0.0") as served:
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        answer = ask(url, "GET", "/api/models/axon/m/xet-write-token/main")
        assert answer.status == 401
        for headers in ({}, {"Authorization": "Bearer hf_any"}):
            assert ask(url, "POST", f"/xet/{32 * '0'}-1/v1/shards", b"x", headers).status == 401


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer hf_any",
        "Bearer xet_",
        "Bearer xet_AAA",
        "Bearer xet_////8=",
    ],
)
def test_no_other_token_will_do(sender: Sender, given: str) -> None:
    xorb, shard = upload(seed=2)
    headers = {"Authorization": given} if given else {}
    for rest, data in ((f"/v1/xorbs/default/{xorb.name}", xorb.data), ("/v1/shards", shard.data)):
        answer = sender.post(rest, data, headers)
        assert answer.status == 401 and "ask xet-write-token" in answer.data["error"]


def reworded(token: str, old: str, new: str) -> str:
    text = base64.urlsafe_b64decode(token.removeprefix("xet_")).decode()
    assert old in text
    return "xet_" + base64.urlsafe_b64encode(text.replace(old, new).encode()).decode()


def test_a_token_is_good_for_its_repository_and_its_hour_only(
    url: str, repo: Repo, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Repo(url, "axon/another-for-xet")
    token = sender.answer.data["accessToken"]
    for old, new in ((repo.name, other.name), ("signature=", "signature=0"), ("size=0", "size=1")):
        headers = {"Authorization": f"Bearer {reworded(token, old, new)}"}
        assert sender.post("/v1/shards", b"x", headers).status == 401
    assert sender.shard(b"x").status == 400
    now = auth.time.time()
    monkeypatch.setattr(auth.time, "time", lambda: now + auth.EXPIRES_IN + 2)
    assert sender.shard(b"x").status == 401
    monkeypatch.undo()
    assert sender.shard(b"x").status == 400
    assert ask(url, "DELETE", "/api/repos/delete", {"name": repo.name}).status == 200
    assert sender.shard(b"x").status == 401
    Repo(url, repo.name)
    assert sender.shard(b"x").status == 401, "one of the same name is another"


def test_a_signature_for_an_upload_by_lfs_is_no_token(repo: Repo, sender: Sender) -> None:
    href = repo.offer(b"some object")["actions"]["upload"]["href"]
    claim = f"{repo.name}?{href.partition('?')[2]}".encode()
    headers = {"Authorization": f"Bearer xet_{base64.urlsafe_b64encode(claim).decode()}"}
    assert sender.post("/v1/shards", b"x", headers).status == 401


def test_the_address_of_another_store_is_not_known(tmp_path: Path, sender: Sender) -> None:
    xorb, _ = upload(seed=3)
    with Background(tmp_path) as url:
        other = Sender(Repo(url, "axon/m"))
        assert other.path != sender.path
    sender.path = other.path
    answer = sender.xorb(xorb)
    assert answer.status == 404 and "begin the upload again" in answer.data["error"]


def test_nothing_is_given_out(sender: Sender) -> None:
    xorb, shard = upload(seed=4)
    sender.xorb(xorb)
    sender.shard(shard)
    for method, rest in (
        ("GET", f"/v1/chunks/default/{xorb.name}"),
        ("GET", f"/v1/reconstructions/{xorb.name}"),
        ("POST", f"/v1/xorb-grants/default/{xorb.name}"),
        ("POST", "/v2/shards"),
        ("POST", f"/v1/xorbs/other/{xorb.name}"),
    ):
        path = f"{sender.path}{rest}"
        assert ask(sender.repo.url, method, path, headers=sender.headers).status == 404
    path = f"{sender.path}/v1/xorbs/default/{xorb.name}"
    assert ask(sender.repo.url, "GET", path, headers=sender.headers).status == 405


def test_what_is_damaged_is_400_and_what_is_too_long_413(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    xorb, shard = upload(seed=5)
    assert sender.post("/v1/xorbs/default/abc", xorb.data).status == 400
    assert sender.post(f"/v1/xorbs/default/{xorb.name.upper()}", xorb.data).status == 400
    for data in (b"", xorb.data[:-1], xorb.data[1:], b"\xff" * 100):
        assert sender.xorb(xorb, data).status == 400
    assert sender.shard(shard).status == 400, "the xorb is not here"
    for data in (b"", shard.data[:-1], b"\xff" * 100):
        assert sender.shard(data).status == 400
    assert sender.xorb(xorb).data == {"was_inserted": True}
    monkeypatch.setattr(xet_xorb, "LONGEST", 1000)
    monkeypatch.setattr(xet_shard, "LONGEST", 1000)
    assert sender.xorb(xorb).status == 413
    assert sender.shard(shard.data + bytes(1000)).status == 413
    chunked = iter([b"x" * 600, b"x" * 600])
    headers = {**sender.headers, "Content-Length": "1200"}
    assert ask(sender.repo.url, "POST", f"{sender.path}/v1/shards", chunked, headers).status == 413


@pytest.fixture(scope="module")
def lasting(url: str) -> Iterator[Sender]:
    sender = Sender(Repo(url, "axon/noise"))
    sender.xorb(upload(2000, seed=6)[0])
    yield sender


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3000), st.integers(0, 100))
def test_no_bytes_make_the_hub_fail(lasting: Sender, noise: bytes, at: int, gone: int) -> None:
    xorb, shard = upload(2000, seed=6)
    for good, rest in ((xorb.data, f"/v1/xorbs/default/{xorb.name}"), (shard.data, "/v1/shards")):
        for data in (noise, good[:at] + noise + good[at + gone :]):
            assert lasting.post(rest, data).status in (200, 400)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.binary(max_size=60))
def test_no_address_and_no_token_make_the_hub_fail(
    lasting: Sender, text: str, token: bytes
) -> None:
    coded = quote(text.encode(errors="replace"), safe="")
    for headers in (
        lasting.headers,
        {"Authorization": f"Bearer xet_{base64.urlsafe_b64encode(token).decode()}"},
    ):
        for path in (
            f"/xet/{coded}/v1/shards",
            f"/xet/{coded}/v1/xorbs/default/{coded}",
            f"{lasting.path}/v1/xorbs/default/{coded}",
        ):
            assert ask(lasting.repo.url, "POST", path, b"x", headers).status in (400, 401, 404)


def ways(repo: Repo, agent: str) -> list[str]:
    sizes = {"a.onnx": 10, "b.txt": 2_000_000, "c.txt": 10, "empty.onnx": 0}
    files = [{"path": path, "size": size} for path, size in sizes.items()]
    answer = repo.ask("POST", "/preupload/main", {"files": files}, {"User-Agent": agent})
    return [file["uploadMode"] for file in answer.data["files"]]


def test_large_files_go_apart_with_every_client_where_xet_is_spoken(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = ["lfs", "lfs", "regular", "regular"]
    assert ways(repo, "unknown/None; hf_hub/2.4.0") == apart == ways(repo, "hubtool/0.1")
    monkeypatch.setattr(routes_commits, "speaks_xet", lambda: False)
    assert ways(repo, "unknown/None; hf_hub/2.4.0") == ["regular"] * 4
    assert ways(repo, "hubtool/0.1") == apart


def test_without_the_packages_a_client_is_told_what_to_do(
    repo: Repo, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes_xet, "speaks_xet", lambda: False)
    for answer in (repo.ask("GET", "/xet-write-token/main"), sender.shard(b"x")):
        assert answer.status == 404 and "HF_HUB_DISABLE_XET=1" in answer.data["error"]


LACKING = """
import sys
sys.modules.update({name: None for name in sys.argv[1:]})
from hubtool.hub.server import app
from hubtool.hub.server.routes_xet import speaks_xet
decoders = {name for name in sys.modules if ".xet" in name or name == "blake3"}
print(speaks_xet(), sorted(decoders - {"hubtool.hub.server.xet_epochs"}))
"""


@pytest.mark.parametrize(
    ("lacking", "said"), [([], "True []"), (["lz4"], "False []"), (["blake3"], "False ['blake3']")]
)
def test_the_packages_are_asked_for_and_imported_on_demand(lacking: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LACKING, *lacking],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == said, done.stderr


def test_the_server_stays_small_while_xorbs_come_that_unpack_to_much_more(tmp_path: Path) -> None:
    chunk = bytes(131_072)
    bombs = [Xorb([chunk] * 400 + [bytes([number])]) for number in range(3)]
    with Served(tmp_path) as served:
        sender = Sender(Repo(served.url, "axon/m"))
        sender.shard(MadeShard([]))  # whatever is imported on demand
        before = served.peak_mb()
        for bomb in bombs:
            assert sender.xorb(bomb).status == 200
        file = Made([(bomb, 0, 401) for bomb in bombs])
        assert sender.shard(MadeShard([file], bombs)).status == 200
        assert served.peak_mb() < before + 40
