//! The log read again from its beginning: the fold alone, without projector, store or bus. What every read model must equal.

use ringforge_domain::{
    event::Event,
    position::{Partition, Position},
    schema,
    verdict::Verdict,
    world::Store,
};
use ringforge_ports::log::Stored;

use crate::rng::Rng;

/// The events of a partition.
///
/// # Panics
/// A record is damaged.
pub fn events(partition: Partition, records: &[Stored]) -> Vec<Event> {
    let decode = |stored: &Stored| {
        let position = Position { partition, offset: stored.offset };
        schema::decode(&stored.record.bytes, position, stored.time).expect("we wrote it")
    };
    records.iter().map(decode).collect()
}

/// What the fold makes of them, one at a time.
pub fn fold(events: Vec<Event>) -> (Store, Vec<(Event, Verdict)>) {
    let mut store = Store::default();
    let mut told = Vec::with_capacity(events.len());
    for event in events {
        let verdicts = store.project(std::slice::from_ref(&event));
        told.extend(verdicts.into_iter().map(|verdict| (event.clone(), verdict)));
    }
    (store, told)
}

/// What it makes of them in batches of any size.
pub fn fold_split(events: &[Event], rng: &mut Rng) -> (Store, Vec<Verdict>) {
    let (mut store, mut verdicts, mut rest) = (Store::default(), Vec::with_capacity(events.len()), events);
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(1 + rng.index(rest.len().min(BATCH_MAX)));
        verdicts.extend(store.project(batch));
        rest = later;
    }
    (store, verdicts)
}

/// Events of one batch.
const BATCH_MAX: usize = 40;
