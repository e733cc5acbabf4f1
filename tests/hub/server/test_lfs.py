"""Large files over Git LFS: what is offered, what is refused while it flows, what it costs."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hubtool.hub.server import auth

from .conftest import Answer, Repo, ask, large
from .servers import Served

CONTENT = b"weights" * 1000


def put(repo: Repo, announced: bytes, sent: bytes) -> Answer:
    href = repo.offer(announced)["actions"]["upload"]["href"]
    return ask(repo.url, "PUT", href.removeprefix(repo.url), sent)


def test_an_object_goes_up_once_and_comes_down_by_name_and_by_hash(repo: Repo) -> None:
    content = CONTENT + repo.name.encode()
    offer = repo.offer(content)["actions"]
    assert put(repo, content, content).status == 200
    oid = large("", content)[1]["oid"]
    told = {"oid": oid, "size": len(content)}
    verify = offer["verify"]["href"].removeprefix(repo.url)
    assert ask(repo.url, "POST", verify, told).status == 200
    assert ask(repo.url, "POST", verify, {**told, "size": 1}).status == 422
    assert repo.offer(content) == told, "what is here needs no upload"
    assert repo.commit(large("w.bin", content)).status == 200
    assert repo.get("w.bin").body == content
    href = repo.offer(content, "download")["actions"]["download"]["href"]
    assert ask(repo.url, "GET", href.removeprefix(repo.url)).body == content


def test_an_object_of_another_repository_is_not_offered_for_download(url: str, repo: Repo) -> None:
    other = Repo(url, "axon/owner-of-the-object")
    other.upload(b"mine")
    other.commit(large("w.bin", b"mine"))
    assert repo.offer(b"mine", "download")["error"]["code"] == 404


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"x" * 999, 400), (b"x" * 1001, 413), (b"y" * 1000, 400), (b"", 400)],
    ids=["too short", "too long", "another sha256", "nothing"],
)
def test_other_bytes_than_announced_are_refused_and_leave_nothing(
    repo: Repo, sent: bytes, status: int
) -> None:
    announced = b"x" * 1000
    assert put(repo, announced, sent).status == status
    assert "actions" in repo.offer(announced), "it is still wanted"


def test_a_body_without_a_length_is_stopped_where_it_grows_too_long(repo: Repo) -> None:
    href = repo.offer(b"z" * 1000)["actions"]["upload"]["href"].removeprefix(repo.url)
    connection = http.client.HTTPConnection(urlsplit(repo.url).netloc, timeout=30)
    connection.request("PUT", href, iter([b"z" * 600, b"z" * 600]), encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413 and response.read()
    connection.close()


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    from hubtool.hub.server.run import Background

    with Background(tmp_path) as url:
        one = Repo(url, "axon/m")
        href = one.offer(CONTENT)["actions"]["upload"]["href"].removeprefix(url)
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.putrequest("PUT", href)
        connection.putheader("Content-Length", str(len(CONTENT)))
        connection.endheaders(CONTENT[:100])
        connection.close()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert "actions" in _reoffered(tmp_path)


def _reoffered(root: Path) -> dict[str, object]:
    from hubtool.hub.server.run import Background

    with Background(root) as url:
        data = {
            "operation": "upload",
            "objects": [{"oid": large("", CONTENT)[1]["oid"], "size": 7000}],
        }
        return ask(url, "POST", "/axon/m.git/info/lfs/objects/batch", data).data["objects"][0]


def test_an_address_is_good_for_its_method_object_size_and_hour_only(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repo.offer(CONTENT + b"!")["actions"]["upload"]["href"].removeprefix(repo.url)
    bare, _, query = path.partition("?")
    oid = bare.rpartition("/")[2]
    forged = [
        path.replace("signature=", "signature=0"),
        path.replace("size=7001", "size=7002"),
        path.replace(oid, "0" * 64),
        path.replace("expires=", "expires=9"),
        path.partition("&signature")[0],
        bare,
        f"{bare}?size=x&expires=y&signature=z",
        f"{bare}?{query.partition('signature')[0]}signature=%E2%98%83",
    ]
    for address in forged:
        assert ask(repo.url, "PUT", address, CONTENT + b"!").status == 403, address
    assert ask(repo.url, "GET", path).status == 403, "it is for PUT"
    now = auth.time.time()
    monkeypatch.setattr(auth.time, "time", lambda: now + auth.EXPIRES_IN + 2)
    late = ask(repo.url, "PUT", path, CONTENT + b"!")
    assert late.status == 403 and "expired" in late.data["error"]
    monkeypatch.undo()
    assert ask(repo.url, "PUT", path, CONTENT + b"!").status == 200


@pytest.mark.parametrize(
    "data",
    [
        {"operation": "lock", "objects": []},
        {"operation": "upload"},
        {"operation": "upload", "objects": [1]},
        {"operation": "upload", "objects": [{"oid": "../../etc", "size": 1}]},
        {"operation": "upload", "objects": [{"oid": "a" * 64, "size": -1}]},
        {"operation": "upload", "objects": [{"oid": "a" * 64, "size": 10**30}]},
        {"operation": "upload", "objects": [], "hash_algo": "md5"},
    ],
)
def test_a_batch_that_makes_no_sense_is_400(repo: Repo, data: dict[str, object]) -> None:
    path = f"/{repo.name}.git/info/lfs/objects/batch"
    assert ask(repo.url, "POST", path, data).status == 400


def test_a_size_that_is_not_the_stored_ones_is_told_per_object(repo: Repo) -> None:
    repo.upload(CONTENT + b"?")
    oid = large("", CONTENT + b"?")[1]["oid"]
    data = {"operation": "upload", "objects": [{"oid": oid, "size": 5}]}
    answer = ask(repo.url, "POST", f"/{repo.name}.git/info/lfs/objects/batch", data)
    assert answer.data["objects"][0]["error"]["code"] == 422


MIB = 1 << 20


def pieces(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield number.to_bytes(8, "big") * (MIB // 8)


def test_the_server_stays_small_while_100_mb_go_up_by_lfs_and_by_commit(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        repo = Repo(served.url, "axon/m")
        before = served.peak_mb()
        digest = hashlib.sha256()
        for piece in pieces(100):
            digest.update(piece)
        told = {"oid": digest.hexdigest(), "size": 100 * MIB}
        path = f"/{repo.name}.git/info/lfs/objects/batch"
        batch = ask(served.url, "POST", path, {"operation": "upload", "objects": [told]})
        href = batch.data["objects"][0]["actions"]["upload"]["href"].removeprefix(served.url)
        length = {"Content-Length": str(100 * MIB)}
        assert ask(served.url, "PUT", href, pieces(100), length).status == 200

        head = json.dumps({"key": "header", "value": {"summary": "x"}}).encode() + b"\n"
        start = head + b'{"key":"file","value":{"path":"w.bin","encoding":"base64","content":"'
        end = b'"}}\n'
        coded = 100 * MIB  # base64 of 75 MiB, four letters for three bytes

        def body() -> Iterator[bytes]:
            yield start
            for _ in range(100):
                yield b"AbC/" * (MIB // 4)
            yield end

        length = {"Content-Length": str(len(start) + coded + len(end))}
        landed = ask(served.url, "POST", f"/api/models/{repo.name}/commit/main", body(), length)
        assert landed.status == 200, landed.body
        assert repo.get("w.bin", method="HEAD").headers["Content-Length"] == str(75 * MIB)
        assert served.peak_mb() < before + 60
