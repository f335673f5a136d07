//! How a run is told: the log and the read models as they stand when nobody writes them any more, beside what the agents wrote
//! down.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::StreamExt as _;
use ringforge_domain::{
    fleet,
    ids::Scope,
    position::{Offset, Partition},
};
use ringforge_ports::{
    log::{Log, Stored},
    reads::{Reads, every_row, every_verdict},
};
use ringforge_sim::{
    history::{Agent, Fleet, History, Model},
    offline::{fold, read},
};

/// Everything that happened. `fleets`: those whose agents these are.
pub async fn history(log: &dyn Log, reads: &Arc<dyn Reads>, fleets: &[Scope], agents: Vec<Agent>) -> History {
    let told = |scope: &Scope| Fleet { scope: *scope, partition: fleet::home(scope.fleet, log.partitions()) };
    let mut history = History { fleets: fleets.iter().map(told).collect(), agents, ..History::default() };
    for partition in log.partitions().iter() {
        history.logs.insert(partition, fold(read(partition, &records(log, partition).await)));
        let (rows, applied) = every_row(reads, partition).await.expect("the rows are read");
        let mut verdicts = BTreeMap::new();
        for fleet in history.fleets.iter().filter(|fleet| fleet.partition == partition) {
            let stored = every_verdict(reads, partition, fleet.scope).await.expect("the verdicts are read");
            verdicts.insert(fleet.scope, stored);
        }
        history.models.insert(partition, Model { rows, upto: applied.upto, verdicts });
    }
    history
}

/// All that a partition has.
pub async fn records(log: &dyn Log, partition: Partition) -> Vec<Stored> {
    let end = log.bounds(partition).await.expect("the log has bounds").end;
    let (mut all, mut batches) = (Vec::new(), log.read(partition, Offset::ZERO));
    while all.last().map_or(Offset::ZERO, |last: &Stored| last.offset.next()) < end {
        all.extend(batches.next().await.expect("it follows").expect("the log is read"));
    }
    all
}
