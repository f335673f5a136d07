//! Where the log is kept.

pub mod embedded;
#[cfg(feature = "cluster")]
pub mod kafka;
mod tail;

use ringforge_ports::Error;

/// Called once, by the thread that met it, when the log can no longer vouch for what it writes. The process must not go on.
pub type OnFatal = Box<dyn FnOnce(&Error) + Send>;
