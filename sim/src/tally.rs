//! How often each fault was made and each situation was met. A batch of seeds that never met one has shown nothing of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use ringforge_domain::buggify::Site;
use ringforge_ports::points::{Call, Point};
use serde_json::Value;

use crate::vocabulary::commands::KEYS;

/// Everything that a batch must have met.
pub const MET: [&str; 70] = [
    "fault: publish lost",
    "fault: publish doubled",
    "fault: publish late",
    "fault: bus cut",
    "fault: append refused",
    "fault: append unknown, logged",
    "fault: append unknown, not logged",
    "fault: append unknown, logged in part",
    "fault: append unknown, logged later",
    "fault: record damaged",
    "fault: projector died between load and commit",
    "fault: projector died between commit and publish",
    "fault: commit answer lost",
    "fault: projector paused before commit",
    "fault: second projector",
    "fault: edge killed",
    "fault: everything restarted",
    "fault: read model older after restart",
    "fault: socket killed",
    "fault: socket half open",
    "fault: peer reads nothing",
    "fault: log trimmed",
    "fault: time jump of seconds",
    "fault: time jump of minutes",
    "fault: time jump of a day",
    "rare: batch of one event",
    "rare: rows at hand forgotten",
    "rare: append of one record",
    "rare: one command handed to the gate",
    "rare: gap looked for that is not there",
    "rare: recent updates forgotten",
    "rare: queue full with one post in it",
    "rare: page of history of two events",
    "rare: page of history full after one event",
    "rare: timers find one thing",
    "situation: gap noticed by the next update",
    "situation: gap noticed by a head",
    "situation: gap noticed by an own command",
    "situation: gap filled",
    "situation: update heard twice",
    "situation: stale commit refused",
    "situation: late commit of a paused projector landed",
    "situation: two projectors on one partition",
    "situation: resume recovered",
    "situation: resume from an early event",
    "situation: resume after a forged event refused",
    "situation: resume after a forgotten event refused",
    "situation: resume took several pages",
    "situation: resume crossed a projector's death",
    "situation: resume crossed a restart",
    "situation: history joined live within the tail",
    "situation: connection lagged and caught up",
    "situation: session replaced",
    "situation: shown by the feed alone",
    "situation: shown by the feed, its task woken",
    "situation: entrance given up",
    "situation: compare-and-set held",
    "situation: compare-and-set conflict",
    "situation: key set again after a deletion",
    "situation: expiry recorded by a timer",
    "situation: duplicate answered",
    "situation: memory read after a write was seen",
    "situation: snapshot during writes",
    "situation: page of memory cut by its bytes",
    "situation: page of history cut by its bytes",
    "situation: commit ended by its bytes",
    "situation: mail delivered after an absence",
    "situation: final presence after each change",
    "situation: final presence after deltas",
    "situation: final presence after a lag",
];

/// What can go wrong at a point.
const WRONG: [&str; 3] = ["exit", "error", "delay"];

/// Calls that no role makes: nothing is trimmed by the product yet, and the driver renews leases.
const NOT_PASSED: [Call; 1] = [Call::LogTrim];

/// How something rare is counted.
pub fn rare(site: Site) -> &'static str {
    match site {
        Site::SmallBatch => "rare: batch of one event",
        Site::RowsForgotten => "rare: rows at hand forgotten",
        Site::SmallAppend => "rare: append of one record",
        Site::SmallSubmit => "rare: one command handed to the gate",
        Site::NeedlessFill => "rare: gap looked for that is not there",
        Site::TailForgotten => "rare: recent updates forgotten",
        Site::EarlyLag => "rare: queue full with one post in it",
        Site::ShortPage => "rare: page of history of two events",
        Site::NarrowPage => "rare: page of history full after one event",
        Site::FewDue => "rare: timers find one thing",
    }
}

/// Counts. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    passed: Arc<Mutex<BTreeMap<(Point, &'static str), u64>>>,
    story: Option<Arc<Mutex<Vec<String>>>>,
}

impl Tally {
    /// One that also tells what happened, for people.
    pub fn telling() -> Self {
        Self { story: Some(Arc::default()), ..Self::default() }
    }

    /// Tells something, if anyone wants to know.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(story) = &self.story {
            lock(story).push(line());
        }
    }

    /// What was told.
    pub fn story(&self) -> Vec<String> {
        self.story.as_ref().map(|story| lock(story).clone()).unwrap_or_default()
    }

    /// Counts one of [`MET`].
    pub fn note(&self, what: &'static str) {
        debug_assert!(MET.contains(&what), "{what} is not in the list of what must be met");
        *lock(&self.counts).entry(what).or_default() += 1;
        if what.starts_with("fault") {
            self.tell(|| what.to_owned());
        }
    }

    /// Counts that something, one of [`WRONG`], went wrong at a point.
    pub fn pass(&self, point: Point, what: &'static str) {
        *lock(&self.passed).entry((point, what)).or_default() += 1;
        self.tell(|| format!("fault: {what} at {point}"));
    }

    /// Counts what a frame shows that an agent has read.
    pub fn read(&self, frame: &Value) {
        if frame["duplicate"] == true {
            self.note("situation: duplicate answered");
        }
        match (frame["type"].as_str(), frame["event"].as_str(), frame["reason"].as_str()) {
            (Some("system"), Some("resumed"), _) if frame["recovered"] == true => {
                self.note("situation: resume recovered");
            }
            (Some("system"), Some("resumed"), Some("invalid")) => {
                self.note("situation: resume after a forged event refused");
            }
            (Some("system"), Some("resumed"), Some("expired")) => {
                self.note("situation: resume after a forgotten event refused");
            }
            // All keys together are fewer than a page has places.
            (Some("memory"), Some("list_result"), _) if frame["has_more"] == true => {
                let entries = frame["entries"].as_array().map_or(0, Vec::len);
                debug_assert!(entries < KEYS.len(), "{frame}");
                self.note("situation: page of memory cut by its bytes");
            }
            _ => {}
        }
    }

    /// Adds all counts of another.
    pub fn add(&self, other: &Self) {
        for (what, count) in lock(&other.counts).iter() {
            *lock(&self.counts).entry(what).or_default() += count;
        }
        for (what, count) in lock(&other.passed).iter() {
            *lock(&self.passed).entry(*what).or_default() += count;
        }
    }

    /// Everything that a batch must have met, with its count: [`MET`], and everything that can go wrong at each point that a role
    /// passes.
    pub fn all(&self) -> Vec<(String, u64)> {
        let (counts, passed) = (lock(&self.counts), lock(&self.passed));
        let met = MET.iter().map(|what| ((*what).to_owned(), counts.get(what).copied().unwrap_or(0)));
        let points = Point::ALL.into_iter().filter(|point| !NOT_PASSED.contains(&point.call));
        let points = points.flat_map(|point| WRONG.map(|what| (point, what)));
        let points = points.map(|at| (format!("point {}: {}", at.0, at.1), passed.get(&at).copied().unwrap_or(0)));
        met.chain(points).collect()
    }
}

/// The state behind a lock.
pub fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().expect("no panic while the lock is held")
}
