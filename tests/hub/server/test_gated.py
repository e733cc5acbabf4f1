"""Gated repositories: seen by all, read by those who were let in; who asks, and who decides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtool.hub.server import audit
from hubtool.hub.server.meta import Meta
from hubtool.hub.server.run import Background

from .conftest import Client, ClientError, body_of, file
from .people import FILE, SHELL, WEIGHTS, People, names

GRAPH = b'{"format": 1, "layers": [{"name": "secret-layer", "op": "Relu", "inputs": {"X": "x"}}]}'
FILES = f"/axon/gated/resolve/main/{FILE}"
REQUESTS = "/api/models/axon/gated/user-access-request"


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    found = People(tmp_path)
    found.accounts.add_org("axon", by=SHELL)
    found.user("boss", axon="admin")
    found.user("writer", axon="write")
    found.user("reader", axon="read")
    found.user("bob")
    found.accounts.add_user("Dan", fullname="Dan D.", by=SHELL)
    found.token("Dan", "Dan", "read")
    found.token("bob-elsewhere", "bob", "admin", ["bob/*"])
    found.plant("axon/gated", gated="manual")
    yield found
    found.close()


def ask_access(people: People, who: str) -> Any:
    answer = people.ask("POST", "/axon/gated/ask-access", {}, by=who)
    assert answer.status == 200, answer.message
    return answer.data["status"]


def listed(people: People, status: str) -> list[str]:
    answer = people.ask("GET", f"{REQUESTS}/{status}", by="boss")
    assert answer.status == 200, answer.message
    return [one["user"]["user"] for one in answer.data]


def test_a_gated_model_is_listed_and_described_and_its_card_is_shown(people: People) -> None:
    for who in ("", "bob"):
        assert names(people.ask("GET", "/api/models", by=who)) == ["axon/gated"]
        told = people.ask("GET", "/api/models/axon/gated", by=who).data
        assert told["gated"] == "manual" and FILE in str(told["siblings"])
        page = people.ask("GET", "/axon/gated", by=who)
        assert page.status == 200 and b">It</h" in page.body
        assert b'<span class="mark">gated</span>' in page.body and b"/ask-access" in page.body
        for path in ("README.md", ".gitattributes"):
            assert people.ask("GET", f"/axon/gated/resolve/main/{path}", by=who).status == 200


def test_its_files_are_for_those_with_a_right_to_it(people: People) -> None:
    body = body_of(file("graph.json", GRAPH), file("sub/README.md", "# inner"))
    path = "/api/models/axon/gated/commit/main"
    assert people.ask("POST", path, body, by="writer").status == 200
    oid = hashlib.sha256(WEIGHTS + b"axon/gated").hexdigest()
    wanted = {"operation": "download", "objects": [{"oid": oid, "size": len(WEIGHTS) + 10}]}
    for who, status in {"": 401, "bob": 403, "bob-elsewhere": 403, "reader": 200}.items():
        for address in (
            FILES,
            f"/axon/gated/raw/main/{FILE}",
            f"/axon/gated/blob/main/{FILE}",
            "/axon/gated/resolve/main/sub/README.md",
            "/axon/gated/resolve/main/sub%2FREADME.md",
            "/axon/gated/resolve/main/none",
        ):
            for method in ("GET", "HEAD"):
                answer = people.ask(method, address, by=who)
                found = 404 if status == 200 and address.endswith("none") else status
                assert (answer.status, answer.code == "GatedRepo") == (found, status != 200), (
                    address
                )
        batch = people.ask("POST", "/axon/gated.git/info/lfs/objects/batch", wanted, by=who)
        assert batch.status == status
        page = people.ask("GET", "/axon/gated", by=who)
        assert (b"secret-layer" in page.body) == (status == 200)


def test_where_it_is_manual_an_admin_decides(people: People) -> None:
    assert people.ask("POST", "/axon/gated/ask-access", {}).status == 401
    assert ask_access(people, "bob") == ask_access(people, "bob") == "pending"
    assert people.ask("GET", FILES, by="bob").status == 403
    assert people.ask("GET", f"{REQUESTS}/pending", by="writer").status == 403
    (request,) = people.ask("GET", f"{REQUESTS}/pending", by="boss").data
    assert request["user"] == {"user": "bob", "fullname": "bob", "type": "user"}
    accept = {"requestId": request["requestId"], "status": "accepted"}
    assert people.ask("POST", f"{REQUESTS}/handle", accept, by="bob").status == 403
    assert people.ask("POST", f"{REQUESTS}/handle", accept, by="boss").status == 200
    assert people.ask("POST", f"{REQUESTS}/handle", accept, by="boss").status == 404
    assert people.ask("GET", FILES, by="bob").status == 200
    assert people.ask("GET", FILES, by="bob-elsewhere").status == 403, "its scope leaves it out"
    assert (listed(people, "pending"), listed(people, "accepted")) == ([], ["bob"])
    reject = {"user": "bob", "status": "rejected", "rejectionReason": "no"}
    assert people.ask("POST", f"{REQUESTS}/handle", reject, by="boss").status == 200
    assert people.ask("GET", FILES, by="bob").status == 403
    assert ask_access(people, "bob") == "rejected", "who was rejected does not get in by asking"
    assert ask_access(people, "reader") == "accepted", "who has a right needs no grant"
    with people.app.hub.meta.reading() as db:
        noted = audit.entries(db, action="repo.access")
    assert [(one.user, one.detail["status"]) for one in noted] == [
        *(("boss", "rejected"), ("boss", "accepted"), ("bob", "pending")),
    ]


def test_where_it_is_auto_whoever_asks_is_let_in(people: People) -> None:
    settings = {"gated": "auto"}
    path = "/api/models/axon/gated/settings"
    assert people.ask("PUT", path, settings, by="writer").status == 403
    assert people.ask("PUT", path, settings, by="boss").data["gated"] == "auto"
    assert people.ask("GET", FILES, by="bob").status == 403
    assert ask_access(people, "bob") == "accepted"
    assert people.ask("GET", FILES, by="bob").status == 200
    assert listed(people, "accepted") == ["bob"]
    assert people.ask("PUT", path, {"gated": False}, by="boss").data["gated"] is False
    assert people.ask("GET", FILES).status == 200
    for method, rest in (("GET", "pending"), ("POST", "grant"), ("POST", "handle")):
        body = {"user": "bob", "status": "accepted"} if method == "POST" else None
        answer = people.ask(method, f"{REQUESTS}/{rest}", body, by="boss")
        assert answer.status == 400 and "not gated" in answer.message
    assert people.ask("PUT", path, {"gated": "always"}, by="boss").status == 400


def test_access_is_granted_to_who_exists_and_did_not_ask(people: People) -> None:
    grant = f"{REQUESTS}/grant"
    assert people.ask("POST", grant, {"user": "dan"}, by="boss").status == 200
    assert people.ask("POST", grant, {"user": "DAN"}, by="boss").status == 400
    assert people.ask("POST", grant, {"user": "nobody"}, by="boss").status == 404
    assert people.ask("POST", grant, {"user": 1}, by="boss").status == 400
    assert people.ask("GET", FILES, by="Dan").status == 200
    told = people.ask("GET", f"{REQUESTS}/accepted", by="boss").data[0]["user"]
    assert told == {"user": "Dan", "fullname": "Dan D.", "type": "user"}
    handle = f"{REQUESTS}/handle"
    assert (
        people.ask("POST", handle, {"user": "bob", "status": "accepted"}, by="boss").status == 404
    )
    assert people.ask("POST", handle, {"user": "Dan", "status": "odd"}, by="boss").status == 400
    long = {"user": "Dan", "status": "rejected", "rejectionReason": "x" * 1001}
    assert people.ask("POST", handle, long, by="boss").status == 400
    assert people.ask("GET", f"{REQUESTS}/odd", by="boss").status == 400


def test_a_grant_goes_with_its_user_and_with_its_repository(people: People) -> None:
    for user in ("Dan", "bob"):
        people.ask("POST", f"{REQUESTS}/grant", {"user": user}, by="boss")
    people.accounts.remove_user("Dan", by=SHELL)
    people.user("dan")
    assert people.ask("GET", FILES, by="dan").status == 403
    people.app.hub.meta.delete("axon/gated")
    people.plant("axon/gated", gated="manual")
    assert people.ask("GET", FILES, by="bob").status == 403
    assert listed(people, "accepted") == []


def test_without_users_a_gate_holds_against_nobody_on_this_machine(tmp_path: Path) -> None:
    hub = People(tmp_path)
    hub.plant("axon/gated", gated="manual")
    assert hub.ask("GET", FILES).status == 200
    hub.close()


def test_the_official_client_meets_a_gate_and_opens_it(
    tmp_path: Path, new_client: Callable[..., Client]
) -> None:
    hub = People(tmp_path)
    hub.user("ann")
    hub.user("bob")
    hub.plant("ann/m")
    with Background(tmp_path) as url:
        ann, bob = (new_client(url, HF_TOKEN=hub.tokens[who]) for who in ("ann", "bob"))
        ann("update_repo_settings", "ann/m", gated="manual")
        assert bob("model_info", "ann/m")["gated"] == "manual"
        with pytest.raises(ClientError, match="gated") as caught:
            bob("hf_hub_download", "ann/m", FILE)
        assert "GatedRepoError" in caught.value.names
        with pytest.raises(ClientError) as caught:
            bob("auth_check", "ann/m")
        assert "GatedRepoError" in caught.value.names
        assert hub.ask("POST", "/ann/m/ask-access", {}, by="bob").data == {"status": "pending"}
        (request,) = ann("list_pending_access_requests", "ann/m")
        assert (request["username"], request["status"]) == ("bob", "pending")
        ann("accept_access_request", "ann/m", "bob")
        assert Path(bob("hf_hub_download", "ann/m", FILE)).read_bytes() == WEIGHTS + b"ann/m"
        assert [one["username"] for one in ann("list_accepted_access_requests", "ann/m")] == ["bob"]
        ann("reject_access_request", "ann/m", "bob", rejection_reason="no more")
        assert [one["username"] for one in ann("list_rejected_access_requests", "ann/m")] == ["bob"]
        ann("grant_access", "ann/m", "bob")
        ann("cancel_access_request", "ann/m", "bob")
        assert len(ann("list_pending_access_requests", "ann/m")) == 1
    hub.close()


def test_gates_and_grants_are_told_by_the_journal(people: People) -> None:
    from hubtool.hub.server.reindex import rebuild

    people.ask("POST", f"{REQUESTS}/grant", {"user": "bob"}, by="boss")
    people.app.close()
    (people.root / "hub.db").unlink()
    rebuild(people.root)
    again = People(people.root, tokens=people.tokens)
    assert again.ask("GET", FILES, by="bob").status == 200
    assert again.ask("GET", FILES).status == 401
    again.close()
    meta = Meta(people.root)
    assert meta.repo("axon/gated").gated == "manual"
    meta.close()
