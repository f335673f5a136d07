//! Presence: who is here, doing what. The agent's row, its states, the roster. Sessions are in `presence/session.rs`.

mod session;

use apache_avro::{AvroSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use session::{Ended, EndedEffect, Started, StartedEffect};

pub use crate::row::presence::{Agent, Current, Name, State};
use crate::{
    act::{Act, Applied},
    code::Refusal,
    frame::{Frame, Shown},
    header::{At, Header},
    history::{Index, Stream},
    ids::Scope,
    interest::{self, Audience},
    json::Json,
    limits::{CAPABILITIES_MAX, FILTER_VALUES_MAX, Limits},
    row::{Needs, Row, RowKey, Rows},
};

/// `type` of its frames.
pub(crate) const KIND: &str = "presence";

impl Agent {
    /// The fields of its roster entry and of every presence frame about it.
    pub fn entry(&self) -> Value {
        let mut entry = json!({
            "agent_id": self.id,
            "name": self.name,
            "state": self.state,
            "task": self.task,
            "capabilities": self.capabilities,
            "load": self.load.map(|load| f64::from(load) / 1000.0),
            "since": self.since.rfc3339(),
        });
        if let Some(detail) = &self.detail {
            entry["metadata"] = detail.value();
        }
        entry
    }

    /// The row that is left when its session has ended.
    #[must_use]
    pub fn offline(&self, at: &At) -> Self {
        Self {
            state: State::Offline,
            task: None,
            load: None,
            session: None,
            since: at.time,
            last_seen: at.time,
            ..self.clone()
        }
    }
}

/// A presence frame about an agent as it is in `entry`.
fn frame(event: &'static str, at: &At, entry: &Value) -> Frame {
    let frame = Frame::new(KIND, event, entry);
    frame.also(&json!({ "timestamp": at.time.rfc3339() }))
}

/// How presence events are found.
fn index(label: &str) -> Index {
    Index { stream: Some(Stream::Presence), label: Some(label.to_owned()), ..Index::default() }
}

/// `presence.update`. Absent fields stay; a new state without a task ends the task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, AvroSchema)]
#[serde(default)]
pub struct Update {
    /// The new state.
    #[serde(alias = "status")]
    pub state: Option<State>,
    /// On what.
    #[serde(alias = "current_task")]
    pub task: Option<String>,
    /// How loaded, 0 to 1.
    pub load: Option<f64>,
    /// What it can do from now on.
    pub capabilities: Option<Vec<String>>,
    /// Anything else.
    pub metadata: Option<Json>,
}

/// What came of a `presence.update`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateEffect {
    /// Its roster entry now; none if nothing changed.
    pub entry: Option<Value>,
}

impl Act for Update {
    type Effect = UpdateEffect;

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        if self.state == Some(State::Offline) {
            return Err(Refusal::invalid("state", "`offline` is set by the server.")
                .fix("Use online, busy or away; close the socket to go offline."));
        }
        if self.load.is_some_and(|load| !(0.0..=1.0).contains(&load)) {
            return Err(Refusal::invalid("load", "`load` must be between 0 and 1."));
        }
        limits.text("task", self.task.as_ref(), limits.description_bytes)?;
        check_capabilities(limits, self.capabilities.as_deref().unwrap_or_default())?;
        limits.metadata(self.metadata.as_ref())
    }

    fn needs(&self, _: &Header, _: &mut Needs<'_>) {}

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<UpdateEffect>, Refusal> {
        let before = own(at, rows)?;
        let mut after = before.clone();
        if let Some(state) = self.state {
            if state != before.state {
                after.since = at.time;
                after.task = None;
            }
            after.state = state;
        }
        if self.task.is_some() {
            after.task.clone_from(&self.task);
        }
        if let Some(load) = self.load {
            after.load = Some(thousandths(load));
        }
        if let Some(capabilities) = &self.capabilities {
            after.capabilities.clone_from(capabilities);
        }
        if self.metadata.is_some() {
            after.detail.clone_from(&self.metadata);
        }
        if after == *before {
            return Ok(Applied::new(UpdateEffect { entry: None }));
        }
        after.last_seen = at.time;
        let entry = Some(after.entry());
        Ok(Applied::new(UpdateEffect { entry }).row(Row::Agent(Box::new(after))).indexed(index("state_changed")))
    }

    fn show(&self, at: &At, effect: &UpdateEffect) -> Shown {
        let shown = Shown::ack(KIND, "update_ok", &());
        match (&effect.entry, at.header.agent_id) {
            (Some(entry), Some(about)) => {
                let everyone = Audience::Presence { about, change: interest::Presence::Changed };
                shown.push(everyone, frame("state_changed", at, entry))
            }
            _ => shown,
        }
    }
}

