//! Questions, answered from rows and from the log. Never logged, the same for every door.

pub mod answer;
pub mod asker;
pub mod freshness;
pub mod history;
pub mod http;
pub mod memory;
pub mod roster;

pub use answer::answer;
pub use asker::{Asker, unavailable};
pub use freshness::Freshness;
pub use roster::Rosters;
