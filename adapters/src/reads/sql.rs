//! Every statement of the read models. A question that is made here is one statement, so that it sees one snapshot, and begins
//! with where the partition stands.

pub(super) mod history;

use ringforge_domain::{
    ids::Scope,
    limits,
    position::Partition,
    row::{RowKey, Table},
};
use ringforge_ports::reads::{Find, Listed, MemoryFilter, MemorySort, fields};
use rusqlite::types::Value;

use super::batch::{line, tag_line};

/// A statement in the making, with what is bound to its question marks.
#[derive(Debug, Default)]
pub(super) struct Sql {
    pub text: String,
    pub values: Vec<Value>,
}

impl Sql {
    fn push(&mut self, text: impl AsRef<str>) -> &mut Self {
        self.text.push_str(text.as_ref());
        self
    }

    fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.text.push('?');
        self.values.push(value.into());
        self
    }
}

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

/// Partition: where it stands.
pub(super) const APPLIED: &str = "SELECT applied, time FROM partitions WHERE partition = ?1";

/// Partition, kind, scope, key.
pub(super) const ROW: &str = "SELECT body FROM rows WHERE partition = ?1 AND kind = ?2 AND scope = ?3 AND key = ?4";

/// Place.
pub(super) const VERDICT: &str = "SELECT body FROM verdicts WHERE place = ?1";

/// Begins a question: columns of the answer `f`, and where the partition stands.
fn ask(partition: Partition, columns: &str) -> Sql {
    let mut sql = Sql::default();
    sql.push(format!("SELECT p.applied, p.time, {columns} FROM (SELECT "));
    sql.push_bind(i64::from(partition.0));
    sql.push(" AS partition) q LEFT JOIN partitions p ON p.partition = q.partition ");
    sql
}

/// Which rows: applied, time, total, key, kind, scope, tenant, fleet. Their bodies are read apart, as many as have room: sorting
/// and joining would carry all of them along.
pub(super) fn find(partition: Partition, find: &Find) -> Sql {
    let Find::Memory(filter) = find else { return find_rows(partition, find) };
    find_memory(partition, filter)
}

fn find_rows(partition: Partition, find: &Find) -> Sql {
    let mut sql = ask(partition, "0, f.key, f.kind, f.scope, f.tenant, f.fleet");
    // In this order: within a kind, rows stand by scope and key.
    sql.push("LEFT JOIN (SELECT r.key, r.kind, r.scope, r.due_at, r.place, s.tenant, s.fleet FROM ");
    sql.push(match find {
        Find::Table { .. } => "scopes s CROSS JOIN rows r",
        _ => "rows r CROSS JOIN scopes s",
    });
    sql.push(" ON s.id = r.scope WHERE r.partition = ").push_bind(i64::from(partition.0));
    let (order, limit) = match find {
        Find::Table { table, scope, after, limit } => {
            sql.push(" AND r.kind = ").push_bind(table.text().to_owned());
            if let Some(scope) = scope {
                of_scope(&mut sql, "r.", *scope);
                sql.push(" AND s.tenant = ").push_bind(scope.tenant.to_string());
                sql.push(" AND s.fleet = ").push_bind(scope.fleet.to_string());
            }
            if let Some(after) = after {
                if after.table > *table {
                    sql.push(" AND false");
                } else if after.table == *table {
                    after_key(&mut sql, after, *scope);
                }
            }
            ("tenant, fleet, key", limit)
        }
        Find::Due { now, limit } => {
            sql.push(" AND r.due_at <= ").push_bind(now.0);
            ("due_at, kind, tenant, fleet, key", limit)
        }
        Find::Mail { scope, agent, after, limit } => {
            of_scope(&mut sql, "r.", *scope);
            sql.push(" AND r.owner = ").push_bind(agent.to_string());
            if let Some(after) = after {
                sql.push(" AND r.place > ").push_bind(after.0.cast_signed());
            }
            ("place, kind, key", limit)
        }
        Find::Listed { table, scope, which, after, limit } => {
            sql.push(" AND r.kind = ").push_bind(table.text().to_owned());
            of_scope(&mut sql, "r.", *scope);
            match which {
                Listed::At(now) => sql.push(" AND r.listed > ").push_bind(now.0),
                Listed::Since(upto) => {
                    sql.push(" AND r.listed IS NOT NULL AND r.changed > ").push_bind(upto.0.cast_signed())
                }
            };
            if let Some(after) = after {
                sql.push(" AND +r.key > ").push_bind(after.clone());
            }
            ("key", limit)
        }
        Find::Memory(_) => unreachable!("asked by find_memory"),
    };
    sql.push(format!(" ORDER BY {order} LIMIT ")).push_bind(i64::from(*limit));
    sql.push(format!(") f ON true ORDER BY {order}"));
    sql
}

/// Where the scope is this one. One that no row has is nothing, and equals nothing.
fn of_scope(sql: &mut Sql, table: &str, scope: Scope) {
    sql.push(format!(" AND {table}scope = (SELECT id FROM scopes WHERE tenant = "));
    sql.push_bind(scope.tenant.to_string()).push(" AND fleet = ").push_bind(scope.fleet.to_string()).push(")");
}

