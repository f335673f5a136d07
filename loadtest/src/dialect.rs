//! What is said to each kind of server, and what is understood of its answers: RingForge, the bare server, and the two
//! it is compared with. Load events are found by their stamp, wherever a server puts them, without parsing the rest.

use memchr::{memchr, memmem};
use serde_json::Value;

use crate::wire::{self, Seen, Stamp};

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Dialect {
    /// The fan-out server of this binary.
    Bare,
    /// The product.
    Ringforge,
    /// NATS over WebSocket, nothing kept.
    Nats,
    /// NATS over WebSocket, each event acknowledged by `JetStream`.
    Jetstream,
    /// Centrifugo's JSON protocol.
    Centrifugo,
}

/// What a line of a server says, as far as a measurement listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A load event.
    Event(Stamp, Option<u64>),
    /// Command `number` is done, at this position.
    Ack(usize, Option<u64>),
    /// Question `number` is answered.
    Answer(usize),
    /// Command or question `number` is refused, if it is known which.
    Refused(Option<usize>, &'a str),
    /// Something else.
    Other,
    /// Not understood at all.
    Unreadable,
}

impl Dialect {
    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Ringforge => "ringforge",
            Self::Nats => "nats, nothing kept",
            Self::Jetstream => "nats, JetStream",
            Self::Centrifugo => "centrifugo",
        }
    }

    /// Whether its messages are text.
    pub fn is_text(self) -> bool {
        !matches!(self, Self::Nats | Self::Jetstream)
    }

    /// Whether its events carry a position.
    pub fn has_positions(self) -> bool {
        matches!(self, Self::Ringforge | Self::Centrifugo)
    }

    /// Whether it acknowledges events.
    pub fn acks(self) -> bool {
        !matches!(self, Self::Bare | Self::Nats)
    }

    /// The answer to a message, if there is a ping in it.
    pub fn pong(self, message: &[u8]) -> Option<&'static [u8]> {
        match self {
            Self::Bare => None,
            Self::Ringforge => wire::PING.find(message).map(|_| wire::PONG.as_bytes()),
            Self::Nats | Self::Jetstream => message.starts_with(b"PING\r\n").then_some(b"PONG\r\n"),
            Self::Centrifugo => {
                let is_there = message.starts_with(b"{}") || memmem::find(message, b"\n{}").is_some();
                is_there.then_some(b"{}")
            }
        }
    }

    /// An event for everyone in the fleet, as the command `number` of the agent `name`.
    pub fn publish(self, fleet: usize, name: &str, number: usize, stamp: Stamp, bytes: usize) -> String {
        let data = wire::data(stamp, bytes);
        match self {
            Self::Bare => wire::broadcast(None, &data),
            Self::Ringforge => wire::broadcast(Some(number), &data),
            Self::Nats => format!("PUB fleet.{fleet} {}\r\n{data}\r\n", data.len()),
            Self::Jetstream => {
                format!("PUB fleet.{fleet} _INBOX.{name}.{number} {}\r\n{data}\r\n", data.len())
            }
            Self::Centrifugo => {
                // Ids of commands begin behind those of `enter`.
                format!(r#"{{"id":{},"publish":{{"channel":"fleet{fleet}","data":{data}}}}}"#, number + FIRST_ID)
            }
        }
    }

    /// Goes through the lines of one message.
    pub fn lines<'a>(self, message: &'a [u8], mut heard: impl FnMut(Heard<'a>)) {
        let (mut inbox, mut rest) = (None, Some(message));
        while let Some(text) = rest {
            let end = memchr(b'\n', text);
            let line = &text[..end.unwrap_or(text.len())];
            rest = end.map(|end| &text[end + 1..]);
            match self {
                Self::Bare => heard(event(line, None).unwrap_or(Heard::Unreadable)),
                Self::Ringforge => heard(match event(line, Some(&wire::POSITION)) {
                    Some(event) if sampled(&event, line) => event,
                    Some(_) => Heard::Unreadable,
                    None => ringforge(line),
                }),
                Self::Nats | Self::Jetstream => heard(nats(line, &mut inbox)),
                Self::Centrifugo => heard(event(line, Some(&wire::OFFSET)).unwrap_or_else(|| centrifugo(line))),
            }
        }
    }
}

