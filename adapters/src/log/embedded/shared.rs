//! What the writer, the readers and the callers share: the queue in, the tails out, and whether the log still lives.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use ringforge_domain::{
    limits,
    position::{Offset, Partition},
};
use ringforge_ports::{
    Error,
    log::{AppendError, Placed, Record, Stored},
};
use tokio::sync::oneshot;

use super::file::State;
use crate::log::{OnFatal, tail::Tails};

/// How long a group waits for more.
const GATHER: Duration = Duration::from_millis(1);

/// What the writer is asked for.
pub(super) enum Operation {
    Append { partition: Partition, records: Vec<Record>, reply: oneshot::Sender<Result<Vec<Placed>, AppendError>> },
    Trim { partition: Partition, before: Offset, reply: oneshot::Sender<Result<(), Error>> },
}

impl Operation {
    /// Records and bytes, as the queue counts them.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Append { records, .. } => {
                (records.len(), records.iter().map(|record| size_of::<Stored>() + record.bytes.len()).sum())
            }
            Self::Trim { .. } => (1, size_of::<Self>()),
        }
    }

    /// Answers that it is not in the log and never will be.
    fn refuse(self, error: Error) {
        // Whoever asked may have left.
        match self {
            Self::Append { reply, .. } => drop(reply.send(Err(AppendError::Refused(error)))),
            Self::Trim { reply, .. } => drop(reply.send(Err(error))),
        }
    }

    /// Answers that it may be in the log.
    pub(super) fn doubt(self, error: Error) {
        match self {
            Self::Append { reply, .. } => drop(reply.send(Err(AppendError::Unknown(error)))),
            Self::Trim { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Operation>,
    records: usize,
    bytes: usize,
    /// Whether the last group was of several.
    crowded: bool,
    /// Why nothing more is taken.
    stopped: Option<Error>,
}

pub(super) struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    pub(super) tails: Tails,
    on_fatal: Mutex<Option<OnFatal>>,
    dead: AtomicBool,
    damaged: AtomicBool,
    commits: AtomicU64,
    wal_pages: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while the lock is held")
}

impl Shared {
    pub(super) fn new(partitions: &[State], on_fatal: OnFatal) -> Self {
        Self {
            queue: Mutex::default(),
            filled: Condvar::new(),
            tails: Tails::new(partitions.iter().map(|state| (state.oldest, state.end))),
            on_fatal: Mutex::new(Some(on_fatal)),
            dead: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            wal_pages: AtomicU64::new(0),
        }
    }

    /// Queues `operation`, or says why not.
    pub(super) fn push(&self, operation: Operation) -> Result<(), Error> {
        let (records, bytes) = operation.size();
        let mut queue = lock(&self.queue);
        if let Some(error) = &queue.stopped {
            return Err(error.clone());
        }
        let full =
            queue.records + records > limits::APPEND_QUEUE_MAX || queue.bytes + bytes > limits::APPEND_QUEUE_BYTES_MAX;
        if full {
            return Err(Error::Unavailable("log queue full".into()));
        }
        queue.records += records;
        queue.bytes += bytes;
        queue.waiting.push_back(operation);
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    /// What is written next, in one transaction. Waits for something if `wait`, else it may be nothing. `None` when the log
    /// is closed and everything is written.
    pub(super) fn next_group(&self, wait: bool) -> Option<Vec<Operation>> {
        let mut queue = lock(&self.queue);
        loop {
            while queue.waiting.is_empty() {
                if queue.stopped.is_some() {
                    return None;
                }
                if !wait {
                    return Some(Vec::new());
                }
                queue = self.filled.wait(queue).expect("no panic while the lock is held");
            }
            let full = queue.records >= limits::GROUP_RECORDS_MAX || queue.bytes >= limits::GROUP_BYTES_MAX;
            if !queue.crowded || full || queue.stopped.is_some() {
                break;
            }
            // Where several came at a time, more come in a moment. Each group is a sync, and wakes everyone behind the log once.
            queue.crowded = false;
            drop(queue);
            thread::sleep(GATHER);
            queue = lock(&self.queue);
        }
        let (mut group, mut records, mut bytes) = (Vec::new(), 0, 0);
        while let Some(next) = queue.waiting.front() {
            let size = next.size();
            records += size.0;
            bytes += size.1;
            if !group.is_empty() && (records > limits::GROUP_RECORDS_MAX || bytes > limits::GROUP_BYTES_MAX) {
                break;
            }
            queue.records -= size.0;
            queue.bytes -= size.1;
            group.extend(queue.waiting.pop_front());
        }
        queue.crowded = group.len() > 1;
        Some(group)
    }

    /// Takes nothing more; what waits is still written.
    pub(super) fn close(&self) {
        lock(&self.queue).stopped.get_or_insert(Error::Closed);
        self.filled.notify_one();
    }

    /// The log is dead: what waits is refused, and nothing is taken or acknowledged again.
    pub(super) fn die(&self, error: &Error) {
        self.dead.store(true, Ordering::Release);
        let waiting = {
            let mut queue = lock(&self.queue);
            queue.stopped = Some(error.clone());
            (queue.records, queue.bytes) = (0, 0);
            std::mem::take(&mut queue.waiting)
        };
        self.filled.notify_one();
        for operation in waiting {
            operation.refuse(error.clone());
        }
        self.tails.end(error.clone());
    }

    /// Whether it died, as opposed to being closed.
    pub(super) fn dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Takes note of what a reader met.
    pub(super) fn note(&self, error: &Error) {
        if matches!(error, Error::Corrupt(_)) && !self.damaged.swap(true, Ordering::Relaxed) {
            tracing::error!("the log is damaged: {error}");
        }
    }

    /// Whether a reader met damage.
    pub(super) fn damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Tells the process, once, that it must not go on.
    pub(super) fn fatal(&self, error: &Error) {
        tracing::error!("the log has stopped: {error}");
        let hook = lock(&self.on_fatal).take();
        if let Some(hook) = hook {
            hook(error);
        }
    }

    /// Pages in the write-ahead log, as last seen.
    pub(super) fn wal_pages(&self) -> u64 {
        self.wal_pages.load(Ordering::Relaxed)
    }

    /// Notes what a checkpoint saw.
    pub(super) fn set_wal_pages(&self, pages: u64) {
        self.wal_pages.store(pages, Ordering::Relaxed);
    }

    /// Transactions so far.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Counts a transaction.
    pub(super) fn wrote(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }
}
