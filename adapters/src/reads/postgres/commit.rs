//! Writing: the batches of a commit in one transaction, one statement a table.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use ringforge_domain::{limits, row::Table};
use ringforge_ports::Error;
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};
use tokio::time::timeout;

use super::{failure::failed, server::Server};
use crate::reads::{
    batch::{Batch, RowLine, RowNow, SearchLine, VerdictLine, tags_in},
    sql,
    terms::terms,
};

/// Partitions, kinds, tenants, fleets, keys, due, owners, places, listed, where the partition stands, bodies. Only of what is
/// listed it is told when it changed: else nothing that is indexed changes, and a row stays in its page.
const PUT_ROWS: &str = "
    INSERT INTO rows (partition, kind, tenant, fleet, key, due_at, owner, place, listed, changed, body)
    SELECT a.partition, kind, tenant, fleet, key, due_at, owner, place, listed,
        CASE WHEN listed IS NOT NULL THEN changed END, body
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        a (partition, kind, tenant, fleet, key, due_at, owner, place, listed, changed, body)
    ON CONFLICT (partition, kind, tenant, fleet, key)
    DO UPDATE SET due_at = excluded.due_at, owner = excluded.owner, place = excluded.place, listed = excluded.listed,
        changed = excluded.changed, body = excluded.body";

/// Partitions, kinds, tenants, fleets, keys.
const REMOVE_ROWS: &str = "
    DELETE FROM rows r USING unnest($1, $2, $3, $4, $5) a (partition, kind, tenant, fleet, key)
    WHERE r.partition = a.partition AND r.kind = a.kind AND r.tenant = a.tenant AND r.fleet = a.fleet AND r.key = a.key";

/// Partitions, tenants, fleets, keys, ends, created, updated, authors, keys in lower case, tags, metadata, terms, texts.
const PUT_MEMORY: &str = "
    INSERT INTO memory (partition, tenant, fleet, key, expires_at, created_at, updated_at, author, lower_key, tags, metadata,
        terms, text)
    SELECT a.partition, tenant, fleet, key, expires_at, created_at, updated_at, author, lower_key, tags, metadata,
        terms::integer[], text
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        a (partition, tenant, fleet, key, expires_at, created_at, updated_at, author, lower_key, tags, metadata, terms, text)
    ON CONFLICT (partition, tenant, fleet, key)
    DO UPDATE SET expires_at = excluded.expires_at, created_at = excluded.created_at, updated_at = excluded.updated_at,
        author = excluded.author, tags = excluded.tags, metadata = excluded.metadata, terms = excluded.terms,
        text = excluded.text";

/// Partitions, tenants, fleets, keys.
const REMOVE_MEMORY: &str = "
    DELETE FROM memory m USING unnest($1, $2, $3, $4) a (partition, tenant, fleet, key)
    WHERE m.partition = a.partition AND m.tenant = a.tenant AND m.fleet = a.fleet AND m.key = a.key";

/// Tenants, fleets, places, times, streams, labels, subjects, agents, routed, parties, bodies.
const PUT_HISTORY: &str = "
    INSERT INTO history (tenant, fleet, place, time, stream, label, subject, agent, routed, parties, body)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

/// Tenants, fleets, tags, places, tagged, routed.
const PUT_TAGS: &str = "
    INSERT INTO history_tags (tenant, fleet, tag, place, tagged, routed) SELECT * FROM unnest($1, $2, $3, $4, $5, $6)";

/// A row that changed, of a partition that then stands somewhere.
#[derive(Clone, Copy)]
struct Change<'a> {
    partition: i64,
    upto: i64,
    line: &'a RowLine,
}

impl Server {
    /// Writes all of it or nothing. `Unavailable`: it may have been written.
    pub async fn commit(&self, batches: &[Batch]) -> Result<(), Error> {
        let written = timeout(Duration::from_millis(limits::STATEMENT_MS), self.write(batches)).await;
        let late = |_| Err(Error::Unavailable("write the read models: no answer in time".to_owned()));
        let written = written.unwrap_or_else(late);
        if written.is_err() {
            // A server that crashed may have lost the commits that made it, before it refuses this one.
            let mut room = self.room.lock().expect("no panic while the lock is held");
            room.retain(|partition, _| batches.iter().all(|batch| batch.partition != *partition));
        }
        written
    }

