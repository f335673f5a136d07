//! What the house asks of the world: narrow, object-safe traits whose doc comments are promises.
//! Every promise is a function of the contract suites; no vendor type may appear here.

pub mod blobs;
pub mod clock;
#[cfg(feature = "contract")]
pub mod contract;
pub mod followers;
pub mod live;
pub mod log;
pub mod memory;
pub mod names;
#[cfg(feature = "points")]
pub mod points;
pub mod reads;

use std::sync::Arc;

use ringforge_domain::position::Offset;

/// What can go wrong behind a port.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// It may work later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Somebody else was first.
    #[error("conflict: {0}")]
    Conflict(String),
    /// What is stored is damaged.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// More than the bound.
    #[error("too large: {0}")]
    TooLarge(String),
    /// It has been shut down.
    #[error("closed")]
    Closed,
    /// What was asked for is no longer kept.
    #[error("gone, oldest kept is {}", oldest.0)]
    Gone {
        /// The first offset still there.
        oldest: Offset,
    },
}

/// What every role is given: the ports, and nothing else of the world.
#[derive(Clone)]
pub struct Services {
    /// The truth.
    pub log: Arc<dyn log::Log>,
    /// What was made of it.
    pub reads: Arc<dyn reads::Reads>,
    /// The fast path.
    pub live: Arc<dyn live::Live>,
    /// What is too large for the log.
    pub blobs: Arc<dyn blobs::Blobs>,
    /// The time.
    pub clock: Arc<dyn clock::Clock>,
    /// New ids and secrets.
    pub ids: Arc<dyn clock::Ids>,
}
