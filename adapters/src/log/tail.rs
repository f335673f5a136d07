//! The newest records of each partition in memory, and the readers that follow them. Where a reader finds what is not in
//! memory is for the adapter to say.

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
    position::{Offset, Partition},
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

    /// Some records from `from` on, which are not in memory. None: look again.
    async fn behind(&self, partition: Partition, from: Offset) -> Result<Vec<Stored>, Error>;
}

/// The tails of all partitions.
pub(super) struct Tails {
    tails: Vec<(Mutex<Tail>, watch::Sender<()>)>,
    ended: Mutex<Option<Error>>,
}

struct Tail {
    oldest: Offset,
    end: Offset,
    /// The newest records without a hole up to `end`.
    batches: VecDeque<Arc<[Stored]>>,
    records: usize,
    bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while the lock is held")
}

impl Tails {
    /// Empty ones, of partitions that stand at these bounds.
    pub(super) fn new(bounds: impl IntoIterator<Item = (Offset, Offset)>) -> Self {
        let tail = |(oldest, end)| {
            (Mutex::new(Tail { oldest, end, batches: VecDeque::new(), records: 0, bytes: 0 }), watch::Sender::new(()))
        };
        Self { tails: bounds.into_iter().map(tail).collect(), ended: Mutex::default() }
    }

    pub(super) fn partitions(&self) -> u16 {
        u16::try_from(self.tails.len()).expect("a log has at most as many as a u16 counts")
    }

    fn tail(&self, partition: Partition) -> &(Mutex<Tail>, watch::Sender<()>) {
        &self.tails[usize::from(partition.0)]
    }

    /// Ends every reader that has caught up, with `error` unless there was another.
    pub(super) fn end(&self, error: Error) {
        lock(&self.ended).get_or_insert(error);
        for (_, changed) in &self.tails {
            changed.send_replace(());
        }
    }

    /// Why there will be nothing more to read.
    fn ended(&self) -> Option<Error> {
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
        lock(tail).push(batch);
        changed.send_replace(());
    }

    /// Forgets what is before `oldest`. Called before it is deleted.
    pub(super) fn forget(&self, partition: Partition, oldest: Offset) {
        let (tail, changed) = self.tail(partition);
        lock(tail).oldest = oldest;
        changed.send_replace(());
    }

    pub(super) fn look(&self, partition: Partition, next: Offset) -> Look {
        let tail = lock(&self.tail(partition).0);
        if next < tail.oldest {
            return Look::Gone { oldest: tail.oldest };
        }
        if next >= tail.end {
            return Look::Nothing;
        }
        if next < tail.start() {
            return Look::Behind;
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

    fn push(&mut self, batch: Arc<[Stored]>) {
        assert_eq!(batch[0].offset, self.end, "a tail has no holes");
        self.end = Offset(self.end.0 + batch.len() as u64);
        self.records += batch.len();
        self.bytes += weight(&batch);
        self.batches.push_back(batch);
        while self.batches.len() > 1
            && (self.records > limits::LOG_TAIL_RECORDS_MAX || self.bytes > limits::LOG_TAIL_BYTES_MAX)
        {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.records -= oldest.len();
            self.bytes -= weight(&oldest);
        }
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
    let reader = Reader { log, changed, partition, next: from };
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
    partition: Partition,
    next: Offset,
}

impl<L: Tailed> Reader<L> {
    /// The next batch; waits for it. After an error there is nothing more.
    async fn next(&mut self) -> Result<Vec<Stored>, Error> {
        let tails = self.log.tails();
        let batch = loop {
            // Seen before looking: what comes between looking and waiting ends the wait.
            self.changed.borrow_and_update();
            let ended = tails.ended();
            match tails.look(self.partition, self.next) {
                Look::Gone { oldest } => return Err(Error::Gone { oldest }),
                Look::Memory(batches) => {
                    let rest = batches.iter().flat_map(|batch| batch.iter()).skip_while(|it| it.offset < self.next);
                    break batch(rest);
                }
                Look::Behind => match self.log.behind(self.partition, self.next).await? {
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
        Ok(batch)
    }
}
