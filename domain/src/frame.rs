//! Frames that go out over a socket, and who is meant by them. Only this module and the door, where frames come in, know the
//! envelope's two shapes, flat and wrapped.

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    close::Close,
    code::Refusal,
    cursor::{Cursor, Seal},
    history::Stream,
    ids::{AgentId, MessageId, Scope, SessionId},
    interest::{Audience, InterestChange},
    json::Json,
    position::{First, Generation, LogTime, Offset, StreamRef},
};

/// How a connection wants its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// One flat object.
    #[default]
    Flat,
    /// `{type, event, ref, payload: {..}}`.
    Wrapped,
}

/// One message to an agent, before it has a shape. `fields` is the inside of a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// `type`.
    pub kind: &'static str,
    /// `event`; empty: none.
    pub event: &'static str,
    /// `ref`.
    pub reference: Option<Json>,
    /// The event it was born of: becomes `event_id` and `position`.
    pub stamp: Option<First>,
    /// Whether it goes out bare in every shape (`auth_required`, `ping`, `pong`).
    pub bare: bool,
    fields: String,
}

impl Frame {
    /// A frame with the fields of `body`, which must serialise to an object (or to nothing: `()`).
    pub fn new(kind: &'static str, event: &'static str, body: &impl Serialize) -> Self {
        let text = serde_json::to_string(body).expect("frame bodies serialise");
        let fields = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or("").to_owned();
        Self { kind, event, reference: None, stamp: None, bare: false, fields }
    }

    /// An `error` frame.
    pub fn error(refusal: &Refusal, reference: Option<Json>) -> Self {
        let mut frame = Self::new("error", "", &refused(refusal));
        frame.reference = reference;
        frame
    }

    /// Unshaped, in every shape.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// With `ref`.
    #[must_use]
    pub fn reference(mut self, reference: Option<Json>) -> Self {
        self.reference = reference;
        self
    }

    /// Born of the event at `first`.
    #[must_use]
    pub fn stamped(mut self, offset: Offset, hash: u32) -> Self {
        self.stamp = Some(First { offset, hash });
        self
    }

    /// With the fields of `body` as well.
    #[must_use]
    pub fn also(mut self, body: &impl Serialize) -> Self {
        let more = Self::new(self.kind, self.event, body).fields;
        if !self.fields.is_empty() && !more.is_empty() {
            self.fields.push(',');
        }
        self.fields.push_str(&more);
        self
    }

    /// Its own fields as an object, for frames that list others.
    pub fn object(&self) -> Json {
        Json::parse(&format!("{{{}}}", self.fields)).expect("fields are the inside of an object")
    }

    /// Bytes of its fields, about its size on the wire.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether it has no fields of its own.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

/// The fields of an error, the same on every door.
pub fn refused(refusal: &Refusal) -> Value {
    let mut body = json!({
        "code": refusal.code.text(),
        "reason": refusal.code.text(),
        "message": refusal.message,
        "fix": refusal.advice(),
        "details": refusal.details,
        "retryable": refusal.code.retryable(),
        "outcome": refusal.outcome,
    });
    if let Some(ms) = refusal.retry_after_ms {
        body["retry_after_ms"] = ms.into();
    }
    body
}

/// The same as a problem of RFC 9457.
pub fn problem(refusal: &Refusal) -> Value {
    let mut body = refused(refusal);
    body["type"] = "about:blank".into();
    body["title"] = refusal.code.message().into();
    body["status"] = refusal.code.status().into();
    body["detail"] = refusal.message.clone().into();
    body
}

/// What everyone sees of one event, and what it means for their connections.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// To whoever asked, over the connection it came from.
    pub reply: Option<Frame>,
    /// To everyone else that it concerns. The last one is what a replay shows.
    pub pushes: Vec<Push>,
    /// How the asker's subscriptions change with it.
    pub interest: Option<(AgentId, InterestChange)>,
    /// The pattern of the memory entries that the asker is sent after the reply.
    pub snapshot: Option<String>,
    /// The session that it put an end to, and how that one's connection is closed.
    pub ended: Option<(SessionId, Close)>,
    /// What is to be logged once a connection of this agent took the pushes.
    pub report: Option<(AgentId, Report)>,
    /// When history shows no pushes of it any more.
    pub lapse: Option<Lapse>,
}

