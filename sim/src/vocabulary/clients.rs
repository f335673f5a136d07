//! An agent that knows nothing but the public protocol: connects, asks, remembers where it stood, comes back, repeats what
//! was not answered, and writes everything down.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::commands;
use crate::{
    history::{Agent, Diary, Link, Resume, Sent, flat, what},
    rng::Rng,
};

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

/// An agent.
#[derive(Clone, Debug)]
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
    /// Whether some that are written in its fleet are: then what it asks for may take several pages.
    pub pages: bool,
    /// Where it is.
    pub phase: Phase,
    /// What it wrote down.
    pub diary: Diary,
    /// What proves that it is the same.
    resume_token: Option<String>,
    /// Every event id it saw, with its position, oldest first.
    seen: BTreeMap<u64, String>,
    /// What was not answered, or not for certain: indices of what it sent.
    open: Vec<usize>,
    /// Of what was sent over its newest connection, how much waits for its answer.
    unanswered: usize,
    /// Everything it sent with an idempotency key.
    keyed: Vec<usize>,
    /// Messages whose receipt is asked for.
    receipts: Vec<String>,
    versions: BTreeMap<String, u64>,
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
            pages: heavy,
            phase: Phase::Away,
            diary: Diary::default(),
            resume_token: None,
            seen: BTreeMap::new(),
            open: Vec::new(),
            unanswered: 0,
            keyed: Vec::new(),
            receipts: Vec::new(),
            versions: BTreeMap::new(),
        }
    }

    /// Begins a connection: its first frame. Mostly it goes on after the newest event it saw, sometimes after any, and rarely
    /// after an event that it was never shown: one of somebody else, or none at all.
    pub fn connect(&mut self, api_key: &str, foreign: Option<&str>, rng: &mut Rng) -> String {
        let resume = self.resume(foreign, rng);
        self.begin(api_key, resume, rng)
    }

    /// Begins a connection that goes on after the newest event it saw.
    pub fn come_back(&mut self, api_key: &str, rng: &mut Rng) -> String {
        let newest = self.newest().map(|(position, event_id)| (Resume::After(position), Some(event_id.to_owned())));
        self.begin(api_key, newest.unwrap_or_default(), rng)
    }

    fn begin(&mut self, api_key: &str, (resume, after): (Resume, Option<String>), rng: &mut Rng) -> String {
        self.diary.links.push(Link { resume, ..Link::default() });
        (self.phase, self.unanswered) = (Phase::Entering, 0);
        let mut fields = json!({
            "api_key": api_key,
            "agent": { "name": self.name, "capabilities": ["sim"] },
            "presence": self.presence,
        });
        if let Some(after) = after {
            fields["last_event_id"] = json!(after);
        }
        if let (Some(agent), Some(token)) = (&self.diary.id, &self.resume_token)
            && rng.chance(500)
        {
            fields["agent_id"] = json!(agent);
            fields["resume_token"] = json!(token);
        }
        if self.wrapped {
            return json!({ "type": "auth", "payload": fields }).to_string();
        }
        fields["type"] = json!("auth");
        fields.to_string()
    }

    fn resume(&self, foreign: Option<&str>, rng: &mut Rng) -> (Resume, Option<String>) {
        let Some(newest) = self.seen.last_key_value() else { return (Resume::Fresh, None) };
        match rng.below(100) {
            0..12 => (Resume::Fresh, None),
            12..15 => (Resume::Forged, Some(forged(newest.1, foreign, rng))),
            15..37 => {
                let at = rng.index(self.seen.len());
                let (position, event_id) = self.seen.iter().nth(at).unwrap_or(newest);
                (Resume::After(*position), Some(event_id.clone()))
            }
            _ => (Resume::After(*newest.0), Some(newest.1.clone())),
        }
    }

    /// Something to ask over its newest connection: a wish of its own, or once more what was not answered.
    pub fn ask(&mut self, peers: &[String], loud: bool, rng: &mut Rng) -> String {
        if let Some((body, key)) = self.again(rng) {
            return self.send(body, key);
        }
        let mut body = commands::wish(self, peers, loud, rng);
        let key = rng.chance(400).then(|| format!("key{}", self.diary.sent.len()));
        if let Some(key) = &key {
            body["idempotency_key"] = json!(key);
        }
        self.send(body, key)
    }

    /// Sends this: the frame.
    pub fn send(&mut self, body: Value, key: Option<String>) -> String {
        let number = self.diary.sent.len();
        let reference = format!("c{}.{}", self.number, number + 1);
        let mut frame = body.clone();
        frame["ref"] = json!(reference);
        self.open.push(number);
        self.unanswered += 1;
        if key.is_some() {
            self.keyed.push(number);
        }
        let link = self.diary.links.len() - 1;
        let after = self.diary.links[link].frames.len();
        self.diary.sent.push(Sent { link, after, reference, body, key, answer: None });
        frame.to_string()
    }

    /// A command to send once more: one without an answer, or any.
    fn again(&self, rng: &mut Rng) -> Option<(Value, Option<String>)> {
        if !rng.chance(120) {
            return None;
        }
        let sent = &self.diary.sent;
        let open: Vec<usize> = self.open.iter().copied().filter(|at| sent[*at].key.is_some()).collect();
        let from = if open.is_empty() { &self.keyed } else { &open };
        if from.is_empty() {
            return None;
        }
        let sent = &sent[*rng.pick(from)];
        Some((sent.body.clone(), sent.key.clone()))
    }

    /// Reads a frame from its newest connection; perhaps that calls for a frame of its own.
    pub fn hear(&mut self, text: &str) -> Option<String> {
        let frame = flat(text);
        self.learn(&frame);
        let known = |name: &str| frame[name].as_str().map(str::to_owned);
        let mut reply = None;
        match frame["type"].as_str() {
            Some("auth_ok") => {
                self.phase = Phase::Inside;
                self.diary.id = known("agent_id");
                self.resume_token = known("resume_token");
                self.link().session = known("session_id");
            }
            Some("ping") => reply = Some(json!({ "type": "pong" }).to_string()),
            _ => {}
        }
        if what(&frame).is_none()
            && let Some(reference) = frame["ref"].as_str()
            && let Some(at) = self.open.iter().rev().copied().find(|at| self.diary.sent[*at].reference == reference)
        {
            if self.diary.sent[at].answer.is_none() {
                self.unanswered -= 1;
            }
            if frame["outcome"] != "unknown" {
                self.open.retain(|open| *open != at);
            }
            self.diary.sent[at].answer = Some(frame.clone());
        }
        self.link().frames.push(frame);
        reply
    }

    /// Its newest connection.
    ///
    /// # Panics
    /// It never had one.
    pub fn link(&mut self) -> &mut Link {
        self.diary.links.last_mut().expect("it has connected")
    }

    /// How much of what it sent over its newest connection waits for its answer.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// The frame that it read last.
    pub fn heard(&self) -> Option<&Value> {
        self.diary.links.last()?.frames.last()
    }

    /// The newest event that it saw: position and id.
    pub fn newest(&self) -> Option<(u64, &str)> {
        self.seen.last_key_value().map(|(position, event_id)| (*position, event_id.as_str()))
    }

    /// What it wrote down, once all is over. `is_in`: its newest connection stood to the end.
    pub fn tell(self, is_in: bool) -> Agent {
        let Self { fleet, name, presence, pages, diary, .. } = self;
        Agent { fleet, name, presence, pages, diary, is_in }
    }

    /// The version of a key as far as it knows; 0: it holds nothing.
    pub fn version(&self, key: &str) -> u64 {
        self.versions.get(key).copied().unwrap_or(0)
    }

    /// A message whose sender waits for a receipt.
    pub fn receipt(&mut self) -> Option<String> {
        self.receipts.pop()
    }

    /// Takes note of what a frame says.
    fn learn(&mut self, frame: &Value) {
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

/// An event id that was not given to this agent: of another fleet, cut short, or with one character changed.
fn forged(own: &str, foreign: Option<&str>, rng: &mut Rng) -> String {
    match (rng.below(3), foreign) {
        (0, Some(foreign)) => foreign.to_owned(),
        (1, _) => own[..rng.index(own.len())].to_owned(),
        _ => {
            let at = 4 + rng.index(own.len() - 4);
            let other = if &own[at..=at] == "0" { "1" } else { "0" };
            format!("{}{other}{}", &own[..at], &own[at + 1..])
        }
    }
}
