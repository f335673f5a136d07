//! What all agents of one run share: where the server is now, how they feel, what they have met.

#![allow(dead_code, reason = "not every torture wakes sleepers")]

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ringforge_sim::tally::{Tally, lock};
use tokio::sync::watch;

/// How long a life of the server may be waited for.
const NEXT_LIFE: Duration = Duration::from_mins(1);

/// One life of the server, from ready to `kill -9`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Counted from 1.
    pub number: u32,
    /// Where agents connect: at any of these.
    pub urls: Vec<String>,
}

/// How agents go about what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// They ask now and then.
    Calm,
    /// They ask as fast as they are answered.
    Hurry,
    /// Nobody asks or disturbs any more: everyone comes back, hears all answers, and one more, so that it is known to be there.
    Ending,
    /// Everyone says a last word.
    Farewell,
    /// Whose connection ends does not come back.
    Over,
}

impl Mood {
    /// Whether everyone says one thing and does nothing else.
    pub fn is_quiet(self) -> bool {
        !matches!(self, Self::Calm | Self::Hurry)
    }
}

/// What an agent met that had slept.
#[derive(Clone, Copy, Debug)]
pub struct Woken {
    /// Events of its fleet that it missed, at least.
    pub missed: u64,
    /// Lives of the server that it slept through.
    pub lives: u32,
    /// Events of its fleet that came while it caught up, at least.
    pub arrived: u64,
}

/// How one agent is, seen from outside.
#[derive(Debug, Default)]
pub struct State {
    /// Whether it is in.
    pub inside: AtomicBool,
    /// Whether it is in for good: nobody disturbs any more, and what it said since over this connection is answered.
    pub settled: AtomicBool,
    /// Commands that it sent and whose answers it waits for, if it reads.
    pub in_flight: AtomicUsize,
    /// Agents of its fleet whose last word it read.
    pub last_words: AtomicUsize,
}

/// What all agents share.
pub struct Run {
    /// The agents' key of each fleet.
    pub keys: Vec<String>,
    /// How each agent is.
    pub states: Vec<State>,
    /// What was met.
    pub tally: Tally,
    /// Frames that anyone read.
    pub frames: AtomicU64,
    /// Sleepers that have fallen asleep.
    pub asleep: AtomicUsize,
    /// Sleepers that came back, and how that was.
    pub woken: Mutex<Vec<Woken>>,
    acknowledged: Vec<AtomicU64>,
    newest: Mutex<BTreeMap<usize, String>>,
    mood: watch::Sender<Mood>,
    life: watch::Sender<Option<Life>>,
    awake: watch::Sender<usize>,
}

impl Run {
    /// A run of so many agents, with no server yet.
    pub fn new(keys: Vec<String>, agents: usize) -> Self {
        Self {
            acknowledged: keys.iter().map(|_| AtomicU64::new(0)).collect(),
            keys,
            states: (0..agents).map(|_| State::default()).collect(),
            tally: Tally::default(),
            frames: AtomicU64::new(0),
            asleep: AtomicUsize::new(0),
            woken: Mutex::default(),
            newest: Mutex::default(),
            mood: watch::Sender::new(Mood::Calm),
            life: watch::Sender::new(None),
            awake: watch::Sender::new(0),
        }
    }

    /// The server is ready.
    pub fn begin(&self, number: u32, urls: Vec<String>) {
        self.life.send_replace(Some(Life { number, urls }));
    }

    /// The server is about to die.
    pub fn end(&self) {
        self.life.send_replace(None);
    }

    /// The server's life, once there is one; `None`: there will be no other.
    pub async fn life(&self) -> Option<Life> {
        if self.mood() == Mood::Over {
            return None;
        }
        let mut lives = self.life.subscribe();
        let alive = tokio::time::timeout(NEXT_LIFE, lives.wait_for(Option::is_some)).await;
        alive.expect("the server comes back").expect("the run goes on").clone()
    }

    /// How agents go about what they do now.
    pub fn mood(&self) -> Mood {
        *self.mood.borrow()
    }

    /// From now on they go about it so.
    pub fn feel(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Whoever sleeps and has a number below this wakes up.
    pub fn wake(&self, upto: usize) {
        self.awake.send_replace(upto);
    }

    /// Until this sleeper is woken.
    pub async fn sleep(&self, number: usize) {
        let mut awake = self.awake.subscribe();
        awake.wait_for(|upto| number < *upto).await.expect("the run goes on");
    }

    /// An event of a fleet was acknowledged.
    pub fn acknowledge(&self, fleet: usize) {
        self.acknowledged[fleet].fetch_add(1, Ordering::Relaxed);
    }

    /// Events of a fleet that were acknowledged so far.
    pub fn acknowledged(&self, fleet: usize) -> u64 {
        self.acknowledged[fleet].load(Ordering::Relaxed)
    }

    /// Commands in flight.
    pub fn in_flight(&self) -> usize {
        self.states.iter().map(|state| state.in_flight.load(Ordering::Relaxed)).sum()
    }

    /// Notes an event that a fleet was shown.
    pub fn show(&self, fleet: usize, event_id: &str) {
        lock(&self.newest).insert(fleet, event_id.to_owned());
    }

    /// An event of another fleet.
    pub fn foreign(&self, fleet: usize) -> Option<String> {
        lock(&self.newest).iter().find(|(other, _)| **other != fleet).map(|(_, event_id)| event_id.clone())
    }
}
