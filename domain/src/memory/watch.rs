//! Watching keys: a subscription is a logged command, part of its agent's row.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::KIND;
use crate::{
    act::{Act, Applied},
    activity::interested,
    code::Refusal,
    frame::Shown,
    glob,
    header::{At, Header},
    interest::{InterestChange, Topic, Watch},
    limits::Limits,
    row::{Needs, Rows},
};

/// What of a key can be watched.
const EVENTS: [&str; 2] = ["set", "delete"];

/// `memory.subscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Subscribe {
    /// Exact key or glob.
    pub pattern: String,
    /// `set`, `delete` (expiries too); empty: both.
    #[serde(default)]
    pub events: Vec<String>,
    /// Whether notices carry the value.
    #[serde(default)]
    pub values: bool,
    /// Whether to send what is there first.
    #[serde(default)]
    pub snapshot: bool,
}

/// `memory.unsubscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Unsubscribe {
    /// The pattern that was subscribed to.
    pub pattern: String,
}

impl Subscribe {
    fn change(&self) -> InterestChange {
        let asked = |event: &str| self.events.is_empty() || self.events.iter().any(|known| known == event);
        let watch =
            Watch { pattern: self.pattern.clone(), sets: asked("set"), deletes: asked("delete"), values: self.values };
        InterestChange::Add(vec![Topic::Memory(watch)])
    }
}

impl Act for Subscribe {
    type Effect = ();
    const RENEWS: bool = true;

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        glob::check(&self.pattern)?;
        if self.events.len() <= EVENTS.len() && self.events.iter().all(|event| EVENTS.contains(&event.as_str())) {
            return Ok(());
        }
        Err(Refusal::invalid("events", "`events` may hold `set` and `delete`."))
    }

    fn needs(&self, _: &Header, _: &mut Needs<'_>) {}

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        interested(at, rows, &self.change())
    }

    fn show(&self, at: &At, (): &()) -> Shown {
        let mut shown = Shown::ack(KIND, "subscribe_ok", &json!({ "pattern": self.pattern }));
        shown.snapshot = self.snapshot.then(|| self.pattern.clone());
        shown.interest = at.header.agent_id.map(|agent| (agent, self.change()));
        shown
    }
}

impl Act for Unsubscribe {
    type Effect = ();
    const RENEWS: bool = true;

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        glob::check(&self.pattern)
    }

    fn needs(&self, _: &Header, _: &mut Needs<'_>) {}

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        interested(at, rows, &self.change())
    }

    fn show(&self, at: &At, (): &()) -> Shown {
        let mut shown = Shown::ack(KIND, "unsubscribe_ok", &json!({ "pattern": self.pattern }));
        shown.interest = at.header.agent_id.map(|agent| (agent, self.change()));
        shown
    }
}

impl Unsubscribe {
    fn change(&self) -> InterestChange {
        let watch = Watch { pattern: self.pattern.clone(), sets: true, deletes: true, values: false };
        InterestChange::Remove(vec![Topic::Memory(watch)])
    }
}
