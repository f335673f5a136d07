//! The log in memory. An append is done at its first poll and a reader is ready whenever there is something to read: no
//! task, no thread, no timer, so a simulation decides every step.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use ringforge_domain::position::{Generation, LogTime, Offset, Partition, Partitions};

use crate::{
    Error,
    clock::Clock,
    log::{AppendError, Bounds, Log, Placed, Record, Stored, batch, check_append, check_partition, check_seek},
};

/// A log that dies with its process. Unbounded: it keeps what is not trimmed.
pub struct MemoryLog {
    clock: Arc<dyn Clock>,
    generation: Generation,
    partitions: Vec<Arc<Mutex<State>>>,
}

/// One partition.
#[derive(Default)]
struct State {
    oldest: u64,
    records: VecDeque<Stored>,
    newest: LogTime,
    /// Readers that have caught up, by the number they were given.
    waiting: BTreeMap<u64, Waker>,
    readers: u64,
}

impl MemoryLog {
    /// An empty log of `partitions`.
    pub fn new(clock: Arc<dyn Clock>, partitions: u16, generation: Generation) -> Arc<Self> {
        let partitions = (0..partitions).map(|_| Arc::default()).collect();
        Arc::new(Self { clock, generation, partitions })
    }

    /// Everything from `end` on is gone, as after a power cut that a log must not survive so: offsets are used again.
    pub fn cut(&self, partition: Partition, end: Offset) {
        if let Ok(state) = self.partition(partition) {
            let mut state = lock(state);
            let kept = usize::try_from(end.0.saturating_sub(state.oldest)).unwrap_or(usize::MAX);
            state.records.truncate(kept);
        }
    }

    fn partition(&self, partition: Partition) -> Result<&Arc<Mutex<State>>, Error> {
        Ok(&self.partitions[check_partition(partition, Log::partitions(self))?])
    }
}

impl State {
    fn end(&self) -> u64 {
        self.oldest + self.records.len() as u64
    }

    fn push(&mut self, wall: LogTime, records: Vec<Record>) -> Vec<Placed> {
        self.newest = self.newest.max(wall);
        let mut places = Vec::with_capacity(records.len());
        for record in records {
            let place = Placed { offset: Offset(self.end()), time: self.newest };
            self.records.push_back(Stored { offset: place.offset, time: place.time, record });
            places.push(place);
        }
        places
    }

    /// The record at `offset`, if it is kept.
    fn at(&self, offset: Offset) -> Option<&Stored> {
        self.records.get(usize::try_from(offset.0.checked_sub(self.oldest)?).ok()?)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no panic while the lock is held")
}

#[async_trait]
impl Log for MemoryLog {
    fn partitions(&self) -> Partitions {
        Partitions::shared(u16::try_from(self.partitions.len()).expect("made from a u16"))
    }

    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError> {
        check_append(partition, self.partitions(), &records)?;
        let state = self.partition(partition).map_err(AppendError::Refused)?;
        let (places, waiting) = {
            let mut state = lock(state);
            // Asked under the lock: two appends must not take their times in one order and their offsets in the other.
            let places = state.push(self.clock.wall(), records);
            (places, std::mem::take(&mut state.waiting))
        };
        waiting.into_values().for_each(Waker::wake);
        Ok(places)
    }

    fn read(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>> {
        let state = match self.partition(partition) {
            Ok(state) => Arc::clone(state),
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let reader = {
            let mut state = lock(&state);
            state.readers += 1;
            state.readers
        };
        Follow { state, reader, next: from, ended: false }.boxed()
    }

    async fn seek(&self, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error> {
        check_seek(offsets)?;
        let state = lock(self.partition(partition)?);
        Ok(offsets.iter().filter_map(|offset| state.at(*offset).cloned()).collect())
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, Error> {
        let state = lock(self.partition(partition)?);
        Ok(Bounds { oldest: Offset(state.oldest), end: Offset(state.end()), generation: self.generation })
    }

    async fn trim(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        let mut state = lock(self.partition(partition)?);
        let before = before.0.clamp(state.oldest, state.end());
        let gone = usize::try_from(before - state.oldest).expect("at most the records in memory");
        state.records.drain(..gone);
        state.oldest = before;
        Ok(())
    }
}

/// A reader and where it stands.
struct Follow {
    state: Arc<Mutex<State>>,
    reader: u64,
    next: Offset,
    ended: bool,
}

impl Stream for Follow {
    type Item = Result<Vec<Stored>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let mut state = lock(&this.state);
        if this.next.0 < state.oldest {
            this.ended = true;
            return Poll::Ready(Some(Err(Error::Gone { oldest: Offset(state.oldest) })));
        }
        if this.next.0 >= state.end() {
            state.waiting.insert(this.reader, context.waker().clone());
            return Poll::Pending;
        }
        let skip = usize::try_from(this.next.0 - state.oldest).expect("less than the records in memory");
        let taken = batch(state.records.range(skip..));
        this.next = Offset(this.next.0 + taken.len() as u64);
        Poll::Ready(Some(Ok(taken)))
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        lock(&self.state).waiting.remove(&self.reader);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ringforge_domain::ids::Scope;

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn nothing_waits_without_a_runtime() {
        let log = MemoryLog::new(ManualClock::at(LogTime(5)), 1, Generation(1));
        let mut reader = log.read(Partition(0), Offset::ZERO);
        assert!(reader.next().now_or_never().is_none());
        for count in 0..1_000_u64 {
            let record = Record { scope: Scope::OPERATOR, bytes: Arc::from(count.to_le_bytes()) };
            let placed = log.append(Partition(0), vec![record]).now_or_never().expect("done at once").expect("taken");
            assert_eq!(placed, [Placed { offset: Offset(count), time: LogTime(5) }]);
            let seen = reader.next().now_or_never().flatten().expect("ready at once").expect("a batch");
            assert_eq!(seen[0].offset, Offset(count));
            assert!(reader.next().now_or_never().is_none());
        }
    }

    #[test]
    fn a_reader_that_left_is_forgotten() {
        let log = MemoryLog::new(ManualClock::at(LogTime(5)), 1, Generation(1));
        let mut reader = log.read(Partition(0), Offset::ZERO);
        assert!(reader.next().now_or_never().is_none());
        drop(reader);
        assert!(lock(&log.partitions[0]).waiting.is_empty());
    }
}
