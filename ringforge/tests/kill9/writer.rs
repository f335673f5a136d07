//! A client that writes as fast as it is answered, and remembers what it was told about every command.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use serde_json::{Value, json};

use crate::{
    run::{OBSERVERS, Random, Run, TAG},
    support::{Client, Got, SOON},
};

/// Commands that one writer keeps unanswered.
const WINDOW: usize = 12;
/// Memory keys that all writers fight for.
const SHARED_KEYS: u64 = 6;
/// Answered commands that are sent once more after a kill.
const REPEATED: usize = 3;

/// What a command asks for.
#[derive(Clone, Debug)]
pub enum Act {
    /// A broadcast whose description is the command's name.
    Broadcast,
    /// A write whose value names the command.
    Set { key: String, expected: Option<u64> },
    /// One more on a counter.
    Count { key: String },
    /// A delete.
    Delete { key: String, expected: Option<u64> },
    /// A message that names the command.
    Direct { to: &'static str },
}

/// What is known of a command.
#[derive(Clone, Debug)]
pub enum Known {
    /// It may have taken effect.
    Unknown,
    /// It took effect; the reply.
    Acked(Value),
    /// It did not and never will; the code.
    Refused(Value),
}

/// A command that was sent, perhaps more than once.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Unique in the run.
    pub name: String,
    /// What it asks for.
    pub act: Act,
    /// Whether it carries an idempotency key.
    pub idempotent: bool,
    /// What is known of it.
    pub known: Known,
    /// How often it was sent.
    pub times: u32,
    /// Whether its message found the mailbox full: it is not delivered.
    pub mailbox_full: bool,
}

/// One writer.
pub struct Writer {
    run: Arc<Run>,
    number: usize,
    random: Random,
    sent: Vec<Sent>,
    /// The version of each key as last heard of.
    versions: BTreeMap<String, u64>,
    /// Unanswered commands of this connection, by `ref`.
    pending: BTreeMap<String, usize>,
    /// Commands to send once more.
    repeat: VecDeque<usize>,
    /// The position of the last first-time acknowledgement of this connection, and its place in the order of sending.
    last: (u64, usize),
}

impl Writer {
    /// The writer with this number.
    pub fn new(run: Arc<Run>, number: usize) -> Self {
        let random = Random(run.seed ^ (number as u64 + 1).wrapping_mul(0x5851_F42D_4C95_7F2D));
        let (versions, pending, repeat) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { run, number, random, sent: Vec::new(), versions, pending, repeat, last: (0, 0) }
    }

    /// Writes through every life of the server until the run stops, and says what became of each command.
    pub async fn write(mut self) -> Vec<Sent> {
        let (run, name) = (Arc::clone(&self.run), format!("writer-{}", self.number));
        loop {
            let mut tries = run.tries();
            let mut client = loop {
                let (url, more) = (tries.url().await, json!({ "presence": "none" }));
                if let Some((client, _)) = Client::try_enter(&url, &run.key, &name, more).await {
                    break client;
                }
            };
            self.last = (0, 0);
            let done = self.live(&mut client).await;
            let lost = i64::try_from(self.pending.len()).expect("a small number");
            self.run.in_flight.fetch_sub(lost, Ordering::Relaxed);
            if done {
                client.close().await;
                return self.sent;
            }
            self.after_loss();
        }
    }

    /// One connection; whether everything that was sent has been answered and the run stops.
    async fn live(&mut self, client: &mut Client) -> bool {
        loop {
            let stopping = self.run.stopping.load(Ordering::Relaxed);
            while self.pending.len() < WINDOW && (!stopping || !self.repeat.is_empty()) {
                self.send(client).await;
            }
            if self.pending.is_empty() {
                return true;
            }
            match client.next(SOON).await {
                Got::Frame(frame) => self.hear(&frame),
                Got::Closed(_) => return false,
                Got::Nothing => panic!("writer {}: {} commands are not answered", self.number, self.pending.len()),
            }
        }
    }

    /// What may be sent again is: the unknown ones, and some that were answered.
    fn after_loss(&mut self) {
        self.pending.clear();
        let again = |sent: &Sent| sent.idempotent && matches!(sent.known, Known::Unknown);
        self.repeat = (0..self.sent.len()).filter(|at| again(&self.sent[*at])).collect();
        // What was refused before the log is not remembered: it has no position.
        let remembered = |known: &Known| match known {
            Known::Unknown => false,
            Known::Acked(reply) | Known::Refused(reply) => reply["position"].is_u64(),
        };
        let answered = |at: &usize| self.sent[*at].idempotent && remembered(&self.sent[*at].known);
        self.repeat.extend((0..self.sent.len()).rev().filter(answered).take(REPEATED));
    }

    async fn send(&mut self, client: &mut Client) {
        let at = self.repeat.pop_front().unwrap_or_else(|| self.invent());
        let sent = &mut self.sent[at];
        let reference = format!("{}.{}", sent.name, sent.times);
        sent.times += 1;
        let mut frame = frame(&sent.name, &sent.act);
        frame["ref"] = json!(reference);
        if sent.idempotent {
            frame["idempotency_key"] = json!(sent.name);
        }
        self.pending.insert(reference, at);
        self.run.in_flight.fetch_add(1, Ordering::Relaxed);
        client.send(&frame).await;
    }

