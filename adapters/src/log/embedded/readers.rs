//! Reading: cursors that follow a partition, and the threads that read the file for those who are behind.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use ringforge_domain::{
    limits,
    position::{Offset, Partition},
};
use ringforge_ports::{
    Error,
    log::{Stored, batch},
};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    OpenError,
    file::{self, Sums},
    shared::{Look, Shared},
};

/// Threads, each with a connection of its own.
const THREADS: usize = 3;

enum What {
    Range { from: Offset, upto: Offset },
    Offsets(Vec<Offset>),
}

struct Read {
    partition: Partition,
    what: What,
    reply: oneshot::Sender<Result<Vec<Stored>, Error>>,
}

/// The threads that read the file.
pub(super) struct Readers {
    /// `None` once they are told to end.
    reads: Mutex<Option<mpsc::Sender<Read>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    pub(super) fn start(path: &Path, sums: Sums) -> Result<Self, OpenError> {
        let (sender, receiver) = mpsc::channel(limits::LOG_READS_WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for number in 0..THREADS {
            let connection = file::connect_reader(path).map_err(std::io::Error::other)?;
            let receiver = Arc::clone(&receiver);
            let builder = thread::Builder::new().name(format!("log-reader-{number}"));
            threads.push(builder.spawn(move || serve(&connection, sums, &receiver))?);
        }
        Ok(Self { reads: Mutex::new(Some(sender)), threads: Mutex::new(threads) })
    }

    /// Lets the threads finish what waits and ends them.
    pub(super) fn stop(&self) {
        self.reads.lock().expect("no panic while the lock is held").take();
        let threads = std::mem::take(&mut *self.threads.lock().expect("no panic while the lock is held"));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a log reader panicked");
            }
        }
    }

    /// One batch of `from..upto`.
    async fn range(&self, partition: Partition, from: Offset, upto: Offset) -> Result<Vec<Stored>, Error> {
        self.ask(partition, What::Range { from, upto }).await
    }

    /// Those at `offsets` that are in the file.
    pub(super) async fn seek(&self, partition: Partition, offsets: Vec<Offset>) -> Result<Vec<Stored>, Error> {
        self.ask(partition, What::Offsets(offsets)).await
    }

    async fn ask(&self, partition: Partition, what: What) -> Result<Vec<Stored>, Error> {
        let sender = self.reads.lock().expect("no panic while the lock is held").clone().ok_or(Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        sender.send(Read { partition, what, reply }).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

fn serve(connection: &Connection, sums: Sums, reads: &Mutex<mpsc::Receiver<Read>>) {
    loop {
        // The lock is held while waiting: one thread waits for work, the others for the lock.
        let next = reads.lock().expect("no panic while the lock is held").blocking_recv();
        let Some(Read { partition, what, reply }) = next else { return };
        if reply.is_closed() {
            continue;
        }
        let found = match what {
            What::Range { from, upto } => file::read(connection, sums, partition, from, upto),
            What::Offsets(offsets) => file::seek(connection, sums, partition, &offsets),
        };
        // Whoever asked may have left.
        let _ = reply.send(found);
    }
}

/// A reader of one partition and where it stands.
pub(super) struct Cursor {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    changed: watch::Receiver<()>,
    partition: Partition,
    next: Offset,
}

impl Cursor {
    pub(super) fn new(shared: Arc<Shared>, readers: Arc<Readers>, partition: Partition, next: Offset) -> Self {
        let changed = shared.changed(partition);
        Self { shared, readers, changed, partition, next }
    }

    /// The next batch; waits for it. After an error there is nothing more.
    pub(super) async fn next(&mut self) -> Result<Vec<Stored>, Error> {
        loop {
            // Seen before looking: what comes between looking and waiting ends the wait.
            self.changed.borrow_and_update();
            let ended = self.shared.ended();
            match self.shared.look(self.partition, self.next) {
                Look::Gone { oldest } => return Err(Error::Gone { oldest }),
                Look::Memory(batches) => {
                    let rest = batches.iter().flat_map(|batch| batch.iter()).skip_while(|it| it.offset < self.next);
                    return Ok(self.moved_past(batch(rest)));
                }
                Look::File { end } => match self.readers.range(self.partition, self.next, end).await {
                    Ok(batch) if !batch.is_empty() => return Ok(self.moved_past(batch)),
                    other => return Err(self.blame(other.err())),
                },
                Look::Nothing => match ended {
                    Some(error) => return Err(error),
                    None => drop(self.changed.changed().await),
                },
            }
        }
    }

    fn moved_past(&mut self, batch: Vec<Stored>) -> Vec<Stored> {
        self.next = Offset(self.next.0 + batch.len() as u64);
        batch
    }

    /// A record that is missing may have been trimmed while it was being looked for.
    fn blame(&self, error: Option<Error>) -> Error {
        if let Look::Gone { oldest } = self.shared.look(self.partition, self.next) {
            return Error::Gone { oldest };
        }
        let error = error.unwrap_or_else(|| file::missing(self.partition, self.next));
        self.shared.note(&error);
        error
    }
}
