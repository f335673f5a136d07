//! What only the log in a file can do wrong: its lock, its damage, its versions, its end.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use futures_util::{StreamExt, future::join_all};
use ringforge_adapters::log::embedded::{EmbeddedLog, OpenError};
use ringforge_domain::{
    ids::Scope,
    limits,
    position::{LogTime, Offset, Partition},
};
use ringforge_ports::{
    Error,
    clock::{Clock, ManualClock},
    log::{AppendError, Log, Record, Stored},
};
use rusqlite::Connection;
use tempfile::TempDir;

const ONE: Partition = Partition(1);

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("log.db");
    (directory, path)
}

fn clock() -> Arc<dyn Clock> {
    ManualClock::at(LogTime(1_700_000_000_000_000))
}

fn open(path: &Path) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(path, 3, clock()).expect("the log opens")
}

fn refused(path: &Path) -> OpenError {
    EmbeddedLog::open(path, 3, clock()).err().expect("the log does not open")
}

/// `count` records that stand in the file as they are, each to be found by its number.
fn records(from: usize, count: usize) -> Vec<Record> {
    let bytes = |number| format!("<<record number {number:08} of the test>>").into_bytes().into();
    (from..from + count).map(|number| Record { scope: Scope::OPERATOR, bytes: bytes(number) }).collect()
}

/// Fills partition 1 with `count` records.
async fn fill(log: &EmbeddedLog, count: usize) {
    for from in (0..count).step_by(limits::APPEND_RECORDS_MAX) {
        let some = records(from, limits::APPEND_RECORDS_MAX.min(count - from));
        log.append(ONE, some).await.expect("it is taken");
    }
}

async fn read_all(log: &EmbeddedLog) -> Result<Vec<Stored>, Error> {
    let bounds = log.bounds(ONE).await?;
    let (mut reader, mut all) = (log.read(ONE, bounds.oldest), Vec::new());
    while bounds.oldest.0 + (all.len() as u64) < bounds.end.0 {
        all.extend(reader.next().await.expect("it does not end")?);
    }
    Ok(all)
}

fn numbered(all: &[Stored]) -> Vec<Record> {
    all.iter().map(|stored| stored.record.clone()).collect()
}

/// Flips one bit of the record with this number, in the file.
fn flip(path: &Path, number: usize) {
    let mut file = fs::read(path).expect("the file");
    let wanted = &records(number, 1)[0].bytes;
    let at = file.windows(wanted.len()).position(|bytes| *bytes == **wanted).expect("the record is in the file");
    file[at + 20] ^= 4;
    fs::write(path, file).expect("the file");
}

#[tokio::test]
async fn a_closed_log_opens_with_everything() {
    let (_directory, path) = place();
    let log = open(&path);
    fill(&log, 3_000).await;
    let (before, bounds) = (read_all(&log).await.expect("it reads"), log.bounds(ONE).await.expect("bounds"));
    log.close().await;
    let wal = fs::metadata(path.with_extension("db-wal")).map_or(0, |wal| wal.len());
    assert_eq!(wal, 0, "the write-ahead log was not emptied");
    let log = open(&path);
    assert_eq!(read_all(&log).await.expect("it reads"), before);
    assert_eq!(log.bounds(ONE).await.expect("bounds"), bounds);
}

#[tokio::test]
async fn what_waits_is_written_before_the_log_closes() {
    let (_directory, path) = place();
    let log = open(&path);
    let mut appends: Vec<_> = (0..100).map(|at| log.append(ONE, records(at, 1))).collect();
    for append in &mut appends {
        let _ = futures_util::poll!(append);
    }
    drop(appends);
    log.close().await;
    let late = log.append(ONE, records(0, 1)).await;
    assert!(matches!(late, Err(AppendError::Refused(Error::Closed))), "{late:?}");
    drop(log);
    let all = read_all(&open(&path)).await.expect("it reads");
    assert_eq!(numbered(&all), records(0, 100));
}

#[tokio::test]
async fn closing_ends_readers_after_the_last_record() {
    let (_directory, path) = place();
    let log = open(&path);
    let mut reader = log.read(ONE, Offset::ZERO);
    fill(&log, 10).await;
    log.close().await;
    assert_eq!(reader.next().await.expect("a batch").expect("a batch").len(), 10);
    assert!(matches!(reader.next().await, Some(Err(Error::Closed))));
    assert!(reader.next().await.is_none());
}

