//! The read models of a single process: one SQLite file, one thread that writes, a few that read. Commits are written
//! together, and before any question about them is answered, but nobody waits for the disk: after a crash the file is whole
//! but may be older, and the log fills it again.

mod pending;
mod readers;
mod snapshot;
mod sum;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ringforge_domain::{
    fleet::Head,
    ids::Scope,
    position::{LogTime, Offset, Partition},
    row::{Row, RowKey, State, Table},
};
use ringforge_ports::{
    Error,
    reads::{Applied, Commit, Find, Found, Heads, Listed, Reads, Room, Snapshot, Verdicts, Which},
};
use rusqlite::{Connection, OpenFlags, OptionalExtension, config::DbConfig, params, params_from_iter};
use serde::de::DeserializeOwned;
use sqlx::{
    error::DatabaseError,
    migrate::MigrateError,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use self::{
    readers::{Readers, snapshot},
    writer::Writer,
};
use super::{
    batch::{Batch, offset, place},
    sql::{
        self,
        build::{Dialect, Sql},
    },
};
use crate::damage::is_damage;

/// How long a statement waits for another process that has the file.
const BUSY: Duration = Duration::from_secs(5);
/// Memory for pages of the connection that writes, and of each that reads, in KiB (SQLite wants it negative). The file is not
/// mapped: every connection would map it again, and all of it would count as memory of the process.
const WRITER_CACHE_KIB: i64 = -8_000;
const READER_CACHE_KIB: i64 = -1_000;
/// Bytes the write-ahead log keeps when it starts over.
const WAL_KEPT_BYTES: i64 = 64 << 20;
/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 64;
/// Rows that are loaded where they are asked for.
const LOADED_HERE: usize = 64;

/// Called once, with what was found, when the file turns out not to be what was written: it should be deleted.
pub type OnDamage = Box<dyn Fn(&Error) + Send + Sync>;

/// Read models in a file. Dropping them waits until what was committed is written.
pub struct SqliteReads {
    path: PathBuf,
    readers: Readers,
    writer: Writer,
    damaged: AtomicBool,
    on_damage: OnceLock<OnDamage>,
    closed: AtomicBool,
}

impl SqliteReads {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// `Corrupt`: it is damaged, no file of this kind, or of a newer version. `Unavailable`: whatever the file system says.
    pub async fn open(path: &Path) -> Result<Arc<Self>, Error> {
        sum::check(path)?;
        migrate(path).await?;
        let (readers, writer) = (Readers::start(path)?, Writer::start(path)?);
        let (damaged, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        let on_damage = OnceLock::new();
        Ok(Arc::new(Self { path: path.to_owned(), readers, writer, damaged, on_damage, closed }))
    }

    /// Deletes a file that nobody has open, and what belongs to it.
    pub fn delete(path: &Path) -> io::Result<()> {
        let with = |suffix: &str| {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            PathBuf::from(file)
        };
        for file in [path.to_owned(), with("-wal"), with("-shm"), sum::place(path)] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts a file that was closed in order in the place of another that nobody has open.
    pub fn replace(path: &Path, by: &Path) -> io::Result<()> {
        Self::delete(path)?;
        fs::rename(by, path)?;
        match fs::rename(sum::place(by), sum::place(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Has `hook` called, once, with damage that is found from now on; the first of several counts.
    pub fn on_damage(&self, hook: OnDamage) {
        // Who comes second is left out.
        let _ = self.on_damage.set(hook);
    }

    /// Whether damage was found since they were opened.
    pub fn damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    fn noted<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if let Err(error @ Error::Corrupt(_)) = &answer
            && !self.damaged.swap(true, Ordering::Relaxed)
            && let Some(hook) = self.on_damage.get()
        {
            hook(error);
        }
        answer
    }

    /// Writes and answers what waits and ends all connections: then the file may be deleted. Blocks for a moment.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        // In this order: the last connection to close is the one that empties the write-ahead log.
        self.readers.end();
        self.writer.end();
        if !self.damaged()
            && let Err(error) = sum::note(&self.path)
        {
            tracing::warn!("note what the read models are: {error}");
        }
    }
}

impl Drop for SqliteReads {
    fn drop(&mut self) {
        self.close();
    }
}

/// Brings the tables to where this program wants them.
async fn migrate(path: &Path) -> Result<(), Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .busy_timeout(BUSY)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    let failed = |error: sqlx::Error| migrating(MigrateError::Execute(error));
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(failed)?;
    let migrated = sqlx::migrate!("../migrations/sqlite").run(&pool).await.map_err(migrating);
    pool.close().await;
    migrated
}

fn migrating(error: MigrateError) -> Error {
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            Error::Corrupt(format!("the read models are of a newer version of this program (migration {version})"))
        }
        MigrateError::VersionMismatch(version) => {
            Error::Corrupt(format!("the read models were not made by this program (migration {version} differs)"))
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            let code = error.as_database_error().and_then(DatabaseError::code);
            let code = code.and_then(|code| code.parse::<i32>().ok()).map(rusqlite::ffi::Error::new);
            let what = format!("open the read models: {error}");
            if code.is_some_and(is_damage) { Error::Corrupt(what) } else { Error::Unavailable(what) }
        }
        error => Error::Corrupt(format!("migrate the read models: {error}")),
    }
}

/// A connection that writes.
fn connect_writer(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags, WRITER_CACHE_KIB)?;
    let set = |name, value: i64| connection.pragma_update(None, name, value).map_err(|error| failed("open", &error));
    // Normal.
    set("synchronous", 1)?;
    set("wal_autocheckpoint", 0)?;
    set("journal_size_limit", WAL_KEPT_BYTES)?;
    Ok(connection)
}

