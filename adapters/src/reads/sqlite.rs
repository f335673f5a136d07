//! The read models of a single process: one SQLite file, one connection that writes, a few that read. Commits wait for the
//! operating system, not for the disk: after a power cut the file is whole but may be older, and the log fills it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use ringforge_domain::{
    fleet::Head,
    ids::Scope,
    position::{LogTime, Offset, Partition},
    row::{Row, RowKey, State},
};
use ringforge_ports::{
    Error,
    reads::{Applied, Commit, Find, Found, Heads, Reads, Verdicts, Which},
};
use serde::de::DeserializeOwned;
use sqlx::{
    SqliteConnection, SqlitePool,
    error::DatabaseError,
    migrate::MigrateError,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    batch::{Batch, offset},
    sql,
};

/// Connections that read.
const READERS: u32 = 4;
/// How long a statement waits for a connection, or for another process that has the file.
const BUSY: Duration = Duration::from_secs(5);
/// Pages of the write-ahead log at which it is moved into the file.
const CHECKPOINT_PAGES: &str = "4000";
/// Memory of each connection for pages, in KiB (SQLite wants it negative).
const CACHE_KIB: &str = "-16000";

/// Read models in a file.
pub struct SqliteReads {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteReads {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// `Corrupt`: it is damaged, no file of this kind, or of a newer version. `Unavailable`: whatever the file system says.
    pub async fn open(path: &Path) -> Result<Arc<Self>, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .busy_timeout(BUSY)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .page_size(8_192)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .pragma("cache_size", CACHE_KIB);
        let reading = options.clone().create_if_missing(false).read_only(true);
        let writer = pool(1).connect_with(options).await.map_err(|error| failed("open", &error))?;
        sqlx::migrate!("../migrations/sqlite").run(&writer).await.map_err(migrating)?;
        let readers = pool(READERS).connect_with(reading).await.map_err(|error| failed("open", &error))?;
        Ok(Arc::new(Self { writer, readers }))
    }

    /// Ends all connections: once this has resolved the file may be deleted.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Asks one statement whose answer is `applied, time, total, body`.
    async fn found(&self, query: Question<'_, FoundLine>) -> Result<Found, Error> {
        let lines = query.fetch_all(&self.readers).await.map_err(|error| failed("read", &error))?;
        let (applied, total) = lines.first().map_or_else(Default::default, |line| (applied(line.0, line.1), line.2));
        let rows: Vec<Row> = bodies(lines.into_iter().filter_map(|line| line.3))?;
        Ok(Found { total: total.cast_unsigned().max(rows.len() as u64), rows, applied })
    }
}

/// So many connections, for good.
fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(BUSY)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

type Question<'q, Line> = sqlx::query::QueryAs<'q, sqlx::Sqlite, Line, sqlx::sqlite::SqliteArguments>;

/// Applied, time, total, body.
type FoundLine = (Option<i64>, Option<i64>, i64, Option<String>);

/// Applied, time, oldest, total, body.
type VerdictLine = (Option<i64>, Option<i64>, Option<i64>, i64, Option<String>);

fn applied(upto: Option<i64>, time: Option<i64>) -> Applied {
    Applied { upto: Offset(upto.unwrap_or_default().cast_unsigned()), time: LogTime(time.unwrap_or_default()) }
}

fn bodies<T: DeserializeOwned>(texts: impl Iterator<Item = String>) -> Result<Vec<T>, Error> {
    let read = |text: String| serde_json::from_str(&text);
    texts.map(read).collect::<Result<_, _>>().map_err(|error| Error::Corrupt(format!("read models: {error}")))
}

/// What SQLite says when the file is damaged or no database.
const DAMAGED: [&str; 2] = ["11", "26"];

fn failed(doing: &str, error: &sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(DatabaseError::code);
    let damaged = code.is_some_and(|code| DAMAGED.contains(&primary(&code).as_str()));
    let decoding = matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_));
    let what = format!("{doing} the read models: {error}");
    if damaged || decoding { Error::Corrupt(what) } else { Error::Unavailable(what) }
}

/// The code without the details that SQLite adds in its upper bits.
fn primary(code: &str) -> String {
    code.parse::<u32>().map_or_else(|_| code.to_owned(), |code| (code & 0xff).to_string())
}

