//! Text to meaning: merges the wrapped shape into the flat one, then reads the payload of the kind the catalogue knows.

mod scan;

use std::{borrow::Cow, cell::Cell};

use serde::{Deserialize, de::value::MapDeserializer};
use serde_json::value::RawValue;

use self::scan::{scan, shortened};
use crate::{
    auth::Auth,
    catalog::{Command, CommandKind, Query, QueryKind, Signal, SignalKind},
    code::{Code, Refusal},
    json::Json,
    limits::{ENVELOPE_KEYS_MAX, IDEMPOTENCY_KEY_BYTES_MAX, Limits, TOKEN_BYTES_MAX},
};

/// What any command may carry beside its payload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// Echoed on every reply: a JSON string or integer.
    pub reference: Option<Json>,
    /// To repeat the command safely.
    pub idempotency_key: Option<String>,
    /// The event that led to it.
    pub caused_by: Option<String>,
    /// W3C traceparent.
    pub trace: Option<String>,
}

/// What a frame means.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the nouns of the house")]
pub enum Incoming {
    Auth(Auth),
    Command(Command),
    Query(Query),
    Signal(Signal),
}

/// A frame that could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// What it means.
    pub incoming: Incoming,
    /// What came with it.
    pub meta: Meta,
    /// Whether it came wrapped.
    pub wrapped: bool,
}

/// A frame's fields, by name, each still text.
type Fields<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// Reads one frame. A refusal comes with the frame's `ref`, if that much could be read.
///
/// # Errors
/// `invalid_message`, or `payload_too_large` if it is too big for its type.
pub fn parse(text: &str, limits: &Limits) -> Result<Received, (Option<Json>, Refusal)> {
    // A `ref` is told even when the rest of the message is not acceptable.
    let outer = fields(text);
    let reference = outer.as_ref().map_or(Ok(None), reference).map_err(|refusal| (None, refusal))?;
    let received = scan(text).and_then(|()| read(text, outer?, reference.clone(), limits));
    received.map_err(|refusal| (reference, refusal))
}

fn read(text: &str, outer: Fields<'_>, reference: Option<Json>, limits: &Limits) -> Result<Received, Refusal> {
    let kind = text_of(&outer, "type")?.ok_or_else(|| {
        Refusal::invalid("type", "`type` is missing.").fix("Every message names its `type`, most also an `action`.")
    })?;
    let action = text_of(&outer, "action")?;
    let full = action.map_or_else(|| kind.clone(), |action| format!("{kind}.{action}"));
    if full != CommandKind::MemorySet.text() && text.len() > limits.message_bytes {
        return Err(Refusal::new(Code::PayloadTooLarge).with("limit", limits.message_bytes).with("size", text.len()));
    }
    let (fields, wrapped) = merge(&kind, &full, outer)?;
    let meta = Meta {
        reference,
        idempotency_key: short_text(&fields, "idempotency_key", IDEMPOTENCY_KEY_BYTES_MAX)?,
        caused_by: short_text(&fields, "caused_by", TOKEN_BYTES_MAX)?,
        trace: short_text(&fields, "trace", TOKEN_BYTES_MAX)?,
    };
    Ok(Received { incoming: incoming(&full, &fields)?, meta, wrapped })
}

fn incoming(full: &str, fields: &Fields<'_>) -> Result<Incoming, Refusal> {
    // A field is read as soon as it is taken: when one does not fit, it is the last one taken.
    let taken = Cell::new("");
    let entries = fields.iter().map(|(name, value)| (name.as_ref(), *value)).inspect(|(name, _)| taken.set(*name));
    let from = MapDeserializer::<_, serde_json::Error>::new(entries);
    let read = if full == Auth::TYPE {
        Auth::deserialize(from).map(Incoming::Auth)
    } else if let Some(kind) = CommandKind::parse(full).filter(|kind| !kind.internal()) {
        kind.read(from).map(Incoming::Command)
    } else if let Some(kind) = QueryKind::parse(full) {
        kind.read(from).map(Incoming::Query)
    } else if let Some(kind) = SignalKind::parse(full) {
        kind.read(from).map(Incoming::Signal)
    } else {
        return Err(Refusal::invalid("type", format!("There is no message `{}`.", shortened(full, 64)))
            .fix("Use one of the types and actions of the protocol reference."));
    };
    read.map_err(|error| {
        let said = error.to_string();
        let said = said.split(" at line ").next().unwrap_or_default();
        let named = said.starts_with("missing field") || said.starts_with("duplicate field");
        let field = if named { field_in(said) } else { taken.get() };
        Refusal::invalid(field, format!("The message does not fit `{full}`: {}.", shortened(said, 256)))
    })
}

