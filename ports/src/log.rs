//! The log: an ordered, durable sequence of records per partition. Nothing here looks inside the bytes.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use ringforge_domain::position::{Generation, LogTime, Offset, Partition};

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
    /// When the log took it, in microseconds; never falls within a partition.
    pub time: LogTime,
    /// What was appended.
    pub record: Record,
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
    /// It is not in the log and never will be.
    #[error("append refused: {0}")]
    Refused(Error),
    /// It may be in the log.
    #[error("append outcome unknown: {0}")]
    Unknown(Error),
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset still kept (equals `end` when nothing is).
    pub oldest: Offset,
    /// The next offset to be written.
    pub end: Offset,
    /// The life of this log.
    pub generation: Generation,
}

/// An ordered, durable sequence of records per partition.
#[async_trait]
pub trait Log: Send + Sync {
    /// Appends all of `records` or none, contiguous and in order, and gives each its place and log time.
    /// Resolves when they would survive the death of this process (embedded: and a power cut).
    /// Concurrent callers may be joined into one write; two appends by one caller, the second polled after the first was polled, keep their order.
    /// Log time never falls within a partition, not even across a restart.
    /// `Refused`: not in the log and never will be (among them: more than `limits::APPEND_RECORDS_MAX` records or `APPEND_BYTES_MAX` bytes, an unknown partition, a full queue). `Unknown`: it may be.
    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError>;

    /// Every record from `from` on, in order, none twice, none left out, in batches of at most `limits::READ_RECORDS_MAX` records or about `READ_BYTES_MAX` bytes (a single larger record comes alone), then follows: it waits for new ones and never ends by itself.
    /// Never shows a record that is not durable. `from` below what is kept: one `Error::Gone { oldest }`, then the end. `from` beyond the end: waits.
    fn read(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>>;

    /// The records at `offsets` (rising, at most `limits::SEEK_MAX`), in that order; one that is trimmed or not yet written is left out.
    async fn seek(&self, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error>;

    /// Oldest kept, next to be written, generation. `end` covers every append that was acknowledged before the call.
    async fn bounds(&self, partition: Partition) -> Result<Bounds, Error>;

    /// Forgets everything before `before` (at most `end`); offsets are never used again.
    async fn trim(&self, partition: Partition, before: Offset) -> Result<(), Error>;
}