/// What is to be logged once a connection took the pushes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// That this message was delivered.
    Delivered(MessageId),
    /// That a status of this message was told, in one piece with others.
    Told(MessageId),
}

/// A later event took back what an agent had not been shown in time: history must not show it after all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lapse {
    /// The agent.
    pub to: AgentId,
    /// Before then there is no such event.
    pub due: LogTime,
    /// How that event is found, if there is one: its part of history,
    pub stream: Stream,
    /// its label,
    pub label: &'static str,
    /// and its subject.
    pub subject: String,
}

/// A frame and who is meant by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Who.
    pub audience: Audience,
    /// What.
    pub frame: Frame,
    /// What those see who asked for values.
    pub with_value: Option<Frame>,
}

impl Shown {
    /// Answers the asker with `<area>/<action>_ok`.
    pub fn ack(kind: &'static str, event: &'static str, body: &impl Serialize) -> Self {
        Self { reply: Some(Frame::new(kind, event, body)), ..Self::default() }
    }

    /// And shows this to `audience`.
    #[must_use]
    pub fn push(mut self, audience: Audience, frame: Frame) -> Self {
        self.pushes.push(Push { audience, frame, with_value: None });
        self
    }

    /// A status of `message`, of which its sender is told.
    #[must_use]
    pub fn tells(mut self, sender: AgentId, message: MessageId) -> Self {
        self.report = Some((sender, Report::Told(message)));
        self
    }
}

/// Writes frames for one fleet: knows its stream and seals its event ids.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The installation's seal.
    pub seal: Seal,
    /// Whose frames.
    pub scope: Scope,
    /// Where its events are.
    pub stream: StreamRef,
    /// The life of that stream.
    pub generation: Generation,
}

impl Encoder {
    /// The event id of a place in this fleet's stream.
    pub fn event_id(&self, place: First) -> String {
        let cursor = Cursor { generation: self.generation, offset: place.offset, hash: place.hash };
        self.seal.event_id(&self.scope, self.stream, cursor)
    }

    /// A frame as text.
    pub fn encode(&self, frame: &Frame, shape: Shape) -> String {
        let stamp = frame.stamp.map(|place| (self.event_id(place), self.stream.wire(place.offset)));
        encode(frame, shape, stamp.as_ref().map(|(event_id, position)| (event_id.as_str(), *position)))
    }
}

/// A frame as text, with its event id and position if it has them.
pub fn encode(frame: &Frame, shape: Shape, stamp: Option<(&str, u64)>) -> String {
    let mut text = String::with_capacity(frame.fields.len() + 160);
    text.push_str("{\"type\":\"");
    text.push_str(frame.kind);
    text.push('"');
    if !frame.event.is_empty() {
        text.push_str(",\"event\":\"");
        text.push_str(frame.event);
        text.push('"');
    }
    if let Some(reference) = &frame.reference {
        text.push_str(",\"ref\":");
        text.push_str(reference.text());
    }
    let wrapped = shape == Shape::Wrapped && !frame.bare;
    text.push_str(if wrapped { ",\"payload\":{" } else { "" });
    let mut first = wrapped;
    if let Some((event_id, position)) = stamp {
        separate(&mut text, &mut first);
        text.push_str("\"event_id\":\"");
        text.push_str(event_id);
        text.push_str("\",\"position\":");
        text.push_str(&position.to_string());
    }
    if !frame.fields.is_empty() {
        separate(&mut text, &mut first);
        text.push_str(&frame.fields);
    }
    text.push_str(if wrapped { "}}" } else { "}" });
    text
}

