//! Logs that were written, and what becomes of one whose files were damaged.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::StreamExt;
use ringforge_adapters::log::embedded::{EmbeddedLog, OpenError, repair::repair};
use ringforge_domain::{
    ids::Scope,
    position::{LogTime, Offset, Partition},
};
use ringforge_ports::{
    Error,
    clock::ManualClock,
    log::{Log, Record},
};
use rusqlite::Connection;
use tempfile::TempDir;

/// The partitions.
pub const ZERO: Partition = Partition(0);
const PARTITIONS: [Partition; 2] = [ZERO, Partition(1)];

/// What stands in the files of a log.
#[derive(Clone)]
pub struct Files {
    /// `log.db`.
    pub log: Vec<u8>,
    /// `log.db-wal`; empty: there is none.
    pub wal: Vec<u8>,
}

/// A log that was written.
pub struct Made {
    /// Its files.
    pub files: Files,
    /// Its records.
    written: [Vec<Record>; 2],
    /// How many of each partition are in the file.
    pub in_file: [usize; 2],
    /// How many of each partition were there after each append since.
    appends: Vec<[usize; 2]>,
    /// Where the bytes of some records of the first partition stand in the file.
    pub places: Vec<usize>,
}

/// What may be missing although nobody says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silently {
    /// Nothing.
    Nothing,
    /// What was appended last.
    TheLastAppend,
    /// Any end.
    Everything,
}

/// What became of a log.
pub enum Came {
    /// It serves everything.
    Whole,
    /// It serves so many records of each partition.
    Prefix([usize; 2]),
    /// It serves everything up to what is damaged; repaired, that alone.
    Cut,
    /// It is refused; repaired, it serves what is whole.
    Repaired,
    /// It is refused, and nothing of it can be read.
    Nothing,
}

impl Came {
    pub fn text(&self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Prefix(_) => "an exact prefix",
            Self::Cut => "served up to the damage and repaired",
            Self::Repaired => "refused and repaired",
            Self::Nothing => "nothing left",
        }
    }
}

/// Waits here.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// A directory for the test; in memory, where that can be had: nothing here asks what a disk keeps.
pub fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
}

pub fn open(path: &Path) -> Result<Arc<EmbeddedLog>, OpenError> {
    EmbeddedLog::open(path, 2, ManualClock::at(LogTime(1_700_000_000_000_000)))
}

/// So many records; short ones, and (second partition) some that need several pages.
fn records(of: &str, partition: Partition, from: usize, count: usize) -> Vec<Record> {
    let record = |number: usize| {
        let mut text = format!("<<{of} {} {number:06}>>", partition.0);
        let length = if partition == ZERO { 40 } else { [20, 300, 90, 9_000][number % 4] };
        while text.len() < length {
            text.push(char::from(b'a' + u8::try_from((text.len() + number) % 26).expect("a letter")));
        }
        Record { scope: Scope::OPERATOR, bytes: text.into_bytes().into() }
    };
    (from..from + count).map(record).collect()
}

impl Files {
    /// Writes them to a directory.
    pub fn write(&self, directory: &Path) -> PathBuf {
        let path = directory.join("log.db");
        fs::write(&path, &self.log).expect("a file");
        if !self.wal.is_empty() {
            fs::write(path.with_extension("db-wal"), &self.wal).expect("a file");
        }
        path
    }
}

impl Made {
    /// A log that was closed: more records than are verified when it is opened.
    pub fn closed() -> Self {
        let made = Self::killed_after("closed", 0);
        assert!(made.files.wal.is_empty());
        made
    }

    /// A log whose process was killed: some records are in the file, and some in the write-ahead log only.
    pub fn killed() -> Self {
        Self::killed_after("killed", 12)
    }

    /// The same, with so many appends since it was opened the last time; none: it was closed.
    pub fn killed_after(of: &str, appends: usize) -> Self {
        let directory = directory();
        let path = directory.path().join("log.db");
        let in_file = [1_300, 40];
        let mut written = [Vec::new(), Vec::new()];
        let mut append = |log: &EmbeddedLog, partition: Partition, count: usize| {
            let all = &mut written[usize::from(partition.0)];
            let some = records(of, partition, all.len(), count);
            all.extend(some.clone());
            block_on(log.append(partition, some)).expect("it is taken");
        };
        let log = open(&path).expect("it opens");
        for (partition, count) in PARTITIONS.into_iter().zip(in_file) {
            for _ in 0..10 {
                append(&log, partition, count / 10);
            }
        }
        block_on(log.close());
        let log = fs::read(&path).expect("the file");
        let place = |number: usize| {
            let wanted = &records(of, ZERO, number, 1)[0].bytes;
            log.windows(wanted.len()).position(|bytes| *bytes == **wanted).expect("it is in the file")
        };
        let places = [70, 700].map(place).to_vec();
        let mut made = Self { files: Files { log, wal: Vec::new() }, written, in_file, appends: Vec::new(), places };
        if appends > 0 {
            made.go_on(&path, of, appends);
        }
        made
    }

    /// Appends of one record or some, to one partition or the other.
    fn go_on(&mut self, path: &Path, of: &str, appends: usize) {
        // A reader that began before: nothing is moved into the file.
        let witness = Connection::open(path).expect("the file");
        witness.execute_batch("BEGIN; SELECT count(*) FROM records").expect("it reads");
        let log = open(path).expect("it opens");
        for number in 0..appends {
            let (partition, count) = (PARTITIONS[number % 2], [1, 3, 17][number % 3]);
            let all = &mut self.written[number % 2];
            let some = records(of, partition, all.len(), count);
            all.extend(some.clone());
            block_on(log.append(partition, some)).expect("it is taken");
            self.appends.push(self.written.each_ref().map(Vec::len));
        }
        assert_eq!(fs::read(path).expect("the file"), self.files.log, "nothing was moved into the file");
        self.files.wal = fs::read(path.with_extension("db-wal")).expect("the write-ahead log");
    }

