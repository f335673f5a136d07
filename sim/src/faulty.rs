//! The ports of the simulation: those in memory, with faults in front. A port that waits does so only until it is asked
//! again, so that a scheduler decides what happens in between.

pub mod bus;
pub mod journal;
pub mod store;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::pending};
use ringforge_ports::points::{Act, Decide, Point};

use crate::{
    rng::Rng,
    tally::{Tally, lock},
};

/// How often, per mille, each fault happens in this world. Calm: never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Odds {
    /// A publish is lost.
    pub lost: u64,
    /// A publish is heard twice.
    pub doubled: u64,
    /// A publish comes late.
    pub late: u64,
    /// An append is refused.
    pub refused: u64,
    /// The answer to an append is lost.
    pub unknown: u64,
    /// A record is damaged on its way into the log.
    pub damaged: u64,
    /// A port takes a moment.
    pub waits: u64,
    /// Something rare that is allowed happens.
    pub buggify: u64,
    /// Something goes wrong before or after a call of a port, of ten thousand.
    pub points: u64,
}

/// Who is behind a port, and dies where it is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The edge at this place.
    Edge(usize),
    /// The projector of this number.
    Projector(u64),
    /// The timers of this number.
    Timers(usize),
}

/// What all faulty ports of a world share.
#[derive(Clone)]
pub struct Fate {
    inner: Arc<Mutex<(Rng, Odds)>>,
    dying: Arc<Mutex<Vec<Role>>>,
    spared: Arc<AtomicBool>,
    /// Where faults are counted.
    pub tally: Tally,
}

impl Fate {
    /// Decided by `rng`.
    pub fn new(rng: Rng, odds: Odds, tally: Tally) -> Self {
        Self { inner: Arc::new(Mutex::new((rng, odds))), dying: Arc::default(), spared: Arc::default(), tally }
    }

    /// From now on these odds.
    pub fn face(&self, odds: Odds) {
        lock(&self.inner).1 = odds;
    }

    /// From now on this chance.
    pub fn draw(&self, rng: Rng) {
        lock(&self.inner).0 = rng;
    }

    /// No more faults but those of the bus.
    pub fn calm_but_bus(&self) {
        let odds = lock(&self.inner).1;
        self.face(Odds { refused: 0, unknown: 0, damaged: 0, waits: 0, points: 0, ..odds });
    }

    /// No more faults.
    pub fn calm(&self) {
        self.face(Odds::default());
    }

    /// Whether a fault of these odds happens now.
    pub fn strikes(&self, odds: impl Fn(&Odds) -> u64) -> bool {
        let (rng, known) = &mut *lock(&self.inner);
        let per_mille = odds(known);
        per_mille > 0 && rng.chance(per_mille)
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        lock(&self.inner).0.below(end)
    }

    /// Whether nothing goes wrong at any point, while everything starts.
    pub fn spare(&self, spared: bool) {
        self.spared.store(spared, Ordering::Relaxed);
    }

    /// Who has come to the point where it dies.
    pub fn dying(&self) -> Vec<Role> {
        std::mem::take(&mut *lock(&self.dying))
    }

    /// What decides, at every point of a role's ports, whether it fails, takes a moment or is where the role dies.
    pub fn points(&self, role: Role) -> Decide {
        let fate = self.clone();
        Arc::new(move |point| fate.pass(role, point))
    }

    fn pass(&self, role: Role, point: Point) -> Option<Act> {
        if self.spared.load(Ordering::Relaxed) {
            return None;
        }
        let drawn = {
            let (rng, odds) = &mut *lock(&self.inner);
            (odds.points > 0 && rng.below(10_000) < odds.points).then(|| rng.below(8))
        }?;
        self.tally.pass(
            point,
            match drawn {
                0 => "exit",
                1..4 => "error",
                _ => "delay",
            },
        );
        Some(match drawn {
            0 => {
                lock(&self.dying).push(role);
                Act::Wait(pending().boxed())
            }
            1..4 => Act::Error,
            _ => Act::Wait(Moment { over: false }.boxed()),
        })
    }

    /// Perhaps takes a moment.
    pub async fn wait(&self) {
        if self.strikes(|odds| odds.waits) {
            Moment { over: false }.await;
        }
    }
}

/// Ready when it is asked the second time.
struct Moment {
    over: bool,
}

impl Future for Moment {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.over, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The answer of a port that never waits.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the ports in memory answer at once")
}

/// Polls until it is ready: for work that nothing needs to come between. `None`: whoever does it died over it.
pub fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = Box::pin(future);
    (0..1_000).find_map(|_| future.as_mut().now_or_never())
}
