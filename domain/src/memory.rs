//! Shared memory: versioned entries that a whole fleet reads and writes. Set, delete, expire; the rest in `memory/`.

mod ask;
mod op;
mod view;
mod watch;

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use ask::{Get, History, List, Search, SearchSort};
pub use op::Op;
pub use view::View;
pub use watch::{Subscribe, Unsubscribe};

pub use crate::row::memory::{Content, Entry, Provenance, ValueType};
use crate::{
    act::{Act, Applied},
    code::{CURRENT_VALUE, Code, Met, Refusal},
    frame::{Frame, Push, Shown},
    header::{At, Header},
    history::{Index, Stream},
    ids::{AgentId, MemoryId},
    interest::Audience,
    json::{self, Json},
    limits::{CONFLICT_VALUE_BYTES_MAX, Limits, READS_MAX, TTL_SECONDS_MAX, ttl_micros},
    planted::{Bug, planted, wall_clock},
    position::First,
    position::LogTime,
    row::{Needs, Row, RowKey, Rows},
};

/// `type` of its frames.
pub(crate) const KIND: &str = "memory";

impl Entry {
    /// The `conflict` that tells what is there.
    fn conflict(&self, time: LogTime) -> Refusal {
        let content = self.live(time);
        let refusal =
            Refusal::because(Code::Conflict, format!("Memory key `{}` is not at the expected version.", self.key))
                .with("key", self.key.as_str())
                .with("current_version", content.map(|_| self.version))
                .with("author", content.and(self.changed.author).map(|author| author.to_string()))
                .with("changed_at", content.map(|_| self.changed.at.rfc3339()));
        match content.map(|content| &content.value) {
            Some(value) if value.text().len() > CONFLICT_VALUE_BYTES_MAX => {
                let met = Met { key: self.key.clone(), event: self.changed.event };
                Refusal { met: Some(met.into()), ..refusal }
            }
            value => refusal.with(CURRENT_VALUE, value),
        }
    }
}

/// "This key is still at this version"; version 0 means that it holds nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Read {
    /// The key.
    pub key: String,
    /// The version.
    pub version: i64,
}

/// `memory.set`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct Set {
    /// The key.
    pub key: String,
    /// Any JSON, `null` included; may be left out only with `op: incr`.
    #[serde(default, deserialize_with = "json::present")]
    pub value: Option<Json>,
    /// What the value is, if not to be guessed.
    #[serde(default)]
    pub type_hint: Option<ValueType>,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// About it.
    #[serde(default)]
    pub metadata: Option<Json>,
    /// Seconds until it ends.
    #[serde(default)]
    pub ttl: Option<f64>,
    /// The version it must be at; 0: holds nothing.
    #[serde(default, alias = "if_version")]
    pub expected_version: Option<i64>,
    /// How to combine with what is there; none: replace.
    #[serde(default)]
    pub op: Option<Op>,
    /// What else must still hold.
    #[serde(default)]
    pub reads: Vec<Read>,
}

/// What a `memory.set` made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetEffect {
    /// The entry's id.
    pub id: MemoryId,
    /// Its version now.
    pub version: u64,
    /// Whether the key held nothing before.
    pub created: bool,
    /// The version at which the content before had expired, if nobody had recorded it yet.
    pub expired: Option<u64>,
    /// The new value, `null` included, if an `op` made it.
    #[serde(default, deserialize_with = "json::present", skip_serializing_if = "Option::is_none")]
    pub value: Option<Json>,
}

impl SetEffect {
    /// The value that the key held then.
    pub fn made<'a>(&'a self, set: &'a Set) -> Option<&'a Json> {
        if set.op.is_some() { self.value.as_ref() } else { set.value.as_ref() }
    }
}

/// Whether a key may be used.
pub(crate) fn check_key(key: &str, limits: &Limits) -> Result<(), Refusal> {
    if key.trim().is_empty() || key.contains(['\0', '*']) {
        return Err(Refusal::invalid("key", "`key` must not be empty and must hold no `*` or NUL."));
    }
    if key.len() > limits.memory_key_bytes { Err(Refusal::over("key", limits.memory_key_bytes)) } else { Ok(()) }
}

fn check_reads(reads: &[Read], expected: Option<i64>, limits: &Limits) -> Result<(), Refusal> {
    if reads.len() > READS_MAX {
        return Err(Refusal::over("reads", READS_MAX));
    }
    if expected.is_some_and(|version| version < 0) || reads.iter().any(|read| read.version < 0) {
        return Err(Refusal::invalid(
            "expected_version",
            "A version is 0 or more; 0 means that the key holds nothing.",
        ));
    }
    reads.iter().try_for_each(|read| check_key(&read.key, limits))
}

