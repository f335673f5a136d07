//! The log read again from its beginning: the fold alone, without projector, store or bus. What every read model must equal.

use std::collections::BTreeMap;

use futures_util::{FutureExt, StreamExt};
use ringforge_domain::{
    event::Event,
    fold,
    limits::NEEDS_ROUNDS_MAX,
    position::{Offset, Partition, Position},
    row::{Row, RowKey, Rows},
    schema,
    verdict::Verdict,
};
use ringforge_ports::log::Log;

/// One partition, folded.
#[derive(Default)]
pub struct Offline {
    /// The rows.
    pub rows: BTreeMap<RowKey, Row>,
    /// Every event with its verdict, in order.
    pub told: Vec<(Event, Verdict)>,
}

impl Offline {
    /// Folds a partition one event at a time.
    pub fn fold(log: &dyn Log, partition: Partition) -> Self {
        let mut offline = Self::default();
        let mut rows = Rows::default();
        let mut records = log.read(partition, Offset::ZERO);
        while let Some(Some(Ok(batch))) = records.next().now_or_never() {
            for record in batch {
                let position = Position { partition, offset: record.offset };
                let event = schema::decode(&record.record.bytes, position, record.time).expect("we wrote it");
                offline.take(&mut rows, event);
            }
        }
        offline
    }

    fn take(&mut self, rows: &mut Rows, event: Event) {
        *rows = Rows::at(rows.time);
        for _ in 0..=NEEDS_ROUNDS_MAX {
            let keys = fold::unknown(std::slice::from_ref(&event), rows);
            let found: Vec<Row> = keys.iter().filter_map(|key| self.rows.get(key)).cloned().collect();
            rows.load(keys, found);
        }
        let verdict = fold::fold(rows, &event);
        for (key, row) in rows.changed() {
            match row {
                Some(row) => self.rows.insert(key.clone(), row.clone()),
                None => self.rows.remove(key),
            };
        }
        self.told.push((event, verdict));
    }
}