/// The field that a serde message names in backticks.
fn field_in(message: &str) -> &str {
    message.split('`').nth(1).unwrap_or("")
}

/// Every envelope name; a `payload` may not bring its own.
const ENVELOPE: [&str; 3] = ["type", "action", "ref"];

/// Puts the fields of `payload` beside the others, unless the payload is itself the content of a direct message.
fn merge<'a>(kind: &str, full: &str, outer: Fields<'a>) -> Result<(Fields<'a>, bool), Refusal> {
    let message_is_payload = kind == "direct" && outer.iter().any(|(name, _)| *name == "to");
    let payload = outer.iter().find(|(name, _)| *name == "payload").map(|(_, value)| *value);
    let (Some(payload), false) = (payload, message_is_payload) else { return Ok((outer, false)) };
    let inner = fields(payload.get()).map_err(|_| Refusal::invalid("payload", "`payload` must be an object."))?;
    let mut merged: Fields<'a> = outer.into_iter().filter(|(name, _)| *name != "payload").collect();
    for (name, value) in inner {
        let name = match &*name {
            "type" if full == CommandKind::MemorySet.text() => Cow::Borrowed("type_hint"),
            known if ENVELOPE.contains(&known) || merged.iter().any(|(outer, _)| outer == known) => {
                return Err(Refusal::invalid(
                    known,
                    format!("`{known}` stands both in the envelope and in `payload`."),
                ));
            }
            _ => name,
        };
        merged.push((name, value));
    }
    if merged.len() > ENVELOPE_KEYS_MAX {
        return Err(Refusal::over("payload", ENVELOPE_KEYS_MAX));
    }
    Ok((merged, true))
}

fn fields(text: &str) -> Result<Fields<'_>, Refusal> {
    let Entries(fields) =
        serde_json::from_str(text).map_err(|_| Refusal::invalid("", "A message is one JSON object."))?;
    if fields.len() > ENVELOPE_KEYS_MAX {
        return Err(Refusal::over("", ENVELOPE_KEYS_MAX));
    }
    Ok(fields)
}

/// A name, borrowed from the text unless it is written with escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object's entries in order, borrowed from its text.
struct Entries<'a>(Fields<'a>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> serde::de::Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    entries.push((name, value));
                }
                Ok(Entries(entries))
            }
        }
        from.deserialize_map(Collect)
    }
}

fn find<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a RawValue> {
    fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value).filter(|value| value.get() != "null")
}

fn text_of(fields: &Fields<'_>, name: &str) -> Result<Option<String>, Refusal> {
    let Some(value) = find(fields, name) else { return Ok(None) };
    serde_json::from_str(value.get())
        .map(Some)
        .map_err(|_| Refusal::invalid(name, format!("`{name}` must be a string.")))
}

fn short_text(fields: &Fields<'_>, name: &str, bytes_max: usize) -> Result<Option<String>, Refusal> {
    match text_of(fields, name)? {
        Some(text) if text.is_empty() || text.len() > bytes_max => Err(Refusal::over(name, bytes_max)),
        text => Ok(text),
    }
}

fn reference(fields: &Fields<'_>) -> Result<Option<Json>, Refusal> {
    let Some(value) = find(fields, "ref") else { return Ok(None) };
    let text = value.get();
    // What could not be read, such as half a character in `\ud800`, is not told again either.
    let is_one = || text.parse::<i64>().is_ok() || serde_json::from_str::<String>(text).is_ok();
    if text.len() <= TOKEN_BYTES_MAX && is_one() {
        return Ok(Json::parse(text).ok());
    }
    Err(Refusal::invalid("ref", "`ref` must be a short string or an integer.").with("limit", TOKEN_BYTES_MAX))
}

#[cfg(test)]
mod tests;
