//! An entry as agents see it.

use std::sync::LazyLock;

use serde::Serialize;

use crate::{
    frame::Encoder,
    ids::{AgentId, KeyId, MemoryId, SessionId},
    json::Json,
    position::LogTime,
    row::memory::{Entry, ValueType},
};

/// What it holds, and all that is known about it.
#[derive(Clone, Debug, Serialize)]
pub struct View<'a> {
    id: MemoryId,
    /// Its key.
    pub key: &'a str,
    #[serde(rename = "type")]
    value_type: ValueType,
    tags: &'a [String],
    author: Option<AgentId>,
    created_at: String,
    updated_at: String,
    version: u64,
    ttl: Option<f64>,
    expires_at: Option<String>,
    /// How often it was read, about.
    pub access_count: u64,
    metadata: &'a Json,
    event_id: String,
    position: u64,
    provenance: Made<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a Json>,
}

/// By whom it was changed.
#[derive(Clone, Debug, Serialize)]
struct Made<'a> {
    key_id: Option<KeyId>,
    session_id: Option<SessionId>,
    task: Option<&'a str>,
}

static NO_METADATA: LazyLock<Json> = LazyLock::new(|| Json::parse("{}").expect("it is JSON"));

impl Entry {
    /// The entry as agents see it; `None` if it holds nothing at `time`.
    pub fn shown(&self, time: LogTime, encoder: &Encoder, with_value: bool, access_count: u64) -> Option<View<'_>> {
        let content = self.live(time)?;
        Some(View {
            id: self.id,
            key: &self.key,
            value_type: content.value_type,
            tags: &content.tags,
            author: self.changed.author,
            created_at: content.created_at.rfc3339(),
            updated_at: self.changed.at.rfc3339(),
            version: self.version,
            ttl: content.ttl,
            expires_at: content.expires_at.map(LogTime::rfc3339),
            access_count,
            metadata: content.metadata.as_ref().unwrap_or(&NO_METADATA),
            event_id: encoder.event_id(self.changed.event),
            position: encoder.stream.wire(self.changed.event.offset),
            provenance: Made {
                key_id: self.changed.key_id,
                session_id: self.changed.session,
                task: self.changed.task.as_deref(),
            },
            value: with_value.then_some(&content.value),
        })
    }
}
