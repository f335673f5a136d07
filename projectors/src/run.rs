//! The projector: read, prefetch, fold, commit, publish. The only caller of `Reads::commit`. Nothing here knows a kind.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use ringforge_domain::{
    buggify::{Site, buggify},
    event::Event,
    fleet::Head,
    fold::{self, Damaged},
    ids::Scope,
    limits::{
        NEEDS_ROUNDS_MAX, PROJECTOR_COMMIT_BYTES_MAX, PROJECTOR_RETRY_MS_MAX, PROJECTOR_ROWS_BYTES_MAX,
        READ_RECORDS_MAX,
    },
    planted::{Bug, planted},
    position::{Offset, Partition, Position},
    row::{Needs, RowKey, Rows, State as _},
    schema::{self, DecodeError},
    verdict::Verdict,
};
use ringforge_ports::{
    Error, Services,
    live::News,
    log::{Letter, Stored},
    reads::{Applied, Commit, Update},
};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// How often the ends of fleets are told.
const HEADS_EVERY: Duration = Duration::from_secs(1);
/// How long after its last event a fleet's end is told.
const HEADS_FOR: Duration = Duration::from_secs(5);
/// Events of which is told on a task of its own, beside what comes next: of fewer it is told sooner here.
const TOLD_BESIDE: usize = 64;
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
    /// Whether much may be told of beside what comes next. Otherwise a step ends when all is told.
    tells_beside: bool,
    /// Where records begin that are buried if they cannot be read; `None`: none is.
    buries: Option<Offset>,
    /// Tells of what came before.
    telling: Option<JoinHandle<()>>,
}

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// Everything up to here is applied.
    To(Offset),
    /// Somebody else moved the partition, or our own commit had landed after all: go on from here.
    Elsewhere(Offset),
}

/// A record, read: the event with the bytes it was made of.
enum Read {
    Event(Box<Event>, Arc<[u8]>),
    Damaged(Damaged, Letter),
}

impl Read {
    fn offset(&self) -> Offset {
        match self {
            Self::Event(event, _) => event.at.position.offset,
            Self::Damaged(record, _) => record.position.offset,
        }
    }

    /// Whether it may need more later.
    fn needs(&self, needs: &mut Needs<'_>) -> bool {
        match self {
            Self::Event(event, _) => fold::needs(event, needs),
            Self::Damaged(record, _) => {
                fold::needs_damaged(record, needs);
                false
            }
        }
    }

    /// What the fold leaves behind of it: whose it is and its hash.
    fn trace(&self) -> (Scope, u32) {
        match self {
            Self::Event(event, _) => (event.at.scope(), event.at.hash),
            Self::Damaged(record, _) => (record.scope, record.hash),
        }
    }

    fn letter(&self) -> Option<&Letter> {
        match self {
            Self::Event(..) => None,
            Self::Damaged(_, letter) => Some(letter),
        }
    }

    fn fold(&self, rows: &mut Rows) -> Verdict {
        match self {
            Self::Event(event, _) => fold::fold(rows, event),
            Self::Damaged(record, _) => fold::damaged(rows, record),
        }
    }
}

impl Projector {
    /// Takes a partition up where it stands.
    ///
    /// # Errors
    /// The read model cannot be read, or was made from another log: it is ahead of this one, or what it applied last is not
    /// what stands there.
    pub async fn open(services: Services, partition: Partition) -> Result<Self, Error> {
        let applied = stands(&services, partition).await?;
        let rows = Rows::at(applied.time);
        let (reach, heads, heads_told) = (READ_RECORDS_MAX, BTreeMap::new(), Duration::ZERO);
        let (tells_beside, buries, telling) = (false, None, None);
        Ok(Self { services, partition, applied, rows, reach, heads, heads_told, tells_beside, buries, telling })
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
        let (mut read, unreadable) = decode(self.partition, records);
        self.bury(&read).await;
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
        // What precedes it is applied.
        unreadable.map_or(Ok(Stepped::To(self.applied.upto)), Err)
    }

