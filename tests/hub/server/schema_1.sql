-- The database of a hub made by hubtool 0.1: schema 1, three repositories (one private).
CREATE TABLE repos(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    author TEXT NOT NULL,
    private INTEGER NOT NULL,
    created TEXT NOT NULL,
    modified TEXT NOT NULL,
    downloads INTEGER NOT NULL DEFAULT 0,
    likes INTEGER NOT NULL DEFAULT 0);
CREATE INDEX repos_author ON repos(author);
CREATE INDEX repos_created ON repos(created);
CREATE INDEX repos_modified ON repos(modified);
CREATE INDEX repos_downloads ON repos(downloads);
CREATE INDEX repos_likes ON repos(likes);

CREATE TABLE cards(
    repo INTEGER PRIMARY KEY,
    tags TEXT NOT NULL,
    pipeline_tag TEXT,
    library TEXT,
    card TEXT NOT NULL);
CREATE TABLE tags(
    tag TEXT NOT NULL,
    repo INTEGER NOT NULL,
    PRIMARY KEY (tag, repo)) WITHOUT ROWID;
CREATE VIRTUAL TABLE names USING fts5(name, tokenize='trigram');

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
CREATE INDEX commits_digest ON commits(repo, digest);
CREATE INDEX commits_tree ON commits(tree);
CREATE TABLE refs(
    repo INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    oid TEXT NOT NULL,
    PRIMARY KEY (repo, kind, name)) WITHOUT ROWID;
INSERT INTO repos VALUES (1, 'axon/resnet34-v1', 'axon', 0, '2026-11-22T23:50:39.771Z', '2026-11-22T23:50:39.806Z', 1, 0);
INSERT INTO repos VALUES (2, 'axon/Hidden', 'axon', 1, '2026-11-22T23:50:39.774Z', '2026-11-22T23:50:39.809Z', 0, 0);
INSERT INTO repos VALUES (3, 'gpt2', '', 0, '2026-11-22T23:50:39.776Z', '2026-11-22T23:50:39.776Z', 3, 0);
INSERT INTO cards VALUES (1, '["Axon", "Gr\u00f6\u00dfe", "hubtool", "image-classification", "license:apache-2.0"]', 'image-classification', 'hubtool', '{"title": "ResNet f\u00fcr alle", "pipeline_tag": "image-classification", "library_name": "hubtool", "license": "apache-2.0", "tags": ["Axon", "Gr\u00f6\u00dfe"]}');
INSERT INTO cards VALUES (2, '["Axon"]', NULL, NULL, '{"tags": ["Axon"]}');
INSERT INTO cards VALUES (3, '[]', NULL, NULL, '{}');
INSERT INTO tags VALUES ('Axon', 1);
INSERT INTO tags VALUES ('Axon', 2);
INSERT INTO tags VALUES ('Größe', 1);
INSERT INTO tags VALUES ('hubtool', 1);
INSERT INTO tags VALUES ('image-classification', 1);
INSERT INTO tags VALUES ('license:apache-2.0', 1);
INSERT INTO trees VALUES (1, 'f3aa1114b1a20fd893138a77dd515df65cd1902d');
INSERT INTO trees VALUES (2, '5cdb418975593930fc53b3646b81e745dc372919');
INSERT INTO trees VALUES (3, '4e9afa2c041b1c2297cfe237cbad660392ce4b86');
INSERT INTO entries VALUES (1, '.gitattributes', '799aea889564246cf58d494dd176f83e2c53481c', 1567, '54f86c71491f8e0784fec4e37c387f12a2c4a8fdcff18a49bf9ca18b14d6e494', 0);
INSERT INTO entries VALUES (2, '.gitattributes', '799aea889564246cf58d494dd176f83e2c53481c', 1567, '54f86c71491f8e0784fec4e37c387f12a2c4a8fdcff18a49bf9ca18b14d6e494', 0);
INSERT INTO entries VALUES (2, 'README.md', '2b96da61d9b2dd5624c87e2608aac30a7bcd4342', 131, 'fff1049097d69d8e1272ca0dbf8c61942a8e8596e93e9a4770073e69adcf668c', 0);
INSERT INTO entries VALUES (3, '.gitattributes', '799aea889564246cf58d494dd176f83e2c53481c', 1567, '54f86c71491f8e0784fec4e37c387f12a2c4a8fdcff18a49bf9ca18b14d6e494', 0);
INSERT INTO entries VALUES (3, 'README.md', 'aab22c77c89633482577b03f6704cd79eccb7021', 21, '80703cc1da8d7452fafe2e6578f4e165052e9e32207ff719ef415f79b64934ab', 0);
INSERT INTO commits VALUES ('0a2f4ca5844896a293baf2b56863dc15ceba2360', 2, NULL, 1, 'initial commit', '', '', '2026-11-22T23:50:39.774Z', 'main', NULL);
INSERT INTO commits VALUES ('1e67295a5b83ff7be23e71d5010987bc0d39f145', 3, NULL, 1, 'initial commit', '', '', '2026-11-22T23:50:39.776Z', 'main', NULL);
INSERT INTO commits VALUES ('315d9e10ca2f74f294a89cb18738d6fccb8ca302', 1, NULL, 1, 'initial commit', '', '', '2026-11-22T23:50:39.772Z', 'main', NULL);
INSERT INTO commits VALUES ('7929ad56041038b98c7353adecac6b32d7ddb33a', 2, '0a2f4ca5844896a293baf2b56863dc15ceba2360', 3, 'a change', '', 'ann', '2026-11-22T23:50:39.809Z', 'main', '58b520cf737965dd6c7c05966765ee92886f9bf2189d5cee0e6df110547d4d1a');
INSERT INTO commits VALUES ('ddd2e9cb42fff78d0fc053b810a0b06da187b727', 1, '315d9e10ca2f74f294a89cb18738d6fccb8ca302', 2, 'a change', '', 'ann', '2026-11-22T23:50:39.806Z', 'main', '4fafff8907b3cf495928fb36b0c27029641c993aadd97d4560640c1cac9c1276');
INSERT INTO refs VALUES (1, 'branch', 'main', 'ddd2e9cb42fff78d0fc053b810a0b06da187b727');
INSERT INTO refs VALUES (2, 'branch', 'main', '7929ad56041038b98c7353adecac6b32d7ddb33a');
INSERT INTO refs VALUES (3, 'branch', 'main', '1e67295a5b83ff7be23e71d5010987bc0d39f145');
INSERT INTO names(rowid, name) VALUES (1, 'axon/resnet34-v1');
INSERT INTO names(rowid, name) VALUES (2, 'axon/Hidden');
INSERT INTO names(rowid, name) VALUES (3, 'gpt2');
PRAGMA user_version = 1;