/// Of so many events of a publisher one is parsed whole.
const SAMPLE: u64 = 64;
/// Ids of Centrifugo's commands below this are taken.
const FIRST_ID: usize = 3;

/// A load event, with its position behind `key` if the server has any.
fn event<'a>(line: &[u8], key: Option<&wire::Key>) -> Option<Heard<'a>> {
    let (stamp, _) = wire::find_stamp(line)?;
    Some(Heard::Event(stamp, key.and_then(|key| key.number(line))))
}

/// Whether an event is what it seems: of every few, one is parsed whole.
fn sampled(event: &Heard<'_>, line: &[u8]) -> bool {
    let Heard::Event(stamp, position) = event else { return false };
    if !stamp.sequence.is_multiple_of(SAMPLE) {
        return true;
    }
    let seen = std::str::from_utf8(line).ok().and_then(|line| Seen::read(line).ok());
    seen.is_some_and(|seen| seen.kind == "activity" && seen.event() == "broadcast" && seen.position == *position)
}

fn ringforge(line: &[u8]) -> Heard<'_> {
    let Some(seen) = std::str::from_utf8(line).ok().and_then(|line| Seen::read(line).ok()) else {
        return Heard::Unreadable;
    };
    match (seen.kind, seen.number()) {
        ("error", number) => Heard::Refused(number, seen.code()),
        ("replay", _) | (_, None) => Heard::Other,
        (_, Some(number)) if seen.is_ack() => Heard::Ack(number, seen.position),
        (_, Some(number)) => Heard::Answer(number),
    }
}

/// An acknowledgement is two lines: the inbox it goes to, with the number of the command, and what it says.
fn nats<'a>(line: &'a [u8], inbox: &mut Option<usize>) -> Heard<'a> {
    if let Some(event) = event(line, None) {
        return event;
    }
    let Ok(text) = std::str::from_utf8(line) else { return Heard::Unreadable };
    if let Some(rest) = text.strip_prefix("MSG _INBOX.") {
        let subject = rest.split(' ').next().unwrap_or_default();
        *inbox = subject.rsplit('.').next().and_then(|number| number.parse().ok());
        return Heard::Other;
    }
    if text.starts_with("-ERR") {
        return Heard::Refused(None, text);
    }
    let Some(number) = inbox.take() else { return Heard::Other };
    let Ok(answer) = serde_json::from_str::<Value>(text) else { return Heard::Unreadable };
    match answer["seq"].as_u64() {
        Some(position) => Heard::Ack(number, Some(position)),
        None => Heard::Refused(Some(number), text),
    }
}

