-- The read models. Times are microseconds since 1970, bodies are JSON. Ids and names of ours are texts; what users wrote is
-- bytes (UTF-8), which hold NUL and compare as we do. Rows name their tenant and fleet, by which policies protect them.

-- Which of the servers of a list this is, and of which list.
CREATE TABLE server (
    number  bigint NOT NULL,
    servers bigint NOT NULL,
    list    text NOT NULL
);
CREATE UNIQUE INDEX server_only ON server ((true));

-- How far the log has been applied: the next offset, and the newest log time.
CREATE TABLE partitions (
    partition bigint PRIMARY KEY,
    applied   bigint NOT NULL,
    time      bigint NOT NULL
) WITH (fillfactor = 50);

-- `owner`, `place`: whose mail it is, and where it comes among it. `listed`: until when lists of its kind show it. `changed`:
-- where the partition stood after its last change, of what lists show. Of most rows nothing that is indexed ever changes: they
-- are changed within their page.
CREATE TABLE rows (
    partition bigint NOT NULL,
    kind      text COLLATE "C" NOT NULL,
    tenant    text COLLATE "C" NOT NULL,
    fleet     text COLLATE "C" NOT NULL,
    key       bytea NOT NULL,
    due_at    bigint,
    owner     text COLLATE "C",
    place     bigint,
    listed    bigint,
    changed   bigint,
    body      text NOT NULL,
    PRIMARY KEY (partition, kind, tenant, fleet, key)
) WITH (fillfactor = 80);
CREATE INDEX rows_due ON rows (partition, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX rows_mail ON rows (partition, tenant, fleet, owner, place) WHERE owner IS NOT NULL;
CREATE INDEX rows_listed ON rows (partition, kind, tenant, fleet, listed) WHERE listed IS NOT NULL;
CREATE INDEX rows_changed ON rows (partition, kind, tenant, fleet, changed) WHERE listed IS NOT NULL;

-- What searches look at of the memory entries that hold something. `tags` and `metadata` hold a line of JSON for each tag and
-- field, with a line feed before and after each. `terms`: numbers of its tags and of each three characters in a row of its
-- text, other ones in each fleet.
CREATE TABLE memory (
    partition  bigint NOT NULL,
    tenant     text COLLATE "C" NOT NULL,
    fleet      text COLLATE "C" NOT NULL,
    key        bytea NOT NULL,
    expires_at bigint,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    author     text COLLATE "C",
    lower_key  bytea NOT NULL,
    tags       text COLLATE "C",
    metadata   text COLLATE "C",
    terms      integer[] NOT NULL,
    text       bytea NOT NULL,
    -- The end is there so that counting does not read the entries.
    PRIMARY KEY (partition, tenant, fleet, key) INCLUDE (expires_at)
) WITH (fillfactor = 80);
CREATE INDEX memory_terms ON memory USING gin (terms);

-- The verdicts, and by what they are found; without a `stream`, searches do not find them. `place` is partition * 2^43 +
-- offset. `routed`: only for those who are interested in one of its routing tags or its label. `parties`: the ids of the only
-- agents who may see it. Slices are ranges of places: a question names a range or a place, so it looks into the slices it needs
-- only, and within a partition places rise with time, so that what is old is dropped slice by slice.
CREATE TABLE history (
    tenant  text COLLATE "C" NOT NULL,
    fleet   text COLLATE "C" NOT NULL,
    place   bigint NOT NULL,
    time    bigint NOT NULL,
    stream  text COLLATE "C",
    label   bytea,
    subject bytea,
    agent   text COLLATE "C",
    routed  smallint NOT NULL,
    parties text COLLATE "C",
    body    text NOT NULL,
    PRIMARY KEY (tenant, fleet, place)
) PARTITION BY RANGE (place);
CREATE INDEX history_label ON history (tenant, fleet, label, place) WHERE label IS NOT NULL;
CREATE INDEX history_subject ON history (tenant, fleet, subject, place) WHERE subject IS NOT NULL;

-- `tagged`: it has the tag. `routed`: it is routed by the tag.
CREATE TABLE history_tags (
    tenant text COLLATE "C" NOT NULL,
    fleet  text COLLATE "C" NOT NULL,
    tag    bytea NOT NULL,
    place  bigint NOT NULL,
    tagged smallint NOT NULL,
    routed smallint NOT NULL,
    PRIMARY KEY (tenant, fleet, tag, place)
) PARTITION BY RANGE (place);

-- The slices of both: from the first place, before the last; `begun` at this log time.
CREATE TABLE slices (
    first bigint PRIMARY KEY,
    last  bigint NOT NULL,
    begun bigint NOT NULL
);

-- Makes room for verdicts up to `place`, at the log time `now`: the next slice is as long as a day seems to be, from 2^16 to
-- 2^30 offsets. Gives the place before which there is room. Whoever calls it has the partition's row locked.
CREATE FUNCTION make_slice(place bigint, now bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ringforge, pg_temp AS $$
DECLARE
    partition_first CONSTANT bigint := make_slice.place - make_slice.place % (1::bigint << 43);
    day CONSTANT double precision := 86400e6;
    newest slices;
    length double precision := 1 << 16;
    first bigint := partition_first;
    last bigint;
    part text;
BEGIN
    SELECT s.* INTO newest FROM slices s WHERE s.first BETWEEN partition_first AND make_slice.place
    ORDER BY s.first DESC LIMIT 1;
    IF newest.last > make_slice.place THEN
        RETURN newest.last;
    END IF;
    IF newest.first IS NOT NULL THEN
        first := newest.last;
        length := (newest.last - newest.first) * least(day / greatest(now - newest.begun, 1), 16);
    END IF;
    length := least(greatest(length, 1 << 16), 1 << 30);
    last := least(greatest(first, make_slice.place) + length::bigint, partition_first + (1::bigint << 43));
    FOREACH part IN ARRAY ARRAY['history', 'history_tags'] LOOP
        -- Attached, and not made as a part: that would wait for everyone who reads history.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part || '_' || first, part);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
            part, part || '_' || first, first, last);
    END LOOP;
    INSERT INTO slices VALUES (first, last, now);
    RETURN last;