fn after_key(sql: &mut Sql, after: &RowKey, scope: Option<Scope>) {
    let (tenant, fleet) = (after.scope.tenant.to_string(), after.scope.fleet.to_string());
    if scope == Some(after.scope) {
        // One range of the rows.
        sql.push(" AND r.key > ").push_bind(after.key.clone());
        return;
    }
    sql.push(" AND (s.tenant, s.fleet) >= (").push_bind(tenant.clone()).push(", ").push_bind(fleet.clone());
    sql.push(") AND (s.tenant, s.fleet, r.key) > (").push_bind(tenant).push(", ").push_bind(fleet);
    sql.push(", ").push_bind(after.key.clone()).push(")");
}

/// Characters in a row that [`memory_words`](PUT_WORDS) knows.
const TRIGRAM: usize = 3;

fn find_memory(partition: Partition, filter: &MemoryFilter) -> Sql {
    let order = match filter.sort {
        MemorySort::Key => "key",
        MemorySort::Relevance => "relevance DESC, updated_at DESC, key",
        MemorySort::CreatedAt => "created_at DESC, key",
        MemorySort::UpdatedAt => "updated_at DESC, key",
    };
    let mut sql = Sql::default();
    // Looked for once, then counted and sorted.
    sql.push("WITH matches AS MATERIALIZED (SELECT m.key, m.scope, ");
    sql.push(match filter.sort {
        MemorySort::Key => "0 AS created_at, 0 AS updated_at, ",
        _ => "m.created_at, m.updated_at, ",
    });
    relevance(&mut sql, filter);
    sql.push(" AS relevance");
    entries(&mut sql, partition, filter);
    sql.push(") ");
    let ask = ask(partition, &format!("c.total, f.key, '{}', f.scope, s.tenant, s.fleet", Table::Memory.text()));
    sql.push(ask.text).values.extend(ask.values);
    sql.push("CROSS JOIN (SELECT count(*) AS total FROM matches) c LEFT JOIN (SELECT * FROM matches");
    if let (MemorySort::Key, Some(after)) = (filter.sort, &filter.after) {
        sql.push(" WHERE key > ").push_bind(after.clone());
    }
    sql.push(format!(" ORDER BY {order} LIMIT ")).push_bind(i64::from(filter.limit));
    sql.push(" OFFSET ").push_bind(i64::from(filter.skip));
    let order: Vec<_> = order.split(", ").map(|column| format!("f.{column}")).collect();
    sql.push(format!(") f ON true LEFT JOIN scopes s ON s.id = f.scope ORDER BY {}", order.join(", ")));
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
    // Where tags or words name the entries, name and key must not be taken for the way to find them (they are those of the
    // whole fleet): the sign keeps them from being looked up.
    let m = if filter.tags.is_empty() && trigrams.is_empty() { "m." } else { "+m." };
    sql.push(format!(" FROM memory m WHERE {m}partition = ")).push_bind(i64::from(partition.0));
    of_scope(sql, m, filter.scope);
    if !filter.tags.is_empty() {
        tagged_entries(sql, partition, filter);
    } else if !trigrams.is_empty() {
        sql.push(" AND m.id IN (SELECT rowid FROM memory_words WHERE memory_words MATCH ").push_bind(trigrams);
        sql.push(" UNION ALL SELECT id FROM memory_unread WHERE true");
        of_scope(sql, "", filter.scope);
        sql.push(")");
    }
    sql.push(" AND (m.expires_at IS NULL OR m.expires_at > ").push_bind(filter.now.0).push(")");
    if let Some(prefix) = &filter.prefix {
        sql.push(format!(" AND {m}key >= ")).push_bind(prefix.clone());
        if let Some(end) = end_of(prefix) {
            sql.push(format!(" AND {m}key < ")).push_bind(end);
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
            sql.push(" AND instr(m.metadata, ").push_bind(line(field)).push(") > 0");
        }),
        Some(None) => drop(sql.push(" AND false")),
        None => {}
    }
    for word in &filter.words {
        sql.push(" AND instr(m.text, ").push_bind(word.clone()).push(") > 0");
    }
}

/// Whether an entry has one of the tags, or all of them.
fn tagged_entries(sql: &mut Sql, partition: Partition, filter: &MemoryFilter) {
    let tags: Vec<_> = filter.tags.iter().map(|tag| tag_line(tag)).collect();
    let together = if filter.any_tag { tags.len() } else { 1 };
    for tags in tags.chunks(together) {
        sql.push(" AND m.id IN (SELECT t.id FROM memory_tags t WHERE t.partition = ").push_bind(i64::from(partition.0));
        of_scope(sql, "t.", filter.scope);
        one_of(sql, "t.tag", tags.iter().cloned());
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

/// What the index of words is asked for; empty if every word is too short for it. Every character of a word is in one of
/// them, which narrows nearly as well as all of them and reads a third.
fn trigrams(words: &[String]) -> String {
    let all = words.iter().flat_map(|word| {
        // The index passes over NUL.
        let chars: Vec<char> = word.chars().filter(|char| *char != '\0').collect();
        let end = chars.len().saturating_sub(TRIGRAM);
        let starts = (0..end).step_by(TRIGRAM).chain((chars.len() >= TRIGRAM).then_some(end));
        starts.map(|at| chars[at..at + TRIGRAM].iter().collect()).collect::<Vec<String>>()
    });
    let quoted = all.take(limits::TRIGRAMS_MAX).map(|trigram| format!("\"{}\"", trigram.replace('"', "\"\"")));
    quoted.collect::<Vec<_>>().join(" ")
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

#[cfg(test)]
mod tests;
