//! Which checkpoints are kept, and how far the log is trimmed: to one of them, and only to one that is.

use std::time::Duration;

use ringforge_domain::{
    limits::CHECKPOINTS_KEPT_MAX,
    position::{LogTime, Offset, Partition},
};
use ringforge_ports::{Error, Services};
use tracing::{info, warn};

use super::{Checkpoint, list};

/// How many are always kept: the second is there for when the first turns out to be damaged.
const LAST: usize = 2;

/// Trims the log of a partition to its newest checkpoint that is older than `retention`, has the read models forget what is
/// trimmed, and deletes the checkpoints that nobody needs.
///
/// # Errors
/// A port is away: what is left is done the next time.
pub async fn trim(services: &Services, partition: Partition, retention: Option<Duration>) -> Result<(), Error> {
    let generation = services.log.bounds(partition).await?.generation;
    let kept = list(&*services.blobs, generation, partition).await?;
    if let Some(retention) = retention {
        let micros = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
        let since = LogTime(services.clock.wall().0.saturating_sub(micros));
        if let Some(upto) = base(&kept, since) {
            services.log.trim(partition, upto).await?;
        }
    }
    let oldest = services.log.bounds(partition).await?.oldest;
    if oldest > Offset::ZERO {
        services.reads.forget(partition, oldest).await?;
    }
    for spare in spare(&kept, oldest, retention.is_some()) {
        delete(services, spare).await?;
        info!(partition = partition.0, applied = spare.applied.0, "a checkpoint that nobody needs is deleted");
    }
    Ok(())
}

/// Deletes the checkpoints of what the log has lost (a disk lost its end, a backup was restored): what comes there now is
/// something else. Before anything comes: later nobody could tell.
///
/// # Errors
/// A port is away.
pub async fn drop_lost(services: &Services, partition: Partition) -> Result<(), Error> {
    let bounds = services.log.bounds(partition).await?;
    for lost in list(&*services.blobs, bounds.generation, partition).await? {
        if lost.applied > bounds.end {
            warn!(
                partition = partition.0,
                applied = lost.applied.0,
                "a checkpoint of what the log has lost is deleted"
            );
            delete(services, &lost).await?;
        }
    }
    Ok(())
}

/// In this order: what is told of is there.
async fn delete(services: &Services, checkpoint: &Checkpoint) -> Result<(), Error> {
    services.blobs.delete(&checkpoint.told()).await?;
    services.blobs.delete(&checkpoint.rows_key()).await
}

/// Where the newest checkpoint stands that has everything from before `since`. All before it is at least as old.
fn base(kept: &[Checkpoint], since: LogTime) -> Option<Offset> {
    kept.iter().rev().find(|checkpoint| checkpoint.time < since).map(|checkpoint| checkpoint.applied)
}

/// Those that nobody needs. The last ones stay, and the one that the log begins with; while the log is trimmed also some
/// between, of which one is the next to begin with: the time between them is about the same.
fn spare(kept: &[Checkpoint], oldest: Offset, trims: bool) -> Vec<&Checkpoint> {
    let (earlier, last) = kept.split_at(kept.len().saturating_sub(LAST));
    let (mut spare, mut between): (Vec<_>, Vec<_>) = earlier.iter().partition(|checkpoint| checkpoint.applied < oldest);
    let most = if trims { CHECKPOINTS_KEPT_MAX - LAST } else { usize::from(oldest > Offset::ZERO) };
    while between.len() > most {
        let time = |at: usize| between.get(at).copied().or(last.first()).map_or(LogTime(i64::MAX), |next| next.time);
        // How much further apart its neighbours would be. The first one may be what the log begins with.
        let gap = |at: &usize| time(at + 1).0.saturating_sub(time(at - 1).0);
        let closest = (1..between.len()).min_by_key(gap).unwrap_or(0);
        spare.push(between.remove(closest));
    }
    spare
}

#[cfg(test)]
mod tests {
    use ringforge_domain::position::Generation;

    use super::*;

    /// Checkpoints at these hours; each offset is ten times its hour.
    fn hours(hours: &[i64]) -> Vec<Checkpoint> {
        let at = |hour: &i64| Checkpoint {
            generation: Generation(1),
            partition: Partition(1),
            applied: Offset(hour.unsigned_abs() * 10),
            time: LogTime(*hour),
            taken: LogTime(*hour),
            rows: 0,
            digest: String::new(),
            build: String::new(),
        };
        hours.iter().map(at).collect()
    }

    fn spared(kept: &[Checkpoint], oldest: u64, trims: bool) -> Vec<i64> {
        let mut spared: Vec<_> = spare(kept, Offset(oldest), trims).into_iter().map(|spare| spare.time.0).collect();
        spared.sort_unstable();
        spared
    }

    #[test]
    fn the_log_is_trimmed_to_a_checkpoint_older_than_its_retention() {
        let kept = hours(&[1, 2, 5, 9]);
        for (since, upto) in [(0, None), (1, None), (2, Some(10)), (5, Some(20)), (6, Some(50)), (100, Some(90))] {
            assert_eq!(base(&kept, LogTime(since)), upto.map(Offset), "since {since}");
        }
        assert_eq!(base(&[], LogTime(9)), None);
    }

    #[test]
    fn the_last_two_and_what_the_log_begins_with_are_kept() {
        assert_eq!(spared(&hours(&[1, 2, 3, 4]), 0, false), [1, 2]);
        assert_eq!(spared(&hours(&[1, 2, 3, 4, 5]), 20, false), [1, 3], "the log begins at 2");
        assert_eq!(spared(&hours(&[1, 2]), 0, false), [0; 0]);
        assert_eq!(spared(&hours(&[1, 2]), 900, false), [0; 0], "whatever else trimmed the log");
        assert_eq!(spared(&hours(&[1, 2, 3, 4]), 20, true), [1]);
    }

    #[test]
    fn while_the_log_is_trimmed_those_between_are_spread_over_time() {
        let mut kept = Vec::new();
        for hour in 1..=100 {
            kept.extend(hours(&[hour]));
            let spare = spared(&kept, 10, true);
            kept.retain(|checkpoint| !spare.contains(&checkpoint.time.0));
            let at: Vec<i64> = kept.iter().map(|checkpoint| checkpoint.time.0).collect();
            assert!(at.len() <= CHECKPOINTS_KEPT_MAX && at[0] == 1, "{at:?}");
            let widest = at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            assert!(widest <= 2 + hour / 2, "what is trimmed next is not far: {at:?}");
        }
    }
}
