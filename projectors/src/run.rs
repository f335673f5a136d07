//! The projector: read, prefetch, fold, commit, publish. The only caller of `Reads::commit`. Nothing here knows a kind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use ringforge_domain::{
    buggify::{Site, buggify},
    event::Event,
    fold::{self, Damaged},
    ids::Scope,
    limits::{
        NEEDS_ROUNDS_MAX, PROJECTOR_COMMIT_BYTES_MAX, PROJECTOR_RETRY_MS_MAX, PROJECTOR_ROWS_BYTES_MAX,
        READ_RECORDS_MAX,
    },
    planted::{Bug, planted},
    position::{Offset, Partition, Position},
    row::{Needs, RowKey, Rows},
    schema::{self, DecodeError},
    verdict::Verdict,
};
use ringforge_ports::{
    Error, Services,
    live::News,
    log::Stored,
    reads::{Applied, Commit, Update},
};
use tracing::{error, info, warn};

/// How often the ends of fleets are told.
const HEADS_EVERY: Duration = Duration::from_secs(1);
/// How long after its last event a fleet's end is told.
const HEADS_FOR: Duration = Duration::from_secs(5);
/// The first wait after a failure; doubled up to a bound.
const RETRY: Duration = Duration::from_millis(50);

/// One partition's projector.
pub struct Projector {
    services: Services,
    partition: Partition,
    applied: Applied,
    /// Rows as they stand at `applied`: what the next batch touches was often touched by the last.
    rows: Rows,
    /// How many records are tried at once: fewer while what they touch has too many bytes.
    reach: usize,
    heads: BTreeMap<Scope, (Offset, Duration)>,
    heads_told: Duration,
}

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// Everything up to here is applied.
    To(Offset),
    /// Somebody else moved the partition, or our own commit had landed after all: go on from here.
    Elsewhere(Offset),
}

/// A record, read.
enum Read {
    Event(Box<Event>),
    Damaged(Damaged),
}

impl Read {
    fn offset(&self) -> Offset {
        match self {
            Self::Event(event) => event.at.position.offset,
            Self::Damaged(record) => record.position.offset,
        }
    }

    /// Whether it may need more later.
    fn needs(&self, needs: &mut Needs<'_>) -> bool {
        match self {
            Self::Event(event) => fold::needs(event, needs),
            Self::Damaged(record) => {
                fold::needs_damaged(record, needs);
                false
            }
        }
    }

    fn fold(&self, rows: &mut Rows) -> Verdict {
        match self {
            Self::Event(event) => fold::fold(rows, event),
            Self::Damaged(record) => fold::damaged(rows, record),
        }
    }
}

impl Projector {
    /// Takes a partition up where it stands.
    ///
    /// # Errors
    /// The read model cannot be read, or it is ahead of the log: it was made from another one.
    pub async fn open(services: Services, partition: Partition) -> Result<Self, Error> {
        let applied = services.reads.load(partition, &BTreeSet::new()).await?.applied;
        let bounds = services.log.bounds(partition).await?;
        if applied.upto > bounds.end {
            return Err(Error::Corrupt(format!(
                "the read model of partition {} stands at {}, beyond the log's end {}: rebuild it",
                partition.0, applied.upto.0, bounds.end.0
            )));
        }
        let rows = Rows::at(applied.time);
        let (reach, heads, heads_told) = (READ_RECORDS_MAX, BTreeMap::new(), Duration::ZERO);
        Ok(Self { services, partition, applied, rows, reach, heads, heads_told })
    }

    /// The next offset to apply.
    pub fn applied(&self) -> Offset {
        self.applied.upto
    }

    /// Applies records that follow each other; those that were applied before are skipped. In several commits if they touch
    /// much or much comes of them.
    ///
    /// # Errors
    /// Only some of it was applied, or (a lost answer) all of it: `open` anew and go on.
    pub async fn step(&mut self, records: Vec<Stored>) -> Result<Stepped, Error> {
        let previous = self.applied.upto;
        let records: Vec<Stored> = records.into_iter().filter(|record| record.offset >= previous).collect();
        let mut read = self.decode(records)?;
        // Taken: unless they are stored, they are forgotten.
        let mut rows = std::mem::replace(&mut self.rows, Rows::at(self.applied.time));
        while !read.is_empty() {
            let (count, open) = self.prefetch(&mut rows, &read).await?;
            let verdicts = self.fold(&mut rows, &read[..count], &open).await?;
            let Some(verdicts) = self.commit(&rows, verdicts).await? else {
                return Ok(Stepped::Elsewhere(self.applied.upto));
            };
            rows.stored();
            self.publish(read.drain(..verdicts.len()).collect(), verdicts).await;
            if rows.weight() > PROJECTOR_ROWS_BYTES_MAX || buggify(Site::RowsForgotten) {
                rows = Rows::at(self.applied.time);
            }
        }
        self.rows = rows;
        Ok(Stepped::To(self.applied.upto))
    }

