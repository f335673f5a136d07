//! Direct messages: what is said of them is true, and reaches whom it should.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use ringforge_domain::{
    ids::{AgentId, MessageId},
    row::{Row, RowKey},
};

use super::Case;
use crate::history::{Agent, flat, what};

/// A message is said to be delivered only once it was written, and reaches whoever is there to take it.
pub fn check(case: &Case<'_>) -> Result<()> {
    if case.links().any(|(_, _, link)| link.session.is_some() && link.written.is_none()) {
        return Ok(());
    }
    let written = written(case);
    for (message, agents) in &written {
        let to = case.truth.messages.get(message).with_context(|| format!("{message} was never sent"))?.1;
        let reached = |agent: &&Agent| id_of(agent).is_none_or(|id| id == to);
        ensure!(agents.iter().all(reached), "G15: {message} reached a stranger");
    }
    for (message, to) in &case.truth.delivered {
        ensure!(written.contains_key(message), "{message} for {to} is said to be delivered and was never written");
    }
    for row in case.logged.store.rows.values() {
        let Row::Message(message) = row else { continue };
        let there = case.agents().any(|agent| agent.line().is_some() && id_of(agent) == Some(message.to));
        if there && case.scope() == message.scope && !message.delivered {
            ensure!(written.contains_key(&message.id), "{} waits for an agent that is there", message.id);
        }
    }
    statuses(case)
}

fn id_of(agent: &Agent) -> Option<AgentId> {
    agent.diary.id.as_deref().and_then(|id| id.parse().ok())
}

fn written<'a>(case: &Case<'a>) -> BTreeMap<MessageId, Vec<&'a Agent>> {
    let mut written: BTreeMap<MessageId, Vec<&Agent>> = BTreeMap::new();
    for (agent, _, link) in case.links() {
        for text in link.written.iter().flatten().filter(|text| text.contains("\"event\":\"message\"")) {
            if let Some(message) = flat(text)["message_id"].as_str().and_then(|id| id.parse().ok()) {
                written.entry(message).or_default().push(agent);
            }
        }
    }
    written
}

/// What became of a message was written to its sender, or is kept for it.
fn statuses(case: &Case<'_>) -> Result<()> {
    let texts = case.links().flat_map(|(_, _, link)| link.written.iter().flatten());
    let texts: Vec<&String> = texts.filter(|text| text.contains("\"direct\"")).collect();
    // Whoever acknowledges a message to itself is told by the ack: a resume after it does not show the event again.
    let acks: BTreeSet<u64> = texts
        .iter()
        .filter(|text| text.contains("\"ack_ok\""))
        .filter_map(|text| flat(text)["position"].as_u64())
        .collect();
    let told = |text: &&String| {
        let frame = flat(text);
        Some((frame["position"].as_u64()?, what(&frame)?))
    };
    let written: BTreeSet<(u64, String)> = texts.iter().filter_map(told).collect();
    for (command, status) in &case.truth.statuses {
        let kept = case.logged.store.rows.contains_key(&RowKey::notice(case.scope(), *command));
        let told = written.contains(status) || (status.1.starts_with("direct/acked") && acks.contains(&status.0));
        ensure!(kept || told, "{status:?} is lost: it was not written and is not kept");
    }
    Ok(())
}
