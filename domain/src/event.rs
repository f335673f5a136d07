//! A command with its header and its place in the log: what the fold reads.

use crate::catalog::Command;
pub use crate::header::{At, Header};

/// A command with its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Place and header.
    pub at: At,
    /// What was asked.
    pub command: Command,
}
