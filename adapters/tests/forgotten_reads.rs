//! What a file forgets is gone from all of its tables, while others commit.

use std::time::Duration;

use ringforge_adapters::reads::sqlite::SqliteReads;
use ringforge_domain::{
    code::{Code, Refusal},
    ids::{CommandId, FleetId, Scope, TenantId},
    position::{LogTime, Offset, Partition, Position},
    verdict::{Index, Outcome, Stream, Verdict},
};
use ringforge_ports::reads::{Commit, Reads as _, Which};
use rusqlite::Connection;

const FLEET: Scope = Scope { tenant: TenantId::from_bits(7), fleet: FleetId::from_bits(70) };
const COMMITS: u64 = 20;
const EACH: u64 = 50;

/// Verdicts with two tags each.
fn commit(partition: Partition, number: u64) -> Commit {
    let offsets = number * EACH..(number + 1) * EACH;
    let verdict = |offset| Verdict {
        position: Position { partition, offset: Offset(offset) },
        time: LogTime(5),
        scope: FLEET,
        command_id: CommandId::from_bits(u128::from(offset)),
        agent: None,
        previous: None,
        outcome: Outcome::Refused(Refusal::because(Code::ServerError, "a test")),
        first: None,
        index: Index {
            stream: Some(Stream::Activity),
            tags: vec!["a".to_owned()],
            routing: vec!["b".to_owned()],
            ..Index::default()
        },
    };
    Commit {
        partition,
        previous: Offset(offsets.start),
        upto: Offset(offsets.end),
        time: LogTime(5),
        rows: Vec::new(),
        verdicts: offsets.map(verdict).collect(),
    }
}

#[tokio::test]
async fn what_is_forgotten_is_gone_from_every_table() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("reads.db");
    let reads = SqliteReads::open(&path).await.expect("the read models open");
    let (one, two) = (Partition(1), Partition(2));
    for number in 0..COMMITS {
        reads.commit(&[commit(one, number), commit(two, number)]).await.expect("written");
    }
    // More than is forgotten at once, and a commit on top.
    let kept = 130;
    reads.forget(one, Offset(COMMITS * EACH - kept)).await.expect("it is told");
    reads.commit(&[commit(one, COMMITS)]).await.expect("written");
    let after = Which::After { after: None, limit: 1 };
    for _ in 0..500 {
        if reads.verdicts(one, FLEET, &after).await.expect("an answer").oldest == Some(Offset(COMMITS * EACH - kept)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(reads.verdicts(two, FLEET, &after).await.expect("an answer").oldest, Some(Offset(0)));
    reads.close();
    let file = Connection::open(&path).expect("it opens");
    let count = |table: &str| {
        let of_one = format!("SELECT count(*) FROM {table} WHERE place / (1 << 43) = 1");
        file.query_row(&of_one, [], |row| row.get::<_, i64>(0)).expect("a count")
    };
    let left = (kept + EACH).cast_signed();
    assert_eq!(["verdicts", "history", "history_tags"].map(count), [left, left, 2 * left]);
}
