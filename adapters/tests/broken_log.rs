//! Logs that are broken on purpose, one way each: the suite must reject every one, by the promise that says so, and accept the
//! intact one. A promise that rejects none of them would prove nothing, so that is tested too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use async_trait::async_trait;
use futures_util::{
    StreamExt, future,
    stream::{self, BoxStream},
};
use ringforge_domain::{
    limits,
    position::{Generation, LogTime, Offset, Partition, Partitions},
};
use ringforge_ports::{
    Error,
    clock::Clock,
    contract::{
        Failure,
        log::{PARTITIONS, PROMISES, Subject},
    },
    log::{AppendError, Bounds, Log, Placed, Record, Stored},
    memory::log::MemoryLog,
};

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Readers do not see every fifth record.
    DropsOne,
    /// Readers see the first two records of a batch in the wrong order.
    Reorders,
    /// Readers see the last record of a batch twice.
    ShowsTwice,
    /// Readers and seeks see a changed byte.
    Scribbles,
    /// The last append is acknowledged and shown, but gone after a restart.
    AcksEarly,
    /// A partition trimmed of everything starts over after a restart.
    ReusesOffsets,
    /// It has another generation after a restart.
    ChangesGeneration,
    /// Log time is the wall clock.
    LetsTimeFall,
    /// The newest time is not kept over a restart.
    ForgetsTime,
    /// Readers begin at the start, whatever they asked for.
    IgnoresFrom,
    /// Readers from beyond the end begin at the end.
    BeginsEarly,
    /// Readers that trimming has overtaken go on at the oldest kept.
    SkipsTrimmed,
    /// Readers end when they have caught up.
    EndsReaders,
    /// Batches have any size.
    GivesLargeBatches,
    /// Appends the records of one append in the wrong order.
    TurnsAppends,
    /// Says one place too high.
    Misplaces,
    /// Does nothing at the first poll of an append.
    TakesLate,
    /// Says every fiftieth time that it refuses, and keeps it all the same.
    RefusesButKeeps,
    /// Takes more than an append may have.
    TakesTooMuch,
    /// Has every partition it is asked for.
    TakesAnyPartition,
    /// `end` is one behind.
    LagsBounds,
    /// Forgets one record more than asked.
    TrimsTooMuch,
    /// Seeks give the nearest record that is kept.
    SeeksNeighbours,
    /// Its last partition is nobody's.
    LeavesOne,
}

/// Every fault and the promises that must notice, among others.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::DropsOne, &["what_is_read_is_what_was_appended", "readers_and_writers_at_once"]),
    (Fault::Reorders, &["what_is_read_is_what_was_appended"]),
    (Fault::ShowsTwice, &["what_is_read_is_what_was_appended", "readers_follow"]),
    (Fault::Scribbles, &["what_is_read_is_what_was_appended"]),
    (Fault::AcksEarly, &["acknowledged_appends_survive", "what_was_read_survives"]),
    (Fault::ReusesOffsets, &["offsets_are_not_reused_after_a_restart"]),
    (Fault::ChangesGeneration, &["acknowledged_appends_survive"]),
    (Fault::LetsTimeFall, &["time_does_not_fall"]),
    (Fault::ForgetsTime, &["time_does_not_fall_across_a_restart"]),
    (Fault::IgnoresFrom, &["reading_starts_where_asked"]),
    (Fault::BeginsEarly, &["readers_beyond_the_end_wait"]),
    (Fault::SkipsTrimmed, &["a_trim_under_a_reader_is_told", "reading_what_is_trimmed_is_gone"]),
    (Fault::EndsReaders, &["readers_follow"]),
    (Fault::GivesLargeBatches, &["batches_are_bounded"]),
    (Fault::TurnsAppends, &["concurrent_appends_keep_their_order"]),
    (Fault::Misplaces, &["places_are_counted_without_holes"]),
    (Fault::TakesLate, &["a_caller_keeps_its_order", "an_abandoned_append_stays"]),
    (Fault::RefusesButKeeps, &["overload_is_honest"]),
    (Fault::TakesTooMuch, &["limits_are_refused"]),
    (Fault::TakesAnyPartition, &["an_unknown_partition_is_refused"]),
    (Fault::LagsBounds, &["bounds_cover_what_was_acknowledged"]),
    (Fault::TrimsTooMuch, &["trims_stay_within_bounds"]),
    (Fault::SeeksNeighbours, &["seeks_find_what_is_kept"]),
    (Fault::LeavesOne, &["everything_is_owned"]),
];

/// A memory log seen through a fault.
struct Broken {
    log: Arc<MemoryLog>,
    fault: Option<Fault>,
    clock: Arc<dyn Clock>,
    appends: AtomicUsize,
    wall: Arc<Mutex<BTreeMap<(Partition, Offset), LogTime>>>,
}

