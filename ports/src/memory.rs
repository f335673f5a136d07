//! Every port in memory, for tests and the simulation: same promises, nothing outlives the process.

use std::sync::Arc;

use ringforge_domain::position::Generation;

use crate::{
    Services,
    clock::{Clock, SeededIds},
};

pub mod blobs;
pub mod live;
pub mod log;
pub mod reads;

/// All of them, empty, with a directory and one partition.
pub fn in_memory(clock: Arc<dyn Clock>) -> Services {
    Services {
        log: log::MemoryLog::new(Arc::clone(&clock), 2, Generation(1)),
        reads: Arc::new(reads::MemoryReads::new()),
        live: live::MemoryLive::new(Arc::clone(&clock)),
        blobs: blobs::MemoryBlobs::new(),
        clock,
        ids: SeededIds::new(1),
    }
}
