//! The threads that read the file for readers that are behind.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use ringforge_domain::{
    limits,
    position::{Offset, Partition},
};
use ringforge_ports::{Error, log::Stored};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    OpenError,
    file::{self, Sums},
    shared::Shared,
};
use crate::log::tail::{Tailed, Tails};

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
    shared: Arc<Shared>,
    /// `None` once they are told to end.
    reads: Mutex<Option<mpsc::Sender<Read>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    pub(super) fn start(path: &Path, sums: Sums, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let (sender, receiver) = mpsc::channel(limits::LOG_READS_WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for number in 0..THREADS {
            let connection = file::connect_reader(path).map_err(std::io::Error::other)?;
            let receiver = Arc::clone(&receiver);
            let builder = thread::Builder::new().name(format!("log-reader-{number}"));
            threads.push(builder.spawn(move || serve(&connection, sums, &receiver))?);
        }
        Ok(Self { shared, reads: Mutex::new(Some(sender)), threads: Mutex::new(threads) })
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

#[async_trait]
impl Tailed for Readers {
    fn tails(&self) -> &Tails {
        &self.shared.tails
    }

    async fn behind(&self, partition: Partition, from: Offset, _: Option<&Stored>) -> Result<Vec<Stored>, Error> {
        let upto = self.tails().bounds(partition).1;
        let error = match self.ask(partition, What::Range { from, upto }).await {
            Ok(batch) if !batch.is_empty() => return Ok(batch),
            Ok(_) => file::missing(partition, from),
            Err(error) => error,
        };
        // What is missing may have been trimmed while it was being looked for.
        let oldest = self.tails().bounds(partition).0;
        if from < oldest {
            return Err(Error::Gone { oldest });
        }
        self.shared.note(&error);
        Err(error)
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
