//! Where the log is kept.

pub mod embedded;
mod tail;
