//! The log's promises, on every adapter.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use ringforge_adapters::log::embedded::EmbeddedLog;
#[cfg(feature = "cluster")]
use ringforge_adapters::log::kafka::{Cluster, KafkaLog, Shape, create};
use ringforge_domain::position::Generation;
#[cfg(feature = "cluster")]
use ringforge_ports::clock::{Ids, SystemIds};
use ringforge_ports::{
    clock::Clock,
    contract::log::{PARTITIONS, Subject},
    contract_tests,
    log::Log,
    memory::log::MemoryLog,
};
use rusqlite::Connection;
use tempfile::TempDir;

struct Memory;

#[async_trait]
impl Subject for Memory {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Log> {
        MemoryLog::new(clock, PARTITIONS, Generation(7))
    }

    async fn reopen(&self, _: Arc<dyn Clock>) -> Option<Arc<dyn Log>> {
        None
    }
}

/// A log in a file; `reopen` opens a copy of the files as they are at that moment, which is what a killed process leaves.
struct Embedded {
    directory: TempDir,
    opened: Mutex<PathBuf>,
}

impl Embedded {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let opened = Mutex::new(directory.path().join("0/log.db"));
        Self { directory, opened }
    }

    fn path(&self) -> PathBuf {
        self.opened.lock().expect("no panic while the lock is held").clone()
    }
}

fn open(path: &Path, clock: Arc<dyn Clock>) -> Arc<dyn Log> {
    EmbeddedLog::open(path, PARTITIONS, clock).expect("the log opens")
}

#[async_trait]
impl Subject for Embedded {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Log> {
        open(&self.path(), clock)
    }

    async fn reopen(&self, clock: Arc<dyn Clock>) -> Option<Arc<dyn Log>> {
        let (from, to) = (self.path(), self.directory.path().join("1/log.db"));
        fs::create_dir(to.parent()?).expect("a directory for the copy");
        // While somebody reads, no record can leave the write-ahead log for the file between the two copies.
        let reader = Connection::open(&from).expect("the file");
        reader.execute_batch("BEGIN; SELECT count(*) FROM meta").expect("it reads");
        for suffix in ["db", "db-wal"] {
            fs::copy(from.with_extension(suffix), to.with_extension(suffix)).expect("a copy");
        }
        drop(reader);
        let log = open(&to, clock);
        *self.opened.lock().expect("no panic while the lock is held") = to;
        Some(log)
    }
}

/// Topics of their own for each log; `reopen` opens them once more, with clients of its own.
#[cfg(feature = "cluster")]
struct Kafka {
    cluster: Cluster,
}

#[cfg(feature = "cluster")]
impl Kafka {
    fn new(address: &str) -> Self {
        let cluster = Cluster::at(&format!("{address}/contract-{:032x}", SystemIds.next())).expect("an address");
        Self { cluster }
    }
}

#[cfg(feature = "cluster")]
#[async_trait]
impl Subject for Kafka {
    async fn open(&self, _: Arc<dyn Clock>) -> Arc<dyn Log> {
        let shape = Shape { pool_partitions: PARTITIONS - 1, dedicated: 0, replication: 1, min_insync_replicas: 1 };
        create(&self.cluster, shape, Generation(7)).await.expect("the topics are made");
        KafkaLog::open(&self.cluster).await.expect("the log opens")
    }

    async fn reopen(&self, _: Arc<dyn Clock>) -> Option<Arc<dyn Log>> {
        Some(KafkaLog::open(&self.cluster).await.expect("the log opens"))
    }
}

contract_tests!(
    log,
    memory,
    Memory,
    [
        everything_is_owned,
        places_are_counted_without_holes,
        what_is_read_is_what_was_appended,
        concurrent_appends_keep_their_order,
        a_caller_keeps_its_order,
        an_abandoned_append_stays,
        limits_are_refused,
        an_unknown_partition_is_refused,
        overload_is_honest,
        time_does_not_fall,
        reading_starts_where_asked,
        batches_are_bounded,
        readers_follow,
        readers_beyond_the_end_wait,
        readers_and_writers_at_once,
        reading_what_is_trimmed_is_gone,
        a_trim_under_a_reader_is_told,
        seeks_find_what_is_kept,
        bounds_cover_what_was_acknowledged,
        trims_stay_within_bounds,
        acknowledged_appends_survive,
        what_was_read_survives,
        offsets_are_not_reused_after_a_restart,
        time_does_not_fall_across_a_restart,
    ]
);

contract_tests!(
    log,
    embedded,
    Embedded::new(),
    [
        everything_is_owned,
        places_are_counted_without_holes,
        what_is_read_is_what_was_appended,
        concurrent_appends_keep_their_order,
        a_caller_keeps_its_order,
        an_abandoned_append_stays,
        limits_are_refused,
        an_unknown_partition_is_refused,
        overload_is_honest,
        time_does_not_fall,
        reading_starts_where_asked,
        batches_are_bounded,
        readers_follow,
        readers_beyond_the_end_wait,
        readers_and_writers_at_once,
        reading_what_is_trimmed_is_gone,
        a_trim_under_a_reader_is_told,
        seeks_find_what_is_kept,
        bounds_cover_what_was_acknowledged,
        trims_stay_within_bounds,
        acknowledged_appends_survive,
        what_was_read_survives,
        offsets_are_not_reused_after_a_restart,
        time_does_not_fall_across_a_restart,
    ]
);

#[cfg(feature = "cluster")]
contract_tests!(
    log,
    kafka,
    TEST_KAFKA | address | Kafka::new(&address),
    [
        everything_is_owned,
        places_are_counted_without_holes,
        what_is_read_is_what_was_appended,
        concurrent_appends_keep_their_order,
        a_caller_keeps_its_order,
        an_abandoned_append_stays,
        limits_are_refused,
        an_unknown_partition_is_refused,
        overload_is_honest,
        time_does_not_fall,
        reading_starts_where_asked,
        batches_are_bounded,
        readers_follow,
        readers_beyond_the_end_wait,
        readers_and_writers_at_once,
        reading_what_is_trimmed_is_gone,
        a_trim_under_a_reader_is_told,
        seeks_find_what_is_kept,
        bounds_cover_what_was_acknowledged,
        trims_stay_within_bounds,
        acknowledged_appends_survive,
        what_was_read_survives,
        offsets_are_not_reused_after_a_restart,
        time_does_not_fall_across_a_restart,
    ]
);
