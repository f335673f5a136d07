//! The pure heart: types, the catalogue of kinds, and the fold. No I/O, clock, randomness or unordered maps.

pub mod act;
pub mod activity;
pub mod answer;
pub mod auth;
mod base62;
pub mod buggify;
pub mod catalog;
pub mod close;
pub mod code;
pub mod cursor;
pub mod direct;
pub mod door;
pub mod event;
pub mod fleet;
pub mod fold;
pub mod frame;
pub mod glob;
#[cfg(any(test, feature = "world"))]
pub mod golden;
pub mod header;
pub mod history;
pub mod ids;
pub mod interest;
pub mod json;
pub mod limits;
pub mod memory;
pub mod planted;
pub mod position;
pub mod presence;
pub mod projector;
pub mod replay;
pub mod row;
pub mod schema;
pub mod tenant;
pub mod verdict;
#[cfg(any(test, feature = "world"))]
pub mod world;
