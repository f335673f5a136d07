//! The newest records of each partition in memory, and the readers that follow them. Where a reader finds what is not in
//! memory is for the adapter to say.
//!
//! ```text
//!   oldest ......... start ............ end
//!   | kept           | in memory        | what comes is put here while the partition is followed
//! ```

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use ringforge_domain::{
    limits,
    position::{Offset, Partition, Partitions},
};
use ringforge_ports::{
    Error,
    log::{Stored, batch},
};
use tokio::sync::watch;

/// What a reader finds.
pub(super) enum Look {
    /// What it wants is trimmed.
    Gone { oldest: Offset },
    /// It has caught up.
    Nothing,
    /// Batches in memory; the first holds the record it wants.
    Memory(Vec<Arc<[Stored]>>),
    /// It is not in memory.
    Behind,
}

/// A log whose tails can be read.
#[async_trait]
pub(super) trait Tailed: Send + Sync + 'static {
    fn tails(&self) -> &Tails;

    /// Some records from `from` on, which are not in memory. None: look again. `last`: what was read before it.
    async fn behind(&self, partition: Partition, from: Offset, last: Option<&Stored>) -> Result<Vec<Stored>, Error>;
}

/// The tails of all partitions.
pub(super) struct Tails {
    which: Partitions,
    /// Of each, in their order.
    partitions: Vec<(Mutex<Tail>, watch::Sender<()>)>,
    bytes_max: usize,
    ended: Mutex<Option<Error>>,
    /// How often all readers were interrupted, and why the last time.
    interrupted: Mutex<(u64, Option<Error>)>,
}

#[derive(Default)]
struct Tail {
    oldest: Offset,
    end: Offset,
    /// The newest records without a hole up to `end`.
    batches: VecDeque<Arc<[Stored]>>,
    records: usize,
    bytes: usize,
    followed: bool,
    /// How often it began to be followed.
    #[cfg(feature = "cluster")]
    begun: u64,
}

/// A partition that is followed.
#[cfg(feature = "cluster")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Followed {
    pub(super) partition: Partition,
    /// Which time: what was followed before may have come from elsewhere.
    pub(super) begun: u64,
    /// Where it goes on.
    pub(super) end: Offset,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while the lock is held")
}

impl Tails {
    /// Empty ones, of partitions that stand at these bounds and are followed for ever.
    pub(super) fn new(bounds: impl IntoIterator<Item = (Offset, Offset)>) -> Self {
        let tail = |(oldest, end)| Tail { oldest, end, followed: true, ..Tail::default() };
        let tails: Vec<Tail> = bounds.into_iter().map(tail).collect();
        let count = u16::try_from(tails.len()).expect("a log has at most as many as a u16 counts");
        Self::of(Partitions::shared(count), tails)
    }

    fn of(which: Partitions, tails: Vec<Tail>) -> Self {
        let partitions: Vec<_> = tails.into_iter().map(|tail| (Mutex::new(tail), watch::Sender::new(()))).collect();
        let bytes_max = limits::LOG_TAIL_BYTES_MAX.min(limits::LOG_TAILS_BYTES_MAX / partitions.len().max(1));
        Self { which, partitions, bytes_max, ended: Mutex::default(), interrupted: Mutex::default() }
    }

    pub(super) fn partitions(&self) -> Partitions {
        self.which
    }

    fn tail(&self, partition: Partition) -> &(Mutex<Tail>, watch::Sender<()>) {
        &self.partitions[self.which.index(partition).expect("whoever asks has looked whether it is there")]
    }

    fn wake_all(&self) {
        for (_, changed) in &self.partitions {
            changed.send_replace(());
        }
    }

    /// Ends every reader that has caught up, with `error` unless there was another.
    pub(super) fn end(&self, error: Error) {
        lock(&self.ended).get_or_insert(error);
        self.wake_all();
    }

    /// Why there will be nothing more to read.
    pub(super) fn ended(&self) -> Option<Error> {
        lock(&self.ended).clone()
    }

    /// `oldest` and `end`.
    pub(super) fn bounds(&self, partition: Partition) -> (Offset, Offset) {
        let tail = lock(&self.tail(partition).0);
        (tail.oldest, tail.end)
    }

    /// Shows durable records, which continue `end`, to everyone.
    pub(super) fn publish(&self, partition: Partition, batch: Arc<[Stored]>) {
        let (tail, changed) = self.tail(partition);
        lock(tail).push(batch, self.bytes_max);
        changed.send_replace(());
    }

    /// Forgets what is before `oldest`.
    pub(super) fn forget(&self, partition: Partition, oldest: Offset) {
        let (tail, changed) = self.tail(partition);
        {
            let mut tail = lock(tail);
            if oldest <= tail.oldest {
                return;
            }
            tail.oldest = oldest;
        }
        changed.send_replace(());
    }

