//! The gate: everything a command passes before it is in the log. It never guesses an outcome.

pub mod auth;
pub mod http;
pub mod key;
mod progress;
pub mod submit;

pub use auth::{Authenticator, Entrance};
pub use submit::{Asked, Caller, Gate, GateConfig};
