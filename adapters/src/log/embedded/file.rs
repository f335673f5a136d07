//! The file: its lock, tables, row ids and checksums. Nothing here knows of threads.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use ringforge_domain::{
    ids::{FleetId, Scope, TenantId},
    limits,
    position::{Generation, LogTime, Offset, Partition},
};
use ringforge_ports::{
    Error,
    clock::{Ids, SystemIds},
    log::{Record, Stored},
};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Statement, TransactionBehavior, params};

use super::{OpenError, repair, wal};
use crate::damage::is_damage;

/// The format of logs that are made now. Those of the first are read and written as they are: see [`Sums`].
const FORMAT: i64 = 2;
/// Bytes of a page.
pub(super) const PAGE: usize = 8192;
/// Newest records of each partition whose checksums are verified when the log is opened.
const VERIFIED: u64 = 1_024;
/// Bytes of the file that a connection maps.
const MMAP_BYTES: i64 = 1 << 30;
/// Bytes the write-ahead log keeps when it starts over.
const WAL_KEPT_BYTES: i64 = 64 << 20;

const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE partitions (id INTEGER PRIMARY KEY, oldest INTEGER NOT NULL, next INTEGER NOT NULL, newest INTEGER NOT NULL);
    CREATE TABLE records (
        id INTEGER PRIMARY KEY, time INTEGER NOT NULL, scope BLOB NOT NULL, checksum INTEGER NOT NULL, bytes BLOB NOT NULL
    );";

/// Where a partition stands.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// The first offset kept.
    pub oldest: Offset,
    /// The next to be written.
    pub end: Offset,
    /// The time of the newest record ever written.
    pub newest: LogTime,
}

/// An open log.
pub(super) struct LogFile {
    pub connection: Connection,
    pub generation: Generation,
    pub sums: Sums,
    pub partitions: Vec<State>,
    /// Held until everything else is done.
    pub lock: File,
}

/// Locks, creates if need be, and verifies.
pub(super) fn open(path: &Path, partitions: u16) -> Result<LogFile, OpenError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !path.exists() {
        make_folder(parent)?;
    }
    let lock = lock(path)?;
    check_files(path)?;
    let mut connection = connect(path).map_err(opening)?;
    let (generation, sums) = load_meta(&mut connection, partitions)?;
    // The file and its write-ahead log exist by now; without this a power cut could lose their names.
    File::open(parent)?.sync_all()?;
    let partitions: Vec<State> =
        (0..partitions).map(|id| load_partition(&connection, sums, Partition(id))).collect::<Result<_, _>>()?;
    note_ends(&connection, &partitions).map_err(opening)?;
    Ok(LogFile { connection, generation, sums, partitions, lock })
}

/// Makes a folder that no power cut takes back: neither its name nor those above it, whoever made them, up to where its file
/// system begins.
fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let device = folder.metadata()?.dev();
    let ours = |above: &&Path| above.metadata().is_ok_and(|above| above.dev() == device);
    for above in folder.ancestors().skip(1).take_while(ours) {
        match File::open(above) {
            // Whoever keeps it to himself answers for it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            opened => opened?.sync_all()?,
        }
    }
    Ok(())
}

/// What SQLite would take for a log that is new or shorter is refused.
fn check_files(path: &Path) -> Result<(), OpenError> {
    check_present(path)?;
    if repair::repaired(path).exists() {
        return Err(damaged("its repair was cut short: begin it again, it will go on"));
    }
    wal::damage(path)?.map_or(Ok(()), |damage| Err(damaged(&damage.to_string())))
}

/// A file that is gone or all but gone is not made anew, as SQLite would, where there is more than nothing of it. While it is
/// made there is a journal.
pub(super) fn check_present(path: &Path) -> Result<(), OpenError> {
    let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    match length(path) {
        0 if length(&wal::path_of(path)) > 0 => {
            Err(damaged(&format!("{} is gone and its write-ahead log is there: they belong together", path.display())))
        }
        bytes @ 1.. if bytes < PAGE as u64 && !path.with_extension("db-journal").exists() => {
            Err(damaged(&format!("{} has only {bytes} bytes", path.display())))
        }
        _ => Ok(()),
    }
}

pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let file = File::options().create(true).truncate(false).write(true).open(path.with_extension("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// A connection that writes.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "page_size", i64::try_from(PAGE).unwrap_or_default())?;
    write_ahead(&connection)?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
    connection.pragma_update(None, "mmap_size", MMAP_BYTES)?;
    Ok(connection)
}

/// Has it write a log ahead. The statement is read to its end: only there is the change written, and may fail.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("PRAGMA journal_mode = wal")?;
    let modes: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    if modes == ["wal"] {
        return Ok(());
    }
    // Whatever the disk said to it, SQLite goes on with another.
    let why = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    Err(rusqlite::Error::SqliteFailure(why, Some("disk I/O error: no write-ahead log".to_owned())))
}

/// A connection that only reads.
pub(super) fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "mmap_size", MMAP_BYTES)?;
    Ok(connection)
}

fn load_meta(connection: &mut Connection, partitions: u16) -> Result<(Generation, Sums), OpenError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(opening)?;
    if is_empty(&transaction).map_err(opening)? {
        create(&transaction, partitions).map_err(opening)?;
    }
    transaction.commit().map_err(opening)?;
    read_meta(connection, partitions)
}

/// Whether the tables are still to be made.
pub(super) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

/// Of which generation a log is, and how its records are summed up.
pub(super) fn read_meta(connection: &Connection, partitions: u16) -> Result<(Generation, Sums), OpenError> {
    let format = meta(connection, "format")?;
    let found = meta(connection, "partitions")?;
    let generation = u32::try_from(meta(connection, "generation")?);
    let generation = generation.map(Generation).map_err(|_| damaged("the generation is out of range"))?;
    let sums = match format {
        1 => Sums(None),
        FORMAT => Sums(Some(generation)),
        // There never was such a format.
        ..=0 => return Err(damaged(&format!("meta names format {format}"))),
        found => return Err(OpenError::WrongVersion { found, expected: FORMAT }),
    };
    if found != i64::from(partitions) {
        return Err(OpenError::WrongPartitions { found, expected: partitions });
    }
    Ok((generation, sums))
}

fn create(connection: &Connection, partitions: u16) -> rusqlite::Result<()> {
    let secret = SystemIds.secret();
    let generation = u32::from_le_bytes([secret[0], secret[1], secret[2], secret[3]]);
    create_as(connection, partitions, Generation(generation), Sums(Some(Generation(generation))))
}

/// The tables of a log of this generation, whose records are summed up so.
pub(super) fn create_as(
    connection: &Connection,
    partitions: u16,
    generation: Generation,
    sums: Sums,
) -> rusqlite::Result<()> {
    let format = if sums.0.is_some() { FORMAT } else { 1 };
    connection.execute_batch(TABLES)?;
    for (name, value) in [("format", format), ("generation", generation.0.into()), ("partitions", partitions.into())] {
        connection.execute("INSERT INTO meta VALUES (?1, ?2)", params![name, value])?;
    }
    for id in 0..partitions {
        connection.execute("INSERT INTO partitions VALUES (?1, 0, 0, 0)", [id])?;
    }
    Ok(())
}

fn meta(connection: &Connection, name: &str) -> Result<i64, OpenError> {
    let value = connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0));
    value.optional().map_err(opening)?.ok_or_else(|| damaged(&format!("meta has no {name}")))
}

/// Notes where partitions end, if that has changed: what is missing up to there at the next start is damage, not a log that
/// was always so short.
pub(super) fn note_ends(connection: &Connection, partitions: &[State]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for (id, state) in (0_u16..).zip(partitions) {
        let update = "UPDATE partitions SET next = ?2, newest = ?3 WHERE id = ?1 AND next < ?2";
        transaction.execute(update, params![id, state.end.0.cast_signed(), state.newest.0])?;
    }
    transaction.commit()
}

/// Where a partition stands by its row, which is only as new as the last start, end or trim: the records tell the rest.
pub(super) fn noted(connection: &Connection, partition: Partition) -> Result<State, OpenError> {
    let select = "SELECT oldest, next, newest FROM partitions WHERE id = ?1";
    let columns = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, LogTime(row.get(2)?)));
    let stored = connection.query_row(select, [partition.0], columns).optional().map_err(opening)?;
    let (oldest, next, newest) = stored.ok_or_else(|| damaged(&format!("partition {} has no row", partition.0)))?;
    let limit = Offset::LIMIT.0;
    let offset = |value: i64| u64::try_from(value).ok().filter(|value| *value < limit).map(Offset);
    let (Some(oldest), Some(next)) = (offset(oldest), offset(next)) else {
        return Err(damaged(&format!("partition {} has bounds {oldest} and {next}", partition.0)));
    };
    Ok(State { oldest, end: next, newest })
}

