//! The edge: sockets, sessions, fan-out, replay. Its heart (`session`, `hub`, `fanout`, `presence`) does no I/O.

pub mod catchup;
pub mod connection;
pub mod edge;
pub mod fanout;
pub mod feed;
pub mod hub;
pub mod line;
pub mod outbox;
pub mod presence;
pub mod session;
pub mod socket;
#[cfg(test)]
mod stage;