fn centrifugo(line: &[u8]) -> Heard<'_> {
    let Ok(answer) = serde_json::from_slice::<Value>(line) else { return Heard::Unreadable };
    let number = answer["id"].as_u64().and_then(|id| usize::try_from(id).ok()?.checked_sub(FIRST_ID));
    match (number, answer.get("error")) {
        (number, Some(_)) => Heard::Refused(number, std::str::from_utf8(line).unwrap_or_default()),
        // It tells no position: the answers come in the order of the commands.
        (Some(number), None) => Heard::Ack(number, Some(number as u64)),
        (None, None) => Heard::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { publisher: 3, sequence: 17, due: 123_456 };

    fn heard(dialect: Dialect, message: &str) -> Vec<String> {
        let mut all = Vec::new();
        dialect.lines(message.as_bytes(), |heard| all.push(format!("{heard:?}")));
        all.retain(|heard| heard != "Other");
        all
    }

    fn said(heard: &[Heard<'_>]) -> Vec<String> {
        heard.iter().map(|heard| format!("{heard:?}")).collect()
    }

    #[test]
    fn every_dialect_finds_its_own_events() {
        for dialect in [Dialect::Bare, Dialect::Ringforge, Dialect::Nats, Dialect::Jetstream, Dialect::Centrifugo] {
            // The stamp is not of those that are parsed whole: what is sent is not what comes.
            let sent = dialect.publish(1, "load-1", 5, STAMP, 256);
            let found = heard(dialect, &sent);
            assert_eq!(found, said(&[Heard::Event(STAMP, None)]), "{sent}");
        }
    }

    #[test]
    fn ringforge_lines_are_told_apart() {
        let batch = concat!(
            r#"{"type":"activity","event":"broadcast","position":9,"activity":{"data":"~3.17.123456~x"}}"#,
            "\n",
            r#"{"type":"memory","event":"set_ok","ref":7,"position":12}"#,
            "\n",
            r#"{"type":"error","ref":8,"code":"busy"}"#,
            "\n",
            r#"{"type":"pong","ref":4}"#,
            "\n",
            r#"{"type":"presence","event":"joined"}"#,
            "\n{"
        );
        let expected = [
            Heard::Event(STAMP, Some(9)),
            Heard::Ack(7, Some(12)),
            Heard::Refused(Some(8), "busy"),
            Heard::Answer(4),
            Heard::Unreadable,
        ];
        assert_eq!(heard(Dialect::Ringforge, batch), said(&expected));
    }

    #[test]
    fn an_event_that_only_looks_like_one_is_found() {
        let good = r#"{"type":"activity","event":"broadcast","position":9,"activity":{"data":"~3.64.1~x"}}"#;
        assert!(heard(Dialect::Ringforge, good)[0].starts_with("Event"));
        for wrong in [good.replace("broadcast", "other"), good.replace("}}", "}"), good.replace("\"type\"", "\"kind\"")]
        {
            assert_eq!(heard(Dialect::Ringforge, &wrong), ["Unreadable"], "{wrong}");
        }
    }

    #[test]
    fn acks_of_the_others_are_understood() {
        let nats = "MSG _INBOX.load-1.5 2 27\r\n{\"stream\":\"LOAD\", \"seq\":9}\r\nMSG _INBOX.load-1.6 2 9\r\n{\"error\":{}}\r\n-ERR 'no'\r\n";
        let expected =
            [Heard::Ack(5, Some(9)), Heard::Refused(Some(6), "{\"error\":{}}\r"), Heard::Refused(None, "-ERR 'no'\r")];
        assert_eq!(heard(Dialect::Jetstream, nats), said(&expected));
        let centrifugo = "{\"id\":8,\"publish\":{}}\n{\"id\":9,\"error\":{\"code\":1}}\n{}";
        let expected = [Heard::Ack(5, Some(5)), Heard::Refused(Some(6), "{\"id\":9,\"error\":{\"code\":1}}")];
        assert_eq!(heard(Dialect::Centrifugo, centrifugo), said(&expected));
        let push = r#"{"push":{"channel":"c","pub":{"data":"~3.17.123456~x","offset":4}}}"#;
        assert_eq!(heard(Dialect::Centrifugo, push), said(&[Heard::Event(STAMP, Some(4))]));
    }

    #[test]
    fn pings_are_found_within_a_batch() {
        assert!(Dialect::Ringforge.pong(b"{\"type\":\"pong\"}\n{\"type\":\"ping\"}").is_some());
        assert!(Dialect::Ringforge.pong(br#"{"type":"pong"}"#).is_none());
        assert!(Dialect::Bare.pong(br#"{"type":"ping"}"#).is_none());
        assert!(Dialect::Centrifugo.pong(b"{\"id\":8,\"publish\":{}}\n{}\n{\"id\":9}").is_some());
        assert!(Dialect::Centrifugo.pong(br#"{"id":8,"publish":{}}"#).is_none());
    }
}
