//! What is kept of agents.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

use super::RowIndex;
use crate::{
    ids::{AgentId, EdgeId, KeyId, Scope, SessionId},
    interest::Interest,
    json::Json,
    limits::OFFLINE_SHOWN_MICROS,
    position::{LogTime, Offset},
};

/// What an agent is up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the schema derive allows no docs on variants")]
pub enum State {
    // Connected and idle.
    #[default]
    Online,
    // At work.
    Busy,
    // Connected, waiting for something else.
    Away,
    // Not connected: ours to say.
    Offline,
}

/// A session that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// Its id.
    pub id: SessionId,
    /// The key it came in with.
    pub key: KeyId,
    /// The edge process that holds its socket.
    pub edge: EdgeId,
    /// Where it began.
    pub started: Offset,
}

/// An agent, for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Whose.
    pub scope: Scope,
    /// Its id.
    pub id: AgentId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What it is built with.
    pub framework: Option<String>,
    /// Its own version.
    pub version: Option<String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// What else it said at auth.
    pub metadata: Option<Json>,
    /// Whether only a resume token may take it over.
    pub exclusive: bool,
    /// What it is up to.
    pub state: State,
    /// On what.
    pub task: Option<String>,
    /// How loaded, in thousandths.
    pub load: Option<u16>,
    /// What else it said with its last update.
    pub detail: Option<Json>,
    /// Since when it is in this state.
    pub since: LogTime,
    /// When its last session began.
    pub connected_at: LogTime,
    /// When it was last heard of in the log.
    pub last_seen: LogTime,
    /// The session that speaks for it.
    pub session: Option<Current>,
    /// SHA-256 of its newest resume token, in hex.
    pub resume_hash: Option<String>,
    /// What it subscribed to.
    pub interest: Interest,
}

impl Agent {
    /// Until when the roster shows it: as long as it is here, and a day longer.
    pub fn listed_until(&self) -> LogTime {
        if self.session.is_some() { LogTime(i64::MAX) } else { self.last_seen.plus(OFFLINE_SHOWN_MICROS) }
    }

    /// What stores index: the roster's end.
    pub fn index(&self) -> RowIndex {
        RowIndex { listed_until: Some(self.listed_until()), ..RowIndex::default() }
    }
}

/// Who has a name, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Whose.
    pub scope: Scope,
    /// The name.
    pub name: String,
    /// The agent.
    pub agent: AgentId,
}
