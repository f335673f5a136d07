//! Where an event stands in history: the part of it, and the columns by which searches find it.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

use crate::ids::AgentId;

/// The part of history an event belongs to, as `replay.streams` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, AvroSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the schema derive allows no docs on variants")]
pub enum Stream {
    // Broadcasts.
    Activity,
    // Joined, left, changed.
    Presence,
    // Changes of memory entries.
    Memory,
    // Direct messages.
    Direct,
}

impl Stream {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Activity, Self::Presence, Self::Memory, Self::Direct];

    /// Its name in every store and on the wire.
    pub fn text(self) -> &'static str {
        match self {
            Self::Activity => "activity",
            Self::Presence => "presence",
            Self::Memory => "memory",
            Self::Direct => "direct",
        }
    }
}

/// The index columns of a verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Which part of history; none: it is never replayed.
    pub stream: Option<Stream>,
    /// The activity kind, or what happened.
    pub label: Option<String>,
    /// What it is about: a memory key, a message id.
    pub subject: Option<String>,
    /// Event tags and routing tags.
    pub tags: Vec<String>,
    /// If not empty, only the author and those interested in one of these tags (or in the label) see it.
    pub routing: Vec<String>,
    /// If not empty, only these agents may ever see it.
    pub parties: Vec<AgentId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_history_has_one_name_everywhere() {
        for stream in Stream::ALL {
            assert_eq!(serde_json::to_value(stream).expect("serialises"), stream.text());
        }
    }
}
