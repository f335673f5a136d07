//! Checkpoints: all rows of a partition as they stood at one position, in an object, so that read models can be made anew
//! although the log no longer begins with the first event. One counts once it was read back: what tells of it is written then.
//!
//! ```text
//!   offset 0 ....... oldest ......................... end
//!          trimmed   |  the log                       |
//!                    checkpoint      checkpoint  checkpoint
//!                    (the base)                  (the last two)
//! ```
//!
//! The log is trimmed to a checkpoint, never between two: so all of what it holds can be folded again, history included, from
//! the base on. Nothing here looks into a row.

mod keep;
mod restore;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ringforge_domain::{
    limits::{BLOBS_PAGE_MAX, CHECKPOINT_ROW_BYTES_MAX, CHECKPOINT_TOLD_BYTES_MAX},
    position::{Generation, LogTime, Offset, Partition},
    row::{Row, RowKey, State as _, fleet::Home, sum::Sum},
};
use ringforge_ports::{
    Error, Services,
    blobs::{Blobs, Body, ContentType, Key},
    names,
    reads::Snapshot,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tracing::{info, warn};

pub use keep::{drop_lost, trim};
pub use restore::{Source, begin};

/// How soon a checkpoint that failed is tried again, if it is not due before.
const RETRY: Duration = Duration::from_mins(1);

/// What is told of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The life of the log.
    pub generation: Generation,
    /// The partition.
    pub partition: Partition,
    /// The next offset to apply.
    pub applied: Offset,
    /// The newest log time applied.
    pub time: LogTime,
    /// When it was taken.
    pub taken: LogTime,
    /// How many rows there are.
    pub rows: u64,
    /// Their digest, as [`ringforge_domain::row::digest`] tells it.
    pub digest: String,
    /// The version of the program that took it.
    pub build: String,
}

/// What was written, or read.
#[derive(Clone, Debug, Default)]
struct Count {
    rows: u64,
    sum: Sum,
    last: Option<RowKey>,
}

impl Count {
    /// The rows of a page as lines. They must come by name: the digest is over that order.
    fn encode(&mut self, page: &[Row]) -> Result<Bytes, Error> {
        let mut lines = BytesMut::new();
        for row in page {
            let (key, text) = (row.key(), row.text());
            if self.last.as_ref().is_some_and(|last| *last >= key) {
                return Err(Error::Corrupt(format!("the row {key:?} comes after {:?}", self.last)));
            }
            self.rows += 1;
            self.sum.add(&text);
            self.last = Some(key);
            lines.extend_from_slice(&text);
            lines.extend_from_slice(b"\n");
        }
        Ok(lines.freeze())
    }
}

/// What a partition's checkpoints are: how often they are taken, and how long the log is kept behind them.
#[derive(Clone)]
pub struct Plan {
    /// The time between two.
    pub every: Duration,
    /// What is older is trimmed, if a checkpoint has it; `None`: nothing is ever.
    pub retention: Option<Duration>,
    /// One at a time in a process.
    pub turn: Arc<Semaphore>,
}