    /// Buries what cannot be read and was not buried before, before it counts as applied: then nobody would look at it again. What
    /// cannot be copied is in the log all the same, and holds up nobody.
    async fn bury(&mut self, read: &[Read]) {
        let Some(from) = self.buries else { return };
        let letters = read.iter().filter_map(Read::letter).filter(|letter| letter.stored.offset >= from);
        let letters: Vec<Letter> = letters.cloned().collect();
        let Some(last) = letters.last() else { return };
        self.buries = Some(last.stored.offset.next());
        if let Err(error) = self.services.log.bury(&letters).await {
            error!(%error, partition = self.partition.0, count = letters.len(), "records that cannot be read are not copied");
        }
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
                self.applied = stands(&self.services, self.partition).await?;
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
        self.tell(news).await;
    }

    /// Waits until all is told.
    async fn told(&mut self) {
        if let Some(telling) = self.telling.take() {
            // One that panicked told some of it.
            let _ = telling.await;
        }
    }

    /// Tells it, after all that was told before.
    async fn tell(&mut self, news: Vec<News>) {
        self.told().await;
        let (live, partition, count) = (Arc::clone(&self.services.live), self.partition.0, news.len());
        let telling = async move {
            if let Err(error) = live.publish(&news).await {
                warn!(%error, partition, count, "updates and heads not published");
            }
        };
        if self.tells_beside && count >= TOLD_BESIDE {
            self.telling = Some(tokio::spawn(telling));
        } else {
            telling.await;
        }
    }

    /// Whether the store has what it took: one that crashed may have lost its last commits, and where nothing more comes no commit
    /// would show it.
    async fn still_stands(&self) -> Result<(), Error> {
        let stands = self.services.reads.load(self.partition, &BTreeSet::new()).await?.applied.upto;
        if stands < self.applied.upto {
            let (stands, took) = (stands.0, self.applied.upto.0);
            return Err(Error::Unavailable(format!(
                "the read models stand at {stands}, and had taken all up to {took}"
            )));
        }
        Ok(())
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
            let (event, record) = match read {
                Read::Event(event, record) => (Some(*event), Some(record)),
                Read::Damaged(..) => (None, None),
            };
            news.push(News::Update { update: Arc::new(Update { event, verdict }), record });
        }
        self.tell(news).await;
    }
}

/// How far a partition is applied, if that was this log: after its end was cut, offsets are used again. The last event that was
/// applied is its fleet's last, and its hash stands in the fleet's head. What is trimmed is not compared.
async fn stands(services: &Services, partition: Partition) -> Result<Applied, Error> {
    loop {
        let applied = services.reads.load(partition, &BTreeSet::new()).await?.applied;
        let end = services.log.bounds(partition).await?.end;
        let (number, upto) = (partition.0, applied.upto.0);
        if applied.upto > end {
            return Err(Error::Corrupt(format!(
                "the read model of partition {number} stands at {upto}, beyond the log's end {}: rebuild it",
                end.0
            )));
        }
        let Some(last) = upto.checked_sub(1).map(Offset) else { return Ok(applied) };
        let (read, unreadable) = decode(partition, services.log.seek(partition, &[last]).await?);
        if let Some(error) = unreadable {
            return Err(error);
        }
        let Some((scope, hash)) = read.first().map(Read::trace) else { return Ok(applied) };
        let found = services.reads.load(partition, &BTreeSet::from([RowKey::head(scope)])).await?;
        if found.applied != applied {
            // Somebody else went on in between.
            continue;
        }
        if found.rows.iter().filter_map(Head::of).any(|head| (head.last, head.hash) == (last, hash)) {
            return Ok(applied);
        }
        return Err(Error::Corrupt(format!(
            "record {} of partition {number} is not the one that was applied: the log was cut and written anew; rebuild the \
             read model, or restore the log",
            last.0
        )));
    }
}

