//! What the promises of `Reads` do not say of servers: what cannot be opened, what lives where, what goes wrong meanwhile.
#![cfg(feature = "cluster")]
#![allow(clippy::disallowed_methods, reason = "tests measure by the machine's clock")]

#[path = "postgres/cut.rs"]
mod cut;
#[path = "postgres/databases.rs"]
mod databases;

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};

use ringforge_adapters::reads::{postgres::PostgresReads, sqlite::SqliteReads};
use ringforge_domain::{
    catalog::Effect,
    fleet::Head,
    ids::{CommandId, FleetId, Scope, TenantId},
    limits::{SEARCH_MS, SEARCHES_WAITING_TENANT_MAX, STATEMENT_MS},
    position::{Generation, LogTime, Offset, Partition, Partitions, Position},
    row::{Row, RowKey},
    verdict::{Index, Outcome, Stream, Verdict},
};
use ringforge_ports::{
    Error,
    contract::{reads::both_answer_alike, server},
    reads::{Applied, Commit, Find, Found, MemoryFilter, Reads, Which},
};
use sqlx::{PgConnection, Row as _};

use self::{
    cut::{Cut, Proxy},
    databases::Database,
};

const ONE: Partition = Partition(1);
const TWO: Partition = Partition(2);
const DAY: i64 = 86_400_000_000;

/// The address of the server, unless there is none: then the test `name` is skipped.
fn place(name: &str) -> Option<String> {
    server("TEST_POSTGRES", &format!("postgres_reads/{name}"))
}

fn of(tenant: u128) -> Scope {
    Scope { tenant: TenantId::from_bits(tenant), fleet: FleetId::from_bits(1) }
}

fn verdict(partition: Partition, at: u64, time: LogTime) -> Verdict {
    Verdict {
        position: Position { partition, offset: Offset(at) },
        time,
        scope: of(1),
        command_id: CommandId::from_bits(u128::from(at)),
        agent: None,
        previous: None,
        outcome: Outcome::Applied(Effect::ActivitySubscribe(())),
        first: None,
        index: Index { stream: Some(Stream::Activity), ..Index::default() },
    }
}

/// The event at an offset: the head's row and a verdict.
fn step(partition: Partition, at: u64) -> Commit {
    step_at(partition, at, LogTime(5))
}

fn step_at(partition: Partition, at: u64, time: LogTime) -> Commit {
    let head = Row::Head(Head { scope: of(1), last: Offset(at), hash: 1 });
    let rows = vec![(head.key(), Some(head))];
    let (previous, upto) = (Offset(at), Offset(at + 1));
    Commit { partition, previous, upto, time, rows, verdicts: vec![verdict(partition, at, time)] }
}

async fn stands(reads: &PostgresReads, partition: Partition) -> Offset {
    reads.load(partition, &BTreeSet::new()).await.expect("an answer").applied.upto
}

