//! The same frame in both shapes of the wire: flat as scenarios are written, and wrapped.

use serde_json::{Map, Value, json};

/// How a connection talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// One flat object.
    Flat,
    /// The rest inside `payload`.
    Wrapped,
}

/// Frames that are the same in both shapes.
const BARE: [&str; 3] = ["auth_required", "ping", "pong"];

impl Shape {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Flat, Self::Wrapped];

    /// Its name.
    pub fn text(self) -> &'static str {
        if self == Self::Flat { "flat" } else { "wrapped" }
    }

    /// A frame that an agent sends.
    pub fn sent(self, frame: Value) -> Value {
        match frame {
            Value::Object(fields) if self == Self::Wrapped && fields.contains_key("type") => {
                let set = fields["type"] == "memory" && fields.get("action").is_some_and(|action| action == "set");
                let name = |name: &str| if set && name == "type_hint" { "type".to_owned() } else { name.to_owned() };
                wrapped(fields, &["type", "action", "ref"], name)
            }
            frame => frame,
        }
    }

    /// A frame that an agent sees.
    pub fn seen(self, frame: Value) -> Value {
        let Value::Object(mut fields) = frame else { return frame };
        let bare = fields.get("type").is_none_or(|kind| BARE.iter().any(|bare| kind == bare));
        if self == Self::Flat || bare {
            return Value::Object(fields);
        }
        // A replay shows live frames, in the shape that the connection would have seen them in.
        for name in ["original", "data"] {
            if let Some(inner) = fields.remove(name) {
                let shown = match inner {
                    Value::Array(items) if name == "data" => items.into_iter().map(|item| self.seen(item)).collect(),
                    inner => self.seen(inner),
                };
                fields.insert(name.to_owned(), shown);
            }
        }
        wrapped(fields, &["type", "event", "ref"], str::to_owned)
    }
}

fn wrapped(fields: Map<String, Value>, envelope: &[&str], rename: impl Fn(&str) -> String) -> Value {
    let (outer, inner): (Map<_, _>, Map<_, _>) =
        fields.into_iter().partition(|(name, _)| envelope.contains(&name.as_str()));
    let inner: Map<_, _> = inner.into_iter().map(|(name, value)| (rename(&name), value)).collect();
    let mut outer = Value::Object(outer);
    outer["payload"] = json!(inner);
    outer
}
