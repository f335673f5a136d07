//! What can happen, for every harness: who the agents are, what they ask and what goes wrong. The simulation, the fuzzers
//! and the torture of the real binary draw from here and nowhere else.

pub mod clients;
pub mod commands;
pub mod faults;