    /// Loads what the first of these touch: how many they are, and which of them may need more later. Rows may be large, so
    /// they are as many as their rows let be loaded at once; one at least.
    async fn prefetch(&mut self, rows: &mut Rows, read: &[Read]) -> Result<(usize, BTreeSet<Offset>), Error> {
        loop {
            let count = if buggify(Site::SmallBatch) { 1 } else { self.reach.min(read.len()) };
            let bytes_max = if count == 1 { usize::MAX } else { PROJECTOR_ROWS_BYTES_MAX };
            if let Some(open) = self.load(rows, read[..count].iter().collect(), bytes_max).await? {
                self.reach = (self.reach * 2).min(READ_RECORDS_MAX);
                return Ok((count, open.into_iter().map(Read::offset).collect()));
            }
            self.reach = count.div_ceil(2);
            // Nothing has changed since they were stored.
            *rows = Rows::at(self.applied.time);
        }
    }

    /// Stores what came of some events and gives their verdicts back; `None`: the partition stands elsewhere.
    async fn commit(&mut self, rows: &Rows, verdicts: Vec<Verdict>) -> Result<Option<Vec<Verdict>>, Error> {
        let Some(last) = verdicts.last().map(|verdict| verdict.position.offset) else { return Ok(Some(verdicts)) };
        let mut commits = [Commit {
            partition: self.partition,
            previous: self.applied.upto,
            upto: last.next(),
            time: rows.time,
            rows: rows.changed().map(|(key, row)| (key.clone(), row.cloned())).collect(),
            verdicts,
        }];
        if planted(Bug::PositionBeforeRows) {
            let upto = last.next();
            let position = Commit { rows: Vec::new(), verdicts: Vec::new(), ..commits[0].clone() };
            self.services.reads.commit(&[position]).await?;
            commits[0].previous = upto;
        }
        match self.services.reads.commit(&commits).await {
            Ok(()) => {}
            Err(Error::Conflict(_)) => {
                self.applied = self.services.reads.load(self.partition, &BTreeSet::new()).await?.applied;
                self.rows = Rows::at(self.applied.time);
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let [commit] = commits;
        self.applied = Applied { upto: commit.upto, time: commit.time };
        Ok(Some(commit.verdicts))
    }

    /// Tells the ends of fleets that changed lately, once a second: a lost last update shows.
    pub async fn tell_heads(&mut self) {
        let now = self.services.clock.monotonic();
        if now.saturating_sub(self.heads_told) < HEADS_EVERY {
            return;
        }
        self.heads_told = now;
        self.heads.retain(|_, (_, at)| now.saturating_sub(*at) < HEADS_FOR);
        let news: Vec<News> =
            self.heads.iter().map(|(scope, (last, _))| News::Head { scope: *scope, last: *last }).collect();
        if let Err(error) = self.services.live.publish(&news).await {
            warn!(%error, partition = self.partition.0, "heads not published");
        }
    }

    fn decode(&self, records: Vec<Stored>) -> Result<Vec<Read>, Error> {
        let mut read = Vec::with_capacity(records.len());
        for record in records {
            let position = Position { partition: self.partition, offset: record.offset };
            match schema::decode(&record.record.bytes, position, record.time) {
                Ok(event) => read.push(Read::Event(Box::new(event))),
                Err(DecodeError::UnknownSchema(id)) => {
                    return Err(Error::Corrupt(format!(
                        "record {} of partition {} has the unknown schema {id}: a newer build wrote it",
                        record.offset.0, self.partition.0
                    )));
                }
                Err(DecodeError::Corrupt(_)) if planted(Bug::DamagedSkipped) => {}
                Err(DecodeError::Corrupt(what)) => {
                    error!(
                        partition = self.partition.0,
                        offset = record.offset.0,
                        what,
                        "damaged event: it has no effect"
                    );
                    let hash = schema::record_hash(&record.record.bytes);
                    let scope = record.record.scope;
                    read.push(Read::Damaged(Damaged { scope, position, time: record.time, hash }));
                }
            }
        }
        Ok(read)
    }

    /// Loads what the records in `open` touch and `rows` does not know yet, until nothing new is named, and tells which of
    /// them may need more later. `None`: it is more than so many bytes.
    async fn load<'a>(
        &self,
        rows: &mut Rows,
        mut open: Vec<&'a Read>,
        bytes_max: usize,
    ) -> Result<Option<Vec<&'a Read>>, Error> {
        for _ in 0..=NEEDS_ROUNDS_MAX {
            let mut needs = Needs::of(rows);
            open.retain(|read| read.needs(&mut needs));
            let mut missing = needs.unknown();
            if missing.is_empty() {
                return Ok(Some(open));
            }
            while !missing.is_empty() {
                let found = self.services.reads.load(self.partition, &missing).await?;
                let rest: BTreeSet<RowKey> = found.rest.into_iter().collect();
                rows.load(missing.into_iter().filter(|key| !rest.contains(key)), found.rows);
                missing = rest;
                if !missing.is_empty() && rows.weight() > bytes_max {
                    return Ok(None);
                }
            }
        }
        Err(Error::Corrupt(format!("the needs of partition {} have no end: our own bug", self.partition.0)))
    }

