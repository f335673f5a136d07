//! Who asks, and what every question needs.

use std::{collections::BTreeSet, sync::Arc};

use ringforge_domain::{
    code::{Code, Refusal},
    frame::Encoder,
    ids::AgentId,
    limits::{PAGE_DEFAULT, PAGE_MAX},
    planted::{Bug, planted},
    position::{Offset, Partition},
    presence::Name,
    row::{RowKey, State},
};
use ringforge_ports::{Error, Services, reads::Applied};
use tracing::warn;

/// Who asks, and how its fleet's frames are written.
#[derive(Clone)]
pub struct Asker {
    /// The agent.
    pub agent: AgentId,
    /// Its fleet.
    pub encoder: Arc<Encoder>,
    /// The newest event that it may know of.
    pub known: Option<Offset>,
}

impl Asker {
    /// Where its fleet's events are.
    pub fn partition(&self) -> Partition {
        self.encoder.stream.partition
    }

    /// Takes what read models say that stand at `applied`, unless they are behind what is known: a server that crashed may have
    /// lost its last commits, and the log fills them in again.
    pub(crate) fn takes(&self, applied: Applied) -> Result<(), Refusal> {
        if self.known.is_some_and(|known| known >= applied.upto) && !planted(Bug::StaleReads) {
            return Err(Refusal::because(Code::Unavailable, "The read models are behind.").after_ms(1_000));
        }
        Ok(())
    }

    /// The place that a cursor names, in this life of the log.
    pub(crate) fn place(&self, cursor: &str) -> Result<Offset, Refusal> {
        let Encoder { seal, scope, stream, generation } = &*self.encoder;
        let opened = seal.open(scope, *stream, cursor).filter(|opened| opened.generation == *generation);
        opened.map(|opened| opened.offset).ok_or_else(bad_cursor)
    }
}

/// The refusal for a port that is away.
pub fn unavailable(error: &Error) -> Refusal {
    warn!(%error, "a question could not be answered");
    Refusal::new(Code::Unavailable).after_ms(1_000)
}

/// Items a page, within the bound.
pub(crate) fn page_limit(limit: Option<u32>) -> u32 {
    limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX)
}

/// The agent that an id or name means, if there is one.
pub(crate) async fn agent_id(services: &Services, asker: &Asker, id_or_name: &str) -> Result<Option<AgentId>, Refusal> {
    let scope = asker.encoder.scope;
    let mut keys = BTreeSet::from([RowKey::name(scope, id_or_name)]);
    let by_id: Option<AgentId> = id_or_name.parse().ok();
    keys.extend(by_id.map(|id| RowKey::agent(scope, id)));
    let found = services.reads.load(asker.partition(), &keys).await.map_err(|error| unavailable(&error))?;
    asker.takes(found.applied)?;
    let exists = |id: &AgentId| found.rows.iter().any(|row| row.key() == RowKey::agent(scope, *id));
    let by_name = found.rows.iter().find_map(Name::of).map(|name| name.agent);
    Ok(by_id.filter(exists).or(by_name))
}

/// A cursor we did not make.
pub(crate) fn bad_cursor() -> Refusal {
    Refusal::invalid("cursor", "`cursor` is not one of ours.")
        .fix("Use `next_cursor` of the last page as it was given.")
}
