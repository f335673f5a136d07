//! History: verdicts from the index joined with their events from the log; what a replay will show.

use std::collections::VecDeque;

use ringforge_domain::{
    buggify::{Site, buggify},
    catalog::{Command, Effect},
    code::{Met, Refusal},
    frame::Frame,
    ids::{AgentId, Scope, SessionId},
    json::Json,
    limits::{PAGE_BYTES_MAX, SEEK_PART},
    memory::Entry,
    position::{LogTime, Offset, Partition, Position},
    presence::Agent,
    replay::{Order, Request},
    row::{RowKey, State},
    schema,
    verdict::{First, Outcome, Verdict, frames_of},
};
use ringforge_ports::{
    Error, Services,
    log::Stored,
    reads::{Matching, Update, Viewer, Which},
};

use crate::asker::{Asker, agent_id, unavailable};

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
/// The log is away, or is another one than the verdicts are of.
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
            let full = bytes > PAGE_BYTES_MAX || buggify(Site::NarrowPage);
            if full && !joined.updates.is_empty() {
                return Ok(joined);
            }
            let Some(verdict) = joined.rest.pop_front() else { break };
            let position = Position { partition, offset };
            let event = record.and_then(|record| schema::decode(&record.record.bytes, position, record.time).ok());
            if event.as_ref().is_some_and(|event| event.at.header.command_id != verdict.command_id) {
                return Err(Error::Corrupt(format!(
                    "record {} of partition {} is not the one that was applied: the log was cut and written anew",
                    offset.0, partition.0
                )));
            }
            joined.updates.push(Update { event, verdict });
        }
    }
    Ok(joined)
}

/// Fetches what the verdicts of a session's own commands tell by reference. Of a page whose bytes that fills, the rest goes back.
///
/// # Errors
/// A port is away.
pub async fn complete(
    services: &Services,
    partition: Partition,
    session: SessionId,
    joined: &mut Joined,
) -> Result<(), Error> {
    let mut bytes = 0;
    for at in 0..joined.updates.len() {
        let Update { event, verdict } = &mut joined.updates[at];
        let own = event.as_ref().is_some_and(|event| event.at.header.session_id == Some(session));
        let Some(met) = verdict.lacks().filter(|_| own) else { continue };
        if bytes > PAGE_BYTES_MAX {
            let rest = joined.updates.drain(at..).map(|update| update.verdict);
            joined.rest = rest.chain(joined.rest.drain(..)).collect();
            return Ok(());
        }
        let value = value_of(services, partition, verdict.scope, met).await?;
        bytes += value.as_ref().map_or(0, |value| value.text().len());
        verdict.complete(value.as_ref());
    }
    Ok(())
}

/// The value that a conflict met: what the key still holds, else what the event there made of it. `None`: the log no longer
/// has it.
async fn value_of(services: &Services, partition: Partition, scope: Scope, met: &Met) -> Result<Option<Json>, Error> {
    let found = services.reads.load(partition, &[RowKey::memory(scope, &met.key)].into()).await?;
    let entry = found.rows.iter().find_map(Entry::of).filter(|entry| entry.changed.event == met.event);
    if let Some(content) = entry.and_then(|entry| entry.content.as_ref()) {
        return Ok(Some(content.value.clone()));
    }
    let offset = met.event.offset;
    let found = services.reads.verdicts(partition, scope, &Which::At(vec![offset])).await?.verdicts;
    let record = services.log.seek(partition, &[offset]).await?.into_iter().next();
    let decoded =
        |record: Stored| schema::decode(&record.record.bytes, Position { partition, offset }, record.time).ok();
    let (Some(event), Some(verdict)) = (record.and_then(decoded), found.first()) else { return Ok(None) };
    Ok(match (&event.command, &verdict.outcome) {
        (Command::MemorySet(set), Outcome::Applied(Effect::MemorySet(effect))) => effect.made(set).cloned(),
        _ => None,
    })
}

/// What a replay will show.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Matches in all.
    pub total: u64,
    /// Items at most.
    pub limit: u32,
    /// The verdicts of its items, oldest first, as far as their bytes let them be kept.
    pub verdicts: Vec<Verdict>,
    /// The places of those after them.
    pub later: Vec<Offset>,
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
        later: Vec::new(),
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
    let after = request.cursor.as_ref().map(|cursor| asker.place(cursor)).transpose()?;
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
    (plan.verdicts, plan.later) = (found.verdicts, found.rest);
    if plan.verdicts.len() + plan.later.len() > limit as usize {
        plan.verdicts.truncate(limit as usize);
        plan.later.truncate(limit as usize - plan.verdicts.len());
        let last = plan.later.last().copied().or(plan.verdicts.last().map(|last| last.position.offset));
        plan.next_cursor = last.map(|offset| encoder.event_id(First { offset, hash: 0 }));
    }
    Ok(plan)
}

/// A part of what a replay shows: known already, or only its places.
#[derive(Clone, Debug)]
pub enum Part {
    /// Verdicts, by offset.
    Known(Vec<Verdict>),
    /// Places, in order.
    Places(Vec<Offset>),
}

/// Joins a part with its events; also the places for which there was no room.
///
/// # Errors
/// A port is away, or an event needs a newer build.
pub async fn part(services: &Services, asker: &Asker, part: Part) -> Result<(Joined, Vec<Offset>), Error> {
    let (verdicts, later) = match part {
        Part::Known(verdicts) => (verdicts, Vec::new()),
        Part::Places(places) => {
            let found = services.reads.verdicts(asker.partition(), asker.encoder.scope, &Which::At(places)).await?;
            (found.verdicts, found.rest)
        }
    };
    Ok((updates(services, asker.partition(), verdicts).await?, later))
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

#[cfg(test)]
mod tests;
