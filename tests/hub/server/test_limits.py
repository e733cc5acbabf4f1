"""How many requests one client may make: counted apart, told in headers, forgotten in time; and who
a client is behind a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import parse_ratelimit_headers

from hubtool.errors import HubError
from hubtool.hub.server import audit, limits, run
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.limits import WINDOW_S, Limiter, kind, network

from .people import People


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_left_is_told_and_then_refused_until_the_window_ends() -> None:
    clock = Clock()
    limiter = Limiter(2, clock)
    told = [parse_ratelimit_headers(limiter.take("api", "a")) for _ in range(2)]
    assert [(info.remaining, info.limit) for info in told if info] == [(1, 2), (0, 2)]
    clock.now += 100.5
    with pytest.raises(Refusal, match=f"try again in {WINDOW_S - 100} seconds") as caught:
        limiter.take("api", "a")
    refusal = caught.value
    assert (refusal.status, refusal.headers["Retry-After"]) == (429, str(WINDOW_S - 100))
    info = parse_ratelimit_headers(refusal.headers)
    assert info is not None
    assert (info.resource_type, info.remaining, info.reset_in_seconds, info.window_seconds) == (
        *("api", 0),
        *(WINDOW_S - 100, WINDOW_S),
    )
    clock.now += WINDOW_S - 100
    assert "r=1;t=300" in limiter.take("api", "a")["RateLimit"]


def test_clients_and_kinds_are_counted_apart() -> None:
    limiter = Limiter(1, Clock())
    for asked in (("api", "a"), ("api", "b"), ("pages", "a")):
        limiter.take(*asked)
        with pytest.raises(Refusal):
            limiter.take(*asked)


def test_no_quota_is_no_limit() -> None:
    limiter = Limiter(0, Clock())
    assert [limiter.take("api", "a") for _ in range(9)] == [{}] * 9


def test_a_flood_of_addresses_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_CLIENTS", 3)
    limiter = Limiter(2, Clock())
    for client in "abc":
        limiter.take("api", client)
    limiter.take("api", "d")
    limiter.take("api", "e")
    with pytest.raises(Refusal):
        limiter.take("api", "f")
    limiter.take("api", "a")
    assert len(limiter._counts) == 4


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_a_household_is_one_client(address: str, client: str) -> None:
    assert network(address) == client


@pytest.mark.parametrize(
    ("path", "counted"),
    [
        *[("/api/models", "api"), ("/axon/m/resolve/main/a", "resolvers"), ("/axon/m", "pages")],
        *[("/axon/m.git/info/lfs/objects/batch", "resolvers"), ("/xet/e/v1/shards", "resolvers")],
        *[("/axon/m/raw/main/a", "resolvers"), ("/", "pages"), ("/axon/m/tree/main", "pages")],
    ],
)
def test_a_path_is_of_one_kind(path: str, counted: str) -> None:
    assert kind(path) == counted


@pytest.fixture
def hub_of(tmp_path: Path) -> Iterator[Callable[..., People]]:
    made: list[People] = []

    def make(**settings: Any) -> People:
        made.append(People(tmp_path / "hub", settings=settings))
        return made[-1]

    yield make
    for people in made:
        people.close()


def test_every_answer_tells_what_is_left_and_the_last_is_a_429(
    hub_of: Callable[..., People],
) -> None:
    people = hub_of(limit=3)
    people.user("ann")
    people.user("ben")
    for bearer in ("ann", "ben", ""):
        told = [people.ask("GET", "/api/models", by=bearer) for _ in range(4)]
        assert [answer.status for answer in told] == [200, 200, 200, 429]
        info = [parse_ratelimit_headers(answer.headers) for answer in told]
        assert [each and (each.remaining, each.limit) for each in info] == [
            *((2, 3), (1, 3)),
            *((0, 3), (0, 3)),
        ]
        assert int(told[3].headers["retry-after"]) <= WINDOW_S
        assert "3 requests in 5 minutes" in told[3].message
    assert people.ask("GET", "/ann/m", by="ann").headers["ratelimit"].startswith('"pages";r=2')


def test_tokens_that_are_none_are_counted_by_address(hub_of: Callable[..., People]) -> None:
    people = hub_of(limit=2)
    people.user("ann")
    told = [people.ask("GET", "/api/models", by=f"hubtool_{n}").status for n in range(3)]
    assert told == [401, 401, 429]
    assert people.ask("GET", "/api/models", by="ann").status == 200


def test_who_needs_no_token_is_not_counted(hub_of: Callable[..., People]) -> None:
    people = hub_of(limit=1)
    answers = [people.ask("GET", "/api/models") for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    assert not any("ratelimit" in answer.headers for answer in answers)


def test_behind_a_proxy_addresses_are_those_that_it_tells(hub_of: Callable[..., People]) -> None:
    url = "https://hub.example.org"
    people = hub_of(limit=1, url=url, hosts=["hub.example.org"], open_writes=False)
    people.user("ann")

    def ask(address: str, method: str = "GET", path: str = "/api/models", **more: Any) -> Any:
        headers = {"host": "hub.example.org", "x-forwarded-for": f"6.6.6.6, {address}"}
        return people.ask(method, path, headers={**headers, **more.pop("headers", {})}, **more)

    assert [ask(each).status for each in ("192.0.2.1", "192.0.2.2", "192.0.2.1")] == [200, 200, 429]
    body = {"name": "m", "type": "model"}
    made = ask(
        "192.0.2.3", "POST", "/api/repos/create", body=body, by="ann", headers={"origin": url}
    )
    assert made.status == 200 and made.data["url"] == f"{url}/ann/m"
    with people.app.hub.meta.reading() as db:
        (event,) = audit.entries(db, action="repo.create")
    assert (event.user, event.address) == ("ann", "192.0.2.3")


def test_without_a_proxy_nobody_says_where_they_come_from(hub_of: Callable[..., People]) -> None:
    people = hub_of(limit=1)
    people.user("ann")
    told = [
        people.ask("GET", "/api/models", headers={"x-forwarded-for": f"192.0.2.{n}"}).status
        for n in range(2)
    ]
    assert told == [200, 429]


@pytest.mark.parametrize("proxy", ["hub.example.org", "ftp://x", "https://x/hub", "https://"])
def test_what_is_no_address_of_a_proxy_is_refused(tmp_path: Path, proxy: str) -> None:
    with pytest.raises(HubError, match="is no address of a proxy"):
        run.serve(tmp_path, port=0, proxy=proxy)
