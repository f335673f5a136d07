//! What a tenant saw, without what chance and time decide: ids by their first appearance, positions by their rank, no times.

use std::collections::{BTreeMap, BTreeSet};

use ringforge_sim::vocabulary::clients::Client;
use serde_json::Value;

/// Fields that hold a place in the log.
const PLACES: [&str; 3] = ["position", "oldest_position", "roster_version"];
/// Fields whose text is made up by the server and means nothing to anyone else.
const OPAQUE: [&str; 4] = ["next_cursor", "cursor", "resume_token", "node"];
/// Characters that make an id, after its prefix.
const ID_MIN: usize = 16;

/// Everything that agents asked and were shown, a line each, in an order that does not depend on time. What has a place in the
/// log comes in that order; presence and the answers to questions may come sooner or later than that, each in their own.
pub fn normal(clients: &[Client]) -> Vec<String> {
    let mut normal = Normal { places: places(clients), names: BTreeMap::new() };
    let mut lines = Vec::new();
    for client in clients {
        for sent in &client.diary.sent {
            lines.push(format!("{} asks over {}: {}", client.name, sent.link, normal.of("", &sent.body)));
        }
        for (number, link) in client.diary.links.iter().enumerate() {
            for kind in [Kind::Placed, Kind::Presence, Kind::Other] {
                for frame in link.frames.iter().filter(|frame| Kind::of(frame) == kind) {
                    let shown = normal.of("", &timeless(frame));
                    lines.push(format!("{} is shown over {number}, {kind:?}: {shown}", client.name));
                }
            }
        }
    }
    lines
}

/// Frames that come in one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Placed,
    Presence,
    Other,
    /// When they come is decided by time alone.
    Timed,
}

impl Kind {
    fn of(frame: &Value) -> Self {
        match frame["type"].as_str() {
            Some("ping") => Self::Timed,
            Some("presence") if frame["ref"].is_null() => Self::Presence,
            _ if frame["event_id"].is_string() => Self::Placed,
            _ => Self::Other,
        }
    }
}

/// A `delta` has an id only if nothing happened since its last change: time decides that.
fn timeless(frame: &Value) -> Value {
    let mut frame = frame.clone();
    if frame["event"] == "delta"
        && let Some(fields) = frame.as_object_mut()
    {
        fields.retain(|name, _| name != "event_id" && name != "position");
    }
    frame
}

/// Every place that has an event for the tenant, in order.
fn places(clients: &[Client]) -> Vec<u64> {
    let frames = clients.iter().flat_map(|client| &client.diary.links).flat_map(|link| &link.frames);
    let placed = frames.filter(|frame| Kind::of(frame) == Kind::Placed);
    let ranks: BTreeSet<u64> = placed.filter_map(|frame| frame["position"].as_u64()).collect();
    ranks.into_iter().collect()
}

struct Normal {
    places: Vec<u64>,
    names: BTreeMap<String, usize>,
}

impl Normal {
    fn of(&mut self, field: &str, value: &Value) -> Value {
        match value {
            Value::Number(number) if PLACES.contains(&field) => {
                let at = number.as_u64().expect("places are integers");
                Value::from(self.places.partition_point(|place| *place <= at))
            }
            Value::String(text) if OPAQUE.contains(&field) => Value::from(self.name(field, text)),
            Value::String(text) => Value::from(self.text(text)),
            Value::Array(values) => values.iter().map(|value| self.of(field, value)).collect(),
            Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), self.of(name, value))).collect(),
            _ => value.clone(),
        }
    }

    fn text(&mut self, text: &str) -> String {
        if is_time(text) {
            return "a time".to_owned();
        }
        let mut normal = String::with_capacity(text.len());
        for (word, rest) in words(text) {
            let named = id_prefix(word).map(|prefix| self.name(prefix, word));
            normal.push_str(named.as_deref().unwrap_or(word));
            normal.push_str(rest);
        }
        normal
    }

    fn name(&mut self, kind: &str, text: &str) -> String {
        let next = self.names.len();
        let number = self.names.entry(text.to_owned()).or_insert(next);
        format!("{kind} {number}")
    }
}

/// A text as words that an id could be, each with what follows it.
pub fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let next = rest[word..].find(is_word).map_or(rest.len(), |at| word + at);
        let found = (&rest[..word], &rest[word..next]);
        rest = &rest[next..];
        Some(found)
    })
}

/// What an id begins with, if this is one.
pub fn id_prefix(word: &str) -> Option<&str> {
    let (prefix, rest) = word.split_once('_')?;
    let is_id = rest.len() >= ID_MIN && rest.chars().all(|c| c.is_ascii_alphanumeric());
    (is_id && !prefix.is_empty() && prefix.chars().all(|c| c.is_ascii_lowercase())).then_some(prefix)
}

fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 20 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[10] == b'T' && bytes.last() == Some(&b'Z')
}