    pub(super) fn look(&self, partition: Partition, next: Offset) -> Look {
        let tail = lock(&self.tail(partition).0);
        if next < tail.oldest {
            return Look::Gone { oldest: tail.oldest };
        }
        if !tail.followed || next < tail.start() {
            return Look::Behind;
        }
        if next >= tail.end {
            return Look::Nothing;
        }
        let first = tail.batches.partition_point(|batch| batch[0].offset <= next) - 1;
        let (mut found, mut records) = (Vec::new(), 0);
        for batch in tail.batches.range(first..) {
            records += batch.len();
            found.push(Arc::clone(batch));
            // Enough, even if the first batch is all but used up.
            if records > limits::READ_RECORDS_MAX + limits::GROUP_RECORDS_MAX {
                break;
            }
        }
        Look::Memory(found)
    }
}

impl Tail {
    /// The first offset in memory.
    fn start(&self) -> Offset {
        self.batches.front().map_or(self.end, |batch| batch[0].offset)
    }

    fn push(&mut self, batch: Arc<[Stored]>, bytes_max: usize) {
        assert_eq!(batch[0].offset, self.end, "a tail has no holes");
        self.end = Offset(self.end.0 + batch.len() as u64);
        self.records += batch.len();
        self.bytes += weight(&batch);
        self.batches.push_back(batch);
        while self.batches.len() > 1 && (self.records > limits::LOG_TAIL_RECORDS_MAX || self.bytes > bytes_max) {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.records -= oldest.len();
            self.bytes -= weight(&oldest);
        }
    }
}

/// What is followed only while somebody reads it.
#[cfg(feature = "cluster")]
impl Tails {
    /// Empty ones of partitions that nobody follows yet.
    pub(super) fn idle(which: Partitions) -> Self {
        Self::of(which, which.iter().map(|_| Tail::default()).collect())
    }

    /// Takes what comes from `from` on, unless it is followed already.
    pub(super) fn follow(&self, partition: Partition, from: Offset) {
        let mut tail = lock(&self.tail(partition).0);
        if !tail.followed {
            let (oldest, begun) = (tail.oldest, tail.begun + 1);
            *tail = Tail { oldest, end: from, followed: true, begun, ..Tail::default() };
        }
    }

    /// Forgets what was followed, if it still is what was seen: whoever waits looks again.
    pub(super) fn unfollow(&self, seen: Followed) {
        let (tail, changed) = self.tail(seen.partition);
        {
            let mut tail = lock(tail);
            if !tail.followed || tail.begun != seen.begun {
                return;
            }
            tail.leave();
        }
        changed.send_replace(());
    }

    /// The same, if nobody reads it.
    pub(super) fn unfollow_idle(&self, seen: Followed) -> bool {
        let (tail, changed) = self.tail(seen.partition);
        let mut tail = lock(tail);
        // A reader is counted before it looks, and looks under the lock.
        let idle = changed.receiver_count() == 0;
        if idle {
            tail.leave();
        }
        idle
    }

    /// What is followed.
    pub(super) fn followed(&self) -> Vec<Followed> {
        let followed = |(partition, (tail, _)): (Partition, &(Mutex<Tail>, _))| {
            let tail = lock(tail);
            tail.followed.then_some(Followed { partition, begun: tail.begun, end: tail.end })
        };
        self.which.iter().zip(&self.partitions).filter_map(followed).collect()
    }

    /// Shows records that came; what is known already is left out. `false`: there is a hole before or between them, so the
    /// partition is not followed any more, and whoever waits finds out why.
    pub(super) fn offer(&self, partition: Partition, mut batch: Vec<Stored>) -> bool {
        let (tail, changed) = self.tail(partition);
        let straight = {
            let mut tail = lock(tail);
            batch.retain(|stored| stored.offset >= tail.end);
            if batch.is_empty() || !tail.followed {
                return true;
            }
            let straight = (tail.end.0..).zip(&batch).all(|(offset, stored)| stored.offset.0 == offset);
            if straight {
                tail.push(batch.into(), self.bytes_max);
            } else {
                tail.leave();
            }
            straight
        };
        changed.send_replace(());
        straight
    }

    /// The first offset kept, as far as it is known.
    pub(super) fn oldest(&self, partition: Partition) -> Offset {
        lock(&self.tail(partition).0).oldest
    }

    /// The record at `offset`, if it is in memory.
    pub(super) fn at(&self, partition: Partition, offset: Offset) -> Option<Stored> {
        let tail = lock(&self.tail(partition).0);
        let after = tail.batches.partition_point(|batch| batch[0].offset <= offset);
        let batch = tail.batches.get(after.checked_sub(1)?)?;
        batch.get(usize::try_from(offset.0 - batch[0].offset.0).ok()?).cloned()
    }

    /// Ends every reader that there is; those that begin later are not concerned.
    pub(super) fn interrupt(&self, error: Error) {
        for seen in self.followed() {
            self.unfollow(seen);
        }
        {
            let mut interrupted = lock(&self.interrupted);
            *interrupted = (interrupted.0 + 1, Some(error));
        }
        self.wake_all();
    }
}

#[cfg(feature = "cluster")]
impl Tail {
    fn leave(&mut self) {
        *self = Self { oldest: self.oldest, end: self.end, begun: self.begun, ..Self::default() };
    }
}