/// The row of a key as it is at this event: an expiry that nobody recorded yet has happened.
fn current(at: &At, rows: &Rows, key: &str) -> (Option<Entry>, Option<u64>) {
    let Some(entry) = rows.get::<Entry>(&RowKey::memory(at.scope(), key)) else { return (None, None) };
    let mut entry = entry.clone();
    let time = if planted(Bug::TtlByWallClock) { LogTime(wall_clock()) } else { at.time };
    if entry.content.is_none() || entry.live(time).is_some() {
        return (Some(entry), None);
    }
    entry.version += 1;
    entry.content = None;
    let version = entry.version;
    (Some(entry), Some(version))
}

/// Whether every guard holds.
fn guard(at: &At, rows: &Rows, key: &str, expected: Option<i64>, reads: &[Read]) -> Result<(), Refusal> {
    let own = expected.map(|version| (key, version));
    for (key, version) in own.into_iter().chain(reads.iter().map(|read| (read.key.as_str(), read.version))) {
        let (entry, _) = current(at, rows, key);
        let live = entry.as_ref().filter(|entry| entry.content.is_some()).map_or(0, |entry| entry.version);
        if u64::try_from(version) != Ok(live) && !planted(Bug::GuardIgnored) {
            return Err(match entry {
                Some(entry) => entry.conflict(at.time),
                None => Refusal::because(Code::Conflict, format!("Memory key `{key}` holds nothing."))
                    .with("key", key)
                    .with("current_version", Value::Null)
                    .with(CURRENT_VALUE, Value::Null)
                    .with("author", Value::Null)
                    .with("changed_at", Value::Null),
            });
        }
    }
    Ok(())
}

/// How often a key has changed.
fn counted(before: Option<&Entry>) -> u64 {
    let before = before.filter(|entry| entry.content.is_some() || !planted(Bug::VersionRestarts));
    before.map_or(0, |entry| entry.version)
}

fn provenance(at: &At, rows: &Rows) -> Provenance {
    let header = &at.header;
    let agent = header.agent_id.and_then(|id| rows.agent(at.scope(), id));
    Provenance {
        author: header.agent_id,
        key_id: header.key_id,
        session: header.session_id,
        task: agent.and_then(|agent| agent.task.clone()),
        event: First { offset: at.position.offset, hash: at.hash },
        at: at.time,
    }
}

fn index(label: &str, key: &str, tags: Vec<String>) -> Index {
    Index {
        stream: Some(Stream::Memory),
        label: Some(label.to_owned()),
        subject: Some(key.to_owned()),
        tags,
        ..Index::default()
    }
}

impl Act for Set {
    type Effect = SetEffect;

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        check_key(&self.key, limits)?;
        check_reads(&self.reads, self.expected_version, limits)?;
        limits.tags("tags", &self.tags)?;
        limits.metadata(self.metadata.as_ref())?;
        limits.ttl(self.ttl, TTL_SECONDS_MAX)?;
        match &self.value {
            None if self.op != Some(Op::Incr) => Err(Refusal::invalid("value", "`value` is missing.")),
            Some(value) if value.text().len() > limits.memory_value_bytes => {
                let size = value.text().len();
                Err(Refusal::new(Code::PayloadTooLarge).with("limit", limits.memory_value_bytes).with("size", size))
            }
            value => op::typed(self.type_hint.filter(|_| self.op.is_none()), value.as_ref()),
        }
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        needs.row(RowKey::memory(at.scope(), &self.key));
        self.reads.iter().for_each(|read| needs.row(RowKey::memory(at.scope(), &read.key)));
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<SetEffect>, Refusal> {
        guard(at, rows, &self.key, self.expected_version, &self.reads)?;
        let (before, expired) = current(at, rows, &self.key);
        let held = before.as_ref().and_then(|entry| entry.content.as_ref());
        let value = match self.op {
            Some(op) => op.on(held.map(|content| &content.value), self.value.as_ref())?,
            None => self.value.clone().ok_or_else(|| Refusal::invalid("value", "`value` is missing."))?,
        };
        op::typed(self.type_hint, Some(&value))?;
        let kept = held.filter(|_| self.op.is_some());
        let fitting =
            kept.map(|content| content.value_type).filter(|kept| op::typed(Some(*kept), Some(&value)).is_ok());
        let guessed = if value.text().starts_with('"') { ValueType::Text } else { ValueType::Json };
        let content = Content {
            value_type: self.type_hint.or(fitting).unwrap_or(guessed),
            tags: kept
                .filter(|_| self.tags.is_empty())
                .map_or_else(|| self.tags.clone(), |content| content.tags.clone()),
            metadata: self.metadata.clone().or_else(|| kept.and_then(|content| content.metadata.clone())),
            ttl: self.ttl.or(kept.and_then(|content| content.ttl)),
            expires_at: match self.ttl {
                Some(ttl) => Some(at.time.plus(ttl_micros(ttl))),
                None => kept.and_then(|content| content.expires_at),
            },
            created_at: held.map_or(at.time, |content| content.created_at),
            value,
        };
        let effect = SetEffect {
            id: before.as_ref().map_or_else(|| MemoryId::of(at.header.command_id), |entry| entry.id),
            version: counted(before.as_ref()) + 1,
            created: held.is_none(),
            expired,
            value: self.op.map(|_| content.value.clone()),
        };
        let tags = content.tags.clone();
        let (id, version) = (effect.id, effect.version);
        let changed = provenance(at, rows);
        let entry = Entry { scope: at.scope(), key: self.key.clone(), id, version, content: Some(content), changed };
        let label = if effect.created { "create" } else { "update" };
        Ok(Applied::new(effect).row(Row::Memory(Box::new(entry))).indexed(index(label, &self.key, tags)))
    }

