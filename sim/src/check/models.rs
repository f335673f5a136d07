//! G10, G19: the read models are the fold of the log, and the fold is one whoever folds, in whatever batches.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use ringforge_domain::{
    position::Partition,
    row::{self, Row},
};

use crate::{
    history::{History, Logged, Model},
    offline::fold_split,
    rng::Rng,
};

/// G10: row by row and verdict by verdict.
pub fn same_state(history: &History, partition: Partition, model: &Model) -> Result<()> {
    let logged = &history.logs[&partition];
    let folded = &logged.store.rows;
    if row::digest(&model.rows, model.upto) != row::digest(folded.values(), logged.end()) {
        let stored: BTreeMap<_, &Row> = model.rows.iter().map(|row| (row.key(), row)).collect();
        let other = folded.iter().find(|(key, row)| stored.get(key) != Some(row));
        let more = model.rows.iter().find(|row| !folded.contains_key(&row.key()));
        let stored = other.map(|(key, _)| stored.get(key));
        let (partition, upto, end) = (partition.0, model.upto.0, logged.end().0);
        bail!("G10: partition {partition} applied {upto} of {end}: fold {other:?}, stored {stored:?}, more {more:?}");
    }
    for (scope, stored) in &model.verdicts {
        let folded = logged.verdicts.iter().filter(|verdict| verdict.scope == *scope);
        ensure!(stored.iter().eq(folded), "G10: the verdicts of partition {} are not those of the fold", partition.0);
    }
    Ok(())
}

/// G19: folded again, in other batches, everything comes out the same.
pub fn determined(logged: &Logged) -> Result<()> {
    let (store, again) = fold_split(&logged.records, &mut Rng::new(logged.records.len() as u64));
    ensure!(store.rows == logged.store.rows, "G19: folded again, the rows are others");
    ensure!(again == logged.verdicts, "G19: folded again, the verdicts are others");
    Ok(())
}

/// G3: each event of a fleet names the one before it.
pub fn chained(logged: &Logged) -> Result<()> {
    let mut last = BTreeMap::new();
    for verdict in &logged.verdicts {
        let before = last.insert(verdict.scope, verdict.position.offset);
        ensure!(verdict.previous == before, "G3: the chain of the fleet is broken at {:?}", verdict.position);
    }
    Ok(())
}
