//! The read models' promises, on every adapter.

#[cfg(feature = "cluster")]
#[path = "postgres/databases.rs"]
mod databases;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
#[cfg(feature = "cluster")]
use ringforge_adapters::reads::postgres::PostgresReads;
use ringforge_adapters::reads::sqlite::SqliteReads;
use ringforge_ports::{contract::reads::Subject, contract_tests, memory::reads::MemoryReads, reads::Reads};
use tempfile::TempDir;

struct Memory;

#[async_trait]
impl Subject for Memory {
    async fn open(&self) -> Arc<dyn Reads> {
        Arc::new(MemoryReads::new())
    }

    async fn reopen(&self) -> Option<Arc<dyn Reads>> {
        None
    }
}

/// Read models in a file; `reopen` opens a copy of the files as they are at that moment, as a killed process leaves them.
struct Sqlite {
    directory: TempDir,
    count: AtomicUsize,
}

impl Sqlite {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory for the test"), count: AtomicUsize::new(0) }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("{number}.db"))
    }

    async fn open_next(&self) -> Arc<dyn Reads> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        SqliteReads::open(&self.path(number)).await.expect("the read models open")
    }
}

#[async_trait]
impl Subject for Sqlite {
    async fn open(&self) -> Arc<dyn Reads> {
        self.open_next().await
    }

    async fn reopen(&self) -> Option<Arc<dyn Reads>> {
        let number = self.count.load(Ordering::Relaxed);
        let (from, to) = (self.path(number), self.path(number + 1));
        // The file before its write-ahead log: what a checkpoint moves meanwhile is in both.
        for suffix in ["db", "db-wal"] {
            if from.with_extension(suffix).exists() {
                fs::copy(from.with_extension(suffix), to.with_extension(suffix)).expect("a copy");
            }
        }
        Some(self.open_next().await)
    }
}

contract_tests!(
    reads,
    memory,
    Memory,
    [
        a_commit_is_seen_at_once,
        a_batch_is_whole,
        a_commit_follows_the_one_before,
        conflicts_write_nothing,
        partitions_change_together,
        one_of_many_writers_wins,
        rows_are_replaced_and_removed,
        loads_find_what_exists,
        a_partition_never_applied_is_empty,
        answers_come_from_one_snapshot,
        nothing_of_others_appears,
        what_was_committed_survives,
        tables_are_paged_by_name,
        due_comes_longest_due_first,
        mail_is_of_one_agent,
        listed_rows_come_by_time_or_by_change,
        heads_come_in_the_order_asked,
        memory_conditions_hold_alone_and_together,
        words_are_taken_literally,
        memory_is_sorted,
        memory_is_counted_and_paged,
        expired_memory_is_hidden,
        verdicts_follow_in_order,
        verdicts_are_found_by_offset,
        verdicts_are_found_by_what_they_are_about,
        verdicts_match_alone_and_together,
        verdicts_are_shown_to_those_concerned,
        matches_are_counted_and_paged,
        answers_have_so_much_room,
        what_is_larger_comes_alone,
        random_questions_have_one_answer,
        whoever_follows_a_list_has_all_of_it,
        snapshots_are_of_one_moment,
        what_is_not_forgotten_stays,
    ]
);

contract_tests!(
    reads,
    sqlite,
    Sqlite::new(),
    [
        a_commit_is_seen_at_once,
        a_batch_is_whole,
        a_commit_follows_the_one_before,
        conflicts_write_nothing,
        partitions_change_together,
        one_of_many_writers_wins,
        rows_are_replaced_and_removed,
        loads_find_what_exists,
        a_partition_never_applied_is_empty,
        answers_come_from_one_snapshot,
        nothing_of_others_appears,
        what_was_committed_survives,
        tables_are_paged_by_name,
        due_comes_longest_due_first,
        mail_is_of_one_agent,
        listed_rows_come_by_time_or_by_change,
        heads_come_in_the_order_asked,
        memory_conditions_hold_alone_and_together,
        words_are_taken_literally,
        memory_is_sorted,
        memory_is_counted_and_paged,
        expired_memory_is_hidden,
        verdicts_follow_in_order,
        verdicts_are_found_by_offset,
        verdicts_are_found_by_what_they_are_about,
        verdicts_match_alone_and_together,
        verdicts_are_shown_to_those_concerned,
        matches_are_counted_and_paged,
        answers_have_so_much_room,
        what_is_larger_comes_alone,
        random_questions_have_one_answer,
        whoever_follows_a_list_has_all_of_it,
        snapshots_are_of_one_moment,
        what_is_not_forgotten_stays,
    ]
);

/// Read models in databases of their own; `reopen` opens the newest again, which another process may do at any moment.
#[cfg(feature = "cluster")]
struct Postgres {
    server: String,
    databases: std::sync::Mutex<Vec<databases::Database>>,
}

#[cfg(feature = "cluster")]
impl Postgres {
    fn new(server: String) -> Self {
        Self { server, databases: std::sync::Mutex::default() }
    }

    async fn open_newest(&self) -> Arc<dyn Reads> {
        let address = self.databases.lock().expect("no panic").last().expect("one was opened").address();
        Arc::new(PostgresReads::open(&address).await.expect("the read models open"))
    }
}

#[cfg(feature = "cluster")]
#[async_trait]
impl Subject for Postgres {
    async fn open(&self) -> Arc<dyn Reads> {
        let database = databases::Database::new(&self.server).await;
        self.databases.lock().expect("no panic").push(database);
        self.open_newest().await
    }

    async fn reopen(&self) -> Option<Arc<dyn Reads>> {
        Some(self.open_newest().await)
    }
}

#[cfg(feature = "cluster")]
contract_tests!(
    reads,
    postgres,
    TEST_POSTGRES | address | Postgres::new(address),
    [
        a_commit_is_seen_at_once,
        a_batch_is_whole,
        a_commit_follows_the_one_before,
        conflicts_write_nothing,
        partitions_change_together,
        one_of_many_writers_wins,
        rows_are_replaced_and_removed,
        loads_find_what_exists,
        a_partition_never_applied_is_empty,
        answers_come_from_one_snapshot,
        nothing_of_others_appears,
        what_was_committed_survives,
        tables_are_paged_by_name,
        due_comes_longest_due_first,
        mail_is_of_one_agent,
        listed_rows_come_by_time_or_by_change,
        heads_come_in_the_order_asked,
        memory_conditions_hold_alone_and_together,
        words_are_taken_literally,
        memory_is_sorted,
        memory_is_counted_and_paged,
        expired_memory_is_hidden,
        verdicts_follow_in_order,
        verdicts_are_found_by_offset,
        verdicts_are_found_by_what_they_are_about,
        verdicts_match_alone_and_together,
        verdicts_are_shown_to_those_concerned,
        matches_are_counted_and_paged,
        answers_have_so_much_room,
        what_is_larger_comes_alone,
        random_questions_have_one_answer,
        whoever_follows_a_list_has_all_of_it,
        snapshots_are_of_one_moment,
        what_is_not_forgotten_stays,
    ]
);
