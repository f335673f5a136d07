//! The few messages of the public protocol that the client sends and understands.

use std::sync::LazyLock;

use anyhow::Result;
use memchr::{memchr, memmem::Finder};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What a load event says of itself: its `data` is the text `~publisher.sequence.due~` and a filling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which publisher of the fleet.
    pub publisher: usize,
    /// Counts that publisher's events from 0.
    pub sequence: u64,
    /// When it was due, in microseconds since the run began; 0: not to be measured.
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
}

/// Finds a `ping`, alone or among other lines.
pub static PING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#"{"type":"ping"}"#));
/// The answer to a `ping`.
pub const PONG: &str = r#"{"type":"pong"}"#;

/// The stamp as `data` of exactly `bytes` bytes of JSON, unless it needs more.
pub fn data(stamp: Stamp, bytes: usize) -> String {
    let Stamp { publisher, sequence, due } = stamp;
    let mut text = format!(r#""~{publisher}.{sequence}.{due}~"#);
    text.extend(std::iter::repeat_n('x', bytes.saturating_sub(text.len() + 1)));
    text.push('"');
    text
}

/// The stamp of a load event, wherever in it, and where it ends.
pub fn find_stamp(line: &[u8]) -> Option<(Stamp, usize)> {
    static BEGIN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"~"));
    let begin = BEGIN.find(line)? + 2;
    let end = begin + memchr(b'~', line.get(begin..)?)?;
    let mut numbers = line[begin..end].split(|byte| *byte == b'.').map(digits);
    let (publisher, sequence, due) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some((Stamp { publisher: usize::try_from(publisher).ok()?, sequence, due }, end))
}

/// A key of JSON whose number is looked for often.
#[derive(Debug)]
pub struct Key(LazyLock<Finder<'static>>);

impl Key {
    /// The number that follows it.
    pub fn number(&self, line: &[u8]) -> Option<u64> {
        self.number_at(line, self.0.find(line)?)
    }

    /// The numbers that follow it, wherever it stands.
    pub fn numbers(&self, line: &[u8]) -> impl Iterator<Item = u64> {
        self.0.find_iter(line).filter_map(|place| self.number_at(line, place))
    }

    fn number_at(&self, line: &[u8], place: usize) -> Option<u64> {
        let rest = &line[place + self.0.needle().len()..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        digits(&rest[..length])
    }
}

/// Of RingForge's events.
pub static POSITION: Key = Key(LazyLock::new(|| Finder::new(br#""position":"#)));
/// Of Centrifugo's events.
pub static OFFSET: Key = Key(LazyLock::new(|| Finder::new(br#""offset":"#)));
/// Of changes of memory.
pub static VERSION: Key = Key(LazyLock::new(|| Finder::new(br#""version":"#)));
/// Of the agents of a run.
pub static NAME: Key = Key(LazyLock::new(|| Finder::new(br#""name":"load-"#)));

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// An event for the whole fleet, with this `data`.
pub fn broadcast(number: Option<usize>, data: &str) -> String {
    let reference = number.map(|number| format!(r#""ref":{number},"#)).unwrap_or_default();
    format!(
        r#"{{"type":"activity","action":"broadcast",{reference}"event":{{"kind":"custom","description":"load","data":{data}}}}}"#
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

/// Writes a publisher's one key, from the version that its command before made.
pub fn compare_and_set(publisher: usize, number: usize, bytes: usize) -> String {
    let value = "x".repeat(bytes);
    format!(
        r#"{{"type":"memory","action":"set","ref":{number},"key":"load/{publisher}","value":"{value}","expected_version":{number}}}"#
    )
}

/// Reads a key.
pub fn get(number: usize, key: &str) -> String {
    format!(r#"{{"type":"memory","action":"get","ref":{number},"key":"{key}"}}"#)
}

/// Asks for a sign of life.
pub fn ping(number: usize) -> String {
    format!(r#"{{"type":"ping","ref":{number}}}"#)
}

/// Subscribes to memory.
pub fn watch(number: usize, pattern: &str) -> String {
    format!(r#"{{"type":"memory","action":"subscribe","ref":{number},"pattern":"{pattern}"}}"#)
}

/// Ends a subscription to memory; that there is none is no error.
pub fn unwatch(number: usize, pattern: &str) -> String {
    format!(r#"{{"type":"memory","action":"unsubscribe","ref":{number},"pattern":"{pattern}"}}"#)
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
        assert!(data(STAMP, 0).len() < 30);
    }

    #[test]
    fn a_stamp_is_found_where_it_is_and_nowhere_else() {
        let frame = format!(r#"{{"type":"activity","position":9,"activity":{{"data":{}}}}}"#, data(STAMP, 256));
        assert_eq!(find_stamp(frame.as_bytes()).map(|(stamp, _)| stamp), Some(STAMP));
        for wrong in
            ["", "\"~", "\"~1.2.3", "\"~1.2~", "\"~1.2.x~", "\"~1..3~", "~1.2.3~", "\"~1.2.99999999999999999999~"]
        {
            assert_eq!(find_stamp(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(POSITION.number(frame.as_bytes()), Some(9));
        assert_eq!(POSITION.number(br#"{"position":null}"#), None);
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
            PONG.to_owned(),
            broadcast(Some(1), &data(STAMP, 256)),
            quiet_broadcast(1, 256),
            history(2, 256, true),
            set(1, 205, 10),
            compare_and_set(1, 205, 10),
            get(1, "key"),
            ping(1),
            watch(1, "load/*"),
            unwatch(1, "load/*"),
            replay(3, "kinds", WANTED_KIND, 100),
        ];
        for message in messages {
            assert!(Seen::read(&message).is_ok(), "{message}");
        }
    }
}
