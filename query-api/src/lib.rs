//! Questions, answered from rows and from the log. Never logged, the same for every door.

pub mod answer;
pub mod asker;
pub mod history;
pub mod memory;
pub mod roster;

pub use answer::answer;
pub use asker::{Asker, unavailable};
pub use roster::Rosters;