fn weight(batch: &[Stored]) -> usize {
    batch.iter().map(|stored| size_of::<Stored>() + stored.record.bytes.len()).sum()
}

/// Everything from `from` on: `Log::read` of a partition that there is.
pub(super) fn read(
    log: Arc<impl Tailed>,
    partition: Partition,
    from: Offset,
) -> BoxStream<'static, Result<Vec<Stored>, Error>> {
    let changed = log.tails().tail(partition).1.subscribe();
    let round = lock(&log.tails().interrupted).0;
    let reader = Reader { log, changed, round, partition, next: from, last: None };
    stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(batch) => Some((Ok(batch), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// A reader of one partition and where it stands.
struct Reader<L> {
    log: Arc<L>,
    changed: watch::Receiver<()>,
    /// How often readers had been interrupted when it began.
    round: u64,
    partition: Partition,
    next: Offset,
    /// What it read last.
    last: Option<Stored>,
}

impl<L: Tailed> Reader<L> {
    /// The next batch; waits for it. After an error there is nothing more.
    async fn next(&mut self) -> Result<Vec<Stored>, Error> {
        let tails = self.log.tails();
        let batch = loop {
            // Seen before looking: what comes between looking and waiting ends the wait.
            self.changed.borrow_and_update();
            let ended = tails.ended();
            if let (round, Some(error)) = &*lock(&tails.interrupted)
                && *round != self.round
            {
                return Err(error.clone());
            }
            match tails.look(self.partition, self.next) {
                Look::Gone { oldest } => return Err(Error::Gone { oldest }),
                Look::Memory(batches) => {
                    let rest = batches.iter().flat_map(|batch| batch.iter()).skip_while(|it| it.offset < self.next);
                    break batch(rest);
                }
                Look::Behind => match self.log.behind(self.partition, self.next, self.last.as_ref()).await? {
                    none if none.is_empty() => {}
                    batch => break batch,
                },
                Look::Nothing => match ended {
                    Some(error) => return Err(error),
                    None => drop(self.changed.changed().await),
                },
            }
        };
        self.next = Offset(self.next.0 + batch.len() as u64);
        self.last = batch.last().cloned();
        Ok(batch)
    }
}

#[cfg(all(test, feature = "cluster"))]
mod tests {
    use ringforge_domain::{ids::Scope, position::LogTime};
    use ringforge_ports::log::Record;

    use super::*;

    const ONE: Partition = Partition(1);

    fn stored(offsets: impl IntoIterator<Item = u64>) -> Vec<Stored> {
        let record = Record { scope: Scope::OPERATOR, bytes: Arc::from([]) };
        let stored = |offset| Stored { offset: Offset(offset), time: LogTime(0), record: record.clone() };
        offsets.into_iter().map(stored).collect()
    }

    fn followed(tails: &Tails) -> Vec<(u64, u64)> {
        tails.followed().into_iter().map(|seen| (seen.begun, seen.end.0)).collect()
    }

    #[test]
    fn a_tail_takes_what_continues_it() {
        let tails = Tails::idle(Partitions::shared(2));
        assert!(tails.offer(ONE, stored([5])), "nobody follows");
        assert!(matches!(tails.look(ONE, Offset(5)), Look::Behind));
        tails.follow(ONE, Offset(5));
        tails.follow(ONE, Offset(7));
        assert!(tails.offer(ONE, stored(3..8)), "what is known is left out");
        assert_eq!(followed(&tails), [(1, 8)]);
        assert_eq!(tails.at(ONE, Offset(6)), stored([6]).pop());
        assert_eq!((tails.at(ONE, Offset(4)), tails.at(ONE, Offset(8))), (None, None));
        assert!(matches!(tails.look(ONE, Offset(4)), Look::Behind));
        assert!(matches!(tails.look(ONE, Offset(6)), Look::Memory(_)));
        assert!(matches!(tails.look(ONE, Offset(9)), Look::Nothing));
    }

    #[test]
    fn a_tail_with_a_hole_is_left() {
        for hole in [vec![6], vec![5, 7]] {
            let tails = Tails::idle(Partitions::shared(2));
            tails.follow(ONE, Offset(5));
            assert!(!tails.offer(ONE, stored(hole)));
            assert_eq!(followed(&tails), []);
            tails.follow(ONE, Offset(6));
            assert_eq!(followed(&tails), [(2, 6)]);
        }
    }

    #[test]
    fn only_what_was_seen_is_left() {
        let tails = Tails::idle(Partitions::shared(2));
        tails.follow(ONE, Offset(5));
        let seen = tails.followed()[0];
        tails.unfollow(seen);
        tails.follow(ONE, Offset(5));
        tails.unfollow(seen);
        assert_eq!(followed(&tails), [(2, 5)]);
        let reader = tails.tail(ONE).1.subscribe();
        assert!(!tails.unfollow_idle(tails.followed()[0]), "somebody reads");
        drop(reader);
        assert!(tails.unfollow_idle(tails.followed()[0]));
    }
}
