"""Who an account is, what its tokens let it do, and when they no longer do."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtool.errors import HubError, InputError
from hubtool.hub.server import accounts as room
from hubtool.hub.server import meta_database
from hubtool.hub.server.accounts import ANYBODY, LOCAL, ROLES, Accounts, Identity, Role
from hubtool.hub.server.audit import Actor, entries
from hubtool.hub.server.check import check
from hubtool.hub.server.meta import Meta
from hubtool.hub.server.meta_history import moment
from hubtool.hub.server.reindex import rebuild

BY = Actor("shell:me")


@pytest.fixture
def meta(tmp_path: Path) -> Iterator[Meta]:
    with closing(Meta(tmp_path)) as meta:
        yield meta


@pytest.fixture
def accounts(meta: Meta) -> Accounts:
    """ann, who writes in axon; bob, who reads there; root, who runs the hub."""
    accounts = Accounts(meta)
    for name in ("Ann", "bob"):
        accounts.add_user(name, by=BY)
    accounts.add_user("root", admin=True, by=BY)
    accounts.add_org("axon", fullname="Axon models", by=BY)
    accounts.set_member("axon", "ann", "write", by=BY)
    accounts.set_member("axon", "bob", "read", by=BY)
    return accounts


def token(accounts: Accounts, user: str, name: str = "laptop", **more: Any) -> str:
    _, secret = accounts.new_token(user, name=name, by=BY, **more)
    return secret


def who(accounts: Accounts, secret: str) -> Identity:
    identity = accounts.identify(secret)
    assert identity is not None
    return identity


def at(monkeypatch: pytest.MonkeyPatch, later: timedelta) -> None:
    """Let the server's clock be so much later."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + later

    monkeypatch.setattr(room, "datetime", Clock)
    monkeypatch.setattr(room, "now", lambda: moment(datetime.now(UTC) + later))


RIGHTS: list[tuple[str, Role, tuple[str, ...] | None, dict[str, Role | None]]] = [
    ("ann", "admin", None, {"ann/x": "admin", "ANN/X": "admin", "axon/x": "write", "bob/x": None}),
    ("ann", "admin", None, {"ann": None, "axon": None, "axonics/x": None, "axo/x": None}),
    ("ann", "read", None, {"ann/x": "read", "axon/x": "read", "gpt2": None, "annex/x": None}),
    ("ann", "write", ("axon/*",), {"axon/x": "write", "ann/x": None, "axon": None}),
    ("ann", "admin", ("Axon/X", "ann/y"), {"axon/x": "write", "axon/xy": None, "ann/y": "admin"}),
    ("bob", "admin", None, {"axon/x": "read", "AXON/x": "read", "bob/x": "admin", "ann": None}),
    ("root", "admin", None, {"ann/x": "admin", "gpt2": "admin", "nobody/x": "admin"}),
    ("root", "write", ("gpt2", "axon/*"), {"axon/x": "write", "gpt2": "write", "ann/x": None}),
    ("root", "write", ("axon/*",), {"axon": None, "gpt2": None, "AXON/x": "write"}),
    ("root", "admin", (), {"axon/x": None, "root/x": None}),
]


@pytest.mark.parametrize(("user", "role", "repos", "rights"), RIGHTS)
def test_a_token_gives_what_its_user_may_within_its_role_and_scope(
    accounts: Accounts,
    user: str,
    role: Role,
    repos: tuple[str, ...] | None,
    rights: dict[str, Role | None],
) -> None:
    identity = who(accounts, token(accounts, user, role=role, repos=repos))
    assert {name: identity.right(name) for name in rights} == rights
    for name, right in rights.items():
        held = -1 if right is None else ROLES.index(right)
        assert [identity.may(name, asked) for asked in ROLES] == [held >= n for n in range(3)]


def test_nobody_may_nothing_and_the_folders_owner_everything() -> None:
    for name in ("axon/x", "gpt2", "/x", "/", "local/x"):
        assert ANYBODY.right(name) is None
        assert LOCAL.right(name) == "admin"
    assert Identity("", admin=True, role="admin").right("axon/x") is None