async fn refused(address: &str) -> String {
    match PostgresReads::open(address).await {
        Ok(_) => panic!("it was opened"),
        Err(Error::Corrupt(what) | Error::Unavailable(what)) => what,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn partitions_live_on_the_server_that_their_number_says() {
    let Some(place) = place("partitions_live_on_the_server_that_their_number_says") else { return };
    let (even, odd) = (Database::new(&place).await, Database::new(&place).await);
    let list = format!("{},{}", even.address(), odd.address());
    let reads = PostgresReads::open(&list).await.expect("two servers");
    reads.commit(&[step(ONE, 0), step(TWO, 0), step(ONE, 1)]).await.expect("written");
    assert_eq!((stands(&reads, ONE).await, stands(&reads, TWO).await), (Offset(2), Offset(1)));
    for (database, partition) in [(&even, 2), (&odd, 1)] {
        let there = sqlx::query("SELECT array_agg(partition) FROM ringforge.partitions");
        let there: Vec<i64> = there.fetch_one(&mut database.connect().await).await.expect("a line").get(0);
        assert_eq!(there, [partition]);
    }
    // Of what lives on one server all is written or nothing.
    let outcome = reads.commit(&[step(ONE, 2), step(Partition(3), 9)]).await;
    assert!(matches!(outcome, Err(Error::Conflict(_))), "{outcome:?}");
    assert_eq!(stands(&reads, ONE).await, Offset(2));
    reads.close().await;
    let reads = PostgresReads::open(&list).await.expect("the same two servers");
    assert_eq!((stands(&reads, ONE).await, stands(&reads, TWO).await), (Offset(2), Offset(1)));
}

#[tokio::test]
async fn another_list_of_servers_is_refused() {
    let Some(place) = place("another_list_of_servers_is_refused") else { return };
    let databases = [Database::new(&place).await, Database::new(&place).await, Database::new(&place).await];
    let [a, b, c] = databases.each_ref().map(Database::address);
    PostgresReads::open(&format!("{a},{b}")).await.expect("two servers");
    PostgresReads::open(&c).await.expect("one server");
    for (list, why) in [
        (a.clone(), "is number 1 of a list of 2 servers, but here it is number 1 of 1"),
        (format!("{b},{a}"), "is number 2 of a list of 2 servers, but here it is number 1 of 2"),
        (format!("{a},{c}"), "is number 1 of a list of 1 servers, of other read models, but here it is number 2 of 2"),
    ] {
        let what = refused(&list).await;
        assert!(what.contains(why) && what.contains("in the same order"), "{what}");
    }
    PostgresReads::open(&format!("{a},{b}")).await.expect("nothing has changed");
}

#[tokio::test]
async fn read_models_are_of_one_log() {
    let Some(place) = place("read_models_are_of_one_log") else { return };
    let databases = [Database::new(&place).await, Database::new(&place).await];
    let list = databases.each_ref().map(Database::address).join(",");
    let reads = PostgresReads::open(&list).await.expect("two servers");
    let ours = Generation(0xa0b);
    let refused = async |generation, partitions| match reads.belong(generation, partitions).await {
        Err(Error::Corrupt(what)) => what,
        other => panic!("{other:?}"),
    };
    for _ in 0..2 {
        reads.belong(ours, Partitions::shared(3)).await.expect("they are of this log");
    }
    let what = refused(Generation(7), Partitions::shared(3)).await;
    assert!(what.contains("of generation 00000a0b, and this one is of generation 00000007"), "{what}");
    reads.commit(&[step(ONE, 0), step(TWO, 0)]).await.expect("written");
    reads.belong(ours, Partitions::shared(3)).await.expect("they are of this log");
    let what = refused(ours, Partitions { shared: 2, dedicated: 1 }).await;
    assert!(what.contains("partition 2, which the log does not have"), "{what}");
}

#[tokio::test]
async fn what_cannot_be_opened_says_why_and_what_to_do() {
    let Some(place) = place("what_cannot_be_opened_says_why_and_what_to_do") else { return };
    let database = Database::new(&place).await;
    let missing = format!("{}_missing", database.address());
    let nobody = database.address_as("nobody_of_that_name:secret@");
    let closed = "postgres://app@127.0.0.1:1/none".to_owned();
    for (address, why) in [
        (missing, "there is no such database: create it"),
        (nobody, "does not take this user and password"),
        (closed, "is the server there"),
        ("mysql://host/database".to_owned(), "is not `postgres://user@host/database`"),
    ] {
        let what = refused(&address).await;
        assert!(what.contains(why), "{what}");
        assert!(!what.contains("secret"), "{what}");
    }
    // Roles are made by who may.
    let empty = Database::empty(&place).await;
    empty.execute("CREATE ROLE test_stranger LOGIN").await;
    let what = refused(&empty.address_as("test_stranger@")).await;
    empty.execute("DROP ROLE test_stranger").await;
    assert!(what.contains("run migrations/postgres/roles.sql"), "{what}");
    // A version of the tables that this program does not know.
    let newer = "INSERT INTO ringforge._sqlx_migrations
        SELECT 9999, description, installed_on, success, checksum, execution_time FROM ringforge._sqlx_migrations LIMIT 1";
    database.execute(newer).await;
    let what = refused(&database.address()).await;
    assert!(what.contains("newer version of this program (migration 9999)"), "{what}");
}

#[tokio::test]
async fn a_login_need_be_no_more_than_a_member() {
    let Some(place) = place("a_login_need_be_no_more_than_a_member") else { return };
    let database = Database::new(&place).await;
    database.execute("CREATE ROLE test_member LOGIN NOINHERIT").await;
    database.execute("GRANT ringforge_owner, ringforge_project, ringforge_query TO test_member").await;
    let reads = PostgresReads::open(&database.address_as("test_member@")).await.expect("a member may");
    reads.commit(&[step(ONE, 0)]).await.expect("written");
    let found = reads.verdicts(ONE, of(1), &Which::After { after: None, limit: 9 }).await.expect("an answer");
    assert_eq!(found.verdicts, [verdict(ONE, 0, LogTime(5))]);
    let all = MemoryFilter { words: vec!["word".to_owned()], ..MemoryFilter::all(of(1), LogTime(0)) };
    reads.find(ONE, &Find::Memory(all)).await.expect("an answer");
    reads.close().await;
    database.execute("DROP ROLE test_member").await;
}

#[tokio::test]
async fn two_servers_and_a_file_answer_alike() {
    let Some(place) = place("two_servers_and_a_file_answer_alike") else { return };
    let directory = tempfile::tempdir().expect("a directory");
    for seed in 100..104 {
        let databases = [Database::new(&place).await, Database::new(&place).await];
        let list = databases.each_ref().map(Database::address).join(",");
        let servers = PostgresReads::open(&list).await.expect("two servers");
        let file = SqliteReads::open(&directory.path().join(format!("{seed}.db"))).await.expect("a file");
        both_answer_alike(&servers, &*file, seed).await.expect("one answer");
    }
}

#[tokio::test]
async fn a_commit_whose_connection_is_cut_is_written_or_not_and_the_partition_says() {
    let Some(place) = place("a_commit_whose_connection_is_cut_is_written_or_not_and_the_partition_says") else {
        return;
    };
    let database = Database::new(&place).await;
    let proxy = Proxy::to(&database.address()).await;
    let reads = PostgresReads::open(proxy.address()).await.expect("through the proxy");
    for (at, cut, written) in [(0, Cut::BeforeCommit, 0), (0, Cut::AfterCommit, 1), (1, Cut::BeforeCommit, 1)] {
        proxy.cut(cut);
        let outcome = reads.commit(&[step(ONE, at)]).await;
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
        // The server may still be at it.
        for _ in 0..100 {
            if stands(&reads, ONE).await != Offset(written) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert_eq!(stands(&reads, ONE).await, Offset(written), "{cut:?}");
    }
    reads.commit(&[step(ONE, 1)]).await.expect("written");
    assert_eq!(stands(&reads, ONE).await, Offset(2));
}

#[tokio::test]
async fn connections_over_which_nothing_comes_are_replaced() {
    let Some(place) = place("connections_over_which_nothing_comes_are_replaced") else { return };
    let database = Database::new(&place).await;
    let proxy = Proxy::to(&database.address()).await;
    let reads = PostgresReads::open(proxy.address()).await.expect("through the proxy");
    // More than one are idle.
    futures_util::future::join_all((0..8).map(|_| stands(&reads, ONE))).await;
    // Whoever used one lately takes it as it is.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(proxy.deafen() > 3, "so many connections were made");
    let (patience, commits) = (Duration::from_millis(STATEMENT_MS), [step(ONE, 0)]);
    tokio::time::timeout(patience, reads.commit(&commits)).await.expect("in time").expect("written");
    assert_eq!(stands(&reads, ONE).await, Offset(1));
}

#[tokio::test]
async fn an_abandoned_commit_blocks_nobody() {
    let Some(place) = place("an_abandoned_commit_blocks_nobody") else { return };
    let database = Database::new(&place).await;
    let reads = PostgresReads::open(&database.address()).await.expect("it opens");
    for patience in 0..20 {
        let at = stands(&reads, ONE).await.0;
        let commits = [step(ONE, at)];
        // Given up in the middle, the sooner or the later.
        let _ = tokio::time::timeout(Duration::from_micros(200 * patience), reads.commit(&commits)).await;
        let at = stands(&reads, ONE).await.0;
        match reads.commit(&[step(ONE, at)]).await {
            Ok(()) | Err(Error::Conflict(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn history_is_cut_into_days_that_are_dropped() {
    let Some(place) = place("history_is_cut_into_days_that_are_dropped") else { return };
    let database = Database::new(&place).await;
    let reads = PostgresReads::open(&database.address()).await.expect("it opens");
    // The first 65,536 offsets take a day, the next as many a fifth of one: the slice after them is five times as long. It takes
    // 1.8 days: the last one is shorter.
    let places = [0, 65_535, 65_536, 131_071, 131_072, 458_751, 458_752];
    let times = [0, DAY, DAY, DAY + DAY / 5, DAY + DAY / 5, 2 * DAY, 3 * DAY];
    let mut stood = 0;
    for (offset, time) in places.into_iter().zip(times) {
        let commit = step_at(ONE, offset, LogTime(time));
        reads.commit(&[Commit { previous: Offset(stood), ..commit }]).await.expect("written");
        stood = offset + 1;
    }
    let slices = sqlx::query("SELECT first % (1::bigint << 43), last - first FROM ringforge.slices ORDER BY first");
    let slices = slices.fetch_all(&mut database.connect().await).await.expect("lines");
    let slices: Vec<(i64, i64)> = slices.iter().map(|slice| (slice.get(0), slice.get(1))).collect();
    assert_eq!(slices, [(0, 65_536), (65_536, 65_536), (131_072, 327_680), (458_752, 182_044)]);

    let kept = async || {
        let after = Which::After { after: None, limit: 99 };
        let found = reads.verdicts(ONE, of(1), &after).await.expect("an answer");
        let offsets: Vec<_> = found.verdicts.iter().map(|verdict| verdict.position.offset.0).collect();
        assert_eq!(found.oldest.map(|oldest| oldest.0), offsets.first().copied());
        offsets
    };
    assert_eq!(kept().await, places);
    for (before, dropped, from) in [(65_535, 0, 0), (65_536, 1, 2), (458_751, 1, 4), (u64::MAX, 1, 6)] {
        assert_eq!(reads.drop_history(ONE, Offset(before)).await.expect("dropped"), dropped, "before {before}");
        assert_eq!(kept().await, places[from..], "before {before}");
    }
    reads.commit(&[step(ONE, stood)]).await.expect("written");
}

#[tokio::test]
async fn a_server_that_lost_its_last_commits_takes_them_again() {
    let Some(place) = place("a_server_that_lost_its_last_commits_takes_them_again") else { return };
    let database = Database::new(&place).await;
    let reads = PostgresReads::open(&database.address()).await.expect("it opens");
    for at in 0..2 {
        reads.commit(&[step(ONE, at)]).await.expect("written");
    }
    // What a crash may take: commits do not wait for the disk, that which made room for history neither.
    let slice = |table: &str| format!("DROP TABLE ringforge.\"{table}_{}\"; ", 1_i64 << 43);
    let slices = slice("history") + &slice("history_tags");
    let tables = "TRUNCATE ringforge.slices, ringforge.rows, ringforge.partitions";
    database.execute(&(slices + tables)).await;
    assert!(matches!(reads.commit(&[step(ONE, 2)]).await, Err(Error::Conflict(_))));
    assert_eq!(stands(&reads, ONE).await, Offset(0));
    for at in 0..3 {
        reads.commit(&[step(ONE, at)]).await.expect("written again");
    }
    assert_eq!(stands(&reads, ONE).await, Offset(3));
}

/// Memory in which nobody finds anything in time: one entry, and nobody knows before whose it is.
const ENDLESS: &str = "ALTER TABLE ringforge.memory RENAME TO memory_was;
    CREATE VIEW ringforge.memory AS
        SELECT 1::bigint AS partition, pg_sleep(60)::text AS tenant, pg_sleep(60)::text AS fleet, ''::bytea AS key,
            NULL::bigint AS expires_at, 0::bigint AS created_at, 0::bigint AS updated_at, NULL::text AS author,
            ''::bytea AS lower_key, NULL::text AS tags, NULL::text AS metadata, ''::bytea AS text;
    GRANT SELECT ON ringforge.memory TO ringforge_query";

/// A search of what is endless.
async fn slow(reads: Arc<PostgresReads>, scope: Scope) -> Result<Found, Error> {
    reads.find(ONE, &Find::Memory(MemoryFilter::all(scope, LogTime(0)))).await
}

async fn endless(database: &Database) -> Arc<PostgresReads> {
    let reads = PostgresReads::open(&database.address()).await.expect("it opens");
    database.execute(ENDLESS).await;
    Arc::new(reads)
}

/// Waits until the server is at so many searches.
async fn until_searching(database: &Database, wanted: Range<i64>) {
    let mut connection = database.connect().await;
    for _ in 0..400 {
        if wanted.contains(&searching(&mut connection).await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never {wanted:?} searches");
}

async fn searching(connection: &mut PgConnection) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%memory%'";
    sqlx::query_scalar(count).fetch_one(connection).await.expect("a number")
}

#[tokio::test]
async fn nobody_waits_behind_searches_and_each_of_them_ends() {
    let Some(place) = place("nobody_waits_behind_searches_and_each_of_them_ends") else { return };
    let database = Database::new(&place).await;
    let reads = endless(&database).await;
    let searches: Vec<_> = (0..9).map(|_| tokio::spawn(slow(Arc::clone(&reads), of(7)))).collect();
    until_searching(&database, 1..9).await;
    reads.commit(&[step(ONE, 0)]).await.expect("written");
    let applied = Applied { upto: Offset(1), time: LogTime(5) };
    assert_eq!(reads.load(ONE, &BTreeSet::from([RowKey::head(of(1))])).await.expect("rows").applied, applied);
    // Another tenant's search has its turn.
    let other = tokio::spawn(slow(Arc::clone(&reads), of(8)));
    let mail = Find::Table { table: ringforge_domain::row::Table::Head, scope: Some(of(1)), after: None, limit: 9 };
    assert_eq!(reads.find(ONE, &mail).await.expect("rows").rows.len(), 1);
    assert!(searches.iter().all(|search| !search.is_finished()), "a search ended");
    until_searching(&database, 4..5).await;
    for search in searches.into_iter().chain([other]) {
        let answer = tokio::time::timeout(Duration::from_millis(2 * SEARCH_MS), search).await.expect("in time");
        let answer = answer.expect("no panic");
        assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn a_search_that_nobody_waits_for_is_ended_on_the_server() {
    let Some(place) = place("a_search_that_nobody_waits_for_is_ended_on_the_server") else { return };
    let database = Database::new(&place).await;
    let reads = endless(&database).await;
    let search = tokio::spawn(slow(Arc::clone(&reads), of(7)));
    until_searching(&database, 1..9).await;
    search.abort();
    let ended = until_searching(&database, 0..1);
    tokio::time::timeout(Duration::from_millis(SEARCH_MS / 2), ended).await.expect("long before its time is over");
}

#[tokio::test]
async fn a_tenant_that_searches_too_much_is_told() {
    let Some(place) = place("a_tenant_that_searches_too_much_is_told") else { return };
    let database = Database::new(&place).await;
    let reads = endless(&database).await;
    let mut searches: Vec<_> =
        (0..SEARCHES_WAITING_TENANT_MAX + 9).map(|_| Box::pin(slow(Arc::clone(&reads), of(7)))).collect();
    let polled = futures_util::future::poll_fn(|context| {
        let told = searches.iter_mut().filter_map(|search| match search.as_mut().poll(context) {
            std::task::Poll::Ready(answer) => Some(answer),
            std::task::Poll::Pending => None,
        });
        std::task::Poll::Ready(told.collect::<Vec<_>>())
    });
    let told = polled.await;
    // Three have their turn.
    assert_eq!(told.len(), 6);
    let too_many =
        |answer: &Result<Found, Error>| matches!(answer, Err(Error::Unavailable(what)) if what.contains("too many"));
    assert!(told.iter().all(too_many), "{told:?}");
}
