//! Snapshots: what is there goes out first, then the changes after it, none twice.

use std::collections::{BTreeMap, VecDeque};

use ringforge_domain::{code::Refusal, frame::Frame, glob, json::Json, position::Offset};
use serde::Serialize;
use serde_json::json;

use super::{Action, Session};

/// A page of entries.
#[derive(Debug)]
pub struct Snapshotted {
    /// Key, place of the last change, entry.
    pub entries: Vec<(String, Offset, Json)>,
    /// The page shows everything before this place.
    pub upto: Offset,
    /// The key after which the next page begins.
    pub next: Option<String>,
}

/// An entry as it is written.
#[derive(Serialize)]
struct One {
    entry: Json,
    snapshot: bool,
}

/// The snapshots of a session: one at a time.
#[derive(Debug, Default)]
pub struct Snapshots {
    waiting: VecDeque<(String, Option<Json>)>,
    running: Option<Cover>,
    done: Vec<Cover>,
}

/// What a snapshot has shown.
#[derive(Debug)]
struct Cover {
    pattern: String,
    /// The `ref` of its subscription.
    reference: Option<Json>,
    /// Changes before this place are in it.
    upto: Option<Offset>,
    /// Entries of later pages, by their last change.
    later: BTreeMap<String, Offset>,
}

impl Snapshots {
    /// Wants one of this pattern, for the subscription with this `ref`.
    pub fn ask(&mut self, pattern: String, reference: Option<Json>) {
        self.waiting.push_back((pattern, reference));
    }

    /// Whether one is being sent.
    pub fn running(&self) -> bool {
        self.running.is_some()
    }

    /// The next one to begin.
    pub fn next(&mut self) -> Option<(String, Option<String>)> {
        if self.running.is_some() {
            return None;
        }
        let (pattern, reference) = self.waiting.pop_front()?;
        self.running = Some(Cover { pattern: pattern.clone(), reference, upto: None, later: BTreeMap::new() });
        Some((pattern, None))
    }

    /// Whether a snapshot already showed the change of `key` at `offset`.
    pub fn covers(&self, key: &str, offset: Offset) -> bool {
        let covers = |cover: &Cover| {
            let shown = cover.upto.is_some_and(|upto| offset < upto) && glob::matches(&cover.pattern, key);
            shown || cover.later.get(key).is_some_and(|last| offset <= *last)
        };
        self.done.iter().any(covers)
    }
}

impl Session {
    pub(super) fn on_snapshotted(&mut self, page: Result<Snapshotted, Refusal>) {
        let Some(mut cover) = self.snapshots.running.take() else { return };
        let page = match page {
            Ok(page) => page,
            Err(refusal) => {
                // The subscription holds: no error with its `ref` may say that nothing came of it.
                self.refuse(&refusal.unknown(), cover.reference);
                return self.begin_snapshot();
            }
        };
        let upto = *cover.upto.get_or_insert(page.upto);
        for (key, offset, entry) in page.entries {
            if offset >= upto {
                cover.later.insert(key, offset);
            }
            self.send(&Frame::new("memory", "entry", &One { entry, snapshot: true }));
        }
        if let Some(next) = page.next {
            self.fetch(Action::Snapshot(cover.pattern.clone(), Some(next)));
            self.snapshots.running = Some(cover);
            return;
        }
        let position = self.me.as_ref().map_or(0, |me| me.encoder.stream.wire(Offset(upto.0.saturating_sub(1))));
        self.send(&Frame::new("memory", "synced", &json!({ "pattern": cover.pattern, "position": position })));
        let cursor = self.cursor;
        self.snapshots.done.retain(|done| done.upto > cursor || done.later.values().any(|last| Some(*last) > cursor));
        self.snapshots.done.push(cover);
        self.begin_snapshot();
    }

    /// The next one, or what waited for them.
    fn begin_snapshot(&mut self) {
        match self.snapshots.next() {
            Some((pattern, after)) => self.fetch(Action::Snapshot(pattern, after)),
            None => self.show_all(VecDeque::new()),
        }
    }
}