    fn invent(&mut self) -> usize {
        let shared = format!("shared/{}", self.random.below(SHARED_KEYS));
        let expected = self.versions.get(&shared).copied();
        let act = match self.random.below(100) {
            0..50 => Act::Broadcast,
            50..65 => Act::Set { key: shared, expected: None },
            65..75 => Act::Set { key: shared, expected: expected.or(Some(0)) },
            75..85 => Act::Count { key: format!("count/{}", self.number) },
            85..90 => Act::Delete { key: shared, expected: expected.filter(|_| self.random.below(2) == 0) },
            90..93 => Act::Delete { key: format!("own/{}", self.number), expected: None },
            93..97 => Act::Set { key: format!("own/{}", self.number), expected: None },
            _ => Act::Direct { to: OBSERVERS[usize::from(self.random.below(2) == 1)] },
        };
        let name = format!("w{}-{}", self.number, self.sent.len());
        let idempotent = matches!(act, Act::Count { .. }) || self.random.below(2) == 0;
        self.sent.push(Sent { name, act, idempotent, known: Known::Unknown, times: 0, mailbox_full: false });
        self.sent.len() - 1
    }

    fn hear(&mut self, frame: &Value) {
        if frame["event"] == "failed" {
            return self.full(frame);
        }
        let Some(at) = frame["ref"].as_str().and_then(|reference| self.pending.remove(reference)) else { return };
        self.run.in_flight.fetch_sub(1, Ordering::Relaxed);
        let refused = frame["type"] == "error";
        let known = match (refused, frame["outcome"] == "none") {
            (false, _) => Known::Acked(frame.clone()),
            // Refused before the log: that says nothing of the times before.
            (true, _) if self.sent[at].times > 1 && !frame["position"].is_u64() => return,
            (true, true) => Known::Refused(frame.clone()),
            (true, false) => {
                let again = self.sent[at].idempotent && matches!(self.sent[at].known, Known::Unknown);
                return self.repeat.extend(again.then_some(at));
            }
        };
        self.run.acknowledged(frame);
        self.learn(at, frame);
        if frame["duplicate"] != true && !refused && self.sent[at].times == 1 {
            self.in_order(at, frame);
        }
        let sent = &mut self.sent[at];
        match &sent.known {
            Known::Unknown => sent.known = known,
            Known::Acked(first) | Known::Refused(first) => same_answer(&sent.name, first, frame),
        }
    }

    fn full(&mut self, frame: &Value) {
        assert_eq!(frame["reason"], "mailbox_full", "{frame}");
        let reference = frame["ref"].as_str().expect("a status repeats the ref");
        let named = |sent: &&mut Sent| reference.split('.').next() == Some(&sent.name);
        self.sent.iter_mut().find(named).expect("a status of our own message").mailbox_full = true;
    }

    /// Commands of one connection take effect in the order in which they were sent.
    fn in_order(&mut self, at: usize, frame: &Value) {
        let position = frame["position"].as_u64().expect("an acknowledgement has a position");
        let (last, before) = self.last;
        assert_eq!(position > last, at > before || last == 0, "order of sending and of effect differ: {frame}");
        self.last = (position, at);
    }

    fn learn(&mut self, at: usize, frame: &Value) {
        let (Act::Set { key, .. } | Act::Delete { key, .. }) = &self.sent[at].act else { return };
        let version = frame["version"].as_u64();
        if let Some(version) = version.or(frame["details"]["current_version"].as_u64()) {
            self.versions.insert(key.clone(), version);
        } else {
            self.versions.remove(key);
        }
    }
}

/// The second answer to a command is the first, but for its `ref` and that it says so.
fn same_answer(name: &str, first: &Value, second: &Value) {
    let plain = |frame: &Value| {
        let mut frame = frame.clone();
        let fields = frame.as_object_mut().expect("a frame is an object");
        fields.remove("ref");
        fields.remove("duplicate");
        frame
    };
    assert_eq!(plain(first), plain(second), "{name} was answered differently the second time");
    assert_eq!(second["duplicate"], true, "{name} took effect twice: {second}");
}

fn frame(name: &str, act: &Act) -> Value {
    match act {
        Act::Broadcast => json!({ "type": "activity", "action": "broadcast", "scope": "tagged", "tags": [TAG],
            "event": { "kind": "discovery", "description": name } }),
        Act::Set { key, expected } => json!({ "type": "memory", "action": "set", "key": key, "value": { "by": name },
            "expected_version": expected }),
        Act::Count { key } => json!({ "type": "memory", "action": "set", "key": key, "op": "incr" }),
        Act::Delete { key, expected } => json!({ "type": "memory", "action": "delete", "key": key,
            "expected_version": expected }),
        Act::Direct { to } => json!({ "type": "direct", "action": "send", "to": to, "payload": { "by": name } }),
    }
}
