//! Every statement of the read models. Batches come in as one array of JSON; every question is one statement, so that it sees
//! one snapshot, and begins with where the partition stands.

use ringforge_domain::{
    ids::Scope,
    interest::Topic,
    limits,
    position::{Offset, Partition},
    row::{RowKey, Table},
};
use ringforge_ports::reads::{Find, Matching, MemoryFilter, MemorySort, Viewer, Which, fields};
use serde_json::json;
use sqlx::{QueryBuilder, Sqlite};

use super::batch::{line, place, tag_line};

/// A statement in the making.
pub(super) type Sql = QueryBuilder<Sqlite>;

/// Partition, previous, upto, time: changes one row, or none if the partition stands elsewhere.
pub(super) const ADVANCE: &str = "
    INSERT INTO partitions (partition, applied, time)
    SELECT ?1, ?3, ?4 WHERE ?2 = 0 OR EXISTS (SELECT 1 FROM partitions WHERE partition = ?1)
    ON CONFLICT (partition) DO UPDATE SET applied = excluded.applied, time = excluded.time
    WHERE partitions.applied = ?2";

/// Partition, rows.
pub(super) const PUT_ROWS: &str = "
    INSERT INTO rows (partition, kind, tenant, fleet, key, due_at, owner, body)
    SELECT ?1, e.value ->> 0, e.value ->> 1, e.value ->> 2, e.value ->> 3, e.value ->> 4, e.value ->> 5, e.value ->> 6
    FROM json_each(?2) e WHERE true
    ON CONFLICT (partition, kind, tenant, fleet, key)
    DO UPDATE SET due_at = excluded.due_at, owner = excluded.owner, body = excluded.body";

/// Partition, names.
pub(super) const REMOVE_ROWS: &str = "
    DELETE FROM rows WHERE rowid IN (
        SELECT r.rowid FROM json_each(?2) e CROSS JOIN rows r ON r.partition = ?1 AND r.kind = e.value ->> 0
            AND r.tenant = e.value ->> 1 AND r.fleet = e.value ->> 2 AND r.key = e.value ->> 3)";

/// Partition, keys of memory entries.
pub(super) const REMOVE_WORDS: &str = "
    DELETE FROM memory_words WHERE rowid IN (
        SELECT m.id FROM json_each(?2) e CROSS JOIN memory m ON m.partition = ?1
            AND m.tenant = e.value ->> 0 AND m.fleet = e.value ->> 1 AND m.key = e.value ->> 2)";

/// Partition, keys of memory entries.
pub(super) const REMOVE_MEMORY: &str = "
    DELETE FROM memory WHERE id IN (
        SELECT m.id FROM json_each(?2) e CROSS JOIN memory m ON m.partition = ?1
            AND m.tenant = e.value ->> 0 AND m.fleet = e.value ->> 1 AND m.key = e.value ->> 2)";

/// Partition, searchable entries.
pub(super) const PUT_MEMORY: &str = "
    INSERT INTO memory (partition, tenant, fleet, key, expires_at, created_at, updated_at, author,
        lower_key, tags, metadata, text)
    SELECT ?1, e.value ->> 0, e.value ->> 1, e.value ->> 2, e.value ->> '$[3][0]', e.value ->> '$[3][1]',
        e.value ->> '$[3][2]', e.value ->> 4, e.value ->> '$[5][0]', e.value ->> '$[5][1]', e.value ->> '$[5][2]',
        e.value ->> '$[5][3]'
    FROM json_each(?2) e";

/// Partition, searchable entries.
pub(super) const PUT_WORDS: &str = "
    INSERT INTO memory_words (rowid, text)
    SELECT m.id, m.text FROM json_each(?2) e CROSS JOIN memory m ON m.partition = ?1
        AND m.tenant = e.value ->> 0 AND m.fleet = e.value ->> 1 AND m.key = e.value ->> 2
    ORDER BY m.id";

/// Verdicts.
pub(super) const PUT_VERDICTS: &str = "
    INSERT INTO verdicts (place, tenant, fleet, body)
    SELECT e.value ->> 0, e.value ->> 1, e.value ->> 2, e.value ->> 3 FROM json_each(?1) e";

