//! An agent that knows nothing but the public protocol: connects, asks, remembers where it stood, comes back, repeats what
//! was not answered.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

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

/// Where a client is with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has none.
    Away,
    /// It waits to be let in.
    Entering,
    /// It is in.
    Inside,
}

/// One command as it was sent once. Repetitions have the same key.
#[derive(Clone, Debug)]
pub struct Sent {
    /// By whom.
    pub client: usize,
    /// Over which connection.
    pub link: usize,
    /// Its `ref`, used once.
    pub reference: String,
    /// The whole frame.
    pub body: Value,
    /// Its idempotency key.
    pub key: Option<String>,
    /// What came back.
    pub answer: Option<Value>,
}

/// An agent.
#[derive(Debug)]
pub struct Client {
    /// Its index.
    pub number: usize,
    /// Its fleet's index.
    pub fleet: usize,
    /// Its name.
    pub name: String,
    /// How it wants presence.
    pub presence: &'static str,
    /// Whether it speaks wrapped.
    pub wrapped: bool,
    /// Whether some of the values that it writes are large.
    pub heavy: bool,
    /// Where it is.
    pub phase: Phase,
    /// Its newest connection.
    pub link: Option<usize>,
    /// Its id, once told.
    pub agent: Option<String>,
    /// What proves that it is the same.
    pub resume_token: Option<String>,
    /// Every event id it saw, with its position, oldest first.
    pub seen: BTreeMap<u64, String>,
    /// It reads nothing until then.
    pub deaf_until: Duration,
    /// What was not answered, or not for certain: indices of `Sent`.
    pub open: Vec<usize>,
    /// Everything it sent with an idempotency key.
    pub keyed: Vec<usize>,
    /// Messages whose receipt is asked for.
    receipts: Vec<String>,
    versions: BTreeMap<String, u64>,
    count: u64,
}

impl Client {
    /// One that has not connected yet.
    pub fn new(number: usize, fleet: usize, heavy: bool, rng: &mut Rng) -> Self {
        Self {
            number,
            fleet,
            name: format!("agent{number}"),
            presence: *rng.pick(&["none", "none", "each", "delta"]),
            wrapped: rng.chance(250),
            heavy,
            phase: Phase::Away,
            link: None,
            agent: None,
            resume_token: None,
            seen: BTreeMap::new(),
            deaf_until: Duration::ZERO,
            open: Vec::new(),
            keyed: Vec::new(),
            receipts: Vec::new(),
            versions: BTreeMap::new(),
            count: 0,
        }
    }

    /// A `ref` that was never used.
    pub fn reference(&mut self) -> String {
        self.count += 1;
        format!("c{}.{}", self.number, self.count)
    }

    /// `auth`, perhaps from an event on.
    pub fn auth(&self, api_key: &str, after: Option<&String>, rng: &mut Rng) -> Value {
        let mut fields = json!({
            "api_key": api_key,
            "agent": { "name": self.name, "capabilities": ["sim"] },
            "presence": self.presence,
        });
        if let Some(after) = after {
            fields["last_event_id"] = json!(after);
        }
        if let (Some(agent), Some(token)) = (&self.agent, &self.resume_token)
            && rng.chance(500)
        {
            fields["agent_id"] = json!(agent);
            fields["resume_token"] = json!(token);
        }
        if self.wrapped {
            return json!({ "type": "auth", "payload": fields });
        }
        fields["type"] = json!("auth");
        fields
    }

