"""The tables of accounts: users and organisations, who belongs where, tokens, and what was granted.

Users and organisations stand in one table, since they share one space of names, and names are
compared without case wherever they stand. A token's row bears the SHA-256 of its secret, never the
secret. `sent` says who sent a content lately, which may then be named in a commit though no
repository that they can read holds it yet. `access` holds who asked to see a gated repository's
files, and what was decided.
"""

from __future__ import annotations

__all__ = ["SCHEMA"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts(
    name TEXT PRIMARY KEY COLLATE NOCASE,
    kind TEXT NOT NULL,
    fullname TEXT NOT NULL,
    admin INTEGER NOT NULL,
    disabled INTEGER NOT NULL,
    created TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS accounts_users ON accounts(name) WHERE kind = 'user';
CREATE TABLE IF NOT EXISTS members(
    org TEXT NOT NULL COLLATE NOCASE,
    user TEXT NOT NULL COLLATE NOCASE,
    role TEXT NOT NULL CHECK (role IN ('read', 'write', 'admin')),
    PRIMARY KEY (org, user)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS members_user ON members(user);
CREATE TABLE IF NOT EXISTS tokens(
    hash TEXT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    user TEXT NOT NULL COLLATE NOCASE,
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('read', 'write', 'admin')),
    repos TEXT,
    created TEXT NOT NULL,
    expires TEXT,
    used TEXT,
    UNIQUE (user, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sent(
    user TEXT NOT NULL COLLATE NOCASE,
    sha256 TEXT NOT NULL,
    date TEXT NOT NULL,
    PRIMARY KEY (user, sha256)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sent_date ON sent(date);
CREATE TABLE IF NOT EXISTS access(
    repo INTEGER NOT NULL,
    user TEXT NOT NULL COLLATE NOCASE,
    status TEXT NOT NULL CHECK (status IN ('pending', 'accepted', 'rejected')),
    date TEXT NOT NULL,
    fields TEXT NOT NULL DEFAULT '{}',
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (repo, user)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS repos_leave AFTER DELETE ON repos BEGIN
    DELETE FROM access WHERE repo = old.id;
END;
"""