#[tokio::test]
async fn a_second_opener_is_turned_away() {
    let (_directory, path) = place();
    let log = open(&path);
    assert!(matches!(refused(&path), OpenError::Locked { path: named } if named == path));
    log.close().await;
    open(&path);
}

#[tokio::test]
async fn a_flipped_bit_is_found_by_readers() {
    let (_directory, path) = place();
    let log = open(&path);
    fill(&log, 3_000).await;
    log.close().await;
    flip(&path, 1_234);
    let log = open(&path);
    let error = read_all(&log).await.expect_err("the record is damaged");
    assert_eq!(error.to_string(), "corrupt: partition 1 offset 1234: the checksum differs");
    let error = log.seek(ONE, &[Offset(1_234)]).await.expect_err("the record is damaged");
    assert_eq!(error.to_string(), "corrupt: partition 1 offset 1234: the checksum differs");
    let whole = log.seek(ONE, &[1_233, 1_235].map(Offset)).await.expect("its neighbours are whole");
    assert_eq!(whole.len(), 2);
}

#[tokio::test]
async fn a_flipped_bit_in_the_tail_is_found_when_opened() {
    let (_directory, path) = place();
    let log = open(&path);
    fill(&log, 3_000).await;
    log.close().await;
    flip(&path, 2_999);
    assert_eq!(refused(&path).to_string(), "the log is damaged: partition 1 offset 2999: the checksum differs");
}

#[tokio::test]
async fn a_missing_record_is_found() {
    let (_directory, path) = place();
    let log = open(&path);
    fill(&log, 3_000).await;
    log.close().await;
    let file = Connection::open(&path).expect("the file");
    file.execute("DELETE FROM records WHERE id = ?1", [(1_i64 << 48) + 77]).expect("it is deleted");
    drop(file);
    let log = open(&path);
    let missing = "corrupt: partition 1 offset 77: it is missing";
    assert_eq!(read_all(&log).await.expect_err("it is missing").to_string(), missing);
    assert_eq!(log.seek(ONE, &[Offset(77)]).await.expect_err("it is missing").to_string(), missing);
}

#[tokio::test]
async fn another_format_is_named() {
    let (_directory, path) = place();
    open(&path).close().await;
    let file = Connection::open(&path).expect("the file");
    file.execute("UPDATE meta SET value = 9 WHERE name = 'format'", []).expect("it is changed");
    drop(file);
    assert_eq!(refused(&path).to_string(), "the log has format 9, this program reads format 2");
}

