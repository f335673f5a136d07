//! G14: what a tenant sees depends on what it does and on nothing else. It lives twice, alone and beside a stranger, and sees
//! the same; and nothing that the stranger said or was told is in anything that it was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use anyhow::{Result, ensure};
use ringforge_domain::ids::FleetId;
use serde_json::Value;

use crate::{
    history::Link,
    roster::Roster,
    world::{CANARY, Lived, World},
};

/// Lets the tenant of a seed live twice.
///
/// # Errors
/// It saw that it was not alone: what differs, or what leaked.
pub fn check(seed: u64) -> Result<()> {
    let (alone, beside) = (World::twin(seed, false)?, World::twin(seed, true)?);
    ensure!(beside.strange.iter().any(|link| !link.frames.is_empty()), "the strangers did nothing");
    compare(&alone, &beside)
}

/// Whether both saw the same, and nothing of the strangers.
///
/// # Errors
/// As [`check`].
pub fn compare(alone: &Lived, beside: &Lived) -> Result<()> {
    for (agent, (alone, beside)) in alone.own.iter().zip(&beside.own).enumerate() {
        let (alone, beside) = (normalised(alone), normalised(beside));
        for (one, other) in alone.iter().zip(&beside) {
            ensure!(one == other, "G14: alone agent {agent} reads {one}, beside a stranger {other}");
        }
        let (one, other) = (alone.len(), beside.len());
        ensure!(one == other, "G14: alone agent {agent} reads {one} frames, beside a stranger {other}");
    }
    let secrets = secrets(beside);
    for text in beside.own.iter().flatten().flat_map(|link| link.written.iter().flatten()) {
        let leaked = secrets.iter().find(|secret| text.contains(secret.as_str()));
        ensure!(leaked.is_none(), "G14: {leaked:?} of a stranger is in {text}");
    }
    Ok(())
}

/// What only strangers know: their canaries and every id that they were given. The fleets' ids are the same on purpose.
fn secrets(lived: &Lived) -> BTreeSet<String> {
    let mut known = BTreeSet::from([CANARY.to_owned()]);
    for frame in lived.strange.iter().flat_map(|link| &link.frames) {
        collect(frame, &mut known);
    }
    known.retain(|id| id.parse::<FleetId>().is_err());
    known
}

fn collect(value: &Value, ids: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if is_id(text) => {
            ids.insert(text.clone());
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, ids)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, ids)),
        _ => {}
    }
}

/// Whether a text is an id or a secret of ours: a short prefix and many digits.
fn is_id(text: &str) -> bool {
    text.split_once('_').is_some_and(|(prefix, digits)| {
        prefix.len() <= 8
            && digits.len() >= ID_DIGITS
            && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// Digits of an id, at least.
const ID_DIGITS: usize = 20;

/// The fields that are places of the log.
static PLACES: LazyLock<BTreeSet<&str>> =
    LazyLock::new(|| ["position", "oldest_position", "roster_version", "first_position"].into());

/// What an agent read, with every id named by its first appearance and every place by how many of the events that it knows are
/// not after it.
fn normalised(links: &[Link]) -> Vec<Value> {
    // Frames without a place overtake those with one as they like, and of two messages that one socket takes at once either may
    // be reported first. How changes of presence are joined is a matter of time: of them only what they lead to is compared.
    fn order(link: &Link) -> Vec<&Value> {
        let frames = link.frames.iter().filter(|frame| frame["type"] != "presence");
        let (mut reports, frames): (Vec<&Value>, Vec<&Value>) = frames.partition(|frame| frame["event"] == "delivered");
        reports.sort_by_key(|frame| frame["ref"].to_string());
        let (placed, other): (Vec<&Value>, Vec<&Value>) =
            frames.into_iter().partition(|frame| frame["position"].is_u64());
        placed.into_iter().chain(other).chain(reports).collect()
    }
    let frames: Vec<&Value> = links.iter().flat_map(order).collect();
    let mut places = BTreeSet::new();
    for frame in &frames {
        find_places(frame, &mut places);
    }
    let mut names = BTreeMap::new();
    let known = links.iter().flat_map(|link| Roster::of(&link.frames).known());
    frames.into_iter().map(|frame| rename(frame, None, &places, &mut names)).chain(known).collect()
}

fn find_places(value: &Value, places: &mut BTreeSet<u64>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| find_places(value, places)),
        Value::Object(fields) => {
            places.extend(fields.get("position").filter(|_| fields.contains_key("event_id")).and_then(Value::as_u64));
            fields.values().for_each(|value| find_places(value, places));
        }
        _ => {}
    }
}

fn rename(value: &Value, field: Option<&str>, places: &BTreeSet<u64>, names: &mut BTreeMap<String, usize>) -> Value {
    match value {
        Value::String(text) if is_id(text) => {
            let next = names.len();
            Value::from(format!("id {}", names.entry(text.clone()).or_insert(next)))
        }
        Value::Number(number) if field.is_some_and(|field| PLACES.contains(field)) => {
            Value::from(number.as_u64().map(|place| places.range(..=place).count()))
        }
        Value::Array(values) => {
            let mut values: Vec<&Value> = values.iter().collect();
            // Lists of agents are ordered by their ids, which chance decides.
            values.sort_by_key(|value| value["name"].as_str().map(str::to_owned));
            values.into_iter().map(|value| rename(value, None, places, names)).collect()
        }
        // Where they stand is where they were reported.
        Value::Object(fields) if fields.get("event").is_some_and(|event| event == "delivered") => {
            let kept = fields.iter().filter(|(name, _)| !["position", "event_id"].contains(&name.as_str()));
            kept.map(|(name, value)| (name.clone(), rename(value, Some(name), places, names))).collect()
        }
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), rename(value, Some(name), places, names))).collect()
        }
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lived(own: &[Value], strange: &[Value]) -> Lived {
        let link = |frames: &[Value]| Link {
            frames: frames.to_vec(),
            written: Some(frames.iter().map(Value::to_string).collect()),
            ..Link::default()
        };
        Lived { own: vec![vec![link(own)]], strange: vec![link(strange)] }
    }

    #[test]
    fn the_same_under_other_ids_and_places_is_the_same() {
        let one = [json!({ "agent_id": "ag_0000000000000000000001", "position": 7 }), json!({ "position": 9 })];
        let other = [json!({ "agent_id": "ag_0000000000000000000002", "position": 70 }), json!({ "position": 71 })];
        let strange = [json!({ "agent_id": "ag_0000000000000000000003" })];
        compare(&lived(&one, &[]), &lived(&other, &strange)).expect("it is the same");
    }

    #[test]
    fn whatever_differs_or_leaks_is_noticed() {
        let good = [json!({ "agent_id": "ag_0000000000000000000001", "position": 7 }), json!({ "version": 1 })];
        let strange = [json!({ "agent_id": "ag_0000000000000000000003" })];
        let rejected = |beside: &[Value]| {
            let error = compare(&lived(&good, &[]), &lived(beside, &strange)).expect_err("it is bad").to_string();
            assert!(error.starts_with("G14"), "{error}");
        };
        rejected(&good[..1]);
        rejected(&[good[0].clone(), json!({ "version": 2 })]);
        rejected(&[json!({ "agent_id": "ag_0000000000000000000003", "position": 7 }), good[1].clone()]);
        rejected(&[good[0].clone(), json!({ "version": 1, "value": CANARY })]);
    }
}
