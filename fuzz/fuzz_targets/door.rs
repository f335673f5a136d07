//! Text from a socket. What can be read means the same flat and wrapped, and comes back from the log as it was; what
//! cannot is refused with a code and what to do.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use ringforge_domain::{
    catalog::Command,
    code::{Code, Refusal},
    door::{self, Incoming, Meta, Received},
    event::Header,
    frame::{self, Frame, Shape},
    golden,
    json::Json,
    limits::Limits,
    position::{LogTime, Offset, Partition, Position},
    schema,
};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

type Fields = BTreeMap<String, Box<RawValue>>;

fuzz_target!(|text: &str| {
    let limits = Limits::default();
    match door::parse(text, &limits) {
        Err((reference, refusal)) => is_told(&refusal, reference),
        Ok(received) => {
            let checked = match &received.incoming {
                Incoming::Auth(auth) => auth.check(&limits),
                Incoming::Query(query) => query.check(&limits),
                Incoming::Command(command) => {
                    comes_back(&received.meta, command);
                    command.check(&limits)
                }
                Incoming::Signal(_) => Ok(()),
            };
            if let Err(refusal) = checked {
                is_told(&refusal, received.meta.reference.clone());
            }
            means_the_same_in_the_other_shape(text, &received, &limits);
        }
    }
});

/// The frame of a refusal names a known code and what to do, and carries the `ref` as it was given.
fn is_told(refusal: &Refusal, reference: Option<Json>) {
    let frame = Frame::error(refusal, reference.clone());
    for (shape, place) in [(Shape::Flat, ""), (Shape::Wrapped, "/payload")] {
        let told: Value = serde_json::from_str(&frame::encode(&frame, shape, None)).expect("a frame is JSON");
        let text = |name: &str| told.pointer(&format!("{place}/{name}")).and_then(Value::as_str).unwrap_or_default();
        assert!(Code::ALL.iter().any(|code| code.text() == text("code")), "{told}");
        assert!(!text("fix").is_empty() && !text("message").is_empty(), "{told}");
        assert_eq!(told.get("ref"), reference.as_ref().map(Json::value).as_ref(), "{told}");
    }
}

/// A command through the log and back.
fn comes_back(meta: &Meta, command: &Command) {
    let Meta { reference, idempotency_key, caused_by, trace } = meta.clone();
    let header = Header { reference, idempotency_key, caused_by, trace, ..golden::rich_header() };
    let position = Position { partition: Partition::POOL, offset: Offset(7) };
    let event = schema::decode(&schema::encode(&header, command), position, LogTime(7));
    let event = event.expect("what was encoded can be decoded");
    assert_eq!((&event.at.header, &event.command), (&header, command));
}

fn means_the_same_in_the_other_shape(text: &str, received: &Received, limits: &Limits) {
    let fields: Fields = serde_json::from_str(text).expect("it was read before");
    let Some(other) = (if received.wrapped { flattened(fields) } else { Some(wrapped(fields)) }) else { return };
    let other = serde_json::to_string(&other).expect("it serialises");
    match door::parse(&other, limits) {
        Ok(again) => assert_eq!(again, Received { wrapped: !received.wrapped, ..received.clone() }, "{other}"),
        // A little longer and deeper, or with more fields in one place.
        Err((_, refusal)) => assert!(refusal.details.contains_key("limit"), "{refusal:?}: {other}"),
    }
}

fn wrapped(mut fields: Fields) -> Fields {
    let envelope = ["type", "action", "ref"].map(|name| fields.remove_entry(name));
    let payload = to_raw_value(&fields).expect("it serialises");
    envelope.into_iter().flatten().chain([("payload".to_owned(), payload)]).collect()
}

/// `None` if it cannot be said flat: a field of that name would make it wrapped.
fn flattened(mut fields: Fields) -> Option<Fields> {
    let payload = fields.remove("payload").expect("it was wrapped");
    let payload: Fields = serde_json::from_str(payload.get()).expect("it was read before");
    if payload.contains_key("payload") {
        return None;
    }
    // Only of a memory entry may the payload say `type`.
    let renamed = |(name, value)| (if name == "type" { "type_hint".to_owned() } else { name }, value);
    fields.extend(payload.into_iter().map(renamed));
    Some(fields)
}
