"""The tables of what may happen to a repository besides commits: other names, and likes.

`moved` keeps the names that a repository had, so that they lead to it; it knows repositories by
their number, so that several moves make no chain. `likes` holds who likes what, once each, and
`repos.likes` follows it. All that follows from a repository or an account being made, moved or
removed follows by trigger, so that no writer can forget it.
"""

from __future__ import annotations

__all__ = ["SCHEMA"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS moved(
    name TEXT PRIMARY KEY,
    repo INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS moved_repo ON moved(repo);
CREATE TABLE IF NOT EXISTS likes(
    repo INTEGER NOT NULL,
    user TEXT NOT NULL COLLATE NOCASE,
    date TEXT NOT NULL,
    PRIMARY KEY (repo, user)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS likes_user ON likes(user, date);

CREATE TRIGGER IF NOT EXISTS likes_more AFTER INSERT ON likes BEGIN
    UPDATE repos SET likes = likes + 1 WHERE id = new.repo;
END;
CREATE TRIGGER IF NOT EXISTS likes_fewer AFTER DELETE ON likes BEGIN
    UPDATE repos SET likes = likes - 1 WHERE id = old.repo;
END;
CREATE TRIGGER IF NOT EXISTS accounts_unlike AFTER DELETE ON accounts WHEN old.kind = 'user' BEGIN
    DELETE FROM likes WHERE user = old.name;
END;
CREATE TRIGGER IF NOT EXISTS repos_named AFTER INSERT ON repos BEGIN
    DELETE FROM moved WHERE name = new.name;
END;
CREATE TRIGGER IF NOT EXISTS repos_moved AFTER UPDATE OF name ON repos
WHEN new.name <> old.name BEGIN
    DELETE FROM moved WHERE name = new.name;
    INSERT INTO moved(name, repo) VALUES (old.name, new.id);
END;
CREATE TRIGGER IF NOT EXISTS repos_gone AFTER DELETE ON repos BEGIN
    DELETE FROM moved WHERE repo = old.id;
    DELETE FROM likes WHERE repo = old.id;
END;
"""