/// A connection that only reads.
fn connect_reader(path: &Path) -> Result<Connection, Error> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX, READER_CACHE_KIB)
}

fn connect(path: &Path, flags: OpenFlags, cache_kib: i64) -> Result<Connection, Error> {
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "cache_size", cache_kib)?;
        // No plan depends on what is bound: else a statement on a partial index is planned anew each time it is asked.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    };
    open().map_err(|error| failed("open", &error))
}

fn failed(doing: &str, error: &rusqlite::Error) -> Error {
    let damaged = error.sqlite_error().copied().is_some_and(is_damage);
    let decoding = matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..)
    );
    let what = format!("{doing} the read models: {error}");
    if damaged || decoding { Error::Corrupt(what) } else { Error::Unavailable(what) }
}

fn reading(error: &rusqlite::Error) -> Error {
    failed("read", error)
}

fn applied(upto: Option<i64>, time: Option<i64>) -> Applied {
    Applied { upto: Offset(upto.unwrap_or_default().cast_unsigned()), time: LogTime(time.unwrap_or_default()) }
}

fn load(
    connection: &Connection,
    partition: Partition,
    keys: &BTreeSet<RowKey>,
    mut answer: Answer<Row, RowKey>,
) -> Result<Found, Error> {
    snapshot(connection, || {
        let partition = i64::from(partition.0);
        let stands = prepare(connection, sql::APPLIED)?
            .query_row([partition], |row| Ok(applied(row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(|error| reading(&error))?;
        let (mut of_scope, mut of_row) = (prepare(connection, sql::SCOPE)?, prepare(connection, sql::ROW)?);
        let mut scopes: BTreeMap<Scope, Option<i64>> = BTreeMap::new();
        for key in keys {
            let scope = match scopes.entry(key.scope) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => {
                    let names = [key.scope.tenant.to_string(), key.scope.fleet.to_string()];
                    let id = of_scope.query_row(names, |row| row.get(0)).optional();
                    *unknown.insert(id.map_err(|error| reading(&error))?)
                }
            };
            let Some(scope) = scope else { continue };
            let row = params![partition, key.table.text(), scope, key.key];
            answer.add(&mut of_row, row, || Ok(key.clone()))?;
        }
        let Answer { bodies: rows, rest, .. } = answer;
        Ok(Found { total: (rows.len() + rest.len()) as u64, rows, rest, applied: stands.unwrap_or_default() })
    })
}

fn prepare<'c>(connection: &'c Connection, text: &str) -> Result<rusqlite::CachedStatement<'c>, Error> {
    connection.prepare_cached(text).map_err(|error| reading(&error))
}

