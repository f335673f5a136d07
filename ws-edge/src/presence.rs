//! How much presence is shown: one frame an agent a second (`each`), or one frame per 250 ms for all (`delta`).
//! Everyone is promised the same final state, not every step.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ringforge_domain::{
    auth::PresenceMode,
    frame::Frame,
    ids::AgentId,
    interest::Presence,
    position::{First, Offset},
};
use serde_json::{Value, json};

/// One change of state an agent in this time, for `each`.
const EACH: Duration = Duration::from_secs(1);
/// Presence that follows other presence within this time is announced together with more of it.
const TOGETHER: Duration = Duration::from_millis(200);
/// How long presence waits for more, if little comes for long.
const TOGETHER_AT_MOST: Duration = Duration::from_millis(500);
/// So many changes do not wait for more: a write of more of them costs no less each, and holds up what else is said.
const ENOUGH: u32 = 16;
/// One frame in this time, for `delta`.
const DELTA: Duration = Duration::from_millis(250);

/// The last that is known of an agent.
#[derive(Clone, Debug)]
pub struct Change {
    /// The event it was born of.
    pub offset: Offset,
    /// The first event that it stands for.
    pub first: Offset,
    what: Presence,
    frame: Frame,
}

impl Change {
    /// What the event at `offset` says of an agent, and the frame that shows it.
    pub fn new(offset: Offset, what: Presence, frame: Frame) -> Self {
        Self { offset, first: offset, what, frame }
    }
}

/// Changes by agent: of each only the last counts.
pub type Changes = BTreeMap<AgentId, Arc<Change>>;

/// What of a fleet's presence was shown, and what was held back.
#[derive(Default)]
pub struct Coalescer {
    shown: BTreeMap<AgentId, Duration>,
    held: Changes,
    delta: Changes,
    delta_since: Option<Duration>,
}

/// How often a fleet is woken for nothing but presence: the first change goes out at once, those that follow it closely wait a
/// little and go out together, and the longer few of them come at a time the longer they wait, up to half a second. A thousand
/// agents that join are a few writes to each connection instead of a thousand.
pub struct Throttle {
    announced: Option<Duration>,
    pause: Duration,
    waiting: u32,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { announced: None, pause: TOGETHER, waiting: 0 }
    }
}

impl Throttle {
    /// Notes an update that tells presence; `true` if it waits.
    pub fn see(&mut self, now: Duration) -> bool {
        // What waits already is not overtaken: it is due now.
        let waits = self.waiting > 0 || self.is_soon(now);
        if waits {
            self.waiting = self.waiting.saturating_add(1);
        } else {
            *self = Self { announced: Some(now), ..Self::default() };
        }
        waits
    }

    /// Whether what waits is to be announced now.
    pub fn due(&mut self, now: Duration) -> bool {
        let due = self.waiting > 0 && !self.is_soon(now);
        if due {
            let pause = if self.waiting < ENOUGH { TOGETHER_AT_MOST.min(2 * self.pause) } else { self.pause };
            *self = Self { announced: Some(now), pause, waiting: 0 };
        }
        due
    }

    /// Whether something waits.
    pub fn holds_back(&self) -> bool {
        self.waiting > 0
    }

    fn is_soon(&self, now: Duration) -> bool {
        let pause = if self.waiting < ENOUGH { self.pause } else { TOGETHER };
        self.announced.is_some_and(|announced| now.saturating_sub(announced) < pause)
    }
}

/// Changes whose time has come, for the members of one mode.
pub struct Due {
    /// The mode.
    pub mode: PresenceMode,
    /// The changes.
    pub changes: Changes,
}

impl Coalescer {
    /// Notes the changes of one update; `true` if `each` shall see them later.
    pub fn see(&mut self, changes: impl Iterator<Item = (AgentId, Arc<Change>)>, now: Duration) -> bool {
        let mut hold = false;
        for (about, change) in changes {
            self.delta_since.get_or_insert(now);
            note(&mut self.delta, about, &change);
            if change.what != Presence::Changed {
                // Joining and leaving show at once, and settle what was held back about the agent.
                self.held.remove(&about);
                self.shown.remove(&about);
                continue;
            }
            let soon = self.shown.get(&about).is_some_and(|shown| now.saturating_sub(*shown) < EACH);
            if soon {
                self.held.insert(about, change);
                hold = true;
            } else {
                // What was held of it is older.
                self.held.remove(&about);
                self.shown.insert(about, now);
            }
        }
        hold
    }

