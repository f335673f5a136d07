//! The log read again from its beginning: the fold alone, without projector, store or bus. What every read model must equal.

use ringforge_domain::{
    event::Event,
    fold::Damaged,
    position::{Partition, Position},
    schema::{self, DecodeError},
    verdict::Verdict,
    world::Store,
};
use ringforge_ports::log::Stored;

use crate::{
    history::{Logged, Read},
    rng::Rng,
};

/// What the records of a partition say.
///
/// # Panics
/// A newer build wrote one.
pub fn read(partition: Partition, records: &[Stored]) -> Vec<Read> {
    let read = |stored: &Stored| {
        let position = Position { partition, offset: stored.offset };
        match schema::decode(&stored.record.bytes, position, stored.time) {
            Ok(event) => Read::Event(Box::new(event)),
            Err(DecodeError::Corrupt(_)) => {
                let hash = schema::record_hash(&stored.record.bytes);
                Read::Damaged(Damaged { scope: stored.record.scope, position, time: stored.time, hash })
            }
            Err(DecodeError::UnknownSchema(id)) => panic!("nobody wrote schema {id}"),
        }
    };
    records.iter().map(read).collect()
}

/// What the fold makes of them, one at a time.
pub fn fold(records: Vec<Read>) -> Logged {
    let mut logged = Logged::default();
    for record in records {
        let verdict = match &record {
            Read::Event(event) => project(&mut logged.store, std::slice::from_ref(&**event)).pop(),
            Read::Damaged(record) => Some(logged.store.project_damaged(record)),
        };
        let verdict = verdict.expect("everything has a verdict");
        logged.verdicts.push(verdict.clone());
        if let Read::Event(event) = &record {
            logged.told.push(((**event).clone(), verdict));
        }
        logged.records.push(record);
    }
    logged
}

/// What it makes of them in batches of any size.
pub fn fold_split(records: &[Read], rng: &mut Rng) -> (Store, Vec<Verdict>) {
    let (mut store, mut verdicts, mut batch) = (Store::default(), Vec::with_capacity(records.len()), Vec::new());
    for record in records {
        match record {
            Read::Event(event) => batch.push((**event).clone()),
            Read::Damaged(record) => {
                verdicts.extend(project(&mut store, &std::mem::take(&mut batch)));
                verdicts.push(store.project_damaged(record));
            }
        }
        if rng.chance(100) {
            verdicts.extend(project(&mut store, &std::mem::take(&mut batch)));
        }
    }
    verdicts.extend(project(&mut store, &batch));
    (store, verdicts)
}

fn project(store: &mut Store, batch: &[Event]) -> Vec<Verdict> {
    if batch.is_empty() { Vec::new() } else { store.project(batch) }
}
