//! The log, whose answers may be lost and whose appends may come late. It keeps its promise: what was answered is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use ringforge_domain::{
    limits::PAGE_BYTES_MAX,
    planted::{Bug, planted},
    position::{Offset, Partition, Partitions},
};
use ringforge_ports::{
    Error,
    log::{AppendError, Bounds, Log, Placed, Record, Stored},
    memory::log::MemoryLog,
};

use super::{Fate, now};
use crate::tally::lock;

/// The log of a world.
pub struct Journal {
    inner: Arc<MemoryLog>,
    fate: Fate,
    /// Appends on their way, their outcome already unknown to whoever asked.
    late: Mutex<Vec<(Partition, Vec<Record>)>>,
    /// Where those ended up: they are in no session's order.
    came_late: Mutex<BTreeSet<(Partition, Offset)>>,
    /// What the log has forgotten, for the checkers.
    forgotten: Mutex<BTreeMap<Partition, Vec<Stored>>>,
    /// Up to where a power cut leaves everything, in partitions where that is not all there is.
    synced: Mutex<BTreeMap<Partition, Offset>>,
}

impl Journal {
    /// In front of this one.
    pub fn new(inner: Arc<MemoryLog>, fate: Fate) -> Arc<Self> {
        let (late, came_late, forgotten, synced) = Default::default();
        Arc::new(Self { inner, fate, late, came_late, forgotten, synced })
    }

    /// Lets one late append arrive; `false` if there is none.
    pub fn bring(&self) -> bool {
        lock(&self.synced).clear();
        let Some((partition, records)) = lock(&self.late).pop() else { return false };
        let placed = now(self.inner.append(partition, records)).expect("the log in memory takes it");
        lock(&self.came_late).extend(placed.iter().map(|placed| (partition, placed.offset)));
        true
    }

    /// What was not synced is gone. That is nothing: an append is durable before it is answered or shown.
    pub fn cut_power(&self) {
        for (partition, end) in std::mem::take(&mut *lock(&self.synced)) {
            self.inner.cut(partition, end);
        }
    }

    /// The records of a partition that came after their asker had been told that their outcome is unknown.
    pub fn came_late(&self, partition: Partition) -> BTreeSet<Offset> {
        lock(&self.came_late).iter().filter(|(of, _)| *of == partition).map(|(_, offset)| *offset).collect()
    }

    /// The first record that is kept.
    pub fn oldest(&self, partition: Partition) -> Offset {
        now(self.inner.bounds(partition)).expect("the log is there").oldest
    }

    /// Keeps nothing before this any more; `false` if it already did not.
    pub fn forget(&self, partition: Partition, before: Offset) -> bool {
        let oldest = self.oldest(partition);
        if before <= oldest {
            return false;
        }
        let mut forgotten = lock(&self.forgotten);
        let gone = forgotten.entry(partition).or_default();
        gone.extend(self.kept(partition).into_iter().filter(|stored| stored.offset < before));
        now(self.inner.trim(partition, before)).expect("the log is there");
        true
    }

    /// Every record that there ever was in a partition.
    pub fn all(&self, partition: Partition) -> Vec<Stored> {
        let mut all = lock(&self.forgotten).get(&partition).cloned().unwrap_or_default();
        all.extend(self.kept(partition));
        all
    }

    /// Rarely, something writes a record that nobody can read.
    fn damage(&self, mut records: Vec<Record>) -> Vec<Record> {
        for record in &mut records {
            if self.fate.strikes(|odds| odds.damaged) {
                self.fate.tally.note("fault: record damaged");
                record.bytes = record.bytes[..record.bytes.len() - 1].into();
            }
        }
        records
    }

    fn kept(&self, partition: Partition) -> Vec<Stored> {
        let mut kept = Vec::new();
        let mut records = self.inner.read(partition, self.oldest(partition));
        while let Some(Some(Ok(batch))) = records.next().now_or_never() {
            kept.extend(batch);
        }
        kept
    }
}

#[async_trait]
impl Log for Journal {
    fn partitions(&self) -> Partitions {
        self.inner.partitions()
    }

    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError> {
        let away = || Error::Unavailable("simulated".to_owned());
        if self.fate.strikes(|odds| odds.refused) {
            self.fate.tally.note("fault: append refused");
            return Err(AppendError::Refused(away()));
        }
        let records = self.damage(records);
        if !self.fate.strikes(|odds| odds.unknown) {
            if planted(Bug::AckBeforeSync) {
                let end = self.inner.bounds(partition).await.map_err(AppendError::Refused)?.end;
                lock(&self.synced).entry(partition).or_insert(end);
            }
            let placed = self.inner.append(partition, records).await;
            self.fate.wait().await;
            return placed;
        }
        match self.fate.below(4) {
            0 => self.fate.tally.note("fault: append unknown, not logged"),
            1 => {
                self.fate.tally.note("fault: append unknown, logged");
                self.inner.append(partition, records).await?;
            }
            2 => {
                self.fate.tally.note("fault: append unknown, logged in part");
                let part = records.into_iter().filter(|_| self.fate.below(2) == 0).collect();
                self.inner.append(partition, part).await?;
            }
            _ => {
                self.fate.tally.note("fault: append unknown, logged later");
                lock(&self.late).push((partition, records));
            }
        }
        self.fate.wait().await;
        Err(AppendError::Unknown(away()))
    }

    fn read(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>> {
        self.inner.read(partition, from)
    }

    async fn seek(&self, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error> {
        self.fate.wait().await;
        let found = self.inner.seek(partition, offsets).await?;
        // Only pages of history look for several.
        if found.len() > 1 && found.iter().map(|stored| stored.record.bytes.len()).sum::<usize>() > PAGE_BYTES_MAX {
            self.fate.tally.note("situation: page of history cut by its bytes");
        }
        Ok(found)
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, Error> {
        self.inner.bounds(partition).await
    }

    async fn trim(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.inner.trim(partition, before).await
    }
}
