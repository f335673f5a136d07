//! What all clients of one run share: where the server is now, what waits for an answer, a random number.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

/// The tag of every broadcast of the load.
pub const TAG: &str = "load";
/// The last broadcast of a run: whoever sees it has seen everything.
pub const END: &str = "the end";
/// The agents that watch from the first to the last event, and are sent direct messages.
pub const OBSERVERS: [&str; 2] = ["observer-0", "observer-1"];
/// How long it may take until somebody is let in again.
const LET_IN: Duration = Duration::from_secs(30);
/// How long is waited between two tries.
const AGAIN: Duration = Duration::from_millis(25);

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
    /// Where agents connect in the present life of the server.
    url: Mutex<String>,
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
            url: Mutex::default(),
        }
    }

    /// The server is ready.
    pub fn begin(&self, url: &str) {
        url.clone_into(&mut self.url.lock().expect("no panic while the lock is held"));
    }

    /// To come in again, in whatever life the server is by then.
    pub fn tries(&self) -> Tries<'_> {
        Tries { run: self, deadline: Instant::now() + LET_IN }
    }

    /// Notes an acknowledgement.
    pub fn acknowledged(&self, frame: &Value) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if let Some(position) = frame["position"].as_u64() {
            self.head.fetch_max(position, Ordering::Relaxed);
        }
    }
}

/// Somebody who wants to come in.
pub struct Tries<'a> {
    run: &'a Run,
    deadline: Instant,
}

impl Tries<'_> {
    /// Where to try it next, after a moment.
    pub async fn url(&mut self) -> String {
        assert!(Instant::now() < self.deadline, "nobody is let in any more");
        tokio::time::sleep(AGAIN).await;
        self.run.url.lock().expect("no panic while the lock is held").clone()
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
