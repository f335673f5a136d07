//! The server as a library, for its own command line and for programs that test its parts.

pub mod bootstrap;
pub mod config;
pub mod dlq;
mod fatal;
mod faults;
pub mod r#gen;
pub mod http;
pub mod lifecycle;
pub mod log;
pub mod options;
mod projecting;
mod ready;
pub mod rebuild;
pub mod role;
pub mod secrets;
mod stores;
mod telemetry;
#[cfg(feature = "cluster")]
pub mod topics;
#[cfg(not(feature = "cluster"))]
#[path = "topics/alone.rs"]
pub mod topics;
