//! The read models on something that keeps them.

mod batch;
mod sql;
pub mod sqlite;
mod terms;
mod turns;
