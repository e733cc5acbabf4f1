"""Who may do what: here and elsewhere, names that point here, other sites' pages, the secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.hub.server.auth import INVALID, Guard, Signer, is_loopback
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.run import Background

from .conftest import Repo, ask, body_of, file
from .servers import Served


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *[("localhost", True), ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True)],
        *[("LocalHost", True), ("[::1]", True), ("0.0.0.0", False), ("192.168.0.1", False)],
        *[("localhost.evil.org", False), ("", False), ("127.0.0.1.evil.org", False)],
    ],
)
def test_loopback_is_known_by_name_and_by_number(host: str, own: bool) -> None:
    assert is_loopback(host) is own


@pytest.mark.parametrize("host", ["evil.org", "evil.org:80", "192.168.0.1", "a.localhost.org", ""])
def test_a_name_that_merely_points_here_is_refused(url: str, host: str) -> None:
    answer = ask(url, "GET", "/api/models", headers={"Host": host})
    assert answer.status == 403 and "127.0.0.1" in answer.headers["X-Error-Message"]


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1", "[::1]:7", "[::1]"])
def test_our_own_names_are_taken(url: str, host: str) -> None:
    assert ask(url, "GET", "/api/models", headers={"Host": host}).status == 200


def test_a_further_name_may_be_given() -> None:
    guard = Guard(True, ("hub.lan",))
    guard.admit("GET", "http", {"host": "Hub.lan:80"})
    with pytest.raises(Refusal, match=r"not called 'other\.lan'"):
        guard.admit("GET", "http", {"host": "other.lan"})


@pytest.mark.parametrize("origin", ["http://evil.org", "null", "http://127.0.0.1:1", "https://{}"])
def test_another_sites_page_may_not_change_anything(repo: Repo, origin: str) -> None:
    headers = {"Origin": origin.format(repo.url.removeprefix("http://"))}
    for method, path in (
        ("POST", "/api/repos/create"),
        ("DELETE", "/api/repos/delete"),
        ("PUT", f"/api/models/{repo.name}/settings"),
        ("POST", f"/{repo.name}.git/info/lfs/objects/batch"),
    ):
        answer = ask(repo.url, method, path, {"name": repo.name}, headers)
        assert answer.status == 403, (method, path)
    assert repo.ask("GET", "", headers=headers).status == 200
    assert repo.ask("POST", "/branch/x", {}, {"Origin": repo.url}).status == 200


def test_on_loopback_any_token_or_none_may_write(repo: Repo) -> None:
    for headers in ({}, {"Authorization": "Bearer whatever"}):
        assert ask(repo.url, "GET", "/api/whoami-v2", headers=headers).data["name"] == "local"
        body = body_of(file(f"{len(headers)}.txt", "x"))
        assert repo.ask("POST", "/commit/main", body, headers).status == 200


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A hub on all addresses of the machine, with a public repository and a private one."""
    root = tmp_path_factory.mktemp("elsewhere")
    with Background(root) as url:
        Repo(url, "axon/public").commit(file("README.md", "---\ntags:\n- Axon\n---\n"))
        Repo(url, "axon/private").ask("PUT", "/settings", {"visibility": "private"})
    with Served(root, host="0.0.0.0") as served:
        yield served.url.replace("0.0.0.0", "127.0.0.1")


def test_elsewhere_everybody_reads_by_any_name(elsewhere: str) -> None:
    found = ask(elsewhere, "GET", "/api/models?filter=Axon", headers={"Host": "hub.lan"})
    assert [model["id"] for model in found.data] == ["axon/public"]
    assert ask(elsewhere, "GET", "/axon/public/resolve/main/README.md").status == 200
    assert (
        ask(elsewhere, "POST", "/api/models/axon/public/paths-info/main", b"paths=a").status == 200
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/repos/create"),
        ("DELETE", "/api/repos/delete"),
        ("PUT", "/api/models/axon/public/settings"),
        ("POST", "/api/models/axon/public/preupload/main"),
        ("POST", "/api/models/axon/public/commit/main"),
        ("POST", "/api/models/axon/public/branch/dev"),
        ("DELETE", "/api/models/axon/public/tag/v1"),
        ("POST", "/axon/public.git/info/lfs/objects/batch"),
    ],
)
def test_elsewhere_nobody_writes_and_is_told_why(elsewhere: str, method: str, path: str) -> None:
    body = {"name": "axon/public", "operation": "upload", "objects": []}
    nobody = ask(elsewhere, method, path, body)
    assert nobody.status == 401 and "has no users yet" in nobody.headers["X-Error-Message"]
    someone = ask(elsewhere, method, path, body, {"Authorization": "Bearer t"})
    assert (someone.status, someone.headers["X-Error-Message"]) == (401, INVALID)
    assert "has no users yet" in someone.data["error_description"]


def test_elsewhere_nobody_has_a_name(elsewhere: str) -> None:
    token = {"Authorization": "Bearer t"}
    assert (
        ask(elsewhere, "GET", "/api/whoami-v2", headers=token).headers["X-Error-Message"] == INVALID
    )
    assert ask(elsewhere, "GET", "/api/whoami-v2").status == 401


def test_elsewhere_what_is_private_does_not_exist(elsewhere: str) -> None:
    listed = ask(elsewhere, "GET", "/api/models").data
    assert [model["id"] for model in listed] == ["axon/public"]
    hidden = ask(elsewhere, "GET", "/api/models/axon/private")
    never = ask(elsewhere, "GET", "/api/models/axon/never")
    assert hidden.status == never.status == 404
    assert hidden.body.replace(b"private", b"never") == never.body
    assert ask(elsewhere, "GET", "/axon/private/resolve/main/.gitattributes").status == 404


def test_the_secret_is_made_once_and_for_nobody_else(tmp_path: Path) -> None:
    signers: list[Signer] = []
    threads = [
        threading.Thread(target=lambda: signers.append(Signer.of(tmp_path))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    signed = signers[0].query("PUT", "a" * 64, 5, "ann")
    query = dict(pair.split("=") for pair in signed.split("&"))
    assert [signer.check("PUT", "a" * 64, query) for signer in signers] == [(5, "ann")] * 8
    with pytest.raises(Refusal, match="signature"):
        signers[0].check("PUT", "a" * 64, {**query, "user": "bob"})
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