/// Notes where a partition stands.
pub(super) fn note(connection: &Connection, partition: Partition, state: &State) -> rusqlite::Result<()> {
    let update = "UPDATE partitions SET oldest = ?2, next = ?3, newest = ?4 WHERE id = ?1";
    let (oldest, end) = (state.oldest.0.cast_signed(), state.end.0.cast_signed());
    connection.prepare_cached(update)?.execute(params![partition.0, oldest, end, state.newest.0]).map(drop)
}

/// A row's columns, as [`insert`] binds them.
pub(super) const INSERT: &str = "INSERT INTO records VALUES (?1, ?2, ?3, ?4, ?5)";

/// Writes a record at its place.
pub(super) fn insert(
    insert: &mut Statement<'_>,
    sums: Sums,
    partition: Partition,
    stored: &Stored,
) -> rusqlite::Result<()> {
    let Stored { offset, time, record } = stored;
    let (id, scope) = (row_id(partition, *offset), scope_bytes(record.scope));
    let sum = sums.of(id, *time, &scope, &record.bytes);
    insert.execute(params![id, time.0, scope, sum, &*record.bytes]).map(drop)
}

/// The offset of the newest record from `oldest` on.
pub(super) fn last(connection: &Connection, partition: Partition, oldest: Offset) -> rusqlite::Result<Option<Offset>> {
    let select = "SELECT id FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id DESC LIMIT 1";
    let range = params![row_id(partition, oldest), row_id(partition, Offset::LIMIT)];
    connection.query_row(select, range, |row| row.get(0)).optional().map(|id| id.map(offset_of))
}

/// Where a partition stands, its newest records verified.
fn load_partition(connection: &Connection, sums: Sums, partition: Partition) -> Result<State, OpenError> {
    let mut state = noted(connection, partition)?;
    let State { oldest, end: next, .. } = state;
    let Some(last) = last(connection, partition, oldest).map_err(opening)? else {
        return if oldest == next { Ok(state) } else { Err(gap(partition, oldest)) };
    };
    if seek(connection, sums, partition, &[oldest]).map_err(verifying)?.is_empty() {
        return Err(gap(partition, oldest));
    }
    if last.next() < next {
        return Err(gap(partition, last.next()));
    }
    state.end = last.next();
    let mut from = Offset(state.end.0.saturating_sub(VERIFIED).max(oldest.0));
    while from < state.end {
        let batch = read(connection, sums, partition, from, state.end).map_err(verifying)?;
        let Some(newest) = batch.last().filter(|_| batch[0].offset == from) else {
            return Err(gap(partition, from));
        };
        state.newest = state.newest.max(newest.time);
        from = newest.offset.next();
    }
    Ok(state)
}

fn damaged(what: &str) -> OpenError {
    OpenError::Damaged { what: what.to_owned() }
}

fn gap(partition: Partition, offset: Offset) -> OpenError {
    verifying(missing(partition, offset))
}

pub(super) fn verifying(error: Error) -> OpenError {
    match error {
        Error::Corrupt(what) => OpenError::Damaged { what },
        other => OpenError::Io(io::Error::other(other)),
    }
}

pub(super) fn opening(error: rusqlite::Error) -> OpenError {
    // Unknown: a table that is not there.
    if damages(&error) || error.sqlite_error_code() == Some(ErrorCode::Unknown) {
        damaged(&error.to_string())
    } else {
        OpenError::Io(io::Error::other(error))
    }
}

/// Whether the file is to blame: it is not as it was written, or (no code) a value is of another type.
fn damages(error: &rusqlite::Error) -> bool {
    error.sqlite_error().copied().is_none_or(is_damage)
}

/// The row of a record: partitions lie one after another, each in the order of its offsets.
pub(super) fn row_id(partition: Partition, offset: Offset) -> i64 {
    ((u64::from(partition.0) << 48) | offset.0).cast_signed()
}

fn offset_of(id: i64) -> Offset {
    Offset(id.cast_unsigned() & ((1 << 48) - 1))
}

/// The scope as it is stored.
fn scope_bytes(scope: Scope) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&scope.tenant.bits().to_be_bytes());
    bytes[16..].copy_from_slice(&scope.fleet.bits().to_be_bytes());
    bytes
}

/// How records are summed up. The generation counts, so that no record of another log is taken for one of this; in the first
/// format it did not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums(Option<Generation>);

impl Sums {
    /// Over everything that a row says, its place too.
    pub(super) fn of(self, id: i64, time: LogTime, scope: &[u8], bytes: &[u8]) -> i64 {
        let mut hasher = blake3::Hasher::new();
        if let Some(generation) = self.0 {
            hasher.update(&generation.0.to_le_bytes());
        }
        hasher.update(&id.to_le_bytes()).update(&time.0.to_le_bytes()).update(scope).update(bytes);
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        i64::from_le_bytes(first)
    }
}

