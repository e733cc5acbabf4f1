"""Accounts: users, organisations, who belongs where, and the tokens that speak for a user.

A hub without users asks nobody who they are. What an account lets somebody do stands in `rights`;
who may change accounts is whoever may write the hub's folder, by `hubtool hub users | orgs |
tokens`. A server that runs over the folder asks the database each time, and so knows at once.

Only the SHA-256 of a token is stored. It needs no slow hash as a password does: 36 letters and
digits drawn by lot are more than anybody can try. It is looked up by that hash, so that the time
that takes says nothing of the secret.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sqlite3
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hubtool.errors import HubError, InputError
from hubtool.hub.server import errors
from hubtool.hub.server.audit import Actor, note
from hubtool.hub.server.meta import Meta, check_name
from hubtool.hub.server.meta_history import moment, now
from hubtool.hub.server.rights import ANYBODY, LOCAL, ROLES, Identity, Role

__all__ = [
    "ANYBODY",
    "LOCAL",
    "NOT_NAMESPACES",
    "ROLES",
    "Accounts",
    "Identity",
    "Org",
    "Role",
    "Token",
    "User",
]

NOT_NAMESPACES = {"api", "datasets", "spaces", "kernels", "buckets"}
RESERVED = NOT_NAMESPACES | {
    "anonymous",
    "join",
    "local",
    "login",
    "logout",
    "models",
    "openapi.json",
    "organizations",
    "settings",
    "xet",
}
"""What no account may be called: these mean something else in addresses, or in the audit log."""

PREFIX = "hubtool_"
LETTERS = string.ascii_letters + string.digits
SECRET_LENGTH = 36
SHAPE = re.compile(rf"{PREFIX}[A-Za-z0-9]{{{SECRET_LENGTH}}}")
LONGEST_TEXT = 200
USED_S = 3600
"""So long a token's last use may be out of date: it is written down no more often."""


@dataclass(frozen=True)
class User:
    """A user; admin: of the whole hub; orgs: with the role in each; tokens: how many there are."""

    name: str
    fullname: str
    admin: bool
    disabled: bool
    created: str
    orgs: dict[str, Role]
    tokens: int


@dataclass(frozen=True)
class Org:
    """An organisation, and its members with the role of each."""

    name: str
    fullname: str
    created: str
    members: dict[str, Role]


@dataclass(frozen=True)
class Token:
    """What is known of a token, which is all but its secret; dates in UTC, `used` to the hour."""

    id: str
    user: str
    name: str
    role: Role
    repos: tuple[str, ...] | None
    created: str
    expires: str | None
    used: str | None

    @property
    def expired(self) -> bool:
        """Whether its time has passed."""
        return self.expires is not None and self.expires <= now()


