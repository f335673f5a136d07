//! What agents ask, as the frames of the public protocol, without `ref`.

use serde_json::{Value, json};

use super::clients::Client;
use crate::rng::Rng;

/// The memory keys that are written.
pub const KEYS: [&str; 6] = ["k/1", "k/2", "k/3", "n/1", "n/2", "count"];
/// The tags that are used.
const TAGS: [&str; 3] = ["red", "green", "blue"];
/// The patterns that are watched.
const PATTERNS: [&str; 4] = ["k/*", "n/*", "**", "k/1"];
/// How large a large value is, in KiB.
const LARGE: [usize; 4] = [40, 150, 300, 600];
/// How many commands add to a value of 600 KiB in a storm: each makes all of it anew, together more than is committed at once.
const ADDITIONS: usize = 15;
/// How many expect another version: each is told all of it.
const CONFLICTS: usize = 4;
/// The kinds of activity that are used.
const KINDS: [&str; 2] = ["discovery", "alert"];

/// A command or a question of some kind, as this agent would ask it now.
pub fn wish(client: &mut Client, peers: &[String], loud: bool, rng: &mut Rng) -> Value {
    if client.heavy && rng.chance(40) {
        return json!({ "type": "memory", "action": "list", "values": true });
    }
    match rng.below(100) {
        0..30 => activity(peers, loud, rng),
        30..62 => memory(client, rng),
        62..74 => subscription(rng),
        74..86 => direct(client, peers, rng),
        86..92 => match rng.below(2) {
            0 => json!({ "type": "presence", "action": "update", "state": rng.pick(&["busy", "online", "away"]) }),
            _ => json!({ "type": "presence", "action": "heartbeat", "load": 0.5, "state": "busy" }),
        },
        _ => match rng.below(5) {
            0 | 1 => json!({ "type": "memory", "action": "get", "key": rng.pick(&KEYS) }),
            2 => json!({ "type": "memory", "action": "list" }),
            3 => json!({ "type": "replay", "action": "request", "limit": 5 }),
            _ => json!({ "type": "ping" }),
        },
    }
}

fn activity(peers: &[String], loud: bool, rng: &mut Rng) -> Value {
    let mut wish = json!({ "type": "activity", "action": "broadcast", "event": { "kind": rng.pick(&KINDS) } });
    if loud {
        wish["event"]["description"] = json!("x".repeat(9_000));
    }
    match rng.below(3) {
        0 => {
            wish["scope"] = json!("tagged");
            wish["tags"] = json!(TAGS[..=rng.index(TAGS.len())]);
        }
        1 if rng.chance(400) => {
            wish["scope"] = json!("direct");
            wish["to"] = json!(rng.pick(peers));
        }
        _ => {}
    }
    wish
}

fn memory(client: &Client, rng: &mut Rng) -> Value {
    let key = *rng.pick(&KEYS);
    if key == "count" && rng.chance(700) {
        return json!({ "type": "memory", "action": "set", "key": key, "op": "incr", "value": 1 });
    }
    if rng.chance(250) {
        return json!({ "type": "memory", "action": "delete", "key": key });
    }
    let mut wish = json!({ "type": "memory", "action": "set", "key": key, "value": rng.below(1_000) });
    if client.heavy && rng.chance(120) {
        wish["value"] = json!(large(*rng.pick(&LARGE)));
    }
    if rng.chance(450) {
        let known = client.version(key);
        wish["expected_version"] = json!(if rng.chance(850) { known } else { 0 });
    }
    if rng.chance(200) {
        wish["ttl"] = json!(rng.pick(&[0.05, 1.0, 5.0]));
    }
    wish
}

/// Two values that are more than a page together, and small commands of which much comes.
pub fn storm(rng: &mut Rng) -> Vec<Value> {
    let set = |key| json!({ "type": "memory", "action": "set", "key": key, "value": large(600) });
    let key = *rng.pick(&["k/1", "k/2"]);
    let conflict = json!({ "type": "memory", "action": "set", "key": key, "value": 1, "expected_version": 1_000_000 });
    let addition = json!({ "type": "memory", "action": "set", "key": key, "op": "append", "value": "y" });
    let small = vec![addition; ADDITIONS].into_iter().chain(vec![conflict; CONFLICTS]);
    [set("k/1"), set("k/2")].into_iter().chain(small).collect()
}

fn subscription(rng: &mut Rng) -> Value {
    match rng.below(7) {
        0..2 => json!({ "type": "activity", "action": "subscribe", "tags": [rng.pick(&TAGS)] }),
        2 => json!({ "type": "activity", "action": "subscribe", "kinds": [rng.pick(&KINDS)] }),
        3 => json!({ "type": "activity", "action": "unsubscribe", "tags": [rng.pick(&TAGS)] }),
        4..6 => json!({
            "type": "memory", "action": "subscribe", "pattern": rng.pick(&PATTERNS),
            "values": rng.chance(500), "snapshot": rng.chance(500),
        }),
        _ => json!({ "type": "memory", "action": "unsubscribe", "pattern": rng.pick(&PATTERNS) }),
    }
}

fn direct(client: &mut Client, peers: &[String], rng: &mut Rng) -> Value {
    if let Some(message) = client.receipt() {
        return json!({ "type": "direct", "action": "ack", "message_id": message });
    }
    let mut wish = json!({
        "type": "direct", "action": "send", "to": rng.pick(peers), "message": { "hello": 1 }, "ack": rng.chance(400),
    });
    if rng.chance(200) {
        wish["ttl"] = json!(2);
    }
    wish
}

fn large(kib: usize) -> String {
    "x".repeat(kib << 10)
}
