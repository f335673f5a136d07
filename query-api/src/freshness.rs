//! Whether answers may be old: while the log is away, nobody knows whether it holds more than the read models do.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{
    future::{Either, select},
    pin_mut,
};
use ringforge_domain::position::Partition;
use ringforge_ports::Services;

/// How long it counts that the log was there, or was not.
const COUNTS: Duration = Duration::from_secs(1);
/// How long the log has to answer: one asker a second may wait for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of the log's partitions.
#[derive(Default)]
pub struct Freshness(Mutex<BTreeMap<Partition, Known>>);

#[derive(Clone, Copy, Default)]
struct Known {
    looked: Option<Duration>,
    is_away: bool,
}

impl Freshness {
    /// Whether what is answered now is `stale`: the log does not answer. It is asked once a second at most, whoever asks for it.
    pub async fn is_stale(&self, services: &Services, partition: Partition) -> bool {
        let now = services.clock.monotonic();
        {
            let mut partitions = self.known();
            let known = partitions.entry(partition).or_default();
            if known.looked.is_some_and(|looked| now.saturating_sub(looked) < COUNTS) {
                return known.is_away;
            }
            known.looked = Some(now);
        }
        let bounds = services.log.bounds(partition);
        let late = services.clock.sleep(PATIENCE);
        pin_mut!(bounds);
        let is_away = match select(bounds, late).await {
            Either::Left((bounds, _)) => bounds.is_err(),
            Either::Right(_) => true,
        };
        self.known().entry(partition).or_default().is_away = is_away;
        is_away
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Partition, Known>> {
        self.0.lock().expect("no panic while the lock is held")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ringforge_domain::position::LogTime;
    use ringforge_ports::{
        clock::ManualClock,
        memory::in_memory,
        points::{Act, Call, Decide, around},
    };

    use super::*;

    #[tokio::test]
    async fn answers_are_stale_while_the_log_is_away() {
        let clock = ManualClock::at(LogTime(1));
        let services = in_memory(clock.clone());
        let away = Arc::new(Mutex::new(false));
        let told = Arc::clone(&away);
        let decide: Decide = Arc::new(move |point| {
            (point.call == Call::LogBounds && *told.lock().expect("no panic")).then_some(Act::Error)
        });
        let (services, freshness) = (around(services, &decide), Freshness::default());
        assert!(!freshness.is_stale(&services, Partition::POOL).await);
        *away.lock().expect("no panic") = true;
        assert!(!freshness.is_stale(&services, Partition::POOL).await, "it was there a moment ago");
        clock.advance(COUNTS);
        assert!(freshness.is_stale(&services, Partition::POOL).await);
        *away.lock().expect("no panic") = false;
        assert!(freshness.is_stale(&services, Partition::POOL).await, "it is not asked all the time");
        clock.advance(COUNTS);
        assert!(!freshness.is_stale(&services, Partition::POOL).await);
    }
}