/// Verdicts that searches can find.
pub(super) const PUT_HISTORY: &str = "
    INSERT INTO history (tenant, fleet, place, time, stream, label, subject, agent, routed, parties)
    SELECT e.value ->> 0, e.value ->> 1, e.value ->> 2, e.value ->> 3, e.value ->> 4, e.value ->> 5, e.value ->> 6,
        e.value ->> 7, e.value ->> 8, e.value ->> 9
    FROM json_each(?1) e";

/// Tags of verdicts.
pub(super) const PUT_TAGS: &str = "
    INSERT INTO history_tags (tenant, fleet, tag, place, tagged, routed)
    SELECT e.value ->> 0, e.value ->> 1, e.value ->> 2, e.value ->> 3, e.value ->> 4, e.value ->> 5
    FROM json_each(?1) e";

/// Partition, names: the rows under them.
pub(super) const LOAD: &str = "
    SELECT p.applied, p.time, 0, f.body
    FROM (SELECT ?1 AS partition) q LEFT JOIN partitions p ON p.partition = q.partition LEFT JOIN (
        SELECT r.body FROM json_each(?2) e CROSS JOIN rows r ON r.partition = ?1 AND r.kind = e.value ->> 0
            AND r.tenant = e.value ->> 1 AND r.fleet = e.value ->> 2 AND r.key = e.value ->> 3) f";

/// Names, as `LOAD` and `REMOVE_ROWS` want them.
pub(super) fn names<'a>(keys: impl IntoIterator<Item = &'a RowKey>) -> String {
    let tuple = |key: &RowKey| json!([key.table.text(), key.scope.tenant, key.scope.fleet, key.key]);
    keys.into_iter().map(tuple).collect::<serde_json::Value>().to_string()
}

/// Begins a question: columns of the answer `f`, and where the partition stands.
fn ask(partition: Partition, columns: &str) -> Sql {
    let mut sql = Sql::new(format!("SELECT p.applied, p.time, {columns} FROM (SELECT "));
    sql.push_bind(i64::from(partition.0));
    sql.push(" AS partition) q LEFT JOIN partitions p ON p.partition = q.partition ");
    sql
}

/// Which rows: applied, time, total, body.
pub(super) fn find(partition: Partition, find: &Find) -> Sql {
    let Find::Memory(filter) = find else { return find_rows(partition, find) };
    find_memory(partition, filter)
}

fn find_rows(partition: Partition, find: &Find) -> Sql {
    let mut sql = ask(partition, "0, f.body");
    sql.push("LEFT JOIN (SELECT * FROM rows WHERE partition = ");
    sql.push_bind(i64::from(partition.0));
    let (order, limit) = match find {
        Find::Table { table, scope, after, limit } => {
            sql.push(" AND kind = ").push_bind(table.text());
            if let Some(scope) = scope {
                of_scope(&mut sql, "", *scope);
            }
            if let Some(after) = after {
                if after.table > *table {
                    sql.push(" AND false");
                } else if after.table == *table {
                    after_key(&mut sql, after);
                }
            }
            ("tenant, fleet, key", limit)
        }
        Find::Due { now, limit } => {
            sql.push(" AND due_at <= ").push_bind(now.0);
            ("due_at, kind, tenant, fleet, key", limit)
        }
        Find::Mail { scope, agent, limit } => {
            of_scope(&mut sql, "", *scope);
            sql.push(" AND owner = ").push_bind(agent.to_string());
            ("kind, key", limit)
        }
        Find::Memory(_) => unreachable!("asked by find_memory"),
    };
    sql.push(format!(" ORDER BY {order} LIMIT ")).push_bind(i64::from(*limit));
    sql.push(format!(") f ON true ORDER BY {order}"));
    sql
}

fn of_scope(sql: &mut Sql, table: &str, scope: Scope) {
    sql.push(format!(" AND {table}tenant = ")).push_bind(scope.tenant.to_string());
    sql.push(format!(" AND {table}fleet = ")).push_bind(scope.fleet.to_string());
}

