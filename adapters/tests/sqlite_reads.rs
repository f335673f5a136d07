//! What the promises of `Reads` do not say of the file: what cannot be opened, what goes wrong meanwhile.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use futures_util::FutureExt;
use ringforge_adapters::reads::sqlite::SqliteReads;
use ringforge_domain::{
    fleet::Head,
    ids::{FleetId, MemoryId, Scope, TenantId},
    json::Json,
    limits::{SEARCH_MS, SEARCHES_WAITING_TENANT_MAX, UNREAD_MAX},
    memory::{Content, Entry, Provenance, ValueType},
    position::{LogTime, Offset, Partition},
    row::{Row, RowKey},
    verdict::{First, Stream},
};
use ringforge_ports::{
    Error,
    reads::{Applied, Commit, Find, Found, Matching, MemoryFilter, Reads, Verdicts, Which},
};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinHandle;

const POOL: Partition = Partition::POOL;

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("reads.db");
    (directory, path)
}

fn of(tenant: u128) -> Scope {
    Scope { tenant: TenantId::from_bits(tenant), fleet: FleetId::from_bits(1) }
}

fn step(at: u64) -> Commit {
    let head = Row::Head(Head { scope: Scope::OPERATOR, last: Offset(at), hash: 1 });
    let rows = vec![(head.key(), Some(head))];
    let (previous, upto) = (Offset(at), Offset(at + 1));
    Commit { partition: POOL, previous, upto, time: LogTime(5), rows, verdicts: Vec::new() }
}

async fn stands(reads: &SqliteReads) -> Result<Applied, Error> {
    Ok(reads.load(POOL, &BTreeSet::new()).await?.applied)
}

async fn refused(path: &std::path::Path) -> String {
    match SqliteReads::open(path).await {
        Ok(_) => panic!("it was opened"),
        Err(Error::Corrupt(what)) => what,
        Err(other) => panic!("{other}"),
    }
}

/// A closed file, to be changed: by what it was when it was closed nobody could open it any more.
fn changed(path: &std::path::Path) -> Connection {
    fs::remove_file(path.with_extension("sum")).expect("it was closed in order");
    Connection::open(path).expect("the file")
}

#[tokio::test]
async fn a_closed_file_that_has_changed_is_refused() {
    let (_directory, path) = place();
    for bit in 0..64 {
        let reads = SqliteReads::open(&path).await.expect("a file");
        let at = stands(&reads).await.expect("an answer").upto.0;
        reads.commit(&[step(at)]).await.expect("written");
        reads.close();
        let whole = fs::read(&path).expect("the file");
        let sum = fs::read(path.with_extension("sum")).expect("its sum");
        let mut changed = whole.clone();
        changed[(bit * 997) % whole.len()] ^= 1 << (bit % 8);
        fs::write(&path, changed).expect("a bit is flipped");
        assert!(refused(&path).await.contains("not as they were closed"));
        fs::write(&path, whole).expect("it is put right");
        fs::write(path.with_extension("sum"), sum).expect("it is put right");
    }
    drop(SqliteReads::open(&path).await.expect("it is as it was closed"));
}

#[tokio::test]
async fn a_file_of_another_kind_is_refused() {
    let (_directory, path) = place();
    fs::write(&path, "This is a letter, a long one..\n".repeat(1_024)).expect("a file");
    assert!(refused(&path).await.contains("they end at byte 31744"));
    fs::write(&path, "This is a letter, a longer one.\n".repeat(1_024)).expect("a file");
    assert!(refused(&path).await.contains("not a database"));
}

#[tokio::test]
async fn damage_that_is_met_is_told_once() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    reads.commit(&[step(0)]).await.expect("accepted");
    reads.heads(POOL, &[Scope::OPERATOR]).await.expect("written");
    let (told, heard) = mpsc::sync_channel(9);
    reads.on_damage(Box::new(move |error| told.send(error.to_string()).expect("there is room")));
    assert!(!reads.damaged());
    let file = Connection::open(&path).expect("the file");
    file.execute("UPDATE rows SET body = substr(body, 1, 9)", []).expect("half a row");
    for _ in 0..2 {
        reads.heads(POOL, &[Scope::OPERATOR]).await.expect_err("half a row");
    }
    assert!(reads.damaged());
    drop(reads);
    assert_eq!(heard.iter().count(), 1);
}

