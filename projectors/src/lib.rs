//! Stop 4: events become verdicts and rows, in one transaction; and what is due becomes a command.

pub mod checkpoint;
pub mod run;
pub mod timers;

pub use run::{Projector, Stepped};
pub use timers::Timers;
