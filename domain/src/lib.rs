//! The pure heart: types, the catalogue of kinds, and the fold. No I/O, clock, randomness or unordered maps.

pub mod ids;
pub mod json;
pub mod limits;
pub mod position;
