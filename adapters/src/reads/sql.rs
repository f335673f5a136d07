//! Every statement of the read models. A question that is made here is one statement, so that it sees one snapshot, and begins
//! with where the partition stands.

#[cfg(feature = "cluster")]
pub(super) mod bodies;
pub(super) mod build;
pub(super) mod history;

use ringforge_domain::{
    ids::Scope,
    limits,
    position::Partition,
    row::{RowKey, Table},
};
use ringforge_ports::reads::{Find, Listed, MemoryFilter, MemorySort, fields};

use self::build::{Dialect, List, Sql, Value};
use super::{
    batch::{line, tag_line},
    terms::{self, TRIGRAM, term},
};

/// Partition, previous, upto, time: changes one row, or none if the partition stands elsewhere.
pub(super) const ADVANCE: &str = "
    INSERT INTO partitions (partition, applied, time)
    SELECT ?1, ?3, ?4 WHERE ?2 = 0 OR EXISTS (SELECT 1 FROM partitions WHERE partition = ?1)
    ON CONFLICT (partition) DO UPDATE SET applied = excluded.applied, time = excluded.time
    WHERE partitions.applied = ?2";

/// Each partition, and where it stands.
pub(super) const STANDS: &str = "SELECT partition, applied, time FROM partitions";

/// Tenant, fleet.
pub(super) const SCOPE: &str = "SELECT id FROM scopes WHERE tenant = ?1 AND fleet = ?2";

/// Tenant, fleet.
pub(super) const PUT_SCOPE: &str = "INSERT INTO scopes (tenant, fleet) VALUES (?1, ?2)";

