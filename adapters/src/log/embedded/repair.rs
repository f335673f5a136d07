//! What is still whole of a damaged log, and a log made of that. The damaged files are kept beside it.
//!
//! ```text
//!   log.db, log.db-wal --read--> log.db.new --synced--> log.db.repaired
//!   log.db, log.db-wal --renamed--> log.db.damaged-1, log.db.damaged-1-wal
//!                                   log.db.repaired --renamed--> log.db
//! ```
//!
//! Cut short after the first line, it is gone on with; until then no log is opened here.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use ringforge_domain::position::{Generation, LogTime, Offset, Partition};
use rusqlite::{Connection, config::DbConfig};

use super::{
    OpenError,
    file::{self, State, Sums},
    wal,
};
use crate::checkpoints::checkpoint;

/// What is whole of one partition: everything from `oldest` up to `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Which.
    pub partition: Partition,
    /// The first offset kept.
    pub oldest: Offset,
    /// The next after the last whole one.
    pub end: Offset,
    /// What is wrong there; `None`: it is the end.
    pub damage: Option<String>,
    /// How many records there were from `end` on, as far as the file tells.
    pub lost: u64,
}

/// What there is of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Partition by partition.
    pub partitions: Vec<Whole>,
    /// What else is wrong: with the write-ahead log, whose records would come after those that are whole, or with how the file
    /// is put together.
    pub besides: Vec<String>,
}

impl Checked {
    /// Whether nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.besides.is_empty() && self.partitions.iter().all(|partition| partition.damage.is_none())
    }
}

/// Reads and verifies every record of the log in `path`. Nothing is changed.
///
/// # Errors
/// There is no log or nothing of it can be read, it is in use, or of another format.
pub fn check(path: &Path, partitions: u16) -> Result<Checked, OpenError> {
    let _lock = existing(path)?;
    Ok(look(path, partitions)?.0)
}

/// Makes a log of what is whole and keeps the damaged files aside: tells what was kept, and where the file is now. Nothing is
/// changed if the log is whole (`None`).
///
/// # Errors
/// As [`check`]; nothing is whole; whatever the disk says.
pub fn repair(path: &Path, partitions: u16) -> Result<(Checked, Option<PathBuf>), OpenError> {
    let lock = existing(path)?;
    let repaired = repaired(path);
    let checked = if repaired.exists() {
        // All that was whole is in it already.
        look(&repaired, partitions)?.0
    } else {
        let (checked, source) = look(path, partitions)?;
        if checked.is_whole() {
            return Ok((checked, None));
        }
        if checked.partitions.iter().all(|whole| whole.end == whole.oldest) {
            return Err(OpenError::Damaged { what: "no record of it is whole".to_owned() });
        }
        let new = with(path, ".new");
        for leftover in [new.clone(), wal::path_of(&new), with(&new, "-shm")] {
            unless_missing(fs::remove_file(leftover))?;
        }
        source.copy(&new, &checked.partitions)?;
        fs::rename(&new, &repaired)?;
        sync_parent(path)?;
        checked
    };
    let aside = put_aside(path)?;
    fs::rename(&repaired, path)?;
    sync_parent(path)?;
    drop(lock);
    Ok((checked, Some(aside)))
}

/// Where a repaired log waits to take the place of the one in `path`.
pub(super) fn repaired(path: &Path) -> PathBuf {
    with(path, ".repaired")
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// The lock of a log that is there.
fn existing(path: &Path) -> Result<File, OpenError> {
    let started = repaired(path).exists();
    if !started {
        file::check_present(path)?;
    }
    if !started && !path.exists() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no {}", path.display())).into());
    }
    file::lock(path)
}

/// Renames what there is of the damaged log.
fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let name = |number: u32| with(path, &format!(".damaged-{number}"));
    let taken = |number: &u32| {
        let aside = name(*number);
        wal::path_of(&aside).exists() || path.exists() && aside.exists()
    };
    let aside = (1..u32::MAX).find(|number| !taken(number)).map(name).expect("a number is free");
    unless_missing(fs::rename(path, &aside))?;
    unless_missing(fs::rename(wal::path_of(path), wal::path_of(&aside)))?;
    unless_missing(fs::remove_file(with(path, "-shm")))?;
    Ok(aside)
}

