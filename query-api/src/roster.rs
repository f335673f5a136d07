//! Who is here: online agents, and for 24 hours those that left.

use std::collections::BTreeMap;

use ringforge_domain::{
    frame::Frame,
    ids::{AgentId, Scope},
    limits::{OFFLINE_SHOWN_MICROS, PAGE_BYTES_MAX, ROSTER_PAGE_MAX, ROWS_PAGE_MAX},
    position::LogTime,
    presence::{Agent, Roster, State as Presence},
    row::{RowKey, State, Table},
};
use ringforge_ports::{Services, names, reads::Find};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::asker::{Asker, bad_cursor, unavailable};
use ringforge_domain::code::Refusal;

/// What an agent's heartbeat leaves in Live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// When, wall clock.
    pub at: LogTime,
    /// How loaded, 0 to 1.
    pub load: Option<f64>,
}

/// `presence.roster`.
///
/// # Errors
/// `invalid_message` (cursor), `unavailable`.
pub async fn roster(services: &Services, asker: &Asker, query: &Roster) -> Result<Frame, Refusal> {
    let scope = asker.encoder.scope;
    let limit = query.limit.unwrap_or(ROSTER_PAGE_MAX).clamp(1, ROSTER_PAGE_MAX) as usize;
    let mut after = match &query.cursor {
        Some(cursor) => Some(RowKey::agent(scope, cursor.parse().map_err(|_| bad_cursor())?)),
        None => None,
    };
    let heard = heartbeats(services, scope).await;
    let now = services.clock.wall();
    let mut agents: Vec<(AgentId, Value)> = Vec::new();
    loop {
        let find = Find::Table { table: Table::Agent, scope: Some(scope), after: after.take(), limit: ROWS_PAGE_MAX };
        let page = services.reads.find(asker.partition(), &find).await.map_err(|error| unavailable(&error))?;
        after = page.rows.last().map(ringforge_domain::row::Row::key);
        let fitting = page.rows.iter().filter_map(Agent::of).filter(|agent| fits(agent, query, now));
        agents.extend(fitting.map(|agent| (agent.id, shown(agent, heard.get(&agent.id)))));
        if agents.len() > limit || page.rows.len() < ROWS_PAGE_MAX as usize {
            break;
        }
    }
    let fitting = fitting(&agents).min(limit);
    let has_more = agents.len() > fitting;
    agents.truncate(fitting);
    let mut body = json!({ "has_more": has_more });
    if let Some((last, _)) = agents.last().filter(|_| has_more) {
        body["next_cursor"] = json!(last);
    }
    body["agents"] = agents.into_iter().map(|(_, agent)| agent).collect();
    Ok(Frame::new("presence", "roster", &body))
}

/// How many of the first agents fit a page.
fn fitting(agents: &[(AgentId, Value)]) -> usize {
    let mut bytes = 0;
    let fits = |(_, agent): &&(AgentId, Value)| {
        bytes += agent.to_string().len();
        bytes <= PAGE_BYTES_MAX
    };
    agents.iter().take_while(fits).count().max(1)
}

/// The last heartbeats of a fleet; nothing if Live is away, for they are only an ornament.
async fn heartbeats(services: &Services, scope: Scope) -> BTreeMap<AgentId, Heard> {
    let prefix = names::heartbeats(scope);
    let found = services.live.scan(&prefix).await.unwrap_or_default();
    let read = |(key, value): (String, String)| {
        let agent = key.strip_prefix(&prefix)?.parse().ok()?;
        Some((agent, serde_json::from_str(&value).ok()?))
    };
    found.into_iter().filter_map(read).collect()
}

fn fits(agent: &Agent, query: &Roster, now: LogTime) -> bool {
    let here = agent.session.is_some() || agent.last_seen.plus(OFFLINE_SHOWN_MICROS) > now;
    let state = query.state.is_none_or(|state| state == agent.state);
    here && state && query.capability.as_ref().is_none_or(|wanted| agent.capabilities.contains(wanted))
}

fn shown(agent: &Agent, heard: Option<&Heard>) -> Value {
    let mut entry = agent.entry();
    entry["connected_at"] = json!(agent.connected_at.rfc3339());
    entry["framework"] = json!(agent.framework);
    entry["version"] = json!(agent.version);
    if entry.get("metadata").is_none() {
        entry["metadata"] = agent.metadata.as_ref().map_or_else(|| json!({}), ringforge_domain::json::Json::value);
    }
    if agent.state == Presence::Offline {
        entry["last_seen"] = json!(agent.last_seen.rfc3339());
        return entry;
    }
    let last = heard.map_or(agent.last_seen, |heard| heard.at.max(agent.last_seen));
    entry["last_heartbeat"] = json!(last.rfc3339());
    if let Some(load) = heard.and_then(|heard| heard.load) {
        entry["load"] = json!(load);
    }
    entry
}
