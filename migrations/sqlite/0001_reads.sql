-- The read models. Ids are texts of fixed length, times are microseconds since 1970, bodies are JSON.

-- How far the log has been applied: the next offset, and the newest log time.
CREATE TABLE partitions (
    partition INTEGER PRIMARY KEY,
    applied   INTEGER NOT NULL,
    time      INTEGER NOT NULL
) STRICT;

CREATE TABLE rows (
    partition INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    tenant    TEXT NOT NULL,
    fleet     TEXT NOT NULL,
    key       TEXT NOT NULL,
    due_at    INTEGER,
    owner     TEXT,
    body      TEXT NOT NULL,
    UNIQUE (partition, kind, tenant, fleet, key)
) STRICT;
CREATE INDEX rows_due ON rows (partition, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX rows_mail ON rows (partition, tenant, fleet, owner) WHERE owner IS NOT NULL;

-- What searches look at of the memory entries that hold something. `tags` and `metadata` hold a line of JSON for each tag
-- and field, with a line feed before and after each, so that one is found by `instr`. The text comes last: it may be long,
-- and most questions do not read it.
CREATE TABLE memory (
    id         INTEGER PRIMARY KEY,
    partition  INTEGER NOT NULL,
    tenant     TEXT NOT NULL,
    fleet      TEXT NOT NULL,
    key        TEXT NOT NULL,
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    author     TEXT,
    lower_key  TEXT NOT NULL,
    tags       TEXT,
    metadata   TEXT,
    text       TEXT NOT NULL,
    UNIQUE (partition, tenant, fleet, key)
) STRICT;

-- Which texts hold three characters in a row. It only narrows a search down, so it need not know where they stand.
CREATE VIRTUAL TABLE memory_words USING fts5 (
    text, tokenize = 'trigram case_sensitive 1', detail = 'none', content = '', contentless_delete = 1
);

-- `place` is partition * 2^43 + offset.
CREATE TABLE verdicts (
    place  INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    fleet  TEXT NOT NULL,
    body   TEXT NOT NULL
) STRICT;
CREATE INDEX verdicts_fleet ON verdicts (tenant, fleet, place);

-- The verdicts that searches can find. `routed`: only for those who are interested in one of its routing tags or its label.
-- `parties`: the ids of the only agents who may see it.
CREATE TABLE history (
    tenant  TEXT NOT NULL,
    fleet   TEXT NOT NULL,
    place   INTEGER NOT NULL,
    time    INTEGER NOT NULL,
    stream  TEXT NOT NULL,
    label   TEXT,
    subject TEXT,
    agent   TEXT,
    routed  INTEGER NOT NULL,
    parties TEXT,
    PRIMARY KEY (tenant, fleet, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX history_label ON history (tenant, fleet, label, place);
CREATE INDEX history_subject ON history (tenant, fleet, subject, place) WHERE subject IS NOT NULL;

-- `tagged`: it has the tag. `routed`: it is routed by the tag.
CREATE TABLE history_tags (
    tenant TEXT NOT NULL,
    fleet  TEXT NOT NULL,
    tag    TEXT NOT NULL,
    place  INTEGER NOT NULL,
    tagged INTEGER NOT NULL,
    routed INTEGER NOT NULL,
    PRIMARY KEY (tenant, fleet, tag, place)
) STRICT, WITHOUT ROWID;
