//! Bugs planted on purpose, so that the simulation can show that it would find them. Only builds with the feature `planted`
//! have them, and even there nothing happens unless one is named; in all others the question is a constant `false`.

/// A bug. Each is at one place, where it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// History is joined to live one event too early: it comes twice.
    SeamTooEarly,
    /// History is joined to live one event too late: it is missing.
    SeamTooLate,
    /// A commit does not ask whether the partition still stands where its batch began.
    GuardDropped,
    /// The ends of fleets are neither told nor asked for: a lost last update stays lost.
    LastPublishLost,
    /// A key that was deleted counts from 1 again.
    VersionRestarts,
    /// A record is taken for durable before it is.
    AckBeforeSync,
    /// A reply goes out once the log has the command, before anyone decided it.
    AckBeforeVerdict,
    /// An append that may have landed is told as one that did not.
    UnknownIsDefinite,
    /// A damaged record is skipped and leaves no verdict.
    DamagedSkipped,
    /// The position of a batch is stored before its rows are.
    PositionBeforeRows,
    /// The event before one is taken to be at the offset before it.
    PreviousIsOffsetBefore,
    /// How long an idempotency key counts is measured by the wall clock.
    WindowByWallClock,
    /// Whether an entry's time is over is decided by the wall clock.
    TtlByWallClock,
    /// What the fold writes depends on the order in which a hash map gives its keys.
    UnorderedFold,
    /// Rows of memory are named without their tenant.
    TenantForgotten,
    /// A connection's queue of pushes has no end.
    QueueUnbounded,
    /// A message counts as delivered before the socket took it.
    DeliveredBeforeWritten,
    /// Questions are answered from what was there a while ago.
    StaleReads,
    /// A guard that does not hold is passed over.
    GuardIgnored,
    /// Whoever waited for answers is not read again once they are shown.
    NotReadAgain,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::SeamTooEarly,
        Self::SeamTooLate,
        Self::GuardDropped,
        Self::LastPublishLost,
        Self::VersionRestarts,
        Self::AckBeforeSync,
        Self::AckBeforeVerdict,
        Self::UnknownIsDefinite,
        Self::DamagedSkipped,
        Self::PositionBeforeRows,
        Self::PreviousIsOffsetBefore,
        Self::WindowByWallClock,
        Self::TtlByWallClock,
        Self::UnorderedFold,
        Self::TenantForgotten,
        Self::QueueUnbounded,
        Self::DeliveredBeforeWritten,
        Self::StaleReads,
        Self::GuardIgnored,
        Self::NotReadAgain,
    ];
}

#[cfg(feature = "planted")]
mod named {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// The bug of this thread from now on.
    pub fn plant(bug: Option<Bug>) {
        BUG.set(bug);
    }

    /// Whether this bug is planted in this thread.
    pub fn planted(bug: Bug) -> bool {
        BUG.get() == Some(bug)
    }

    /// What a clock on the wall says, in microseconds: another time whenever it is asked, and never the log's.
    pub fn wall_clock() -> i64 {
        super::WALL_CLOCK + i64::try_from(asked()).unwrap_or_default()
    }

    /// These in an order that nothing decides, as a hash map gives its keys.
    pub fn unordered<T>(of: &mut [T]) {
        if planted(Bug::UnorderedFold) && !of.is_empty() {
            of.rotate_left(asked() % of.len());
        }
    }

    fn asked() -> usize {
        thread_local! {
            static ASKED: Cell<usize> = const { Cell::new(0) };
        }
        ASKED.set(ASKED.get() + 1);
        ASKED.get()
    }
}

#[cfg(not(feature = "planted"))]
mod named {
    use super::Bug;

    /// No bug is planted in this build.
    pub const fn planted(_: Bug) -> bool {
        false
    }

    /// Nobody asks.
    pub const fn wall_clock() -> i64 {
        super::WALL_CLOCK
    }

    /// They stay as they are.
    pub const fn unordered<T>(_: &mut [T]) {}
}

pub use named::*;

/// Some time in 2026, a while before every simulated world begins.
const WALL_CLOCK: i64 = 1_769_999_000_000_000;
