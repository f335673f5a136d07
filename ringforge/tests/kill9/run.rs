//! What all clients of one run share: where the server is now, what waits for an answer, a random number.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::watch;

/// The tag of every broadcast of the load.
pub const TAG: &str = "load";
/// The last broadcast of a run: whoever sees it has seen everything.
pub const END: &str = "the end";
/// The agents that watch from the first to the last event, and are sent direct messages.
pub const OBSERVERS: [&str; 2] = ["observer-0", "observer-1"];
/// How long a life of the server may be waited for.
const NEXT_LIFE: Duration = Duration::from_secs(30);

/// One life of the server, from ready to `kill -9`.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Counted from 1.
    pub number: u32,
    /// Where agents connect.
    pub url: String,
}

/// What all clients share.
pub struct Run {
    /// The agents' key.
    pub key: String,
    /// Commands sent and not answered.
    pub in_flight: AtomicI64,
    /// Commands answered.
    pub answered: AtomicU64,
    /// The highest position acknowledged.
    pub head: AtomicU64,
    /// Set when writers shall come to an end.
    pub stopping: AtomicBool,
    /// The seed of this run.
    pub seed: u64,
    lives: watch::Sender<Life>,
}

impl Run {
    /// A run with nobody in it.
    pub fn new(key: &str, seed: u64) -> Self {
        Self {
            key: key.to_owned(),
            in_flight: AtomicI64::new(0),
            answered: AtomicU64::new(0),
            head: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            seed,
            lives: watch::Sender::new(Life::default()),
        }
    }

    /// The server is ready.
    pub fn begin(&self, number: u32, url: &str) {
        self.lives.send_replace(Life { number, url: url.to_owned() });
    }

    /// The first life after this one.
    pub async fn life_after(&self, number: u32) -> Life {
        let mut lives = self.lives.subscribe();
        let next = lives.wait_for(|life| life.number > number);
        let next = tokio::time::timeout(NEXT_LIFE, next).await.expect("the server comes back");
        next.expect("the run goes on").clone()
    }

    /// Notes an acknowledgement.
    pub fn acknowledged(&self, frame: &Value) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if let Some(position) = frame["position"].as_u64() {
            self.head.fetch_max(position, Ordering::Relaxed);
        }
    }
}

/// Repeatable random numbers (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}
