//! What a gate knows of a partition: how much waits for its verdict, whose it is, and the time that the log gave.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use ringforge_domain::{
    ids::Scope,
    position::{LogTime, Offset},
};
use ringforge_ports::log::Placed;

/// One partition's.
#[derive(Default)]
pub(crate) struct Progress {
    end: Offset,
    /// Nobody has said so far: then nothing is held against anybody.
    applied: Option<Offset>,
    time: LogTime,
    seen_at: Duration,
    /// What this gate appended and nobody has applied: after which offset, whose, how many.
    waiting: VecDeque<(Offset, Scope, u64)>,
    /// How many of these are each fleet's.
    fleets: BTreeMap<Scope, u64>,
}

impl Progress {
    /// So far it is applied.
    pub(crate) fn applied(&mut self, applied: Offset) {
        let applied = self.applied.map_or(applied, |known| known.max(applied));
        self.applied = Some(applied);
        self.end = self.end.max(applied);
        while let Some((end, scope, count)) = self.waiting.front().copied()
            && end <= applied
        {
            self.waiting.pop_front();
            if let Some(left) = self.fleets.get_mut(&scope) {
                *left -= count;
                if *left == 0 {
                    self.fleets.remove(&scope);
                }
            }
        }
    }

    /// A fleet's records stand there. They were asked for at this monotonic time.
    pub(crate) fn appended(&mut self, scope: Scope, placed: &[Placed], asked_at: Duration) {
        let Some(last) = placed.last() else { return };
        let end = last.offset.next();
        self.end = self.end.max(end);
        // The answer may have taken long; the log took its time after it was asked.
        if last.time >= self.time {
            (self.time, self.seen_at) = (last.time, asked_at);
        }
        if self.applied.is_none_or(|applied| end > applied) {
            let count = placed.len() as u64;
            self.waiting.push_back((end, scope, count));
            *self.fleets.entry(scope).or_default() += count;
        }
    }

    /// How many events wait for their verdict, as far as is known.
    pub(crate) fn lag(&self) -> u64 {
        self.applied.map_or(0, |applied| self.end.0.saturating_sub(applied.0))
    }

    /// Whether it must be asked how far it is applied.
    pub(crate) fn is_behind(&self) -> bool {
        self.applied.is_none_or(|applied| applied < self.end)
    }

    /// How many of those that this gate appended are a fleet's.
    pub(crate) fn lag_of(&self, scope: Scope) -> u64 {
        self.fleets.get(&scope).copied().unwrap_or_default()
    }

    /// Newest log time, and when it was asked for; `None` before there is any.
    pub(crate) fn time(&self) -> Option<(LogTime, Duration)> {
        (self.time > LogTime::default()).then_some((self.time, self.seen_at))
    }
}

#[cfg(test)]
mod tests {
    use ringforge_domain::ids::{FleetId, TenantId};

    use super::*;

    #[test]
    fn what_waits_is_known_by_fleet_until_it_is_applied() {
        let scope = |fleet| Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(fleet) };
        let placed = |from: u64, count: u64| -> Vec<Placed> {
            (from..from + count).map(|at| Placed { offset: Offset(at), time: LogTime(1) }).collect()
        };
        let mut progress = Progress::default();
        progress.appended(scope(1), &placed(90_000, 1), Duration::ZERO);
        assert_eq!((progress.lag(), progress.is_behind()), (0, true), "nobody has said how far it is applied");
        let mut progress = Progress::default();
        progress.applied(Offset::ZERO);
        progress.appended(scope(1), &placed(0, 3), Duration::ZERO);
        progress.appended(scope(2), &placed(3, 2), Duration::ZERO);
        progress.appended(scope(1), &placed(5, 1), Duration::ZERO);
        let lags = |progress: &Progress| (progress.lag(), progress.lag_of(scope(1)), progress.lag_of(scope(2)));
        assert_eq!(lags(&progress), (6, 4, 2));
        progress.applied(Offset(2));
        assert_eq!(lags(&progress), (4, 4, 2), "an append counts until all of it is applied");
        progress.applied(Offset(5));
        assert_eq!(lags(&progress), (1, 1, 0));
        progress.applied(Offset(1));
        assert_eq!(lags(&progress), (1, 1, 0), "it does not fall");
        progress.applied(Offset(9));
        assert_eq!(lags(&progress), (0, 0, 0));
        progress.appended(scope(1), &placed(7, 1), Duration::ZERO);
        assert_eq!(lags(&progress), (0, 0, 0), "it was applied before its append was answered");
    }
}