impl Broken {
    fn over(log: Arc<MemoryLog>, fault: Option<Fault>, clock: Arc<dyn Clock>) -> Arc<dyn Log> {
        Arc::new(Self { log, fault, clock, appends: AtomicUsize::new(0), wall: Arc::default() })
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn partition(&self, partition: Partition) -> Partition {
        if self.has(Fault::TakesAnyPartition) { Partition(partition.0 % PARTITIONS) } else { partition }
    }

    async fn append_in_parts(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError> {
        let mut placed = Vec::new();
        for part in records.chunks(limits::APPEND_RECORDS_MAX) {
            placed.extend(self.log.append(partition, part.to_vec()).await?);
        }
        Ok(placed)
    }

    fn begin(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>> {
        let log = Arc::clone(&self.log);
        match self.fault {
            Some(Fault::IgnoresFrom) => log.read(partition, Offset::ZERO),
            Some(Fault::BeginsEarly) => stream::once(async move {
                let end = log.bounds(partition).await.map_or(from, |bounds| bounds.end);
                log.read(partition, from.min(end))
            })
            .flatten()
            .boxed(),
            Some(Fault::SkipsTrimmed) => {
                let again = Arc::clone(&log);
                log.read(partition, from)
                    .flat_map(move |item| match item {
                        Err(Error::Gone { oldest }) => again.read(partition, oldest),
                        other => stream::iter([other]).boxed(),
                    })
                    .boxed()
            }
            _ => log.read(partition, from),
        }
    }
}

/// What `fault` makes of a batch.
fn spoil(fault: Option<Fault>, batch: &mut Vec<Stored>) {
    match fault {
        Some(Fault::DropsOne) => batch.retain(|stored| stored.offset.0 % 5 != 3),
        Some(Fault::Reorders) if batch.len() > 1 => batch.swap(0, 1),
        Some(Fault::ShowsTwice) => batch.extend(batch.last().cloned()),
        Some(Fault::Scribbles) => {
            for stored in batch {
                stored.record.bytes = stored.record.bytes.iter().map(|byte| byte ^ 1).collect();
            }
        }
        _ => {}
    }
}

#[async_trait]
impl Log for Broken {
    fn partitions(&self) -> Partitions {
        self.log.partitions()
    }

    fn owned(&self) -> BoxStream<'static, BTreeSet<Partition>> {
        let leaves = self.has(Fault::LeavesOne);
        let left = move |mut owned: BTreeSet<Partition>| {
            if leaves {
                owned.pop_last();
            }
            owned
        };
        self.log.owned().map(left).boxed()
    }

    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError> {
        let (partition, count) = (self.partition(partition), self.appends.fetch_add(1, Ordering::Relaxed));
        let mut placed = match self.fault {
            Some(Fault::TurnsAppends) => {
                let mut placed = self.log.append(partition, records.into_iter().rev().collect()).await?;
                placed.reverse();
                placed
            }
            Some(Fault::TakesTooMuch) if records.len() > limits::APPEND_RECORDS_MAX => {
                self.append_in_parts(partition, records).await?
            }
            Some(Fault::TakesLate) => {
                tokio::task::yield_now().await;
                self.log.append(partition, records).await?
            }
            _ => self.log.append(partition, records).await?,
        };
        match self.fault {
            Some(Fault::RefusesButKeeps) if count % 50 == 49 => {
                return Err(AppendError::Refused(Error::Unavailable("log queue full".into())));
            }
            Some(Fault::Misplaces) => placed.iter_mut().for_each(|place| place.offset = place.offset.next()),
            Some(Fault::LetsTimeFall) => {
                for place in &mut placed {
                    place.time = self.clock.wall();
                    self.wall.lock().expect("no panic").insert((partition, place.offset), place.time);
                }
            }
            _ => {}
        }
        Ok(placed)
    }

    fn read(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>> {
        let (partition, fault, wall) = (self.partition(partition), self.fault, Arc::clone(&self.wall));
        let reader = self.begin(partition, from).map(move |item| {
            let mut batch = item?;
            spoil(fault, &mut batch);
            for stored in &mut batch {
                if let Some(time) = wall.lock().expect("no panic").get(&(partition, stored.offset)) {
                    stored.time = *time;
                }
            }
            Ok(batch)
        });
        match fault {
            Some(Fault::EndsReaders) => stream::poll_immediate(reader)
                .take_while(|polled| future::ready(polled.is_ready()))
                .filter_map(|polled| {
                    future::ready(match polled {
                        Poll::Ready(item) => Some(item),
                        Poll::Pending => None,
                    })
                })
                .boxed(),
            Some(Fault::GivesLargeBatches) => reader
                .ready_chunks(8)
                .map(|batches| batches.into_iter().collect::<Result<Vec<_>, _>>().map(|all| all.concat()))
                .boxed(),
            _ => reader.boxed(),
        }
    }

    async fn seek(&self, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error> {
        let partition = self.partition(partition);
        let mut offsets = offsets.to_vec();
        if self.has(Fault::SeeksNeighbours) {
            let Bounds { oldest, end, .. } = self.log.bounds(partition).await?;
            for offset in &mut offsets {
                offset.0 = offset.0.min(end.0.saturating_sub(1)).max(oldest.0);
            }
        }
        let mut found = self.log.seek(partition, &offsets).await?;
        if self.has(Fault::Scribbles) {
            spoil(self.fault, &mut found);
        }
        Ok(found)
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, Error> {
        let mut bounds = self.log.bounds(self.partition(partition)).await?;
        if self.has(Fault::LagsBounds) && bounds.end > bounds.oldest {
            bounds.end.0 -= 1;
        }
        Ok(bounds)
    }

    async fn trim(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        let before = if self.has(Fault::TrimsTooMuch) { before.next() } else { before };
        self.log.trim(self.partition(partition), before).await
    }
}

/// A memory log stands for the disk: it lives on through `reopen`, as whole as the fault lets it.
struct Disk {
    fault: Option<Fault>,
    log: Mutex<Option<Arc<MemoryLog>>>,
}

impl Disk {
    /// What a restart with this fault finds of `log`.
    async fn after_restart(&self, log: Arc<MemoryLog>, clock: Arc<dyn Clock>) -> Result<Arc<MemoryLog>, AppendError> {
        let faulty = [Fault::AcksEarly, Fault::ReusesOffsets, Fault::ForgetsTime, Fault::ChangesGeneration];
        if !self.fault.is_some_and(|fault| faulty.contains(&fault)) {
            return Ok(log);
        }
        let generation = Generation(if self.fault == Some(Fault::ChangesGeneration) { 8 } else { 7 });
        let copy = MemoryLog::new(clock, PARTITIONS, generation);
        for partition in (0..PARTITIONS).map(Partition) {
            let bounds = log.bounds(partition).await.map_err(AppendError::Unknown)?;
            let offsets: Vec<_> = (bounds.oldest.0..bounds.end.0).map(Offset).collect();
            let mut kept = log.seek(partition, &offsets).await.map_err(AppendError::Unknown)?;
            if self.fault == Some(Fault::AcksEarly) {
                kept.pop();
            }
            if self.fault != Some(Fault::ReusesOffsets) || !kept.is_empty() {
                let filler = Record { scope: ringforge_domain::ids::Scope::OPERATOR, bytes: Arc::from([]) };
                for _ in 0..bounds.oldest.0 {
                    copy.append(partition, vec![filler.clone()]).await?;
                }
                copy.trim(partition, bounds.oldest).await.map_err(AppendError::Unknown)?;
            }
            copy.append(partition, kept.into_iter().map(|stored| stored.record).collect()).await?;
        }
        Ok(copy)
    }
}

#[async_trait]
impl Subject for Disk {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Log> {
        let log = MemoryLog::new(Arc::clone(&clock), PARTITIONS, Generation(7));
        *self.log.lock().expect("no panic") = Some(Arc::clone(&log));
        Broken::over(log, self.fault, clock)
    }

    async fn reopen(&self, clock: Arc<dyn Clock>) -> Option<Arc<dyn Log>> {
        let log = self.log.lock().expect("no panic").clone()?;
        let log = self.after_restart(log, Arc::clone(&clock)).await.expect("the copy is small");
        Some(Broken::over(log, self.fault, clock))
    }
}

/// The promises that a log with this fault does not keep.
async fn rejections(fault: Option<Fault>) -> BTreeSet<&'static str> {
    let mut rejected = BTreeSet::new();
    for (name, promise) in PROMISES {
        match promise(&Disk { fault, log: Mutex::default() }).await {
            Ok(()) => {}
            Err(Failure::Broken(_)) => drop(rejected.insert(name)),
            Err(Failure::Skipped(why)) => panic!("{name} was not tried: {why}"),
        }
    }
    rejected
}

// The clock is paused: what never comes is given up at once.
#[tokio::test(start_paused = true)]
async fn the_intact_log_is_accepted() {
    assert_eq!(rejections(None).await, BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn every_broken_log_is_rejected_by_name() {
    let mut useful: BTreeSet<&str> = BTreeSet::new();
    for (fault, expected) in FAULTS {
        let rejected = rejections(Some(*fault)).await;
        for name in *expected {
            assert!(rejected.contains(name), "{fault:?} is not noticed by {name}, only by {rejected:?}");
        }
        useful.extend(*expected);
    }
    let useless: Vec<_> = PROMISES.iter().map(|(name, _)| *name).filter(|name| !useful.contains(name)).collect();
    assert_eq!(useless, [""; 0], "promises that reject nothing");
}
