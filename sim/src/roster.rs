//! Who is here, as one observer was told: the roster that it was shown when it came in, and every frame of presence after it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ringforge_domain::presence::Agent;
use serde_json::Value;

/// What an observer must know of each agent. The load in a roster may be newer than the log's: heartbeats tell it.
const FIELDS: [&str; 5] = ["name", "state", "task", "capabilities", "since"];

/// The agents that an observer knows of, by id.
#[derive(Debug, Default)]
pub struct Roster {
    agents: BTreeMap<String, Value>,
}

impl Roster {
    /// After everything that was read over one connection.
    pub fn of(frames: &[Value]) -> Self {
        let mut roster = Self::default();
        for frame in frames.iter().filter(|frame| frame["type"] == "presence") {
            let lists: &[&str] = match frame["event"].as_str() {
                Some("roster") => &["agents"],
                Some("delta") => &["joined", "changed", "left"],
                Some("joined" | "left" | "state_changed") => {
                    roster.note(frame);
                    continue;
                }
                _ => continue,
            };
            lists.iter().filter_map(|list| frame[*list].as_array()).flatten().for_each(|entry| roster.note(entry));
        }
        roster
    }

    fn note(&mut self, entry: &Value) {
        self.agents.insert(entry["agent_id"].as_str().unwrap_or_default().to_owned(), entry.clone());
    }

    /// What is known of each agent, by name.
    pub fn known(&self) -> Vec<Value> {
        let mut known: Vec<Value> = self
            .agents
            .values()
            .map(|agent| FIELDS.iter().map(|field| (*field, agent[*field].clone())).collect())
            .collect();
        known.sort_by_key(|agent: &Value| agent["name"].to_string());
        known
    }

    /// Whether this is what the rows of its fleet say. Those who left long ago need not be known.
    ///
    /// # Errors
    /// It differs: of whom.
    pub fn check<'a>(&self, rows: impl Iterator<Item = &'a Agent>) -> Result<()> {
        let mut strangers = self.agents.clone();
        for agent in rows {
            let truth = agent.entry();
            let Some(told) = strangers.remove(&agent.id.to_string()) else {
                ensure!(agent.session.is_none(), "nothing was told of {truth}");
                continue;
            };
            for field in FIELDS {
                ensure!(told[field] == truth[field], "the last that was told is {told}, the row says {truth}");
            }
        }
        let stranger = strangers.values().next();
        ensure!(stranger.is_none(), "there is no such agent: {stranger:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