#[tokio::test]
async fn a_newer_version_is_refused() {
    let (_directory, path) = place();
    drop(SqliteReads::open(&path).await.expect("a new file"));
    let file = changed(&path);
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'later', 1, x'00', 0)";
    file.execute(newer, []).expect("a later migration");
    assert!(refused(&path).await.contains("newer version"));
}

#[tokio::test]
async fn a_damaged_row_is_reported() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    reads.commit(&[step(0)]).await.expect("accepted");
    reads.heads(POOL, &[Scope::OPERATOR]).await.expect("written");
    let file = Connection::open(&path).expect("the file");
    file.execute("UPDATE rows SET body = substr(body, 1, 9)", []).expect("half a row");
    let answer = reads.heads(POOL, &[Scope::OPERATOR]).await;
    assert!(matches!(answer, Err(Error::Corrupt(_))), "{answer:?}");
}

#[tokio::test]
async fn what_cannot_be_written_is_told_to_whoever_asks_and_written_later() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    reads.commit(&[step(0)]).await.expect("accepted");
    reads.heads(POOL, &[Scope::OPERATOR]).await.expect("written");
    let file = Connection::open(&path).expect("the file");
    // Found only at the commit, when all statements have succeeded.
    let sabotage = "CREATE TABLE parents (id INTEGER PRIMARY KEY);
        CREATE TABLE children (parent INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
        CREATE TRIGGER fail AFTER UPDATE ON partitions BEGIN INSERT INTO children VALUES (1); END;";
    file.execute_batch(sabotage).expect("it is set up");
    reads.commit(&[step(1)]).await.expect("accepted");
    // Whoever has seen what came of it must not be shown less.
    for _ in 0..2 {
        let outcome = reads.heads(POOL, &[Scope::OPERATOR]).await;
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    }
    let outcome = reads.commit(&[step(2)]).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    let written = || file.query_row("SELECT applied FROM partitions", [], |row| row.get::<_, i64>(0));
    assert_eq!(written(), Ok(1));
    file.execute_batch("DROP TRIGGER fail").expect("it is put right");
    reads.commit(&[step(2)]).await.expect("accepted");
    reads.heads(POOL, &[Scope::OPERATOR]).await.expect("written");
    assert_eq!(written(), Ok(3));
    assert_eq!(stands(&reads).await.expect("an answer").upto, Offset(3));
}

#[tokio::test]
async fn commits_that_follow_each_other_are_written_together_and_soon() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    let file = Connection::open(&path).expect("the file");
    let written = || file.query_row("SELECT coalesce(max(applied), 0) FROM partitions", [], |row| row.get::<_, i64>(0));
    for at in 0..5 {
        reads.commit(&[step(at)]).await.expect("accepted");
        assert_eq!(stands(&reads).await.expect("an answer").upto, Offset(at + 1));
    }
    // Nobody asks for it.
    while written() != Ok(5) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_file_that_somebody_else_changed_takes_nothing_that_was_made_for_another() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    reads.commit(&[step(0)]).await.expect("accepted");
    reads.heads(POOL, &[Scope::OPERATOR]).await.expect("written");
    let file = Connection::open(&path).expect("the file");
    file.execute("UPDATE partitions SET applied = 7", []).expect("somebody else goes on");
    reads.commit(&[step(1)]).await.expect("accepted");
    let outcome = reads.heads(POOL, &[Scope::OPERATOR]).await;
    assert!(matches!(outcome, Err(Error::Conflict(_))), "{outcome:?}");
    assert_eq!(stands(&reads).await.expect("an answer").upto, Offset(7));
    let outcome = reads.commit(&[step(2)]).await;
    assert!(matches!(outcome, Err(Error::Conflict(_))), "{outcome:?}");
    reads.commit(&[step(7)]).await.expect("accepted");
    reads.heads(POOL, &[Scope::OPERATOR]).await.expect("written");
}