fn after_key(sql: &mut Sql, after: &RowKey) {
    sql.push(" AND (tenant, fleet, key) > (").push_bind(after.scope.tenant.to_string());
    sql.push(", ").push_bind(after.scope.fleet.to_string());
    sql.push(", ").push_bind(after.key.clone()).push(")");
}

/// Characters in a row that [`memory_words`](PUT_WORDS) knows.
const TRIGRAM: usize = 3;

fn find_memory(partition: Partition, filter: &MemoryFilter) -> Sql {
    let mut sql = ask(partition, "c.total, r.body");
    sql.push("CROSS JOIN (SELECT count(*) AS total");
    entries(&mut sql, partition, filter);
    sql.push(") c LEFT JOIN (SELECT m.key, m.created_at, m.updated_at, ");
    relevance(&mut sql, filter);
    sql.push(" AS relevance");
    entries(&mut sql, partition, filter);
    if let (MemorySort::Key, Some(after)) = (filter.sort, &filter.after) {
        sql.push(" AND m.key > ").push_bind(after.clone());
    }
    let order = match filter.sort {
        MemorySort::Key => "key",
        MemorySort::Relevance => "relevance DESC, updated_at DESC, key",
        MemorySort::CreatedAt => "created_at DESC, key",
        MemorySort::UpdatedAt => "updated_at DESC, key",
    };
    sql.push(format!(" ORDER BY {order} LIMIT ")).push_bind(i64::from(filter.limit));
    sql.push(" OFFSET ").push_bind(i64::from(filter.skip));
    sql.push(") f ON true LEFT JOIN rows r ON r.partition = q.partition AND r.kind = ").push_bind(Table::Memory.text());
    of_scope(&mut sql, "r.", filter.scope);
    let order: Vec<_> = order.split(", ").map(|column| format!("f.{column}")).collect();
    sql.push(format!(" AND r.key = f.key ORDER BY {}", order.join(", ")));
    sql
}

/// How many of the words the key holds.
fn relevance(sql: &mut Sql, filter: &MemoryFilter) {
    sql.push("0");
    for word in filter.words.iter().filter(|_| filter.sort == MemorySort::Relevance) {
        sql.push(" + (instr(m.lower_key, ").push_bind(word.clone()).push(") > 0)");
    }
}

/// `FROM` and `WHERE` of the entries that match.
fn entries(sql: &mut Sql, partition: Partition, filter: &MemoryFilter) {
    let trigrams = trigrams(&filter.words);
    if trigrams.is_empty() {
        sql.push(" FROM memory m WHERE m.partition = ");
    } else {
        // In this order: the words are fewer than the entries of a fleet.
        sql.push(" FROM memory_words w CROSS JOIN memory m ON m.id = w.rowid WHERE w.memory_words MATCH ");
        sql.push_bind(trigrams).push(" AND m.partition = ");
    }
    sql.push_bind(i64::from(partition.0));
    of_scope(sql, "m.", filter.scope);
    sql.push(" AND (m.expires_at IS NULL OR m.expires_at > ").push_bind(filter.now.0).push(")");
    if let Some(prefix) = &filter.prefix {
        sql.push(" AND m.key >= ").push_bind(prefix.clone());
        if let Some(end) = end_of(prefix) {
            sql.push(" AND m.key < ").push_bind(end);
        }
    }
    if let Some(author) = filter.author {
        sql.push(" AND m.author = ").push_bind(author.to_string());
    }
    if let Some(since) = filter.since {
        sql.push(" AND m.updated_at >= ").push_bind(since.0);
    }
    let tags: Vec<_> = filter.tags.iter().map(|tag| tag_line(tag)).collect();
    hold(sql, "m.tags", &tags, if filter.any_tag { " OR " } else { " AND " });
    match filter.metadata.as_ref().map(fields) {
        Some(Some(wanted)) => hold(sql, "m.metadata", &Vec::from_iter(wanted), " AND "),
        Some(None) => drop(sql.push(" AND false")),
        None => {}
    }
    for word in &filter.words {
        sql.push(" AND instr(m.text, ").push_bind(word.clone()).push(") > 0");
    }
}

