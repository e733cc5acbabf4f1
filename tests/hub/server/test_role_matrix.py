"""Every route, asked by everybody, of every kind of repository: who is let in, and what the rest
are told. What is private answers them as what does not exist, to the byte."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hubtool.hub.server import access
from hubtool.hub.server.app import ROUTES

from .people import FILE, SHELL, Answer, People

KINDS = ("public", "private", "gated", "missing")
RIGHTS: dict[str, tuple[str, str]] = {
    "": ("axon", ""),
    "hubtool_" + "x" * 36: ("axon", "bad"),
    "nonsense": ("axon", "bad"),
    "expired": ("ann", "bad"),
    "disabled": ("axon", "bad"),
    "stranger": ("axon", "none"),
    "friend": ("axon", "granted"),
    "reader": ("axon", "read"),
    "writer": ("axon", "write"),
    "boss": ("axon", "admin"),
    "ann": ("ann", "admin"),
    "ann-reads": ("ann", "read"),
    "ann-writes": ("ann", "write"),
    "ann-inside": ("ann", "admin"),
    "ann-outside": ("ann", "none"),
    "boss-reads": ("axon", "read"),
    "root": ("axon", "admin"),
    "root-reads": ("ann", "read"),
}
"""Of each bearer of a token: the namespace that they ask for, and what they may do in it."""

CAPPED = {"ann-reads", "ann-outside", "boss-reads", "root-reads"}
"""Whose token may change nothing there, whatever its user may."""
ORDER = ("read", "write", "admin")
REV, OID = "main", "0" * 64
MODEL, OBJECTS = "/api/models/{id}", "/{id}.git/info/lfs/objects"
JSON: dict[str, Any] = {}
NONE = None


@dataclass(frozen=True)
class Case:
    """A request of a route that can change nothing, and the rule that it is to be answered by."""

    rule: str
    body: Any = NONE
    path: str = FILE


def batch(operation: str) -> dict[str, Any]:
    return {"operation": operation, "objects": []}


CASES: dict[tuple[str, str], list[Case]] = {
    ("GET", "/openapi.json"): [Case("open")],
    ("GET", "/api/whoami-v2"): [Case("login")],
    ("POST", "/api/repos/create"): [Case("make", {"name": "{id}", "visibility": "odd"})],
    ("DELETE", "/api/repos/delete"): [Case("named", {"name": "{id}"})],
    ("POST", "/api/repos/move"): [Case("named", {"fromRepo": "{id}", "toRepo": "{id}--odd"})],
    ("POST", "/api/validate-yaml"): [Case("open", {"content": ""})],
    ("GET", "/api/models"): [Case("open")],
    ("GET", "/api/models-tags-by-type"): [Case("open")],
    ("GET", MODEL): [Case("see")],
    ("GET", f"{MODEL}/refs"): [Case("see")],
    ("GET", f"{MODEL}/revision/{{rev}}"): [Case("see")],
    ("GET", f"{MODEL}/tree/{{rev}}"): [Case("see")],
    ("GET", f"{MODEL}/tree/{{rev}}/{{path}}"): [Case("see")],
    ("POST", f"{MODEL}/paths-info/{{rev}}"): [Case("see", b"paths=README.md")],
    ("GET", f"{MODEL}/commits/{{rev}}"): [Case("see")],
    ("GET", "/api/users/{name}/overview"): [Case("login")],
    ("GET", "/api/users/{name}/likes"): [Case("login")],
    ("GET", "/api/organizations/{name}/overview"): [Case("login")],
    ("GET", "/api/organizations/{name}/members"): [Case("login")],
    ("GET", f"{MODEL}/auth-check"): [Case("files", path="")],
    ("GET", f"{MODEL}/auth-check/write"): [Case("write")],
    ("GET", f"{MODEL}/likers"): [Case("see")],
    ("POST", f"{MODEL}/like"): [Case("like", JSON)],
    ("DELETE", f"{MODEL}/like"): [Case("like")],
    ("GET", f"{MODEL}/lfs-files"): [Case("write")],
    ("POST", f"{MODEL}/lfs-files/batch"): [Case("admin", JSON)],
    ("POST", f"{MODEL}/super-squash/{{rev}}"): [Case("admin", {"message": 1})],
    ("PUT", f"{MODEL}/settings"): [Case("admin", JSON)],
    ("POST", f"{MODEL}/branch/{{rev}}"): [Case("write", {"startingPoint": "none"})],
    ("DELETE", f"{MODEL}/branch/{{rev}}"): [Case("write", path="none")],
    ("POST", f"{MODEL}/tag/{{rev}}"): [Case("write", {"tag": "a b"})],
    ("DELETE", f"{MODEL}/tag/{{rev}}"): [Case("write")],
    ("POST", f"{MODEL}/preupload/{{rev}}"): [Case("write", {"files": []})],
    ("POST", f"{MODEL}/commit/{{rev}}"): [Case("write", b"")],
    ("POST", f"{OBJECTS}/batch"): [
        Case("write", batch("upload")),
        Case("files", batch("download")),
    ],
    ("POST", f"{OBJECTS}/verify"): [Case("write", {"oid": OID, "size": 1})],
    ("PUT", f"{OBJECTS}/{{oid}}"): [Case("signed", b"x")],
    ("GET", f"{OBJECTS}/{{oid}}"): [Case("signed")],
    ("POST", "/{id}/ask-access"): [Case("ask", path="public")],
    ("GET", f"{MODEL}/user-access-request/{{status}}"): [Case("admin")],
    ("POST", f"{MODEL}/user-access-request/handle"): [Case("admin", JSON)],
    ("POST", f"{MODEL}/user-access-request/grant"): [Case("admin", JSON)],
    ("GET", f"{MODEL}/xet-write-token/{{rev}}"): [Case("write")],
    ("POST", "/xet/{epoch}/v1/xorbs/default/{hash}"): [Case("own", b"x")],
    ("POST", "/xet/{epoch}/v1/shards"): [Case("own", b"x")],
    ("GET", "/{id}/resolve/{rev}/{path}"): [Case("files"), Case("see", path="README.md")],
    ("HEAD", "/{id}/resolve/{rev}/{path}"): [Case("files"), Case("see", path=".gitattributes")],
    ("GET", "/{id}/raw/{rev}/{path}"): [Case("files"), Case("see", path="README.md")],
    ("GET", "/"): [Case("open")],
    ("GET", "/-/style.css"): [Case("open")],
    ("GET", "/models"): [Case("open")],
    ("GET", "/{id}"): [Case("see")],
    ("GET", "/{id}/tree/{rev}"): [Case("see")],
    ("GET", "/{id}/tree/{rev}/{path}"): [Case("see")],
    ("GET", "/{id}/blob/{rev}/{path}"): [Case("files"), Case("see", path="README.md")],
    ("GET", "/{id}/commits/{rev}"): [Case("see")],
    ("GET", "/{id}/commit/{rev}"): [Case("see")],
}


def expected(rule: str, who: str, kind: str) -> str:
    """What somebody is told of a repository of that kind."""
    _, right = RIGHTS[who]
    known = right != ""
    if rule == "own":
        return "another token"
    if right == "bad":
        return "bad token"
    if rule in ("open", "signed"):
        return {"open": "let in", "signed": "unsigned"}[rule]
    if rule in ("login", "named", "like") and not known:
        return "log in"
    if rule == "login":
        return "let in"
    rule = "admin" if rule == "named" else rule
    if rule == "make":
        return "let in" if right in ORDER[1:] else "forbidden" if known else "log in"
    if kind == "missing" or (kind == "private" and right not in ORDER):
        return "absent, 404" if known else "absent, 401"
    if rule == "files" and kind == "gated" and right not in (*ORDER, "granted"):
        return "gated, 403" if known else "gated, 401"
    if rule in ("see", "files"):
        return "let in"
    if not known:
        return "log in"
    if rule in ("ask", "like"):
        return "forbidden" if rule == "like" and who in CAPPED else "let in"
    return "let in" if right in ORDER[ORDER.index(rule) :] else "forbidden"


def told(answer: Answer) -> str:
    """An answer by its status, its code and, where these say too little, its message."""
    assert answer.status < 500, answer
    if answer.code in ("RepoNotFound", "GatedRepo"):
        what = {"RepoNotFound": "absent", "GatedRepo": "gated"}[answer.code]
        return f"{what}, {answer.status}"
    if answer.status == 401:
        said = {"Invalid credentials in Authorization header": "bad token"}
        return said.get(
            answer.message, "another token" if "for Xet" in answer.message else "log in"
        )
    if answer.status == 403:
        return "unsigned" if "not signed" in answer.message else "forbidden"
    return "let in"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    found = People(tmp_path_factory.mktemp("hub"))
    found.accounts.add_org("axon", by=SHELL)
    found.user("stranger")
    found.user("friend")
    found.user("reader", axon="read")
    found.user("writer", axon="write")
    found.user("boss", axon="admin")
    found.user("ann")
    found.user("root", admin=True)
    found.user("disabled", axon="admin")
    found.accounts.set_user("disabled", disabled=True, by=SHELL)
    found.token("expired", "ann", "admin", hours=-1)
    found.token("ann-reads", "ann", "read")
    found.token("ann-writes", "ann", "write")
    found.token("ann-inside", "ann", "admin", ["elsewhere/*", "ann/*"])
    found.token("ann-outside", "ann", "admin", ["elsewhere/*", "ann/other"])
    found.token("boss-reads", "boss", "read")
    found.token("root-reads", "root", "read")
    for namespace in ("axon", "ann"):
        for kind in KINDS[:-1]:
            plant(found, f"{namespace}/{kind}")
    yield found
    found.close()


def plant(people: People, name: str) -> None:
    kind = name.partition("/")[2]
    people.plant(name, private=kind == "private", gated="manual" if kind == "gated" else "")
    if kind == "gated" and name.startswith("axon/"):
        meta = people.app.hub.meta
        access.decide(meta, meta.repo(name), "friend", "accepted", by=SHELL)


def requests() -> Iterator[tuple[str, str, Case]]:
    for (method, path), cases in CASES.items():
        for case in cases:
            yield method, path, case


def filled(path: str, case: Case, name: str) -> tuple[str, Any]:
    """The address and the body of a case, for one repository."""
    parts = {"id": name, "rev": REV, "path": case.path, "oid": OID, "hash": OID}
    parts |= {"epoch": f"{'0' * 32}-1", "status": "pending", "name": "ann"}
    if case.path == "none":
        parts["rev"] = "none"
    address = re.sub(r"\{(\w+)\}", lambda field: parts[field[1]], path)
    if isinstance(case.body, dict):
        return address, json.loads(json.dumps(case.body).replace("{id}", name))
    return address, case.body


def test_no_route_is_left_out() -> None:
    routes = {(route.method, route.path) for route in ROUTES}
    assert routes == {key for key in CASES if key[0] != "HEAD"}


def test_everybody_is_let_in_where_they_may_and_told_the_right_thing_elsewhere(
    people: People,
) -> None:
    async def ask_all() -> list[str]:
        wrong = []
        for who, (namespace, _) in RIGHTS.items():
            for method, path, case in requests():
                for kind in KINDS:
                    name = f"{namespace}/{kind}"
                    address, body = filled(path, case, name)
                    answer = await people.asked(method, address, body, who)
                    wanted, said = expected(case.rule, who, kind), told(answer)
                    if wanted != said:
                        wrong.append(
                            f"{method} {address} by '{who}': {said} ({answer.status}), not {wanted}"
                        )
                    if path == "/api/repos/delete" and answer.status == 200:
                        plant(people, name)
        return wrong

    assert asyncio.run(ask_all()) == []


def test_what_is_private_answers_as_what_does_not_exist_to_the_byte(people: People) -> None:
    outside = [who for who, (_, right) in RIGHTS.items() if right not in (*ORDER, "bad")]
    assert len(outside) == 4

    def plain(answer: Answer, name: str) -> Any:
        headers = {key: text for key, text in answer.headers.items() if key != "x-request-id"}
        return (
            answer.status,
            json.dumps(headers).replace(name, "-"),
            answer.body.replace(name.encode(), b"-"),
        )

    async def compare_all() -> int:
        compared = 0
        for who in outside:
            namespace = RIGHTS[who][0]
            for method, path, case in requests():
                for accept in ("application/json", "text/html"):
                    found = []
                    for kind in ("private", "missing"):
                        address, body = filled(path, case, f"{namespace}/{kind}")
                        answer = await people.asked(method, address, body, who, {"accept": accept})
                        found.append(plain(answer, f"{namespace}/{kind}"))
                    assert found[0] == found[1], (who, method, path)
                    compared += 1
        return compared

    assert asyncio.run(compare_all()) == 4 * 2 * len(list(requests()))