fn separate(text: &mut String, first: &mut bool) {
    if !std::mem::take(first) {
        text.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_two_shapes() {
        let frame = Frame::new("memory", "set_ok", &json!({"key": "a"})).reference(Json::parse("7").ok());
        let stamp = Some(("evt_1", 9));
        assert_eq!(
            encode(&frame, Shape::Flat, stamp),
            r#"{"type":"memory","event":"set_ok","ref":7,"event_id":"evt_1","position":9,"key":"a"}"#
        );
        assert_eq!(
            encode(&frame, Shape::Wrapped, stamp),
            r#"{"type":"memory","event":"set_ok","ref":7,"payload":{"event_id":"evt_1","position":9,"key":"a"}}"#
        );
        let ping = Frame::new("ping", "", &()).bare();
        assert_eq!(encode(&ping, Shape::Wrapped, None), r#"{"type":"ping"}"#);
        let empty = Frame::new("presence", "update_ok", &());
        assert_eq!(encode(&empty, Shape::Wrapped, None), r#"{"type":"presence","event":"update_ok","payload":{}}"#);
        let stamped = r#"{"type":"presence","event":"update_ok","event_id":"evt_1","position":9}"#;
        assert_eq!(encode(&empty, Shape::Flat, stamp), stamped);
    }

    #[test]
    fn a_stamp_becomes_the_event_id_and_position_of_its_fleet() {
        let scope = Scope { tenant: crate::ids::TenantId::from_bits(1), fleet: crate::ids::FleetId::from_bits(2) };
        let stream = StreamRef { partition: crate::position::Partition::POOL, epoch: 1 };
        let encoder = Encoder { seal: Seal::new([7; 32]), scope, stream, generation: Generation(3) };
        let place = First { offset: Offset(5), hash: 6 };
        let id = encoder.event_id(place);
        let cursor = Cursor { generation: Generation(3), offset: place.offset, hash: place.hash };
        assert_eq!(encoder.seal.open(&scope, stream, &id), Some(cursor));
        let frame = Frame::new("a", "b", &()).stamped(place.offset, place.hash);
        let text = format!(r#"{{"type":"a","event":"b","event_id":"{id}","position":{}}}"#, (1_u64 << 43) + 5);
        assert_eq!(encoder.encode(&frame, Shape::Flat), text);
        assert_eq!(encoder.encode(&Frame::new("a", "", &()), Shape::Flat), r#"{"type":"a"}"#);
    }

    #[test]
    fn fields_are_added_to_those_that_are_there() {
        let (none, some) = (Frame::new("a", "b", &()), Frame::new("a", "b", &json!({"x": 1})));
        assert_eq!((none.len(), none.is_empty(), none.object().text()), (0, true, "{}"));
        assert_eq!((some.len(), some.is_empty(), some.object().text()), (5, false, r#"{"x":1}"#));
        for (frame, more, text) in [
            (&none, json!({}), "{}"),
            (&none, json!({"y": 2}), r#"{"y":2}"#),
            (&some, json!({}), r#"{"x":1}"#),
            (&some, json!({"y": 2}), r#"{"x":1,"y":2}"#),
        ] {
            assert_eq!(frame.clone().also(&more).object().text(), text);
        }
    }

    #[test]
    fn a_problem_says_what_an_error_says_and_its_status() {
        let refusal = Refusal::not_found("Nothing is here.").after_ms(7);
        let (told, plain) = (problem(&refusal), refused(&refusal));
        for (name, value) in plain.as_object().expect("an object") {
            assert_eq!(&told[name], value, "{name}");
        }
        let rest = json!([told["type"], told["title"], told["status"], told["detail"]]);
        assert_eq!(rest, json!(["about:blank", refusal.code.message(), 404, "Nothing is here."]));
    }

    #[test]
    fn an_error_says_everything_on_every_door() {
        let refusal = Refusal::new(crate::code::Code::RateLimited).with("limit", 5).after_ms(9);
        let frame = Frame::error(&refusal, Json::parse("1").ok());
        let shown: Value = serde_json::from_str(&encode(&frame, Shape::Flat, None)).expect("JSON");
        assert_eq!(
            shown,
            json!({"type": "error", "ref": 1, "code": "rate_limited", "reason": "rate_limited", "outcome": "none",
                "message": refusal.message, "fix": refusal.advice(), "details": {"limit": 5}, "retryable": true,
                "retry_after_ms": 9})
        );
        assert!(refused(&Refusal::new(crate::code::Code::Conflict)).get("retry_after_ms").is_none());
    }
}
