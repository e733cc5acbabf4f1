"""The document beside the routes: it says what there is, no more and no less."""

from __future__ import annotations

import re
from typing import Any

from hubtool.hub.server.app import ROUTES
from hubtool.hub.server.names import BELOW

from .conftest import ask


def test_the_document_has_the_paths_and_methods_of_the_routes(url: str) -> None:
    document = ask(url, "GET", "/openapi.json").data
    assert document["openapi"].startswith("3.1")
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert told == {(route.method, route.path) for route in ROUTES}
    assert len(told) == len(ROUTES)


def test_every_operation_has_a_name_of_its_own_and_the_parameters_of_its_path(url: str) -> None:
    document = ask(url, "GET", "/openapi.json").data
    operations = [
        (path, operation) for path, item in document["paths"].items() for operation in item.values()
    ]
    assert len({operation["operationId"] for _, operation in operations}) == len(operations)
    for path, operation in operations:
        names = {
            name
            for name in (
                reference(one, document)["name"] for one in operation.get("parameters", [])
            )
            if f"{{{name}}}" in path
        }
        assert names == set(re.findall(r"\{(\w+)\}", path)), path


def test_every_reference_leads_somewhere(url: str) -> None:
    document = ask(url, "GET", "/openapi.json").data
    found = re.findall(r'"\$ref": ?"([^"]+)"', ask(url, "GET", "/openapi.json").body.decode())
    assert len(found) > 50
    for name in found:
        assert reference({"$ref": name}, document)


def reference(value: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` stands for."""
    for part in value.get("$ref", "").split("/")[1:]:
        value = document = document[part]
    return value


def test_a_writing_route_is_never_a_get() -> None:
    guarded = {"write", "admin"}
    reading = [route for route in ROUTES if route.needs in guarded and route.method == "GET"]
    assert {route.path for route in reading} == {
        "/api/models/{id}/user-access-request/{status}",  # who asked is for who decides
        "/api/models/{id}/auth-check/write",  # asks whether one may
        "/api/models/{id}/lfs-files",  # looks at every commit, for who is to clean up
        "/api/models/{id}/xet-write-token/{rev}",
    }
    unguarded = [route for route in ROUTES if route.needs not in {*guarded, "user"}]
    assert {route.path for route in unguarded if route.method != "GET"} == {
        "/api/validate-yaml",
        "/api/models/{id}/paths-info/{rev}",
        "/{id}/ask-access",  # of whoever is logged in
        "/{id}.git/info/lfs/objects/batch",  # decides by its operation
        "/{id}.git/info/lfs/objects/{oid}",  # decides by its signature
        "/xet/{epoch}/v1/xorbs/default/{hash}",  # decide by a token of their own
        "/xet/{epoch}/v1/shards",
    }


def test_no_repository_may_be_called_like_a_route_below_one() -> None:
    below = {
        route.path.rpartition("/")[2]
        for route in ROUTES
        if re.fullmatch(r"/api/models/\{id\}/[\w-]+", route.path) and route.method == "GET"
    }
    assert below == BELOW
