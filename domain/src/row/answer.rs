//! What is remembered of commands with an idempotency key.

use serde::{Deserialize, Serialize};

use super::RowIndex;
use crate::{
    ids::{AgentId, Scope},
    json::Json,
    planted::{Bug, planted, wall_clock},
    position::{First, LogTime},
};

/// The remembered answer to an idempotency key. Outlives the event it points to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Whose.
    pub scope: Scope,
    /// The agent that asked.
    pub agent: AgentId,
    /// Its key.
    pub key: String,
    /// What it asked.
    pub body_hash: String,
    /// Where the first one stands.
    pub first: First,
    /// The last moment at which it counts.
    pub due: LogTime,
    /// What it was told: an [outcome](crate::verdict::Outcome).
    pub outcome: Json,
}

impl Answer {
    /// Whether it counts at `time`.
    pub fn counts(&self, time: LogTime) -> bool {
        let time = if planted(Bug::WindowByWallClock) { LogTime(wall_clock()) } else { time };
        time <= self.due
    }

    /// What stores index: when it is to be forgotten.
    pub fn index(&self) -> RowIndex {
        RowIndex { due_at: Some(self.due.plus(1)), ..RowIndex::default() }
    }
}