/// A log that is read as it is.
struct Source {
    connection: Connection,
    sums: Sums,
    generation: Generation,
    newest: Vec<LogTime>,
}

fn look(path: &Path, partitions: u16) -> Result<(Checked, Source), OpenError> {
    let mut besides: Vec<String> = wal::damage(path)?.iter().map(ToString::to_string).collect();
    let connection = Connection::open(path).map_err(file::opening)?;
    // The files are evidence: they stay as they are. Of a file that is cut short, what there is can be read.
    for config in [DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA] {
        connection.set_db_config(config, true).map_err(file::opening)?;
    }
    if file::is_empty(&connection).map_err(file::opening)? {
        // A first start that came to an early end.
        let what = format!("nothing was ever written to {}", path.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, what).into());
    }
    let (generation, sums) = file::read_meta(&connection, partitions)?;
    let (mut wholes, mut newest) = (Vec::new(), Vec::new());
    for partition in (0..partitions).map(Partition) {
        let noted = file::noted(&connection, partition)?;
        let (whole, time) = whole(&connection, sums, partition, noted);
        wholes.push(whole);
        newest.push(time);
    }
    let sound = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
    let sound = sound.unwrap_or_else(|error| error.to_string());
    besides.extend((sound != "ok").then(|| sound.replace('\n', " ")));
    Ok((Checked { partitions: wholes, besides }, Source { connection, sums, generation, newest }))
}

/// How far a partition is whole, and the time of the newest record up to there.
fn whole(connection: &Connection, sums: Sums, partition: Partition, noted: State) -> (Whole, LogTime) {
    let State { oldest, end: next, .. } = noted;
    let last = file::last(connection, partition, oldest);
    let known = last.as_ref().ok().copied().flatten().map_or(next, |last| next.max(last.next()));
    let (mut end, mut newest, mut damage) = (oldest, LogTime::default(), None);
    while end < known && damage.is_none() {
        match file::read(connection, sums, partition, end, known) {
            Ok(batch) => match batch.last() {
                Some(last) => (end, newest) = (last.offset.next(), last.time),
                None => damage = Some(file::missing(partition, end).to_string()),
            },
            Err(error) => damage = Some(error.to_string()),
        }
    }
    // Where nobody can say what comes last, something may come after what is known.
    let damage = damage.or(last.err().map(|error| error.to_string()));
    (Whole { partition, oldest, end, damage, lost: known.0 - end.0 }, newest)
}

impl Source {
    /// Writes what is whole to a new file, which is then closed and on the disk.
    fn copy(&self, to: &Path, wholes: &[Whole]) -> Result<(), OpenError> {
        let target = file::connect(to).map_err(file::opening)?;
        let transaction = target.unchecked_transaction().map_err(file::opening)?;
        let partitions = u16::try_from(wholes.len()).expect("as many as there are partitions");
        file::create_as(&transaction, partitions, self.generation, self.sums).map_err(file::opening)?;
        let mut insert = transaction.prepare(file::INSERT).map_err(file::opening)?;
        for (whole, newest) in wholes.iter().zip(&self.newest) {
            let mut state = State { oldest: whole.oldest, end: whole.oldest, newest: *newest };
            while state.end < whole.end {
                let batch = file::read(&self.connection, self.sums, whole.partition, state.end, whole.end);
                for stored in batch.map_err(file::verifying)? {
                    file::insert(&mut insert, self.sums, whole.partition, &stored).map_err(file::opening)?;
                    state.end = stored.offset.next();
                }
            }
            file::note(&transaction, whole.partition, &state).map_err(file::opening)?;
        }
        drop(insert);
        transaction.commit().map_err(file::opening)?;
        checkpoint(&target, "TRUNCATE").map_err(file::opening)?;
        target.close().map_err(|(_, error)| file::opening(error))
    }
}
