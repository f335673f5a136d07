//! The only crate with vendor clients: every port of `ringforge-ports` on something that keeps, carries or finds.

// Tests of this crate share what others' use.
#[cfg(all(test, feature = "cluster"))]
extern crate self as ringforge_adapters;

pub mod blobs;
mod checkpoints;
mod damage;
pub mod live;
pub mod log;
mod percent;
pub mod reads;