    /// A command or a question of some kind, without `ref`.
    pub fn wish(&mut self, peers: &[String], loud: bool, rng: &mut Rng) -> Value {
        if self.heavy && rng.chance(40) {
            return json!({ "type": "memory", "action": "list", "values": true });
        }
        match rng.below(100) {
            0..30 => Self::activity(peers, loud, rng),
            30..62 => self.memory(rng),
            62..74 => Self::subscription(rng),
            74..86 => self.direct(peers, rng),
            86..92 => match rng.below(2) {
                0 => json!({ "type": "presence", "action": "update", "state": rng.pick(&["busy", "online", "away"]) }),
                _ => json!({ "type": "presence", "action": "heartbeat", "load": 0.5, "state": "busy" }),
            },
            _ => match rng.below(4) {
                0 => json!({ "type": "memory", "action": "get", "key": rng.pick(&KEYS) }),
                1 => json!({ "type": "memory", "action": "list" }),
                2 => json!({ "type": "replay", "action": "request", "limit": 5 }),
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
                wish["tags"] = json!([rng.pick(&TAGS)]);
            }
            1 if rng.chance(400) => {
                wish["scope"] = json!("direct");
                wish["to"] = json!(rng.pick(peers));
            }
            _ => {}
        }
        wish
    }

    fn memory(&self, rng: &mut Rng) -> Value {
        let key = *rng.pick(&KEYS);
        if key == "count" && rng.chance(700) {
            return json!({ "type": "memory", "action": "set", "key": key, "op": "incr", "value": 1 });
        }
        if rng.chance(250) {
            return json!({ "type": "memory", "action": "delete", "key": key });
        }
        let mut wish = json!({ "type": "memory", "action": "set", "key": key, "value": rng.below(1_000) });
        if self.heavy && rng.chance(120) {
            wish["value"] = json!(large(*rng.pick(&LARGE)));
        }
        if rng.chance(450) {
            let known = self.versions.get(key).copied().unwrap_or(0);
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
        let conflict =
            json!({ "type": "memory", "action": "set", "key": key, "value": 1, "expected_version": 1_000_000 });
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

    fn direct(&mut self, peers: &[String], rng: &mut Rng) -> Value {
        if let Some(message) = self.receipts.pop() {
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

    /// Takes note of what a frame says.
    pub fn learn(&mut self, frame: &Value) {
        let known = |name: &str| frame[name].as_str().map(str::to_owned);
        if let (Some(position), Some(event_id)) = (frame["position"].as_u64(), known("event_id"))
            && frame["duplicate"].is_null()
        {
            self.seen.insert(position, event_id);
        }
        match (frame["type"].as_str(), frame["event"].as_str()) {
            (Some("memory"), Some("set_ok" | "changed" | "delete_ok")) => {
                let gone = frame["event"] == "delete_ok" || frame["action"] == "delete";
                let version = if gone { 0 } else { frame["version"].as_u64().unwrap_or(0) };
                self.versions.insert(known("key").unwrap_or_default(), version);
            }
            (Some("direct"), Some("message")) if frame["ack"] == true => self.receipts.extend(known("message_id")),
            _ => {}
        }
    }
}

fn large(kib: usize) -> String {
    "x".repeat(kib << 10)
}

/// A frame in the flat shape, however it came.
pub fn flat(text: &str) -> Value {
    let mut frame: Value = serde_json::from_str(text).expect("frames are JSON");
    let Some(fields) = frame.as_object_mut() else { return frame };
    // A flat direct message has a payload too, and more beside it.
    if fields.keys().any(|name| !["type", "event", "ref", "payload"].contains(&name.as_str())) {
        return frame;
    }
    if let Some(Value::Object(inner)) = fields.remove("payload") {
        fields.extend(inner);
    }
    frame
}

/// Type and event and what tells a push from others at its place; `None`: it is no push, or one of presence.
pub fn what(frame: &Value) -> Option<String> {
    let text = |name: &str| frame[name].as_str().unwrap_or_default();
    match (text("type"), text("event")) {
        ("activity", "broadcast") => Some("activity/broadcast".to_owned()),
        ("memory", "changed") => {
            Some(format!("memory/changed {} {} {}", text("key"), text("change"), frame["version"]))
        }
        ("direct", event @ ("message" | "queued" | "failed" | "delivered" | "acked")) => {
            Some(format!("direct/{event} {}", text("message_id")))
        }
        _ => None,
    }
}