/// Takes a checkpoint of a partition as it stands, and verifies it. `None`: there is one already, or nothing to keep.
///
/// # Errors
/// A port is away, or what was written is not what is read: there is no new checkpoint.
pub async fn take(services: &Services, partition: Partition) -> Result<Option<Checkpoint>, Error> {
    let generation = services.log.bounds(partition).await?.generation;
    let Snapshot { applied, rows } = services.reads.snapshot(partition).await?;
    let newest = list(&*services.blobs, generation, partition).await?.pop();
    if newest.map_or(Offset::ZERO, |newest| newest.applied) >= applied.upto {
        return Ok(None);
    }
    let key = names::checkpoint_rows(generation, partition, applied.upto);
    let count = Arc::new(Mutex::new(Count::default()));
    let counted = Arc::clone(&count);
    let encode =
        move |page: Result<Vec<Row>, Error>| counted.lock().unwrap_or_else(PoisonError::into_inner).encode(&page?);
    put(&*services.blobs, &key, "application/x-ndjson", rows.map(encode).boxed()).await?;
    let Count { rows, sum, .. } = count.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let checkpoint = Checkpoint {
        generation,
        partition,
        applied: applied.upto,
        time: applied.time,
        taken: services.clock.wall(),
        rows,
        digest: sum.digest(applied.upto),
        build: env!("CARGO_PKG_VERSION").to_owned(),
    };
    verify(&*services.blobs, &checkpoint).await?;
    let told =
        serde_json::to_vec(&checkpoint).map_err(|error| Error::Corrupt(format!("tell a checkpoint: {error}")))?;
    let body = futures_util::stream::iter([Ok(Bytes::from(told))]).boxed();
    put(&*services.blobs, &checkpoint.told(), "application/json", body).await?;
    info!(partition = partition.0, applied = applied.upto.0, rows, "checkpoint");
    Ok(Some(checkpoint))
}

/// Writes an object. One that is there and differs was left by an attempt that ended before it was told.
async fn put(blobs: &dyn Blobs, key: &Key, content_type: &str, body: Body) -> Result<(), Error> {
    let content_type: ContentType = content_type.parse().expect("a content type");
    match blobs.put(key, &content_type, body).await {
        Ok(_) => Ok(()),
        Err(Error::Conflict(what)) => {
            blobs.delete(key).await?;
            Err(Error::Conflict(what))
        }
        Err(error) => Err(error),
    }
}

/// Reads a checkpoint back.
async fn verify(blobs: &dyn Blobs, checkpoint: &Checkpoint) -> Result<(), Error> {
    let mut lines = Lines::of(blobs, checkpoint).await?;
    while lines.next().await?.is_some() {}
    lines.check(checkpoint)
}

/// The verified checkpoints of a partition, by position.
///
/// # Errors
/// The objects are away.
pub async fn list(blobs: &dyn Blobs, generation: Generation, partition: Partition) -> Result<Vec<Checkpoint>, Error> {
    let prefix = names::checkpoints(generation, partition);
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let keys = blobs.list(&prefix, after.as_ref(), BLOBS_PAGE_MAX).await?;
        for key in keys.iter().filter(|key| key.as_str().ends_with(names::CHECKPOINT_TOLD)) {
            // Whoever listed it may have been slower than who deleted it.
            if let Some(checkpoint) = told(blobs, key).await? {
                found.push(checkpoint);
            }
        }
        if keys.len() < BLOBS_PAGE_MAX {
            return Ok(found);
        }
        after = keys.last().cloned();
    }
}

async fn told(blobs: &dyn Blobs, key: &Key) -> Result<Option<Checkpoint>, Error> {
    let Some(object) = blobs.get(key).await? else { return Ok(None) };
    if object.head.length > CHECKPOINT_TOLD_BYTES_MAX as u64 {
        return Err(Error::Corrupt(format!("object {key} is no checkpoint's: it is too long")));
    }
    let text: Result<BytesMut, Error> = object.body.try_collect().await;
    let text = match text {
        Ok(text) => text,
        // It was there when it was looked for, and deleted before it was read.
        Err(_) if blobs.get(key).await?.is_none() => return Ok(None),
        Err(error) => return Err(error),
    };
    let read = serde_json::from_slice(&text);
    read.map(Some).map_err(|error| Error::Corrupt(format!("object {key} is no checkpoint's: {error}")))
}

impl Checkpoint {
    fn told(&self) -> Key {
        names::checkpoint_told(self.generation, self.partition, self.applied)
    }

    fn rows_key(&self) -> Key {
        names::checkpoint_rows(self.generation, self.partition, self.applied)
    }
}

/// The lines of a checkpoint's rows, as they are read.
struct Lines {
    body: Body,
    piece: BytesMut,
    /// How far `piece` was looked through.
    seen: usize,
    rows: u64,
    sum: Sum,
}