#[tokio::test]
async fn a_log_of_the_first_format_stays_one() {
    let (_directory, path) = place();
    open(&path).close().await;
    let file = Connection::open(&path).expect("the file");
    file.execute("UPDATE meta SET value = 1 WHERE name = 'format'", []).expect("it is changed");
    let log = open(&path);
    fill(&log, 3).await;
    log.close().await;
    let (id, time, scope, sum, bytes): (i64, i64, Vec<u8>, i64, Vec<u8>) = file
        .query_row("SELECT * FROM records LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .expect("a record");
    let hash = blake3::hash(&[&id.to_le_bytes()[..], &time.to_le_bytes(), &scope, &bytes].concat());
    assert_eq!(sum.to_le_bytes(), hash.as_bytes()[..8], "the generation does not count");
    drop(file);
    assert_eq!(numbered(&read_all(&open(&path)).await.expect("it reads")), records(0, 3));
}

#[tokio::test]
async fn the_number_of_partitions_is_fixed() {
    let (_directory, path) = place();
    EmbeddedLog::open(&path, 2, clock()).expect("it opens").close().await;
    assert_eq!(refused(&path).to_string(), "the log has 2 partitions, not 3");
}

#[tokio::test]
async fn what_is_no_log_is_damaged() {
    let (_directory, path) = place();
    fs::write(&path, "It was a dark and stormy night. ".repeat(500)).expect("a file");
    assert!(matches!(refused(&path), OpenError::Damaged { .. }), "{}", refused(&path));
    fs::remove_file(&path).expect("it is there");
    let file = Connection::open(&path).expect("a file");
    file.execute_batch("CREATE TABLE novels (title TEXT)").expect("a table");
    drop(file);
    assert!(matches!(refused(&path), OpenError::Damaged { .. }), "{}", refused(&path));
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_io() {
    let (directory, path) = place();
    fs::write(&path, "").expect("a file");
    assert!(matches!(refused(&path.join("log.db")), OpenError::Io(_)));
    drop(directory);
}

#[tokio::test]
async fn trimmed_rows_leave_the_file() {
    let (_directory, path) = place();
    let log = open(&path);
    fill(&log, 12_000).await;
    log.trim(ONE, Offset(11_000)).await.expect("it is trimmed");
    log.close().await;
    // Closing may come before the last slice; the next writer goes on.
    let count = |path: &Path| -> i64 {
        let file = Connection::open(path).expect("the file");
        file.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).expect("a count")
    };
    for _ in 0..3 {
        let log = open(&path);
        log.trim(ONE, Offset::ZERO).await.expect("nothing is trimmed");
        log.close().await;
    }
    assert_eq!(count(&path), 1_000);
    let all = read_all(&open(&path)).await.expect("it reads");
    assert_eq!(numbered(&all), records(11_000, 1_000));
}

/// Makes every commit that holds an append fail, as a full disk would: at its COMMIT, after the inserts.
const FAIL_AT_COMMIT: &str = "
    CREATE TABLE parents (id INTEGER PRIMARY KEY);
    CREATE TABLE children (parent INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
    CREATE TRIGGER fail AFTER INSERT ON records BEGIN INSERT INTO children VALUES (1); END;";

#[tokio::test]
async fn after_a_failed_commit_nothing_is_acknowledged() {
    let (_directory, path) = place();
    let (told, hook) = mpsc::sync_channel(1);
    let on_fatal = Box::new(move |error: &Error| told.try_send(error.to_string()).expect("it is called once"));
    let log = EmbeddedLog::open_with(&path, 3, clock(), on_fatal).expect("the log opens");
    fill(&log, 5).await;
    let mut reader = log.read(ONE, Offset(5));
    let saboteur = Connection::open(&path).expect("the file");
    saboteur.execute_batch(FAIL_AT_COMMIT).expect("it is set up");

    let answers = join_all((5..205).map(|at| log.append(ONE, records(at, 1)))).await;
    let unknown = answers.iter().filter(|answer| matches!(answer, Err(AppendError::Unknown(_)))).count();
    let refused = |answer: &Result<_, _>| matches!(answer, Err(AppendError::Refused(Error::Unavailable(_))));
    assert!(unknown > 0, "nobody was told that it may be in the log");
    assert_eq!(unknown + answers.iter().filter(|answer| refused(answer)).count(), 200, "one was acknowledged");
    assert!(hook.recv().expect("the hook was called").contains("FOREIGN KEY"));

    assert!(refused(&log.append(ONE, records(0, 1)).await), "it went on");
    assert!(matches!(reader.next().await, Some(Err(Error::Unavailable(_)))), "a reader waits for nothing");
    assert_eq!(read_all(&log).await.expect("what was durable").len(), 5);
    drop(log);
    saboteur.execute_batch("DROP TRIGGER fail").expect("it is put right");
    let log = open(&path);
    assert_eq!(log.bounds(ONE).await.expect("bounds").end, Offset(5));
    fill(&log, 1).await;
}

#[tokio::test]
async fn readers_that_are_behind_meet_those_that_are_not() {
    let (_directory, path) = place();
    let log = open(&path);
    fill(&log, 20_000).await;
    // The first is read from the file, the last from memory; the seam must not show.
    for from in [0, 15_900, 19_990] {
        let (mut reader, mut next) = (log.read(ONE, Offset(from)), from);
        while next < 20_000 {
            for stored in reader.next().await.expect("it does not end").expect("a batch") {
                assert_eq!(stored.offset, Offset(next));
                let number = usize::try_from(next).expect("a small number");
                assert_eq!(stored.record, records(number, 1)[0]);
                next += 1;
            }
        }
    }
}
