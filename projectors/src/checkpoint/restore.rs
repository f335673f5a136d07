//! Read models that have nothing of a partition, or too little for the log to go on from there, begin with a checkpoint.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use ringforge_domain::{
    limits::{CHECKPOINT_TRIES_MAX, PROJECTOR_COMMIT_BYTES_MAX, ROWS_PAGE_MAX},
    position::{LogTime, Offset, Partition},
    row::{Row, RowKey},
};
use ringforge_ports::{
    Error,
    blobs::Blobs,
    log::Log,
    reads::{Commit, Reads, Snapshot},
};
use tracing::{info, warn};

use super::{Checkpoint, Lines, list, told, verify};

/// What read models are made of.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The events that are kept.
    pub log: &'a dyn Log,
    /// The rows as they stood before.
    pub blobs: &'a dyn Blobs,
}

/// Sees to it that a projector can go on from where the partition stands in `reads`, with a checkpoint if need be, and tells
/// where that is.
///
/// # Errors
/// `Gone`: the log no longer has what comes next, and no checkpoint can stand in for it. `Corrupt`: `reads` have something else
/// of the partition already; read models of their own, without anything, are needed. Or a port is away. After an error they
/// are not to be used.
pub async fn begin(source: Source<'_>, partition: Partition, reads: &dyn Reads) -> Result<Offset, Error> {
    let bounds = source.log.bounds(partition).await?;
    let stands = reads.load(partition, &BTreeSet::new()).await?.applied.upto;
    if stands > Offset::ZERO {
        let kept = stands >= bounds.oldest;
        return if kept { Ok(stands) } else { Err(Error::Gone { oldest: bounds.oldest }) };
    }
    if bounds.oldest == Offset::ZERO {
        return Ok(Offset::ZERO);
    }
    if reads.snapshot(partition).await?.rows.next().await.is_some() {
        return Err(Error::Corrupt(format!(
            "the read models have rows of partition {} that were not finished: begin with empty ones",
            partition.0
        )));
    }
    for _ in 0..CHECKPOINT_TRIES_MAX {
        if let Some(from) = fill_first(source, partition, reads).await? {
            info!(partition = partition.0, applied = from.applied.0, rows = from.rows, "begins with a checkpoint");
            return Ok(from.applied);
        }
        info!(partition = partition.0, "the log was trimmed while a checkpoint was read: begins with a later one");
        clear(partition, reads).await?;
    }
    Err(Error::Unavailable(format!("checkpoints of partition {} are deleted before they can be read", partition.0)))
}

/// Fills read models from the first checkpoint that the log goes on from: so all of its history comes back. `None`: the log was
/// trimmed to a later one meanwhile, and that one perhaps deleted.
async fn fill_first(source: Source<'_>, partition: Partition, reads: &dyn Reads) -> Result<Option<Checkpoint>, Error> {
    let bounds = source.log.bounds(partition).await?;
    for from in list(source.blobs, bounds.generation, partition).await? {
        if from.applied < bounds.oldest {
            continue;
        }
        let verified = verify(source.blobs, &from).await;
        let filled = match &verified {
            Ok(()) => fill(source, &from, reads).await,
            Err(error) => Err(error.clone()),
        };
        match filled {
            Ok(true) => return Ok(Some(from)),
            Ok(false) => return Ok(None),
            // What tells of it is deleted first.
            Err(_) if told(source.blobs, &from.told()).await?.is_none() => return Ok(None),
            Err(Error::Corrupt(what)) if verified.is_err() => {
                warn!(what, "a checkpoint is damaged, the next one is taken");
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Gone { oldest: bounds.oldest })
}

/// Removes what `fill` has put into read models that had nothing before.
async fn clear(partition: Partition, reads: &dyn Reads) -> Result<(), Error> {
    let Snapshot { applied, mut rows } = reads.snapshot(partition).await?;
    while let Some(page) = rows.next().await.transpose()? {
        let gone = page.iter().map(|row| (row.key(), None)).collect();
        advance(partition, Offset::ZERO, applied.time, gone, reads).await?;
    }
    Ok(())
}

/// Puts the rows of a checkpoint into read models without any. The position comes last, once all are known to be right, and only
/// if the log still goes on from there: says whether it does.
async fn fill(source: Source<'_>, checkpoint: &Checkpoint, reads: &dyn Reads) -> Result<bool, Error> {
    let mut lines = Lines::of(source.blobs, checkpoint).await?;
    let (mut rows, mut weight): (Vec<(RowKey, Option<Row>)>, usize) = (Vec::new(), 0);
    while let Some(line) = lines.next().await? {
        let row: Row = serde_json::from_slice(&line).map_err(|error| {
            Error::Corrupt(format!(
                "a row of a checkpoint cannot be read, build {} wrote it: {error}",
                checkpoint.build
            ))
        })?;
        weight += row.weight();
        rows.push((row.key(), Some(row)));
        if weight > PROJECTOR_COMMIT_BYTES_MAX || rows.len() == ROWS_PAGE_MAX as usize {
            advance(checkpoint.partition, Offset::ZERO, checkpoint.time, std::mem::take(&mut rows), reads).await?;
            weight = 0;
        }
    }
    lines.check(checkpoint)?;
    if source.log.bounds(checkpoint.partition).await?.oldest > checkpoint.applied {
        return Ok(false);
    }
    advance(checkpoint.partition, checkpoint.applied, checkpoint.time, rows, reads).await?;
    Ok(true)
}

async fn advance(
    partition: Partition,
    upto: Offset,
    time: LogTime,
    rows: Vec<(RowKey, Option<Row>)>,
    reads: &dyn Reads,
) -> Result<(), Error> {
    let verdicts = Vec::new();
    reads.commit(&[Commit { partition, previous: Offset::ZERO, upto, time, rows, verdicts }]).await
}