    fn show(&self, at: &At, effect: &SetEffect) -> Shown {
        let body =
            SetOk { id: effect.id, key: &self.key, version: effect.version, value: self.op.and(effect.value.as_ref()) };
        let mut shown = Shown::ack(KIND, "set_ok", &body);
        let value = effect.made(self);
        let change = if effect.created { "create" } else { "update" };
        if let Some(version) = effect.expired {
            shown.pushes.push(notice(at, &self.key, "expire", version, None, None));
        }
        shown.pushes.push(notice(at, &self.key, change, effect.version, at.header.agent_id, value));
        shown
    }
}

/// The fields of `set_ok`. The value only if an `op` made it: else the asker knows it.
#[derive(Serialize)]
struct SetOk<'a> {
    id: MemoryId,
    key: &'a str,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a Json>,
}

/// The fields of `changed`.
#[derive(Serialize)]
struct Changed<'a> {
    key: &'a str,
    change: &'a str,
    action: &'static str,
    author: Option<AgentId>,
    version: u64,
    timestamp: String,
}

/// What `changed` has more for those who asked for values.
#[derive(Serialize)]
struct ChangedTo<'a> {
    value: &'a Json,
}

/// The `changed` notice to whoever watches the key.
fn notice(at: &At, key: &str, change: &str, version: u64, author: Option<AgentId>, value: Option<&Json>) -> Push {
    let deletes = matches!(change, "delete" | "expire");
    let action = if deletes { "delete" } else { "set" };
    let body = Changed { key, change, action, author, version, timestamp: at.time.rfc3339() };
    let frame = Frame::new(KIND, "changed", &body);
    let with_value = value.map(|value| frame.clone().also(&ChangedTo { value }));
    Push { audience: Audience::Watchers { key: key.to_owned(), deletes }, frame, with_value }
}

/// `memory.delete`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct Delete {
    /// The key.
    pub key: String,
    /// The version it must be at.
    #[serde(default, alias = "if_version")]
    pub expected_version: Option<i64>,
    /// What else must still hold.
    #[serde(default)]
    pub reads: Vec<Read>,
}

/// The version at which a key stopped holding anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The version.
    pub version: u64,
}

impl Act for Delete {
    type Effect = Ended;

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        check_key(&self.key, limits)?;
        check_reads(&self.reads, self.expected_version, limits)
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        needs.row(RowKey::memory(at.scope(), &self.key));
        self.reads.iter().for_each(|read| needs.row(RowKey::memory(at.scope(), &read.key)));
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<Ended>, Refusal> {
        let (before, _) = current(at, rows, &self.key);
        let before = before.filter(|entry| entry.content.is_some());
        let before = before.ok_or_else(|| Refusal::not_found(format!("Memory key `{}` not found.", self.key)))?;
        guard(at, rows, &self.key, self.expected_version, &self.reads)?;
        Ok(emptied(at, rows, before, "delete"))
    }

    fn show(&self, at: &At, effect: &Ended) -> Shown {
        let mut shown = Shown::ack(KIND, "delete_ok", &json!({ "key": self.key, "version": effect.version }));
        shown.pushes.push(notice(at, &self.key, "delete", effect.version, at.header.agent_id, None));
        shown
    }
}

fn emptied(at: &At, rows: &Rows, before: Entry, label: &str) -> Applied<Ended> {
    let version = before.version + 1;
    let index = index(label, &before.key, Vec::new());
    let entry = Entry { version, content: None, changed: provenance(at, rows), ..before };
    Applied::new(Ended { version }).row(Row::Memory(Box::new(entry))).indexed(index)
}

/// `memory.expire`: the time of this version has passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Expire {
    /// The key.
    pub key: String,
    /// The version that was due.
    pub version: i64,
}

impl Act for Expire {
    type Effect = Ended;

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        needs.row(RowKey::memory(at.scope(), &self.key));
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<Ended>, Refusal> {
        let entry: Option<&Entry> = rows.get(&RowKey::memory(at.scope(), &self.key));
        let due = |entry: &&Entry| entry.content.is_some() && entry.live(at.time).is_none();
        let same = |entry: &&Entry| u64::try_from(self.version) == Ok(entry.version);
        let entry = entry.filter(due).filter(same).ok_or_else(|| Refusal::not_found("It has not expired."))?;
        Ok(emptied(at, rows, entry.clone(), "expire"))
    }

    fn show(&self, at: &At, effect: &Ended) -> Shown {
        let mut shown = Shown::default();
        shown.pushes.push(notice(at, &self.key, "expire", effect.version, None, None));
        shown
    }
}

#[cfg(test)]
mod tests;
