//! What the fold says of one event, and what an area's `apply` hands to the fold.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

use crate::{
    catalog::Effect,
    code::Refusal,
    ids::{AgentId, CommandId, Scope},
    position::{LogTime, Offset, Position},
    row::{Row, RowKey},
};

/// What came of an event. A pure function of the log up to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The event's place.
    pub position: Position,
    /// Its log time.
    pub time: LogTime,
    /// Whose.
    pub scope: Scope,
    /// Which append.
    pub command_id: CommandId,
    /// Who asked.
    pub agent: Option<AgentId>,
    /// The fleet's previous event, refused and internal ones included.
    pub previous: Option<Offset>,
    /// Applied or refused.
    pub outcome: Outcome,
    /// Set when an earlier event with the same idempotency key decided it.
    pub first: Option<First>,
    /// How searches find it.
    pub index: Index,
}

/// Where the first of several equal commands stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// Its place.
    pub offset: Offset,
    /// 32 bits of its record's hash.
    pub hash: u32,
}

/// Applied, with what the event itself does not say, or refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It took effect.
    Applied(Effect),
    /// It did not and never will.
    Refused(Refusal),
}

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

/// What an area's `apply` hands to the fold.
#[derive(Clone, Debug)]
pub struct Applied<E> {
    /// What the frames need and the event does not say.
    pub effect: E,
    /// Rows as they are now.
    pub rows: Vec<Row>,
    /// Rows that are no more.
    pub gone: Vec<RowKey>,
    /// How searches find it.
    pub index: Index,
}

impl<E> Applied<E> {
    /// An effect and no changed row.
    pub fn new(effect: E) -> Self {
        Self { effect, rows: Vec::new(), gone: Vec::new(), index: Index::default() }
    }

    /// With this row as it is now.
    #[must_use]
    pub fn row(mut self, row: Row) -> Self {
        self.rows.push(row);
        self
    }

    /// Without this row.
    #[must_use]
    pub fn without(mut self, key: RowKey) -> Self {
        self.gone.push(key);
        self
    }

    /// Found by this.
    #[must_use]
    pub fn indexed(mut self, index: Index) -> Self {
        self.index = index;
        self
    }

    /// The same with another effect around it.
    pub fn map<F>(self, wrap: impl FnOnce(E) -> F) -> Applied<F> {
        Applied { effect: wrap(self.effect), rows: self.rows, gone: self.gone, index: self.index }
    }
}
