//! The log read again from its beginning: the fold alone, without projector, store or bus. What every read model must equal.

use futures_util::{FutureExt, StreamExt};
use ringforge_domain::{
    event::Event,
    position::{Offset, Partition, Position},
    schema,
    verdict::Verdict,
    world::Store,
};
use ringforge_ports::log::Log;

/// One partition, folded.
#[derive(Default)]
pub struct Offline {
    /// The rows.
    pub store: Store,
    /// Every event with its verdict, in order.
    pub told: Vec<(Event, Verdict)>,
}

impl Offline {
    /// Folds a partition one event at a time.
    pub fn fold(log: &dyn Log, partition: Partition) -> Self {
        let mut offline = Self::default();
        let mut records = log.read(partition, Offset::ZERO);
        while let Some(Some(Ok(batch))) = records.next().now_or_never() {
            for record in batch {
                let position = Position { partition, offset: record.offset };
                let event = schema::decode(&record.record.bytes, position, record.time).expect("we wrote it");
                let verdicts = offline.store.project(std::slice::from_ref(&event));
                offline.told.extend(verdicts.into_iter().map(|verdict| (event.clone(), verdict)));
            }
        }
        offline
    }
}