    /// What is to be shown now: of `each` one agent at a time.
    pub fn due(&mut self, now: Duration) -> Option<Due> {
        self.shown.retain(|_, shown| now.saturating_sub(*shown) < EACH);
        let ripe = self.held.keys().find(|about| !self.shown.contains_key(about)).copied();
        if let Some((about, change)) = ripe.and_then(|about| self.held.remove_entry(&about)) {
            self.shown.insert(about, now);
            return Some(Due { mode: PresenceMode::Each, changes: [(about, change)].into() });
        }
        let over = self.delta_since.is_some_and(|since| now.saturating_sub(since) >= DELTA);
        over.then(|| {
            self.delta_since = None;
            Due { mode: PresenceMode::Delta, changes: std::mem::take(&mut self.delta) }
        })
    }

    /// What was held back from the members of a mode so far.
    pub fn pending(&self, mode: PresenceMode) -> &Changes {
        const NONE: &Changes = &Changes::new();
        match mode {
            PresenceMode::Each => &self.held,
            PresenceMode::Delta => &self.delta,
            PresenceMode::None => NONE,
        }
    }

    /// Whether something waits for its time.
    pub fn holds_back(&self) -> bool {
        !self.held.is_empty() || self.delta_since.is_some()
    }
}

/// The last of each agent's changes, as `agent` may see them.
pub fn gather(changes: impl Iterator<Item = (AgentId, Arc<Change>)>, agent: AgentId) -> Changes {
    let mut all = Changes::new();
    let others = |(about, change): &(AgentId, Arc<Change>)| *about != agent || change.what != Presence::Left;
    changes.filter(others).for_each(|(about, change)| note(&mut all, about, &change));
    all
}

/// Adds later changes to earlier ones.
pub fn merge(changes: &mut Changes, later: &Changes) {
    for (about, change) in later {
        note(changes, *about, change);
    }
}

/// The frames that show changes in a mode, where `place` is the last event that was shown. A frame whose last change is that
/// event has its id; any other tells of the past and has none: it is nothing new to go on from, and an id that was shown before
/// might be taken for a frame that was.
pub fn frames(mode: PresenceMode, changes: &Changes, place: Option<First>) -> Vec<Frame> {
    let stamped = |mut frame: Frame, last: Offset| {
        frame.stamp = place.filter(|place| place.offset == last);
        frame
    };
    match mode {
        PresenceMode::None => Vec::new(),
        PresenceMode::Each => changes.values().map(|change| stamped(change.frame.clone(), change.offset)).collect(),
        PresenceMode::Delta => delta(changes).map(|(frame, last)| stamped(frame, last)).into_iter().collect(),
    }
}

fn note(changes: &mut Changes, about: AgentId, change: &Arc<Change>) {
    let joined = changes.get(&about).filter(|known| known.what == Presence::Joined);
    let change = match (change.what, joined) {
        // Joined and changed within one window is still joined.
        (Presence::Changed, Some(joined)) => {
            Arc::new(Change { first: joined.first, what: joined.what, ..Change::clone(change) })
        }
        _ => Arc::clone(change),
    };
    changes.insert(about, change);
}

/// One frame for all, and the place of the last change in it.
fn delta(changes: &Changes) -> Option<(Frame, Offset)> {
    let version = changes.values().map(|change| change.offset).max()?;
    let list = |what: Presence| -> Vec<Value> {
        let listed = changes.values().filter(|change| change.what == what);
        listed.map(|change| change.frame.object().value()).collect()
    };
    let body = json!({
        "joined": list(Presence::Joined),
        "left": list(Presence::Left),
        "changed": list(Presence::Changed),
        // The place of the last change: it rises for everyone alike.
        "roster_version": version.0,
    });
    Some((Frame::new("presence", "delta", &body), version))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When what is seen every so many milliseconds is announced, in milliseconds.
    fn announced(throttle: &mut Throttle, from: u64, upto: u64, every: usize) -> Vec<u64> {
        let at = |millis: &u64| {
            let now = Duration::from_millis(*millis);
            let waits = throttle.see(now);
            throttle.due(now) || !waits
        };
        (from..upto).step_by(every).filter(at).collect()
    }

    #[test]
    fn the_longer_presence_goes_on_the_more_of_it_is_announced_together() {
        let mut throttle = Throttle::default();
        assert_eq!(announced(&mut throttle, 0, 4_000, 100), [0, 200, 600, 1_100, 1_600, 2_100, 2_600, 3_100, 3_600]);
        assert!(throttle.holds_back());
        // What was last seen is announced, and then it is calm.
        assert!(throttle.due(Duration::from_secs(5)));
        assert_eq!(announced(&mut throttle, 7_000, 7_300, 100), [7_000, 7_200], "as at first");
    }

    #[test]
    fn many_changes_do_not_wait_for_more() {
        let mut throttle = Throttle::default();
        assert_eq!(announced(&mut throttle, 0, 1_000, 10), [0, 200, 400, 600, 800]);
        // Fewer wait for longer.
        assert_eq!(announced(&mut throttle, 1_000, 2_500, 40), [1_000, 1_200, 1_600, 2_120]);
    }
}
