-- Fewer and smaller pages for a commit to write. Everything is made anew from the log: nothing is carried over.
DROP TABLE partitions;
DROP TABLE rows;
DROP TABLE memory;
DROP TABLE memory_words;
DROP TABLE verdicts;
DROP TABLE history;
DROP TABLE history_tags;

-- How far the log has been applied: the next offset, and the newest log time.
CREATE TABLE partitions (
    partition INTEGER PRIMARY KEY,
    applied   INTEGER NOT NULL,
    time      INTEGER NOT NULL
) STRICT;

-- A small number for each tenant's fleet. Ids are texts of fixed length.
CREATE TABLE scopes (
    id     INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    fleet  TEXT NOT NULL,
    UNIQUE (tenant, fleet)
) STRICT;

-- In the order in which they are read and written together: the rows of a kind and a fleet are neighbours. `owner`, `place`:
-- whose mail it is, and where it comes among it. `listed`: until
-- when lists of its kind show it. `changed`: where the partition stood after its last change.
CREATE TABLE rows (
    partition INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    scope     INTEGER NOT NULL,
    key       TEXT NOT NULL,
    due_at    INTEGER,
    owner     TEXT,
    place     INTEGER,
    listed    INTEGER,
    changed   INTEGER,
    body      TEXT NOT NULL,
    PRIMARY KEY (partition, kind, scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX rows_due ON rows (partition, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX rows_mail ON rows (partition, scope, owner, place) WHERE owner IS NOT NULL;

CREATE INDEX rows_listed ON rows (partition, kind, scope, listed) WHERE listed IS NOT NULL;
CREATE INDEX rows_changed ON rows (partition, kind, scope, changed) WHERE listed IS NOT NULL;

-- What searches look at of the memory entries that hold something. `tags` and `metadata` hold a line of JSON for each tag
-- and field, with a line feed before and after each, so that one is found by `instr`. The text comes last: it may be long,
-- and most questions do not read it.
CREATE TABLE memory (
    id         INTEGER PRIMARY KEY,
    partition  INTEGER NOT NULL,
    scope      INTEGER NOT NULL,
    key        TEXT NOT NULL,
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    author     TEXT,
    lower_key  TEXT NOT NULL,
    tags       TEXT,
    metadata   TEXT,
    text       TEXT NOT NULL
) STRICT;
-- One of each name: the only writer looks before it inserts. The end is there so that counting does not read the entries.
CREATE INDEX memory_keys ON memory (partition, scope, key, expires_at);

CREATE TABLE memory_tags (
    partition INTEGER NOT NULL,
    scope     INTEGER NOT NULL,
    tag       TEXT NOT NULL,
    id        INTEGER NOT NULL,
    PRIMARY KEY (partition, scope, tag, id)
) STRICT, WITHOUT ROWID;

-- Which texts held three characters in a row when they were last looked at. It only narrows a search down, so it need not
-- know where they stand.
CREATE VIRTUAL TABLE memory_words USING fts5 (
    text, tokenize = 'trigram case_sensitive 1', detail = 'none', content = '', contentless_delete = 1
);

-- The entries whose text has changed since: searches look at all of them.
CREATE TABLE memory_unread (id INTEGER PRIMARY KEY) STRICT;

-- `place` is partition * 2^43 + offset.
CREATE TABLE verdicts (
    place INTEGER PRIMARY KEY,
    body  TEXT NOT NULL
) STRICT;

-- By what verdicts are found; without a `stream`, searches do not find them. `routed`: only for those who are interested in one of its routing tags or its label.
-- `parties`: the ids of the only agents who may see it.
CREATE TABLE history (
    scope   INTEGER NOT NULL,
    place   INTEGER NOT NULL,
    time    INTEGER NOT NULL,
    stream  TEXT,
    label   TEXT,
    subject TEXT,
    agent   TEXT,
    routed  INTEGER NOT NULL,
    parties TEXT,
    PRIMARY KEY (scope, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX history_label ON history (scope, label, place) WHERE label IS NOT NULL;
CREATE INDEX history_subject ON history (scope, subject, place) WHERE subject IS NOT NULL;

-- `tagged`: it has the tag. `routed`: it is routed by the tag.
CREATE TABLE history_tags (
    scope  INTEGER NOT NULL,
    tag    TEXT NOT NULL,
    place  INTEGER NOT NULL,
    tagged INTEGER NOT NULL,
    routed INTEGER NOT NULL,
    PRIMARY KEY (scope, tag, place)
) STRICT, WITHOUT ROWID;
