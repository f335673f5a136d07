//! The live bus on something that carries it.

pub mod local;
#[cfg(feature = "cluster")]
pub mod redis;
