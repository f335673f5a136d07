//! Asking: one statement a question, so that it sees one snapshot. It finds names as the other engine's does, and brings the
//! bodies that have room along.

use std::time::Duration;

use ringforge_domain::{
    ids::{Scope, TenantId},
    limits,
    position::{LogTime, Offset, Partition},
    row::{RowKey, Table},
};
use ringforge_ports::{
    Error,
    reads::{Applied, Found, Verdicts},
};
use serde::de::DeserializeOwned;
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgRow, raw_sql};
use tokio::time::timeout;

use super::{failure::failed, server::Server};
use crate::reads::{
    batch::offset,
    sql::{
        bodies,
        build::{List, Sql, Value},
    },
};

/// Who may see the answer.
pub enum Whose {
    /// The projector and its kind.
    Everyone,
    /// One tenant.
    Tenant(TenantId),
}

impl Server {
    /// The rows that `named` finds.
    pub async fn rows(&self, whose: Whose, partition: Partition, named: Sql, room: usize) -> Result<Found, Error> {
        found(&self.ask(whose, &bodies::with_rows(named, partition, room)).await?)
    }

    /// The verdicts that `named` finds. If they are not `counted` there are as many as come.
    pub async fn verdicts(&self, scope: Scope, named: Sql, counted: bool) -> Result<Verdicts, Error> {
        let question = bodies::with_verdicts(named, scope, limits::ANSWER_BYTES_MAX);
        let lines = self.ask(Whose::Tenant(scope.tenant), &question).await?;
        let mut found = Verdicts::default();
        for line in &lines {
            found.applied = applied(line)?;
            found.oldest = column::<Option<i64>>(line, "oldest")?.map(offset);
            found.total = column::<i64>(line, "counted")?.unsigned_abs();
            match body_of(line)? {
                Body::Here(verdict) => found.verdicts.push(verdict),
                Body::Elsewhere => found.rest.push(offset(column(line, "place")?)),
                Body::Nowhere => {}
            }
        }
        if !counted {
            found.total = (found.verdicts.len() + found.rest.len()) as u64;
        }
        Ok(found)
    }

    async fn ask(&self, whose: Whose, sql: &Sql) -> Result<Vec<PgRow>, Error> {
        let failed = |error: sqlx::Error| failed("read", &error);
        let asked = async {
            let mut lent = match whose {
                Whose::Everyone => self.project().await?,
                Whose::Tenant(tenant) => self.query(tenant).await?,
            };
            let lines = ask_now(&mut lent, sql).await.map_err(failed)?;
            if let Whose::Tenant(_) = whose {
                raw_sql("COMMIT").execute(&mut *lent).await.map_err(failed)?;
            }
            lent.give_back();
            Ok(lines)
        };
        let answer = timeout(Duration::from_millis(limits::STATEMENT_MS), asked).await;
        answer.unwrap_or_else(|_| Err(Error::Unavailable("read the read models: no answer in time".to_owned())))
    }
}

/// Asks on a connection, in whatever transaction it is.
async fn ask_now(connection: &mut PgConnection, sql: &Sql) -> sqlx::Result<Vec<PgRow>> {
    let query = sql.values.iter().fold(sqlx::query(AssertSqlSafe(sql.text.as_str())), bind);
    query.fetch_all(connection).await
}

/// The rows that `named` finds, likewise.
pub async fn rows_now(connection: &mut PgConnection, partition: Partition, named: Sql) -> Result<Found, Error> {
    let question = bodies::with_rows(named, partition, limits::ANSWER_BYTES_MAX);
    let answer = timeout(Duration::from_millis(limits::STATEMENT_MS), ask_now(connection, &question)).await;
    let lines = answer.map_err(|_| Error::Unavailable("read the read models: no answer in time".to_owned()))?;
    found(&lines.map_err(|error| failed("read", &error))?)
}

fn found(lines: &[PgRow]) -> Result<Found, Error> {
    let mut found = Found::default();
    for line in lines {
        found.applied = applied(line)?;
        found.total = column::<i64>(line, "counted")?.unsigned_abs();
        match body_of(line)? {
            Body::Here(row) => found.rows.push(row),
            Body::Elsewhere => found.rest.push(name(line)?),
            Body::Nowhere => {}
        }
    }
    found.total = found.total.max((found.rows.len() + found.rest.len()) as u64);
    Ok(found)
}

pub type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

pub fn bind<'q>(query: Query<'q>, value: &'q Value) -> Query<'q> {
    let bytes = |texts: &'q [String]| texts.iter().map(String::as_bytes).collect::<Vec<_>>();
    match value {
        Value::Integer(value) => query.bind(value),
        Value::Text(text) => query.bind(text),
        Value::Written(text) => query.bind(text.as_bytes()),
        Value::Lists(lists) => lists.iter().fold(query, |query, list| match list {
            List::Integers(list) => query.bind(list),
            List::Texts(list) => query.bind(list),
            List::Written(list) => query.bind(bytes(list)),
        }),
    }
}

fn column<'r, T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>>(
    line: &'r PgRow,
    name: &str,
) -> Result<T, Error> {
    line.try_get(name).map_err(|error| failed("read", &error))
}

fn applied(line: &PgRow) -> Result<Applied, Error> {
    let (upto, time): (Option<i64>, Option<i64>) = (column(line, "applied")?, column(line, "time")?);
    Ok(Applied { upto: Offset(upto.unwrap_or_default().cast_unsigned()), time: LogTime(time.unwrap_or_default()) })
}

/// What became of a name.
enum Body<T> {
    Here(T),
    /// There was no room for it.
    Elsewhere,
    /// Nothing has the name.
    Nowhere,
}

fn body_of<T: DeserializeOwned>(line: &PgRow) -> Result<Body<T>, Error> {
    if column::<Option<i32>>(line, "size")?.is_none() {
        return Ok(Body::Nowhere);
    }
    let Some(text) = column::<Option<&str>>(line, "body")? else { return Ok(Body::Elsewhere) };
    serde_json::from_str(text).map(Body::Here).map_err(|error| Error::Corrupt(format!("read models: {error}")))
}

fn name(line: &PgRow) -> Result<RowKey, Error> {
    let (kind, tenant, fleet): (&str, &str, &str) =
        (column(line, "kind")?, column(line, "tenant")?, column(line, "fleet")?);
    let key: &[u8] = column(line, "key")?;
    let damaged = || Error::Corrupt(format!("read models: a row named {kind} {tenant} {fleet}"));
    let table = Table::ALL.into_iter().find(|table| table.text() == kind).ok_or_else(damaged)?;
    let (tenant, fleet) = (tenant.parse().map_err(|_| damaged())?, fleet.parse().map_err(|_| damaged())?);
    let key = std::str::from_utf8(key).map_err(|_| damaged())?;
    Ok(RowKey::new(table, Scope { tenant, fleet }, key))
}
