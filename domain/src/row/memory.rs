//! What is kept of shared memory.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

use super::{RowIndex, Search};
use crate::{
    ids::{AgentId, KeyId, MemoryId, Scope, SessionId},
    json::Json,
    limits::SEARCH_TEXT_BYTES_MAX,
    position::{First, LogTime},
};

/// What a value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the schema derive allows no docs on variants")]
pub enum ValueType {
    // A string.
    Text,
    // Any JSON.
    #[default]
    Json,
    // An array of numbers.
    Embedding,
    // A file's id.
    FileRef,
}

/// Who changed an entry, and by which event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The agent; none for an expiry.
    pub author: Option<AgentId>,
    /// Its key.
    pub key_id: Option<KeyId>,
    /// Its session.
    pub session: Option<SessionId>,
    /// What it was busy with.
    pub task: Option<String>,
    /// The event.
    pub event: First,
    /// When.
    pub at: LogTime,
}

/// What a key holds while it holds something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The value.
    pub value: Json,
    /// What it is.
    pub value_type: ValueType,
    /// Its tags.
    pub tags: Vec<String>,
    /// About it.
    pub metadata: Option<Json>,
    /// Seconds it was given.
    pub ttl: Option<f64>,
    /// When it ends.
    pub expires_at: Option<LogTime>,
    /// When this life of the key began.
    pub created_at: LogTime,
}

/// A memory key's row. It stays when the content goes, so that versions never restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Whose.
    pub scope: Scope,
    /// The key.
    pub key: String,
    /// Its id, for ever.
    pub id: MemoryId,
    /// Counts every change, deletions and expiries included.
    pub version: u64,
    /// What it holds; none: deleted or expired.
    pub content: Option<Content>,
    /// The last change.
    pub changed: Provenance,
}

impl Entry {
    /// What stores index: only what is there can be found or expire.
    pub fn index(&self) -> RowIndex {
        let Some(content) = &self.content else { return RowIndex::default() };
        let mut text =
            format!("{}\n{}", self.key, content.value.as_str().unwrap_or_else(|| content.value.text().to_owned()));
        let mut end = text.len().min(SEARCH_TEXT_BYTES_MAX + self.key.len() + 1);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        let search = Search {
            text: text.to_lowercase(),
            metadata: content.metadata.clone(),
            tags: content.tags.clone(),
            author: self.changed.author,
            created_at: content.created_at,
            updated_at: self.changed.at,
            expires_at: content.expires_at,
        };
        RowIndex { due_at: content.expires_at, search: Some(search), ..RowIndex::default() }
    }

    /// What it holds at `time`, recorded as expired or not.
    pub fn live(&self, time: LogTime) -> Option<&Content> {
        self.content.as_ref().filter(|content| content.expires_at.is_none_or(|end| time < end))
    }
}
