//! One function for every query of the catalogue but replay, which is a stream (`history.rs`).

use ringforge_domain::{
    catalog::Query,
    code::{Code, Refusal},
    frame::Frame,
};
use ringforge_ports::Services;
use serde_json::json;

use crate::{
    asker::Asker,
    freshness::Freshness,
    memory,
    roster::{self, Rosters},
};

/// Answers a query with one frame, which says so where it may be old.
///
/// # Errors
/// `not_found`, `invalid_message` (a forged cursor), `unavailable`.
pub async fn answer(
    services: &Services,
    rosters: &Rosters,
    freshness: &Freshness,
    asker: &Asker,
    query: &Query,
) -> Result<Frame, Refusal> {
    let frame = found(services, rosters, asker, query).await?;
    let is_stale = freshness.is_stale(services, asker.partition()).await;
    Ok(if is_stale { frame.also(&json!({ "stale": true })) } else { frame })
}

async fn found(services: &Services, rosters: &Rosters, asker: &Asker, query: &Query) -> Result<Frame, Refusal> {
    match query {
        Query::PresenceRoster(query) => roster::roster(services, rosters, asker, query).await,
        Query::MemoryGet(query) => memory::get(services, asker, query).await,
        Query::MemoryQuery(query) => memory::search(services, asker, query).await,
        Query::MemoryList(query) => memory::list(services, asker, query).await,
        Query::MemoryHistory(query) => memory::history(services, asker, query).await,
        Query::ReplayRequest(_) => Err(Refusal::because(Code::InvalidMessage, "A replay is answered with a stream.")),
    }
}