@given(
    st.sampled_from(ROLES),
    st.none() | st.lists(st.sampled_from(["a/*", "b/*", "a/x", "b/x", "x"])).map(tuple),
    st.booleans(),
    st.dictionaries(st.sampled_from(["b", "c"]), st.sampled_from(ROLES)),
    st.sampled_from(["a/x", "a/y", "b/x", "c/x", "x"]),
)
def test_a_token_never_gives_more_than_its_user_has(
    role: Role, repos: tuple[str, ...] | None, admin: bool, orgs: dict[str, Role], repo: str
) -> None:
    user = Identity("a", "admin", None, admin, orgs)
    limited = Identity("a", role, repos, admin, orgs)
    for asked in ROLES:
        assert user.may(repo, asked) or not limited.may(repo, asked)
        assert ROLES.index(role) >= ROLES.index(asked) or not limited.may(repo, asked)


def test_who_a_token_speaks_for(accounts: Accounts) -> None:
    made, secret = accounts.new_token("ANN", name="laptop", repos=["axon/*"], by=BY)
    assert re.fullmatch(r"hubtool_[A-Za-z0-9]{36}", secret)
    assert who(accounts, secret) == Identity(
        "Ann", "write", ("axon/*",), False, {"axon": "write"}, made.id, "laptop"
    )
    assert (made.user, made.name, made.role, made.expires, made.used) == (
        "Ann", "laptop", "write", None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong", ["", "hubtool_", "local", "hubtool_" + "a" * 36, "hf_" + "a" * 36, "\0", "x" * 10**6]
)
def test_what_is_no_token_speaks_for_nobody(accounts: Accounts, wrong: str) -> None:
    secret = token(accounts, "ann")
    assert accounts.identify(wrong) is None
    for near in (secret.swapcase(), secret + "a", secret[:-1], f" {secret}", secret + "\n"):
        assert accounts.identify(near) is None
    assert accounts.identify(secret) is not None


def test_a_secret_is_nowhere_on_the_disk(accounts: Accounts, meta: Meta, tmp_path: Path) -> None:
    secret = token(accounts, "ann")
    assert who(accounts, secret).name == "Ann"
    places = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"hub.db", "hub.journal"} <= {path.name for path in places}
    assert not [path for path in places if secret[8:].encode() in path.read_bytes()]


def test_secrets_and_ids_differ(accounts: Accounts) -> None:
    made = [accounts.new_token("ann", name=str(number), by=BY) for number in range(50)]
    assert len({secret for _, secret in made}) == len({each.id for each, _ in made}) == 50