/// Reads records, up to the first that this build cannot know: with why that is.
fn decode(partition: Partition, records: Vec<Stored>) -> (Vec<Read>, Option<Error>) {
    let mut read = Vec::with_capacity(records.len());
    for record in records {
        let position = Position { partition, offset: record.offset };
        match schema::decode(&record.record.bytes, position, record.time) {
            Ok(event) => read.push(Read::Event(Box::new(event), record.record.bytes)),
            Err(DecodeError::UnknownSchema(id)) => {
                let what = format!(
                    "record {} of partition {} has the unknown schema {id}: a newer build wrote it",
                    record.offset.0, partition.0
                );
                return (read, Some(Error::Corrupt(what)));
            }
            Err(DecodeError::Corrupt(_)) if planted(Bug::DamagedSkipped) => {}
            Err(error @ DecodeError::Corrupt(_)) => {
                let reason = error.to_string();
                error!(partition = partition.0, offset = record.offset.0, reason, "damaged event: it has no effect");
                let hash = schema::record_hash(&record.record.bytes);
                let damaged = Damaged { scope: record.record.scope, position, time: record.time, hash };
                read.push(Read::Damaged(damaged, Letter { partition, stored: record, reason }));
            }
        }
    }
    (read, None)
}

/// Runs a partition's projector until the log is closed. `progress` hears how far it is.
///
/// # Errors
/// The partition cannot go on: a newer build's events, or a read model of another log.
pub async fn run(services: Services, partition: Partition, progress: impl Fn(Offset) + Send) -> Result<(), Error> {
    let (mut wait, mut buried) = (RETRY, Offset::ZERO);
    loop {
        let mut projector = Projector::open(services.clone(), partition).await;
        let followed = match &mut projector {
            Ok(projector) => {
                (projector.tells_beside, projector.buries) = (true, Some(buried));
                let followed = follow(projector, &progress, &mut wait).await;
                buried = projector.buries.unwrap_or(buried);
                projector.told().await;
                followed
            }
            Err(error) => Err(error.clone()),
        };
        match followed {
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
    projector: &mut Projector,
    progress: &(impl Fn(Offset) + Send),
    wait: &mut Duration,
) -> Result<(), Error> {
    let (services, partition) = (projector.services.clone(), projector.partition);
    progress(projector.applied());
    info!(partition = partition.0, from = projector.applied().0, "projector reads on");
    let mut records = services.log.read(partition, projector.applied()).fuse();
    let mut ahead = None;
    let mut tick = tokio::time::interval(HEADS_EVERY);
    loop {
        let batch = tokio::select! {
            biased;
            _ = tick.tick() => {
                projector.tell_heads().await;
                projector.still_stands().await?;
                continue;
            }
            batch = next(&mut records, &mut ahead) => batch,
        };
        let Some(batch) = batch.transpose()? else { return Ok(()) };
        debug_assert!(batch.len() <= READ_RECORDS_MAX, "the log's batches are bounded");
        // A full one has others behind it, which are read meanwhile. Otherwise more of them come at once a little later.
        let reads_ahead = batch.len() == READ_RECORDS_MAX;
        let stepped = {
            let mut step = pin!(projector.step(batch));
            loop {
                tokio::select! {
                    biased;
                    stepped = &mut step => break stepped,
                    Some(batch) = records.next(), if reads_ahead && ahead.is_none() => ahead = Some(batch),
                }
            }
        };
        progress(projector.applied());
        if let Stepped::Elsewhere(from) = stepped? {
            (records, ahead) = (services.log.read(partition, from).fuse(), None);
        }
        *wait = RETRY;
    }
}

/// What was read ahead, or else what comes.
async fn next<T>(records: &mut (impl Stream<Item = T> + Unpin), ahead: &mut Option<T>) -> Option<T> {
    match ahead.take() {
        Some(batch) => Some(batch),
        None => records.next().await,
    }
}

#[cfg(test)]
mod tests;
