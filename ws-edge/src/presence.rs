//! How much presence is shown: one frame an agent a second (`each`), or one frame per 250 ms for all (`delta`).
//! Everyone is promised the same final state, not every step.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ringforge_domain::{auth::PresenceMode, frame::Frame, ids::AgentId, interest::Audience, position::Offset};
use serde_json::{Value, json};

use crate::fanout::Delivery;

/// One change of state an agent in this time, for `each`.
const EACH: Duration = Duration::from_secs(1);
/// One frame in this time, for `delta`.
const DELTA: Duration = Duration::from_millis(250);

/// What of a fleet's presence was shown, and what was held back.
#[derive(Default)]
pub struct Coalescer {
    shown: BTreeMap<AgentId, Duration>,
    held: BTreeMap<AgentId, Frame>,
    delta: BTreeMap<AgentId, (&'static str, Frame)>,
    delta_since: Option<Duration>,
    delta_from: Option<Offset>,
    /// The place of the last change: it rises for everyone alike.
    version: u64,
}

impl Coalescer {
    /// Notes a change; `true` if `each` shall see it later.
    pub fn see(&mut self, delivery: &Arc<Delivery>, now: Duration) -> bool {
        let mut hold = false;
        for push in &delivery.pushes {
            let Audience::Presence { about } = &push.audience else { continue };
            let frame = &push.frame.frame;
            self.version = delivery.offset.0;
            self.delta_from.get_or_insert(delivery.offset);
            self.note_delta(*about, frame, now);
            if frame.event != "state_changed" {
                // Joining and leaving show at once, and settle what was held back about the agent.
                self.held.remove(about);
                self.shown.remove(about);
                continue;
            }
            let soon = self.shown.get(about).is_some_and(|shown| now.saturating_sub(*shown) < EACH);
            if soon {
                self.held.insert(*about, frame.clone());
                hold = true;
            } else {
                self.shown.insert(*about, now);
            }
        }
        hold
    }

    /// Frames whose time has come, each for the members of one mode.
    pub fn due(&mut self, now: Duration) -> Vec<(PresenceMode, Frame)> {
        let mut due = Vec::new();
        let ready = |about: &AgentId, shown: &BTreeMap<AgentId, Duration>| {
            shown.get(about).is_none_or(|shown| now.saturating_sub(*shown) >= EACH)
        };
        let ripe: Vec<AgentId> = self.held.keys().copied().filter(|about| ready(about, &self.shown)).collect();
        for about in ripe {
            if let Some(frame) = self.held.remove(&about) {
                due.push((PresenceMode::Each, frame));
                self.shown.insert(about, now);
            }
        }
        self.shown.retain(|_, shown| now.saturating_sub(*shown) < EACH);
        if self.delta_since.is_some_and(|since| now.saturating_sub(since) >= DELTA) {
            self.delta_since = None;
            self.delta_from = None;
            due.push((PresenceMode::Delta, self.delta_frame()));
        }
        due
    }

    /// All presence of some deliveries as one `delta` frame, for a member that saw none of them yet.
    pub fn gather<'a>(deliveries: impl IntoIterator<Item = &'a Arc<Delivery>>) -> Option<Frame> {
        let mut all = Self::default();
        for delivery in deliveries {
            all.see(delivery, Duration::ZERO);
        }
        all.delta_since.map(|_| all.delta_frame())
    }

    /// The first event that the next `delta` frame tells of.
    pub fn delta_from(&self) -> Option<Offset> {
        self.delta_from
    }

    /// Whether something waits for its time.
    pub fn holds_back(&self) -> bool {
        !self.held.is_empty() || self.delta_since.is_some()
    }

    fn note_delta(&mut self, about: AgentId, frame: &Frame, now: Duration) {
        self.delta_since.get_or_insert(now);
        let event = match (self.delta.get(&about), frame.event) {
            // Joined and changed within one window is still joined.
            (Some((first @ "joined", _)), "state_changed") => first,
            _ => frame.event,
        };
        self.delta.insert(about, (event, frame.clone()));
    }

    fn delta_frame(&mut self) -> Frame {
        let (mut joined, mut left, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for (event, frame) in std::mem::take(&mut self.delta).into_values() {
            let entry: Value = frame.object().value();
            match event {
                "joined" => joined.push(entry),
                "left" => left.push(entry),
                _ => changed.push(entry),
            }
        }
        Frame::new(
            "presence",
            "delta",
            &json!({ "joined": joined, "left": left, "changed": changed, "roster_version": self.version }),
        )
    }
}
