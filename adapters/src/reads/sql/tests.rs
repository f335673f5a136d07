//! Given a file as the migrations leave it, when a question is asked, then its parts are found by an index.

use ringforge_domain::{position::LogTime, verdict::Stream};
use ringforge_ports::reads::{About, Matching, Which};
use rusqlite::{Connection, params_from_iter};

use super::*;
use crate::reads::sqlite::SqliteReads;

/// How a question is answered, step by step.
async fn plan(sql: &Sql) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("reads.db");
    drop(SqliteReads::open(&path).await.expect("a new file"));
    let file = Connection::open(&path).expect("the file");
    let mut plan = file.prepare(&format!("EXPLAIN QUERY PLAN {}", sql.text)).expect("a question");
    let steps = plan.query_map(params_from_iter(&sql.values), |row| row.get("detail")).expect("a plan");
    steps.collect::<Result<_, _>>().expect("texts")
}

#[tokio::test]
async fn what_verdicts_are_about_is_found_by_the_subject() {
    let about = About { stream: Stream::Direct, label: "expired".to_owned(), subject: "message".to_owned() };
    let plan =
        plan(&history::verdicts(Dialect::Sqlite, Partition::POOL, Scope::OPERATOR, &Which::About(vec![about]))).await;
    let found = "SEARCH h USING INDEX history_subject (scope=? AND subject=? AND place>? AND place<?)";
    assert!(plan.iter().any(|step| step == found), "{plan:#?}");
}

#[tokio::test]
async fn a_search_reads_changed_entries_of_its_own_fleet_only() {
    let filter = MemoryFilter { words: vec!["word".to_owned()], ..MemoryFilter::all(Scope::OPERATOR, LogTime(0)) };
    let plan = plan(&find(Dialect::Sqlite, Partition::POOL, &Find::Memory(filter))).await;
    let unread: Vec<_> = plan.iter().filter(|step| step.contains("memory_unread")).collect();
    assert_eq!(unread, ["SEARCH memory_unread USING PRIMARY KEY (scope=?)"], "{plan:#?}");
}

#[tokio::test]
async fn the_history_of_a_subject_is_found_by_it() {
    let matching =
        Matching { streams: vec![Stream::Memory], subject: Some("plan".to_owned()), limit: 9, ..Matching::default() };
    let plan =
        plan(&history::verdicts(Dialect::Sqlite, Partition::POOL, Scope::OPERATOR, &Which::Matching(matching))).await;
    let found = [
        "SEARCH h USING PRIMARY KEY (scope=? AND place=?)",
        "SEARCH a USING COVERING INDEX history_subject (scope=? AND subject=? AND place>? AND place<?)",
    ];
    assert!(found.iter().all(|step| plan.iter().any(|found| found == step)), "{plan:#?}");
}