impl Lines {
    async fn of(blobs: &dyn Blobs, checkpoint: &Checkpoint) -> Result<Self, Error> {
        let key = checkpoint.rows_key();
        let object = blobs.get(&key).await?.ok_or_else(|| Error::Corrupt(format!("there is no object {key}")))?;
        Ok(Self { body: object.body, piece: BytesMut::new(), seen: 0, rows: 0, sum: Sum::default() })
    }

    /// The next row's text.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(end) = self.piece[self.seen..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.piece.split_to(self.seen + end + 1);
                line.truncate(self.seen + end);
                self.seen = 0;
                self.rows += 1;
                self.sum.add(&line);
                return Ok(Some(line.freeze()));
            }
            self.seen = self.piece.len();
            if self.seen > CHECKPOINT_ROW_BYTES_MAX {
                return Err(Error::Corrupt("a row of a checkpoint has no end".to_owned()));
            }
            match self.body.try_next().await? {
                Some(piece) => self.piece.extend_from_slice(&piece),
                None if self.piece.is_empty() => return Ok(None),
                None => return Err(Error::Corrupt("a checkpoint ends in the middle of a row".to_owned())),
            }
        }
    }

    /// `Corrupt` if what was read is not what was written.
    fn check(self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let (rows, digest) = (self.rows, self.sum.digest(checkpoint.applied));
        if (rows, &digest) == (checkpoint.rows, &checkpoint.digest) {
            return Ok(());
        }
        Err(Error::Corrupt(format!(
            "the checkpoint of partition {} at {} has {rows} rows with digest {digest}, not {} with {}",
            checkpoint.partition.0, checkpoint.applied.0, checkpoint.rows, checkpoint.digest
        )))
    }
}

/// Takes checkpoints of a partition and trims its log, for ever.
pub async fn run(services: Services, partition: Partition, plan: Plan) {
    while let Err(error) = drop_lost(&services, partition).await {
        warn!(%error, partition = partition.0, "checkpoints cannot be looked at yet");
        tokio::time::sleep(RETRY).await;
    }
    let mut wait = Duration::ZERO;
    if let Ok(newest) = newest(&services, partition).await {
        let age = newest.map_or(i64::MAX, |newest| services.clock.wall().0.saturating_sub(newest.taken.0));
        wait = plan.every.saturating_sub(Duration::from_micros(age.unsigned_abs()));
    }
    loop {
        tokio::time::sleep(wait).await;
        let Ok(turn) = plan.turn.acquire().await else { return };
        let done = async {
            take(&services, partition).await?;
            let retention = retention(&services, partition, plan.retention).await?;
            trim(&services, partition, retention).await
        };
        wait = plan.every;
        if let Err(error) = done.await {
            warn!(%error, partition = partition.0, "no checkpoint, it is tried again");
            wait = wait.min(RETRY);
        }
        drop(turn);
    }
}

/// How long the log of a partition is kept, if not for ever: as long as all, unless a fleet has it to itself and has said something
/// else. While the directory does not know whose it is, for ever.
async fn retention(
    services: &Services,
    partition: Partition,
    of_all: Option<Duration>,
) -> Result<Option<Duration>, Error> {
    if !partition.is_dedicated() {
        return Ok(of_all);
    }
    let found = services.reads.load(Partition::DIRECTORY, &BTreeSet::from([Home::key(partition)])).await?;
    let home = found.rows.iter().find_map(Home::of);
    Ok(home.and_then(|home| home.retention_s.map(Duration::from_secs).or(of_all)))
}

async fn newest(services: &Services, partition: Partition) -> Result<Option<Checkpoint>, Error> {
    let generation = services.log.bounds(partition).await?.generation;
    Ok(list(&*services.blobs, generation, partition).await?.pop())
}

#[cfg(test)]
mod tests;
