//! Time and ids, passed in so that nothing else asks for them.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt, future::BoxFuture};
use ringforge_domain::position::LogTime;

/// The time. Only `Log` adapters turn it into log time.
pub trait Clock: Send + Sync {
    /// Wall-clock time, for display and for the log's stamp. May jump.
    fn wall(&self) -> LogTime;
    /// From now on wall-clock time is not before `time`, and moves on from there.
    fn go_on_from(&self, time: LogTime);
    /// Time since some start. Never falls.
    fn monotonic(&self) -> Duration;
    /// Resolves when so much monotonic time has passed.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's clocks. Wall-clock time never falls and never stands still: see [`Anchor`].
pub struct SystemClock {
    start: Instant,
    anchor: Mutex<Anchor>,
}

/// When the machine's wall clock last stood where we were, or ahead, and what was told then.
#[derive(Clone, Copy, Debug, Default)]
struct Anchor {
    time: LogTime,
    monotonic: Duration,
}

impl Anchor {
    /// The time to tell. What jumps ahead is followed at once; while `wall` is behind, time goes on at half its pace, so
    /// that what is due comes due.
    fn tell(&mut self, wall: LogTime, monotonic: Duration) -> LogTime {
        let since = monotonic.saturating_sub(self.monotonic) / 2;
        let slow = self.time.plus(i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        if wall < slow {
            return slow;
        }
        *self = Self { time: wall, monotonic };
        wall
    }
}

impl SystemClock {
    /// Starts the monotonic count.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    pub fn start() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), anchor: Mutex::default() })
    }

    fn anchor(&self) -> MutexGuard<'_, Anchor> {
        self.anchor.lock().expect("no panic while the lock is held")
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn wall(&self) -> LogTime {
        // The machine is asked under the lock: what is told later must not be earlier.
        let mut anchor = self.anchor();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        anchor.tell(LogTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)), self.monotonic())
    }

    fn go_on_from(&self, time: LogTime) {
        self.anchor().tell(time, self.monotonic());
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(time).boxed()
    }
}

/// A clock that moves only when told to. Whoever sleeps by it has to be polled again once it has moved.
pub struct ManualClock {
    micros: Arc<AtomicI64>,
    start: i64,
}

impl ManualClock {
    /// Starts at `wall`.
    pub fn at(wall: LogTime) -> Arc<Self> {
        Arc::new(Self { micros: Arc::new(AtomicI64::new(wall.0)), start: wall.0 })
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        self.micros.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> LogTime {
        LogTime(self.micros.load(Ordering::Relaxed))
    }

    /// Only those who hold it move it.
    fn go_on_from(&self, _: LogTime) {}

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed).abs_diff(self.start))
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let micros = Arc::clone(&self.micros);
        let due = micros.load(Ordering::Relaxed).saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
        let over = move || micros.load(Ordering::Relaxed) >= due;
        poll_fn(move |_| if over() { Poll::Ready(()) } else { Poll::Pending }).boxed()
    }
}

/// Where ids and secrets come from: 128 bits, never the same twice.
pub trait Ids: Send + Sync {
    /// Time-ordered bits, for ids.
    fn next(&self) -> u128;
    /// Unpredictable bits, for keys and tokens.
    fn secret(&self) -> [u8; 32];
}

/// UUID v7 and the machine's entropy.
pub struct SystemIds;

impl Ids for SystemIds {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn next(&self) -> u128 {
        uuid::Uuid::now_v7().as_u128()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn secret(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        bytes[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        bytes
    }
}

/// A row of ids that a seed decides.
pub struct SeededIds {
    state: Mutex<u64>,
    count: AtomicU64,
}

impl SeededIds {
    /// The row of `seed`.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(seed), count: AtomicU64::new(1) })
    }

    fn word(&self) -> u64 {
        let mut state = self.state.lock().expect("no panic while the lock is held");
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = *state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

impl Ids for SeededIds {
    fn next(&self) -> u128 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        (u128::from(count) << 64) | u128::from(self.word())
    }

    fn secret(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.word().to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests;