/// Bounds on what an agent says it can do.
pub(crate) fn check_capabilities(limits: &Limits, capabilities: &[String]) -> Result<(), Refusal> {
    if capabilities.len() > CAPABILITIES_MAX {
        return Err(Refusal::over("capabilities", CAPABILITIES_MAX));
    }
    if capabilities.iter().any(|name| name.is_empty() || name.len() > limits.name_bytes) {
        return Err(Refusal::over("capabilities", limits.name_bytes));
    }
    Ok(())
}

/// A load of 0 to 1 as a whole number, so that no float decides anything.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`check` bounds it to 0..=1")]
fn thousandths(load: f64) -> u16 {
    (load * 1000.0).round() as u16
}

/// The row of whoever asks.
pub(crate) fn own<'a>(at: &At, rows: &'a Rows) -> Result<&'a Agent, Refusal> {
    let agent = at.header.agent_id.and_then(|id| rows.agent(at.scope(), id));
    agent.ok_or_else(|| Refusal::not_found("There is no such agent in this fleet."))
}

/// Names the rows behind an agent id or name: ids before names when both match.
pub(crate) fn needs_agent(scope: Scope, id_or_name: &str, needs: &mut Needs<'_>) {
    if let Ok(id) = id_or_name.parse() {
        needs.row(RowKey::agent(scope, id));
    }
    let name = RowKey::name(scope, id_or_name);
    if let Some(known) = needs.peek::<Name>(&name) {
        needs.row(RowKey::agent(scope, known.agent));
    }
    needs.row(name);
}

/// The agent that an id or name means, in a fold.
pub(crate) fn resolve<'a>(scope: Scope, id_or_name: &str, rows: &'a Rows) -> Option<&'a Agent> {
    let by_id = id_or_name.parse().ok().and_then(|id| rows.agent(scope, id));
    by_id.or_else(|| {
        let name: &Name = rows.get(&RowKey::name(scope, id_or_name))?;
        rows.agent(scope, name.agent)
    })
}

/// `presence.roster`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, AvroSchema)]
#[serde(default)]
pub struct Roster {
    /// Only in this state; offline agents are listed for 24 h.
    pub state: Option<State>,
    /// Only with this capability.
    pub capability: Option<String>,
    /// Agents a page.
    pub limit: Option<u32>,
    /// Where the last page ended.
    pub cursor: Option<String>,
}

impl Roster {
    /// Whether it is within bounds.
    ///
    /// # Errors
    /// `invalid_message`.
    pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        limits.text("capability", self.capability.as_ref(), limits.name_bytes)?;
        limits.text("cursor", self.cursor.as_ref(), limits.name_bytes)
    }
}

/// `presence.heartbeat`, also bare `heartbeat`: a sign of life, and perhaps a change.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Heartbeat(pub Update);

impl AvroSchema for Heartbeat {
    fn get_schema() -> Schema {
        Update::get_schema()
    }
}

/// `ping`: answered with `pong`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, AvroSchema)]
pub struct Ping {}

/// `pong`: the answer to our `ping`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, AvroSchema)]
pub struct Pong {}

/// Filter values of a query within their bound.
pub(crate) fn bounded(field: &str, values: &[String]) -> Result<(), Refusal> {
    if values.len() > FILTER_VALUES_MAX { Err(Refusal::over(field, FILTER_VALUES_MAX)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
