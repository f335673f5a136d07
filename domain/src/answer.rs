//! The remembered answers to idempotency keys, and forgetting them when their time has passed.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

pub use crate::row::answer::Answer;
use crate::{
    act::{Act, Applied},
    code::Refusal,
    frame::Shown,
    header::{At, Header},
    ids::AgentId,
    limits::Limits,
    row::{Needs, RowKey, Rows},
};

/// An agent's idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Asked {
    /// The agent.
    pub agent: AgentId,
    /// Its key.
    pub key: String,
}

/// `answer.forget`: the time of these answers has passed. Many in one, so that forgetting costs the log little.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Forget {
    /// What was asked.
    pub asked: Vec<Asked>,
}

impl Act for Forget {
    type Effect = ();

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        for asked in &self.asked {
            needs.row(RowKey::answer(at.scope(), asked.agent, &asked.key));
        }
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        let mut applied = Applied::new(());
        for asked in &self.asked {
            let key = RowKey::answer(at.scope(), asked.agent, &asked.key);
            // The key may have been used again since: what is remembered now counts.
            if rows.get::<Answer>(&key).is_some_and(|answer| !answer.counts(at.time)) {
                applied = applied.without(key);
            }
        }
        Ok(applied)
    }

    fn show(&self, _: &At, (): &()) -> Shown {
        Shown::default()
    }
}