/// The record that should be there is not.
pub(super) fn missing(partition: Partition, offset: Offset) -> Error {
    corrupt(partition, offset, "it is missing")
}

fn corrupt(partition: Partition, offset: Offset, what: impl std::fmt::Display) -> Error {
    Error::Corrupt(format!("partition {} offset {}: {what}", partition.0, offset.0))
}

/// What went wrong when the record at `offset` was wanted.
fn reading(partition: Partition, offset: Offset, error: &rusqlite::Error) -> Error {
    if damages(error) {
        return corrupt(partition, offset, error);
    }
    Error::Unavailable(format!("read partition {} offset {}: {error}", partition.0, offset.0))
}

/// One batch of the records in `from..upto`.
pub(super) fn read(
    connection: &Connection,
    sums: Sums,
    partition: Partition,
    from: Offset,
    upto: Offset,
) -> Result<Vec<Stored>, Error> {
    let select = "SELECT id, time, scope, checksum, bytes FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id";
    let at = |offset| move |error: rusqlite::Error| reading(partition, offset, &error);
    let mut statement = connection.prepare_cached(select).map_err(at(from))?;
    let mut rows = statement.query([row_id(partition, from), row_id(partition, upto)]).map_err(at(from))?;
    let (mut batch, mut bytes, mut next) = (Vec::new(), 0, from);
    loop {
        let read = rows.next().map_err(at(next));
        let stored = read.and_then(|row| row.map(|row| stored(row, sums, partition, next)).transpose());
        let stored = match stored {
            Ok(Some(stored)) => stored,
            // What is whole before the damage is served first.
            Err(error) if batch.is_empty() => return Err(error),
            Ok(None) | Err(_) => break,
        };
        bytes += stored.record.bytes.len();
        if bytes > limits::READ_BYTES_MAX && !batch.is_empty() {
            break;
        }
        next = stored.offset.next();
        batch.push(stored);
        if batch.len() == limits::READ_RECORDS_MAX {
            break;
        }
    }
    Ok(batch)
}

/// The records at `offsets`, as many as there are.
pub(super) fn seek(
    connection: &Connection,
    sums: Sums,
    partition: Partition,
    offsets: &[Offset],
) -> Result<Vec<Stored>, Error> {
    let select = "SELECT id, time, scope, checksum, bytes FROM records WHERE id = ?1";
    let Some(&first) = offsets.first() else { return Ok(Vec::new()) };
    let mut statement = connection.prepare_cached(select).map_err(|error| reading(partition, first, &error))?;
    let mut found = Vec::with_capacity(offsets.len());
    for &offset in offsets {
        let at = |error: rusqlite::Error| reading(partition, offset, &error);
        let mut rows = statement.query([row_id(partition, offset)]).map_err(at)?;
        if let Some(row) = rows.next().map_err(at)? {
            found.push(stored(row, sums, partition, offset)?);
        }
    }
    Ok(found)
}

/// The record of a row, or `Corrupt`: `next` is the offset that is expected.
fn stored(row: &Row<'_>, sums: Sums, partition: Partition, next: Offset) -> Result<Stored, Error> {
    let columns = || -> rusqlite::Result<_> {
        let scope = row.get_ref(2)?.as_blob()?;
        let bytes = row.get_ref(4)?.as_blob()?;
        Ok((row.get(0)?, LogTime(row.get(1)?), scope, row.get::<_, i64>(3)?, bytes))
    };
    let (id, time, scope, sum, bytes) = columns().map_err(|error| reading(partition, next, &error))?;
    if offset_of(id) != next {
        return Err(missing(partition, next));
    }
    if sums.of(id, time, scope, bytes) != sum {
        return Err(corrupt(partition, next, "the checksum differs"));
    }
    let (tenant, fleet) = scope.split_at_checked(16).ok_or_else(|| corrupt(partition, next, "the scope is short"))?;
    let bits = |half: &[u8]| half.try_into().map(u128::from_be_bytes);
    let (Ok(tenant), Ok(fleet)) = (bits(tenant), bits(fleet)) else {
        return Err(corrupt(partition, next, "the scope is not 32 bytes"));
    };
    let scope = Scope { tenant: TenantId::from_bits(tenant), fleet: FleetId::from_bits(fleet) };
    Ok(Stored { offset: next, time, record: Record { scope, bytes: Arc::from(bytes) } })
}