/// Whether a column of lines holds these, joined by `joint`.
fn hold(sql: &mut Sql, column: &str, lines: &[String], joint: &str) {
    for (at, text) in lines.iter().enumerate() {
        sql.push(if at == 0 { " AND (" } else { joint });
        sql.push(format!("instr({column}, ")).push_bind(line(text)).push(") > 0");
    }
    if !lines.is_empty() {
        sql.push(")");
    }
}

/// The first text after all that begin with `prefix`; `None` if there is none.
fn end_of(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // A range of chars passes over what is no char.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// What the index of words is asked for; empty if every word is too short for it.
fn trigrams(words: &[String]) -> String {
    let all = words.iter().flat_map(|word| {
        // The index passes over NUL.
        let chars: Vec<char> = word.chars().filter(|char| *char != '\0').collect();
        chars.windows(TRIGRAM).map(String::from_iter).collect::<Vec<_>>()
    });
    let quoted = all.take(limits::TRIGRAMS_MAX).map(|trigram| format!("\"{}\"", trigram.replace('"', "\"\"")));
    quoted.collect::<Vec<_>>().join(" ")
}

/// Which verdicts: applied, time, oldest, total, body.
pub(super) fn verdicts(partition: Partition, scope: Scope, which: &Which) -> Sql {
    let mut sql = ask(partition, "o.oldest, c.total, v.body");
    sql.push("CROSS JOIN (SELECT min(place) AS oldest FROM verdicts WHERE true");
    of_fleet(&mut sql, "", partition, scope);
    sql.push(") o CROSS JOIN (SELECT ");
    if let Which::Matching(matching) = which {
        sql.push("count(*) AS total");
        matches(&mut sql, partition, scope, matching);
    } else {
        sql.push("0 AS total");
    }
    sql.push(") c LEFT JOIN (SELECT place ");
    match which {
        Which::After { after, limit } => {
            sql.push("FROM verdicts WHERE true");
            of_fleet(&mut sql, "", partition, scope);
            page(&mut sql, partition, *after, *limit);
        }
        Which::At(offsets) => {
            let places: Vec<_> = offsets.iter().map(|offset| place(partition, *offset)).collect();
            sql.push("FROM verdicts WHERE place IN (SELECT value FROM json_each(");
            sql.push_bind(json!(places).to_string()).push("))");
            of_scope(&mut sql, "", scope);
        }
        Which::Matching(matching) => {
            matches(&mut sql, partition, scope, matching);
            if let Some(after) = matching.after {
                sql.push(" AND ").push(range(matching)).push(" > ").push_bind(place(partition, after));
            }
            sql.push(if matching.newest { " ORDER BY place DESC LIMIT " } else { " ORDER BY place LIMIT " });
            sql.push_bind(i64::from(matching.limit));
        }
    }
    sql.push(") f ON true LEFT JOIN verdicts v ON v.place = f.place ORDER BY v.place");
    sql
}

fn of_fleet(sql: &mut Sql, table: &str, partition: Partition, scope: Scope) {
    of_scope(sql, table, scope);
    sql.push(format!(" AND {table}place"));
    of_partition(sql, partition);
}

fn of_partition(sql: &mut Sql, partition: Partition) {
    sql.push(" BETWEEN ").push_bind(place(partition, Offset::ZERO));
    sql.push(" AND ").push_bind(place(partition, Offset(Offset::LIMIT.0 - 1)));
}

/// The place as a range is compared with it. Where labels or tags name the places, the range must not be taken for the way to
/// find them (it is most of the fleet): the sign keeps it from being looked up.
fn range(matching: &Matching) -> &'static str {
    if matching.labels.is_empty() && matching.tags.is_empty() { "h.place" } else { "+h.place" }
}

fn page(sql: &mut Sql, partition: Partition, after: Option<Offset>, limit: u32) {
    if let Some(after) = after {
        sql.push(" AND place > ").push_bind(place(partition, after));
    }
    sql.push(" ORDER BY place LIMIT ").push_bind(i64::from(limit));
}