/// Partition, kind, scope, key, due, owner, place, listed, changed, body.
pub(super) const PUT_ROW: &str = "
    INSERT INTO rows (partition, kind, scope, key, due_at, owner, place, listed, changed, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT (partition, kind, scope, key)
    DO UPDATE SET due_at = excluded.due_at, owner = excluded.owner, place = excluded.place, listed = excluded.listed,
        changed = excluded.changed, body = excluded.body";

/// Partition, kind, scope, key.
pub(super) const REMOVE_ROW: &str = "DELETE FROM rows WHERE partition = ?1 AND kind = ?2 AND scope = ?3 AND key = ?4";

/// Partition, scope, key, text, end: the entry's id, its tags, whether the text and the end are these.
pub(super) const MEMORY: &str = "
    SELECT id, tags, text = ?4, expires_at IS ?5 FROM memory WHERE partition = ?1 AND scope = ?2 AND key = ?3";

/// Partition, scope, key, end, created, updated, author, key in lower case, tags, metadata, text.
pub(super) const PUT_MEMORY: &str = "
    INSERT INTO memory (partition, scope, key, expires_at, created_at, updated_at, author, lower_key, tags, metadata, text)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

/// Id, created, updated, author, tags, metadata, text.
pub(super) const CHANGE_MEMORY: &str = "
    UPDATE memory SET created_at = ?2, updated_at = ?3, author = ?4, tags = ?5, metadata = ?6, text = ?7 WHERE id = ?1";

/// Id, end.
pub(super) const END_MEMORY: &str = "UPDATE memory SET expires_at = ?2 WHERE id = ?1";

/// Id.
pub(super) const REMOVE_MEMORY: &str = "DELETE FROM memory WHERE id = ?1";

/// Partition, scope, tag, id. An entry may name a tag twice.
pub(super) const PUT_MEMORY_TAG: &str =
    "INSERT OR IGNORE INTO memory_tags (partition, scope, tag, id) VALUES (?1, ?2, ?3, ?4)";

/// Partition, scope, tag, id.
pub(super) const REMOVE_MEMORY_TAG: &str =
    "DELETE FROM memory_tags WHERE partition = ?1 AND scope = ?2 AND tag = ?3 AND id = ?4";

/// Scope, id.
pub(super) const PUT_UNREAD: &str = "INSERT OR IGNORE INTO memory_unread (scope, id) VALUES (?1, ?2)";

/// How many.
pub(super) const COUNT_UNREAD: &str = "SELECT count(*) FROM memory_unread";

/// At most so many after a scope and id: scopes, ids, and the texts of those that are still there.
pub(super) const UNREAD: &str = "
    SELECT u.scope, u.id, m.text FROM memory_unread u LEFT JOIN memory m ON m.id = u.id
    WHERE (u.scope, u.id) > (?2, ?3) ORDER BY u.scope, u.id LIMIT ?1";

/// Scope, id.
pub(super) const REMOVE_UNREAD: &str = "DELETE FROM memory_unread WHERE scope = ?1 AND id = ?2";

/// Id.
pub(super) const REMOVE_WORDS: &str = "DELETE FROM memory_words WHERE rowid = ?1";

/// Id, text.
pub(super) const PUT_WORDS: &str = "INSERT INTO memory_words (rowid, text) VALUES (?1, ?2)";

/// Place, body.
pub(super) const PUT_VERDICT: &str = "INSERT INTO verdicts (place, body) VALUES (?1, ?2)";

/// Scope, place, time, stream, label, subject, agent, routed, parties.
pub(super) const PUT_HISTORY: &str = "
    INSERT INTO history (scope, place, time, stream, label, subject, agent, routed, parties)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// Scope, tag, place, tagged, routed.
pub(super) const PUT_TAG: &str =
    "INSERT INTO history_tags (scope, tag, place, tagged, routed) VALUES (?1, ?2, ?3, ?4, ?5)";

/// From a place on, before another, at most so many: places and bodies.
pub(super) const OLD_VERDICTS: &str =
    "SELECT place, body FROM verdicts WHERE place >= ?1 AND place < ?2 ORDER BY place LIMIT ?3";

/// Place.
pub(super) const REMOVE_VERDICT: &str = "DELETE FROM verdicts WHERE place = ?1";

/// Scope, place.
pub(super) const REMOVE_HISTORY: &str = "DELETE FROM history WHERE scope = ?1 AND place = ?2";

/// Scope, tag, place.
pub(super) const REMOVE_TAG: &str = "DELETE FROM history_tags WHERE scope = ?1 AND tag = ?2 AND place = ?3";

/// Partition: where it stands.
pub(super) const APPLIED: &str = "SELECT applied, time FROM partitions WHERE partition = ?1";

/// Partition, kind, scope, key.
pub(super) const ROW: &str = "SELECT body FROM rows WHERE partition = ?1 AND kind = ?2 AND scope = ?3 AND key = ?4";

/// Place.
pub(super) const VERDICT: &str = "SELECT body FROM verdicts WHERE place = ?1";

/// Begins a question: columns of the answer `f`, and where the partition stands.
fn ask(sql: &mut Sql, partition: Partition, columns: &str) {
    sql.push(format!("SELECT p.applied, p.time, {columns} FROM (SELECT "));
    sql.push_bind(i64::from(partition.0));
    sql.push(" AS partition) q LEFT JOIN partitions p ON p.partition = q.partition ");
}

/// Which rows: applied, time, total, key, kind, scope, tenant, fleet. Their bodies are read apart, as many as have room: sorting
/// and joining would carry all of them along.
pub(super) fn find(dialect: Dialect, partition: Partition, find: &Find) -> Sql {
    let mut sql = Sql::of(dialect);
    match find {
        Find::Memory(filter) => find_memory(&mut sql, partition, filter),
        _ => find_rows(&mut sql, partition, find),
    }
    sql
}

fn find_rows(sql: &mut Sql, partition: Partition, find: &Find) {
    let s = sql.dialect.scopes("r");
    ask(sql, partition, "0 AS total, f.key, f.kind, f.scope, f.tenant, f.fleet");
    sql.push(format!("LEFT JOIN (SELECT r.key, r.kind, {} AS scope, r.due_at, r.place, ", sql.dialect.scope("r")));
    sql.push(format!("{s}.tenant, {s}.fleet FROM "));
    sql.push(match (sql.dialect, find) {
        // In this order: within a kind, rows stand by scope and key.
        (Dialect::Sqlite, Find::Table { .. }) => "scopes s CROSS JOIN rows r ON s.id = r.scope",
        (Dialect::Sqlite, _) => "rows r CROSS JOIN scopes s ON s.id = r.scope",
        (Dialect::Postgres, _) => "rows r",
    });
    sql.push(" WHERE r.partition = ").push_bind(i64::from(partition.0));
    let (order, limit) = match find {
        Find::Table { table, scope, after, limit } => {
            sql.push(" AND r.kind = ").push_bind(table.text());
            if let Some(scope) = scope {
                of_scope(sql, "r.", *scope);
                // SQLite finds the scope itself by these.
                if sql.dialect == Dialect::Sqlite {
                    sql.push(" AND s.tenant = ").push_bind(scope.tenant.to_string());
                    sql.push(" AND s.fleet = ").push_bind(scope.fleet.to_string());
                }
            }
            if let Some(after) = after {
                if after.table > *table {
                    sql.push(" AND false");
                } else if after.table == *table {
                    after_key(sql, after, *scope);
                }
            }
            ("tenant, fleet, key", limit)
        }
        Find::Due { now, limit } => {
            sql.push(" AND r.due_at <= ").push_bind(now.0);
            ("due_at, kind, tenant, fleet, key", limit)
        }
        Find::Mail { scope, agent, after, limit } => {
            of_scope(sql, "r.", *scope);
            sql.push(" AND r.owner = ").push_bind(agent.to_string());
            if let Some(after) = after {
                sql.push(" AND r.place > ").push_bind(after.0.cast_signed());
            }
            ("place, kind, key", limit)
        }
        Find::Listed { table, scope, which, after, limit } => {
            sql.push(" AND r.kind = ").push_bind(table.text());
            of_scope(sql, "r.", *scope);
            match which {
                Listed::At(now) => sql.push(" AND r.listed > ").push_bind(now.0),
                Listed::Since(upto) => {
                    sql.push(" AND r.listed IS NOT NULL AND r.changed > ").push_bind(upto.0.cast_signed())
                }
            };
            if let Some(after) = after {
                sql.push(format!(" AND {}r.key > ", sql.dialect.apart())).push_written(after);
            }
            ("key", limit)
        }
        Find::Memory(_) => unreachable!("asked by find_memory"),
    };
    sql.push(format!(" ORDER BY {order} LIMIT ")).push_bind(i64::from(*limit));
    sql.push(format!(") f ON true ORDER BY {order}"));
}

/// Where the scope is this one. In SQLite one that no row has is nothing, and equals nothing.
fn of_scope(sql: &mut Sql, table: &str, Scope { tenant, fleet }: Scope) {
    match sql.dialect {
        Dialect::Sqlite => {
            sql.push(format!(" AND {table}scope = (SELECT id FROM scopes WHERE tenant = "));
            sql.push_bind(tenant.to_string()).push(" AND fleet = ").push_bind(fleet.to_string()).push(")");
        }
        Dialect::Postgres => {
            sql.push(format!(" AND {table}tenant = ")).push_bind(tenant.to_string());
            sql.push(format!(" AND {table}fleet = ")).push_bind(fleet.to_string());
        }
    }
}

fn after_key(sql: &mut Sql, after: &RowKey, scope: Option<Scope>) {
    let (tenant, fleet) = (after.scope.tenant.to_string(), after.scope.fleet.to_string());
    if scope == Some(after.scope) {
        // One range of the rows.
        sql.push(" AND r.key > ").push_written(&after.key);
        return;
    }
    let s = sql.dialect.scopes("r");
    sql.push(format!(" AND ({s}.tenant, {s}.fleet) >= ("))
        .push_bind(tenant.clone())
        .push(", ")
        .push_bind(fleet.clone());
    sql.push(format!(") AND ({s}.tenant, {s}.fleet, r.key) > (")).push_bind(tenant).push(", ").push_bind(fleet);
    sql.push(", ").push_written(&after.key).push(")");
}

fn find_memory(sql: &mut Sql, partition: Partition, filter: &MemoryFilter) {
    let order = match filter.sort {
        MemorySort::Key => "key",
        MemorySort::Relevance => "relevance DESC, updated_at DESC, key",
        MemorySort::CreatedAt => "created_at DESC, key",
        MemorySort::UpdatedAt => "updated_at DESC, key",
    };
    // Looked for once, then counted and sorted.
    sql.push(format!("WITH matches AS MATERIALIZED (SELECT m.key, {} AS scope, ", sql.dialect.scope("m")));
    sql.push(match filter.sort {
        MemorySort::Key => "0 AS created_at, 0 AS updated_at, ",
        _ => "m.created_at, m.updated_at, ",
    });
    relevance(sql, filter);
    sql.push(" AS relevance");
    entries(sql, partition, filter);
    sql.push(") ");
    let kind = Table::Memory.text();
    ask(sql, partition, &format!("c.total, f.key, '{kind}' AS kind, f.scope, s.tenant, s.fleet"));
    sql.push("CROSS JOIN (SELECT count(*) AS total FROM matches) c LEFT JOIN (SELECT * FROM matches");
    if let (MemorySort::Key, Some(after)) = (filter.sort, &filter.after) {
        sql.push(" WHERE key > ").push_written(after);
    }
    sql.push(format!(" ORDER BY {order} LIMIT ")).push_bind(i64::from(filter.limit));
    sql.push(" OFFSET ").push_bind(i64::from(filter.skip)).push(") f ON true ");
    match sql.dialect {
        Dialect::Sqlite => sql.push("LEFT JOIN scopes s ON s.id = f.scope"),
        Dialect::Postgres => {
            sql.push("CROSS JOIN (SELECT ").push_bind(filter.scope.tenant.to_string()).push(" AS tenant, ");
            sql.push_bind(filter.scope.fleet.to_string()).push(" AS fleet) s")
        }
    };
    let order: Vec<_> = order.split(", ").map(|column| format!("f.{column}")).collect();
    sql.push(format!(" ORDER BY {}", order.join(", ")));
}

/// How many of the words the key holds.
fn relevance(sql: &mut Sql, filter: &MemoryFilter) {
    sql.push("0");
    for word in filter.words.iter().filter(|_| filter.sort == MemorySort::Relevance) {
        sql.push(" + CASE WHEN ");
        sql.push_holds("m.lower_key", Value::Written(word.clone())).push(" THEN 1 ELSE 0 END");
    }
}

/// `FROM` and `WHERE` of the entries that match.
fn entries(sql: &mut Sql, partition: Partition, filter: &MemoryFilter) {
    let trigrams = trigrams(&filter.words);
    // Where tags or words name the entries, name and key must not be taken for the way to find them (they are those of the
    // whole fleet).
    let named = !filter.tags.is_empty() || !trigrams.is_empty();
    let m = if named { format!("{}m.", sql.dialect.apart()) } else { "m.".to_owned() };
    sql.push(" FROM ");
    if named && sql.dialect == Dialect::Postgres {
        with_terms(sql, filter, &trigrams);
    } else {
        sql.push("memory");
    }
    sql.push(format!(" m WHERE {m}partition = ")).push_bind(i64::from(partition.0));
    of_scope(sql, &m, filter.scope);
    match sql.dialect {
        Dialect::Sqlite if !filter.tags.is_empty() => tagged_entries(sql, partition, filter),
        Dialect::Sqlite if !trigrams.is_empty() => with_words(sql, filter.scope, &trigrams),
        Dialect::Sqlite => {}
        Dialect::Postgres => holds_tags(sql, filter),
    }
    sql.push(" AND (m.expires_at IS NULL OR m.expires_at > ").push_bind(filter.now.0).push(")");
    if let Some(prefix) = &filter.prefix {
        sql.push(format!(" AND {m}key >= ")).push_written(prefix);
        if let Some(end) = end_of(prefix) {
            sql.push(format!(" AND {m}key < ")).push_written(&end);
        }
    }
    if let Some(author) = filter.author {
        sql.push(" AND m.author = ").push_bind(author.to_string());
    }
    if let Some(since) = filter.since {
        sql.push(" AND m.updated_at >= ").push_bind(since.0);
    }
    match filter.metadata.as_ref().map(fields) {
        Some(Some(wanted)) => wanted.iter().for_each(|field| {
            sql.push(" AND ").push_holds("m.metadata", line(field).into());
        }),
        Some(None) => drop(sql.push(" AND false")),
        None => {}
    }
    for word in &filter.words {
        sql.push(" AND ").push_holds("m.text", Value::Written(word.clone()));
    }
}

/// Whether an entry has one of the tags, or all of them.
fn tagged_entries(sql: &mut Sql, partition: Partition, filter: &MemoryFilter) {
    let tags: Vec<_> = filter.tags.iter().map(|tag| tag_line(tag)).collect();
    let together = if filter.any_tag { tags.len() } else { 1 };
    for tags in tags.chunks(together) {
        sql.push(" AND m.id IN (SELECT t.id FROM memory_tags t WHERE t.partition = ").push_bind(i64::from(partition.0));
        of_scope(sql, "t.", filter.scope);
        one_of(sql, "t.tag", tags.iter().cloned().map(Value::Text));
        sql.push(")");
    }
}

/// Whether the index of words knows all of these in an entry, or the entry has changed since.
fn with_words(sql: &mut Sql, scope: Scope, trigrams: &[String]) {
    let quoted: Vec<_> = trigrams.iter().map(|trigram| format!("\"{}\"", trigram.replace('"', "\"\""))).collect();
    sql.push(" AND m.id IN (SELECT rowid FROM memory_words WHERE memory_words MATCH ").push_bind(quoted.join(" "));
    sql.push(" UNION ALL SELECT id FROM memory_unread WHERE true");
    of_scope(sql, "", scope);
    sql.push(")");
}

/// The entries that have one of the tags, or all of them and of the words. Only the function may use the index of terms: what a
/// policy protects is not compared by anything that might tell of it.
fn with_terms(sql: &mut Sql, filter: &MemoryFilter, trigrams: &[String]) {
    let any = filter.any_tag && !filter.tags.is_empty();
    let tags = filter.tags.iter().map(|tag| tag_line(tag));
    let texts: Vec<String> = if any { tags.collect() } else { tags.chain(trigrams.iter().cloned()).collect() };
    let terms = texts.iter().map(|text| i64::from(term(filter.scope, text))).collect();
    sql.push(if any { "entries_with_any(" } else { "entries_with_all(" });
    sql.push_bind(Value::Lists(vec![List::Integers(terms)])).push(")");
}

/// Whether an entry has one of the tags, or all of them, as it says itself.
fn holds_tags(sql: &mut Sql, filter: &MemoryFilter) {
    let (between, mut before) = if filter.any_tag { (" OR ", " AND (") } else { (" AND ", " AND (") };
    for tag in &filter.tags {
        sql.push(before).push_holds("m.tags", line(&tag_line(tag)).into());
        before = between;
    }
    if !filter.tags.is_empty() {
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

/// What an index of words is asked for; empty if every word is too short for it. Every character of a word is in one of
/// them, which narrows nearly as well as all of them and reads a third.
fn trigrams(words: &[String]) -> Vec<String> {
    let all = words.iter().flat_map(|word| {
        let chars = terms::indexed(word);
        let end = chars.len().saturating_sub(TRIGRAM);
        let starts = (0..end).step_by(TRIGRAM).chain((chars.len() >= TRIGRAM).then_some(end));
        starts.map(|at| chars[at..at + TRIGRAM].iter().collect()).collect::<Vec<String>>()
    });
    all.take(limits::TRIGRAMS_MAX).collect()
}

fn one_of(sql: &mut Sql, column: &str, values: impl Iterator<Item = Value>) {
    let mut open = false;
    for value in values {
        sql.push(if open { ", ".to_owned() } else { format!(" AND {column} IN (") }).push_bind(value);
        open = true;
    }
    if open {
        sql.push(")");
    }
}

#[cfg(test)]
mod tests;