fn migrating(error: MigrateError) -> Error {
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            Error::Corrupt(format!("the read models are of a newer version of this program (migration {version})"))
        }
        MigrateError::VersionMismatch(version) => {
            Error::Corrupt(format!("the read models were not made by this program (migration {version} differs)"))
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => failed("migrate", &error),
        error => Error::Corrupt(format!("migrate the read models: {error}")),
    }
}

/// Writes one commit; `false` if the partition stands elsewhere.
async fn write(connection: &mut SqliteConnection, commit: &Commit, batch: Batch) -> Result<bool, sqlx::Error> {
    let partition = i64::from(commit.partition.0);
    let advance = sqlx::query(sql::ADVANCE)
        .bind(partition)
        .bind(commit.previous.0.cast_signed())
        .bind(commit.upto.0.cast_signed())
        .bind(commit.time.0);
    if advance.execute(&mut *connection).await?.rows_affected() == 0 {
        return Ok(false);
    }
    let (memory, searchable) = (batch.memory.text(), batch.searchable.text());
    let of_partition = [
        (sql::PUT_ROWS, batch.rows.text()),
        (sql::REMOVE_ROWS, batch.removed.text()),
        (sql::REMOVE_WORDS, memory.clone()),
        (sql::REMOVE_MEMORY, memory),
        (sql::PUT_MEMORY, searchable.clone()),
        (sql::PUT_WORDS, searchable),
    ];
    for (statement, tuples) in of_partition {
        if let Some(tuples) = tuples {
            sqlx::query(statement).bind(partition).bind(tuples).execute(&mut *connection).await?;
        }
    }
    let of_places = [
        (sql::PUT_VERDICTS, batch.verdicts.text()),
        (sql::PUT_HISTORY, batch.history.text()),
        (sql::PUT_TAGS, batch.tags.text()),
    ];
    for (statement, tuples) in of_places {
        if let Some(tuples) = tuples {
            sqlx::query(statement).bind(tuples).execute(&mut *connection).await?;
        }
    }
    Ok(true)
}

#[async_trait]
impl Reads for SqliteReads {
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        let batches = commits.iter().map(Batch::of).collect::<Result<Vec<_>, _>>()?;
        let failed = |error| failed("write", &error);
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        for (commit, batch) in commits.iter().zip(batches) {
            if !write(&mut transaction, commit, batch).await.map_err(failed)? {
                let (partition, previous) = (commit.partition.0, commit.previous.0);
                transaction.rollback().await.map_err(failed)?;
                return Err(Error::Conflict(format!("partition {partition} does not stand at {previous}")));
            }
        }
        transaction.commit().await.map_err(failed)
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        self.found(sqlx::query_as(sql::LOAD).bind(i64::from(partition.0)).bind(sql::names(keys))).await
    }

    async fn find(&self, partition: Partition, find: &Find) -> Result<Found, Error> {
        self.found(sql::find(partition, find).build_query_as()).await
    }

    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error> {
        let mut query = sql::verdicts(partition, scope, which);
        let query: Question<'_, VerdictLine> = query.build_query_as();
        let lines = query.fetch_all(&self.readers).await.map_err(|error| failed("read", &error))?;
        let Some((upto, time, oldest, total, _)) = lines.first() else {
            return Err(Error::Unavailable("read the read models: no answer".to_owned()));
        };
        let (applied, oldest, total) = (applied(*upto, *time), oldest.map(offset), total.cast_unsigned());
        let verdicts = bodies(lines.into_iter().filter_map(|line| line.4))?;
        let total = if let Which::Matching(_) = which { total } else { verdicts.len() as u64 };
        Ok(Verdicts { verdicts, total, oldest, applied })
    }

    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error> {
        let found = self.load(partition, &fleets.iter().copied().map(RowKey::head).collect()).await?;
        let heads: BTreeMap<Scope, &Head> =
            found.rows.iter().filter_map(Head::of).map(|head| (head.scope, head)).collect();
        let head = |scope: &Scope| heads.get(scope).copied().cloned();
        Ok(Heads { heads: fleets.iter().map(head).collect(), applied: found.applied })
    }
}