/// `FROM` and `WHERE` of what [`Matching::includes`].
fn matches(sql: &mut Sql, partition: Partition, scope: Scope, matching: &Matching) {
    sql.push(" FROM history h WHERE true");
    of_scope(sql, "h.", scope);
    sql.push(" AND ").push(range(matching));
    of_partition(sql, partition);
    one_of(sql, "h.stream", matching.streams.iter().map(|stream| stream.text().to_owned()));
    if matching.streams.is_empty() {
        sql.push(" AND false");
    }
    if !matching.tags.is_empty() {
        one_of(sql, "h.label", matching.labels.iter().cloned());
    } else if !matching.labels.is_empty() {
        sql.push(" AND h.place IN (SELECT l.place FROM history l WHERE true");
        of_fleet(sql, "l.", partition, scope);
        one_of(sql, "l.label", matching.labels.iter().cloned());
        sql.push(")");
    }
    one_of(sql, "h.agent", matching.agents.iter().map(ToString::to_string));
    if let Some(subject) = &matching.subject {
        sql.push(" AND h.subject = ").push_bind(subject.clone());
    }
    if let Some(from) = matching.from {
        sql.push(" AND h.time >= ").push_bind(from.0);
    }
    if let Some(to) = matching.to {
        sql.push(" AND h.time < ").push_bind(to.0);
    }
    if matching.all_tags {
        for tag in &matching.tags {
            sql.push(" AND h.place IN ");
            tagged(sql, partition, scope, "tagged", std::slice::from_ref(tag));
        }
    } else if !matching.tags.is_empty() {
        sql.push(" AND h.place IN ");
        tagged(sql, partition, scope, "tagged", &matching.tags);
    }
    if let Some(viewer) = &matching.viewer {
        visible(sql, partition, scope, matching, viewer);
    }
}

fn one_of(sql: &mut Sql, column: &str, texts: impl Iterator<Item = String>) {
    let mut open = false;
    for text in texts {
        sql.push(if open { ", ".to_owned() } else { format!(" AND {column} IN (") }).push_bind(text);
        open = true;
    }
    if open {
        sql.push(")");
    }
}

/// The places that have one of these tags, as `role`.
fn tagged(sql: &mut Sql, partition: Partition, scope: Scope, role: &str, tags: &[String]) {
    sql.push(format!("(SELECT t.place FROM history_tags t WHERE t.{role} = 1"));
    of_fleet(sql, "t.", partition, scope);
    one_of(sql, "t.tag", tags.iter().cloned());
    sql.push(")");
}

/// What [`Matching::visible`] says.
fn visible(sql: &mut Sql, partition: Partition, scope: Scope, matching: &Matching, viewer: &Viewer) {
    let agent = viewer.agent.to_string();
    sql.push(" AND (h.parties IS NULL OR instr(h.parties, ").push_bind(agent.clone()).push(") > 0)");
    sql.push(" AND (h.routed = 0 OR h.agent = ").push_bind(agent);
    if !matching.tags.is_empty() {
        sql.push(" OR h.place IN ");
        tagged(sql, partition, scope, "routed", &matching.tags);
    }
    // In these orders: a span is one range of an index.
    let (mut tags, mut kinds) = (Vec::new(), Vec::new());
    for span in &viewer.spans {
        let until = span.until.unwrap_or(Offset(Offset::LIMIT.0 - 1));
        let range = |text: &String| json!([text, place(partition, span.since), place(partition, until)]);
        match &span.topic {
            Topic::Tag(tag) => tags.push(range(tag)),
            Topic::Kind(kind) => kinds.push(range(kind)),
            Topic::Memory(_) => {}
        }
    }
    for (spans, table, column) in [(tags, "history_tags", "tag"), (kinds, "history", "label")] {
        if spans.is_empty() {
            continue;
        }
        sql.push(" OR h.place IN (SELECT t.place FROM json_each(").push_bind(json!(spans).to_string());
        sql.push(format!(") s CROSS JOIN {table} t ON t.{column} = s.value ->> 0"));
        sql.push(" AND t.place > s.value ->> 1 AND t.place <= s.value ->> 2 AND t.routed = 1");
        of_scope(sql, "t.", scope);
        sql.push(")");
    }
    sql.push(")");
}