def test_a_token_ends_when_its_time_is_over(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    secret = token(accounts, "ann", expires=until)
    assert who(accounts, secret).name == "Ann"
    assert not accounts.tokens("ann")[0].expired
    at(monkeypatch, timedelta(minutes=59))
    assert accounts.identify(secret) is not None
    at(monkeypatch, timedelta(minutes=61))
    assert accounts.identify(secret) is None
    (listed,) = accounts.tokens("ann")
    assert listed.expired and listed.expires == moment(until)


def test_an_end_in_another_zone_is_the_same_moment_and_one_that_has_passed_is_refused(
    accounts: Accounts,
) -> None:
    east = datetime.fromisoformat("2100-01-01T00:00:00+02:00")
    made, _ = accounts.new_token("ann", name="east", expires=east, by=BY)
    assert made.expires == "2099-12-31T22:00:00.000Z"
    made, _ = accounts.new_token("ann", name="utc", expires=datetime(2100, 1, 1), by=BY)
    assert made.expires == "2100-01-01T00:00:00.000Z"
    with pytest.raises(InputError, match="has passed"):
        accounts.new_token("ann", name="late", expires=datetime(2020, 1, 1), by=BY)


def test_a_revoked_token_ends_at_once_and_others_do_not(accounts: Accounts) -> None:
    made, secret = accounts.new_token("ann", name="laptop", by=BY)
    other = token(accounts, "ann", "ci")
    assert accounts.revoke(made.id, by=BY) == made
    assert accounts.identify(secret) is None and accounts.identify(other) is not None
    assert [each.name for each in accounts.tokens("ann")] == ["ci"]
    with pytest.raises(HubError, match=made.id):
        accounts.revoke(made.id, by=BY)
    assert token(accounts, "ann", "laptop") != secret  # its name is free again


def test_a_disabled_users_tokens_are_refused_until_they_are_enabled(accounts: Accounts) -> None:
    secret = token(accounts, "ann")
    assert accounts.set_user("ANN", disabled=True, by=BY).disabled
    assert accounts.identify(secret) is None
    assert not accounts.set_user("ann", disabled=False, by=BY).disabled
    assert accounts.identify(secret) is not None


def test_the_last_use_is_written_down_once_an_hour(
    accounts: Accounts, meta: Meta, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = token(accounts, "ann")
    who(accounts, secret)
    first = accounts.tokens("ann")[0].used
    assert first is not None
    at(monkeypatch, timedelta(minutes=59))
    who(accounts, secret)
    assert accounts.tokens("ann")[0].used == first
    at(monkeypatch, timedelta(minutes=61))
    who(accounts, secret)
    assert (accounts.tokens("ann")[0].used or "") > first
    assert check(tmp_path).problems == []  # though the journal does not tell of it


def test_a_request_neither_fails_nor_waits_where_the_last_use_cannot_be_written(
    accounts: Accounts, meta: Meta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_database, "COUNT_WAIT_MS", 3_600_000)
    secret = token(accounts, "ann")
    found: list[Identity | None] = []
    asking = threading.Thread(target=lambda: found.append(accounts.identify(secret)))
    with meta.writing() as db:
        db.execute("UPDATE repos SET likes = 0")
        asking.start()
        asking.join(60)
        assert found == [who(accounts, secret)]
        assert accounts.tokens("ann")[0].used is None
    who(accounts, secret)
    assert accounts.tokens("ann")[0].used is not None


def test_a_token_of_what_is_no_user_speaks_for_nobody(accounts: Accounts, meta: Meta) -> None:
    secret = token(accounts, "ann")
    with meta.writing() as db:  # as a journal could tell that is not whole
        db.execute("UPDATE accounts SET kind = 'org' WHERE name = 'ann'")
    assert accounts.identify(secret) is None


def test_asking_who_somebody_is_walks_over_no_table(accounts: Accounts, meta: Meta) -> None:
    secret = token(accounts, "ann")
    who(accounts, secret)
    asked: list[str] = []
    with meta.reading() as db:
        db.set_trace_callback(asked.append)  # this connection is lent to the next who reads
    who(accounts, secret)
    accounts.exist()
    with meta.reading() as db:
        db.set_trace_callback(None)
        queries = [query for query in asked if query.startswith("SELECT")]
        plans = [step[3] for query in queries for step in db.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert len(queries) == 3
    assert [plan for plan in plans if plan.startswith("SCAN")] == [
        "SCAN accounts USING INDEX accounts_users"  # of which it reads the first row
    ]


def test_a_hub_has_users_or_none(accounts: Accounts, tmp_path: Path) -> None:
    with closing(Meta(tmp_path)) as other:
        assert Accounts(other).exist()
        for name in ("ann", "bob"):
            accounts.remove_user(name, by=BY)
        accounts.set_user("root", disabled=True, by=BY)
        assert Accounts(other).exist()  # else whoever disables the last would open the hub
        accounts.remove_user("root", by=BY)
        assert not Accounts(other).exist()  # an organisation is nobody


def test_names_are_compared_without_case_and_shared(accounts: Accounts) -> None:
    for name in ("ann", "ANN", "Axon"):
        for add in (accounts.add_user, accounts.add_org):
            with pytest.raises(HubError, match="already"):
                add(name, by=BY)
    assert [user.name for user in accounts.users()] == ["Ann", "bob", "root"]
    assert accounts.user("aNN").name == "Ann" and accounts.org("AXON").name == "axon"
    for lookup in (accounts.user, accounts.tokens, accounts.org):
        with pytest.raises(HubError, match="there is no"):
            lookup("carl")
    with pytest.raises(HubError, match="no user 'axon'"):
        accounts.user("axon")
    with pytest.raises(HubError, match="no organisation 'ann'"):
        accounts.org("ann")


@pytest.mark.parametrize(
    "name",
    [
        *("", "a/b", "/", "-a", "a.", "a--b", "a..b", "x" * 97, "ä", "a b", "a.git/", "\0", "a\n"),
        *("api", "API", "datasets", "local", "models", "anonymous", "*"),
    ],
)
def test_a_name_that_repositories_cannot_have_is_no_accounts(accounts: Accounts, name: str) -> None:
    for add in (accounts.add_user, accounts.add_org):
        with pytest.raises(InputError):
            add(name, by=BY)
    assert len(accounts.users()) == 3 and len(accounts.orgs()) == 1


@pytest.mark.parametrize("repo", ["", "/", "*", "*/*", "a/*/*", "a/x*", "/*", "a/", "a/b/c", "ä/x"])
def test_a_scope_that_no_repository_fits_is_refused(accounts: Accounts, repo: str) -> None:
    with pytest.raises(InputError, match="cannot be"):
        accounts.new_token("ann", name="laptop", repos=["axon/*", repo], by=BY)
    assert accounts.tokens() == []


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "x" * 201])
def test_texts_that_could_disturb_a_terminal_are_refused(accounts: Accounts, text: str) -> None:
    with pytest.raises(InputError):
        accounts.add_user("carl", fullname=text, by=BY)
    with pytest.raises(InputError):
        accounts.set_user("ann", fullname=text, by=BY)
    with pytest.raises(InputError):
        accounts.new_token("ann", name=text, by=BY)


def test_a_token_without_a_name_is_called_by_its_id(accounts: Accounts) -> None:
    made, secret = accounts.new_token("ann", by=BY)
    assert made.name == made.id == who(accounts, secret).token_name


def test_a_user_has_one_token_of_a_name(accounts: Accounts) -> None:
    token(accounts, "ann")
    token(accounts, "bob")
    with pytest.raises(HubError, match="'Ann' has a token 'laptop'"):
        token(accounts, "ann")


def test_a_role_is_one_of_three(accounts: Accounts) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        accounts.new_token("ann", name="laptop", role="owner", by=BY)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        accounts.set_member("axon", "ann", "owner", by=BY)  # type: ignore[arg-type]
    assert accounts.org("axon").members["Ann"] == "write"


def test_members_come_change_and_go(accounts: Accounts) -> None:
    secret = token(accounts, "bob", role="admin")
    assert accounts.set_member("AXON", "BOB", "admin", by=BY).members == {
        "Ann": "write",
        "bob": "admin",
    }
    assert who(accounts, secret).right("axon/x") == "admin"
    assert accounts.user("bob").orgs == {"axon": "admin"}
    assert accounts.set_member("axon", "bob", None, by=BY).members == {"Ann": "write"}
    assert who(accounts, secret).right("axon/x") is None
    with pytest.raises(HubError, match="no member"):
        accounts.set_member("axon", "bob", None, by=BY)
    for org, user in (("axon", "carl"), ("axon", "axon"), ("ann", "bob"), ("none", "ann")):
        with pytest.raises(HubError, match="there is no"):
            accounts.set_member(org, user, "read", by=BY)


def test_who_owns_repositories_is_not_removed(accounts: Accounts, meta: Meta) -> None:
    for name in ("ann/x", "ANN/y", "axon/z"):
        meta.create(name)
    with pytest.raises(HubError, match="owns repositories") as caught:
        accounts.remove_user("ann", by=BY)
    assert caught.value.problems == ["ANN/y", "ann/x"] and "--disable" in caught.value.hint
    with pytest.raises(HubError, match="owns repositories") as caught:
        accounts.remove_org("axon", by=BY)
    assert caught.value.problems == ["axon/z"]


def test_with_a_user_go_their_tokens_memberships_and_grants(accounts: Accounts, meta: Meta) -> None:
    repo = meta.create("axon/gated")
    secret = token(accounts, "ann")
    with meta.writing() as db:
        db.execute("INSERT INTO access(repo, user, status, date) VALUES (?, 'ann', 'accepted', '')",
                   (repo.id,))  # fmt: skip
        db.execute("INSERT INTO sent VALUES ('ann', ?, '')", ("0" * 64,))
    accounts.remove_user("ann", by=BY)
    accounts.add_user("ann", by=BY)
    assert accounts.identify(secret) is None
    assert accounts.user("ann").orgs == {} and accounts.tokens("ann") == []
    with meta.reading() as db:
        for table in ("access", "sent", "members"):
            assert not db.execute(f"SELECT 1 FROM {table} WHERE user = 'ann'").fetchone(), table


def test_with_an_organisation_go_its_memberships(accounts: Accounts) -> None:
    accounts.remove_org("AXON", by=BY)
    assert accounts.user("ann").orgs == {} and accounts.orgs() == []
    accounts.add_org("axon", by=BY)
    assert accounts.org("axon").members == {}


def test_with_a_repository_go_the_wishes_to_read_it(
    accounts: Accounts, meta: Meta, tmp_path: Path
) -> None:
    repo, other = meta.create("axon/gated"), meta.create("axon/other")
    with meta.writing() as db:
        db.executemany(
            "INSERT INTO access(repo, user, status, date) VALUES (?, 'ann', 'pending', '')",
            [(repo.id,), (other.id,)],
        )
    meta.delete(repo.name)
    with meta.reading() as db:
        assert db.execute("SELECT repo FROM access").fetchall() == [(other.id,)]
    assert check(tmp_path).problems == []  # the journal tells of it too


def test_accounts_come_back_from_the_journal(accounts: Accounts, tmp_path: Path) -> None:
    secret = token(accounts, "ann", repos=["axon/*"])
    gone, lost = accounts.new_token("ann", name="gone", by=BY)
    accounts.revoke(gone.id, by=BY)
    before = (accounts.users(), accounts.orgs(), accounts.tokens())
    accounts._meta.close()
    (tmp_path / "hub.db").unlink()
    rebuild(tmp_path)
    with closing(Meta(tmp_path)) as meta:
        again = Accounts(meta)
        assert (again.users(), again.orgs(), again.tokens()) == before
        assert again.identify(lost) is None
        assert who(again, secret).right("axon/x") == "write"


def test_every_change_is_noted_with_who_made_it_and_no_secret(
    accounts: Accounts, meta: Meta
) -> None:
    made, secret = accounts.new_token("ann", name="laptop", by=Actor("shell:you"))
    accounts.revoke(made.id, by=BY)
    accounts.set_user("bob", admin=True, disabled=False, by=BY)
    accounts.set_user("bob", by=BY)  # changes nothing
    accounts.set_member("axon", "bob", None, by=BY)
    accounts.remove_user("bob", by=BY)
    accounts.remove_org("axon", by=BY)
    with meta.reading() as db:
        found = entries(db)[:7]
    assert [(event.action, event.subject, event.user) for event in reversed(found)] == [
        ("org.member", "axon", "shell:me"),
        ("token.new", "Ann", "shell:you"),
        ("token.revoke", "Ann", "shell:me"),
        ("user.set", "bob", "shell:me"),
        ("org.member", "axon", "shell:me"),
        ("user.remove", "bob", "shell:me"),
        ("org.remove", "axon", "shell:me"),
    ]
    assert found[3].detail == {"admin": True, "disabled": False}
    assert found[5].detail["token"] == made.id and secret not in str(found)


def test_what_is_refused_is_not_noted(accounts: Accounts, meta: Meta) -> None:
    with meta.reading() as db:
        before = entries(db)
    for refused in (
        lambda: accounts.add_user("ann", by=BY),
        lambda: accounts.set_member("axon", "carl", "read", by=BY),
        lambda: accounts.revoke("none", by=BY),
    ):
        with pytest.raises(HubError):
            refused()
    with meta.reading() as db:
        assert entries(db) == before
    assert len(before) == 6
