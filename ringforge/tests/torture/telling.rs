//! How a run is told: the log and the read models of a server that was killed, as they lie in its files, beside what the agents
//! wrote down.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use futures_util::StreamExt as _;
use ringforge_adapters::{log::embedded::EmbeddedLog, reads::sqlite::SqliteReads};
use ringforge_domain::{
    ids::Scope,
    position::{Offset, Partition},
};
use ringforge_ports::{
    clock::SystemClock,
    log::{Log, Stored},
    names,
    reads::{Reads, every_row, every_verdict},
};
use ringforge_sim::{
    history::{Agent, Fleet, History, Model},
    offline::{fold, read},
};

/// Partitions of a log.
const PARTITIONS: [Partition; 2] = [Partition::DIRECTORY, Partition::POOL];

/// Everything that happened. `fleets`: those whose agents these are, all on the pool.
pub async fn history(data: &Path, fleets: &[Scope], agents: Vec<Agent>) -> History {
    let log = EmbeddedLog::open(&data.join(names::LOG_FILE), 2, SystemClock::start()).expect("the log opens");
    let generation = log.bounds(Partition::POOL).await.expect("the log has bounds").generation;
    let reads: Arc<dyn Reads> =
        SqliteReads::open(&data.join(names::reads_file(generation))).await.expect("the read models open");
    let told = |scope: &Scope| Fleet { scope: *scope, partition: Partition::POOL };
    let mut history = History { fleets: fleets.iter().map(told).collect(), agents, ..History::default() };
    for partition in PARTITIONS {
        history.logs.insert(partition, fold(read(partition, &records(&log, partition).await)));
        let (rows, applied) = every_row(&reads, partition).await.expect("the rows are read");
        let mut verdicts = BTreeMap::new();
        for scope in fleets.iter().filter(|_| partition == Partition::POOL) {
            verdicts.insert(*scope, every_verdict(&reads, partition, *scope).await.expect("the verdicts are read"));
        }
        history.models.insert(partition, Model { rows, upto: applied.upto, verdicts });
    }
    log.close().await;
    history
}

async fn records(log: &EmbeddedLog, partition: Partition) -> Vec<Stored> {
    let end = log.bounds(partition).await.expect("the log has bounds").end;
    let (mut all, mut batches) = (Vec::new(), log.read(partition, Offset::ZERO));
    while all.last().map_or(Offset::ZERO, |last: &Stored| last.offset.next()) < end {
        all.extend(batches.next().await.expect("it follows").expect("the log is read"));
    }
    all
}