class Accounts:
    """The accounts of a hub. What changes them is noted in the audit log as done `by` somebody,
    and raises InputError for what cannot be a name, HubError for what the hub will not do."""

    def __init__(self, meta: Meta) -> None:
        self._meta = meta

    def exist(self) -> bool:
        """Whether the hub has users, and so asks everybody for a token."""
        with self._meta.reading() as db:
            found = db.execute("SELECT 1 FROM accounts WHERE kind = 'user' LIMIT 1").fetchone()
        return found is not None

    def identify(self, token: str) -> Identity | None:
        """Whom a token speaks for; None where it is unknown, expired or revoked, or where its user
        is disabled."""
        if not SHAPE.fullmatch(token):
            return None
        with self._meta.reading() as db:
            row = db.execute(
                "SELECT t.id, t.name, t.role, t.repos, t.expires, t.used, a.name, a.admin"
                " FROM tokens t JOIN accounts a ON a.name = t.user AND a.kind = 'user'"
                " WHERE t.hash = ? AND NOT a.disabled",
                (_hash(token),),
            ).fetchone()
            if row is None:
                return None
            number, token_name, role, repos, expires, used, name, admin = row
            if expires is not None and expires <= now():
                return None
            orgs = dict(db.execute("SELECT org, role FROM members WHERE user = ?", (name,)))
        self._stamp(number, used)
        return Identity(name, role, _scope(repos), bool(admin), orgs, number, token_name)

    def _stamp(self, number: str, used: str | None) -> None:
        """Write down that a token was used, where nobody did lately and nobody else writes now."""
        date = datetime.now(UTC)
        if used is not None and used > moment(date - timedelta(seconds=USED_S)):
            return
        with suppress(sqlite3.Error), self._meta.careless() as db:
            db.execute("PRAGMA busy_timeout = 0")
            db.execute("UPDATE tokens SET used = ? WHERE id = ?", (moment(date), number))

    def users(self) -> list[User]:
        """All users, by name."""
        with self._meta.reading() as db:
            return _users(db)

    def user(self, name: str) -> User:
        """One user. Raises HubError where there is none."""
        with self._meta.reading() as db:
            return _user(db, name)

    def add_user(self, name: str, *, fullname: str = "", admin: bool = False, by: Actor) -> User:
        """A new user."""
        with self._changing() as db:
            _add(db, name, "user", fullname, admin=admin)
            note(db, by, "user.add", name, admin=admin)
            return _user(db, name)

    def set_user(
        self,
        name: str,
        *,
        fullname: str | None = None,
        admin: bool | None = None,
        disabled: bool | None = None,
        by: Actor,
    ) -> User:
        """Change what is said of a user; a disabled one's tokens are refused until enabled."""
        given = {"fullname": fullname, "admin": admin, "disabled": disabled}
        changes = {key: value for key, value in given.items() if value is not None}
        _check_text(fullname or "", "a full name")
        with self._changing() as db:
            user = _user(db, name)
            for key, value in changes.items():
                db.execute(f"UPDATE accounts SET {key} = ? WHERE name = ?", (value, user.name))
            if changes:
                note(db, by, "user.set", user.name, **changes)
            return _user(db, name)

    def remove_user(self, name: str, *, by: Actor) -> None:
        """Remove a user who owns no repositories, with their tokens and memberships."""
        with self._changing() as db:
            user = _user(db, name)
            _check_owns_nothing(
                db,
                user.name,
                f"Move or delete them first; or: hubtool hub users set {user.name}"
                " --disable, which ends what their tokens can do.",
            )
            for table in ("tokens", "members", "sent", "access"):
                db.execute(f"DELETE FROM {table} WHERE user = ?", (user.name,))
            db.execute("DELETE FROM accounts WHERE name = ?", (user.name,))
            note(db, by, "user.remove", user.name)

    def orgs(self) -> list[Org]:
        """All organisations, by name."""
        with self._meta.reading() as db:
            return _orgs(db)

    def org(self, name: str) -> Org:
        """One organisation. Raises HubError where there is none."""
        with self._meta.reading() as db:
            return _org(db, name)

    def add_org(self, name: str, *, fullname: str = "", by: Actor) -> Org:
        """A new organisation, without members."""
        with self._changing() as db:
            _add(db, name, "org", fullname)
            note(db, by, "org.add", name)
            return _org(db, name)

    def remove_org(self, name: str, *, by: Actor) -> None:
        """Remove an organisation that owns no repositories."""
        with self._changing() as db:
            org = _org(db, name)
            _check_owns_nothing(db, org.name, "Move or delete them first.")
            db.execute("DELETE FROM members WHERE org = ?", (org.name,))
            db.execute("DELETE FROM accounts WHERE name = ?", (org.name,))
            note(db, by, "org.remove", org.name)

    def set_member(self, org: str, user: str, role: Role | None, *, by: Actor) -> Org:
        """Let a user have a role in an organisation, or none."""
        with self._changing() as db:
            found, member = _org(db, org), _user(db, user)
            if role is None and member.name not in found.members:
                raise HubError(
                    f"'{member.name}' is no member of '{found.name}'",
                    hint="hubtool hub orgs ls tells who is.",
                )
            db.execute("DELETE FROM members WHERE org = ? AND user = ?", (found.name, member.name))
            if role is not None:
                db.execute(
                    "INSERT INTO members(org, user, role) VALUES (?, ?, ?)",
                    (found.name, member.name, role),
                )
            note(db, by, "org.member", found.name, user=member.name, role=role)
            return _org(db, org)

    def tokens(self, user: str | None = None) -> list[Token]:
        """All tokens, or those of one user, who exists; the newest last."""
        with self._meta.reading() as db:
            name = None if user is None else _user(db, user).name
            rows = db.execute(
                f"SELECT {TOKEN} FROM tokens WHERE ?1 IS NULL OR user = ?1 ORDER BY created, id",
                (name,),
            )
            return [_token(row) for row in rows]

    def new_token(
        self,
        user: str,
        *,
        name: str = "",
        role: Role = "write",
        repos: Sequence[str] | None = None,
        expires: datetime | None = None,
        by: Actor,
    ) -> tuple[Token, str]:
        """A new token of a user, and its secret, which is told this once.

        name: what it is for; else its id. repos: what it is good for, "axon/*" or "axon/resnet34";
        None for all. expires: a moment to come; without a time zone it is of UTC.
        """
        _check_text(name, "a token's name")
        for pattern in repos or ():
            _check_name(f"{pattern[:-1]}any" if pattern.endswith("/*") else pattern)
        until = None if expires is None else moment(expires)
        if until is not None and until <= now():
            raise InputError(f"{until} has passed", hint="Name a moment to come, such as 30d.")
        secret = PREFIX + "".join(secrets.choice(LETTERS) for _ in range(SECRET_LENGTH))
        number = secrets.token_hex(6)
        name = name or number
        scope = None if repos is None else json.dumps(list(repos))
        with self._changing() as db:
            owner = _user(db, user).name
            if db.execute(
                "SELECT 1 FROM tokens WHERE user = ? AND name = ?", (owner, name)
            ).fetchone():
                raise HubError(
                    f"'{owner}' has a token '{name}' already",
                    hint="Choose another name, or revoke that one: hubtool hub tokens ls",
                )
            db.execute(
                f"INSERT INTO tokens({TOKEN}, hash) VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?)",
                (number, owner, name, role, scope, now(), until, _hash(secret)),
            )
            detail = {"token": number, "name": name, "role": role, "repos": repos}
            note(db, by, "token.new", owner, **detail, expires=until)
            row = db.execute(f"SELECT {TOKEN} FROM tokens WHERE id = ?", (number,)).fetchone()
            return _token(row), secret

    def revoke(self, number: str, *, by: Actor) -> Token:
        """End a token, by its public id, at once and for good."""
        with self._changing() as db:
            row = db.execute(f"SELECT {TOKEN} FROM tokens WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise HubError(
                    f"there is no token '{number}'", hint="hubtool hub tokens ls lists the ids."
                )
            token = _token(row)
            db.execute("DELETE FROM tokens WHERE id = ?", (number,))
            note(db, by, "token.revoke", token.user, token=token.id, name=token.name)
            return token

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction whose refusals are told as errors: nobody sent a request."""
        try:
            with self._meta.writing() as db:
                yield db
        except errors.Refusal as refusal:
            raise HubError(refusal.message) from refusal


TOKEN = "id, user, name, role, repos, created, expires, used"


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _scope(repos: str | None) -> tuple[str, ...] | None:
    return None if repos is None else tuple(json.loads(repos))


def _token(row: Sequence[str]) -> Token:
    number, user, name, role, repos, *dates = row
    return Token(number, user, name, role, _scope(repos), *dates)  # type: ignore[arg-type]


def _users(db: sqlite3.Connection, name: str | None = None) -> list[User]:
    rows = db.execute(
        "SELECT name, fullname, admin, disabled, created,"
        " (SELECT json_group_object(m.org, m.role) FROM members m WHERE m.user = a.name),"
        " (SELECT count(*) FROM tokens t WHERE t.user = a.name)"
        " FROM accounts a WHERE kind = 'user' AND (?1 IS NULL OR name = ?1) ORDER BY name",
        (name,),
    )
    return [
        User(own, fullname, bool(admin), bool(disabled), created, json.loads(orgs), tokens)
        for own, fullname, admin, disabled, created, orgs, tokens in rows
    ]


def _user(db: sqlite3.Connection, name: str) -> User:
    for user in _users(db, name):
        return user
    raise HubError(f"there is no user '{name}'", hint="hubtool hub users ls lists them.")


def _orgs(db: sqlite3.Connection, name: str | None = None) -> list[Org]:
    rows = db.execute(
        "SELECT name, fullname, created,"
        " (SELECT json_group_object(m.user, m.role) FROM members m WHERE m.org = a.name)"
        " FROM accounts a WHERE kind = 'org' AND (?1 IS NULL OR name = ?1) ORDER BY name",
        (name,),
    )
    return [Org(own, fullname, created, json.loads(who)) for own, fullname, created, who in rows]


def _org(db: sqlite3.Connection, name: str) -> Org:
    for org in _orgs(db, name):
        return org
    raise HubError(f"there is no organisation '{name}'", hint="hubtool hub orgs ls lists them.")


def _add(
    db: sqlite3.Connection, name: str, kind: str, fullname: str, *, admin: bool = False
) -> None:
    """A new account; nobody else may have its name, in whatever case."""
    _check_namespace(name)
    _check_text(fullname, "a full name")
    row = db.execute("SELECT name FROM accounts WHERE name = ?", (name,)).fetchone()
    if row is not None:
        raise HubError(
            f"there is an account '{row[0]}' already",
            hint="Users and organisations share their names: choose another.",
        )
    db.execute(
        "INSERT INTO accounts(name, kind, fullname, admin, disabled, created)"
        " VALUES (?, ?, ?, ?, 0, ?)",
        (name, kind, fullname, admin, now()),
    )


def _check_owns_nothing(db: sqlite3.Connection, name: str, hint: str) -> None:
    owned = [
        repo
        for (repo,) in db.execute(
            "SELECT name FROM repos WHERE author = ? COLLATE NOCASE ORDER BY name", (name,)
        )
    ]
    if owned:
        raise HubError(f"'{name}' owns repositories", problems=owned, hint=hint)


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except errors.Refusal as refusal:
        raise InputError(refusal.message) from refusal


def _check_namespace(name: str) -> None:
    """Raises InputError unless repositories can be called `name/...`."""
    if "/" in name or name.lower() in RESERVED:
        raise InputError(
            f"'{name}' cannot be the name of an account",
            hint="Choose one without '/', and none that means something else in addresses.",
        )
    _check_name(f"{name}/any")


def _check_text(text: str, what: str) -> None:
    if len(text) > LONGEST_TEXT or not text.isprintable():
        raise InputError(
            f"{text[:LONGEST_TEXT]!r} cannot be {what}",
            hint=f"Use at most {LONGEST_TEXT} printable characters.",
        )
