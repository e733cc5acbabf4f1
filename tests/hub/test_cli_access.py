"""Who may use a hub, as its owner says it: `hubtool hub users`, `orgs`, `tokens`, `audit`."""

from __future__ import annotations

import json
import os
import pwd
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hubtool.cli import cli
from hubtool.errors import HubError
from hubtool.hub import care
from hubtool.hub.server.accounts import Accounts
from hubtool.hub.server.meta import Meta

ME = f"shell:{pwd.getpwuid(os.getuid()).pw_name}"


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["hub", *map(str, arguments)], prog_name="hubtool")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def listed(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def ann(home: Path) -> Path:
    """The embedded hub with one user."""
    run("users", "add", "ann")
    return home / "hub"


def test_users_come_change_and_go(home: Path) -> None:
    told = run("users", "add", "ann", "--fullname", "Ann Smith")
    assert told.stdout == "" and "writing needs a token" in told.stderr
    assert "hubtool hub tokens new ann" in told.stderr
    assert "writing needs" not in run("users", "add", "Root", "--admin").stderr
    assert [(user["name"], user["admin"]) for user in listed("users", "ls")] == [
        ("ann", False),
        ("Root", True),
    ]
    run("users", "set", "ANN", "--admin", "--disable", "--fullname", "A. Smith")
    user = listed("users", "ls")[0]
    assert (user["admin"], user["disabled"], user["fullname"]) == (True, True, "A. Smith")
    run("users", "set", "ann", "--no-admin", "--enable")
    user = listed("users", "ls")[0]
    assert (user["admin"], user["disabled"], user["fullname"]) == (False, False, "A. Smith")
    table = run("users", "ls").stdout
    head, ann, root = table.splitlines()
    assert head.split() == ["user", "full", "name", "state", "organisations", "tokens", "since"]
    assert "A. Smith" in ann and "admin" not in ann and "admin" in root
    assert run("users", "rm", "root").stderr == ""
    assert "may write again" in run("users", "rm", "ann").stderr
    assert listed("users", "ls") == []
    assert "no users" in run("users", "ls").stderr


def test_organisations_and_their_members(ann: Path) -> None:
    assert "orgs member axon" in run("orgs", "add", "axon", "--fullname", "Axon models").stderr
    run("orgs", "member", "axon", "ann", "--role", "write")
    (org,) = listed("orgs", "ls")
    assert (org["name"], org["fullname"], org["members"]) == (
        "axon",
        "Axon models",
        {"ann": "write"},
    )
    assert "ann: write" in run("orgs", "ls").stdout
    assert listed("users", "ls")[0]["orgs"] == {"axon": "write"}
    run("orgs", "member", "axon", "ann", "--remove")
    assert listed("orgs", "ls")[0]["members"] == {}
    run("orgs", "rm", "axon")
    assert listed("orgs", "ls") == []
    assert "no organisations" in run("orgs", "ls").stderr


def test_a_secret_stands_alone_on_stdout_and_is_shown_once(ann: Path) -> None:
    told = run("tokens", "new", "ann", "--name", "laptop", "--repo", "axon/*", "--repo", "ann/x")
    secret = told.stdout.removesuffix("\n")
    assert secret.startswith("hubtool_") and secret.isidentifier()
    assert "this once" in told.stderr and secret not in told.stderr
    with closing(Meta(ann)) as meta:
        identity = Accounts(meta).identify(secret)
    assert identity is not None and identity.repos == ("axon/*", "ann/x")
    for later in (("tokens", "ls"), ("tokens", "ls", "--json"), ("audit", "--json")):
        assert secret[8:] not in run(*later).output
    assert not [
        path for path in ann.rglob("*") if path.is_file() and secret in path.read_text("l1")
    ]


def test_a_token_is_told_whole_as_json(ann: Path) -> None:
    before = datetime.now(UTC)
    made = listed("tokens", "new", "ann", "--name", "ci", "--role", "read", "--expires", "12h")
    assert (made["user"], made["name"], made["role"], made["repos"]) == ("ann", "ci", "read", None)
    ends = datetime.fromisoformat(made["expires"]) - timedelta(hours=12)
    assert before - timedelta(seconds=1) <= ends <= datetime.now(UTC)
    with closing(Meta(ann)) as meta:
        identity = Accounts(meta).identify(made["secret"])
    assert identity is not None and identity.role == "read"
    (token,) = listed("tokens", "ls", "ann")
    assert token["id"] == made["id"] and token["used"] is not None and not token["expired"]


@pytest.mark.parametrize(
    ("given", "ends"),
    [
        ("2100-01-01", "2100-01-01T00:00:00.000Z"),
        ("2100-01-01T12:30", "2100-01-01T12:30:00.000Z"),
        ("2100-01-01T12:30+02:00", "2100-01-01T10:30:00.000Z"),
    ],
)
def test_an_end_is_a_moment_in_utc(ann: Path, given: str, ends: str) -> None:
    run("tokens", "new", "ann", "--name", "ci", "--expires", given)
    assert listed("tokens", "ls")[0]["expires"] == ends
    assert ends in run("tokens", "ls").stdout


@pytest.mark.parametrize("given", ["soon", "30", "-1d", "1y", "999999w", "2100-13-01", ""])
def test_an_end_that_is_no_time_is_wrong_usage(ann: Path, given: str) -> None:
    assert (
        "is no time"
        in run("tokens", "new", "ann", "--name", "ci", f"--expires={given}", code=2).stderr
    )
    assert listed("tokens", "ls") == []


def test_a_revoked_token_is_gone(ann: Path) -> None:
    made = listed("tokens", "new", "ann", "--name", "ci")
    assert "ci is revoked" in run("tokens", "revoke", made["id"]).stderr
    assert listed("tokens", "ls") == []
    assert "no tokens" in run("tokens", "ls").stderr
    assert "tokens ls" in run("tokens", "revoke", made["id"], code=1).stderr


def test_a_running_server_knows_at_once(ann: Path) -> None:
    with closing(Meta(ann)) as meta:
        accounts = Accounts(meta)
        made = listed("tokens", "new", "ann", "--name", "ci")
        assert accounts.exist() and accounts.identify(made["secret"]) is not None
        run("users", "set", "ann", "--disable")
        assert accounts.identify(made["secret"]) is None
        run("users", "set", "ann", "--enable")
        assert accounts.identify(made["secret"]) is not None
        run("users", "rm", "ann")
        assert not accounts.exist() and accounts.identify(made["secret"]) is None


def test_who_owns_repositories_is_not_removed_and_told_what_to_do(ann: Path) -> None:
    with closing(Meta(ann)) as meta:
        meta.create("ann/net")
    told = run("users", "rm", "ann", code=1).stderr
    assert "ann/net" in told and "users set ann --disable" in told
    assert [user["name"] for user in listed("users", "ls")] == ["ann"]


def test_everything_that_was_changed_is_in_the_audit_log(ann: Path) -> None:
    run("orgs", "add", "axon")
    run("orgs", "member", "axon", "ann", "--role", "admin")
    made = listed("tokens", "new", "ann", "--name", "ci", "--repo", "axon/*")
    run("tokens", "revoke", made["id"])
    run("users", "set", "ann", "--admin")
    run("users", "rm", "carl", code=1)
    found = listed("audit")
    assert [event["action"] for event in found] == [
        "user.set",
        "token.revoke",
        "token.new",
        "org.member",
        "org.add",
        "user.add",
    ]
    assert {event["user"] for event in found} == {ME}
    assert found[2]["detail"]["repos"] == ["axon/*"]
    assert listed("audit", "--action", "token") == found[1:3]
    assert listed("audit", "--repo", "AXON", "--user", ME, "--since", "1h") == found[3:5]
    assert listed("audit", "--limit", "1") == found[:1]
    assert listed("audit", "--since", "2100-01-01") == listed("audit", "--user", "bob") == []
    assert "Nothing" in run("audit", "--user", "bob").stderr
    table = run("audit", "--action", "token.new").stdout
    assert ME in table and "name: ci" in table and "repos: axon/*" in table


def test_what_strangers_wrote_cannot_move_the_cursor(ann: Path) -> None:
    from hubtool.hub.server.audit import Actor, note

    with closing(Meta(ann)) as meta, meta.writing() as db:
        note(db, Actor("x\x1b[2J"), "commit\x07", "a\nb", title="\x1b]0;x\x07")
    for told in (run("audit").stdout, run("audit", "--json").stdout):
        assert not [char for char in told if not char.isprintable() and char != "\n"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("users", "add", "ANN"), 1, "already"),
        (("users", "add", "api"), 1, "cannot be the name"),
        (("users", "add", "a b"), 1, "cannot be a repository's name"),
        (("users", "add", "bob", "--fullname", "\x1b[31m"), 1, "cannot be a full name"),
        (("users", "set", "bob", "--admin"), 1, "users ls"),
        (("users", "set", "ann"), 2, "--disable"),
        (("users", "rm", "bob"), 1, "users ls"),
        (("orgs", "add", "ann"), 1, "share their names"),
        (("orgs", "rm", "axon"), 1, "orgs ls"),
        (("orgs", "member", "axon", "ann", "--role", "read"), 1, "orgs ls"),
        (("orgs", "member", "axon", "ann"), 2, "--remove"),
        (("orgs", "member", "axon", "ann", "--role", "read", "--remove"), 2, "--remove"),
        (("orgs", "member", "axon", "ann", "--role", "owner"), 2, "admin"),
        (("tokens", "new", "bob", "--name", "x"), 1, "users ls"),
        (("tokens", "new"), 2, "USER"),
        (("tokens", "new", "ann", "--name", "x", "--repo", "*"), 1, "cannot be"),
        (("tokens", "new", "ann", "--name", "x", "--expires", "2020-01-01"), 1, "has passed"),
        (("tokens", "ls", "bob"), 1, "users ls"),
        (("audit", "--limit", "0"), 2, "--limit"),
    ],
)
def test_what_is_wrong_is_told_with_the_next_step(
    ann: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    before = listed("audit")
    result = run(*arguments, code=code)
    assert told in result.stderr and result.stdout == ""
    assert "\x1b" not in result.stderr
    assert listed("audit") == before


def test_a_hub_is_made_for_its_first_account_in_an_empty_folder_only(
    home: Path, tmp_path: Path
) -> None:
    for listing in (("users", "ls"), ("orgs", "ls"), ("tokens", "ls"), ("audit",)):
        assert "there is no hub in" in run(*listing, code=1).stderr
    assert not (home / "hub").exists()
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    assert "there is no hub in" in run("users", "add", "ann", "--hub", full, code=1).stderr
    assert [path.name for path in full.iterdir()] == ["thesis.txt"]
    run("orgs", "add", "axon", "--hub", empty)
    run("users", "add", "ann", "--hub", empty)
    assert [user["name"] for user in listed("users", "ls", "--hub", empty)] == ["ann"]
    assert "no folder" in run("users", "add", "ann", "--hub", tmp_path / "none", code=1).stderr
    assert "is no folder" in run("users", "ls", "--hub", "http://127.0.0.1", code=1).stderr


def test_somebody_without_a_name_is_noted_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(number: int) -> Any:
        raise KeyError(number)

    assert care.shell().user == ME
    monkeypatch.setattr(pwd, "getpwuid", nameless)
    assert care.shell().user == f"shell:{os.getuid()}"


def test_a_hub_that_is_too_busy_says_so(ann: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hubtool.hub.server import meta_database

    monkeypatch.setattr(meta_database, "WAIT_MS", 50)
    with (
        closing(Meta(ann)) as meta,
        care.accounts(ann) as known,
        meta.writing(),
        pytest.raises(HubError, match="busy"),
    ):
        known.add_org("axon", by=care.shell())
