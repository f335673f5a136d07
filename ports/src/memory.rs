//! Every port in memory, for tests and the simulation: same promises, nothing outlives the process.

pub mod blobs;
pub mod live;
pub mod log;
pub mod reads;