END
$$;

-- Drops the slices of a partition that end before `place`, all but its newest. Gives how many.
CREATE FUNCTION drop_slices(place bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ringforge, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    partition_first CONSTANT bigint := drop_slices.place - drop_slices.place % (1::bigint << 43);
    old slices;
    dropped bigint := 0;
BEGIN
    FOR old IN
        SELECT s.* FROM slices s WHERE s.first >= partition_first AND s.last <= drop_slices.place
            AND EXISTS (SELECT FROM slices n WHERE n.first = s.last)
    LOOP
        EXECUTE format('DROP TABLE %I, %I', 'history_' || old.first, 'history_tags_' || old.first);
        DELETE FROM slices s WHERE s.first = old.first;
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

-- The secret that seals the name of a tenant: whoever only asks cannot name another.
CREATE TABLE seal (secret text NOT NULL);
INSERT INTO seal VALUES (gen_random_uuid()::text || gen_random_uuid()::text);

-- The tenant that the transaction names; nothing if its seal is not ours.
CREATE FUNCTION tenant() RETURNS text STABLE SECURITY DEFINER LANGUAGE sql
RETURN (
    SELECT s.tenant COLLATE "C"
    FROM (SELECT split_part(s.named, '.', 1) AS tenant, split_part(s.named, '.', 2) AS seal
        FROM (SELECT current_setting('ringforge.tenant', true) AS named) s) s, seal k
    WHERE s.seal = encode(sha256(convert_to(k.secret || s.tenant, 'UTF8')), 'hex')
);

-- The index of terms is not used where a policy stands: comparing arrays might tell of what they hold. These functions are what
-- may use it, and give entries of the tenant only.
CREATE FUNCTION entries_with_all(wanted bigint[]) RETURNS SETOF memory STABLE SECURITY DEFINER LANGUAGE sql ROWS 100
BEGIN ATOMIC
    SELECT m.* FROM memory m WHERE m.terms @> wanted::integer[] AND m.tenant = (SELECT tenant());
END;
CREATE FUNCTION entries_with_any(wanted bigint[]) RETURNS SETOF memory STABLE SECURITY DEFINER LANGUAGE sql ROWS 100
BEGIN ATOMIC
    SELECT m.* FROM memory m WHERE m.terms && wanted::integer[] AND m.tenant = (SELECT tenant());
END;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['rows', 'memory', 'history', 'history_tags'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY everything ON %I TO ringforge_owner, ringforge_project USING (true)', name);
        EXECUTE format('CREATE POLICY own ON %I FOR SELECT TO ringforge_query USING (tenant = (SELECT tenant()))', name);
    END LOOP;
END
$$;
GRANT SELECT, INSERT, UPDATE, DELETE ON partitions, rows, memory, history, history_tags TO ringforge_project;
GRANT SELECT, INSERT ON server TO ringforge_project;
GRANT SELECT ON seal TO ringforge_project;
GRANT SELECT ON partitions, rows, memory, history, history_tags TO ringforge_query;
REVOKE EXECUTE ON FUNCTION make_slice, drop_slices, entries_with_all, entries_with_any, tenant FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_slice, drop_slices TO ringforge_project;
GRANT EXECUTE ON FUNCTION entries_with_all, entries_with_any, tenant TO ringforge_query;
