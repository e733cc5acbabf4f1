-- The database of a hub made by hubtool before it knew accounts: schema 2, two repositories
-- (one private); a third was deleted. Its journal is schema_2.journal.
CREATE TABLE repos(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    author TEXT NOT NULL,
    private INTEGER NOT NULL,
    created TEXT NOT NULL,
    modified TEXT NOT NULL,
    downloads INTEGER NOT NULL DEFAULT 0,
    likes INTEGER NOT NULL DEFAULT 0);
CREATE TABLE cards(
    repo INTEGER PRIMARY KEY,
    tags TEXT NOT NULL,
    pipeline_tag TEXT,
    library TEXT,
    card TEXT NOT NULL);
CREATE TABLE trees(
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE);
CREATE TABLE entries(
    tree INTEGER NOT NULL,
    path TEXT NOT NULL,
    oid TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    lfs INTEGER NOT NULL,
    PRIMARY KEY (tree, path)) WITHOUT ROWID;
CREATE TABLE commits(
    oid TEXT PRIMARY KEY,
    repo INTEGER NOT NULL,
    parent TEXT,
    tree INTEGER NOT NULL,
    title TEXT NOT NULL,
    message TEXT NOT NULL,
    author TEXT NOT NULL,
    date TEXT NOT NULL,
    branch TEXT NOT NULL,
    digest TEXT) WITHOUT ROWID;
CREATE TABLE refs(
    repo INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    oid TEXT NOT NULL,
    PRIMARY KEY (repo, kind, name)) WITHOUT ROWID;
CREATE TABLE labels(
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    models INTEGER NOT NULL DEFAULT 0,
    UNIQUE (kind, name));
CREATE TABLE tagged(
    label INTEGER NOT NULL,
    repo INTEGER NOT NULL,
    created INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    downloads INTEGER NOT NULL,
    likes INTEGER NOT NULL,
    PRIMARY KEY (label, repo)) WITHOUT ROWID;
