//! The few messages of the public protocol that the client sends and understands.

use serde::Deserialize;
use serde_json::{json, value::RawValue};

/// What a load event says of itself, in its `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Stamp {
    /// Which publisher of the fleet.
    pub publisher: usize,
    /// Counts that publisher's events from 0.
    pub sequence: u64,
    /// When it was due, in microseconds since the run began.
    pub due: u64,
}

/// A message from the server, as far as the client looks at it. The bare server sends back what was sent.
#[derive(Debug, Deserialize)]
pub struct Seen<'a> {
    /// `type`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// `event`, as text: a name in quotes, or the content that the bare server sends back.
    #[serde(borrow)]
    pub event: Option<&'a RawValue>,
    /// `ref`, as text.
    #[serde(rename = "ref", borrow)]
    pub reference: Option<&'a RawValue>,
    /// Its place in the fleet's order.
    pub position: Option<u64>,
    /// What an agent told.
    #[serde(borrow)]
    pub activity: Option<&'a RawValue>,
    /// Why it was refused.
    #[serde(borrow)]
    pub code: Option<&'a RawValue>,
    /// Matches of a replay.
    pub total: Option<u64>,
    /// Place of an item within a replay.
    pub index: Option<u64>,
    /// Items of a replay.
    pub delivered: Option<u64>,
    /// The replayed frame.
    #[serde(borrow)]
    pub original: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Content {
    data: Option<Stamp>,
}

impl<'a> Seen<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// It is not a JSON object with a `type`.
    pub fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The name of the event; empty if it has none.
    pub fn event(&self) -> &'a str {
        self.event.map_or("", |event| event.get().trim_matches('"'))
    }

    /// The code of an error; empty if it has none.
    pub fn code(&self) -> &'a str {
        self.code.map_or("", |code| code.get().trim_matches('"'))
    }

    /// The `ref`, if it is one of our numbers.
    pub fn number(&self) -> Option<usize> {
        self.reference.and_then(|reference| reference.get().parse().ok())
    }

    /// Whether it acknowledges a command.
    pub fn is_ack(&self) -> bool {
        self.event().ends_with("_ok")
    }

    /// The stamp of a load event, live or sent back by the bare server.
    pub fn stamp(&self) -> Option<Stamp> {
        let content = match (self.kind, self.activity, self.event) {
            ("activity", Some(activity), _) => activity,
            ("activity", None, Some(event)) if event.get().starts_with('{') => event,
            _ => return None,
        };
        serde_json::from_str::<Content>(content.get()).ok().and_then(|content| content.data)
    }
}

/// The one answer to `auth_required`.
pub fn auth(key: &str, name: &str, presence: &str) -> String {
    json!({ "type": "auth", "api_key": key, "agent": { "name": name }, "presence": presence }).to_string()
}

/// The answer to a `ping`.
pub const PONG: &str = r#"{"type":"pong"}"#;

/// The stamp as `data` of exactly `bytes` bytes, unless it needs more.
fn data(stamp: Stamp, bytes: usize) -> String {
    let Stamp { publisher, sequence, due } = stamp;
    let bare = format!(r#"{{"publisher":{publisher},"sequence":{sequence},"due":{due},"pad":""}}"#);
    let pad = "x".repeat(bytes.saturating_sub(bare.len()));
    format!(r#"{}{pad}"}}"#, &bare[..bare.len() - 2])
}

/// An event for the whole fleet, without `ref`.
pub fn broadcast(stamp: Stamp, bytes: usize) -> String {
    let data = data(stamp, bytes);
    format!(
        r#"{{"type":"activity","action":"broadcast","event":{{"kind":"custom","description":"load","data":{data}}}}}"#
    )
}

/// An event that only its author receives, since nobody subscribes to the tag.
pub fn quiet_broadcast(number: usize, bytes: usize) -> String {
    let data = data(Stamp { publisher: 0, sequence: number as u64, due: 0 }, bytes);
    format!(
        r#"{{"type":"activity","action":"broadcast","ref":{number},"scope":"tagged","tags":["load"],"event":{{"kind":"custom","description":"load","data":{data}}}}}"#
    )
}

/// An event of history: of the kind and with the tag that a replay asks for, or not.
pub fn history(number: usize, bytes: usize, wanted: bool) -> String {
    let data = data(Stamp { publisher: 0, sequence: number as u64, due: 0 }, bytes);
    let (kind, tag) = if wanted { (WANTED_KIND, WANTED_TAG) } else { ("custom", "hay") };
    format!(
        r#"{{"type":"activity","action":"broadcast","ref":{number},"event":{{"kind":"{kind}","description":"load","data":{data},"tags":["{tag}"]}}}}"#
    )
}

/// The activity kind that replays ask for.
pub const WANTED_KIND: &str = "alert";
/// The tag that replays ask for.
pub const WANTED_TAG: &str = "needle";

/// Writes one of a publisher's hundred keys.
pub fn set(publisher: usize, number: usize, bytes: usize) -> String {
    let value = "x".repeat(bytes);
    let key = number % 100;
    format!(r#"{{"type":"memory","action":"set","ref":{number},"key":"load/{publisher}/{key}","value":"{value}"}}"#)
}

/// Asks for all events with `"kinds"` or `"tags"` as given.
pub fn replay(number: usize, filter: &str, value: &str, items: u64) -> String {
    format!(r#"{{"type":"replay","action":"request","ref":{number},"{filter}":["{value}"],"limit":{items}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { publisher: 3, sequence: 17, due: 123_456 };

    #[test]
    fn a_payload_has_the_bytes_asked_for() {
        assert_eq!(data(STAMP, 256).len(), 256);
        assert!(data(STAMP, 0).len() < 80);
    }

    #[test]
    fn a_stamp_comes_back_from_both_servers() {
        let sent = broadcast(STAMP, 256);
        let bare = Seen::read(&sent).expect("our own message");
        assert_eq!((bare.stamp(), bare.position), (Some(STAMP), None));
        let content = data(STAMP, 256);
        let frame = format!(
            r#"{{"type":"activity","event":"broadcast","event_id":"e","position":9,"from":{{"name":"a"}},"activity":{{"kind":"custom","tags":[],"data":{content}}}}}"#
        );
        let live = Seen::read(&frame).expect("a frame");
        assert_eq!((live.stamp(), live.position, live.event()), (Some(STAMP), Some(9), "broadcast"));
        assert!(!live.is_ack());
    }

    #[test]
    fn acks_and_errors_are_told_apart() {
        let ack = Seen::read(r#"{"type":"memory","event":"set_ok","ref":7,"position":12}"#).expect("a frame");
        assert!(ack.is_ack());
        assert_eq!((ack.number(), ack.position), (Some(7), Some(12)));
        let error = Seen::read(r#"{"type":"error","ref":8,"code":"busy"}"#).expect("a frame");
        assert_eq!((error.number(), error.code(), error.is_ack()), (Some(8), "busy", false));
    }

    #[test]
    fn every_message_is_json() {
        let messages = [
            auth("key", "name \"quoted\"", "none"),
            PONG.to_owned(),
            quiet_broadcast(1, 256),
            history(2, 256, true),
            set(1, 205, 10),
            replay(3, "kinds", WANTED_KIND, 100),
        ];
        for message in messages {
            assert!(Seen::read(&message).is_ok(), "{message}");
        }
    }
}
