//! The log of a single process: one SQLite file for all partitions.
//!
//! ```text
//!   append -> queue (bounded) -> writer thread: BEGIN, insert all that waits, COMMIT (fdatasync)
//!                                   |-> tails: the newest batches in memory, for readers that have caught up
//!                                   '-> answers
//!   read, seek -> tail, else reader threads (a connection each)
//! ```
//!
//! The fdatasync in flight is the batching window, and a millisecond more where several append at a time. A thread of its own
//! moves the write-ahead log into the file, so that no append waits for it.

mod file;
mod readers;
pub mod repair;
mod shared;
mod wal;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use ringforge_domain::position::{Generation, Offset, Partition, Partitions};
use ringforge_ports::{
    Error,
    clock::Clock,
    log::{AppendError, Bounds, Log, Placed, Record, Stored, check_append, check_partition, check_seek},
};
use tokio::sync::{oneshot, watch};

use readers::Readers;
use shared::{Operation, Shared};
use writer::Writer;

use super::{OnFatal, tail};

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or this one) has it open.
    #[error("the log {} is in use: another process has it open", path.display())]
    Locked {
        /// The log's file.
        path: PathBuf,
    },
    /// What is stored is not what was written.
    #[error("the log is damaged: {what}")]
    Damaged {
        /// What was found, with partition and offset where there are any.
        what: String,
    },
    /// Another version of this program wrote it.
    #[error("the log has format {found}, this program reads format {expected}")]
    WrongVersion {
        /// The file's format.
        found: i64,
        /// The one this program reads and writes.
        expected: i64,
    },
    /// It was created with another number of partitions, which is fixed for its life.
    #[error("the log has {found} partitions, not {expected}")]
    WrongPartitions {
        /// The file's partitions.
        found: i64,
        /// Those asked for.
        expected: u16,
    },
    /// The disk or its file system said no.
    #[error("open the log: {0}")]
    Io(#[from] io::Error),
}

/// The log in a file. Dropping it waits until the queue is written, as `close` does.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    generation: Generation,
    writer: Mutex<Option<JoinHandle<()>>>,
    finished: watch::Receiver<()>,
}

impl EmbeddedLog {
    /// Opens the log in the file `path`, or creates it with `partitions`. A failed write is only traced: see `open_with`.
    pub fn open(path: &Path, partitions: u16, clock: Arc<dyn Clock>) -> Result<Arc<Self>, OpenError> {
        Self::open_with(path, partitions, clock, Box::new(|_| ()))
    }

    /// The same; `on_fatal` is called when a write has failed. By then nothing is acknowledged any more: who was being
    /// written is told `Unknown`, everybody else `Refused`.
    pub fn open_with(
        path: &Path,
        partitions: u16,
        clock: Arc<dyn Clock>,
        on_fatal: OnFatal,
    ) -> Result<Arc<Self>, OpenError> {
        assert!(partitions > 0, "a log has at least one partition");
        let file = file::open(path, partitions)?;
        let generation = file.generation;
        if let Some(newest) = file.partitions.iter().map(|state| state.newest).max() {
            clock.go_on_from(newest);
        }
        let shared = Arc::new(Shared::new(&file.partitions, on_fatal));
        let readers = Arc::new(Readers::start(path, file.sums, Arc::clone(&shared))?);
        let (done, finished) = watch::channel(());
        let writer = Writer::new(path, file, Arc::clone(&shared), Arc::clone(&readers), clock)?;
        let thread = thread::Builder::new().name("log-writer".into()).spawn(move || {
            writer.run();
            drop(done);
        })?;
        Ok(Arc::new(Self { shared, readers, generation, writer: Mutex::new(Some(thread)), finished }))
    }

    /// Takes no more appends, writes what waits, ends every reader and frees the file.
    pub async fn close(&self) {
        self.shared.close();
        // The writer never sends: the channel closes when it is done.
        let _ = self.finished.clone().changed().await;
        self.join();
    }

    /// Whether a reader has met a record that is not as it was written.
    pub fn damaged(&self) -> bool {
        self.shared.damaged()
    }

    fn join(&self) {
        let thread = self.writer.lock().expect("no panic while the lock is held").take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }

    fn check(&self, partition: Partition) -> Result<(), Error> {
        check_partition(partition, self.shared.tails.partitions()).map(drop)
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.shared.close();
        self.join();
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    fn partitions(&self) -> Partitions {
        self.shared.tails.partitions()
    }

    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError> {
        check_append(partition, self.shared.tails.partitions(), &records)?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, placed) = oneshot::channel();
        // Before the first await: the order of first polls is the order of the log.
        self.shared.push(Operation::Append { partition, records, reply }).map_err(AppendError::Refused)?;
        placed.await.unwrap_or(Err(AppendError::Unknown(Error::Closed)))
    }

    fn read(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>> {
        if let Err(error) = self.check(partition) {
            return stream::iter([Err(error)]).boxed();
        }
        tail::read(Arc::clone(&self.readers), partition, from)
    }

    async fn seek(&self, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error> {
        check_seek(offsets)?;
        self.check(partition)?;
        let (oldest, end) = self.shared.tails.bounds(partition);
        let kept: Vec<_> = offsets.iter().copied().filter(|offset| (oldest..end).contains(offset)).collect();
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.readers.seek(partition, kept.clone()).await.inspect_err(|error| self.shared.note(error))?;
        // It may have been trimmed meanwhile; anything else that is missing is damage.
        let oldest = self.shared.tails.bounds(partition).0;
        let have = |offset: &Offset| found.iter().any(|stored| stored.offset == *offset);
        match kept.iter().find(|offset| **offset >= oldest && !have(offset)) {
            Some(missing) => {
                let error = file::missing(partition, *missing);
                self.shared.note(&error);
                Err(error)
            }
            None => Ok(found),
        }
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, Error> {
        self.check(partition)?;
        let (oldest, end) = self.shared.tails.bounds(partition);
        Ok(Bounds { oldest, end, generation: self.generation })
    }

    async fn trim(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.check(partition)?;
        let (reply, done) = oneshot::channel();
        self.shared.push(Operation::Trim { partition, before, reply })?;
        done.await.unwrap_or(Err(Error::Closed))
    }
}
