//! The log: an ordered, durable sequence of records per partition. Nothing here looks inside the bytes.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use futures_util::{
    StreamExt, future,
    stream::{self, BoxStream},
};
use ringforge_domain::{
    limits,
    position::{Generation, LogTime, Offset, Partition, Partitions},
};

use crate::Error;

/// What is appended: a topic key (the fleet, so that readers can filter without decoding) and opaque bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The tenant and fleet the record belongs to.
    pub scope: ringforge_domain::ids::Scope,
    /// The framed event.
    pub bytes: Arc<[u8]>,
}

/// A record with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the partition.
    pub offset: Offset,
    /// When the log took it, in microseconds.
    pub time: LogTime,
    /// What was appended.
    pub record: Record,
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its partition.
    pub partition: Partition,
    /// As it stands there.
    pub stored: Stored,
    /// Why it cannot be read.
    pub reason: String,
}

/// Where an appended record ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its place in the partition.
    pub offset: Offset,
    /// Its log time.
    pub time: LogTime,
}

/// Why an append did not say where it ended up.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing of it is in the log or ever will be.
    #[error("append refused: {0}")]
    Refused(Error),
    /// Any of its records may be in the log.
    #[error("append outcome unknown: {0}")]
    Unknown(Error),
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset still kept (equals `end` when nothing is).
    pub oldest: Offset,
    /// The next offset to be written.
    pub end: Offset,
    /// The life of this log.
    pub generation: Generation,
}

/// An ordered, durable sequence of records per partition.
///
/// ```text
///   0 ......... oldest ............. end
///   trimmed     | kept               | not yet written
/// ```
#[async_trait]
pub trait Log: Send + Sync {
    /// Which partitions there are. None goes, and none comes while the log is open.
    fn partitions(&self) -> Partitions;

    /// Which partitions this process should project, told at first and whenever that changes. In the end each of them is told to
    /// one of all who listen, in all processes that have this log, and to no other; meanwhile perhaps to nobody or to two. Who
    /// stops listening, or dies, gives up what it had. Nothing but advice: whoever follows it late does no harm, as commits are
    /// guarded. Of a log that no two processes can have, each who listens is told all of it, once.
    fn owned(&self) -> BoxStream<'static, BTreeSet<Partition>> {
        let all = self.partitions().iter().collect();
        stream::once(future::ready(all)).chain(stream::pending()).boxed()
    }

    /// Appends `records` in their order, those of others perhaps between them, and gives each its place and log time. No records:
    /// no places. Places are counted without holes.
    /// Resolves when they would survive the death of this process (embedded: and a power cut).
    /// Concurrent callers may be joined into one write; two appends by one caller, the second polled after the first was
    /// polled, keep their order. Dropping the future after that first poll does not take the append back.
    /// Log time is not the caller's. It never falls within a partition, not even across a restart, while one machine gives it;
    /// when another takes over (Kafka: a new leader) it may fall by as much as their clocks differ. So the fold keeps the
    /// maximum as a row, and whoever else minds does as much.
    /// `Refused`: none is in the log and none ever will be (among them `TooLarge`: more than `limits::APPEND_RECORDS_MAX`
    /// records or `APPEND_BYTES_MAX` bytes; `Unavailable`: an unknown partition, a full queue). `Unknown`: any of them may be.
    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError>;

    /// Every record from `from` on, in order, none twice, none left out, in batches of 1 to `limits::READ_RECORDS_MAX`
    /// records and at most `READ_BYTES_MAX` bytes (a larger record comes alone), then follows: it waits for new ones and
    /// never ends by itself. `from` beyond the end: waits.
    /// Never shows a record that is not durable. An error is the last item: `Gone { oldest }` when the next record is no
    /// longer kept (also when it was trimmed under the reader), `Corrupt` naming the record or saying that what was read before
    /// is not there any more, `Unavailable` for an unknown partition and while the log is away, `Closed` after shutdown.
    fn read(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>>;

    /// The records at `offsets` (rising, at most `limits::SEEK_MAX`, else `TooLarge`), in that order; one that is trimmed
    /// or not yet written is left out.
    async fn seek(&self, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error>;

    /// Oldest kept, next to be written, generation. `end` covers every append that was acknowledged before the call. The
    /// generation is the same for all partitions and across restarts.
    async fn bounds(&self, partition: Partition) -> Result<Bounds, Error>;

    /// Forgets everything before `before`; beyond `end` it means `end`, below `oldest` nothing. Lasts across a restart;
    /// offsets are never used again.
    async fn trim(&self, partition: Partition, before: Offset) -> Result<(), Error>;

    /// Keeps copies of these, which are as many as one batch may hold, for whoever looks for them with other tools, and after they
    /// are trimmed; some of them twice if whoever asks asks again. What is too large for a copy is left out, and said. After an error
    /// they may still come to be kept. A log that only we can read keeps none: it has the records.
    async fn bury(&self, _: &[Letter]) -> Result<(), Error> {
        Ok(())
    }

    /// Those copies: of each partition in the order in which they were buried. It ends with those that are there now, or after an
    /// error.
    fn buried(&self) -> BoxStream<'static, Result<Letter, Error>> {
        stream::empty().boxed()
    }
}

/// What every adapter refuses before it takes an append.
pub fn check_append(partition: Partition, partitions: Partitions, records: &[Record]) -> Result<(), AppendError> {
    check_partition(partition, partitions).map_err(AppendError::Refused)?;
    if records.len() > limits::APPEND_RECORDS_MAX {
        let what = format!("{} records in one append, at most {}", records.len(), limits::APPEND_RECORDS_MAX);
        return Err(AppendError::Refused(Error::TooLarge(what)));
    }
    let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
    if bytes > limits::APPEND_BYTES_MAX {
        let what = format!("{bytes} bytes in one append, at most {}", limits::APPEND_BYTES_MAX);
        return Err(AppendError::Refused(Error::TooLarge(what)));
    }
    Ok(())
}

/// The place of this one among the `partitions` of a log; `Unavailable`: it is not there.
pub fn check_partition(partition: Partition, partitions: Partitions) -> Result<usize, Error> {
    let none = || Error::Unavailable(format!("no partition {}, the log has {}", partition.0, partitions.count()));
    partitions.index(partition).ok_or_else(none)
}

/// `TooLarge` for more offsets than one seek may name.
pub fn check_seek(offsets: &[Offset]) -> Result<(), Error> {
    if offsets.len() <= limits::SEEK_MAX {
        return Ok(());
    }
    Err(Error::TooLarge(format!("{} offsets in one seek, at most {}", offsets.len(), limits::SEEK_MAX)))
}

/// Takes from `records` what one batch of `Log::read` may hold.
pub fn batch<'a>(records: impl IntoIterator<Item = &'a Stored>) -> Vec<Stored> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for stored in records {
        bytes += stored.record.bytes.len();
        let full = taken.len() == limits::READ_RECORDS_MAX || bytes > limits::READ_BYTES_MAX;
        if full && !taken.is_empty() {
            break;
        }
        taken.push(stored.clone());
    }
    taken
}
