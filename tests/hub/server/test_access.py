"""Who sees what, beyond the matrix of routes: searches, contents by their hash, names, the log."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hubtool
from hubtool.hub import embedded
from hubtool.hub.server import access, audit
from hubtool.hub.server.accounts import ANYBODY, LOCAL, Accounts, Identity
from hubtool.hub.server.audit_refusals import MOST, MOST_OF_ONE, Refusals
from hubtool.hub.server.auth import INVALID
from hubtool.hub.server.collect import GRACE_S
from hubtool.hub.server.errors import forbidden
from hubtool.hub.server.meta import Meta
from hubtool.hub.server.meta_history import moment
from hubtool.hub.server.run import Background

from .conftest import Client, ClientError, ask, body_of, file, large
from .people import FILE, SHELL, WEIGHTS, Answer, People, names
from .servers import Served
from .xets import upload


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    found = People(tmp_path_factory.mktemp("hub"))
    found.accounts.add_org("Axon", fullname="Axon models", by=SHELL)
    found.user("bob")
    found.user("reader", Axon="read")
    found.user("writer", Axon="write")
    found.user("boss", Axon="admin")
    found.user("root", admin=True)
    found.token("writer-reads", "writer", "read")
    found.token("writer-one", "writer", "write", ["axon/hidden", "axon/to-come"])
    found.plant("axon/hidden", private=True)
    found.plant("axon/shown")
    found.plant("axon/gated", gated="manual")
    found.plant("bob/own", private=True)
    found.plant("bare", private=True)
    yield found
    found.close()


NAMES = ["axon/a", "axon/b", "Axon/C", "bob/a", "BOB/b", "org/a", "org2/a", "a", "bare"]
PATTERNS = ["axon/*", "AXON/a", "bob/*", "bob/b", "org/*", "org/A", "none/*", "none/a"]
IDENTITIES = st.builds(
    Identity,
    st.sampled_from(["", "bob", "Axon", "eve"]),
    role=st.sampled_from(["read", "write", "admin"]),
    repos=st.none() | st.lists(st.sampled_from(PATTERNS), max_size=3).map(tuple),
    admin=st.booleans(),
    orgs=st.dictionaries(st.sampled_from(["axon", "Org", "org2"]), st.just("read"), max_size=2),
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meta]:
    """Every name once, private, gated, both or neither by turns; "bob" and "eve" have access to
    what is gated, as far as its name ends in "a"."""
    meta = Meta(tmp_path_factory.mktemp("planted"))
    for number, name in enumerate(NAMES * 4):
        turn = number // len(NAMES)
        made = f"{name}{turn}" if turn else name
        repo = meta.create(made, private=bool(turn & 1))
        if turn & 2:
            meta.set_gated(made, "manual")
            for user in ("bob", "Eve") if name.endswith("a") else ():
                access.decide(meta, repo, user, "accepted", by=SHELL)
    yield meta
    meta.close()


@settings(deadline=None)
@given(IDENTITIES)
def test_the_condition_on_rows_says_what_the_right_to_a_name_says(
    planted: Meta, who: Identity
) -> None:
    condition, values = access.seen(who)
    readable, more = access._readable(who)
    with planted.reading() as db:
        rows = db.execute(
            f"SELECT r.name, r.private, r.gated <> '', ({condition}), ({readable}) FROM repos r",
            [*values, *more],
        ).fetchall()
    assert len(rows) == 4 * len(NAMES)
    for name, private, gated, seen, read in rows:
        right = who.right(name) is not None
        assert bool(seen) == (not private or right), name
        granted = access.granted(planted, planted.repo(name), who)
        assert bool(read) == (right or (not private and (not gated or granted))), name


def test_a_list_shows_a_private_model_to_those_with_a_right_to_it(people: People) -> None:
    anybody = ["axon/gated", "axon/shown"]
    hidden = sorted([*anybody, "axon/hidden"])
    for who, wanted in {
        "": anybody,
        "bob": [*anybody, "bob/own"],
        "reader": hidden,
        "writer-one": hidden,
        "root": sorted([*hidden, "bob/own", "bare"]),
    }.items():
        assert names(people.ask("GET", "/api/models", by=who)) == wanted, who
        page = people.ask("GET", "/models?search=hidden", by=who)
        assert (b"axon/hidden" in page.body) == ("axon/hidden" in wanted), who
    assert names(people.ask("GET", "/api/models?author=bob", by="reader")) == []


def batch(people: People, name: str, who: str, content: bytes, what: str = "upload") -> Any:
    wanted = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    path = f"/{name}.git/info/lfs/objects/batch"
    answer = people.ask("POST", path, {"operation": what, "objects": [wanted]}, by=who)
    assert answer.status == 200, answer.message
    return answer.data["objects"][0]


def commit(people: People, name: str, who: str, content: bytes, path: str = "w.bin") -> Answer:
    return people.ask(
        "POST", f"/api/models/{name}/commit/main", body_of(large(path, content)), by=who
    )


def put(people: People, offer: Any, content: bytes) -> Answer:
    return people.ask("PUT", offer["actions"]["upload"]["href"].partition("127.0.0.1")[2], content)


@pytest.mark.parametrize("secret", ["axon/hidden", "axon/gated"])
def test_the_hash_of_what_one_may_not_read_gives_nothing_away(people: People, secret: str) -> None:
    content, unknown = WEIGHTS + secret.encode(), b"never sent " + secret.encode()
    for one in (content, unknown):
        assert "actions" in batch(people, "bob/own", "bob", one)
    found, missing = (commit(people, "bob/own", "bob", one) for one in (content, unknown))
    assert found.status == missing.status == 400
    oids = [hashlib.sha256(one).hexdigest() for one in (content, unknown)]
    assert found.message.replace(oids[0], "-") == missing.message.replace(oids[1], "-")
    wrong = {"operation": "upload", "objects": [{"oid": oids[0], "size": 1}]}
    path = "/bob/own.git/info/lfs/objects/batch"
    assert "actions" in people.ask("POST", path, wrong, by="bob").data["objects"][0]
    verify = "/bob/own.git/info/lfs/objects/verify"
    assert people.ask("POST", verify, {"oid": oids[0], "size": 1}, by="bob").status == 404
    assert "actions" not in batch(people, "axon/shown", "writer", content)
    assert commit(people, "axon/shown-too", "root", content).status == 404
    assert commit(people, "axon/hidden", "writer", content, f"{secret[5:]}.bin").status == 200


def test_what_one_has_sent_oneself_may_be_named_for_as_long_as_it_is_kept(people: People) -> None:
    content = WEIGHTS + b"axon/hidden"
    offer = batch(people, "bob/own", "bob", content)
    assert put(people, offer, content).status == 200
    assert "actions" not in batch(people, "bob/own", "bob", content)
    meta, oid = people.app.hub.meta, hashlib.sha256(content).hexdigest()
    bob, eve = Identity("Bob", "write"), Identity("eve", "write")
    assert access.held(meta, bob, [oid, "0" * 64]) == {oid}
    assert access.held(meta, eve, [oid]) == access.held(meta, ANYBODY, [oid]) == set()
    with meta.writing() as db:
        past = moment(datetime.now(UTC) - timedelta(seconds=GRACE_S + 1))
        db.execute("UPDATE sent SET date = ?", (past,))
    access.note_sent(meta, "eve", ["1" * 64])
    assert access.held(meta, bob, [oid]) == set() and access.held(meta, eve, ["1" * 64])


def test_an_upload_is_of_whom_its_address_was_made_for(people: People) -> None:
    content = b"signed for bob"
    href = batch(people, "bob/own", "bob", content)["actions"]["upload"]["href"]
    assert "&user=bob&" in href
    path = href.partition("127.0.0.1")[2]
    assert people.ask("PUT", path.replace("user=bob", "user=eve"), content).status == 403
    assert people.ask("PUT", path, content, by="writer").status == 200
    assert commit(people, "bob/own", "bob", content).status == 200
    assert commit(people, "axon/shown", "writer", content).status == 400


def test_what_came_by_xet_is_of_whom_the_token_was_given_to(people: People) -> None:
    xorb, shard = upload(seed=7)
    given = people.ask("GET", "/api/models/bob/own/xet-write-token/main", by="bob").data
    people.tokens["xet"] = given["accessToken"]
    path = given["casUrl"].partition("127.0.0.1")[2]
    for _ in "first", "again":
        posted = people.ask("POST", f"{path}/v1/xorbs/default/{xorb.name}", xorb.data, by="xet")
        assert posted.data == {"was_inserted": True}, "nor is told what others sent"
    assert people.ask("POST", f"{path}/v1/shards", shard.data, by="bob").status == 401
    assert people.ask("POST", f"{path}/v1/shards", shard.data, by="xet").status == 200
    content = shard.files[0].data
    assert commit(people, "axon/shown", "writer", content).status == 400
    assert commit(people, "bob/own", "bob", content).status == 200


def test_a_public_models_content_is_for_everybody_to_name(people: People) -> None:
    assert commit(people, "bob/own", "bob", WEIGHTS + b"axon/shown", "shown").status == 200


@pytest.mark.parametrize(
    ("who", "method", "path", "said"),
    [
        ("bob", "POST", "/api/models/axon/shown/branch/x", "orgs member axon bob --role write"),
        ("reader", "POST", "/api/models/axon/shown/branch/x", "role in 'axon' is 'read'"),
        ("writer", "PUT", "/api/models/axon/shown/settings", "role in 'axon' is 'write'"),
        ("writer-reads", "POST", "/api/models/axon/shown/branch/x", "has the role 'read'"),
        ("writer-one", "POST", "/api/models/axon/shown/branch/x", "not for 'axon/shown'"),
        ("bob", "GET", "/axon/gated/resolve/main/w.bin", "/axon/gated/ask-access"),
        ("", "POST", "/api/models/axon/shown/branch/x", "hubtool hub tokens new"),
        ("", "GET", "/api/models/axon/none", "HUBTOOL_TOKEN"),
    ],
)
def test_a_refusal_says_what_to_do_next(
    people: People, who: str, method: str, path: str, said: str
) -> None:
    answer = people.ask(method, path, {} if method != "GET" else None, by=who)
    assert answer.status in (401, 403) and said in answer.message


def test_a_token_that_is_none_is_refused_even_where_nobody_needs_one(people: People) -> None:
    for headers in ("Bearer nonsense", "Bearer", "Basic YTpi", people.tokens["bob"]):
        given = {"authorization": headers}
        answer = people.ask("GET", "/api/models", headers=given)
        assert (answer.status, answer.message) == (401, INVALID)
        assert "expired or was revoked" in answer.data["error_description"]
    assert people.ask("GET", "/api/nowhere", by="nonsense").status == 404


def test_whoami_tells_of_organisations_and_of_the_token(people: People) -> None:
    told = people.ask("GET", "/api/whoami-v2", by="writer-reads").data
    assert told["name"] == "writer"
    org = {"type": "org", "id": "Axon", "name": "Axon", "fullname": "Axon models"}
    assert told["orgs"] == [{**org, "roleInOrg": "write"}]
    token = told["auth"]["accessToken"]
    assert (token["displayName"], token["role"]) == ("writer-reads", "read")
    assert token["createdAt"].endswith("Z")


def test_what_holds_nothing_yet_may_be_taken_back_by_whoever_made_it(people: People) -> None:
    made = {"name": "axon/to-come", "visibility": "private"}
    for who in ("writer", "writer-one"):
        assert people.ask("POST", "/api/repos/create", made, by=who).status == 200
        assert people.ask("POST", "/api/repos/create", made, by=who).status == 409
        assert people.ask("POST", "/api/repos/create", made, by="bob").status == 403
        assert people.ask("DELETE", "/api/repos/delete", made, by="reader").status == 403
        assert people.ask("DELETE", "/api/repos/delete", made, by=who).status == 200
    assert people.ask("POST", "/api/repos/create", made, by="writer").status == 200
    body = body_of(file("a", "a"))
    assert (
        people.ask("POST", "/api/models/axon/to-come/commit/main", body, by="writer").status == 200
    )
    kept = people.ask("DELETE", "/api/repos/delete", made, by="writer")
    assert kept.status == 403 and "more than its first commit" in kept.message
    assert people.ask("DELETE", "/api/repos/delete", made, by="boss").status == 200


def test_a_repository_that_moved_and_is_private_is_absent_by_both_names(people: People) -> None:
    people.plant("axon/before", private=True)
    move = {"fromRepo": "axon/before", "toRepo": "axon/after"}
    assert people.ask("POST", "/api/repos/move", move, by="boss").status == 200
    assert people.ask("GET", "/api/models/axon/before", by="reader").status == 307
    for who in ("", "bob"):
        never = people.ask("GET", "/api/models/axon/neverr", by=who)
        for name in ("axon/before", "axon/after "):
            found = people.ask("GET", f"/api/models/{name.strip()}", by=who)
            assert (found.status, found.code) == (never.status, never.code)
            assert found.body.replace(name.strip().encode(), b"axon/neverr") == never.body


def test_a_change_is_noted_as_done_by_whoever_asked(people: People) -> None:
    made = {"name": "writer/noted"}
    assert people.ask("POST", "/api/repos/create", made, by="writer").status == 200
    body = body_of(file("a", "a"))
    path = "/api/models/writer/noted"
    assert people.ask("POST", f"{path}/commit/main", body, by="writer").status == 200
    people.ask("POST", f"{path}/branch/dev", {}, by="writer")
    people.ask("DELETE", f"{path}/branch/dev", by="writer")
    people.ask("PUT", f"{path}/settings", {"private": True, "gated": "auto"}, by="writer")
    people.ask("DELETE", "/api/repos/delete", made, by="root")
    with people.app.hub.meta.reading() as db:
        found = audit.entries(db, subject="writer/noted")[::-1]
    assert [one.action for one in found] == [
        *("repo.create", "commit", "branch.create", "branch.delete", "repo.visibility"),
        *("repo.gated", "repo.delete"),
    ]
    (token,) = people.accounts.tokens("writer")[:1]
    assert {(one.user, one.address) for one in found[:-1]} == {("writer", "127.0.0.1")}
    assert {one.token for one in found[:-1]} == {token.id} and found[-1].user == "root"
    assert found[4].detail == {"private": True} and found[1].detail["branch"] == "main"


def test_refusals_are_noted_but_no_more_than_a_log_can_bear(tmp_path: Path) -> None:
    clock, meta = [0.0], Meta(tmp_path)
    refusals = Refusals(meta, lambda: clock[0])

    def noted() -> list[audit.Event]:
        with meta.reading() as db:
            return audit.entries(db, action="refused", limit=1000)

    for number in range(MOST_OF_ONE + 5):
        refusals.note(audit.Actor("eve", "", "10.0.0.1"), forbidden(f"no {number}"), "axon/m")
    assert len(noted()) == MOST_OF_ONE
    for number in range(2 * MOST):
        refusals.note(audit.Actor("", "", f"10.0.1.{number}"), forbidden("no"), "")
    assert len(noted()) == MOST
    clock[0] = 60.0
    refusals.note(audit.Actor("eve", "", "10.0.0.1"), forbidden("again"), "axon/m")
    assert noted()[0].detail == {"reason": "again", "left_out": MOST + MOST_OF_ONE}
    assert sum(one.detail.get("left_out", 0) for one in noted()) == 5 + MOST + MOST_OF_ONE
    meta.close()


def test_what_was_refused_is_in_the_log(people: People) -> None:
    people.app.hub.refusals._counts.clear()
    people.ask("PUT", "/api/models/axon/shown/settings", {}, by="bob")
    people.ask("GET", "/api/models", by="nonsense")
    with people.app.hub.meta.reading() as db:
        bad, forbidden = audit.entries(db, action="refused", limit=2)
    assert (bad.action, bad.user, bad.detail["reason"]) == ("refused.token", "", INVALID)
    assert (forbidden.action, forbidden.user, forbidden.subject) == ("refused", "bob", "axon/shown")


def test_users_come_while_the_hub_runs_and_close_it(tmp_path: Path, folder: Path) -> None:
    with Served(tmp_path) as served, Background(tmp_path) as url:
        made = {"name": "axon/m", "visibility": "private"}
        assert ask(url, "POST", "/api/repos/create", made).status == 200
        assert ask(served.url, "GET", "/api/models/axon/m").status == 200
        meta = Meta(tmp_path)
        accounts = Accounts(meta)
        accounts.add_user("ann", by=SHELL)
        _, secret = accounts.new_token("ann", name="laptop", by=SHELL)
        meta.close()
        for one in (url, served.url):
            assert ask(one, "GET", "/api/models/axon/m").status == 401
            assert ask(one, "GET", "/api/models").data == []
            assert ask(one, "POST", "/api/repos/create", {"name": "axon/n"}).status == 401
            bearer = {"Authorization": f"Bearer {secret}"}
            assert ask(one, "GET", "/api/models/axon/m", headers=bearer).status == 404
    with Served(tmp_path, host="0.0.0.0") as served:
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        assert ask(url, "POST", "/api/repos/create", {"name": "ann/m"}).status == 401
        assert ask(url, "POST", "/api/repos/create", {"name": "ann/m"}, bearer).status == 200
        other = ask(url, "POST", "/api/repos/create", {"name": "axon/n"}, bearer)
        assert other.status == 403 and "not yours, 'ann'" in other.headers["X-Error-Message"]


def test_whoever_has_the_folder_owns_the_embedded_hub(tmp_path: Path) -> None:
    meta = Meta(tmp_path)
    Accounts(meta).add_user("ann", by=SHELL)
    meta.create("axon/secret", private=True)
    meta.close()
    assert [found.name for found in hubtool.search(hub=str(tmp_path))] == ["axon/secret"]
    with embedded.running(tmp_path) as (url, key):
        bearer = {"Authorization": f"Bearer {key}"}
        assert ask(url, "GET", "/api/whoami-v2", headers=bearer).data["name"] == LOCAL.name
        assert ask(url, "GET", "/api/models/axon/secret").status == 401
        other = {"Authorization": "Bearer " + "x" * len(key)}
        assert ask(url, "GET", "/api/models", headers=other).status == 401
    with embedded.running(tmp_path) as (_, another):
        assert another != key and len(key) > 40


def test_the_official_client_knows_who_it_is_and_what_it_may(
    tmp_path: Path, new_client: Callable[..., Client]
) -> None:
    hub = People(tmp_path)
    hub.accounts.add_org("axon", by=SHELL)
    hub.user("ann", axon="write")
    hub.user("bob")
    weights = tmp_path / "folder" / FILE
    weights.parent.mkdir()
    weights.write_bytes(bytes(range(256)) * 8000)
    with Background(tmp_path) as url:
        ann, bob, nobody = (
            new_client(url, **({"HF_TOKEN": hub.tokens[who]} if who else {}))
            for who in ("ann", "bob", "")
        )
        assert [org["name"] for org in ann("whoami")["orgs"]] == ["axon"]
        ann("create_repo", "axon/secret", private=True)
        ann("upload_folder", repo_id="axon/secret", folder_path=str(weights.parent))
        got = Path(ann("hf_hub_download", "axon/secret", FILE))
        assert got.read_bytes() == weights.read_bytes()
        for stranger in (bob, nobody):
            with pytest.raises(ClientError) as caught:
                stranger("model_info", "axon/secret")
            assert "RepositoryNotFoundError" in caught.value.names
            assert stranger("list_models") == []
        assert [model["id"] for model in ann("list_models")] == ["axon/secret"]
        with pytest.raises(ClientError, match="not yours, 'bob'"):
            bob("create_repo", "axon/mine")
        with pytest.raises(ClientError, match=INVALID.split()[0]):
            nobody("whoami", token="hf_nonsense")
        bob("create_repo", "bob/copy")
        bob("upload_folder", repo_id="bob/copy", folder_path=str(weights.parent))
        with pytest.raises(ClientError, match="admin"):
            ann("delete_repo", "axon/secret")
    hub.close()
