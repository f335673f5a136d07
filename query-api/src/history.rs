//! History: verdicts from the index joined with their events from the log; what a replay will show.

use std::collections::VecDeque;

use ringforge_domain::{
    code::Refusal,
    frame::Frame,
    ids::AgentId,
    limits::{PAGE_BYTES_MAX, SEEK_PART},
    position::{LogTime, Offset, Partition, Position},
    presence::Agent,
    replay::{Order, Request},
    row::{RowKey, State},
    schema,
    verdict::{First, Verdict, frames_of},
};
use ringforge_ports::{
    Error, Services,
    reads::{Matching, Update, Viewer, Which},
};

use crate::asker::{Asker, agent_id, bad_cursor, unavailable};

/// Verdicts, by offset, joined with their events: the first ones, until their bytes fill a page; at least one.
#[derive(Debug, Default)]
pub struct Joined {
    /// With their events. A trimmed or damaged event leaves its verdict alone.
    pub updates: Vec<Update>,
    /// For another page.
    pub rest: VecDeque<Verdict>,
}

/// Joins verdicts with their events.
///
/// # Errors
/// The log is away, or an event needs a newer build.
pub async fn updates(services: &Services, partition: Partition, verdicts: Vec<Verdict>) -> Result<Joined, Error> {
    let mut joined = Joined { updates: Vec::with_capacity(verdicts.len()), rest: verdicts.into() };
    let mut bytes = 0;
    while !joined.rest.is_empty() {
        let offsets = joined.rest.iter().take(SEEK_PART).map(|verdict| verdict.position.offset);
        let offsets: Vec<Offset> = offsets.collect();
        let mut records = services.log.seek(partition, &offsets).await?.into_iter().peekable();
        for offset in offsets {
            let record = records.next_if(|record| record.offset == offset);
            bytes += record.as_ref().map_or(0, |record| record.record.bytes.len());
            if bytes > PAGE_BYTES_MAX && !joined.updates.is_empty() {
                return Ok(joined);
            }
            let Some(verdict) = joined.rest.pop_front() else { break };
            let position = Position { partition, offset };
            let event = record.and_then(|record| schema::decode(&record.record.bytes, position, record.time).ok());
            joined.updates.push(Update { event, verdict });
        }
    }
    Ok(joined)
}

/// What a replay will show.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Matches in all.
    pub total: u64,
    /// Items at most.
    pub limit: u32,
    /// The verdicts of its items, oldest first.
    pub verdicts: Vec<Verdict>,
    /// Where the next page begins, when they are paged from the oldest.
    pub next_cursor: Option<String>,
    /// From when, as it was asked.
    pub from: Option<String>,
    /// Until when, as it was asked, or now.
    pub to: String,
}

/// Decides what a replay will show to this asker.
///
/// # Errors
/// `invalid_message` (cursor), `unavailable`.
pub async fn plan(services: &Services, asker: &Asker, request: &Request) -> Result<Plan, Refusal> {
    let encoder = &asker.encoder;
    let limit = request.limit();
    let from = request.from.as_deref().and_then(LogTime::parse);
    let to = request.to.as_deref().and_then(LogTime::parse);
    let mut plan = Plan {
        total: 0,
        limit,
        verdicts: Vec::new(),
        next_cursor: None,
        from: request.from.clone(),
        to: request.to.clone().unwrap_or_else(|| services.clock.wall().rfc3339()),
    };
    let mut agents: Vec<AgentId> = Vec::new();
    for agent in &request.agents {
        agents.extend(agent_id(services, asker, agent).await?);
    }
    if agents.is_empty() && !request.agents.is_empty() {
        return Ok(plan);
    }
    let after = match &request.cursor {
        Some(cursor) => Some(encoder.seal.open(&encoder.scope, encoder.stream, cursor).ok_or_else(bad_cursor)?.offset),
        None => None,
    };
    let pages = request.order == Order::Oldest || after.is_some();
    let matching = Matching {
        streams: request.wanted(),
        labels: request.kinds.clone(),
        tags: request.tags.clone(),
        all_tags: request.matching.as_deref() == Some("all"),
        agents,
        subject: None,
        from,
        to,
        after,
        viewer: Some(viewer(services, asker).await?),
        newest: !pages,
        // One more than asked, to know whether there is a next page.
        limit: if pages { limit + 1 } else { limit },
    };
    let found = services.reads.verdicts(asker.partition(), encoder.scope, &Which::Matching(matching)).await;
    let found = found.map_err(|error| unavailable(&error))?;
    plan.total = found.total;
    plan.verdicts = found.verdicts;
    if plan.verdicts.len() > limit as usize {
        plan.verdicts.truncate(limit as usize);
        plan.next_cursor =
            plan.verdicts.last().map(|last| encoder.event_id(First { offset: last.position.offset, hash: 0 }));
    }
    Ok(plan)
}

async fn viewer(services: &Services, asker: &Asker) -> Result<Viewer, Refusal> {
    let key = RowKey::agent(asker.encoder.scope, asker.agent);
    let found = services.reads.load(asker.partition(), &[key].into()).await.map_err(|error| unavailable(&error))?;
    let spans = found.rows.iter().find_map(Agent::of).map(|agent| agent.interest.spans().to_vec()).unwrap_or_default();
    Ok(Viewer { agent: asker.agent, spans })
}

/// The frame that a replay shows of an update to those who may see it, which its index says: the last one of its live frames.
pub fn replayed(update: &Update) -> Option<Frame> {
    let event = update.event.as_ref()?;
    frames_of(event, &update.verdict).pushes.pop().map(|push| push.frame)
}
