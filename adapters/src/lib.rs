//! The only crate with vendor clients: every port of `ringforge-ports` on something that keeps, carries or finds.

pub mod blobs;
mod checkpoints;
mod damage;
pub mod live;
pub mod log;
pub mod reads;