    /// How many records each partition has.
    pub fn all(&self) -> [usize; 2] {
        self.written.each_ref().map(Vec::len)
    }

    fn may_be_missing(&self, silently: Silently, kept: [usize; 2]) -> bool {
        match silently {
            Silently::Nothing => false,
            Silently::TheLastAppend => self.appends[self.appends.len() - 2] == kept,
            Silently::Everything => kept == [0, 0] || kept == self.in_file || self.appends.contains(&kept),
        }
    }

    /// Whether a log serves nothing but the beginning of this one.
    pub fn is_prefix(&self, log: &EmbeddedLog) -> bool {
        let beginning = |(partition, written): (_, &Vec<_>)| written.starts_with(&block_on(read(log, partition)).0);
        PARTITIONS.into_iter().zip(&self.written).all(beginning)
    }
}

/// What a partition serves, and what it says then, if that is not its end.
async fn read(log: &EmbeddedLog, partition: Partition) -> (Vec<Record>, Option<Error>) {
    let end = log.bounds(partition).await.expect("bounds").end;
    let (mut reader, mut served) = (log.read(partition, Offset::ZERO), Vec::new());
    while (served.len() as u64) < end.0 {
        match reader.next().await.expect("it does not end") {
            Err(error) => return (served, Some(error)),
            Ok(batch) => {
                for stored in batch {
                    assert_eq!(stored.offset.0, served.len() as u64, "a hole");
                    served.push(stored.record);
                }
            }
        }
    }
    (served, None)
}

/// How many records of each partition a log serves, which must be all it has.
pub fn served(path: &Path) -> Result<[usize; 2], OpenError> {
    let log = open(path)?;
    let served = PARTITIONS.map(|partition| match block_on(read(&log, partition)) {
        (served, None) => served.len(),
        (_, Some(error)) => panic!("{error}"),
    });
    block_on(log.close());
    Ok(served)
}

/// Opens a log with these files, and says what it serves; panics unless that is right.
pub fn holds(made: &Made, name: &str, files: &Files, silently: Silently) -> Came {
    let directory = directory();
    let path = files.write(directory.path());
    let log = match open(&path) {
        Ok(log) => log,
        Err(OpenError::Damaged { what }) => {
            assert!(!what.is_empty(), "{name}: no word of what is wrong");
            return repaired(made, &format!("{name} ({what})"), files, &path);
        }
        Err(other) => panic!("{name}: {other}"),
    };
    let (mut kept, mut damaged) = ([0, 0], false);
    for (partition, written) in PARTITIONS.into_iter().zip(&made.written) {
        let (served, error) = block_on(read(&log, partition));
        assert!(written.starts_with(&served), "{name}: wrong bytes");
        if let Some(error) = error {
            let named = format!("corrupt: partition {} offset {}: ", partition.0, served.len());
            assert!(error.to_string().starts_with(&named), "{name}: {error}, not {named}");
            damaged = true;
        }
        kept[usize::from(partition.0)] = served.len();
    }
    block_on(log.close());
    if damaged {
        let files = Files { log: fs::read(&path).expect("the file"), wal: Vec::new() };
        let Came::Repaired = repaired(made, name, &files, &path) else { panic!("{name}: it was served") };
        return Came::Cut;
    }
    if kept == made.all() {
        return Came::Whole;
    }
    assert!(made.may_be_missing(silently, kept), "{name}: {kept:?} of {:?} are left, silently", made.all());
    goes_on(name, &path, kept);
    Came::Prefix(kept)
}

/// Repairs a log: then it serves what is whole, and the damaged files are kept.
fn repaired(made: &Made, name: &str, files: &Files, path: &Path) -> Came {
    let (found, aside) = match repair(path, 2) {
        Ok((found, aside)) => (found, aside.unwrap_or_else(|| panic!("{name}: refused, and nothing to repair"))),
        Err(OpenError::Damaged { .. }) => return Came::Nothing,
        Err(other) => panic!("{name}: {other}"),
    };
    assert!(!found.is_whole(), "{name}: it was repaired");
    let mut wal = aside.clone().into_os_string();
    wal.push("-wal");
    assert!(fs::read(&aside).expect("it is kept") == files.log, "{name}: the damaged file was changed");
    assert!(fs::read(wal).unwrap_or_default() == files.wal, "{name}: the damaged write-ahead log was changed");
    let kept = served(path).unwrap_or_else(|error| panic!("{name}: repaired, and {error}"));
    let said = [0, 1].map(|at| usize::try_from(found.partitions[at].end.0).expect("a small number"));
    assert_eq!(kept, said, "{name}: {found:?}");
    let log = open(path).expect("it opens");
    assert!(made.is_prefix(&log), "{name}: wrong bytes");
    block_on(log.close());
    goes_on(name, path, kept);
    Came::Repaired
}

/// Appends go on where it ends.
fn goes_on(name: &str, path: &Path, kept: [usize; 2]) {
    let log = open(path).expect("it opens");
    for (partition, kept) in PARTITIONS.into_iter().zip(kept) {
        let placed = block_on(log.append(partition, records("later", partition, 0, 1))).expect("it is taken");
        assert_eq!(placed[0].offset, Offset(kept as u64), "{name}");
    }
    block_on(log.close());
}