    /// Folds the first of these, as many as may be stored at once. What an event touches may depend on one before it in the
    /// same batch (that one gave an agent its name): such an event, in `open`, is asked again before its own fold.
    async fn fold(&self, rows: &mut Rows, read: &[Read], open: &BTreeSet<Offset>) -> Result<Vec<Verdict>, Error> {
        let mut verdicts = Vec::with_capacity(read.len());
        let mut weight = 0;
        for one in read {
            if open.contains(&one.offset()) {
                self.load(rows, vec![one], usize::MAX).await?;
            }
            let verdict = one.fold(rows);
            weight += verdict.weight();
            verdicts.push(verdict);
            if weight + rows.changed_weight() > PROJECTOR_COMMIT_BYTES_MAX {
                break;
            }
        }
        Ok(verdicts)
    }

    /// May be lost: followers fill from log and index.
    async fn publish(&mut self, read: Vec<Read>, verdicts: Vec<Verdict>) {
        let now = self.services.clock.monotonic();
        let mut news = Vec::with_capacity(verdicts.len());
        for (read, verdict) in read.into_iter().zip(verdicts) {
            self.heads.insert(verdict.scope, (verdict.position.offset, now));
            let event = match read {
                Read::Event(event) => Some(*event),
                Read::Damaged(_) => None,
            };
            news.push(News::Update(Arc::new(Update { event, verdict })));
        }
        if let Err(error) = self.services.live.publish(&news).await {
            warn!(%error, partition = self.partition.0, "updates not published");
        }
    }
}

/// Runs a partition's projector until the log is closed. `progress` hears how far it is.
///
/// # Errors
/// The partition cannot go on: a newer build's events, or a read model of another log.
pub async fn run(services: Services, partition: Partition, progress: impl Fn(Offset) + Send) -> Result<(), Error> {
    let mut wait = RETRY;
    loop {
        match follow(&services, partition, &progress, &mut wait).await {
            Ok(()) | Err(Error::Closed) => return Ok(()),
            Err(error @ (Error::Corrupt(_) | Error::Gone { .. })) => return Err(error),
            Err(error) => {
                warn!(%error, partition = partition.0, retry_ms = wait.as_millis(), "projector stopped, will go on");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_millis(PROJECTOR_RETRY_MS_MAX));
            }
        }
    }
}

async fn follow(
    services: &Services,
    partition: Partition,
    progress: &(impl Fn(Offset) + Send),
    wait: &mut Duration,
) -> Result<(), Error> {
    let mut projector = Projector::open(services.clone(), partition).await?;
    progress(projector.applied());
    info!(partition = partition.0, from = projector.applied().0, "projector reads on");
    let mut records = services.log.read(partition, projector.applied());
    let mut tick = tokio::time::interval(HEADS_EVERY);
    loop {
        tokio::select! {
            biased;
            _ = tick.tick() => projector.tell_heads().await,
            batch = records.next() => {
                let Some(batch) = batch.transpose()? else { return Ok(()) };
                debug_assert!(batch.len() <= READ_RECORDS_MAX, "the log's batches are bounded");
                if let Stepped::Elsewhere(from) = projector.step(batch).await? {
                    records = services.log.read(partition, from);
                }
                progress(projector.applied());
                *wait = RETRY;
            }
        }
    }
}

#[cfg(test)]
mod tests;
