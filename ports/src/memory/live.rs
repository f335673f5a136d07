//! The live bus within one process. No task, no thread, no timer: publishing is done at its first poll, and what is over is
//! forgotten when it is next looked at.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use ringforge_domain::ids::Scope;

use crate::{
    Error,
    clock::Clock,
    followers::Followers,
    live::{Directory, Heard, Live, News},
};

/// A bus that dies with its process.
pub struct MemoryLive {
    clock: Arc<dyn Clock>,
    begun: Duration,
    followers: Followers,
    facts: Mutex<Facts>,
}

/// What ends by itself, with the monotonic time of its end.
#[derive(Default)]
struct Facts {
    kept: BTreeMap<String, (String, Duration)>,
    counters: BTreeMap<String, (u64, Duration)>,
    /// At this size what is over is swept out.
    sweep_at: usize,
}

/// Facts and counters below which sweeping is not worth it.
const SWEEP_MIN: usize = 1_024;

impl MemoryLive {
    /// A bus that nobody follows yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { begun: clock.monotonic(), clock, followers: Followers::default(), facts: Mutex::default() })
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().expect("no panic while the lock is held")
}

impl Facts {
    /// Forgets what is over, now and then, so that keys that are never asked for again do not stay.
    fn sweep(&mut self, now: Duration) {
        if self.kept.len() + self.counters.len() < self.sweep_at.max(SWEEP_MIN) {
            return;
        }
        self.kept.retain(|_, (_, end)| now < *end);
        self.counters.retain(|_, (_, end)| now < *end);
        self.sweep_at = 2 * (self.kept.len() + self.counters.len());
    }
}

#[async_trait]
impl Live for MemoryLive {
    async fn publish(&self, news: &[News]) -> Result<(), Error> {
        self.followers.tell(news);
        Ok(())
    }

    async fn subscribe(&self, scope: Scope) -> Result<BoxStream<'static, Heard>, Error> {
        Ok(self.followers.follow(scope).boxed())
    }

    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<(), Error> {
        let now = self.clock.monotonic();
        let mut facts = lock(&self.facts);
        facts.kept.insert(key.to_owned(), (value.to_owned(), now.saturating_add(ttl)));
        facts.sweep(now);
        Ok(())
    }

    async fn scan(&self, directory: &str) -> Result<Directory, Error> {
        let now = self.clock.monotonic();
        let facts = lock(&self.facts);
        let inside = facts.kept.range(directory.to_owned()..).take_while(|(key, _)| key.starts_with(directory));
        let named = inside.filter(|(key, (_, end))| !key[directory.len()..].contains('/') && now < *end);
        let facts = named.map(|(key, (value, _))| (key.clone(), value.clone())).collect();
        Ok(Directory { facts, intact: now.saturating_sub(self.begun) })
    }

    async fn count(&self, key: &str, add: u64, window: Duration) -> Result<u64, Error> {
        let now = self.clock.monotonic();
        let mut facts = lock(&self.facts);
        if let Some((count, end)) = facts.counters.get_mut(key)
            && now < *end
        {
            *count = count.saturating_add(add);
            return Ok(*count);
        }
        if add > 0 {
            facts.counters.insert(key.to_owned(), (add, now.saturating_add(window)));
            facts.sweep(now);
        }
        Ok(add)
    }
}

impl Drop for MemoryLive {
    /// Tells the followers that nothing will come any more.
    fn drop(&mut self) {
        self.followers.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ringforge_domain::{
        code::{Code, Refusal},
        ids::CommandId,
        limits,
        position::{LogTime, Offset, Partition, Position},
        verdict::{Index, Outcome, Verdict},
    };

    use super::*;
    use crate::{clock::ManualClock, reads::Update};

    fn head(last: u64) -> News {
        News::Head { scope: Scope::OPERATOR, last: Offset(last) }
    }

    #[test]
    fn nothing_waits_without_a_runtime() {
        let live = MemoryLive::new(ManualClock::at(LogTime(5)));
        let mut follower = live.subscribe(Scope::OPERATOR).now_or_never().expect("done at once").expect("it follows");
        assert!(follower.next().now_or_never().is_none());
        live.publish(&[head(1), head(2)]).now_or_never().expect("done at once").expect("published");
        for last in [1, 2] {
            assert_eq!(follower.next().now_or_never(), Some(Some(Heard::News(head(last)))));
        }
        assert!(follower.next().now_or_never().is_none());
        drop(live);
        assert_eq!(follower.next().now_or_never(), Some(None), "it ends with the bus");
    }

    /// A refusal that tells so many bytes.
    fn refused(offset: u64, bytes: usize) -> News {
        let refusal = Refusal::new(Code::Conflict).with("current_value", "x".repeat(bytes));
        let verdict = Verdict {
            position: Position { partition: Partition::POOL, offset: Offset(offset) },
            time: LogTime(5),
            scope: Scope::OPERATOR,
            command_id: CommandId::from_bits(1),
            agent: None,
            previous: None,
            outcome: Outcome::Refused(refusal),
            first: None,
            index: Index::default(),
        };
        News::from(Update { event: None, verdict })
    }

    #[test]
    fn what_waits_is_bounded_by_bytes_too() {
        let live = MemoryLive::new(ManualClock::at(LogTime(5)));
        let mut follower = live.subscribe(Scope::OPERATOR).now_or_never().expect("done at once").expect("it follows");
        let quarter = limits::FOLLOWER_QUEUE_BYTES_MAX / 4;
        for offset in 0..5 {
            let news = [refused(offset, quarter)];
            live.publish(&news).now_or_never().expect("done at once").expect("published");
        }
        let mut hear = || follower.next().now_or_never().flatten();
        assert_eq!(hear(), Some(Heard::Lost), "four were as much as may wait");
        assert!(hear() == Some(Heard::News(refused(4, quarter))), "the fifth begins anew");
        assert!(hear().is_none());
        for offset in 5..10 {
            let news = [refused(offset, quarter)];
            live.publish(&news).now_or_never().expect("done at once").expect("published");
            assert!(hear() == Some(Heard::News(news[0].clone())), "whoever listens loses nothing");
        }
    }

    #[test]
    fn what_is_over_is_swept_out() {
        let clock = ManualClock::at(LogTime(0));
        let live = MemoryLive::new(clock.clone());
        for round in 0..10 * SWEEP_MIN {
            clock.advance(Duration::from_secs(1));
            let second = Duration::from_secs(1);
            live.put(&format!("fact {round}"), "", second).now_or_never().expect("done at once").expect("kept");
            live.count(&format!("count {round}"), 1, second).now_or_never().expect("done at once").expect("counted");
        }
        let facts = lock(&live.facts);
        assert!(facts.kept.len() + facts.counters.len() <= SWEEP_MIN);
    }
}
