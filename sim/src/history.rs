//! What happened, told so that any harness can record it: what agents sent and read, what the log holds, what the read
//! models say. The checkers know nothing else.

use std::collections::{BTreeMap, BTreeSet};

use ringforge_domain::{
    event::Event,
    fold::Damaged,
    ids::Scope,
    position::{Offset, Partition},
    row::Row,
    verdict::Verdict,
    world::Store,
};
use serde_json::Value;

/// Everything that happened, once all has come to rest.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The fleets.
    pub fleets: Vec<Fleet>,
    /// The agents.
    pub agents: Vec<Agent>,
    /// The log, partition by partition, with what the fold alone makes of it.
    pub logs: BTreeMap<Partition, Logged>,
    /// What the read models say; a partition that is left out is not checked.
    pub models: BTreeMap<Partition, Model>,
}

/// A fleet.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Tenant and fleet.
    pub scope: Scope,
    /// Where its events are.
    pub partition: Partition,
}

/// An agent, from the outside.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its fleet's index.
    pub fleet: usize,
    /// Its name.
    pub name: String,
    /// How it wants presence.
    pub presence: &'static str,
    /// Whether snapshots may take several pages, since values are large.
    pub pages: bool,
    /// What it wrote down.
    pub diary: Diary,
    /// Whether its last connection stands in the end.
    pub is_in: bool,
}

/// What an agent wrote down.
#[derive(Clone, Debug, Default)]
pub struct Diary {
    /// Its id, once told.
    pub id: Option<String>,
    /// Its connections, oldest first. It reads from the newest only.
    pub links: Vec<Link>,
    /// Everything it sent, in order.
    pub sent: Vec<Sent>,
}

/// A connection from its beginning to its end.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Where it was to go on.
    pub resume: Resume,
    /// The session, once told.
    pub session: Option<String>,
    /// Everything that was read, in the flat shape.
    pub frames: Vec<Value>,
    /// Everything that the server wrote, read or not; `None`: the harness cannot tell.
    pub written: Option<Vec<String>>,
    /// Whether the server ever dropped what waited for it.
    pub lagged: bool,
    /// The most bytes of pushes that ever waited for it at once, if the harness can tell.
    pub waited: usize,
    /// The first position that the log still kept when the answer to its resume was read.
    pub oldest: u64,
}

/// Where a connection was to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Nowhere: it begins.
    #[default]
    Fresh,
    /// After this position.
    After(u64),
    /// After an event id that nobody gave it.
    Forged,
}

/// One command as it was sent once. Repetitions have the same key.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Over which of its agent's connections.
    pub link: usize,
    /// How many frames had been read from it.
    pub after: usize,
    /// Its `ref`, used once.
    pub reference: String,
    /// The whole frame, without `ref`.
    pub body: Value,
    /// Its idempotency key.
    pub key: Option<String>,
    /// What came back.
    pub answer: Option<Value>,
}

/// A record of the log, read.
#[derive(Clone, Debug)]
pub enum Read {
    /// An event.
    Event(Box<Event>),
    /// It cannot be read, and has a place all the same.
    Damaged(Damaged),
}

/// One partition of the log.
#[derive(Clone, Debug, Default)]
pub struct Logged {
    /// Every record, in order, also those that are no longer kept.
    pub records: Vec<Read>,
    /// What the fold says of each.
    pub verdicts: Vec<Verdict>,
    /// Every event that can be read with its verdict, in order.
    pub told: Vec<(Event, Verdict)>,
    /// The rows that they lead to.
    pub store: Store,
    /// Events that came after their asker had been told that their outcome is unknown: they are in no session's order.
    pub late: BTreeSet<Offset>,
}

/// What a read model says of a partition.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// All rows.
    pub rows: Vec<Row>,
    /// The next offset to apply.
    pub upto: Offset,
    /// The verdicts of each fleet, in order.
    pub verdicts: BTreeMap<Scope, Vec<Verdict>>,
}

impl Logged {
    /// The next offset to be written.
    pub fn end(&self) -> Offset {
        self.verdicts.last().map_or(Offset::ZERO, |verdict| verdict.position.offset.next())
    }
}

impl Agent {
    /// Its last connection, if that stands in the end.
    pub fn line(&self) -> Option<&Link> {
        self.diary.links.last().filter(|_| self.is_in)
    }

    /// Whether it was there to the end over this connection.
    pub fn is_complete(&self, link: usize) -> bool {
        self.is_in && link + 1 == self.diary.links.len()
    }
}

/// A frame in the flat shape, however it came.
///
/// # Panics
/// It is no JSON.
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