CREATE TABLE texts(
    repo INTEGER PRIMARY KEY,
    text TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(
    text, content='texts', content_rowid='repo', detail='none', columnsize=0,
    tokenize='trigram case_sensitive 1');
CREATE TABLE grams(gram TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE journal(generation TEXT NOT NULL, length INTEGER NOT NULL);
INSERT INTO repos VALUES (1, 'axon/resnet34-v1', 'axon', 0, '2026-11-23T01:32:24.415Z', '2026-11-23T01:32:24.519Z', 1, 0);
INSERT INTO repos VALUES (2, 'axon/Hidden', 'axon', 1, '2026-11-23T01:32:24.434Z', '2026-11-23T01:32:24.534Z', 0, 0);
INSERT INTO cards VALUES (1, '["Axon", "license:apache-2.0"]', NULL, NULL, '{"tags": ["Axon"], "license": "apache-2.0"}');
INSERT INTO cards VALUES (2, '["Axon"]', NULL, NULL, '{"tags": ["Axon"]}');
INSERT INTO trees VALUES (1, 'f3aa1114b1a20fd893138a77dd515df65cd1902d');
INSERT INTO trees VALUES (2, '34bcaaf18a14054069f7fc693aea9abb568061f2');
INSERT INTO trees VALUES (3, '4e9afa2c041b1c2297cfe237cbad660392ce4b86');
INSERT INTO entries VALUES (1, '.gitattributes', '799aea889564246cf58d494dd176f83e2c53481c', 1567, '54f86c71491f8e0784fec4e37c387f12a2c4a8fdcff18a49bf9ca18b14d6e494', 0);
INSERT INTO entries VALUES (2, '.gitattributes', '799aea889564246cf58d494dd176f83e2c53481c', 1567, '54f86c71491f8e0784fec4e37c387f12a2c4a8fdcff18a49bf9ca18b14d6e494', 0);
INSERT INTO entries VALUES (2, 'README.md', '6ba6fc17ebbed0a5c5004969f0f64772e67257f7', 50, '2e9da4b813dc272a878a3df139ceefadf16d6be3a53513a3727c651d00c1c433', 0);
INSERT INTO entries VALUES (3, '.gitattributes', '799aea889564246cf58d494dd176f83e2c53481c', 1567, '54f86c71491f8e0784fec4e37c387f12a2c4a8fdcff18a49bf9ca18b14d6e494', 0);
INSERT INTO entries VALUES (3, 'README.md', 'aab22c77c89633482577b03f6704cd79eccb7021', 21, '80703cc1da8d7452fafe2e6578f4e165052e9e32207ff719ef415f79b64934ab', 0);
INSERT INTO commits VALUES ('4a1d221b1dad33c21a8cd381b94185e027ce979e', 2, 'b129bba67fefb9b55a217978ae8834cb319b0f1f', 3, 'a change', '', 'ann', '2026-11-23T01:32:24.534Z', 'main', '58b520cf737965dd6c7c05966765ee92886f9bf2189d5cee0e6df110547d4d1a');
INSERT INTO commits VALUES ('b10cccacc2f29dfd17efbd162e293496b409f881', 1, 'b99b5c4b129a658970605303cab65f784305b18f', 2, 'a change', '', 'ann', '2026-11-23T01:32:24.519Z', 'main', '1b6dd9938124b0e12d3cb67c4766970329dcb5aaa81b5d7d6d68b24ca89f7a64');
INSERT INTO commits VALUES ('b129bba67fefb9b55a217978ae8834cb319b0f1f', 2, NULL, 1, 'initial commit', '', 'local', '2026-11-23T01:32:24.435Z', 'main', NULL);
INSERT INTO commits VALUES ('b99b5c4b129a658970605303cab65f784305b18f', 1, NULL, 1, 'initial commit', '', 'local', '2026-11-23T01:32:24.427Z', 'main', NULL);
INSERT INTO refs VALUES (1, 'branch', 'main', 'b10cccacc2f29dfd17efbd162e293496b409f881');
INSERT INTO refs VALUES (1, 'tag', 'v1', 'b99b5c4b129a658970605303cab65f784305b18f');
INSERT INTO refs VALUES (2, 'branch', 'main', '4a1d221b1dad33c21a8cd381b94185e027ce979e');
INSERT INTO labels VALUES (1, 'all', '', 2);
INSERT INTO labels VALUES (2, 'author', 'axon', 2);
INSERT INTO labels VALUES (3, 'tag', 'Axon', 2);
INSERT INTO labels VALUES (4, 'tag', 'license:apache-2.0', 1);
INSERT INTO tagged VALUES (1, 1, 1795397544415, 1795397544519, 1, 0);
INSERT INTO tagged VALUES (1, 2, 1795397544434, 1795397544534, 0, 0);
INSERT INTO tagged VALUES (2, 1, 1795397544415, 1795397544519, 1, 0);
INSERT INTO tagged VALUES (2, 2, 1795397544434, 1795397544534, 0, 0);
INSERT INTO tagged VALUES (3, 1, 1795397544415, 1795397544519, 1, 0);
INSERT INTO tagged VALUES (3, 2, 1795397544434, 1795397544534, 0, 0);
INSERT INTO tagged VALUES (4, 1, 1795397544415, 1795397544519, 1, 0);
INSERT INTO texts VALUES (1, 'axon/resnet34-v1
axon

');
INSERT INTO texts VALUES (2, 'axon/hidden
axon

');
INSERT INTO grams VALUES ('


');
INSERT INTO grams VALUES ('
ax');
INSERT INTO grams VALUES ('-v1');
INSERT INTO grams VALUES ('/go');
INSERT INTO grams VALUES ('/hi');
INSERT INTO grams VALUES ('/re');
INSERT INTO grams VALUES ('1

');
INSERT INTO grams VALUES ('1
a');
INSERT INTO grams VALUES ('34-');
INSERT INTO grams VALUES ('4-v');
INSERT INTO grams VALUES ('axo');
INSERT INTO grams VALUES ('dde');
INSERT INTO grams VALUES ('den');
INSERT INTO grams VALUES ('e

');
INSERT INTO grams VALUES ('en
');
INSERT INTO grams VALUES ('esn');
INSERT INTO grams VALUES ('et3');
INSERT INTO grams VALUES ('gon');
INSERT INTO grams VALUES ('hid');
INSERT INTO grams VALUES ('idd');
INSERT INTO grams VALUES ('n

');
INSERT INTO grams VALUES ('n
a');
INSERT INTO grams VALUES ('n/g');
INSERT INTO grams VALUES ('n/h');
INSERT INTO grams VALUES ('n/r');
INSERT INTO grams VALUES ('ne
');
INSERT INTO grams VALUES ('net');
INSERT INTO grams VALUES ('on
');
INSERT INTO grams VALUES ('on/');
INSERT INTO grams VALUES ('one');
INSERT INTO grams VALUES ('res');
INSERT INTO grams VALUES ('sne');
INSERT INTO grams VALUES ('t34');
INSERT INTO grams VALUES ('v1
');
INSERT INTO grams VALUES ('xon');
INSERT INTO journal VALUES ('ba52f736abd048fea2477670dedc874d', 5198);
INSERT INTO words(words) VALUES ('rebuild');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES ('repos', 3);
CREATE INDEX commits_digest ON commits(repo, digest);
CREATE INDEX commits_tree ON commits(tree);
CREATE INDEX tagged_created ON tagged(label, created);
CREATE INDEX tagged_modified ON tagged(label, modified);
CREATE INDEX tagged_downloads ON tagged(label, downloads);
CREATE INDEX tagged_likes ON tagged(label, likes);
CREATE TRIGGER tagged_more AFTER INSERT ON tagged BEGIN
    UPDATE labels SET models = models + 1 WHERE id = new.label;
END;
CREATE TRIGGER tagged_fewer AFTER DELETE ON tagged BEGIN
    UPDATE labels SET models = models - 1 WHERE id = old.label;
    DELETE FROM labels WHERE id = old.label AND models = 0;
END;
CREATE TRIGGER repos_come AFTER INSERT ON repos BEGIN 
    INSERT INTO labels(kind, name) SELECT 'all', ''
    WHERE NOT EXISTS (SELECT 1 FROM labels WHERE kind = 'all' AND name = '');
    INSERT INTO tagged SELECT l.id, r.id, CAST(round((coalesce(julianday(r.created), 2440587.5) - 2440587.5) * 86400000) AS INTEGER), CAST(round((coalesce(julianday(r.modified), 2440587.5) - 2440587.5) * 86400000) AS INTEGER), r.downloads, r.likes FROM repos r, labels l WHERE r.id = new.id AND l.kind = 'all' AND l.name = ''; 
    INSERT INTO labels(kind, name) SELECT 'author', new.author WHERE new.author <> ''
    AND NOT EXISTS (SELECT 1 FROM labels WHERE kind = 'author' AND name = new.author);
    INSERT INTO tagged SELECT l.id, r.id, CAST(round((coalesce(julianday(r.created), 2440587.5) - 2440587.5) * 86400000) AS INTEGER), CAST(round((coalesce(julianday(r.modified), 2440587.5) - 2440587.5) * 86400000) AS INTEGER), r.downloads, r.likes FROM repos r, labels l
    WHERE r.id = new.id AND l.kind = 'author' AND l.name = new.author;
END;
CREATE TRIGGER repos_go AFTER DELETE ON repos BEGIN 
    DELETE FROM tagged WHERE repo = old.id
    AND label = (SELECT id FROM labels WHERE kind = 'all' AND name = ''); 
    DELETE FROM tagged WHERE repo = old.id
    AND label = (SELECT id FROM labels WHERE kind = 'author' AND name = old.author);
    DELETE FROM texts WHERE repo = old.id;
END;
CREATE TRIGGER repos_move AFTER UPDATE OF author ON repos
WHEN new.author <> old.author BEGIN 
    DELETE FROM tagged WHERE repo = old.id
    AND label = (SELECT id FROM labels WHERE kind = 'author' AND name = old.author); 
    INSERT INTO labels(kind, name) SELECT 'author', new.author WHERE new.author <> ''
    AND NOT EXISTS (SELECT 1 FROM labels WHERE kind = 'author' AND name = new.author);
    INSERT INTO tagged SELECT l.id, r.id, CAST(round((coalesce(julianday(r.created), 2440587.5) - 2440587.5) * 86400000) AS INTEGER), CAST(round((coalesce(julianday(r.modified), 2440587.5) - 2440587.5) * 86400000) AS INTEGER), r.downloads, r.likes FROM repos r, labels l
    WHERE r.id = new.id AND l.kind = 'author' AND l.name = new.author;
END;
CREATE TRIGGER repos_rename AFTER UPDATE OF name ON repos BEGIN
    UPDATE texts SET text = lower(new.name) || substr(text, instr(text, char(10)))
    WHERE repo = new.id;
END;
CREATE TRIGGER repos_change AFTER UPDATE OF modified ON repos BEGIN
    UPDATE tagged SET modified = CAST(round((coalesce(julianday(new.modified), 2440587.5) - 2440587.5) * 86400000) AS INTEGER)
    WHERE repo = new.id AND label IN (
    SELECT l.id FROM cards c, json_each(c.tags) e, labels l
    WHERE c.repo = new.id AND l.kind = 'tag' AND l.name = e.value
    UNION ALL SELECT id FROM labels
    WHERE kind = 'author' AND name = new.author OR kind = 'all' AND name = '');
END;
CREATE TRIGGER repos_download AFTER UPDATE OF downloads ON repos BEGIN
    UPDATE tagged SET downloads = new.downloads WHERE repo = new.id AND label IN (
    SELECT l.id FROM cards c, json_each(c.tags) e, labels l
    WHERE c.repo = new.id AND l.kind = 'tag' AND l.name = e.value
    UNION ALL SELECT id FROM labels
    WHERE kind = 'author' AND name = new.author OR kind = 'all' AND name = '');
END;
CREATE TRIGGER repos_like AFTER UPDATE OF likes ON repos BEGIN
    UPDATE tagged SET likes = new.likes WHERE repo = new.id AND label IN (
    SELECT l.id FROM cards c, json_each(c.tags) e, labels l
    WHERE c.repo = new.id AND l.kind = 'tag' AND l.name = e.value
    UNION ALL SELECT id FROM labels
    WHERE kind = 'author' AND name = new.author OR kind = 'all' AND name = '');
END;
CREATE VIEW places AS
    WITH RECURSIVE p(place) AS (SELECT 1 UNION ALL SELECT place + 1 FROM p)
    SELECT place FROM p LIMIT 10200;
CREATE TRIGGER texts_come AFTER INSERT ON texts BEGIN
    INSERT INTO words(rowid, text) VALUES (new.repo, new.text);
    
    INSERT INTO grams SELECT DISTINCT substr(new.text, place, 3) AS found
    FROM (SELECT place FROM places LIMIT length(new.text) - 2)
    WHERE NOT EXISTS (SELECT 1 FROM grams WHERE gram = found);
END;
CREATE TRIGGER texts_go AFTER DELETE ON texts BEGIN
    INSERT INTO words(words, rowid, text) VALUES ('delete', old.repo, old.text);
END;
CREATE TRIGGER texts_change AFTER UPDATE ON texts WHEN new.text <> old.text BEGIN
    INSERT INTO words(words, rowid, text) VALUES ('delete', old.repo, old.text);
    INSERT INTO words(rowid, text) VALUES (new.repo, new.text);
    
    INSERT INTO grams SELECT DISTINCT substr(new.text, place, 3) AS found
    FROM (SELECT place FROM places LIMIT length(new.text) - 2)
    WHERE NOT EXISTS (SELECT 1 FROM grams WHERE gram = found);
END;
PRAGMA user_version = 2;