    async fn write(&self, batches: &[Batch]) -> Result<(), Error> {
        let failed = |error: sqlx::Error| failed("write", &error);
        let mut lent = self.project().await?;
        raw_sql("BEGIN").execute(&mut *lent).await.map_err(failed)?;
        for batch in batches {
            if !advance(&mut lent, batch).await.map_err(failed)? {
                raw_sql("ROLLBACK").execute(&mut *lent).await.map_err(failed)?;
                lent.give_back();
                let Batch { partition, previous, .. } = batch;
                return Err(Error::Conflict(format!("partition {partition} does not stand at {previous}")));
            }
        }
        // The partitions are ours until the end.
        let room = self.make_room(&mut lent, batches).await.map_err(failed)?;
        let changes = changes(batches);
        put_rows(&mut lent, &changes).await.map_err(failed)?;
        put_memory(&mut lent, &changes).await.map_err(failed)?;
        let verdicts: Vec<&VerdictLine> = batches.iter().flat_map(|batch| &batch.verdicts).collect();
        put_history(&mut lent, &verdicts).await.map_err(failed)?;
        raw_sql("COMMIT").execute(&mut *lent).await.map_err(failed)?;
        lent.give_back();
        self.room.lock().expect("no panic while the lock is held").extend(room);
        Ok(())
    }

    /// Sees to it that there are slices for all verdicts. Gives those that were looked for.
    async fn make_room(&self, connection: &mut PgConnection, batches: &[Batch]) -> sqlx::Result<BTreeMap<i64, i64>> {
        let mut made = BTreeMap::new();
        for batch in batches {
            let Some(last) = batch.verdicts.last() else { continue };
            let known = self.room.lock().expect("no panic while the lock is held").get(&batch.partition).copied();
            let known = made.get(&batch.partition).copied().or(known);
            if known.is_none_or(|before| before <= last.place) {
                let query = sqlx::query_scalar("SELECT make_slice($1, $2)").bind(last.place).bind(batch.time);
                made.insert(batch.partition, query.fetch_one(&mut *connection).await?);
            }
        }
        Ok(made)
    }
}

/// Moves a partition on; says whether it stood where it should.
async fn advance(connection: &mut PgConnection, batch: &Batch) -> sqlx::Result<bool> {
    let query = sqlx::query(AssertSqlSafe(sql::ADVANCE.replace('?', "$")));
    let query = query.bind(batch.partition).bind(batch.previous).bind(batch.upto).bind(batch.time);
    Ok(query.execute(connection).await?.rows_affected() > 0)
}

/// The last change of each row.
fn changes(batches: &[Batch]) -> Vec<Change<'_>> {
    let each = batches.iter().flat_map(|Batch { partition, upto, rows, .. }| {
        rows.iter().map(move |line| Change { partition: *partition, upto: *upto, line })
    });
    if batches.len() == 1 {
        return each.collect();
    }
    let name = |change: Change<'_>| (change.partition, change.line.table, change.line.scope, change.line.key.clone());
    each.map(|change| (name(change), change)).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// A column of what each `item` has.
fn column<'a, I: Copy, T>(items: &'a [I], of: impl Fn(I) -> T + 'a) -> Vec<T> {
    items.iter().map(|item| of(*item)).collect()
}

