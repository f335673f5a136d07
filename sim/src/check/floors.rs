//! G5, G6: whoever has seen something is never shown what was before it.

use anyhow::{Context as _, Result, ensure};
use ringforge_domain::code::Code;
use serde_json::Value;

use super::Case;
use crate::history::{Agent, Resume, Sent};

/// Checks what agents read from memory against what they had been told before they asked.
pub fn check(case: &Case<'_>) -> Result<()> {
    for agent in case.agents() {
        for sent in &agent.diary.sent {
            let Some(answer) = &sent.answer else { continue };
            let Some(entries) = entries(sent, answer) else { continue };
            let floor = floor(agent, sent);
            for (key, entry) in entries {
                held(case, key, entry, floor).with_context(|| {
                    format!("{} had seen position {floor:?} when it asked {}", agent.name, sent.reference)
                })?;
            }
            if floor.is_some() {
                case.tally.note("situation: memory read after a write was seen");
            }
        }
    }
    Ok(())
}

/// The keys that an answer is about, and what it says of each.
fn entries<'a>(sent: &'a Sent, answer: &'a Value) -> Option<Vec<(&'a str, Option<&'a Value>)>> {
    let key = sent.body["key"].as_str();
    match (sent.body["type"].as_str()?, sent.body["action"].as_str()?) {
        ("memory", "get") if answer["event"] == "entry" => Some(vec![(key?, Some(&answer["entry"]))]),
        ("memory", "get") if answer["code"] == Code::NotFound.text() => Some(vec![(key?, None)]),
        ("memory", "list") if answer["event"] == "list_result" => {
            let entries = answer["entries"].as_array()?.iter();
            Some(entries.filter_map(|entry| Some((entry["key"].as_str()?, Some(entry)))).collect())
        }
        _ => None,
    }
}

/// The newest position that the agent knew when it asked: over this connection, or before if that went on from there.
fn floor(agent: &Agent, sent: &Sent) -> Option<u64> {
    let link = &agent.diary.links[sent.link];
    let before = if let Resume::After(position) = link.resume { Some(position) } else { None };
    let seen = link.frames[..sent.after].iter().filter(|frame| frame["duplicate"].is_null());
    seen.filter_map(|frame| frame["position"].as_u64()).max().max(before)
}

/// Whether a key was like this at the floor or after it.
fn held(case: &Case<'_>, key: &str, entry: Option<&Value>, floor: Option<u64>) -> Result<()> {
    let changes = case.truth.changes.get(key).map_or(&[][..], Vec::as_slice);
    let known = changes.partition_point(|(at, _)| Some(*at) <= floor);
    // As it was at the floor, then as each later change made it.
    let then = known.checked_sub(1).map(|last| &changes[last]).into_iter().chain(&changes[known..]);
    if let Some(entry) = entry {
        let version = entry["version"].as_u64();
        let some = then.clone().any(|(_, then)| then.live && Some(then.version) == version);
        ensure!(some, "G5, G6: {entry} is older than that, or never was");
    } else {
        // Its time may be over before anyone recorded that.
        let some = known == 0 || then.clone().any(|(_, then)| !then.live || then.ends.is_some());
        ensure!(some, "G5, G6: nothing is said to be at {key}, which holds something since");
    }
    Ok(())
}