#[tokio::test]
async fn an_abandoned_commit_blocks_nobody() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    for _ in 0..20 {
        let at = stands(&reads).await.expect("an answer").upto.0;
        // Polled a few times only, so that it is dropped in the middle.
        let commits = [step(at)];
        let mut commit = Box::pin(reads.commit(&commits));
        for _ in 0..at % 5 {
            if (&mut commit).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(commit);
        let at = stands(&reads).await.expect("an answer").upto.0;
        match reads.commit(&[step(at)]).await {
            Ok(()) | Err(Error::Conflict(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fn entry(key: &str, value: Option<&str>) -> (RowKey, Option<Row>) {
    entry_of(Scope::OPERATOR, key, value)
}

fn entry_of(scope: Scope, key: &str, value: Option<&str>) -> (RowKey, Option<Row>) {
    let content = value.map(|value| Content {
        value: Json::from(&serde_json::Value::from(value)),
        value_type: ValueType::Text,
        tags: Vec::new(),
        metadata: None,
        ttl: None,
        expires_at: None,
        created_at: LogTime(1),
    });
    let event = First { offset: Offset(0), hash: 0 };
    let changed = Provenance { author: None, key_id: None, session: None, task: None, event, at: LogTime(1) };
    let row = Entry { scope, key: key.to_owned(), id: MemoryId::from_bits(1), version: 1, content, changed };
    (RowKey::memory(scope, key), Some(Row::Memory(Box::new(row))))
}

async fn found(reads: &SqliteReads, word: &str) -> Vec<String> {
    found_of(Scope::OPERATOR, reads, word).await
}

async fn found_of(scope: Scope, reads: &SqliteReads, word: &str) -> Vec<String> {
    let filter = MemoryFilter { words: vec![word.to_owned()], ..MemoryFilter::all(scope, LogTime(0)) };
    let found = reads.find(POOL, &Find::Memory(filter)).await.expect("an answer");
    found.rows.iter().map(|row| row.key().key).collect()
}

/// Waits until the index of words is up to date.
async fn read_up(file: &Connection) {
    for _ in 0..1_000 {
        let unread: i64 = file.query_row("SELECT count(*) FROM memory_unread", [], |row| row.get(0)).expect("a number");
        if unread == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("entries are still unread");
}

#[tokio::test]
async fn words_are_found_before_and_after_they_are_indexed() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    let file = Connection::open(&path).expect("the file");
    let changes = [
        vec![entry("a", Some("first words")), entry("b", Some("other words"))],
        vec![entry("a", Some("second words"))],
        vec![entry("a", None), entry("b", Some("first again"))],
        // An id that was given before.
        vec![entry("c", Some("second again"))],
        vec![(RowKey::memory(Scope::OPERATOR, "b"), None), (RowKey::memory(Scope::OPERATOR, "c"), None)],
    ];
    let wanted: [[&[&str]; 3]; 5] = [
        [&["a"], &[], &["a", "b"]],
        [&[], &["a"], &["a", "b"]],
        [&["b"], &[], &[]],
        [&["b"], &["c"], &[]],
        [&[], &[], &[]],
    ];
    for (at, (rows, wanted)) in (0..).zip(changes.into_iter().zip(wanted)) {
        reads.commit(&[Commit { rows, ..step(at) }]).await.expect("written");
        for when in ["at once", "once indexed"] {
            for (word, wanted) in ["first", "second", "words"].into_iter().zip(wanted) {
                assert_eq!(found(&reads, word).await, wanted, "{word} after change {at}, {when}");
            }
            read_up(&file).await;
        }
    }
}

#[tokio::test]
async fn an_id_that_was_of_another_fleet_is_read_for_both() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    let file = Connection::open(&path).expect("the file");
    let changes = [
        (vec![entry_of(of(7), "a", Some("first words"))], [["a"].as_slice(), &[]], [[].as_slice(), &[]]),
        (vec![entry_of(of(7), "a", None), entry_of(of(8), "b", Some("second words"))], [&[], &[]], [&[], &["b"]]),
        (vec![entry_of(of(8), "b", Some("first again"))], [&[], &[]], [&["b"], &[]]),
    ];
    for (at, (rows, seven, eight)) in (0..).zip(changes) {
        reads.commit(&[Commit { rows, ..step(at) }]).await.expect("written");
        for when in ["at once", "once indexed"] {
            for (scope, wanted) in [(of(7), seven), (of(8), eight)] {
                for (word, wanted) in ["first", "second"].into_iter().zip(wanted) {
                    let found = found_of(scope, &reads, word).await;
                    assert_eq!(found, wanted, "{word} of {scope:?} after change {at}, {when}");
                }
            }
            read_up(&file).await;
        }
    }
}

/// Makes of a file one of the version before: `memory_unread` was of all fleets. What was read counts as unread, except that
/// the words of `b` are those of a text before, and that an entry is gone of which the words are still there.
const BEFORE_SCOPES: &str = "DROP TABLE memory_unread;
    CREATE TABLE memory_unread (id INTEGER PRIMARY KEY) STRICT;
    DELETE FROM _sqlx_migrations WHERE version = 3;
    DELETE FROM memory_words;
    INSERT INTO memory_words (rowid, text) SELECT id, 'third words' FROM memory WHERE key = 'b';
    INSERT INTO memory_words (rowid, text) VALUES (77, 'third words');
    INSERT INTO memory_unread (id) SELECT id FROM memory UNION ALL VALUES (77);";

#[tokio::test]
async fn what_was_unread_in_the_version_before_is_found_and_read() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    let rows = vec![entry("a", Some("first words")), entry("b", Some("second words"))];
    reads.commit(&[Commit { rows, ..step(0) }]).await.expect("written");
    reads.close();
    let file = changed(&path);
    file.execute_batch(BEFORE_SCOPES).expect("it is set up");

    let reads = SqliteReads::open(&path).await.expect("the file of before");
    for when in ["at once", "once indexed"] {
        for (word, wanted) in [("first", &["a"] as &[&str]), ("second", &["b"]), ("third", &[]), ("words", &["a", "b"])]
        {
            assert_eq!(found(&reads, word).await, wanted, "{word}, {when}");
        }
        read_up(&file).await;
    }
    let left = "SELECT count(*) FROM memory_words WHERE memory_words MATCH 'thi'";
    assert_eq!(file.query_row(left, [], |row| row.get::<_, i64>(0)).expect("a number"), 0, "words of a text before");
}

#[tokio::test]
async fn more_changed_texts_than_a_search_should_read_are_indexed_by_their_commit() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    let many = UNREAD_MAX + 1_000;
    let rows = (0..many).map(|at| entry(&format!("key {at}"), Some(&format!("text {at}")))).collect();
    reads.commit(&[Commit { rows, ..step(0) }]).await.expect("written");
    let file = Connection::open(&path).expect("the file");
    let unread: i64 = file.query_row("SELECT count(*) FROM memory_unread", [], |row| row.get(0)).expect("a number");
    assert!(unread.unsigned_abs() <= UNREAD_MAX, "{unread}");
    for at in [0, many - 1] {
        assert!(found(&reads, &format!("text {at}")).await.contains(&format!("key {at}")));
    }
}

#[tokio::test]
async fn a_search_of_any_size_is_answered() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    let scope = Scope::OPERATOR;
    let words = (0..64).map(|at| format!("{at} \"a long * word\" {}", "\u{e9}".repeat(200))).collect();
    let filter = MemoryFilter { words, tags: vec!["tag".to_owned(); 64], ..MemoryFilter::all(scope, LogTime(0)) };
    assert_eq!(reads.find(POOL, &Find::Memory(filter)).await.expect("an answer").total, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_at_once_are_all_answered() {
    let (_directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    reads.commit(&[step(0)]).await.expect("written");
    let ask = |reads: Arc<SqliteReads>| async move {
        reads.load(POOL, &BTreeSet::from([RowKey::head(Scope::OPERATOR)])).await.expect("an answer").rows.len()
    };
    let asked: Vec<_> = (0..200).map(|_| tokio::spawn(ask(Arc::clone(&reads)))).collect();
    for answer in asked {
        assert_eq!(answer.await.expect("no panic"), 1);
    }
}

/// A memory that nobody finds the end of in time.
const ENDLESS: &str = "ALTER TABLE memory RENAME TO memory_was;
    CREATE VIEW memory AS
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000000)
    SELECT i AS id, -i AS partition, -i AS scope, '' AS key, NULL AS expires_at, 0 AS created_at, 0 AS updated_at,
        NULL AS author, '' AS lower_key, NULL AS tags, NULL AS metadata, '' AS text FROM n";

/// A search of what is endless.
async fn slow(reads: Arc<SqliteReads>, scope: Scope) -> Result<Found, Error> {
    reads.find(POOL, &Find::Memory(MemoryFilter::all(scope, LogTime(0)))).await
}

/// A search of what is not.
async fn quick(reads: &SqliteReads, scope: Scope) -> Result<Verdicts, Error> {
    let matching = Matching { streams: Stream::ALL.to_vec(), limit: 9, ..Matching::default() };
    reads.verdicts(POOL, scope, &Which::Matching(matching)).await
}

/// The time stands until the end of it, or until somebody waited for too long.
struct Still {
    go: mpsc::SyncSender<()>,
    stands: JoinHandle<Result<(), RecvTimeoutError>>,
}

impl Still {
    fn stand() -> Self {
        let (go, stop) = mpsc::sync_channel(1);
        let stands = tokio::task::spawn_blocking(move || stop.recv_timeout(Duration::from_secs(20)));
        tokio::time::pause();
        Self { go, stands }
    }

    async fn end(self) {
        self.go.send(()).expect("it waits");
        self.stands.await.expect("no panic").expect("the time stood");
    }
}

/// Read models whose searches have no end, in a time that stands still.
async fn endless() -> (TempDir, Arc<SqliteReads>, Connection, Still) {
    let (directory, path) = place();
    let reads = SqliteReads::open(&path).await.expect("a new file");
    reads.commit(&[step(0)]).await.expect("written");
    // Once this is answered nothing waits to be written: each search begins as soon as it is asked.
    quick(&reads, Scope::OPERATOR).await.expect("an answer");
    let file = Connection::open(&path).expect("the file");
    file.execute_batch(ENDLESS).expect("it is set up");
    (directory, reads, file, Still::stand())
}

#[tokio::test]
async fn nobody_waits_behind_searches_and_each_of_them_ends() {
    let (_directory, reads, file, still) = endless().await;
    let searches: Vec<_> = (0..16).map(|_| tokio::spawn(slow(Arc::clone(&reads), Scope::OPERATOR))).collect();
    tokio::task::yield_now().await;

    let many: BTreeSet<_> = (0..100).map(|at| RowKey::memory(Scope::OPERATOR, &at.to_string())).collect();
    let others = async {
        assert_eq!(reads.load(POOL, &many).await.expect("rows").applied.upto, Offset(1));
        reads.find(POOL, &Find::Due { now: LogTime(9), limit: 9 }).await.expect("what is due");
        let which = Which::After { after: None, limit: 9 };
        reads.verdicts(POOL, Scope::OPERATOR, &which).await.expect("verdicts");
    };
    tokio::time::timeout(Duration::from_millis(10 * SEARCH_MS), others).await.expect("nobody waits");
    assert!(searches.iter().all(|search| !search.is_finished()), "a search ended");

    tokio::time::advance(Duration::from_millis(2 * SEARCH_MS)).await;
    for search in searches {
        let answer = search.await.expect("no panic");
        assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    }
    // Their threads are free again.
    file.execute_batch("DROP VIEW memory; ALTER TABLE memory_was RENAME TO memory").expect("it is put right");
    slow(Arc::clone(&reads), Scope::OPERATOR).await.expect("an answer");
    still.end().await;
}

#[tokio::test]
async fn nobody_waits_behind_the_searches_of_another_tenant() {
    let (_directory, reads, _file, still) = endless().await;
    let (many, one) = (of(7), of(8));
    let mut searches = Vec::new();
    let mut ask = || {
        let mut search = Box::pin(slow(Arc::clone(&reads), many));
        let answer = (&mut search).now_or_never();
        searches.push(search);
        answer
    };
    assert!((0..100).all(|_| ask().is_none()), "a search ended");
    quick(&reads, one).await.expect("nobody waits");

    // A line is as long as it may be, then its tenant is told so at once; others are not.
    let told = (0..2 * SEARCHES_WAITING_TENANT_MAX).find_map(|_| ask()).expect("one too many");
    assert!(matches!(&told, Err(Error::Unavailable(what)) if what.contains("too many")), "{told:?}");
    quick(&reads, one).await.expect("nobody waits");

    // Who has left is not in the way.
    drop(searches);
    quick(&reads, many).await.expect("an answer");
    still.end().await;
}