async fn put_rows(connection: &mut PgConnection, changes: &[Change<'_>]) -> sqlx::Result<()> {
    let put: Vec<(Change<'_>, &RowNow)> =
        changes.iter().filter_map(|change| Some((*change, change.line.now.as_ref()?))).collect();
    if !put.is_empty() {
        let query = sqlx::query(PUT_ROWS)
            .bind(column(&put, |(change, _)| change.partition))
            .bind(column(&put, |(change, _)| change.line.table.text()))
            .bind(column(&put, |(change, _)| change.line.scope.tenant.to_string()))
            .bind(column(&put, |(change, _)| change.line.scope.fleet.to_string()))
            .bind(column(&put, |(change, _)| change.line.key.as_bytes()))
            .bind(column(&put, |(_, now)| now.due_at))
            .bind(column(&put, |(_, now)| now.owner.as_deref()))
            .bind(column(&put, |(_, now)| now.place))
            .bind(column(&put, |(_, now)| now.listed))
            .bind(column(&put, |(change, _)| change.upto))
            .bind(column(&put, |(_, now)| now.body.as_str()));
        query.execute(&mut *connection).await?;
    }
    let removed: Vec<Change<'_>> = changes.iter().copied().filter(|change| change.line.now.is_none()).collect();
    if !removed.is_empty() {
        let query = sqlx::query(REMOVE_ROWS)
            .bind(column(&removed, |change| change.partition))
            .bind(column(&removed, |change| change.line.table.text()))
            .bind(column(&removed, |change| change.line.scope.tenant.to_string()))
            .bind(column(&removed, |change| change.line.scope.fleet.to_string()))
            .bind(column(&removed, |change| change.line.key.as_bytes()));
        query.execute(connection).await?;
    }
    Ok(())
}

async fn put_memory(connection: &mut PgConnection, changes: &[Change<'_>]) -> sqlx::Result<()> {
    let of_memory = changes.iter().copied().filter(|change| change.line.table == Table::Memory);
    let (mut put, mut removed): (Vec<(Change<'_>, &SearchLine)>, Vec<Change<'_>>) = (Vec::new(), Vec::new());
    for change in of_memory {
        match change.line.now.as_ref().and_then(|now| now.search.as_ref()) {
            Some(search) => put.push((change, search)),
            None => removed.push(change),
        }
    }
    if !put.is_empty() {
        let query = sqlx::query(PUT_MEMORY)
            .bind(column(&put, |(change, _)| change.partition))
            .bind(column(&put, |(change, _)| change.line.scope.tenant.to_string()))
            .bind(column(&put, |(change, _)| change.line.scope.fleet.to_string()))
            .bind(column(&put, |(change, _)| change.line.key.as_bytes()))
            .bind(column(&put, |(_, search)| search.expires_at))
            .bind(column(&put, |(_, search)| search.created_at))
            .bind(column(&put, |(_, search)| search.updated_at))
            .bind(column(&put, |(_, search)| search.author.as_deref()))
            .bind(column(&put, |(_, search)| search.lower_key.as_bytes()))
            .bind(column(&put, |(_, search)| search.tags.as_deref()))
            .bind(column(&put, |(_, search)| search.metadata.as_deref()))
            .bind(column(&put, |(change, search)| terms_of(change.line, search)))
            .bind(column(&put, |(_, search)| search.text.as_bytes()));
        query.execute(&mut *connection).await?;
    }
    if !removed.is_empty() {
        let query = sqlx::query(REMOVE_MEMORY)
            .bind(column(&removed, |change| change.partition))
            .bind(column(&removed, |change| change.line.scope.tenant.to_string()))
            .bind(column(&removed, |change| change.line.scope.fleet.to_string()))
            .bind(column(&removed, |change| change.line.key.as_bytes()));
        query.execute(connection).await?;
    }
    Ok(())
}

/// The terms of an entry as Postgres writes an array: arrays of arrays of different lengths it does not have.
fn terms_of(line: &RowLine, search: &SearchLine) -> String {
    let mut array = "{".to_owned();
    for term in terms(line.scope, &search.text, tags_in(search.tags.as_deref().unwrap_or_default())) {
        let _ = write!(array, "{}{term}", if array.len() > 1 { "," } else { "" });
    }
    array.push('}');
    array
}

async fn put_history(connection: &mut PgConnection, verdicts: &[&VerdictLine]) -> sqlx::Result<()> {
    if verdicts.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(PUT_HISTORY)
        .bind(column(verdicts, |line| line.scope.tenant.to_string()))
        .bind(column(verdicts, |line| line.scope.fleet.to_string()))
        .bind(column(verdicts, |line| line.place))
        .bind(column(verdicts, |line| line.time))
        .bind(column(verdicts, |line| line.stream))
        .bind(column(verdicts, |line| line.label.as_ref().map(String::as_bytes)))
        .bind(column(verdicts, |line| line.subject.as_ref().map(String::as_bytes)))
        .bind(column(verdicts, |line| line.agent.as_deref()))
        .bind(column(verdicts, |line| i16::from(line.routed)))
        .bind(column(verdicts, |line| line.parties.as_deref()))
        .bind(column(verdicts, |line| line.body.as_str()));
    query.execute(&mut *connection).await?;
    let tags: Vec<_> = verdicts.iter().flat_map(|line| line.tags.iter().map(|tag| (*line, tag))).collect();
    if !tags.is_empty() {
        let query = sqlx::query(PUT_TAGS)
            .bind(column(&tags, |(line, _)| line.scope.tenant.to_string()))
            .bind(column(&tags, |(line, _)| line.scope.fleet.to_string()))
            .bind(column(&tags, |(_, (tag, ..))| tag.as_bytes()))
            .bind(column(&tags, |(line, _)| line.place))
            .bind(column(&tags, |(_, (_, tagged, _))| i16::from(*tagged)))
            .bind(column(&tags, |(_, (.., routed))| i16::from(*routed)));
        query.execute(connection).await?;
    }
    Ok(())
}
