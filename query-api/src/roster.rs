//! Who is here: online agents, and for 24 hours those that left. Whoever comes in is shown the roster, so the entries of a
//! fleet are kept, and a question reads only what changed since the last one.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use moka::sync::Cache;
use ringforge_domain::{
    code::Refusal,
    frame::Frame,
    ids::{AgentId, Scope},
    interest::Interest,
    limits::{PAGE_BYTES_MAX, ROSTER_PAGE_MAX, ROSTERS_BYTES_MAX, ROWS_PAGE_MAX},
    position::{LogTime, Offset, Partition},
    presence::{Agent, Roster, State as Presence},
    row::{Row, Table},
};
use ringforge_ports::{
    Error, Services, names,
    reads::{Applied, Find, Listed},
};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use crate::asker::{Asker, bad_cursor, unavailable};

/// What an agent's heartbeat leaves in Live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// When, wall clock.
    pub at: LogTime,
    /// How loaded, 0 to 1.
    pub load: Option<f64>,
}

/// The rosters of the fleets that were asked about lately.
pub struct Rosters {
    fleets: Cache<(Partition, Scope), Arc<Fleet>>,
}

/// A fleet's agents as they were when the partition stood at `upto`.
#[derive(Clone, Debug, Default)]
struct Fleet {
    upto: Offset,
    agents: BTreeMap<AgentId, Arc<Member>>,
}

/// An agent and how the roster shows it.
#[derive(Clone, Debug)]
struct Member {
    agent: Agent,
    /// Its last heartbeat, as Live has it.
    heard: Option<String>,
    entry: Box<RawValue>,
}

/// A page as it is written.
#[derive(Serialize)]
struct Page<'a> {
    agents: Vec<&'a RawValue>,
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<AgentId>,
}

/// `presence.roster`.
///
/// # Errors
/// `invalid_message` (cursor), `unavailable`.
pub async fn roster(services: &Services, rosters: &Rosters, asker: &Asker, query: &Roster) -> Result<Frame, Refusal> {
    let limit = query.limit.unwrap_or(ROSTER_PAGE_MAX).clamp(1, ROSTER_PAGE_MAX) as usize;
    let after: Option<AgentId> = match &query.cursor {
        Some(cursor) => Some(cursor.parse().map_err(|_| bad_cursor())?),
        None => None,
    };
    let now = services.clock.wall();
    let fleet = rosters.fleet(services, asker.partition(), asker.encoder.scope, now).await;
    let (fleet, applied) = fleet.map_err(|error| unavailable(&error))?;
    asker.takes(applied)?;
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut fitting = fleet.agents.range((from, Bound::Unbounded)).filter(|(_, member)| member.fits(query, now));
    let (mut page, mut last, mut bytes) = (Page { agents: Vec::new(), has_more: false, next_cursor: None }, None, 0);
    for (agent, member) in fitting.by_ref() {
        bytes += member.entry.get().len();
        if page.agents.len() == limit || (bytes > PAGE_BYTES_MAX && last.is_some()) {
            page.has_more = true;
            page.next_cursor = last;
            break;
        }
        page.agents.push(&member.entry);
        last = Some(*agent);
    }
    Ok(Frame::new("presence", "roster", &page))
}

impl Default for Rosters {
    fn default() -> Self {
        let weigh = |_: &_, fleet: &Arc<Fleet>| fleet.weight();
        Self { fleets: Cache::builder().max_capacity(ROSTERS_BYTES_MAX).weigher(weigh).build() }
    }
}

impl Rosters {
    /// A fleet's roster as it is now, and where the partition stands.
    async fn fleet(
        &self,
        services: &Services,
        partition: Partition,
        scope: Scope,
        now: LogTime,
    ) -> Result<(Arc<Fleet>, Applied), Error> {
        let known = self.fleets.get(&(partition, scope));
        let which = known.as_ref().map_or(Listed::At(now), |known| Listed::Since(known.upto));
        let (applied, changed) = changed(services, partition, scope, which).await?;
        let heard = heartbeats(services, scope).await;
        let mut fleet = known.unwrap_or_default();
        let over = |member: &Member| member.agent.listed_until() <= now;
        let unheard = |(id, member): &(&AgentId, &Arc<Member>)| heard.get(id) != member.heard.as_ref();
        let stale: Vec<Agent> =
            fleet.agents.iter().filter(unheard).map(|(_, member)| member.agent.clone()).chain(changed).collect();
        if stale.is_empty() && !fleet.agents.values().any(|member| over(member)) {
            return Ok((fleet, applied));
        }
        let after = Arc::make_mut(&mut fleet);
        after.upto = applied.upto;
        // What has just changed comes last.
        for agent in stale {
            let heard = heard.get(&agent.id).cloned();
            after.agents.insert(agent.id, Arc::new(Member::new(agent, heard)));
        }
        after.agents.retain(|_, member| !over(member));
        self.fleets.insert((partition, scope), Arc::clone(&fleet));
        Ok((fleet, applied))
    }
}

/// The agents that are listed, and where the partition stood at the latest then.
async fn changed(
    services: &Services,
    partition: Partition,
    scope: Scope,
    which: Listed,
) -> Result<(Applied, Vec<Agent>), Error> {
    let (mut applied, mut after, mut agents) = (None, None, Vec::new());
    loop {
        let limit = ROWS_PAGE_MAX;
        let find = Find::Listed { table: Table::Agent, scope, which, after: after.take(), limit };
        let page = services.reads.find(partition, &find).await?;
        // What changes between two pages is read again the next time.
        let applied = *applied.get_or_insert(page.applied);
        let last = page.is_last(limit);
        after = page.rows.last().map(|row| row.key().key);
        agents.extend(
            page.rows.into_iter().filter_map(|row| if let Row::Agent(agent) = row { Some(*agent) } else { None }),
        );
        if last {
            return Ok((applied, agents));
        }
    }
}

/// The last heartbeats of a fleet; nothing if Live is away, for they are only an ornament.
async fn heartbeats(services: &Services, scope: Scope) -> BTreeMap<AgentId, String> {
    let directory = names::heartbeats(scope);
    let found = services.live.scan(&directory).await.unwrap_or_default();
    let read = |(key, value): (String, String)| Some((key.strip_prefix(&directory)?.parse().ok()?, value));
    found.facts.into_iter().filter_map(read).collect()
}

impl Fleet {
    /// About its bytes.
    fn weight(&self) -> u32 {
        let bytes: usize = self.agents.values().map(|member| size_of::<Member>() + 2 * member.entry.get().len()).sum();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

impl Member {
    fn new(mut agent: Agent, heard: Option<String>) -> Self {
        // Not shown, and it can be long.
        agent.interest = Interest::default();
        let known = heard.as_deref().and_then(|heard| serde_json::from_str(heard).ok());
        let entry = to_raw_value(&shown(&agent, known)).expect("JSON serialises");
        Self { agent, heard, entry }
    }

    fn fits(&self, query: &Roster, now: LogTime) -> bool {
        let agent = &self.agent;
        let state = query.state.is_none_or(|state| state == agent.state);
        let able = query.capability.as_ref().is_none_or(|wanted| agent.capabilities.contains(wanted));
        state && able && agent.listed_until() > now
    }
}

fn shown(agent: &Agent, heard: Option<Heard>) -> Value {
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

#[cfg(test)]
mod tests;
