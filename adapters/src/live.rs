//! The live bus on something that carries it.

pub mod local;