/// Asks one statement and gives each line to `line`.
fn lines(
    connection: &Connection,
    sql: &Sql,
    mut line: impl FnMut(&rusqlite::Row<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut statement = prepare(connection, &sql.text)?;
    let mut rows = statement.query(params_from_iter(&sql.values)).map_err(|error| reading(&error))?;
    while let Some(row) = rows.next().map_err(|error| reading(&error))? {
        line(row)?;
    }
    Ok(())
}

fn column<T: rusqlite::types::FromSql>(row: &rusqlite::Row<'_>, at: usize) -> Result<T, Error> {
    row.get(at).map_err(|error| reading(&error))
}

fn find(connection: &Connection, partition: Partition, sql: &Sql) -> Result<Found, Error> {
    snapshot(connection, || find_now(connection, partition, sql))
}

/// The same within a transaction that is begun already.
fn find_now(connection: &Connection, partition: Partition, sql: &Sql) -> Result<Found, Error> {
    let (mut found, mut answer) = (Found::default(), Answer::default());
    let mut of_row = prepare(connection, sql::ROW)?;
    lines(connection, sql, |line| {
        found.applied = applied(column(line, 0)?, column(line, 1)?);
        found.total = column::<i64>(line, 2)?.cast_unsigned();
        let Some(key) = column::<Option<String>>(line, 3)? else { return Ok(()) };
        let (kind, scope): (String, i64) = (column(line, 4)?, column(line, 5)?);
        let row = params![i64::from(partition.0), kind, scope, key];
        answer.add(&mut of_row, row, || named(&key, &kind, &column::<String>(line, 6)?, &column::<String>(line, 7)?))
    })?;
    (found.rows, found.rest) = (answer.bodies, answer.rest);
    found.total = found.total.max((found.rows.len() + found.rest.len()) as u64);
    Ok(found)
}

fn named(key: &str, kind: &str, tenant: &str, fleet: &str) -> Result<RowKey, Error> {
    let damaged = || Error::Corrupt(format!("read models: a row named {kind} {tenant} {fleet}"));
    let table = Table::ALL.into_iter().find(|table| table.text() == kind).ok_or_else(damaged)?;
    let (tenant, fleet) = (tenant.parse().map_err(|_| damaged())?, fleet.parse().map_err(|_| damaged())?);
    Ok(RowKey::new(table, Scope { tenant, fleet }, key))
}

fn verdicts(connection: &Connection, sql: &Sql, counted: bool) -> Result<Verdicts, Error> {
    let (mut found, mut answer) = (Verdicts::default(), Answer::default());
    snapshot(connection, || {
        let mut of_verdict = prepare(connection, sql::VERDICT)?;
        lines(connection, sql, |line| {
            found.applied = applied(column(line, 0)?, column(line, 1)?);
            found.oldest = column::<Option<i64>>(line, 2)?.map(offset);
            found.total = column::<i64>(line, 3)?.cast_unsigned();
            let Some(place) = column::<Option<i64>>(line, 4)? else { return Ok(()) };
            answer.add(&mut of_verdict, params![place], || Ok(offset(place)))
        })
    })?;
    (found.verdicts, found.rest) = (answer.bodies, answer.rest);
    if !counted {
        found.total = (found.verdicts.len() + found.rest.len()) as u64;
    }
    Ok(found)
}

/// What an answer holds, and the names of what it has no room for.
struct Answer<Body, Name> {
    bodies: Vec<Body>,
    rest: Vec<Name>,
    room: Room,
}

impl<Body, Name> Default for Answer<Body, Name> {
    fn default() -> Self {
        Self { bodies: Vec::new(), rest: Vec::new(), room: Room::default() }
    }
}

impl<Body: DeserializeOwned, Name> Answer<Body, Name> {
    /// Adds the body that `statement` finds with `key`, if there is one; its name, if there is no room for it.
    fn add(
        &mut self,
        statement: &mut rusqlite::CachedStatement<'_>,
        key: impl rusqlite::Params,
        name: impl FnOnce() -> Result<Name, Error>,
    ) -> Result<(), Error> {
        if !self.rest.is_empty() {
            self.rest.push(name()?);
            return Ok(());
        }
        let mut found = statement.query(key).map_err(|error| reading(&error))?;
        let Some(line) = found.next().map_err(|error| reading(&error))? else { return Ok(()) };
        let damaged = |what: String| Error::Corrupt(format!("read models: {what}"));
        let stored = line.get_ref(0).map_err(|error| reading(&error))?;
        let text = stored.as_str().map_err(|error| damaged(error.to_string()))?;
        if self.room.takes(text.len()) {
            self.bodies.push(serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?);
        } else {
            self.rest.push(name()?);
        }
        Ok(())
    }
}

impl SqliteReads {
    /// Resolves once what was committed before is in the file.
    async fn written(&self) -> Result<(), Error> {
        self.noted(self.writer.pending().written().await)
    }

    async fn load_into(&self, partition: Partition, keys: &BTreeSet<RowKey>, room: Room) -> Result<Found, Error> {
        let stands = self.writer.pending().stands_without(partition, keys);
        if stands.is_none() {
            self.written().await?;
        }
        let mut found = self.load_written(partition, keys, room).await?;
        // None of these rows has changed from where the file stands up to there.
        if let Some(stands) = stands.filter(|stands| stands.upto > found.applied.upto) {
            found.applied = stands;
        }
        Ok(found)
    }

    async fn load_written(&self, partition: Partition, keys: &BTreeSet<RowKey>, room: Room) -> Result<Found, Error> {
        let answer = move || Answer { room, ..Answer::default() };
        if keys.len() <= LOADED_HERE
            && let Some(found) = self.readers.ask_here(|connection| load(connection, partition, keys, answer()))
        {
            return self.noted(found);
        }
        let keys = keys.clone();
        self.noted(self.readers.ask(move |connection| load(connection, partition, &keys, answer())).await)
    }
}

#[async_trait]
impl Reads for SqliteReads {
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        let batches = commits.iter().map(Batch::of).collect::<Result<Vec<_>, _>>()?;
        self.noted(self.writer.pending().accept(commits, batches).await)
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        self.load_into(partition, keys, Room::default()).await
    }

    async fn find(&self, partition: Partition, wanted: &Find) -> Result<Found, Error> {
        self.written().await?;
        let sql = sql::find(Dialect::Sqlite, partition, wanted);
        // What whoever comes in waits for: a few rows by an index.
        if matches!(wanted, Find::Mail { .. } | Find::Listed { which: Listed::Since(_), .. })
            && let Some(found) = self.readers.ask_here(|connection| find(connection, partition, &sql))
        {
            return self.noted(found);
        }
        let question = move |connection: &Connection| find(connection, partition, &sql);
        self.noted(match wanted {
            Find::Memory(filter) => self.readers.search(filter.scope.tenant, question).await,
            _ => self.readers.ask(question).await,
        })
    }

    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error> {
        self.written().await?;
        let sql = sql::history::verdicts(Dialect::Sqlite, partition, scope, which);
        let counted = matches!(which, Which::Matching(_));
        let question = move |connection: &Connection| verdicts(connection, &sql, counted);
        let found =
            if counted { self.readers.search(scope.tenant, question).await } else { self.readers.ask(question).await };
        self.noted(found)
    }

    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error> {
        let keys: BTreeSet<RowKey> = fleets.iter().copied().map(RowKey::head).collect();
        // They are small, and each is told.
        let found = self.load_into(partition, &keys, Room::endless()).await?;
        let heads: BTreeMap<Scope, &Head> =
            found.rows.iter().filter_map(Head::of).map(|head| (head.scope, head)).collect();
        let head = |scope: &Scope| heads.get(scope).copied().cloned();
        Ok(Heads { heads: fleets.iter().map(head).collect(), applied: found.applied })
    }

    async fn snapshot(&self, partition: Partition) -> Result<Snapshot, Error> {
        self.written().await?;
        self.noted(snapshot::open(&self.path, partition).await)
    }

    async fn forget(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.writer.pending().forget(place(partition, Offset::ZERO), place(partition, before));
        Ok(())
    }
}
