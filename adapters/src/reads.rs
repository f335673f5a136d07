//! The read models on something that keeps them.

mod batch;
#[cfg(feature = "cluster")]
pub mod postgres;
mod sql;
pub mod sqlite;
mod terms;
mod turns;
mod walk;
